"""The figures of `benchmarks/results` as the tables of docs/benchmarks.md: `python -m benchmarks.tables`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.detection.report import replace_section
from benchmarks.measured import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def main(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Write the tables of every benchmark that has results into the page."""
    for result in sorted(results.glob("*.json")):
        replace_section(page, result.stem, section(json.loads(result.read_text())))


def section(found: Mapping[str, Any]) -> str:
    """A benchmark's tables, and where and when they were measured, as Markdown."""
    tables = [f"{title}\n\n{_table(rows)}" if title else _table(rows) for title, rows in found["tables"].items()]
    versions = "".join(f", {package} {version}" for package, version in found["versions"].items())
    return "\n\n".join([*tables, f"*{found['date']}: {found['machine']}{versions}.*"])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([_cell(row.get(name, "")) for name in head] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{_cell(value['median'])} ({_cell(value['least'])} to {_cell(value['most'])})"
    if isinstance(value, int | float):
        return _number(value)
    return str(value)


def _number(value: float) -> str:
    """Three digits; whole from a hundred on."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 or value == int(value) else f"{value:.{1 if size >= 10 else 2}f}"


if __name__ == "__main__":
    main()
