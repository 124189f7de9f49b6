"""Proposing a source's field mapping by looking at its events.

A guess, by names and by what the values look like; whether it is right is for a person to say, and whether it gives
readings is tried on the events themselves.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overcut import RefusedError
from overcut.sensors.readings import RefusedReadingError, parse_event, parse_time
from overcut.sensors.sources import FieldMapping

Path = tuple[str, ...]

# the likelier a name, the earlier it stands
_SENSOR_NAMES = ("sensor", "device", "asset", "equipment", "machine", "tag", "serial", "eui", "id", "name")
_TIME_NAMES = ("measured", "observed", "sampled", "time", "ts", "date")
# numbers that are nothing measured
_NO_MEASURE = re.compile(
    r"(.*_)?(id|seq|sequence|count|counter|version|offset|lat|latitude|lon|lng|longitude|timestamp|time|ts|epoch)",
    re.IGNORECASE,
)
_DEEPEST = 8


class NoProposalError(RefusedError):
    """No mapping can be made of the events; the text says what is missing, and what to do."""


@dataclass(frozen=True)
class Proposal:
    """A mapping, and what of the events it leaves out.

    Attributes:
        left_out: paths of numbers that are not in every event, or that look like nothing measured.
    """

    mapping: FieldMapping
    left_out: tuple[str, ...]


def propose(events: Sequence[str]) -> Proposal:
    """The mapping that fits the events best.

    Args:
        events: the data of each; what is no JSON object is passed over.

    Raises:
        NoProposalError: none of them is a JSON object, or they lack a sensor, a time or a number.
    """
    objects = [found for event in events if isinstance(found := _parsed(event), dict)]
    if not objects:
        raise NoProposalError("no event is a JSON object; a reading must be one, whatever its fields are called")
    fields = _fields(objects)
    common = {path: values for path, values in fields.items() if 2 * len(values) > len(objects)}
    measured_at = _best((path for path, values in common.items() if _mostly(_is_time, values)), _TIME_NAMES)
    if measured_at is None:
        raise NoProposalError(
            "no field of most events is a time in ISO 8601 with its zone, such as 2026-03-02T00:00:00Z;"
            " have the device send one, for a mapping cannot make it of a number"
        )
    of_sensor = _best((path for path, values in common.items() if _are_names(path, values)), _SENSOR_NAMES)
    if of_sensor is None:
        raise NoProposalError("no field of most events looks like the name of a sensor, such as sensor_id")
    sensor_id = _expression(of_sensor)
    if not _mostly(lambda value: isinstance(value, str), common[of_sensor]):
        sensor_id = f"to_string({sensor_id})"
    # what is odd as a whole says nothing about measures
    objects = [one for one in objects if None not in (_at(one, measured_at), _at(one, of_sensor))]
    fields = _fields(objects)
    numbers = {path for path, values in fields.items() if _mostly(_is_number, values) and path != of_sensor}
    measured = {path for path in numbers if not _NO_MEASURE.fullmatch(path[-1])}
    if whole := _object_of(measured, fields, objects):
        values, taken = _expression(whole), {path for path in measured if path[:-1] == whole}
        measures = sorted({path[-1] for path in taken})
    else:
        taken = {path for path in measured if len(fields[path]) == len(objects)}
        named = _named(sorted(taken))
        measures = sorted(named)
        values = ", ".join(f"{_key(name)}: {_expression(named[name])}" for name in measures)
        values = f"{{{values}}}"
    if not measures:
        raise NoProposalError("no field of every event is a number that looks measured; numbers in quotes are texts")
    left_out = tuple(sorted(_expression(path) for path in numbers - taken))
    mapping = FieldMapping(dict.fromkeys(measures, ""), sensor_id, _expression(measured_at), values)
    mapping.check()
    return Proposal(mapping, left_out)


def _parsed(event: str) -> object:
    try:
        return parse_event(event)
    except RefusedReadingError:
        return None


def _fields(objects: Sequence[Mapping[str, Any]]) -> dict[Path, list[Any]]:
    """The values that the events have at each path that ends in no object, in the order in which paths come up."""
    found: dict[Path, list[Any]] = {}
    for one in objects:
        for path, value in _leaves(one, ()):
            found.setdefault(path, []).append(value)
    return found


def _leaves(value: Mapping[str, Any], above: Path) -> Iterator[tuple[Path, Any]]:
    for name, inner in value.items():
        path = (*above, name)
        if isinstance(inner, dict) and len(path) < _DEEPEST:
            yield from _leaves(inner, path)
        else:
            yield path, inner


def _object_of(measured: set[Path], fields: Mapping[Path, Any], objects: Sequence[Mapping[str, Any]]) -> Path | None:
    """The one object below the event's own that holds all that is measured, and in every event nothing else."""
    above = {path[:-1] for path in measured}
    if len(above) != 1 or not (path := next(iter(above))):
        return None
    is_pure = all(other in measured for other in fields if other[: len(path)] == path)
    return path if is_pure and all(isinstance(_at(one, path), dict) for one in objects) else None


def _at(value: Any, path: Path) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _best(paths: Iterator[Path], names: Sequence[str]) -> Path | None:
    """The path whose last name is the likeliest; where none is likely, the first."""
    return min(paths, key=lambda path: (_rank(path[-1], names), len(path)), default=None)


def _rank(name: str, names: Sequence[str]) -> int:
    """How far behind in `names` the first is that a word of `name` begins with; their number for none."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return next((rank for rank, likely in enumerate(names) if any(map(_begins(likely), words))), len(names))


def _begins(likely: str) -> Callable[[str], bool]:
    # `ideal` is no id, and `tsunami` no time
    return lambda word: word == likely or (len(likely) > 2 and word.startswith(likely))


def _mostly(test: Callable[[object], bool], values: Sequence[object]) -> bool:
    """Whether more than half are: an odd event is for a person to see, and must not hide what the others are."""
    return 2 * sum(map(test, values)) > len(values)


def _is_time(value: object) -> bool:
    try:
        parse_time(value)
    except RefusedReadingError:
        return False
    return True


def _are_names(path: Path, values: Sequence[object]) -> bool:
    """Texts that are no times; whole numbers only where the field is called as one that names a sensor."""
    if _mostly(lambda value: isinstance(value, int) and not isinstance(value, bool), values):
        return _rank(path[-1], _SENSOR_NAMES) < len(_SENSOR_NAMES)
    return _mostly(lambda value: isinstance(value, str) and value != "" and not _is_time(value), values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Each path by a name of its own: its last part, or as much of it as tells it from the others."""
    named: dict[str, Path] = {}
    for path in paths:
        length = 1
        while (name := "_".join(path[-length:])) in named and length < len(path):
            length += 1
        named[name] = path
    return named


def _expression(path: Path) -> str:
    return ".".join(map(_key, path))


def _key(name: str) -> str:
    """A name as JMESPath takes it: what is no identifier stands in quotes."""
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else json.dumps(name)
