"""export_tables: copies to S3 what is asked about in SQL beside readings, and tells the catalogue of new days."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

from lambdas.runtime.catalog import Catalog
from lambdas.runtime.clients import small_clients
from lambdas.runtime.clock import Clock, clock_from
from lambdas.runtime.observability import Observability, initialise
from lambdas.runtime.settings import load_settings
from lambdas.sensors.export_tables.exporting import CUTOFF_DAYS, TablesExporter
from lambdas.sensors.stores import CutoffsStore, DataBucket, IncidentsStore, ModelEventsStore, SensorsStore


@dataclass(frozen=True)
class Settings:
    """The environment of export_tables."""

    stage: str
    sensors_table: str
    cutoffs_table: str
    model_events_table: str
    incidents_table: str
    data_bucket: str
    database: str
    clock: str


@dataclass(frozen=True)
class Dependencies:
    exporter: TablesExporter
    clock: Clock
    observability: Observability


@cache
def dependencies() -> Dependencies:
    settings, client = load_settings(Settings, os.environ), small_clients("dynamodb", "glue", "s3")
    dynamodb = client("dynamodb")
    exporter = TablesExporter(
        SensorsStore(dynamodb, settings.sensors_table),
        CutoffsStore(dynamodb, settings.cutoffs_table),
        ModelEventsStore(dynamodb, settings.model_events_table),
        IncidentsStore(dynamodb, settings.incidents_table),
        Catalog(client("glue"), settings.database, DataBucket(client("s3"), settings.data_bucket)),
    )
    return Dependencies(exporter, clock_from(settings.clock), Observability("export_tables", settings.stage))


def handler(event: Mapping[str, Any], context: object) -> dict[str, int]:
    """Incidents, ModelEvents and Sensors tables -> S3 tables/; with a `bucket`, the Cutoffs table's last `days`."""
    made = dependencies()
    if "bucket" in event:
        last = timedelta(days=event["days"]) if "days" in event else CUTOFF_DAYS
        rows = made.exporter.export_cutoffs(int(event["bucket"]), made.clock.now(), last)
    else:
        rows = made.exporter.export_now()
    made.observability.count("RowsExported", rows)
    made.observability.flush()
    return {"rows": rows}


initialise(dependencies)
