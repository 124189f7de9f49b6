"""What a demonstration tells while it goes on: a line a step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

# a number is how much of the whole is done, a text is what goes on now
Advance = Callable[[int | str], None]


@contextmanager
def step(console: Console, what: str) -> Iterator[None]:
    """A line for something that takes a while."""
    with progress(console, what, None):
        yield


@contextmanager
def progress(console: Console, what: str, total: int | None) -> Iterator[Advance]:
    """A line that moves while something goes on and stays when it is done; yields how to advance it."""
    if not console.is_terminal:
        # where a line cannot move, it is printed when it is done
        console.print(f"{what} ...", soft_wrap=True)
    columns = [SpinnerColumn(finished_text="[green]done[/green]"), TextColumn("{task.description}")]
    if total is not None:
        columns += [BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}")]
    columns += [TimeElapsedColumn()]
    with Progress(*columns, console=console) as lines:
        task = lines.add_task(what, total=total)

        def advance(to: int | str) -> None:
            if isinstance(to, str):
                lines.update(task, description=f"{what}: {to}")
            else:
                lines.update(task, completed=to)

        yield advance
        lines.update(task, total=total or 1, completed=total or 1, description=what)
