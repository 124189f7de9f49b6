"""AWS in memory (moto) for the ETL pipeline: the template's Tickets table, the data bucket, and clients."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from functools import cache
from typing import TYPE_CHECKING

import boto3
import pytest
from moto import mock_aws

from lambdas.etl_jobs.stores import PredictionsReader, TicketsStore
from overcut.etl_jobs.layout import bucket_of, predictions_key
from overcut.etl_jobs.verdicts import Verdict
from tests.conftest import synthesized
from tests.functional.conftest import REGION, tables_in_moto

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_s3 import S3Client
    from types_boto3_secretsmanager import SecretsManagerClient

TABLE, BUCKET, BUCKETS = "Tickets", "overcut-etl-data", 16


@dataclass(frozen=True)
class EtlCloud:
    """The pipeline's resources, and a store for each."""

    dynamodb: "DynamoDBClient"
    s3: "S3Client"
    secrets: "SecretsManagerClient"

    @property
    def tickets(self) -> TicketsStore:
        return TicketsStore(self.dynamodb, TABLE)

    @property
    def predictions(self) -> PredictionsReader:
        return PredictionsReader(self.s3, BUCKET)

    def predict(self, verdicts: Iterable[Verdict]) -> None:
        """Write verdicts where predict_anomalies does: whole objects."""
        objects: dict[str, list[str]] = {}
        for one in verdicts:
            day = one.recorded_at.astimezone(UTC).date()
            key = predictions_key(day, one.model_version, bucket_of(one.job_name, BUCKETS))
            objects.setdefault(key, []).append(one.to_json() + "\n")
        for key, lines in objects.items():
            self.predictions.put(key, "".join(lines).encode())


@cache
def _clients() -> EtlCloud:
    """Made once: each client takes a good part of a second, and moto is in every one's way alike."""
    return EtlCloud(boto3.client("dynamodb"), boto3.client("s3"), boto3.client("secretsmanager"))


@contextmanager
def etl_cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[EtlCloud]:
    """A cloud with an empty table and an empty bucket."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        cloud = _clients()
        tables_in_moto(cloud.dynamodb, synthesized("local", "etl_jobs"))
        cloud.s3.create_bucket(Bucket=BUCKET)
        yield cloud
