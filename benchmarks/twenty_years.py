"""What twenty years of 5,000 sensors take, cost and answer: `python -m benchmarks.twenty_years`.

Files are written as export_training_set writes them, an hour and bucket each: for what a reading takes, of a day of as
many sensors as a bucket of the fleet has; for questions, a whole year of a few. The rest is arithmetic.
"""

import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from random import Random

import duckdb

from benchmarks.measured import Row, spread, write
from lambdas.sensors.export_training_set.exporting import readings_to_parquet
from workbench.cost import BUCKETS, PRICES
from workbench.simulate import Faults, simulate_fleet

SENSORS, YEARS, DAYS = 5_000, 20, 365
ASKED_SENSORS, ROUNDS = 5, 5
MONTHS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
BEGINS = datetime(2026, 1, 1, tzinfo=UTC)
GB = 1e9
# https://aws.amazon.com/athena/pricing/
ATHENA_USD_TB = 5.0
QUESTIONS = {
    "a sensor's mean, least and most of each day of the year": (
        "SELECT day, avg(value), min(value), max(value) FROM readings WHERE sensor_id = 'unit-0003' GROUP BY day"
    ),
    "every sensor's mean of the year": "SELECT sensor_id, avg(value) FROM readings GROUP BY sensor_id",
    "one day of one sensor": "SELECT * FROM readings WHERE day = '2026-07-14' AND sensor_id = 'unit-0003'",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        full = _export(Path(folder) / "full", SENSORS // BUCKETS, [1])
        noisy = _export(Path(folder) / "noisy", SENSORS // BUCKETS, [1], is_noise=True)
        year = _export(Path(folder) / "year", ASKED_SENSORS, MONTHS)
        tables = {
            "Stored:": _stored(full, noisy),
            f"Asked of a year of {ASKED_SENSORS} sensors, by duckdb:": _asked(year),
        }
    write("twenty_years", tables, ["duckdb"])


def _export(folder: Path, sensors: int, months: Sequence[int], *, is_noise: bool = False) -> Path:
    """Export so many days of each month, one month after the other; as noise, no value has anything of the last."""
    random = Random(1)
    begins = BEGINS
    for number, days in enumerate(months):
        readings, _ = simulate_fleet(
            sensors=sensors, days=days, seed=number, started_at=begins, faults=Faults(per_sensor=0)
        )
        for hour, group in groupby(readings, key=lambda one: one.measured_at.replace(minute=0, second=0)):
            in_order = sorted(group, key=lambda one: (one.sensor_id, one.measured_at))
            if is_noise:
                in_order = [replace(one, values={"temperature": random.random()}) for one in in_order]
            file = folder / f"day={hour:%Y-%m-%d}" / f"{hour:%H}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(readings_to_parquet(in_order)[0])
        begins += timedelta(days=days)
    return folder


def _stored(full: Path, noisy: Path) -> list[Row]:
    readings = SENSORS * YEARS * DAYS * 24 * 60
    price = tomllib.loads(PRICES.read_text())["s3"]["stored_gb_month"]
    rows = []
    for name, folder in (("in steps of 0.1 degrees", full), ("noise to the last bit", noisy)):
        taken = sum(file.stat().st_size for file in folder.rglob("*.parquet")) / (SENSORS // BUCKETS * 24 * 60)
        stored = readings * taken / GB
        rows.append(
            {
                "values": name,
                "bytes a reading": round(taken, 2),
                f"GB after {YEARS} years": round(stored),
                f"S3, dollars a month in year {YEARS}": round(price * stored, 2),
                "Athena, dollars for a question about a year": round(ATHENA_USD_TB * stored / YEARS / 1_000, 3),
            }
        )
    return rows


def _asked(year: Path) -> list[Row]:
    connection = duckdb.connect()
    connection.read_parquet(f"{year}/*/*.parquet", hive_partitioning=True).create_view("readings")
    rows = []
    for question, sql in QUESTIONS.items():
        took = []
        for _ in range(ROUNDS):
            before = time.perf_counter()
            answer = connection.execute(sql).fetchall()
            took.append(time.perf_counter() - before)
        rows.append({"question": question, "rows": len(answer), "seconds": spread(took)})
    return rows


if __name__ == "__main__":
    main()
