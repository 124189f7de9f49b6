"""What every command that asks a deployed pipeline has in common: `--stage`, and errors in one sentence."""

import functools
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
)

from overcut import OvercutError
from overcut.plain_text import visible
from stacks.stage import Stage, read_stage

Command = Callable[..., None]

stage_option = click.option(
    "--stage", default="dev", show_default=True, help="Which deployment; its name, or its file."
)


def _of(narrow: Callable[[Stage], Stage]) -> Callable[[Command], Command]:
    def give(command: Command) -> Command:
        @stage_option
        @functools.wraps(command)
        def given(stage: str, **others: Any) -> None:
            command(stage=narrow(read_stage(stage)), **others)

        return given

    return give


# give a command the stage that its `--stage` names
of_stage = _of(lambda stage: stage)
of_sensors_stage = _of(Stage.with_sensors)
of_etl_jobs_stage = _of(Stage.with_etl_jobs)


def typed(command: str, stage: str) -> str:
    """What to type next, about the stage that was asked about: its `reference`."""
    return f"`overcut {command} --stage {shlex.quote(stage)}`"


class AwsCommands(click.Group):
    """A group of commands that talk to AWS; whatever goes wrong there is told in one sentence.

    `--stage` belongs behind the command, as everywhere; before it, it is taken too.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params.append(
            click.Option(["--stage"], help="Which deployment.", hidden=True, expose_value=False, callback=_hand_down)
        )

    def invoke(self, ctx: click.Context) -> object:
        with _told_in_one_sentence():
            return super().invoke(ctx)


def _hand_down(context: click.Context, _: click.Parameter, stage: str | None) -> None:
    if stage is not None and isinstance(context.command, click.Group):
        context.default_map = {name: {"stage": stage} for name in context.command.commands}


class AwsCommand(click.Command):
    """One command that talks to AWS; whatever goes wrong there is told in one sentence."""

    def invoke(self, ctx: click.Context) -> object:
        with _told_in_one_sentence():
            return super().invoke(ctx)


@contextmanager
def _told_in_one_sentence() -> Iterator[None]:
    try:
        yield
    except (EndpointConnectionError, ConnectTimeoutError) as error:
        raise click.ClickException(
            f"nothing answers at {error.kwargs['endpoint_url']}; if that is an embedded cloud, it is down:"
            " `overcut cloud up` starts one, and prints where"
        ) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise click.ClickException(f"no AWS credentials: {error}; log in, or name a profile in AWS_PROFILE") from error
    except (OvercutError, BotoCoreError, ClientError) as error:
        raise click.ClickException(visible(str(error))) from error
