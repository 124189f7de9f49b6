"""`overcut demo`: see it work, on simulated readings or your own."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from rich.console import Console

from lambdas.sensors.stores import Sensor
from overcut import OvercutError, RefusedError
from overcut.sensors.readings import parse_time
from stacks.stage import read_stage
from workbench.cloud.deploy import DeployError
from workbench.cloud.processes import CHECKOUT
from workbench.cloud.state import CloudError
from workbench.demonstration.sensors import Demonstration, Script
from workbench.demonstration.stage_file import SOURCE_ID
from workbench.readings_files import read_readings
from workbench.simulate import simulate_unit

SEED = 20
HISTORY_DAYS = 3.0
LIVE_HOURS = 2.0
STARTED_AT = datetime(2026, 3, 2, tzinfo=UTC)
SIMULATED_SPEED = 180.0
# of a file's own readings, the first part is learned from
LEARNED_SHARE = 2 / 3
FASTEST = 240.0
LIVE_SECONDS = 60.0


@click.command()
@click.option(
    "--readings",
    "readings_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A readings file of your own (CSV, may be gzipped); by default one unit is simulated.",
)
@click.option("--measure", "measures", multiple=True, help="Use only this measure of the file; may be repeated.")
@click.option("--train-until", metavar="TIME", help="Learn from what was measured before, e.g. 2021-06-10T11:00:00Z.")
@click.option(
    "--speed", type=click.FloatRange(1, 1000), help="How many times faster than real time to stream the rest."
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=CHECKOUT / ".overcut" / "demo",
    help="Where it keeps its files; demonstrations with different folders run side by side.",
)
def demo(
    readings_file: Path | None,
    measures: Sequence[str],
    train_until: str | None,
    speed: float | None,
    state: Path,
) -> None:
    """Deploy to the embedded cloud, stream readings, and see the fault texted."""
    try:
        script = _simulated(speed) if readings_file is None else _recorded(readings_file, measures, train_until, speed)
        Demonstration(script, state.resolve(), Console()).run()
    except (OvercutError, CloudError, DeployError) as error:
        raise click.ClickException(str(error)) from error


def _simulated(speed: float | None) -> Script:
    readings, _ = simulate_unit(history_days=HISTORY_DAYS, live_hours=LIVE_HOURS, seed=SEED, started_at=STARTED_AT)
    (sensor_id,) = {reading.sensor_id for reading in readings}
    known = Sensor(
        sensor_id,
        SOURCE_ID,
        {"temperature": "C"},
        "Cold room 3",
        customer="Acme Foods",
        site="Plant 1",
        kind="cold room",
    )
    train_until = STARTED_AT + timedelta(days=HISTORY_DAYS)
    return Script(readings, {"temperature": "C"}, train_until, speed or SIMULATED_SPEED, [known])


def _recorded(path: Path, measures: Sequence[str], train_until: str | None, speed: float | None) -> Script:
    found = read_readings(path, measures=measures or None)
    for repair in found.repairs:
        click.echo(f"{path.name}: {repair}")
    first, last = found.readings[0].measured_at, found.readings[-1].measured_at
    until = parse_time(train_until) if train_until else first + (last - first) * LEARNED_SHARE
    if not first < until < last:
        raise RefusedError(f"--train-until must lie between {first:%Y-%m-%dT%H:%M:%SZ} and {last:%Y-%m-%dT%H:%M:%SZ}")
    oldest = until - timedelta(days=read_stage("local").sensors.training_window_days)
    shown = [reading for reading in found.readings if reading.measured_at >= oldest]
    if len(shown) < len(found.readings):
        click.echo(f"{path.name}: readings before {oldest:%Y-%m-%d} are left out; it learns from the last days only")
    fitting = min(FASTEST, max(1.0, (last - until).total_seconds() / LIVE_SECONDS))
    return Script(shown, dict.fromkeys(found.measures, ""), until, speed or fitting)
