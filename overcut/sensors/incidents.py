"""Incidents: runs of anomalies worth telling someone about.

Everything here is decided by `measured_at`, never by arrival: the same readings give the same incidents in any order,
in any batches, however often they come.

    judged readings ──▶ runs (five consecutive anomalous minutes)
                        ──▶ episodes (runs less than the recovery time apart)
                            ──▶ changes to the sensor's incidents, in view of its head
"""

import base64
import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

EQUIPMENT_FAULT = "equipment"


@dataclass(frozen=True, slots=True)
class JudgedReading:
    """A reading's verdict: `is_anomaly` is None while the sensor has no cutoff in force (it is still learning)."""

    measured_at: datetime
    is_anomaly: bool | None


@dataclass(frozen=True)
class RunRule:
    """When anomalies are an incident, and when it is over.

    Attributes:
        consecutive_minutes: how long readings must be anomalous without a normal one between.
        recovery_minutes: how long no run may follow before the incident is over.
    """

    consecutive_minutes: int = 5
    recovery_minutes: int = 30

    @property
    def recovery(self) -> timedelta:
        return timedelta(minutes=self.recovery_minutes)

    def readings_needed(self, interval: timedelta) -> int:
        """How many anomalous readings make a run, for a sensor that measures once an `interval`.

        One a minute: a reading a minute. Slower: at least two, which lie at least `consecutive_minutes` apart.
        """
        covering = math.ceil(timedelta(minutes=self.consecutive_minutes) / interval)
        return covering if interval <= timedelta(minutes=1) else covering + 1

    def history_needed(self, interval: timedelta) -> int:
        """How many readings before a new one decide about it: enough to see the last run until it is recovered."""
        lasting = timedelta(minutes=self.recovery_minutes + self.consecutive_minutes)
        return max(90, math.ceil(lasting / interval) + 2 * self.readings_needed(interval))


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive anomalous readings, enough of them.

    Attributes:
        first: the first anomalous minute.
        completed: the minute that made it a run.
        last: the last anomalous minute so far.
    """

    first: datetime
    completed: datetime
    last: datetime


def find_runs(judged: Sequence[JudgedReading], interval: timedelta, rule: RunRule) -> list[Run]:
    """The runs in `judged`, which is sorted by time and holds no time twice.

    A normal reading ends a run, and so does a gap of more than two intervals. A reading without a verdict is as if it
    were missing.
    """
    needed = rule.readings_needed(interval)
    runs: list[Run] = []
    streak: list[datetime] = []
    for reading in judged:
        if reading.is_anomaly is None:
            continue
        if not reading.is_anomaly:
            streak = []
            continue
        if streak and reading.measured_at - streak[-1] > 2 * interval:
            streak = []
        streak.append(reading.measured_at)
        if len(streak) == needed:
            runs.append(Run(streak[0], reading.measured_at, reading.measured_at))
        elif len(streak) > needed:
            runs[-1] = replace(runs[-1], last=reading.measured_at)
    return runs


@dataclass(frozen=True, slots=True)
class Episode:
    """Runs that belong together: each begins less than the recovery time after the one before it.

    Attributes:
        first_anomalous_at, last_anomalous_at: its ends.
        opened_at: the minute that completed its first run.
        recovered_at: the first reading that shows it over, or None while none does.
    """

    first_anomalous_at: datetime
    opened_at: datetime
    last_anomalous_at: datetime
    recovered_at: datetime | None = None


def find_episodes(
    runs: Sequence[Run], judged: Sequence[JudgedReading], interval: timedelta, rule: RunRule
) -> list[Episode]:
    """`runs`, sorted by time, joined into episodes, each with its recovery if `judged` shows one."""
    episodes: list[Episode] = []
    for run in runs:
        if episodes and run.first - episodes[-1].last_anomalous_at < rule.recovery:
            last = max(episodes[-1].last_anomalous_at, run.last)
            episodes[-1] = replace(episodes[-1], last_anomalous_at=last)
        else:
            episodes.append(Episode(run.first, run.completed, run.last))
    return [replace(e, recovered_at=_recovered_at(e.last_anomalous_at, judged, interval, rule)) for e in episodes]


def _recovered_at(
    last_anomalous_at: datetime, judged: Sequence[JudgedReading], interval: timedelta, rule: RunRule
) -> datetime | None:
    """The first reading a recovery time after `last_anomalous_at`, unless a streak from before may yet be a run."""
    over = last_anomalous_at + rule.recovery
    streak_first: datetime | None = None
    previous: datetime | None = None
    for reading in judged:
        if reading.is_anomaly is None or reading.measured_at <= last_anomalous_at:
            continue
        if not reading.is_anomaly:
            streak_first = None
        elif streak_first is None or previous is None or reading.measured_at - previous > 2 * interval:
            streak_first = reading.measured_at
        previous = reading.measured_at
        if reading.measured_at >= over and (streak_first is None or streak_first >= over):
            return reading.measured_at
    return None


@dataclass(frozen=True, slots=True)
class Head:
    """What a sensor's newest incident of a kind is: one item, the only guard against deciding anything twice.

    Attributes:
        version: moves by one with every change.
        opened_at: the incident's key.
        recovered_at: None while it is open.
        is_contradicted: a late reading took its run away; it stays, marked.
    """

    version: int
    opened_at: datetime
    first_anomalous_at: datetime
    last_anomalous_at: datetime
    recovered_at: datetime | None = None
    is_contradicted: bool = False

    @property
    def is_open(self) -> bool:
        return self.recovered_at is None


class ChangeKind(StrEnum):
    OPEN = "open"
    EXTEND = "extend"
    RECOVER = "recover"
    MISS = "miss"
    CONTRADICT = "contradict"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to do to a sensor's incidents.

    OPEN and MISS make the incident of `episode`; EXTEND and RECOVER give `episode`'s bounds to the head's incident;
    CONTRADICT marks it. All but MISS move the head to `head`.
    """

    kind: ChangeKind
    episode: Episode
    head: Head | None


def decide(
    head: Head | None,
    judged: Sequence[JudgedReading],
    new: Collection[datetime],
    interval: timedelta,
    rule: RunRule,
) -> list[Change]:
    """What `judged` changes about a sensor's incidents, in the order in which to do it.

    Args:
        head: the sensor's head as it is stored, or None before its first incident.
        judged: readings sorted by time, from `RunRule.history_needed` readings before the earliest new one (and, while
            an incident is open, from its last anomalous minute) to the newest known.
        new: when the readings that came just now were measured.

    A run that overlaps the head's incident, or lies less than the recovery time from it, belongs to it. Later ones open
    incidents. Earlier ones were missed: people are not told of a past that a later incident has overtaken.
    """
    runs = find_runs(judged, interval, rule)
    changes: list[Change] = []
    if head is not None:
        known = Run(head.first_anomalous_at, head.opened_at, head.last_anomalous_at)
        if not head.is_contradicted and _contradicts(known, runs, judged):
            head = replace(head, version=head.version + 1, is_contradicted=True)
            changes.append(Change(ChangeKind.CONTRADICT, _episode_of(head), head))
        runs = sorted([*runs, known], key=lambda run: run.first)
    for episode in find_episodes(runs, judged, interval, rule):
        if head is None or episode.first_anomalous_at > head.last_anomalous_at:
            opened = Head(
                (head.version if head else 0) + 1,
                episode.opened_at,
                episode.first_anomalous_at,
                episode.last_anomalous_at,
            )
            changes.append(Change(ChangeKind.OPEN, replace(episode, recovered_at=None), opened))
            head = opened
        elif episode.last_anomalous_at < head.first_anomalous_at:
            if any(episode.first_anomalous_at <= moment <= episode.last_anomalous_at for moment in new):
                changes.append(Change(ChangeKind.MISS, episode, None))
            continue
        elif (episode.first_anomalous_at, episode.last_anomalous_at) != (
            head.first_anomalous_at,
            head.last_anomalous_at,
        ):
            head = replace(
                head,
                version=head.version + 1,
                first_anomalous_at=episode.first_anomalous_at,
                last_anomalous_at=episode.last_anomalous_at,
            )
            changes.append(Change(ChangeKind.EXTEND, _episode_of(head), head))
        if head.is_open and episode.recovered_at is not None:
            head = replace(head, version=head.version + 1, recovered_at=episode.recovered_at)
            changes.append(Change(ChangeKind.RECOVER, _episode_of(head), head))
    return changes


def _episode_of(head: Head) -> Episode:
    return Episode(head.first_anomalous_at, head.opened_at, head.last_anomalous_at, head.recovered_at)


def _contradicts(known: Run, runs: Sequence[Run], judged: Sequence[JudgedReading]) -> bool:
    """Whether `judged` reaches over the whole of `known` and yet holds no run in it."""
    covered = bool(judged) and judged[0].measured_at <= known.first and judged[-1].measured_at >= known.last
    return covered and not any(run.first <= known.last and run.last >= known.first for run in runs)


class TextKind(StrEnum):
    ALERT = "alert"
    RECOVERY = "recovery"


class TextState(StrEnum):
    """OWED → SENDING (claimed until a time) → SENT. WAITING: a stale incident, told only if it is still open when the
    sensor's readings are fresh again; else DIGEST: a line of the next digest."""

    OWED = "owed"
    SENDING = "sending"
    SENT = "sent"
    WAITING = "waiting"
    DIGEST = "digest"


@dataclass(frozen=True, slots=True)
class Text:
    """One message about an incident to one contact."""

    kind: TextKind
    contact_id: str
    state: TextState
    claimed_until: int = 0
    message_id: str = ""

    @property
    def text_key(self) -> str:
        return f"{self.kind}#{self.contact_id}"


class IncidentState(StrEnum):
    OPEN = "open"
    RECOVERED = "recovered"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Cause:
    """What the minute that completed the run looked like: the measure furthest from usual.

    Attributes:
        value, usual_low, usual_high: in `unit`.
        anomaly_score, score_cutoff: only comparable with each other, under `model_version`.
    """

    measure: str
    unit: str
    value: float
    usual_low: float
    usual_high: float
    anomaly_score: float
    score_cutoff: float
    model_version: str


@dataclass(frozen=True, slots=True)
class Equipment:
    """Which equipment a sensor sits on, as people name it. Empty customer and site: nobody has assigned it yet."""

    sensor_id: str
    name: str
    customer: str = ""
    site: str = ""

    @property
    def place(self) -> str:
        """What texts are grouped by: a site of a customer."""
        return f"{self.customer}/{self.site}"


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident as it is kept.

    Attributes:
        opened_at: the minute that completed its first run when it was opened; its key, and never changed.
        anomalous_minutes: anomalous readings from first to last; known once it has recovered.
        texts: one record a text, by `text_key`.
    """

    equipment: Equipment
    kind: str
    state: IncidentState
    opened_at: datetime
    first_anomalous_at: datetime
    last_anomalous_at: datetime
    cause: Cause
    texts: Mapping[str, Text]
    recovered_at: datetime | None = None
    anomalous_minutes: int | None = None

    @property
    def reference(self) -> str:
        """Six characters to name the incident by, in a text or on the telephone."""
        digest = hashlib.sha256(
            f"{self.equipment.sensor_id} {self.kind} {self.opened_at.isoformat()}".encode()
        ).digest()
        return base64.b32encode(digest).decode()[:6]
