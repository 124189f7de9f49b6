"""Cohorts: sensors that share one forest, and what is learned from their readings.

One forest serves every sensor of a kind, because each sensor's values are first brought to its own centre and spread.
The cutoff is a sensor's own: the mean of its training scores and `z_factor` standard deviations more.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from krcf import RandomCutForest
from numpy.typing import NDArray

from overcut.sensors.cutoffs import PROMOTION_DELAY, Cutoff, UsualRange
from overcut.sensors.forest import ForestParameters, anomaly_score, dump_forest, train_forest

Floats = NDArray[np.float64]

MIN_READINGS = 240
# enough to fill every tree's sample many times over; more readings change neither forest nor cutoff noticeably
MAX_FOREST_POINTS = 40_000
MAX_SCORED_READINGS = 5_000
# the steps instruments are made with, coarsest first
_USUAL_STEPS = (1.0, 0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005, 0.001)
# how many standard deviations of a normal distribution one median absolute deviation is worth
_MAD_TO_SD = 1.4826


@dataclass(frozen=True, slots=True)
class SensorSeries:
    """What one sensor measured in the training window.

    Attributes:
        measured_at: seconds since 1970, ascending, shape (readings,).
        values: finite, shape (readings, measures).
    """

    sensor_id: str
    measured_at: NDArray[np.int64]
    values: Floats


@dataclass(frozen=True)
class CohortModel:
    """What a training gives: one forest, a cutoff a sensor, and who must go on learning.

    Attributes:
        forest: None when no sensor had enough readings.
        learning: sensors with too few readings for a cutoff, and how many they had.
    """

    cohort_id: str
    model_version: str
    forest: RandomCutForest | None
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
    parameters: ForestParameters,
    z_factor: float,
    trained_at: datetime,
    seed: int,
) -> CohortModel:
    """Train a cohort's forest and its sensors' cutoffs.

    Args:
        series: one a sensor, values in the order of `measures`.
        z_factor: standard deviations of the training scores that a cutoff lies above their mean.
        seed: makes the result repeatable.
    """
    learning = {s.sensor_id: len(s.measured_at) for s in series if len(s.measured_at) < MIN_READINGS}
    learned = [s for s in series if s.sensor_id not in learning]
    if not learned:
        return CohortModel(cohort_id, "", None, (), learning)

    random = np.random.default_rng(seed)
    steps = _steps(learned)
    ranges = [_ranges(s.values, measures, steps[k]) for k, s in enumerate(learned)]
    points = [_spread_out(s.values, ranges[k], steps[k], random) for k, s in enumerate(learned)]

    everything = np.concatenate(points)
    shown = everything[random.permutation(len(everything))[:MAX_FOREST_POINTS]]
    forest = train_forest(shown.tolist(), len(measures), parameters=parameters, seed=seed)
    fingerprint = hashlib.sha256(dump_forest(forest)).hexdigest()[:8]
    version = f"{trained_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{fingerprint}"

    cutoffs = []
    for k, one in enumerate(learned):
        evenly = np.linspace(0, len(points[k]) - 1, min(len(points[k]), MAX_SCORED_READINGS)).astype(int)
        scores = np.array([anomaly_score(forest, point) for point in points[k][evenly].tolist()])
        mean, sd = float(scores.mean()), float(scores.std())
        cutoffs.append(
            Cutoff(
                sensor_id=one.sensor_id,
                trained_at=trained_at,
                effective_from=trained_at + PROMOTION_DELAY,
                cohort_id=cohort_id,
                model_version=version,
                score_cutoff=mean + z_factor * sd,
                score_mean=mean,
                score_sd=sd,
                z_factor=z_factor,
                interval=timedelta(seconds=max(1, round(float(np.median(np.diff(one.measured_at)))))),
                reading_count=len(one.measured_at),
                ranges=ranges[k],
            )
        )
    return CohortModel(cohort_id, version, forest, tuple(cutoffs), learning)


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


def _ranges(values: Floats, measures: Sequence[str], steps: Floats) -> tuple[UsualRange, ...]:
    centres = np.median(values, axis=0)
    spreads = np.maximum(_MAD_TO_SD * np.median(np.abs(values - centres), axis=0), steps)
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    return tuple(
        UsualRange(measure, float(centres[m]), float(spreads[m]), float(low[m]), float(high[m]))
        for m, measure in enumerate(measures)
    )


def _spread_out(values: Floats, ranges: tuple[UsualRange, ...], steps: Floats, random: np.random.Generator) -> Floats:
    """The values normalised, each spread evenly over what it was rounded from: half a step to both sides.

    A measure at rest (more than half its readings are the same) is spread over one and a half: the forest then knows
    the neighbouring steps, and the first rounding step away is no anomaly.
    """
    centres = np.array([usual.centre for usual in ranges])
    at_rest = np.median(np.abs(values - centres), axis=0) == 0
    reach = np.where(at_rest, 1.5, 0.5) * steps
    spread = values + random.uniform(-1, 1, values.shape) * reach
    return np.asarray((spread - centres) / np.array([usual.spread for usual in ranges]))
