"""Judging: windows, verdicts, and what made one."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from overcut.sensors.cohorts import CohortModel, SensorSeries, TrainingRules, train_cohort
from overcut.sensors.cutoffs import Cutoff, retired
from overcut.sensors.features import LONGEST_GAP, WINDOW
from overcut.sensors.incidents import STUCK_SENSOR, Episode, RunRule, find_episodes, find_runs
from overcut.sensors.judging import Series, Windows, explain, is_stuck, judge, usual_since
from overcut.sensors.models import Model, Score, score_reading
from overcut.sensors.readings import Reading

BEGINS = 1_770_000_000
TRAINED_AT = datetime.fromtimestamp(BEGINS, UTC)
MINUTE = timedelta(minutes=1)
RULE = RunRule(consecutive_minutes=5, recovery_minutes=30)
UNITS = {"temperature": "C", "humidity": "%"}
MEASURES = ("temperature", "humidity")


def cooling(seed: int, centre: float, readings: int) -> NDArray[np.float64]:
    """A compressor's cycle, rounded to tenths."""
    random = np.random.default_rng(seed)
    wave = np.sin(np.arange(readings) / 40 * 2 * np.pi)
    return np.round(centre + wave + random.normal(0, 0.2, readings), 1)


@cache
def trained(seed: int = 1, cohort: str = "c") -> CohortModel:
    """A sensor of temperature and humidity, learned from two days."""
    values = np.column_stack([cooling(seed, 4.0, 2880), cooling(seed + 1, 50.0, 2880)])
    return train_cohort(
        [SensorSeries("a", BEGINS - 60 * 2880 + 60 * np.arange(2880), values)],
        cohort_id=cohort,
        measures=MEASURES,
        rules=TrainingRules(),
        trained_at=TRAINED_AT,
        seed=seed,
    )


def model_of(cohort: CohortModel) -> Model:
    assert cohort.model
    return cohort.model


def cutoff_of(cohort: CohortModel) -> Cutoff:
    return cohort.cutoffs[0]


def ahead(readings: int = 300) -> dict[str, list[float]]:
    """What it measures from the training on, once a minute."""
    return {"temperature": cooling(7, 4.0, readings).tolist(), "humidity": cooling(8, 50.0, readings).tolist()}


def series_of(values: dict[str, list[float]]) -> Series:
    return Series([BEGINS + 60 * k for k in range(len(values["temperature"]))], values)


def last_windows(values: dict[str, list[float]]) -> Windows:
    return {measure: column[-WINDOW:] for measure, column in values.items()}


# --- a series ---


def test_a_series_of_readings_is_its_columns() -> None:
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)
    readings = [
        Reading("a", noon, {"temperature": 4.0}),
        Reading("a", noon + MINUTE, {"temperature": 4.5, "humidity": 50.0}),
        Reading("a", noon + 3 * MINUTE, {"humidity": 51.0}),
    ]
    found = Series.of(readings)
    # seconds since 1970 of 2026-03-02T12:00Z, by coreutils' date
    assert list(found.times) == [1_772_452_800, 1_772_452_860, 1_772_452_980]
    assert {measure: [str(value) for value in column] for measure, column in found.values.items()} == {
        "temperature": ["4.0", "4.5", "nan"],
        "humidity": ["nan", "50.0", "51.0"],
    }
    assert Series.of([]) == Series([], {})


def test_windows_hold_the_last_values_of_each_measure_that_the_reading_has() -> None:
    nan = float("nan")
    series = Series([0, 60, 120, 180], {"temperature": [1.0, 2.0, nan, 4.0], "humidity": [nan, nan, 7.0, nan]})
    assert list(series.windows(0, MINUTE)) == [
        {"temperature": [1.0]},
        {"temperature": [1.0, 2.0]},
        {"humidity": [7.0]},
        {"temperature": [1.0, 2.0, 4.0]},
    ]
    assert list(series.windows(2, MINUTE)) == [{"humidity": [7.0]}, {"temperature": [1.0, 2.0, 4.0]}]
    assert list(series.windows(4, MINUTE)) == []


def test_a_window_is_no_longer_than_all_features_take() -> None:
    series = Series([60 * k for k in range(100)], {"temperature": [float(k) for k in range(100)]})
    windows = [window["temperature"] for window in series.windows(0, MINUTE)]
    assert [len(window) for window in windows] == [min(k + 1, WINDOW) for k in range(100)]
    assert windows[99] == [float(k) for k in range(100 - WINDOW, 100)]


@pytest.mark.parametrize("interval", [timedelta(seconds=10), MINUTE, timedelta(minutes=5)])
@pytest.mark.parametrize("first", [0, 3, 4, 6])
def test_a_long_gap_begins_a_new_window(interval: timedelta, first: int) -> None:
    seconds = int(interval.total_seconds())
    steps = [1, 1, LONGEST_GAP, LONGEST_GAP + 1, 1, 2]
    times = [seconds * sum(steps[:k]) for k in range(7)]
    series = Series(times, {"temperature": [float(k) for k in range(7)]})
    expected = [[0.0], [0.0, 1.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0], [4.0], [4.0, 5.0], [4.0, 5.0, 6.0]]
    assert [window["temperature"] for window in series.windows(first, interval)] == expected[first:]


@given(
    gaps=st.lists(st.sampled_from([1, 1, 1, 1, 2, LONGEST_GAP, LONGEST_GAP + 1]), max_size=150),
    first=st.integers(0, 150),
)
def test_windows_are_the_same_wherever_one_begins(gaps: list[int], first: int) -> None:
    times = [60 * sum(gaps[:k]) for k in range(len(gaps) + 1)]
    series = Series(times, {"temperature": [float(k) for k in range(len(times))]})
    first = min(first, len(times))
    whole = list(series.windows(0, MINUTE))
    assert list(series.windows(first, MINUTE)) == whole[first:]
    for k, window in enumerate(whole):
        held = window["temperature"]
        assert held == [float(number) for number in range(k - len(held) + 1, k + 1)]


# --- verdicts ---


def test_before_any_cutoff_the_sensor_is_learning() -> None:
    model = model_of(trained())
    for cutoffs in ([], [cutoff_of(trained())]):
        # the cutoff is in force from a quarter of an hour after the training on
        judged = judge(series_of(ahead(100)), 0, cutoffs, lambda _: model, RULE)
        assert [one.measured_at for one in judged] == [TRAINED_AT + k * MINUTE for k in range(100)]
        assert [one.is_anomaly for one in judged[:15]] == [None] * 15
        assert not any(one.is_stuck for one in judged)
        assert (judged[60].is_anomaly is None) == (not cutoffs)


def test_a_reading_is_judged_by_cutoff_and_model_that_were_in_force_then() -> None:
    old, new = trained(1), trained(31)
    later = TRAINED_AT + 100 * MINUTE
    deaf = replace(cutoff_of(new), trained_at=later, effective_from=later + 15 * MINUTE, score_cutoff=1e9)
    silent = retired(deaf, later + 60 * MINUTE, later + 75 * MINUTE)
    values = ahead(250)
    values["temperature"] = [value + 6 * (k >= 90) for k, value in enumerate(values["temperature"])]
    asked: list[str] = []

    def models(cutoff: Cutoff) -> Model:
        asked.append(cutoff.model_version)
        return model_of(old if cutoff.model_version == cutoff_of(old).model_version else new)

    both = [silent, cutoff_of(old), deaf]
    judged = judge(series_of(values), 0, both, models, RULE)
    assert asked == [cutoff_of(old).model_version] * 100 + [deaf.model_version] * 60
    assert [one.is_anomaly for one in judged[:15]] == [None] * 15
    assert [one.is_anomaly for one in judged[90:115]] == [True] * 25
    assert [one.is_anomaly for one in judged[115:175]] == [False] * 60
    assert [one.is_anomaly for one in judged[175:]] == [None] * 75
    assert judge(series_of(values), 0, both[::-1], models, RULE) == judged
    # one after another, from the readings in sight, it is the same
    one_by_one = [judge(series_of(values), k, both, models, RULE)[0] for k in (14, 15, 90, 115, 175, 249)]
    assert one_by_one == [judged[k] for k in (14, 15, 90, 115, 175, 249)]


@given(st.integers(0, 250), st.integers(0, 100))
@settings(max_examples=10)
def test_a_verdict_needs_a_window_of_readings_and_no_more(first: int, more: int) -> None:
    model, cutoffs = model_of(trained()), [cutoff_of(trained())]
    values = ahead(260)
    values["temperature"][200:] = [value - 5 for value in values["temperature"][200:]]
    whole = judge(series_of(values), 0, cutoffs, lambda _: model, RULE)
    begin = max(0, first - WINDOW + 1 - more)
    whole_series = series_of(values)
    part = Series(whole_series.times[begin:], {m: column[begin:] for m, column in values.items()})
    assert judge(part, first - begin, cutoffs, lambda _: model, RULE) == whole[first:]


def test_an_anomaly_is_above_the_cutoff_and_matters() -> None:
    model, cutoff = model_of(trained()), cutoff_of(trained())
    values = ahead(100)
    values["temperature"][90:] = [30.0] * 10
    kept: list[Score | None] = []
    (last,) = judge(series_of(values), 99, [cutoff], lambda _: model, RULE, kept.append)
    assert last.is_anomaly is True
    (score,) = kept
    assert score == score_reading(model, cutoff, last_windows(values))
    assert score
    # not above it, when it is the very same
    for other, expected in (
        (replace(cutoff, score_cutoff=score.anomaly_score), False),
        (replace(cutoff, score_cutoff=np.nextafter(score.anomaly_score, 0)), True),
        (replace(cutoff, ranges=tuple(replace(usual, min_deviation=100.0) for usual in cutoff.ranges)), False),
    ):
        (found,) = judge(series_of(values), 99, [other], lambda _: model, RULE)
        assert found.is_anomaly is expected


def test_a_reading_without_a_learned_measure_has_no_verdict() -> None:
    model = model_of(trained())
    values = ahead(100)
    values["humidity"][80] = float("nan")
    judged = judge(series_of(values), 0, [cutoff_of(trained())], lambda _: model, RULE)
    assert judged[80].is_anomaly is None
    assert judged[79].is_anomaly is False
    assert judged[81].is_anomaly is False


# --- stuck ---


@pytest.mark.parametrize(("equal", "stuck"), [(15, False), (16, True), (17, True), (40, True)])
def test_stuck_after_so_many_less_than_a_run(equal: int, stuck: bool) -> None:
    # with 20 the fifth reading of a run, which are five, is the twentieth that is equal
    cutoff = replace(cutoff_of(trained()), stuck_after=20)
    windows = {"temperature": [4.0, *[4.1] * equal], "humidity": [50.0, 50.1]}
    assert is_stuck(windows, cutoff, RULE) is stuck
    assert not is_stuck(windows, replace(cutoff, stuck_after=0), RULE)


def test_only_a_measure_that_was_learned_is_stuck() -> None:
    cutoff = replace(cutoff_of(trained()), stuck_after=20)
    battery = {"temperature": [4.0, 4.1], "humidity": [50.0, 50.1], "battery": [100.0] * 60}
    assert not is_stuck(battery, cutoff, RULE)
    assert is_stuck({"humidity": [50.0] * 20}, cutoff, RULE)


# --- what made a verdict ---


def explained(values: dict[str, list[float]], kind: str = "equipment") -> tuple[str, str]:
    cause = explain(last_windows(values), cutoff_of(trained()), model_of(trained()), UNITS, kind)
    assert cause
    return cause.measure, cause.feature


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("height", [8.0, -8.0])
def test_a_step_is_explained_by_its_jump(measure: str, height: float) -> None:
    values = ahead(200)
    values[measure][195:] = [value + height for value in values[measure][195:]]
    assert explained(values) == (measure, "jump")


@pytest.mark.parametrize("measure", MEASURES)
def test_a_slow_drift_is_explained_by_its_level(measure: str) -> None:
    values = ahead(400)
    values[measure] = [value + 0.01 * max(0, k - 100) for k, value in enumerate(values[measure])]
    assert explained(values) == (measure, "level")


@pytest.mark.parametrize("measure", MEASURES)
def test_noise_is_explained_by_its_volatility(measure: str) -> None:
    values = ahead(200)
    noise = np.random.default_rng(5).normal(0, 1.0, 199)
    values[measure][:199] = [round(value + more, 1) for value, more in zip(values[measure], noise, strict=False)]
    values[measure][199] = {"temperature": 4.0, "humidity": 50.0}[measure]
    assert explained(values) == (measure, "volatility")
    cause = explain(last_windows(values), cutoff_of(trained()), model_of(trained()), UNITS)
    assert cause
    # the mean step, which is usually from none to as much as the cutoff's range tells
    usual = next(one for one in cutoff_of(trained()).ranges if one.measure == measure).features["volatility"]
    assert (cause.usual_low, cause.usual_high) == (0.0, usual.centre + usual.up)
    assert cause.value > cause.usual_high
    steps = sorted(abs(np.diff(values[measure][-WINDOW:])).tolist())
    assert cause.value == pytest.approx(np.mean(steps[:48]))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_stuck_sensor_is_explained_by_the_measure_that_is(measure: str) -> None:
    values = ahead(200) | {"battery": [100.0] * 200}
    values[measure][150:] = [values[measure][150]] * 50
    assert explained(values, STUCK_SENSOR) == (measure, "value")
    cause = explain(last_windows(values), cutoff_of(trained()), model_of(trained()), UNITS, STUCK_SENSOR)
    assert cause
    usual = next(one for one in cutoff_of(trained()).ranges if one.measure == measure)
    assert (cause.value, cause.usual_low, cause.usual_high) == (values[measure][150], usual.low, usual.high)


def test_an_explanation_tells_what_the_reading_was_judged_by() -> None:
    values = ahead(200)
    values["temperature"][195:] = [14.0] * 5
    cutoff = cutoff_of(trained())
    cause = explain(last_windows(values), cutoff, model_of(trained()), {"temperature": "C"})
    assert cause
    assert (cause.measure, cause.unit, cause.value) == ("temperature", "C", 14.0)
    assert (cause.usual_low, cause.usual_high) == (cutoff.ranges[0].low, cutoff.ranges[0].high)
    assert 2 < cause.usual_low < cause.usual_high < 6
    assert (cause.score_cutoff, cause.model_version) == (cutoff.score_cutoff, cutoff.model_version)
    assert cause.trained_at == "2026-02-02T02:40:00Z"
    assert cause.anomaly_score > cause.score_cutoff
    assert cause.inputs == {measure: values[measure][-WINDOW:] for measure in MEASURES}


def test_what_cannot_be_scored_is_not_explained() -> None:
    cutoff, model = cutoff_of(trained()), model_of(trained())
    assert explain({"temperature": [4.0] * 61}, cutoff, model, UNITS) is None
    assert explain({"temperature": [4.0] * 61}, cutoff, model, UNITS, STUCK_SENSOR) is None
    assert explain({"temperature": [4.0] * 3, "humidity": [50.0] * 3}, cutoff, model, UNITS) is None


@given(
    st.lists(st.floats(-50, 50), min_size=WINDOW, max_size=WINDOW), st.integers(1, WINDOW), st.sampled_from(["", "s"])
)
@settings(max_examples=50)
def test_from_its_inputs_the_very_same_score_is_made_again(noise: Sequence[float], length: int, kind: str) -> None:
    cutoff, model = cutoff_of(trained()), model_of(trained())
    windows = {"temperature": [4 + each for each in noise][-length:], "humidity": [50 - each for each in noise]}
    cause = explain(windows, cutoff, model, UNITS, STUCK_SENSOR if kind else "equipment")
    assert cause
    again = score_reading(model, cutoff, cause.inputs)
    assert again
    assert again.anomaly_score == cause.anomaly_score
    once_more = explain(cause.inputs, cutoff, model, UNITS, STUCK_SENSOR if kind else "equipment")
    assert once_more == cause


# --- since when values are usual again ---


def _incident(values: Sequence[float]) -> tuple[list[Reading], Episode]:
    """Readings of a temperature, and the one incident that is judged from them."""
    cohort = trained()
    columns = {**ahead(len(values)), "temperature": list(values)}
    judged = judge(series_of(columns), 0, [cutoff_of(cohort)], lambda _: model_of(cohort), RULE)
    (episode,) = find_episodes(find_runs(judged, MINUTE, RULE), judged, RULE)
    rows = zip(judged, columns["temperature"], columns["humidity"], strict=True)
    return [
        Reading("a", one.measured_at, {"temperature": temperature, "humidity": humidity})
        for one, temperature, humidity in rows
    ], episode


def test_values_are_usual_again_when_they_are_and_not_when_the_verdicts_are() -> None:
    values = ahead()["temperature"]
    values[120:145] = [18.0] * 25
    readings, episode = _incident(values)
    first, back = TRAINED_AT + 120 * MINUTE, TRAINED_AT + 145 * MINUTE
    assert episode.first_anomalous_at == first
    assert episode.last_anomalous_at > back + 20 * MINUTE
    assert usual_since(readings, cutoff_of(trained()), episode.last_anomalous_at, RULE) == back
    # a reading that is a little out now and then, as one in fifty is, does not move that
    readings[150] = Reading("a", readings[150].measured_at, {"temperature": 8.0, "humidity": 50.0})
    assert usual_since(readings, cutoff_of(trained()), episode.last_anomalous_at, RULE) == back


def test_where_no_value_was_out_of_its_range_the_verdicts_tell() -> None:
    cutoff = cutoff_of(trained())
    (temperature, _) = cutoff.ranges
    values = ahead()["temperature"]
    values[120:200] = [temperature.high] * 80
    readings, episode = _incident(values)
    last = episode.last_anomalous_at
    assert usual_since(readings, cutoff, last, RULE) == last + MINUTE
