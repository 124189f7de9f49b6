"""Features: of one reading in plain Python, of a whole series with numpy, and both the same."""

from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from overcut.sensors.cohorts import SensorSeries, series_features
from overcut.sensors.features import (
    BASELINE_LAG,
    BASELINE_READINGS,
    CHANNELS,
    DETECTORS,
    FEATURES,
    LEVEL_READINGS,
    LONGEST_GAP,
    PLATEAU_READINGS,
    SCALES,
    STEPS,
    STEPS_KEPT,
    WINDOW,
    Feature,
    features_of,
    jump,
    level,
    plateau,
    repeats,
    value,
    volatility,
)
from overcut.sensors.judging import Series

EVERY: tuple[Feature, ...] = ("jump", "plateau", "level", "volatility", "value")
NEEDED = {
    "jump": BASELINE_READINGS + BASELINE_LAG,
    "plateau": BASELINE_READINGS + BASELINE_LAG,
    "level": LEVEL_READINGS,
    "volatility": STEPS + 1,
    "value": 1,
}


# --- literals ---


def test_jump_is_the_reading_less_what_was_usual_before_the_last_ten() -> None:
    # readings -22, … 0, … 22, whose median is 0; then some that do not count, and the reading
    half, lag = BASELINE_READINGS // 2, BASELINE_LAG - 1
    before = [float(k) for k in range(-half, half + 1)]
    assert jump([*before, *[999.0] * lag, 7.5]) == 7.5
    assert jump([*before[::-1], *[-999.0] * lag, -3.0]) == -3.0
    assert jump([-1e6, *before, *[999.0] * lag, 7.5]) == 7.5
    assert jump([*before[1:], *[999.0] * lag, 7.5]) is None


def test_a_step_is_a_jump_of_its_height_at_once() -> None:
    assert [jump([20.0] * 60 + [25.0] * k) for k in (1, 2, 10, 11)] == [5.0] * 4


def test_a_plateau_is_the_least_of_the_last_readings_distances() -> None:
    more = PLATEAU_READINGS - 1
    before = [20.0] * (BASELINE_READINGS + BASELINE_LAG)
    assert plateau([*before, 23.0, *[25.0] * more]) == 3.0
    assert plateau([*before, *[25.0] * more, 22.5]) == 2.5
    assert plateau([*before, *[15.0] * more, 18.0]) == -2.0
    # a moment is none, and what goes on to both sides neither
    assert plateau([*before, *[25.0] * more]) == 0.0
    assert plateau([*before, *[25.0] * more, 20.0]) == 0.0
    assert plateau([*before, *[25.0] * more, 15.0]) == 0.0
    assert plateau(before[1:]) is None


def test_level_is_a_median() -> None:
    half = LEVEL_READINGS // 2
    assert 2 * half + 1 == LEVEL_READINGS
    assert level([20.0] * (half + 1) + [90.0] * half) == 20.0
    assert level([20.0] * half + [90.0] * (half + 1)) == 90.0
    assert level([5.0] * 100 + [20.0] * half + [21.5] + [90.0] * half) == 21.5
    # in any order
    assert level([90.0, 20.0] * half + [21.5]) == 21.5
    assert level([20.0] * (LEVEL_READINGS - 1)) is None


def test_volatility_is_the_mean_step_without_the_largest_fifth() -> None:
    assert (STEPS, STEPS_KEPT) == (60, 48)
    # sixty steps of a half, up and down
    assert volatility([20.0, 20.5] * 30 + [20.0]) == 0.5
    assert volatility([20.0 - 0.5 * k for k in range(61)]) == 0.5
    # steps of 1, 2, … 60, of which 1 to 48 count: 48 * 49 / 2 / 48
    walk = np.cumsum([0.0, *(k * (-1) ** k for k in range(1, 61))]).tolist()
    assert volatility(walk) == 24.5
    assert volatility([1e6, *walk]) == 24.5
    assert volatility(walk[1:]) is None


def test_six_open_doors_an_hour_are_no_volatility_and_a_seventh_is() -> None:
    doors = [20.0] * 61
    for k in range(6):
        doors[5 + 10 * k] = 35.0
    assert volatility(doors) == 0.0
    doors[58] = 35.0
    assert volatility(doors) == 30.0 / 48


def test_value_is_the_reading() -> None:
    assert value([1.0, 2.0, 3.5]) == 3.5


@pytest.mark.parametrize(
    ("window", "found"),
    [([4.0], 1), ([4.0, 4.0, 4.0], 3), ([4.0, 4.1], 1), ([4.0, 4.1, 4.0, 4.0], 2), ([4.0] * 5 + [4.1] + [4.0] * 7, 7)],
)
def test_repeats(window: list[float], found: int) -> None:
    assert repeats(window) == found


# --- what fits what ---


def test_channels_are_made_of_features_that_are_known() -> None:
    assert set(FEATURES) == set(SCALES) == set(EVERY)
    assert features_of("laboratory") == ("value",)
    assert set(features_of("channels")) == {"jump", "plateau", "level", "volatility"}
    assert all(set(CHANNELS[name]) <= set(EVERY) for names in DETECTORS.values() for name in names)


def test_a_window_is_what_the_longest_feature_takes() -> None:
    assert max(NEEDED.values()) == WINDOW


@pytest.mark.parametrize("feature", EVERY)
def test_a_feature_is_known_from_its_full_window_on_and_sees_no_further(feature: Feature) -> None:
    readings = np.random.default_rng(1).normal(20, 1, 200).tolist()
    needed = NEEDED[feature]
    assert FEATURES[feature](readings[: needed - 1] or readings[:1]) is None or needed == 1
    assert FEATURES[feature](readings[:needed]) is not None
    assert FEATURES[feature](readings) == FEATURES[feature](readings[-WINDOW:]) == FEATURES[feature](readings[-needed:])


# --- one reading and a whole series ---


def of_each(times: list[int], columns: list[list[float]], one: SensorSeries) -> dict[Feature, NDArray[np.float64]]:
    """The features as production makes them, reading by reading."""
    names = [f"m{m}" for m in range(len(columns))]
    found: dict[Feature, list[list[float]]] = {feature: [] for feature in EVERY}
    for windows in Series(times, dict(zip(names, columns, strict=True))).windows(0, one.interval):
        for feature in EVERY:
            made = [FEATURES[feature](windows[name]) for name in names]
            found[feature].append([nan if number is None else number for number in made])
    return {feature: np.array(rows) for feature, rows in found.items()}


@st.composite
def recorded(draw: st.DrawFn) -> tuple[list[int], list[list[float]]]:
    """Pieces of readings, as long as windows or a little shorter or longer, with gaps of every length between."""
    lengths = draw(st.lists(st.sampled_from([1, 30, 44, 45, 46, 55, 56, 57, 60, 61, 62, 90]), min_size=1, max_size=4))
    interval = draw(st.sampled_from([10, 60, 300]))
    times: list[int] = []
    begin = 1_770_000_000
    for length in lengths:
        times += [begin + interval * k for k in range(length)]
        begin = times[-1] + interval * draw(st.sampled_from([2, LONGEST_GAP, LONGEST_GAP + 1, 500]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.0, 0.1, 3.0]))
    values = np.round(random.normal(-18, spread, (2, len(times))), draw(st.sampled_from([0, 1, 12])))
    return times, values.tolist()


@given(recorded())
@settings(max_examples=60)
def test_the_features_of_a_series_are_those_of_each_of_its_readings(data: tuple[list[int], list[list[float]]]) -> None:
    times, columns = data
    if len(times) < 2:
        return
    one = SensorSeries("a", np.array(times), np.array(columns).T)
    expected = of_each(times, columns, one)
    whole = series_features(one, EVERY)
    assert set(whole) == set(EVERY)
    for feature in EVERY:
        assert whole[feature].shape == (len(times), 2)
        np.testing.assert_allclose(whole[feature], expected[feature], rtol=1e-9, atol=1e-12, equal_nan=True)


def test_only_what_is_asked_for_is_made() -> None:
    one = SensorSeries("a", 1_770_000_000 + 60 * np.arange(100), np.arange(100.0).reshape(-1, 1))
    assert list(series_features(one, ["level"])) == ["level"]
    found = series_features(one, ["level"])["level"][:, 0].tolist()
    assert [isnan(number) for number in found] == [k < LEVEL_READINGS - 1 for k in range(100)]
    assert found[99] == 99 - LEVEL_READINGS // 2


@pytest.mark.parametrize(("gap", "is_cut"), [(LONGEST_GAP, False), (LONGEST_GAP + 1, True)])
def test_a_window_reaches_over_a_short_gap_and_not_over_a_long_one(gap: int, is_cut: bool) -> None:
    times = 1_770_000_000 + 60 * np.concatenate([np.arange(100), 99 + gap + np.arange(30)])
    found = series_features(SensorSeries("a", times, np.full((130, 1), 4.0)), ["level"])["level"][:, 0]
    assert np.isnan(found[100:]).all() == is_cut
    assert np.isfinite(found[100:]).all() != is_cut
