"""`overcut backtest`: what production would have told people, over recorded and labelled data."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from overcut import OvercutError
from overcut.etl_jobs.backtest import backtest as backtest_job_runs
from workbench.job_runs_files import JobRunsFileError, read_job_runs, read_labels


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
    help="The faulty runs, a CSV: job_name,run_id,kind.",
)
@click.option("--json", "as_json", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here, too.")
def etl_jobs(runs_file: Path, labels_file: Path, as_json: Path | None) -> None:
    """Score what would have been ticketed.

    Walks forward over RUNS, retrained every week on the last 120 days; the first 90 days are learned from and never
    scored. RUNS is a CSV: job_name,run_id,started_at,run_time_seconds,records_processed,status, and time_zone where
    you know it.
    """
    try:
        recorded, labels = read_job_runs(runs_file), read_labels(labels_file)
        if labels and not labels.keys() & {(run.job_name, run.run_id) for run in recorded.runs}:
            raise JobRunsFileError(
                f"none of the labels in {labels_file} is of a run in {runs_file}; give its own labels"
            )
        report = backtest_job_runs(recorded.runs, labels)
    except OvercutError as error:
        raise click.ClickException(str(error)) from error
    for repair in recorded.repairs:
        click.echo(f"{runs_file}: {repair}")
    if as_json:
        as_json.write_text(json.dumps(report, indent=2) + "\n")
    table = Table("figure", "value")
    for name, value in report.items():
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)
