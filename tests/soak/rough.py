"""A fleet's devices on a bad week: late, repeated and broken events, and servers that forget what they have sent."""

import json
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lambdas.runtime.clock import ClockFace
from overcut.sensors.readings import Reading, format_time
from workbench.device import Tape

LATE, REPEATED, BROKEN = 0.01, 0.01, 0.002
# what a server that was started anew still has of the past, in events
REMEMBERED = 6_000


@dataclass(frozen=True, order=True)
class Event:
    """What is sent, and when by the clock; `is_broken`: it is no reading."""

    released_at: datetime
    data: str
    is_broken: bool = False


def rough_events(readings: Sequence[Reading], outages: Sequence["Outage"], rng: random.Random) -> list[Event]:
    """The events of readings: some come late, some twice, and between them is what no reading is."""
    events = []
    for reading in readings:
        released_at = reading.measured_at
        for outage in outages:
            released_at = outage.end if outage.holds(reading) else released_at
        if rng.random() < LATE:
            released_at += timedelta(minutes=rng.randint(1, 90))
        data = _data(reading)
        events.append(Event(released_at, data))
        if rng.random() < REPEATED:
            events.append(Event(released_at + timedelta(minutes=rng.randint(1, 60)), data))
        if rng.random() < BROKEN:
            events.append(Event(released_at, _broken(reading, rng), is_broken=True))
    return sorted(events)


@dataclass(frozen=True)
class Outage:
    """Sensors whose readings all come when it ends: their gateway had no network."""

    sensor_ids: frozenset[str]
    start: datetime
    end: datetime

    def holds(self, reading: Reading) -> bool:
        return reading.sensor_id in self.sensor_ids and self.start <= reading.measured_at < self.end


def _data(reading: Reading, **changes: object) -> str:
    values = {
        "sensor_id": reading.sensor_id,
        "measured_at": format_time(reading.measured_at),
        "values": dict(reading.values),
    }
    return json.dumps(values | changes)


def _broken(reading: Reading, rng: random.Random) -> str:
    whole = _data(reading)
    return rng.choice(
        [
            whole[: rng.randint(1, len(whole) - 1)],
            _data(reading, measured_at="yesterday"),
            _data(reading, measured_at=format_time(reading.measured_at + timedelta(days=400))),
            _data(reading, values={"temperature": None}),
            _data(reading, values={"pressure": 1.0}),
            _data(reading, sensor_id=""),
            _data(reading, sensor_id="x" * 500),
        ]
    )


class RoughTape(Tape):
    """Events in the order in which they are released. A server that is started anew gives out other ids."""

    def __init__(self, events: Sequence[Event]) -> None:
        super().__init__([])
        self.events = events
        self._releases = [event.released_at for event in events]
        self.generation = 0

    def __len__(self) -> int:
        return len(self.events)

    def released(self, now: datetime) -> int:
        return bisect_right(self._releases, now)

    def event(self, position: int) -> bytes:
        return f"id: {self.generation}-{position}\ndata: {self.events[position].data}\n\n".encode()

    def position_after(self, last_event_id: str | None, released: int) -> int:
        generation, _, position = (last_event_id or "").partition("-")
        if generation == str(self.generation) and position.isdigit():
            return int(position) + 1
        return max(0, released - REMEMBERED) if self.generation else 0


@dataclass
class Driven:
    """What a clock that is set again and again has shown."""

    faces: list[ClockFace] = field(default_factory=list)

    def wall_at(self, moment: datetime) -> float:
        """The machine's time, in seconds since 1970, at which the clock first showed `moment` or later."""
        shown = moment.timestamp()
        for number, face in enumerate(self.faces):
            if face.origin >= shown:
                return face.wall
            if not face.speed:
                continue
            wall = face.wall + (shown - face.origin) / face.speed
            if number + 1 == len(self.faces) or wall < self.faces[number + 1].wall:
                return wall
        raise ValueError(f"the clock never showed {format_time(moment)}")
