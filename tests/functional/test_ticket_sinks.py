"""Both sinks against servers that speak their protocols, and that fail as servers do: a ticket exists once."""

import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import urllib3
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lambdas.etl_jobs.open_tickets.ops_center import ONCE, OpsCenterSink
from lambdas.etl_jobs.open_tickets.webhook import WebhookSink, signature, signing_key
from overcut.etl_jobs.tickets import (
    Entry,
    EntryRefusedError,
    Sending,
    Sent,
    SinkUnavailableError,
    TicketSink,
    send_entries,
)
from overcut.etl_jobs.verdicts import Judgement
from tests.etl_fakes import NOW, MemoryTicketStore, changes_of, verdict
from tests.functional.faulty_server import Answer, Fault, FaultyServer, faulty_server
from workbench.cloud.ops_center import OpsItems

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OPENED, COMMENTED, CLOSED = (
    change.entry for change in changes_of(verdict(0), verdict(1), verdict(2, Judgement.HEALTHY))
)


def attempted(entry: Entry, attempts: int = 1) -> Entry:
    return replace(entry, attempts=attempts)


class Delivery:
    """One ticket's three entries on their way to a sink."""

    def __init__(self, sink: TicketSink) -> None:
        self.sink = sink
        self.store = MemoryTicketStore()
        self.now = NOW
        for change in changes_of(verdict(0), verdict(1), verdict(2, Judgement.HEALTHY)):
            self.store.apply(change)

    def send(self) -> Sent:
        return send_entries(
            self.store.owed(),
            store=self.store,
            sink=self.sink,
            clock=lambda: self.now,
            has_time=lambda: True,
            sending=Sending(timedelta(seconds=90), timedelta(hours=24)),
        )

    def send_the_rest(self) -> None:
        """Try again until nothing is owed: on a busy machine a call may time out that was not meant to."""
        for _ in range(5):
            self.now += timedelta(minutes=10)
            if not self.send().owed:
                return
        raise AssertionError("entries are still owed")


# --- OpsCenter ---


class OpsCenter:
    """The embedded cloud's own OpsCenter, behind a server that fails now and then."""

    def __init__(self, server: FaultyServer, ops_items: OpsItems) -> None:
        self.server = server
        self._ops_items = ops_items

    def ask(self, operation: str, **request: Any) -> Any:
        """Straight to it, as another person would."""
        return self._ops_items.answer(operation, request)

    def item(self, ops_item_id: str) -> Any:
        return self.ask("GetOpsItem", OpsItemId=ops_item_id)["OpsItem"]

    def all(self) -> list[str]:
        return [found["OpsItemId"] for found in self.ask("DescribeOpsItems")["OpsItemSummaries"]]

    def comments(self, ops_item_id: str) -> list[str]:
        data = self.item(ops_item_id)["OperationalData"]
        return [data[key]["Value"] for key in sorted(data) if key.startswith("overcut/entry-")]


@pytest.fixture
def ops_center() -> Iterator[OpsCenter]:
    ops_items = OpsItems(lambda: "arn:aws:ssm:us-east-1:000000000000:opsitem/")

    def respond(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        return ops_items.respond(headers["x-amz-target"].removeprefix("AmazonSSM."), body)

    with faulty_server(respond) as server:
        yield OpsCenter(server, ops_items)


def ssm_of(url: str) -> "SSMClient":
    session = boto3.session.Session("testing", "testing", region_name="us-east-1")
    hurried = ONCE.merge(Config(connect_timeout=2, read_timeout=0.8))
    return session.client("ssm", endpoint_url=url, config=hurried)


@pytest.fixture
def ops_center_sink(ops_center: OpsCenter) -> Iterator[OpsCenterSink]:
    client = ssm_of(ops_center.server.url)
    yield OpsCenterSink(client, severity="2")
    client.close()


def json_error(status: int, code: str) -> Answer:
    return (
        status,
        {"Content-Type": "application/x-amz-json-1.1"},
        json.dumps({"__type": code, "Message": code}).encode(),
    )


FAULTS = [
    pytest.param(Fault.SILENT, id="timeout"),
    pytest.param(Fault.LATE, id="success answered too late"),
    pytest.param(Fault.RESET, id="connection reset"),
    pytest.param((429, {"Retry-After": "120"}, b"{}"), id="429 with Retry-After"),
    pytest.param((503, {}, b"<html>"), id="503"),
    pytest.param((500, {}, b""), id="500"),
]


@pytest.mark.parametrize("fault", [*FAULTS, pytest.param(json_error(400, "ThrottlingException"), id="throttled")])
@pytest.mark.parametrize("before", range(5))
def test_ops_center_has_a_ticket_once_whatever_fails(
    ops_center: OpsCenter, ops_center_sink: OpsCenterSink, fault: Fault | Answer, before: int
) -> None:
    """Five calls: create, get and update for the comment, get and update for the closing."""
    delivery = Delivery(ops_center_sink)
    ops_center.server.faults = [None] * before + [fault]
    assert delivery.send().owed > 0
    delivery.send_the_rest()
    (ops_item_id,) = ops_center.all()
    assert ops_center.item(ops_item_id)["Status"] == "Resolved"
    assert [comment.partition("\n")[0] for comment in ops_center.comments(ops_item_id)] == [
        "Again: orders_daily loaded 1,204 rows, usually about 120,000",
        "orders_daily is back to usual",
    ]


def test_an_ops_item_holds_what_the_ticket_says(ops_center: OpsCenter, ops_center_sink: OpsCenterSink) -> None:
    item = ops_center.item(ops_center_sink.open(attempted(OPENED)))
    assert item["Title"] == "orders_daily loaded 1,204 rows, usually about 120,000"
    assert item["Description"] == OPENED.body
    assert (item["Source"], item["Severity"], item["Category"]) == ("Overcut", "2", "Performance")
    key = OPENED.idempotency_key
    assert item["OperationalData"]["overcut/idempotency-key"] == {"Value": key, "Type": "SearchableString"}
    assert json.loads(item["OperationalData"]["/aws/dedup"]["Value"]) == {"dedupString": key}


def test_opening_again_finds_one_that_was_resolved_meanwhile(
    ops_center: OpsCenter, ops_center_sink: OpsCenterSink
) -> None:
    other = ops_center_sink.open(attempted(COMMENTED))
    reference = ops_center_sink.open(attempted(OPENED))
    assert ops_center_sink.open(attempted(OPENED)) == reference, "OpsCenter's own deduplication"
    ops_center.ask("UpdateOpsItem", OpsItemId=reference, Status="Resolved")
    assert ops_center_sink.open(attempted(OPENED, 2)) == reference, "the search"
    assert sorted(ops_center.all()) == sorted([reference, other])


def test_a_comment_reopens_what_a_person_resolved_but_not_twice(
    ops_center: OpsCenter, ops_center_sink: OpsCenterSink
) -> None:
    reference = ops_center_sink.open(attempted(OPENED))
    ops_center.ask("UpdateOpsItem", OpsItemId=reference, Status="Resolved")
    assert ops_center_sink.comment(attempted(COMMENTED), reference) == reference
    assert ops_center.item(reference)["Status"] == "Open"
    ops_center.ask("UpdateOpsItem", OpsItemId=reference, Status="Resolved")
    assert ops_center_sink.comment(attempted(COMMENTED, 2), reference) == reference
    assert ops_center.item(reference)["Status"] == "Resolved", "the comment was there"
    assert len(ops_center.comments(reference)) == 1


def test_a_comment_leaves_an_ops_item_in_progress(ops_center: OpsCenter, ops_center_sink: OpsCenterSink) -> None:
    reference = ops_center_sink.open(attempted(OPENED))
    ops_center.ask("UpdateOpsItem", OpsItemId=reference, Status="InProgress")
    ops_center_sink.comment(attempted(COMMENTED), reference)
    assert ops_center.item(reference)["Status"] == "InProgress"


def test_closing_again_leaves_what_a_person_reopened(ops_center: OpsCenter, ops_center_sink: OpsCenterSink) -> None:
    reference = ops_center_sink.open(attempted(OPENED))
    assert ops_center_sink.close(attempted(CLOSED), reference) == reference
    ops_center.ask("UpdateOpsItem", OpsItemId=reference, Status="Open")
    ops_center_sink.close(attempted(CLOSED, 2), reference)
    assert ops_center.item(reference)["Status"] == "Open"


def test_a_comment_on_one_that_is_gone_opens_another_and_closing_it_is_done(
    ops_center: OpsCenter, ops_center_sink: OpsCenterSink
) -> None:
    gone = "oi-0123456789ab"
    another = ops_center_sink.comment(attempted(COMMENTED), gone)
    assert another != gone
    assert ops_center.item(another)["Description"] == COMMENTED.body
    assert ops_center_sink.comment(attempted(COMMENTED, 2), gone) == another
    assert ops_center_sink.close(attempted(CLOSED), gone) == gone
    assert ops_center.all() == [another]


def test_one_that_goes_between_looking_and_writing(ops_center: OpsCenter, ops_center_sink: OpsCenterSink) -> None:
    reference = ops_center_sink.open(attempted(OPENED))
    ops_center.server.faults = [None, json_error(400, "OpsItemNotFoundException")]
    another = ops_center_sink.comment(attempted(COMMENTED), reference)
    assert another != reference
    ops_center.server.faults = [None, json_error(400, "OpsItemNotFoundException")]
    assert ops_center_sink.close(attempted(CLOSED), reference) == reference


@pytest.mark.parametrize("body", ["ä" * 2_000, "short"], ids=["long", "short"])
def test_the_twenty_newest_comments_are_kept(ops_center: OpsCenter, ops_center_sink: OpsCenterSink, body: str) -> None:
    reference = ops_center_sink.open(attempted(OPENED))
    for sequence in range(1, 26):
        one = replace(
            COMMENTED, sequence=sequence, title=f"comment {sequence}", body=body, idempotency_key=f"k{sequence}"
        )
        ops_center_sink.comment(attempted(one), reference)
    kept = ops_center.comments(reference)
    assert [comment.partition("\n")[0] for comment in kept] == [f"comment {k}" for k in range(6, 26)]
    assert all(len(comment.encode()) <= 900 for comment in kept)


def test_what_a_person_put_into_the_operational_data_is_left_alone(
    ops_center: OpsCenter, ops_center_sink: OpsCenterSink
) -> None:
    reference = ops_center_sink.open(attempted(OPENED))
    notes = {"Value": "x" * 15_000, "Type": "String"}
    ops_center.ask("UpdateOpsItem", OpsItemId=reference, OperationalData={"a person's": notes})
    for sequence in range(1, 8):
        long = replace(COMMENTED, sequence=sequence, title=f"comment {sequence}", body="b" * 2_000)
        ops_center_sink.comment(attempted(long), reference)
    assert ops_center.item(reference)["OperationalData"]["a person's"] == notes
    kept = [comment.partition("\n")[0] for comment in ops_center.comments(reference)]
    assert kept == [f"comment {k}" for k in range(4, 8)]


def test_texts_beyond_the_limits_are_shortened(ops_center: OpsCenter, ops_center_sink: OpsCenterSink) -> None:
    long = attempted(replace(OPENED, title="t" * 2_000, body="b" * 9_000))
    item = ops_center.item(ops_center_sink.open(long))
    assert (len(item["Title"]), len(item["Description"])) == (1024, 2048)
    assert item["Description"].endswith("b ...")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (json_error(400, "OpsItemInvalidParameterException"), EntryRefusedError),
        (json_error(400, "ValidationException"), EntryRefusedError),
        (json_error(400, "AccessDeniedException"), SinkUnavailableError),
        (json_error(400, "OpsItemLimitExceededException"), SinkUnavailableError),
        (json_error(400, "OpsItemConflictException"), SinkUnavailableError),
    ],
)
def test_what_ops_center_refuses_for_good(
    ops_center: OpsCenter, ops_center_sink: OpsCenterSink, answer: Answer, error: type[Exception]
) -> None:
    ops_center.server.faults = [answer]
    with pytest.raises(error):
        ops_center_sink.open(attempted(OPENED))
    assert ops_center.server.requests == 1, "the SDK repeats nothing"


def test_an_entry_that_the_sdk_itself_refuses(ops_center_sink: OpsCenterSink) -> None:
    with pytest.raises(EntryRefusedError):
        ops_center_sink.open(attempted(replace(OPENED, body="")))


def test_ops_center_by_its_model(ops_center: OpsCenter) -> None:
    client = ssm_of(ops_center.server.url)

    def create(string: str, **values: Any) -> str:
        dedup = {"/aws/dedup": {"Value": json.dumps({"dedupString": string}), "Type": "SearchableString"}}
        data = {**dedup, **values.pop("data", {})}
        return client.create_ops_item(Source="s", Title="t", Description="d", OperationalData=data, **values)[
            "OpsItemId"
        ]

    def refused(call: Callable[[], object]) -> str:
        with pytest.raises(ClientError) as error:
            call()
        return error.value.response["Error"]["Code"]

    first = create("Same")
    assert refused(lambda: create("sAME")) == "OpsItemAlreadyExistsException"
    client.update_ops_item(OpsItemId=first, Status="InProgress")
    assert refused(lambda: create("same")) == "OpsItemAlreadyExistsException"
    other_resource = create("same", data={"/aws/resources": {"Value": '[{"arn":"a"}]', "Type": "SearchableString"}})
    client.update_ops_item(OpsItemId=first, Status="Resolved")
    again = create("same")
    assert len({first, again, other_resource}) == 3

    assert refused(lambda: create("x", data={"aws-mine": {"Value": "1", "Type": "String"}})) == (
        "OpsItemInvalidParameterException"
    )
    much = {"much": {"Value": "x" * 20_481, "Type": "String"}}
    assert refused(lambda: client.update_ops_item(OpsItemId=again, OperationalData=much)) == (  # type: ignore[arg-type]
        "OpsItemLimitExceededException"
    )
    assert refused(lambda: client.update_ops_item(OpsItemId=again, Status="Scheduled")) == (
        "OpsItemInvalidParameterException"
    )
    assert refused(lambda: client.update_ops_item(OpsItemId=again, OperationalDataToDelete=["/aws/dedup"])) == (
        "OpsItemInvalidParameterException"
    )
    assert refused(lambda: client.get_ops_item(OpsItemId="oi-000000000000")) == "OpsItemNotFoundException"
    assert refused(lambda: client.get_ops_item(OpsItemId="nonsense")) == "ValidationException"
    assert refused(lambda: client.create_ops_item(Source="s", Title="a\nb", Description="d")) == "ValidationException"
    item = client.get_ops_item(OpsItemId=first)["OpsItem"]
    assert (item["Status"], item["Version"], item["OpsItemType"]) == ("Resolved", "3", "/aws/issue")

    page = client.describe_ops_items(MaxResults=2)
    rest = client.describe_ops_items(MaxResults=2, NextToken=page["NextToken"])
    found = [one["OpsItemId"] for one in page["OpsItemSummaries"] + rest["OpsItemSummaries"]]
    assert sorted(found) == sorted([first, again, other_resource])
    assert "NextToken" not in rest
    unresolved = client.describe_ops_items(
        OpsItemFilters=[{"Key": "Status", "Values": ["Open", "InProgress"], "Operator": "Equal"}]
    )["OpsItemSummaries"]
    assert sorted(one["OpsItemId"] for one in unresolved) == sorted([again, other_resource])
    client.close()


# --- webhook ---


class Receiver:
    """A receiver of webhooks that checks signatures and honours the idempotency key, with its own means.

    Attributes:
        tickets: by id, the actions on each.
        bodies: what came, once each.
    """

    def __init__(self) -> None:
        self.secret = SECRET
        self.tickets: dict[str, list[str]] = {}
        self.bodies: dict[str, bytes] = {}
        self.headers: list[dict[str, str]] = []

    def respond(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        key = base64.b64decode(self.secret[len("whsec_") :])
        signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        if headers["webhook-signature"] != f"v1,{expected}":
            return 401, {}, b"bad signature"
        self.headers.append(headers)
        told, name = json.loads(body), headers["idempotency-key"]
        if name in self.bodies and self.bodies[name] != body:
            return 422, {}, b"the key was used for something else"
        ticket = told["reference"] or f"T-{name[:8]}"
        if name not in self.bodies:
            self.bodies[name] = body
            self.tickets.setdefault(ticket, []).append(told["action"])
        return 201, {"Content-Type": "application/json"}, json.dumps({"id": ticket}).encode()


class Hook:
    def __init__(self, server: FaultyServer, receiver: Receiver) -> None:
        self.server, self.receiver = server, receiver
        self.secret, self.secret_reads = SECRET, 0
        self.now = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
        self.sink = WebhookSink(
            url=f"{server.url}/tickets",
            secret=self._read,
            clock=lambda: self.now,
            timeout=urllib3.Timeout(connect=2.0, read=0.8),
        )

    def _read(self) -> str:
        self.secret_reads += 1
        return self.secret


@pytest.fixture
def hook() -> Iterator[Hook]:
    receiver = Receiver()
    with faulty_server(receiver.respond) as server:
        yield Hook(server, receiver)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("before", range(3))
def test_a_webhook_is_told_of_a_ticket_once_whatever_fails(hook: Hook, fault: Fault | Answer, before: int) -> None:
    delivery = Delivery(hook.sink)
    hook.server.faults = [None] * before + [fault]
    assert delivery.send().owed > 0
    delivery.send_the_rest()
    assert list(hook.receiver.tickets.values()) == [["open", "comment", "close"]]


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the reference implementations."""
    signed = signature(signing_key(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_what_a_webhook_is_told(hook: Hook) -> None:
    assert hook.sink.open(attempted(OPENED)) == f"T-{OPENED.idempotency_key[:8]}"
    ((key, body),) = hook.receiver.bodies.items()
    assert key == OPENED.idempotency_key
    assert json.loads(body) == {
        "action": "open",
        "deduplication_key": "orders_daily#unusual_run",
        "reference": "",
        "title": "orders_daily loaded 1,204 rows, usually about 120,000",
        "body": OPENED.body,
        "job_name": "orders_daily",
        "run_id": "run-0",
        "kind": "unusual_run",
        "figures": {
            "judgement": "anomalous",
            "started_at": "2026-03-02T02:00:00Z",
            "recorded_at": "2026-03-02T02:28:48Z",
            "records_processed": 1204,
            "usual_records": 119873.0,
            "run_time_seconds": 125.0,
            "usual_seconds": 840.0,
            "anomaly_score": 12.31,
            "score_cutoff": 4.2,
            "feature": "records",
            "deviations": -12.3,
            "time_zone": "Europe/Berlin",
            "schedule": "0 3 * * *",
            "model_version": "20260301T000000Z",
        },
    }
    (headers,) = hook.receiver.headers
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (key, "1772420400")
    assert (headers["content-type"], headers["idempotency-key"]) == ("application/json", key)


@pytest.mark.parametrize(
    ("body", "reference"),
    [
        (b'{"id": 17, "url": "https://t/17"}', "17"),
        (rb'{"id": "T-1\u001b[2J\u202e\n"}', r"T-1\x1b[2J\u202e"),
        (b'{"url": "https://t/17"}', "https://t/17"),
        (b'{"id": null}', ""),
        (b"[]", ""),
        (b"thanks", ""),
        (b"\xff\xfe", ""),
        (b"", ""),
    ],
)
def test_what_the_webhook_calls_a_ticket(hook: Hook, body: bytes, reference: str) -> None:
    hook.server.faults = [(200, {}, body), (204 if not body else 200, {}, body)]
    assert hook.sink.open(attempted(OPENED)) == (reference or OPENED.idempotency_key)
    assert hook.sink.comment(attempted(COMMENTED), "T-1") == (reference or "T-1")


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_the_webhook_refuses_for_good(hook: Hook, status: int) -> None:
    hook.server.faults = [(status, {}, b"because\nof\x1b this")]
    with pytest.raises(EntryRefusedError, match=rf"{status}: because of\\x1b this"):
        hook.sink.open(attempted(OPENED))


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 408, 409, 410, 425, 429, 500, 502, 503])
def test_what_may_be_taken_later(hook: Hook, status: int) -> None:
    hook.server.faults = [(status, {"Location": "/elsewhere"}, b"")]
    with pytest.raises(SinkUnavailableError, match=str(status)) as error:
        hook.sink.open(attempted(OPENED))
    assert error.value.retry_after is None
    assert hook.server.requests == 1, "neither repeated nor redirected"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("Mon, 02 Mar 2026 03:05:00 GMT", 300),
        ("Mon, 02 Mar 2026 02:00:00 GMT", 0),
        ("99999999999999999999", 86_400),
        ("soon", None),
        ("-5", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(hook: Hook, status: int, value: str, seconds: float | None) -> None:
    hook.server.faults = [(status, {"Retry-After": value}, b"")]
    with pytest.raises(SinkUnavailableError) as error:
        hook.sink.open(attempted(OPENED))
    asked = error.value.retry_after
    assert (asked and asked.total_seconds()) == seconds or (asked == timedelta(0) and seconds == 0)


def test_the_secret_is_read_once_and_again_when_it_was_rotated(hook: Hook) -> None:
    hook.sink.open(attempted(OPENED))
    hook.sink.comment(attempted(COMMENTED), "T-1")
    assert hook.secret_reads == 1
    hook.secret = hook.receiver.secret = "whsec_" + base64.b64encode(b"another key of some length").decode()
    hook.sink.close(attempted(CLOSED), "T-1")
    assert hook.secret_reads == 2
    hook.receiver.secret = SECRET
    with pytest.raises(SinkUnavailableError, match="401"):
        hook.sink.close(attempted(CLOSED), "T-1")
    requests = hook.server.requests
    hook.secret = SECRET
    hook.sink.close(attempted(CLOSED), "T-1")
    assert hook.server.requests == requests + 1, "it was read again"


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64!", "whsec_ä"])
def test_a_secret_that_is_none_is_not_shown(hook: Hook, secret: str) -> None:
    hook.secret = secret
    with pytest.raises(SinkUnavailableError, match="whsec_ and the key in base64") as error:
        hook.sink.open(attempted(OPENED))
    assert "not base64" not in str(error.value)
    assert hook.server.requests == 0


def self_signed(folder: Path) -> ssl.SSLContext:
    """What a server on loopback needs that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "pem").write_bytes(private + certificate.public_bytes(encoding))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pem")
    return context


def test_a_server_that_nobody_vouches_for_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver()
    with faulty_server(receiver.respond, tls=self_signed(tmp_path)) as server:
        hook = Hook(server, receiver)
        with pytest.raises(SinkUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            hook.sink.open(attempted(OPENED))
        assert server.requests == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "pem"))
        Hook(server, receiver).sink.open(attempted(OPENED))
        assert server.requests == 1, "the certificate is all that was wrong"


def test_an_answer_without_end_is_not_read_to_it(hook: Hook) -> None:
    hook.server.faults = [(200, {}, b"x" * 200_000)]
    assert hook.sink.open(attempted(OPENED)) == OPENED.idempotency_key
    assert hook.sink.comment(attempted(COMMENTED), "T-1") == "T-1"


def test_actions_are_told_apart(hook: Hook) -> None:
    hook.sink.open(attempted(OPENED))
    hook.sink.comment(attempted(COMMENTED), "T-1")
    hook.sink.close(attempted(CLOSED), "T-1")
    assert [json.loads(body)["action"] for body in hook.receiver.bodies.values()] == ["open", "comment", "close"]
    assert [json.loads(body)["reference"] for body in hook.receiver.bodies.values()] == ["", "T-1", "T-1"]
