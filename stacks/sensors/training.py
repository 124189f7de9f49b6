"""Training: exports readings every hour, and trains forests and cutoffs on a schedule."""

import json

from aws_cdk import ArnFormat, Duration, Stack
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3_assets as assets
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from stacks.constructs.bundling import Target, make_bundle, to_tar_gz
from stacks.constructs.function import PipelineFunction, bundle_folder, log_group, shared_sources
from stacks.constructs.grants import allow
from stacks.constructs.training_image import REPOSITORY, TAG, registry_account
from stacks.sensors.alerting import Alerting
from stacks.sensors.storage import Storage
from stacks.stage import Stage

TRAINING_TIMEOUT = Duration.hours(4)
VOLUME_GB = 30
# five minutes past the hour, so that the hour's last readings have come
EVERY_HOUR = events.Schedule.cron(minute="5")
# the image's scikit-learn needs Python 3.11 or newer, and the bundled wheels fit every Python from there on
IMAGE = Target("x86_64", "3.11")


class Training(Construct):
    """Two workflows: export every bucket; and export, train, done or failed."""

    def __init__(
        self, scope: Construct, construct_id: str, *, stage: Stage, storage: Storage, alerting: Alerting
    ) -> None:
        super().__init__(scope, construct_id)
        self.export_training_set = self._export_function(stage, storage)
        self.role = self._training_role(storage)
        self.export = self._workflow("Export", self._export_all("Export", stage), stage)
        train = self._train(stage, storage)
        self.train = self._workflow("Train", self._export_all("ExportFirst", stage).next(train), stage)
        self._allow_training(self.train)
        events.Rule(self, "Hourly", schedule=EVERY_HOUR, targets=[targets.SfnStateMachine(self.export)])
        nightly = events.Schedule.expression(stage.sensors.training_schedule)
        events.Rule(self, "Scheduled", schedule=nightly, targets=[targets.SfnStateMachine(self.train)])
        for name, workflow in (("Export", self.export), ("Training", self.train)):
            alerting.alarm(
                f"{name}Failed",
                workflow.metric_failed(period=Duration.minutes(5)),
                above=0,
                description=f"{name} of sensor readings failed: look at the execution's history",
            )

    def _export_function(self, stage: Stage, storage: Storage) -> lambda_.Function:
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
        storage.readings.grant(function, "dynamodb:Query")
        storage.sensors.grant(function, "dynamodb:Query")
        storage.pending_exports.grant(function, "dynamodb:Query", "dynamodb:BatchWriteItem", "dynamodb:DeleteItem")
        allow(function, storage.bucket.arn_for_objects("readings/*"), "s3:PutObject")
        return function

    def _export_all(self, name: str, stage: Stage) -> sfn.Chain:
        """Run the exporter for every bucket at once."""
        buckets = sfn.Result.from_array(list(range(stage.sensors.export_buckets)))
        each = sfn.Map(
            self,
            f"{name}EveryBucket",
            items_path="$.buckets",
            max_concurrency=16,
            result_path=sfn.JsonPath.DISCARD,
        )
        export = tasks.LambdaInvoke(
            self,
            f"{name}Bucket",
            lambda_function=self.export_training_set,
            payload=sfn.TaskInput.from_object({"bucket": sfn.JsonPath.number_at("$")}),
            retry_on_service_exceptions=False,
        )
        # whatever went wrong, throttling above all: exporting a bucket again overwrites the same objects
        export.add_retry(errors=[sfn.Errors.ALL], interval=Duration.seconds(5), max_attempts=5, backoff_rate=2)
        each.item_processor(export)
        return sfn.Pass(self, f"{name}Buckets", result=buckets, result_path="$.buckets").next(each)

    def _train(self, stage: Stage, storage: Storage) -> sfn.CustomState:
        """`createTrainingJob.sync` in script mode. A job's name is unique for ever: execution and attempt make it."""
        rules = stage.sensors
        folder = make_bundle(
            "bundle-train-sensors",
            [*shared_sources("sensors"), "training/__init__.py", "training/sensors"],
            IMAGE if stage.functions.platform != "host" else Target("host", stage.functions.python_version),
            bundle_folder(stage, "train-sensors"),
        )
        (folder / "training/sensors/entry_point.py").rename(folder / "train_sensors.py")
        source = assets.Asset(self, "TrainingSource", path=str(to_tar_gz(folder)))
        allow(self.role, source.bucket.arn_for_objects(source.s3_object_key), "s3:GetObject")
        repository = ecr.Repository.from_repository_attributes(
            self,
            "TrainingImage",
            repository_name=REPOSITORY,
            repository_arn=ecr.Repository.arn_for_local_repository(REPOSITORY, self, registry_account(stage.region)),
        )
        repository.grant_pull(self.role)
        hyperparameters = {
            "sagemaker_program": "train_sensors.py",
            "sagemaker_submit_directory": source.s3_object_url,
            "window_days": rules.training_window_days,
            "z_factor": rules.z_factor,
            "num_trees": rules.num_trees,
            "num_samples_per_tree": rules.num_samples_per_tree,
        }
        return sfn.CustomState(
            self,
            "TrainForests",
            state_json={
                "Type": "Task",
                "Resource": Stack.of(self).format_arn(
                    service="states",
                    region="",
                    account="",
                    resource="sagemaker",
                    resource_name="createTrainingJob.sync",
                    arn_format=ArnFormat.COLON_RESOURCE_NAME,
                ),
                "Parameters": {
                    "TrainingJobName.$": "States.Format('sensors-{}-{}', "
                    "States.Hash($$.Execution.Id, 'SHA-1'), $$.State.RetryCount)",
                    "RoleArn": self.role.role_arn,
                    "AlgorithmSpecification": {
                        "TrainingImage": repository.repository_uri_for_tag(TAG),
                        "TrainingInputMode": "File",
                    },
                    "HyperParameters": {key: json.dumps(value) for key, value in hyperparameters.items()},
                    "Environment": {
                        "SENSORS_TABLE": storage.sensors.table_name,
                        "CUTOFFS_TABLE": storage.cutoffs.table_name,
                        "MODEL_EVENTS_TABLE": storage.model_events.table_name,
                        "DATA_BUCKET": storage.bucket.bucket_name,
                        "CLOCK": stage.clock,
                        "AWS_DEFAULT_REGION": stage.region,
                    },
                    "OutputDataConfig": {"S3OutputPath": storage.bucket.s3_url_for_object("training-jobs/sensors")},
                    "ResourceConfig": {
                        "InstanceCount": 1,
                        "InstanceType": rules.training_instance,
                        "VolumeSizeInGB": VOLUME_GB,
                    },
                    "StoppingCondition": {"MaxRuntimeInSeconds": TRAINING_TIMEOUT.to_seconds()},
                },
                "ResultPath": "$.training_job",
                "Retry": [{"ErrorEquals": ["States.TaskFailed"], "IntervalSeconds": 60, "MaxAttempts": 1}],
            },
        )

    def _workflow(self, name: str, definition: sfn.IChainable, stage: Stage) -> sfn.StateMachine:
        return sfn.StateMachine(
            self,
            name,
            definition_body=sfn.DefinitionBody.from_chainable(definition),
            timeout=TRAINING_TIMEOUT.plus(Duration.hours(1)),
            tracing_enabled=True,
            logs=sfn.LogOptions(destination=log_group(self, f"{name}Logs", stage), level=sfn.LogLevel.ERROR),
        )

    def _training_role(self, storage: Storage) -> iam.Role:
        role = iam.Role(self, "TrainingRole", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        storage.sensors.grant(role, "dynamodb:Scan")
        storage.cutoffs.grant(role, "dynamodb:BatchWriteItem")
        storage.model_events.grant(role, "dynamodb:PutItem")
        bucket = storage.bucket
        allow(role, bucket.bucket_arn, "s3:ListBucket")
        allow(role, bucket.arn_for_objects("readings/*"), "s3:GetObject")
        allow(role, bucket.arn_for_objects("models/sensors/*"), "s3:PutObject")
        allow(role, bucket.arn_for_objects("training-jobs/sensors/*"), "s3:PutObject")
        role.add_to_policy(
            iam.PolicyStatement(
                actions=["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"],
                resources=[
                    Stack.of(self).format_arn(
                        service="logs",
                        resource="log-group",
                        resource_name="/aws/sagemaker/TrainingJobs*",
                        arn_format=ArnFormat.COLON_RESOURCE_NAME,
                    )
                ],
            )
        )
        return role

    def _allow_training(self, workflow: sfn.StateMachine) -> None:
        """What Step Functions asks for to run a training job and wait for it.

        https://docs.aws.amazon.com/step-functions/latest/dg/connect-sagemaker.html
        """
        stack = Stack.of(self)
        jobs = stack.format_arn(service="sagemaker", resource="training-job", resource_name="sensors-*")
        actions = ["sagemaker:CreateTrainingJob", "sagemaker:DescribeTrainingJob", "sagemaker:StopTrainingJob"]
        rule = stack.format_arn(
            service="events",
            resource="rule",
            resource_name="StepFunctionsGetEventsForSageMakerTrainingJobsRule",
        )
        workflow.add_to_role_policy(iam.PolicyStatement(actions=[*actions, "sagemaker:AddTags"], resources=[jobs]))
        workflow.add_to_role_policy(
            iam.PolicyStatement(
                actions=["events:PutTargets", "events:PutRule", "events:DescribeRule"], resources=[rule]
            )
        )
        workflow.add_to_role_policy(
            iam.PolicyStatement(
                actions=["iam:PassRole"],
                resources=[self.role.role_arn],
                conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
            )
        )
