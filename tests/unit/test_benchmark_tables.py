"""The page of benchmarks: its tables are what the kept results give."""

import json
from pathlib import Path

import pytest

from benchmarks import measured, tables


def test_the_page_has_what_the_results_give(tmp_path: Path) -> None:
    again = tmp_path / "benchmarks.md"
    again.write_text(tables.PAGE.read_text())
    tables.main(again)
    assert again.read_text() == tables.PAGE.read_text()
    assert {path.stem for path in measured.RESULTS.glob("*.json")} >= {"ingestion"}


def test_figures_are_told_with_three_digits_and_their_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    rows: list[measured.Row] = [{"way": "ours", "events a second": measured.spread([1234.4, 999.6, 40_000.0])}]
    rows.append({"way": "theirs", "µs": 45.67, "MB": 8.0, "ratio": measured.ratio([1.0, 3.0, 9.0], [2.0, 2.0, 2.0])})
    measured.write("made", {"Of one kind:": rows[:1], "": rows[1:]}, ["boto3"])
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin: made -->\n<!-- end: made -->\nafter\n")
    tables.main(page, tmp_path)
    lines = page.read_text().splitlines()
    assert lines[2:7] == [
        "Of one kind:",
        "",
        "| way | events a second |",
        "| --- | --- |",
        "| ours | 1,234 (1,000 to 40,000) |",
    ]
    assert lines[8:11] == [
        "| way | µs | MB | ratio |",
        "| --- | --- | --- | --- |",
        "| theirs | 45.7 | 8 | 1.50 (0.50 to 4.50) |",
    ]
    assert json.loads((tmp_path / "made.json").read_text())["date"] in lines[12]
    assert "cores" in lines[12]
    assert "boto3 1." in lines[12]


def test_ways_take_turns_and_one_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "way.py").write_text(
        "import sys\nif sys.argv[1] == 'c': sys.exit('it broke')\n"
        f"open({str(tmp_path / 'order')!r}, 'a').write(sys.argv[1])\n"
        "print('noise'); print('{\"seconds\": 2}')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = measured.rounds(["a", "b"], ["way"], 3)
    assert found == {"a": [{"seconds": 2}] * 3, "b": [{"seconds": 2}] * 3}
    assert (tmp_path / "order").read_text() == "abbaab"
    with pytest.raises(SystemExit, match="way c failed:\nit broke"):
        measured.rounds(["c"], ["way"], 1)
