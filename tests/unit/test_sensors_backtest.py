"""The backtest of sensors: production's own functions, walked forward in time, and figures that can be counted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lambdas.sensors.detect_anomalies.detection as detecting
import overcut.sensors.backtest as backtesting
import overcut.sensors.judging as judging
import training.sensors.train as training
from lambdas.sensors.detect_anomalies.detection import Judge
from lambdas.sensors.stores import CutoffsStore, DataBucket
from overcut.sensors import cohorts, cutoffs, incidents, learning, models
from overcut.sensors.backtest import BacktestRules, Fault, Replay, ReplayedIncident, replay, score
from overcut.sensors.cohorts import SensorSeries, TrainingRules, train_cohort
from overcut.sensors.cutoffs import PROMOTION_DELAY, Cutoff
from overcut.sensors.incidents import JudgedReading, RunRule
from overcut.sensors.judging import Series
from overcut.sensors.models import Model, Score, dump_model
from overcut.sensors.readings import Reading

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
DAY = 1440
RULES = BacktestRules(TrainingRules())


def at(minute: float) -> datetime:
    return MIDNIGHT + timedelta(minutes=minute)


@cache
def cooling(seed: int, readings: int, centre: float = 4.0) -> tuple[float, ...]:
    """A compressor's cycle, rounded to tenths."""
    random = np.random.default_rng(seed)
    wave = np.sin(np.arange(readings) / 40 * 2 * np.pi)
    return tuple(np.round(centre + wave + random.normal(0, 0.2, readings), 1).tolist())


def readings_of(values: Sequence[float], sensor_id: str = "a") -> list[Reading]:
    return [Reading(sensor_id, at(k), {"temperature": value}) for k, value in enumerate(values)]


def together(*of: Sequence[Reading]) -> list[Reading]:
    return sorted((reading for one in of for reading in one), key=lambda reading: reading.measured_at)


def nightly(nights: int) -> list[datetime]:
    return [at(DAY * night + 150) for night in range(1, nights + 1)]


def told(replayed: Replay, sensor_id: str = "a") -> list[ReplayedIncident]:
    return [one for one in replayed.incidents if one.sensor_id == sensor_id]


# --- walked forward ---


def test_a_step_is_found_at_its_fifth_reading_and_recovers_half_an_hour_after_it() -> None:
    values = np.array(cooling(1, 3 * DAY))
    values[3600:3630] += 6.0
    replayed = replay(readings_of(values.tolist()), nightly(2), RULES)
    (one,) = [one for one in told(replayed) if at(3540) < one.opened_at < at(3700)]
    assert (one.kind, one.first_anomalous_at, one.opened_at) == ("equipment", at(3600), at(3604))
    assert one.recovered_at is not None
    assert one.recovered_at >= one.last_anomalous_at + timedelta(minutes=30) >= at(3629 + 30)


def test_a_stuck_sensor_is_an_incident_of_its_kind() -> None:
    values = list(cooling(1, 3 * DAY))
    values[3600:3701] = [*[values[3600]] * 100, values[3600] + 0.5]
    replayed = replay(readings_of(values), nightly(2), RULES)
    stuck = [one for one in told(replayed) if one.kind == "stuck"]
    (one,) = stuck
    stuck_after = replayed.cutoffs["a"][-1].stuck_after
    earlier = next(k for k in range(1, 9) if values[3600 - k] != values[3600]) - 1
    assert one.opened_at == at(3600 - earlier + stuck_after - 1)
    assert one.last_anomalous_at == at(3699)


def test_readings_are_judged_from_a_quarter_of_an_hour_after_the_first_training_on() -> None:
    replayed = replay(readings_of(cooling(1, 3 * DAY)), nightly(2), RULES)
    first = at(DAY + 150) + PROMOTION_DELAY
    assert [one.measured_at for one in replayed.judged["a"]] == [first + k * timedelta(minutes=1) for k in range(2715)]
    assert [cutoff.trained_at for cutoff in replayed.cutoffs["a"]] == nightly(2)
    assert [cutoff.effective_from for cutoff in replayed.cutoffs["a"]] == [one + PROMOTION_DELAY for one in nightly(2)]
    assert len(replayed.scores["a"].anomaly_score) == 2715


def test_verdicts_are_those_of_what_was_in_force() -> None:
    replayed = replay(readings_of(cooling(1, 3 * DAY)), nightly(2), RULES)
    scores = replayed.scores["a"]
    for k, one in enumerate(replayed.judged["a"]):
        cutoff = replayed.cutoffs["a"][one.measured_at >= at(2 * DAY + 165)]
        expected = scores.anomaly_score[k] > cutoff.score_cutoff and scores.is_material[k]
        assert one.is_anomaly == expected, one


def test_each_training_sees_its_window_of_the_past() -> None:
    replayed = replay(readings_of(cooling(1, 3 * DAY)), nightly(2), replace(RULES, window=timedelta(hours=30)))
    assert [cutoff.reading_count for cutoff in replayed.cutoffs["a"]] == [DAY + 150, 30 * 60]


def test_a_sensor_that_slowed_down_is_learned_as_slow() -> None:
    quick = readings_of(cooling(1, 5 * DAY))
    slow = [Reading("a", at(5 * DAY + 60 * k), {"temperature": value}) for k, value in enumerate(cooling(2, 15 * 24))]
    replayed = replay([*quick, *slow], [at(20 * DAY - 30)], RULES)
    (cutoff,) = replayed.cutoffs["a"]
    assert (cutoff.interval, cutoff.reading_count) == (timedelta(hours=1), 14 * 24)


SMALL = 900
TRAININGS = [at(300), at(500), at(700)]


def small(values: Mapping[str, Sequence[float]]) -> Replay:
    return replay(together(*(readings_of(of, sensor_id) for sensor_id, of in values.items())), TRAININGS, RULES)


@cache
def undisturbed() -> tuple[dict[str, list[float]], Replay]:
    values = {name: list(cooling(k, SMALL)) for k, name in enumerate("abc")}
    values["a"][560:580] = [value + 8 for value in values["a"][560:580]]
    return values, small(values)


class Before(NamedTuple):
    judged: dict[str, list[JudgedReading]]
    scores: dict[str, list[float]]
    cutoffs: dict[str, list[Cutoff]]
    opened: list[tuple[str, str, datetime]]


def before(replayed: Replay, moment: datetime) -> Before:
    """All that was judged before a moment: verdicts and their scores, and what had been opened."""
    judged = {name: [one for one in of if one.measured_at < moment] for name, of in replayed.judged.items()}
    scores = {name: replayed.scores[name].anomaly_score[: len(of)].tolist() for name, of in judged.items()}
    cutoffs = {
        name: [cutoff for cutoff in of if cutoff.effective_from <= moment] for name, of in replayed.cutoffs.items()
    }
    opened = [(one.sensor_id, one.kind, one.opened_at) for one in replayed.incidents if one.opened_at < moment]
    return Before(judged, scores, cutoffs, opened)


@given(
    minute=st.integers(250, SMALL - 1),
    shift=st.sampled_from([-30.0, 0.5, 6.0, 1000.0]),
    whose=st.sets(st.sampled_from("abc"), min_size=1),
)
@settings(max_examples=12)
def test_nothing_sees_a_later_reading(minute: int, shift: float, whose: set[str]) -> None:
    values, replayed = undisturbed()
    later = {
        name: [value + shift * (name in whose and k >= minute) for k, value in enumerate(of)]
        for name, of in values.items()
    }
    assert before(small(later), at(minute)) == before(replayed, at(minute))


def test_what_is_compared_there_is_not_nothing() -> None:
    judged, scores, cutoffs, opened = before(undisturbed()[1], at(SMALL))
    assert {name: len(of) for name, of in judged.items()} == dict.fromkeys("abc", SMALL - 315)
    assert all(len(of) == SMALL - 315 for of in scores.values())
    assert {name: len(of) for name, of in cutoffs.items()} == dict.fromkeys("abc", 3)
    assert ("a", "equipment", at(564)) in opened


def test_progress_is_told_after_every_training() -> None:
    done: list[tuple[int, int]] = []
    values, replayed = undisturbed()
    again = replay(
        together(*(readings_of(of, sensor_id) for sensor_id, of in values.items())),
        TRAININGS,
        RULES,
        advance=lambda number, total: done.append((number, total)),
    )
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert again.incidents == replayed.incidents
    assert again.judged == replayed.judged


def test_sensors_that_measure_different_things_are_different_cohorts() -> None:
    humid = [Reading("h", at(k), {"humidity": value}) for k, value in enumerate(cooling(5, SMALL, 50.0))]
    replayed = replay(together(humid, readings_of(cooling(1, SMALL))), TRAININGS, RULES)
    assert replayed.cutoffs["h"][0].cohort_id != replayed.cutoffs["a"][0].cohort_id
    assert replayed.cutoffs["h"][0].ranges[0].measure == "humidity"


def test_a_sensor_that_was_silent_for_a_whole_window_is_learned_anew() -> None:
    values = cooling(1, 4 * DAY)
    readings = [one for one in readings_of(values) if not at(DAY) <= one.measured_at < at(2 * DAY + 200)]
    trainings = [at(600), at(2 * DAY + 150), at(2 * DAY + 300), at(3 * DAY)]
    replayed = replay(readings, trainings, replace(RULES, window=timedelta(days=1)))
    assert [bool(cutoff.ranges) for cutoff in replayed.cutoffs["a"]] == [True, False, True]
    assert [cutoff.trained_at for cutoff in replayed.cutoffs["a"]] == [trainings[0], trainings[1], trainings[3]]
    judged = [one.measured_at for one in replayed.judged["a"]]
    assert not any(at(2 * DAY + 165) <= moment < at(3 * DAY + 15) for moment in judged)
    assert judged[-1] == at(4 * DAY - 1)


# --- learning safely ---


def test_a_lasting_shift_is_closed_as_the_new_normal_and_the_next_fault_is_found() -> None:
    shift, fault = 5 * DAY + 700, 9 * DAY + 300
    values = np.array(cooling(1, 9 * DAY + 600))
    values[shift:] += 6.0
    values[fault : fault + 40] += 6.0
    replayed = replay(readings_of(values.tolist()), nightly(9), RULES)
    assert replayed.held == []
    (shifted,) = [one for one in told(replayed) if at(shift) <= one.opened_at < at(shift + 60)]
    assert shifted.opened_at == at(shift + 4)
    assert shifted.recovered_at is not None
    assert timedelta(hours=24) < shifted.recovered_at - at(shift) <= timedelta(days=3)
    # meanwhile it is one incident
    assert [one for one in told(replayed) if at(shift + 60) <= one.opened_at < shifted.recovered_at] == []
    assert at(fault + 4) in [one.opened_at for one in told(replayed)]


def test_what_is_normal_now_may_be_wilder_than_a_sensor_ever_was() -> None:
    shift = 4 * DAY + 700
    values = np.array(cooling(1, 7 * DAY))
    values[shift:] += np.round(np.random.default_rng(2).normal(0, 3.0, len(values) - shift), 1)
    replayed = replay(readings_of(values.tolist()), nightly(6), RULES)
    first, *_, last = (cutoff.ranges[0].features["level"].up for cutoff in replayed.cutoffs["a"])
    # a review lets it be more than a quarter of a decade further from what it was
    assert last > 2 * first
    (changed,) = [one for one in told(replayed) if at(shift) <= one.opened_at < at(shift + 90)]
    assert changed.recovered_at is not None


def test_a_fault_is_not_learned_as_usual() -> None:
    values = np.array(cooling(1, 3 * DAY))
    values[2000:2400] += 10.0
    learned = replay(readings_of(values.tolist()), nightly(2), RULES).cutoffs["a"]
    assert learned[1].ranges[0].high < 6
    # what is no incident by then is learned from
    assert replay(readings_of(values.tolist()), nightly(2)[1:], RULES).cutoffs["a"][0].ranges[0].high > 12


# --- the same functions as production ---


@pytest.mark.parametrize(
    ("name", "origin", "users"),
    [
        ("judge", judging, [detecting, backtesting]),
        ("decide", incidents, [detecting, backtesting]),
        ("load_model", models, [detecting, backtesting]),
        ("score_reading", models, [judging]),
        ("train_cohort", cohorts, [training, backtesting]),
        ("clean", learning, [training, backtesting]),
        ("review", learning, [training, backtesting]),
        ("retired", cutoffs, [training, backtesting]),
    ],
)
def test_the_backtest_calls_the_functions_that_production_calls(
    name: str, origin: ModuleType, users: list[ModuleType]
) -> None:
    for user in users:
        assert getattr(user, name) is getattr(origin, name)


class OneModel(DataBucket):
    """A data bucket that holds one model."""

    def __init__(self, stored: bytes) -> None:
        self._stored = stored

    def get(self, key: str) -> bytes:
        return self._stored


class NoCutoffs(CutoffsStore):
    def __init__(self) -> None:
        pass


def verdicts_of_production(values: Sequence[float], trained_at: datetime) -> list[JudgedReading]:
    """What the function's own judge says after a training at a reading's time."""
    learned = int((trained_at - MIDNIGHT).total_seconds() / 60)
    column: NDArray[np.float64] = np.array(values[:learned]).reshape(-1, 1)
    trained = train_cohort(
        [SensorSeries("a", int(MIDNIGHT.timestamp()) + 60 * np.arange(learned), column)],
        cohort_id=cohorts.cohort_id("", "recorded", ["temperature"]),
        measures=["temperature"],
        rules=RULES.training,
        trained_at=trained_at,
        seed=RULES.seed,
    )
    assert trained.model
    judge = Judge(NoCutoffs(), OneModel(dump_model(trained.model)), RULES.training.run_rule, 5_000)
    series = Series.of(readings_of(values))
    return judge.judge(series, learned + 15, trained.cutoffs)


LEARNED = 2 * DAY


def faulty() -> list[float]:
    values = list(cooling(1, LEARNED + 300))
    values[LEARNED + 200 : LEARNED + 220] = [value + 8 for value in values[LEARNED + 200 : LEARNED + 220]]
    return values


def both(values: Sequence[float]) -> tuple[Replay, list[JudgedReading]]:
    """What the backtest finds, and what the function does."""
    return replay(readings_of(values), [at(LEARNED)], RULES), verdicts_of_production(values, at(LEARNED))


def test_the_backtest_gives_production_s_verdicts() -> None:
    replayed, judged = both(faulty())
    assert list(replayed.judged["a"]) == judged
    assert at(LEARNED + 204) in [one.opened_at for one in replayed.incidents]


def test_to_replace_the_score_changes_both(monkeypatch: pytest.MonkeyPatch) -> None:
    def above_three(model: Model, cutoff: Cutoff, windows: Mapping[str, Sequence[float]]) -> Score:
        is_high = windows["temperature"][-1] > 3.0
        return Score(1e9 if is_high else -1e9, "fast", {}, ("temperature", "jump"), True)

    values = faulty()
    replayed, judged = both(values)
    monkeypatch.setattr(judging, "score_reading", above_three)
    other, other_judged = both(values)
    assert [one.opened_at for one in replayed.incidents] != [one.opened_at for one in other.incidents]
    assert judged != other_judged
    assert [one.is_anomaly for one in other_judged] == [value > 3.0 for value in values[LEARNED + 15 :]]
    assert list(other.judged["a"]) == other_judged


def test_to_replace_the_run_rule_changes_the_incidents() -> None:
    for minutes in (5, 9):
        rules = replace(RULES, training=replace(RULES.training, run_rule=RunRule(consecutive_minutes=minutes)))
        opened = [one.opened_at for one in replay(readings_of(faulty()), [at(LEARNED)], rules).incidents]
        assert at(LEARNED + 200 + minutes - 1) in opened


# --- figures ---

COUNTED = 5 * DAY
MINUTE = timedelta(minutes=1)


def fault(first: float, last: float, kind: str = "step", sensor_id: str = "a") -> Fault:
    return Fault(sensor_id, at(COUNTED + first), at(COUNTED + last), kind)


def incident(opened: float, last: float | None = None, sensor_id: str = "a") -> ReplayedIncident:
    """One that opened so many minutes after counting begins, four after its first anomalous minute."""
    ended = at(COUNTED + (opened if last is None else last))
    moment = at(COUNTED + opened)
    return ReplayedIncident(sensor_id, "equipment", moment - 4 * MINUTE, moment, ended, ended + 30 * MINUTE)


@cache
def week(sensor_id: str = "a", counted: int = 7 * DAY) -> tuple[Reading, ...]:
    """Five days, and so many readings more."""
    return tuple(Reading(sensor_id, at(k), {"temperature": 4.0}) for k in range(COUNTED + counted))


def figures(
    found: Sequence[ReplayedIncident], faults: Sequence[Fault], readings: Sequence[Reading] | None = None
) -> dict[str, object]:
    return score(week() if readings is None else readings, found, faults)


def test_nothing_happened() -> None:
    assert figures([], []) == {
        "sensors": 1,
        "sensor_weeks": 1.0,
        "faults": 0,
        "found": 0,
        "recall": None,
        "recall_by_kind": {},
        "median_delay_minutes": None,
        "p95_delay_minutes": None,
        "recall_within_10_minutes_by_kind": {},
        "false_incidents": 0,
        "false_incidents_per_sensor_week": 0.0,
        "minutes_in_alert_share": 0.0,
        "found_by_chance": 0.0,
        "incidents": [],
    }


@pytest.mark.parametrize(
    ("opened", "is_found", "is_false"),
    [
        (999, False, True),
        (1000, True, False),  # its first minute
        (1050, True, False),
        (1100, True, False),  # its last
        (1105, True, False),  # five minutes after its end
        (1106, False, False),
        (1160, False, False),  # an hour after its end
        (1161, False, True),
    ],
)
def test_found_and_false(opened: float, is_found: bool, is_false: bool) -> None:
    told = figures([incident(opened)], [fault(1000, 1100)])
    assert (told["faults"], told["found"], told["false_incidents"]) == (1, int(is_found), int(is_false))
    assert told["recall"] == float(is_found)
    assert told["median_delay_minutes"] == (opened - 1000 if is_found else None)


def test_another_sensor_s_incident_finds_nothing() -> None:
    readings = [*week("a"), *week("b")]
    told = figures([incident(1050, sensor_id="b")], [fault(1000, 1100, sensor_id="a")], readings)
    assert (told["sensors"], told["found"], told["false_incidents"]) == (2, 0, 1)
    # two weeks less the 101 minutes of the fault
    assert told["sensor_weeks"] == 1.99
    assert told["false_incidents_per_sensor_week"] == pytest.approx(1 / ((2 * 10_080 - 101) / 10_080))


def test_every_figure() -> None:
    faults = [
        fault(1000, 1100, "step"),
        fault(2000, 2100, "step"),
        fault(3000, 3100, "leak"),
        fault(4000, 4100, "leak"),
        fault(5000, 5004, "noise"),
    ]
    found = [
        incident(1004),
        incident(1090),  # once more in the same fault
        incident(2020),
        incident(3100),
        incident(5009),  # five minutes after its end
        incident(6000, 6015),  # nothing was wrong for twenty minutes
        incident(4161),  # an hour and a minute after a fault: five minutes
    ]
    told = figures(found, faults)
    assert told["faults"] == 5
    assert told["found"] == 4
    assert told["recall"] == 0.8
    assert told["recall_by_kind"] == {"step": 1.0, "leak": 0.5, "noise": 1.0}
    # 4, 9, 20 and 100 minutes
    assert told["median_delay_minutes"] == 14.5
    assert told["p95_delay_minutes"] == pytest.approx(88.0)
    assert told["recall_within_10_minutes_by_kind"] == {"step": 0.5, "leak": 0.0, "noise": 1.0}
    assert told["false_incidents"] == 2
    # 10,080 minutes without the 4 * 101 + 5 of the faults
    assert told["sensor_weeks"] == 0.96
    assert told["false_incidents_per_sensor_week"] == pytest.approx(2 * 10_080 / 9_671)
    # the 20 minutes from 5996 to 6015, and the last of the five from 4157 on: four lie in the hour after the fault
    assert told["minutes_in_alert_share"] == pytest.approx(21 / 9_671)
    assert [one["opened_at"] for one in told["incidents"]] == [  # type: ignore[attr-defined]
        "2026-03-06T16:44:00Z",
        "2026-03-06T18:10:00Z",
        "2026-03-07T09:40:00Z",
        "2026-03-08T03:40:00Z",
        "2026-03-09T11:29:00Z",
        "2026-03-10T04:00:00Z",
        "2026-03-08T21:21:00Z",
    ]
    assert told["incidents"][0] == {  # type: ignore[index]
        "sensor_id": "a",
        "kind": "equipment",
        "first_anomalous_at": "2026-03-06T16:40:00Z",
        "opened_at": "2026-03-06T16:44:00Z",
        "recovered_at": "2026-03-06T17:14:00Z",
    }


def test_an_incident_that_is_open_has_not_recovered() -> None:
    told = figures([replace(incident(1000), recovered_at=None)], [])
    assert told["incidents"][0]["recovered_at"] is None  # type: ignore[index]


def test_ten_minutes_are_within_ten_minutes() -> None:
    told = figures([incident(1010), incident(2011)], [fault(1000, 1100), fault(2000, 2100)])
    assert told["recall_within_10_minutes_by_kind"] == {"step": 0.5}


def test_a_sensor_s_first_five_days_are_learned_from_and_not_counted() -> None:
    readings = week(counted=DAY)
    early = [fault(-1000, -900), fault(-2000, -1900, "leak")]
    told = figures([incident(-950), incident(-500), incident(-1)], early, readings)
    assert (told["faults"], told["false_incidents"], told["sensor_weeks"]) == (0, 0, 0.14)
    assert told["minutes_in_alert_share"] == 0.0
    # from its own first reading on
    late = tuple(Reading("a", one.measured_at + timedelta(days=1), one.values) for one in readings)
    assert figures([incident(500), incident(DAY)], [], late)["false_incidents"] == 1


def test_an_incident_in_a_fault_that_began_before_is_not_false() -> None:
    told = figures([incident(3), incident(70)], [fault(-50, 10)])
    assert (told["faults"], told["found"], told["false_incidents"]) == (0, 0, 0)
    assert told["sensor_weeks"] == 1.0
    assert told["minutes_in_alert_share"] == 0.0
    assert figures([incident(71)], [fault(-50, 10)])["false_incidents"] == 1


def test_counting_may_begin_at_another_time() -> None:
    told = score(week(), [incident(-1000), incident(-1001)], [fault(-900, -800)], counted_from=at(COUNTED - 1000))
    assert (told["faults"], told["false_incidents"]) == (1, 1)


def test_missing_readings_are_no_time_that_counts() -> None:
    readings = [one for k, one in enumerate(week()) if k < COUNTED or k % 2 == 0]
    assert figures([], [], readings)["sensor_weeks"] == 0.5


def test_found_by_chance_is_what_the_same_incidents_find_of_faults_elsewhere() -> None:
    # an incident a minute: wherever a fault is, one opens in it
    always = [incident(k) for k in range(0, 7 * DAY, 90)]
    assert figures(always, [fault(1000, 1100), fault(3000, 3100)])["found_by_chance"] == 2.0
    # one in the fault itself: no shift of at least a twentieth of a week comes back there
    assert figures([incident(1004)], [fault(1000, 1100)])["found_by_chance"] == 0.0
    # a fault that lasts a tenth of the time is found by one incident at about a tenth of the shifts
    tenth = figures([incident(5000)], [fault(1000, 2008)])["found_by_chance"]
    assert tenth == pytest.approx(0.1, abs=0.051)
    assert figures([], [fault(1000, 1100)])["found_by_chance"] == 0.0
