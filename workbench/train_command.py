"""`overcut train`: a training now, instead of at its time."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click
from rich.console import Console

from lambdas.runtime.clock import clock_from
from overcut import OvercutError
from overcut.plain_text import visible
from overcut.sensors.readings import format_time, parse_time
from stacks.stage import Stage
from workbench.aws_commands import AwsCommand, of_stage, typed
from workbench.demonstration.progress import progress
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.sensors_system import SensorsSystem

WORKFLOW = "TrainingWorkflow"


class TrainingError(OvercutError):
    """A training failed, or is not waited for; the text says why, and what to do."""


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        models: what was decided about each, as it was recorded.
        lines: the same for people.
        needs_you: whether one of them is held until somebody has looked at it.
    """

    training_job: str
    seconds: float
    models: list[dict[str, Any]]
    lines: list[str]
    needs_you: bool


@click.command(cls=AwsCommand)
@of_stage
@click.option(
    "--pipeline",
    type=click.Choice(["sensors", "etl-jobs"]),
    help="What to train; without it, the stage's only pipeline, or its sensors.",
)
@click.option("--no-wait", is_flag=True, help="Only start it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def train(stage: Stage, pipeline: str | None, no_wait: bool, as_json: bool) -> None:
    """Train now, and tell what was promoted and what was held.

    Runs the stage's own workflow, which takes from minutes to hours, and goes on when you stop waiting. Ends with 1
    when it failed, or when a version is held until somebody has looked at it.
    """
    system: EtlJobsSystem | SensorsSystem
    if pipeline == "etl-jobs" or (pipeline is None and stage.sensors is None):
        system = EtlJobsSystem.deployed(stage.with_etl_jobs())
    else:
        system = SensorsSystem.deployed(stage.with_sensors())
    status, told = typed("status", stage.reference), {"pipeline": system.PIPELINE}
    if (last := system.last_execution(WORKFLOW)) and last.status == "RUNNING":
        raise TrainingError(f"a training has run since {last.at:%Y-%m-%d %H:%M} UTC; {status} tells how it ends")
    name, now = f"by-hand-{time.time_ns()}", clock_from(stage.clock).now()
    if no_wait:
        system.start(WORKFLOW, name, {"until": format_time(now)} if isinstance(system, EtlJobsSystem) else {})
        begun = f"The {system.PIPELINE} training has begun; {status} tells how it ends."
        click.echo(json.dumps({**told, "status": "RUNNING"}) if as_json else begun)
        return
    try:
        with progress(Console(stderr=True), f"Training {system.PIPELINE}", None) as tell:
            trained = _trained(system, stage, name, now, tell)
    except KeyboardInterrupt:
        raise TrainingError(f"stopped waiting; the training goes on, and {status} tells how it ends") from None
    if as_json:
        of_it = {"status": "SUCCEEDED", "training_job": trained.training_job, "seconds": round(trained.seconds, 1)}
        click.echo(json.dumps({**told, **of_it, "models": trained.models}, indent=2))
    else:
        click.echo("\n".join(map(visible, trained.lines)))
    if trained.needs_you:
        sys.exit(1)


def _trained(
    system: SensorsSystem | EtlJobsSystem, stage: Stage, name: str, now: datetime, tell: Callable[[str], None]
) -> Trained:
    if isinstance(system, SensorsSystem):
        training = system.train(name, tell)
        _demand(training.status, training.cause)
        # what waits for somebody comes first
        models = sorted(system.trained_by(training.job_name), key=lambda one: (not _waits(one), one["model_id"]))
        lines = [_line(one, stage) for one in models]
        return Trained(training.job_name, training.seconds, models, lines, any(map(_waits, models)))
    execution = system.run("Training", name, now, tell)
    _demand(execution.status, execution.cause)
    job = execution.output["training_job"]["TrainingJobName"]
    model = system.decision(job)
    jobs = f"{_counted(model['jobs'], 'job')} by {model['runs']:,} runs, {model['learning']} still learning"
    if model["decision"] == "promoted":
        return Trained(job, execution.seconds, [model], [f"promoted: {jobs}; {_from(model['effective_from'])}"], False)
    held = f"held: {model['reason']} ({jobs}); runs are judged as before until a training is promoted"
    return Trained(job, execution.seconds, [model], [held], True)


def _demand(status: str, cause: str) -> None:
    if status != "SUCCEEDED":
        why = cause or "it does not say why; its execution in Step Functions shows where it stopped"
        raise TrainingError(f"the training ended as {status}: {why}")


def _waits(model: Mapping[str, Any]) -> bool:
    """Whether a version is held; without one, there was too little to learn from."""
    return model["decision"] == "held" and "model_version" in model


def _line(model: Mapping[str, Any], stage: Stage) -> str:
    """What became of a cohort's sensors."""
    name, decision = model["model_id"], model["decision"]
    if decision == "retired":
        return f"retired {name}: its sensors measured nothing; they learn anew when they are back"
    learning = f"; {_counted(model['learning'], 'sensor')} still learning" if model["learning"] else ""
    if decision == "promoted":
        learned = f"{_counted(model['sensors'], 'sensor')} by {model['readings']:,.0f} readings"
        return f"promoted {name}: {learned}, {_from(model['effective_from'])}{learning}"
    if not _waits(model):
        return f"learning {name}: {model['reason']}"
    approve = typed(f"cutoffs approve {name} {model['model_version']}", stage.reference)
    return f"held {name}: {model['reason']}; its sensors are judged as before until {approve}"


def _from(moment: str) -> str:
    return f"in force from {parse_time(moment):%Y-%m-%d %H:%M} UTC"


def _counted(number: float, what: str) -> str:
    return f"{number:,.0f} {what if number == 1 else f'{what}s'}"
