"""Alerts: who is told of an incident, in which words, and when.

Every text fits one GSM-7 segment, 160 characters of the basic set (3GPP TS 23.038): a longer one, or one with a single
character outside the set, is billed and delivered in parts.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    Answer,
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
_STARTS = {
    TextKind.ALERT: "ALERT ",
    TextKind.RECOVERY: "OK AGAIN ",
    TextKind.REMINDER: "STILL ",
    TextKind.AGAIN: "STILL ",
}
# the texts that somebody is to act on
LINKED = (TextKind.ALERT, TextKind.AGAIN)
# where a link leaves little room, words are dropped before less than this is told of equipment and place
NAMED = 20
# the cause's feature of a silent source that cannot even be polled
UNREADABLE = "unreadable"
# what a volatility is called after the name of its measure
SWING = " swing"
# of more incidents than this, claiming and recording each may take longer than a sender lives
MOST_TOGETHER = 500
# of many units, so many are named
WORST = 3
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
    """`text` in characters that take one place each in a segment: accents dropped, letters of other alphabets
    transliterated, control characters as spaces, brackets as parentheses, the rest as `?`."""
    return "".join(map(_plain, unicodedata.normalize("NFC", text)))


def _plain(character: str) -> str:
    # decomposed first: the one character for degrees Celsius holds a degree sign
    spelled = unicodedata.normalize("NFKD", character).translate(_SPELLED)
    plain = "".join(c for c in spelled if not unicodedata.combining(c))
    if unicodedata.category(character) == "Cc":
        return " "
    if plain and not set(plain) <= _PLAIN and unicodedata.category(character)[0] in "LN":
        # only who composes texts is shipped with it
        from anyascii import anyascii

        plain = anyascii(character) or "?"
    return "".join(c if c in _PLAIN else "?" for c in plain)


@dataclass(frozen=True)
class Contact:
    """Somebody who is texted. The phone number is known to the topic's subscription alone.

    Attributes:
        customers, sites: whose equipment, and where; an empty one means any.
        escalate_to: who is texted next when this one does not answer; empty: nobody.
    """

    contact_id: str
    customers: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()
    escalate_to: str = ""

    @classmethod
    def from_setting(cls, setting: Mapping[str, Any]) -> "Contact":
        """A contact as the stage gives it, such as `{"contact_id": ..., "customers": [...], "sites": [...]}`."""
        return cls(
            setting["contact_id"],
            frozenset(setting.get("customers", ())),
            frozenset(setting.get("sites", ())),
            setting.get("escalate_to", ""),
        )


def reminders(incident: Incident, new_normal_after: timedelta) -> dict[str, Text]:
    """By key the texts that an open incident owes once it has lasted for longer: one to everybody who was alerted."""
    lasted = incident.last_anomalous_at - incident.first_anomalous_at
    if incident.state is not IncidentState.OPEN or incident.kind in SILENCES or lasted <= new_normal_after:
        return {}
    alerted = [text.contact_id for text in incident.texts.values() if _is_sent_alert(text)]
    owed = (Text(TextKind.REMINDER, contact_id, TextState.OWED) for contact_id in alerted)
    return {text.text_key: text for text in owed if text.text_key not in incident.texts}


def escalations(
    incident: Incident, contacts: Iterable[Contact], escalate_after: timedelta, now: datetime
) -> dict[str, Text]:
    """By key the alerts that an open incident owes because nobody answered: one to the next contact of each who was
    alerted `escalate_after` ago. A snooze puts that off."""
    if incident.state is not IncidentState.OPEN or incident.is_answered:
        return {}
    following = {contact.contact_id: contact.escalate_to for contact in contacts if contact.escalate_to}
    snoozed_until = incident.response.until if incident.response else None
    owed = {}
    for text in incident.texts.values():
        contact_id = following.get(text.contact_id)
        if contact_id is None or not _is_sent_alert(text) or text.sent_at is None:
            continue
        if now - max(text.sent_at, snoozed_until or text.sent_at) >= escalate_after:
            next_text = Text(TextKind.ALERT, contact_id, TextState.OWED, is_escalation=True)
            owed[next_text.text_key] = next_text
    return {key: text for key, text in owed.items() if key not in incident.texts}


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


def compose(incidents: Sequence[Incident], kind: TextKind, link: str = "") -> str:
    """The text about `incidents`, which are of one site: one segment.

    Args:
        link: it stands last and whole; where that leaves little room, fewer words are said.

    Raises:
        ValueError: there is no incident.
    """
    if not incidents:
        raise ValueError("a text is about at least one incident")
    end = f" {link}" if link else ""
    room = SEGMENT_LENGTH - len(end)
    first = first_of(incidents)
    if len(incidents) > 1:
        return _compose_many(incidents, first, kind, room) + end
    start = _STARTS[kind]
    told = _told_over(first) if kind is TextKind.RECOVERY else _told(first, kind)
    tries = [(_equipment, f": {told}{_hint(kind)}. Ref {first.reference}")]
    if kind in LINKED:
        tries += [(_equipment_briefly, f": {brief} {first.reference}") for brief in _told_briefly(first)]
    left = (
        (name, rest)
        for name, rest in tries
        if room - len(start) - len(rest) >= min(NAMED, len(name(first, SEGMENT_LENGTH)))
    )
    name, rest = next(left, tries[-1]) if link else tries[0]
    return start + name(first, room - len(start) - len(rest)) + rest + end


def first_of(incidents: Iterable[Incident]) -> Incident:
    """The incident of a text that its reference names."""
    return min(incidents, key=lambda incident: incident.first_anomalous_at)


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


def _told_briefly(incident: Incident) -> Iterator[str]:
    """The same without what the page tells, the longest first."""
    cause, clock = incident.cause, f"{_clock(incident.first_anomalous_at)} UTC"
    if incident.kind == BACKWARDS:
        yield f"clock may run behind, since {clock}"
    elif incident.kind in SILENCES:
        yield f"{'unreadable' if cause.feature == UNREADABLE else 'no reading'} since {clock}"
    else:
        value = f"{_brief(cause.value)}{_unit(cause.unit, 4)}"
        if incident.kind == STUCK_SENSOR:
            if not cause.unit:
                yield f"{_short(cause.measure, 24)} stuck at {value} since {clock}"
            yield f"stuck at {value} since {clock}"
            return
        swing = f"{SWING.strip()} " if cause.feature == "volatility" else ""
        low, high = _brief(cause.usual_low), _brief(cause.usual_high)
        usual = f"{low} to {high}" if "-" in low + high else f"{low}-{high}"
        # a unit tells the measure
        for most in (0,) if cause.unit else (24, 8):
            what = f"{swing}{_short(cause.measure, most)} " if most else swing
            yield f"{what}{value}, usual {usual}, since {clock}"
        yield f"{what}{value}, usual {usual}, {clock}"


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
    return f"usual values since {_clock(incident.over_since)} UTC. The fault began {first}"


def _compose_many(incidents: Sequence[Incident], first: Incident, kind: TextKind, most: int) -> str:
    text, names = _many(incidents, first, kind, most, is_brief=False)
    if not names and most < SEGMENT_LENGTH:
        text, _ = _many(incidents, first, kind, most, is_brief=True)
    return text


def _many(
    incidents: Sequence[Incident], first: Incident, kind: TextKind, most: int, *, is_brief: bool
) -> tuple[str, Sequence[str]]:
    """The text without its link, and the names that are in it."""
    site = _short(first.equipment.site or "no site", 14 if is_brief else 24)
    # one unit may be abnormal and its sensor stuck
    names = {incident.equipment.sensor_id: incident.equipment.name for incident in incidents}
    kinds = {incident.kind for incident in incidents}
    thing, what = _SEVERAL.get(kinds.pop(), _UNITS) if len(kinds) == 1 else _UNITS
    things = f"{thing}{'s' if len(names) > 1 else ''}"
    learned = any(incident.state is IncidentState.NEW_NORMAL for incident in incidents)
    over = "OK again or learned as usual" if learned else "OK again"
    still, also = f"still {what}", what if is_brief else f"also {what}"
    what = {TextKind.ALERT: also, TextKind.REMINDER: still, TextKind.AGAIN: still, TextKind.RECOVERY: over}[kind]
    total, listed = len(names), ": "
    if total > WORST and kind is not TextKind.RECOVERY:
        worst_first = sorted(incidents, key=_severity, reverse=True)
        names = {incident.equipment.sensor_id: incident.equipment.name for incident in worst_first}
        total, listed = 0, ", worst: "  # how many there are is said
    start = f"{'ALERT ' if kind is TextKind.ALERT else ''}{site}: {len(names)} {things} {what}{listed}"
    last = max(incident.over_since for incident in incidents)
    since = last if kind is TextKind.RECOVERY else first.first_anomalous_at
    rest = f", since {_since(since, kind)} UTC{_hint(kind)}. Ref {first.reference}"
    if is_brief:
        rest = f", {_clock(since)} UTC {first.reference}"
    room = most - len(start) - len(rest)
    shown = [_short(name, max(min(24, room), 0)) for name in islice(names.values(), WORST)]
    while shown and len(_listed(shown, total)) > room:
        shown = shown[:-1]
    if is_brief and not shown:
        return start.removesuffix(listed) + rest, shown
    return start + _listed(shown, total) + rest, shown


def _severity(incident: Incident) -> float:
    """How many times its cutoff an incident's score is: the one thing that different models' scores are compared by."""
    return incident.cause.anomaly_score / max(incident.cause.score_cutoff, 1e-9)


def compose_digest(held: Sequence[tuple[Incident, Text]]) -> str:
    """The text that tells of texts that were held back: how many, about what since when, and the worst of it.

    Raises:
        ValueError: there is none.
    """
    if not held:
        raise ValueError("a digest is about at least one text")
    first = min((incident for incident, _ in held), key=lambda incident: incident.first_anomalous_at)
    # what is still open first
    worst_first = sorted(
        (one for one, _ in held), key=lambda one: (one.recovered_at is None, _severity(one)), reverse=True
    )
    names = list({one.equipment.sensor_id: one.equipment.name for one in worst_first}.values())
    still_open = len({one.reference for one in worst_first if one.recovered_at is None})
    texts = f"{len(held)} text{'s' if len(held) > 1 else ''}"
    start = (
        f"DIGEST {texts} held back since {first.first_anomalous_at:%d %b %H:%M} UTC, {still_open} still open. Worst: "
    )
    rest = f". Ref {worst_first[0].reference}"
    shown = [_short(name, 24) for name in names[:WORST]]
    while shown and len(start) + len(_listed(shown, 0)) + len(rest) > SEGMENT_LENGTH:
        shown = shown[:-1]
    return start + _listed(shown, 0) + rest


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


def _equipment_briefly(incident: Incident, room: int) -> str:
    """Without a place that nobody has given: what is measured says more."""
    equipment = incident.equipment
    if equipment.site or incident.kind == SILENT_SITE or equipment.sensor_id.startswith("#"):
        return _equipment(incident, room)
    return _short(equipment.name, room)


def _short(text: str, room: int) -> str:
    plain = to_gsm7(text)
    return plain if len(plain) <= room else plain[: max(room - 2, 0)] + ".."[:room]


def _number(value: float) -> str:
    size = abs(value)
    if size >= 1e6 or 0 < size < 0.01:
        return f"{value:.2e}"
    return f"{value:.0f}" if size >= 1000 else f"{value:.1f}" if size >= 1 or size == 0 else f"{value:.2f}"


def _brief(value: float) -> str:
    number = _number(value)
    return number if len(number) <= 6 else f"{value:.1e}"


def _unit(unit: str, room: int = 8) -> str:
    return f" {_short(unit, room)}" if unit else ""


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
            if is_pointless(incident, text):
                continue
            owed.setdefault((text.kind, text.contact_id, incident.equipment.place), []).append(incident)
    return [
        TextsOfOnePlace(contact_id, place, kind, tuple(group))
        for (kind, contact_id, place), group in sorted(owed.items())
    ]


def is_pointless(incident: Incident, text: Text) -> bool:
    """Whether a text never leaves: a reminder or an escalation that has not left when its incident is over or, of an
    escalation, answered; what was snoozed, when there was another answer since; and a recovery of what was never told.
    """
    is_over = incident.state is not IncidentState.OPEN
    match text.kind:
        case TextKind.ALERT:
            return text.is_escalation and text.state is TextState.OWED and (is_over or incident.is_answered)
        case TextKind.RECOVERY:
            alert = _alert_of(incident.texts, text.contact_id)
            return alert is not None and is_pointless(incident, alert)
        case TextKind.REMINDER:
            return is_over
        case TextKind.AGAIN:
            last = incident.response
            return is_over or not last or (last.answer, last.contact_id) != (Answer.SNOOZE, text.contact_id)


def held_back(incidents: Iterable[Incident]) -> dict[str, list[tuple[Incident, Text]]]:
    """By contact the texts that wait for a digest."""
    held: dict[str, list[tuple[Incident, Text]]] = {}
    for incident in incidents:
        for text in incident.texts.values():
            if text.state is TextState.DIGEST and not is_pointless(incident, text):
                held.setdefault(text.contact_id, []).append((incident, text))
    return held


def follows_held_back(incident: Incident) -> list[str]:
    """The keys of an incident's owed texts whose alert waits for a digest: they are to be in it, too."""
    return [
        key
        for key, text in incident.texts.items()
        if text.state is TextState.OWED and _alert_state(incident.texts, text.contact_id) is TextState.DIGEST
    ]


def _was_alerted(texts: Mapping[str, Text], contact_id: str) -> bool:
    return _alert_state(texts, contact_id) is TextState.SENT


def _alert_state(texts: Mapping[str, Text], contact_id: str) -> TextState | None:
    alert = _alert_of(texts, contact_id)
    return alert.state if alert else None


def _alert_of(texts: Mapping[str, Text], contact_id: str) -> Text | None:
    return texts.get(Text(TextKind.ALERT, contact_id, TextState.OWED).text_key)


@dataclass(frozen=True)
class Budget:
    """How many texts a contact gets at most, digests aside; those of an hour, or a month, begin with it in UTC."""

    per_hour: int
    per_month: int


class TextStore(Protocol):
    """Keeps what was promised and what was done about it."""

    def permit(self, group: TextsOfOnePlace, now: datetime, group_for: timedelta) -> bool:
        """Whether this place's contact may be texted now; at most one text in `group_for`, and asking again for the
        same incident gives the same answer."""

    def spend(self, contact_id: str, now: datetime, budget: Budget) -> bool:
        """Count one more text to a contact; False, and not counted, when its budget is used up."""

    def refund(self, contact_id: str, now: datetime) -> None:
        """A text that was counted was not taken."""

    def claim(
        self, incidents: Sequence[Incident], text_key: str, wall_now: int, claimed_until: int
    ) -> Sequence[Incident]:
        """Take an owed text of each, or one whose claim ran out, for this sender alone; those that could be taken."""

    def hold_back(self, incidents: Sequence[Incident], text_key: str, now: datetime) -> None:
        """Texts that are owed or claimed are for the next digest: the contact's budget is used up."""

    def permit_digest(self, contact_id: str, now: datetime, budget: Budget) -> bool:
        """Whether a contact that texts are held back from is told so now; see `digest_is_due`. A digest that is not
        known to have left an hour later is due again."""

    def digest_told(self, contact_id: str, now: datetime) -> None:
        """The digest that was permitted at `now` has left."""

    def release(self, incident: Incident, text_key: str) -> None:
        """Give a claimed text back: it is owed again."""

    def mark_sent(
        self, incidents: Sequence[Incident], text_key: str, message_id: str, body: str, now: datetime
    ) -> None:
        """The text about them has left."""


class Phone(Protocol):
    """Sends one text."""

    def send(self, contact_id: str, body: str) -> str:
        """Send `body` and return the service's message id.

        Raises:
            TextRefusedError: it was not taken.
            TextUncertainError: it may have been taken.
        """


class Links(Protocol):
    """Makes addresses of pages."""

    def make(self, contact_id: str, incidents: Sequence[Incident], wall_now: int) -> str:
        """The address of a page about `incidents` for one contact, the first being what the page is about."""


class SendOutcome(StrEnum):
    SENT = "sent"
    GROUPED = "grouped"
    HELD = "held"
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
    budget: Budget,
    together: bool,
    links: Links | None = None,
    has_time: Callable[[], bool] = lambda: True,
) -> list[tuple[TextsOfOnePlace, SendOutcome]]:
    """Send what `incidents` owe: claim, send, record, one text after the other.

    The first text of a place and contact leaves at once; more within `group_for` stay owed, for the sweep to send as
    one. None is lost; one is doubled only when a sender dies, or the service does not answer, after it took the text.

    Args:
        together: send what one place owes as one text, as the sweep does. Otherwise only the first of it, in full.
        links: where what a text is about is shown, if it is.
        has_time: whether the sender lives long enough for one more; what it does not come to stays owed.
    """
    outcomes = []
    for group in texts_to_send(incidents, wall_now):
        if not has_time():
            outcomes.append((group, SendOutcome.GROUPED))
            continue
        if not store.permit(group, now, group_for):
            outcomes.append((group, SendOutcome.GROUPED))
            continue
        key = Text(group.kind, group.contact_id, TextState.OWED).text_key
        most = MOST_TOGETHER if together else 1
        sending, rest = group.incidents[:most], group.incidents[most:]
        if rest:
            outcomes.append((replace(group, incidents=rest), SendOutcome.GROUPED))
        mine = store.claim(sending, key, wall_now, wall_now + claim_seconds)
        if not mine:
            continue
        claimed = replace(group, incidents=tuple(mine))
        if not store.spend(group.contact_id, now, budget):
            store.hold_back(mine, key, now)
            outcomes.append((claimed, SendOutcome.HELD))
            continue
        link = ""
        if links and group.kind in LINKED:
            first = first_of(mine)
            link = links.make(group.contact_id, [first, *(one for one in mine if one is not first)], wall_now)
        body = compose(mine, group.kind, link)
        try:
            message_id = phone.send(group.contact_id, body)
        except TextRefusedError:
            store.refund(group.contact_id, now)
            for incident in mine:
                store.release(incident, key)
            outcomes.append((claimed, SendOutcome.REFUSED))
        except TextUncertainError:
            outcomes.append((claimed, SendOutcome.UNCERTAIN))
        else:
            store.mark_sent(mine, key, message_id, body, now)
            outcomes.append((claimed, SendOutcome.SENT))
    return outcomes


# how often a contact gets a digest at most: while an hour's budget is used up, a month's, and while none is
HOURLY, DAILY = timedelta(hours=1), timedelta(days=1)
# of more, marking each may take longer than a sender lives
MOST_IN_DIGEST = 2_000


def digest_is_due(
    now: datetime,
    *,
    waiting_since: datetime,
    held_at: datetime | None,
    sent_at: datetime | None,
    month_is_used_up: bool,
) -> bool:
    """Whether a contact is told of the texts held back from it.

    At once when a budget is used up, and hourly while more is held back (daily, when it is the month's). What was too
    old to be texted waits for a day, so that all of a backlog comes together.

    Args:
        waiting_since: when the first of them was seen.
        held_at: when a text was held back last because a budget was used up.
        sent_at: when the last digest left.
    """
    if held_at and (sent_at is None or held_at > sent_at):
        return sent_at is None or now - sent_at >= (DAILY if month_is_used_up else HOURLY)
    return now - waiting_since >= DAILY


def send_digests(
    incidents: Iterable[Incident], *, store: TextStore, phone: Phone, now: datetime, budget: Budget
) -> list[tuple[str, SendOutcome]]:
    """Tell each contact, where it is due, of the texts held back from it; they count as sent then."""
    outcomes = []
    for contact_id, held in sorted(held_back(incidents).items()):
        if not store.permit_digest(contact_id, now, budget):
            continue
        told = held[:MOST_IN_DIGEST]
        body = compose_digest(told)
        try:
            message_id = phone.send(contact_id, body)
        except (TextRefusedError, TextUncertainError) as error:
            refused = isinstance(error, TextRefusedError)
            outcomes.append((contact_id, SendOutcome.REFUSED if refused else SendOutcome.UNCERTAIN))
            continue
        for key in sorted({text.text_key for _, text in told}):
            store.mark_sent([one for one, text in told if text.text_key == key], key, message_id, body, now)
        store.digest_told(contact_id, now)
        outcomes.append((contact_id, SendOutcome.SENT))
    return outcomes


def needs_attention(incident: Incident) -> bool:
    """Whether an incident is not over, or still owes somebody a text or a line of a digest."""
    going_on = incident.state in (IncidentState.OPEN, IncidentState.NEW_NORMAL) and incident.recovered_at is None
    owing = (text for text in incident.texts.values() if not is_pointless(incident, text))
    return going_on or any(text.state is not TextState.SENT for text in owing)
