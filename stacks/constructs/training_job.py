"""A SageMaker training job in script mode: its source bundle, its role, and the workflow state that runs it."""

import json
from collections.abc import Mapping, Sequence

from aws_cdk import ArnFormat, Duration, Stack
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_assets as assets
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from stacks.constructs.acknowledgements import acknowledge_wildcard
from stacks.constructs.bundling import Target, make_bundle, to_tar_gz
from stacks.constructs.encryption import allow_own_key
from stacks.constructs.function import bundle_folder, shared_sources
from stacks.constructs.grants import allow, allow_objects
from stacks.constructs.network import private_network
from stacks.constructs.training_image import REPOSITORY, TAG, registry_account
from stacks.constructs.workflow import service_integration
from stacks.stage import Stage

TIMEOUT = Duration.hours(4)
VOLUME_GB = 30
# the image's scikit-learn needs Python 3.11 or newer, and the bundled wheels fit every Python from there on
IMAGE = Target("x86_64", "3.11")


class TrainingJob(Construct):
    """`training/<pipeline>/entry_point.py` and what it imports, run in SageMaker's scikit-learn image.

    Its role may read its source, pull the image and write its log; the rest is granted where it is used.

    Args:
        pipeline: the folder below `training/`; its bundle's dependency group is `bundle-train-<pipeline>`.
        bucket: what is left of a job goes to `training-jobs/<pipeline>/`.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, stage: Stage, pipeline: str, bucket: s3.IBucket, instance: str
    ) -> None:
        super().__init__(scope, construct_id)
        self._stage, self._pipeline, self._bucket, self._instance = stage, pipeline, bucket, instance
        self.role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        self._program = f"train_{pipeline}.py"
        self._source = assets.Asset(self, "Source", path=self._packed_source())
        self._repository = ecr.Repository.from_repository_attributes(
            self,
            "Image",
            repository_name=REPOSITORY,
            repository_arn=ecr.Repository.arn_for_local_repository(REPOSITORY, self, registry_account(stage.region)),
        )
        allow_own_key(self.role, self, stage)
        source = self._source.bucket.arn_for_objects(self._source.s3_object_key)
        allow(self.role, source, "s3:GetObject")
        allow_objects(self.role, bucket, f"training-jobs/{pipeline}/", "s3:PutObject")
        self._repository.grant_pull(self.role)
        acknowledge_wildcard(self.role, "*", "a token is for the account's registries, not for one repository")
        self._allow_logs()
        self._network = private_network(self, stage)
        if self._network:
            self._network.allow_entering(self.role)
            reached = (bucket.bucket_arn, bucket.arn_for_objects("*"), source)
            self._network.lead_to_objects(reached, "s3:GetObject", "s3:ListBucket", "s3:PutObject")

    @property
    def _name(self) -> str:
        """What job names begin with; they hold no underscore."""
        return self._pipeline.replace("_", "-")

    def _packed_source(self) -> str:
        name = f"train-{self._name}"
        host = Target("host", self._stage.functions.python_version)
        folder = make_bundle(
            f"bundle-{name}",
            [*shared_sources(self._pipeline), "training/__init__.py", f"training/{self._pipeline}"],
            IMAGE if self._stage.functions.platform != "host" else host,
            bundle_folder(self._stage, name),
        )
        (folder / f"training/{self._pipeline}/entry_point.py").rename(folder / self._program)
        return str(to_tar_gz(folder))

    def _allow_logs(self) -> None:
        log_group = Stack.of(self).format_arn(
            service="logs",
            resource="log-group",
            resource_name="/aws/sagemaker/TrainingJobs*",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        actions = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
        why = "SageMaker names a log stream after the training job, in the one group of all of them"
        allow(self.role, log_group, *actions, why=why)

    def state(
        self,
        construct_id: str,
        *,
        hyperparameters: Mapping[str, object],
        environment: Mapping[str, str],
        from_input: Mapping[str, str] | None = None,
    ) -> sfn.CustomState:
        """`createTrainingJob.sync`. A job's name is unique for ever: execution and attempt make it.

        Args:
            from_input: further hyperparameters, each a text at a path of the state's input.
        """
        network = self._network and {
            "VpcConfig": {"SecurityGroupIds": self._network.security_group_ids, "Subnets": self._network.subnet_ids}
        }
        submitted = {
            "sagemaker_program": self._program,
            "sagemaker_submit_directory": self._source.s3_object_url,
            **hyperparameters,
        }
        return sfn.CustomState(
            self,
            construct_id,
            state_json={
                "Type": "Task",
                "Resource": service_integration(self, "sagemaker", "createTrainingJob.sync"),
                "Parameters": {
                    "TrainingJobName.$": f"States.Format('{self._name}-{{}}-{{}}', "
                    "States.Hash($$.Execution.Id, 'SHA-1'), $$.State.RetryCount)",
                    "RoleArn": self.role.role_arn,
                    "AlgorithmSpecification": {
                        "TrainingImage": self._repository.repository_uri_for_tag(TAG),
                        "TrainingInputMode": "File",
                    },
                    "HyperParameters": {
                        **{key: json.dumps(value) for key, value in submitted.items()},
                        **{f"{key}.$": path for key, path in (from_input or {}).items()},
                    },
                    "Environment": {**environment, "AWS_DEFAULT_REGION": self._stage.region},
                    "OutputDataConfig": {
                        "S3OutputPath": self._bucket.s3_url_for_object(f"training-jobs/{self._pipeline}")
                    },
                    "ResourceConfig": {
                        "InstanceCount": 1,
                        "InstanceType": self._instance,
                        "VolumeSizeInGB": VOLUME_GB,
                    },
                    "StoppingCondition": {"MaxRuntimeInSeconds": TIMEOUT.to_seconds()},
                    **(network or {}),
                },
                "ResultPath": "$.training_job",
                "Retry": [{"ErrorEquals": ["States.TaskFailed"], "IntervalSeconds": 60, "MaxAttempts": 1}],
            },
        )

    def allow_running(self, workflow: sfn.StateMachine) -> None:
        """What Step Functions asks for to run a training job and wait for it.

        https://docs.aws.amazon.com/step-functions/latest/dg/connect-sagemaker.html
        """
        jobs = Stack.of(self).format_arn(service="sagemaker", resource="training-job", resource_name=f"{self._name}-*")
        actions = ["sagemaker:CreateTrainingJob", "sagemaker:DescribeTrainingJob", "sagemaker:StopTrainingJob"]
        why = "a job's name is unique for ever: the execution makes it"
        allow(workflow, jobs, *actions, "sagemaker:AddTags", why=why)
        allow_waiting(workflow, "StepFunctionsGetEventsForSageMakerTrainingJobsRule")
        allow_passing(workflow, self.role, "sagemaker.amazonaws.com")


def allow_waiting(workflow: sfn.StateMachine, rule_name: str) -> None:
    """Let a workflow keep the rule by which Step Functions hears that a `.sync` job is over."""
    rule = Stack.of(workflow).format_arn(service="events", resource="rule", resource_name=rule_name)
    actions: Sequence[str] = ["events:PutTargets", "events:PutRule", "events:DescribeRule"]
    workflow.add_to_role_policy(iam.PolicyStatement(actions=list(actions), resources=[rule]))


def allow_passing(workflow: sfn.StateMachine, role: iam.IRole, service: str) -> None:
    """Let a workflow hand a role to one service."""
    workflow.add_to_role_policy(
        iam.PolicyStatement(
            actions=["iam:PassRole"],
            resources=[role.role_arn],
            conditions={"StringEquals": {"iam:PassedToService": service}},
        )
    )
