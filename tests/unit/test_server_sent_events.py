"""Server-sent events against literals, and against a second parser written straight from the rules of WHATWG."""

import re
import time
import tracemalloc
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overcut import RetryableError
from overcut.sensors.server_sent_events import (
    MAX_EVENT_BYTES,
    MAX_RAW_BYTES,
    EventStream,
    NotAnEventStreamError,
    RefusedEvent,
    ServerSentEvent,
    SourceClosedError,
    SourceError,
    SourceRefusedError,
    check_response,
)

MARK = b"\xef\xbb\xbf"
Received = list[ServerSentEvent | RefusedEvent]


def feed_in_pieces(stream: EventStream, raw: bytes, cuts: list[int]) -> Received:
    bounds = [0, *sorted(cuts), len(raw)]
    return [event for start, end in pairwise(bounds) for event in stream.feed(raw[start:end])]


def events_of(raw: bytes) -> Received:
    return EventStream().feed(raw)


def data_of(raw: bytes) -> list[str]:
    events = events_of(raw)
    assert all(isinstance(event, ServerSentEvent) for event in events)
    return [event.data for event in events if isinstance(event, ServerSentEvent)]


# fields


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data: a\n\n", ["a"]),
        (b"data:a\n\n", ["a"]),
        (b"data:  a\n\n", [" a"]),  # one space only belongs to the syntax
        (b"data:\ta\n\n", ["\ta"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data: a: b\n\n", ["a: b"]),
        (b"data\n\n", [""]),  # a field without a value is data all the same
        (b"data\ndata\n\n", ["\n"]),
        (b": a comment\ndata: a\n: another\n\n", ["a"]),
        (b"unknown: a\n Data: b\nDATA: c\ndata: d\n\n", ["d"]),
        (b"event: only a type\n\n: only a comment\n\ndata: a\n\n", ["a"]),
        (b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n", ["a", "b"]),
        (b"", []),
    ],
)
def test_data(raw: bytes, expected: list[str]) -> None:
    assert data_of(raw) == expected


def test_an_event_has_the_type_it_names_and_no_other() -> None:
    raw = b"event: reading\ndata: 1\n\ndata: 2\n\nevent:\ndata: 3\n\nevent: lost\n\ndata: 4\n\n"
    types = [event.event for event in events_of(raw) if isinstance(event, ServerSentEvent)]
    assert types == ["reading", "message", "message", "message"]


def test_only_line_feeds_and_carriage_returns_end_a_line() -> None:
    text = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g"
    assert data_of(f"data: {text}\n\n".encode()) == [text]


# line ends


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end(end: bytes) -> None:
    raw = end.join([b"id: 1", b"data: a", b"data: b", b"", b"data: c", b"", b""])
    assert events_of(raw) == [ServerSentEvent("a\nb", "message", "1"), ServerSentEvent("c", "message", "1")]


MIXED = (
    MARK
    + b"retry: 10\r\nid: 1\rdata: a\ndata: b\r\n\n: ping\r\rid: 2\n\r\n"
    + b"data: \xc2\xb0C\n\rdata: d\xff\r\r\nid\rdata: e\r\n\r\n"
)
MIXED_EVENTS = [
    ServerSentEvent("a\nb", "message", "1"),
    ServerSentEvent("°C", "message", "2"),
    ServerSentEvent("d\N{REPLACEMENT CHARACTER}", "message", "2"),
    ServerSentEvent("e", "message", ""),
]


def test_mixed_line_ends_in_one_piece_and_byte_by_byte() -> None:
    assert events_of(MIXED) == MIXED_EVENTS
    assert feed_in_pieces(EventStream(), MIXED, list(range(len(MIXED)))) == MIXED_EVENTS


def test_mixed_line_ends_cut_at_any_two_places() -> None:
    for cuts in combinations(range(len(MIXED)), 2):
        stream = EventStream()
        assert feed_in_pieces(stream, MIXED, list(cuts)) == MIXED_EVENTS, cuts
        assert (stream.last_event_id, stream.retry_ms) == ("", 10)


def test_an_event_is_delivered_with_the_byte_that_ends_its_blank_line() -> None:
    stream = EventStream()
    delivered = [len(stream.feed(bytes([byte]))) for byte in b"data\r\r\ndata\r\n\r\ndata\n\n"]
    #                     d  a  t  a CR CR LF  d  a  t  a CR LF CR LF  d  a  t  a LF LF
    assert delivered == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]


def test_a_line_feed_after_a_split_crlf_is_a_blank_line() -> None:
    stream = EventStream()
    assert [len(stream.feed(piece)) for piece in (b"data\r", b"", b"\n", b"", b"\n")] == [0, 0, 0, 0, 1]


# the byte order mark and bad bytes


def test_one_byte_order_mark_is_dropped_and_only_at_the_start() -> None:
    assert data_of(MARK + b"data: a\n\n" + MARK + b"data: lost\n\ndata: b\n\n") == ["a", "b"]
    assert data_of(MARK + MARK + b"data: lost\n\ndata: b\n\n") == ["b"]
    assert data_of(b"\n" + MARK + b"data: lost\n\ndata: b\n\n") == ["b"]


def test_the_beginning_of_a_byte_order_mark_is_not_one() -> None:
    assert data_of(MARK[:2] + b"data: lost\n\ndata: b\n\n") == ["b"]


@pytest.mark.parametrize(
    ("bad", "shown"),
    [
        (b"\xff", "\ufffd"),
        (b"\xe2\x82", "\ufffd"),  # cut short by the end of the line
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),  # a surrogate
        (b"\xc0\xaf", "\ufffd\ufffd"),  # an overlong slash
        (b"a\xf0\x9f\x98b", "a\ufffdb"),
    ],
)
def test_bad_bytes_are_replaced_and_the_stream_goes_on(bad: bytes, shown: str) -> None:
    assert data_of(b"data: " + bad + b"\n\ndata: \xc2\xb0\n\n") == [shown, "°"]


# ids and retry


def test_an_event_without_an_id_inherits_one() -> None:
    stream = EventStream(last_event_id="before")
    assert stream.last_event_id == "before"
    events = stream.feed(b"data\n\nid: 1\ndata\n\ndata\n\nid\ndata\n\nid: 2\nid: 3\ndata\n\n")
    assert [event.last_event_id for event in events] == ["before", "1", "1", "", "3"]


def test_an_id_alone_is_no_event_but_counts() -> None:
    stream = EventStream()
    assert stream.feed(b"id: 7\n\n") == []
    assert stream.last_event_id == "7"
    assert stream.feed(b"data: a\n\n") == [ServerSentEvent("a", "message", "7")]


def test_blocks_without_data_do_not_shift_the_ids_of_events() -> None:
    raw = b"id: 1\n\nid: 2\ndata: a\n\n: c\n\nid: 3\n\nevent: x\n\ndata: b\n\nid: 4\n\n"
    stream = EventStream()
    assert stream.feed(raw) == [ServerSentEvent("a", "message", "2"), ServerSentEvent("b", "message", "3")]
    assert stream.last_event_id == "4"


def test_an_id_counts_only_when_its_event_is_complete() -> None:
    stream = EventStream(last_event_id="1")
    assert stream.feed(b"id: 2\ndata: a\n") == []
    assert stream.last_event_id == "1"
    stream.feed(b"\n")
    assert stream.last_event_id == "2"


def test_an_id_with_nul_is_ignored_in_favour_of_the_one_before() -> None:
    events = events_of(b"id: 1\ndata\n\nid: 2\0\ndata\n\nid: 3\nid: \0\ndata\n\n")
    assert [event.last_event_id for event in events] == ["1", "1", "3"]


def test_fields_that_begin_like_id_or_retry_are_unknown() -> None:
    stream = EventStream()
    events = stream.feed(b"idx: 1\nid : 2\nretry_ms: 3\n id: 4\ndata: a\n\n")
    assert events == [ServerSentEvent("a", "message", "")]
    assert stream.retry_ms is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"retry: 2500", 2500),
        (b"retry:0", 0),
        (b"retry: 007", 7),
        (b"retry", None),
        (b"retry:  5", None),
        (b"retry: -5", None),
        (b"retry: 5.0", None),
        (b"retry: 5s", None),
        ("retry: ²".encode(), None),
        ("retry: ٣".encode(), None),
        (b"retry: " + b"9" * 5000, None),
    ],
)
def test_retry_is_digits_only(line: bytes, expected: int | None) -> None:
    stream = EventStream()
    assert stream.retry_ms is None
    assert stream.feed(line + b"\n") == []
    assert stream.retry_ms == expected


def test_an_id_keeps_its_spaces_but_the_first() -> None:
    assert events_of(b"id:  7 \ndata\n\n") == [ServerSentEvent("", "message", " 7 ")]


def test_a_bad_retry_leaves_the_one_before() -> None:
    stream = EventStream()
    stream.feed(b"retry: 5\nretry: soon\n\n")
    assert stream.retry_ms == 5


# the end of the stream and the size limit


@pytest.mark.parametrize("cut_off", [b"data: b", b"data: b\n", b"data: b\r\n", b"id: 2\ndata: b\r"])
def test_an_event_cut_off_at_the_end_is_never_delivered(cut_off: bytes) -> None:
    stream = EventStream()
    assert stream.feed(b"id: 1\ndata: a\n\n" + cut_off) == [ServerSentEvent("a", "message", "1")]
    assert stream.feed(b"") == []
    assert stream.last_event_id == "1"


def test_an_event_at_the_limit_is_delivered_and_one_byte_more_is_refused() -> None:
    # "data: " and the line end are 7 bytes; comments and the blank line do not count
    stream = EventStream(max_event_bytes=20)
    assert stream.feed(b": comment\ndata: " + b"x" * 13 + b"\n: comment\n\n") == [
        ServerSentEvent("x" * 13, "message", "")
    ]
    assert stream.feed(b"data: " + b"x" * 14 + b"\n\ndata: a\n\n") == [
        RefusedEvent("data: " + "x" * 14, "longer than 20 bytes without the blank line that ends an event", ""),
        ServerSentEvent("a", "message", ""),
    ]


def test_the_default_limit_is_256_kib() -> None:
    fits = b"data:" + b"x" * (256 * 1024 - 6)
    assert data_of(fits + b"\n\n") == ["x" * (256 * 1024 - 6)]
    (refused,) = events_of(fits + b"x\n\n")
    assert isinstance(refused, RefusedEvent)
    assert refused.reason == "longer than 262,144 bytes without the blank line that ends an event"


def test_events_that_no_blank_line_parts_are_refused_once_with_their_beginning() -> None:
    stream = EventStream(max_event_bytes=100)
    events = [event for _ in range(50) for event in stream.feed(b': ping\r\ndata: {"a": 1}\r\n')]
    assert [event.raw for event in events if isinstance(event, RefusedEvent)] == [
        ('data: {"a": 1}\n' * 10)[:100],
    ]
    assert stream.feed(b"data: the rest\n\ndata: a\n\n") == [ServerSentEvent("a", "message", "")]


def test_a_refused_event_is_refused_at_once_and_shown_in_part() -> None:
    stream = EventStream()
    events = stream.feed(b"data: " + b"\xff" + b"x" * MAX_EVENT_BYTES)  # no line end yet
    assert [event.raw for event in events if isinstance(event, RefusedEvent)] == [
        "data: \ufffd" + "x" * (MAX_RAW_BYTES - 7)
    ]


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_the_id_of_a_refused_event_comes_into_force_when_it_ends(step: int) -> None:
    raw = b"id: 1\ndata\n\nid: 2\ndata: " + b"x" * 50 + b"\nretry: 9\nid: 3\n\ndata: a\n\n"
    stream = EventStream(max_event_bytes=30)
    events = feed_in_pieces(stream, raw, list(range(0, len(raw), step)))
    assert [(type(event), event.last_event_id) for event in events] == [
        (ServerSentEvent, "1"),
        (RefusedEvent, "1"),
        (ServerSentEvent, "3"),
    ]
    assert stream.retry_ms == 9


def peak_memory(stream: EventStream, chunk: bytes, times: int) -> tuple[Received, int]:
    """What `chunk`, fed `times` times, gives, and the most bytes that were held on the way."""
    tracemalloc.start()
    try:
        events = [event for _ in range(times) for event in stream.feed(chunk)]
        return events, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_line_of_16_mib_is_refused_once_and_not_kept() -> None:
    stream = EventStream()
    stream.feed(b"id: 1\ndata: ")
    events, peak = peak_memory(stream, b"x" * 65536, 256)
    assert [type(event) for event in events] == [RefusedEvent]
    assert peak < 1024 * 1024
    assert stream.feed(b"\n\ndata: a\n\n") == [ServerSentEvent("a", "message", "1")]


@pytest.mark.parametrize("chunk", [b": ping\r\n" * 8192, b"data: x\n" * 8192, b"id: 1\n" * 8192])
def test_endless_lines_are_not_kept(chunk: bytes) -> None:
    # the lines of one chunk are a list of small objects for a while: about one MiB
    events, peak = peak_memory(EventStream(), chunk, 16)
    assert [type(event) for event in events] == ([] if chunk.startswith(b":") else [RefusedEvent])
    assert peak < 2 * 1024 * 1024


def test_one_endless_comment_is_neither_kept_nor_refused() -> None:
    stream = EventStream()
    stream.feed(MARK + b"data: a\n:")
    events, peak = peak_memory(stream, b"x" * 65536, 256)
    assert events == []
    assert peak < 1024 * 1024
    assert stream.feed(b"\n\n") == [ServerSentEvent("a", "message", "")]


def test_many_short_lines_take_linear_time() -> None:
    stream = EventStream(max_event_bytes=2 * 1024 * 1024)
    raw = b"x\n" * (1024 * 1024 - 8) + b"data: a\n\n"
    started = time.process_time()
    assert stream.feed(raw) == [ServerSentEvent("a", "message", "")]
    assert time.process_time() - started < 5  # 0.4 s; quadratic, 25 s


def test_a_long_line_in_one_byte_pieces_takes_linear_time() -> None:
    stream = EventStream(max_event_bytes=1024 * 1024)
    started = time.process_time()
    for _ in range(512 * 1024):
        stream.feed(b"x")
    assert time.process_time() - started < 4  # 0.8 s; quadratic, 6 s


# any stream in any pieces


def reference(raw: bytes, limit: int) -> tuple[list[tuple[str, str, str]], str, int | None]:
    """The algorithm of WHATWG on the whole text, with the limit: the events, the last event id and the retry.

    An event is its type, data and last event id; a refused one is "refused", its beginning and the last event id.
    """
    texts = re.split("\r\n|\r|\n", raw.decode("utf-8", "replace").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"))
    lines = re.split(b"\r\n|\r|\n", raw.removeprefix(MARK))
    events: list[tuple[str, str, str]] = []
    data = event_type = last_event_id_buffer = last_event_id = ""
    retry: int | None = None
    beginning, refused = b"", False
    for number, (text, line) in enumerate(zip(texts, lines, strict=True), 1):
        ended = number < len(lines)
        if ended and text == "":
            last_event_id = last_event_id_buffer
            if data and not refused:
                events.append((event_type or "message", data.removesuffix("\n"), last_event_id))
            data, event_type, beginning, refused = "", "", b"", False
        elif not text.startswith(":"):
            beginning += line + b"\n" * ended
            if len(beginning) > limit and not refused:
                refused = True
                events.append(("refused", beginning[: min(limit, 4096)].decode("utf-8", "replace"), last_event_id))
            if not ended:
                break
            if len(line) > limit:
                continue
            field, _, value = text.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data += value + "\n"
            elif field == "event":
                event_type = value
            elif field == "id" and "\0" not in value:
                last_event_id_buffer = value
            elif field == "retry" and re.fullmatch("[0-9]{1,18}", value):
                retry = int(value)
    return events, last_event_id, retry


LINES = st.sampled_from(
    [
        b"",
        b"data",
        b"data: a",
        b"data:  b",
        b"data: \xc2\xb0",
        b"data: \xe2\x82",
        b"data: \xff",
        b"data: \xe2\x80\xa8",
        b"data: a long one that a small limit refuses",
        MARK + b"data: a",
        b"event",
        b"event: reading",
        b"id",
        b"id: 1",
        b"id: 22",
        b"id: 3\0",
        b"id: \xc2",
        b"retry: 100",
        b"retry: 10s",
        b":",
        b": comment",
        b"unknown: 1",
        b" ",
    ]
)
LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r", b"\r\r\n"])
STREAMS = st.builds(
    lambda start, lines, rest: start + b"".join(line + end for line, end in lines) + rest,
    st.sampled_from([b"", b"", MARK, MARK[:2], MARK + MARK]),
    st.lists(st.tuples(LINES | st.binary(max_size=8), LINE_ENDS), max_size=20),
    LINES,
)


@settings(deadline=None, max_examples=500)
@given(raw=STREAMS, cuts=st.lists(st.integers(0, 400), max_size=12), limit=st.sampled_from([8, 20, 50, 100_000]))
def test_any_stream_in_any_pieces_gives_the_events_of_the_rules(raw: bytes, cuts: list[int], limit: int) -> None:
    stream = EventStream(max_event_bytes=limit)
    events = feed_in_pieces(stream, raw, [min(cut, len(raw)) for cut in cuts])
    as_tuples = [
        ("refused", event.raw, event.last_event_id)
        if isinstance(event, RefusedEvent)
        else (event.event, event.data, event.last_event_id)
        for event in events
    ]
    assert (as_tuples, stream.last_event_id, stream.retry_ms) == reference(raw, limit)


@settings(deadline=None, max_examples=200)
@given(raw=STREAMS, limit=st.sampled_from([8, 20, 100_000]))
def test_one_byte_pieces_give_the_same_events_as_one_piece(raw: bytes, limit: int) -> None:
    whole, pieces = EventStream(max_event_bytes=limit), EventStream(max_event_bytes=limit)
    assert feed_in_pieces(pieces, raw, list(range(len(raw)))) == whole.feed(raw)
    assert (pieces.last_event_id, pieces.retry_ms) == (whole.last_event_id, whole.retry_ms)


# the answer before the stream


@pytest.mark.parametrize(
    "content_type", ["text/event-stream", "text/event-stream;charset=utf-8", "Text/Event-Stream ; charset=UTF-8"]
)
def test_a_stream_of_events_is_accepted(content_type: str) -> None:
    check_response(200, content_type)


@pytest.mark.parametrize(
    ("status", "content_type", "error", "message"),
    [
        (
            204,
            None,
            SourceClosedError,
            "answered 204, which asks clients to stop: check whether the source still exists",
        ),
        (401, "text/html", SourceRefusedError, "answered 401: check the source's credentials"),
        (403, None, SourceRefusedError, "answered 403: check what the source's credentials allow"),
        (404, "text/event-stream", SourceRefusedError, "answered 404: check the url"),
        (206, "text/event-stream", SourceRefusedError, "answered 206: check the url"),
        (
            301,
            None,
            SourceRefusedError,
            "answered 301: redirects are followed by https only, at most five; name where they end as the url",
        ),
        (429, None, SourceRefusedError, "answered 429: it must allow two connections at once, because polls overlap"),
        (
            503,
            None,
            SourceRefusedError,
            "answered 503: a fault of the source or of what stands before it; the next poll tries again",
        ),
        (200, "text/html", NotAnEventStreamError, "answered with text/html, not text/event-stream: check the url"),
        (
            200,
            "text/event-streams",
            NotAnEventStreamError,
            "answered with text/event-streams, not text/event-stream: check the url",
        ),
        (200, None, NotAnEventStreamError, "answered with no content type, not text/event-stream: check the url"),
    ],
)
def test_any_other_answer_is_an_error_that_says_what_to_do(
    status: int, content_type: str | None, error: type[SourceError], message: str
) -> None:
    with pytest.raises(RetryableError) as raised:
        check_response(status, content_type)
    assert type(raised.value) is error
    assert str(raised.value) == message
    if isinstance(raised.value, SourceRefusedError):
        assert raised.value.status == status
