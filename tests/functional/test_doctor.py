"""`overcut doctor`: every check is seen to pass and to fail, on answers that AWS's own models allow."""

import json
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import boto3
import pytest
from botocore.exceptions import NoCredentialsError
from botocore.stub import Stubber
from click.testing import CliRunner

from lambdas.runtime.clock import SystemClock
from overcut.sensors.readings import Reading
from stacks.stage import Stage
from tests.conftest import synthesized
from workbench import doctor, doctor_commands, status
from workbench.cli import main
from workbench.deployed import NotDeployedError
from workbench.device import Device
from workbench.doctor import Finding, Outcome, Visit, examine
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.sensors_system import SensorsSystem
from workbench.status import Status

ACCOUNT, REGION = "123456789012", "eu-central-1"
CALLER = f"arn:aws:iam::{ACCOUNT}:user/ops"
TOPICS = {
    "AlertsTopic": f"arn:aws:sns:{REGION}:{ACCOUNT}:alerts",
    "OperationsTopic": f"arn:aws:sns:{REGION}:{ACCOUNT}:operations",
}
CREATED = "2026-11-01T00:00:00Z"
SPARK, TRAINING = "Max concurrent vCPUs per account", "ml.m5.large for training job usage"

Answers = dict[str, Any]


class Refusal(str):
    """An error's code, in an answer's place."""


def stack(stack_status: str) -> dict[str, Any]:
    return {"Stacks": [{"StackName": "s", "CreationTime": CREATED, "StackStatus": stack_status}]}


def subscription(endpoint: str, arn: str) -> dict[str, Any]:
    return {"Subscriptions": [{"Endpoint": endpoint, "SubscriptionArn": arn, "Protocol": "sms"}]}


def quota(name: str, value: float) -> dict[str, Any]:
    return {"Quotas": [{"QuotaName": "another", "Value": 0.0}, {"QuotaName": name, "Value": value}]}


def credentials() -> dict[str, Any]:
    return {
        "Credentials": {
            "AccessKeyId": "ASIAQQQQQQQQQQQQQQQQ",
            "SecretAccessKey": "s",
            "SessionToken": "t",
            "Expiration": CREATED,
        }
    }


def in_order() -> Answers:
    """What AWS answers about an account in which all is well; a list holds an answer a call."""
    return {
        "sts.get_caller_identity": {"Account": ACCOUNT, "Arn": CALLER, "UserId": "u"},
        "account.get_region_opt_status": {"RegionName": REGION, "RegionOptStatus": "ENABLED_BY_DEFAULT"},
        "ssm.get_parameter": {"Parameter": {"Name": "v", "Value": "21"}},
        "cloudformation.describe_stacks": stack("CREATE_COMPLETE"),
        "sts.assume_role": credentials(),
        "sns.get_sms_sandbox_account_status": {"IsInSandbox": False},
        "sns.get_sms_attributes": {"attributes": {"MonthlySpendLimit": "50"}},
        "pinpoint-sms-voice-v2.describe_phone_numbers": {"PhoneNumbers": []},
        "pinpoint-sms-voice-v2.describe_sender_ids": {"SenderIds": [sender()]},
        "sns.list_subscriptions_by_topic": subscription("+4915112345678", f"{TOPICS['AlertsTopic']}:1"),
        "lambda.get_account_settings": {"AccountLimit": {"UnreservedConcurrentExecutions": 1000}},
        # of the second one only AWS's default is known
        "service-quotas.list_service_quotas": [quota(TRAINING, 4.0), {"Quotas": []}],
        "service-quotas.list_aws_default_service_quotas": quota(SPARK, 16.0),
        "s3.list_objects_v2": {"KeyCount": 1},
        "secretsmanager.get_secret_value": {"SecretString": "Bearer let me in"},
    }


def sender() -> dict[str, Any]:
    return {
        "SenderIdArn": "a",
        "SenderId": "PLANT",
        "IsoCountryCode": "DE",
        "MessageTypes": ["TRANSACTIONAL"],
        "MonthlyLeasingPrice": "0",
        "DeletionProtectionEnabled": False,
        "Registered": True,
    }


def phone_number() -> dict[str, Any]:
    return {
        "PhoneNumberArn": "a",
        "PhoneNumber": "+12025550123",
        "Status": "ACTIVE",
        "IsoCountryCode": "US",
        "MessageType": "TRANSACTIONAL",
        "NumberCapabilities": ["SMS"],
        "NumberType": "TOLL_FREE",
        "MonthlyLeasingPrice": "2.00",
        "TwoWayEnabled": False,
        "SelfManagedOptOutsEnabled": False,
        "OptOutListName": "Default",
        "DeletionProtectionEnabled": False,
        "CreatedTimestamp": CREATED,
    }


class Account:
    """A session whose clients answer as told; each answer has the form that AWS's model gives it."""

    now: ClassVar["Account"]

    def __init__(self, answers: Answers, endpoint: str | None = None) -> None:
        self._answers = answers
        self._endpoint = endpoint
        Account.now = self

    def client(self, service: str, **settings: Any) -> Any:
        return client_of(service, self._endpoint)

    def answer(self, stubber: Stubber, model: Any) -> None:
        service, operation = model.service_model.service_name, model.name
        (method,) = (
            method
            for of_service, method in (name.split(".") for name in self._answers)
            if of_service == service and method.replace("_", "") == operation.lower()
        )
        answer = self._answers[f"{service}.{method}"]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Refusal):
            stubber.add_client_error(method, str(answer), "no")
        else:
            stubber.add_response(method, answer)


@cache
def session() -> boto3.Session:
    return boto3.Session("test", "test", region_name=REGION)


@cache
def client_of(service: str, endpoint: str | None) -> Any:
    """Made once, for each takes a good part of a second; the account of the test at hand answers."""
    make: Any = session().client
    client = make(service, endpoint_url=endpoint)
    stubber = Stubber(client)

    def ask(model: Any, **_: Any) -> None:
        Account.now.answer(stubber, model)

    client.meta.events.register_first("before-parameter-build.*.*", ask)
    stubber.activate()
    return client


@pytest.fixture
def device() -> Iterator[Device]:
    now = SystemClock().now()
    with Device([Reading("a", now, {"temperature": 4.0})], SystemClock(), credentials="let me in") as device:
        yield device


@pytest.fixture(autouse=True)
def deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both pipelines are, and nothing needs anybody."""
    for kind in (SensorsSystem, EtlJobsSystem):
        monkeypatch.setattr(kind, "deployed", lambda _, kind=kind: kind(TOPICS, session()))
    monkeypatch.setattr(status, "look", lambda _: {"sensors": Status()})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambda may reach this machine: the loopback device stands for one of the network."""
    monkeypatch.setattr(doctor, "_LOOPBACK", set())


def stage_of(url: str, **settings: Any) -> Stage:
    stage: dict[str, Any] = {
        "name": "plant",
        "region": REGION,
        "operations_emails": ["ops@example.com"],
        "sensors": {
            "default_contact": "day",
            "contacts": {"day": {}},
            "sources": {"device": {"url": url, "secret_name": "overcut/plant", "measures": {"temperature": "C"}}},
        },
        "etl_jobs": {
            "lake": "s3://example-lake/runs/",
            "tickets": {"sink": "webhook", "url": "https://tickets.example.com", "secret_name": "overcut/webhook"},
        },
    }
    for name, value in settings.items():
        *tables, key = name.split("__")
        where = stage
        for table in tables:
            where = where[table]
        where[key] = value
    return Stage.model_validate(stage)


def findings(stage: Stage, answers: Answers, endpoint: str | None = None) -> dict[str, Finding]:
    visit = Visit(stage, Account(answers, endpoint))  # type: ignore[arg-type]
    return {finding.check: finding for finding in examine(visit)}


@pytest.mark.usefixtures("here")
def test_where_all_is_well_every_check_passes(device: Device) -> None:
    found = findings(stage_of(device.url), in_order())
    assert {one.check: one.told for one in found.values() if one.outcome is not Outcome.PASSED} == {}
    assert list(found) == [
        "account",
        "region",
        "training image",
        "function platform",
        "CDK bootstrap",
        "deployment roles",
        "SMS sandbox",
        "SMS spend limit",
        "SMS sender",
        "Lambda concurrency",
        "training instances",
        "Spark vCPUs",
        "data lake",
        "webhook secret",
        "source device",
        "stacks",
        "operations addresses",
        "running",
    ]
    assert not any(one.remedy for one in found.values())


NOBODY = subscription("ops@example.com", "PendingConfirmation")
AMERICAN = subscription("+12025550123", f"{TOPICS['AlertsTopic']}:1")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("check", "answers", "settings", "told", "remedy"),
    [
        ("account", {"sts.get_caller_identity": NoCredentialsError()}, {}, "AWS does not know who asks", "aws sso"),
        ("account", {"sts.get_caller_identity": Refusal("ExpiredToken")}, {}, "ExpiredToken", "aws sso login"),
        (
            "region",
            {"account.get_region_opt_status": {"RegionOptStatus": "DISABLED"}},
            {},
            "eu-central-1 is disabled",
            "enable-region --region-name eu-central-1",
        ),
        (
            "region",
            {"account.get_region_opt_status": Refusal("ValidationException")},
            {},
            "AWS has no region eu-central-1",
            "Correct region",
        ),
        ("training image", {}, {"region": "eu-north-9"}, "no scikit-learn image", "one of these regions"),
        ("function platform", {}, {"functions": {"platform": "host"}}, "for this machine", "out of [functions]"),
        (
            "CDK bootstrap",
            {"ssm.get_parameter": Refusal("ParameterNotFound")},
            {},
            "never bootstrapped",
            f"cdk bootstrap aws://{ACCOUNT}/{REGION}",
        ),
        (
            "CDK bootstrap",
            {"ssm.get_parameter": {"Parameter": {"Value": "5"}}},
            {},
            "of version 5; the stacks need 6",
            "cdk bootstrap aws://",
        ),
        (
            "CDK bootstrap",
            {"cloudformation.describe_stacks": stack("ROLLBACK_COMPLETE")},
            {},
            "CDKToolkit is ROLLBACK_COMPLETE",
            "Delete it",
        ),
        ("deployment roles", {"sts.assume_role": Refusal("AccessDenied")}, {}, "may not assume", "sts:AssumeRole"),
        (
            "SMS sandbox",
            {"sns.get_sms_sandbox_account_status": {"IsInSandbox": True}},
            {},
            "only verified numbers",
            "Ask AWS to move it out",
        ),
        (
            "SMS spend limit",
            {"sns.get_sms_attributes": {"attributes": {}}},
            {"sensors__text_spend_limit_usd": 20.0},
            "at 1 USD a month, before the stage's 20",
            "text_spend_limit_usd = 1.0",
        ),
        (
            "SMS sender",
            {
                "sns.list_subscriptions_by_topic": AMERICAN,
                "pinpoint-sms-voice-v2.describe_sender_ids": {"SenderIds": []},
            },
            {},
            "United States or Canada",
            "Get one",
        ),
        (
            "Lambda concurrency",
            {"lambda.get_account_settings": {"AccountLimit": {"UnreservedConcurrentExecutions": 10}}},
            {},
            "10 functions may run at once in this account and region; the stage runs up to 39",
            'Ask for more "Concurrent executions"',
        ),
        (
            "training instances",
            {"service-quotas.list_service_quotas": quota(TRAINING, 1.0)},
            {},
            "is 1; the stage needs 2",
            f'Ask for more "{TRAINING}"',
        ),
        (
            "Spark vCPUs",
            {"service-quotas.list_aws_default_service_quotas": quota(SPARK, 8.0)},
            {},
            "is 8; the stage needs 16",
            f'Ask for more "{SPARK}"',
        ),
        ("data lake", {"s3.list_objects_v2": Refusal("NoSuchBucket")}, {}, "no bucket example-lake", "Correct lake"),
        ("data lake", {"s3.list_objects_v2": {"KeyCount": 0}}, {}, "nothing is in s3://example-lake/runs/", "Correct"),
        (
            "webhook secret",
            {"secretsmanager.get_secret_value": Refusal("ResourceNotFoundException")},
            {},
            "no secret overcut/webhook in eu-central-1",
            "aws secretsmanager create-secret --region eu-central-1 --name overcut/webhook",
        ),
        (
            "source device",
            {"secretsmanager.get_secret_value": Refusal("ResourceNotFoundException")},
            {},
            "no secret overcut/plant in eu-central-1",
            "the Authorization header's value",
        ),
        (
            "source device",
            {"secretsmanager.get_secret_value": {"SecretString": "Bearer an old one"}},
            {},
            "answered 401",
            "overcut sources check http://",
        ),
        (
            "stacks",
            {"cloudformation.describe_stacks": [stack("CREATE_COMPLETE"), stack("ROLLBACK_FAILED")]},
            {},
            "Overcut-plant-sensors is ROLLBACK_FAILED",
            "cdk deploy",
        ),
        ("operations addresses", {}, {"operations_emails": []}, "nobody hears of alarms", "operations_emails ="),
        (
            "operations addresses",
            {"sns.list_subscriptions_by_topic": NOBODY},
            {},
            "ops@example.com did not confirm",
            "Follow the link",
        ),
    ],
)
def test_what_is_not_as_it_must_be_fails_with_its_remedy(
    device: Device, check: str, answers: Answers, settings: dict[str, Any], told: str, remedy: str
) -> None:
    found = findings(stage_of(device.url, **settings), in_order() | answers)[check]
    assert found.outcome is Outcome.FAILED, found
    assert told in found.told
    assert remedy in found.remedy


@pytest.mark.usefixtures("here")
def test_a_source_that_nobody_answers_for_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    found = findings(stage_of(f"http://127.0.0.1:{port}/events"), in_order())["source device"]
    assert found.outcome is Outcome.FAILED
    assert "could not be reached" in found.told


def test_a_source_on_this_machine_fails_in_an_account_of_aws(device: Device) -> None:
    found = findings(stage_of(device.url), in_order())["source device"]
    assert found.outcome is Outcome.FAILED
    assert "which Lambda cannot reach" in found.told


def test_what_needs_somebody_fails_and_says_where_to_look(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {"sensors": Status(attention=["1 incident is open"]), "etl_jobs": Status(attention=["x", "y"])}
    monkeypatch.setattr(status, "look", lambda _: needed)
    found = findings(stage_of(device.url), in_order())["running"]
    assert (found.outcome, found.told) == (Outcome.FAILED, "1 incident is open; and 2 more")
    assert found.remedy == "`overcut status --stage plant` shows all."


def test_functions_for_lambda_fail_on_an_embedded_cloud(device: Device) -> None:
    found = findings(stage_of(device.url), in_order(), "http://127.0.0.1:1")["function platform"]
    assert found.outcome is Outcome.FAILED
    assert 'platform = "host"' in found.remedy


@pytest.mark.usefixtures("here")
def test_what_the_caller_may_not_see_is_not_checked_and_stops_nothing(device: Device) -> None:
    answers: Answers = {name: Refusal("AccessDeniedException") for name in in_order()}
    answers |= {name: in_order()[name] for name in ("sts.get_caller_identity",)}
    found = findings(stage_of(device.url), answers)
    not_checked = {name for name, one in found.items() if one.outcome is Outcome.NOT_CHECKED}
    assert set(found) - not_checked == {"account", "training image", "function platform", "running"}
    assert found["SMS sandbox"].told == "GetSMSSandboxAccountStatus was refused: no"


def test_what_an_embedded_cloud_does_not_have_is_told_as_that(device: Device) -> None:
    answers = in_order() | {"service-quotas.list_service_quotas": Refusal("400")}
    found = findings(stage_of(device.url), answers, "http://127.0.0.1:1")["training instances"]
    assert (found.outcome, found.told) == (
        Outcome.NOT_CHECKED,
        "the embedded cloud does not answer ListServiceQuotas",
    )


def test_before_it_is_deployed_what_is_deployed_is_not_checked(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_there(_: object) -> None:
        raise NotDeployedError("it is not there")

    for kind in (SensorsSystem, EtlJobsSystem):
        monkeypatch.setattr(kind, "deployed", not_there)
    monkeypatch.setattr(status, "look", not_there)
    answers = in_order() | {"cloudformation.describe_stacks": [stack("CREATE_COMPLETE"), Refusal("ValidationError")]}
    found = findings(stage_of(device.url), answers)
    for check in ("stacks", "operations addresses", "running"):
        assert found[check].outcome is Outcome.NOT_CHECKED, check
        assert "not deployed yet" in found[check].told
    assert found["SMS sender"].outcome is Outcome.PASSED


def test_a_number_to_text_from_is_told(device: Device) -> None:
    answers = in_order() | {"pinpoint-sms-voice-v2.describe_phone_numbers": {"PhoneNumbers": [phone_number()]}}
    assert findings(stage_of(device.url), answers)["SMS sender"].told == "texts can come from +12025550123"


def test_whether_a_sender_is_needed_elsewhere_is_not_checked(device: Device) -> None:
    answers = in_order() | {"pinpoint-sms-voice-v2.describe_sender_ids": {"SenderIds": []}}
    found = findings(stage_of(device.url), answers)["SMS sender"]
    assert found.outcome is Outcome.NOT_CHECKED
    assert "some countries want one" in found.told


@pytest.mark.parametrize("pipeline", ["sensors", "etl_jobs"])
def test_what_it_counts_on_is_what_is_deployed(pipeline: Literal["sensors", "etl_jobs"]) -> None:
    template = synthesized("local", pipeline)
    text = json.dumps(template)
    assert f"/cdk-bootstrap/{doctor.QUALIFIER}/version" in text
    (versions,) = [a["Assert"]["Fn::Not"] for a in template["Rules"]["CheckBootstrapVersion"]["Assertions"]]
    assert versions[0]["Fn::Contains"][0] == [str(n) for n in range(1, doctor.BOOTSTRAP_VERSION)]
    concurrency = doctor.EXPORTS if pipeline == "sensors" else doctor.PREDICTIONS
    assert f'MaxConcurrency\\":{concurrency}' in text.replace('\\\\\\"', '\\"')
    if pipeline == "sensors":
        assert f'"ParallelizationFactor": {doctor.LOTS}' in text


@pytest.mark.parametrize("as_json", [False, True], ids=["for people", "JSON"])
def test_the_command_tells_every_line_and_ends_with_1_when_one_failed(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, as_json: bool
) -> None:
    answers: Answers = {}
    monkeypatch.setattr(doctor_commands, "boto3", SimpleNamespace(Session=lambda **_: Account(answers)))
    path = tmp_path / "plant.toml"
    path.write_text(
        f'region = "{REGION}"\noperations_emails = ["ops@example.com"]\n[sensors]\ndefault_contact = "day"\n'
        f'[sensors.contacts.day]\n[sensors.sources.device]\nurl = "{device.url}"\nmeasures = {{ temperature = "C" }}\n'
        'secret_name = "overcut/plant"\n'
    )
    monkeypatch.setattr(doctor, "_LOOPBACK", set())
    for is_in_sandbox, code in ((False, 0), (True, 1)):
        answers = in_order() | {"sns.get_sms_sandbox_account_status": {"IsInSandbox": is_in_sandbox}}
        answers["service-quotas.list_service_quotas"] = quota(TRAINING, 4.0)
        ran = CliRunner().invoke(main, ["doctor", "--stage", str(path), *(["--json"] if as_json else [])])
        assert ran.exit_code == code, ran.output
        if as_json:
            told = {one["check"]: one for one in json.loads(ran.output)}
            assert told["SMS sandbox"]["outcome"] == ("failed" if is_in_sandbox else "passed")
            assert bool(told["SMS sandbox"]["remedy"]) == is_in_sandbox
        else:
            assert ("failed       SMS sandbox: " in ran.output) == is_in_sandbox
            assert f"{15 - is_in_sandbox} passed, {int(is_in_sandbox)} failed, 0 not checked" in ran.output
