"""The device API of a laptop: an HTTP server on loopback that streams a readings file as server-sent events.

`GET /events` is one stream of all sensors, for any number of clients at once. A reading is released when the clock
shows its `measured_at`, so a stopped clock holds the stream and a fast one hurries it; what is past already when a
client connects comes at once.

    retry: 1000

    id: 0
    data: {"sensor_id":"unit-1","measured_at":"2026-01-05T00:00:00Z","values":{"temperature":4.1}}

    : heartbeat

The id is a reading's position in the file. A client that sends `Last-Event-ID` goes on after it; one that sends none,
or an id that this device has not given out, starts at the beginning. A device does not hang up: when every reading is
sent, heartbeats follow. `GET /health` counts, as JSON: readings released and in all, events sent, clients connected.
"""

import hmac
import json
import socket
import socketserver
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import click

from lambdas.runtime.clock import Clock, ClockFace, FileClock
from overcut.sensors.readings import Reading, RefusedReadingError, format_time, parse_time
from workbench.readings_files import ReadingsFileError, read_readings

LOOPBACK = "127.0.0.1"
# where config/local.toml looks for it
PORT = 8808
# one write holds many events: a write for each would cost more than the events
EVENTS_A_WRITE = 500
RETRY_MILLISECONDS = 1000
FASTEST = 1_000_000.0
# how often a stream that has nothing to send looks at the clock, in seconds
_TICK = 0.05
# a client that takes nothing for so long, in seconds, is given up
_STALLED = 60.0
_STOP_GRACE = 2.0


class Tape:
    """The readings in order of time, as numbered events: what is released when, and how it is written.

    Args:
        readings: in any order.
        loop: begin again after the last one, moved on in time and numbered on.
    """

    def __init__(self, readings: Iterable[Reading], *, loop: bool = False) -> None:
        self._readings = sorted(readings, key=lambda reading: (reading.measured_at, reading.sensor_id))
        self._times = [reading.measured_at for reading in self._readings]
        self._round = _span(self._times) if loop and self._readings else None

    def __len__(self) -> int:
        return len(self._readings)

    def released(self, now: datetime) -> int:
        """How many events are released at `now`; the next one has this number as its id."""
        if self._round is None or now < self._times[0]:
            return bisect_right(self._times, now)
        rounds = (now - self._times[0]) // self._round
        return rounds * len(self) + bisect_right(self._times, now - rounds * self._round)

    def event(self, position: int) -> bytes:
        """The event at `position`, counted from 0, with the blank line that ends it."""
        rounds, index = divmod(position, len(self))
        reading = self._readings[index]
        moved = timedelta() if self._round is None else rounds * self._round
        data = {
            "sensor_id": reading.sensor_id,
            "measured_at": format_time(reading.measured_at + moved),
            "values": dict(reading.values),
        }
        return f"id: {position}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()

    def position_after(self, last_event_id: str | None, released: int) -> int:
        """Where a client goes on that has seen `last_event_id`: the beginning, unless that id was released."""
        # a short run of digits, or int() would read other scripts' digits and choke on thousands of them
        if last_event_id is None or not last_event_id.isascii() or not last_event_id.isdigit():
            return 0
        if len(last_event_id) > len(str(released)) or int(last_event_id) >= released:
            return 0
        return int(last_event_id) + 1


def _span(times: list[datetime]) -> timedelta:
    """From the first reading to the first of the next round: the span, and one step more."""
    steps = [later - earlier for earlier, later in pairwise(times) if later > earlier]
    return times[-1] - times[0] + min(steps, default=timedelta(minutes=1))


class Device:
    """A device API in threads of its own, from `start` to `stop`, or as a context manager.

    Args:
        readings: what it measured, in any order.
        clock: a reading is released when this shows its `measured_at`; it may be set while the device runs.
        port: 0 takes any that is free.
        host: the address to listen on.
        credentials: with them, `/events` answers 401 unless a request has `Authorization: Bearer <credentials>`.
        heartbeat_seconds: a comment is sent when nothing else was for so long, in the machine's own time.
        loop: begin again after the last reading, moved on in time.
    """

    def __init__(
        self,
        readings: Iterable[Reading],
        clock: Clock,
        port: int = 0,
        *,
        host: str = LOOPBACK,
        credentials: str | None = None,
        heartbeat_seconds: float = 5.0,
        loop: bool = False,
    ) -> None:
        self.tape = Tape(readings, loop=loop)
        self.clock = clock
        self.credentials = credentials
        self.heartbeat_seconds = heartbeat_seconds
        self.stopping = threading.Event()
        self._address = (host, port)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._sent = 0
        self._clients = 0

    def start(self) -> None:
        """Listen and serve.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._server = _Server(self._address, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_TICK,), name="device", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End every stream, close every connection and stop listening; again, it does nothing."""
        if self._server is None or self._thread is None or self.stopping.is_set():
            return
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_connections(within=_STOP_GRACE)
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the events are; the device must have been started."""
        return f"{self._base()}/events"

    @property
    def health_url(self) -> str:
        """Where the counts are; the device must have been started."""
        return f"{self._base()}/health"

    def health(self) -> dict[str, int]:
        """How many readings are released and in all, events were sent, clients are connected to `/events`."""
        released = self.tape.released(self.clock.now())
        with self._lock:
            return {"released": released, "total": len(self.tape), "sent": self._sent, "clients": self._clients}

    def count(self, *, sent: int = 0, clients: int = 0) -> None:
        """Add to the counts."""
        with self._lock:
            self._sent += sent
            self._clients += clients

    def _base(self) -> str:
        if self._server is None:
            raise RuntimeError("the device was not started: it has no address yet")
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], device: Device) -> None:
        self.device = device
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer would look its own name up, which takes seconds where no name server answers
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def close_connections(self, *, within: float) -> None:
        """Let every connection end by itself, then end those that have not within half of `within` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._connections, within / 2)
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
            self._changed.wait_for(lambda: not self._connections, within / 2)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "OvercutDevice"
    disable_nagle_algorithm = True
    timeout = _STALLED
    _chunked = False

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/events":
            self._events()
        elif path == "/health":
            self._json(HTTPStatus.OK, self.server.device.health())
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": "this device has /events and /health"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives
        """Requests are not logged."""

    def _json(self, status: HTTPStatus, body: dict[str, Any], **headers: str) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def _events(self) -> None:
        device = self.server.device
        if not self._is_allowed(device.credentials):
            self._json(
                HTTPStatus.UNAUTHORIZED, {"error": "credentials are missing or wrong"}, WWW_Authenticate="Bearer"
            )
            return
        position = device.tape.position_after(
            self.headers.get("Last-Event-ID"), device.tape.released(device.clock.now())
        )
        # an HTTP/1.0 client knows no chunks: for it the stream ends with the connection
        self._chunked = self.request_version == "HTTP/1.1"
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        if self._chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        device.count(clients=1)
        try:
            self._stream(device, position)
        finally:
            device.count(clients=-1)

    def _is_allowed(self, credentials: str | None) -> bool:
        if credentials is None:
            return True
        given = self.headers.get("Authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {credentials}".encode())

    def _stream(self, device: Device, position: int) -> None:
        self._write(f"retry: {RETRY_MILLISECONDS}\n\n".encode())
        written = time.monotonic()
        while not device.stopping.is_set():
            end = min(device.tape.released(device.clock.now()), position + EVENTS_A_WRITE)
            if end > position:
                self._write(b"".join(map(device.tape.event, range(position, end))))
                device.count(sent=end - position)
                position, written = end, time.monotonic()
            elif time.monotonic() - written >= device.heartbeat_seconds:
                self._write(b": heartbeat\n\n")
                written = time.monotonic()
            else:
                device.stopping.wait(min(_TICK, device.heartbeat_seconds))
        if self._chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        self.wfile.write(b"%X\r\n%b\r\n" % (len(data), data) if self._chunked else data)


class _UntilNow(FileClock):
    """A clock that is ahead of nobody: no device sends what it is yet to measure."""

    def now(self) -> datetime:
        return min(super().now(), datetime.now(UTC))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--speed", type=float, default=None, help="Clock seconds a second of the machine.  [default: 60]")
@click.option("--start", "start_text", metavar="TIME", default=None, help="What the clock shows at first.")
@click.option("--clock", "clock_path", type=click.Path(path_type=Path), default=None, help="Follow this clock file.")
@click.option("--loop", is_flag=True, help="Begin again after the last reading, moved on in time.")
@click.option("--measure", "measures", multiple=True, help="A measure to send; all without it.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 takes any that is free."
)
@click.option("--host", default=LOOPBACK, show_default=True, help="The address to listen on.")
@click.option("--heartbeat", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Seconds of silence.")
def replay(
    file: Path,
    speed: float | None,
    start_text: str | None,
    clock_path: Path | None,
    loop: bool,
    measures: tuple[str, ...],
    port: int,
    host: str,
    heartbeat: float,
) -> None:
    """Stream the readings of FILE as a device does.

    Server-sent events are at /events, which goes on after the Last-Event-ID that a client sends; counts are at /health.

    A reading is sent when the clock shows its time. The clock starts at the first reading, unless --start names
    another time; what lies before it is sent at once. When it has caught up with the present, it goes on with that.
    """
    if clock_path is not None and (speed is not None or start_text is not None):
        raise click.ClickException("--clock brings its own time and speed: leave out --speed and --start")
    if speed is not None and not 0 < speed <= FASTEST:
        raise click.ClickException(f"--speed is a number above 0, at most {FASTEST:,.0f}: not {speed}")
    click.echo(f"Reading {file}")
    try:
        content = read_readings(file, measures=measures or None)
        start = content.readings[0].measured_at if start_text is None else parse_time(start_text)
    except ReadingsFileError as error:
        raise click.ClickException(str(error)) from error
    except RefusedReadingError as error:
        raise click.ClickException(
            f"--start is no time with a zone, such as 2026-01-05T00:00:00Z: {start_text}"
        ) from error

    with tempfile.TemporaryDirectory(prefix="overcut-") as folder:
        if clock_path is not None:
            clock = FileClock(clock_path)
        else:
            clock = (_UntilNow if start <= datetime.now(UTC) else FileClock)(Path(folder) / "clock.json")
            clock.set(_face(start, wall=time.time(), speed=60.0 if speed is None else speed))
        device = Device(content.readings, clock, port, host=host, heartbeat_seconds=heartbeat, loop=loop)
        try:
            device.start()
        except OSError as error:
            reason = error.strerror or error
            raise click.ClickException(
                f"cannot listen on {host}, port {port}: {reason}; choose another --port, 0 takes any"
            ) from error
        try:
            for repair in content.repairs:
                click.echo(f"{file}: {repair}")
            sensors = len({reading.sensor_id for reading in content.readings})
            click.echo(f"{len(content.readings):,} readings of {sensors} {'sensor' if sensors == 1 else 'sensors'}")
            click.echo(device.url)
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("stopped")
        finally:
            device.stop()


def _face(start: datetime, *, wall: float, speed: float) -> ClockFace:
    origin = start.astimezone(UTC).timestamp()
    return ClockFace(origin=origin, wall=wall, speed=speed, ttl_offset=wall - origin)
