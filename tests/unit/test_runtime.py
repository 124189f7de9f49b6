"""What functions run on: DynamoDB's attributes, settings, the clock, and the histories that save reads."""

import json
import sys
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import cycle
from pathlib import Path
from typing import Any, get_args

import boto3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdas.runtime.attributes import from_attribute, from_attributes, to_attribute, to_attributes
from lambdas.runtime.clients import small_clients
from lambdas.runtime.clock import ClockFace, FileClock, SystemClock, clock_from
from lambdas.runtime.settings import SettingsError, environment_keys, load_settings
from lambdas.sensors.detect_anomalies.histories import Histories, History, Remembered
from lambdas.sensors.stores import dump_cutoffs, load_cutoffs
from overcut.sensors.cutoffs import Cutoff, Usual, UsualRange
from overcut.sensors.features import WINDOW, Feature
from overcut.sensors.incidents import JudgedReading
from overcut.sensors.judging import Series
from overcut.sensors.readings import Reading
from workbench.cost import MANY_LOTS

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

READY = WINDOW - 1


def reading(number: float, value: float | None = None) -> Reading:
    """What the sensor measured in minute `number`: a value that only that minute has, if none is given."""
    return Reading("a", NOON + number * MINUTE, {"temperature": number / 10 if value is None else value})


def minutes(first: int, last: int) -> list[Reading]:
    return [reading(number) for number in range(first, last + 1)]


def verdicts(readings: Sequence[Reading], verdict: bool | None = False) -> list[JudgedReading]:
    return [JudgedReading(one.measured_at, verdict) for one in readings]


def put(
    histories: Histories,
    readings: Sequence[Reading],
    judged: Sequence[JudgedReading],
    sensor_id: str = "a",
    is_quiet: bool = True,
) -> History:
    return histories.put(sensor_id, Series.of(readings), judged, interval=MINUTE, is_quiet=is_quiet)


def remembering(readings: Sequence[Reading], judged: Sequence[JudgedReading] | None = None) -> Histories:
    """What remembers one sensor's readings, all of them judged unless some are given."""
    histories = Histories(10)
    put(histories, readings, verdicts(readings) if judged is None else judged)
    return histories


def columns(series: Series) -> tuple[list[int], dict[str, list[float]]]:
    return list(series.times), {measure: list(column) for measure, column in series.values.items()}


def test_a_history_goes_on() -> None:
    known, new = minutes(0, 99), minutes(100, 101)
    judged = [*verdicts(known[5:97]), JudgedReading(known[97].measured_at, True)]
    judged += [JudgedReading(known[98].measured_at, False, True), JudgedReading(known[99].measured_at, True, True)]
    histories = Histories(10)
    put(histories, known, judged, is_quiet=False)
    found = histories.extended("a", new, MINUTE)
    assert found
    assert columns(found.series) == columns(Series.of([*known[5:], *new]))
    assert found.window() == judged
    assert (found.first_new, found.judged, found.is_quiet) == (95, 95, False)
    assert found.series.times[found.first_new] == (NOON + 100 * MINUTE).timestamp()


@pytest.mark.parametrize(("judged", "kept"), [(5, WINDOW - 1), (59, WINDOW - 1), (60, 60), (61, 61), (99, 99)])
def test_a_history_holds_its_verdicts_and_at_least_what_the_next_window_needs(judged: int, kept: int) -> None:
    known = minutes(0, 99)
    found = remembering(known, verdicts(known[-judged:])).extended("a", minutes(100, 100), MINUTE)
    assert found
    assert columns(found.series) == columns(Series.of([*known[-kept:], reading(100)]))
    assert (found.window(), found.first_new) == (verdicts(known[-judged:]), kept)


@pytest.mark.parametrize(("anomaly", "stuck"), [(False, False), (True, False), (False, True), (True, True)])
def test_an_anomaly_of_either_kind_is_one(anomaly: bool, stuck: bool) -> None:
    known = minutes(0, 79)
    judged = [*verdicts(known[:-3]), JudgedReading(known[-3].measured_at, anomaly, stuck), *verdicts(known[-2:])]
    histories = Histories(10)
    assert put(histories, known, judged).has_anomaly() is (anomaly or stuck)
    assert put(histories, known, judged[-2:]).has_anomaly() is False, "before its verdicts nothing is known"


def test_only_what_is_known_is_remembered() -> None:
    assert Histories(10).extended("a", [reading(0)], MINUTE) is None
    assert remembering(minutes(0, 60)).extended("b", [reading(61)], MINUTE) is None


@pytest.mark.parametrize(("readings", "used"), [(READY - 1, False), (READY, True)])
def test_a_history_reaches_over_a_window_less_its_last_reading(readings: int, used: bool) -> None:
    known = minutes(0, readings - 1)
    found = remembering(known, verdicts(known[-5:])).extended("a", [reading(readings)], MINUTE)
    assert (found is not None) is used


@pytest.mark.parametrize(
    ("number", "late", "used"),
    [(99, 0.5, True), (99, 0.6, False), (41, 0.5, True), (41, 0.6, False), (40, 0.6, True)],
)
def test_a_series_with_a_gap_is_not_remembered(number: int, late: float, used: bool) -> None:
    known = [*minutes(0, number - 1), reading(number + late), *minutes(number + 1, 99)]
    found = remembering(known, verdicts(known[-READY:])).extended("a", [reading(number + late), reading(100)], MINUTE)
    assert (found is not None) is used


def test_a_gap_before_what_is_kept_is_none() -> None:
    known = [*minutes(0, 29), *minutes(40, 99)]
    assert remembering(known, verdicts(known[-5:])).extended("a", [reading(100)], MINUTE)
    assert remembering(known, verdicts(known[-61:])).extended("a", [reading(100)], MINUTE) is None


@pytest.mark.parametrize("number", [-1, -3, -5])
def test_a_series_that_lacks_a_verdict_is_not_remembered(number: int) -> None:
    known = minutes(0, 99)
    judged = verdicts(known[-5:])
    judged[number] = JudgedReading(judged[number].measured_at, None, is_stuck=True)
    histories = remembering(known)
    put(histories, known, judged)
    assert histories.extended("a", [reading(100)], MINUTE) is None, "nor is what was remembered before"


@pytest.mark.parametrize(("number", "used"), [(99, False), (70, False), (40, False), (39, True)])
def test_a_series_that_lacks_a_measure_is_not_remembered(number: int, used: bool) -> None:
    known = [
        replace(one, values={**one.values, **({} if k == number else {"humidity": 50.0})})
        for k, one in enumerate(minutes(0, 99))
    ]
    new = replace(reading(100), values={"temperature": 4.0, "humidity": 50.0})
    found = remembering(known, verdicts(known[-5:])).extended("a", [new], MINUTE)
    assert (found is not None) is used


def test_what_is_not_remembered_is_told_all_the_same() -> None:
    known = minutes(0, 30)
    told = put(Histories(10), known, verdicts(known[-5:], True), is_quiet=False)
    assert (columns(told.series), told.window()) == (columns(Series.of(known)), verdicts(known[-5:], True))


@pytest.mark.parametrize(
    ("new", "used"),
    [
        ((100, 101), True),
        ((100.5,), True),
        ((100.6,), False),
        ((101,), False),
        ((100, 102), False),
        ((99.5,), True),
        ((98.5,), False),
        ((39,), False),
        ((39, 100), False),
        ((95, 99, 100), True),
        ((94, 99, 100), False),  # of which only the value is known
    ],
)
def test_a_history_is_used_only_while_nothing_can_be_missing(new: tuple[float, ...], used: bool) -> None:
    known = minutes(0, 99)
    found = remembering(known, verdicts(known[-5:])).extended("a", [reading(number) for number in new], MINUTE)
    assert (found is not None) is used
    if found:
        added = [reading(number) for number in new if number > 99]
        assert columns(found.series) == columns(Series.of([*known[-READY:], *added]))


@pytest.mark.parametrize("values", [{}, {"humidity": 5.0}, {"temperature": 5.0, "humidity": 5.0}])
def test_a_reading_of_other_measures_is_not_put_after_a_history(values: dict[str, float]) -> None:
    new = replace(reading(100), values=values)
    assert remembering(minutes(0, 99)).extended("a", [new], MINUTE) is None


@pytest.mark.parametrize("number", [40, 70, 99])
@pytest.mark.parametrize("then", [(), (100,)])
def test_a_reading_that_is_remembered_changes_nothing(number: int, then: tuple[int, ...]) -> None:
    known = minutes(0, 99)
    histories = remembering(known, verdicts(known[-60:]))
    new = [reading(at) for at in then]
    found = histories.extended("a", [reading(number), *new], MINUTE)
    assert found
    assert columns(found.series) == columns(Series.of([*known[-60:], *new]))
    assert (found.window(), found.first_new) == (verdicts(known[-60:]), 60)


@pytest.mark.parametrize("number", [40, 70, 99])
@pytest.mark.parametrize("values", [{"temperature": -1.0}, {"humidity": 4.0}, {}])
def test_a_reading_that_was_corrected_is_not_as_remembered(number: int, values: dict[str, float]) -> None:
    histories = remembering(minutes(0, 99))
    assert histories.extended("a", [replace(reading(number), values=values)], MINUTE) is None
    assert histories.extended("a", [reading(100)], MINUTE) is None, "the history is forgotten"


def test_a_history_that_was_not_used_is_forgotten() -> None:
    histories = remembering(minutes(0, 99))
    assert histories.extended("a", [reading(105)], MINUTE) is None
    assert histories.extended("a", [reading(100)], MINUTE) is None


def test_the_sensor_that_was_seen_longest_ago_is_forgotten() -> None:
    def goes_on(sensor_id: str, number: int) -> bool:
        found = histories.extended(sensor_id, [reading(number)], MINUTE)
        if found:
            judged = verdicts(minutes(number - 60, number))
            histories.put(sensor_id, found.series, judged, interval=MINUTE, is_quiet=True)
        return found is not None

    histories, known = Histories(2), minutes(0, 99)
    for sensor_id in ("a", "b"):
        put(histories, known, verdicts(known), sensor_id)
    assert goes_on("a", 100)
    put(histories, known, verdicts(known), "c")
    assert not goes_on("b", 100)
    assert goes_on("a", 101)
    assert goes_on("c", 100)


def test_a_sensor_takes_as_much_room_as_it_has_measures() -> None:
    remembered = Remembered[str](5)
    for sensor_id, measures in (("a", 1), ("b", 3), ("c", 1), ("b", 2), ("d", 2)):
        remembered.put(sensor_id, sensor_id.upper(), measures)
    assert [remembered.get(sensor_id) for sensor_id in "abcde"] == [None, "B", "C", "D", None]


@pytest.mark.parametrize("measures", [1, 3])
def test_what_a_detector_remembers_fits_its_memory(measures: int) -> None:
    """With two cutoffs of each sensor, as after a training; its clients, models and a batch have 100 MB beside it."""
    names = ["temperature", "humidity", "power"][:measures]
    readings = [Reading("a", NOON + k * MINUTE, dict.fromkeys(names, 4.0 + k / 10)) for k in range(WINDOW + 4)]
    features = {feature: Usual(4.0, 1.5, 2.5) for feature in get_args(Feature)}
    ranges = tuple(UsualRange(name, 3.0, 5.0, 0.5, features, features) for name in names)
    cutoff = Cutoff("a", NOON, NOON, "cohort", "1", 1.0, 0.5, 0.1, 2.5, MINUTE, 1_000, 9, ranges)
    stored = dump_cutoffs([cutoff, replace(cutoff, trained_at=NOON + MINUTE)])
    remembered = MANY_LOTS.remembered
    histories, cutoffs = Histories(remembered), Remembered[list[Cutoff]](remembered)
    tracemalloc.start()
    for number in range(remembered // measures // 200):
        put(histories, readings, verdicts(readings[-5:]), f"sensor-{number}")
        cutoffs.put(f"sensor-{number}", load_cutoffs(stored), measures)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert histories.newest("sensor-0") is not None
    sys.stdout.write(f"{200 * taken / 2**20:.0f} MB of {MANY_LOTS.memory_mb}\n")
    assert 100 < 200 * taken / 2**20 < MANY_LOTS.memory_mb - 100


@given(
    steps=st.lists(st.sampled_from([60] * 30 + [30, 90, 91, 120]), min_size=READY, max_size=150),
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=20),
    repeated=st.lists(st.integers(1, 40), max_size=10),
    judged=st.integers(1, 80),
)
def test_a_history_gives_what_the_table_would(
    steps: list[int], batches: list[int], repeated: list[int], judged: int
) -> None:
    """Whatever comes in whatever batches, some readings again: what memory gives is the end of what is in the table,
    with the verdicts given to it, and reaches back over the windows of all that is new."""
    times = [sum(steps[:k]) / 60 for k in range(len(steps) + 1)]
    table = [JudgedReading(NOON + at * MINUTE, k % 7 == 0, k % 5 == 0) for k, at in enumerate(times)]
    readings = [reading(at) for at in times]
    histories, came = Histories(1), READY
    put(histories, readings[:came], table[:came])
    for batch, again in zip(cycle(batches), cycle(repeated or [0]), strict=False):
        if came >= len(table):
            break
        ends = min(came + batch, len(table))
        found = histories.extended("a", readings[max(0, came - again) : ends], MINUTE)
        if found:
            first = ends - len(found.series.times)
            assert columns(found.series) == columns(Series.of(readings[first:ends]))
            assert all(steps[k] <= 90 for k in range(first, ends - 1))
            assert found.series.times[found.first_new] == readings[came].measured_at.timestamp()
            assert found.window() == table[came - found.judged : came]
            assert first <= came - READY
            histories.put("a", found.series, table[max(first, ends - judged) : ends], interval=MINUTE, is_quiet=True)
        else:
            assert max(steps) > 90, "nothing was missing"
            put(histories, readings[:ends], table[max(0, ends - judged) : ends])
        came = ends


# --- clients ---


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "us-gov-west-1", "cn-north-1", "mx-central-1"])
@pytest.mark.parametrize("service", ["s3", "dynamodb", "sns", "sqs"])
def test_a_small_client_asks_as_the_usual_one_does(service: str, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    usual = boto3.client(service)  # type: ignore[call-overload]
    small = small_clients("s3", "dynamodb", "sns", "sqs")(service)
    assert small.meta.endpoint_url == usual.meta.endpoint_url
    assert small.meta.config.signature_version == usual.meta.config.signature_version
    assert small.meta.service_model.signing_name == usual.meta.service_model.signing_name
    assert small.meta.partition == usual.meta.partition
    if service == "s3":
        asked = {"Params": {"Bucket": "bucket", "Key": "key"}, "ExpiresIn": 60}
        signed = [client.generate_presigned_url("get_object", **asked) for client in (usual, small)]
        assert signed[0].partition("?")[0] == signed[1].partition("?")[0]
