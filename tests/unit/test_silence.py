"""Silence: what is no longer heard, told once by what explains most; never a past that is over."""

from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from overcut.sensors.incidents import BACKWARDS, SILENT_SENSOR, SILENT_SITE, SILENT_SOURCE, Equipment
from overcut.sensors.readings import Reading
from overcut.sensors.silence import FORGOTTEN_AFTER, Silence, SourceSeen, about_site, about_source

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
AT_NOON = int(NOON.timestamp())
SILENT_AFTER = 15 * 60
SITES = {"a": "Lyon", "b": "Lyon", "c": "Bergen", "d": "Bergen", "e": ""}
EQUIPMENT = {name: Equipment(name, f"Unit {name}", "north", site) for name, site in SITES.items()}


def reading(sensor_id: str, minute: float) -> Reading:
    return Reading(sensor_id, NOON + timedelta(minutes=minute), {"temperature": 4.0})


def at(minute: float) -> int:
    return AT_NOON + int(60 * minute)


def live(seen: SourceSeen, minutes: Iterable[int], sensors: str = "abcde") -> SourceSeen:
    """Each sensor measures once a minute and is heard at once."""
    for minute in minutes:
        seen.hear([reading(name, minute) for name in sensors], at(minute), SILENT_AFTER)
    return seen


def silence(seen: SourceSeen | Mapping[str, SourceSeen], minute: float) -> Silence:
    sources = {"device": seen} if isinstance(seen, SourceSeen) else seen
    return Silence(sources, at(minute), SILENT_AFTER, lambda: EQUIPMENT)


def found(
    seen: SourceSeen | Mapping[str, SourceSeen],
    minute: float,
    is_open: Collection[tuple[str, str]] = (),
    site_back_at: int = 0,
) -> list[tuple[str, str]]:
    new = silence(seen, minute).new(is_open, lambda site: site_back_at)
    return [(one.kind, one.equipment.sensor_id) for one in new]


def test_a_sensor_that_stops_is_silent_after_a_while_and_is_told_as_what_it_is() -> None:
    seen = live(live(SourceSeen(), range(10)), range(10, 40), "abcd")
    assert found(seen, 24) == []  # it was heard at 9
    (one,) = silence(seen, 24.1).new((), lambda site: 0)
    assert (one.kind, one.equipment, one.since, one.limit) == (SILENT_SENSOR, EQUIPMENT["e"], at(9), SILENT_AFTER)
    assert found(seen, 24.1, {(SILENT_SENSOR, "e")}) == []


def test_a_slow_sensor_is_silent_after_five_of_its_own_intervals() -> None:
    seen = SourceSeen()
    for minute in range(121):
        seen.hear([reading("a", minute)] + [reading("b", minute)] * (minute % 10 == 0), at(minute), SILENT_AFTER)
    live(seen, range(121, 200), "a")
    assert (found(seen, 170), found(seen, 170.1)) == ([], [(SILENT_SENSOR, "b")])


def test_a_sensor_whose_interval_is_not_known_is_not_waited_for() -> None:
    seen = live(live(SourceSeen(), range(3), "abcde"), range(3, 60), "abcd")
    assert found(seen, 59) == []


def test_a_dead_source_is_one_finding_and_none_of_its_sensors() -> None:
    seen = live(SourceSeen(), range(10))
    for tenth in range(600):
        assert found(seen, 9 + tenth / 10) in ([], [(SILENT_SOURCE, "#source#device")])
    assert (found(seen, 24), found(seen, 24.1)) == ([], [(SILENT_SOURCE, "#source#device")])


def test_another_source_goes_on() -> None:
    other = live(SourceSeen(), range(60), "de")
    assert found({"device": live(SourceSeen(), range(10), "abc"), "other": other}, 59) == [
        (SILENT_SOURCE, "#source#device")
    ]


def test_a_whole_site_is_one_finding_though_its_sensors_do_not_stop_in_the_same_second() -> None:
    seen = live(live(SourceSeen(), range(10)), range(10, 16), "bcde")
    live(seen, range(16, 90), "cde")
    site = (SILENT_SITE, about_site(EQUIPMENT["a"]).sensor_id)
    assert found(seen, 24.1) == [site]
    for minute in range(25, 60):
        assert found(seen, minute, {site}) == []


def test_the_sensors_of_a_site_that_comes_back_have_time_to() -> None:
    seen = live(live(live(SourceSeen(), range(10)), range(10, 60), "cde"), range(60, 80), "acde")
    assert found(seen, 74, site_back_at=at(60)) == []
    assert found(seen, 75.1, site_back_at=at(60)) == [(SILENT_SENSOR, "b")]


def test_two_hours_of_backlog_are_no_flood() -> None:
    """The source brings them sensor by sensor, which takes longer than a sensor may be silent."""
    seen, source = live(SourceSeen(), range(10)), (SILENT_SOURCE, "#source#device")
    assert found(seen, 129) == [source]
    minute = 130.0
    for name in "abcde":
        for _ in range(10):
            minute += 0.6
            seen.hear([reading(name, past) for past in range(10, int(minute))], at(minute), SILENT_AFTER)
            assert found(seen, minute) == []
            assert silence(seen, minute).over_at(SILENT_SOURCE, about_source("device"), at(24)) == at(minute)
    live(seen, range(int(minute) + 1, 260), "abcd")
    assert found(seen, 252) == []
    assert found(seen, 253) == [(SILENT_SENSOR, "e")], "once the source had as long as it was away"


def test_a_clock_that_runs_backwards_is_told_though_the_sensor_is_heard() -> None:
    seen = live(SourceSeen(), range(10))
    for minute in range(10, 40):
        readings = [reading(name, minute) for name in "abcd"] + [reading("e", minute - 120)]
        seen.hear(readings, at(minute), SILENT_AFTER)
    (one,) = silence(seen, 39).new((), lambda site: 0)
    assert (one.kind, one.equipment.sensor_id, one.since) == (BACKWARDS, "e", at(9))


def test_the_clock_of_a_whole_source_is_one_finding() -> None:
    seen = live(SourceSeen(), range(10))
    for minute in range(10, 40):
        seen.hear([reading(name, minute - 120) for name in "abcde"], at(minute), SILENT_AFTER)
        assert found(seen, minute) == ([(BACKWARDS, "#source#device")] if minute > 24 else [])


def test_what_was_heard_since_it_was_told_is_over() -> None:
    seen = live(live(SourceSeen(), range(10)), range(10, 40), "abcd")
    assert silence(seen, 40).over_at(SILENT_SENSOR, EQUIPMENT["e"], at(25)) is None
    seen.hear([reading("e", 12)], at(40), SILENT_AFTER)
    assert silence(seen, 40).over_at(SILENT_SENSOR, EQUIPMENT["e"], at(25)) == at(40)
    assert silence(seen, 40).over_at(BACKWARDS, EQUIPMENT["e"], at(41)) is None


def test_a_site_is_back_when_half_of_it_is() -> None:
    seen = live(live(SourceSeen(), range(10)), range(10, 40), "e")
    site = about_site(EQUIPMENT["a"])
    assert silence(seen, 40).over_at(SILENT_SITE, site, at(25)) is None
    seen.hear([reading("a", 40)], at(40), SILENT_AFTER)
    assert silence(seen, 40).over_at(SILENT_SITE, site, at(25)) == at(40)


def test_whom_nobody_has_heard_for_a_month_is_forgotten() -> None:
    seen = live(live(SourceSeen(), range(10)), range(10, 40), "abcd")
    later = at(9) + FORGOTTEN_AFTER
    seen.join(SourceSeen(), later)
    assert not silence(seen, 40).is_forgotten(EQUIPMENT["e"])
    seen.join(SourceSeen(), later + 1)
    assert silence(seen, 40).is_forgotten(EQUIPMENT["e"])
    assert not silence(seen, 40).is_forgotten(about_source("device"))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30)), max_size=40), st.data())
def test_two_polls_that_share_a_source_know_together_what_one_would(
    heard: list[tuple[str, int]], data: st.DataObject
) -> None:
    """They overlap as polls do: the second has read what the first had kept, and both keep what they know by turns."""
    alone, first, second = SourceSeen(), SourceSeen(), SourceSeen()
    for minute, (name, measured) in enumerate(heard):
        alone.hear([reading(name, measured)], at(minute), SILENT_AFTER)
        for poll in data.draw(st.sampled_from([(first,), (second,), (first, second)])):
            poll.hear([reading(name, measured)], at(minute), SILENT_AFTER)
        if data.draw(st.booleans()):
            first.join(deepcopy(second), at(minute))
            second.join(deepcopy(first), at(minute))
    first.join(second, at(len(heard)))
    assert {k: (one.heard_at, one.newest) for k, one in first.sensors.items()} == {
        k: (one.heard_at, one.newest) for k, one in alone.sensors.items()
    }
    assert first.heard_at == alone.heard_at
