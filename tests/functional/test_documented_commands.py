"""Every `overcut` command that the documents tell people to type, typed.

Those about a deployed stage look at a plant on moto in which a fault is over; those about files run on smaller ones.
"""

import json
import re
import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import boto3
import httpx
import pytest
from click.testing import CliRunner, Result

from overcut.sensors.readings import Reading, format_time
from tests.conftest import ROOT
from tests.functional.conftest import REGION
from tests.functional.test_detect_anomalies import CONTACTS, HOT, MINUTE, NOON, USUAL, Plant, plant
from tests.unit.test_documents import commands
from workbench.cli import main
from workbench.demonstration.stage_file import write_stage_file
from workbench.sensors_system import SensorsSystem

__all__ = ["plant"]

COMMANDS = commands(of="overcut")
# what is about both pipelines at once, or takes a cloud, and the test that types it
ELSEWHERE = {
    r"overcut report --demo": "tests/functional/test_report.py",
    r"overcut demo\b.*": "tests/emulator/test_demonstration.py",
    r"overcut cloud (up|down)": "tests/emulator/test_embedded_cloud.py",
    r"overcut tickets list --stage dev": "tests/functional/test_tickets_commands.py",
    r"overcut parked (list|redrive --all) --stage dev": "tests/functional/test_parked_commands.py",
    r"overcut train .*": "tests/functional/test_train_command.py",
    r"overcut query .*": "tests/emulator/test_questions.py",
    r"overcut doctor --stage \w+": "tests/functional/test_doctor.py",
    r"overcut status --stage \w+": "tests/functional/test_status.py",
    r"overcut sources check .*": "tests/functional/test_sources_commands.py",
    r"overcut init .*": "tests/unit/test_init_command.py",
    r"overcut load-lake .*": "tests/unit/test_lake.py",
    r"overcut replay .*": "tests/functional/test_documented_commands.py",
}
# days and fleets as small as still show something
SMALLER = (
    ("--sensors 20 --days 14", "--sensors 2 --days 6"),
    ("--jobs 60 --days 182", "--jobs 6 --days 110"),
)


def _elsewhere(command: str) -> str:
    return next((where for pattern, where in ELSEWHERE.items() if re.fullmatch(pattern, command)), "")


def run(command: str) -> Result:
    for large, small in SMALLER:
        command = command.replace(large, small)
    return CliRunner().invoke(main, shlex.split(command)[1:], env={"COLUMNS": "160"}, catch_exceptions=False)


@pytest.mark.parametrize("command", [one for one in COMMANDS if "--stage" in one and not _elsewhere(one)])
def test_a_command_about_a_stage(plant: Plant, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {f"{name}Table": table for name, table in plant.cloud.tables.items()} | {
        "DataBucket": plant.cloud.bucket,
        "ParkedQueue": plant.cloud.parked,
        "DetectAnomalies": "detect_anomalies",
    }
    system = SensorsSystem(outputs, boto3.Session(region_name=REGION))
    monkeypatch.setattr(SensorsSystem, "deployed", lambda _: system)
    monkeypatch.chdir(tmp_path)
    Path("equipment.csv").write_text("sensor_id,name,customer,site,kind\na,Cold room 3,north,Aarhus,cold room\n")
    long_ago = format_time(NOON - timedelta(days=9))
    Path("sent.csv").write_text(f"sensor_id,measured_at,temperature\na,{long_ago},4.0\n")
    Path("faults.csv").write_text("sensor_id,started_at,ended_at,kind\n")
    plant.add("a", history=10)
    plant.arrive([Reading("a", NOON + k * MINUTE, {"temperature": HOT if k < 6 else USUAL}) for k in range(10)])
    named = command.replace("REFERENCE", plant.one_incident().reference).replace("SENSOR", "a")
    contacts: dict[str, object] = {str(contact["contact_id"]): {} for contact in CONTACTS}
    stage = write_stage_file(
        tmp_path / "stage.toml",
        clock=plant.clock.path,
        pipelines={"sensors": {"contacts": contacts, "default_contact": "day"}},
    )
    ran = run(re.sub(r"--stage \w+", f"--stage {stage}", named))
    assert ran.exit_code == 0, ran.output
    assert ran.output.strip()


def test_the_commands_about_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # what makes a file comes first
    order = ("simulate", "backtest", "tune", "cost")
    about_files = sorted(
        (one for one in COMMANDS if "--stage" not in one and not _elsewhere(one)),
        key=lambda one: order.index(one.split()[1]),
    )
    assert {one.split()[1] for one in about_files} == set(order)
    for command in about_files:
        ran = run(command)
        assert ran.exit_code == 0, f"{command}: {ran.output}"
    assert "<svg" in Path("backtest.html").read_text()


def test_a_fleet_is_replayed(tmp_path: Path) -> None:
    (command,) = (one for one in COMMANDS if one.startswith("overcut replay"))
    file = tmp_path / "fleet.csv.gz"
    assert run(f"overcut simulate {file} --sensors 1 --days 1").exit_code == 0
    arguments = shlex.split(command.replace("fleet.csv.gz", str(file)))[1:]
    with subprocess.Popen(
        [Path(sys.executable).parent / "overcut", *arguments, "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as device:
        assert device.stdout
        try:
            url = next(match[0] for line in device.stdout if (match := re.search(r"http://\S+/events", line)))
            with httpx.stream("GET", url, trust_env=False) as events:
                event = next(line for line in events.iter_lines() if line.startswith("data: "))
        finally:
            device.terminate()
    assert json.loads(event.removeprefix("data: "))["sensor_id"] == "unit-0001"


def test_what_is_typed_elsewhere_is() -> None:
    assert {one for one in COMMANDS if _elsewhere(one)}
    for pattern, where in ELSEWHERE.items():
        assert any(re.fullmatch(pattern, one) for one in COMMANDS), f"no document names {pattern}"
        word = pattern.split()[1].removesuffix(r"\b.*")
        assert word in (ROOT / where).read_text()
