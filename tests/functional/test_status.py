"""`overcut status`, on tables and buckets as they are deployed: what is told, and what needs somebody."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from lambdas.sensors.stores import QuarantinedEvent, cutoffs_key
from tests.conftest import synthesized
from tests.etl_fakes import MONDAY, changes_of, verdict
from tests.functional import test_detect_anomalies
from tests.functional.conftest import REGION, create_tables
from tests.functional.test_detect_anomalies import CONTACTS, NOON, Plant, hot
from workbench.cli import main
from workbench.demonstration.stage_file import write_stage_file
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.sensors_system import SensorsSystem

plant = test_detect_anomalies.plant

WORKFLOWS = ("TrainingWorkflow", "ExportWorkflow", "PredictionWorkflow")


class Console:
    """What no store holds, and the services answer that moto is not asked for here.

    Attributes:
        executions: of each workflow, how the last one ended.
        cause: why, if it failed.
        alarms: those in the state ALARM, of every stack of the account.
        own: the alarms of the stage's stacks.
    """

    def __init__(self) -> None:
        self.executions: dict[str, str] = dict.fromkeys(WORKFLOWS, "SUCCEEDED")
        self.cause = ""
        self.alarms: list[str] = ["somebody else's"]
        self.own = ["PollsFail", "NoTraining"]

    def list_executions(self, stateMachineArn: str, maxResults: int) -> dict[str, Any]:  # noqa: N803
        if stateMachineArn not in self.executions:
            return {"executions": []}
        ended = {"status": self.executions[stateMachineArn], "startDate": NOON, "stopDate": NOON}
        return {"executions": [{"executionArn": f"arn:{stateMachineArn}:1", **ended}]}

    def describe_execution(self, executionArn: str) -> dict[str, Any]:  # noqa: N803
        return {"output": json.dumps({"training_job": {"TrainingJobName": "job-1"}}), "cause": self.cause}

    def get_paginator(self, name: str) -> "Pages":
        resources = [{"ResourceType": "AWS::CloudWatch::Alarm", "PhysicalResourceId": one} for one in self.own]
        page = {
            "list_stack_resources": {"StackResourceSummaries": resources},
            "describe_alarms": {"MetricAlarms": [{"AlarmName": n, "AlarmDescription": "look"} for n in self.alarms]},
        }
        return Pages(page[name])


class Pages:
    def __init__(self, page: dict[str, Any]) -> None:
        self._page = page

    def paginate(self, **_: Any) -> Iterator[dict[str, Any]]:
        yield self._page


class Looked:
    """A plant with a judged sensor, and the command that looks at it."""

    def __init__(self, plant: Plant, console: Console, folder: Path) -> None:
        self.plant = plant
        self.cloud = plant.cloud
        self.console = console
        contacts: dict[str, Any] = {str(contact["contact_id"]): {} for contact in CONTACTS}
        self.stage = write_stage_file(
            folder / "stage.toml",
            clock=plant.clock.path,
            pipelines={"sensors": {"contacts": contacts, "default_contact": "day"}, "etl_jobs": {}},
        )
        plant.set_clock(NOON)
        plant.add("a", history=30)
        self.cloud.sources.advance("device", "7", NOON)
        self.decide("promoted", "")

    def decide(self, decision: str, reason: str) -> None:
        told = json.dumps({"decision": decision, "reason": reason}).encode()
        self.cloud.data.put("models/etl_jobs/decisions/job-1.json", told)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["status", "--stage", str(self.stage), *arguments], env={"COLUMNS": "200"})

    def told(self) -> Any:
        ran = self.run("--json")
        told = json.loads(ran.stdout)
        needed = [what for one in told.values() for what in one["attention"]]
        assert ran.exit_code == (1 if needed else 0), ran.output
        return told

    def attention(self) -> list[str]:
        return [what for one in self.told().values() for what in one["attention"]]


@pytest.fixture
def looked(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Looked:
    cloud, console = plant.cloud, Console()
    create_tables(cloud.dynamodb, synthesized("local", "etl_jobs"))
    outputs = {f"{name}Table": table for name, table in cloud.tables.items()}
    outputs |= {"DataBucket": cloud.bucket, "ParkedQueue": cloud.parked, "TicketsTable": "Tickets"}
    outputs |= {name: name for name in WORKFLOWS}
    clients: dict[str, Any] = {"dynamodb": cloud.dynamodb, "s3": cloud.s3, "sqs": cloud.sqs}
    session = boto3.Session(region_name=REGION)
    for kind in (SensorsSystem, EtlJobsSystem):
        monkeypatch.setattr(kind, "deployed", lambda _, kind=kind: kind(outputs, session))
        monkeypatch.setattr(kind, "_client", lambda _, service: clients.get(service, console))
    return Looked(plant, console, tmp_path)


def test_where_all_is_well_it_says_so(looked: Looked) -> None:
    told = looked.told()
    ended = {"status": "SUCCEEDED", "at": "2026-01-05T12:00:00Z"}
    for one in told.values():
        for name in ("last_export", "last_training", "last_prediction"):
            if name in one:
                assert one[name].pop("execution_arn").startswith("arn:")
    assert told["sensors"] == {
        "sources": [
            {
                "source_id": "device",
                "last_success_at": "2026-01-05T12:00:00Z",
                "failures_in_a_row": 0,
                "last_error": None,
            }
        ],
        "sensors": {"known": 1, "judged": 1, "learning": 0, "silent": 0},
        "open_incidents": {"number": 0, "by_kind": {}, "oldest": None},
        "texts": {"owed": 0, "held": 0},
        "last_export": ended,
        "last_training": ended,
        "held_versions": [],
        "parked": {"records": 0, "batches": 0, "events": 0},
        "alarms": [],
        "attention": [],
    }
    assert told["etl_jobs"] == {
        "last_extraction_of_history": None,
        "last_extraction_of_recent_runs": None,
        "last_training": ended,
        "last_decision": {"decision": "promoted", "reason": ""},
        "last_prediction": ended,
        "open_tickets": {"number": 0, "by_kind": {}, "oldest": None},
        "owed_entries": 0,
        "parked": {"tickets": 0},
        "alarms": [],
        "attention": [],
    }


def test_a_sensor_without_a_cutoff_in_force_learns(looked: Looked) -> None:
    looked.plant.add("b")
    looked.plant.set_clock(looked.plant.cutoff.effective_from - timedelta(minutes=1))
    assert looked.told()["sensors"]["sensors"] == {"known": 2, "judged": 0, "learning": 2, "silent": 0}


def test_people_see_the_facts_and_what_needs_them_in_one_screen(looked: Looked) -> None:
    output = looked.run().output
    assert "1: 1 judged, 0 learning, 0 silent" in output
    assert "device: last read 2026-01-05 12:00 UTC" in output
    assert "succeeded 2026-01-05 12:00 UTC" in output
    assert not re.search(r"_|arn:|T12:00:00Z|SUCCEEDED", output), "words, not keys"
    assert "Nothing of sensors needs you." in output
    assert "Nothing of etl jobs needs you." in output
    assert output.count("\n") < 40
    looked.console.alarms = ["PollsFail"]
    ran = looked.run()
    assert ran.exit_code == 1
    assert "! alarm PollsFail: look" in ran.output


def test_an_open_incident_needs_somebody(looked: Looked) -> None:
    looked.plant.arrive(hot(0, 4))
    assert looked.attention() == [f"1 incident is open: `overcut incidents list --open --stage {looked.stage}`"]
    told = looked.told()["sensors"]
    assert told["open_incidents"] == {"number": 1, "by_kind": {"equipment": 1}, "oldest": "2026-01-05T12:04:00Z"}


@pytest.mark.parametrize(
    ("failures", "needed"),
    [(2, []), (3, ["source device answered 401: check the source's credentials (3 polls in a row)"])],
)
def test_a_source_that_fails_again_and_again_needs_somebody(looked: Looked, failures: int, needed: list[str]) -> None:
    for _ in range(failures):
        looked.cloud.sources.failed("device", "answered 401: check the source's credentials", NOON)
    assert looked.attention() == needed


def test_a_source_that_was_never_read_needs_somebody(looked: Looked) -> None:
    key = {"source_id": {"S": "device"}}
    looked.cloud.dynamodb.delete_item(TableName=looked.cloud.tables["Sources"], Key=key)
    assert looked.attention() == ["source device was never read: no event was read from it yet"]


@pytest.mark.parametrize(("workflow", "what"), [("ExportWorkflow", "export"), ("PredictionWorkflow", "prediction")])
@pytest.mark.parametrize("ended", ["FAILED", "TIMED_OUT"])
def test_a_workflow_that_failed_needs_somebody(looked: Looked, workflow: str, what: str, ended: str) -> None:
    looked.console.executions[workflow] = ended
    (needed,) = looked.attention()
    told = {"FAILED": "failed", "TIMED_OUT": "took too long and was stopped"}[ended]
    assert needed.startswith(f"the last {what} {told}, 2026-01-05 12:00 UTC: ")
    assert "under the name 1; the next" in needed
    looked.console.cause = json.dumps({"errorMessage": "the table is gone"})
    (needed,) = looked.attention()
    assert ": the table is gone; the next" in needed


def test_a_training_that_failed_is_tried_again_by_hand(looked: Looked) -> None:
    looked.console.executions["TrainingWorkflow"] = "FAILED"
    looked.console.cause = "no readings"
    failed = "the last training failed, 2026-01-05 12:00 UTC: no readings; `overcut train"
    assert looked.attention() == [
        f"{failed} --stage {looked.stage}` tries again",
        f"{failed} --pipeline etl-jobs --stage {looked.stage}` tries again",
    ]


def test_before_the_first_run_of_a_workflow_nothing_is_wrong(looked: Looked) -> None:
    looked.console.executions.clear()
    told = looked.told()
    assert looked.attention() == []
    assert told["sensors"]["last_training"] is told["etl_jobs"]["last_decision"] is None


def test_what_training_held_needs_somebody(looked: Looked) -> None:
    looked.cloud.data.put(cutoffs_key("kind-fridge", "v2"), b"[]")
    held = {"decision": "held", "reason": "9 of 10 sensors changed", "model_version": "v2"}
    looked.cloud.model_events.put("kind-fridge", NOON, held)
    looked.decide("held", "it is worse")
    assert looked.attention() == [
        "training held a version of kind-fridge (9 of 10 sensors changed):"
        f" `overcut cutoffs held --stage {looked.stage}`",
        "the last training's model is held: it is worse",
    ]


def test_what_is_parked_needs_somebody(looked: Looked) -> None:
    looked.cloud.sqs.send_message(QueueUrl=looked.cloud.parked, MessageBody="{}")
    looked.cloud.data.put("aws/lambda/batch", b"{}")
    events = [QuarantinedEvent(raw, "the event is not JSON", "1") for raw in ("{", "[", "")]
    # an object holds one or more, and what came again is in two
    looked.cloud.data.quarantine("device", events, datetime.now(UTC))
    looked.cloud.data.quarantine("device", events[:2], datetime.now(UTC))
    assert looked.told()["sensors"]["parked"] == {"records": 1, "batches": 1, "events": 3}
    assert looked.attention() == [f"parked: 1 record, 1 batch, 3 events: `overcut parked list --stage {looked.stage}`"]


def test_an_open_ticket_needs_somebody(looked: Looked) -> None:
    tickets = EtlJobsSystem.deployed(None).tickets  # type: ignore[arg-type]
    for change in changes_of(verdict(0), verdict(1)):
        tickets.apply(change)
    assert looked.attention() == [f"1 ticket is open: `overcut tickets list --stage {looked.stage}`"]
    assert looked.told()["etl_jobs"]["owed_entries"] == 2
    entry = tickets.entry("orders_daily#unusual_run", "run#run-0")
    assert entry
    claimed = tickets.claim(entry, MONDAY, MONDAY + timedelta(minutes=1))
    assert claimed
    tickets.park(claimed, "refused", "")
    assert f"parked: 1 ticket entry: `overcut parked list --stage {looked.stage}`" in looked.attention()


def test_only_the_alarms_of_the_stage_count(looked: Looked) -> None:
    assert looked.attention() == []
    looked.console.alarms.append("NoTraining")
    # both stacks answer alike here
    assert looked.attention() == ["alarm NoTraining: look"] * 2


def test_held_texts_need_somebody(looked: Looked) -> None:
    looked.plant.arrive(hot(0, 4))
    incident = looked.plant.one_incident()
    (key,) = incident.texts
    looked.cloud.dynamodb.update_item(
        TableName=looked.cloud.tables["Incidents"],
        Key={"sensor_id": {"S": "a"}, "opened_at": {"S": "2026-01-05T12:04:00Z"}},
        UpdateExpression="SET texts.#text.#state = :digest",
        ExpressionAttributeNames={"#text": key, "#state": "state"},
        ExpressionAttributeValues={":digest": {"S": "digest"}},
    )
    assert looked.told()["sensors"]["texts"] == {"owed": 0, "held": 1}
    assert (
        f"1 text is held back for the next digest: `overcut incidents held --stage {looked.stage}`"
        in looked.attention()
    )


def test_where_nothing_is_deployed_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    ran = CliRunner().invoke(main, ["status", "--stage", "local"])
    assert ran.exit_code == 1
    assert ran.stderr.startswith("Error: nothing answers at http://127.0.0.1:1/")
    assert ran.stderr.count("\n") == 1
