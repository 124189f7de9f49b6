"""What holds data: encrypted, closed and traced in every stage, with a key of the account's own where it says so."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aws_cdk.assertions import Template
from cfnlint.api import ManualArgs, lint

from tests.conftest import ROOT, new_stack, resources_of, synthesized
from tests.infrastructure.templates import permissions, text
from tests.infrastructure.test_findings import findings

PIPELINES = ["sensors", "etl_jobs"]
EVERY_TEMPLATE = pytest.mark.parametrize(
    ("stage", "pipeline"), [(stage, pipeline) for stage in ("prod", "dev", "local") for pipeline in PIPELINES]
)
CLOSED = {"BlockPublicAcls": True, "BlockPublicPolicy": True, "IgnorePublicAcls": True, "RestrictPublicBuckets": True}
# what keeps data of its own, and the property that says how it is encrypted; a table without it has AWS's own key
ENCRYPTED_BY = {
    "AWS::Athena::WorkGroup": "WorkGroupConfiguration",
    "AWS::DynamoDB::Table": "SSESpecification",
    "AWS::S3::Bucket": "BucketEncryption",
    "AWS::SQS::Queue": "KmsMasterKeyId",
    "AWS::SNS::Topic": "KmsMasterKeyId",
    "AWS::Logs::LogGroup": "KmsKeyId",
    "AWS::Lambda::Function": "KmsKeyArn",
}
KEEP_NOTHING = {
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::Athena::NamedQuery",
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::Dashboard",
    "AWS::EMRServerless::Application",
    "AWS::Events::Rule",
    # names of columns and folders
    "AWS::Glue::Database",
    "AWS::Glue::Table",
    "AWS::IAM::Policy",
    "AWS::IAM::Role",
    "AWS::KMS::Key",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::EventSourceMapping",
    "AWS::Lambda::Permission",
    "AWS::Lambda::Url",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::StepFunctions::StateMachine",
}
USE_OF_A_KEY = {
    f"kms:{action}"
    for action in ("Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey", "ReEncryptFrom", "ReEncryptTo")
}


@EVERY_TEMPLATE
def test_every_function_has_a_role_of_its_own_and_is_traced(stage: str, pipeline: str) -> None:
    template = synthesized(stage, pipeline)
    functions = resources_of(template, "AWS::Lambda::Function")
    assert len({text(function["Role"]) for function in functions.values()}) == len(functions) > 1
    assert {name: function["TracingConfig"] for name, function in functions.items()} == {
        name: {"Mode": "Active"} for name in functions
    }
    machines = resources_of(template, "AWS::StepFunctions::StateMachine")
    assert len({text(machine["RoleArn"]) for machine in machines.values()}) == len(machines) > 1
    assert all(machine["TracingConfiguration"] == {"Enabled": True} for machine in machines.values())


@EVERY_TEMPLATE
def test_buckets_are_closed_and_nothing_is_kept_in_the_clear(stage: str, pipeline: str) -> None:
    template = synthesized(stage, pipeline)
    buckets = resources_of(template, "AWS::S3::Bucket").values()
    assert [bucket["PublicAccessBlockConfiguration"] for bucket in buckets] == [CLOSED]
    assert [bucket["BucketEncryption"] for bucket in buckets] == [_encrypted_with({"SSEAlgorithm": "AES256"})]
    assert all(queue["SqsManagedSseEnabled"] is True for queue in resources_of(template, "AWS::SQS::Queue").values())
    for group in resources_of(template, "AWS::Athena::WorkGroup").values():
        configured = group["WorkGroupConfiguration"]
        assert configured["EnforceWorkGroupConfiguration"] is True, "or who asks says where answers are kept, and how"
        assert configured["ResultConfiguration"]["EncryptionConfiguration"] == {"EncryptionOption": "SSE_S3"}
    for table in resources_of(template, "AWS::DynamoDB::Table").values():
        assert "SSESpecification" not in table, "DynamoDB's own key, which costs nothing"


@EVERY_TEMPLATE
def test_there_is_nothing_that_keeps_data_and_is_not_looked_at_here(stage: str, pipeline: str) -> None:
    kinds = {resource["Type"] for resource in synthesized(stage, pipeline)["Resources"].values()}
    assert kinds - KEEP_NOTHING - ENCRYPTED_BY.keys() == set()


def _encrypted_with(algorithm: Mapping[str, Any], **more: bool) -> dict[str, Any]:
    return {"ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": algorithm, **more}]}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_stage_may_own_the_key_of_all_it_keeps(tmp_path: Path, pipeline: str) -> None:
    file = tmp_path / "owned.toml"
    file.write_text(f"own_key = true\n{(ROOT / 'config/prod.toml').read_text()}")
    stack = new_stack(str(file), pipeline)
    template = Template.from_stack(stack).to_json()
    ((key_id, key),) = resources_of(template, "AWS::KMS::Key").items()
    assert key["EnableKeyRotation"] is True
    assert template["Resources"][key_id]["DeletionPolicy"] == "Retain", "what is kept cannot be read without it"
    its_arn = {"Fn::GetAtt": [key_id, "Arn"]}
    of_results = {"EncryptionOption": "SSE_KMS", "KmsKey": its_arn}
    for group in resources_of(template, "AWS::Athena::WorkGroup").values():
        assert group["WorkGroupConfiguration"]["ResultConfiguration"]["EncryptionConfiguration"] == of_results
    expected = {
        "AWS::DynamoDB::Table": {"KMSMasterKeyId": its_arn, "SSEEnabled": True, "SSEType": "KMS"},
        "AWS::S3::Bucket": _encrypted_with(
            {"KMSMasterKeyID": its_arn, "SSEAlgorithm": "aws:kms"}, BucketKeyEnabled=True
        ),
    }
    for kind, named in ENCRYPTED_BY.items() - {("AWS::Athena::WorkGroup", "WorkGroupConfiguration")}:
        for name, properties in resources_of(template, kind).items():
            assert properties[named] == expected.get(kind, its_arn), name

    of_services = [name for name in permissions(template) if name.endswith("EventsRole")]
    for role, granted in permissions(template).items():
        assert granted.get("Key", set()) == (set() if role in of_services else USE_OF_A_KEY), role
    principals = {
        principal: statement.get("Condition", {}).keys()
        for statement in key["KeyPolicy"]["Statement"]
        for principal in [statement["Principal"].get("Service") or "the account"]
    }
    assert principals == {
        "the account": set(),
        "logs.eu-central-1.amazonaws.com": {"ArnLike"},
        "cloudwatch.amazonaws.com": {"StringEquals"},
    }
    assert findings(stack) == set()
    found = lint(json.dumps(template), config=ManualArgs(regions=["eu-central-1"]))
    assert [str(one) for one in found] == []
