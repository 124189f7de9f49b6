"""How fast a source's stream comes into the Readings table, beside simpler ways: `python -m benchmarks.ingestion`.

Ours is the handler of poll_readings, with everything it guarantees: quarantine, cursor, registered sensors, hours to be
exported again, who was heard when. A peer reads the same stream from the same server and gives each event to
`Table.batch_writer`, as the manual of boto3 has it, with no guarantee at all; `only writing` has the items in memory,
as DynamoDB takes them, and sends them in batches of 25. Device and table are processes of their own, so that only what
the way itself takes is its processor time. The table is once the embedded cloud's, and once one that answers every
batch at once and keeps nothing: the first is slower than any of the ways, so the second tells what they could do.
A way does it twice, and the second time counts: an instance of the function polls every minute.
"""

import asyncio
import http.client
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from benchmarks.measured import Row, peak_mb, ratio, rounds, spread, write
from lambdas.runtime.clock import SystemClock
from lambdas.sensors.stores import Sensor, SensorsStore, SourcesStore, _reading_item
from overcut.sensors.readings import Reading
from workbench.cloud.environment import client_environment
from workbench.cloud.processes import EmbeddedCloud
from workbench.device import Device

SENSORS, MINUTES, ROUNDS = 5_000, 2, 5
EVENTS = SENSORS * MINUTES
MEASURES = {"temperature": "C"}
OURS, WRITING, UNCHECKED = "poll_readings", "only writing", "only writing, unchecked by the SDK"
SSECLIENT, HTTPX, AIOHTTP = "sseclient-py, batch_writer", "httpx-sse, batch_writer", "aiohttp-sse-client, batch_writer"
TABLES = {"Readings": ("sensor_id", "measured_at"), "Sensors": ("sensor_id",), "Sources": ("source_id",)}
TABLES["PendingExports"] = ("bucket", "entry")


def main() -> None:
    tables = {}
    with tempfile.TemporaryDirectory() as folder, _process(_serve_device) as device:
        embedded = EmbeddedCloud(Path(folder))
        os.environ |= client_environment(embedded.up(owner_pid=os.getpid()).url)
        try:
            _create()
            tables["The embedded cloud's table:"] = _rows(device)
            with _process(_serve_table) as url:
                os.environ["AWS_ENDPOINT_URL_DYNAMODB"] = url
                tables["A table that answers at once and keeps nothing:"] = _rows(device)
        finally:
            embedded.down()
    write("ingestion", tables, ["aiohttp-sse-client", "boto3", "httpx-sse", "ministack", "sseclient-py"])


def _rows(device: str) -> list[Row]:
    found = rounds(list(WAYS), ["benchmarks.ingestion", device], ROUNDS)
    seconds = {way: [one["seconds"] for one in of_way] for way, of_way in found.items()}
    cpu = {way: [one["cpu_seconds"] for one in of_way] for way, of_way in found.items()}
    return [
        {
            "way": way,
            "events a second": spread(EVENTS / one for one in seconds[way]),
            "of sseclient-py's": ratio(seconds[SSECLIENT], seconds[way]),
            "processor, µs an event": spread(1e6 * one / EVENTS for one in cpu[way]),
            "of only writing": ratio(cpu[way], cpu[WRITING]),
            "peak MB": spread(one["peak_mb"] for one in found[way]),
        }
        for way in WAYS
    ]


def _create() -> None:
    """Tables with the keys of the template's, a bucket, and the sensors: the stream is not the first there ever was."""
    dynamodb: Any = boto3.client("dynamodb")
    for name, keys in TABLES.items():
        dynamodb.create_table(
            TableName=name,
            KeySchema=[
                {"AttributeName": key, "KeyType": kind} for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
            ],
            AttributeDefinitions=[
                {"AttributeName": key, "AttributeType": "N" if key == "bucket" else "S"} for key in keys
            ],
            BillingMode="PAY_PER_REQUEST",
        )
    boto3.client("s3").create_bucket(Bucket="overcut-data")
    SensorsStore(dynamodb, "Sensors").put((Sensor(_name(k), "device", MEASURES) for k in range(SENSORS)), 16)


def _name(sensor: int) -> str:
    return f"equipment-{sensor:05d}"


def _readings() -> Iterator[Reading]:
    """What the device sends: the last minutes, which lie in this hour or the one before."""
    until = datetime.now(UTC).replace(second=0, microsecond=0)
    for minute in range(MINUTES):
        for sensor in range(SENSORS):
            moment = until - (MINUTES - minute) * timedelta(minutes=1)
            yield Reading(_name(sensor), moment, {"temperature": 4.0 + 0.1 * ((minute * 7 + sensor) % 23)})


@contextmanager
def _process(serve: Callable[[Any], None]) -> Iterator[str]:
    """A server in a process of its own, which tells its address."""
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(its,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve_device(told: Any) -> None:
    with Device(_readings(), SystemClock()) as device:
        told.send(device.url)
        time.sleep(86_400)


def _serve_table(told: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _AtOnce)
    told.send(f"http://127.0.0.1:{server.server_address[1]}")
    server.serve_forever()


class _AtOnce(BaseHTTPRequestHandler):
    """Takes what is written in batches; whatever else is asked, the embedded cloud answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body, answer = self.rfile.read(int(self.headers["Content-Length"])), b'{"UnprocessedItems":{}}'
        if not self.headers["X-Amz-Target"].endswith(".BatchWriteItem"):
            cloud = http.client.HTTPConnection(urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc)
            cloud.request("POST", "/", body, dict(self.headers.items()))
            answer = cloud.getresponse().read()
            cloud.close()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives
        """Requests are not logged."""


# the ways: each is made ready, and then measured


def poll_readings(url: str) -> Callable[[], None]:
    names = ("READINGS", "SENSORS", "SOURCES", "PENDING_EXPORTS")
    os.environ |= {f"{name}_TABLE": "".join(part.capitalize() for part in name.split("_")) for name in names}
    os.environ |= {"STAGE": "bench", "DATA_BUCKET": "overcut-data", "CLOCK": "system", "RETENTION_DAYS": "30"}
    os.environ |= {"EXPORT_BUCKETS": "16", "SILENT_AFTER_MINUTES": "15", "POWERTOOLS_LOG_LEVEL": "INFO"}
    from lambdas.sensors.poll_readings import handler as polling

    class Ending(SourcesStore):
        """The source's record, in which a successor connects once everything is stored: so a poll ends."""

        def advance(self, source_id: str, cursor: str, now: datetime) -> Any:
            if cursor == str(EVENTS - 1):
                self.connected(source_id, "the next poll")
            return super().advance(source_id, cursor, now)

    dynamodb = boto3.client("dynamodb")
    made = polling.dependencies()
    with_end = replace(made, poller=replace(made.poller, sources=Ending(dynamodb, "Sources")))
    polling.dependencies = lambda: with_end  # type: ignore[assignment]
    context: Any = SimpleNamespace(get_remaining_time_in_millis=lambda: 600_000, aws_request_id="this poll")
    event = {"source_id": "device", "url": url, "mapping": {"measures": MEASURES}}

    def run() -> None:
        # from the first event on, as if it had never been read
        dynamodb.delete_item(TableName="Sources", Key={"source_id": {"S": "device"}})
        polling.handler(event, context)

    return run


def sseclient_py(url: str) -> Callable[[], None]:
    import urllib3
    from sseclient import SSEClient

    table, http = boto3.resource("dynamodb").Table("Readings"), urllib3.PoolManager()

    def run() -> None:
        response = http.request("GET", url, preload_content=False, headers={"Accept": "text/event-stream"})
        client = SSEClient(response)
        with table.batch_writer() as batch:
            for event in islice(client.events(), EVENTS):
                batch.put_item(Item=_item(event.data))
        client.close()

    return run


def httpx_sse(url: str) -> Callable[[], None]:
    import httpx
    from httpx_sse import connect_sse

    table, http = boto3.resource("dynamodb").Table("Readings"), httpx.Client()

    def run() -> None:
        with connect_sse(http, "GET", url) as source, table.batch_writer() as batch:
            # it gives what has only a retry time as an event too
            for event in islice((one for one in source.iter_sse() if one.data), EVENTS):
                batch.put_item(Item=_item(event.data))

    return run


def aiohttp_sse_client(url: str) -> Callable[[], None]:
    from aiohttp_sse_client.client import EventSource

    table = boto3.resource("dynamodb").Table("Readings")

    async def read() -> None:
        left = EVENTS
        async with EventSource(url) as source:
            with table.batch_writer() as batch:
                async for event in source:
                    batch.put_item(Item=_item(event.data))
                    left -= 1
                    if not left:
                        return

    return lambda: asyncio.run(read())


def only_writing(url: str, *, is_checked: bool = True) -> Callable[[], None]:
    dynamodb = boto3.client("dynamodb", config=Config(parameter_validation=is_checked))
    items = [_reading_item(reading, lambda moment: int(moment.timestamp())) for reading in _readings()]

    def run() -> None:
        for first in range(0, EVENTS, 25):
            requests: Any = [{"PutRequest": {"Item": item}} for item in items[first : first + 25]]
            dynamodb.batch_write_item(RequestItems={"Readings": requests})

    return run


def _item(data: str) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(data, parse_float=Decimal)
    item["expires_at"] = int(datetime.fromisoformat(item["measured_at"]).timestamp()) + 30 * 86_400
    return item


WAYS: Mapping[str, Callable[[str], Callable[[], None]]] = {
    OURS: poll_readings,
    SSECLIENT: sseclient_py,
    HTTPX: httpx_sse,
    AIOHTTP: aiohttp_sse_client,
    WRITING: only_writing,
    UNCHECKED: partial(only_writing, is_checked=False),
}


def measure(url: str, way: str) -> dict[str, float]:
    """What the second run of a way takes.

    Raises:
        SystemExit: not everything that was sent is in the table.
    """
    run = WAYS[way](url)
    run()
    began, used = time.perf_counter(), time.process_time()
    run()
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    peak = peak_mb()
    stored = boto3.client("dynamodb").describe_table(TableName="Readings")["Table"]["ItemCount"]
    if stored < EVENTS:
        raise SystemExit(f"{stored:,} of {EVENTS:,} events are in the table")
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write("\n" + json.dumps(measure(sys.argv[1], sys.argv[2])) + "\n")
    else:
        main()
