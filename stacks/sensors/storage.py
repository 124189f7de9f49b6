"""Storage: the tables and the data bucket of the sensors pipeline."""

from collections.abc import Callable

from aws_cdk import aws_dynamodb as dynamodb
from constructs import Construct

from stacks.constructs.storage import NUMBER, STRING, DataTable, Key, PipelineBucket
from stacks.stage import CapacityUnits, SensorsStage

# the exporter and a cold detector read the Readings table; both in bursts
READ_UNITS = CapacityUnits(minimum=25, maximum=2_000)
# a reading a minute of each sensor is the same at any hour, and DynamoDB keeps five minutes of what was not used
UTILIZATION_PERCENT = 90


class Storage(Construct):
    """Seven tables and a bucket. What they hold is written in `lambdas.sensors.stores`."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: SensorsStage) -> None:
        super().__init__(scope, construct_id)
        self._stage = stage
        self.readings = self._readings()
        self.sensors = self._table("Sensors", ("sensor_id", STRING))
        self.sensors.add_keys_index("bucket", ("bucket", NUMBER), ("sensor_id", STRING))
        self.cutoffs = self._table("Cutoffs", ("sensor_id", STRING), ("trained_at", STRING))
        self.model_events = self._table("ModelEvents", ("model_id", STRING), ("occurred_at", STRING))
        # of what it holds, links to incidents expire
        self.incidents = self._table("Incidents", ("sensor_id", STRING), ("opened_at", STRING), expires="expires_at")
        self.incidents.add_keys_index("attention", ("attention", STRING), ("opened_at", STRING))
        self.sources = self._table("Sources", ("source_id", STRING))
        self.pending_exports = self._table("PendingExports", ("bucket", NUMBER), ("hour", STRING))
        self.bucket = PipelineBucket(self, "Data", stage=stage, rewritten=["seen/"])

    def _table(
        self, name: str, partition_key: Key, sort_key: Key | None = None, expires: str | None = None
    ) -> DataTable:
        return DataTable(
            self,
            name,
            stage=self._stage,
            partition_key=partition_key,
            sort_key=sort_key,
            time_to_live_attribute=expires,
        )

    def _readings(self) -> DataTable:
        writes = self._stage.sensors.provisioned_writes
        table = DataTable(
            self,
            "Readings",
            stage=self._stage,
            partition_key=("sensor_id", STRING),
            sort_key=("measured_at", STRING),
            time_to_live_attribute="expires_at",
            stream=dynamodb.StreamViewType.NEW_IMAGE,
            provisioned=(READ_UNITS.minimum, writes.minimum) if writes else None,
        )
        if writes:
            _scale(table.auto_scale_write_capacity, writes)
            _scale(table.auto_scale_read_capacity, READ_UNITS)
        return table


def _scale(auto_scale: Callable[..., dynamodb.IScalableTableAttribute], units: CapacityUnits) -> None:
    attribute = auto_scale(min_capacity=units.minimum, max_capacity=units.maximum)
    attribute.scale_on_utilization(target_utilization_percent=UTILIZATION_PERCENT)
