"""From a clean clone to a text, step by step: `python -m benchmarks.set_up`.

The checkout is cloned into a folder of its own and set up there; packages come from their registries, or from what the
package managers have kept of them. Then the demonstrations, each twice.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measured import Row, write

ROOT = Path(__file__).parent.parent
SYNTH = ["node_modules/.bin/cdk", "synth", "--quiet", "--context", "stage=local", "--output", "cdk.out"]
DEMO = [".venv/bin/overcut", "demo"]


def main() -> None:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "overcut"
        for step, command in {
            "git clone": ["git", "clone", "--quiet", str(ROOT), str(clone)],
            "make setup": ["make", "setup"],
            "make setup, when nothing is to be done": ["make", "setup"],
            "cdk synth, both pipelines": SYNTH,
            "overcut demo sensors, deployed and a text": [*DEMO, "sensors"],
            "overcut demo sensors, again": [*DEMO, "sensors"],
            "overcut demo etl-jobs, deployed and a ticket": [*DEMO, "etl-jobs"],
            "overcut demo etl-jobs, again": [*DEMO, "etl-jobs"],
        }.items():
            rows.append({"step": step, "seconds": round(_timed(command, clone), 1)})
            sys.stderr.write(f"{rows[-1]}\n")
    write("set_up", {"": rows}, ["aws-cdk-lib", "ministack", "pyspark"])


def _timed(command: list[str], clone: Path) -> float:
    began = time.monotonic()
    ran = subprocess.run(
        command,
        cwd=clone if clone.exists() else ROOT,
        env={**os.environ, "PATH": f"{clone}/.venv/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ran.stdout[-2000:]}{ran.stderr[-4000:]}")
    return time.monotonic() - began


if __name__ == "__main__":
    main()
