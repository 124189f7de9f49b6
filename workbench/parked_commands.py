"""`overcut parked`: what could not be processed, in every queue of both pipelines."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import click
from rich.table import Table

from overcut import RefusedError
from overcut.plain_text import visible
from stacks.stage import Stage
from workbench.aws_commands import AwsCommands, of_stage, typed
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.parked import NotRedrivenError, Parked, Queue
from workbench.sensors_system import SensorsSystem
from workbench.shown import print_table, shown

# a terminal's worth
MOST_LISTED = 50
NAMES = ("records", "batches", "events", "tickets")

Found = list[tuple[Queue, Parked]]

references = click.argument("references", metavar="[REF]...", nargs=-1)
everything = click.option(
    "--all", "everything", is_flag=True, help="Everything that is parked, in place of references."
)
of_queue = click.option("--queue", type=click.Choice(NAMES), help="Only of this queue.")


class ParkedCommandError(RefusedError):
    """What was asked for cannot be done; the text says why."""


@click.group(cls=AwsCommands)
def parked() -> None:
    """See what could not be processed and why, and hand it back once that is mended.

    \b
    records   records of the readings' stream that hold no reading
    batches   batches of that stream that failed until they were too old
    events    events of a source that cannot be readings
    tickets   what the sink of tickets refused, or did not take for a day
    """


@parked.command("list")
@of_queue
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all of it.")
@of_stage
def list_parked(stage: Stage, queue: str | None, as_json: bool) -> None:
    """List what is parked."""
    with _found(stage, queue) as found:
        listed = [item for _, item in found]
    if as_json:
        click.echo(json.dumps([_as_values(item) for item in listed], indent=2))
        return
    if not listed:
        click.echo(f"Nothing is parked in stage {stage.name}.")
        return
    table = Table("reference", "queue")
    table.add_column("parked (UTC)", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("reason", overflow="fold")
    for item in listed[:MOST_LISTED]:
        reason = item.reason if len(item.reason) <= 120 else f"{item.reason[:119]}…"
        minute = item.parked_at[:16].replace("T", " ") or "-"
        table.add_row(item.reference, item.queue, shown(minute), shown(item.what), shown(reason))
    print_table(table)
    if len(listed) > MOST_LISTED:
        click.echo(f"{len(listed) - MOST_LISTED} more are not shown; --json prints all.")


@parked.command()
@click.argument("reference", metavar="REF")
@of_stage
def show(stage: Stage, reference: str) -> None:
    """Show all there is of one, as JSON."""
    with _found(stage, None) as found:
        ((_, item),) = _chosen(stage, found, [reference])
        click.echo(json.dumps({**_as_values(item), "context": item.context}, indent=2, default=str))


@parked.command()
@references
@everything
@of_queue
@of_stage
def redrive(stage: Stage, references: Sequence[str], everything: bool, queue: str | None) -> None:
    """Process it once more.

    What cannot be processed this time either stays parked. Doing it twice changes nothing.
    """

    def again(of: Queue, item: Parked) -> bool:
        try:
            outcome = of.redrive(item)
        except NotRedrivenError as error:
            click.echo(f"{item.reference} stays parked: {visible(str(error))}", err=True)
            return False
        click.echo(f"{item.reference} {visible(outcome)}")
        return True

    redriven, stay = _each(stage, references, everything, queue, again)
    click.echo(f"{redriven} redriven")
    if stay:
        raise ParkedCommandError(f"{stay} of {redriven + stay} stay parked")


@parked.command()
@references
@everything
@of_queue
@click.option("--yes", is_flag=True, help="Do not ask.")
@of_stage
def discard(stage: Stage, references: Sequence[str], everything: bool, queue: str | None, yes: bool) -> None:
    """Drop it for good, unprocessed."""

    def drop(of: Queue, item: Parked) -> bool:
        if not yes:
            told = visible(f"{item.what} ({item.reason})")
            click.confirm(f"Discard {item.reference}, {item.queue}: {told}?", abort=True)
        of.discard(item)
        return True

    discarded, _ = _each(stage, references, everything, queue, drop)
    click.echo(f"{discarded} discarded")


def _each(
    stage: Stage, references: Sequence[str], everything: bool, queue: str | None, do: Callable[[Queue, Parked], bool]
) -> tuple[int, int]:
    """Do something with what was chosen; how many it was done with, and how many not."""
    if bool(references) == everything:
        raise click.UsageError("name what you mean by its references, or say --all")
    with _found(stage, queue) as found:
        chosen = found if everything else _chosen(stage, found, references)
        done = [do(of, item) for of, item in chosen]
    return sum(done), len(done) - sum(done)


def _chosen(stage: Stage, found: Found, references: Sequence[str]) -> Found:
    by_reference = {item.reference: (of, item) for of, item in found}
    wanted = dict.fromkeys(reference.strip().lower() for reference in references)
    for reference in wanted:
        if reference not in by_reference:
            raise ParkedCommandError(
                f"nothing is parked as {reference}; {typed('parked list', stage.reference)} shows what is"
            )
    return [by_reference[reference] for reference in wanted]


@contextmanager
def _found(stage: Stage, only: str | None) -> Iterator[Found]:
    """What is parked, by queue, oldest first, held until the end."""
    queues: list[Queue] = []
    if stage.sensors:
        queues += SensorsSystem.deployed(stage).parked_queues(stage.with_sensors())
    if stage.etl_jobs:
        queues += EtlJobsSystem.deployed(stage).parked_queues()
    with ExitStack() as until_the_end:
        found: Found = []
        for queue in queues:
            if only in (None, queue.name):
                until_the_end.enter_context(closing(queue))
                found += [(queue, item) for item in sorted(queue.items(), key=lambda item: item.parked_at)]
        yield found


def _as_values(item: Parked) -> dict[str, str]:
    return {
        "reference": item.reference,
        "queue": item.queue,
        "parked_at": item.parked_at,
        "what": item.what,
        "reason": item.reason,
    }
