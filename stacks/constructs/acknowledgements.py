"""Findings of cdk-nag and cfn-lint that are to stay, each with its reason, on the resource that they are about.

`tests/infrastructure/test_findings.py` lets none pass without one, and no reason stand without its finding.
"""

from typing import Any, cast

from aws_cdk import Acknowledgment, CfnResource, Stack, Validations
from aws_cdk import aws_iam as iam
from constructs import Construct, IConstruct


def acknowledge(construct: IConstruct, finding: str, reason: str) -> None:
    """Let a finding of cdk-nag stay, such as `AwsSolutions-S1`."""
    Validations.of(construct).acknowledge(Acknowledgment(id=finding, reason=reason))


def acknowledge_wildcard(grantee: iam.IGrantable, resource_arn: str, reason: str) -> None:
    """Let a grantee's role name a resource by a pattern."""
    role = cast(iam.Role, grantee.grant_principal)
    pattern = _as_nag_writes_it(Stack.of(role).resolve(resource_arn))
    acknowledge(role, f"AwsSolutions-IAM5[Resource::{pattern}]", reason)


def acknowledge_lint(construct: Construct, check: str, reason: str) -> None:
    """Let a finding of cfn-lint stay, such as `W3005`."""
    resource = cast(CfnResource, construct.node.default_child)
    resource.add_metadata("cfn-lint", {"config": {"ignore_checks": [check]}, "reason": reason})


def _as_nag_writes_it(arn: Any) -> str:
    match arn:
        case str():
            return arn
        case {"Ref": name}:
            return f"<{name}>"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"<{name}.{attribute}>"
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(_as_nag_writes_it(part) for part in parts)
    raise TypeError(f"unknown intrinsic function: {arn}")
