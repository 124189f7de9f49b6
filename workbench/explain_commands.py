"""`overcut explain`: what made an incident, and whether its score can be computed again from what was kept."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

import click
from botocore.exceptions import ClientError
from rich.console import Console
from rich.table import Table

from overcut import RefusedError
from overcut.plain_text import visible
from overcut.sensors.cutoffs import Cutoff
from overcut.sensors.incidents import Cause, Incident
from overcut.sensors.judging import explain as explain_cause
from overcut.sensors.models import Model, Score, load_model, score_reading
from overcut.sensors.readings import format_time, parse_time
from overcut.sensors.wording import in_words
from stacks.stage import SensorsStage
from workbench.aws_commands import AwsCommand, of_sensors_stage
from workbench.incidents_commands import measured, whose
from workbench.sensors_system import SensorsSystem
from workbench.shown import print_table, shown


class NotExplainedError(RefusedError):
    """What an incident's score was made from is not kept; the text says what is missing."""


@dataclass(frozen=True)
class Explanation:
    """An incident's score, computed again.

    Attributes:
        computed: what the incident would keep if it were opened now, from the same inputs.
        score: with what it was made of.
    """

    incident: Incident
    cutoff: Cutoff
    score: Score
    computed: Cause

    @property
    def is_same(self) -> bool:
        """Whether everything that was kept of it came out again, bit for bit."""
        return self.computed == self.incident.cause

    @property
    def features(self) -> list[dict[str, Any]]:
        """What the channel saw, in the measure's unit; `times_usual` is 1 where the sensor usually gets furthest."""
        ranges = {usual.measure: usual for usual in self.cutoff.ranges}
        return [
            {
                "measure": measure,
                "feature": feature,
                "value": value,
                "usual_low": usually.centre - usually.down,
                "usual_high": usually.centre + usually.up,
                "times_usual": None if value is None else abs(usually.normalised(value)),
            }
            for (measure, feature), value in self.score.values.items()
            for usually in (ranges[measure].features[feature],)
        ]


@click.command(cls=AwsCommand)
@click.argument("reference", metavar="INCIDENT_REF")
@of_sensors_stage
@whose
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(stage: SensorsStage, reference: str, sensor_id: str | None, as_json: bool) -> None:
    """Tell what made an incident, and compute its score again.

    Exits with 1 when the score does not come out as it was kept, bit for bit.
    """
    system = SensorsSystem.deployed(stage)
    found = explained(system, system.incident(reference, sensor_id).incident)
    if as_json:
        click.echo(json.dumps(_as_values(found), indent=2))
    else:
        _print(found)
    if not found.is_same:
        sys.exit(1)


def explained(system: SensorsSystem, incident: Incident) -> Explanation:
    """The incident's score, computed again from the inputs it keeps, its cutoff and its model.

    Raises:
        NotExplainedError: one of them is not kept.
    """
    cause = incident.cause
    if not cause.inputs or not cause.trained_at:
        raise NotExplainedError(
            f"incident {incident.reference} keeps no inputs: it was opened before Overcut kept them; a later one can be"
            " explained"
        )
    cutoff = system.cutoffs.get(incident.equipment.sensor_id, parse_time(cause.trained_at))
    if cutoff is None or not cutoff.ranges:
        raise NotExplainedError(
            f"the cutoff that {incident.equipment.sensor_id} was trained to at {cause.trained_at} is not in the Cutoffs"
            " table any more; restore the table to compute the score again"
        )
    cutoff = cutoff.at(incident.opened_at)
    model = _model(system, cutoff)
    score = score_reading(model, cutoff, cause.inputs)
    computed = explain_cause(cause.inputs, cutoff, model, {cause.measure: cause.unit}, incident.kind)
    if score is None or computed is None:
        raise NotExplainedError(
            f"the inputs that incident {incident.reference} keeps lack a measure of its model; they cannot be scored"
        )
    return Explanation(incident, cutoff, score, computed)


def _model(system: SensorsSystem, cutoff: Cutoff) -> Model:
    try:
        return load_model(system.bucket.get(cutoff.model_key))
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            raise NotExplainedError(
                f"the data bucket has no {cutoff.model_key} any more; restore that object to compute the score again"
            ) from error
        raise


def _as_values(found: Explanation) -> dict[str, Any]:
    cause = asdict(found.incident.cause)
    del cause["inputs"]
    return {
        "reference": found.incident.reference,
        "sensor_id": found.incident.equipment.sensor_id,
        "kind": found.incident.kind,
        "opened_at": format_time(found.incident.opened_at),
        "cause": cause,
        "channel": found.score.channel,
        "features": found.features,
        "computed_anomaly_score": found.computed.anomaly_score,
        "is_same": found.is_same,
    }


def _print(found: Explanation) -> None:
    incident, cause, console = found.incident, found.incident.cause, Console()

    def say(text: str) -> None:
        console.print(visible(text), soft_wrap=True, highlight=False, markup=False)

    name = incident.equipment.name
    say(f"{name}: incident {incident.reference}, opened {format_time(incident.opened_at)} ({incident.kind})")
    say(f"{cause.measure} {in_words(incident.kind, cause)}: {measured(cause)}.")
    unit = f" ({shown(cause.unit)})" if cause.unit else ""
    table = Table("measure", f"feature of the {found.score.channel} channel", f"found{unit}", "usually", "times usual")
    for row in found.features:
        if row["value"] is None:
            table.add_row(shown(row["measure"]), row["feature"], "too few readings", "-", "-")
            continue
        usually = f"{row['usual_low']:.4g} to {row['usual_high']:.4g}"
        found_value, times = f"{row['value']:.4g}", f"{row['times_usual']:.2f}"
        table.add_row(shown(row["measure"]), row["feature"], found_value, usually, times)
    print_table(table, console)
    above = "above" if cause.anomaly_score > cause.score_cutoff else "not above"
    say(f"anomaly score {cause.anomaly_score:.4f}, {above} the cutoff {cause.score_cutoff:.4f}")
    say(f"model {found.cutoff.cohort_id} {cause.model_version}, trained {cause.trained_at}")
    if found.is_same:
        say("Computed again from the kept readings: the same, bit for bit.")
        return
    for part, kept in asdict(cause).items():
        again = getattr(found.computed, part)
        if kept != again:
            say(f"Computed again, {part} differs: kept {kept!r}, now {again!r}")
