"""A stage with `private_network`: jobs run where nothing leads out but to what their roles may reach."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from aws_cdk import Stack
from aws_cdk.assertions import Template
from cfnlint.api import ManualArgs, lint

from tests.conftest import ROOT, new_stack, resources_of, synthesized
from tests.infrastructure.templates import ACCOUNT, as_list, permissions, text
from tests.infrastructure.test_findings import findings

PIPELINES = ["sensors", "etl_jobs"]
EC2 = f"arn:aws:ec2:eu-central-1:{ACCOUNT}"
# with what it does not matter which: https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html
LOOK = {f"ec2:Describe{one}" for one in ("DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs")}
ENTER = {
    "ec2:CreateNetworkInterface",
    "ec2:CreateNetworkInterfacePermission",
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteNetworkInterfacePermission",
}
# the network, as text() names it
SUBNETS = {f"NetworkVpcJobsSubnet{number}Subnet" for number in (1, 2)}
GROUP = "NetworkJobs.GroupId"


@dataclass(frozen=True)
class Private:
    """A pipeline of prod, in a network of its own."""

    pipeline: str
    stack: Stack
    template: dict[str, Any]


@pytest.fixture(scope="module", params=PIPELINES)
def private(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Private:
    file = tmp_path_factory.mktemp("stage") / "private.toml"
    file.write_text(f"private_network = true\n{(ROOT / 'config/prod.toml').read_text()}")
    stack = new_stack(str(file), request.param)
    return Private(request.param, stack, dict(Template.from_stack(stack).to_json()))


def test_nothing_leads_to_the_internet(private: Private) -> None:
    kinds = {resource["Type"] for resource in private.template["Resources"].values()}
    assert {kind for kind in kinds if kind.startswith("AWS::EC2::")} == {
        "AWS::EC2::RouteTable",
        "AWS::EC2::SecurityGroup",
        "AWS::EC2::SecurityGroupEgress",
        "AWS::EC2::SecurityGroupIngress",
        "AWS::EC2::Subnet",
        "AWS::EC2::SubnetRouteTableAssociation",
        "AWS::EC2::VPC",
        "AWS::EC2::VPCEndpoint",
    }
    assert "Custom::VpcRestrictDefaultSG" not in kinds
    assert not any(
        subnet["MapPublicIpOnLaunch"] for subnet in resources_of(private.template, "AWS::EC2::Subnet").values()
    )
    for endpoint in resources_of(private.template, "AWS::EC2::VPCEndpoint").values():
        assert endpoint["VpcEndpointType"] == "Gateway", "others cost by the hour"
        assert len(endpoint["RouteTableIds"]) == 2


def test_only_members_of_the_group_are_let_in(private: Private) -> None:
    (group,) = resources_of(private.template, "AWS::EC2::SecurityGroup").values()
    assert "SecurityGroupIngress" not in group
    assert [(one["CidrIp"], one["FromPort"], one["ToPort"]) for one in group["SecurityGroupEgress"]] == [
        ("0.0.0.0/0", 443, 443)
    ]
    for kind, other_end in (("Ingress", "SourceSecurityGroupId"), ("Egress", "DestinationSecurityGroupId")):
        (rule,) = resources_of(private.template, f"AWS::EC2::SecurityGroup{kind}").values()
        assert text(rule["GroupId"]) == text(rule[other_end]) == GROUP


def test_every_job_runs_in_it(private: Private) -> None:
    states = "".join(
        text(machine["DefinitionString"])
        for machine in resources_of(private.template, "AWS::StepFunctions::StateMachine").values()
    )
    where = f'"VpcConfig":{{"SecurityGroupIds":["{GROUP}"],"Subnets":{json.dumps(sorted(SUBNETS))}}}'
    assert states.count("sagemaker:createTrainingJob") == states.count(where.replace(", ", ",")) == 1
    for application in resources_of(private.template, "AWS::EMRServerless::Application").values():
        network = application["NetworkConfiguration"]
        assert {text(one) for one in network["SubnetIds"]} == SUBNETS
        assert [text(one) for one in network["SecurityGroupIds"]] == [GROUP]


def test_its_endpoints_lead_where_the_jobs_roles_may_go_and_nowhere_else(private: Private) -> None:
    roles = permissions(private.template)
    wanted = {
        (action, resource)
        for role in ("TrainingJobRole", "ExtractionRole")
        for resource, actions in roles.get(role, {}).items()
        for action in actions
        if action.startswith(("s3:", "dynamodb:"))
    }
    led: set[tuple[str, str]] = set()
    for endpoint in resources_of(private.template, "AWS::EC2::VPCEndpoint").values():
        for statement in endpoint["PolicyDocument"]["Statement"]:
            assert statement["Effect"] == "Allow"
            assert statement["Condition"] == {"StringEquals": {"aws:PrincipalAccount": {"Ref": "AWS::AccountId"}}}
            led |= {
                (action, text(resource))
                for action in as_list(statement["Action"])
                for resource in as_list(statement["Resource"])
            }
    bucket = ("StorageData", "StorageData/*")
    assert {(action, _whole(resource)) for action, resource in wanted} <= led
    assert {action for action, _ in led} == {action for action, _ in wanted}
    assert {resource for _, resource in led} - {_whole(resource) for _, resource in wanted} <= set(bucket)


def _whole(resource: str) -> str:
    """The pipeline's own bucket is reached as a whole."""
    return "StorageData/*" if resource.startswith("StorageData/") else resource


def test_only_the_training_job_s_role_may_use_it(private: Private) -> None:
    before = permissions(synthesized("prod", private.pipeline))
    for role, granted in permissions(private.template).items():
        more = {resource: actions for resource, actions in granted.items() if any("ec2:" in one for one in actions)}
        if role == "TrainingJobRole":
            assert {resource: {one for one in actions if "ec2:" in one} for resource, actions in more.items()} == {
                **{f"{EC2}:subnet/{subnet}": {"ec2:CreateNetworkInterface"} for subnet in SUBNETS},
                f"{EC2}:security-group/{GROUP}": {"ec2:CreateNetworkInterface"},
                f"{EC2}:network-interface/*": ENTER,
                "*": LOOK,
            }
        else:
            assert more == {}, role
            # a catalogue's name has the stage's in it
            as_in_prod = {resource.replace("overcut_private_", "overcut_prod_") for resource in granted}
            assert as_in_prod == before[role].keys(), role


def test_nag_and_lint_find_nothing(private: Private) -> None:
    assert findings(private.stack) == set()
    found = lint(json.dumps(private.template), config=ManualArgs(regions=["eu-central-1"]))
    assert [str(one) for one in found] == []
