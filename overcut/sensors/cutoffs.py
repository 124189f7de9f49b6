"""Cutoffs: what a sensor's readings are judged by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from overcut.sensors.features import Feature

# features that differ by less than a part in so many are the same: a forest scores what it was shown quite differently
# from what lies beside it, and a unit that does not convert exactly or another order of adding up would part them
GRID = 2**20
# longer than any function keeps a cutoff in memory, so that all of them judge a minute by the same one
PROMOTION_DELAY = timedelta(minutes=15)
CACHE_FOR = timedelta(minutes=10)
# what a day's routine is told in
HALF_HOUR, HALF_HOURS = 1_800, 48


@dataclass(frozen=True, slots=True)
class Usual:
    """What one feature of one measure usually is, in the measure's unit.

    Attributes:
        centre: its median.
        up, down: how far above and below the centre it usually gets at its furthest. `down` of 0: being below is
            never unusual.
    """

    centre: float
    up: float
    down: float

    def normalised(self, value: float) -> float:
        """The value in units in which every sensor of a cohort is alike: 1 is its usual furthest."""
        deviation = value - self.centre
        if deviation >= 0:
            return round(deviation / self.up * GRID) / GRID
        return round(deviation / self.down * GRID) / GRID if self.down else 0.0


@dataclass(frozen=True, slots=True)
class UsualRange:
    """What one measure of one sensor usually shows, in the measure's unit.

    Attributes:
        low, high: the 1 % and 99 % quantiles of the training window.
        min_deviation: nobody is woken for less.
        quiet: what some features usually are outside the sensor's routine; empty without one.
    """

    measure: str
    low: float
    high: float
    min_deviation: float
    features: Mapping[Feature, Usual]
    quiet: Mapping[Feature, Usual] = field(default_factory=dict)

    @property
    def outside_routine(self) -> "UsualRange":
        """The range as it is outside the sensor's routine."""
        return replace(self, features={**self.features, **self.quiet})


@dataclass(frozen=True, slots=True)
class Cutoff:
    """One sensor's cutoff from one training.

    Attributes:
        effective_from: readings measured from here on are judged by it, until a newer one is in force.
        score_cutoff: `score_mean + z_factor * score_sd`; a reading is anomalous when its score is above it.
        interval: how far apart the sensor's readings usually are.
        stuck_after: so many equal readings in a row are a stuck sensor; 0 where it often shows equal ones.
        ranges: one a measure, in the order in which the forests take them. None at all: the sensor was silent for a
            whole training window and is learning again.
        routine: the half hours of the day, from midnight UTC, in which the sensor often jumps, as in defrosts.
        is_approved: a person put it to use: what was usual before it is no longer what later ones are compared with.
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
    stuck_after: int
    ranges: tuple[UsualRange, ...]
    routine: tuple[int, ...] = ()
    is_approved: bool = False

    def at(self, measured_at: datetime) -> "Cutoff":
        """The cutoff with what is usual at that time of day."""
        if not self.routine or int(measured_at.timestamp()) // HALF_HOUR % HALF_HOURS in self.routine:
            return self
        return replace(self, ranges=tuple(usual.outside_routine for usual in self.ranges))

    @property
    def model_key(self) -> str:
        """Where the model is, in the data bucket."""
        return model_key(self.cohort_id, self.model_version)


def model_key(cohort_id: str, model_version: str) -> str:
    """Where a cohort's model of one version is, in the data bucket."""
    return f"models/sensors/{cohort_id}/{model_version}/model.zip"


def in_force(cutoffs: Sequence[Cutoff], measured_at: datetime) -> Cutoff | None:
    """The newest of `cutoffs` that was in force at `measured_at`, as it is at that time of day; None while learning."""
    effective = [cutoff for cutoff in cutoffs if cutoff.effective_from <= measured_at]
    newest = max(effective, key=lambda cutoff: cutoff.trained_at, default=None)
    return newest.at(measured_at) if newest and newest.ranges else None


def retired(cutoff: Cutoff, trained_at: datetime, effective_from: datetime) -> Cutoff:
    """What follows on a cutoff of a sensor that was silent for a whole training window: it must be learned again."""
    return replace(cutoff, trained_at=trained_at, effective_from=effective_from, ranges=())
