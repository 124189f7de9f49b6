"""export_training_set: one Parquet object an hour and bucket, whose key and bytes are a function of the readings."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from arro3.io import read_parquet

from lambdas.runtime.clock import ClockFace, FileClock
from lambdas.sensors.export_training_set import handler as exporting
from lambdas.sensors.export_training_set.exporting import readings_to_parquet
from lambdas.sensors.stores import PendingExportsStore, Sensor
from overcut.sensors.readings import Reading
from tests.functional.conftest import Cloud
from training.sensors.window import read_window

NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
BUCKETS = 2
# by the first eight bytes of the SHA-256 of their ids, modulo two
IN_BUCKET_0, IN_BUCKET_1 = "a", "d"


def reading(minute: float, value: float = 4.0, sensor_id: str = IN_BUCKET_1) -> Reading:
    return Reading(sensor_id, NOON + minute * MINUTE, {"temperature": value, "humidity": 50 + value})


class Plant:
    def __init__(self, cloud: Cloud, clock: FileClock) -> None:
        self.cloud = cloud
        self.clock = clock
        cloud.sensors.put([Sensor(IN_BUCKET_0, "device", {}), Sensor(IN_BUCKET_1, "device", {})], BUCKETS)

    def store(self, readings: list[Reading]) -> None:
        with ThreadPoolExecutor(1) as threads:
            self.cloud.readings.put(readings, lambda moment: 0, threads)

    def export(self, now: datetime, bucket: int = 1) -> dict[str, int]:
        self.clock.set(ClockFace(origin=now.timestamp(), wall=0.0, speed=0.0, ttl_offset=0.0))
        return exporting.handler({"bucket": bucket}, None)

    def keys(self) -> list[str]:
        return self.cloud.data.keys("readings/")


@pytest.fixture
def plant(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    environment = {
        "STAGE": "local",
        "READINGS_TABLE": cloud.tables["Readings"],
        "SENSORS_TABLE": cloud.tables["Sensors"],
        "PENDING_EXPORTS_TABLE": cloud.tables["PendingExports"],
        "DATA_BUCKET": cloud.bucket,
        "CLOCK": str(tmp_path / "clock.json"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    exporting.dependencies.cache_clear()
    yield Plant(cloud, FileClock(tmp_path / "clock.json"))
    exporting.dependencies.cache_clear()


def test_the_last_full_hour_is_one_object_a_bucket(plant: Plant) -> None:
    inside = [reading(0), reading(59), Reading(IN_BUCKET_1, NOON + HOUR - timedelta(seconds=1), {"temperature": 1.0})]
    plant.store([reading(-1), *inside, reading(60), reading(5, sensor_id=IN_BUCKET_0)])
    assert plant.export(NOON + 65 * MINUTE) == {"hours": 1, "readings": 3}
    assert plant.keys() == ["readings/dt=2026-01-05/12-0001.parquet"]
    assert plant.cloud.data.get(plant.keys()[0]) == readings_to_parquet(inside)[0]
    assert plant.export(NOON + 65 * MINUTE, bucket=0) == {"hours": 1, "readings": 1}
    assert plant.keys() == ["readings/dt=2026-01-05/12-0000.parquet", "readings/dt=2026-01-05/12-0001.parquet"]


def test_the_hour_before_midnight_belongs_to_its_day(plant: Plant) -> None:
    plant.store([reading(11 * 60 + 30)])
    plant.export(NOON + 12 * HOUR + 5 * MINUTE)
    assert plant.keys() == ["readings/dt=2026-01-05/23-0001.parquet"]


def test_a_rerun_overwrites_the_same_bytes(plant: Plant) -> None:
    plant.store([reading(minute, minute / 10) for minute in range(60)])
    plant.export(NOON + 65 * MINUTE)
    before = plant.cloud.data.get(plant.keys()[0])
    assert plant.export(NOON + 119 * MINUTE) == {"hours": 1, "readings": 60}
    assert len(plant.keys()) == 1
    assert plant.cloud.data.get(plant.keys()[0]) == before


def test_an_hour_without_readings_is_no_object(plant: Plant) -> None:
    assert plant.export(NOON) == {"hours": 1, "readings": 0}
    assert plant.keys() == []


def test_pending_hours_are_written_again_once(plant: Plant) -> None:
    plant.store([reading(-150), reading(-30)])
    plant.cloud.pending.mark([(1, NOON - 3 * HOUR), (1, NOON - HOUR), (0, NOON - 5 * HOUR)], "m")
    assert plant.export(NOON + 5 * MINUTE) == {"hours": 2, "readings": 2}
    assert plant.keys() == ["readings/dt=2026-01-05/09-0001.parquet", "readings/dt=2026-01-05/11-0001.parquet"]
    assert plant.cloud.pending.of(1) == []
    assert len(plant.cloud.pending.of(0)) == 1

    plant.store([reading(-149, 9.0)])
    plant.cloud.pending.mark([(1, NOON - 3 * HOUR)], "n")
    assert plant.export(NOON + 65 * MINUTE)["readings"] == 2
    late = plant.cloud.data.get("readings/dt=2026-01-05/09-0001.parquet")
    assert late == readings_to_parquet([reading(-150), reading(-149, 9.0)])[0]


def test_an_hour_that_could_not_be_written_is_written_by_the_next_run(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.store([reading(0)])
    with monkeypatch.context() as broken:

        def put_nothing(**given: Any) -> Any:
            raise ConnectionError("S3 is away")

        broken.setattr(exporting.dependencies().exporter.bucket.client, "put_object", put_nothing)
        with pytest.raises(ConnectionError):
            plant.export(NOON + 65 * MINUTE)
    assert plant.keys() == []
    assert plant.export(NOON + 125 * MINUTE) == {"hours": 2, "readings": 1}
    assert plant.keys() == ["readings/dt=2026-01-05/12-0001.parquet"]


def test_hours_whose_runs_were_missed_are_written_by_the_next_run(plant: Plant) -> None:
    plant.store([reading(minute) for minute in range(0, 240, 30)])
    plant.export(NOON + 65 * MINUTE)
    assert plant.export(NOON + 245 * MINUTE) == {"hours": 3, "readings": 6}
    written = plant.keys()
    assert [key.removeprefix("readings/dt=2026-01-05/")[:2] for key in written] == ["12", "13", "14", "15"]
    assert plant.cloud.pending.of(1) == []


def test_an_hour_marked_while_it_is_written_stays_pending(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.store([reading(-150)])
    plant.cloud.pending.mark([(1, NOON - 3 * HOUR)], "m")
    put = plant.cloud.s3.put_object

    def put_late(**given: Any) -> Any:
        plant.cloud.pending.mark([(1, NOON - 3 * HOUR)], "n")
        return put(**given)

    monkeypatch.setattr(exporting.dependencies().exporter.bucket.client, "put_object", put_late)
    plant.export(NOON + 5 * MINUTE)
    assert plant.cloud.pending.of(1) == [(NOON - 3 * HOUR, "n")]


def test_a_sensor_that_registers_while_hours_are_looked_up_is_exported(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It registers, its reading is stored and its hour marked, all before the pending hours are read."""
    plant.store([Reading("new", NOON - 150 * MINUTE, {"temperature": 4.0})])
    real = PendingExportsStore.of

    def of(store: PendingExportsStore, bucket: int) -> list[tuple[datetime, str]]:
        plant.cloud.sensors.put([Sensor("new", "device", {})], 1)
        plant.cloud.pending.mark([(0, NOON - 3 * HOUR)], "m")
        return real(store, bucket)

    monkeypatch.setattr(PendingExportsStore, "of", of)
    assert plant.export(NOON + 5 * MINUTE, bucket=0)["readings"] == 1


def test_what_is_exported_is_what_training_reads(plant: Plant) -> None:
    plant.store([reading(minute, minute / 10) for minute in range(0, 60, 20)])
    plant.store([reading(7, -3.5, IN_BUCKET_0)])
    for bucket in (0, 1):
        plant.export(NOON + 65 * MINUTE, bucket)
    noon = 1767614400
    found = {one.series.sensor_id: one for one in read_window(plant.cloud.data, NOON + 65 * MINUTE, timedelta(days=1))}
    assert found.keys() == {IN_BUCKET_0, IN_BUCKET_1}
    assert {one.measures for one in found.values()} == {("humidity", "temperature")}
    several, single = found[IN_BUCKET_1].series, found[IN_BUCKET_0].series
    assert several.measured_at.tolist() == [noon, noon + 1200, noon + 2400]
    assert several.values.tolist() == [[50.0, 0.0], [52.0, 2.0], [54.0, 4.0]]
    assert (single.measured_at.tolist(), single.values.tolist()) == ([noon + 420], [[46.5, -3.5]])


def test_the_window_holds_its_first_moment_and_not_its_last(plant: Plant) -> None:
    plant.store([reading(minute) for minute in (0, 1, 2, 3)])
    plant.export(NOON + 65 * MINUTE)
    (found,) = read_window(plant.cloud.data, NOON + 3 * MINUTE, 2 * MINUTE)
    assert found.series.measured_at.tolist() == [1767614460, 1767614520]


def test_columns_types_and_compression_of_an_object(plant: Plant) -> None:
    plant.store([reading(0), reading(1)])
    plant.export(NOON + 65 * MINUTE)
    table = read_parquet(io.BytesIO(plant.cloud.data.get(plant.keys()[0]))).read_all()
    assert [(field.name, str(field.type).strip()) for field in map(table.schema.field, table.schema.names)] == [
        ("sensor_id", "arro3.core.DataType<Utf8>"),
        ("measured_at", 'arro3.core.DataType<Timestamp(µs, "UTC")>'),
        ("measure", "arro3.core.DataType<Utf8>"),
        ("value", "arro3.core.DataType<Float64>"),
    ]
    assert table["measure"].to_pylist() == ["humidity", "temperature"] * 2
    assert table["measured_at"].to_pylist()[0] == NOON


def test_the_bytes_are_those_of_parquet() -> None:
    written = readings_to_parquet([reading(0)])[0]
    assert written[:4] == written[-4:] == b"PAR1"
    assert written == readings_to_parquet([reading(0)])[0]
    assert written != readings_to_parquet([reading(1)])[0]
