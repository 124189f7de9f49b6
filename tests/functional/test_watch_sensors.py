"""watch_sensors through its handler: what is owed is sent once, what is over is taken off the list."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from lambdas.runtime.clock import ClockFace, FileClock
from lambdas.sensors.links import PageLinks
from lambdas.sensors.stores import Sensor
from lambdas.sensors.watch_sensors import handler as watching
from overcut.sensors.alerts import Budget, TextRefusedError
from overcut.sensors.incidents import (
    Answer,
    Cause,
    Change,
    ChangeKind,
    Episode,
    Equipment,
    Head,
    Incident,
    IncidentKind,
    IncidentState,
    Response,
    Text,
    TextKind,
    TextState,
)
from overcut.sensors.readings import Reading
from overcut.sensors.silence import SourceSeen
from tests.functional.alarms import tripped
from tests.functional.conftest import Cloud

NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CLAIM_SECONDS = 90
LINK_PREFIX = "https://page.example/"
TEXTED_KINDS = [kind for kind in get_args(IncidentKind) if kind != "site_silent"]


def open_incident(cloud: Cloud, sensor_id: str, *texts: Text, site: str = "Aarhus", **values: Any) -> Incident:
    incident = Incident(
        equipment=Equipment(sensor_id, f"Unit {sensor_id}", "north", site),
        kind="equipment",
        state=IncidentState.OPEN,
        opened_at=NOON,
        first_anomalous_at=NOON - 4 * MINUTE,
        last_anomalous_at=NOON,
        cause=Cause("temperature", "C", 30.0, 3.5, 4.5, 9.0, 2.0, "v1"),
        texts={text.text_key: text for text in texts},
    )
    incident = replace(incident, **values)
    head = Head(1, NOON, NOON - 4 * MINUTE, NOON)
    cloud.incidents.open(incident, Change(ChangeKind.OPEN, Episode(head.first_anomalous_at, NOON, NOON), head))
    return incident


class Plant:
    """Incidents as a detector leaves them, and one phone that gets every text of the topic."""

    def __init__(self, cloud: Cloud, clock: FileClock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cloud = cloud
        self.clock = clock
        self._monkeypatch = monkeypatch
        self.links: list[str] = []
        self.phone = cloud.sqs.create_queue(QueueName="phone")["QueueUrl"]
        arn = cloud.sqs.get_queue_attributes(QueueUrl=self.phone, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        cloud.sns.subscribe(TopicArn=cloud.topic, Protocol="sqs", Endpoint=arn)

    def open(self, sensor_id: str, *texts: Text, site: str = "Aarhus", **values: Any) -> Incident:
        return open_incident(self.cloud, sensor_id, *texts, site=site, **values)

    def watch(self, minute: float, machine_time: float = 1_000) -> list[tuple[str, str]]:
        """Run once; return to whom which text went, without its link."""
        origin = (NOON + minute * MINUTE).timestamp()
        self.clock.set(ClockFace(origin=origin, wall=0.0, speed=0.0, ttl_offset=0.0))
        self._monkeypatch.setattr(watching, "time", SimpleNamespace(time=lambda: machine_time))
        watching.handler({"source": "aws.events"}, None)
        sent = []
        while messages := self.cloud.sqs.receive_message(QueueUrl=self.phone).get("Messages"):
            for message in messages:
                notification = json.loads(message["Body"])
                body, _, link = notification["Message"].partition(f" {LINK_PREFIX}")
                self.links += [link] if link else []
                sent.append((notification["MessageAttributes"]["contact_id"]["Value"], body))
                self.cloud.sqs.delete_message(QueueUrl=self.phone, ReceiptHandle=message["ReceiptHandle"])
        return sent

    def states(self, incident: Incident) -> dict[str, str]:
        found = self.cloud.incidents.get(incident.equipment.sensor_id, incident.opened_at)
        assert found
        return {key: text.state.value for key, text in found.texts.items()}

    def on_the_list(self) -> list[str]:
        return sorted(incident.equipment.sensor_id for incident in self.cloud.incidents.needing_attention())


@pytest.fixture
def plant(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    environment = {
        "INCIDENTS_TABLE": cloud.tables["Incidents"],
        "ALERTS_TOPIC": cloud.topic,
        "CLOCK": str(tmp_path / "clock.json"),
        "GROUP_MINUTES": "3",
        "CLAIM_SECONDS": str(CLAIM_SECONDS),
        "NEW_NORMAL_AFTER_HOURS": "24",
        "SENSORS_TABLE": cloud.tables["Sensors"],
        "SOURCES_TABLE": cloud.tables["Sources"],
        "STAGE": "local",
        "DATA_BUCKET": cloud.bucket,
        "SOURCES": '["device", "gateway"]',
        "SILENT_AFTER_MINUTES": "15",
        "TEXTS_PER_HOUR": "20",
        "TEXTS_PER_MONTH": "500",
        "TEXTED_KINDS": json.dumps(TEXTED_KINDS),
        "CONTACTS": json.dumps([{"contact_id": "north", "customers": ["north"]}]),
        "DEFAULT_CONTACT": "day",
        "ESCALATE_AFTER_MINUTES": "15",
        "LINK_PREFIX": LINK_PREFIX,
        "LINK_HOURS": "48",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    watching.dependencies.cache_clear()
    yield Plant(cloud, FileClock(tmp_path / "clock.json"), monkeypatch)
    watching.dependencies.cache_clear()


def alert(contact: str = "day", state: TextState = TextState.OWED, until: int = 0) -> Text:
    return Text(TextKind.ALERT, contact, state, until)


def recovery(contact: str = "day", state: TextState = TextState.OWED) -> Text:
    return Text(TextKind.RECOVERY, contact, state)


# --- reminders ---


def lasting(plant: Plant, *texts: Text, hours: float = 24.1, **values: Any) -> Incident:
    return plant.open("a", *texts, first_anomalous_at=NOON - timedelta(hours=hours), **values)


def test_who_was_alerted_is_reminded_once_of_an_incident_that_lasts(plant: Plant) -> None:
    incident = lasting(plant, alert(state=TextState.SENT), alert("night", TextState.DIGEST))
    ((contact, body),) = plant.watch(0)
    assert contact == "day"
    assert body == (
        "STILL Unit a, Aarhus: temperature 30.0 C since 04 Jan 11:54 UTC."
        f" Learned as usual unless marked a fault. Ref {incident.reference}"
    )
    assert plant.states(incident)["reminder#day"] == "sent"
    assert [plant.watch(minute) for minute in (1, 5, 600)] == [[], [], []]


def test_nobody_is_reminded_before_a_day_is_over_or_of_what_is(plant: Plant) -> None:
    lasting(plant, alert(state=TextState.SENT), hours=24)
    plant.open(
        "b",
        alert(state=TextState.SENT),
        state=IncidentState.RECOVERED,
        recovered_at=NOON,
        first_anomalous_at=NOON - timedelta(days=3),
    )
    assert plant.watch(0) == []


@pytest.mark.parametrize("label", ["fault", "false_alarm"])
def test_nobody_is_reminded_of_what_a_person_has_seen(plant: Plant, label: str) -> None:
    plant.cloud.incidents.label(lasting(plant, alert(state=TextState.SENT)), label)
    assert plant.watch(0) == []


def test_what_was_learned_as_usual_stays_on_the_list_until_it_is_over(plant: Plant) -> None:
    incident = lasting(plant, alert(state=TextState.SENT), state=IncidentState.NEW_NORMAL)
    assert plant.watch(0) == []
    assert plant.on_the_list() == ["a"]
    head = Head(2, NOON, incident.first_anomalous_at, NOON, NOON + 31 * MINUTE)
    over = Change(ChangeKind.RECOVER, Episode(head.first_anomalous_at, NOON, NOON, head.recovered_at), head)
    recovered_at = "2026-01-05T12:31:00Z"
    plant.cloud.incidents.update(
        "a", "equipment", over, recovered_at=recovered_at, texts={recovery().text_key: recovery()}
    )
    assert plant.watch(31) == [
        (
            "day",
            "OK AGAIN Unit a, Aarhus: nobody called it a fault, so it was learned as usual. It began 04 Jan 11:54."
            f" Ref {incident.reference}",
        )
    ]
    assert plant.watch(32) == []
    assert plant.on_the_list() == []


# --- answers on the incident's page ---

CHAIN = [{"contact_id": "day", "escalate_to": "night"}, {"contact_id": "night", "escalate_to": "lead"}]


def respond(plant: Plant, incident: Incident, answer: Answer, minute: float, contact: str = "day") -> None:
    """Answer as the page does, to a new link of it."""
    store, at = plant.cloud.incidents, NOON + minute * MINUTE
    link = PageLinks(store, LINK_PREFIX, timedelta(hours=1)).make(contact, [incident], 0)
    token = link.removeprefix(LINK_PREFIX)
    found = store.link(token, 0)
    assert found
    until = at + 60 * MINUTE if answer is Answer.SNOOZE else None
    known = store.linked(found.incidents)
    assert store.respond(token, found.nonce, "next", known, Response(answer, contact, at, until), 0)


@pytest.fixture
def chain(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> Plant:
    monkeypatch.setenv("CONTACTS", json.dumps(CHAIN))
    watching.dependencies.cache_clear()
    return plant


def test_an_alert_links_to_its_incident_and_a_recovery_to_nothing(plant: Plant) -> None:
    over: dict[str, Any] = {"state": IncidentState.RECOVERED, "recovered_at": NOON + 30 * MINUTE}
    incident = plant.open("a", alert(), recovery(), **over)
    plant.watch(31)
    plant.watch(32)
    (token,) = plant.links
    link = plant.cloud.incidents.link(token, 1_000)
    assert link
    assert (link.contact_id, link.expires_at) == ("day", 1_000 + 48 * 3600)
    assert [known.incident.reference for known in plant.cloud.incidents.linked(link.incidents)] == [incident.reference]


def test_nobody_answers_and_each_contact_is_followed_by_the_next_once(chain: Plant) -> None:
    chain.open("a", alert())
    sent = {minute: [contact for contact, _ in chain.watch(minute)] for minute in range(0, 60, 5)}
    assert {minute: to for minute, to in sent.items() if to} == {0: ["day"], 15: ["night"], 30: ["lead"]}
    assert len(set(chain.links)) == 3, "each has a link of its own"


@pytest.mark.parametrize("answer", [Answer.ON_IT, Answer.FALSE_ALARM])
def test_an_answer_ends_the_chain(chain: Plant, answer: Answer) -> None:
    incident = chain.open("a", alert())
    chain.watch(0)
    respond(chain, incident, answer, 14)
    assert [chain.watch(minute) for minute in (15, 30, 300)] == [[], [], []]


def test_an_answer_that_comes_while_the_next_text_waits_for_its_turn_keeps_it(chain: Plant) -> None:
    incident = chain.open("a", alert())
    chain.watch(0)
    # another incident of the place has used the turn
    chain.open("b", alert("night"))
    chain.watch(14)
    assert chain.watch(15) == []
    assert chain.states(incident)["alert#night"] == "owed"
    respond(chain, incident, Answer.ON_IT, 16)
    assert chain.watch(18) == []
    assert chain.states(incident)["alert#night"] == "owed"
    over = Head(2, NOON, NOON, NOON, NOON + 40 * MINUTE)
    change = Change(ChangeKind.RECOVER, Episode(NOON, NOON, NOON, over.recovered_at), over)
    values = {"state": "recovered", "recovered_at": "2026-01-05T12:40:00Z"}
    texts = {text.text_key: text for text in (recovery(), recovery("night"))}
    chain.cloud.incidents.update("a", "equipment", change, **values, texts=texts)
    told = [contact for contact, body in chain.watch(41) if body.startswith("OK AGAIN")]
    assert told == ["day"], "who was not told of the beginning is not of the end"
    chain.watch(42)
    assert chain.on_the_list() == ["b"]


def test_who_snoozed_is_asked_again_and_then_the_next_is(chain: Plant) -> None:
    incident = chain.open("a", alert())
    chain.watch(0)
    respond(chain, incident, Answer.SNOOZE, 10)
    assert [chain.watch(minute) for minute in (15, 30, 69)] == [[], [], []]
    ((contact, body),) = chain.watch(70)
    assert contact == "day"
    assert body == (
        f"STILL Unit a, Aarhus: temperature 30.0 C, usual 3.5 to 4.5, since 11:56 UTC. Ref {incident.reference}"
    )
    assert chain.watch(71) == []
    assert [contact for contact, _ in chain.watch(85)] == ["night"]
    respond(chain, incident, Answer.SNOOZE, 90)
    assert [chain.watch(minute) for minute in (91, 149)] == [[], []]
    assert sorted(contact for contact, _ in chain.watch(150)) == ["day"]


def test_a_snooze_ends_with_its_incident(plant: Plant) -> None:
    incident = plant.open("a", alert())
    plant.watch(0)
    respond(plant, incident, Answer.SNOOZE, 10)
    over = Head(2, NOON, NOON, NOON, NOON + 40 * MINUTE)
    change = Change(ChangeKind.RECOVER, Episode(NOON, NOON, NOON, over.recovered_at), over)
    values = {"state": "recovered", "recovered_at": "2026-01-05T12:40:00Z"}
    plant.cloud.incidents.update("a", "equipment", change, **values, texts={recovery().text_key: recovery()})
    assert [body[:8] for _, body in plant.watch(41)] == ["OK AGAIN"]
    assert [plant.watch(minute) for minute in (42, 70)] == [[], []]
    assert plant.on_the_list() == []


# --- what is owed ---


def test_nothing_owed_is_nothing_sent(plant: Plant) -> None:
    assert plant.watch(0) == []


def test_an_owed_text_is_sent_once(plant: Plant) -> None:
    incident = plant.open("a", alert())
    ((contact, body),) = plant.watch(1)
    assert contact == "day"
    assert body == (
        f"ALERT Unit a, Aarhus: temperature 30.0 C, usual 3.5 to 4.5, since 11:56 UTC. Ref {incident.reference}"
    )
    assert plant.states(incident) == {"alert#day": "sent"}
    assert plant.watch(2) == plant.watch(60, machine_time=9_000) == []
    assert plant.on_the_list() == ["a"]  # it is still open


def test_every_contact_is_texted_on_its_own(plant: Plant) -> None:
    plant.open("a", alert("day"), alert("night"))
    assert sorted(contact for contact, _ in plant.watch(1)) == ["day", "night"]


def test_several_of_one_site_are_one_text_and_another_site_is_another(plant: Plant) -> None:
    for sensor_id in "abc":
        plant.open(sensor_id, alert())
    plant.open("d", alert(), site="Bergen")
    bodies = sorted(body[:46] for _, body in plant.watch(1))
    assert bodies == [
        "ALERT Aarhus: 3 units also abnormal: Unit a, U",
        "ALERT Unit d, Bergen: temperature 30.0 C, usual"[:46],
    ]
    assert plant.watch(2) == []


def test_a_recovery_leaves_after_its_alert_and_then_the_incident_is_settled(plant: Plant) -> None:
    over: dict[str, Any] = {
        "state": IncidentState.RECOVERED,
        "recovered_at": NOON + 30 * MINUTE,
        "anomalous_minutes": 5,
    }
    incident = plant.open("a", alert(), recovery(), **over)
    assert [body[:6] for _, body in plant.watch(31)] == ["ALERT "]
    assert plant.states(incident) == {"alert#day": "sent", "recovery#day": "owed"}
    assert [body[:8] for _, body in plant.watch(32)] == ["OK AGAIN"]
    assert plant.watch(33) == []
    assert plant.on_the_list() == []


@pytest.mark.parametrize("state", [TextState.WAITING, TextState.DIGEST, TextState.SENT])
def test_what_is_not_owed_is_not_sent(plant: Plant, state: TextState) -> None:
    plant.open("a", alert(state=state))
    assert plant.watch(1, machine_time=1e9) == []


def test_the_text_of_a_sender_that_died_is_sent_when_its_claim_has_run_out(plant: Plant) -> None:
    incident = plant.open("a", alert())
    assert plant.cloud.incidents.claim([incident], "alert#day", 1_000, 1_090)
    assert plant.watch(1, machine_time=1_090) == []
    assert len(plant.watch(2, machine_time=1_091)) == 1
    assert plant.watch(3, machine_time=1_300) == []


def test_a_text_that_another_sender_takes_meanwhile_is_not_sent_twice(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    incident = plant.open("a", alert())
    store = watching.dependencies().incidents
    real = store.permit

    def permit(*given: Any) -> bool:
        assert plant.cloud.incidents.claim([incident], "alert#day", 1_000, 1_090)
        return real(*given)

    monkeypatch.setattr(type(store), "permit", lambda self, *given: permit(*given))
    assert plant.watch(1) == []


def test_a_unit_that_is_abnormal_and_whose_sensor_is_stuck_is_told_once_and_both_are_settled(plant: Plant) -> None:
    over: dict[str, Any] = {
        "state": IncidentState.RECOVERED,
        "recovered_at": NOON + 30 * MINUTE,
        "anomalous_minutes": 5,
    }
    fault = plant.open("a", alert(), recovery(), **over)
    plant.open("a", alert(), recovery(), **over, kind="stuck", first_anomalous_at=NOON - 3 * MINUTE)
    assert plant.watch(31) == [
        ("day", f"ALERT Aarhus: 1 unit also abnormal: Unit a, since 11:56 UTC. Ref {fault.reference}")
    ]
    assert plant.watch(32) == [("day", f"Aarhus: 1 unit OK again: Unit a, since 12:00 UTC. Ref {fault.reference}")]
    assert plant.watch(33) == []
    assert plant.on_the_list() == []


def test_a_stuck_sensor_is_told_by_the_sweep(plant: Plant) -> None:
    incident = plant.open("a", alert(), kind="stuck")
    assert plant.watch(1) == [
        ("day", f"ALERT Unit a, Aarhus: temperature stuck at 30.0 C since 11:56 UTC. Ref {incident.reference}")
    ]
    assert plant.watch(2) == []


# --- budgets and digests ---


def test_the_texts_over_an_hour_s_budget_are_one_digest_at_once_and_one_an_hour_later(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXTS_PER_HOUR", "2")
    watching.dependencies.cache_clear()
    found = [plant.open(f"s{k}", alert(), site=f"Site {k}") for k in range(5)]
    assert len(plant.watch(1)) == 2
    assert [plant.states(one)["alert#day"] for one in found] == ["sent"] * 2 + ["digest"] * 3
    ((contact, body),) = plant.watch(2)
    assert (contact, body[:66]) == ("day", "DIGEST 3 texts held back since 05 Jan 11:56 UTC, 3 still open. Wor")
    assert {plant.states(one)["alert#day"] for one in found} == {"sent"}

    later = [plant.open(f"t{k}", alert(), site=f"Site {k + 5}") for k in range(2)]
    assert [plant.watch(minute) for minute in (3, 4, 59)] == [[], [], []]
    assert [body[:18] for _, body in plant.watch(63)] == ["DIGEST 2 texts hel"]
    assert {plant.states(one)["alert#day"] for one in later} == {"sent"}
    assert plant.watch(64) == []
    plant.open("u", alert(), site="Bergen")
    assert [body[:12] for _, body in plant.watch(65)] == ["ALERT Unit u"], "another hour, another budget"


@pytest.mark.parametrize("permitted", [NOON, NOON + timedelta(days=1)], ids=["held back", "too old"])
def test_a_digest_whose_sender_died_leaves_an_hour_later(plant: Plant, permitted: datetime) -> None:
    plant.open("a", alert(state=TextState.DIGEST))
    store, budget = plant.cloud.incidents, Budget(20, 500)
    if permitted == NOON:
        store.hold_back([], "alert#day", NOON)
    else:
        assert not store.permit_digest("day", NOON, budget), "it waits for a day"
    assert store.permit_digest("day", permitted, budget)
    after = (permitted - NOON) / MINUTE
    assert [plant.watch(after + minute) for minute in (1, 59)] == [[], []]
    assert [body[:13] for _, body in plant.watch(after + 60)] == ["DIGEST 1 text"]
    assert plant.watch(after + 121) == []


def test_a_month_s_budget_that_is_used_up_leaves_a_digest_a_day(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTS_PER_MONTH", "1")
    watching.dependencies.cache_clear()
    for k in range(2):
        plant.open(f"s{k}", alert(), site=f"Site {k}")
    assert [body[:6] for minute in (1, 2) for _, body in plant.watch(minute)] == ["ALERT ", "DIGEST"]
    plant.open("later", alert(), site="Bergen")
    assert [plant.watch(minute) for minute in (3, 70, 24 * 60)] == [[], [], []]
    assert [body[:6] for _, body in plant.watch(24 * 60 + 2)] == ["DIGEST"]


def test_what_was_too_old_to_be_texted_is_told_in_a_digest_a_day_later_and_settled(plant: Plant) -> None:
    over: dict[str, Any] = {"state": IncidentState.RECOVERED, "recovered_at": NOON + 30 * MINUTE}
    stale = [plant.open(f"s{k}", alert(state=TextState.DIGEST), **over) for k in range(3)]
    assert [plant.watch(minute) for minute in (1, 600, 24 * 60)] == [[], [], []]
    assert [body[:63] for _, body in plant.watch(24 * 60 + 1)] == [
        "DIGEST 3 texts held back since 05 Jan 11:56 UTC, 0 still open. "
    ]
    assert plant.watch(24 * 60 + 2) == []
    assert plant.on_the_list() == []
    assert {plant.states(one)["alert#day"] for one in stale} == {"sent"}


def test_the_end_of_what_is_held_back_is_held_back_with_it(plant: Plant) -> None:
    over: dict[str, Any] = {"state": IncidentState.RECOVERED, "recovered_at": NOON + 30 * MINUTE}
    incident = plant.open("a", alert(state=TextState.DIGEST), recovery(), **over)
    assert plant.watch(1) == []
    assert plant.states(incident) == {"alert#day": "digest", "recovery#day": "digest"}
    assert [body[:22] for _, body in plant.watch(2)] == ["DIGEST 2 texts held ba"]
    assert plant.watch(3) == []
    assert plant.on_the_list() == []


def test_a_sweep_that_ends_soon_begins_no_text(plant: Plant) -> None:
    plant.open("a", alert())
    plant.clock.set(ClockFace(origin=(NOON + MINUTE).timestamp(), wall=0.0, speed=0.0, ttl_offset=0.0))
    ends_soon: Any = SimpleNamespace(get_remaining_time_in_millis=lambda: 19_000)
    watching.handler({}, ends_soon)
    assert [body[:12] for _, body in plant.watch(2)] == ["ALERT Unit a"]


# --- alarms, and what the log says ---


def test_a_sweep_in_order_trips_no_alarm_and_logs_references_but_no_words(
    plant: Plant,
    local_template: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    incident = plant.open("a", alert())
    ((_, body),) = plant.watch(1)
    assert tripped(local_template, capsys.readouterr().out) == set()
    (told,) = (vars(record) for record in caplog.records if record.message == "text")
    assert (told["outcome"], told["contact_id"], told["references"]) == ("sent", "day", [incident.reference])
    assert incident.reference in body
    assert "Unit a" not in str([vars(record) for record in caplog.records])


def test_texts_that_sns_does_not_take_trip_an_alarm(
    plant: Plant, local_template: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, contact_id: str, body: str) -> str:
        raise TextRefusedError("no")

    monkeypatch.setattr(type(watching.dependencies().topic), "send", refuse)
    plant.open("a", alert())
    plant.watch(1)
    assert tripped(local_template, capsys.readouterr().out) == {"SweepsFail"}


def test_a_batch_that_lambda_gave_up_trips_an_alarm_until_it_is_gone(
    plant: Plant, local_template: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    key = "aws/lambda/mapping/shard/2026/01/05/batch"
    plant.cloud.data.put(key, b"{}")
    plant.watch(1)
    assert tripped(local_template, capsys.readouterr().out) == {"BatchesParked"}
    plant.cloud.data.delete(key)
    plant.watch(2)
    assert tripped(local_template, capsys.readouterr().out) == set()


def test_a_budget_that_is_used_up_trips_an_alarm(
    plant: Plant, local_template: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXTS_PER_HOUR", "1")
    watching.dependencies.cache_clear()
    for k in range(2):
        plant.open(f"s{k}", alert(), site=f"Site {k}")
    plant.watch(1)
    assert tripped(local_template, capsys.readouterr().out) == {"TextsHeld"}


# --- silence ---


def hear(plant: Plant, minute: int, sensors: str, source_id: str = "device", measured: int | None = None) -> None:
    """A source brings a reading of each of `sensors`, and a poll keeps that it did."""
    seen = plant.cloud.data.seen(source_id) or SourceSeen()
    moment = NOON + (minute if measured is None else measured) * MINUTE
    readings = [Reading(sensor_id, moment, {"temperature": 4.0}) for sensor_id in sensors]
    seen.hear(readings, int((NOON + minute * MINUTE).timestamp()), 15 * 60)
    plant.cloud.data.put_seen(source_id, seen)


def stood(plant: Plant, sensors: str = "ab") -> None:
    """`sensors` of Lyon were heard until 12:04, and `x` and `y`, which nobody has assigned, too."""
    plant.cloud.sensors.put(
        [Sensor(name, "device", {}, f"Unit {name}", "north", "Lyon", "") for name in sensors]
        + [Sensor(name, "device", {}) for name in "xy"],
        16,
    )
    for minute in range(5):
        hear(plant, minute, f"{sensors}xy")


def kinds(plant: Plant) -> list[tuple[str, str, str]]:
    return sorted(
        (one.incident.kind, one.incident.equipment.sensor_id, one.incident.state.value)
        for one in plant.cloud.incidents.known()
    )


def without_references(texts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(contact, body.partition(" Ref ")[0]) for contact, body in texts]


def test_a_silent_sensor_is_told_once_and_so_is_that_it_is_heard_again(plant: Plant) -> None:
    stood(plant)
    for minute in range(5, 40):
        hear(plant, minute, "axy")
    assert plant.watch(19) == []
    assert without_references(plant.watch(20)) == [("north", "ALERT Unit b, Lyon: no reading since 12:04 UTC.")]
    assert plant.watch(21) == plant.watch(40) == []
    hear(plant, 41, "abxy", measured=5)
    assert without_references(plant.watch(41)) == [
        ("north", "OK AGAIN Unit b, Lyon: readings again. There was none from 12:04 to 12:41 UTC.")
    ]
    assert plant.watch(42) == []
    assert plant.on_the_list() == []
    assert kinds(plant) == [("silent", "b", "recovered")]


def test_a_dead_source_is_one_incident_and_one_text_to_each_contact_of_its_sensors(plant: Plant) -> None:
    stood(plant)
    plant.cloud.sources.failed("device", "connection refused", NOON)
    assert plant.watch(19) == []
    assert without_references(plant.watch(20)) == [
        (contact, "ALERT Source device: its stream cannot be read, nothing since 12:04 UTC.")
        for contact in ("day", "north")
    ]
    assert plant.watch(130) == []
    assert kinds(plant) == [("source_silent", "#source#device", "open")]


def test_two_hours_of_backlog_are_no_flood(plant: Plant) -> None:
    stood(plant)
    plant.watch(20)
    for minute in range(125, 133):
        hear(plant, minute, "abxy", measured=5 + 16 * (minute - 125))
        texts = without_references(plant.watch(minute))
        assert [body for _, body in texts] == (
            ["OK AGAIN Source device: readings again. There was none from 12:04 to 14:05 UTC."] * 2
            if minute == 125
            else []
        )
    assert kinds(plant) == [("source_silent", "#source#device", "recovered")]


def test_a_whole_site_is_one_incident_and_kept_without_a_text_where_the_stage_says_so(plant: Plant) -> None:
    stood(plant)
    for minute in range(5, 40):
        hear(plant, minute, "xy")
    assert plant.watch(20) == plant.watch(39) == []  # `site_silent` is not among the texted kinds
    assert kinds(plant) == [("site_silent", "#site#north/Lyon", "open")]
    hear(plant, 40, "abxy")
    assert plant.watch(40) == plant.watch(41) == []
    assert kinds(plant) == [("site_silent", "#site#north/Lyon", "recovered")]


def test_time_that_runs_backwards_is_told(plant: Plant) -> None:
    stood(plant)
    for minute in range(5, 21):
        hear(plant, minute, "axy")
        hear(plant, minute, "b", measured=minute - 120)
    assert without_references(plant.watch(20)) == [
        (
            "north",
            "ALERT Unit b, Lyon: readings come, but none measured after 12:04 UTC: its clock may run behind.",
        )
    ]
    hear(plant, 21, "abxy")
    assert without_references(plant.watch(21) + plant.watch(22)) == [
        ("north", "OK AGAIN Unit b, Lyon: its clock goes on. No reading measured after 12:04 UTC came until 12:21.")
    ]


def test_a_silence_that_is_over_before_its_text_could_leave_is_told_to_nobody(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood(plant)
    for minute in range(5, 21):
        hear(plant, minute, "axy")
    topic = type(watching.dependencies().topic)

    def refuse(self: object, contact_id: str, body: str) -> str:
        raise TextRefusedError("no")

    with monkeypatch.context() as broken:
        broken.setattr(topic, "send", refuse)
        assert plant.watch(20) == []
        hear(plant, 21, "abxy")
        assert plant.watch(21) == []
    assert plant.watch(22) == plant.watch(23) == []
    (known,) = (one.incident for one in plant.cloud.incidents.known() if one.incident.kind == "silent")
    assert {key: text.state.value for key, text in known.texts.items()} == {"alert#north": "digest"}


def test_a_silence_of_the_past_is_not_told(plant: Plant) -> None:
    """Nobody watched while the sensor was silent: it is heard again by now."""
    stood(plant)
    for minute in range(5, 60):
        hear(plant, minute, "axy")
    hear(plant, 60, "abxy")
    assert plant.watch(60) == []
    assert kinds(plant) == []


def test_a_sensor_that_nobody_waits_for_any_more_is_closed_without_a_text(plant: Plant) -> None:
    stood(plant)
    for minute in range(5, 21):
        hear(plant, minute, "axy")
    assert len(plant.watch(20)) == 1
    hear(plant, 21, "axy", source_id="gateway")
    seen = plant.cloud.data.seen("device")
    assert seen
    del seen.sensors["b"]
    plant.cloud.data.put_seen("device", seen)
    assert plant.watch(21) == plant.watch(22) == []
    assert kinds(plant) == [("silent", "b", "new_normal")]


def test_the_readings_of_a_silence_are_learned_from(plant: Plant) -> None:
    stood(plant)
    for minute in range(5, 21):
        hear(plant, minute, "axy")
    plant.watch(20)
    plant.open("a", alert(), kind="stuck")
    assert [one["sensor_id"] for one in plant.cloud.incidents.stretches(NOON - 60 * MINUTE)] == ["a"]
