"""When a run is expected, and when it is clear that it never came."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overcut.etl_jobs.schedules import MissedRun, Plan, ScheduleRefusedError, learned_cadence, missed_runs
from tests.unit.generated_job_runs import job_run

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def missed(
    plan: Plan,
    starts: Sequence[datetime],
    until: datetime,
    *,
    judged_from: datetime = MONDAY - 400 * DAY,
    since: datetime | None = None,
    after: timedelta = HOUR,
) -> list[datetime]:
    return [
        one.expected_at
        for one in missed_runs(
            plan, starts, since=since or judged_from, judged_from=judged_from, until=until, missed_after=after
        )
    ]


def late(times: Sequence[datetime], by: timedelta = timedelta(seconds=7)) -> list[datetime]:
    return [time + by for time in times]


def without(times: Sequence[datetime], *gone: datetime) -> list[datetime]:
    return [time for time in times if time not in gone]


def at(hour: int, days: Sequence[int], zone: ZoneInfo | None = None) -> list[datetime]:
    """That hour on each day after `MONDAY`, in the zone."""
    local = [datetime(2026, 3, 2, hour, tzinfo=zone or UTC) + k * DAY for k in days]
    return [one.astimezone(UTC) for one in local]


HOURLY = [MONDAY + k * HOUR for k in range(72)]
DAILY = at(3, range(40))
WEEKDAYS = at(3, [k for k in range(40) if k % 7 < 5])
WEEKLY = at(3, range(0, 40, 7))
MONTH_ENDS = [utc(2025, 11, 30, 3), utc(2025, 12, 31, 3), utc(2026, 1, 31, 3), utc(2026, 2, 28, 3), utc(2026, 3, 31, 3)]
BERLIN_NIGHTS = at(3, range(40), BERLIN)  # summer time begins on 29 March
NEW_YORK_NIGHTS = at(3, range(20), NEW_YORK)  # on 8 March


@pytest.mark.parametrize(
    ("schedule", "zone", "times", "gone"),
    [
        ("0 * * * *", "UTC", HOURLY, HOURLY[30]),
        ("@hourly", "UTC", HOURLY, HOURLY[30]),
        ("0 * * * *", "Europe/Berlin", [utc(2026, 3, 28, 12) + k * HOUR for k in range(40)], utc(2026, 3, 29, 1)),
        ("0 3 * * *", "UTC", DAILY, DAILY[20]),
        ("0 3 * * MON-FRI", "UTC", WEEKDAYS, WEEKDAYS[9]),
        ("0 3 * * 1-5", "UTC", WEEKDAYS, WEEKDAYS[10]),
        ("0 3 * * 1", "UTC", WEEKLY, WEEKLY[3]),
        ("0 3 L * *", "UTC", MONTH_ENDS, MONTH_ENDS[3]),
        ("0 3 * * *", "Europe/Berlin", BERLIN_NIGHTS, BERLIN_NIGHTS[27]),
        ("0 3 * * *", "America/New_York", NEW_YORK_NIGHTS, NEW_YORK_NIGHTS[6]),
        ("*/5 * * * *", "UTC", [MONDAY + k * 5 * MINUTE for k in range(100)], MONDAY + 200 * MINUTE),
        ("* * * * *", "UTC", [MONDAY + k * MINUTE for k in range(100)], MONDAY + 60 * MINUTE),
    ],
)
def test_the_one_run_that_never_came_is_missed(schedule: str, zone: str, times: list[datetime], gone: datetime) -> None:
    plan, until = Plan(schedule, zone), times[-1] + MINUTE / 2
    judged_from = times[0] - HOUR
    assert missed(plan, late(times), until, judged_from=judged_from) == []
    assert missed(plan, late(without(times, gone)), until, judged_from=judged_from) == [gone]


def test_the_clock_change_moves_the_night_with_the_zone() -> None:
    assert {one.hour for one in BERLIN_NIGHTS} == {1, 2}
    until = BERLIN_NIGHTS[-1] + 2 * HOUR
    assert missed(Plan("0 3 * * *", "Europe/Berlin"), late(BERLIN_NIGHTS), until) == []
    # read as UTC, every one of these runs starts an hour or two before it is expected
    assert missed(Plan("0 3 * * *", "UTC"), late(BERLIN_NIGHTS), until)


def test_an_hour_that_is_left_out_or_comes_twice_is_expected_once() -> None:
    spring = [utc(2026, 3, 28, 1, 30), utc(2026, 3, 29, 1, 0), utc(2026, 3, 30, 0, 30)]
    # 02:30 is not there on the 29th: cron runs the job when the clock has moved, at 03:00
    for schedule in ("30 2 * * *", "30,45 2 * * *"):
        starts = late([*spring, utc(2026, 3, 28, 1, 45), utc(2026, 3, 30, 0, 45)])
        found = missed(Plan(schedule, "Europe/Berlin"), sorted(starts), utc(2026, 3, 30, 2), judged_from=spring[0])
        assert found == []
    autumn = [utc(2026, 10, 24, 0, 30), utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)]
    assert missed(Plan("30 2 * * *", "Europe/Berlin"), late(autumn), autumn[-1] + 3 * HOUR) == []
    assert missed(Plan("30 2 * * *", "Europe/Berlin"), late(without(autumn, autumn[1])), autumn[-1] + HOUR) == [
        autumn[1]
    ]


def test_it_is_clear_once_the_run_is_later_than_it_may_be() -> None:
    expected = DAILY[5]
    starts = late(DAILY[:5])
    plan = Plan("0 3 * * *", "UTC")
    assert missed(plan, starts, expected + HOUR) == []
    (one,) = missed_runs(
        plan,
        starts,
        since=MONDAY,
        judged_from=MONDAY,
        until=expected + HOUR + timedelta(microseconds=1),
        missed_after=HOUR,
    )
    assert one == MissedRun(expected, expected + HOUR)


@pytest.mark.parametrize(
    ("start", "counts"),
    [
        (-10 * MINUTE, True),
        (-11 * MINUTE, False),
        (59 * MINUTE, True),
        (60 * MINUTE, False),
        (5 * HOUR, False),
    ],
)
def test_a_start_counts_from_shortly_before_until_it_is_too_late_and_a_late_one_unmakes_nothing(
    start: timedelta, counts: bool
) -> None:
    starts = sorted([*late(without(DAILY, DAILY[5])), DAILY[5] + start])
    found = missed(Plan("0 3 * * *", "UTC"), starts, DAILY[-1])
    assert found == ([] if counts else [DAILY[5]])


def test_a_run_of_the_next_hour_is_not_the_one_before_it() -> None:
    starts = late(without(HOURLY, HOURLY[30]))
    assert missed(Plan("0 * * * *", "UTC"), starts, HOURLY[-1], after=6 * HOUR) == [HOURLY[30]]
    (one,) = missed_runs(
        Plan("0 * * * *", "UTC"),
        starts,
        since=MONDAY,
        judged_from=MONDAY,
        until=HOURLY[-1],
        missed_after=6 * HOUR,
    )
    assert one.clear_at == HOURLY[31] - 10 * MINUTE


def test_a_job_that_ended_for_good_is_told_of_three_times() -> None:
    plan = Plan("0 3 * * *", "UTC")
    assert missed(plan, late(DAILY[:10]), DAILY[10] + 300 * DAY) == DAILY[10:13]
    # whenever one asks from
    for k in range(10, 14):
        assert missed(plan, late(DAILY[:10]), DAILY[30], judged_from=DAILY[k] - HOUR) == DAILY[k:13]
    hourly = missed(Plan("0 * * * *", "UTC"), late(HOURLY[:10]), MONDAY + 300 * DAY)
    assert hourly == HOURLY[10:13]


def test_a_run_between_two_that_never_came_begins_the_count_anew() -> None:
    gone = [DAILY[k] for k in (3, 5, 7, 8, 10, 11)]
    assert missed(Plan("0 3 * * *", "UTC"), late(without(DAILY, *gone)), DAILY[20]) == gone


def test_a_job_that_begins_again_is_expected_again() -> None:
    starts = late([*DAILY[:10], *DAILY[20:25]])
    assert missed(Plan("0 3 * * *", "UTC"), starts, DAILY[26]) == [*DAILY[10:13], DAILY[25]]
    by_hand = sorted([*late(DAILY[:10]), DAILY[15] + 5 * HOUR])
    assert missed(Plan("0 3 * * *", "UTC"), by_hand, DAILY[30]) == [*DAILY[10:13], *DAILY[16:19]]


def test_a_job_is_not_expected_before_its_first_start_nor_before_it_is_judged() -> None:
    plan = Plan("0 3 * * *", "UTC")
    assert missed(plan, [], DAILY[20]) == []
    assert missed(plan, late(DAILY[8:9]), DAILY[9] + 2 * HOUR) == [DAILY[9]]
    assert missed(plan, late([*DAILY[:5], *DAILY[6:9]]), DAILY[9], judged_from=DAILY[5] + MINUTE) == []
    assert missed(plan, late([*DAILY[:5], *DAILY[6:9]]), DAILY[9], judged_from=DAILY[5]) == [DAILY[5]]


def test_what_was_missed_is_the_same_whenever_one_asks() -> None:
    plan, starts = Plan("0 * * * *", "UTC"), late([one for k, one in enumerate(HOURLY) if k not in (20, 21, 40)])
    whole = missed(plan, starts, HOURLY[-1])
    assert whole == [HOURLY[20], HOURLY[21], HOURLY[40]]
    for since in HOURLY[1:60:7]:
        found = missed(plan, starts, HOURLY[-1], since=since)
        assert [one for one in found if one >= since] == [one for one in whole if one >= since]


def test_a_holiday_hole_is_three_missed_runs_of_a_declared_schedule_and_none_in_the_history_of_a_learned_one() -> None:
    holes = [k for k in range(40) if k not in range(14, 21)]
    assert missed(Plan("0 3 * * *", "UTC"), late(at(3, holes)), DAILY[30]) == DAILY[14:17]
    cadence = learned_cadence([job_run(k=k, at=one) for k, one in enumerate(at(3, holes))])
    # the week's hole is a gap after a Sunday: what follows a Sunday is no longer regular, the other days are
    assert np.isnan(cadence).tolist() == [False] * 6 + [True]


@pytest.mark.parametrize(
    ("times", "gaps"),
    [
        (HOURLY, [1, 1, 1, None, None, None, None]),
        (DAILY, [24] * 7),
        (WEEKDAYS, [24, 24, 24, 24, 72, None, None]),
        (WEEKLY, [168, None, None, None, None, None, None]),
        # a Sunday that is an hour shorter
        (BERLIN_NIGHTS, [24, 24, 24, 24, 24, 24, 24]),
        (DAILY[:3], [None] * 7),
        ([], [None] * 7),
    ],
    ids=["hourly", "daily", "weekdays", "weekly", "summer time", "too few", "none"],
)
def test_the_cadence_is_the_longest_usual_gap_by_the_day_of_the_start(
    times: list[datetime], gaps: list[float | None]
) -> None:
    cadence = learned_cadence([job_run(k=k, at=one) for k, one in enumerate(times)])
    assert [None if np.isnan(gap) else round(gap / 3600, 6) for gap in cadence] == gaps


def test_a_job_without_rhythm_is_never_expected() -> None:
    random = np.random.default_rng(3)
    times = np.cumsum(random.exponential(24.0, 200))
    starts = [MONDAY + float(hours) * HOUR for hours in times]
    cadence = learned_cadence([job_run(k=k, at=one) for k, one in enumerate(starts)])
    assert np.isnan(cadence).all()
    assert missed(Plan("", "UTC", cadence), starts, starts[-1] + 100 * DAY) == []
    assert missed(Plan("", "UTC"), starts, starts[-1] + 100 * DAY) == []


def test_a_job_without_a_declared_schedule_is_missed_once_by_its_cadence() -> None:
    starts = late(WEEKDAYS[:25])
    cadence = learned_cadence([job_run(k=k, at=one) for k, one in enumerate(starts)])
    plan, friday = Plan("", "UTC", cadence), starts[-1]
    assert friday.weekday() == 4
    assert missed(plan, starts, friday + 3 * DAY + HOUR) == []
    # no run on Monday; and however long the silence, it is one
    for later in (MINUTE, 100 * DAY):
        assert missed(plan, starts, friday + 3 * DAY + HOUR + later) == [friday + 3 * DAY]
    # the run that came after all does not unmake it, and one that is a little late is none
    assert missed(plan, [*starts, friday + 4 * DAY], friday + 4 * DAY + HOUR) == [friday + 3 * DAY]
    assert missed(plan, [*starts, friday + 3 * DAY + HOUR], friday + 3 * DAY + 2 * HOUR) == []


def test_the_weekday_of_a_start_is_that_of_its_zone() -> None:
    # Friday 23:00 in New York is Saturday in UTC
    fridays = [datetime(2026, 5, 1, 23, tzinfo=NEW_YORK) + 7 * k * DAY for k in range(5)]
    starts = [one.astimezone(UTC) for one in fridays]
    cadence = np.full(7, np.nan)
    cadence[4] = 7 * 86_400
    assert missed(Plan("", "America/New_York", cadence), starts, starts[-1] + 8 * DAY) == [starts[-1] + 7 * DAY]
    assert missed(Plan("", "UTC", cadence), starts, starts[-1] + 8 * DAY) == []


@pytest.mark.parametrize(
    "schedule",
    [
        "nightly",
        "0 3 * *",
        "0 0 3 * * *",
        "61 * * * *",
        "@reboot",
        "0 0 30 2 *",
        "5L/2 * * * *",
        "0 0 * * 5L/2",
        "?",
        "0 " + "9" * 5_000 + " * * *",
    ],
)
def test_a_schedule_that_is_none_is_refused(schedule: str) -> None:
    with pytest.raises(ScheduleRefusedError, match="schedule"):
        missed(Plan(schedule, "UTC"), DAILY, DAILY[-1])


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "America", "Europe/Berlin\0"])
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(ScheduleRefusedError, match="time zone"):
        missed(Plan("0 3 * * *", zone), DAILY, DAILY[-1])


@given(st.lists(st.text("0123456789*/,-#LW?@MONJAN", min_size=1, max_size=6), min_size=5, max_size=5).map(" ".join))
def test_no_text_does_more_than_be_refused(schedule: str) -> None:
    try:
        found = missed(Plan(schedule, "Europe/Berlin"), DAILY[:2], DAILY[3])
    except ScheduleRefusedError:
        return
    assert found == sorted(set(found))
