"""Fifty sensors, four simulated days, a rough cloud and rough devices; then the audit. `make soak` runs it.

The fleet is not new: what it measured in the two weeks before lies exported, as training reads it. The clock runs
hundreds of times as fast as it should, so that the seconds the machine takes from the device to the text would count as
hours. A delay is therefore put together: from the onset to the reading that completes the run, by their times; from the
moment when the device sends it to the text, by the machine's own time, which is what it would be at any speed; and
where another incident of the same place and contact was told less than `group_minutes` before, the rest of these, and a
minute for the sweep.
"""

import json
import os
import random
import signal
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path

import pytest
from rich.console import Console

from lambdas.runtime.clock import ClockFace
from lambdas.sensors.export_training_set.exporting import readings_to_parquet
from lambdas.sensors.stores import Sensor
from overcut.sensors.auditing import detected, percentile
from overcut.sensors.incidents import Incident, TextKind
from overcut.sensors.layout import bucket_of, hour_of, readings_key
from overcut.sensors.readings import Reading, format_time
from stacks.stage import phone_parameter
from tests.soak.rough import Driven, Outage, RoughTape, rough_events
from workbench.audit import audit_sensors, show
from workbench.cloud.processes import EmbeddedCloud
from workbench.demonstration.house import House
from workbench.demonstration.sensors import received_texts
from workbench.device import Device
from workbench.readings_files import Label
from workbench.sensors_system import SensorsSystem
from workbench.simulate import Faults, simulate_fleet

pytestmark = pytest.mark.soak

SEED = 5
SENSORS, SITES, DAYS = 50, 10, 4
# days before, of which only the exports are left; with the first of the four, as long as training looks back
HISTORY_DAYS = 13
SOURCES = ("north", "south")
STARTED_AT = datetime(2026, 3, 2, tzinfo=UTC)
LIVE_FROM = STARTED_AT + timedelta(days=1)
ENDS_AT = STARTED_AT + timedelta(days=DAYS)
MISHAPS = {"refused": 0.01, "unanswered": 0.003}
# clock seconds a second of the machine, while fewer events wait to be stored, and records on the stream are younger
SPEEDS = ((3_000, 20.0, 600.0), (6_000, 40.0, 200.0), (9_000, 60.0, 60.0))
SLOWEST = 10.0
# between two functions that are killed, of the machine's time
KILL_SECONDS = 12.0
# how often each is, the others once: a poll is followed by the next only at the machine's next minute, and an export
# that starts anew every ten seconds never ends
KILLED = {"DetectAnomalies": 5, "WatchSensors": 5}
STALE_MINUTES = 24 * 60
# what Lambda hands to ten instances side by side, the embedded cloud hands to one after the other
BATCH = 10 * 100
# a claim whose sender was killed runs out after 90 s, and the next sweep takes it
SETTLE_SECONDS = 200.0
MINUTE = timedelta(minutes=1)
PROMISED = timedelta(minutes=10)
CONSOLE = Console(width=120)
STACK = SensorsSystem.stack("local")


@dataclass
class Soak:
    """What is running, and what was done to it."""

    house: House
    system: SensorsSystem
    devices: Mapping[str, Device]
    tapes: Mapping[str, RoughTape]
    driven: Driven
    rng: random.Random
    emulator: int
    done: Counter[str] = field(default_factory=Counter)

    def set_clock(self, shown: datetime, speed: float) -> None:
        face = ClockFace(shown.timestamp(), time.time(), speed, self.house.clock.face().ttl_offset)
        self.house.clock.set(face)
        self.driven.faces.append(face)

    def waiting(self) -> int:
        """How many events were released and are not stored."""
        now, behind = self.house.clock.now(), 0
        for source_id, tape in self.tapes.items():
            generation, _, position = self.system.sources.get(source_id).cursor.partition("-")
            # a source that was started anew repeats what it still has
            behind += tape.released(now) - int(position or -1) - 1 if generation == str(tape.generation) else 3_000
        return behind

    def age_of_records(self) -> float:
        """How long the records that were judged just now had waited on the stream, in seconds."""
        now = datetime.now(UTC)
        points = self.house.session.client("cloudwatch", endpoint_url=self.house.url).get_metric_statistics(
            Namespace="AWS/Lambda",
            MetricName="IteratorAge",
            Dimensions=[{"Name": "FunctionName", "Value": self.house.outputs[STACK]["DetectAnomalies"]}],
            StartTime=now - timedelta(seconds=15),
            EndTime=now + timedelta(seconds=15),
            Period=1,
            Statistics=["Maximum"],
        )["Datapoints"]
        return max((point["Maximum"] / 1000 for point in points), default=0.0)

    def kill_a_function(self) -> None:
        """End the process of a function, whatever it is doing."""
        workers = _workers(self.emulator)
        if workers:
            weights = [next((weight for part, weight in KILLED.items() if part in name), 1) for _, name in workers]
            pid, name = self.rng.choices(workers, weights)[0]
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.done[f"killed {name}"] += 1

    def restart_source(self) -> None:
        """End a source's server, and start it again with ids that nobody knows."""
        source_id = self.rng.choice(SOURCES)
        old = self.devices[source_id]
        port = int(old.url.split(":")[2].split("/")[0])
        old.stop()
        self.tapes[source_id].generation += 1
        new = _device(self.tapes[source_id], self.house, port)
        self.devices = {**self.devices, source_id: new}
        self.done["source restarted"] += 1

    def jump(self, minutes: int) -> None:
        """Put the clock forward or back."""
        self.set_clock(self.house.clock.now() + timedelta(minutes=minutes), SLOWEST)
        self.done["clock jumped"] += 1


def _device(tape: RoughTape, house: House, port: int = 0) -> Device:
    device = Device([], house.clock, port)
    device.tape = tape
    device.start()
    return device


def _workers(emulator: int) -> list[tuple[int, str]]:
    """The processes of functions, and the functions' names."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            environ = (entry / "environ").read_bytes()
            names = [part for part in environ.split(b"\0") if part.startswith(b"AWS_LAMBDA_FUNCTION_NAME=")]
            if parent == emulator and names:
                found.append((int(entry.name), names[0].decode().partition("=")[2]))
    return found


def _emulator(launcher: int) -> int:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return int(children[0])


@dataclass(frozen=True)
class Fleet:
    """What there is, what it measured before and measures, and what is wrong with it."""

    sensors: Sequence[Sensor]
    history: Sequence[Reading]
    readings: Sequence[Reading]
    labels: Sequence[Label]
    tapes: Mapping[str, RoughTape]


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    everything, labels = simulate_fleet(
        sensors=SENSORS,
        days=HISTORY_DAYS + DAYS,
        seed=SEED,
        started_at=STARTED_AT - timedelta(days=HISTORY_DAYS),
        faults=Faults(per_sensor=4, kinds=("step", "compoff")),
        fault_free_days=HISTORY_DAYS + 1.0,
    )
    begins = bisect_left(everything, STARTED_AT, key=attrgetter("measured_at"))
    history, readings = everything[:begins], everything[begins:]
    names = sorted({reading.sensor_id for reading in readings})
    sensors = [
        Sensor(
            name,
            SOURCES[number % 2],
            {"temperature": "C"},
            f"Cold room {number + 1}",
            customer="Acme Foods",
            site=f"Plant {number % SITES}",
            kind="cold room",
        )
        for number, name in enumerate(names)
    ]
    rng = random.Random(SEED)
    outages = [
        Outage(frozenset(names[first : first + 5]), begins, begins + timedelta(hours=hours))
        for first, hours, begins in (
            (0, 2.0, LIVE_FROM + timedelta(hours=9)),
            (20, 1.0, LIVE_FROM + timedelta(hours=33)),
            (35, 3.0, LIVE_FROM + timedelta(hours=52)),
        )
    ]
    source_of = {sensor.sensor_id: sensor.source_id for sensor in sensors}
    tapes = {
        source: RoughTape(rough_events([r for r in readings if source_of[r.sensor_id] == source], outages, rng))
        for source in SOURCES
    }
    return Fleet(sensors, history, readings, labels, tapes)


@pytest.fixture(scope="module")
def soak(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soak]:
    state = tmp_path_factory.mktemp("soak")
    cloud = EmbeddedCloud(state / "cloud")
    cloud.state.mkdir()
    (cloud.state / "mishaps.json").write_text(json.dumps(MISHAPS))
    running = cloud.up(owner_pid=os.getpid())
    house = House(state, CONSOLE, running.url)
    driven = Driven()
    face = ClockFace(LIVE_FROM.timestamp(), time.time(), 0.0, time.time() - LIVE_FROM.timestamp())
    house.clock.set(face)
    driven.faces.append(face)
    devices = {source: _device(tape, house) for source, tape in fleet.tapes.items()}
    contacts = {f"plant-{number}": {"sites": [f"Plant {number}"]} for number in range(SITES)}
    house.deploy(
        {
            "sensors": {
                "sources": {
                    source: {"url": device.url, "measures": {"temperature": "C"}} for source, device in devices.items()
                },
                "contacts": contacts | {"maintenance": {}},
                "silent_after_minutes": 7 * 24 * 60,
                "stale_after_minutes": STALE_MINUTES,
                "texts_per_hour": 1_000,
            }
        },
        {f"{STACK}:{phone_parameter(c)}": f"+1202555{100 + n:04d}" for n, c in enumerate([*contacts, "maintenance"])},
    )
    functions = house.session.client("lambda", endpoint_url=house.url)
    for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
        functions.update_event_source_mapping(UUID=mapping["UUID"], BatchSize=BATCH)
    system = SensorsSystem(house.outputs[STACK], house.session, house.url)
    buckets = house.stage.with_sensors().sensors.export_buckets
    system.sensors.put(fleet.sensors, buckets)
    _put_history(system, fleet.history, buckets)
    running_soak = Soak(house, system, devices, fleet.tapes, driven, random.Random(SEED), _emulator(running.pid))
    yield running_soak
    for device in running_soak.devices.values():
        device.stop()
    cloud.down()


def _put_history(system: SensorsSystem, history: Sequence[Reading], buckets: int) -> None:
    """What export_training_set would have left of it."""
    objects = defaultdict(list)
    for reading in history:
        objects[readings_key(hour_of(reading.measured_at), bucket_of(reading.sensor_id, buckets))].append(reading)
    for key, of_object in sorted(objects.items()):
        system.bucket.put(key, readings_to_parquet(of_object)[0])


def _train(soak: Soak, name: str) -> None:
    training = soak.system.train(name, lambda _: None)
    soak.done[f"training {training.status}"] += 1


def _wait_until_stored(soak: Soak, patience: float) -> None:
    ends = time.monotonic() + patience
    while soak.waiting() and time.monotonic() < ends:
        time.sleep(0.5)
    assert soak.waiting() == 0, "not all of what was sent was stored in time"


def _wait_until_judged(soak: Soak) -> None:
    """Until detect_anomalies is handed nothing more."""
    before = -1
    while (judged := soak.system.judged_readings()) > before:
        before = judged
        time.sleep(15)


def _drive(soak: Soak) -> None:
    """Let the live days pass, as fast as what was sent is stored."""
    hours = timedelta(hours=1)
    happenings = sorted(
        [
            *((LIVE_FROM + 24 * hours * day, "train") for day in (1, 2)),
            *((LIVE_FROM + hours * hour, "restart") for hour in (5, 19, 31, 45, 58)),
            (LIVE_FROM + 13 * hours, "jump ahead"),
            (LIVE_FROM + 40 * hours, "jump back"),
            (LIVE_FROM + 61 * hours, "jump ahead"),
        ]
    )
    trainings: list[threading.Thread] = []
    kill_at = time.monotonic() + KILL_SECONDS
    told_at = 0.0
    while soak.house.clock.now() < ENDS_AT + timedelta(hours=2):
        waiting, age = soak.waiting(), soak.age_of_records()
        speed = next((speed for most, oldest, speed in SPEEDS if waiting < most and age < oldest), SLOWEST)
        soak.set_clock(soak.house.clock.now(), speed)
        while happenings and happenings[0][0] <= soak.house.clock.now():
            _, what = happenings.pop(0)
            if what == "train":
                trainings.append(threading.Thread(target=_train, args=(soak, f"soak-{len(trainings)}")))
                trainings[-1].start()
            elif what == "restart":
                soak.restart_source()
            else:
                soak.jump(90 if what == "jump ahead" else -20)
        if time.monotonic() >= kill_at:
            soak.kill_a_function()
            kill_at = time.monotonic() + soak.rng.uniform(0.5, 1.5) * KILL_SECONDS
        if time.monotonic() - told_at > 20:
            told_at = time.monotonic()
            CONSOLE.print(
                f"{soak.house.clock.now():%A %H:%M}, {speed:g} times as fast, {waiting} events wait,"
                f" {age:.0f} s on the stream"
            )
        time.sleep(0.25)
    for training in trainings:
        training.join()


def _released(soak: Soak) -> dict[tuple[str, str], datetime]:
    """When the device first sent a sensor's reading of a minute, by the clock."""
    released: dict[tuple[str, str], datetime] = {}
    for tape in soak.tapes.values():
        for event in tape.events:
            if not event.is_broken:
                data = json.loads(event.data)
                released.setdefault((data["sensor_id"], data["measured_at"]), event.released_at)
    return released


@dataclass(frozen=True)
class Delay:
    """From a fault's onset to the first text about it.

    Attributes:
        run: from the onset to the reading that completes the run.
        hops: from the device to the phone.
        waited: for others of its place.
        is_prompt: whether the device sent each reading of it in its minute.
    """

    label: Label
    run: timedelta
    hops: timedelta
    waited: timedelta
    is_prompt: bool

    @property
    def minutes(self) -> float:
        return (self.run + self.hops + self.waited) / MINUTE


def _delays(soak: Soak, labels: Sequence[Label]) -> list[Delay]:
    """The delay of each fault that was found."""
    texts = {text["message_id"]: datetime.fromisoformat(text["at"]) for text in received_texts(soak.house.url)}
    released, by_sensor, delays = _released(soak), defaultdict(list), []
    for known in soak.system.incidents.known():
        by_sensor[known.incident.equipment.sensor_id].append(known.incident)
    group_for = timedelta(minutes=soak.house.stage.with_sensors().sensors.group_minutes)
    waits = _waits([incident for incidents in by_sensor.values() for incident in incidents], group_for)
    for label in labels:
        incident = detected(by_sensor[label.sensor_id], label.started_at, label.ended_at)
        alerts = [t for t in incident.texts.values() if t.kind is TextKind.ALERT and t.sent_at] if incident else []
        if not incident or not alerts:
            continue
        first = min(alerts, key=lambda text: texts[text.message_id])
        sent_at = datetime.fromtimestamp(
            soak.driven.wall_at(released[label.sensor_id, format_time(incident.opened_at)]), UTC
        )
        waited = min(waits[incident.reference, text.contact_id] for text in alerts)
        run = incident.opened_at - label.started_at
        minutes = (label.started_at + k * MINUTE for k in range(int(run / MINUTE) + 1))
        is_prompt = all(released[label.sensor_id, format_time(minute)] == minute for minute in minutes)
        delays.append(Delay(label, run, texts[first.message_id] - sent_at, waited, is_prompt))
    return delays


def _waits(incidents: Sequence[Incident], group_for: timedelta) -> dict[tuple[str, str], timedelta]:
    """By incident and contact, how long its alert would wait for others of its place, were the clock not fast."""
    told_at: dict[tuple[str, str], datetime] = {}
    waits = {}
    for incident in sorted(incidents, key=lambda incident: incident.opened_at):
        for text in incident.texts.values():
            if text.kind is TextKind.ALERT:
                group = text.contact_id, incident.equipment.place
                at = incident.opened_at
                if group in told_at and at < told_at[group] + group_for:
                    at = max(at, told_at[group] + group_for) + MINUTE
                waits[incident.reference, text.contact_id] = at - incident.opened_at
                told_at[group] = max(at, told_at.get(group, at))
    return waits


def _mishaps(soak: Soak) -> Counter[str]:
    lines = (soak.house.state / "cloud" / "mishaps.jsonl").read_text().splitlines()
    mishaps = (json.loads(line) for line in lines)
    return Counter(
        f"{one['service']} {one['operation']} {'refused' if one['is_refused'] else 'unanswered'}" for one in mishaps
    )


def test_nothing_is_lost_in_four_rough_days(soak: Soak, fleet: Fleet) -> None:
    began = time.monotonic()
    soak.system.start_polls()
    _wait_until_stored(soak, patience=300)
    _wait_until_judged(soak)
    _train(soak, "soak-first")
    soak.set_clock(LIVE_FROM, SLOWEST)
    _drive(soak)
    _wait_until_stored(soak, patience=180)
    _wait_until_judged(soak)
    time.sleep(SETTLE_SECONDS)
    soak.set_clock(soak.house.clock.now() + timedelta(hours=3), SLOWEST)
    assert soak.system.export("soak-last") == "SUCCEEDED"
    stage = soak.house.stage.with_sensors()
    found = audit_sensors(
        soak.system,
        stage,
        STARTED_AT,
        ENDS_AT,
        now=soak.house.clock.now(),
        sent=fleet.readings,
        labels=fleet.labels,
        delivered=Counter(text["message_id"] for text in received_texts(soak.house.url)),
    )
    # by the fast clock they say nothing
    found.delays.clear()
    show(found, CONSOLE, STARTED_AT, ENDS_AT)
    broken = {event.data for tape in soak.tapes.values() for event in tape.events if event.is_broken}
    quarantined = {event["raw"] for event in soak.system.quarantined_events()}
    mishaps, delays = _mishaps(soak), _delays(soak, fleet.labels)
    for name, number in sorted({**soak.done, **mishaps}.items()):
        CONSOLE.print(f"{number:6,} {name}")
    CONSOLE.print(f"bad inputs: {len(broken)}, in quarantine: {len(quarantined & broken)}")
    steps = [delay for delay in delays if delay.label.kind == "step"]
    minutes = {
        "step, from onset to text": [delay.minutes for delay in steps],
        "of which no reading came late": [delay.minutes for delay in steps if delay.is_prompt],
        "compoff, from onset to text": [delay.minutes for delay in delays if delay.label.kind == "compoff"],
        "from the device to the text": [delay.hops / MINUTE for delay in delays],
    }
    for what, measured in minutes.items():
        CONSOLE.print(
            f"{what}: {len(measured)}, median {percentile(measured, 0.5):.2f} minutes,"
            f" 99th percentile {percentile(measured, 0.99):.2f}, longest {max(measured):.2f}"
        )
    for delay in sorted(steps, key=lambda delay: -delay.minutes)[:5]:
        CONSOLE.print(
            f"{delay.minutes:6.2f} minutes: run {delay.run}, hops {delay.hops}, waited {delay.waited}"
            f"{'' if delay.is_prompt else ', a reading came late'}: {delay.label.sensor_id}"
        )
    CONSOLE.print(f"{time.monotonic() - began:.0f} s")
    assert found.is_clean
    assert found.counts["readings sent"] == found.counts["readings stored"] == len(fleet.readings)
    assert quarantined == broken
    parked = {queue.name: len(queue.items()) for queue in soak.system.parked_queues(stage) if queue.name != "events"}
    assert parked == {"records": 0, "batches": 0}
    # a text is doubled only where SNS took it and nobody heard, or who sent it was killed
    killed = sum(number for name, number in soak.done.items() if "Detect" in name or "Watch" in name)
    assert found.counts["messages doubled"] <= mishaps["sns Publish unanswered"] + killed
    assert percentile(minutes["step, from onset to text"], 0.99) <= PROMISED / MINUTE
