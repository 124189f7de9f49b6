"""`overcut cutoffs`: what sensors are judged by, and going back or ahead by hand."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import click
from rich.table import Table

from lambdas.runtime.clock import clock_from
from lambdas.sensors.stores import cutoffs_key, load_cutoffs
from overcut import RefusedError
from overcut.sensors.cutoffs import Cutoff, model_key
from overcut.sensors.readings import format_time
from stacks.stage import SensorsStage
from workbench.aws_commands import AwsCommands, of_sensors_stage, typed
from workbench.sensors_system import SensorsSystem
from workbench.shown import print_table, shown

MOST_LISTED = 20
SECOND = timedelta(seconds=1)
APPROVED, ROLLED_BACK = "approved", "rolled back"


class CutoffsCommandError(RefusedError):
    """What was asked for cannot be put in force; the text says why, and what to do."""


@click.group(cls=AwsCommands)
def cutoffs() -> None:
    """See what sensors are judged by, go back, or approve what training held."""


@cutoffs.command("list")
@click.argument("sensor_id", metavar="SENSOR")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@of_sensors_stage
def list_cutoffs(stage: SensorsStage, sensor_id: str, as_json: bool) -> None:
    """List a sensor's last cutoffs, the newest first."""
    found = SensorsSystem.deployed(stage).cutoffs.newest(sensor_id, MOST_LISTED)
    states = _states(found, _now(stage))
    if as_json:
        listed = [{**_as_values(cutoff), "state": state} for cutoff, state in zip(found, states, strict=True)]
        click.echo(json.dumps(listed, indent=2))
        return
    if not found:
        click.echo(f"Sensor {sensor_id} has no cutoff in stage {stage.name}: it is still learning, or was never seen.")
        return
    table = Table("trained (UTC)", "in force from (UTC)", "state", "model version", "cutoff", "z factor", "readings")
    for cutoff, state in zip(found, states, strict=True):
        table.add_row(
            f"{cutoff.trained_at:%Y-%m-%d %H:%M:%S}",
            f"{cutoff.effective_from:%Y-%m-%d %H:%M:%S}",
            state,
            shown(cutoff.model_version),
            f"{cutoff.score_cutoff:.3f}",
            f"{cutoff.z_factor:.2f}",
            str(cutoff.reading_count),
        )
    print_table(table)


def _states(found: Sequence[Cutoff], now: datetime) -> list[str]:
    """Of each cutoff, newest first, what it is now."""
    current = max((one for one in found if one.effective_from <= now), key=lambda one: one.trained_at, default=None)
    states = []
    for one in found:
        if not one.ranges:
            states.append("learning again")
        elif one is current:
            states.append("in force")
        else:
            states.append("not yet" if one.effective_from > now else "replaced")
    return states


@cutoffs.command()
@click.argument("sensor_id", metavar="SENSOR")
@of_sensors_stage
def rollback(stage: SensorsStage, sensor_id: str) -> None:
    """Judge a sensor by its previous cutoff again.

    The next training makes a new one. Rolling back twice is as before.
    """
    system, now = SensorsSystem.deployed(stage), _now(stage)
    found = system.cutoffs.newest(sensor_id, MOST_LISTED)
    previous = next((one for one in found[1:] if one.ranges), None)
    if previous is None:
        has = "no cutoff before its newest" if found else "no cutoff"
        raise CutoffsCommandError(
            f"sensor {sensor_id} has {has} in stage {stage.name}, so there is nothing to go back to;"
            f" {typed(f'cutoffs list {sensor_id}', stage.reference)} shows what there is"
        )
    newest = found[0]
    effective_from = system.cutoffs.promote([replace(previous, trained_at=_after(newest, now))], now)
    event = {
        "decision": ROLLED_BACK,
        "reason": "by hand",
        "sensor_id": sensor_id,
        "model_version": previous.model_version,
        "replaced_model_version": newest.model_version,
        "effective_from": format_time(effective_from),
    }
    system.model_events.put(previous.cohort_id, now, event)
    click.echo(
        f"From {format_time(effective_from)} on, {sensor_id} is judged again by its cutoff of"
        f" {format_time(previous.trained_at)} (model {previous.model_version}) instead of that of"
        f" {format_time(newest.trained_at)} (model {newest.model_version}), until the next training."
    )


@cutoffs.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@of_sensors_stage
def held(stage: SensorsStage, as_json: bool) -> None:
    """List the versions that training held and nobody approved, with the reason."""
    found = held_versions(SensorsSystem.deployed(stage))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo(f"Stage {stage.name} holds no version.")
        return
    table = Table("model", "version", "held because")
    for one in found:
        table.add_row(shown(one["model_id"]), shown(one["model_version"]), shown(one["reason"]))
    print_table(table)


@cutoffs.command()
@click.argument("model_id")
@click.argument("version")
@of_sensors_stage
def approve(stage: SensorsStage, model_id: str, version: str) -> None:
    """Put a version that training held to use, for all of its sensors."""
    system, now = SensorsSystem.deployed(stage), _now(stage)
    keys = set(system.bucket.keys(f"models/sensors/{model_id}/{version}/"))
    if not {cutoffs_key(model_id, version), model_key(model_id, version)} <= keys:
        raise CutoffsCommandError(
            f"model {model_id} holds no version {version}; {typed('cutoffs held', stage.reference)} lists what is held"
        )
    for event in system.model_events.of(model_id):
        if event.get("decision") == APPROVED and event.get("model_version") == version:
            raise CutoffsCommandError(
                f"version {version} of {model_id} was approved at {event['occurred_at']} already; go back with"
                f" {typed('cutoffs rollback SENSOR', stage.reference)}"
            )
    approved = load_cutoffs(system.bucket.get(cutoffs_key(model_id, version)))
    # trained now, as far as the order of cutoffs goes: what was promoted meanwhile is replaced
    again = [
        replace(
            one, trained_at=_after(next(iter(system.cutoffs.newest(one.sensor_id, 1)), None), now), is_approved=True
        )
        for one in approved
    ]
    effective_from = system.cutoffs.promote(again, now)
    event = {
        "decision": APPROVED,
        "reason": "by hand",
        "model_version": version,
        "sensors": len(again),
        "effective_from": format_time(effective_from),
    }
    system.model_events.put(model_id, now, event)
    sensors = "1 sensor is" if len(again) == 1 else f"{len(again)} sensors are"
    click.echo(f"From {format_time(effective_from)} on, {sensors} judged by version {version} of {model_id}.")


def held_versions(system: SensorsSystem) -> list[dict[str, str]]:
    """The versions whose cutoffs lie beside their model, and that were not approved since."""
    found = []
    for key in system.bucket.keys("models/sensors/"):
        parts = key.split("/")
        if parts[-1] != "cutoffs.json" or len(parts) != 5:
            continue
        model_id, version = parts[2], parts[3]
        events = [one for one in system.model_events.of(model_id) if one.get("model_version") == version]
        if not any(one.get("decision") == APPROVED for one in events):
            reason = next((one["reason"] for one in reversed(events) if one.get("reason")), "not recorded")
            found.append({"model_id": model_id, "model_version": version, "reason": reason})
    return found


def _after(newest: Cutoff | None, now: datetime) -> datetime:
    """The present, and later than the newest cutoff: the newest that is in force counts."""
    now = now.replace(microsecond=0)
    return max(now, newest.trained_at.replace(microsecond=0) + SECOND) if newest else now


def _now(stage: SensorsStage) -> datetime:
    return clock_from(stage.clock).now()


def _as_values(cutoff: Cutoff) -> dict[str, Any]:
    return {
        **asdict(cutoff),
        "trained_at": format_time(cutoff.trained_at),
        "effective_from": format_time(cutoff.effective_from),
        "interval": cutoff.interval.total_seconds(),
    }
