"""What the sensors' functions ask AWS for while nothing is wrong, counted from the running code on moto.

The real handlers, a fleet that is judged, one source, one measure; readings come evenly over the minute, one at a time.
DynamoDB's units are computed from what is written and what comes back, as AWS says it counts:
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/capacity-unit-calculations.html
"""

import io
import json
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from moto.core.botocore_stubber import BotocoreStubber, MockRawResponse

from lambdas.sensors.detect_anomalies import detection
from lambdas.sensors.detect_anomalies import handler as detecting
from lambdas.sensors.detect_anomalies.histories import Remembered
from lambdas.sensors.export_training_set import handler as exporting
from lambdas.sensors.poll_readings import handler as polling_handler
from lambdas.sensors.poll_readings import polling
from lambdas.sensors.stores import Sensor
from overcut.sensors.features import WINDOW
from overcut.sensors.readings import Reading, format_time
from tests.faults.injection import hurry
from tests.functional.streams import stream_event
from tests.functional.test_detect_anomalies import NOON, USUAL, Plant
from workbench.cost import FUNCTIONS

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
BUCKETS = 16
Counts = dict[str, float]


class Meter:
    """Sees every request to moto, and counts what AWS would bill for it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.in_moto = 0.0
        self._one_at_a_time = threading.Lock()

    def answer(self, stubber: BotocoreStubber, event_name: str, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        service, operation = event_name.split(".")[1:]
        with self._one_at_a_time:
            began = time.process_time()
            answered: Any = stubber.process_request(request)
            assert answered is not None, request.url
            status, headers, body = answered
            content: Any = request.body or b"{}"
            self.counts["calls"] += 1
            if service == "dynamodb":
                self._dynamodb(operation, json.loads(content), json.loads(body))
            elif service == "s3":
                self.counts["s3_puts" if operation.startswith(("Put", "List")) else "s3_gets"] += 1
            else:
                raise AssertionError(f"{service} {operation} is not counted yet")
            self.in_moto += time.process_time() - began
        return AWSResponse(request.url, status, headers, MockRawResponse(body))

    def _dynamodb(self, operation: str, asked: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        if "RequestItems" in asked:
            for table, requests in asked["RequestItems"].items():
                if operation == "BatchWriteItem":
                    self._write(table, (one.get("PutRequest", {}).get("Item", {}) for one in requests))
                else:
                    for item in told["Responses"].get(table, []):
                        self._read(table, [item], requests.get("ConsistentRead", False))
        elif operation == "PutItem":
            self._write(asked["TableName"], [asked["Item"]])
        elif operation in {"UpdateItem", "DeleteItem"}:
            self._write(asked["TableName"], [told.get("Attributes", {})])
        elif operation in {"Query", "Scan", "GetItem"}:
            found = told.get("Items", [told["Item"]] if "Item" in told else [])
            self._read(asked["TableName"], found, asked.get("ConsistentRead", False))
        else:
            raise AssertionError(f"{operation} is not counted yet")

    def _write(self, table: str, items: Iterable[Mapping[str, Any]]) -> None:
        for item in items:
            self.counts[f"{_which(table)}_writes"] += max(1, math.ceil(item_bytes(item) / 1024))

    def _read(self, table: str, items: Iterable[Mapping[str, Any]], is_consistent: bool) -> None:
        units = max(1, math.ceil(sum(map(item_bytes, items)) / 4096))
        self.counts[f"{_which(table)}_reads"] += units if is_consistent else units / 2  # type: ignore[assignment]


def _which(table: str) -> str:
    """The Readings table may have its capacity provisioned; the others never do."""
    return "readings" if table == "Readings" else "other"


def item_bytes(item: Mapping[str, Any]) -> int:
    """The size of an item; https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html"""
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: Mapping[str, Any]) -> int:
    ((kind, held),) = value.items()
    if kind == "S":
        return len(held.encode())
    if kind == "N":
        return math.ceil(len(held.strip("-0.").replace(".", "")) / 2) + 1
    if kind == "M":
        return 3 + sum(1 + len(name.encode()) + _value_bytes(one) for name, one in held.items())
    if kind == "L":
        return 3 + sum(1 + _value_bytes(one) for one in held)
    return 1


class Stream:
    """A source's stream over a minute of a clock of its own: a reading every so many seconds."""

    def __init__(self, readings: list[Reading]) -> None:
        self._readings = readings
        self._given = 0
        self.now = 0.0

    def chunk(self, timeout: float) -> bytes | None:
        at = 60.0 * self._given / len(self._readings)
        if self._given == len(self._readings) or at > self.now + timeout:
            self.now += max(timeout, 0.001)
            return None
        self.now = max(self.now, at)
        one = self._readings[self._given]
        self._given += 1
        event = {"sensor_id": one.sensor_id, "measured_at": format_time(one.measured_at), "values": dict(one.values)}
        return f"id: {self._given}\ndata: {json.dumps(event)}\n\n".encode()

    def close(self) -> None:
        """Nothing is open."""


class Fleet:
    """A judged fleet, and each function's usual work for it.

    Attributes:
        metrics: the names of those that were written so far.
    """

    def __init__(self, plant: Plant, sensors: int, patch: pytest.MonkeyPatch) -> None:
        self._plant, self._patch = plant, patch
        self.metrics: set[str] = set()
        hurry(patch)
        patch.setattr(detection, "_staggered", lambda sensor_id, now, period: now)
        self._ids = [f"equipment-{k:04d}" for k in range(sensors)]
        cloud = plant.cloud
        measures = {"temperature": "C"}
        cloud.sensors.put([Sensor(one, "device", measures) for one in self._ids], BUCKETS)
        cloud.cutoffs.put([replace(plant.cutoff, sensor_id=one) for one in self._ids])
        plant.store([self._reading(one, k) for one in self._ids for k in range(-WINDOW, 0)])
        for name, value in {
            "PENDING_EXPORTS_TABLE": cloud.tables["PendingExports"],
            "RETENTION_DAYS": "30",
            "EXPORT_BUCKETS": str(BUCKETS),
            "STAGE": "plant",
        }.items():
            patch.setenv(name, value)
        for handler in (polling_handler, exporting):
            handler.dependencies.cache_clear()

    @property
    def reading_bytes(self) -> int:
        """The size of a reading's item."""
        (item,) = self._plant.cloud.dynamodb.scan(TableName="Readings", Limit=1)["Items"]
        return item_bytes(item)

    @staticmethod
    def _reading(sensor_id: str, minute: int) -> Reading:
        return Reading(sensor_id, NOON + minute * MINUTE, {"temperature": round(USUAL + 0.1 * (minute % 5), 1)})

    def count(self) -> dict[str, Counts]:
        """By function and period, what one period takes; what a function does once in its life is left out."""
        self._poll(0)
        self._detect(self._event(0))
        self._watch(1)
        counted = {"poll_readings minute": self._metered(lambda: self._poll(1))}
        detector = detecting.dependencies().detector
        detector._read_at = Remembered(2 * len(self._ids))
        for case, minutes in {
            "read anew": (),
            "one missed": (2, 3),
            "remembered": (4,),
            "but for cutoffs": (5,),
        }.items():
            for minute in minutes:
                self._plant.store([self._reading(one, minute) for one in self._ids])
            if case == "but for cutoffs":
                detector._judge._cutoffs = Remembered(2 * len(self._ids))
            event = self._event(max(minutes, default=1))
            counted[f"detect_anomalies minute, {case}"] = self._metered(partial(self._detect, event))
        counted["watch_sensors minute"] = self._metered(lambda: self._watch(6))
        # the hour before noon lies in the history, and the one before it is exported
        for bucket in range(BUCKETS):
            self._plant.cloud.pending.set_exported_until(bucket, NOON - 2 * HOUR)
        counted["export_training_set hour"] = self._metered(lambda: self._export(0))
        counted["export_training_set hour"]["exported_bytes"] = sum(
            len(self._plant.cloud.data.get(key))
            for key in self._plant.cloud.data.keys("readings/")
            if f"/{NOON - HOUR:%H}-" in key
        )
        return counted

    def _metered(self, work: Callable[[], int]) -> Counts:
        meter, log = Meter(), io.StringIO()
        with self._patch.context() as patched, redirect_stdout(log):
            for handler in (h for name in FUNCTIONS for h in logging.getLogger(name).handlers):
                if isinstance(handler, logging.StreamHandler):
                    patched.setattr(handler, "stream", log)
            patched.setattr(BotocoreStubber, "__call__", lambda stubber, *a, **k: meter.answer(stubber, *a, **k))
            began = time.process_time()
            invocations = work()
            spent = time.process_time() - began - meter.in_moto
        for line in log.getvalue().splitlines():
            metrics = json.loads(line).get("_aws", {}).get("CloudWatchMetrics", [])
            self.metrics |= {one["Name"] for group in metrics for one in group["Metrics"]}
        return {
            **meter.counts,
            "invocations": invocations,
            "log_bytes": len(log.getvalue()),
            "cpu_ms": round(1000 * spent, 1),
        }

    def _poll(self, minute: int) -> int:
        self._plant.set_clock(NOON + (minute + 1) * MINUTE)
        stream = Stream([self._reading(one, minute) for one in self._ids])
        context = SimpleNamespace(
            get_remaining_time_in_millis=lambda: 1000 * (60 + polling_handler.SECONDS_TO_FINISH),
            aws_request_id=f"poll-{minute}",
        )
        source = {"source_id": "device", "url": "https://d.example.com", "mapping": {"measures": {"temperature": "C"}}}
        with self._patch.context() as patched:
            patched.setattr(polling, "time", SimpleNamespace(monotonic=lambda: stream.now))
            patched.setattr(polling_handler, "Connection", lambda *_, **__: stream)
            polling_handler.handler(source, context)  # type: ignore[arg-type]
        return 1

    def _event(self, minute: int) -> dict[str, Any]:
        readings = [self._reading(one, minute) for one in self._ids]
        return stream_event(self._plant.cloud, readings, written_at=NOON + (minute + 1) * MINUTE)

    @staticmethod
    def _detect(event: Mapping[str, Any]) -> int:
        detecting.handler(event, None)
        return 1

    def _watch(self, minute: int) -> int:
        self._plant.watch(NOON + minute * MINUTE)
        return 1

    def _export(self, minute: int) -> int:
        self._plant.set_clock(NOON + minute * MINUTE)
        for bucket in range(BUCKETS):
            exporting.handler({"bucket": bucket}, None)
        return BUCKETS
