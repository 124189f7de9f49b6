"""Models: how rare a score is, and what is stored of them."""

import io
import json
import zipfile
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overcut.sensors.cohorts import CohortModel, SensorSeries, TrainingRules, train_cohort
from overcut.sensors.cutoffs import Cutoff, Usual, UsualRange
from overcut.sensors.features import Detector
from overcut.sensors.forest import ForestParameters, train_forest
from overcut.sensors.models import (
    FORMAT,
    HIGHEST_DECADES,
    Channel,
    Model,
    ModelError,
    Rarity,
    dump_model,
    load_model,
    score_reading,
    to_odds,
)

TRAINED_AT = datetime(2026, 3, 2, 2, 30, tzinfo=UTC)
# a highest score of 6 makes odds of 0.2, 0.5 and 1 of the scores 1, 2 and 3
RARITY = Rarity(highest=6.0, odds=(0.2, 0.5, 1.0), decades=(-4.0, -2.0, -1.0), slope=3.0)


def score_of(odds: float) -> float:
    """The score with these odds: score / (6 - score), solved for it."""
    return 6 * odds / (1 + odds)


# --- how rare ---


@pytest.mark.parametrize(("score", "odds"), [(0.0, 0.0), (1.0, 0.2), (2.0, 0.5), (3.0, 1.0), (4.0, 2.0), (5.0, 5.0)])
def test_odds(score: float, odds: float) -> None:
    assert to_odds(score, 6.0) == pytest.approx(odds)
    assert score_of(odds) == pytest.approx(score)


def test_the_highest_score_and_what_is_above_it_have_odds() -> None:
    assert np.isfinite(to_odds(6.0, 6.0))
    assert np.isfinite(to_odds(6.1, 6.0))
    assert to_odds(6.0, 6.0) > to_odds(5.999, 6.0)


@pytest.mark.parametrize(
    ("score", "decades"),
    [
        # the knots
        (1.0, -4.0),
        (2.0, -2.0),
        (3.0, -1.0),
        # below the first there is nothing more common
        (0.0, -4.0),
        (0.9, -4.0),
        # odds of 0.35 and 0.75, half way between knots
        (score_of(0.35), -3.0),
        (score_of(0.75), -1.5),
        # odds of 1.5, 2 and 3: three decades for one more
        (score_of(1.5), 0.5),
        (4.0, 2.0),
        (score_of(3.0), 5.0),
    ],
)
def test_a_line_through_knots_and_on_with_the_last_slope(score: float, decades: float) -> None:
    assert RARITY.of(score) == pytest.approx(decades)


def test_what_is_rarer_than_the_highest_is_not_told_apart() -> None:
    assert RARITY.of(5.9) == RARITY.of(6.0) == RARITY.of(7.0) == HIGHEST_DECADES


@given(st.floats(0, 7), st.floats(0, 7))
def test_a_higher_score_is_never_more_common(one: float, other: float) -> None:
    low, high = sorted([one, other])
    assert RARITY.of(low) <= RARITY.of(high)


@pytest.mark.parametrize("knot", [0.2, 0.5, 1.0])
def test_no_step_at_a_knot(knot: float) -> None:
    before, at, after = (RARITY.of(score_of(knot + d)) for d in (-1e-9, 0.0, 1e-9))
    assert before == pytest.approx(at, abs=1e-7)
    assert after == pytest.approx(at, abs=1e-7)


def test_one_knot_is_enough() -> None:
    one = Rarity(highest=6.0, odds=(0.5,), decades=(-4.0,), slope=2.0)
    assert [one.of(score) for score in (1.0, 2.0, 3.0)] == pytest.approx([-4.0, -4.0, -3.0])


# --- what is stored ---


def trained(detector: Detector, seed: int = 1) -> CohortModel:
    values = np.round(4 + np.random.default_rng(seed).normal(0, 0.5, (480, 1)), 1)
    return train_cohort(
        [SensorSeries("a", 1_770_000_000 + 60 * np.arange(480), values)],
        cohort_id="c",
        measures=["temperature"],
        rules=TrainingRules(forest=ForestParameters(30, 128), detector=detector),
        trained_at=TRAINED_AT,
        seed=seed,
    )


def model_of(cohort: CohortModel) -> Model:
    assert cohort.model
    return cohort.model


@pytest.mark.parametrize("detector", ["channels", "laboratory"])
def test_a_stored_model_gives_the_very_same_scores(detector: Detector) -> None:
    cohort = trained(detector)
    model = model_of(cohort)
    loaded = load_model(dump_model(model))
    again = load_model(dump_model(loaded))
    assert [channel.name for channel in loaded.channels] == [channel.name for channel in model.channels]
    random = np.random.default_rng(9)
    for _ in range(200):
        windows = {"temperature": np.round(random.normal(4, random.choice([0.5, 3.0]), 61), 1).tolist()}
        score = score_reading(model, cohort.cutoffs[0], windows)
        assert score
        assert score_reading(loaded, cohort.cutoffs[0], windows) == score
        assert score_reading(again, cohort.cutoffs[0], windows) == score


@pytest.mark.parametrize("detector", ["channels", "laboratory"])
def test_a_model_is_stored_as_the_same_bytes(detector: Detector) -> None:
    model = model_of(trained(detector))
    assert dump_model(model) == dump_model(model)
    assert dump_model(model) != dump_model(model_of(trained(detector, seed=2)))


def rewritten(stored: bytes, name: str, content: bytes | None) -> bytes:
    """A stored model with one of its files replaced, or left out."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(stored)) as before, zipfile.ZipFile(written, "w") as archive:
        for each in before.namelist():
            if each != name:
                archive.writestr(each, before.read(each))
        if content is not None:
            archive.writestr(name, content)
    return written.getvalue()


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"no model",
        b"PK\x05\x06" + bytes(18),
        dump_model(model_of(trained("channels")))[:-100],
    ],
)
def test_garbage_is_refused(stored: bytes) -> None:
    with pytest.raises(ModelError, match="train again"):
        load_model(stored)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.json", None),
        ("model.json", b"{"),
        ("model.json", b"\xff"),
        ("model.json", b"[]"),
        ("model.json", b"3"),
        ("model.json", b"{}"),
        ("model.json", json.dumps({"format": FORMAT}).encode()),
        ("model.json", json.dumps({"format": FORMAT, "channels": {"fast": {"odds": []}}}).encode()),
        ("model.json", json.dumps({"format": FORMAT, "channels": ["fast"]}).encode()),
        ("fast.msgpack", None),
        ("fast.msgpack", b""),
        ("fast.msgpack", b"no forest"),
    ],
)
def test_a_model_with_a_broken_part_is_refused(name: str, content: bytes | None) -> None:
    with pytest.raises(ModelError, match="train again"):
        load_model(rewritten(dump_model(model_of(trained("channels"))), name, content))


@pytest.mark.parametrize("version", [0, FORMAT + 1, "1", None])
def test_another_format_is_refused(version: object) -> None:
    other = json.dumps({"format": version, "channels": {}}).encode()
    with pytest.raises(ModelError, match="format"):
        load_model(rewritten(dump_model(model_of(trained("channels"))), "model.json", other))


# --- how a reading is scored ---


def cutoff_of(*ranges: UsualRange) -> Cutoff:
    return Cutoff(
        sensor_id="a",
        trained_at=TRAINED_AT,
        effective_from=TRAINED_AT,
        cohort_id="c",
        model_version="v",
        score_cutoff=1.3,
        score_mean=0.0,
        score_sd=1.0,
        z_factor=2.5,
        interval=timedelta(minutes=1),
        reading_count=1000,
        stuck_after=15,
        ranges=ranges,
    )


def channel_of(name: str, dimensions: int, rarity: Rarity | None = None) -> Channel:
    points = np.random.default_rng(1).normal(0, 0.4, (600, dimensions)).tolist()
    return Channel(name, train_forest(points, dimensions, parameters=ForestParameters(30, 128), seed=1), rarity)


def range_of(measure: str, min_deviation: float, **features: Usual) -> UsualRange:
    return UsualRange(measure, 0.0, 10.0, min_deviation, features)  # type: ignore[arg-type]


STEPS = Usual(0.0, 0.2, 0.0)
COLD, WARM = Usual(4.0, 2.0, 2.0), Usual(60.0, 20.0, 20.0)
TWO = cutoff_of(
    range_of("cold", 0.5, value=COLD, level=COLD, volatility=STEPS),
    range_of("warm", 0.5, value=WARM, level=WARM, volatility=STEPS),
)
SHAPE = Model((channel_of("shape", 4),))
TOGETHER = Model((channel_of("value", 2), channel_of("shape", 4)))


def test_the_score_is_the_most_anomalous_channel_s_over_normalised_features() -> None:
    value, shape = TOGETHER.channels
    score = score_reading(TOGETHER, TWO, {"cold": [4.0] * 60 + [9.0], "warm": [65.0] * 61})
    assert score
    # two and a half and a quarter of the usual furthest off; of the levels only the second is; one step is left out
    alone = [value.anomaly_score([2.5, 0.25]), shape.anomaly_score([0.0, 0.0, 0.25, 0.0])]
    assert score.anomaly_score == max(alone) == alone[0]
    assert score.channel == "value"
    assert score.values == {("cold", "value"): 9.0, ("warm", "value"): 65.0}
    assert score.furthest == ("cold", "value")
    # the same in another order
    assert score_reading(Model((shape, value)), TWO, {"cold": [4.0] * 60 + [9.0], "warm": [65.0] * 61}) == score


def test_furthest_is_told_in_what_is_usual_not_in_the_unit() -> None:
    # ten degrees are half of the warm one's usual furthest, three degrees are one and a half of the cold one's
    score = score_reading(SHAPE, TWO, {"cold": [7.0] * 61, "warm": [70.0] * 61})
    assert score
    assert score.furthest == ("cold", "level")
    below = score_reading(SHAPE, TWO, {"cold": [4.0] * 61, "warm": [0.0] * 61})
    assert below
    assert below.furthest == ("warm", "level")


@pytest.mark.parametrize(
    ("deviation", "is_material"), [(0.0, False), (0.4, False), (-0.4, False), (0.5, True), (-0.5, True), (3.0, True)]
)
def test_a_deviation_of_min_deviation_is_material(deviation: float, is_material: bool) -> None:
    cutoff = cutoff_of(range_of("cold", 0.5, value=Usual(4.0, 2.0, 2.0)))
    score = score_reading(Model((channel_of("value", 1),)), cutoff, {"cold": [4.0 + deviation]})
    assert score
    assert score.is_material == is_material


def test_what_any_channel_sees_may_be_material() -> None:
    # the level alone is off, and the other channel alone finds the reading anomalous
    rare = Rarity(7.1, (0.01, 0.02), (5.0, 5.5), 1.0)
    common = Rarity(7.1, (0.01, 0.02), (-5.0, -4.0), 0.001)
    model = Model((channel_of("value", 2, rare), channel_of("shape", 4, common)))
    score = score_reading(model, TWO, {"cold": [*[6.0] * 60, 4.0], "warm": [60.0] * 61})
    assert score
    assert (score.channel, score.is_material) == ("value", True)


def test_windows_that_are_not_full_are_as_usual() -> None:
    (shape,) = SHAPE.channels
    score = score_reading(SHAPE, TWO, {"cold": [9.0] * 60, "warm": [60.0, 65.0] * 30})
    assert score
    assert score.anomaly_score == shape.anomaly_score([2.5, 0.0, 0.25, 0.0])
    assert score.values["cold", "volatility"] is score.values["warm", "volatility"] is None
    assert score.values["cold", "level"] == 9.0


@pytest.mark.parametrize("windows", [{}, {"cold": [4.0] * 61}, {"cold": [4.0] * 61, "warm": []}])
def test_without_a_measure_that_was_learned_there_is_no_score(windows: dict[str, list[float]]) -> None:
    assert score_reading(TOGETHER, TWO, windows) is None


def test_without_a_full_window_there_is_no_score() -> None:
    assert score_reading(SHAPE, TWO, {"cold": [4.0] * 10, "warm": [60.0] * 10}) is None
