"""`overcut sources check` over a real loopback socket: what is told of events, and the mapping that is proposed."""

import json
import re
import socket
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from overcut.sensors.readings import RefusedReadingError, format_time
from stacks.stage import make_stage
from tests.functional.test_poll_readings import STREAM, Script
from workbench.cli import main
from workbench.mapping_proposal import NoProposalError, propose

NOW = datetime.now(UTC).replace(microsecond=0)
AT = [format_time(NOW - timedelta(minutes=10 - k)) for k in range(10)]

served: list[Script] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while served:
        served.pop().close()


def serve(*events: object, answer: bytes = STREAM) -> str:
    bodies = (one if isinstance(one, str) else json.dumps(one) for one in events)
    served.append(Script(answer + "".join(f"data: {body}\n\n" for body in bodies).encode()))
    return served[-1].url


def run(url: str, *arguments: str, given: str = "") -> Result:
    # as wide as a wide terminal; a stream that has ended is not waited for
    asked = ["sources", "check", url, *arguments]
    return CliRunner().invoke(main, asked, input=given, env={"COLUMNS": "250"})


def told(url: str, *arguments: str) -> Any:
    ran = run(url, "--json", *arguments)
    told = json.loads(ran.stdout)
    assert ran.exit_code == (0 if all(one["reading"] for one in told["events"]) else 1)
    return told


OWN = [{"sensor_id": "a", "measured_at": AT[0], "values": {"temperature": 4.1}}]
DEEP = [
    {"type": "m", "payload": {"deviceId": f"d{k}", "ts": AT[k], "data": {"t1": 4.0 + k, "rh": 50}}, "seq": k}
    for k in range(3)
]
FLAT = [{"Sensor Id": 7, "takenAt": AT[k], "temp-c": 4.5, "note": "ok", "pressure": 1.0} for k in range(2)]
ELSEWHERE = [{"id": "x", "time": AT[0], "reading": {"temp": 1.5, "unit": "C"}, "meta": {"temp": 30.0}}]


@pytest.mark.parametrize(
    ("events", "source", "first"),
    [
        (OWN, {}, {"sensor_id": "a", "values": {"temperature": 4.1}}),
        (
            DEEP,
            {"sensor_id": "payload.deviceId", "measured_at": "payload.ts", "values": "payload.data"},
            {"sensor_id": "d0", "values": {"t1": 4.0, "rh": 50.0}},
        ),
        (
            FLAT,
            {
                "sensor_id": 'to_string("Sensor Id")',
                "measured_at": "takenAt",
                "values": '{pressure: pressure, "temp-c": "temp-c"}',
            },
            {"sensor_id": "7", "values": {"temp-c": 4.5, "pressure": 1.0}},
        ),
        (
            ELSEWHERE,
            {"sensor_id": "id", "measured_at": "time", "values": "{reading_temp: reading.temp, temp: meta.temp}"},
            {"sensor_id": "x", "values": {"temp": 30.0, "reading_temp": 1.5}},
        ),
    ],
    ids=["Overcut's own form", "an object of values", "names that are no identifiers", "the same name twice"],
)
def test_the_proposal_can_be_pasted_and_reads_every_event(
    events: list[dict[str, Any]], source: dict[str, str], first: dict[str, Any]
) -> None:
    url = serve(*events)
    found = told(url)
    assert found["events"][0]["reading"] == {**first, "measured_at": AT[0]}
    (pasted,) = tomllib.loads(found["stage_file"])["sensors"]["sources"].values()
    assert pasted == {"url": url, **source, "measures": dict.fromkeys(first["values"], "")}
    contacts = {"contacts": {"a": {}}, "default_contact": "a"}
    sensors = tomllib.loads(found["stage_file"])["sensors"] | contacts
    stage = make_stage({"name": "s", "region": "us-east-1", "sensors": sensors}, "test").with_sensors()
    for event, outcome in zip(events, found["events"], strict=True):
        read = stage.sensors.sources["device"].mapping.read(json.dumps(event), NOW)
        assert {"sensor_id": read.sensor_id, "measured_at": format_time(read.measured_at)} == {
            key: outcome["reading"][key] for key in ("sensor_id", "measured_at")
        }
        assert dict(read.values) == outcome["reading"]["values"]


def test_what_would_be_refused_is_told_with_the_reason_and_ends_with_1() -> None:
    late = {**OWN[0], "measured_at": format_time(NOW - timedelta(days=300))}
    url = serve(*OWN, "no JSON", {**OWN[0], "values": {"temperature": "hot"}}, late)
    refused = [one["refused"] for one in told(url)["events"]]
    assert refused[0] is None
    assert refused[1] == "the event is not JSON"
    assert "temperature" in refused[2]
    assert refused[3].startswith("measured_at is too old")
    assert "refused: the event is not JSON" in run(serve(*OWN, "no JSON")).output


def test_a_refusal_is_shown_once_with_its_number_and_the_last_line_counts() -> None:
    old = [{**OWN[0], "measured_at": format_time(NOW - timedelta(days=300 + k))} for k in range(6)]
    ran = run(serve(*OWN, *old, "no JSON", "nor this"))
    assert ran.exit_code == 1
    assert ran.output.count("refused, 6 times: measured_at is too old: ") == 1
    assert ran.output.count("refused, 2 times: the event is not JSON") == 1
    assert ran.output.splitlines()[-1] == "Accepted 1, refused 8."
    found = told(serve(*OWN, *old))
    assert (found["accepted"], found["refused"], len(found["events"])) == (1, 6, 7)
    assert run(serve(*OWN)).output.splitlines()[-1] == "Accepted 1, refused 0."


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "could not be reached: the connection is refused; check the url's port, and that the source runs"),
        (b"SSH-2.0-OpenSSH\r\n", "could not be reached: it ended the connection, or speaks no HTTP; check the url"),
    ],
)
def test_why_a_source_cannot_be_reached_is_told_without_the_library(answer: bytes | None, words: str) -> None:
    if answer is None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            url = f"http://127.0.0.1:{closed.getsockname()[1]}/events"
    else:
        url = serve(answer=answer)
    ran = run(url)
    assert ran.exit_code == 1
    assert ran.stderr.startswith(f"Error: {url} {words}")
    assert not re.search(r"_|Errno|0x|Connection\(", ran.stderr)


def test_numbers_that_measure_nothing_are_left_out_and_named() -> None:
    found = told(serve(*({"id": "a", "time": AT[k], "t": 4.0, "seq": k, "lat": 52.1} for k in range(2))))
    assert found["left_out"] == ["lat", "seq"]
    assert '"t"' not in found["stage_file"]
    assert found["events"][0]["reading"]["values"] == {"t": 4.0}


def test_a_measure_that_only_some_events_have_is_left_out_of_a_flat_form() -> None:
    found = told(serve({"id": "a", "time": AT[0], "t": 4.0, "h": 50}, {"id": "b", "time": AT[1], "t": 5.0}))
    assert found["left_out"] == ["h"]
    assert [one["reading"]["values"] for one in found["events"]] == [{"t": 4.0}, {"t": 5.0}]


def test_it_looks_at_ten_events() -> None:
    assert len(told(serve(*({**OWN[0], "measured_at": at} for at in [*AT, *AT])))["events"]) == 10


@pytest.mark.parametrize(
    ("events", "why"),
    [
        (["[1, 2]"], "no event is a JSON object"),
        ([{"id": "a", "time": 1767612000, "t": 4.0}], "no field of most events is a time in ISO 8601"),
        ([{"time": AT[0], "t": 4.0}], "looks like the name of a sensor"),
        ([{"id": "a", "time": AT[0], "t": "4.0"}], "no field of every event is a number"),
    ],
)
def test_why_nothing_can_be_proposed_is_told(events: list[object], why: str) -> None:
    found = told(serve(*events))
    assert why in found["why_none"]
    assert found["stage_file"] == ""
    assert f"No mapping can be proposed: {found['why_none']}." in run(serve(*events)).output


def test_hostile_text_is_spelled_out() -> None:
    evil = "\x1b]0;owned\x07[red]\u202e"
    event = {"sensor_id": evil, "measured_at": AT[0], "values": {f"t{evil}": 1.0}}
    output = run(serve(event, evil)).output
    pasted = tomllib.loads(output[output.index("[sensors") : output.index("Accepted")])
    assert list(pasted["sensors"]["sources"]["device"]["measures"]) == [f"t{evil}"]
    assert "\x1b" not in output
    assert "\u202e" not in output
    assert "[red]" in output


def test_the_secret_goes_with_the_request_and_into_no_output() -> None:
    url = serve(*OWN)
    found = run(url, "--secret-header", "-", given="Bearer abc\n")
    assert found.exit_code == 0
    assert served[-1].headers(0)["Authorization"] == "Bearer abc"
    assert "abc" not in found.output
    assert 'secret_name = "overcut/device"' in found.output


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", "answered 401: check the source's credentials"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n", "check the url"),
        (STREAM, "answered and sent no event"),
    ],
)
def test_a_source_that_cannot_be_read_is_told_in_one_sentence(answer: bytes, words: str) -> None:
    ran = run(serve(answer=answer))
    assert ran.exit_code == 1
    assert words in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_an_address_that_no_stage_takes_is_refused_before_it_is_asked() -> None:
    ran = run("http://example.com/events")
    assert ran.exit_code == 1
    assert "must begin with https://" in ran.stderr
    assert ran.stderr.count("\n") == 1


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(AT)
names = st.sampled_from(["id", "time", "t", "sensor", "values"]) | st.text(max_size=4)
objects = st.recursive(
    st.dictionaries(names, leaves, max_size=5), lambda inner: st.dictionaries(names, inner | leaves, max_size=4)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(objects, min_size=1, max_size=4))
def test_whatever_comes_a_proposal_is_jmespath_that_finds_the_parts(events: list[dict[str, Any]]) -> None:
    texts = [json.dumps(event) for event in events]
    try:
        proposal = propose(texts)
    except NoProposalError:
        return
    proposal.mapping.check()
    missed = 0
    for text in texts:
        try:
            proposal.mapping.read(text, NOW)
        except RefusedReadingError as error:
            # what is wrong lies in a value, but for an odd event not in what the mapping looks for
            missed += "the event has no" in str(error) or "unknown measure" in str(error)
    assert missed < len(texts)
