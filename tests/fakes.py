"""Fakes of what `overcut.sensors.alerts` asks for, and the contract that a fake and a real store both keep."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from overcut.sensors.alerts import TextsOfOnePlace, TextStore
from overcut.sensors.incidents import Incident, Text, TextKind, TextState


class MemoryTextStore:
    """A `TextStore` that keeps incidents in memory, by reference."""

    def __init__(self, incidents: Iterable[Incident] = ()) -> None:
        self._incidents = {incident.reference: incident for incident in incidents}
        self._texted: dict[tuple[str, str, TextKind], tuple[datetime, str]] = {}
        self.bodies: dict[tuple[str, str], str] = {}

    def put(self, incident: Incident) -> None:
        self._incidents[incident.reference] = incident

    def read(self, incident: Incident) -> Incident:
        """The incident as it is kept now."""
        return self._incidents[incident.reference]

    def all(self) -> list[Incident]:
        return list(self._incidents.values())

    def permit(self, group: TextsOfOnePlace, now: datetime, group_for: timedelta) -> bool:
        key = (group.contact_id, group.place, group.kind)
        asking = group.incidents[0].reference
        last_at, granted_to = self._texted.get(key, (datetime.min.replace(tzinfo=now.tzinfo), ""))
        if now - last_at < group_for and granted_to != asking:
            return False
        self._texted[key] = (now, asking)
        return True

    def claim(self, incident: Incident, text_key: str, wall_now: int, claimed_until: int) -> bool:
        text = self.read(incident).texts[text_key]
        expired = text.state is TextState.SENDING and text.claimed_until < wall_now
        if text.state is not TextState.OWED and not expired:
            return False
        self._set(incident, text_key, state=TextState.SENDING, claimed_until=claimed_until)
        return True

    def release(self, incident: Incident, text_key: str) -> None:
        if self.read(incident).texts[text_key].state is TextState.SENDING:
            self._set(incident, text_key, state=TextState.OWED)

    def mark_sent(self, incident: Incident, text_key: str, message_id: str, body: str, now: datetime) -> None:
        self._set(incident, text_key, state=TextState.SENT, message_id=message_id)
        self.bodies[incident.reference, text_key] = body

    def _set(
        self,
        incident: Incident,
        text_key: str,
        *,
        state: TextState,
        claimed_until: int | None = None,
        message_id: str | None = None,
    ) -> None:
        kept = self.read(incident)
        text = kept.texts[text_key]
        text = replace(
            text,
            state=state,
            claimed_until=text.claimed_until if claimed_until is None else claimed_until,
            message_id=text.message_id if message_id is None else message_id,
        )
        self.put(replace(kept, texts={**kept.texts, text_key: text}))


class MemoryPhone:
    """A `Phone` that remembers what was sent.

    Attributes:
        sent: contact and body of every text that was accepted.
        faults: raised by the next sends, one each; None sends.
        accepts_before_fault: whether a text was taken although the send failed, as when an answer is lost.
    """

    def __init__(self, faults: Iterable[Exception | None] = (), *, accepts_before_fault: bool = False) -> None:
        self.sent: list[tuple[str, str]] = []
        self.faults = list(faults)
        self.accepts_before_fault = accepts_before_fault
        self.before_send: Callable[[], None] = lambda: None

    def send(self, contact_id: str, body: str) -> str:
        self.before_send()
        fault = self.faults.pop(0) if self.faults else None
        if fault is None or self.accepts_before_fault:
            self.sent.append((contact_id, body))
        if fault is not None:
            raise fault
        return f"message-{len(self.sent)}"


def check_text_store(
    store: TextStore, read: Callable[[Incident], Incident], one: Incident, other: Incident, now: datetime
) -> None:
    """The contract of a `TextStore`.

    Args:
        store: keeps `one` and `other`, which are of one place and each owe one alert to one contact.
        read: gives an incident as `store` keeps it.
    """
    (key,) = one.texts
    contact = one.texts[key].contact_id
    minutes = timedelta(minutes=3)

    def group(*incidents: Incident, kind: TextKind = TextKind.ALERT) -> TextsOfOnePlace:
        return TextsOfOnePlace(contact, one.equipment.place, kind, incidents)

    def text() -> Text:
        return read(one).texts[key]

    assert store.permit(group(one), now, minutes)
    assert store.permit(group(one), now, minutes), "the same incident asks again"
    assert not store.permit(group(other), now, minutes)
    assert not store.permit(group(other, one), now + minutes - timedelta(seconds=1), minutes)
    assert store.permit(group(other, kind=TextKind.RECOVERY), now, minutes), "another kind"
    assert store.permit(group(other), now + minutes, minutes)
    assert not store.permit(group(one), now + minutes, minutes)

    assert store.claim(one, key, 1000, 1060)
    assert (text().state, text().claimed_until) == (TextState.SENDING, 1060)
    assert not store.claim(one, key, 1001, 1061), "somebody is sending it"
    assert not store.claim(one, key, 1060, 1120), "a claim lasts to its last second"
    assert store.claim(one, key, 1061, 1121), "its sender is dead"
    assert text().claimed_until == 1121
    store.release(one, key)
    assert text().state is TextState.OWED
    assert store.claim(one, key, 1062, 1122)
    store.mark_sent(one, key, "message-1", "body", now)
    assert (text().state, text().message_id) == (TextState.SENT, "message-1")
    store.release(one, key)
    assert text().state is TextState.SENT, "what was sent is not owed again"
    assert not store.claim(one, key, 9999, 10059)
    assert read(other).texts == other.texts
