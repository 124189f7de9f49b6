"""The stage of a demonstration: the local stage, with this demonstration's device, measures and clock."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

import tomli_w

from stacks.stage import STAGES

SOURCE_ID = "device"


def write_stage_file(path: Path, *, device_url: str, measures: Mapping[str, str], clock: Path) -> Path:
    """Write the stage file of a demonstration; return its path.

    Args:
        measures: the unit of each measure that the device sends.
    """
    stage = tomllib.loads((STAGES / "local.toml").read_text(encoding="utf-8"))
    stage |= {"name": "local", "clock": str(clock)}
    stage["sensors"]["sources"] = {SOURCE_ID: {"url": device_url, "measures": dict(measures)}}
    path.write_text(tomli_w.dumps(stage), encoding="utf-8")
    return path
