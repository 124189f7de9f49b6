"""Learning safely: which readings a training may learn from, and which of its results are put to use.

A fault must not be learned as usual; a lasting change must be, or it would be one endless incident. So the readings of
incidents are left out, except of those that a person calls a false alarm. An incident that lasts longer than
`new_normal_after` and that nobody confirmed is how things are now: the sensor is learned anew from two hours after it
began, and nothing before counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil, log10
from statistics import fmean, pstdev

import numpy as np

from overcut.sensors.cohorts import DAY_READINGS, MIN_READINGS, READING_MINUTES, SensorSeries
from overcut.sensors.cutoffs import Cutoff, Usual
from overcut.sensors.features import WINDOW, Feature
from overcut.sensors.incidents import Label

# how much of the past a slow sensor is learned from at most
LONGEST_WINDOW = timedelta(days=120)
NEW_NORMAL_SETTLES = timedelta(hours=2)
# before the first anomalous reading: what builds up to a fault is part of it
LEAD = timedelta(hours=1)
LONGEST_TAIL = timedelta(hours=6)
# a version is compared with so many before it; of fewer than three nothing can be said
EARLIER_VERSIONS, FEWEST_VERSIONS = 14, 3
BAND_SIGMAS, NARROWEST_BAND = 3.0, 0.25
MOST_OUTSIDE, FEWEST_OUTSIDE = 0.05, 2


@dataclass(frozen=True, slots=True)
class Abnormal:
    """A stretch that an incident lies over; of an open one, as far as it has come."""

    first_anomalous_at: datetime
    last_anomalous_at: datetime
    label: Label | None = None

    def is_new_normal(self, new_normal_after: timedelta) -> bool:
        """Whether it lasts, or lasted, so long that it is how things are now; a sensor that is silent shows nothing."""
        return self.label is None and self.last_anomalous_at - self.first_anomalous_at > new_normal_after


def window_of(series: SensorSeries, window: timedelta) -> timedelta:
    """How much of the past a sensor is learned from: `window`, and of a slow one enough to have a day's readings."""
    if len(series.measured_at) < 2:
        return window
    readings = min(DAY_READINGS, window / READING_MINUTES)
    return max(window, min(readings * series.interval, LONGEST_WINDOW))


def long_enough(series: SensorSeries, new_normal_after: timedelta) -> timedelta:
    """How long an incident of a sensor must last to be the new normal: long enough to be learned, too."""
    if len(series.measured_at) < 2:
        return new_normal_after
    return max(new_normal_after, NEW_NORMAL_SETTLES + (MIN_READINGS + WINDOW) * series.interval)


def clean(series: SensorSeries, abnormal: Iterable[Abnormal], *, new_normal_after: timedelta) -> SensorSeries:
    """The series, told which of its readings may be learned from: without what is abnormal."""
    times = series.measured_at
    is_clean = np.ones(len(times), dtype=bool)
    interval = series.interval.total_seconds() if len(times) > 1 else 60.0
    learned_from = -np.inf
    for one in abnormal:
        first, last = one.first_anomalous_at.timestamp(), one.last_anomalous_at.timestamp()
        if one.label is Label.FALSE_ALARM:
            continue
        if one.is_new_normal(long_enough(series, new_normal_after)):
            learned_from = max(learned_from, first + NEW_NORMAL_SETTLES.total_seconds())
            continue
        # the windows of the readings after it hold its own; of a slow sensor that would be days
        tail = min((WINDOW - 1) * interval, LONGEST_TAIL.total_seconds())
        is_clean &= ~((times >= first - LEAD.total_seconds()) & (times <= last + tail))
    kept = times >= learned_from
    return replace(series, measured_at=times[kept], values=series.values[kept], is_clean=is_clean[kept])


@dataclass(frozen=True)
class Review:
    """What becomes of a cohort's new cutoffs.

    Attributes:
        cutoffs: as they may be put to use: those of a sensor that moved too far are brought to the edge of its band.
        held: why the version as a whole is not put to use; empty when it is.
        clamped: the sensors that moved too far.
    """

    cutoffs: tuple[Cutoff, ...]
    held: str
    clamped: tuple[str, ...]


def review(
    cutoffs: Sequence[Cutoff], earlier: Mapping[str, Sequence[Cutoff]], anew: frozenset[str] = frozenset()
) -> Review:
    """Compare new cutoffs with earlier ones: what a sensor usually shows does not change overnight.

    Compared are, in decades, how far each feature usually gets. A sensor is outside when one of them lies outside the
    mean and three standard deviations of its earlier versions, at least a quarter of a decade. When more than 5 % of
    the sensors are, and at least two, the version is held; a single one is clamped.

    Args:
        earlier: of each sensor its last promoted cutoffs.
        anew: sensors that are learned anew, so that what was usual before does not matter.
    """
    reviewed, clamped, compared = [], [], 0
    for cutoff in cutoffs:
        before = _comparable(earlier.get(cutoff.sensor_id, ()))
        if len(before) < FEWEST_VERSIONS or cutoff.sensor_id in anew:
            reviewed.append(cutoff)
            continue
        compared += 1
        within = _clamped(cutoff, before)
        if within != cutoff:
            clamped.append(cutoff.sensor_id)
        reviewed.append(within)
    most = max(FEWEST_OUTSIDE, ceil(MOST_OUTSIDE * compared))
    held = ""
    if len(clamped) >= most and len(clamped) > MOST_OUTSIDE * compared:
        held = f"{len(clamped)} of {compared} sensors changed more than they ever did: {', '.join(clamped[:5])}"
    return Review(tuple(reviewed), held, tuple(clamped))


def _comparable(earlier: Sequence[Cutoff]) -> list[Cutoff]:
    """The last versions that a sensor's new one is compared with: none before what a person approved."""
    since = max((k for k, one in enumerate(earlier) if one.is_approved), default=0)
    return [one for one in earlier[since:] if one.ranges][-EARLIER_VERSIONS:]


def _clamped(cutoff: Cutoff, before: Sequence[Cutoff]) -> Cutoff:
    ranges = []
    for usual in cutoff.ranges:
        then = [found for one in before for found in one.ranges if found.measure == usual.measure]
        features = _all_within(usual.features, [found.features for found in then])
        quiet = _all_within(usual.quiet, [found.quiet for found in then])
        ranges.append(replace(usual, features=features, quiet=quiet))
    return replace(cutoff, ranges=tuple(ranges))


def _all_within(now: Mapping[Feature, Usual], then: Sequence[Mapping[Feature, Usual]]) -> dict[Feature, Usual]:
    return {name: _within(usual, [one[name] for one in then if name in one]) for name, usual in now.items()}


def _within(now: Usual, then: Sequence[Usual]) -> Usual:
    """`now`, or as far towards it as the band of `then` allows."""
    if len(then) < FEWEST_VERSIONS:
        return now
    up = _to_band(now.up, [one.up for one in then])
    downs = [one.down for one in then if one.down]
    down = _to_band(now.down, downs) if now.down and downs else now.down
    return now if (up, down) == (now.up, now.down) else replace(now, up=up, down=down)


def _to_band(now: float, then: Sequence[float]) -> float:
    decades = [log10(one) for one in then]
    width = max(BAND_SIGMAS * pstdev(decades), NARROWEST_BAND)
    middle = fmean(decades)
    if abs(log10(now) - middle) <= width:
        return now
    return float(10 ** (middle + width if log10(now) > middle else middle - width))
