"""The training script under the container's contract: arguments, environment, model directory, and nothing else."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lambdas.runtime.clock import ClockFace, FileClock
from lambdas.sensors.export_training_set.exporting import readings_to_parquet
from lambdas.sensors.stores import Sensor
from overcut.sensors.cutoffs import Cutoff
from overcut.sensors.forest import anomaly_score, load_forest
from overcut.sensors.layout import readings_key
from overcut.sensors.readings import Reading
from tests.conftest import ROOT
from tests.functional.aws_over_http import aws_over_http
from tests.functional.conftest import Cloud

MIDNIGHT = datetime(2026, 1, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOURS = 20
TRAINED_AT = MIDNIGHT + timedelta(hours=HOURS)
HYPERPARAMETERS = {
    "window_days": "14",
    "z_factor": "2.5",
    "num_trees": "30",
    "num_samples_per_tree": "128",
}
# which sensor is of which kind; `still` never moves, `young` has too few readings
KINDS = {
    "fridge-1": "fridge",
    "fridge-2": "fridge",
    "still": "fridge",
    "young": "fridge",
    "air-1": "air",
    "air-2": "air",
}


@dataclass(frozen=True)
class Job:
    returncode: int
    stderr: str
    model_dir: Path

    @property
    def trainings(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.model_dir / "trainings.json").read_text())
        return found


def values_of(sensor_id: str, minute: int) -> dict[str, float] | None:
    swing = math.sin(minute / 9.0)
    match sensor_id:
        case "fridge-1":
            return {"temperature": round(4.0 + 0.5 * swing, 1)}
        case "fridge-2":
            return {"temperature": round(-18.0 + 2.0 * swing, 1)}
        case "still":
            return {"temperature": 5.0}
        case "young":
            return {"temperature": 6.0} if minute < 239 else None
    offset = 1.0 if sensor_id == "air-1" else 3.0
    return {"temperature": round(20.0 + offset + swing, 1), "humidity": round(50.0 + 5.0 * math.cos(minute / 31.0), 1)}


def readings_of(sensor_id: str, minutes: Iterable[int] = range(HOURS * 60)) -> list[Reading]:
    found = ((minute, values_of(sensor_id, minute)) for minute in minutes)
    return [Reading(sensor_id, MIDNIGHT + minute * MINUTE, values) for minute, values in found if values]


def export(cloud: Cloud, sensors: Iterable[str]) -> None:
    """What the exporter leaves of `sensors`, each in a bucket of its own."""
    cloud.sensors.put([Sensor(name, "device", {}, kind=KINDS[name]) for name in sensors], 16)
    for bucket, name in enumerate(sensors):
        for hour in range(HOURS):
            if readings := readings_of(name, range(60 * hour, 60 * hour + 60)):
                key = readings_key(MIDNIGHT + timedelta(hours=hour), bucket)
                cloud.data.put(key, readings_to_parquet(readings)[0])


def train(
    cloud: Cloud, folder: Path, *, clock_speed: float = 0.0, hyperparameters: dict[str, str] = HYPERPARAMETERS
) -> Job:
    """Run the script as the container does: a process with its own environment."""
    model_dir = folder / "model"
    model_dir.mkdir()
    clock = FileClock(folder / "clock.json")
    clock.set(ClockFace(origin=TRAINED_AT.timestamp(), wall=time.time(), speed=clock_speed, ttl_offset=0.0))
    arguments = [part for name, value in hyperparameters.items() for part in (f"--{name}", value)]
    with aws_over_http() as endpoint:
        environment = {
            "PATH": os.environ["PATH"],
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "SM_MODEL_DIR": str(model_dir),
            "TRAINING_JOB_NAME": "sensors-0123-0",
            "SENSORS_TABLE": cloud.tables["Sensors"],
            "CUTOFFS_TABLE": cloud.tables["Cutoffs"],
            "MODEL_EVENTS_TABLE": cloud.tables["ModelEvents"],
            "DATA_BUCKET": cloud.bucket,
            "CLOCK": str(clock.path),
        }
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-m", "training.sensors.entry_point", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    return Job(ran.returncode, ran.stderr, model_dir)


def cutoff_of(cloud: Cloud, sensor_id: str) -> Cutoff:
    (cutoff,) = cloud.cutoffs.newest(sensor_id, 5)
    return cutoff


def scores_of(cloud: Cloud, cutoff: Cutoff, values: Iterable[dict[str, float]]) -> list[float]:
    forest = load_forest(cloud.data.get(cutoff.model_key))
    points = [cutoff.point(one) for one in values]
    assert None not in points
    return [anomaly_score(forest, point) for point in points if point is not None]


def test_two_cohorts_are_trained_with_a_forest_each_and_a_cutoff_a_sensor(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, KINDS)
    job = train(cloud, tmp_path)
    assert job.returncode == 0, job.stderr

    air, fridges = job.trainings
    assert [air["model_id"].rpartition("-")[0], fridges["model_id"].rpartition("-")[0]] == ["kind-air", "kind-fridge"]
    assert {key: fridges[key] for key in fridges.keys() - {"model_id", "model_version"}} == {
        "job_name": "sensors-0123-0",
        "window_from": "2025-12-22T20:00:00Z",
        "window_to": "2026-01-05T20:00:00Z",
        "z_factor": 2.5,
        "sensors": 3,
        "readings": 3600,
        "learning": 1,
        "decision": "promoted",
        "reason": "",
        "effective_from": "2026-01-05T20:15:00Z",
    }
    assert (air["sensors"], air["readings"], air["learning"]) == (2, 2400, 0)
    for training in (air, fridges):
        (event,) = cloud.model_events.of(training["model_id"])
        assert event == {**training, "occurred_at": "2026-01-05T20:00:00Z"}
        key = f"models/sensors/{training['model_id']}/{training['model_version']}/forest.msgpack"
        assert cloud.data.keys(f"models/sensors/{training['model_id']}/") == [key]

    assert cloud.cutoffs.newest("young", 5) == []
    cutoffs = {name: cutoff_of(cloud, name) for name in KINDS if name != "young"}
    for name, cutoff in cutoffs.items():
        training = air if KINDS[name] == "air" else fridges
        assert (cutoff.cohort_id, cutoff.model_version) == (training["model_id"], training["model_version"])
        assert (cutoff.trained_at, cutoff.effective_from) == (TRAINED_AT, TRAINED_AT + 15 * MINUTE)
        assert (cutoff.interval, cutoff.reading_count, cutoff.z_factor) == (MINUTE, 1200, 2.5)
        assert cutoff.score_cutoff == pytest.approx(cutoff.score_mean + 2.5 * cutoff.score_sd, rel=1e-12)
    assert [usual.measure for usual in cutoffs["air-1"].ranges] == ["humidity", "temperature"]
    (usual,) = cutoffs["fridge-2"].ranges
    assert (usual.centre, usual.low, usual.high) == (-18.0, -20.0, -16.0)

    # the scores of the very readings, without the spreading that training adds, lie where the cutoff says
    for name in ("fridge-1", "fridge-2", "air-1", "air-2"):
        cutoff = cutoffs[name]
        scores = scores_of(cloud, cutoff, (dict(reading.values) for reading in readings_of(name)))
        assert np.mean(scores) == pytest.approx(cutoff.score_mean, rel=0.05)
        assert np.std(scores) == pytest.approx(cutoff.score_sd, rel=0.35)
        assert sum(one > cutoff.score_cutoff for one in scores) < 60


def test_faults_lie_above_the_cutoff_of_their_sensor_and_a_rounding_step_does_not(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, KINDS)
    assert train(cloud, tmp_path).returncode == 0
    for name, usual, fault in [
        ("fridge-1", {"temperature": 4.2}, {"temperature": 9.0}),
        ("fridge-2", {"temperature": -17.0}, {"temperature": 4.0}),  # usual for the other one
        ("air-1", {"temperature": 21.3, "humidity": 51.0}, {"temperature": 35.0, "humidity": 51.0}),
        ("air-1", {"temperature": 21.3, "humidity": 51.0}, {"temperature": 21.3, "humidity": 90.0}),
        ("still", {"temperature": 5.0}, {"temperature": 9.0}),
    ]:
        cutoff = cutoff_of(cloud, name)
        below, above = scores_of(cloud, cutoff, [usual, fault])
        assert below <= cutoff.score_cutoff < above, name
    still = cutoff_of(cloud, "still")
    assert all(
        one <= still.score_cutoff for one in scores_of(cloud, still, [{"temperature": 5.1}, {"temperature": 4.9}])
    )


def test_a_cutoff_comes_into_force_a_while_after_it_was_written_however_long_training_took(
    cloud: Cloud, tmp_path: Path
) -> None:
    export(cloud, ["fridge-1"])
    job = train(cloud, tmp_path, clock_speed=3600.0)  # an hour a second
    assert job.returncode == 0, job.stderr
    cutoff = cutoff_of(cloud, "fridge-1")
    (training,) = job.trainings
    # reading, training and scoring took the better part of a second at least
    assert cutoff.effective_from - cutoff.trained_at > 20 * MINUTE
    assert training["effective_from"] == cutoff.effective_from.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_the_same_readings_and_seed_give_the_same_forest_and_cutoffs(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, ["fridge-1", "still"])
    found = []
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
        job = train(cloud, tmp_path / attempt)
        assert job.returncode == 0, job.stderr
        found.append((job.trainings, cutoff_of(cloud, "fridge-1"), cloud.data.keys("models/")))
    assert found[0] == found[1]
    assert len(found[0][2]) == 1


def test_a_cohort_that_is_all_learning_is_recorded_and_not_promoted(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, ["young"])
    job = train(cloud, tmp_path)
    assert job.returncode == 0, job.stderr
    (training,) = job.trainings
    assert (training["decision"], training["learning"], training["sensors"]) == ("held", 1, 0)
    assert cloud.data.keys("models/") == []
    assert len(cloud.model_events.of(training["model_id"])) == 1


def test_a_window_shorter_than_the_data_leaves_the_rest_out(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, ["fridge-1"])
    job = train(cloud, tmp_path, hyperparameters={**HYPERPARAMETERS, "window_days": "0.25"})
    assert job.returncode == 0, job.stderr
    assert cutoff_of(cloud, "fridge-1").reading_count == 360


def test_without_exported_readings_the_job_fails_and_says_what_to_do(cloud: Cloud, tmp_path: Path) -> None:
    job = train(cloud, tmp_path)
    assert job.returncode != 0
    assert "run the export first" in job.stderr
    assert list(job.model_dir.iterdir()) == []
