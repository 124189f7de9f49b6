"""What training a fleet of sensors takes: time, time of a core a sensor, memory, and how they grow with the fleet and
with the buckets it is exported in.

    python -m benchmarks.sensors_training [--sensors 100] [--sensors 1000] [--sensors 10000]

Sixteen units are simulated for 14 days, without faults; every further sensor is one of them, shifted in time, moved and
stretched, in steps of 0.1 degrees. What the exporter would leave of them is written to a folder, an object an hour and
bucket, and training reads it from there with the job's own code on all cores: a process of its own, of which Linux
tells time and memory. The tables are left out.
"""

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import numpy as np
from arro3.core import Array, DataType, Table
from arro3.io import write_parquet

from benchmarks.measured import Row, in_a_process, peak_mb, write
from lambdas.sensors.stores import Sensor
from overcut.sensors.cohorts import train_cohort
from overcut.sensors.layout import bucket_of, readings_key
from training.sensors.train import TrainingParameters, processes_for, read_cohorts
from workbench.simulate import MEASURE, Faults, simulate_fleet

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
DAYS, UNITS, HOUR = 14, 16, 60
# those of a stage, and those that a fleet is tried with
BUCKETS, OTHER_BUCKETS, TRIED_WITH = 16, (1, 4, 16), 1_000
PARAMETERS = TrainingParameters(
    window_days=DAYS,
    detector="channels",
    z_factor=2.5,
    false_alarm_budget=0.1,
    num_trees=30,
    num_samples_per_tree=128,
    consecutive_minutes=5,
    recovery_minutes=30,
    new_normal_after_hours=24,
    min_deviation={},
    seed=0,
)


@dataclass(frozen=True)
class Folder:
    """Objects as files: what the data bucket is to training."""

    root: Path

    def keys(self, prefix: str) -> list[str]:
        return sorted(str(found.relative_to(self.root)) for found in (self.root / prefix).glob("*.parquet"))

    def get(self, key: str) -> bytes:
        return (self.root / key).read_bytes()


def sensor_id(number: int) -> str:
    return f"unit-{number:05d}"


def write_objects(root: Path, sensors: int, buckets: int) -> None:
    """The exported readings of a fleet."""
    readings, _ = simulate_fleet(sensors=UNITS, days=DAYS, seed=1, started_at=BEGIN, faults=Faults(per_sensor=0))
    units = np.array([reading.values[MEASURE] for reading in readings]).reshape(-1, UNITS)
    random = np.random.default_rng(2)
    shifts = random.integers(0, len(units), sensors)
    stretched, moved = random.uniform(0.7, 1.5, sensors), random.uniform(-10, 10, sensors)
    members: list[list[int]] = [[] for _ in range(buckets)]
    for number in range(sensors):
        members[bucket_of(sensor_id(number), buckets)].append(number)
    for hour in range(DAYS * 24):
        began = BEGIN + timedelta(hours=hour)
        times = (int(began.timestamp()) + 60 * np.arange(HOUR)) * 1_000_000
        for bucket, of_bucket in enumerate(members):
            values = [
                np.round(
                    moved[k]
                    + stretched[k] * units[(hour * HOUR + shifts[k] + np.arange(HOUR)) % len(units), k % UNITS],
                    1,
                )
                for k in of_bucket
            ]
            if values:
                names = [name for k in of_bucket for name in [sensor_id(k)] * HOUR]
                moments = Array.from_numpy(np.tile(times, len(of_bucket)))
                table = Table.from_pydict(
                    {
                        "sensor_id": Array(names, type=DataType.string()),
                        "measured_at": moments.cast(DataType.timestamp("us", tz="UTC")),
                        "measure": Array([MEASURE] * len(names), type=DataType.string()),
                        "value": Array.from_numpy(np.concatenate(values)),
                    }
                )
                path = root / readings_key(began, bucket)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_parquet(table, path, compression="zstd(3)")


def train(root: Path) -> dict[str, float]:
    """Train what is in a folder; what it took."""
    began, ends_at = time.perf_counter(), BEGIN + timedelta(days=DAYS)
    sensors = {sensor_id(k): Sensor(sensor_id(k), "device", {}) for k in range(100_000)}
    cohorts = read_cohorts(Folder(root), sensors, {}, PARAMETERS, ends_at)
    read = time.perf_counter()
    cutoffs = 0
    with processes_for(sum(len(cohort.series) for cohort in cohorts)) as processes:
        for cohort in cohorts:
            model = train_cohort(
                cohort.series,
                cohort_id=cohort.cohort_id,
                measures=cohort.measures,
                rules=PARAMETERS.rules,
                trained_at=ends_at,
                seed=PARAMETERS.seed,
                executor=processes,
            )
            cutoffs += len(model.cutoffs)
        others = sum(peak_mb(str(process.pid)) for process in multiprocessing.active_children())
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "cutoffs": cutoffs,
        "reading_seconds": read - began,
        "seconds": time.perf_counter() - began,
        "core_seconds": sum(one.ru_utime + one.ru_stime for one in used),
        "peak_mb": peak_mb(),
        "others_mb": others,
    }


def measured(sensors: int, buckets: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        write_objects(Path(folder), sensors, buckets)
        found = in_a_process(["benchmarks.sensors_training", "--train", folder])
    if found["cutoffs"] != sensors:
        raise SystemExit(f"{found['cutoffs']:.0f} of {sensors} sensors have a cutoff")
    row: Row = {
        "sensors": sensors,
        "buckets": buckets,
        "minutes": found["seconds"] / 60,
        "of these reading": found["reading_seconds"] / 60,
        "core seconds a sensor": found["core_seconds"] / sensors,
        "peak MB": found["peak_mb"],
        "MB of the other processes": found["others_mb"],
    }
    sys.stderr.write(f"{row}\n")
    return row


@click.command()
@click.option("--sensors", "fleets", type=int, multiple=True, default=(100, 1_000, 10_000), show_default=True)
@click.option("--train", "folder", type=click.Path(path_type=Path), hidden=True)
def main(fleets: tuple[int, ...], folder: Path | None) -> None:
    """Train fleets of simulated sensors and keep what it takes."""
    if folder:
        click.echo(json.dumps(train(folder)))
        return
    tables = {
        "Fleets:": [measured(sensors, BUCKETS) for sensors in fleets],
        "One fleet, exported in more buckets:": [measured(TRIED_WITH, buckets) for buckets in OTHER_BUCKETS],
    }
    write("sensors_training", tables, ["arro3-core", "krcf", "numpy"])


if __name__ == "__main__":
    main()
