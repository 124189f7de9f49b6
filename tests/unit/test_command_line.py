"""The command line as a whole: every command is documented, tells of itself, and is JSON where it lists something."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.conftest import ROOT
from workbench.cli import main

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
