"""Fakes of what `overcut.sensors.alerts` asks for, and the contract that a fake and a real store both keep."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, replace
from datetime import datetime, timedelta

from overcut.sensors.alerts import Budget, TextsOfOnePlace, TextStore
from overcut.sensors.incidents import Incident, Text, TextKind, TextState


class MemoryTextStore:
    """A `TextStore` that keeps incidents in memory, by reference."""

    def __init__(self, incidents: Iterable[Incident] = ()) -> None:
        self._incidents = {incident.reference: incident for incident in incidents}
        self._texted: dict[tuple[str, str, TextKind], tuple[datetime, str]] = {}
        self.bodies: dict[tuple[str, str], str] = {}
        self._spent: Counter[tuple[str, str]] = Counter()

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

    def spend(self, contact_id: str, now: datetime, budget: Budget) -> bool:
        windows = (self._window(contact_id, now, "%Y-%m-%d %H"), self._window(contact_id, now, "%Y-%m"))
        if any(self._spent[window] >= most for window, most in zip(windows, astuple(budget), strict=True)):
            return False
        self._spent.update(windows)
        return True

    def refund(self, contact_id: str, now: datetime) -> None:
        self._spent.subtract((self._window(contact_id, now, "%Y-%m-%d %H"), self._window(contact_id, now, "%Y-%m")))

    @staticmethod
    def _window(contact_id: str, now: datetime, name: str) -> tuple[str, str]:
        return contact_id, now.strftime(name)

    def hold_back(self, incidents: Sequence[Incident], text_key: str, now: datetime) -> None:
        for incident in incidents:
            self._set(incident, text_key, state=TextState.DIGEST)

    def permit_digest(self, contact_id: str, now: datetime, budget: Budget) -> bool:
        return True

    def digest_told(self, contact_id: str, now: datetime) -> None:
        pass

    def claim(
        self, incidents: Sequence[Incident], text_key: str, wall_now: int, claimed_until: int
    ) -> Sequence[Incident]:
        return [incident for incident in incidents if self._claim(incident, text_key, wall_now, claimed_until)]

    def _claim(self, incident: Incident, text_key: str, wall_now: int, claimed_until: int) -> bool:
        text = self.read(incident).texts[text_key]
        expired = text.state is TextState.SENDING and text.claimed_until < wall_now
        if text.state is not TextState.OWED and not expired:
            return False
        self._set(incident, text_key, state=TextState.SENDING, claimed_until=claimed_until)
        return True

    def release(self, incident: Incident, text_key: str) -> None:
        if self.read(incident).texts[text_key].state is TextState.SENDING:
            self._set(incident, text_key, state=TextState.OWED)

    def mark_sent(
        self, incidents: Sequence[Incident], text_key: str, message_id: str, body: str, now: datetime
    ) -> None:
        for incident in incidents:
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

    assert store.claim([one], key, 1000, 1060)
    assert (text().state, text().claimed_until) == (TextState.SENDING, 1060)
    assert not store.claim([one], key, 1001, 1061), "somebody is sending it"
    assert not store.claim([one], key, 1060, 1120), "a claim lasts to its last second"
    assert store.claim([one], key, 1061, 1121), "its sender is dead"
    assert text().claimed_until == 1121
    store.release(one, key)
    assert text().state is TextState.OWED
    assert store.claim([one], key, 1062, 1122)
    store.mark_sent([one], key, "message-1", "body", now)
    assert (text().state, text().message_id) == (TextState.SENT, "message-1")
    store.release(one, key)
    assert text().state is TextState.SENT, "what was sent is not owed again"
    assert not store.claim([one], key, 9999, 10059)
    assert read(other).texts == other.texts
    assert [kept.reference for kept in store.claim([one, other], key, 9999, 10059)] == [other.reference]
    store.hold_back([other], key, now)
    assert read(other).texts[key].state is TextState.DIGEST
    assert not store.claim([other], key, 99999, 99999)

    budget = Budget(per_hour=2, per_month=3)
    assert [store.spend(contact, now, budget) for _ in range(3)] == [True, True, False]
    assert store.spend("somebody else", now, budget)
    store.refund(contact, now)
    assert [store.spend(contact, now, budget) for _ in range(2)] == [True, False]
    later = now + timedelta(hours=1)
    assert [store.spend(contact, later, budget) for _ in range(2)] == [True, False], "the month's"
    next_month = now + timedelta(days=31)
    assert [store.spend(contact, next_month, budget) for _ in range(3)] == [True, True, False]
