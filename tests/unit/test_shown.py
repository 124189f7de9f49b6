"""Tables in a terminal: as one where they fit, else row below row."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from workbench.shown import print_table, shown

NAMES = [f"column_{k}" for k in range(11)]


def printed(table: Table, width: int) -> list[str]:
    output = io.StringIO()
    print_table(table, Console(file=output, width=width))
    return output.getvalue().splitlines()


def wide() -> Table:
    table = Table(*NAMES)
    table.add_row(*(f"value-{k}" for k in range(11)))
    table.add_row("[bold]", "", "-", *(f"other-{k}" for k in range(3, 11)))
    return table


def test_a_table_that_fits_stays_one() -> None:
    lines = printed(wide(), 160)
    assert lines[0].startswith("┏")
    assert len(lines) == 6


def test_one_that_does_not_is_told_a_line_a_value_and_no_word_is_broken() -> None:
    lines = printed(wide(), 80)
    first = lines[: lines.index("")]
    assert [line.split() for line in first] == [[name, f"value-{k}"] for k, name in enumerate(NAMES)]
    second = lines[len(first) + 1 :]
    # what is empty is left out
    assert [line.split()[0] for line in second if line] == [NAMES[0], *NAMES[3:]]
    assert max(map(len, lines)) <= 80


def test_what_others_wrote_stays_text_in_either_form() -> None:
    table = Table(*NAMES)
    table.add_row(*(shown("[red]x[/red]") for _ in NAMES))
    for width in (80, 200):
        assert "\n".join(printed(table, width)).count("[red]x[/red]") == 11


@pytest.mark.parametrize(("overflow", "is_table"), [("fold", True), ("ellipsis", False)])
def test_a_long_word_is_broken_only_where_a_column_may_be(overflow: str, is_table: bool) -> None:
    table = Table("reference")
    table.add_column("what", overflow=overflow)  # type: ignore[arg-type]
    table.add_row("abcdef", "x" * 200)
    lines = printed(table, 80)
    assert lines[0].startswith("┏") is is_table
    assert "".join(lines).count("x") == 200
