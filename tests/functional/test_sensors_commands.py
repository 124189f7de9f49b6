"""`overcut sensors`: which deployment it asks, and what it says when that is not there."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from click.testing import CliRunner

from lambdas.sensors.stores import Learning, Sensor
from workbench.sensors_commands import sensors
from workbench.sensors_system import SensorsSystem
from workbench.workflows import failure_reason


class NoStacks(BaseHTTPRequestHandler):
    """CloudFormation of an account without stacks."""

    scopes: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        # Credential=<key>/<date>/<region>/<service>/aws4_request
        self.scopes.append(self.headers["Authorization"].split("Credential=")[1].split(",")[0])
        error = b"<Error><Code>ValidationError</Code><Message>no such stack</Message></Error>"
        body = b"<ErrorResponse>" + error + b"</ErrorResponse>"
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives
        """Requests are not logged."""


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An account without stacks, which the environment names; it names no region."""
    NoStacks.scopes.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), NoStacks) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def error_of(*arguments: str) -> str:
    ran = CliRunner().invoke(sensors, [*arguments])
    assert ran.exit_code == 1, ran.output
    assert ran.stderr.count("\n") == 1
    return ran.stderr.strip()


@pytest.mark.usefixtures("account")
def test_the_stage_names_the_region() -> None:
    said = error_of("--stage", "dev", "list")
    assert said == (
        "Error: stack Overcut-dev-sensors is not in eu-central-1 in this account (no such stack);"
        " deploy it, or name another --stage"
    )
    (scope,) = NoStacks.scopes
    assert scope.split("/")[2:4] == ["eu-central-1", "cloudformation"]


def test_a_cloud_that_is_down_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert error_of("list").startswith("Error: nothing answers at http://127.0.0.1:1/; if that is an embedded cloud")


def test_no_sensors_are_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = SimpleNamespace(sensors=SimpleNamespace(all=list))
    monkeypatch.setattr(SensorsSystem, "deployed", lambda _: empty)
    ran = CliRunner().invoke(sensors, ["list"])
    assert ran.output == (
        "Stage dev has no sensors yet: one registers itself with its first reading, or import them.\n"
    )
    assert CliRunner().invoke(sensors, ["list", "--json"]).output == "[]\n"


def test_the_list_says_until_when_a_sensor_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Sensor("judged", "device", {"temperature": "C"}),
        Sensor("rare", "device", {"temperature": "C"}, learning=Learning(168, "")),
        Sensor("young", "device", {"temperature": "C"}, learning=Learning(120, "2026-01-06T20:00:00Z")),
    ]
    monkeypatch.setattr(
        SensorsSystem, "deployed", lambda _: SimpleNamespace(sensors=SimpleNamespace(all=lambda: found))
    )
    monkeypatch.setenv("COLUMNS", "200")
    lines = CliRunner().invoke(sensors, ["list"]).output.splitlines()
    states = {line.split("│")[1].strip(): line.split("│")[-2].strip() for line in lines if line.startswith("│")}
    assert states == {
        "judged": "",
        "rare": "learning, with 168 readings: too few ever to be judged",
        "young": "learning until 2026-01-06T20:00:00Z",
    }
    told = json.loads(CliRunner().invoke(sensors, ["list", "--json"]).output)
    assert [one["learning"] for one in told] == [
        None,
        {"readings": 168, "until": ""},
        {"readings": 120, "until": "2026-01-06T20:00:00Z"},
    ]


def test_a_list_that_cannot_be_used_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    assert error_of("import", str(tmp_path / "no.csv")).endswith("no.csv does not exist; give the path of a CSV file")
    (tmp_path / "list.csv").write_text("sensor_id,colour\n")
    assert "has the column 'colour'; it may have sensor_id, name" in error_of("import", str(tmp_path / "list.csv"))


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        ('{"TrainingJobName": "t", "FailureReason": "AlgorithmError: no readings"}', "AlgorithmError: no readings"),
        ('{"Name": "extract", "State": "FAILED", "StateDetails": "Job failed"}', "Job failed"),
        ('{"errorMessage": "no bucket", "errorType": "KeyError"}', "no bucket"),
        ("it took too long", "it took too long"),
        ("[1]", "[1]"),
        ('{"Status": 3}', '{"Status": 3}'),
        ("", ""),
    ],
)
def test_why_a_training_failed_is_told_in_words(cause: str, reason: str) -> None:
    assert failure_reason(cause) == reason
