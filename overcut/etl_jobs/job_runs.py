"""Job runs: one execution of an ETL job each, and what is refused.

RefusedError
 └─ JobRunRefusedError   a run that can never be judged: a name, time or figure is missing or impossible
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from overcut import RefusedError

# a run that begins so long before its time is the run of that time: clocks differ, some schedulers start ahead
EARLY = timedelta(minutes=10)
# longer ones are no cron: they are left out
_LONGEST_SCHEDULE = 256
_LONGEST_SECONDS = 366 * 86_400.0
# past it, float64 no longer tells neighbouring counts apart
_MOST_RECORDS = 2**53


class JobRunRefusedError(RefusedError):
    """The job run can never be judged; the text names the field."""


class Status(StrEnum):
    """How a run ended, or that it has not: `RUNNING` has started, and its figures are 0."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class JobRun:
    """One execution of a job; any that exists is valid.

    Attributes:
        started_at: UTC.
        run_time_seconds: at least 0, at most a year.
        records_processed: rows loaded, at least 0.
        day_of_week: of the start in the job's own zone, 0 is Monday; at most a day from UTC's.
        time_zone, schedule: the job's own, as its orchestrator gives them; the schedule may be empty. Neither is
            checked: see `overcut.etl_jobs.schedules`.

    Raises:
        JobRunRefusedError: a field is missing, of the wrong type or impossible.
    """

    job_name: str
    run_id: str
    started_at: datetime
    run_time_seconds: float
    records_processed: int
    status: Status
    day_of_week: int
    time_zone: str = "UTC"
    schedule: str = ""

    def __post_init__(self) -> None:
        for field in ("job_name", "run_id"):
            text = getattr(self, field)
            if not isinstance(text, str) or not text.strip() or len(text) > 256:
                raise JobRunRefusedError(f"{field} must be text of 1 to 256 characters")
        if not isinstance(self.started_at, datetime) or self.started_at.utcoffset() != timedelta(0):
            raise JobRunRefusedError("started_at must be a time in UTC")
        if not _within(self.run_time_seconds, _LONGEST_SECONDS):
            raise JobRunRefusedError(f"run_time_seconds must be from 0 to {_LONGEST_SECONDS:.0f}")
        if not isinstance(self.records_processed, int) or not _within(self.records_processed, _MOST_RECORDS):
            raise JobRunRefusedError(f"records_processed must be a whole number from 0 to {_MOST_RECORDS}")
        if not isinstance(self.status, Status):
            raise JobRunRefusedError(f"status must be one of {', '.join(Status)}")
        if not isinstance(self.day_of_week, int) or self.days_from_utc is None:
            raise JobRunRefusedError("day_of_week must be 0 (Monday) to 6, at most a day from the UTC day's")

    @property
    def days_from_utc(self) -> int | None:
        """The job's own date less the UTC date in days: -1, 0 or 1; None for a day of week that cannot be."""
        if not 0 <= self.day_of_week <= 6:
            return None
        return {0: 0, 1: 1, 6: -1}.get((self.day_of_week - self.started_at.weekday()) % 7)


def parse_job_run(fields: Mapping[str, object]) -> JobRun:
    """The run in `fields`: texts as a CSV has them, or values as JSON and Parquet do.

    `day_of_week` may be missing (then it is that of the start in `time_zone`), and so may the figures of a FAILED run
    (then they are 0). Those of a RUNNING one are not looked at.

    Raises:
        JobRunRefusedError: see `JobRun`.
    """
    status = str(fields.get("status", ""))
    if status not in set(Status):
        raise JobRunRefusedError(f"status {status!r} is none of {', '.join(Status)}")
    if status == Status.RUNNING:
        fields = {**fields, "run_time_seconds": 0, "records_processed": 0}
    default = 0.0 if status == Status.FAILED else None
    started_at = _time(fields.get("started_at"))
    records = _number(fields, "records_processed", default)
    if not records.is_integer():
        raise JobRunRefusedError("records_processed must be a whole number")
    time_zone, schedule = str(fields.get("time_zone") or "UTC"), str(fields.get("schedule") or "")
    day_of_week = _number(fields, "day_of_week", float(started_at.astimezone(zone_of(time_zone)).weekday()))
    if not day_of_week.is_integer():
        raise JobRunRefusedError("day_of_week must be a whole number")
    return JobRun(
        job_name=str(fields.get("job_name") or ""),
        run_id=str(fields.get("run_id") or ""),
        started_at=started_at,
        run_time_seconds=_number(fields, "run_time_seconds", default),
        records_processed=int(records),
        status=Status(status),
        day_of_week=int(day_of_week),
        time_zone=time_zone,
        schedule=schedule if len(schedule) <= _LONGEST_SCHEDULE else "",
    )


@cache
def zone_of(time_zone: str) -> tzinfo:
    """The zone of that name; UTC for one that is not known here."""
    try:
        return ZoneInfo(time_zone)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return UTC


def _within(value: object, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _time(value: object) -> datetime:
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        if time.utcoffset() is None:
            raise JobRunRefusedError(f"started_at {str(value)!r} names no zone")
        return time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise JobRunRefusedError(f"started_at {str(value)!r} is no time") from error


def _number(fields: Mapping[str, object], field: str, default: float | None) -> float:
    value = fields.get(field)
    if value in (None, ""):
        if default is None:
            raise JobRunRefusedError(f"{field} is missing")
        return default
    try:
        number = float(str(value))
    except ValueError as error:
        raise JobRunRefusedError(f"{field} {str(value)!r} is no number") from error
    if not math.isfinite(number):
        raise JobRunRefusedError(f"{field} must be finite")
    return number
