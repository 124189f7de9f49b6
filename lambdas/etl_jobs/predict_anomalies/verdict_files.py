"""Verdicts as objects: Parquet for SQL, JSON Lines for whoever comes next; both from the same verdicts."""

import io
from collections.abc import Iterable

from arro3.core import Array, DataType, RecordBatch, Table
from arro3.io import write_parquet

from overcut.etl_jobs.verdicts import Verdict

# as Python objects verdicts are many times the size of what is written
_VERDICTS_AT_ONCE = 200
_TEXTS = ("job_name", "run_id", "judgement", "model_version", "feature", "time_zone", "schedule")
_MOMENTS = ("started_at", "recorded_at")
_NUMBERS = ("usual_records", "run_time_seconds", "usual_seconds", "anomaly_score", "score_cutoff", "deviations")
_MICROSECONDS = 1_000_000


class VerdictFile:
    """The verdicts of one object, in the order in which they are added."""

    def __init__(self) -> None:
        self._lines = io.BytesIO()
        self._batches: list[RecordBatch] = []
        self._waiting: list[Verdict] = []

    def add(self, verdict: Verdict) -> None:
        self._lines.write(verdict.to_json().encode() + b"\n")
        self._waiting.append(verdict)
        if len(self._waiting) == _VERDICTS_AT_ONCE:
            self._batches.append(_to_batch(self._waiting))
            self._waiting = []

    def to_jsonl(self) -> bytes:
        """A line a verdict."""
        return self._lines.getvalue()

    def to_parquet(self) -> bytes:
        """A row a verdict, its fields as columns; times in microseconds, UTC."""
        last, written = _to_batch(self._waiting), io.BytesIO()
        write_parquet(Table.from_batches([*self._batches, last], schema=last.schema), written, compression="zstd(3)")
        return written.getvalue()


def _to_batch(verdicts: Iterable[Verdict]) -> RecordBatch:
    verdicts = list(verdicts)
    texts = {name: Array([str(getattr(one, name)) for one in verdicts], type=DataType.string()) for name in _TEXTS}
    numbers = {name: Array([getattr(one, name) for one in verdicts], type=DataType.float64()) for name in _NUMBERS}
    moments = {
        name: Array(
            [round(getattr(one, name).timestamp() * _MICROSECONDS) for one in verdicts], type=DataType.int64()
        ).cast(DataType.timestamp("us", tz="UTC"))
        for name in _MOMENTS
    }
    records = Array([one.records_processed for one in verdicts], type=DataType.int64())
    learning = Array([one.is_learning for one in verdicts], type=DataType.bool())
    columns = {**texts, **moments, "is_learning": learning, "records_processed": records, **numbers}
    return RecordBatch.from_pydict({name: columns[name] for name in Verdict.__dataclass_fields__})
