"""predict_anomalies, one bucket: Step Functions tries it six times, and each attempt writes whole objects."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3
import pytest
from moto import mock_aws

from lambdas.etl_jobs.predict_anomalies import handler as predicting
from lambdas.runtime.objects import Bucket
from overcut.etl_jobs.layout import Promoted, predictions_key
from overcut.etl_jobs.model import dump_model
from overcut.etl_jobs.training import train
from tests.faults.cases import NoTexts, check, workflow_invokes
from tests.faults.injection import BATCH, Injector, Kind
from tests.faults.sensors import reuse_clients
from tests.functional.conftest import REGION
from tests.functional.etl_job_rows import write_recent
from tests.functional.test_predict_anomalies import DAY, FLEET, TRAINED_AT, UNTIL, week

DATA = "overcut-data"


@cache
def _model() -> tuple[str, bytes]:
    model = train(FLEET, trained_until=TRAINED_AT, seed=1)
    return model.model_version, dump_model(model)


class World(NoTexts):
    """A model, and two days' runs of four jobs: and what an earlier run left."""

    def __init__(self, data: Bucket, injector: Injector) -> None:
        self.data, self.injector = data, injector

    def prepare(self) -> None:
        version, stored = _model()
        self.data.put(Promoted(TRAINED_AT - DAY, version).key, stored)
        write_recent(self.data, week(FLEET), 1)
        self.data.put("extractions/recent/part-0.txt", b'{"until": "2025-04-27T12:00:00Z", "rejected": 0}\n')
        self.data.put(predictions_key(UNTIL.date(), "of-another-model", 0), b"stale")

    def run(self) -> None:
        given = {"until": UNTIL.isoformat(), "bucket": 0}
        workflow_invokes(self.injector, lambda: predicting.handler(given, None))

    def outcome(self) -> dict[str, Any]:
        return {key: hashlib.sha256(self.data.get(key)).hexdigest() for key in self.data.keys("")}


@contextmanager
def make(injector: Injector, patch: pytest.MonkeyPatch) -> Iterator[World]:
    reuse_clients(patch)
    environment = {
        "STAGE": "local",
        "DATA_BUCKET": DATA,
        "BUCKETS": "1",
        "MISSED_AFTER_MINUTES": "60",
        "AWS_DEFAULT_REGION": REGION,
    }
    for name, value in environment.items():
        patch.setenv(name, value)
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=DATA)
        patch.setattr(predicting, "small_clients", lambda *services: boto3.client)
        world = World(Bucket(s3, DATA), injector)
        world.prepare()
        injector.cold_start = predicting.dependencies.cache_clear
        injector.cold_start()
        yield world
        injector.cold_start()


@pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.CONFLICT} - BATCH))
def test_the_workflow_tries_again(kind: Kind, record_property: Callable[[str, object], None]) -> None:
    check("predict_anomalies", make, kind, record_property)
