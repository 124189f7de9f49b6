import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest

from overcut.etl_jobs import model as models
from overcut.etl_jobs.features import FEATURES, MIN_FALLBACK_RUNS, MIN_RUNS
from overcut.etl_jobs.forest import Forest, export_forest, isolation_score
from overcut.etl_jobs.job_runs import Status
from overcut.etl_jobs.model import (
    KnownJob,
    KnownJobs,
    Model,
    ModelRefusedError,
    anomaly_score,
    dump_model,
    load_model,
)
from overcut.etl_jobs.predictions import predict
from overcut.etl_jobs.training import LOWEST_CUTOFF, TooLittleHistoryError, score_cutoff, train
from tests.unit.generated_job_runs import START, fleet, history

RUNS = fleet()
UNTIL = START + timedelta(days=110)


STUMP = Forest(
    roots=np.array([0], dtype=np.int32),
    left=np.array([1, 1, 2], dtype=np.int32),
    right=np.array([2, 1, 2], dtype=np.int32),
    feature=np.zeros(3, dtype=np.int32),
    threshold=np.full(3, 0.1000000005),
    path_length=np.array([0.0, 1.0, 2.0]),
    samples=2,
    depth=1,
)


@pytest.fixture(scope="module")
def model() -> Model:
    return train(RUNS, trained_until=UNTIL, seed=7)


def known_jobs(model: Model) -> list[KnownJob]:
    return [job for name in model.jobs.names if (job := model.jobs.get(name))]


def learning() -> list[KnownJob]:
    """A job that has no baseline yet."""
    return known_jobs(train([*RUNS, *history("slow", count=5)], trained_until=UNTIL, seed=7))[-1:]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    samples=st.integers(1, 300),
    columns=st.integers(1, 5),
    trees=st.integers(1, 20),
    size=st.integers(2, 256),
    spread=st.sampled_from([1e-30, 1e-3, 1.0, 1e6]),
    decimals=st.sampled_from([0, 1, 12]),
)
def test_scores_equal_scikit_learns(
    seed: int, samples: int, columns: int, trees: int, size: int, spread: float, decimals: int
) -> None:
    random = np.random.default_rng(seed)
    training = (random.normal(size=(samples, columns)).round(decimals) * spread).astype(np.float32)
    forest = IsolationForest(n_estimators=trees, max_samples=min(size, samples), random_state=seed % 2**31).fit(
        training
    )
    asked = np.concatenate([training.astype(np.float64), random.standard_cauchy((50, columns)) * spread])
    expected = -forest.score_samples(asked.astype(np.float32))
    np.testing.assert_allclose(isolation_score(export_forest(forest), asked), expected, rtol=0, atol=1e-12)


def test_values_are_compared_as_float32() -> None:
    # as float32, 0.1 is 0.10000000149: past the threshold that the float64 lies under
    assert isolation_score(STUMP, np.array([[0.1, 0, 0]])) == pytest.approx(2.0**-2)
    assert isolation_score(STUMP, np.array([[0.09, 0, 0]])) == pytest.approx(2.0**-1)


def test_a_stored_model_scores_the_same_and_knows_what_it_was_trained_on(model: Model) -> None:
    loaded = load_model(dump_model(model))
    vectors = np.random.default_rng(1).normal(size=(500, len(FEATURES))) * 3
    np.testing.assert_array_equal(anomaly_score(loaded.forest, vectors), anomaly_score(model.forest, vectors))
    assert (loaded.trained_until - loaded.trained_from, loaded.model_version) == (
        timedelta(days=120),
        model.model_version,
    )
    assert predict(loaded, RUNS[100:110], RUNS[110:120]) == predict(model, RUNS[100:110], RUNS[110:120])


def test_training_again_gives_the_same_model(model: Model) -> None:
    assert train(reversed(RUNS), trained_until=UNTIL, seed=7).model_version == model.model_version


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("FEATURES", ("records", "drift", "run_time"), "was trained on"), ("SCHEMA_VERSION", 99, "has schema 99")],
)
def test_a_model_of_another_shape_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch, name: str, value: object, says: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(models, name, value)
        stored = dump_model(model)
    with pytest.raises(ModelRefusedError, match=says):
        load_model(stored)


def test_a_file_that_is_no_model_is_refused(model: Model) -> None:
    stored = dump_model(model)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    for broken in (b"", b"no model", stored[:-100], stored[:2000], pickled.getvalue()):
        with pytest.raises(ModelRefusedError):
            load_model(broken)


@pytest.mark.parametrize(
    "broken",
    [
        {"left": np.array([0, 1, 2], dtype=np.int32)[::-1]},
        {"threshold": np.full(3, np.nan)},
        {"feature": np.array([0, 0, 9], dtype=np.int32)},
        {"right": np.array([9, 1, 2], dtype=np.int32)},
    ],
)
def test_trees_that_lead_nowhere_are_refused(model: Model, broken: dict[str, np.ndarray]) -> None:
    load_model(dump_model(replace(model, forest=STUMP)))
    with pytest.raises(ModelRefusedError, match="lead out of"):
        load_model(dump_model(replace(model, forest=replace(STUMP, **broken))))  # type: ignore[arg-type]


def test_the_score_goes_on_growing_where_the_forest_saturates(model: Model) -> None:
    far = np.array([[-20.0, 0, 0], [-200.0, 0, 0]])
    inside = isolation_score(model.forest, far)
    assert inside[0] == inside[1]
    scores = anomaly_score(model.forest, far)
    assert scores[1] == pytest.approx(10 * scores[0])


def test_the_cutoff_continues_the_tail_and_faults_move_it_little() -> None:
    scores = np.random.default_rng(3).exponential(2.0, 200_000)
    cutoff = score_cutoff(scores, 1 / 400)
    assert cutoff == pytest.approx(2.0 * np.log(400), rel=0.02)
    scores[::50] = 1000
    assert score_cutoff(scores, 1 / 400) == pytest.approx(cutoff, rel=0.15)


def test_more_tickets_a_week_mean_a_lower_cutoff_but_few_jobs_do_not() -> None:
    few, more, most = (
        train(RUNS, trained_until=UNTIL, seed=7, false_tickets_per_week=budget).score_cutoff
        for budget in (0.05, 0.25, 50)
    )
    assert few > more == pytest.approx(most)


def test_the_verdict_names_the_feature_how_far_it_is_off_and_what_is_usual(model: Model) -> None:
    recent, run = RUNS[100:110], replace(RUNS[110], records_processed=0)
    (prediction,) = predict(model, recent, [run])
    assert prediction.is_anomalous
    assert not prediction.is_learning
    assert prediction.feature == "records"
    assert prediction.deviations is not None
    assert prediction.deviations < -20
    assert prediction.usual_records == pytest.approx(RUNS[103].records_processed, rel=0.25)
    slow = replace(RUNS[110], run_time_seconds=RUNS[110].run_time_seconds * 5)
    (prediction,) = predict(model, recent, [slow])
    assert (prediction.is_anomalous, prediction.feature) == (True, "run_time")
    assert prediction.usual_seconds == pytest.approx(RUNS[110].run_time_seconds, rel=0.4)
    (prediction,) = predict(model, recent, [RUNS[110]])
    assert not prediction.is_anomalous


def test_a_new_jobs_first_eight_runs_are_learning_and_only_an_empty_load_is_ticketed(model: Model) -> None:
    runs = history("brand_new", count=8, seed=5)
    predictions = predict(model, [], runs)
    assert all(prediction.is_learning for prediction in predictions)
    assert [prediction.anomaly_score is None for prediction in predictions] == [True] * 3 + [False] * 5
    assert {(prediction.feature, prediction.usual_records) for prediction in predictions[:3]} == {("", None)}
    assert not any(prediction.is_anomalous for prediction in predictions)
    for k in range(8):
        (prediction,) = predict(model, runs[:k], [replace(runs[k], records_processed=0)])
        assert prediction.is_anomalous == (k >= MIN_FALLBACK_RUNS)


def test_predicting_a_week_at_once_gives_what_predicting_run_by_run_gives(model: Model) -> None:
    for runs in (RUNS[90:120], history("brand_new", count=12)):
        together = predict(model, runs[:10], runs[10:])
        assert together == [predict(model, runs[:k], [runs[k]])[0] for k in range(10, len(runs))]


def test_a_run_is_judged_by_what_started_before_it_whatever_else_is_known(model: Model) -> None:
    for runs in (RUNS[100:120], history("brand_new", count=12)):
        (alone,) = predict(model, runs[:10], [runs[10]])
        assert predict(model, [*reversed(runs[11:]), *runs[:10]], [runs[10]]) == [alone]


def test_the_last_runs_before_the_training_need_not_be_passed(model: Model) -> None:
    stored = load_model(dump_model(model))
    for run in RUNS[110:117]:
        assert predict(stored, [], [run]) == predict(model, RUNS[60:110], [run])
    # eight weekly runs are none of the last days
    weekly = history("weekly", count=12, every=timedelta(days=7), weekend=1.0)
    for count in (9, 5):
        until = weekly[count].started_at - timedelta(hours=1)
        knowing = load_model(dump_model(train([*RUNS, *weekly], trained_until=until, seed=7)))
        (alone,), (whole,) = (predict(knowing, earlier, [weekly[count]]) for earlier in ([], weekly[:count]))
        assert alone == whole
        assert alone.is_learning == (count < MIN_RUNS)
        assert alone.anomaly_score is not None
        (empty,) = predict(knowing, [], [replace(weekly[count], records_processed=0)])
        assert empty.is_anomalous


def test_a_recent_run_replaces_that_of_the_tail_at_the_same_start(model: Model) -> None:
    corrected = [replace(run, records_processed=run.records_processed // 2) for run in RUNS[103:110]]
    usual, drifted = (predict(model, recent, [RUNS[110]])[0] for recent in (RUNS[103:110], corrected))
    assert usual == predict(model, [], [RUNS[110]])[0]
    assert drifted.anomaly_score != usual.anomaly_score
    failed = [replace(run, status=Status.FAILED) for run in RUNS[103:110]]
    assert predict(model, failed, [RUNS[110]])[0].anomaly_score != usual.anomaly_score


def test_a_model_knows_of_each_job_its_last_runs_its_schedule_and_when_it_last_started() -> None:
    named = [replace(run, time_zone="Europe/Berlin", schedule="0 3 * * *") for run in history("named", count=60)]
    named[0] = replace(named[0], schedule="0 4 * * *")
    failed = [replace(run, status=Status.FAILED) for run in history("broken", count=60)]
    until = named[-1].started_at + timedelta(hours=1)
    named[-1] = replace(named[-1], status=Status.FAILED)
    jobs = load_model(
        dump_model(train([*named, *failed, *history("plain", count=5)], trained_until=until, seed=1))
    ).jobs
    known = jobs.get("named")
    assert known is not None
    assert (known.schedule, known.time_zone, known.last_started_at) == (
        "0 3 * * *",
        "Europe/Berlin",
        named[-1].started_at,
    )
    assert [(run.started_at, run.records_processed) for run in known.tail] == [
        (run.started_at, run.records_processed) for run in named[-9:-1]
    ]
    assert [run.run_time_seconds for run in known.tail] == [run.run_time_seconds for run in named[-9:-1]]
    assert known.cadence.tolist() == [86_400.0] * 7
    assert (jobs.names, jobs.learned) == (["broken", "named", "plain"], {"named"})
    assert jobs.started_since(named[-1].started_at) == {"broken", "named"}
    broken, plain = jobs.get("broken"), jobs.get("plain")
    assert broken is not None
    assert plain is not None
    assert (broken.baseline, broken.tail, len(plain.tail)) == (None, (), 5)
    assert jobs.get("unknown") is None


def test_a_model_can_be_loaded_for_some_of_its_jobs(model: Model) -> None:
    stored = dump_model(replace(model, jobs=KnownJobs(models.arrays_of([*known_jobs(model), *learning()]))))
    whole, some = load_model(stored), load_model(stored, lambda name: name in {"load_03", "load_07", "slow"})
    assert some.jobs.names == ["load_03", "load_07", "slow"]
    for name in some.jobs.names:
        one, other = whole.jobs.get(name), some.jobs.get(name)
        assert one is not None
        assert other is not None
        assert (one.tail, one.last_started_at) == (other.tail, other.last_started_at)
        if one.baseline is not None:
            assert other.baseline is not None
            np.testing.assert_array_equal(one.baseline.levels, other.baseline.levels)
    of_one = [run for run in RUNS if run.job_name == "load_03"]
    assert predict(some, [], of_one[110:]) == predict(model, [], of_one[110:])
    assert load_model(stored, lambda name: False).jobs.names == []


@pytest.mark.parametrize(
    ("name", "broken", "says"),
    [
        ("tail_ends", lambda ends: ends + 1, "do not fit together"),
        ("tail_ends", lambda ends: ends[::-1], "do not fit together"),
        ("season", lambda season: season[:, :-1], "do not fit together"),
        ("schedules", lambda schedules: schedules[1:], "do not fit together"),
        ("job_names", lambda names: np.repeat(names[:1], len(names)), "do not fit together"),
        ("tail_day", lambda days: days[1:], "do not fit together"),
        ("levels", lambda levels: levels * np.nan, "not finite"),
        ("records_scale", lambda scale: scale * 0, "not finite"),
    ],
)
def test_jobs_whose_arrays_do_not_fit_are_refused(
    model: Model, name: str, broken: Callable[[np.ndarray], np.ndarray], says: str
) -> None:
    arrays = model.jobs.arrays
    KnownJobs(arrays)
    with pytest.raises(ModelRefusedError, match=says):
        KnownJobs({**arrays, name: broken(arrays[name])})
    stored = io.BytesIO()
    np.savez(stored, **{**np.load(io.BytesIO(dump_model(model))), name: broken(arrays[name])})
    with pytest.raises(ModelRefusedError, match=says):
        load_model(stored.getvalue())
    if name not in {"job_names", "season"}:
        with pytest.raises(ModelRefusedError):
            load_model(stored.getvalue(), lambda job_name: True)


def test_the_file_stays_small_for_many_jobs(model: Model) -> None:
    known = model.jobs.get("load_00")
    assert known is not None
    many = KnownJobs(models.arrays_of(replace(known, job_name=f"a_rather_long_job_name_{k:04d}") for k in range(500)))
    assert len(dump_model(replace(model, jobs=many))) - len(dump_model(model)) < 500 * 1000


def test_failed_runs_and_mixed_jobs_are_not_judged(model: Model) -> None:
    assert predict(model, RUNS[:5], []) == []
    for other in (*(replace(RUNS[6], status=status) for status in (Status.FAILED, Status.RUNNING)), RUNS[-1]):
        with pytest.raises(ValueError, match="one job"):
            predict(model, RUNS[:5], [other])


def test_training_without_history_is_refused() -> None:
    with pytest.raises(TooLittleHistoryError, match=r"8 succeeded runs.*there are 1 jobs, and none has more than 7"):
        train(history(count=7), trained_until=UNTIL, seed=1)
    with pytest.raises(TooLittleHistoryError, match="there are 0 jobs"):
        train([], trained_until=UNTIL, seed=1)
    assert train(history(count=8), trained_until=UNTIL, seed=1).score_cutoff > 0


def test_the_window_is_what_it_is_told() -> None:
    short = train(RUNS, trained_until=UNTIL, window=timedelta(days=20), seed=1)
    assert (short.trained_from, short.vector_count) == (UNTIL - timedelta(days=20), 12 * 20)


def test_serving_imports_neither_scikit_learn_nor_scipy() -> None:
    code = "import sys, overcut.etl_jobs.predictions; assert not {'sklearn', 'scipy', 'joblib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_that_are_all_the_same_give_a_cutoff_that_a_small_change_does_not_cross() -> None:
    same = [replace(run, records_processed=1_000, run_time_seconds=60.0) for run in history(count=60, weekend=1.0)]
    model = train(same, trained_until=START + timedelta(days=59), seed=1)
    assert model.score_cutoff == LOWEST_CUTOFF
    (usual,) = predict(model, [], [replace(same[-1], records_processed=1_020)])
    (empty,) = predict(model, [], [replace(same[-1], records_processed=0)])
    assert (usual.is_anomalous, empty.is_anomalous) == (False, True)
