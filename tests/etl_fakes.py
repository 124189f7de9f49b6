"""Fakes of what `overcut.etl_jobs.tickets` asks for, and the contract that a fake and a real store both keep."""

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from overcut.etl_jobs.ticket_texts import Prediction
from overcut.etl_jobs.tickets import (
    Action,
    Change,
    Entry,
    EntryState,
    TicketHead,
    TicketMovedError,
    TicketStore,
    decide,
)
from overcut.etl_jobs.verdicts import Judgement, Kind, Verdict

MONDAY = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)
NOW = MONDAY + timedelta(hours=1)


def verdict(
    day: float,
    judgement: Judgement = Judgement.ANOMALOUS,
    *,
    job_name: str = "orders_daily",
    run_id: str = "",
    recorded_days_later: float = 0.02,
    rows: int | None = 1_204,
) -> Verdict:
    """A verdict on a run that started so many days after `MONDAY`."""
    started_at = MONDAY + day * DAY
    return Verdict(
        job_name=job_name,
        run_id=run_id or f"run-{day:g}",
        judgement=judgement,
        started_at=started_at,
        recorded_at=started_at + recorded_days_later * DAY,
        model_version="20260301T000000Z",
        records_processed=rows,
        usual_records=119_873.0,
        run_time_seconds=125.0,
        usual_seconds=840.0,
        anomaly_score=12.31,
        score_cutoff=4.2,
        feature="records",
        deviations=-12.3,
        time_zone="Europe/Berlin",
        schedule="0 3 * * *",
    )


def prediction(of: Verdict) -> Prediction:
    return Prediction(of, "s3://data/predictions/bucket=3.jsonl", "https://console/predictions")


def changes_of(
    *verdicts: Verdict, kind: Kind = Kind.UNUSUAL_RUN, head: TicketHead | None = None, known: Collection[str] = ()
) -> list[Change]:
    return decide(head, kind, map(prediction, verdicts), known, NOW, "test")


class MemoryTicketStore:
    """A `TicketStore` that keeps tickets in memory."""

    def __init__(self) -> None:
        self.heads: dict[str, TicketHead] = {}
        self.entries: dict[tuple[str, str], Entry] = {}
        self._paused_until: datetime | None = None

    def head(self, key: str) -> TicketHead | None:
        return self.heads.get(key)

    def existing(self, key: str, entries: Collection[str]) -> set[str]:
        return {entry for entry in entries if (key, entry) in self.entries}

    def apply(self, change: Change) -> None:
        key = change.head.deduplication_key
        version = self.heads[key].version if key in self.heads else 0
        if change.head.version != version + 1 or (key, change.entry.key) in self.entries:
            raise TicketMovedError(key)
        self.heads[key] = change.head
        self.entries[key, change.entry.key] = change.entry

    def entry(self, key: str, entry: str) -> Entry | None:
        return self.entries.get((key, entry))

    def owed(self) -> dict[str, set[str]]:
        owing: dict[str, set[str]] = {}
        for (key, name), entry in self.entries.items():
            if entry.state in (EntryState.OWED, EntryState.SENDING):
                owing.setdefault(key, set()).add(name)
        return owing

    def claim(self, entry: Entry, now: datetime, claimed_until: datetime) -> Entry | None:
        kept = self._kept(entry)
        expired = kept.state is EntryState.SENDING and kept.claimed_until is not None and kept.claimed_until < now
        if kept.state is not EntryState.OWED and not expired:
            return None
        return self._put(
            replace(
                kept,
                state=EntryState.SENDING,
                claimed_until=claimed_until,
                attempts=kept.attempts + 1,
                tried_since=kept.tried_since or now,
            )
        )

    def release(self, entry: Entry, reason: str, next_attempt_at: datetime) -> None:
        kept = self._kept(entry)
        if kept.state is EntryState.SENDING and kept.attempts == entry.attempts:
            self._put(replace(kept, state=EntryState.OWED, reason=reason, next_attempt_at=next_attempt_at))

    def park(self, entry: Entry, reason: str, reference: str) -> None:
        kept = self._kept(entry)
        if kept.state in (EntryState.OWED, EntryState.SENDING) and kept.attempts == entry.attempts:
            self._put(replace(kept, state=EntryState.PARKED, reason=reason, reference=reference))

    def mark_sent(self, entry: Entry, reference: str, now: datetime) -> None:
        self._put(replace(self._kept(entry), state=EntryState.SENT, reference=reference))
        head = self.heads[entry.deduplication_key]
        if head.number == entry.number and head.reference != reference:
            moved = replace(head, version=head.version + 1, reference=reference)
            self.heads[entry.deduplication_key] = moved

    def retry_parked(self, entry: Entry) -> bool:
        kept = self._kept(entry)
        if kept.state is not EntryState.PARKED:
            return False
        self._put(replace(kept, state=EntryState.OWED, tried_since=None, next_attempt_at=None))
        return True

    def paused_until(self) -> datetime | None:
        return self._paused_until

    def pause(self, until: datetime) -> None:
        self._paused_until = until

    def _kept(self, entry: Entry) -> Entry:
        return self.entries[entry.deduplication_key, entry.key]

    def _put(self, entry: Entry) -> Entry:
        self.entries[entry.deduplication_key, entry.key] = entry
        return entry


class MemorySink:
    """A `TicketSink` that honours the idempotency key.

    Attributes:
        told: reference and idempotency key of everything that was done, once each.
        tickets: by reference, the titles of what was done to each.
        faults: raised by the next calls, one each; None takes the entry.
        accepts_before_fault: whether an entry was taken although the call failed, as when an answer is lost.
    """

    def __init__(self) -> None:
        self.tickets: dict[str, list[tuple[Action, str]]] = {}
        self.calls = 0
        self.faults: list[Exception | None] = []
        self.accepts_before_fault = False
        self._answers: dict[str, str] = {}

    def open(self, entry: Entry) -> str:
        return self._take(entry, f"ticket-{len(self.tickets) + 1}")

    def comment(self, entry: Entry, reference: str) -> str:
        return self._take(entry, reference)

    def close(self, entry: Entry, reference: str) -> str:
        return self._take(entry, reference)

    def _take(self, entry: Entry, reference: str) -> str:
        self.calls += 1
        fault = self.faults.pop(0) if self.faults else None
        if (fault is None or self.accepts_before_fault) and entry.idempotency_key not in self._answers:
            self._answers[entry.idempotency_key] = reference
            self.tickets.setdefault(reference, []).append((entry.action, entry.run_id))
        if fault is not None:
            raise fault
        return self._answers[entry.idempotency_key]


class RetryingStore(TicketStore, Protocol):
    """A `TicketStore` that a person can ask to try again what is parked."""

    def retry_parked(self, entry: Entry) -> bool: ...


def check_ticket_store(store: RetryingStore, moved: Callable[[Callable[[], None]], bool]) -> None:
    """The contract of a `TicketStore` that is empty.

    Args:
        moved: whether calling raises `TicketMovedError`.
    """
    opened, commented, closed = changes_of(verdict(0), verdict(1), verdict(2, Judgement.HEALTHY))
    key = opened.head.deduplication_key
    assert store.head(key) is None
    assert store.owed() == {}

    def entry(name: str) -> Entry:
        found = store.entry(key, name)
        assert found
        return found

    # deciding
    store.apply(opened)
    assert store.head(key) == opened.head
    assert entry("run#run-0") == opened.entry
    assert moved(lambda: store.apply(opened)), "the ticket is open"
    assert moved(lambda: store.apply(closed)), "its head has not come so far"
    assert store.entry(key, closed.entry.key) is None, "both or neither"
    store.apply(commented)
    store.apply(closed)
    assert store.head(key) == closed.head
    assert store.existing(key, {"run#run-0", "run#run-1", "run#run-9"}) == {"run#run-0", "run#run-1"}
    assert store.existing(key, set()) == set()
    again = replace(opened, head=replace(opened.head, version=closed.head.version + 1))
    assert moved(lambda: store.apply(again)), "the entry exists"
    assert store.owed() == {key: {"run#run-0", "run#run-1", "close#000001"}}

    # claims
    soon, late = NOW + timedelta(seconds=60), NOW + timedelta(seconds=61)
    mine = store.claim(entry("run#run-0"), NOW, soon)
    assert mine
    assert (mine.state, mine.attempts, mine.claimed_until, mine.tried_since) == (EntryState.SENDING, 1, soon, NOW)
    assert mine == entry("run#run-0")
    assert store.claim(entry("run#run-0"), NOW, soon) is None, "somebody is sending it"
    assert store.claim(entry("run#run-0"), soon, late) is None, "a claim lasts to its last second"
    theirs = store.claim(entry("run#run-0"), late, late + timedelta(seconds=60))
    assert theirs
    assert (theirs.attempts, theirs.tried_since) == (2, NOW)
    store.release(mine, "too late", late)
    store.park(mine, "too late", "")
    assert entry("run#run-0") == theirs, "another sender has it by now"
    store.release(theirs, "busy", late)
    released = entry("run#run-0")
    assert (released.state, released.reason, released.next_attempt_at) == (EntryState.OWED, "busy", late)

    # sent
    mine = store.claim(released, late, late + timedelta(seconds=60))
    assert mine
    store.mark_sent(mine, "ticket-1", late)
    assert (entry("run#run-0").state, entry("run#run-0").reference) == (EntryState.SENT, "ticket-1")
    assert store.claim(entry("run#run-0"), late + DAY, late + 2 * DAY) is None
    store.release(mine, "too late", late)
    store.park(mine, "too late", "")
    assert entry("run#run-0").state is EntryState.SENT
    assert store.owed() == {key: {"run#run-1", "close#000001"}}
    head = store.head(key)
    assert head
    assert (head.reference, head.version) == ("ticket-1", closed.head.version + 1)
    (next_ticket,) = changes_of(verdict(3), head=closed.head)
    assert moved(lambda: store.apply(next_ticket)), "decided without the reference"

    # a later ticket's head does not learn the reference of an earlier one
    (next_ticket,) = changes_of(verdict(3), head=head)
    store.apply(next_ticket)
    mine = store.claim(entry("run#run-1"), NOW, soon)
    assert mine
    store.mark_sent(mine, "ticket-1", late)
    assert store.head(key) == next_ticket.head

    # parked
    mine = store.claim(entry("run#run-3"), NOW, soon)
    assert mine
    store.park(mine, "refused", "ticket-2")
    parked = entry("run#run-3")
    assert (parked.state, parked.reason, parked.reference) == (EntryState.PARKED, "refused", "ticket-2")
    assert store.owed() == {key: {"close#000001"}}
    assert store.claim(parked, late + DAY, late + 2 * DAY) is None
    assert store.retry_parked(parked)
    assert not store.retry_parked(parked)
    owed = entry("run#run-3")
    assert (owed.state, owed.tried_since, owed.next_attempt_at, owed.attempts) == (EntryState.OWED, None, None, 1)
    store.park(owed, "never opened", "")
    assert entry("run#run-3").state is EntryState.PARKED, "also unclaimed"

    # the sink's wish to be left alone
    assert store.paused_until() is None
    store.pause(soon)
    store.pause(late)
    assert store.paused_until() == late
