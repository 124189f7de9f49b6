"""`overcut query` asks, and changes nothing."""

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from workbench import query_command
from workbench.cli import main
from workbench.questions import Answer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of a deployment."""
    sent: list[str] = []

    def ask(sql: str) -> Answer:
        sent.append(sql)
        return Answer(["n"], iter([["1"]]))

    system = SimpleNamespace(questions=SimpleNamespace(ask=ask))
    monkeypatch.setattr(query_command, "_system", lambda *_: system)
    return sent


@pytest.mark.parametrize(
    "sql",
    ["SELECT 1", "-- why\nselect 1", "(SELECT 1)", "/* a\n b */ WITH a AS (SELECT 1) SELECT * FROM a", "show tables"],
)
def test_a_question_is_asked(asked: list[str], sql: str) -> None:
    ran = CliRunner().invoke(main, ["query", "--stage", "local", "--", sql])
    assert ran.exit_code == 0, ran.output
    assert asked == [sql]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE readings",
        "-- select\ndelete from readings",
        "/* select */ drop view v",
        "INSERT INTO a SELECT 1",
        "CREATE TABLE a AS SELECT 1",
        "selective",
    ],
)
def test_what_would_change_something_is_not(asked: list[str], sql: str) -> None:
    ran = CliRunner().invoke(main, ["query", "--stage", "local", "--", sql])
    assert ran.exit_code == 1
    assert "begin with SELECT" in ran.stderr
    assert asked == []
