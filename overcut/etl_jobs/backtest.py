"""Backtest: what production would have ticketed, walked forward over labelled job runs.

A *ticket* is opened by an anomalous run of a job that has none open; anomalous runs right after belong to it, the
first healthy run closes it. It is *false* when the run that opened it carries no label: also when it came early, before
the first labelled run of a slow fault (such tickets are counted in `early_tickets` as well).
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overcut.etl_jobs.features import Floats, by_job
from overcut.etl_jobs.job_runs import JobRun
from overcut.etl_jobs.predictions import predict
from overcut.etl_jobs.training import TooLittleHistoryError, train

NEVER_SCORED = timedelta(days=90)
RETRAIN_EVERY = timedelta(days=7)

Booleans = NDArray[np.bool_]


def backtest(
    runs: Iterable[JobRun],
    labels: Mapping[tuple[str, str], str],
    *,
    false_tickets_per_week: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Walk forward: train every week on what came before, score the week, compare with `labels` at the very end.

    Args:
        runs: any order; failed ones are left out, they are a kind of their own.
        labels: the kind of fault by job name and run id.

    Returns:
        Counts and shares as plain numbers. `faults` are runs in a row of one job and kind, scored at least once;
        `recall_by_kind` counts them, `recall_by_run` and `run_recall_by_kind` their runs. Shares of nothing are None.
        `recall_at_one_false_ticket_per_week` lowers one cutoff for all weeks until tickets would be false more often;
        `recall_at_one_false_run_per_week` does so for unlabelled runs above it, open ticket or not.

    Raises:
        TooLittleHistoryError: nothing could be scored.
    """
    jobs = by_job(runs)
    kinds: list[str] = []
    starts_job: list[bool] = []
    scores: list[float] = []
    anomalous: list[bool] = []
    judged = _judged(jobs, false_tickets_per_week, seed)
    first = min((own[0].started_at for own in jobs.values()), default=None)
    if first is None or not judged:
        raise TooLittleHistoryError(f"no run is later than the first {NEVER_SCORED.days} days, which are never scored")
    weeks = (max(own[-1].started_at for own in jobs.values()) - first - NEVER_SCORED) / timedelta(weeks=1)
    for own in jobs.values():
        scored = [(run, *judged[key]) for run in own if (key := (run.job_name, run.run_id)) in judged]
        starts_job += [k == 0 for k in range(len(scored))]
        kinds += [labels.get((run.job_name, run.run_id), "") for run, _, _ in scored]
        scores += [score for _, score, _ in scored]
        anomalous += [is_anomalous for _, _, is_anomalous in scored]
    return _report(np.array(kinds), np.array(starts_job), np.array(scores), np.array(anomalous), weeks)


def _judged(
    jobs: Mapping[str, list[JobRun]], false_tickets_per_week: float, seed: int
) -> dict[tuple[str, str], tuple[float, bool]]:
    """Score and verdict of each run past `NEVER_SCORED`, by job name and run id."""
    judged: dict[tuple[str, str], tuple[float, bool]] = {}
    if not jobs:
        return judged
    everything = [run for own in jobs.values() for run in own]
    now = min(run.started_at for run in everything) + NEVER_SCORED
    end = max(run.started_at for run in everything)
    while now <= end:
        try:
            model = train(everything, trained_until=now, false_tickets_per_week=false_tickets_per_week, seed=seed)
        except TooLittleHistoryError:
            now += RETRAIN_EVERY
            continue
        for own in jobs.values():
            # the runs before the week are the model's own tail, as they are for whoever has the last days only
            week = [run for run in own if now <= run.started_at < now + RETRAIN_EVERY]
            for prediction in predict(model, [], week):
                key = (prediction.job_name, prediction.run_id)
                judged[key] = (prediction.anomaly_score or 0.0, prediction.is_anomalous)
        now += RETRAIN_EVERY
    return judged


def _report(
    kinds: NDArray[np.str_], starts_job: Booleans, scores: Floats, anomalous: Booleans, weeks: float
) -> dict[str, Any]:
    labelled = kinds != ""
    keys = zip(np.cumsum(starts_job).tolist(), kinds.tolist(), strict=True)
    faults = []
    at = 0
    for (_, kind), group in groupby(keys):
        length = len(list(group))
        if kind:
            faults.append((kind, bool(anomalous[at : at + length].any())))
        at += length
    opened = _opened(anomalous, starts_job)
    false = opened & ~labelled
    ticket = np.cumsum(opened)
    reached = np.isin(ticket, ticket[anomalous & labelled])
    return {
        "runs": len(scores),
        "faults": len(faults),
        "found": sum(found for _, found in faults),
        "recall_by_kind": {
            kind: _share([found for other, found in faults if other == kind]) for kind in sorted({k for k, _ in faults})
        },
        "recall_by_run": _share(anomalous[labelled]),
        "run_recall_by_kind": {
            str(kind): _share(anomalous[kinds == kind]) for kind in np.unique(kinds[labelled]).tolist()
        },
        "average_precision": average_precision(scores, labelled),
        "tickets": int(opened.sum()),
        "false_tickets": int(false.sum()),
        "early_tickets": int((false & reached).sum()),
        "false_runs": int((anomalous & ~labelled).sum()),
        "weeks": round(weeks, 2),
        "false_tickets_per_week": float(false.sum() / weeks),
        "recall_at_one_false_ticket_per_week": recall_at_one_false_a_week(scores, labelled, weeks, starts_job),
        "recall_at_one_false_run_per_week": recall_at_one_false_a_week(scores, labelled, weeks, None),
    }


def average_precision(scores: Floats, labelled: Booleans) -> float | None:
    """The mean of the precisions at each labelled run, equal scores together; None without labels. Both (runs,)."""
    if not labelled.any():
        return None
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(labelled[order])[last_of_equals]
    precision = hits / (np.flatnonzero(last_of_equals) + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / hits[-1])


def _opened(anomalous: Booleans, starts_job: Booleans) -> Booleans:
    """Whether each run opened a ticket; runs by job, then time."""
    return np.asarray(anomalous & (starts_job | ~np.append(False, anomalous[:-1])))


def recall_at_one_false_a_week(
    scores: Floats, labelled: Booleans, weeks: float, starts_job: Booleans | None
) -> float | None:
    """Recall by run at the lowest cutoff up to which at most one ticket a week is false; None without labels.

    Args:
        scores, labelled: of each run, by job, then time; shape (runs,).
        starts_job: whether a run is the first of its job; None counts every false run, ticket open or not.
    """
    if not labelled.any():
        return None
    recall = 0.0
    for cutoff in [*np.unique(scores[~labelled])[::-1].tolist(), -np.inf]:
        above = scores > cutoff
        false = above if starts_job is None else _opened(above, starts_job)
        if (false & ~labelled).sum() > weeks:
            break
        recall = float(above[labelled].mean())
    return recall


def _share(found: Any) -> float | None:
    return float(np.mean(found)) if len(found) else None
