"""One embedded cloud for all emulator tests of a worker."""

import json
import os
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from workbench.cloud.environment import REGION
from workbench.cloud.processes import EmbeddedCloud
from workbench.cloud.state import Running

# the roles of jobs that tests start by themselves; what a deployed role may do is for the demonstrations to show
ROLES = ("training", "extraction")


class Cloud:
    """A running cloud and SDK clients for it; its `ROLES` may do everything."""

    def __init__(self, embedded: EmbeddedCloud, running: Running) -> None:
        self.embedded = embedded
        self.running = running
        self._session = boto3.session.Session("test", "test", region_name=REGION)
        self._clients: dict[str, Any] = {}
        for name in ROLES:
            trust = {"Statement": {"Effect": "Allow", "Principal": {"Service": "*"}, "Action": "sts:AssumeRole"}}
            everything = {"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}
            self.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
            self.client("iam").put_role_policy(
                RoleName=name, PolicyName="everything", PolicyDocument=json.dumps(everything)
            )

    def client(self, service: str) -> Any:
        """The client of a service, such as `s3`; made once."""
        if service not in self._clients:
            make: Any = self._session.client
            self._clients[service] = make(service, endpoint_url=self.running.url)
        return self._clients[service]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    embedded = EmbeddedCloud(tmp_path_factory.mktemp("cloud"))
    under_test = Cloud(embedded, embedded.up(owner_pid=os.getpid()))
    yield under_test
    under_test.close()
    embedded.down()
