"""Cohorts: sensors that share a forest, and what is learned from their readings.

One forest a channel serves every sensor of a kind, because each sensor's features are first brought to its own centre
and its own usual furthest. How rare a score is, is told by all sensors of the cohort together: one sensor in order
shows too few peaks in a fortnight to tell what it shows once in ten weeks.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import log, log10, sqrt
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from overcut.sensors.cutoffs import PROMOTION_DELAY, Cutoff, Usual, UsualRange
from overcut.sensors.features import (
    BASELINE_LAG,
    BASELINE_READINGS,
    CHANNELS,
    DETECTORS,
    LEVEL_READINGS,
    LONGEST_GAP,
    SCALES,
    STEPS,
    STEPS_KEPT,
    WINDOW,
    Detector,
    Feature,
    features_of,
)
from overcut.sensors.forest import ForestParameters, forest_score, train_forest
from overcut.sensors.incidents import RunRule
from overcut.sensors.models import Channel, Model, Rarity, dump_model, to_odds

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

MIN_READINGS = 240
# enough to fill every tree's sample several times over; more change neither forest nor scores noticeably
MAX_FOREST_POINTS = 15_000
# a sensor's usual furthest: what nine in ten stretches of four hours stay within
STRETCH, STRETCHES, STAY_WITHIN = 240, 10, 0.9
# an excursion to the other side than usual is not more unusual than this many times
LEAST_SIDE = 0.5
# the scores of a sensor at rest are all one; its cutoff is to reach the budget all the same
LEAST_SD = 1e-9
# peaks are taken an hour apart, so that one excursion counts once
PEAK_READINGS = 60
# where the tail begins: what a sensor in order exceeds so many times a week. Not further out, where a few faults that
# nobody found would be most of the peaks
TAIL_A_WEEK, LEAST_TAIL_PEAKS = 10, 5
# what never went further in a fortnight may yet: no tail is taken for shorter than this share of where it begins
LEAST_TAIL = 0.1
# a reading stands for a minute: a slow sensor has as few false alarms a reading as a fast one, and so fewer a week
DAY_READINGS, WEEK_READINGS = 1_440, 10_080
# a sensor may have by chance so many more peaks than its share
SURPLUS_SIGMAS, SURPLUS_PEAKS = 3.0, 5
# nobody is woken for fewer of the smallest steps that a sensor shows
MIN_DEVIATION_STEPS = 3
# equal readings in a row: fewer are never stuck, and a sensor is when it shows this many times its longest row so far
STUCK_LEAST, STUCK_FACTOR = 15, 1.5
# the steps instruments are made with, coarsest first
_USUAL_STEPS = (1.0, 0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005, 0.001)


@dataclass(frozen=True, slots=True)
class SensorSeries:
    """What one sensor measured in the training window.

    Attributes:
        measured_at: seconds since 1970, ascending, shape (readings,).
        values: finite, shape (readings, measures).
        is_clean: which readings may be learned from: none of an incident's; shape (readings,). All of them without it.
        min_deviation: by measure, where the stage sets it.
    """

    sensor_id: str
    measured_at: NDArray[np.int64]
    values: Floats
    is_clean: Booleans | None = None
    min_deviation: Mapping[str, float] = field(default_factory=dict)

    @property
    def interval(self) -> timedelta:
        """How far apart its readings usually are."""
        return timedelta(seconds=max(1, round(float(np.median(np.diff(self.measured_at))))))


@dataclass(frozen=True)
class TrainingRules:
    """What training goes by.

    Attributes:
        z_factor: standard deviations of its training scores that a cutoff lies above their mean at least.
        false_alarm_budget: incidents a sensor-week that people put up with while nothing is wrong; the laboratory has
            none.
    """

    forest: ForestParameters = field(default_factory=ForestParameters)
    detector: Detector = "channels"
    z_factor: float = 2.5
    false_alarm_budget: float = 0.1
    run_rule: RunRule = field(default_factory=RunRule)


@dataclass(frozen=True)
class CohortModel:
    """What a training gives: a model, a cutoff a sensor, and who must go on learning.

    Attributes:
        model: None when no sensor had enough readings.
        learning: sensors with too few readings for a cutoff, and how many they had.
    """

    cohort_id: str
    model_version: str
    model: Model | None
    cutoffs: tuple[Cutoff, ...]
    learning: dict[str, int]


def cohort_id(kind: str, source_id: str, measures: Sequence[str]) -> str:
    """The cohort of sensors of `kind`, or without one of those of `source_id`, that have the same measures.

    Readable, safe as part of a path, and different for different cohorts.
    """
    name = f"kind {kind}" if kind else f"source {source_id}"
    full = "\n".join([name, *sorted(measures)])
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{slug}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def train_cohort(
    series: Sequence[SensorSeries],
    *,
    cohort_id: str,
    measures: Sequence[str],
    rules: TrainingRules,
    trained_at: datetime,
    seed: int,
) -> CohortModel:
    """Train a cohort's model and its sensors' cutoffs.

    Args:
        series: one a sensor, values in the order of `measures`.
        seed: makes the result repeatable.
    """
    enough = {one.sensor_id: _clean_count(one) for one in series}
    learned = [one for one in series if enough[one.sensor_id] >= MIN_READINGS]
    learning = {sensor_id: count for sensor_id, count in enough.items() if count < MIN_READINGS}
    if not learned:
        return CohortModel(cohort_id, "", None, (), learning)
    steps = _steps(learned)
    sensors = [_learn_usual(one, measures, steps[k], rules) for k, one in enumerate(learned)]
    random = np.random.default_rng(seed)
    channels, scores = [], []
    for name in DETECTORS[rules.detector]:
        channel, found = _train_channel(name, sensors, rules, random, seed)
        channels.append(channel)
        scores.append(found)
    model = Model(tuple(channels))
    fingerprint = hashlib.sha256(dump_model(model)).hexdigest()[:8]
    version = f"{trained_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{fingerprint}"
    most = [np.max(of_sensor, axis=0) for of_sensor in zip(*scores, strict=True)]
    cutoffs = tuple(
        _cutoff(sensor, anomaly_scores, rules, cohort_id=cohort_id, model_version=version, trained_at=trained_at)
        for sensor, anomaly_scores in zip(sensors, most, strict=True)
    )
    return CohortModel(cohort_id, version, model, cutoffs, learning)


def _clean_count(one: SensorSeries) -> int:
    return int(one.is_clean.sum()) if one.is_clean is not None else len(one.measured_at)


# --- what is usual ---


@dataclass(frozen=True)
class _Sensor:
    """A sensor while its cohort is trained.

    Attributes:
        normalised: of each feature, of the readings that are learned from; each of shape (readings, measures).
        run: how many anomalous readings are a run.
    """

    series: SensorSeries
    ranges: tuple[UsualRange, ...]
    normalised: Mapping[Feature, Floats]
    run: int

    @property
    def weeks(self) -> float:
        return len(next(iter(self.normalised.values()))) / WEEK_READINGS


def _learn_usual(one: SensorSeries, measures: Sequence[str], steps: Floats, rules: TrainingRules) -> _Sensor:
    names, run = features_of(rules.detector), rules.run_rule.readings_needed(one.interval)
    found = series_features(one, names)
    clean = np.ones(len(one.measured_at), dtype=bool) if one.is_clean is None else one.is_clean
    known = clean & np.all([np.isfinite(column).all(axis=1) for column in found.values()], axis=0)
    if not known.any():  # nothing but short pieces: what no window shows is as usual
        known = clean
    days = known.sum() / DAY_READINGS
    ranges, normalised = [], {name: np.zeros((int(known.sum()), len(measures))) for name in names}
    for m, measure in enumerate(measures):
        min_deviation = one.min_deviation.get(measure, MIN_DEVIATION_STEPS * float(steps[m]))
        features: dict[Feature, Usual] = {}
        for name in names:
            column = found[name][known, m]
            full = column[np.isfinite(column)]
            least = max(float(steps[m]), min_deviation / MIN_DEVIATION_STEPS)
            usual = _usual(name, full if len(full) else np.zeros(1), least=least, days=days, run=run)
            features[name] = usual
            deviation = np.nan_to_num(column - usual.centre)
            below = deviation / usual.down if usual.down else np.zeros_like(deviation)
            normalised[name][:, m] = np.where(deviation >= 0, deviation / usual.up, below)
        low, high = np.quantile(one.values[clean, m], [0.01, 0.99])
        ranges.append(UsualRange(measure, float(low), float(high), min_deviation, features))
    return _Sensor(one, tuple(ranges), normalised, run)


def _usual(name: Feature, column: Floats, *, least: float, days: float, run: int) -> Usual:
    """What a feature usually is: its median, and how far it stays to both sides of it for a run of readings.

    The furthest is the 90 % quantile over stretches of four hours, so that one bad hour in the training window does not
    make the sensor deaf. A level must be known for days: what a few hours show is widened.
    """
    centre = float(np.median(column))
    least *= SCALES[name]
    above, below = sustained(column - centre, run), sustained(centre - column, run)
    stretches = max(STRETCHES, len(column) // STRETCH)
    up, down = (
        float(np.quantile([part.max() for part in np.array_split(side, stretches) if len(part)], STAY_WITHIN))
        for side in (above, below)
    )
    furthest = max(up, down)
    widened = sqrt(1 + 1 / days) if name in ("level", "value") else 1.0
    up, down = (max(side, LEAST_SIDE * furthest, least) * widened for side in (up, down))
    return Usual(centre, up, 0.0 if name == "volatility" else down)


def sustained(values: Floats, readings: int) -> Floats:
    """Of each reading the least of it and those before, of so many: what a run exceeds; shape (readings,)."""
    padded = np.concatenate([np.repeat(values[:1], readings - 1), values])
    return np.asarray(sliding_window_view(padded, readings).min(axis=1))


# --- features of a whole series, as `overcut.sensors.features` makes them of one reading ---


def series_features(one: SensorSeries, names: Sequence[Feature]) -> dict[Feature, Floats]:
    """The features of every reading, each of shape (readings, measures); NaN where a window is not full."""
    gaps = np.flatnonzero(np.diff(one.measured_at) > LONGEST_GAP * one.interval.total_seconds()) + 1
    pieces = np.split(one.values, gaps)
    return {name: np.concatenate([_WHOLE[name](piece) for piece in pieces]) for name in names}


def _trailing(values: Floats, readings: int, lag: int, of: Literal["median", "trimmed mean"]) -> Floats:
    found = np.full(values.shape, np.nan)
    if len(values) >= readings + lag:
        windows = np.sort(sliding_window_view(values[: len(values) - lag], readings, axis=0), axis=-1)
        if of == "median":
            found[readings + lag - 1 :] = windows[..., readings // 2]
        else:
            found[readings + lag - 1 :] = windows[..., :STEPS_KEPT].sum(axis=-1) / STEPS_KEPT
    return found


def _jumps(values: Floats) -> Floats:
    return np.asarray(values - _trailing(values, BASELINE_READINGS, BASELINE_LAG, "median"))


def _levels(values: Floats) -> Floats:
    return _trailing(values, LEVEL_READINGS, 0, "median")


def _volatilities(values: Floats) -> Floats:
    found = np.full(values.shape, np.nan)
    if len(values) >= WINDOW:
        found[1:] = _trailing(np.abs(np.diff(values, axis=0)), STEPS, 0, "trimmed mean")
    return found


def _values(values: Floats) -> Floats:
    return values


_WHOLE = {"jump": _jumps, "level": _levels, "volatility": _volatilities, "value": _values}


# --- forests, and how rare their scores are ---


def _train_channel(
    name: str, sensors: Sequence[_Sensor], rules: TrainingRules, random: np.random.Generator, seed: int
) -> tuple[Channel, list[Floats]]:
    """A channel, and the anomaly scores of what its sensors are trained on, one array a sensor."""
    points = [_points(sensor, CHANNELS[name]) for sensor in sensors]
    everything = np.concatenate(points)
    shown = everything[random.permutation(len(everything))[:MAX_FOREST_POINTS]]
    forest = train_forest(shown.tolist(), everything.shape[1], parameters=rules.forest, seed=seed)
    scores = [np.array([forest_score(forest, point) for point in of_sensor.tolist()]) for of_sensor in points]
    if rules.detector == "laboratory":
        return Channel(name, forest, None), scores
    rarity = _rarity(sensors, scores, rules.forest.highest_score)
    return Channel(name, forest, rarity), [np.array([rarity.of(score) for score in some.tolist()]) for some in scores]


def _points(sensor: _Sensor, features: Sequence[Feature]) -> Floats:
    """Shape (readings, measures x features), in the order of `models.score_reading`."""
    columns = [sensor.normalised[feature] for feature in features]
    return np.stack(columns, axis=2).reshape(len(columns[0]), -1)


def _rarity(sensors: Sequence[_Sensor], scores: Sequence[Floats], highest: float) -> Rarity:
    """How often a sensor in order goes on at a score for a run of readings, from an hour's peaks of all sensors.

    Past what is exceeded ten times a week the tail is taken for exponential in the odds, which are a distance. Its mean
    is the peaks' median excess, over log 2: a fault among them does not make it long. It is taken two standard errors
    longer than that.
    """
    readings = to_odds_array(np.concatenate(scores), highest)
    runs = [_peaks(sustained(some, sensor.run)) for sensor, some in zip(sensors, scores, strict=True)]
    peaks = np.sort(to_odds_array(np.concatenate(runs), highest))
    weeks = sum(sensor.weeks for sensor in sensors)
    tail = max(1, min(max(LEAST_TAIL_PEAKS, round(TAIL_A_WEEK * weeks)), len(peaks) // 2))
    threshold = float(peaks[max(0, len(peaks) - tail - 1)])
    # the common readings by their own number, rarer ones by peaks
    knots = [(float(np.quantile(readings, q)), -log10((1 - q) * len(readings) / weeks)) for q in (0.0, 0.25, 0.5)]
    knots += [(float(np.quantile(peaks, 0.5)), -log10(0.5 * len(peaks) / weeks)), (threshold, -log10(tail / weeks))]
    mean_excess = (float(np.median(peaks[-tail:])) - threshold) / log(2) * (1 + 2 / sqrt(tail))
    slope = 1 / (max(mean_excess, LEAST_TAIL * max(threshold, LEAST_TAIL)) * log(10))
    rising = [knots[0]]
    for knot in knots[1:]:
        if knot[0] > rising[-1][0] and knot[1] > rising[-1][1]:
            rising.append(knot)
    odds, decades = zip(*rising, strict=True)
    return Rarity(highest, odds, decades, slope)


def to_odds_array(scores: Floats, highest: float) -> Floats:
    return np.array([to_odds(score, highest) for score in scores.tolist()])


def _peaks(runs: Floats) -> Floats:
    return np.array([part.max() for part in np.array_split(runs, max(1, len(runs) // PEAK_READINGS))])


def _cutoff(
    sensor: _Sensor,
    anomaly_scores: Floats,
    rules: TrainingRules,
    *,
    cohort_id: str,
    model_version: str,
    trained_at: datetime,
) -> Cutoff:
    mean, sd = float(anomaly_scores.mean()), max(float(anomaly_scores.std()), LEAST_SD)
    z_factor = rules.z_factor
    if rules.detector != "laboratory":
        budget = log10(len(DETECTORS[rules.detector]) / rules.false_alarm_budget)
        z_factor = max(z_factor, (budget + _surplus(sensor, anomaly_scores) - mean) / sd)
    one = sensor.series
    return Cutoff(
        sensor_id=one.sensor_id,
        trained_at=trained_at,
        effective_from=trained_at + PROMOTION_DELAY,
        cohort_id=cohort_id,
        model_version=model_version,
        score_cutoff=mean + z_factor * sd,
        score_mean=mean,
        score_sd=sd,
        z_factor=z_factor,
        interval=one.interval,
        stuck_after=_stuck_after(one.values, sensor.run),
        reading_count=len(one.measured_at),
        ranges=sensor.ranges,
    )


def _surplus(sensor: _Sensor, anomaly_scores: Floats) -> float:
    """Decades that a sensor's cutoff is raised by, since it has clearly more peaks than its share: by how many more."""
    peaks = _peaks(sustained(anomaly_scores, sensor.run))
    # what every sensor is to show once a week
    expected, found = len(DETECTORS["channels"]) * sensor.weeks, int((peaks > 0).sum())
    if found < SURPLUS_PEAKS or found < expected + SURPLUS_SIGMAS * sqrt(expected):
        return 0.0
    return log10(found / expected)


def _stuck_after(values: Floats, run: int) -> int:
    longest = max(_longest_row(column) for column in values.T)
    needed = max(STUCK_LEAST, round(STUCK_FACTOR * longest) + run)
    return needed if needed <= WINDOW else 0


def _longest_row(column: Floats) -> int:
    changes = np.flatnonzero(np.diff(column)) + 1
    return int(np.diff(np.concatenate([[0], changes, [len(column)]])).max())


# --- the steps that a sensor shows ---


def _steps(series: Sequence[SensorSeries]) -> Floats:
    """The smallest step of each sensor's measures, shape (sensors, measures).

    A measure that never moved, or in no more than one reading of a hundred, does not show its step: it has its cohort's
    median, and where the whole cohort rests, the coarsest usual step that its value is a multiple of.
    """
    steps = np.array([[_smallest_step(column) for column in s.values.T] for s in series])
    moving = np.array([[_moves(column) for column in s.values.T] for s in series])
    for m in range(steps.shape[1]):
        cohort = float(np.median(steps[moving[:, m], m])) if moving[:, m].any() else None
        for k in map(int, np.flatnonzero(~moving[:, m])):
            usual = cohort or _usual_step(float(np.median(series[k].values[:, m])))
            steps[k, m] = min(usual, steps[k, m] or usual)
    return steps


def _moves(column: Floats) -> bool:
    low, high = np.quantile(column, [0.005, 0.995], method="nearest")
    return bool(low < high)


def _smallest_step(column: Floats) -> float:
    distinct = np.unique(np.round(column, 9))
    return float(np.diff(distinct).min()) if len(distinct) > 1 else 0.0


def _usual_step(value: float) -> float:
    for step in _USUAL_STEPS:
        if abs(value / step - round(value / step)) < 1e-6:
            return step
    return _USUAL_STEPS[-1]
