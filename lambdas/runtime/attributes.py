"""DynamoDB attribute values to and from plain Python: texts, numbers, booleans, lists and dictionaries.

Unlike boto3's own serializer it takes floats, written so that they read back as the very same float.
"""

from collections.abc import Mapping
from typing import Any

Attributes = dict[str, Any]


def to_attributes(values: Mapping[str, Any]) -> Attributes:
    """`values` as an item; a key whose value is None is left out.

    Raises:
        TypeError: a value of a type that is not stored.
    """
    return {key: to_attribute(value) for key, value in values.items() if value is not None}


def to_attribute(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int | float):
        # numpy's floats are floats whose repr is not a number
        return {"N": repr(float(value)) if isinstance(value, float) else str(int(value))}
    if isinstance(value, Mapping):
        return {"M": to_attributes(value)}
    if isinstance(value, list | tuple):
        return {"L": [to_attribute(one) for one in value]}
    raise TypeError(f"{type(value).__name__} is not stored in DynamoDB")


def from_attributes(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as plain Python; every number is a float."""
    return {key: from_attribute(value) for key, value in item.items()}


def from_attribute(attribute: Mapping[str, Any]) -> Any:
    ((kind, value),) = attribute.items()
    match kind:
        case "S" | "BOOL":
            return value
        case "N":
            return float(value)
        case "M":
            return from_attributes(value)
        case "L":
            return [from_attribute(one) for one in value]
    raise TypeError(f"attribute type {kind} is not read here")
