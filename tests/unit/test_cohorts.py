"""Cohorts, cutoffs and the forest: what is learned from readings, and what is judged by it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import fmean, median, pstdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from krcf import RandomCutForest
from numpy.typing import NDArray

from overcut.sensors.cohorts import (
    MIN_READINGS,
    CohortModel,
    SensorSeries,
    TrainingRules,
    cohort_id,
    sustained,
    train_cohort,
)
from overcut.sensors.cutoffs import (
    CACHE_FOR,
    PROMOTION_DELAY,
    Cutoff,
    Usual,
    UsualRange,
    in_force,
    model_key,
    retired,
)
from overcut.sensors.features import WINDOW, Detector, features_of, repeats
from overcut.sensors.forest import ForestParameters, dump_forest, forest_score, load_forest, train_forest
from overcut.sensors.incidents import STUCK_SENSOR, ChangeKind, JudgedReading, RunRule, decide, find_runs
from overcut.sensors.judging import Series, judge
from overcut.sensors.models import Score, score_reading
from overcut.sensors.readings import LARGEST_VALUE, SMALLEST_VALUE
from tests.conftest import recorded_data
from workbench.readings_files import read_readings

TRAINED_AT = datetime(2026, 3, 2, 2, 30, tzinfo=UTC)
BEGINS = 1_770_000_000
DAY = 1440
RULE = RunRule(consecutive_minutes=5, recovery_minutes=30)
PRODUCTION = ForestParameters(num_trees=30, num_samples_per_tree=128)
LABORATORY = TrainingRules(forest=PRODUCTION, detector="laboratory")
CHANNELS = TrainingRules(forest=PRODUCTION)

Column = NDArray[np.float64]


def series(
    values: object, sensor_id: str = "a", interval: int = 60, min_deviation: float | None = None
) -> SensorSeries:
    table = np.asarray(values, dtype=float)
    table = table.reshape(len(table), -1)
    times = BEGINS + interval * np.arange(len(table))
    return SensorSeries(
        sensor_id, times, table, min_deviation={} if min_deviation is None else {"temperature": min_deviation}
    )


def train(
    *of: SensorSeries, rules: TrainingRules = CHANNELS, measures: tuple[str, ...] = ("temperature",), seed: int = 7
) -> CohortModel:
    return train_cohort(of, cohort_id="kind-fridge", measures=measures, rules=rules, trained_at=TRAINED_AT, seed=seed)


def scored(trained: CohortModel, window: list[float], sensor: int = 0) -> Score:
    assert trained.model
    score = score_reading(trained.model, trained.cutoffs[sensor], {"temperature": window})
    assert score
    assert np.isfinite(score.anomaly_score)
    return score


def fires(trained: CohortModel, before: Column, value: float, sensor: int = 0) -> bool:
    """Whether a reading of `value` is an anomaly after the last of `before`."""
    score = scored(trained, [*before[1 - WINDOW :].tolist(), value], sensor)
    return score.anomaly_score > trained.cutoffs[sensor].score_cutoff and score.is_material


def verdicts(trained: CohortModel, values: Column, sensor: int = 0) -> list[JudgedReading]:
    """Verdicts on readings that come once a minute while the sensor's cutoff is in force."""
    cutoff = trained.cutoffs[sensor]
    first = int(cutoff.effective_from.timestamp())
    times = [first + 60 * k for k in range(len(values))]

    assert trained.model
    model = trained.model
    return judge(Series(times, {"temperature": values.tolist()}), 0, [cutoff], lambda _: model, RULE)


def cooling(seed: int = 1, centre: float = 4.0, readings: int = 2 * DAY) -> Column:
    """A compressor's cycle, rounded to tenths."""
    random = np.random.default_rng(seed)
    wave = np.sin(np.arange(readings) / 40 * 2 * np.pi)
    return np.round(centre + wave + random.normal(0, 0.2, readings), 1)


# --- a sensor at rest ---


@pytest.mark.parametrize("detector", ["channels", "laboratory"])
@pytest.mark.parametrize(
    ("value", "step"),
    [
        (21.0, 1.0),
        (0.0, 1.0),
        (-18.5, 0.5),
        (21.25, 0.25),
        (21.3, 0.1),
        (-0.7, 0.1),
        (21.35, 0.05),
        (4.01, 0.01),
        (4.001, 0.001),
    ],
)
def test_at_rest_the_first_rounding_step_is_no_anomaly_and_a_jump_is(
    value: float, step: float, detector: Detector
) -> None:
    resting = np.full(DAY, value)
    trained = train(series(resting), rules=TrainingRules(detector=detector))
    # the laboratory knows nothing of what matters: to it, whatever a sensor at rest never showed is an anomaly
    steps = (0,) if detector == "laboratory" else (0, 1, -1)
    assert not any(fires(trained, resting, value + k * step) for k in steps)
    assert all(fires(trained, resting, value + k * step) for k in (10, -10, 1000, -1000))


def test_at_rest_a_sensor_has_the_step_of_its_cohort() -> None:
    resting = np.full(DAY, 21.0)
    trained = train(series(resting), series(cooling(), "b"), series(cooling(2), "c"))
    assert trained.cutoffs[0].ranges[0].min_deviation == pytest.approx(trained.cutoffs[1].ranges[0].min_deviation)
    assert not any(fires(trained, resting, 21.0 + k * 0.1) for k in (0, 1, -1))
    assert fires(trained, resting, 23.0)
    assert train(series(resting)).cutoffs[0].ranges[0].min_deviation > 5 * trained.cutoffs[0].ranges[0].min_deviation


def test_at_rest_the_cutoff_reaches_the_budget_as_well() -> None:
    budget = TrainingRules(false_alarm_budget=0.1)
    cutoff = train(series(np.full(DAY, 21.0)), series(cooling(), "b"), rules=budget).cutoffs[0]
    assert cutoff.score_cutoff >= np.log10(1 / 0.1)
    assert cutoff.score_cutoff == pytest.approx(cutoff.score_mean + cutoff.z_factor * cutoff.score_sd)


@pytest.mark.parametrize("rules", [CHANNELS, LABORATORY])
def test_nearly_at_rest(rules: TrainingRules) -> None:
    values = np.full(DAY, 21.3)
    values[::100] = 21.4
    trained = train(series(values), rules=rules)
    assert not any(fires(trained, values, value) for value in ((21.3,) if rules is LABORATORY else (21.3, 21.4, 21.2)))
    assert fires(trained, values, 22.3)


@pytest.mark.parametrize("rules", [CHANNELS, LABORATORY])
def test_one_odd_reading_does_not_make_a_sensor_at_rest_deaf(rules: TrainingRules) -> None:
    values = np.full(DAY, 21.3)
    values[700] = 85.0  # what a common thermometer says after its power came back
    trained = train(series(values), rules=rules)
    assert not any(fires(trained, values, value) for value in ((21.3,) if rules is LABORATORY else (21.3, 21.4, 21.2)))
    assert fires(trained, values, 24.3)
    assert fires(trained, values, 85.0)


@pytest.mark.parametrize("rules", [CHANNELS, LABORATORY])
def test_one_bad_hour_does_not_make_a_sensor_deaf(rules: TrainingRules) -> None:
    values = cooling(readings=5 * DAY)
    values[3_030:3_090] = 60.0
    assert fires(train(series(values), rules=rules), values, 60.0)


# --- what is learned: the laboratory's rule ---


def test_the_laboratory_cutoff_is_the_mean_and_some_standard_deviations_of_the_forest_s_scores() -> None:
    values = cooling()
    rules = replace(LABORATORY, z_factor=3.0)
    trained = train(series(values), series(cooling(2, centre=-18.0), "b"), rules=rules)
    assert trained.model
    (channel,) = trained.model.channels
    assert (channel.name, channel.rarity) == ("value", None)
    forest = RandomCutForest.from_msgpack(channel.forest.to_msgpack())
    cutoff = trained.cutoffs[0]
    usual = cutoff.ranges[0].features["value"]
    assert usual.centre == median(values.tolist())
    points = [(v - usual.centre) / (usual.up if v >= usual.centre else usual.down) for v in values.tolist()]
    scores = [forest.score([round(point * 2**20) / 2**20]) for point in points]
    assert cutoff.score_mean == pytest.approx(fmean(scores), rel=1e-9)
    assert cutoff.score_sd == pytest.approx(pstdev(scores), rel=1e-6)
    assert cutoff.score_cutoff == pytest.approx(fmean(scores) + 3.0 * pstdev(scores), rel=1e-6)
    assert cutoff.z_factor == 3.0
    assert 0 < np.mean([found > cutoff.score_cutoff for found in scores]) < 0.05


# --- what is learned: the budget ---


def test_training_scores_readings_as_detection_does() -> None:
    one = series(np.column_stack([cooling(readings=900), cooling(2, 50.0, readings=900)]))
    trained = train(one, measures=("temperature", "humidity"))
    (cutoff,) = trained.cutoffs
    assert trained.model
    columns = {"temperature": one.values[:, 0].tolist(), "humidity": one.values[:, 1].tolist()}
    scores = []
    # what is learned from has full windows
    for windows in Series(one.measured_at.tolist(), columns).windows(WINDOW - 1, cutoff.interval):
        score = score_reading(trained.model, cutoff, windows)
        assert score
        scores.append(score.anomaly_score)
    assert cutoff.score_mean == pytest.approx(fmean(scores), rel=1e-9)
    assert cutoff.score_sd == pytest.approx(pstdev(scores), rel=1e-9)


def test_a_smaller_budget_is_a_higher_cutoff() -> None:
    of = [series(cooling()), series(cooling(2), "b")]
    rules = [TrainingRules(z_factor=0.0, false_alarm_budget=budget) for budget in (1.0, 0.1, 0.01)]
    cutoffs = [[cutoff.score_cutoff for cutoff in train(*of, rules=one).cutoffs] for one in rules]
    for often, seldom, hardly in zip(*cutoffs, strict=True):
        # ten times as seldom is a decade
        assert seldom == pytest.approx(often + 1)
        assert hardly == pytest.approx(often + 2)


@pytest.mark.parametrize("interval", [10, 300, 3_600])
def test_the_budget_is_of_a_real_week_however_often_a_sensor_measures(interval: int) -> None:
    of = [cooling(), cooling(2)]
    rules = TrainingRules(z_factor=0.0)
    once_a_minute, other = (
        train(*(series(values, str(k), every) for k, values in enumerate(of)), rules=rules).cutoffs
        for every in (60, interval)
    )
    for one, another in zip(once_a_minute, other, strict=True):
        assert another.score_cutoff == pytest.approx(one.score_cutoff - np.log10(interval / 60))


@pytest.mark.parametrize("z_factor", [0.0, 2.5, 4.0, 8.0])
def test_the_factor_is_at_least_the_stage_s_and_raised_to_the_budget(z_factor: float) -> None:
    rules = TrainingRules(z_factor=z_factor, false_alarm_budget=0.1)
    low = train(series(cooling()), rules=TrainingRules(z_factor=0.0, false_alarm_budget=0.1)).cutoffs[0]
    cutoff = train(series(cooling()), rules=rules).cutoffs[0]
    assert cutoff.z_factor == pytest.approx(max(z_factor, low.z_factor))
    assert low.z_factor > 0
    assert cutoff.score_cutoff == pytest.approx(cutoff.score_mean + cutoff.z_factor * cutoff.score_sd)


def test_a_sensor_with_clearly_more_peaks_than_its_share_has_a_higher_cutoff() -> None:
    restless = cooling(3, readings=5 * DAY)
    for begin in (1_500, 5_000):  # seven bad hours in five days
        restless[begin : begin + 215] += 4.0
    of = [series(cooling(k, readings=5 * DAY), str(k)) for k in (1, 2)]
    quiet, _, restless_cutoff = train(*of, series(restless, "c"), rules=TrainingRules(z_factor=0.0)).cutoffs
    assert restless_cutoff.score_cutoff > quiet.score_cutoff + 0.2


def test_a_cohort_of_one() -> None:
    values = cooling()
    trained = train(series(values))
    assert len(trained.cutoffs) == 1
    assert not fires(trained, values, float(values[-40]))
    assert fires(trained, values, 24.0)
    assert fires(trained, values, -16.0)


def test_a_step_is_found_at_its_fifth_reading_and_nothing_before() -> None:
    ahead = cooling(9, readings=300)
    ahead[200:] += 5.0
    judged = verdicts(train(series(cooling())), ahead)
    assert [one.is_anomaly for one in judged[200:210]] == [True] * 10
    assert find_runs(judged, timedelta(minutes=1), RULE)[0].completed == judged[204].measured_at


# --- a stuck sensor ---


def longest_row(values: Column) -> int:
    return max(repeats(values[: k + 1].tolist()) for k in range(len(values)))


def coarse(readings: int = DAY) -> Column:
    """Equal readings are usual: rows of eight."""
    random = np.random.default_rng(5)
    return np.repeat(np.round(random.normal(20, 1, readings // 8), 1), 8)


@pytest.mark.parametrize("values", [cooling(readings=DAY), coarse()])
def test_so_many_equal_readings_are_a_stuck_sensor_and_its_own_rows_are_none(values: Column) -> None:
    trained = train(series(values))
    (cutoff,) = trained.cutoffs
    assert longest_row(values) + RULE.readings_needed(cutoff.interval) <= cutoff.stuck_after <= WINDOW
    stuck = np.concatenate([values[:200], np.full(100, values[199])])
    row = repeats(values[:200].tolist())
    judged = verdicts(trained, stuck)
    assert not any(one.is_stuck for one in judged[:200])
    # the run of it completes with the reading that shows the value for the so-manieth time
    (run,) = find_runs([one.of_kind(STUCK_SENSOR) for one in judged], cutoff.interval, RULE)
    assert run.completed == judged[200 - row + cutoff.stuck_after - 1].measured_at


def test_a_sensor_that_often_rests_is_never_stuck() -> None:
    for values in (np.full(DAY, 21.3), np.repeat(cooling(readings=DAY // 60), 60)):
        trained = train(series(values))
        assert trained.cutoffs[0].stuck_after == 0
        assert not any(one.is_stuck for one in verdicts(trained, np.full(200, values[-1])))


# --- nobody is woken for little ---


def quiet(seed: int, readings: int) -> Column:
    return np.round(20 + np.random.default_rng(seed).normal(0, 0.01, readings), 2)


def test_a_drop_of_a_tenth_of_a_degree_is_no_anomaly_where_half_a_degree_matters() -> None:
    dropped, sunk = quiet(2, 300), quiet(2, 300)
    dropped[150:] -= 0.1
    sunk[150:] -= 2.0
    mattering = train(series(quiet(1, DAY), min_deviation=0.5))
    assert mattering.cutoffs[0].ranges[0].min_deviation == 0.5
    assert not any(one.is_anomaly for one in verdicts(mattering, dropped))
    assert all(one.is_anomaly for one in verdicts(mattering, sunk)[150:160])
    # its own resolution is a hundredth: without being told, a tenth is a lot
    assert any(one.is_anomaly for one in verdicts(train(series(quiet(1, DAY))), dropped)[150:160])


def test_is_material_tells_whether_anybody_would_be_woken() -> None:
    trained = train(series(quiet(1, DAY), min_deviation=0.5))
    window = quiet(2, WINDOW - 1).tolist()
    assert not scored(trained, [*window, 20.4]).is_material
    assert scored(trained, [*window, 20.6]).is_material
    assert scored(trained, [*window, 19.4]).is_material
    # unusual by far, and yet it does not matter
    resting = train(series(np.full(DAY, 21.3)), series(cooling(), "b"), series(cooling(2), "c"))
    little = scored(resting, [21.3] * (WINDOW - 1) + [21.5])
    assert little.anomaly_score > resting.cutoffs[0].score_cutoff
    assert not little.is_material


# --- what a cutoff says ---


def test_a_cutoff_says_what_it_was_learned_from() -> None:
    values = np.arange(1000) % 100 / 10
    (cutoff,) = train(series(values, interval=300)).cutoffs
    assert (cutoff.sensor_id, cutoff.cohort_id, cutoff.trained_at) == ("a", "kind-fridge", TRAINED_AT)
    assert (cutoff.interval, cutoff.reading_count) == (timedelta(minutes=5), 1000)
    (usual,) = cutoff.ranges
    assert usual.measure == "temperature"
    # a hundredth of ten readings in a thousand lie below, and above
    assert usual.low == pytest.approx(0.1, abs=0.02)
    assert usual.high == pytest.approx(9.8, abs=0.02)
    assert set(usual.features) == set(features_of("channels"))
    # every step is a tenth but one of 9.9 in a hundred, which the volatility leaves out
    assert usual.features["volatility"].centre == pytest.approx(0.1)
    assert cutoff.effective_from == TRAINED_AT + timedelta(minutes=15)
    assert cutoff.model_version.startswith("20260302T023000Z-")
    assert cutoff.model_key == f"models/sensors/kind-fridge/{cutoff.model_version}/model.zip"
    assert cutoff.model_key == model_key("kind-fridge", cutoff.model_version)


def test_a_cutoff_is_in_force_later_than_it_can_be_cached() -> None:
    assert PROMOTION_DELAY > CACHE_FOR


def test_one_forest_serves_sensors_at_different_places() -> None:
    warm, cold = cooling(1, 4.0), cooling(2, -18.0)
    trained = train(series(warm, "a"), series(cold, "b"))
    assert {cutoff.model_key for cutoff in trained.cutoffs} == {trained.cutoffs[0].model_key}
    assert not fires(trained, warm, 4.0, 0)
    assert fires(trained, warm, -18.0, 0)
    assert not fires(trained, cold, -18.0, 1)
    assert fires(trained, cold, 4.0, 1)


@pytest.mark.parametrize("rules", [CHANNELS, LABORATORY])
def test_several_measures(rules: TrainingRules) -> None:
    random = np.random.default_rng(3)
    temperature, humidity = cooling(), np.round(random.normal(50, 2, 2 * DAY))
    trained = train(series(np.column_stack([temperature, humidity])), measures=("temperature", "humidity"), rules=rules)
    (cutoff,) = trained.cutoffs
    assert [usual.measure for usual in cutoff.ranges] == ["temperature", "humidity"]
    before = {"temperature": temperature[1 - WINDOW :].tolist(), "humidity": humidity[1 - WINDOW :].tolist()}

    def found(values: dict[str, float]) -> float | None:
        assert trained.model
        windows = {measure: [*before.get(measure, []), value] for measure, value in values.items()}
        score = score_reading(trained.model, cutoff, windows)
        return score.anomaly_score if score else None

    usual = found({"temperature": 4.0, "humidity": 50.0})
    assert usual is not None
    assert usual < cutoff.score_cutoff
    for odd in ({"temperature": 24.0, "humidity": 50.0}, {"temperature": 4.0, "humidity": 90.0}):
        score = found(odd)
        assert score is not None
        assert score > cutoff.score_cutoff
    assert found({"temperature": 4.0}) is None
    assert found({"temperature": 4.0, "humidity": 50.0, "pressure": 1.0}) == usual


def test_too_few_readings_go_on_learning() -> None:
    assert MIN_READINGS == 240
    trained = train(series(cooling(readings=239), "few"), series(cooling(readings=240), "enough"))
    assert [cutoff.sensor_id for cutoff in trained.cutoffs] == ["enough"]
    assert trained.learning == {"few": 239}
    nothing = train(series(cooling(readings=239), "few"))
    assert (nothing.model, nothing.cutoffs, nothing.learning) == (None, (), {"few": 239})
    assert train().model is None


def test_only_clean_readings_count_and_are_learned_from() -> None:
    values = cooling(readings=1000)
    is_clean = np.ones(1000, dtype=bool)
    is_clean[239:] = False
    few = train(replace(series(values, "few"), is_clean=is_clean))
    assert few.learning == {"few": 239}
    faulty = cooling()
    faulty[1000:1700] += 30.0
    kept = np.ones(len(faulty), dtype=bool)
    kept[900:1800] = False
    usual = train(replace(series(faulty), is_clean=kept)).cutoffs[0].ranges[0]
    assert usual.high < 10
    assert usual.features["level"].up < 10
    assert train(series(faulty)).cutoffs[0].ranges[0].high > 30


def test_the_same_seed_gives_the_same_model() -> None:
    one, same, other = (train(series(cooling()), series(cooling(2), "b"), seed=seed) for seed in (7, 7, 8))
    assert one.cutoffs == same.cutoffs
    assert one.model
    assert same.model
    found = [[channel.rarity for channel in model.channels] for model in (one.model, same.model)]
    assert found[0] == found[1]
    points = [[x / 4] for x in range(-12, 12)]
    for channel, again in zip(one.model.channels, same.model.channels, strict=True):
        wide = [point * len(channel.features) for point in points]
        assert [channel.anomaly_score(p) for p in wide] == [again.anomaly_score(p) for p in wide]
    assert one.model_version == same.model_version != other.model_version


# --- short and broken histories ---


def in_pieces(values: Column, length: int) -> SensorSeries:
    """The readings with hours of silence after every so many."""
    number = np.arange(len(values))
    return SensorSeries("a", BEGINS + 60 * number + 20_000 * (number // length), values.reshape(-1, 1))


@pytest.mark.parametrize("rules", [CHANNELS, LABORATORY])
@pytest.mark.parametrize("length", [1, 20, 40, 61, 62, 80, 120])
def test_a_history_in_pieces_is_learned(length: int, rules: TrainingRules) -> None:
    values = cooling(readings=240)
    (cutoff,) = train(in_pieces(values, length), rules=rules).cutoffs
    assert np.isfinite([cutoff.score_cutoff, cutoff.score_mean, cutoff.score_sd]).all()
    (usual,) = cutoff.ranges
    assert 2 < usual.low < usual.high < 6
    if length >= 61 and rules is CHANNELS:
        assert usual.features["level"].centre == pytest.approx(4.0, abs=1.0)


# --- nothing is NaN ---

# what a reading may hold
VALUES = st.floats(-LARGEST_VALUE, LARGEST_VALUE).filter(lambda value: not value or abs(value) >= SMALLEST_VALUE)
WILD = [0.0, 1e-30, 21.3, 21.3 + 1e-9, -1e12, 1e20, 1e30, -1e30]


@pytest.mark.parametrize("rules", [CHANNELS, LABORATORY])
@pytest.mark.parametrize("noise", [0.0, 1e-9, 0.3])
@pytest.mark.parametrize("wild", WILD)
def test_a_wild_value_is_no_hole_in_the_scores(noise: float, wild: float, rules: TrainingRules) -> None:
    values = 21.3 + np.random.default_rng(1).normal(0, noise, DAY)
    assert fires(train(series(values), rules=rules), values, wild) or abs(wild - 21.3) < 0.01
    values[700] = wild
    trained = train(series(values), rules=rules)
    assert np.isfinite(trained.cutoffs[0].score_cutoff)
    assert fires(trained, values, 1e29)
    assert not fires(trained, values, float(np.median(values)))


@pytest.mark.parametrize("rules", [CHANNELS, LABORATORY])
@given(values=st.lists(VALUES | st.sampled_from(WILD), min_size=1, max_size=6), judged=VALUES)
@settings(max_examples=15)
def test_any_readings_give_finite_scores(values: list[float], judged: float, rules: TrainingRules) -> None:
    readings = np.array((values * 240)[:240])
    trained = train(series(readings), rules=rules)
    (cutoff,) = trained.cutoffs
    numbers = [cutoff.score_cutoff, cutoff.score_mean, cutoff.score_sd, cutoff.z_factor]
    for usual in cutoff.ranges:
        numbers += [usual.low, usual.high, usual.min_deviation]
        for one in usual.features.values():
            numbers += [one.centre, one.up, one.down]
            assert one.up > 0
    assert np.isfinite(numbers).all()
    scored(trained, [*readings[1 - WINDOW :].tolist(), judged])


@given(holes=st.sets(st.integers(0, 239)), of=st.sampled_from(["temperature", "humidity"]))
@settings(max_examples=15)
def test_what_is_missing_never_reaches_a_score(holes: set[int], of: str) -> None:
    trained = TWO_MEASURES
    (cutoff,) = trained.cutoffs
    assert trained.model
    values = {"temperature": cooling(5, readings=240).tolist(), "humidity": cooling(6, 50.0, readings=240).tolist()}
    for k in holes:
        values[of][k] = float("nan")
    times = [int(TRAINED_AT.timestamp()) + 900 + 60 * k for k in range(240)]
    for k, windows in enumerate(Series(times, values).windows(0, cutoff.interval)):
        score = score_reading(trained.model, cutoff, windows)
        assert not any(value != value for window in windows.values() for value in window)
        if k in holes:
            assert score is None
        elif score is not None:
            assert np.isfinite(score.anomaly_score)


TWO_MEASURES = train(
    series(np.column_stack([cooling(readings=500), cooling(2, 50.0, readings=500)])),
    measures=("temperature", "humidity"),
)


# --- a unit is of no account ---


def dyadic(seed: int, readings: int) -> Column:
    """A compressor's cycle in eighths of a degree, so that many a shift and any power of two is exact."""
    return np.round(8 * (4 + np.random.default_rng(seed).normal(np.sin(np.arange(readings) / 6.4), 0.3))) / 8


def anomalous(learned: Column, judged: Column, min_deviation: float | None) -> list[tuple[bool | None, bool]]:
    trained = train(series(learned, min_deviation=min_deviation))
    return [(one.is_anomaly, one.is_stuck) for one in verdicts(trained, judged)]


@given(
    power=st.integers(-4, 8),
    shift=st.integers(-2_000, 2_000),
    seed=st.integers(0, 1000),
    step=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0, -3.0]),
    min_deviation=st.none() | st.just(1.5),
)
@settings(max_examples=15)
def test_neither_shift_nor_scale_changes_which_readings_are_anomalous(
    power: int, shift: int, seed: int, step: float, min_deviation: float | None
) -> None:
    learned, judged = dyadic(seed, 480), dyadic(seed + 1, 140)
    judged[100:] += step
    scale = 2.0**power
    usually = anomalous(learned, judged, min_deviation)
    scaled = min_deviation and min_deviation * scale
    assert anomalous(scale * learned + shift, scale * judged + shift, scaled) == usually
    if step == 5.0:
        assert sum(is_anomaly is True for is_anomaly, _ in usually) >= 5


@given(
    unit=st.sampled_from([(1.8, 32.0), (1.0, 273.15), (1000.0, 0.0), (0.1, -7.0)]),
    seed=st.integers(0, 1000),
    step=st.sampled_from([0.0, 1.0, 2.0, 5.0, -3.0]),
    min_deviation=st.none() | st.just(0.62),
)
@settings(max_examples=15)
def test_neither_does_a_unit_that_does_not_convert_exactly(
    unit: tuple[float, float], seed: int, step: float, min_deviation: float | None
) -> None:
    learned, judged = cooling(seed, readings=480), cooling(seed + 1, readings=140)
    judged[100:] += step
    scale, zero = unit
    scaled = min_deviation and min_deviation * scale
    usually = anomalous(learned, judged, min_deviation)
    assert anomalous(learned * scale + zero, judged * scale + zero, scaled) == usually


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1.0, 1e9])
def test_the_least_step_is_told_in_any_unit(unit: float) -> None:
    (cutoff,) = train(series(cooling(readings=480) * unit)).cutoffs
    assert cutoff.ranges[0].min_deviation == pytest.approx(
        train(series(cooling(readings=480))).cutoffs[0].ranges[0].min_deviation * unit
    )


def test_numbers_that_are_the_same_but_for_the_last_digits_show_no_step() -> None:
    values = np.tile([21.3, 21.3 * (1 + 1e-14)], 240)
    (cutoff,) = train(series(values)).cutoffs
    assert cutoff.ranges[0].min_deviation == train(series(np.full(480, 21.3))).cutoffs[0].ranges[0].min_deviation


# --- runs of readings ---


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(1, 6))
def test_sustained_is_what_a_run_exceeds(values: list[float], readings: int) -> None:
    found = sustained(np.array(values), readings)
    assert found.tolist() == [min(values[max(0, k - readings + 1) : k + 1]) for k in range(len(values))]


# --- the forest ---


def test_the_order_of_points_does_not_weigh() -> None:
    random = np.random.default_rng(1)
    first, then = random.normal(0, 0.1, 5000), random.normal(100, 0.1, 5000)
    scores = []
    for seed in range(5):
        forest = train_forest([[x] for x in [*first, *then]], 1, parameters=PRODUCTION, seed=seed)
        scores.append([forest_score(forest, [x]) for x in (0.0, 100.0, 50.0)])
    old, new, neither = np.mean(scores, axis=0)
    assert old == pytest.approx(new, rel=0.1)
    assert neither > 2 * old


def test_higher_is_more_anomalous() -> None:
    points = np.random.default_rng(1).normal(0, 1, (2000, 2))
    forest = train_forest(points.tolist(), 2, parameters=PRODUCTION, seed=3)
    near, edge, far = (forest_score(forest, [x, x]) for x in (0.0, 3.0, 30.0))
    assert near < edge < far <= PRODUCTION.highest_score


def test_no_score_is_above_the_highest() -> None:
    points = np.random.default_rng(1).normal(0, 1, (2000, 1))
    forest = train_forest(points.tolist(), 1, parameters=PRODUCTION, seed=3)
    # log2 of 129, by hand
    assert PRODUCTION.highest_score == pytest.approx(7.0112, abs=1e-4)
    assert 0.95 * PRODUCTION.highest_score < forest_score(forest, [1e9]) <= PRODUCTION.highest_score


def test_a_stored_forest_gives_the_very_same_scores() -> None:
    points = np.random.default_rng(1).normal(0, 1, (2000, 1)).tolist()
    forest = train_forest(points, 1, parameters=PRODUCTION, seed=3)
    loaded = load_forest(dump_forest(forest))
    assert [forest_score(loaded, p) for p in points[:50]] == [forest_score(forest, p) for p in points[:50]]


def test_scoring_teaches_nothing() -> None:
    forest = train_forest(np.random.default_rng(1).normal(0, 1, (500, 1)).tolist(), 1, parameters=PRODUCTION, seed=3)
    before = forest_score(forest, [9.0])
    for _ in range(500):
        forest_score(forest, [9.0])
    assert forest_score(forest, [9.0]) == before


# --- cutoffs ---

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def cutoff_of(trained: int, effective: int) -> Cutoff:
    return Cutoff(
        sensor_id="a",
        trained_at=NOON + timedelta(minutes=trained),
        effective_from=NOON + timedelta(minutes=effective),
        cohort_id="c",
        model_version=f"v{trained}",
        score_cutoff=1.5,
        score_mean=1.0,
        score_sd=0.2,
        z_factor=2.5,
        interval=timedelta(minutes=1),
        reading_count=1000,
        stuck_after=15,
        ranges=(UsualRange("temperature", 3.0, 5.0, 0.3, {"value": Usual(4.0, 1.0, 1.0)}),),
    )


@pytest.mark.parametrize(
    ("minute", "version"), [(-1, None), (14, None), (15, "v0"), (60, "v0"), (74, "v0"), (75, "v60"), (9999, "v60")]
)
def test_a_reading_is_judged_by_the_newest_in_force_when_it_was_measured(minute: int, version: str | None) -> None:
    both = [cutoff_of(60, 75), cutoff_of(0, 15)]
    moment = NOON + timedelta(minutes=minute)
    for order in (both, both[::-1]):
        found = in_force(order, moment)
        assert (found.model_version if found else None) == version


@pytest.mark.parametrize(
    ("minute", "version"), [(14, None), (15, "v0"), (74, "v0"), (75, None), (134, None), (135, "v120")]
)
def test_a_sensor_whose_cutoff_was_retired_is_learning(minute: int, version: str | None) -> None:
    first = cutoff_of(0, 15)
    silent = retired(first, NOON + timedelta(minutes=60), NOON + timedelta(minutes=75))
    assert (silent.sensor_id, silent.cohort_id, silent.ranges) == ("a", "c", ())
    found = in_force([first, silent, cutoff_of(120, 135)], NOON + timedelta(minutes=minute))
    assert (found.model_version if found else None) == version


@pytest.mark.parametrize(("value", "normalised"), [(4.0, 0.0), (6.0, 1.0), (9.0, 2.5), (3.0, -2.0), (-1.0, -10.0)])
def test_a_value_in_units_of_the_usual_furthest(value: float, normalised: float) -> None:
    assert Usual(centre=4.0, up=2.0, down=0.5).normalised(value) == normalised


def test_where_being_below_is_never_unusual() -> None:
    assert Usual(centre=4.0, up=2.0, down=0.0).normalised(-100.0) == 0.0
    assert Usual(centre=4.0, up=2.0, down=0.0).normalised(8.0) == 2.0


# --- what happens at the same time every day ---


def defrosting(minutes: Sequence[int], readings: int = 8 * DAY, height: float = 3.0) -> Column:
    """A steady cold room that is warmer for a quarter of an hour from each of these minutes on."""
    values = np.round(4.0 + np.random.default_rng(9).normal(0, 0.15, readings), 1)
    for minute in minutes:
        values[minute : minute + 15] += height
    return values


# twice a day at the same time; `BEGINS` is 02:40 UTC
DAILY = [day * DAY + half * 720 + 400 for day in range(8) for half in range(2)]


def learned_routine(values: Column) -> CohortModel:
    return train(series(values))


def test_a_daily_defrost_is_routine_with_an_hour_before_and_after() -> None:
    trained = learned_routine(defrosting(DAILY))
    (cutoff,) = trained.cutoffs
    begins = (BEGINS // 60 + DAILY[0]) % 720
    first, last = (begins - 60) // 30, (begins + 14 + 60) // 30
    assert set(cutoff.routine) == {(half_hour + k) % 48 for half_hour in range(first, last + 1) for k in (0, 24)}
    (usual,) = cutoff.ranges
    for name in ("jump", "plateau"):
        assert (
            max(usual.quiet[name].up, usual.quiet[name].down)
            < max(usual.features[name].up, usual.features[name].down) / 2
        )
    assert usual.quiet.keys() == {"jump", "plateau"}


def test_a_step_lower_than_the_defrost_is_found_at_its_fifth_reading_but_at_its_time() -> None:
    trained = learned_routine(defrosting(DAILY))
    (cutoff,) = trained.cutoffs
    assert trained.model
    model = trained.model
    day = int(cutoff.effective_from.timestamp()) // 86_400 * 86_400 + 86_400
    minutes = np.arange(DAY)
    inside = np.isin(minutes // 30, cutoff.routine)
    for minute, is_found in ((int(np.flatnonzero(~inside)[60]), True), (cutoff.routine[2] * 30, False)):
        values = np.round(4.0 + np.random.default_rng(10).normal(0, 0.15, DAY), 1)
        values[minute : minute + 5] += 2.0
        times = (day + 60 * minutes).tolist()
        judged = judge(Series(times, {"temperature": values.tolist()}), 0, [cutoff], lambda _: model, RULE)
        runs = find_runs(judged, cutoff.interval, RULE)
        moment = datetime.fromtimestamp(day + 60 * minute, UTC)
        assert [(run.first, run.last) for run in runs] == (
            [(moment, moment + timedelta(minutes=4))] if is_found else []
        )


@pytest.mark.parametrize(
    "minutes",
    [
        [100, 1900, 3500, 4700, 6600, 8100, 9200, 10900],  # never at the same time
        [minute for minute in DAILY if minute < 2 * DAY],  # on two days of eight
        [],
    ],
)
def test_what_does_not_come_every_day_is_no_routine(minutes: Sequence[int]) -> None:
    (cutoff,) = learned_routine(defrosting(minutes)).cutoffs
    assert cutoff.routine == ()
    assert all(usual.quiet == {} for usual in cutoff.ranges)
    assert cutoff.at(NOON) == cutoff


@pytest.mark.parametrize(("days", "is_routine"), [(5, False), (7, True)])
def test_a_week_shows_a_routine(days: int, is_routine: bool) -> None:
    (cutoff,) = learned_routine(defrosting([m for m in DAILY if m < days * DAY], readings=days * DAY)).cutoffs
    assert bool(cutoff.routine) is is_routine


def test_a_cutoff_at_a_time_of_day() -> None:
    quiet = {"jump": Usual(0.0, 0.5, 0.5)}
    features = {"jump": Usual(0.0, 3.0, 3.0), "level": Usual(4.0, 1.0, 1.0)}
    usual = UsualRange("temperature", 3.0, 5.0, 0.3, features, quiet)  # type: ignore[arg-type]
    cutoff = replace(cutoff_of(0, 15), ranges=(usual,), routine=(0, 25, 47))

    def jump_at(clock: str) -> float:
        found = in_force([cutoff], datetime.fromisoformat(f"2026-07-01T{clock}+00:00"))
        assert found
        assert found.ranges[0].features["level"] == features["level"]
        return found.ranges[0].features["jump"].up

    assert [jump_at(clock) for clock in ("00:00:00", "00:29:59", "12:30:00", "23:59:59")] == [3.0] * 4
    assert [jump_at(clock) for clock in ("00:30:00", "12:29:59", "13:00:00", "23:29:59")] == [0.5] * 4


def test_training_scores_readings_with_a_routine_as_detection_does() -> None:
    one = series(defrosting([m for m in DAILY if m < 7 * DAY], readings=7 * DAY))
    trained = train(one)
    (cutoff,) = trained.cutoffs
    assert cutoff.routine
    assert trained.model
    times, scores = one.measured_at.tolist(), []
    windows = Series(times, {"temperature": one.values[:, 0].tolist()}).windows(WINDOW - 1, cutoff.interval)
    for time, window in zip(times[WINDOW - 1 :], windows, strict=True):
        score = score_reading(trained.model, cutoff.at(datetime.fromtimestamp(time, UTC)), window)
        assert score
        scores.append(score.anomaly_score)
    assert cutoff.score_mean == pytest.approx(fmean(scores), rel=1e-9)
    assert cutoff.score_sd == pytest.approx(pstdev(scores), rel=1e-9)


def test_cohorts_are_told_apart() -> None:
    ids = [
        cohort_id("fridge", "device", ["temperature"]),
        cohort_id("fridge", "device", ["temperature", "humidity"]),
        cohort_id("", "device", ["temperature"]),
        cohort_id("", "fridge", ["temperature"]),
        cohort_id("Fridge", "device", ["temperature"]),
        cohort_id("fridge!", "device", ["temperature"]),
        cohort_id("kühl/../raum", "device", ["temperature"]),
    ]
    assert len(set(ids)) == len(ids)
    assert all(set(one) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for one in ids)
    assert cohort_id("fridge", "one", ["b", "a"]) == cohort_id("fridge", "other", ["a", "b"])


# --- recorded data ---


@pytest.mark.parametrize("rules", [CHANNELS, LABORATORY])
def test_the_laboratory_fault_is_one_incident(rules: TrainingRules) -> None:
    found = read_readings(recorded_data("hvac_evaporator_2021.csv.gz"), measures=["evaporator_temperature"]).readings
    day = datetime(2021, 6, 10, tzinfo=UTC)
    trained_at = day.replace(hour=11)
    learned = [reading for reading in found if reading.measured_at < trained_at]
    trained = train_cohort(
        [
            SensorSeries(
                "hvac-323",
                np.array([int(reading.measured_at.timestamp()) for reading in learned]),
                np.array([[reading.values["evaporator_temperature"]] for reading in learned]),
            )
        ],
        cohort_id="c",
        measures=["evaporator_temperature"],
        rules=rules,
        trained_at=trained_at,
        seed=20210610,
    )
    (cutoff,) = trained.cutoffs
    assert trained.model
    model = trained.model
    assert cutoff.effective_from == day.replace(hour=11, minute=15)
    first = next(k for k, reading in enumerate(found) if reading.measured_at >= cutoff.effective_from)
    judged = judge(Series.of(found), first, [cutoff], lambda _: model, RULE)
    changes = decide(None, judged, {one.measured_at for one in judged}, cutoff.interval, RULE)
    assert [change.kind for change in changes] == [ChangeKind.OPEN, ChangeKind.RECOVER]
    opened_at = changes[0].episode.opened_at
    assert day.replace(hour=12, minute=6) <= opened_at <= day.replace(hour=12, minute=10)
    if rules is LABORATORY:
        episode = changes[-1].episode
        assert episode.first_anomalous_at == day.replace(hour=12, minute=2)
        assert episode.opened_at == day.replace(hour=12, minute=6)
