"""From a clean clone to a text and a ticket, step by step: `python -m benchmarks.set_up`.

What is committed is cloned into a folder of its own and set up there; packages come from their registries, or from what
the package managers have kept of them. Then each pipeline is demonstrated twice: the steps are those that a
demonstration tells.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measured import Row, write

ROOT = Path(__file__).parent.parent
PIPELINES = ("sensors", "etl-jobs")
TOLD = re.compile(r"^done (?P<step>.*?)[ ━╸╺]*(?: \d+/\d+)? (?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)$", re.M)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "overcut"
        _run(["git", "clone", "--quiet", str(ROOT), str(clone)], ROOT)
        steps = {"make setup": [_run(["make", "setup"], clone)[0] for _ in range(2)]}
        for pipeline in PIPELINES:
            for _ in range(2):
                seconds, told = _run([".venv/bin/overcut", "demo", pipeline], clone)
                for done in TOLD.finditer(told):
                    took = 3_600 * int(done["hours"]) + 60 * int(done["minutes"]) + int(done["seconds"])
                    steps.setdefault(f"{pipeline}: {done['step']}", []).append(took)
                steps.setdefault(f"{pipeline}, the whole demonstration", []).append(seconds)
    # what takes no second is not worth a line
    rows: list[Row] = [
        {"step": step, "first": first, "again": again} for step, (first, again) in steps.items() if first
    ]
    write("set_up", {"Seconds:": rows}, ["aws-cdk-lib", "ministack", "pyspark"])


def _run(command: list[str], folder: Path) -> tuple[float, str]:
    """Seconds, and what it told."""
    began = time.monotonic()
    environment = {**os.environ, "PATH": f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}"}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ran.stdout[-2000:]}{ran.stderr[-4000:]}")
    seconds = round(time.monotonic() - began, 1)
    sys.stderr.write(f"{' '.join(command)}: {seconds} s\n")
    return seconds, ran.stdout


if __name__ == "__main__":
    main()
