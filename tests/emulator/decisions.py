"""What the roles of a demonstration asked for, beside what its template grants them."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, logical_name
from tests.infrastructure.templates import as_list, identity_statements

# a role, an action and the resource of a statement, by logical name
Grant = tuple[str, str, str]

FUNCTIONAL = "tests/functional/test_"
# what the demonstrations do not come to, and the test whose function asks for it
SHOWN_BY: dict[Grant, str] = {
    ("DetectionDetectAnomaliesRole", "dynamodb:Query", "StorageIncidents"): (
        f"{FUNCTIONAL}detect_anomalies.py::test_a_run_of_before_the_newest_incident_is_kept_as_missed_and_not_texted"
    ),
    ("DetectionDetectAnomaliesRole", "sqs:SendMessage", "DetectionParked"): (
        f"{FUNCTIONAL}detect_anomalies.py::test_a_record_that_holds_no_reading_is_parked_and_the_others_go_on"
    ),
    ("DetectionWatchSensorsRole", "dynamodb:BatchGetItem", "StorageIncidents"): (
        f"{FUNCTIONAL}watch_sensors.py::test_an_owed_text_is_sent_once"
    ),
    ("DetectionWatchSensorsRole", "dynamodb:UpdateItem", "StorageIncidents"): (
        f"{FUNCTIONAL}watch_sensors.py::test_an_owed_text_is_sent_once"
    ),
    ("DetectionWatchSensorsRole", "sns:Publish", "AlertingAlerts"): (
        f"{FUNCTIONAL}watch_sensors.py::test_an_owed_text_is_sent_once"
    ),
    **{
        ("DetectionWatchSensorsRole", f"dynamodb:{action}", f"Storage{table}"): f"{FUNCTIONAL}watch_sensors.py::{test}"
        for action, table, test in (
            ("GetItem", "Incidents", "test_a_silent_sensor_is_told_once_and_so_is_that_it_is_heard_again"),
            ("PutItem", "Incidents", "test_a_silent_sensor_is_told_once_and_so_is_that_it_is_heard_again"),
            ("Scan", "Sensors", "test_a_silent_sensor_is_told_once_and_so_is_that_it_is_heard_again"),
            ("GetItem", "Sources", "test_a_dead_source_is_one_incident_and_one_text_to_each_contact_of_its_sensors"),
        )
    },
    ("IngestionPollReadingsRole", "dynamodb:UpdateItem", "StorageSensors"): (
        f"{FUNCTIONAL}poll_readings.py::test_a_sensor_registers_itself_once"
    ),
    ("IngestionPollReadingsRole", "s3:PutObject", "StorageData/quarantine/*"): (
        f"{FUNCTIONAL}poll_readings.py::test_each_bad_event_is_kept_with_its_reason_and_the_stream_goes_on"
    ),
    ("TrainingJobRole", "dynamodb:UpdateItem", "StorageSensors"): (
        "tests/training/test_train_sensors.py::test_a_sensor_with_too_few_readings_says_until_when_it_learns"
    ),
    ("TrainingJobRole", "dynamodb:Query", "StorageIncidents"): (
        "tests/training/test_train_sensors.py::test_what_lasts_is_the_new_normal"
    ),
    ("TrainingJobRole", "dynamodb:UpdateItem", "StorageIncidents"): (
        "tests/training/test_train_sensors.py::test_what_lasts_is_the_new_normal"
    ),
    ("TrainingJobRole", "s3:GetObject", "StorageData/models/etl_jobs/*"): (
        "tests/training/test_train_etl_jobs.py::test_a_worse_model_is_held_and_the_one_before_it_goes_on"
    ),
    (
        "PredictionOpenTicketsRole",
        "ssm:DescribeOpsItems",
        "*",
    ): f"{FUNCTIONAL}ticket_sinks.py::test_opening_again_finds_one_that_was_resolved_meanwhile",
}
_AWS = "https://docs.aws.amazon.com"
# what the embedded cloud does not ask of a role: role, action, and who does on AWS, or what here does without a cloud
ASKED_FOR_BY = [
    (re.compile(role), re.compile(action), why)
    for role, action, why in (
        (
            r"(?<!Job)Role$",
            r"^logs:(CreateLogStream|PutLogEvents)$",
            f"{_AWS}/lambda/latest/dg/monitoring-cloudwatchlogs.html",
        ),
        (r"(Train|Export|Predict)Role$", r"^xray:", f"{_AWS}/step-functions/latest/dg/concepts-xray-tracing.html"),
        (r"(?<!Job)Role$", r"^xray:", f"{_AWS}/lambda/latest/dg/services-xray.html"),
        (r"(Train|Export|Predict)Role$", r"^logs:", f"{_AWS}/step-functions/latest/dg/cw-logs.html"),
        (r"(Train|Export|Predict)Role$", r"^lambda:", f"{_AWS}/step-functions/latest/dg/connect-lambda.html"),
        (r"TrainRole$", r"^sagemaker:", f"{_AWS}/step-functions/latest/dg/connect-sagemaker.html"),
        (
            r"(Train|Predict)Role$",
            r"^events:",
            f"{_AWS}/step-functions/latest/dg/service-integration-iam-templates.html",
        ),
        (r"(Train|Predict)Role$", r"^iam:PassRole$", f"{_AWS}/IAM/latest/UserGuide/id_roles_use_passrole.html"),
        (r"(Train|Predict)Role$", r"^emr-serverless:", f"{_AWS}/step-functions/latest/dg/emr-serverless-iam.html"),
        (r"(PollReadings|WatchSensors)Role$", r"^s3:ListBucket$", f"{_AWS}/AmazonS3/latest/API/API_GetObject.html"),
        (r"TrainRole$", r"^s3:GetObject$", f"{_AWS}/step-functions/latest/dg/supported-services-awssdk.html"),
        (r"TrainRole$", r"^sns:", f"{_AWS}/step-functions/latest/dg/connect-sns.html"),
        (r"EventsRole$", r"^states:StartExecution$", f"{_AWS}/eventbridge/latest/userguide/eb-use-identity-based.html"),
        (r"TrainingJobRole$", r"^(ecr|logs):", f"{_AWS}/sagemaker/latest/dg/sagemaker-roles.html"),
        (r"ExtractionRole$", r"^s3:", f"{_AWS}/emr/latest/EMR-Serverless-UserGuide/getting-started.html"),
        (
            r"DetectAnomaliesRole$",
            r"^s3:(ListBucket|PutObject)$",
            f"{_AWS}/lambda/latest/dg/services-dynamodb-errors.html",
        ),
        (r"DetectAnomaliesRole$", r"^dynamodb:.*Stream|^dynamodb:Get", f"{_AWS}/lambda/latest/dg/with-ddb.html"),
    )
]


def refused(state: Path) -> list[Any]:
    """Whatever a role asked for in the demonstration of a state folder, and was not granted."""
    return [decided for decided in _decisions(state) if not decided[3]]


def never_asked_for(state: Path, stack: str) -> set[Grant]:
    """The grants of a stack's template that nothing in the demonstration needed."""
    template = json.loads((state / "cloud" / "cdk.out" / f"{stack}.template.json").read_text())
    asked = list(_decisions(state))
    assert asked
    unused = set()
    for role, statement in identity_statements(template):
        for resource in as_list(statement["Resource"]):
            about = re.compile(_pattern(resource), re.IGNORECASE)
            for action in as_list(statement["Action"]):
                if not any(
                    # CloudFormation keeps 51 characters of stack and logical id before what it adds
                    f"/{f'{stack}-{role}'[:51]}" in principal and action == asked_action and about.fullmatch(arn)
                    for principal, asked_action, arn, _ in asked
                ):
                    unused.add((logical_name(role), action, _named(resource)))
    return unused


def _decisions(state: Path) -> Iterator[Any]:
    """Principal, action, resource, and whether it may."""
    yield from map(json.loads, (state / "cloud" / "decisions.jsonl").read_text().splitlines())


def _pattern(resource: Any) -> str:
    """What matches the ARNs of a statement's resource: a physical name holds the logical id."""
    match resource:
        case str():
            return re.escape(resource).replace(r"\*", ".*").replace(r"\?", ".")
        case {"Ref": name} | {"Fn::GetAtt": [name, _]}:
            return ".*" if name.startswith("AWS::") else f".*{name}.*"
        case {"Fn::Join": [_, parts]}:
            return "".join(map(_pattern, parts))
        case {"Fn::Sub": _}:
            return ".*"
    raise AssertionError(resource)


def _named(resource: Any) -> str:
    match resource:
        case str():
            return resource
        case {"Ref": name} | {"Fn::GetAtt": [name, _]}:
            return "" if name.startswith("AWS::") else logical_name(name)
        case {"Fn::Join": [_, parts]}:
            return "".join(map(_named, parts))
    return ""


def unexplained(state: Path, stack: str) -> set[Grant]:
    """Those of `never_asked_for` that no page of AWS and no test asks for; the others are printed, with who does."""
    found, left = {}, set()
    for grant in never_asked_for(state, stack):
        role, action, _ = grant
        pages = [page for of_role, of_action, page in ASKED_FOR_BY if of_role.search(role) and of_action.search(action)]
        if grant in SHOWN_BY:
            file, _, test = SHOWN_BY[grant].partition("::")
            assert f"def {test}(" in (ROOT / file).read_text(), SHOWN_BY[grant]
            pages.insert(0, SHOWN_BY[grant])
        if pages:
            found[grant] = pages[0]
        else:
            left.add(grant)
    told: dict[tuple[str, str], list[str]] = {}
    for (role, action, _), who in sorted(found.items()):
        told.setdefault((role, who), []).append(action)
    sys.stdout.write(f"\nGranted, and not asked for by the demonstration of {stack}:\n")
    sys.stdout.writelines(f"{role}: {', '.join(dict.fromkeys(of))}: {who}\n" for (role, who), of in told.items())
    return left
