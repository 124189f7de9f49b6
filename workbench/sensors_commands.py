"""`overcut sensors`: which sensors there are, whose, and where."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from lambdas.sensors.stores import Sensor
from overcut import RefusedError
from stacks.stage import SensorsStage
from workbench.aws_commands import AwsCommands, of_sensors_stage
from workbench.sensors_system import SensorsSystem
from workbench.shown import print_table, shown

COLUMNS = ("sensor_id", "name", "customer", "site", "kind")


class SensorsFileError(RefusedError):
    """A list of sensors cannot be used; its text says where and why."""


@click.group(cls=AwsCommands)
def sensors() -> None:
    """List sensors, and name their equipment."""


@sensors.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@of_sensors_stage
def list_sensors(stage: SensorsStage, as_json: bool) -> None:
    """Show every sensor.

    Those without a site are unassigned and alert the default contact.
    """
    found = sorted(SensorsSystem.deployed(stage).sensors.all(), key=lambda sensor: sensor.sensor_id)
    if as_json:
        click.echo(json.dumps([asdict(sensor) for sensor in found], indent=2))
        return
    if not found:
        click.echo(
            f"Stage {stage.name} has no sensors yet: one registers itself with its first reading, or import them."
        )
        return
    table = Table("sensor", "name", "customer", "site", "kind", "source", "measures", "state")
    for sensor in found:
        measures = ", ".join(f"{measure} ({unit})" if unit else measure for measure, unit in sensor.measures.items())
        site = sensor.site or "unassigned"
        of_source = (sensor.source_id, measures, _state(sensor))
        known = (sensor.sensor_id, sensor.name, sensor.customer, site, sensor.kind)
        table.add_row(*map(shown, (*known, *of_source)))
    print_table(table)


def _state(sensor: Sensor) -> str:
    """What the last training said of a sensor that is not judged yet."""
    if sensor.learning is None:
        return ""
    if not sensor.learning.until:
        return f"learning, with {sensor.learning.readings} readings: too few ever to be judged"
    return f"learning until {sensor.learning.until}"


@sensors.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@of_sensors_stage
def import_sensors(stage: SensorsStage, file: Path) -> None:
    """Take what is known of sensors from a CSV.

    Its columns are sensor_id,name,customer,site,kind; only the first is needed.
    """
    changes = list(_read_changes(file))
    system = SensorsSystem.deployed(stage)
    system.sensors.put(
        (_changed(system.sensors.get(change["sensor_id"]), change) for change in changes), stage.sensors.export_buckets
    )
    click.echo(f"{len(changes)} {'sensor' if len(changes) == 1 else 'sensors'} imported.")


@sensors.command("set")
@click.argument("sensor_id")
@click.option("--name", help="What people call the equipment.")
@click.option("--customer", help="Whose it is.")
@click.option("--site", help="Where it is.")
@click.option("--kind", help="Sensors of one kind share a forest.")
@of_sensors_stage
def set_sensor(
    stage: SensorsStage, sensor_id: str, name: str | None, customer: str | None, site: str | None, kind: str | None
) -> None:
    """Change what is known of one sensor."""
    given = {"name": name, "customer": customer, "site": site, "kind": kind}
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        raise click.UsageError("say what to change: --name, --customer, --site or --kind")
    system = SensorsSystem.deployed(stage)
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
    except FileNotFoundError:
        raise SensorsFileError(f"{file} does not exist; give the path of a CSV file") from None
    except OSError as error:
        raise SensorsFileError(f"{file} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise SensorsFileError(f"{file} is not a CSV file in UTF-8: {error}") from None
