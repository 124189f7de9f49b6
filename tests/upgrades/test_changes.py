"""An update from any kept release replaces and removes nothing that holds data."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import resources_of, stack_of, synthesized
from tests.upgrades.changes import HOLDS_NOTHING, data_lost
from tests.upgrades.releases import PIPELINES, Release, kept, stack_name

EVERY_STACK = [(stage, pipeline) for stage in ("prod", "local") for pipeline in PIPELINES]


@pytest.mark.parametrize("release", kept(), ids=lambda release: release.folder.name)
@pytest.mark.parametrize(("stage", "pipeline"), EVERY_STACK)
def test_no_data_is_lost(release: Release, stage: str, pipeline: str) -> None:
    assert stack_of(stage, pipeline).stack_name == stack_name(stage, pipeline)
    assert data_lost(release.template(stage, pipeline), synthesized(stage, pipeline)) == []


def test_what_holds_data_is_looked_at() -> None:
    held: Counter[str] = Counter()
    for pipeline in PIPELINES:
        resources = kept()[-1].template("prod", pipeline)["Resources"].values()
        held.update(resource["Type"] for resource in resources if resource["Type"] not in HOLDS_NOTHING)
    assert held["AWS::DynamoDB::Table"] == 8
    assert held["AWS::S3::Bucket"] == 2
    assert held.keys() >= {"AWS::SNS::Topic", "AWS::SNS::Subscription", "AWS::SQS::Queue", "AWS::Logs::LogGroup"}


def table(template: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The logical id of a table, and the table."""
    (name,) = (name for name in resources_of(template, "AWS::DynamoDB::Table") if name.startswith("StorageIncidents"))
    return name, template["Resources"][name]


def other_key(template: dict[str, Any]) -> str:
    table(template)[1]["Properties"]["KeySchema"][1]["AttributeName"] = "closed_at"
    return "KeySchema changes"


def named(template: dict[str, Any]) -> str:
    table(template)[1]["Properties"]["TableName"] = "Incidents"
    return "TableName changes"


def other_logical_id(template: dict[str, Any]) -> str:
    name, _ = table(template)
    template["Resources"]["Incidents"] = template["Resources"].pop(name)
    return "another logical id"


def removed(template: dict[str, Any]) -> str:
    del template["Resources"][table(template)[0]]
    return "is removed"


def other_type(template: dict[str, Any]) -> str:
    table(template)[1]["Type"] = "AWS::DynamoDB::GlobalTable"
    return "becomes AWS::DynamoDB::GlobalTable"


def not_retained(template: dict[str, Any]) -> str:
    table(template)[1]["DeletionPolicy"] = "Delete"
    return "no longer kept: DeletionPolicy"


def two_indexes(template: dict[str, Any]) -> str:
    indexes = table(template)[1]["Properties"]["GlobalSecondaryIndexes"]
    indexes += [{**indexes[0], "IndexName": name} for name in ("by_site", "by_kind")]
    return "['by_kind', 'by_site']"


def topic_of_a_subscription(template: dict[str, Any]) -> str:
    (subscription,) = resources_of(template, "AWS::SNS::Subscription").values()
    topic = template["Resources"].pop(subscription["TopicArn"]["Ref"])
    template["Resources"]["Texts"] = topic
    return "TopicArn names"


@pytest.mark.parametrize(
    "change",
    [other_key, named, other_logical_id, removed, other_type, not_retained, two_indexes, topic_of_a_subscription],
)
def test_a_loss_is_reported(change: Callable[[dict[str, Any]], str]) -> None:
    changed = synthesized("prod")
    reason = change(changed)
    lost = data_lost(synthesized("prod"), changed)
    assert reason in " ".join(lost)


def test_what_loses_nothing_is_not_reported() -> None:
    changed = synthesized("prod")
    properties = table(changed)[1]["Properties"]
    properties["GlobalSecondaryIndexes"].append({**properties["GlobalSecondaryIndexes"][0], "IndexName": "by_site"})
    (queue,) = resources_of(changed, "AWS::SQS::Queue").values()
    queue["MessageRetentionPeriod"] = 3600
    for function in resources_of(changed, "AWS::Lambda::Function").values():
        function["Timeout"] = 17
    assert data_lost(synthesized("prod"), changed) == []
