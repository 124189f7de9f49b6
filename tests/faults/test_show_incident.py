"""show_incident, whose caller is a person: who sees an error loads the page again, and presses unless it is done."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lambdas.sensors.show_incident import handler as showing
from lambdas.sensors.stores import Link, Sensor, incident_entry
from tests.faults.cases import NoTexts, check
from tests.faults.injection import Injector, Kind
from tests.faults.sensors import SensorsWorld, prepared, reuse_clients, stop_wall_clock, tables
from tests.functional.incident_pages import url_event
from tests.functional.test_watch_sensors import NOON, alert, open_incident

TOKEN = "T" * 14


class World(NoTexts, SensorsWorld):
    """A text about two incidents, whose reader wants to snooze them."""

    def prepare(self) -> None:
        self.set_clock(NOON)
        two = [open_incident(self.cloud, sensor_id, alert()) for sensor_id in "ab"]
        self.cloud.sensors.put([Sensor("a", "device", {"temperature": "C"}, customer="north")], 16)
        entries = [incident_entry(one) for one in two]
        self.cloud.incidents.put_link(TOKEN, Link("day", entries, ["Unit a", "Unit b"], "first", 2_000_000))

    def run(self) -> None:
        self.set_clock(NOON)
        for _ in range(4):
            page = self._ask("GET")
            if page and "day snoozed it" in page["body"]:
                return
            if page:
                (nonce,) = re.findall(r'name="nonce" value="(\w+)"', page["body"])
                self._ask("POST", f"answer=snooze&nonce={nonce}")

    def _ask(self, method: str, body: str = "") -> dict[str, Any] | None:
        answers: list[dict[str, Any]] = []
        event = url_event(method, f"/{TOKEN}", body)
        succeeded = self.injector.invoke(lambda: answers.append(showing.handler(event, None)))
        return answers[-1] if succeeded else None

    def outcome(self) -> dict[str, Any]:
        items = (item for item in self.items("Incidents") if not item["sensor_id"].startswith("#link#"))
        return {f"{item['sensor_id']} {item['opened_at']}": item for item in items}


@contextmanager
def make(injector: Injector, patch: pytest.MonkeyPatch) -> Iterator[World]:
    reuse_clients(patch)
    with tables(patch, SNOOZE_MINUTES=60) as (cloud, clock):
        world = World(cloud, clock, injector, patch)
        injector.cold_start = showing.dependencies.cache_clear
        stop_wall_clock(patch, showing, world)
        injector.cold_start()
        prepared("show_incident", injector, world.prepare)
        yield world
        injector.cold_start()


@pytest.mark.parametrize("kind", list(Kind))
def test_who_sees_an_error_presses_again(kind: Kind, record_property: Callable[[str, object], None]) -> None:
    check("show_incident", make, kind, record_property)
