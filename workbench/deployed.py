"""A deployed pipeline, whichever it is: its stack's outputs, and clients to reach what they name."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, Self

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from overcut import OvercutError
from stacks.stage import Stage
from workbench.questions import Questions
from workbench.workflows import failure_reason


class NotDeployedError(OvercutError):
    """There is no such stage in the account, in the stage's region."""


class Alarm(NamedTuple):
    """A CloudWatch alarm, and in its description what it means and where to look."""

    name: str
    description: str


class LastExecution(NamedTuple):
    """An execution of a workflow: how it ended and when, or since when it runs."""

    arn: str
    status: str
    at: datetime


class DeployedPipeline:
    """One pipeline of one stage.

    Args:
        outputs: of its stack.
        endpoint_url: of an embedded cloud; None for AWS.
        stage: what people name it by.
    """

    PIPELINE: ClassVar[str]

    def __init__(
        self,
        outputs: Mapping[str, str],
        session: boto3.Session,
        endpoint_url: str | None = None,
        *,
        stage: str = "local",
    ) -> None:
        self._outputs = outputs
        self._session = session
        self._endpoint_url = endpoint_url
        self._stage = stage

    @classmethod
    def stack(cls, stage: str) -> str:
        """The name of a stage's stack."""
        return f"Overcut-{stage}-{cls.PIPELINE}"

    @classmethod
    def deployed(cls, stage: Stage) -> Self:
        """The stage's pipeline in its region, in the account whose credentials the environment holds.

        Raises:
            NotDeployedError: it is not there.
        """
        session = boto3.Session(region_name=stage.region)
        return cls(_outputs_of(session, cls.stack(stage.name)), session, stage=stage.reference)

    def output(self, name: str) -> str:
        """What the stack tells under a name."""
        return self._outputs[name]

    def ringing_alarms(self, stage: str) -> list[Alarm]:
        """The alarms of the stage's stack that are in the state ALARM, by name."""
        pages = (
            self._client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=self.stack(stage))
        )
        own = {one["PhysicalResourceId"] for page in pages for one in page["StackResourceSummaries"] if _is_alarm(one)}
        pages = self._client("cloudwatch").get_paginator("describe_alarms").paginate(StateValue="ALARM")
        found = [one for page in pages for one in page["MetricAlarms"] if one["AlarmName"] in own]
        return sorted(Alarm(one["AlarmName"], one.get("AlarmDescription", "")) for one in found)

    def last_execution(self, output: str) -> LastExecution | None:
        """The last execution of the workflow that an output of the stack names; None before the first."""
        arn = self._outputs[output]
        found = self._client("stepfunctions").list_executions(stateMachineArn=arn, maxResults=1)["executions"]
        if not found:
            return None
        return LastExecution(
            found[0]["executionArn"], found[0]["status"], found[0].get("stopDate", found[0]["startDate"])
        )

    def start(self, output: str, name: str, given: Mapping[str, Any]) -> None:
        """Start the workflow that an output of the stack names, under an execution name that was not used before."""
        self._client("stepfunctions").start_execution(
            stateMachineArn=self._outputs[output], name=name, input=json.dumps(given)
        )

    def cause_of(self, execution: LastExecution) -> str:
        """Why an execution did not succeed, in words for people; empty where nothing says."""
        told = self._client("stepfunctions").describe_execution(executionArn=execution.arn)
        return failure_reason(told.get("cause") or told.get("error") or "")

    def output_of(self, execution: LastExecution) -> dict[str, Any]:
        """What an execution gave; empty for one that gave nothing yet, or failed."""
        told = self._client("stepfunctions").describe_execution(executionArn=execution.arn).get("output") or "{}"
        given = json.loads(told)
        return given if isinstance(given, dict) else {}

    @property
    def questions(self) -> Questions:
        """What can be asked about it in SQL."""
        return Questions(self._client("athena"), self._outputs["WorkGroup"], self._outputs["Database"])

    def _client(self, service: str) -> Any:
        make: Callable[..., Any] = self._session.client
        return make(service, endpoint_url=self._endpoint_url, config=Config(max_pool_connections=20))


def _is_alarm(resource: Mapping[str, Any]) -> bool:
    return bool(resource["ResourceType"] == "AWS::CloudWatch::Alarm")


def _outputs_of(session: boto3.Session, stack: str) -> dict[str, str]:
    # the first call of every command: where nothing answers, it says so soon
    config = Config(connect_timeout=5, retries={"total_max_attempts": 2})
    try:
        found = session.client("cloudformation", config=config).describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        raise NotDeployedError(
            f"stack {stack} is not in {session.region_name} in this account"
            f" ({error.response['Error']['Message']}); deploy it, or name another --stage"
        ) from error
    return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
