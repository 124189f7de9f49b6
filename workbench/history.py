"""A sensor's whole history: the Readings table, and before its time to live the export in S3."""

import io
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from arro3.core import DataType
from arro3.io import read_parquet

from lambdas.sensors.stores import DataBucket, ReadingsStore
from overcut.sensors.layout import bucket_of, day_prefix
from overcut.sensors.readings import Reading

READING_THREADS = 8
_MICROSECONDS = 1_000_000
ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class History:
    """What the table and the export hold together.

    A minute that both have is told once, as the table has it: what came later replaced it there, and the export takes
    it over within the hour.

    Attributes:
        buckets: how many the stage exports in.
    """

    readings: ReadingsStore
    bucket: DataBucket
    buckets: int

    def of(self, sensor_id: str, first: datetime, last: datetime) -> Iterator[Reading]:
        """A sensor's readings from `first` to `last`, both inclusive, in order; no more than a day is in memory."""
        day = first.astimezone(UTC).date()
        with ThreadPoolExecutor(READING_THREADS) as threads:
            while day <= last.astimezone(UTC).date():
                midnight = datetime.combine(day, time(), UTC)
                begin, end = max(first, midnight), min(last, midnight + ONE_DAY - timedelta(seconds=1))
                found = {one.measured_at: one for one in self._exported(sensor_id, day, threads)}
                found |= {one.measured_at: one for one in self.readings.between(sensor_id, begin, end)}
                yield from (found[moment] for moment in sorted(found) if begin <= moment <= end)
                day += ONE_DAY

    def _exported(self, sensor_id: str, day: date, threads: Executor) -> Iterator[Reading]:
        of_bucket = f"-{bucket_of(sensor_id, self.buckets):04d}.parquet"
        keys = [key for key in self.bucket.keys(day_prefix(day)) if key.endswith(of_bucket)]
        values: defaultdict[datetime, dict[str, float]] = defaultdict(dict)
        for stored in threads.map(self.bucket.get, keys):
            table = read_parquet(io.BytesIO(stored)).read_all()
            moments = table["measured_at"].cast(DataType.int64()).to_pylist()
            rows = zip(
                table["sensor_id"].to_pylist(),
                moments,
                table["measure"].to_pylist(),
                table["value"].to_pylist(),
                strict=True,
            )
            for whose, microseconds, measure, value in rows:
                if whose == sensor_id:
                    values[datetime.fromtimestamp(microseconds // _MICROSECONDS, UTC)][measure] = value
        return (Reading(sensor_id, moment, of_all) for moment, of_all in values.items())
