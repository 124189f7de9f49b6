"""Grants by name. CDK's own for buckets, assets, queues and secrets give more than is asked for, some by wildcard."""

import jsii
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3

from stacks.constructs.acknowledgements import acknowledge_wildcard


def allow(grantee: iam.IGrantable, resource_arn: str, *actions: str, why: str = "") -> None:
    """Let `grantee` do exactly `actions` with one resource.

    Args:
        why: where the ARN is a pattern, why no resource can be named.
    """
    iam.Grant.add_to_principal(grantee=grantee, actions=list(actions), resource_arns=[resource_arn])
    if why:
        acknowledge_wildcard(grantee, resource_arn, why)


def allow_objects(grantee: iam.IGrantable, bucket: s3.IBucket, prefix: str, *actions: str) -> None:
    """Let `grantee` do exactly `actions` with the objects whose keys begin with `prefix`."""
    why = f"objects below {prefix} only: their keys are made of days, buckets and versions, and are not known here"
    allow(grantee, bucket.arn_for_objects(f"{prefix}*"), *actions, why=why)


@jsii.implements(lambda_.IEventSourceDlq)
class FailuresToBucket:
    """Where a stream's records go that a function could not process: `aws/lambda/` of a bucket.

    The two actions are all that Lambda asks for; CDK's `S3OnFailureDestination` lets the function read and delete
    everything in the bucket. https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-errors.html
    """

    def __init__(self, bucket: s3.IBucket) -> None:
        self._bucket = bucket

    def bind(
        self, target: lambda_.IEventSourceMapping, target_handler: lambda_.IFunction
    ) -> lambda_.DlqDestinationConfig:
        allow_objects(target_handler, self._bucket, "aws/lambda/", "s3:PutObject")
        allow(target_handler, self._bucket.bucket_arn, "s3:ListBucket")
        return lambda_.DlqDestinationConfig(destination=self._bucket.bucket_arn)
