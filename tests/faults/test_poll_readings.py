"""poll_readings, which a schedule starts every minute: the next poll takes up where the last one had come to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from lambdas.sensors.poll_readings import handler as polling_handler
from lambdas.sensors.poll_readings import polling
from lambdas.sensors.poll_readings.connection import SourceUnreachableError
from overcut.sensors.server_sent_events import SourceRefusedError
from tests.faults.cases import NoTexts, check
from tests.faults.injection import Call, Injector, Kind, Ways
from tests.faults.sensors import SensorsWorld, reuse_clients, tables
from tests.functional.test_poll_readings import NOON, event

MAPPING = {"measures": {"temperature": "C"}}
SECRET = "device/token"
BAD = b"id: %d\ndata: no reading %d\n\n"
# by minute, what the device says: a late reading of the morning is to be exported again, one sensor comes later
SAID = {
    1: [event("1", 1), BAD % (2, 2), event("3", -90), event("4", 1, sensor_id="b")],
    2: [event("5", 2), event("6", 2, sensor_id="c"), event("7", -150), BAD % (8, 8)],
}
_FOR_A_CONNECTION = frozenset({Kind.STOPPED_BEFORE, Kind.STOPPED_AFTER, Kind.UNREACHED, Kind.FAILED})


class World(NoTexts, SensorsWorld):
    """A device that replays what came after the last event id, and polls that hold its stream for as long as it talks.

    Attributes:
        minute: after noon.
        polls: how many there were.
        monotonic: the seconds that a poll counts by; none pass while another one polls.
    """

    minute = 0
    polls = 0
    monotonic = 0.0

    def run(self) -> None:
        for minute in range(1, 5):
            self.minute = minute
            self.set_clock(NOON + timedelta(minutes=minute))
            if minute < 3:
                self.injector.invoke(self._poll)
            else:
                self._poll()

    def _poll(self) -> None:
        given = {"source_id": "device", "url": "https://device/events", "secret_name": SECRET, "mapping": MAPPING}
        self.polls += 1
        context = SimpleNamespace(get_remaining_time_in_millis=lambda: 170_000, aws_request_id=f"poll-{self.polls}")
        began, self.monotonic = self.monotonic, 0.0
        try:
            polling_handler.handler(given, context)  # type: ignore[arg-type]  # all that is asked of it
        finally:
            self.monotonic = began

    def connect(self, pool: object, url: str, *, last_event_id: str, authorization: str) -> "Stream":
        assert authorization == "Bearer 1"

        def refuse() -> None:
            raise SourceRefusedError(503)

        def nothing() -> None:
            raise AssertionError

        ways = Ways(
            take=lambda: Stream(self, last_event_id),
            throttled=nothing,
            failed=refuse,
            unreached=SourceUnreachableError("could not be reached"),
            lost=AssertionError(),
            partly=nothing,
            unprocessed=nothing,
            conflict=nothing,
        )
        stream: Stream = self.injector.through(Call("device", "GET", _FOR_A_CONNECTION), f"device {self.polls}", ways)
        return stream

    def outcome(self) -> dict[str, Any]:
        (source,) = self.items("Sources")
        quarantined = [
            line for key in self.cloud.data.keys("quarantine/") for line in self.cloud.data.get(key).splitlines()
        ]
        return {
            "readings": sorted(self.items("Readings"), key=lambda item: (item["sensor_id"], item["measured_at"])),
            "sensors": sorted(self.items("Sensors"), key=lambda item: item["sensor_id"]),
            "source": {name: source[name] for name in ("cursor", "failures_in_a_row", "last_error") if name in source},
            "to be exported": sorted((item["bucket"], item["hour"]) for item in self.items("PendingExports")),
            # an event may be kept twice: what is stored is repeated when the cursor could not be moved
            "quarantined": sorted(set(quarantined)),
        }


class Stream:
    """An open stream: everything after an event id that the device has said, three events at a time."""

    def __init__(self, world: World, last_event_id: str) -> None:
        self._world = world
        said = [one for minute in sorted(SAID) if minute <= world.minute for one in SAID[minute]]
        rest = said[int(last_event_id or 0) :]
        self._chunks = [b": heartbeat\n\n", *(b"".join(rest[k : k + 3]) for k in range(0, len(rest), 3))]

    def chunk(self, timeout: float) -> bytes | None:
        self._world.monotonic += 2 if self._chunks else 200
        return self._chunks.pop(0) if self._chunks else None

    def close(self) -> None:
        """Nothing is held open."""


@contextmanager
def make(injector: Injector, patch: pytest.MonkeyPatch) -> Iterator[World]:
    reuse_clients(patch)
    with tables(patch, RETENTION_DAYS=30, EXPORT_BUCKETS=16) as (cloud, clock):
        world = World(cloud, clock, injector, patch)
        boto3.client("secretsmanager").create_secret(Name=SECRET, SecretString="Bearer 1")
        patch.setattr(polling_handler, "Connection", world.connect)
        patch.setattr(polling, "time", SimpleNamespace(monotonic=lambda: world.monotonic))
        patch.setattr(polling, "wait", lambda seconds, until: None)
        injector.cold_start = polling_handler.dependencies.cache_clear
        injector.cold_start()
        yield world
        injector.cold_start()


@pytest.mark.parametrize("kind", list(Kind))
def test_the_next_poll_is_the_retry(kind: Kind, record_property: Callable[[str, object], None]) -> None:
    check("poll_readings", make, kind, record_property)
