"""How well do simpler ways find the runs that Overcut finds? `python -m benchmarks.etl_jobs_quality [RUNS LABELS]`.

Every technique is walked forward over the same runs with the same weekly retraining on the last 120 days, the first 90
days never scored, and ranks the same runs; nothing sees a later run. Without a file, fleets are simulated.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from sklearn.ensemble import IsolationForest

from benchmarks.measured import Row, write
from overcut.etl_jobs.backtest import (
    NEVER_SCORED,
    RETRAIN_EVERY,
    average_precision,
    recall_at_one_false_a_week,
)
from overcut.etl_jobs.features import Floats, by_job, features
from overcut.etl_jobs.forest import isolation_score
from overcut.etl_jobs.job_runs import JobRun
from overcut.etl_jobs.model import anomaly_score, length
from overcut.etl_jobs.training import TRAINING_WINDOW, train
from workbench.job_runs_files import read_job_runs, read_labels
from workbench.simulate_job_runs import draw_jobs, simulate_jobs

PLAIN = "isolation forest on records, weekday and run time"
LOGS = "the same on logarithms"
MEDIAN = "each job's distance from its median of 28 runs"
FOREST = "isolation forest on our features"
LENGTH = "length of our feature vector, no forest"
OURS = "Overcut"
TECHNIQUES = (PLAIN, LOGS, MEDIAN, FOREST, LENGTH, OURS)
SEEDS = (1, 2, 3)

Labels = Mapping[tuple[str, str], str]


def scores(runs: Sequence[JobRun]) -> tuple[list[JobRun], dict[str, Floats], float]:
    """The runs that were scored, by job then start, their scores by each technique, and the weeks they took."""
    jobs = by_job(runs)
    everything = [run for own in jobs.values() for run in own]
    first, last = min(run.started_at for run in everything), max(run.started_at for run in everything)
    found: dict[JobRun, dict[str, float]] = {}
    now = first + NEVER_SCORED
    while now <= last:
        model = train(everything, trained_until=now, seed=0)
        window = [run for run in everything if now - TRAINING_WINDOW <= run.started_at < now]
        forests = {
            PLAIN: IsolationForest(random_state=0).fit(raw(window)),
            LOGS: IsolationForest(random_state=0).fit(np.log1p(raw(window))),
        }
        for job_name, own in jobs.items():
            week = [run for run in own if now <= run.started_at < now + RETRAIN_EVERY]
            known = model.jobs.get(job_name)
            if not week or known is None or known.baseline is None:
                continue
            before = [run for run in own if run.started_at < now]
            vectors = features([*before[-7:], *week], known.baseline).features[-len(week) :]
            of_week = {
                PLAIN: -forests[PLAIN].score_samples(raw(week)),
                LOGS: -forests[LOGS].score_samples(np.log1p(raw(week))),
                MEDIAN: from_median([*before, *week])[-len(week) :],
                FOREST: isolation_score(model.forest, vectors),
                LENGTH: length(vectors),
                OURS: anomaly_score(model.forest, vectors),
            }
            for k, run in enumerate(week):
                found[run] = {technique: float(of_week[technique][k]) for technique in TECHNIQUES}
        now += RETRAIN_EVERY
    scored = [run for own in jobs.values() for run in own if run in found]
    by_technique = {technique: np.array([found[run][technique] for run in scored]) for technique in TECHNIQUES}
    return scored, by_technique, (last - first - NEVER_SCORED) / timedelta(weeks=1)


def raw(runs: Sequence[JobRun]) -> Floats:
    """Shape (runs, 3)."""
    return np.array([[float(run.records_processed), float(run.day_of_week), run.run_time_seconds] for run in runs])


def from_median(runs: Sequence[JobRun]) -> Floats:
    """Of one job's runs: how far each is from the median of the 28 before, in median deviations."""
    logs = np.log1p([float(run.records_processed) for run in runs])
    distances = np.zeros(len(logs))
    for k in range(8, len(logs)):
        before = logs[max(0, k - 28) : k]
        middle = np.median(before)
        distances[k] = abs(logs[k] - middle) / max(float(np.median(np.abs(before - middle))), 0.01)
    return distances


def compare(name: str, runs: Sequence[JobRun], labels: Labels) -> dict[str, list[Row]]:
    """What each technique reaches, below what it is reached on."""
    scored, by_technique, weeks = scores(runs)
    labelled = np.array([(run.job_name, run.run_id) in labels for run in scored])
    names = [run.job_name for run in scored]
    starts_job = np.array([k == 0 or names[k] != names[k - 1] for k in range(len(names))])
    title = f"{name}: {len(scored):,} runs of {len(set(names))} jobs, {int(labelled.sum())} faulty, {weeks:.0f} weeks"
    ours = average_precision(by_technique[OURS], labelled) or float("nan")
    rows: list[Row] = []
    for technique in TECHNIQUES:
        precision = average_precision(by_technique[technique], labelled) or 0.0
        recall = recall_at_one_false_a_week(by_technique[technique], labelled, weeks, starts_job) or 0.0
        figures = {"average precision": precision, "of Overcut's": precision / ours}
        rows.append({"technique": technique, **figures, "recall at 1 false ticket a week": recall})
    return {title: rows}


def main(arguments: Sequence[str]) -> None:
    if arguments:
        runs, labels = (Path(path) for path in arguments)
        sys.stdout.write(json.dumps(compare(runs.name, read_job_runs(runs).runs, read_labels(labels)), indent=1) + "\n")
        return
    tables: dict[str, list[Row]] = {}
    for seed in SEEDS:
        for daily_only in (True, False):
            jobs = draw_jobs(60, days=182, seed=seed, daily_only=daily_only)
            fleet = simulate_jobs(jobs, started_on=date(2026, 1, 5), days=182, seed=seed)
            kind = "Daily jobs" if daily_only else "Jobs of every schedule"
            tables |= compare(f"{kind}, seed {seed}", list(fleet.runs), fleet.labels)
    write("etl_jobs_quality", tables, ["numpy", "scikit-learn"])


if __name__ == "__main__":
    main(sys.argv[1:])
