"""Cohorts: sensors that share a forest, and what is learned from their readings.

One forest a channel serves every sensor of a kind, because each sensor's features are first brought to its own centre
and its own usual furthest. How rare a score is, is told by all sensors of the cohort together: one sensor in order
shows too few peaks in a fortnight to tell what it shows once in ten weeks.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache, partial
from math import log, log10, sqrt
from typing import Literal, TypeVar

import numpy as np
from krcf import RandomCutForest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from overcut.sensors.cutoffs import GRID, HALF_HOUR, HALF_HOURS, PROMOTION_DELAY, Cutoff, Usual, UsualRange
from overcut.sensors.features import (
    BASELINE_LAG,
    BASELINE_READINGS,
    CHANNELS,
    DETECTORS,
    LEVEL_READINGS,
    LONGEST_GAP,
    PLATEAU_READINGS,
    SCALES,
    STEPS,
    STEPS_KEPT,
    WINDOW,
    Detector,
    Feature,
    features_of,
)
from overcut.sensors.forest import ForestParameters, dump_forest, forest_score, load_forest, train_forest
from overcut.sensors.incidents import RunRule
from overcut.sensors.models import Channel, Model, Rarity

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Task = TypeVar("Task")
Result = TypeVar("Result")

MIN_READINGS = 240
# enough to fill every tree's sample several times over; more change neither forest nor scores noticeably
MAX_FOREST_POINTS = 15_000
# a sensor's usual furthest: what nine in ten stretches of four hours stay within
STRETCH, STRETCHES, STAY_WITHIN = 240, 10, 0.9
# an excursion to the other side than usual is not more unusual than this many times
LEAST_SIDE = 0.5
MAD_TO_SD = 1.4826
# a plateau is rarely more than nothing: it is usual up to this share of what a jump is
PLATEAU_SHARE = 0.6
# of what a forest is shown, what is spread over all that is usual
PRIOR_SHARE = 0.02
# a half hour of the day is routine when on so many of its days, of a week or more, jumps go half as far as they do at
# their usual furthest; so are two before and after it, since clocks are put forward and timers drift
ROUTINE_SHARE, ROUTINE_DAYS, ROUTINE_REACH, ROUTINE_MARGIN = 0.5, 7, 0.5, 2
# what does not halve what is usual at other times is no routine
ROUTINE_GAIN = 0.5
ROUTINE_FEATURES: tuple[Feature, ...] = ("jump", "plateau")
# of the false alarms that a sensor may have, what each channel may: most for the one that must be quick
SHARES = {"fast": 0.75, "shape": 0.25}
# the scores of a sensor at rest are all one; its cutoff is to reach the budget all the same
LEAST_SD = 1e-9
# peaks are taken an hour apart, so that one excursion counts once
PEAK_READINGS = 60
# where the tail begins: what a sensor in order exceeds so many times a week. Not further out, where a few faults that
# nobody found would be most of the peaks
TAIL_A_WEEK, LEAST_TAIL_PEAKS = 10, 5
# what never went further in a fortnight may yet: no tail is taken for shorter than this share of where it begins
LEAST_TAIL = 0.1
# a reading stands for a minute, however far apart a sensor's are
READING_MINUTES = timedelta(minutes=1)
DAY_READINGS, WEEK_READINGS = 1_440, 10_080
# a sensor may have by chance so many more peaks than its share
SURPLUS_SIGMAS, SURPLUS_PEAKS = 3.0, 5
# nobody is woken for fewer of the smallest steps that a sensor shows; in the laboratory, for the first
MIN_DEVIATION_STEPS: Mapping[Detector, float] = {"channels": 3, "laboratory": 1.5}
# equal readings in a row: fewer are never stuck, and a sensor is when it shows this many times its longest row so far
STUCK_LEAST, STUCK_FACTOR = 15, 1.5
# numbers that differ by less, as a part of them, are the same one calculated otherwise
LEAST_DIFFERENCE = 1e-12
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
    executor: Executor | None = None,
) -> CohortModel:
    """Train a cohort's model and its sensors' cutoffs.

    Beside the series it holds two numbers a reading and channel, however many sensors: what a sensor's readings are
    scored by is made again for each of them where it is needed.

    Args:
        series: one a sensor, values in the order of `measures`.
        seed: makes the result repeatable.
        executor: where sensors are learned and scored at once; the result is the same with and without it.
    """
    enough = {one.sensor_id: int(_clean(one).sum()) for one in series}
    learned = [one for one in series if enough[one.sensor_id] >= MIN_READINGS]
    learning = {sensor_id: count for sensor_id, count in enough.items() if count < MIN_READINGS}
    if not learned:
        return CohortModel(cohort_id, "", None, (), learning)
    names = features_of(rules.detector)
    counts = [int(_learnable(one, names).sum()) for one in learned]
    ends = np.cumsum(counts)
    shown = _shown(DETECTORS[rules.detector], ends, np.random.default_rng(seed))
    learning_tasks = [
        _LearningTask(one, steps, {name: rows[k] for name, rows in shown.rows.items()})
        for k, (one, steps) in enumerate(zip(learned, _steps(learned), strict=True))
    ]
    sensors, points = [], []
    for sensor, found in _each(partial(_learn_usual, measures=measures, rules=rules), learning_tasks, executor):
        sensors.append(sensor)
        points.append(found)
    forests = {
        name: train_forest(
            _with_prior(shown.in_order(name, [of_sensor[name] for of_sensor in points]), name, rules, seed).tolist(),
            len(measures) * len(CHANNELS[name]),
            parameters=rules.forest,
            seed=seed,
        )
        for name in DETECTORS[rules.detector]
    }
    stored = {name: dump_forest(forest) for name, forest in forests.items()} if executor else {}
    scores = {name: np.empty(ends[-1]) for name in forests}
    tasks = [_ScoringTask(one, sensor) for one, sensor in zip(learned, sensors, strict=True)]
    score = partial(_score_stored, stored) if executor else partial(_score, forests)
    for of_sensor, places in zip(_each(score, tasks, executor), _slices(ends), strict=True):
        for name, column in of_sensor.items():
            scores[name][places] = column
    channels, most = _rate(forests, scores, sensors, ends, rules)
    # not of the forests: the library keeps equal points in no order
    version = f"{trained_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{hashlib.sha256(most.tobytes()).hexdigest()[:8]}"
    cutoffs = tuple(
        _cutoff(one, sensor, most[places], rules, cohort_id=cohort_id, model_version=version, trained_at=trained_at)
        for one, sensor, places in zip(learned, sensors, _slices(ends), strict=True)
    )
    return CohortModel(cohort_id, version, Model(channels), cutoffs, learning)


def _each(work: Callable[[Task], Result], tasks: Sequence[Task], executor: Executor | None) -> Iterator[Result]:
    return executor.map(work, tasks) if executor else map(work, tasks)


def _slices(ends: NDArray[np.int64]) -> list[slice]:
    """Where each sensor's readings are, when those of all lie one after another."""
    return [slice(first, end) for first, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]


def _with_prior(points: Floats, channel: str, rules: TrainingRules, seed: int) -> Floats:
    """The points, and a few spread evenly over the box of what is usual.

    What lies within every sensor's usual furthest is no long way off, however close together this window's points are:
    those of few days are. A feature that is never unusual below its centre has no box there.
    """
    if rules.detector == "laboratory":
        return points
    random, features = np.random.default_rng(seed), CHANNELS[channel]
    lowest = np.tile([0.0 if name == "volatility" else -1.0 for name in features], points.shape[1] // len(features))
    prior = random.uniform(lowest, 1.0, (round(PRIOR_SHARE * len(points)) + 1, points.shape[1]))
    return random.permutation(np.concatenate([points, prior]))


# --- what is usual ---


@dataclass(frozen=True)
class _Sensor:
    """What is usual of a sensor.

    Attributes:
        learned: how many readings it was learned from.
        run: how many anomalous readings are a run.
        routine: see `Cutoff`.
    """

    ranges: tuple[UsualRange, ...]
    learned: int
    run: int
    routine: tuple[int, ...] = ()

    @property
    def weeks(self) -> float:
        return self.learned / WEEK_READINGS


@dataclass(frozen=True)
class _LearningTask:
    """A sensor to learn, and which of the readings that it is learned from each channel's forest is shown."""

    series: SensorSeries
    steps: Floats
    shown: Mapping[str, NDArray[np.int64]]


def _learn_usual(
    task: _LearningTask, *, measures: Sequence[str], rules: TrainingRules
) -> tuple[_Sensor, dict[str, Floats]]:
    """What is usual of a sensor, and by channel the points that its forest is shown."""
    one, steps = task.series, task.steps
    names, run = features_of(rules.detector), rules.run_rule.readings_needed(one.interval)
    known = _learnable(one, names)
    found = _columns(one, names, known)
    days = known.sum() / DAY_READINGS
    routine = _routine(found["jump"], one.measured_at[known], run) if "jump" in names else ()
    in_routine = _in_routine(one.measured_at[known], routine)
    ranges = []
    for m, measure in enumerate(measures):
        min_deviation = one.min_deviation.get(measure, MIN_DEVIATION_STEPS[rules.detector] * float(steps[m]))
        least = max(float(steps[m]), min_deviation / MIN_DEVIATION_STEPS[rules.detector])
        usual = partial(_usual_features, least=least, days=days, run=run)
        features = usual({name: found[name][:, m] for name in names})
        quiet = usual({name: found[name][~in_routine, m] for name in ROUTINE_FEATURES}) if routine else {}
        low, high = np.quantile(one.values[_clean(one), m], [0.01, 0.99])
        ranges.append(UsualRange(measure, float(low), float(high), min_deviation, features, quiet))
    if not any(_gains(usual) for usual in ranges):
        routine, ranges = (), [replace(usual, quiet={}) for usual in ranges]
    sensor = _Sensor(tuple(ranges), int(known.sum()), run, routine)
    points = {channel: _points(found, ranges, in_routine, channel)[rows] for channel, rows in task.shown.items()}
    return sensor, points


def _usual_features(columns: Mapping[Feature, Floats], *, least: float, days: float, run: int) -> dict[Feature, Usual]:
    """What the features of one measure usually are; a plateau's comes after the jump's."""
    features: dict[Feature, Usual] = {}
    for name, column in columns.items():
        full = column[np.isfinite(column)]
        floor = least
        if name == "plateau":
            floor = max(least, PLATEAU_SHARE * max(features["jump"].up, features["jump"].down))
        features[name] = _usual(name, full if len(full) else np.zeros(1), least=floor, days=days, run=run)
    return features


# --- what happens at the same time every day ---


def _routine(jumps: Floats, measured_at: NDArray[np.int64], run: int) -> tuple[int, ...]:
    """The half hours of the day in which a sensor often jumps.

    Args:
        jumps: of every reading and measure, shape (readings, measures).
    """
    half_hours, days = measured_at // HALF_HOUR % HALF_HOURS, measured_at // (HALF_HOUR * HALF_HOURS)
    found: set[int] = set()
    for column in jumps.T:
        sizes = sustained(np.abs(np.nan_to_num(column)), run)
        goes_far = sizes > ROUTINE_REACH * _furthest(sizes)
        for half_hour in range(HALF_HOURS):
            inside = half_hours == half_hour
            seen, far = len(np.unique(days[inside])), len(np.unique(days[inside & goes_far]))
            if seen >= ROUTINE_DAYS and far >= ROUTINE_SHARE * seen:
                found |= {(half_hour + k) % HALF_HOURS for k in range(-ROUTINE_MARGIN, ROUTINE_MARGIN + 1)}
    return tuple(sorted(found)) if len(found) < HALF_HOURS else ()


def _in_routine(measured_at: NDArray[np.int64], routine: Sequence[int]) -> Booleans:
    return np.isin(measured_at // HALF_HOUR % HALF_HOURS, routine)


def _gains(usual: UsualRange) -> bool:
    """Whether it makes a difference that a measure has a routine."""
    if not usual.quiet:
        return False
    always, outside = usual.features["jump"], usual.quiet["jump"]
    return max(outside.up, outside.down) <= ROUTINE_GAIN * max(always.up, always.down)


def _clean(one: SensorSeries) -> Booleans:
    return np.ones(len(one.measured_at), dtype=bool) if one.is_clean is None else one.is_clean


def _learnable(one: SensorSeries, names: Sequence[Feature]) -> Booleans:
    """Which readings are learned from: the clean ones whose windows are full; shape (readings,)."""
    clean, places = _clean(one), np.arange(len(one.measured_at))
    begins = np.zeros_like(places)
    gaps = _gaps(one)
    begins[gaps] = gaps
    known = clean & (places - np.maximum.accumulate(begins) >= max(_NEEDED[name] for name in names) - 1)
    # of nothing but short pieces: what no window shows is as usual
    return known if known.any() else clean


def _columns(one: SensorSeries, names: Sequence[Feature], known: Booleans) -> dict[Feature, Floats]:
    return {name: column[known] for name, column in series_features(one, names).items()}


def _points(
    found: Mapping[Feature, Floats], ranges: Sequence[UsualRange], in_routine: Booleans, channel: str
) -> Floats:
    """What a channel's forest sees of readings, shape (readings, measures x features), in the order of
    `models.score_reading`."""
    columns = []
    for m, usual in enumerate(ranges):
        for name in CHANNELS[channel]:
            column = _normalised(found[name][:, m], usual.features[name])
            if name in usual.quiet:
                column = np.where(in_routine, column, _normalised(found[name][:, m], usual.quiet[name]))
            columns.append(column)
    return np.stack(columns, axis=1)


def _normalised(column: Floats, usually: Usual) -> Floats:
    """`Usual.normalised` of a whole column; 0 where a window is not full."""
    deviation = np.nan_to_num(column - usually.centre)
    below = deviation / usually.down if usually.down else np.zeros_like(deviation)
    return np.asarray(np.rint(np.where(deviation >= 0, deviation / usually.up, below) * GRID) / GRID)


def _usual(name: Feature, column: Floats, *, least: float, days: float, run: int) -> Usual:
    """What a feature usually is: its median, and how far it stays to both sides of it for a run of readings.

    The furthest is the 90 % quantile over stretches of four hours, so that one bad hour in the training window does not
    make the sensor deaf, and the feature's everyday spread more, so that a sensor that wavers at random is not found
    more unusual than one that does the same every morning. What few days show is widened, a level most.
    """
    centre = float(np.median(column))
    least *= SCALES[name]
    above, below = sustained(column - centre, run), sustained(centre - column, run)
    up, down = _furthest(above), _furthest(below)
    everyday = MAD_TO_SD * float(np.median(np.abs(column - centre)))
    up, down = up + everyday, down + everyday
    furthest = max(up, down)
    widened = sqrt(1 + (2 if name in ("level", "value") else 0.5) / days)
    up, down = (max(side, LEAST_SIDE * furthest, least) * widened for side in (up, down))
    return Usual(centre, up, 0.0 if name == "volatility" else down)


def _furthest(side: Floats) -> float:
    stretches = max(STRETCHES, len(side) // STRETCH)
    return float(np.quantile([part.max() for part in np.array_split(side, stretches) if len(part)], STAY_WITHIN))


def sustained(values: Floats, readings: int) -> Floats:
    """Of each reading the least of it and those before, of so many: what a run exceeds; shape (readings,)."""
    padded = np.concatenate([np.repeat(values[:1], readings - 1), values])
    return np.asarray(sliding_window_view(padded, readings).min(axis=1))


# --- features of a whole series, as `overcut.sensors.features` makes them of one reading ---


def series_features(one: SensorSeries, names: Sequence[Feature]) -> dict[Feature, Floats]:
    """The features of every reading, each of shape (readings, measures); NaN where a window is not full."""
    pieces = np.split(one.values, _gaps(one))
    return {name: np.concatenate([_WHOLE[name](piece) for piece in pieces]) for name in names}


def _gaps(one: SensorSeries) -> NDArray[np.int64]:
    """The readings that come after a long gap."""
    return np.flatnonzero(np.diff(one.measured_at) > LONGEST_GAP * one.interval.total_seconds()) + 1


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


def _plateaus(values: Floats) -> Floats:
    before = _trailing(values, BASELINE_READINGS, BASELINE_LAG, "median")
    padded = np.concatenate([np.repeat(values[:1], PLATEAU_READINGS - 1, axis=0), values])
    last = sliding_window_view(padded, PLATEAU_READINGS, axis=0)
    return np.asarray(np.maximum(0.0, last.min(axis=-1) - before) + np.minimum(0.0, last.max(axis=-1) - before))


def _levels(values: Floats) -> Floats:
    return _trailing(values, LEVEL_READINGS, 0, "median")


def _volatilities(values: Floats) -> Floats:
    found = np.full(values.shape, np.nan)
    if len(values) >= WINDOW:
        found[1:] = _trailing(np.abs(np.diff(values, axis=0)), STEPS, 0, "trimmed mean")
    return found


def _values(values: Floats) -> Floats:
    return values


_WHOLE = {"jump": _jumps, "plateau": _plateaus, "level": _levels, "volatility": _volatilities, "value": _values}
# how many readings a window has
_NEEDED = {
    "jump": BASELINE_LAG + BASELINE_READINGS,
    "plateau": BASELINE_LAG + BASELINE_READINGS,
    "level": LEVEL_READINGS,
    "volatility": WINDOW,
    "value": 1,
}


# --- forests, and how rare their scores are ---


@dataclass(frozen=True)
class _Shown:
    """Which readings each channel's forest is shown, of those that sensors are learned from.

    Attributes:
        places: by channel, where in the order in which they are shown each sensor's are.
        rows: by channel, which of its own they are.
    """

    places: Mapping[str, Sequence[NDArray[np.int64]]]
    rows: Mapping[str, Sequence[NDArray[np.int64]]]

    def in_order(self, name: str, points: Sequence[Floats]) -> Floats:
        """Each sensor's points as one array, in the order in which they are shown."""
        order = np.argsort(np.concatenate(self.places[name]))
        return np.asarray(np.concatenate(points)[order])


def _shown(channels: Sequence[str], ends: NDArray[np.int64], random: np.random.Generator) -> _Shown:
    """Draw evenly from the readings of all sensors."""
    places, rows = {}, {}
    for name in channels:
        order = np.arange(ends[-1], dtype=np.int32)
        random.shuffle(order)
        drawn = order[:MAX_FOREST_POINTS].astype(np.int64)
        owners = np.searchsorted(ends, drawn, side="right")
        places[name] = [np.flatnonzero(owners == k) for k in range(len(ends))]
        rows[name] = [drawn[at] - span.start for at, span in zip(places[name], _slices(ends), strict=True)]
    return _Shown(places, rows)


@dataclass(frozen=True)
class _ScoringTask:
    """A sensor whose readings are to be scored."""

    series: SensorSeries
    sensor: _Sensor


def _score(forests: Mapping[str, RandomCutForest], task: _ScoringTask) -> dict[str, Floats]:
    """By channel the forest's scores of the readings that a sensor is learned from."""
    names: tuple[Feature, ...] = tuple(feature for channel in forests for feature in CHANNELS[channel])
    known = _learnable(task.series, names)
    found = _columns(task.series, names, known)
    in_routine = _in_routine(task.series.measured_at[known], task.sensor.routine)
    scores = {}
    for channel, forest in forests.items():
        # a sensor shows few different values
        score = cache(partial(forest_score, forest))
        points = map(tuple, _points(found, task.sensor.ranges, in_routine, channel).tolist())
        scores[channel] = np.array([score(point) for point in points])
    return scores


def _score_stored(stored: Mapping[str, bytes], task: _ScoringTask) -> dict[str, Floats]:
    return _score({name: _loaded(forest) for name, forest in stored.items()}, task)


_loaded = lru_cache(maxsize=len(CHANNELS))(load_forest)


def _rate(
    forests: Mapping[str, RandomCutForest],
    scores: dict[str, Floats],
    sensors: Sequence[_Sensor],
    ends: NDArray[np.int64],
    rules: TrainingRules,
) -> tuple[tuple[Channel, ...], Floats]:
    """The channels, and every reading's anomaly score.

    Args:
        scores: by channel, of the readings of all sensors one after another; used up.
    """
    channels, most = [], np.empty(0)
    for name, forest in forests.items():
        found = scores.pop(name)
        rarity = None
        if rules.detector != "laboratory":
            rarity = _rarity(sensors, found, ends, rules.forest.highest_score, SHARES[name])
            for span in _slices(ends):
                found[span] = _rarities(rarity, found[span])
        channels.append(Channel(name, forest, rarity))
        most = np.maximum(most, found, out=most) if len(most) else found
    return tuple(channels), most


def _rarity(
    sensors: Sequence[_Sensor], scores: Floats, ends: NDArray[np.int64], highest: float, share: float
) -> Rarity:
    """How often a sensor in order goes on at a score for a run of readings, from an hour's peaks of all sensors.

    Past what is exceeded ten times a week the tail is taken for exponential in the odds, which are a distance. Its mean
    is the peaks' median excess, over log 2: a fault among them does not make it long. It is taken two standard errors
    longer than that.
    """
    readings = np.empty_like(scores)
    for span in _slices(ends):  # of all at once it would make two more arrays of that size
        readings[span] = to_odds_array(scores[span], highest)
    common = np.quantile(readings, [0.0, 0.25, 0.5], overwrite_input=True)
    runs = [_peaks(sustained(scores[span], one.run)) for one, span in zip(sensors, _slices(ends), strict=True)]
    peaks = np.sort(to_odds_array(np.concatenate(runs), highest))
    weeks = sum(sensor.weeks for sensor in sensors)
    tail = max(1, min(max(LEAST_TAIL_PEAKS, round(TAIL_A_WEEK * weeks)), len(peaks) // 2))
    threshold = float(peaks[max(0, len(peaks) - tail - 1)])
    # the common readings by their own number, rarer ones by peaks
    knots = [
        (float(knot), -log10((1 - q) * len(readings) / weeks)) for knot, q in zip(common, (0.0, 0.25, 0.5), strict=True)
    ]
    knots += [(float(np.quantile(peaks, 0.5)), -log10(0.5 * len(peaks) / weeks)), (threshold, -log10(tail / weeks))]
    mean_excess = (float(np.median(peaks[-tail:])) - threshold) / log(2) * (1 + 2 / sqrt(tail))
    slope = 1 / (max(mean_excess, LEAST_TAIL * max(threshold, LEAST_TAIL)) * log(10))
    rising = [knots[0]]
    for knot in knots[1:]:
        if knot[0] > rising[-1][0] and knot[1] > rising[-1][1]:
            rising.append(knot)
    odds, decades = zip(*((odds, rare + log10(share)) for odds, rare in rising), strict=True)
    return Rarity(highest, odds, decades, slope)


def to_odds_array(scores: Floats, highest: float) -> Floats:
    """`models.to_odds` of many scores."""
    return np.asarray(scores / np.maximum(highest - scores, 1e-6))


def _rarities(rarity: Rarity, scores: Floats) -> Floats:
    """`rarity.of` of many scores."""
    distinct, places = np.unique(scores, return_inverse=True)
    return np.array([rarity.of(score) for score in distinct.tolist()])[places]


def _peaks(runs: Floats) -> Floats:
    return np.array([part.max() for part in np.array_split(runs, max(1, len(runs) // PEAK_READINGS))])


def _cutoff(
    one: SensorSeries,
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
        # of a real week: rarities are of one of readings
        budget = -log10(rules.false_alarm_budget * (one.interval / READING_MINUTES))
        z_factor = max(z_factor, (budget + _surplus(sensor, anomaly_scores) - mean) / sd)
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
        stuck_after=0 if rules.detector == "laboratory" else _stuck_after(one.values, sensor.run),
        reading_count=len(one.measured_at),
        ranges=sensor.ranges,
        routine=sensor.routine,
    )


def _surplus(sensor: _Sensor, anomaly_scores: Floats) -> float:
    """Decades that a sensor's cutoff is raised by, since it has clearly more peaks than its share: by how many more."""
    peaks = _peaks(sustained(anomaly_scores, sensor.run))
    # what every sensor is to show once a week
    expected, found = sensor.weeks, int((peaks > 0).sum())
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
    moving = np.array([[_moves(column) for column in s.values.T] for s in series]) & (steps > 0)
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
    """The least difference between values; what is less than a float tells apart is none, in whatever unit."""
    distinct = np.unique(column)
    steps = np.diff(distinct)
    real = steps > LEAST_DIFFERENCE * np.maximum(np.abs(distinct[1:]), np.median(np.abs(column)))
    return float(steps[real].min()) if real.any() else 0.0


def _usual_step(value: float) -> float:
    for step in _USUAL_STEPS:
        if abs(value / step - round(value / step)) < 1e-6:
            return step
    return _USUAL_STEPS[-1]
