"""Encryption at rest: AWS's own keys, or, where the stage says so, one key of the stack that the account owns."""

from typing import cast

from aws_cdk import ArnFormat, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from stacks.constructs.grants import allow
from stacks.stage import Stage

# what DynamoDB, S3, SNS and SQS ask of a key in the name of who uses them:
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html
_USE = ("Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey", "ReEncryptFrom", "ReEncryptTo")


def own_key(scope: Construct, stage: Stage) -> kms.Key | None:
    """The stack's own key, made when it is first asked for; None where AWS's keys are used."""
    if not stage.own_key:
        return None
    stack = Stack.of(scope)
    return cast(kms.Key | None, stack.node.try_find_child("Key")) or _new_key(stack, stage)


def allow_own_key(grantee: iam.IGrantable, scope: Construct, stage: Stage) -> None:
    """Let `grantee` read and write what is encrypted with the stack's own key."""
    if key := own_key(scope, stage):
        allow(grantee, key.key_arn, *(f"kms:{action}" for action in _USE))


def _new_key(stack: Stack, stage: Stage) -> kms.Key:
    key = kms.Key(
        stack,
        "Key",
        description=f"What {stack.stack_name} keeps",
        enable_key_rotation=True,
        # what is kept cannot be read without it
        removal_policy=RemovalPolicy.RETAIN if stage.keep_data else RemovalPolicy.DESTROY,
    )
    for service, conditions in (
        (f"logs.{stage.region}.amazonaws.com", {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": _log_groups(stack)}}),
        ("cloudwatch.amazonaws.com", {"StringEquals": {"aws:SourceAccount": stack.account}}),
    ):
        key.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal(service)],
                actions=[f"kms:{action}" for action in _USE],
                # in a key's policy, this key
                resources=["*"],
                conditions=conditions,
            )
        )
    return key


def _log_groups(stack: Stack) -> str:
    return stack.format_arn(
        service="logs", resource="log-group", resource_name="*", arn_format=ArnFormat.COLON_RESOURCE_NAME
    )
