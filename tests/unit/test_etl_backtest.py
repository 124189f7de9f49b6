import csv
import gzip
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from overcut.etl_jobs.backtest import _report, average_precision, backtest
from overcut.etl_jobs.job_runs import JobRun, parse_job_run
from overcut.etl_jobs.training import TooLittleHistoryError
from tests.conftest import recorded_data
from tests.unit.generated_job_runs import fleet, history
from workbench.cli import main
from workbench.job_runs_files import write_job_runs


def test_tickets_are_counted_by_hand() -> None:
    #        job a: early ticket, found, comment | healthy | false | job b: false at once, found by another ticket
    kinds = np.array(["", "drop", "drop", "", "", "", "zero", "", "drop", "drop"])
    starts = np.array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0], dtype=bool)
    anomalous = np.array([1, 1, 0, 0, 1, 1, 0, 0, 0, 1], dtype=bool)
    report = _report(kinds, starts, anomalous + 0.0, anomalous, 2.0)
    assert (report["faults"], report["found"]) == (3, 2)
    assert report["recall_by_kind"] == {"drop": 1.0, "zero": 0.0}
    assert report["recall_by_run"] == pytest.approx(2 / 5)
    assert report["run_recall_by_kind"] == {"drop": 0.5, "zero": 0.0}
    assert (report["tickets"], report["false_tickets"], report["early_tickets"], report["false_runs"]) == (4, 3, 1, 3)
    assert report["false_tickets_per_week"] == 1.5


def test_recall_at_one_a_week_lowers_the_cutoff_until_one_ticket_too_many() -> None:
    kinds = np.array(["", "x", "", "", "x", "", "x"])
    scores = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0])
    starts = np.zeros(7, dtype=bool)
    report = _report(kinds, starts, scores, scores > 8, 1.0)
    # the ticket that the first run opens goes on through the third and fourth: still one, though three runs
    assert report["recall_at_one_false_ticket_per_week"] == 1.0
    assert report["recall_at_one_false_run_per_week"] == pytest.approx(1 / 3)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1))
def test_average_precision_is_scikit_learns(pairs: list[tuple[int, bool]]) -> None:
    scores, labelled = np.array([float(s) for s, _ in pairs]), np.array([found for _, found in pairs])
    if labelled.any():
        assert average_precision(scores, labelled) == pytest.approx(average_precision_score(labelled, scores))
    else:
        assert average_precision(scores, labelled) is None


def test_faults_of_a_generated_fleet_are_found_and_labels_change_no_score() -> None:
    runs, labels = fleet(6, count=130), {}
    for k in range(100, 780, 130):
        runs[k] = replace(runs[k], records_processed=0)
        labels[runs[k].job_name, runs[k].run_id] = "zero"
    report = backtest(runs, labels)
    assert report["runs"] == 6 * 40
    assert report["recall_by_kind"] == {"zero": 1.0}
    assert report["average_precision"] == 1.0
    assert report["false_tickets"] <= 2
    unlabelled = backtest(runs, {})
    assert unlabelled["tickets"] == report["tickets"]
    assert (unlabelled["average_precision"], unlabelled["recall_by_run"]) == (None, None)


def test_too_short_a_history_is_refused() -> None:
    for runs in ([], history(count=60)):
        with pytest.raises(TooLittleHistoryError):
            backtest(runs, {})


def test_the_shared_file_is_judged_as_well_as_promised() -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with gzip.open(recorded_data(name), "rt") as file:
            return list(csv.DictReader(file))

    runs: list[JobRun] = [parse_job_run(row) for row in rows("simulated_job_runs.csv.gz")]
    kinds = {(row["job_name"], row["run_id"]): row["kind"] for row in rows("simulated_job_runs.labels.csv.gz")}
    report = backtest(runs, kinds)
    assert report["average_precision"] >= 0.93
    assert report["recall_at_one_false_ticket_per_week"] >= 0.70
    assert report["recall_at_one_false_run_per_week"] >= 0.70
    assert report["false_tickets_per_week"] <= 1.5
    assert report["recall_by_run"] >= 0.65
    assert report["recall_by_kind"]["zero"] == 1.0


def test_labels_of_another_file_are_refused(tmp_path: Path) -> None:
    runs, labels = tmp_path / "runs.csv", tmp_path / "labels.csv"
    write_job_runs(runs, history(count=120))
    labels.write_text("job_name,run_id,kind\nother,other-1,zero\n")
    ran = CliRunner().invoke(main, ["backtest", "etl-jobs", str(runs), "--labels", str(labels)])
    assert ran.exit_code == 1
    assert ran.stderr == f"Error: none of the labels in {labels} is of a run in {runs}; give its own labels\n"


def test_figures_are_told_in_words_with_what_was_not_judged(tmp_path: Path) -> None:
    runs, labels = tmp_path / "runs.csv", tmp_path / "labels.csv"
    recorded = history(count=120)
    write_job_runs(runs, recorded)
    last = recorded[-1]
    labels.write_text(f"job_name,run_id,kind\n{last.job_name},{last.run_id},zero\n")
    ran = CliRunner().invoke(main, ["backtest", "etl-jobs", str(runs), "--labels", str(labels)], env={"COLUMNS": "120"})
    assert ran.exit_code == 0, ran.output
    assert "share of faults found: zero" in ran.stdout
    assert "false tickets a week" in ran.stdout
    assert "{" not in ran.stdout
    assert "_" not in ran.stdout
    judged = recorded[0].started_at + timedelta(days=90)
    number = sum(run.started_at >= judged for run in recorded)
    told = f"{number} of 120 runs that succeeded were judged: the first 90 days, to {judged:%Y-%m-%d}, are only learned"
    assert ran.stdout.splitlines()[-1] == f"{told} from."
