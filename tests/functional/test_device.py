"""The device API over real loopback sockets: release by the clock, resumption, heartbeats, many clients, speed."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from lambdas.runtime.clock import ClockFace, FileClock
from overcut.sensors.readings import Reading
from stacks.stage import read_stage
from workbench.device import Device, Tape, replay
from workbench.readings_files import write_readings

START = datetime(2021, 6, 10, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def readings(minutes: int, sensors: int = 2) -> list[Reading]:
    """So many minutes of sensors `s0`, `s1` and so on; the value tells minute and sensor."""
    return [
        Reading(f"s{sensor}", START + minute * MINUTE, {"temperature": minute + sensor / 10})
        for minute in range(minutes)
        for sensor in range(sensors)
    ]


class Client:
    """One connection to `/events`, read event by event by the plain rules of the format."""

    def __init__(self, device: Device, **headers: str) -> None:
        address = urlsplit(device.url)
        self.connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=5)
        self.connection.request(
            "GET", address.path, headers={name.replace("_", "-"): it for name, it in headers.items()}
        )
        self.response = self.connection.getresponse()

    def block(self) -> list[str]:
        """The lines up to the next blank one; an empty list where the stream ends."""
        lines: list[str] = []
        while line := self.response.readline().decode():
            assert line.endswith("\n")
            if line == "\n":
                return lines
            lines.append(line[:-1])
        assert lines == []
        return []

    def event(self) -> tuple[str, Any]:
        """The id and the JSON value of the next event; comments and `retry` are passed over."""
        until = time.monotonic() + 5
        while (lines := self.block()) and time.monotonic() < until:
            if lines[0].startswith("id: "):
                assert [line.partition(": ")[0] for line in lines] == ["id", "data"]
                return lines[0][4:], json.loads(lines[1][6:])
        raise AssertionError("the stream ended, or had no event for five seconds")

    def ids(self, count: int) -> list[int]:
        return [int(self.event()[0]) for _ in range(count)]

    def close(self) -> None:
        self.response.close()
        self.connection.close()


@pytest.fixture
def clock(tmp_path: Path) -> FileClock:
    clock = FileClock(tmp_path / "clock.json")
    show(clock, START - MINUTE)
    return clock


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def one(device: Device, **headers: str) -> Client:
        clients.append(Client(device, **headers))
        return clients[-1]

    yield one
    for client in clients:
        client.close()


def show(clock: FileClock, moment: datetime, speed: float = 0.0) -> None:
    clock.set(ClockFace(origin=moment.timestamp(), wall=time.time(), speed=speed, ttl_offset=0.0))


def eventually(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + 5
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    return holds()


Connect = Callable[..., Client]


def test_the_stream_is_these_bytes(clock: FileClock) -> None:
    show(clock, START)
    device = Device([Reading("unit-1", START, {"temperature": 4.1, "pressure": 9.0})], clock, heartbeat_seconds=0.1)
    with device:
        address = urlsplit(device.url)
        with socket.create_connection((str(address.hostname), address.port or 0), timeout=5) as connection:
            connection.sendall(b"GET /events HTTP/1.1\r\nHost: device\r\n\r\n")
            received = b""
            while b": heartbeat" not in received:
                part = connection.recv(4096)
                received += part
                assert part, f"the stream ended: {received!r}"
                assert len(received) < 1000, f"no heartbeat: {received!r}"
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    for header in (b"Content-Type: text/event-stream", b"Cache-Control: no-store", b"Transfer-Encoding: chunked"):
        assert header in head.split(b"\r\n")
    data = b'{"sensor_id":"unit-1","measured_at":"2021-06-10T12:00:00Z","values":{"temperature":4.1,"pressure":9.0}}'
    event = b"id: 0\ndata: " + data + b"\n\n"
    chunks = [b"retry: 1000\n\n", event, b": heartbeat\n\n"]
    assert body == b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


def test_a_reading_is_released_when_the_clock_shows_its_time(clock: FileClock, connect: Connect) -> None:
    with Device(readings(10), clock, heartbeat_seconds=0.15) as device:
        client = connect(device)
        assert client.block() == ["retry: 1000"]
        assert client.block() == [": heartbeat"]  # the clock is stopped before the first
        show(clock, START + 2 * MINUTE)
        assert [client.event() for _ in range(6)] == [
            (str(2 * minute + sensor), {"sensor_id": f"s{sensor}", "measured_at": f"2021-06-10T12:0{minute}:00Z",
             "values": {"temperature": minute + sensor / 10}})
            for minute in range(3) for sensor in range(2)
        ]  # fmt: skip
        assert client.block() == [": heartbeat"]
        assert device.health() == {"released": 6, "total": 20, "sent": 6, "clients": 1}
        show(clock, START + 2 * MINUTE + timedelta(seconds=59))
        assert client.block() == [": heartbeat"]
        show(clock, START + 3 * MINUTE)
        assert client.ids(2) == [6, 7]


def test_a_fast_clock_hurries_the_stream(clock: FileClock, connect: Connect) -> None:
    with Device(readings(60, sensors=1), clock) as device:
        client = connect(device)
        began = time.monotonic()
        show(clock, START, speed=6000.0)  # an hour in 0.6 seconds
        assert client.ids(60) == list(range(60))
        assert 0.55 < time.monotonic() - began < 3


def test_when_all_is_sent_the_stream_stays_open(clock: FileClock, connect: Connect) -> None:
    show(clock, START + timedelta(days=1))
    with Device(readings(1), clock, heartbeat_seconds=0.1) as device:
        client = connect(device)
        assert client.ids(2) == [0, 1]
        assert [client.block() for _ in range(3)] == [[": heartbeat"]] * 3


@pytest.mark.parametrize(
    ("last_event_id", "first"),
    [("0", 1), ("7", 8), ("18", 19), ("19", None), ("20", 0), ("-1", 0), ("x", 0), ("", 0), ("٣", 0), ("9" * 5000, 0)],
)
def test_a_client_goes_on_after_the_id_it_gives(
    last_event_id: str, first: int | None, clock: FileClock, connect: Connect
) -> None:
    """An id that was never given out, such as that of a reading not yet released, starts at the beginning."""
    show(clock, START + 9 * MINUTE)  # 20 of 40 are released
    with Device(readings(20), clock, heartbeat_seconds=0.1) as device:
        client = connect(device, Last_Event_ID=last_event_id.encode().decode("latin-1"))
        if first is None:
            assert client.block() == ["retry: 1000"]
            assert client.block() == [": heartbeat"]
        else:
            assert client.ids(1) == [first]


def test_several_clients_have_the_whole_stream_each(clock: FileClock, connect: Connect) -> None:
    show(clock, START + timedelta(days=1))
    with Device(readings(50), clock) as device:
        clients = [connect(device) for _ in range(5)]
        assert [client.ids(100) for client in clients] == [list(range(100))] * 5
        assert device.health()["clients"] == 5
        assert eventually(lambda: device.health()["sent"] == 500)


def test_a_client_that_leaves_is_forgotten_in_silence(
    clock: FileClock, connect: Connect, capfd: pytest.CaptureFixture[str]
) -> None:
    show(clock, START + timedelta(days=1))
    with Device(readings(200, sensors=50), clock, heartbeat_seconds=0.05) as device:
        leaving, staying = connect(device), connect(device)
        leaving.ids(1)
        leaving.close()
        assert eventually(lambda: device.health()["clients"] == 1)
        assert staying.ids(10_000)[-1] == 9_999
    assert capfd.readouterr() == ("", "")


def test_stop_ends_the_streams_in_order_and_frees_the_port(clock: FileClock, connect: Connect) -> None:
    show(clock, START + timedelta(days=1))
    before = threading.active_count()
    device = Device(readings(1), clock)
    device.start()
    client = connect(device)
    client.ids(2)
    began = time.monotonic()
    device.stop()
    device.stop()
    assert time.monotonic() - began < 1.5
    assert client.response.read() == b""  # the last chunk came: http.client raises IncompleteRead without it
    assert eventually(lambda: threading.active_count() == before)
    port = urlsplit(device.url).port or 0
    with Device(readings(1), clock, port=port) as again:
        assert urlsplit(again.url).port == port


def test_credentials_are_asked_for_where_they_are_set(clock: FileClock, connect: Connect) -> None:
    show(clock, START)
    with Device(readings(1), clock, credentials="s3cret") as device:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            refused = connect(device, **headers)
            assert refused.response.status == 401
            assert refused.response.getheader("WWW-Authenticate") == "Bearer"
        assert connect(device, Authorization="Bearer s3cret").ids(1) == [0]


def test_health_and_unknown_paths_answer_json(clock: FileClock) -> None:
    show(clock, START)
    with Device(readings(3), clock) as device:
        address = urlsplit(device.health_url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=5)
        answers = []
        for path in (address.path, "/"):  # on one connection, kept alive
            connection.request("GET", path)
            response = connection.getresponse()
            answers.append((response.status, json.loads(response.read())))
        connection.close()
    assert answers == [
        (200, {"released": 2, "total": 6, "sent": 0, "clients": 0}),
        (404, {"error": "this device has /events and /health"}),
    ]


def test_a_loop_moves_on_in_time_and_in_ids() -> None:
    tape = Tape(readings(3, sensors=1), loop=True)
    assert [tape.released(START + minute * MINUTE) for minute in (-1, 0, 2, 3, 5, 6, 300)] == [0, 1, 3, 4, 6, 7, 301]
    assert tape.event(4).startswith(b'id: 4\ndata: {"sensor_id":"s0","measured_at":"2021-06-10T12:04:00Z"')
    assert b'"values":{"temperature":1.0}' in tape.event(4)
    assert Tape(readings(3, sensors=1)).released(START + 300 * MINUTE) == 3
    assert Tape([], loop=True).released(START) == 0


def test_a_backlog_flows_at_five_thousand_events_a_second_and_more(clock: FileClock) -> None:
    show(clock, START + timedelta(days=1))
    count = 20_000
    with Device(readings(200, sensors=100), clock) as device:
        address = urlsplit(device.url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=5)
        connection.request("GET", address.path)
        response = connection.getresponse()
        began, seen = time.monotonic(), 0
        while seen < count:
            seen += response.read1(1 << 16).count(b"}}\n\n")
        assert count / (time.monotonic() - began) > 5000
        response.close()
        connection.close()


def replayed(path: Path, *options: str) -> tuple[list[str], str | None, dict[str, int]]:
    """What `overcut replay` of a file tells, where it listens, and its health; it ends as Ctrl-C ends it."""
    command = [
        sys.executable,
        "-c",
        "from workbench.device import replay; replay()",
        str(path),
        *options,
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            *told, url = (process.stdout.readline() for _ in range(3))
            address = urlsplit(url.strip())
            time.sleep(0.2)
            connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=5)
            connection.request("GET", "/health")
            health = json.loads(connection.getresponse().read())
            connection.close()
        finally:
            process.send_signal(2)
        assert process.wait(timeout=10) == 0
    return told, address.hostname, health


def test_replay_streams_a_file_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "fleet.csv.gz"
    write_readings(path, readings(30))
    told, host, health = replayed(path, "--speed", "0.001", "--start", "2021-06-10T12:04:30Z")
    assert told == [f"Reading {path}\n", "60 readings of 2 sensors\n"]
    assert host == "127.0.0.1"
    assert (health["released"], health["total"]) == (10, 60)


def test_replay_catches_up_with_the_present_and_sends_nothing_of_the_future(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    path = tmp_path / "fleet.csv.gz"
    write_readings(path, [Reading("a", now + timedelta(minutes=k), {"temperature": 4.0}) for k in range(-30, 30)])
    _, _, health = replayed(path, "--speed", "1000000")
    # half an hour of the past, the present minute, and the next where one has begun meanwhile
    assert health["released"] in {31, 32}


def test_replay_serves_where_the_local_stage_looks_for_it() -> None:
    (port,) = (option for option in replay.params if option.name == "port")
    source = read_stage("local").with_sensors().sensors.sources["device"]
    assert source.url == f"http://127.0.0.1:{port.default}/events"


def test_replay_leaves_nothing_behind_when_it_is_told_to_end(tmp_path: Path) -> None:
    path, temporary = tmp_path / "fleet.csv", tmp_path / "temporary"
    temporary.mkdir()
    write_readings(path, readings(2))
    overcut = Path(sys.executable).with_name("overcut")
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen([overcut, "replay", path, "--port", "0"], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(b"http"):
            pass
        process.terminate()
        assert process.wait(timeout=10) == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.csv"], "none.csv does not exist"),
        (["fleet.csv", "--measure", "humidity"], "has no measure 'humidity'; it has temperature"),
        (["fleet.csv", "--speed", "nan"], "--speed is a number above 0"),
        (["fleet.csv", "--speed", "0"], "--speed is a number above 0"),
        (["fleet.csv", "--start", "noon"], "--start is no time with a zone"),
        (["fleet.csv", "--speed", "2", "--clock", "clock.json"], "leave out --speed and --start"),
        (["fleet.csv", "--port", "{taken}"], "cannot listen on 127.0.0.1, port"),
    ],
)
def test_replay_refuses_in_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_readings(Path("fleet.csv"), readings(1))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = CliRunner().invoke(replay, [argument.format(taken=port) for argument in arguments])
    assert ran.exit_code == 1
    assert ran.stderr.startswith("Error: ")
    assert says in ran.stderr
    assert ran.stderr.count("\n") == 1
