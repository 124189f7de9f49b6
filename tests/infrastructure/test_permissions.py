"""Who may do what: every action of every role, named, and why some of them cannot name a resource."""

import re
from unittest.mock import ANY

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Template

from stacks.etl_jobs.extraction import Extraction
from stacks.etl_jobs.storage import Storage
from stacks.stage import read_stage
from tests.conftest import logical_name, resources_of, synthesized
from tests.infrastructure.templates import (
    Permissions,
    as_list,
    identity_statements,
    permissions,
    resource_statements,
    text,
)

STAGES = ["prod", "dev", "local"]
EVERY_TEMPLATE = pytest.mark.parametrize(
    ("stage", "pipeline"), [(stage, pipeline) for pipeline in ("sensors", "etl_jobs") for stage in STAGES]
)

_LOG_DELIVERY = "log delivery is the account's: https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html"
_TRACES = "traces have no resource: https://docs.aws.amazon.com/step-functions/latest/dg/concepts-xray-tracing.html"
# actions that AWS lets be granted on `*` alone
WITHOUT_A_RESOURCE = {
    "dynamodb:ListStreams": "a list of streams has no resource; Lambda asks for it to read any of them",
    "ecr:GetAuthorizationToken": "a token is for the account's registries, not for one repository",
    "logs:CreateLogDelivery": _LOG_DELIVERY,
    "logs:DeleteLogDelivery": _LOG_DELIVERY,
    "logs:DescribeLogGroups": _LOG_DELIVERY,
    "logs:DescribeResourcePolicies": _LOG_DELIVERY,
    "logs:GetLogDelivery": _LOG_DELIVERY,
    "logs:ListLogDeliveries": _LOG_DELIVERY,
    "logs:PutResourcePolicy": _LOG_DELIVERY,
    "logs:UpdateLogDelivery": _LOG_DELIVERY,
    "ssm:CreateOpsItem": "what is not there yet has no name",
    "ssm:DescribeOpsItems": "a search goes through every item of the account",
    "xray:GetSamplingRules": _TRACES,
    "xray:GetSamplingTargets": _TRACES,
    "xray:PutTelemetryRecords": _TRACES,
    "xray:PutTraceSegments": _TRACES,
}


def registering(pipeline: str, *tables: str) -> Permissions:
    """What it takes to register days of a pipeline's tables: of the catalogue, the database, and each table."""
    catalogue, database = "arn:aws:glue:eu-central-1:123456789012", f"overcut_prod_{pipeline}"
    names = ["catalog", f"database/{database}", *(f"table/{database}/{table}" for table in tables)]
    actions = {"glue:BatchCreatePartition", "glue:GetPartitions", "glue:GetTable"}
    return {f"{catalogue}:{name}": actions for name in names}


WRITE_LOG = {"logs:CreateLogStream", "logs:PutLogEvents"}
WRITE_TRACE = {"xray:PutTelemetryRecords", "xray:PutTraceSegments"}
FOR_LOGS_AND_TRACES = {action for action in WITHOUT_A_RESOURCE if action.startswith(("logs:", "xray:"))}
IN_PROD: dict[str, Permissions] = {
    "IngestionPollReadingsRole": {
        "IngestionPollReadingsLogs": WRITE_LOG,
        "*": WRITE_TRACE,
        "StorageReadings": {"dynamodb:BatchWriteItem"},
        "StorageSensors": {"dynamodb:BatchGetItem", "dynamodb:UpdateItem"},
        "StorageSources": {"dynamodb:GetItem", "dynamodb:UpdateItem"},
        "StoragePendingExports": {"dynamodb:BatchWriteItem"},
        "StorageData/quarantine/*": {"s3:PutObject"},
        "StorageData/seen/*": {"s3:GetObject", "s3:PutObject"},
        "StorageData": {"s3:ListBucket"},
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:overcut/prod/device-??????": {
            "secretsmanager:GetSecretValue"
        },
    },
    "DetectionDetectAnomaliesRole": {
        "DetectionDetectAnomaliesLogs": WRITE_LOG,
        "StorageReadings": {"dynamodb:Query"},
        "StorageReadings.StreamArn": {
            "dynamodb:DescribeStream",
            "dynamodb:GetRecords",
            "dynamodb:GetShardIterator",
        },
        "*": {"dynamodb:ListStreams", *WRITE_TRACE},
        "StorageSensors": {"dynamodb:GetItem"},
        "StorageCutoffs": {"dynamodb:Query"},
        "StorageIncidents": {"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:Query"},
        "StorageData/models/sensors/*": {"s3:GetObject"},
        # Lambda itself, for what the function could not process
        "StorageData": {"s3:ListBucket"},
        "StorageData/aws/lambda/*": {"s3:PutObject"},
        "AlertingAlerts": {"sns:Publish"},
        "DetectionParked": {"sqs:SendMessage"},
    },
    "PageShowIncidentRole": {
        "PageShowIncidentLogs": WRITE_LOG,
        "*": WRITE_TRACE,
        "StorageIncidents": {f"dynamodb:{action}" for action in ("BatchGetItem", "GetItem", "Query", "UpdateItem")},
        "StorageReadings": {"dynamodb:Query"},
        "StorageSensors": {"dynamodb:GetItem"},
        "StorageCutoffs": {"dynamodb:GetItem"},
    },
    "DetectionWatchSensorsRole": {
        "DetectionWatchSensorsLogs": WRITE_LOG,
        "*": WRITE_TRACE,
        "StorageIncidents": {f"dynamodb:{action}" for action in ("BatchGetItem", "GetItem", "PutItem", "UpdateItem")},
        "StorageIncidents/index/attention": {"dynamodb:Query"},
        "StorageSensors": {"dynamodb:Scan"},
        "StorageSources": {"dynamodb:GetItem"},
        "StorageData/seen/*": {"s3:GetObject"},
        "StorageData": {"s3:ListBucket"},
        "AlertingAlerts": {"sns:Publish"},
    },
    "TrainingExportTrainingSetRole": {
        "TrainingExportTrainingSetLogs": WRITE_LOG,
        "*": WRITE_TRACE,
        "StorageReadings": {"dynamodb:Query"},
        "StorageSensors/index/bucket": {"dynamodb:Query"},
        "StoragePendingExports": {"dynamodb:Query", "dynamodb:BatchWriteItem", "dynamodb:DeleteItem"},
        "StorageData/readings/*": {"s3:PutObject"},
    },
    "TrainingExportTablesRole": {
        "TrainingExportTablesLogs": WRITE_LOG,
        "*": WRITE_TRACE,
        "StorageSensors": {"dynamodb:Scan"},
        "StorageSensors/index/bucket": {"dynamodb:Query"},
        "StorageCutoffs": {"dynamodb:Query"},
        "StorageModelEvents": {"dynamodb:Scan"},
        "StorageIncidents": {"dynamodb:Scan"},
        "StorageData": {"s3:ListBucket"},
        "StorageData/tables/*": {"s3:PutObject"},
        **registering("sensors", "readings", "cutoffs"),
    },
    "TrainingExportRole": {
        "TrainingExportTrainingSet": {"lambda:InvokeFunction"},
        "TrainingExportTables": {"lambda:InvokeFunction"},
        "*": FOR_LOGS_AND_TRACES,
    },
    "TrainingTrainRole": {
        "TrainingExportTrainingSet": {"lambda:InvokeFunction"},
        "TrainingExportTables": {"lambda:InvokeFunction"},
        "arn:aws:sagemaker:eu-central-1:123456789012:training-job/sensors-*": {
            "sagemaker:AddTags",
            "sagemaker:CreateTrainingJob",
            "sagemaker:DescribeTrainingJob",
            "sagemaker:StopTrainingJob",
        },
        # how Step Functions hears that a training job is over
        "arn:aws:events:eu-central-1:123456789012:rule/StepFunctionsGetEventsForSageMakerTrainingJobsRule": {
            "events:DescribeRule",
            "events:PutRule",
            "events:PutTargets",
        },
        "arn:aws:iam::123456789012:role/TrainingJobRole": {"iam:PassRole"},
        "StorageData/training-jobs/sensors/*/decision.json": {"s3:GetObject"},
        "OperationsTopic": {"sns:Publish"},
        "*": FOR_LOGS_AND_TRACES,
    },
    "TrainingJobRole": {
        "StorageSensors": {"dynamodb:Scan", "dynamodb:UpdateItem"},
        "StorageIncidents": {"dynamodb:Query", "dynamodb:Scan", "dynamodb:UpdateItem"},
        "StorageCutoffs": {"dynamodb:BatchWriteItem", "dynamodb:Query"},
        "StorageModelEvents": {"dynamodb:PutItem"},
        "StorageData": {"s3:ListBucket"},
        "StorageData/readings/*": {"s3:GetObject"},
        "StorageData/models/sensors/*": {"s3:PutObject"},
        "StorageData/training-jobs/sensors/*": {"s3:PutObject"},
        "arn:aws:s3:::cdk-hnb659fds-assets-123456789012-eu-central-1/SOURCE.gz": {"s3:GetObject"},
        "arn:aws:ecr:eu-central-1:492215442770:repository/sagemaker-scikit-learn": {
            "ecr:BatchCheckLayerAvailability",
            "ecr:BatchGetImage",
            "ecr:GetDownloadUrlForLayer",
        },
        "arn:aws:logs:eu-central-1:123456789012:log-group:/aws/sagemaker/TrainingJobs*": {
            "logs:CreateLogGroup",
            "logs:CreateLogStream",
            "logs:DescribeLogStreams",
            "logs:PutLogEvents",
        },
        "*": {"ecr:GetAuthorizationToken"},
    },
    "TrainingExportEventsRole": {"TrainingExport": {"states:StartExecution"}},
    "TrainingTrainEventsRole": {"TrainingTrain": {"states:StartExecution"}},
}


_ASSETS = "arn:aws:s3:::cdk-hnb659fds-assets-123456789012-eu-central-1"
_OBJECTS = {"s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"}
_WAIT = {"events:DescribeRule", "events:PutRule", "events:PutTargets"}
_RULES = "arn:aws:events:eu-central-1:123456789012:rule"
_RUN_SPARK = {
    "ExtractionApplication": {"emr-serverless:StartJobRun"},
    "ExtractionApplication/jobruns/*": {"emr-serverless:CancelJobRun", "emr-serverless:GetJobRun"},
    f"{_RULES}/StepFunctionsGetEventsForEMRServerlessJobRule": _WAIT,
    "arn:aws:iam::123456789012:role/ExtractionRole": {"iam:PassRole"},
}
ETL_JOBS_IN_PROD: dict[str, Permissions] = {
    "ExtractionRole": {
        f"{_ASSETS}/SOURCE.py": {"s3:GetObject"},
        "arn:aws:s3:::example-data-lake": {"s3:ListBucket"},
        "arn:aws:s3:::example-data-lake/job-runs": {"s3:GetObject"},
        "arn:aws:s3:::example-data-lake/job-runs/*": {"s3:GetObject"},
        "StorageData": {"s3:ListBucket"},
        "StorageData/historical*": _OBJECTS,
        "StorageData/recent*": _OBJECTS,
        "StorageData/rejected*": _OBJECTS,
        "StorageData/extractions*": _OBJECTS,
    },
    "TrainingJobRole": {
        "StorageData": {"s3:ListBucket"},
        "StorageData/historical/*": {"s3:GetObject"},
        "StorageData/models/etl_jobs/*": {"s3:GetObject", "s3:PutObject"},
        "StorageData/training-jobs/etl_jobs/*": {"s3:PutObject"},
        **{
            resource: actions
            for resource, actions in IN_PROD["TrainingJobRole"].items()
            if resource == "*" or ":ecr:" in resource or ":logs:" in resource
        },
        f"{_ASSETS}/SOURCE.gz": {"s3:GetObject"},
    },
    "TrainingTrainRole": {
        **_RUN_SPARK,
        "arn:aws:sagemaker:eu-central-1:123456789012:training-job/etl-jobs-*": {
            "sagemaker:AddTags",
            "sagemaker:CreateTrainingJob",
            "sagemaker:DescribeTrainingJob",
            "sagemaker:StopTrainingJob",
        },
        f"{_RULES}/StepFunctionsGetEventsForSageMakerTrainingJobsRule": _WAIT,
        "arn:aws:iam::123456789012:role/TrainingJobRole": {"iam:PassRole"},
        "StorageData/models/etl_jobs/decisions/*.json": {"s3:GetObject"},
        "OperationsTopic": {"sns:Publish"},
        "*": FOR_LOGS_AND_TRACES,
    },
    "PredictionPredictRole": {
        **_RUN_SPARK,
        "PredictionPredictAnomalies": {"lambda:InvokeFunction"},
        "PredictionOpenTickets": {"lambda:InvokeFunction"},
        "PredictionRegisterPartitions": {"lambda:InvokeFunction"},
        "*": FOR_LOGS_AND_TRACES,
    },
    "PredictionRegisterPartitionsRole": {
        "PredictionRegisterPartitionsLogs": WRITE_LOG,
        "*": WRITE_TRACE,
        "StorageData": {"s3:ListBucket"},
        **registering("etl_jobs", "job_runs", "predictions"),
    },
    "PredictionPredictAnomaliesRole": {
        "PredictionPredictAnomaliesLogs": WRITE_LOG,
        "*": WRITE_TRACE,
        "StorageData": {"s3:ListBucket"},
        "StorageData/recent/*": {"s3:GetObject"},
        "StorageData/models/etl_jobs/promoted/*": {"s3:GetObject"},
        "StorageData/extractions/*": {"s3:GetObject"},
        "StorageData/predictions/*": {"s3:PutObject"},
        "StorageData/tables/predictions/*": {"s3:PutObject"},
    },
    "PredictionOpenTicketsRole": {
        "PredictionOpenTicketsLogs": WRITE_LOG,
        "StorageTickets": {f"dynamodb:{action}" for action in ("BatchGetItem", "GetItem", "PutItem", "UpdateItem")},
        "StorageTickets/index/attention": {"dynamodb:Query"},
        "StorageData": {"s3:ListBucket"},
        "StorageData/predictions/*": {"s3:GetObject"},
        "StorageData/extractions/*": {"s3:GetObject"},
        "arn:aws:ssm:eu-central-1:123456789012:opsitem/*": {"ssm:GetOpsItem", "ssm:UpdateOpsItem"},
        "*": {"ssm:CreateOpsItem", "ssm:DescribeOpsItems", *WRITE_TRACE},
    },
    "TrainingTrainEventsRole": {"TrainingTrain": {"states:StartExecution"}},
    "PredictionPredictEventsRole": {"PredictionPredict": {"states:StartExecution"}},
}


@pytest.mark.parametrize(("pipeline", "expected"), [("sensors", IN_PROD), ("etl_jobs", ETL_JOBS_IN_PROD)])
def test_each_role_has_these_permissions_and_no_others(pipeline: str, expected: dict[str, Permissions]) -> None:
    found = {
        role: {re.sub(r"/[0-9a-f]{64}\.", "/SOURCE.", resource): actions for resource, actions in granted.items()}
        for role, granted in permissions(synthesized("prod", pipeline)).items()
    }
    assert found == expected


@EVERY_TEMPLATE
def test_no_action_is_a_wildcard(stage: str, pipeline: str) -> None:
    template = synthesized(stage, pipeline)
    statements = [*identity_statements(template), *resource_statements(template)]
    assert statements
    for about, statement in statements:
        assert "NotAction" not in statement, about
        assert "NotResource" not in statement, about
        if statement["Effect"] == "Allow":
            assert not [action for action in as_list(statement["Action"]) if "*" in action or "?" in action], about


@EVERY_TEMPLATE
def test_only_actions_without_a_resource_are_granted_on_everything(stage: str, pipeline: str) -> None:
    for role, granted in permissions(synthesized(stage, pipeline)).items():
        assert granted.get("*", set()) <= WITHOUT_A_RESOURCE.keys(), role


@EVERY_TEMPLATE
def test_no_role_has_a_policy_that_is_not_in_the_template(stage: str, pipeline: str) -> None:
    for role, properties in resources_of(synthesized(stage, pipeline), "AWS::IAM::Role").items():
        assert not {"ManagedPolicyArns", "Policies"} & properties.keys(), role
        (trust,) = properties["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Action"] == "sts:AssumeRole"
        assert list(trust["Principal"]) == ["Service"], "no account and no user takes a role"


@pytest.mark.parametrize(
    ("pipeline", "passed"),
    [
        ("sensors", {"TrainingJobRole": "sagemaker"}),
        ("etl_jobs", {"TrainingJobRole": "sagemaker", "ExtractionRole": "emr-serverless"}),
    ],
)
def test_a_role_is_passed_to_one_service_alone(pipeline: str, passed: dict[str, str]) -> None:
    found = {}
    for _, statement in identity_statements(synthesized("prod", pipeline)):
        if "iam:PassRole" in as_list(statement["Action"]):
            ((operator, condition),) = statement["Condition"].items()
            assert operator == "StringEquals"
            found[text(statement["Resource"]).rpartition("/")[2]] = condition["iam:PassedToService"]
    assert found == {role: f"{service}.amazonaws.com" for role, service in passed.items()}


@EVERY_TEMPLATE
def test_only_alarms_of_this_account_are_let_in_from_outside_iam(stage: str, pipeline: str) -> None:
    allowed = [
        (text({"Ref": about}), s)
        for about, s in resource_statements(synthesized(stage, pipeline))
        if s["Effect"] != "Deny"
    ]
    # without it no alarm would be told: the policy that enforces TLS replaces the one SNS gives a topic
    assert [(about, s["Action"], s["Principal"], s["Condition"]) for about, s in allowed] == [
        (
            "OperationsTopic",
            "sns:Publish",
            {"Service": "cloudwatch.amazonaws.com"},
            {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}},
        )
    ]


@EVERY_TEMPLATE
def test_functions_are_invoked_by_this_stack_s_rules_and_a_page_by_whoever_has_its_url(
    stage: str, pipeline: str
) -> None:
    template = synthesized(stage, pipeline)
    rules = resources_of(template, "AWS::Events::Rule")
    granted = list(resources_of(template, "AWS::Lambda::Permission").values())
    public = [permission for permission in granted if permission["Principal"] == "*"]
    for permission in granted:
        if permission in public:
            continue
        assert permission["Action"] == "lambda:InvokeFunction"
        assert permission["Principal"] == "events.amazonaws.com"
        assert permission["SourceArn"]["Fn::GetAtt"][0] in rules
    page = {"Fn::GetAtt": [ANY, "Arn"]}
    both = [
        {"Action": "lambda:InvokeFunctionUrl", "FunctionUrlAuthType": "NONE", "FunctionName": page, "Principal": "*"},
        {"Action": "lambda:InvokeFunction", "InvokedViaFunctionUrl": True, "FunctionName": page, "Principal": "*"},
    ]
    assert public == (both if pipeline == "sensors" else [])
    urls = list(resources_of(template, "AWS::Lambda::Url").values())
    assert urls == ([{"AuthType": "NONE", "TargetFunctionArn": page}] if pipeline == "sensors" else [])
    about = {permission["FunctionName"]["Fn::GetAtt"][0] for permission in public}
    assert {logical_name(name) for name in about} == ({"PageShowIncident"} if pipeline == "sensors" else set())


@EVERY_TEMPLATE
def test_every_bucket_queue_and_topic_refuses_what_comes_without_tls(stage: str, pipeline: str) -> None:
    template = synthesized(stage, pipeline)
    refused = {
        about: set(as_list(statement["Action"]))
        for about, statement in resource_statements(template)
        if statement["Effect"] == "Deny"
        and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        and statement["Principal"] in ("*", {"AWS": "*"})
    }
    expected: dict[str, set[str]] = {}
    for kind, actions in (
        ("AWS::S3::Bucket", "s3:*"),
        ("AWS::SQS::Queue", "sqs:*"),
        ("AWS::SNS::Topic", "sns:Publish"),
    ):
        expected |= {name: {actions} for name in resources_of(template, kind)}
    assert expected
    assert refused == expected


@pytest.mark.parametrize(
    ("lake", "granted"),
    [
        ("", {"StorageData/lake", "StorageData/lake/*"}),
        ("s3://example-lake/", {"arn:aws:s3:::example-lake/*"}),
        ("s3://example-lake/a/b/", {"arn:aws:s3:::example-lake/a/b", "arn:aws:s3:::example-lake/a/b/*"}),
    ],
)
def test_spark_may_read_the_lake_and_ask_whether_it_is_there(lake: str, granted: set[str]) -> None:
    stage = read_stage("prod").with_etl_jobs()
    stage = stage.model_copy(update={"etl_jobs": stage.etl_jobs.model_copy(update={"lake": lake})})
    stack = cdk.Stack(cdk.App(), "lake")
    Extraction(stack, "Extraction", stage=stage, storage=Storage(stack, "Storage", stage=stage))
    role = permissions(Template.from_stack(stack).to_json())["ExtractionRole"]
    read_only = {resource for resource, actions in role.items() if actions == {"s3:GetObject"}}
    assert {resource for resource in read_only if "cdk-" not in resource} == granted
