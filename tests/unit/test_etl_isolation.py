import io
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest

from overcut.etl_jobs import isolation
from overcut.etl_jobs.features import FEATURES, MIN_FALLBACK_RUNS
from overcut.etl_jobs.isolation import (
    Model,
    ModelRefusedError,
    TooLittleHistoryError,
    anomaly_score,
    dump_model,
    export_forest,
    isolation_score,
    load_model,
    predict,
    score_cutoff,
    train,
)
from overcut.etl_jobs.job_runs import Status
from tests.unit.generated_job_runs import START, fleet, history

RUNS = fleet()
UNTIL = START + timedelta(days=110)


STUMP = isolation.Forest(
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
    np.testing.assert_array_equal(anomaly_score(loaded, vectors), anomaly_score(model, vectors))
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
        patched.setattr(isolation, name, value)
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
    scores = anomaly_score(model, far)
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
    assert (prediction.feature, prediction.value) == ("records", 0)
    assert prediction.deviations < -20
    assert prediction.usual == pytest.approx(RUNS[103].records_processed, rel=0.25)
    slow = replace(RUNS[110], run_time_seconds=RUNS[110].run_time_seconds * 5)
    (prediction,) = predict(model, recent, [slow])
    assert (prediction.is_anomalous, prediction.feature) == (True, "run_time")
    assert prediction.usual == pytest.approx(RUNS[110].run_time_seconds, rel=0.4)
    (prediction,) = predict(model, recent, [RUNS[110]])
    assert not prediction.is_anomalous


def test_a_new_jobs_first_eight_runs_are_learning_and_only_an_empty_load_is_ticketed(model: Model) -> None:
    runs = history("brand_new", count=8, seed=5)
    predictions = predict(model, [], runs)
    assert all(prediction.is_learning for prediction in predictions)
    assert not any(prediction.is_anomalous for prediction in predictions)
    for k in range(8):
        (prediction,) = predict(model, runs[:k], [replace(runs[k], records_processed=0)])
        assert prediction.is_anomalous == (k >= MIN_FALLBACK_RUNS)


def test_predicting_a_week_at_once_gives_what_predicting_run_by_run_gives(model: Model) -> None:
    for runs in (RUNS[90:120], history("brand_new", count=12)):
        together = predict(model, runs[:10], runs[10:])
        assert together == [predict(model, runs[:k], [runs[k]])[0] for k in range(10, len(runs))]


def test_failed_runs_and_mixed_jobs_are_not_judged(model: Model) -> None:
    assert predict(model, RUNS[:5], []) == []
    for other in (replace(RUNS[6], status=Status.FAILED), RUNS[-1]):
        with pytest.raises(ValueError, match="one job"):
            predict(model, RUNS[:5], [other])


def test_training_without_history_is_refused() -> None:
    with pytest.raises(TooLittleHistoryError, match="8 runs"):
        train(history(count=7), trained_until=UNTIL, seed=1)
    with pytest.raises(TooLittleHistoryError):
        train([], trained_until=UNTIL, seed=1)
    assert train(history(count=8), trained_until=UNTIL, seed=1).score_cutoff > 0


def test_serving_imports_neither_scikit_learn_nor_scipy() -> None:
    code = "import sys, overcut.etl_jobs.isolation; assert not {'sklearn', 'scipy', 'joblib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
