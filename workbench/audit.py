"""`overcut audit`: whether what was sent, stored, exported, decided and texted agree, from the records themselves."""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from lambdas.runtime.clock import clock_from
from lambdas.sensors.stores import KnownIncident
from overcut.sensors.auditing import (
    Audit,
    compare_deliveries,
    compare_incidents,
    compare_readings,
    compare_texts,
    detected,
    first_alert,
    percentile,
    runs_of,
)
from overcut.sensors.features import WINDOW
from overcut.sensors.incidents import SILENCES, IncidentState, RunRule
from overcut.sensors.layout import hour_of
from overcut.sensors.readings import Reading, RefusedReadingError, format_time, parse_time
from stacks.stage import SensorsStage
from training.sensors.window import Measured, read_window
from workbench.aws_commands import AwsCommand, of_sensors_stage
from workbench.readings_files import Label, read_labels, read_readings
from workbench.sensors_system import SensorsSystem
from workbench.shown import shown

# what came later than this may still be on its way: from reading to text, and into the export
SETTLED_AFTER = timedelta(minutes=15)
EXPORTED_AFTER = timedelta(hours=2)


def audit_sensors(
    system: SensorsSystem,
    stage: SensorsStage,
    since: datetime,
    until: datetime,
    *,
    now: datetime,
    sent: Sequence[Reading] = (),
    labels: Sequence[Label] = (),
    delivered: Mapping[str, int] | None = None,
) -> Audit:
    """Compare the records of a deployed pipeline with each other.

    Args:
        since, until: readings measured from one to before the other are looked at.
        now: by the pipeline's clock.
        sent: the device's own record, without it that is not looked at; in any order.
        labels: faults that are known from elsewhere; without them, delays begin with the first anomalous reading.
        delivered: how often each message came to a phone, by its id; None: nobody knows.
    """
    audit, rules = Audit(), stage.sensors
    rule = RunRule(rules.consecutive_minutes, rules.recovery_minutes)
    settled = min(until, now - SETTLED_AFTER)
    by_sensor = defaultdict(list)
    for reading in sent:
        if since <= reading.measured_at < settled:
            by_sensor[reading.sensor_id].append(reading)
    exported_until = min(until, hour_of(now - EXPORTED_AFTER))
    exported = {one.series.sensor_id: one for one in read_window(system.bucket, exported_until, exported_until - since)}
    incidents = _incidents(system, since, until)
    names = sorted({sensor.sensor_id for sensor in system.sensors.all()} | by_sensor.keys() | exported.keys())
    for sensor_id in names:
        before = system.readings.before(sensor_id, since, WINDOW)
        stored = system.readings.between(sensor_id, since, until - timedelta(seconds=1))
        kept = {reading.measured_at: reading.values for reading in stored}
        audit.counts["sensors"] += 1
        audit.counts["readings stored"] += len(stored)
        compare_readings(audit, "readings sent", "readings sent and not stored", by_sensor.pop(sensor_id, []), kept)
        due = [reading for reading in stored if reading.measured_at < exported_until]
        rows = _rows(exported.get(sensor_id))
        compare_readings(audit, "readings due for export", "readings stored and not exported", due, rows)
        cutoffs = system.cutoffs.since(sensor_id, since)
        runs = runs_of([*before, *stored], since, cutoffs, system.model, rule)
        runs = {kind: [run for run in found if run.completed < settled] for kind, found in runs.items()}
        mine = [known.incident for known in incidents[sensor_id] if not known.is_contradicted]
        compare_incidents(audit, sensor_id, runs, [one for one in mine if one.opened_at < settled])
    told = [known.incident for found in incidents.values() for known in found]
    for incident in told:
        compare_texts(audit, incident, rules.texted_kinds, now - SETTLED_AFTER)
    if delivered is not None:
        compare_deliveries(audit, told, delivered)
    _measure_delays(audit, incidents, labels, since, settled)
    return audit


def _incidents(system: SensorsSystem, since: datetime, until: datetime) -> defaultdict[str, list[KnownIncident]]:
    """By sensor, the incidents that touch the time looked at; the silence of a source or a site has no sensor's run."""
    found = defaultdict(list)
    for known in system.incidents.known():
        one = known.incident
        if since <= one.last_anomalous_at and one.first_anomalous_at < until:
            found[one.equipment.sensor_id].append(known)
    return found


def _rows(measured: Measured | None) -> dict[datetime, Mapping[str, float]]:
    """What was exported of a sensor, by time."""
    if measured is None:
        return {}
    rows = zip(measured.series.measured_at.tolist(), measured.series.values.tolist(), strict=True)
    return {
        datetime.fromtimestamp(time, UTC): {
            measure: value for measure, value in zip(measured.measures, values, strict=True) if value == value
        }
        for time, values in rows
    }


def _measure_delays(
    audit: Audit,
    incidents: Mapping[str, Sequence[KnownIncident]],
    labels: Sequence[Label],
    since: datetime,
    until: datetime,
) -> None:
    """From the onset of a fault to the first text about it."""
    if not labels:
        onsets = [
            (known.incident, known.incident.first_anomalous_at)
            for found in incidents.values()
            for known in found
            if known.incident.kind not in SILENCES and known.incident.state is not IncidentState.MISSED
        ]
    else:
        within = [label for label in labels if since <= label.started_at < until]
        audit.counts["faults known"] = len(within)
        onsets = [
            (incident, label.started_at)
            for label in within
            if (
                incident := detected(
                    (known.incident for known in incidents.get(label.sensor_id, [])), label.started_at, label.ended_at
                )
            )
        ]
        audit.counts["faults found"] = len(onsets)
    for incident, onset in onsets:
        if told_at := first_alert(incident):
            audit.delays.append((told_at - onset).total_seconds())


@click.command(cls=AwsCommand)
@of_sensors_stage
@click.option("--since", "since_text", metavar="TIME", help="What was measured from then on.  [default: a day ago]")
@click.option("--until", "until_text", metavar="TIME", help="What was measured before.  [default: now]")
@click.option(
    "--sent",
    "sent_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A readings file with what the devices sent, by their own record.",
)
@click.option(
    "--labels",
    "labels_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A labels file with the faults that there were.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(
    stage: SensorsStage,
    since_text: str | None,
    until_text: str | None,
    sent_file: Path | None,
    labels_file: Path | None,
    as_json: bool,
) -> None:
    """Check that what was sent, stored, exported, decided and texted agree.

    Every reading's minute is judged again from the tables; nothing is changed. Ends with 1 when something is missing.
    It reads what it looks at: a day of 5,000 sensors is 7 million readings.
    """
    now = clock_from(stage.clock).now()
    until = min(_moment(until_text, "--until") if until_text else now, now)
    since = _moment(since_text, "--since") if since_text else until - timedelta(days=1)
    kept = timedelta(days=stage.sensors.retention_days)
    if not now - kept <= since < until:
        raise click.ClickException(
            f"--since must lie before --until, and at most {kept.days} days ago: older readings have left the table"
        )
    found = audit_sensors(
        SensorsSystem.deployed(stage),
        stage,
        since,
        until,
        now=now,
        sent=read_readings(sent_file).readings if sent_file else (),
        labels=read_labels(labels_file) if labels_file else (),
    )
    if as_json:
        click.echo(json.dumps(as_values(found, since, until), indent=2))
    else:
        show(found, Console(), since, until)
    if not found.is_clean:
        sys.exit(1)


def as_values(found: Audit, since: datetime, until: datetime) -> dict[str, object]:
    """An audit as JSON takes it."""
    return {
        "since": format_time(since),
        "until": format_time(until),
        "counts": dict(found.counts),
        "findings": {
            name: {"number": finding.number, "examples": finding.examples} for name, finding in found.findings.items()
        },
        "onset_to_text_seconds": {
            f"p{round(100 * share)}": percentile(found.delays, share) if found.delays else None
            for share in (0.5, 0.99, 1.0)
        },
    }


def show(found: Audit, console: Console, since: datetime, until: datetime) -> None:
    """Print an audit for people."""
    table = Table("looked at", "number", title=f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC")
    for name, number in found.counts.items():
        table.add_row(name, f"{number:,}")
    console.print(table)
    table = Table("what should be 0", "number", "for example")
    for name, finding in found.findings.items():
        table.add_row(name, f"{finding.number:,}", shown(", ".join(finding.examples)))
    console.print(table)
    if found.delays:
        half, most = percentile(found.delays, 0.5), percentile(found.delays, 0.99)
        console.print(
            f"From onset to text: {half / 60:.1f} minutes (median), {most / 60:.1f} (99th percentile),"
            f" of {len(found.delays)} faults",
            soft_wrap=True,
        )


def _moment(text: str, option: str) -> datetime:
    try:
        return parse_time(text)
    except RefusedReadingError:
        raise click.ClickException(f"{option} is no time with a zone, such as 2026-03-02T00:00:00Z: {text}") from None
