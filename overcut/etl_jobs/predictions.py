"""Predictions: what a model says about runs, each beside what is usual for its job."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from overcut.etl_jobs.features import (
    DRIFT_RUNS,
    FEATURES,
    LEVEL_DAYS,
    MIN_FALLBACK_RUNS,
    Baseline,
    fallback,
    features,
)
from overcut.etl_jobs.job_runs import JobRun, Status
from overcut.etl_jobs.model import Model, anomaly_score

# what a job without a baseline is compared with: for a daily one the days that a level is learned from
FALLBACK_RUNS = LEVEL_DAYS


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about one run.

    Attributes:
        anomaly_score: higher is more anomalous; None for a job's first runs, which nothing is known for.
        is_learning: the job's history is too short: it was judged by the fallback.
        feature: of `FEATURES`, the one that is farthest off; empty without a score, as are the next three.
        deviations: how far it is off, in the job's own standard deviations, with its sign.
        usual_records, usual_seconds: what is usual for this run: its weekday, hour, and for the time its records.
    """

    job_name: str
    run_id: str
    anomaly_score: float | None
    score_cutoff: float
    is_anomalous: bool
    is_learning: bool
    feature: str
    deviations: float | None
    usual_records: float | None
    usual_seconds: float | None
    model_version: str


def predict(model: Model, recent: Sequence[JobRun], runs: Sequence[JobRun]) -> list[Prediction]:
    """Judge succeeded `runs` of one job, each by itself and those that started before it; the answers by start.

    A job that the model does not know, or knew as learning, is judged run by run, by `fallback` of what came before.

    Args:
        recent: other runs of the job, of any status and time. Where they do not reach back far enough, the model's own
            tail does; a recent run at the same start as one of the tail is the newer knowledge of it.

    Raises:
        ValueError: a run has not succeeded, or is not of the same job: failed runs are a kind of their own.
    """
    names = {run.job_name for run in (*recent, *runs)}
    if len(names) > 1 or any(run.status is not Status.SUCCEEDED for run in runs):
        raise ValueError("predict takes succeeded runs of one job")
    if not runs:
        return []
    (job_name,) = names
    known = model.jobs.get(job_name)
    starts = {run.started_at for run in (*recent, *runs)}
    others = [run for run in recent if run.status is Status.SUCCEEDED]
    if known is not None:
        others += [run for run in known.tail if run.started_at not in starts]
    asked = [*((run, False) for run in others), *((run, True) for run in runs)]
    asked.sort(key=lambda one: (one[0].started_at, one[0].run_id))
    everything, wanted = [run for run, _ in asked], [k for k, (_, is_asked) in enumerate(asked) if is_asked]
    if known is not None and known.baseline is not None:
        return _judge(model, known.baseline, everything, wanted)
    predictions = []
    for k in wanted:
        baseline = fallback(job_name, everything[max(0, k - FALLBACK_RUNS) : k], model.scales)
        drifted = everything[max(0, k + 1 - DRIFT_RUNS) : k + 1]
        predictions += _judge(model, baseline, drifted, [len(drifted) - 1])
    return predictions


def _judge(model: Model, baseline: Baseline, runs: Sequence[JobRun], wanted: Sequence[int]) -> list[Prediction]:
    """Judge those of a job's `runs`, ascending, that are at the positions `wanted`."""
    if baseline.run_count < MIN_FALLBACK_RUNS:
        return [_unknown(model, runs[k]) for k in wanted]
    residuals = features(runs, baseline)
    scores = anomaly_score(model.forest, residuals.features[wanted])
    predictions = []
    for k, score in zip(wanted, scores.tolist(), strict=True):
        worst = int(np.argmax(np.abs(residuals.features[k])))
        predictions.append(
            Prediction(
                job_name=runs[k].job_name,
                run_id=runs[k].run_id,
                anomaly_score=score,
                score_cutoff=model.score_cutoff,
                is_anomalous=score > model.score_cutoff,
                is_learning=baseline.is_learning,
                feature=FEATURES[worst],
                deviations=float(residuals.features[k, worst]),
                usual_records=float(residuals.usual_records[k]),
                usual_seconds=float(residuals.usual_seconds[k]),
                model_version=model.model_version,
            )
        )
    return predictions


def _unknown(model: Model, run: JobRun) -> Prediction:
    return Prediction(
        job_name=run.job_name,
        run_id=run.run_id,
        anomaly_score=None,
        score_cutoff=model.score_cutoff,
        is_anomalous=False,
        is_learning=True,
        feature="",
        deviations=None,
        usual_records=None,
        usual_seconds=None,
        model_version=model.model_version,
    )
