"""Auditing: does what was sent, stored, exported, decided and texted agree?

    what the device sent ─▶ stored ─▶ exported
                              │
                              ▼
                 runs, judged anew ─▶ incidents ─▶ texts ─▶ delivered

Every comparison is made from the records themselves, not from what functions say of their work.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from overcut.sensors.cutoffs import Cutoff, in_force
from overcut.sensors.incidents import (
    KINDS,
    Incident,
    IncidentState,
    Run,
    RunRule,
    TextKind,
    TextState,
    find_runs,
)
from overcut.sensors.judging import Models, Series, judge
from overcut.sensors.readings import Reading, format_time

# what is told of a finding; the number says how many there are
MOST_EXAMPLES = 5


@dataclass
class Finding:
    """Something that should not be: how often, and the first few places."""

    number: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.number += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(example)


@dataclass
class Audit:
    """What an audit saw.

    Attributes:
        counts: by name, how much was looked at.
        findings: by name, what does not agree; one that is 0 was looked for.
        delays: from the onset of a fault to its first text, in seconds, in no order.
    """

    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)
    delays: list[float] = field(default_factory=list)

    def finding(self, name: str) -> Finding:
        return self.findings.setdefault(name, Finding())

    @property
    def is_clean(self) -> bool:
        return not any(finding.number for finding in self.findings.values())


def compare_readings(
    audit: Audit, name: str, missing: str, sent: Iterable[Reading], kept: Mapping[datetime, Mapping[str, float]]
) -> None:
    """Look for each reading of one sensor that one place has in another.

    Args:
        name: what is counted: `readings sent`.
        missing: the finding, when a reading is not there or has other values there.
        kept: the other place's values by their time.
    """
    finding = audit.finding(missing)
    for reading in sent:
        audit.counts[name] += 1
        if kept.get(reading.measured_at) != reading.values:
            finding.add(f"{reading.sensor_id} {format_time(reading.measured_at)}")


def runs_of(
    readings: Sequence[Reading], since: datetime, cutoffs: Sequence[Cutoff], models: Models, rule: RunRule
) -> dict[str, list[Run]]:
    """The runs of one sensor, by the kind of incident, judged anew from its readings.

    Args:
        readings: sorted by time, from `features.WINDOW` readings before `since` on.
        cutoffs: all that may have been in force.
    """
    series, first = Series.of(readings), sum(reading.measured_at < since for reading in readings)
    cutoff = in_force(cutoffs, readings[-1].measured_at) if readings else None
    if cutoff is None:
        return {kind: [] for kind in KINDS}
    judged = judge(series, first, cutoffs, models, rule)
    return {kind: find_runs([one.of_kind(kind) for one in judged], cutoff.interval, rule) for kind in KINDS}


def compare_incidents(
    audit: Audit, sensor_id: str, runs: Mapping[str, Sequence[Run]], incidents: Sequence[Incident]
) -> None:
    """Look for each run of a sensor in an incident, and for a run in each incident that began and ended in the audit.

    Args:
        incidents: the sensor's, of every kind, without those that a late reading has contradicted.
    """
    undecided, unfounded = audit.finding("runs without an incident"), audit.finding("incidents without a run")
    for kind, found in runs.items():
        mine = [one for one in incidents if one.kind == kind]
        audit.counts["runs"] += len(found)
        for run in found:
            if not any(_overlap(run, one) for one in mine):
                undecided.add(f"{sensor_id} {kind} {format_time(run.first)}")
        for one in mine:
            audit.counts["incidents"] += 1
            if not any(_overlap(run, one) for run in found):
                unfounded.add(f"{one.reference} {sensor_id} {kind} {format_time(one.first_anomalous_at)}")


def _overlap(run: Run, incident: Incident) -> bool:
    return run.first <= incident.last_anomalous_at and run.last >= incident.first_anomalous_at


def compare_texts(audit: Audit, incident: Incident, texted_kinds: Collection[str], overdue_before: datetime) -> None:
    """Look whether somebody was told of an incident, and of its end, and whether what is owed has left.

    Args:
        overdue_before: what is owed about an incident that was opened, or recovered, before should have left.
    """
    name = f"{incident.reference} {incident.equipment.sensor_id}"
    untold, overdue = audit.finding("incidents nobody is told of"), audit.finding("texts that are overdue")
    alerts = [text for text in incident.texts.values() if text.kind is TextKind.ALERT]
    if incident.kind in texted_kinds and incident.state is not IncidentState.MISSED and not alerts:
        untold.add(name)
    for text in incident.texts.values():
        audit.counts[f"texts {text.state}"] += 1
        since = incident.opened_at if text.kind is TextKind.ALERT else incident.recovered_at
        if text.state in (TextState.OWED, TextState.SENDING) and since and since < overdue_before:
            overdue.add(f"{name} {text.text_key}")


def compare_deliveries(audit: Audit, incidents: Iterable[Incident], delivered: Mapping[str, int]) -> None:
    """Look for each text that was sent among those that were delivered, and the other way round.

    Args:
        delivered: how often each message came to a phone, by its id.
    """
    sent = {text.message_id for one in incidents for text in one.texts.values() if text.state is TextState.SENT}
    lost = audit.finding("texts sent and not delivered")
    audit.counts["messages sent"] = len(sent)
    audit.counts["messages delivered"] = sum(delivered.values())
    for message_id in sorted(sent - delivered.keys()):
        lost.add(message_id)
    audit.counts["messages doubled"] = sum(delivered.values()) - len(sent & delivered.keys())


def first_alert(incident: Incident) -> datetime | None:
    """When somebody was first told of an incident."""
    sent = [text.sent_at for text in incident.texts.values() if text.kind is TextKind.ALERT and text.sent_at]
    return min(sent, default=None)


def detected(incidents: Iterable[Incident], started_at: datetime, ended_at: datetime) -> Incident | None:
    """A sensor's first incident that was opened while a fault, known from elsewhere, lasted."""
    opened = [one for one in incidents if started_at <= one.opened_at <= ended_at + timedelta(minutes=5)]
    return min(opened, key=lambda one: one.opened_at, default=None)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed (nearest rank).

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("there is no percentile of nothing")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
