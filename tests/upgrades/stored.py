"""What the functions of a release store, written by them: kept with the release, and read by those of later ones.

Two sensors are learned from five hours; one has had a fault that is over, the other has one that goes on. Two ETL jobs
are learned from five days, and one of them has a ticket. Each function runs on moto, as it would on AWS.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from lambdas.etl_jobs.predict_anomalies import handler as predicting
from lambdas.runtime.objects import Bucket
from lambdas.sensors.detect_anomalies import handler as detecting
from lambdas.sensors.export_training_set import handler as exporting
from lambdas.sensors.poll_readings import handler as polling_handler
from lambdas.sensors.poll_readings import polling
from lambdas.sensors.stores import Sensor, cutoffs_key, dump_cutoffs
from lambdas.sensors.watch_sensors import handler as watching
from overcut.etl_jobs.job_runs import JobRun
from overcut.sensors.incidents import Label
from overcut.sensors.readings import Reading
from tests.faults import sensors as world
from tests.faults.injection import Injector, in_the_way
from tests.faults.test_open_tickets import OverWebhook, over_webhook
from tests.functional.conftest import Cloud
from tests.functional.etl_cloud import TABLE as TICKETS_TABLE
from tests.functional.streams import stream_event
from tests.functional.test_poll_readings import MINUTE, NOON, event
from tests.training.test_train_sensors import HYPERPARAMETERS
from tests.unit.generated_job_runs import START, history
from training.etl_jobs import extract_features
from training.etl_jobs import train as train_etl_jobs
from training.sensors import train as train_sensors
from workbench.cloud import spark

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

SOURCE = "device"
MAPPING = {"measures": {"temperature": "C"}}
TRAINED, WRITTEN = 300, 370  # minutes after noon: of the training, and of the last reading
SETTINGS = {
    "RETENTION_DAYS": 30,
    "EXPORT_BUCKETS": 1,
    "CONSECUTIVE_MINUTES": 5,
    "RECOVERY_MINUTES": 30,
    "STALE_AFTER_MINUTES": 30,
}


@dataclass
class Stored:
    """Items of tables, as DynamoDB has them, and objects of a bucket."""

    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, dynamodb: DynamoDBClient, tables: Iterable[str], bucket: Bucket) -> Stored:
        pages = {name: dynamodb.get_paginator("scan").paginate(TableName=name) for name in tables}
        items: dict[str, list[Any]] = {name: [item for page in pages[name] for item in page["Items"]] for name in pages}
        return cls(items, {key: bucket.get(key) for key in bucket.keys("")})

    def put(self, dynamodb: DynamoDBClient, bucket: Bucket) -> None:
        for table, items in self.tables.items():
            for item in items:
                dynamodb.put_item(TableName=table, Item=item)
        for key, body in self.objects.items():
            bucket.put(key, body)

    def files(self) -> dict[str, bytes]:
        """As files: a table is one of JSON Lines, in the order of its keys."""
        tables = {
            f"tables/{name}.jsonl": "".join(f"{line}\n" for line in sorted(map(json.dumps, items))).encode()
            for name, items in self.tables.items()
        }
        return tables | {f"objects/{key}": body for key, body in self.objects.items()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Stored:
        stored = cls()
        for name, body in files.items():
            kind, _, key = name.partition("/")
            if kind == "objects":
                stored.objects[key] = body
            else:
                stored.tables[key.removesuffix(".jsonl")] = [json.loads(line) for line in body.splitlines()]
        return stored


# --- sensors ---


def value(sensor_id: str, minute: int) -> float:
    """What a sensor shows: `over` had a fault from minute 320 to 326, `lasting` has one from 356 to 374."""
    usual = 4.0 + (sensor_id == "over") + Random(minute).gauss(0.0, 0.2)
    faults = {"over": 320 <= minute < 327, "lasting": 356 <= minute < 375}
    return round(usual + 9.0 * faults[sensor_id], 2)


class SensorsPipeline:
    """The pipeline's functions on one moto, and a device that they poll.

    Attributes:
        published: the texts that SNS took, in order.
    """

    def __init__(self, cloud: Cloud, inner: world.SensorsWorld) -> None:
        self.cloud, self._world = cloud, inner
        self._said: list[Reading] = []
        self._polls, self._monotonic = 0, 0.0

    @property
    def published(self) -> Sequence[Any]:
        return self._world.injector.published

    def at(self, minute: int) -> datetime:
        """Set the clock to a minute after noon."""
        moment = NOON + minute * MINUTE
        self._world.set_clock(moment)
        self._world.wall = int(moment.timestamp())
        return moment

    def stream(self, first: int, last: int) -> None:
        """The device says what it shows from minute `first` to `last`; it is polled, and judged ten minutes at once."""
        for begin in range(first, last + 1, 10):
            minutes = range(begin, min(begin + 10, last + 1))
            new = [
                Reading(sensor_id, NOON + minute * MINUTE, {"temperature": value(sensor_id, minute)})
                for minute in minutes
                for sensor_id in ("over", "lasting")
            ]
            self._said = new
            moment = self.at(minutes[-1])
            self.poll()
            detecting.handler(stream_event(self.cloud, new, written_at=moment), None)

    def poll(self) -> None:
        given = {"source_id": SOURCE, "url": "https://device/events", "mapping": MAPPING}
        self._polls += 1
        context = SimpleNamespace(get_remaining_time_in_millis=lambda: 170_000, aws_request_id=f"poll-{self._polls}")
        self._monotonic = 0.0
        polling_handler.handler(given, context)  # type: ignore[arg-type]  # all that is asked of it

    def connect(self, pool: object, url: str, *, last_event_id: str, authorization: str) -> PipelineStream:
        begun = int(last_event_id or 0)
        return PipelineStream(self, [_said(begun + k, reading) for k, reading in enumerate(self._said, 1)])

    def wait(self, seconds: float) -> None:
        self._monotonic += seconds

    def monotonic(self) -> float:
        return self._monotonic

    def watch(self, minute: int) -> None:
        self.at(minute)
        watching.handler({}, None)

    def export(self, minute: int) -> None:
        self.at(minute)
        exporting.handler({"bucket": 0}, None)

    def train(self, minute: int) -> None:
        self.at(minute)
        given = {**HYPERPARAMETERS, "window_days": "1", "num_trees": "10", "num_samples_per_tree": "64"}
        train_sensors.main([part for name, given_value in given.items() for part in (f"--{name}", given_value)])


def _said(number: int, reading: Reading) -> bytes:
    minute = (reading.measured_at - NOON) // MINUTE
    return event(str(number), minute, reading.values["temperature"], reading.sensor_id)


class PipelineStream:
    """An open stream that says what the device has to say, and then nothing."""

    def __init__(self, pipeline: SensorsPipeline, events: Iterable[bytes]) -> None:
        self._pipeline, self._chunks = pipeline, [b": heartbeat\n\n", b"".join(events)]

    def chunk(self, timeout: float) -> bytes | None:
        self._pipeline.wait(2 if self._chunks else 200)
        return self._chunks.pop(0) if self._chunks else None

    def close(self) -> None:
        """Nothing is held open."""


@contextmanager
def sensors_pipeline(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[SensorsPipeline]:
    functions = (polling_handler, detecting, exporting, watching)

    def cold_start() -> None:
        for function in functions:
            function.dependencies.cache_clear()

    injector = Injector()
    with in_the_way(injector, patch), world.tables(patch, **SETTINGS, TRAINING_JOB_NAME="nightly") as (cloud, clock):
        world.reuse_clients(patch)
        patch.setenv("SM_MODEL_DIR", str(folder))
        inner = world.SensorsWorld(cloud, clock, injector, patch)
        pipeline = SensorsPipeline(cloud, inner)
        patch.setattr(polling_handler, "Connection", pipeline.connect)
        patch.setattr(polling, "time", SimpleNamespace(monotonic=pipeline.monotonic))
        patch.setattr(polling, "wait", lambda seconds, until: None)
        world.stop_wall_clock(patch, detecting, inner)
        world.stop_wall_clock(patch, watching, inner)
        cold_start()
        yield pipeline
        cold_start()


def write_sensors(pipeline: SensorsPipeline) -> Stored:
    """A day in the life of two sensors."""
    cloud = pipeline.cloud
    about: Any = {"kind": "fridge", "customer": "north", "site": "Aarhus"}
    names = ("over", "lasting")
    cloud.sensors.put([Sensor(name, "", {}, name=f"Fridge {name}", **about) for name in names], 1)
    for hour in range(0, TRAINED, 60):
        pipeline.stream(hour, hour + 59)
        pipeline.export(hour + 60)
    pipeline.train(TRAINED)
    pipeline.stream(TRAINED, WRITTEN)
    pipeline.watch(WRITTEN)
    (over,) = (one.incident for one in cloud.incidents.known() if one.incident.recovered_at)
    cloud.incidents.label(over, Label.FAULT)
    (cutoff,) = cloud.cutoffs.newest("over", 1)
    # as of a version that is held
    cloud.data.put(cutoffs_key(cutoff.cohort_id, cutoff.model_version), dump_cutoffs([cutoff]))
    return Stored.of(cloud.dynamodb, cloud.tables.values(), cloud.data)


# --- ETL jobs ---

HISTORY = 24 * 5  # hourly runs of a job
UNTIL = START + timedelta(hours=HISTORY)
PREDICTED = UNTIL + timedelta(hours=5, minutes=30)
JOBS = ("orders", "stock")


def runs() -> Iterator[JobRun]:
    """Two hourly jobs; the last run of `orders` loads next to nothing."""
    for name in JOBS:
        for run in history(name, count=HISTORY + 6, every=timedelta(hours=1)):
            yield replace(run, records_processed=200) if run.run_id == f"orders-{HISTORY + 5}" else run


def extract(folder: Path) -> dict[str, bytes]:
    """What Spark makes of a lake with these runs: `historical/`, `recent/` and what comes with them."""
    for run in runs():
        ended = run.started_at + timedelta(seconds=run.run_time_seconds)
        said = {
            "job": {"name": run.job_name, "schedule": "@hourly", "time_zone": "UTC"},
            "run": {"id": run.run_id, "started_at": run.started_at.isoformat()},
            "state": "succeeded",
            "occurred_at": ended.isoformat(),
            "metrics": {"records": {"processed": run.records_processed}},
        }
        day = folder / "lake" / f"dt={ended:%Y-%m-%d}" / "00.jsonl"
        day.parent.mkdir(parents=True, exist_ok=True)
        with day.open("a") as lines:
            lines.write(json.dumps(said) + "\n")
    for mode, until in (("historical", UNTIL), ("recent", PREDICTED)):
        command = spark.submit(
            Path(extract_features.__file__),
            [
                *("--mode", mode, "--until", until.isoformat(), "--days", "5", "--buckets", "1"),
                *("--lake", str(folder / "lake"), "--output", str(folder / "out")),
            ],
            [],
            folder,
            {},
        )
        java = spark.java_home(os.environ["PATH"], folder / "java")
        environment = spark.environment(java, folder, os.environ)
        log = folder / f"{mode}.log"
        with log.open("wb") as output:
            # in a group of its own, which ends with whoever holds its standard input
            job = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            with job:
                code = job.wait()
        assert code == 0, log.read_text()
    out = folder / "out"
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


class EtlJobsPipeline:
    """The pipeline's functions on one moto, and a webhook that takes every ticket."""

    def __init__(self, inner: OverWebhook) -> None:
        self.cloud, self._world = inner.cloud, inner

    @property
    def acted(self) -> list[tuple[str, str]]:
        """What the webhook did: action and run, in order."""
        return list(self._world.acted.values())

    @property
    def data(self) -> Bucket:
        return self.cloud.predictions

    def train(self, until: datetime) -> None:
        given = {"until": until.isoformat(), "window_days": "5", "num_trees": "10", "num_samples_per_tree": "64"}
        train_etl_jobs.main([part for name, given_value in given.items() for part in (f"--{name}", given_value)])

    def predict(self, until: datetime) -> None:
        predicting.handler({"until": until.isoformat(), "bucket": 0}, None)

    def open_tickets(self, now: datetime) -> None:
        self._world.now = now
        self._world.open_tickets()


@contextmanager
def etl_jobs_pipeline(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[EtlJobsPipeline]:
    injector = Injector()
    with in_the_way(injector, patch), over_webhook(injector, patch) as inner:
        assert isinstance(inner, OverWebhook)
        environment = {"BUCKETS": "1", "MISSED_AFTER_MINUTES": "60", "SM_MODEL_DIR": str(folder)}
        for name, setting in {**environment, "TRAINING_JOB_NAME": "nightly"}.items():
            patch.setenv(name, setting)
        patch.setattr(predicting, "small_clients", lambda *services: boto3.client)
        predicting.dependencies.cache_clear()
        yield EtlJobsPipeline(inner)
        predicting.dependencies.cache_clear()


def write_etl_jobs(pipeline: EtlJobsPipeline, extracted: Mapping[str, bytes]) -> Stored:
    """A model, and a ticket about the run that it finds unusual."""
    for key, body in extracted.items():
        pipeline.data.put(key, body)
    pipeline.train(UNTIL)
    pipeline.predict(PREDICTED)
    pipeline.open_tickets(PREDICTED)
    return Stored.of(pipeline.cloud.dynamodb, [TICKETS_TABLE], pipeline.data)
