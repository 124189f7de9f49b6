"""What `overcut doctor` looks at: one small check each, in the order in which a platform engineer mends things.

A check returns what it saw. Otherwise it raises, and the examination goes on:

    RefusedError
     ├─ CheckFailedError    it is not as it must be; with the remedy
     └─ NotCheckedError     it could not be looked at; with the reason

What AWS does not let the caller see, and what the embedded cloud does not have, is not checked.
"""

import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property, partial
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from lambdas.sensors.poll_readings.connection import Connection, stream_pool
from overcut import RefusedError
from overcut.sensors.server_sent_events import SourceError
from stacks.constructs.training_image import NoTrainingImageError, registry_account
from stacks.stage import Source, Stage
from workbench import status
from workbench.aws_commands import typed
from workbench.deployed import DeployedPipeline, NotDeployedError
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.sensors_system import SensorsSystem

# what the CDK's templates ask for, and under which name
BOOTSTRAP_VERSION, QUALIFIER = 6, "hnb659fds"
# what runs at once: polls of a source overlap, a stream of one shard is judged in ten lots, and workflows go through
# buckets side by side
POLLS, LOTS, EXPORTS, PREDICTIONS = 3, 10, 16, 8
# without a limit of its own an account spends no more, in US dollars a month
DEFAULT_SPEND_LIMIT = 1.0
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_MISSING = {"ResourceNotFoundException", "NoSuchBucket", "404", "ParameterNotFound", "ValidationError"}
_SMS = "https://docs.aws.amazon.com/sns/latest/dg"
_QUOTAS = "Service Quotas in the console of the stage's region"


class CheckFailedError(RefusedError):
    """Something is not as it must be.

    Attributes:
        remedy: what to do, as a sentence.
    """

    def __init__(self, told: str, remedy: str) -> None:
        super().__init__(told)
        self.remedy = remedy


class NotCheckedError(RefusedError):
    """Something could not be looked at; its text says why."""


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """What became of a check; `remedy` is empty unless it failed."""

    check: str
    outcome: Outcome
    told: str
    remedy: str = ""


class Visit:
    """One look at a stage, in the account and at the endpoint that the environment names."""

    def __init__(self, stage: Stage, session: boto3.Session) -> None:
        self.stage = stage
        self._session = session
        self.client = cache(self._client)

    def _client(self, service: str) -> Any:
        make: Callable[..., Any] = self._session.client
        return make(service, config=Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 2}))

    @cached_property
    def caller(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.client("sts").get_caller_identity()
        return found

    @property
    def is_embedded(self) -> bool:
        """Whether the endpoint is a cloud of this machine."""
        return urlsplit(self.client("sts").meta.endpoint_url).hostname in _LOOPBACK

    @property
    def pipelines(self) -> list[type[DeployedPipeline]]:
        of_stage = ((self.stage.sensors, SensorsSystem), (self.stage.etl_jobs, EtlJobsSystem))
        return [kind for settings, kind in of_stage if settings]


Check = Callable[[Visit], str]


def examine(visit: Visit) -> Iterator[Finding]:
    """Make every check that the stage asks for; what an earlier one found stops none."""
    for name, check in checks(visit.stage):
        yield _outcome(visit, name, check)


def checks(stage: Stage) -> list[tuple[str, Check]]:
    """A stage's checks by what they look at, in the order in which things are mended."""
    found: list[tuple[str, Check]] = [
        ("account", account),
        ("region", region),
        ("training image", training_image),
        ("function platform", function_platform),
        ("CDK bootstrap", bootstrap),
        ("deployment roles", deployment_roles),
    ]
    if stage.sensors:
        found += [("SMS sandbox", sms_sandbox), ("SMS spend limit", sms_spend_limit), ("SMS sender", sms_sender)]
    found += [("Lambda concurrency", lambda_concurrency), ("training instances", training_instances)]
    if stage.etl_jobs:
        found += [("Spark vCPUs", spark_vcpus)]
        if stage.etl_jobs.lake:
            found += [("data lake", data_lake)]
        if stage.etl_jobs.tickets.secret_name:
            found += [("webhook secret", webhook_secret)]
    for source_id, source in sorted(stage.sensors.sources.items()) if stage.sensors else ():
        found += [(f"source {source_id}", partial(source_answers, source=source))]
    return [*found, ("stacks", stacks), ("operations addresses", operations_addresses), ("running", running)]


def _outcome(visit: Visit, name: str, check: Check) -> Finding:
    try:
        return Finding(name, Outcome.PASSED, check(visit))
    except CheckFailedError as error:
        return Finding(name, Outcome.FAILED, str(error), error.remedy)
    except NotCheckedError as error:
        return Finding(name, Outcome.NOT_CHECKED, str(error))
    except ClientError as error:
        told = error.response["Error"]
        why = f"{error.operation_name} was refused: {told.get('Message') or told.get('Code')}"
        if visit.is_embedded:
            why = f"the embedded cloud does not answer {error.operation_name}"
        return Finding(name, Outcome.NOT_CHECKED, why)
    except BotoCoreError as error:
        return Finding(name, Outcome.NOT_CHECKED, str(error))


def _is(error: ClientError, codes: set[str]) -> bool:
    return error.response["Error"]["Code"] in codes


# --- the account ---


def account(visit: Visit) -> str:
    try:
        caller = visit.caller
    except (ClientError, BotoCoreError) as error:
        where = f"; {visit.client('sts').meta.endpoint_url} is asked" if visit.is_embedded else ""
        raise CheckFailedError(
            f"AWS does not know who asks: {error}{where}",
            "Log in (`aws sso login`, or `aws configure`), or name a profile in AWS_PROFILE;"
            " for an embedded cloud, `overcut cloud up`.",
        ) from error
    return f"{caller['Account']}{', an embedded cloud' if visit.is_embedded else ''}, as {caller['Arn']}"


def region(visit: Visit) -> str:
    name = visit.stage.region
    try:
        told = visit.client("account").get_region_opt_status(RegionName=name)["RegionOptStatus"]
    except ClientError as error:
        if _is(error, {"ValidationException"}):
            raise CheckFailedError(f"AWS has no region {name}", "Correct region in the stage file.") from error
        raise
    if told not in {"ENABLED", "ENABLED_BY_DEFAULT"}:
        raise CheckFailedError(
            f"{name} is {told.lower()} in this account",
            f"Enable it: `aws account enable-region --region-name {name}`; that takes minutes to hours.",
        )
    return f"{name} is enabled"


def training_image(visit: Visit) -> str:
    try:
        registry = registry_account(visit.stage.region)
    except NoTrainingImageError as error:
        raise CheckFailedError(str(error), "Put the stage into one of these regions.") from error
    return f"SageMaker's scikit-learn image is in the registry of {registry}"


def function_platform(visit: Visit) -> str:
    told = visit.stage.functions
    here = f"{platform.machine()}, Python {sys.version_info.major}.{sys.version_info.minor}"
    own = "host" in (told.platform, told.python)
    if own and not visit.is_embedded:
        raise CheckFailedError(
            f"functions are bundled for this machine ({here}), and Lambda runs Python 3.13 on arm64 or x86_64",
            "Take platform and python out of [functions].",
        )
    if visit.is_embedded and not (told.platform == told.python == "host"):
        raise CheckFailedError(
            f"functions are bundled for Lambda, and the embedded cloud runs them on this machine ({here})",
            'Set platform = "host" and python = "host" in [functions], as config/local.toml does.',
        )
    return f"bundled for this machine ({here})" if own else f"Python {told.python} on {told.platform}"


def bootstrap(visit: Visit) -> str:
    remedy = f"`cdk bootstrap aws://{visit.caller['Account']}/{visit.stage.region}`"
    name = f"/cdk-bootstrap/{QUALIFIER}/version"
    try:
        version = int(visit.client("ssm").get_parameter(Name=name)["Parameter"]["Value"])
    except ClientError as error:
        if _is(error, _MISSING):
            raise CheckFailedError(f"{visit.stage.region} was never bootstrapped for CDK", f"{remedy}.") from error
        raise
    if version < BOOTSTRAP_VERSION:
        raise CheckFailedError(
            f"the bootstrap is of version {version}; the stacks need {BOOTSTRAP_VERSION}", f"{remedy}: it brings it up."
        )
    try:
        stack = visit.client("cloudformation").describe_stacks(StackName="CDKToolkit")["Stacks"][0]
    except ClientError as error:
        if _is(error, _MISSING):
            return f"version {version}; its stack has a name of its own"
        raise
    if not _is_whole(stack["StackStatus"]):
        raise CheckFailedError(f"stack CDKToolkit is {stack['StackStatus']}", f"Delete it, then {remedy}.")
    return f"version {version}"


def _is_whole(stack_status: str) -> bool:
    return stack_status in {
        "CREATE_COMPLETE",
        "UPDATE_COMPLETE",
        "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
        "UPDATE_ROLLBACK_COMPLETE",
        "IMPORT_COMPLETE",
    }


def deployment_roles(visit: Visit) -> str:
    """By assuming them, for it is the only way to know; the credentials are thrown away."""
    own, where = visit.caller["Account"], visit.stage.region
    for purpose in ("deploy", "file-publishing"):
        role = f"cdk-{QUALIFIER}-{purpose}-role-{own}-{where}"
        try:
            visit.client("sts").assume_role(RoleArn=f"arn:aws:iam::{own}:role/{role}", RoleSessionName="overcut-doctor")
        except ClientError as error:
            if _is(error, {"AccessDenied"}):
                raise CheckFailedError(
                    f"{visit.caller['Arn']} may not assume {role}, or there is none",
                    f"Whoever deploys needs sts:AssumeRole on arn:aws:iam::{own}:role/cdk-{QUALIFIER}-*.",
                ) from error
            raise
    return "the caller may assume the roles that CDK deploys in"


# --- texts ---


def sms_sandbox(visit: Visit) -> str:
    if visit.client("sns").get_sms_sandbox_account_status()["IsInSandbox"]:
        raise CheckFailedError(
            "SMS is in the sandbox: only verified numbers are texted",
            f"Ask AWS to move it out, which can take weeks: {_SMS}/sns-sms-sandbox-moving-to-production.html",
        )
    return "SMS is out of the sandbox"


def sms_spend_limit(visit: Visit) -> str:
    if not visit.stage.sensors:
        raise NotCheckedError("the stage sends no texts")
    wanted = visit.stage.sensors.text_spend_limit_usd
    told = visit.client("sns").get_sms_attributes(attributes=["MonthlySpendLimit"])["attributes"]
    limit = float(told.get("MonthlySpendLimit") or DEFAULT_SPEND_LIMIT)
    if limit < wanted:
        raise CheckFailedError(
            f"the account stops texting at {limit:g} USD a month, before the stage's {wanted:g}",
            f"Ask AWS for more ({_SMS}/channels-sms-awssupport-spend-threshold.html),"
            f" or set text_spend_limit_usd = {limit:.1f}, so that operations hear of it in time.",
        )
    return f"the account may spend {limit:g} USD a month on texts; the stage's alarm counts on {wanted:g}"


def sms_sender(visit: Visit) -> str:
    """What texts come from: a number, which the United States and Canada ask for, or a sender ID."""
    client = visit.client("pinpoint-sms-voice-v2")
    numbers, senders = client.describe_phone_numbers()["PhoneNumbers"], client.describe_sender_ids()["SenderIds"]
    if numbers:
        return f"texts can come from {', '.join(one['PhoneNumber'] for one in numbers)}"
    if any(number.startswith("+1") for number in _texted_numbers(visit)):
        raise CheckFailedError(
            "somebody with a number of the United States or Canada is to be texted, and the account has no number",
            f"Get one to text from: {_SMS}/channels-sms-originating-identities-origination-numbers.html",
        )
    if senders:
        return f"texts can come from {', '.join(one['SenderId'] for one in senders)}"
    raise NotCheckedError(
        "the account has neither number nor sender ID; some countries want one:"
        " https://docs.aws.amazon.com/sms-voice/latest/userguide/phone-numbers-sms-by-country.html"
    )


def _texted_numbers(visit: Visit) -> list[str]:
    """The phone numbers that the deployed stage texts; none before it is deployed, for they are in no file."""
    try:
        topic = SensorsSystem.deployed(visit.stage).output("AlertsTopic")
    except NotDeployedError:
        return []
    return [one["Endpoint"] for one in _subscriptions(visit, topic)]


def _subscriptions(visit: Visit, topic: str) -> list[dict[str, str]]:
    pages = visit.client("sns").get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
    return [one for page in pages for one in page["Subscriptions"]]


# --- quotas ---


def functions_at_once(stage: Stage) -> int:
    """How many functions of a stage may run at the same moment."""
    needed = 0
    if stage.sensors:
        needed += POLLS * len(stage.sensors.sources) + LOTS + 1 + min(EXPORTS, stage.sensors.export_buckets)
    if stage.etl_jobs:
        needed += min(PREDICTIONS, stage.etl_jobs.buckets) + 1
    return needed


def lambda_concurrency(visit: Visit) -> str:
    free = visit.client("lambda").get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
    needed = functions_at_once(visit.stage)
    if free < needed:
        raise CheckFailedError(
            f"{free} functions may run at once in this account and region; the stage runs up to {needed}",
            f'Ask for more "Concurrent executions" of AWS Lambda: {_QUOTAS}.',
        )
    return f"{free} functions may run at once; the stage runs up to {needed}"


def training_instances(visit: Visit) -> str:
    """Both pipelines may train at the same time."""
    trained_on = [one.training_instance for one in (visit.stage.sensors, visit.stage.etl_jobs) if one]
    told = []
    for instance in sorted(set(trained_on)):
        needed = trained_on.count(instance)
        has = _quota(visit, "sagemaker", f"{instance} for training job usage", needed, "Amazon SageMaker")
        told.append(f"{has:g} {instance}")
    return f"{' and '.join(told)} may train at once"


def spark_vcpus(visit: Visit) -> str:
    if not visit.stage.etl_jobs:
        raise NotCheckedError("the stage runs no Spark")
    needed = visit.stage.etl_jobs.maximum_vcpus
    has = _quota(visit, "emr-serverless", "Max concurrent vCPUs per account", needed, "Amazon EMR Serverless")
    return f"{has:g} vCPUs may run at once; the stage uses at most {needed}"


def _quota(visit: Visit, service: str, name: str, needed: int, service_name: str) -> float:
    """The value of a quota, enough for what is needed: the account's own, else what AWS gives everybody."""
    client = visit.client("service-quotas")
    for operation in ("list_service_quotas", "list_aws_default_service_quotas"):
        for page in client.get_paginator(operation).paginate(ServiceCode=service):
            for one in page["Quotas"]:
                if one["QuotaName"] == name:
                    if one["Value"] < needed:
                        raise CheckFailedError(
                            f'the quota "{name}" is {one["Value"]:g}; the stage needs {needed}',
                            f'Ask for more "{name}" of {service_name}: {_QUOTAS}.',
                        )
                    return float(one["Value"])
    raise NotCheckedError(f'{service_name} has no quota "{name}" in {visit.stage.region}')


# --- what it reads, and where it writes ---


def data_lake(visit: Visit) -> str:
    lake = visit.stage.etl_jobs.lake if visit.stage.etl_jobs else ""
    bucket, _, prefix = lake.removeprefix("s3://").partition("/")
    try:
        found = visit.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)["KeyCount"]
    except ClientError as error:
        if _is(error, _MISSING):
            raise CheckFailedError(f"there is no bucket {bucket}", "Correct lake in [etl_jobs].") from error
        raise
    if not found:
        raise CheckFailedError(
            f"nothing is in {lake}", "Correct lake in [etl_jobs], or have orchestrators write there."
        )
    return f"{lake} holds objects"


def webhook_secret(visit: Visit) -> str:
    name = visit.stage.etl_jobs.tickets.secret_name if visit.stage.etl_jobs else ""
    _secret(visit, name, "the secret that signs what is sent to the webhook")
    return f"secret {name} can be read"


def source_answers(visit: Visit, source: Source) -> str:
    """Open the stream as poll_readings does; from here, which is not where Lambda is."""
    if urlsplit(source.url).hostname in _LOOPBACK and not visit.is_embedded:
        raise CheckFailedError(
            f"{source.url} is this machine, which Lambda cannot reach", "Give the address that devices serve at."
        )
    value = _secret(visit, source.secret_name, "the Authorization header's value") if source.secret_name else ""
    try:
        Connection(stream_pool(), source.url, last_event_id="", authorization=value).close()
    except SourceError as error:
        raise CheckFailedError(f"{source.url} {error}", f"`overcut sources check {source.url}` shows more.") from error
    return f"{source.url} answers with a stream, seen from here"


def _secret(visit: Visit, name: str, holds: str) -> str:
    try:
        value: str = visit.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]
    except ClientError as error:
        if _is(error, _MISSING):
            raise CheckFailedError(
                f"there is no secret {name} in {visit.stage.region}",
                f"`aws secretsmanager create-secret --region {visit.stage.region} --name {name}"
                f" --secret-string VALUE`: {holds}.",
            ) from error
        raise
    return value


# --- what is deployed ---


def stacks(visit: Visit) -> str:
    told = []
    for kind in visit.pipelines:
        name = kind.stack(visit.stage.name)
        try:
            found = visit.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
        except ClientError as error:
            if _is(error, _MISSING):
                raise NotCheckedError(f"{name} is not deployed yet") from error
            raise
        if not _is_whole(found):
            raise CheckFailedError(
                f"stack {name} is {found}",
                "The stack's events in the console of CloudFormation say why; then `cdk deploy` again.",
            )
        told.append(f"{name} is {found}")
    return ", ".join(told)


def operations_addresses(visit: Visit) -> str:
    """Whether those who are to hear of alarms have said that they want to."""
    if visit.is_embedded:
        raise NotCheckedError("the embedded cloud sends no messages")
    if not visit.stage.operations_emails:
        raise CheckFailedError(
            "nobody hears of alarms", 'Set operations_emails = ["you@example.com"] in the stage file, and deploy.'
        )
    confirmed: set[str] = set()
    for kind in visit.pipelines:
        try:
            topic = kind.deployed(visit.stage).output("OperationsTopic")
        except NotDeployedError as error:
            raise NotCheckedError(f"{kind.stack(visit.stage.name)} is not deployed yet") from error
        found = _subscriptions(visit, topic)
        waiting = [one["Endpoint"] for one in found if not one["SubscriptionArn"].startswith("arn:")]
        if waiting:
            raise CheckFailedError(
                f"{', '.join(waiting)} did not confirm",
                "Follow the link in the message from AWS Notifications, which may lie in spam.",
            )
        confirmed.update(one["Endpoint"] for one in found)
    return f"{', '.join(sorted(confirmed))} hear of alarms"


def running(visit: Visit) -> str:
    """What `overcut status` sees."""
    try:
        found = status.look(visit.stage)
    except NotDeployedError as error:
        raise NotCheckedError("it is not deployed yet") from error
    needed = [what for one in found.values() for what in one.attention]
    if needed:
        more = f"; and {len(needed) - 1} more" if len(needed) > 1 else ""
        raise CheckFailedError(f"{needed[0]}{more}", f"{typed('status', visit.stage.reference)} shows all.")
    return "nothing needs anybody"
