"""One connection to a source's stream: bytes come in a thread of their own, so that a quiet stream never blocks."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urljoin, urlsplit

import urllib3

from overcut.sensors.server_sent_events import (
    CONTENT_TYPE,
    NotAnEventStreamError,
    SourceError,
    SourceRefusedError,
    check_response,
)

CONNECT_SECONDS = 10.0
# until the status and headers have come; a stream itself may be quiet for as long as it likes
ANSWER_SECONDS = 20.0
CHUNK_BYTES = 64 * 1024
# what may wait to be parsed: 2 MiB, then the thread stops reading and the source's own buffers fill
WAITING_CHUNKS = 32
MOST_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_ENCODINGS = {"", "identity", "gzip", "x-gzip"}


class SourceUnreachableError(SourceError):
    """No answer: the host is unknown, refuses, times out, or broke off."""


class _PatientConnection(urllib3.connection.HTTPConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # urllib3's own override
        sock = self.sock
        # a source that sends its answer byte by byte never keeps a read waiting for long
        late = threading.Event()
        hang_up = threading.Timer(ANSWER_SECONDS, _hang_up, [sock, late])
        hang_up.start()
        response = None
        try:
            response = super().getresponse()
        finally:
            hang_up.cancel()
            if late.is_set():
                if response:  # what was cut off may look like a whole answer
                    response.close()
                raise TimeoutError(f"no whole answer in {ANSWER_SECONDS:.0f} seconds")
        sock.settimeout(None)
        return response


def _hang_up(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):
        # the connection below TLS: who reads meets its end
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _PatientTlsConnection(_PatientConnection, urllib3.connection.HTTPSConnection):
    """The same, over TLS."""


class _PatientPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PatientConnection


class _PatientTlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _PatientTlsConnection


def stream_pool() -> urllib3.PoolManager:
    """A pool whose read timeout counts until a source has answered, and no longer."""
    pool = urllib3.PoolManager()
    pool.pool_classes_by_scheme = {"http": _PatientPool, "https": _PatientTlsPool}
    return pool


class Connection:
    """An open stream of a source.

    Args:
        pool: made by `stream_pool`.

    Raises:
        SourceError: it could not be opened; the text says what to do.
    """

    def __init__(self, pool: urllib3.PoolManager, url: str, *, last_event_id: str, authorization: str = "") -> None:
        headers: dict[str, str] = {"Accept": CONTENT_TYPE, "Cache-Control": "no-store", "Accept-Encoding": "gzip"}
        if last_event_id:
            # ids are UTF-8 on the wire, while http.client takes a text's characters for bytes
            headers["Last-Event-ID"] = last_event_id.encode().decode("latin-1")
        if authorization:
            # http.client would put a value that is no header into its error, and so into the log
            if not (authorization.isascii() and authorization.isprintable()):
                raise SourceError("its secret is not a header's value: it holds a line end or a character beyond ASCII")
            headers["Authorization"] = authorization
        self._response = _answer(pool, url, headers)
        try:
            check_response(self._response.status, self._response.headers.get("Content-Type"))
            encoding = self._response.headers.get("Content-Encoding", "").strip().lower()
            if encoding not in _ENCODINGS:
                raise NotAnEventStreamError(f"answered in the encoding {encoding:.40}; only gzip was asked for")
        except SourceError:
            self._response.close()
            raise
        self._chunks: queue.Queue[bytes | SourceUnreachableError] = queue.Queue(WAITING_CHUNKS)
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="source-stream", daemon=True)
        self._thread.start()

    def chunk(self, timeout: float) -> bytes | None:
        """The next bytes; empty when the source ended the stream; None when nothing came for `timeout` seconds.

        Raises:
            SourceUnreachableError: the connection broke.
        """
        try:
            chunk = self._chunks.get(timeout=max(timeout, 0.001))
        except queue.Empty:
            return None
        if isinstance(chunk, SourceUnreachableError):
            raise chunk
        return chunk

    def close(self) -> None:
        """End the connection and its thread. May be called twice."""
        self._closed = True
        with suppress(ValueError, RuntimeError, OSError):  # already ended by the source
            self._response.shutdown()
        while self._thread.is_alive():
            # make room for a reader that waits to hand over its last bytes
            while not self._chunks.empty():
                self._chunks.get_nowait()
            self._thread.join(timeout=0.05)
        self._response.close()

    def _read(self) -> None:
        try:
            while not self._closed:
                chunk = self._response.read1(CHUNK_BYTES, decode_content=True)
                self._chunks.put(chunk)
                if not chunk:
                    return
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            self._chunks.put(SourceUnreachableError(f"broke off: {_why(error)}"))


def _answer(pool: urllib3.PoolManager, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
    """The answer of a source, or of where it redirects to: by https only, and elsewhere without credentials."""
    for _ in range(MOST_REDIRECTS + 1):
        try:
            response = pool.request(
                "GET",
                url,
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS),
            )
        except urllib3.exceptions.HTTPError as error:
            raise SourceUnreachableError(f"could not be reached: {_why(error)}") from error
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or location is None:
            return response
        response.close()
        before = _origin(url)
        try:
            url = urljoin(url, location)
            origin = _origin(url)
        except ValueError:  # a location that is no address
            break
        if origin[0] != "https" or not origin[1]:
            break
        if origin != before:
            headers = {name: value for name, value in headers.items() if name != "Authorization"}
    raise SourceRefusedError(response.status)


def _why(error: BaseException) -> str:
    """What went wrong and what to look at, without the classes and addresses that the library tells of."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case socket.gaierror():
                return "its host is not known; check the url"
            case ssl.SSLCertVerificationError():
                return f"certificate verify failed: {cause.verify_message}; check its chain, too"
            case ssl.SSLError():
                return f"TLS failed: {(cause.reason or 'no reason').replace('_', ' ').lower()}; check the url's port"
            case ConnectionRefusedError():
                return "the connection is refused; check the url's port, and that the source runs"
            case TimeoutError() | urllib3.exceptions.ReadTimeoutError():
                return "no whole answer in time; check that it can be reached from here"
            case OSError() if cause.strerror:
                return f"{cause.strerror.lower()}; check that it can be reached from here"
        inner = [one for one in cause.args if isinstance(one, BaseException)]
        cause = inner[0] if inner else cause.__cause__ or cause.__context__
    return "it ended the connection, or speaks no HTTP; check the url and the source's own log"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: two of one origin are the same server."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def wait(seconds: float, until: Callable[[], bool]) -> None:
    """Sleep, but no longer than until `until` is true; it is asked every quarter of a second."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0 and not until():
        time.sleep(min(left, 0.25))
