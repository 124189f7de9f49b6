"""Learning safely: what is left out of a training, and which results are put to use."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from overcut.sensors.cohorts import SensorSeries
from overcut.sensors.cutoffs import Cutoff, Usual, UsualRange, retired
from overcut.sensors.incidents import Label
from overcut.sensors.learning import LONGEST_WINDOW, Abnormal, clean, review, window_of

MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
DAY = 1440
AFTER = timedelta(hours=24)
NOW = MIDNIGHT + timedelta(days=3)


def at(minute: float) -> datetime:
    return MIDNIGHT + timedelta(minutes=minute)


def series(readings: int = 3 * DAY, interval: int = 60) -> SensorSeries:
    times = int(MIDNIGHT.timestamp()) + interval * np.arange(readings)
    return SensorSeries("a", times, np.arange(float(readings)).reshape(-1, 1), min_deviation={"temperature": 0.5})


def left_out(found: SensorSeries) -> set[int]:
    """The minutes after midnight that are not learned from, of those that are there."""
    assert found.is_clean is not None
    return {int(value) for value in found.values[~found.is_clean, 0]}


def cleaned(*abnormal: Abnormal) -> SensorSeries:
    return clean(series(), abnormal, new_normal_after=AFTER)


# --- what is learned from ---


@pytest.mark.parametrize(
    ("interval", "readings", "days"),
    [(60, 100, 14), (10, 100, 14), (840, 100, 14), (1_800, 100, 30), (3_600, 2, 60), (86_400, 14, 120), (3_600, 1, 14)],
)
def test_a_slow_sensor_is_learned_from_as_many_readings_as_one_a_minute_has_in_a_day(
    interval: int, readings: int, days: int
) -> None:
    assert window_of(series(readings, interval), timedelta(days=14)) == timedelta(days=days) <= LONGEST_WINDOW


def test_a_stage_s_shorter_window_is_as_many_readings_for_a_slow_sensor() -> None:
    assert window_of(series(100, 300), timedelta(hours=6)) == timedelta(hours=30)
    assert window_of(series(100, 60), timedelta(hours=6)) == timedelta(hours=6)


def test_without_incidents_everything_is() -> None:
    found = cleaned()
    assert left_out(found) == set()
    assert len(found.measured_at) == 3 * DAY
    assert (found.sensor_id, found.min_deviation) == ("a", {"temperature": 0.5})


def test_an_incident_is_left_out_with_what_led_to_it_and_the_windows_that_hold_it() -> None:
    found = cleaned(Abnormal(at(1000), at(1029)))
    # an hour before it; the 60 readings after it have one of its own in their windows
    assert left_out(found) == set(range(940, 1090))
    assert len(found.measured_at) == 3 * DAY
    np.testing.assert_array_equal(found.values, series().values)


@pytest.mark.parametrize(
    ("interval", "lead", "tail"),
    [
        (10, 360, 60),  # an hour before; after it what has one of its own in its window
        (300, 12, 60),  # which are five hours
        (360, 10, 60),
        (600, 6, 36),  # six hours at most
    ],
)
def test_of_a_slower_or_faster_sensor(interval: int, lead: int, tail: int) -> None:
    first, last = at(1000 * interval / 60), at(1020 * interval / 60)
    found = clean(series(2000, interval), [Abnormal(first, last)], new_normal_after=timedelta(days=99))
    assert left_out(found) == set(range(1000 - lead, 1020 + tail + 1))


def test_every_incident_is_left_out_also_one_that_is_open() -> None:
    found = cleaned(Abnormal(at(1000), at(1010)), Abnormal(at(4000), at(4319)))
    assert left_out(found) == set(range(940, 1071)) | set(range(3940, 4320))


def test_a_false_alarm_is_learned_from() -> None:
    false = Abnormal(at(1000), at(1029), Label.FALSE_ALARM)
    assert left_out(cleaned(false)) == set()
    both = cleaned(false, Abnormal(at(1020), at(1020)))
    assert left_out(both) == set(range(960, 1081))


def test_a_false_alarm_that_lasts_drops_nothing() -> None:
    found = cleaned(Abnormal(at(1000), at(4300), label=Label.FALSE_ALARM))
    assert left_out(found) == set()
    assert len(found.measured_at) == 3 * DAY


def test_what_lasts_for_more_than_a_day_is_how_things_are_now() -> None:
    found = cleaned(Abnormal(at(1000), at(4319)))
    # two hours after it began it has settled; nothing before counts
    assert found.values[:, 0].tolist() == list(range(1120, 3 * DAY))
    assert found.measured_at[0] == at(1120).timestamp()
    assert left_out(found) == set()


def test_so_is_what_lasted_so_long_and_is_over() -> None:
    found = cleaned(Abnormal(at(1000), at(2441)))
    assert found.values[0, 0] == 1120
    assert left_out(found) == set()


@pytest.mark.parametrize(
    ("one", "is_new"),
    [
        (Abnormal(at(1000), at(2440)), False),  # a day to the minute
        (Abnormal(at(1000), at(2441)), True),
        (Abnormal(at(1000), at(1010)), False),  # silent since, perhaps, which shows nothing
        (Abnormal(at(1000), at(4319), label=Label.FAULT), False),
        (Abnormal(at(1000), at(4319), label=Label.FALSE_ALARM), False),
    ],
)
def test_new_normal(one: Abnormal, is_new: bool) -> None:
    assert one.is_new_normal(AFTER) is is_new


def test_a_fault_is_never_the_new_normal() -> None:
    found = cleaned(Abnormal(at(1000), at(4000), Label.FAULT))
    assert left_out(found) == set(range(940, 4061))
    assert len(found.measured_at) == 3 * DAY


def test_the_newest_of_two_new_normals_counts_and_incidents_after_it_are_left_out() -> None:
    found = cleaned(
        Abnormal(at(100), at(1700)),
        Abnormal(at(1800), at(3300)),
        Abnormal(at(4000), at(4009)),
    )
    assert found.values[0, 0] == 1920
    assert left_out(found) == set(range(3940, 4070))


def test_nothing_is_left_of_a_series_that_changed_just_now() -> None:
    found = clean(series(10), [Abnormal(at(-1430), at(9))], new_normal_after=AFTER)
    assert len(found.measured_at) == 10
    found = clean(series(10), [Abnormal(at(-110), at(1400))], new_normal_after=AFTER)
    assert len(found.measured_at) == 0
    assert found.values.shape == (0, 1)
    assert found.is_clean is not None
    assert found.is_clean.shape == (0,)


# --- which results are put to use ---


def usual(up: float, down: float = 1.0) -> Usual:
    return Usual(4.0, up, down)


def cutoff(day: int, sensor_id: str = "a", **features: Usual) -> Cutoff:
    trained_at = MIDNIGHT + timedelta(days=day)
    return Cutoff(
        sensor_id=sensor_id,
        trained_at=trained_at,
        effective_from=trained_at + timedelta(minutes=15),
        cohort_id="c",
        model_version=f"v{day}",
        score_cutoff=1.3,
        score_mean=0.0,
        score_sd=1.0,
        z_factor=2.5,
        interval=timedelta(minutes=1),
        reading_count=1000,
        stuck_after=15,
        ranges=(UsualRange("temperature", 3.0, 5.0, 0.3, features),),  # type: ignore[arg-type]
    )


def history(*ups: float, sensor_id: str = "a") -> list[Cutoff]:
    return [cutoff(day, sensor_id, level=usual(up)) for day, up in enumerate(ups)]


def up_of(one: Cutoff) -> float:
    return one.ranges[0].features["level"].up


def reviewed(new: Cutoff, *earlier: Cutoff, anew: frozenset[str] = frozenset()) -> tuple[Cutoff, bool]:
    found = review([new], {"a": earlier}, anew)
    assert found.held == ""
    return found.cutoffs[0], found.clamped == ("a",)


# a quarter of a decade is a factor of 1.7783
@pytest.mark.parametrize(
    ("up", "expected"), [(1.0, 1.0), (1.77, 1.77), (0.57, 0.57), (1.79, 1.7783), (10.0, 1.7783), (0.1, 0.56234)]
)
def test_what_changed_too_far_is_brought_to_the_edge(up: float, expected: float) -> None:
    found, is_clamped = reviewed(cutoff(9, level=usual(up)), *history(1.0, 1.0, 1.0))
    assert up_of(found) == pytest.approx(expected, rel=1e-4)
    assert is_clamped == (up != expected)
    assert (found.score_cutoff, found.model_version, found.ranges[0].low) == (1.3, "v9", 3.0)
    assert found.ranges[0].features["level"].centre == 4.0


def test_the_band_is_three_standard_deviations_of_decades_wide() -> None:
    # 1, 10 and 100 are 0, 1 and 2 decades: in the middle 1, with a standard deviation of the square root of 2/3;
    # 1 + 3 * 0.81650 = 3.44949 decades are 2815.1
    wide = history(1.0, 10.0, 100.0)
    assert up_of(reviewed(cutoff(9, level=usual(2800.0)), *wide)[0]) == 2800.0
    assert up_of(reviewed(cutoff(9, level=usual(1e6)), *wide)[0]) == pytest.approx(2815.1, rel=1e-4)
    assert up_of(reviewed(cutoff(9, level=usual(1e-6)), *wide)[0]) == pytest.approx(10**-1.44949, rel=1e-4)


def test_both_sides_and_every_feature_are_compared() -> None:
    def both(level: Usual, volatility: Usual) -> Cutoff:
        return cutoff(9, level=level, volatility=volatility)

    before = [both(usual(1.0, 2.0), usual(0.1, 0.0))] * 3
    found, _ = reviewed(both(usual(1.0, 20.0), usual(5.0, 0.0)), *before)
    level, volatility = found.ranges[0].features["level"], found.ranges[0].features["volatility"]
    assert [level.up, level.down] == pytest.approx([1.0, 2 * 1.7783], rel=1e-4)
    # being below is never unusual of a volatility
    assert [volatility.up, volatility.down] == pytest.approx([0.17783, 0.0], rel=1e-4)


def test_what_is_usual_outside_the_routine_is_compared_too() -> None:
    def with_quiet(day: int, up: float) -> Cutoff:
        one = cutoff(day, level=usual(1.0))
        return replace(one, ranges=(replace(one.ranges[0], quiet={"jump": usual(up)}),))

    before = [with_quiet(day, 0.5) for day in range(3)]
    found, is_clamped = reviewed(with_quiet(9, 25.0), *before)
    assert is_clamped
    assert found.ranges[0].quiet["jump"].up == pytest.approx(0.5 * 1.7783, rel=1e-4)
    assert not reviewed(with_quiet(9, 0.6), *before)[1]
    # whose routine is new, has nothing to be compared with
    assert not reviewed(with_quiet(9, 25.0), *history(1.0, 1.0, 1.0))[1]


@pytest.mark.parametrize("versions", [0, 1, 2])
def test_of_fewer_than_three_versions_nothing_can_be_said(versions: int) -> None:
    new = cutoff(9, level=usual(50.0))
    assert reviewed(new, *history(*[1.0] * versions)) == (new, False)


def test_a_version_that_was_retired_says_nothing() -> None:
    new = cutoff(9, level=usual(50.0))
    two = history(1.0, 1.0)
    silent = retired(two[-1], MIDNIGHT, MIDNIGHT)
    assert reviewed(new, *two, silent, silent) == (new, False)
    # nor does its sensor count among those that are compared
    cutoffs, before = fleet(40, 2)
    silenced = {name: of if name in {"s0", "s1"} else [*of[:2], silent] for name, of in before.items()}
    assert review(cutoffs, before).held == ""
    assert review(cutoffs, silenced).held.startswith("2 of 2 sensors")


def test_only_the_last_fortnight_counts() -> None:
    new = cutoff(99, level=usual(50.0))
    assert reviewed(new, *history(*[1.0] * 10, *[40.0] * 14)) == (new, False)
    assert reviewed(new, *history(*[40.0] * 14, *[1.0] * 14))[1]


def test_after_an_approval_what_was_before_no_longer_counts() -> None:
    new = cutoff(20, level=usual(50.0))
    before, approved = history(*[1.0] * 12), replace(cutoff(13, level=usual(45.0)), is_approved=True)
    assert reviewed(new, *before, approved) == (new, False)
    later = [cutoff(day, level=usual(48.0)) for day in (14, 15)]
    assert reviewed(new, *before, approved, *later) == (new, False)
    # it is compared again once three have been put to use
    assert reviewed(cutoff(21, level=usual(500.0)), *before, approved, *later)[1]
    assert not reviewed(cutoff(21, level=usual(500.0)), *before, approved, later[0])[1]


def test_a_sensor_that_is_learned_anew_may_change() -> None:
    new = cutoff(9, level=usual(50.0))
    assert reviewed(new, *history(1.0, 1.0, 1.0), anew=frozenset("a")) == (new, False)


def test_a_feature_or_measure_that_is_new_may_be_anything() -> None:
    new = cutoff(9, jump=usual(50.0))
    assert reviewed(new, *history(1.0, 1.0, 1.0)) == (new, False)
    renamed = replace(new, ranges=(replace(cutoff(9, level=usual(50.0)).ranges[0], measure="humidity"),))
    assert reviewed(renamed, *history(1.0, 1.0, 1.0)) == (renamed, False)


def fleet(sensors: int, changed: int) -> tuple[list[Cutoff], Mapping[str, list[Cutoff]]]:
    names = [f"s{k}" for k in range(sensors)]
    new = [cutoff(9, name, level=usual(50.0 if k < changed else 1.0)) for k, name in enumerate(names)]
    return new, {name: history(1.0, 1.0, 1.0, sensor_id=name) for name in names}


@pytest.mark.parametrize(
    ("sensors", "changed", "held"),
    [
        (1, 1, False),
        (2, 2, True),
        (20, 0, False),
        (20, 1, False),
        (20, 2, True),
        (60, 3, False),  # 5 % are not more than 5 %
        (60, 4, True),
        (100, 5, False),
        (100, 6, True),
    ],
)
def test_a_version_is_held_when_too_many_sensors_changed(sensors: int, changed: int, held: bool) -> None:
    new, before = fleet(sensors, changed)
    found = review(new, before)
    assert bool(found.held) == held
    assert found.clamped == tuple(f"s{k}" for k in range(changed))
    if held:
        assert found.held.startswith(f"{changed} of {sensors} sensors changed more than they ever did: s0, s1")
    # whoever did not change is as it was
    assert list(found.cutoffs[changed:]) == new[changed:]
    assert all(up_of(one) == pytest.approx(1.7783, rel=1e-4) for one in found.cutoffs[:changed])


def test_sensors_that_cannot_be_compared_do_not_count() -> None:
    new, before = fleet(100, 6)
    young: dict[str, list[Cutoff]] = {name: (of if name in {"s0", "s1", "s2"} else []) for name, of in before.items()}
    assert review(new, young).held.startswith("3 of 3 sensors")
    assert review(new, young, frozenset({"s0", "s1"})).held == ""
    assert review(new, {}).held == ""
    assert review([], {}) == review([], before)
