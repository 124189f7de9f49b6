"""The deployed ETL stack, end to end: `overcut demo etl-jobs` in a process of its own, as a person runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.decisions import refused, spared, unexplained
from workbench.cloud.processes import EmbeddedCloud

pytestmark = pytest.mark.emulator

OVERCUT = Path(sys.executable).parent / "overcut"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("etl") / "state"


@pytest.fixture(scope="module")
def told(state: Path) -> tuple[dict[str, Any], str]:
    """The demonstration's summary, and what it told."""
    done = subprocess.run(
        [OVERCUT, "demo", "etl-jobs", "--state", state], capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert EmbeddedCloud(state / "cloud").status() is None
    return json.loads((state / "summary.json").read_text()), done.stdout


def test_one_fault_gives_one_ticket_one_comment_and_is_closed(told: tuple[dict[str, Any], str]) -> None:
    summary, _ = told
    assert summary["tickets"] == [
        {
            "job_name": "orders_daily",
            "run_id": "orders_daily-20260415T0000",
            "kind": "unusual_run",
            "deduplication_key": "orders_daily#unusual_run",
            "status": "closed",
            "comments": 1,
        }
    ]
    assert [(day["day"], day["wrong"]) for day in summary["etl_jobs"]["days"]] == [
        ("2026-04-15", ["orders_daily-20260415T0000"]),
        ("2026-04-16", ["orders_daily-20260416T0000"]),
        ("2026-04-17", []),
    ]
    # 24 runs of the hourly job, and every job that is due on a Wednesday, Thursday or Friday
    assert [day["runs"] for day in summary["etl_jobs"]["days"]] == [33, 33, 33]


def test_the_model_was_trained_on_what_spark_extracted(told: tuple[dict[str, Any], str]) -> None:
    summary, _ = told
    training = summary["etl_jobs"]["training"]
    assert {key: training[key] for key in ("status", "decision", "jobs", "runs")} == {
        "status": "SUCCEEDED",
        "decision": "promoted",
        "jobs": 11,
        "runs": 3258,
    }
    assert summary["etl_jobs"]["lake"]["rejected"] == 1


def test_the_runs_are_asked_about_in_sql(told: tuple[dict[str, Any], str]) -> None:
    summary, _ = told
    asked = summary["etl_jobs"]["asked"]
    assert [(row["job_name"], row["started_at"][:10]) for row in asked] == [
        ("orders_daily", "2026-04-15"),
        ("orders_daily", "2026-04-16"),
    ]
    for row in asked:
        assert float(row["records_processed"]) < float(row["usual_records"]) / 2
        # the hundred days that were extracted; what is judged now is in them only tomorrow
        assert int(row["runs_before"]) == 100


def test_a_person_sees_the_lake_the_job_the_predictions_and_the_ticket(told: tuple[dict[str, Any], str]) -> None:
    _, output = told
    for words in (
        "Filling the data lake",
        "lines of the lake",
        "3258 runs of 12 jobs",
        "a model of 11 jobs, promoted; still learning (under 8 runs): 1",
        "33 runs of 10 jobs; not due that day: leads_weekly, ledger_monthly",
        "Runs of Wednesday",
        "ticket opened (sent)",
        "comment added (sent)",
        "ticket closed (sent)",
        "in OpsCenter, closed",
        "What to check",
    ):
        assert words in output


@pytest.mark.usefixtures("told")
def test_its_roles_suffice_and_each_grant_is_needed(state: Path) -> None:
    assert refused(state) == []
    assert spared(state, "Overcut-local-etl-jobs") == []
    assert unexplained(state, "Overcut-local-etl-jobs") == set()
