"""Alerts: who is told, in which words, and that no text is lost, doubled without need, or out of order."""

import string
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overcut.sensors.alerts import (
    DAILY,
    HOURLY,
    Budget,
    Contact,
    Links,
    SendOutcome,
    TextRefusedError,
    TextsOfOnePlace,
    TextUncertainError,
    compose,
    compose_digest,
    contacts_for,
    digest_is_due,
    escalations,
    first_text_state,
    follows_held_back,
    needs_attention,
    send_digests,
    send_texts,
    texts_to_send,
    to_gsm7,
)
from overcut.sensors.features import FEATURES
from overcut.sensors.incidents import (
    EQUIPMENT_FAULT,
    KINDS,
    SILENCES,
    STUCK_SENSOR,
    Answer,
    Cause,
    Equipment,
    Incident,
    IncidentState,
    Response,
    Text,
    TextKind,
    TextState,
)
from tests.fakes import MemoryPhone, MemoryTextStore, check_text_store

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
GROUP_FOR = 3 * MINUTE
CLAIM_SECONDS = 60
PLENTY = Budget(per_hour=1_000, per_month=10_000)
# 3GPP TS 23.038, section 6.2.1, the default alphabet without its extension table
GSM7_BASIC = set(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./:;<=>?¡ÄÖÑÜ§¿äöñüà" + string.digits + string.ascii_letters
)


def incident(
    sensor_id: str = "hvac-323",
    *,
    minute: int = 0,
    name: str = "Cold room 3",
    site: str = "Lyon",
    texts: Mapping[TextKind, TextState] | None = None,
    contacts: tuple[str, ...] = ("maintenance",),
    state: IncidentState = IncidentState.OPEN,
    kind: str = EQUIPMENT_FAULT,
) -> Incident:
    first = NOON + minute * MINUTE
    states = {TextKind.ALERT: TextState.OWED} if texts is None else texts
    made = [Text(kind, contact, one) for kind, one in states.items() for contact in contacts]
    return Incident(
        equipment=Equipment(sensor_id, name, "Acme", site),
        kind=kind,
        state=state,
        opened_at=first + 4 * MINUTE,
        first_anomalous_at=first,
        last_anomalous_at=first + 4 * MINUTE,
        cause=Cause("temperature", "C", 9.14, 1.0, 5.0, 3.2, 1.4, "v"),
        texts={text.text_key: text for text in made},
    )


# --- the words ---


def test_the_alert() -> None:
    assert compose([incident()], TextKind.ALERT) == (
        f"ALERT Cold room 3, Lyon: temperature 9.1 C, usual 1.0 to 5.0, since 12:00 UTC. Ref {incident().reference}"
    )


def test_the_recovery() -> None:
    assert compose([incident()], TextKind.RECOVERY) == (
        f"OK AGAIN Cold room 3, Lyon: usual values since 12:04 UTC. The fault began 12:00. Ref {incident().reference}"
    )
    # a verdict looks back on a fault for a while after it
    text = Text(TextKind.RECOVERY, "day", TextState.OWED, since=NOON + 2 * MINUTE)
    back = replace(incident(), texts={text.text_key: text})
    assert "usual values since 12:02 UTC" in compose([back], TextKind.RECOVERY)
    assert ", since 12:02 UTC. Ref" in compose([back, back], TextKind.RECOVERY)


@pytest.mark.parametrize("feature", [feature for feature in FEATURES if feature != "volatility"])
def test_what_is_unusual_of_a_value_is_told_as_the_value(feature: str) -> None:
    one = incident()
    told = replace(one, cause=replace(one.cause, feature=feature))
    assert compose([told], TextKind.ALERT) == compose([one], TextKind.ALERT)


def test_a_volatility_is_told_as_a_swing() -> None:
    one = incident()
    cause = replace(one.cause, feature="volatility", value=0.712, usual_low=0.0, usual_high=0.248)
    assert compose([replace(one, cause=cause)], TextKind.ALERT) == (
        f"ALERT Cold room 3, Lyon: temperature swing 0.71 C, usual 0.0 to 0.25, since 12:00 UTC. Ref {one.reference}"
    )
    assert compose([replace(one, cause=cause)], TextKind.RECOVERY) == compose([one], TextKind.RECOVERY)
    long = replace(cause, measure="temperature of the evaporator")
    assert ": temperature of t.. swing 0.71 C," in compose([replace(one, cause=long)], TextKind.ALERT)


def test_a_stuck_sensor() -> None:
    one = incident(kind=STUCK_SENSOR, site="Plant 1")
    one = replace(one, cause=replace(one.cause, value=4.2))
    assert compose([one], TextKind.ALERT) == (
        f"ALERT Cold room 3, Plant 1: temperature stuck at 4.2 C since 12:00 UTC. Ref {one.reference}"
    )
    assert compose([one], TextKind.RECOVERY) == (
        f"OK AGAIN Cold room 3, Plant 1: temperature stuck from 12:00 to 12:04 UTC, now changing. Ref {one.reference}"
    )
    assert one.reference != incident(site="Plant 1").reference


def test_several_stuck_sensors() -> None:
    two = [incident(f"s{k}", minute=k, name=f"Unit {k}", kind=STUCK_SENSOR) for k in range(2)]
    assert compose(two, TextKind.ALERT) == (
        f"ALERT Lyon: 2 sensors also stuck: Unit 0, Unit 1, since 12:00 UTC. Ref {two[0].reference}"
    )
    assert compose(two, TextKind.RECOVERY) == (
        f"Lyon: 2 sensors OK again: Unit 0, Unit 1, since 12:05 UTC. Ref {two[0].reference}"
    )
    assert compose([two[0], incident("s2", minute=2, name="Unit 2")], TextKind.ALERT) == (
        f"ALERT Lyon: 2 units also abnormal: Unit 0, Unit 2, since 12:00 UTC. Ref {two[0].reference}"
    )


def test_a_unit_that_is_abnormal_and_stuck_is_one_unit() -> None:
    both = [incident(), incident(minute=9, kind=STUCK_SENSOR)]
    other = incident("hvac-324", minute=10, name="Cold room 4")
    assert compose([*both, other], TextKind.ALERT) == (
        f"ALERT Lyon: 2 units also abnormal: Cold room 3, Cold room 4, since 12:00 UTC. Ref {both[0].reference}"
    )
    assert compose(both, TextKind.ALERT) == (
        f"ALERT Lyon: 1 unit also abnormal: Cold room 3, since 12:00 UTC. Ref {both[0].reference}"
    )


def test_several_units() -> None:
    three = [incident(f"s{k}", minute=3 - k, name=f"Unit {k}") for k in range(3)]
    assert compose(three, TextKind.ALERT) == (
        f"ALERT Lyon: 3 units also abnormal: Unit 0, Unit 1, Unit 2, since 12:01 UTC. Ref {three[2].reference}"
    )
    assert compose(three, TextKind.RECOVERY) == (
        f"Lyon: 3 units OK again: Unit 0, Unit 1, Unit 2, since 12:07 UTC. Ref {three[2].reference}"
    )


def test_of_many_units_the_worst_three_are_named() -> None:
    many = [scored(incident(f"s{k}", minute=k, name=f"Refrigerator {k}"), 3.0 + k % 50) for k in range(100)]
    assert compose(many, TextKind.ALERT) == (
        "ALERT Lyon: 100 units also abnormal, worst: Refrigerator 49, Refrigerator 99, Refrigerator 48, since"
        f" 12:00 UTC. Ref {many[0].reference}"
    )
    many = [incident(f"s{k}", minute=k, name=str(k % 10) * 200) for k in range(4)]
    assert ", worst: 0000000000000000000000.., 1111111111111111111111.., 2222" in compose(many, TextKind.ALERT)


def scored(one: Incident, anomaly_score: float) -> Incident:
    return replace(one, cause=replace(one.cause, anomaly_score=anomaly_score))


def test_several_that_last() -> None:
    three = [incident(f"s{k}", minute=k, name=f"Unit {k}") for k in range(3)]
    assert compose(three, TextKind.REMINDER) == (
        "Lyon: 3 units still abnormal: Unit 0, Unit 1, Unit 2, since 02 Mar 12:00 UTC."
        f" Learned as usual unless marked a fault. Ref {three[0].reference}"
    )
    learned = [*three[:2], replace(three[2], state=IncidentState.NEW_NORMAL)]
    assert compose(learned, TextKind.RECOVERY) == (
        f"Lyon: 3 units OK again or learned as usual: Unit 0, Unit 1, Unit 2, since 12:06 UTC. Ref {three[0].reference}"
    )


def test_nobody_is_texted_about_nothing() -> None:
    with pytest.raises(ValueError, match="at least one"):
        compose([], TextKind.ALERT)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("Kühlraum Süd", "Kuhlraum Sud"),
        ("21 °C", "21 C"),
        ("21 ℃", "21 C"),
        ("a\tb\nc\x00d", "a b c d"),
        ("[A] {B}", "(A) (B)"),
        ("don’t – “never”", 'don\'t - "never"'),
        ("−18", "-18"),
        ("µm m³/h", "um m3/h"),
        ("Straße Ærø Łódź", "Strasse AEro Lodz"),
        ("`^|~\\€", "??????"),
        ("\U0001f600\u202e\u200b", "???"),
        ("@_$", "@_$"),
        ("Ψυγείο 3", "Psygeio 3"),
        ("Холодильник", "Kholodil'nik"),
        ("倉庫", "CangKu"),
    ],
)
def test_letters(written: str, sent: str) -> None:
    assert to_gsm7(written) == sent


WILD = st.text(st.characters() | st.sampled_from("\U0001f600\u202e\u2066\x07\n°ﷺ^{}[]|~€\\`é"), max_size=300)
# no reading with half a surrogate pair in its sensor's id gets past the edge
SENSOR_IDS = st.text(st.characters(codec="utf-8"), max_size=300)
VALUES = st.floats(-1e30, 1e30) | st.sampled_from([0.0, -0.0, 1e-30, -1e-30, 999.96, 999999.99, -0.004])


@st.composite
def wild_incidents(draw: st.DrawFn) -> Incident:
    first = draw(st.datetimes(timezones=st.just(UTC)))
    return Incident(
        equipment=Equipment(draw(SENSOR_IDS), draw(WILD), draw(WILD), draw(WILD)),
        kind=draw(st.sampled_from([*KINDS, *SILENCES])),
        state=IncidentState.OPEN,
        opened_at=first,
        first_anomalous_at=first,
        last_anomalous_at=first,
        cause=Cause(
            draw(WILD),
            draw(WILD),
            draw(VALUES),
            draw(VALUES),
            draw(VALUES),
            anomaly_score=3.0,
            score_cutoff=1.0,
            model_version="v",
            feature=draw(st.sampled_from(sorted(FEATURES))),
        ),
        texts={},
    )


@given(st.lists(wild_incidents(), min_size=1, max_size=5), st.sampled_from(TextKind), st.integers(1, 5000))
@settings(deadline=None, max_examples=50)
def test_every_text_is_one_segment_of_the_basic_set(found: list[Incident], kind: TextKind, times: int) -> None:
    one, sensor_id = found[0], found[0].equipment.sensor_id
    copies = [replace(one, equipment=replace(one.equipment, sensor_id=f"{sensor_id} {k}")) for k in range(times)]
    for incidents in (found, [one], [one, one], copies):
        text = compose(incidents, kind)
        assert len(text) <= 160
        assert set(text) <= GSM7_BASIC - {"\n", "\r"}
        assert text.isascii()
        assert text.endswith(min(incidents, key=lambda one: one.first_anomalous_at).reference)


@pytest.mark.parametrize("text", TextKind)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("feature", FEATURES)
def test_whatever_is_long_is_cut(feature: str, kind: str, text: TextKind) -> None:
    one = incident(name="N" * 500, site="S" * 500, kind=kind)
    cause = replace(one.cause, measure="M" * 500, unit="U" * 500, value=-1e-30, usual_low=-1e30, usual_high=-1e30)
    one = replace(one, cause=replace(cause, feature=feature))
    assert len(compose([one], text)) == 160
    assert "NNN.., SSS" in compose([one], text)


def test_a_long_name_gives_way_to_the_figures() -> None:
    text = compose([incident(name="N" * 500, site="S" * 500)], TextKind.ALERT)
    assert text.endswith(f": temperature 9.1 C, usual 1.0 to 5.0, since 12:00 UTC. Ref {incident().reference}")
    assert "NNN.., SSS" in text
    assert len(text) == 160


# --- with a link ---

# a function's own URL in eu-central-1 is 72 characters, the longest anywhere 76; a token is 14
OWN_URL = f"https://{'a' * 32}.lambda-url.eu-central-1.on.aws/{'T' * 14}"
LONGEST_URL = f"https://{'a' * 32}.lambda-url.ap-southeast-2.on.aws/{'T' * 14}"
DOMAIN_URL = f"https://plant.example.com/{'T' * 14}"


def test_a_link_of_its_own_leaves_room_for_everything() -> None:
    one = incident(site="Plant 1")
    assert len(OWN_URL) == 86
    assert compose([one], TextKind.ALERT, OWN_URL) == (
        f"ALERT Cold room 3, Plant 1: 9.1 C, usual 1.0-5.0, since 12:00 UTC {one.reference} {OWN_URL}"
    )
    assert compose([one], TextKind.AGAIN, OWN_URL).startswith("STILL Cold room 3, Plant 1: 9.1 C, usual 1.0-5.0, since")
    assert compose([one], TextKind.ALERT, DOMAIN_URL) == (
        "ALERT Cold room 3, Plant 1: temperature 9.1 C, usual 1.0 to 5.0, since 12:00 UTC."
        f" Ref {one.reference} {DOMAIN_URL}"
    )


@pytest.mark.parametrize(
    ("kind", "feature", "told"),
    [
        ("equipment", "value", "9.1 C, usual 1.0-5.0, since 12:00 UTC"),
        ("equipment", "volatility", "swing 9.1 C, usual 1.0-5.0, 12:00 UTC"),
        ("stuck", "value", "stuck at 9.1 C since 12:00 UTC"),
        ("silent", "value", "no reading since 12:00 UTC"),
        ("site_silent", "value", "no reading since 12:00 UTC"),
        ("source_silent", "unreadable", "unreadable since 12:00 UTC"),
        ("backwards", "value", "clock may run behind, since 12:00 UTC"),
    ],
)
def test_each_kind_is_told_in_few_words(kind: str, feature: str, told: str) -> None:
    one = incident(kind=kind, name="A cold room with a long name", site="Somewhere else")
    one = replace(one, cause=replace(one.cause, feature=feature))
    text = compose([one], TextKind.ALERT, OWN_URL)
    assert f": {told} {one.reference} {OWN_URL}" in text.replace(". Ref ", " ")
    assert len(text) == 160


def test_what_lies_below_zero_and_what_has_no_unit() -> None:
    one = incident()
    cold = replace(one, cause=replace(one.cause, value=-18.5, usual_low=-25.0, usual_high=-22.0))
    assert "-18.5 C, usual -25.0 to -22.0, 12:00 UTC" in compose([cold], TextKind.ALERT, OWN_URL)
    bare = replace(one, cause=replace(one.cause, unit=""))
    assert "temper.. 9.1, usual 1.0-5.0, " in compose([bare], TextKind.ALERT, OWN_URL)


@pytest.mark.parametrize(
    ("kind", "domain", "short", "told"),
    [
        ("stuck", "temperature stuck at 9.1 since", "temperature stuck at 9.1 since", "stuck at 9.1 since"),
        ("equipment", "temperature 9.1, usual", "temperature 9.1, usual", "temper.. 9.1, usual"),
    ],
)
def test_a_measure_without_a_unit_is_named_whole_where_there_is_room(
    kind: str, domain: str, short: str, told: str
) -> None:
    one = incident(kind=kind)
    bare = replace(one, cause=replace(one.cause, unit=""))
    assert f": {domain}" in compose([bare], TextKind.ALERT, DOMAIN_URL)
    unit = replace(bare, equipment=replace(bare.equipment, name="u-1", site="S"))
    assert f": {short}" in compose([unit], TextKind.ALERT, OWN_URL)
    long = replace(bare, equipment=replace(bare.equipment, name="A cold room with a long name", site="Somewhere else"))
    assert f": {told}" in compose([long], TextKind.ALERT, OWN_URL)


def test_beside_a_link_a_place_that_nobody_gave_leaves_its_room_to_what_is_measured() -> None:
    one = incident(site="")
    bare = replace(one, cause=replace(one.cause, unit=""))
    assert "Cold room 3, no site yet: " in compose([bare], TextKind.ALERT)
    assert "Cold room 3, no site yet: " in compose([bare], TextKind.ALERT, DOMAIN_URL)
    assert compose([bare], TextKind.ALERT, OWN_URL) == (
        f"ALERT Cold room 3: temperature 9.1, usual 1.0-5.0, since 12:00 UTC {one.reference} {OWN_URL}"
    )


def test_several_with_a_link() -> None:
    many = [incident(f"s{k}", minute=k, name=f"Unit {k}", site="Plant 1") for k in range(4)]
    assert compose(many, TextKind.ALERT, OWN_URL) == (
        f"ALERT Plant 1: 4 units abnormal, worst: Unit 0, Unit 1, 12:00 UTC {many[0].reference} {OWN_URL}"
    )
    assert compose(many, TextKind.ALERT, DOMAIN_URL).startswith("ALERT Plant 1: 4 units also abnormal, worst: Unit 0, ")
    long = [replace(one, equipment=replace(one.equipment, name="N" * 99, site="S" * 99)) for one in many]
    assert "SSS..: 4 units abnormal, worst: N" in compose(long, TextKind.ALERT, OWN_URL)


@given(
    st.lists(wild_incidents(), min_size=1, max_size=5),
    st.sampled_from([TextKind.ALERT, TextKind.AGAIN]),
    st.integers(1, 5000),
    st.sampled_from([OWN_URL, LONGEST_URL, DOMAIN_URL]),
)
@settings(deadline=None, max_examples=50)
def test_a_link_is_whole_in_every_text(found: list[Incident], kind: TextKind, times: int, link: str) -> None:
    one, sensor_id = found[0], found[0].equipment.sensor_id
    copies = [replace(one, equipment=replace(one.equipment, sensor_id=f"{sensor_id} {k}")) for k in range(times)]
    for incidents in (found, [one], [one, one], copies):
        text = compose(incidents, kind, link)
        assert len(text) <= 160
        assert text.isascii()
        reference = min(incidents, key=lambda one: one.first_anomalous_at).reference
        assert text.endswith(f" {reference} {link}")


def test_only_what_somebody_is_to_act_on_has_a_link() -> None:
    made = []

    class Pages:
        def make(self, contact_id: str, incidents: Sequence[Incident], wall_now: int) -> str:
            made.append((contact_id, [one.equipment.sensor_id for one in incidents]))
            return DOMAIN_URL

    states = {TextKind.ALERT: TextState.OWED, TextKind.RECOVERY: TextState.OWED, TextKind.REMINDER: TextState.OWED}
    two = [incident("late", minute=1, texts=states), incident("early", texts=states)]
    store, phone = MemoryTextStore(two), MemoryPhone()
    for minute in (0, 5):
        send(store, phone, minute=minute, links=Pages())
    assert made == [("maintenance", ["early", "late"])], "the first is the one that the reference names"
    assert sorted(DOMAIN_URL in body for _, body in phone.sent) == [False, False, True]


# --- nobody answers, or somebody does ---

SHIFTS = [Contact("maintenance", escalate_to="lead"), Contact("lead", escalate_to="head"), Contact("head")]
QUARTER = 15 * MINUTE


def told(contacts: str, response: Response | None = None, **values: Any) -> Incident:
    """An incident of which these contacts were told, a quarter of an hour after one another from noon on."""
    texts = [
        Text(TextKind.ALERT, contact, TextState.SENT, sent_at=NOON + k * QUARTER, is_escalation=k > 0)
        for k, contact in enumerate(contacts.split())
    ]
    return replace(incident(), texts={text.text_key: text for text in texts}, response=response, **values)


def escalated(one: Incident, minute: float) -> list[str]:
    found = escalations(one, SHIFTS, QUARTER, NOON + minute * MINUTE)
    assert all(text.is_escalation and text.state is TextState.OWED for text in found.values())
    return sorted(found)


def test_who_does_not_answer_is_followed_by_the_next_and_that_one_too() -> None:
    assert [escalated(told("maintenance"), minute) for minute in (14.9, 15)] == [[], ["alert#lead"]]
    assert [escalated(told("maintenance lead"), minute) for minute in (29.9, 30)] == [[], ["alert#head"]]
    assert escalated(told("maintenance lead head"), 999) == []


def test_an_answer_ends_it_and_a_snooze_puts_it_off() -> None:
    for answer in (Answer.ON_IT, Answer.FALSE_ALARM):
        assert escalated(told("maintenance", Response(answer, "maintenance", NOON)), 999) == []
    snoozed = Response(Answer.SNOOZE, "maintenance", NOON, NOON + 60 * MINUTE)
    assert [escalated(told("maintenance", snoozed), minute) for minute in (74, 75)] == [[], ["alert#lead"]]


def test_what_is_over_or_was_not_told_yet_does_not_go_to_the_next() -> None:
    assert escalated(told("maintenance", state=IncidentState.RECOVERED), 999) == []
    assert escalated(incident(), 999) == []
    assert escalations(told("maintenance"), [Contact("maintenance")], QUARTER, NOON + timedelta(days=1)) == {}


@pytest.mark.parametrize("is_over", [True, False])
def test_an_escalation_that_has_not_left_before_an_answer_never_does(is_over: bool) -> None:
    """And then nobody waits for it, nor for the text that it is over."""
    owed = Text(TextKind.ALERT, "lead", TextState.OWED, is_escalation=True)
    end = Text(TextKind.RECOVERY, "lead", TextState.OWED)
    one = told("maintenance", Response(Answer.ON_IT, "maintenance", NOON))
    if is_over:
        one = replace(one, response=None, state=IncidentState.RECOVERED, recovered_at=NOON)
    one = replace(one, texts={**one.texts, owed.text_key: owed, end.text_key: end})
    assert texts_to_send([one], 0) == []
    assert needs_attention(one) is not is_over, "it is open"
    open_again = replace(one, response=None, state=IncidentState.OPEN, recovered_at=None)
    assert [group.contact_id for group in texts_to_send([open_again], 0)] == ["lead"]


def test_what_was_snoozed_is_told_again_unless_there_was_another_answer() -> None:
    again = Text(TextKind.AGAIN, "maintenance", TextState.OWED)
    snoozed = Response(Answer.SNOOZE, "maintenance", NOON, NOON)
    one = told("maintenance", snoozed)
    one = replace(one, texts={**one.texts, again.text_key: again})
    assert [group.kind for group in texts_to_send([one], 0)] == [TextKind.AGAIN]
    for response in (None, replace(snoozed, contact_id="lead"), replace(snoozed, answer=Answer.ON_IT)):
        assert texts_to_send([replace(one, response=response)], 0) == []
    assert texts_to_send([replace(one, state=IncidentState.RECOVERED)], 0) == []


# --- who ---

CONTACTS = [
    Contact("maintenance"),
    Contact("acme", customers=frozenset({"Acme"})),
    Contact("acme-lyon", customers=frozenset({"Acme"}), sites=frozenset({"Lyon"})),
    Contact("paris", sites=frozenset({"Paris"})),
]


@pytest.mark.parametrize(
    ("customer", "site", "told"),
    [
        ("Acme", "Lyon", ["acme", "acme-lyon"]),
        ("Acme", "Paris", ["acme", "paris"]),
        ("Other", "Paris", ["paris"]),
        ("Other", "Lyon", ["maintenance"]),
        ("", "", ["maintenance"]),
        ("acme", "lyon", ["maintenance"]),
    ],
)
def test_contacts(customer: str, site: str, told: list[str]) -> None:
    assert contacts_for(customer, site, CONTACTS, "maintenance") == told


def test_contact_from_the_stage() -> None:
    assert Contact.from_setting({"contact_id": "a"}) == Contact("a")
    setting = {"contact_id": "a", "customers": ["C"], "sites": ["S", "T"]}
    assert Contact.from_setting(setting) == Contact("a", frozenset({"C"}), frozenset({"S", "T"}))


@pytest.mark.parametrize(
    ("written", "newest", "is_open", "state"),
    [
        (0, 0, True, TextState.OWED),
        (30, 0, True, TextState.OWED),
        (30, 0, False, TextState.OWED),
        (31, 31, True, TextState.OWED),
        (31, 1, True, TextState.OWED),
        (32, 1, True, TextState.WAITING),
        (600, 30, True, TextState.WAITING),
        (600, 600, True, TextState.OWED),
        (31, 31, False, TextState.DIGEST),
        (600, 30, False, TextState.DIGEST),
    ],
)
def test_first_text_state(written: int, newest: int, is_open: bool, state: TextState) -> None:
    found = first_text_state(
        lateness=written * MINUTE,
        newest_lateness=(written - newest) * MINUTE,
        is_open=is_open,
        stale_after=30 * MINUTE,
    )
    assert found is state


@pytest.mark.parametrize(
    ("state", "text", "needed"),
    [
        (IncidentState.OPEN, TextState.SENT, True),
        (IncidentState.RECOVERED, TextState.OWED, True),
        (IncidentState.RECOVERED, TextState.SENDING, True),
        (IncidentState.RECOVERED, TextState.WAITING, True),
        (IncidentState.RECOVERED, TextState.SENT, False),
        (IncidentState.RECOVERED, TextState.DIGEST, True),
        (IncidentState.MISSED, TextState.SENT, False),
        (IncidentState.NEW_NORMAL, TextState.SENT, True),
    ],
)
def test_needs_attention(state: IncidentState, text: TextState, needed: bool) -> None:
    assert needs_attention(incident(state=state, texts={TextKind.ALERT: text})) is needed


# --- what is owed ---


def owed(incidents: list[Incident], wall_now: int = 1000) -> list[tuple[str, str, str, list[str]]]:
    return [
        (group.kind, group.contact_id, group.place, [one.equipment.sensor_id for one in group.incidents])
        for group in texts_to_send(incidents, wall_now)
    ]


def test_texts_are_grouped_by_place_contact_and_kind_with_alerts_first() -> None:
    both = {TextKind.ALERT: TextState.SENT, TextKind.RECOVERY: TextState.OWED}
    found = [
        incident("late", minute=9),
        incident("over", texts=both),
        incident("early", contacts=("maintenance", "boss")),
        incident("elsewhere", site="Paris"),
    ]
    assert owed(found) == [
        ("alert", "boss", "Acme/Lyon", ["early"]),
        ("alert", "maintenance", "Acme/Lyon", ["early", "late"]),
        ("alert", "maintenance", "Acme/Paris", ["elsewhere"]),
        ("recovery", "maintenance", "Acme/Lyon", ["over"]),
    ]


@pytest.mark.parametrize("alert", [state for state in TextState if state is not TextState.SENT])
def test_a_recovery_waits_for_its_alert(alert: TextState) -> None:
    both = {TextKind.ALERT: alert, TextKind.RECOVERY: TextState.OWED}
    assert "recovery" not in [kind for kind, *_ in owed([incident(texts=both)])]


def test_a_claim_that_ran_out_is_owed_again() -> None:
    text = Text(TextKind.ALERT, "maintenance", TextState.SENDING, claimed_until=1000)
    claimed = replace(incident(), texts={text.text_key: text})
    assert owed([claimed], 1000) == []
    assert len(owed([claimed], 1001)) == 1


# --- sending ---


def send(
    store: MemoryTextStore,
    phone: MemoryPhone,
    *,
    minute: float = 0,
    incidents: list[Incident] | None = None,
    together: bool = True,
    budget: Budget = PLENTY,
    has_time: Callable[[], bool] = lambda: True,
    links: Links | None = None,
) -> list[tuple[TextsOfOnePlace, SendOutcome]]:
    return send_texts(
        store.all() if incidents is None else incidents,
        store=store,
        phone=phone,
        now=NOON + minute * MINUTE,
        wall_now=int(1000 + 60 * minute),
        group_for=GROUP_FOR,
        claim_seconds=CLAIM_SECONDS,
        budget=budget,
        together=together,
        links=links,
        has_time=has_time,
    )


def state_of(store: MemoryTextStore, one: Incident, kind: TextKind = TextKind.ALERT) -> TextState:
    return store.read(one).texts[f"{kind}#maintenance"].state


def test_the_store_in_memory_keeps_the_contract() -> None:
    one, other = incident("one"), incident("other", minute=1)
    store = MemoryTextStore([one, other])
    check_text_store(store, store.read, one, other, NOON)


def test_of_several_that_open_at_once_the_first_leaves_alone() -> None:
    several, phone = [incident(f"unit-{k}", minute=k) for k in range(3)], MemoryPhone()
    store = MemoryTextStore(several)
    outcomes = send(store, phone, together=False)
    assert [(len(group.incidents), outcome) for group, outcome in outcomes] == [
        (2, SendOutcome.GROUPED),
        (1, SendOutcome.SENT),
    ]
    assert [state_of(store, one) for one in several] == [TextState.SENT, TextState.OWED, TextState.OWED]
    assert [outcome for _, outcome in send(store, phone, minute=3)] == [SendOutcome.SENT]
    assert len(phone.sent) == 2


def test_the_first_leaves_at_once_and_the_rest_as_one_text() -> None:
    first, phone = incident("first"), MemoryPhone()
    store = MemoryTextStore([first])
    assert [outcome for _, outcome in send(store, phone)] == [SendOutcome.SENT]
    assert state_of(store, first) is TextState.SENT
    later = [incident(f"later-{k}", minute=k) for k in range(1, 4)]
    for one in later:
        store.put(one)
        assert [outcome for _, outcome in send(store, phone, minute=1, incidents=[one])] == [SendOutcome.GROUPED]
    assert send(store, phone, minute=2.9)[0][1] is SendOutcome.GROUPED
    assert len(phone.sent) == 1
    assert [outcome for _, outcome in send(store, phone, minute=3)] == [SendOutcome.SENT]
    assert [body.split(":")[0] for _, body in phone.sent] == ["ALERT Cold room 3, Lyon", "ALERT Lyon"]
    assert "3 units" in phone.sent[1][1]
    assert {state_of(store, one) for one in later} == {TextState.SENT}
    assert send(store, phone, minute=30) == []


def test_the_record_holds_what_was_sent() -> None:
    one, phone = incident(), MemoryPhone()
    store = MemoryTextStore([one])
    send(store, phone)
    assert store.read(one).texts["alert#maintenance"].message_id == "message-1"
    assert store.bodies == {(one.reference, "alert#maintenance"): phone.sent[0][1]}


def test_two_senders_at_once_send_one_text() -> None:
    one, phone, other_phone = incident(), MemoryPhone(), MemoryPhone()
    store = MemoryTextStore([one])
    phone.before_send = lambda: outcomes.extend(send(store, other_phone, incidents=[one]))
    outcomes: list[object] = []
    send(store, phone)
    assert (len(phone.sent), other_phone.sent, outcomes) == (1, [], [])
    assert send(store, other_phone, minute=5, incidents=[one]) == [], "an old picture of the incident changes nothing"


def test_a_sender_that_dies_after_its_claim_is_followed_by_another() -> None:
    one, phone = incident(), MemoryPhone([KeyboardInterrupt()])  # type: ignore[list-item]  # dies like a process
    store = MemoryTextStore([one])
    with pytest.raises(KeyboardInterrupt):
        send(store, phone)
    assert state_of(store, one) is TextState.SENDING
    assert send(store, phone, minute=1) == [], "the claim lasts sixty seconds"
    assert [outcome for _, outcome in send(store, phone, minute=1.1)] == [SendOutcome.SENT]
    assert len(phone.sent) == 1


def test_a_text_that_was_refused_is_owed_again() -> None:
    one, phone = incident(), MemoryPhone([TextRefusedError("no")])
    store = MemoryTextStore([one])
    assert [outcome for _, outcome in send(store, phone)] == [SendOutcome.REFUSED]
    assert state_of(store, one) is TextState.OWED
    assert [outcome for _, outcome in send(store, phone, minute=1)] == [SendOutcome.SENT]


def test_a_text_without_an_answer_is_left_to_expire() -> None:
    one, phone = incident(), MemoryPhone([TextUncertainError("?")], accepts_before_fault=True)
    store = MemoryTextStore([one])
    assert [outcome for _, outcome in send(store, phone)] == [SendOutcome.UNCERTAIN]
    assert state_of(store, one) is TextState.SENDING
    assert send(store, phone, minute=1) == []
    send(store, phone, minute=2)
    assert len(phone.sent) == 2, "doubled, because it may have been lost"
    assert state_of(store, one) is TextState.SENT


def test_one_contact_that_is_refused_does_not_keep_the_text_from_another() -> None:
    one, phone = incident(contacts=("boss", "maintenance")), MemoryPhone([TextRefusedError("no")])
    store = MemoryTextStore([one])
    assert [outcome for _, outcome in send(store, phone)] == [SendOutcome.REFUSED, SendOutcome.SENT]
    assert [contact for contact, _ in phone.sent] == ["maintenance"]


def test_a_recovery_follows_its_alert() -> None:
    both = {TextKind.ALERT: TextState.OWED, TextKind.RECOVERY: TextState.OWED}
    one, phone = incident(texts=both), MemoryPhone()
    store = MemoryTextStore([one])
    send(store, phone)
    assert [body[:5] for _, body in phone.sent] == ["ALERT"]
    send(store, phone)
    assert [body[:5] for _, body in phone.sent] == ["ALERT", "OK AG"]


# --- a storm, and budgets ---


def test_a_storm_of_fifty_sites_is_two_texts_a_site_and_each_incident_is_kept() -> None:
    """5,000 sensors in the same minute: the detector's batches of a hundred first, then the sweeps."""
    found = [scored(incident(f"s{k}", name=f"Unit {k}", site=f"Site {k % 50}"), 3.0 + k) for k in range(5_000)]
    store, phone = MemoryTextStore(found), MemoryPhone()
    for k in range(0, 5_000, 100):
        send(store, phone, incidents=found[k : k + 100], together=False)
    first = sorted(body.partition(":")[0] for _, body in phone.sent)
    assert first == sorted(f"ALERT Unit {k}, Site {k}" for k in range(50))
    for minute in range(1, 5):
        send(store, phone, minute=minute)
    rest = [body for _, body in phone.sent[50:]]
    assert len(rest) == 50
    assert "ALERT Site 7: 99 units also abnormal, worst: Unit 4957, Unit 4907, Unit 4857, since" in str(rest)
    assert {state_of(store, one) for one in found} == {TextState.SENT}


def test_a_sweep_that_has_no_time_left_leaves_the_rest_to_the_next() -> None:
    found = [incident(f"s{k}", site=f"Site {k}") for k in range(5)]
    store, phone, left = MemoryTextStore(found), MemoryPhone(), [True, True, False, False, False]
    outcomes = send(store, phone, has_time=lambda: left.pop(0))
    assert [outcome for _, outcome in outcomes] == [SendOutcome.SENT] * 2 + [SendOutcome.GROUPED] * 3
    assert [state_of(store, one) for one in found] == [TextState.SENT] * 2 + [TextState.OWED] * 3
    send(store, phone, minute=1)
    assert len(phone.sent) == 5


def test_what_is_over_the_budget_is_held_back_and_told_in_a_digest() -> None:
    found = [scored(incident(f"s{k}", minute=k, name=f"Unit {k}", site=f"Site {k}"), 3.0 + k) for k in range(5)]
    store, phone, two = MemoryTextStore(found), MemoryPhone(), Budget(per_hour=2, per_month=100)
    assert [outcome for _, outcome in send(store, phone, budget=two)] == (
        [SendOutcome.SENT] * 2 + [SendOutcome.HELD] * 3
    )
    assert [state_of(store, one) for one in found] == [TextState.SENT] * 2 + [TextState.DIGEST] * 3
    assert send(store, phone, minute=1, budget=two) == [], "it is owed no more"
    told = send_digests(store.all(), store=store, phone=phone, now=NOON, budget=two)
    assert told == [("maintenance", SendOutcome.SENT)]
    assert phone.sent[2:] == [
        (
            "maintenance",
            "DIGEST 3 texts held back since 02 Mar 12:02 UTC, 3 still open. Worst: Unit 4, Unit 3, Unit 2."
            f" Ref {found[4].reference}",
        )
    ]
    assert {state_of(store, one) for one in found} == {TextState.SENT}


@pytest.mark.parametrize("fault", [TextRefusedError("no"), TextUncertainError("?")])
def test_a_digest_that_may_not_have_left_is_told_again(fault: Exception) -> None:
    held = incident(texts={TextKind.ALERT: TextState.DIGEST})
    store, phone = MemoryTextStore([held]), MemoryPhone([fault])
    send_digests(store.all(), store=store, phone=phone, now=NOON, budget=PLENTY)
    assert state_of(store, held) is TextState.DIGEST
    send_digests(store.all(), store=store, phone=phone, now=NOON, budget=PLENTY)
    assert state_of(store, held) is TextState.SENT


def test_a_refused_text_costs_no_budget() -> None:
    one, phone = incident(), MemoryPhone([TextRefusedError("no")] * 3)
    store = MemoryTextStore([one])
    for minute in range(4):
        send(store, phone, minute=minute, budget=Budget(per_hour=1, per_month=1))
    assert state_of(store, one) is TextState.SENT


def test_what_follows_an_alert_that_is_held_back_is_held_back_too() -> None:
    both = {TextKind.ALERT: TextState.DIGEST, TextKind.RECOVERY: TextState.OWED}
    assert follows_held_back(incident(texts=both)) == ["recovery#maintenance"]
    assert follows_held_back(incident(texts={**both, TextKind.ALERT: TextState.SENT})) == []


@pytest.mark.parametrize(
    ("now", "held", "sent", "month_is_used_up", "is_due"),
    [
        # minutes after the first was seen: now, the last one over budget, the last digest
        (0, 0, None, False, True),
        (0, None, None, False, False),
        (24 * 60 - 1, None, None, False, False),
        (24 * 60, None, None, False, True),
        (59, 30, 0, False, False),
        (60, 30, 0, False, True),
        (60, 0, 30, False, False),
        (24 * 60, 0, 30, False, True),
        (60, 30, 0, True, False),
        (24 * 60, 30, 0, True, True),
    ],
)
def test_when_a_digest_is_due(
    now: int, held: int | None, sent: int | None, month_is_used_up: bool, is_due: bool
) -> None:
    assert (HOURLY, DAILY) == (60 * MINUTE, 24 * 60 * MINUTE)
    found = digest_is_due(
        NOON + now * MINUTE,
        waiting_since=NOON,
        held_at=None if held is None else NOON + held * MINUTE,
        sent_at=None if sent is None else NOON + sent * MINUTE,
        month_is_used_up=month_is_used_up,
    )
    assert found is is_due


@given(st.lists(wild_incidents(), min_size=1, max_size=5), st.integers(1, 3000))
@settings(deadline=None, max_examples=30)
def test_every_digest_is_one_segment_of_the_basic_set(found: list[Incident], times: int) -> None:
    text = Text(TextKind.ALERT, "maintenance", TextState.DIGEST)
    for held in ([(one, text) for one in found], [(found[0], text)] * times):
        digest = compose_digest(held)
        assert len(digest) <= 160
        assert set(digest) <= GSM7_BASIC - {"\n", "\r"}
        assert digest.isascii()


FAULTS = st.sampled_from([None, None, TextRefusedError("no"), TextUncertainError("?"), OSError("died")])


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["Lyon", "Paris"])), min_size=1, max_size=8),
    recoveries=st.lists(st.integers(0, 40), max_size=8),
    faults=st.lists(FAULTS, max_size=12),
)
def test_whatever_fails_every_text_arrives_and_in_order(
    arrivals: list[tuple[int, str]], recoveries: list[int], faults: list[Exception | None]
) -> None:
    store, phone = MemoryTextStore(), MemoryPhone(faults)
    found = [incident(f"s{k}", minute=minute, site=site) for k, (minute, site) in enumerate(arrivals)]
    for minute in range(80):
        for k, one in enumerate(found):
            if arrivals[k][0] == minute:
                store.put(one)
            if k < len(recoveries) and recoveries[k] + arrivals[k][0] + 1 == minute:
                recovery = Text(TextKind.RECOVERY, "maintenance", TextState.OWED)
                store.put(replace(store.read(one), texts={**store.read(one).texts, recovery.text_key: recovery}))
        with suppress(OSError):
            send(store, phone, minute=minute)
    for k, one in enumerate(found):
        texts = ["alert#maintenance"] + ["recovery#maintenance"] * (k < len(recoveries))
        assert [key for reference, key in store.bodies if reference == one.reference] == texts
    assert len(phone.sent) == len(set(store.bodies.values())), "none was sent twice"
