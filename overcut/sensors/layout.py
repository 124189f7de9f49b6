"""Where readings lie in the data bucket: one Parquet object an hour and bucket of sensors, at a key that never changes;
and where a training job leaves what it decided.

The key is a function of the hour and the bucket alone, so writing an hour again overwrites it.
"""

import hashlib
from datetime import UTC, date, datetime, timedelta

READINGS_PREFIX = "readings/"


def bucket_of(sensor_id: str, buckets: int) -> int:
    """Which bucket a sensor's readings are exported in, from 0 to `buckets` - 1: the same on every machine for ever."""
    return int.from_bytes(hashlib.sha256(sensor_id.encode()).digest()[:8]) % buckets


def hour_of(measured_at: datetime) -> datetime:
    """The beginning of the hour, in UTC, that a moment lies in."""
    return measured_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_prefix(day: date) -> str:
    """Where a day's readings lie: a Hive partition."""
    return f"{READINGS_PREFIX}dt={day.isoformat()}/"


def readings_key(hour: datetime, bucket: int) -> str:
    """The object that holds one hour of one bucket's readings."""
    return f"{day_prefix(hour.date())}{hour:%H}-{bucket:04d}.parquet"


def decision_key(training_job_name: str) -> str:
    """What a training job decided, beside what SageMaker keeps of it."""
    return f"training-jobs/sensors/{training_job_name}/decision.json"


def days_of_window(ends_at: datetime, window: timedelta) -> list[date]:
    """The days, in UTC, that a window ending at `ends_at` touches, oldest first."""
    first, last = (ends_at - window).astimezone(UTC).date(), ends_at.astimezone(UTC).date()
    return [first + timedelta(days=k) for k in range((last - first).days + 1)]
