"""Tickets: what is decided, in which words, and how it is sent."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overcut.etl_jobs import features
from overcut.etl_jobs.ticket_texts import Prediction
from overcut.etl_jobs.tickets import (
    Action,
    EntryRefusedError,
    EntryState,
    Sending,
    Sent,
    SinkUnavailableError,
    TicketMovedError,
    TicketStatus,
    decide,
    deduplication_key,
    newest,
    run_key,
    send_entries,
)
from overcut.etl_jobs.verdicts import Judgement, Kind, Verdict
from tests.etl_fakes import (
    DAY,
    MONDAY,
    NOW,
    MemorySink,
    MemoryTicketStore,
    changes_of,
    check_ticket_store,
    prediction,
    verdict,
)

HEALTHY, LEARNING, ANOMALOUS = Judgement.HEALTHY, Judgement.LEARNING, Judgement.ANOMALOUS
FAILED, MISSED = Judgement.FAILED, Judgement.MISSED
KEY = "orders_daily#unusual_run"
MINUTE = timedelta(minutes=1)


def steps(*verdicts: Verdict, kind: Kind = Kind.UNUSUAL_RUN) -> list[tuple[str, int, str]]:
    """Action, number of the ticket and run of every change."""
    return [(c.entry.action.value, c.entry.number, c.entry.run_id) for c in changes_of(*verdicts, kind=kind)]


# --- deciding ---


def test_an_anomalous_run_opens_the_next_is_a_comment_and_a_healthy_one_closes() -> None:
    changes = changes_of(verdict(2, HEALTHY), verdict(0), verdict(1), verdict(3, HEALTHY))
    assert [(c.entry.action, c.entry.key, c.entry.sequence, c.entry.follows) for c in changes] == [
        (Action.OPEN, "run#run-0", 0, ""),
        (Action.COMMENT, "run#run-1", 1, "run#run-0"),
        (Action.CLOSE, "close#000001", 2, "run#run-1"),
    ]
    assert [c.head.version for c in changes] == [1, 2, 3]
    assert [c.head.status for c in changes] == [TicketStatus.OPEN, TicketStatus.OPEN, TicketStatus.CLOSED]
    assert changes[1].head.runs == 2
    assert len({c.entry.idempotency_key for c in changes}) == 3
    assert all(c.entry.state is EntryState.OWED for c in changes)


def test_the_next_ticket_is_another_one() -> None:
    assert steps(verdict(0), verdict(1, HEALTHY), verdict(2), verdict(3, LEARNING)) == [
        ("open", 1, "run-0"),
        ("close", 1, "run-1"),
        ("open", 2, "run-2"),
        ("close", 2, "run-3"),
    ]


@pytest.mark.parametrize(
    ("kind", "judgement", "closes"),
    [
        (Kind.UNUSUAL_RUN, HEALTHY, True),
        (Kind.UNUSUAL_RUN, LEARNING, True),
        (Kind.UNUSUAL_RUN, FAILED, False),
        (Kind.UNUSUAL_RUN, MISSED, False),
        (Kind.FAILED_RUN, HEALTHY, True),
        (Kind.FAILED_RUN, LEARNING, True),
        (Kind.FAILED_RUN, ANOMALOUS, True),
        (Kind.FAILED_RUN, MISSED, False),
        (Kind.MISSED_RUN, HEALTHY, True),
        (Kind.MISSED_RUN, LEARNING, True),
        (Kind.MISSED_RUN, ANOMALOUS, True),
        (Kind.MISSED_RUN, FAILED, True),
    ],
)
def test_what_closes_which(kind: Kind, judgement: Judgement, closes: bool) -> None:
    wrong = {Kind.UNUSUAL_RUN: ANOMALOUS, Kind.FAILED_RUN: FAILED, Kind.MISSED_RUN: MISSED}[kind]
    expected = [("open", 1, "run-1")] + [("close", 1, "run-2")] * closes
    assert steps(verdict(1, wrong), verdict(2, judgement), kind=kind) == expected
    assert steps(verdict(0, judgement), verdict(1, wrong), kind=kind) == [("open", 1, "run-1")]


def test_a_run_at_the_very_time_closes_only_a_missed_one() -> None:
    same_time = verdict(1, HEALTHY, run_id="other")
    missed = steps(verdict(1, MISSED), same_time, kind=Kind.MISSED_RUN)
    assert missed == [("open", 1, "run-1"), ("close", 1, "other")]
    assert steps(verdict(1), same_time) == [("open", 1, "run-1")]
    assert steps(verdict(1, FAILED), same_time, kind=Kind.FAILED_RUN) == [("open", 1, "run-1")]


@pytest.mark.parametrize(("kind", "wrong"), [(Kind.UNUSUAL_RUN, ANOMALOUS), (Kind.FAILED_RUN, FAILED)])
def test_a_correction_of_the_very_run_closes(kind: Kind, wrong: Judgement) -> None:
    (opened,) = changes_of(verdict(0, wrong), kind=kind)
    corrected = verdict(0, HEALTHY, recorded_days_later=0.5)
    (closed,) = changes_of(corrected, kind=kind, head=opened.head)
    assert (closed.entry.action, closed.entry.run_id) == (Action.CLOSE, "run-0")
    as_before = verdict(0, HEALTHY)
    assert changes_of(as_before, kind=kind, head=opened.head) == [], "recorded no later: no correction"


def test_a_correction_of_an_earlier_run_of_the_ticket_does_not_close() -> None:
    opened, commented = changes_of(verdict(0), verdict(1))
    corrected = verdict(0, HEALTHY, recorded_days_later=1.5)
    assert changes_of(corrected, head=commented.head, known={opened.entry.key, commented.entry.key}) == []


def test_a_run_older_than_a_closed_ticket_opens_one_that_the_later_run_closes() -> None:
    opened, closed = changes_of(verdict(5), verdict(6, HEALTHY))
    late = changes_of(verdict(3), verdict(5), verdict(6, HEALTHY), head=closed.head, known={opened.entry.key})
    assert [(c.entry.action, c.entry.number, c.entry.run_id) for c in late] == [
        (Action.OPEN, 2, "run-3"),
        (Action.CLOSE, 2, "run-6"),
    ]


def test_an_older_run_of_an_open_ticket_does_not_move_its_end_back() -> None:
    (opened,) = changes_of(verdict(5))
    (commented,) = changes_of(verdict(3), verdict(4, HEALTHY), head=opened.head)
    assert commented.entry.action is Action.COMMENT
    assert (commented.head.first_started_at, commented.head.last_started_at) == (MONDAY + 3 * DAY, MONDAY + 5 * DAY)
    assert commented.head.last_run_id == "run-5"


def test_of_two_verdicts_on_a_run_the_later_state_counts() -> None:
    before, after = prediction(verdict(0)), prediction(verdict(0, HEALTHY, recorded_days_later=1))
    assert newest(before, after) is newest(after, before) is after


def test_keys_fit_a_table_and_differ() -> None:
    long = "😀" * 256
    keys = [deduplication_key(long, kind) for kind in Kind] + [deduplication_key(long + "x", Kind.UNUSUAL_RUN)]
    keys += [run_key(long), run_key(long + "x")]
    assert all(len(key.encode()) <= 1024 for key in keys)
    assert len(set(keys)) == 6
    assert deduplication_key("a#b", Kind.FAILED_RUN) == "a#b#failed_run"
    assert run_key("r1") == "run#r1"


def test_idempotency_keys_differ_where_only_case_or_installation_does() -> None:
    def key(job_name: str, namespace: str) -> str:
        one = prediction(verdict(0, job_name=job_name))
        (change,) = decide(None, Kind.UNUSUAL_RUN, [one], (), NOW, namespace)
        return change.entry.idempotency_key.lower()

    assert len({key("orders", "prod"), key("Orders", "prod"), key("orders", "dev")}) == 3
    assert key("orders", "prod") == key("orders", "prod")


def settle(store: MemoryTicketStore, verdicts: list[Verdict]) -> None:
    """What a pass does, for every job and kind."""
    runs: dict[tuple[str, str], Prediction] = {}
    for one in map(prediction, verdicts):
        name = (one.verdict.job_name, one.verdict.run_id)
        runs[name] = newest(one, runs.get(name, one))
    for job_name in {job_name for job_name, _ in runs}:
        own = [one for (name, _), one in runs.items() if name == job_name]
        for kind in Kind:
            key = deduplication_key(job_name, kind)
            known = store.existing(key, {run_key(one.verdict.run_id) for one in own})
            for change in decide(store.head(key), kind, own, known, NOW, "test"):
                store.apply(change)


VERDICTS = st.lists(
    st.builds(
        lambda job, day, name, judgement, later: verdict(
            day, judgement, job_name=job, recorded_days_later=later, run_id=f"run-{day}{name}"
        ),
        st.sampled_from(["a", "b"]),
        st.integers(0, 6),
        st.sampled_from(["", "x", "y"]),
        st.sampled_from(Judgement),
        st.sampled_from([0.1, 0.2, 1.5]),
    ),
    max_size=14,
)


@given(verdicts=VERDICTS, data=st.data())
def test_the_same_lines_in_any_order_however_often_give_the_same_table(
    verdicts: list[Verdict], data: st.DataObject
) -> None:
    once, shuffled = MemoryTicketStore(), MemoryTicketStore()
    settle(once, verdicts)
    repeated = data.draw(st.lists(st.sampled_from(verdicts), max_size=5)) if verdicts else []
    for _ in range(2):
        settle(shuffled, data.draw(st.permutations(verdicts + repeated)))
    assert (shuffled.heads, shuffled.entries) == (once.heads, once.entries)


@given(
    judgements=st.lists(st.sampled_from(Judgement), max_size=10),
    ends=st.sets(st.integers(0, 10)),
    back=st.integers(0, 4),
)
def test_passes_as_runs_come_give_what_one_pass_gives(judgements: list[Judgement], ends: set[int], back: int) -> None:
    """Every pass reads some of the runs of the passes before it again."""
    verdicts = [verdict(day, judgement) for day, judgement in enumerate(judgements)]
    once, often = MemoryTicketStore(), MemoryTicketStore()
    settle(once, verdicts)
    read = 0
    for end in [*sorted(ends), len(verdicts)]:
        settle(often, verdicts[max(read - back, 0) : end])
        read = max(read, min(end, len(verdicts)))
    assert (often.heads, often.entries) == (once.heads, once.entries)


@given(verdicts=VERDICTS)
def test_a_ticket_opens_once_and_closes_once_and_a_run_enters_once(verdicts: list[Verdict]) -> None:
    store = MemoryTicketStore()
    settle(store, verdicts)
    for key, head in store.heads.items():
        entries = sorted((e for (k, _), e in store.entries.items() if k == key), key=lambda entry: entry.sequence)
        assert [entry.sequence for entry in entries] == list(range(head.next_sequence))
        assert head.version == head.next_sequence
        entered = [entry.run_id for entry in entries if entry.action is not Action.CLOSE]
        assert len(set(entered)) == len(entered)
        for number in range(1, head.number + 1):
            actions = [entry.action for entry in entries if entry.number == number]
            assert actions[0] is Action.OPEN
            assert actions.count(Action.OPEN) == 1
            assert actions.count(Action.CLOSE) == (number < head.number or not head.is_open)
            assert Action.CLOSE not in actions[:-1]


# --- words ---


def texts(*verdicts: Verdict, kind: Kind = Kind.UNUSUAL_RUN) -> list[tuple[str, str]]:
    return [(c.entry.title, c.entry.body) for c in changes_of(*verdicts, kind=kind)]


WHERE = "Prediction: s3://data/predictions/bucket=3.jsonl\nIn the console: https://console/predictions"


def test_the_words_of_a_ticket_from_opening_to_closing() -> None:
    healthy = replace(verdict(2, HEALTHY, rows=119_500), run_time_seconds=845.0, deviations=0.1, anomaly_score=0.5)
    opened, commented, closed = texts(verdict(0), verdict(1, rows=0), healthy)
    assert opened == (
        "orders_daily loaded 1,204 rows, usually about 120,000",
        f"""\
Job: orders_daily
Run: run-0
Started: 2026-03-02 03:00 Europe/Berlin (02:00 UTC)
Rows loaded: 1,204, usually about 120,000 (99 % fewer)
Run time: 2 min 5 s, usually about 14 min
Off: rows loaded, 12.3 standard deviations of this job below the usual
Score: 12.31, cutoff 4.20; higher is more unusual
Unusual: 1 run, since 2026-03-02 03:00 Europe/Berlin (02:00 UTC)
{WHERE}

What to check:
- Was the input complete when the run started?
- Are partitions, files or regions missing?
- Was a filter or a join changed?""",
    )
    assert commented == (
        "Again: orders_daily loaded no rows, usually about 120,000",
        f"""\
Job: orders_daily
Run: run-1
Started: 2026-03-03 03:00 Europe/Berlin (02:00 UTC)
Rows loaded: 0, usually about 120,000
Run time: 2 min 5 s, usually about 14 min
Off: rows loaded, 12.3 standard deviations of this job below the usual
Score: 12.31, cutoff 4.20; higher is more unusual
Unusual: 2 runs in a row, since 2026-03-02 03:00 Europe/Berlin (02:00 UTC)
{WHERE}""",
    )
    assert closed == (
        "orders_daily is back to usual",
        f"""\
Job: orders_daily
Run: run-2
Started: 2026-03-04 03:00 Europe/Berlin (02:00 UTC)
Rows loaded: 119,500, usually about 120,000
Run time: 14 min 5 s, usually about 14 min
Unusual: 2 runs, from 2026-03-02 03:00 Europe/Berlin (02:00 UTC) to 2026-03-03 03:00 Europe/Berlin (02:00 UTC)
{WHERE}""",
    )


def test_the_words_about_a_run_that_never_came() -> None:
    missed = replace(
        verdict(0, MISSED, rows=None),
        usual_records=None,
        run_time_seconds=None,
        usual_seconds=None,
        anomaly_score=None,
        score_cutoff=None,
        feature="",
        deviations=None,
    )
    opened, closed = texts(missed, verdict(1, FAILED), kind=Kind.MISSED_RUN)
    assert opened == (
        "orders_daily did not run at 2026-03-02 03:00 Europe/Berlin (02:00 UTC)",
        f"""\
Job: orders_daily
Expected: 2026-03-02 03:00 Europe/Berlin (02:00 UTC)
Schedule: 0 3 * * *, in Europe/Berlin
Missed: 1 run, since 2026-03-02 03:00 Europe/Berlin (02:00 UTC)
{WHERE}

What to check:
- Is the schedule still active in the orchestrator, and was it changed or paused on purpose?
- Is a run queued or waiting for one before it?
- Did the run's records reach the data lake?""",
    )
    assert closed[0] == "orders_daily ran again"
    assert "Missed: 1 run, 2026-03-02 03:00 Europe/Berlin (02:00 UTC)\n" in closed[1]


def test_the_words_about_a_failed_run() -> None:
    failed = replace(verdict(0, FAILED, rows=None), anomaly_score=None, deviations=None, feature="")
    opened, closed = texts(failed, verdict(1, ANOMALOUS), kind=Kind.FAILED_RUN)
    assert opened[0] == "orders_daily failed"
    assert "Rows loaded" not in opened[1]
    assert "Run time: 2 min 5 s" in opened[1]
    assert "Failed: 1 run, since" in opened[1]
    assert "- What does the run's log in the orchestrator say?" in opened[1]
    assert closed[0] == "orders_daily succeeded again"


def test_a_job_that_is_learning_says_so_when_it_closes() -> None:
    learning = "The job has too few runs to know what is usual for it: this run is in order as far as that tells."
    assert learning in texts(verdict(0), verdict(1, LEARNING))[1][1]
    assert learning not in texts(verdict(0), verdict(1, HEALTHY))[1][1]


@pytest.mark.parametrize(
    ("rows", "usual", "title", "line", "check"),
    [
        (0, 950.4, "loaded no rows, usually about 950", "0, usually about 950\n", "deliver anything"),
        (1, 20.0, "loaded 1 row, usually about 20", "1, usually about 20 (95 % fewer)\n", "input complete"),
        (12, 119_873.0, "loaded 12 rows", "12, usually about 120,000 (over 99 % fewer)\n", "input complete"),
        (239_000, 119_873.0, "loaded 239,000 rows", "(99 % more)\n", "loaded twice"),
        (240_000, 119_873.0, "loaded 240,000 rows", "(2.0 times as many)\n", "loaded twice"),
        (9_000_000, 119_873.0, "loaded 9,000,000 rows", "(75.1 times as many)\n", "backfill"),
        (7, 0.2, "loaded 7 rows, usually about 0", "7, usually about 0 (35.0 times as many)\n", "backfill"),
        (7, None, "loaded 7 rows", "Rows loaded: 7\n", "backfill"),
    ],
)
def test_figures_and_checks_fit_what_is_off(rows: int, usual: float | None, title: str, line: str, check: str) -> None:
    ((opened, body),) = texts(replace(verdict(0, rows=rows), usual_records=usual))
    assert title in opened
    assert line in body
    assert check in body.partition("What to check:")[2]


def test_a_ticket_of_a_job_that_is_still_learning_says_so() -> None:
    line = "Learning: the job has few runs so far; what is usual is a rough guess"
    (_, learning), (_, known) = texts(replace(verdict(0), is_learning=True))[0], texts(verdict(0))[0]
    assert line in learning.splitlines()
    assert line not in known.splitlines()


@pytest.mark.parametrize(
    ("feature", "deviations", "title", "off", "check"),
    [
        ("run_time", 5.0, "took 3 h 20 min, usually about 14 min", "run time, given the rows loaded, 5.0", "a lock"),
        ("run_time", -5.0, "took 3 h 20 min", "below the usual", "skip a step"),
        ("drift", -6.0, "has drifted: 1,204 rows", "rows loaded over the last runs together, 6.0", "four weeks"),
    ],
)
def test_slow_runs_and_drift(feature: str, deviations: float, title: str, off: str, check: str) -> None:
    ((opened, body),) = texts(replace(verdict(0), feature=feature, deviations=deviations, run_time_seconds=12_030.0))
    assert title in opened
    assert off in body
    assert check in body


def test_every_feature_has_words() -> None:
    assert features.FEATURES == ("records", "run_time", "drift")


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("UTC", "2026-03-02 02:00 UTC"),
        ("No/Where", "2026-03-02 02:00 UTC"),
        ("../etc", "2026-03-02 02:00 UTC"),
        ("America/New_York", "2026-03-01 21:00 America/New_York (2026-03-02 02:00 UTC)"),
    ],
)
def test_times_are_the_jobs_own_and_utc(zone: str, shown: str) -> None:
    assert f"Started: {shown}\n" in texts(replace(verdict(0), time_zone=zone))[0][1]


def test_a_name_with_line_ends_makes_no_second_line() -> None:
    title, body = texts(verdict(0, job_name="a\nScore: 0", run_id="b\nc"))[0]
    assert title.startswith("a Score: 0 loaded")
    assert "\nScore: 0" not in body


# --- sending ---


class Outbox:
    """A store with what a pass decided, a sink, and the time."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.store, self.sink = MemoryTicketStore(), MemorySink()
        self.now = NOW
        self.has_time: Callable[[], bool] = lambda: True
        settle(self.store, list(verdicts))

    def clock(self) -> datetime:
        return self.now

    def send(self) -> Sent:
        return send_entries(
            self.store.owed(),
            store=self.store,
            sink=self.sink,
            clock=self.clock,
            has_time=lambda: self.has_time(),
            sending=Sending(timedelta(seconds=90), timedelta(hours=24)),
        )

    def states(self, key: str = KEY) -> list[str]:
        entries = sorted((e for (k, _), e in self.store.entries.items() if k == key), key=lambda e: e.sequence)
        return [entry.state.value for entry in entries]


TICKET = (verdict(0), verdict(1), verdict(2, HEALTHY))
DONE = {"ticket-1": [(Action.OPEN, "run-0"), (Action.COMMENT, "run-1"), (Action.CLOSE, "run-2")]}


def test_the_memory_store_keeps_the_contract() -> None:
    def moved(call: Callable[[], None]) -> bool:
        try:
            call()
        except TicketMovedError:
            return True
        return False

    check_ticket_store(MemoryTicketStore(), moved)


def test_entries_are_sent_in_order_once() -> None:
    outbox = Outbox(*TICKET)
    assert outbox.send() == Sent(sent=3)
    assert outbox.sink.tickets == DONE
    assert outbox.send() == Sent()
    assert outbox.sink.calls == 3
    head = outbox.store.head(KEY)
    assert head
    assert head.reference == "ticket-1"


def test_what_follows_waits_for_what_was_not_taken() -> None:
    outbox = Outbox(*TICKET)
    outbox.sink.faults = [None, SinkUnavailableError("busy")]
    assert outbox.send() == Sent(sent=1, owed=2)
    assert outbox.states() == ["sent", "owed", "owed"]
    outbox.now += MINUTE
    assert outbox.send() == Sent(sent=2)
    assert outbox.sink.tickets == DONE


def test_an_answer_that_is_lost_does_not_act_twice() -> None:
    outbox = Outbox(*TICKET)
    outbox.sink.faults, outbox.sink.accepts_before_fault = [SinkUnavailableError("timeout")], True
    assert outbox.send() == Sent(owed=3)
    outbox.now += MINUTE
    assert outbox.send() == Sent(sent=3)
    assert outbox.sink.tickets == DONE


def test_an_entry_waits_longer_after_every_attempt() -> None:
    outbox = Outbox(verdict(0))
    waits = []
    for _ in range(9):
        outbox.sink.faults = [SinkUnavailableError("busy")]
        assert outbox.send() == Sent(owed=1)
        entry = outbox.store.entries[KEY, "run#run-0"]
        assert entry.next_attempt_at
        waits.append((entry.next_attempt_at - outbox.now).total_seconds())
        outbox.now = entry.next_attempt_at - timedelta(seconds=1)
        calls = outbox.sink.calls
        assert outbox.send() == Sent(owed=1)
        assert outbox.sink.calls == calls, "not before its time"
        outbox.now += timedelta(seconds=1)
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_retry_after_holds_for_everything_and_the_next_pass() -> None:
    outbox = Outbox(verdict(0), verdict(0, job_name="another"), verdict(0, job_name="zebra"))
    outbox.sink.faults = [SinkUnavailableError("slow down", timedelta(minutes=10))]
    assert outbox.send() == Sent(owed=3)
    outbox.now += timedelta(minutes=9)
    assert outbox.send() == Sent(owed=3)
    assert outbox.sink.calls == 1
    outbox.now += MINUTE
    assert outbox.send() == Sent(sent=3)


def test_a_sink_that_is_down_is_not_asked_for_ever() -> None:
    outbox = Outbox(*(verdict(0, job_name=f"job-{k}") for k in range(9)))
    outbox.sink.faults = [SinkUnavailableError("down")] * 9
    assert outbox.send() == Sent(owed=9)
    assert outbox.sink.calls == 3


def test_a_few_entries_that_fail_do_not_hold_up_the_rest() -> None:
    outbox = Outbox(*(verdict(0, job_name=f"job-{k}") for k in range(9)))
    outbox.sink.faults = [SinkUnavailableError("broken")] * 3
    outbox.send()
    assert outbox.send() == Sent(sent=6, owed=3)


def test_a_refused_opening_is_parked_with_what_follows_and_can_be_tried_again() -> None:
    outbox = Outbox(*TICKET)
    outbox.sink.faults = [EntryRefusedError("no such field")]
    assert outbox.send() == Sent(parked=3)
    assert outbox.states() == ["parked"] * 3
    assert outbox.store.entries[KEY, "run#run-0"].reason == "refused: no such field"
    assert outbox.store.entries[KEY, "close#000001"].reason.endswith("refused: no such field")
    assert outbox.send() == Sent()
    for entry in list(outbox.store.entries.values()):
        assert outbox.store.retry_parked(entry)
    assert outbox.send() == Sent(sent=3)
    assert outbox.sink.tickets == DONE


def test_a_refused_comment_does_not_hold_up_the_closing() -> None:
    outbox = Outbox(*TICKET)
    outbox.sink.faults = [None, EntryRefusedError("too long")]
    assert outbox.send() == Sent(sent=2, parked=1)
    assert outbox.states() == ["sent", "parked", "sent"]
    assert outbox.sink.tickets == {"ticket-1": [(Action.OPEN, "run-0"), (Action.CLOSE, "run-2")]}


def test_what_was_tried_for_a_day_is_parked() -> None:
    outbox = Outbox(*TICKET)
    outbox.sink.faults = [SinkUnavailableError("down")] * 99
    outbox.send()
    outbox.now += timedelta(hours=24) - MINUTE
    assert outbox.send() == Sent(owed=3)
    outbox.now += timedelta(hours=1)
    assert outbox.send() == Sent(parked=3)
    assert outbox.store.entries[KEY, "run#run-0"].reason == "tried 3 times: down"
    outbox.sink.faults = []
    outbox.now += DAY
    for entry in list(outbox.store.entries.values()):
        outbox.store.retry_parked(entry)
    outbox.sink.faults = [SinkUnavailableError("down")]
    assert outbox.send() == Sent(owed=3), "its day begins anew"


def test_a_claim_that_ran_out_is_sent_again() -> None:
    outbox = Outbox(verdict(0))
    entry = outbox.store.entries[KEY, "run#run-0"]
    assert outbox.store.claim(entry, outbox.now, outbox.now + MINUTE)
    assert outbox.send() == Sent(owed=1), "somebody may be sending it"
    outbox.now += 2 * MINUTE
    assert outbox.send() == Sent(sent=1)
    assert outbox.store.entries[KEY, "run#run-0"].attempts == 2


def test_without_time_everything_stays_owed() -> None:
    outbox = Outbox(*TICKET)
    outbox.has_time = lambda: outbox.sink.calls < 2
    assert outbox.send() == Sent(sent=2, owed=1)
    outbox.has_time = lambda: True
    assert outbox.send() == Sent(sent=1)


def test_a_ticket_gone_and_opened_anew_is_where_the_rest_goes() -> None:
    outbox = Outbox(*TICKET)
    take = outbox.sink.comment
    outbox.sink.comment = lambda entry, reference: take(entry, "ticket-9")  # type: ignore[method-assign]
    assert outbox.send() == Sent(sent=3)
    assert outbox.sink.tickets["ticket-9"] == [(Action.COMMENT, "run-1"), (Action.CLOSE, "run-2")]


@given(
    judgements=st.lists(st.sampled_from([ANOMALOUS, HEALTHY]), max_size=8),
    faults=st.lists(st.sampled_from(["", "lost", "refused", "busy"]), max_size=12),
    accepts=st.booleans(),
)
def test_whatever_fails_nothing_is_lost_doubled_or_out_of_order(
    judgements: list[Judgement], faults: list[str], accepts: bool
) -> None:
    outbox = Outbox(*(verdict(day, judgement) for day, judgement in enumerate(judgements)))
    errors: dict[str, Exception | None] = {
        "": None,
        "lost": SinkUnavailableError("lost"),
        "busy": SinkUnavailableError("busy", MINUTE),
        "refused": EntryRefusedError("refused"),
    }
    outbox.sink.faults, outbox.sink.accepts_before_fault = [errors[fault] for fault in faults], accepts
    for _ in range(20):
        outbox.send()
        outbox.now += timedelta(minutes=20)
    outbox.sink.faults = []
    for entry in sorted(outbox.store.entries.values(), key=lambda entry: entry.sequence):
        assert entry.state in (EntryState.SENT, EntryState.PARKED)
        outbox.store.retry_parked(entry)
    assert outbox.send().owed == 0
    assert set(outbox.states()) <= {"sent"}
    done = [step for steps_of_one in outbox.sink.tickets.values() for step in steps_of_one]
    assert sorted(done) == sorted((e.action, e.run_id) for e in outbox.store.entries.values())
    for steps_of_one in outbox.sink.tickets.values():
        assert steps_of_one[0][0] is Action.OPEN


def test_a_missed_run_that_began_a_little_early_and_came_late_closes_its_ticket() -> None:
    absent = replace(verdict(0, Judgement.MISSED), run_id="missed-0")
    came = replace(verdict(-5 / 1440), judgement=Judgement.HEALTHY)
    kinds = [change.entry.action for change in changes_of(absent, kind=Kind.MISSED_RUN)]
    assert kinds == [Action.OPEN]
    head = changes_of(absent, kind=Kind.MISSED_RUN)[0].head
    assert [c.entry.action for c in changes_of(came, kind=Kind.MISSED_RUN, head=head)] == [Action.CLOSE]
    earlier = replace(verdict(-15 / 1440), judgement=Judgement.HEALTHY)
    assert changes_of(earlier, kind=Kind.MISSED_RUN, head=head) == []
