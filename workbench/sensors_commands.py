"""`overcut sensors`: which sensors there are, whose, and where."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.table import Table

from lambdas.sensors.stores import Sensor
from overcut import OvercutError, RefusedError
from stacks.stage import Stage, read_stage
from workbench.system import SensorsSystem

COLUMNS = ("sensor_id", "name", "customer", "site", "kind")


class SensorsFileError(RefusedError):
    """A list of sensors cannot be used; its text says where and why."""


class _Group(click.Group):
    """Turns what goes wrong into one sentence."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (OvercutError, BotoCoreError, ClientError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
@click.option("--stage", default="dev", show_default=True, help="Which deployment; its name, or its file.")
@click.pass_context
def sensors(context: click.Context, stage: str) -> None:
    """List sensors, and say what equipment they sit on."""
    context.obj = read_stage(stage)


@sensors.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_sensors(stage: Stage, as_json: bool) -> None:
    """Show every sensor; those without a site are unassigned and alert the default contact."""
    found = sorted(SensorsSystem.deployed(stage.name).sensors.all(), key=lambda sensor: sensor.sensor_id)
    if as_json:
        click.echo(json.dumps([asdict(sensor) for sensor in found], indent=2))
        return
    table = Table("sensor", "name", "customer", "site", "kind", "source", "measures")
    for sensor in found:
        measures = ", ".join(f"{measure} ({unit})" if unit else measure for measure, unit in sensor.measures.items())
        site = sensor.site or "unassigned"
        table.add_row(sensor.sensor_id, sensor.name, sensor.customer, site, sensor.kind, sensor.source_id, measures)
    Console().print(table)


@sensors.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def import_sensors(stage: Stage, file: Path) -> None:
    """Take names, customers, sites and kinds from a CSV with the columns sensor_id,name,customer,site,kind."""
    system, changes = SensorsSystem.deployed(stage.name), list(_read_changes(file))
    system.sensors.put(
        (_changed(system.sensors.get(change["sensor_id"]), change) for change in changes), stage.sensors.export_buckets
    )
    click.echo(f"{len(changes)} sensors imported.")


@sensors.command("set")
@click.argument("sensor_id")
@click.option("--name", help="What people call the equipment.")
@click.option("--customer", help="Whose it is.")
@click.option("--site", help="Where it is.")
@click.option("--kind", help="Sensors of one kind share a forest.")
@click.pass_obj
def set_sensor(
    stage: Stage, sensor_id: str, name: str | None, customer: str | None, site: str | None, kind: str | None
) -> None:
    """Change what is known of one sensor."""
    given = {"name": name, "customer": customer, "site": site, "kind": kind}
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        raise click.UsageError("say what to change: --name, --customer, --site or --kind")
    system = SensorsSystem.deployed(stage.name)
    system.sensors.put([_changed(system.sensors.get(sensor_id), changes)], stage.sensors.export_buckets)
    click.echo(f"{sensor_id}: {', '.join(f'{key} is {value}' for key, value in changes.items())}.")


def _changed(sensor: Sensor, changes: Mapping[str, Any]) -> Sensor:
    return replace(sensor, **changes)


def _read_changes(file: Path) -> Iterator[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = csv.DictReader(opened)
            columns = rows.fieldnames or []
            unknown = [column for column in columns if column not in COLUMNS]
            if "sensor_id" not in columns or unknown:
                problem = f"has the column {unknown[0]!r}" if unknown else "has no column sensor_id"
                raise SensorsFileError(f"{file} {problem}; it may have {', '.join(COLUMNS)}")
            for number, row in enumerate(rows, start=2):
                if not row["sensor_id"] or None in row:
                    raise SensorsFileError(f"{file}, line {number}: no sensor_id, or more cells than columns")
                yield {key: value for key, value in row.items() if value}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SensorsFileError(f"{file} cannot be read as CSV: {error}") from None
