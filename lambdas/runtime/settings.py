"""Settings: a function's environment as a frozen type.

A settings class is a frozen dataclass whose fields are texts, whole numbers or JSON; the environment variable of
`table_name` is TABLE_NAME. A test holds that the stack gives each function exactly its fields.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from overcut import RefusedError

Settings = TypeVar("Settings")


class SettingsError(RefusedError):
    """The environment does not hold what the function needs."""


def load_settings(kind: type[Settings], environment: Mapping[str, str]) -> Settings:
    """The settings of `kind` that `environment` holds.

    Raises:
        SettingsError: naming the variable that is missing or cannot be read.
    """
    values: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # kind is a dataclass, as the docstring asks
        name = field.name.upper()
        if name not in environment:
            raise SettingsError(f"environment variable {name} is missing")
        text = environment[name]
        try:
            values[field.name] = text if hints[field.name] is str else json.loads(text)
        except ValueError:
            raise SettingsError(f"environment variable {name} is not JSON: {text:.80}") from None
    return kind(**values)


def environment_keys(kind: type[object]) -> set[str]:
    """The environment variables that settings of `kind` are read from."""
    return {field.name.upper() for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # as above
