"""SageMaker training jobs on the embedded cloud: the API, Step Functions' `createTrainingJob`, and the jobs themselves.

A job is a thread that moves data between S3 and the container's folders and waits for the script's process.
"""

import asyncio
import contextvars
import functools
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ministack import app
from ministack.core import router
from ministack.core.responses import get_account_id, get_region
from ministack.services import eventbridge, stepfunctions

from workbench.cloud.jobs import (
    CAUSE_CHARACTERS,
    JobFailedError,
    bucket_and_key,
    in_milliseconds,
    inherited_environment,
    s3_of,
)
from workbench.cloud.policies import role_credentials
from workbench.cloud.service_model import ApiError, Document, ServiceModel
from workbench.cloud.training_container import Container, ContainerError, bundle_uri, pack

_DAY_SECONDS = 24 * 60 * 60
_STOPPING_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.1
_REASON_CHARACTERS = 1024
_OVER = frozenset({"Completed", "Failed", "Stopped"})
_TIMES = frozenset({"CreationTime", "TrainingStartTime", "TrainingEndTime", "LastModifiedTime", "StartTime", "EndTime"})
_STEP = "arn:aws:states:::sagemaker:createTrainingJob"

MODEL = ServiceModel("sagemaker")


def register(folder: Path) -> None:
    """Serve SageMaker; each job's files and log are kept in a folder of its name below `folder`."""
    jobs = TrainingJobs(folder)
    app.SERVICE_HANDLERS["sagemaker"] = functools.partial(_handle, jobs)
    router.SERVICE_PATTERNS["sagemaker"] = {"target_prefixes": ["SageMaker."], "host_patterns": [r"sagemaker\."]}
    stepfunctions._SERVICE_DISPATCH[_STEP] = functools.partial(_step, jobs)


class TrainingJobs:
    """Every training job of one cloud. A name stays taken for ever, as on AWS.

    Args:
        folder: where the jobs' files and logs are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs: dict[str, TrainingJob] = {}
        self._lock = threading.Lock()
        self._operations: dict[str, Callable[[Document], Document]] = {
            "CreateTrainingJob": self._create,
            "DescribeTrainingJob": self._describe,
            "StopTrainingJob": self._stop,
            "ListTrainingJobs": self._list,
        }

    def answer(self, operation: str, request: Document) -> Document:
        """The response to a request.

        Raises:
            ApiError: the model or the state of the jobs does not allow it.
        """
        if operation not in self._operations:
            raise ApiError("UnknownOperationException", f"{operation} is not served by the embedded cloud.")
        MODEL.check(operation, request)
        return MODEL.response(operation, self._operations[operation](request))

    def finished(self, name: str) -> Document:
        """The description of a job once it is over; waits for that."""
        self._named(name).over.wait()
        return self.answer("DescribeTrainingJob", {"TrainingJobName": name})

    def _create(self, request: Document) -> Document:
        name = request["TrainingJobName"]
        arn = f"arn:aws:sagemaker:{get_region()}:{get_account_id()}:training-job/{name.lower()}"
        with self._lock:
            if name in self._jobs:
                raise ApiError(
                    "ResourceInUse",
                    "Training job names must be unique within an AWS account and region, "
                    f"and a training job with this name already exists ({arn})",
                )
            job = self._jobs[name] = TrainingJob(request, arn, self._folder / name)
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(job.run,), name=f"training-job-{name}", daemon=True).start()
        return {"TrainingJobArn": arn}

    def _describe(self, request: Document) -> Document:
        return self._named(request["TrainingJobName"]).description()

    def _stop(self, request: Document) -> Document:
        self._named(request["TrainingJobName"]).stop()
        return {}

    def _list(self, request: Document) -> Document:
        with self._lock:
            found = [job.description() for job in self._jobs.values()]
        status, within = request.get("StatusEquals"), request.get("NameContains", "")
        found = [
            job
            for job in found
            if within in job["TrainingJobName"] and (status is None or job["TrainingJobStatus"] == status)
        ]
        keys = {"Name": "TrainingJobName", "Status": "TrainingJobStatus", "CreationTime": "CreationTime"}
        found.sort(
            key=lambda job: job[keys[request.get("SortBy", "CreationTime")]],
            reverse=request.get("SortOrder", "Descending") == "Descending",
        )
        first = int(request.get("NextToken", 0))
        after = first + request.get("MaxResults", 10)
        more = {"NextToken": str(after)} if after < len(found) else {}
        return {"TrainingJobSummaries": found[first:after], **more}

    def _named(self, name: str) -> "TrainingJob":
        with self._lock:
            if name not in self._jobs:
                raise ApiError("ValidationException", "Requested resource not found.")
            return self._jobs[name]


class TrainingJob:
    """One job, from its creation to its end.

    Args:
        request: a valid CreateTrainingJob request.
        arn: the job's ARN.
        folder: where its files and its log go.
    """

    def __init__(self, request: Document, arn: str, folder: Path) -> None:
        now = time.time()
        self._request = request
        self._arn = arn
        self._folder = folder
        self._container = Container(folder / "ml")
        self._lock = threading.Lock()
        self._credentials = role_credentials(request["RoleArn"], "SageMaker")
        self._s3 = s3_of(self._credentials)
        self._stop = threading.Event()
        self.over = threading.Event()
        self._description: Document = {
            **request,
            "TrainingJobArn": arn,
            "TrainingJobStatus": "InProgress",
            "SecondaryStatus": "Starting",
            "SecondaryStatusTransitions": [{"Status": "Starting", "StartTime": now}],
            "CreationTime": now,
            "LastModifiedTime": now,
        }

    def description(self) -> Document:
        """The job as DescribeTrainingJob tells it, with times in seconds since 1970."""
        with self._lock:
            return {
                **self._description,
                "SecondaryStatusTransitions": [*self._description["SecondaryStatusTransitions"]],
            }

    def stop(self) -> None:
        """Ask the job to end; what its script has saved so far is kept.

        Raises:
            ApiError: it is over already.
        """
        if self.over.is_set():
            raise ApiError(
                "ValidationException", "The request was rejected because the training job is in a final state."
            )
        self._stop.set()
        self._enter("InProgress", "Stopping")

    def run(self) -> None:
        """Run the job to its end, whatever that is."""
        self._folder.mkdir(parents=True)
        try:
            self._enter("InProgress", "Downloading")
            self._prepare()
            self._enter("InProgress", "Training", TrainingStartTime=time.time())
            ending = self._train()
            self._enter("InProgress", "Uploading")
            artifacts = {"S3ModelArtifacts": self._upload()}
            self._enter("Stopped" if ending != "Completed" else ending, ending, ModelArtifacts=artifacts)
        except (JobFailedError, ContainerError) as failure:
            self._fail(str(failure))
        except Exception as error:  # whatever it is, the job has to end
            self._fail(f"InternalServerError: {error!r}")

    def _prepare(self) -> None:
        self._container.lay_out(self._request)
        bundle = self._folder / "sourcedir.tar.gz"
        bucket, key = bucket_and_key(bundle_uri(self._request))
        try:
            self._s3.download_file(bucket, key, str(bundle))
        except self._s3.exceptions.ClientError as error:
            raise JobFailedError(
                f"ClientError: the source bundle s3://{bucket}/{key} cannot be read: {error}"
            ) from error
        self._container.unpack(bundle)
        for channel in self._request.get("InputDataConfig", []):
            self._download(channel)

    def _download(self, channel: Document) -> None:
        source = channel["DataSource"].get("S3DataSource", {})
        if source.get("S3DataType") != "S3Prefix":
            raise JobFailedError(f"ClientError: channel {channel['ChannelName']}: only S3Prefix is served here.")
        folder = self._container.channel(channel["ChannelName"])
        bucket, prefix = bucket_and_key(source["S3Uri"])
        # a prefix that ends within a name keeps the rest of that name
        parent = prefix.rpartition("/")[0]
        found = False
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                key = item["Key"]
                if key.endswith("/"):
                    continue
                base = prefix if key.startswith(prefix.rstrip("/") + "/") else parent
                file = folder / key.removeprefix(base).lstrip("/")
                file.parent.mkdir(parents=True, exist_ok=True)
                self._s3.download_file(bucket, key, str(file))
                found = True
        if not found:
            raise JobFailedError(
                f"ClientError: Data download failed:No S3 objects found under S3 URL {source['S3Uri']!r} "
                f"given in input data source of channel {channel['ChannelName']}"
            )

    def _train(self) -> str:
        """Run the script; the secondary status with which it ended.

        Raises:
            JobFailedError: it ended with an exit code other than 0.
        """
        command = self._container.command(self._request)
        log = self._folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self._container.code,
                env=self._container.environment(
                    self._request, self._arn, {**inherited_environment(), **self._credentials}
                ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            ending = self._wait(process)
        if ending == "Completed" and process.returncode != 0:
            head = f"AlgorithmError: ExecuteUserScriptError:\nExitCode {process.returncode}\nErrorMessage "
            tail = log.read_text(errors="replace").strip()[-(_REASON_CHARACTERS - len(head)) :]
            raise JobFailedError(head + tail)
        return ending

    def _wait(self, process: "subprocess.Popen[bytes]") -> str:
        limit = self._request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", _DAY_SECONDS)
        deadline = time.monotonic() + limit
        while True:
            try:
                process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                overdue = time.monotonic() > deadline
                if not overdue and not self._stop.is_set():
                    continue
                process.terminate()
                try:
                    process.wait(_STOPPING_GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                return "MaxRuntimeExceeded" if overdue else "Stopped"
            return "Stopped" if self._stop.is_set() else "Completed"

    def _upload(self) -> str:
        base = (
            f"{self._request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{self._request['TrainingJobName']}/output"
        )
        for name, folder in (("model.tar.gz", self._container.model), ("output.tar.gz", self._container.output_data)):
            if name == "model.tar.gz" or any(folder.iterdir()):
                archive = self._folder / name
                pack(folder, archive)
                bucket, key = bucket_and_key(f"{base}/{name}")
                self._s3.upload_file(str(archive), bucket, key)
        return f"{base}/model.tar.gz"

    def _fail(self, reason: str) -> None:
        reason = reason[:_REASON_CHARACTERS]
        self._enter("Failed", "Failed", message=reason, FailureReason=reason)

    def _enter(self, status: str, secondary: str, message: str = "", **members: Any) -> None:
        now = time.time()
        with self._lock:
            if self._description["TrainingJobStatus"] in _OVER:
                return
            transitions = self._description["SecondaryStatusTransitions"]
            transitions[-1] = {**transitions[-1], "EndTime": now}
            entered = {"Status": secondary, "StartTime": now} | ({"StatusMessage": message} if message else {})
            transitions.append(entered)
            self._description.update(members, TrainingJobStatus=status, SecondaryStatus=secondary, LastModifiedTime=now)
            if status in _OVER:
                entered["EndTime"] = now
                seconds = int(now - self._description.get("TrainingStartTime", now))
                self._description.update(
                    TrainingEndTime=now, TrainingTimeInSeconds=seconds, BillableTimeInSeconds=seconds
                )
        self._tell()
        if status in _OVER:
            self.over.set()

    def _tell(self) -> None:
        """Send EventBridge's `SageMaker Training Job State Change`."""
        detail = in_milliseconds(MODEL.response("DescribeTrainingJob", self.description()), _TIMES)
        entry = {
            "Source": "aws.sagemaker",
            "DetailType": "SageMaker Training Job State Change",
            "Detail": json.dumps(detail),
            "Resources": [self._arn],
        }
        eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True)


async def _handle(
    jobs: TrainingJobs, method: str, path: str, headers: dict[str, str], body: bytes, query: Document
) -> tuple[int, dict[str, str], bytes]:
    operation = headers.get("x-amz-target", "").rpartition(".")[2]
    status, answer = 200, {}
    try:
        answer = await asyncio.to_thread(jobs.answer, operation, json.loads(body or b"{}"))
    except ApiError as error:
        status, answer = 400, {"__type": error.code, "message": str(error)}
    return status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(answer).encode()


def _step(jobs: TrainingJobs, resource: str, request: Document) -> Document:
    """A task state: a refusal is SageMaker's, the failure of a job that was waited for is the task's."""
    try:
        created = jobs.answer("CreateTrainingJob", request)
    except ApiError as error:
        named = MODEL.names_error("CreateTrainingJob", error.code)
        raise stepfunctions._ExecutionError(
            f"SageMaker.{error.code}Exception" if named else "SageMaker.AmazonSageMakerException",
            f"{error} (Service: AmazonSageMaker; Status Code: 400; Error Code: {error.code})",
        ) from error
    if not resource.endswith(".sync"):
        return created
    described: Document = in_milliseconds(jobs.finished(request["TrainingJobName"]), _TIMES)
    if described["TrainingJobStatus"] != "Completed":
        raise stepfunctions._ExecutionError("States.TaskFailed", json.dumps(described)[:CAUSE_CHARACTERS])
    return described
