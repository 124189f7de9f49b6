"""Queries of a table in less than the time that a partition takes: ministack parses the key condition anew for each of
its items, and a sensor's partition holds tens of thousands, of which detection asks for the newest ninety.

A query on texts, in one of the two forms that Overcut asks with, is answered from a table that holds those items of the
partition that its key condition finds; everything else about it stays ministack's.
"""

import heapq
import itertools
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from ministack.services import dynamodb

_COMPARISONS = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_PARTITION = r"(?P<key>\w+) = (?P<equal>:\w+)"
_COMPARED = rf"{_PARTITION} AND (?P<sort>\w+) (?P<sign>[<>]=?|=) (?P<value>:\w+)"
_BETWEEN = rf"{_PARTITION} AND (?P<sort>\w+) BETWEEN (?P<low>:\w+) AND (?P<high>:\w+)"

Predicate = Callable[[str], bool]


def register() -> None:
    """Answer such queries from a table of their own."""
    ask, numbers = dynamodb._query, itertools.count()

    def ask_narrowed(data: dict[str, Any]) -> Any:
        table = dynamodb._tables.get(dynamodb._normalize_table_name(data.get("TableName")))
        narrowed = _narrowed(table, data) if table else None
        if narrowed is None:
            return ask(data)
        name = f"overcut-narrowed-{next(numbers)}"
        dynamodb._tables[name] = narrowed
        try:
            return ask({**data, "TableName": name})
        finally:
            del dynamodb._tables[name]

    dynamodb._query = ask_narrowed


def _narrowed(table: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table with nothing but what the query may find; None for a query that is ministack's to answer."""
    found = asked(data.get("KeyConditionExpression") or "", data.get("ExpressionAttributeValues") or {})
    if found is None or data.get("IndexName") or data.get("ReturnConsumedCapacity"):
        return None
    key, sort, partition, is_asked = found
    types = {one["AttributeName"]: one["AttributeType"] for one in table["AttributeDefinitions"]}
    if (key, sort) != (table["pk_name"], table["sk_name"]) or types[key] != "S" or types[sort] != "S":
        return None
    items = table["items"].get(partition, {})
    moments = [moment for moment in items if is_asked(moment)]
    forwards = data.get("ScanIndexForward", True)
    if start := data.get("ExclusiveStartKey"):
        last = start[sort]["S"]
        moments = [moment for moment in moments if (moment > last if forwards else moment < last)]
    if most := data.get("Limit"):
        moments = (heapq.nsmallest if forwards else heapq.nlargest)(most, moments)
    return {**table, "items": {partition: {moment: items[moment] for moment in moments}}}


def asked(expression: str, values: Mapping[str, Mapping[str, str]]) -> tuple[str, str, str, Predicate] | None:
    """The keys' names in a key condition, the partition, and what is asked of the sort key; None for another form."""
    match = re.fullmatch(_COMPARED, expression) or re.fullmatch(_BETWEEN, expression)
    if not match:
        return None
    given = {part: values.get(name, {}).get("S") for part, name in match.groupdict().items() if name.startswith(":")}
    if None in given.values():
        return None
    texts = {part: str(value) for part, value in given.items()}
    if "low" in texts:
        low, high = texts["low"], texts["high"]
        return match["key"], match["sort"], texts["equal"], lambda moment: low <= moment <= high
    compare, value = _COMPARISONS[match["sign"]], texts["value"]
    return match["key"], match["sort"], texts["equal"], lambda moment: bool(compare(moment, value))
