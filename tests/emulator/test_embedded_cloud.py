"""The embedded cloud itself: its processes, its state folder, and what it adds to the emulator."""

import fcntl
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from tests.emulator.conftest import Cloud
from workbench.cloud.commands import cloud as command
from workbench.cloud.deploy import DeployError, Deployment
from workbench.cloud.processes import CHECKOUT, EmbeddedCloud, NothingRunsError, PortTakenError
from workbench.cloud.state import AlreadyRunningError, CloudError

pytestmark = pytest.mark.emulator

ROLE = "arn:aws:iam::000000000000:role/training"


def eventually(what: Callable[[], Any], seconds: float = 15.0) -> Any:
    """The first true value of `what`."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
    return value


# ---- processes and the state folder ----


def test_the_commands_start_find_and_end_a_cloud(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(command, [*arguments, "--state", str(tmp_path)])
        return result.exit_code, result.output

    assert run("status")[0] == 1
    assert run("env")[0] == 1
    code, said = run("up")
    assert code == 0
    running = json.loads(run("status", "--json")[1])["running"]
    assert f"export AWS_ENDPOINT_URL={running['url']}\n" in said
    # the one that boto3 goes by, and the one that the other SDKs do
    assert "export AWS_DEFAULT_REGION=us-east-1\n" in said
    assert "export AWS_REGION=us-east-1\n" in said
    assert run("status")[0] == 0
    assert run("env") == (0, said.partition("\n")[2])

    code, said = run("up")
    assert code == 1
    assert running["url"] in said
    assert str(running["pid"]) in said

    assert run("down")[0] == 0
    code, said = run("down")
    assert (code, "No embedded cloud runs" in said) == (1, True)


def test_it_binds_loopback_only(cloud: Cloud) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells this machine's own address
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    with socket.socket() as outside:
        assert outside.connect_ex((address, cloud.running.port)) != 0


def test_of_several_that_start_at_once_one_runs(tmp_path: Path) -> None:
    outcomes: list[object] = []

    def start() -> None:
        try:
            outcomes.append(EmbeddedCloud(tmp_path).up(owner_pid=os.getpid()))
        except AlreadyRunningError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running = EmbeddedCloud(tmp_path).down()

    assert outcomes.count(running) == 1
    assert [error.running for error in outcomes if isinstance(error, AlreadyRunningError)] == [running, running]


def test_what_a_crashed_cloud_left_does_not_count(tmp_path: Path) -> None:
    # the process id is this test's own: taken for a cloud's, it would be killed
    left = {"url": "http://127.0.0.1:1", "port": 1, "pid": os.getpid(), "started": "2026-01-01T00:00:00+00:00"}
    (tmp_path / "cloud.json").write_text(json.dumps(left))
    embedded = EmbeddedCloud(tmp_path)

    assert embedded.status() is None
    with pytest.raises(NothingRunsError):
        embedded.down()
    running = embedded.up(owner_pid=os.getpid())
    assert embedded.status() == running
    embedded.down()


def test_a_taken_port_is_refused(tmp_path: Path, cloud: Cloud) -> None:
    with pytest.raises(PortTakenError, match=str(cloud.running.port)):
        EmbeddedCloud(tmp_path).up(cloud.running.port)


def test_a_cloud_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "tmp").write_text("a file where a folder has to be")
    (tmp_path / "log").mkdir()
    with pytest.raises(CloudError, match="log"):
        EmbeddedCloud(tmp_path).up(owner_pid=os.getpid())


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", Cloud]]:
    """A process of its own that owns a cloud."""
    source = (
        "import os, sys, time; from pathlib import Path; from workbench.cloud.processes import EmbeddedCloud\n"
        "EmbeddedCloud(Path(sys.argv[1])).up(owner_pid=os.getpid()); print('up', flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path / "state")], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        embedded = EmbeddedCloud(tmp_path / "state")
        running = embedded.status()
        assert running is not None
        theirs = Cloud(embedded, running)
        yield owner, theirs
        theirs.close()
        owner.kill()


@pytest.mark.parametrize("dies", ["owner", "launcher", "emulator"])
def test_when_one_is_killed_everything_is_gone(
    owned: tuple["subprocess.Popen[str]", Cloud], dies: str, tmp_path: Path
) -> None:
    owner, theirs = owned
    lock = tmp_path / "script-lives"
    script = f"import fcntl, time; f = open({str(lock)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); time.sleep(600)"
    start_training(theirs, "sleeper", script)
    eventually(lambda: lock.exists() and not is_free(lock))

    children = f"/proc/{theirs.running.pid}/task/{theirs.running.pid}/children"
    if dies == "emulator" and not Path(children).exists():
        pytest.skip("needs /proc to find the emulator")
    victim = {
        "owner": lambda: owner.pid,
        "launcher": lambda: theirs.running.pid,
        "emulator": lambda: int(Path(children).read_text().split()[0]),
    }[dies]()
    os.kill(victim, signal.SIGKILL)

    eventually(lambda: theirs.embedded.status() is None, 5)
    eventually(lambda: is_free(lock), 5)


def is_free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_two_clouds_do_not_meet(cloud: Cloud, tmp_path: Path) -> None:
    embedded = EmbeddedCloud(tmp_path)
    other = Cloud(embedded, embedded.up(owner_pid=os.getpid()))
    try:
        cloud.client("s3").create_bucket(Bucket="only-here")
        cloud.client("sqs").create_queue(QueueName="only-here")

        assert other.client("s3").list_buckets()["Buckets"] == []
        assert other.client("sqs").list_queues().get("QueueUrls", []) == []
    finally:
        other.close()
        embedded.down()
    assert cloud.embedded.answers(cloud.running)


# ---- deployment ----


def test_an_assembly_is_deployed_with_its_parameters_and_again(cloud: Cloud, tmp_path: Path) -> None:
    template = {
        "Parameters": {"Phone": {"Type": "String", "NoEcho": True}},
        "Resources": {
            "Topic": {"Type": "AWS::SNS::Topic"},
            "Subscription": {
                "Type": "AWS::SNS::Subscription",
                "Properties": {
                    "TopicArn": {"Ref": "Topic"},
                    "Protocol": "sms",
                    "Endpoint": {"Ref": "Phone"},
                    "FilterPolicy": {"contact_id": ["plant"]},
                },
            },
        },
        "Outputs": {"TopicArn": {"Value": {"Ref": "Topic"}}},
    }
    deployment = Deployment(cloud.running.url, cloud.embedded.state)
    assembly = assembly_of(template, tmp_path)

    outputs = deployment.deploy(assembly, {"Phone": "+15550000004"})
    assert deployment.deploy(assembly, {"Phone": "+15550000004"}) == outputs

    topic = outputs["Probe"]["TopicArn"]
    plant = {"contact_id": {"DataType": "String", "StringValue": "plant"}}
    cloud.client("sns").publish(TopicArn=topic, Message="deployed", MessageAttributes=plant)
    cloud.client("sns").publish(TopicArn=topic, Message="to someone else")
    assert [text["Message"] for text in texts(cloud, "+15550000004")] == ["deployed"]


def test_a_deployment_that_fails_says_why_and_where(cloud: Cloud, tmp_path: Path) -> None:
    template = {"Resources": {"Gate": {"Type": "AWS::No::Such"}}}
    with pytest.raises(DeployError, match=r"AWS::No::Such[\s\S]*cdk-deploy\.log"):
        Deployment(cloud.running.url, cloud.embedded.state).deploy(assembly_of(template, tmp_path))


def assembly_of(template: dict[str, Any], folder: Path) -> Path:
    """A cloud assembly with one stack and no assets."""
    stack = {
        "type": "aws:cloudformation:stack",
        "environment": "aws://000000000000/us-east-1",
        "properties": {"templateFile": "probe.template.json", "stackName": "Probe"},
        "displayName": "Probe",
    }
    (folder / "probe.template.json").write_text(json.dumps(template))
    (folder / "manifest.json").write_text(json.dumps({"version": "36.0.0", "artifacts": {"Probe": stack}}))
    return folder


# ---- texts ----


def texts(cloud: Cloud, phone_number: str) -> list[dict[str, Any]]:
    every = httpx.get(f"{cloud.running.url}/_ministack/sns/sms-messages").json()["sms_messages"]
    kept: list[dict[str, Any]] = every.get(phone_number, [])
    return kept


@pytest.fixture(scope="module")
def table(cloud: Cloud) -> Any:
    """A client of DynamoDB, and in it a table with four items of `x` and one of `y`."""
    client = cloud.client("dynamodb")
    keys = ("sensor_id", "measured_at")
    client.create_table(
        TableName="Queried",
        KeySchema=[{"AttributeName": n, "KeyType": t} for n, t in zip(keys, ("HASH", "RANGE"), strict=True)],
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in keys],
        BillingMode="PAY_PER_REQUEST",
    )
    for sensor_id, moment in ("x", "c"), ("x", "a"), ("y", "b"), ("x", "d"), ("x", "b"):
        client.put_item(TableName="Queried", Item={"sensor_id": {"S": sensor_id}, "measured_at": {"S": moment}})
    return client


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("sensor_id = :s", "abcd"),
        ("sensor_id = :s AND measured_at = :b", "b"),
        ("sensor_id = :s AND measured_at < :b", "a"),
        ("sensor_id = :s AND measured_at <= :b", "ab"),
        ("sensor_id = :s AND measured_at > :b", "cd"),
        ("sensor_id = :s AND measured_at >= :b", "bcd"),
        ("sensor_id = :s AND measured_at BETWEEN :b AND :c", "bc"),
        ("sensor_id = :s AND begins_with(measured_at, :b)", "b"),
        ("#s = :s AND measured_at > :b", "cd"),
    ],
)
def test_a_query_finds_what_its_key_condition_asks(table: Any, condition: str, found: str) -> None:
    used = {name: {"S": value} for name, value in {":s": "x", ":b": "b", ":c": "c"}.items() if name in condition}
    names = {"ExpressionAttributeNames": {"#s": "sensor_id"}} if "#s" in condition else {}
    asked = {"TableName": "Queried", "KeyConditionExpression": condition, "ExpressionAttributeValues": used, **names}
    items = table.query(**asked)["Items"]
    assert "".join(item["measured_at"]["S"] for item in items) == found
    backwards = table.query(**asked, ScanIndexForward=False, Limit=1)["Items"]
    assert backwards == items[-1:]
    for is_forward in (True, False):
        paged = table.get_paginator("query").paginate(
            **asked, ScanIndexForward=is_forward, PaginationConfig={"PageSize": 1}
        )
        one_by_one = [item for page in paged for item in page["Items"]]
        assert one_by_one == (items if is_forward else items[::-1])


def test_a_query_whose_key_condition_is_none_is_refused(table: Any) -> None:
    for condition in ("sensor_id = :s AND unit > :b", "sensor_id > :s AND measured_at > :b"):
        with pytest.raises(ClientError, match="ValidationException"):
            table.query(
                TableName="Queried",
                KeyConditionExpression=condition,
                ExpressionAttributeValues={":s": {"S": "x"}, ":b": {"S": "b"}},
            )


def test_a_topic_texts_the_subscribers_whose_filter_matches(cloud: Cloud) -> None:
    sns = cloud.client("sns")
    topic = sns.create_topic(Name="alerts")["TopicArn"]
    subscriptions = {
        phone: sns.subscribe(
            TopicArn=topic,
            Protocol="sms",
            Endpoint=phone,
            Attributes={"FilterPolicy": json.dumps({"contact_id": [contact]})},
            ReturnSubscriptionArn=True,
        )["SubscriptionArn"]
        for phone, contact in {"+15550000001": "plant", "+15550000002": "office"}.items()
    }

    attributes = {"contact_id": {"DataType": "String", "StringValue": "plant"}}
    published = sns.publish(TopicArn=topic, Message="Pump 7: pressure low", MessageAttributes=attributes)
    sns.publish(TopicArn=topic, Message="to nobody in particular")

    [text] = texts(cloud, "+15550000001")
    assert text.pop("Timestamp").startswith("20")
    assert text == {
        "PhoneNumber": "+15550000001",
        "TopicArn": topic,
        "SubscriptionArn": subscriptions["+15550000001"],
        "MessageId": published["MessageId"],
        "Message": "Pump 7: pressure low",
        "MessageAttributes": attributes,
        "MessageStructure": None,
        "Subject": None,
    }
    assert texts(cloud, "+15550000002") == []


def test_a_direct_text_and_a_topic_s_other_subscribers_stay_as_they_were(cloud: Cloud) -> None:
    sns, sqs = cloud.client("sns"), cloud.client("sqs")
    sns.publish(PhoneNumber="+15550000003", Message="direct")
    topic = sns.create_topic(Name="mixed")["TopicArn"]
    queue = sqs.create_queue(QueueName="mixed")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allowed = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    sns.subscribe(TopicArn=topic, Protocol="sms", Endpoint="+15550000003")
    message = json.dumps({"default": "long", "sms": "short"})
    sns.publish(TopicArn=topic, Message=message, MessageStructure="json")

    assert [text["Message"] for text in texts(cloud, "+15550000003")] == ["direct", "short"]
    [received] = sqs.receive_message(QueueUrl=queue)["Messages"]
    assert json.loads(received["Body"])["Message"] == "long"


# ---- training jobs ----

BUCKET = "training"


def training_request(cloud: Cloud, name: str, script: str, **more: Any) -> dict[str, Any]:
    """A request for a job that runs `script`, whose bundle is put in place."""
    bundle = io.BytesIO()
    with tarfile.open(fileobj=bundle, mode="w:gz") as archive:
        entry = tarfile.TarInfo("train.py")
        entry.size = len(script.encode())
        archive.addfile(entry, io.BytesIO(script.encode()))
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=f"{name}/sourcedir.tar.gz", Body=bundle.getvalue())
    container = {
        "sagemaker_program": json.dumps("train.py"),
        "sagemaker_submit_directory": json.dumps(f"s3://{BUCKET}/{name}/sourcedir.tar.gz"),
    }
    return {
        "TrainingJobName": name,
        "RoleArn": ROLE,
        "AlgorithmSpecification": {"TrainingImage": "scikit-learn", "TrainingInputMode": "File"},
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/models"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        **more,
        "HyperParameters": container | more.get("HyperParameters", {}),
    }


def start_training(cloud: Cloud, name: str, script: str, **more: Any) -> None:
    cloud.client("sagemaker").create_training_job(**training_request(cloud, name, script, **more))


def finished(cloud: Cloud, name: str) -> dict[str, Any]:
    def over() -> dict[str, Any] | None:
        job: dict[str, Any] = cloud.client("sagemaker").describe_training_job(TrainingJobName=name)
        return job if job["TrainingJobStatus"] != "InProgress" else None

    described: dict[str, Any] = eventually(over)
    return described


def test_a_job_runs_under_the_container_s_contract(cloud: Cloud) -> None:
    script = """
import json, os, pathlib, sys, boto3
seen = {name: os.environ.get(name) for name in (
    "SM_HP_NUM_TREES", "SM_HP_KIND", "SM_HPS", "SM_CHANNELS", "SM_CURRENT_HOST", "SM_HOSTS",
    "TRAINING_JOB_NAME", "TRAINING_JOB_ARN", "STAGE", "AWS_REGION")}
seen["arguments"] = sys.argv[1:]
seen["at the root of the bundle"] = pathlib.Path("train.py").exists()
channel = pathlib.Path(os.environ["SM_CHANNEL_READINGS"])
seen["channel"] = {str(f.relative_to(channel)): f.read_text() for f in channel.rglob("*") if f.is_file()}
seen["buckets"] = [b["Name"] for b in boto3.client("s3").list_buckets()["Buckets"] if b["Name"] == "training"]
pathlib.Path(os.environ["SM_MODEL_DIR"], "model.json").write_text(json.dumps(seen))
pathlib.Path(os.environ["SM_OUTPUT_DATA_DIR"]).stat()
print("trained", flush=True)
"""
    s3 = cloud.client("s3")
    request = training_request(
        cloud,
        "contract",
        script,
        HyperParameters={"num_trees": "30", "kind": "pump"},
        Environment={"STAGE": "local"},
        InputDataConfig=[
            {
                "ChannelName": "readings",
                "DataSource": {
                    "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/readings/dt=2026-01-01"}
                },
            }
        ],
    )
    s3.put_object(Bucket=BUCKET, Key="readings/dt=2026-01-01/00.csv", Body=b"1")
    s3.put_object(Bucket=BUCKET, Key="readings/dt=2026-01-02/00.csv", Body=b"2")
    arn = cloud.client("sagemaker").create_training_job(**request)["TrainingJobArn"]

    job = finished(cloud, "contract")
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    artifact = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert artifact == f"s3://{BUCKET}/models/contract/output/model.tar.gz"
    packed = s3.get_object(Bucket=BUCKET, Key="models/contract/output/model.tar.gz")["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        [member] = archive.getmembers()
        content = archive.extractfile(member)
        assert content is not None
        seen = json.load(content)
    assert member.name == "model.json"
    assert seen == {
        "SM_HP_NUM_TREES": "30",
        "SM_HP_KIND": "pump",
        "SM_HPS": '{"kind":"pump","num_trees":30}',
        "SM_CHANNELS": '["readings"]',
        "SM_CURRENT_HOST": "algo-1",
        "SM_HOSTS": '["algo-1"]',
        "TRAINING_JOB_NAME": "contract",
        "TRAINING_JOB_ARN": arn,
        "STAGE": "local",
        "AWS_REGION": "us-east-1",
        "arguments": ["--kind", "pump", "--num_trees", "30"],
        "at the root of the bundle": True,
        "channel": {"00.csv": "1"},
        "buckets": [BUCKET],
    }
    statuses = [transition["Status"] for transition in job["SecondaryStatusTransitions"]]
    assert statuses == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert (cloud.embedded.state / "training-jobs" / "contract" / "log").read_text() == "trained\n"

    with pytest.raises(ClientError) as taken:
        cloud.client("sagemaker").create_training_job(**request)
    assert taken.value.response["Error"]["Code"] == "ResourceInUse"


def test_a_failing_script_fails_the_job_with_its_last_words(cloud: Cloud) -> None:
    start_training(cloud, "failing", "raise ValueError('no readings in the window')")

    job = finished(cloud, "failing")

    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("AlgorithmError: ExecuteUserScriptError:\nExitCode 1")
    assert job["FailureReason"].endswith("ValueError: no readings in the window")
    assert "ModelArtifacts" not in job


def test_a_job_without_its_data_fails_before_it_runs(cloud: Cloud) -> None:
    channel = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/nothing/"}}
    inputs = [{"ChannelName": "readings", "DataSource": channel}]
    start_training(cloud, "no-data", "print('ran')", InputDataConfig=inputs)

    assert "No S3 objects found" in finished(cloud, "no-data")["FailureReason"]
    assert not (cloud.embedded.state / "training-jobs" / "no-data" / "log").exists()


def test_a_job_that_takes_too_long_is_stopped(cloud: Cloud) -> None:
    start_training(cloud, "slow", "import time; time.sleep(600)", StoppingCondition={"MaxRuntimeInSeconds": 1})

    job = finished(cloud, "slow")

    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_a_job_can_be_stopped_and_is_listed(cloud: Cloud) -> None:
    sagemaker = cloud.client("sagemaker")
    start_training(cloud, "stopped", "import time; time.sleep(600)")
    eventually(
        lambda: sagemaker.describe_training_job(TrainingJobName="stopped")["SecondaryStatus"] == "Training",
    )
    sagemaker.stop_training_job(TrainingJobName="stopped")

    assert finished(cloud, "stopped")["SecondaryStatus"] == "Stopped"
    [listed] = sagemaker.list_training_jobs(NameContains="stopped", StatusEquals="Stopped")["TrainingJobSummaries"]
    assert listed["TrainingJobName"] == "stopped"
    assert "HyperParameters" not in listed


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"OutputDataConfig": None}, "OutputDataConfig"),
        ({"OutputDataConfig": {}}, "S3OutputPath"),
        ({"HyperParameters": {"num_trees": 30}}, "num_trees"),
        ({"NoSuchMember": "x"}, "NoSuchMember"),
        ({"TrainingJobName": "under_score"}, "must match"),
        ({"ResourceConfig": {"InstanceType": "ml.nano", "InstanceCount": 1, "VolumeSizeInGB": 1}}, "must be one of"),
    ],
)
def test_a_request_that_aws_refuses_is_refused(cloud: Cloud, wrong: dict[str, Any], reason: str) -> None:
    request = {**training_request(cloud, "wrong", "pass"), **wrong}
    request = {name: value for name, value in request.items() if value is not None}

    code, message = call(cloud, "CreateTrainingJob", request)

    assert code == "ValidationException"
    assert reason in message


def test_an_operation_that_is_not_served_is_refused(cloud: Cloud) -> None:
    assert call(cloud, "CreateModel", {})[0] == "UnknownOperationException"


def call(cloud: Cloud, operation: str, request: dict[str, Any]) -> tuple[str, str]:
    """The error that a request gets which the SDK would not even send."""
    headers = {"X-Amz-Target": f"SageMaker.{operation}", "Content-Type": "application/x-amz-json-1.1"}
    answer = httpx.post(cloud.running.url, json=request, headers=headers)
    assert answer.status_code == 400
    content = answer.json()
    return content["__type"], content["message"]


# ---- training jobs in Step Functions and on EventBridge ----


def run_machine(cloud: Cloud, name: str, resource: str, request: dict[str, Any]) -> dict[str, Any]:
    states = cloud.client("stepfunctions")
    train = {"Type": "Task", "Resource": f"arn:aws:states:::{resource}", "Parameters": request, "End": True}
    definition = json.dumps({"StartAt": "Train", "States": {"Train": train}})
    machine = states.create_state_machine(name=name, definition=definition, roleArn=ROLE)["stateMachineArn"]
    execution = states.start_execution(stateMachineArn=machine, input="{}")["executionArn"]

    def over() -> dict[str, Any] | None:
        described: dict[str, Any] = states.describe_execution(executionArn=execution)
        return described if described["status"] != "RUNNING" else None

    ended: dict[str, Any] = eventually(over)
    return ended


def test_a_state_machine_waits_for_its_job_and_an_event_tells_of_it(cloud: Cloud) -> None:
    events, sqs = cloud.client("events"), cloud.client("sqs")
    queue = sqs.create_queue(QueueName="job-changes")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    detail = {"TrainingJobName": ["waited-for"], "TrainingJobStatus": ["Completed"]}
    pattern = {"source": ["aws.sagemaker"], "detail-type": ["SageMaker Training Job State Change"], "detail": detail}
    events.put_rule(Name="job-changes", EventPattern=json.dumps(pattern))
    events.put_targets(Rule="job-changes", Targets=[{"Id": "queue", "Arn": arn}])

    request = training_request(cloud, "waited-for", "import time; time.sleep(0.5)")
    ended = run_machine(cloud, "waits", "sagemaker:createTrainingJob.sync", request)

    assert ended["status"] == "SUCCEEDED", ended
    output = json.loads(ended["output"])
    assert output["TrainingJobStatus"] == "Completed"
    assert output["TrainingEndTime"] > 1_000_000_000_000  # milliseconds, as Step Functions writes them
    [event] = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)["Messages"]
    assert json.loads(event["Body"])["detail"]["TrainingJobName"] == "waited-for"


def test_a_state_machine_that_does_not_wait_goes_on_at_once(cloud: Cloud) -> None:
    request = training_request(cloud, "not-waited-for", "import time; time.sleep(600)")
    ended = run_machine(cloud, "goes-on", "sagemaker:createTrainingJob", request)
    cloud.client("sagemaker").stop_training_job(TrainingJobName="not-waited-for")

    assert list(json.loads(ended["output"])) == ["TrainingJobArn"]


def test_a_failed_job_fails_the_task_with_its_description(cloud: Cloud) -> None:
    request = training_request(cloud, "fails-in-a-task", "raise SystemExit(3)")
    ended = run_machine(cloud, "fails", "sagemaker:createTrainingJob.sync", request)

    assert (ended["status"], ended["error"]) == ("FAILED", "States.TaskFailed")
    assert json.loads(ended["cause"])["TrainingJobStatus"] == "Failed"


@pytest.mark.parametrize(
    ("name", "error"),
    [("taken", "SageMaker.ResourceInUseException"), ("not valid", "SageMaker.AmazonSageMakerException")],
)
def test_a_refused_job_fails_the_task_as_sagemaker_s_error(cloud: Cloud, name: str, error: str) -> None:
    taken = training_request(cloud, "taken", "pass")
    if name == "taken":
        cloud.client("sagemaker").create_training_job(**taken)
    request = {**taken, "TrainingJobName": name}
    ended = run_machine(cloud, name.replace(" ", "-"), "sagemaker:createTrainingJob.sync", request)

    assert (ended["status"], ended["error"]) == ("FAILED", error)


def test_a_job_may_do_what_its_role_may_and_nothing_else(cloud: Cloud) -> None:
    reads = {"Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}}
    trust = {"Statement": {"Effect": "Allow", "Principal": {"Service": "*"}, "Action": "sts:AssumeRole"}}
    cloud.client("iam").create_role(RoleName="reader", AssumeRolePolicyDocument=json.dumps(trust))
    cloud.client("iam").put_role_policy(RoleName="reader", PolicyName="reads", PolicyDocument=json.dumps(reads))
    script = "import boto3; print(boto3.client('sns').create_topic(Name='t'))"

    start_training(cloud, "reader", script, RoleArn=ROLE.replace("/training", "/reader"))

    assert "not authorized to perform: sns:CreateTopic" in finished(cloud, "reader")["FailureReason"]
