"""A year of many daily jobs, extracted, trained on, judged: `python -m benchmarks.etl_jobs_lake [JOBS ...]`.

Each step is a process of its own, whose time and peak memory are told; the script of the extraction is the one that EMR
runs, in local mode with two cores and one gigabyte for its driver. By default 500 jobs and 5,000: how it grows.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from benchmarks.measured import Row, write
from lambdas.etl_jobs.predict_anomalies.predicting import Predictor
from overcut.etl_jobs.layout import Promoted
from overcut.etl_jobs.model import dump_model
from overcut.etl_jobs.training import TRAINING_WINDOW, train
from training.etl_jobs.train import read_window
from workbench.cloud.spark import environment, java_home, submit
from workbench.lake import LakeFolder, write_lake
from workbench.simulate_job_runs import draw_jobs, simulate_jobs

DAYS, RECENT_DAYS, BUCKETS = 365, 7, 16
STARTED_ON = date(2025, 3, 1)
UNTIL = datetime.combine(STARTED_ON, datetime.min.time(), UTC) + timedelta(days=DAYS)
EXTRACT = Path(__file__).parent.parent / "training" / "etl_jobs" / "extract_features.py"


@dataclass(frozen=True)
class FolderBucket:
    """What of `lambdas.runtime.objects.Bucket` is asked for, in a folder."""

    folder: Path

    def put(self, key: str, body: bytes) -> None:
        (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / key).write_bytes(body)

    def get(self, key: str) -> bytes:
        return (self.folder / key).read_bytes()

    def keys(self, prefix: str) -> list[str]:
        below = self.folder / prefix.rpartition("/")[0]
        found = (str(path.relative_to(self.folder)) for path in below.rglob("*") if path.is_file())
        return sorted(key for key in found if key.startswith(prefix))


def simulate(folder: Path, jobs: int) -> None:
    fleet = simulate_jobs(draw_jobs(jobs, days=DAYS, seed=1, daily_only=True), started_on=STARTED_ON, days=DAYS, seed=1)
    write_lake(LakeFolder(folder / "lake"), fleet.lake(), name="records")


def train_model(folder: Path, _: int) -> None:
    bucket: Any = FolderBucket(folder)
    # a day before the end, so that there is a day to judge
    until = UNTIL - timedelta(days=1)
    runs, _refused = read_window(cast(Any, bucket), until, TRAINING_WINDOW)
    model = train(runs, trained_until=until, seed=0)
    bucket.put(Promoted(until, model.model_version).key, dump_model(model))


def predict_all(folder: Path, _: int) -> None:
    bucket: Any = FolderBucket(folder)
    predictor = Predictor(bucket, BUCKETS, timedelta(hours=1))
    judged = sum(predictor.predict(number, UNTIL).verdicts.total() for number in range(BUCKETS))
    if not judged:
        raise SystemExit("nothing was judged")


STEPS = {"simulate": simulate, "train": train_model, "predict": predict_all}


def extraction(folder: Path, mode: str, days: int) -> list[str]:
    options = {"mode": mode, "lake": folder / "lake", "output": folder, "days": days, "buckets": BUCKETS}
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    return submit(EXTRACT, [*arguments, "--until", UNTIL.isoformat()], [], folder, {})


def measured(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of a process.

    Raises:
        SystemExit: it failed.
    """
    began, log = time.monotonic(), folder / "log"
    spark = environment(java_home(os.environ["PATH"], folder), folder, os.environ)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=spark,
            start_new_session=True,
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed; see {log}:\n{log.read_text(errors='replace')[-2000:]}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def main(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] in STEPS:
        STEPS[arguments[0]](Path(arguments[1]), int(arguments[2]))
        return
    rows: list[Row] = []
    for jobs in map(int, arguments or ("500", "5000")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            this = [sys.executable, "-m", "benchmarks.etl_jobs_lake"]
            measured([*this, "simulate", name, str(jobs)], folder)
            commands = {
                "extract history": (extraction(folder, "historical", DAYS), DAYS),
                "extract recent runs": (extraction(folder, "recent", RECENT_DAYS), RECENT_DAYS),
                "train": ([*this, "train", name, str(jobs)], TRAINING_WINDOW.days),
                "predict every bucket, one after the other": ([*this, "predict", name, str(jobs)], 1),
            }
            for step, (command, days) in commands.items():
                seconds, megabytes = measured(command, folder)
                figures = {"days": days, "seconds": seconds, "runs a second": jobs * days / seconds}
                rows.append({"jobs": jobs, "step": step, **figures, "peak MB": megabytes})
                sys.stderr.write(f"{rows[-1]}\n")
    write("etl_jobs_lake", {"": rows}, ["arro3-core", "numpy", "pyspark", "scikit-learn"])


if __name__ == "__main__":
    main(sys.argv[1:])
