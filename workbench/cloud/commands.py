"""`overcut cloud`: the embedded cloud from the command line."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from workbench.cloud.environment import client_environment
from workbench.cloud.processes import EmbeddedCloud
from workbench.cloud.state import CloudError, Running

_state = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="State folder; by default what OVERCUT_STATE names, else .overcut/cloud in the checkout.",
)


@click.group()
def cloud() -> None:
    """Run an AWS emulator on this machine."""


@cloud.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to serve on; 0 picks a free one.")
@_state
def up(port: int, state: Path | None) -> None:
    """Start the cloud and leave it running.

    Its standard output sets a shell's environment for it: eval "$(overcut cloud up)"
    """
    try:
        running = EmbeddedCloud(state).up(port)
    except CloudError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"The embedded cloud runs at {running.url} (process {running.pid}). To use it:", err=True)
    _export(running)


@cloud.command()
@_state
def env(state: Path | None) -> None:
    """Set another shell's environment for the cloud that runs: eval "$(overcut cloud env)"."""
    running = EmbeddedCloud(state).status()
    if running is None:
        raise click.ClickException("no embedded cloud runs in this folder: `overcut cloud up` starts one")
    _export(running)


def _export(running: Running) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        click.echo(f"export {name}={client_environment(running.url)[name]}")


@cloud.command()
@_state
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(state: Path | None, as_json: bool) -> None:
    """Tell whether the cloud runs, and where.

    Exits with 1 when it does not.
    """
    embedded = EmbeddedCloud(state)
    running = embedded.status()
    answers = running is not None and embedded.answers(running)
    if as_json:
        click.echo(
            json.dumps({"state": str(embedded.state), "answers": answers, "running": running and asdict(running)})
        )
    elif running is None:
        click.echo(f"No embedded cloud runs in {embedded.state}.")
    else:
        health = "" if answers else ", but does not answer"
        click.echo(f"Runs at {running.url} since {running.started} (process {running.pid}){health}.")
    sys.exit(0 if answers else 1)


@cloud.command()
@_state
def down(state: Path | None) -> None:
    """End the cloud and everything it started."""
    try:
        ended = EmbeddedCloud(state).down()
    except CloudError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Ended the embedded cloud at {ended.url}.")
