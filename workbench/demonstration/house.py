"""The house that demonstrations play in: an embedded cloud, and the stacks of the pipelines that are shown.

cloud up ─▶ cdk bootstrap ─▶ one assembly ─▶ one cdk deploy ─▶ the part of each pipeline ─▶ cloud down ─▶ summary.json
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import boto3
from rich.console import Console

from lambdas.runtime.clock import FileClock
from overcut import OvercutError
from stacks.stage import Stage, read_stage
from workbench.cloud.deploy import Deployment, Outputs
from workbench.cloud.environment import REGION
from workbench.cloud.processes import CHECKOUT, EmbeddedCloud, NothingRunsError
from workbench.demonstration.assembly import synthesized
from workbench.demonstration.progress import Advance, step
from workbench.demonstration.stage_file import write_stage_file
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.report_commands import write_report
from workbench.sensors_system import SensorsSystem

PATIENCE_SECONDS = 240.0
INCIDENT_PAGE = "incident.html"
_LOOK_SECONDS = 0.3


class DemonstrationError(OvercutError):
    """The demonstration could not go on; its text says where it stood and where to look."""


class House:
    """One embedded cloud in a folder of its own, and what is deployed to it.

    Attributes:
        state: the demonstration's folder.
        console: where people are told.
        clock: of everything that is deployed; the machine's own until a part sets it; it stands still at the end.
        url: the cloud's endpoint.
        session: for the SDK; every client needs `endpoint_url=house.url`.
        outputs: of each deployed stack, by its name.
    """

    stage: Stage

    def __init__(self, state: Path, console: Console, url: str) -> None:
        self.state = state
        self.console = console
        self.url = url
        self.clock = FileClock(state / "clock.json")
        self.session = boto3.Session("test", "test", region_name=REGION)
        self.outputs: Outputs = {}

    @property
    def logs(self) -> Path:
        """The folder of the cloud's and the deployment's logs."""
        return self.state / "cloud"

    def deploy(self, pipelines: Mapping[str, Mapping[str, Any]], parameters: Mapping[str, str]) -> None:
        """Deploy a stage of these pipelines.

        Args:
            pipelines: of each, by its table's name in a stage file, the settings that differ from the local stage's.
            parameters: of the stacks, as `Stack:Name`.

        Raises:
            DeployError: it failed.
        """
        deployment = Deployment(self.url, self.logs)
        stage_file = write_stage_file(self.state / "stage.toml", clock=self.clock.path, pipelines=pipelines)
        self.stage = read_stage(str(stage_file))
        with step(self.console, "Bootstrapping CDK"):
            deployment.bootstrap()
        with step(self.console, "Synthesizing: cdk synth"):
            synthesized(deployment, stage_file)
        with step(self.console, "Deploying: cdk deploy --all"):
            self.outputs = deployment.deploy(parameters=parameters)

    def write_report(self, since: datetime) -> None:
        """Write what the deployed pipelines have seen since a moment of the clock, as a page."""
        sensors = self.outputs.get(SensorsSystem.stack(self.stage.name))
        jobs = self.outputs.get(EtlJobsSystem.stack(self.stage.name))
        write_report(
            self.state / "report.html",
            self.stage,
            SensorsSystem(sensors, self.session, self.url) if sensors else None,
            EtlJobsSystem(jobs, self.session, self.url) if jobs else None,
            since,
            self.clock.now(),
        )

    def wait(
        self,
        count: Callable[[], int],
        enough: int,
        advance: Advance,
        otherwise: str,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Ask `count` until it reaches `enough`, as long as it still grows now and then.

        Args:
            otherwise: what was not done, should it end too low.
            patience: seconds without growth.

        Raises:
            DemonstrationError: patience ran out.
        """
        ends, before = time.monotonic() + patience, -1
        while (now := count()) < enough:
            advance(now)
            if now > before:
                before, ends = now, time.monotonic() + patience
            if time.monotonic() > ends:
                raise DemonstrationError(f"{otherwise}: {now} of {enough}; logs are in {self.logs}")
            time.sleep(_LOOK_SECONDS)
        advance(enough)


class Part(Protocol):
    """The part of one pipeline.

    Attributes:
        pipeline: its table's name in a stage file: `sensors`.
        parameters: of its stack, as `Stack:Name`.
        begins: the first moment that its report is about.
    """

    @property
    def pipeline(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, str]: ...

    @property
    def begins(self) -> datetime: ...

    def prepared(self, house: House) -> AbstractContextManager[Mapping[str, Any]]:
        """Start what the pipeline talks to, until the demonstration ends, before anything is deployed.

        Yields the pipeline's settings that differ from the local stage's.
        """

    def run(self, house: House) -> dict[str, Any]:
        """Play the part in the deployed house and show its end; return what it adds to the summary."""


def play(parts: Sequence[Part], state: Path, console: Console) -> dict[str, Any]:
    """Deploy the pipelines of `parts`, play one after the other; return the summary, also in `summary.json`.

    Raises:
        AlreadyRunningError: another demonstration runs in this state folder.
        DemonstrationError, DeployError: it could not go on.
    """
    began = time.monotonic()
    cloud = EmbeddedCloud(state / "cloud")
    summary: dict[str, Any] = {"seconds": 0.0}
    with ExitStack() as until_the_end:
        with step(console, "Starting the embedded cloud"):
            running = cloud.up(owner_pid=os.getpid())
            until_the_end.callback(_end, cloud)
        # an earlier demonstration's: its clock would be obeyed
        for left in ("summary.json", "clock.json", "report.html", INCIDENT_PAGE):
            (state / left).unlink(missing_ok=True)
        house = House(state, console, running.url)
        pipelines = {part.pipeline: until_the_end.enter_context(part.prepared(house)) for part in parts}
        house.deploy(pipelines, {name: value for part in parts for name, value in part.parameters.items()})
        for part in parts:
            summary |= part.run(house)
        with step(console, "Writing the report"):
            house.write_report(min(part.begins for part in parts))
    summary["seconds"] = round(time.monotonic() - began, 1)
    (state / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    console.print(f"It took {summary['seconds']:.0f} s; {_shown(state / 'summary.json')} has it in figures.\n")
    console.print("Next:")
    for what, why in _next(state):
        console.print(f"  {what}", style="bold", highlight=False, soft_wrap=True)
        console.print(f"      {why}", highlight=False, soft_wrap=True)
    return summary


def _next(state: Path) -> Iterator[tuple[str, str]]:
    """What to open and what to type after a demonstration, each with what for."""
    overcut = _shown(CHECKOUT / ".venv" / "bin" / "overcut")
    if (state / INCIDENT_PAGE).exists():
        yield f"open {_shown(state / INCIDENT_PAGE)}", "the page that the text links to, as a phone saw it then"
    yield f"open {_shown(state / 'report.html')}", "all that was seen: incidents, scores, cutoffs, runs, tickets"
    yield (
        f"{overcut} demo --readings FILE.csv",
        "the same with readings of yours: sensor_id,measured_at,<one per measure>",
    )
    yield f"{overcut} init config/plant.toml", "describe a deployment of your own; docs/deploy.md goes on from there"


def _shown(path: Path) -> str:
    """A path as it is typed from where one is."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _end(cloud: EmbeddedCloud) -> None:
    # one that ended by itself is not what went wrong, but what followed from it
    with suppress(NothingRunsError):
        cloud.down()
