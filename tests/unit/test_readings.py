"""Readings: what may be stored and judged, and the reason why the rest may not."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overcut.sensors.readings import (
    Reading,
    RefusedReadingError,
    format_time,
    make_reading,
    parse_event,
    parse_time,
)

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
MEASURED = "2026-03-02T11:59:00Z"
MEASURES = ("humidity", "temperature")


def read(
    sensor_id: object = "hvac-323", measured_at: object = MEASURED, values: object = None, now: datetime = NOW
) -> Reading:
    return make_reading(
        sensor_id, measured_at, {"temperature": 29.1} if values is None else values, measures=MEASURES, now=now
    )


def reason(**parts: Any) -> str:
    with pytest.raises(RefusedReadingError) as refused:
        read(**parts)
    return str(refused.value)


def test_a_reading() -> None:
    assert read() == Reading("hvac-323", datetime(2026, 3, 2, 11, 59, tzinfo=UTC), {"temperature": 29.1})


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2021-06-10T12:02:00Z", datetime(2021, 6, 10, 12, 2, tzinfo=UTC)),
        ("2021-06-10T14:02:00+02:00", datetime(2021, 6, 10, 12, 2, tzinfo=UTC)),
        ("2021-06-10 12:02Z", datetime(2021, 6, 10, 12, 2, tzinfo=UTC)),
        ("20210610T120200Z", datetime(2021, 6, 10, 12, 2, tzinfo=UTC)),
        ("2021-06-10T12:02:59.999999Z", datetime(2021, 6, 10, 12, 2, 59, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_times(text: str, moment: datetime) -> None:
    assert parse_time(text) == moment
    assert parse_time(text).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "is not a text: None"),
        (1623326520, "is not a text: 1623326520"),
        ("", "is not a time in ISO 8601: ''"),
        ("noon", "is not a time in ISO 8601: 'noon'"),
        ("2021-06-10T12:02:00", "has no time zone"),
        ("2021-06-10", "has no time zone"),
        ("2021-06-31T12:02:00Z", "is not a time in ISO 8601"),
        ("0001-01-01T00:00:00+01:00", "is not a time in ISO 8601"),
        ("9999-12-31T23:59:59-01:00", "is not a time in ISO 8601"),
        ("\ud800", "is not a time in ISO 8601"),
    ],
)
def test_no_times(text: object, why: str) -> None:
    assert why in reason(measured_at=text)


def test_a_reason_stays_short() -> None:
    for parts in ({"sensor_id": "x" * 9999}, {"measured_at": "x" * 9999}, {"measured_at": ["x" * 9999]}):
        assert len(reason(**parts)) < 200
    for values in ("x" * 9999, {"x" * 9999: 1.0}, {"temperature": "x" * 9999}, {"temperature": 10**4000}):
        assert len(reason(values=values)) < 200


def test_format_time() -> None:
    assert format_time(datetime(2021, 6, 10, 14, 2, 3, 999999, timezone(timedelta(hours=2)))) == "2021-06-10T12:02:03Z"
    assert format_time(datetime(1, 1, 1, tzinfo=UTC)) == "0001-01-01T00:00:00Z"


MOMENTS = st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0))


@given(MOMENTS, MOMENTS)
def test_times_read_back_and_sort_as_text(one: datetime, other: datetime) -> None:
    assert parse_time(format_time(one)) == one
    assert (format_time(one) < format_time(other)) == (one < other)


def test_the_future() -> None:
    assert read(measured_at="2026-03-02T12:05:00Z").measured_at == NOW + timedelta(minutes=5)
    assert reason(measured_at="2026-03-02T12:05:01Z") == (
        "measured_at is more than five minutes in the future: 2026-03-02T12:05:01Z, now 2026-03-02T12:00:00Z"
    )


def test_the_distant_past() -> None:
    parts: Any = {"measures": MEASURES, "now": NOW, "oldest": datetime(2026, 2, 1, tzinfo=UTC)}
    assert make_reading("a", "2026-02-01T00:00:00Z", {"temperature": 1.0}, **parts).sensor_id == "a"
    with pytest.raises(RefusedReadingError) as refused:
        make_reading("a", "2026-01-31T23:59:59Z", {"temperature": 1.0}, **parts)
    assert str(refused.value) == (
        "measured_at is too old: 2026-01-31T23:59:59Z; readings are taken from 2026-02-01T00:00:00Z on"
    )


@pytest.mark.parametrize("sensor_id", ["a", "x" * 128, "hvac 323/é", "\U0001f600", "a#1"])
def test_sensor_ids(sensor_id: str) -> None:
    assert read(sensor_id=sensor_id).sensor_id == sensor_id


@pytest.mark.parametrize(
    "sensor_id",
    [
        None,
        5,
        "",
        "x" * 129,
        " a",
        "a ",
        "a\n",
        "a\x00b",
        "\u202ea",
        "a\ufffd",
        "\u200b",
        "\ud800",
        "#a",
        "head\t",
        ["a"],
        {"a": 1},
    ],
)
def test_no_sensor_ids(sensor_id: object) -> None:
    assert reason(sensor_id=sensor_id).startswith("sensor_id ")


@pytest.mark.parametrize(
    ("value", "stored"),
    [(29.1, 29.1), (3, 3.0), (-0.0, 0.0), (1e-31, 0.0), (-1e-31, 0.0), (1e30, 1e30), (-(10**30), -1e30), (5e-324, 0.0)],
)
def test_values(value: float, stored: float) -> None:
    kept = read(values={"temperature": value}).values["temperature"]
    assert (kept, type(kept), math.copysign(1, kept)) == (stored, float, math.copysign(1, stored))


@pytest.mark.parametrize("value", [None, "29.1", True, math.nan, math.inf, -math.inf, 1.01e30, 10**400, [29.1], {}])
def test_no_values(value: object) -> None:
    assert reason(values={"temperature": value}).startswith("temperature is not a")


@pytest.mark.parametrize("values", [[], {}, "29.1", 29.1, [29.1]])
def test_no_object_of_values(values: object) -> None:
    assert reason(values=values).startswith("values is not an object of numbers by measure: ")


def test_a_measure_that_the_source_does_not_have() -> None:
    assert reason(values={"temprature": 1, "humidity": 2}) == (
        "unknown measure 'temprature'; this source has humidity, temperature"
    )


def test_measures_are_in_order_of_name_however_they_came() -> None:
    assert list(read(values={"temperature": 1, "humidity": 2}).values) == ["humidity", "temperature"]


@pytest.mark.parametrize("data", ["", "{", "nonsense", "[" * 100_000, '{"a":' * 100_000, "9" * 5000])
def test_no_events(data: str) -> None:
    with pytest.raises(RefusedReadingError, match=r"^the event is not JSON$"):
        parse_event(data)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([MEASURED, "temperature"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("temperature"), inner, max_size=3),
    max_leaves=8,
)


@given(ANY_JSON, ANY_JSON, ANY_JSON)
def test_anything_is_a_reading_or_refused(sensor_id: object, measured_at: object, values: object) -> None:
    for parts in (
        (sensor_id, MEASURED, {"temperature": 1}),
        ("a", measured_at, {"temperature": 1}),
        ("a", MEASURED, values),
    ):
        try:
            reading = make_reading(*parts, measures=MEASURES, now=NOW)
        except RefusedReadingError:
            continue
        written = json.dumps({"sensor_id": reading.sensor_id, "values": dict(reading.values)}, allow_nan=False)
        assert json.loads(written)["values"] == reading.values
        assert reading.values
        assert set(reading.values) <= set(MEASURES)
        assert reading.measured_at <= NOW + timedelta(minutes=5)
