"""The contract of every store, on tables made from the synthesized template."""

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lambdas.runtime.dynamodb import StoreBusyError
from lambdas.sensors.stores import (
    HeadMovedError,
    QuarantinedEvent,
    Sensor,
    Source,
    dump_cutoffs,
    load_cutoffs,
)
from overcut.sensors.alerts import TextsOfOnePlace
from overcut.sensors.cutoffs import Cutoff, Usual, UsualRange, in_force, retired
from overcut.sensors.features import Feature
from overcut.sensors.incidents import (
    Cause,
    Change,
    ChangeKind,
    Episode,
    Equipment,
    Head,
    Incident,
    IncidentState,
    Text,
    TextKind,
    TextState,
)
from overcut.sensors.readings import Reading, format_time
from tests.functional.conftest import Cloud

NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RETENTION = timedelta(days=30)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as threads:
        yield threads


def expiry(measured_at: datetime) -> int:
    return int((measured_at + RETENTION).timestamp())


def reading(minute: int, value: float = 4.0, sensor_id: str = "a") -> Reading:
    return Reading(sensor_id, NOON + minute * MINUTE, {"temperature": value})


class Unprocessing:
    """Answers `refusals` calls with everything but one item left unprocessed, and keeps how much each call asked."""

    def __init__(self, real: Callable[..., Any], refusals: int, answer: str) -> None:
        self._real = real
        self._refusals = refusals
        self._answer = answer
        self.sizes: list[int] = []

    def __call__(self, *, RequestItems: dict[str, Any]) -> Any:  # noqa: N803 - boto3's own name
        ((table, asked),) = RequestItems.items()
        keys = asked["Keys"] if isinstance(asked, dict) else asked
        self.sizes.append(len(keys))
        if self._refusals == 0:
            return self._real(RequestItems=RequestItems)
        self._refusals -= 1

        def of(some: list[Any]) -> dict[str, Any]:
            return {table: {**asked, "Keys": some} if isinstance(asked, dict) else some}

        return {**self._real(RequestItems=of(keys[:1])), self._answer: of(keys[1:])}


# --- readings ---


def test_readings_of_several_batches_are_stored_and_read_in_order(cloud: Cloud, threads: ThreadPoolExecutor) -> None:
    several = [reading(minute, value=minute / 10) for minute in range(60)]
    cloud.readings.put(several[::-1], expiry, threads)
    assert cloud.readings.between("a", NOON + 10 * MINUTE, NOON + 12 * MINUTE) == several[10:13]
    assert cloud.readings.since("a", NOON + 57 * MINUTE, 200) == several[57:]
    assert cloud.readings.since("a", NOON + 10 * MINUTE, 3) == several[10:13]
    assert cloud.readings.since("a", NOON + 9.5 * MINUTE, 1) == several[10:11]
    assert cloud.readings.since("a", NOON + 60 * MINUTE, 1) == []
    assert cloud.readings.before("a", NOON + 30 * MINUTE, 2) == several[28:30]
    assert cloud.readings.before("a", NOON + 1 * MINUTE, 90) == several[:1]
    assert cloud.readings.before("a", NOON, 0) == []
    assert cloud.readings.since("b", NOON, 5) == []


def test_no_more_is_read_than_was_asked_for(cloud: Cloud, threads: ThreadPoolExecutor) -> None:
    cloud.readings.put([reading(minute) for minute in range(60)], expiry, threads)
    limits: list[int | None] = []

    def keep(params: dict[str, Any], **_: Any) -> None:
        limits.append(params.get("Limit"))

    events = cloud.dynamodb.meta.events
    events.register("before-parameter-build.dynamodb.Query", keep)
    try:
        assert cloud.readings.since("a", NOON, 7) == [reading(minute) for minute in range(7)]
        assert cloud.readings.before("a", NOON + 60 * MINUTE, 8) == [reading(minute) for minute in range(52, 60)]
    finally:
        events.unregister("before-parameter-build.dynamodb.Query", keep)
    # not one page more than these
    assert limits == [7, 8]


def test_a_stored_reading_is_a_function_of_the_event_alone(cloud: Cloud, threads: ThreadPoolExecutor) -> None:
    stored = []
    for _ in range(2):
        cloud.readings.put([Reading("a", NOON, {"temperature": -0.1 + 0.3, "humidity": 55.0})], expiry, threads)
        stored.append(cloud.dynamodb.scan(TableName=cloud.tables["Readings"])["Items"])
    # 2026-02-04T12:00:00Z
    item = {
        "sensor_id": {"S": "a"},
        "measured_at": {"S": "2026-01-05T12:00:00Z"},
        "values": {"M": {"temperature": {"N": "0.19999999999999998"}, "humidity": {"N": "55.0"}}},
        "expires_at": {"N": "1770206400"},
    }
    assert stored == [[item], [item]]


def test_what_dynamodb_leaves_unprocessed_is_written_again(
    cloud: Cloud, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Unprocessing(cloud.dynamodb.batch_write_item, refusals=2, answer="UnprocessedItems")
    monkeypatch.setattr(cloud.dynamodb, "batch_write_item", client)
    cloud.readings.put([reading(minute) for minute in range(20)], expiry, threads)
    assert client.sizes == [20, 19, 18]
    assert len(cloud.readings.since("a", NOON, 200)) == 20


def test_a_table_that_stays_busy_is_an_error_to_retry(
    cloud: Cloud, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    client = Unprocessing(cloud.dynamodb.batch_write_item, refusals=100, answer="UnprocessedItems")
    monkeypatch.setattr(cloud.dynamodb, "batch_write_item", client)
    with pytest.raises(StoreBusyError, match="capacity"):
        cloud.readings.put([reading(minute) for minute in range(25)], expiry, threads)
    assert len(client.sizes) == 8


# --- sensors ---


def test_registering_is_conditional(cloud: Cloud) -> None:
    known = Sensor(
        "a", "device", {"temperature": "C"}, name="Cold room", customer="north", site="Aarhus", kind="fridge"
    )
    assert cloud.sensors.register(known, 16)
    assert not cloud.sensors.register(Sensor("a", "other", {}), 16)
    assert cloud.sensors.get("a") == known
    assert list(cloud.sensors.all()) == [known]


def test_a_sensor_imported_before_it_was_seen_gets_its_source_and_units(cloud: Cloud) -> None:
    cloud.sensors.put([Sensor("a", "", {}, name="Cold room", site="Aarhus")], 16)
    assert cloud.sensors.registered(["a"]) == set()
    assert cloud.sensors.register(Sensor("a", "device", {"temperature": "C"}), 16)
    assert cloud.sensors.get("a") == Sensor("a", "device", {"temperature": "C"}, name="Cold room", site="Aarhus")
    assert cloud.sensors.registered(["a"]) == {"a"}


def test_a_sensor_that_nobody_registered_is_just_its_id(cloud: Cloud) -> None:
    assert cloud.sensors.get("a") == Sensor("a", "", {})
    assert cloud.sensors.get("a").equipment == Equipment("a", "a", "", "")


def test_every_sensor_is_in_one_bucket(cloud: Cloud) -> None:
    cloud.sensors.put([Sensor(f"s{n}", "device", {}) for n in range(40)], 4)
    found = [cloud.sensors.ids_in_bucket(bucket) for bucket in range(4)]
    assert sorted(sensor_id for ids in found for sensor_id in ids) == sorted(f"s{n}" for n in range(40))
    assert all(found)
    assert found[0] == sorted(found[0])


def test_which_sensors_are_registered_is_asked_in_batches_until_all_are_answered(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.sensors.put([Sensor(f"s{n}", "device", {}) for n in range(110)], 4)
    client = Unprocessing(cloud.dynamodb.batch_get_item, refusals=1, answer="UnprocessedKeys")
    monkeypatch.setattr(cloud.dynamodb, "batch_get_item", client)
    asked = [f"s{n}" for n in range(120)]
    assert cloud.sensors.registered(asked) == set(asked[:110])
    assert client.sizes == [100, 99, 20]


# --- cutoffs ---


# fewer digits than all of them would read as a neighbour
THIRD, PI, HAIR = 1 / 3, math.pi, math.nextafter(4.0, 5.0)


def usual_range(measure: str) -> UsualRange:
    features: dict[Feature, Usual] = {
        "jump": Usual(-THIRD, PI, 0.1 + 0.2),
        "plateau": Usual(0.0, 1e-7 / 3, 2e17 / 3),
        "level": Usual(HAIR, 1.5, 0.75),
        "volatility": Usual(0.05, THIRD, 0.0),
    }
    return UsualRange(measure, 3.5, HAIR, 0.3 * THIRD, features, {"jump": Usual(0.0, THIRD, HAIR)})


def cutoff(day: int, sensor_id: str = "a") -> Cutoff:
    trained_at = datetime(2026, 1, day, 2, 30, tzinfo=UTC)
    return Cutoff(
        sensor_id=sensor_id,
        trained_at=trained_at,
        effective_from=trained_at + timedelta(minutes=15),
        cohort_id="kind-fridge-0123abcd",
        model_version=f"v{day}",
        score_cutoff=1.0 + PI * THIRD,
        score_mean=-PI,
        score_sd=THIRD,
        z_factor=0.1 + 0.2,
        interval=timedelta(seconds=60),
        reading_count=20_160,
        stuck_after=27,
        ranges=(usual_range("temperature"), usual_range("humidity")),
        routine=(0, 13, 47),
        is_approved=True,
    )


def bits(thing: Any) -> Any:
    """Every number of a dataclass, a mapping or a sequence as its bits, and of which type it is."""
    if isinstance(thing, float):
        return thing.hex()
    if is_dataclass(thing):
        return {one.name: bits(getattr(thing, one.name)) for one in fields(thing)}
    if isinstance(thing, dict):
        return {key: bits(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [bits(one) for one in thing]
    return (type(thing).__name__, thing)


def test_a_cutoff_is_read_as_it_was_written(cloud: Cloud) -> None:
    one = cutoff(1)
    cloud.cutoffs.put([one])
    (found,) = cloud.cutoffs.newest("a", 1)
    assert bits(found) == bits(one)
    assert found == one
    assert cloud.cutoffs.get("a", one.trained_at) == one
    assert cloud.cutoffs.get("a", one.trained_at + MINUTE) is None
    assert bits(load_cutoffs(dump_cutoffs([one, cutoff(2)]))) == bits([one, cutoff(2)])


def test_a_laboratory_cutoff_has_one_feature_and_is_never_stuck(cloud: Cloud) -> None:
    ranges = (UsualRange("temperature", 3.5, 4.5, 0.0, {"value": Usual(4.0, 0.5, THIRD)}),)
    one = replace(cutoff(1), stuck_after=0, ranges=ranges)
    cloud.cutoffs.put([one])
    assert bits(cloud.cutoffs.newest("a", 1)) == bits([one])


def test_a_retired_cutoff_follows_the_one_it_retires(cloud: Cloud) -> None:
    one = cutoff(1)
    silent = retired(one, one.trained_at + timedelta(days=7), one.effective_from + timedelta(days=7))
    cloud.cutoffs.put([one, silent])
    found = cloud.cutoffs.newest("a", 3)
    assert bits(found) == bits([silent, one])
    assert found[0].ranges == ()
    before = silent.effective_from - MINUTE
    assert in_force(found, before) == one.at(before)
    assert in_force(found, silent.effective_from) is None
    assert bits(load_cutoffs(dump_cutoffs([silent]))) == bits([silent])


def test_cutoffs_come_newest_first_and_whole(cloud: Cloud) -> None:
    cloud.cutoffs.put([cutoff(day) for day in (3, 1, 4, 2)] + [cutoff(5, "b")])
    assert cloud.cutoffs.newest("a", 3) == [cutoff(4), cutoff(3), cutoff(2)]
    assert cloud.cutoffs.newest("b", 3) == [cutoff(5, "b")]
    assert cloud.cutoffs.newest("c", 3) == []


def test_cutoffs_as_of_a_moment_may_be_those_of_the_training_before(cloud: Cloud) -> None:
    cloud.cutoffs.put([cutoff(day) for day in range(1, 6)])
    # five minutes after a training its cutoff is not in force yet
    just_trained = datetime(2026, 1, 3, 2, 35, tzinfo=UTC)
    assert cloud.cutoffs.as_of("a", just_trained) == [cutoff(3), cutoff(2)]
    assert cloud.cutoffs.as_of("a", datetime(2026, 1, 1, tzinfo=UTC)) == []


def test_cutoffs_as_of_a_moment_reach_the_one_in_force_however_many_follow(cloud: Cloud) -> None:
    """Three that people rolled back to within a quarter of an hour are none of them in force yet."""
    by_hand = [
        replace(one, trained_at=one.trained_at + k * MINUTE, effective_from=one.effective_from + k * MINUTE)
        for k, one in enumerate([cutoff(3)] * 3)
    ]
    cloud.cutoffs.put([cutoff(1), cutoff(2), *by_hand])
    moment = by_hand[0].effective_from - MINUTE
    found = cloud.cutoffs.as_of("a", moment)
    assert found == [*by_hand[::-1], cutoff(2)]
    assert in_force(found, moment) == cutoff(2).at(moment)


# --- model events ---


def test_model_events_come_oldest_first(cloud: Cloud) -> None:
    cloud.model_events.put("fridges", NOON + MINUTE, {"decision": "held", "reason": "too few", "sensors": 0})
    cloud.model_events.put("fridges", NOON, {"decision": "promoted", "z_factor": 2.5})
    assert cloud.model_events.of("fridges") == [
        {"model_id": "fridges", "occurred_at": "2026-01-05T12:00:00Z", "decision": "promoted", "z_factor": 2.5},
        {
            "model_id": "fridges",
            "occurred_at": "2026-01-05T12:01:00Z",
            "decision": "held",
            "reason": "too few",
            "sensors": 0.0,
        },
    ]


# --- sources ---


def test_a_source_nobody_polled_has_no_cursor_and_no_failures(cloud: Cloud) -> None:
    assert cloud.sources.get("device") == Source()


def test_failures_are_counted_until_a_success(cloud: Cloud) -> None:
    cloud.sources.connected("device", "poll-1")
    cloud.sources.advance("device", "e1", NOON)
    cloud.sources.failed("device", "answered 500", NOON + MINUTE)
    cloud.sources.failed("device", "answered 404", NOON + 2 * MINUTE)
    assert cloud.sources.get("device") == Source(
        cursor="e1",
        connected_poll="poll-1",
        failures_in_a_row=2,
        last_error="answered 404",
        last_success_at="2026-01-05T12:00:00Z",
        next_try_at="2026-01-05T12:02:00Z",
    )
    assert cloud.sources.get("other") == Source()
    advanced = cloud.sources.advance("device", "e2", NOON + 3 * MINUTE)
    assert advanced == Source(cursor="e2", connected_poll="poll-1", last_success_at="2026-01-05T12:03:00Z")
    assert cloud.sources.get("device") == advanced


def test_a_failure_may_forget_the_cursor_or_ask_to_stay_away(cloud: Cloud) -> None:
    cloud.sources.advance("device", "e1", NOON)
    cloud.sources.failed("device", "answered 204", NOON + 10 * MINUTE, stay_away=True)
    away = cloud.sources.get("device")
    assert (away.stay_away_until, away.cursor) == ("2026-01-05T12:10:00Z", "e1")
    cloud.sources.failed("device", "answered 410", NOON + MINUTE, forget_cursor=True)
    forgotten = cloud.sources.get("device")
    assert (forgotten.stay_away_until, forgotten.cursor) == ("", "")


# --- pending exports ---


def test_an_hour_marked_again_while_it_is_exported_stays_pending(cloud: Cloud) -> None:
    cloud.pending.mark([(1, NOON), (1, NOON - 60 * MINUTE), (1, NOON), (2, NOON)], "first")
    assert cloud.pending.of(1) == [(NOON - 60 * MINUTE, "first"), (NOON, "first")]
    assert cloud.pending.of(3) == []

    cloud.pending.mark([(1, NOON)], "second")
    cloud.pending.clear(1, NOON, "first")
    cloud.pending.clear(1, NOON - 60 * MINUTE, "first")
    assert cloud.pending.of(1) == [(NOON, "second")]
    cloud.pending.clear(1, NOON, "second")
    cloud.pending.clear(1, NOON, "second")  # nothing is left, and that is no error
    assert cloud.pending.of(1) == []
    assert cloud.pending.of(2) == [(NOON, "first")]


def test_many_hours_are_marked_in_batches(cloud: Cloud) -> None:
    cloud.pending.mark([(1, NOON + n * 60 * MINUTE) for n in range(30)], "m")
    assert len(cloud.pending.of(1)) == 30


# --- incidents ---

ALERT, RECOVERY = "alert#day", "recovery#day"


def incident(opened: int = 4, sensor_id: str = "a", state: TextState = TextState.OWED) -> Incident:
    return Incident(
        equipment=Equipment(sensor_id, f"Unit {sensor_id}", "north", "Aarhus"),
        kind="equipment",
        state=IncidentState.OPEN,
        opened_at=NOON + opened * MINUTE,
        first_anomalous_at=NOON + (opened - 4) * MINUTE,
        last_anomalous_at=NOON + opened * MINUTE,
        cause=Cause("temperature", "C", 30.0, 3.5, 4.5, 9.0, 2.0, "v1"),
        texts={ALERT: Text(TextKind.ALERT, "day", state)},
    )


def opening(one: Incident, version: int = 1) -> Change:
    episode = Episode(one.first_anomalous_at, one.opened_at, one.last_anomalous_at)
    return Change(ChangeKind.OPEN, episode, Head(version, one.opened_at, one.first_anomalous_at, one.last_anomalous_at))


def opened(cloud: Cloud, one: Incident | None = None) -> Incident:
    one = one or incident()
    cloud.incidents.open(one, opening(one))
    return one


def stored(cloud: Cloud, one: Incident) -> Incident:
    found = cloud.incidents.get(one.equipment.sensor_id, one.opened_at)
    assert found
    return found


def test_opening_puts_incident_and_head(cloud: Cloud) -> None:
    one = opened(cloud)
    assert stored(cloud, one) == one
    assert cloud.incidents.head("a", "equipment") == Head(1, NOON + 4 * MINUTE, NOON, NOON + 4 * MINUTE)
    assert cloud.incidents.head("a", "silence") is None
    assert cloud.incidents.head("b", "equipment") is None
    assert cloud.incidents.of("a", NOON, NOON + 60 * MINUTE) == [one]
    assert cloud.incidents.of("a", NOON + 5 * MINUTE, NOON + 60 * MINUTE) == []


@pytest.mark.parametrize("version", [1, 3])
def test_opening_on_a_head_that_moved_changes_nothing(cloud: Cloud, version: int) -> None:
    opened(cloud)
    late = incident(opened=50)
    with pytest.raises(HeadMovedError):
        cloud.incidents.open(late, opening(late, version))
    assert cloud.incidents.get("a", late.opened_at) is None
    assert cloud.incidents.head("a", "equipment") == Head(1, NOON + 4 * MINUTE, NOON, NOON + 4 * MINUTE)
    cloud.incidents.open(late, opening(late, 2))
    assert stored(cloud, late) == late


def test_an_incident_is_never_put_over_another(cloud: Cloud) -> None:
    one = opened(cloud)
    with pytest.raises(HeadMovedError):
        cloud.incidents.open(one, opening(one, 2))
    head = cloud.incidents.head("a", "equipment")
    assert head
    assert head.version == 1


def test_recovering_gives_the_incident_its_texts_and_moves_the_head(cloud: Cloud) -> None:
    one = opened(cloud)
    over = NOON + 34 * MINUTE
    head = Head(2, one.opened_at, one.first_anomalous_at, one.last_anomalous_at, recovered_at=over)
    episode = Episode(one.first_anomalous_at, one.opened_at, one.last_anomalous_at, over)
    owed = Text(TextKind.RECOVERY, "day", TextState.OWED)
    values: dict[str, Any] = {
        "state": "recovered",
        "recovered_at": "2026-01-05T12:34:00Z",
        "anomalous_minutes": 5,
        "texts": {RECOVERY: owed},
    }
    cloud.incidents.update("a", "equipment", Change(ChangeKind.RECOVER, episode, head), **values)
    assert stored(cloud, one) == replace(
        one,
        state=IncidentState.RECOVERED,
        recovered_at=over,
        anomalous_minutes=5,
        texts={**one.texts, RECOVERY: owed},
    )
    assert cloud.incidents.head("a", "equipment") == head
    with pytest.raises(HeadMovedError):
        cloud.incidents.update("a", "equipment", Change(ChangeKind.RECOVER, episode, head), **values)


def test_a_text_is_claimed_by_one_sender(cloud: Cloud) -> None:
    one = opened(cloud)
    assert cloud.incidents.claim([one], ALERT, 1000, 1090)
    assert not cloud.incidents.claim([one], ALERT, 1000, 1090)
    assert not cloud.incidents.claim([one], ALERT, 1090, 1180)  # at its last second a claim still holds
    assert not cloud.incidents.claim([one], "alert#night", 1000, 1090)
    assert stored(cloud, one).texts[ALERT] == Text(TextKind.ALERT, "day", TextState.SENDING, claimed_until=1090)


def test_a_claim_that_ran_out_is_taken_by_another_sender(cloud: Cloud) -> None:
    one = opened(cloud)
    assert cloud.incidents.claim([one], ALERT, 1000, 1090)
    assert cloud.incidents.claim([one], ALERT, 1091, 1181)
    assert stored(cloud, one).texts[ALERT].claimed_until == 1181


def test_a_released_text_is_owed_again(cloud: Cloud) -> None:
    one = opened(cloud)
    cloud.incidents.claim([one], ALERT, 1000, 1090)
    cloud.incidents.release(one, ALERT)
    assert stored(cloud, one).texts[ALERT].state is TextState.OWED
    assert cloud.incidents.claim([one], ALERT, 1001, 1091)


def test_a_text_is_marked_although_a_transaction_is_at_its_incident(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK does not repeat this refusal by itself; the text has left, and unmarked it would be sent again."""
    one, refusals, real = opened(cloud), 3, cloud.dynamodb.update_item
    cloud.incidents.claim([one], ALERT, 1000, 1090)

    def conflicting(**update: Any) -> Any:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise ClientError({"Error": {"Code": "TransactionConflictException", "Message": ""}}, "UpdateItem")
        return real(**update)

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(cloud.dynamodb, "update_item", conflicting)
    cloud.incidents.mark_sent([one], ALERT, "m-1", "ALERT it is warm", NOON)
    assert stored(cloud, one).texts[ALERT].state is TextState.SENT


def opened_together(cloud: Cloud, number: int) -> list[Incident]:
    one = incident()
    return [opened(cloud, replace(one, equipment=replace(one.equipment, sensor_id=f"unit-{k}"))) for k in range(number)]


def test_many_texts_are_claimed_and_marked_in_few_requests(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    several, single = opened_together(cloud, 102), cloud.dynamodb.update_item
    monkeypatch.setattr(cloud.dynamodb, "update_item", lambda **_: pytest.fail("one by one"))
    assert cloud.incidents.claim(several, ALERT, 1000, 1090) == several
    cloud.incidents.mark_sent(several, ALERT, "m-1", "ALERT", NOON)
    monkeypatch.setattr(cloud.dynamodb, "update_item", single)
    assert {stored(cloud, one).texts[ALERT].state for one in several} == {TextState.SENT}


def test_of_many_texts_only_those_that_nobody_else_has_are_claimed(cloud: Cloud) -> None:
    several = opened_together(cloud, 3)
    cloud.incidents.claim(several[1:2], ALERT, 1000, 1090)
    assert cloud.incidents.claim(several, ALERT, 1000, 1090) == [several[0], several[2]]


def test_one_that_cannot_be_marked_does_not_take_the_others_of_its_text_along(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    several, real = opened_together(cloud, 3), cloud.dynamodb.update_item
    cloud.incidents.claim(several, ALERT, 1000, 1090)
    throttled = ClientError({"Error": {"Code": "ThrottlingException", "Message": "too many"}}, "UpdateItem")

    def update(**given: Any) -> Any:
        if given["Key"]["sensor_id"] == {"S": "unit-0"}:
            raise throttled
        return real(**given)

    def transact(**given: Any) -> Any:
        raise throttled

    monkeypatch.setattr(cloud.dynamodb, "update_item", update)
    monkeypatch.setattr(cloud.dynamodb, "transact_write_items", transact)
    with pytest.raises(ClientError, match="too many"):
        cloud.incidents.mark_sent(several, ALERT, "m-1", "ALERT it is warm", NOON)
    states = [stored(cloud, one).texts[ALERT].state for one in several]
    assert states == [TextState.SENDING, TextState.SENT, TextState.SENT]


def test_a_sent_text_is_never_owed_or_claimed_again(cloud: Cloud) -> None:
    one = opened(cloud)
    cloud.incidents.claim([one], ALERT, 1000, 1090)
    cloud.incidents.mark_sent([one], ALERT, "m-1", "ALERT it is warm", NOON)
    cloud.incidents.release(one, ALERT)
    assert not cloud.incidents.claim([one], ALERT, 5000, 5090)
    text = stored(cloud, one).texts[ALERT]
    assert (text.state, text.message_id) == (TextState.SENT, "m-1")


def test_only_waiting_texts_become_owed(cloud: Cloud) -> None:
    one = incident(state=TextState.WAITING)
    one = opened(cloud, replace(one, texts={**one.texts, "alert#night": Text(TextKind.ALERT, "night", TextState.SENT)}))
    cloud.incidents.owe_waiting(one)
    cloud.incidents.claim([one], ALERT, 1000, 1090)
    cloud.incidents.owe_waiting(one)  # decided on what was read before: the claim holds
    assert {key: text.state for key, text in stored(cloud, one).texts.items()} == {
        ALERT: TextState.SENDING,
        "alert#night": TextState.SENT,
    }


def test_one_text_a_contact_and_place_in_a_while(cloud: Cloud) -> None:
    first, second = incident(), incident(sensor_id="b")
    three = timedelta(minutes=3)

    def permit(one: Incident, minute: float, contact: str = "day", kind: TextKind = TextKind.ALERT) -> bool:
        group = TextsOfOnePlace(contact, one.equipment.place, kind, (one,))
        return cloud.incidents.permit(group, NOON + minute * MINUTE, three)

    assert permit(first, 0)
    assert permit(first, 0.5)  # the same question again has the same answer
    assert not permit(second, 1)
    assert permit(second, 1, contact="night")
    assert permit(second, 1, kind=TextKind.RECOVERY)
    elsewhere = replace(second, equipment=replace(second.equipment, site="Bergen"))
    assert permit(elsewhere, 1)
    assert not permit(second, 3.4)
    assert permit(second, 3.5)


def test_what_needs_attention_is_open_or_owes_a_text(cloud: Cloud) -> None:
    assert list(cloud.incidents.needing_attention()) == []
    many = [opened(cloud, incident(sensor_id=f"s{n:03}")) for n in range(120)]
    found = list(cloud.incidents.needing_attention())
    assert sorted(i.equipment.sensor_id for i in found) == [i.equipment.sensor_id for i in many]
    assert all(i == incident(sensor_id=i.equipment.sensor_id) for i in found)


@pytest.mark.parametrize(
    ("state", "text", "settled"),
    [
        (IncidentState.OPEN, TextState.SENT, False),
        (IncidentState.RECOVERED, TextState.OWED, False),
        (IncidentState.RECOVERED, TextState.SENDING, False),
        (IncidentState.RECOVERED, TextState.WAITING, False),
        (IncidentState.RECOVERED, TextState.SENT, True),
        (IncidentState.RECOVERED, TextState.DIGEST, False),
    ],
)
def test_only_what_is_over_and_told_is_settled(
    cloud: Cloud, state: IncidentState, text: TextState, settled: bool
) -> None:
    one = opened(cloud, replace(incident(state=text), state=state))
    cloud.incidents.settle(one)
    assert list(cloud.incidents.needing_attention()) == ([] if settled else [one])
    assert stored(cloud, one) == one


def test_an_incident_without_texts_is_settled_once_it_is_over(cloud: Cloud) -> None:
    one = opened(cloud, replace(incident(), texts={}, state=IncidentState.RECOVERED))
    cloud.incidents.settle(one)
    assert list(cloud.incidents.needing_attention()) == []


def test_a_missed_incident_grows_instead_of_being_kept_twice(cloud: Cloud) -> None:
    missed = replace(incident(opened=4), state=IncidentState.MISSED, texts={})
    cloud.incidents.record_missed(missed, 30 * MINUTE)
    later = replace(missed, opened_at=NOON + 12 * MINUTE, first_anomalous_at=NOON - 2 * MINUTE)
    cloud.incidents.record_missed(replace(later, last_anomalous_at=NOON + 12 * MINUTE), 30 * MINUTE)
    kept = replace(missed, first_anomalous_at=NOON - 2 * MINUTE, last_anomalous_at=NOON + 12 * MINUTE)
    assert cloud.incidents.of("a", NOON - 60 * MINUTE, NOON + 60 * MINUTE) == [kept]
    assert list(cloud.incidents.needing_attention()) == []
    assert cloud.incidents.head("a", "equipment") is None


def test_a_missed_incident_half_an_hour_from_another_is_one_of_its_own(cloud: Cloud) -> None:
    one = replace(incident(opened=4), state=IncidentState.MISSED, texts={})
    two = replace(incident(opened=38), state=IncidentState.MISSED, texts={})
    cloud.incidents.record_missed(one, 30 * MINUTE)
    cloud.incidents.record_missed(two, 30 * MINUTE)
    assert cloud.incidents.of("a", NOON, NOON + 60 * MINUTE) == [one, two]


def test_incidents_of_two_kinds_that_open_in_the_same_minute_are_two(cloud: Cloud) -> None:
    fault = opened(cloud)
    stuck = opened(cloud, replace(fault, kind="stuck"))
    assert cloud.incidents.get("a", fault.opened_at) == fault
    assert cloud.incidents.get("a", fault.opened_at, "equipment") == fault
    assert cloud.incidents.get("a", fault.opened_at, "stuck") == stuck
    assert cloud.incidents.of("a", fault.opened_at, fault.opened_at) == [fault, stuck]
    assert cloud.incidents.of("a", fault.opened_at + MINUTE, NOON + 60 * MINUTE) == []
    assert cloud.incidents.of("a", NOON, fault.opened_at - MINUTE) == []
    assert cloud.incidents.head("a", "equipment") == cloud.incidents.head("a", "stuck") == opening(fault).head
    assert sorted(cloud.incidents.needing_attention(), key=lambda one: one.kind) == [fault, stuck]
    assert fault.reference != stuck.reference
    assert [one.incident for one in cloud.incidents.known(stuck.reference)] == [stuck]


def test_incidents_of_two_kinds_are_changed_and_told_each_by_itself(cloud: Cloud) -> None:
    fault = opened(cloud)
    stuck = opened(cloud, replace(fault, kind="stuck"))
    over = fault.opened_at + 30 * MINUTE
    episode = Episode(fault.first_anomalous_at, fault.opened_at, fault.last_anomalous_at, over)
    head = Head(2, fault.opened_at, fault.first_anomalous_at, fault.last_anomalous_at, recovered_at=over)
    values = {"state": "recovered", "recovered_at": format_time(over), "anomalous_minutes": 5}
    cloud.incidents.update("a", "stuck", Change(ChangeKind.RECOVER, episode, head), **values)
    cloud.incidents.label(stuck, "false")
    assert cloud.incidents.claim([stuck], ALERT, 1000, 1090)
    cloud.incidents.mark_sent([stuck], ALERT, "m-1", "ALERT it is stuck", NOON)
    cloud.incidents.settle(stuck)
    found = cloud.incidents.get("a", stuck.opened_at, "stuck")
    assert found
    assert (found.state, found.recovered_at, found.texts[ALERT].state) == ("recovered", over, TextState.SENT)
    assert stored(cloud, fault) == fault
    assert cloud.incidents.head("a", "equipment") == opening(fault).head
    assert cloud.incidents.head("a", "stuck") == head
    assert list(cloud.incidents.needing_attention()) == [fault]
    assert {one.incident.kind: one.label for one in cloud.incidents.known()} == {"equipment": "", "stuck": "false"}


def test_a_missed_incident_grows_by_those_of_its_own_kind(cloud: Cloud) -> None:
    missed = replace(incident(), state=IncidentState.MISSED, texts={})
    stuck = replace(missed, kind="stuck")
    cloud.incidents.record_missed(missed, 30 * MINUTE)
    cloud.incidents.record_missed(stuck, 30 * MINUTE)
    cloud.incidents.record_missed(replace(stuck, last_anomalous_at=NOON + 9 * MINUTE), 30 * MINUTE)
    assert cloud.incidents.of("a", NOON, NOON + 60 * MINUTE) == [
        missed,
        replace(stuck, last_anomalous_at=NOON + 9 * MINUTE),
    ]


def test_a_cause_is_read_as_it_was_written(cloud: Cloud) -> None:
    cause = Cause(
        measure="temperature",
        unit="C",
        value=HAIR,
        usual_low=-THIRD,
        usual_high=0.1 + 0.2,
        anomaly_score=1.0 + PI * THIRD,
        score_cutoff=math.nextafter(1.0, 2.0),
        model_version="v1",
        feature="volatility",
        trained_at="2026-01-05T02:30:00Z",
        inputs={"temperature": [k * THIRD for k in range(61)], "humidity": [HAIR, -PI, 2e17 / 3, 1e-7 / 3]},
    )
    for kind in ("equipment", "stuck"):
        one = opened(cloud, replace(incident(), kind=kind, cause=cause))
        found = cloud.incidents.get("a", one.opened_at, kind)
        assert found
        assert bits(found.cause) == bits(cause)
        assert found == one


# --- bucket ---


def test_quarantined_events_are_kept_as_they_came(cloud: Cloud) -> None:
    events = [QuarantinedEvent('{"a":\n"\u00e9"', "the event is not JSON", "7"), QuarantinedEvent("", "empty", "")]
    for _ in range(2):
        cloud.data.quarantine("device", events, NOON)
    (key,) = cloud.data.keys("quarantine/")
    assert key.startswith("quarantine/dt=2026-01-05/device/")
    assert key.endswith(".jsonl")
    lines = [json.loads(line) for line in cloud.data.get(key).splitlines()]
    assert lines == [
        {"raw": '{"a":\n"\u00e9"', "reason": "the event is not JSON", "event_id": "7"},
        {"raw": "", "reason": "empty", "event_id": ""},
    ]


def test_keys_are_listed_in_order_beyond_one_page(cloud: Cloud) -> None:
    for n in range(1001):
        cloud.s3.put_object(Bucket=cloud.bucket, Key=f"readings/{n:04}", Body=b"")
    assert cloud.data.keys("readings/") == [f"readings/{n:04}" for n in range(1001)]


def test_a_reading_of_a_distant_past_does_not_hide_among_the_newest(cloud: Cloud, threads: ThreadPoolExecutor) -> None:
    ancient = Reading("a", datetime(999, 1, 5, tzinfo=UTC), {"temperature": 4.0})
    cloud.readings.put([ancient, reading(0)], expiry, threads)
    assert cloud.readings.since("a", NOON, 2) == [reading(0)]
    assert cloud.readings.before("a", NOON, 90) == [ancient]
