"""Exporting: one Parquet object an hour and bucket, read back by the training job and by SQL."""

import io
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from arro3.core import Array, DataType, RecordBatch, Table
from arro3.io import write_parquet

from lambdas.runtime.dynamodb import in_batches
from lambdas.sensors.stores import DataBucket, PendingExportsStore, ReadingsStore, SensorsStore
from overcut.sensors.layout import hour_of, readings_key
from overcut.sensors.readings import Reading

ONE_HOUR = timedelta(hours=1)
BATCH_READINGS = 1_000
# readings stay in the table for at least seven days
CATCH_UP = timedelta(days=6)
_MICROSECONDS = 1_000_000


def _hours(first: datetime, last: datetime) -> Iterator[datetime]:
    while first <= last:
        yield first
        first += ONE_HOUR


def readings_to_parquet(readings: Iterable[Reading]) -> tuple[bytes, int]:
    """Readings as Parquet, a row a measure: `sensor_id`, `measured_at` (microseconds, UTC), `measure`, `value`.

    The bytes are a function of the readings and their order alone. Readings are taken a thousand at a time, since as
    Python objects they are many times the size of what is written.

    Returns:
        The bytes, and how many readings they hold.
    """
    batches, count = [], 0
    for some in in_batches(readings, BATCH_READINGS):
        batches.append(_to_batch(some))
        count += len(some)
    written = io.BytesIO()
    write_parquet(Table.from_batches(batches, schema=_to_batch([]).schema), written, compression="zstd(3)")
    return written.getvalue(), count


def _to_batch(readings: Iterable[Reading]) -> RecordBatch:
    rows = [
        (reading.sensor_id, int(reading.measured_at.timestamp()) * _MICROSECONDS, measure, value)
        for reading in readings
        for measure, value in sorted(reading.values.items())
    ]
    sensor_ids, moments, measures, values = ([row[column] for row in rows] for column in range(4))
    return RecordBatch.from_pydict(
        {
            "sensor_id": Array(sensor_ids, type=DataType.string()),
            "measured_at": Array(moments, type=DataType.int64()).cast(DataType.timestamp("us", tz="UTC")),
            "measure": Array(measures, type=DataType.string()),
            "value": Array(values, type=DataType.float64()),
        }
    )


@dataclass(frozen=True)
class Exporter:
    """Copies one bucket's readings to the data bucket."""

    readings: ReadingsStore
    sensors: SensorsStore
    pending: PendingExportsStore
    bucket: DataBucket

    def export(self, bucket: int, now: datetime) -> dict[str, int]:
        """Write the last full hour and every hour that is pending.

        Returns:
            `hours` and `readings` written.
        """
        # marked first: what this run does not finish, or runs before it missed, the next one does
        last_hour = hour_of(now) - ONE_HOUR
        missed = (self.pending.exported_until(bucket) or last_hour) + ONE_HOUR
        hours = {last_hour, *_hours(max(missed, last_hour - CATCH_UP), last_hour)}
        self.pending.mark(((bucket, hour) for hour in hours), uuid.uuid4().hex)
        self.pending.set_exported_until(bucket, last_hour)
        # a sensor is registered before its hours are marked: whoever marked one of these is among the sensors read now
        pending = self.pending.of(bucket)
        sensor_ids = self.sensors.ids_in_bucket(bucket)
        written = 0
        for hour, mark in pending:
            written += self._export_hour(bucket, hour, sensor_ids)
            self.pending.clear(bucket, hour, mark)
        return {"hours": len(pending), "readings": written}

    def _export_hour(self, bucket: int, hour: datetime, sensor_ids: list[str]) -> int:
        stored, count = readings_to_parquet(
            reading
            for sensor_id in sensor_ids
            for reading in self.readings.between(sensor_id, hour, hour + ONE_HOUR - timedelta(seconds=1))
        )
        if count:
            self.bucket.put(readings_key(hour, bucket), stored)
        return count
