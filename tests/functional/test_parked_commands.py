"""`overcut parked`: what could not be processed is seen, handed back and dropped, in every queue alike."""

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner, Result

from lambdas.etl_jobs.stores import TicketsStore
from lambdas.sensors.detect_anomalies import handler as detecting
from lambdas.sensors.stores import QuarantinedEvent
from overcut.sensors.layout import bucket_of
from overcut.sensors.readings import Reading, format_time
from tests.conftest import synthesized
from tests.etl_fakes import changes_of, verdict
from tests.functional import test_detect_anomalies
from tests.functional.conftest import REGION, create_tables
from tests.functional.streams import stream_event, stream_record
from tests.functional.test_detect_anomalies import Plant, at, hot
from workbench import parked, parked_commands
from workbench.cli import main
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.parked import BatchesQueue, EventsQueue, RecordsQueue
from workbench.sensors_system import SensorsSystem

plant = test_detect_anomalies.plant

MINUTE = timedelta(minutes=1)
# a device's events are read at the machine's own time
RECENTLY = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=3)


class Functions:
    """A Lambda client whose only function is the real handler.

    Attributes:
        faults: what the next invocations raise, after they did their work.
    """

    def __init__(self) -> None:
        self.invoked: list[Any] = []
        self.faults: list[Exception] = []

    def invoke(self, FunctionName: str, Payload: str) -> dict[str, Any]:  # noqa: N803 - the SDK's names
        assert FunctionName == "detect"
        self.invoked.append(json.loads(Payload))
        try:
            with redirect_stdout(io.StringIO()):  # its log is not the command's
                detecting.handler(self.invoked[-1], None)
            if self.faults:
                raise self.faults.pop()
        except RuntimeError as error:
            return {
                "FunctionError": "Unhandled",
                "Payload": io.BytesIO(json.dumps({"errorMessage": str(error)}).encode()),
            }
        return {"Payload": io.BytesIO(b"null")}


@pytest.fixture
def functions() -> Functions:
    return Functions()


@pytest.fixture(autouse=True)
def tickets(plant: Plant, functions: Functions, monkeypatch: pytest.MonkeyPatch) -> TicketsStore:
    """Both deployed pipelines, as every command finds them."""
    cloud = plant.cloud
    outputs = {f"{name}Table": table for name, table in cloud.tables.items()}
    outputs |= {"DataBucket": cloud.bucket, "ParkedQueue": cloud.parked, "DetectAnomalies": "detect"}
    clients: dict[str, Any] = {"dynamodb": cloud.dynamodb, "s3": cloud.s3, "sqs": cloud.sqs, "lambda": functions}
    session = boto3.Session(region_name=REGION)
    create_tables(cloud.dynamodb, synthesized("local", "etl_jobs"))
    outputs["TicketsTable"] = "Tickets"
    for kind in (SensorsSystem, EtlJobsSystem):
        monkeypatch.setattr(kind, "deployed", lambda _, kind=kind: kind(outputs, session))
        monkeypatch.setattr(kind, "_client", lambda _, service: clients[service])
    monkeypatch.setattr(parked, "LONG_POLL_SECONDS", 0)
    return TicketsStore(cloud.dynamodb, "Tickets")


def run(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(main, ["parked", *arguments], input=answer, env={"COLUMNS": "200"})


def said(*arguments: str) -> str:
    ran = run(*arguments)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def listed(*arguments: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(said("list", "--json", *arguments))
    return found


def reference(queue: str) -> str:
    (found,) = listed("--queue", queue)
    return found["reference"]


def park_record(plant: Plant, reading: Reading) -> None:
    """Have the function park the record of a stored reading, whose image was damaged on its way."""
    poison = stream_record(plant.cloud, reading, written_at=reading.measured_at)
    poison["dynamodb"]["NewImage"] = {}
    plant.set_clock(reading.measured_at)
    detecting.handler({"Records": [poison]}, None)


def give_up(plant: Plant, readings: Sequence[Reading], name: str = "batch-1") -> str:
    """Leave a batch where Lambda leaves it, as it writes it down."""
    batch = {
        "requestContext": {
            "requestId": "316aa6d0-8154-4e2a-9af7-85d5f4a6bc81",
            "functionArn": "arn:aws:lambda:us-east-1:123456789012:function:detect:$LATEST",
            "condition": "RetryAttemptsExhausted",
            "approximateInvokeCount": 9,
        },
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "version": "1.0",
        "timestamp": "2026-01-05T18:13:49.717Z",
        "DDBStreamBatchInfo": {
            "shardId": "shardId-00000001573689847184-864758bb",
            "startSequenceNumber": "800000000003126276019",
            "endSequenceNumber": "800000000003126276023",
            "approximateArrivalOfFirstRecord": "2026-01-05T12:00:19Z",
            "approximateArrivalOfLastRecord": "2026-01-05T12:04:19Z",
            "batchSize": len(readings),
            "streamArn": "arn:aws:dynamodb:us-east-1:123456789012:table/Readings/stream/2026-01-01T00:00:00.000",
        },
        "payload": json.dumps(stream_event(plant.cloud, readings, written_at=at(4))),
    }
    key = f"aws/lambda/5a1c-uuid/2026/01/05/{name}"
    plant.cloud.data.put(key, json.dumps(batch).encode())
    return key


def event(minute: int, value: object = 4.0, sensor_id: str = "unit", at_key: str = "measured_at") -> str:
    moment = format_time(RECENTLY + minute * MINUTE)
    return json.dumps({"sensor_id": sensor_id, at_key: moment, "values": {"temperature": value}})


def quarantine(plant: Plant, *raws: str, source_id: str = "device") -> None:
    events = [QuarantinedEvent(raw, "the event was not understood", f"id-{k}") for k, raw in enumerate(raws)]
    plant.cloud.data.quarantine(source_id, events, RECENTLY)


def stored(plant: Plant, sensor_id: str = "unit") -> list[tuple[datetime, float]]:
    found = plant.cloud.readings.between(sensor_id, RECENTLY - timedelta(days=1), RECENTLY + timedelta(days=1))
    return [(reading.measured_at, reading.values["temperature"]) for reading in found]


def everything(plant: Plant) -> dict[str, list[Any]]:
    """All that the pipeline holds, but for what is parked."""
    held: dict[str, list[Any]] = {}
    for name in ("Readings", "Incidents", "Sensors", "Tickets"):
        items = plant.cloud.dynamodb.scan(TableName=name)["Items"]
        held[name] = sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
    return held


# --- what all queues have in common ---


def park_one(queue: str, plant: Plant, tickets: TicketsStore) -> None:
    plant.add("a")
    if queue == "records":
        plant.arrive(hot(0, 3))
        plant.store(hot(4, 4))
        park_record(plant, hot(4, 4)[0])
    elif queue == "batches":
        plant.store(hot(0, 4))
        give_up(plant, hot(0, 4))
    elif queue == "events":
        quarantine(plant, event(0))
    else:
        (change,) = changes_of(verdict(0))
        tickets.apply(change)
        tickets.park(change.entry, "refused: [too long]", "")


QUEUES = ("records", "batches", "events", "tickets")


@pytest.mark.parametrize("queue", QUEUES)
def test_one_is_listed_shown_and_redriven_and_twice_changes_nothing(
    queue: str, plant: Plant, tickets: TicketsStore
) -> None:
    assert said("list") == "Nothing is parked in stage dev.\n"
    assert listed() == []
    park_one(queue, plant, tickets)
    for _ in range(2):  # looking takes nothing
        (one,) = listed()
        assert one["queue"] == queue
        assert one["reason"]
        assert one["reference"] in said("list")
    shown = json.loads(said("show", one["reference"]))
    assert shown["reason"] == one["reason"]
    assert shown["context"]

    before = everything(plant)
    assert said("redrive", one["reference"]).startswith(f"{one['reference']} ")
    after = everything(plant)
    assert after != before
    assert listed() == []
    ran = run("redrive", one["reference"])
    assert ran.exit_code == 1
    assert ran.stderr.startswith(f"Error: nothing is parked as {one['reference']}; `overcut parked list --stage dev`")
    assert said("redrive", "--all") == "0 redriven\n"
    assert everything(plant) == after


@pytest.mark.parametrize("queue", QUEUES)
def test_one_that_came_off_its_queue_too_late_is_redriven_again_without_effect(
    queue: str, plant: Plant, tickets: TicketsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processed, and the command died before it was off the queue."""
    park_one(queue, plant, tickets)

    class DiedError(Exception):
        pass

    def dies(*_: object) -> None:
        raise DiedError

    with monkeypatch.context() as patch:
        patch.setattr(parked, "HOLD_SECONDS", 0)  # what a dead process held is seen again
        patch.setattr(RecordsQueue, "close", dies)
        for kind in (RecordsQueue, BatchesQueue):
            patch.setattr(kind, "discard", dies)
        patch.setattr(EventsQueue, "close", dies)
        if queue == "tickets":
            patch.setattr(parked_commands, "_each", dies)
        assert isinstance(run("redrive", "--all").exception, DiedError)
    first = everything(plant)
    assert len(listed()) == 1
    said("redrive", "--all")
    assert listed() == []
    if queue != "tickets":  # that one is off its queue by the very step that processes it
        assert everything(plant) == first


@pytest.mark.parametrize("queue", QUEUES)
def test_one_is_discarded_when_somebody_says_so(queue: str, plant: Plant, tickets: TicketsStore) -> None:
    park_one(queue, plant, tickets)
    before = everything(plant)
    ran = run("discard", "--all", answer="n\n")
    assert ran.exit_code == 1
    assert f"Discard {reference(queue)}, {queue}: " in ran.output
    assert len(listed()) == 1
    assert "1 discarded" in run("discard", reference(queue), answer="y\n").output
    assert listed() == []
    assert said("discard", "--all", "--yes") == "0 discarded\n"
    after = everything(plant)
    if queue == "tickets":  # the entry itself is kept
        (entry,) = (item for item in after["Tickets"] if item["entry"]["S"] != "head")
        assert (entry["state"], "attention" in entry) == ({"S": "parked"}, False)
    else:
        assert after == before


# it would rename the terminal's window, clear it, and turn what follows around
HOSTILE = "x\x1b]0;y\x07\x1b[2J\u202eg\u200b[bold]\x9b"


def park_hostile(queue: str, plant: Plant, tickets: TicketsStore) -> None:
    """Park something whose every text is a device's, or an orchestrator's, own."""
    record = {"dynamodb": {"Keys": {"sensor_id": {"S": HOSTILE}, "measured_at": {"S": HOSTILE}}}}
    if queue == "records":
        body = json.dumps({"reason": HOSTILE, "record": record})
        plant.cloud.sqs.send_message(QueueUrl=plant.cloud.parked, MessageBody=body)
    elif queue == "batches":
        of = {"requestContext": {"condition": HOSTILE}, "timestamp": HOSTILE, "payload": {"Records": [record]}}
        plant.cloud.data.put("aws/lambda/hostile", json.dumps(of).encode())
    elif queue == "events":
        event = QuarantinedEvent(f'{{"sensor_id": {json.dumps(HOSTILE)}}}', HOSTILE, HOSTILE)
        plant.cloud.data.quarantine("device", [event], RECENTLY)
    else:
        (change,) = changes_of(verdict(0, job_name=HOSTILE, run_id=HOSTILE))
        tickets.apply(change)
        tickets.park(change.entry, HOSTILE, "")


@pytest.mark.parametrize("queue", QUEUES)
def test_nothing_that_is_parked_reaches_the_terminal_as_it_is(queue: str, plant: Plant, tickets: TicketsStore) -> None:
    park_hostile(queue, plant, tickets)
    told = [
        run("list").output,
        run("discard", "--all", answer="n\n").output,
        run("list", "--json").output,
        run("show", reference(queue)).output,
        run("redrive", "--all").output,
    ]
    assert [c for c in "".join(told) if not c.isprintable() and c != "\n"] == []
    for output in told[:2]:
        assert r"x\x1b]0;y\x07\x1b[2J\u202eg\u200b[bold]\x9b" in output


def test_what_is_meant_has_to_be_said(plant: Plant, tickets: TicketsStore) -> None:
    for queue in QUEUES[1:]:
        park_one(queue, plant, tickets)
    for arguments in (["redrive"], ["discard"], ["redrive", "--all", "abc"]):
        ran = run(*arguments)
        assert ran.exit_code == 2
        assert "name what you mean by its references, or say --all" in ran.stderr
    wrong = run("discard", reference("events"), "0bad0bad", "--yes")
    assert (wrong.exit_code, len(listed())) == (1, 3), "with one wrong reference nothing is done"
    assert said("redrive", "--all", "--queue", "tickets").endswith("1 redriven\n")
    assert [one["queue"] for one in listed()] == ["batches", "events"]


# --- records ---


def test_a_record_is_judged_as_the_table_has_it(plant: Plant) -> None:
    plant.add("a")
    plant.arrive(hot(0, 3))
    (newest,) = hot(4, 4)
    plant.store([newest])
    for _ in range(2):  # a batch that is retried parks it again
        park_record(plant, newest)
    assert plant.incidents() == []
    (one,) = listed()
    assert (one["what"], one["reason"]) == ("a at 2026-01-05T12:04:00Z", "not a reading: KeyError('sensor_id')")

    key = {"sensor_id": {"S": "a"}, "measured_at": {"S": "2026-01-05T12:04:00Z"}}
    good = plant.cloud.dynamodb.get_item(TableName="Readings", Key=key)["Item"]
    told = {"a at 2026-01-05T12:04:00Z is no reading in the table: 'values'": key, "it is not there": None}
    for words, damaged in told.items():
        if damaged:
            plant.cloud.dynamodb.put_item(TableName="Readings", Item=damaged)
        else:
            plant.cloud.dynamodb.delete_item(TableName="Readings", Key=key)
        ran = run("redrive", "--all")
        assert ran.exit_code == 1
        assert words in ran.stderr
        assert "Error: 1 of 1 stay parked" in ran.stderr
    assert len(listed()) == 1
    plant.cloud.dynamodb.put_item(TableName="Readings", Item=good)
    assert "judged, a at 2026-01-05T12:04:00Z" in said("redrive", "--all")
    assert plant.one_incident().opened_at == at(4)
    assert len(plant.texts()["day"]) == 1
    assert listed() == []


def test_a_message_that_no_function_wrote_is_shown_and_can_go(plant: Plant) -> None:
    for body in ("hello", "[]", '{"reason": "r", "record": {}}'):
        plant.cloud.sqs.send_message(QueueUrl=plant.cloud.parked, MessageBody=body)
    assert len(listed()) == 3
    assert "3 of 3 stay parked" in run("redrive", "--all").stderr
    assert len(listed()) == 3
    assert said("discard", "--all", "--yes") == "3 discarded\n"
    assert listed() == []


# --- batches ---


def test_a_batch_is_judged_again_and_what_is_over_is_not_texted(plant: Plant) -> None:
    plant.add("a")
    plant.store(hot(0, 4))
    give_up(plant, hot(0, 4))
    (one,) = listed()
    assert one["what"] == "a at 2026-01-05T12:00:00Z and 4 more"
    assert one["reason"] == "RetryAttemptsExhausted, Unhandled"
    plant.set_clock(at(400))
    said("redrive", "--all")
    assert plant.one_incident().opened_at == at(4)
    assert plant.texts() == {}, "it is seven hours later"


def test_a_batch_whose_judging_fails_stays_and_the_others_go_on(plant: Plant, functions: Functions) -> None:
    for sensor_id in "ab":
        plant.add(sensor_id)
        plant.store(hot(0, 4, sensor_id))
        give_up(plant, hot(0, 4, sensor_id), f"batch-{sensor_id}")
    plant.set_clock(at(4))
    functions.faults = [RuntimeError("no model")]
    ran = run("redrive", "--all")
    assert ran.exit_code == 1
    assert 'stays parked: detect_anomalies failed: {"errorMessage": "no model"}' in ran.stderr
    assert "1 of 2 stay parked" in ran.stderr
    before = everything(plant)
    assert len(listed()) == 1
    said("redrive", "--all")
    assert everything(plant) == before, "it had been judged: only the answer was lost"
    assert len(plant.texts()["day"]) == 1, "one place has one text; the other is owed"


def test_a_batch_with_a_reading_that_is_gone_is_judged_and_stays(plant: Plant) -> None:
    plant.add("a")
    plant.store(hot(0, 5))
    give_up(plant, hot(0, 5))
    key = {"sensor_id": {"S": "a"}, "measured_at": {"S": "2026-01-05T12:05:00Z"}}
    plant.cloud.dynamodb.delete_item(TableName="Readings", Key=key)
    plant.set_clock(at(5))
    assert "a at 2026-01-05T12:05:00Z is no reading in the table: it is not there" in run("redrive", "--all").stderr
    assert plant.one_incident().opened_at == at(4)
    assert len(listed()) == 1


def test_an_object_that_is_no_batch_is_shown_and_can_go(plant: Plant) -> None:
    for number, body in enumerate((b"\xff", b"[]", b"{}", b'{"payload": "not json"}')):
        plant.cloud.data.put(f"aws/lambda/x/{number}", body)
    assert len(listed("--queue", "batches")) == 4
    assert "4 of 4 stay parked" in run("redrive", "--all").stderr
    assert said("discard", "--all", "--yes") == "4 discarded\n"


# --- events ---


def test_events_are_read_as_the_stage_maps_them_now(plant: Plant) -> None:
    quarantine(plant, event(0, 4.0), event(1, "4"), event(2, 6.0))
    quarantine(plant, event(0, 4.0), event(3, 7.0))  # the first came again
    quarantine(plant, event(4), source_id="gone")
    assert len(listed()) == 5
    ran = run("redrive", "--all")
    assert ran.exit_code == 1
    assert "stays parked: temperature is not a number: '4'" in ran.stderr
    assert "stays parked: the stage has no source gone" in ran.stderr
    assert f"stored, unit at {format_time(RECENTLY)}" in ran.stdout
    assert "2 of 5 stay parked" in ran.stderr
    assert stored(plant) == [(RECENTLY + k * MINUTE, value) for k, value in ((0, 4.0), (2, 6.0), (3, 7.0))]
    assert plant.cloud.sensors.get("unit").source_id == "device"
    assert plant.cloud.pending.of(bucket_of("unit", 16)), "the hour is exported again"
    assert sorted(one["what"] for one in listed()) == ["device, event id-1", "gone, event id-0"]
    kept = [line for key in plant.cloud.data.keys("quarantine/") for line in plant.cloud.data.get(key).splitlines()]
    assert [json.loads(line)["raw"] for line in kept] == [event(1, "4"), event(4)]


def test_an_event_never_replaces_a_reading_that_came_after_it(plant: Plant) -> None:
    plant.store([Reading("unit", RECENTLY, {"temperature": 5.0})])
    quarantine(plant, event(0, 4.0))
    assert f"not needed, unit at {format_time(RECENTLY)} has a reading" in said("redrive", "--all")
    assert stored(plant) == [(RECENTLY, 5.0)]
    assert listed() == []


def test_a_redrive_that_fails_half_way_loses_nothing(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    quarantine(plant, *(event(k) for k in range(5)))
    real, calls = plant.cloud.dynamodb.put_item, []

    def fails_at_the_third(**given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise ClientError({"Error": {"Code": "InternalServerError", "Message": "oh"}}, "PutItem")
        return real(**given)

    with monkeypatch.context() as patch:
        patch.setattr(plant.cloud.dynamodb, "put_item", fails_at_the_third)
        ran = run("redrive", "--all")
    assert ran.exit_code == 1
    assert "InternalServerError" in ran.stderr
    assert (len(stored(plant)), len(listed())) == (2, 3)
    said("redrive", "--all")
    assert [moment for moment, _ in stored(plant)] == [RECENTLY + k * MINUTE for k in range(5)]
    assert listed() == []


# --- tickets ---


def test_a_ticket_is_owed_again_with_what_follows_it(tickets: TicketsStore) -> None:
    for change in changes_of(verdict(0), verdict(1)):
        tickets.apply(change)
        tickets.park(change.entry, "refused: [too long]", "")
    assert [one["what"] for one in listed()] == [
        "open of orders_daily#unusual_run, run run-0",
        "comment of orders_daily#unusual_run, run run-1",
    ]
    assert said("redrive", "--all").endswith("2 redriven\n")
    assert tickets.owed() == {"orders_daily#unusual_run": {"run#run-0", "run#run-1"}}


def test_a_ticket_that_is_owed_meanwhile_is_not_discarded(tickets: TicketsStore) -> None:
    (change,) = changes_of(verdict(0))
    tickets.apply(change)
    assert not tickets.discard_parked(change.entry)
    assert tickets.owed()
