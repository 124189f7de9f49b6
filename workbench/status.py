"""`overcut status`: how a stage's deployed pipelines are, on one screen, and what needs somebody."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from lambdas.runtime.clock import clock_from
from lambdas.sensors.stores import FAILED_BATCHES_PREFIX, Sensor
from overcut.sensors.alerts import held_back
from overcut.sensors.incidents import SILENCES, Incident, IncidentState, TextState
from overcut.sensors.readings import format_time, parse_time
from stacks.stage import EtlJobsStage, SensorsStage, Stage
from workbench.aws_commands import AwsCommand, of_stage, typed
from workbench.cutoffs_commands import held_versions
from workbench.deployed import DeployedPipeline
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.parked import parked_events
from workbench.sensors_system import SensorsSystem
from workbench.shown import shown

READING_THREADS = 16
# one source's poll may fail now and then: the next minute is the retry
POLL_FAILURES = 3
BAD_ENDS = {"FAILED": "failed", "TIMED_OUT": "took too long and was stopped", "ABORTED": "was stopped"}


@dataclass
class Status:
    """How one pipeline is.

    Attributes:
        facts: by what they are of; JSON takes them as they are.
        attention: what needs somebody, a sentence each, with where to look.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    attention: list[str] = field(default_factory=list)


def sensors_status(system: SensorsSystem, stage: SensorsStage, now: datetime) -> Status:
    """How the sensors pipeline is; reads the Sensors table, and a cutoff a sensor."""
    status = Status()
    status.facts["sources"] = _sources(system, stage, status.attention)
    incidents = list(system.incidents.needing_attention())
    open_ones = [one for one in incidents if one.state is IncidentState.OPEN]
    silent = {one.equipment.sensor_id for one in open_ones if one.kind in SILENCES}
    status.facts["sensors"] = _sensors(system, silent, now)
    status.facts["open_incidents"] = _open_incidents(open_ones)
    if open_ones:
        look = typed("incidents list --open", stage.reference)
        status.attention.append(f"{_counted(len(open_ones), 'incident')} open: {look}")
    owed = sum(t.state in (TextState.OWED, TextState.SENDING) for one in incidents for t in one.texts.values())
    held = sum(len(texts) for texts in held_back(incidents).values())
    status.facts["texts"] = {"owed": owed, "held": held}
    if held:
        look = typed("incidents held", stage.reference)
        status.attention.append(f"{_counted(held, 'text')} held back for the next digest: {look}")
    status.facts["last_export"] = _execution(
        system, "ExportWorkflow", "export", status.attention, "the next hour's takes what it left"
    )
    status.facts["last_training"] = _execution(
        system, "TrainingWorkflow", "training", status.attention, f"{typed('train', stage.reference)} tries again"
    )
    status.facts["held_versions"] = held_versions(system)
    for version in status.facts["held_versions"]:
        look = typed("cutoffs held", stage.reference)
        status.attention.append(f"training held a version of {version['model_id']} ({version['reason']}): {look}")
    status.facts["parked"] = {
        "records": system.parked_records(),
        "batches": system.bucket.count(FAILED_BATCHES_PREFIX),
        "events": parked_events(system.bucket),
    }
    _look_at_parked(status, stage)
    _look_at_alarms(status, system, stage)
    return status


def etl_jobs_status(system: EtlJobsSystem, stage: EtlJobsStage) -> Status:
    """How the ETL pipeline is."""
    status = Status()
    for name, mode in (("last_extraction_of_history", "historical"), ("last_extraction_of_recent_runs", "recent")):
        counts = system.extracted(mode)  # type: ignore[arg-type]
        status.facts[name] = {key: counts.get(key) for key in ("until", "newest_recorded_at")} if counts else None
    again = f"{typed('train --pipeline etl-jobs', stage.reference)} tries again"
    status.facts["last_training"] = _execution(system, "TrainingWorkflow", "training", status.attention, again)
    status.facts["last_decision"] = _last_decision(system)
    decision = status.facts["last_decision"]
    if decision and decision["decision"] != "promoted":
        status.attention.append(f"the last training's model is held: {decision['reason']}")
    status.facts["last_prediction"] = _execution(
        system, "PredictionWorkflow", "prediction", status.attention, "the next one takes what it left"
    )
    open_ones = sorted(system.tickets.open_heads(), key=lambda head: head.opened_at)
    status.facts["open_tickets"] = {
        "number": len(open_ones),
        "by_kind": dict(Counter(str(head.kind) for head in open_ones)),
        "oldest": format_time(open_ones[0].opened_at) if open_ones else None,
    }
    if open_ones:
        look = typed("tickets list", stage.reference)
        status.attention.append(f"{_counted(len(open_ones), 'ticket')} open: {look}")
    status.facts["owed_entries"] = sum(len(entries) for entries in system.tickets.owed().values())
    status.facts["parked"] = {"tickets": sum(1 for _ in system.tickets.parked())}
    _look_at_parked(status, stage)
    _look_at_alarms(status, system, stage)
    return status


def _sources(system: SensorsSystem, stage: SensorsStage, attention: list[str]) -> list[dict[str, Any]]:
    found = []
    for source_id in sorted(stage.sensors.sources):
        source = system.sources.get(source_id)
        found.append(
            {
                "source_id": source_id,
                "last_success_at": source.last_success_at or None,
                "failures_in_a_row": source.failures_in_a_row,
                "last_error": source.last_error or None,
            }
        )
        if source.failures_in_a_row >= POLL_FAILURES:
            attention.append(f"source {source_id} {source.last_error} ({source.failures_in_a_row} polls in a row)")
        elif not source.last_success_at:
            told = source.last_error or "no event was read from it yet"
            attention.append(f"source {source_id} was never read: {told}")
    return found


def _sensors(system: SensorsSystem, silent: set[str], now: datetime) -> dict[str, int]:
    """How many there are, and how many of them are judged, learn and are silent."""
    known = list(system.sensors.all())

    def is_judged(sensor: Sensor) -> bool:
        newest = system.cutoffs.newest(sensor.sensor_id, 2)
        in_force = max((one for one in newest if one.effective_from <= now), key=lambda c: c.trained_at, default=None)
        return in_force is not None and bool(in_force.ranges)

    with ThreadPoolExecutor(READING_THREADS) as threads:
        judged = sum(threads.map(is_judged, known))
    return {
        "known": len(known),
        "judged": judged,
        "learning": len(known) - judged,
        "silent": len(silent & {sensor.sensor_id for sensor in known}),
    }


def _open_incidents(found: Sequence[Incident]) -> dict[str, Any]:
    return {
        "number": len(found),
        "by_kind": dict(Counter(one.kind for one in found)),
        "oldest": format_time(min(one.opened_at for one in found)) if found else None,
    }


def _execution(
    system: DeployedPipeline, output: str, what: str, attention: list[str], again: str
) -> dict[str, Any] | None:
    """The last run of a workflow.

    Args:
        again: what makes up for one that failed.
    """
    last = system.last_execution(output)
    if last is None:
        return None
    if last.status in BAD_ENDS:
        name = last.arn.rpartition(":")[2]
        why = system.cause_of(last) or f"Step Functions shows where, under the name {name}"
        attention.append(f"the last {what} {BAD_ENDS[last.status]}, {_minute(format_time(last.at))}: {why}; {again}")
    return {"status": last.status, "at": format_time(last.at), "execution_arn": last.arn}


def _last_decision(system: EtlJobsSystem) -> dict[str, str] | None:
    last = system.last_execution("TrainingWorkflow")
    job = system.output_of(last).get("training_job", {}).get("TrainingJobName") if last else None
    if not job:
        return None
    decision = system.decision(job)
    return {"decision": decision["decision"], "reason": decision.get("reason", "")}


def _look_at_parked(status: Status, stage: Stage) -> None:
    if told := _parked(status.facts["parked"]):
        status.attention.append(f"parked: {told}: {typed('parked list', stage.reference)}")


def _look_at_alarms(status: Status, system: DeployedPipeline, stage: Stage) -> None:
    ringing = system.ringing_alarms(stage.name)
    status.facts["alarms"] = [one._asdict() for one in ringing]
    status.attention += [f"alarm {one.name}: {one.description}" for one in ringing]


def _counted(number: int, what: str) -> str:
    return f"1 {what} is" if number == 1 else f"{number} {what}s are"


def look(stage: Stage) -> dict[str, Status]:
    """How each pipeline of a stage is, by its table's name in the stage file.

    Raises:
        NotDeployedError: one of them is not there.
    """
    found = {}
    if stage.sensors:
        one = stage.with_sensors()
        found["sensors"] = sensors_status(SensorsSystem.deployed(one), one, clock_from(stage.clock).now())
    if stage.etl_jobs:
        other = stage.with_etl_jobs()
        found["etl_jobs"] = etl_jobs_status(EtlJobsSystem.deployed(other), other)
    return found


@click.command(cls=AwsCommand)
@of_stage
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(stage: Stage, as_json: bool) -> None:
    """Show on one screen how a deployment is.

    Ends with 1 when something needs somebody.
    """
    found = look(stage)
    if as_json:
        told = {name: {**one.facts, "attention": one.attention} for name, one in found.items()}
        click.echo(json.dumps(told, indent=2))
    else:
        for name, one in found.items():
            _show(name, one, Console())
    if any(one.attention for one in found.values()):
        sys.exit(1)


def _show(pipeline: str, status: Status, console: Console) -> None:
    table = Table(show_header=False, title=pipeline.replace("_", " "), title_justify="left")
    for name, value in status.facts.items():
        table.add_row(name.replace("_", " "), "\n".join(map(shown, _told(name, value))))
    console.print(table)
    for what in status.attention:
        console.print(f"[bold]![/bold] {shown(what)}", soft_wrap=True)
    if not status.attention:
        console.print(f"Nothing of {pipeline.replace('_', ' ')} needs you.")


def _told(name: str, value: Any) -> list[str]:
    """A fact in lines for people."""
    if value is None or value == []:
        return ["none"]
    match name:
        case "sources":
            return [_source(one) for one in value]
        case "sensors":
            return [
                f"{value['known']}: {value['judged']} judged, {value['learning']} learning, {value['silent']} silent"
            ]
        case "open_incidents" | "open_tickets":
            return [_open(value)]
        case "texts":
            return [f"{value['owed']} not sent yet, {value['held']} held back"]
        case "held_versions":
            return [f"{one['model_id']}: {one['reason']}" for one in value]
        case "parked":
            return [_parked(value) or "nothing"]
        case "alarms":
            return [one["description"] or one["name"] for one in value]
        case "last_decision":
            return [f"{value['decision']}: {value['reason']}" if value["reason"] else value["decision"]]
        case "last_extraction_of_history" | "last_extraction_of_recent_runs":
            newest = value["newest_recorded_at"]
            return [f"up to {_minute(value['until'])}" + (f", newest record {_minute(newest)}" if newest else "")]
        case "last_export" | "last_training" | "last_prediction":
            ends = {"SUCCEEDED": "succeeded", "RUNNING": "runs since", **BAD_ENDS}
            return [f"{ends.get(value['status'], value['status'].lower())} {_minute(value['at'])}"]
    return [str(value)]


def _source(one: Mapping[str, Any]) -> str:
    last = one["last_success_at"]
    told = f"{one['source_id']}: {f'last read {_minute(last)}' if last else 'never read'}"
    if one["failures_in_a_row"]:
        told += f"; {one['failures_in_a_row']} polls failed since: {one['last_error']}"
    return told


def _open(value: Mapping[str, Any]) -> str:
    if not value["number"]:
        return "none"
    kinds = ", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in value["by_kind"].items())
    return f"{value['number']}: {kinds}; the oldest since {_minute(value['oldest'])}"


def _parked(number: Mapping[str, int]) -> str:
    """How much of each queue; empty when there is nothing."""
    one = {"records": "record", "batches": "batch", "events": "event", "tickets": "ticket entry"}
    more = {**{name: name for name in one}, "tickets": "ticket entries"}
    return ", ".join(f"{k} {one[name] if k == 1 else more[name]}" for name, k in number.items() if k)


def _minute(moment: str) -> str:
    return f"{parse_time(moment):%Y-%m-%d %H:%M} UTC"
