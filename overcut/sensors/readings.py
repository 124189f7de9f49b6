"""Readings: what one sensor measured in one minute.

On the wire a reading is a JSON object. In Overcut's own form that is

    {"sensor_id": "hvac-323", "measured_at": "2021-06-10T12:02:00Z", "values": {"temperature": 29.1}}

and any other form is brought to it by three JMESPath expressions of its source (`overcut.sensors.sources` names them).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from overcut import RefusedError

MAX_SENSOR_ID_LENGTH = 128
FUTURE_TOLERANCE = timedelta(minutes=5)
# DynamoDB numbers reach from 1e-130 to 1e126; no thermometer comes near either end
LARGEST_VALUE = 1e30
SMALLEST_VALUE = 1e-30


class RefusedReadingError(RefusedError):
    """An event that cannot be a reading."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one sensor measured in one minute.

    Attributes:
        sensor_id: 1 to 128 printable characters.
        measured_at: UTC, whole seconds.
        values: one finite number a measure, in the measure's unit; never empty.
    """

    sensor_id: str
    measured_at: datetime
    values: Mapping[str, float]

    @property
    def reading_id(self) -> str:
        return reading_id(self.sensor_id, self.measured_at)


def reading_id(sensor_id: str, measured_at: datetime) -> str:
    """What a reading is called in every log, from the poll that heard it to the text about it."""
    return f"{sensor_id}@{format_time(measured_at)}"


def format_time(moment: datetime) -> str:
    """`moment` as ISO 8601 in UTC with whole seconds, which sorts as text: `2021-06-10T12:02:00Z`."""
    # strftime leaves the zeros off a year before 1000, which then sorts after this one and cannot be read back
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def parse_time(text: object) -> datetime:
    """The moment that an ISO 8601 text with a zone names, in UTC, cut to whole seconds.

    Raises:
        RefusedReadingError: not a text, not ISO 8601, or without a zone.
    """
    if not isinstance(text, str):
        raise RefusedReadingError(f"measured_at is not a text: {text!r:.80}")
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise RefusedReadingError(f"measured_at has no time zone: {text!r:.80}")
        return moment.astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        raise RefusedReadingError(f"measured_at is not a time in ISO 8601: {text!r:.80}") from None


def make_reading(
    sensor_id: object,
    measured_at: object,
    values: object,
    *,
    measures: Iterable[str],
    now: datetime,
    oldest: datetime | None = None,
) -> Reading:
    """A checked reading from the three things every event must hold.

    Args:
        sensor_id, measured_at, values: as they came, of any type.
        measures: the names that `values` may hold.
        now: the present; a reading may lie at most five minutes ahead of it.
        oldest: what was measured before is no longer kept beside its neighbours, and refused.

    Raises:
        RefusedReadingError: with the reason, for anything that cannot be stored and judged.
    """
    if not isinstance(sensor_id, str) or not 0 < len(sensor_id) <= MAX_SENSOR_ID_LENGTH:
        raise RefusedReadingError(
            f"sensor_id is not a text of 1 to {MAX_SENSOR_ID_LENGTH} characters: {sensor_id!r:.80}"
        )
    if not sensor_id.isprintable() or sensor_id != sensor_id.strip() or sensor_id.startswith("#"):
        raise RefusedReadingError(f"sensor_id has a control character, a space around it or a leading #: {sensor_id!r}")
    if "\N{REPLACEMENT CHARACTER}" in sensor_id:
        raise RefusedReadingError(f"sensor_id holds bytes that are not UTF-8: {sensor_id!r}")
    moment = parse_time(measured_at)
    if moment > now + FUTURE_TOLERANCE:
        raise RefusedReadingError(
            f"measured_at is more than five minutes in the future: {format_time(moment)}, now {format_time(now)}"
        )
    if oldest is not None and moment < oldest:
        raise RefusedReadingError(
            f"measured_at is too old: {format_time(moment)}; readings are taken from {format_time(oldest)} on"
        )
    if not isinstance(values, Mapping) or not values:
        raise RefusedReadingError(f"values is not an object of numbers by measure: {values!r:.80}")
    unknown = sorted(set(values) - set(measures))
    if unknown:
        raise RefusedReadingError(f"unknown measure {unknown[0]!r:.80}; this source has {', '.join(sorted(measures))}")
    return Reading(sensor_id, moment, {name: _number(name, values[name]) for name in sorted(values)})


def _number(measure: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedReadingError(f"{measure} is not a number: {value!r:.80}")
    # an integer past the range of floats compares, but cannot be converted
    if not -LARGEST_VALUE <= value <= LARGEST_VALUE:
        raise RefusedReadingError(f"{measure} is not a finite number of at most {LARGEST_VALUE:g}: {value!r:.80}")
    return 0.0 if abs(value) < SMALLEST_VALUE else float(value)


def parse_event(data: str) -> Any:
    """The JSON value of one event's data.

    Raises:
        RefusedReadingError: not JSON, or nested too deep.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise RefusedReadingError("the event is not JSON") from None
