"""The training job of the sensors pipeline: S3 readings/ -> S3 models/, Cutoffs table, ModelEvents table.

A SageMaker training job in script mode runs it; hyperparameters arrive as arguments, table names in the environment.
"""

import argparse
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import boto3
import numpy as np
from arro3.io import read_parquet

from lambdas.runtime.clock import clock_from
from lambdas.sensors.stores import CutoffsStore, DataBucket, ModelEventsStore, Sensor, SensorsStore
from overcut.sensors.cohorts import CohortModel, SensorSeries, cohort_id, train_cohort
from overcut.sensors.cutoffs import PROMOTION_DELAY, model_key
from overcut.sensors.forest import ForestParameters, dump_forest
from overcut.sensors.layout import day_prefix, days_of_window
from overcut.sensors.readings import format_time

READING_THREADS = 8

# what a sensor measured: measure -> seconds since 1970 -> value
Measured = dict[str, dict[int, float]]


@dataclass(frozen=True)
class TrainingParameters:
    """The hyperparameters of the training job.

    Attributes:
        window_days: how much of the past to learn from.
        z_factor: standard deviations that a cutoff lies above the mean of the training scores.
    """

    window_days: float
    z_factor: float
    num_trees: int
    num_samples_per_tree: int
    seed: int

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "TrainingParameters":
        parser = argparse.ArgumentParser(allow_abbrev=False)
        parser.add_argument("--window_days", type=float, required=True)
        parser.add_argument("--z_factor", type=float, required=True)
        parser.add_argument("--num_trees", type=int, required=True)
        parser.add_argument("--num_samples_per_tree", type=int, required=True)
        parser.add_argument("--seed", type=int, default=0)
        return cls(**vars(parser.parse_args(arguments)))


def read_window(bucket: DataBucket, ends_at: datetime, window: timedelta) -> dict[str, Measured]:
    """What every sensor measured in the window, from the exported Parquet objects of its days."""
    first, last = int((ends_at - window).timestamp()), int(ends_at.timestamp())
    found: dict[str, Measured] = {}
    keys = [key for day in days_of_window(ends_at, window) for key in bucket.keys(day_prefix(day))]
    with ThreadPoolExecutor(READING_THREADS) as threads:
        for stored in threads.map(bucket.get, keys):
            for sensor_id, moment, measure, value in _rows(stored):
                if first <= moment < last:
                    found.setdefault(sensor_id, {}).setdefault(measure, {})[moment] = value
    return found


def _rows(stored: bytes) -> Iterator[tuple[str, int, str, float]]:
    table = read_parquet(io.BytesIO(stored)).read_all()
    sensor_ids = table["sensor_id"].to_pylist()
    moments = [int(moment.timestamp()) for moment in table["measured_at"].to_pylist()]
    return zip(sensor_ids, moments, table["measure"].to_pylist(), table["value"].to_pylist(), strict=True)


def to_series(sensor_id: str, measured: Measured, measures: Sequence[str]) -> SensorSeries:
    """The readings that have every one of `measures`, in order."""
    moments = sorted(set.intersection(*(set(measured[measure]) for measure in measures)))
    values = [[measured[measure][moment] for measure in measures] for moment in moments]
    return SensorSeries(sensor_id, np.array(moments, dtype=np.int64), np.array(values).reshape(-1, len(measures)))


def cohorts_of(
    measured: Mapping[str, Measured], sensors: Iterable[Sensor]
) -> dict[str, tuple[tuple[str, ...], list[SensorSeries]]]:
    """Measures and series of each cohort, by its id."""
    known = {sensor.sensor_id: sensor for sensor in sensors}
    cohorts: dict[str, tuple[tuple[str, ...], list[SensorSeries]]] = {}
    for sensor_id in sorted(measured):
        sensor = known.get(sensor_id, Sensor(sensor_id, "", {}))
        longest = max(len(values) for values in measured[sensor_id].values())
        # a measure that is mostly absent would take most readings from the others
        measures = tuple(sorted(m for m, values in measured[sensor_id].items() if len(values) > longest / 2))
        name = cohort_id(sensor.kind, sensor.source_id, measures)
        cohorts.setdefault(name, (measures, []))[1].append(to_series(sensor_id, measured[sensor_id], measures))
    return cohorts


def promote(
    model: CohortModel,
    parameters: TrainingParameters,
    job_name: str,
    trained_at: datetime,
    *,
    now: datetime,
    bucket: DataBucket,
    cutoffs: CutoffsStore,
    events: ModelEventsStore,
) -> dict[str, object]:
    """Write a cohort's forest, then its cutoffs, then what happened; return what happened.

    A cutoff comes into force only a while after it is written, so the detectors change over in the same minute.

    Args:
        trained_at: the end of the window; learning from it may have taken hours.
        now: the present.
    """
    effective_from = now.replace(microsecond=0) + PROMOTION_DELAY
    event: dict[str, object] = {
        "job_name": job_name,
        "window_from": format_time(trained_at - timedelta(days=parameters.window_days)),
        "window_to": format_time(trained_at),
        "z_factor": parameters.z_factor,
        "sensors": len(model.cutoffs),
        "readings": sum(cutoff.reading_count for cutoff in model.cutoffs),
        "learning": len(model.learning),
    }
    if model.forest is None:
        event |= {"decision": "held", "reason": "no sensor has enough readings yet"}
    else:
        bucket.put(model_key(model.cohort_id, model.model_version), dump_forest(model.forest))
        cutoffs.put(replace(cutoff, effective_from=effective_from) for cutoff in model.cutoffs)
        event |= {
            "decision": "promoted",
            "reason": "",
            "model_version": model.model_version,
            "effective_from": format_time(effective_from),
        }
    events.put(model.cohort_id, trained_at, event)
    return {"model_id": model.cohort_id, **event}


def main(arguments: Sequence[str]) -> None:
    """Train every cohort. Writes what happened to the model directory as well, as `trainings.json`."""
    parameters = TrainingParameters.parse(arguments)
    job_name, dynamodb = os.environ["TRAINING_JOB_NAME"], boto3.client("dynamodb")
    bucket = DataBucket(boto3.client("s3"), os.environ["DATA_BUCKET"])
    clock = clock_from(os.environ["CLOCK"])
    trained_at = clock.now().replace(microsecond=0)
    measured = read_window(bucket, trained_at, timedelta(days=parameters.window_days))
    happened = []
    sensors = SensorsStore(dynamodb, os.environ["SENSORS_TABLE"]).all()
    for name, (measures, series) in sorted(cohorts_of(measured, sensors).items()):
        model = train_cohort(
            series,
            cohort_id=name,
            measures=measures,
            parameters=ForestParameters(parameters.num_trees, parameters.num_samples_per_tree),
            z_factor=parameters.z_factor,
            trained_at=trained_at,
            seed=parameters.seed,
        )
        happened.append(
            promote(
                model,
                parameters,
                job_name,
                trained_at,
                now=clock.now(),
                bucket=bucket,
                cutoffs=CutoffsStore(dynamodb, os.environ["CUTOFFS_TABLE"]),
                events=ModelEventsStore(dynamodb, os.environ["MODEL_EVENTS_TABLE"]),
            )
        )
    if not happened:
        raise SystemExit("there are no exported readings in the training window: run the export first")
    (Path(os.environ["SM_MODEL_DIR"]) / "trainings.json").write_text(json.dumps(happened, indent=2))
