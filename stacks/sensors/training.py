"""Training: exports readings every hour, and trains forests and cutoffs on a schedule."""

import json

from aws_cdk import Duration
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from overcut.sensors.layout import decision_key
from stacks.constructs.catalog import Catalog
from stacks.constructs.decision import promoted_or_held
from stacks.constructs.function import PipelineFunction
from stacks.constructs.grants import allow, allow_objects
from stacks.constructs.network import private_network
from stacks.constructs.operations import Operations
from stacks.constructs.training_job import TIMEOUT, TrainingJob
from stacks.constructs.workflow import Workflow, invoke
from stacks.sensors.storage import Storage
from stacks.stage import SensorsStage

# five minutes past the hour, so that the hour's last readings have come
EVERY_HOUR = events.Schedule.cron(minute="5")


class Training(Construct):
    """Two workflows: export every bucket; and export, train, tell of what is held."""

    """Two workflows: export every bucket, and what else is asked about in SQL; and export, train, export cutoffs."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: SensorsStage,
        storage: Storage,
        catalog: Catalog,
        operations: Operations,
    ) -> None:
        super().__init__(scope, construct_id)
        self.export_training_set = self._export_function(stage, storage)
        self.export_tables = self._export_tables(stage, storage, catalog)
        job = self._training_job(stage, storage)
        decided = promoted_or_held(
            self,
            bucket=storage.bucket,
            key=decision_key("{}"),
            operations=operations,
            subject="Overcut holds new forests of sensors back",
        )
        self.export = Workflow(
            self,
            "Export",
            stage=stage,
            definition=self._every_bucket("Export", stage, self.export_training_set).next(
                self._tables_as_they_are("ExportTablesOnce")
            ),
            timeout=TIMEOUT.plus(Duration.hours(1)),
            operations=operations,
            failure="Export of sensor readings failed",
        )
        self.train = Workflow(
            self,
            "Train",
            stage=stage,
            definition=self._every_bucket("ExportFirst", stage, self.export_training_set)
            .next(self._train(job, stage, storage))
            .next(self._every_bucket("ExportCutoffs", stage, self.export_tables))
            .next(self._tables_as_they_are("ExportTablesLast"))
            .next(decided),
            timeout=TIMEOUT.plus(Duration.hours(1)),
            operations=operations,
            failure="Training of the sensors' forests failed, or the copy of its cutoffs for SQL",
        )
        for workflow in (self.export, self.train):
            workflow.allow_invoking(self.export_training_set)
            workflow.allow_invoking(self.export_tables)
        job.allow_running(self.train)
        decisions = storage.bucket.arn_for_objects(decision_key("*"))
        allow(self.train, decisions, "s3:GetObject", why="a decision has the name of its training job")
        events.Rule(self, "Hourly", schedule=EVERY_HOUR, targets=[targets.SfnStateMachine(self.export)])
        nightly = events.Schedule.expression(stage.sensors.training_schedule)
        events.Rule(self, "Scheduled", schedule=nightly, targets=[targets.SfnStateMachine(self.train)])

    def _export_function(self, stage: SensorsStage, storage: Storage) -> lambda_.Function:
        function = PipelineFunction(
            self,
            "ExportTrainingSet",
            stage=stage,
            pipeline="sensors",
            function="export_training_set",
            description="Copies one bucket's readings to S3",
            timeout=Duration.minutes(10),
            environment={
                "READINGS_TABLE": storage.readings.table_name,
                "SENSORS_TABLE": storage.sensors.table_name,
                "PENDING_EXPORTS_TABLE": storage.pending_exports.table_name,
                "DATA_BUCKET": storage.bucket.bucket_name,
                "CLOCK": stage.clock,
            },
        )
        storage.readings.allow(function, "Query")
        storage.sensors.allow_query_of("bucket", function)
        storage.pending_exports.allow(function, "Query", "BatchWriteItem", "DeleteItem")
        allow_objects(function, storage.bucket, "readings/", "s3:PutObject")
        return function

    def _export_tables(self, stage: SensorsStage, storage: Storage, catalog: Catalog) -> lambda_.Function:
        function = PipelineFunction(
            self,
            "ExportTables",
            stage=stage,
            pipeline="sensors",
            function="export_tables",
            description="Copies to S3 what is asked about in SQL beside readings",
            timeout=Duration.minutes(10),
            environment={
                "SENSORS_TABLE": storage.sensors.table_name,
                "CUTOFFS_TABLE": storage.cutoffs.table_name,
                "MODEL_EVENTS_TABLE": storage.model_events.table_name,
                "INCIDENTS_TABLE": storage.incidents.table_name,
                "DATA_BUCKET": storage.bucket.bucket_name,
                "DATABASE": catalog.database_name,
                "CLOCK": stage.clock,
            },
        )
        storage.sensors.allow(function, "Scan")
        storage.sensors.allow_query_of("bucket", function)
        storage.cutoffs.allow(function, "Query")
        storage.model_events.allow(function, "Scan")
        storage.incidents.allow(function, "Scan")
        allow(function, storage.bucket.bucket_arn, "s3:ListBucket")
        allow_objects(function, storage.bucket, "tables/", "s3:PutObject")
        catalog.allow_registering(function)
        return function

    def _tables_as_they_are(self, name: str) -> sfn.CustomState:
        return invoke(self, name, self.export_tables, payload={})

    def _every_bucket(self, name: str, stage: SensorsStage, function: lambda_.IFunction) -> sfn.Chain:
        """Run an exporter for every bucket at once."""
        buckets = sfn.Result.from_array(list(range(stage.sensors.export_buckets)))
        each = sfn.Map(
            self,
            f"{name}EveryBucket",
            items_path="$.buckets",
            max_concurrency=16,
            result_path=sfn.JsonPath.DISCARD,
        )
        # exporting a bucket again overwrites the same objects
        each.item_processor(invoke(self, f"{name}Bucket", function, payload={"bucket.$": "$"}))
        return sfn.Pass(self, f"{name}Buckets", result=buckets, result_path="$.buckets").next(each)

    def _training_job(self, stage: SensorsStage, storage: Storage) -> TrainingJob:
        bucket = storage.bucket
        job = TrainingJob(
            self, "Job", stage=stage, pipeline="sensors", bucket=bucket, instance=stage.sensors.training_instance
        )
        storage.sensors.allow(job.role, "Scan", "UpdateItem")
        storage.incidents.allow(job.role, "Scan", "Query", "UpdateItem")
        storage.cutoffs.allow(job.role, "Query", "BatchWriteItem")
        storage.model_events.allow(job.role, "PutItem")
        allow(job.role, bucket.bucket_arn, "s3:ListBucket")
        allow_objects(job.role, bucket, "readings/", "s3:GetObject")
        allow_objects(job.role, bucket, "models/sensors/", "s3:PutObject")
        if network := private_network(self, stage):
            tables = (storage.sensors, storage.incidents, storage.cutoffs, storage.model_events)
            actions = (f"dynamodb:{action}" for action in ("BatchWriteItem", "PutItem", "Query", "Scan", "UpdateItem"))
            network.lead_to_tables([table.table_arn for table in tables], *actions)
        return job

    @staticmethod
    def _train(job: TrainingJob, stage: SensorsStage, storage: Storage) -> sfn.CustomState:
        rules = stage.sensors
        return job.state(
            "TrainForests",
            hyperparameters={
                "window_days": rules.training_window_days,
                "detector": rules.detector,
                "z_factor": rules.z_factor,
                "false_alarm_budget": rules.false_alarm_budget,
                "num_trees": rules.num_trees,
                "num_samples_per_tree": rules.num_samples_per_tree,
                "consecutive_minutes": rules.consecutive_minutes,
                "recovery_minutes": rules.recovery_minutes,
                "new_normal_after_hours": rules.new_normal_after_hours,
                # a text: the training toolkit would pass an object on in a form of its own
                "min_deviation": json.dumps(_min_deviation(stage)),
            },
            from_input={"workflow_started_at": "$$.Execution.StartTime"},
            environment={
                "SENSORS_TABLE": storage.sensors.table_name,
                "CUTOFFS_TABLE": storage.cutoffs.table_name,
                "INCIDENTS_TABLE": storage.incidents.table_name,
                "MODEL_EVENTS_TABLE": storage.model_events.table_name,
                "DATA_BUCKET": storage.bucket.bucket_name,
                "CLOCK": stage.clock,
            },
        )


def _min_deviation(stage: SensorsStage) -> dict[str, dict[str, float]]:
    """By source and measure, where the stage sets it."""
    return {name: source.min_deviation for name, source in stage.sensors.sources.items() if source.min_deviation}
