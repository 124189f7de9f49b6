"""What the sensors stack's template says, where it costs money, loses data or lets somebody in."""

import json
import re
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Template

from overcut.sensors.cohorts import TrainingRules
from stacks.constructs.operations import Operations
from stacks.sensors.alerting import Alerting
from stacks.sensors.catalog import catalog_of
from stacks.sensors.detection import LARGE_LOTS, MANY_LOTS, ONE_LOT, Lots, lots_of
from stacks.sensors.ingestion import Ingestion
from stacks.sensors.storage import Storage
from stacks.sensors.training import Training
from stacks.stage import CapacityUnits, Contact, SensorsStage, Source, Stage, read_stage
from tests.conftest import ROOT, logical_name, resources_of, synthesized
from tests.infrastructure.templates import functions_of, text
from training.sensors.train import TrainingParameters
from workbench.cloud.service_model import ServiceModel

ON_AWS = ["prod", "dev"]
STAGES = [*ON_AWS, "local"]
E164 = re.compile(r"\+[1-9]\d{6,14}")


def named(template: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """The properties of the resources of a type, by logical name."""
    return {logical_name(name): properties for name, properties in resources_of(template, kind).items()}


# --- functions ---


@pytest.mark.parametrize("stage", ON_AWS)
def test_functions_are_small_and_of_one_runtime(stage: str) -> None:
    # it is as fast as it is large, and in prod one instance judges all
    detecting = 1_769 if stage == "prod" else 512
    found = {
        name: (function["MemorySize"], function["Runtime"], function["Architectures"])
        for name, function in functions_of(synthesized(stage)).items()
    }
    assert found == {
        name: (detecting if name == "sensors.detect_anomalies" else 128, "python3.13", ["arm64"])
        for name in (
            "sensors.poll_readings",
            "sensors.detect_anomalies",
            "sensors.watch_sensors",
            "sensors.show_incident",
            "sensors.export_training_set",
            "sensors.export_tables",
        )
    }


def test_functions_of_the_embedded_cloud_are_as_small() -> None:
    assert {function["MemorySize"] for function in functions_of(synthesized("local")).values()} == {128, 512}


@pytest.mark.parametrize("stage", STAGES)
def test_functions_end_before_money_does(stage: str) -> None:
    timeouts = {name: function["Timeout"] for name, function in functions_of(synthesized(stage)).items()}
    assert timeouts == {
        "sensors.poll_readings": 170,
        "sensors.detect_anomalies": 60,
        "sensors.watch_sensors": 60,
        "sensors.show_incident": 30,
        "sensors.export_training_set": 600,
        "sensors.export_tables": 600,
    }


@pytest.mark.parametrize("stage", STAGES)
def test_a_claim_outlives_its_sender(stage: str) -> None:
    functions = functions_of(synthesized(stage))
    for name in ("sensors.detect_anomalies", "sensors.watch_sensors"):
        assert int(functions[name]["Environment"]["Variables"]["CLAIM_SECONDS"]) > functions[name]["Timeout"]


@pytest.mark.parametrize(("stage", "days"), [("prod", 90), ("dev", 14), ("local", 1)])
def test_each_function_and_workflow_logs_to_a_group_of_its_own_that_forgets(stage: str, days: int) -> None:
    template = synthesized(stage)
    groups = resources_of(template, "AWS::Logs::LogGroup")
    functions = resources_of(template, "AWS::Lambda::Function").values()
    used = [function["LoggingConfig"]["LogGroup"]["Ref"] for function in functions]
    for machine in resources_of(template, "AWS::StepFunctions::StateMachine").values():
        (destination,) = machine["LoggingConfiguration"]["Destinations"]
        used.append(destination["CloudWatchLogsLogGroup"]["LogGroupArn"]["Fn::GetAtt"][0])
        assert machine["LoggingConfiguration"].get("IncludeExecutionData", False) is False
    assert sorted(used) == sorted(groups)
    assert {group["RetentionInDays"] for group in groups.values()} == {days}


# --- storage ---


def test_prod_keeps_tables_and_bucket_whatever_happens_to_the_stack() -> None:
    template = synthesized("prod")
    tables = resources_of(template, "AWS::DynamoDB::Table")
    assert len(tables) == 7
    for name in [*tables, *resources_of(template, "AWS::S3::Bucket")]:
        resource = template["Resources"][name]
        assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("Retain", "Retain"), name
    for name, table in tables.items():
        assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}, name
        assert table["DeletionProtectionEnabled"] is True, name


@pytest.mark.parametrize("stage", ["dev", "local"])
def test_other_stages_leave_nothing_behind(stage: str) -> None:
    template = synthesized(stage)
    kept = [name for name, resource in template["Resources"].items() if resource.get("DeletionPolicy") == "Retain"]
    assert kept == []
    for name, table in resources_of(template, "AWS::DynamoDB::Table").items():
        assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": False}, name
        assert table["DeletionProtectionEnabled"] is False, name


@pytest.mark.parametrize("stage", STAGES)
def test_the_bucket_is_encrypted_closed_and_cleaned(stage: str) -> None:
    ((_, bucket),) = resources_of(synthesized(stage), "AWS::S3::Bucket").items()
    assert bucket["PublicAccessBlockConfiguration"] == {
        "BlockPublicAcls": True,
        "BlockPublicPolicy": True,
        "IgnorePublicAcls": True,
        "RestrictPublicBuckets": True,
    }
    encryption = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert encryption == [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
    assert bucket["LifecycleConfiguration"]["Rules"] == [
        {
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
            "Status": "Enabled",
        },
        # what a query gave can be asked again
        {"Prefix": "query-results/", "ExpirationInDays": 7, "Status": "Enabled"},
        {"Prefix": "seen/", "NoncurrentVersionExpiration": {"NoncurrentDays": 1}, "Status": "Enabled"},
    ]


def test_prod_keeps_older_versions_of_objects_for_a_while() -> None:
    ((_, bucket),) = resources_of(synthesized("prod"), "AWS::S3::Bucket").items()
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}


@pytest.mark.parametrize("stage", STAGES)
def test_tables_have_these_keys(stage: str) -> None:
    keys = {
        name: [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]]
        for name, table in named(synthesized(stage), "AWS::DynamoDB::Table").items()
    }
    assert keys == {
        "StorageReadings": [("sensor_id", "HASH"), ("measured_at", "RANGE")],
        "StorageSensors": [("sensor_id", "HASH")],
        "StorageCutoffs": [("sensor_id", "HASH"), ("trained_at", "RANGE")],
        "StorageModelEvents": [("model_id", "HASH"), ("occurred_at", "RANGE")],
        "StorageIncidents": [("sensor_id", "HASH"), ("opened_at", "RANGE")],
        "StorageSources": [("source_id", "HASH")],
        "StoragePendingExports": [("bucket", "HASH"), ("hour", "RANGE")],
    }


@pytest.mark.parametrize("stage", STAGES)
def test_readings_expire_and_stream_what_was_written(stage: str) -> None:
    tables = named(synthesized(stage), "AWS::DynamoDB::Table")
    for name in ("StorageReadings", "StorageIncidents"):
        assert tables[name]["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    streams = {name: table["StreamSpecification"] for name, table in tables.items() if "StreamSpecification" in table}
    assert streams == {"StorageReadings": {"StreamViewType": "NEW_IMAGE"}}


def test_prod_provisions_readings_and_scales_both_ways() -> None:
    template = synthesized("prod")
    tables = named(template, "AWS::DynamoDB::Table")
    readings = tables.pop("StorageReadings")
    assert readings.get("BillingMode", "PROVISIONED") == "PROVISIONED"
    assert readings["ProvisionedThroughput"] == {"ReadCapacityUnits": 25, "WriteCapacityUnits": 100}
    assert {table["BillingMode"] for table in tables.values()} == {"PAY_PER_REQUEST"}

    targets = resources_of(template, "AWS::ApplicationAutoScaling::ScalableTarget")
    assert {
        target["ScalableDimension"]: (text(target["ResourceId"]), target["MinCapacity"], target["MaxCapacity"])
        for target in targets.values()
    } == {
        "dynamodb:table:WriteCapacityUnits": ("table/StorageReadings", 100, 1000),
        "dynamodb:table:ReadCapacityUnits": ("table/StorageReadings", 25, 2000),
    }
    policies = resources_of(template, "AWS::ApplicationAutoScaling::ScalingPolicy").values()
    assert {policy["ScalingTargetId"]["Ref"] for policy in policies} == targets.keys()
    assert [policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] for policy in policies] == [90, 90]


@pytest.mark.parametrize("stage", ["dev", "local"])
def test_other_stages_pay_for_what_they_use(stage: str) -> None:
    tables = resources_of(synthesized(stage), "AWS::DynamoDB::Table").values()
    assert {table["BillingMode"] for table in tables} == {"PAY_PER_REQUEST"}
    assert not any("ProvisionedThroughput" in table for table in tables)
    assert resources_of(synthesized(stage), "AWS::ApplicationAutoScaling::ScalableTarget") == {}


# --- polling ---


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_repeats_a_poll_but_the_next_minute(stage: str) -> None:
    template = synthesized(stage)
    rules = [
        rule
        for name, rule in named(template, "AWS::Events::Rule").items()
        if name.startswith(("IngestionEveryminute", "DetectionEveryminute"))
    ]
    assert len(rules) == 2
    for rule in rules:
        assert rule["ScheduleExpression"] == "rate(1 minute)"
        assert rule["State"] == "ENABLED"
        (target,) = rule["Targets"]
        assert target["RetryPolicy"] == {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}
    invoked = {
        text(config["FunctionName"]): (config["MaximumRetryAttempts"], config["MaximumEventAgeInSeconds"])
        for config in resources_of(template, "AWS::Lambda::EventInvokeConfig").values()
    }
    assert invoked == {"IngestionPollReadings": (0, 60), "DetectionWatchSensors": (0, 60)}


def test_each_source_has_a_rule_and_only_its_own_secret() -> None:
    stage = read_stage("local").with_sensors()
    sources = {
        "cold-store": Source(url="https://one.example.com/events", secret_name="one", measures={"temperature": "C"}),
        "roof": Source(url="https://two.example.com/events", measures={"humidity": "%"}, values="data"),
    }
    stack = cdk.Stack(cdk.App(), "sources")
    storage = Storage(stack, "Storage", stage=stage)
    Ingestion(stack, "Ingestion", stage=with_sensors(stage, sources=sources), storage=storage)
    template = Template.from_stack(stack).to_json()

    events = []
    for rule in resources_of(template, "AWS::Events::Rule").values():
        (target,) = rule["Targets"]
        events.append(json.loads(target["Input"]))
    assert sorted(events, key=lambda event: str(event["source_id"])) == [
        {
            "source_id": "cold-store",
            "url": "https://one.example.com/events",
            "secret_name": "one",
            "mapping": {
                "measures": {"temperature": "C"},
                "sensor_id": "sensor_id",
                "measured_at": "measured_at",
                "values": "values",
            },
        },
        {
            "source_id": "roof",
            "url": "https://two.example.com/events",
            "secret_name": "",
            "mapping": {
                "measures": {"humidity": "%"},
                "sensor_id": "sensor_id",
                "measured_at": "measured_at",
                "values": "data",
            },
        },
    ]
    secrets = re.findall(r":secret:([^\"]+)", json.dumps(template))
    assert secrets == ["one-??????"]


def with_sensors(stage: Stage, **changes: Any) -> SensorsStage:
    stage = stage.with_sensors()
    return stage.model_copy(update={"sensors": stage.sensors.model_copy(update=changes)})


# --- detection ---


@pytest.mark.parametrize("stage", STAGES)
def test_the_stream_is_read_so_that_no_reading_is_lost_and_none_blocks_the_rest(stage: str) -> None:
    ((_, mapping),) = resources_of(synthesized(stage), "AWS::Lambda::EventSourceMapping").items()
    filters = [json.loads(one["Pattern"]) for one in mapping.pop("FilterCriteria")["Filters"]]
    assert filters == [{"eventName": ["INSERT", "MODIFY"]}]
    # all of it: no FunctionResponseTypes, since a partial failure would be lost where they are not heeded
    assert {
        key: value if isinstance(value, str | int) else text_of_leaves(value) for key, value in mapping.items()
    } == {
        "FunctionName": "DetectionDetectAnomalies",
        "EventSourceArn": "StorageReadings.StreamArn",
        "StartingPosition": "TRIM_HORIZON",
        "BatchSize": 500,
        "MaximumBatchingWindowInSeconds": 20,
        # a fleet whose writes are known to be few is judged by one instance, which remembers all of it
        "ParallelizationFactor": 1 if stage == "prod" else 10,
        "BisectBatchOnFunctionError": True,
        "MaximumRecordAgeInSeconds": 6 * 3600,
        "DestinationConfig": {"OnFailure": {"Destination": "StorageData"}},
    }


@pytest.mark.parametrize(
    ("writes", "lots"),
    [(None, MANY_LOTS), (1, ONE_LOT), (100, ONE_LOT), (101, MANY_LOTS), (600, MANY_LOTS), (601, LARGE_LOTS)],
)
def test_a_fleet_is_shared_out_by_how_large_it_is_known_to_be(writes: int | None, lots: Lots) -> None:
    units = CapacityUnits(minimum=writes, maximum=1_000) if writes else None
    assert lots_of(with_sensors(read_stage("dev"), provisioned_writes=units)) == lots


def text_of_leaves(value: Any) -> Any:
    if isinstance(value, dict) and not any(key == "Ref" or key.startswith("Fn::") for key in value):
        return {key: text_of_leaves(inner) for key, inner in value.items()}
    return text(value)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_parked_is_encrypted_and_waits_for_people(stage: str) -> None:
    ((_, queue),) = resources_of(synthesized(stage), "AWS::SQS::Queue").items()
    assert queue == {"MessageRetentionPeriod": 14 * 24 * 3600, "SqsManagedSseEnabled": True}


# --- texts and alarms ---


@pytest.mark.parametrize("stage", STAGES)
def test_no_phone_number_is_in_the_template(stage: str) -> None:
    template = synthesized(stage)
    assert not E164.search(json.dumps(template))
    for parameter in template["Parameters"].values():
        assert not parameter.get("NoEcho") or "Default" not in parameter


def test_each_contact_gets_its_own_texts_at_a_number_that_is_a_parameter() -> None:
    stack = cdk.Stack(cdk.App(), "contacts")
    contacts = {"maintenance": Contact(), "north-site": Contact(sites=["north"])}
    Alerting(stack, "Alerting", stage=with_sensors(read_stage("prod"), contacts=contacts))
    template = Template.from_stack(stack).to_json()

    found = {}
    for subscription in resources_of(template, "AWS::SNS::Subscription").values():
        assert subscription["Protocol"] == "sms"
        assert text(subscription["TopicArn"]) == "AlertingAlerts"
        assert subscription.get("FilterPolicyScope", "MessageAttributes") == "MessageAttributes"
        found[subscription["Endpoint"]["Ref"]] = subscription["FilterPolicy"]
    assert found == {
        "PhoneNumberMaintenance": {"contact_id": ["maintenance"]},
        "PhoneNumberNorthSite": {"contact_id": ["north-site"]},
    }
    for name in found:
        parameter = template["Parameters"][name]
        assert parameter["NoEcho"] is True
        assert parameter["Type"] == "String"
        allowed = re.compile(parameter["AllowedPattern"])
        assert allowed.fullmatch("+4915112345678")
        for wrong in ("015112345678", "+0123456789", "+49 151 12345678", "4915112345678", "+49", "+1234567890123456"):
            assert not allowed.search(wrong), wrong


@pytest.mark.parametrize("stage", STAGES)
def test_the_stack_s_own_contacts_are_subscribed(stage: str) -> None:
    subscriptions = resources_of(synthesized(stage), "AWS::SNS::Subscription").values()
    assert [(one["Protocol"], one["Endpoint"], one["FilterPolicy"]) for one in subscriptions] == [
        ("sms", {"Ref": "PhoneNumberMaintenance"}, {"contact_id": ["maintenance"]})
    ]


def test_operations_are_mailed_where_the_stage_says_so() -> None:
    stack = cdk.Stack(cdk.App(), "operations")
    stage = read_stage("prod").model_copy(update={"operations_emails": ["ops@example.com"]})
    Operations(stack, "Operations", stage=stage)
    subscriptions = resources_of(Template.from_stack(stack).to_json(), "AWS::SNS::Subscription").values()
    mailed = [(text(s["TopicArn"]), s["Endpoint"]) for s in subscriptions if s["Protocol"] == "email"]
    assert mailed == [("OperationsTopic", "ops@example.com")]


@pytest.mark.parametrize("stage", STAGES)
def test_every_alarm_tells_operations(stage: str) -> None:
    found = {}
    for name, alarm in named(synthesized(stage), "AWS::CloudWatch::Alarm").items():
        assert [text(action) for action in alarm["AlarmActions"]] == ["OperationsTopic"], name
        assert alarm.get("ActionsEnabled", True) is True, name
        about = [text(dimension["Value"]) for dimension in alarm.get("Dimensions", ())]
        found[name] = (alarm["MetricName"], *about, alarm["Statistic"], alarm["Threshold"])
        # what must not stay away is missed when it does
        is_heartbeat = alarm["MetricName"] == "ExecutionsSucceeded"
        assert (alarm["ComparisonOperator"], alarm["TreatMissingData"]) == (
            ("LessThanThreshold", "breaching") if is_heartbeat else ("GreaterThanThreshold", "notBreaching")
        ), name
        days = {"OperationsExportsMissed": (3600, 2), "OperationsNoTraining": (24 * 3600, 3)}
        assert not is_heartbeat or (alarm["Period"], alarm["EvaluationPeriods"]) == days[name]
    assert found == {
        "OperationsReadingsWait": ("IteratorAge", "DetectionDetectAnomalies", "Maximum", 120_000),
        "OperationsRecordsParked": (
            "ApproximateNumberOfMessagesVisible",
            "DetectionParked.QueueName",
            "Maximum",
            0,
        ),
        "OperationsExportFailed": ("ExecutionsFailed", "TrainingExport", "Sum", 0),
        "OperationsExportTimedOut": ("ExecutionsTimedOut", "TrainingExport", "Sum", 0),
        "OperationsExportsMissed": ("ExecutionsSucceeded", "TrainingExport", "Sum", 1),
        "OperationsTrainFailed": ("ExecutionsFailed", "TrainingTrain", "Sum", 0),
        "OperationsTrainTimedOut": ("ExecutionsTimedOut", "TrainingTrain", "Sum", 0),
        "OperationsNoTraining": ("ExecutionsSucceeded", "TrainingTrain", "Sum", 1),
        # each is tripped by what the function counts in tests/functional
        "OperationsEventsQuarantined": ("EventsQuarantined", "poll_readings", stage, "Sum", 0),
        "OperationsPollsFail": ("PollFailures", "poll_readings", stage, "Sum", 3),
        "OperationsBatchesParked": ("BatchesParked", "watch_sensors", stage, "Sum", 0),
        "OperationsAlertsFail": ("TextFailures", "detect_anomalies", stage, "Sum", 0),
        "OperationsSweepsFail": ("TextFailures", "watch_sensors", stage, "Sum", 0),
        "OperationsTextsHeld": ("TextsHeld", "watch_sensors", stage, "Sum", 0),
        "OperationsTextsNotDelivered": ("NumberOfNotificationsFailed", "AlertingAlerts.TopicName", "Sum", 0),
        "OperationsSpendNearsLimit": ("SMSMonthToDateSpentUSD", "Maximum", 0.8),
    }


# --- workflows ---


def definition(stage: str, machine: str) -> dict[str, Any]:
    return definition_in(synthesized(stage), machine)


def definition_in(template: dict[str, Any], machine: str) -> dict[str, Any]:
    (properties,) = (
        properties
        for name, properties in named(template, "AWS::StepFunctions::StateMachine").items()
        if name == machine
    )
    found: dict[str, Any] = json.loads(text(properties["DefinitionString"]))
    return found


@pytest.mark.parametrize(("stage", "buckets"), [("prod", 16), ("dev", 16), ("local", 4)])
@pytest.mark.parametrize(("machine", "prefix"), [("TrainingExport", "Export"), ("TrainingTrain", "ExportFirst")])
def test_a_workflow_exports_every_bucket_once(stage: str, buckets: int, machine: str, prefix: str) -> None:
    workflow = definition(stage, machine)
    assert workflow["TimeoutSeconds"] == 5 * 3600
    assert workflow["StartAt"] == f"{prefix}Buckets"
    states = workflow["States"]
    assert states[f"{prefix}Buckets"] == {
        "Type": "Pass",
        "Result": list(range(buckets)),
        # an object: the training job's result is put beside it, which an array would not let happen
        "ResultPath": "$.buckets",
        "Next": f"{prefix}EveryBucket",
    }
    each = states[f"{prefix}EveryBucket"]
    assert (each["Type"], each["ItemsPath"], each["MaxConcurrency"]) == ("Map", "$.buckets", 16)
    assert each["ItemProcessor"]["States"] == {
        f"{prefix}Bucket": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Parameters": {"FunctionName": "TrainingExportTrainingSet", "Payload": {"bucket.$": "$"}},
            "ResultPath": None,
            "Retry": [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 5, "MaxAttempts": 5, "BackoffRate": 2}],
            "End": True,
        }
    }


def test_tables_for_sql_are_exported_after_the_readings_so_that_their_days_are_registered() -> None:
    states = definition("prod", "TrainingExport")["States"]
    assert set(states) == {"ExportBuckets", "ExportEveryBucket", "ExportTablesOnce"}
    assert states["ExportEveryBucket"]["Next"] == "ExportTablesOnce"
    assert states["ExportTablesOnce"]["Parameters"] == {"FunctionName": "TrainingExportTables", "Payload": {}}
    assert states["ExportTablesOnce"]["End"] is True


def test_what_a_training_gave_each_sensor_is_exported_after_it() -> None:
    states = definition("prod", "TrainingTrain")["States"]
    assert states["ExportCutoffsBuckets"]["Next"] == "ExportCutoffsEveryBucket"
    (each,) = states["ExportCutoffsEveryBucket"]["ItemProcessor"]["States"].values()
    assert each["Parameters"] == {"FunctionName": "TrainingExportTables", "Payload": {"bucket.$": "$"}}
    assert states["ExportCutoffsEveryBucket"]["Next"] == "ExportTablesLast"
    last = states["ExportTablesLast"]
    # what follows, and who waits for the training, is told of its job
    assert (last["Parameters"]["Payload"], last["ResultPath"], last["Next"]) == ({}, None, "ReadDecision")


@pytest.mark.parametrize("stage", STAGES)
def test_training_follows_the_export_and_is_waited_for(stage: str) -> None:
    states = definition(stage, "TrainingTrain")["States"]
    assert states["ExportFirstEveryBucket"]["Next"] == "TrainForests"
    train = states["TrainForests"]
    assert train["Resource"] == "arn:aws:states:::sagemaker:createTrainingJob.sync"
    assert train["Next"] == "ExportCutoffsBuckets"
    assert train["Retry"] == [{"ErrorEquals": ["States.TaskFailed"], "IntervalSeconds": 60, "MaxAttempts": 1}]


@pytest.mark.parametrize("stage", STAGES)
def test_forests_that_are_held_are_told(stage: str) -> None:
    states = definition(stage, "TrainingTrain")["States"]
    assert states["ReadDecision"]["Parameters"]["Key.$"] == (
        "States.Format('training-jobs/sensors/{}/decision.json', $.training_job.TrainingJobName)"
    )
    told = states[states["PromotedOrHeld"]["Default"]]
    assert told["Parameters"]["TopicArn"] == "OperationsTopic"
    assert told["Parameters"]["Message.$"] == "$.result.decision.reason"
    assert states[told["Next"]]["Type"] == "Succeed", "no alarm of a failure goes with it"


@pytest.mark.parametrize("stage", STAGES)
def test_the_training_request_is_one_that_sagemaker_takes(stage: str) -> None:
    request = definition(stage, "TrainingTrain")["States"]["TrainForests"]["Parameters"]
    # a name is unique for ever: the execution's, and the attempt's
    assert request.pop("TrainingJobName.$") == (
        "States.Format('sensors-{}-{}', States.Hash($$.Execution.Id, 'SHA-1'), $$.State.RetryCount)"
    )
    ServiceModel("sagemaker").check("CreateTrainingJob", {"TrainingJobName": f"sensors-{'0a' * 20}-1", **request})
    assert request["ResourceConfig"] == {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 30}
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 4 * 3600}
    assert request["OutputDataConfig"] == {"S3OutputPath": "s3://StorageData/training-jobs/sensors"}
    assert request["RoleArn"] == "arn:aws:iam::123456789012:role/TrainingJobRole"


@pytest.mark.parametrize("stage", STAGES)
def test_hyperparameters_are_json_as_script_mode_reads_them(stage: str) -> None:
    request = definition(stage, "TrainingTrain")["States"]["TrainForests"]["Parameters"]
    assert request["HyperParameters"].pop("workflow_started_at.$") == "$$.Execution.StartTime"
    given = {key: json.loads(value) for key, value in request["HyperParameters"].items()}
    source = given.pop("sagemaker_submit_directory")
    assert re.fullmatch(r"s3://cdk-hnb659fds-assets-\d{12}-[a-z0-9-]+/[0-9a-f]{64}\.gz", source)
    assert given == {
        "sagemaker_program": "train_sensors.py",
        "window_days": 14,
        "detector": "channels",
        "z_factor": 2.5,
        "false_alarm_budget": 0.1,
        "num_trees": 30,
        "num_samples_per_tree": 128,
        "consecutive_minutes": 5,
        "recovery_minutes": 30,
        "new_normal_after_hours": 24,
        "min_deviation": "{}",
    }


def test_hyperparameters_and_environment_are_what_the_training_job_takes() -> None:
    request = definition("prod", "TrainingTrain")["States"]["TrainForests"]["Parameters"]
    started = {"workflow_started_at": '"2026-01-05T20:00:00.123Z"'}
    assert f"{next(iter(started))}.$" in request["HyperParameters"]
    texts = {key: value for key, value in request["HyperParameters"].items() if not key.endswith(".$")} | started
    given = {key: json.loads(value) for key, value in texts.items()}
    arguments = [f"--{key}={value}" for key, value in given.items() if not key.startswith("sagemaker_")]
    assert TrainingParameters.parse(arguments).rules == TrainingRules()
    named = set(re.findall(r'environment\["([A-Z_]+)"\]', (ROOT / "training/sensors/train.py").read_text()))
    assert request["Environment"].keys() - {"AWS_DEFAULT_REGION"} == named - {"TRAINING_JOB_NAME", "SM_MODEL_DIR"}


def test_a_stage_s_deviations_reach_the_training_job_as_one_text() -> None:
    stage = read_stage("prod").with_sensors()
    device = stage.sensors.sources["device"].model_copy(update={"min_deviation": {"temperature": 0.5}})
    other = stage.sensors.sources["device"]
    settings = stage.sensors.model_copy(update={"sources": {"device": device, "other": other}})
    stack = cdk.Stack(cdk.App(), "deviations")
    storage = Storage(stack, "Storage", stage=stage)
    Training(
        stack,
        "Training",
        stage=stage.model_copy(update={"sensors": settings}),
        storage=storage,
        catalog=catalog_of(stack, stage, storage),
        operations=Operations(stack, "Operations", stage=stage),
    )
    request = definition_in(dict(Template.from_stack(stack).to_json()), "TrainingTrain")["States"]["TrainForests"]
    given = json.loads(request["Parameters"]["HyperParameters"]["min_deviation"])
    # SageMaker's toolkit would write an object as `device={'temperature': 0.5}`
    assert given == '{"device": {"temperature": 0.5}}'


@pytest.mark.parametrize("stage", STAGES)
def test_schedules(stage: str) -> None:
    found = {
        name: (rule["ScheduleExpression"], [text(target["Arn"]) for target in rule["Targets"]])
        for name, rule in named(synthesized(stage), "AWS::Events::Rule").items()
    }
    assert found == {
        "IngestionEveryminutedevice": ("rate(1 minute)", ["IngestionPollReadings"]),
        "DetectionEveryminute": ("rate(1 minute)", ["DetectionWatchSensors"]),
        "TrainingHourly": ("cron(5 * * * ? *)", ["TrainingExport"]),
        "TrainingScheduled": ("cron(30 2 * * ? *)", ["TrainingTrain"]),
    }
