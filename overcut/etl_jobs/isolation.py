"""The isolation forest: trained with scikit-learn, kept as plain arrays, scored with numpy.

Liu, Ting, Zhou: Isolation Forest, ICDM 2008. A run's anomaly score is the geometric mean of the forest's score
and the squared length of its feature vector: the forest says how easily the run is told apart from all others, and
saturates (a run three deviations low and one of no rows score alike), the length goes on growing.

    RefusedError
     ├─ TooLittleHistoryError   no job has enough runs to learn from yet
     └─ ModelRefusedError       the file is no model, or one that this code must not score with
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from overcut import RefusedError
from overcut.etl_jobs.features import (
    DRIFT_RUNS,
    FEATURES,
    MIN_FALLBACK_RUNS,
    MIN_RUNS,
    SEASON_SIZE,
    Baseline,
    Floats,
    baselines,
    by_job,
    fallback,
    features,
    usual_scales,
)
from overcut.etl_jobs.job_runs import JobRun, Status

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

SCHEMA_VERSION = 1
TRAINING_WINDOW = timedelta(days=120)
# runs that are this far off do not belong to what the forest is to know as usual
_CLEAN_LENGTH = 6.0
# the cutoff is read off the tail's shape between these quantiles: beyond them lie the faults of the training window
_TAIL_FROM, _TAIL_TO = 0.80, 0.90
# of the budget, what is left for what no training window shows: a fault that begins slowly, a schedule that changes
_RESERVE = 0.5
# one false ticket a week of 60 daily jobs is one run in 420
MAX_FALSE_SHARE = 1 / 400
# a forest keeps a few hundred of them and a quantile is sharp long before
_MAX_TRAINING_VECTORS = 100_000
# scored together: a few megabytes of working memory
_ROWS_AT_ONCE = 1024
_FOREST_ARRAYS = ("roots", "left", "right", "feature", "threshold", "path_length")
_HEAD = ("model_version", "sklearn_version", "vector_count", "score_cutoff", "false_tickets_per_week")
_BASELINE_NUMBERS = (
    "run_count",
    "growth",
    "records_scale",
    "time_scale",
    "drift_scale",
    "fixed_share",
    "typical_records",
)


class TooLittleHistoryError(RefusedError):
    """No job has enough runs to learn from yet."""


class ModelRefusedError(RefusedError):
    """The model does not fit this code; the text says what differs."""


@dataclass(frozen=True, slots=True)
class Forest:
    """The trees of an isolation forest, one after the other; every array but `roots` has shape (nodes,).

    Attributes:
        roots: index of each tree's first node, shape (trees,).
        left, right: index of a node's children; its own index in a leaf.
        feature, threshold: a value at or under the threshold goes left. Threshold as float64, values as float32.
        path_length: of a leaf: its depth and the mean depth of the samples left in it; 0 elsewhere.
        samples: that each tree was grown from.
        depth: of the deepest tree, in steps.
    """

    roots: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: Floats
    path_length: Floats
    samples: int
    depth: int


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
    forest: Forest
    baselines: dict[str, Baseline]
    scales: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about one run.

    Attributes:
        anomaly_score: higher is more anomalous; 0 for a job's first runs, which nothing is known for.
        is_learning: the job's history is too short: it was judged by the fallback.
        feature: of `FEATURES`, the one that is farthest off.
        deviations: how far it is off, in the job's own standard deviations, with its sign.
        value, usual: of that feature: records loaded or seconds. For drift: this run's records.
    """

    job_name: str
    run_id: str
    anomaly_score: float
    score_cutoff: float
    is_anomalous: bool
    is_learning: bool
    feature: str
    deviations: float
    value: float
    usual: float
    model_version: str


def train(
    runs: Iterable[JobRun],
    *,
    trained_until: datetime,
    false_tickets_per_week: float = 1.0,
    num_trees: int = 100,
    num_samples_per_tree: int = 256,
    seed: int,
) -> Model:
    """Baselines, forest and cutoff from the `TRAINING_WINDOW` before `trained_until`. Needs scikit-learn.

    Args:
        runs: any order; failed ones and those outside the window are left out.
        false_tickets_per_week: what the people who get the tickets put up with, of all jobs together, above 0; but
            however few the jobs are, no more than one run in 400 is granted.
        seed: makes the result repeatable.

    Raises:
        TooLittleHistoryError: no job has `MIN_RUNS` runs in the window.
    """
    import sklearn
    from sklearn.ensemble import IsolationForest

    trained_from = trained_until - TRAINING_WINDOW
    jobs = by_job(run for run in runs if trained_from <= run.started_at < trained_until)
    learned = baselines(run for own in jobs.values() for run in own)
    parts = [features(own, learned[name]).features for name, own in jobs.items() if not learned[name].is_learning]
    if not parts:
        raise TooLittleHistoryError(f"no job has {MIN_RUNS} runs from {trained_from} to {trained_until}")
    vectors = np.concatenate(parts)
    shown = np.random.default_rng(seed).permutation(len(vectors))[:_MAX_TRAINING_VECTORS]
    sample = vectors[shown]
    clean = sample[_length(sample) < _CLEAN_LENGTH]
    samples = min(num_samples_per_tree, len(clean))
    sklearn_forest = IsolationForest(n_estimators=num_trees, max_samples=samples, random_state=seed)
    forest = export_forest(sklearn_forest.fit(clean.astype(np.float32)))

    first = min(own[0].started_at for own in jobs.values())
    weeks = (trained_until - first) / timedelta(weeks=1)
    share = (1 - _RESERVE) * min(false_tickets_per_week * weeks / len(vectors), MAX_FALSE_SHARE)
    cutoff = score_cutoff(_score(forest, sample), share)
    fingerprint = hashlib.sha256(forest.threshold.tobytes() + np.float64(cutoff).tobytes()).hexdigest()[:8]
    return Model(
        model_version=f"{trained_until.astimezone(UTC):%Y%m%dT%H%M%SZ}-{fingerprint}",
        sklearn_version=str(sklearn.__version__),
        trained_from=trained_from,
        trained_until=trained_until,
        vector_count=len(vectors),
        score_cutoff=cutoff,
        false_tickets_per_week=false_tickets_per_week,
        forest=forest,
        baselines=learned,
        scales=usual_scales(learned.values()),
    )


def score_cutoff(scores: Floats, share: float) -> float:
    """The score that only a `share` of usual runs exceeds, from the scores of runs among which some are faulty.

    The far end of `scores` holds the faults, so it is not counted but continued: as an exponential through the 80 and
    90 % quantiles, which is above a normal tail and moves little while fewer than one run in twenty is faulty.

    Args:
        scores: shape (runs,).
        share: of all runs, above 0 and less than a tenth.
    """
    near, far = np.quantile(scores, [_TAIL_FROM, _TAIL_TO])
    per_e_fold = (far - near) / np.log((1 - _TAIL_FROM) / (1 - _TAIL_TO))
    return float(far + per_e_fold * np.log((1 - _TAIL_TO) / share))


def anomaly_score(model: Model, vectors: Floats) -> Floats:
    """How anomalous runs are, shape (runs,): higher is more anomalous, and only within this model.

    Args:
        vectors: finite, shape (runs, len(FEATURES)), from `features`.
    """
    return _score(model.forest, vectors)


def isolation_score(forest: Forest, vectors: Floats) -> Floats:
    """What scikit-learn's `-score_samples` gives, from 0 to 1: higher is more anomalous; shape (runs,).

    Equation 2 of the paper; `vectors` are compared as float32, as scikit-learn does.
    """
    narrow = vectors.astype(np.float32)
    total = np.zeros(len(narrow))
    for start in range(0, len(narrow), _ROWS_AT_ONCE):
        rows = narrow[start : start + _ROWS_AT_ONCE]
        row = np.arange(len(rows))[:, np.newaxis]
        node = np.broadcast_to(forest.roots, (len(rows), len(forest.roots)))
        for _ in range(forest.depth):
            right = rows[row, forest.feature[node]] > forest.threshold[node]
            node = np.where(right, forest.right[node], forest.left[node])
        total[start : start + _ROWS_AT_ONCE] = forest.path_length[node].sum(axis=1)
    longest = len(forest.roots) * float(_mean_path_length(np.array([forest.samples]))[0])
    return np.asarray(2.0 ** -(total / longest if longest else np.ones(len(narrow))))


def _score(forest: Forest, vectors: Floats) -> Floats:
    return np.asarray(np.sqrt(isolation_score(forest, vectors)) * _length(vectors))


def _length(vectors: Floats) -> Floats:
    return np.asarray(np.sqrt((vectors**2).sum(axis=1)))


def predict(model: Model, recent: Sequence[JobRun], runs: Sequence[JobRun]) -> list[Prediction]:
    """Judge succeeded `runs` of one job, ascending; `recent` are those right before them, at least `DRIFT_RUNS - 1`.

    A job that the model does not know, or knew as learning, is judged run by run, by `fallback` of what came before.

    Raises:
        ValueError: a run failed, or is not of the same job: failed runs are a kind of their own.
    """
    everything = [*recent, *runs]
    if len({run.job_name for run in everything}) > 1 or any(run.status is Status.FAILED for run in everything):
        raise ValueError("predict takes succeeded runs of one job")
    predictions: list[Prediction] = []
    if not runs:
        return predictions
    baseline = model.baselines.get(runs[0].job_name)
    if baseline is not None and not baseline.is_learning:
        return _judge(model, baseline, everything, len(runs))
    for end in range(len(recent), len(everything)):
        earlier = everything[:end]
        if baseline is None or len(earlier) > baseline.run_count:
            baseline = fallback(runs[0].job_name, earlier, model.scales)
        predictions += _judge(model, baseline, [*earlier[1 - DRIFT_RUNS :], everything[end]], 1)
    return predictions


def _judge(model: Model, baseline: Baseline, runs: Sequence[JobRun], count: int) -> list[Prediction]:
    residuals = features(runs, baseline)
    vectors = residuals.features[-count:]
    known = baseline.run_count >= MIN_FALLBACK_RUNS
    scores = anomaly_score(model, vectors) if known else np.zeros(count)
    predictions = []
    for k, run in enumerate(runs[-count:]):
        worst = int(np.argmax(np.abs(vectors[k])))
        timed = FEATURES[worst] == "run_time"
        usual = residuals.usual_seconds if timed else residuals.usual_records
        predictions.append(
            Prediction(
                job_name=run.job_name,
                run_id=run.run_id,
                anomaly_score=float(scores[k]),
                score_cutoff=model.score_cutoff,
                is_anomalous=bool(scores[k] > model.score_cutoff),
                is_learning=baseline.is_learning,
                feature=FEATURES[worst],
                deviations=float(vectors[k, worst]),
                value=run.run_time_seconds if timed else float(run.records_processed),
                usual=float(usual[len(runs) - count + k]),
                model_version=model.model_version,
            )
        )
    return predictions


def export_forest(fitted: "IsolationForest") -> Forest:
    """The trees of a fitted scikit-learn forest, which was given all features in their order."""
    parts: list[dict[str, Floats]] = []
    roots = []
    size = depth = 0
    for estimator in fitted.estimators_:
        tree = estimator.tree_
        own = np.arange(tree.node_count)
        leaf = tree.children_left < 0
        steps = np.zeros(tree.node_count)
        for node in own[~leaf]:
            steps[[tree.children_left[node], tree.children_right[node]]] = steps[node] + 1
        parts.append(
            {
                "left": size + np.where(leaf, own, tree.children_left),
                "right": size + np.where(leaf, own, tree.children_right),
                "feature": np.where(leaf, 0, tree.feature),
                "threshold": np.where(leaf, 0.0, tree.threshold),
                "path_length": np.where(leaf, steps + _mean_path_length(tree.n_node_samples), 0.0),
            }
        )
        roots.append(size)
        size += tree.node_count
        depth = max(depth, int(steps.max()))
    joined = {field: np.concatenate([part[field] for part in parts]) for field in parts[0]}
    return Forest(
        roots=np.array(roots, dtype=np.int32),
        left=joined["left"].astype(np.int32),
        right=joined["right"].astype(np.int32),
        feature=joined["feature"].astype(np.int32),
        threshold=joined["threshold"].astype(np.float64),
        path_length=joined["path_length"].astype(np.float64),
        samples=int(fitted.max_samples_),
        depth=depth,
    )


def _mean_path_length(samples: NDArray[Any]) -> Floats:
    """The mean depth of an unsuccessful search in a tree of `samples`: equation 1 of the paper."""
    n = np.maximum(samples, 3).astype(np.float64)
    deep = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.select([samples <= 1, samples == 2], [0.0, 1.0], deep)


def dump_model(model: Model) -> bytes:
    """The model as a compressed `.npz` of plain arrays: what `load_model` reads."""
    known = list(model.baselines.values())
    head = {
        "schema_version": SCHEMA_VERSION,
        "features": FEATURES,
        "trained_from": model.trained_from.isoformat(),
        "trained_until": model.trained_until.isoformat(),
        **{field: getattr(model, field) for field in _HEAD},
        "samples": model.forest.samples,
        "depth": model.forest.depth,
    }
    arrays: dict[str, NDArray[Any]] = {field: getattr(model.forest, field) for field in _FOREST_ARRAYS}
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    arrays["job_names"] = np.array([one.job_name for one in known], dtype=np.str_)
    arrays["season"] = np.array([one.season for one in known]).reshape(len(known), SEASON_SIZE)
    arrays["levels"] = np.concatenate([one.levels for one in known])
    arrays["level_ends"] = np.cumsum([len(one.levels) for one in known])
    for field in _BASELINE_NUMBERS:
        arrays[field] = np.array([getattr(one, field) for one in known], dtype=np.float64)
    stored = io.BytesIO()
    np.savez_compressed(stored, allow_pickle=False, **arrays)
    return stored.getvalue()


def load_model(stored: bytes) -> Model:
    """The model that `dump_model` wrote; it gives the very same scores.

    Raises:
        ModelRefusedError: no model, of another schema or other features, or one whose trees lead nowhere.
    """
    try:
        with np.load(io.BytesIO(stored), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        head = json.loads(arrays.pop("head").tobytes())
        if head["schema_version"] != SCHEMA_VERSION:
            raise ModelRefusedError(f"the model has schema {head['schema_version']}, this code reads {SCHEMA_VERSION}")
        if tuple(head["features"]) != FEATURES:
            raise ModelRefusedError(f"the model was trained on {head['features']}, this code makes {list(FEATURES)}")
        forest = Forest(
            **{name: arrays[name] for name in _FOREST_ARRAYS}, samples=int(head["samples"]), depth=int(head["depth"])
        )
        _check_forest(forest)
        known = {}
        levels = np.split(arrays["levels"], arrays["level_ends"][:-1])
        for k, job_name in enumerate(arrays["job_names"].tolist()):
            numbers = {name: float(arrays[name][k]) for name in _BASELINE_NUMBERS}
            run_count = int(numbers.pop("run_count"))
            season = arrays["season"][k]
            known[job_name] = Baseline(
                job_name=job_name, run_count=run_count, season=season, levels=levels[k], **numbers
            )
        return Model(
            **{field: head[field] for field in _HEAD},
            trained_from=datetime.fromisoformat(head["trained_from"]),
            trained_until=datetime.fromisoformat(head["trained_until"]),
            forest=forest,
            baselines=known,
            scales=usual_scales(known.values()),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile, EOFError) as error:
        raise ModelRefusedError(f"the file is no model: {error}") from error


def _check_forest(forest: Forest) -> None:
    nodes = len(forest.threshold)
    own = np.arange(nodes)
    leaf = (forest.left == own) & (forest.right == own)
    inner = (forest.left > own) & (forest.right > own)
    in_range = all(np.all((part >= 0) & (part < nodes)) for part in (forest.left, forest.right, forest.roots))
    fits = np.all((forest.feature >= 0) & (forest.feature < len(FEATURES)))
    finite = np.isfinite(forest.threshold).all() and np.isfinite(forest.path_length).all()
    if not (nodes and len(forest.roots) and in_range and np.all(leaf | inner) and fits and finite):
        raise ModelRefusedError("the model's trees lead out of its arrays")
