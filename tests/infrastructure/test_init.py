"""The file that `overcut init` writes is a stage: the app synthesizes its stack from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from tests.conftest import ROOT
from workbench.cli import main


def test_the_app_synthesizes_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "plant.toml"
    options = ["--no-input", "--contacts", "day,night", "--region", "eu-west-1"]
    ran = CliRunner().invoke(main, ["init", str(path), *options])
    assert ran.exit_code == 0, ran.output
    context = json.loads((ROOT / "cdk.json").read_text())["context"] | {"stage": str(path)}
    environment = {**os.environ, "CDK_CONTEXT_JSON": json.dumps(context), "CDK_OUTDIR": str(tmp_path / "cdk.out")}
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    template = json.loads((tmp_path / "cdk.out" / "Overcut-plant-sensors.template.json").read_text())
    assert {name for name in template["Parameters"] if name.startswith("Phone")} == {
        "PhoneNumberDay",
        "PhoneNumberNight",
    }
