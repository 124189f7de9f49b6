"""Incidents: found by when readings were measured, whatever the order, the batches and the repeats they come in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overcut.sensors.incidents import (
    EQUIPMENT_FAULT,
    KINDS,
    STUCK_SENSOR,
    Cause,
    Change,
    ChangeKind,
    Episode,
    Equipment,
    Head,
    Incident,
    IncidentState,
    JudgedReading,
    Run,
    RunRule,
    decide,
    find_episodes,
    find_runs,
)

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RULE = RunRule(consecutive_minutes=5, recovery_minutes=30)
VERDICTS: Mapping[str, bool | None] = {"!": True, "-": False, "?": None}


def at(clock: str) -> datetime:
    """12:05 or 12:05:30 of the day of these tests."""
    return datetime.fromisoformat(f"2026-03-02T{clock}+00:00")


def drawn(picture: str, begins: str = "12:00", interval: timedelta = MINUTE) -> list[JudgedReading]:
    """Readings from a picture: `!` anomalous, `-` normal, `?` without a verdict, a space where there is none."""
    first = at(begins)
    return [
        JudgedReading(first + k * interval, VERDICTS[mark])
        for k, mark in enumerate(picture.replace("|", ""))
        if mark != " "
    ]


def times(judged: Iterable[JudgedReading]) -> list[datetime]:
    return [one.measured_at for one in judged]


# --- how many readings make a run ---


@pytest.mark.parametrize(
    ("interval", "needed"),
    [
        (timedelta(seconds=10), 30),
        (timedelta(seconds=60), 5),
        (timedelta(minutes=2), 4),
        (timedelta(minutes=4), 3),
        (timedelta(minutes=5), 2),
        (timedelta(minutes=10), 2),
        (timedelta(hours=1), 2),
    ],
)
def test_readings_needed(interval: timedelta, needed: int) -> None:
    assert RULE.readings_needed(interval) == needed


@given(st.integers(61, 7200))
def test_readings_of_a_slower_sensor_span_five_minutes_with_as_few_as_can_be(seconds: int) -> None:
    needed = RULE.readings_needed(timedelta(seconds=seconds))
    assert needed >= 2
    assert (needed - 1) * seconds >= 300
    assert needed == 2 or (needed - 2) * seconds < 300


@pytest.mark.parametrize(
    ("interval", "readings"), [(timedelta(seconds=10), 270), (MINUTE, 90), (timedelta(minutes=10), 90)]
)
def test_history_reaches_over_a_run_and_its_recovery(interval: timedelta, readings: int) -> None:
    assert RULE.history_needed(interval) == readings


def test_history_reaches_over_a_long_recovery() -> None:
    assert RunRule(recovery_minutes=24 * 60).history_needed(MINUTE) == 1455


# --- kinds of incidents ---


@pytest.mark.parametrize("is_anomaly", [True, False])
@pytest.mark.parametrize("is_stuck", [True, False])
def test_each_kind_goes_by_its_own_verdict(is_anomaly: bool, is_stuck: bool) -> None:
    one = JudgedReading(NOON, is_anomaly, is_stuck)
    assert one.of_kind(EQUIPMENT_FAULT).is_anomaly is is_anomaly
    assert one.of_kind(STUCK_SENSOR).is_anomaly is is_stuck
    assert one.of_kind(STUCK_SENSOR).measured_at == NOON


def test_a_reading_without_a_verdict_has_none_of_any_kind() -> None:
    one = JudgedReading(NOON, None)
    assert {one.of_kind(kind).is_anomaly for kind in (EQUIPMENT_FAULT, STUCK_SENSOR)} == {None}


def test_a_sensor_may_be_stuck_and_its_equipment_in_order() -> None:
    judged = [JudgedReading(NOON + k * MINUTE, False, 10 <= k < 20) for k in range(60)]
    stuck = decided(None, [one.of_kind(STUCK_SENSOR) for one in judged])
    assert told(stuck) == ["open 12:10 12:14 12:19", "recover 12:10 12:14 12:19"]
    assert decided(None, [one.of_kind(EQUIPMENT_FAULT) for one in judged]) == []
    assert KINDS == (EQUIPMENT_FAULT, STUCK_SENSOR)


# --- runs ---


@pytest.mark.parametrize(
    ("picture", "runs"),
    [
        ("", []),
        ("-----", []),
        ("-!!!!-", []),
        ("!!!!!", [("12:00", "12:04", "12:04")]),
        ("--!!!!!!!-", [("12:02", "12:06", "12:08")]),
        ("!!!-!!!!", []),
        ("!!!-!!!!!", [("12:04", "12:08", "12:08")]),
        # one missing minute is a gap of two intervals, two are more than that
        ("!!! !!", [("12:00", "12:05", "12:05")]),
        ("! ! ! ! !", [("12:00", "12:08", "12:08")]),
        ("!!!  !!", []),
        ("!!!!!  !!!!!", [("12:00", "12:04", "12:04"), ("12:07", "12:11", "12:11")]),
        # a reading without a verdict is as if it were missing
        ("!!?!!!", [("12:00", "12:05", "12:05")]),
        ("!!!??!!", []),
        ("?????", []),
        ("!!!!!-!!!!!", [("12:00", "12:04", "12:04"), ("12:06", "12:10", "12:10")]),
    ],
)
def test_runs(picture: str, runs: list[tuple[str, str, str]]) -> None:
    expected = [Run(at(first), at(completed), at(last)) for first, completed, last in runs]
    assert find_runs(drawn(picture), MINUTE, RULE) == expected


def test_a_gap_is_over_two_intervals_to_the_second() -> None:
    four = drawn("!!!!")
    assert len(find_runs([*four, JudgedReading(at("12:05:00"), True)], MINUTE, RULE)) == 1
    assert find_runs([*four, JudgedReading(at("12:05:01"), True)], MINUTE, RULE) == []


@pytest.mark.parametrize(
    ("minutes", "picture", "completed"),
    [
        (2, "!!!", None),
        (2, "!!!!", "12:06"),
        (4, "!!", None),
        (4, "!!!", "12:08"),
        (5, "!!", "12:05"),
        (60, "!!", "13:00"),
    ],
)
def test_runs_of_slower_sensors(minutes: int, picture: str, completed: str | None) -> None:
    interval = timedelta(minutes=minutes)
    found = [run.completed for run in find_runs(drawn(picture, interval=interval), interval, RULE)]
    assert found == ([at(completed)] if completed else [])


def test_jitter_of_seconds_does_not_break_a_run() -> None:
    jittered = ["12:00:02", "12:00:59", "12:02:01", "12:03:00", "12:03:58"]
    assert len(find_runs([JudgedReading(at(one), True) for one in jittered], MINUTE, RULE)) == 1
    slow = [JudgedReading(at("12:00:03"), True), JudgedReading(at("12:05:01"), True)]
    assert len(find_runs(slow, timedelta(minutes=5), RULE)) == 1


def test_a_burst_of_readings_is_no_run() -> None:
    in_five_seconds = [JudgedReading(at(f"12:00:0{k}"), True) for k in range(6)]
    assert find_runs(in_five_seconds, MINUTE, RULE) == []
    twice = [JudgedReading(at("12:00:00"), True), JudgedReading(at("12:00:10"), True)]
    assert find_runs(twice, timedelta(minutes=5), RULE) == []
    (run,) = find_runs([*twice, JudgedReading(at("12:05:00"), True)], timedelta(minutes=5), RULE)
    assert run == Run(at("12:00"), at("12:05"), at("12:05"))


# --- episodes ---


def episodes(picture: str) -> list[tuple[str, str, str, str | None]]:
    judged = drawn(picture)
    return [
        (
            f"{e.first_anomalous_at:%H:%M}",
            f"{e.opened_at:%H:%M}",
            f"{e.last_anomalous_at:%H:%M}",
            f"{e.recovered_at:%H:%M}" if e.recovered_at else None,
        )
        for e in find_episodes(find_runs(judged, MINUTE, RULE), judged, RULE)
    ]


def test_episodes() -> None:
    run = "!!!!!"
    assert episodes(run + "-" * 29) == [("12:00", "12:04", "12:04", None)]
    assert episodes(run + "-" * 30) == [("12:00", "12:04", "12:04", "12:34")]
    assert episodes(run + "-" * 29 + run) == [("12:00", "12:04", "12:38", None)]
    assert episodes(run + "-" * 30 + run) == [("12:00", "12:04", "12:04", "12:34"), ("12:35", "12:39", "12:39", None)]


def test_only_a_normal_reading_is_a_recovery() -> None:
    run = "!!!!!"
    assert episodes(run + " " * 29 + "!!") == [("12:00", "12:04", "12:04", None)]
    assert episodes(run + " " * 29 + "!!-") == [("12:00", "12:04", "12:04", "12:36")]
    assert episodes(run + " " * 29 + "?!?") == [("12:00", "12:04", "12:04", None)]
    assert episodes(run + " " * 60 + run) == [("12:00", "12:04", "13:09", None)]


def test_a_streak_that_may_yet_be_a_run_is_waited_for() -> None:
    judged = "!!!!!" + "-" * 27 + "!!!!"
    assert episodes(judged) == [("12:00", "12:04", "12:04", None)]
    assert episodes(judged + "!") == [("12:00", "12:04", "12:36", None)]
    assert episodes(judged + "-") == [("12:00", "12:04", "12:04", "12:36")]


# --- what is decided ---


def head(
    first: str, opened: str, last: str, recovered: str | None = None, *, version: int = 1, contradicted: bool = False
) -> Head:
    return Head(version, at(opened), at(first), at(last), at(recovered) if recovered else None, contradicted)


def told(changes: Sequence[Change]) -> list[str]:
    return [
        f"{c.kind} {c.episode.first_anomalous_at:%H:%M} {c.episode.opened_at:%H:%M} {c.episode.last_anomalous_at:%H:%M}"
        for c in changes
    ]


def decided(known: Head | None, judged: Sequence[JudgedReading], new: Iterable[datetime] | None = None) -> list[Change]:
    return decide(known, judged, set(times(judged) if new is None else new), MINUTE, RULE)


def test_four_anomalous_minutes_are_no_incident() -> None:
    assert decided(None, drawn("---!!!!")) == []


def test_the_fifth_opens_one() -> None:
    assert decided(None, drawn("---!!!!!")) == [
        Change(
            ChangeKind.OPEN,
            Episode(at("12:03"), at("12:07"), at("12:07")),
            Head(1, at("12:07"), at("12:03"), at("12:07")),
        )
    ]


def test_the_sixth_extends_it() -> None:
    known = head("12:03", "12:07", "12:07")
    extended = head("12:03", "12:07", "12:08", version=2)
    assert decided(known, drawn("---!!!!!!"), [at("12:08")]) == [
        Change(ChangeKind.EXTEND, Episode(at("12:03"), at("12:07"), at("12:08")), extended)
    ]


def test_what_is_known_changes_nothing() -> None:
    assert decided(head("12:03", "12:07", "12:08"), drawn("---!!!!!!")) == []
    assert decided(head("12:03", "12:07", "12:08"), drawn("---!!!!!!-")) == []


def test_half_an_hour_later_a_normal_reading_closes_it() -> None:
    known = head("12:00", "12:04", "12:04", version=6)
    assert decided(known, drawn("!!!!!" + "-" * 29)) == []
    assert decided(known, drawn("!!!!!" + "-" * 30)) == [
        Change(
            ChangeKind.RECOVER,
            Episode(at("12:00"), at("12:04"), at("12:04"), at("12:34")),
            head("12:00", "12:04", "12:04", "12:34", version=7),
        )
    ]


def test_an_anomalous_reading_after_silence_is_not_told_as_a_recovery() -> None:
    silence = drawn("!!!!!" + " " * 60 + "!")
    assert decided(head("12:00", "12:04", "12:04"), silence) == []


def test_a_late_reading_moves_the_start_and_never_the_key() -> None:
    known = head("12:03", "12:07", "12:08")
    judged = drawn("-!!!!!!!!")
    assert decided(known, judged, [at("12:01"), at("12:02")]) == [
        Change(
            ChangeKind.EXTEND,
            Episode(at("12:01"), at("12:07"), at("12:08")),
            head("12:01", "12:07", "12:08", version=2),
        )
    ]


def test_a_late_reading_completes_a_run_of_the_past_and_it_was_missed() -> None:
    known = head("14:00", "14:04", "14:10")
    past = drawn("--!!!!!" + "-" * 113 + "!" * 11)
    assert decided(known, past, [at("12:04")]) == [
        Change(ChangeKind.MISS, Episode(at("12:02"), at("12:06"), at("12:06"), at("12:36")), None)
    ]
    assert decided(known, past, [at("12:20")]) == []


def test_a_late_normal_reading_contradicts() -> None:
    known = head("12:00", "12:05", "12:05", version=3)
    judged = drawn("!!-!!!-")
    contradicted = head("12:00", "12:05", "12:05", version=4, contradicted=True)
    assert decided(known, judged, [at("12:02")]) == [
        Change(ChangeKind.CONTRADICT, Episode(at("12:00"), at("12:05"), at("12:05")), contradicted)
    ]
    assert decided(contradicted, judged, [at("12:02")]) == []
    recovered = decided(contradicted, drawn("!!-!!!" + "-" * 30))
    assert told(recovered) == ["recover 12:00 12:05 12:05"]
    assert recovered[0].head
    assert recovered[0].head.is_contradicted


def test_readings_that_do_not_reach_back_contradict_nothing() -> None:
    assert decided(head("11:00", "11:04", "12:01"), drawn("!!-")) == []


def test_a_fault_within_the_recovery_time_joins() -> None:
    known = head("12:00", "12:04", "12:04")
    assert told(decided(known, drawn("!!!!!" + "-" * 29 + "!!!!!"))) == ["extend 12:00 12:04 12:38"]


def test_a_second_fault_after_the_recovery_is_a_second_incident() -> None:
    judged = drawn("!!!!!" + "-" * 31 + "!!!!!" + "-" * 30)
    changes = decided(None, judged)
    assert told(changes) == [
        "open 12:00 12:04 12:04",
        "recover 12:00 12:04 12:04",
        "open 12:36 12:40 12:40",
        "recover 12:36 12:40 12:40",
    ]
    assert [change.head.version for change in changes if change.head] == [1, 2, 3, 4]


def test_a_late_run_before_a_recovery_that_was_told_opens_nothing() -> None:
    known = head("12:00", "12:04", "12:04", "12:34", version=2)
    judged = drawn("!!!!!" + "-" * 20 + "!!!!!" + "    -")
    assert decided(known, judged) == [
        Change(
            ChangeKind.EXTEND,
            Episode(at("12:00"), at("12:04"), at("12:29"), at("12:34")),
            head("12:00", "12:04", "12:29", "12:34", version=3),
        )
    ]


def test_a_fault_after_a_recovery_that_was_told_is_told_even_when_late_readings_bridge_them() -> None:
    extended = head("12:00", "12:04", "12:29", "12:34", version=3)
    judged = drawn("!!!!!" + "-" * 20 + "!!!!!" + "    -" + "----" + "!!!!!")
    assert told(decided(extended, judged)) == ["open 12:39 12:43 12:43"]
    both_at_once = decided(replace(extended, last_anomalous_at=at("12:04"), version=2), judged)
    assert told(both_at_once) == ["extend 12:00 12:04 12:29", "open 12:39 12:43 12:43"]


def test_a_recovery_parts_runs_even_when_its_reading_was_corrected() -> None:
    known = head("12:00", "12:04", "12:04", "12:34", version=2)
    judged = drawn("!!!!!" + "-" * 27 + "!!!!!!!!")
    assert told(decided(known, judged, [at("12:34")])) == ["open 12:35 12:39 12:39"]


# --- an incident's reference ---


def test_reference() -> None:
    cause = Cause("temperature", "C", 9.0, 1.0, 5.0, 3.0, 1.0, "v")
    incident = Incident(Equipment("a", "A"), "equipment", IncidentState.OPEN, NOON, NOON, NOON, cause, {})
    # base32 of sha256("a equipment 2026-03-02T12:00:00+00:00"), by coreutils
    assert incident.reference == "G4M4KZ"
    assert replace(incident, last_anomalous_at=at("13:00"), state=IncidentState.RECOVERED).reference == "G4M4KZ"
    assert replace(incident, opened_at=at("12:01")).reference != "G4M4KZ"


# --- any order, any batches, any repeats ---


@dataclass
class Stored:
    first: datetime
    last: datetime
    state: IncidentState
    recovered_at: datetime | None = None


@dataclass
class Pipeline:
    """What detect_anomalies does around `decide`, on dictionaries instead of tables."""

    readings: dict[datetime, bool] = field(default_factory=dict)
    head: Head | None = None
    incidents: dict[datetime, Stored] = field(default_factory=dict)

    def deliver(self, batch: Iterable[JudgedReading]) -> list[Change]:
        """Store a batch and decide about it."""
        arrived = list(batch)
        self.readings |= {one.measured_at: bool(one.is_anomaly) for one in arrived}
        return self.judge(times(arrived))

    def judge(self, new: Iterable[datetime]) -> list[Change]:
        """Decide about readings that are stored."""
        moments = set(new)
        window = self._window(min(moments), RULE.history_needed(MINUTE))
        if self.head and self.head.is_open and window[0].measured_at > self.head.last_anomalous_at:
            window = self._window(self.head.last_anomalous_at, RULE.readings_needed(MINUTE))
        changes = decide(self.head, window, moments, MINUTE, RULE)
        for change in changes:
            self._apply(change)
        return changes

    def _window(self, first: datetime, before: int) -> list[JudgedReading]:
        known = sorted(self.readings)
        chosen = [t for t in known if t < first][-before:] + [t for t in known if t >= first]
        return [JudgedReading(moment, self.readings[moment]) for moment in chosen]

    def _apply(self, change: Change) -> None:
        episode = change.episode
        if change.kind is ChangeKind.MISS:
            assert change.head is None
            self._record_missed(episode)
            return
        assert change.head
        assert change.head.version == (self.head.version if self.head else 0) + 1
        if change.kind is ChangeKind.OPEN:
            self._check_opening(change)
            self.incidents[episode.opened_at] = Stored(
                episode.first_anomalous_at, episode.last_anomalous_at, IncidentState.OPEN
            )
        else:
            assert self.head
            assert episode.opened_at == change.head.opened_at == self.head.opened_at
            stored = self.incidents[episode.opened_at]
            if change.kind is ChangeKind.EXTEND:
                assert episode.first_anomalous_at <= stored.first
                assert episode.last_anomalous_at >= stored.last
                stored.first, stored.last = episode.first_anomalous_at, episode.last_anomalous_at
            if change.kind is ChangeKind.RECOVER:
                assert stored.state is IncidentState.OPEN
                assert self.readings[episode.recovered_at or NOON] is False
                stored.state, stored.recovered_at = IncidentState.RECOVERED, episode.recovered_at
        self.head = change.head

    def _check_opening(self, change: Change) -> None:
        """Nothing that is known is opened again, and nothing that goes on is opened beside itself."""
        first, opened = change.episode.first_anomalous_at, change.episode.opened_at
        assert opened not in self.incidents
        assert all(one.state is not IncidentState.OPEN for one in self.incidents.values())
        assert all(first > one.last for one in self.incidents.values())
        if self.head:
            assert self.head.recovered_at
            far = first - self.head.last_anomalous_at >= timedelta(minutes=30)
            assert far or first > self.head.recovered_at

    def _record_missed(self, episode: Episode) -> None:
        first, last = episode.first_anomalous_at, episode.last_anomalous_at
        for one in self.incidents.values():
            if one.first - last < RULE.recovery and first - one.last < RULE.recovery:
                one.first, one.last = min(one.first, first), max(one.last, last)
                return
        self.incidents[episode.opened_at] = Stored(first, last, IncidentState.MISSED)

    def picture(self) -> object:
        return self.head, {opened: replace(one) for opened, one in self.incidents.items()}


def streaks_in(readings: Mapping[datetime, bool]) -> list[tuple[datetime, datetime, datetime]]:
    """First, fifth and last minute of every run, by what stands one and two minutes before each anomalous one."""
    begin: dict[datetime, datetime] = {}
    members: dict[datetime, list[datetime]] = {}
    for moment in sorted(moment for moment, is_anomaly in readings.items() if is_anomaly):
        one, two = moment - MINUTE, moment - 2 * MINUTE
        begin[moment] = begin.get(one) or (begin.get(two) if one not in readings else None) or moment
        members.setdefault(begin[moment], []).append(moment)
    return [(first, minutes[4], minutes[-1]) for first, minutes in members.items() if len(minutes) >= 5]


def episodes_in(readings: Mapping[datetime, bool]) -> dict[datetime, Stored]:
    """The incidents of readings that came in order, each minute once."""
    normal = sorted(moment for moment, is_anomaly in readings.items() if not is_anomaly)
    found: dict[datetime, Stored] = {}
    current: Stored | None = None
    for first, fifth, last in streaks_in(readings):
        if current is None or (current.recovered_at and current.recovered_at < first):
            current = found[fifth] = Stored(first, last, IncidentState.OPEN)
        current.last = last
        recoveries = [moment for moment in normal if moment - last >= timedelta(minutes=30)]
        current.recovered_at = recoveries[0] if recoveries else None
        current.state = IncidentState.RECOVERED if recoveries else IncidentState.OPEN
    return found


@dataclass(frozen=True)
class Batch:
    """Readings that come together, drawn as a picture that begins some minutes after noon."""

    begins: int
    picture: str

    @property
    def readings(self) -> list[JudgedReading]:
        return drawn(self.picture, f"{NOON + self.begins * MINUTE:%H:%M}")


LENGTHS = st.sampled_from([1, 1, 2, 3, 4, 5, 6, 9, 20, 28, 29, 30, 31, 32, 45, 95])
SERIES = st.lists(st.tuples(st.sampled_from("!!- "), LENGTHS), min_size=1, max_size=6).map(
    lambda parts: "".join(mark * length for mark, length in parts)
)


def cut(series: str, cuts: Iterable[int]) -> list[Batch]:
    """`series` in order, in batches that hold at least one reading."""
    edges = [0, *sorted(min(one, len(series)) for one in cuts), len(series)]
    return [Batch(a, series[a:b]) for a, b in pairwise(edges) if series[a:b].strip()]


PARTITIONS = st.builds(cut, SERIES, st.lists(st.integers(0, 300), max_size=8)).filter(bool)


@st.composite
def deliveries(draw: st.DrawFn) -> list[Batch]:
    """A series in batches, of which some come late and some twice."""
    batches = draw(PARTITIONS)
    held_back = draw(st.sets(st.integers(0, len(batches) - 1), max_size=4))
    delivered = [batch for k, batch in enumerate(batches) if k not in held_back]
    again = draw(st.lists(st.sampled_from(batches), max_size=3))
    for batch in [*draw(st.permutations([batches[k] for k in sorted(held_back)])), *again]:
        delivered.insert(draw(st.integers(0, len(delivered))), batch)
    return delivered


@st.composite
def scattered(draw: st.DrawFn) -> list[Batch]:
    """A short series, every reading on its own, in any order."""
    parts = st.tuples(st.sampled_from("!!- "), st.sampled_from([1, 2, 3, 5, 6, 28, 31]))
    series = "".join(mark * length for mark, length in draw(st.lists(parts, min_size=1, max_size=4)))
    return draw(st.permutations([Batch(k, mark) for k, mark in enumerate(series) if mark != " "]).filter(bool))


@given(PARTITIONS)
def test_in_order_the_incidents_are_those_of_the_series_however_it_is_cut(batches: list[Batch]) -> None:
    pipeline = Pipeline()
    for batch in batches:
        pipeline.deliver(batch.readings)
    assert pipeline.incidents == episodes_in(pipeline.readings)


@given(PARTITIONS)
def test_a_function_that_lags_behind_the_table_finds_the_same(batches: list[Batch]) -> None:
    pipeline = Pipeline({one.measured_at: bool(one.is_anomaly) for batch in batches for one in batch.readings})
    for batch in batches:
        pipeline.judge(times(batch.readings))
    assert pipeline.incidents == episodes_in(pipeline.readings)


@given(deliveries())
def test_the_same_batch_again_changes_nothing(batches: list[Batch]) -> None:
    pipeline = Pipeline()
    for batch in batches:
        pipeline.deliver(batch.readings)
        before = pipeline.picture()
        again = pipeline.deliver(batch.readings)
        assert {change.kind for change in again} <= {ChangeKind.MISS}
        assert pipeline.picture() == before


def check_promises(pipeline: Pipeline) -> None:
    """What holds after any readings in any order."""
    still_open = [opened for opened, one in pipeline.incidents.items() if one.state is IncidentState.OPEN]
    assert still_open == ([pipeline.head.opened_at] if pipeline.head and pipeline.head.is_open else [])
    runs = streaks_in(pipeline.readings)
    for first, _, last in runs:
        assert any(one.first <= first and last <= one.last for one in pipeline.incidents.values()), (first, last)
    if runs and runs[-1][2] == max(pipeline.readings):
        assert pipeline.head, "a fault is going on"
        assert pipeline.head.is_open
        assert pipeline.head.last_anomalous_at == runs[-1][2]


@given(deliveries())
@settings(max_examples=300)
def test_in_any_order_nothing_is_lost_and_nothing_opened_twice(batches: list[Batch]) -> None:
    pipeline = Pipeline()
    for batch in batches:
        pipeline.deliver(batch.readings)
        check_promises(pipeline)


@given(scattered())
@settings(max_examples=100)
def test_reading_by_reading_in_any_order_nothing_is_lost(batches: list[Batch]) -> None:
    pipeline = Pipeline()
    for batch in batches:
        pipeline.deliver(batch.readings)
        check_promises(pipeline)


@given(deliveries())
def test_order_within_a_batch_is_of_no_account(batches: list[Batch]) -> None:
    one, other = Pipeline(), Pipeline()
    for batch in batches:
        assert one.deliver(batch.readings) == other.deliver(reversed(batch.readings))
    assert one.picture() == other.picture()
