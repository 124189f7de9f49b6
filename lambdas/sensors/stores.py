"""The sensors pipeline's stores: DynamoDB tables and the data bucket, one class each.

StoreBusyError(RetryableError)      DynamoDB left items unprocessed until patience ran out
HeadMovedError(RetryableError)      somebody else changed a sensor's incidents first: read again and decide again
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from lambdas.runtime.attributes import Attributes, from_attributes, to_attribute, to_attributes
from lambdas.runtime.dynamodb import (
    READ_BATCH,
    in_batches,
    is_conditional,
    items_of,
    patiently,
    until_processed,
)
from lambdas.runtime.objects import Bucket
from overcut import RetryableError
from overcut.formats import check_format
from overcut.sensors.alerts import Budget, TextsOfOnePlace, digest_is_due, is_pointless
from overcut.sensors.cutoffs import PROMOTION_DELAY, Cutoff, Usual, UsualRange
from overcut.sensors.incidents import (
    EQUIPMENT_FAULT,
    KINDS,
    Answer,
    Cause,
    Change,
    Equipment,
    Head,
    Incident,
    IncidentState,
    Label,
    Response,
    Text,
    TextKind,
    TextState,
)
from overcut.sensors.layout import bucket_of
from overcut.sensors.readings import Reading, format_time, parse_time
from overcut.sensors.silence import SensorSeen, SourceSeen

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

WRITE_BATCH = 25  # the most that BatchWriteItem takes
TRANSACTION = 100  # the most that TransactWriteItems takes
# of a whole table: as Python objects items are many times the size of what is sent, and a function has little memory
_SMALL_PAGES: Any = {"PageSize": 200}
# than expected, so that one page is enough
_MORE = 2
# sorts after every key that begins with a time
_LAST = "~"
# before the kind, in a head's key
_HEAD = "head#"
# of an incident that was snoozed: the first one knows neither the kind nor the state of its text
_SNOOZED_FORMAT = 2

Thing = TypeVar("Thing")


class HeadMovedError(RetryableError):
    """Somebody else changed this sensor's incidents first."""


def _write_all(client: DynamoDBClient, table: str, items: Iterable[Attributes]) -> None:
    for batch in in_batches(items, WRITE_BATCH):
        until_processed(
            lambda requests: client.batch_write_item(RequestItems=requests)["UnprocessedItems"],
            {table: [{"PutRequest": {"Item": item}} for item in batch]},
        )


@dataclass(frozen=True)
class ReadingsStore:
    """The Readings table: what every sensor measured, until its time to live is over."""

    client: DynamoDBClient
    table: str

    def put(self, readings: Sequence[Reading], expiry: Callable[[datetime], int], threads: Executor) -> None:
        """Store `readings`, no two of the same sensor and time.

        An item is a function of its reading alone, so storing a reading again writes the same bytes.

        Args:
            expiry: seconds since 1970 at which a reading measured at a moment may go.
            threads: where batches are written at once.

        Raises:
            StoreBusyError: some were not stored; storing all of them again is harmless.
        """
        items = [_reading_item(reading, expiry) for reading in readings]
        for _ in threads.map(lambda batch: _write_all(self.client, self.table, batch), in_batches(items, WRITE_BATCH)):
            pass

    def put_missing(self, reading: Reading, expiry: Callable[[datetime], int]) -> bool:
        """Store a reading unless its sensor has one of that time; whether it was stored. `expiry` as above."""
        item, condition = _reading_item(reading, expiry), "attribute_not_exists(sensor_id)"
        try:
            self.client.put_item(TableName=self.table, Item=item, ConditionExpression=condition)
        except ClientError as error:
            if is_conditional(error):
                return False
            raise
        return True

    def item(self, key: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The item of a stream record's `Keys` as it is now, whatever it holds."""
        return self.client.get_item(TableName=self.table, Key=key, ConsistentRead=True).get("Item")

    def between(self, sensor_id: str, first: datetime, last: datetime) -> list[Reading]:
        """A sensor's readings from `first` to `last`, both inclusive, in order."""
        return list(
            self._query(
                KeyConditionExpression="sensor_id = :s AND measured_at BETWEEN :a AND :b",
                ExpressionAttributeValues={
                    ":s": {"S": sensor_id},
                    ":a": {"S": format_time(first)},
                    ":b": {"S": format_time(last)},
                },
            )
        )

    def since(self, sensor_id: str, first: datetime, count: int) -> list[Reading]:
        """A sensor's first `count` readings from `first` on, in order."""
        oldest_first = self._query(
            KeyConditionExpression="sensor_id = :s AND measured_at >= :a",
            ExpressionAttributeValues={":s": {"S": sensor_id}, ":a": {"S": format_time(first)}},
            Limit=count,
        )
        return list(islice(oldest_first, count))

    def before(self, sensor_id: str, moment: datetime, count: int) -> list[Reading]:
        """A sensor's last `count` readings before `moment`, in order."""
        if not count:
            return []
        newest_first = self._query(
            KeyConditionExpression="sensor_id = :s AND measured_at < :b",
            ExpressionAttributeValues={":s": {"S": sensor_id}, ":b": {"S": format_time(moment)}},
            ScanIndexForward=False,
            Limit=count,
        )
        return list(islice(newest_first, count))[::-1]

    def around(
        self, sensor_id: str, first: datetime, last: datetime, before: int, expected: int = 1
    ) -> tuple[list[Reading], int]:
        """A sensor's readings from `first` to `last`, both inclusive, after the last `before` ones before that, in
        order; and how many those are. It takes one query where `expected` or fewer are from `first` to `last`."""
        newest_first = self._query(
            KeyConditionExpression="sensor_id = :s AND measured_at <= :b",
            ExpressionAttributeValues={":s": {"S": sensor_id}, ":b": {"S": format_time(last)}},
            ScanIndexForward=False,
            Limit=before + expected + _MORE,
        )
        found: list[Reading] = []
        earlier = 0
        for reading in newest_first:
            if reading.measured_at < first:
                if earlier == before:
                    break
                earlier += 1
            found.append(reading)
        return found[::-1], earlier

    def _query(self, **query: Any) -> Iterator[Reading]:
        for page in self.client.get_paginator("query").paginate(TableName=self.table, ConsistentRead=True, **query):
            for item in page["Items"]:
                yield reading_from_item(item)


def _reading_item(reading: Reading, expiry: Callable[[datetime], int]) -> Attributes:
    return {
        "sensor_id": {"S": reading.sensor_id},
        "measured_at": {"S": format_time(reading.measured_at)},
        "values": {"M": {measure: {"N": repr(value)} for measure, value in reading.values.items()}},
        "expires_at": {"N": str(expiry(reading.measured_at))},
    }


def reading_from_item(item: Mapping[str, Any]) -> Reading:
    """The reading that an item of the Readings table, or of its stream, holds.

    Raises:
        KeyError, TypeError, ValueError, RefusedReadingError: it holds none.
        UnknownFormatError: another version of Overcut stored it.
    """
    check_format("reading", item)
    return Reading(
        item["sensor_id"]["S"],
        parse_time(item["measured_at"]["S"]),
        {measure: float(value["N"]) for measure, value in item["values"]["M"].items()},
    )


@dataclass(frozen=True, slots=True)
class Learning:
    """How far a sensor is that has too few readings to be judged.

    Attributes:
        readings: that it may be learned from.
        until: the first training that will have enough, at the rate of now; empty: none ever will.
    """

    readings: int
    until: str


@dataclass(frozen=True, slots=True)
class Sensor:
    """What is known of a sensor beside its readings.

    Attributes:
        kind: sensors of one kind share a forest; empty: those of one source with the same measures do.
        measures: unit by measure.
        learning: told by the last training; None once the sensor is learned.
    """

    sensor_id: str
    source_id: str
    measures: Mapping[str, str]
    name: str = ""
    customer: str = ""
    site: str = ""
    kind: str = ""
    learning: Learning | None = None

    @property
    def equipment(self) -> Equipment:
        return Equipment(self.sensor_id, self.name or self.sensor_id, self.customer, self.site)


@dataclass(frozen=True)
class SensorsStore:
    """The Sensors table: which sensors there are, whose, and where."""

    client: DynamoDBClient
    table: str

    def get(self, sensor_id: str) -> Sensor:
        """The sensor, by its id; one that nobody registered has just that id."""
        found = self.client.get_item(TableName=self.table, Key={"sensor_id": {"S": sensor_id}}).get("Item")
        return _sensor_from_item(found) if found else Sensor(sensor_id, "", {})

    def all(self) -> Iterator[Sensor]:
        """Every sensor, in no order."""
        for page in self.client.get_paginator("scan").paginate(TableName=self.table, PaginationConfig=_SMALL_PAGES):
            yield from map(_sensor_from_item, page["Items"])

    def equipment(self) -> Iterator[Equipment]:
        """Every sensor's equipment, in no order and in small pages: a function of little memory asks."""
        pages = self.client.get_paginator("scan").paginate(
            TableName=self.table,
            ProjectionExpression="sensor_id, #name, customer, site",
            ExpressionAttributeNames={"#name": "name"},
            PaginationConfig={"PageSize": 500},
        )
        for page in pages:
            for item in page["Items"]:
                yield Sensor(source_id="", measures={}, **from_attributes(item)).equipment

    def ids_in_bucket(self, bucket: int) -> list[str]:
        """The ids of the sensors whose readings are exported in `bucket`."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            IndexName="bucket",
            KeyConditionExpression="#bucket = :b",
            ExpressionAttributeNames={"#bucket": "bucket"},
            ExpressionAttributeValues={":b": {"N": str(bucket)}},
        )
        return sorted(item["sensor_id"]["S"] for page in pages for item in page["Items"])

    def registered(self, sensor_ids: Iterable[str]) -> set[str]:
        """Those of `sensor_ids` that are in the table and were seen on a stream."""
        found: set[str] = set()

        def read(request: Any) -> Any:
            answer = self.client.batch_get_item(RequestItems=request)
            seen = (item for item in answer["Responses"].get(self.table, []) if item.get("source_id", {}).get("S"))
            found.update(item["sensor_id"]["S"] for item in seen)
            return answer["UnprocessedKeys"]

        for batch in in_batches(sensor_ids, READ_BATCH):
            keys = [{"sensor_id": {"S": sensor_id}} for sensor_id in batch]
            until_processed(read, {self.table: {"Keys": keys, "ProjectionExpression": "sensor_id, source_id"}})
        return found

    def register(self, sensor: Sensor, buckets: int) -> bool:
        """Put a sensor not seen yet, keeping what was imported of it; False, and nothing changed, for one that was."""
        values = {k: v for k, v in _sensor_item(sensor, buckets).items() if k != "sensor_id"}
        own = ("source_id", "measures", "bucket")
        try:
            self.client.update_item(
                TableName=self.table,
                Key={"sensor_id": {"S": sensor.sensor_id}},
                UpdateExpression="SET "
                + ", ".join(f"#{k} = :{k}" if k in own else f"#{k} = if_not_exists(#{k}, :{k})" for k in values),
                ConditionExpression="attribute_not_exists(sensor_id) OR #source_id = :unseen",
                ExpressionAttributeNames={f"#{k}": k for k in values},
                ExpressionAttributeValues={**{f":{k}": v for k, v in values.items()}, ":unseen": {"S": ""}},
            )
        except ClientError as error:
            if is_conditional(error):
                return False
            raise
        return True

    def put(self, sensors: Iterable[Sensor], buckets: int) -> None:
        """Put sensors, replacing those of the same ids."""
        _write_all(self.client, self.table, (_sensor_item(sensor, buckets) for sensor in sensors))

    def set_learning(self, sensor_id: str, learning: Learning | None) -> None:
        """Tell how far a sensor is, or that it is learned; one that nobody registered stays unknown."""
        update: dict[str, Any] = {"UpdateExpression": "REMOVE learning"}
        if learning:
            told = {":learning": to_attribute(asdict(learning))}
            update = {"UpdateExpression": "SET learning = :learning", "ExpressionAttributeValues": told}
        try:
            self.client.update_item(
                TableName=self.table,
                Key={"sensor_id": {"S": sensor_id}},
                ConditionExpression="attribute_exists(sensor_id)",
                **update,
            )
        except ClientError as error:
            if not is_conditional(error):
                raise


def _sensor_item(sensor: Sensor, buckets: int) -> Attributes:
    return to_attributes({**asdict(sensor), "bucket": bucket_of(sensor.sensor_id, buckets)})


def _sensor_from_item(item: Mapping[str, Any]) -> Sensor:
    values = from_attributes(item)
    check_format("sensor", values)
    values.pop("bucket", None)
    if "learning" in values:
        values["learning"] = Learning(int(values["learning"]["readings"]), values["learning"]["until"])
    return Sensor(**values)


@dataclass(frozen=True)
class CutoffsStore:
    """The Cutoffs table: what every sensor is, and was, judged by. Only promoted cutoffs are in it."""

    client: DynamoDBClient
    table: str

    def newest(self, sensor_id: str, count: int) -> list[Cutoff]:
        """A sensor's last `count` cutoffs, newest first; some may not be in force yet."""
        answer = self.client.query(
            TableName=self.table,
            KeyConditionExpression="sensor_id = :s",
            ExpressionAttributeValues={":s": {"S": sensor_id}},
            ScanIndexForward=False,
            Limit=count,
        )
        return [_cutoff_from_item(item) for item in answer["Items"]]

    def get(self, sensor_id: str, trained_at: datetime) -> Cutoff | None:
        """The sensor's cutoff of one training."""
        key = to_attributes({"sensor_id": sensor_id, "trained_at": format_time(trained_at)})
        answer = self.client.get_item(TableName=self.table, Key=key, ConsistentRead=True)
        return _cutoff_from_item(answer["Item"]) if "Item" in answer else None

    def as_of(self, sensor_id: str, moment: datetime) -> list[Cutoff]:
        """The sensor's cutoffs that may have been in force at `moment`, newest first, to the one that was: for readings
        from long ago."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            KeyConditionExpression="sensor_id = :s AND trained_at <= :m",
            ExpressionAttributeValues={":s": {"S": sensor_id}, ":m": {"S": format_time(moment)}},
            ScanIndexForward=False,
            PaginationConfig={"PageSize": 2},
        )
        found: list[Cutoff] = []
        for cutoff in (_cutoff_from_item(item) for page in pages for item in page["Items"]):
            found.append(cutoff)
            if cutoff.effective_from <= moment:
                break
        return found

    def trained_after(self, sensor_id: str, moment: datetime) -> list[Cutoff]:
        """All of the sensor's cutoffs that were trained after `moment`, oldest first."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            KeyConditionExpression="sensor_id = :s AND trained_at > :m",
            ExpressionAttributeValues={":s": {"S": sensor_id}, ":m": {"S": format_time(moment)}},
        )
        return [_cutoff_from_item(item) for page in pages for item in page["Items"]]

    def since(self, sensor_id: str, moment: datetime) -> list[Cutoff]:
        """The sensor's cutoffs that readings from `moment` on may be judged by, in no order."""
        return [*self.as_of(sensor_id, moment), *self.trained_after(sensor_id, moment)]

    def put(self, cutoffs: Iterable[Cutoff]) -> None:
        _write_all(self.client, self.table, map(_cutoff_item, cutoffs))

    def promote(self, cutoffs: Iterable[Cutoff], now: datetime) -> datetime:
        """Put cutoffs to use, all in the same minute; from when on.

        They come into force only a while after they are written, so that every detector changes over in that minute.
        """
        effective_from = now.replace(microsecond=0) + PROMOTION_DELAY
        self.put(replace(cutoff, effective_from=effective_from) for cutoff in cutoffs)
        return effective_from


def cutoffs_key(cohort_id: str, model_version: str) -> str:
    """Where the cutoffs of a version that is held are, in the data bucket: beside its model."""
    return f"models/sensors/{cohort_id}/{model_version}/cutoffs.json"


def dump_cutoffs(cutoffs: Iterable[Cutoff]) -> bytes:
    """Cutoffs as JSON: what `load_cutoffs` reads."""
    return json.dumps([_cutoff_item(cutoff) for cutoff in cutoffs]).encode()


def load_cutoffs(stored: bytes) -> list[Cutoff]:
    """The cutoffs that `dump_cutoffs` wrote, as they would be read from the table."""
    return [_cutoff_from_item(item) for item in json.loads(stored)]


def _cutoff_item(cutoff: Cutoff) -> Attributes:
    return to_attributes(
        {
            **asdict(cutoff),
            "trained_at": format_time(cutoff.trained_at),
            "effective_from": format_time(cutoff.effective_from),
            "interval": cutoff.interval.total_seconds(),
        }
    )


def _cutoff_from_item(item: Mapping[str, Any]) -> Cutoff:
    values = from_attributes(item)
    check_format("cutoff", values)
    # names that thousands of cutoffs share
    for name in ("cohort_id", "model_version"):
        values[name] = sys.intern(values[name])
    for one in values["ranges"]:
        one["measure"] = sys.intern(one["measure"])
        for features in ("features", "quiet"):
            one[features] = {sys.intern(name): Usual(**usual) for name, usual in one.get(features, {}).items()}
    values["ranges"] = tuple(UsualRange(**one) for one in values["ranges"])
    values["stuck_after"] = int(values["stuck_after"])
    values["routine"] = tuple(map(int, values.get("routine", ())))
    values["trained_at"] = parse_time(values["trained_at"])
    values["effective_from"] = parse_time(values["effective_from"])
    values["interval"] = timedelta(seconds=values["interval"])
    values["reading_count"] = int(values["reading_count"])
    return Cutoff(**values)


@dataclass(frozen=True)
class ModelEventsStore:
    """The ModelEvents table: what every training did, and why."""

    client: DynamoDBClient
    table: str

    def put(self, model_id: str, occurred_at: datetime, event: Mapping[str, Any]) -> None:
        self.client.put_item(
            TableName=self.table,
            Item=to_attributes({**event, "model_id": model_id, "occurred_at": format_time(occurred_at)}),
        )

    def all(self) -> Iterator[dict[str, Any]]:
        """Every event of every model, in no order; reads the whole table."""
        for page in self.client.get_paginator("scan").paginate(TableName=self.table, PaginationConfig=_SMALL_PAGES):
            yield from map(from_attributes, page["Items"])

    def of(self, model_id: str) -> list[dict[str, Any]]:
        """A model's events, oldest first."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            KeyConditionExpression="model_id = :m",
            ExpressionAttributeValues={":m": {"S": model_id}},
        )
        return [from_attributes(item) for page in pages for item in page["Items"]]


@dataclass(frozen=True, slots=True)
class Source:
    """How polling a source goes.

    Attributes:
        cursor: the last event id whose readings are stored; opaque, empty at the beginning.
        connected_poll: the poll that connected last; an older one ends when it sees another's name here.
        next_try_at: after a failure, when the next poll is due.
        stay_away_until: set when the source asked its clients to stop for now.
    """

    cursor: str = ""
    connected_poll: str = ""
    failures_in_a_row: int = 0
    last_error: str = ""
    last_success_at: str = ""
    next_try_at: str = ""
    stay_away_until: str = ""


@dataclass(frozen=True)
class SourcesStore:
    """The Sources table: cursor and health of every source."""

    client: DynamoDBClient
    table: str

    def get(self, source_id: str) -> Source:
        answer = self.client.get_item(TableName=self.table, Key=self._key(source_id), ConsistentRead=True)
        return _source_from_item(answer.get("Item", {}))

    def connected(self, source_id: str, poll_id: str) -> None:
        """A poll is reading the source's stream: the one before it may end."""
        self._set(source_id, connected_poll=poll_id)

    def advance(self, source_id: str, cursor: str, now: datetime) -> Source:
        """Everything up to `cursor` is stored; the last writer wins, since a cursor has no order."""
        return self._set(
            source_id,
            cursor=cursor,
            last_success_at=format_time(now),
            failures_in_a_row=0,
            last_error="",
            next_try_at="",
        )

    def failed(
        self, source_id: str, error: str, next_try_at: datetime, *, stay_away: bool = False, forget_cursor: bool = False
    ) -> None:
        """A poll failed: count it, and say when the next one is due."""
        values = {
            "last_error": error,
            "next_try_at": format_time(next_try_at),
            "stay_away_until": format_time(next_try_at) if stay_away else "",
            **({"cursor": ""} if forget_cursor else {}),
        }
        names, assignments, placeholders = _assignments(values)
        self.client.update_item(
            TableName=self.table,
            Key=self._key(source_id),
            UpdateExpression=f"{assignments} ADD failures_in_a_row :one",
            ExpressionAttributeNames=names,
            ExpressionAttributeValues={**placeholders, ":one": {"N": "1"}},
        )

    def _set(self, source_id: str, **values: Any) -> Source:
        names, assignments, placeholders = _assignments(values)
        answer = self.client.update_item(
            TableName=self.table,
            Key=self._key(source_id),
            UpdateExpression=assignments,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=placeholders,
            ReturnValues="ALL_NEW",
        )
        return _source_from_item(answer["Attributes"])

    @staticmethod
    def _key(source_id: str) -> Attributes:
        return {"source_id": {"S": source_id}}


def _source_from_item(item: Mapping[str, Any]) -> Source:
    values = from_attributes(item)
    check_format("source", values)
    values.pop("source_id", None)
    return Source(**{**values, "failures_in_a_row": int(values.get("failures_in_a_row", 0))})


def _assignments(values: Mapping[str, Any]) -> tuple[dict[str, str], str, Attributes]:
    """Names, a SET expression and values that give an item's attributes `values`."""
    names = {f"#{k}": name for k, name in enumerate(values)}
    expression = "SET " + ", ".join(f"#{k} = :{k}" for k in range(len(values)))
    return names, expression, {f":{k}": to_attribute(value) for k, value in enumerate(values.values())}


# the sort key, beside those of hours, of how far a bucket's export has come
_UNTIL = "until"


@dataclass(frozen=True)
class PendingExportsStore:
    """The PendingExports table: hours to export again, because a reading of theirs came after they had ended."""

    client: DynamoDBClient
    table: str

    def mark(self, hours: Iterable[tuple[int, datetime]], mark: str) -> None:
        """Mark (bucket, hour) pairs, each with the mark of this moment."""
        _write_all(
            self.client,
            self.table,
            (
                to_attributes({"bucket": bucket, "hour": format_time(hour), "mark": mark})
                for bucket, hour in sorted(set(hours))
            ),
        )

    def exported_until(self, bucket: int) -> datetime | None:
        """The newest hour that was marked for a bucket's export; None before its first one."""
        answer = self.client.query(
            TableName=self.table,
            ConsistentRead=True,
            KeyConditionExpression="#bucket = :b AND #hour = :until",
            ExpressionAttributeNames={"#bucket": "bucket", "#hour": "hour"},
            ExpressionAttributeValues={":b": {"N": str(bucket)}, ":until": {"S": _UNTIL}},
        )
        return parse_time(answer["Items"][0]["mark"]["S"]) if answer["Items"] else None

    def set_exported_until(self, bucket: int, hour: datetime) -> None:
        _write_all(
            self.client,
            self.table,
            [to_attributes({"bucket": bucket, "hour": _UNTIL, "mark": format_time(hour)})],
        )

    def of(self, bucket: int) -> list[tuple[datetime, str]]:
        """A bucket's pending hours with their marks, oldest first."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            ConsistentRead=True,
            KeyConditionExpression="#bucket = :b",
            ExpressionAttributeNames={"#bucket": "bucket"},
            ExpressionAttributeValues={":b": {"N": str(bucket)}},
        )
        items = (item for page in pages for item in page["Items"] if item["hour"]["S"] != _UNTIL)
        return [(parse_time(item["hour"]["S"]), item["mark"]["S"]) for item in items]

    def clear(self, bucket: int, hour: datetime, mark: str) -> None:
        """The hour is exported; it stays pending if it was marked again meanwhile."""
        try:
            self.client.delete_item(
                TableName=self.table,
                Key=to_attributes({"bucket": bucket, "hour": format_time(hour)}),
                ConditionExpression="#mark = :mark",
                ExpressionAttributeNames={"#mark": "mark"},
                ExpressionAttributeValues={":mark": {"S": mark}},
            )
        except ClientError as error:
            if not is_conditional(error):
                raise


@dataclass(frozen=True, slots=True)
class KnownIncident:
    """An incident, and what came out about it since.

    Attributes:
        label: what a person says of it, a value of `overcut.sensors.incidents.Label`; empty before anybody does.
        is_contradicted: a late reading took its run away.
    """

    incident: Incident
    label: str
    is_contradicted: bool


# what one transaction changes, beside the link
MOST_LINKED = TRANSACTION - 1


@dataclass(frozen=True, slots=True)
class Link:
    """What a link leads to.

    Attributes:
        contact_id: who was texted it.
        incidents: sensor and sort key of each incident of its text; the first is the one that its page shows.
        names: of their equipment.
        nonce: what the next answer must bring along, once.
        expires_at: in the machine's time, seconds since 1970.
    """

    contact_id: str
    incidents: Sequence[tuple[str, str]]
    names: Sequence[str]
    nonce: str
    expires_at: int


@dataclass(frozen=True)
class IncidentsStore:
    """The Incidents table: incidents, one head item a sensor and kind, and who may be texted when.

    It is the `TextStore` of `overcut.sensors.alerts` as well.
    """

    client: DynamoDBClient
    table: str

    # --- deciding ---

    def head(self, sensor_id: str, kind: str) -> Head | None:
        """The sensor's head as of now."""
        answer = self.client.get_item(TableName=self.table, Key=_head_key(sensor_id, kind), ConsistentRead=True)
        return _head_from_item(answer["Item"]) if "Item" in answer else None

    def heads(self, sensor_id: str) -> dict[str, Head]:
        """The sensor's heads as of now, by kind."""
        answer = self.client.query(
            TableName=self.table,
            ConsistentRead=True,
            KeyConditionExpression="sensor_id = :s AND begins_with(opened_at, :head)",
            ExpressionAttributeValues={":s": {"S": sensor_id}, ":head": {"S": _HEAD}},
        )
        return {item["opened_at"]["S"].removeprefix(_HEAD): _head_from_item(item) for item in answer["Items"]}

    def open(self, incident: Incident, change: Change) -> None:
        """Put a new incident and move the head to it, both or neither.

        Raises:
            HeadMovedError: the head is not what the change was decided on.
        """
        item = to_attributes({**_incident_values(incident), "attention": "yes"})
        put = {"TableName": self.table, "Item": item, "ConditionExpression": "attribute_not_exists(sensor_id)"}
        self._with_head(incident.equipment.sensor_id, incident.kind, change, {"Put": put})

    def update(self, sensor_id: str, kind: str, change: Change, **values: Any) -> None:
        """Change the head's incident and the head, both or neither.

        Args:
            values: attributes to give the incident; a text is given by its key, under `texts`.

        Raises:
            HeadMovedError: the head is not what the change was decided on.
        """
        texts = values.pop("texts", {})
        names, expression, placeholders = _assignments(values)
        for k, (key, text) in enumerate(texts.items()):
            names |= {"#texts": "texts", f"#t{k}": key}
            expression += f", #texts.#t{k} = :t{k}"
            placeholders[f":t{k}"] = to_attribute(_text_values(text))
        update = {
            "TableName": self.table,
            "Key": _key(sensor_id, kind, change.episode.opened_at),
            "UpdateExpression": expression,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": placeholders,
            "ConditionExpression": "attribute_exists(sensor_id)",
        }
        self._with_head(sensor_id, kind, change, {"Update": update})

    def _with_head(self, sensor_id: str, kind: str, change: Change, action: dict[str, Any]) -> None:
        if change.head is None:
            raise ValueError(f"a change of kind {change.kind} moves no head")
        put_head: dict[str, Any] = {
            "TableName": self.table,
            "Item": _head_item(sensor_id, kind, change.head),
            "ConditionExpression": "attribute_not_exists(sensor_id) OR version = :version",
            "ExpressionAttributeValues": {":version": {"N": str(change.head.version - 1)}},
        }
        if change.head.version == 1:
            put_head["ConditionExpression"] = "attribute_not_exists(sensor_id)"
            del put_head["ExpressionAttributeValues"]
        both: list[Any] = [action, {"Put": put_head}]
        try:
            self.client.transact_write_items(TransactItems=both)
        except ClientError as error:
            if is_conditional(error):
                raise HeadMovedError(f"the head of {sensor_id} is not at version {change.head.version - 1}") from error
            raise

    def record_missed(self, incident: Incident, recovery: timedelta) -> None:
        """Keep an incident of a past that a later one has overtaken; one of that time that is kept already grows."""
        first, last = incident.first_anomalous_at, incident.last_anomalous_at
        for known in self._opened_until(incident.equipment.sensor_id, last + recovery):
            near = known.first_anomalous_at - last < recovery and first - known.last_anomalous_at < recovery
            if known.kind == incident.kind and near:
                names, expression, placeholders = _assignments(
                    {
                        "first_anomalous_at": format_time(min(known.first_anomalous_at, first)),
                        "last_anomalous_at": format_time(max(known.last_anomalous_at, last)),
                    }
                )
                self.client.update_item(
                    TableName=self.table,
                    Key=_incident_key(known),
                    UpdateExpression=expression,
                    ExpressionAttributeNames=names,
                    ExpressionAttributeValues=placeholders,
                )
                return
        self.client.put_item(TableName=self.table, Item=to_attributes(_incident_values(incident)))

    # --- reading ---

    def get(self, sensor_id: str, opened_at: datetime, kind: str = EQUIPMENT_FAULT) -> Incident | None:
        """One incident as of now."""
        key = _key(sensor_id, kind, opened_at)
        answer = self.client.get_item(TableName=self.table, Key=key, ConsistentRead=True)
        return incident_from_item(answer["Item"]) if "Item" in answer else None

    def of(self, sensor_id: str, first: datetime, last: datetime) -> list[Incident]:
        """A sensor's incidents opened from `first` to `last`, in order."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            ConsistentRead=True,
            KeyConditionExpression="sensor_id = :s AND opened_at BETWEEN :a AND :b",
            ExpressionAttributeValues={
                ":s": {"S": sensor_id},
                ":a": {"S": format_time(first)},
                ":b": {"S": f"{format_time(last)}{_LAST}"},
            },
        )
        return [incident_from_item(item) for page in pages for item in page["Items"]]

    def stretches(self, since: datetime) -> Iterator[dict[str, str]]:
        """Of every incident whose readings were anomalous since a moment, in no order: `sensor_id`,
        `first_anomalous_at`, `last_anomalous_at` and, if it has one, what a person called it, `label`."""
        names = ("sensor_id", "first_anomalous_at", "last_anomalous_at", "label", "format")
        kinds = {f":{kind}": {"S": kind} for kind in KINDS}
        pages = self.client.get_paginator("scan").paginate(
            TableName=self.table,
            FilterExpression=(
                f"attribute_exists(cause) AND last_anomalous_at >= :since AND #kind IN ({', '.join(kinds)})"
            ),
            ProjectionExpression=", ".join(f"#{name}" for name in names),
            ExpressionAttributeNames={**{f"#{name}": name for name in names}, "#kind": "kind"},
            ExpressionAttributeValues={":since": {"S": format_time(since)}, **kinds},
        )
        for page in pages:
            for stretch in map(from_attributes, page["Items"]):
                check_format("incident", stretch)
                yield stretch

    def known(self, reference: str = "") -> Iterator[KnownIncident]:
        """Every incident, or those of a reference, in no order; reads the whole table."""
        filtered: dict[str, Any] = {"FilterExpression": "attribute_exists(cause)"}
        if reference:
            filtered = {
                "FilterExpression": "attribute_exists(cause) AND #reference = :r",
                "ExpressionAttributeNames": {"#reference": "reference"},
                "ExpressionAttributeValues": {":r": {"S": reference}},
            }
        pages = self.client.get_paginator("scan").paginate(
            TableName=self.table, PaginationConfig=_SMALL_PAGES, **filtered
        )
        for page in pages:
            yield from map(_known_from_item, page["Items"])

    def last_before(self, incident: Incident) -> KnownIncident | None:
        """The sensor's last incident before this one."""
        earlier = self._newest_until(incident.equipment.sensor_id, incident.opened_at)
        known = (
            _known_from_item(item) for item in earlier if item["opened_at"] != _incident_key(incident)["opened_at"]
        )
        return next(known, None)

    def label(self, incident: Incident, label: str) -> None:
        """Keep what a person says of an incident; the last word counts."""
        self.client.update_item(
            TableName=self.table,
            Key=_incident_key(incident),
            UpdateExpression="SET #label = :label",
            ConditionExpression="attribute_exists(sensor_id)",
            ExpressionAttributeNames={"#label": "label"},
            ExpressionAttributeValues={":label": {"S": label}},
        )

    def take_as_usual(self, incident: Incident) -> bool:
        """An open incident was learned as how things are; False when it is over, or a person has said what it is."""
        return self._conditionally(
            TableName=self.table,
            Key=_incident_key(incident),
            UpdateExpression="SET #state = :new_normal",
            ConditionExpression="#state = :open AND attribute_not_exists(#label)",
            ExpressionAttributeNames={"#state": "state", "#label": "label"},
            ExpressionAttributeValues=to_attributes(
                {":new_normal": IncidentState.NEW_NORMAL, ":open": IncidentState.OPEN}
            ),
        )

    def _opened_until(self, sensor_id: str, last: datetime) -> list[Incident]:
        """The sensor's last few incidents opened by `last`. They do not overlap: an older one is long over."""
        return [incident_from_item(item) for item in self._newest_until(sensor_id, last)]

    def _newest_until(self, sensor_id: str, last: datetime) -> Sequence[Mapping[str, Any]]:
        answer = self.client.query(
            TableName=self.table,
            ConsistentRead=True,
            KeyConditionExpression="sensor_id = :s AND opened_at <= :b",
            ExpressionAttributeValues={":s": {"S": sensor_id}, ":b": {"S": f"{format_time(last)}{_LAST}"}},
            ScanIndexForward=False,
            Limit=5,
        )
        return answer["Items"]

    def needing_attention(self) -> Iterator[Incident]:
        """Every incident that is open or owes a text, as of now."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            IndexName="attention",
            KeyConditionExpression="attention = :yes",
            ExpressionAttributeValues={":yes": {"S": "yes"}},
        )
        keys = ({"sensor_id": i["sensor_id"], "opened_at": i["opened_at"]} for page in pages for i in page["Items"])
        yield from map(incident_from_item, items_of(self.client, self.table, keys))

    def settle(self, incident: Incident) -> None:
        """Take an incident that is over, and was told to everybody, off the list of those that need attention."""
        due = [key for key, text in incident.texts.items() if not is_pointless(incident, text)]
        keys = {f"#t{k}": key for k, key in enumerate(due)}
        conditions = ["#state <> :open", *(f"texts.{name}.#state = :sent" for name in keys)]
        sent = {":sent": {"S": TextState.SENT.value}} if keys else {}
        self._conditionally(
            TableName=self.table,
            Key=_incident_key(incident),
            UpdateExpression="REMOVE attention",
            ConditionExpression=" AND ".join(conditions),
            ExpressionAttributeNames={"#state": "state", **keys},
            ExpressionAttributeValues={":open": {"S": IncidentState.OPEN}, **sent},
        )

    # --- answering ---

    def put_link(self, token: str, link: Link) -> None:
        """Keep where a token leads, until it expires. Who reads the table learns no token."""
        values = {
            "contact_id": link.contact_id,
            "incidents": [list(key) for key in link.incidents],
            "names": list(link.names),
            "nonce": link.nonce,
            "expires_at": link.expires_at,
        }
        self.client.put_item(TableName=self.table, Item=_link_key(token) | to_attributes(values))

    def link(self, token: str, wall_now: int) -> Link | None:
        """Where a token leads; None when it never did, or does no longer.

        Args:
            wall_now: the machine's time in seconds since 1970.

        Raises:
            UnknownFormatError: another version of Overcut stored it.
        """
        found = self.client.get_item(TableName=self.table, Key=_link_key(token), ConsistentRead=True).get("Item")
        if found is None or int(found["expires_at"]["N"]) <= wall_now:
            return None
        values = from_attributes(found)
        check_format("link", values)
        return Link(
            values["contact_id"],
            [(sensor_id, opened_at) for sensor_id, opened_at in values["incidents"]],
            values["names"],
            values["nonce"],
            int(values["expires_at"]),
        )

    def linked(self, incidents: Iterable[tuple[str, str]]) -> list[KnownIncident]:
        """Incidents of a link, as of now, in any order."""
        keys = [to_attributes({"sensor_id": sensor_id, "opened_at": entry}) for sensor_id, entry in incidents]
        return [_known_from_item(item) for item in items_of(self.client, self.table, keys)]

    def respond(
        self, token: str, nonce: str, next_nonce: str, known: Iterable[KnownIncident], response: Response, wall_now: int
    ) -> bool:
        """Keep an answer to incidents, all or none; False, and nothing is kept, when the nonce is not the link's next
        one, the link has expired, or somebody was quicker. The last answer counts.

        Args:
            next_nonce: what the answer after this one must bring along.
        """
        use = {
            "TableName": self.table,
            "Key": _link_key(token),
            "UpdateExpression": "SET nonce = :next",
            "ConditionExpression": "nonce = :nonce AND expires_at > :now",
            "ExpressionAttributeValues": to_attributes({":next": next_nonce, ":nonce": nonce, ":now": wall_now}),
        }
        updates: list[Any] = [{"Update": use}, *({"Update": self._responded(one, response)} for one in known)]
        try:
            self.client.transact_write_items(TransactItems=updates)
        except ClientError as error:
            if is_conditional(error):
                return False
            raise
        return True

    def _responded(self, known: KnownIncident, response: Response) -> dict[str, Any]:
        incident, before = known.incident, known.incident.response
        names = {"#response": "response"}
        values: dict[str, Any] = {":response": _response_values(response)}
        expression, condition = "SET #response = :response", "attribute_exists(sensor_id)"
        if response.answer is Answer.SNOOZE:
            again = Text(TextKind.AGAIN, response.contact_id, TextState.SNOOZED)
            names |= {"#again": again.text_key, "#format": "format"}
            values |= {":again": _text_values(again), ":format": _SNOOZED_FORMAT}
            expression += ", texts.#again = :again, #format = :format"
        if response.answer is Answer.FALSE_ALARM:
            names["#label"], values[":label"] = "label", Label.FALSE_ALARM.value
            expression += ", #label = :label"
        elif before and before.answer is Answer.FALSE_ALARM and known.label == Label.FALSE_ALARM:
            names["#label"], values[":label"] = "label", known.label
            expression, condition = f"{expression} REMOVE #label", "#label = :label"
        return {
            "TableName": self.table,
            "Key": _incident_key(incident),
            "UpdateExpression": expression,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": to_attributes(values),
        }

    # --- texting ---

    def permit(self, group: TextsOfOnePlace, now: datetime, group_for: timedelta) -> bool:
        key = {"sensor_id": f"#texts#{group.contact_id}#{group.place}", "opened_at": str(group.kind)}
        first = group.incidents[0]
        return self._conditionally(
            TableName=self.table,
            Key=to_attributes(key),
            UpdateExpression="SET last_at = :now, granted_to = :me",
            ConditionExpression="attribute_not_exists(last_at) OR last_at <= :earlier OR granted_to = :me",
            ExpressionAttributeValues=to_attributes(
                {
                    ":now": format_time(now),
                    ":earlier": format_time(now - group_for),
                    ":me": f"{first.equipment.sensor_id} {format_time(first.opened_at)}",
                }
            ),
        )

    def spend(self, contact_id: str, now: datetime, budget: Budget) -> bool:
        hour, month = _windows(contact_id, now)
        if not self._count(*hour, budget.per_hour):
            return False
        if not self._count(*month, budget.per_month):
            self._uncount(*hour)
            return False
        return True

    def refund(self, contact_id: str, now: datetime) -> None:
        for window in _windows(contact_id, now):
            self._uncount(*window)

    def _count(self, key: Attributes, of: str, most: int) -> bool:
        """One more in a window; the item of a window is used again when the next of its name begins."""

        def count(expression: str, condition: str, **more: Any) -> bool:
            return self._conditionally(
                TableName=self.table,
                Key=key,
                UpdateExpression=expression,
                ConditionExpression=condition,
                ExpressionAttributeNames={"#of": "of"},
                ExpressionAttributeValues={":one": {"N": "1"}, ":of": {"S": of}, **more},
            )

        add = partial(count, "ADD sent :one", "#of = :of AND sent < :most", **{":most": {"N": str(most)}})
        begin = partial(count, "SET #of = :of, sent = :one", "attribute_not_exists(#of) OR #of <> :of")
        # who may not begin it was too late, or the SDK has repeated what took effect unheard: that counts twice
        return add() or begin() or add()

    def _uncount(self, key: Attributes, of: str) -> None:
        self._conditionally(
            TableName=self.table,
            Key=key,
            UpdateExpression="ADD sent :less",
            ConditionExpression="#of = :of AND sent > :none",
            ExpressionAttributeNames={"#of": "of"},
            ExpressionAttributeValues={":less": {"N": "-1"}, ":of": {"S": of}, ":none": {"N": "0"}},
        )

    def permit_digest(self, contact_id: str, now: datetime, budget: Budget) -> bool:
        key = _digest_key(contact_id)
        found = self.client.get_item(TableName=self.table, Key=key, ConsistentRead=True).get("Item", {})
        check_format("texts of a contact", from_attributes(found))
        known = {
            name: parse_time(found[name]["S"]) for name in ("waiting_since", "held_at", "digested_at") if name in found
        }
        month_key, month = _windows(contact_id, now)[1]
        spent = self.client.get_item(TableName=self.table, Key=month_key, ConsistentRead=True).get("Item", {})
        check_format("texts of a contact", from_attributes(spent))
        is_used_up = bool(spent) and spent["of"]["S"] == month and int(spent["sent"]["N"]) >= budget.per_month
        is_due = digest_is_due(
            now,
            waiting_since=known.get("waiting_since", now),
            held_at=known.get("held_at"),
            sent_at=known.get("digested_at"),
            month_is_used_up=is_used_up,
        )
        unless = ("digested_at", known.get("digested_at")) if is_due else ("waiting_since", known.get("waiting_since"))
        if not is_due and unless[1]:
            return False
        condition = f"{unless[0]} = :before" if unless[1] else f"attribute_not_exists({unless[0]})"
        before = {":before": {"S": format_time(unless[1])}} if unless[1] else {}
        is_mine = self._conditionally(
            TableName=self.table,
            Key=key,
            UpdateExpression=(
                "SET digested_at = :now, held_at = :then REMOVE waiting_since" if is_due else "SET waiting_since = :now"
            ),
            ConditionExpression=condition,
            ExpressionAttributeValues={":now": {"S": format_time(now)}, **before, **(_missed(now) if is_due else {})},
        )
        return is_due and is_mine

    def digest_told(self, contact_id: str, now: datetime) -> None:
        self._conditionally(
            TableName=self.table,
            Key=_digest_key(contact_id),
            UpdateExpression="REMOVE held_at",
            ConditionExpression="held_at = :then",
            ExpressionAttributeValues=_missed(now),
        )

    def _set_held_at(self, contact_id: str, now: datetime) -> None:
        self._conditionally(
            TableName=self.table,
            Key=_digest_key(contact_id),
            UpdateExpression="SET held_at = :now",
            ExpressionAttributeValues={":now": {"S": format_time(now)}},
        )

    def hold_back(self, incidents: Sequence[Incident], text_key: str, now: datetime) -> None:
        contact_id = text_key.partition("#")[2]
        self._set_held_at(contact_id, now)
        values = {":digest": TextState.DIGEST, ":owed": TextState.OWED, ":sending": TextState.SENDING}
        self._all(
            incidents,
            text_key,
            UpdateExpression="SET texts.#text.#state = :digest",
            ConditionExpression="texts.#text.#state IN (:owed, :sending)",
            ExpressionAttributeValues=to_attributes(values),
        )

    def claim(
        self, incidents: Sequence[Incident], text_key: str, wall_now: int, claimed_until: int
    ) -> Sequence[Incident]:
        return self._all(
            incidents,
            text_key,
            UpdateExpression="SET texts.#text.#state = :sending, texts.#text.claimed_until = :until",
            ConditionExpression=(
                "texts.#text.#state = :owed OR (texts.#text.#state = :sending AND texts.#text.claimed_until < :now)"
            ),
            ExpressionAttributeValues=to_attributes(
                {
                    ":sending": TextState.SENDING,
                    ":owed": TextState.OWED,
                    ":now": wall_now,
                    ":until": claimed_until,
                }
            ),
        )

    def _all(
        self, incidents: Sequence[Incident], text_key: str, whatever_fails: bool = False, **update: Any
    ) -> list[Incident]:
        """Update the text of each, many in one request: a storm of thousands must leave in minutes. Those that were.

        Args:
            whatever_fails: go on to the others, and raise then: what cannot be recorded must not take others along.
        """
        updated: list[Incident] = []
        failures: list[Exception] = []
        for batch in in_batches(incidents, TRANSACTION):
            if len(batch) > 1 and self._in_one(batch, text_key, update):
                updated += batch
                continue
            for one in batch:  # something is in the way of one of them
                try:
                    if self._conditionally(**self._of_text(one, text_key), **update):
                        updated.append(one)
                except Exception as error:
                    failures.append(error)
                    if not whatever_fails:
                        raise
        if failures:
            raise failures[0]
        return updated

    def _in_one(self, incidents: Sequence[Incident], text_key: str, update: dict[str, Any]) -> bool:
        updates: list[Any] = [{"Update": {**self._of_text(one, text_key), **update}} for one in incidents]
        try:
            self.client.transact_write_items(TransactItems=updates)
        except (ClientError, BotoCoreError):
            return False  # one by one it is seen what is the matter
        return True

    def release(self, incident: Incident, text_key: str) -> None:
        self._conditionally(
            **self._of_text(incident, text_key),
            UpdateExpression="SET texts.#text.#state = :owed",
            ConditionExpression="texts.#text.#state = :sending",
            ExpressionAttributeValues=to_attributes({":owed": TextState.OWED, ":sending": TextState.SENDING}),
        )

    def mark_sent(
        self, incidents: Sequence[Incident], text_key: str, message_id: str, body: str, now: datetime
    ) -> None:
        values = {":sent": TextState.SENT, ":id": message_id, ":body": body, ":now": format_time(now)}
        self._all(
            incidents,
            text_key,
            whatever_fails=True,
            UpdateExpression=(
                "SET texts.#text.#state = :sent, texts.#text.message_id = :id,"
                " texts.#text.body = :body, texts.#text.sent_at = :now"
            ),
            ExpressionAttributeValues=to_attributes(values),
        )

    def owe(self, incident: Incident, texts: Mapping[str, Text]) -> Incident:
        """The incident with texts that it owes from now on; without those that it had, none when it is no longer open
        or a person has said what it is."""
        owed = {key: text for key, text in texts.items() if self._owe(incident, key, text)}
        return replace(incident, texts={**incident.texts, **owed})

    def _owe(self, incident: Incident, key: str, text: Text) -> bool:
        condition = "#state = :open AND attribute_not_exists(texts.#text) AND attribute_not_exists(#label)"
        names = {"#text": key, "#state": "state", "#label": "label"}
        values = {":text": _text_values(text), ":open": IncidentState.OPEN}
        if text.is_escalation:
            condition += " AND (attribute_not_exists(#response) OR #response.answer = :snooze)"
            names["#response"], values[":snooze"] = "response", Answer.SNOOZE
        return self._conditionally(
            TableName=self.table,
            Key=_incident_key(incident),
            UpdateExpression="SET texts.#text = :text",
            ConditionExpression=condition,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=to_attributes(values),
        )

    def owe_snoozed(self, incident: Incident, now: datetime) -> Incident:
        """The incident, whose snoozed texts are owed if their snooze is over."""
        until = incident.response.until if incident.response else None
        due = [
            text
            for text in incident.texts.values()
            if text.state is TextState.SNOOZED and not is_pointless(incident, text) and until and until <= now
        ]
        woken = {
            text.text_key: replace(text, state=TextState.OWED)
            for text in due
            if self._conditionally(
                **self._of_text(incident, text.text_key),
                UpdateExpression="SET texts.#text.#state = :owed",
                ConditionExpression="texts.#text.#state = :snoozed",
                ExpressionAttributeValues=to_attributes({":owed": TextState.OWED, ":snoozed": TextState.SNOOZED}),
            )
        }
        return replace(incident, texts={**incident.texts, **woken})

    def owe_waiting(self, incident: Incident) -> None:
        """The sensor's readings are fresh again and the incident is still open: its waiting texts are owed."""
        for key, text in incident.texts.items():
            if text.state is TextState.WAITING:
                self._conditionally(
                    **self._of_text(incident, key),
                    UpdateExpression="SET texts.#text.#state = :owed",
                    ConditionExpression="texts.#text.#state = :waiting",
                    ExpressionAttributeValues=to_attributes({":owed": TextState.OWED, ":waiting": TextState.WAITING}),
                )

    def _of_text(self, incident: Incident, text_key: str) -> dict[str, Any]:
        return {
            "TableName": self.table,
            "Key": _incident_key(incident),
            "ExpressionAttributeNames": {"#text": text_key, "#state": "state"},
        }

    def _conditionally(self, **update: Any) -> bool:
        try:
            patiently(lambda: self.client.update_item(**update))
        except ClientError as error:
            if is_conditional(error):
                return False
            raise
        return True


def _windows(contact_id: str, now: datetime) -> tuple[tuple[Attributes, str], tuple[Attributes, str]]:
    """The items that count a contact's texts of this hour and of this month: of which day, and year, they are now."""
    hour, month = f"hour#{now:%H}", f"month#{now:%m}"
    return (_contact_key(contact_id, hour), f"{now:%Y-%m-%d}"), (_contact_key(contact_id, month), f"{now:%Y}")


def _digest_key(contact_id: str) -> Attributes:
    return _contact_key(contact_id, "digest")


def _missed(digested_at: datetime) -> Attributes:
    """When a digest counts as held back again, until its sender has told that it left: right after it was permitted."""
    return {":then": {"S": format_time(digested_at + timedelta(seconds=1))}}


def _contact_key(contact_id: str, entry: str) -> Attributes:
    return to_attributes({"sensor_id": f"#texts#{contact_id}", "opened_at": entry})


def _head_key(sensor_id: str, kind: str) -> Attributes:
    return to_attributes({"sensor_id": sensor_id, "opened_at": f"{_HEAD}{kind}"})


def _head_item(sensor_id: str, kind: str, head: Head) -> Attributes:
    return _head_key(sensor_id, kind) | to_attributes(
        {
            "version": head.version,
            "incident_opened_at": format_time(head.opened_at),
            "first_anomalous_at": format_time(head.first_anomalous_at),
            "last_anomalous_at": format_time(head.last_anomalous_at),
            "recovered_at": format_time(head.recovered_at) if head.recovered_at else None,
            "is_contradicted": head.is_contradicted,
        }
    )


def _head_from_item(item: Mapping[str, Any]) -> Head:
    values = from_attributes(item)
    check_format("incident head", values)
    return Head(
        version=int(values["version"]),
        opened_at=parse_time(values["incident_opened_at"]),
        first_anomalous_at=parse_time(values["first_anomalous_at"]),
        last_anomalous_at=parse_time(values["last_anomalous_at"]),
        recovered_at=parse_time(values["recovered_at"]) if "recovered_at" in values else None,
        is_contradicted=values["is_contradicted"],
    )


def incident_entry(incident: Incident) -> tuple[str, str]:
    """Sensor and sort key of an incident."""
    key = _incident_key(incident)
    return key["sensor_id"]["S"], key["opened_at"]["S"]


def _incident_key(incident: Incident) -> Attributes:
    return _key(incident.equipment.sensor_id, incident.kind, incident.opened_at)


def _key(sensor_id: str, kind: str, opened_at: datetime) -> Attributes:
    """Incidents of different kinds may be opened by the same minute."""
    entry = format_time(opened_at)
    return {"sensor_id": {"S": sensor_id}, "opened_at": {"S": entry if kind == EQUIPMENT_FAULT else f"{entry}#{kind}"}}


def _incident_values(incident: Incident) -> dict[str, Any]:
    return {
        **from_attributes(_incident_key(incident)),
        "reference": incident.reference,
        "equipment": asdict(incident.equipment),
        "kind": incident.kind,
        "state": incident.state.value,
        "first_anomalous_at": format_time(incident.first_anomalous_at),
        "last_anomalous_at": format_time(incident.last_anomalous_at),
        "recovered_at": format_time(incident.recovered_at) if incident.recovered_at else None,
        "anomalous_minutes": incident.anomalous_minutes,
        "cause": asdict(incident.cause),
        "texts": {key: _text_values(text) for key, text in incident.texts.items()},
    }


def _text_values(text: Text) -> dict[str, Any]:
    values = {"kind": text.kind.value, "contact_id": text.contact_id, "state": text.state.value}
    if text.since:
        values["since"] = format_time(text.since)
    return {**values, "is_escalation": True} if text.is_escalation else values


def _response_values(response: Response) -> dict[str, Any]:
    return {
        "answer": response.answer.value,
        "contact_id": response.contact_id,
        "at": format_time(response.at),
        "until": format_time(response.until) if response.until else None,
    }


def _link_key(token: str) -> Attributes:
    name = hashlib.sha256(token.encode()).hexdigest()[:32]
    return to_attributes({"sensor_id": f"#link#{name}", "opened_at": "link"})


def _known_from_item(item: Mapping[str, Any]) -> KnownIncident:
    label, contradicted = item.get("label", {"S": ""}), item.get("contradicted", {"BOOL": False})
    return KnownIncident(incident_from_item(item), label["S"], contradicted["BOOL"])


def incident_from_item(item: Mapping[str, Any]) -> Incident:
    """The incident that an item of the Incidents table holds."""
    values = from_attributes(item)
    check_format("incident", values)
    return Incident(
        equipment=Equipment(**values["equipment"]),
        kind=values["kind"],
        state=IncidentState(values["state"]),
        opened_at=parse_time(values["opened_at"].partition("#")[0]),
        first_anomalous_at=parse_time(values["first_anomalous_at"]),
        last_anomalous_at=parse_time(values["last_anomalous_at"]),
        recovered_at=parse_time(values["recovered_at"]) if "recovered_at" in values else None,
        anomalous_minutes=int(values["anomalous_minutes"]) if "anomalous_minutes" in values else None,
        cause=Cause(**values["cause"]),
        texts={
            key: Text(
                kind=TextKind(text["kind"]),
                contact_id=text["contact_id"],
                state=TextState(text["state"]),
                claimed_until=int(text.get("claimed_until", 0)),
                message_id=text.get("message_id", ""),
                sent_at=parse_time(text["sent_at"]) if "sent_at" in text else None,
                is_escalation=text.get("is_escalation", False),
                since=parse_time(text["since"]) if "since" in text else None,
            )
            for key, text in values["texts"].items()
        },
        response=_response_from(values["response"]) if "response" in values else None,
    )


def _response_from(values: Mapping[str, Any]) -> Response:
    return Response(
        Answer(values["answer"]),
        values["contact_id"],
        parse_time(values["at"]),
        parse_time(values["until"]) if "until" in values else None,
    )


@dataclass(frozen=True, slots=True)
class QuarantinedEvent:
    """An event that cannot be a reading, as it came."""

    raw: str
    reason: str
    event_id: str


def _seen_key(source_id: str) -> str:
    return f"{SEEN_PREFIX}{source_id}.json.gz"


# where Lambda itself leaves what of the stream it gave up
FAILED_BATCHES_PREFIX = "aws/lambda/"
QUARANTINE_PREFIX = "quarantine/"
SEEN_PREFIX = "seen/"


@dataclass(frozen=True)
class DataBucket(Bucket):
    """The data bucket: exported readings, forests, what could not be read, and which sensors were seen when."""

    def seen(self, source_id: str) -> SourceSeen | None:
        """When a source and its sensors were heard; None before the first time.

        Raises:
            UnknownFormatError: another version of Overcut stored it.
        """
        try:
            stored = json.loads(gzip.decompress(self.get(_seen_key(source_id))))
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None
            raise
        check_format("seen", stored)
        sensors = {sensor_id: SensorSeen(*row) for sensor_id, row in stored.pop("sensors").items()}
        return SourceSeen(sensors, **stored)

    def put_seen(self, source_id: str, seen: SourceSeen) -> None:
        rows = {sensor_id: [s.heard_at, s.advanced_at, s.newest, s.gaps] for sensor_id, s in seen.sensors.items()}
        stored = {
            "heard_at": seen.heard_at,
            "resumed_at": seen.resumed_at,
            "settled_at": seen.settled_at,
            "sensors": rows,
        }
        self.put(_seen_key(source_id), gzip.compress(json.dumps(stored).encode(), compresslevel=1))

    def quarantine(self, source_id: str, events: Sequence[QuarantinedEvent], now: datetime) -> None:
        """Keep `events` as JSON Lines in one object, whose key is a function of them."""
        body = "".join(json.dumps(asdict(event)) + "\n" for event in events).encode()
        name = hashlib.sha256(body).hexdigest()[:32]
        self.put(f"{QUARANTINE_PREFIX}dt={now:%Y-%m-%d}/{source_id}/{name}.jsonl", body)
