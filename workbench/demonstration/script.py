"""What the sensors part of a demonstration shows: a simulated unit, or a readings file of one's own.

RefusedError
 └─ ScriptError   options and a file that no demonstration can follow
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lambdas.sensors.stores import Sensor
from overcut import RefusedError
from overcut.sensors.cohorts import MIN_READINGS
from overcut.sensors.readings import Reading, RefusedReadingError, format_time, parse_time
from stacks.stage import read_stage
from workbench.csv_files import counted
from workbench.readings_files import read_readings
from workbench.simulate import simulate_unit

SOURCE_ID = "device"

_SEED = 20
_HISTORY_DAYS = 3.0
_LIVE_HOURS = 2.5
# the live part begins where the last day ends that the ETL pipeline's part judges
_STARTED_AT = datetime(2026, 4, 15, tzinfo=UTC)
_SIMULATED_SPEED = 180.0
# of a file's own readings, the first part is learned from
_LEARNED_SHARE = 2 / 3
_FASTEST = 240.0
_LIVE_SECONDS = 60.0


class ScriptError(RefusedError):
    """No demonstration can follow the options; the text says which option, and what would do."""


@dataclass(frozen=True)
class Script:
    """What is shown.

    Attributes:
        readings: sorted by time; those before `train_until` are history.
        units: of each measure.
        speed: seconds of the clock a second of this machine, once the history is learned.
        sensors: what is known of sensors beforehand; the rest register themselves.
        remarks: what a person is to know of it first, a sentence each.
    """

    readings: Sequence[Reading]
    units: Mapping[str, str]
    train_until: datetime
    speed: float
    sensors: Sequence[Sensor] = ()
    remarks: Sequence[str] = ()


def simulated_script(speed: float | None) -> Script:
    """A cold room: three days to learn from, then two and a half hours with one fault."""
    readings, _ = simulate_unit(history_days=_HISTORY_DAYS, live_hours=_LIVE_HOURS, seed=_SEED, started_at=_STARTED_AT)
    known = Sensor(
        readings[0].sensor_id,
        SOURCE_ID,
        {"temperature": "C"},
        "Cold room 3",
        customer="Acme Foods",
        site="Plant 1",
        kind="cold room",
    )
    train_until = _STARTED_AT + timedelta(days=_HISTORY_DAYS)
    return Script(readings, {"temperature": "C"}, train_until, speed or _SIMULATED_SPEED, [known])


def recorded_script(path: Path, *, measures: Sequence[str], train_until: str | None, speed: float | None) -> Script:
    """The readings of a file.

    Args:
        measures: those to use; all of them without any.
        train_until: the moment that ends the history; without it, two thirds of the file's time are history.
        speed: without it, the rest takes a minute.

    Raises:
        ReadingsFileError: the file cannot be used.
        ScriptError: `train_until` is no time, is not within the file, or leaves too little to learn from.
    """
    found = read_readings(path, measures=measures or None)
    first, last = found.readings[0].measured_at, found.readings[-1].measured_at
    until = _moment(train_until) if train_until else first + (last - first) * _LEARNED_SHARE
    if not first < until < last:
        raise ScriptError(f"--train-until must lie between {format_time(first)} and {format_time(last)}")
    oldest = until - timedelta(days=read_stage("local").with_sensors().sensors.training_window_days)
    shown = [reading for reading in found.readings if reading.measured_at >= oldest]
    remarks = [*found.repairs]
    if len(shown) < len(found.readings):
        remarks.append(f"readings before {oldest:%Y-%m-%d} are left out; it learns from the last days only")
    learned = Counter(reading.sensor_id for reading in shown if reading.measured_at < until)
    if (most := max(learned.values(), default=0)) < MIN_READINGS:
        raise ScriptError(
            f"{path}: no sensor has more than {counted(most, 'reading')} before {format_time(until)} to learn from,"
            f" and it takes {MIN_READINGS}, four hours at one a minute: give a later --train-until or a longer file"
        )
    if few := sum(1 for reading_count in learned.values() if reading_count < MIN_READINGS):
        remarks.append(
            f"{counted(few, 'sensor')} of {len(learned)} with fewer than {MIN_READINGS} readings"
            f" before {format_time(until)} will not be judged"
        )
    fitting = min(_FASTEST, max(1.0, (last - until).total_seconds() / _LIVE_SECONDS))
    return Script(
        shown,
        dict.fromkeys(found.measures, ""),
        until,
        speed or fitting,
        remarks=[f"{path.name}: {remark}" for remark in remarks],
    )


def _moment(text: str) -> datetime:
    try:
        return parse_time(text)
    except RefusedReadingError:
        raise ScriptError(f"--train-until is no time with a zone, such as 2021-06-10T11:00:00Z: {text}") from None
