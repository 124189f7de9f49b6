"""What the extraction leaves in the data bucket, made from job runs: historical/ and recent/ as Parquet."""

import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from arro3.core import Array, DataType, RecordBatch, Table
from arro3.io import write_parquet

from lambdas.runtime.objects import Bucket
from overcut.etl_jobs.job_runs import JobRun, Status
from overcut.etl_jobs.layout import Promoted, bucket_of, historical_prefix, recent_prefix
from overcut.etl_jobs.model import KnownJobs, arrays_of, dump_model
from overcut.etl_jobs.training import train

PART = "part-00000-3f1c.c000.snappy.parquet"
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Extracted:
    """A run, and when its last state was recorded."""

    run: JobRun
    recorded_at: datetime


def recorded(run: JobRun, *, after: timedelta = timedelta(minutes=1)) -> Extracted:
    """The run, recorded a while after it ended."""
    return Extracted(run, run.started_at + timedelta(seconds=run.run_time_seconds) + after)


def to_parquet(rows: Iterable[Extracted]) -> bytes:
    """Rows in the order of the extraction, with its columns and types."""
    rows = sorted(rows, key=lambda row: (row.run.job_name, row.run.started_at, row.run.run_id))
    runs = [row.run for row in rows]
    finished = [run.status is not Status.RUNNING for run in runs]
    batch = RecordBatch.from_pydict(
        {
            "job_name": _texts(run.job_name for run in runs),
            "run_id": _texts(run.run_id for run in runs),
            "started_at": _moments(run.started_at for run in runs),
            "run_time_seconds": Array(
                [run.run_time_seconds if over else None for run, over in zip(runs, finished, strict=True)],
                type=DataType.float64(),
            ),
            "records_processed": Array(
                [run.records_processed if run.status is Status.SUCCEEDED else None for run in runs],
                type=DataType.int64(),
            ),
            "status": _texts(run.status for run in runs),
            "day_of_week": Array([run.day_of_week for run in runs], type=DataType.int32()),
            "recorded_at": _moments(row.recorded_at for row in rows),
            "time_zone": _texts(run.time_zone for run in runs),
            "schedule": Array([run.schedule or None for run in runs], type=DataType.string()),
        }
    )
    written = io.BytesIO()
    write_parquet(Table.from_batches([batch], schema=batch.schema), written, compression="snappy")
    return written.getvalue()


def _texts(values: Iterable[str]) -> Array:
    return Array([str(value) for value in values], type=DataType.string())


def _moments(values: Iterable[datetime]) -> Array:
    microseconds = [(value - datetime.fromtimestamp(0, value.tzinfo)) // MICROSECOND for value in values]
    return Array(microseconds, type=DataType.int64()).cast(DataType.timestamp("us", tz="UTC"))


def write_historical(data: Bucket, runs: Iterable[JobRun]) -> None:
    """One file a day, of finished runs."""
    days = defaultdict(list)
    for run in runs:
        days[run.started_at.date()].append(recorded(run))
    for day, rows in days.items():
        data.put(historical_prefix(day) + PART, to_parquet(rows))
    data.put("historical/_SUCCESS", b"")


def write_recent(data: Bucket, rows: Iterable[Extracted], buckets: int) -> None:
    """One file a bucket."""
    of = defaultdict(list)
    for row in rows:
        of[bucket_of(row.run.job_name, buckets)].append(row)
    for bucket in range(buckets):
        data.put(recent_prefix(bucket) + PART, to_parquet(of[bucket]))
    data.put("recent/_SUCCESS", b"")


def many_jobs(data: Bucket, *, jobs: int, buckets: int, until: datetime) -> int:
    """Promote a model of `jobs` jobs and write bucket 0's runs of the last week: a tenth of the jobs hourly.

    Returns:
        The runs of bucket 0 that were recorded on the day of `until` or the day before.
    """
    random = np.random.default_rng(4)
    midnight = until.replace(hour=0, minute=0, second=0, microsecond=0)
    kinds = [(f"kind-{k}", timedelta(hours=1) if k == 0 else timedelta(days=1)) for k in range(10)]
    runs = [
        _usual_run(name, midnight - k * every, every, random)
        for name, every in kinds
        for k in range(1, timedelta(days=120) // every)
    ]
    model = train(runs, trained_until=midnight, seed=1)
    of_kind = [job for name, _ in kinds if (job := model.jobs.get(name))]
    names = [f"warehouse.layer_{job % 7}.load_table_{job:05d}" for job in range(jobs)]
    known = KnownJobs(arrays_of(replace(of_kind[k % 10], job_name=name) for k, name in enumerate(names)))
    model = replace(model, jobs=known)
    data.put(Promoted(midnight - timedelta(days=2), model.model_version).key, dump_model(model))
    recent = [
        recorded(_usual_run(name, midnight + timedelta(hours=until.hour) - n * every, every, random))
        for k, name in enumerate(names)
        if bucket_of(name, buckets) == 0
        for every in [kinds[k % 10][1]]
        for n in range(1, timedelta(days=7) // every)
    ]
    write_recent(data, recent, buckets)
    return sum(midnight - timedelta(days=1) <= row.recorded_at < until for row in recent)


def _usual_run(name: str, at: datetime, every: timedelta, random: np.random.Generator) -> JobRun:
    records = round(100_000 * float(np.exp(random.normal(0, 0.1))))
    run_id, seconds = f"{name}-{at:%Y%m%dT%H%M}", 20 + records / 2000
    schedule = "@hourly" if every == timedelta(hours=1) else f"0 {at.hour} * * *"
    return JobRun(name, run_id, at, seconds, records, Status.SUCCEEDED, at.weekday(), "UTC", schedule)
