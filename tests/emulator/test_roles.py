"""Roles of deployed functions: what demonstrations do not come to is needed, too; without a grant a function fails."""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from lambdas.sensors.links import PageLinks
from lambdas.sensors.stores import Sensor
from overcut.sensors.incidents import (
    Cause,
    Change,
    ChangeKind,
    Episode,
    Equipment,
    Head,
    Incident,
    IncidentState,
)
from overcut.sensors.readings import Reading, format_time
from overcut.sensors.silence import SourceSeen
from tests.emulator.decisions import RARE, needed, spared
from tests.functional.incident_pages import url_event
from workbench.cloud.deploy import Deployment, Outputs
from workbench.cloud.environment import REGION
from workbench.cloud.processes import EmbeddedCloud
from workbench.demonstration.stage_file import write_stage_file
from workbench.sensors_system import SensorsSystem
from workbench.workflows import run_workflow

pytestmark = pytest.mark.emulator

SENSORS, ETL_JOBS = "Overcut-local-sensors", "Overcut-local-etl-jobs"
NOW = datetime.now(UTC).replace(second=0, microsecond=0)


class _Source(BaseHTTPRequestHandler):
    """To who has no event of it yet: a reading, and an event that can be none. To who has them: stay away (204)."""

    def do_GET(self) -> None:
        if self.headers.get("Last-Event-ID"):
            self.send_response(204)
            self.end_headers()
            return
        reading = {"sensor_id": "new", "measured_at": format_time(NOW), "values": {"temperature": 4.0}}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(f"retry: 100\nid: 1\ndata: {json.dumps(reading)}\n\nid: 2\ndata: nothing\n\n".encode())

    def log_message(self, *_: Any) -> None:
        """Nothing is told."""


@dataclass(frozen=True)
class House:
    """Both stacks, deployed; every function may be invoked."""

    state: Path
    url: str
    outputs: Outputs
    source_url: str

    def client(self, service: str) -> Any:
        make: Any = boto3.Session("test", "test", region_name=REGION).client
        return make(service, endpoint_url=self.url)

    @property
    def sensors(self) -> SensorsSystem:
        return SensorsSystem(self.outputs[SENSORS], boto3.Session("test", "test", region_name=REGION), self.url)

    def invoke(self, stack: str, function: str, event: Any) -> str:
        """Why the function failed; empty, if it did not."""
        name = self.outputs[stack][function]
        answer = self.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event).encode())
        told = json.loads(answer["Payload"].read() or b"null")
        return str(told["errorMessage"]) if "FunctionError" in answer else ""

    @contextmanager
    def without(self, stack: str, function: str, action: str) -> Iterator[None]:
        """While it lasts, the role of a function may not do `action`, with whatever resource."""
        name = self.outputs[stack][function]
        role = self.client("lambda").get_function(FunctionName=name)["Configuration"]["Role"].rpartition("/")[2]
        iam = self.client("iam")
        (policy,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
        before = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
        document = json.dumps(before)
        assert f'"{action}"' in document
        # what takes its place grants nothing, and keeps the numbers of the others
        changed = document.replace(f'"{action}"', '"sts:GetCallerIdentity"')
        iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=changed)
        try:
            yield
        finally:
            iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=document)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    state = tmp_path_factory.mktemp("roles")
    source = ThreadingHTTPServer(("127.0.0.1", 0), _Source)
    threading.Thread(target=source.serve_forever, daemon=True).start()
    cloud = EmbeddedCloud(state / "cloud")
    deployment = Deployment(cloud.up(owner_pid=os.getpid()).url, cloud.state)
    stage = write_stage_file(
        state / "stage.toml", clock=state / "clock.json", pipelines={"sensors": {}, "etl_jobs": {}}
    )
    deployment.bootstrap()
    deployment.synthesize(str(stage))
    outputs = deployment.deploy(parameters={f"{SENSORS}:PhoneNumberMaintenance": "+12025550123"})
    yield House(state, deployment.url, outputs, f"http://127.0.0.1:{source.server_port}/")
    cloud.down()
    source.shutdown()
    source.server_close()


def _poll(house: House) -> Any:
    mapping = {"measures": {"temperature": "C"}, "sensor_id": "sensor_id", "measured_at": "measured_at"}
    # each poll is of a source that was never polled
    source_id = f"source-{time.monotonic_ns()}"
    return {"source_id": source_id, "url": house.source_url, "mapping": {**mapping, "values": "values"}}


def _records(_: House) -> Any:
    """A reading of a sensor that was never judged, and a record that holds none."""
    image = {
        "sensor_id": {"S": f"sensor-{time.monotonic_ns()}"},
        "measured_at": {"S": format_time(NOW)},
        "values": {"M": {"t": {"N": "4"}}},
    }
    reading = {"ApproximateCreationDateTime": NOW.timestamp(), "NewImage": image}
    return {"Records": [{"dynamodb": reading}, {"dynamodb": {"NewImage": {}}}]}


def _silence(house: House) -> Any:
    """A source that was last heard an hour ago, of a minute that no incident is about yet."""
    seen, heard = SourceSeen(), NOW - timedelta(hours=1)
    for minute in range(5):
        at = heard + timedelta(minutes=minute)
        seen.hear([Reading("silent", at, {"temperature": 4.0})], int(at.timestamp()), 15 * 60)
    house.sensors.sensors.register(Sensor("silent", "device", {"temperature": "C"}), 16)
    house.sensors.bucket.put_seen("device", seen)
    return {}


def _link(house: House) -> str:
    """The token of a link to a new incident, of a swing: its page looks up what the measure itself usually is."""
    sensor_id, incidents = f"linked-{time.monotonic_ns()}", house.sensors.incidents
    cause = Cause("temperature", "C", 0.7, 0.0, 0.2, 3.0, 1.0, "v", "volatility", format_time(NOW))
    incident = Incident(
        equipment=Equipment(sensor_id, "Cold room 3"),
        kind="equipment",
        state=IncidentState.OPEN,
        opened_at=NOW,
        first_anomalous_at=NOW,
        last_anomalous_at=NOW,
        cause=cause,
        texts={},
    )
    incidents.open(incident, Change(ChangeKind.OPEN, Episode(NOW, NOW, NOW), Head(1, NOW, NOW, NOW)))
    return PageLinks(incidents, "", timedelta(hours=1)).make("maintenance", [incident], int(time.time()))


def _page(house: House) -> Any:
    return url_event("GET", f"/{_link(house)}")


def _answer(house: House) -> Any:
    token = _link(house)
    link = house.sensors.incidents.link(token, int(time.time()))
    assert link
    return url_event("POST", f"/{token}", f"answer=on_it&nonce={link.nonce}")


UNTIL = {"until": format_time(NOW)}
# of each function: what it is invoked with, and grants that it fails without
CASES: list[tuple[str, str, Callable[[House], Any], list[str]]] = [
    (SENSORS, "PollReadings", _poll, ["dynamodb:GetItem", "dynamodb:BatchWriteItem", "s3:PutObject"]),
    (SENSORS, "DetectAnomalies", _records, ["dynamodb:Query", "sqs:SendMessage"]),
    (SENSORS, "WatchSensors", _silence, ["dynamodb:Query", "s3:GetObject"]),
    (SENSORS, "ShowIncident", _page, ["dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:Query"]),
    (SENSORS, "ShowIncident", _answer, ["dynamodb:UpdateItem"]),
    (SENSORS, "ExportTrainingSet", lambda _: {"bucket": 0}, ["dynamodb:Query"]),
    (ETL_JOBS, "PredictAnomalies", lambda _: {"bucket": 0, **UNTIL}, ["s3:ListBucket"]),
    (ETL_JOBS, "OpenTickets", lambda _: UNTIL, ["dynamodb:Query"]),
]
WHY_ANYWAY = {"PollReadings": "204"}


@pytest.mark.parametrize(("stack", "function", "event", "actions"), CASES, ids=[case[1] for case in CASES])
def test_a_function_fails_without_what_it_is_granted(
    house: House, stack: str, function: str, event: Callable[[House], Any], actions: list[str]
) -> None:
    for action in actions:
        with house.without(stack, function, action):
            assert f"not authorized to perform: {action}" in house.invoke(stack, function, event(house)), action
        anyway = house.invoke(stack, function, event(house))
        assert WHY_ANYWAY.get(function, "") in anyway
        assert "not authorized" not in anyway


@pytest.mark.parametrize(
    ("stack", "key"),
    [(SENSORS, "training-jobs/sensors/job/decision.json"), (ETL_JOBS, "models/etl_jobs/decisions/job.json")],
)
def test_a_model_that_is_held_is_told_to_operations(house: House, stack: str, key: str) -> None:
    sqs, states = house.client("sqs"), house.client("stepfunctions")
    anybody = {"Statement": {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*"}}
    named = {"QueueName": f"operations-of-{stack}", "Attributes": {"Policy": json.dumps(anybody)}}
    queue = sqs.create_queue(**named)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    found = house.client("cloudformation").describe_stack_resources(StackName=stack)["StackResources"]
    (topic,) = (
        one["PhysicalResourceId"]
        for one in found
        if one["ResourceType"] == "AWS::SNS::Topic" and one["LogicalResourceId"].startswith("Operations")
    )
    house.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    deployed = states.describe_state_machine(stateMachineArn=house.outputs[stack]["TrainingWorkflow"])
    # the deployed workflow, from where its training job is over
    end = json.dumps({**json.loads(deployed["definition"]), "StartAt": "ReadDecision"})
    machine = states.create_state_machine(name=f"end-{stack}", definition=end, roleArn=deployed["roleArn"])
    for decision, told in (("promoted", 0), ("held", 1)):
        body = json.dumps({"decision": decision, "reason": "3 of 4 sensors changed"}).encode()
        house.client("s3").put_object(Bucket=house.outputs[stack]["DataBucket"], Key=key, Body=body)
        given = {"training_job": {"TrainingJobName": "job"}}
        assert run_workflow(states, machine["stateMachineArn"], decision, given, lambda _: None).succeeded
        messages = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages", [])
        assert [json.loads(one["Body"])["Message"] for one in messages] == ["3 of 4 sensors changed"] * told


def test_who_has_a_link_and_no_account_sees_its_page_and_answers(house: House) -> None:
    """By the function's URL, which the embedded cloud serves at a path; whoever calls is anonymous to IAM."""
    own = house.outputs[SENSORS]["IncidentPage"]
    begins = f"{house.url}/_aws/lambda-url/{own.removeprefix('https://').partition('.')[0]}"
    token = _link(house)
    with httpx.Client(trust_env=False) as telephone:
        page = telephone.get(f"{begins}/{token}")
        assert (page.status_code, page.headers["cache-control"]) == (200, "no-store")
        assert "<h1>Cold room 3</h1>" in page.text
        (nonce,) = re.findall(r'name="nonce" value="(\w+)"', page.text)
        form = {"answer": "on_it", "nonce": nonce}
        assert telephone.post(f"{begins}/{token}", data=form).status_code == 303
        assert "maintenance is on it since" in telephone.get(f"{begins}/{token}").text
        assert telephone.post(f"{begins}/{token}", data=form).status_code == 409
        assert telephone.get(f"{begins}/{token[::-1]}").status_code == 404
        assert telephone.put(f"{begins}/{token}").status_code == 405


def test_what_demonstrations_do_not_come_to_needs_its_grants(house: House) -> None:
    for stack, function, event, _ in CASES:
        house.invoke(stack, function, event(house))
    assert RARE - needed(house.state, SENSORS) == set()
    assert spared(house.state, SENSORS) == spared(house.state, ETL_JOBS) == []
