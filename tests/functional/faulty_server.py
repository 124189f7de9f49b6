"""A server on loopback that answers as it is told to, and now and then fails as servers do."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, Mapping[str, str], bytes]
# method, path, headers in lower case, body
Respond = Callable[[str, str, dict[str, str], bytes], Answer]


class Fault(Enum):
    """What becomes of a request.

    SILENT: nothing is done, and nothing answered. LATE: it is done, and answered when nobody listens any more.
    RESET: nothing is done, and the connection is torn.
    """

    SILENT = "silent"
    LATE = "late"
    RESET = "reset"


@dataclass
class FaultyServer:
    """A running server.

    Attributes:
        faults: what becomes of the next requests, one each: a fault, an answer to give instead, or None.
        requests: how many came.
    """

    url: str
    respond: Respond
    faults: list[Fault | Answer | None] = field(default_factory=list)
    requests: int = 0
    closing: threading.Event = field(default_factory=threading.Event)


@contextmanager
def faulty_server(
    respond: Respond, slow_seconds: float = 2.0, tls: ssl.SSLContext | None = None
) -> Iterator[FaultyServer]:
    """Serve on a free port.

    Args:
        slow_seconds: how long a silent or late answer takes; longer than the client waits.
    """
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with one_at_a_time:
                told.requests += 1
                fault = told.faults.pop(0) if told.faults else None
                if isinstance(fault, tuple):
                    answer = fault
                elif fault in (Fault.SILENT, Fault.RESET):
                    answer = (500, {}, b"")
                else:
                    answer = told.respond(self.command, self.path, headers, body)
            if fault is Fault.RESET:
                # no lingering: what is in flight is torn
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            if isinstance(fault, Fault):
                told.closing.wait(slow_seconds)
            status, answered, content = answer
            self.send_response(status)
            for name, value in answered.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives
            """Requests are not logged."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has gone is what some tests want."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        # the handshake is made where the request is read, so that a client without trust holds up nobody
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    told = FaultyServer(f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}", respond)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield told
    finally:
        told.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
