"""One id in the logs: from the poll that heard a reading, through the incident that it opened, to the texts of it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lambdas.sensors.detect_anomalies import handler as detecting
from lambdas.sensors.poll_readings import handler as polling
from overcut.sensors.readings import Reading, format_time
from overcut.sensors.server_sent_events import SourceClosedError
from tests.conftest import ROOT
from tests.functional import test_detect_anomalies, test_poll_readings
from tests.functional.streams import stream_record
from tests.functional.test_detect_anomalies import HOT, Plant, at, hot, usual
from tests.functional.test_poll_readings import STREAM, Script
from workbench.cloud.environment import emulator_environment

plant = test_detect_anomalies.plant
serve = test_poll_readings.serve

POLLED = {"PENDING_EXPORTS_TABLE": "PendingExports", "RETENTION_DAYS": "30", "EXPORT_BUCKETS": "16"}
MAPPING = {"measures": {"temperature": "C"}, "sensor_id": "id", "measured_at": "at", "values": "values"}


@pytest.fixture
def polled(
    plant: Plant, serve: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """Have the function hear readings from a device, and what else that sends."""
    for name, value in POLLED.items():
        monkeypatch.setenv(name, plant.cloud.tables.get(value, value))
    polling.dependencies.cache_clear()

    def hear(readings: list[Reading], more: bytes = b"") -> None:
        plant.set_clock(readings[-1].measured_at)
        events = (
            json.dumps({"id": one.sensor_id, "at": format_time(one.measured_at), "values": dict(one.values)})
            for one in readings
        )
        body = b"retry: 100\n\n" + b"".join(f"data: {event}\n\n".encode() for event in events) + more
        # who has heard all of it is asked to stay away, which ends the poll
        source = serve(STREAM + body, b"HTTP/1.1 204 No Content\r\n\r\n")
        context: Any = SimpleNamespace(get_remaining_time_in_millis=lambda: 60_000, aws_request_id="request")
        with pytest.raises(SourceClosedError):
            polling.handler({"source_id": "device", "url": source.url, "mapping": MAPPING}, context)

    yield hear
    polling.dependencies().poller.threads.shutdown()
    polling.dependencies.cache_clear()


def logged(caplog: pytest.LogCaptureFixture, function: str, event: str) -> list[dict[str, Any]]:
    """What a function logged under an event's name."""
    return [vars(one) for one in caplog.records if (one.name, one.message) == (function, event)]


def test_one_id_leads_from_the_poll_to_the_text(
    plant: Plant, polled: Callable[..., None], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    plant.add("a", history=40)
    capsys.readouterr()
    polled(hot(0, 4), b"data: call +4915112345678\n\n")
    plant.deliver(hot(0, 4))
    polled(usual(5, 40))
    plant.deliver(usual(5, 40))

    the_id = "a@2026-01-05T12:04:00Z"
    (stored, _) = logged(caplog, "poll_readings", "stored")
    assert stored["readings"] == [f"a@2026-01-05T12:0{minute}:00Z" for minute in range(5)]
    assert the_id in stored["readings"]
    assert (stored["source_id"], stored["number"]) == ("device", 5)
    assert (stored["measured_from"], stored["measured_to"]) == ("2026-01-05T12:00:00Z", "2026-01-05T12:04:00Z")
    (quarantined,) = logged(caplog, "poll_readings", "quarantined")
    assert (quarantined["source_id"], quarantined["number"]) == ("device", 1)
    incident = plant.one_incident()
    (opened,) = logged(caplog, "detect_anomalies", "incident")
    assert (opened["reading"], opened["reference"]) == (the_id, incident.reference)
    texts = logged(caplog, "detect_anomalies", "text")
    assert [(str(text["kind"]), text["readings"], text["references"]) for text in texts] == [
        ("alert", [the_id], [incident.reference]),
        ("recovery", [the_id], [incident.reference]),
    ]
    assert all(incident.reference in body for body in plant.texts()["day"])
    # a logger writes to the output of the test in which it was made: what it was given is looked at, beside the metrics
    written = [json.dumps(vars(one), default=str) for one in caplog.records]
    everything = "\n".join([*written, capsys.readouterr().out])
    for kept_out in (str(HOT), "temperature", "4915112345678", "ALERT"):
        assert kept_out not in everything


def test_of_many_readings_some_are_named_and_all_are_counted(
    plant: Plant, polled: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    polled([Reading(f"s-{number:02}", at(0), {"temperature": 4.0}) for number in range(30)])
    (stored,) = logged(caplog, "poll_readings", "stored")
    assert (stored["number"], len(stored["readings"])) == (30, 20)


@pytest.mark.parametrize("keys", [True, False], ids=["with keys", "without"])
def test_a_record_that_is_parked_is_logged_by_the_id_of_its_reading(
    plant: Plant, caplog: pytest.LogCaptureFixture, keys: bool
) -> None:
    plant.store(hot(0, 0))
    record = stream_record(plant.cloud, hot(0, 0)[0], written_at=at(0))
    record["dynamodb"] = {"Keys": record["dynamodb"]["Keys"]} if keys else {}
    plant.set_clock(at(0))
    detecting.handler({"Records": [record]}, None)
    (parked,) = logged(caplog, "detect_anomalies", "parked")
    assert parked["reading"] == ("a@2026-01-05T12:00:00Z" if keys else "")


def test_a_function_of_the_embedded_cloud_logs_as_on_aws(tmp_path: Path) -> None:
    """It inherits the emulator's environment, which asks the emulator for warnings alone."""
    told = "from lambdas.runtime.observability import Observability; Observability('f', 'local').info('stored')"
    environment = emulator_environment(tmp_path, 4566, {})
    ran = subprocess.run([sys.executable, "-c", told], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert json.loads(ran.stdout)["message"] == "stored"
