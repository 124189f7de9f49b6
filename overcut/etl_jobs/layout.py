"""Where the ETL pipeline's objects lie in its data bucket; each key is a function of what it holds.

lake/dt=2026-03-02/…                       what orchestrators wrote, by the day they wrote it
historical/dt=2026-03-02/…                 finished runs by the UTC day they started, Parquet
recent/bucket=7/…                          every run of the last days, by bucket of jobs, Parquet
rejected/historical/…, rejected/recent/…   lines of the lake that are no record, with the reason
models/etl_jobs/promoted/…                 models by when each comes into force
predictions/dt=…/model_version=…/          verdicts by the UTC day on which the run's last state was recorded
tables/predictions/dt=…/                   the same verdicts for SQL, Parquet
"""

import zlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

LAKE_PREFIX = "lake/"
HISTORICAL_PREFIX = "historical/"
RECENT_PREFIX = "recent/"
REJECTED_PREFIX = "rejected/"
EXTRACTIONS_PREFIX = "extractions/"
MODELS_PREFIX = "models/etl_jobs/"
PROMOTED_PREFIX = f"{MODELS_PREFIX}promoted/"
PREDICTIONS_PREFIX = "predictions/"
# what reads a folder of Parquet reads every object in it: nothing else may lie there
PREDICTION_TABLE_PREFIX = "tables/predictions/"
_MOMENT = "%Y%m%dT%H%M%SZ"


def bucket_of(job_name: str, buckets: int) -> int:
    """Which bucket a job's recent runs are in, from 0 to `buckets` - 1: Spark's `crc32(job_name) % buckets`."""
    return zlib.crc32(job_name.encode()) % buckets


def historical_prefix(day: date) -> str:
    return f"{HISTORICAL_PREFIX}dt={day.isoformat()}/"


def recent_prefix(bucket: int) -> str:
    return f"{RECENT_PREFIX}bucket={bucket}/"


def judged_days(until: datetime) -> list[date]:
    """The UTC days on which a run's last state was recorded for a prediction up to `until` to judge it, ascending."""
    last = until.astimezone(UTC).date()
    return [last - timedelta(days=1), last]


def predictions_prefix(day: date) -> str:
    return f"{PREDICTIONS_PREFIX}dt={day.isoformat()}/"


def predictions_key(day: date, model_version: str, bucket: int) -> str:
    """Where one bucket's verdicts are, as JSON Lines."""
    return f"{predictions_prefix(day)}model_version={model_version}/bucket={bucket}.jsonl"


def prediction_table_prefix(day: date) -> str:
    return f"{PREDICTION_TABLE_PREFIX}dt={day.isoformat()}/"


def prediction_table_key(day: date, model_version: str, bucket: int) -> str:
    """Where the same verdicts are, as Parquet."""
    return f"{prediction_table_prefix(day)}{model_version}-bucket={bucket}.parquet"


def model_key(model_version: str) -> str:
    """Where a training leaves its model, promoted or held."""
    return f"{MODELS_PREFIX}trained/{model_version}.npz"


def decision_key(training_job_name: str) -> str:
    """Where a training job says whether its model was promoted or held, and why, as JSON."""
    return f"{MODELS_PREFIX}decisions/{training_job_name}.json"


@dataclass(frozen=True, slots=True, order=True)
class Promoted:
    """A promoted model: it judges what is recorded from `effective_from` on, until the next one does."""

    effective_from: datetime
    model_version: str

    @property
    def key(self) -> str:
        return f"{PROMOTED_PREFIX}{self.effective_from.astimezone(UTC):{_MOMENT}}_{self.model_version}.npz"

    @classmethod
    def from_key(cls, key: str) -> "Promoted":
        moment, version = key.removeprefix(PROMOTED_PREFIX).removesuffix(".npz").split("_", 1)
        return cls(datetime.strptime(moment, _MOMENT).replace(tzinfo=UTC), version)
