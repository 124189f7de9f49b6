"""What each function takes at its heaviest input, and what starting it takes: `python -m benchmarks.memory`.

The inputs are those of `tests/infrastructure/test_memory.py`, which holds every function to 90 MB: AWS adds about 25 MB
of its own, and a function has 128. Each runs in a process of its own under AWS's runtime client, from the bundle that
is deployed, against AWS in another process; where one may be made, in a control group of the 103 MB that are left.
Before that it is started by itself, and how much of a core each part of that takes is told.
"""

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measured import in_a_process, spread, write
from tests.infrastructure import lambda_runtime

ROUNDS, STARTS = 2, 3
INPUTS = "tests/infrastructure/test_memory.py"
OF_AWS, GIVEN = 25, 128
SHARE = 0.072  # of a core, that 128 MB have: https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html
# what has been used of a core once there is an interpreter, the runtime client, the function's module, its clients
START = """
import json, sys, time
used = [time.process_time()]
import awslambdaric.bootstrap
used.append(time.process_time())
handler = __import__(sys.argv[1], fromlist=["handler"])
used.append(time.process_time())
handler.dependencies()
used.append(time.process_time())
print(json.dumps(used))
"""
PARTS = ("interpreter", "runtime client", "imports", "clients")


class Recorder:
    """Has the tests' own functions, as they measure them, tell their figures."""

    def __init__(self, group: Path | None) -> None:
        self._group = group
        self.figures: dict[str, dict[str, float]] = {}

    def _python(self, where: Mapping[str, Any]) -> str:
        """The interpreter, in the control group from its beginning."""
        if self._group is None:
            return str(where["python"])
        within: Path = where["log"].with_suffix(".python")
        within.write_text(f'#!/bin/sh\necho $$ >{self._group}/cgroup.procs\nexec {where["python"]} "$@"\n')
        within.chmod(0o755)
        return str(within)

    def pytest_collection_finish(self) -> None:
        tests: Any = sys.modules["tests.infrastructure.test_memory"]
        # a busy machine is no failure here
        lambda_runtime.TIMEOUT = 900.0
        running, check = tests.running, tests.check

        @contextmanager
        def started(function: str, **where: Any) -> Iterator[Any]:
            self.figures[function] = _start(function, where)
            with running(function, **{**where, "python": self._python(where)}) as one:
                yield one

        def checked(function: str, one: Any, calls: Any) -> None:
            found = self.figures[function]
            found["peak"] = one.peak_megabytes()
            found["requests"] = _used(one.process.pid) - sum(found[part] for part in PARTS)
            check(function, one, calls)

        tests.running, tests.check = started, checked


@contextmanager
def control_group() -> Iterator[Path | None]:
    """A control group of what AWS leaves of a function's memory; None where this machine lets nobody make one."""
    group = Path("/sys/fs/cgroup/memory") / f"overcut-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str((GIVEN - OF_AWS) * 2**20))
    except OSError:
        yield None
    else:
        try:
            yield group
        finally:
            group.rmdir()


def _start(function: str, where: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds of a core that each part of a start takes, in the median."""
    command = [where["python"], "-c", START, f"lambdas.{function}.handler"]
    # the function's own folder cannot be written to; the runtime's is compiled
    path = {"PYTHONPATH": f"{where['packages']}:{where['bundle']}", "PYTHONDONTWRITEBYTECODE": "1"}
    found = []
    for _ in range(STARTS):
        environment = {"PATH": os.environ["PATH"], **where["environment"], **path}
        ran = subprocess.run(command, cwd=where["bundle"], env=environment, check=True, capture_output=True, text=True)
        used = json.loads(ran.stdout.splitlines()[-1])
        found.append([1_000 * (later - earlier) for earlier, later in zip([0.0, *used], used, strict=False)])
    return dict(zip(PARTS, map(statistics.median, zip(*found, strict=True)), strict=True))


def _used(process: int) -> float:
    """Milliseconds of a core that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return 1_000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def once() -> dict[str, dict[str, float]]:
    """Every function's figures, of one run of the tests.

    Raises:
        SystemExit: a test failed.
    """
    with control_group() as group:
        recorder = Recorder(group)
        if failed := pytest.main([INPUTS, "-n0", "-q"], plugins=[recorder]):
            raise SystemExit(int(failed))
    return recorder.figures


def main() -> None:
    with control_group() as group:
        where = "in a control group of 103 MB" if group else "where no control group may be made"
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(ROUNDS):
        round_of: dict[str, Any] = in_a_process(["benchmarks.memory", "--once"])
        for function, found in round_of.items():
            for name, figure in found.items():
                figures[function][name].append(figure)
    resident, starting = [], []
    for function, found in figures.items():
        most = max(found["peak"])
        resident.append(
            {"function": function, "peak MB": spread(found["peak"]), "MB left of 128": GIVEN - OF_AWS - round(most, 1)}
        )
        start = sum(statistics.median(found[part]) for part in PARTS)
        starting.append(
            {"function": function}
            | {part: spread(found[part]) for part in PARTS}
            | {
                "heaviest input": spread(found["requests"]),
                "start, at 0.072 of a core": start / SHARE,
                "heaviest input, at 0.072": statistics.median(found["requests"]) / SHARE,
            }
        )
    tables = {f"Resident memory, {where}:": resident, "Of a core, in milliseconds:": starting}
    write("memory", tables, ["awslambdaric", "boto3", "aws-lambda-powertools", "krcf"])


if __name__ == "__main__":
    if "--once" in sys.argv:
        sys.stdout.write("\n" + json.dumps(once()))
    else:
        main()
