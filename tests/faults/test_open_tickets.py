"""open_tickets: Step Functions tries it six times in half an hour, and every hour begins anew; with either sink."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import boto3
import pytest
import urllib3

from lambdas.etl_jobs.open_tickets import handler as opening
from lambdas.runtime.attributes import from_attributes
from overcut.etl_jobs.tickets import EntriesOwedError
from overcut.etl_jobs.verdicts import Judgement
from overcut.etl_jobs.verdicts import Kind as TicketKind
from tests.etl_fakes import MONDAY, verdict
from tests.faults.cases import NoTexts, check
from tests.faults.injection import Call, Injector, Kind, Ways
from tests.faults.sensors import reuse_clients
from tests.functional.etl_cloud import BUCKET, TABLE, EtlCloud, etl_cloud
from workbench.cloud.ops_center import OpsItems

WAITS = (0, 1, 2, 4, 8, 16)  # minutes before each attempt, as the state machine says
SECRET = "tickets/webhook"
# what differs with how often and when something was tried
_INCIDENTAL = {
    *("version", "opened_at", "attempts", "tried_since", "claimed_until", "next_attempt_at", "reason", "sent_at"),
    *("reference", "state"),
}
_OF_A_POST = frozenset(
    {
        *(Kind.STOPPED_BEFORE, Kind.STOPPED_AFTER, Kind.THROTTLED, Kind.UNREACHED, Kind.FAILED),
        *(Kind.ANSWER_LOST, Kind.OVERTAKEN),
    }
)


class World(NoTexts):
    """A ticket is opened; later it is commented and closed.

    Attributes:
        now: what the function takes for the present.
    """

    def __init__(self, cloud: EtlCloud, injector: Injector) -> None:
        self.cloud, self.injector = cloud, injector
        self.now = MONDAY + timedelta(hours=12)

    def run(self) -> None:
        self.cloud.predict([verdict(0)])
        self._execution(0.5)
        self.cloud.predict([verdict(0), verdict(0.3), verdict(0.4, Judgement.HEALTHY)])
        self._execution(0.6)
        # an hour later nothing is left to do but what the faults left
        self.now = MONDAY + timedelta(days=0.7)
        self.open_tickets()

    def _execution(self, day: float) -> None:
        """What one hour's workflow does."""
        self.now = MONDAY + timedelta(days=day)
        for wait in WAITS:
            self.now += timedelta(minutes=wait)
            if self.injector.invoke(self.open_tickets, owing=EntriesOwedError):
                return

    def open_tickets(self) -> None:
        context = SimpleNamespace(get_remaining_time_in_millis=lambda: 900_000)
        opening.handler({"until": self.now.isoformat().replace("+00:00", "Z")}, cast(Any, context))

    def outcome(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for item in map(from_attributes, self.cloud.dynamodb.scan(TableName=TABLE)["Items"]):
            name = f"{item['deduplication_key']} {item['entry']}"
            if name.startswith("#sink"):
                continue
            found[name] = {key: value for key, value in item.items() if key not in _INCIDENTAL}
            found[name]["sent"] = item.get("state", "sent") == "sent" and bool(item["reference"])
        return found | self.tickets()

    def tickets(self) -> dict[str, Any]:
        """What the sink shows to people."""
        raise NotImplementedError


class InOpsCenter(World):
    def __init__(self, cloud: EtlCloud, injector: Injector) -> None:
        super().__init__(cloud, injector)
        self._ops_items = OpsItems(lambda: "arn:aws:ssm:us-east-1:000000000000:opsitem/")
        injector.others["ssm"] = self._ops_items.respond

    def tickets(self) -> dict[str, Any]:
        shown = {}
        summaries = self._ops_items.answer("DescribeOpsItems", {})["OpsItemSummaries"]
        for found in summaries:
            item = self._ops_items.answer("GetOpsItem", {"OpsItemId": found["OpsItemId"]})["OpsItem"]
            comments = {k: v["Value"] for k, v in item["OperationalData"].items() if k.startswith("overcut/entry-")}
            shown[item["Title"]] = (item["Status"], comments)
        return {"tickets": shown, "number of tickets": len(summaries)}


class OverWebhook(World):
    """A server that acts once on an idempotency key.

    Attributes:
        acted: on what, in this order.
    """

    def run(self) -> None:
        self.cloud.predict([verdict(0), verdict(0.3), verdict(0.4, Judgement.HEALTHY)])
        self._execution(0.5)
        self.now = MONDAY + timedelta(days=0.6)
        self.open_tickets()

    def __init__(self, cloud: EtlCloud, injector: Injector) -> None:
        super().__init__(cloud, injector)
        self.acted: dict[str, tuple[str, str]] = {}
        self._posts = 0

    def request(self, pool: object, method: str, url: str, **given: Any) -> urllib3.HTTPResponse:
        """In the place of urllib3's."""
        self._posts += 1
        ways = Ways(
            take=lambda: self._act(given["headers"]["Idempotency-Key"], json.loads(given["body"])),
            throttled=lambda: _answer(429, {"Retry-After": "120"}),
            failed=lambda: _answer(503),
            unreached=urllib3.exceptions.ConnectTimeoutError("no connection"),
            lost=urllib3.exceptions.ProtocolError("the connection was reset"),
            partly=lambda: None,
            unprocessed=lambda: None,
            conflict=lambda: None,
        )
        response: urllib3.HTTPResponse = self.injector.through(
            Call("webhook", method, _OF_A_POST), f"webhook {self._posts}", ways
        )
        return response

    def _act(self, idempotency_key: str, body: Mapping[str, str]) -> urllib3.HTTPResponse:
        self.acted.setdefault(idempotency_key, (body["action"], body["run_id"]))
        return _answer(200, body={"id": body["deduplication_key"]})

    def tickets(self) -> dict[str, Any]:
        return {"acted on": list(self.acted.values())}


def _answer(status: int, headers: Mapping[str, str] | None = None, body: object = None) -> urllib3.HTTPResponse:
    return urllib3.HTTPResponse(
        io.BytesIO(json.dumps(body).encode()), headers=headers, status=status, preload_content=False
    )


Make = Callable[[Injector, pytest.MonkeyPatch], AbstractContextManager[World]]


@contextmanager
def a_world(
    kind: type[World], sink: Mapping[str, str], injector: Injector, patch: pytest.MonkeyPatch
) -> Iterator[World]:
    with etl_cloud(patch) as cloud:
        reuse_clients(patch)
        environment = {
            "STAGE": "local",
            "TICKETS_TABLE": TABLE,
            "DATA_BUCKET": BUCKET,
            "TICKETED_KINDS": json.dumps(list(TicketKind)),
            "SINK": json.dumps(sink),
            "CLAIM_SECONDS": "960",
        }
        for name, value in environment.items():
            patch.setenv(name, value)
        boto3.client("secretsmanager").create_secret(Name=SECRET, SecretString="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        world = kind(cloud, injector)

        class Now(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> "Now":
                return cast(Now, world.now)

        patch.setattr(opening, "datetime", Now)
        injector.cold_start = opening.dependencies.cache_clear
        injector.cold_start()
        yield world
        injector.cold_start()


def in_ops_center(injector: Injector, patch: pytest.MonkeyPatch) -> AbstractContextManager[World]:
    return a_world(InOpsCenter, {"kind": "ops_center", "severity": "3"}, injector, patch)


@contextmanager
def over_webhook(injector: Injector, patch: pytest.MonkeyPatch) -> Iterator[World]:
    sink = {"kind": "webhook", "url": "https://tickets/", "secret_name": SECRET}
    with a_world(OverWebhook, sink, injector, patch) as world:
        assert isinstance(world, OverWebhook)

        def request(pool: object, method: str, url: str, **given: Any) -> urllib3.HTTPResponse:
            return world.request(pool, method, url, **given)

        patch.setattr(urllib3.PoolManager, "request", request)
        yield world


@pytest.mark.parametrize("kind", list(Kind))
def test_ops_center_shows_each_ticket_once(kind: Kind, record_property: Callable[[str, object], None]) -> None:
    check("open_tickets (OpsCenter)", in_ops_center, kind, record_property)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_webhook_acts_on_each_entry_once(kind: Kind, record_property: Callable[[str, object], None]) -> None:
    check("open_tickets (webhook)", over_webhook, kind, record_property)
