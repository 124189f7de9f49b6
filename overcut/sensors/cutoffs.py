"""Cutoffs: what a sensor's readings are judged by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from overcut.sensors.incidents import Cause

# longer than any function keeps a cutoff in memory, so that all of them judge a minute by the same one
PROMOTION_DELAY = timedelta(minutes=15)
CACHE_FOR = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class UsualRange:
    """What one measure of one sensor usually shows.

    Attributes:
        centre, spread: in the measure's unit; normalised is `(value - centre) / spread`. `spread` is never 0.
        low, high: the 1 % and 99 % quantiles of the training window, in the measure's unit.
    """

    measure: str
    centre: float
    spread: float
    low: float
    high: float

    def normalised(self, value: float) -> float:
        return (value - self.centre) / self.spread


@dataclass(frozen=True, slots=True)
class Cutoff:
    """One sensor's cutoff from one training.

    Attributes:
        effective_from: readings measured from here on are judged by it, until a newer one is in force.
        score_cutoff: `score_mean + z_factor * score_sd`; a reading is anomalous when its score is above it.
        interval: how far apart the sensor's readings usually are.
        ranges: one a measure, in the order in which the forest takes them.
    """

    sensor_id: str
    trained_at: datetime
    effective_from: datetime
    cohort_id: str
    model_version: str
    score_cutoff: float
    score_mean: float
    score_sd: float
    z_factor: float
    interval: timedelta
    reading_count: int
    ranges: tuple[UsualRange, ...]

    @property
    def model_key(self) -> str:
        """Where the forest is, in the data bucket."""
        return model_key(self.cohort_id, self.model_version)

    def point(self, values: Mapping[str, float]) -> list[float] | None:
        """A reading's values as the forest takes them; None when one of the measures that were learned is missing."""
        if any(usual.measure not in values for usual in self.ranges):
            return None
        return [usual.normalised(values[usual.measure]) for usual in self.ranges]


def model_key(cohort_id: str, model_version: str) -> str:
    """Where a cohort's forest of one version is, in the data bucket."""
    return f"models/sensors/{cohort_id}/{model_version}/forest.msgpack"


def in_force(cutoffs: Sequence[Cutoff], measured_at: datetime) -> Cutoff | None:
    """The newest of `cutoffs` that was in force at `measured_at`; None while the sensor was learning."""
    effective = [cutoff for cutoff in cutoffs if cutoff.effective_from <= measured_at]
    return max(effective, key=lambda cutoff: cutoff.trained_at, default=None)


def explain(anomaly_score: float, cutoff: Cutoff, values: Mapping[str, float], units: Mapping[str, str]) -> Cause:
    """What made a reading anomalous: the measure that is furthest from its centre, in spreads."""
    furthest = max(cutoff.ranges, key=lambda usual: abs(usual.normalised(values[usual.measure])))
    return Cause(
        measure=furthest.measure,
        unit=units.get(furthest.measure, ""),
        value=values[furthest.measure],
        usual_low=furthest.low,
        usual_high=furthest.high,
        anomaly_score=anomaly_score,
        score_cutoff=cutoff.score_cutoff,
        model_version=cutoff.model_version,
    )
