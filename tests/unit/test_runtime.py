"""What functions run on: DynamoDB's attributes, settings, the clock, and the histories that save reads."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdas.runtime.attributes import from_attribute, from_attributes, to_attribute, to_attributes
from lambdas.runtime.clock import ClockFace, FileClock, SystemClock, clock_from
from lambdas.runtime.settings import SettingsError, environment_keys, load_settings
from lambdas.sensors.detect_anomalies.histories import Histories
from overcut.sensors.incidents import JudgedReading

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

# --- attributes ---


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "attribute"),
    [
        ("", {"S": ""}),
        ("text", {"S": "text"}),
        (Colour.RED, {"S": "red"}),
        (True, {"BOOL": True}),
        (0, {"N": "0"}),
        (-5, {"N": "-5"}),
        (29.1, {"N": "29.1"}),
        (1e30, {"N": "1e+30"}),
        (np.float64(29.1), {"N": "29.1"}),
        ([1, ["a"]], {"L": [{"N": "1"}, {"L": [{"S": "a"}]}]}),
        ((), {"L": []}),
        ({"a": {"b": None, "c": False}}, {"M": {"a": {"M": {"c": {"BOOL": False}}}}}),
    ],
)
def test_attributes(value: object, attribute: dict[str, Any]) -> None:
    assert to_attribute(value) == attribute


def test_an_item_leaves_out_what_is_none() -> None:
    assert to_attributes({"a": None, "b": 1}) == {"b": {"N": "1"}}


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, NOON, object(), [None]])
def test_what_is_not_stored(value: object) -> None:
    with pytest.raises(TypeError, match="is not stored in DynamoDB"):
        to_attribute(value)


def test_what_is_not_read() -> None:
    with pytest.raises(TypeError, match="attribute type SS is not read here"):
        from_attribute({"SS": ["a"]})


STORED = st.recursive(
    st.text() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), STORED, max_size=4))
def test_what_is_stored_reads_back_as_the_very_same(item: Mapping[str, Any]) -> None:
    assert from_attributes(to_attributes(item)) == item


# --- settings ---


@dataclass(frozen=True)
class Example:
    table_name: str
    minutes: int
    contacts: list[dict[str, Any]]


GIVEN = {"TABLE_NAME": "5", "MINUTES": "5", "CONTACTS": '[{"contact_id": "a"}]', "PATH": "/bin"}


def test_settings() -> None:
    assert load_settings(Example, GIVEN) == Example("5", 5, [{"contact_id": "a"}])
    assert environment_keys(Example) == {"TABLE_NAME", "MINUTES", "CONTACTS"}


@pytest.mark.parametrize("name", ["TABLE_NAME", "MINUTES", "CONTACTS"])
def test_a_setting_that_is_missing(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^environment variable {name} is missing$"):
        load_settings(Example, {key: value for key, value in GIVEN.items() if key != name})


@pytest.mark.parametrize("text", ["", "five", "[", "5 minutes"])
def test_a_setting_that_cannot_be_read(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^environment variable MINUTES is not JSON: "):
        load_settings(Example, GIVEN | {"MINUTES": text})


# --- the clock ---


def test_the_systems_clock() -> None:
    clock = SystemClock()
    assert abs(clock.now().timestamp() - time.time()) < 5
    assert clock.now().tzinfo is UTC
    assert clock.at(1772452800) == NOON
    assert clock.expiry(NOON) == 1772452800


def test_without_its_file_a_clock_is_the_systems(tmp_path: Path) -> None:
    clock = FileClock(tmp_path / "clock.json")
    assert abs(clock.now().timestamp() - time.time()) < 5
    assert clock.at(1772452800) == NOON
    assert clock.expiry(NOON) == 1772452800


def test_a_demonstrations_clock_has_an_origin_and_a_speed(tmp_path: Path) -> None:
    path = tmp_path / "clock.json"
    clock = FileClock(path)
    origin = datetime(2021, 6, 10, tzinfo=UTC)
    clock.set(ClockFace(origin=origin.timestamp(), wall=2000.0, speed=100.0, ttl_offset=1e8))
    assert clock.at(2000) == origin
    assert clock.at(2036) == origin + timedelta(hours=1)
    assert clock.at(1999) == origin, "it does not run before it was set"
    assert clock.expiry(origin) == 1623283200 + 100_000_000
    clock.set(ClockFace(origin=origin.timestamp(), wall=2000.0, speed=0.0, ttl_offset=1e8))
    assert clock.at(99999) == origin
    assert json.loads(path.read_text())["speed"] == 0.0
    assert list(tmp_path.iterdir()) == [path]


def test_the_clock_of_a_setting(tmp_path: Path) -> None:
    assert isinstance(clock_from("system"), SystemClock)
    clock_from(str(tmp_path / "clock.json"))
    assert isinstance(clock_from("/var/clock.json"), FileClock)


# --- histories ---


def minutes(*numbers: float, verdict: bool | None = False) -> list[JudgedReading]:
    return [JudgedReading(NOON + number * MINUTE, verdict) for number in numbers]


def remembering(*numbers: float, keep: int = 5) -> Histories:
    histories = Histories(10)
    histories.put("a", minutes(*numbers), keep)
    return histories


def test_a_history_goes_on() -> None:
    histories = Histories(10)
    judged = [*minutes(0, 1, 2), *minutes(3, 4, verdict=True)]
    histories.put("a", judged, 5)
    new = minutes(5, 6, verdict=True)
    assert histories.extended("a", new, MINUTE, 5) == [*judged, *new]
    # it holds the last five now
    assert histories.extended("a", minutes(7), MINUTE, 5) == [*judged[2:], *new, *minutes(7)]


def test_only_what_is_known_is_remembered() -> None:
    assert Histories(10).extended("a", minutes(0), MINUTE, 5) is None
    assert remembering(0, 1, 2, 3).extended("a", minutes(4), MINUTE, 5) is None, "too short"
    assert remembering(0, 1, 2, 3, 4).extended("b", minutes(5), MINUTE, 5) is None, "another sensor"


@pytest.mark.parametrize(
    ("remembered", "new", "used"),
    [
        ((0, 1, 2, 3, 4), (5, 6), True),
        ((0, 1, 2, 3, 4), (5.5,), True),
        ((0, 1, 2, 3, 4), (5.6,), False),
        ((0, 1, 2, 3, 4), (6,), False),
        ((0, 1, 2, 3, 4), (5, 7), False),
        ((0, 1, 3, 4, 5), (6,), False),
        ((0, 1, 2, 3, 4), (4,), False),  # only four before it
        ((0, 1, 2, 3, 4), (3,), False),
        ((0, 1, 2, 3, 4), (2, 5), False),
    ],
)
def test_a_history_is_used_only_while_nothing_can_be_missing(
    remembered: tuple[float, ...], new: tuple[float, ...], used: bool
) -> None:
    found = remembering(*remembered).extended("a", minutes(*new), MINUTE, 5)
    assert found == (minutes(*remembered, *new) if used else None)


def test_a_history_that_was_not_used_is_forgotten() -> None:
    histories = remembering(0, 1, 2, 3, 4)
    assert histories.extended("a", minutes(9), MINUTE, 5) is None
    assert histories.extended("a", minutes(5), MINUTE, 5) is None


def test_a_reading_without_a_verdict_is_as_if_it_were_missing() -> None:
    assert remembering(0, 1, 2, 3, 4).extended("a", minutes(5, verdict=None), MINUTE, 5) is None
    histories = remembering(0, 1, 2, 3, 4)
    histories.put("a", [*minutes(0, 1, 2), *minutes(3, verdict=None), *minutes(4)], 5)
    assert histories.extended("a", minutes(5), MINUTE, 5) is None
    histories.put("a", [*minutes(0, verdict=None), *minutes(1, 2, 3, 4, 5)], 5)
    assert histories.extended("a", minutes(6), MINUTE, 5) == minutes(1, 2, 3, 4, 5, 6)


def test_the_sensor_that_was_seen_longest_ago_is_forgotten() -> None:
    histories = Histories(2)
    for sensor_id in ("a", "b"):
        histories.put(sensor_id, minutes(0, 1, 2, 3, 4), 5)
    assert histories.extended("a", minutes(5), MINUTE, 5)
    histories.put("c", minutes(0, 1, 2, 3, 4), 5)
    assert histories.extended("b", minutes(5), MINUTE, 5) is None
    assert histories.extended("a", minutes(6), MINUTE, 5)
    assert histories.extended("c", minutes(5), MINUTE, 5)


@given(st.lists(st.booleans(), min_size=5, max_size=30), st.integers(1, 4))
def test_a_history_gives_what_the_table_would(verdicts: list[bool], batch: int) -> None:
    table = [JudgedReading(NOON + k * MINUTE, verdict) for k, verdict in enumerate(verdicts)]
    histories = Histories(1)
    histories.put("a", table[:5], 5)
    for begins in range(5, len(table), batch):
        new = table[begins : begins + batch]
        assert histories.extended("a", new, MINUTE, 5) == table[begins - 5 : begins + len(new)]
