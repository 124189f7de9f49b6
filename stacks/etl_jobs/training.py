"""Training: every day, extract history, train the forest, promote it or hold it."""

from aws_cdk import Duration
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from overcut.etl_jobs.layout import HISTORICAL_PREFIX, MODELS_PREFIX, decision_key
from stacks.constructs.decision import promoted_or_held
from stacks.constructs.grants import allow, allow_objects
from stacks.constructs.operations import Operations
from stacks.constructs.training_job import TIMEOUT, TrainingJob
from stacks.constructs.workflow import Workflow
from stacks.etl_jobs import extraction
from stacks.etl_jobs.extraction import Extraction
from stacks.etl_jobs.storage import Storage
from stacks.etl_jobs.until import beginning_with_until
from stacks.stage import EtlJobsStage


class Training(Construct):
    """One workflow. A held model leaves the earlier one in force and is told to the people who run this."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: EtlJobsStage,
        storage: Storage,
        extraction_: Extraction,
        operations: Operations,
    ) -> None:
        super().__init__(scope, construct_id)
        rules = stage.etl_jobs
        job = self._training_job(stage, storage)
        decided = promoted_or_held(
            self,
            bucket=storage.bucket,
            key=decision_key("{}"),
            operations=operations,
            subject="Overcut holds a new model of ETL jobs back",
        )
        extract = extraction_.state("ExtractHistory", mode="historical", days=rules.training_window_days)
        self.train = Workflow(
            self,
            "Train",
            stage=stage,
            definition=beginning_with_until(self, extract.next(self._train(job, stage, storage)).next(decided)),
            timeout=extraction.TIMEOUT.plus(TIMEOUT).plus(Duration.hours(1)),
            operations=operations,
            failure="Training of the ETL jobs' model failed",
        )
        operations.heartbeat(
            "NoTraining",
            self.train.metric_succeeded(period=Duration.days(1), statistic="Sum"),
            periods=rules.training_overdue_days,
            description="No training of the ETL jobs' model succeeded for days: it grows old",
        )
        extraction_.allow_running(self.train)
        job.allow_running(self.train)
        decisions = storage.bucket.arn_for_objects(decision_key("*"))
        allow(self.train, decisions, "s3:GetObject", why="a decision has the name of its training job")
        schedule = events.Schedule.expression(rules.training_schedule)
        events.Rule(self, "Scheduled", schedule=schedule, targets=[targets.SfnStateMachine(self.train)])

    def _training_job(self, stage: EtlJobsStage, storage: Storage) -> TrainingJob:
        bucket = storage.bucket
        job = TrainingJob(
            self, "Job", stage=stage, pipeline="etl_jobs", bucket=bucket, instance=stage.etl_jobs.training_instance
        )
        allow(job.role, bucket.bucket_arn, "s3:ListBucket")
        allow_objects(job.role, bucket, HISTORICAL_PREFIX, "s3:GetObject")
        allow_objects(job.role, bucket, MODELS_PREFIX, "s3:GetObject", "s3:PutObject")
        return job

    @staticmethod
    def _train(job: TrainingJob, stage: EtlJobsStage, storage: Storage) -> sfn.CustomState:
        rules = stage.etl_jobs
        return job.state(
            "TrainForest",
            hyperparameters={
                "window_days": rules.training_window_days,
                "false_tickets_per_week": rules.false_tickets_per_week,
                "num_trees": rules.num_trees,
                "num_samples_per_tree": rules.num_samples_per_tree,
            },
            from_input={"until": "$.until", "workflow_started_at": "$$.Execution.StartTime"},
            environment={"DATA_BUCKET": storage.bucket.bucket_name},
        )
