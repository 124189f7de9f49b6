"""Exporting: one Parquet object an hour and bucket, read back by the training job and by SQL."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from arro3.core import Array, DataType, Table
from arro3.io import write_parquet

from lambdas.sensors.stores import DataBucket, PendingExportsStore, ReadingsStore, SensorsStore
from overcut.sensors.layout import hour_of, readings_key
from overcut.sensors.readings import Reading

ONE_HOUR = timedelta(hours=1)
_MICROSECONDS = 1_000_000


def readings_to_parquet(readings: Iterable[Reading]) -> bytes:
    """Readings as Parquet, a row a measure: `sensor_id`, `measured_at` (microseconds, UTC), `measure`, `value`.

    The bytes are a function of the readings and their order alone.
    """
    rows = [
        (reading.sensor_id, int(reading.measured_at.timestamp()) * _MICROSECONDS, measure, value)
        for reading in readings
        for measure, value in sorted(reading.values.items())
    ]
    sensor_ids, moments, measures, values = ([row[column] for row in rows] for column in range(4))
    table = Table.from_pydict(
        {
            "sensor_id": Array(sensor_ids, type=DataType.string()),
            "measured_at": Array(moments, type=DataType.int64()).cast(DataType.timestamp("us", tz="UTC")),
            "measure": Array(measures, type=DataType.string()),
            "value": Array(values, type=DataType.float64()),
        }
    )
    written = io.BytesIO()
    write_parquet(table, written, compression="zstd(3)")
    return written.getvalue()


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
        # a sensor is registered before its hours are marked: whoever marked one of these is among the sensors read now
        pending = self.pending.of(bucket)
        sensor_ids = self.sensors.ids_in_bucket(bucket)
        last_hour = hour_of(now) - ONE_HOUR
        written = (
            0 if any(hour == last_hour for hour, _ in pending) else self._export_hour(bucket, last_hour, sensor_ids)
        )
        for hour, mark in pending:
            written += self._export_hour(bucket, hour, sensor_ids)
            self.pending.clear(bucket, hour, mark)
        return {"hours": len({last_hour, *(hour for hour, _ in pending)}), "readings": written}

    def _export_hour(self, bucket: int, hour: datetime, sensor_ids: list[str]) -> int:
        readings = [
            reading
            for sensor_id in sensor_ids
            for reading in self.readings.between(sensor_id, hour, hour + ONE_HOUR - timedelta(seconds=1))
        ]
        if readings:
            self.bucket.put(readings_key(hour, bucket), readings_to_parquet(readings))
        return len(readings)
