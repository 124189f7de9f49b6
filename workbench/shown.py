"""Text of others in the terminal, and tables that fit it."""

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from overcut.plain_text import visible

# what is left of a column that may be broken anywhere
FOLDED = 20
# the two spaces and the line of a column
_AROUND = 3


def shown(text: str) -> str:
    """`text` for rich's console: in one line, no markup of it, and nothing that the terminal would obey."""
    return escape(visible(text))


def print_table(table: Table, console: Console | None = None) -> None:
    """A table, where its words fit the terminal; else row below row, a line a value, without those that are empty."""
    console = console or Console()
    if sum(_AROUND + _least(column) for column in table.columns) + 1 <= console.width:
        console.print(table)
        return
    for row in zip(*(column.cells for column in table.columns), strict=True):
        values = Table.grid("", Column(overflow="fold"), padding=(0, 2))
        for column, cell in zip(table.columns, row, strict=True):
            if cell not in ("", "-"):
                values.add_row(column.header, cell)
        console.print(values)
        console.print()


def _least(column: Column) -> int:
    """The fewest characters in which a column can be read."""
    texts = [Text.from_markup(str(one)).plain for one in (column.header, *column.cells)]
    if column.no_wrap:
        return max(map(cell_len, texts))
    longest = max((cell_len(word) for text in texts for word in text.split()), default=0)
    return min(longest, FOLDED) if column.overflow == "fold" else longest
