"""The extraction in a real Spark session: what it takes from a lake, what it refuses, and what a rerun leaves."""

import gzip
import io
import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from arro3.io import read_parquet
from pyspark.sql import SparkSession

from overcut.etl_jobs.job_runs import parse_job_run
from overcut.etl_jobs.layout import bucket_of, historical_prefix, recent_prefix
from training.etl_jobs.extract_features import SETTINGS, Extraction, ExtractionError, extract
from workbench.cloud.spark import java_home

# PySpark leaves its sockets to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")

UNTIL = "2026-03-02T02:30:00Z"
Row = dict[str, Any]


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    folder = tmp_path_factory.mktemp("spark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_HOME", str(java_home(os.environ["PATH"], folder / "java")))
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("PYSPARK_SUBMIT_ARGS", "--driver-memory 1g pyspark-shell")
        settings = {
            **SETTINGS,
            "spark.ui.enabled": "false",
            "spark.log.level": "OFF",
            "spark.ui.showConsoleProgress": "false",
            "spark.local.dir": str(folder),
            "spark.sql.shuffle.partitions": "2",
        }
        session = SparkSession.builder.master("local[2]").config(map=dict(settings)).getOrCreate()
        yield session
        session.stop()


class Lake:
    """A lake below a folder, and what was extracted from it beside it."""

    def __init__(self, root: Path, spark: SparkSession) -> None:
        self.root, self.output, self._spark = root / "lake", root / "out", spark

    def put(self, *records: Row | str, day: str = "2026-03-01", file: str = "00.jsonl") -> None:
        """Append records, or lines as they are, to a file of a day."""
        path = self.root / f"dt={day}" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (each if isinstance(each, str) else json.dumps(each) for each in records)
        with path.open("a") as opened:
            opened.writelines(f"{line}\n" for line in lines)

    def extract(self, mode: str = "historical", until: str = UNTIL, days: int = 3, *more: str) -> dict[str, Any]:
        folders = ["--lake", str(self.root), "--output", str(self.output)]
        arguments = ["--mode", mode, *folders, "--until", until, "--days", str(days), *more]
        return extract(self._spark, Extraction.parse(arguments))

    def rows(self, mode: str = "historical") -> list[Row]:
        return [row for _, rows in self.files(mode) for row in rows]

    def files(self, mode: str = "historical") -> list[tuple[str, list[Row]]]:
        """Each Parquet file's folder and rows."""
        paths = sorted((self.output / mode).rglob("*.parquet"))
        return [(str(path.parent.relative_to(self.output)), parquet_rows(path)) for path in paths]

    def rejected(self, mode: str = "historical") -> list[Row]:
        files = (self.output / "rejected" / mode).glob("*.json")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def parquet_rows(path: Path) -> list[Row]:
    table = read_parquet(io.BytesIO(path.read_bytes())).read_all()
    columns = {name: table[name].to_pylist() for name in table.schema.names}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.fixture
def lake(tmp_path: Path, spark: SparkSession) -> Lake:
    return Lake(tmp_path, spark)


def record(
    job: object = "orders",
    run: object = "1",
    state: object = "succeeded",
    at: object = "2026-03-01T02:10:00Z",
    records: object = 100,
    **fields: object,
) -> Row:
    """A record of the default shape; `zone`, `schedule`, `recorded` and `started` where they are given."""
    extra = {name: fields[key] for name, key in (("time_zone", "zone"), ("schedule", "schedule")) if key in fields}
    shaped: Row = {"job": {"name": job, **extra}, "run": {"id": run}, "state": state, "occurred_at": at}
    if "recorded" in fields:
        shaped["recorded_at"] = fields["recorded"]
    if "started" in fields:
        shaped["run"]["started_at"] = fields["started"]
    if records is not None:
        shaped["metrics"] = {"records": {"processed": records}}
    return shaped


def started(job: str = "orders", run: str = "1", at: str = "2026-03-01T02:00:00Z", **fields: object) -> Row:
    return record(job, run, "started", at, None, **fields)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def by_run(rows: Iterable[Row]) -> dict[str, Row]:
    return {row["run_id"]: row for row in rows}


# ---- a run ----


def test_a_run_becomes_one_row_that_the_product_takes(lake: Lake) -> None:
    berlin = {"zone": "Europe/Berlin", "schedule": "0 0 * * *"}
    lake.put(started(at="2026-02-28T23:30:00Z", recorded="2026-02-28T23:30:05Z", **berlin), day="2026-02-28")
    lake.put(record(at="2026-03-01T01:40:00.25+01:00", recorded="2026-03-01T00:40:09Z", records=120_345, **berlin))

    counts = lake.extract()

    [(folder, [row])] = lake.files()
    assert f"{folder}/" == historical_prefix(date(2026, 2, 28))
    assert row == {
        "job_name": "orders",
        "run_id": "1",
        "started_at": at("2026-02-28T23:30:00Z"),
        "run_time_seconds": 4200.25,
        "records_processed": 120_345,
        "status": "SUCCEEDED",
        "day_of_week": 6,  # Sunday in Berlin, Saturday in UTC
        "recorded_at": at("2026-03-01T00:40:09Z"),
        "time_zone": "Europe/Berlin",
        "schedule": "0 0 * * *",
    }
    assert parse_job_run(row).day_of_week == 6
    told = {"mode": "historical", "until": "2026-03-02T02:30:00+00:00", "folders": 2, "lines": 2, "runs": 1}
    assert counts == {**told, "rejected": 0, "reasons": {}, "newest_recorded_at": "2026-03-01T00:40:09+00:00"}
    [written] = (lake.output / "extractions" / "historical").glob("part-*")
    assert json.loads(written.read_text()) == counts


def test_the_last_state_wins_whatever_the_order_of_the_lines(lake: Lake) -> None:
    start, early, late = "2026-03-01T02:00:00Z", "2026-03-01T02:10:00Z", "2026-03-01T02:20:00Z"
    runs: dict[str, tuple[list[Row], tuple[str, float | None, int | None]]] = {
        "duplicate": ([record(at=early), record(at=early), started()], ("SUCCEEDED", 600.0, 100)),
        "out of order": ([record(at=late, records=2), started(), record(at=early)], ("SUCCEEDED", 1200.0, 2)),
        "corrected": (
            [
                started(),
                record(at=early, recorded="2026-03-01T09:00:00Z", records=7),
                record(at=early, recorded="2026-03-01T02:10:01Z", records=5),
            ],
            ("SUCCEEDED", 600.0, 7),
        ),
        "retried": (
            [
                started(),
                record(state="failed", at=early, records=None),
                started(at="2026-03-01T02:15:00Z"),
                record(at=late),
            ],
            ("SUCCEEDED", 1200.0, 100),
        ),
        "failed": ([started(), record(state="failed", at=early, records=None)], ("FAILED", 600.0, None)),
        "over at once": ([started(at=start), record(at=start)], ("SUCCEEDED", 0.0, 100)),
        "runs": ([started()], ("RUNNING", None, None)),
        "runs again": (
            [started(), record(state="failed", at=early), started(at="2026-03-01T02:15:00Z")],
            ("RUNNING", None, None),
        ),
        "taken back": (
            [
                started(),
                record(at=early, recorded="2026-03-01T02:10:01Z"),
                started(at=early, recorded="2026-03-01T02:10:02Z"),
            ],
            ("RUNNING", None, None),
        ),
        "tells its start": ([record(at=early, started=start)], ("SUCCEEDED", 600.0, 100)),
        "tells an earlier start": (
            [started(), record(at=early, started="2026-03-01T01:59:00Z")],
            ("SUCCEEDED", 660.0, 100),
        ),
    }
    for name, (records, _) in runs.items():
        lake.put(*({**each, "run": {**each["run"], "id": name}} for each in records))

    lake.extract("recent")

    found = by_run(lake.rows("recent"))
    told = {name: (row["status"], row["run_time_seconds"], row["records_processed"]) for name, row in found.items()}
    assert told == {name: expected for name, (_, expected) in runs.items()}
    assert found["tells an earlier start"]["started_at"] == at("2026-03-01T01:59:00Z")
    assert found["corrected"]["recorded_at"] == at("2026-03-01T09:00:00Z")
    assert found["duplicate"]["recorded_at"] == at(early)  # without its own, when it occurred

    lake.extract("historical")
    assert by_run(lake.rows()).keys() == {run for run, (_, (status, *_)) in runs.items() if status != "RUNNING"}


def test_what_only_some_records_tell_of_the_job_holds_for_the_run(lake: Lake) -> None:
    lake.put(started(zone="Asia/Tokyo", schedule="@daily", at="2026-02-28T16:00:00Z"), record(), day="2026-02-28")

    lake.extract()

    [row] = lake.rows()
    assert (row["time_zone"], row["schedule"], row["day_of_week"]) == ("Asia/Tokyo", "@daily", 6)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("Started", " RUNNING "), "RUNNING"),
        (("succeeded", "Success", "COMPLETED"), "SUCCEEDED"),
        (("failed", "ERROR", "cancelled", "Timed_Out"), "FAILED"),
    ],
)
def test_states_go_by_many_words(lake: Lake, words: tuple[str, ...], status: str) -> None:
    lake.put(*(record(run=word, state=word, started="2026-03-01T02:00:00Z") for word in words))

    lake.extract("recent")

    assert {row["run_id"]: row["status"] for row in lake.rows("recent")} == dict.fromkeys(words, status)


def test_times_are_read_as_written_or_in_the_job_s_zone(lake: Lake) -> None:
    berlin, new_york = "Europe/Berlin", "America/New_York"
    times = {
        "2026-03-01T02:00:00Z": (None, "2026-03-01T02:00:00"),
        "2026-03-01T02:00:00.1234567Z": (None, "2026-03-01T02:00:00.123456"),
        "2026-03-01T03:00:00+01:00": (new_york, "2026-03-01T02:00:00"),
        "2026-03-01T03:00:00+0100": (new_york, "2026-03-01T02:00:00"),
        "2026-03-01 02:00": (None, "2026-03-01T02:00:00"),
        "2026-03-01T03:00:00": (berlin, "2026-03-01T02:00:00"),
        "2026-02-28T21:00:00": (new_york, "2026-03-01T02:00:00"),
        # clocks in Berlin go from 2:00 to 3:00 ...
        "2025-03-30T02:30:00": (berlin, "2025-03-30T01:30:00"),
        "2025-03-30T03:30:00": (berlin, "2025-03-30T01:30:00"),
        # ... and from 3:00 back to 2:00
        "2025-10-26T02:30:00": (berlin, "2025-10-26T00:30:00"),
        "2025-10-26T03:30:00": (berlin, "2025-10-26T02:30:00"),
    }
    for text, (zone, _) in times.items():
        zoned = {"zone": zone} if zone else {}
        recorded = {"recorded": "2026-03-01T05:00:00"}  # UTC, unlike the times of the job
        lake.put(record(run=text, state="started", at=text, records=None, **zoned, **recorded))

    lake.extract("recent")

    found = {row["run_id"]: row for row in lake.rows("recent")}
    assert {text: row["started_at"].replace(tzinfo=None).isoformat() for text, row in found.items()} == {
        text: utc for text, (_, utc) in times.items()
    }
    assert {row["recorded_at"] for row in found.values()} == {at("2026-03-01T05:00:00Z")}


# ---- what cannot be used ----

UNUSABLE: dict[str, list[Row | str]] = {
    "not JSON": [
        "{oops",
        '{"job": {"name": "orders"}, "run": {"id": "1"}, "sta',
        json.dumps(record()) + " " + json.dumps(record(run="2")),
        json.dumps(record()) + "," + json.dumps(record(run="2")),
        json.dumps(record()) + "}",
        json.dumps([record()]),
        json.dumps(record()).replace('"', "'"),
        json.dumps(record(records=float("nan"))),
        "null",
        "7",
        '"orders"',
    ],
    "no job_name": [record(job=None), record(job=" \t"), record(job="\u00a0"), record() | {"job": "orders"}],
    "no run_id": [record(run=""), record() | {"run": None}],
    "job_name too long": [record(job="x" * 257)],
    "run_id too long": [record(run="x" * 257)],
    "unknown state": [record(state="paused"), record(state=None)],
    "unknown time zone": [record(zone="Europe/Atlantis"), record(zone="SystemV/EST5"), record(zone="+25:00")],
    "unreadable time": [
        record(at=None),
        record(at="yesterday"),
        record(at="02:10"),
        record(at="2026-03-01"),
        record(at=1_772_330_000),
        record(at="2026-02-30T02:10:00Z"),
        record(at="2026-03-01T24:10:00Z"),
        record(at="0001-01-01T00:00:00Z"),
        record(at="9999-12-31T23:59:59-10:00"),
        record(recorded="soon"),
        record(started="earlier"),
    ],
    "bad figure": [
        record(records=value) for value in (-1, 1.5, 2**53 + 2, 10**400, "many", "0x10", "1d", True, [1], "Infinity")
    ],
}


def test_lines_that_cannot_be_used_are_kept_with_the_reason_and_lose_nothing_else(lake: Lake) -> None:
    lines = [
        (reason, each if isinstance(each, str) else json.dumps(each))
        for reason, many in UNUSABLE.items()
        for each in many
    ]
    lake.put(started("good"), "", "  ", *(line for _, line in lines), record("good"))

    counts = lake.extract()

    assert [row["job_name"] for row in lake.rows()] == ["good"]
    kept = lake.rejected()
    assert sorted((row["reason"], row["line"]) for row in kept) == sorted(lines)
    assert {Path(row["file"]).name for row in kept} == {"00.jsonl"}
    assert counts["reasons"] == {reason: len(many) for reason, many in sorted(UNUSABLE.items())}
    assert (counts["rejected"], counts["lines"]) == (len(lines), len(lines) + 2)


def test_figures_and_names_at_their_limits_are_used(lake: Lake) -> None:
    figures = {"0": 0, "2": 2**53, "3": "12", "4": 12.0, "5": 1e5, "6": "", "7": None}
    for run, value in figures.items():
        lake.put(started(run=run), record(run=run, state="failed", records=value))
    longest = "\U0001f600" * 256
    lake.put(started(longest, longest), record(longest, longest))

    assert lake.extract()["rejected"] == 0

    found = by_run(lake.rows())
    expected = {"0": 0, "2": 2**53, "3": 12, "4": 12, "5": 100_000, "6": None, "7": None}
    assert {run: found[run]["records_processed"] for run in figures} == expected
    assert found[longest]["job_name"] == longest


def test_runs_that_cannot_be_used_are_kept_with_the_reason(lake: Lake) -> None:
    lake.put(record(run="no start"), day="2026-03-01")
    lake.put(started(run="no records"), record(run="no records", records=None))
    lake.put(record(run="backwards", started="2026-03-01T02:10:01Z"))
    lake.put(started(run="a year", at="2025-02-27T02:10:00Z"), record(run="a year"))
    lake.put(started(run="less than a year", at="2025-02-28T02:10:00Z"), record(run="less than a year"))

    counts = lake.extract("recent")

    assert [row["run_id"] for row in lake.rows("recent")] == ["less than a year"]
    reasons = {json.loads(row["line"])["run_id"]: row["reason"] for row in lake.rejected("recent")}
    assert reasons == {
        "no start": "no start found",
        "no records": "succeeded without records",
        "backwards": "ends before it starts",
        "a year": "ran for more than a year",
    }
    assert counts["rejected"] == 4


def test_every_zone_that_everyone_knows_is_known(lake: Lake, spark: SparkSession) -> None:
    zones = sorted(available_timezones())
    lake.put(*(record(run=zone, zone=zone, state="started", records=None) for zone in zones))

    lake.extract("recent")

    found = by_run(lake.rows("recent"))
    # the rest is obsolete or no place, or newer than this Java
    assert len(found) > 0.98 * len(zones)
    assert {"UTC", "Europe/Berlin", "America/Argentina/ComodRivadavia"} <= found.keys()
    moment = at("2026-03-01T02:10:00Z")
    assert {zone: row["day_of_week"] for zone, row in found.items()} == {
        zone: moment.astimezone(ZoneInfo(zone)).weekday() for zone in found
    }


# ---- files ----


def test_nested_and_packed_files_are_read_and_others_are_not(lake: Lake) -> None:
    day = lake.root / "dt=2026-03-01"
    lake.put(started(), file="hour=02/a.jsonl")
    (day / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(record()).encode()))
    lake.put("not for us", file="README.txt")
    lake.put("not for us", file="_part.jsonl")

    counts = lake.extract()

    assert (counts["lines"], counts["runs"], counts["rejected"]) == (2, 1, 0)


def test_a_damaged_file_loses_only_what_is_behind_its_damage(lake: Lake) -> None:
    lake.put(started("good"), record("good"))
    noise = random.Random(1)
    lines = [json.dumps(started(f"job-{k}", noise.randbytes(64).hex())) for k in range(4_000)]
    packed = gzip.compress("\n".join(lines).encode())
    day = lake.root / "dt=2026-03-01"
    (day / "cut off.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    (day / "plain.jsonl.gz").write_bytes(b"this is no gzip")

    counts = lake.extract("recent")

    names = {row["job_name"] for row in lake.rows("recent")}
    assert "good" in names
    assert 1_000 < len(names) < 3_000
    damaged = {
        Path(row["file"]).name: row["line"] for row in lake.rejected("recent") if row["reason"] == "damaged file"
    }
    assert damaged == {"cut%20off.jsonl.gz": None, "plain.jsonl.gz": None}
    assert counts["reasons"]["damaged file"] == 2


def test_a_stage_says_where_its_records_hold_what_and_how_folders_are_called(lake: Lake) -> None:
    one = {"pipeline": "orders", "id": 7, "event": {"kind": "SUCCESS", "time": "2026-03-01T02:10:00Z"}}
    one |= {"stats": {"rows": {"out": 5}}, "began": "2026-03-01T02:00:00Z"}
    path = lake.root / "2026/03/01/a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(one))
    fields = {
        "job_name": "pipeline",
        "run_id": "id",
        "state": "event.kind",
        "occurred_at": "event.time",
        "recorded_at": "event.time",
        "records_processed": "stats.rows.out",
        "started_at": "began",
    }
    for given in (json.dumps(fields), ",".join(f"{name}={path}" for name, path in fields.items())):
        lake.extract("historical", UNTIL, 3, "--fields", given, "--day-folders", "%Y/%m/%d")

        [row] = lake.rows()
        assert (row["job_name"], row["run_id"], row["records_processed"]) == ("orders", "7", 5)


@pytest.mark.parametrize(
    "fields",
    [
        "{}[",
        '{"job": "name"}',
        '{"job_name": ""}',
        '{"job_name": "a..b"}',
        '{"job_name": 1}',
        "job_name",
        '{"state": "run"}',
    ],
)
def test_field_paths_that_cannot_be_are_refused(fields: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--mode", "recent", "--lake", "l", "--output", "o", "--until", UNTIL, "--days", "1"]
    with pytest.raises(SystemExit):
        Extraction.parse([*arguments, "--fields", fields])
    assert "argument --fields" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--until", "2026-03-02T02:30:00"], ["--days", "0"], ["--buckets", "0"]])
def test_arguments_that_cannot_be_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--mode", "recent", "--lake", "l", "--output", "o", "--until", UNTIL, "--days", "1"]
    with pytest.raises(SystemExit):
        Extraction.parse([*arguments, *wrong])
    assert f"argument {wrong[0]}" in capsys.readouterr().err


def test_without_a_lake_it_says_what_it_looked_for(lake: Lake) -> None:
    with pytest.raises(ExtractionError, match=r"no data lake at .*/lake: looked for folders such as .*/dt=2026-03-02"):
        lake.extract()


def test_a_window_without_records_is_no_error(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    lake.put(started(), record())
    lake.extract("recent")
    lake.extract("historical")

    for mode in ("recent", "historical"):
        counts = lake.extract(mode, "2027-01-01T00:00:00Z")
        assert (counts["folders"], counts["lines"], counts["runs"]) == (0, 0, 0)
        assert "No folder from" in capsys.readouterr().out
    assert lake.rows("recent") == []
    assert len(lake.rows("historical")) == 1


# ---- windows and reruns ----


def finished_on(day: str, run: str = "1", **fields: Any) -> tuple[Row, Row]:
    return started(run=run, at=f"{day}T02:00:00Z"), record(run=run, at=f"{day}T02:10:00Z", **fields)


def test_a_rerun_leaves_the_same_rows_in_the_same_places(lake: Lake) -> None:
    noise = random.Random(5)
    for day in ("2026-02-27", "2026-02-28", "2026-03-01"):
        records = [each for k in range(30) for each in finished_on(day, f"{day}-{k}", records=k)]
        noise.shuffle(records)
        lake.put(*({**each, "job": {"name": f"job-{noise.randrange(9)}"}} for each in records), "{oops", day=day)
    first_counts = {mode: lake.extract(mode) for mode in ("historical", "recent")}
    first = {mode: (lake.files(mode), lake.rejected(mode)) for mode in first_counts}

    # recorded at `until` or later, and so no part of it
    later = [{**each, "recorded_at": UNTIL} for each in finished_on("2026-03-01", "2026-03-01-0", records=9)]
    lake.put(*later, record(run="later", recorded="2026-03-02T09:00:00Z", records=-1), day="2026-03-02")

    for mode, counts in first_counts.items():
        again = lake.extract(mode)
        assert (lake.files(mode), lake.rejected(mode)) == first[mode]
        assert again == counts | {"folders": counts["folders"] + 1}


def test_rows_are_in_order_and_each_place_is_one_file(lake: Lake) -> None:
    names = [f"job-{k}" for k in range(40)]
    for name in names:
        lake.put(*({**each, "job": {"name": name}} for each in finished_on("2026-03-01")))
        lake.put(*({**each, "job": {"name": name}} for each in finished_on("2026-02-28", "2")), day="2026-02-28")
    lake.extract("historical")
    lake.extract("recent", UNTIL, 3, "--buckets", "4")

    for mode, places in (("historical", 2), ("recent", 4)):
        files = lake.files(mode)
        assert len(files) == len({folder for folder, _ in files}) == places
        for _, rows in files:
            keys = [(row["job_name"], row["started_at"], row["run_id"]) for row in rows]
            assert keys == sorted(keys)
    expected = {name: recent_prefix(bucket_of(name, 4)).rstrip("/") for name in names}
    assert {row["job_name"]: folder for folder, rows in lake.files("recent") for row in rows} == expected


def test_a_late_correction_rewrites_its_day_and_no_other(lake: Lake) -> None:
    for day in ("2026-02-25", "2026-02-27", "2026-02-28"):
        lake.put(*finished_on(day, day), day=day)
    lake.extract("historical", "2026-03-01T02:30:00Z", 10)
    before = dict(lake.files())
    untouched = next((lake.output / "historical/dt=2026-02-25").glob("*.parquet"))
    stamp = untouched.stat().st_mtime_ns

    lake.put(record(run="2026-02-27", at="2026-02-27T02:10:00Z", records=9, recorded="2026-03-01T08:00:00Z"))
    # the only run of this day began on another one
    lake.put(
        record(
            run="2026-02-28",
            at="2026-02-28T02:10:00Z",
            started="2026-02-27T22:00:00Z",
            recorded="2026-03-01T08:00:00Z",
        )
    )
    lake.extract("historical", UNTIL, 3)

    after = dict(lake.files())
    assert after["historical/dt=2026-02-25"] == before["historical/dt=2026-02-25"]
    assert untouched.stat().st_mtime_ns == stamp
    assert [(row["run_id"], row["records_processed"]) for row in after["historical/dt=2026-02-27"]] == [
        ("2026-02-27", 9),
        ("2026-02-28", 100),
    ]
    assert after.keys() == {"historical/dt=2026-02-25", "historical/dt=2026-02-27"}


def test_a_day_at_the_edge_is_whole_or_untouched(lake: Lake) -> None:
    for hour in (1, 9, 23):
        lake.put(
            *(
                record(run=str(hour), state=state, at=f"2026-02-27T{hour:02}:{minute}:00Z")
                for state, minute in (("started", "00"), ("succeeded", "10"))
            ),
            day="2026-02-27",
        )
    overnight = {"run": "overnight", "started": "2026-02-26T23:00:00Z"}
    lake.put(record(at="2026-02-27T01:00:00Z", **overnight), day="2026-02-27")
    lake.put(*finished_on("2026-02-26", "before"), day="2026-02-26")
    lake.extract("historical", "2026-02-28T00:00:00Z", 5)
    assert len(dict(lake.files())["historical/dt=2026-02-26"]) == 2

    # whatever the time of day: the first day of the window is extracted from its midnight on
    lake.extract("historical", "2026-03-02T12:00:00Z", 3)

    files = dict(lake.files())
    assert {row["run_id"] for row in files["historical/dt=2026-02-27"]} == {"1", "9", "23"}
    assert {row["run_id"] for row in files["historical/dt=2026-02-26"]} == {"before", "overnight"}


def test_days_whose_records_have_left_the_lake_keep_their_rows(lake: Lake) -> None:
    lake.put(*finished_on("2026-02-26", "gone"), day="2026-02-26")
    lake.put(record(run="overnight", at="2026-02-27T01:00:00Z", started="2026-02-26T23:00:00Z"), day="2026-02-27")
    lake.extract("historical", UNTIL, 10)
    (lake.root / "dt=2026-02-26/00.jsonl").unlink()
    (lake.root / "dt=2026-02-26").rmdir()

    lake.extract("historical", UNTIL, 10)

    assert {row["run_id"] for row in lake.rows()} == {"gone", "overnight"}


def test_recent_holds_what_started_or_changed_in_the_window_and_nothing_older(lake: Lake) -> None:
    lake.put(started(run="long", at="2026-02-26T02:00:00Z"), day="2026-02-26")
    lake.put(*finished_on("2026-02-26", "old"), day="2026-02-26")
    lake.put(record(run="long", at="2026-03-01T02:00:00Z"), started(run="running"))
    lake.put(record(run="old without a start", at="2026-02-26T02:00:00Z"), day="2026-02-26")

    counts = lake.extract("recent", UNTIL, 1)

    assert {row["run_id"] for row in lake.rows("recent")} == {"long", "running"}
    assert counts["rejected"] == 0

    lake.extract("recent", "2026-03-09T02:30:00Z", 1)
    assert lake.rows("recent") == []


# ---- everything at once, against plain Python ----

WORDS = {
    "started": "RUNNING",
    "Running": "RUNNING",
    "SUCCESS": "SUCCEEDED",
    "completed": "SUCCEEDED",
    "error": "FAILED",
}
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC", "Mars/Base", None)


def random_lines(noise: random.Random) -> Iterator[tuple[str, str]]:
    """Days and lines around the edges of a window of three days before UNTIL."""
    for _ in range(220):
        moment = at("2026-02-19T00:00:00Z") + timedelta(minutes=noise.randrange(12 * 24 * 60))
        zone = noise.choice(ZONES)
        name, run = f"job-{noise.randrange(4)}", f"run-{noise.randrange(40)}"
        local = moment.astimezone(ZoneInfo(zone if zone and "Mars" not in zone else "UTC"))
        text = noise.choice([moment.isoformat(), local.isoformat(), local.replace(tzinfo=None).isoformat()])
        recorded = moment + timedelta(minutes=noise.choice([0, 0, 1, 600, 3000]))
        one = record(name, run, noise.choice(list(WORDS)), text, noise.choice([None, 0, 5, "7", 2.5]))
        if zone or noise.random() < 0.2:
            one["job"]["time_zone"] = zone
        if noise.random() < 0.8:
            one["recorded_at"] = recorded.isoformat()
        if noise.random() < 0.2:
            one["run"]["started_at"] = (moment - timedelta(minutes=noise.randrange(-5, 900))).isoformat()
        if noise.random() < 0.3:
            one["job"]["schedule"] = f"{noise.randrange(60)} * * * *"
        line = json.dumps(one)
        if noise.random() < 0.03:
            line = line[: noise.randrange(1, len(line))]
        for _ in range(noise.choice([1, 1, 1, 2])):
            yield str((recorded if "recorded_at" in one else moment).date()), line


def plainly(lines: Iterable[tuple[str, str]], mode: str, until: datetime, days: int) -> tuple[list[Row], Counter[str]]:
    """The rows and reasons, without Spark."""
    first = until.date() - timedelta(days=days)
    runs: dict[tuple[str, str], list[Row]] = {}
    reasons: Counter[str] = Counter()
    for day, line in lines:
        if not first - timedelta(days=7) <= date.fromisoformat(day) <= until.date():
            continue
        try:
            one = json.loads(line)
        except ValueError:
            reasons["not JSON"] += 1
            continue
        zone = one["job"].get("time_zone") or "UTC"
        records = one.get("metrics", {}).get("records", {}).get("processed")
        moment = utc(one["occurred_at"], zone if zone != "Mars/Base" else "UTC")
        recorded = utc(one["recorded_at"], "UTC") if "recorded_at" in one else moment
        if recorded >= until:
            continue
        if zone == "Mars/Base":
            reasons["unknown time zone"] += 1
        elif records == 2.5:
            reasons["bad figure"] += 1
        else:
            state = WORDS[one["state"]]
            known = {"state": state, "at": moment, "recorded": recorded, "zone": one["job"].get("time_zone")}
            known |= {"records": None if records is None else int(records), "schedule": one["job"].get("schedule")}
            starts = [moment] if state == "RUNNING" else []
            starts += [utc(one["run"]["started_at"], zone)] if "started_at" in one["run"] else []
            runs.setdefault((one["job"]["name"], one["run"]["id"]), []).append({**known, "starts": starts})
    rows = []
    for (name, run_id), states in runs.items():
        states.sort(key=lambda s: (s["at"], s["recorded"], s["state"] != "RUNNING"))
        starts = [start for state in states for start in state["starts"]]
        row = plain_row(name, run_id, states, min(starts, default=None))
        changed = max((starts and [min(starts)]) or [row["recorded_at"]], default=row["recorded_at"])
        changed = max([row["recorded_at"], *([min(starts)] if starts else [])])
        recent = changed.date() >= first
        if reason := row.pop("reason"):
            reasons[reason] += recent
        elif mode == "recent":
            rows += [row] if recent else []
        elif row["status"] != "RUNNING" and first <= row["started_at"].date() <= until.date():
            rows.append(row)
    return rows, +reasons


def plain_row(name: str, run_id: str, states: list[Row], start: datetime | None) -> Row:
    last = states[-1]
    seconds = (last["at"] - start).total_seconds() if start else 0.0
    zone = next((state["zone"] for state in reversed(states) if state["zone"]), "UTC")
    reason = (
        "no start found"
        if start is None
        else "succeeded without records"
        if last["state"] == "SUCCEEDED" and last["records"] is None
        else "ends before it starts"
        if last["state"] != "RUNNING" and seconds < 0
        else ""
    )
    return {
        "job_name": name,
        "run_id": run_id,
        "started_at": start,
        "run_time_seconds": None if last["state"] == "RUNNING" else seconds,
        "records_processed": last["records"],
        "status": last["state"],
        "day_of_week": start.astimezone(ZoneInfo(zone)).weekday() if start else None,
        "recorded_at": last["recorded"],
        "time_zone": zone,
        "schedule": next((state["schedule"] for state in reversed(states) if state["schedule"]), None),
        "reason": reason,
    }


def utc(text: str, zone: str) -> datetime:
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=ZoneInfo(zone))).astimezone(UTC)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("mode", ["historical", "recent"])
def test_random_lakes_are_extracted_as_by_plain_python(lake: Lake, mode: str, seed: int) -> None:
    noise = random.Random(seed)
    lines = list(random_lines(noise))
    for day, line in lines:
        lake.put(line, day=day, file=f"{noise.randrange(3)}.jsonl")
    rows, reasons = plainly(lines, mode, at(UNTIL), 3)
    assert rows

    counts = lake.extract(mode)

    def in_order(rows: list[Row]) -> list[Row]:
        return sorted(rows, key=lambda row: (row["job_name"], row["run_id"]))

    assert in_order(lake.rows(mode)) == in_order(rows)
    assert counts["reasons"] == dict(sorted(reasons.items()))
