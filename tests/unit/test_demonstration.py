"""What a demonstration is asked for, and what it makes of that before anything is started."""

import io
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from lambdas.runtime.clock import ClockFace
from overcut.sensors.readings import Reading
from workbench.cloud.deploy import DeployError, Deployment, Outputs
from workbench.cloud.state import Running
from workbench.demonstration import assembly, commands
from workbench.demonstration import house as house_module
from workbench.demonstration.commands import demo
from workbench.demonstration.etl_jobs import SEED, EtlJobsPart
from workbench.demonstration.house import INCIDENT_PAGE, DemonstrationError, House, play
from workbench.demonstration.progress import progress
from workbench.demonstration.questions import asked
from workbench.demonstration.script import ScriptError, recorded_script, simulated_script
from workbench.demonstration.sensors import rounded
from workbench.demonstration.stage_file import write_stage_file
from workbench.questions import Answer
from workbench.readings_files import write_readings
from workbench.simulate_job_runs import demonstration_jobs

START = datetime(2026, 3, 2, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Ten hours of `long`, and the last 300 minutes of them of `short`."""
    path = tmp_path / "unit.csv"
    long = [Reading("long", START + at * MINUTE, {"temperature": 4.0}) for at in range(600)]
    short = [Reading("short", START + at * MINUTE, {"temperature": 4.0}) for at in range(300, 600)]
    write_readings(path, long + short)
    return path


def refusal(*arguments: str) -> tuple[int, str]:
    """Exit code and last line of a demonstration that does not begin."""
    ran = CliRunner().invoke(demo, [*arguments])
    assert "Traceback" not in ran.output
    return ran.exit_code, ran.stderr.splitlines()[-1]


@pytest.mark.parametrize("option", [("--train-until", "2026-03-02T05:00:00Z"), ("--measure", "temperature")])
def test_options_about_a_file_are_not_ignored_without_one(option: tuple[str, str]) -> None:
    code, said = refusal(*option)
    assert code == 2
    assert "name it with --readings" in said


def test_a_time_that_is_none_is_told_by_its_option(file: Path, tmp_path: Path) -> None:
    code, said = refusal("--readings", str(file), "--train-until", "noon", "--state", str(tmp_path / "state"))
    assert code == 1
    assert said == "Error: --train-until is no time with a zone, such as 2021-06-10T11:00:00Z: noon"
    assert not (tmp_path / "state").exists()


def test_a_history_too_short_to_learn_from_is_refused_at_once(file: Path) -> None:
    with pytest.raises(
        ScriptError, match=r"more than 239 readings before 2026-03-02T03:59:00Z .* takes 240, four hours"
    ):
        recorded_script(file, measures=(), train_until="2026-03-02T03:59:00Z", speed=None)


def test_sensors_that_will_not_be_judged_are_told(file: Path) -> None:
    script = recorded_script(file, measures=(), train_until="2026-03-02T08:59:00Z", speed=None)
    assert script.remarks == [
        "unit.csv: 1 sensor of 2 with fewer than 240 readings before 2026-03-02T08:59:00Z will not be judged"
    ]
    script = recorded_script(file, measures=(), train_until="2026-03-02T09:00:00Z", speed=None)
    assert script.remarks == []


def test_the_end_of_the_history_lies_within_the_file(file: Path) -> None:
    with pytest.raises(ScriptError, match="between 2026-03-02T00:00:00Z and 2026-03-02T09:59:00Z"):
        recorded_script(file, measures=(), train_until="2026-03-03T00:00:00Z", speed=None)


def test_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("sensors", "etl-jobs")
    monkeypatch.setattr(commands, "PIPELINES", both)
    shown = commands._shown
    assert shown(None, readings=False, speed=False) == both
    assert shown(None, readings=False, speed=True) == both
    assert shown(None, readings=True, speed=False) == ("sensors",)
    assert shown("etl-jobs", readings=False, speed=False) == ("etl-jobs",)
    assert shown("sensors", readings=True, speed=True) == ("sensors",)
    for option in ({"readings": True, "speed": False}, {"readings": False, "speed": True}):
        with pytest.raises(click.UsageError, match="for the sensors pipeline"):
            shown("etl-jobs", **option)


def test_the_stage_has_the_pipelines_that_are_shown(tmp_path: Path) -> None:
    source = {"device": {"url": "http://127.0.0.1:1/events", "measures": {"temperature": "C"}}}
    path = write_stage_file(
        tmp_path / "stage.toml", clock=tmp_path / "clock.json", pipelines={"sensors": {"sources": source}}
    )
    stage = tomllib.loads(path.read_text())
    assert stage["clock"] == str(tmp_path / "clock.json")
    assert stage["sensors"]["sources"] == source
    assert stage["sensors"]["default_contact"] == "maintenance"
    assert "etl_jobs" not in stage


class FakeCloud:
    """A cloud that is only told of."""

    ended = 0

    def __init__(self, state: Path) -> None:
        self.state = state

    def up(self, owner_pid: int) -> Running:
        self.state.mkdir(parents=True)
        return Running("http://127.0.0.1:1", 1, owner_pid, "2026-03-02T00:00:00+00:00")

    def down(self) -> None:
        FakeCloud.ended += 1


class FakeDeployment(Deployment):
    """Deploys nothing, and tells with what it was asked to."""

    def bootstrap(self) -> None:
        """There is nothing to make."""

    def synthesize(self, stage: str = "local", context: object = None) -> Path:
        self.assembly.mkdir()
        return self.assembly

    def deploy(
        self,
        assembly: Path | None = None,
        parameters: Mapping[str, str] | None = None,
        stacks: Sequence[str] = ("--all",),
    ) -> Outputs:
        assert list(stacks) == ["--all"]
        return {"Everything": dict(parameters or {})}


class FakePart:
    """Plays by telling what it found."""

    begins = START

    def __init__(self, pipeline: str, told: list[str], fails: bool = False) -> None:
        self.pipeline = pipeline
        self.parameters = {f"{pipeline}:Number": "1"}
        self._told = told
        self._fails = fails

    @contextmanager
    def prepared(self, house: House) -> Iterator[Mapping[str, Any]]:
        assert not house.outputs
        assert not house.clock.path.exists(), "an earlier demonstration's clock"
        self._told.append(f"{self.pipeline} begins")
        yield {"training_window_days": 21}
        self._told.append(f"{self.pipeline} ends")

    def run(self, house: House) -> dict[str, Any]:
        if self._fails:
            raise DemonstrationError("it could not go on")
        self._told.append(f"{self.pipeline} runs")
        return {self.pipeline: sorted(house.outputs["Everything"])}


@pytest.fixture
def without_a_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house_module, "EmbeddedCloud", FakeCloud)
    monkeypatch.setattr(house_module, "Deployment", FakeDeployment)
    monkeypatch.setattr(FakeCloud, "ended", 0)


@pytest.mark.usefixtures("without_a_cloud")
def test_the_parts_share_one_deployment_and_one_summary(tmp_path: Path) -> None:
    (tmp_path / "clock.json").write_text("an earlier demonstration's")
    told: list[str] = []
    summary = play([FakePart("sensors", told), FakePart("etl_jobs", told)], tmp_path, Console(quiet=True))
    both = ["etl_jobs:Number", "sensors:Number"]
    assert summary == {"seconds": summary["seconds"], "sensors": both, "etl_jobs": both}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    runs = ["sensors runs", "etl_jobs runs"]
    assert told == ["sensors begins", "etl_jobs begins", *runs, "etl_jobs ends", "sensors ends"]
    stage = tomllib.loads((tmp_path / "stage.toml").read_text())
    assert [stage[pipeline]["training_window_days"] for pipeline in ("sensors", "etl_jobs")] == [21, 21]
    assert FakeCloud.ended == 1


@pytest.mark.usefixtures("without_a_cloud")
def test_it_ends_with_what_to_open_and_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / INCIDENT_PAGE).write_text("an earlier demonstration's")
    play([FakePart("sensors", [])], tmp_path, Console(width=80))
    said = capsys.readouterr().out.partition("Next:\n")[2]
    assert "  open report.html\n" in said
    assert INCIDENT_PAGE not in said
    commands = [line.split("overcut ")[1].split()[0] for line in said.splitlines() if "bin/overcut " in line]
    assert commands == ["demo", "init"]


def test_both_parts_end_at_the_same_moment() -> None:
    _, _, last = demonstration_jobs(SEED).live_days
    begins = simulated_script(None).train_until
    assert begins == datetime.combine(last, time(), UTC) + timedelta(days=1)


def test_jobs_alone_are_told_of_as_of_their_last_day(tmp_path: Path) -> None:
    house = House(tmp_path, Console(quiet=True), "http://127.0.0.1:1")
    part = EtlJobsPart()
    with part.prepared(house):
        assert (part.begins, house.clock.now()) == (
            datetime(2026, 4, 15, tzinfo=UTC),
            datetime(2026, 4, 18, tzinfo=UTC),
        )
    # the sensors' part keeps its clock
    house.clock.set(ClockFace(origin=5.0, wall=0.0, speed=0.0, ttl_offset=0.0))
    with part.prepared(house):
        assert house.clock.now() == datetime.fromtimestamp(5, UTC)


@pytest.mark.usefixtures("without_a_cloud")
def test_one_that_cannot_go_on_leaves_no_cloud_and_no_summary(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("an earlier demonstration's")
    with pytest.raises(DemonstrationError):
        play([FakePart("sensors", [], fails=True)], tmp_path, Console(quiet=True))
    assert FakeCloud.ended == 1
    assert not (tmp_path / "summary.json").exists()


class Broken(Deployment):
    """Its app is ended while it writes."""

    def synthesize(self, stage: str = "local", context: object = None) -> Path:
        (self.assembly / "manifest.json").write_text("half")
        raise DeployError("cdk synth ended with exit code 1.")


def test_an_assembly_that_was_not_finished_is_not_used(tmp_path: Path) -> None:
    deployment = Broken("http://127.0.0.1:1", tmp_path)
    deployment.assembly.mkdir()
    stage_file = tmp_path / "stage.toml"
    stage_file.write_text("one = 1")
    mark = deployment.assembly / "made-from"
    mark.write_text(assembly._fingerprint(stage_file))
    assert not assembly.synthesized(deployment, stage_file)

    stage_file.write_text("two = 2")
    with pytest.raises(DeployError):
        assembly.synthesized(deployment, stage_file)
    stage_file.write_text("one = 1")
    with pytest.raises(DeployError):
        assembly.synthesized(deployment, stage_file)


def test_a_step_is_told_when_it_begins_where_lines_cannot_move(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(Console(force_terminal=False), "Training", None):
        assert capsys.readouterr().out == "Training ...\n"
    assert "Training" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "text"), [(3.4333333, "3.43"), (-17.9, "-17.9"), (1013.2512, "1013"), (0.0, "0"), (0.012345, "0.0123")]
)
def test_values_are_shown_with_three_digits(value: float, text: str) -> None:
    assert rounded(value) == text


def test_an_answer_is_shown_rounded_and_kept_as_it_is() -> None:
    row: list[str | None] = ["JPWEQQ", "2026-03-03 00:40:00", "17.800000000000001", "7", None, "0.0012345678"]
    columns = ["reference", "at", "value", "texts", "none", "small"]
    answer = Answer(columns, iter([row]))
    system = SimpleNamespace(questions=SimpleNamespace(ask=lambda _: answer))
    output = io.StringIO()
    kept = asked(Console(file=output, width=120), system, "SELECT 1")  # type: ignore[arg-type]
    assert kept == [dict(zip(columns, row, strict=True))]
    (line,) = (line for line in output.getvalue().splitlines() if "JPWEQQ" in line)
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells == ["JPWEQQ", "2026-03-03 00:40:00", "17.8", "7", "-", "0.001235"]
