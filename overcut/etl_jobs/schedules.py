"""Schedules: when a job's next run is expected, and whether it never came.

A job that declares a cron schedule is expected at its times, in the job's own zone. Of any other job the cadence is
learned, by the weekday of a start: the longest gap to the next one, where the gaps are regular.

    RefusedError
     └─ ScheduleRefusedError   no schedule of five fields, no known `@name`, or no known time zone
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from cronsim import CronSim, CronSimError

from overcut import RefusedError
from overcut.etl_jobs.features import Floats
from overcut.etl_jobs.job_runs import EARLY, JobRun

# a job that was switched off must not be told of for ever
MOST_IN_A_ROW = 3
# three gaps are the fewest of which a median is not moved by one; a gap of one and a half is no longer the same rhythm,
# two are a run that was left out
MIN_GAPS, MOST_IRREGULAR = 3, 1.5
_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class ScheduleRefusedError(RefusedError):
    """The schedule or the time zone cannot be used; the text says which."""


@dataclass(frozen=True, slots=True)
class MissedRun:
    """A run that never came.

    Attributes:
        expected_at: UTC; with a learned cadence, when it was overdue.
        clear_at: until when a start would still have counted as this run; UTC.
        gap_since: with a learned cadence, the start after which none came; such a gap is one missed run, whatever the
            next model says about its length.
    """

    expected_at: datetime
    clear_at: datetime
    gap_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """When a job is expected.

    Attributes:
        schedule: cron of five fields or `@daily` and the like; empty: none is declared, so `cadence` counts.
        cadence: from `learned_cadence`; None: nothing is known.
    """

    schedule: str
    time_zone: str
    cadence: Floats | None = None


def learned_cadence(runs: Sequence[JobRun]) -> Floats:
    """The longest usual gap in seconds after a start, by its weekday in the job's own zone; shape (7,).

    NaN where fewer than `MIN_GAPS` were seen, or the longest is more than `MOST_IRREGULAR` times their median.

    Args:
        runs: of one job, however they ended; ascending by start.
    """
    cadence = np.full(7, np.nan)
    starts = {run.started_at: run.day_of_week for run in runs}
    gaps = np.diff([start.timestamp() for start in starts])
    days = np.array(list(starts.values())[:-1])
    for day in range(7):
        own = gaps[days == day] if len(gaps) else gaps
        if len(own) >= MIN_GAPS and own.max() <= MOST_IRREGULAR * np.median(own):
            cadence[day] = own.max()
    return cadence


def missed_runs(
    plan: Plan,
    starts: Sequence[datetime],
    *,
    since: datetime,
    judged_from: datetime,
    until: datetime,
    missed_after: timedelta,
) -> list[MissedRun]:
    """The runs expected from `judged_from` on of which it was clear before `until` that they never came.

    An expected time is missed when no run started from shortly before it (`EARLY`, and at most half the time since the
    expected time before) until `missed_after` later, or until shortly before the next one; a start after that does not
    unmake it. Before its first known start a job is not expected, and after `MOST_IN_A_ROW` missed not until it starts
    again. A learned cadence expects one run after each start and no more.

    Args:
        starts: known starts of the job, ascending, UTC; as far back as the last one before `since`.
        since: nobody asks for what was clear before; some of it may be among the answers.

    Raises:
        ScheduleRefusedError: the declared schedule or the time zone cannot be used.
    """
    zone = _zone(plan.time_zone)
    first = max(bisect_left(starts, since - missed_after) - 1, 0)
    if plan.schedule.strip():
        found = _missed_by_schedule(plan.schedule, zone, starts, first, until, missed_after)
    elif plan.cadence is not None:
        found = _missed_by_cadence(plan.cadence, zone, starts, first, until, missed_after)
    else:
        return []
    return [missed for missed in found if missed.expected_at >= judged_from]


def _missed_by_schedule(
    schedule: str, zone: ZoneInfo, starts: Sequence[datetime], first: int, until: datetime, missed_after: timedelta
) -> Iterator[MissedRun]:
    at = first
    while at < len(starts):
        in_a_row, closes = 0, starts[at]
        for before, expected, following in _expected(schedule, zone, starts[at]):
            opens, closes = expected - _early(before, expected), following - _early(expected, following)
            clear_at = min(expected + missed_after, closes)
            if clear_at >= until:
                return
            came, next_came = bisect_left(starts, opens), bisect_left(starts, closes)
            if came == len(starts) or starts[came] >= clear_at:
                in_a_row += 1
                yield MissedRun(expected, clear_at)
            if came < next_came:
                in_a_row = 0
            if in_a_row == MOST_IN_A_ROW:
                break
        else:
            return
        at = bisect_left(starts, closes)


def _missed_by_cadence(
    cadence: Floats, zone: ZoneInfo, starts: Sequence[datetime], first: int, until: datetime, missed_after: timedelta
) -> Iterator[MissedRun]:
    for start, following in zip(starts[first:], [*starts[first + 1 :], until], strict=False):
        seconds = float(cadence[start.astimezone(zone).weekday()])
        if not np.isnan(seconds):
            overdue = start + timedelta(seconds=seconds)
            if overdue + missed_after < min(following, until):
                yield MissedRun(overdue, overdue + missed_after, start)


def _early(before: datetime, expected: datetime) -> timedelta:
    return min(EARLY, (expected - before) / 2)


def _expected(schedule: str, zone: ZoneInfo, moment: datetime) -> Iterator[tuple[datetime, datetime, datetime]]:
    """The expected times after `moment`, each between the one before and the one after; UTC, ascending."""
    local = moment.astimezone(zone)
    before = next(_times(schedule, local, reverse=True), None)
    times = _times(schedule, local)
    expected = next(times, None)
    for following in times:
        if expected is not None:
            yield before or moment, expected, following
        before, expected = expected, following


def _times(schedule: str, local: datetime, *, reverse: bool = False) -> Iterator[datetime]:
    fields = _NAMED.get(schedule.strip().lower(), schedule)
    if len(fields.split()) != 5:
        raise ScheduleRefusedError(
            f"schedule {schedule!r} is neither cron of five fields nor one of {', '.join(_NAMED)}"
        )
    try:
        times = CronSim(fields, local, reverse)
    # a number of thousands of digits is none for Python either
    except (CronSimError, ValueError) as error:
        raise ScheduleRefusedError(f"schedule {schedule!r} is no cron schedule: {error}") from error
    for time in times:
        yield time.astimezone(UTC)


def _zone(time_zone: str) -> ZoneInfo:
    try:
        return ZoneInfo(time_zone)
    except (KeyError, ValueError, OSError) as error:
        raise ScheduleRefusedError(f"time zone {time_zone!r} is not known") from error
