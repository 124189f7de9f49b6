"""Each function's memory, under AWS's runtime client with a heavy event; and that its role covers what it calls.

AWS adds about 25 MB of its own to what is measured here, and a function has 128 MB. `pytest -s` shows the figures.
"""

import json
import math
import operator
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import boto3
import numpy as np
import pytest
from moto import mock_aws
from moto.core.botocore_stubber import BotocoreStubber

from lambdas.runtime.attributes import to_attributes
from lambdas.runtime.clock import SystemClock
from lambdas.runtime.objects import Bucket
from lambdas.sensors.links import PageLinks
from lambdas.sensors.stores import MOST_LINKED, ReadingsStore, Sensor, _incident_values
from overcut.etl_jobs.layout import bucket_of as bucket_of_job
from overcut.etl_jobs.layout import predictions_key
from overcut.etl_jobs.verdicts import Judgement, Verdict
from overcut.sensors.cohorts import SensorSeries, TrainingRules, train_cohort
from overcut.sensors.cutoffs import model_key
from overcut.sensors.incidents import (
    EQUIPMENT_FAULT,
    SILENT_SENSOR,
    Cause,
    Change,
    ChangeKind,
    Episode,
    Equipment,
    Head,
    Incident,
    IncidentState,
    Text,
    TextKind,
    TextState,
)
from overcut.sensors.layout import bucket_of, hour_of
from overcut.sensors.models import dump_model
from overcut.sensors.readings import Reading, format_time
from overcut.sensors.silence import SensorSeen, SourceSeen
from stacks.sensors.detection import DETECT_BATCH
from tests.conftest import logical_name, synthesized
from tests.functional.aws_over_http import aws_over_http
from tests.functional.catalog import create_catalog
from tests.functional.conftest import REGION, Cloud, create_tables
from tests.functional.etl_job_rows import many_jobs
from tests.functional.incident_pages import url_event
from tests.functional.streams import stream_event
from tests.functional.test_stores import cutoff
from tests.infrastructure.conftest import Runtime
from tests.infrastructure.lambda_runtime import RunningFunction, running
from tests.infrastructure.templates import functions_of, permissions, text
from workbench.cloud.environment import client_environment
from workbench.cloud.ops_center import OpsItems
from workbench.device import Device

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the memory of a process")

MOST_MEGABYTES = 90
# sensors that a model is made of, for all
LEARNED = 100
MINUTE = timedelta(minutes=1)
MEASURES = {"temperature": "C", "humidity": "%", "power": "kW"}
NOW = datetime.now(UTC).replace(second=0, microsecond=0)

Run = Callable[[str], AbstractContextManager[RunningFunction]]


@dataclass
class Calls:
    """What was asked of AWS over HTTP, as IAM calls it."""

    actions: set[str] = field(default_factory=set)

    def add(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> None:
        service, _, operation = headers.get("X-Amz-Target", "").rpartition(".")
        if ".s3." in url or "//s3." in url:
            listing = "list-type=2" in url
            self.actions.add("s3:ListBucket" if listing else {"PUT": "s3:PutObject", "GET": "s3:GetObject"}[method])
        elif service == "AWSGlue":
            self.actions.add(f"glue:{operation}")
        elif service == "AmazonSSM":
            self.actions.add(f"ssm:{operation}")
        elif operation == "TransactWriteItems":
            self.actions |= {f"dynamodb:{kind}Item" for kind in ("Put", "Update") if f'"{kind}"'.encode() in body}
        elif service.startswith("DynamoDB"):
            self.actions.add(f"dynamodb:{operation}")
        else:
            assert b"Action=Publish&" in body, (url, headers, body)
            self.actions.add("sns:Publish")


class ManyReadings:
    """The Readings table as those see it who query it: moto goes through the whole table for each query."""

    def __init__(self) -> None:
        self._of: dict[str, list[dict[str, Any]]] = {}

    def put(self, readings: Sequence[Reading]) -> None:
        """Store what the real store would write, each sensor's in order of time."""
        with ThreadPoolExecutor(1) as thread:
            ReadingsStore(cast(Any, self), "Readings").put(readings, lambda _: 2_000_000_000, thread)

    def batch_write_item(self, *, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803 - the SDK's name
        for request in RequestItems["Readings"]:
            item = request["PutRequest"]["Item"]
            self._of.setdefault(item["sensor_id"]["S"], []).append(item)
        return {"UnprocessedItems": {}}

    def query(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one of the store's queries."""
        values = {name: value["S"] for name, value in request["ExpressionAttributeValues"].items()}
        items, to = self._of[values[":s"]], values[":b"]
        if request["KeyConditionExpression"] == "sensor_id = :s AND measured_at BETWEEN :a AND :b":
            found = [item for item in items if values[":a"] <= item["measured_at"]["S"] <= to]
        else:
            compare = {"<": operator.lt, "<=": operator.le}[request["KeyConditionExpression"].split()[-2]]
            found = [item for item in items if compare(item["measured_at"]["S"], to)][: -request["Limit"] - 1 : -1]
        return {"Items": found, "Count": len(found), "ScannedCount": len(found)}


@dataclass(frozen=True)
class Site:
    """A cloud in this process, its address, what was called there from outside, and readings beside moto's."""

    cloud: Cloud
    url: str
    calls: Calls
    readings: ManyReadings


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    calls, readings, answer = Calls(), ManyReadings(), BotocoreStubber.process_request
    # moto has no OpsCenter
    ops_items = OpsItems(lambda: "arn:aws:ssm:us-east-1:000000000000:opsitem/")

    def recorded(stubber: BotocoreStubber, request: Any) -> Any:
        if stubber.enabled:  # this process's own calls are made with the mock enabled
            return answer(stubber, request)
        calls.add(request.method, request.url, request.headers, request.body)
        if request.headers.get("X-Amz-Target", "").startswith("AmazonSSM."):
            operation = request.headers["X-Amz-Target"].rpartition(".")[2]
            return 200, {}, json.dumps(ops_items.answer(operation, json.loads(request.body)))
        if request.headers.get("X-Amz-Target", "").endswith(".Query") and b'"TableName": "Readings"' in request.body:
            return 200, {}, json.dumps(readings.query(json.loads(request.body)))
        return answer(stubber, request)

    monkeypatch.setattr(BotocoreStubber, "process_request", recorded)
    with mock_aws(), aws_over_http() as url:
        dynamodb, s3 = boto3.client("dynamodb"), boto3.client("s3")
        sns, sqs = boto3.client("sns"), boto3.client("sqs")
        s3.create_bucket(Bucket="overcut-data")
        cloud = Cloud(
            dynamodb=dynamodb,
            s3=s3,
            sns=sns,
            sqs=sqs,
            tables=create_tables(dynamodb, synthesized("local")) | create_tables(dynamodb, template_of("etl_jobs")),
            bucket="overcut-data",
            topic=sns.create_topic(Name="alerts")["TopicArn"],
            parked=sqs.create_queue(QueueName="parked")["QueueUrl"],
        )
        yield Site(cloud, url, calls, readings)


@pytest.fixture(scope="module")
def compiled(runtime: Runtime) -> Runtime:
    """The runtime's own packages are compiled beforehand, as they are on AWS; the bundle is not."""
    subprocess.run([runtime.python, "-m", "compileall", "-q", str(runtime.packages)], check=True)
    return runtime


@pytest.fixture
def run(site: Site, compiled: Runtime, bundles: dict[str, Path], tmp_path: Path) -> Run:
    """Start a function with prod's settings against the site."""
    names = {
        "StorageData": site.cloud.bucket,
        "AlertingAlerts": site.cloud.topic,
        "DetectionParked": site.cloud.parked,
        **{f"Storage{name}": table for name, table in site.cloud.tables.items()},
    }

    def start(function: str) -> AbstractContextManager[RunningFunction]:
        evict(bundles[function])
        settings = functions_of(template_of(function))[function]["Environment"]["Variables"]
        return running(
            function,
            python=compiled.python,
            packages=compiled.packages,
            bundle=bundles[function],
            environment={
                **{key: names.get(text(value), text(value)) for key, value in settings.items()},
                **client_environment(site.url, REGION),
            },
            log=tmp_path / "log",
        )

    return start


def evict(folder: Path) -> None:
    """Have a bundle's files read from the disk again, as at a cold start: of a library written a moment ago the
    kernel maps several times what is touched, and counts it all."""
    for path in folder.rglob("*.so*"):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def template_of(function: str) -> dict[str, Any]:
    """The template in prod of the pipeline that a function belongs to, such as `sensors.poll_readings`."""
    return synthesized("prod", function.partition(".")[0])


def check(function: str, running_function: RunningFunction, calls: Calls) -> None:
    """It fits, and its role in prod lets it do what it did."""
    peak = running_function.peak_megabytes()
    sys.stdout.write(f"\n{function}: {peak:.1f} MB\n")
    assert 30 < peak <= MOST_MEGABYTES

    template = template_of(function)
    role = logical_name(functions_of(template)[function]["Role"]["Fn::GetAtt"][0])
    granted = set().union(*permissions(template)[role].values())
    assert calls.actions
    assert calls.actions <= granted


def value_at(minute: int, of: random.Random) -> dict[str, float]:
    return {
        "temperature": round(4 + math.sin(minute / 9) + of.uniform(-0.3, 0.3), 1),
        "humidity": round(60 + 5 * math.sin(minute / 40) + of.uniform(-1, 1), 1),
        "power": round(2 + math.cos(minute / 9) + of.uniform(-0.1, 0.1), 2),
    }


def test_detect_anomalies(site: Site, run: Run) -> None:
    """A whole batch, each reading of another sensor, none of them remembered, three of which complete a run."""
    cloud, of = site.cloud, random.Random(1)
    sensor_ids = [f"unit-{k}" for k in range(DETECT_BATCH)]
    trained_at = NOW - timedelta(hours=8)
    series = []
    for sensor_id in sensor_ids[:LEARNED]:
        minutes = range(400)
        rows = [[value_at(minute, of)[measure] for measure in sorted(MEASURES)] for minute in minutes]
        series.append(SensorSeries(sensor_id, np.array([60 * minute for minute in minutes]), np.array(rows)))
    model = train_cohort(
        series,
        cohort_id="source-device",
        measures=sorted(MEASURES),
        rules=TrainingRules(),
        trained_at=trained_at,
        seed=1,
    )
    assert model.model is not None
    from_ = model.cutoffs[0].effective_from
    for days in range(3):
        before = timedelta(days=days)
        cloud.cutoffs.put(
            replace(
                model.cutoffs[k % LEARNED],
                sensor_id=sensor_id,
                trained_at=trained_at - before,
                effective_from=from_ - before,
            )
            for k, sensor_id in enumerate(sensor_ids)
        )
    cloud.data.put(model_key("source-device", model.model_version), dump_model(model.model))
    cloud.sensors.put((Sensor(sensor_id, "device", MEASURES, site="north") for sensor_id in sensor_ids), 16)

    faulty = set(sensor_ids[:3])
    readings = [
        Reading(
            sensor_id,
            NOW - (129 - minute) * MINUTE,
            {measure: value + 40 for measure, value in value_at(minute, of).items()}
            if sensor_id in faulty and minute >= 125
            else value_at(minute, of),
        )
        for sensor_id in sensor_ids
        for minute in range(130)
    ]
    site.readings.put(readings)
    newest = [reading for reading in readings if reading.measured_at == NOW]
    with ThreadPoolExecutor(1) as thread:
        cloud.readings.put(newest, lambda moment: int(moment.timestamp()), thread)
    with run("sensors.detect_anomalies") as function:
        function.invoke(stream_event(cloud, newest, written_at=NOW))
        check("sensors.detect_anomalies", function, site.calls)
    opened = [sensor_id for sensor_id in sensor_ids if cloud.incidents.get(sensor_id, NOW)]
    assert set(opened) >= faulty


def test_poll_readings(site: Site, run: Run) -> None:
    """Five thousand readings that wait when it connects, of 250 sensors that nobody has seen before."""
    cloud, of = site.cloud, random.Random(2)
    readings = [
        Reading(f"unit-{k}", NOW - (20 - minute) * MINUTE, value_at(minute, of))
        for minute in range(20)
        for k in range(250)
    ]
    with Device(readings, SystemClock()) as device, run("sensors.poll_readings") as function:
        setting = {"source_id": "device", "url": device.url, "secret_name": "", "mapping": {"measures": MEASURES}}
        function.start(setting)
        until = time.monotonic() + 45
        while function.is_alive() and cloud.sources.get("device").cursor != "4999" and time.monotonic() < until:
            time.sleep(0.1)
        cloud.sources.connected("device", "the next poll")
        function.result()
        check("sensors.poll_readings", function, site.calls)
    stored = cloud.dynamodb.scan(TableName=cloud.tables["Readings"], Select="COUNT")["Count"]
    assert stored == len(readings) == 5_000


def test_export_training_set(site: Site, run: Run) -> None:
    """An hour of 300 sensors of one bucket, three measures each."""
    cloud, of = site.cloud, random.Random(3)
    last_hour = hour_of(NOW) - timedelta(hours=1)
    sensor_ids = [name for k in range(6_000) if bucket_of(name := f"unit-{k}", 16) == 5][:300]
    assert len(sensor_ids) == 300
    cloud.sensors.put((Sensor(sensor_id, "device", MEASURES) for sensor_id in sensor_ids), 16)
    site.readings.put(
        [
            Reading(sensor_id, last_hour + minute * MINUTE, value_at(minute, of))
            for sensor_id in sensor_ids
            for minute in range(60)
        ]
    )
    cloud.pending.mark([(5, last_hour)], "mark")
    with run("sensors.export_training_set") as function:
        # the hour may turn while this file runs: the one that is over then is exported too, and is empty
        assert function.invoke({"bucket": 5})["readings"] == 18_000
        check("sensors.export_training_set", function, site.calls)
    assert cloud.pending.of(5) == []
    assert cloud.data.keys("readings/") == [f"readings/dt={last_hour:%Y-%m-%d}/{last_hour:%H}-0005.parquet"]


def test_export_tables(site: Site, run: Run) -> None:
    """2,000 incidents, 5,000 sensors, a year of days; and three nights' cutoffs of the 300 sensors of a bucket."""
    cloud, template = site.cloud, synthesized("prod")
    create_catalog(boto3.client("glue"), template, cloud.bucket)
    cloud.sensors.put((Sensor(f"unit-{k:036}", "device", MEASURES) for k in range(5_000)), 16)
    for k in range(2_000):
        one = replace(owing(k), equipment=Equipment(f"unit-{k:036}", f"Cold store {k}", "customer", f"site-{k % 20}"))
        cloud.dynamodb.put_item(TableName=cloud.tables["Incidents"], Item=to_attributes(_incident_values(one)))
    of_bucket = [name for k in range(5_000) if bucket_of(name := f"unit-{k:036}", 16) == 5]
    cloud.cutoffs.put(
        replace(cutoff(1, name), trained_at=NOW - timedelta(days=night)) for name in of_bucket for night in range(3)
    )
    for day in range(365):
        cloud.data.put(f"readings/dt={NOW.date() - timedelta(days=day)}/00-0005.parquet", b"")
    with run("sensors.export_tables") as function:
        assert function.invoke({"bucket": 5})["rows"] == 3 * len(of_bucket) > 800
        assert function.invoke({})["rows"] == 7_000
        check("sensors.export_tables", function, site.calls)


def test_register_partitions(site: Site, run: Run) -> None:
    """A year of days that nobody has registered."""
    create_catalog(boto3.client("glue"), synthesized("prod", "etl_jobs"), site.cloud.bucket)
    for day in range(365):
        site.cloud.data.put(f"historical/dt={NOW.date() - timedelta(days=day)}/part.parquet", b"")
    with run("etl_jobs.register_partitions") as function:
        assert function.invoke({}) == {"job_runs": 365, "predictions": 0}
        check("etl_jobs.register_partitions", function, site.calls)


def test_watch_sensors(site: Site, run: Run) -> None:
    """A hundred incidents at twenty places, each of which owes a text; and of 5,000 sensors twenty went silent."""
    cloud = site.cloud
    for k in range(100):
        cloud.incidents.open(owing(k), opening(k))
    sensor_ids = [f"unit-{k:036}" for k in range(5_000)]
    # half of the twenty of each of two sites: the others of these sites are heard
    silent = {sensor_id for k, sensor_id in enumerate(sensor_ids) if k < 40 and k % 2}
    cloud.sensors.put(
        (Sensor(one, "device", MEASURES, one, "", f"site-{k // 20}") for k, one in enumerate(sensor_ids)), 16
    )
    now, seen = int(time.time()), SourceSeen()
    for one in sensor_ids:
        heard_at = now - 3_600 * (one in silent)
        seen.sensors[one] = SensorSeen(heard_at, heard_at, heard_at, [60] * 5)
    seen.heard_at = now
    cloud.data.put_seen("device", seen)
    with run("sensors.watch_sensors") as function:
        function.invoke({})
        check("sensors.watch_sensors", function, site.calls)
    found = list(cloud.incidents.needing_attention())
    assert {one.equipment.sensor_id for one in found if one.kind == SILENT_SENSOR} == silent
    faults = [text.state for one in found if one.kind == EQUIPMENT_FAULT for text in one.texts.values()]
    assert faults == [TextState.SENT] * 100


def test_show_incident(site: Site, run: Run) -> None:
    """A day of readings of three measures, and an answer to as many incidents as a link leads to."""
    cloud, of = site.cloud, random.Random(5)
    for k in range(MOST_LINKED):
        cloud.incidents.open(owing(k), opening(k))
    site.readings.put([Reading("unit-0", NOW - k * MINUTE, value_at(k, of)) for k in reversed(range(1_440))])
    cloud.sensors.put([Sensor("unit-0", "device", MEASURES, customer="customer")], 16)
    links = PageLinks(cloud.incidents, "https://page.example/", timedelta(hours=1))
    link = links.make("maintenance", [owing(k) for k in range(MOST_LINKED)], int(time.time()))
    path = link.removeprefix("https://page.example")
    with run("sensors.show_incident") as function:
        page = function.invoke(url_event("GET", path))
        assert "temperature" in page["body"]
        (nonce,) = re.findall(r'name="nonce" value="(\w+)"', page["body"])
        assert function.invoke(url_event("POST", path, f"answer=on_it&nonce={nonce}"))["statusCode"] == 303
        check("sensors.show_incident", function, site.calls)
    assert all(one.is_answered for one in cloud.incidents.needing_attention())


def opening(k: int) -> Change:
    opened_at = NOW - (k % 7) * MINUTE
    head = Head(1, opened_at, opened_at - 4 * MINUTE, opened_at)
    return Change(ChangeKind.OPEN, Episode(opened_at - 4 * MINUTE, opened_at, opened_at), head)


def owing(k: int) -> Incident:
    episode = opening(k).episode
    owed = Text(TextKind.ALERT, "maintenance", TextState.OWED)
    return Incident(
        equipment=Equipment(f"unit-{k}", f"Cold store {k}", "customer", f"site-{k % 20}"),
        kind=EQUIPMENT_FAULT,
        state=IncidentState.OPEN,
        opened_at=episode.opened_at,
        first_anomalous_at=episode.first_anomalous_at,
        last_anomalous_at=episode.last_anomalous_at,
        cause=Cause("temperature", "C", 12.3, 3.0, 5.0, 1.7, 1.1, format_time(NOW)),
        texts={owed.text_key: owed},
    )


def test_predict_anomalies(site: Site, run: Run) -> None:
    """A model of 5,000 jobs, and a week of one bucket's three hundred, a tenth of which run every hour."""
    until = NOW.replace(hour=12, minute=0)
    data = Bucket(site.cloud.s3, site.cloud.bucket)
    runs = many_jobs(data, jobs=5_000, buckets=16, until=until)
    assert runs > 1_000
    with run("etl_jobs.predict_anomalies") as function:
        found = function.invoke({"until": until.isoformat(), "bucket": 0})
        check("etl_jobs.predict_anomalies", function, site.calls)
    assert found["runs"] == runs


def test_open_tickets(site: Site, run: Run) -> None:
    """Two days of 2,000 jobs that run every hour, of which fifty failed once and one loaded too little."""
    until = NOW.replace(hour=12, minute=0)
    data = Bucket(site.cloud.s3, site.cloud.bucket)
    wrong = {f"job-{k}": Judgement.FAILED for k in range(50)} | {"job-50": Judgement.ANOMALOUS}
    lines = 0
    for bucket in range(16):
        names = [name for k in range(2_000) if bucket_of_job(name := f"job-{k}", 16) == bucket]
        for day in (0, 1):
            midnight = until.replace(hour=0) - timedelta(days=day)
            verdicts = [
                Verdict(
                    job_name=name,
                    run_id=f"{name}-{midnight:%d}-{hour}",
                    judgement=wrong.get(name, Judgement.HEALTHY) if (day, hour) == (0, 11) else Judgement.HEALTHY,
                    started_at=midnight + timedelta(hours=hour),
                    recorded_at=midnight + timedelta(hours=hour, minutes=5),
                    model_version="20260301T000000Z-1",
                    records_processed=1_000,
                    usual_records=1_100.0,
                    run_time_seconds=60.0,
                    usual_seconds=61.0,
                    anomaly_score=1.0,
                    score_cutoff=4.0,
                    feature="records",
                    deviations=-0.4,
                )
                for name in names
                for hour in range(12)
            ]
            lines += len(verdicts)
            key = predictions_key(midnight.date(), "20260301T000000Z-1", bucket)
            data.put(key, "".join(one.to_json() + "\n" for one in verdicts).encode())
    assert lines == 48_000
    with run("etl_jobs.open_tickets") as function:
        function.start({"until": until.isoformat()}, seconds=900)
        found = function.result()
        check("etl_jobs.open_tickets", function, site.calls)
    assert found == {"opened": 51, "commented": 0, "closed": 0, "sent": 51, "owed": 0, "parked": 0}
