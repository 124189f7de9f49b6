"""cdk-nag's AWS Solutions and cfn-lint find nothing but what is acknowledged, with a reason, where it is made."""

import json
from dataclasses import dataclass, field

import pytest
from aws_cdk import Acknowledgment, App, Stack
from aws_cdk import aws_s3 as s3
from cdk_nag import AwsSolutionsChecks
from cfnlint.api import ManualArgs, lint
from constructs import IConstruct

from stacks.constructs import acknowledgements
from tests.conftest import new_stack, stack_of, synthesized

TEMPLATES = [(stage, pipeline) for stage in ("prod", "local") for pipeline in ("sensors", "etl_jobs")]
EVERY_TEMPLATE = pytest.mark.parametrize(("stage", "pipeline"), TEMPLATES)

# a finding or an acknowledgement: the path of a construct, and the rule
Finding = tuple[str, str]


@dataclass
class Recorded:
    """Stands for CDK's `Validations`: keeps what is acknowledged and tells nobody, so that each finding is found."""

    reasons: dict[Finding, str] = field(default_factory=dict)

    def of(self, construct: IConstruct) -> "Recorded":
        self._path = construct.node.path
        return self

    def acknowledge(self, acknowledged: Acknowledgment) -> None:
        known = self.reasons.get((self._path, acknowledged.id))
        self.reasons[self._path, acknowledged.id] = "; ".join(filter(None, (known, acknowledged.reason)))


def findings(stack: Stack) -> set[Finding]:
    report = AwsSolutionsChecks().validate_scope(stack)
    return {
        (str(resource.construct_path), violation.rule_name)
        for violation in report.violations
        for resource in violation.violating_resources
    }


@pytest.mark.parametrize("pipeline", ["sensors", "etl_jobs"])
def test_nag_is_content_with_prod(pipeline: str) -> None:
    assert findings(stack_of("prod", pipeline)) == set()


@EVERY_TEMPLATE
def test_every_finding_is_acknowledged_and_every_acknowledgement_has_a_finding(
    stage: str, pipeline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded()
    monkeypatch.setattr(acknowledgements, "Validations", recorded)
    found = findings(new_stack(stage, pipeline))
    assert len(found) > 10
    explained = set()
    for (path, rule), reason in recorded.reasons.items():
        assert len(reason.split()) >= 5, f"{path}: {rule} is acknowledged for {reason!r}"
        about = [where for where, what in found if what == rule and f"{where}/".startswith(f"{path}/")]
        assert about, f"{path}: {rule} is acknowledged, and not found"
        assert {where.removeprefix(path) for where in about} <= {"/Resource", "/DefaultPolicy/Resource"}, (
            f"{path}: {rule} is acknowledged for more than one resource: {about}"
        )
        explained |= {(where, rule) for where in about}
    assert found == explained


@EVERY_TEMPLATE
def test_cfn_lint_finds_what_is_acknowledged_and_nothing_else(stage: str, pipeline: str) -> None:
    template = synthesized(stage, pipeline)
    acknowledged = {}
    for name, resource in template["Resources"].items():
        if lint_is_told := resource.get("Metadata", {}).pop("cfn-lint", None):
            assert len(lint_is_told["reason"].split()) >= 5, name
            acknowledged[name] = lint_is_told["config"]["ignore_checks"]
    region = ManualArgs(regions=["eu-central-1" if stage == "prod" else "us-east-1"])
    found: dict[str, list[str]] = {}
    for one in lint(json.dumps(template), config=region):
        found.setdefault(one.path[1], []).append(one.rule.id)
    assert found == acknowledged


def test_a_bucket_that_anybody_reads_is_found() -> None:
    """The checks do look: one rule each of the two, broken."""
    stack = Stack(App(), "open")
    s3.Bucket(stack, "Bucket")
    assert ("open/Bucket/Resource", "AwsSolutions-S10") in findings(stack)
    topic = {"Type": "AWS::SNS::Topic", "Properties": {"Colour": "red"}}
    assert [found.rule.id for found in lint(json.dumps({"Resources": {"Topic": topic}}))] == ["E3002"]
