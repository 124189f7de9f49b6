"""AWS in memory (moto), with tables, bucket, queue and topic as the synthesized template has them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import dynamodb_backends

from lambdas.sensors.stores import (
    CutoffsStore,
    DataBucket,
    IncidentsStore,
    ModelEventsStore,
    PendingExportsStore,
    ReadingsStore,
    SensorsStore,
    SourcesStore,
)
from tests.conftest import logical_name, resources_of

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_s3 import S3Client
    from types_boto3_sns import SNSClient
    from types_boto3_sqs import SQSClient

REGION = "us-east-1"


@dataclass(frozen=True)
class Cloud:
    """The pipeline's resources, and a store for each."""

    dynamodb: "DynamoDBClient"
    s3: "S3Client"
    sns: "SNSClient"
    sqs: "SQSClient"
    tables: dict[str, str]
    bucket: str
    topic: str
    parked: str

    @property
    def readings(self) -> ReadingsStore:
        return ReadingsStore(self.dynamodb, self.tables["Readings"])

    @property
    def sensors(self) -> SensorsStore:
        return SensorsStore(self.dynamodb, self.tables["Sensors"])

    @property
    def cutoffs(self) -> CutoffsStore:
        return CutoffsStore(self.dynamodb, self.tables["Cutoffs"])

    @property
    def model_events(self) -> ModelEventsStore:
        return ModelEventsStore(self.dynamodb, self.tables["ModelEvents"])

    @property
    def incidents(self) -> IncidentsStore:
        return IncidentsStore(self.dynamodb, self.tables["Incidents"])

    @property
    def sources(self) -> SourcesStore:
        return SourcesStore(self.dynamodb, self.tables["Sources"])

    @property
    def pending(self) -> PendingExportsStore:
        return PendingExportsStore(self.dynamodb, self.tables["PendingExports"])

    @property
    def data(self) -> DataBucket:
        return DataBucket(self.s3, self.bucket)


def create_tables(dynamodb: "DynamoDBClient", template: dict[str, Any]) -> dict[str, str]:
    """Create the template's tables; their names by what the Storage construct calls them."""
    names = {}
    for logical_id, properties in resources_of(template, "AWS::DynamoDB::Table").items():
        name = logical_name(logical_id).removeprefix("Storage")
        request: dict[str, Any] = {
            key: properties[key]
            for key in ("KeySchema", "AttributeDefinitions", "GlobalSecondaryIndexes", "BillingMode")
            if key in properties
        }
        if "StreamSpecification" in properties:
            request["StreamSpecification"] = {"StreamEnabled": True, **properties["StreamSpecification"]}
        dynamodb.create_table(TableName=name, **request)
        names[name] = name
    return names


_MADE: dict[str, Any] = {}


def tables_in_moto(dynamodb: "DynamoDBClient", template: dict[str, Any]) -> dict[str, str]:
    """`create_tables` in moto, which takes a tenth of a second: after the first time a copy of what that made."""
    key = json.dumps(resources_of(template, "AWS::DynamoDB::Table"))
    backend = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION]
    if key not in _MADE:
        names = create_tables(dynamodb, template)
        _MADE[key] = names, deepcopy({name: backend.tables[name] for name in names})
    names, made = _MADE[key]
    backend.tables.update(deepcopy(made))
    return dict(names)


@cache
def clients() -> "tuple[DynamoDBClient, S3Client, SNSClient, SQSClient]":
    """Made once: each takes a good part of a second, and moto is in every client's way alike."""
    return boto3.client("dynamodb"), boto3.client("s3"), boto3.client("sns"), boto3.client("sqs")


@contextmanager
def sensors_cloud(template: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A cloud with empty tables, an empty bucket, and a topic and a queue that nobody reads."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        dynamodb, s3, sns, sqs = clients()
        s3.create_bucket(Bucket="overcut-data")
        yield Cloud(
            dynamodb=dynamodb,
            s3=s3,
            sns=sns,
            sqs=sqs,
            tables=tables_in_moto(dynamodb, template),
            bucket="overcut-data",
            topic=sns.create_topic(Name="alerts")["TopicArn"],
            parked=sqs.create_queue(QueueName="parked")["QueueUrl"],
        )


@pytest.fixture
def cloud(local_template: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with sensors_cloud(local_template, monkeypatch) as cloud:
        yield cloud
