"""Tickets: what people work on. A job has at most one open ticket of each kind.

    verdicts of a job, by start ──▶ decide ──▶ entries (open, comment, close), each owed to the sink
    entries owed ──▶ send_entries ──▶ claimed ──▶ sink ──▶ sent, owed again, or parked

RefusedError
 └─ EntryRefusedError      the sink can never take the entry as it is: it is parked, with the reason
RetryableError
 ├─ SinkUnavailableError   the sink did not take the entry, or did not answer: the same call may succeed later
 ├─ TicketMovedError       somebody else changed the ticket first: read again and decide again
 └─ EntriesOwedError       entries are still owed after all that could be sent was sent
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from overcut import RefusedError, RetryableError
from overcut.etl_jobs.job_runs import EARLY
from overcut.etl_jobs.ticket_texts import Prediction, Streak, Text, closing, comment, opening
from overcut.etl_jobs.verdicts import Judgement, Kind, Verdict

# so many failures in a row are the sink's, not the entries'
MOST_FAILURES = 3
# so many jobs may be missed while the lake is silent before it is the lake's fault
MOST_MISSED_IN_SILENCE = 2
_FIRST_WAIT = timedelta(seconds=30)
_LONGEST_WAIT = timedelta(hours=1)
# DynamoDB's longest sort key, of a table or an index
_KEY_BYTES = 1024


class EntryRefusedError(RefusedError):
    """The sink says that the request itself is wrong."""


class SinkUnavailableError(RetryableError):
    """The sink did not take the entry, or did not answer and may have taken it.

    Attributes:
        retry_after: how long the sink asks to be left alone; None when it does not.
    """

    def __init__(self, message: str, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TicketMovedError(RetryableError):
    """Somebody else changed this ticket first."""


class EntriesOwedError(RetryableError):
    """Entries are still owed to the sink; everything that could be done was done."""


def deduplication_key(job_name: str, kind: Kind) -> str:
    """What there is one open ticket of."""
    return _fitting(f"{job_name}#{kind}")


def run_key(run_id: str) -> str:
    """Under what a ticket keeps the entry about a run."""
    return _fitting(f"run#{run_id}")


def _fitting(text: str) -> str:
    """`text`, or what stands for it where it is too long for a key."""
    encoded = text.encode()
    if len(encoded) <= _KEY_BYTES:
        return text
    return f"{encoded[:900].decode(errors='ignore')}~{hashlib.sha256(encoded).hexdigest()}"


# ---------------------------------------------------------------------------------------------------------------------
# Deciding
# ---------------------------------------------------------------------------------------------------------------------


class TicketStatus(StrEnum):
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketHead:
    """The newest ticket of a job and kind: one item, the only guard against deciding anything twice.

    Attributes:
        version: moves by one with every change.
        number: how many tickets of this job and kind there were, this one included.
        opened_by: the run it was opened for.
        first_started_at, last_started_at, last_run_id: of its anomalous runs (or expected starts), by start.
        last_recorded_at: when the last state of `last_run_id` was recorded.
        runs: how many anomalous runs it has.
        next_sequence: counts entries over all tickets of this job and kind.
        last_entry: the key of its newest entry.
        reference: what the sink calls it; empty until it was opened there.
    """

    job_name: str
    kind: Kind
    status: TicketStatus
    version: int
    number: int
    opened_at: datetime
    opened_by: str
    first_started_at: datetime
    last_started_at: datetime
    last_run_id: str
    last_recorded_at: datetime
    runs: int
    next_sequence: int
    last_entry: str
    reference: str = ""

    @property
    def deduplication_key(self) -> str:
        return deduplication_key(self.job_name, self.kind)

    @property
    def is_open(self) -> bool:
        return self.status is TicketStatus.OPEN

    @property
    def streak(self) -> Streak:
        return Streak(self.runs, self.first_started_at, self.last_started_at)


class Action(StrEnum):
    OPEN = "open"
    COMMENT = "comment"
    CLOSE = "close"


class EntryState(StrEnum):
    """OWED → SENDING (claimed until a time) → SENT, or OWED again, or PARKED until a person sets it owed again."""

    OWED = "owed"
    SENDING = "sending"
    SENT = "sent"
    PARKED = "parked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing to tell the sink about a ticket.

    Attributes:
        key: `run#<run_id>`, or `close#<number>`.
        sequence: the order of a ticket's entries.
        follows: the key of the ticket's entry before it; empty for one that opens.
        verdict: of the run it is about.
        idempotency_key: a function of the entry; the sink may be told of the entry often, and acts once.
        attempts: how often it was claimed.
        tried_since: when it was first claimed, since it was decided or last taken out of parking.
        next_attempt_at: not to be sent before.
        reference: what the sink calls the ticket, once this entry was sent.
        reason: why it was not sent, the last time.
    """

    job_name: str
    kind: Kind
    key: str
    number: int
    sequence: int
    follows: str
    action: Action
    title: str
    body: str
    verdict: Verdict
    idempotency_key: str
    state: EntryState = EntryState.OWED
    attempts: int = 0
    tried_since: datetime | None = None
    next_attempt_at: datetime | None = None
    claimed_until: datetime | None = None
    reference: str = ""
    reason: str = ""

    @property
    def deduplication_key(self) -> str:
        return deduplication_key(self.job_name, self.kind)

    @property
    def run_id(self) -> str:
        return self.verdict.run_id


@dataclass(frozen=True, slots=True)
class Change:
    """An entry to put, and the head to move to with it, both or neither."""

    entry: Entry
    head: TicketHead


_SUCCEEDED = frozenset({Judgement.HEALTHY, Judgement.LEARNING, Judgement.ANOMALOUS})
# which runs end a ticket of a kind
_CLOSES = {
    Kind.UNUSUAL_RUN: frozenset({Judgement.HEALTHY, Judgement.LEARNING}),
    Kind.FAILED_RUN: _SUCCEEDED,
    Kind.MISSED_RUN: _SUCCEEDED | {Judgement.FAILED},
}


def is_proven(verdict: Verdict, newest_record: datetime | None) -> bool:
    """Whether a run that is said to have been missed was: something was recorded after that was clear.

    Otherwise the lake was silent. Of one job or two that says nothing. Of more than `MOST_MISSED_IN_SILENCE` it is the
    lake that is silent, or whoever feeds it: that is for the people who run this, and is no hundred tickets for others.
    Once something is recorded, either the runs are there, or they are missed indeed.

    Args:
        newest_record: when the lake's newest record was made; None when nobody knows.
    """
    return newest_record is None or verdict.kind is not Kind.MISSED_RUN or verdict.recorded_at <= newest_record


def newest(one: Prediction, other: Prediction) -> Prediction:
    """Of two predictions of one run the one that counts: that of its later state."""
    return max(one, other, key=lambda p: (p.verdict.recorded_at, p.verdict.model_version, p.verdict.to_json(), p.uri))


def decide(
    head: TicketHead | None,
    kind: Kind,
    predictions: Iterable[Prediction],
    known: Collection[str],
    now: datetime,
    namespace: str,
) -> list[Change]:
    """What one job's `predictions` change about its tickets of a `kind`, in the order in which to do it.

    A run enters the tickets of a kind once, whatever becomes of it later: it opens a ticket, or is a comment where one
    is open. What closes one: see `_closes`. The same predictions change nothing when they come again.

    Args:
        head: as it is stored; None before the job's first ticket of this kind.
        predictions: one a run, in any order.
        known: the keys of entries that exist, of those that the runs would get.
        namespace: what parts the idempotency keys of one installation from those of others.
    """
    changes: list[Change] = []
    # of those that started together, the ones that open come before those that may close
    by_start = sorted(predictions, key=lambda p: (p.verdict.started_at, p.verdict.kind is not kind, p.verdict.run_id))
    for prediction in by_start:
        verdict = prediction.verdict
        if verdict.kind is kind:
            if run_key(verdict.run_id) in known:
                continue
            change = _entered(head, kind, prediction, now, namespace)
        elif head is not None and head.is_open and _closes(head, verdict):
            change = _closed(head, prediction, namespace)
        else:
            continue
        changes.append(change)
        head = change.head
    return changes


def _closes(head: TicketHead, verdict: Verdict) -> bool:
    """Whether a run shows that a ticket is over: it started later, or it is that very run, corrected.

    A run that never came is over with any that started when it was expected, a little before, or later.
    """
    if verdict.judgement not in _CLOSES[head.kind]:
        return False
    if verdict.run_id == head.last_run_id:
        return verdict.recorded_at > head.last_recorded_at
    if head.kind is Kind.MISSED_RUN:
        # it may have begun a little early and been told of late
        return verdict.started_at >= head.last_started_at - EARLY
    return verdict.started_at > head.last_started_at


def _entered(head: TicketHead | None, kind: Kind, prediction: Prediction, now: datetime, namespace: str) -> Change:
    verdict = prediction.verdict
    key = run_key(verdict.run_id)
    if head is None or not head.is_open:
        after = TicketHead(
            job_name=verdict.job_name,
            kind=kind,
            status=TicketStatus.OPEN,
            version=(head.version if head else 0) + 1,
            number=(head.number if head else 0) + 1,
            opened_at=now,
            opened_by=verdict.run_id,
            first_started_at=verdict.started_at,
            last_started_at=verdict.started_at,
            last_run_id=verdict.run_id,
            last_recorded_at=verdict.recorded_at,
            runs=1,
            next_sequence=(head.next_sequence if head else 0) + 1,
            last_entry=key,
        )
        return Change(_entry(after, "", Action.OPEN, opening(prediction, after.streak), verdict, namespace), after)
    after = replace(
        head,
        version=head.version + 1,
        first_started_at=min(head.first_started_at, verdict.started_at),
        runs=head.runs + 1,
        next_sequence=head.next_sequence + 1,
        last_entry=key,
    )
    if verdict.started_at >= head.last_started_at:
        after = replace(
            after,
            last_started_at=verdict.started_at,
            last_run_id=verdict.run_id,
            last_recorded_at=verdict.recorded_at,
        )
    text = comment(prediction, after.streak)
    return Change(_entry(after, head.last_entry, Action.COMMENT, text, verdict, namespace), after)


def _closed(head: TicketHead, prediction: Prediction, namespace: str) -> Change:
    after = replace(
        head,
        status=TicketStatus.CLOSED,
        version=head.version + 1,
        next_sequence=head.next_sequence + 1,
        last_entry=f"close#{head.number:06d}",
    )
    text = closing(prediction, head.streak, head.kind)
    return Change(_entry(after, head.last_entry, Action.CLOSE, text, prediction.verdict, namespace), after)


def _entry(head: TicketHead, follows: str, action: Action, text: Text, verdict: Verdict, namespace: str) -> Entry:
    named = "\n".join([namespace, head.deduplication_key, head.last_entry])
    return Entry(
        job_name=head.job_name,
        kind=head.kind,
        key=head.last_entry,
        number=head.number,
        sequence=head.next_sequence - 1,
        follows=follows,
        action=action,
        title=text.title,
        body=text.body,
        verdict=verdict,
        # hexadecimal, since OpsCenter does not tell upper from lower case
        idempotency_key=hashlib.sha256(named.encode()).hexdigest()[:32],
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sending
# ---------------------------------------------------------------------------------------------------------------------


class TicketSink(Protocol):
    """Where people meet tickets. Each method may be called again for the same entry: it acts once.

    An entry with more than one attempt may have been taken before, its answer lost.

    Raises:
        EntryRefusedError: the request itself is wrong.
        SinkUnavailableError: anything else.
    """

    def open(self, entry: Entry) -> str:
        """Open a ticket; what the sink calls it."""

    def comment(self, entry: Entry, reference: str) -> str:
        """Add to a ticket; what the sink calls it, which is another name where the old one was gone."""

    def close(self, entry: Entry, reference: str) -> str:
        """Close a ticket, with a note; what the sink calls it."""


class TicketStore(Protocol):
    """Keeps tickets, what is owed about them and what was done about it."""

    def head(self, key: str) -> TicketHead | None:
        """The newest ticket of a deduplication key, as of now."""

    def existing(self, key: str, entries: Collection[str]) -> set[str]:
        """Which of these entries there are."""

    def apply(self, change: Change) -> None:
        """Put the entry and move the head, both or neither.

        Raises:
            TicketMovedError: the head is not what the change was decided on, or the entry exists.
        """

    def entry(self, key: str, entry: str) -> Entry | None:
        """One entry as of now."""

    def owed(self) -> dict[str, set[str]]:
        """The keys of entries that are owed or claimed, by deduplication key. One just put may be missing."""

    def claim(self, entry: Entry, now: datetime, claimed_until: datetime) -> Entry | None:
        """Take an owed entry, or one whose claim ran out, for this sender alone: with one attempt more. None: it is
        somebody else's."""

    def release(self, entry: Entry, reason: str, next_attempt_at: datetime) -> None:
        """Give a claimed entry back, unless another sender has it by now."""

    def park(self, entry: Entry, reason: str, reference: str) -> None:
        """Keep an entry that cannot be sent, unless another sender has it by now.

        Args:
            reference: what the sink calls its ticket, for the entries after it; empty when it was never opened.
        """

    def mark_sent(self, entry: Entry, reference: str, now: datetime) -> None:
        """The sink has it; the ticket's head learns the reference."""

    def paused_until(self) -> datetime | None:
        """Until when the sink asked to be left alone, the last time."""

    def pause(self, until: datetime) -> None:
        """Remember that the sink asks to be left alone."""


@dataclass(frozen=True, slots=True)
class Sending:
    """How entries are sent.

    Attributes:
        claim_for: how long a sender may take for one entry; longer than the function can live.
        patience: how long an entry is tried before it is parked.
    """

    claim_for: timedelta
    patience: timedelta


@dataclass(slots=True)
class Sent:
    """What became of entries: sent, parked just now, or still owed."""

    sent: int = 0
    owed: int = 0
    parked: int = 0


def send_entries(
    owing: Mapping[str, Collection[str]],
    *,
    store: TicketStore,
    sink: TicketSink,
    clock: Callable[[], datetime],
    has_time: Callable[[], bool],
    sending: Sending,
) -> Sent:
    """Send what is owed: claim, send, record, one entry after the other, each ticket's in order.

    None is lost, and none is acted on twice by a sink that can be searched or honours the idempotency key. One that
    was not taken waits longer after every attempt. Nothing more is sent once the sink asks to be left alone, or fails
    `MOST_FAILURES` times in a row.

    Args:
        owing: keys of entries by deduplication key.
        has_time: whether there is time for one more.
    """
    done = Sent()
    failures = 0
    paused_until = store.paused_until()
    for key in sorted(owing):
        found = [entry for name in owing[key] if (entry := store.entry(key, name))]
        for entry in sorted(found, key=lambda entry: entry.sequence):
            if entry.state not in (EntryState.OWED, EntryState.SENDING):
                continue
            before = store.entry(key, entry.follows) if entry.follows else None
            if before and before.state is EntryState.PARKED and not before.reference:
                store.park(entry, f"its ticket was never opened: {before.reason}", "")
                done.parked += 1
                continue
            now = clock()
            paused = paused_until is not None and now < paused_until
            waits = before is not None and before.state in (EntryState.OWED, EntryState.SENDING)
            if waits or paused or failures >= MOST_FAILURES or not _is_due(entry, now) or not has_time():
                done.owed += 1
                continue
            claimed = store.claim(entry, now, now + sending.claim_for)
            if claimed is None:
                done.owed += 1
                continue
            reference = before.reference if before else ""
            try:
                reference = _send(sink, claimed, reference)
            except EntryRefusedError as error:
                store.park(claimed, f"refused: {error}", reference)
                done.parked += 1
            except SinkUnavailableError as error:
                failures += 1
                if error.retry_after is not None:
                    paused_until = clock() + error.retry_after
                    store.pause(paused_until)
                if clock() - (claimed.tried_since or now) >= sending.patience:
                    store.park(claimed, f"tried {claimed.attempts} times: {error}", reference)
                    done.parked += 1
                else:
                    store.release(claimed, str(error), clock() + _wait(claimed.attempts))
                    done.owed += 1
            else:
                failures = 0
                store.mark_sent(claimed, reference, clock())
                done.sent += 1
    return done


def _is_due(entry: Entry, now: datetime) -> bool:
    if entry.state is EntryState.SENDING:
        return entry.claimed_until is None or entry.claimed_until < now
    return entry.next_attempt_at is None or entry.next_attempt_at <= now


def _wait(attempts: int) -> timedelta:
    doubled: int = 2 ** min(attempts - 1, 10)
    return min(_FIRST_WAIT * doubled, _LONGEST_WAIT)


def _send(sink: TicketSink, entry: Entry, reference: str) -> str:
    match entry.action:
        case Action.OPEN:
            return sink.open(entry)
        case Action.COMMENT:
            return sink.comment(entry, reference)
        case Action.CLOSE:
            return sink.close(entry, reference)
