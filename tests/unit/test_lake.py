"""The lake: a record is this line under this day, and the same runs give the same objects."""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import boto3
import pytest
from click.testing import CliRunner
from moto import mock_aws

from workbench.cli import main
from workbench.lake import LakeError, LakeFolder, StateChange, Written, by_day, write_lake

AT = datetime(2026, 3, 1, 23, 59, 58, tzinfo=UTC)


def change(number: int, recorded_at: datetime) -> StateChange:
    return StateChange(job_name="a", run_id=f"a-{number}", state="started", occurred_at=AT, recorded_at=recorded_at)


def test_a_record_is_this_line() -> None:
    started = StateChange(
        job_name="orders",
        run_id="orders-1",
        state="Completed",
        occurred_at=AT.astimezone(ZoneInfo("Europe/Berlin")),
        recorded_at=AT + timedelta(seconds=1.5),
        records_processed=0,
        started_at=datetime(2026, 3, 2, 0, 59, 0),  # noqa: DTZ001
        schedule="0 1 * * *",
        time_zone="Europe/Berlin",
        extra={"attempt": 2},
    )
    assert started.to_json() == (
        '{"job": {"name": "orders", "schedule": "0 1 * * *", "time_zone": "Europe/Berlin"}, '
        '"run": {"id": "orders-1", "started_at": "2026-03-02T00:59:00"}, "state": "Completed", '
        '"occurred_at": "2026-03-02T00:59:58+01:00", "recorded_at": "2026-03-01T23:59:59.500000Z", '
        '"metrics": {"records": {"processed": 0}}, "attempt": 2}'
    )
    bare = StateChange(job_name="a", run_id="a-1", state="started", occurred_at=AT)
    assert json.loads(bare.to_json()) == {
        "job": {"name": "a"},
        "run": {"id": "a-1"},
        "state": "started",
        "occurred_at": "2026-03-01T23:59:58Z",
    }


@pytest.mark.parametrize(
    ("occurred_at", "recorded_at", "day"),
    [
        (AT, None, date(2026, 3, 1)),
        (AT, AT + timedelta(seconds=2), date(2026, 3, 2)),
        (datetime(2026, 3, 2, 1, tzinfo=timezone(timedelta(hours=2))), None, date(2026, 3, 1)),
        # without an offset it is in the job's zone, where it is an hour later than in UTC
        (datetime(2026, 3, 2, 0, 59), None, date(2026, 3, 1)),  # noqa: DTZ001
    ],
)
def test_a_record_is_filed_under_the_utc_day_it_was_made(
    occurred_at: datetime, recorded_at: datetime | None, day: date
) -> None:
    made = StateChange(
        job_name="a",
        run_id="a-1",
        state="started",
        occurred_at=occurred_at,
        recorded_at=recorded_at,
        time_zone="Europe/Berlin",
    )
    assert made.day == day


def test_days_come_whole_and_as_soon_as_they_are_over() -> None:
    asked: list[int] = []

    def batches() -> Iterator[tuple[date, list[StateChange]]]:
        for number in range(4):
            asked.append(number)
            today = AT + timedelta(days=number)
            # a correction, three days later
            yield today.date(), [change(number, today), change(10 + number, today + timedelta(days=3))]

    came = by_day(batches())
    day, changes = next(came)
    assert (day, [one.run_id for one in changes], asked) == (date(2026, 3, 1), ["a-0"], [0, 1])
    rest = [(day.day, [one.run_id for one in changes]) for day, changes in came]
    assert rest == [(2, ["a-1"]), (3, ["a-2"]), (4, ["a-10", "a-3"]), (5, ["a-11"]), (6, ["a-12"]), (7, ["a-13"])]


def test_the_same_lines_are_the_same_bytes(tmp_path: Path) -> None:
    days = [(date(2026, 3, 1), ["one", "two"]), (date(2026, 3, 2), ["three"])]
    assert write_lake(LakeFolder(tmp_path / "a"), days, name="runs") == Written(2, 3)
    write_lake(LakeFolder(tmp_path / "b"), days, name="runs")
    paths = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*.gz"))]
    assert [str(path) for path in paths] == ["dt=2026-03-01/runs.jsonl.gz", "dt=2026-03-02/runs.jsonl.gz"]
    for path in paths:
        body = (tmp_path / "a" / path).read_bytes()
        assert body == (tmp_path / "b" / path).read_bytes()
        assert body[3:8] == b"\0\0\0\0\0"  # neither a name nor a time in the head
    assert gzip.decompress((tmp_path / "a" / paths[0]).read_bytes()) == b"one\ntwo\n"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, match="cannot be written: Not a directory"):
        LakeFolder(tmp_path / "file").put("dt=2026-03-01/runs.jsonl.gz", b"")


RUNS = """job_name,run_id,started_at,run_time_seconds,records_processed,status
orders,o-1,2026-03-01T23:59:00Z,90.5,7,SUCCEEDED
orders,o-2,2026-03-02T23:00:00Z,,,FAILED
clicks,c-1,2026-03-02T03:00:00+01:00,60,0,SUCCEEDED
"""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "night.csv"
    path.write_text(RUNS)
    return path


def lines(body: bytes) -> list[tuple[str, str, str, str, object]]:
    records = [json.loads(line) for line in gzip.decompress(body).splitlines()]
    return [
        (
            one["run"]["id"],
            one["state"],
            one["occurred_at"],
            one["recorded_at"],
            one.get("metrics", {}).get("records", {}).get("processed"),
        )
        for one in records
    ]


FIRST_DAY = [("o-1", "started", "2026-03-01T23:59:00Z", "2026-03-01T23:59:00Z", None)]
SECOND_DAY = [
    ("o-1", "succeeded", "2026-03-02T00:00:30.500000Z", "2026-03-02T00:00:30.500000Z", 7),
    ("c-1", "started", "2026-03-02T02:00:00Z", "2026-03-02T02:00:00Z", None),
    ("c-1", "succeeded", "2026-03-02T02:01:00Z", "2026-03-02T02:01:00Z", 0),
    ("o-2", "started", "2026-03-02T23:00:00Z", "2026-03-02T23:00:00Z", None),
    ("o-2", "failed", "2026-03-02T23:00:00Z", "2026-03-02T23:00:00Z", None),
]


def test_recorded_runs_become_two_records_each(runs: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    ran = CliRunner().invoke(main, ["load-lake", str(runs), "--into", str(lake)])
    assert ran.exit_code == 0, ran.output
    assert ran.output == f"{lake}: 3 runs as 6 records on 2 days\n"
    first, second = sorted(lake.rglob("*.gz"))
    assert str(first.relative_to(lake)) == "dt=2026-03-01/night.jsonl.gz"
    assert lines(first.read_bytes()) == FIRST_DAY
    assert lines(second.read_bytes()) == SECOND_DAY
    assert b"time_zone" not in gzip.decompress(second.read_bytes())

    zoned = CliRunner().invoke(main, ["load-lake", str(runs), "--into", str(lake), "--time-zone", "Europe/Berlin"])
    assert zoned.exit_code == 0, zoned.output
    assert gzip.decompress(second.read_bytes()).count(b'"time_zone": "Europe/Berlin"') == 5


def test_a_job_s_own_zone_and_schedule_go_before_the_option(tmp_path: Path) -> None:
    path = tmp_path / "zoned.csv"
    path.write_text(
        "job_name,run_id,started_at,run_time_seconds,records_processed,status,time_zone,schedule\n"
        "a,a-1,2026-03-01T20:00:00Z,1,1,SUCCEEDED,Asia/Kolkata,30 1 * * *\n"
        "b,b-1,2026-03-01T20:00:00Z,1,1,SUCCEEDED,,\n"
    )
    options = ["load-lake", str(path), "--into", str(tmp_path / "lake"), "--time-zone", "Europe/Berlin"]
    assert CliRunner().invoke(main, options).exit_code == 0
    (stored,) = (tmp_path / "lake").rglob("*.gz")
    jobs = [json.loads(line)["job"] for line in gzip.decompress(stored.read_bytes()).splitlines()]
    assert sorted(jobs, key=str) == [
        *[{"name": "a", "schedule": "30 1 * * *", "time_zone": "Asia/Kolkata"}] * 2,
        *[{"name": "b", "time_zone": "Europe/Berlin"}] * 2,
    ]


def test_loading_into_a_bucket_twice_gives_the_same_objects(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="data")
        seen = []
        for place in ("s3://data/raw/lake", "s3://data/raw/lake/", "s3://data"):
            ran = CliRunner().invoke(main, ["load-lake", str(runs), "--into", place])
            assert ran.exit_code == 0, ran.output
            seen.append({one["Key"]: one["ETag"] for one in s3.list_objects_v2(Bucket="data")["Contents"]})
        assert list(seen[0]) == [f"raw/lake/dt=2026-03-0{day}/night.jsonl.gz" for day in (1, 2)]
        assert seen[0] == seen[1]
        assert "dt=2026-03-01/night.jsonl.gz" in seen[2]
        body = s3.get_object(Bucket="data", Key="raw/lake/dt=2026-03-02/night.jsonl.gz")["Body"].read()
        assert lines(body) == SECOND_DAY
        missing = CliRunner().invoke(main, ["load-lake", str(runs), "--into", "s3://nowhere/lake"])
        assert missing.exit_code == 1
        assert "NoSuchBucket" in missing.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["night.csv", "--into", "s3:///lake"], "names no bucket; write s3://bucket/prefix"),
        (["night.csv", "--into", "lake", "--time-zone", "Berlin"], "'Berlin' is no time zone, such as Europe/Berlin"),
        (["day.csv", "--into", "lake"], "day.csv does not exist"),
        (["night.csv"], "Missing option '--into'"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    runs: Path, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs.parent)
    ran = CliRunner().invoke(main, ["load-lake", *arguments])
    assert ran.exit_code != 0
    assert says in " ".join(ran.output.split())
    assert "Traceback" not in ran.output
    assert not (runs.parent / "lake").exists()
