"""watch_sensors: every minute, sends what is still owed, reminds of incidents that last, and tells of silence."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3

from lambdas.runtime.clock import Clock, clock_from
from lambdas.runtime.observability import Observability, initialise
from lambdas.runtime.settings import load_settings
from lambdas.sensors.links import PageLinks
from lambdas.sensors.stores import (
    FAILED_BATCHES_PREFIX,
    DataBucket,
    IncidentsStore,
    SensorsStore,
    SourcesStore,
)
from lambdas.sensors.topic import PUBLISH_ONCE, AlertsTopic, tell_of_text
from lambdas.sensors.watch_sensors.silence import SilenceWatch
from overcut.sensors.alerts import (
    Budget,
    Contact,
    SendOutcome,
    escalations,
    follows_held_back,
    needs_attention,
    reminders,
    send_digests,
    send_texts,
)
from overcut.sensors.incidents import Incident, IncidentState

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# to claim 500 incidents, publish and mark them takes less
MILLISECONDS_FOR_A_TEXT = 20_000


@dataclass(frozen=True)
class Settings:
    """The environment of watch_sensors."""

    stage: str
    incidents_table: str
    sensors_table: str
    sources_table: str
    data_bucket: str
    alerts_topic: str
    clock: str
    group_minutes: int
    claim_seconds: int
    texts_per_hour: int
    texts_per_month: int
    new_normal_after_hours: int
    sources: list[str]
    silent_after_minutes: int
    texted_kinds: list[str]
    contacts: list[dict[str, Any]]
    default_contact: str
    escalate_after_minutes: int
    link_prefix: str
    link_hours: int


@dataclass(frozen=True)
class Dependencies:
    settings: Settings
    contacts: Sequence[Contact]
    links: PageLinks
    budget: Budget
    incidents: IncidentsStore
    topic: AlertsTopic
    bucket: DataBucket
    silence: SilenceWatch
    clock: Clock
    observability: Observability


@cache
def dependencies() -> Dependencies:
    settings = load_settings(Settings, os.environ)
    dynamodb, observability = boto3.client("dynamodb"), Observability("watch_sensors", settings.stage)
    incidents = IncidentsStore(dynamodb, settings.incidents_table)
    contacts = [Contact.from_setting(contact) for contact in settings.contacts]
    links = PageLinks(incidents, settings.link_prefix, timedelta(hours=settings.link_hours))
    bucket = DataBucket(boto3.client("s3"), settings.data_bucket)
    silence = SilenceWatch(
        bucket=bucket,
        sensors=SensorsStore(dynamodb, settings.sensors_table),
        source_health=SourcesStore(dynamodb, settings.sources_table),
        incidents=incidents,
        outcomes=observability,
        sources=settings.sources,
        silent_after=timedelta(minutes=settings.silent_after_minutes),
        contacts=contacts,
        default_contact=settings.default_contact,
        texted_kinds=settings.texted_kinds,
    )
    topic = AlertsTopic(boto3.client("sns", config=PUBLISH_ONCE), settings.alerts_topic)
    budget = Budget(settings.texts_per_hour, settings.texts_per_month)
    return Dependencies(
        settings, contacts, links, budget, incidents, topic, bucket, silence, clock_from(settings.clock), observability
    )


def handler(event: object, context: LambdaContext | None) -> None:
    """Incidents table + what was seen -> Incidents table -> alerts topic: what is owed, or claimed by a dead sender."""
    made = dependencies()

    def has_time() -> bool:
        return context is None or context.get_remaining_time_in_millis() > MILLISECONDS_FOR_A_TEXT

    try:
        incidents = [_with_what_is_due(made, one) for one in made.incidents.needing_attention()]
        _send_digests(made, incidents)
        for incident in incidents:
            for key in follows_held_back(incident):
                made.incidents.hold_back([incident], key, made.clock.now())
        _send(made, incidents, has_time)
        for incident in incidents:
            if not needs_attention(incident):
                made.incidents.settle(incident)
        open_now = sum(incident.state is IncidentState.OPEN for incident in incidents)
        made.observability.count("IncidentsOpen", open_now)
        made.observability.count("BatchesParked", made.bucket.count(FAILED_BATCHES_PREFIX))
        # after the sweep, which no trouble with what was seen may keep from its texts
        _send(made, made.silence.watch(incidents, made.clock.now()), has_time)
    finally:
        made.observability.flush()


def _with_what_is_due(made: Dependencies, incident: Incident) -> Incident:
    """The incident with the texts that it owes since it lasts, nobody answered, or a snooze is over."""
    now = made.clock.now()
    due = reminders(incident, timedelta(hours=made.settings.new_normal_after_hours))
    escalate_after = timedelta(minutes=made.settings.escalate_after_minutes)
    escalated = escalations(incident, made.contacts, escalate_after, now)
    owing = made.incidents.owe(incident, {**due, **escalated})
    made.observability.count("IncidentsEscalated", bool(escalated.keys() & owing.texts.keys()))
    return made.incidents.owe_snoozed(owing, now)


def _send_digests(made: Dependencies, incidents: Iterable[Incident]) -> None:
    now = made.clock.now()
    for contact_id, outcome in send_digests(
        incidents, store=made.incidents, phone=made.topic, now=now, budget=made.budget
    ):
        made.observability.count(f"Digests{outcome.title()}")
        made.observability.count("TextFailures", outcome is not SendOutcome.SENT)
        made.observability.info("digest", outcome=outcome, contact_id=contact_id)


def _send(made: Dependencies, incidents: Iterable[Incident], has_time: Callable[[], bool]) -> None:
    sent = send_texts(
        incidents,
        store=made.incidents,
        phone=made.topic,
        now=made.clock.now(),
        wall_now=int(time.time()),
        group_for=timedelta(minutes=made.settings.group_minutes),
        claim_seconds=made.settings.claim_seconds,
        budget=made.budget,
        together=True,
        links=made.links,
        has_time=has_time,
    )
    for group, outcome in sent:
        tell_of_text(made.observability, group, outcome)


initialise(dependencies)
