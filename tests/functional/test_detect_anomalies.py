"""detect_anomalies through its handler: from records of the stream to incidents and to what a phone received."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial, partialmethod
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast, get_args

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambdas.runtime.clock import ClockFace, FileClock
from lambdas.sensors import stores
from lambdas.sensors.detect_anomalies import detection
from lambdas.sensors.detect_anomalies import handler as detecting
from lambdas.sensors.detect_anomalies.detection import Arrival, Detector
from lambdas.sensors.stores import Sensor
from lambdas.sensors.watch_sensors import handler as watching
from overcut.sensors.alerts import TextRefusedError
from overcut.sensors.cohorts import CohortModel, SensorSeries, TrainingRules, train_cohort
from overcut.sensors.cutoffs import Cutoff
from overcut.sensors.features import WINDOW
from overcut.sensors.incidents import Incident, IncidentKind, IncidentState, Text, TextKind, TextState
from overcut.sensors.models import dump_model, load_model, score_reading
from overcut.sensors.readings import Reading, parse_time
from tests.functional.alarms import tripped
from tests.functional.conftest import Cloud
from tests.functional.streams import stream_event, stream_record

NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
USUAL, HOT = 4.0, 30.0
CONTACTS = [
    {"contact_id": "day", "customers": [], "sites": []},
    {"contact_id": "north", "customers": ["north"], "sites": []},
    {"contact_id": "aarhus", "customers": ["north"], "sites": ["Aarhus"]},
]


@cache
def trained() -> CohortModel:
    """A forest, and a cutoff for `a`, from ten hours around 4.0 degrees in steps of 0.1.

    The laboratory's, which judges a reading by itself: what is tested with it is what becomes of verdicts.
    """
    values = np.round(4.0 + 0.5 * np.sin(np.arange(600) / 7.0), 1).reshape(-1, 1)
    first = int((NOON - timedelta(days=1)).timestamp())
    series = SensorSeries("a", np.arange(first, first + 600 * 60, 60, dtype=np.int64), values)
    return train_cohort(
        [series],
        cohort_id="kind-fridge-0123abcd",
        measures=["temperature"],
        rules=TrainingRules(detector="laboratory"),
        trained_at=NOON - timedelta(hours=12),
        seed=1,
    )


LINK_PREFIX = "https://page.example/"


class Plant:
    """Sensors, what they measure, and the phones of those who are texted."""

    def __init__(self, cloud: Cloud, clock: FileClock) -> None:
        self.cloud = cloud
        self.clock = clock
        self._threads = ThreadPoolExecutor(1)
        model = trained()
        (self.cutoff,) = model.cutoffs
        assert model.model
        cloud.data.put(self.cutoff.model_key, dump_model(model.model))
        self.phones = {}
        for contact in CONTACTS:
            name = str(contact["contact_id"])
            queue = cloud.sqs.create_queue(QueueName=f"phone-{name}")["QueueUrl"]
            arn = cloud.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            policy = {"FilterPolicy": json.dumps({"contact_id": [name]}), "RawMessageDelivery": "true"}
            cloud.sns.subscribe(TopicArn=cloud.topic, Protocol="sqs", Endpoint=arn, Attributes=policy)
            self.phones[name] = queue

    def close(self) -> None:
        self._threads.shutdown()

    def add(self, sensor_id: str, site: str = "", customer: str = "", *, history: int = 0, name: str = "") -> str:
        """A sensor with a cutoff and, before noon, so many usual readings that nobody was told of."""
        sensor = Sensor(sensor_id, "device", {"temperature": "C"}, name=name, customer=customer, site=site)
        self.cloud.sensors.put([sensor], 16)
        self.cloud.cutoffs.put([replace(self.cutoff, sensor_id=sensor_id)])
        self.store([Reading(sensor_id, NOON - k * MINUTE, {"temperature": USUAL}) for k in range(1, history + 1)])
        return sensor_id

    def set_clock(self, now: datetime) -> None:
        self.clock.set(ClockFace(origin=now.timestamp(), wall=0.0, speed=0.0, ttl_offset=0.0))

    def store(self, readings: Sequence[Reading]) -> None:
        self.cloud.readings.put(readings, lambda moment: 0, self._threads)

    def deliver(self, readings: Sequence[Reading], now: datetime | None = None) -> None:
        """Hand one batch of stored readings to the function; the present is when the newest was measured."""
        now = now or max(reading.measured_at for reading in readings)
        self.set_clock(now)
        detecting.handler(stream_event(self.cloud, readings, written_at=now), None)

    def arrive(self, readings: Sequence[Reading], now: datetime | None = None) -> None:
        self.store(readings)
        self.deliver(readings, now)

    def watch(self, now: datetime) -> None:
        self.set_clock(now)
        watching.handler({}, None)

    def texts(self) -> dict[str, list[str]]:
        """What came to each phone since the last look, without links."""
        received = {}
        for name, queue in self.phones.items():
            bodies = []
            while messages := self.cloud.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
                for message in messages:
                    bodies.append(message["Body"].partition(f" {LINK_PREFIX}")[0])
                    self.cloud.sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            if bodies:
                received[name] = bodies
        return received

    def incidents(self, sensor_id: str = "a") -> list[Incident]:
        return self.cloud.incidents.of(sensor_id, NOON - timedelta(days=60), NOON + timedelta(days=2))

    def one_incident(self, sensor_id: str = "a") -> Incident:
        (found,) = self.incidents(sensor_id)
        return found


@pytest.fixture
def plant(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    environment = {
        "STAGE": "local",
        "READINGS_TABLE": cloud.tables["Readings"],
        "SENSORS_TABLE": cloud.tables["Sensors"],
        "CUTOFFS_TABLE": cloud.tables["Cutoffs"],
        "INCIDENTS_TABLE": cloud.tables["Incidents"],
        "DATA_BUCKET": cloud.bucket,
        "ALERTS_TOPIC": cloud.topic,
        "PARKED_QUEUE": cloud.parked,
        "CLOCK": str(tmp_path / "clock.json"),
        "MEASURES_REMEMBERED": "5000",
        "CONSECUTIVE_MINUTES": "5",
        "RECOVERY_MINUTES": "30",
        "STALE_AFTER_MINUTES": "30",
        "GROUP_MINUTES": "3",
        "CONTACTS": json.dumps(CONTACTS),
        "DEFAULT_CONTACT": "day",
        "CLAIM_SECONDS": "90",
        "NEW_NORMAL_AFTER_HOURS": "24",
        "SOURCES_TABLE": cloud.tables["Sources"],
        "SOURCES": '["device"]',
        "SILENT_AFTER_MINUTES": "15",
        "TEXTS_PER_HOUR": "200",
        "TEXTS_PER_MONTH": "500",
        "TEXTED_KINDS": json.dumps(get_args(IncidentKind)),
        "ESCALATE_AFTER_MINUTES": "15",
        "LINK_PREFIX": LINK_PREFIX,
        "LINK_HOURS": "48",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # making clients is what takes a cold start its time
    clients: dict[str, Any] = {"dynamodb": cloud.dynamodb, "s3": cloud.s3, "sns": cloud.sns, "sqs": cloud.sqs}
    monkeypatch.setattr(boto3, "client", lambda service, **given: clients[service])
    monkeypatch.setattr(detecting, "small_clients", lambda *services: boto3.client)
    cold_start()
    made = Plant(cloud, FileClock(tmp_path / "clock.json"))
    yield made
    made.close()
    cold_start()


def cold_start() -> None:
    detecting.dependencies.cache_clear()
    watching.dependencies.cache_clear()


def at(minute: float) -> datetime:
    return NOON + minute * MINUTE


def hot(first: int, last: int, sensor_id: str = "a") -> list[Reading]:
    return [Reading(sensor_id, at(minute), {"temperature": HOT}) for minute in range(first, last + 1)]


def usual(first: int, last: int, sensor_id: str = "a") -> list[Reading]:
    return [Reading(sensor_id, at(minute), {"temperature": USUAL}) for minute in range(first, last + 1)]


def one_by_one(plant: Plant, readings: Sequence[Reading]) -> None:
    for reading in readings:
        plant.arrive([reading])


# --- the rule, end to end ---


@pytest.mark.parametrize("history", [0, 120])
def test_five_anomalous_minutes_are_one_incident_and_one_text(plant: Plant, history: int) -> None:
    plant.add("a", "Aarhus", "south", name="Cold room 3", history=history)
    one_by_one(plant, usual(0, 1) + hot(2, 5))
    assert plant.incidents() == []
    assert plant.texts() == {}

    one_by_one(plant, hot(6, 6))
    found = plant.one_incident()
    assert (found.opened_at, found.first_anomalous_at, found.last_anomalous_at) == (at(6), at(2), at(6))
    assert (found.state, found.kind) == (IncidentState.OPEN, "equipment")
    assert (found.cause.measure, found.cause.value, found.cause.unit) == ("temperature", 30.0, "C")
    assert found.cause.anomaly_score > found.cause.score_cutoff
    assert plant.texts() == {
        "day": [
            f"ALERT Cold room 3, Aarhus: temperature 30.0 C, usual 3.5 to 4.5, since 12:02 UTC. Ref {found.reference}"
        ]
    }

    one_by_one(plant, hot(7, 9))
    assert plant.one_incident().last_anomalous_at == at(9)
    assert plant.texts() == {}


def test_four_anomalous_minutes_and_a_usual_one_between_are_nothing(plant: Plant) -> None:
    plant.add("a", history=120)
    one_by_one(plant, hot(0, 3) + usual(4, 4) + hot(5, 8) + usual(9, 9))
    assert plant.incidents() == []
    assert plant.texts() == {}


def test_a_score_at_the_cutoff_is_no_anomaly_and_a_hair_above_is(plant: Plant) -> None:
    plant.add("a")
    plant.add("b")
    model = trained().model
    assert model
    found = score_reading(model, plant.cutoff, {"temperature": [HOT]})
    assert found
    score = found.anomaly_score
    plant.cloud.cutoffs.put([replace(plant.cutoff, score_cutoff=score)])
    plant.cloud.cutoffs.put([replace(plant.cutoff, sensor_id="b", score_cutoff=float(np.nextafter(score, 0)))])
    plant.arrive(hot(0, 4))
    plant.arrive(hot(0, 4, "b"))
    assert plant.incidents() == []
    assert plant.one_incident("b").opened_at == at(4)


def test_a_whole_batch_at_once(plant: Plant) -> None:
    plant.add("a", history=120)
    plant.arrive(usual(0, 1) + hot(2, 6) + usual(7, 9))
    assert plant.one_incident().opened_at == at(6)
    assert len(plant.texts()["day"]) == 1


def test_the_same_batch_twice(plant: Plant) -> None:
    plant.add("a", history=120)
    batch = usual(0, 1) + hot(2, 6)
    plant.arrive(batch)
    before = plant.one_incident()
    assert len(plant.texts()["day"]) == 1
    plant.deliver(batch)
    cold_start()
    plant.deliver(batch)
    assert plant.one_incident() == before
    assert plant.texts() == {}


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("split", range(1, 9))
def test_two_halves_of_a_batch_in_either_order(plant: Plant, split: int, cold: bool) -> None:
    plant.add("a", history=120)
    batch = usual(0, 1) + hot(2, 6) + usual(7, 8)
    plant.arrive(batch[split:], now=at(9))
    if cold:
        cold_start()
    plant.arrive(batch[:split], now=at(9))
    found = plant.one_incident()
    assert (found.first_anomalous_at, found.opened_at, found.last_anomalous_at) == (at(2), at(6), at(6))
    assert len(plant.texts()["day"]) == 1


def test_a_late_reading_moves_the_start_earlier(plant: Plant) -> None:
    plant.add("a", history=120)
    one_by_one(plant, usual(0, 0) + hot(2, 6))
    before = plant.one_incident()
    assert (before.first_anomalous_at, before.opened_at) == (at(2), at(6))
    plant.arrive(hot(1, 1), now=at(8))
    after = plant.one_incident()
    assert (after.first_anomalous_at, after.opened_at, after.reference) == (at(1), at(6), before.reference)
    assert [len(texts) for texts in plant.texts().values()] == [1]


def test_a_late_reading_completes_a_run_of_the_past(plant: Plant) -> None:
    plant.add("a", history=120)
    # a gap of one minute does not end a streak: four readings and one that is missing
    one_by_one(plant, usual(0, 0) + hot(1, 2) + hot(4, 5) + usual(6, 9))
    assert plant.incidents() == []
    plant.arrive(hot(3, 3), now=at(9))
    found = plant.one_incident()
    assert (found.first_anomalous_at, found.opened_at, found.last_anomalous_at) == (at(1), at(5), at(5))
    assert [len(texts) for texts in plant.texts().values()] == [1]


def test_a_cold_start_between_any_two_readings(plant: Plant) -> None:
    minutes = range(9)
    for cold_before in minutes:
        sensor_id = plant.add(f"s{cold_before}", site=f"site {cold_before}", history=100)
        for reading in usual(0, 1, sensor_id) + hot(2, 7, sensor_id) + usual(8, 8, sensor_id):
            if reading.measured_at == at(cold_before):
                cold_start()
            plant.arrive([reading])
        found = plant.one_incident(sensor_id)
        assert (found.first_anomalous_at, found.opened_at, found.last_anomalous_at) == (at(2), at(6), at(7))
    assert len(plant.texts()["day"]) == len(minutes)


@pytest.mark.parametrize(
    ("stored_first", "cold", "history"),
    [(False, False, 95), (False, True, 1), (True, False, 1), (True, True, 1)],
)
def test_any_order_of_batches_gives_the_same_incident(
    plant: Plant, stored_first: bool, cold: bool, history: int
) -> None:
    orders = list(itertools.permutations(range(4)))[:: 3 if history > 1 else 1]
    for number, order in enumerate(orders):
        sensor_id = plant.add(f"s{number}", site=f"site {number}", history=history)
        batches = [
            usual(0, 0, sensor_id) + hot(1, 1, sensor_id),
            hot(2, 3, sensor_id),
            hot(4, 4, sensor_id),
            hot(5, 5, sensor_id) + usual(6, 6, sensor_id),
        ]
        if stored_first:  # the table is ahead of its stream
            plant.store([reading for batch in batches for reading in batch])
        for batch in order:
            (plant.deliver if stored_first else plant.arrive)(batches[batch], now=at(7))
            if cold:
                cold_start()
        found = plant.one_incident(sensor_id)
        assert (found.first_anomalous_at, found.opened_at, found.last_anomalous_at) == (at(1), at(5), at(5)), order
    assert len(plant.texts()["day"]) == len(orders)


# --- recovery ---


def test_half_an_hour_without_a_run_is_a_recovery_and_a_text_to_the_same_people(plant: Plant) -> None:
    plant.add("a", "Aarhus", "north", name="Cold room 3", history=120)
    one_by_one(plant, hot(0, 8))
    alerts = plant.texts()
    one_by_one(plant, usual(9, 37))
    assert plant.one_incident().state is IncidentState.OPEN
    assert plant.texts() == {}

    one_by_one(plant, usual(38, 38))
    found = plant.one_incident()
    assert (found.state, found.recovered_at, found.anomalous_minutes) == (IncidentState.RECOVERED, at(38), 9)
    recoveries = plant.texts()
    assert recoveries.keys() == alerts.keys() == {"north", "aarhus"}
    assert {body for bodies in recoveries.values() for body in bodies} == {
        f"OK AGAIN Cold room 3, Aarhus: usual values since 12:09 UTC. The fault began 12:00. Ref {found.reference}"
    }
    one_by_one(plant, usual(39, 41))
    plant.watch(at(42))
    plant.watch(at(43))
    assert plant.texts() == {}
    assert list(plant.cloud.incidents.needing_attention()) == []


def test_an_incident_that_was_learned_as_usual_ends_as_that(plant: Plant) -> None:
    plant.add("a", "Aarhus", "north", name="Cold room 3", history=120)
    one_by_one(plant, hot(0, 8))
    assert plant.cloud.incidents.take_as_usual(plant.one_incident())
    one_by_one(plant, hot(9, 10))
    plant.texts()
    one_by_one(plant, usual(11, 41))
    found = plant.one_incident()
    assert (found.state, found.recovered_at) == (IncidentState.NEW_NORMAL, at(40))
    assert all("it was learned as usual" in body for bodies in plant.texts().values() for body in bodies)
    plant.watch(at(42))
    assert list(plant.cloud.incidents.needing_attention()) == []


def test_a_reminder_that_has_not_left_when_it_is_over_never_does(plant: Plant) -> None:
    plant.add("a", "Aarhus", "north", name="Cold room 3", history=120)
    one_by_one(plant, hot(0, 8))
    incident = plant.one_incident()
    reminders = [Text(TextKind.REMINDER, text.contact_id, TextState.OWED) for text in incident.texts.values()]
    plant.cloud.incidents.owe(incident, {text.text_key: text for text in reminders})
    plant.texts()
    one_by_one(plant, usual(9, 39))
    plant.watch(at(42))
    plant.watch(at(46))
    assert {name: [body[:8] for body in bodies] for name, bodies in plant.texts().items()} == {
        "north": ["OK AGAIN"],
        "aarhus": ["OK AGAIN"],
    }
    assert list(plant.cloud.incidents.needing_attention()) == []


def test_a_new_run_after_the_recovery_is_a_new_incident(plant: Plant) -> None:
    plant.add("a", history=120)
    one_by_one(plant, hot(0, 4) + usual(5, 34))
    plant.arrive(hot(35, 39))
    first, second = plant.incidents()
    assert (first.state, second.state) == (IncidentState.RECOVERED, IncidentState.OPEN)
    assert second.first_anomalous_at == at(35)
    assert [text[:8] for text in plant.texts()["day"]] == ["ALERT a,", "OK AGAIN", "ALERT a,"]


def test_a_run_within_half_an_hour_belongs_to_the_same_incident(plant: Plant) -> None:
    plant.add("a", history=120)
    one_by_one(plant, hot(0, 4) + usual(5, 32) + hot(33, 37) + usual(38, 66))
    assert plant.one_incident().last_anomalous_at == at(37)
    one_by_one(plant, usual(67, 67))
    found = plant.one_incident()
    assert (found.recovered_at, found.anomalous_minutes) == (at(67), 10)
    assert [text[:8] for text in plant.texts()["day"]] == ["ALERT a,", "OK AGAIN"]


def test_a_sensor_that_was_silent_recovers_with_its_next_reading(plant: Plant) -> None:
    plant.add("a", history=120)
    one_by_one(plant, hot(0, 4))
    plant.arrive(usual(300, 300))
    found = plant.one_incident()
    assert (found.state, found.recovered_at) == (IncidentState.RECOVERED, at(300))


def test_a_recovery_is_never_texted_before_its_alert(plant: Plant) -> None:
    plant.add("a", history=120)
    plant.arrive(hot(0, 4) + usual(5, 34))  # one batch holds the fault and its end
    assert [text[:6] for text in plant.texts()["day"]] == ["ALERT "]
    plant.watch(at(35))
    assert [text[:8] for text in plant.texts()["day"]] == ["OK AGAIN"]
    plant.watch(at(36))
    assert plant.texts() == {}


# --- a backlog ---


def test_what_was_over_before_it_came_is_not_texted(plant: Plant) -> None:
    plant.add("a", history=120)
    plant.arrive(hot(0, 4) + usual(5, 50), now=at(120))
    found = plant.one_incident()
    assert found.state is IncidentState.RECOVERED
    assert [text.state for text in found.texts.values()] == [TextState.DIGEST]
    plant.watch(at(121))
    plant.watch(at(122))
    assert plant.texts() == {}
    # until the digest of the day
    assert [one.reference for one in plant.cloud.incidents.needing_attention()] == [found.reference]


def test_what_still_goes_on_is_texted_when_readings_are_fresh_again(plant: Plant) -> None:
    plant.add("a", history=120)
    plant.arrive(hot(0, 20), now=at(120))
    assert [text.state for text in plant.one_incident().texts.values()] == [TextState.WAITING]
    plant.arrive(hot(21, 60), now=at(120))
    plant.watch(at(120))
    assert plant.texts() == {}
    plant.arrive(hot(61, 110), now=at(120))
    assert len(plant.texts()["day"]) == 1
    plant.arrive(hot(111, 112))
    plant.watch(at(113))
    assert plant.texts() == {}


def test_what_ends_while_the_backlog_is_read_is_not_texted(plant: Plant) -> None:
    plant.add("a", history=120)
    plant.arrive(hot(0, 20), now=at(120))
    plant.arrive(usual(21, 60), now=at(120))
    plant.arrive(usual(61, 120))
    plant.watch(at(121))
    found = plant.one_incident()
    assert found.state is IncidentState.RECOVERED
    assert [text.state for text in found.texts.values()] == [TextState.DIGEST]
    assert plant.texts() == {}


def test_a_backlog_whose_end_is_fresh_is_texted_at_once(plant: Plant) -> None:
    plant.add("a", history=120)
    plant.arrive(hot(0, 100), now=at(101))
    assert len(plant.texts()["day"]) == 1


def test_a_run_of_before_the_newest_incident_is_kept_as_missed_and_not_texted(plant: Plant) -> None:
    plant.add("a", history=120)
    one_by_one(plant, usual(100, 100) + hot(200, 204))
    plant.texts()
    plant.arrive(hot(20, 24), now=at(205))
    plant.deliver(hot(20, 24), now=at(206))
    missed, told = plant.incidents()
    assert (missed.state, missed.opened_at, missed.texts) == (IncidentState.MISSED, at(24), {})
    assert told.state is IncidentState.OPEN
    plant.watch(at(206))
    assert plant.texts() == {}


def test_an_incident_that_a_late_usual_reading_contradicts_stays(plant: Plant) -> None:
    plant.add("a", history=120)
    plant.arrive(hot(0, 1) + hot(3, 5))
    assert len(plant.texts()["day"]) == 1
    plant.arrive(usual(2, 2), now=at(6))
    assert plant.one_incident().opened_at == at(5)
    head = plant.cloud.incidents.head("a", "equipment")
    assert head
    assert head.is_contradicted
    assert plant.texts() == {}


# --- who is texted, and how many at once ---


@pytest.mark.parametrize(
    ("customer", "site", "contacts"),
    [
        ("", "", {"day"}),  # nobody assigned it
        ("south", "Aarhus", {"day"}),
        ("north", "Bergen", {"north"}),
        ("north", "Aarhus", {"north", "aarhus"}),
    ],
)
def test_contacts_are_found_by_customer_and_site(plant: Plant, customer: str, site: str, contacts: set[str]) -> None:
    plant.add("a", site, customer)
    plant.arrive(hot(0, 4))
    texts = plant.texts()
    assert texts.keys() == contacts
    assert all(len(bodies) == 1 for bodies in texts.values())


def test_a_text_that_sns_does_not_take_trips_an_alarm_and_one_reference_leads_from_the_reading_to_the_text(
    plant: Plant,
    local_template: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: object, contact_id: str, body: str) -> str:
        raise TextRefusedError("no")

    plant.add("a", history=40)
    monkeypatch.setattr("lambdas.sensors.topic.AlertsTopic.send", refuse)
    capsys.readouterr()
    plant.arrive(hot(0, 4))
    assert tripped(local_template, capsys.readouterr().out) == {"AlertsFail"}
    told = {record.message: vars(record) for record in caplog.records}
    reference = plant.one_incident().reference
    assert (told["incident"]["reference"], told["text"]["references"]) == (reference, [reference])
    assert (told["incident"]["sensor_id"], told["incident"]["first_anomalous_at"]) == ("a", "2026-01-05T12:00:00Z")
    assert "30.0" not in str(told), "what was measured"


def test_a_kind_that_the_stage_does_not_text_about_is_only_kept(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTED_KINDS", '["stuck", "silent"]')
    cold_start()
    plant.add("a", history=40)
    plant.arrive(hot(0, 4))
    assert plant.one_incident().texts == {}
    assert plant.texts() == {}


def test_a_sensor_that_is_in_no_table_alerts_the_default_contact_under_its_id(plant: Plant) -> None:
    plant.cloud.cutoffs.put([plant.cutoff])
    plant.arrive(hot(0, 4))
    (body,) = plant.texts()["day"]
    assert body.startswith("ALERT a, no site yet: temperature 30.0, usual")


def test_the_first_of_a_site_is_texted_at_once_and_the_rest_as_one(plant: Plant) -> None:
    for sensor_id in "abcd":
        plant.add(sensor_id, "Aarhus", name=f"Unit {sensor_id}")
    plant.add("e", "Bergen", name="Unit e")
    plant.arrive(hot(0, 4, "a"))
    assert [text[:13] for text in plant.texts()["day"]] == ["ALERT Unit a,"]
    for sensor_id in "bcd":
        plant.arrive(hot(0, 4, sensor_id))
    plant.watch(at(5))
    assert plant.texts() == {}
    plant.arrive(hot(0, 4, "e"))
    assert [text[:13] for text in plant.texts()["day"]] == ["ALERT Unit e,"]

    plant.watch(at(7))  # three minutes after the first
    (body,) = plant.texts()["day"]
    assert body.startswith("ALERT Aarhus: 3 units also abnormal: Unit b, Unit c, Unit d, since 12:00 UTC. Ref ")
    plant.watch(at(10))
    plant.watch(at(20))
    assert plant.texts() == {}


# --- what can go wrong ---


def parked(plant: Plant) -> list[dict[str, Any]]:
    messages = plant.cloud.sqs.receive_message(QueueUrl=plant.cloud.parked, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(message["Body"]) for message in messages]


@pytest.mark.parametrize(
    "image",
    [
        {},
        {"sensor_id": {"S": "a"}, "measured_at": {"S": "yesterday"}, "values": {"M": {"temperature": {"N": "4"}}}},
        {"sensor_id": {"S": "a"}, "measured_at": {"S": "2026-01-05T12:00:00"}, "values": {"M": {}}},
        {"sensor_id": {"N": "7"}, "measured_at": {"S": "2026-01-05T12:00:00Z"}, "values": {"M": {}}},
        {"sensor_id": {"S": "a"}, "measured_at": {"S": "2026-01-05T12:00:00Z"}, "values": {"M": {"t": {"S": "4"}}}},
        {"sensor_id": {"S": "a"}, "measured_at": {"S": "2026-01-05T12:00:00Z"}, "values": {"L": []}},
    ],
)
def test_a_record_that_holds_no_reading_is_parked_and_the_others_go_on(plant: Plant, image: dict[str, Any]) -> None:
    plant.add("a")
    plant.store(hot(0, 4))
    event = stream_event(plant.cloud, hot(0, 4), written_at=at(4))
    poison = stream_record(plant.cloud, hot(0, 0)[0], written_at=at(4))
    poison["dynamodb"]["NewImage"] = image
    event["Records"].insert(2, poison)
    plant.set_clock(at(4))
    detecting.handler(event, None)
    assert plant.one_incident().opened_at == at(4)
    (kept,) = parked(plant)
    assert kept["record"] == poison
    assert kept["reason"].startswith("not a reading: ")


def test_two_instances_that_take_turns_open_one_incident(plant: Plant) -> None:
    plant.add("a", history=120)
    instances: list[Detector] = []
    for _ in range(2):
        cold_start()
        instances.append(detecting.dependencies().detector)
    for minute in range(11):
        (reading,) = hot(minute, minute) if minute < 8 else usual(minute, minute)
        plant.store([reading])
        plant.set_clock(at(minute))
        list(instances[minute % 2].detect([Arrival(reading, at(minute))], 1_000))
    found = plant.one_incident()
    assert (found.first_anomalous_at, found.opened_at, found.last_anomalous_at) == (at(0), at(4), at(7))
    assert len(plant.texts()["day"]) == 1


def test_the_first_text_of_a_place_does_not_wait_until_the_rest_of_a_storm_is_judged(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [plant.add(f"unit-{k}", site=f"Plant {k % 2}", history=120) for k in range(6)]
    judge_one, texts_before = Detector._detect_one, []

    def watched(detector: Detector, sensor_id: str, arrivals: Sequence[Arrival]) -> list[Incident]:
        texts_before.append(len(plant.texts().get("day", [])))
        return judge_one(detector, sensor_id, arrivals)

    monkeypatch.setattr(Detector, "_detect_one", watched)
    plant.arrive([reading for name in names for reading in hot(0, 4, name)])
    # each of the two places is told of before the next sensor is judged; the others are for the sweep
    assert texts_before == [0, 1, 1, 0, 0, 0]
    assert plant.texts() == {}
    assert [len(plant.incidents(name)) for name in names] == [1] * 6


def test_two_instances_that_decide_at_the_same_moment_open_one_incident(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.add("a", history=120)
    batch = hot(0, 4)
    plant.store(batch)
    plant.set_clock(at(4))
    first = detecting.dependencies().detector
    cold_start()
    second = detecting.dependencies().detector
    arrivals = [Arrival(reading, at(4)) for reading in batch]
    real = first._incidents.open
    turns: list[str] = []

    def overtaken(*given: Any) -> None:
        if not turns:
            turns.append("second")
            list(second.detect(arrivals, 1_000))
        real(*given)

    monkeypatch.setattr(type(first._incidents), "open", lambda self, *given: overtaken(*given))
    list(first.detect(arrivals, 1_000))
    assert turns == ["second"]
    assert plant.one_incident().opened_at == at(4)
    assert len(plant.texts()["day"]) == 1


def test_a_batch_that_failed_half_way_is_whole_when_it_comes_again(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.add("a", history=120)
    batch = usual(0, 0) + hot(1, 5)
    one_by_one(plant, usual(0, 0))
    plant.store(batch)
    real = plant.cloud.incidents.open

    def fails(*given: object) -> None:
        raise ClientError({"Error": {"Code": "InternalServerError"}}, "TransactWriteItems")

    monkeypatch.setattr(type(plant.cloud.incidents), "open", fails)
    with pytest.raises(ClientError):
        plant.deliver(batch)
    assert plant.incidents() == []
    monkeypatch.setattr(type(plant.cloud.incidents), "open", real.__func__)  # type: ignore[attr-defined]
    plant.deliver(batch)
    assert plant.one_incident().opened_at == at(5)
    assert len(plant.texts()["day"]) == 1


def open_while_publishing_fails(plant: Plant, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def publish(**given: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(plant.cloud.sns, "publish", publish)
        plant.arrive(hot(0, 4))


def machine_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for module in (detecting, watching):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: seconds))


def test_a_text_that_sns_refused_is_owed_and_sent_once_by_the_sweep(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.add("a")
    throttled = {"Error": {"Code": "Throttled"}, "ResponseMetadata": {"HTTPStatusCode": 429}}
    open_while_publishing_fails(plant, monkeypatch, ClientError(throttled, "Publish"))  # type: ignore[arg-type]
    assert [text.state for text in plant.one_incident().texts.values()] == [TextState.OWED]
    assert plant.texts() == {}
    for minute in range(5, 12):
        plant.watch(at(minute))
    assert len(plant.texts()["day"]) == 1


@pytest.mark.parametrize(
    "error",
    [
        ConnectTimeoutError(endpoint_url="https://sns"),
        ClientError(
            {"Error": {"Code": "InternalError"}, "ResponseMetadata": {"HTTPStatusCode": 500}},  # type: ignore[typeddict-item]
            "Publish",
        ),
    ],
)
def test_a_text_of_which_sns_said_nothing_is_sent_once_its_claim_has_run_out(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    plant.add("a")
    machine_time(monkeypatch, 1_000)
    open_while_publishing_fails(plant, monkeypatch, error)
    assert [text.state for text in plant.one_incident().texts.values()] == [TextState.SENDING]
    machine_time(monkeypatch, 1_090)
    plant.watch(at(5))
    assert plant.texts() == {}
    for second in (1_091, 1_092, 1_300):
        machine_time(monkeypatch, second)
        plant.watch(at(6))
    assert len(plant.texts()["day"]) == 1
    assert [text.state for text in plant.one_incident().texts.values()] == [TextState.SENT]


def test_a_recovery_waits_for_an_alert_that_could_not_be_sent(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.add("a")
    machine_time(monkeypatch, 1_000)
    open_while_publishing_fails(plant, monkeypatch, ConnectTimeoutError(endpoint_url="https://sns"))
    plant.arrive(usual(5, 34))
    assert plant.one_incident().state is IncidentState.RECOVERED
    plant.watch(at(35))
    assert plant.texts() == {}
    machine_time(monkeypatch, 1_091)
    plant.watch(at(36))
    assert [text[:6] for text in plant.texts()["day"]] == ["ALERT "]
    plant.watch(at(37))
    assert [text[:8] for text in plant.texts()["day"]] == ["OK AGAIN"]


# --- which cutoff ---


def judged_hot_above(cutoff: Cutoff, trained_at: datetime, score_cutoff: float) -> Cutoff:
    return replace(cutoff, trained_at=trained_at, effective_from=trained_at + 15 * MINUTE, score_cutoff=score_cutoff)


NEVER = 1e9


def test_a_reading_is_judged_by_the_cutoff_in_force_when_it_was_measured(plant: Plant) -> None:
    plant.add("a", history=120)
    # the new version comes into force at 12:03 and finds nothing anomalous
    plant.cloud.cutoffs.put([judged_hot_above(plant.cutoff, at(-12), NEVER)])
    one_by_one(plant, hot(-2, 20))
    found = plant.one_incident()
    assert (found.first_anomalous_at, found.opened_at, found.last_anomalous_at) == (at(-2), at(2), at(2))
    assert found.cause.model_version == plant.cutoff.model_version


def test_a_reading_from_long_ago_is_judged_by_the_cutoff_of_its_time(plant: Plant) -> None:
    """Five trainings later: each of four finds nothing anomalous, and the one of its time does."""
    plant.add("a")
    plant.cloud.cutoffs.put([judged_hot_above(plant.cutoff, at(60 * hour), NEVER) for hour in (2, 3, 4, 5)])
    plant.arrive(hot(0, 4), now=at(400))
    assert plant.one_incident().opened_at == at(4)


def test_a_window_over_many_trainings_is_judged_by_each_in_its_time(plant: Plant) -> None:
    """Of six trainings an hour apart only the third finds anomalies; the window holds readings of every one."""
    plant.add("a")
    cutoffs = [
        judged_hot_above(plant.cutoff, at(60 * hour), plant.cutoff.score_cutoff if hour == 3 else NEVER)
        for hour in (1, 2, 3, 4, 5, 6)
    ]
    plant.cloud.cutoffs.put(cutoffs)
    plant.arrive(hot(76, 430))
    found = plant.one_incident()
    # in force from 3:15 to 4:15 after noon
    assert (found.first_anomalous_at, found.last_anomalous_at) == (at(195), at(254))


def test_a_sensor_without_a_cutoff_in_force_is_learning(plant: Plant) -> None:
    plant.cloud.cutoffs.put([judged_hot_above(plant.cutoff, at(0), 0.0)])
    plant.arrive(hot(5, 14))
    assert plant.incidents() == []
    plant.arrive(hot(15, 19))
    assert plant.one_incident().first_anomalous_at == at(15)


def test_a_cutoff_is_in_use_ten_minutes_after_it_was_written(plant: Plant) -> None:
    plant.add("a", history=120)
    one_by_one(plant, usual(0, 0))
    plant.cloud.cutoffs.put([judged_hot_above(plant.cutoff, at(0), NEVER)])  # in force from 12:15
    one_by_one(plant, usual(1, 14) + hot(15, 25))
    assert plant.incidents() == []


def test_a_reading_that_lacks_a_learned_measure_has_no_verdict(plant: Plant) -> None:
    plant.add("a", history=120)
    other = [Reading("a", at(minute), {"humidity": 5.0}) for minute in (2,)]
    one_by_one(plant, [*hot(0, 1), *other, *hot(3, 5)])
    assert plant.one_incident().first_anomalous_at == at(0)


def test_a_backlog_is_read_once_however_long_it_is(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.add("a", history=120)
    fetched, real = 0, stores.reading_from_item

    def counted(item: Any) -> Reading:
        nonlocal fetched
        fetched += 1
        return real(item)

    monkeypatch.setattr(stores, "reading_from_item", counted)
    backlog = usual(0, 399)
    plant.store(backlog)
    cold_start()
    for first in range(0, 400, 4):
        plant.deliver(backlog[first : first + 4], now=at(400))
    # a window of 90 before, 4 new ones and 40 ahead, read in the first batch and then remembered
    assert fetched <= 200


def test_a_correction_that_another_instance_was_handed_is_seen_in_time(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.add("a", history=120)
    one = detecting.dependencies()
    cold_start()
    other = detecting.dependencies()
    with monkeypatch.context() as on:
        on.setattr(detecting, "dependencies", lambda: one)
        one_by_one(plant, usual(0, 0) + hot(1, 4) + usual(5, 6))
        on.setattr(detecting, "dependencies", lambda: other)
        plant.arrive(hot(5, 5), now=at(6.5))
        assert plant.one_incident().state is IncidentState.OPEN
        on.setattr(detecting, "dependencies", lambda: one)
        one_by_one(plant, usual(7, 60))
    assert plant.one_incident().state is IncidentState.RECOVERED


# --- the detector that is deployed ---

DAY = 1_440
FIRST_LEARNED, LAST_LEARNED = -4 * DAY, -DAY
BETWEEN_DEFROSTS, DEFROST = 240, 12
STEP, STUCK_AT = 8.0, 4.04


@cache
def cooling(defrosts: bool = False) -> tuple[list[float], list[float]]:
    """Temperature and humidity of every minute from four days before noon to ten hours after: a compressor's cycle and
    noise, in tenths; every four hours, if it defrosts, a bump of twelve minutes."""
    random, minutes = np.random.default_rng(7), np.arange(FIRST_LEARNED, 600)
    wave = np.sin(minutes / 40 * 2 * np.pi)
    temperature = 4.0 + wave + random.normal(0, 0.2, len(minutes))
    humidity = 60.0 - 2 * wave + random.normal(0, 0.5, len(minutes))
    if defrosts:
        since = minutes % BETWEEN_DEFROSTS
        temperature += np.where(since < DEFROST, 6 * np.sin((since + 0.5) / DEFROST * np.pi), 0.0)
    return np.round(temperature, 1).tolist(), np.round(humidity, 1).tolist()


def cold(first: int, last: int, sensor_id: str = "a", *, warmer: float = 0.0, defrosts: bool = False) -> list[Reading]:
    temperature, humidity = cooling(defrosts)
    return [
        Reading(
            sensor_id,
            at(minute),
            {"temperature": temperature[minute - FIRST_LEARNED] + warmer, "humidity": humidity[minute - FIRST_LEARNED]},
        )
        for minute in range(first, last + 1)
    ]


def stuck(first: int, last: int, sensor_id: str = "a") -> list[Reading]:
    return [replace(one, values={**one.values, "temperature": STUCK_AT}) for one in cold(first, last, sensor_id)]


def dry(readings: Sequence[Reading]) -> list[Reading]:
    """Without the humidity, which was learned."""
    return [replace(one, values={"temperature": one.values["temperature"]}) for one in readings]


@cache
def learned(defrosts: bool = False) -> CohortModel:
    """Both channels' forests, and a cutoff for `a`, from three days that end a day before noon."""
    readings = cold(FIRST_LEARNED, LAST_LEARNED, defrosts=defrosts)
    series = SensorSeries(
        "a",
        np.array([int(one.measured_at.timestamp()) for one in readings]),
        np.array([[one.values["temperature"], one.values["humidity"]] for one in readings]),
    )
    return train_cohort(
        [series],
        cohort_id="kind-cold-room-0123abcd",
        measures=["temperature", "humidity"],
        rules=TrainingRules(),
        trained_at=at(LAST_LEARNED),
        seed=1,
    )


def add_cold_room(
    plant: Plant,
    sensor_id: str = "a",
    *,
    site: str = "Plant 1",
    history: int = 150,
    in_training: bool = False,
    defrosts: bool = False,
) -> Cutoff:
    """A sensor with its cutoff and, before noon, so many readings in order; whether defrosts are in what was learned,
    and whether they are in those readings."""
    model = learned(in_training)
    assert model.model
    (cutoff,) = (replace(one, sensor_id=sensor_id) for one in model.cutoffs)
    measures = {"temperature": "C", "humidity": "%"}
    plant.cloud.sensors.put([Sensor(sensor_id, "device", measures, name="Cold room 3", site=site)], 16)
    plant.cloud.data.put(cutoff.model_key, dump_model(model.model))
    plant.cloud.cutoffs.put([cutoff])
    plant.store(cold(-history, -1, sensor_id, defrosts=defrosts))
    return cutoff


def bounds(incident: Incident) -> tuple[str, datetime, datetime, datetime]:
    return incident.kind, incident.first_anomalous_at, incident.opened_at, incident.last_anomalous_at


def test_a_step_is_texted_at_its_fifth_reading(plant: Plant) -> None:
    add_cold_room(plant)
    one_by_one(plant, cold(0, 4) + cold(5, 8, warmer=STEP))
    assert plant.incidents() == []
    assert plant.texts() == {}
    one_by_one(plant, cold(9, 9, warmer=STEP))
    found = plant.one_incident()
    assert bounds(found) == ("equipment", at(5), at(9), at(9))
    assert (found.cause.measure, found.cause.feature) == ("temperature", "jump")
    value, low, high = found.cause.value, found.cause.usual_low, found.cause.usual_high
    assert plant.texts() == {
        "day": [
            f"ALERT Cold room 3, Plant 1: temperature {value:.1f} C, usual {low:.1f} to {high:.1f}, since 12:05 UTC."
            f" Ref {found.reference}"
        ]
    }


def test_a_stuck_sensor_is_texted_when_it_has_been_so_long_enough_and_recovers_when_it_moves(plant: Plant) -> None:
    cutoff = add_cold_room(plant)
    assert cutoff.stuck_after == 15
    one_by_one(plant, cold(0, 4) + stuck(5, 18))
    assert plant.incidents() == []
    assert plant.texts() == {}
    one_by_one(plant, stuck(19, 19))
    found = plant.one_incident()
    assert bounds(found) == ("stuck", at(15), at(19), at(19))
    assert (found.cause.measure, found.cause.value) == ("temperature", STUCK_AT)
    assert plant.texts() == {
        "day": [f"ALERT Cold room 3, Plant 1: temperature stuck at 4.0 C since 12:15 UTC. Ref {found.reference}"]
    }
    assert plant.cloud.incidents.head("a", "equipment") is None

    one_by_one(plant, stuck(20, 21) + cold(22, 50))
    assert plant.one_incident().state is IncidentState.OPEN
    assert plant.texts() == {}
    one_by_one(plant, cold(51, 51))
    found = plant.one_incident()
    assert bounds(found) == ("stuck", at(15), at(19), at(21))
    assert (found.state, found.recovered_at, found.anomalous_minutes) == (IncidentState.RECOVERED, at(51), 7)
    (body,) = plant.texts()["day"]
    assert body == (
        f"OK AGAIN Cold room 3, Plant 1: temperature stuck from 12:15 to 12:21 UTC, now changing. Ref {found.reference}"
    )
    plant.watch(at(60))
    assert plant.texts() == {}
    assert list(plant.cloud.incidents.needing_attention()) == []


def test_a_sensor_that_often_rests_is_never_stuck(plant: Plant) -> None:
    cutoff = add_cold_room(plant)
    plant.cloud.cutoffs.put([replace(cutoff, stuck_after=0)])
    plant.arrive(stuck(0, 45))
    assert plant.incidents() == []


@pytest.mark.parametrize("in_training", [True, False])
def test_a_defrost_that_was_learned_is_usual(plant: Plant, in_training: bool) -> None:
    add_cold_room(plant, in_training=in_training, defrosts=in_training)
    readings = cold(-5, DEFROST + 5, defrosts=True)  # at noon there is one
    for first in range(0, len(readings), 4):
        plant.arrive(readings[first : first + 4])
    assert [bounds(one)[0] for one in plant.incidents()] == ([] if in_training else ["equipment"])
    assert bool(plant.texts()) is not in_training


def test_a_reading_that_lacks_one_of_two_learned_measures_is_not_judged(plant: Plant) -> None:
    add_cold_room(plant)
    one_by_one(plant, cold(0, 4) + dry(cold(5, 12, warmer=STEP)))
    assert plant.incidents() == []
    # and between two that are it is as if it were missing
    one_by_one(plant, cold(13, 14, warmer=STEP) + dry(cold(15, 15)) + cold(16, 17, warmer=STEP))
    assert plant.incidents() == []
    one_by_one(plant, cold(18, 18, warmer=STEP))
    assert bounds(plant.one_incident()) == ("equipment", at(13), at(18), at(18))


def test_a_run_with_many_unjudged_readings_in_it_opens_when_it_is_one(plant: Plant) -> None:
    add_cold_room(plant)
    readings = cold(0, 4) + cold(5, 11, warmer=STEP)
    for minute in (7, 9):
        readings[minute : minute + 1] = dry([readings[minute]])
    one_by_one(plant, readings[:11])
    assert plant.incidents() == []
    one_by_one(plant, readings[11:])
    assert bounds(plant.one_incident()) == ("equipment", at(5), at(11), at(11))


def test_a_sensor_without_history_is_judged_once_a_window_is_full(plant: Plant) -> None:
    add_cold_room(plant, history=0)
    plant.arrive(cold(0, 43, warmer=2 * STEP))
    assert plant.incidents() == []
    plant.arrive(cold(44, 48, warmer=2 * STEP))  # the level is of 45 readings
    found = plant.one_incident()
    assert bounds(found) == ("equipment", at(44), at(48), at(48))
    assert found.cause.feature == "level"


@pytest.mark.parametrize("fault", ["step", "stuck", "noise"])
def test_what_made_an_incident_gives_its_score_again_bit_for_bit(plant: Plant, fault: str) -> None:
    add_cold_room(plant)
    noise = [
        replace(one, values={**one.values, "temperature": 4.0 + 1.5 * (-1) ** k}) for k, one in enumerate(cold(0, 59))
    ]
    faults = {"step": cold(0, 5, warmer=STEP), "stuck": stuck(0, 20), "noise": noise}
    plant.arrive(faults[fault])
    found = plant.one_incident()
    expected = {"step": ("equipment", "jump"), "stuck": ("stuck", "value"), "noise": ("equipment", "volatility")}
    assert (found.kind, found.cause.feature) == expected[fault]
    # from what is stored alone
    cutoff = plant.cloud.cutoffs.get("a", parse_time(found.cause.trained_at))
    assert cutoff
    assert cutoff.model_version == found.cause.model_version
    score = score_reading(load_model(plant.cloud.data.get(cutoff.model_key)), cutoff, found.cause.inputs)
    assert score
    assert score.anomaly_score.hex() == found.cause.anomaly_score.hex()
    assert cutoff.score_cutoff.hex() == found.cause.score_cutoff.hex()
    assert (found.kind == "stuck") or found.cause.anomaly_score > found.cause.score_cutoff
    if fault == "noise":
        swing = score.values["temperature", "volatility"]
        assert swing
        assert found.cause.value.hex() == swing.hex()
        assert f": temperature swing {swing:.2f} C, usual 0.0 to 0." in plant.texts()["day"][0]
    # they are the readings of a window up to the minute that opened it
    window = plant.cloud.readings.between("a", found.opened_at - (WINDOW - 1) * MINUTE, found.opened_at)
    measured = {m: [one.values[m] for one in window] for m in ("temperature", "humidity")}
    assert found.cause.inputs == measured
    assert {len(column) for column in measured.values()} == {WINDOW}


def reads_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by a name with every read of the Readings table."""
    reads: list[str] = []
    for name in ("around", "before", "between", "since"):

        def counted(self: stores.ReadingsStore, *given: Any, _name: str = name, _real: Any = None) -> Any:
            reads.append(_name)
            return _real(self, *given)

        monkeypatch.setattr(
            stores.ReadingsStore, name, partialmethod(counted, _real=getattr(stores.ReadingsStore, name))
        )
    return reads


def all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is first read of a sensor is read again after the whole time."""
    monkeypatch.setattr(detection, "_staggered", lambda sensor_id, now, period: now)


def test_what_is_read_of_all_at_once_is_not_read_again_all_at_once(plant: Plant) -> None:
    for k in range(120):
        plant.cloud.cutoffs.put([replace(plant.cutoff, sensor_id=f"unit-{k}")])
    judge, asked = detecting.dependencies().detector._judge, Counter[int]()
    newest = plant.cloud.cutoffs.newest

    class Counted:
        def newest(self, sensor_id: str, number: int) -> list[Cutoff]:
            asked[minute] += 1
            return newest(sensor_id, number)

    judge._store = cast(Any, Counted())
    for minute in range(21):
        for k in range(120):
            assert judge.cutoffs(f"unit-{k}", NOON, at(minute))
    assert asked.pop(0) == 120
    # then each once in ten minutes, some in every minute
    assert sum(asked[minute] for minute in range(1, 11)) == sum(asked[minute] for minute in range(11, 21)) == 120
    assert 3 < min(asked[minute] for minute in range(1, 21)) <= max(asked.values()) < 30


def test_a_quiet_sensor_is_read_once_in_half_an_hour(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    add_cold_room(plant)
    all_at_once(monkeypatch)
    reads = reads_of(monkeypatch)
    one_by_one(plant, cold(0, 0))
    assert reads == ["around"]
    one_by_one(plant, cold(1, 29))
    plant.deliver(cold(25, 29))  # nor when they come again
    assert reads == ["around"]
    one_by_one(plant, cold(30, 30))
    assert reads == ["around"] * 2
    one_by_one(plant, cold(31, 35))
    assert len(reads) == 2
    cold_start()
    one_by_one(plant, cold(36, 36))
    assert len(reads) == 3


def take_turns(monkeypatch: pytest.MonkeyPatch, instances: int) -> None:
    """Each batch goes to the next of so many instances, each of which remembers only what it was handed."""
    made = []
    for _ in range(instances):
        cold_start()
        made.append(detecting.dependencies())
    monkeypatch.setattr(detecting, "dependencies", partial(next, itertools.cycle(made)))


def test_of_instances_that_take_turns_each_reads_only_what_it_missed(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_cold_room(plant)
    with monkeypatch.context() as patched:
        take_turns(patched, 3)
        all_at_once(patched)
        reads = reads_of(patched)
        one_by_one(plant, cold(0, 2))
        assert reads == ["around"] * 3
        one_by_one(plant, cold(3, 8))
        assert reads == ["around"] * 3 + ["between"] * 6


def test_a_run_that_a_long_batch_completes_is_an_incident(plant: Plant) -> None:
    """As after an outage, when few sensors share a batch."""
    plant.add("a", history=120)
    plant.arrive(usual(0, 0))
    plant.arrive(hot(1, 3), now=at(130))
    plant.arrive(hot(4, 5) + usual(6, 130))
    found = plant.one_incident()
    assert (found.first_anomalous_at, found.last_anomalous_at, found.recovered_at) == (at(1), at(5), at(35))


def test_an_incident_in_what_an_instance_missed_ends_with_what_it_is_handed(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.add("a", history=120)
    with monkeypatch.context() as patched:
        take_turns(patched, 2)
        plant.arrive(usual(0, 0), now=at(140))
        plant.arrive(usual(1, 1), now=at(140))
        plant.arrive(usual(2, 2), now=at(140))
        plant.arrive(hot(3, 7) + usual(8, 20), now=at(140))
        plant.arrive(usual(21, 140))
    assert plant.one_incident().recovered_at == at(37)


def test_a_run_that_the_table_held_before_its_stream_is_an_incident(plant: Plant) -> None:
    """What was read for the values alone, of readings that the stream has not brought yet, is not judged by then."""
    plant.add("a", history=120)
    run = hot(3, 7)
    plant.store(usual(0, 2) + run + usual(8, 30))
    plant.deliver(usual(20, 20), now=at(30))
    assert plant.incidents() == []
    plant.deliver(run, now=at(30))
    assert plant.one_incident().first_anomalous_at == at(3)


@pytest.mark.parametrize("fault", ["step", "stuck"])
def test_instances_that_take_turns_decide_as_one_does(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Wherever the fault begins, and whoever is handed the reading that completes its run."""
    found = []
    for instances in (1, 2, 3, 7):
        sensor_id = f"s{instances}"
        add_cold_room(plant, sensor_id, site=f"Plant {instances}")
        with monkeypatch.context() as patched:
            take_turns(patched, instances)
            readings = cold(0, 2, sensor_id)
            readings += cold(3, 8, sensor_id, warmer=STEP) if fault == "step" else stuck(3, 18, sensor_id)
            last = len(readings)
            for reading in [*readings, *cold(last, last + 40, sensor_id)]:
                plant.arrive([reading])
        found.append(anonymous(plant.incidents(sensor_id)))
    (incident,) = found[0]
    assert incident.recovered_at is not None
    assert found == [found[0]] * len(found)


def test_what_another_instance_was_told_is_corrected_contradicts_no_incident(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.add("a", history=120)
    with monkeypatch.context() as patched:
        take_turns(patched, 2)
        plant.arrive([*hot(0, 0), *usual(1, 4)])
        plant.arrive(usual(5, 5))  # the other one now remembers all of them
        plant.arrive(hot(1, 5))  # corrections
        (opened,) = plant.cloud.incidents.known()
        plant.arrive(usual(6, 6))
    (known,) = plant.cloud.incidents.known()
    assert known == opened
    assert not known.is_contradicted


def anonymous(incidents: Sequence[Incident]) -> list[Incident]:
    """Without whose they are, and which message told of them."""
    return [
        replace(
            one,
            equipment=replace(one.equipment, sensor_id="", site=""),
            texts={key: replace(text, claimed_until=0, message_id="") for key, text in one.texts.items()},
        )
        for one in incidents
    ]


@pytest.mark.parametrize("fault", ["step", "stuck"])
def test_what_is_remembered_decides_as_what_is_read(plant: Plant, fault: str) -> None:
    """A cold start before any reading around the incident's opening gives what none gives."""
    found = []
    befores = [None, 1, 5, 6, 7, 8] if fault == "step" else [None, 4, 12, 13, 17, 18]
    for number, cold_before in enumerate(befores):
        sensor_id = f"s{number}"
        add_cold_room(plant, sensor_id, site=f"Plant {number}")
        readings = cold(0, 2, sensor_id)
        readings += cold(3, 8, sensor_id, warmer=STEP) if fault == "step" else stuck(3, 18, sensor_id)
        for minute, reading in enumerate(readings):
            if minute == cold_before:
                cold_start()
            plant.arrive([reading])
        found.append(anonymous(plant.incidents(sensor_id)))
    expected = {"step": ("equipment", at(3), at(7), at(8)), "stuck": ("stuck", at(13), at(17), at(18))}
    assert [bounds(one) for one in found[0]] == [expected[fault]]
    assert found == [found[0]] * len(befores)
    assert len(plant.texts()["day"]) == len(befores)


_NUMBERS = itertools.count()


@given(fault=st.sampled_from(["step", "stuck"]), is_ahead=st.booleans(), random=st.randoms(use_true_random=False))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_late_twice_or_in_any_order_is_one_incident_and_one_text(
    plant: Plant, fault: str, is_ahead: bool, random: Random
) -> None:
    """In batches of any size, some of them again, new instances between; `is_ahead`: the table is, of its stream."""
    sensor_id = f"s{next(_NUMBERS)}"
    add_cold_room(plant, sensor_id, site=sensor_id)
    begins = 15 if fault == "step" else 6
    faulty = cold(begins, 29, sensor_id, warmer=STEP) if fault == "step" else stuck(begins, 29, sensor_id)
    readings = cold(0, begins - 1, sensor_id) + faulty + cold(30, 40, sensor_id)
    if is_ahead:
        plant.store(readings)
    random.shuffle(readings)
    cuts = [0, *sorted(random.sample(range(1, len(readings)), 9)), len(readings)]
    batches = [readings[first:end] for first, end in itertools.pairwise(cuts)]
    batches += random.choices(batches, k=3)
    random.shuffle(batches)
    for batch in batches:
        if random.random() < 0.3:
            cold_start()
        plant.arrive(batch, now=at(42))
    found = plant.one_incident(sensor_id)
    kind, first = ("equipment", at(15)) if fault == "step" else ("stuck", at(6 + 10))
    assert (found.kind, found.first_anomalous_at, found.last_anomalous_at) == (kind, first, at(29))
    assert at(19) <= found.opened_at <= at(29)
    head = plant.cloud.incidents.head(sensor_id, kind)
    assert head
    assert not head.is_contradicted
    assert [text[:17] for text in plant.texts()["day"]] == ["ALERT Cold room 3"]
    plant.arrive(cold(41, 60, sensor_id))
    assert plant.one_incident(sensor_id).recovered_at == at(59)
    plant.watch(at(61))
    assert [text[:8] for text in plant.texts()["day"]] == ["OK AGAIN"]


@pytest.mark.parametrize("what_is_missing", ["history", "humidity"])
def test_a_stuck_sensor_that_cannot_be_scored_stops_no_stream(plant: Plant, what_is_missing: str) -> None:
    add_cold_room(plant, history=0 if what_is_missing == "history" else 150)
    readings = stuck(0, 20) if what_is_missing == "history" else stuck(0, 12) + dry(stuck(13, 20))
    for first in range(0, len(readings), 3):
        plant.arrive(readings[first : first + 3])
    assert len(plant.texts().get("day", [])) == len(plant.incidents())
    one_by_one(plant, stuck(21, 50))
    assert plant.one_incident().kind == "stuck"


def test_a_sensor_that_slowed_down_stops_no_stream(plant: Plant) -> None:
    """Once an hour for four days and learned so only now: what the old cutoff could not judge stays without verdict."""
    cutoff = add_cold_room(plant, history=0)
    slower = replace(cutoff, trained_at=at(-45), effective_from=at(-30), interval=timedelta(hours=1))
    plant.cloud.cutoffs.put([slower])
    hourly = [cold(60 * k, 60 * k, warmer=STEP if k >= -3 else 0.0)[0] for k in range(-90, 4)]
    plant.store(hourly[:90])
    one_by_one(plant, hourly[90:])
    # readings of 12:00 and after are judged by the new one
    assert bounds(plant.one_incident()) == ("equipment", at(0), at(60), at(180))
    assert len(plant.texts()["day"]) == 1
