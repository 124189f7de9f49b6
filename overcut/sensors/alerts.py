"""Alerts: who is told of an incident, in which words, and when.

Every text fits one GSM-7 segment, 160 characters of the basic set (3GPP TS 23.038): a longer one, or one with a single
character outside the set, is billed and delivered in parts.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any, Protocol

from overcut import OvercutError, RetryableError
from overcut.sensors.incidents import (
    BACKWARDS,
    SILENCES,
    SILENT_SENSOR,
    SILENT_SITE,
    SILENT_SOURCE,
    STUCK_SENSOR,
    Incident,
    IncidentState,
    Text,
    TextKind,
    TextState,
)

SEGMENT_LENGTH = 160
# of several incidents of one kind, what they are about and what these are; of equipment and of mixed kinds, the last
_SEVERAL = {
    STUCK_SENSOR: ("sensor", "stuck"),
    SILENT_SENSOR: ("sensor", "silent"),
    SILENT_SITE: ("site", "silent"),
    SILENT_SOURCE: ("source", "silent"),
    BACKWARDS: ("clock", "running behind"),
}
_UNITS = ("unit", "abnormal")
_STARTS = {TextKind.ALERT: "ALERT ", TextKind.RECOVERY: "OK AGAIN ", TextKind.REMINDER: "STILL "}
# the cause's feature of a silent source that cannot even be polled
UNREADABLE = "unreadable"
# what a volatility is called after the name of its measure
SWING = " swing"
# of more incidents than this, claiming and recording each may take longer than a sender lives
MOST_TOGETHER = 500
# ASCII that is in GSM-7's basic set; `^{}\[~]|` cost two characters each and "`" is not in it at all
_PLAIN = frozenset("".join(map(chr, range(32, 127)))) - frozenset("^{}\\[~]|`")
_SPELLED = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "μ": "u", "°": ""}
    | dict.fromkeys("–—‐−", "-")
    | dict.fromkeys("’‘", "'")
    | dict.fromkeys("“”", '"')
    | dict(zip("{}[]", "()()", strict=True))
)


def to_gsm7(text: str) -> str:
    """`text` in characters that take one place each in a segment: accents dropped, control characters as spaces,
    brackets as parentheses, the rest as `?`."""
    # decomposed first: the one character for degrees Celsius holds a degree sign
    spelled = unicodedata.normalize("NFKD", text).translate(_SPELLED)
    plain = (" " if unicodedata.category(c) == "Cc" else c for c in spelled if not unicodedata.combining(c))
    return "".join(c if c in _PLAIN else "?" for c in plain)


@dataclass(frozen=True)
class Contact:
    """Somebody who is texted. The phone number is known to the topic's subscription alone.

    Attributes:
        customers, sites: whose equipment, and where; an empty one means any.
    """

    contact_id: str
    customers: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()

    @classmethod
    def from_setting(cls, setting: Mapping[str, Any]) -> "Contact":
        """A contact as the stage gives it: `{"contact_id": ..., "customers": [...], "sites": [...]}`."""
        return cls(setting["contact_id"], frozenset(setting.get("customers", ())), frozenset(setting.get("sites", ())))


def reminders(incident: Incident, new_normal_after: timedelta) -> dict[str, Text]:
    """By key the texts that an open incident owes once it has lasted for longer: one to everybody who was alerted."""
    lasted = incident.last_anomalous_at - incident.first_anomalous_at
    if incident.state is not IncidentState.OPEN or incident.kind in SILENCES or lasted <= new_normal_after:
        return {}
    alerted = [text.contact_id for text in incident.texts.values() if _is_sent_alert(text)]
    owed = (Text(TextKind.REMINDER, contact_id, TextState.OWED) for contact_id in alerted)
    return {text.text_key: text for text in owed if text.text_key not in incident.texts}


def _is_sent_alert(text: Text) -> bool:
    return text.kind is TextKind.ALERT and text.state is TextState.SENT


def contacts_for(customer: str, site: str, contacts: Iterable[Contact], default_contact: str) -> list[str]:
    """The ids of those to text about equipment of `customer` at `site`; the default contact where there is nobody else.

    A contact without customers and sites is only ever the default.
    """
    found = [
        contact.contact_id
        for contact in contacts
        if (contact.customers or contact.sites)
        and (not contact.customers or customer in contact.customers)
        and (not contact.sites or site in contact.sites)
    ]
    return found or [default_contact]


def first_text_state(
    *, lateness: timedelta, newest_lateness: timedelta, is_open: bool, stale_after: timedelta
) -> TextState:
    """What becomes of a new incident's alerts.

    Args:
        lateness: how long after it was measured the reading came that completed the run.
        newest_lateness: the same of the sensor's newest reading.
        is_open: the readings at hand do not show a recovery.
    """
    if lateness <= stale_after:
        return TextState.OWED
    if not is_open:
        return TextState.DIGEST
    return TextState.OWED if newest_lateness <= stale_after else TextState.WAITING


def compose(incidents: Sequence[Incident], kind: TextKind) -> str:
    """The text about `incidents`, which are of one site: one segment.

    Raises:
        ValueError: there is no incident.
    """
    if not incidents:
        raise ValueError("a text is about at least one incident")
    first = min(incidents, key=lambda incident: incident.first_anomalous_at)
    if len(incidents) > 1:
        return _compose_many(incidents, first, kind)
    start = _STARTS[kind]
    told = _told_over(first) if kind is TextKind.RECOVERY else _told(first, kind)
    rest = f": {told}{_hint(kind)}. Ref {first.reference}"
    return start + _equipment(first, SEGMENT_LENGTH - len(start) - len(rest)) + rest


def _told(incident: Incident, kind: TextKind) -> str:
    cause, since = incident.cause, _since(incident.first_anomalous_at, kind)
    if incident.kind == BACKWARDS:
        return f"readings come, but none measured after {since} UTC: its clock may run behind"
    if incident.kind == SILENT_SOURCE:
        return f"{'its stream cannot be read, nothing' if cause.feature == UNREADABLE else 'nothing'} since {since} UTC"
    if incident.kind in SILENCES:
        return f"no reading{' of any sensor' if incident.kind == SILENT_SITE else ''} since {since} UTC"
    value = f"{_number(cause.value)}{_unit(cause.unit)}"
    if incident.kind == STUCK_SENSOR:
        return f"{_short(cause.measure, 24)} stuck at {value} since {since} UTC"
    what = _short(cause.measure, 24)
    if cause.feature == "volatility":
        what = f"{_short(cause.measure, 24 - len(SWING))}{SWING}"
    if kind is TextKind.REMINDER:
        return f"{what} {value} since {since} UTC"
    return f"{what} {value}, usual {_number(cause.usual_low)} to {_number(cause.usual_high)}, since {since} UTC"


def _told_over(incident: Incident) -> str:
    first, last = _clock(incident.first_anomalous_at), _clock(incident.last_anomalous_at)
    if incident.state is IncidentState.NEW_NORMAL:
        return (
            f"nobody called it a fault, so it was learned as usual. It began {incident.first_anomalous_at:%d %b %H:%M}"
        )
    if incident.kind == BACKWARDS:
        return f"its clock goes on. No reading measured after {first} UTC came until {last}"
    if incident.kind in SILENCES:
        return f"readings again. There was none from {first} to {last} UTC"
    if incident.kind == STUCK_SENSOR:
        return f"{_short(incident.cause.measure, 24)} stuck from {first} to {last} UTC, now changing"
    return f"usual values since {last} UTC. The fault began {first}"


def _compose_many(incidents: Sequence[Incident], first: Incident, kind: TextKind) -> str:
    site = _short(first.equipment.site or "no site", 24)
    # one unit may be abnormal and its sensor stuck
    names = {incident.equipment.sensor_id: incident.equipment.name for incident in incidents}
    kinds = {incident.kind for incident in incidents}
    thing, what = _SEVERAL.get(kinds.pop(), _UNITS) if len(kinds) == 1 else _UNITS
    things = f"{thing}{'s' if len(names) > 1 else ''}"
    learned = any(incident.state is IncidentState.NEW_NORMAL for incident in incidents)
    over = "OK again or learned as usual" if learned else "OK again"
    what = {TextKind.ALERT: f"also {what}", TextKind.REMINDER: f"still {what}", TextKind.RECOVERY: over}[kind]
    start = f"{'ALERT ' if kind is TextKind.ALERT else ''}{site}: {len(names)} {things} {what}: "
    last = max(incident.last_anomalous_at for incident in incidents)
    since = last if kind is TextKind.RECOVERY else first.first_anomalous_at
    rest = f", since {_since(since, kind)} UTC{_hint(kind)}. Ref {first.reference}"
    room = SEGMENT_LENGTH - len(start) - len(rest)
    # with a comma and a space after each, no more names than these can fit, be there thousands
    shown = [_short(name, 24) for name in islice(names.values(), SEGMENT_LENGTH // 2)]
    while shown and len(_listed(shown, len(names))) > room:
        shown = shown[:-1]
    return start + _listed(shown, len(names)) + rest


def _listed(shown: Sequence[str], total: int) -> str:
    more = [f"{total - len(shown)} more"] if total > len(shown) else []
    return ", ".join([*shown, *more])


def _equipment(incident: Incident, room: int) -> str:
    equipment = incident.equipment
    if incident.kind == SILENT_SITE or equipment.sensor_id.startswith("#"):
        return _short(f"{'Site' if incident.kind == SILENT_SITE else 'Source'} {equipment.name}", room)
    site = equipment.site or "no site yet"
    name_room = max(room - len(", ") - min(len(to_gsm7(site)), room // 3), 1)
    name = _short(equipment.name, name_room)
    return f"{name}, {_short(site, room - len(name) - 2)}"


def _short(text: str, room: int) -> str:
    plain = to_gsm7(text)
    return plain if len(plain) <= room else plain[: max(room - 2, 0)] + ".."[:room]


def _number(value: float) -> str:
    size = abs(value)
    if size >= 1e6 or 0 < size < 0.01:
        return f"{value:.2e}"
    return f"{value:.0f}" if size >= 1000 else f"{value:.1f}" if size >= 1 or size == 0 else f"{value:.2f}"


def _unit(unit: str) -> str:
    return f" {_short(unit, 8)}" if unit else ""


def _clock(moment: datetime) -> str:
    return moment.strftime("%H:%M")


def _since(moment: datetime, kind: TextKind) -> str:
    """A reminder tells of another day."""
    return f"{moment:%d %b %H:%M}" if kind is TextKind.REMINDER else _clock(moment)


def _hint(kind: TextKind) -> str:
    return ". Learned as usual unless marked a fault" if kind is TextKind.REMINDER else ""


# ---------------------------------------------------------------------------------------------------------------------
# Sending: decide, then act
# ---------------------------------------------------------------------------------------------------------------------


class TextRefusedError(OvercutError):
    """The service answered, and did not take the text: it is owed as before."""


class TextUncertainError(RetryableError):
    """The service did not answer: it may have taken the text. The claim is left to expire."""


@dataclass(frozen=True)
class TextsOfOnePlace:
    """Texts of one kind to one contact about one place: what may be sent as one."""

    contact_id: str
    place: str
    kind: TextKind
    incidents: tuple[Incident, ...]


def texts_to_send(incidents: Iterable[Incident], wall_now: int) -> list[TextsOfOnePlace]:
    """The texts that `incidents` owe, alerts before recoveries.

    A claim that ran out is owed again: its sender is dead. A recovery waits until its alert was sent.

    Args:
        wall_now: the machine's time in seconds since 1970, which claims are measured in: a sender lives in it.
    """
    owed: dict[tuple[TextKind, str, str], list[Incident]] = {}
    for incident in sorted(incidents, key=lambda incident: incident.opened_at):
        for text in incident.texts.values():
            expired = text.state is TextState.SENDING and text.claimed_until < wall_now
            if not expired and text.state is not TextState.OWED:
                continue
            if text.kind is TextKind.RECOVERY and not _was_alerted(incident.texts, text.contact_id):
                continue
            owed.setdefault((text.kind, text.contact_id, incident.equipment.place), []).append(incident)
    return [
        TextsOfOnePlace(contact_id, place, kind, tuple(group))
        for (kind, contact_id, place), group in sorted(owed.items())
    ]


def _was_alerted(texts: Mapping[str, Text], contact_id: str) -> bool:
    alert = texts.get(Text(TextKind.ALERT, contact_id, TextState.OWED).text_key)
    return alert is not None and alert.state is TextState.SENT


class TextStore(Protocol):
    """Keeps what was promised and what was done about it."""

    def permit(self, group: TextsOfOnePlace, now: datetime, group_for: timedelta) -> bool:
        """Whether this place's contact may be texted now; at most one text in `group_for`, and asking again for the
        same incident gives the same answer."""

    def claim(self, incident: Incident, text_key: str, wall_now: int, claimed_until: int) -> bool:
        """Take an owed text, or one whose claim ran out, for this sender alone."""

    def release(self, incident: Incident, text_key: str) -> None:
        """Give a claimed text back: it is owed again."""

    def mark_sent(self, incident: Incident, text_key: str, message_id: str, body: str, now: datetime) -> None:
        """The text has left."""


class Phone(Protocol):
    """Sends one text."""

    def send(self, contact_id: str, body: str) -> str:
        """Send `body` and return the service's message id.

        Raises:
            TextRefusedError: it was not taken.
            TextUncertainError: it may have been taken.
        """


class SendOutcome(StrEnum):
    SENT = "sent"
    GROUPED = "grouped"
    REFUSED = "refused"
    UNCERTAIN = "uncertain"


def send_texts(
    incidents: Iterable[Incident],
    *,
    store: TextStore,
    phone: Phone,
    now: datetime,
    wall_now: int,
    group_for: timedelta,
    claim_seconds: int,
    together: bool,
) -> list[tuple[TextsOfOnePlace, SendOutcome]]:
    """Send what `incidents` owe: claim, send, record, one text after the other.

    The first text of a place and contact leaves at once; more within `group_for` stay owed, for the sweep to send as
    one. None is lost; one is doubled only when a sender dies, or the service does not answer, after it took the text.

    Args:
        together: send what one place owes as one text, as the sweep does. Otherwise only the first of it, in full.
    """
    outcomes = []
    for group in texts_to_send(incidents, wall_now):
        if not store.permit(group, now, group_for):
            outcomes.append((group, SendOutcome.GROUPED))
            continue
        key = Text(group.kind, group.contact_id, TextState.OWED).text_key
        most = MOST_TOGETHER if together else 1
        sending, rest = group.incidents[:most], group.incidents[most:]
        if rest:
            outcomes.append((replace(group, incidents=rest), SendOutcome.GROUPED))
        mine = [i for i in sending if store.claim(i, key, wall_now, wall_now + claim_seconds)]
        if not mine:
            continue
        body = compose(mine, group.kind)
        claimed = replace(group, incidents=tuple(mine))
        try:
            message_id = phone.send(group.contact_id, body)
        except TextRefusedError:
            for incident in mine:
                store.release(incident, key)
            outcomes.append((claimed, SendOutcome.REFUSED))
        except TextUncertainError:
            outcomes.append((claimed, SendOutcome.UNCERTAIN))
        else:
            _mark_all_sent(mine, key, message_id, body, store=store, now=now)
            outcomes.append((claimed, SendOutcome.SENT))
    return outcomes


def _mark_all_sent(
    incidents: Iterable[Incident], key: str, message_id: str, body: str, *, store: TextStore, now: datetime
) -> None:
    """Record that a text has left. One that cannot be recorded is sent again; it must not take the others along."""
    failures = []
    for incident in incidents:
        try:
            store.mark_sent(incident, key, message_id, body, now)
        except Exception as error:  # whatever it is, it is raised when the others are recorded
            failures.append(error)
    if failures:
        raise failures[0]


def needs_attention(incident: Incident) -> bool:
    """Whether an incident is not over, or still owes somebody a text."""
    pending = {TextState.OWED, TextState.SENDING, TextState.WAITING}
    going_on = incident.state in (IncidentState.OPEN, IncidentState.NEW_NORMAL) and incident.recovered_at is None
    return going_on or any(text.state in pending for text in incident.texts.values())
