"""What a training gives: forest, cutoff and what is known about each job, as arrays in one file without pickle.

A run's anomaly score is the geometric mean of the forest's score and the squared length of its feature vector: the
forest says how easily the run is told apart from all others, and saturates (a run three deviations low and one of no
rows score alike), the length goes on growing.

    RefusedError
     └─ ModelRefusedError   the file is no model, or one that this code must not score with
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overcut import RefusedError
from overcut.etl_jobs.features import FEATURES, MIN_RUNS, SEASON_SIZE, Baseline, Floats
from overcut.etl_jobs.forest import Forest, is_sound, isolation_score
from overcut.etl_jobs.job_runs import JobRun, Status
from overcut.formats import READ_FORMATS

SCHEMA_VERSION = 2
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOREST_ARRAYS = ("roots", "left", "right", "feature", "threshold", "path_length")
_HEAD = ("model_version", "sklearn_version", "vector_count", "score_cutoff", "false_tickets_per_week")
_BASELINE_NUMBERS = ("growth", "records_scale", "time_scale", "drift_scale", "fixed_share", "typical_records")


class ModelRefusedError(RefusedError):
    """The model does not fit this code; the text says what differs."""


@dataclass(frozen=True, slots=True)
class KnownJob:
    """What a model knows about one job.

    Attributes:
        baseline: None while the job is learning: then its `tail` is all it had.
        tail: its last succeeded runs before the training, ascending; their ids are not kept.
        time_zone, schedule: of its newest run; the schedule may be empty.
        last_started_at: of its newest run, however it ended; UTC.
        cadence: by weekday of a start in the job's own zone (7): seconds after which the next start is overdue;
            NaN where the job is not regular. See `overcut.etl_jobs.schedules.learned_cadence`.
    """

    job_name: str
    baseline: Baseline | None
    tail: tuple[JobRun, ...]
    time_zone: str
    schedule: str
    last_started_at: datetime
    cadence: Floats


class KnownJobs:
    """The jobs of a model, as arrays: a job's objects are made when it is asked for, so that thousands fit 128 MB."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Args:
        arrays: what `arrays_of` gives.

        Raises:
            ModelRefusedError: the arrays do not fit together.
        """
        self.arrays = {name: arrays[name] for name in _JOB_ARRAYS}
        self._check()
        self._position = {name: k for k, name in enumerate(self.arrays["job_names"].tolist())}

    def __len__(self) -> int:
        return len(self._position)

    @property
    def names(self) -> list[str]:
        """In order."""
        return list(self._position)

    @property
    def learned(self) -> set[str]:
        """The names of those with a baseline."""
        counts = self.arrays["run_count"].tolist()
        return {name for name, k in self._position.items() if counts[k] >= MIN_RUNS}

    def started_since(self, moment: datetime) -> set[str]:
        """The names of those whose newest run started then or later."""
        recent = (self.arrays["last_started_at"] >= _microseconds(moment)).tolist()
        return {name for name, k in self._position.items() if recent[k]}

    def get(self, job_name: str) -> KnownJob | None:
        k = self._position.get(job_name)
        if k is None:
            return None
        arrays, run_count = self.arrays, int(self.arrays["run_count"][k])
        baseline = None
        if run_count >= MIN_RUNS:
            baseline = Baseline(
                job_name=job_name,
                run_count=run_count,
                season=arrays["season"][k],
                levels=arrays["levels"][_part(arrays["level_ends"], k)],
                **{field: float(arrays[field][k]) for field in _BASELINE_NUMBERS},
            )
        time_zone, schedule = str(arrays["time_zones"][k]), str(arrays["schedules"][k])
        tail = _part(arrays["tail_ends"], k)
        return KnownJob(
            job_name=job_name,
            baseline=baseline,
            tail=tuple(
                JobRun(job_name, "tail", _moment(at), seconds, records, Status.SUCCEEDED, day, time_zone, schedule)
                for at, seconds, records, day in zip(
                    *(arrays[f"tail_{name}"][tail].tolist() for name in ("started_at", "seconds", "records", "day")),
                    strict=True,
                )
            ),
            time_zone=time_zone,
            schedule=schedule,
            last_started_at=_moment(int(arrays["last_started_at"][k])),
            cadence=arrays["cadence"][k],
        )

    def _check(self) -> None:
        arrays, jobs = self.arrays, len(self.arrays["job_names"])
        shapes = {"season": (jobs, SEASON_SIZE), "cadence": (jobs, 7)} | {
            name: (len(arrays["levels"]), 3) if name == "levels" else (len(arrays["tail_day"]),)
            for name in ("levels", "tail_started_at", "tail_seconds", "tail_records")
        }
        fit = all(arrays[name].shape == shapes.get(name, (jobs,)) for name in _JOB_ARRAYS if name != "tail_day")
        for ends, whole in (("level_ends", "levels"), ("tail_ends", "tail_day")):
            steps = np.diff(arrays[ends], prepend=0)
            fit = fit and bool(np.all(steps >= 0)) and steps.sum() == len(arrays[whole])
        if not fit or len(set(arrays["job_names"].tolist())) != jobs:
            raise ModelRefusedError("the model's arrays of jobs do not fit together")
        learned = arrays["run_count"] >= MIN_RUNS
        scales = np.stack([arrays[f"{name}_scale"][learned] for name in ("records", "time", "drift")])
        numbers = np.concatenate([arrays[name][learned] for name in _BASELINE_NUMBERS])
        levelled = np.diff(arrays["level_ends"], prepend=0)[learned] > 0
        finite = np.isfinite(numbers).all() and np.isfinite(arrays["levels"]).all()
        if not (finite and levelled.all() and np.all(scales > 0)):
            raise ModelRefusedError("a job's baseline in the model is not finite")


_JOB_ARRAYS = (
    *("job_names", "time_zones", "schedules", "last_started_at", "cadence", "run_count", *_BASELINE_NUMBERS),
    *("season", "levels", "level_ends", "tail_started_at", "tail_seconds", "tail_records", "tail_day", "tail_ends"),
)


# arrays with several rows a job, by the array that says where those of each job end
_SEVERAL = {
    "level_ends": ("levels",),
    "tail_ends": ("tail_started_at", "tail_seconds", "tail_records", "tail_day"),
}


def _only(read: Callable[[str], NDArray[Any]], wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
    """Of the stored arrays the rows of `wanted` jobs; no two arrays are ever whole in memory."""
    mask = np.array([wanted(name) for name in read("job_names").tolist()], dtype=bool)
    arrays = {}
    for ends, parts in _SEVERAL.items():
        sizes = np.diff(read(ends), prepend=0)
        rows = np.repeat(mask, sizes)
        arrays[ends] = np.cumsum(sizes[mask])
        arrays |= {part: read(part)[rows] for part in parts}
    return arrays | {name: read(name)[mask] for name in _JOB_ARRAYS if name not in arrays}


def arrays_of(jobs: Iterable[KnownJob]) -> dict[str, NDArray[Any]]:
    """Jobs as the arrays that are stored; the parts of each job in `levels` and `tail_…` end where `…_ends` says."""
    known = sorted(jobs, key=lambda job: job.job_name)
    tails = [run for job in known for run in job.tail]
    none = np.zeros((0, 3))
    arrays = {
        "job_names": np.array([job.job_name for job in known], dtype=np.str_),
        "time_zones": np.array([job.time_zone for job in known], dtype=np.str_),
        "schedules": np.array([job.schedule for job in known], dtype=np.str_),
        "last_started_at": np.array([_microseconds(job.last_started_at) for job in known], dtype=np.int64),
        "cadence": np.array([job.cadence for job in known], dtype=np.float64).reshape(len(known), 7),
        "run_count": np.array([job.baseline.run_count if job.baseline else len(job.tail) for job in known], np.int64),
        "season": np.zeros((len(known), SEASON_SIZE)),
        "levels": np.concatenate([none, *(job.baseline.levels for job in known if job.baseline)]),
        "level_ends": np.cumsum([len(job.baseline.levels) if job.baseline else 0 for job in known], dtype=np.int64),
        "tail_started_at": np.array([_microseconds(run.started_at) for run in tails], dtype=np.int64),
        "tail_seconds": np.array([run.run_time_seconds for run in tails], dtype=np.float64),
        "tail_records": np.array([run.records_processed for run in tails], dtype=np.int64),
        "tail_day": np.array([run.day_of_week for run in tails], dtype=np.int8),
        "tail_ends": np.cumsum([len(job.tail) for job in known], dtype=np.int64),
    }
    for field in _BASELINE_NUMBERS:
        arrays[field] = np.array([getattr(job.baseline, field) if job.baseline else 0.0 for job in known], np.float64)
    for k, job in enumerate(known):
        if job.baseline:
            arrays["season"][k] = job.baseline.season
    return arrays


def _part(ends: NDArray[np.int64], k: int) -> slice:
    return slice(int(ends[k - 1]) if k else 0, int(ends[k]))


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


@dataclass(frozen=True, slots=True)
class Model:
    """What a training gives.

    Attributes:
        trained_from, trained_until: the training window, UTC.
        score_cutoff: a run is anomalous when its anomaly score is above it.
        false_tickets_per_week: the budget that the cutoff was chosen for.
        vector_count: runs that were trained on.
        scales: of the jobs that learned, for the fallback of those that did not.
    """

    model_version: str
    sklearn_version: str
    trained_from: datetime
    trained_until: datetime
    vector_count: int
    score_cutoff: float
    false_tickets_per_week: float
    scales: tuple[float, float]
    forest: Forest
    jobs: KnownJobs


def anomaly_score(forest: Forest, vectors: Floats) -> Floats:
    """How anomalous runs are, shape (runs,): higher is more anomalous, and only within this forest's model.

    Args:
        vectors: finite, shape (runs, len(FEATURES)), from `features`.
    """
    return np.asarray(np.sqrt(isolation_score(forest, vectors)) * length(vectors))


def length(vectors: Floats) -> Floats:
    return np.asarray(np.sqrt((vectors**2).sum(axis=1)))


def dump_model(model: Model) -> bytes:
    """The model as a compressed `.npz` of plain arrays: what `load_model` reads."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "features": FEATURES,
        "trained_from": model.trained_from.isoformat(),
        "trained_until": model.trained_until.isoformat(),
        **{field: getattr(model, field) for field in _HEAD},
        "scales": model.scales,
        "samples": model.forest.samples,
        "depth": model.forest.depth,
    }
    arrays: dict[str, NDArray[Any]] = {field: getattr(model.forest, field) for field in _FOREST_ARRAYS}
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    stored = io.BytesIO()
    np.savez_compressed(stored, allow_pickle=False, **arrays, **model.jobs.arrays)
    return stored.getvalue()


def load_model(stored: bytes, wanted: Callable[[str], bool] | None = None) -> Model:
    """The model that `dump_model` wrote; it gives the very same scores.

    Args:
        wanted: whether the job of that name is; of thousands of jobs the few that are needed take little memory.

    Raises:
        ModelRefusedError: no model, of another schema or other features, or one whose arrays do not fit together.
    """
    try:
        with np.load(io.BytesIO(stored), allow_pickle=False) as archive:
            head = json.loads(archive["head"].tobytes())
            if head["schema_version"] not in (read := READ_FORMATS["model of ETL jobs"]):
                raise ModelRefusedError(
                    f"the model has schema {head['schema_version']}, this code reads {read}: train again"
                )
            if tuple(head["features"]) != FEATURES:
                raise ModelRefusedError(
                    f"the model was trained on {head['features']}, this code makes {list(FEATURES)}: train again"
                )
            forest = Forest(
                **{name: archive[name] for name in _FOREST_ARRAYS},
                samples=int(head["samples"]),
                depth=int(head["depth"]),
            )
            if not is_sound(forest):
                raise ModelRefusedError("the model's trees lead out of its arrays")
            records_scale, time_scale = head["scales"]
            return Model(
                **{field: head[field] for field in _HEAD},
                trained_from=datetime.fromisoformat(head["trained_from"]),
                trained_until=datetime.fromisoformat(head["trained_until"]),
                scales=(float(records_scale), float(time_scale)),
                forest=forest,
                jobs=KnownJobs(
                    _only(archive.__getitem__, wanted) if wanted else {name: archive[name] for name in _JOB_ARRAYS}
                ),
            )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        zipfile.BadZipFile,
        EOFError,
    ) as error:
        raise ModelRefusedError(f"the file is no model: {error}") from error
