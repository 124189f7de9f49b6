"""register_partitions: tells the Glue catalogue of days that were extracted or predicted since it ran last."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lambdas.runtime.catalog import Catalog
from lambdas.runtime.clients import small_clients
from lambdas.runtime.objects import Bucket
from lambdas.runtime.observability import Observability, initialise
from lambdas.runtime.settings import load_settings
from overcut.etl_jobs.tables import TABLES


@dataclass(frozen=True)
class Settings:
    """The environment of register_partitions."""

    stage: str
    data_bucket: str
    database: str


@dataclass(frozen=True)
class Dependencies:
    catalog: Catalog
    observability: Observability


@cache
def dependencies() -> Dependencies:
    settings, client = load_settings(Settings, os.environ), small_clients("glue", "s3")
    catalog = Catalog(client("glue"), settings.database, Bucket(client("s3"), settings.data_bucket))
    return Dependencies(catalog, Observability("register_partitions", settings.stage))


def handler(event: Mapping[str, Any], context: object) -> dict[str, int]:
    """S3 historical/ + S3 tables/predictions/ -> partitions of job_runs and predictions."""
    made = dependencies()
    registered = {table.name: made.catalog.register_days(table) for table in TABLES}
    made.observability.count("DaysRegistered", sum(registered.values()))
    made.observability.flush()
    return registered


initialise(dependencies)
