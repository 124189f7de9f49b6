"""poll_readings over real loopback sockets: what a source streams is stored or in quarantine, whatever happens."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from lambdas.runtime.clock import ClockFace, FileClock
from lambdas.sensors.poll_readings import connection as connecting
from lambdas.sensors.poll_readings import handler as polling_handler
from lambdas.sensors.poll_readings import polling
from lambdas.sensors.poll_readings.connection import Connection, SourceUnreachableError, stream_pool
from lambdas.sensors.poll_readings.polling import Poller, SourceSetting
from lambdas.sensors.stores import DataBucket, Sensor
from overcut.formats import UnknownFormatError
from overcut.sensors.layout import bucket_of
from overcut.sensors.readings import Reading
from overcut.sensors.server_sent_events import (
    NotAnEventStreamError,
    SourceClosedError,
    SourceError,
    SourceRefusedError,
)
from overcut.sensors.silence import SensorSeen, SourceSeen
from overcut.sensors.sources import FieldMapping
from tests.conftest import ROOT
from tests.functional.alarms import tripped
from tests.functional.aws_over_http import aws_over_http
from tests.functional.conftest import Cloud
from workbench.device import Device

NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BUCKETS = 4
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def reading(minute: int, value: float = 4.0, sensor_id: str = "a") -> Reading:
    return Reading(sensor_id, NOON + minute * MINUTE, {"temperature": value})


def event(event_id: str, minute: int = 0, value: object = 4.0, sensor_id: str = "a") -> bytes:
    moment = (NOON + minute * MINUTE).strftime("%Y-%m-%dT%H:%M:%SZ")
    data = {"sensor_id": sensor_id, "measured_at": moment, "values": {"temperature": value}}
    return f"id: {event_id}\ndata: {json.dumps(data)}\n\n".encode()


def until(happened: Callable[[], object], seconds: float = 10.0) -> None:
    ends = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.02)


class Script:
    """A server on loopback that answers each connection with the next of `answers`, byte for byte.

    An answer of None says nothing at all. The last answer is given again and again. With `hold` a connection stays open
    after its answer until the client or the test ends it.
    """

    def __init__(self, *answers: bytes | None, hold: bool = False) -> None:
        self.answers = list(answers)
        self.requests: list[str] = []
        self._hold = hold
        self._done = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/events"

    def headers(self, number: int) -> dict[str, str]:
        lines = self.requests[number].split("\r\n")[1:]
        return {name: value for name, _, value in (line.partition(": ") for line in lines if line)}

    def _accept(self) -> None:
        while not self._done.is_set():
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            thread = threading.Thread(target=self._answer, args=(client, answer), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _answer(self, client: socket.socket, answer: bytes | None) -> None:
        with client:
            request = b""
            while b"\r\n\r\n" not in request:
                if not (more := client.recv(65536)):
                    return
                request += more
            self.requests.append(request.decode("utf-8"))
            try:
                client.sendall(answer or b"")
                if self._hold or answer is None:
                    client.settimeout(0.05)
                    while not self._done.is_set():
                        try:
                            if not client.recv(1):
                                return
                        except TimeoutError:
                            continue
            except OSError:
                return

    def close(self) -> None:
        self._done.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., Script]]:
    scripts: list[Script] = []

    def start(*answers: bytes | None, hold: bool = False) -> Script:
        scripts.append(Script(*answers, hold=hold))
        return scripts[-1]

    yield start
    for script in scripts:
        script.close()


class Outcomes:
    def __init__(self) -> None:
        self.counted: dict[str, int] = {}

    def count(self, outcome: str, number: int = 1) -> None:
        self.counted[outcome] = self.counted.get(outcome, 0) + number

    def info(self, event: str, **fields: Any) -> None:
        """What is logged is looked at through the handler."""

    warning = info


class Ingestion:
    """A poller on the test's tables, whose clock shows 12:30 unless it is set."""

    def __init__(self, cloud: Cloud, clock: FileClock) -> None:
        self.cloud = cloud
        self.clock = clock
        self.outcomes = Outcomes()
        self.threads = ThreadPoolExecutor(3)
        self.pool = stream_pool()
        self.set_clock(30)
        self.poller = self.new_poller()

    def new_poller(self) -> Poller:
        return Poller(
            readings=self.cloud.readings,
            sensors=self.cloud.sensors,
            sources=self.cloud.sources,
            pending=self.cloud.pending,
            bucket=self.cloud.data,
            connect=lambda source, last_event_id: Connection(self.pool, source.url, last_event_id=last_event_id),
            clock=self.clock,
            threads=self.threads,
            outcomes=self.outcomes,
            retention=timedelta(days=30),
            buckets=BUCKETS,
            silent_after=15 * 60,
        )

    def set_clock(self, minute: float) -> None:
        origin = (NOON + minute * MINUTE).timestamp()
        self.clock.set(ClockFace(origin=origin, wall=0.0, speed=0.0, ttl_offset=0.0))

    def source(self, url: str, source_id: str = "device") -> SourceSetting:
        return SourceSetting(source_id, url, FieldMapping({"temperature": "C", "humidity": "%"}))

    def poll(self, url: str, seconds: float = 0.3, poll_id: str = "poll-1", source_id: str = "device") -> None:
        self.poller.poll(self.source(url, source_id), poll_id, seconds)

    def stored(self, sensor_id: str = "a") -> list[Reading]:
        return self.cloud.readings.between(sensor_id, NOON - timedelta(days=60), NOON + timedelta(days=1))

    def quarantined(self) -> list[dict[str, str]]:
        keys = self.cloud.data.keys("quarantine/")
        return [json.loads(line) for key in keys for line in self.cloud.data.get(key).splitlines()]

    def close(self) -> None:
        self.threads.shutdown()
        self.pool.clear()


@pytest.fixture
def ingestion(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ingestion]:
    monkeypatch.setattr(polling, "FLUSH_SECONDS", 0.1)
    made = Ingestion(cloud, FileClock(tmp_path / "clock.json"))
    yield made
    made.close()


# --- what is streamed is stored ---


def test_everything_a_device_streams_is_stored(ingestion: Ingestion) -> None:
    streamed = [reading(minute, minute / 10, sensor_id) for minute in range(30) for sensor_id in "abc"]
    with Device(streamed, ingestion.clock) as device:
        ingestion.poll(device.url, 1.5)
    for sensor_id in "abc":
        assert ingestion.stored(sensor_id) == [one for one in streamed if one.sensor_id == sensor_id]
    source = ingestion.cloud.sources.get("device")
    assert (source.cursor, source.failures_in_a_row) == ("89", 0)
    assert source.last_success_at == "2026-01-05T12:30:00Z"
    assert ingestion.outcomes.counted["ReadingsStored"] == 90
    assert ingestion.quarantined() == []


def test_the_next_poll_resumes_after_the_cursor(ingestion: Ingestion) -> None:
    streamed = [reading(minute) for minute in range(30)]
    with Device(streamed, ingestion.clock, heartbeat_seconds=0.1) as device:
        ingestion.set_clock(9)
        ingestion.poll(device.url)
        assert ingestion.stored() == streamed[:10]
        until(lambda: device.health()["clients"] == 0)
        ingestion.set_clock(29)
        ingestion.poll(device.url, poll_id="poll-2")
        assert device.health()["sent"] == 30
    assert ingestion.stored() == streamed


def test_a_stream_that_ends_is_taken_up_again_where_it_ended(
    ingestion: Ingestion, serve: Callable[..., Script]
) -> None:
    retry = b"retry: 10\n\n"
    source = serve(STREAM + retry + event("x1", 1), STREAM + retry + event("x2", 2), STREAM + retry)
    ingestion.poll(source.url, 0.8)
    assert [one.measured_at for one in ingestion.stored()] == [NOON + MINUTE, NOON + 2 * MINUTE]
    assert [source.headers(number).get("Last-Event-ID") for number in range(3)] == [None, "x1", "x2"]


def test_the_last_of_two_values_for_a_minute_wins(ingestion: Ingestion, serve: Callable[..., Script]) -> None:
    source = serve(STREAM + event("1", 1, 4.0) + event("2", 1, 5.0) + event("3", 2, 6.0), hold=True)
    ingestion.poll(source.url)
    assert ingestion.stored() == [reading(1, 5.0), reading(2, 6.0)]


def test_more_readings_than_a_batch_holds_in_one_flush(ingestion: Ingestion, serve: Callable[..., Script]) -> None:
    events = b"".join(event(str(n), n % 20, sensor_id=f"s{n // 20}") for n in range(400))
    source = serve(STREAM + events, hold=True)
    ingestion.poll(source.url)
    assert sum(len(ingestion.stored(f"s{n}")) for n in range(20)) == 400


def test_ids_are_opaque(ingestion: Ingestion, serve: Callable[..., Script]) -> None:
    source = serve(STREAM + event("zürich/ü 7", 1), STREAM, hold=True)
    ingestion.poll(source.url)
    assert ingestion.cloud.sources.get("device").cursor == "zürich/ü 7"
    ingestion.poll(source.url, poll_id="poll-2")
    assert source.headers(1)["Last-Event-ID"] == "zürich/ü 7"


# --- the cursor ---


def test_the_cursor_stays_where_data_could_not_be_stored(
    ingestion: Ingestion, serve: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = serve(STREAM + event("1", 1), STREAM + event("2", 2) + b"id: 3\ndata: what\n\n", hold=True)
    ingestion.poll(source.url)

    def fails(**given: object) -> None:
        raise ClientError({"Error": {"Code": "InternalServerError"}}, "BatchWriteItem")

    for fault in ("batch_write_item", "put_object"):
        with monkeypatch.context() as patch:
            patch.setattr(ingestion.cloud.dynamodb if fault == "batch_write_item" else ingestion.cloud.s3, fault, fails)
            with pytest.raises(ClientError):
                ingestion.poll(source.url, poll_id=fault)
        assert ingestion.cloud.sources.get("device").cursor == "1"
    assert ingestion.quarantined() == []

    ingestion.poll(source.url, poll_id="next")
    assert ingestion.stored() == [reading(1), reading(2)]
    assert [one["raw"] for one in ingestion.quarantined()] == ["what"]
    assert ingestion.cloud.sources.get("device").cursor == "3"
    assert [source.headers(number).get("Last-Event-ID") for number in range(4)] == [None, "1", "1", "1"]


def test_an_id_that_the_source_refuses_makes_the_next_poll_start_without_one(
    ingestion: Ingestion, serve: Callable[..., Script]
) -> None:
    gone = b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"
    source = serve(STREAM + event("1", 1), gone, STREAM + event("2", 2), hold=True)
    ingestion.poll(source.url)
    with pytest.raises(SourceRefusedError):
        ingestion.poll(source.url, poll_id="poll-2")
    ingestion.poll(source.url, poll_id="poll-3")
    assert [source.headers(number).get("Last-Event-ID") for number in range(3)] == [None, "1", None]
    assert len(ingestion.stored()) == 2


def test_an_id_that_is_refused_within_the_very_poll_that_read_it(
    ingestion: Ingestion, serve: Callable[..., Script]
) -> None:
    bad_request = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    source = serve(STREAM + b"retry: 10\n\n" + event("1", 1), bad_request)
    with pytest.raises(SourceRefusedError):
        ingestion.poll(source.url, 2.0)
    assert ingestion.cloud.sources.get("device").cursor == ""
    assert ingestion.stored() == [reading(1)]


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"403 Forbidden", b"404 Not Found", b"503 Busy"])
def test_other_refusals_keep_the_cursor(ingestion: Ingestion, serve: Callable[..., Script], status: bytes) -> None:
    source = serve(STREAM + event("1", 1), b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n", hold=True)
    ingestion.poll(source.url)
    with pytest.raises(SourceRefusedError):
        ingestion.poll(source.url, poll_id="poll-2")
    assert ingestion.cloud.sources.get("device").cursor == "1"


# --- overlapping polls ---


def test_a_poll_ends_when_its_successor_is_connected_and_keeps_everything(ingestion: Ingestion) -> None:
    streamed = [reading(minute, sensor_id=sensor_id) for minute in range(200) for sensor_id in "ab"]
    ingestion.clock.set(ClockFace(origin=NOON.timestamp(), wall=time.time(), speed=3000.0, ttl_offset=0.0))
    ended: dict[str, float] = {}

    def hold(poll_id: str, seconds: float) -> None:
        ingestion.new_poller().poll(ingestion.source(device.url), poll_id, seconds)
        ended[poll_id] = time.monotonic()

    with Device(streamed, ingestion.clock, heartbeat_seconds=0.2) as device:
        first = threading.Thread(target=hold, args=("poll-1", 30.0))
        first.start()
        # it has said so, too: what is said last counts
        until(lambda: ingestion.cloud.sources.get("device").connected_poll == "poll-1")
        began = time.monotonic()
        hold("poll-2", 5.0)
        first.join()
    assert ended["poll-1"] < ended["poll-2"], "it had 30 seconds, and its successor five"
    assert ended["poll-2"] - began > 4.9
    assert len(ingestion.stored("a")) == len(ingestion.stored("b")) == 200


def test_a_poll_that_connects_again_does_not_end_its_successor(
    ingestion: Ingestion, serve: Callable[..., Script]
) -> None:
    """The source hangs up on everybody; the successor is back first, the older poll a moment later."""
    source = serve(STREAM + b"retry: 600\n\n" + event("1", 1), STREAM, hold=False)
    first = threading.Thread(target=ingestion.poll, args=(source.url, 2.0))
    first.start()
    until(lambda: ingestion.cloud.sources.get("device").cursor == "1")
    # while the older poll waits to connect again
    ingestion.cloud.sources.connected("device", "poll-2")
    first.join()
    assert ingestion.cloud.sources.get("device").connected_poll == "poll-2"


# --- bad input ---

BAD_EVENTS = {
    "{not json": "the event is not JSON",
    "[" * 100_000: "the event is not JSON",
    '{"measured_at":"2026-01-05T12:01:00Z","values":{"temperature":4}}': "the event has no sensor_id",
    '{"sensor_id":"a","values":{"temperature":4}}': "the event has no measured_at",
    '{"sensor_id":"a","measured_at":"2026-01-05T12:01:00Z"}': "the event has no values",
    '"only a text"': "the event has no sensor_id",
    '{"sensor_id":"a","measured_at":"2026-01-05T12:01:00Z","values":{"temperature":"4"}}': "temperature is not a num",
    '{"sensor_id":"a","measured_at":"2026-01-05T12:01:00Z","values":{"temperature":true}}': "temperature is not a num",
    '{"sensor_id":"a","measured_at":"2026-01-05T12:01:00Z","values":{"temperature":NaN}}': "temperature is not a fin",
    '{"sensor_id":"a","measured_at":"2026-01-05T12:01:00Z","values":{"temperature":-Infinity}}': "temperature is not a",
    '{"sensor_id":"a","measured_at":"2026-01-05T12:01:00Z","values":{"temperature":1e400}}': "temperature is not a fin",
    '{"sensor_id":"a","measured_at":"2026-01-05T12:01:00","values":{"temperature":4}}': "measured_at has no time zone",
    '{"sensor_id":"a","measured_at":1767614460,"values":{"temperature":4}}': "measured_at is not a text",
    '{"sensor_id":"a","measured_at":"2026-01-05T12:35:01Z","values":{"temperature":4}}': "measured_at is more than",
    # kept 30 days, and taken until a day before that is over
    '{"sensor_id":"a","measured_at":"2025-12-07T12:00:00Z","values":{"temperature":4}}': "measured_at is too old",
    '{"sensor_id":"a","measured_at":"2026-01-05T12:01:00Z","values":{"pressure":4}}': "unknown measure 'pressure'",
    '{"sensor_id":"a","measured_at":"2026-01-05T12:01:00Z","values":{}}': "values is not an object",
    '{"sensor_id":"a","measured_at":"2026-01-05T12:01:00Z","values":[4]}': "values is not an object",
    '{"sensor_id":"","measured_at":"2026-01-05T12:01:00Z","values":{"temperature":4}}': "sensor_id is not a text of 1",
    '{"sensor_id":"a\\u0000","measured_at":"2026-01-05T12:01:00Z","values":{"temperature":4}}': "sensor_id has a",
    '{"sensor_id":"\\ud800","measured_at":"2026-01-05T12:01:00Z","values":{"temperature":4}}': "sensor_id has a",
}


def test_each_bad_event_is_kept_with_its_reason_and_the_stream_goes_on(
    ingestion: Ingestion, serve: Callable[..., Script]
) -> None:
    sent = event("first", 1)
    for number, raw in enumerate(BAD_EVENTS):
        sent += f"id: bad-{number}\ndata: {raw}\n\n".encode()
    source = serve(STREAM + sent + event("last", 2), hold=True)
    ingestion.poll(source.url, 1.0)

    assert ingestion.stored() == [reading(1), reading(2)]
    kept = {one["event_id"]: one for one in ingestion.quarantined()}
    assert len(kept) == len(BAD_EVENTS) == 21
    for number, (raw, reason) in enumerate(BAD_EVENTS.items()):
        one = kept[f"bad-{number}"]
        assert one["raw"] == raw
        assert one["reason"].startswith(reason), one["reason"]
    assert ingestion.outcomes.counted["EventsQuarantined"] == 21
    assert ingestion.cloud.sources.get("device").cursor == "last"
    assert all(key.startswith("quarantine/dt=2026-01-05/device/") for key in ingestion.cloud.data.keys("quarantine/"))


def test_a_reading_five_minutes_ahead_is_stored(ingestion: Ingestion, serve: Callable[..., Script]) -> None:
    source = serve(STREAM + event("1", 35) + event("2", 36), hold=True)
    ingestion.poll(source.url)
    assert ingestion.stored() == [reading(35)]


def test_an_event_past_the_size_limit_is_refused_and_the_stream_goes_on(
    ingestion: Ingestion, serve: Callable[..., Script]
) -> None:
    source = serve(STREAM + event("1", 1) + b"id: 2\ndata: " + b"x" * 300_000 + b"\n\n" + event("3", 3), hold=True)
    ingestion.poll(source.url, 1.0)
    assert ingestion.stored() == [reading(1), reading(3)]
    (kept,) = ingestion.quarantined()
    assert kept["reason"].startswith("longer than 262,144 bytes")
    assert kept["raw"].startswith("id: 2\ndata: xxx")
    assert len(kept["raw"]) == 4096


def test_an_event_that_the_end_of_the_stream_cuts_off_is_read_when_it_comes_whole(
    ingestion: Ingestion, serve: Callable[..., Script]
) -> None:
    source = serve(STREAM + b"retry: 10\n\n" + event("1", 1) + event("2", 2)[:-1], STREAM + event("2", 2), STREAM)
    ingestion.poll(source.url, 0.5)
    assert ingestion.stored() == [reading(1), reading(2)]
    assert ingestion.quarantined() == []


def test_a_reading_of_the_distant_past_does_not_spoil_its_sensor(
    ingestion: Ingestion, serve: Callable[..., Script]
) -> None:
    ancient = b'id: 1\ndata: {"sensor_id":"a","measured_at":"0999-01-05T12:00:00Z","values":{"temperature":4}}\n\n'
    source = serve(STREAM + ancient + event("2", 2), hold=True)
    ingestion.poll(source.url)
    assert ingestion.cloud.readings.since("a", NOON, 10) == [reading(2)]


# --- the health of a source ---

HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 15\r\n\r\n<html>hi</html>"


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (
            b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
            SourceRefusedError,
            "answered 401: check the source",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nnot here",
            SourceRefusedError,
            "answered 404: check the u",
        ),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno", SourceRefusedError, "answered 500: a fault of the source"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n",
            SourceRefusedError,
            "answered 302: redir",
        ),
        (HTML, NotAnEventStreamError, "answered with text/html; charset=utf-8, not text/event-stream"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", NotAnEventStreamError, "answered with no content type"),
        (b"", SourceUnreachableError, "could not be reached: "),
        (b"SSH-2.0-OpenSSH_9.6\r\n", SourceUnreachableError, "could not be reached: "),
        (None, SourceUnreachableError, "could not be reached: "),
    ],
)
def test_a_source_that_cannot_be_read_is_recorded_with_its_next_try(
    ingestion: Ingestion,
    serve: Callable[..., Script],
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes | None,
    error: type[SourceError],
    words: str,
) -> None:
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 0.3)
    source = serve(answer)
    for failures in (1, 2):
        began = time.monotonic()
        with pytest.raises(error):
            ingestion.poll(source.url)
        assert time.monotonic() - began < 2
        health = ingestion.cloud.sources.get("device")
        assert health.last_error.startswith(words), health.last_error
        assert (health.failures_in_a_row, health.next_try_at) == (failures, "2026-01-05T12:31:00Z")
        assert (health.last_success_at, health.stay_away_until) == ("", "")
    assert ingestion.outcomes.counted["PollFailures"] == 2

    with Device([reading(1)], ingestion.clock) as device:
        ingestion.poll(device.url, source_id="other")
        assert ingestion.stored() == [reading(1)]
        assert ingestion.cloud.sources.get("other").failures_in_a_row == 0
        ingestion.poll(device.url, poll_id="poll-2")
    assert ingestion.cloud.sources.get("device").failures_in_a_row == 0


def test_a_source_that_refuses_connections_is_recorded(ingestion: Ingestion) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(SourceUnreachableError):
        ingestion.poll(f"http://127.0.0.1:{port}/events")
    assert "refused" in ingestion.cloud.sources.get("device").last_error


def test_a_stream_that_breaks_off_keeps_what_came(ingestion: Ingestion, serve: Callable[..., Script]) -> None:
    chunked = STREAM.replace(b"Connection: close", b"Transfer-Encoding: chunked")
    whole = event("1", 1)
    source = serve(chunked + b"%x\r\n" % len(whole) + whole + b"\r\n40\r\n" + event("2", 2)[:20])
    with pytest.raises(SourceUnreachableError, match="broke off"):
        ingestion.poll(source.url, 2.0)
    assert ingestion.stored() == [reading(1)]
    health = ingestion.cloud.sources.get("device")
    assert (health.cursor, health.failures_in_a_row) == ("1", 1)


def test_a_stream_without_a_byte_is_reported(
    ingestion: Ingestion, serve: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "SILENT_SECONDS", 0.2)
    source = serve(STREAM, hold=True)
    with pytest.raises(SourceError, match="sent nothing"):
        ingestion.poll(source.url, 0.4)
    assert ingestion.cloud.sources.get("device").failures_in_a_row == 1


def test_a_quiet_stream_is_held_beyond_the_time_to_answer(
    ingestion: Ingestion, serve: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 0.2)
    source = serve(STREAM + event("1", 1), hold=True)
    ingestion.poll(source.url, 1.0)
    assert len(source.requests) == 1
    assert ingestion.cloud.sources.get("device").failures_in_a_row == 0


def test_a_source_that_answers_204_is_left_alone_for_ten_minutes(
    ingestion: Ingestion, serve: Callable[..., Script]
) -> None:
    source = serve(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", STREAM + event("1", 1), hold=False)
    with pytest.raises(SourceClosedError):
        ingestion.poll(source.url)
    assert ingestion.cloud.sources.get("device").stay_away_until == "2026-01-05T12:40:00Z"
    ingestion.set_clock(39.9)
    ingestion.poll(source.url)
    assert len(source.requests) == 1
    ingestion.set_clock(40)
    ingestion.poll(source.url)
    assert ingestion.stored() == [reading(1)]


# --- sensors and exports ---


def test_a_sensor_registers_itself_once(ingestion: Ingestion, serve: Callable[..., Script]) -> None:
    named = Sensor("b", "device", {"temperature": "C"}, name="Cold room", site="Aarhus")
    ingestion.cloud.sensors.put([named], BUCKETS)
    source = serve(STREAM + event("1", 1) + event("2", 2) + event("3", 1, sensor_id="b"), hold=True)
    ingestion.poll(source.url)
    ingestion.poller = ingestion.new_poller()
    ingestion.poll(source.url, poll_id="poll-2")
    assert ingestion.outcomes.counted["SensorsRegistered"] == 1
    assert ingestion.cloud.sensors.get("a") == Sensor("a", "device", {"temperature": "C"})
    assert ingestion.cloud.sensors.get("b") == named
    assert "a" in ingestion.cloud.sensors.ids_in_bucket(bucket_of("a", BUCKETS))


def test_a_reading_of_an_hour_that_is_over_makes_the_hour_pending(
    ingestion: Ingestion, serve: Callable[..., Script]
) -> None:
    source = serve(STREAM + event("1", -61) + event("2", -1) + event("3", 0) + event("4", 30), hold=True)
    ingestion.poll(source.url)
    hours = [hour for hour, _ in ingestion.cloud.pending.of(bucket_of("a", BUCKETS))]
    assert hours == [NOON - 120 * MINUTE, NOON - 60 * MINUTE]


# --- who was heard, for watch_sensors ---


def test_it_is_kept_when_each_sensor_was_heard(ingestion: Ingestion, serve: Callable[..., Script]) -> None:
    ingestion.poll(serve(STREAM + event("1", 27) + event("2", 28) + event("3", 10, sensor_id="b")).url)
    ingestion.set_clock(32)
    ingestion.poll(serve(STREAM + event("4", 29) + event("4", 27)).url)
    seen = ingestion.cloud.data.seen("device")
    assert seen

    def at(minute: int) -> int:
        return int((NOON + minute * MINUTE).timestamp())

    assert seen.heard_at == at(32)
    assert seen.sensors == {
        "a": SensorSeen(at(32), at(32), at(29), [60, 60]),
        "b": SensorSeen(at(30), at(30), at(10), []),
    }


def test_polls_that_overlap_keep_what_both_have_heard(ingestion: Ingestion, serve: Callable[..., Script]) -> None:
    """The first one hears of `a` before, and ends after, the second one hears of `b`."""
    first = serve(STREAM + event("1", 27), hold=True)
    thread = threading.Thread(target=ingestion.poll, args=(first.url, 5.0, "poll-1"))
    thread.start()
    until(lambda: ingestion.cloud.data.seen("device"))
    ingestion.poll(serve(STREAM + event("2", 28, sensor_id="b")).url, poll_id="poll-2")
    thread.join()
    seen = ingestion.cloud.data.seen("device")
    assert seen
    assert sorted(seen.sensors) == ["a", "b"]


def test_readings_are_stored_though_it_cannot_be_kept_who_was_heard(
    ingestion: Ingestion, serve: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(self: DataBucket, source_id: str, seen: SourceSeen) -> None:
        raise ClientError({"Error": {"Code": "SlowDown"}}, "PutObject")

    with monkeypatch.context() as broken:
        broken.setattr(DataBucket, "put_seen", put)
        ingestion.poll(serve(STREAM + event("1", 27)).url)
    assert ingestion.stored() == [reading(27)]
    assert ingestion.outcomes.counted["SeenNotKept"] >= 1
    ingestion.poll(serve(STREAM + event("2", 28)).url)
    assert ingestion.cloud.data.seen("device")


def test_readings_are_stored_beside_what_a_newer_version_keeps_of_who_was_heard(
    ingestion: Ingestion, serve: Callable[..., Script]
) -> None:
    newer = gzip.compress(json.dumps({"format": 2, "heard": {}}).encode())
    ingestion.cloud.data.put("seen/device.json.gz", newer)
    with pytest.raises(UnknownFormatError, match="seen has format 2"):
        ingestion.cloud.data.seen("device")
    ingestion.poll(serve(STREAM + event("1", 27)).url)
    assert ingestion.stored() == [reading(27)]
    assert ingestion.cloud.sources.get("device").cursor == "1"
    assert ingestion.outcomes.counted["SeenNotKept"] >= 1
    assert ingestion.cloud.data.get("seen/device.json.gz") == newer


# --- the function itself ---

POLL_SETTINGS = {"RETENTION_DAYS": "30", "EXPORT_BUCKETS": str(BUCKETS), "SILENT_AFTER_MINUTES": "15"}


def settings(cloud: Cloud, clock: FileClock) -> dict[str, str]:
    return {
        "STAGE": "local",
        "READINGS_TABLE": cloud.tables["Readings"],
        "SENSORS_TABLE": cloud.tables["Sensors"],
        "SOURCES_TABLE": cloud.tables["Sources"],
        "PENDING_EXPORTS_TABLE": cloud.tables["PendingExports"],
        "DATA_BUCKET": cloud.bucket,
        "CLOCK": str(clock.path),
        **POLL_SETTINGS,
    }


@pytest.fixture
def invoke(ingestion: Ingestion, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Call the handler with what the schedule sends; it holds the stream for `seconds`."""
    for name, value in settings(ingestion.cloud, ingestion.clock).items():
        monkeypatch.setenv(name, value)
    polling_handler.dependencies.cache_clear()

    def call(url: str, *, secret_name: str = "", seconds: float = 0.3) -> None:
        schedule = {
            "source_id": "device",
            "url": url,
            "secret_name": secret_name,
            "mapping": {
                "measures": {"temperature": "C"},
                "sensor_id": "sensor_id",
                "measured_at": "measured_at",
                "values": "values",
            },
        }
        remaining = int((seconds + polling_handler.SECONDS_TO_FINISH) * 1000)
        context: Any = SimpleNamespace(get_remaining_time_in_millis=lambda: remaining, aws_request_id="request-1")
        polling_handler.handler(schedule, context)

    yield call
    polling_handler.dependencies().poller.threads.shutdown()
    polling_handler.dependencies.cache_clear()


def test_what_cannot_be_a_reading_trips_an_alarm_and_neither_it_nor_the_secret_is_logged(
    serve: Callable[..., Script],
    invoke: Callable[..., None],
    local_template: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    boto3.client("secretsmanager").create_secret(Name="overcut/device", SecretString="Bearer hidden-1")
    source = serve(STREAM + event("1", 27) + b"data: call +4915112345678\n\n")
    invoke(source.url, secret_name="overcut/device")
    logged = capsys.readouterr()
    assert tripped(local_template, logged.out) == {"EventsQuarantined"}
    of_another_stage = logged.out.replace('"stage":"local"', '"stage":"other"')
    assert of_another_stage != logged.out
    assert tripped(local_template, of_another_stage) == set()
    for kept_out in ("hidden-1", "4915112345678", "temperature"):
        assert kept_out not in logged.out + logged.err + str([vars(record) for record in caplog.records])
    assert "hidden-1" in source.requests[0]


def test_polls_that_fail_several_times_trip_an_alarm(
    serve: Callable[..., Script],
    invoke: Callable[..., None],
    local_template: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = serve(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    log = ""
    for number in range(4):
        with pytest.raises(SourceRefusedError):
            invoke(source.url)
        log += capsys.readouterr().out
        assert tripped(local_template, log) == ({"PollsFail"} if number == 3 else set())


def test_the_handler_polls_with_the_credentials_of_the_source(
    ingestion: Ingestion, invoke: Callable[..., None]
) -> None:
    secrets: Any = boto3.client("secretsmanager")
    secrets.create_secret(Name="overcut/test/device", SecretString="Bearer open sesame")
    with Device([reading(1)], ingestion.clock, credentials="open sesame") as device:
        with pytest.raises(SourceRefusedError):
            invoke(device.url)
        assert ingestion.cloud.sources.get("device").last_error == "answered 401: check the source's credentials"
        invoke(device.url, secret_name="overcut/test/device")
    assert ingestion.stored() == [reading(1)]
    assert ingestion.cloud.sources.get("device").connected_poll == "request-1"


def test_a_secret_that_is_not_there_is_the_health_of_the_source(
    ingestion: Ingestion, invoke: Callable[..., None], serve: Callable[..., Script]
) -> None:
    with pytest.raises(SourceError):
        invoke(serve(STREAM).url, secret_name="overcut/test/absent")
    assert "overcut/test/absent" in ingestion.cloud.sources.get("device").last_error


def test_a_secret_that_nobody_answers_for_is_the_health_of_the_source(
    ingestion: Ingestion, invoke: Callable[..., None], serve: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = boto3.client

    def fails(**given: object) -> None:
        raise ConnectTimeoutError(endpoint_url="https://secretsmanager")

    def client(service: Any, **given: Any) -> Any:
        return SimpleNamespace(get_secret_value=fails) if service == "secretsmanager" else make(service, **given)

    monkeypatch.setattr(boto3, "client", client)
    with pytest.raises(SourceError):
        invoke(serve(STREAM).url, secret_name="overcut/test/device")
    assert ingestion.cloud.sources.get("device").last_error.startswith("its secret overcut/test/device cannot be read")


@pytest.mark.parametrize("secret", ["Bearer s3cret\n", "Bearer s3cret\r\nX-Other: 1", "Bearer s3cret\u20ac"])
def test_a_secret_that_is_no_header_is_told_without_telling_it(
    ingestion: Ingestion, invoke: Callable[..., None], serve: Callable[..., Script], secret: str
) -> None:
    secrets: Any = boto3.client("secretsmanager")
    secrets.create_secret(Name="overcut/test/device", SecretString=secret)
    with pytest.raises(SourceError) as raised:
        invoke(serve(STREAM).url, secret_name="overcut/test/device")
    assert "s3cret" not in "".join(traceback.format_exception(raised.value))
    assert ingestion.cloud.sources.get("device").last_error.startswith("its secret is not a header's value")


POLL_IN_A_PROCESS = """
    import sys
    from types import SimpleNamespace
    from lambdas.sensors.poll_readings.handler import handler

    context = SimpleNamespace(
        get_remaining_time_in_millis=lambda: int((float(sys.argv[2]) + 20) * 1000), aws_request_id=sys.argv[3]
    )
    handler({"source_id": "device", "url": sys.argv[1], "mapping": {"measures": {"temperature": "C"}}}, context)
"""


def test_a_poll_that_is_killed_in_mid_stream_loses_nothing(ingestion: Ingestion) -> None:
    streamed = [reading(minute, minute / 10, sensor_id) for minute in range(600) for sensor_id in "ab"]
    environment = {**os.environ, **settings(ingestion.cloud, ingestion.clock)}

    def poll(device: Device, endpoint: str, seconds: float, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", textwrap.dedent(POLL_IN_A_PROCESS), device.url, str(seconds), name]
        return subprocess.Popen(
            command, cwd=ROOT, env={**environment, "AWS_ENDPOINT_URL": endpoint}, stdout=subprocess.DEVNULL
        )

    with aws_over_http() as endpoint, Device(streamed, ingestion.clock) as device:
        # five minutes of readings a second, so that it is killed with some read and not yet stored
        ingestion.clock.set(ClockFace(origin=NOON.timestamp(), wall=time.time(), speed=6000.0, ttl_offset=0.0))
        with poll(device, endpoint, 60, "killed") as killed:
            until(lambda: len(ingestion.stored()) > 20, 30)
            killed.send_signal(signal.SIGKILL)
        assert killed.returncode == -signal.SIGKILL
        assert len(ingestion.stored()) < 600
        ingestion.clock.set(ClockFace(origin=streamed[-1].measured_at.timestamp(), wall=0, speed=0, ttl_offset=0))
        sent = device.health()["sent"]
        assert 0 < sent < 1200
        with poll(device, endpoint, 6, "next") as again:
            assert again.wait(30) == 0
    for sensor_id in "ab":
        assert ingestion.stored(sensor_id) == [one for one in streamed if one.sensor_id == sensor_id]
    assert ingestion.cloud.sources.get("device").cursor == "1199"
