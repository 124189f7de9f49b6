"""A change set of two templates: which resources an update would remove, replace or leave without their data.

CloudFormation replaces a resource when a property changes that its type cannot update. Which those are is told by the
type's schema (`createOnlyProperties`, and `conditionalCreateOnlyProperties`, which count here too): cfn-lint brings
AWS's own schemas. https://docs.aws.amazon.com/cloudformation-cli/latest/userguide/resource-type-schema.html
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

# whatever else is in a stack is taken to hold data
HOLDS_NOTHING = {
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::CDK::Metadata",
    "AWS::CloudWatch::Alarm",
    "AWS::EMRServerless::Application",
    "AWS::Events::Rule",
    "AWS::IAM::Policy",
    "AWS::IAM::Role",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::Function",
    "AWS::Lambda::Permission",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::StepFunctions::StateMachine",
}
Template = Mapping[str, Any]


def data_lost(old: Template, new: Template) -> list[str]:
    """What of the data in a stack of `old` an update to `new` would lose, or where it would stop: a line each."""
    return list(_data_lost(old["Resources"], new["Resources"]))


def _data_lost(old: Template, new: Template) -> Iterator[str]:
    replaced = _replaced(old, new)
    for name, before in old.items():
        if before["Type"] in HOLDS_NOTHING:
            continue
        if name not in new:
            yield f"{name} ({before['Type']}) is removed, or has another logical id"
        elif name in replaced:
            yield f"{name} ({before['Type']}) is replaced: {replaced[name]}"
        else:
            after = new[name]
            for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
                if before.get(policy) == "Retain" != after.get(policy):
                    yield f"{name} ({before['Type']}) is no longer kept: {policy}"
            changed = _indexes(before) ^ _indexes(after)
            if len(changed) > 1:  # https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/
                yield f"{name}: CloudFormation makes or deletes one index an update, these are {sorted(changed)}"


def _replaced(old: Template, new: Template) -> dict[str, str]:
    """Resources of both that would be made anew, each with the reason; what names one of them may be, too."""
    replaced: dict[str, str] = {}
    while True:
        anew = replaced.keys() | (old.keys() ^ new.keys())
        found = {
            name: reason
            for name in old.keys() & new.keys() - replaced.keys()
            if (reason := next(_reasons(old[name], new[name], anew), None))
        }
        if not found:
            return replaced
        replaced |= found


def _reasons(before: Template, after: Template, anew: set[str]) -> Iterator[str]:
    if before["Type"] != after["Type"]:
        yield f"it becomes {after['Type']}"
        return
    for path in _fixed_properties(before["Type"]):
        was, becomes = (_at(resource.get("Properties", {}), path) for resource in (before, after))
        if was != becomes:
            yield f"{'.'.join(path)} changes"
        elif named := anew.intersection(_texts(becomes)):
            yield f"{'.'.join(path)} names {sorted(named)}"


def _fixed_properties(kind: str) -> list[list[str]]:
    """The paths of the properties that a type cannot update."""
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    pointers = [*schema.get("createOnlyProperties", []), *schema.get("conditionalCreateOnlyProperties", [])]
    return [pointer.removeprefix("/properties/").split("/") for pointer in pointers]


def _at(properties: Any, path: list[str]) -> Any:
    for key in path:
        properties = properties.get(key) if isinstance(properties, Mapping) else None
    return properties


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value; of a `Ref` and a `Fn::GetAtt` it is a logical id."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _indexes(table: Template) -> set[str]:
    return {index["IndexName"] for index in table.get("Properties", {}).get("GlobalSecondaryIndexes", ())}
