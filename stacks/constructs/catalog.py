"""A pipeline in SQL: a Glue database of its Parquet, views, an Athena workgroup, and the questions people ask."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aws_cdk import Stack
from aws_cdk import aws_athena as athena
from aws_cdk import aws_glue as glue
from aws_cdk import aws_iam as iam
from constructs import Construct

from overcut.tables import Table
from stacks.constructs.encryption import own_key
from stacks.constructs.grants import allow
from stacks.constructs.storage import QUERY_RESULTS_PREFIX, PipelineBucket
from stacks.stage import Stage

# Athena asks 5 dollars for a terabyte: a query that would cost more than half a dollar is stopped
MOST_SCANNED = 100 * 10**9
_PARQUET = "org.apache.hadoop.hive.ql.io.parquet"
_PARTITION = glue.CfnTable.ColumnProperty(name="dt", type="date", comment="the day, UTC")
# Hive's types as Trino, which Athena is, calls them
_TRINO = {"string": "varchar", "int": "integer", "timestamp": "timestamp(3)"}


@dataclass(frozen=True)
class View:
    """A view, whose SELECT is in `views/<name>.sql` of its pipeline.

    Attributes:
        columns: type by name, as Hive spells it; `tests` hold that they are what the SELECT gives.
    """

    name: str
    about: str
    columns: Mapping[str, str]


class Catalog(Construct):
    """The database `overcut_<stage>_<pipeline>` and the workgroup `overcut-<stage>-<pipeline>`.

    Days are registered by a function, never by a crawler or by projection, which Redshift Spectrum does not see.

    Args:
        folder: of the pipeline's stack: `views/` and `queries/` are in it.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        pipeline: str,
        bucket: PipelineBucket,
        tables: Sequence[Table],
        views: Sequence[View],
        folder: Path,
    ) -> None:
        super().__init__(scope, construct_id)
        self._bucket = bucket
        self.database_name = f"overcut_{stage.name.replace('-', '_')}_{pipeline}"
        self.database = glue.CfnDatabase(
            self,
            "Database",
            catalog_id=Stack.of(self).account,
            database_input=glue.CfnDatabase.DatabaseInputProperty(
                name=self.database_name, description=f"Overcut, {pipeline}, stage {stage.name}"
            ),
        )
        self._days = [table for table in tables if table.by_day]
        for table in tables:
            self._table(table)
        for view in views:
            self._view(view, (folder / "views" / f"{view.name}.sql").read_text())
        self.work_group = self._work_group(f"overcut-{stage.name}-{pipeline.replace('_', '-')}", stage)
        for file in sorted((folder / "queries").glob("*.sql")):
            self._named_query(file)

    def allow_registering(self, grantee: iam.IGrantable) -> None:
        """Let `grantee` register days of the tables that have some.

        https://docs.aws.amazon.com/glue/latest/dg/glue-specifying-resource-arns.html
        """
        stack = Stack.of(self)
        names = ["catalog", f"database/{self.database_name}"]
        names += [f"table/{self.database_name}/{table.name}" for table in self._days]
        for name in names:
            arn = f"arn:{stack.partition}:glue:{stack.region}:{stack.account}:{name}"
            allow(grantee, arn, "glue:BatchCreatePartition", "glue:GetPartitions", "glue:GetTable")

    def _table(self, table: Table) -> None:
        self._catalogued(
            table.name,
            glue.CfnTable.TableInputProperty(
                name=table.name,
                description=table.about,
                table_type="EXTERNAL_TABLE",
                parameters={"EXTERNAL": "TRUE", "classification": "parquet"},
                partition_keys=[_PARTITION] if table.by_day else [],
                storage_descriptor=glue.CfnTable.StorageDescriptorProperty(
                    columns=_columns(table.columns),
                    location=self._bucket.s3_url_for_object(table.prefix),
                    input_format=f"{_PARQUET}.MapredParquetInputFormat",
                    output_format=f"{_PARQUET}.MapredParquetOutputFormat",
                    serde_info=glue.CfnTable.SerdeInfoProperty(
                        serialization_library=f"{_PARQUET}.serde.ParquetHiveSerDe"
                    ),
                ),
            ),
        )

    def _view(self, view: View, select: str) -> None:
        """A view as Athena itself keeps one: https://trino.io/docs/current/connector/hive.html"""
        columns = [{"name": name, "type": _TRINO.get(kind, kind)} for name, kind in view.columns.items()]
        told = {
            "originalSql": select.strip(),
            "catalog": "awsdatacatalog",
            "schema": self.database_name,
            "columns": columns,
        }
        self._catalogued(
            view.name,
            glue.CfnTable.TableInputProperty(
                name=view.name,
                description=view.about,
                table_type="VIRTUAL_VIEW",
                parameters={"presto_view": "true", "comment": "Presto View"},
                partition_keys=[],
                view_original_text=f"/* Presto View: {base64.b64encode(json.dumps(told).encode()).decode()} */",
                view_expanded_text="/* Presto View */",
                storage_descriptor=glue.CfnTable.StorageDescriptorProperty(
                    columns=_columns(view.columns), location="", serde_info=glue.CfnTable.SerdeInfoProperty()
                ),
            ),
        )

    def _catalogued(self, name: str, table_input: glue.CfnTable.TableInputProperty) -> None:
        made = glue.CfnTable(
            self,
            _identifier(name),
            catalog_id=Stack.of(self).account,
            database_name=self.database_name,
            table_input=table_input,
        )
        made.add_resource_dependency(self.database)

    def _work_group(self, name: str, stage: Stage) -> athena.CfnWorkGroup:
        key = own_key(self, stage)
        encrypted = athena.CfnWorkGroup.EncryptionConfigurationProperty(
            encryption_option="SSE_KMS" if key else "SSE_S3", kms_key=key.key_arn if key else None
        )
        return athena.CfnWorkGroup(
            self,
            "WorkGroup",
            name=name,
            description=f"Questions about {self.database_name}",
            # of the history and of questions that people keep in it
            recursive_delete_option=True,
            work_group_configuration=athena.CfnWorkGroup.WorkGroupConfigurationProperty(
                enforce_work_group_configuration=True,
                publish_cloud_watch_metrics_enabled=True,
                bytes_scanned_cutoff_per_query=MOST_SCANNED,
                engine_version=athena.CfnWorkGroup.EngineVersionProperty(
                    selected_engine_version="Athena engine version 3"
                ),
                result_configuration=athena.CfnWorkGroup.ResultConfigurationProperty(
                    output_location=self._bucket.s3_url_for_object(QUERY_RESULTS_PREFIX),
                    encryption_configuration=encrypted,
                ),
            ),
        )

    def _named_query(self, file: Path) -> None:
        """Its first line is what it answers, as a comment."""
        text = file.read_text().strip()
        made = athena.CfnNamedQuery(
            self,
            f"Ask{_identifier(file.stem)}",
            name=file.stem,
            description=text.partition("\n")[0].removeprefix("-- "),
            database=self.database_name,
            work_group=self.work_group.name,
            query_string=text,
        )
        made.add_resource_dependency(self.work_group)


def _columns(columns: Mapping[str, str]) -> list[glue.CfnTable.ColumnProperty]:
    return [glue.CfnTable.ColumnProperty(name=name, type=kind) for name, kind in columns.items()]


def _identifier(name: str) -> str:
    return "".join(map(str.capitalize, name.split("_")))
