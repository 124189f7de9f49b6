"""The `overcut` command."""

import click

from workbench.backtest_commands import backtest
from workbench.cloud.commands import cloud
from workbench.demonstration.commands import demo
from workbench.device import replay
from workbench.sensors_commands import sensors
from workbench.simulate import simulate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="overcut")
def main() -> None:
    """Anomaly detection that you deploy into your own AWS account, or run whole on this machine."""


for command in (demo, simulate, replay, sensors, cloud, backtest):
    main.add_command(command)
