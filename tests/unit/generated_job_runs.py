"""Job runs made for the tests: daily, quieter on weekends, with a little noise; faults are put in by the tests."""

from datetime import UTC, datetime, timedelta

import numpy as np

from overcut.etl_jobs.job_runs import JobRun, Status

START = datetime(2025, 1, 6, 2, tzinfo=UTC)


def job_run(
    name: str = "orders", k: int = 0, *, at: datetime | None = None, records: int = 100_000, seconds: float = 60.0
) -> JobRun:
    at = at or START + timedelta(days=k)
    return JobRun(name, f"{name}-{k}", at, seconds, records, Status.SUCCEEDED, at.weekday())


def history(
    name: str = "orders",
    *,
    count: int = 120,
    every: timedelta = timedelta(days=1),
    usual: float = 100_000,
    noise: float = 0.1,
    weekend: float = 0.3,
    growth: float = 0.0,
    seed: int = 1,
) -> list[JobRun]:
    random = np.random.default_rng(seed)
    runs = []
    for k in range(count):
        at = START + every * k
        mean = usual * (weekend if at.weekday() >= 5 else 1.0) * np.exp(growth * (every * k / timedelta(days=1)))
        records = round(float(mean * np.exp(random.normal(0, noise))))
        seconds = float((20 + records / 2000) * np.exp(random.normal(0, 0.08)))
        runs.append(job_run(name, k, at=at, records=records, seconds=seconds))
    return runs


def fleet(jobs: int = 12, *, count: int = 120) -> list[JobRun]:
    return [
        run
        for j in range(jobs)
        for run in history(f"load_{j:02d}", count=count, usual=1000.0 * 2**j, noise=0.04 + 0.01 * j, seed=j)
    ]
