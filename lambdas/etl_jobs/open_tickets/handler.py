"""open_tickets: opens, comments and closes tickets by what was predicted, and tells the sink."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3

from lambdas.etl_jobs.open_tickets.opening import TicketOpener
from lambdas.etl_jobs.open_tickets.ops_center import ONCE, OpsCenterSink
from lambdas.etl_jobs.open_tickets.webhook import WebhookSink
from lambdas.etl_jobs.stores import PredictionsReader, TicketsStore
from lambdas.runtime.observability import Observability, initialise
from lambdas.runtime.settings import SettingsError, load_settings
from overcut.etl_jobs.layout import judged_days
from overcut.etl_jobs.tickets import Action, EntriesOwedError, Sending, TicketSink, send_entries
from overcut.etl_jobs.verdicts import Kind

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

PATIENCE = timedelta(hours=24)
SECONDS_FOR_ONE = 60


@dataclass(frozen=True)
class Settings:
    """The environment of open_tickets.

    Attributes:
        sink: `{"kind": "ops_center", "severity": "3"}` or `{"kind": "webhook", "url": ..., "secret_name": ...}`.
    """

    stage: str
    tickets_table: str
    data_bucket: str
    ticketed_kinds: list[str]
    sink: dict[str, str]
    claim_seconds: int


@dataclass(frozen=True)
class Dependencies:
    settings: Settings
    opener: TicketOpener
    tickets: TicketsStore
    sink: TicketSink
    observability: Observability


@cache
def dependencies() -> Dependencies:
    settings = load_settings(Settings, os.environ)
    tickets = TicketsStore(boto3.client("dynamodb"), settings.tickets_table)
    opener = TicketOpener(
        predictions=PredictionsReader(boto3.client("s3"), settings.data_bucket),
        tickets=tickets,
        kinds=frozenset(map(Kind, settings.ticketed_kinds)),
        # the table's name differs from stage to stage, where its makers let it be generated
        namespace=settings.tickets_table,
    )
    return Dependencies(settings, opener, tickets, _sink(settings.sink), Observability("open_tickets", settings.stage))


def _sink(setting: Mapping[str, str]) -> TicketSink:
    if setting["kind"] == "ops_center":
        return OpsCenterSink(boto3.client("ssm", config=ONCE), severity=setting["severity"])
    if setting["kind"] == "webhook":
        secrets = boto3.client("secretsmanager")
        return WebhookSink(
            url=setting["url"],
            secret=lambda: secrets.get_secret_value(SecretId=setting["secret_name"])["SecretString"],
            clock=lambda: datetime.now(UTC),
        )
    raise SettingsError(f"sink.kind is {setting['kind']!r}; it must be ops_center or webhook")


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, int]:
    """Predictions + Tickets table -> Tickets table -> sink."""
    made = dependencies()
    try:
        return _open_tickets(made, datetime.fromisoformat(event["until"]).astimezone(UTC), _has_time(context))
    finally:
        made.observability.flush()


def _open_tickets(made: Dependencies, until: datetime, has_time: Callable[[], bool]) -> dict[str, int]:
    """Decide, then send; raises at the end when anything is still owed."""
    open_tickets = defaultdict(set)
    for head in made.tickets.open_heads():
        open_tickets[head.job_name].add(head.kind)
    decided = made.opener.decide_all(judged_days(until), open_tickets, datetime.now(UTC))
    owing = made.tickets.owed()
    for key, entries in decided.entries.items():
        owing.setdefault(key, set()).update(entries)
    sent = send_entries(
        owing,
        store=made.tickets,
        sink=made.sink,
        clock=lambda: datetime.now(UTC),
        has_time=has_time,
        sending=Sending(timedelta(seconds=made.settings.claim_seconds), PATIENCE),
    )
    counts = {
        "opened": decided.actions[Action.OPEN],
        "commented": decided.actions[Action.COMMENT],
        "closed": decided.actions[Action.CLOSE],
        "sent": sent.sent,
        "owed": sent.owed,
        "parked": sent.parked,
    }
    for outcome, number in counts.items():
        made.observability.count(f"Tickets{outcome.title()}", number)
    made.observability.count("JobsMissedInSilence", decided.missed_in_silence)
    made.observability.info("tickets", **counts)
    if sent.owed:
        raise EntriesOwedError(f"{sent.owed} entries of tickets are still owed to the sink: {counts}")
    return counts


def _has_time(context: LambdaContext) -> Callable[[], bool]:
    return lambda: context.get_remaining_time_in_millis() > SECONDS_FOR_ONE * 1000


initialise(dependencies)
