"""The notebooks run from first cell to last, over the product's own Parquet, and are kept without outputs."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

NOTEBOOKS = ROOT / "docs" / "notebooks"


def cells(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    return found


def run(name: str) -> dict[str, Any]:
    """What a notebook's names are bound to at its end; a cell that fails is named in the traceback."""
    bound: dict[str, Any] = {}
    for number, cell in enumerate(cells(name)):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}.ipynb, cell {number}", "exec"), bound)  # noqa: S102 - ours
    return bound


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_it_printed(notebook: Path) -> None:
    code = [cell for cell in cells(notebook.stem) if cell["cell_type"] == "code"]
    assert code
    assert all((cell["outputs"], cell["execution_count"]) == ([], None) for cell in code)


def test_sensors() -> None:
    bound = run("sensors")
    # every minute of two sensors, each once
    assert sum(row[2] for row in bound["measured"]) == len(bound["simulated"]) == 2 * 6 * 1440
    assert bound["readings"] == bound["simulated"], "the Parquet holds what was measured, as it was"
    for cutoff in bound["model"].cutoffs:
        assert cutoff.z_factor >= 2.5
        assert cutoff.score_cutoff == pytest.approx(cutoff.score_mean + cutoff.z_factor * cutoff.score_sd)
    budgets, recalls, false, _ = zip(*bound["tried"], strict=True)
    assert list(budgets) == sorted(budgets)
    # who puts up with more is told more, and finds no less
    assert list(false) == sorted(false)
    assert list(recalls) == sorted(recalls)
    assert (recalls[-1], false[-1]) > (recalls[0], false[0])


def test_etl_jobs() -> None:
    bound = run("etl-jobs")
    assert bound["refused"] == {}
    assert sum(row[2] for row in bound["loaded"]) == len(bound["runs"]) == len(bound["history"])
    first = bound["predictions"][0]
    assert (first.job_name, first.run_id) in bound["labels"], "what is most unusual is a fault"
    assert first.anomaly_score > first.score_cutoff
    _, recalls, tickets, _ = zip(*bound["tried"], strict=True)
    assert list(tickets) == sorted(tickets)
    assert list(recalls) == sorted(recalls)
    assert recalls[-1] > recalls[0]
