"""Storage: the tables and the data bucket of the sensors pipeline."""

from collections.abc import Callable

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_s3 as s3
from constructs import Construct

from stacks.stage import CapacityUnits, Stage

# the exporter and a cold detector read the Readings table; both in bursts
READ_UNITS = CapacityUnits(minimum=25, maximum=2_000)
STRING, NUMBER = dynamodb.AttributeType.STRING, dynamodb.AttributeType.NUMBER


class Storage(Construct):
    """Seven tables and a bucket. What they hold is written in `lambdas.sensors.stores`."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage) -> None:
        super().__init__(scope, construct_id)
        self._stage = stage
        writes = stage.sensors.provisioned_writes
        self.readings = self._table(
            "Readings",
            ("sensor_id", STRING),
            ("measured_at", STRING),
            time_to_live_attribute="expires_at",
            stream=dynamodb.StreamViewType.NEW_IMAGE,
            provisioned_writes=writes,
        )
        self.sensors = self._table("Sensors", ("sensor_id", STRING))
        self.sensors.add_global_secondary_index(
            index_name="bucket",
            partition_key=dynamodb.Attribute(name="bucket", type=NUMBER),
            sort_key=dynamodb.Attribute(name="sensor_id", type=STRING),
            projection_type=dynamodb.ProjectionType.KEYS_ONLY,
        )
        self.cutoffs = self._table("Cutoffs", ("sensor_id", STRING), ("trained_at", STRING))
        self.model_events = self._table("ModelEvents", ("model_id", STRING), ("occurred_at", STRING))
        self.incidents = self._table("Incidents", ("sensor_id", STRING), ("opened_at", STRING))
        self.incidents.add_global_secondary_index(
            index_name="attention",
            partition_key=dynamodb.Attribute(name="attention", type=STRING),
            sort_key=dynamodb.Attribute(name="opened_at", type=STRING),
            projection_type=dynamodb.ProjectionType.KEYS_ONLY,
        )
        self.sources = self._table("Sources", ("source_id", STRING))
        self.pending_exports = self._table("PendingExports", ("bucket", NUMBER), ("hour", STRING))
        self.bucket = s3.Bucket(
            self,
            "Data",
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            versioned=stage.keep_data,
            removal_policy=self._removal_policy,
            lifecycle_rules=[
                s3.LifecycleRule(
                    abort_incomplete_multipart_upload_after=Duration.days(7),
                    # an hour that is exported again leaves its older object behind
                    noncurrent_version_expiration=Duration.days(30),
                )
            ],
        )

    @property
    def _removal_policy(self) -> RemovalPolicy:
        return RemovalPolicy.RETAIN if self._stage.keep_data else RemovalPolicy.DESTROY

    def _table(
        self,
        name: str,
        partition_key: tuple[str, dynamodb.AttributeType],
        sort_key: tuple[str, dynamodb.AttributeType] | None = None,
        *,
        time_to_live_attribute: str | None = None,
        stream: dynamodb.StreamViewType | None = None,
        provisioned_writes: CapacityUnits | None = None,
    ) -> dynamodb.Table:
        on_demand, provisioned = dynamodb.BillingMode.PAY_PER_REQUEST, dynamodb.BillingMode.PROVISIONED
        table = dynamodb.Table(
            self,
            name,
            partition_key=dynamodb.Attribute(name=partition_key[0], type=partition_key[1]),
            sort_key=dynamodb.Attribute(name=sort_key[0], type=sort_key[1]) if sort_key else None,
            billing_mode=provisioned if provisioned_writes else on_demand,
            read_capacity=READ_UNITS.minimum if provisioned_writes else None,
            write_capacity=provisioned_writes.minimum if provisioned_writes else None,
            time_to_live_attribute=time_to_live_attribute,
            stream=stream,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=self._stage.keep_data
            ),
            deletion_protection=self._stage.keep_data,
            removal_policy=self._removal_policy,
        )
        if provisioned_writes:
            _scale(table.auto_scale_write_capacity, provisioned_writes)
            _scale(table.auto_scale_read_capacity, READ_UNITS)
        return table


def _scale(auto_scale: Callable[..., dynamodb.IScalableTableAttribute], units: CapacityUnits) -> None:
    attribute = auto_scale(min_capacity=units.minimum, max_capacity=units.maximum)
    attribute.scale_on_utilization(target_utilization_percent=70)
