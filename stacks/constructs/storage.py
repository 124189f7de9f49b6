"""Tables and data buckets, kept or removed with the stack as the stage says."""

from collections.abc import Sequence

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from stacks.constructs.acknowledgements import acknowledge
from stacks.constructs.encryption import own_key
from stacks.constructs.grants import allow
from stacks.stage import Stage

QUERY_RESULTS_PREFIX = "query-results/"
STRING, NUMBER = dynamodb.AttributeType.STRING, dynamodb.AttributeType.NUMBER
Key = tuple[str, dynamodb.AttributeType]


def _removal_policy(stage: Stage) -> RemovalPolicy:
    return RemovalPolicy.RETAIN if stage.keep_data else RemovalPolicy.DESTROY


class DataTable(dynamodb.Table):
    """A table paid by request, unless capacity is provisioned."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        partition_key: Key,
        sort_key: Key | None = None,
        time_to_live_attribute: str | None = None,
        stream: dynamodb.StreamViewType | None = None,
        provisioned: tuple[int, int] | None = None,
    ) -> None:
        """Args:
        provisioned: read and write units, instead of paying by request.
        """
        on_demand = dynamodb.BillingMode.PAY_PER_REQUEST
        super().__init__(
            scope,
            construct_id,
            partition_key=dynamodb.Attribute(name=partition_key[0], type=partition_key[1]),
            sort_key=dynamodb.Attribute(name=sort_key[0], type=sort_key[1]) if sort_key else None,
            billing_mode=dynamodb.BillingMode.PROVISIONED if provisioned else on_demand,
            read_capacity=provisioned[0] if provisioned else None,
            write_capacity=provisioned[1] if provisioned else None,
            time_to_live_attribute=time_to_live_attribute,
            stream=stream,
            encryption=dynamodb.TableEncryption.CUSTOMER_MANAGED if stage.own_key else None,
            encryption_key=own_key(scope, stage),
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=stage.keep_data
            ),
            deletion_protection=stage.keep_data,
            removal_policy=_removal_policy(stage),
        )
        if not stage.keep_data:
            acknowledge(self, "AwsSolutions-DDB3", "a stage that keeps no data has nothing to recover")

    def allow(self, grantee: iam.IGrantable, *actions: str) -> None:
        """Let `grantee` do exactly `actions` with the items; CDK's own grant would be for every index as well."""
        allow(grantee, self.table_arn, *(f"dynamodb:{action}" for action in actions))

    def allow_query_of(self, index: str, grantee: iam.IGrantable) -> None:
        """Let `grantee` query one index."""
        allow(grantee, f"{self.table_arn}/index/{index}", "dynamodb:Query")

    def add_keys_index(self, name: str, partition_key: Key, sort_key: Key) -> None:
        """An index that holds keys only."""
        self.add_global_secondary_index(
            index_name=name,
            partition_key=dynamodb.Attribute(name=partition_key[0], type=partition_key[1]),
            sort_key=dynamodb.Attribute(name=sort_key[0], type=sort_key[1]),
            projection_type=dynamodb.ProjectionType.KEYS_ONLY,
        )


class PipelineBucket(s3.Bucket):
    """A pipeline's own bucket: encrypted, closed, TLS only. Objects of `expiring` prefixes go after a month, and
    results of queries after a week; of `rewritten` ones, which are written every minute, older versions go after a
    day."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        expiring: Sequence[str] = (),
        rewritten: Sequence[str] = (),
    ) -> None:
        super().__init__(
            scope,
            construct_id,
            encryption=s3.BucketEncryption.KMS if stage.own_key else s3.BucketEncryption.S3_MANAGED,
            encryption_key=own_key(scope, stage),
            # one request to KMS an object would cost more than the object
            bucket_key_enabled=stage.own_key or None,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            versioned=stage.keep_data,
            removal_policy=_removal_policy(stage),
            lifecycle_rules=[
                s3.LifecycleRule(
                    abort_incomplete_multipart_upload_after=Duration.days(7),
                    # what is written again leaves its older object behind
                    noncurrent_version_expiration=Duration.days(30),
                ),
                s3.LifecycleRule(prefix=QUERY_RESULTS_PREFIX, expiration=Duration.days(7)),
                *(s3.LifecycleRule(prefix=prefix, expiration=Duration.days(30)) for prefix in expiring),
                *(
                    s3.LifecycleRule(prefix=prefix, noncurrent_version_expiration=Duration.days(1))
                    for prefix in rewritten
                ),
            ],
        )
        acknowledge(
            self,
            "AwsSolutions-S1",
            "this pipeline's roles alone read it; who wants a record of every read has CloudTrail's data events, "
            "which also tell whose it was",
        )
