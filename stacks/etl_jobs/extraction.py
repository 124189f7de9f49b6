"""Extraction: `extract_features.py` on EMR Serverless, which starts from nothing and stops when it is idle."""

from aws_cdk import Duration
from aws_cdk import aws_emrserverless as emr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as assets
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from overcut.etl_jobs.layout import EXTRACTIONS_PREFIX, HISTORICAL_PREFIX, RECENT_PREFIX, REJECTED_PREFIX
from stacks.constructs.bundling import ROOT
from stacks.constructs.encryption import allow_own_key
from stacks.constructs.grants import allow, allow_objects
from stacks.constructs.network import private_network
from stacks.constructs.training_job import allow_passing, allow_waiting
from stacks.constructs.workflow import service_integration
from stacks.etl_jobs.storage import Storage
from stacks.stage import EtlJobsStage, LakeFields

RELEASE = "emr-spark-8.0.0"
TIMEOUT = Duration.hours(2)
_SCRIPT = "training/etl_jobs/extract_features.py"
_SPARK = (
    "--conf spark.driver.cores=2 --conf spark.driver.memory=6g "
    "--conf spark.executor.cores=4 --conf spark.executor.memory=14g"
)


class Extraction(Construct):
    """The application, what its job runs may read and write, and the workflow state that runs one."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: EtlJobsStage, storage: Storage) -> None:
        super().__init__(scope, construct_id)
        self._stage, self._storage = stage, storage
        vcpus = stage.etl_jobs.maximum_vcpus
        network = private_network(self, stage)
        self.application = emr.CfnApplication(
            self,
            "Application",
            name=f"overcut-{stage.name}-etl-jobs",
            type="SPARK",
            release_label=RELEASE,
            architecture="ARM64",
            auto_start_configuration=emr.CfnApplication.AutoStartConfigurationProperty(enabled=True),
            auto_stop_configuration=emr.CfnApplication.AutoStopConfigurationProperty(
                enabled=True, idle_timeout_minutes=5
            ),
            maximum_capacity=emr.CfnApplication.MaximumAllowedResourcesProperty(
                cpu=f"{vcpus} vCPU", memory=f"{4 * vcpus} GB", disk=f"{20 * vcpus} GB"
            ),
            network_configuration=emr.CfnApplication.NetworkConfigurationProperty(
                subnet_ids=network.subnet_ids, security_group_ids=network.security_group_ids
            )
            if network
            else None,
        )
        self._script = assets.Asset(self, "Script", path=str(ROOT / _SCRIPT))
        self.role = self._job_role()

    def _job_role(self) -> iam.Role:
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("emr-serverless.amazonaws.com"))
        storage = self._storage
        allow_own_key(role, self, self._stage)
        script = self._script.bucket.arn_for_objects(self._script.s3_object_key)
        allow(role, script, "s3:GetObject")
        if network := private_network(self, self._stage):
            # the rest of what it does in the pipeline's own bucket, the training job does as well
            read = (script, storage.lake_bucket_arn, *storage.lake_objects_arns)
            network.lead_to_objects(read, "s3:GetObject", "s3:ListBucket")
            more = ("s3:AbortMultipartUpload", "s3:DeleteObject")
            network.lead_to_objects([storage.bucket.arn_for_objects("*")], *more)
        for bucket_arn in dict.fromkeys((storage.lake_bucket_arn, storage.bucket.bucket_arn)):
            allow(role, bucket_arn, "s3:ListBucket")
        for objects in storage.lake_objects_arns:
            why = "orchestrators name the lake's objects" if objects.endswith("*") else ""
            allow(role, objects, "s3:GetObject", why=why)
        for prefix in (HISTORICAL_PREFIX, RECENT_PREFIX, REJECTED_PREFIX, EXTRACTIONS_PREFIX):
            # without the slash: Spark's file system keeps markers of folders beside them
            actions = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")
            allow_objects(role, storage.bucket, prefix.rstrip("/"), *actions)
        return role

    def state(self, construct_id: str, *, mode: str, days: int) -> sfn.CustomState:
        """`startJobRun.sync`, of what was recorded until `$.until`.

        Args:
            mode: `historical` or `recent`.
            days: how far back it reads.
        """
        rules = self._stage.etl_jobs
        arguments = {
            "mode": mode,
            "lake": self._storage.lake_url,
            "output": self._storage.bucket.s3_url_for_object(""),
            "days": str(days),
            "buckets": str(rules.buckets),
            "day-folders": rules.day_folders,
        }
        if rules.fields != LakeFields():
            arguments["fields"] = ",".join(f"{name}={path}" for name, path in rules.fields.model_dump().items())
        # the stage lets none of them hold a character that an intrinsic function reserves
        literals = [f"'{part}'" for name, value in arguments.items() for part in (f"--{name}", value)]
        return sfn.CustomState(
            self,
            construct_id,
            state_json={
                "Type": "Task",
                "Resource": service_integration(self, "emr-serverless", "startJobRun.sync"),
                "Parameters": {
                    "Name": f"extract-{mode}",
                    "ApplicationId": self.application.attr_application_id,
                    "ExecutionRoleArn": self.role.role_arn,
                    "ExecutionTimeoutMinutes": TIMEOUT.to_minutes(),
                    "JobDriver": {
                        "SparkSubmit": {
                            "EntryPoint": self._script.s3_object_url,
                            "EntryPointArguments.$": f"States.Array({', '.join(literals)}, '--until', $.until)",
                            "SparkSubmitParameters": _SPARK,
                        }
                    },
                },
                "ResultPath": sfn.JsonPath.DISCARD,
                # extracting again overwrites what was extracted
                "Retry": [
                    {"ErrorEquals": ["States.TaskFailed"], "IntervalSeconds": 60, "MaxAttempts": 2, "BackoffRate": 2}
                ],
            },
        )

    def allow_running(self, workflow: sfn.StateMachine) -> None:
        """What Step Functions asks for to run a job and wait for it.

        https://docs.aws.amazon.com/step-functions/latest/dg/emr-serverless-iam.html
        """
        application = self.application.attr_arn
        allow(workflow, application, "emr-serverless:StartJobRun")
        runs, actions = f"{application}/jobruns/*", ("emr-serverless:GetJobRun", "emr-serverless:CancelJobRun")
        allow(workflow, runs, *actions, why="EMR Serverless makes a run's id; they are runs of this application")
        allow_waiting(workflow, "StepFunctionsGetEventsForEMRServerlessJobRule")
        allow_passing(workflow, self.role, "emr-serverless.amazonaws.com")
