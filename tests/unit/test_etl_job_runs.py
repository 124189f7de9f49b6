from datetime import UTC, datetime

import pytest

from overcut.etl_jobs.job_runs import JobRun, JobRunRefusedError, Status, parse_job_run

GOOD: dict[str, object] = {
    "job_name": "orders",
    "run_id": "orders-1",
    "started_at": "2025-03-31T23:30:00Z",
    "run_time_seconds": "70.3",
    "records_processed": "1220513",
    "status": "SUCCEEDED",
}


def test_a_line_of_the_interchange_format_is_a_run_with_the_weekday_of_utc() -> None:
    assert parse_job_run(GOOD) == JobRun(
        "orders", "orders-1", datetime(2025, 3, 31, 23, 30, tzinfo=UTC), 70.3, 1_220_513, Status.SUCCEEDED, 0
    )


def test_values_of_json_and_a_zone_are_taken_too_and_the_weekday_is_the_jobs_own() -> None:
    run = parse_job_run(GOOD | {"started_at": "2025-04-01T01:30:00+02:00", "records_processed": 7, "day_of_week": 1})
    assert (run.started_at, run.records_processed) == (datetime(2025, 3, 31, 23, 30, tzinfo=UTC), 7)
    assert (run.day_of_week, run.days_from_utc) == (1, 1)


def test_a_failed_run_needs_no_figures() -> None:
    run = parse_job_run(GOOD | {"status": "FAILED", "records_processed": None, "run_time_seconds": ""})
    assert (run.status, run.records_processed, run.run_time_seconds) == (Status.FAILED, 0, 0)


def test_a_run_that_goes_on_has_no_figures_yet() -> None:
    run = parse_job_run(GOOD | {"status": "RUNNING", "records_processed": None})
    assert (run.status, run.records_processed, run.run_time_seconds) == (Status.RUNNING, 0, 0)
    with pytest.raises(JobRunRefusedError, match="is missing"):
        parse_job_run(GOOD | {"records_processed": None})


def test_a_jobs_zone_and_schedule_are_its_own_or_none() -> None:
    named = parse_job_run(GOOD | {"time_zone": "Europe/Berlin", "schedule": "0 3 * * *"})
    assert (named.time_zone, named.schedule) == ("Europe/Berlin", "0 3 * * *")
    for absent in ({}, {"time_zone": None, "schedule": None}):
        run = parse_job_run(GOOD | absent)
        assert (run.time_zone, run.schedule) == ("UTC", "")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("job_name", "", "job_name"),
        ("job_name", "x" * 257, "job_name"),
        ("run_id", None, "run_id"),
        ("started_at", "2025-03-31T23:30:00", "names no zone"),
        ("started_at", "yesterday", "is no time"),
        ("started_at", "0001-01-01T00:00:00+10:00", "is no time"),
        ("run_time_seconds", "-1", "run_time_seconds"),
        ("run_time_seconds", "nan", "finite"),
        ("run_time_seconds", "1e99", "run_time_seconds"),
        ("run_time_seconds", None, "is missing"),
        ("records_processed", "-1", "records_processed"),
        ("records_processed", "1.5", "whole number"),
        ("records_processed", "many", "is no number"),
        ("records_processed", True, "is no number"),
        ("records_processed", "1e30", "records_processed"),
        ("status", "STARTED", "is none of"),
        ("status", None, "is none of"),
        ("day_of_week", 7, "day_of_week"),
        ("day_of_week", 3, "at most a day"),
        ("day_of_week", "0.5", "whole number"),
    ],
)
def test_what_can_never_be_judged_is_refused_by_the_fields_name(field: str, value: object, says: str) -> None:
    with pytest.raises(JobRunRefusedError, match=says):
        parse_job_run(GOOD | {field: value})


def test_a_run_made_in_code_is_checked_too() -> None:
    with pytest.raises(JobRunRefusedError, match="UTC"):
        JobRun("a", "b", datetime(2025, 1, 1), 1.0, 1, Status.SUCCEEDED, 2)  # noqa: DTZ001


def test_what_is_too_long_is_no_schedule() -> None:
    assert parse_job_run({**GOOD, "schedule": "x" * 256}).schedule == "x" * 256
    assert parse_job_run({**GOOD, "schedule": "x" * 257}).schedule == ""
