"""What people would pick instead: small, honest implementations with usual settings.

Each gives one score a reading from that reading and earlier ones alone, in standard deviations of what it gave before,
so that one cutoff holds for every sensor. What learns does so again every day, on the last 14 days.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from krcf import RandomCutForest, RandomCutForestOptions
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor

from benchmarks.detection.recordings import Floats, Series
from overcut.sensors.forest import ForestParameters, forest_score, train_forest

TRAINING_DAYS = 14
# for sensors that measure seldom: fewer readings than this teach nothing
FEWEST_TO_LEARN = 240
# where nothing ever varied, any change would be infinitely unusual
LARGEST_SCORE = 1e6


class Peer(Protocol):
    """A way of scoring readings."""

    @property
    def name(self) -> str: ...

    def score(self, series: Series) -> Floats:
        """Shape (readings,): higher is more anomalous; NaN while the sensor is learning."""
        ...


def _spans(series: Series) -> Iterator[tuple[slice, slice]]:
    """What is judged day by day, each with what comes before it and is learned from."""
    day = max(series.readings_a_day, FEWEST_TO_LEARN)
    for start in range(series.learning, len(series), day):
        yield slice(max(0, start - TRAINING_DAYS * day), start), slice(start, min(start + day, len(series)))


def _standardised(scores: Floats, training: Floats) -> Floats:
    """`scores` in standard deviations of `training`, above its mean; zero where there is nothing to compare with."""
    if len(training) < 2:
        return np.zeros(len(scores))
    spread = max(float(training.std()), 1e-9 * (1.0 + abs(float(training.mean()))))
    within: Floats = np.clip((scores - training.mean()) / spread, -LARGEST_SCORE, LARGEST_SCORE)
    return within


def _by_day(series: Series, raw: Floats, warm_up: int) -> Floats:
    """Scores of one kind for the whole series, standardised by those before; the first `warm_up` mean nothing."""
    scores = np.full(len(series), np.nan)
    for before, judged in _spans(series):
        scores[judged] = _standardised(
            raw[judged], raw[max(before.start, min(warm_up, before.stop // 2)) : before.stop]
        )
    return scores


def _worst_measure(series: Series, score: Callable[[Floats], Floats]) -> Floats:
    """The highest score that one of the measures has by itself."""
    worst: Floats = np.max([score(column) for column in series.values.T], axis=0)
    return worst


@dataclass(frozen=True)
class RollingZScore:
    """How many standard deviations a value is from the mean of the three days before it."""

    days: float = 3.0
    name: str = "rolling z-score"

    def score(self, series: Series) -> Floats:
        window = max(30, round(self.days * series.readings_a_day))
        scores = _worst_measure(series, lambda values: self._one(values, window))
        scores[: series.learning] = np.nan
        return scores

    def _one(self, values: Floats, window: int) -> Floats:
        # sums of distances from the first value: no later value weighs in an earlier score
        sums, squares = (np.concatenate([[0.0], np.cumsum((values - values[0]) ** power)]) for power in (1, 2))
        end = np.arange(len(values))
        start = np.maximum(0, end - window)
        count = np.maximum(1, end - start)
        mean = (sums[end] - sums[start]) / count
        spread = np.sqrt(np.maximum(0.0, (squares[end] - squares[start]) / count - mean**2))
        distance = np.abs(values - values[0] - mean)
        scores: Floats = np.minimum(distance / np.maximum(spread, 1e-6 * (1.0 + np.abs(values[0]))), LARGEST_SCORE)
        scores[:10] = 0.0
        return scores


@dataclass(frozen=True)
class EwmaChart:
    """An exponentially weighted moving average, in its own standard deviations from what was usual (Roberts 1959)."""

    weight: float = 0.2
    name: str = "EWMA chart"

    def score(self, series: Series) -> Floats:
        return _worst_measure(series, lambda values: self._one(series, values))

    def _one(self, series: Series, values: Floats) -> Floats:
        averages = np.array(list(accumulate(values, lambda mean, value: mean + self.weight * (value - mean))))
        of_average = np.sqrt(self.weight / (2.0 - self.weight))
        scores = np.full(len(values), np.nan)
        for before, judged in _spans(series):
            scores[judged] = np.abs(_standardised(averages[judged], values[before])) / of_average
        return scores


@dataclass(frozen=True)
class SeasonalNaive:
    """The difference from the reading at the same time of the day before; where there is none, nothing is unusual."""

    name: str = "seasonal naive"

    def score(self, series: Series) -> Floats:
        times = series.measured_at
        before = np.searchsorted(times, times - 24 * 60 * 60)
        is_known = times[before] == times - 24 * 60 * 60
        return _worst_measure(series, lambda values: self._one(series, values, before, is_known))

    def _one(self, series: Series, values: Floats, before: Any, is_known: Any) -> Floats:
        differences = np.where(is_known, values - values[before], np.nan)
        scores = np.full(len(values), np.nan)
        for training, judged in _spans(series):
            known = differences[training]
            of_day = _standardised(differences[judged], known[~np.isnan(known)])
            scores[judged] = np.abs(np.nan_to_num(of_day, nan=0.0))
        return scores


@dataclass(frozen=True)
class LaboratoryForest:
    """A Random Cut Forest on the readings alone, trained every day: the rule this system began with."""

    name: str = "Random Cut Forest on the value"
    parameters: ForestParameters = field(default_factory=ForestParameters)
    seed: int = 0

    def score(self, series: Series) -> Floats:
        scores = np.full(len(series), np.nan)
        for before, judged in _spans(series):
            points = series.values[before].tolist()
            dimensions = series.values.shape[1]
            forest = train_forest(points, dimensions, parameters=self.parameters, seed=self.seed)
            training = np.array([forest_score(forest, point) for point in points])
            of_day = np.array([forest_score(forest, point) for point in series.values[judged].tolist()])
            scores[judged] = _standardised(of_day, training)
        return scores


@dataclass(frozen=True)
class StreamingForest:
    """A Random Cut Forest over the last readings side by side, which learns each one after it has scored it."""

    shingle_size: int = 30
    num_trees: int = 50
    num_samples_per_tree: int = 256
    seed: int = 0
    name: str = "Random Cut Forest, streaming"

    def score(self, series: Series) -> Floats:
        return _by_day(series, self.forest_score(series), warm_up=2 * self.num_samples_per_tree)

    def forest_score(self, series: Series) -> Floats:
        """Shape (readings,): what the forest itself gives, from the first reading on."""
        shingles = _windows(series, self.shingle_size)
        options: RandomCutForestOptions = {
            "dimensions": shingles.shape[1],
            "shingle_size": 1,
            "num_trees": self.num_trees,
            "sample_size": self.num_samples_per_tree,
            "output_after": 1,
            "random_seed": self.seed,
            "internal_shingling": False,
            "parallel_execution_enabled": False,
        }
        forest = RandomCutForest(options)
        raw = np.zeros(len(series))
        for at, shingle in enumerate(shingles.tolist()):
            raw[at] = forest.score(shingle)
            forest.update(shingle)
        return raw


def _windows(series: Series, size: int) -> Floats:
    """Shape (readings, size · measures): the last values up to each reading; before the first one, that one."""
    padded = np.concatenate([np.repeat(series.values[:1], size - 1, axis=0), series.values])
    windows: Floats = sliding_window_view(padded, size, axis=0).reshape(len(series), -1)
    return windows


@dataclass(frozen=True)
class WindowOutliers:
    """A detector of scikit-learn on the last half hour of readings, trained every day.

    Attributes:
        make: an estimator whose `score_samples` are lower for what is more anomalous.
        every: of so many windows one is learned from.
    """

    name: str
    make: Callable[[], Any]
    every: int = 1
    size: int = 30

    def score(self, series: Series) -> Floats:
        windows = _windows(series, self.size)
        scores = np.full(len(series), np.nan)
        for before, judged in _spans(series):
            learned = windows[before][:: self.every]
            model = self.make().fit(learned)
            # the estimator that looks at neighbours keeps what each learned window scores without itself
            own = getattr(model, "negative_outlier_factor_", None)
            training = model.score_samples(learned) if own is None else own
            scores[judged] = _standardised(-model.score_samples(windows[judged]), -training)
        return scores


def isolation_forest() -> WindowOutliers:
    """Liu, Ting, Zhou: Isolation Forest, ICDM 2008."""
    return WindowOutliers("IsolationForest on windows", partial(IsolationForest, random_state=0), every=5)


def local_outlier_factor() -> WindowOutliers:
    """Breunig, Kriegel, Ng, Sander: LOF, SIGMOD 2000."""
    return WindowOutliers("LocalOutlierFactor on windows", partial(LocalOutlierFactor, novelty=True), every=5)


@dataclass(frozen=True)
class MatrixProfile:
    """How far the last half hour's shape is from the most similar one before it (stumpy's left matrix profile)."""

    size: int = 30
    name: str = "matrix profile"

    def score(self, series: Series) -> Floats:
        return _worst_measure(series, lambda values: _by_day(series, self._one(values), warm_up=series.readings_a_day))

    def _one(self, values: Floats) -> Floats:
        raw = np.zeros(len(values))
        if len(values) < 2 * self.size:
            return raw
        import stumpy  # it takes seconds to import, and is installed for the benchmark only

        nearest = stumpy.stump(values, self.size).left_I_.astype(np.int64)
        windows = sliding_window_view(values, self.size)
        spread = windows.std(axis=1, keepdims=True)
        shapes = np.where(
            spread > 1e-9, (windows - windows.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-9), 0.0
        )
        distances = np.linalg.norm(shapes - shapes[np.maximum(0, nearest)], axis=1)
        raw[self.size - 1 :] = np.where(nearest >= 0, distances, 0.0)
        return raw


def peers() -> tuple[Peer, ...]:
    """All of them, the simplest first; none has a setting chosen for a recording."""
    return (
        RollingZScore(),
        EwmaChart(),
        SeasonalNaive(),
        LaboratoryForest(),
        StreamingForest(),
        isolation_forest(),
        local_outlier_factor(),
        MatrixProfile(),
    )
