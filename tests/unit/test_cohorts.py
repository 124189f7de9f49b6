"""Cohorts, cutoffs and the forest: what is learned from readings, and what is judged by it."""

from datetime import UTC, datetime, timedelta
from statistics import fmean, pstdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from krcf import RandomCutForest

from overcut.sensors.cohorts import MIN_READINGS, CohortModel, SensorSeries, cohort_id, train_cohort
from overcut.sensors.cutoffs import CACHE_FOR, PROMOTION_DELAY, Cutoff, UsualRange, explain, in_force, model_key
from overcut.sensors.forest import ForestParameters, anomaly_score, dump_forest, load_forest, train_forest
from overcut.sensors.incidents import ChangeKind, JudgedReading, RunRule, decide
from tests.conftest import recorded_data
from workbench.readings_files import read_readings

TRAINED_AT = datetime(2026, 3, 2, 2, 30, tzinfo=UTC)
DAY = 1440
PRODUCTION = ForestParameters(num_trees=30, num_samples_per_tree=128)


def series(values: object, sensor_id: str = "a", interval: int = 60) -> SensorSeries:
    table = np.asarray(values, dtype=float)
    table = table.reshape(len(table), -1)
    return SensorSeries(sensor_id, 1_770_000_000 + interval * np.arange(len(table)), table)


def train(
    *of: SensorSeries, measures: tuple[str, ...] = ("temperature",), z: float = 2.5, seed: int = 7
) -> CohortModel:
    return train_cohort(
        of,
        cohort_id="kind-fridge",
        measures=measures,
        parameters=PRODUCTION,
        z_factor=z,
        trained_at=TRAINED_AT,
        seed=seed,
    )


def fires(model: CohortModel, value: float, sensor: int = 0) -> bool:
    cutoff = model.cutoffs[sensor]
    assert model.forest
    point = cutoff.point({"temperature": value})
    assert point is not None
    found = anomaly_score(model.forest, point)
    assert np.isfinite(found)
    return found > cutoff.score_cutoff


def cooling(
    seed: int = 1, centre: float = 4.0, readings: int = 2 * DAY
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A compressor's cycle, rounded to tenths."""
    random = np.random.default_rng(seed)
    wave = np.sin(np.arange(readings) / 40 * 2 * np.pi)
    return np.round(centre + wave + random.normal(0, 0.2, readings), 1)


# --- a sensor at rest ---


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
def test_at_rest_the_first_rounding_step_is_no_anomaly_and_a_jump_is(value: float, step: float) -> None:
    model = train(series([value] * DAY))
    assert not any(fires(model, value + k * step) for k in (0, 1, -1))
    assert all(fires(model, value + k * step) for k in (3, -3, 10, -10, 1000))


def test_at_rest_a_sensor_has_the_step_of_its_cohort() -> None:
    model = train(series([21.0] * DAY), series(cooling(), "b"), series(cooling(2), "c"))
    assert not any(fires(model, 21.0 + k * 0.1) for k in (0, 1, -1))
    assert fires(model, 23.0)


def test_nearly_at_rest() -> None:
    values = np.full(DAY, 21.3)
    values[::100] = 21.4
    model = train(series(values))
    assert not fires(model, 21.3)
    assert not fires(model, 21.4)
    assert not fires(model, 21.2)
    assert fires(model, 22.3)


def test_one_odd_reading_does_not_make_a_sensor_at_rest_deaf() -> None:
    values = np.full(DAY, 21.3)
    values[700] = 85.0  # what a common thermometer says after its power came back
    model = train(series(values))
    assert not any(fires(model, value) for value in (21.3, 21.4, 21.2))
    assert fires(model, 24.3)
    assert fires(model, 85.0)


# --- what is learned ---


def test_the_cutoff_is_the_mean_and_some_standard_deviations_of_the_scores() -> None:
    values = cooling()
    model = train(series(values), series(cooling(2, centre=-18.0), "b"), z=3.0)
    assert model.forest
    forest = RandomCutForest.from_msgpack(model.forest.to_msgpack())
    cutoff = model.cutoffs[0]
    # median, and 1.4826 median absolute deviations, of the training window itself
    centre = sorted(values)[len(values) // 2]
    spread = 1.4826 * float(np.median([abs(value - centre) for value in values]))
    assert cutoff.ranges[0].centre == pytest.approx(centre)
    assert cutoff.ranges[0].spread == pytest.approx(spread)
    scores = [forest.score([(value - centre) / spread]) for value in values]
    # not to the digit: training spreads each value over what it was rounded from
    assert cutoff.score_mean == pytest.approx(fmean(scores), rel=0.02)
    assert cutoff.score_sd == pytest.approx(pstdev(scores), rel=0.1)
    assert cutoff.score_cutoff == pytest.approx(cutoff.score_mean + 3.0 * cutoff.score_sd)
    assert cutoff.z_factor == 3.0
    assert 0 < np.mean([found > cutoff.score_cutoff for found in scores]) < 0.05


def test_a_cutoff_says_what_it_was_learned_from() -> None:
    values = np.arange(1000) % 100 / 10
    (cutoff,) = train(series(values, interval=300)).cutoffs
    assert (cutoff.sensor_id, cutoff.cohort_id, cutoff.trained_at) == ("a", "kind-fridge", TRAINED_AT)
    assert (cutoff.interval, cutoff.reading_count) == (timedelta(minutes=5), 1000)
    assert cutoff.ranges[0].measure == "temperature"
    assert cutoff.ranges[0].centre == pytest.approx(4.95)
    # a hundredth of ten readings in a thousand lie below, and above
    assert cutoff.ranges[0].low == pytest.approx(0.1, abs=0.02)
    assert cutoff.ranges[0].high == pytest.approx(9.8, abs=0.02)
    assert cutoff.effective_from == TRAINED_AT + timedelta(minutes=15)
    assert cutoff.model_version.startswith("20260302T023000Z-")
    assert cutoff.model_key == f"models/sensors/kind-fridge/{cutoff.model_version}/forest.msgpack"
    assert cutoff.model_key == model_key("kind-fridge", cutoff.model_version)


def test_a_cutoff_is_in_force_later_than_it_can_be_cached() -> None:
    assert PROMOTION_DELAY > CACHE_FOR


def test_one_forest_serves_sensors_at_different_places() -> None:
    model = train(series(cooling(1, 4.0), "a"), series(cooling(2, -18.0), "b"))
    assert not fires(model, 4.0, 0)
    assert fires(model, -18.0, 0)
    assert not fires(model, -18.0, 1)
    assert fires(model, 4.0, 1)


def test_several_measures() -> None:
    random = np.random.default_rng(3)
    temperature, humidity = cooling(), np.round(random.normal(50, 2, 2 * DAY))
    model = train(series(np.column_stack([temperature, humidity])), measures=("temperature", "humidity"))
    (cutoff,) = model.cutoffs
    assert model.forest
    assert [usual.measure for usual in cutoff.ranges] == ["temperature", "humidity"]

    def found(values: dict[str, float]) -> float | None:
        assert model.forest
        point = cutoff.point(values)
        return None if point is None else anomaly_score(model.forest, point)

    assert (found({"temperature": 4.0, "humidity": 50.0}) or 9) < cutoff.score_cutoff
    assert (found({"temperature": 12.0, "humidity": 50.0}) or 0) > cutoff.score_cutoff
    assert (found({"temperature": 4.0, "humidity": 90.0}) or 0) > cutoff.score_cutoff
    assert found({"temperature": 4.0}) is None
    assert found({"temperature": 4.0, "humidity": 50.0, "pressure": 1.0}) == found(
        {"temperature": 4.0, "humidity": 50.0}
    )


def test_too_few_readings_go_on_learning() -> None:
    assert MIN_READINGS == 240
    model = train(series(cooling(readings=239), "few"), series(cooling(readings=240), "enough"))
    assert [cutoff.sensor_id for cutoff in model.cutoffs] == ["enough"]
    assert model.learning == {"few": 239}
    nothing = train(series(cooling(readings=239), "few"))
    assert (nothing.forest, nothing.cutoffs, nothing.learning) == (None, (), {"few": 239})
    assert train().forest is None


def test_the_same_seed_gives_the_same_model() -> None:
    one, same, other = (train(series(cooling()), series(cooling(2), "b"), seed=seed) for seed in (7, 7, 8))
    assert one.cutoffs == same.cutoffs
    assert one.forest
    assert same.forest
    assert dump_forest(one.forest) == dump_forest(same.forest)
    assert one.model_version == same.model_version != other.model_version


# --- nothing is NaN ---

WILD = [0.0, 1e-30, 21.3, 21.3 + 1e-9, -1e12, 1e20, 1e30, -1e30]


@pytest.mark.parametrize("noise", [0.0, 1e-9, 0.3])
@pytest.mark.parametrize("wild", WILD)
def test_a_wild_value_is_no_hole_in_the_scores(noise: float, wild: float) -> None:
    values = 21.3 + np.random.default_rng(1).normal(0, noise, DAY)
    assert fires(train(series(values)), wild) or abs(wild - 21.3) < 0.01
    values[700] = wild
    model = train(series(values))
    assert np.isfinite(model.cutoffs[0].score_cutoff)
    assert fires(model, 1e29)
    assert not fires(model, float(np.median(values)))


@given(st.lists(st.floats(-1e30, 1e30) | st.sampled_from(WILD), min_size=1, max_size=6), st.floats(-1e30, 1e30))
@settings(max_examples=15, deadline=None)
def test_any_readings_give_finite_scores(values: list[float], judged: float) -> None:
    model = train(series((values * 240)[:240]))
    (cutoff,) = model.cutoffs
    numbers = [cutoff.score_cutoff, cutoff.score_mean, cutoff.score_sd]
    numbers += [number for usual in cutoff.ranges for number in (usual.centre, usual.spread, usual.low, usual.high)]
    assert np.isfinite(numbers).all()
    assert cutoff.ranges[0].spread > 0
    fires(model, judged)


# --- the forest ---


def test_the_order_of_points_does_not_weigh() -> None:
    random = np.random.default_rng(1)
    first, then = random.normal(0, 0.1, 5000), random.normal(100, 0.1, 5000)
    scores = []
    for seed in range(5):
        forest = train_forest([[x] for x in [*first, *then]], 1, parameters=PRODUCTION, seed=seed)
        scores.append([anomaly_score(forest, [x]) for x in (0.0, 100.0, 50.0)])
    old, new, neither = np.mean(scores, axis=0)
    assert old == pytest.approx(new, rel=0.1)
    assert neither > 2 * old


def test_higher_is_more_anomalous() -> None:
    points = np.random.default_rng(1).normal(0, 1, (2000, 2))
    forest = train_forest(points.tolist(), 2, parameters=PRODUCTION, seed=3)
    near, edge, far = (anomaly_score(forest, [x, x]) for x in (0.0, 3.0, 30.0))
    assert near < edge < far


def test_a_stored_forest_gives_the_very_same_scores() -> None:
    points = np.random.default_rng(1).normal(0, 1, (2000, 1)).tolist()
    forest = train_forest(points, 1, parameters=PRODUCTION, seed=3)
    loaded = load_forest(dump_forest(forest))
    assert [anomaly_score(loaded, p) for p in points[:50]] == [anomaly_score(forest, p) for p in points[:50]]


def test_scoring_teaches_nothing() -> None:
    forest = train_forest(np.random.default_rng(1).normal(0, 1, (500, 1)).tolist(), 1, parameters=PRODUCTION, seed=3)
    before = anomaly_score(forest, [9.0])
    for _ in range(500):
        anomaly_score(forest, [9.0])
    assert anomaly_score(forest, [9.0]) == before


# --- cutoffs ---


def cutoff(trained: int, effective: int) -> Cutoff:
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)
    return Cutoff(
        sensor_id="a",
        trained_at=noon + timedelta(minutes=trained),
        effective_from=noon + timedelta(minutes=effective),
        cohort_id="c",
        model_version=f"v{trained}",
        score_cutoff=1.5,
        score_mean=1.0,
        score_sd=0.2,
        z_factor=2.5,
        interval=timedelta(minutes=1),
        reading_count=1000,
        ranges=(UsualRange("temperature", 4.0, 0.5, 3.0, 5.0), UsualRange("humidity", 50.0, 10.0, 30.0, 70.0)),
    )


@pytest.mark.parametrize(
    ("minute", "version"), [(-1, None), (14, None), (15, "v0"), (60, "v0"), (74, "v0"), (75, "v60"), (9999, "v60")]
)
def test_a_reading_is_judged_by_the_newest_in_force_when_it_was_measured(minute: int, version: str | None) -> None:
    both = [cutoff(60, 75), cutoff(0, 15)]
    moment = datetime(2026, 3, 2, 12, tzinfo=UTC) + timedelta(minutes=minute)
    for order in (both, both[::-1]):
        found = in_force(order, moment)
        assert (found.model_version if found else None) == version


def test_the_cause_is_the_measure_furthest_from_usual_in_spreads() -> None:
    units = {"temperature": "C", "humidity": "%"}
    cause = explain(3.0, cutoff(0, 15), {"temperature": 6.0, "humidity": 60.0}, units)
    assert (cause.measure, cause.unit, cause.value) == ("temperature", "C", 6.0)
    assert (cause.usual_low, cause.usual_high) == (3.0, 5.0)
    assert (cause.anomaly_score, cause.score_cutoff, cause.model_version) == (3.0, 1.5, "v0")
    cause = explain(3.0, cutoff(0, 15), {"temperature": 4.5, "humidity": 5.0}, {})
    assert (cause.measure, cause.unit, cause.value) == ("humidity", "", 5.0)


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


def test_the_laboratory_fault_is_one_incident() -> None:
    found = read_readings(recorded_data("hvac_evaporator_2021.csv.gz"), measures=["evaporator_temperature"]).readings
    day = datetime(2021, 6, 10, tzinfo=UTC)
    trained_at = day.replace(hour=11)
    learned = [reading for reading in found if reading.measured_at < trained_at]
    model = train_cohort(
        [
            SensorSeries(
                "hvac-323",
                np.array([int(reading.measured_at.timestamp()) for reading in learned]),
                np.array([[reading.values["evaporator_temperature"]] for reading in learned]),
            )
        ],
        cohort_id="c",
        measures=["evaporator_temperature"],
        parameters=PRODUCTION,
        z_factor=2.5,
        trained_at=trained_at,
        seed=20210610,
    )
    (cutoff,) = model.cutoffs
    assert model.forest
    assert cutoff.effective_from == day.replace(hour=11, minute=15)
    judged = []
    for reading in found:
        if in_force([cutoff], reading.measured_at):
            point = cutoff.point(reading.values)
            assert point is not None
            score = anomaly_score(model.forest, point)
            judged.append(JudgedReading(reading.measured_at, score > cutoff.score_cutoff))
    changes = decide(None, judged, {one.measured_at for one in judged}, cutoff.interval, RunRule(5, 30))
    assert [change.kind for change in changes] == [ChangeKind.OPEN, ChangeKind.RECOVER]
    episode = changes[-1].episode
    assert episode.first_anomalous_at == day.replace(hour=12, minute=2)
    assert episode.opened_at == day.replace(hour=12, minute=6)
    assert episode.last_anomalous_at == day.replace(hour=12, minute=10)
    assert episode.recovered_at == day.replace(hour=12, minute=40)
    within = [one for one in judged if episode.first_anomalous_at <= one.measured_at <= episode.last_anomalous_at]
    assert [one.is_anomaly for one in within] == [True] * 9
