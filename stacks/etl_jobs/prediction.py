"""Prediction: every hour, extract recent runs, judge them, tell in tickets what is wrong, and register days for SQL."""

import json

from aws_cdk import ArnFormat, Duration, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from overcut.etl_jobs.layout import (
    EXTRACTIONS_PREFIX,
    PREDICTION_TABLE_PREFIX,
    PREDICTIONS_PREFIX,
    PROMOTED_PREFIX,
    RECENT_PREFIX,
)
from stacks.constructs.catalog import Catalog
from stacks.constructs.function import PipelineFunction
from stacks.constructs.grants import allow, allow_objects
from stacks.constructs.operations import Operations
from stacks.constructs.workflow import Workflow, invoke
from stacks.etl_jobs import extraction
from stacks.etl_jobs.extraction import Extraction
from stacks.etl_jobs.storage import Storage
from stacks.etl_jobs.until import beginning_with_until
from stacks.stage import EtlJobsStage

FUNCTION_TIMEOUT = Duration.minutes(15)
# a claimed entry is owed again when its sender cannot live any longer
CLAIM_SECONDS = 16 * 60
AT_ONCE = 8


class Prediction(Construct):
    """predict_anomalies for every bucket of jobs at once, then open_tickets."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: EtlJobsStage,
        storage: Storage,
        catalog: Catalog,
        extraction_: Extraction,
        operations: Operations,
    ) -> None:
        super().__init__(scope, construct_id)
        rules = stage.etl_jobs
        self.predict_anomalies = self._predict_anomalies(stage, storage)
        self.open_tickets = self._open_tickets(stage, storage)
        self.register_partitions = self._register_partitions(stage, storage, catalog)
        extract = extraction_.state("ExtractRecent", mode="recent", days=rules.recent_days)
        self.predict = Workflow(
            self,
            "Predict",
            stage=stage,
            definition=beginning_with_until(
                self,
                extract.next(self._predict_every_bucket(rules.buckets)).next(self._tickets()).next(self._partitions()),
            ),
            timeout=extraction.TIMEOUT.plus(Duration.hours(2)),
            operations=operations,
            failure="Judging the recent runs of ETL jobs, or telling about them, failed",
        )
        extraction_.allow_running(self.predict)
        self.predict.allow_invoking(self.predict_anomalies)
        self.predict.allow_invoking(self.open_tickets)
        self.predict.allow_invoking(self.register_partitions)
        for name, metric, description in (
            (
                "TicketsParked",
                "TicketsParked",
                f"A ticket could not be told of: see `overcut tickets list --stage {stage.name}`",
            ),
            ("LakeIsSilent", "JobsMissedInSilence", "Runs are due and the data lake has no new record: is it fed?"),
        ):
            operations.alarm(name, operations.counted("open_tickets", metric), above=0, description=description)
        schedule = events.Schedule.expression(rules.prediction_schedule)
        events.Rule(self, "Scheduled", schedule=schedule, targets=[targets.SfnStateMachine(self.predict)])

    def _predict_anomalies(self, stage: EtlJobsStage, storage: Storage) -> PipelineFunction:
        function = PipelineFunction(
            self,
            "PredictAnomalies",
            stage=stage,
            pipeline="etl_jobs",
            function="predict_anomalies",
            description="Judges the recent runs of one bucket of ETL jobs",
            timeout=FUNCTION_TIMEOUT,
            environment={
                "DATA_BUCKET": storage.bucket.bucket_name,
                "BUCKETS": json.dumps(stage.etl_jobs.buckets),
                "MISSED_AFTER_MINUTES": json.dumps(stage.etl_jobs.missed_after_minutes),
            },
        )
        bucket = storage.bucket
        allow(function, bucket.bucket_arn, "s3:ListBucket")
        for prefix in (RECENT_PREFIX, PROMOTED_PREFIX, EXTRACTIONS_PREFIX):
            allow_objects(function, bucket, prefix, "s3:GetObject")
        for prefix in (PREDICTIONS_PREFIX, PREDICTION_TABLE_PREFIX):
            allow_objects(function, bucket, prefix, "s3:PutObject")
        return function

    def _open_tickets(self, stage: EtlJobsStage, storage: Storage) -> PipelineFunction:
        tickets = stage.etl_jobs.tickets
        ops_center = {"kind": "ops_center", "severity": tickets.severity}
        webhook = {"kind": "webhook", "url": tickets.url, "secret_name": tickets.secret_name}
        function = PipelineFunction(
            self,
            "OpenTickets",
            stage=stage,
            pipeline="etl_jobs",
            function="open_tickets",
            description="Opens, comments and closes tickets about runs of ETL jobs",
            timeout=FUNCTION_TIMEOUT,
            environment={
                "TICKETS_TABLE": storage.tickets.table_name,
                "DATA_BUCKET": storage.bucket.bucket_name,
                "TICKETED_KINDS": json.dumps(tickets.kinds),
                "SINK": json.dumps(webhook if tickets.sink == "webhook" else ops_center),
                "CLAIM_SECONDS": json.dumps(CLAIM_SECONDS),
            },
        )
        storage.tickets.allow(function, "BatchGetItem", "GetItem", "PutItem", "UpdateItem")
        storage.tickets.allow_query_of("attention", function)
        allow(function, storage.bucket.bucket_arn, "s3:ListBucket")
        for prefix in (PREDICTIONS_PREFIX, EXTRACTIONS_PREFIX):
            allow_objects(function, storage.bucket, prefix, "s3:GetObject")
        self._allow_sink(function, stage)
        return function

    def _register_partitions(self, stage: EtlJobsStage, storage: Storage, catalog: Catalog) -> PipelineFunction:
        function = PipelineFunction(
            self,
            "RegisterPartitions",
            stage=stage,
            pipeline="etl_jobs",
            function="register_partitions",
            description="Tells the Glue catalogue of new days",
            timeout=Duration.minutes(5),
            environment={"DATA_BUCKET": storage.bucket.bucket_name, "DATABASE": catalog.database_name},
        )
        allow(function, storage.bucket.bucket_arn, "s3:ListBucket")
        catalog.allow_registering(function)
        return function

    @staticmethod
    def _allow_sink(function: PipelineFunction, stage: EtlJobsStage) -> None:
        stack, tickets = Stack.of(function), stage.etl_jobs.tickets
        if tickets.sink == "webhook":
            secret = stack.format_arn(
                service="secretsmanager",
                resource="secret",
                # Secrets Manager ends a secret's ARN in six characters of its own
                resource_name=f"{tickets.secret_name}-??????",
                arn_format=ArnFormat.COLON_RESOURCE_NAME,
            )
            allow(function, secret, "secretsmanager:GetSecretValue")
            return
        items = stack.format_arn(service="ssm", resource="opsitem", resource_name="*")
        allow(function, items, "ssm:GetOpsItem", "ssm:UpdateOpsItem", why="OpsCenter makes an item's id")
        no_name = "what is not there yet has no name, and a search goes through every item of the account"
        allow(function, "*", "ssm:CreateOpsItem", "ssm:DescribeOpsItems", why=no_name)

    def _predict_every_bucket(self, buckets: int) -> sfn.Chain:
        each = sfn.Map(
            self,
            "EveryBucket",
            items_path="$.buckets",
            item_selector={
                "until": sfn.JsonPath.string_at("$.until"),
                "bucket": sfn.JsonPath.number_at("$$.Map.Item.Value"),
            },
            max_concurrency=AT_ONCE,
            result_path=sfn.JsonPath.DISCARD,
        )
        # judging a bucket again overwrites the same objects
        each.item_processor(invoke(self, "PredictBucket", self.predict_anomalies, payload="$"))
        all_of_them = sfn.Result.from_array(list(range(buckets)))
        return sfn.Pass(self, "Buckets", result=all_of_them, result_path="$.buckets").next(each)

    def _partitions(self) -> sfn.CustomState:
        # last, since no ticket waits for it; what it misses, the next hour's run registers
        return invoke(self, "RegisterPartitionsOfAll", self.register_partitions, payload={})

    def _tickets(self) -> sfn.CustomState:
        # a sink that is down is tried again for half an hour, then by the next hour's run
        seconds = 60
        return invoke(
            self, "OpenTicketsOfAll", self.open_tickets, payload={"until.$": "$.until"}, retry_after_seconds=seconds
        )
