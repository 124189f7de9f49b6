"""detect_anomalies: judges readings as they are stored, opens incidents and texts about them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

from lambdas.runtime.clients import small_clients
from lambdas.runtime.clock import Clock, clock_from
from lambdas.runtime.observability import Observability, initialise
from lambdas.runtime.settings import load_settings
from lambdas.runtime.streams import ParkedQueue, written_at
from lambdas.sensors.detect_anomalies.detection import AlertRules, Arrival, Detector, Judge
from lambdas.sensors.links import PageLinks
from lambdas.sensors.stores import (
    CutoffsStore,
    DataBucket,
    IncidentsStore,
    ReadingsStore,
    SensorsStore,
    reading_from_item,
)
from lambdas.sensors.topic import PUBLISH_ONCE, AlertsTopic, tell_of_text
from overcut import RefusedError
from overcut.sensors.alerts import Budget, Contact
from overcut.sensors.incidents import RunRule


@dataclass(frozen=True)
class Settings:
    """The environment of detect_anomalies."""

    stage: str
    readings_table: str
    sensors_table: str
    cutoffs_table: str
    incidents_table: str
    data_bucket: str
    alerts_topic: str
    parked_queue: str
    clock: str
    measures_remembered: int
    consecutive_minutes: int
    recovery_minutes: int
    stale_after_minutes: int
    group_minutes: int
    contacts: list[dict[str, Any]]
    default_contact: str
    claim_seconds: int
    texts_per_hour: int
    texts_per_month: int
    texted_kinds: list[str]
    link_prefix: str
    link_hours: int


@dataclass(frozen=True)
class Dependencies:
    detector: Detector
    parked: ParkedQueue
    clock: Clock
    observability: Observability


@cache
def dependencies() -> Dependencies:
    settings = load_settings(Settings, os.environ)
    client, clock = small_clients("dynamodb", "s3", "sns", "sqs"), clock_from(settings.clock)
    dynamodb = client("dynamodb")
    observability = Observability("detect_anomalies", settings.stage)
    rule = RunRule(settings.consecutive_minutes, settings.recovery_minutes)
    bucket = DataBucket(client("s3"), settings.data_bucket)
    incidents = IncidentsStore(dynamodb, settings.incidents_table)
    detector = Detector(
        readings=ReadingsStore(dynamodb, settings.readings_table),
        sensors=SensorsStore(dynamodb, settings.sensors_table),
        incidents=incidents,
        judge=Judge(CutoffsStore(dynamodb, settings.cutoffs_table), bucket, rule, settings.measures_remembered),
        measures_remembered=settings.measures_remembered,
        phone=AlertsTopic(client("sns", config=PUBLISH_ONCE), settings.alerts_topic),
        links=PageLinks(incidents, settings.link_prefix, timedelta(hours=settings.link_hours)),
        clock=clock,
        rule=rule,
        alert_rules=AlertRules(
            contacts=[Contact.from_setting(contact) for contact in settings.contacts],
            default_contact=settings.default_contact,
            stale_after=timedelta(minutes=settings.stale_after_minutes),
            group_for=timedelta(minutes=settings.group_minutes),
            claim_seconds=settings.claim_seconds,
            budget=Budget(settings.texts_per_hour, settings.texts_per_month),
            texted_kinds=settings.texted_kinds,
        ),
        outcomes=observability,
    )
    return Dependencies(detector, ParkedQueue(client("sqs"), settings.parked_queue), clock, observability)


def handler(event: Mapping[str, Any], context: object) -> None:
    """Readings stream + Cutoffs table -> Incidents table -> alerts topic."""
    made = dependencies()
    try:
        arrivals = [arrival for record in event["Records"] if (arrival := _arrival(record, made))]
        for group, outcome in made.detector.detect(arrivals, int(time.time())):
            tell_of_text(made.observability, group, outcome)
    finally:
        made.observability.flush()


def _arrival(record: Mapping[str, Any], made: Dependencies) -> Arrival | None:
    """The reading of a stream record; one that holds none is parked, since it can never be processed."""
    try:
        return Arrival(reading_from_item(record["dynamodb"]["NewImage"]), made.clock.at(written_at(record)))
    except (KeyError, TypeError, ValueError, RefusedError) as error:
        made.parked.park(record, f"not a reading: {error!r}")
        made.observability.count("RecordsParked")
        made.observability.warning("parked", reading=_reading_id(record))
        return None


def _reading_id(record: Any) -> str:
    """As far as the record has the keys of one."""
    try:
        keys = record["dynamodb"]["Keys"]
        return f"{keys['sensor_id']['S']}@{keys['measured_at']['S']}"
    except (KeyError, TypeError):
        return ""


initialise(dependencies)
