"""The Glue catalogue: which days a table has, told to whoever asks in SQL.

RetryableError
 └─ CatalogBusyError   Glue did not take some days; the next run registers them
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambdas.runtime.dynamodb import in_batches
from lambdas.runtime.objects import Bucket
from overcut import RetryableError
from overcut.tables import Table

if TYPE_CHECKING:
    from types_boto3_glue import GlueClient

_DAY = "dt="
_PARTITIONS = 100  # the most that BatchCreatePartition takes


class CatalogBusyError(RetryableError):
    """Glue did not take some days."""


@dataclass(frozen=True)
class Catalog:
    """One database of the catalogue, of whose tables the objects lie in one bucket."""

    client: GlueClient
    database: str
    bucket: Bucket

    def register_days(self, table: Table) -> int:
        """Register every day that the table has a folder of and the catalogue does not know; how many.

        A query reads the registered days alone. What a run misses, the next one registers.

        Raises:
            CatalogBusyError: some were not registered.
        """
        days = {name.removeprefix(_DAY) for name in self.bucket.folders(table.prefix) if name.startswith(_DAY)}
        missing = sorted(days - self._registered(table))
        if not missing:
            return 0
        found = self.client.get_table(DatabaseName=self.database, Name=table.name)["Table"]
        descriptor, location = found["StorageDescriptor"], found["StorageDescriptor"]["Location"]
        for some in in_batches(missing, _PARTITIONS):
            answer = self.client.batch_create_partition(
                DatabaseName=self.database,
                TableName=table.name,
                PartitionInputList=[
                    {"Values": [day], "StorageDescriptor": {**descriptor, "Location": f"{location}{_DAY}{day}/"}}
                    for day in some
                ],
            )
            # another run may have been first
            codes = {error["ErrorDetail"]["ErrorCode"] for error in answer.get("Errors", [])}
            if left := codes - {"AlreadyExistsException"}:
                raise CatalogBusyError(f"days of {self.database}.{table.name} were not registered: {sorted(left)}")
        return len(missing)

    def _registered(self, table: Table) -> set[str]:
        pages = self.client.get_paginator("get_partitions").paginate(
            DatabaseName=self.database, TableName=table.name, ExcludeColumnSchema=True
        )
        return {one["Values"][0] for page in pages for one in page["Partitions"]}
