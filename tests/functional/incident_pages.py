"""show_incident behind its URL: incidents with readings around them, links, and requests as a function URL hands on."""

import base64
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from math import sin
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest

from lambdas.runtime.clock import ClockFace, FileClock
from lambdas.sensors.links import PageLinks
from lambdas.sensors.show_incident import handler as showing
from lambdas.sensors.stores import Sensor
from overcut.sensors.incidents import Equipment, Incident, Text
from overcut.sensors.readings import Reading
from tests.functional.conftest import Cloud
from tests.functional.test_watch_sensors import LINK_PREFIX, MINUTE, NOON, open_incident

LINK_HOURS = 48


@dataclass(frozen=True)
class Page:
    """What a request got back."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def nonce(self) -> str:
        (nonce,) = re.findall(r'name="nonce" value="([A-Za-z0-9]+)"', self.body)
        return str(nonce)


@dataclass
class Pages:
    """The function, its tables, a clock, and the machine's time, which links live in."""

    cloud: Cloud
    clock: FileClock
    wall: int = 1_000_000

    def set_minute(self, minute: float) -> None:
        """Minutes after noon, when incidents open."""
        origin = (NOON + minute * MINUTE).timestamp()
        self.clock.set(ClockFace(origin=origin, wall=0.0, speed=0.0, ttl_offset=0.0))

    def open(
        self,
        sensor_id: str,
        *texts: Text,
        customer: str = "north",
        name: str = "",
        minutes: Sequence[int] = range(-60, 60, 5),
        **values: Any,
    ) -> Incident:
        """An incident of a sensor that measured in these minutes after noon."""
        equipment = Equipment(sensor_id, name or f"Unit {sensor_id}", customer, "Aarhus")
        incident = open_incident(self.cloud, sensor_id, *texts, **{"equipment": equipment, **values})
        sensor = Sensor(sensor_id, "device", {"temperature": "C"}, name=name, customer=customer, site="Aarhus")
        self.cloud.sensors.put([sensor], 16)
        self.store(sensor_id, minutes)
        return incident

    def store(self, sensor_id: str, minutes: Sequence[int], value: float | None = None) -> None:
        readings = [
            Reading(sensor_id, NOON + minute * MINUTE, {"temperature": value or _temperature(minute)})
            for minute in minutes
        ]
        with ThreadPoolExecutor(1) as thread:
            self.cloud.readings.put(readings, lambda moment: int(moment.timestamp()), thread)

    def link(self, *incidents: Incident, contact: str = "day") -> str:
        """The token of a new link."""
        links = PageLinks(self.cloud.incidents, LINK_PREFIX, timedelta(hours=LINK_HOURS))
        return links.make(contact, incidents, self.wall).removeprefix(LINK_PREFIX)

    def get(self, token: str) -> Page:
        return self.ask("GET", f"/{token}")

    def post(self, token: str, answer: str, nonce: str) -> Page:
        return self.ask("POST", f"/{token}", urlencode({"answer": answer, "nonce": nonce}))

    def ask(self, method: str, path: str, body: str = "") -> Page:
        answered = showing.handler(url_event(method, path, body), None)
        return Page(answered["statusCode"], answered["headers"], answered["body"])

    def read(self, incident: Incident) -> Incident:
        found = self.cloud.incidents.get(incident.equipment.sensor_id, incident.opened_at, incident.kind)
        assert found
        return found

    def items(self) -> list[Any]:
        """Everything that the Incidents table holds."""
        return sorted(self.cloud.dynamodb.scan(TableName=self.cloud.tables["Incidents"])["Items"], key=str)


def _temperature(minute: int) -> float:
    return round(4 + 0.4 * sin(minute / 9) + (0 if minute < -4 else 14), 1)


def url_event(method: str, path: str, body: str = "") -> dict[str, Any]:
    """What a function URL hands on (payload format 2.0): a form's body comes encoded.

    https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
    """
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "page.example", "content-type": "application/x-www-form-urlencoded"},
        "requestContext": {"http": {"method": method, "path": path, "sourceIp": "192.0.2.1"}},
        "isBase64Encoded": bool(body),
    }
    return event | {"body": base64.b64encode(body.encode()).decode()} if body else event


@contextmanager
def served_pages(cloud: Cloud, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Pages]:
    """The function with a cloud's tables, an hour after noon."""
    environment = {
        "STAGE": "local",
        "INCIDENTS_TABLE": cloud.tables["Incidents"],
        "READINGS_TABLE": cloud.tables["Readings"],
        "SENSORS_TABLE": cloud.tables["Sensors"],
        "CUTOFFS_TABLE": cloud.tables["Cutoffs"],
        "CLOCK": str(folder / "clock.json"),
        "SNOOZE_MINUTES": "60",
    }
    for name, value in environment.items():
        patch.setenv(name, value)
    patch.setattr(showing, "small_clients", lambda *services: lambda service: cloud.dynamodb)
    showing.dependencies.cache_clear()
    pages = Pages(cloud, FileClock(folder / "clock.json"))
    patch.setattr(showing, "time", SimpleNamespace(time=lambda: pages.wall))
    pages.set_minute(59)
    yield pages
    showing.dependencies.cache_clear()
