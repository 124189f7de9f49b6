"""Faults, one at a time or two, in the way of every call that a function makes.

What stands between the SDK and moto here, and between urllib3 and a webhook, sees each call, and can stop the process
there, refuse the call, or lose it or its answer. The SDK's own retries are at work; only their waits are left out.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import botocore.endpoint
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError
from botocore.signers import RequestSigner
from botocore.useragent import UserAgentString
from moto.core import responses
from moto.core.botocore_stubber import BotocoreStubber, MockRawResponse
from moto.core.parse import JSONParser
from moto.core.serialize import BaseJSONSerializer
from moto.core.utils import method_names_from_class
from moto.dynamodb.models.dynamo_type import DynamoType

from lambdas.runtime import dynamodb

Answer = tuple[int, Mapping[str, Any], str | bytes]


class Kind(StrEnum):
    """What becomes of a call. Where it does not say `for good`, what repeats the call finds all well."""

    STOPPED_BEFORE = "stopped before"
    STOPPED_AFTER = "stopped after"
    THROTTLED = "throttled"
    THROTTLED_FOR_GOOD = "throttled for good"
    UNREACHED = "unreached"
    FAILED = "failed for good"
    ANSWER_LOST = "answer lost"
    ANSWER_LOST_FOR_GOOD = "answer lost for good"
    UNPROCESSED = "unprocessed"
    UNPROCESSED_FOR_GOOD = "unprocessed for good"
    CONFLICT = "conflict with a transaction"
    OVERTAKEN = "overtaken by another instance"


# A call that only reads can be stopped before, throttled for a moment, and fail. Stopped after it is stopped before the
# next one, and to the SDK a throttle, a timeout and a lost answer of it are one thing.
_ANY = frozenset({Kind.STOPPED_BEFORE, Kind.THROTTLED, Kind.FAILED})
_WRITING = frozenset(
    {
        Kind.STOPPED_AFTER,
        Kind.THROTTLED_FOR_GOOD,
        Kind.UNREACHED,
        Kind.ANSWER_LOST,
        Kind.ANSWER_LOST_FOR_GOOD,
        Kind.OVERTAKEN,
    }
)
# of batches
BATCH = frozenset({Kind.UNPROCESSED, Kind.UNPROCESSED_FOR_GOOD})
_READS = ("Get", "Query", "Scan", "BatchGet", "List", "Describe")
# DynamoDB repeats nothing of its own accord when another transaction holds the item
_MAY_CONFLICT = frozenset({"UpdateItem", "PutItem", "DeleteItem", "TransactWriteItems"})
_THROTTLES = {
    "dynamodb": (400, "ProvisionedThroughputExceededException"),
    "s3": (503, "SlowDown"),
    "sns": (400, "Throttling"),
    "sqs": (400, "RequestThrottled"),
    "secrets-manager": (400, "ThrottlingException"),
    "ssm": (400, "ThrottlingException"),
    "glue": (400, "ThrottlingException"),
}


class Stopped(BaseException):
    """The process is gone; nothing catches that."""


@dataclass(frozen=True)
class Call:
    """One call of a function, whatever the SDK made of it.

    Attributes:
        asked: the request of a service that speaks JSON; empty for others.
    """

    service: str
    operation: str
    kinds: frozenset[Kind]
    asked: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @property
    def name(self) -> str:
        return f"{self.service} {self.operation}"


@dataclass(frozen=True)
class Fault:
    """A kind of fault at a function's n-th call, counted from 0."""

    number: int
    kind: Kind


@dataclass(frozen=True)
class Published:
    """A text that SNS took."""

    contact_id: str
    body: str
    message_id: str


@dataclass(frozen=True)
class Ways:
    """What a call does, and how its protocol tells that something went wrong."""

    take: Callable[[], Any]
    throttled: Callable[[], Any]
    failed: Callable[[], Any]
    unreached: Exception
    lost: Exception
    partly: Callable[[], Any]
    unprocessed: Callable[[], Any]
    conflict: Callable[[], Any]


class Injector:
    """Sees every call, and spoils one, or two.

    Attributes:
        calls: those of the invocations so far, in order; what the SDK repeats is one call.
        struck: the faults that happened, in order.
        published: every text that SNS took.
        others: who answers in moto's place, by service: given the operation and the request's body.
        cold_start: forgets what a process had in memory.
    """

    def __init__(self, fault: Fault | None = None, then: Fault | None = None) -> None:
        """Args:
        fault: what is to happen; None only counts.
        then: what is to happen after it; its number counts the later calls that can be of its kind, from 0.
        """
        self.calls: list[Call] = []
        self.struck: list[Fault] = []
        self._kinds = {fault.number: fault.kind} if fault else {}
        self._then = then
        self.published: list[Published] = []
        self.others: dict[str, Callable[[str, bytes], Answer]] = {}
        self.cold_start: Callable[[], None] = lambda: None
        self._rival: Callable[[], object] = lambda: None
        self._numbers: dict[str, int] = {}
        self._by_token: dict[str, Answer] = {}
        self._is_armed = self._is_dead = False
        self._unprocessed = ""
        self._counting, self._moto = threading.Lock(), threading.Lock()

    def invoke(self, call: Callable[[], object], *, owing: type[Exception] | None = None) -> bool:
        """Run a function once; whether it succeeded. A process that was stopped is followed by a fresh one.

        Args:
            owing: the error by which a function says that it is to be run again.

        Raises:
            Exception: the function failed without a fault.
        """
        struck = len(self.struck)
        self._rival = call
        self._is_armed = True
        try:
            call()
        except Stopped:
            self.cold_start()
            return False
        except Exception as error:
            if len(self.struck) == struck and not (owing and isinstance(error, owing)):
                raise
            return False
        finally:
            self._is_armed = self._is_dead = False
            self._unprocessed = ""
        return True

    # --- in the way ---

    def through(self, call: Call, key: str, ways: Ways) -> Any:
        """One attempt of a call; attempts with the same key are one call."""
        if not self._is_armed:
            return ways.take()
        if self._is_dead:
            raise Stopped
        with self._counting:
            is_repeated = key in self._numbers
            number = self._numbers.setdefault(key, len(self.calls))
            if not is_repeated:
                self.calls.append(call)
                self._place_second(number, call)
        if self._unprocessed == call.name:
            return ways.unprocessed()
        kind = self._kinds.get(number)
        if kind is None:
            return ways.take()
        if not is_repeated:
            self.struck.append(Fault(number, kind))
        return self._strike(kind, call, ways, is_repeated)

    def _place_second(self, number: int, call: Call) -> None:
        if self._then is None or not self.struck or self._then.kind not in call.kinds:
            return
        if self._then.number == 0:
            self._kinds[number], self._then = self._then.kind, None
        else:
            self._then = replace(self._then, number=self._then.number - 1)

    def _strike(self, kind: Kind, call: Call, ways: Ways, is_repeated: bool) -> Any:
        assert kind in call.kinds, f"{call.name} cannot be {kind}"
        match kind:
            case Kind.STOPPED_BEFORE:
                self._is_dead = True
                raise Stopped
            case Kind.STOPPED_AFTER:
                ways.take()
                self._is_dead = True
                raise Stopped
            case Kind.THROTTLED_FOR_GOOD:
                return ways.throttled()
            case Kind.FAILED:
                return ways.failed()
            case Kind.ANSWER_LOST_FOR_GOOD:
                ways.take()
                raise ways.lost
            case Kind.UNPROCESSED_FOR_GOOD:
                self._unprocessed = call.name
                return ways.unprocessed()
        if is_repeated:
            return ways.take()
        match kind:
            case Kind.THROTTLED:
                return ways.throttled()
            case Kind.UNREACHED:
                raise ways.unreached
            case Kind.ANSWER_LOST:
                ways.take()
                raise ways.lost
            case Kind.UNPROCESSED:
                return ways.partly()
            case Kind.CONFLICT:
                return ways.conflict()
            case Kind.OVERTAKEN:
                self._overtake()
                return ways.take()
        raise AssertionError(kind)

    def _overtake(self) -> None:
        """Another instance does all of the same before this one goes on."""
        self._is_armed = False
        self.cold_start()
        try:
            self._rival()
        finally:
            self.cold_start()
            self._is_armed = True

    # --- the SDK's protocols ---

    def answer(self, event_name: str, request: AWSPreparedRequest) -> AWSResponse:
        """What botocore asks before it sends anything: `before-send.<service>.<operation>`."""
        _, service, operation = event_name.split(".")
        body = _bytes(request.body)
        asked = _json(body)

        def respond(answer: Answer) -> AWSResponse:
            status, headers, content = answer
            return AWSResponse(request.url, status, headers, MockRawResponse(content))  # type: ignore[arg-type]

        def take(changed: Mapping[str, Any] | None = None) -> Answer:
            sent = request
            if changed is not None:
                sent = AWSPreparedRequest(
                    request.method, request.url, request.headers, json.dumps(changed).encode(), stream_output=False
                )
            return self._take(service, operation, sent)

        def refuse(status: int, code: str, **more: object) -> Callable[[], AWSResponse]:
            return lambda: respond((status, {}, _error(service, code, more)))

        def partly() -> AWSResponse:
            some, rest = _halves(operation, asked)
            if not some:
                return respond((200, {}, json.dumps(rest)))
            status, _, content = take(some)
            assert status == 200, content
            return respond((status, {}, json.dumps({**json.loads(content), **rest})))

        throttle = _THROTTLES[service]
        reasons = [{"Code": "TransactionConflict"}]
        conflict = ("TransactionCanceledException", {"CancellationReasons": reasons})
        if operation != "TransactWriteItems":
            conflict = ("TransactionConflictException", {})
        ways = Ways(
            take=lambda: respond(take()),
            throttled=refuse(*throttle),
            failed=refuse(500, "InternalServerError"),
            unreached=ConnectTimeoutError(endpoint_url=request.url),
            lost=ReadTimeoutError(endpoint_url=request.url),
            partly=partly,
            unprocessed=lambda: respond((200, {}, json.dumps(_unprocessed(operation, asked)))),
            conflict=refuse(400, conflict[0], **conflict[1]),
        )
        call = Call(service, operation, _kinds(service, operation), asked)
        answer: AWSResponse = self.through(call, _text(request.headers["amz-sdk-invocation-id"]), ways)
        return answer

    def _take(self, service: str, operation: str, request: AWSPreparedRequest) -> Answer:
        body = _bytes(request.body)
        token = _json(body).get("ClientRequestToken", "") if operation == "TransactWriteItems" else ""
        if token in self._by_token:  # AWS answers a repeated transaction as it did the first time; moto does not
            return self._by_token[token]
        with self._moto:
            if service in self.others:
                return self.others[service](operation, body)
            answer = BotocoreStubber().process_request(request)
        assert answer is not None, request.url
        if token and int(answer[0]) == 200:
            self._by_token[token] = answer
        if operation == "Publish" and int(answer[0]) == 200:
            self.published.append(_published(body, answer[2]))
        return answer


@contextmanager
def in_the_way(injector: Injector, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every call of the SDK go through an injector; under `moto.mock_aws`."""
    no_wait = SimpleNamespace(sleep=lambda seconds: None)

    def answer(stubber: object, event_name: str, request: AWSPreparedRequest, **kwargs: Any) -> AWSResponse:
        return injector.answer(event_name, request)

    with patch.context() as patched:
        patched.setattr(BotocoreStubber, "__call__", answer)
        patched.setattr(botocore.endpoint, "time", no_wait)
        patched.setattr(dynamodb, "time", no_wait)
        _sign_nothing(patched)
        hurry(patched)
        yield


def _sign_nothing(patch: pytest.MonkeyPatch) -> None:
    """Spare the SDK what nobody reads here: signatures, and who it is."""
    signed: Any = RequestSigner.sign

    def sign(signer: RequestSigner, operation: str, request: AWSRequest, **given: Any) -> None:
        if signer.signing_name == "s3":  # whose signature says how the body is sent
            signed(signer, operation, request, **given)
        else:
            request.headers["Authorization"] = "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/any/aws4_request"

    patch.setattr(RequestSigner, "sign", sign)
    patch.setattr(UserAgentString, "to_string", lambda agent: "tests")


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Spare moto the walk through the model of every single attribute value, which takes most of its time."""
    parse: Any = JSONParser._parse_shape
    serialize: Any = BaseJSONSerializer._serialize_type_structure

    def parse_shape(parser: Any, shape: Any, node: Any) -> Any:
        return node if shape.name == "AttributeValue" else parse(parser, shape, node)

    def serialize_structure(serializer: Any, serialized: Any, value: Any, shape: Any, key: str) -> None:
        if shape.name == "AttributeValue":
            serialized[serializer.get_serialized_name(shape, key)] = _plain(value)
        else:
            serialize(serializer, serialized, value, shape, key)

    patch.setattr(responses, "method_names_from_class", cache(method_names_from_class))
    patch.setattr(JSONParser, "_parse_shape", parse_shape)
    patch.setattr(BaseJSONSerializer, "_serialize_type_structure", serialize_structure)


def _plain(value: Any) -> Any:
    """An attribute value as JSON, of whichever of moto's own types."""
    if isinstance(value, DynamoType):
        return _plain(value.to_regular_json())
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _kinds(service: str, operation: str) -> frozenset[Kind]:
    kinds = _ANY if operation.startswith(_READS) else _ANY | _WRITING
    if operation in {"BatchWriteItem", "BatchGetItem", "BatchCreatePartition"}:
        kinds |= BATCH
    if service == "dynamodb" and operation in _MAY_CONFLICT:
        kinds |= {Kind.CONFLICT}
    return kinds


def _error(service: str, code: str, more: Mapping[str, object]) -> str:
    if service == "s3":
        return f"<Error><Code>{code}</Code><Message>told so</Message></Error>"
    if service == "sns":
        error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>told so</Message></Error>"
        return f'<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/">{error}</ErrorResponse>'
    return json.dumps({"__type": f"com.amazonaws#{code}", "message": "told so", **more})


def _unprocessed(operation: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    if operation == "BatchCreatePartition":
        return _refused(asked["PartitionInputList"])
    if operation == "BatchWriteItem":
        return {"UnprocessedItems": asked["RequestItems"]}
    return {"Responses": {}, "UnprocessedKeys": asked["RequestItems"]}


def _halves(operation: str, asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first half of a batch as a request, and the rest as an answer tells it; of one item, all is the rest."""
    if operation == "BatchCreatePartition":
        days = asked["PartitionInputList"]
        half = len(days) // 2
        some = {**asked, "PartitionInputList": days[:half]}
        return (some if half else {}), _refused(days[half:])
    ((table, items),) = asked["RequestItems"].items()
    if operation == "BatchWriteItem":
        half = len(items) // 2
        some, rest = items[:half], {"UnprocessedItems": {table: items[half:]}}
    else:
        half = len(items["Keys"]) // 2
        some = {**items, "Keys": items["Keys"][:half]}
        rest = {"UnprocessedKeys": {table: {**items, "Keys": items["Keys"][half:]}}}
    return ({"RequestItems": {table: some}}, rest) if half else ({}, _unprocessed(operation, asked))


def _refused(partitions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How Glue tells of what of a batch it did not take."""
    detail = {"ErrorCode": "InternalServiceException", "ErrorMessage": "told so"}
    return {"Errors": [{"PartitionValues": one["Values"], "ErrorDetail": detail} for one in partitions]}


def _published(body: bytes, answer: str | bytes) -> Published:
    asked = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    attributes = {
        asked[name]: asked[name.replace(".Name", ".Value.StringValue")] for name in asked if name.endswith(".Name")
    }
    told = answer if isinstance(answer, str) else answer.decode()
    message_id = told.partition("<MessageId>")[2].partition("</MessageId>")[0]
    return Published(attributes["contact_id"], asked["Message"], message_id)


def _bytes(body: Any) -> bytes:
    if hasattr(body, "read"):
        content: bytes = body.read()
        body.seek(0)
        return content
    return body.encode() if isinstance(body, str) else bytes(body or b"")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _json(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except ValueError:
        return {}
    return asked if isinstance(asked, dict) else {}
