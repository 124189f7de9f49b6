"""What the notebooks of `docs/notebooks` stand on: a folder of Parquet as if it were the bucket, and tables of text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Folder:
    """Objects below a folder of this machine, such as a copy of a data bucket."""

    root: Path

    def put(self, key: str, body: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def get(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with `prefix`, in order."""
        found = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(key for key in found if key.startswith(prefix))


def show(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; numbers with three digits."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row))
    Console(width=110).print(table)
