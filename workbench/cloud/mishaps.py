"""A rough cloud, for a soak: calls of functions and jobs are refused at random, or take effect and go unanswered.

Only where the state folder holds `mishaps.json` before the cloud starts: `{"refused": 0.01, "unanswered": 0.002}`, as
shares of all calls. What happened is kept in `mishaps.jsonl`, a line each.
"""

import functools
import json
import random
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ministack import app

Answer = tuple[int, dict[str, str], bytes]
Handler = Callable[[str, str, dict[str, str], bytes, Mapping[str, Any]], Awaitable[Answer]]

_XML = "<{0}Response><Error><Type>{1}</Type><Code>{2}</Code><Message>mishap</Message></Error></{0}Response>"
_REFUSED: Mapping[str, Answer] = {
    "dynamodb": (
        400,
        {"Content-Type": "application/x-amz-json-1.0"},
        json.dumps({"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException", "message": "mishap"}).encode(),
    ),
    "s3": (503, {"Content-Type": "application/xml"}, b"<Error><Code>SlowDown</Code><Message>mishap</Message></Error>"),
    "sns": (400, {"Content-Type": "text/xml"}, _XML.format("Error", "Sender", "Throttling").encode()),
}
_UNANSWERED: Mapping[str, Answer] = {
    "dynamodb": (
        500,
        {"Content-Type": "application/x-amz-json-1.0"},
        json.dumps({"__type": "com.amazonaws.dynamodb.v20120810#InternalServerError", "message": "mishap"}).encode(),
    ),
    "s3": (
        500,
        {"Content-Type": "application/xml"},
        b"<Error><Code>InternalError</Code><Message>mishap</Message></Error>",
    ),
    "sns": (500, {"Content-Type": "text/xml"}, _XML.format("Error", "Receiver", "InternalError").encode()),
}


def register(state: Path) -> None:
    """Stand before the services, if the state folder asks for it."""
    asked = state / "mishaps.json"
    if not asked.exists():
        return
    shares, kept = json.loads(asked.read_text()), state / "mishaps.jsonl"
    kept.unlink(missing_ok=True)
    for service in _REFUSED:
        app.SERVICE_HANDLERS[service] = functools.partial(_handle, service, app.SERVICE_HANDLERS[service], shares, kept)


async def _handle(
    service: str,
    handler: Handler,
    shares: Mapping[str, float],
    kept: Path,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    query: Mapping[str, Any],
) -> Answer:
    drawn = random.random()
    # whoever comes with the cloud's own keys is a person, or the deployment
    if "Credential=test/" in headers.get("authorization", "") or drawn > shares["refused"] + shares["unanswered"]:
        return await handler(method, path, headers, body, query)
    is_refused = drawn < shares["refused"]
    what = {"service": service, "operation": _operation(service, method, headers, body), "is_refused": is_refused}
    with kept.open("a") as file:
        file.write(json.dumps(what) + "\n")
    if not is_refused:
        await handler(method, path, headers, body, query)
    status, own_headers, own_body = (_REFUSED if is_refused else _UNANSWERED)[service]
    return status, dict(own_headers), own_body


def _operation(service: str, method: str, headers: Mapping[str, str], body: bytes) -> str:
    if service == "dynamodb":
        return headers.get("x-amz-target", "").rpartition(".")[2]
    if service == "sns":
        return urllib.parse.parse_qs(body.decode()).get("Action", [""])[0]
    return method
