"""`overcut demo`: see it work, on simulated data or your own."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from overcut import OvercutError
from workbench.cloud.deploy import DeployError
from workbench.cloud.processes import CHECKOUT
from workbench.cloud.state import CloudError
from workbench.demonstration.etl_jobs import EtlJobsPart
from workbench.demonstration.house import Part, play
from workbench.demonstration.script import Script, recorded_script, simulated_script
from workbench.demonstration.sensors import SensorsPart

PIPELINES = ("sensors", "etl-jobs")


@click.command()
@click.argument("pipeline", required=False, type=click.Choice(PIPELINES))
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
    pipeline: str | None,
    readings_file: Path | None,
    measures: Sequence[str],
    train_until: str | None,
    speed: float | None,
    state: Path,
) -> None:
    """Deploy to an embedded AWS and see faults told.

    Without a PIPELINE, every one is shown; with --readings, the sensors pipeline alone. Every option but --state is
    for the sensors pipeline.
    """
    if readings_file is None and (measures or train_until):
        raise click.UsageError("--measure and --train-until are about a readings file: name it with --readings")
    shown = _shown(pipeline, readings=readings_file is not None, speed=speed is not None)
    console = Console()
    console.print(f"Demonstrating {' and '.join(shown)}; files are in {state}", soft_wrap=True)
    try:
        parts: list[Part] = []
        if "sensors" in shown:
            parts.append(SensorsPart(_script(readings_file, measures, train_until, speed)))
        if "etl-jobs" in shown:
            parts.append(EtlJobsPart())
        play(parts, state.resolve(), console)
    except (OvercutError, CloudError, DeployError) as error:
        raise click.ClickException(str(error)) from error


def _shown(pipeline: str | None, *, readings: bool, speed: bool) -> Sequence[str]:
    """The pipelines to show: the one that was named, else the one that the options are for, else all."""
    if pipeline not in {None, "sensors"} and (readings or speed):
        raise click.UsageError("--readings and --speed are for the sensors pipeline: overcut demo sensors")
    if pipeline is not None:
        return (pipeline,)
    return ("sensors",) if readings else PIPELINES


def _script(
    readings_file: Path | None, measures: Sequence[str], train_until: str | None, speed: float | None
) -> Script:
    if readings_file is None:
        return simulated_script(speed)
    script = recorded_script(readings_file, measures=measures, train_until=train_until, speed=speed)
    for remark in script.remarks:
        click.echo(remark)
    return script
