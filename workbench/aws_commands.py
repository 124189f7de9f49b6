"""What every command that asks a deployed pipeline has in common."""

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


class AwsCommands(click.Group):
    """A group of commands that talk to AWS; whatever goes wrong there is told in one sentence."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (EndpointConnectionError, ConnectTimeoutError) as error:
            raise click.ClickException(
                f"nothing answers at {error.kwargs['endpoint_url']}; if that is an embedded cloud, it is down:"
                " `overcut cloud up` starts one, and prints where"
            ) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise click.ClickException(
                f"no AWS credentials: {error}; log in, or name a profile in AWS_PROFILE"
            ) from error
        except (OvercutError, BotoCoreError, ClientError) as error:
            raise click.ClickException(str(error)) from error
