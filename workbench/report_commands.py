"""`overcut report`: what a deployment has seen, as one page."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import click

from lambdas.runtime.clock import clock_from
from stacks.stage import Stage, read_stage
from workbench.aws_commands import AwsCommand, stage_option
from workbench.cloud.processes import CHECKOUT
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.report import report_on_jobs, report_on_sensors
from workbench.report_page import report_page
from workbench.sensors_system import SensorsSystem


def write_report(
    output: Path,
    stage: Stage,
    sensors: SensorsSystem | None,
    jobs: EtlJobsSystem | None,
    since: datetime,
    now: datetime,
) -> None:
    """Write the report of a deployed stage; a pipeline that is None is left out."""
    of_sensors = report_on_sensors(sensors, stage.with_sensors(), since, now) if sensors else None
    of_jobs = report_on_jobs(jobs, since) if jobs else None
    has_own_clock = stage.clock != "system"
    page = report_page(stage.name, since, now, of_sensors, of_jobs, has_own_clock=has_own_clock)
    output.write_text(page, encoding="utf-8")


@click.command(cls=AwsCommand)
@stage_option
@click.option("--demo", is_flag=True, help="Of the last `overcut demo` on this machine.")
@click.option("--days", type=click.IntRange(1, 31), default=7, show_default=True, help="How far to look back.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="Where to write it.",
)
def report(stage: str, demo: bool, days: int, output: Path) -> None:
    """Write what a deployment has seen as one page.

    Incidents with their readings, scores and cutoffs, trainings, drift, who is silent, sources, delays; job runs and
    tickets. The page asks nothing of a network.
    """
    if demo:
        written = CHECKOUT / ".overcut" / "demo" / "report.html"
        if not written.exists():
            raise click.ClickException("there was no demonstration here yet: `overcut demo` makes one, with its report")
        shutil.copyfile(written, output)
    else:
        settings = read_stage(stage)
        now = clock_from(settings.clock).now()
        since = now - timedelta(days=days)
        sensors = SensorsSystem.deployed(settings) if settings.sensors else None
        jobs = EtlJobsSystem.deployed(settings) if settings.etl_jobs else None
        write_report(output, settings, sensors, jobs, since, now)
    click.echo(f"{output}: open it in any browser")
