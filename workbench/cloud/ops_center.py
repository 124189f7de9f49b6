"""OpsCenter on the embedded cloud: the OpsItems of Systems Manager. The rest of that service is ministack's."""

import functools
import json
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from workbench.cloud.service_model import ApiError, Document, ServiceModel

MODEL = ServiceModel("ssm")

_OPERATIONS = frozenset({"CreateOpsItem", "GetOpsItem", "UpdateOpsItem", "DescribeOpsItems"})
_DEDUP = "/aws/dedup"
_OWN_KEYS = frozenset({_DEDUP, "/aws/resources", "/aws/automations"})
_RESERVED = ("amazon", "aws", "amzn", "ssm", "/amazon", "/aws", "/amzn", "/ssm")
_MOST_DATA_BYTES = 20 * 1024
_UNRESOLVED = frozenset({"Open", "InProgress"})
_STATUSES = _UNRESOLVED | {"Resolved"}
_TITLE_FILTER_LENGTH = 100
# which filters there are, and what each can do, by the API reference
_FILTERS = {
    "Status": {"Equal"},
    "Source": {"Equal", "Contains"},
    "Title": {"Equal", "Contains"},
    "Priority": {"Equal"},
    "Severity": {"Equal"},
    "Category": {"Equal"},
    "OpsItemId": {"Equal"},
    "OperationalData": {"Equal"},
    "OperationalDataKey": {"Equal"},
    "OperationalDataValue": {"Equal", "Contains"},
}

Handler = Callable[[str, str, dict[str, str], bytes, Document], Awaitable[tuple[int, dict[str, str], bytes]]]


def register() -> None:
    """Serve OpsCenter, and pass on every other request for Systems Manager."""
    # ministack reads its environment while it is imported; the OpsItems alone do without
    from ministack import app
    from ministack.core.responses import get_account_id, get_region

    ops_items = OpsItems(lambda: f"arn:aws:ssm:{get_region()}:{get_account_id()}:opsitem/")
    app.SERVICE_HANDLERS["ssm"] = functools.partial(_handle, ops_items, app.SERVICE_HANDLERS["ssm"])


class OpsItemExistsError(ApiError):
    """An unresolved OpsItem has the same deduplication string."""

    def __init__(self, ops_item_id: str) -> None:
        super().__init__("OpsItemAlreadyExistsException", f"An OpsItem with the same string exists: {ops_item_id}")
        self.ops_item_id = ops_item_id


class OpsItems:
    """Every OpsItem of one cloud.

    Args:
        arns: what an OpsItem's ARN begins with.
    """

    def __init__(self, arns: Callable[[], str]) -> None:
        self._arns = arns
        self._items: dict[str, Document] = {}
        self._lock = threading.Lock()
        self._operations: dict[str, Callable[[Document], Document]] = {
            "CreateOpsItem": self._create,
            "GetOpsItem": self._get,
            "UpdateOpsItem": self._update,
            "DescribeOpsItems": self._describe,
        }

    def answer(self, operation: str, request: Document) -> Document:
        """The response to a request.

        Raises:
            ApiError: the model or the state of the OpsItems does not allow it.
        """
        if operation not in _OPERATIONS:
            raise ApiError("UnknownOperationException", f"{operation} is not served by the embedded cloud.")
        MODEL.check(operation, request)
        with self._lock:
            return MODEL.response(operation, self._operations[operation](request))

    def respond(self, operation: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer, a refusal among them."""
        status = 200
        try:
            answer = self.answer(operation, json.loads(body or b"{}"))
        except OpsItemExistsError as error:
            status, answer = 400, {"__type": error.code, "Message": str(error), "OpsItemId": error.ops_item_id}
        except ApiError as error:
            status, answer = 400, {"__type": error.code, "Message": str(error)}
        return status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(answer).encode()

    def _create(self, request: Document) -> Document:
        data = request.get("OperationalData", {})
        _check_data(data)
        wanted = _dedup_hash(data)
        for ops_item_id, item in self._items.items():
            known = _dedup_hash(item["OperationalData"])
            if wanted is not None and wanted == known and item["Status"] in _UNRESOLVED:
                raise OpsItemExistsError(ops_item_id)
        ops_item_id, now = f"oi-{secrets.token_hex(6)}", time.time()
        self._items[ops_item_id] = {
            **{name: value for name, value in request.items() if name not in {"Tags", "AccountId"}},
            "OpsItemType": request.get("OpsItemType", "/aws/issue"),
            "OpsItemId": ops_item_id,
            "OpsItemArn": f"{self._arns()}{ops_item_id}",
            "OperationalData": dict(data),
            "Status": "Open",
            "Version": "1",
            "CreatedTime": now,
            "LastModifiedTime": now,
        }
        return {"OpsItemId": ops_item_id, "OpsItemArn": self._items[ops_item_id]["OpsItemArn"]}

    def _get(self, request: Document) -> Document:
        return {"OpsItem": self._named(request["OpsItemId"])}

    def _update(self, request: Document) -> Document:
        item = self._named(request["OpsItemId"])
        if request.get("Status", "Open") not in _STATUSES:
            raise ApiError("OpsItemInvalidParameterException", f"Status is none of {', '.join(sorted(_STATUSES))}.")
        changed = request.get("OperationalData", {})
        if _DEDUP in {*changed, *request.get("OperationalDataToDelete", [])}:
            raise ApiError("OpsItemInvalidParameterException", f"{_DEDUP} of an OpsItem cannot be changed.")
        data = {**item["OperationalData"], **changed}
        for key in request.get("OperationalDataToDelete", []):
            data.pop(key, None)
        _check_data(data)
        fields = {
            name: value for name, value in request.items() if name not in {"OpsItemId", "OperationalDataToDelete"}
        }
        self._items[request["OpsItemId"]] = {
            **item,
            **fields,
            "OperationalData": data,
            "Version": str(int(item["Version"]) + 1),
            "LastModifiedTime": time.time(),
        }
        return {}

    def _describe(self, request: Document) -> Document:
        filters = request.get("OpsItemFilters", [])
        for one in filters:
            if one["Operator"] not in _FILTERS.get(one["Key"], ()):
                raise ApiError("ValidationException", f"{one['Key']} {one['Operator']} is not served here.")
            if one["Key"] == "Title" and any(len(value) > _TITLE_FILTER_LENGTH for value in one["Values"]):
                raise ApiError("ValidationException", "The filter value exceeds the length limit.")
        found = [item for item in self._items.values() if all(_passes(item, one) for one in filters)]
        found.sort(key=lambda item: (item["CreatedTime"], item["OpsItemId"]), reverse=True)
        first = int(request.get("NextToken", 0))
        after = first + request.get("MaxResults", 50)
        more = {"NextToken": str(after)} if after < len(found) else {}
        shown = [{**item, "OperationalData": _searchable(item)} for item in found[first:after]]
        return {"OpsItemSummaries": shown, **more}

    def _named(self, ops_item_id: str) -> Document:
        if ops_item_id not in self._items:
            raise ApiError("OpsItemNotFoundException", f"OpsItem {ops_item_id} was not found.")
        return self._items[ops_item_id]


def _check_data(data: Document) -> None:
    for key in data:
        if key.lower().startswith(_RESERVED) and key not in _OWN_KEYS:
            raise ApiError("OpsItemInvalidParameterException", f"Operational data may not have the key {key!r}.")
    if sum(len(key.encode()) + len(value.get("Value", "").encode()) for key, value in data.items()) > _MOST_DATA_BYTES:
        raise ApiError("OpsItemLimitExceededException", "Operational data may have 20 KB.")


def _dedup_hash(data: Document) -> tuple[str, str] | None:
    """What two OpsItems are the same by: the string, in any case, and the resources it is about."""
    if _DEDUP not in data:
        return None
    try:
        return json.loads(data[_DEDUP]["Value"])["dedupString"].lower(), data.get("/aws/resources", {}).get("Value", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ApiError("OpsItemInvalidParameterException", f"{_DEDUP} must hold a dedupString.") from None


def _searchable(item: Document) -> Document:
    return {key: value for key, value in item["OperationalData"].items() if value.get("Type") == "SearchableString"}


def _passes(item: Document, one: Document) -> bool:
    return any(_fits(item, one["Key"], value, one["Operator"]) for value in one["Values"])


def _fits(item: Document, key: str, wanted: str, operator: str) -> bool:
    searchable = {name: value.get("Value", "") for name, value in _searchable(item).items()}
    if key == "OperationalData":
        try:
            pair: Any = json.loads(wanted)
            return pair["key"] in searchable and bool(searchable[pair["key"]] == pair["value"])
        except (ValueError, KeyError, TypeError):
            raise ApiError("ValidationException", 'OperationalData must be {"key": ..., "value": ...}.') from None
    if key == "OperationalDataKey":
        return wanted in searchable
    values = searchable.values() if key == "OperationalDataValue" else [str(item.get(key, ""))]
    return any(wanted == value if operator == "Equal" else wanted in value for value in values)


async def _handle(
    ops_items: OpsItems, rest: Handler, method: str, path: str, headers: dict[str, str], body: bytes, query: Document
) -> tuple[int, dict[str, str], bytes]:
    operation = headers.get("x-amz-target", "").rpartition(".")[2]
    if operation not in _OPERATIONS:
        return await rest(method, path, headers, body, query)
    return ops_items.respond(operation, body)
