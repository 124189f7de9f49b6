"""watch_sensors: every minute, sends the texts that are still owed, and reminds of incidents that last."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import boto3

from lambdas.runtime.clock import Clock, clock_from
from lambdas.runtime.observability import Observability, initialise
from lambdas.runtime.settings import load_settings
from lambdas.sensors.stores import IncidentsStore
from lambdas.sensors.topic import PUBLISH_ONCE, AlertsTopic
from overcut.sensors.alerts import needs_attention, reminders, send_texts


@dataclass(frozen=True)
class Settings:
    """The environment of watch_sensors."""

    incidents_table: str
    alerts_topic: str
    clock: str
    group_minutes: int
    claim_seconds: int
    new_normal_after_hours: int


@dataclass(frozen=True)
class Dependencies:
    settings: Settings
    incidents: IncidentsStore
    topic: AlertsTopic
    clock: Clock
    observability: Observability


@cache
def dependencies() -> Dependencies:
    settings = load_settings(Settings, os.environ)
    return Dependencies(
        settings,
        IncidentsStore(boto3.client("dynamodb"), settings.incidents_table),
        AlertsTopic(boto3.client("sns", config=PUBLISH_ONCE), settings.alerts_topic),
        clock_from(settings.clock),
        Observability("watch_sensors"),
    )


def handler(event: object, context: object) -> None:
    """Incidents table -> alerts topic: what is owed, or claimed by a sender that died."""
    made = dependencies()
    lasting = timedelta(hours=made.settings.new_normal_after_hours)
    incidents = [made.incidents.owe(one, reminders(one, lasting)) for one in made.incidents.needing_attention()]
    sent = send_texts(
        incidents,
        store=made.incidents,
        phone=made.topic,
        now=made.clock.now(),
        wall_now=int(time.time()),
        group_for=timedelta(minutes=made.settings.group_minutes),
        claim_seconds=made.settings.claim_seconds,
        together=True,
    )
    for group, outcome in sent:
        made.observability.count(f"Texts{outcome.title()}")
        made.observability.info("text", outcome=outcome, kind=group.kind, contact_id=group.contact_id)
    for incident in incidents:
        if not needs_attention(incident):
            made.incidents.settle(incident)
    made.observability.flush()


initialise(dependencies)
