"""Queries of a table in the time that a partition takes: ministack parses the key condition anew for each of its items.

A sensor's partition holds tens of thousands, and detection asks for the newest ninety, many times a second.
"""

import operator
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ministack.services import dynamodb

_COMPARISONS = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_PARTITION = r"(?P<key>\w+) = (?P<equal>:\w+)"
_COMPARED = rf"{_PARTITION} AND (?P<sort>\w+) (?P<sign>[<>]=?|=) (?P<value>:\w+)"
_BETWEEN = rf"{_PARTITION} AND (?P<sort>\w+) BETWEEN (?P<low>:\w+) AND (?P<high>:\w+)"

Item = Mapping[str, Mapping[str, str]]
Predicate = Callable[[Item], bool]


def register() -> None:
    """Compile the key condition of a query once, where it is one of the two forms on texts that Overcut asks with."""
    evaluate, last = dynamodb._evaluate_condition, threading.local()

    def evaluate_compiled(
        expression: str, item: Any, values: Any, names: Any, slot: str = "ConditionExpression"
    ) -> Any:
        if slot != "KeyConditionExpression":
            return evaluate(expression, item, values, names, slot)
        if getattr(last, "values", None) is not values or last.expression != expression:
            last.values, last.expression = values, expression
            last.predicate = compiled(expression, values)
        return last.predicate(item) if last.predicate else evaluate(expression, item, values, names, slot)

    dynamodb._evaluate_condition = evaluate_compiled


def compiled(expression: str, values: Mapping[str, Mapping[str, str]]) -> Predicate | None:
    """What a key condition asks of an item; None for a form that is ministack's to evaluate."""
    match = re.fullmatch(_COMPARED, expression) or re.fullmatch(_BETWEEN, expression)
    if not match:
        return None
    asked = {part: values.get(name, {}).get("S") for part, name in match.groupdict().items() if name.startswith(":")}
    if None in asked.values():
        return None
    texts = {part: str(value) for part, value in asked.items()}
    key, sort, equal = match["key"], match["sort"], texts["equal"]
    if "low" in texts:
        low, high = texts["low"], texts["high"]
        return lambda item: item[key].get("S") == equal and low <= item[sort].get("S", "") <= high
    compare, value = _COMPARISONS[match["sign"]], texts["value"]
    return lambda item: item[key].get("S") == equal and bool(compare(item[sort].get("S", ""), value))
