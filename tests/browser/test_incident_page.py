"""The page of an incident in a real browser, served by the real handler: seen, walked by keyboard, and answered."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from lambdas.sensors.show_incident import handler as showing
from overcut.sensors.incidents import Incident, IncidentState
from tests.browser.conftest import WIDTHS, Visit, visit
from tests.conftest import synthesized
from tests.functional.conftest import sensors_cloud
from tests.functional.incident_pages import Pages, served_pages, url_event
from tests.functional.test_watch_sensors import MINUTE, NOON, alert
from workbench.demonstration.sensors import KEPT, as_kept

HOSTILE = "<script>alert(1)</script>\u202e Kühlraum №3 \"'&"


class _FunctionUrl(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        answered = showing.handler(url_event(self.command, self.path, body), None)
        content = answered["body"].encode()
        self.send_response(answered["statusCode"])
        for name, value in answered["headers"].items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer  # noqa: N815 - the names http.server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives
        """Requests are not logged."""


@contextmanager
def function_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _FunctionUrl)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    with (
        pytest.MonkeyPatch.context() as patch,
        sensors_cloud(synthesized("local"), patch) as cloud,
        served_pages(cloud, tmp_path_factory.mktemp("pages"), patch) as pages,
    ):
        yield pages


@pytest.fixture(scope="module")
def url(pages: Pages) -> Iterator[str]:
    with function_url() as url:
        yield url


@pytest.fixture
def look(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A visit at the width, and in the colours, that a test asks for; without scripts, which the page has none of."""
    width, colours = getattr(request, "param", (400, "light"))
    size = {"width": width, "height": WIDTHS[width]}
    context = browser.new_context(viewport=size, color_scheme=colours)  # type: ignore[arg-type]  # one of two texts
    yield visit(context)
    context.close()


EVERY_LOOK = pytest.mark.parametrize(
    "look", [(width, colours) for width in WIDTHS for colours in ("light", "dark")], indirect=True
)


def incident_of(pages: Pages, sensor_id: str, name: str = "Cold room 3", **values: Any) -> Incident:
    """An incident with a past, which was texted to one contact and then to the next."""
    escalated = replace(alert("night"), is_escalation=True)
    incident = pages.open(sensor_id, alert(), escalated, name=name, minutes=range(-480, 60, 3), **values)
    for minute, text in ((1, alert()), (16, escalated)):
        pages.cloud.incidents.mark_sent([incident], text.text_key, "id", "body", NOON + minute * MINUTE)
    before = replace(
        incident,
        state=IncidentState.RECOVERED,
        opened_at=NOON - timedelta(days=3),
        first_anomalous_at=NOON - timedelta(days=3, minutes=4),
        last_anomalous_at=NOON - timedelta(days=3),
        recovered_at=NOON - timedelta(days=3) + 56 * MINUTE,
    )
    pages.cloud.incidents.record_missed(before, timedelta(minutes=30))
    return incident


@pytest.fixture(scope="module")
def incident(pages: Pages) -> Incident:
    return incident_of(pages, "open")


@pytest.fixture(scope="module")
def over(pages: Pages) -> Incident:
    over: dict[str, Any] = {"recovered_at": NOON + 40 * MINUTE, "last_anomalous_at": NOON + 9 * MINUTE}
    return incident_of(pages, "over", state=IncidentState.RECOVERED, **over)


@EVERY_LOOK
def test_it_is_seen_whole_and_without_a_fault(
    pages: Pages, url: str, incident: Incident, look: Visit, tmp_path: Path
) -> None:
    assert look.open(url + pages.link(incident)) == 200
    assert look.page.locator("h1").inner_text() == "Cold room 3"
    assert look.page.locator("svg path.reading").bounding_box()
    assert look.violations() == []
    assert not look.is_wider_than_its_window()
    size = look.page.viewport_size
    assert size
    scheme = look.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    look.picture(f"incident-{size['width']}-{'dark' if scheme else 'light'}", tmp_path)
    assert look.said == []
    assert len(look.requested) == 1


def test_the_buttons_are_reached_by_keyboard_in_order_and_answer(
    pages: Pages, url: str, incident: Incident, look: Visit, tmp_path: Path
) -> None:
    token = pages.link(incident)
    look.open(url + token)
    focused = []
    for _ in range(3):
        look.page.keyboard.press("Tab")
        focused.append(look.focused().split("\n")[0])
    assert focused == ["I'm on it", "Snooze", "False alarm"]
    look.page.keyboard.press("Shift+Tab")
    look.page.keyboard.press("Enter")
    look.page.wait_for_selector("[role=status]")
    assert look.page.locator("[role=status]").inner_text() == "day snoozed it at 12:59 UTC until 13:59 UTC."
    assert look.violations() == []
    look.picture("incident-400-answered", tmp_path)
    assert look.said == []
    assert set(look.requested) == {url + token}


def test_a_page_is_answered_once_and_says_so(
    pages: Pages, url: str, incident: Incident, look: Visit, tmp_path: Path
) -> None:
    """To load it again answers nothing, and neither does going back to the page as it was."""
    token = pages.link(incident)
    look.open(url + token)
    look.page.get_by_role("button", name="I'm on it").click()
    look.page.wait_for_selector("[role=status]")
    before = pages.items()
    look.page.reload()
    assert pages.items() == before
    form = "() => document.querySelector('[name=nonce]').value = 'AAAAAAAAAAAAAA'"
    look.page.evaluate(form)
    look.page.get_by_role("button", name="False alarm").click()
    look.page.wait_for_selector("[role=alert]")
    assert look.page.locator("[role=alert]").inner_text().startswith("Nothing was done")
    assert pages.items() == before
    assert look.violations() == []
    look.picture("incident-400-refused", tmp_path)


def test_buttons_are_large_enough_for_a_thumb(pages: Pages, url: str, incident: Incident, look: Visit) -> None:
    look.open(url + pages.link(incident))
    for button in look.page.get_by_role("button").all():
        box = button.bounding_box()
        assert box
        assert box["height"] >= 56
        assert box["width"] >= 300
        assert box["y"] + box["height"] <= WIDTHS[400], "without scrolling"


def test_a_hostile_name_is_text(pages: Pages, url: str, look: Visit, tmp_path: Path) -> None:
    look.open(url + pages.link(incident_of(pages, "hostile", HOSTILE)))
    assert look.page.locator("h1").inner_text() == HOSTILE.replace("\u202e", "\\u202e")
    assert not look.is_wider_than_its_window()
    assert look.violations() == []
    assert look.said == []


def test_the_page_that_a_demonstration_keeps_says_that_its_buttons_do_nothing(
    pages: Pages, incident: Incident, look: Visit, tmp_path: Path
) -> None:
    page = pages.get(pages.link(incident))
    kept = tmp_path / "incident.html"
    kept.write_text(as_kept(page.body), encoding="utf-8")
    look.page.goto(kept.as_uri())
    assert page.nonce not in kept.read_text()
    assert KEPT in look.page.locator("main").inner_text()
    buttons = look.page.get_by_role("button").all()
    assert len(buttons) == 3
    assert all(button.is_disabled() for button in buttons)
    assert look.violations() == []
    assert set(look.requested) == {kept.as_uri()}


@EVERY_LOOK
def test_what_is_over_and_what_is_not_found_have_pages_too(
    pages: Pages, url: str, over: Incident, look: Visit, tmp_path: Path
) -> None:
    look.open(url + pages.link(over))
    assert "Over since 12:09 UTC. It began 11:56 UTC and lasted 13 min." in look.page.locator("main").inner_text()
    assert look.violations() == []
    size = look.page.viewport_size
    assert size
    look.picture(f"incident-{size['width']}-over", tmp_path)
    assert look.said == []
    assert look.open(f"{url}AAAAAAAAAAAAAA") == 404
    assert look.violations() == []
    look.picture(f"incident-{size['width']}-gone", tmp_path)
