"""What the roles of a demonstration needed, beside what its template grants them.

A grant is one action with one resource. It is needed when something that was allowed would have been refused without
it: the embedded cloud evaluates each request again without each grant, see `workbench.cloud.policies`.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, logical_name
from tests.infrastructure.templates import as_list, identity_statements

# a role, an action and the resource of a statement, by logical name
Grant = tuple[str, str, str]

# what the demonstrations do not come to, and `test_roles.py` does
RARE: set[Grant] = {
    ("DetectionDetectAnomaliesRole", "sqs:SendMessage", "DetectionParked"),
    ("DetectionWatchSensorsRole", "dynamodb:BatchGetItem", "StorageIncidents"),
    ("DetectionWatchSensorsRole", "dynamodb:GetItem", "StorageIncidents"),
    ("DetectionWatchSensorsRole", "dynamodb:GetItem", "StorageSources"),
    ("DetectionWatchSensorsRole", "dynamodb:PutItem", "StorageIncidents"),
    ("DetectionWatchSensorsRole", "dynamodb:Scan", "StorageSensors"),
    ("DetectionWatchSensorsRole", "dynamodb:UpdateItem", "StorageIncidents"),
    ("DetectionWatchSensorsRole", "sns:Publish", "AlertingAlerts"),
    ("PageShowIncidentRole", "dynamodb:BatchGetItem", "StorageIncidents"),
    ("PageShowIncidentRole", "dynamodb:GetItem", "StorageCutoffs"),
    ("PageShowIncidentRole", "dynamodb:GetItem", "StorageIncidents"),
    ("PageShowIncidentRole", "dynamodb:GetItem", "StorageSensors"),
    ("PageShowIncidentRole", "dynamodb:Query", "StorageIncidents"),
    ("PageShowIncidentRole", "dynamodb:Query", "StorageReadings"),
    ("PageShowIncidentRole", "dynamodb:UpdateItem", "StorageIncidents"),
    ("IngestionPollReadingsRole", "dynamodb:UpdateItem", "StorageSensors"),
    ("IngestionPollReadingsRole", "s3:PutObject", "StorageData/quarantine/*"),
}
# what neither comes to, and the test on moto, which evaluates no policy, that calls it
CALLED_BY: dict[Grant, str] = {
    ("DetectionDetectAnomaliesRole", "dynamodb:Query", "StorageIncidents"): (
        "tests/functional/test_detect_anomalies.py"
        "::test_a_run_of_before_the_newest_incident_is_kept_as_missed_and_not_texted"
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
    ("PredictionOpenTicketsRole", "ssm:DescribeOpsItems", "*"): (
        "tests/functional/test_ticket_sinks.py::test_opening_again_finds_one_that_was_resolved_meanwhile"
    ),
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
        # the embedded cloud asks for the database alone
        (
            r"(ExportTables|RegisterPartitions)Role$",
            r"^glue:",
            f"{_AWS}/glue/latest/dg/glue-specifying-resource-arns.html",
        ),
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


def spared(state: Path, stack: str) -> list[Any]:
    """What a stack's roles were allowed, and would have been without any one grant: two grants are for the same."""
    roles = [_begins(stack, role) for role in _granted(state, stack)]
    return [
        [principal, action, resource]
        for principal, action, resource, may, numbers in _decisions(state)
        if may and not numbers and any(role in principal for role in roles)
    ]


def needed(state: Path, stack: str) -> set[Grant]:
    """The grants of a stack's template that something in a state folder's cloud needed."""
    granted = _granted(state, stack)
    found: set[Grant] = set()
    for principal, action, _, _, numbers in _decisions(state):
        for role, grants in granted.items():
            if _begins(stack, role) in principal:
                found.update(grants[number] for number in numbers)
                assert all(grants[number][1] == action for number in numbers), (principal, action)
    assert found
    return found


def _begins(stack: str, role: str) -> str:
    """How a deployed role's name begins: CloudFormation keeps 51 characters of stack and logical id."""
    return f"/{f'{stack}-{role}'[:51]}"


def never_needed(state: Path, stack: str) -> set[Grant]:
    """The grants of a stack's template that nothing needed."""
    return {grant for grants in _granted(state, stack).values() for grant in grants} - needed(state, stack)


def _granted(state: Path, stack: str) -> dict[str, list[Grant]]:
    """The grants of each role by its logical id, in the order of its policy."""
    template = json.loads((state / "cloud" / "cdk.out" / f"{stack}.template.json").read_text())
    granted: dict[str, list[Grant]] = defaultdict(list)
    for role, statement in identity_statements(template):
        granted[role] += [
            (logical_name(role), action, _named(resource))
            for resource in as_list(statement["Resource"])
            for action in as_list(statement["Action"])
        ]
    return granted


def _decisions(state: Path) -> Iterator[Any]:
    """Principal, action, resource, whether it may, and the numbers of the grants that were needed for it."""
    yield from map(json.loads, (state / "cloud" / "decisions.jsonl").read_text().splitlines())


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
    """Those of `never_needed` that no page of AWS and no test asks for; the others are printed, with who does."""
    found, left = {}, set()
    for grant in never_needed(state, stack):
        role, action, _ = grant
        pages = [page for of_role, of_action, page in ASKED_FOR_BY if of_role.search(role) and of_action.search(action)]
        if grant in RARE:
            pages.insert(0, "tests/emulator/test_roles.py")
        if grant in CALLED_BY:
            file, _, test = CALLED_BY[grant].partition("::")
            assert f"def {test}(" in (ROOT / file).read_text(), CALLED_BY[grant]
            pages.insert(0, CALLED_BY[grant])
        if pages:
            found[grant] = pages[0]
        else:
            left.add(grant)
    told: dict[str, tuple[set[str], set[str]]] = {}
    for (role, action, _), who in sorted(found.items()):
        roles, actions = told.setdefault(who, (set(), set()))
        roles.add(role)
        actions.add(action)
    sys.stdout.write(f"\n{stack}: {len(needed(state, stack))} grants are needed by the demonstration; the others by\n")
    for who, (roles, actions) in told.items():
        sys.stdout.write(f"{who}: {', '.join(sorted(actions))} ({', '.join(sorted(roles))})\n")
    return left
