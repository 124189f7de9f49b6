"""`overcut query` asks, and changes nothing."""

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from workbench import query_command
from workbench.cli import main
from workbench.questions import Answer, in_words


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


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            "TABLE_NOT_FOUND: line 1:15: Table 'awsdatacatalog.overcut_dev_sensors.reading' does not exist",
            "there is no table reading; `overcut query --help` names tables and views",
        ),
        (
            'Catalog Error: Table with name "dev.reading" does not exist because schema "dev" does not exist.',
            "there is no table reading; `overcut query --help` names tables and views",
        ),
        (
            "Catalog Error: Table with name reading does not exist!\nDid you mean?",
            "there is no table reading; `overcut query --help` names tables and views",
        ),
        (
            "COLUMN_NOT_FOUND: line 1:8: Column 'nope' cannot be resolved or requester is not authorized",
            "there is no column nope; SELECT * of the table with LIMIT 1 shows which there are",
        ),
        (
            'Binder Error: Referenced column "nope" not found in FROM clause!',
            "there is no column nope; SELECT * of the table with LIMIT 1 shows which there are",
        ),
        ("Expecting ). Line 1, Col: 9.\n  SELECT \x1b[4m(\x1b[0m1", "Expecting ). Line 1, Col: 9. SELECT (1"),
        ("line 1:8: mismatched input 'FROM'", "line 1:8: mismatched input 'FROM'"),
    ],
)
def test_why_a_query_failed_is_told_in_words(reason: str, told: str) -> None:
    assert in_words(reason) == told
