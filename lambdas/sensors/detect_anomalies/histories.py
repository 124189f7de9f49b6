"""Histories: the last readings of each sensor and the verdicts on them, remembered only to save reads."""

from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isnan
from operator import sub
from typing import Generic, TypeVar

from overcut.sensors.features import WINDOW
from overcut.sensors.incidents import JudgedReading
from overcut.sensors.judging import Series
from overcut.sensors.readings import Reading

Value = TypeVar("Value")

_ANOMALY, _STUCK = 1, 2
# of intervals: in a longer time, a reading may be missing
GAP = 1.5


@dataclass(frozen=True, slots=True)
class History:
    """The newest readings of one sensor, with none missing between them.

    Attributes:
        series: what they measured, as compact columns; its times are those of `verdicts`.
        verdicts: one byte a reading. The first readings may be there for their values alone: only the last `judged`
            of them have a verdict.
        is_quiet: no incident was open, and no run in sight, when the last verdict was given.
    """

    series: Series
    verdicts: bytes
    judged: int
    is_quiet: bool

    @property
    def first_new(self) -> int:
        """The number of the first reading without a verdict."""
        return len(self.verdicts)

    def has_anomaly(self) -> bool:
        return any(self.verdicts[len(self.verdicts) - self.judged :])

    def window(self) -> list[JudgedReading]:
        """The verdicts there are."""
        begin = len(self.verdicts) - self.judged
        return [
            JudgedReading(datetime.fromtimestamp(time, UTC), bool(byte & _ANOMALY), bool(byte & _STUCK))
            for time, byte in zip(self.series.times[begin : len(self.verdicts)], self.verdicts[begin:], strict=True)
        ]


class Remembered(Generic[Value]):
    """What is known of sensors; of what was put longest ago nothing, once they measure more than `capacity` things."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._measures = 0
        self._of: OrderedDict[str, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._of)

    def get(self, sensor_id: str) -> Value | None:
        value, _ = self._of.get(sensor_id, (None, 0))
        return value

    def put(self, sensor_id: str, value: Value, measures: int) -> None:
        """Remember this of a sensor, in the place of what is known."""
        self.forget(sensor_id)
        self._of[sensor_id] = value, measures
        self._measures += measures
        while self._measures > self._capacity:
            self.forget(next(iter(self._of)))

    def forget(self, sensor_id: str) -> None:
        _, measures = self._of.pop(sensor_id, (None, 0))
        self._measures -= measures


class Histories:
    """The histories of sensors that measure at most `capacity` things.

    A history is used only while nothing in its span can be missing: an interval without a reading may have been filled
    by another instance meanwhile. A reading without a verdict is as if it were missing.
    """

    def __init__(self, capacity: int) -> None:
        self._of = Remembered[History](capacity)

    def newest(self, sensor_id: str) -> datetime | None:
        """When the last remembered reading was measured."""
        remembered = self._of.get(sensor_id)
        return datetime.fromtimestamp(remembered.series.times[-1], UTC) if remembered else None

    def extended(self, sensor_id: str, new: Sequence[Reading], interval: timedelta) -> History | None:
        """What is remembered with `new` readings after it that have no verdict yet; None when it must be read instead.

        Readings that have a verdict already, with the same values, change nothing: the table may be read further than
        its stream has come.

        Args:
            new: sorted by time.
        """
        remembered = self._of.get(sensor_id)
        self._of.forget(sensor_id)
        if remembered is None:
            return None
        times, values = remembered.series.times, remembered.series.values
        judged = times[len(remembered.verdicts) - remembered.judged :]
        widest = GAP * interval.total_seconds()
        added: list[Reading] = []
        last = times[-1]
        for reading in new:
            moment = int(reading.measured_at.timestamp())
            if moment > last:
                if moment - last > widest or reading.values.keys() != values.keys():
                    return None
                added.append(reading)
                last = moment
            elif moment not in judged or not _same(reading, values, times.index(moment)):
                return None
        series = Series(
            array("q", [*times, *(int(reading.measured_at.timestamp()) for reading in added)]),
            {m: array("d", [*column, *(reading.values[m] for reading in added)]) for m, column in values.items()},
        )
        return History(series, remembered.verdicts, remembered.judged, remembered.is_quiet)

    def put(
        self,
        sensor_id: str,
        series: Series,
        judged: Sequence[JudgedReading],
        *,
        interval: timedelta,
        is_quiet: bool,
    ) -> History:
        """Remember a series from its first verdict on, or its last window, unless something may be missing there.

        Args:
            judged: the verdicts on the last readings of the series.
        """
        self._of.forget(sensor_id)
        begin = max(0, len(series.times) - max(len(judged), WINDOW - 1))
        times = array("q", series.times[begin:])
        values = {measure: array("d", column[begin:]) for measure, column in series.values.items()}
        widest = GAP * interval.total_seconds()
        verdicts = bytes(len(times) - len(judged)) + bytes(
            _ANOMALY * (one.is_anomaly is True) + _STUCK * one.is_stuck for one in judged
        )
        history = History(Series(times, values), verdicts, len(judged), is_quiet)
        if (
            any(one.is_anomaly is None for one in judged)
            or max(map(sub, times[1:], times), default=0) > widest
            or any(any(map(isnan, column)) for column in values.values())
            or len(times) < WINDOW - 1
        ):
            return history
        self._of.put(sensor_id, history, len(values))
        return history


def _same(reading: Reading, values: Mapping[str, Sequence[float]], number: int) -> bool:
    return {m: column[number] for m, column in values.items()} == reading.values
