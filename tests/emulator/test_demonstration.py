"""The deployed stack, end to end: `overcut demo` in processes of its own, as a person runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from overcut.sensors.readings import format_time
from tests.conftest import recorded_data
from tests.emulator.decisions import refused, spared, unexplained
from workbench.cloud.environment import client_environment
from workbench.cloud.processes import EmbeddedCloud
from workbench.demonstration.sensors import KEPT
from workbench.readings_files import read_readings, write_readings
from workbench.simulate import simulate_unit

pytestmark = pytest.mark.emulator

OVERCUT = Path(sys.executable).parent / "overcut"
STARTED_AT = datetime(2026, 3, 2, tzinfo=UTC)
LIVE_FROM = STARTED_AT + timedelta(days=1)


class Demo:
    """A demonstration in a process of its own."""

    def __init__(self, state: Path, *arguments: str) -> None:
        self.state = state
        self.log = state.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [OVERCUT, "demo", "--state", state, *arguments], stdout=log, stderr=subprocess.STDOUT
            )

    def summary(self) -> dict[str, Any]:
        """The summary, once the demonstration has ended well."""
        assert self.process.wait(400) == 0, self.log.read_text()
        summary: dict[str, Any] = json.loads((self.state / "summary.json").read_text())
        return summary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demonstrations")


@pytest.fixture(scope="module")
def simulated(folder: Path) -> Iterator[Demo]:
    readings, _ = simulate_unit(history_days=1, live_hours=2.5, seed=5, started_at=STARTED_AT)
    write_readings(folder / "unit.csv.gz", readings)
    arguments = ("--readings", str(folder / "unit.csv.gz"), "--train-until", format_time(LIVE_FROM), "--speed", "120")
    demo = Demo(folder / "simulated", *arguments)
    yield demo
    demo.process.kill()


@pytest.fixture(scope="module")
def recorded(folder: Path) -> Iterator[tuple[Demo, Demo]]:
    """The laboratory's evaporator, by one measure and by all three: two demonstrations at the same time."""
    found = read_readings(recorded_data("hvac_evaporator_2021.csv.gz"))
    until = datetime(2021, 6, 10, 12, 50, tzinfo=UTC)
    write_readings(folder / "hvac.csv.gz", (r for r in found.readings if r.measured_at < until))
    arguments = ("--readings", str(folder / "hvac.csv.gz"), "--train-until", "2021-06-10T11:00:00Z", "--speed", "120")
    demos = (
        Demo(folder / "one", *arguments, "--measure", "evaporator_temperature"),
        Demo(folder / "three", *arguments),
    )
    yield demos
    for demo in demos:
        demo.process.kill()


def test_meanwhile_the_doctor_finds_nothing_wrong(simulated: Demo) -> None:
    """The account before, sources and stacks while it runs; what the embedded cloud does not have is not checked."""
    cloud = EmbeddedCloud(simulated.state / "cloud")
    asked: list[str | Path] = [OVERCUT, "doctor", "--json", "--stage", simulated.state / "stage.toml"]
    ran = None
    # before the first event was read, and while the fault lasts, something needs somebody
    while (ran is None or ran.returncode) and simulated.process.poll() is None:
        time.sleep(1)
        if (cloud.state / "outputs.json").exists() and (running := cloud.status()):
            environment = {**os.environ, **client_environment(running.url)}
            ran = subprocess.run(asked, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert ran
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = {one["check"]: one["outcome"] for one in json.loads(ran.stdout)}
    assert {check for check, outcome in found.items() if outcome != "passed"} == {
        "SMS sandbox",
        "SMS spend limit",
        "SMS sender",
        "training instances",
        "operations addresses",
    }
    assert set(found.values()) == {"passed", "not checked"}
    assert {"account", "CDK bootstrap", "source device", "stacks", "running"} <= found.keys()


def test_one_fault_gives_one_alert_and_one_recovery(simulated: Demo) -> None:
    summary = simulated.summary()
    (incident,) = summary["incidents"]
    # the simulated unit's fault is 25 minutes long and begins 40 minutes into the live part; until 01:37 it is most of
    # what a jump is measured from, and being back is one; half an hour later that is over, too
    assert incident == {
        "sensor_id": "unit-1",
        "kind": "equipment",
        "first_anomalous_at": "2026-03-03T00:40:00Z",
        "opened_at": "2026-03-03T00:44:00Z",
        "usual_since": "2026-03-03T01:05:00Z",
        "recovered_at": "2026-03-03T02:07:00Z",
        "anomalous_minutes": 25,
    }
    assert [text["kind"] for text in summary["texts"]] == ["alert", "recovery"]
    assert all(len(text["body"]) <= 160 for text in summary["texts"])
    assert summary["texts"][1]["body"].startswith(
        "OK AGAIN unit-1, no site yet: usual values since 01:05 UTC. The fault began 00:40. Ref "
    )
    assert summary["readings"] == {"streamed": 1590, "stored": 1590, "quarantined": 0}
    assert summary["asked"] == [
        {
            # six letters of the hash of whose it is, what, and since when
            "reference": "JPWEQQ",
            "name": "unit-1",
            "first_anomalous_at": "2026-03-03 00:40:00",
            "value": summary["asked"][0]["value"],
            "usual_high": summary["asked"][0]["usual_high"],
            "texts_sent": "2",
        }
    ]
    assert float(summary["asked"][0]["value"]) > float(summary["asked"][0]["usual_high"])
    assert summary["training"]["status"] == "SUCCEEDED"
    assert summary["training"]["sensors"] == 1
    # the one that is asked something for every reading has more of a core
    larger = {one["name"]: one["memory_mb"] for one in summary["functions"] if one["memory_mb"] != 128}
    assert larger == {"detect_anomalies": 512}
    assert sum(function["errors"] for function in summary["functions"]) == 0
    assert EmbeddedCloud(simulated.state / "cloud").status() is None


def test_what_it_leaves_is_told_by_its_own_clock(simulated: Demo) -> None:
    simulated.summary()
    report = (simulated.state / "report.html").read_text()
    # two and a half hours after the history, and a little for the last text
    ends = re.search(r"2026-03-02 00:00 to (\d{4}-\d\d-\d\d \d\d):\d\d\. Every time is UTC, by the clock", report)
    assert ends
    assert "2026-03-03 02" <= ends[1] <= "2026-03-03 12"
    days = set(re.findall(r"20\d\d-\d\d-\d\d", report))
    assert days == {"2026-03-02", "2026-03-03"}
    page = (simulated.state / "incident.html").read_text()
    assert "Abnormal since 00:40 UTC" in page
    assert KEPT in page


def test_its_roles_suffice_and_each_grant_is_needed(simulated: Demo) -> None:
    simulated.summary()
    assert refused(simulated.state) == []
    assert spared(simulated.state, "Overcut-local-sensors") == []
    assert unexplained(simulated.state, "Overcut-local-sensors") == set()


@pytest.mark.parametrize("which", [0, 1], ids=["one measure", "three measures"])
def test_the_recorded_fault_is_found_to_the_minute(recorded: tuple[Demo, Demo], which: int) -> None:
    summary = recorded[which].summary()
    assert summary["incidents"] == [
        {
            "sensor_id": "hvac-323",
            "kind": "equipment",
            "first_anomalous_at": "2021-06-10T12:02:00Z",
            "opened_at": "2021-06-10T12:06:00Z",
            "usual_since": "2021-06-10T12:11:00Z",
            "recovered_at": "2021-06-10T12:40:00Z",
            "anomalous_minutes": 9,
        }
    ]
    assert [text["kind"] for text in summary["texts"]] == ["alert", "recovery"]
    assert summary["readings"] == {"streamed": 770, "stored": 770, "quarantined": 0}


@pytest.mark.parametrize(
    "with_signal", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "told to end", "crash"]
)
def test_nothing_stays_behind(tmp_path: Path, with_signal: signal.Signals) -> None:
    demo = Demo(tmp_path / "state")
    cloud = EmbeddedCloud(demo.state / "cloud")
    _until(lambda: cloud.status() is not None)
    running = cloud.status()
    assert running is not None
    _until(lambda: (demo.state / "cloud" / "cdk-bootstrap.log").exists())
    again = subprocess.run(
        [OVERCUT, "demo", "--state", demo.state], capture_output=True, text=True, check=False, timeout=60
    )
    assert again.returncode == 1
    assert f"{running.url} (process {running.pid})" in again.stderr
    demo.process.send_signal(with_signal)
    assert demo.process.wait(30) != 0
    _until(lambda: cloud.status() is None)
    _until(lambda: not _group_lives(running.pid))


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "told to end"])
def test_who_ends_it_ends_the_synthesis_too(tmp_path: Path, with_signal: signal.Signals) -> None:
    demo = Demo(tmp_path / "state", "sensors")
    cloud = EmbeddedCloud(demo.state / "cloud")
    _until(lambda: (cloud.state / "cdk-synth.log").exists(), 60)
    running = cloud.status()
    assert running is not None
    _until(lambda: _children(demo.process.pid) - {running.pid})
    (synthesis,) = _children(demo.process.pid) - {running.pid}
    # the command line of CDK has started the app
    _until(lambda: _children(synthesis))
    demo.process.send_signal(with_signal)
    assert demo.process.wait(30) == 1
    _until(lambda: not _group_lives(synthesis), 5)
    assert cloud.status() is None
    assert not (cloud.state / "cdk.out" / "made-from").exists()


def _children(process: int) -> set[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return {int(child) for child, parent in (line.split() for line in listed.splitlines()) if int(parent) == process}


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _until(holds: Any, seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it took too long"
        time.sleep(0.1)
