"""`overcut audit`, on tables and bucket as they are deployed: clean where all is well, else telling what is not."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from lambdas.runtime.clock import ClockFace, FileClock
from lambdas.sensors.export_training_set.exporting import Exporter
from overcut.sensors.incidents import Incident, TextState
from overcut.sensors.layout import bucket_of
from overcut.sensors.readings import Reading, format_time
from stacks.stage import read_stage
from tests.functional.conftest import REGION
from tests.functional.test_detect_anomalies import CONTACTS, HOT, MINUTE, NOON, USUAL, Plant, plant
from workbench.audit import audit_sensors
from workbench.cli import main
from workbench.demonstration.stage_file import write_stage_file
from workbench.readings_files import Label, write_labels, write_readings
from workbench.sensors_system import SensorsSystem

__all__ = ["plant"]

SINCE, UNTIL = NOON - timedelta(hours=2), NOON + timedelta(hours=2)
# the fault begins at noon; what is measured after it shows that it is over
FAULT = range(8)
SENT = [Reading("a", NOON + k * MINUTE, {"temperature": HOT if k in FAULT else USUAL}) for k in range(-100, 90)]


class Audited:
    """A plant in which everything has run its course, and the command that looks at it."""

    def __init__(self, plant: Plant, folder: Path, system: SensorsSystem) -> None:
        self.plant = plant
        self.cloud = plant.cloud
        self.system = system
        self.folder = folder
        contacts: dict[str, Any] = {str(contact["contact_id"]): {} for contact in CONTACTS}
        self.stage = write_stage_file(
            folder / "stage.toml",
            clock=plant.clock.path,
            pipelines={"sensors": {"contacts": contacts, "default_contact": "day"}},
        )
        plant.add("a", history=0)
        plant.store(SENT[:90])
        for first in range(90, 150, 10):
            plant.arrive(SENT[first : first + 10])
        plant.store(SENT[150:])
        plant.set_clock(UNTIL + timedelta(hours=3))
        plant.watch(UNTIL + timedelta(hours=3))
        exporter = Exporter(self.cloud.readings, self.cloud.sensors, self.cloud.pending, self.cloud.data)
        self.cloud.pending.mark([(bucket_of("a", 16), hour) for hour in _hours(SINCE, UNTIL)], "test")
        exporter.export(bucket_of("a", 16), UNTIL + timedelta(hours=3))
        write_readings(folder / "sent.csv", SENT)
        write_labels(folder / "labels.csv", [Label("a", NOON, NOON + 7 * MINUTE, "step")])

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(
            main,
            ["audit", "--stage", str(self.stage), "--since", format_time(SINCE), *arguments],
            env={"COLUMNS": "200"},
        )

    def found(self) -> dict[str, int]:
        """How many of each finding there are, where there are any."""
        ran = self.run("--json", "--sent", str(self.folder / "sent.csv"), "--labels", str(self.folder / "labels.csv"))
        told = {name: finding["number"] for name, finding in json.loads(ran.stdout)["findings"].items()}
        there = {name: number for name, number in told.items() if number}
        assert ran.exit_code == (1 if there else 0), ran.output
        return there

    def incident(self) -> Incident:
        return self.plant.one_incident()


def _hours(first: datetime, last: datetime) -> list[datetime]:
    return [first + timedelta(hours=k) for k in range(int((last - first) / timedelta(hours=1)))]


@pytest.fixture
def audited(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audited:
    outputs = {f"{name}Table": table for name, table in plant.cloud.tables.items()} | {"DataBucket": plant.cloud.bucket}
    system = SensorsSystem(outputs, boto3.Session(region_name=REGION))
    monkeypatch.setattr(SensorsSystem, "deployed", lambda _: system)
    return Audited(plant, tmp_path, system)


def test_where_all_is_well_it_says_so_with_figures(audited: Audited) -> None:
    assert audited.found() == {}
    told = json.loads(audited.run("--json", "--labels", str(audited.folder / "labels.csv")).stdout)
    assert told["counts"] == {
        "sensors": 1,
        "readings stored": 190,
        "readings due for export": 190,
        "runs": 1,
        "incidents": 1,
        "texts sent": 2,
        "faults known": 1,
        "faults found": 1,
    }
    # readings were handed over ten at a time: the fault's fifth came with 12:09's
    assert told["onset_to_text_seconds"] == {"p50": 540.0, "p99": 540.0, "p100": 540.0}


def test_people_see_what_was_looked_at(audited: Audited) -> None:
    ran = audited.run()
    assert ran.exit_code == 0, ran.output
    assert "readings stored" in ran.output
    assert "From onset to text: 9.0 minutes (median)" in ran.output


def _lose_a_reading(audited: Audited) -> None:
    audited.cloud.dynamodb.delete_item(
        TableName=audited.cloud.tables["Readings"],
        Key={"sensor_id": {"S": "a"}, "measured_at": {"S": format_time(NOON - 30 * MINUTE)}},
    )


def _change_a_reading(audited: Audited) -> None:
    audited.plant.store([Reading("a", NOON - 30 * MINUTE, {"temperature": USUAL + 0.1})])


def _lose_an_hour_of_the_export(audited: Audited) -> None:
    audited.cloud.data.delete(next(key for key in audited.cloud.data.keys("readings/") if "/11-" in key))


def _lose_the_incident(audited: Audited) -> None:
    table = audited.cloud.tables["Incidents"]
    for item in audited.cloud.dynamodb.scan(TableName=table)["Items"]:
        if "cause" in item:
            key = {name: item[name] for name in ("sensor_id", "opened_at")}
            audited.cloud.dynamodb.delete_item(TableName=table, Key=key)


def _change(audited: Audited, update: str, **values: Any) -> None:
    incident = audited.incident()
    audited.cloud.dynamodb.update_item(
        TableName=audited.cloud.tables["Incidents"],
        Key={"sensor_id": {"S": "a"}, "opened_at": {"S": format_time(incident.opened_at)}},
        UpdateExpression=update,
        **values,
    )


def _move_the_incident(audited: Audited) -> None:
    values = {":a": {"S": format_time(NOON + 50 * MINUTE)}, ":b": {"S": format_time(NOON + 60 * MINUTE)}}
    _change(audited, "SET first_anomalous_at = :a, last_anomalous_at = :b", ExpressionAttributeValues=values)


def _forget_to_tell(audited: Audited) -> None:
    _change(audited, "SET texts = :none", ExpressionAttributeValues={":none": {"M": {}}})


def _owe_the_alert(audited: Audited) -> None:
    _change(
        audited,
        "SET texts.#alert.#state = :owed",
        ExpressionAttributeNames={"#alert": "alert#day", "#state": "state"},
        ExpressionAttributeValues={":owed": {"S": TextState.OWED}},
    )


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (_lose_a_reading, {"readings sent and not stored": 1}),
        (_change_a_reading, {"readings sent and not stored": 1, "readings stored and not exported": 1}),
        (_lose_an_hour_of_the_export, {"readings stored and not exported": 60}),
        (_lose_the_incident, {"runs without an incident": 1}),
        (_move_the_incident, {"runs without an incident": 1, "incidents without a run": 1}),
        (_forget_to_tell, {"incidents nobody is told of": 1}),
        (_owe_the_alert, {"texts that are overdue": 1}),
    ],
)
def test_what_does_not_agree_is_told(
    audited: Audited, damage: Callable[[Audited], None], finding: dict[str, int]
) -> None:
    damage(audited)
    assert audited.found() == finding


def test_a_text_that_reached_no_phone_is_told_and_one_that_came_twice_is_counted(audited: Audited) -> None:
    sent = [text.message_id for text in audited.incident().texts.values()]
    assert len(sent) == 2

    def look(delivered: dict[str, int]) -> tuple[int, int]:
        found = audit_sensors(
            audited.system,
            read_stage(str(audited.stage)).with_sensors(),
            SINCE,
            UNTIL,
            now=UNTIL + timedelta(hours=3),
            delivered=delivered,
        )
        return found.findings["texts sent and not delivered"].number, found.counts["messages doubled"]

    assert look(dict.fromkeys(sent, 1)) == (0, 0)
    assert look({sent[0]: 1}) == (1, 0)
    assert look(dict.fromkeys(sent, 1) | {"another": 1}) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--since", "yesterday"], "--since is no time with a zone"),
        (["--until", "12:00"], "--until is no time with a zone"),
        (["--since", "2020-01-01T00:00:00Z"], "at most 30 days ago"),
        (["--until", format_time(SINCE - MINUTE)], "--since must lie before --until"),
    ],
)
def test_a_time_that_cannot_be_is_refused(tmp_path: Path, arguments: Sequence[str], words: str) -> None:
    clock = FileClock(tmp_path / "clock.json")
    clock.set(ClockFace(UNTIL.timestamp(), 0.0, 0.0, 0.0))
    stage = write_stage_file(tmp_path / "stage.toml", clock=clock.path, pipelines={"sensors": {}})
    ran = CliRunner().invoke(main, ["audit", "--stage", str(stage), "--since", format_time(SINCE), *arguments])
    assert ran.exit_code == 1
    assert words in ran.stderr
    assert ran.stderr.count("\n") == 1
