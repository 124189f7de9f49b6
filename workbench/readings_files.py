"""Files of readings and of the faults known to be in them: the form in which data come to a laptop and leave it.

A readings file is a CSV with a header, `sensor_id,measured_at,<one column per measure>`; a labels file is
`sensor_id,started_at,ended_at,kind`, both ends inclusive. Times are ISO 8601 with a zone and are written in UTC.
A name that ends in `.gz` is compressed.

    RefusedError
     └─ ReadingsFileError   a file that cannot be used: which one, where in it, and what to do
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from overcut import RefusedError
from overcut.sensors.readings import (
    LARGEST_VALUE,
    SMALLEST_VALUE,
    Reading,
    RefusedReadingError,
    format_time,
    make_reading,
    parse_time,
)
from workbench.csv_files import CsvForm, counted

READINGS_KEY = ("sensor_id", "measured_at")
LABELS_HEADER = ("sensor_id", "started_at", "ended_at", "kind")
_TIME_FORM = "write times with their zone, such as 2021-06-10T12:02:00Z"
_A_TIME = datetime(2000, 1, 1, tzinfo=UTC)


class ReadingsFileError(RefusedError):
    """A file of readings or labels that cannot be used; the text is one sentence for the person who named it."""


_READINGS = CsvForm(
    READINGS_KEY,
    "a readings file begins with the header sensor_id,measured_at and one column a measure",
    ReadingsFileError,
)
_LABELS = CsvForm(LABELS_HEADER, f"a labels file begins with the header {','.join(LABELS_HEADER)}", ReadingsFileError)


@dataclass(frozen=True)
class ReadingsFile:
    """What a readings file holds.

    Attributes:
        readings: sorted by (measured_at, sensor_id), one for each such pair.
        measures: the names of the columns that were read, in the file's order or as they were asked for.
        repairs: what was mended while reading, a sentence each; empty for a clean file.
    """

    readings: list[Reading]
    measures: tuple[str, ...]
    repairs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Label:
    """A fault that is known to be in the readings of one sensor, from `started_at` to `ended_at`, both inclusive."""

    sensor_id: str
    started_at: datetime
    ended_at: datetime
    kind: str


def read_readings(path: Path, *, measures: Sequence[str] | None = None) -> ReadingsFile:
    """The readings of a file, in order of time.

    An empty cell means that the sensor gave no such measure then; a row without any is left out.

    Args:
        path: a CSV file, compressed if its name ends in `.gz`.
        measures: the columns to read; all of them without it.

    Raises:
        ReadingsFileError: for anything that is not such a file.
    """
    header, rows = _READINGS.read(path)
    names = _measures(path, header, measures)
    sensor_column, time_column = (header.index(name) for name in READINGS_KEY)
    columns = sorted((name, header.index(name)) for name in names)

    # a file names few sensors and few moments, each many times over: every one is checked once
    sensors: dict[str, str] = {}
    moments: dict[str, datetime] = {}
    newest: dict[str, datetime] = {}
    kept: dict[tuple[datetime, str], Reading] = {}
    row_count = duplicates = late = without_value = 0
    for line, cells in rows:
        row_count += 1
        sensor_id = sensors.get(cells[sensor_column])
        if sensor_id is None:
            sensor_id = sensors[cells[sensor_column]] = _sensor_id(path, line, cells[sensor_column])
        moment = moments.get(cells[time_column])
        if moment is None:
            moment = moments[cells[time_column]] = _time(path, line, cells[time_column], "measured_at")
        values = {name: _number(path, line, name, cells[column]) for name, column in columns if cells[column]}
        if not values:
            without_value += 1
            continue
        if moment < newest.setdefault(sensor_id, moment):
            late += 1
        else:
            newest[sensor_id] = moment
        if (moment, sensor_id) in kept:
            duplicates += 1
        kept[moment, sensor_id] = Reading(sensor_id, moment, values)
    if not row_count:
        raise ReadingsFileError(f"{path} has a header and no rows; give a file with readings")
    if not kept:
        raise ReadingsFileError(f"{path} has no value of {', '.join(names)} in any row; give a file with readings")
    return ReadingsFile(
        readings=[kept[key] for key in sorted(kept)],
        measures=names,
        repairs=tuple(_repairs(duplicates=duplicates, late=late, without_value=without_value)),
    )


def write_readings(path: Path, readings: Iterable[Reading], *, measures: Sequence[str] | None = None) -> None:
    """Write a readings file in order of (measured_at, sensor_id): the same readings give the same bytes.

    (Compressed, they are the same as far as the machine's zlib is; the text inside always is.)

    Args:
        path: compressed if its name ends in `.gz`; a file that is there is replaced.
        readings: in any order.
        measures: the columns, in order; all measures by name without it.

    Raises:
        ReadingsFileError: the file cannot be written.
    """
    ordered = sorted(readings, key=lambda reading: (reading.measured_at, reading.sensor_id))
    columns = sorted({name for reading in ordered for name in reading.values}) if measures is None else list(measures)
    times: dict[datetime, str] = {}

    def cells(reading: Reading) -> list[object]:
        moment = times.get(reading.measured_at)
        if moment is None:
            moment = times[reading.measured_at] = format_time(reading.measured_at)
        return [reading.sensor_id, moment, *(reading.values.get(name, "") for name in columns)]

    _READINGS.write(path, [*READINGS_KEY, *columns], map(cells, ordered))


def read_labels(path: Path) -> list[Label]:
    """The labels of a file, sorted by (sensor_id, started_at); a header alone means that there are none.

    Raises:
        ReadingsFileError: for anything that is not such a file.
    """
    header, rows = _LABELS.read(path)
    sensor_column, start_column, end_column, kind_column = (header.index(name) for name in LABELS_HEADER)
    labels = []
    for line, cells in rows:
        label = Label(
            sensor_id=_sensor_id(path, line, cells[sensor_column]),
            started_at=_time(path, line, cells[start_column], "started_at"),
            ended_at=_time(path, line, cells[end_column], "ended_at"),
            kind=cells[kind_column],
        )
        if label.ended_at < label.started_at:
            raise ReadingsFileError(f"{path}, line {line}: the fault ends before it starts; correct one of its times")
        labels.append(label)
    return sorted(labels, key=_label_order)


def write_labels(path: Path, labels: Iterable[Label]) -> None:
    """Write a labels file in order of (sensor_id, started_at).

    Raises:
        ReadingsFileError: the file cannot be written.
    """
    ordered = sorted(labels, key=_label_order)
    rows = ([it.sensor_id, format_time(it.started_at), format_time(it.ended_at), it.kind] for it in ordered)
    _LABELS.write(path, LABELS_HEADER, rows)


def labels_path(readings_path: Path) -> Path:
    """Where the labels of a readings file lie: `fleet.csv.gz` has `fleet.labels.csv.gz` beside it."""
    name = readings_path.name
    for ending in (".csv.gz", ".csv"):
        if name.endswith(ending):
            return readings_path.with_name(f"{name.removesuffix(ending)}.labels{ending}")
    return readings_path.with_name(f"{name}.labels.csv")


def _label_order(label: Label) -> tuple[str, datetime, datetime, str]:
    return label.sensor_id, label.started_at, label.ended_at, label.kind


def _measures(path: Path, header: Sequence[str], asked: Sequence[str] | None) -> tuple[str, ...]:
    present = tuple(name for name in header if name not in READINGS_KEY)
    if not present:
        raise ReadingsFileError(f"{path} has no measure; {_READINGS.form}")
    unknown = [name for name in asked or () if name not in present]
    if unknown:
        raise ReadingsFileError(f"{path} has no measure {unknown[0]!r}; it has {', '.join(present)}")
    return present if asked is None else tuple(dict.fromkeys(asked))


def _sensor_id(path: Path, line: int, cell: str) -> str:
    """The cell, if a reading may have it as its `sensor_id`; the rule is that of every other edge."""
    try:
        return make_reading(cell, format_time(_A_TIME), {"any": 0.0}, measures=("any",), now=_A_TIME).sensor_id
    except RefusedReadingError as error:
        raise ReadingsFileError(f"{path}, line {line}: {error}; give every sensor a plain name") from None


def _time(path: Path, line: int, cell: str, column: str) -> datetime:
    try:
        return parse_time(cell)
    except RefusedReadingError as error:
        reason = str(error).replace("measured_at", column, 1)
        raise ReadingsFileError(f"{path}, line {line}: {reason:.160}; {_TIME_FORM}") from None


def _number(path: Path, line: int, measure: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    # Python would read 1_000 as a number; no file means that
    if not -LARGEST_VALUE <= value <= LARGEST_VALUE or "_" in cell:
        raise ReadingsFileError(
            f"{path}, line {line}: {measure} is not a number: {cell!r:.80}; "
            "write a number, leave the cell empty, or choose other measures"
        )
    return 0.0 if -SMALLEST_VALUE < value < SMALLEST_VALUE else value


def _repairs(*, duplicates: int, late: int, without_value: int) -> Iterator[str]:
    if duplicates:
        yield f"{counted(duplicates, 'duplicate row')}: the last of each was kept"
    if late:
        yield f"{counted(late, 'row')} {'was' if late == 1 else 'were'} out of order: sorted"
    if without_value:
        yield f"{counted(without_value, 'row')} without a value {'was' if without_value == 1 else 'were'} left out"
