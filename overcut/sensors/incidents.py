"""Incidents: runs of anomalies worth telling someone about.

Everything here is decided by `measured_at`, never by arrival: the same readings give the same incidents in any order,
in any batches, however often they come.

    judged readings ──▶ runs (five consecutive anomalous minutes)
                        ──▶ episodes (runs with no recovery between them)
                            ──▶ changes to the sensor's incidents, in view of its head
"""

import base64
import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal

from overcut.sensors.readings import reading_id

EQUIPMENT_FAULT = "equipment"
STUCK_SENSOR = "stuck"
# judged from readings
KINDS = (EQUIPMENT_FAULT, STUCK_SENSOR)
SILENT_SENSOR = "silent"
SILENT_SITE = "site_silent"
SILENT_SOURCE = "source_silent"
BACKWARDS = "backwards"
# judged from when readings come; see `overcut.sensors.silence`
SILENCES = (SILENT_SENSOR, SILENT_SITE, SILENT_SOURCE, BACKWARDS)
IncidentKind = Literal["equipment", "stuck", "silent", "site_silent", "source_silent", "backwards"]


@dataclass(frozen=True, slots=True)
class JudgedReading:
    """A reading's verdict: `is_anomaly` is None while the sensor has no cutoff in force (it is still learning)."""

    measured_at: datetime
    is_anomaly: bool | None
    is_stuck: bool = False

    def of_kind(self, kind: str) -> "JudgedReading":
        """The verdict that a kind of incident goes by; none of either kind where there is none."""
        if kind == EQUIPMENT_FAULT or self.is_anomaly is None:
            return self
        return JudgedReading(self.measured_at, self.is_stuck)


@dataclass(frozen=True)
class RunRule:
    """When anomalies are an incident, and when it is over.

    Attributes:
        consecutive_minutes: how long readings must be anomalous without a normal one between.
        recovery_minutes: how long after a run a normal reading shows that the incident is over.
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

    def shortest_run(self, interval: timedelta) -> timedelta:
        """How far apart the first and the last reading of a run lie at least: a burst of readings is not one.

        Half a minute less than meant, since no sensor measures to the second.
        """
        meant = min((self.readings_needed(interval) - 1) * interval, timedelta(minutes=self.consecutive_minutes))
        return meant - timedelta(seconds=30)

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
    needed, shortest = rule.readings_needed(interval), rule.shortest_run(interval)
    runs: list[Run] = []
    streak: list[datetime] = []
    is_run = False
    for reading in judged:
        if reading.is_anomaly is None:
            continue
        if not reading.is_anomaly or (streak and reading.measured_at - streak[-1] > 2 * interval):
            streak, is_run = [], False
        if not reading.is_anomaly:
            continue
        streak.append(reading.measured_at)
        if is_run:
            runs[-1] = replace(runs[-1], last=reading.measured_at)
        elif len(streak) >= needed and reading.measured_at - streak[0] >= shortest:
            runs.append(Run(streak[0], reading.measured_at, reading.measured_at))
            is_run = True
    return runs


@dataclass(frozen=True, slots=True)
class Episode:
    """Runs that belong together: none but the first begins after a recovery.

    Attributes:
        first_anomalous_at, last_anomalous_at: its ends.
        opened_at: the minute that completed its first run.
        recovered_at: the first normal reading a recovery time after its last anomalous one, or None while none is.
    """

    first_anomalous_at: datetime
    opened_at: datetime
    last_anomalous_at: datetime
    recovered_at: datetime | None = None


def find_episodes(
    runs: Sequence[Run], judged: Sequence[JudgedReading], rule: RunRule, known: Episode | None = None
) -> list[Episode]:
    """`runs` joined into episodes, each with its recovery if `judged` shows one.

    Only a normal reading is a recovery: nothing measured, or an anomaly that may yet be part of a run, is none.

    Args:
        known: an episode of before, joined with the runs like one of them; a recovery it has stays, since people
            were told of it.
    """
    pieces = [Episode(run.first, run.completed, run.last) for run in runs]
    episodes: list[Episode] = []
    told: datetime | None = None
    for piece in sorted([*pieces, *([known] if known else [])], key=lambda piece: piece.first_anomalous_at):
        whole = piece
        if episodes and _goes_on(episodes[-1], piece):
            before = episodes.pop()
            whole = replace(before, last_anomalous_at=max(before.last_anomalous_at, piece.last_anomalous_at))
            told = told or piece.recovered_at
        else:
            told = piece.recovered_at
        shown = _recovered_at(whole.last_anomalous_at, judged, rule)
        episodes.append(replace(whole, recovered_at=min((at for at in (told, shown) if at), default=None)))
    return episodes


def _goes_on(before: Episode, piece: Episode) -> bool:
    return before.recovered_at is None or piece.first_anomalous_at < before.recovered_at


def _recovered_at(last_anomalous_at: datetime, judged: Sequence[JudgedReading], rule: RunRule) -> datetime | None:
    over = last_anomalous_at + rule.recovery
    return next((one.measured_at for one in judged if one.measured_at >= over and one.is_anomaly is False), None)


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

    A run that overlaps the head's incident, or that no recovery parts from it, belongs to it. Later ones open
    incidents: whatever happens after a recovery that people were told of, they are told of too. Earlier ones were
    missed: people are not told of a past that a later incident has overtaken.
    """
    changes: list[Change] = []
    if head is None:
        runs = find_runs(judged, interval, rule)
        episodes = find_episodes(runs, judged, rule)
    else:
        # a recovery parts runs, even when the reading that showed it has changed since
        told = head.recovered_at or datetime.max.replace(tzinfo=UTC)
        before = [reading for reading in judged if reading.measured_at <= told]
        runs = find_runs(before, interval, rule) + find_runs(judged[len(before) :], interval, rule)
        known = _episode_of(head)
        if not head.is_contradicted and _contradicts(known, runs, judged):
            head = replace(head, version=head.version + 1, is_contradicted=True)
            changes.append(Change(ChangeKind.CONTRADICT, known, head))
        episodes = find_episodes(runs, judged, rule, known)
    for episode in episodes:
        if head is None or episode.first_anomalous_at > head.first_anomalous_at:
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


def _contradicts(known: Episode, runs: Sequence[Run], judged: Sequence[JudgedReading]) -> bool:
    """Whether `judged` reaches over the whole of `known` and yet holds no run in it."""
    first, last = known.first_anomalous_at, known.last_anomalous_at
    covered = bool(judged) and judged[0].measured_at <= first and judged[-1].measured_at >= last
    return covered and not any(run.first <= last and run.last >= first for run in runs)


class TextKind(StrEnum):
    """A REMINDER tells once of an incident that is about to be taken for how things are; AGAIN, after a snooze, of one
    that is still open."""

    ALERT = "alert"
    RECOVERY = "recovery"
    REMINDER = "reminder"
    AGAIN = "again"


class TextState(StrEnum):
    """OWED → SENDING (claimed until a time) → SENT. WAITING: a stale incident, told only if it is still open when the
    sensor's readings are fresh again; else DIGEST: a line of the next digest. SNOOZED: owed when a snooze is over."""

    OWED = "owed"
    SENDING = "sending"
    SENT = "sent"
    WAITING = "waiting"
    DIGEST = "digest"
    SNOOZED = "snoozed"


@dataclass(frozen=True, slots=True)
class Text:
    """One message about an incident to one contact.

    Attributes:
        is_escalation: owed because nobody answered the one before.
        since: what a recovery tells, since when values are usual again. That is before the last anomalous minute where
            verdicts looked back on the fault for a while.
    """

    kind: TextKind
    contact_id: str
    state: TextState
    claimed_until: int = 0
    message_id: str = ""
    sent_at: datetime | None = None
    is_escalation: bool = False
    since: datetime | None = None

    @property
    def text_key(self) -> str:
        return f"{self.kind}#{self.contact_id}"


class IncidentState(StrEnum):
    """NEW_NORMAL: it lasted so long, and nobody called it a fault, that it was learned as usual."""

    OPEN = "open"
    RECOVERED = "recovered"
    NEW_NORMAL = "new_normal"
    MISSED = "missed"


class Label(StrEnum):
    """What a person says of an incident."""

    FAULT = "fault"
    FALSE_ALARM = "false_alarm"


class Answer(StrEnum):
    """What who was texted can say on the incident's page."""

    ON_IT = "on_it"
    SNOOZE = "snooze"
    FALSE_ALARM = "false_alarm"


@dataclass(frozen=True, slots=True)
class Response:
    """The last answer to an incident, and whose.

    Attributes:
        until: when a snooze is over.
    """

    answer: Answer
    contact_id: str
    at: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """What the minute that completed the run looked like: the measure furthest from usual.

    Attributes:
        value, usual_low, usual_high: in `unit`.
        anomaly_score, score_cutoff: only comparable with each other, under `model_version`.
        feature: what of the measure is unusual; see `overcut.sensors.features`.
        trained_at: names the sensor's cutoff.
        inputs: of each measure the readings that the score was made from, the last one being the minute's own.
    """

    measure: str
    unit: str
    value: float
    usual_low: float
    usual_high: float
    anomaly_score: float
    score_cutoff: float
    model_version: str
    feature: str = "value"
    trained_at: str = ""
    inputs: Mapping[str, Sequence[float]] = field(default_factory=dict)


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
        anomalous_minutes: anomalous readings until values were usual again; known once it has recovered.
        texts: one record a text, by `text_key`.
        response: the last word counts.
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
    response: Response | None = None

    @property
    def is_answered(self) -> bool:
        """Whether somebody sees to it: nobody else need be told."""
        return self.response is not None and self.response.answer is not Answer.SNOOZE

    @property
    def over_since(self) -> datetime:
        """Since when values are usual again, as those are told who were alerted; else the last anomalous minute."""
        told = (text.since for text in self.texts.values() if text.since)
        return next(told, self.last_anomalous_at)

    @property
    def reference(self) -> str:
        """Six characters to name the incident by, in a text or on the telephone."""
        digest = hashlib.sha256(
            f"{self.equipment.sensor_id} {self.kind} {self.opened_at.isoformat()}".encode()
        ).digest()
        return base64.b32encode(digest).decode()[:6]

    @property
    def reading_id(self) -> str:
        """The reading that opened it; of a silence, where one would have been."""
        return reading_id(self.equipment.sensor_id, self.opened_at)
