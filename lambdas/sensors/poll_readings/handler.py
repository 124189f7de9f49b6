"""poll_readings: reads one source's stream into the Readings table, a good minute at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from lambdas.runtime.clock import clock_from
from lambdas.runtime.observability import Observability, initialise
from lambdas.runtime.settings import load_settings
from lambdas.sensors.poll_readings.connection import Connection, stream_pool
from lambdas.sensors.poll_readings.polling import Poller, SourceSetting
from lambdas.sensors.stores import DataBucket, PendingExportsStore, ReadingsStore, SensorsStore, SourcesStore
from overcut.sensors.server_sent_events import SourceError

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

WRITING_THREADS = 3
SECONDS_TO_FINISH = 20


@dataclass(frozen=True)
class Settings:
    """The environment of poll_readings."""

    stage: str
    readings_table: str
    sensors_table: str
    sources_table: str
    pending_exports_table: str
    data_bucket: str
    clock: str
    retention_days: int
    export_buckets: int
    silent_after_minutes: int


@dataclass(frozen=True)
class Dependencies:
    poller: Poller
    observability: Observability


@cache
def dependencies() -> Dependencies:
    settings = load_settings(Settings, os.environ)
    # DynamoDB itself checks what it is sent; that the SDK does so before takes a third of what writing takes
    dynamodb = boto3.client("dynamodb", config=Config(parameter_validation=False))
    pool = stream_pool()
    observability = Observability("poll_readings", settings.stage)

    def connect(source: SourceSetting, last_event_id: str) -> Connection:
        authorization = _secret(source.secret_name) if source.secret_name else ""
        return Connection(pool, source.url, last_event_id=last_event_id, authorization=authorization)

    poller = Poller(
        readings=ReadingsStore(dynamodb, settings.readings_table),
        sensors=SensorsStore(dynamodb, settings.sensors_table),
        sources=SourcesStore(dynamodb, settings.sources_table),
        pending=PendingExportsStore(dynamodb, settings.pending_exports_table),
        bucket=DataBucket(boto3.client("s3"), settings.data_bucket),
        connect=connect,
        clock=clock_from(settings.clock),
        threads=ThreadPoolExecutor(WRITING_THREADS),
        outcomes=observability,
        retention=timedelta(days=settings.retention_days),
        buckets=settings.export_buckets,
        silent_after=60 * settings.silent_after_minutes,
    )
    return Dependencies(poller, observability)


def _secret(name: str) -> str:
    """The Authorization header's value, read at every connection so that a rotated one is used at once."""
    try:
        value: str = boto3.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]
    except ClientError as error:
        raise SourceError(f"its secret {name} cannot be read: {error.response['Error']['Message']}") from error
    except BotoCoreError as error:
        raise SourceError(f"its secret {name} cannot be read: {error}") from error
    return value


def handler(event: Mapping[str, Any], context: LambdaContext) -> None:
    """Device API -> Readings table, quarantine, Sources table."""
    made = dependencies()
    seconds = context.get_remaining_time_in_millis() / 1000 - SECONDS_TO_FINISH
    try:
        made.poller.poll(SourceSetting.from_event(event), context.aws_request_id, seconds)
    finally:
        made.observability.flush()


initialise(dependencies)
