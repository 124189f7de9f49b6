"""`overcut tickets`: the tickets of a deployed ETL pipeline."""

import click
from rich.console import Console
from rich.table import Table

from stacks.stage import EtlJobsStage, read_stage
from workbench.aws_commands import AwsCommands
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.shown import shown


@click.group(cls=AwsCommands)
@click.option("--stage", default="dev", show_default=True, help="Which deployment; its name, or its file.")
@click.pass_context
def tickets(context: click.Context, stage: str) -> None:
    """See what is open about ETL jobs."""
    context.obj = read_stage(stage).with_etl_jobs()


@tickets.command("list")
@click.pass_obj
def list_tickets(stage: EtlJobsStage) -> None:
    """List open tickets, and what of them could not be sent."""
    store, console = EtlJobsSystem.deployed(stage).tickets, Console()
    table = Table("job", "kind", "opened (UTC)", "runs", "reference")
    found = sorted(store.open_heads(), key=lambda head: head.opened_at)
    for head in found:
        reference = shown(head.reference) or "not sent yet"
        table.add_row(shown(head.job_name), head.kind, f"{head.opened_at:%Y-%m-%d %H:%M}", str(head.runs), reference)
    console.print(table if found else "No ticket is open.")
    if parked := sum(1 for _ in store.parked()):
        said = "entry is parked" if parked == 1 else "entries are parked"
        console.print(f"{parked} {said}: `overcut parked --stage {stage.name} list` says why.", soft_wrap=True)
