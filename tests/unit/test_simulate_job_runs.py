"""Simulated job runs: the lake holds exactly the runs told, written as orchestrators do, faulty where labels say so."""

import gzip
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

from overcut.etl_jobs.features import by_job
from overcut.etl_jobs.job_runs import JobRun, Status
from overcut.etl_jobs.predictions import predict
from overcut.etl_jobs.training import train
from workbench.cli import main
from workbench.job_runs_files import read_job_runs, read_labels
from workbench.simulate import SimulationError
from workbench.simulate_job_runs import (
    DIALECTS,
    FAULT_KINDS,
    Fault,
    Job,
    Mishaps,
    SimulatedJobs,
    demonstration_jobs,
    draw_jobs,
    simulate_jobs,
)

START = date(2026, 1, 5)
BERLIN = "Europe/Berlin"
NO_MISHAPS = Mishaps(0, 0, 0, 0)
OFTEN = Mishaps(0.1, 0.1, 0.1, 0.3)


def simulated(
    *jobs: Job,
    days: int = 120,
    seed: int = 7,
    faults: Iterable[Fault] | None = (),
    mishaps: Mishaps = NO_MISHAPS,
    calm_from: date | None = None,
) -> SimulatedJobs:
    return simulate_jobs(
        jobs,
        started_on=START,
        days=days,
        seed=seed,
        faults=None if faults is None else list(faults),
        mishaps=mishaps,
        calm_from=calm_from,
    )


def fleet(*, days: int = 150, count: int = 20, faults: Iterable[Fault] | None = None) -> SimulatedJobs:
    return simulated(*draw_jobs(count, days=days, seed=7), days=days, faults=faults, mishaps=OFTEN)


@pytest.fixture(scope="module")
def rough() -> SimulatedJobs:
    return fleet()


Row = tuple[str, str, datetime, float, int | None, str]


def extracted(lake: Iterable[tuple[date, list[str]]]) -> tuple[list[Row], int]:
    """The runs in a lake and its lines that are no record: the rules of the lake once more, as plainly as can be."""
    states: defaultdict[tuple[str, str], list[tuple[datetime, datetime, int, int | None]]] = defaultdict(list)
    starts: defaultdict[tuple[str, str], list[datetime]] = defaultdict(list)
    words = {"started": 0, "running": 0, "succeeded": 1, "success": 1, "completed": 1}
    words |= {"failed": 2, "error": 2, "cancelled": 2, "timed_out": 2}
    rejected = 0
    for day, lines in lake:
        for line in lines:
            try:
                record = json.loads(line)
                job, run = record["job"], record["run"]
                zone = ZoneInfo(job["time_zone"])

                def moment(text: str, zone: ZoneInfo = zone) -> datetime:
                    found = datetime.fromisoformat(text)
                    return (found.replace(tzinfo=zone) if found.tzinfo is None else found).astimezone(UTC)

                occurred_at = moment(record["occurred_at"])
            except (ValueError, KeyError):
                rejected += 1
                continue
            key = job["name"], run["id"]
            recorded_at = moment(record["recorded_at"]) if "recorded_at" in record else occurred_at
            assert recorded_at.date() == day
            state = words[record["state"].lower()]
            rows = record.get("metrics", {}).get("records", {}).get("processed")
            states[key].append((occurred_at, recorded_at, state, -1 if rows is None else rows))
            if state == 0:
                starts[key].append(occurred_at)
            if "started_at" in run:
                starts[key].append(moment(run["started_at"]))
    found = []
    for key, own in states.items():
        occurred_at, _, state, last = max(own)
        started_at = min(starts[key])
        seconds = (occurred_at - started_at).total_seconds()
        found.append((*key, started_at, seconds, None if last == -1 else last, ["", "SUCCEEDED", "FAILED"][state]))
    return sorted(found), rejected


def rows_of(runs: Iterable[JobRun]) -> list[Row]:
    """Runs as rows; a failed one with 0 rows has no figure."""
    return [
        (
            run.job_name,
            run.run_id,
            run.started_at,
            run.run_time_seconds,
            None if run.status is Status.FAILED and run.records_processed == 0 else run.records_processed,
            run.status.value,
        )
        for run in runs
    ]


def test_a_perfect_extraction_of_the_lake_gives_the_runs(rough: SimulatedJobs) -> None:
    rows, rejected = extracted(rough.lake())
    assert rows == sorted(rows_of(rough.runs))
    statuses = Counter(row[-1] for row in rows)
    assert statuses["FAILED"] > 100
    assert statuses["SUCCEEDED"] > 1000
    assert 2 <= rejected <= 20


def test_the_lake_is_rough(rough: SimulatedJobs) -> None:
    clean = [change.to_json() for change in rough.records]
    assert len(set(clean)) == len(clean)
    lines = [line for _, lines in rough.lake() for line in lines]
    twice = len(lines) - len(set(lines))
    assert 0.005 < twice / len(clean) < 0.02
    times = [line.partition('"occurred_at": "')[2].partition('"')[0] for line in lines]
    ends = Counter(
        "utc" if text.endswith("Z") else "offset" if "+" in text or text[-6] == "-" else "local"
        for text in times
        if text
    )
    assert min(ends.values()) > 0.05 * len(lines)
    # within a day as many runs end before they start as the other way round
    early = both = 0
    for _, day in rough.lake():
        found: defaultdict[str, list[str]] = defaultdict(list)
        for line in day:
            run_id, _, rest = line.partition('"id": "')[2].partition('"')
            found[run_id].append("end" if '"records"' in rest else "start")
        both += sum(set(places) == {"start", "end"} for places in found.values())
        early += sum(set(places) == {"start", "end"} and places[0] == "end" for places in found.values())
    assert 0.3 < early / both < 0.6
    states = {change.state for change in rough.records}
    assert {"started", "RUNNING", "Started", "succeeded", "SUCCESS", "Completed", "FAILED", "timed_out"} <= states


def test_days_of_the_lake_ascend_and_come_once(rough: SimulatedJobs) -> None:
    days = [day for day, _ in rough.lake()]
    assert days == sorted(set(days))
    # a run may end, and be corrected, after the last day
    assert days[0] == START
    assert START + timedelta(days=149) <= days[-1] <= START + timedelta(days=153)


def test_the_same_seed_gives_the_same_and_another_does_not(rough: SimulatedJobs) -> None:
    again = fleet()
    assert list(again.lake()) == list(rough.lake())
    assert (list(again.runs), again.labels, again.missing) == (list(rough.runs), rough.labels, rough.missing)
    job = Job("orders", "0 2 * * *")
    assert list(simulated(job, seed=8).runs) != list(simulated(job, seed=7).runs)


def test_a_job_does_not_depend_on_how_many_there_are(rough: SimulatedJobs) -> None:
    few = fleet(count=3)
    names = {run.job_name for run in few.runs}
    assert len(names) == 3
    assert list(few.runs) == [run for run in rough.runs if run.job_name in names]


def test_a_fault_changes_no_run_that_is_not_labelled(rough: SimulatedJobs) -> None:
    sound = fleet(faults=())
    assert sound.labels == {}
    pairs = list(zip(rough.runs, sound.runs, strict=True))
    changed = {(faulty.job_name, faulty.run_id) for faulty, healthy in pairs if faulty != healthy}
    assert changed == rough.labels.keys()
    # and one that failed is a failure, not a fault
    assert all(run.status is Status.SUCCEEDED for run in rough.runs if (run.job_name, run.run_id) in rough.labels)


def test_each_kind_looks_like_its_name() -> None:
    jobs = [Job(f"job_{number:02d}", "0 3 * * *", noise=0.02, time_noise=0.02) for number in range(30)]
    faulty, sound = simulated(*jobs, faults=None), simulated(*jobs)
    ratios: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for run, usual in zip(faulty.runs, sound.runs, strict=True):
        kind = faulty.labels.get((run.job_name, run.run_id))
        if kind:
            assert run.status is Status.SUCCEEDED
            assert run.started_at >= datetime(2026, 1, 5, tzinfo=UTC) + timedelta(days=80)
            ratios[kind].append(
                (run.records_processed / usual.records_processed, run.run_time_seconds / usual.run_time_seconds)
            )
    assert ratios.keys() == set(FAULT_KINDS)
    for kind, low, high in [
        ("drop20", 0.149, 0.251),
        ("zero", 0.0, 0.0),
        ("double", 1.79, 2.21),
        ("weekday_drop", 0.39, 0.51),
        ("slow3x", 1.0, 1.0),
        ("drift", 0.44, 0.99),
    ]:
        assert all(low <= rows <= high for rows, _ in ratios[kind]), kind
        assert len(ratios[kind]) == 30 or kind == "drift"
    assert all(2.58 <= seconds <= 3.42 for _, seconds in ratios["slow3x"])
    # an empty load is quick, down to what a run takes at least
    assert all(seconds < 0.5 for _, seconds in ratios["zero"])


def test_a_drift_falls_to_the_end() -> None:
    jobs = [Job(f"job_{number:02d}", "0 3 * * *", noise=0.001) for number in range(20)]
    result = simulated(*jobs, faults=None)
    drifting = 0
    for name, own in by_job(result.runs).items():
        rows = [run.records_processed for run in own if result.labels.get((name, run.run_id)) == "drift"]
        if rows:
            drifting += 1
            assert 8 <= len(rows) <= 12
            assert result.labels[name, own[-1].run_id] == "drift"
            assert all(b < a for a, b in pairwise(rows))
            assert rows[-1] < 0.61 * 100_000
    assert 3 <= drifting <= 14


def expected_days(job: Job, days: int) -> list[date]:
    return [date.fromisoformat(run.run_id[-13:-5]) for run in simulated(job, days=days).runs]


def test_jobs_run_by_their_schedules_in_their_zones() -> None:
    daily = [run.started_at for run in simulated(Job("a", "0 2 * * *", BERLIN)).runs]
    # at 02:00 in Berlin, plus up to two minutes in a queue; on 29 March there is no 02:00
    for moment in daily:
        hour = {START: 1}.get(moment.date(), 1 if moment.date() <= date(2026, 3, 29) else 0)
        assert (moment.hour, moment.minute < 3) == (hour, True)
    assert len(daily) == 120
    assert [day.isoformat() for day in expected_days(Job("a", "0 4 L * *"), 120)] == [
        "2026-01-31",
        "2026-02-28",
        "2026-03-31",
        "2026-04-30",
    ]
    assert {day.weekday() for day in expected_days(Job("a", "0 4 * * 1-5"), 30)} == {0, 1, 2, 3, 4}
    assert expected_days(Job("a", "0 4 * * 0"), 21) == [date(2026, 1, 11), date(2026, 1, 18), date(2026, 1, 25)]
    hourly = list(simulated(Job("a", "5 * * * *"), days=3).runs)
    assert [run.started_at.hour for run in hourly] == [*range(24)] * 3


def test_jobs_appear_and_disappear() -> None:
    days = expected_days(Job("a", "0 4 * * *", first_day=10, end_day=13), 30)
    assert days == [date(2026, 1, 15), date(2026, 1, 16), date(2026, 1, 17)]
    jobs = draw_jobs(60, days=182, seed=1)
    assert sum(job.first_day > 0 for job in jobs) == 6
    assert sum(job.end_day is not None for job in jobs) == 4
    assert all(job.first_day == 0 and job.end_day is None for job in draw_jobs(60, days=182, seed=1, daily_only=True))


def test_a_fleet_has_every_cadence() -> None:
    def cadence(schedule: str) -> str:
        _, hour, day, _, weekday = schedule.split()
        return "hourly" if hour == "*" else "month-end" if day == "L" else weekday if weekday in "*1-5" else "weekly"

    found = Counter(cadence(job.schedule) for job in draw_jobs(60, days=182, seed=3))
    assert found["hourly"] == 3
    assert found["1-5"] == 9
    assert found["month-end"] == 6
    assert found["*"] >= 36
    assert {cadence(job.schedule) for job in draw_jobs(40, days=182, seed=3, daily_only=True)} == {"*"}


def test_weekends_and_hours_load_what_they_do() -> None:
    quiet = list(simulated(Job("a", "0 12 * * *", noise=0.01, weekend=0.3)).runs)
    weekend = [run.records_processed for run in quiet if run.day_of_week >= 5]
    week = [run.records_processed for run in quiet if run.day_of_week < 5]
    assert median(weekend) / median(week) == pytest.approx(0.3, rel=0.02)
    hourly = simulated(Job("a", "0 * * * *", "America/New_York", noise=0.01, swing=0.5), days=20).runs
    by_hour: defaultdict[int, list[int]] = defaultdict(list)
    for run in hourly:
        by_hour[run.started_at.astimezone(ZoneInfo("America/New_York")).hour].append(run.records_processed)
    assert fmean(by_hour[15]) / fmean(by_hour[3]) == pytest.approx(3.0, rel=0.03)


def test_a_run_that_never_came_is_told_and_leaves_no_record() -> None:
    job = Job("a", "0 4 * * *", BERLIN)
    everything, some = simulated(job), simulated(job, mishaps=replace(NO_MISHAPS, missing=0.2))
    missing = {f"a-{run.expected_at:%Y%m%dT%H%M}" for run in some.missing}
    came = {run.run_id for run in some.runs}
    assert 10 < len(missing) < 40
    assert missing | came == {run.run_id for run in everything.runs}
    assert missing & came == set()
    assert {change.run_id for change in some.records} == came


def test_a_retry_is_the_same_run_and_a_correction_the_same_end() -> None:
    job = Job("a", "0 4 * * *", BERLIN, dialect=DIALECTS[0])
    (history,) = simulated(job, days=1, mishaps=replace(NO_MISHAPS, retried=1.0)).histories
    run, records = history.run(0), list(history.changes(0))
    assert [change.state for change in records] == ["started", "failed", "started", "succeeded"]
    times = [change.occurred_at for change in records]
    assert times == sorted(times)
    assert (times[-1] - run.started_at).total_seconds() == pytest.approx(run.run_time_seconds)
    assert [change.extra["attempt"] for change in records] == [1, 1, 2, 2]

    corrected = simulated(job, days=20, mishaps=replace(NO_MISHAPS, corrected=1.0))
    late = 0
    for history in corrected.histories:
        for k in range(20):
            _, *ends = history.changes(k)
            if len(ends) == 2:
                first, second = ends
                late += second.day > first.day
                assert first.occurred_at == second.occurred_at
                assert first.recorded_at is not None
                assert second.recorded_at is not None
                assert timedelta(hours=6) <= second.recorded_at - first.recorded_at < timedelta(hours=60)
                assert (first.records_processed or 0) < history.run(k).records_processed == second.records_processed
    assert late > 10


def test_an_ambiguous_hour_is_written_with_its_offset() -> None:
    """On 25 October 2026 the hour from 02:00 in Berlin comes twice."""
    job = Job("a", "0 * * * *", BERLIN, dialect=DIALECTS[2])
    result = simulate_jobs([job], started_on=date(2026, 10, 24), days=2, seed=1, faults=(), mishaps=NO_MISHAPS)
    written = [json.loads(change.to_json())["occurred_at"] for change in result.records if change.state == "Started"]
    assert [text[11:13] for text in written[20:28]] == ["22", "23", "00", "01", "02", "02", "03", "04"]
    assert [len(text) > 19 for text in written[20:28]] == [False, False, False, False, False, True, False, False]
    assert extracted(result.lake())[0] == rows_of(result.runs)


def test_faults_can_be_asked_for_and_calm_ordered() -> None:
    jobs = [Job("a", "0 2 * * *", BERLIN, noise=0.3), Job("b", "0 3 * * *", noise=0.3)]
    calm_from = START + timedelta(days=100)
    result = simulated(
        *jobs, mishaps=Mishaps(0.2, 0.2, 0.2, 1.0), calm_from=calm_from, faults=[Fault("a", calm_from, "zero")]
    )
    assert result.labels == {("a", "a-20260415T0000"): "zero"}
    live = [run for run in result.runs if run.started_at.date() >= calm_from]
    assert len(live) == 2 * 20
    assert all(run.status is Status.SUCCEEDED for run in live)
    assert [run.run_id for run in live if run.records_processed == 0] == ["a-20260415T0000"]
    assert all(74_000 < run.records_processed < 136_000 for run in live if run.records_processed)
    for day, changes in result.days():
        if day >= calm_from:
            assert all(change.run_id[-13:-5] >= "20260415" for change in changes), "a correction in the calm"
    assert all(run.expected_at.date() < calm_from for run in result.missing)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"jobs": []}, "at least one day and one job"),
        ({"days": 0}, "at least one day and one job"),
        ({"jobs": [Job("a", "0 2 * * *")] * 2}, "jobs of different names"),
        ({"started_on": date(9999, 1, 1)}, "after the year 9999: lower --days"),
        ({"faults": [Fault("b", START, "zero")]}, "a fault in the job b, but no such job"),
        ({"faults": [Fault("a", date(2026, 1, 6), "zero")]}, "a fault in a on 2026-01-06, when it does not run"),
    ],
)
def test_what_cannot_be_simulated_is_refused(arguments: dict[str, Any], says: str) -> None:
    usual: dict[str, Any] = {"jobs": [Job("a", "0 2 * * 1")], "started_on": START, "days": 365, "seed": 1}
    with pytest.raises(SimulationError, match=says):
        simulate_jobs(**(usual | arguments))


@pytest.mark.parametrize("seed", [1, 7])
def test_the_demonstration_has_two_faulty_runs_and_nothing_else_for_a_model_to_find(seed: int) -> None:
    play = demonstration_jobs(seed)
    runs = list(play.jobs.runs)
    assert [day.isoformat() for day in play.live_days] == ["2026-04-15", "2026-04-16", "2026-04-17"]
    assert [run.started_at.date() for run in (*play.faulty, play.healthy)] == list(play.live_days)
    assert {(run.job_name, run.run_id) for run in play.faulty} == play.jobs.labels.keys()
    assert len(by_job(runs)) == 12
    live_from = datetime.combine(play.live_days[0], time(), UTC)
    # and no day before them that is judged once more with them
    before = [run for run in runs if run.started_at >= live_from - timedelta(days=7)]
    assert all(run.status is Status.SUCCEEDED for run in before)
    assert all(missing.expected_at < live_from - timedelta(days=7) for missing in play.jobs.missing)

    model = train(runs, trained_until=live_from, seed=0)
    found = [
        prediction.run_id
        for own in by_job(runs).values()
        for prediction in predict(
            model,
            [run for run in own if run.started_at < live_from],
            [run for run in own if run.started_at >= live_from],
        )
        if prediction.is_anomalous
    ]
    assert found == [run.run_id for run in play.faulty]


def test_the_command_writes_lake_and_truth_and_backtest_reads_them(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    arguments = ["simulate", "job-runs", str(folder), "--jobs", "8", "--days", "130", "--seed", "3"]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 0, ran.output
    result = simulate_jobs(draw_jobs(8, days=130, seed=3), started_on=START, days=130, seed=3)
    stored = read_job_runs(folder / "job_runs.csv.gz").runs
    assert rows_of(stored) == rows_of(result.runs)
    assert read_labels(folder / "job_runs.labels.csv.gz") == result.labels
    lines = [
        (path.parent.name, gzip.decompress(path.read_bytes()).decode()) for path in sorted(folder.rglob("*.jsonl.gz"))
    ]
    assert lines == [(f"dt={day}", "".join(f"{line}\n" for line in own)) for day, own in result.lake()]
    assert gzip.decompress((folder / "missing.csv.gz").read_bytes()).decode().splitlines() == [
        "job_name,expected_at",
        *(f"{run.job_name},{run.expected_at:%Y-%m-%dT%H:%M:%SZ}" for run in result.missing),
    ]
    assert f"{sum(text.count(chr(10)) for _, text in lines):,} lines on {len(lines)} days" in ran.output
    assert f"{len(stored):,} runs of 8 simulated jobs" in ran.output

    scored = tmp_path / "report.json"
    backtest = ["backtest", "etl-jobs", str(folder / "job_runs.csv.gz"), "--json", str(scored)]
    judged = CliRunner().invoke(main, [*backtest, "--labels", str(folder / "job_runs.labels.csv.gz")])
    assert judged.exit_code == 0, judged.output
    first = min(run.started_at for run in stored)
    never_scored = sum(run.status is Status.FAILED or run.started_at < first + timedelta(days=90) for run in stored)
    assert json.loads(scored.read_text())["runs"] == len(stored) - never_scored


def test_the_files_of_a_seed_are_the_same_on_every_machine(tmp_path: Path) -> None:
    digest = hashlib.sha256()
    for options in (["--jobs", "20", "--days", "40"], ["--jobs", "3", "--days", "3", "--daily-only", "--no-faults"]):
        folder = tmp_path / options[1]
        ran = CliRunner().invoke(main, ["simulate", "job-runs", str(folder), *options])
        assert ran.exit_code == 0, ran.output
        for path in sorted(folder.rglob("*.gz")):
            digest.update(str(path.relative_to(folder)).encode() + gzip.decompress(path.read_bytes()))
    assert digest.hexdigest() == "b1de5d0abb0829a45d5eac3b942c289fdaea03a66047daf5607cd13bb5e7f5b9"


def test_the_command_leaves_faults_away_when_told_to(tmp_path: Path) -> None:
    for options, faulty in ([], True), (["--no-faults"], False):
        folder = tmp_path / str(faulty)
        ran = CliRunner().invoke(main, ["simulate", "job-runs", str(folder), "--jobs", "2", "--days", "60", *options])
        assert ran.exit_code == 0, ran.output
        assert bool(read_labels(folder / "job_runs.labels.csv.gz")) is faulty


def test_a_lake_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    ran = CliRunner().invoke(main, ["simulate", "job-runs", str(tmp_path)])
    assert ran.exit_code == 1
    assert "is already there" in ran.output
    assert list(tmp_path.iterdir()) == [tmp_path / "lake"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--started-on", "9999-12-01", "x"], "after the year 9999: lower --days"),
        (["--started-on", "yesterday", "x"], "does not match the format"),
        (["--jobs", "0", "x"], "0 is not in the range"),
        (["file"], "is a file"),
        ([], "Missing argument 'FOLDER'"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    ran = CliRunner().invoke(main, ["simulate", "job-runs", *arguments])
    assert ran.exit_code != 0
    assert says in " ".join(ran.output.split())
    assert "Traceback" not in ran.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_fleets_of_sensors_are_simulated_as_before(tmp_path: Path) -> None:
    target = tmp_path / "fleet.csv.gz"
    ran = CliRunner().invoke(main, ["simulate", str(target), "--sensors", "1", "--days", "1", "--fault-free-days", "0"])
    assert ran.exit_code == 0, ran.output
    assert "1,440 readings" in ran.output
    assert "job-runs" in CliRunner().invoke(main, ["simulate", "--help"]).output
