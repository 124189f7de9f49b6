"""`overcut report`, on tables and buckets as they are deployed."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import boto3
import pytest
from click.testing import CliRunner

from lambdas.sensors.export_training_set.exporting import readings_to_parquet
from lambdas.sensors.stores import Learning, Sensor
from overcut.sensors.layout import hour_of, readings_key
from overcut.sensors.readings import Reading
from overcut.sensors.silence import SensorSeen, SourceSeen
from tests.functional.conftest import REGION
from tests.functional.test_detect_anomalies import CONTACTS, HOT, MINUTE, NOON, USUAL, Plant, plant
from workbench import report_commands
from workbench.cli import main
from workbench.demonstration.stage_file import write_stage_file
from workbench.sensors_system import SensorsSystem

__all__ = ["plant"]

HOSTILE = '<script>alert("x")</script>\u202e'


@pytest.fixture
def page(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ET.Element:
    """The page of a plant with one fault, a sensor that learns, a hostile name and a source in trouble, as a tree."""
    cloud = plant.cloud
    outputs = {f"{name}Table": table for name, table in cloud.tables.items()} | {
        "DataBucket": cloud.bucket,
        "ParkedQueue": cloud.parked,
        "DetectAnomalies": "detect",
    }
    system = SensorsSystem(outputs, boto3.Session(region_name=REGION))
    monkeypatch.setattr(SensorsSystem, "deployed", lambda _: system)
    plant.add("a", site="Aarhus", customer="north", history=30, name=HOSTILE)
    readings = [Reading("a", NOON + k * MINUTE, {"temperature": HOT if k < 6 else USUAL}) for k in range(60)]
    for first in range(0, 60, 10):
        plant.arrive(readings[first : first + 10])
    cloud.sensors.put([replace(Sensor("b", "device", {"temperature": "C"}), learning=Learning(17, ""))], 16)
    cloud.data.put(readings_key(hour_of(NOON), 0), readings_to_parquet(readings)[0])
    cloud.data.put_seen("device", SourceSeen({"a": SensorSeen(int(NOON.timestamp()), 0, 0)}, int(NOON.timestamp())))
    cloud.sources.failed("device", "no route to host", NOON, stay_away=False, forget_cursor=False)
    cloud.model_events.put(
        plant.cutoff.cohort_id, NOON, {"decision": "held", "reason": "3 of 5 sensors moved", "model_version": "v7"}
    )
    plant.watch(NOON + timedelta(hours=3))
    contacts: dict[str, object] = {str(contact["contact_id"]): {} for contact in CONTACTS}
    stage = write_stage_file(
        tmp_path / "stage.toml",
        clock=plant.clock.path,
        pipelines={"sensors": {"contacts": contacts, "default_contact": "day"}},
    )
    ran = CliRunner().invoke(main, ["report", "--stage", str(stage), "-o", str(tmp_path / "report.html")])
    assert ran.exit_code == 0, ran.output
    text = (tmp_path / "report.html").read_text()
    # none of what others call things is markup, and nothing is asked of a network
    assert "<script" not in text
    assert "\u202e" not in text
    assert " src=" not in text
    return ET.fromstring(re.sub(r"<!doctype html>|<meta[^>]*>", "", text))  # noqa: S314 - it is our own


def words(element: ET.Element | None) -> str:
    assert element is not None
    return " ".join("".join(element.itertext()).split())


def test_it_tells_the_fleet_its_incidents_and_its_sources(page: ET.Element) -> None:
    told = words(page.find(".//main/p"))
    assert told.endswith(
        "Every time is UTC, by the clock of the demonstration, which ran many times faster than yours."
    )
    glance = words(page.find(".//section[@id='sensors-at-a-glance']"))
    assert "sensors2" in glance.replace(" ", "")
    (incident,) = page.findall(".//section[@id='incidents']/article")
    assert "temperature 30 C, usually" in words(incident)
    assert "alert to aarhus sent" in words(incident)
    picture = incident.find("svg")
    assert picture is not None
    assert {"reading", "score", "cutoff"} <= {path.get("class") for path in picture.iter("path")}
    assert "3 of 5 sensors moved" in words(page.find(".//section[@id='trainings-and-what-they-changed']"))
    sources = words(page.find(".//section[@id='sources']"))
    assert "1 failure in a row" in sources
    assert " ago" not in sources, "whoever reads it later counts from another moment"
    assert f"{NOON:%Y-%m-%d %H:%M}" in sources
    assert "learning: 17 readings" in words(page.find(".//section[@id='all-sensors']"))


def test_every_picture_has_its_words_and_every_table_its_heads(page: ET.Element) -> None:
    assert all(picture.get("aria-label") for picture in page.iter("svg"))
    for table in page.iter("table"):
        assert words(table.find("caption"))
        assert all(head.get("scope") == "col" for head in table.findall("thead/tr/th"))


def test_of_a_demonstration_that_was_not_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_commands, "CHECKOUT", tmp_path)
    ran = CliRunner().invoke(main, ["report", "--demo", "-o", str(tmp_path / "report.html")])
    assert ran.exit_code == 1
    assert ran.stderr == "Error: there was no demonstration here yet: `overcut demo` makes one, with its report\n"
