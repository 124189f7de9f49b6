"""Overcut's own entries in the comparison: production's code, replayed with the default settings of a stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks.detection.nab import ScoreSeries, Times
from benchmarks.detection.recordings import Detector, Floats, Incident, Recording
from overcut.sensors import models
from overcut.sensors.backtest import BacktestRules, replay
from overcut.sensors.cohorts import STRETCH
from overcut.sensors.cutoffs import PROMOTION_DELAY
from overcut.sensors.readings import Reading
from stacks.stage import read_stage
from workbench.sensors_backtest import rules_of, training_times

# on the Numenta benchmark: a row is a minute, whatever it is, and everything before is learned from, every so many rows
ROW = timedelta(minutes=1)
ROWS_BETWEEN_TRAININGS = 500
LOWEST_DECADES, MOST_DECADES = -4.0, 60.0


@dataclass(frozen=True)
class Overcut:
    """The detector as it is deployed."""

    name: str = "Overcut"

    def incidents(self, recording: Recording) -> Sequence[Incident]:
        settings = read_stage("prod").with_sensors().sensors
        first, last = recording.readings[0].measured_at, recording.readings[-1].measured_at
        trainings = list(training_times(settings.training_schedule, first, last))
        if recording.learning < timedelta(days=1):  # what is too short for a night is trained once
            trainings = [first + recording.learning - PROMOTION_DELAY]
        found = replay(recording.readings, trainings, rules_of(settings)).incidents
        return [Incident(one.sensor_id, one.opened_at, one.recovered_at) for one in found]


def detectors() -> tuple[Detector, ...]:
    """With the default settings of a stage; the first rows of the tables."""
    return (Overcut(),)


def anomaly_scores(timestamps: Times, values: Floats, probation: int) -> Floats:
    """Of each row the anomaly score, from decades to a number between 0 and 1; 0 while learning, and where a row of the
    last ones scores as high: the benchmark counts every row, we text once."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    readings = [Reading("series", begin + row * ROW, {"value": value}) for row, value in enumerate(values.tolist())]
    trainings = [begin + row * ROW for row in range(probation, len(values), ROWS_BETWEEN_TRAININGS)]
    rules: BacktestRules = replace(
        rules_of(read_stage("prod").with_sensors().sensors),
        window=len(values) * ROW,
        new_normal_after=len(values) * ROW,
    )
    # it ranks scores, also those that are too rare to matter to us
    with patch.object(models, "HIGHEST_DECADES", MOST_DECADES):
        done = replay(readings, [moment - PROMOTION_DELAY for moment in trainings], rules)
    found = np.zeros(len(values))
    scores, judged = done.scores["series"].anomaly_score, done.judged["series"]
    rows = [round((one.measured_at - begin) / ROW) for one in judged]
    found[rows] = np.clip((np.nan_to_num(scores, nan=LOWEST_DECADES) - LOWEST_DECADES), 0, None)
    before = sliding_window_view(np.concatenate([np.full(STRETCH, -1.0), found]), STRETCH)[: len(found)]
    return np.where(found > before.max(axis=1), found, 0.0) / (MOST_DECADES - LOWEST_DECADES)


def on_nab() -> Mapping[str, ScoreSeries]:
    """By name: one setting for all files of the Numenta benchmark."""
    return {"Overcut": anomaly_scores}
