"""`overcut readings`: one sensor's readings, from the table and from its export as one."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice

import click
from rich.console import Console
from rich.table import Table

from lambdas.runtime.clock import clock_from
from overcut import RefusedError
from overcut.sensors.readings import Reading, format_time, parse_time
from stacks.stage import SensorsStage
from workbench.aws_commands import AwsCommand, of_sensors_stage
from workbench.history import History
from workbench.readings_files import READINGS_KEY
from workbench.sensors_system import SensorsSystem
from workbench.shown import shown

# a terminal's worth
MOST_SHOWN = 200


def _moment(context: click.Context, parameter: click.Parameter, text: str | None) -> datetime | None:
    try:
        return None if text is None else parse_time(text)
    except RefusedError:
        raise click.BadParameter(f"no time with a zone, such as 2026-03-02T00:00:00Z: {text}") from None


@click.command(cls=AwsCommand)
@click.argument("sensor_id", metavar="SENSOR")
@of_sensors_stage
@click.option("--since", required=True, metavar="TIME", callback=_moment, help="The first minute, inclusive.")
@click.option("--until", metavar="TIME", callback=_moment, help="The last minute, inclusive; by default, now.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line a reading.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a readings file.")
def readings(
    stage: SensorsStage, sensor_id: str, since: datetime, until: datetime | None, as_json: bool, as_csv: bool
) -> None:
    """Print a sensor's readings, however old.

    The newest come from the Readings table, those that its time to live has taken from the export in S3: each minute
    once, with no gap between the two.
    """
    if as_json and as_csv:
        raise click.UsageError("--json or --csv, not both")
    until = until or clock_from(stage.clock).now()
    if until < since:
        raise click.UsageError(f"--until {format_time(until)} is before --since {format_time(since)}")
    system = SensorsSystem.deployed(stage)
    history = History(system.readings, system.bucket, stage.sensors.export_buckets)
    found = history.of(sensor_id, since, until)
    if as_json:
        for one in found:
            values = {"sensor_id": one.sensor_id, "measured_at": format_time(one.measured_at), "values": one.values}
            click.echo(json.dumps(values))
    elif as_csv:
        # a reading may lack a measure: which there are is known at the end, and only then is the head
        measures = sorted({measure for one in found for measure in one.values})
        _print_csv(history.of(sensor_id, since, until), measures)
    else:
        _print_table(found, sensor_id, stage.name)


def _print_csv(found: Iterator[Reading], measures: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*READINGS_KEY, *measures])
    for one in found:
        cells = [one.values.get(measure, "") for measure in measures]
        writer.writerow([one.sensor_id, format_time(one.measured_at), *cells])


def _print_table(found: Iterator[Reading], sensor_id: str, stage: str) -> None:
    rows = list(islice(found, MOST_SHOWN + 1))
    if not rows:
        click.echo(f"Sensor {sensor_id} has no reading of that time in stage {stage}.")
        return
    table = Table("measured (UTC)", "values")
    for one in rows[:MOST_SHOWN]:
        values = ", ".join(f"{measure} {value:g}" for measure, value in sorted(one.values.items()))
        table.add_row(f"{one.measured_at:%Y-%m-%d %H:%M:%S}", shown(values))
    Console().print(table)
    if len(rows) > MOST_SHOWN:
        click.echo(f"Only the first {MOST_SHOWN} are shown; --csv and --json print every one.")
