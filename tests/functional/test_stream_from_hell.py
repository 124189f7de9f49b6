"""The stream from hell: whatever a source sends, nothing good is lost and nothing bad is stored.

Every stream goes over a real socket, through the real client, parser and poller, into tables as they are deployed.
What is right where WHATWG speaks: https://html.spec.whatwg.org/multipage/server-sent-events.html. `make stream` runs it
alone; the figures are printed at the end.
"""

import gzip
import json
import random
import socket
import ssl
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_address
from itertools import accumulate, product
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lambdas.sensors.poll_readings import connection as connecting
from lambdas.sensors.poll_readings import polling
from lambdas.sensors.poll_readings.connection import Connection, SourceUnreachableError
from overcut.sensors.readings import Reading, RefusedReadingError, format_time, parse_time
from overcut.sensors.server_sent_events import (
    EventStream,
    NotAnEventStreamError,
    RefusedEvent,
    ServerSentEvent,
    SourceClosedError,
    SourceError,
    SourceRefusedError,
)
from tests.functional import test_poll_readings
from tests.functional.test_poll_readings import BAD_EVENTS, MINUTE, NOON, Ingestion, event, reading, until
from tests.unit.test_server_sent_events import reference

ingestion = test_poll_readings.ingestion

MARK = b"\xef\xbb\xbf"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CLOSING = HEAD + b"Connection: close\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ENDS = (b"\n", b"\r", b"\r\n")


# --- the figures ---


@dataclass
class Figures:
    """What one test sent, and what became of it."""

    bad_inputs_tried: int = 0
    bad_inputs_stored: int = 0
    readings_sent: int = 0
    readings_lost: int = 0
    readings_stored_doubled: int = 0

    def settle(self, ingestion: Ingestion, sent: Iterable[Reading], *, bad: int = 0, kept: int | None = None) -> None:
        """Compare the whole table with what was sent.

        Args:
            sent: every good reading, each once; of several for a minute the last.
            bad: how many bad inputs there were.
            kept: how many different events quarantine has to hold.
        """
        expected = {(one.sensor_id, one.measured_at): dict(one.values) for one in sent}
        pages = ingestion.cloud.dynamodb.get_paginator("scan").paginate(TableName=ingestion.cloud.tables["Readings"])
        stored = [item for page in pages for item in page["Items"]]
        found = {
            (item["sensor_id"]["S"], parse_time(item["measured_at"]["S"])): {
                name: float(value["N"]) for name, value in item["values"]["M"].items()
            }
            for item in stored
        }
        self.bad_inputs_tried += bad
        self.readings_sent += len(expected)
        self.readings_lost += sum(found.get(key) != values for key, values in expected.items())
        self.readings_stored_doubled += len(stored) - len(found)
        self.bad_inputs_stored += len(found.keys() - expected.keys())
        assert (self.readings_lost, self.readings_stored_doubled, self.bad_inputs_stored) == (0, 0, 0)
        if kept is not None:
            assert len({one["raw"] + one["event_id"] for one in ingestion.quarantined()}) == kept


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Iterator[Figures]:
    counted = Figures()
    yield counted
    record_property("the stream from hell", vars(counted))


# --- the server ---


@dataclass
class Client:
    """One connection that a server has accepted, and what it asked for."""

    socket: socket.socket
    headers: dict[str, str]
    over: threading.Event

    @property
    def last_event_id(self) -> str:
        return self.headers.get("last-event-id", "")

    def send(self, *pieces: bytes, pause: float = 0.0) -> None:
        for piece in pieces:
            self.socket.sendall(piece)
            if pause:
                self.over.wait(pause)

    def chunks(self, pieces: Iterable[bytes], end: bool = False) -> None:
        """Send pieces as chunks, which the client gets one by one."""
        self.send(b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n" * end)

    def hold(self) -> None:
        """Say nothing more until the client has gone or the test is over."""
        self.socket.settimeout(0.05)
        while not self.over.is_set():
            try:
                if not self.socket.recv(1):
                    return
            except TimeoutError:
                continue

    def tear(self) -> None:
        """End the connection at once, with what is in flight."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


Act = Callable[[Client], None]


@dataclass
class Server:
    """A server on loopback; each connection meets the next act, and the last one again and again.

    Attributes:
        clients: everybody who sent a whole request.
        connections: how many there were, with those that never came so far.
    """

    acts: list[Act]
    tls: list[ssl.SSLContext] = field(default_factory=list)
    port: int = 0
    clients: list[Client] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def url(self, host: str = "127.0.0.1", path: str = "/events") -> str:
        return f"http{'s' if self.tls else ''}://{host}:{self.port}{path}"

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._over.is_set():
                client, _ = self._listening.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
                tls = None
                if self.tls:
                    tls = self.tls.pop(0) if len(self.tls) > 1 else self.tls[0]
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(client, act, tls), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket, act: Act, tls: ssl.SSLContext | None) -> None:
        with client, suppress(OSError):
            if tls:
                client = tls.wrap_socket(client, server_side=True)
            request = b""
            while b"\r\n\r\n" not in request:
                if not (more := client.recv(65536)):
                    return
                request += more
            lines = request.decode("latin-1").split("\r\n")[1:]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            self.clients.append(Client(client, headers, self._over))
            with client:
                act(self.clients[-1])

    def close(self) -> None:
        self._over.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as until_the_end:

        def start(*acts: Act, tls: Iterable[ssl.SSLContext] = (), port: int = 0) -> Server:
            server = Server(list(acts), list(tls), port)
            until_the_end.callback(server.close)
            return server

        yield start


def body(*pieces: bytes, head: bytes = CLOSING, hold: bool = True) -> Act:
    """Answer with these bytes."""

    def act(client: Client) -> None:
        client.send(head, *pieces)
        if hold:
            client.hold()

    return act


def chunked(pieces: Iterable[bytes]) -> Act:
    def act(client: Client) -> None:
        client.send(CHUNKED)
        client.chunks(pieces)
        client.hold()

    return act


def poll_until(ingestion: Ingestion, url: str, happened: Callable[[], object] | int, seconds: float = 30.0) -> None:
    """Poll until something happened, or so many readings were stored, and not a moment longer: a successor is there."""

    def is_over() -> object:
        if callable(happened):
            return happened()
        return ingestion.outcomes.counted.get("ReadingsStored", 0) >= happened

    def take_over() -> None:
        ends = time.monotonic() + seconds
        while not is_over() and time.monotonic() < ends:
            time.sleep(0.05)
        ingestion.cloud.sources.connected("device", "successor")

    successor = threading.Thread(target=take_over)
    successor.start()
    try:
        ingestion.poll(url, seconds)
    finally:
        successor.join()


def cursor_is(ingestion: Ingestion, event_id: str) -> Callable[[], bool]:
    return lambda: ingestion.cloud.sources.get("device").cursor == event_id


# --- line ends, pieces, marks and bad bytes ---


def in_line_ends(number: int, ends: Sequence[bytes]) -> bytes:
    identity, data = event(str(number), number % 20, number, f"s{number // 20}").splitlines()[:2]
    blank = ends[2] if (ends[1], ends[2]) != (b"\r", b"\n") else b"\n\n"  # those two are one end
    return identity + ends[0] + data + ends[1] + blank


def numbered(number: int) -> Reading:
    return reading(number % 20, number, f"s{number // 20}")


def test_every_mix_of_line_ends_split_at_every_byte(
    ingestion: Ingestion, serve: Serve, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[bytes] = []
    count = 0
    for ends in product(ENDS, repeat=3):
        for cut in range(1, len(in_line_ends(9999, ends))):
            one = in_line_ends(count, ends)
            pieces += [piece for piece in (one[:cut], one[cut:]) if piece]
            count += 1
    fed: list[int] = []

    class Counted(EventStream):
        def feed(self, chunk: bytes) -> list[ServerSentEvent | RefusedEvent]:
            fed.append(len(chunk))
            return super().feed(chunk)

    monkeypatch.setattr(polling, "EventStream", Counted)
    poll_until(ingestion, serve(chunked(pieces)).url(), count)
    figures.settle(ingestion, map(numbered, range(count)), kept=0)
    cuts = set(accumulate(map(len, pieces)))
    assert cuts <= set(accumulate(fed)), "no two pieces came as one"


def test_one_byte_pieces(ingestion: Ingestion, serve: Serve, figures: Figures) -> None:
    raw = MARK + b"".join(in_line_ends(number, ends) for number, ends in enumerate(product(ENDS, repeat=3)))
    poll_until(ingestion, serve(chunked(raw[k : k + 1] for k in range(len(raw)))).url(), 27)
    figures.settle(ingestion, map(numbered, range(27)), kept=0)


def test_marks_and_bad_bytes(ingestion: Ingestion, serve: Serve, figures: Figures) -> None:
    good = event("0", 0)
    damaged = {
        b"mark in mid-stream": MARK + good.partition(b"\n")[2],  # no field by the rules, so no event
        b"sensor": event("1", 1, sensor_id="XX").replace(b"XX", b"b\xff"),
        b"sensor, cut": event("2", 2, sensor_id="XX").replace(b"XX", b"c\xe2\x82"),
        b"surrogate": event("3", 3, sensor_id="XX").replace(b"XX", b"\xed\xa0\x80"),
        b"overlong": event("4", 4, sensor_id="XX").replace(b"XX", b"\xc0\xaf"),
        b"time": event("5", 5).replace(b"2026", b"20\xb226"),
        b"number": event("6", 6).replace(b"4.0", b"4\xff0"),
        b"measure": event("7", 7).replace(b"temperature", b"temp\xe9rature"),
        b"brace": event("8", 8).replace(b"{", b"\xfe"),
    }
    noted = event("9", 9).replace(b'"values"', b'"note": "caf\xe9", "values"')
    last = b"id: \xff\n" + event("", 10).partition(b"\n")[2]
    poll_until(ingestion, serve(body(MARK, good, *damaged.values(), noted, last)).url(), 3)
    figures.settle(ingestion, [reading(0), reading(9), reading(10)], bad=len(damaged) + 2, kept=len(damaged) - 1)
    assert ingestion.cloud.sources.get("device").cursor == "\N{REPLACEMENT CHARACTER}"


def test_any_stream_is_read_by_the_rules(ingestion: Ingestion, serve: Serve, figures: Figures) -> None:
    """Three thousand lines that a seed chose, good and bad, in pieces of any size; the rules say what they are."""
    chance = random.Random(20260105)
    raw = b""
    for number in range(3_000):
        raw += chance.choice(
            [
                *[b"\n\n" + event(str(number), number % 20, number, f"s{number // 20}")] * 6,
                b"data: " + chance.randbytes(12),
                chance.randbytes(20),
                b"id: %d" % number,
                b"id: %d\0" % number,
                b"id",
                b"event: " + chance.randbytes(3),
                b"retry: 10",
                b": ping",
                MARK,
                b"data",
                b"data: {",
                b"",
            ]
        ) + chance.choice([*ENDS, b"\n\n", b"\r\r", b"\r\n\r\n"])
    pieces, at = [], 0
    while at < len(raw):
        pieces.append(raw[at : at + chance.choice([1, 2, 3, 17, 400, 5_000])])
        at += len(pieces[-1])
    sent: dict[tuple[str, datetime], Reading] = {}
    refused = set()
    source = ingestion.source("")
    raw += (the_end := b"\n\nid: the end\n\n")
    events, _, _ = reference(raw, 262_144)
    for _, data, event_id in events:
        try:
            one = source.mapping.read(data, NOON + 30 * MINUTE, NOON - timedelta(days=29))
        except RefusedReadingError:
            refused.add(data + event_id)
        else:
            sent[one.sensor_id, one.measured_at] = one
    assert len(refused) > 300
    assert len(sent) > 100
    poll_until(ingestion, serve(chunked([*pieces, the_end])).url(), cursor_is(ingestion, "the end"))
    figures.settle(ingestion, sent.values(), bad=len(refused), kept=len(refused))


def test_each_bad_event_is_kept_and_none_is_stored(ingestion: Ingestion, serve: Serve, figures: Figures) -> None:
    def like(**changed: object) -> str:
        whole = {"sensor_id": "a", "measured_at": "2026-01-05T12:01:00Z", "values": {"temperature": 4}}
        return json.dumps({**whole, **changed})

    no_ids: list[object] = [
        None,
        7,
        True,
        [],
        {},
        " ",
        " a",
        "a ",
        "\x7f",
        "\u202ea",
        "a\u200b",
        "#a",
        "x" * 129,
        "a\nb",
    ]
    no_ids += ["\ufeffa", "\u2028", "\ufffd"]
    no_times: list[object] = [None, 0, [], "", "now", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z"]
    no_times += ["2026-01-05T25:00:00Z", "9999-12-31T23:59:59-23:59", "0000-01-01T00Z"]
    no_values: list[object] = [None, 4, "4", [], {"": 4}, {"temperature": None}, {"temperature": [4]}]
    bad = [
        *BAD_EVENTS,
        *(like(sensor_id=one) for one in no_ids),
        *(like(measured_at=one) for one in no_times),
        *(like(values=one) for one in no_values),
        *(like(values={"temperature": 4, name: 1}) for name in ("Temperature", "temperature ", "x", "\ud800")),
        like(values={"temperature": 10**400}),
        '{"sensor_id":"a","measured_at":"2026-01-05T12:01:00Z","values":{"temperature":' + "9" * 5000 + "}}",
        '{"a":' * 50_000,
        "null",
        "[]",
        "0",
        "",
        " ",
        "\ufeff{}",
        "{} {}",
    ]
    sent = b"".join(f"id: bad-{number}\ndata: {raw}\n\n".encode() for number, raw in enumerate(bad))
    poll_until(ingestion, serve(body(event("first", 0), sent, event("last", 1))).url(), 2)
    # also the one whose data is empty: a data line there was
    figures.settle(ingestion, [reading(0), reading(1)], bad=len(bad), kept=len(bad))


# --- without end ---


def test_lines_of_64_mib_take_no_memory(ingestion: Ingestion, serve: Serve, figures: Figures) -> None:
    mebibyte = b"x" * 2**20
    lines = (b"data: ", b": ", b"id: ", b"retry: ", b"")

    def plain(client: Client) -> None:
        client.send(CLOSING)
        for number, start in enumerate(lines):
            client.send(b"id: long\n", start, *[mebibyte] * 64, b"\n\n", event(str(number), number))
        client.send(event("5", 5))
        client.hold()

    def zipped(client: Client) -> None:
        client.send(HEAD, b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n")
        packer = zlib.compressobj(9, wbits=31)
        client.send(packer.compress(b"data: "), *(packer.compress(mebibyte) for _ in range(64)))
        client.send(packer.compress(b"\n\n" + event("6", 6)), packer.flush(zlib.Z_SYNC_FLUSH))
        client.hold()

    tracemalloc.start()
    try:
        poll_until(ingestion, serve(plain).url(), 6, 60)
        poll_until(ingestion, serve(zipped).url(), 7, 60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20
    # the comment is none, the others are past the limit
    figures.settle(ingestion, [reading(minute) for minute in range(7)], bad=6, kept=5)


@pytest.mark.parametrize("comment", [b": ping\n", b":", b":\r\n\r\n"], ids=["many", "one", "with blank lines"])
def test_comments_without_end(ingestion: Ingestion, serve: Serve, figures: Figures, comment: bytes) -> None:
    flood = comment * 10_000

    def act(client: Client) -> None:
        client.send(CLOSING, event("1", 1))
        while not client.over.is_set():
            client.send(flood)

    began = time.monotonic()
    ingestion.poll(serve(act).url(), 1.0)
    assert time.monotonic() - began < 5
    figures.settle(ingestion, [reading(1)], bad=1, kept=0)
    assert ingestion.cloud.sources.get("device").cursor == "1"


# --- ids and retry ---


def test_ids_alone_and_ids_with_nul(ingestion: Ingestion, serve: Serve, figures: Figures) -> None:
    server = serve(
        body(event("1", 1), b"id: 2\n\n", hold=False),
        body(b"id: 3\0\n\n", b"id: 4\0\n" + event("", 2).partition(b"\n")[2], hold=False),
        body(b"id: 5", hold=False),  # no blank line: it never counts
        body(b"id\n\n", hold=False),
        body(event("6", 3)),
    )
    with_short_waits(ingestion, server.url(), 3)
    asked = [client.headers.get("last-event-id") for client in server.clients[:5]]
    assert asked == [None, "2", "2", "2", None]
    figures.settle(ingestion, [reading(1), reading(2), reading(3)], bad=3, kept=0)


def test_an_id_as_long_as_an_event_and_a_source_that_cannot_bear_it(
    ingestion: Ingestion, serve: Serve, figures: Figures
) -> None:
    def act(client: Client) -> None:
        if len(client.last_event_id) > 8_000:
            client.send(b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\n\r\n")
        else:
            client.send(CLOSING, event("x" * 100_000, 1), event("", 2).partition(b"\n")[2])
            client.hold()

    server = serve(act)
    poll_until(ingestion, server.url(), 2)
    with pytest.raises(SourceRefusedError):
        ingestion.poll(server.url(), poll_id="poll-2")
    ingestion.poll(server.url(), poll_id="poll-3")
    assert len(server.clients) == 3
    figures.settle(ingestion, [reading(1), reading(2)], bad=1, kept=0)


@contextmanager
def short_waits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(polling, "DEFAULT_RETRY_MS", 5)
        patch.setattr(polling, "SHORTEST_RETRY_MS", 5)
        yield


def with_short_waits(ingestion: Ingestion, url: str, happened: Callable[[], object] | int) -> None:
    with short_waits():
        poll_until(ingestion, url, happened)


@pytest.mark.parametrize(
    ("retry", "least", "most"),
    [
        (b"0", 2, 11),  # as often as ten times a second, and not as fast as it can
        (b"00000000000000000", 2, 11),
        (b"200", 2, 6),
        *((value, 1, 2) for value in (b"", b"-5", b"1.5", b"1e1", b"0x1", b"\xd9\xa1", b"5 ", b"5\0", b"9" * 5_000)),
        (b"999999999999999999", 1, 1),
    ],
    ids=lambda value: value[:8].decode("utf-8", "replace") if isinstance(value, bytes) else None,
)
def test_retry(ingestion: Ingestion, serve: Serve, figures: Figures, retry: bytes, least: int, most: int) -> None:
    server = serve(body(b"retry: " + retry + b"\n\n", event("1", 1), hold=False))
    began = time.monotonic()
    ingestion.poll(server.url(), 1.0)
    assert time.monotonic() - began < 3
    assert least <= len(server.clients) <= most
    figures.settle(ingestion, [reading(1)], bad=1, kept=0)


# --- ends, restarts, repeats ---


def test_the_last_event_cut_off_at_every_byte(ingestion: Ingestion, serve: Serve, figures: Figures) -> None:
    """However the stream ends: closed, torn, or in mid-chunk. It goes on after the last whole event."""
    whole = [event(str(number), number % 30, number, f"s{number // 30}") for number in range(100)]
    cuts = len(whole[99])

    def act(client: Client) -> None:
        number = int(client.last_event_id or -1) + 1
        if number >= 100:
            client.send(CLOSING)
            return client.hold()
        cut = number % cuts
        rest = whole[number + 1][:cut] if number + 1 < 100 else b""
        if number % 3 == 0:
            client.send(CLOSING, whole[number], rest)
        elif number % 3 == 1:
            client.send(CLOSING, whole[number], rest)
            time.sleep(0.02)
            client.tear()
        else:
            client.send(CHUNKED, b"%x\r\n%s\r\n" % (len(whole[number]), whole[number]), b"ff\r\n", rest)
        return None

    server = serve(act)
    with_short_waits(ingestion, server.url(), 100)
    assert server.connections >= 100
    figures.settle(ingestion, [reading(n % 30, n, f"s{n // 30}") for n in range(100)], bad=99, kept=0)


def test_a_server_that_restarts_is_met_again_in_the_same_poll(
    ingestion: Ingestion, serve: Serve, figures: Figures
) -> None:
    """It repeats nothing: what it says when it is back has to be heard."""
    first = serve(body(event("1", 1), event("2", 2)[:-10]))
    port = first.port
    poll = threading.Thread(target=with_short_waits, args=(ingestion, first.url(), 3))
    poll.start()
    until(lambda: ingestion.stored() == [reading(1)])
    first.close()
    time.sleep(0.3)  # nothing listens there
    second = serve(body(event("3", 3), event("4", 4)), port=port)
    poll.join()
    assert second.clients[0].last_event_id == "1"
    figures.settle(ingestion, [reading(1), reading(3), reading(4)], bad=1, kept=0)
    assert ingestion.cloud.sources.get("device").failures_in_a_row == 0


def test_a_server_that_does_not_come_back_is_told_of(ingestion: Ingestion, serve: Serve, figures: Figures) -> None:
    server = serve(body(event("1", 1), hold=True))

    def dies() -> None:
        until(ingestion.stored)
        server.close()

    death = threading.Thread(target=dies)
    death.start()
    with pytest.raises(SourceUnreachableError), short_waits():
        ingestion.poll(server.url(), 1.0)
    death.join()
    source = ingestion.cloud.sources.get("device")
    assert (source.failures_in_a_row, source.cursor) == (1, "1")
    figures.settle(ingestion, [reading(1)], bad=1, kept=0)


def test_repeats_and_a_server_that_goes_back_in_time(ingestion: Ingestion, serve: Serve, figures: Figures) -> None:
    def notation(form: Callable[[datetime], str], minute: int, value: float = 4.0) -> bytes:
        plain = format_time(NOON + minute * MINUTE).encode()
        return event(str(minute), minute, value).replace(plain, form(NOON + minute * MINUTE).encode())

    forms: list[Callable[[datetime], str]] = [
        format_time,
        lambda moment: moment.isoformat(),
        lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%S.999Z"),
        lambda moment: moment.astimezone(tz(5.5)).isoformat(),
        lambda moment: moment.astimezone(tz(-12)).isoformat(),
        lambda moment: moment.strftime("%Y%m%dT%H%M%SZ"),
        lambda moment: moment.strftime("%G-W%V-%uT%H:%M:%S+00:00"),
    ]
    again = [notation(form, minute) for form in forms for minute in range(20)]
    backwards = [event(str(minute), minute) for minute in range(29, 19, -1)]
    yesterday = [event(str(minute), minute) for minute in range(-1440, -1430)]
    corrected = [event("later", 5, 5.0), event("earlier id", 6, 6.0)]
    server = serve(
        body(*again, hold=False), body(*again, *backwards, hold=False), body(*yesterday, *backwards, *corrected)
    )
    with_short_waits(ingestion, server.url(), cursor_is(ingestion, "earlier id"))
    values = {5: 5.0, 6: 6.0}
    minutes = [*range(-1440, -1430), *range(30)]
    figures.settle(ingestion, [reading(minute, values.get(minute, 4.0)) for minute in minutes], bad=3, kept=0)


def tz(hours: float) -> timezone:
    return timezone(timedelta(hours=hours))


# --- gzip ---

GZIPPED = HEAD + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_gzip_in_every_shape(ingestion: Ingestion, serve: Serve, figures: Figures) -> None:
    def flushed(client: Client) -> None:
        """Each event is there as soon as it was sent, in pieces of one byte."""
        client.send(GZIPPED)
        packer = zlib.compressobj(wbits=31)
        for number in range(5):
            packed = packer.compress(event(str(number), number)) + packer.flush(zlib.Z_SYNC_FLUSH)
            client.chunks(packed[k : k + 1] for k in range(len(packed)))
            until(lambda number=number: ingestion.outcomes.counted.get("ReadingsStored", 0) > number)  # type: ignore[misc]

    def cut(client: Client) -> None:
        assert client.last_event_id == "4"
        client.send(GZIPPED)
        client.chunks([gzip.compress(event("5", 5) + event("6", 6))[:-30]], end=True)

    def members(client: Client) -> None:
        client.send(GZIPPED)
        client.chunks([gzip.compress(event("5", 5)) + gzip.compress(event("6", 6))], end=True)

    def damaged(client: Client) -> None:
        assert client.last_event_id == "6"
        client.send(GZIPPED)
        packed = bytearray(gzip.compress(event("7", 7) * 50))
        packed[12:40] = b"\xff" * 28
        client.chunks([bytes(packed)], end=True)

    def no_gzip(client: Client) -> None:
        client.send(GZIPPED)
        client.chunks([event("7", 7)], end=True)

    server = serve(flushed, cut, members, damaged, no_gzip, body(event("7", 7)))
    with_short_waits(ingestion, server.url(), 8)
    figures.settle(ingestion, [reading(minute) for minute in range(8)], bad=3, kept=0)


@pytest.mark.parametrize("encoding", [b"br", b"deflate", b"zstd", b"gzip, gzip", b"rot13"])
def test_an_encoding_that_nobody_asked_for(
    ingestion: Ingestion, serve: Serve, figures: Figures, encoding: bytes
) -> None:
    server = serve(body(event("1", 1), head=HEAD + b"Content-Encoding: " + encoding + b"\r\nConnection: close\r\n\r\n"))
    with pytest.raises(NotAnEventStreamError, match="only gzip was asked for"):
        ingestion.poll(server.url())
    assert server.clients[0].headers["accept-encoding"] == "gzip"
    figures.settle(ingestion, [], bad=1, kept=0)


# --- answers that are none ---

NO_ANSWERS = {
    "nothing": b"",
    "noise": b"\x00\xff\x16\x03\x01" * 100,
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "no version": b"HTTP/ 200 OK\r\n\r\n",
    "no number": b"HTTP/1.1 OK\r\n\r\n",
    "a long number": b"HTTP/1.1 20000 OK\r\n\r\n",
    "a negative number": b"HTTP/1.1 -200 OK\r\n\r\n",
    "an endless status": b"HTTP/1.1 200 " + b"x" * 100_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
    "a long header": HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
    "a page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n" + event("1", 1),
    "no type": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + event("1", 1),
    "nearly the type": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-streams\r\n\r\n" + event("1", 1),
    "another success": b"HTTP/1.1 206 Partial\r\nContent-Type: text/event-stream\r\n\r\n" + event("1", 1),
    "reset": b"HTTP/1.1 205 Reset\r\nContent-Type: text/event-stream\r\n\r\n" + event("1", 1),
    "an error with events": b"HTTP/1.1 500 Oh\r\nContent-Type: text/event-stream\r\n\r\n" + event("1", 1),
}


@pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=list(NO_ANSWERS))
def test_an_answer_that_is_no_stream(ingestion: Ingestion, serve: Serve, figures: Figures, answer: bytes) -> None:
    with pytest.raises(SourceError):
        ingestion.poll(serve(body(answer, head=b"", hold=False)).url())
    assert ingestion.cloud.sources.get("device").failures_in_a_row == 1
    figures.settle(ingestion, [], bad=1, kept=0)


BROKEN_BODIES = {
    "no size": b"zz\r\n",
    "a negative size": b"-5\r\nhello\r\n",
    "an endless size": b"1" * 100_000,
    "an endless extension": b"5;" + b"x" * 100_000,
    "a chunk that is longer": b"3\r\nhello\r\n",
    "a chunk that is shorter": b"ff\r\nhello\r\n",
    "no end of a chunk": b"5\r\nhello5\r\n",
    "endless trailers": b"0\r\n" + b"X: 1\r\n" * 1_000,
}


def test_bodies_that_break(ingestion: Ingestion, serve: Serve, figures: Figures) -> None:
    def broken(raw: bytes, number: int) -> Act:
        def act(client: Client) -> None:
            client.send(CHUNKED)
            client.chunks([event(str(number), number)])
            client.send(raw)

        return act

    acts = [broken(raw, number) for number, raw in enumerate(BROKEN_BODIES.values())]
    cut_off = body(head=HEAD, hold=False)  # among its headers
    with_short_waits(ingestion, serve(*acts, cut_off, body(event("8", 8))).url(), 9)
    figures.settle(ingestion, [reading(minute) for minute in range(9)], bad=len(BROKEN_BODIES) + 1, kept=0)


def test_204_and_back(ingestion: Ingestion, serve: Serve, figures: Figures) -> None:
    gone = b"HTTP/1.1 204 No Content\r\nContent-Type: text/event-stream\r\n\r\n"
    server = serve(body(event("1", 1), hold=False), body(head=gone, hold=False), body(event("2", 2)))
    with pytest.raises(SourceClosedError), short_waits():
        ingestion.poll(server.url(), 2.0)
    ingestion.set_clock(39)
    ingestion.poll(server.url(), poll_id="too early")
    assert len(server.clients) == 2
    ingestion.set_clock(40)
    ingestion.poll(server.url(), poll_id="back")
    assert server.clients[2].last_event_id == "1"
    figures.settle(ingestion, [reading(1), reading(2)], bad=1, kept=0)


# --- slow ---


def dripping(raw: bytes, again: bytes = b"") -> Act:
    def act(client: Client) -> None:
        client.send(*(bytes([byte]) for byte in raw), pause=0.02)
        while not client.over.is_set():
            client.send(*(bytes([byte]) for byte in again or b"x"), pause=0.02)

    return act


@pytest.mark.parametrize(
    "act",
    [
        dripping(b"HTTP/1.1 200 OK\r\nX-Slow: "),
        dripping(b"HTTP/1.1 200 "),
        dripping(b"", again=b"HTTP/1.1 100 Continue\r\n\r\n"),
        lambda client: client.hold(),
    ],
    ids=["a header", "a status", "continue", "nothing"],
)
def test_a_slow_answer_ends_in_time(
    ingestion: Ingestion, serve: Serve, figures: Figures, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(SourceUnreachableError):
        ingestion.poll(serve(act).url(), 20.0)
    assert time.monotonic() - began < 5
    assert ingestion.cloud.sources.get("device").failures_in_a_row == 1
    figures.settle(ingestion, [], bad=1, kept=0)


def test_a_slow_stream_is_read_to_its_end(
    ingestion: Ingestion, serve: Serve, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 0.5)

    def act(client: Client) -> None:
        client.send(CLOSING)
        client.send(*(bytes([byte]) for byte in event("1", 1)), pause=0.01)
        client.hold()

    poll_until(ingestion, serve(act).url(), 1)
    figures.settle(ingestion, [reading(1)], bad=1, kept=0)


# --- TLS and redirects ---


@dataclass
class Authority:
    """Who vouches for servers on loopback."""

    folder: Path

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {id(self)}")])
        self._made = 0
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        own = self._sign(self._name, self._key.public_key(), constraint)
        self.trusted = self.folder / f"{id(self)}.pem"
        self.trusted.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, name, key, x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def certify(self, *hosts: str) -> ssl.SSLContext:
        """What a server needs that these hosts' names belong to, with a key of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts
        ]
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        certificate = self._sign(name, key.public_key(), x509.SubjectAlternativeName(names))
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        self._made += 1
        path = self.folder / f"{id(self)}-{self._made}.pem"
        private = key.private_bytes(encoding, form, serialization.NoEncryption())
        path.write_bytes(private + certificate.public_bytes(encoding))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The one that the client trusts."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.trusted))
    return made


CREDENTIALS = "Bearer open-sesame"


@pytest.fixture
def with_credentials(ingestion: Ingestion) -> Ingestion:
    def connect(source: polling.SourceSetting, last_event_id: str) -> Connection:
        return Connection(ingestion.pool, source.url, last_event_id=last_event_id, authorization=CREDENTIALS)

    object.__setattr__(ingestion.poller, "connect", connect)
    return ingestion


def redirect(location: str, status: int = 302) -> Act:
    answer = f"HTTP/1.1 {status} Else\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode("latin-1", "replace")
    return body(answer, head=b"", hold=False)


def test_a_server_changes_its_certificate(
    with_credentials: Ingestion, serve: Serve, figures: Figures, authority: Authority, tmp_path: Path
) -> None:
    ingestion = with_credentials
    good, renewed, stranger = authority.certify("127.0.0.1"), authority.certify("127.0.0.1"), Authority(tmp_path)
    others = [stranger.certify("127.0.0.1"), authority.certify("localhost")]
    server = serve(
        body(event("1", 1), hold=False),
        body(event("2", 2)),
        tls=[good, renewed, *others, good],
    )
    with_short_waits(ingestion, server.url(), 2)
    assert [client.headers["authorization"] for client in server.clients] == [CREDENTIALS] * 2
    for poll_id in ("stranger", "for another host"):
        with pytest.raises(SourceUnreachableError, match="certificate verify failed"):
            ingestion.poll(server.url(), poll_id=poll_id)
    assert len(server.clients) == 2, "nobody is told anything who is not vouched for"
    assert ingestion.cloud.sources.get("device").failures_in_a_row == 2
    server.acts = [body(event("3", 3))]
    ingestion.poll(server.url(), poll_id="good")
    assert server.clients[2].last_event_id == "2"
    figures.settle(ingestion, [reading(minute) for minute in (1, 2, 3)], bad=2, kept=0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_and_credentials_stay_at_home(
    with_credentials: Ingestion, serve: Serve, figures: Figures, authority: Authority, status: int
) -> None:
    ingestion, tls = with_credentials, authority.certify("127.0.0.1", "localhost")
    other = serve(body(event("1", 1)), tls=[tls])
    home = serve(redirect("/else", status), redirect(other.url("localhost"), status), tls=[tls])
    poll_until(ingestion, home.url(), 1)
    assert [client.headers.get("authorization") for client in home.clients] == [CREDENTIALS] * 2
    (guest,) = other.clients
    assert guest.headers["host"] == f"localhost:{other.port}"
    assert CREDENTIALS not in guest.headers.values()
    figures.settle(ingestion, [reading(1)], bad=2, kept=0)


def test_credentials_that_were_left_at_home_are_not_fetched_again(
    with_credentials: Ingestion, serve: Serve, figures: Figures, authority: Authority
) -> None:
    ingestion, tls = with_credentials, authority.certify("127.0.0.1", "localhost")
    home = serve(body(event("1", 1)), tls=[tls])
    other = serve(redirect(home.url()), tls=[tls])
    # the same name on another port is another server
    for count, first in enumerate([other.url("localhost"), other.url()], 1):
        home.acts = [redirect(first), body(event(str(count), count))]
        poll_until(ingestion, home.url(), count)
    asked = [client.headers.get("authorization") for client in home.clients]
    assert asked == [CREDENTIALS, None, CREDENTIALS, None]
    assert [client.headers.get("authorization") for client in other.clients] == [None, None]
    figures.settle(ingestion, [reading(1), reading(2)], bad=4, kept=0)


BAD_LOCATIONS = [
    "",
    "/events",
    "//",
    "https://",
    "https:///events",
    "http://localhost/events",
    "ftp://127.0.0.1/",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "data:text/event-stream,data: 1",
    "https://[::1",
    "https://127.0.0.1:99999/",
    "https://127.0.0.1:port/",
    "https://127.0.0.1:1/",
    "https://\x7f/",
    "https://a b/",
    "https://\xff\xfe/",
    "https://" + "a" * 300 + "/",
    "https://user:password@127.0.0.1:1/",
]


@pytest.mark.parametrize("location", BAD_LOCATIONS, ids=lambda location: ascii(location)[:24])
def test_a_redirect_to_nowhere_is_the_health_of_the_source(
    with_credentials: Ingestion, serve: Serve, figures: Figures, location: str
) -> None:
    server = serve(redirect(location))
    with pytest.raises(SourceError) as raised:
        with_credentials.poll(server.url())
    assert len(server.clients) == 1, "plain HTTP is not followed, not even home"
    assert CREDENTIALS not in str(raised.value)
    assert with_credentials.cloud.sources.get("device").failures_in_a_row == 1
    figures.settle(with_credentials, [], bad=1, kept=0)


def test_redirects_without_end_and_down_to_http(
    with_credentials: Ingestion, serve: Serve, figures: Figures, authority: Authority
) -> None:
    plain = serve(body(event("1", 1)))
    tls = [authority.certify("127.0.0.1")]
    for home, asked in ((serve(redirect("/events"), tls=tls), 6), (serve(redirect(plain.url()), tls=tls), 1)):
        with pytest.raises(SourceRefusedError, match="answered 302: redirects are followed by https only"):
            with_credentials.poll(home.url())
        assert len(home.clients) == asked
    assert plain.connections == 0
    figures.settle(with_credentials, [], bad=2, kept=0)
