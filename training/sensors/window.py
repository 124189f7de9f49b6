"""The training window: exported Parquet objects -> a series a sensor.

Objects are read a bucket at a time into numpy columns, since as Python objects readings are many times their size: what
stays of a reading is its time and a number a measure.
"""

import io
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import reduce
from typing import Protocol

import numpy as np
from arro3.core import ChunkedArray, DataType, dictionary_dictionary, dictionary_indices
from arro3.io import read_parquet
from numpy.typing import NDArray

from overcut.formats import UnknownFormatError
from overcut.sensors.cohorts import SensorSeries
from overcut.sensors.layout import day_prefix, days_of_window
from overcut.sensors.learning import window_of

READING_THREADS = 8
_MICROSECONDS = 1_000_000
_TIME = DataType.timestamp("us", tz="UTC")
# a reading's time takes the lower half of a number that readings are sorted by
_TIME_BITS = 32

Column = tuple[NDArray[np.int64], NDArray[np.float64]]


class Objects(Protocol):
    """Where exported readings lie."""

    def keys(self, prefix: str) -> list[str]: ...

    def get(self, key: str) -> bytes: ...


@dataclass(frozen=True)
class Measured:
    """What one sensor measured in the window; the series' values are in the order of `measures`, which is sorted."""

    measures: tuple[str, ...]
    series: SensorSeries


def read_window(objects: Objects, ends_at: datetime, window: timedelta) -> Iterator[Measured]:
    """What every sensor measured in its window, which ends before `ends_at`: `window`, of a slow one a longer one.

    All of a sensor is in one bucket; of one with slow sensors, earlier days are read too.
    """
    first, last = int((ends_at - window).timestamp()), int(ends_at.timestamp())
    buckets = _by_bucket(objects, days_of_window(ends_at, window))
    with ThreadPoolExecutor(READING_THREADS) as threads:
        for bucket, keys in sorted(buckets.items()):
            slow: dict[str, timedelta] = {}
            for measured in _read_bucket(threads.map(objects.get, keys), first, last):
                own = window_of(measured.series, window)
                if own > window:
                    slow[measured.series.sensor_id] = own
                else:
                    yield measured
            if slow:
                longest = max(slow.values())
                whole = _by_bucket(objects, days_of_window(ends_at, longest))[bucket]
                begin = int((ends_at - longest).timestamp())
                for measured in _read_bucket(threads.map(objects.get, whole), begin, last, slow):
                    longer = _since(measured, int((ends_at - slow[measured.series.sensor_id]).timestamp()))
                    # one that was quicker before would be taken for as quick as that, and go unjudged
                    yield _since(longer, int((ends_at - window_of(longer.series, window)).timestamp()))


def _by_bucket(objects: Objects, days: Iterable[date]) -> dict[str, list[str]]:
    """The keys of these days by bucket, in the order in which they count."""
    buckets: dict[str, list[str]] = {}
    for day in days:
        for key in objects.keys(day_prefix(day)):
            buckets.setdefault(key.rpartition("-")[2], []).append(key)
    return buckets


def _since(measured: Measured, first: int) -> Measured:
    series, kept = measured.series, measured.series.measured_at >= first
    return replace(measured, series=replace(series, measured_at=series.measured_at[kept], values=series.values[kept]))


def _read_bucket(
    objects: Iterable[bytes], first: int, last: int, only: Container[str] | None = None
) -> Iterator[Measured]:
    """What every sensor of a bucket measured from `first` to before `last`, in seconds since 1970.

    Args:
        objects: in the order in which they count: of two values of a sensor, time and measure the later one.
        only: the sensors that are asked for; all of them without it.
    """
    sensors: dict[str, int] = {}
    measures: dict[str, int] = {}
    parts = []
    for stored in objects:
        table = read_parquet(io.BytesIO(stored)).read_all()
        # in other units a time would be one of another year
        if (unit := table.schema.field("measured_at").type) != _TIME:
            raise UnknownFormatError(f"exported readings have times of type {unit}, not {_TIME}: export them again")
        times = table["measured_at"].cast(DataType.int64()).to_numpy() // _MICROSECONDS
        inside = (first <= times) & (times < last)
        of_sensor, of_measure = _codes(table["sensor_id"], sensors), _codes(table["measure"], measures)
        if only is not None:
            inside &= np.array([sensor_id in only for sensor_id in sensors], dtype=bool)[of_sensor]
        parts.append([column[inside] for column in (of_sensor, of_measure, times, table["value"].to_numpy())])
    if not sensors:
        return
    of_sensor, of_measure, times, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    del parts
    order = ((of_sensor.astype(np.int64) * len(measures) + of_measure) << _TIME_BITS) + (times - first)
    sorting = np.argsort(order, kind="stable")
    order = order[sorting]
    is_last = np.append(order[1:] != order[:-1], True)[: len(order)]
    order, values = order[is_last], values[sorting[is_last]]
    if not len(order):
        return  # what the first hour holds may be from before the window
    columns, times = order >> _TIME_BITS, (order & ((1 << _TIME_BITS) - 1)) + first
    del order, sorting, of_sensor, of_measure
    found: dict[int, dict[str, Column]] = {}
    names = list(measures)
    begins = np.flatnonzero(np.diff(columns, prepend=-1))
    for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(columns)], strict=True):
        sensor, measure = divmod(int(columns[begin]), len(names))
        found.setdefault(sensor, {})[names[measure]] = (times[begin:end], values[begin:end])
    for sensor_id, code in sensors.items():
        if code in found:
            yield _to_measured(sensor_id, found[code])


def _codes(column: ChunkedArray, known: dict[str, int]) -> NDArray[np.int32]:
    """A number for every text, the same for the same text wherever it comes; new ones are added to `known`."""
    coded = column.cast(DataType.dictionary(DataType.int32(), DataType.string()))
    found = [np.zeros(0, dtype=np.int32)]
    for texts, places in zip(
        dictionary_dictionary(coded).read_all().chunks, dictionary_indices(coded).read_all().chunks, strict=True
    ):
        codes = [known.setdefault(text, len(known)) for text in texts.to_pylist()]
        found.append(np.array(codes, dtype=np.int32)[places.to_numpy()])
    return np.concatenate(found)


def _to_measured(sensor_id: str, columns: Mapping[str, Column]) -> Measured:
    """The readings that have every measure. One that is mostly absent would take most readings from the others, and is
    left out."""
    longest = max(len(times) for times, _ in columns.values())
    measures = tuple(sorted(measure for measure, (times, _) in columns.items() if len(times) > longest / 2))
    whole = reduce(_common, (columns[measure][0] for measure in measures))
    # copies, so that the bucket's columns can go
    values = [columns[measure][1][np.searchsorted(columns[measure][0], whole)] for measure in measures]
    return Measured(measures, SensorSeries(sensor_id, whole.copy(), np.stack(values, axis=1)))


def _common(some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.intersect1d(some, others, assume_unique=True)
