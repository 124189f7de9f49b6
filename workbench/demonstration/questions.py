"""The last thing a demonstration shows: a question in SQL, and its answer."""

from rich.console import Console
from rich.table import Table

from workbench.deployed import DeployedPipeline
from workbench.shown import shown


def asked(console: Console, system: DeployedPipeline, sql: str) -> list[dict[str, str | None]]:
    """Ask a deployed pipeline, show the answer, return its rows."""
    answer = system.questions.ask(sql)
    rows = list(answer.rows)
    table = Table(*answer.columns, title=f'overcut query "{shown(" ".join(sql.split()))}"', title_justify="left")
    for row in rows:
        table.add_row(*("-" if value is None else shown(_rounded(value)) for value in row))
    console.print(table)
    return [dict(zip(answer.columns, row, strict=True)) for row in rows]


def _rounded(value: str) -> str:
    """A number with a point as people read it; anything else as it is."""
    try:
        return f"{float(value):.4g}" if "." in value else value
    except ValueError:
        return value
