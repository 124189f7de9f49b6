"""The training script under the container's contract: arguments, environment, model directory, and nothing else."""

import io
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arro3.core import DataType, RecordBatch, Table
from arro3.io import read_parquet, write_parquet

from lambdas.runtime.clock import ClockFace, FileClock
from lambdas.sensors.export_training_set.exporting import readings_to_parquet
from lambdas.sensors.stores import Learning, Sensor, cutoffs_key, load_cutoffs
from overcut.formats import UnknownFormatError
from overcut.sensors.cohorts import SensorSeries, TrainingRules, train_cohort
from overcut.sensors.cutoffs import Cutoff, in_force, retired
from overcut.sensors.incidents import (
    EQUIPMENT_FAULT,
    STUCK_SENSOR,
    Cause,
    Change,
    ChangeKind,
    Episode,
    Equipment,
    Head,
    Incident,
    IncidentState,
    JudgedReading,
    RunRule,
    find_runs,
)
from overcut.sensors.judging import Series, judge
from overcut.sensors.layout import decision_key, readings_key
from overcut.sensors.learning import Abnormal
from overcut.sensors.models import load_model
from overcut.sensors.readings import Reading, format_time
from tests.conftest import ROOT
from tests.functional.aws_over_http import aws_over_http
from tests.functional.conftest import Cloud
from training.sensors.train import TrainingParameters, read_cohorts
from training.sensors.window import read_window

MIDNIGHT = datetime(2026, 1, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOURS = 20
TRAINED_AT = MIDNIGHT + timedelta(hours=HOURS)
HYPERPARAMETERS = {
    "window_days": "14",
    "detector": "channels",
    "z_factor": "2.5",
    "false_alarm_budget": "0.1",
    "num_trees": "30",
    "num_samples_per_tree": "128",
    "consecutive_minutes": "5",
    "recovery_minutes": "30",
    "new_normal_after_hours": "24",
    "min_deviation": "{}",
}
RULE = RunRule()
Values = dict[str, float] | None
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


def values_of(sensor_id: str, minute: int) -> Values:
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


def readings_of(
    sensor_id: str, minutes: Iterable[int] = range(HOURS * 60), measured: Callable[[str, int], Values] = values_of
) -> list[Reading]:
    found = ((minute, measured(sensor_id, minute)) for minute in minutes)
    return [Reading(sensor_id, MIDNIGHT + minute * MINUTE, values) for minute, values in found if values]


def export(cloud: Cloud, sensors: Iterable[str], *, measured: Callable[[str, int], Values] = values_of) -> None:
    """What the exporter leaves of `sensors`, each in a bucket of its own."""
    cloud.sensors.put([Sensor(name, "device", {}, kind=KINDS[name]) for name in sensors], 16)
    export_readings(cloud, {name: readings_of(name, measured=measured) for name in sensors})


def export_readings(cloud: Cloud, readings: Mapping[str, Sequence[Reading]]) -> None:
    for bucket, of_sensor in enumerate(readings.values()):
        hours: dict[datetime, list[Reading]] = {}
        for reading in of_sensor:
            hours.setdefault(reading.measured_at.replace(minute=0), []).append(reading)
        for hour, some in hours.items():
            cloud.data.put(readings_key(hour, bucket), readings_to_parquet(some)[0])


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
            "INCIDENTS_TABLE": cloud.tables["Incidents"],
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


def verdicts(cloud: Cloud, cutoff: Cutoff, readings: Sequence[Reading], first: int) -> list[JudgedReading]:
    """What detection says of the readings from number `first` on, once the cutoff is in force."""
    model, now = load_model(cloud.data.get(cutoff.model_key)), replace(cutoff, effective_from=MIDNIGHT)
    return judge(Series.of(readings), first, [now], lambda _: model, RULE)


def fires(cloud: Cloud, sensor_id: str, **fault: float) -> bool:
    """Whether ten minutes of other values after the window are an anomaly each from the third on."""
    minutes = range(HOURS * 60 - 90, HOURS * 60)
    then = [HOURS * 60 + k for k in range(10)]
    before = readings_of(sensor_id, minutes)
    after = [replace(one, values={**one.values, **fault}) for one in readings_of(sensor_id, then)]
    judged = verdicts(cloud, cutoff_of(cloud, sensor_id), [*before, *after], len(before))
    return all(one.is_anomaly for one in judged[2:])


def keep_incident(
    cloud: Cloud,
    sensor_id: str,
    first: int,
    last: int,
    *,
    recovered: int | None = None,
    label: str = "",
    kind: str = EQUIPMENT_FAULT,
) -> None:
    """An incident over minutes of the window, kept as detection keeps it."""
    ends = [MIDNIGHT + minute * MINUTE for minute in (first, last)]
    at = None if recovered is None else MIDNIGHT + recovered * MINUTE
    episode = Episode(ends[0], ends[0] + 4 * MINUTE, ends[1], at)
    incident = Incident(
        equipment=Equipment(sensor_id, sensor_id),
        kind=kind,
        state=IncidentState.OPEN if at is None else IncidentState.RECOVERED,
        opened_at=episode.opened_at,
        first_anomalous_at=ends[0],
        last_anomalous_at=ends[1],
        recovered_at=at,
        cause=Cause("temperature", "C", 9.0, 3.5, 4.5, 2.0, 1.0, "v1"),
        texts={},
    )
    head = Head(1, episode.opened_at, ends[0], ends[1], at)
    cloud.incidents.open(incident, Change(ChangeKind.OPEN, episode, head))
    if label:
        cloud.dynamodb.update_item(
            TableName=cloud.tables["Incidents"],
            Key={"sensor_id": {"S": sensor_id}, "opened_at": {"S": format_time(episode.opened_at)}},
            UpdateExpression="SET #label = :label",
            ExpressionAttributeNames={"#label": "label"},
            ExpressionAttributeValues={":label": {"S": label}},
        )


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
        "detector": "channels",
        "z_factor": 2.5,
        "false_alarm_budget": 0.1,
        "sensors": 3,
        "readings": 3600,
        "learning": 1,
        "clamped": [],
        "retired": [],
        "decision": "promoted",
        "reason": "",
        "effective_from": "2026-01-05T20:15:00Z",
    }
    assert (air["sensors"], air["readings"], air["learning"]) == (2, 2400, 0)
    for training in (air, fridges):
        (event,) = cloud.model_events.of(training["model_id"])
        assert event == {**training, "occurred_at": "2026-01-05T20:00:00Z"}
        key = f"models/sensors/{training['model_id']}/{training['model_version']}/model.zip"
        assert cloud.data.keys(f"models/sensors/{training['model_id']}/") == [key]

    assert cloud.cutoffs.newest("young", 5) == []
    cutoffs = {name: cutoff_of(cloud, name) for name in KINDS if name != "young"}
    for name, cutoff in cutoffs.items():
        training = air if KINDS[name] == "air" else fridges
        assert (cutoff.cohort_id, cutoff.model_version) == (training["model_id"], training["model_version"])
        assert (cutoff.trained_at, cutoff.effective_from) == (TRAINED_AT, TRAINED_AT + 15 * MINUTE)
        assert (cutoff.interval, cutoff.reading_count) == (MINUTE, 1200)
        assert cutoff.z_factor >= 2.5
        assert cutoff.score_cutoff == pytest.approx(cutoff.score_mean + cutoff.z_factor * cutoff.score_sd, rel=1e-9)
    assert [usual.measure for usual in cutoffs["air-1"].ranges] == ["humidity", "temperature"]
    (usual,) = cutoffs["fridge-2"].ranges
    assert (usual.low, usual.high) == (-20.0, -16.0)
    assert usual.features["level"].centre == pytest.approx(-18.0, abs=0.2)

    # nothing in the very readings that were learned is an incident
    for name, cutoff in cutoffs.items():
        readings = readings_of(name)
        assert find_runs(verdicts(cloud, cutoff, readings, 0), MINUTE, RULE) == [], name


@pytest.mark.parametrize("detector", ["channels", "laboratory"])
def test_faults_are_anomalies_of_their_sensor_and_a_rounding_step_is_not(
    cloud: Cloud, tmp_path: Path, detector: str
) -> None:
    export(cloud, KINDS)
    job = train(cloud, tmp_path, hyperparameters={**HYPERPARAMETERS, "detector": detector})
    assert job.returncode == 0, job.stderr
    assert {training["detector"] for training in job.trainings} == {detector}
    assert fires(cloud, "fridge-1", temperature=9.0)
    assert fires(cloud, "fridge-2", temperature=4.0), "it is usual for the other one"
    assert fires(cloud, "air-1", temperature=35.0)
    assert fires(cloud, "air-1", humidity=90.0)
    assert fires(cloud, "still", temperature=9.0)
    for name, usual in [("fridge-1", 4.2), ("fridge-2", -17.0), ("air-1", 21.3), ("still", 5.1), ("still", 4.9)]:
        assert not fires(cloud, name, temperature=usual), (name, usual)


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
    assert decided(cloud)["decision"] == "promoted", "there is nothing to approve"
    assert cloud.data.keys("models/") == []
    assert len(cloud.model_events.of(training["model_id"])) == 1


def test_a_window_shorter_than_the_data_leaves_the_rest_out(cloud: Cloud, tmp_path: Path) -> None:
    # and what was measured while the export ran
    export_readings(cloud, {"fridge-1": readings_of("fridge-1", range(HOURS * 60 + 30))})
    job = train(cloud, tmp_path, hyperparameters={**HYPERPARAMETERS, "window_days": "0.25"})
    assert job.returncode == 0, job.stderr
    assert cutoff_of(cloud, "fridge-1").reading_count == 360


def test_without_exported_readings_the_job_fails_and_says_what_to_do(cloud: Cloud, tmp_path: Path) -> None:
    job = train(cloud, tmp_path)
    assert job.returncode != 0
    assert "run the export first" in job.stderr
    assert list(job.model_dir.iterdir()) == []


# --- the window ---


def test_a_slow_sensor_is_learned_from_more_of_the_past(cloud: Cloud) -> None:
    """Once an hour for 40 days, in a bucket with one that measures once a minute for two."""
    slow = [Reading("slow", MIDNIGHT + timedelta(hours=k), {"temperature": float(k)}) for k in range(960)]
    ends_at = MIDNIGHT + timedelta(days=40)
    fast = [Reading("fast", ends_at - k * MINUTE, {"temperature": float(k % 7)}) for k in range(2 * 1440, 0, -1)]
    export_readings(cloud, {"both": [*slow, *fast], "other": readings_of("fridge-1", range(60))})
    found = {one.series.sensor_id: one.series for one in read_window(cloud.data, ends_at, timedelta(days=14))}
    # the third measured before the window alone, once a minute
    assert found.keys() == {"slow", "fast"}
    assert found["slow"].values[:, 0].tolist() == [float(k) for k in range(960)]
    assert len(found["fast"].measured_at) == 2 * 1440
    # fourteen hours of one a minute are 840 readings: 35 days
    found = {one.series.sensor_id: one.series for one in read_window(cloud.data, ends_at, timedelta(hours=14))}
    assert found["slow"].values[:, 0].tolist() == [float(k) for k in range(120, 960)]
    assert len(found["fast"].measured_at) == 14 * 60


def test_a_day_that_ended_before_the_window_has_nothing_to_learn_from(cloud: Cloud) -> None:
    export_readings(cloud, {"early": readings_of("fridge-1", range(60))})
    assert list(read_window(cloud.data, MIDNIGHT + timedelta(hours=25), timedelta(hours=23))) == []


def test_exports_whose_times_have_another_unit_are_refused(cloud: Cloud) -> None:
    """Taken for microseconds they would be of another year, and left out without a word."""
    stored, _ = readings_to_parquet(readings_of("fridge-1", range(60)))
    table = read_parquet(io.BytesIO(stored)).read_all()
    columns: dict[str, Any] = {name: table[name].combine_chunks() for name in table.schema.names}
    times = DataType.timestamp("ns", tz="UTC")
    columns["measured_at"] = columns["measured_at"].cast(times)
    batch = RecordBatch.from_pydict(columns)
    written = io.BytesIO()
    write_parquet(Table.from_batches([batch], schema=batch.schema), written)
    cloud.data.put(readings_key(MIDNIGHT, 0), written.getvalue())
    with pytest.raises(UnknownFormatError, match="export them again"):
        list(read_window(cloud.data, TRAINED_AT, timedelta(days=1)))


def test_a_sensor_that_slowed_down_is_learned_as_slow(cloud: Cloud) -> None:
    """Once a minute until fifteen hours ago, and once an hour since: of 35 days nearly all readings are of before."""
    ends_at = MIDNIGHT + timedelta(hours=40)
    slowed = ends_at - timedelta(hours=15)
    quick = [Reading("a", MIDNIGHT + k * MINUTE, {"temperature": 0.0}) for k in range((slowed - MIDNIGHT) // MINUTE)]
    slow = [Reading("a", slowed + timedelta(hours=k), {"temperature": float(k)}) for k in range(15)]
    export_readings(cloud, {"bucket": [*quick, *slow]})
    (found,) = read_window(cloud.data, ends_at, timedelta(hours=14))
    assert found.series.interval == timedelta(hours=1)
    assert found.series.values[:, 0].tolist() == [float(k) for k in range(1, 15)]


def test_an_old_incident_of_a_slow_sensor_is_left_out_and_of_a_fast_one_forgotten(cloud: Cloud) -> None:
    ends_at = MIDNIGHT + timedelta(days=40)
    slow = [Reading("slow", MIDNIGHT + timedelta(hours=k), {"temperature": float(k)}) for k in range(960)]
    fast = [Reading("fast", ends_at - k * MINUTE, {"temperature": float(k % 7)}) for k in range(1440, 0, -1)]
    export_readings(cloud, {"both": [*slow, *fast]})
    last = MIDNIGHT + timedelta(days=10)
    old = {"slow": [Abnormal(last - timedelta(hours=3), last)], "fast": [Abnormal(last - timedelta(days=3), last)]}
    parameters = TrainingParameters.parse(
        [part for name, value in HYPERPARAMETERS.items() for part in (f"--{name}", value)]
    )
    (cohort,) = read_cohorts(cloud.data, {}, old, parameters, ends_at)
    of_fast, of_slow = cohort.series
    assert cohort.anew == set()
    assert of_fast.is_clean is not None
    assert of_fast.is_clean.all()
    assert of_slow.is_clean is not None
    assert of_slow.values[~of_slow.is_clean, 0].tolist() == [float(k) for k in range(236, 247)]


def test_of_a_value_that_comes_twice_the_later_one_counts(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, ["fridge-1"])
    hour = MIDNIGHT + timedelta(hours=3)
    readings = readings_of("fridge-1", range(180, 240))
    again = [Reading("fridge-1", one.measured_at, {"temperature": -50.0}) for one in readings]
    cloud.data.put(readings_key(hour, 0), readings_to_parquet([*again, *readings])[0])
    assert train(cloud, tmp_path).returncode == 0
    cutoff = cutoff_of(cloud, "fridge-1")
    assert cutoff.reading_count == HOURS * 60
    assert cutoff.ranges[0].low == 3.5


def test_a_reading_counts_if_it_has_every_measure_and_a_rare_measure_is_left_out(cloud: Cloud, tmp_path: Path) -> None:
    def measured(sensor_id: str, minute: int) -> Values:
        values = values_of(sensor_id, minute)
        if values and minute % 10 == 0:
            values.pop("humidity")
        if values and minute % 10 == 3:
            values["battery"] = 3.1
        return values

    export(cloud, ["air-1"], measured=measured)
    assert train(cloud, tmp_path).returncode == 0
    cutoff = cutoff_of(cloud, "air-1")
    assert [usual.measure for usual in cutoff.ranges] == ["humidity", "temperature"]
    assert cutoff.reading_count == HOURS * 54
    assert (cutoff.ranges[0].low, cutoff.ranges[0].high) == (45.0, 55.0)


def test_sensors_of_one_bucket_are_kept_apart(cloud: Cloud, tmp_path: Path) -> None:
    cloud.sensors.put([Sensor(name, "device", {}, kind="fridge") for name in ("fridge-1", "fridge-2")], 16)
    both = [
        one for minute in range(HOURS * 60) for name in ("fridge-2", "fridge-1") for one in readings_of(name, [minute])
    ]
    export_readings(cloud, {"both": both})
    assert train(cloud, tmp_path).returncode == 0
    found = {name: cutoff_of(cloud, name) for name in ("fridge-1", "fridge-2")}
    assert {name: (one.reading_count, one.ranges[0].low) for name, one in found.items()} == {
        "fridge-1": (1200, 3.5),
        "fridge-2": (1200, -20.0),
    }


def test_many_cores_give_what_one_gives() -> None:
    random = np.random.default_rng(5)
    times = 1_770_000_000 + 60 * np.arange(600)
    series = []
    for k in range(6):
        values = np.round(k + np.sin(times / 900 + k)[:, None] + random.normal(0, 0.1, (600, 2)), 1)
        kept = (times % (7200 + 600 * k) > 40 * 60 * (k == 2)) & (random.random(600) > 0.01)
        clean = random.random(int(kept.sum())) > 0.05 if k == 3 else None
        series.append(SensorSeries(f"s{k}", times[kept], values[kept], clean))
    given: dict[str, Any] = {
        "cohort_id": "c",
        "measures": ("a", "b"),
        "rules": TrainingRules(),
        "trained_at": TRAINED_AT,
        "seed": 3,
    }
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        together = train_cohort(series, executor=processes, **given)
    alone = train_cohort(series, **given)
    assert len(alone.cutoffs) == 6
    assert together.cutoffs == alone.cutoffs
    assert together.model
    assert alone.model
    assert [one.rarity for one in together.model.channels] == [one.rarity for one in alone.model.channels]


# --- learning safely ---


def with_fault(first: int, last: int, by: float = 6.0) -> Callable[[str, int], Values]:
    def measured(sensor_id: str, minute: int) -> Values:
        values = values_of(sensor_id, minute)
        if values and first <= minute <= last:
            values["temperature"] += by
        return values

    return measured


@pytest.mark.parametrize(
    ("label", "kind", "learned"),
    [
        ("", EQUIPMENT_FAULT, False),
        ("fault", EQUIPMENT_FAULT, False),
        ("", STUCK_SENSOR, False),
        ("false_alarm", EQUIPMENT_FAULT, True),
    ],
)
def test_minutes_of_incidents_are_left_out_unless_a_person_calls_them_a_false_alarm(
    cloud: Cloud, tmp_path: Path, label: str, kind: str, learned: bool
) -> None:
    export(cloud, ["fridge-1"], measured=with_fault(500, 800))
    keep_incident(cloud, "fridge-1", 500, 800, recovered=840, label=label, kind=kind)
    job = train(cloud, tmp_path)
    assert job.returncode == 0, job.stderr
    (usual,) = cutoff_of(cloud, "fridge-1").ranges
    assert usual.high == (10.5 if learned else 4.5)
    assert cutoff_of(cloud, "fridge-1").reading_count == HOURS * 60


def test_what_lasts_is_the_new_normal(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, ["fridge-1"], measured=with_fault(300, HOURS * 60))
    keep_incident(cloud, "fridge-1", 300, HOURS * 60)
    job = train(cloud, tmp_path, hyperparameters={**HYPERPARAMETERS, "new_normal_after_hours": "10"})
    assert job.returncode == 0, job.stderr
    cutoff = cutoff_of(cloud, "fridge-1")
    (usual,) = cutoff.ranges
    # two hours after it began it has settled
    assert cutoff.reading_count == HOURS * 60 - 420
    assert (usual.low, usual.high) == (9.5, 10.5)
    (incident,) = cloud.incidents.of("fridge-1", MIDNIGHT, TRAINED_AT)
    assert incident.state is IncidentState.NEW_NORMAL


@pytest.mark.parametrize(("first", "recovered", "label"), [(300, None, "fault"), (700, None, ""), (300, 1190, "")])
def test_what_is_called_a_fault_or_does_not_last_or_is_over_is_not_the_new_normal(
    cloud: Cloud, tmp_path: Path, first: int, recovered: int | None, label: str
) -> None:
    export(cloud, ["fridge-1"], measured=with_fault(first, HOURS * 60))
    keep_incident(cloud, "fridge-1", first, recovered or HOURS * 60, recovered=recovered, label=label)
    job = train(cloud, tmp_path, hyperparameters={**HYPERPARAMETERS, "new_normal_after_hours": "10"})
    assert job.returncode == 0, job.stderr
    (incident,) = cloud.incidents.of("fridge-1", MIDNIGHT, TRAINED_AT)
    assert incident.state is (IncidentState.RECOVERED if recovered else IncidentState.OPEN)


def test_what_is_not_learned_is_not_the_new_normal(cloud: Cloud, tmp_path: Path) -> None:
    """Of a sensor that measures every five minutes an incident of 28 hours lasts, and is enough to be learned; another
    of eleven hours is neither."""
    every, readings = 5, 4 * 288
    cloud.sensors.put([Sensor("slow", "device", {}, kind="fridge")], 16)
    measured = [values_of("fridge-1", k) for k in range(readings)]
    first = TRAINED_AT - readings * every * MINUTE
    slow = [Reading("slow", first + k * every * MINUTE, values) for k, values in enumerate(measured) if values]
    export_readings(cloud, {"slow": slow})
    begins = (first - MIDNIGHT) // MINUTE
    keep_incident(cloud, "slow", begins + 60, begins + 60 + 28 * 60, recovered=begins + 60 + 29 * 60)
    keep_incident(cloud, "slow", HOURS * 60 - 11 * 60, HOURS * 60 - 1, kind=STUCK_SENSOR)
    job = train(
        cloud, tmp_path, hyperparameters={**HYPERPARAMETERS, "window_days": "5", "new_normal_after_hours": "10"}
    )
    assert job.returncode == 0, job.stderr
    # what was before the first of them is no longer learned from
    assert cutoff_of(cloud, "slow").reading_count == readings - 36
    found = cloud.incidents.of("slow", first, TRAINED_AT)
    assert [incident.state for incident in found] == [IncidentState.RECOVERED, IncidentState.OPEN]


def earlier_versions(cloud: Cloud, sensors: Iterable[str], furthest: float) -> None:
    """Four promoted versions before this training, whose features got only so far."""
    for name in sensors:
        now = cutoff_of(cloud, name)
        for days in range(1, 5):
            ranges = tuple(
                replace(
                    one,
                    features={
                        key: replace(usual, up=furthest, down=furthest if usual.down else 0.0)
                        for key, usual in one.features.items()
                    },
                )
                for one in now.ranges
            )
            moment = TRAINED_AT - timedelta(days=days)
            cloud.cutoffs.put(
                [replace(now, trained_at=moment, effective_from=moment, ranges=ranges, model_version="v1")]
            )
        forget_training(cloud, name)


def decided(cloud: Cloud) -> dict[str, str]:
    """What the job left for the workflow to tell."""
    found: dict[str, str] = json.loads(cloud.data.get(decision_key("sensors-0123-0")))
    return found


def forget_training(cloud: Cloud, name: str) -> None:
    key = {"sensor_id": {"S": name}, "trained_at": {"S": format_time(TRAINED_AT)}}
    cloud.dynamodb.delete_item(TableName=cloud.tables["Cutoffs"], Key=key)


FRIDGES = ["fridge-1", "fridge-2", "still"]


def trained_twice(cloud: Cloud, tmp_path: Path, moved: Sequence[str]) -> tuple[dict[str, Any], dict[str, Cutoff]]:
    """What the second of two trainings did, when `moved` get far further than before; and the first's cutoffs."""
    export(cloud, FRIDGES)
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
    assert train(cloud, tmp_path / "first").returncode == 0
    learned = {name: cutoff_of(cloud, name) for name in FRIDGES}
    earlier_versions(cloud, moved, 0.01)
    job = train(cloud, tmp_path / "second")
    assert job.returncode == 0, job.stderr
    (training,) = job.trainings
    return training, learned


def test_a_version_that_moves_too_many_sensors_is_held_and_can_be_approved(cloud: Cloud, tmp_path: Path) -> None:
    training, learned = trained_twice(cloud, tmp_path, ["fridge-1", "fridge-2"])
    assert training["decision"] == "held"
    assert training["outside"] == ["fridge-1", "fridge-2"]
    assert training["reason"].startswith("2 of 2 sensors changed more than they ever did")
    assert "effective_from" not in training
    assert cloud.model_events.of(training["model_id"])[-1]["outside"] == ["fridge-1", "fridge-2"]
    decision = decided(cloud)
    assert decision["decision"] == "held"
    assert decision["reason"].startswith(
        f"Version {training['model_version']} of {training['model_id']} is held: 2 of 2 sensors changed more"
    )
    newest = cloud.cutoffs.newest("fridge-1", 1)
    assert newest[0].model_version == "v1", "it is judged by what was before"

    # as learned, not brought to the band: whoever approves wants these
    held = load_cutoffs(cloud.data.get(cutoffs_key(training["model_id"], training["model_version"])))
    assert {one.sensor_id: one.ranges for one in held} == {name: one.ranges for name, one in learned.items()}
    load_model(cloud.data.get(held[0].model_key))
    now = TRAINED_AT + timedelta(hours=7)
    assert cloud.cutoffs.promote(held, now) == now + 15 * MINUTE
    cutoffs = cloud.cutoffs.newest("fridge-1", 14)
    before, after = (in_force(cutoffs, now + minutes * MINUTE) for minutes in (14, 15))
    assert before
    assert after
    assert (before.model_version, after.model_version) == ("v1", training["model_version"])


def test_one_sensor_that_moves_too_far_is_clamped_and_named(cloud: Cloud, tmp_path: Path) -> None:
    training, learned = trained_twice(cloud, tmp_path, ["fridge-1"])
    assert (training["decision"], training["clamped"]) == ("promoted", ["fridge-1"])
    assert decided(cloud) == {"decision": "promoted", "reason": ""}
    usual = cloud.cutoffs.newest("fridge-1", 1)[0].ranges[0].features["level"]
    assert usual.up == pytest.approx(0.01 * 10**0.25)
    assert cloud.cutoffs.newest("fridge-2", 1)[0].ranges == learned["fridge-2"].ranges
    assert cutoffs_key(training["model_id"], training["model_version"]) not in cloud.data.keys("models/")


def test_a_job_that_is_started_again_changes_nothing_that_was_put_to_use_and_tells_all(
    cloud: Cloud, tmp_path: Path
) -> None:
    export(cloud, ["fridge-1", "fridge-2"])
    cloud.sensors.put([Sensor("silent", "device", {}, kind="fridge")], 16)
    for attempt in ("earlier", "first", "second"):
        (tmp_path / attempt).mkdir()
    train(cloud, tmp_path / "earlier")
    moment = TRAINED_AT - timedelta(days=1)
    was = replace(cutoff_of(cloud, "fridge-1"), sensor_id="silent", trained_at=moment, effective_from=moment)
    cloud.cutoffs.put([was])
    for name in ("fridge-1", "fridge-2"):
        forget_training(cloud, name)
    # between attempts the clock goes on: a second is a minute
    given = HYPERPARAMETERS | {"workflow_started_at": (datetime.now(UTC) + timedelta(hours=-1)).isoformat()}
    first = train(cloud, tmp_path / "first", clock_speed=60.0, hyperparameters=given)
    assert first.trainings[0]["retired"] == ["silent"]
    kept = {name: cloud.cutoffs.newest(name, 9) for name in ("fridge-1", "fridge-2", "silent")}
    assert [len(cutoffs) for cutoffs in kept.values()] == [1, 1, 2]

    second = train(cloud, tmp_path / "second", clock_speed=60.0, hyperparameters=given)
    assert {name: cloud.cutoffs.newest(name, 9) for name in kept} == kept
    assert second.trainings[0]["retired"] == ["silent"]
    assert len(cloud.model_events.of(second.trainings[0]["model_id"])) == 1


def test_a_sensor_whose_usual_has_changed_for_good_is_not_clamped(cloud: Cloud, tmp_path: Path) -> None:
    keep_incident(cloud, "fridge-1", -2000, 0, recovered=40)
    training, _ = trained_twice(cloud, tmp_path, ["fridge-1"])
    assert training["clamped"] == []


def test_a_change_of_before_the_window_is_no_excuse(cloud: Cloud, tmp_path: Path) -> None:
    keep_incident(cloud, "fridge-1", -30 * 24 * 60, -28 * 24 * 60, recovered=-28 * 24 * 60 + 40)
    training, _ = trained_twice(cloud, tmp_path, ["fridge-1"])
    assert training["clamped"] == ["fridge-1"]


def test_a_sensor_silent_for_a_whole_window_is_learned_anew(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, ["fridge-1", "fridge-2"])
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    assert train(cloud, tmp_path / "first").returncode == 0
    for key in cloud.data.keys("readings/"):
        if key.endswith("-0001.parquet"):
            cloud.s3.delete_object(Bucket=cloud.bucket, Key=key)
    # what was trained at the same moment is the same job's
    then = TRAINED_AT - timedelta(days=20)
    learned = replace(cutoff_of(cloud, "fridge-2"), trained_at=then, effective_from=then)
    cloud.cutoffs.put([learned])
    forget_training(cloud, "fridge-2")
    job = train(cloud, tmp_path / "second")
    assert job.returncode == 0, job.stderr
    (training,) = job.trainings
    assert (training["sensors"], training["retired"]) == (1, ["fridge-2"])
    (newest, *_) = cloud.cutoffs.newest("fridge-2", 5)
    assert (newest.ranges, newest.trained_at) == ((), TRAINED_AT)
    assert in_force([newest, learned], newest.effective_from) is None
    assert in_force([newest, learned], newest.effective_from - MINUTE)
    # once is enough
    cloud.cutoffs.put([replace(newest, trained_at=TRAINED_AT - timedelta(days=1))])
    forget_training(cloud, "fridge-2")
    (tmp_path / "third").mkdir()
    assert train(cloud, tmp_path / "third").trainings[0]["retired"] == []


def with_a_young_one(sensor_id: str, minute: int) -> Values:
    """`young` measures since two hours, the others always."""
    if sensor_id != "young":
        return values_of(sensor_id, minute)
    return values_of(sensor_id, minute - 1080) if minute >= 1080 else None


def test_a_sensor_with_too_few_readings_says_until_when_it_learns(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, ["fridge-1", "young"], measured=with_a_young_one)
    cloud.sensors.put([replace(cloud.sensors.get("fridge-1"), learning=Learning(3, ""))], 16)
    assert train(cloud, tmp_path).returncode == 0
    assert cloud.sensors.get("fridge-1").learning is None, "it is learned"
    young = cloud.sensors.get("young")
    # in two hours it has enough; the training after that is tomorrow's
    assert young.learning == Learning(120, "2026-01-06T20:00:00Z")
    assert (young.kind, young.source_id) == ("fridge", "device")


@pytest.mark.parametrize(("window_days", "until"), [("0.16", ""), ("0.17", "2026-01-06T20:00:00Z")])
def test_a_sensor_that_never_has_enough_readings_says_so(
    cloud: Cloud, tmp_path: Path, window_days: str, until: str
) -> None:
    # 0.16 days are 230 minutes, 0.17 are 244
    export(cloud, ["fridge-1", "young"], measured=with_a_young_one)
    assert train(cloud, tmp_path, hyperparameters={**HYPERPARAMETERS, "window_days": window_days}).returncode == 0
    assert cloud.sensors.get("young").learning == Learning(120, until)


def test_nobody_is_registered_by_learning(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, ["young"])
    cloud.dynamodb.delete_item(TableName=cloud.tables["Sensors"], Key={"sensor_id": {"S": "young"}})
    assert train(cloud, tmp_path).returncode == 0
    cloud.sensors.set_learning("young", Learning(3, ""))
    cloud.sensors.set_learning("young", None)
    assert list(cloud.sensors.all()) == []


def test_a_sensor_that_is_judged_is_not_learning_however_few_readings_it_has(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, ["fridge-1"])
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    assert train(cloud, tmp_path / "first").returncode == 0
    # what was trained at the same moment is the same job's
    cloud.cutoffs.put([replace(cutoff_of(cloud, "fridge-1"), trained_at=TRAINED_AT - timedelta(days=1))])
    forget_training(cloud, "fridge-1")
    job = train(cloud, tmp_path / "second", hyperparameters={**HYPERPARAMETERS, "window_days": "0.1"})
    assert job.trainings[0]["learning"] == 1
    assert cloud.sensors.get("fridge-1").learning is None


def test_a_sensor_that_is_back_from_a_silence_is_learning_again(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, ["fridge-1"])
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    assert train(cloud, tmp_path / "first").returncode == 0
    learned = cutoff_of(cloud, "fridge-1")
    before = [TRAINED_AT - timedelta(days=days) for days in (20, 2)]
    cloud.cutoffs.put([replace(learned, trained_at=before[0]), retired(learned, before[1], before[1])])
    key = {"sensor_id": {"S": "fridge-1"}, "trained_at": {"S": format_time(TRAINED_AT)}}
    cloud.dynamodb.delete_item(TableName=cloud.tables["Cutoffs"], Key=key)
    job = train(cloud, tmp_path / "second", hyperparameters={**HYPERPARAMETERS, "window_days": "0.1"})
    assert job.returncode == 0, job.stderr
    assert cloud.sensors.get("fridge-1").learning == Learning(144, "")


def test_a_stage_s_min_deviation_reaches_the_cutoff(cloud: Cloud, tmp_path: Path) -> None:
    export(cloud, ["air-1"])
    given = {"device": {"temperature": 12.5}, "other": {"humidity": 99.0}}
    job = train(cloud, tmp_path, hyperparameters={**HYPERPARAMETERS, "min_deviation": json.dumps(given)})
    assert job.returncode == 0, job.stderr
    humidity, temperature = cutoff_of(cloud, "air-1").ranges
    assert temperature.min_deviation == 12.5
    assert humidity.min_deviation == pytest.approx(0.3), "three of the steps it shows"
