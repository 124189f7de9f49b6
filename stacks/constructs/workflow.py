"""One of the project's Step Functions workflows."""

from aws_cdk import Duration
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from stacks.constructs.function import log_group
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
            logs=sfn.LogOptions(destination=logs_to, level=sfn.LogLevel.ERROR),
        )
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
