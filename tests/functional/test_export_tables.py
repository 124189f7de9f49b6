"""export_tables and register_partitions: what is asked about in SQL is a copy, and every day of it is registered."""

import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from arro3.core import DataType
from arro3.io import read_parquet
from botocore.exceptions import ClientError

from lambdas.etl_jobs.predict_anomalies.verdict_files import VerdictFile
from lambdas.etl_jobs.register_partitions import handler as registering
from lambdas.runtime.catalog import Catalog, CatalogBusyError
from lambdas.runtime.clock import ClockFace, FileClock
from lambdas.runtime.parquet import TYPES, to_parquet
from lambdas.sensors.export_tables import handler as exporting
from lambdas.sensors.export_training_set.exporting import readings_to_parquet
from lambdas.sensors.stores import Sensor
from overcut.etl_jobs.tables import JOB_RUNS, PREDICTIONS
from overcut.sensors.layout import bucket_of
from overcut.sensors.tables import CUTOFFS, INCIDENTS, MODEL_EVENTS, READINGS, SENSORS
from overcut.tables import Table
from tests.conftest import synthesized
from tests.functional.catalog import create_catalog
from tests.functional.conftest import Cloud
from tests.functional.etl_job_rows import recorded
from tests.functional.etl_job_rows import to_parquet as as_spark_writes
from tests.functional.test_stores import cutoff, incident, opening
from tests.unit.generated_job_runs import job_run

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
BUCKETS = 2


class Plant:
    def __init__(self, cloud: Cloud, clock: FileClock, database: str) -> None:
        self.cloud, self.clock, self.database = cloud, clock, database
        self.glue = boto3.client("glue")
        self.at(NOON)

    def at(self, now: datetime) -> None:
        self.clock.set(ClockFace(origin=now.timestamp(), wall=0.0, speed=0.0, ttl_offset=0.0))

    def rows(self, key: str) -> list[dict[str, Any]]:
        table = read_parquet(io.BytesIO(self.cloud.data.get(key))).read_all()
        columns = {name: table[name].to_pylist() for name in table.column_names}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def days(self, table: Table) -> dict[str, str]:
        """Where the registered days lie."""
        found = self.glue.get_partitions(DatabaseName=self.database, TableName=table.name)["Partitions"]
        return {one["Values"][0]: one["StorageDescriptor"]["Location"] for one in found}


@pytest.fixture
def plant(cloud: Cloud, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    database = create_catalog(boto3.client("glue"), synthesized("local"), cloud.bucket)
    environment = {
        "STAGE": "local",
        "SENSORS_TABLE": cloud.tables["Sensors"],
        "CUTOFFS_TABLE": cloud.tables["Cutoffs"],
        "MODEL_EVENTS_TABLE": cloud.tables["ModelEvents"],
        "INCIDENTS_TABLE": cloud.tables["Incidents"],
        "DATA_BUCKET": cloud.bucket,
        "DATABASE": database,
        "CLOCK": str(tmp_path / "clock.json"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    exporting.dependencies.cache_clear()
    yield Plant(cloud, FileClock(tmp_path / "clock.json"), database)
    exporting.dependencies.cache_clear()


def test_the_cutoffs_of_the_last_days_are_an_object_a_day_and_bucket(plant: Plant) -> None:
    plant.cloud.sensors.put([Sensor("a", "device", {}), Sensor("b", "device", {})], BUCKETS)
    silent = replace(cutoff(5, "a"), ranges=())
    plant.cloud.cutoffs.put([cutoff(1, "a"), cutoff(3, "a"), silent, cutoff(5, "b")])
    bucket = bucket_of("a", BUCKETS)
    expected = {f"tables/cutoffs/dt=2026-01-0{day}/{bucket:04d}.parquet" for day in (3, 5)}
    written = exporting.handler({"bucket": bucket}, None)
    assert set(plant.cloud.data.keys("tables/")) == expected
    (row,) = [
        one for one in plant.rows(f"tables/cutoffs/dt=2026-01-05/{bucket:04d}.parquet") if one["sensor_id"] == "a"
    ]
    assert row.keys() == CUTOFFS.columns.keys()
    assert (row["trained_at"], row["score_cutoff"], row["is_retired"]) == (silent.trained_at, silent.score_cutoff, True)
    assert row["interval_seconds"] == 60.0
    before = {key: plant.cloud.data.get(key) for key in expected}
    assert exporting.handler({"bucket": bucket}, None) == written
    assert {key: plant.cloud.data.get(key) for key in expected} == before, "the same again"
    # what was missed for longer is asked for by hand
    exporting.handler({"bucket": bucket, "days": 30}, None)
    assert f"tables/cutoffs/dt=2026-01-01/{bucket:04d}.parquet" in plant.cloud.data.keys("tables/")


def test_incidents_are_as_they_are_now(plant: Plant) -> None:
    one = incident()
    plant.cloud.incidents.open(one, opening(one))
    plant.cloud.sensors.put([Sensor("a", "device", {}, "Room", site="Aarhus")], BUCKETS)
    plant.cloud.model_events.put("cohort", NOON, {"decision": "held", "sensors": 2, "clamped": ["a"]})
    assert exporting.handler({}, None) == {"rows": 3}
    (row,) = plant.rows("tables/incidents/incidents.parquet")
    assert row.keys() == INCIDENTS.columns.keys()
    assert (row["reference"], row["site"], row["label"], row["recovered_at"]) == (one.reference, "Aarhus", None, None)
    assert (row["value"], row["usual_high"], row["opened_at"]) == (30.0, 4.5, one.opened_at)
    plant.cloud.incidents.label(one, "fault")
    exporting.handler({}, None)
    (row,) = plant.rows("tables/incidents/incidents.parquet")
    assert row["label"] == "fault"
    (event,) = plant.rows("tables/model_events/model_events.parquet")
    assert (event["occurred_at"], event["decision"], event["job_name"]) == (NOON, "held", None)
    assert '"clamped": ["a"]' in event["details"]
    (sensor,) = plant.rows("tables/sensors/sensors.parquet")
    assert (sensor["name"], sensor["is_learning"]) == ("Room", False)


def test_every_day_is_registered_once_where_its_objects_are(plant: Plant) -> None:
    for day in ("2026-01-04", "2026-01-05"):
        plant.cloud.data.put(f"readings/dt={day}/00-0000.parquet", b"")
    exporting.handler({}, None)
    at = f"s3://{plant.cloud.bucket}/readings/dt="
    expected = {day: f"{at}{day}/" for day in ("2026-01-04", "2026-01-05")}
    assert plant.days(READINGS) == expected
    plant.cloud.data.put("readings/dt=2025-12-31/00-0000.parquet", b"")
    for _ in range(2):
        exporting.handler({}, None)
        assert plant.days(READINGS) == {"2025-12-31": f"{at}2025-12-31/", **expected}


class Refusing:
    """A Glue that refuses some days, or has them already."""

    def __init__(self, glue: Any, code: str) -> None:
        self._glue, self._code = glue, code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._glue, name)

    def batch_create_partition(self, **request: Any) -> dict[str, Any]:
        self._glue.batch_create_partition(**request)
        return {"Errors": [{"PartitionValues": ["2026-01-05"], "ErrorDetail": {"ErrorCode": self._code}}]}


def test_a_day_that_is_refused_is_told_and_one_that_somebody_else_registered_is_not(plant: Plant) -> None:
    def catalog(code: str) -> Catalog:
        refusing: Any = Refusing(plant.glue, code)
        return Catalog(refusing, plant.database, plant.cloud.data)

    plant.cloud.data.put("readings/dt=2026-01-05/00-0000.parquet", b"")
    assert catalog("AlreadyExistsException").register_days(READINGS) == 1
    plant.cloud.data.put("readings/dt=2026-01-06/00-0000.parquet", b"")
    with pytest.raises(CatalogBusyError, match=r"readings were not registered: .*InternalServiceException"):
        catalog("InternalServiceException").register_days(READINGS)


def test_without_a_catalogue_nothing_is_lost(plant: Plant) -> None:
    """Glue is down: the run fails, so that it is told of; what it copied is there, and the next run registers."""
    plant.cloud.data.put("readings/dt=2026-01-05/00-0000.parquet", b"")
    plant.glue.delete_table(DatabaseName=plant.database, Name="readings")
    with pytest.raises(ClientError, match="EntityNotFoundException"):
        exporting.handler({}, None)
    assert len(plant.cloud.data.keys("tables/")) == 3
    plant.glue.delete_database(Name=plant.database)
    create_catalog(plant.glue, synthesized("local"), plant.cloud.bucket)
    exporting.handler({}, None)
    assert list(plant.days(READINGS)) == ["2026-01-05"]


def test_register_partitions(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE", create_catalog(plant.glue, synthesized("local", "etl_jobs"), plant.cloud.bucket))
    registering.dependencies.cache_clear()
    for k in range(130):
        day = NOON.date() - timedelta(days=k)
        plant.cloud.data.put(f"historical/dt={day}/part.parquet", b"")
    plant.cloud.data.put("historical/_SUCCESS", b"")
    plant.cloud.data.put("tables/predictions/dt=2026-01-05/v1-bucket=0.parquet", b"")
    assert registering.handler({}, None) == {"job_runs": 130, "predictions": 1}
    assert registering.handler({}, None) == {"job_runs": 0, "predictions": 0}
    registering.dependencies.cache_clear()


@pytest.mark.parametrize(
    ("table", "stored"),
    [
        (READINGS, readings_to_parquet([])[0]),
        (PREDICTIONS, VerdictFile().to_parquet()),
        (JOB_RUNS, as_spark_writes([recorded(job_run())])),
        *((table, to_parquet([], table.columns)) for table in (CUTOFFS, INCIDENTS, MODEL_EVENTS, SENSORS)),
    ],
    ids=lambda value: value.name if isinstance(value, Table) else "",
)
def test_objects_have_the_types_that_the_catalogue_says(table: Table, stored: bytes) -> None:
    """Athena reads no number as another one, nor a text as a time."""
    schema = read_parquet(io.BytesIO(stored)).schema
    found = {name: schema.field(name).type for name in schema.names}
    assert found == {name: TYPES[kind] for name, kind in table.columns.items()}
    assert DataType.int64() != DataType.int32()
