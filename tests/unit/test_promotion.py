"""A new model is promoted or held, and the reason says why."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from overcut.etl_jobs.model import KnownJobs, Model, arrays_of
from overcut.etl_jobs.promotion import decide
from overcut.etl_jobs.training import train
from tests.unit.generated_job_runs import START, fleet, history

UNTIL = START + timedelta(days=110)


@pytest.fixture(scope="module")
def model() -> Model:
    return train([*fleet(10), *history("new", count=5)], trained_until=UNTIL, seed=1)


def knowing(model: Model, count: int, *, last_started_at: datetime | None = None) -> Model:
    """The model, of which only so many of the jobs are left; the others of it were last seen at that time."""
    jobs = [job for name in model.jobs.names if (job := model.jobs.get(name))]
    kept = jobs[:count]
    if last_started_at is not None:
        kept += [replace(job, last_started_at=last_started_at) for job in jobs[count:]]
    return replace(model, jobs=KnownJobs(arrays_of(kept)))


def test_the_first_model_needs_a_job_that_learned(model: Model) -> None:
    decision = decide(model, None, judged=0, anomalous=0)
    assert (decision.promoted, decision.reason) == (True, "the first model; it knows 10 jobs")
    # the eleventh, by name the last, is learning
    only_new = KnownJobs(arrays_of(job for job in [model.jobs.get("new")] if job))
    decision = decide(replace(model, jobs=only_new), None, judged=0, anomalous=0)
    assert (decision.promoted, decision.reason) == (False, "no job has enough runs to learn from yet")


def test_a_model_like_the_one_before_it_is_promoted_and_the_reason_says_what_was_seen(model: Model) -> None:
    decision = decide(model, model, judged=70, anomalous=2)
    assert decision.promoted
    assert "10 of the 10 running jobs" in decision.reason
    assert "2 of the last week's 70 runs" in decision.reason


@pytest.mark.parametrize(("count", "promoted"), [(10, True), (8, True), (7, False), (0, False)])
def test_a_model_that_knows_far_fewer_running_jobs_is_held(model: Model, count: int, promoted: bool) -> None:
    decision = decide(knowing(model, count), model, judged=70, anomalous=0)
    assert decision.promoted == promoted
    assert f"{count} of the 10 running jobs" in decision.reason


@pytest.mark.parametrize(("days", "promoted"), [(34, False), (36, True)])
def test_a_job_that_ended_weeks_ago_is_not_missing(model: Model, days: int, promoted: bool) -> None:
    previous = knowing(model, 3, last_started_at=UNTIL - timedelta(days=days))
    assert decide(knowing(model, 3), previous, judged=70, anomalous=0).promoted == promoted


@pytest.mark.parametrize(
    ("factor", "promoted"), [(1.0, True), (1.99, True), (2.01, False), (0.51, True), (0.49, False)]
)
def test_a_cutoff_far_from_the_one_before_is_held(model: Model, factor: float, promoted: bool) -> None:
    decision = decide(replace(model, score_cutoff=model.score_cutoff * factor), model, judged=70, anomalous=0)
    assert decision.promoted == promoted
    assert ("factor of 2 apart" in decision.reason) != promoted


@pytest.mark.parametrize(("anomalous", "promoted"), [(0, True), (20, True), (21, False), (60, False)])
def test_a_model_that_calls_much_of_the_last_week_unusual_is_held(model: Model, anomalous: int, promoted: bool) -> None:
    decision = decide(model, model, judged=60, anomalous=anomalous)
    assert decision.promoted == promoted
    assert f"{anomalous} of the last week's 60 runs unusual" in decision.reason


def test_a_week_without_runs_and_a_model_before_it_that_knew_nobody_hold_nothing(model: Model) -> None:
    assert decide(model, model, judged=0, anomalous=0).promoted
    assert decide(model, knowing(model, 0), judged=70, anomalous=0).promoted


@pytest.mark.parametrize(("days", "promoted"), [(7, False), (8, True)])
def test_what_differs_for_a_week_is_how_things_are_now(model: Model, days: int, promoted: bool) -> None:
    previous = replace(model, score_cutoff=model.score_cutoff * 5, trained_until=UNTIL - timedelta(days=days))
    assert decide(model, previous, judged=70, anomalous=0).promoted == promoted
    assert not decide(model, previous, judged=70, anomalous=60).promoted
