"""The newest kept release is deployed to an embedded cloud and works; then this tree is deployed over it."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from lambdas.runtime.clock import ClockFace, FileClock
from overcut.sensors.incidents import IncidentState
from overcut.sensors.readings import Reading
from stacks.constructs.bundling import Target
from stacks.stage import phone_parameter, read_stage
from tests.functional.test_poll_readings import MINUTE, NOON
from tests.upgrades.changes import HOLDS_NOTHING
from tests.upgrades.releases import PIPELINES, Release, kept, settings, stack_name
from tests.upgrades.stored import TRAINED, WRITTEN, value
from workbench.cloud.deploy import Deployment
from workbench.cloud.environment import REGION
from workbench.cloud.processes import EmbeddedCloud
from workbench.demonstration.sensors import PHONE_NUMBER, received_texts
from workbench.demonstration.stage_file import write_stage_file
from workbench.device import Device
from workbench.sensors_system import SensorsSystem

pytestmark = pytest.mark.emulator

SENSOR = "lasting"
PARAMETERS = {f"{stack_name('local', 'sensors')}:{phone_parameter('maintenance')}": PHONE_NUMBER}
OVER = 410


class House:
    """An embedded cloud, a device that has one sensor, and the clock of both."""

    def __init__(self, folder: Path, url: str, device: Device, clock: FileClock) -> None:
        self.folder, self.url, self.device, self.clock = folder, url, device, clock
        self.deployment = Deployment(url, folder)
        self.session = boto3.Session("test", "test", region_name=REGION)

    def deploy(self, assembly: Path) -> SensorsSystem:
        outputs = self.deployment.deploy(assembly, PARAMETERS)
        system = SensorsSystem(outputs[stack_name("local", "sensors")], self.session, self.url)
        system.start_polls()
        return system

    def at(self, minute: int) -> None:
        """Let the clock stand at a minute after noon."""
        origin = (NOON + minute * MINUTE).timestamp()
        self.clock.set(ClockFace(origin, wall=0.0, speed=0.0, ttl_offset=time.time() - NOON.timestamp()))

    def data(self) -> dict[str, str]:
        """Of both stacks the physical ids of what holds data, by logical id."""
        client: Any = self.session.client("cloudformation", endpoint_url=self.url)
        stacks = (stack_name("local", pipeline) for pipeline in PIPELINES)
        found = [one for name in stacks for one in client.describe_stack_resources(StackName=name)["StackResources"]]
        held = (one for one in found if one["ResourceType"] not in HOLDS_NOTHING)
        return {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in held}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    clock = FileClock(tmp_path / "clock.json")
    readings = [Reading(SENSOR, NOON + k * MINUTE, {"temperature": value(SENSOR, k)}) for k in range(OVER + 1)]
    cloud = EmbeddedCloud(tmp_path)
    running = cloud.up(owner_pid=os.getpid())
    try:
        with Device(readings, clock) as device:
            made = House(tmp_path, running.url, device, clock)
            made.at(0)
            made.deployment.bootstrap()
            yield made
    finally:
        cloud.down()


def eventually(what: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.3)


@pytest.mark.parametrize("release", kept()[-1:], ids=lambda release: release.folder.name)
def test_what_the_release_began_goes_on(release: Release, house: House) -> None:
    target = Target("host", read_stage("local").functions.python_version)
    source = house.device.url
    old = release.assembly(house.folder / "old", target, clock=str(house.clock.path), source=source)
    house.at(TRAINED - 1)
    system = house.deploy(old)
    eventually(lambda: system.stored_readings() == TRAINED, "the readings were not stored")
    assert system.train("old", lambda _: None).status == "SUCCEEDED"
    (cutoff,) = system.cutoffs.newest(SENSOR, 5)
    house.at(WRITTEN)
    eventually(lambda: texts(house) == ["ALERT"], "nobody was texted")
    (begun,) = system.all_incidents()
    assert errors(system) == 0
    before = house.data()

    stage_file = write_stage_file(house.folder / "local.toml", clock=house.clock.path, pipelines=settings(source))
    new = house.deploy(house.deployment.synthesize(str(stage_file)))

    assert house.data().items() >= before.items()
    assert new.cutoffs.newest(SENSOR, 5) == [cutoff]
    # the embedded cloud ends the invocations of a function that gets other code, which AWS lets come to their end
    ended_by_the_upgrade = errors(new)
    house.at(OVER)
    eventually(lambda: texts(house)[1:] != [], "the end was not texted")
    assert texts(house) == ["ALERT", "OK"]
    (ended,) = new.all_incidents()
    assert (ended.reference, ended.opened_at, ended.state) == (
        begun.reference,
        begun.opened_at,
        IncidentState.RECOVERED,
    )
    assert new.stored_readings() == OVER + 1
    assert errors(new) == ended_by_the_upgrade


def errors(system: SensorsSystem) -> int:
    return sum(function["errors"] for function in system.functions())


def texts(house: House) -> list[str]:
    """The first word of each text that the phone got, in order."""
    return [text["body"].split()[0] for text in received_texts(house.url)]
