"""`overcut backtest`: what production would have told people, over recorded and labelled data."""

import csv
import gzip
import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from overcut import OvercutError, RefusedError
from overcut.etl_jobs.backtest import backtest as backtest_job_runs
from overcut.etl_jobs.job_runs import JobRun, parse_job_run


class JobRunsFileError(RefusedError):
    """A file of job runs or labels cannot be used; its text says where and why."""


@click.group()
def backtest() -> None:
    """Replay recorded data through production's own code, and score what it finds."""


@backtest.command("etl-jobs")
@click.argument("runs_file", metavar="RUNS", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--labels",
    "labels_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="CSV: job_name,run_id,kind.",
)
@click.option("--json", "as_json", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here, too.")
def etl_jobs(runs_file: Path, labels_file: Path, as_json: Path | None) -> None:
    """Walk forward over RUNS, retrained every week.

    RUNS is a CSV: job_name,run_id,started_at,run_time_seconds,records_processed,status.
    """
    try:
        runs = _read_runs(runs_file)
        labels = {
            (row["job_name"], row["run_id"]): row["kind"] for _, row in _rows(labels_file, "job_name,run_id,kind")
        }
        report = backtest_job_runs(runs, labels)
    except OvercutError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        as_json.write_text(json.dumps(report, indent=2) + "\n")
    table = Table("figure", "value")
    for name, value in report.items():
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)


def _read_runs(path: Path) -> list[JobRun]:
    runs = []
    for number, row in _rows(path, "job_name,run_id,started_at,run_time_seconds,records_processed,status"):
        try:
            runs.append(parse_job_run(row))
        except RefusedError as error:
            raise JobRunsFileError(f"{path}, line {number}: {error}") from error
    return runs


def _rows(path: Path, columns: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV, gzipped or not, each with its line number."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = [name for name in columns.split(",") if name not in (rows.fieldnames or [])]
            if missing:
                raise JobRunsFileError(f"{path} has no column {missing[0]}; it needs {columns}")
            return list(enumerate(rows, start=2))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise JobRunsFileError(f"{path} cannot be read as CSV: {error}") from error
