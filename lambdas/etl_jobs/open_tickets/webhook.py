"""A generic webhook, signed as Standard Webhooks says, with an `Idempotency-Key`.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import urllib3
from botocore.exceptions import BotoCoreError, ClientError

from overcut.etl_jobs.tickets import Entry, EntryRefusedError, SinkUnavailableError
from overcut.plain_text import visible

TIMEOUT = urllib3.Timeout(connect=3.0, read=10.0)
_SECRET_PREFIX = "whsec_"  # noqa: S105 - how Standard Webhooks marks a secret, not one
# what is wrong with the request itself; whatever else a server says may change when somebody mends something
_REFUSALS = frozenset({400, 413, 415, 422})
# more than a day ahead would be no answer to "when"
_LONGEST_PAUSE = timedelta(days=1)
# so much of an answer is read, and of a refusal shown
_ANSWER_BYTES, _SHOWN_CHARACTERS = 64 * 1024, 300
_FIGURES = (
    "judgement",
    "started_at",
    "recorded_at",
    "records_processed",
    "usual_records",
    "run_time_seconds",
    "usual_seconds",
    "anomaly_score",
    "score_cutoff",
    "feature",
    "deviations",
    "time_zone",
    "schedule",
    "model_version",
)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    retry_after: str
    body: bytes


class WebhookSink:
    """A `TicketSink`. TLS is verified and a redirect is not followed: the secret's owner is who was named.

    Args:
        secret: reads the signing secret, `whsec_` and its base64; kept until the server does not accept it.
        clock: the present, which the signature holds.
        timeout: of one request.
    """

    def __init__(
        self,
        *,
        url: str,
        secret: Callable[[], str],
        clock: Callable[[], datetime],
        timeout: urllib3.Timeout = TIMEOUT,
    ) -> None:
        self._url = url
        self._secret = secret
        self._clock = clock
        self._timeout = timeout
        self._pool = urllib3.PoolManager(retries=False)
        self._key: bytes | None = None

    def open(self, entry: Entry) -> str:
        return self._tell(entry, "")

    def comment(self, entry: Entry, reference: str) -> str:
        return self._tell(entry, reference)

    def close(self, entry: Entry, reference: str) -> str:
        return self._tell(entry, reference)

    def _tell(self, entry: Entry, reference: str) -> str:
        """Post the entry; a secret that is refused is read again, and used when it has changed."""
        body = _body(entry, reference)
        known = self._key
        key = self._key = known or self._read_key()
        answer = self._post(body, key, entry.idempotency_key)
        if answer.status == 401:
            self._key = None
            if known is not None and (fresh := self._read_key()) != known:
                self._key = fresh
                answer = self._post(body, fresh, entry.idempotency_key)
        self._check(answer)
        return _reference(answer.body) or reference or entry.idempotency_key

    def _post(self, body: bytes, key: bytes, idempotency_key: str) -> _Answer:
        timestamp = int(self._clock().timestamp())
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": idempotency_key,
            "webhook-id": idempotency_key,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(key, idempotency_key, timestamp, body),
        }
        try:
            response = self._pool.request(
                "POST",
                self._url,
                body=body,
                headers=headers,
                redirect=False,
                retries=False,
                timeout=self._timeout,
                preload_content=False,
            )
            said = response.read(_ANSWER_BYTES, decode_content=True)
            # with an answer longer than that, the connection is of no more use
            response.close() if len(said) == _ANSWER_BYTES else response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise SinkUnavailableError(f"the webhook did not answer: {error}") from error
        return _Answer(response.status, response.headers.get("Retry-After", ""), said)

    def _check(self, answer: _Answer) -> None:
        if 200 <= answer.status < 300:
            return
        said = visible(answer.body.decode(errors="replace"))[:_SHOWN_CHARACTERS]
        message = f"the webhook answered {answer.status}: {said}"
        if answer.status in _REFUSALS:
            raise EntryRefusedError(message)
        raise SinkUnavailableError(message, _retry_after(answer.retry_after, self._clock()))

    def _read_key(self) -> bytes:
        try:
            return signing_key(self._secret())
        except (ClientError, BotoCoreError) as error:
            raise SinkUnavailableError(f"the webhook's secret cannot be read: {error}") from error


def signing_key(secret: str) -> bytes:
    """The key in a secret, which is `whsec_` and the key in base64.

    Raises:
        SinkUnavailableError: there is none in it; a person has to mend the secret.
    """
    try:
        key = base64.b64decode(secret.strip().removeprefix(_SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise SinkUnavailableError(f"the webhook's secret must be {_SECRET_PREFIX} and the key in base64")
    return key


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The symmetric signature, version 1, of a message sent at `timestamp` (seconds since 1970)."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


def _body(entry: Entry, reference: str) -> bytes:
    """The same bytes for an entry at every attempt, so that a server may compare them."""
    verdict = json.loads(entry.verdict.to_json())
    return json.dumps(
        {
            "action": entry.action,
            "deduplication_key": entry.deduplication_key,
            "reference": reference,
            "title": entry.title,
            "body": entry.body,
            "job_name": entry.job_name,
            "run_id": entry.run_id,
            "kind": entry.kind,
            "figures": {name: verdict[name] for name in _FIGURES},
        }
    ).encode()


def _reference(body: bytes) -> str:
    """What the server calls the ticket, when it says so: its JSON `id`, else `url`."""
    try:
        answer = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(answer, dict):
        return ""
    named = next((str(answer[name]) for name in ("id", "url") if isinstance(answer.get(name), str | int)), "")
    return visible(named)[:1024]


def _retry_after(value: str, now: datetime) -> timedelta | None:
    """RFC 9110, 10.2.3: seconds, or a date; None when there is none, or it cannot be read."""
    try:
        if value.strip().isdecimal():
            asked = timedelta(seconds=min(int(value), 10**6))
        else:
            asked = parsedate_to_datetime(value).replace(tzinfo=UTC) - now
    except (ValueError, OverflowError, TypeError):
        return None
    return min(max(asked, timedelta(0)), _LONGEST_PAUSE)
