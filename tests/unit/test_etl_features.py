import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from overcut.etl_jobs.features import DRIFT_RUNS, MIN_RUNS, baselines, by_job, fallback, features, usual_scales
from overcut.etl_jobs.job_runs import JobRun, Status
from tests.unit.generated_job_runs import history, job_run


def last_vector(runs: list[JobRun], learned_from: int) -> tuple[float, float, float]:
    baseline = baselines(runs[:learned_from])[runs[0].job_name]
    records, run_time, drift = features(runs, baseline).features[-1]
    return float(records), float(run_time), float(drift)


def test_usual_runs_are_about_one_deviation_off() -> None:
    runs = history(count=150)
    baseline = baselines(runs[:120])["orders"]
    served = features(runs, baseline).features[120:]
    assert np.abs(served).max() < 4
    assert 0.7 < served[:, 0].std() < 1.4
    assert baseline.records_scale == pytest.approx(0.1, rel=0.3)


def test_serving_the_last_runs_gives_the_row_that_training_gave() -> None:
    runs = history()
    baseline = baselines(runs)["orders"]
    served = features(runs[-DRIFT_RUNS:], baseline)
    trained = features(runs, baseline)
    np.testing.assert_allclose(served.features[-1], trained.features[-1], rtol=1e-12)


def test_the_order_and_failed_runs_do_not_matter() -> None:
    runs = history()
    mixed = [*runs, replace(job_run(k=7, records=0), status=Status.FAILED)]
    random.Random(1).shuffle(mixed)
    one, other = baselines(runs)["orders"], baselines(mixed)["orders"]
    np.testing.assert_array_equal(features(runs, one).features, features(by_job(mixed)["orders"], other).features)


def test_no_rows_at_all_is_far_off_and_says_what_is_usual() -> None:
    runs = history(count=121)
    runs[-1] = replace(runs[-1], records_processed=0)
    baseline = baselines(runs[:-1])["orders"]
    residuals = features(runs, baseline)
    assert residuals.features[-1, 0] < -50
    assert runs[-1].started_at.weekday() < 5
    assert residuals.usual_records[-1] == pytest.approx(100_000, rel=0.15)


def test_a_slow_run_is_off_in_run_time_only_and_a_big_one_takes_its_time() -> None:
    runs = history(count=121)
    slow = [*runs[:-1], replace(runs[-1], run_time_seconds=runs[-1].run_time_seconds * 3)]
    records, run_time, _ = last_vector(slow, 120)
    assert abs(records) < 4
    assert run_time > 8
    double = replace(runs[-1], records_processed=200_000, run_time_seconds=20 + 100.0)
    records, run_time, _ = last_vector([*runs[:-1], double], 120)
    assert records > 4
    assert abs(run_time) < 4


def test_drift_adds_up_what_no_single_run_shows_and_ends_with_it() -> None:
    runs = history(count=128)
    low = [replace(run, records_processed=round(run.records_processed * 0.87)) for run in runs[120:127]]
    records, _, drift = last_vector([*runs[:120], *low], 120)
    assert -4 < records < 0
    assert drift < -2.5
    above = replace(runs[127], records_processed=round(runs[127].records_processed * 1.2))
    assert last_vector([*runs[:120], *low, above], 120)[2] == 0


def test_faults_in_the_history_move_the_baseline_little() -> None:
    runs = history()
    faulty = [replace(run, records_processed=0) if k % 25 == 24 else run for k, run in enumerate(runs)]
    clean, other = (features(runs[-1:], baselines(given)["orders"]).usual_records[0] for given in (runs, faulty))
    assert other == pytest.approx(clean, rel=0.05)


@pytest.mark.parametrize(
    ("every", "count", "weekend"),
    [
        (timedelta(hours=1), 24 * 40, 0.3),
        (timedelta(days=7), 17, 1.0),
        (timedelta(days=30.4), 9, 1.0),
        (timedelta(hours=36), 80, 0.3),
    ],
    ids=["hourly", "weekly", "monthly", "every 36 hours"],
)
def test_other_schedules_are_learned_too(every: timedelta, count: int, weekend: float) -> None:
    runs = history(count=count + 1, every=every, weekend=weekend)
    assert abs(last_vector(runs, count)[0]) < 4
    empty = [*runs[:-1], replace(runs[-1], records_processed=0)]
    assert last_vector(empty, count)[0] < -10


def test_the_hour_and_the_end_of_the_month_are_part_of_what_is_usual() -> None:
    runs = []
    for run in history(count=24 * 30, every=timedelta(hours=1), weekend=1.0):
        night = run.started_at.hour < 6
        runs.append(replace(run, records_processed=run.records_processed // (10 if night else 1)))
    assert baselines(runs)["orders"].records_scale < 0.2
    runs = []
    for run in history(count=160, weekend=1.0):
        last = (run.started_at + timedelta(days=1)).day == 1
        runs.append(replace(run, records_processed=run.records_processed * (4 if last else 1)))
    month_end = next(k for k in range(140, 160) if (runs[k].started_at + timedelta(days=1)).day == 1)
    assert abs(last_vector(runs[: month_end + 1], month_end)[0]) < 4


def test_the_weekday_is_the_jobs_own_not_utcs() -> None:
    runs = []
    for run in history(weekend=1.0):
        at = run.started_at.replace(hour=20)
        day = (at.weekday() + 1) % 7
        quiet = run.records_processed // 5 if day == 6 else run.records_processed
        runs.append(replace(run, started_at=at, day_of_week=day, records_processed=quiet))
    season = baselines(runs)["orders"].season[:7]
    assert season[6] - np.median(season[:6]) == pytest.approx(np.log(1 / 5), abs=0.15)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_summer_time_moves_no_hour_of_a_job_s_day(zone: str) -> None:
    """Hourly, busy from nine to five by the clock on the wall; the runs after the change are as usual as any."""
    start = datetime(2026, 2, 1, tzinfo=UTC)
    runs = []
    for k in range(24 * 75):
        at = start + timedelta(hours=k)
        local = at.astimezone(ZoneInfo(zone))
        records = 50_000 if 9 <= local.hour < 17 else 1_000
        run = job_run("clicks", k, at=at, records=records)
        runs.append(replace(run, time_zone=zone, day_of_week=local.weekday()))
    # both change within these weeks, after which there are two more
    (learned,) = baselines(runs[: 24 * 35]).values()
    later = features(runs, learned).features[24 * 35 :, 0]
    assert np.abs(later).max() < 1


def test_growth_is_followed_and_a_new_level_becomes_usual() -> None:
    growing = history(count=130, growth=0.01)
    baseline = baselines(growing[:120])["orders"]
    assert baseline.growth == pytest.approx(0.01, rel=0.1)
    assert np.abs(features(growing, baseline).features[120:, 0]).max() < 4
    moved = [
        replace(run, records_processed=run.records_processed * (3 if k >= 90 else 1))
        for k, run in enumerate(history(count=130))
    ]
    assert np.abs(features(moved, baselines(moved[:120])["orders"]).features[120:, 0]).max() < 4


def test_constant_and_tiny_jobs_have_a_scale() -> None:
    constant = [job_run(k=k, records=50) for k in range(60)]
    assert abs(last_vector([*constant, job_run(k=60, records=47)], 60)[0]) < 2
    tiny = [job_run(k=k, records=k % 3) for k in range(60)]
    assert abs(last_vector([*tiny, job_run(k=60, records=4)], 60)[0]) < 4
    empty = [job_run(k=k, records=0, seconds=0) for k in range(60)]
    assert np.isfinite(last_vector([*empty, job_run(k=60, records=2**53, seconds=31_622_400)], 60)).all()


@pytest.mark.parametrize("count", range(1, MIN_RUNS + 1))
def test_a_job_is_learning_until_it_has_eight_runs(count: int) -> None:
    baseline = baselines(history(count=count))["orders"]
    assert baseline.is_learning == (count < MIN_RUNS)
    assert baseline.run_count == count


def test_a_new_jobs_weekend_is_no_anomaly_and_its_empty_load_is() -> None:
    runs = history("new", count=8)
    scales = usual_scales(baselines(history()).values())
    for end in range(3, 8):
        usual = features(runs[: end + 1], fallback("new", runs[:end], scales)).features[-1]
        assert np.abs(usual).max() < 4
        empty = replace(runs[end], records_processed=0)
        assert features([*runs[:end], empty], fallback("new", runs[:end], scales)).features[-1, 0] < -10


def test_nothing_known_at_all_gives_finite_features() -> None:
    run = JobRun("new", "1", datetime(2025, 1, 6, tzinfo=UTC), 1.0, 10, Status.SUCCEEDED, 0)
    assert np.isfinite(features([run], fallback("new", [], usual_scales([]))).features).all()
    assert baselines([]) == {}
