"""The training job of ETL jobs: Step Functions starts it again, under another name and with the same window."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from tempfile import TemporaryDirectory
from typing import Any

import boto3
import pytest
from moto import mock_aws

from lambdas.runtime.objects import Bucket
from overcut.etl_jobs.layout import PROMOTED_PREFIX, Promoted, decision_key, historical_prefix, model_key
from overcut.etl_jobs.model import Model
from overcut.etl_jobs.training import train as learn
from tests.faults.cases import NoTexts, check
from tests.faults.injection import BATCH, Injector, Kind
from tests.faults.sensors import reuse_clients
from tests.functional.conftest import REGION
from tests.functional.etl_job_rows import PART, recorded, to_parquet
from tests.unit.generated_job_runs import START, history
from training.etl_jobs import train

ATTEMPTS, DATA, DAYS = 2, "overcut-data", 5
UNTIL = START + timedelta(days=DAYS)
RUNS = [run for name in ("orders", "stock") for run in history(name, count=24 * DAYS, every=timedelta(hours=1))]


class World(NoTexts):
    """Five days of two hourly jobs."""

    def __init__(self, data: Bucket, injector: Injector, patch: pytest.MonkeyPatch) -> None:
        self.data, self.injector, self.patch = data, injector, patch

    def run(self) -> None:
        given = {"until": UNTIL.isoformat(), "window_days": str(DAYS), "num_trees": "10"}
        arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
        for attempt in range(ATTEMPTS):
            self.patch.setenv("TRAINING_JOB_NAME", f"job-{attempt}")
            if self.injector.invoke(lambda: train.main(arguments)):
                self.job_name = f"job-{attempt}"
                return
        raise AssertionError("the workflow failed")

    def outcome(self) -> dict[str, Any]:
        decided = json.loads(self.data.get(decision_key(self.job_name)))
        version = decided["model_version"]
        promoted = {Promoted.from_key(key).model_version for key in self.data.keys(PROMOTED_PREFIX)}
        return {
            # when it comes into force, and what it was compared with, differ with the attempt
            "decision": {name: value for name, value in decided.items() if name not in {"effective_from", "reason"}},
            "model": hashlib.sha256(self.data.get(model_key(version))).hexdigest(),
            "promoted": promoted,
            "in force as told": any(
                Promoted.from_key(key).effective_from == datetime.fromisoformat(decided["effective_from"])
                for key in self.data.keys(PROMOTED_PREFIX)
            ),
        }


_LEARNED: list[Model] = []


def _learned_once(patch: pytest.MonkeyPatch) -> None:
    """Training is a function of its arguments and calls nothing: once is enough."""

    def once(runs: Any, **given: Any) -> Model:
        if not _LEARNED:
            _LEARNED.append(learn(runs, **given))
        return _LEARNED[0]

    patch.setattr(train, "train", once)


@contextmanager
def make(injector: Injector, patch: pytest.MonkeyPatch) -> Iterator[World]:
    reuse_clients(patch)
    _learned_once(patch)
    with mock_aws(), TemporaryDirectory() as folder:
        for name, value in {"DATA_BUCKET": DATA, "AWS_DEFAULT_REGION": REGION, "SM_MODEL_DIR": folder}.items():
            patch.setenv(name, value)
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=DATA)
        data = Bucket(s3, DATA)
        data.put(historical_prefix(START.date()) + PART, to_parquet(map(recorded, RUNS)))
        yield World(data, injector, patch)


@pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.CONFLICT} - BATCH))
def test_the_workflow_trains_again(kind: Kind, record_property: Callable[[str, object], None]) -> None:
    check("training of ETL jobs", make, kind, record_property)
