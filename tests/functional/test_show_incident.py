"""show_incident through its handler: what a link shows, what it never shows, and what an answer does."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from lambdas.sensors.stores import Sensor
from overcut.sensors.incidents import Answer, IncidentState, Label, Response, TextKind, TextState
from tests.functional.conftest import Cloud
from tests.functional.incident_pages import LINK_HOURS, Pages, served_pages
from tests.functional.test_watch_sensors import MINUTE, NOON, alert, open_incident, recovery

SECRET = "Secret cellar"


@pytest.fixture
def pages(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    with served_pages(cloud, tmp_path, monkeypatch) as pages:
        yield pages


# --- what is shown ---


def test_a_link_shows_its_incident(pages: Pages) -> None:
    sent = replace(alert(state=TextState.SENT), sent_at=NOON + MINUTE)
    incident = pages.open("a", sent, minutes=range(-480, 60))
    page = pages.get(pages.link(incident))
    assert page.status == 200
    for told in (
        "<h1>Unit a</h1>",
        "Aarhus, north",
        "temperature at 12:59 UTC, usual 3.5 to 4.5",
        "Abnormal since 11:56 UTC, for 1 h 3 min.",
        "The last 6 hours of temperature",
        "The temperature is away from what it usually shows.",
        "at 12:00 UTC, it was 30 C; usual is 3.5 to 4.5 C.",
        "No earlier incident of this sensor is known.",
        incident.reference,
    ):
        assert told in page.body, told
    newest = pages.cloud.readings.before("a", NOON + timedelta(hours=2), 1)[0].values["temperature"]
    assert f'<p class="value">{newest:g} C</p>' in page.body


def test_a_page_fits_what_a_slow_network_sends_at_once(pages: Pages) -> None:
    """Ten packets of a new connection: https://www.rfc-editor.org/rfc/rfc6928"""
    page = pages.get(pages.link(pages.open("a", minutes=range(-480, 60))))
    assert 4_000 < len(page.body.encode()) < 14_600


def test_a_page_is_kept_by_nobody_and_may_do_nothing(pages: Pages) -> None:
    headers = pages.get(pages.link(pages.open("a"))).headers
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-robots-tag"] == "noindex, nofollow"
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "script" not in headers["content-security-policy"]


def test_what_happened_last_time(pages: Pages) -> None:
    incident = pages.open("a")
    yesterday = NOON - timedelta(days=1)
    before = replace(
        incident,
        state=IncidentState.RECOVERED,
        opened_at=yesterday,
        first_anomalous_at=yesterday - 4 * MINUTE,
        last_anomalous_at=yesterday,
        recovered_at=yesterday + 56 * MINUTE,
        texts={text.text_key: text for text in [replace(recovery(), since=yesterday + 26 * MINUTE)]},
    )
    pages.cloud.incidents.record_missed(before, timedelta(minutes=30))
    token = pages.link(incident)
    told = "04 Jan 2026 11:56 UTC, it lasted 30 min: temperature 30 C."
    assert f"{told} Nobody said what it was." in pages.get(token).body
    pages.cloud.incidents.label(before, Label.FAULT)
    assert f"{told} It was a fault." in pages.get(token).body


@pytest.mark.parametrize("kind", ["stuck", "silent", "site_silent", "source_silent", "backwards"])
def test_each_kind_of_incident_has_a_page(pages: Pages, kind: str) -> None:
    sensor_id = {"site_silent": "#site#north/Aarhus", "source_silent": "#source#device"}.get(kind, "a")
    incident = open_incident(pages.cloud, sensor_id, kind=kind)
    if sensor_id == "a":
        pages.cloud.sensors.put([Sensor("a", "device", {"temperature": "C"}, customer="north")], 16)
    page = pages.get(pages.link(incident))
    assert page.status == 200
    assert "What made it anomalous" in page.body


def test_the_band_of_a_swing_is_the_measure_s_own(pages: Pages) -> None:
    incident = pages.open("a")
    swing = replace(
        incident.cause, feature="volatility", trained_at="2026-01-04T02:30:00Z", usual_low=0.0, usual_high=0.2
    )
    other = open_incident(pages.cloud, "b", cause=swing)
    pages.cloud.sensors.put([Sensor("b", "device", {"temperature": "C"}, customer="north")], 16)
    pages.store("b", range(-60, 60))
    body = pages.get(pages.link(other)).body
    assert "its usual step from one reading to the next was 30 C; usual is 0 to 0.2 C" in body
    assert 'class="usual"' not in body, "nobody knows what the temperature itself usually is"


# --- what is refused ---


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/favicon.ico",
        "/AAAAAAAAAAAAAA",
        "/{token}x",
        "/{token}/",
        "/x/{token}",
        "/{other_case}",
        "/%00",
        "/#link#",
    ],
)
def test_a_forged_link_shows_nothing(pages: Pages, path: str) -> None:
    token = pages.link(pages.open("a"))
    page = pages.ask("GET", path.format(token=token, other_case=token.swapcase()))
    assert page.status == 404
    assert "This link shows nothing" in page.body
    assert "Unit" not in page.body


def test_a_link_expires(pages: Pages) -> None:
    token = pages.link(pages.open("a"))
    nonce = pages.get(token).nonce
    pages.wall += LINK_HOURS * 3600 - 1
    assert pages.get(token).status == 200
    pages.wall += 1
    before = pages.items()
    assert pages.get(token).status == pages.post(token, "on_it", nonce).status == 404
    assert pages.items() == before


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "get", ""])
def test_another_method_is_refused(pages: Pages, method: str) -> None:
    token = pages.link(pages.open("a"))
    body = f"answer=on_it&nonce={pages.get(token).nonce}"
    before = pages.items()
    refused = pages.ask(method, f"/{token}", body)
    assert (refused.status, refused.headers["allow"]) == (405, "GET, POST")
    assert pages.items() == before


def test_a_link_s_page_changes_nothing_however_often_it_is_opened(pages: Pages) -> None:
    token = pages.link(pages.open("a", alert(state=TextState.SENT)))
    before = pages.items()
    assert len({pages.get(token).body for _ in range(3)}) == 1
    assert pages.ask("GET", f"/{token}", f"answer=on_it&nonce={pages.get(token).nonce}").status == 200
    assert pages.items() == before


@pytest.mark.parametrize("answer", list(Answer))
def test_a_nonce_is_used_once(pages: Pages, answer: Answer) -> None:
    incident = pages.open("a", alert(state=TextState.SENT))
    token = pages.link(incident)
    nonce = pages.get(token).nonce
    assert pages.post(token, answer, nonce).status == 303
    before = pages.items()
    again = pages.post(token, "on_it", nonce)
    assert again.status == 409
    assert "Nothing was done" in again.body
    assert pages.items() == before
    assert pages.post(token, "on_it", again.nonce).status == 303, "the page that refused brings the next one"


def test_a_form_that_no_page_made_does_nothing(pages: Pages) -> None:
    one, other = pages.open("a"), pages.open("b", customer="south")
    token, other_token = pages.link(one), pages.link(other, contact="night")
    nonce, other_nonce = pages.get(token).nonce, pages.get(other_token).nonce
    before = pages.items()
    assert pages.post(token, "on_it", "").status == 409
    assert pages.post(token, "on_it", other_nonce).status == 409, "of another incident's page"
    assert pages.post(other_token, "on_it", nonce).status == 409
    assert pages.post("AAAAAAAAAAAAAA", "on_it", nonce).status == 404
    assert pages.post(token, "delete_everything", nonce).status == 400
    assert pages.ask("POST", f"/{token}").status == 400
    assert pages.ask("POST", f"/{token}", "&".join(f"f{k}=1" for k in range(50))).status == 400
    assert pages.items() == before


def test_a_link_never_shows_what_is_another_customer_s(pages: Pages) -> None:
    """Neither the readings of another sensor, nor those of its own once it was moved, nor what was before it was."""
    one = pages.open("a")
    pages.open("b", customer="south", name=SECRET)
    pages.store("b", range(-60, 60), 77.7)
    token = pages.link(one)
    assert SECRET not in pages.get(token).body
    assert "77.7" not in pages.get(token).body
    earlier = replace(
        one, equipment=replace(one.equipment, customer="south", name=SECRET), opened_at=NOON - timedelta(days=2)
    )
    pages.cloud.incidents.record_missed(earlier, timedelta(minutes=1))
    assert "No earlier incident" in pages.get(token).body
    nonce = pages.get(token).nonce
    pages.cloud.sensors.put([Sensor("a", "device", {"temperature": "C"}, name=SECRET, customer="south")], 16)
    before = pages.items()
    for page in (pages.get(token), pages.post(token, "on_it", nonce)):
        assert page.status == 404
        assert "Unit a" not in page.body
    assert pages.items() == before


def test_the_table_does_not_tell_a_token(pages: Pages) -> None:
    token = pages.link(pages.open("a"))
    assert token not in str(pages.items())
    assert re.fullmatch(r"[A-Za-z0-9]{14}", token)
    assert token != pages.link(pages.open("b"))


# --- answers ---


def test_on_it(pages: Pages) -> None:
    incident = pages.open("a", alert(state=TextState.SENT), alert("night", TextState.SENT))
    token, other = pages.link(incident), pages.link(incident, contact="night")
    answered = pages.post(token, "on_it", pages.get(token).nonce)
    assert (answered.status, answered.headers["location"], answered.body) == (303, token, "")
    assert pages.read(incident).response == Response(Answer.ON_IT, "day", NOON + 59 * MINUTE)
    for page in (pages.get(token), pages.get(other)):
        assert "day is on it since 12:59 UTC." in page.body


def test_a_snooze_is_kept_with_the_text_that_will_end_it(pages: Pages) -> None:
    incident = pages.open("a", alert(state=TextState.SENT))
    token = pages.link(incident)
    assert pages.post(token, "snooze", pages.get(token).nonce).status == 303
    kept = pages.read(incident)
    assert kept.response == Response(Answer.SNOOZE, "day", NOON + 59 * MINUTE, NOON + 119 * MINUTE)
    again = kept.texts["again#day"]
    assert (again.kind, again.state) == (TextKind.AGAIN, TextState.SNOOZED)
    assert "day snoozed it at 12:59 UTC until 13:59 UTC." in pages.get(token).body


def test_a_false_alarm_is_the_label_of_the_command_line_and_can_be_taken_back(pages: Pages) -> None:
    incident = pages.open("a", alert(state=TextState.SENT))
    token = pages.link(incident)

    def label() -> str:
        (known,) = pages.cloud.incidents.known(incident.reference)
        return known.label

    pages.post(token, "false_alarm", pages.get(token).nonce)
    assert label() == Label.FALSE_ALARM
    assert "day called it a false alarm at 12:59 UTC." in pages.get(token).body
    pages.post(token, "on_it", pages.get(token).nonce)
    assert label() == ""
    pages.cloud.incidents.label(incident, Label.FALSE_ALARM)
    pages.post(token, "snooze", pages.get(token).nonce)
    assert label() == Label.FALSE_ALARM, "what somebody else said stays"


def test_an_answer_is_to_all_that_the_text_was_about(pages: Pages) -> None:
    found = [pages.open(name, alert(state=TextState.SENT)) for name in "abc"]
    token = pages.link(*found)
    page = pages.get(token)
    assert "The text was about 3 incidents, and so are the buttons: also Unit b, Unit c." in page.body
    pages.post(token, "on_it", page.nonce)
    assert {pages.read(one).response for one in found} == {Response(Answer.ON_IT, "day", NOON + 59 * MINUTE)}


def test_the_answers_to_a_storm_are_one_transaction(pages: Pages) -> None:
    found = [open_incident(pages.cloud, f"s{k}") for k in range(120)]
    pages.cloud.sensors.put([Sensor("s0", "device", {"temperature": "C"}, customer="north")], 16)
    token = pages.link(*found)
    assert pages.post(token, "on_it", pages.get(token).nonce).status == 303
    assert [pages.read(one).response is not None for one in found] == [True] * 99 + [False] * 21
