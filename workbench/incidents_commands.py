"""`overcut incidents`: what sensors told of, and what people say of it."""

import json
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from lambdas.sensors.stores import KnownIncident
from overcut.sensors.alerts import held_back
from overcut.sensors.incidents import Cause, Incident, IncidentState, Label
from overcut.sensors.readings import format_time
from stacks.stage import SensorsStage
from workbench.aws_commands import AwsCommands, of_sensors_stage
from workbench.sensors_system import SensorsSystem
from workbench.shown import print_table, shown

# a terminal's worth; a sensor in trouble may have hundreds
MOST_LISTED = 50

whose = click.option("--sensor", "sensor_id", help="Whose it is, for a reference that several incidents have.")


@click.group(cls=AwsCommands)
def incidents() -> None:
    """See what sensors told of, and say what it was.

    An incident's reference is the six characters at the end of its text.
    """


@incidents.command("list")
@click.option("--open", "only_open", is_flag=True, help="Only those that are open.")
@click.option("--all", "everything", is_flag=True, help=f"All of them, not the last {MOST_LISTED}.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all of them.")
@of_sensors_stage
def list_incidents(stage: SensorsStage, only_open: bool, everything: bool, as_json: bool) -> None:
    """List incidents, the newest last."""
    found = [
        known
        for known in SensorsSystem.deployed(stage).incidents.known()
        if not only_open or known.incident.state is IncidentState.OPEN
    ]
    found.sort(key=lambda known: (known.incident.opened_at, known.incident.equipment.sensor_id))
    if as_json:
        click.echo(json.dumps([as_values(known) for known in found], indent=2))
        return
    if not found:
        click.echo(f"Stage {stage.name} has no {'open incident' if only_open else 'incident'}.")
        return
    listed = found if everything else found[-MOST_LISTED:]
    table = Table("reference", "equipment", "kind", "opened (UTC)", "state", "what", "label")
    for known in listed:
        one = known.incident
        table.add_row(
            one.reference,
            shown(one.equipment.name),
            one.kind,
            f"{one.opened_at:%Y-%m-%d %H:%M}",
            state_of(known),
            shown(measured(one.cause)),
            known.label or "-",
        )
    print_table(table)
    if len(listed) < len(found):
        click.echo(f"{len(found) - len(listed)} older ones are not shown; --all shows them.")


@incidents.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@of_sensors_stage
def held(stage: SensorsStage, as_json: bool) -> None:
    """List the texts that are held back for a contact's next digest.

    They are over its budget, or about something that was over before its readings came.
    """
    known = [known.incident for known in SensorsSystem.deployed(stage).incidents.known()]
    waiting = [(contact, one, text) for contact, held in held_back(known).items() for one, text in held]
    waiting.sort(key=lambda row: (row[0], row[1].opened_at, row[1].reference, row[2].kind))
    if as_json:
        values = [
            {
                "contact_id": contact,
                "text": text.kind.value,
                "reference": one.reference,
                "sensor_id": one.equipment.sensor_id,
                "opened_at": format_time(one.opened_at),
                "state": one.state.value,
            }
            for contact, one, text in waiting
        ]
        click.echo(json.dumps(values, indent=2))
        return
    if not waiting:
        click.echo(f"Stage {stage.name} holds no text back.")
        return
    table = Table("contact", "text", "reference", "equipment", "opened (UTC)", "state")
    for contact, one, text in waiting:
        opened = f"{one.opened_at:%Y-%m-%d %H:%M}"
        table.add_row(contact, text.kind, one.reference, shown(one.equipment.name), opened, one.state)
    print_table(table)


@incidents.command()
@click.argument("reference", metavar="INCIDENT_REF")
@whose
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@of_sensors_stage
def show(stage: SensorsStage, reference: str, sensor_id: str | None, as_json: bool) -> None:
    """Show one incident: when, what, and who was texted."""
    known = SensorsSystem.deployed(stage).incident(reference, sensor_id)
    if as_json:
        click.echo(json.dumps(as_values(known), indent=2))
        return
    one = known.incident
    told = ", ".join(f"{text.kind} to {text.contact_id}: {text.state}" for text in one.texts.values())
    place = ", ".join(part for part in (one.equipment.customer, one.equipment.site) if part)
    table = Table(show_header=False)
    for name, value in (
        ("reference", one.reference),
        ("sensor", one.equipment.sensor_id),
        ("equipment", one.equipment.name),
        ("place", place or "unassigned"),
        ("kind", one.kind),
        ("state", state_of(known)),
        ("opened", format_time(one.opened_at)),
        ("anomalous from", format_time(one.first_anomalous_at)),
        ("anomalous to", format_time(one.last_anomalous_at)),
        ("recovered", format_time(one.recovered_at) if one.recovered_at else "-"),
        ("what", measured(one.cause)),
        ("score", f"{one.cause.anomaly_score:.3f}, above the cutoff {one.cause.score_cutoff:.3f}"),
        ("model", one.cause.model_version),
        ("texts", told or "none"),
        ("answer", _answered(one)),
        ("label", known.label or "none"),
    ):
        table.add_row(name, shown(value))
    print_table(table)


@incidents.command()
@click.argument("reference", metavar="INCIDENT_REF")
@click.argument("label", type=click.Choice([label.value for label in Label]))
@whose
@of_sensors_stage
def label(stage: SensorsStage, reference: str, label: str, sensor_id: str | None) -> None:
    """Say what an incident was; the next training goes by it.

    A false alarm's readings are learned from. A fault's never are, however long it lasts.
    """
    system = SensorsSystem.deployed(stage)
    one = system.incident(reference, sensor_id).incident
    system.incidents.label(one, label)
    learned = "are learned from" if label == Label.FALSE_ALARM else "are never learned from"
    click.echo(
        f"{one.reference} ({one.equipment.sensor_id}, opened {format_time(one.opened_at)}) is labelled {label}:"
        f" from the next training on, its readings {learned}."
    )


def _answered(incident: Incident) -> str:
    last = incident.response
    return f"{last.answer.replace('_', ' ')}, {last.contact_id} at {format_time(last.at)}" if last else "none"


def state_of(known: KnownIncident) -> str:
    state = known.incident.state.value
    return f"{state}, contradicted by a late reading" if known.is_contradicted else state


def measured(cause: Cause) -> str:
    """What was measured beside what is usual, as the text says it."""
    unit = f" {cause.unit}" if cause.unit else ""
    # a volatility is told itself, of all else the reading
    feature = " volatility" if cause.feature == "volatility" else ""
    return f"{cause.measure}{feature} {cause.value:.4g}{unit}, usually {cause.usual_low:.4g} to {cause.usual_high:.4g}"


def as_values(known: KnownIncident) -> dict[str, Any]:
    """An incident as JSON takes it."""
    one = known.incident
    values = json.loads(json.dumps(asdict(one), default=format_time))
    return {"reference": one.reference, **values, "label": known.label or None, "contradicted": known.is_contradicted}
