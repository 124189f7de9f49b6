"""EMR Serverless on the embedded cloud: the API, Step Functions' `startJobRun`, applications in stacks, and job runs.

A job run is a thread that brings what the job names of S3 into a folder, waits for `spark-submit`, and takes back what
changed. It takes nothing back from one that failed. An application holds no capacity and never stops for being idle.
"""

import asyncio
import contextvars
import functools
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ministack import app
from ministack.core import router
from ministack.core.responses import get_account_id, get_region
from ministack.services import eventbridge, stepfunctions
from ministack.services.cloudformation import provisioners

from workbench.cloud import spark
from workbench.cloud.jobs import (
    CAUSE_CHARACTERS,
    JobFailedError,
    bucket_and_key,
    in_milliseconds,
    inherited_environment,
    s3,
    s3_of,
)
from workbench.cloud.policies import role_credentials
from workbench.cloud.service_model import ApiError, Document, ServiceModel

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_OVER = frozenset({"SUCCESS", "FAILED", "CANCELLED"})
_TIMES = frozenset({"CreatedAt", "UpdatedAt", "StartedAt", "EndedAt", "AttemptCreatedAt", "AttemptUpdatedAt"})
_STATUS = {"ResourceNotFoundException": 404, "ConflictException": 409}
_DEFAULT_TIMEOUT_MINUTES = 720
_DEFAULT_PAGE = 50
_POLL_SECONDS = 0.1
_DETAILS_CHARACTERS = 256
_STEP = "arn:aws:states:::emr-serverless:startJobRun"
_TYPE = "AWS::EMRServerless::Application"
_S3_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]+[a-z0-9](?:/[^\s'\",]*)?")
_SPARKS_OWN_WORDS = re.compile(r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d (INFO|WARN) |\s|$")

MODEL = ServiceModel("emr-serverless")


def register(folder: Path) -> None:
    """Serve EMR Serverless; each job run's log is kept in a folder of its id below `folder`."""
    service = EmrServerless(folder)
    app.SERVICE_HANDLERS["emr-serverless"] = functools.partial(_handle, service)
    router.SERVICE_PATTERNS["emr-serverless"] = {"host_patterns": [r"emr-serverless\."]}
    stepfunctions._SERVICE_DISPATCH[_STEP] = functools.partial(_step, service)
    provisioners._RESOURCE_HANDLERS[_TYPE] = {
        "create": functools.partial(_create_in_stack, service),
        "delete": functools.partial(_delete_in_stack, service),
    }


class EmrServerless:
    """Every application and job run of one cloud.

    Args:
        folder: where the job runs' files and logs are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._applications: dict[str, Document] = {}
        self._runs: dict[str, JobRun] = {}
        self._tokens: dict[tuple[str, str | None], tuple[Document, Document]] = {}
        self._lock = threading.RLock()
        self._operations: dict[str, Callable[[Document], Document]] = {
            "CreateApplication": self._create_application,
            "GetApplication": lambda request: {"application": self._application(request)},
            "ListApplications": self._list_applications,
            "StartApplication": lambda request: self._enter(request, "STARTED"),
            "StopApplication": self._stop_application,
            "DeleteApplication": self._delete_application,
            "StartJobRun": self._start_job_run,
            "GetJobRun": lambda request: {"jobRun": self._run(request).description()},
            "CancelJobRun": self._cancel_job_run,
            "ListJobRuns": self._list_job_runs,
        }

    def answer(self, operation: str, request: Document) -> Document:
        """The response to a request. One whose `clientToken` was seen before is answered as it was then.

        Raises:
            ApiError: the model, or the state of the applications and job runs, does not allow it.
        """
        if operation not in self._operations:
            raise ApiError("UnknownOperationException", f"{operation} is not served by the embedded cloud.")
        MODEL.check(operation, request)
        with self._lock:
            token = operation, request.get("clientToken")
            if token in self._tokens:
                earlier, told = self._tokens[token]
                if earlier != request:
                    raise ApiError("ConflictException", "The clientToken was used with other parameters.")
                return told
            answer = MODEL.response(operation, self._operations[operation](request))
            if "clientToken" in request:
                self._tokens[token] = request, answer
            return answer

    def finished(self, started: Document) -> Document:
        """The response of GetJobRun once a job run is over; waits for that."""
        self._run(started).over.wait()
        return self.answer("GetJobRun", {name: started[name] for name in ("applicationId", "jobRunId")})

    def _create_application(self, request: Document) -> Document:
        identifier, now = _identifier(), time.time()
        arn = f"arn:aws:emr-serverless:{get_region()}:{get_account_id()}:/applications/{identifier}"
        application = {**request, "applicationId": identifier, "arn": arn, "state": "CREATED"}
        self._applications[identifier] = {**application, "createdAt": now, "updatedAt": now}
        return application

    def _application(self, request: Document) -> Document:
        found: Document = _named(self._applications, request["applicationId"], "Application")
        return found

    def _list_applications(self, request: Document) -> Document:
        found = [{**each, "id": each["applicationId"]} for each in self._applications.values()]
        return _page("applications", found, request)

    def _enter(self, request: Document, state: str) -> Document:
        self._application(request).update(state=state, updatedAt=time.time())
        return {}

    def _stop_application(self, request: Document) -> Document:
        if any(not run.over.is_set() for run in self._runs_of(request)):
            raise ApiError("ValidationException", "Application has active job runs.")
        return self._enter(request, "STOPPED")

    def _delete_application(self, request: Document) -> Document:
        state = self._application(request)["state"]
        if state not in ("CREATED", "STOPPED"):
            raise ApiError(
                "ValidationException", f"Application must be CREATED or STOPPED to be deleted; it is {state}."
            )
        del self._applications[request["applicationId"]]
        return {}

    def _start_job_run(self, request: Document) -> Document:
        application = self._application(request)
        if "sparkSubmit" not in request.get("jobDriver", {}):
            raise ApiError("ValidationException", "jobDriver: only sparkSubmit runs on the embedded cloud.")
        if application["state"] != "STARTED":
            if not application.get("autoStartConfiguration", {}).get("enabled", True):
                raise ApiError("ValidationException", "Application is not started, and does not start by itself.")
            self._enter(request, "STARTED")
        identifier = _identifier()
        run = self._runs[identifier] = JobRun(request, application, identifier, self._folder / identifier)
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(run.run,), name=f"job-run-{identifier}", daemon=True).start()
        return run.description()

    def _run(self, request: Document) -> "JobRun":
        run: JobRun = _named(self._runs, request["jobRunId"], "Job run")
        if run.description()["applicationId"] != request["applicationId"]:
            raise ApiError("ResourceNotFoundException", f"Job run {request['jobRunId']} does not exist.")
        return run

    def _runs_of(self, request: Document) -> "list[JobRun]":
        return [run for run in self._runs.values() if run.description()["applicationId"] == request["applicationId"]]

    def _cancel_job_run(self, request: Document) -> Document:
        self._run(request).cancel()
        return request

    def _list_job_runs(self, request: Document) -> Document:
        self._application(request)
        found = [{**run.description(), "id": run.identifier, "type": "SPARK"} for run in self._runs_of(request)]
        return _page("jobRuns", found, request)


class JobRun:
    """One job run, from its start to its end.

    Args:
        request: a valid StartJobRun request.
        application: as GetApplication describes it.
        folder: where its log stays, and its files while it runs.
    """

    def __init__(self, request: Document, application: Document, identifier: str, folder: Path) -> None:
        now = time.time()
        self.identifier = identifier
        self._folder = folder
        self._lock = threading.Lock()
        self._cancel = threading.Event()
        self.over = threading.Event()
        self._timeout_minutes = request.get("executionTimeoutMinutes", _DEFAULT_TIMEOUT_MINUTES)
        self._submit: Document = request["jobDriver"]["sparkSubmit"]
        self._description: Document = {
            **request,
            "jobRunId": identifier,
            "arn": f"{application['arn']}/jobruns/{identifier}",
            "createdBy": f"arn:aws:iam::{get_account_id()}:root",
            "executionRole": request["executionRoleArn"],
            "releaseLabel": application["releaseLabel"],
            "executionTimeoutMinutes": self._timeout_minutes,
            "mode": request.get("mode", "BATCH"),
            "attempt": 1,
            "state": "SUBMITTED",
            "stateDetails": "",
            "createdAt": now,
            "updatedAt": now,
        }

    def description(self) -> Document:
        """The job run as GetJobRun tells it, with times in seconds since 1970."""
        with self._lock:
            return dict(self._description)

    def cancel(self) -> None:
        """Ask the job run to end.

        Raises:
            ApiError: it is over already.
        """
        if self.over.is_set():
            raise ApiError("ValidationException", "The job run is in a final state.")
        self._cancel.set()
        self._enter("CANCELLING")

    def run(self) -> None:
        """Run the job to its end, whatever that is."""
        work = self._folder / "work"
        try:
            work.mkdir(parents=True)
            self._enter("SCHEDULED")
            mirror = Mirror(work / "s3", self._uris())
            mirror.download()
            command, environment = self._command(work, mirror)
            self._enter("RUNNING", startedAt=time.time())
            if self._ran_to_its_end(command, environment, work):
                mirror.upload(s3_of(role_credentials(self._description["executionRole"], "EMR")))
                self._enter("SUCCESS")
            else:
                self._enter("CANCELLED", "" if self._cancel.is_set() else "The job run exceeded its execution timeout.")
        except (JobFailedError, spark.NoJavaError) as failure:
            self._enter("FAILED", str(failure))
        except Exception as error:  # whatever it is, the job run has to end
            self._enter("FAILED", f"Internal error: {error!r}")
        finally:
            shutil.rmtree(work, ignore_errors=True)
            self.over.set()

    def _uris(self) -> list[str]:
        named = (
            self._submit["entryPoint"],
            *self._submit.get("entryPointArguments", ()),
            self._submit.get("sparkSubmitParameters", ""),
        )
        return [uri for text in named for uri in _S3_URI.findall(text)]

    def _command(self, work: Path, mirror: "Mirror") -> tuple[list[str], dict[str, str]]:
        temporary = work / "tmp"
        temporary.mkdir()
        script = mirror.file(self._submit["entryPoint"])
        if not script.is_file():
            raise JobFailedError(f"The entry point {self._submit['entryPoint']} does not exist.")
        environment = inherited_environment()
        java = spark.java_home(environment["PATH"], work / "java")
        command = spark.submit(
            script,
            self._submit.get("entryPointArguments", ()),
            shlex.split(self._submit.get("sparkSubmitParameters", "")),
            temporary,
            mirror.buckets,
        )
        return command, spark.environment(java, temporary, environment)

    def _ran_to_its_end(self, command: list[str], environment: dict[str, str], work: Path) -> bool:
        """Run the command; False if it was cancelled or took too long.

        Raises:
            JobFailedError: it ended with an exit code other than 0.
        """
        log = self._folder / "log"
        minutes = self._timeout_minutes
        deadline = time.monotonic() + minutes * 60 if minutes else float("inf")
        with (
            log.open("wb") as output,
            subprocess.Popen(
                command,
                cwd=work,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            ) as process,
        ):
            while process.poll() is None:
                if self._cancel.wait(_POLL_SECONDS) or time.monotonic() > deadline:
                    # there is nothing to save: what it wrote is not in S3 yet
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    return False
        if process.returncode != 0:
            head = f"Job failed with exit code {process.returncode}. Log: {log}. Last words: "
            words = [line for line in log.read_text(errors="replace").splitlines() if not _SPARKS_OWN_WORDS.match(line)]
            raise JobFailedError(head + "\n".join(words)[-max(_DETAILS_CHARACTERS - len(head), 0) :])
        return True

    def _enter(self, state: str, details: str = "", **members: Any) -> None:
        now = time.time()
        with self._lock:
            previous = self._description["state"]
            if previous in _OVER:
                return
            if previous == "CANCELLING" and state not in _OVER:
                return
            self._description.update(
                members, state=state, stateDetails=details[:_DETAILS_CHARACTERS], updatedAt=now, attemptUpdatedAt=now
            )
            if state in _OVER:
                seconds = int(now - self._description.get("startedAt", now))
                self._description.update(endedAt=now, totalExecutionDurationSeconds=seconds)
        self._tell(previous)

    def _tell(self, previous: str) -> None:
        """Send EventBridge's `EMR Serverless Job Run State Change`."""
        run = self.description()
        names = ("jobRunId", "applicationId", "arn", "releaseLabel", "state", "createdBy")
        times = {name: datetime.fromtimestamp(run[name], UTC).isoformat() for name in ("createdAt", "updatedAt")}
        name = {"jobRunName": run["name"]} if "name" in run else {}
        entry = {
            "Source": "aws.emr-serverless",
            "DetailType": "EMR Serverless Job Run State Change",
            "Detail": json.dumps({**{n: run[n] for n in names}, **name, **times, "previousState": previous}),
            "Resources": [],
        }
        eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True)


class Mirror:
    """A folder in which the objects of some S3 prefixes are files, and which takes back what was changed.

    Args:
        root: holds one folder a bucket; made by `download`.
        uris: `s3://bucket/prefix`.
    """

    def __init__(self, root: Path, uris: Iterable[str]) -> None:
        self._prefixes = {bucket_and_key(uri) for uri in uris}
        self.buckets = {bucket: root / bucket for bucket, _ in self._prefixes}
        self._seen: dict[tuple[str, str], int] = {}

    def file(self, uri: str) -> Path:
        """Where an object of the mirror is."""
        bucket, key = bucket_and_key(uri)
        return self.buckets[bucket] / key

    def download(self) -> None:
        """Bring every object of the prefixes here.

        Raises:
            JobFailedError: a bucket does not exist.
        """
        for bucket, prefix in sorted(self._prefixes):
            folder = self.buckets[bucket]
            folder.mkdir(parents=True, exist_ok=True)
            try:
                for page in s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                    for item in page.get("Contents", []):
                        self._fetch(bucket, item["Key"])
            except s3().exceptions.ClientError as error:
                raise JobFailedError(f"s3://{bucket}/{prefix} cannot be read: {error}") from error

    def _fetch(self, bucket: str, key: str) -> None:
        file = self.buckets[bucket] / key
        if key.endswith("/") or (bucket, key) in self._seen:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        s3().download_file(bucket, key, str(file))
        self._seen[bucket, key] = file.stat().st_mtime_ns

    def upload(self, role: "S3Client") -> None:
        """Take new and changed files to S3, then remove from there what was removed here, as the job's role may."""
        here = {
            (bucket, file.relative_to(folder).as_posix()): file
            for bucket, folder in self.buckets.items()
            for file in folder.rglob("*")
            # Hadoop's local file system keeps a checksum beside every file
            if file.is_file() and not (file.name.startswith(".") and file.suffix == ".crc")
        }
        for (bucket, key), file in here.items():
            if self._seen.get((bucket, key)) != file.stat().st_mtime_ns:
                role.upload_file(str(file), bucket, key)
        for bucket, key in self._seen.keys() - here.keys():
            role.delete_object(Bucket=bucket, Key=key)


async def _handle(
    service: EmrServerless, method: str, path: str, headers: dict[str, str], body: bytes, query: Document
) -> tuple[int, dict[str, str], bytes]:
    status, answer, more = 200, {}, {}
    try:
        operation, addressed = MODEL.routed(method, path, query)
        answer = await asyncio.to_thread(service.answer, operation, {**_document(body), **addressed})
    except ApiError as error:
        status, answer = _STATUS.get(error.code, 400), {"message": str(error)}
        more = {"x-amzn-ErrorType": error.code}
    return status, {"Content-Type": "application/json", **more}, json.dumps(answer).encode()


def _document(body: bytes) -> Document:
    try:
        document = json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError("ValidationException", f"The body is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ApiError("ValidationException", "The body is no JSON object.")
    return document


def _step(service: EmrServerless, resource: str, given: Document) -> Document:
    """A task state: a refusal is EMR Serverless's, the failure of a job run that was waited for is the task's.

    On AWS, Step Functions makes the clientToken if the state gives none.
    """
    request = {"clientToken": secrets.token_hex(16), **MODEL.from_pascal_case("StartJobRun", given)}
    try:
        started = service.answer("StartJobRun", request)
    except ApiError as error:
        raise stepfunctions._ExecutionError(f"EMRServerless.{error.code}", str(error)) from error
    if not resource.endswith(".sync"):
        return MODEL.to_pascal_case("StartJobRun", started)
    run: Document = MODEL.to_pascal_case("GetJobRun", service.finished(started))["JobRun"]
    run = in_milliseconds(run, _TIMES)
    if run["State"] != "SUCCESS":
        raise stepfunctions._ExecutionError("States.TaskFailed", json.dumps(run)[:CAUSE_CHARACTERS])
    return run


def _create_in_stack(service: EmrServerless, logical_id: str, properties: Document, stack: str) -> tuple[str, Document]:
    """An application of a stack, whose type writes maps as lists of Key and Value."""
    maps: Document = {
        name: {pair["Key"]: pair["Value"] for pair in properties[name]}
        for name in ("Tags", "InitialCapacity")
        if name in properties
    }
    request = MODEL.from_pascal_case("CreateApplication", {**properties, **maps})
    try:
        created = service.answer("CreateApplication", {**request, "clientToken": secrets.token_hex(16)})
    except ApiError as error:
        raise ValueError(f"{logical_id}: {error}") from error
    return created["applicationId"], {"ApplicationId": created["applicationId"], "Arn": created["arn"]}


def _delete_in_stack(service: EmrServerless, identifier: str, properties: Document) -> None:
    try:
        for operation in ("StopApplication", "DeleteApplication"):
            service.answer(operation, {"applicationId": identifier})
    except ApiError as error:
        if error.code != "ResourceNotFoundException":
            raise ValueError(str(error)) from error


def _named(things: dict[str, Any], identifier: str, kind: str) -> Any:
    if identifier not in things:
        raise ApiError("ResourceNotFoundException", f"{kind} {identifier} does not exist.")
    return things[identifier]


def _page(name: str, found: list[Document], request: Document) -> Document:
    """One page of a list, newest first."""
    states = request.get("states")
    found = [each for each in reversed(found) if not states or each["state"] in states]
    first = int(request.get("nextToken", 0))
    after = first + request.get("maxResults", _DEFAULT_PAGE)
    return {name: found[first:after], **({"nextToken": str(after)} if after < len(found) else {})}


def _identifier() -> str:
    return f"00{secrets.token_hex(7)}"
