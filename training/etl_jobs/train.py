"""The training job of the ETL pipeline: S3 historical/ -> S3 models/, promoted or held.

A SageMaker training job in script mode runs it; hyperparameters arrive as arguments, the bucket in the environment.
"""

import argparse
import io
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
from arro3.io import read_parquet

from lambdas.runtime.objects import Bucket
from overcut.etl_jobs.features import by_job
from overcut.etl_jobs.job_runs import JobRun, JobRunRefusedError, parse_job_run
from overcut.etl_jobs.layout import PROMOTED_PREFIX, Promoted, decision_key, historical_prefix, model_key
from overcut.etl_jobs.model import Model, ModelRefusedError, dump_model, load_model
from overcut.etl_jobs.predictions import predict
from overcut.etl_jobs.promotion import LAST_WEEK, Decision, decide
from overcut.etl_jobs.training import TRAINING_WINDOW, TooLittleHistoryError, train

READING_THREADS = 8
_COLUMNS = (
    *("job_name", "run_id", "started_at", "run_time_seconds", "records_processed", "status", "day_of_week"),
    *("time_zone", "schedule"),
)


@dataclass(frozen=True)
class TrainingParameters:
    """The hyperparameters of the training job.

    Attributes:
        until: the end of the window, UTC: what the extraction before it was given.
        workflow_started_at: when the workflow began by the machine's clock, UTC; None: when the training did.
    """

    until: datetime
    window_days: float
    false_tickets_per_week: float
    num_trees: int
    num_samples_per_tree: int
    seed: int
    workflow_started_at: datetime | None

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "TrainingParameters":
        parser = argparse.ArgumentParser(allow_abbrev=False)
        parser.add_argument("--until", type=_moment, required=True)
        parser.add_argument("--window_days", type=float, default=TRAINING_WINDOW / timedelta(days=1))
        parser.add_argument("--false_tickets_per_week", type=float, default=1.0)
        parser.add_argument("--num_trees", type=int, default=100)
        parser.add_argument("--num_samples_per_tree", type=int, default=256)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--workflow_started_at", type=_moment)
        return cls(**vars(parser.parse_args(arguments)))

    @property
    def window(self) -> timedelta:
        return timedelta(days=self.window_days)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() is None:
        raise ValueError(f"{text} names no zone")
    return moment.astimezone(UTC)


def read_window(bucket: Bucket, until: datetime, window: timedelta) -> tuple[list[JobRun], Counter[str]]:
    """The runs of the window, by day, and why rows were refused, each reason with their number."""
    first = until - window
    days = [first.date() + timedelta(days=k) for k in range((until.date() - first.date()).days + 1)]
    keys = [key for day in days for key in bucket.keys(historical_prefix(day)) if key.endswith(".parquet")]
    runs, refused = [], Counter[str]()
    with ThreadPoolExecutor(READING_THREADS) as threads:
        # a few at a time: what is fetched waits for what is parsed
        for start in range(0, len(keys), READING_THREADS):
            for stored in threads.map(bucket.get, keys[start : start + READING_THREADS]):
                for fields in _rows(stored):
                    try:
                        run = parse_job_run(fields)
                    except JobRunRefusedError as error:
                        refused[str(error)] += 1
                        continue
                    if first <= run.started_at < until:
                        runs.append(run)
    return runs, refused


def _rows(stored: bytes) -> Iterator[dict[str, object]]:
    for batch in read_parquet(io.BytesIO(stored)):
        for values in zip(*(batch[column].to_pylist() for column in _COLUMNS), strict=True):
            fields = dict(zip(_COLUMNS, values, strict=True))
            # a text for all rows of a job, not one a row
            yield fields | {name: sys.intern(fields[name] or "") for name in ("job_name", "time_zone", "schedule")}


def previous_model(bucket: Bucket) -> Model | None:
    """The newest promoted model; None without one, or where it is of an older code and nothing can compare with it."""
    promoted = sorted(Promoted.from_key(key) for key in bucket.keys(PROMOTED_PREFIX) if key.endswith(".npz"))
    try:
        return load_model(bucket.get(promoted[-1].key)) if promoted else None
    except ModelRefusedError as error:
        sys.stdout.write(f"the promoted model {promoted[-1].model_version} is not compared with: {error}\n")
        return None


def last_week(model: Model, runs: Sequence[JobRun]) -> tuple[int, int]:
    """Of the last week's succeeded runs, how many the model judges and how many it would ticket."""
    since = model.trained_until - LAST_WEEK
    judged = anomalous = 0
    for own in by_job(run for run in runs if run.started_at >= since).values():
        predictions = predict(model, [], own)
        judged += len(predictions)
        anomalous += sum(prediction.is_anomalous for prediction in predictions)
    return judged, anomalous


def main(arguments: Sequence[str]) -> None:
    """Train, and promote or hold; what happened is written to the model directory as well, as `decision.json`."""
    began = time.time()
    parameters, job_name = TrainingParameters.parse(arguments), os.environ["TRAINING_JOB_NAME"]
    bucket = Bucket(boto3.client("s3"), os.environ["DATA_BUCKET"])
    runs, refused = read_window(bucket, parameters.until, parameters.window)
    for reason, rows in refused.most_common(20):
        sys.stdout.write(f"{rows} rows of history are left out: {reason}\n")
    if not runs:
        raise SystemExit(
            f"historical/ holds no job run of the {parameters.window_days:g} days before {_format(parameters.until)}: "
            "run the extraction of the history first, and see whether the lake has records of these days"
        )
    happened: dict[str, object] = {
        "window_from": _format(parameters.until - parameters.window),
        "window_to": _format(parameters.until),
        "runs": len(runs),
        "refused": refused.total(),
        "learning": len({run.job_name for run in runs}),
        "jobs": 0,
        "model_version": None,
        "effective_from": None,
        "score_cutoff": None,
    }
    try:
        model = train(
            runs,
            trained_until=parameters.until,
            window=parameters.window,
            false_tickets_per_week=parameters.false_tickets_per_week,
            num_trees=parameters.num_trees,
            num_samples_per_tree=parameters.num_samples_per_tree,
            seed=parameters.seed,
        )
    except TooLittleHistoryError as error:
        happened |= {"decision": "held", "reason": str(error)}
    else:
        judged, anomalous = last_week(model, runs)
        decision = decide(model, previous_model(bucket), judged=judged, anomalous=anomalous)
        stored = dump_model(model)
        bucket.put(model_key(model.model_version), stored)
        happened |= _told(model, decision)
        if decision.promoted:
            started = parameters.workflow_started_at
            effective_from = effective(parameters.until, time.time() - (started.timestamp() if started else began))
            happened["effective_from"] = _format(effective_from)
    # the promoted model comes last: it is in force by its key alone, and a decision without it promotes nothing
    written = json.dumps(happened, indent=2)
    (Path(os.environ["SM_MODEL_DIR"]) / "decision.json").write_text(written)
    bucket.put(decision_key(job_name), written.encode())
    if happened["decision"] == "promoted":
        bucket.put(Promoted(effective_from, model.model_version).key, stored)


def _told(model: Model, decision: Decision) -> dict[str, object]:
    learned = len(model.jobs.learned)
    return {
        "decision": "promoted" if decision.promoted else "held",
        "reason": decision.reason,
        "model_version": model.model_version,
        "score_cutoff": model.score_cutoff,
        "jobs": learned,
        "learning": len(model.jobs) - learned,
    }


def effective(until: datetime, seconds: float) -> datetime:
    """When a model comes into force whose training was ready `seconds` after its workflow began; a whole second.

    The workflow's own time goes on from `until`, also where a demonstration replays the past: a run that is recorded
    before the model is there is judged by the one before it, whenever one looks.
    """
    return until.replace(microsecond=0) + timedelta(seconds=math.ceil(until.microsecond / 1e6 + max(0.0, seconds)))


def _format(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
