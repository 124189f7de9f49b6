"""Files of job runs and labels: read whole, mended where that is safe, refused in one sentence."""

import gzip
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from overcut.etl_jobs.job_runs import JobRun, Status
from tests.conftest import recorded_data
from workbench.job_runs_files import (
    JobRunsFileError,
    MissingRun,
    read_job_runs,
    read_labels,
    write_job_runs,
    write_labels,
    write_missing_runs,
)

HEADER = "job_name,run_id,started_at,run_time_seconds,records_processed,status"
AT = datetime(2026, 3, 2, 2, 0, 4, tzinfo=UTC)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_runs_come_by_job_then_start_in_utc(tmp_path: Path) -> None:
    path = write(
        tmp_path / "runs.csv",
        HEADER,
        "orders,o-2,2026-03-03T02:00:04Z,70.3,1220513,SUCCEEDED",
        "orders,o-1,2026-03-02T03:00:04+01:00,60,1000000,SUCCEEDED",
        "clicks,c-1,2026-03-02T02:00:04Z,,,FAILED",
    )
    content = read_job_runs(path)
    assert content.runs == [
        JobRun("clicks", "c-1", AT, 0.0, 0, Status.FAILED, 0),
        JobRun("orders", "o-1", AT, 60.0, 1_000_000, Status.SUCCEEDED, 0),
        JobRun("orders", "o-2", AT.replace(day=3), 70.3, 1_220_513, Status.SUCCEEDED, 1),
    ]
    assert content.repairs == ()


def test_the_last_of_duplicate_rows_is_kept_and_that_is_said(tmp_path: Path) -> None:
    path = write(
        tmp_path / "runs.csv",
        HEADER,
        "orders,o-1,2026-03-02T02:00:04Z,60,1,SUCCEEDED",
        "clicks,o-1,2026-03-02T02:00:04Z,60,2,SUCCEEDED",
        "orders,o-1,2026-03-02T02:00:04Z,60,3,SUCCEEDED",
    )
    content = read_job_runs(path)
    assert [(run.job_name, run.records_processed) for run in content.runs] == [("clicks", 2), ("orders", 3)]
    assert content.repairs == ("1 duplicate row: the last of each was kept",)


def test_columns_may_stand_in_any_order_and_more_may_be_there(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes(
        b"\xef\xbb\xbfstatus, started_at, owner, run_id, job_name, records_processed, run_time_seconds, day_of_week\r\n"
        b"SUCCEEDED, 2026-03-02T02:00:04Z, BI, o-1, orders, 7, 60, 1\r\n"
    )
    assert read_job_runs(path).runs == [JobRun("orders", "o-1", AT, 60.0, 7, Status.SUCCEEDED, 1)]


ROW = b"orders,o-1,2026-03-02T02:00:04Z,60,7,SUCCEEDED"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (b"", "has a header and no rows; give a file with job runs"),
        (ROW + b",7", "line 2: 7 cells where the header has 6"),
        (
            ROW.replace(b"Z,", b","),
            "line 2: started_at '2026-03-02T02:00:04' names no zone; write times with their zone",
        ),
        (ROW.replace(b"2026-", b""), "line 2: started_at '03-02T02:00:04Z' is no time; write times with their zone"),
        (ROW.replace(b",60,", b",,"), "line 2: run_time_seconds is missing; write how long the run took, in seconds"),
        (ROW.replace(b",60,", b",-1,"), "line 2: run_time_seconds must be from 0 to"),
        (ROW.replace(b",7,", b",,"), "line 2: records_processed is missing; write how many rows the run loaded"),
        (ROW.replace(b",7,", b",many,"), "line 2: records_processed 'many' is no number; write how many rows"),
        (ROW.replace(b",7,", b",7.5,"), "line 2: records_processed must be a whole number; write how many rows"),
        (
            b"\n\n" + ROW.replace(b"SUCCEEDED", b"done"),
            "line 4: status 'done' is none of RUNNING, SUCCEEDED, FAILED; write",
        ),
        (ROW.replace(b"SUCCEEDED", b"RUNNING"), "line 2: status RUNNING is not an end; write SUCCEEDED or FAILED"),
        (ROW.replace(b"orders", b""), "line 2: job_name must be text of 1 to 256 characters; give every job"),
        (ROW.replace(b"o-1", b"o" * 300), "line 2: run_id must be text of 1 to 256 characters; give every job"),
        (b'"' + ROW, "is not a CSV file"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, rows: bytes, says: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(HEADER.encode() + b"\n" + rows + b"\n")
    with pytest.raises(JobRunsFileError, match=re.escape(says)) as refused:
        read_job_runs(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobRunsFileError, match=r"none\.csv does not exist"):
        read_job_runs(tmp_path / "none.csv")
    with pytest.raises(JobRunsFileError, match="is empty; a file of job runs begins with the header job_name,run_id"):
        read_job_runs(write(tmp_path / "empty.csv"))
    with pytest.raises(JobRunsFileError, match="lacks the columns run_time_seconds and records_processed and status"):
        read_job_runs(write(tmp_path / "labels.csv", "job_name,run_id,started_at"))
    with pytest.raises(JobRunsFileError, match="is not a gzip file"):
        read_job_runs(write(tmp_path / "plain.csv.gz", HEADER))


def test_a_written_file_is_this_text_and_these_bytes_every_time(tmp_path: Path) -> None:
    runs = [
        JobRun("a", "a-1", AT, 70.3, 1_220_513, Status.SUCCEEDED, 0),
        JobRun("a", "a-2", AT.replace(microsecond=100_000), 60.0, 0, Status.SUCCEEDED, 0),
        JobRun("b", "b-1", AT, 0.0, 0, Status.FAILED, 0),
        JobRun("b", "b-2", AT, 1.5, 12, Status.FAILED, 0, "Europe/Berlin", "0 3 * * *"),
    ]
    first, second = tmp_path / "one.csv.gz", tmp_path / "two.csv.gz"
    write_job_runs(first, iter(runs))
    write_job_runs(second, runs)
    assert gzip.decompress(first.read_bytes()).decode() == (
        f"{HEADER},time_zone,schedule\n"
        "a,a-1,2026-03-02T02:00:04Z,70.3,1220513,SUCCEEDED,UTC,\n"
        "a,a-2,2026-03-02T02:00:04.100000Z,60.0,0,SUCCEEDED,UTC,\n"
        "b,b-1,2026-03-02T02:00:04Z,,,FAILED,UTC,\n"
        "b,b-2,2026-03-02T02:00:04Z,1.5,12,FAILED,Europe/Berlin,0 3 * * *\n"
    )
    assert first.read_bytes() == second.read_bytes()
    assert read_job_runs(first).runs == runs
    with pytest.raises(JobRunsFileError, match="cannot be written: No such file or directory"):
        write_job_runs(tmp_path / "nowhere" / "x.csv", runs)


def test_labels_are_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "runs.labels.csv.gz"
    write_labels(path, {("b", "b-1"): "zero", ("a", "a-1"): "drop20"})
    assert gzip.decompress(path.read_bytes()).decode() == "job_name,run_id,kind\na,a-1,drop20\nb,b-1,zero\n"
    assert read_labels(path) == {("a", "a-1"): "drop20", ("b", "b-1"): "zero"}
    write_labels(path, {})
    assert read_labels(path) == {}


def test_labels_that_cannot_be_are_refused(tmp_path: Path) -> None:
    header = "job_name,run_id,kind"
    with pytest.raises(JobRunsFileError, match=r"x\.csv, line 2: a label needs a job_name, a run_id and a kind"):
        read_labels(write(tmp_path / "x.csv", header, "a,a-1,"))
    with pytest.raises(JobRunsFileError, match="line 3: the run a-1 of a is already labelled 'zero'; give a run one"):
        read_labels(write(tmp_path / "y.csv", header, "a,a-1,zero", "a,a-1,drop20"))
    with pytest.raises(JobRunsFileError, match="a labels file begins with the header job_name,run_id,kind"):
        read_labels(write(tmp_path / "z.csv", HEADER))


def test_runs_that_never_came_are_written_by_job_and_time(tmp_path: Path) -> None:
    path = tmp_path / "missing.csv"
    write_missing_runs(path, [MissingRun("b", AT), MissingRun("a", AT.replace(day=3)), MissingRun("a", AT)])
    assert path.read_text() == (
        "job_name,expected_at\na,2026-03-02T02:00:04Z\na,2026-03-03T02:00:04Z\nb,2026-03-02T02:00:04Z\n"
    )


def test_the_recorded_file_is_read_whole() -> None:
    content = read_job_runs(recorded_data("simulated_job_runs.csv.gz"))
    labels = read_labels(recorded_data("simulated_job_runs.labels.csv.gz"))
    assert (len(content.runs), content.repairs, len(labels)) == (10_920, (), 532)
    assert labels.keys() <= {(run.job_name, run.run_id) for run in content.runs}


def test_a_zone_of_its_own_tells_a_run_s_weekday(tmp_path: Path) -> None:
    row = "a,a-1,2026-03-01T20:00:00Z,1,1,SUCCEEDED"
    path = write(tmp_path / "zoned.csv", f"{HEADER},time_zone,schedule", f"{row},Asia/Kolkata,30 1 * * *")
    (run,) = read_job_runs(path).runs
    # a Sunday evening in UTC
    assert (run.day_of_week, run.time_zone, run.schedule) == (0, "Asia/Kolkata", "30 1 * * *")
    (run,) = read_job_runs(write(tmp_path / "plain.csv", HEADER, row)).runs
    assert (run.day_of_week, run.time_zone, run.schedule) == (6, "UTC", "")
