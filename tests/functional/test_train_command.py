"""`overcut train`, on the tables and the bucket that a training leaves its decisions in; Step Functions is played."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from lambdas.runtime.clock import ClockFace, FileClock
from overcut.etl_jobs.layout import decision_key
from tests.functional.conftest import REGION, Cloud
from workbench.cli import main
from workbench.demonstration.stage_file import write_stage_file
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.sensors_system import SensorsSystem

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
NEEDED = {"contacts": {"day": {}}, "default_contact": "day"}
IN_FORCE = "2026-01-05T12:15:00Z"
PROMOTED = {"decision": "promoted", "reason": "", "model_version": "v2", "effective_from": IN_FORCE}
HELD = {"decision": "held", "reason": "9 of 10 sensors changed", "model_version": "v2"}
LEARNING = {"decision": "held", "reason": "no sensor has enough readings yet"}
OF_JOBS = {"jobs": 12, "learning": 2, "runs": 1234, "model_version": "v2"}


class States:
    """Step Functions: one workflow, whose next execution does `happens` and ends as told.

    Attributes:
        begun: the inputs of executions, in the order in which they were started.
    """

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.happens: Callable[[], object] = lambda: None
        self.end: dict[str, Any] = {
            "status": "SUCCEEDED",
            "output": json.dumps({"training_job": {"TrainingJobName": "job-1"}}),
        }
        self.running = False
        self._looks = 0

    def list_executions(self, stateMachineArn: str, maxResults: int) -> dict[str, Any]:  # noqa: N803
        one = {"executionArn": "arn:1", "status": "RUNNING", "startDate": NOON}
        return {"executions": [one] if self.running else []}

    def start_execution(self, stateMachineArn: str, name: str, input: str) -> dict[str, str]:  # noqa: N803, A002
        assert stateMachineArn == "TrainingWorkflow"
        self.begun.append(json.loads(input))
        self.happens()
        return {"executionArn": f"arn:{name}"}

    def describe_execution(self, executionArn: str) -> dict[str, Any]:  # noqa: N803
        self._looks += 1
        return {"status": "RUNNING"} if self._looks == 1 else self.end

    def get_execution_history(self, **_: Any) -> dict[str, Any]:
        return {"events": []}


class Trained:
    """Two pipelines that can be trained, and the command that does."""

    def __init__(self, cloud: Cloud, states: States, stage: Path) -> None:
        self.cloud = cloud
        self.states = states
        self.stage = stage

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["train", "--stage", str(self.stage), *arguments])

    def records(self, **models: dict[str, Any]) -> None:
        counts = {"job_name": "job-1", "sensors": 2, "readings": 40_000, "learning": 1}
        for name, event in models.items():
            self.cloud.model_events.put(name, NOON, {**counts, **event})

    def decides(self, decision: dict[str, Any]) -> None:
        self.cloud.data.put(decision_key("job-1"), json.dumps(decision).encode())


@pytest.fixture
def trained(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    states, session = States(), boto3.Session(region_name=REGION)
    outputs = {f"{name}Table": table for name, table in cloud.tables.items()}
    outputs |= {"DataBucket": cloud.bucket, "TrainingWorkflow": "TrainingWorkflow"}
    clients: dict[str, Any] = {"dynamodb": cloud.dynamodb, "s3": cloud.s3, "stepfunctions": states}
    for kind in (SensorsSystem, EtlJobsSystem):
        monkeypatch.setattr(kind, "deployed", lambda _, kind=kind: kind(outputs, session))
        monkeypatch.setattr(kind, "_client", lambda _, service: clients[service])
    clock = tmp_path / "clock.json"
    FileClock(clock).set(ClockFace(origin=NOON.timestamp(), wall=0, speed=0, ttl_offset=0))
    stage = write_stage_file(tmp_path / "stage.toml", clock=clock, pipelines={"sensors": NEEDED, "etl_jobs": {}})
    return Trained(cloud, states, stage)


def test_what_was_promoted_is_told_and_nothing_of_earlier_trainings(trained: Trained) -> None:
    trained.cloud.model_events.put("old", NOON, {**HELD, "job_name": "job-0"})
    trained.states.happens = lambda: trained.records(cold=PROMOTED)
    ran = trained.run()
    assert ran.exit_code == 0, ran.output
    assert ran.stdout == (
        "promoted cold: 2 sensors by 40,000 readings, in force from 2026-01-05 12:15 UTC; 1 sensor still learning\n"
    )
    assert trained.states.begun == [{}]


def test_a_held_version_comes_first_with_what_to_type_and_ends_with_1(trained: Trained) -> None:
    retired = {"decision": "retired", "retired": ["x"]}
    trained.states.happens = lambda: trained.records(air=PROMOTED, cold=HELD, old=retired, young=LEARNING)
    ran = trained.run()
    assert ran.exit_code == 1
    held, promoted, gone, learning = ran.stdout.splitlines()
    assert held == (
        "held cold: 9 of 10 sensors changed; its sensors are judged as before until"
        f" `overcut cutoffs approve cold v2 --stage {trained.stage}`"
    )
    assert promoted.startswith("promoted air: ")
    assert gone == "retired old: its sensors measured nothing; they learn anew when they are back"
    assert learning == "learning young: no sensor has enough readings yet"


def test_who_has_too_few_readings_still_learns_and_needs_nobody(trained: Trained) -> None:
    trained.states.happens = lambda: trained.records(young=LEARNING)
    ran = trained.run()
    assert (ran.exit_code, ran.stdout) == (0, "learning young: no sensor has enough readings yet\n")


@pytest.mark.parametrize(
    ("decision", "code", "told"),
    [
        (
            {**OF_JOBS, "decision": "promoted", "reason": "", "effective_from": IN_FORCE},
            0,
            "promoted: 12 jobs by 1,234 runs, 2 still learning; in force from 2026-01-05 12:15 UTC\n",
        ),
        (
            {**OF_JOBS, "decision": "held", "reason": "it finds ten times as much"},
            1,
            "held: it finds ten times as much (12 jobs by 1,234 runs, 2 still learning); runs are judged as before"
            " until a training is promoted\n",
        ),
    ],
)
def test_the_model_of_etl_jobs(trained: Trained, decision: dict[str, Any], code: int, told: str) -> None:
    trained.states.happens = lambda: trained.decides(decision)
    ran = trained.run("--pipeline", "etl-jobs")
    assert (ran.exit_code, ran.stdout) == (code, told)
    assert trained.states.begun == [{"until": "2026-01-05T12:00:00Z"}], "by the stage's clock"


def test_all_of_it_is_json_for_programs(trained: Trained) -> None:
    trained.states.happens = lambda: trained.records(cold=HELD)
    ran = trained.run("--json")
    assert ran.exit_code == 1
    told = json.loads(ran.stdout)
    assert {name: told[name] for name in ("pipeline", "status", "training_job")} == {
        "pipeline": "sensors",
        "status": "SUCCEEDED",
        "training_job": "job-1",
    }
    assert [(one["model_id"], one["reason"]) for one in told["models"]] == [("cold", "9 of 10 sensors changed")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "The sensors training has begun; `overcut status --stage {}` tells how it ends.\n"),
        (("--json",), '{{"pipeline": "sensors", "status": "RUNNING"}}\n'),
    ],
)
def test_it_need_not_be_waited_for(trained: Trained, arguments: tuple[str, ...], told: str) -> None:
    trained.states.end = {}
    ran = trained.run("--no-wait", *arguments)
    assert (ran.exit_code, ran.stdout) == (0, told.format(trained.stage))
    assert len(trained.states.begun) == 1


def test_a_training_that_fails_is_told_in_one_sentence(trained: Trained) -> None:
    cause = json.dumps({"FailureReason": "there are no exported readings in the training window"})
    trained.states.end = {"status": "FAILED", "cause": cause}
    ran = trained.run()
    assert ran.exit_code == 1
    assert (
        ran.stderr.splitlines()[-1]
        == "Error: the training ended as FAILED: there are no exported readings in the training window"
    )


def test_a_second_one_beside_a_running_one_is_not_started(trained: Trained) -> None:
    trained.states.running = True
    ran = trained.run()
    assert ran.exit_code == 1
    assert ran.stderr.startswith("Error: a training has run since 2026-01-05 12:00 UTC; `overcut status --stage ")
    assert trained.states.begun == []


def test_who_stops_waiting_is_told_that_it_goes_on(trained: Trained) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    trained.states.happens = interrupt
    ran = trained.run()
    assert ran.exit_code == 1
    assert "stopped waiting; the training goes on, and `overcut status --stage " in ran.stderr
