"""The stage of a demonstration: the local stage, with the pipelines that are shown and this demonstration's clock."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from stacks.stage import STAGES

PIPELINES = ("sensors", "etl_jobs")


def write_stage_file(path: Path, *, clock: Path, pipelines: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the stage file of a demonstration; return its path.

    Args:
        clock: the clock file of everything that is deployed.
        pipelines: those that are shown, by their tables' names; each with the settings that differ from the local
            stage's. The other pipeline is left out.
    """
    stage = tomllib.loads((STAGES / "local.toml").read_text(encoding="utf-8"))
    stage |= {"name": "local", "clock": str(clock)}
    shown = {name: stage.get(name, {}) | settings for name, settings in pipelines.items()}
    rest = {name: value for name, value in stage.items() if name not in PIPELINES}
    path.write_text(tomli_w.dumps(rest | shown), encoding="utf-8")
    return path
