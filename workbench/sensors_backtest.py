"""Replaying recorded readings by a stage's settings: what `overcut backtest sensors` and `overcut tune` share.

RefusedError
 └─ BacktestError   recorded data or settings that cannot be replayed: why, and what to do
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from multiprocessing import get_context
from pathlib import Path

import click
from cronsim import CronSim, CronSimError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from overcut import RefusedError
from overcut.sensors.backtest import BacktestRules, Fault, Replay, replay
from overcut.sensors.cohorts import TrainingRules
from overcut.sensors.forest import ForestParameters
from overcut.sensors.incidents import RunRule
from overcut.sensors.readings import Reading, RefusedReadingError, format_time, parse_time
from stacks.stage import Sensors, read_stage
from workbench.csv_files import counted
from workbench.readings_files import read_labels, read_readings

_UNITS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
_RATE = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")
_CRON = re.compile(r"cron\((.+)\)")
_YEARS = re.compile(r"(\d{4}|\*)(?:-(\d{4}))?(?:/(\d+))?")
_LAST_YEAR = 2199  # EventBridge's


class BacktestError(RefusedError):
    """Recorded data or settings that cannot be replayed; the text says why, and what to do."""


@dataclass(frozen=True)
class Recorded:
    """What is replayed.

    Attributes:
        counted_from: what lies before does not count; None: a sensor's first days do not.
        repairs: what was mended while reading, a sentence each.
    """

    readings: Sequence[Reading]
    faults: Sequence[Fault]
    settings: Sensors
    rules: BacktestRules
    trainings: Sequence[datetime]
    counted_from: datetime | None
    repairs: Sequence[str]


def read_recorded(readings_file: Path, labels_file: Path | None, config: str, train_until: str | None) -> Recorded:
    """The readings and faults of files, and how the stage `config` would train on them.

    Args:
        train_until: train once, then, and count everything after it, instead of by the stage's schedule.

    Raises:
        RefusedError: with one sentence for the person who named them.
    """
    settings = read_stage(config).with_sensors().sensors
    moment = _moment(train_until) if train_until else None
    found = read_readings(readings_file)
    labels = read_labels(labels_file) if labels_file else []
    first, last = found.readings[0].measured_at, found.readings[-1].measured_at
    sensors, repairs = {reading.sensor_id for reading in found.readings}, [*found.repairs]
    faults = [
        Fault(label.sensor_id, label.started_at, label.ended_at, label.kind)
        for label in labels
        if label.sensor_id in sensors and label.started_at <= last and label.ended_at >= first
    ]
    if labels and not faults:
        raise BacktestError(
            f"none of the labels in {labels_file} is of a sensor in {readings_file}, at a time in it; give its own"
            " labels"
        )
    if elsewhere := len(labels) - len(faults):
        repairs.append(f"{counted(elsewhere, 'label')} of another sensor or time: left out")
    if moment is None:
        trainings = list(training_times(settings.training_schedule, first, last))
        if not trainings:
            raise BacktestError(
                f"{readings_file} reaches from {format_time(first)} to {format_time(last)}, and the stage's"
                f" {settings.training_schedule} does not train in it; say when with --train-until"
            )
    elif first < moment < last:
        trainings = [moment]
    else:
        raise BacktestError(
            f"--train-until {format_time(moment)} does not lie within {readings_file}; give a time between"
            f" {format_time(first)} and {format_time(last)}"
        )
    return Recorded(found.readings, faults, settings, rules_of(settings), trainings, moment, repairs)


def _moment(text: str) -> datetime:
    try:
        return parse_time(text)
    except RefusedReadingError as error:
        reason = str(error).replace("measured_at", "--train-until", 1)
        raise BacktestError(f"{reason}; write it with its zone, such as 2021-06-10T11:00:00Z") from None


def rules_of(settings: Sensors) -> BacktestRules:
    """What a stage's settings say about training, judging and incidents."""
    return BacktestRules(
        TrainingRules(
            forest=ForestParameters(settings.num_trees, settings.num_samples_per_tree),
            detector=settings.detector,
            z_factor=settings.z_factor,
            false_alarm_budget=settings.false_alarm_budget,
            run_rule=RunRule(settings.consecutive_minutes, settings.recovery_minutes),
        ),
        window=timedelta(days=settings.training_window_days),
        new_normal_after=timedelta(hours=settings.new_normal_after_hours),
        min_deviation=_min_deviation(settings),
    )


def _min_deviation(settings: Sensors) -> Mapping[str, float]:
    """By measure; a file does not say which source its sensors belong to, so where two differ, the smaller."""
    found: dict[str, float] = {}
    for source in settings.sources.values():
        for measure, deviation in source.min_deviation.items():
            found[measure] = min(deviation, found.get(measure, deviation))
    return found


def training_times(schedule: str, first: datetime, last: datetime) -> Iterator[datetime]:
    """When an EventBridge schedule begins a training, after `first` and until `last`.

    A rate is taken to have begun with `first`.

    Raises:
        BacktestError: a schedule that EventBridge would refuse, or that is not understood here.
    """
    if rate := _RATE.fullmatch(schedule):
        every = int(rate[1]) * _UNITS[rate[2]]
        if not every:
            raise BacktestError(f"training_schedule {schedule} never ends; give a rate of at least 1")
        return (first + k * every for k in range(1, (last - first) // every + 1))
    fields = cron[1].split() if (cron := _CRON.fullmatch(schedule)) else []
    if len(fields) != 6 or (fields[2] == "?") == (fields[4] == "?"):
        raise BacktestError(
            f"training_schedule {schedule} is no EventBridge schedule; write six fields of which one day is ?,"
            ' such as "cron(30 2 * * ? *)", or "rate(1 day)"'
        )
    *fields, year = (field.upper() for field in fields)
    # cron's week begins with Sunday as 0, EventBridge's as 1
    fields[4] = re.sub(r"(?<![\d#/])[1-7](?!\d)", lambda day: str(int(day[0]) - 1), fields[4])
    expression = " ".join(fields).replace("?", "*")
    try:
        times = CronSim(expression, first)
        years = _years(year)
    except (CronSimError, ValueError):
        raise BacktestError(
            f"training_schedule {schedule} is not understood here; write it with numbers, names, *, commas, - and /"
        ) from None
    return (moment for moment in takewhile(lambda moment: moment <= last, times) if moment.year in years)


def _years(field: str) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        years = _YEARS.fullmatch(part)
        if not years:
            raise ValueError(f"no years: {part!r}")
        begin = 1970 if years[1] == "*" else int(years[1])
        end = int(years[2]) if years[2] else begin if years[1] != "*" and not years[3] else _LAST_YEAR
        found |= set(range(begin, end + 1, int(years[3] or 1)))
    return found


def replay_on_all_cores(
    recorded: Recorded, all_rules: Mapping[str, BacktestRules], console: Console
) -> dict[str, Replay]:
    """Replay the recording by each of the rules, by their names, with progress on the console."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # spawned: a fork of a process with threads may hang
    with (
        ProcessPoolExecutor(mp_context=get_context("spawn")) as executor,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        advances = {name: _advance(progress, name, len(recorded.trainings)) for name in all_rules}
        return {
            name: replay(recorded.readings, recorded.trainings, rules, executor=executor, advance=advances[name])
            for name, rules in all_rules.items()
        }


def _advance(progress: Progress, name: str, trainings: int) -> Callable[[int, int], None]:
    task = progress.add_task(f"{name}: trainings", total=trainings)
    return lambda done, total: progress.update(task, completed=done, total=total)


def write_text(path: Path, text: str) -> None:
    """Write a file that a person named.

    Raises:
        BacktestError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BacktestError(f"{path} cannot be written: {error.strerror or error}") from None


class OutputFile(click.Path):
    """A file to write, in a folder that is there: better refused before minutes of work than after them."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False, writable=True)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(str(super().convert(value, param, ctx)))  # type: ignore[arg-type]
        if not path.parent.is_dir():
            self.fail(f"the folder of {path} does not exist; make it first", param, ctx)
        return path
