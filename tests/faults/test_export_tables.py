"""export_tables and register_partitions: Step Functions tries each six times."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import boto3
import pytest

from lambdas.etl_jobs.register_partitions import handler as registering
from lambdas.runtime.objects import Bucket
from lambdas.sensors.export_tables import handler as exporting
from lambdas.sensors.stores import Sensor
from overcut.etl_jobs.tables import TABLES as ETL_TABLES
from overcut.sensors.tables import TABLES
from overcut.tables import Table
from tests.conftest import synthesized
from tests.faults.cases import NoTexts, check, workflow_invokes
from tests.faults.injection import Injector, Kind
from tests.faults.sensors import SensorsWorld, prepared, reuse_clients, tables
from tests.functional.catalog import create_catalog
from tests.functional.etl_cloud import BUCKET, etl_cloud
from tests.functional.test_export_tables import NOON
from tests.functional.test_stores import cutoff, incident, opening

DAYS = ("2026-01-04", "2026-01-05")


def days(database: str, of: list[Table]) -> dict[str, dict[str, str]]:
    """Where the registered days of tables lie."""
    found = {}
    for table in of:
        partitions = boto3.client("glue").get_partitions(DatabaseName=database, TableName=table.name)["Partitions"]
        found[table.name] = {one["Values"][0]: one["StorageDescriptor"]["Location"] for one in partitions}
    return found


class Exporting(NoTexts, SensorsWorld):
    """What a night's training is followed by: two sensors' cutoffs, an incident, and two days of readings."""

    def prepare(self) -> None:
        self.cloud.sensors.put([Sensor("a", "device", {}), Sensor("b", "device", {})], 1)
        self.cloud.cutoffs.put([cutoff(4, "a"), cutoff(5, "a"), cutoff(5, "b")])
        self.cloud.model_events.put("cohort", NOON, {"decision": "promoted"})
        self.cloud.incidents.open(incident(), opening(incident()))

    def run(self) -> None:
        for day in DAYS:
            self.cloud.data.put(f"readings/dt={day}/00-0000.parquet", b"")
        self.set_clock(NOON)
        for given in ({"bucket": 0}, {}):
            workflow_invokes(self.injector, partial(exporting.handler, given, None))

    def outcome(self) -> dict[str, Any]:
        data = self.cloud.data
        copies = {key: hashlib.sha256(data.get(key)).hexdigest() for key in data.keys("tables/")}
        return {"copies": copies, "days": days("overcut_local_sensors", list(TABLES))}


class Registering(NoTexts):
    """Two days were extracted and predicted."""

    def __init__(self, bucket: Bucket, database: str, injector: Injector) -> None:
        self.bucket, self.database, self.injector = bucket, database, injector

    def run(self) -> None:
        for day in DAYS:
            for prefix in ("historical/", "tables/predictions/"):
                self.bucket.put(f"{prefix}dt={day}/part.parquet", b"")
        workflow_invokes(self.injector, lambda: registering.handler({}, None))

    def outcome(self) -> dict[str, Any]:
        return days(self.database, list(ETL_TABLES))


@contextmanager
def export(injector: Injector, patch: pytest.MonkeyPatch) -> Iterator[Exporting]:
    reuse_clients(patch)
    with tables(patch) as (cloud, clock):
        patch.setattr(exporting, "small_clients", lambda *services: boto3.client)
        patch.setenv("DATABASE", create_catalog(boto3.client("glue"), synthesized("local"), cloud.bucket))
        world = Exporting(cloud, clock, injector, patch)
        injector.cold_start = exporting.dependencies.cache_clear
        injector.cold_start()
        prepared("export_tables", injector, world.prepare)
        yield world
        injector.cold_start()


@contextmanager
def register(injector: Injector, patch: pytest.MonkeyPatch) -> Iterator[Registering]:
    reuse_clients(patch)
    with etl_cloud(patch) as cloud:
        patch.setattr(registering, "small_clients", lambda *services: boto3.client)
        database = create_catalog(boto3.client("glue"), synthesized("local", "etl_jobs"), BUCKET)
        for name, value in {"STAGE": "local", "DATA_BUCKET": BUCKET, "DATABASE": database}.items():
            patch.setenv(name, value)
        injector.cold_start = registering.dependencies.cache_clear
        injector.cold_start()
        yield Registering(Bucket(cloud.s3, BUCKET), database, injector)
        injector.cold_start()


@pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.CONFLICT}))
@pytest.mark.parametrize(("function", "make"), [("export_tables", export), ("register_partitions", register)])
def test_the_workflow_tries_again(
    function: str, make: Any, kind: Kind, record_property: Callable[[str, object], None]
) -> None:
    check(function, make, kind, record_property)
