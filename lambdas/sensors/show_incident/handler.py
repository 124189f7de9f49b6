"""show_incident: the page that a text links to, and the answers that are given on it."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any
from urllib.parse import parse_qs

from lambdas.runtime.clients import small_clients
from lambdas.runtime.clock import clock_from
from lambdas.runtime.observability import Observability, initialise
from lambdas.runtime.settings import load_settings
from lambdas.sensors.show_incident.answering import IncidentPages, NotShownError
from lambdas.sensors.show_incident.page import HEADERS
from lambdas.sensors.stores import CutoffsStore, IncidentsStore, ReadingsStore, SensorsStore


@dataclass(frozen=True)
class Settings:
    """The environment of show_incident."""

    stage: str
    incidents_table: str
    readings_table: str
    sensors_table: str
    cutoffs_table: str
    clock: str
    snooze_minutes: int


@dataclass(frozen=True)
class Dependencies:
    pages: IncidentPages
    observability: Observability


@cache
def dependencies() -> Dependencies:
    settings = load_settings(Settings, os.environ)
    dynamodb = small_clients("dynamodb")("dynamodb")
    observability = Observability("show_incident", settings.stage)
    pages = IncidentPages(
        incidents=IncidentsStore(dynamodb, settings.incidents_table),
        readings=ReadingsStore(dynamodb, settings.readings_table),
        sensors=SensorsStore(dynamodb, settings.sensors_table),
        cutoffs=CutoffsStore(dynamodb, settings.cutoffs_table),
        clock=clock_from(settings.clock),
        snooze_for=timedelta(minutes=settings.snooze_minutes),
        outcomes=observability,
    )
    return Dependencies(pages, observability)


def handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """A link's token + Incidents table + Readings table -> page; an answer -> Incidents table."""
    made = dependencies()
    method, token, wall_now = event["requestContext"]["http"]["method"], event["rawPath"][1:], int(time.time())
    try:
        if method == "POST":
            made.pages.answer(token, _form(event), wall_now)
            # back to the page, so that to load it again answers nothing
            return {"statusCode": 303, "headers": {**HEADERS, "location": token}, "body": ""}
        if method != "GET":
            raise NotShownError(405, "Not like this", "A link of a text is to be opened in a browser.")
        return {"statusCode": 200, "headers": HEADERS, "body": made.pages.show(token, wall_now)}
    except NotShownError as refused:
        made.observability.count("PagesRefused")
        headers = {**HEADERS, "allow": "GET, POST"} if refused.status == 405 else HEADERS
        return {"statusCode": refused.status, "headers": headers, "body": refused.page}
    finally:
        made.observability.flush()


def _form(event: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a form as a browser sends it; of what is none, nothing."""
    body = event.get("body") or ""
    try:
        text = base64.b64decode(body).decode() if event.get("isBase64Encoded") else body
        return {name: values[-1] for name, values in parse_qs(text, max_num_fields=5).items()}
    except ValueError:
        return {}


initialise(dependencies)
