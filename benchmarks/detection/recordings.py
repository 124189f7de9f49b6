"""Recordings to detect faults in, and what a detector is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from overcut.sensors.readings import Reading
from workbench.readings_files import Label, labels_path, read_labels, read_readings
from workbench.simulate import FAULT_FREE_DAYS, simulate_fleet

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

DAY = 24 * 60 * 60
LEARNING = timedelta(days=FAULT_FREE_DAYS)


@dataclass(frozen=True)
class Series:
    """One sensor's readings in order of time, as arrays.

    Attributes:
        measured_at: shape (readings,), seconds since 1970.
        values: shape (readings, measures), finite: a missing value is the last known one.
        learning: how many readings come first that are never judged.
    """

    sensor_id: str
    measured_at: Integers
    values: Floats
    learning: int

    def __len__(self) -> int:
        return len(self.measured_at)

    @cached_property
    def interval(self) -> int:
        """How far apart readings usually are while the sensor is learning, in seconds; at least one."""
        steps = np.diff(self.measured_at[: max(2, self.learning)])
        return max(1, int(np.median(steps))) if len(steps) else 60

    @cached_property
    def readings_a_day(self) -> int:
        return max(1, round(DAY / self.interval))


@dataclass(frozen=True)
class Recording:
    """Readings of some sensors, and where their faults are.

    Attributes:
        readings: sorted by (measured_at, sensor_id).
        labels: what only scoring may look at.
        learning: for so long from a sensor's first reading nothing is judged, and no fault counts.
    """

    name: str
    readings: Sequence[Reading]
    labels: Sequence[Label]
    learning: timedelta = LEARNING

    @cached_property
    def series(self) -> Mapping[str, Series]:
        """By sensor_id."""
        by_sensor = sorted(self.readings, key=attrgetter("sensor_id"))
        return {key: self._series(key, list(own)) for key, own in groupby(by_sensor, key=attrgetter("sensor_id"))}

    def _series(self, sensor_id: str, readings: Sequence[Reading]) -> Series:
        measures = sorted({name for reading in readings for name in reading.values})
        values = np.array([[reading.values.get(name, np.nan) for name in measures] for reading in readings])
        measured_at = np.array([int(reading.measured_at.timestamp()) for reading in readings])
        learning = int(np.searchsorted(measured_at, measured_at[0] + int(self.learning.total_seconds())))
        return Series(sensor_id, measured_at, _filled(values), learning)


def _filled(values: Floats) -> Floats:
    """NaN becomes the last value before it; before the first value, that one."""
    known = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values))[:, None], -1), axis=0)
    rows = np.where(last < 0, known.argmax(axis=0), last)
    filled: Floats = np.take_along_axis(values, rows, axis=0)
    return filled


@dataclass(frozen=True)
class Incident:
    """What a detector would have told someone.

    Attributes:
        opened_at: the reading that completed the run.
        recovered_at: None when it was still open at the last reading.
    """

    sensor_id: str
    opened_at: datetime
    recovered_at: datetime | None


class Detector(Protocol):
    """Something to compare: one setting for every recording."""

    @property
    def name(self) -> str: ...

    def incidents(self, recording: Recording) -> Sequence[Incident]:
        """What it opens, in any order; it looks neither at `recording.labels` nor at a reading later than it judges."""
        ...


def simulated(seed: int, *, sensors: int = 20, days: float = 14.0) -> Recording:
    """The fleet that `overcut simulate` writes for this seed."""
    started_at = datetime(2026, 1, 5, tzinfo=UTC)
    readings, labels = simulate_fleet(sensors=sensors, days=days, seed=seed, started_at=started_at)
    return Recording(f"simulated, seed {seed}", readings, labels)


# recordings of one day cannot give five to learn from
_LEARNING = {"hvac_evaporator_2021": timedelta(hours=11)}
RECORDED = (
    "simulated_fleet",
    "hvac_evaporator_2021",
    "lbnl_MZVAV-2-1",
    "nab_ambient_temperature_system_failure",
    "nab_nyc_taxi",
)


def recorded(folder: Path) -> Iterator[Recording]:
    """Those of `RECORDED` that lie in `folder`."""
    for name in RECORDED:
        path = folder / f"{name}.csv.gz"
        if path.exists():
            labels = read_labels(labels_path(path))
            yield Recording(name, read_readings(path).readings, labels, _LEARNING.get(name, LEARNING))
