"""`overcut tickets`: the tickets of a deployed ETL pipeline."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from overcut.etl_jobs.tickets import TicketHead
from overcut.sensors.readings import format_time
from stacks.stage import EtlJobsStage
from workbench.aws_commands import AwsCommands, of_etl_jobs_stage, typed
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.shown import print_table, shown


@click.group(cls=AwsCommands)
def tickets() -> None:
    """See what is open about ETL jobs."""


@tickets.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@of_etl_jobs_stage
def list_tickets(stage: EtlJobsStage, as_json: bool) -> None:
    """List open tickets, and what of them could not be sent."""
    store, console = EtlJobsSystem.deployed(stage).tickets, Console()
    table = Table("job", "kind", "opened (UTC)", "runs", "reference")
    found = sorted(store.open_heads(), key=lambda head: head.opened_at)
    if as_json:
        click.echo(json.dumps([_as_values(head) for head in found], indent=2))
        return
    for head in found:
        reference = shown(head.reference) or "not sent yet"
        table.add_row(shown(head.job_name), head.kind, f"{head.opened_at:%Y-%m-%d %H:%M}", str(head.runs), reference)
    if found:
        print_table(table, console)
    else:
        console.print("No ticket is open.")
    if parked := sum(1 for _ in store.parked()):
        said = "entry is parked" if parked == 1 else "entries are parked"
        console.print(f"{parked} {said}: {typed('parked list', stage.reference)} says why.", soft_wrap=True)


def _as_values(head: TicketHead) -> dict[str, Any]:
    """A ticket as JSON takes it."""
    values = asdict(head)
    times = {name: format_time(value) for name, value in values.items() if isinstance(value, datetime)}
    return {"deduplication_key": head.deduplication_key, **values, **times}
