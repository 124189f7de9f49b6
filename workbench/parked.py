"""What functions could not process: every queue of both pipelines, seen and handed back in the same way.

records   records of the Readings table's stream that hold no reading     SQS
batches   batches of that stream that Lambda gave up                      S3, aws/lambda/
events    events of a source that cannot be readings                      S3, quarantine/
tickets   what the sink of tickets refused, or did not take for a day     Tickets table

Something leaves its queue only after it was processed, and processing is idempotent: whoever is interrupted begins
again, and what is redriven twice changes nothing.

RefusedError
 └─ NotRedrivenError      it cannot be processed this time either, and stays parked
"""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from lambdas.etl_jobs.stores import TicketsStore
from lambdas.runtime.dynamodb import in_batches
from lambdas.runtime.objects import Bucket
from lambdas.sensors.poll_readings.polling import Intake, SourceSetting
from lambdas.sensors.stores import FAILED_BATCHES_PREFIX, QUARANTINE_PREFIX, ReadingsStore, reading_from_item
from overcut import RefusedError
from overcut.etl_jobs.tickets import Entry
from overcut.sensors.readings import RefusedReadingError, format_time

# how long a message stays hidden from others while somebody looks at it; one who dies leaves it hidden for no longer
HOLD_SECONDS = 300
# a long poll asks all of a queue's servers; a short one may find nothing where there is something
LONG_POLL_SECONDS = 1
MESSAGES = 10  # the most that SQS takes at once
READING_THREADS = 16


class NotRedrivenError(RefusedError):
    """It cannot be processed this time either; the text says why."""


@dataclass(frozen=True)
class Parked:
    """Something that is parked.

    Attributes:
        queue: the name of its queue.
        key: the queue's own name of it.
        parked_at: when, as far as the queue knows: a moment, a day, or nothing.
        what: it is, in a few words.
        reason: why it is parked.
        context: all there is of it.
    """

    queue: str
    key: str
    parked_at: str
    what: str
    reason: str
    context: Mapping[str, Any]

    @property
    def reference(self) -> str:
        """What people call it; the same every time."""
        return _digest(f"{self.queue}/{self.key}")[:8]


class Queue(Protocol):
    """One queue. Look at `items` once, then at each of them, then close it."""

    name: str

    def items(self) -> list[Parked]:
        """Everything that is parked."""

    def redrive(self, item: Parked) -> str:
        """Process an item once more, and take it off the queue; what became of it.

        Raises:
            NotRedrivenError: it stays.
        """

    def discard(self, item: Parked) -> None:
        """Take an item off the queue."""

    def close(self) -> None:
        """Let go of what stays."""


class RecordsQueue:
    """Stream records that hold no reading.

    Args:
        judge: has the readings of stream records judged as the table has them now.
    """

    name = "records"

    def __init__(self, sqs: Any, url: str, judge: Callable[[list[Any]], str]) -> None:
        self._sqs = sqs
        self._url = url
        self._judge = judge
        # a batch that is retried parks its records again
        self._handles: defaultdict[str, dict[str, str]] = defaultdict(dict)

    def items(self) -> list[Parked]:
        found: dict[str, Parked] = {}
        seen: set[str] = set()
        # until nothing new comes: whatever takes longer than a message is hidden sees the first ones again
        while new := [message for message in self._receive() if message["MessageId"] not in seen]:
            for message in new:
                seen.add(message["MessageId"])
                body, key = message["Body"], _digest(message["Body"])
                self._handles[key][message["MessageId"]] = message["ReceiptHandle"]
                if key not in found:
                    found[key] = self._item(key, body, message["Attributes"])
        return list(found.values())

    def _item(self, key: str, body: str, attributes: Mapping[str, str]) -> Parked:
        parked_at = format_time(datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1000, UTC))
        try:
            kept = json.loads(body)
            return Parked(self.name, key, parked_at, _told(_keys([kept["record"]])), kept["reason"], kept)
        except (ValueError, TypeError, KeyError, AttributeError):
            text = {"message": body}
            return Parked(self.name, key, parked_at, "a message", "it is nothing that a function parked", text)

    def _receive(self) -> list[Any]:
        answer = self._sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=MESSAGES,
            VisibilityTimeout=HOLD_SECONDS,
            WaitTimeSeconds=LONG_POLL_SECONDS,
            MessageSystemAttributeNames=["SentTimestamp"],
        )
        found: list[Any] = answer.get("Messages", [])
        return found

    def redrive(self, item: Parked) -> str:
        outcome = self._judge([item.context["record"]] if "record" in item.context else [])
        self.discard(item)
        return outcome

    def discard(self, item: Parked) -> None:
        for message_id, handle in list(self._handles[item.key].items()):
            self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=handle)
            del self._handles[item.key][message_id]

    def close(self) -> None:
        held = (handle for handles in self._handles.values() for handle in handles.values())
        for batch in in_batches(held, MESSAGES):
            entries = [
                {"Id": str(k), "ReceiptHandle": handle, "VisibilityTimeout": 0} for k, handle in enumerate(batch)
            ]
            self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)
        self._handles.clear()


class BatchesQueue:
    """Batches of the stream that Lambda gave up, as it writes them down; `judge` as in `RecordsQueue`.

    https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-errors.html
    """

    name = "batches"

    def __init__(self, bucket: Bucket, judge: Callable[[list[Any]], str]) -> None:
        self._bucket = bucket
        self._judge = judge

    def items(self) -> list[Parked]:
        return [self._item(key, body) for key, body in _objects(self._bucket, FAILED_BATCHES_PREFIX)]

    def _item(self, key: str, body: bytes) -> Parked:
        try:
            kept = json.loads(body)
            if isinstance(payload := kept.get("payload"), str):
                kept["payload"] = json.loads(payload)
            reason = (
                f"{kept['requestContext']['condition']}, {kept.get('responseContext', {}).get('functionError', '-')}"
            )
            return Parked(self.name, key, kept["timestamp"], _told(_keys(_records(kept))), reason, kept)
        except (ValueError, TypeError, KeyError, AttributeError):
            text = body.decode("utf-8", "replace")
            return Parked(self.name, key, "", key, "the object is no batch that Lambda writes", {"object": text})

    def redrive(self, item: Parked) -> str:
        if not (records := _records(item.context)):
            raise NotRedrivenError("it holds no records; its readings, if there are any, are in the Readings table")
        outcome = self._judge(records)
        self.discard(item)
        return outcome

    def discard(self, item: Parked) -> None:
        self._bucket.delete(item.key)

    def close(self) -> None:
        """Nothing is held."""


class EventsQueue:
    """Events in quarantine, each once however often it came.

    Args:
        sources: of the stage, by their ids, as they are mapped now.
    """

    name = "events"

    def __init__(self, bucket: Bucket, intake: Intake, sources: Mapping[str, SourceSetting]) -> None:
        self._bucket = bucket
        self._intake = intake
        self._sources = sources
        self._objects: defaultdict[str, set[str]] = defaultdict(set)
        self._done: set[str] = set()

    def items(self) -> list[Parked]:
        found: dict[str, Parked] = {}
        for name, body in _objects(self._bucket, QUARANTINE_PREFIX):
            _, day, source_id, _ = name.split("/")
            for line in body.splitlines():
                key = self._key(source_id, line)
                self._objects[key].add(name)
                if key not in found:
                    kept = {"source_id": source_id, **json.loads(line)}
                    what = f"{source_id}, event {kept['event_id'] or 'without an id'}"
                    found[key] = Parked(self.name, key, day.removeprefix("dt="), what, kept["reason"], kept)
        return list(found.values())

    @staticmethod
    def _key(source_id: str, line: bytes) -> str:
        return _digest(f"{source_id}/{line.decode()}")

    def redrive(self, item: Parked) -> str:
        source = self._sources.get(item.context["source_id"])
        if source is None:
            raise NotRedrivenError(f"the stage has no source {item.context['source_id']}")
        try:
            reading = source.mapping.read(item.context["raw"], self._intake.clock.now(), self._intake.oldest)
        except RefusedReadingError as error:
            raise NotRedrivenError(str(error)) from error
        is_stored = self._intake.keep_missing(source, reading)
        self.discard(item)
        of = f"{reading.sensor_id} at {format_time(reading.measured_at)}"
        return f"stored, {of}" if is_stored else f"not needed, {of} has a reading"

    def discard(self, item: Parked) -> None:
        self._done.add(item.key)

    def close(self) -> None:
        """Write the objects that events are done of without them; until then, all of them are there."""
        for name in sorted({name for key in self._done for name in self._objects[key]}):
            source_id = name.split("/")[2]
            lines = self._bucket.get(name).splitlines(keepends=True)
            left = [line for line in lines if self._key(source_id, line.rstrip(b"\n")) not in self._done]
            if left:
                self._bucket.put(name, b"".join(left))
            else:
                self._bucket.delete(name)
        self._done.clear()


def parked_events(bucket: Bucket) -> int:
    """How many events are in quarantine, each once however often it came; reads all of them."""
    found = {
        _digest(f"{name.split('/')[2]}/{line.decode()}")
        for name, body in _objects(bucket, QUARANTINE_PREFIX)
        for line in body.splitlines()
    }
    return len(found)


class TicketsQueue:
    """What could not be told to the sink of tickets."""

    name = "tickets"

    def __init__(self, tickets: TicketsStore) -> None:
        self._tickets = tickets
        self._entries: dict[str, Entry] = {}

    def items(self) -> list[Parked]:
        found = sorted(self._tickets.parked(), key=lambda entry: (entry.deduplication_key, entry.sequence))
        self._entries = {f"{entry.deduplication_key}/{entry.key}": entry for entry in found}
        return [
            Parked(
                self.name,
                key,
                format_time(entry.tried_since) if entry.tried_since else "",
                f"{entry.action} of {entry.deduplication_key}, run {entry.run_id}",
                entry.reason,
                asdict(entry),
            )
            for key, entry in self._entries.items()
        ]

    def redrive(self, item: Parked) -> str:
        if not self._tickets.retry_parked(self._entries[item.key]):
            return "not parked any more"
        return "owed again: the next prediction workflow sends it"

    def discard(self, item: Parked) -> None:
        self._tickets.discard_parked(self._entries[item.key])

    def close(self) -> None:
        """Nothing is held."""


def judge_again(records: Iterable[Mapping[str, Any]], readings: ReadingsStore, detect: Callable[[Any], None]) -> str:
    """Have the readings of stream records judged as the table has them now; how many were.

    They count as written now: an incident that is over is recorded, and nobody is texted about it.

    Args:
        detect: detect_anomalies, which takes an event of the stream, and raises `NotRedrivenError`.

    Raises:
        NotRedrivenError: detection failed, or some of the records have no reading in the table.
    """
    found, missing = [], []
    for key in (keys := _keys(records)):
        item = readings.item(key)
        try:
            if item is None:
                raise LookupError("it is not there")
            reading_from_item(item)
        except (LookupError, TypeError, ValueError, RefusedError) as error:
            missing.append(f"{_told([key])} is no reading in the table: {error}")
        else:
            stream = {"ApproximateCreationDateTime": time.time(), "Keys": key, "NewImage": item}
            found.append({"eventName": "MODIFY", "eventSource": "aws:dynamodb", "dynamodb": stream})
    if found:
        detect({"Records": found})
    if missing or not keys:
        told = "; ".join(missing[:3]) or "its records name no reading"
        raise NotRedrivenError(told if len(missing) <= 3 else f"{told}; and {len(missing) - 3} more")
    return f"judged, {_told(keys)}"


def _records(kept: Mapping[str, Any]) -> list[Any]:
    payload = kept.get("payload")
    records = payload.get("Records") if isinstance(payload, Mapping) else None
    return records if isinstance(records, list) else []


def _keys(records: Iterable[Any]) -> list[dict[str, Any]]:
    """The keys of stream records, each once."""
    found = (one.get("dynamodb", {}).get("Keys") for one in records)
    return list({json.dumps(key, sort_keys=True): key for key in found if key}.values())


def _told(keys: list[dict[str, Any]]) -> str:
    if not keys:
        return "records without keys"
    first = " at ".join(str(next(iter(value.values()))) for _, value in sorted(keys[0].items(), reverse=True))
    return first if len(keys) == 1 else f"{first} and {len(keys) - 1} more"


def _objects(bucket: Bucket, prefix: str) -> Iterator[tuple[str, bytes]]:
    keys = bucket.keys(prefix)
    with ThreadPoolExecutor(READING_THREADS) as threads:
        yield from zip(keys, threads.map(bucket.get, keys), strict=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
