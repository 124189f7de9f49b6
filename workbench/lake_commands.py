"""`overcut load-lake`: recorded job runs, as an orchestrator would have left them in the lake."""

from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import boto3
import click
from botocore.exceptions import BotoCoreError, ClientError

from lambdas.runtime.objects import Bucket
from overcut import OvercutError
from overcut.etl_jobs.job_runs import JobRun, Status
from workbench.job_runs_files import read_job_runs
from workbench.lake import Lake, LakeError, LakeFolder, LakePrefix, StateChange, by_day, write_lake


@click.command("load-lake")
@click.argument("runs_file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--into", "place", required=True, metavar="FOLDER|s3://BUCKET/PREFIX", help="The lake, made if need be.")
@click.option("--time-zone", callback=lambda _, __, name: _zone(name), help="Of jobs of which FILE has none.")
def load_lake(runs_file: Path, place: str, time_zone: str | None) -> None:
    """Turn a file of job runs into a data lake.

    FILE is a CSV: job_name,run_id,started_at,run_time_seconds,records_processed,status, and if need be time_zone and
    schedule. A run becomes two records: when it started, and how it ended. Loading the file again writes over the same
    objects, which bear its name.
    """
    try:
        recorded = read_job_runs(runs_file)
        written = write_lake(_lake(place), _lines_by_day(recorded.runs, time_zone), name=_stem(runs_file))
    except (OvercutError, BotoCoreError, ClientError) as error:
        raise click.ClickException(str(error)) from error
    for repair in recorded.repairs:
        click.echo(f"{runs_file}: {repair}")
    click.echo(f"{place}: {len(recorded.runs):,} runs as {written.lines:,} records on {written.days:,} days")


def state_changes(run: JobRun, time_zone: str | None) -> Iterator[StateChange]:
    """That `run` started, and that it ended, each recorded when it occurred.

    Args:
        time_zone: of a run that has none of its own.
    """
    ended_at = run.started_at + timedelta(seconds=run.run_time_seconds)
    failed = run.status is Status.FAILED
    time_zone = run.time_zone if run.time_zone != "UTC" else time_zone
    schedule = run.schedule or None
    yield StateChange(
        job_name=run.job_name,
        run_id=run.run_id,
        state="started",
        occurred_at=run.started_at,
        recorded_at=run.started_at,
        schedule=schedule,
        time_zone=time_zone,
    )
    yield StateChange(
        job_name=run.job_name,
        run_id=run.run_id,
        state="failed" if failed else "succeeded",
        occurred_at=ended_at,
        recorded_at=ended_at,
        # a failed run without a figure was read as 0
        records_processed=None if failed and not run.records_processed else run.records_processed,
        schedule=schedule,
        time_zone=time_zone,
    )


def _lines_by_day(runs: Iterable[JobRun], time_zone: str | None) -> Iterator[tuple[date, list[str]]]:
    ordered = sorted(runs, key=lambda run: run.started_at)
    batches = (
        (day, (change for run in started for change in state_changes(run, time_zone)))
        for day, started in groupby(ordered, key=lambda run: run.started_at.date())
    )
    for day, changes in by_day(batches):
        yield day, [change.to_json() for change in changes]


def _lake(place: str) -> Lake:
    if not place.startswith("s3://"):
        return LakeFolder(Path(place))
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    if not bucket:
        raise LakeError(f"{place} names no bucket; write s3://bucket/prefix")
    prefix = prefix.strip("/")
    return LakePrefix(Bucket(boto3.client("s3"), bucket), f"{prefix}/" if prefix else "")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".csv")


def _zone(name: str | None) -> str | None:
    try:
        return name and ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise click.BadParameter(f"{name!r} is no time zone, such as Europe/Berlin") from None
