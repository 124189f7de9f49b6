"""Where the stage says so, the jobs' own network: without a way out, but to what they read and write."""

from collections.abc import Iterable
from typing import cast

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.constructs.acknowledgements import acknowledge
from stacks.constructs.grants import allow
from stacks.stage import Stage

# what SageMaker asks of a job's role: https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html
_OF_INTERFACES = (
    "CreateNetworkInterfacePermission",
    "DeleteNetworkInterface",
    "DeleteNetworkInterfacePermission",
)
_DESCRIBE = ("DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs")


class PrivateNetwork(Construct):
    """Two subnets that have gateway endpoints, which cost nothing, and neither a NAT nor an internet gateway.

    SageMaker pulls a job's image and writes its log by a network of its own:
    https://docs.aws.amazon.com/sagemaker/latest/dg/train-vpc.html
    """

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        self._vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr("10.0.0.0/22"),
            max_azs=2,
            subnet_configuration=[
                ec2.SubnetConfiguration(name="Jobs", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=24)
            ],
            # nothing is in the default group; to empty it, CDK would deploy a function of its own
            restrict_default_security_group=False,
        )
        acknowledge(
            self._vpc, "AwsSolutions-VPC7", "nothing is reached from here but what the endpoints' policies name"
        )
        self._group = ec2.SecurityGroup(
            self, "Jobs", vpc=self._vpc, allow_all_outbound=False, description="Training jobs and Spark"
        )
        self._group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "the gateway endpoints alone have a route")
        # Spark's driver and executors talk to each other
        self._group.add_ingress_rule(self._group, ec2.Port.all_tcp(), "of one job")
        self._group.add_egress_rule(self._group, ec2.Port.all_tcp(), "of one job")
        self._endpoints: dict[str, ec2.GatewayVpcEndpoint] = {}

    @property
    def subnet_ids(self) -> list[str]:
        return [subnet.subnet_id for subnet in self._vpc.isolated_subnets]

    @property
    def security_group_ids(self) -> list[str]:
        return [self._group.security_group_id]

    def lead_to_objects(self, resource_arns: Iterable[str], *actions: str) -> None:
        """Let exactly `actions` with these buckets and objects out of the network."""
        self._lead_to("S3", ec2.GatewayVpcEndpointAwsService.S3, resource_arns, actions)

    def lead_to_tables(self, table_arns: Iterable[str], *actions: str) -> None:
        """Let exactly `actions` with these tables out of the network."""
        self._lead_to("DynamoDb", ec2.GatewayVpcEndpointAwsService.DYNAMODB, table_arns, actions)

    def _lead_to(
        self,
        name: str,
        service: ec2.GatewayVpcEndpointAwsService,
        resource_arns: Iterable[str],
        actions: Iterable[str],
    ) -> None:
        if name not in self._endpoints:
            self._endpoints[name] = self._vpc.add_gateway_endpoint(name, service=service)
        self._endpoints[name].add_to_policy(
            iam.PolicyStatement(
                principals=[iam.AnyPrincipal()],
                actions=list(actions),
                resources=list(resource_arns),
                # nobody carries data out with the keys of another account
                conditions={"StringEquals": {"aws:PrincipalAccount": Stack.of(self).account}},
            )
        )

    def allow_entering(self, role: iam.IRole) -> None:
        """Let SageMaker, in the role of a job, put the job into this network."""
        why = "SageMaker makes the interfaces of a job, and looks for where to put them"
        interfaces = self._arn("network-interface", "*")
        for resource in (*(self._arn("subnet", one) for one in self.subnet_ids), *self._group_arns()):
            allow(role, resource, "ec2:CreateNetworkInterface")
        allow(role, interfaces, "ec2:CreateNetworkInterface", *(f"ec2:{one}" for one in _OF_INTERFACES), why=why)
        allow(role, "*", *(f"ec2:Describe{one}" for one in _DESCRIBE), why=why)

    def _group_arns(self) -> list[str]:
        return [self._arn("security-group", one) for one in self.security_group_ids]

    def _arn(self, kind: str, name: str) -> str:
        return Stack.of(self).format_arn(
            service="ec2", resource=kind, resource_name=name, arn_format=ArnFormat.SLASH_RESOURCE_NAME
        )


def private_network(scope: Construct, stage: Stage) -> PrivateNetwork | None:
    """The stack's network, made when it is first asked for; None where jobs run in AWS's own."""
    if not stage.private_network:
        return None
    stack = Stack.of(scope)
    found = cast(PrivateNetwork | None, stack.node.try_find_child("Network"))
    return found or PrivateNetwork(stack, "Network")
