"""Sources: what a stream of one vendor calls the three things a reading needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from jmespath.parser import ParsedResult

from overcut import RefusedError
from overcut.sensors.readings import Reading, RefusedReadingError, make_reading, parse_event


class FieldMappingError(RefusedError):
    """An expression of a field mapping is not JMESPath."""


def _functions(node: Mapping[str, Any]) -> set[str]:
    """The functions that a parsed expression calls."""
    own = {str(node["value"])} if node["type"] == "function_expression" else set()
    return own.union(*(_functions(child) for child in node["children"] if isinstance(child, dict)))


_Search = Callable[[Any], Any]


def _search(expression: ParsedResult) -> _Search:
    """What looks an expression up in an event; a plain name, as most are, without an interpreter of JMESPath."""
    if expression.parsed["type"] != "field":
        return expression.search
    name = expression.parsed["value"]
    return lambda event: event.get(name) if isinstance(event, dict) else None


@dataclass(frozen=True)
class FieldMapping:
    """Where a source's events hold the parts of a reading: one JMESPath expression each.

    `values` must give an object of numbers by measure; a vendor's own names are brought to measures by a multiselect
    hash, for example `{temperature: data.t1, humidity: data.rh}`. Syntax: https://jmespath.org/specification.html

    Attributes:
        measures: the unit of each measure the source may send.
    """

    measures: Mapping[str, str] = field(hash=False)
    sensor_id: str = "sensor_id"
    measured_at: str = "measured_at"
    values: str = "values"

    @cached_property
    def _expressions(self) -> tuple[_Search, _Search, _Search]:
        found = []
        for name in ("sensor_id", "measured_at", "values"):
            try:
                compiled = jmespath.compile(getattr(self, name))
            except JMESPathError as error:
                raise FieldMappingError(f"{name} is not a JMESPath expression: {error}") from None
            unknown = sorted(_functions(compiled.parsed) - set(Functions.FUNCTION_TABLE))
            if unknown:
                raise FieldMappingError(f"{name} calls {unknown[0]}(), which JMESPath does not have")
            found.append(_search(compiled))
        return found[0], found[1], found[2]

    def check(self) -> None:
        """Compile every expression.

        Raises:
            FieldMappingError: naming the one that is not JMESPath.
        """
        _ = self._expressions

    def read(self, data: str, now: datetime, oldest: datetime | None = None) -> Reading:
        """The reading that one event's data holds; `now` and `oldest` as in `make_reading`.

        Raises:
            RefusedReadingError: with the reason, when it cannot be one.
        """
        event = parse_event(data)
        sensor_id, measured_at, values = self._expressions
        try:
            parts = [sensor_id(event), measured_at(event), values(event)]
        except (JMESPathError, TypeError, ValueError, ArithmeticError) as error:
            # jmespath lets through what Python says to the infinity in ceil(x), or to a text compared with a number
            raise RefusedReadingError(f"the field mapping does not fit the event: {error}") from None
        for name, part in zip(("sensor_id", "measured_at", "values"), parts, strict=True):
            if part is None:
                raise RefusedReadingError(f"the event has no {name} (looked for {getattr(self, name)})")
        return make_reading(parts[0], parts[1], parts[2], measures=self.measures, now=now, oldest=oldest)
