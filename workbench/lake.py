"""The data lake: what orchestrators leave behind, JSON Lines by day, one record a state change of a job run.

dt=2026-03-02/simulated.jsonl.gz   the UTC day on which the records were made

RefusedError
 └─ LakeError   the lake cannot be written, or its place cannot be told
"""

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from lambdas.runtime.objects import Bucket
from overcut import RefusedError


class LakeError(RefusedError):
    """The lake cannot be written, or its place cannot be told; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """One record: a run began or ended.

    A time is written as it is given: with the offset of its zone, or without one when it has none (then it is in the
    job's zone; of the hour that summer time repeats, it is the first).

    Attributes:
        state: any word for started, succeeded or failed.
        recorded_at: when the record was made; without it, when the state changed.
        records_processed: rows loaded.
        started_at: when the run began, where the orchestrator says so on other records than the first.
        extra: what else the orchestrator writes, at the top level.
    """

    job_name: str
    run_id: str
    state: str
    occurred_at: datetime
    recorded_at: datetime | None = None
    records_processed: int | None = None
    started_at: datetime | None = None
    schedule: str | None = None
    time_zone: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def day(self) -> date:
        """The UTC day that the record is filed under."""
        made = self.recorded_at or self.occurred_at
        if made.tzinfo is None:
            made = made.replace(tzinfo=ZoneInfo(self.time_zone or "UTC"))
        return made.astimezone(UTC).date()

    def to_json(self) -> str:
        """One line of JSON, without its end; what there is none of is left out."""
        job = {"name": self.job_name, "schedule": self.schedule, "time_zone": self.time_zone}
        record: dict[str, Any] = {
            "job": {name: value for name, value in job.items() if value is not None},
            "run": {"id": self.run_id},
            "state": self.state,
            "occurred_at": _iso(self.occurred_at),
        }
        if self.started_at is not None:
            record["run"]["started_at"] = _iso(self.started_at)
        if self.recorded_at is not None:
            record["recorded_at"] = _iso(self.recorded_at)
        if self.records_processed is not None:
            record["metrics"] = {"records": {"processed": self.records_processed}}
        return json.dumps(record | dict(self.extra))


class Lake(Protocol):
    """Where a lake is written to."""

    def put(self, key: str, body: bytes) -> None: ...


@dataclass(frozen=True)
class LakeFolder:
    """A lake in a folder of this machine, which is made when it is not there."""

    path: Path

    def put(self, key: str, body: bytes) -> None:
        """Raises:
        LakeError: it cannot be written.
        """
        target = self.path / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(body)
        except OSError as error:
            raise LakeError(f"{target} cannot be written: {error.strerror or error}") from None


@dataclass(frozen=True)
class LakePrefix:
    """A lake under a prefix of an S3 bucket; the prefix is empty or ends in a slash."""

    bucket: Bucket
    prefix: str

    def put(self, key: str, body: bytes) -> None:
        self.bucket.put(f"{self.prefix}{key}", body)


@dataclass(frozen=True, slots=True)
class Written:
    """How much was written: days, which are objects, and lines."""

    days: int
    lines: int


def by_day(batches: Iterable[tuple[date, Iterable[StateChange]]]) -> Iterator[tuple[date, list[StateChange]]]:
    """Every day's records, days ascending, holding only the days that are not over.

    Args:
        batches: a day each, ascending, and records of that day and later ones.
    """
    open_days: dict[date, list[StateChange]] = {}
    for today, changes in batches:
        for day in sorted(day for day in open_days if day < today):
            yield day, open_days.pop(day)
        for change in changes:
            open_days.setdefault(change.day, []).append(change)
    yield from sorted(open_days.items())


def write_lake(lake: Lake, days: Iterable[tuple[date, Iterable[str]]], *, name: str) -> Written:
    """Write the lines of each day as one compressed object: the same lines, the same bytes (as far as zlib is).

    Args:
        lake: written over where it has objects of that name.
        days: each once.
        name: of the objects, without an ending.
    """
    day_count = line_count = 0
    for day, lines in days:
        text = io.BytesIO()
        # neither a name nor a time in its head
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=text, mtime=0) as compressed:
            for line in lines:
                compressed.write(f"{line}\n".encode())
                line_count += 1
        lake.put(f"dt={day.isoformat()}/{name}.jsonl.gz", text.getvalue())
        day_count += 1
    return Written(day_count, line_count)


def _iso(moment: datetime) -> str:
    text = moment.isoformat()
    return f"{text.removesuffix('+00:00')}Z" if moment.tzinfo is UTC else text
