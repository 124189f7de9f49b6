"""What the ETL stack's template says, where it costs money, loses data or tells nobody."""

import json
from typing import Any

import pytest

from overcut.etl_jobs.verdicts import Kind
from stacks.stage import EtlJobs, LakeFields
from tests.conftest import logical_name, resources_of, synthesized
from tests.infrastructure.templates import functions_of, text
from training.etl_jobs import extract_features
from workbench.cloud.service_model import ServiceModel

ON_AWS = ["prod", "dev"]
STAGES = [*ON_AWS, "local"]


def template_of(stage: str) -> dict[str, Any]:
    return synthesized(stage, "etl_jobs")


def named(template: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """The properties of the resources of a type, by logical name."""
    return {logical_name(name): properties for name, properties in resources_of(template, kind).items()}


def definition(stage: str, machine: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(
        text(named(template_of(stage), "AWS::StepFunctions::StateMachine")[machine]["DefinitionString"])
    )
    return parsed


@pytest.mark.parametrize("stage", ON_AWS)
def test_functions_are_small_and_of_one_runtime(stage: str) -> None:
    found = {
        name: (function["MemorySize"], function["Runtime"], function["Architectures"], function["Timeout"])
        for name, function in functions_of(template_of(stage)).items()
    }
    assert found == {
        name: (128, "python3.13", ["arm64"], seconds)
        for name, seconds in (
            ("etl_jobs.predict_anomalies", 900),
            ("etl_jobs.open_tickets", 900),
            ("etl_jobs.register_partitions", 300),
        )
    }


@pytest.mark.parametrize("stage", STAGES)
def test_a_claim_outlives_its_sender(stage: str) -> None:
    function = functions_of(template_of(stage))["etl_jobs.open_tickets"]
    assert int(function["Environment"]["Variables"]["CLAIM_SECONDS"]) > function["Timeout"]


def test_prod_keeps_table_and_bucket_whatever_happens_to_the_stack() -> None:
    template = template_of("prod")
    tables, buckets = (resources_of(template, f"AWS::{kind}") for kind in ("DynamoDB::Table", "S3::Bucket"))
    assert (len(tables), len(buckets)) == (1, 1)
    for name in [*tables, *buckets]:
        resource = template["Resources"][name]
        assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("Retain", "Retain"), name
    (table,) = tables.values()
    assert table["DeletionProtectionEnabled"] is True
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


@pytest.mark.parametrize("stage", ["dev", "local"])
def test_other_stages_leave_nothing_behind(stage: str) -> None:
    resources = template_of(stage)["Resources"]
    assert [name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"] == []


# --- Spark ---


@pytest.mark.parametrize("stage", STAGES)
def test_spark_starts_from_nothing_and_stops_when_idle(stage: str) -> None:
    ((_, application),) = resources_of(template_of(stage), "AWS::EMRServerless::Application").items()
    assert {key: application[key] for key in ("ReleaseLabel", "Type", "Architecture")} == {
        "ReleaseLabel": "emr-spark-8.0.0",
        "Type": "SPARK",
        "Architecture": "ARM64",
    }
    assert application["AutoStartConfiguration"] == {"Enabled": True}
    assert application["AutoStopConfiguration"] == {"Enabled": True, "IdleTimeoutMinutes": 5}
    assert application["MaximumCapacity"] == {"Cpu": "16 vCPU", "Memory": "64 GB", "Disk": "320 GB"}
    assert "InitialCapacity" not in application, "workers that wait cost money"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("machine", "state", "mode", "days"),
    [("TrainingTrain", "ExtractHistory", "historical", "120"), ("PredictionPredict", "ExtractRecent", "recent", "7")],
)
def test_an_extraction_is_a_request_that_emr_serverless_takes(
    stage: str, machine: str, state: str, mode: str, days: str
) -> None:
    task = definition(stage, machine)["States"][state]
    assert task["Resource"].endswith(":states:::emr-serverless:startJobRun.sync")
    assert task["Retry"], "a worker may be lost"
    request = task["Parameters"]
    spark = request["JobDriver"]["SparkSubmit"]
    arguments = spark.pop("EntryPointArguments.$")
    assert arguments.startswith("States.Array('--mode', ")
    given = [part.strip("'") for part in arguments.removeprefix("States.Array(").removesuffix(")").split(", ")]
    options = dict(zip(given[::2], given[1::2], strict=True))
    assert options == {
        "--mode": mode,
        "--lake": "s3://example-data-lake/job-runs/" if stage == "prod" else "s3://StorageData/lake/",
        "--output": "s3://StorageData/",
        "--days": days,
        "--buckets": "2" if stage == "local" else "16",
        "--day-folders": "dt=%Y-%m-%d",
        "--until": "$.until",
    }
    sent = _as_sent({**request, "ApplicationId": "00f1a2b3c4d5e6f7", "ClientToken": "token"})
    sent["jobDriver"]["sparkSubmit"]["entryPointArguments"] = given
    sent["executionRoleArn"] = "arn:aws:iam::123456789012:role/spark"
    ServiceModel("emr-serverless").check("StartJobRun", sent)


def _as_sent(value: Any) -> Any:
    """A state's parameters as the service's API spells them."""
    if isinstance(value, dict):
        return {key[:1].lower() + key[1:]: _as_sent(inner) for key, inner in value.items()}
    return value


def test_the_extraction_and_the_stage_mean_the_same_by_default() -> None:
    """The script stands alone, so it has defaults of its own, and is told of others only."""
    assert LakeFields().model_dump() == extract_features.FIELDS
    assert EtlJobs().day_folders == extract_features.DAY_FOLDERS


# --- training and prediction ---


@pytest.mark.parametrize("stage", STAGES)
def test_training_learns_from_what_was_extracted_until_the_same_moment(stage: str) -> None:
    states = definition(stage, "TrainingTrain")["States"]
    assert states["UntilGiven"]["Choices"][0] == {
        "Variable": "$.until",
        "IsPresent": True,
        "Next": "ExtractHistory",
    }
    assert states["UntilNow"]["Parameters"] == {"until.$": "$$.Execution.StartTime"}
    assert states["UntilNow"]["Next"] == "ExtractHistory"
    assert states["ExtractHistory"]["Next"] == "TrainForest"
    request = states["TrainForest"]["Parameters"]
    parameters = {key: value for key, value in request["HyperParameters"].items() if not key.startswith("sagemaker_")}
    assert parameters == {
        "window_days": "120",
        "false_tickets_per_week": "1.0",
        "num_trees": "100",
        "num_samples_per_tree": "256",
        "until.$": "$.until",
        "workflow_started_at.$": "$$.Execution.StartTime",
    }
    assert request["HyperParameters"]["sagemaker_program"] == '"train_etl_jobs.py"'
    assert request["Environment"]["DATA_BUCKET"] == "StorageData"


@pytest.mark.parametrize("stage", STAGES)
def test_a_model_is_promoted_or_held_and_a_held_one_is_told(stage: str) -> None:
    states = definition(stage, "TrainingTrain")["States"]
    read = states["ReadDecision"]
    assert read["Resource"] == "arn:aws:states:::aws-sdk:s3:getObject"
    assert read["Parameters"]["Key.$"] == (
        "States.Format('models/etl_jobs/decisions/{}.json', $.training_job.TrainingJobName)"
    )
    choice = states["PromotedOrHeld"]
    assert choice["Choices"] == [
        {"Variable": "$.result.decision.decision", "StringEquals": "promoted", "Next": "Promoted"}
    ]
    told = states[choice["Default"]]
    assert told["Parameters"]["TopicArn"] == "OperationsTopic"
    assert told["Parameters"]["Message.$"] == "$.result.decision.reason"
    assert states[told["Next"]]["Type"] == "Succeed"


@pytest.mark.parametrize(("stage", "buckets"), [("prod", 16), ("dev", 16), ("local", 2)])
def test_every_bucket_is_judged_before_tickets_are_opened(stage: str, buckets: int) -> None:
    states = definition(stage, "PredictionPredict")["States"]
    assert states["ExtractRecent"]["Next"] == "Buckets"
    assert states["Buckets"]["Result"] == list(range(buckets))
    each = states["EveryBucket"]
    assert each["ItemSelector"] == {"until.$": "$.until", "bucket.$": "$$.Map.Item.Value"}
    (judge,) = each["ItemProcessor"]["States"].values()
    assert judge["Parameters"] == {"FunctionName": "PredictionPredictAnomalies", "Payload.$": "$"}
    assert judge["Retry"][0]["ErrorEquals"] == ["States.ALL"]
    tickets = states[each["Next"]]
    assert (tickets["Resource"], tickets["Parameters"]) == (
        "arn:aws:states:::lambda:invoke",
        {"FunctionName": "PredictionOpenTickets", "Payload": {"until.$": "$.until"}},
    )
    waits = tickets["Retry"][0]
    minutes = sum(waits["IntervalSeconds"] * waits["BackoffRate"] ** k for k in range(waits["MaxAttempts"])) / 60
    assert 25 < minutes < 55, "a sink that is down is tried again until shortly before the next hour's run"
    last = states[tickets["Next"]]
    assert (last["Parameters"]["FunctionName"], last["End"]) == ("PredictionRegisterPartitions", True)


@pytest.mark.parametrize("stage", STAGES)
def test_workflows_run_on_schedule_and_their_failures_are_told(stage: str) -> None:
    template = template_of(stage)
    schedules = {
        name: (rule["ScheduleExpression"], [text(target["Arn"]) for target in rule["Targets"]])
        for name, rule in named(template, "AWS::Events::Rule").items()
    }
    assert schedules == {
        "TrainingScheduled": ("cron(30 2 * * ? *)", ["TrainingTrain"]),
        "PredictionScheduled": ("cron(10 * * * ? *)", ["PredictionPredict"]),
    }
    alarms = {}
    for name, alarm in named(template, "AWS::CloudWatch::Alarm").items():
        assert [text(action) for action in alarm["AlarmActions"]] == ["OperationsTopic"], name
        about = [text(dimension["Value"]) for dimension in alarm["Dimensions"]]
        alarms[name] = (alarm["MetricName"], *about, alarm["Threshold"])
    assert alarms == {
        "OperationsTrainFailed": ("ExecutionsFailed", "TrainingTrain", 0),
        "OperationsTrainTimedOut": ("ExecutionsTimedOut", "TrainingTrain", 0),
        "OperationsNoTraining": ("ExecutionsSucceeded", "TrainingTrain", 1),
        "OperationsPredictFailed": ("ExecutionsFailed", "PredictionPredict", 0),
        "OperationsPredictTimedOut": ("ExecutionsTimedOut", "PredictionPredict", 0),
        "OperationsTicketsParked": ("TicketsParked", "open_tickets", stage, 0),
        "OperationsLakeIsSilent": ("JobsMissedInSilence", "open_tickets", stage, 0),
    }


@pytest.mark.parametrize("stage", STAGES)
def test_every_kind_is_ticketed_in_ops_center_unless_the_stage_says_otherwise(stage: str) -> None:
    given = functions_of(template_of(stage))["etl_jobs.open_tickets"]["Environment"]["Variables"]
    assert json.loads(given["TICKETED_KINDS"]) == [kind.value for kind in Kind]
    assert json.loads(given["SINK"]) == {"kind": "ops_center", "severity": "3"}
