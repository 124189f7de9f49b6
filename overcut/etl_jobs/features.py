"""Features: how far a run is from what is usual for its own job; made by one function for training and serving.

What is usual is learned from a job's history with medians, so that faults in it weigh little:

    log1p(records) = level + growth per day + weekday + hour + edge of the month
    log1p(seconds) = level of run time + log(fixed share + share in proportion to the records)

The levels are learned anew every week, from the four weeks before: so that no run is compared with itself.
A residual is divided by the job's own scale. A job with fewer than `MIN_RUNS` runs is learning: see `fallback`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from overcut.etl_jobs.job_runs import JobRun, Status, zone_of

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FEATURES = ("records", "run_time", "drift")
MIN_RUNS = 8
# a new job is judged from its fourth run on: the median of three is the first that one wrong run cannot move far
MIN_FALLBACK_RUNS = 3
# a change that is usual for nobody to care about: no job's scale is finer than 5 %
MIN_SCALE = 0.05
# what a weekday that was not seen twice may differ by: a factor of two is one scale
UNSEEN_WEEKDAY_SCALE = float(np.log(2))
DRIFT_RUNS = 7
LEVEL_DAYS = 28
LEVEL_RUNS = 8
KNOT_DAYS = 7
# no single run may fill the drift term, in scales
_DRIFT_CLIP = 4.0
# no feature is farther, so that float32 holds it and sums stay finite
_FARTHEST = 1e6
# of a normal distribution: standard deviations that the median absolute deviation is worth, its 90 % quantile of
# absolute deviations, the standard error of a median of n is 1.2533 / sqrt(n)
_MAD_TO_SD, _Q90_SDS, _MEDIAN_ERROR = 1.4826, 1.645, 1.2533
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SEASON_SIZE = 34
_WEEKDAYS, _HOURS, _EDGES = slice(0, 7), slice(7, 31), slice(31, 34)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is usual for one job.

    Attributes:
        run_count: succeeded runs it was learned from; 0 for a job without any.
        season: additions to log records by weekday (7, NaN: not seen twice), hour (24) and edge of the month (3: none,
            last day, first day), all in the job's own zone.
        growth: of log records, per day.
        levels: shape (knots, 3): from when on (days since 1970, ascending), log records, log run time.
        records_scale, time_scale, drift_scale: a standard deviation's worth of each feature; never 0.
        fixed_share: part of the run time that does not depend on the records, 0 to 1.
        typical_records: the median, which `fixed_share` refers to.
    """

    job_name: str
    run_count: int
    season: Floats
    growth: float
    levels: Floats
    records_scale: float
    time_scale: float
    drift_scale: float
    fixed_share: float
    typical_records: float

    @property
    def is_learning(self) -> bool:
        return self.run_count < MIN_RUNS


@dataclass(frozen=True, slots=True)
class Residuals:
    """Runs of one job beside what was usual for each: `features` of shape (runs, features), the others (runs,)."""

    usual_records: Floats
    usual_seconds: Floats
    features: Floats


@dataclass(frozen=True, slots=True)
class _Columns:
    day: Floats
    weekday: Integers
    hour: Integers
    edge: Integers
    records: Floats
    log_seconds: Floats


def baselines(runs: Iterable[JobRun]) -> dict[str, Baseline]:
    """One baseline a job, learned from its succeeded `runs` (any order); a learning job's is its `fallback`."""
    learned, learning = {}, {}
    for job_name, own in by_job(runs).items():
        if len(own) >= MIN_RUNS:
            learned[job_name] = _learn(job_name, _columns(own))
        else:
            learning[job_name] = own
    scales = usual_scales(learned.values())
    return learned | {name: fallback(name, own, scales) for name, own in learning.items()}


def by_job(runs: Iterable[JobRun]) -> dict[str, list[JobRun]]:
    """The succeeded runs of each job, ascending by start; the jobs by name."""
    jobs: defaultdict[str, list[JobRun]] = defaultdict(list)
    for run in runs:
        if run.status is Status.SUCCEEDED:
            jobs[run.job_name].append(run)
    return {name: sorted(own, key=lambda run: (run.started_at, run.run_id)) for name, own in sorted(jobs.items())}


def usual_scales(others: Iterable[Baseline]) -> tuple[float, float]:
    """The median records and run time scale of the jobs that learned; a factor of two when none did."""
    scales = [(one.records_scale, one.time_scale) for one in others if not one.is_learning]
    records_scale, time_scale = np.median(scales or [(UNSEEN_WEEKDAY_SCALE, UNSEEN_WEEKDAY_SCALE)], axis=0)
    return float(records_scale), float(time_scale)


def fallback(job_name: str, earlier: Sequence[JobRun], scales: tuple[float, float]) -> Baseline:
    """What a new job is judged by until it has `MIN_RUNS`: the medians of its `earlier` runs, the `scales` of others.

    Its weekdays are unknown, so a factor of two is one scale: it catches empty loads and gross errors only.

    Args:
        earlier: the job's succeeded runs, ascending; may be empty.
        scales: from `usual_scales`.
    """
    season = np.zeros(SEASON_SIZE)
    season[_WEEKDAYS] = np.nan
    level = [0.0, 0.0, 0.0]
    if earlier:
        columns = _columns(earlier)
        level[1:] = float(np.median(np.log1p(columns.records))), float(np.median(columns.log_seconds))
    return Baseline(
        job_name=job_name,
        run_count=len(earlier),
        season=season,
        growth=0.0,
        levels=np.array([level]),
        records_scale=scales[0],
        time_scale=float(np.hypot(scales[1], UNSEEN_WEEKDAY_SCALE)),
        drift_scale=float(np.sqrt(DRIFT_RUNS)),
        fixed_share=1.0,
        typical_records=float(np.expm1(level[1])),
    )


def features(runs: Sequence[JobRun], baseline: Baseline) -> Residuals:
    """The features of succeeded `runs` of one job, ascending: each row from its run and those before it only.

    To serve, pass the last `DRIFT_RUNS - 1` runs and the new one, and read the last row.

    Returns:
        `features` of shape (runs, len(FEATURES)), in the order of `FEATURES`, in standard deviations of the job:
        records and run time off the usual (run time given the records), and drift: the mean of the last `DRIFT_RUNS`
        records features, 0 where the run itself is off to the other side.
    """
    return _residuals(_columns(runs), baseline)


@dataclass(frozen=True, slots=True)
class _Expected:
    log_records: Floats
    log_time: Floats
    unseen: NDArray[np.bool_]


def _expected(columns: _Columns, baseline: Baseline) -> _Expected:
    knots = baseline.levels
    level = knots[np.maximum(np.searchsorted(knots[:, 0], columns.day, side="right") - 1, 0)]
    weekday = baseline.season[_WEEKDAYS][columns.weekday]
    unseen = np.isnan(weekday)
    season = np.where(unseen, 0.0, weekday) + baseline.season[_HOURS][columns.hour]
    season += baseline.season[_EDGES][columns.edge]
    grown = np.clip(baseline.growth * (columns.day - level[:, 0]), -1.0, 1.0)
    work = _log_work(columns.records, baseline.fixed_share, baseline.typical_records)
    return _Expected(np.clip(level[:, 1] + grown + season, 0.0, 40.0), np.clip(level[:, 2] + work, 0.0, 40.0), unseen)


def _residuals(columns: _Columns, baseline: Baseline) -> Residuals:
    expected = _expected(columns, baseline)
    # a count of n rows scatters by 1 / sqrt(n) even when nothing is wrong (Poisson)
    counting = np.exp(-expected.log_records / 2)
    scale = np.maximum(baseline.records_scale, counting)
    scale = np.hypot(scale, np.where(expected.unseen, UNSEEN_WEEKDAY_SCALE, 0.0))
    off = (np.log1p(columns.records) - expected.log_records) / scale
    slow = (columns.log_seconds - expected.log_time) / baseline.time_scale
    drift = _drift(off) / baseline.drift_scale
    drift = np.where(drift * off > 0, drift, 0.0)
    vectors = np.clip(np.column_stack([off, slow, drift]), -_FARTHEST, _FARTHEST)
    return Residuals(np.expm1(expected.log_records), np.expm1(expected.log_time), vectors)


def _learn(job_name: str, columns: _Columns) -> Baseline:
    logs = np.log1p(columns.records)
    groups = [(_WEEKDAYS, columns.weekday), (_HOURS, columns.hour), (_EDGES, columns.edge)]
    season = np.zeros(SEASON_SIZE)
    level = _running_median(columns.day, logs)
    for _ in range(3):
        for part, group in groups:
            others = np.sum([season[p][g] for p, g in groups if p is not part], axis=0)
            season[part] = _effects(logs - level - others, group, season[part].size)
        season[_EDGES.start] = 0.0
        rest = logs - np.sum([season[p][g] for p, g in groups], axis=0)
        level = _running_median(columns.day, rest)
    growth = _theil_sen(columns.day, rest)

    typical = float(np.median(columns.records))
    shares = np.linspace(0.0, 1.0, 11)
    times = [columns.log_seconds - _log_work(columns.records, share, typical) for share in shares]
    best = int(np.argmin([np.median(np.abs(time - _running_median(columns.day, time))) for time in times]))

    seen = np.bincount(columns.weekday, minlength=7) >= 2
    season[_WEEKDAYS] = np.where(seen, season[_WEEKDAYS], np.nan)
    baseline = Baseline(
        job_name=job_name,
        run_count=len(logs),
        season=season,
        growth=growth,
        levels=_levels(columns.day, rest, times[best], growth),
        records_scale=1.0,
        time_scale=1.0,
        drift_scale=1.0,
        fixed_share=float(shares[best]),
        typical_records=typical,
    )
    # what the scales are is asked of the function that uses them: first of its residuals, then of its drift
    expected = _expected(columns, baseline)
    records_scale = _scale((logs - expected.log_records)[~expected.unseen])
    baseline = replace(
        baseline, records_scale=records_scale, time_scale=_scale(columns.log_seconds - expected.log_time)
    )
    drift = _drift(_residuals(columns, baseline).features[:, 0])
    return replace(baseline, drift_scale=max(1.0, _scale(drift)))


def _columns(runs: Sequence[JobRun]) -> _Columns:
    edges = []
    for run in runs:
        own_date = run.started_at + timedelta(days=run.days_from_utc or 0)
        edges.append(2 if own_date.day == 1 else int((own_date + timedelta(days=1)).day == 1))
    return _Columns(
        day=np.array([(run.started_at - _EPOCH) / timedelta(days=1) for run in runs]),
        weekday=np.array([run.day_of_week for run in runs], dtype=np.int64),
        hour=np.array([run.started_at.astimezone(zone_of(run.time_zone)).hour for run in runs], dtype=np.int64),
        edge=np.array(edges, dtype=np.int64),
        records=np.array([float(run.records_processed) for run in runs]),
        log_seconds=np.log1p(np.array([run.run_time_seconds for run in runs])),
    )


def _log_work(records: Floats, fixed_share: float, typical_records: float) -> Floats:
    """Log of the work in `records` rows, 0 at the typical count; one more row keeps an empty load finite."""
    return np.asarray(np.log(fixed_share + (1 - fixed_share) * (records + 1) / (typical_records + 1)))


def _drift(off: Floats) -> Floats:
    clipped = np.concatenate([np.zeros(DRIFT_RUNS - 1), np.clip(off, -_DRIFT_CLIP, _DRIFT_CLIP)])
    return np.asarray(np.lib.stride_tricks.sliding_window_view(clipped, DRIFT_RUNS).sum(axis=1) / np.sqrt(DRIFT_RUNS))


def _scale(residuals: Floats) -> float:
    """A standard deviation's worth: by the median deviation, or the 90 % quantile where a tenth of the runs is wild."""
    if len(residuals) == 0:
        return UNSEEN_WEEKDAY_SCALE
    deviations = np.abs(residuals - np.median(residuals))
    half, most = np.quantile(deviations, [0.5, 0.9])
    return float(max(_MAD_TO_SD * half, most / _Q90_SDS, MIN_SCALE))


def _effects(residuals: Floats, group: Integers, size: int) -> Floats:
    """The median of each group, shrunk by what chance alone would give (James and Stein, positive part), shape (size,).

    A group seen once has none.
    """
    medians = np.zeros(size)
    for k in np.unique(group):
        medians[k] = np.median(residuals[group == k])
    counts = np.bincount(group, minlength=size)
    error = _MEDIAN_ERROR * _MAD_TO_SD * np.median(np.abs(residuals - medians[group])) / np.sqrt(np.maximum(counts, 1))
    shrunk = 1 - np.minimum(error / np.where(medians == 0, np.inf, np.abs(medians)), 1) ** 2
    return np.where(counts >= 2, medians * shrunk, 0.0)


def _running_median(day: Floats, values: Floats) -> Floats:
    """The median of the `LEVEL_DAYS` around each run, at least `LEVEL_RUNS` runs; between every fourth day a line."""
    centres = np.arange(day[0], day[-1] + 4, 4.0)
    medians = [float(np.median(values[_around(day, c - LEVEL_DAYS / 2, c + LEVEL_DAYS / 2)])) for c in centres]
    return np.interp(day, centres, medians)


def _around(day: Floats, start: float, end: float) -> slice:
    """The runs from `start` to `end`, and more on both sides until there are `LEVEL_RUNS`."""
    first, last = int(np.searchsorted(day, start)), int(np.searchsorted(day, end, side="right"))
    missing = max(0, LEVEL_RUNS - (last - first))
    first = max(0, first - (missing + 1) // 2)
    last = min(len(day), max(last, first + LEVEL_RUNS))
    return slice(min(first, max(0, last - LEVEL_RUNS)), last)


def _levels(day: Floats, rest: Floats, time: Floats, growth: float) -> Floats:
    """Levels learned every `KNOT_DAYS` from what came before, the last one now; shape (knots, 3)."""
    knots = np.arange(day[-1], day[0] - 1e-9, -KNOT_DAYS)[::-1]
    enough = (np.searchsorted(day, knots, side="right") >= LEVEL_RUNS) & (knots >= day[0] + LEVEL_DAYS / 2)
    enough[-1] = True
    rows = []
    for knot in knots[enough]:
        last = int(np.searchsorted(day, knot, side="right"))
        first = min(int(np.searchsorted(day, knot - LEVEL_DAYS)), max(0, last - LEVEL_RUNS))
        since = day[first:last] - knot
        rows.append([knot + 1e-6, np.median(rest[first:last] - growth * since), np.median(time[first:last])])
    return np.array(rows)


def _theil_sen(day: Floats, values: Floats) -> float:
    """The median slope between daily medians at least a week apart, per day (Sen 1968); 0 for under two weeks."""
    days, inverse = np.unique(np.floor(day), return_inverse=True)
    if days[-1] - days[0] < 14:
        return 0.0
    daily = np.array([np.median(part) for part in np.split(values, np.flatnonzero(np.diff(inverse)) + 1)])
    i, j = np.triu_indices(len(days), 1)
    far = days[j] - days[i] >= 7
    return float(np.median((daily[j] - daily[i])[far] / (days[j] - days[i])[far]))
