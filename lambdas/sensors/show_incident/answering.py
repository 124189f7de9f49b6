"""What a link shows, and what an answer does.

NotShownError(RefusedError)      a request that shows nothing and changes nothing, with the page that says so
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from lambdas.runtime.clock import Clock
from lambdas.sensors.links import new_token
from lambdas.sensors.show_incident.page import Shown, incident_page, refusal_page
from lambdas.sensors.stores import (
    CutoffsStore,
    IncidentsStore,
    KnownIncident,
    Link,
    ReadingsStore,
    SensorsStore,
    incident_entry,
)
from overcut import RefusedError
from overcut.sensors.incidents import SILENCES, Answer, Incident, Response
from overcut.sensors.readings import Reading, parse_time

SHOWN_HOURS, MOST_HOURS = timedelta(hours=6), timedelta(hours=24)
# before its first anomalous reading, and after its end
AROUND = timedelta(hours=1)
MOST_READINGS = 1_500
_GONE = (
    404,
    "This link shows nothing",
    "It may have expired, or be incomplete. The newest text about the equipment has a link that works.",
)


class Outcomes(Protocol):
    """Where outcomes are counted."""

    def count(self, outcome: str, number: int = 1) -> None: ...

    def info(self, event: str, **fields: object) -> None: ...


class NotShownError(RefusedError):
    """A request that shows nothing and changes nothing.

    Attributes:
        page: what to answer with `status`.
    """

    def __init__(self, status: int, title: str, told: str, page: str = "") -> None:
        super().__init__(f"{title}: {told}")
        self.status = status
        self.page = page or refusal_page(title, told)


@dataclass(frozen=True, kw_only=True)
class IncidentPages:
    """Shows incidents to who has a link, and takes their answers.

    Attributes:
        snooze_for: how long a snooze lasts.
    """

    incidents: IncidentsStore
    readings: ReadingsStore
    sensors: SensorsStore
    cutoffs: CutoffsStore
    clock: Clock
    snooze_for: timedelta
    outcomes: Outcomes

    def show(self, token: str, wall_now: int) -> str:
        """The page of a link. It changes nothing, however often it is asked for.

        Raises:
            NotShownError: the link leads nowhere.
        """
        link = self._link(token, wall_now)
        known = self._known(link.incidents[:1])
        self.outcomes.count("PagesShown")
        return self._page(link, known[0])

    def answer(self, token: str, form: Mapping[str, str], wall_now: int) -> None:
        """Take the answer of a page's form to all that its text was about.

        Raises:
            NotShownError: the link leads nowhere, the form holds no answer, or its nonce has been used.
        """
        link = self._link(token, wall_now)
        known = self._known(link.incidents)
        try:
            answer = Answer(form.get("answer", ""))
        except ValueError:
            raise NotShownError(400, "Nothing was done", "The page's buttons are the only answers.") from None
        now = self.clock.now().replace(microsecond=0)
        until = now + self.snooze_for if answer is Answer.SNOOZE else None
        response = Response(answer, link.contact_id, now, until)
        if not self.incidents.respond(token, form.get("nonce", ""), new_token(), known, response, wall_now):
            told = "Nothing was done: this page was no longer fresh. Below is how it is now; press again."
            again = self._link(token, wall_now)
            page = self._page(again, self._known(again.incidents[:1])[0], told)
            raise NotShownError(409, "Nothing was done", told, page)
        self.outcomes.count("AnswersTaken")
        self.outcomes.info(
            "answer",
            answer=answer,
            contact_id=link.contact_id,
            incidents=len(known),
            references=[one.incident.reference for one in known[:20]],
        )

    def _link(self, token: str, wall_now: int) -> Link:
        link = self.incidents.link(token, wall_now)
        if link is None:
            raise NotShownError(*_GONE)
        return link

    def _known(self, entries: Sequence[tuple[str, str]]) -> list[KnownIncident]:
        """The incidents, in the order of a link; none whose sensor is another customer's by now."""
        known = sorted(self.incidents.linked(entries), key=lambda one: entries.index(incident_entry(one.incident)))
        if not known or not self._is_still_theirs(known[0].incident):
            raise NotShownError(*_GONE)
        return known

    def _is_still_theirs(self, incident: Incident) -> bool:
        equipment = incident.equipment
        # a site and a source are no sensors
        return equipment.sensor_id.startswith("#") or (
            self.sensors.get(equipment.sensor_id).customer == equipment.customer
        )

    def _page(self, link: Link, known: KnownIncident, notice: str = "") -> str:
        incident, now = known.incident, self.clock.now()
        before = self.incidents.last_before(incident)
        if before and before.incident.equipment.customer != incident.equipment.customer:
            before = None
        return incident_page(
            Shown(
                known=known,
                names=link.names,
                readings=self._readings(incident, now),
                usual=self._usual(incident),
                before=before,
                nonce=link.nonce,
                now=now,
                snooze_for=self.snooze_for,
                notice=notice,
            )
        )

    def _readings(self, incident: Incident, now: datetime) -> list[Reading]:
        """From before the incident to now, or to a while after its end; of a long one, the last hours."""
        end = min(now, incident.recovered_at + AROUND) if incident.recovered_at else now
        start = max(min(end - SHOWN_HOURS, incident.first_anomalous_at - AROUND), end - MOST_HOURS)
        last = self.readings.before(incident.equipment.sensor_id, end + timedelta(seconds=1), MOST_READINGS)
        return [reading for reading in last if reading.measured_at >= start]

    def _usual(self, incident: Incident) -> tuple[float, float] | None:
        """Between what the measure itself usually lies, which is not what the incident keeps of its changes."""
        cause = incident.cause
        if incident.kind in SILENCES:
            return None
        if cause.feature != "volatility" or not cause.trained_at:
            return cause.usual_low, cause.usual_high
        cutoff = self.cutoffs.get(incident.equipment.sensor_id, parse_time(cause.trained_at))
        ranges = cutoff.ranges if cutoff else ()
        return next(((usual.low, usual.high) for usual in ranges if usual.measure == cause.measure), None)
