"""Systems Manager OpsCenter: a ticket is an OpsItem, a comment an entry of its operational data, closed is Resolved."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from overcut.etl_jobs.tickets import Entry, EntryRefusedError, SinkUnavailableError
from overcut.etl_jobs.verdicts import Kind

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient
    from types_boto3_ssm.type_defs import GetOpsItemResponseTypeDef, OpsItemDataValueTypeDef

# a call is never repeated by the SDK: whether the first one was taken is looked up before the next
ONCE = Config(retries={"total_max_attempts": 1}, connect_timeout=3, read_timeout=10)

SOURCE = "Overcut"
IDEMPOTENCY_KEY = "overcut/idempotency-key"
COMMENT_PREFIX = "overcut/entry-"
MOST_COMMENTS = 20
# of an OpsItem's 20 KB of operational data; others may have put something there
MOST_DATA_BYTES = 19_000
_COMMENT_BYTES = 900
_TITLE_LENGTH, _DESCRIPTION_LENGTH = 1024, 2048
_CATEGORIES = {Kind.UNUSUAL_RUN: "Performance", Kind.FAILED_RUN: "Availability", Kind.MISSED_RUN: "Availability"}
_REFUSALS = frozenset({"OpsItemInvalidParameterException", "ValidationException", "InvalidParameterValue"})
_RESOLVED = frozenset({"Resolved", "Closed"})

Answer = TypeVar("Answer")
Data = dict[str, "OpsItemDataValueTypeDef"]


@dataclass(frozen=True)
class OpsCenterSink:
    """A `TicketSink`. Its client must be made with `ONCE`.

    Args:
        severity: of new OpsItems, `1` (critical) to `4` (low).
    """

    client: SSMClient
    severity: str

    def open(self, entry: Entry) -> str:
        """OpsCenter itself takes no second unresolved OpsItem with the same key; one resolved since is searched."""
        if entry.attempts > 1 and (created := self._created_by(entry)):
            return created
        key = entry.idempotency_key
        try:
            answer = _call(
                lambda: self.client.create_ops_item(
                    Source=SOURCE,
                    Title=_short(entry.title, _TITLE_LENGTH),
                    Description=_short(entry.body, _DESCRIPTION_LENGTH),
                    Severity=self.severity,
                    Category=_CATEGORIES[entry.kind],
                    OperationalData={
                        "/aws/dedup": {"Value": json.dumps({"dedupString": key}), "Type": "SearchableString"},
                        IDEMPOTENCY_KEY: {"Value": key, "Type": "SearchableString"},
                    },
                )
            )
        except self.client.exceptions.OpsItemAlreadyExistsException as error:
            existing: str = error.response["OpsItemId"]  # type: ignore[typeddict-item]  # the model's member
            return existing
        return answer["OpsItemId"]

    def comment(self, entry: Entry, reference: str) -> str:
        """Adds the entry's text; opens the OpsItem again where a person resolved it; a new one where it is gone."""
        data = self._data(reference)
        if data is None:
            return self.open(entry)
        item, found = data
        if _key(entry) in found:
            return reference
        reopen = {} if item["OpsItem"].get("Status") not in _RESOLVED else {"Status": "Open"}
        return reference if self._add(entry, reference, found, reopen) else self.open(entry)

    def close(self, entry: Entry, reference: str) -> str:
        """Adds the entry's text and resolves the OpsItem; one that is gone is closed."""
        data = self._data(reference)
        if data is not None and _key(entry) not in data[1]:
            self._add(entry, reference, data[1], {"Status": "Resolved"})
        return reference

    def _created_by(self, entry: Entry) -> str | None:
        wanted = json.dumps({"key": IDEMPOTENCY_KEY, "value": entry.idempotency_key})
        answer = _call(
            lambda: self.client.describe_ops_items(
                OpsItemFilters=[{"Key": "OperationalData", "Values": [wanted], "Operator": "Equal"}]
            )
        )
        return next((found["OpsItemId"] for found in answer["OpsItemSummaries"]), None)

    def _data(self, reference: str) -> tuple[GetOpsItemResponseTypeDef, Data] | None:
        """The OpsItem and its operational data; None when it is gone."""
        try:
            item = _call(lambda: self.client.get_ops_item(OpsItemId=reference))
        except self.client.exceptions.OpsItemNotFoundException:
            return None
        return item, dict(item["OpsItem"].get("OperationalData", {}))

    def _add(self, entry: Entry, reference: str, found: Data, change: Mapping[str, Any]) -> bool:
        """Put the entry's text, and take away the oldest ones for which there is no room; False when it is gone."""
        text = _short_bytes(f"{entry.title}\n{entry.body}", _COMMENT_BYTES)
        added: Data = {_key(entry): {"Value": text, "Type": "String"}}
        comments = sorted(key for key in found if key.startswith(COMMENT_PREFIX))
        size = _size(found) + _size(added)
        dropped: list[str] = []
        while comments and (len(comments) >= MOST_COMMENTS or size > MOST_DATA_BYTES):
            dropped.append(comments.pop(0))
            size -= _size({dropped[-1]: found[dropped[-1]]})
        update: dict[str, Any] = {"OpsItemId": reference, "OperationalData": added, **change}
        if dropped:
            update["OperationalDataToDelete"] = dropped
        try:
            _call(lambda: self.client.update_ops_item(**update))
        except self.client.exceptions.OpsItemNotFoundException:
            return False
        return True


def _call(call: Callable[[], Answer]) -> Answer:
    """Call, with failures as a sink tells them; what an operation's answers mean is for the caller to see."""
    try:
        return call()
    except ParamValidationError as error:
        raise EntryRefusedError(f"OpsCenter cannot take it: {error}") from error
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in {"OpsItemAlreadyExistsException", "OpsItemNotFoundException"}:
            raise
        if code in _REFUSALS:
            raise EntryRefusedError(f"OpsCenter refused it: {error}") from error
        raise SinkUnavailableError(f"OpsCenter did not take it: {error}") from error
    except BotoCoreError as error:
        raise SinkUnavailableError(f"OpsCenter did not answer: {error}") from error


def _key(entry: Entry) -> str:
    """Of an entry's text in the operational data: later entries sort behind."""
    return f"{COMMENT_PREFIX}{entry.sequence:08d}-{entry.idempotency_key}"


def _size(data: Data) -> int:
    return sum(len(key.encode()) + len(value.get("Value", "").encode()) for key, value in data.items())


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 4]} ..."


def _short_bytes(text: str, length: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= length else f"{encoded[: length - 4].decode(errors='ignore')} ..."
