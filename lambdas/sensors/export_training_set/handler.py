"""export_training_set: copies one bucket's readings to S3, where the training job and SQL find them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import boto3

from lambdas.runtime.clock import Clock, clock_from
from lambdas.runtime.observability import Observability, initialise
from lambdas.runtime.settings import load_settings
from lambdas.sensors.export_training_set.exporting import Exporter
from lambdas.sensors.stores import DataBucket, PendingExportsStore, ReadingsStore, SensorsStore


@dataclass(frozen=True)
class Settings:
    """The environment of export_training_set."""

    stage: str
    readings_table: str
    sensors_table: str
    pending_exports_table: str
    data_bucket: str
    clock: str


@dataclass(frozen=True)
class Dependencies:
    exporter: Exporter
    clock: Clock
    observability: Observability


@cache
def dependencies() -> Dependencies:
    settings = load_settings(Settings, os.environ)
    dynamodb = boto3.client("dynamodb")
    exporter = Exporter(
        ReadingsStore(dynamodb, settings.readings_table),
        SensorsStore(dynamodb, settings.sensors_table),
        PendingExportsStore(dynamodb, settings.pending_exports_table),
        DataBucket(boto3.client("s3"), settings.data_bucket),
    )
    return Dependencies(exporter, clock_from(settings.clock), Observability("export_training_set", settings.stage))


def handler(event: Mapping[str, Any], context: object) -> dict[str, int]:
    """Readings table -> S3 readings/, one bucket."""
    made = dependencies()
    written = made.exporter.export(int(event["bucket"]), made.clock.now())
    made.observability.count("HoursExported", written["hours"])
    made.observability.count("ReadingsExported", written["readings"])
    made.observability.flush()
    return written


initialise(dependencies)
