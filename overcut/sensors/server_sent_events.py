"""Server-sent events: from the bytes of a source's answer to events, by the rules of WHATWG.

`sseclient-py` parses the fields of an event. What lies between the socket and one complete event is ours, because
sseclient-py 1.9 merges events on mixed line ends, loses the first event after a byte order mark, dies on one bad byte,
delivers an event that the end of the stream cut off, and keeps a line however long it is.

Errors, all of them about the source and none about an event, so the next poll tries again:

    RetryableError
     └─ SourceError
         ├─ SourceRefusedError      the status is not 200
         ├─ SourceClosedError       status 204: the source asks its clients to stop
         └─ NotAnEventStreamError   the content type is not text/event-stream

The rules: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sseclient import SSEClient

from overcut import RetryableError

CONTENT_TYPE = "text/event-stream"
MAX_EVENT_BYTES = 256 * 1024
# what is kept of a refused event: enough to recognise it
MAX_RAW_BYTES = 4096
# int() raises past 4,300 digits; a wait of 10^18 ms is no wait that anybody means
MAX_RETRY_DIGITS = 18
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COLON = ord(":")


class SourceError(RetryableError):
    """A source did not answer with a stream of events; the text says what to do."""


class SourceRefusedError(SourceError):
    """A source answered with a status that is not 200.

    Attributes:
        status: the HTTP status. Of a request that named a last event id, a 4xx may mean that id.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"answered {status}: {_advice(status)}")
        self.status = status


class SourceClosedError(SourceError):
    """A source answered 204, which asks its clients not to connect again."""


class NotAnEventStreamError(SourceError):
    """A source answered 200 with something that is not a stream of events."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event, complete.

    Attributes:
        data: its data lines, joined by line feeds.
        event: its type, `message` when it names none.
        last_event_id: its id or, when it has none, the one inherited from the events before it; may be empty.
    """

    data: str
    event: str
    last_event_id: str


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """An event past the size limit, reported once, as soon as it is past it.

    Attributes:
        raw: how it begins, without comments, its line ends as line feeds; at most `MAX_RAW_BYTES` bytes as received.
        reason: for the person who runs the source.
        last_event_id: the one in force before it. Its own comes into force with the blank line that ends it.
    """

    raw: str
    reason: str
    last_event_id: str


class EventStream:
    """The events of one connection, from its bytes in pieces of any size.

    An event is delivered with the byte that ends its blank line; one that the end of the stream cuts off never is.
    Memory depends on the size of a chunk and on `max_event_bytes`, never on what the source sends. Bad UTF-8 becomes
    U+FFFD.

    Args:
        last_event_id: what the request named as such; events without an id of their own inherit it, as in Chromium.
        max_event_bytes: of one event without its comments, each line end counted as one byte.
    """

    def __init__(self, last_event_id: str = "", max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._last_event_id = self._last_event_id_buffer = last_event_id
        self._retry_ms: int | None = None
        self._maybe_mark: bytes | None = b""  # what has come of a byte order mark; None once the start is over
        self._after_cr = False
        self._line = bytearray()  # of the unfinished line, one byte more than the limit at most
        self._block = bytearray()  # the finished lines of the unfinished event
        self._refused = False  # the unfinished event is past the limit: its lines are no longer kept

    @property
    def last_event_id(self) -> str:
        """What a request that resumes after everything delivered so far names as `Last-Event-ID`; empty for none."""
        return self._last_event_id

    @property
    def retry_ms(self) -> int | None:
        """How long the source wants its clients to wait before they connect again, in milliseconds."""
        return self._retry_ms

    def feed(self, chunk: bytes) -> list[ServerSentEvent | RefusedEvent]:
        """The events that `chunk` completes, in order."""
        events: list[ServerSentEvent | RefusedEvent] = []
        # The client takes a block only when it has yielded the event of the block before, so the id is this event's.
        for parsed in _FieldParser(self._blocks(self._lines(chunk), events)).events():
            events.append(ServerSentEvent(parsed.data, parsed.event, self._last_event_id))  # noqa: PERF401
        return events

    def _lines(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, with empty ones and without line ends; what remains is in `self._line`."""
        if self._maybe_mark is not None:
            chunk = self._maybe_mark + chunk
            self._maybe_mark = chunk if len(chunk) < 3 and BYTE_ORDER_MARK.startswith(chunk) else None
            chunk = chunk.removeprefix(BYTE_ORDER_MARK) if self._maybe_mark is None else b""
        if not chunk:
            return []
        if self._after_cr:  # that CR ended its line at once; this may be the other half of a CRLF
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        lines = chunk.splitlines()
        rest = lines.pop() if lines and not chunk.endswith((b"\n", b"\r")) else b""
        if lines:
            lines[0] = bytes(self._line + lines[0])
            self._line.clear()
        self._line += rest[: self._max_event_bytes + 1 - len(self._line)]
        return lines

    def _blocks(self, lines: list[bytes], events: list[ServerSentEvent | RefusedEvent]) -> Iterator[bytes]:
        """The events that `lines` complete, as their lines in UTF-8; one past the limit goes to `events` instead."""
        for line in lines:
            if not line:
                self._last_event_id = self._last_event_id_buffer
                if self._block:
                    yield self._block.decode("utf-8", "replace").encode() + b"\n"
                self._block.clear()
                self._refused = False
            elif line[0] != COLON:
                if line.startswith((b"id", b"retry")) and len(line) <= self._max_event_bytes:  # a longer one may be cut
                    self._read_field_of_the_stream(line)
                if not self._refused:
                    self._block += line + b"\n"
                    if len(self._block) > self._max_event_bytes:
                        events.append(self._refuse())
        # an endless line is refused before it ends, and a comment never
        unfinished = 0 if self._line.startswith(b":") else len(self._line)
        if len(self._block) + unfinished > self._max_event_bytes and not self._refused:
            events.append(self._refuse())

    def _refuse(self) -> RefusedEvent:
        # a cut no later than the limit makes the text the same however the event came in pieces
        raw = bytes(self._block + self._line)[: min(MAX_RAW_BYTES, self._max_event_bytes)]
        self._block.clear()
        self._refused = True
        reason = f"longer than {self._max_event_bytes:,} bytes without the blank line that ends an event"
        return RefusedEvent(raw.decode("utf-8", "replace"), reason, self._last_event_id)

    def _read_field_of_the_stream(self, line: bytes) -> None:
        # sseclient drops a block without data, but its id and its retry count; and an id with NUL leaves the one before
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"id" and b"\0" not in value:
            self._last_event_id_buffer = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) <= MAX_RETRY_DIGITS:
            self._retry_ms = int(value)


class _FieldParser(SSEClient):
    """sseclient's parser of fields, on blocks that are known to be complete.

    Looking for their ends once more is quadratic in the lines of a block: 0.35 s of a core for 256 KiB of short ones.
    """

    def __init__(self, blocks: Iterator[bytes]) -> None:
        super().__init__(blocks)
        self._blocks = blocks

    def _read(self) -> Iterator[bytes]:
        return self._blocks


def check_response(status: int, content_type: str | None) -> None:
    """Whether an answer is a stream of events, by its status and its `Content-Type`.

    Raises:
        SourceClosedError: 204.
        SourceRefusedError: any other status that is not 200.
        NotAnEventStreamError: 200 with another content type, or none.
    """
    if status == 204:
        raise SourceClosedError("answered 204, which asks clients to stop: check whether the source still exists")
    if status != 200:
        raise SourceRefusedError(status)
    if (content_type or "").partition(";")[0].strip().lower() != CONTENT_TYPE:
        raise NotAnEventStreamError(
            f"answered with {content_type or 'no content type'}, not {CONTENT_TYPE}: check the url"
        )


def _advice(status: int) -> str:
    if status == 401:
        return "check the source's credentials"
    if status == 403:
        return "check what the source's credentials allow"
    if status == 429:
        return "it must allow two connections at once, because polls overlap"
    if 300 <= status < 400:
        return "redirects are followed by https only, at most five; name where they end as the url"
    if status >= 500:
        return "a fault of the source or of what stands before it; the next poll tries again"
    return "check the url"
