"""The backtest: production's own training, judging and incidents, walked forward over recorded readings.

At every training time each cohort is trained on the window before it, reviewed, and put to use a quarter of an hour
later; every reading is judged by what was in force when it was measured. Nothing sees a later reading.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overcut.sensors.cohorts import SensorSeries, TrainingRules, cohort_id, train_cohort
from overcut.sensors.cutoffs import PROMOTION_DELAY, Cutoff, retired
from overcut.sensors.features import WINDOW
from overcut.sensors.incidents import (
    KINDS,
    ChangeKind,
    Head,
    JudgedReading,
    RunRule,
    decide,
)
from overcut.sensors.judging import Series, judge
from overcut.sensors.learning import Abnormal, clean, long_enough, review, window_of
from overcut.sensors.models import Score, dump_model, load_model
from overcut.sensors.readings import Reading, format_time


@dataclass(frozen=True)
class BacktestRules:
    """What is replayed, of a stage's settings.

    Attributes:
        min_deviation: by measure, where the stage sets it.
    """

    training: TrainingRules
    window: timedelta = timedelta(days=14)
    new_normal_after: timedelta = timedelta(hours=24)
    min_deviation: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ReplayedIncident:
    """An incident that production would have opened."""

    sensor_id: str
    kind: str
    first_anomalous_at: datetime
    opened_at: datetime
    last_anomalous_at: datetime
    recovered_at: datetime | None


@dataclass(frozen=True)
class Scores:
    """What verdicts come from, one value a verdict.

    Attributes:
        anomaly_score: NaN where the reading could not be scored.
        is_material: whether some feature deviates by as much as anybody would be woken for.
    """

    anomaly_score: NDArray[np.float64]
    is_material: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: Sequence[tuple[float, bool]]) -> "Scores":
        return cls(np.array([score for score, _ in scores]), np.array([material for _, material in scores], dtype=bool))

    @classmethod
    def joined(cls, parts: Sequence["Scores"]) -> "Scores":
        return cls(
            np.concatenate([[], *(part.anomaly_score for part in parts)]),
            np.concatenate([np.zeros(0, dtype=bool), *(part.is_material for part in parts)]),
        )


@dataclass
class _Sensor:
    """A sensor while its readings are replayed."""

    sensor_id: str
    measures: tuple[str, ...]
    times: NDArray[np.int64]
    values: NDArray[np.float64]
    cutoffs: list[Cutoff] = field(default_factory=list)
    judged: list[JudgedReading] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    heads: dict[str, Head] = field(default_factory=dict)
    incidents: dict[tuple[str, datetime], ReplayedIncident] = field(default_factory=dict)

    def number(self, moment: datetime) -> int:
        """Of the first reading at or after a moment."""
        return int(np.searchsorted(self.times, moment.timestamp()))

    def series(self, ends_at: datetime, window: timedelta, min_deviation: Mapping[str, float]) -> SensorSeries:
        """What it measured in a window before `ends_at`."""
        span = slice(self.number(ends_at - window), self.number(ends_at))
        return SensorSeries(self.sensor_id, self.times[span], self.values[span], min_deviation=min_deviation)

    def abnormal(self, since: datetime) -> list[Abnormal]:
        return [
            Abnormal(one.first_anomalous_at, one.last_anomalous_at)
            for one in self.incidents.values()
            if one.last_anomalous_at >= since
        ]


@dataclass(frozen=True)
class Replay:
    """What a backtest saw.

    Attributes:
        judged: of each sensor every verdict, in order.
        scores: of each sensor what its verdicts come from.
        cutoffs: of each sensor every cutoff, in order.
        held: versions that were not put to use, and why.
    """

    incidents: list[ReplayedIncident]
    judged: Mapping[str, Sequence[JudgedReading]]
    scores: Mapping[str, Scores]
    cutoffs: Mapping[str, Sequence[Cutoff]]
    held: list[str]


def replay(
    readings: Sequence[Reading],
    trainings: Sequence[datetime],
    rules: BacktestRules,
    *,
    executor: Executor | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Replay:
    """Walk forward over recorded readings.

    Args:
        readings: sorted by time, of any number of sensors; those with the same measures are a cohort.
        trainings: when the workflow trains, ascending.
        executor: where sensors are judged at once.
        advance: told after every training how many of all are done.
    """
    cohorts = _cohorts(readings)
    models: dict[str, bytes] = {}
    held: list[str] = []
    ends = [moment + PROMOTION_DELAY for moment in trainings[1:]]
    for number, (trained_at, end) in enumerate(zip(trainings, [*ends, None], strict=True), start=1):
        for name, sensors in cohorts.items():
            held += _train(name, sensors, trained_at, rules, models)
            busy = [one for one in sensors if one.cutoffs and one.cutoffs[-1].ranges]
            tasks = [_task(one, trained_at + PROMOTION_DELAY, end, models, rules) for one in busy]
            found = executor.map(_judge, tasks, chunksize=4) if executor else map(_judge, tasks)
            for one, (judged, scores) in zip(busy, found, strict=True):
                one.scores.append(scores)
                _settle(one, judged, rules.training.run_rule)
        advance(number, len(trainings))
    everybody = [one for sensors in cohorts.values() for one in sensors]
    incidents = [incident for one in everybody for incident in one.incidents.values()]
    return Replay(
        sorted(incidents, key=lambda one: (one.opened_at, one.sensor_id, one.kind)),
        {one.sensor_id: one.judged for one in everybody},
        {one.sensor_id: Scores.joined(one.scores) for one in everybody},
        {one.sensor_id: one.cutoffs for one in everybody},
        held,
    )


def _cohorts(readings: Sequence[Reading]) -> dict[str, list[_Sensor]]:
    """The sensors by cohort; of each sensor the readings that have all of its measures."""
    by_sensor: dict[str, list[Reading]] = {}
    for reading in readings:
        by_sensor.setdefault(reading.sensor_id, []).append(reading)
    cohorts: dict[str, list[_Sensor]] = {}
    for sensor_id, of_sensor in sorted(by_sensor.items()):
        measures = tuple(sorted({measure for reading in of_sensor for measure in reading.values}))
        whole = [reading for reading in of_sensor if len(reading.values) == len(measures)]
        sensor = _Sensor(
            sensor_id,
            measures,
            np.array([int(reading.measured_at.timestamp()) for reading in whole], dtype=np.int64),
            np.array([[reading.values[m] for m in measures] for reading in whole]).reshape(-1, len(measures)),
        )
        cohorts.setdefault(cohort_id("", "recorded", measures), []).append(sensor)
    return cohorts


def _train(
    name: str, sensors: Sequence[_Sensor], trained_at: datetime, rules: BacktestRules, models: dict[str, bytes]
) -> list[str]:
    """Train a cohort, and put the cutoffs to use unless the review holds them; return why it does, if it does."""
    series, anew = [], set()
    for one in sensors:
        found = one.series(trained_at, rules.window, rules.min_deviation)
        if not len(found.measured_at):
            if one.cutoffs and one.cutoffs[-1].ranges:
                one.cutoffs.append(retired(one.cutoffs[-1], trained_at, trained_at + PROMOTION_DELAY))
            continue
        for _ in range(2):  # as it is now, and as it was in what that asks for: it may have been quicker
            found = one.series(trained_at, window_of(found, rules.window), rules.min_deviation)
        abnormal = one.abnormal(trained_at - window_of(found, rules.window))
        if any(each.is_new_normal(long_enough(found, rules.new_normal_after)) for each in abnormal):
            anew.add(one.sensor_id)
        series.append(clean(found, abnormal, new_normal_after=rules.new_normal_after))
    trained = train_cohort(
        series,
        cohort_id=name,
        measures=sensors[0].measures,
        rules=rules.training,
        trained_at=trained_at,
        seed=rules.seed,
    )
    if trained.model is None:
        return []
    reviewed = review(trained.cutoffs, {one.sensor_id: one.cutoffs for one in sensors}, frozenset(anew))
    if reviewed.held:
        return [f"{format_time(trained_at)} {name}: {reviewed.held}"]
    by_sensor = {one.sensor_id: one for one in sensors}
    for cutoff in reviewed.cutoffs:
        models[cutoff.model_key] = dump_model(trained.model)
        by_sensor[cutoff.sensor_id].cutoffs.append(cutoff)
    return []


@dataclass(frozen=True)
class _Task:
    """Readings of one sensor to judge: those from number `first` on."""

    series: Series
    first: int
    cutoff: Cutoff
    model: bytes
    rule: RunRule


def _task(
    one: _Sensor, begin: datetime, end: datetime | None, models: Mapping[str, bytes], rules: BacktestRules
) -> _Task:
    first, last = one.number(begin), len(one.times) if end is None else one.number(end)
    span = slice(max(0, first - WINDOW), last)
    values = {measure: one.values[span, m].tolist() for m, measure in enumerate(one.measures)}
    series, cutoff = Series(one.times[span].tolist(), values), one.cutoffs[-1]
    return _Task(series, first - span.start, cutoff, models[cutoff.model_key], rules.training.run_rule)


def _judge(task: _Task) -> tuple[list[JudgedReading], Scores]:
    model, kept = _loaded(task.model), []

    def keep(found: Score | None) -> None:
        kept.append((found.anomaly_score, found.is_material) if found else (float("nan"), False))

    judged = judge(task.series, task.first, [task.cutoff], lambda _: model, task.rule, keep)
    return judged, Scores.of(kept)


_loaded = lru_cache(maxsize=8)(load_model)


def _settle(one: _Sensor, judged: Sequence[JudgedReading], rule: RunRule) -> None:
    """Bring a sensor's incidents up to date with new verdicts."""
    interval = one.cutoffs[-1].interval
    before = one.judged[-rule.history_needed(interval) :]
    one.judged += judged
    for kind in KINDS:
        head = one.heads.get(kind)
        if head and head.is_open and before and before[0].measured_at > head.last_anomalous_at:
            at = bisect_left(one.judged, head.last_anomalous_at, key=lambda each: each.measured_at)
            before = one.judged[max(0, at - rule.readings_needed(interval)) : -len(judged) or None]
        window = [each.of_kind(kind) for each in (*before, *judged)]
        for change in decide(head, window, {each.measured_at for each in judged}, interval, rule):
            episode = change.episode
            if change.head:
                one.heads[kind] = change.head
            if change.kind in (ChangeKind.OPEN, ChangeKind.EXTEND, ChangeKind.RECOVER):
                one.incidents[kind, episode.opened_at] = ReplayedIncident(
                    one.sensor_id,
                    kind,
                    episode.first_anomalous_at,
                    episode.opened_at,
                    episode.last_anomalous_at,
                    episode.recovered_at,
                )


# --- scoring ---

FOUND_AFTER = timedelta(minutes=5)
FALSE_AFTER = timedelta(hours=1)
LEARNING_DAYS = timedelta(days=5)
WEEK_READINGS = 10_080
SOON = timedelta(minutes=10)
SHIFTS = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that is known to be in the readings of one sensor; both ends inclusive."""

    sensor_id: str
    started_at: datetime
    ended_at: datetime
    kind: str


class Recording:
    """Recorded readings and the faults known to be in them: what incidents are measured by.

    A fault is found when an incident opens inside it, or within five minutes after its end. An incident is false when
    it opens in no fault, nor in the hour after one.

    Args:
        counted_from: what lies before does not count; without it, a sensor's first five days.
    """

    def __init__(
        self, readings: Sequence[Reading], faults: Sequence[Fault], *, counted_from: datetime | None = None
    ) -> None:
        times: dict[str, list[float]] = {}
        for reading in readings:
            times.setdefault(reading.sensor_id, []).append(reading.measured_at.timestamp())
        self._sensors = {
            sensor_id: _Recorded(
                np.sort(of_sensor),
                counted_from.timestamp() if counted_from else min(of_sensor) + LEARNING_DAYS.total_seconds(),
                [fault for fault in faults if fault.sensor_id == sensor_id],
            )
            for sensor_id, of_sensor in times.items()
        }

    def false(self, incidents: Iterable[ReplayedIncident]) -> list[ReplayedIncident]:
        """Those of the incidents that are false."""
        return [
            one
            for one in self._counted(incidents)
            if not _within(one.opened_at, self._sensors[one.sensor_id].faults, FALSE_AFTER)
        ]

    def _counted(self, incidents: Iterable[ReplayedIncident]) -> Iterator[ReplayedIncident]:
        return (one for one in incidents if one.opened_at.timestamp() >= self._sensors[one.sensor_id].counted_from)

    def score(self, incidents: Sequence[ReplayedIncident]) -> dict[str, Any]:
        """The figures of the backtest, by name; shares are None where there is nothing to share."""
        by_sensor: dict[str, list[ReplayedIncident]] = {sensor_id: [] for sensor_id in self._sensors}
        for one in self._counted(incidents):
            by_sensor[one.sensor_id].append(one)
        false = len(self.false(incidents))
        outside = alerted = 0
        by_chance = 0.0
        delays: list[tuple[str, timedelta | None]] = []
        for sensor_id, sensor in self._sensors.items():
            opened = [one.opened_at for one in by_sensor[sensor_id]]
            spans = [(one.first_anomalous_at, one.last_anomalous_at) for one in by_sensor[sensor_id]]
            outside += int(sensor.is_counted.sum())
            alerted += int((sensor.is_clean & _inside(sensor.times, spans)).sum())
            delays += [(fault.kind, _delay(fault, opened)) for fault in sensor.counted_faults]
            by_chance += sensor.found_by_chance(opened)
        found = [delay for _, delay in delays if delay is not None]
        of_kind = {kind: [d for k, d in delays if k == kind] for kind in sorted({kind for kind, _ in delays})}
        weeks = outside / WEEK_READINGS
        return {
            "sensors": len(self._sensors),
            "sensor_weeks": round(weeks, 2),
            "faults": len(delays),
            "found": len(found),
            "recall": _share([delay is not None for _, delay in delays]),
            "recall_by_kind": {kind: _share([d is not None for d in some]) for kind, some in of_kind.items()},
            "median_delay_minutes": _quantile(found, 0.5),
            "p95_delay_minutes": _quantile(found, 0.95),
            "recall_within_10_minutes_by_kind": {
                kind: _share([d is not None and d <= SOON for d in some]) for kind, some in of_kind.items()
            },
            "false_incidents": false,
            "false_incidents_per_sensor_week": false / weeks if weeks else None,
            "minutes_in_alert_share": alerted / outside if outside else None,
            "found_by_chance": by_chance,
            "incidents": [
                {
                    "sensor_id": one.sensor_id,
                    "kind": one.kind,
                    "first_anomalous_at": format_time(one.first_anomalous_at),
                    "opened_at": format_time(one.opened_at),
                    "recovered_at": one.recovered_at and format_time(one.recovered_at),
                }
                for one in incidents
            ],
        }


def score(
    readings: Sequence[Reading],
    incidents: Sequence[ReplayedIncident],
    faults: Sequence[Fault],
    *,
    counted_from: datetime | None = None,
) -> dict[str, Any]:
    """How well incidents tell of faults: the figures of `Recording.score`."""
    return Recording(readings, faults, counted_from=counted_from).score(incidents)


class _Recorded:
    """One sensor of a recording.

    Attributes:
        is_counted: which of its readings lie in no fault; shape (readings,).
        is_clean: which of those do not lie in the hour after one either.
        counted_faults: those that begin when counting has.
    """

    def __init__(self, times: NDArray[np.float64], counted_from: float, faults: Sequence[Fault]) -> None:
        self.times, self.counted_from, self.faults = times, counted_from, faults
        self.counted_faults = [fault for fault in faults if fault.started_at.timestamp() >= counted_from]
        self.is_counted = (times >= counted_from) & ~_inside(times, [(f.started_at, f.ended_at) for f in faults])
        after = _inside(times, [(fault.started_at, fault.ended_at + FALSE_AFTER) for fault in faults])
        self.is_clean = self.is_counted & ~after

    def found_by_chance(self, opened: Sequence[datetime]) -> float:
        """How many faults would be found were they elsewhere: the mean over circular shifts."""
        begin = datetime.fromtimestamp(self.counted_from, UTC)
        length = datetime.fromtimestamp(float(self.times[-1]), UTC) - begin
        total = 0
        for fault in self.counted_faults if opened and length > timedelta() else ():
            for shift in range(1, SHIFTS + 1):
                moved = begin + (fault.started_at - begin + length * shift / (SHIFTS + 1)) % length
                ends = moved + (fault.ended_at - fault.started_at)
                total += _delay(replace(fault, started_at=moved, ended_at=ends), opened) is not None
        return total / SHIFTS


def _inside(times: NDArray[np.float64], spans: Iterable[tuple[datetime, datetime]]) -> NDArray[np.bool_]:
    """Which of the ascending times lie in one of the spans, ends included."""
    found = np.zeros(len(times), dtype=bool)
    for first, last in spans:
        found[np.searchsorted(times, first.timestamp()) : np.searchsorted(times, last.timestamp(), "right")] = True
    return found


def _within(moment: datetime, faults: Iterable[Fault], after: timedelta) -> bool:
    return any(fault.started_at <= moment <= fault.ended_at + after for fault in faults)


def _delay(fault: Fault, opened: Iterable[datetime]) -> timedelta | None:
    found = (moment for moment in opened if fault.started_at <= moment <= fault.ended_at + FOUND_AFTER)
    first = min(found, default=None)
    return None if first is None else first - fault.started_at


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def _quantile(delays: Sequence[timedelta], share: float) -> float | None:
    if not delays:
        return None
    return float(np.quantile([delay / timedelta(minutes=1) for delay in delays], share))
