"""open_tickets through its handler: predictions in S3 become tickets in the table and OpsItems, once each."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from moto.core.botocore_stubber import BotocoreStubber

from lambdas.etl_jobs.open_tickets import handler as opening
from lambdas.etl_jobs.open_tickets.opening import TicketOpener
from lambdas.runtime.dynamodb import StoreBusyError
from lambdas.runtime.settings import SettingsError
from overcut.etl_jobs.tickets import Action, EntriesOwedError, EntryState, TicketMovedError
from overcut.etl_jobs.verdicts import Judgement, Kind, Verdict
from tests.conftest import synthesized
from tests.etl_fakes import MONDAY, changes_of, check_ticket_store, verdict
from tests.functional.alarms import tripped
from tests.functional.etl_cloud import BUCKET, TABLE, EtlCloud, etl_cloud
from tests.functional.faulty_server import Answer, FaultyServer, faulty_server
from workbench.cloud.ops_center import OpsItems

KEY = "orders_daily#unusual_run"
HEALTHY = Judgement.HEALTHY
NOTHING = {"opened": 0, "commented": 0, "closed": 0, "sent": 0, "owed": 0, "parked": 0}
DOWN: Answer = (503, {}, b"")


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[EtlCloud]:
    with etl_cloud(monkeypatch) as cloud:
        yield cloud


class Context:
    """As Lambda gives it.

    Attributes:
        milliseconds: that are left.
    """

    milliseconds = 900_000

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


class Desk:
    """The function, with OpsCenter behind a server that can be down."""

    def __init__(self, cloud: EtlCloud, server: FaultyServer, ops_items: OpsItems, monkeypatch: pytest.MonkeyPatch):
        self.cloud, self.server, self._ops_items, self._monkeypatch = cloud, server, ops_items, monkeypatch
        self.context = Context()
        self.seconds = 0.0

    def run(self, day: float = 0.5, **counts: int) -> None:
        """Run once, `day` days after the first Monday's run; it returns these counts."""
        assert self.invoke(day) == NOTHING | counts

    def invoke(self, day: float = 0.5) -> dict[str, int]:
        until = MONDAY + timedelta(days=day)
        return opening.handler({"until": until.isoformat().replace("+00:00", "Z")}, cast(Any, self.context))

    def later(self, seconds: float) -> None:
        """Let time pass for the function."""
        self.seconds += seconds
        moved = timedelta(seconds=self.seconds)

        class Later(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> "Later":
                return cast(Later, datetime.now(tz) + moved)

        self._monkeypatch.setattr(opening, "datetime", Later)

    def ops_items(self) -> dict[str, tuple[str, int]]:
        """Status and number of comments, by title."""
        shown = {}
        for found in self._ops_items.answer("DescribeOpsItems", {})["OpsItemSummaries"]:
            item = self._ops_items.answer("GetOpsItem", {"OpsItemId": found["OpsItemId"]})["OpsItem"]
            comments = sum(key.startswith("overcut/entry-") for key in item["OperationalData"])
            shown[item["Title"]] = (item["Status"], comments)
        assert len(shown) == len(self._ops_items.answer("DescribeOpsItems", {})["OpsItemSummaries"])
        return shown

    def states(self, key: str = KEY) -> list[str]:
        items = self.cloud.dynamodb.scan(TableName=TABLE)["Items"]
        entries = [item for item in items if item["deduplication_key"]["S"] == key and "sequence" in item]
        return [item["state"]["S"] for item in sorted(entries, key=lambda item: int(item["sequence"]["N"]))]

    def status(self, key: str = KEY) -> str:
        head = self.cloud.tickets.head(key)
        assert head
        return head.status.value


Configure = Callable[[pytest.MonkeyPatch], None]


@contextmanager
def a_desk(cloud: EtlCloud, monkeypatch: pytest.MonkeyPatch, **settings: str) -> Iterator[Desk]:
    ops_items = OpsItems(lambda: "arn:aws:ssm:us-east-1:000000000000:opsitem/")

    def respond(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        return ops_items.respond(headers["x-amz-target"].removeprefix("AmazonSSM."), body)

    with faulty_server(respond) as server:
        environment = {
            "STAGE": "local",
            "TICKETS_TABLE": TABLE,
            "DATA_BUCKET": BUCKET,
            "TICKETED_KINDS": json.dumps(list(Kind)),
            "SINK": json.dumps({"kind": "ops_center", "severity": "3"}),
            "CLAIM_SECONDS": "960",
            "AWS_ENDPOINT_URL_SSM": server.url,
            **settings,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        opening.dependencies.cache_clear()
        yield Desk(cloud, server, ops_items, monkeypatch)
        made = opening.dependencies()
        getattr(made.sink, "client", made.tickets.client).close()
        opening.dependencies.cache_clear()


@pytest.fixture
def desk(cloud: EtlCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with a_desk(cloud, monkeypatch) as desk:
        yield desk


# --- the store ---


def test_the_table_keeps_the_contract(cloud: EtlCloud) -> None:
    def moved(call: Callable[[], None]) -> bool:
        try:
            call()
        except TicketMovedError:
            return True
        return False

    check_ticket_store(cloud.tickets, moved)


def test_what_needs_attention_is_found(cloud: EtlCloud) -> None:
    store = cloud.tickets
    for number in range(130):
        (change,) = changes_of(verdict(0, job_name=f"job-{number:03d}"))
        store.apply(change)
    assert sorted(head.job_name for head in store.open_heads()) == [f"job-{k:03d}" for k in range(130)]
    assert len(store.owed()) == 130
    assert list(store.parked()) == []
    entry = store.entry("job-007#unusual_run", "run#run-0")
    assert entry
    store.park(entry, "refused", "")
    ((parked,), owed) = list(store.parked()), store.owed()
    assert (parked.job_name, parked.reason) == ("job-007", "refused")
    assert "job-007#unusual_run" not in owed
    head = store.head("job-008#unusual_run")
    (closed,) = changes_of(verdict(1, HEALTHY, job_name="job-008"), head=head)
    store.apply(closed)
    assert len(list(store.open_heads())) == 129
    assert store.owed()["job-008#unusual_run"] == {"run#run-0", "close#000001"}


def test_the_whole_table_tells_the_newest_tickets_with_their_entries(cloud: EtlCloud) -> None:
    store = cloud.tickets
    store.pause(MONDAY)
    for change in changes_of(verdict(0), verdict(1, HEALTHY), verdict(2), verdict(3)):
        store.apply(change)
    (failed,) = changes_of(verdict(0, Judgement.FAILED), kind=Kind.FAILED_RUN)
    store.apply(failed)
    assert [(head.kind, head.number, [entry.key for entry in entries]) for head, entries in store.everything()] == [
        (Kind.FAILED_RUN, 1, ["run#run-0"]),
        (Kind.UNUSUAL_RUN, 2, ["run#run-2", "run#run-3"]),
    ]


def test_a_table_that_stays_busy_is_not_waited_for_for_ever(cloud: EtlCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambdas.runtime.dynamodb.time.sleep", lambda seconds: None)
    asked = []

    class Busy:
        def batch_get_item(self, RequestItems: Any) -> Any:  # noqa: N803 - boto3's own name
            asked.append(RequestItems)
            return {"Responses": {}, "UnprocessedKeys": RequestItems}

    busy = replace(cloud.tickets, client=cast(Any, Busy()))
    with pytest.raises(StoreBusyError):
        busy.existing(KEY, {"run#1"})
    assert len(asked) == 8


# --- the function ---


def test_a_fault_its_next_run_and_its_recovery(desk: Desk) -> None:
    desk.cloud.predict([verdict(-1, HEALTHY), verdict(0), verdict(0, HEALTHY, job_name="another")])
    desk.run(opened=1, sent=1)
    title = "orders_daily loaded 1,204 rows, usually about 120,000"
    assert desk.ops_items() == {title: ("Open", 0)}
    desk.run()
    desk.cloud.predict([verdict(1)])
    desk.run(1.5, commented=1, sent=1)
    assert desk.ops_items() == {title: ("Open", 1)}
    desk.cloud.predict([verdict(2, HEALTHY)])
    desk.run(2.5, closed=1, sent=1)
    assert desk.ops_items() == {title: ("Resolved", 2)}
    assert desk.status() == "closed"
    desk.run(2.5)
    desk.run(1.5)
    assert desk.server.requests == 5


def test_an_entry_links_to_the_object_that_holds_the_prediction(desk: Desk) -> None:
    desk.cloud.predict([verdict(0)])
    desk.run(opened=1, sent=1)
    (key,) = desk.cloud.predictions.keys("predictions/")
    entry = desk.cloud.tickets.entry(KEY, "run#run-0")
    assert entry
    assert f"Prediction: s3://{BUCKET}/{key}\n" in entry.body
    assert (
        f"https://us-east-1.console.aws.amazon.com/s3/object/{BUCKET}?region=us-east-1&prefix="
        f"{key.replace('=', '%3D')}" in entry.body
    )


def test_two_days_are_read_and_no_more(desk: Desk) -> None:
    desk.cloud.predict(verdict(day, job_name=f"job{day}") for day in (-2, -1, 0, 1))
    desk.run(opened=2, sent=2)
    assert {head.job_name for head in desk.cloud.tickets.open_heads()} == {"job-1", "job0"}


def test_only_the_newest_state_of_a_run_counts_whatever_its_model(desk: Desk) -> None:
    corrected = replace(verdict(-0.5, HEALTHY, recorded_days_later=0.6), model_version="20260302T000000Z")
    by_an_older_model = replace(
        verdict(0, HEALTHY, job_name="another", recorded_days_later=0.1), model_version="20260201T000000Z"
    )
    desk.cloud.predict([verdict(-0.5), corrected, verdict(0, job_name="another"), by_an_older_model])
    desk.run()


def test_a_ticket_is_closed_by_a_healthy_run_in_the_same_pass(desk: Desk) -> None:
    desk.cloud.predict([verdict(0), verdict(0.1, HEALTHY), verdict(0.2, Judgement.FAILED)])
    desk.run(opened=2, closed=1, sent=3)
    assert (desk.status(), desk.status("orders_daily#failed_run")) == ("closed", "open")


def test_kinds_that_are_not_ticketed_open_nothing_but_close(cloud: EtlCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_desk(cloud, monkeypatch) as desk:
        desk.cloud.predict([verdict(0, Judgement.FAILED)])
        desk.run(opened=1, sent=1)
    with a_desk(cloud, monkeypatch, TICKETED_KINDS='["unusual_run"]') as desk:
        desk.cloud.predict(
            [
                verdict(0, Judgement.FAILED),
                verdict(0, Judgement.FAILED, job_name="another"),
                verdict(0, Judgement.MISSED, job_name="a third"),
                verdict(0.1, HEALTHY),
            ]
        )
        # the OpsItem is another OpsCenter's: closing what is gone is done
        desk.run(closed=1, sent=1)


def test_a_job_named_after_a_judgement(desk: Desk) -> None:
    desk.cloud.predict([verdict(0, HEALTHY, job_name="anomalous"), verdict(0, HEALTHY, job_name='"failed"')])
    desk.run()


def test_a_sink_that_is_down_leaves_everything_decided_and_owed(desk: Desk) -> None:
    desk.cloud.predict([verdict(0), verdict(0.1), verdict(0.2, HEALTHY)])
    desk.server.faults = [DOWN]
    with pytest.raises(EntriesOwedError, match="3 entries"):
        desk.invoke()
    assert desk.states() == ["owed"] * 3
    assert desk.status() == "closed"
    with pytest.raises(EntriesOwedError):
        desk.invoke()
    assert desk.server.requests == 1, "not before its time"
    desk.later(31)
    desk.run(sent=3)
    assert desk.ops_items() == {"orders_daily loaded 1,204 rows, usually about 120,000": ("Resolved", 2)}


def test_what_a_dead_sender_had_claimed_is_sent_when_the_claim_has_run_out(desk: Desk) -> None:
    (change,) = changes_of(verdict(0))
    desk.cloud.tickets.apply(change)
    now = datetime.now(UTC)
    assert desk.cloud.tickets.claim(change.entry, now, now + timedelta(seconds=960))
    with pytest.raises(EntriesOwedError):
        desk.invoke()
    desk.later(961)
    desk.run(sent=1)


def test_what_is_refused_is_parked_and_can_be_tried_again(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.cloud.predict([verdict(0)])
    desk.server.faults = [(400, {}, b'{"__type": "OpsItemInvalidParameterException", "Message": "no"}')]
    desk.run(opened=1, parked=1)
    assert tripped(synthesized("local", "etl_jobs"), capsys.readouterr().out) == {"TicketsParked"}
    desk.run()
    (parked,) = desk.cloud.tickets.parked()
    assert parked.state is EntryState.PARKED
    assert parked.reason.startswith("refused: OpsCenter refused it")
    assert desk.cloud.tickets.retry_parked(parked)
    desk.run(sent=1)
    assert list(desk.cloud.tickets.parked()) == []


def test_without_time_left_the_rest_is_owed(desk: Desk) -> None:
    desk.cloud.predict([verdict(0)])
    desk.context.milliseconds = 59_000
    with pytest.raises(EntriesOwedError):
        desk.invoke()
    assert desk.server.requests == 0


def test_a_webhook_is_signed_with_the_secret(cloud: EtlCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.secrets.create_secret(Name="hook", SecretString="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    told = []

    def respond(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        told.append((headers["webhook-signature"][:3], json.loads(body)["action"]))
        return 200, {}, b'{"id": "T-1"}'

    with faulty_server(respond) as server:
        sink = {"kind": "webhook", "url": server.url, "secret_name": "hook"}
        with a_desk(cloud, monkeypatch, SINK=json.dumps(sink)) as desk:
            desk.cloud.predict([verdict(0), verdict(0.1, HEALTHY)])
            desk.run(opened=1, closed=1, sent=2)
        head = cloud.tickets.head(KEY)
        assert head
        assert head.reference == "T-1"
    assert told == [("v1,", "open"), ("v1,", "close")]


def test_a_secret_that_is_missing_leaves_all_owed(cloud: EtlCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = {"kind": "webhook", "url": "http://127.0.0.1:1", "secret_name": "none"}
    with a_desk(cloud, monkeypatch, SINK=json.dumps(sink)) as desk:
        desk.cloud.predict([verdict(0)])
        with pytest.raises(EntriesOwedError):
            desk.invoke()
        entry = cloud.tickets.entry(KEY, "run#run-0")
        assert entry
        assert "secret cannot be read" in entry.reason


def test_a_sink_that_nobody_knows_is_refused(cloud: EtlCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_desk(cloud, monkeypatch, SINK='{"kind": "pigeon"}'):
        with pytest.raises(SettingsError, match="pigeon"):
            opening.dependencies()
        monkeypatch.setenv("SINK", '{"kind": "ops_center", "severity": "3"}')


# --- two at once ---


def opener(cloud: EtlCloud) -> TicketOpener:
    return TicketOpener(predictions=cloud.predictions, tickets=cloud.tickets, kinds=list(Kind), namespace=TABLE)


def during_the_first_transaction(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
    """Let something happen just before the next transaction."""
    answer, pending = BotocoreStubber.process_request, [meanwhile]

    def interrupted(stubber: BotocoreStubber, request: Any) -> Any:
        if pending and request.headers.get("X-Amz-Target", b"").endswith(b".TransactWriteItems"):
            pending.pop()()
        return answer(stubber, request)

    monkeypatch.setattr(BotocoreStubber, "process_request", interrupted)


def test_two_that_decide_at_once_open_one_ticket(cloud: EtlCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.predict([verdict(0), verdict(0.1)])
    days = [MONDAY.date()]
    during_the_first_transaction(monkeypatch, lambda: opener(cloud).decide_all(days, {}, MONDAY))
    decided = opener(cloud).decide_all(days, {}, MONDAY)
    assert sum(decided.actions.values()) == 0
    head = cloud.tickets.head(KEY)
    assert head
    assert (head.number, head.runs, head.version) == (1, 2, 2)


def test_one_that_is_overtaken_goes_on_from_there(cloud: EtlCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.predict([verdict(0), verdict(0.1)])
    (change,) = changes_of(verdict(0))
    during_the_first_transaction(monkeypatch, lambda: cloud.tickets.apply(change))
    decided = opener(cloud).decide_all([MONDAY.date()], {}, MONDAY)
    assert decided.actions == {Action.OPEN: 0, Action.COMMENT: 1, Action.CLOSE: 0}
    assert decided.entries == {KEY: {"run#run-0.1"}}


def test_one_that_is_overtaken_for_ever_says_so(cloud: EtlCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.predict([verdict(0)])

    def moved(*arguments: object) -> None:
        raise TicketMovedError

    monkeypatch.setattr("lambdas.etl_jobs.stores.TicketsStore.apply", moved)
    with pytest.raises(TicketMovedError, match="5 times"):
        opener(cloud).decide_all([MONDAY.date()], {}, MONDAY)


def test_thousands_of_healthy_lines_make_no_call(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def line(k: int) -> Verdict:
        return verdict(0, HEALTHY, job_name=f"job-{k}")

    desk.cloud.predict([*map(line, range(2_000)), verdict(0)])
    asked = []
    answer = BotocoreStubber.process_request

    def counted(stubber: BotocoreStubber, request: Any) -> Any:
        asked.append(request.headers.get("X-Amz-Target", b""))
        return answer(stubber, request)

    monkeypatch.setattr(BotocoreStubber, "process_request", counted)
    desk.run(opened=1, sent=1)
    assert sum(b"DynamoDB" in one for one in asked) < 20


def missed(job_name: str, day: float) -> Verdict:
    return replace(verdict(day, Judgement.MISSED, job_name=job_name), run_id=f"missed-{day:g}")


def last_record(cloud: EtlCloud, day: float) -> None:
    """The last extraction saw nothing that was recorded later."""
    newest = (MONDAY + timedelta(days=day)).isoformat()
    counts = {"until": newest, "rejected": 0, "newest_recorded_at": newest}
    cloud.predictions.put("extractions/recent/part-0.txt", json.dumps(counts).encode() + b"\n")


def test_a_lake_that_is_silent_is_no_hundred_tickets_and_what_is_missed_then_is_told_of(desk: Desk) -> None:
    absent = [missed(f"job-{k}", 0.3) for k in range(3)]
    desk.cloud.predict([*absent, missed("earlier", 0.1), verdict(0.05)])
    last_record(desk.cloud, 0.2)
    # what was missed before, and what is otherwise wrong, is told of
    desk.run(opened=2, sent=2)
    assert set(desk.ops_items()) == {
        "orders_daily loaded 1,204 rows, usually about 120,000",
        "earlier did not run at 2026-03-02 05:24 Europe/Berlin (04:24 UTC)",
    }
    last_record(desk.cloud, 0.35)
    desk.run(opened=3, sent=3)


def test_of_two_extractions_that_ran_at_once_the_one_that_reached_further_counts(desk: Desk) -> None:
    """Each writes an object under a name of its own, and neither takes the other's away."""
    desk.cloud.predict([missed(f"job-{k}", 0.3) for k in range(3)])
    last_record(desk.cloud, 0.2)
    desk.cloud.predictions.put(
        "extractions/recent/part-1.txt", desk.cloud.predictions.get("extractions/recent/part-0.txt")
    )
    last_record(desk.cloud, 0.35)
    desk.run(opened=3, sent=3)


def test_one_job_or_two_are_missed_whatever_the_lake_does(desk: Desk) -> None:
    desk.cloud.predict([missed("job-1", 0.3), missed("job-2", 0.3)])
    last_record(desk.cloud, 0.2)
    desk.run(opened=2, sent=2)


def test_a_silent_lake_is_counted(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.cloud.predict([missed(f"job-{k}", 0.3) for k in range(3)])
    last_record(desk.cloud, 0.2)
    desk.run()
    log = capsys.readouterr().out
    (metrics,) = (line for line in map(json.loads, log.splitlines()) if "_aws" in line)
    assert metrics["JobsMissedInSilence"] == [3.0]
    assert tripped(synthesized("local", "etl_jobs"), log) == {"LakeIsSilent"}


@pytest.mark.parametrize("newest", [None, "2026-03-02T05:24:30Z"], ids=["nothing at all", "just after it was due"])
def test_a_lake_may_be_silent_altogether_or_from_just_after_the_runs_were_due(desk: Desk, newest: str | None) -> None:
    # due at 02:00 on Monday and 0.18 days, clear a while later
    desk.cloud.predict([missed(f"job-{k}", 0.18) for k in range(3)])
    counts = {"until": "2026-03-03T00:10:00Z", "rejected": 0, "newest_recorded_at": newest}
    desk.cloud.predictions.put("extractions/recent/part-0.txt", json.dumps(counts).encode() + b"\n")
    desk.run()
