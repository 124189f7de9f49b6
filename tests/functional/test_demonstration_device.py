"""The device of a demonstration: repeated in the same folder, it serves where it did, and the assembly fits again."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from overcut.sensors.readings import Reading
from workbench.demonstration.house import House
from workbench.demonstration.script import Script
from workbench.demonstration.sensors import SensorsPart

START = datetime(2026, 3, 2, tzinfo=UTC)


def test_the_device_serves_where_it_did_last_time(tmp_path: Path) -> None:
    readings = [Reading("unit", START + timedelta(minutes=at), {"temperature": 4.0}) for at in range(300)]
    part = SensorsPart(Script(readings, {"temperature": "C"}, START + timedelta(hours=4), 1.0))
    house = House(tmp_path, Console(quiet=True), "http://127.0.0.1:1")
    served = []
    for _ in range(2):
        with part.prepared(house) as settings:
            served.append(settings["sources"]["device"]["url"])
    assert served == [f"http://127.0.0.1:{(tmp_path / 'device-port').read_text()}/events"] * 2
