"""What the worlds of the sensors' functions share: tables, a clock that stands still, and what became of texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, get_args

import boto3
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import dynamodb_backends

from lambdas.runtime.attributes import from_attributes
from lambdas.runtime.clock import ClockFace, FileClock
from lambdas.sensors.detect_anomalies import handler as detecting
from lambdas.sensors.show_incident import handler as showing
from lambdas.sensors.watch_sensors import handler as watching
from overcut.sensors.incidents import IncidentKind
from tests.conftest import synthesized
from tests.faults.cases import Texts
from tests.faults.injection import Call, Fault, Injector, Kind
from tests.functional.conftest import REGION, Cloud, sensors_cloud

CLAIM_SECONDS = 90
# what the same history may leave different: who claimed when, and how often a head was moved
_INCIDENTAL = {"claimed_until", "message_id", "body", "sent_at", "version"}
_TAKEN = {Kind.STOPPED_AFTER, Kind.ANSWER_LOST, Kind.ANSWER_LOST_FOR_GOOD}
_UNRECORDED = {Kind.STOPPED_BEFORE, Kind.THROTTLED_FOR_GOOD, Kind.FAILED}


class SensorsWorld:
    """Tables, bucket, topic and queue, and one function at work on them.

    Attributes:
        wall: the machine's time, in seconds since 1970, which claims are measured in.
    """

    def __init__(self, cloud: Cloud, clock: FileClock, injector: Injector, patch: pytest.MonkeyPatch) -> None:
        self.cloud, self.clock, self.injector, self.patch = cloud, clock, injector, patch
        self.wall = 1_000_000

    def set_clock(self, now: datetime) -> None:
        self.clock.set(ClockFace(origin=now.timestamp(), wall=0.0, speed=0.0, ttl_offset=0.0))

    def items(self, table: str) -> list[dict[str, Any]]:
        pages = self.cloud.dynamodb.get_paginator("scan").paginate(TableName=self.cloud.tables[table])
        return [from_attributes(item) for page in pages for item in page["Items"]]


class TextingWorld(SensorsWorld):
    """One in which people are texted, by the function or by the sweep after it."""

    def sweep(self, moment: datetime, *, with_faults: bool = False) -> None:
        """One run of watch_sensors, after every claim there was has run out. Nothing repeats it but the next one."""
        self.set_clock(moment)
        self.wall += CLAIM_SECONDS + 1
        if with_faults:
            self.injector.invoke(lambda: watching.handler({}, None))
        else:
            watching.handler({}, None)

    def outcome(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for item in self.items("Incidents"):
            key = f"{item['sensor_id']} {item['opened_at']}"
            if key.startswith(("#texts#", "#link#")):
                continue
            found[key] = {name: value for name, value in item.items() if name not in _INCIDENTAL}
            if "texts" in item:
                found[key]["texts"] = {text: one["state"] for text, one in item["texts"].items()}
        found["texts that are recorded otherwise than they were sent"] = list(self._told_otherwise())
        found["digests"] = [one.body for one in self.injector.published if one.body.startswith("DIGEST")]
        found["parked"] = sorted({message["Body"] for message in self._parked()})
        return found

    def texts(self) -> Texts:
        owed = [text for texts in self._texts() for text in texts.values() if text["state"] != "digest"]
        published = {one.message_id for one in self.injector.published}
        return Texts(len(owed), sum(text.get("message_id") in published for text in owed), self._doubled())

    def _doubled(self) -> int:
        """How many messages told somebody what an earlier one had told."""
        doubled, told = 0, set[tuple[str, ...]]()
        for one in self.injector.published:
            tells = {
                (one.contact_id, item["sensor_id"], item["opened_at"], text["kind"])
                for item in self.items("Incidents")
                for text in item.get("texts", {}).values()
                if item["equipment"]["name"] in one.body and one.body.startswith("ALERT") == (text["kind"] == "alert")
                if text["contact_id"] == one.contact_id
            }
            doubled += bool(told & tells)
            told |= tells
        return doubled

    def may_double(self, calls: Sequence[Call], fault: Fault) -> bool:
        """Where SNS took a text and the sender does not know, or dies or can write nothing before it has said so."""
        call = calls[fault.number]
        if call.operation == "Publish":
            return fault.kind in _TAKEN
        recording = [_records_a_text(call) for call in calls[fault.number : fault.number + 2]]
        if recording[0] and fault.kind in _UNRECORDED:
            return True
        # of several incidents in one text, the first was recorded
        return recording == [True, True] and fault.kind is Kind.STOPPED_AFTER

    def _texts(self) -> list[Mapping[str, dict[str, Any]]]:
        return [item["texts"] for item in self.items("Incidents") if "texts" in item]

    def _told_otherwise(self) -> Iterator[str]:
        order = {one.message_id: number for number, one in enumerate(self.injector.published)}
        for texts in self._texts():
            sent = {key: text for key, text in texts.items() if text["state"] == "sent"}
            for key, text in sent.items():
                published = self.injector.published[order[text["message_id"]]]
                if (published.contact_id, published.body) != (text["contact_id"], text["body"]):
                    yield f"{text} was sent as {published}"
                alert = sent.get(key.replace("recovery", "alert"), text)
                if order[alert["message_id"]] > order[text["message_id"]]:
                    yield f"{text['contact_id']} was told of the end before the beginning"

    def _parked(self) -> list[Any]:
        sqs, messages = self.cloud.sqs, []
        while some := sqs.receive_message(QueueUrl=self.cloud.parked, MaxNumberOfMessages=10).get("Messages"):
            messages += some
        return messages


def _records_a_text(call: Call) -> bool:
    return "sent_at" in str(call.asked)


_PREPARED: dict[str, Any] = {}


def prepared(name: str, injector: Injector, prepare: Callable[[], None]) -> None:
    """Fill the tables, or give them what they held when that was done the first time, which is a lot faster."""
    backend = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION]
    if name not in _PREPARED:
        prepare()
        _PREPARED[name] = deepcopy((backend.tables, injector.published))
    backend.tables, injector.published = deepcopy(_PREPARED[name])


@contextmanager
def tables(patch: pytest.MonkeyPatch, **settings: object) -> Iterator[tuple[Cloud, FileClock]]:
    """The template's tables, and an environment for whichever function of the pipeline."""
    with sensors_cloud(synthesized("local"), patch) as cloud, TemporaryDirectory() as folder:
        environment: dict[str, object] = {
            **{f"{_upper(name)}_TABLE": table for name, table in cloud.tables.items()},
            "STAGE": "local",
            "DATA_BUCKET": cloud.bucket,
            "ALERTS_TOPIC": cloud.topic,
            "PARKED_QUEUE": cloud.parked,
            "CLOCK": str(Path(folder) / "clock.json"),
            "MEASURES_REMEMBERED": 5_000,
            "GROUP_MINUTES": 3,
            "CLAIM_SECONDS": CLAIM_SECONDS,
            "NEW_NORMAL_AFTER_HOURS": 24,
            "SOURCES": ["device"],
            "SILENT_AFTER_MINUTES": 15,
            "TEXTED_KINDS": list(get_args(IncidentKind)),
            "CONTACTS": [],
            "DEFAULT_CONTACT": "day",
            "ESCALATE_AFTER_MINUTES": 15,
            "LINK_PREFIX": "https://page.example/",
            "LINK_HOURS": 48,
            "TEXTS_PER_HOUR": 20,
            "TEXTS_PER_MONTH": 500,
            **settings,
        }
        for name, value in environment.items():
            patch.setenv(name, value if isinstance(value, str) else json.dumps(value))
        yield cloud, FileClock(Path(folder) / "clock.json")


_CLIENTS: dict[str, Any] = {}


def reuse_clients(patch: pytest.MonkeyPatch) -> None:
    """Make each client once: that is what takes a cold start its time, and it remembers nothing of what was asked."""
    make = boto3.client

    def client(service: str, **given: Any) -> Any:
        key = f"{service} {sorted(given)}"
        if key not in _CLIENTS:
            _CLIENTS[key] = make(service, **given)  # type: ignore[call-overload]  # any service
        return _CLIENTS[key]

    patch.setattr(boto3, "client", client)
    for module in (detecting, showing):
        patch.setattr(module, "small_clients", lambda *services: client)


def stop_wall_clock(patch: pytest.MonkeyPatch, module: object, world: SensorsWorld) -> None:
    patch.setattr(module, "time", SimpleNamespace(time=lambda: world.wall))


def _upper(name: str) -> str:
    """`PendingExports` as `PENDING_EXPORTS`."""
    return "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in name).lstrip("_").upper()
