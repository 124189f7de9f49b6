"""`overcut query`: ask a deployed stage in SQL."""

import csv
import json
import re
import sys
from itertools import islice

import click
from rich.table import Table

from overcut import RefusedError
from stacks.stage import Stage
from workbench.aws_commands import AwsCommand, of_stage
from workbench.deployed import DeployedPipeline
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.questions import Answer, NamedQuestion
from workbench.sensors_system import SensorsSystem
from workbench.shown import print_table, shown

# a terminal's worth
MOST_SHOWN = 200
# after comments; whatever else there is changes something
_READS = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(?:select|with|values|show|describe)\b", re.IGNORECASE | re.DOTALL)


class QueryCommandError(RefusedError):
    """Nothing can be asked like this; the text says what to type instead."""


@click.command(cls=AwsCommand)
@click.argument("sql", required=False)
@of_stage
@click.option(
    "--pipeline",
    type=click.Choice(["sensors", "etl-jobs"]),
    help="Whose tables are meant without naming a database; the stage's only one, or the sensors'.",
)
@click.option("--named", "name", help="Run one of the stage's own questions.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, every row.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, every row.")
def query(stage: Stage, sql: str | None, pipeline: str | None, name: str | None, as_json: bool, as_csv: bool) -> None:
    """Ask in SQL: one SELECT, run by Athena; without one, list the questions the stage keeps.

    Tables and views: readings, cutoffs, incidents, model_events, sensors, cutoff_drift, hourly_readings; job_runs,
    predictions, verdicts, job_health. Where a table has a `dt`, name the days you mean: it reads no others.
    """
    if sql and name:
        raise click.UsageError("give a SELECT or --named, not both")
    if as_json and as_csv:
        raise click.UsageError("--json or --csv, not both")
    questions = _system(stage, pipeline).questions
    if name:
        known = {one.name: one for one in questions.named()}
        if name not in known:
            raise QueryCommandError(f"no question is named {name}: there are {', '.join(known) or 'none'}")
        sql = known[name].sql
    if not sql:
        _list(questions.named(), as_json)
        return
    if not _READS.match(sql):
        raise QueryCommandError(
            "only questions are asked here: begin with SELECT; what changes tables is the deployment's to do"
        )
    _print(questions.ask(sql), as_json, as_csv)


def _system(stage: Stage, pipeline: str | None) -> DeployedPipeline:
    if pipeline == "etl-jobs" or (pipeline is None and stage.sensors is None):
        return EtlJobsSystem.deployed(stage.with_etl_jobs())
    return SensorsSystem.deployed(stage.with_sensors())


def _list(named: list[NamedQuestion], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([{"name": one.name, "about": one.about, "sql": one.sql} for one in named], indent=2))
        return
    table = Table("--named", "what it answers")
    for one in named:
        table.add_row(shown(one.name), shown(one.about))
    print_table(table)


def _print(answer: Answer, as_json: bool, as_csv: bool) -> None:
    if as_json:
        # a line a row: an answer may be longer than memory
        for row in answer.rows:
            click.echo(json.dumps(dict(zip(answer.columns, row, strict=True))))
        return
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows(["" if value is None else value for value in row] for row in answer.rows)
        return
    rows = list(islice(answer.rows, MOST_SHOWN + 1))
    table = Table(*map(shown, answer.columns))
    for row in rows[:MOST_SHOWN]:
        table.add_row(*("-" if value is None else shown(value) for value in row))
    print_table(table)
    if not rows:
        click.echo("No row.")
    if len(rows) > MOST_SHOWN:
        click.echo(f"Only the first {MOST_SHOWN} rows are shown; --csv and --json print every one.")
