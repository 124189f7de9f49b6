"""What every level of the tests shares: the synthesized template, and where recorded data is."""

import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stacks.stage import read_stage

if TYPE_CHECKING:
    from aws_cdk import Stack

# CDK's library runs on Node.js: where the machine has none that fits, the one beside this Python does
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
# and what it has deprecated is not used: a warning at each synthesis otherwise, an error here
os.environ["JSII_DEPRECATED"] = "fail"

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


def synthesized(stage_name: str, pipeline: str = "sensors") -> dict[str, Any]:
    """The template of a stage's pipeline, as CloudFormation would get it; a copy of its own for every caller."""
    template: dict[str, Any] = json.loads(_synthesized(stage_name, pipeline))
    return template


@cache
def _synthesized(stage_name: str, pipeline: str) -> str:
    from aws_cdk.assertions import Template

    return json.dumps(Template.from_stack(stack_of(stage_name, pipeline)).to_json())


@cache
def stack_of(stage_name: str, pipeline: str) -> "Stack":
    """The stack that `synthesized` is of."""
    return new_stack(stage_name, pipeline)


def new_stack(stage_name: str, pipeline: str) -> "Stack":
    """A stage's stack of a pipeline, in an app of its own."""
    # imported here, since importing CDK's library starts Node.js, which most tests do not need
    import aws_cdk as cdk

    from stacks.etl_jobs.stack import EtlJobsStack
    from stacks.sensors.stack import SensorsStack

    stage = read_stage(stage_name)
    app = cdk.App(context=json.loads((ROOT / "cdk.json").read_text())["context"])
    if pipeline == "sensors":
        return SensorsStack(app, f"Overcut-{stage.name}-sensors", stage=stage.with_sensors())
    return EtlJobsStack(app, f"Overcut-{stage.name}-etl-jobs", stage=stage.with_etl_jobs())


def resources_of(template: Mapping[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """The properties of a template's resources of a CloudFormation type, by logical id."""
    return {
        name: resource.get("Properties", {})
        for name, resource in template["Resources"].items()
        if resource["Type"] == kind
    }


def logical_name(logical_id: str) -> str:
    """A logical id without the hash that CDK appends: `StorageReadings1A2B3C4D` is `StorageReadings`."""
    return re.sub(r"[0-9A-F]{8}$", "", logical_id)


@pytest.fixture(scope="session")
def local_template() -> dict[str, Any]:
    return synthesized("local")


def recorded_data(name: str) -> Path:
    """A file of recorded data; the test is skipped where it is absent."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"recorded data is absent: {name} is not in ../shared/data")
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what suites counted, each summed over its tests: their record properties that are numbers by name."""
    suites: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for report in terminalreporter.stats.get("", []):
        if report.when == "teardown":
            for suite, figures in report.user_properties:
                suites[suite].update(figures)
    for suite, figures in suites.items():
        terminalreporter.section(suite)
        for name, number in figures.items():
            terminalreporter.line(f"{number:>8,}  {name.replace('_', ' ')}")
