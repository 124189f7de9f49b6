"""`overcut doctor`: whether an account is ready for a stage, and what to do where it is not."""

import json
import sys
from dataclasses import asdict

import boto3
import click
from rich.console import Console

from stacks.stage import Stage
from workbench.aws_commands import AwsCommand, of_stage
from workbench.doctor import Finding, Outcome, Visit, examine
from workbench.shown import shown

_STYLES = {Outcome.PASSED: "green", Outcome.FAILED: "bold red", Outcome.NOT_CHECKED: "yellow"}


@click.command(cls=AwsCommand)
@of_stage
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(stage: Stage, as_json: bool) -> None:
    """Check account, region and sources for a stage, before it is deployed and after.

    Each line is passed, failed with what to do, or not checked with the reason. Ends with 1 when one failed. Nothing is
    changed, and no text is sent.
    """
    console, found = Console(), []
    for finding in examine(Visit(stage, boto3.Session(region_name=stage.region))):
        found.append(finding)
        if not as_json:
            _show(console, finding)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        numbers = (f"{sum(one.outcome is outcome for one in found)} {outcome}" for outcome in Outcome)
        console.print(", ".join(numbers))
    if any(finding.outcome is Outcome.FAILED for finding in found):
        sys.exit(1)


def _show(console: Console, finding: Finding) -> None:
    style = _STYLES[finding.outcome]
    console.print(
        f"[{style}]{finding.outcome:<11}[/{style}]  {shown(finding.check)}: {shown(finding.told)}", soft_wrap=True
    )
    if finding.remedy:
        console.print(f"{'':13}{shown(finding.remedy)}", soft_wrap=True)
