"""`overcut backtest`: what production would have told people, over recorded and labelled data."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from overcut import OvercutError
from overcut.etl_jobs.backtest import NEVER_SCORED
from overcut.etl_jobs.backtest import backtest as backtest_job_runs
from overcut.etl_jobs.job_runs import Status
from overcut.sensors.backtest import LEARNING_DAYS, Recording
from overcut.sensors.cohorts import MIN_READINGS
from workbench.backtest_page import backtest_page
from workbench.job_runs_files import JobRunsFileError, read_job_runs, read_labels
from workbench.sensors_backtest import OutputFile, read_recorded, replay_on_all_cores, write_text
from workbench.shown import shown


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
    for figure in _figures_of_jobs(report):
        table.add_row(*map(shown, figure))
    console = Console()
    console.print(table)
    succeeded = sum(run.status is Status.SUCCEEDED for run in recorded.runs)
    judged_from = min(run.started_at for run in recorded.runs) + NEVER_SCORED
    console.print(
        f"{report['runs']:,} of {succeeded:,} runs that succeeded were judged: the first {NEVER_SCORED.days} days, to"
        f" {judged_from:%Y-%m-%d}, are only learned from.",
        soft_wrap=True,
    )


# by the name in JSON, what people read, and the decimals
_OF_JOBS = {
    "runs": ("runs judged", 0),
    "weeks": ("weeks judged", 2),
    "faults": ("faults: labelled runs in a row, of one job and kind", 0),
    "found": ("of them found", 0),
    "recall_by_kind": ("share of faults found", 3),
    "recall_by_run": ("share of labelled runs found", 3),
    "run_recall_by_kind": ("share of labelled runs found", 3),
    "tickets": ("tickets", 0),
    "false_tickets": ("of them false: opened by a run without a label", 0),
    "early_tickets": ("of those early: a labelled run followed in the same ticket", 0),
    "false_tickets_per_week": ("false tickets a week", 3),
    "false_runs": ("runs called unusual that have no label", 0),
    "average_precision": ("average precision: 1 when all labelled runs score above all others", 3),
    "recall_at_one_false_ticket_per_week": ("share of labelled runs found, at one false ticket a week", 3),
    "recall_at_one_false_run_per_week": ("share of labelled runs found, at one false run a week", 3),
}


def _figures_of_jobs(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value, for people."""
    for name, (told, digits) in _OF_JOBS.items():
        of_kinds = report[name].items() if isinstance(report[name], Mapping) else [("", report[name])]
        for kind, value in of_kinds:
            yield f"{told}: {kind}" if kind else told, _told(value, digits)


MOST_HELD, MOST_NAMED = 5, 5
OURS, LABORATORY = "detector", "laboratory's rule"


@backtest.command("sensors")
@click.argument("readings_file", metavar="READINGS", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--labels",
    "labels_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The faults that are known, a CSV: sensor_id,started_at,ended_at,kind.",
)
@click.option("--json", "as_json", type=OutputFile(), help="Write figures and incidents here, too.")
@click.option("--html", "as_html", type=OutputFile(), help="Write pictures of every sensor here.")
@click.option("--config", metavar="STAGE", default="prod", show_default=True, help="Whose settings; a name, or a file.")
@click.option("--train-until", metavar="TIME", help="Train once, then, and count everything after it.")
def sensors(
    readings_file: Path,
    labels_file: Path | None,
    as_json: Path | None,
    as_html: Path | None,
    config: str,
    train_until: str | None,
) -> None:
    """Score the incidents that people would have been told of.

    Walks forward over READINGS, trained by the stage's schedule: nothing sees a later reading. A sensor's first five
    days are learned from and never scored. READINGS is a CSV: sensor_id,measured_at, and a column a measure. The
    laboratory's rule, a reading of its own above the mean and 2.5 standard deviations, is replayed beside.
    """
    try:
        recorded = read_recorded(readings_file, labels_file, config, train_until)
        for repair in recorded.repairs:
            click.echo(f"{readings_file}: {repair}", err=True)
        rules, training = recorded.rules, recorded.rules.training
        laboratory_rules = replace(rules, training=replace(training, detector="laboratory"))
        replays = replay_on_all_cores(recorded, {OURS: rules, LABORATORY: laboratory_rules}, Console(stderr=True))
        recording = Recording(recorded.readings, recorded.faults, counted_from=recorded.counted_from)
        ours, laboratory = (recording.score(replays[name].incidents) for name in (OURS, LABORATORY))
        del laboratory["incidents"]
        if as_json:
            write_text(as_json, json.dumps({**ours, "laboratory": laboratory}, indent=2) + "\n")
        figures = list(_figures(ours, laboratory))
        if as_html:
            found = replays[OURS]
            # without labels nobody knows which are false
            false = recording.false(found.incidents) if labels_file else []
            title = f"Backtest of {readings_file.name} by stage {config}"
            write_text(as_html, backtest_page(title, figures, recorded.readings, found, recorded.faults, false))
    except OvercutError as error:
        raise click.ClickException(str(error)) from error
    table = Table("figure", OURS, LABORATORY)
    for figure in figures:
        table.add_row(*map(shown, figure))
    console = Console()
    console.print(table)
    held = replays[OURS].held
    for version in held[:MOST_HELD]:
        console.print(f"held: {shown(version)}", soft_wrap=True)
    if len(held) > MOST_HELD:
        console.print(
            f"{len(held) - MOST_HELD} more versions were held; readings went on being judged by the last good one."
        )
    never = [shown(sensor_id) for sensor_id, judged in replays[OURS].judged.items() if not judged]
    if never:
        more = f" and {len(never) - MOST_NAMED} more" if len(never) > MOST_NAMED else ""
        console.print(
            f"never judged, for want of {MIN_READINGS} readings to learn from: {', '.join(never[:MOST_NAMED])}{more}",
            soft_wrap=True,
        )
    console.print(_HOW_TO_READ, soft_wrap=True)
    if recorded.counted_from is None:
        days = LEARNING_DAYS.days
        console.print(f"Not counted: each sensor's first {days} days, which are only learned from.", soft_wrap=True)
    if not ours["sensor_weeks"]:
        console.print("Nothing was counted: no sensor has readings after its first five days. Try --train-until.")


_HOW_TO_READ = (
    '"At other times" is chance: as many faults would be found if they lay anywhere else. Where it comes near those'
    " found, the incidents do not tell faults from anything."
)
# by the name in JSON, what people read, and the decimals
_OF_SENSORS = {
    "sensors": ("sensors", 0),
    "sensor_weeks": ("sensor weeks counted", 2),
    "faults": ("faults", 0),
    "found": ("of them found", 0),
    "found_by_chance": ("found, were they at other times", 1),
    "recall": ("recall, the share found", 3),
    "recall_by_kind": ("recall", 3),
    "median_delay_minutes": ("minutes to half of those found", 0),
    "p95_delay_minutes": ("minutes to 95 of 100 found", 0),
    "recall_within_10_minutes_by_kind": ("recall within 10 minutes", 3),
    "false_incidents": ("false incidents", 0),
    "false_incidents_per_sensor_week": ("false incidents a sensor week", 3),
    "minutes_in_alert_share": ("share of minutes in alert, without a fault", 4),
}


def _figures(ours: Mapping[str, Any], laboratory: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, ours and the laboratory's, for people."""
    for name, (told, digits) in _OF_SENSORS.items():
        if isinstance(ours[name], Mapping):
            for kind, value in ours[name].items():
                yield f"{told}: {kind}", _told(value, digits), _told(laboratory[name][kind], digits)
        else:
            yield told, _told(ours[name], digits), _told(laboratory[name], digits)


def _told(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
