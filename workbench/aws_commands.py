"""What every command that asks a deployed pipeline has in common."""

from collections.abc import Iterator
from contextlib import contextmanager

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


class AwsCommands(click.Group):
    """A group of commands that talk to AWS; whatever goes wrong there is told in one sentence."""

    def invoke(self, ctx: click.Context) -> object:
        with _told_in_one_sentence():
            return super().invoke(ctx)


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
