"""Reading a synthesized template: its texts with their references resolved, and who may do what."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from tests.conftest import logical_name, resources_of

ACCOUNT = "123456789012"
_PSEUDO = {"AWS::Partition": "aws", "AWS::AccountId": ACCOUNT, "AWS::URLSuffix": "amazonaws.com"}

# resource -> actions
Permissions = dict[str, set[str]]


def text(value: Any) -> str:
    """A template's text; what it refers to stands there by logical name, a role as an ARN."""
    match value:
        case str():
            return value
        case {"Ref": name}:
            return _PSEUDO.get(name) or logical_name(name)
        case {"Fn::GetAtt": [name, attribute]}:
            name = logical_name(name)
            if name.endswith("Role"):
                return f"arn:aws:iam::{ACCOUNT}:role/{name}"
            return name if attribute == "Arn" else f"{name}.{attribute}"
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(text(part) for part in parts)
        case {"Fn::Sub": str(pattern)}:
            for name, known in _PSEUDO.items():
                pattern = pattern.replace(f"${{{name}}}", known)
            return pattern
    raise AssertionError(f"unknown intrinsic function: {value}")


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def functions_of(template: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The properties of the template's functions by folder: `sensors.poll_readings`."""
    return {
        properties["Handler"].removeprefix("lambdas.").removesuffix(".handler.handler"): properties
        for properties in resources_of(template, "AWS::Lambda::Function").values()
    }


def identity_statements(template: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each statement of each role's policies, with the role's logical id."""
    for policy in resources_of(template, "AWS::IAM::Policy").values():
        for role in policy["Roles"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                yield role["Ref"], statement


def resource_statements(template: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each statement of the policies of buckets, queues and topics, with what it is about."""
    for kind in ("AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy"):
        for policy in resources_of(template, kind).values():
            for about in policy.get("Topics") or policy.get("Queues") or [policy["Bucket"]]:
                for statement in policy["PolicyDocument"]["Statement"]:
                    yield about["Ref"], statement


def permissions(template: Mapping[str, Any]) -> dict[str, Permissions]:
    """What each role may do, by the roles' logical names."""
    found: dict[str, Permissions] = {
        logical_name(role): defaultdict(set) for role in resources_of(template, "AWS::IAM::Role")
    }
    for role, statement in identity_statements(template):
        assert statement["Effect"] == "Allow"
        for resource in as_list(statement["Resource"]):
            found[logical_name(role)][text(resource)].update(as_list(statement["Action"]))
    return found
