"""`overcut readings`: the table and its export, as one history."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner

from lambdas.sensors.export_training_set.exporting import readings_to_parquet
from overcut.sensors.layout import bucket_of, hour_of, readings_key
from overcut.sensors.readings import Reading, format_time
from stacks.stage import read_stage
from tests.functional.conftest import REGION, Cloud
from workbench.cli import main
from workbench.history import History
from workbench.readings_files import read_readings
from workbench.sensors_system import SensorsSystem

MINUTE = timedelta(minutes=1)
FIRST = datetime(2026, 1, 4, 22, tzinfo=UTC)
BUCKETS = read_stage("dev").with_sensors().sensors.export_buckets


def reading(minute: int, value: float = 4.0, sensor_id: str = "a") -> Reading:
    return Reading(sensor_id, FIRST + minute * MINUTE, {"temperature": value, "humidity": 50.0})


def export(cloud: Cloud, readings: list[Reading]) -> None:
    for hour, some in groupby(readings, key=lambda one: hour_of(one.measured_at)):
        cloud.data.put(readings_key(hour, bucket_of(readings[0].sensor_id, BUCKETS)), readings_to_parquet(some)[0])


def store(cloud: Cloud, readings: list[Reading]) -> None:
    with ThreadPoolExecutor(1) as threads:
        cloud.readings.put(readings, lambda _: 0, threads)


@pytest.fixture
def history(cloud: Cloud) -> History:
    """Five hours over midnight: two are in the export alone, two in both, the last in the table alone."""
    export(cloud, [reading(minute, float(minute)) for minute in range(240)])
    store(cloud, [reading(minute, float(minute)) for minute in range(120, 300)])
    return History(cloud.readings, cloud.data, BUCKETS)


def test_there_is_no_gap_and_no_double(history: History) -> None:
    found = list(history.of("a", FIRST, FIRST + 299 * MINUTE))
    assert found == [reading(minute, float(minute)) for minute in range(300)]


def test_both_ends_are_inclusive(history: History) -> None:
    found = list(history.of("a", FIRST + 119 * MINUTE, FIRST + 121 * MINUTE))
    assert [one.values["temperature"] for one in found] == [119.0, 120.0, 121.0]
    assert list(history.of("a", FIRST - 9 * MINUTE, FIRST)) == [reading(0, 0.0)]
    assert list(history.of("b", FIRST, FIRST + 299 * MINUTE)) == []


def test_what_replaced_a_reading_since_its_export_is_what_is_told(history: History, cloud: Cloud) -> None:
    store(cloud, [Reading("a", FIRST + 130 * MINUTE, {"temperature": -1.0})])
    (found,) = history.of("a", FIRST + 130 * MINUTE, FIRST + 130 * MINUTE)
    # it measured no humidity: the export's would be of another reading
    assert found.values == {"temperature": -1.0}


def test_other_sensors_of_the_bucket_are_left_out(history: History, cloud: Cloud) -> None:
    other = next(name for k in range(10_000) if bucket_of(name := f"x{k}", BUCKETS) == bucket_of("a", BUCKETS))
    hour = [reading(0, 1.0), reading(0, 2.0, other)]
    cloud.data.put(readings_key(FIRST, bucket_of("a", BUCKETS)), readings_to_parquet(hour)[0])
    assert list(history.of("a", FIRST, FIRST)) == hour[:1]
    assert list(history.of(other, FIRST, FIRST)) == hour[1:]


@pytest.fixture
def typed(history: History, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Any:
    outputs = {f"{name}Table": table for name, table in cloud.tables.items()} | {"DataBucket": cloud.bucket}
    system = SensorsSystem(outputs, boto3.Session(region_name=REGION))
    monkeypatch.setattr(SensorsSystem, "deployed", lambda _: system)
    until = format_time(FIRST + 299 * MINUTE)
    return lambda *more: CliRunner().invoke(
        main, ["readings", "a", "--stage", "dev", "--since", format_time(FIRST), "--until", until, *more]
    )


def test_csv_is_a_readings_file(typed: Any, cloud: Cloud, tmp_path: Path) -> None:
    # a measure that only the last one has is a column, too
    store(cloud, [Reading("a", FIRST + 299 * MINUTE, {"power": 7.0})])
    file = tmp_path / "a.csv"
    file.write_text(typed("--csv").output)
    found = read_readings(file)
    assert found.measures == ("humidity", "power", "temperature")
    assert len(found.readings) == 300
    assert found.readings[-1].values == {"power": 7.0}


def test_json_is_a_line_a_reading(typed: Any) -> None:
    lines = [json.loads(line) for line in typed("--json").output.splitlines()]
    assert len(lines) == 300
    assert lines[0] == {
        "sensor_id": "a",
        "measured_at": format_time(FIRST),
        "values": {"humidity": 50.0, "temperature": 0.0},
    }


def test_a_table_says_when_it_is_not_all(typed: Any) -> None:
    shown = typed().output
    assert "2026-01-04 22:00:00" in shown
    assert "Only the first 200 are shown" in shown
    earlier = ["--since", format_time(FIRST - 24 * 60 * MINUTE), "--until", format_time(FIRST - MINUTE)]
    assert "has no reading of that time" in typed(*earlier).output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--since", "yesterday"], "no time with a zone, such as 2026-03-02T00:00:00Z: yesterday"),
        (["--until", "2020-01-01T00:00:00Z"], "is before --since"),
        (["--csv", "--json"], "not both"),
    ],
)
def test_what_cannot_be_asked_for_is_said(typed: Any, options: list[str], told: str) -> None:
    ran = typed(*options)
    assert ran.exit_code == 2
    assert told in ran.output
