"""The `overcut` command."""

import signal

import click

from workbench.audit import audit
from workbench.backtest_commands import backtest
from workbench.cloud.commands import cloud
from workbench.cost import cost
from workbench.cutoffs_commands import cutoffs
from workbench.demonstration.commands import demo
from workbench.device import replay
from workbench.doctor_commands import doctor
from workbench.explain_commands import explain
from workbench.incidents_commands import incidents
from workbench.init_command import init
from workbench.lake_commands import load_lake
from workbench.parked_commands import parked
from workbench.query_command import query
from workbench.readings_command import readings
from workbench.report_commands import report
from workbench.sensors_commands import sensors
from workbench.simulate import simulate
from workbench.simulate_job_runs import job_runs
from workbench.sources_commands import sources
from workbench.status import status
from workbench.tickets_commands import tickets
from workbench.train_command import train
from workbench.tune_commands import tune


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Ends with 0 when it is done, with 1 when it could not be or something needs you, with 2 when it was typed"
    " wrongly. What lists or checks something takes --json. docs/commands.md tells more.",
)
@click.version_option(package_name="overcut")
def main() -> None:
    """Anomaly detection that you deploy into your own AWS account, or run whole on this machine."""
    # told to end, a command clears up as it does after Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)


for command in (
    demo,
    simulate,
    replay,
    init,
    sources,
    doctor,
    cost,
    status,
    sensors,
    incidents,
    explain,
    train,
    cutoffs,
    tickets,
    parked,
    query,
    readings,
    audit,
    report,
    cloud,
    backtest,
    tune,
    load_lake,
):
    main.add_command(command)
simulate.add_command(job_runs)
