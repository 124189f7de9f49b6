"""Simulated ETL jobs: their runs, the faults in them, and the lake that their orchestrators leave behind.

Jobs run by schedules of their own in zones of their own; what they load follows their weekdays, grows, and scatters.
The lake is as lakes are: out of order, with duplicates, late corrections, broken lines, and times written in several
ways. Nothing here is fitted to recorded data.

The same arguments give the same runs and records on any machine. Every job draws from a generator of its own: its runs
do not depend on how many jobs there are, and a fault changes no run that is not labelled.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args
from zoneinfo import ZoneInfo

import click
import numpy as np
import numpy.typing as npt
from cronsim import CronSim

from overcut import OvercutError
from overcut.etl_jobs.job_runs import JobRun, Status
from workbench.job_runs_files import MissingRun, RunKey, write_job_runs, write_labels, write_missing_runs
from workbench.lake import LakeFolder, StateChange, by_day, write_lake
from workbench.simulate import SimulationError

FaultKind = Literal["drop20", "zero", "double", "slow3x", "weekday_drop", "drift"]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_DAY = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# what a fault leaves of the usual rows, or makes of the usual run time: from and to
_FACTORS: dict[FaultKind, tuple[float, float]] = {
    "drop20": (0.15, 0.25),
    "zero": (0.0, 0.0),
    "double": (1.8, 2.2),
    "slow3x": (2.6, 3.4),
    "weekday_drop": (0.4, 0.5),
    "drift": (0.45, 0.6),
}
# a drift falls to its factor within so many runs, the job's last
_DRIFT_RUNS = (8, 12)
_DRIFT_SHARE = 0.4
# drawn faults lie in the last third, after a job's first runs, and never closer than this on average
_FIRST_RUNS, _RUNS_A_FAULT = 8, 4
_MOST_ROWS = 10**9
# lines of the lake: one in so many is there twice, one in so many is broken
_ONE_DUPLICATE_IN, _ONE_BROKEN_IN = 100, 2_500


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one orchestrator writes.

    Attributes:
        started, succeeded, failed: its words for the states; without the first it writes how a run ended, only.
        times: with the job's offset, in UTC, or in the job's zone without an offset.
        tells_start: the start stands on the record of the end, too.
        tells_recording: it says when it made the record.
    """

    started: str = "started"
    succeeded: str = "succeeded"
    failed: str = "failed"
    times: Literal["offset", "utc", "local"] = "offset"
    tells_start: bool = False
    tells_recording: bool = True


DIALECTS = (
    Dialect(),
    Dialect("RUNNING", "SUCCESS", "FAILED", times="utc", tells_start=True),
    Dialect("Started", "Completed", "Error", times="local"),
    Dialect("running", "success", "timed_out", times="utc", tells_recording=False),
)
_ENDS_ONLY = Dialect("", "succeeded", "cancelled", times="local", tells_start=True)


@dataclass(frozen=True, slots=True)
class Job:
    """What sets one job apart.

    Attributes:
        schedule: cron, five fields, in the job's own zone.
        typical_records: rows of a usual run on a weekday.
        weekend: factor on them on Saturdays and Sundays.
        swing: how much more than that an hour's run loads at 15:00, and less at 03:00, as a share.
        growth: of the rows, per day, as a share.
        noise, time_noise: standard deviation of the logarithm of rows and of run time.
        fixed_seconds, records_per_second: what the run time is made of.
        first_day, end_day: days of the simulation on which it exists; to the end without the latter.
    """

    name: str
    schedule: str
    time_zone: str = "UTC"
    typical_records: float = 100_000.0
    weekend: float = 1.0
    swing: float = 0.0
    growth: float = 0.0
    noise: float = 0.06
    time_noise: float = 0.08
    fixed_seconds: float = 20.0
    records_per_second: float = 2_000.0
    dialect: Dialect = DIALECTS[0]
    first_day: int = 0
    end_day: int | None = None


@dataclass(frozen=True, slots=True)
class Mishaps:
    """The share of runs that fail, fail once and are tried again, never come, or whose count is corrected later."""

    failed: float = 0.004
    retried: float = 0.004
    missing: float = 0.002
    corrected: float = 0.01


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that is asked for: in the first run of `job_name` that starts on the date `on` in the job's zone."""

    job_name: str
    on: date
    kind: FaultKind


@dataclass(frozen=True, slots=True)
class _Window:
    """What is simulated, in seconds since 1970; from `calm_from` on nothing but faults is out of the ordinary."""

    first: int
    end: int
    calm_from: int


@dataclass(frozen=True, slots=True)
class _History:
    """The runs of one job, ascending; arrays of shape (runs,), times in seconds since 1970.

    Attributes:
        tenths: how long each took, in tenths of a second, failed attempts included.
        records: rows; -1 where there is no figure.
        failed: whether it failed in the end.
        retried: when a first attempt failed, in tenths after the start; 0: it did not.
        corrected_after: seconds from the end to a correction of its rows; 0: there is none.
        at_first: what was said before the correction.
        delays: seconds from a change of state to its record.
        kinds: the fault of a run, by its index.
        missing: when runs were expected that never came, shape (missing,).
    """

    job: Job
    scheduled: Integers
    started: Integers
    tenths: Integers
    records: Integers
    failed: npt.NDArray[np.bool_]
    retried: Integers
    corrected_after: Integers
    at_first: Integers
    delays: Integers
    kinds: Mapping[int, FaultKind]
    missing: Integers

    def run_id(self, k: int) -> str:
        return f"{self.job.name}-{_moment(int(self.scheduled[k])):%Y%m%dT%H%M}"

    def run(self, k: int) -> JobRun:
        started_at = _moment(int(self.started[k]))
        return JobRun(
            job_name=self.job.name,
            run_id=self.run_id(k),
            started_at=started_at,
            run_time_seconds=int(self.tenths[k]) / 10,
            records_processed=max(0, int(self.records[k])),
            status=Status.FAILED if self.failed[k] else Status.SUCCEEDED,
            day_of_week=started_at.astimezone(ZoneInfo(self.job.time_zone)).weekday(),
            time_zone=self.job.time_zone,
            schedule=self.job.schedule,
        )

    def changes(self, k: int) -> Iterator[StateChange]:
        """What the orchestrator leaves of one run, in the order in which it happened."""
        dialect, start, end = self.job.dialect, int(self.started[k]) * 10, int(self.tenths[k])
        if dialect.started:
            yield self._change(k, dialect.started, start)
        if retried := int(self.retried[k]):
            yield self._change(k, dialect.failed, start + retried)
            if dialect.started:
                yield self._change(k, dialect.started, start + min(end, retried + 100), attempt=2)
        state = dialect.failed if self.failed[k] else dialect.succeeded
        attempt = 2 if retried else 1
        corrected_after = int(self.corrected_after[k])
        said = int(self.at_first[k] if corrected_after else self.records[k])
        yield self._change(k, state, start + end, rows=said, attempt=attempt)
        if corrected_after:
            yield self._change(
                k, state, start + end, rows=int(self.records[k]), attempt=attempt, recorded_later=corrected_after
            )

    def _change(
        self, k: int, state: str, tenths: int, *, rows: int = -1, attempt: int = 1, recorded_later: int = 0
    ) -> StateChange:
        """`tenths` since 1970; `recorded_later` in seconds."""
        job, dialect = self.job, self.job.dialect
        occurred_at = _EPOCH + timedelta(milliseconds=100 * tenths)
        extra: dict[str, object] = {"attempt": attempt}
        if rows >= 0 and dialect.tells_start:
            extra["cost"] = {"cpu": {"seconds": int(self.tenths[k]) / 20}, "currency": None}
        return StateChange(
            job_name=job.name,
            run_id=self.run_id(k),
            state=state,
            occurred_at=_written(occurred_at, job),
            recorded_at=occurred_at + timedelta(seconds=int(self.delays[k]) + recorded_later)
            if dialect.tells_recording
            else None,
            records_processed=rows if rows >= 0 else None,
            started_at=_written(_moment(int(self.started[k])), job) if dialect.tells_start else None,
            schedule=job.schedule,
            time_zone=job.time_zone,
            extra=extra,
        )


@dataclass(frozen=True)
class SimulatedJobs:
    """Runs of simulated jobs. Made from compact arrays as they are asked for: a year of 5,000 jobs fits."""

    histories: tuple[_History, ...]
    seed: int

    @property
    def runs(self) -> Iterator[JobRun]:
        """By job name, then start: what a perfect extraction of the lake gives. Failed runs without a figure have 0."""
        return (history.run(k) for history in self.histories for k in range(len(history.started)))

    @property
    def labels(self) -> dict[RunKey, str]:
        return {
            (history.job.name, history.run_id(k)): kind
            for history in self.histories
            for k, kind in history.kinds.items()
        }

    @property
    def missing(self) -> list[MissingRun]:
        """Runs that never came while their job existed, by job name, then time."""
        return [
            MissingRun(history.job.name, _moment(expected))
            for history in self.histories
            for expected in history.missing.tolist()
        ]

    @property
    def records(self) -> Iterator[StateChange]:
        """Every record once, in the order in which it was filed: by day, then the start of the run."""
        return (change for _, changes in self.days() for change in changes)

    def days(self) -> Iterator[tuple[date, list[StateChange]]]:
        """Every record once, by the UTC day it is filed under, days ascending; holds the days that are not over."""
        counts = [len(history.started) for history in self.histories]
        job = np.repeat(np.arange(len(counts)), counts)
        number = np.concatenate([np.arange(count) for count in counts] or [np.arange(0)])
        started = np.concatenate([history.started for history in self.histories] or [np.arange(0)])
        order = np.lexsort((job, started))
        batches = (
            (
                _moment(day * _DAY).date(),
                (change for at in group for change in self.histories[job[at]].changes(int(number[at]))),
            )
            for day, group in groupby(order, key=lambda at: int(started[at]) // _DAY)
        )
        return by_day(batches)

    def lake(self) -> Iterator[tuple[date, list[str]]]:
        """The lines of each day as they lie in the lake: shuffled, some twice, a few broken."""
        for day, changes in self.days():
            random = np.random.default_rng([self.seed, day.toordinal()])
            lines = [change.to_json() for change in changes]
            lines += [lines[at] for at in np.flatnonzero(random.random(len(lines)) < 1 / _ONE_DUPLICATE_IN)]
            broken = np.flatnonzero(random.random(len(lines)) < 1 / _ONE_BROKEN_IN)
            lines += [_broken(lines[at], int(random.integers(4))) for at in broken]
            yield day, [lines[at] for at in random.permutation(len(lines))]


def simulate_jobs(
    jobs: Sequence[Job],
    *,
    started_on: date,
    days: int,
    seed: int,
    faults: Sequence[Fault] | None = None,
    mishaps: Mishaps = Mishaps(),
    calm_from: date | None = None,
) -> SimulatedJobs:
    """The runs of `jobs` that are due in `days` UTC days from `started_on` on.

    Args:
        faults: in which runs; without it every job has one of each kind (as far as it has runs for them) in the last
            third, and two in five end in a drift. Give none with `()`.
        mishaps: what happens besides, unlabelled.
        calm_from: from that UTC day on there are no mishaps and little noise, only the faults.

    Raises:
        SimulationError: nothing to simulate, two jobs of one name, or a fault in a run that there is not.
    """
    names = [job.name for job in jobs]
    if not jobs or days < 1 or len(set(names)) < len(names):
        raise SimulationError("a simulation needs at least one day and one job, and jobs of different names")
    try:
        first = datetime(started_on.year, started_on.month, started_on.day, tzinfo=UTC)
        # what starts on the last day may end later
        _ = first + timedelta(days=days + 7)
    except OverflowError:
        raise SimulationError("the simulation would end after the year 9999: lower --days") from None
    end = _seconds(first) + days * _DAY
    calm = end if calm_from is None else _seconds(datetime(calm_from.year, calm_from.month, calm_from.day, tzinfo=UTC))
    window = _Window(_seconds(first), end, calm)
    given: dict[str, list[Fault]] | None = None
    if faults is not None:
        given = {name: [fault for fault in faults if fault.job_name == name] for name in names}
        strangers = [fault.job_name for fault in faults if fault.job_name not in given]
        if strangers:
            raise SimulationError(f"there is a fault in the job {strangers[0]}, but no such job")
    seeds = np.random.SeedSequence(seed).spawn(len(jobs))
    histories = [
        _simulate(job, window, None if given is None else given[job.name], mishaps, own)
        for job, own in zip(jobs, seeds, strict=True)
    ]
    return SimulatedJobs(tuple(sorted(histories, key=lambda history: history.job.name)), seed)


def _simulate(
    job: Job, window: _Window, given: Sequence[Fault] | None, mishaps: Mishaps, seed: np.random.SeedSequence
) -> _History:
    usual_random, mishap_random, fault_random = (np.random.default_rng(part) for part in seed.spawn(3))
    due = _due(job, window)
    calm = due >= window.calm_from
    chance = mishap_random.random((4, len(due)))
    came = (chance[0] >= mishaps.missing) | calm
    failed, retried = (chance[1] < mishaps.failed) & ~calm, (chance[2] < mishaps.retried) & ~calm
    corrected = (chance[3] < mishaps.corrected) & ~calm & job.dialect.tells_recording
    how_far, wrong_share = mishap_random.uniform(0.05, 0.95, (2, len(due)))
    corrected_after = mishap_random.integers(6 * 3600, 60 * 3600, len(due))
    has_figure = mishap_random.random(len(due)) < 0.5

    noise = usual_random.standard_normal((2, len(due))).clip(-4.0, 4.0)
    noise = np.where(calm, noise.clip(-1.0, 1.0), noise)
    queued = usual_random.integers(1, 120, len(due))
    delays = usual_random.integers(1, 6, len(due))
    log_rows = np.log(job.typical_records) + _season(job, due) + job.growth * (due - window.first) / _DAY
    rows = np.exp(log_rows + job.noise * noise[0])

    arrived = np.flatnonzero(came)
    started, rows = (due + queued)[arrived], rows[arrived]
    kinds = (
        _draw_faults(due[arrived], window, fault_random) if given is None else _given_faults(job, given, due[arrived])
    )
    row_factor, time_factor = _fault_factors(kinds, len(arrived), fault_random)
    faulty = np.isin(np.arange(len(arrived)), list(kinds))
    failed, retried = failed[arrived] & ~faulty, retried[arrived] & ~faulty
    records = np.rint((rows * row_factor).clip(0, _MOST_ROWS)).astype(np.int64)
    seconds = job.fixed_seconds + records / job.records_per_second
    tenths = np.rint(10 * seconds * time_factor * np.exp(job.time_noise * noise[1, arrived])).astype(np.int64).clip(1)

    share = how_far[arrived]
    records = np.where(failed, np.where(has_figure[arrived], np.rint(records * share), -1), records).astype(np.int64)
    tenths = np.where(failed, np.rint(tenths * share).clip(1), tenths).astype(np.int64)
    # an attempt that fails soon, and ten seconds' wait
    first_attempt = np.where(retried & ~failed, np.rint(tenths * 0.1 * share).clip(1), 0).astype(np.int64)
    tenths = np.where(first_attempt > 0, tenths + first_attempt + 100, tenths)

    # nothing is recorded late when it would be in the calm, or after the end
    late = corrected_after[arrived]
    in_time = started + tenths // 10 + late + 60 < window.calm_from
    corrected = corrected[arrived] & in_time & (records >= 0)
    return _History(
        job=job,
        scheduled=due[arrived],
        started=started,
        tenths=tenths,
        records=records,
        failed=failed,
        retried=first_attempt,
        corrected_after=np.where(corrected, late, 0),
        at_first=np.rint(records * wrong_share[arrived]).astype(np.int64),
        delays=delays[arrived],
        kinds=kinds,
        missing=due[~came],
    )


def _due(job: Job, window: _Window) -> Integers:
    first = window.first + job.first_day * _DAY
    end = window.end if job.end_day is None else min(window.end, window.first + job.end_day * _DAY)
    moments = _schedule(job.schedule, job.time_zone, window.first, window.end)
    return moments[(moments >= first) & (moments < end)]


@cache
def _schedule(schedule: str, time_zone: str, first: int, end: int) -> Integers:
    """When a schedule is due within `[first, end)`. Many jobs share one."""
    moments = []
    for moment in CronSim(schedule, _moment(first - 60).astimezone(ZoneInfo(time_zone))):
        second = _seconds(moment)
        if second >= end:
            break
        if second >= first:
            moments.append(second)
    return np.array(moments, dtype=np.int64)


def _season(job: Job, due: Integers) -> Floats:
    """What weekday and hour in the job's zone add to the logarithm of its rows."""
    zone = ZoneInfo(job.time_zone)
    local = [_moment(second).astimezone(zone) for second in due.tolist()]
    weekend = np.array([moment.weekday() >= 5 for moment in local], dtype=bool)
    hour = np.array([moment.hour for moment in local], dtype=np.float64)
    day: Floats = np.log1p(job.swing * np.cos(2.0 * np.pi * (hour - 15.0) / 24.0))
    return np.asarray(day + np.where(weekend, np.log(job.weekend), 0.0))


def _draw_faults(due: Integers, window: _Window, random: np.random.Generator) -> dict[int, FaultKind]:
    """One fault in each of as many equal slots of the last third, in any order; a drift, if any, at the very end."""
    last_third = window.end - (window.end - window.first) // 3
    first, end = max(_FIRST_RUNS, int(np.searchsorted(due, last_third))), len(due)
    kinds: dict[int, FaultKind] = {}
    drifts, length = random.random() < _DRIFT_SHARE, int(random.integers(*_DRIFT_RUNS, endpoint=True))
    single = [kind for kind in FAULT_KINDS if kind != "drift"]
    order = random.permutation(len(single))
    if drifts and end - first >= 3 * length:
        kinds = dict.fromkeys(range(end - length, end), "drift")
        end -= length
    count = min(len(single), max(0, end - first) // _RUNS_A_FAULT)
    for number in range(count):
        slot = (end - first) // count
        # the last fourth of a slot is healthy, so that no two faults touch
        at = first + number * slot + int(random.integers(max(1, slot * 3 // 4)))
        kinds[at] = single[order[number]]
    return dict(sorted(kinds.items()))


def _given_faults(job: Job, given: Sequence[Fault], due: Integers) -> dict[int, FaultKind]:
    kinds: dict[int, FaultKind] = {}
    zone = ZoneInfo(job.time_zone)
    dates = [_moment(second).astimezone(zone).date() for second in due.tolist()]
    for fault in given:
        if fault.on not in dates:
            raise SimulationError(f"there is to be a fault in {fault.job_name} on {fault.on}, when it does not run")
        kinds[dates.index(fault.on)] = fault.kind
    return dict(sorted(kinds.items()))


def _fault_factors(kinds: Mapping[int, FaultKind], runs: int, random: np.random.Generator) -> tuple[Floats, Floats]:
    """On the rows and on the run time of each run; 1 where there is no fault."""
    rows, time = np.ones(runs), np.ones(runs)
    for kind, group in groupby(kinds, key=lambda at: kinds[at]):
        at = list(group)
        if kind == "drift":
            rows[at] = np.exp(np.linspace(0.0, np.log(random.uniform(*_FACTORS[kind])), len(at) + 1)[1:])
        else:
            (time if kind == "slow3x" else rows)[at] = random.uniform(*_FACTORS[kind], len(at))
    return rows, time


def _moment(second: int) -> datetime:
    return _EPOCH + timedelta(seconds=second)


def _seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


def _written(moment: datetime, job: Job) -> datetime:
    """A time (UTC) as the job's orchestrator writes it: with an offset or without, see `StateChange`."""
    if job.dialect.times == "utc":
        return moment
    zone = ZoneInfo(job.time_zone)
    local = moment.astimezone(zone)
    # the second pass of the hour that summer time repeats cannot be told without an offset
    return local.replace(tzinfo=None) if job.dialect.times == "local" and local.fold == 0 else local


def _broken(line: str, how: int) -> str:
    """A line that is no record, in one of four ways."""
    if how == 0:
        return line[: len(line) * 2 // 3]
    if how == 1:
        return "java.lang.OutOfMemoryError: Java heap space"
    if how == 2:
        return '{"job": {}, "state": "succeeded", "metrics": {"records": {"processed": 1}}}'
    return '{"job": {"name": "broken"}, "run": {"id": "broken-1"}, "state": "started", "occurred_at": "yesterday"}'


_TOPICS = (
    "orders",
    "customers",
    "payments",
    "inventory",
    "clicks",
    "returns",
    "shipments",
    "prices",
    "leads",
    "ledger",
)
_ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Europe/London",
    "America/Los_Angeles",
    "Australia/Sydney",
)


def draw_jobs(count: int, *, days: int, seed: int, daily_only: bool = False) -> list[Job]:
    """Jobs of many kinds: of twenty, 12 run daily, 3 on weekdays, 2 weekly, 2 at the end of a month and 1 hourly.

    One in ten appears while the simulation is under way, one in fifteen is gone before its end. With `daily_only`, all
    run daily from the first day to the last: for figures on size.
    """
    return [
        _draw_job(number, days, daily_only, np.random.default_rng(own))
        for number, own in enumerate(np.random.SeedSequence([seed, 1]).spawn(count))
    ]


def _draw_job(number: int, days: int, daily_only: bool, random: np.random.Generator) -> Job:
    minute, hour, weekday = (int(random.integers(most)) for most in (12, 7, 7))
    minute *= 5
    schedules = {
        7: f"{minute} * * * *",
        3: f"{minute} {hour} * * {weekday}",
        13: f"{minute} {hour} * * {weekday}",
        5: f"{minute} {hour} L * *",
        15: f"{minute} {hour} L * *",
        **dict.fromkeys((1, 9, 17), f"{minute} {hour} * * 1-5"),
    }
    cadence = 0 if daily_only else number % 20
    rows, zone = float(np.exp(random.uniform(np.log(1e3), np.log(5e6)))), _ZONES[int(random.integers(len(_ZONES)))]
    return Job(
        name=f"{_TOPICS[number % len(_TOPICS)]}_{number:04d}",
        schedule=schedules.get(cadence, f"{minute} {hour} * * *"),
        time_zone=zone,
        typical_records=rows,
        weekend=float(random.choice([1.0, 1.0, 0.6, 0.3])),
        swing=random.uniform(0.2, 0.8) if cadence == 7 else 0.0,
        growth=random.normal(0.0, 0.0008),
        noise=random.uniform(0.03, 0.15),
        time_noise=random.uniform(0.04, 0.12),
        fixed_seconds=random.uniform(5.0, 60.0),
        # a usual run takes between a minute and half an hour
        records_per_second=rows / random.uniform(60.0, 1_800.0 if cadence != 7 else 300.0),
        dialect=_ENDS_ONLY if number % 20 == 10 else DIALECTS[int(random.integers(len(DIALECTS)))],
        first_day=round(days * random.uniform(0.3, 0.7)) if number % 10 == 8 and not daily_only else 0,
        end_day=round(days * random.uniform(0.5, 0.9)) if number % 15 == 11 and not daily_only else None,
    )


@dataclass(frozen=True)
class Demonstration:
    """A history, and three live days in which one job loads too little twice, then recovers.

    Nothing else is wrong on the live days, nor in the week before.

    Attributes:
        jobs: what was simulated; `lake()` gives history and live days.
        live_days: the three, as UTC days. What is recorded before the first is the history.
        job_name: of the job with the fault.
        faulty, healthy: its runs on the live days, two and one.
    """

    jobs: SimulatedJobs
    live_days: tuple[date, date, date]
    job_name: str
    faulty: tuple[JobRun, JobRun]
    healthy: JobRun


def demonstration_jobs(seed: int) -> Demonstration:
    """Twelve jobs, 100 days of history, three live days, Wednesday to Friday; `orders_daily` is the job with the fault.

    It runs daily at 02:00 in Europe/Berlin and loads a fifth of its usual rows on the first two live days.
    """
    started_on, history_days = date(2026, 1, 5), 100
    live = [started_on + timedelta(days=history_days + number) for number in range(3)]
    name = "orders_daily"
    jobs = [
        Job(name, "0 2 * * *", "Europe/Berlin", 120_000, weekend=0.6, growth=0.0005),
        Job("clicks_hourly", "5 * * * *", "UTC", 40_000, swing=0.5, noise=0.08, dialect=DIALECTS[1]),
        Job("customers_daily", "30 1 * * *", "Europe/Berlin", 15_000, dialect=DIALECTS[2]),
        Job("inventory_daily", "0 4 * * *", "Europe/London", 800_000, weekend=0.8, records_per_second=4_000),
        Job("invoices_weekdays", "0 6 * * 1-5", "Europe/Berlin", 6_500, noise=0.1),
        Job("leads_weekly", "0 5 * * 1", "America/New_York", 3_000, noise=0.12, dialect=DIALECTS[2]),
        Job("ledger_monthly", "30 3 L * *", "Europe/Berlin", 2_000_000, records_per_second=5_000),
        Job("payments_daily", "15 2 * * *", "America/New_York", 60_000, weekend=0.7, dialect=DIALECTS[1]),
        Job("prices_daily", "45 0 * * *", "Asia/Kolkata", 250_000, noise=0.03, dialect=DIALECTS[3]),
        Job("returns_daily", "20 3 * * *", "Europe/Berlin", 9_000, weekend=0.5, noise=0.1),
        Job("shipments_daily", "0 5 * * *", "Australia/Sydney", 33_000, growth=0.001, dialect=_ENDS_ONLY),
        Job("stores_weekdays", "10 4 * * 1-5", "America/Los_Angeles", 1_200, noise=0.1),
    ]
    simulated = simulate_jobs(
        jobs,
        started_on=started_on,
        days=history_days + len(live),
        seed=seed,
        faults=[Fault(name, day, "drop20") for day in live[:2]],
        # recent runs are judged anew in the live days
        calm_from=live[0] - timedelta(days=7),
    )
    first, second, third = (run for run in simulated.runs if run.job_name == name and run.started_at.date() >= live[0])
    return Demonstration(simulated, (live[0], live[1], live[2]), name, (first, second), third)


@click.command("job-runs")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--jobs", "count", type=click.IntRange(1, 9999), default=60, show_default=True, help="How many.")
@click.option("--days", type=click.IntRange(1, 3660), default=182, show_default=True, help="How long.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The same seed, the same files.")
@click.option(
    "--started-on",
    type=click.DateTime(["%Y-%m-%d"]),
    default="2026-01-05",
    show_default=True,
    metavar="DATE",
    help="The first day.",
)
@click.option("--no-faults", is_flag=True, help="Every run that succeeds loads what is usual.")
@click.option("--daily-only", is_flag=True, help="Every job runs daily, from the first day to the last.")
def job_runs(
    folder: Path, count: int, days: int, seed: int, started_on: datetime, no_faults: bool, daily_only: bool
) -> None:
    """Write a data lake of job runs to FOLDER/lake, and beside it what is true of them.

    job_runs.csv.gz has every run, job_runs.labels.csv.gz the faulty ones, missing.csv.gz those that never came.
    """
    lake = folder / "lake"
    if lake.exists():
        raise click.ClickException(f"{lake} is already there, and days of two lakes would mix: name another folder")
    try:
        simulated = simulate_jobs(
            draw_jobs(count, days=days, seed=seed, daily_only=daily_only),
            started_on=started_on.date(),
            days=days,
            seed=seed,
            faults=() if no_faults else None,
        )
        written = write_lake(LakeFolder(lake), simulated.lake(), name="simulated")
        write_job_runs(folder / "job_runs.csv.gz", simulated.runs)
        write_labels(folder / "job_runs.labels.csv.gz", simulated.labels)
        write_missing_runs(folder / "missing.csv.gz", simulated.missing)
    except OvercutError as error:
        raise click.ClickException(str(error)) from error
    runs = sum(len(history.started) for history in simulated.histories)
    click.echo(f"{lake}: {written.lines:,} lines on {written.days:,} days")
    click.echo(f"{folder / 'job_runs.csv.gz'}: {runs:,} runs of {count:,} simulated jobs")
    click.echo(f"{folder / 'job_runs.labels.csv.gz'}: {len(simulated.labels):,} faulty runs")
    click.echo(f"{folder / 'missing.csv.gz'}: {len(simulated.missing):,} runs that never came")
