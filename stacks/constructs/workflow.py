"""One of the project's Step Functions workflows."""

from collections.abc import Mapping

from aws_cdk import ArnFormat, Duration, Stack
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from stacks.constructs.acknowledgements import acknowledge_lint, acknowledge_wildcard
from stacks.constructs.encryption import allow_own_key
from stacks.constructs.function import DEPENDS_ON_ITS_ROLE, log_group
from stacks.constructs.grants import allow
from stacks.constructs.operations import Operations
from stacks.stage import Stage


class Workflow(sfn.StateMachine):
    """A traced workflow with a log of its own, whose failure tells the people who run it."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        definition: sfn.IChainable,
        timeout: Duration,
        operations: Operations,
        failure: str,
    ) -> None:
        """Args:
        failure: what a failed execution means, in words for the alarm.
        """
        logs_to = log_group(scope, f"{construct_id}Logs", stage)
        super().__init__(
            scope,
            construct_id,
            definition_body=sfn.DefinitionBody.from_chainable(definition),
            timeout=timeout,
            tracing_enabled=True,
            # what happened and when; without the data of the states
            logs=sfn.LogOptions(destination=logs_to, level=sfn.LogLevel.ALL),
        )
        acknowledge_lint(self, "W3005", DEPENDS_ON_ITS_ROLE)
        allow_own_key(self, scope, stage)
        acknowledge_wildcard(self, "*", "the account's log deliveries and traces have no resource")
        # a workflow that is stopped at its time limit has not failed by Step Functions' count
        for name, metric in (
            ("Failed", self.metric_failed(period=Duration.minutes(5))),
            ("TimedOut", self.metric_timed_out(period=Duration.minutes(5))),
        ):
            operations.alarm(
                f"{construct_id}{name}",
                metric,
                above=0,
                description=f"{failure}: look at the execution's history",
            )

    def allow_invoking(self, function: lambda_.IFunction) -> None:
        """Let it invoke a function as it is deployed; CDK's own grant would be for every version as well."""
        allow(self, function.function_arn, "lambda:InvokeFunction")


def service_integration(scope: Construct, service: str, action: str) -> str:
    """The `Resource` of a task state that calls a service in one of Step Functions' optimized ways."""
    return Stack.of(scope).format_arn(
        service="states",
        region="",
        account="",
        resource=service,
        resource_name=action,
        arn_format=ArnFormat.COLON_RESOURCE_NAME,
    )


def invoke(
    scope: Construct,
    construct_id: str,
    function: lambda_.IFunction,
    *,
    payload: Mapping[str, str] | str,
    retry_after_seconds: int = 5,
) -> sfn.CustomState:
    """The state that invokes a function; whatever goes wrong, throttling above all, it is invoked again, five times.
    What it returns is for its log: the next state is given what this one was.

    Args:
        payload: what it is given, by JSONPath.
    """
    given = {"Payload.$": payload} if isinstance(payload, str) else {"Payload": dict(payload)}
    return sfn.CustomState(
        scope,
        construct_id,
        state_json={
            "Type": "Task",
            "Resource": service_integration(scope, "lambda", "invoke"),
            "Parameters": {"FunctionName": function.function_arn, **given},
            "ResultPath": sfn.JsonPath.DISCARD,
            "Retry": [
                {
                    "ErrorEquals": ["States.ALL"],
                    "IntervalSeconds": retry_after_seconds,
                    "MaxAttempts": 5,
                    "BackoffRate": 2,
                }
            ],
        },
    )
