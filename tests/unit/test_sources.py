"""Sources: any vendor's event is brought to a reading by three expressions, or refused with the reason."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overcut.sensors.readings import Reading, RefusedReadingError
from overcut.sensors.sources import FieldMapping, FieldMappingError

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
OWN = FieldMapping({"temperature": "C", "humidity": "%"})
VENDOR = FieldMapping(
    {"temperature": "C", "humidity": "%"},
    sensor_id="join('-', ['hvac', to_string(device.serial)])",
    measured_at="ts",
    values="{temperature: data[0].t1, humidity: data[0].rh}",
)


def reason(mapping: FieldMapping, data: str) -> str:
    with pytest.raises(RefusedReadingError) as refused:
        mapping.read(data, NOW)
    return str(refused.value)


def test_our_own_form() -> None:
    data = '{"sensor_id": "hvac-323", "measured_at": "2021-06-10T12:02:00Z", "values": {"temperature": 29.1}}'
    assert OWN.read(data, NOW) == Reading("hvac-323", datetime(2021, 6, 10, 12, 2, tzinfo=UTC), {"temperature": 29.1})


def test_a_vendors_form() -> None:
    event = {"device": {"serial": 323}, "ts": "2021-06-10T12:02:00Z", "data": [{"t1": 29.1, "rh": 40}]}
    assert VENDOR.read(json.dumps(event), NOW) == Reading(
        "hvac-323", datetime(2021, 6, 10, 12, 2, tzinfo=UTC), {"humidity": 40.0, "temperature": 29.1}
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("nonsense", "the event is not JSON"),
        ("null", "the event has no sensor_id (looked for sensor_id)"),
        ("[]", "the event has no sensor_id (looked for sensor_id)"),
        ('{"sensor_id": "a"}', "the event has no measured_at (looked for measured_at)"),
        ('{"sensor_id": "a", "measured_at": "2021-06-10T12:02:00Z"}', "the event has no values (looked for values)"),
        (
            '{"sensor_id": "a", "measured_at": "2021-06-10T12:02:00Z", "values": null}',
            "the event has no values (looked for values)",
        ),
        (
            '{"sensor_id": "a", "measured_at": "2021-06-10T12:02:00Z", "values": {"temperature": NaN}}',
            "temperature is not a finite number of at most 1e+30: nan",
        ),
    ],
)
def test_refused(data: str, why: str) -> None:
    assert reason(OWN, data) == why


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("{temperature: ceil(x)}", "Infinity"),
        ("{temperature: floor(x)}", "NaN"),
        ("{temperature: abs(x)}", '"text"'),
        ("x[?a > `1`] | [0]", '[{"a": "text"}]'),
        ("max_by(x, &a)", '[{"a": 1}, {"a": "text"}]'),
        ("x[::0]", "[1]"),
        ("{temperature: length(x)}", "5"),
    ],
)
def test_an_event_that_an_expression_does_not_fit_is_refused(expression: str, value: str) -> None:
    mapping = FieldMapping({"temperature": "C"}, values=expression)
    data = f'{{"sensor_id": "a", "measured_at": "2021-06-10T12:02:00Z", "x": {value}}}'
    assert reason(mapping, data).startswith(
        ("the field mapping does not fit the event: ", "values is not", "temperature")
    )


@pytest.mark.parametrize("part", ["sensor_id", "measured_at", "values"])
@pytest.mark.parametrize("expression", ["", "{", "a[", "a..b", "{a b}"])
def test_no_expressions(part: str, expression: str) -> None:
    mapping = FieldMapping({"temperature": "C"}, **{part: expression})
    with pytest.raises(FieldMappingError, match=f"^{part} is not a JMESPath expression: "):
        mapping.check()


def test_a_function_that_does_not_exist_is_found_before_an_event_comes() -> None:
    for expression in ("lower(a)", "{temperature: data.to_num(x)}", "a || b.[lower(c)]"):
        with pytest.raises(FieldMappingError, match=r"^values calls \w+\(\), which JMESPath does not have$"):
            FieldMapping({"temperature": "C"}, values=expression).check()
    VENDOR.check()


@given(
    st.text(), st.recursive(st.none() | st.text() | st.floats(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_no_event_stops_the_stream(raw: str, event: object) -> None:
    for mapping in (OWN, VENDOR):
        for data in (raw, json.dumps(event), json.dumps({"device": {"serial": 1}, "ts": raw, "data": event})):
            with pytest.raises(RefusedReadingError):
                mapping.read(data, NOW)


def test_no_depth_stops_the_stream() -> None:
    form = '{"sensor_id": "a", "measured_at": "2021-06-10T12:02:00Z", "values": %s}'
    for depth in [*range(900, 1010), 5000, 100_000]:
        for deep in ("[" * depth + "]" * depth, '{"temperature":' * depth + "1" + "}" * depth):
            with pytest.raises(RefusedReadingError):
                OWN.read(form % deep, NOW)
