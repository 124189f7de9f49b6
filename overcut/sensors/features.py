"""Features: what a forest sees of a reading, made from the reading and the ones before it.

    jump        how far the reading lies from what was usual ten minutes to an hour before: a step shows at once
    plateau     how far it has gone on so for six readings: what a defrost does for a moment, a fault does for longer
    level       the median of three quarters of an hour: a slow drift shows, a door or a defrost does not
    volatility  the mean step of an hour from one reading to the next, without the largest fifth: noise, short cycles
    value       the reading alone: what the laboratory looked at

A minute stands for a reading here: windows count readings, whatever the sensor's interval. A window never reaches over
a long gap, since what was before says little of what is usual after it; a feature whose window is not full is None.

Each is written twice: for one reading, in plain Python, since detection must start in a fraction of a second and fit
128 MB; and for a whole series with numpy, which training needs (`overcut.sensors.cohorts`). A test holds them equal.
"""

from collections.abc import Callable, Mapping, Sequence
from math import fsum
from operator import sub
from typing import Literal

Feature = Literal["jump", "plateau", "level", "volatility", "value"]
Detector = Literal["channels", "laboratory"]

# what each forest sees of every measure; `anomaly_score` is the most anomalous channel's
CHANNELS: Mapping[str, tuple[Feature, ...]] = {
    "fast": ("jump", "plateau"),
    "shape": ("level", "volatility"),
    "value": ("value",),
}
DETECTORS: Mapping[Detector, tuple[str, ...]] = {"channels": ("fast", "shape"), "laboratory": ("value",)}

# a swing goes up and down by steps of a part of its height: so much less of a volatility is as much of a deviation
SCALES: Mapping[Feature, float] = {"jump": 1.0, "plateau": 1.0, "level": 1.0, "volatility": 1 / 6, "value": 1.0}

BASELINE_READINGS, BASELINE_LAG = 45, 11
LEVEL_READINGS = 45
PLATEAU_READINGS = 6
STEPS, STEPS_KEPT = 60, 48
# readings that all features of one reading are made from: itself and those before
WINDOW = 61
# more intervals than this without a reading begin a new window
LONGEST_GAP = 30


def jump(window: Sequence[float]) -> float | None:
    """The last reading less the median of the 45 readings that lie 11 to 55 before it."""
    if len(window) < BASELINE_LAG + BASELINE_READINGS:
        return None
    before = sorted(window[-BASELINE_LAG - BASELINE_READINGS : -BASELINE_LAG])
    return window[-1] - before[BASELINE_READINGS // 2]


def plateau(window: Sequence[float]) -> float | None:
    """The least of the last six readings' distances from what a jump is measured from; 0 unless all lie to one side."""
    if len(window) < BASELINE_LAG + BASELINE_READINGS:
        return None
    before = sorted(window[-BASELINE_LAG - BASELINE_READINGS : -BASELINE_LAG])[BASELINE_READINGS // 2]
    last = window[-PLATEAU_READINGS:]
    return max(0.0, min(last) - before) + min(0.0, max(last) - before)


def level(window: Sequence[float]) -> float | None:
    """The median of the last 45 readings."""
    if len(window) < LEVEL_READINGS:
        return None
    return sorted(window[-LEVEL_READINGS:])[LEVEL_READINGS // 2]


def volatility(window: Sequence[float]) -> float | None:
    """The mean of the smaller four fifths of the last 60 steps between neighbouring readings, whatever their sign."""
    if len(window) < WINDOW:
        return None
    steps = sorted(map(abs, map(sub, window[-STEPS:], window[-WINDOW:-1])))
    return fsum(steps[:STEPS_KEPT]) / STEPS_KEPT


def value(window: Sequence[float]) -> float | None:
    """The last reading."""
    return window[-1]


FEATURES: Mapping[Feature, Callable[[Sequence[float]], float | None]] = {
    "jump": jump,
    "plateau": plateau,
    "level": level,
    "volatility": volatility,
    "value": value,
}


def features_of(detector: Detector) -> tuple[Feature, ...]:
    """The features that a detector's channels see, each once, in their order."""
    return tuple(feature for channel in DETECTORS[detector] for feature in CHANNELS[channel])


def repeats(window: Sequence[float]) -> int:
    """How many readings up to the last one show the very same value."""
    last = window[-1]
    return next((k for k, earlier in enumerate(reversed(window)) if earlier != last), len(window))
