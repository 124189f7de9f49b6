"""From a fifth anomalous event to the text, on the embedded cloud: `python -m benchmarks.event_to_text [SENSORS ...]`.

The deployed stage, its schedules, streams and roles, as a demonstration has it. Its clock runs four times as fast, so
that a fleet a quarter as large sends as many events a second; times are the machine's own. Each sensor has an hour of
history; then some, each at a place of its own, show twelve degrees too much from the same minute on, so that every
second four runs are completed. The time begins when the device sends the reading that completes the run, and ends
when the phone has the text. The hops are told by the logs of the functions: stored by poll_readings, judged by
detect_anomalies, texted.
"""

import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.measured import Row, in_a_process, write
from lambdas.runtime.clock import ClockFace
from lambdas.sensors.stores import Sensor
from overcut.sensors.auditing import percentile
from overcut.sensors.cohorts import SensorSeries, TrainingRules, train_cohort
from overcut.sensors.incidents import Incident, TextKind
from overcut.sensors.models import dump_model
from overcut.sensors.readings import Reading, parse_time
from stacks.stage import phone_parameter
from workbench.cloud.processes import EmbeddedCloud
from workbench.demonstration.house import House
from workbench.demonstration.sensors import PHONE_NUMBER, received_texts
from workbench.device import Device
from workbench.sensors_system import SensorsSystem

SENSORS = ("100", "1000", "5000", "20000")
SPEED, HISTORY, LIVE, FAULTY = 4, 64, 8, 60
PORT = 8809
MINUTE = timedelta(minutes=1)
BEGINS = datetime(2026, 3, 2, 12, tzinfo=UTC)
STACK = SensorsSystem.stack("local")
HOPS = ("sent to stored", "stored to judged", "judged to texted")


def main(loads: Sequence[str]) -> None:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as state:
        for load in loads:
            found = in_a_process(["benchmarks.event_to_text", "--state", state, load])
            rows.append({"sensors at one reading a minute": int(load), **found})
            write("event_to_text", {"Seconds, median; 99th percentile:": rows}, ["ministack"])


def value(sensor: int, minute: float) -> float:
    """A cold room: four degrees, a compressor's swing, noise."""
    return round(4 + math.sin(minute / 3 + sensor) / 2 + random.Random(f"{sensor} {minute}").gauss(0, 0.08), 1)


def fleet(sensors: int) -> tuple[list[Reading], set[str]]:
    """What is sent, and whose readings are at fault from the first minute on."""
    faulty = {name_of(k) for k in range(0, sensors, max(1, sensors // FAULTY))[:FAULTY]}
    readings = []
    for k in range(sensors):
        # spread over the minute
        offset = timedelta(seconds=60 * k // sensors)
        for minute in range(-HISTORY, LIVE):
            moment = BEGINS + minute * MINUTE + offset
            is_faulty = name_of(k) in faulty and minute > 0
            readings.append(Reading(name_of(k), moment, {"temperature": value(k, minute) + 12 * is_faulty}))
    return readings, faulty


def name_of(sensor: int) -> str:
    return f"equipment-{sensor:05d}"


@contextmanager
def deployed(state: Path, readings: Sequence[Reading]) -> Iterator[tuple[House, SensorsSystem]]:
    """The stage, and a device that has sent all of the history; the clock stands."""
    cloud = EmbeddedCloud(state / "cloud")
    running = cloud.up(owner_pid=os.getpid())
    house = House(state, Console(stderr=True), running.url)
    # what was judged with no cutoff is remembered for ten minutes of the clock, which is put on past that
    _set_clock(house, BEGINS - 11 * MINUTE, 0.0)
    # where it was before, so that the stage's assembly fits again
    with Device(readings, house.clock, PORT) as device:
        try:
            settings = {
                "sources": {"device": {"url": device.url, "measures": {"temperature": "C"}}},
                "silent_after_minutes": 7 * 24 * 60,
                "texts_per_hour": 1_000,
            }
            house.deploy({"sensors": settings}, {f"{STACK}:{phone_parameter('maintenance')}": PHONE_NUMBER})
            yield house, SensorsSystem(house.outputs[STACK], house.session, house.url)
        finally:
            cloud.down()


def _set_clock(house: House, shown: datetime, speed: float) -> None:
    # what expires does so by the machine's time
    house.clock.set(ClockFace(shown.timestamp(), time.time(), speed, time.time() - BEGINS.timestamp()))


def _learn(system: SensorsSystem, sensors: int) -> None:
    """Put a model of a day of three such rooms to use for all."""
    times = np.array([60 * minute for minute in range(1_440)])
    series = [SensorSeries(f"{k}", times, np.array([[value(k, m)] for m in range(1_440)])) for k in range(3)]
    model = train_cohort(
        series,
        cohort_id="kind-room",
        measures=["temperature"],
        rules=TrainingRules(),
        trained_at=BEGINS - timedelta(days=1),
        seed=1,
    )
    if model.model is None:
        raise SystemExit("nothing was learned")
    system.bucket.put(model.cutoffs[0].model_key, dump_model(model.model))
    system.cutoffs.put(replace(model.cutoffs[0], sensor_id=name_of(k)) for k in range(sensors))


def started(house: House, system: SensorsSystem, readings: Sequence[Reading], sensors: int, speed: float) -> ClockFace:
    """What the clock shows from now on: the history is stored and judged, and the rest comes at that speed."""

    def stored() -> int:
        return int(system.sources.get("device").cursor or -1) + 1

    system.start_polls()
    wait(stored, _sent_until(readings, BEGINS - 11 * MINUTE))
    _learn(system, sensors)
    _set_clock(house, BEGINS - MINUTE, 0.0)
    history = _sent_until(readings, BEGINS - MINUTE)
    wait(stored, history)
    wait(system.judged_readings, history)
    _set_clock(house, BEGINS - MINUTE, speed)
    return house.clock.face()


def sent_at(face: ClockFace, moment: datetime) -> datetime:
    """When the device sent what was measured at a moment, by the machine's time."""
    return datetime.fromtimestamp(face.wall + (moment.timestamp() - face.origin) / face.speed, UTC)


def measure(state: Path, load: int) -> dict[str, Any]:
    """Of a load: how many texts, and what they took."""
    sensors = load // SPEED
    readings, faulty = fleet(sensors)
    with deployed(state, readings) as (house, system):
        places = {name: f"Plant {n}" for n, name in enumerate(sorted(faulty))}
        measures = {"temperature": "C"}
        names = map(name_of, range(sensors))
        system.sensors.put((Sensor(n, "device", measures, n, "Acme", places.get(n, "Plant")) for n in names), 4)
        face = started(house, system, readings, sensors, SPEED)
        time.sleep((LIVE + 1) * 60 / SPEED)
        wait(system.judged_readings, len(readings))
        # the poll ends, and tells its log
        system.sources.connected("device", "nobody")
        time.sleep(10)
        texts = {text["message_id"]: datetime.fromisoformat(text["at"]) for text in received_texts(house.url)}
        stored, judged = _lines(system, "PollReadings", "stored"), _lines(system, "DetectAnomalies", "incident")
        told = [
            hops
            for incident in system.all_incidents()
            if (hops := _hops(incident, face, texts, stored, judged)) and incident.equipment.sensor_id in faulty
        ]
    if not told:
        raise SystemExit(f"none of {len(faulty)} faults was texted")
    columns = {"whole": [sum(hops) for hops in told], **{hop: [one[k] for one in told] for k, hop in enumerate(HOPS)}}
    return {"texts": len(told), "of faults": len(faulty)} | {
        name: f"{percentile(column, 0.5):.2f}; {percentile(column, 0.99):.2f}" for name, column in columns.items()
    }


def _sent_until(readings: Sequence[Reading], until: datetime) -> int:
    return sum(one.measured_at <= until for one in readings)


def wait(count: Callable[[], int], until: int, patience: float = 120, every: float = 1) -> None:
    """Until a count is reached.

    Raises:
        SystemExit: it did not grow for so many seconds.
    """
    before, ends = -1, time.monotonic() + patience
    while (now := count()) < until:
        if now > before:
            before, ends = now, time.monotonic() + patience
        if time.monotonic() > ends:
            raise SystemExit(f"it stays at {now:,} of {until:,}")
        time.sleep(every)


def _lines(system: SensorsSystem, output: str, event: str) -> list[dict[str, Any]]:
    """A function's log lines of one kind, in order."""
    found = (line for line in system.logged(output, f'"{event}"') if line.get("message") == event)
    return sorted(found, key=lambda line: str(line["timestamp"]))


def _hops(
    incident: Incident,
    face: ClockFace,
    texts: Mapping[str, datetime],
    stored: Sequence[Mapping[str, Any]],
    judged: Sequence[Mapping[str, Any]],
) -> list[float] | None:
    """Seconds of each hop of an incident's first text; None where it has none."""
    alerts = [one for one in incident.texts.values() if one.kind is TextKind.ALERT and one.message_id in texts]
    opened = [line for line in judged if line["reference"] == incident.reference]
    kept = [line for line in stored if parse_time(line["measured_to"]) >= incident.opened_at]
    if not (alerts and opened and kept):
        return None
    moments = [
        sent_at(face, incident.opened_at),
        _at(kept[0]),
        _at(opened[0]),
        min(texts[one.message_id] for one in alerts),
    ]
    return [(later - earlier) / timedelta(seconds=1) for earlier, later in pairwise(moments)]


def _at(line: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(line["timestamp"])


if __name__ == "__main__":
    if "--state" in sys.argv:
        sys.stdout.write("\n" + json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        main(sys.argv[1:] or SENSORS)
