"""One of the project's Lambda functions."""

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from stacks.constructs.acknowledgements import acknowledge, acknowledge_lint, acknowledge_wildcard
from stacks.constructs.bundling import ROOT, Target, make_bundle
from stacks.constructs.encryption import allow_own_key, own_key
from stacks.stage import Stage

MEMORY_MB = 128
TRACES = "https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsx-ray.html"
DEPENDS_ON_ITS_ROLE = "CDK makes it wait for its role's policy and, needlessly, names the role beside it"
_ARCHITECTURES = {"arm64": lambda_.Architecture.ARM_64}
_RETENTION = {
    1: logs.RetentionDays.ONE_DAY,
    3: logs.RetentionDays.THREE_DAYS,
    7: logs.RetentionDays.ONE_WEEK,
    14: logs.RetentionDays.TWO_WEEKS,
    30: logs.RetentionDays.ONE_MONTH,
    60: logs.RetentionDays.TWO_MONTHS,
    90: logs.RetentionDays.THREE_MONTHS,
    180: logs.RetentionDays.SIX_MONTHS,
    365: logs.RetentionDays.ONE_YEAR,
}


def shared_sources(pipeline: str) -> list[str]:
    """What of the project everything of a pipeline is shipped with: its rules, its stores, and what they stand on."""
    shared = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "lambdas" / pipeline).glob("*.py"))]
    return [
        "overcut/__init__.py",
        "overcut/formats.py",
        "overcut/plain_text.py",
        "overcut/tables.py",
        f"overcut/{pipeline}",
        "lambdas/__init__.py",
        "lambdas/runtime",
        *shared,
    ]


def log_group(scope: Construct, construct_id: str, stage: Stage) -> logs.LogGroup:
    """A log group that keeps its events as long as the stage says, and goes with the stack."""
    retention = _RETENTION[stage.functions.log_retention_days]
    key = own_key(scope, stage)
    return logs.LogGroup(
        scope, construct_id, retention=retention, removal_policy=RemovalPolicy.DESTROY, encryption_key=key
    )


class PipelineFunction(lambda_.Function):
    """A function, bundled without Docker, whose folder, import path and handler string are one name.

    Its role may write its own log and nothing else until something is granted.

    Args:
        pipeline, function: `lambdas/<pipeline>/<function>/handler.py` holds its handler.
        environment: the fields of the handler's `Settings`, but for `stage`.
        memory_mb: what Lambda gives it, and a share of a core with it: a whole one with 1,769.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        pipeline: str,
        function: str,
        description: str,
        timeout: Duration,
        environment: Mapping[str, str],
        retry_attempts: int | None = None,
        max_event_age: Duration | None = None,
        memory_mb: int = MEMORY_MB,
    ) -> None:
        logs_to = log_group(scope, f"{construct_id}Logs", stage)
        role = iam.Role(scope, f"{construct_id}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        logs_to.grant_write(role)
        allow_own_key(role, scope, stage)
        super().__init__(
            scope,
            construct_id,
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=_ARCHITECTURES.get(stage.functions.platform, lambda_.Architecture.X86_64),
            memory_size=memory_mb,
            timeout=timeout,
            description=description,
            handler=f"lambdas.{pipeline}.{function}.handler.handler",
            code=lambda_.Code.from_asset(str(_bundle(stage, pipeline, function))),
            environment={"STAGE": stage.name, **environment},
            environment_encryption=own_key(scope, stage),
            tracing=lambda_.Tracing.ACTIVE,
            log_group=logs_to,
            role=role,
            retry_attempts=retry_attempts,
            max_event_age=max_event_age,
        )
        acknowledge(self, "AwsSolutions-L1", "3.13 is what every bundle is made for and tested on, in Lambda's runtime")
        acknowledge_wildcard(self, "*", "traces have no resource: " + TRACES)
        acknowledge_lint(self, "W3005", DEPENDS_ON_ITS_ROLE)


@cache
def _workspace() -> tempfile.TemporaryDirectory[str]:
    """Where bundles are made; CDK copies them from there while the stack is constructed."""
    return tempfile.TemporaryDirectory(prefix="overcut-bundles-")


def bundle_folder(stage: Stage, name: str) -> Path:
    """Where a stage's bundle is made, for the life of this process."""
    return Path(_workspace().name) / stage.name / name


def _bundle(stage: Stage, pipeline: str, function: str) -> Path:
    return make_bundle(
        f"bundle-{function.replace('_', '-')}",
        [*shared_sources(pipeline), f"lambdas/{pipeline}/{function}"],
        Target(stage.functions.platform, stage.functions.python_version),
        bundle_folder(stage, f"{pipeline}-{function}"),
    )
