"""The command line as a whole: every command is documented, tells of itself, and is JSON where it lists something."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from stacks.stage import read_stage
from tests.conftest import ROOT
from workbench.aws_commands import AwsCommand, AwsCommands, typed
from workbench.cli import main

GROUPS = {"sensors", "incidents", "cutoffs", "tickets", "parked"}
LISTS = {"list", "held", "status", "doctor", "audit", "cost", "check"}


def _commands(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        path = (*above, name)
        yield " ".join(path), command
        if isinstance(command, click.Group):
            yield from _commands(command, path)


COMMANDS = dict(_commands(main))


def test_every_command_is_in_the_documents() -> None:
    told = set(re.findall(r"`([a-z][a-z-]*)[` ]", (ROOT / "docs" / "commands.md").read_text()))
    assert set(main.commands) <= told


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_in_one_line_what_it_does(name: str) -> None:
    told = CliRunner().invoke(main, [*name.split(), "--help"])
    assert told.exit_code == 0
    assert COMMANDS[name].get_short_help_str(500).strip().endswith((".", "…"))
    undocumented = [one.name for one in COMMANDS[name].params if isinstance(one, click.Option) and not one.help]
    assert undocumented == []


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.split()[-1] in LISTS])
def test_what_lists_or_checks_something_prints_json(name: str) -> None:
    assert "--json" in {option for one in COMMANDS[name].params for option in one.opts}


def test_what_exit_codes_mean_is_told() -> None:
    told = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    assert "Ends with 0 when it is done, with 1 when it could not be or something needs you" in told
    assert CliRunner().invoke(main, ["no-such-command"]).exit_code == 2


def test_every_command_about_a_deployment_takes_the_stage_behind_it() -> None:
    about = {name for name, one in COMMANDS.items() if isinstance(one, AwsCommand) or name.split()[0] in GROUPS}
    single = about - GROUPS
    assert {"incidents list", "cutoffs rollback", "parked redrive", "status", "explain", "query"} <= single
    for name in single:
        assert "--stage" in {option for one in COMMANDS[name].params for option in one.opts}, name
    for name in GROUPS:
        assert "--stage" not in CliRunner().invoke(main, [name, "--help"]).output


@pytest.mark.parametrize(
    "arguments", [["incidents", "list", "--stage", "nowhere"], ["incidents", "--stage", "nowhere", "list"]]
)
def test_a_stage_is_taken_before_the_command_too(arguments: list[str]) -> None:
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == 1
    assert "config/nowhere.toml: no such stage file" in told.stderr


def test_a_hint_names_the_stage_as_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "my plant.toml"
    path.write_text('name = "plant"\nregion = "eu-central-1"\n[etl_jobs]\n')
    stage = read_stage(str(path)).with_etl_jobs()
    assert typed("tickets list", stage.reference) == f"`overcut tickets list --stage '{path}'`"
    assert typed("tickets list", read_stage("dev").reference) == "`overcut tickets list --stage dev`"


def test_no_hint_leaves_the_stage_out() -> None:
    about = "|".join(one.split()[0] for one in COMMANDS if isinstance(COMMANDS[one], AwsCommand | AwsCommands))
    # the report has the stage in its head
    files = {file for folder in ("workbench", "stacks", "lambdas") for file in (ROOT / folder).rglob("*.py")}
    texts = [text for file in files - {ROOT / "workbench" / "report_page.py"} for text in _texts(file)]
    assert len([text for text in texts if "overcut" in text]) > 10
    assert [text for text in texts if re.search(rf"`overcut (?:{about})\b(?![^`]* --(?:stage|help))", text)] == []


def _texts(file: Path) -> Iterator[str]:
    """What a module may tell people: its texts that are not docstrings, with a dot for what is filled in."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    about = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
    for one in ast.walk(tree):
        if isinstance(one, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "." for part in one.values)
        elif isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in about:
            yield one.value


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_shell_can_complete_it(shell: str) -> None:
    overcut = Path(sys.executable).parent / "overcut"
    environment = {**os.environ, "_OVERCUT_COMPLETE": f"{shell}_source"}
    source = subprocess.run([overcut], env=environment, capture_output=True, text=True, check=True).stdout
    assert "_OVERCUT_COMPLETE" in source
    asked = {**environment, "_OVERCUT_COMPLETE": f"{shell}_complete", "COMP_WORDS": "overcut do", "COMP_CWORD": "1"}
    if shell == "fish":
        asked["COMP_CWORD"] = "do"
    completed = subprocess.run([overcut], env=asked, capture_output=True, text=True, check=True).stdout
    assert "doctor" in completed
