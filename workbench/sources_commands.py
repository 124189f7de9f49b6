"""`overcut sources`: what a source sends, before it is put into a stage file."""

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import tomli_w
from rich.console import Console
from rich.table import Table

from lambdas.sensors.poll_readings.connection import Connection, stream_pool
from overcut import OvercutError
from overcut.plain_text import visible
from overcut.sensors.readings import Reading, RefusedReadingError, format_time
from overcut.sensors.server_sent_events import EventStream, RefusedEvent, SourceError
from overcut.sensors.sources import FieldMapping
from stacks.stage import make_stage
from workbench.mapping_proposal import NoProposalError, Proposal, propose
from workbench.shown import shown

MOST_EVENTS = 10
# what a stage that sets nothing takes at most
OLDEST = timedelta(days=29)


@dataclass(frozen=True)
class Seen:
    """One event.

    Attributes:
        refused: why it is no event that anything could be made of; empty for one that is.
    """

    data: str
    refused: str = ""


@click.group()
def sources() -> None:
    """Look at what a source sends, and how to map it."""


@sources.command()
@click.argument("url")
@click.option(
    "--secret-header",
    "authorization",
    default="",
    envvar="OVERCUT_SECRET_HEADER",
    metavar="VALUE",
    help="The value of the Authorization header, such as 'Bearer TOKEN'; - reads it from standard input.",
)
@click.option("--name", default="device", show_default=True, help="What to call the source in the stage file.")
@click.option(
    "--seconds", type=click.FloatRange(1, 600), default=30.0, show_default=True, help="How long to wait for events."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(url: str, authorization: str, name: str, seconds: float, as_json: bool) -> None:
    """Read up to ten events of URL, show what they would be, and propose the table for a stage file.

    Ends with 1 when some of them would not be readings. Nothing is stored; no cursor moves.
    """
    if authorization == "-":
        authorization = sys.stdin.readline().strip()
    try:
        # what a stage file would say of the name and the address
        _as_table(name, url, FieldMapping({"measure": ""}), "")
        seen = list(_events(url, authorization, seconds))
    except SourceError as error:
        raise click.ClickException(f"{visible(url)} {visible(str(error))}") from error
    except OvercutError as error:
        raise click.ClickException(visible(str(error))) from error
    if not seen:
        raise click.ClickException(
            f"{visible(url)} answered and sent no event in {seconds:g} seconds; wait longer with --seconds,"
            " or see that something is measured"
        )
    try:
        proposal = propose([one.data for one in seen if not one.refused])
    except NoProposalError as error:
        found: Proposal | None = None
        why = visible(str(error))
    else:
        found, why = proposal, ""
    outcomes = [_made_of(one, found.mapping if found else None) for one in seen]
    accepted = sum(isinstance(outcome, Reading) for outcome in outcomes)
    refused = len(outcomes) - accepted
    table = _as_table(name, url, found.mapping, authorization) if found else ""
    if as_json:
        told = [{"event": one.data, **_as_values(outcome)} for one, outcome in zip(seen, outcomes, strict=True)]
        left_out = found.left_out if found else ()
        counts = {"accepted": accepted, "refused": refused}
        click.echo(
            json.dumps({"events": told, **counts, "stage_file": table, "left_out": left_out, "why_none": why}, indent=2)
        )
    else:
        _show(seen, outcomes, Console())
        _show_proposal(table, found, why)
        click.echo(f"Accepted {accepted}, refused {refused}.")
    if refused:
        sys.exit(1)


def _events(url: str, authorization: str, seconds: float) -> Iterator[Seen]:
    """The first events of a stream; fewer when time is up or the source ends it.

    Raises:
        SourceError: it could not be opened, or broke off before the first event.
    """
    ends = time.monotonic() + seconds
    connection = Connection(stream_pool(), url, last_event_id="", authorization=authorization)
    stream, left = EventStream(), MOST_EVENTS
    try:
        while left and (wait := ends - time.monotonic()) > 0 and (chunk := connection.chunk(wait)) != b"":
            for event in stream.feed(chunk or b"")[:left]:
                left -= 1
                yield Seen(event.raw, event.reason) if isinstance(event, RefusedEvent) else Seen(event.data)
    except SourceError:
        if left == MOST_EVENTS:
            raise
    finally:
        connection.close()


def _made_of(seen: Seen, mapping: FieldMapping | None) -> Reading | str:
    """The reading of an event, or why it is none."""
    if seen.refused:
        return seen.refused
    now = datetime.now(UTC)
    try:
        return (mapping or FieldMapping({})).read(seen.data, now, now - OLDEST)
    except RefusedReadingError as error:
        return str(error)


def _as_values(outcome: Reading | str) -> dict[str, Any]:
    if isinstance(outcome, str):
        return {"reading": None, "refused": outcome}
    values = {"sensor_id": outcome.sensor_id, "measured_at": format_time(outcome.measured_at)}
    return {"reading": {**values, "values": dict(outcome.values)}, "refused": None}


def _as_table(name: str, url: str, mapping: FieldMapping, authorization: str) -> str:
    """The source's table for a stage file, which takes it.

    Raises:
        StageError: it would not.
    """
    own = FieldMapping(mapping.measures)
    source: dict[str, Any] = {"url": url}
    if authorization:
        source["secret_name"] = f"overcut/{name}"
    for part in ("sensor_id", "measured_at", "values"):
        if getattr(mapping, part) != getattr(own, part):
            source[part] = getattr(mapping, part)
    source["measures"] = dict(mapping.measures)
    sensors = {"sources": {name: source}}
    contacts = {"contacts": {"maintenance": {}}, "default_contact": "maintenance"}
    make_stage({"name": "stage", "region": "us-east-1", "sensors": {**sensors, **contacts}}, "a stage file")
    # escaped as TOML has it: what is shown can be pasted, and is what it was
    return "".join(
        c if c.isprintable() or c == "\n" else f"\\U{ord(c):08X}" for c in tomli_w.dumps({"sensors": sensors})
    )


def _show(seen: list[Seen], outcomes: list[Reading | str], console: Console) -> None:
    table = Table("event")
    table.add_column("would be", overflow="fold")
    # one refusal of a kind is shown: figures and moments in it may differ
    times = Counter(_kind(outcome) for outcome in outcomes if isinstance(outcome, str))
    told_already: set[str] = set()
    for one, outcome in zip(seen, outcomes, strict=True):
        if isinstance(outcome, str):
            if (kind := _kind(outcome)) in told_already:
                continue
            told_already.add(kind)
            more = f", {times[kind]} times" if times[kind] > 1 else ""
            told = f"refused{more}: {outcome}"
        else:
            told = _told(outcome)
        table.add_row(shown(one.data if len(one.data) <= 200 else f"{one.data[:199]}…"), shown(told))
    console.print(table)


def _kind(refused: str) -> str:
    return re.sub(r"\d+", "0", refused)


def _told(reading: Reading) -> str:
    values = ", ".join(f"{measure} {value:g}" for measure, value in reading.values.items())
    return f"{reading.sensor_id} at {format_time(reading.measured_at)}: {values}"


def _show_proposal(table: str, found: Proposal | None, why: str) -> None:
    if not found:
        click.echo(f"No mapping can be proposed: {why}.")
        return
    click.echo("For the stage file, with the unit of each measure filled in:\n")
    click.echo(table)
    if found.left_out:
        click.echo(f"Numbers that are left out: {', '.join(map(visible, found.left_out))}.")
