"""The ETL pipeline's stores: the Tickets table, and the predictions in the data bucket."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from botocore.exceptions import ClientError

from lambdas.etl_jobs.extractions import last_counts
from lambdas.runtime.attributes import Attributes, from_attributes, to_attributes
from lambdas.runtime.dynamodb import is_conditional, items_of, patiently
from lambdas.runtime.objects import Bucket
from overcut.etl_jobs.layout import predictions_prefix
from overcut.etl_jobs.tickets import (
    Action,
    Change,
    Entry,
    EntryState,
    TicketHead,
    TicketMovedError,
    TicketStatus,
    deduplication_key,
)
from overcut.etl_jobs.verdicts import Kind, Verdict
from overcut.formats import check_format

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

_LINES_BYTES = 64 * 1024
_HEAD = "head"
# no ticket's: a deduplication key ends with a kind
_SINK_KEY = {"deduplication_key": {"S": "#sink"}, "entry": {"S": "pause"}}


@dataclass(frozen=True)
class PredictionsReader(Bucket):
    """The predictions in the data bucket, as JSON Lines; none is ever held whole."""

    def by_bucket(self, days: Iterable[date]) -> list[list[str]]:
        """The keys of the objects of these days, of every model version; those of one bucket of jobs together."""
        buckets: defaultdict[str, list[str]] = defaultdict(list)
        for day in days:
            for key in self.keys(predictions_prefix(day)):
                if key.endswith(".jsonl"):
                    buckets[key.rpartition("/")[2]].append(key)
        return [buckets[name] for name in sorted(buckets)]

    def newest_record(self) -> datetime | None:
        """When the newest record of the lake was made that the last extraction of recent runs saw.

        The beginning of time when it saw none at all; None when nothing was extracted yet.
        """
        counts = last_counts(self, "recent")
        if counts is None:
            return None
        newest = counts["newest_recorded_at"]
        return datetime.fromisoformat(newest) if newest else datetime.min.replace(tzinfo=UTC)

    def lines(self, key: str) -> Iterator[bytes]:
        """The lines of an object, each a `Verdict.to_json()`."""
        body = self.client.get_object(Bucket=self.bucket, Key=key)["Body"]
        yield from filter(None, body.iter_lines(_LINES_BYTES))

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def link(self, key: str) -> str:
        """An object's page in the console."""
        region = self.client.meta.region_name
        return f"https://{region}.console.aws.amazon.com/s3/object/{self.bucket}?region={region}&prefix={quote(key)}"


@dataclass(frozen=True)
class TicketsStore:
    """The Tickets table: one head item a job and kind, and one item an entry. It is a `TicketStore`.

    `attention` says why an item needs somebody: `open` on a head, `owed` or `parked` on an entry; absent on the rest.
    """

    client: DynamoDBClient
    table: str

    # --- deciding ---

    def head(self, key: str) -> TicketHead | None:
        item = self._get(key, _HEAD)
        return _head_from_item(item) if item else None

    def existing(self, key: str, entries: Collection[str]) -> set[str]:
        return {item["entry"]["S"] for item in self._get_all((key, entry) for entry in set(entries))}

    def apply(self, change: Change) -> None:
        put_head: dict[str, Any] = {"TableName": self.table, "Item": _head_item(change.head)}
        if change.head.version == 1:
            put_head["ConditionExpression"] = "attribute_not_exists(deduplication_key)"
        else:
            put_head["ConditionExpression"] = "version = :version"
            put_head["ExpressionAttributeValues"] = {":version": {"N": str(change.head.version - 1)}}
        put_entry = {
            "TableName": self.table,
            "Item": _entry_item(change.entry),
            "ConditionExpression": "attribute_not_exists(deduplication_key)",
        }
        both: list[Any] = [{"Put": put_entry}, {"Put": put_head}]
        try:
            self.client.transact_write_items(TransactItems=both)
        except ClientError as error:
            if is_conditional(error):
                raise TicketMovedError(f"the ticket {change.head.deduplication_key} was changed meanwhile") from error
            raise

    # --- reading ---

    def open_heads(self) -> Iterator[TicketHead]:
        """Every open ticket, as of now; one opened a moment ago may be missing."""
        keys = ((key, _HEAD) for key, _ in self._needing("open"))
        yield from (head for item in self._get_all(keys) if (head := _head_from_item(item)).is_open)

    def parked(self) -> Iterator[Entry]:
        """Every parked entry, as of now; one parked a moment ago may be missing."""
        for item in self._get_all(self._needing("parked")):
            if item.get("attention") == {"S": "parked"}:
                yield _entry_from_item(item)

    def everything(self) -> list[tuple[TicketHead, list[Entry]]]:
        """The newest ticket of every job and kind with its entries in order, by key; reads the whole table."""
        heads: dict[str, TicketHead] = {}
        entries: defaultdict[str, list[Entry]] = defaultdict(list)
        for page in self.client.get_paginator("scan").paginate(TableName=self.table, ConsistentRead=True):
            for item in page["Items"]:
                key, name = item["deduplication_key"]["S"], item["entry"]["S"]
                if name == _HEAD:
                    heads[key] = _head_from_item(item)
                elif key != _SINK_KEY["deduplication_key"]["S"]:
                    entries[key].append(_entry_from_item(item))
        return [
            (head, sorted((e for e in entries[key] if e.number == head.number), key=lambda entry: entry.sequence))
            for key, head in sorted(heads.items())
        ]

    def entry(self, key: str, entry: str) -> Entry | None:
        item = self._get(key, entry)
        return _entry_from_item(item) if item else None

    def owed(self) -> dict[str, set[str]]:
        owing: defaultdict[str, set[str]] = defaultdict(set)
        for key, entry in self._needing("owed"):
            owing[key].add(entry)
        return owing

    # --- sending ---

    def claim(self, entry: Entry, now: datetime, claimed_until: datetime) -> Entry | None:
        answer = self._of_entry(
            entry,
            "SET #state = :sending, claimed_until = :until, attempts = attempts + :one,"
            " tried_since = if_not_exists(tried_since, :now)",
            "#state = :owed OR (#state = :sending AND claimed_until < :now)",
            sending=EntryState.SENDING,
            owed=EntryState.OWED,
            now=_text(now),
            until=_text(claimed_until),
            one=1,
        )
        return _entry_from_item(answer) if answer else None

    def release(self, entry: Entry, reason: str, next_attempt_at: datetime) -> None:
        self._of_entry(
            entry,
            "SET #state = :owed, reason = :reason, next_attempt_at = :next",
            "#state = :sending AND attempts = :mine",
            owed=EntryState.OWED,
            sending=EntryState.SENDING,
            mine=entry.attempts,
            reason=reason,
            next=_text(next_attempt_at),
        )

    def park(self, entry: Entry, reason: str, reference: str) -> None:
        self._of_entry(
            entry,
            "SET #state = :parked, attention = :parked, reason = :reason, #reference = :reference",
            "#state IN (:owed, :sending) AND attempts = :mine",
            parked=EntryState.PARKED,
            owed=EntryState.OWED,
            sending=EntryState.SENDING,
            mine=entry.attempts,
            reason=reason,
            reference=reference,
        )

    def mark_sent(self, entry: Entry, reference: str, now: datetime) -> None:
        self._of_entry(
            entry,
            "SET #state = :sent, sent_at = :now, #reference = :reference REMOVE attention",
            sent=EntryState.SENT,
            now=_text(now),
            reference=reference,
        )
        self._update(
            Key=_key(entry.deduplication_key, _HEAD),
            # whoever decides about the ticket at this moment would put back the head without the reference
            UpdateExpression="SET #reference = :reference ADD version :one",
            ConditionExpression="#number = :number AND #reference <> :reference",
            ExpressionAttributeNames={"#reference": "reference", "#number": "number"},
            ExpressionAttributeValues=to_attributes({":reference": reference, ":number": entry.number, ":one": 1}),
        )

    def retry_parked(self, entry: Entry) -> bool:
        """Owe a parked entry again, as if it had never been tried; False when it is not parked any more.

        What follows a parked opening was parked with it: a ticket's entries are to be tried again together.
        """
        answer = self._of_entry(
            entry,
            "SET #state = :owed, attention = :owed REMOVE tried_since, next_attempt_at",
            "#state = :parked",
            owed=EntryState.OWED,
            parked=EntryState.PARKED,
        )
        return answer is not None

    def discard_parked(self, entry: Entry) -> bool:
        """Ask for nobody's attention to a parked entry any more; it is kept. False when it is not parked any more."""
        return self._of_entry(entry, "REMOVE attention", "#state = :parked", parked=EntryState.PARKED) is not None

    def paused_until(self) -> datetime | None:
        item = self.client.get_item(TableName=self.table, Key=_SINK_KEY, ConsistentRead=True).get("Item")
        return _moment(item["paused_until"]["S"]) if item else None

    def pause(self, until: datetime) -> None:
        self.client.put_item(TableName=self.table, Item={**_SINK_KEY, "paused_until": {"S": _text(until)}})

    # --- what they share ---

    def _get(self, key: str, entry: str) -> Mapping[str, Any] | None:
        answer = self.client.get_item(TableName=self.table, Key=_key(key, entry), ConsistentRead=True)
        return answer.get("Item")

    def _get_all(self, keys: Iterable[tuple[str, str]]) -> Iterator[Mapping[str, Any]]:
        return items_of(self.client, self.table, (_key(*key) for key in keys))

    def _needing(self, attention: str) -> Iterator[tuple[str, str]]:
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            IndexName="attention",
            KeyConditionExpression="attention = :attention",
            ExpressionAttributeValues={":attention": {"S": attention}},
        )
        return ((item["deduplication_key"]["S"], item["entry"]["S"]) for page in pages for item in page["Items"])

    def _of_entry(self, entry: Entry, update: str, condition: str = "", **values: Any) -> Mapping[str, Any] | None:
        names = {"#state": "state"} | ({"#reference": "reference"} if "#reference" in update else {})
        return self._update(
            Key=_key(entry.deduplication_key, entry.key),
            UpdateExpression=update,
            ConditionExpression=condition or "attribute_exists(deduplication_key)",
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=to_attributes({f":{name}": value for name, value in values.items()}),
        )

    def _update(self, **update: Any) -> Mapping[str, Any] | None:
        """The item as it is now; None when the condition does not hold."""
        try:
            return patiently(lambda: self.client.update_item(TableName=self.table, ReturnValues="ALL_NEW", **update))[
                "Attributes"
            ]
        except ClientError as error:
            if is_conditional(error):
                return None
            raise


def _key(key: str, entry: str) -> Attributes:
    return to_attributes({"deduplication_key": key, "entry": entry})


def _text(moment: datetime) -> str:
    """Texts of which the earlier one comes first."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _head_item(head: TicketHead) -> Attributes:
    return _key(head.deduplication_key, _HEAD) | to_attributes(
        {
            "job_name": head.job_name,
            "kind": head.kind,
            "status": head.status,
            "attention": "open" if head.is_open else None,
            "version": head.version,
            "number": head.number,
            "opened_at": _text(head.opened_at),
            "opened_by": head.opened_by,
            "first_started_at": _text(head.first_started_at),
            "last_started_at": _text(head.last_started_at),
            "last_run_id": head.last_run_id,
            "last_recorded_at": _text(head.last_recorded_at),
            "runs": head.runs,
            "next_sequence": head.next_sequence,
            "last_entry": head.last_entry,
            "reference": head.reference,
        }
    )


def _head_from_item(item: Mapping[str, Any]) -> TicketHead:
    values = from_attributes(item)
    check_format("ticket head", values)
    return TicketHead(
        job_name=values["job_name"],
        kind=Kind(values["kind"]),
        status=TicketStatus(values["status"]),
        version=int(values["version"]),
        number=int(values["number"]),
        opened_at=_moment(values["opened_at"]),
        opened_by=values["opened_by"],
        first_started_at=_moment(values["first_started_at"]),
        last_started_at=_moment(values["last_started_at"]),
        last_run_id=values["last_run_id"],
        last_recorded_at=_moment(values["last_recorded_at"]),
        runs=int(values["runs"]),
        next_sequence=int(values["next_sequence"]),
        last_entry=values["last_entry"],
        reference=values["reference"],
    )


def _entry_item(entry: Entry) -> Attributes:
    return _key(deduplication_key(entry.job_name, entry.kind), entry.key) | to_attributes(
        {
            "attention": "owed",
            "job_name": entry.job_name,
            "kind": entry.kind,
            "number": entry.number,
            "sequence": entry.sequence,
            "follows": entry.follows,
            "action": entry.action,
            "run_id": entry.run_id,
            "title": entry.title,
            "body": entry.body,
            "verdict": entry.verdict.to_json(),
            "idempotency_key": entry.idempotency_key,
            "state": entry.state,
            "attempts": entry.attempts,
            "reference": entry.reference,
        }
    )


def _entry_from_item(item: Mapping[str, Any]) -> Entry:
    values = from_attributes(item)
    check_format("ticket entry", values)
    return Entry(
        job_name=values["job_name"],
        kind=Kind(values["kind"]),
        key=values["entry"],
        number=int(values["number"]),
        sequence=int(values["sequence"]),
        follows=values["follows"],
        action=Action(values["action"]),
        title=values["title"],
        body=values["body"],
        verdict=Verdict.from_json(values["verdict"]),
        idempotency_key=values["idempotency_key"],
        state=EntryState(values["state"]),
        attempts=int(values["attempts"]),
        tried_since=_moment(values["tried_since"]) if "tried_since" in values else None,
        next_attempt_at=_moment(values["next_attempt_at"]) if "next_attempt_at" in values else None,
        claimed_until=_moment(values["claimed_until"]) if "claimed_until" in values else None,
        reference=values["reference"],
        reason=values.get("reason", ""),
    )
