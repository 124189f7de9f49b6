"""The one clock: every rule that asks how late it is takes `now` from here.

On AWS it is the system's. On the embedded cloud it is a small file that the demonstration writes: an origin and a
speed, so that readings of 2021 at a hundred times real time meet the very rules of production.
"""

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Tells the present, places a moment of the machine's own time on the clock, and maps an expiry back."""

    def now(self) -> datetime:
        """The present, in UTC."""

    def at(self, wall_seconds: float) -> datetime:
        """What this clock showed at `wall_seconds` of the machine's time (seconds since 1970)."""

    def expiry(self, moment: datetime) -> int:
        """`moment` as the machine's time (seconds since 1970): what DynamoDB compares a TTL with."""


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def at(self, wall_seconds: float) -> datetime:
        return datetime.fromtimestamp(wall_seconds, UTC)

    def expiry(self, moment: datetime) -> int:
        return int(moment.timestamp())


@dataclass(frozen=True)
class ClockFace:
    """One setting of a demonstration's clock.

    Attributes:
        origin: seconds since 1970 that the clock shows at `wall`.
        wall: the machine's time then.
        speed: clock seconds a second of the machine; 0 stops it.
        ttl_offset: seconds to add to a moment of the clock to place its expiry in the machine's time. Unlike the
            rest it never changes while a demonstration runs, so that a replayed event writes the very same item.
    """

    origin: float
    wall: float
    speed: float
    ttl_offset: float


class FileClock:
    """A clock that a file sets; the file is read again whenever it is asked. Without the file it is the system's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def face(self) -> ClockFace:
        try:
            return ClockFace(**json.loads(self.path.read_text()))
        except FileNotFoundError:
            return ClockFace(origin=0.0, wall=0.0, speed=1.0, ttl_offset=0.0)

    def set(self, face: ClockFace) -> None:
        """Replace the setting in one step, so that a reader never meets half of it."""
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps(asdict(face)))
        beside.replace(self.path)

    def now(self) -> datetime:
        return self.at(time.time())

    def at(self, wall_seconds: float) -> datetime:
        face = self.face()
        elapsed = max(0.0, wall_seconds - face.wall) * face.speed
        return datetime.fromtimestamp(face.origin, UTC) + timedelta(seconds=elapsed)

    def expiry(self, moment: datetime) -> int:
        return int(moment.timestamp() + self.face().ttl_offset)


def clock_from(setting: str) -> Clock:
    """The clock a function's settings ask for: `system`, or the path of a clock file."""
    return SystemClock() if setting == "system" else FileClock(Path(setting))
