"""Training: from a window of job runs to a model.

RefusedError
 └─ TooLittleHistoryError   no job has enough runs to learn from yet
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from overcut import RefusedError
from overcut.etl_jobs.features import (
    DRIFT_RUNS,
    MIN_RUNS,
    Baseline,
    Floats,
    baselines,
    by_job,
    features,
    usual_scales,
)
from overcut.etl_jobs.forest import export_forest
from overcut.etl_jobs.job_runs import JobRun
from overcut.etl_jobs.model import KnownJob, KnownJobs, Model, anomaly_score, arrays_of, length
from overcut.etl_jobs.schedules import learned_cadence

TRAINING_WINDOW = timedelta(days=120)
# of a job, what a model keeps: a weekly one has no other runs at hand than these when its next is judged
TAIL_RUNS = max(DRIFT_RUNS - 1, MIN_RUNS)
# runs that are this far off do not belong to what the forest is to know as usual
_CLEAN_LENGTH = 6.0
# the cutoff is read off the tail's shape between these quantiles: beyond them lie the faults of the training window
_TAIL_FROM, _TAIL_TO = 0.80, 0.90
# of the budget, what is left for what no training window shows: a fault that begins slowly, a schedule that changes
_RESERVE = 0.5
# where every run is exactly as usual, the next one that is not quite is no ticket: about one deviation must be
LOWEST_CUTOFF = 1.0
# one false ticket a week of 60 daily jobs is one run in 420
MAX_FALSE_SHARE = 1 / 400
# a forest keeps a few hundred of them and a quantile is sharp long before
_MAX_TRAINING_VECTORS = 100_000


class TooLittleHistoryError(RefusedError):
    """No job has enough runs to learn from yet."""


def train(
    runs: Iterable[JobRun],
    *,
    trained_until: datetime,
    window: timedelta = TRAINING_WINDOW,
    false_tickets_per_week: float = 1.0,
    num_trees: int = 100,
    num_samples_per_tree: int = 256,
    seed: int,
) -> Model:
    """Baselines, forest and cutoff from the `window` before `trained_until`. Needs scikit-learn.

    Args:
        runs: any order; those outside the window are left out, and of failed ones all but when they started.
        false_tickets_per_week: what the people who get the tickets put up with, of all jobs together, above 0; but
            however few the jobs are, no more than one run in 400 is granted.
        seed: makes the result repeatable.

    Raises:
        TooLittleHistoryError: no job has `MIN_RUNS` runs in the window.
    """
    import sklearn
    from sklearn.ensemble import IsolationForest

    trained_from = trained_until - window
    everything = [run for run in runs if trained_from <= run.started_at < trained_until]
    jobs = by_job(everything)
    learned = baselines(run for own in jobs.values() for run in own)
    parts = [features(own, learned[name]).features for name, own in jobs.items() if not learned[name].is_learning]
    if not parts:
        most = max(map(len, jobs.values()), default=0)
        raise TooLittleHistoryError(
            f"no job has the {MIN_RUNS} succeeded runs that it takes to learn from {trained_from} to {trained_until}: "
            f"there are {len(jobs)} jobs, and none has more than {most}"
        )
    vectors = np.concatenate(parts)
    shown = np.random.default_rng(seed).permutation(len(vectors))[:_MAX_TRAINING_VECTORS]
    sample = vectors[shown]
    clean = sample[length(sample) < _CLEAN_LENGTH]
    samples = min(num_samples_per_tree, len(clean))
    sklearn_forest = IsolationForest(n_estimators=num_trees, max_samples=samples, random_state=seed)
    forest = export_forest(sklearn_forest.fit(clean.astype(np.float32)))

    first = min(own[0].started_at for own in jobs.values())
    weeks = (trained_until - first) / timedelta(weeks=1)
    share = (1 - _RESERVE) * min(false_tickets_per_week * weeks / len(vectors), MAX_FALSE_SHARE)
    cutoff = max(LOWEST_CUTOFF, score_cutoff(anomaly_score(forest, sample), share))
    fingerprint = hashlib.sha256(forest.threshold.tobytes() + np.float64(cutoff).tobytes()).hexdigest()[:8]
    return Model(
        model_version=f"{trained_until.astimezone(UTC):%Y%m%dT%H%M%SZ}-{fingerprint}",
        sklearn_version=str(sklearn.__version__),
        trained_from=trained_from,
        trained_until=trained_until,
        vector_count=len(vectors),
        score_cutoff=cutoff,
        false_tickets_per_week=false_tickets_per_week,
        scales=usual_scales(learned.values()),
        forest=forest,
        jobs=KnownJobs(arrays_of(_known(everything, jobs, learned))),
    )


def _known(
    runs: Iterable[JobRun], succeeded: Mapping[str, Sequence[JobRun]], learned: Mapping[str, Baseline]
) -> Iterator[KnownJob]:
    """What is kept of each job, of those as well of which no run has succeeded."""
    jobs: defaultdict[str, list[JobRun]] = defaultdict(list)
    for run in runs:
        jobs[run.job_name].append(run)
    for job_name, own in jobs.items():
        own.sort(key=lambda run: (run.started_at, run.run_id))
        baseline = learned.get(job_name)
        yield KnownJob(
            job_name=job_name,
            baseline=None if baseline is None or baseline.is_learning else baseline,
            tail=tuple(succeeded.get(job_name, ())[-TAIL_RUNS:]),
            time_zone=own[-1].time_zone,
            schedule=own[-1].schedule,
            last_started_at=own[-1].started_at,
            cadence=learned_cadence(own),
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
