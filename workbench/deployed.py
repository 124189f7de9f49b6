"""A deployed pipeline, whichever it is: its stack's outputs, and clients to reach what they name."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from overcut import OvercutError
from stacks.stage import Stage


class NotDeployedError(OvercutError):
    """There is no such stage in the account, in the stage's region."""


class DeployedPipeline:
    """One pipeline of one stage.

    Args:
        outputs: of its stack.
        endpoint_url: of an embedded cloud; None for AWS.
    """

    PIPELINE: ClassVar[str]

    def __init__(self, outputs: Mapping[str, str], session: boto3.Session, endpoint_url: str | None = None) -> None:
        self._outputs = outputs
        self._session = session
        self._endpoint_url = endpoint_url

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
        return cls(_outputs_of(session, cls.stack(stage.name)), session)

    def _client(self, service: str) -> Any:
        make: Callable[..., Any] = self._session.client
        return make(service, endpoint_url=self._endpoint_url, config=Config(max_pool_connections=20))


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
