"""What the benchmarks have in common: ways measured in turn, and figures kept with where and when they were taken.

A machine is shared and has its moods, so a figure is worth little beside one of another hour. Ways that are compared
are run one after the other, round by round, and a ratio is that of a round.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Figures = Mapping[str, float]
Row = dict[str, Any]


def rounds(ways: Sequence[str], command: Sequence[str], times: int) -> dict[str, list[Figures]]:
    """What each way found in each round; a way is a process of its own, `command` and its name, that prints JSON."""
    found: dict[str, list[Figures]] = {way: [] for way in ways}
    for number in range(times):
        # nobody is always the first
        for way in (*ways[number % len(ways) :], *ways[: number % len(ways)]):
            found[way].append(in_a_process([*command, way]))
            told = ", ".join(f"{name} {value:,.3g}" for name, value in found[way][-1].items())
            sys.stderr.write(f"{number + 1} of {times}: {way}: {told}\n")
    return found


def in_a_process(command: Sequence[str]) -> dict[str, float]:
    """The figures that a module of the benchmarks prints as JSON; `command` is its name and arguments.

    Raises:
        SystemExit: it failed; with what it said.
    """
    ran = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ran.stdout[-2000:]}{ran.stderr[-4000:]}")
    figures: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most."""
    found = sorted(values)
    return {
        name: _rounded(it) for name, it in zip(_SPREAD, (statistics.median(found), found[0], found[-1]), strict=True)
    }


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> dict[str, float]:
    """The spread of one over the other, round by round."""
    return spread(one / other for one, other in zip(ours, theirs, strict=True))


def write(name: str, tables: Mapping[str, Sequence[Row]], packages: Sequence[str] = ()) -> None:
    """Keep a benchmark's tables: rows of cells by column, each a text, a number or a spread."""
    found = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "versions": {package: importlib.metadata.version(package) for package in sorted(packages)},
        "tables": tables,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def peak_mb(process: str = "self") -> float:
    """The most that a process has had resident. Not `ru_maxrss`, which counts what started it as well."""
    status = (Path("/proc") / process / "status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def machine() -> str:
    """What this ran on."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    processor = models[0] if models else platform.machine()
    return (
        f"{processor}, {os.cpu_count()} cores, {gigabytes:.0f} GB, {platform.system()}, "
        f"Python {platform.python_version()}"
    )


_SPREAD = ("median", "least", "most")


def _rounded(value: float) -> float:
    """Four digits: more are noise."""
    return float(f"{value:.4g}")
