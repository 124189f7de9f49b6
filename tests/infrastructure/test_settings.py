"""Each function's environment is its `Settings`: the same keys, and values that can be read."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from lambdas.runtime.settings import environment_keys, load_settings
from tests.conftest import ROOT, synthesized
from tests.infrastructure.templates import functions_of, text

STAGES = ["prod", "dev", "local"]
HANDLERS = sorted(ROOT.glob("lambdas/*/*/handler.py"))


def all_functions(stage: str) -> dict[str, dict[str, Any]]:
    """The properties of both pipelines' functions, by folder."""
    return {
        name: function
        for pipeline in ("sensors", "etl_jobs")
        for name, function in functions_of(synthesized(stage, pipeline)).items()
    }


def name_of(handler: Path) -> str:
    return ".".join(handler.relative_to(ROOT / "lambdas").parts[:-1])


def module_of(function: str) -> Any:
    return importlib.import_module(f"lambdas.{function}.handler")


@pytest.mark.parametrize("stage", STAGES)
def test_every_handler_is_deployed_by_its_path(stage: str) -> None:
    deployed = {function["Handler"] for function in all_functions(stage).values()}
    assert deployed == {f"lambdas.{name_of(handler)}.handler.handler" for handler in HANDLERS}


@pytest.mark.parametrize("function", [name_of(handler) for handler in HANDLERS])
def test_a_handler_string_is_an_import_path(function: str) -> None:
    path = all_functions("prod")[function]["Handler"]
    module, _, attribute = path.rpartition(".")
    assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("function", [name_of(handler) for handler in HANDLERS])
def test_the_environment_is_the_settings(stage: str, function: str) -> None:
    given = all_functions(stage)[function]["Environment"]["Variables"]
    settings = module_of(function).Settings
    assert given.keys() == environment_keys(settings)
    loaded = load_settings(settings, {key: text(value) for key, value in given.items()})
    for name, kind in settings.__annotations__.items():
        plain = {"str": str, "int": int, "list": list, "dict": dict}[kind.partition("[")[0]]
        assert isinstance(getattr(loaded, name), plain), f"{name} is not {kind}"


@pytest.mark.parametrize("stage", ["prod", "dev"])
def test_functions_on_aws_live_in_the_system_s_time(stage: str) -> None:
    for function in functions_of(synthesized(stage)).values():
        assert function["Environment"]["Variables"]["CLOCK"] == "system"
