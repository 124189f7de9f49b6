"""Silence: opens an incident about what is no longer heard, and closes it when it is."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from lambdas.sensors.stores import DataBucket, HeadMovedError, IncidentsStore, SensorsStore, SourcesStore
from overcut.sensors.alerts import UNREADABLE, Contact, contacts_for
from overcut.sensors.incidents import (
    SILENCES,
    SILENT_SITE,
    SILENT_SOURCE,
    Cause,
    Change,
    ChangeKind,
    Episode,
    Equipment,
    Head,
    Incident,
    IncidentState,
    Text,
    TextKind,
    TextState,
)
from overcut.sensors.readings import format_time
from overcut.sensors.silence import Finding, Silence, SourceSeen

# what one run can open and still text about; the rest is as silent a minute later
MOST_OPENED = 500
EQUIPMENT_REMEMBERED = timedelta(minutes=10)


class Outcomes(Protocol):
    """Where outcomes are counted."""

    def count(self, outcome: str, number: int = 1) -> None: ...


@dataclass(kw_only=True)
class SilenceWatch:
    """Keeps the incidents about silence.

    Attributes:
        sources: the ids of the stage's sources.
        silent_after: the shortest silence that is one.
        texted_kinds: the kinds of incidents that people are texted about.
    """

    bucket: DataBucket
    sensors: SensorsStore
    source_health: SourcesStore
    incidents: IncidentsStore
    outcomes: Outcomes
    sources: Sequence[str]
    silent_after: timedelta
    contacts: Sequence[Contact]
    default_contact: str
    texted_kinds: Collection[str]
    _equipment: Mapping[str, Equipment] = field(default_factory=dict)
    _equipment_read_at: datetime | None = None

    def watch(self, known: Iterable[Incident], now: datetime) -> list[Incident]:
        """Bring the incidents about silence up to date; return those whose texts may be due now.

        Args:
            known: every open incident.
        """
        seen = {source_id: found for source_id in self.sources if (found := self.bucket.seen(source_id))}
        at = int(now.timestamp())
        silence = Silence(seen, at, int(self.silent_after.total_seconds()), lambda: self._all_equipment(now))
        going_on = [one for one in known if one.kind in SILENCES and one.recovered_at is None]
        due = []
        for incident in going_on:
            subject = incident.equipment
            over_at = silence.over_at(incident.kind, subject, int(incident.opened_at.timestamp()))
            if over_at is not None:
                due += self._close(incident, _moment(over_at), IncidentState.RECOVERED)
            elif len(seen) == len(self.sources) and silence.is_forgotten(subject):
                self._close(incident, now, IncidentState.NEW_NORMAL)
        is_open = {(one.kind, one.equipment.sensor_id) for one in going_on}
        for finding in silence.new(is_open, self._site_back_at)[:MOST_OPENED]:
            due += self._open(finding, seen, now)
        return due

    def _all_equipment(self, now: datetime) -> Mapping[str, Equipment]:
        """Read while something is silent, and then not again for a while."""
        if self._equipment_read_at is None or abs(now - self._equipment_read_at) >= EQUIPMENT_REMEMBERED:
            self._equipment = {one.sensor_id: one for one in self.sensors.equipment()}
            self._equipment_read_at = now
        return self._equipment

    def _site_back_at(self, site: Equipment) -> int:
        head = self.incidents.head(site.sensor_id, SILENT_SITE)
        return int(head.recovered_at.timestamp()) if head and head.recovered_at else 0

    def _open(self, finding: Finding, seen: Mapping[str, SourceSeen], now: datetime) -> list[Incident]:
        kind, equipment, since = finding.kind, finding.equipment, _moment(finding.since)
        before = self.incidents.head(equipment.sensor_id, kind)
        if before and before.is_open:
            return []  # not on the list of open ones yet
        now = now.replace(microsecond=0)
        incident = Incident(
            equipment=equipment,
            kind=kind,
            state=IncidentState.OPEN,
            opened_at=now,
            first_anomalous_at=since,
            last_anomalous_at=now,
            cause=self._cause(finding, now),
            texts=self._texts(finding, seen, now) if kind in self.texted_kinds else {},
        )
        head = Head(before.version + 1 if before else 1, now, since, now)
        try:
            self.incidents.open(incident, Change(ChangeKind.OPEN, Episode(since, now, now), head))
        except HeadMovedError:
            return []  # another run was quicker
        self.outcomes.count("SilencesOpened")
        return [incident]

    def _cause(self, finding: Finding, now: datetime) -> Cause:
        minutes, usual = (now - _moment(finding.since)) / timedelta(minutes=1), finding.limit / 60
        is_unreadable = False
        if finding.kind == SILENT_SOURCE:
            is_unreadable = self.source_health.get(finding.equipment.name).failures_in_a_row > 0
        feature = UNREADABLE if is_unreadable else "value"
        return Cause("minutes without a reading", "min", minutes, 0.0, usual, minutes, usual, "", feature)

    def _texts(self, finding: Finding, seen: Mapping[str, SourceSeen], now: datetime) -> dict[str, Text]:
        """To those who are texted about the equipment; about a source, to those of each of its sensors, once."""
        of = [finding.equipment]
        if finding.equipment.sensor_id.startswith("#source#"):
            all_equipment, sensors = self._all_equipment(now), seen[finding.equipment.name].sensors
            of = [all_equipment[sensor_id] for sensor_id in sensors if sensor_id in all_equipment]
        places = {(one.customer, one.site) for one in of} or {("", "")}
        told = {
            contact
            for customer, site in places
            for contact in contacts_for(customer, site, self.contacts, self.default_contact)
        }
        texts = (Text(TextKind.ALERT, contact, TextState.OWED) for contact in sorted(told))
        return {text.text_key: text for text in texts}

    def _close(self, incident: Incident, at: datetime, state: IncidentState) -> list[Incident]:
        head = self.incidents.head(incident.equipment.sensor_id, incident.kind)
        if head is None or not head.is_open or head.opened_at != incident.opened_at:
            return []
        first, opened_at = incident.first_anomalous_at, incident.opened_at
        moved = Head(head.version + 1, opened_at, first, at, recovered_at=at)
        change = Change(ChangeKind.RECOVER, Episode(first, opened_at, at, at), moved)
        try:
            self.incidents.update(
                incident.equipment.sensor_id,
                incident.kind,
                change,
                state=state.value,
                last_anomalous_at=format_time(at),
                recovered_at=format_time(at),
                texts=_texts_of_end(incident) if state is IncidentState.RECOVERED else {},
            )
        except HeadMovedError:
            return []
        self.outcomes.count("SilencesEnded")
        found = self.incidents.get(incident.equipment.sensor_id, opened_at, incident.kind)
        return [found] if found else []


def _texts_of_end(incident: Incident) -> dict[str, Text]:
    """Whom a text reached is told that it is over; one that has not left yet would tell of a past that is over."""
    texts: dict[str, Text] = {}
    for key, text in incident.texts.items():
        if text.state in (TextState.SENT, TextState.SENDING):
            recovery = Text(TextKind.RECOVERY, text.contact_id, TextState.OWED)
            texts[recovery.text_key] = recovery
        elif text.state is TextState.OWED:
            texts[key] = Text(text.kind, text.contact_id, TextState.DIGEST)
    return texts


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
