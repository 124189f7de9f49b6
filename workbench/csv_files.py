"""CSV files that people hand in: whatever is wrong with one becomes a sentence that says where, and what to do."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from overcut import RefusedError


@dataclass(frozen=True)
class CsvForm:
    """What one kind of file looks like. A name that ends in `.gz` is compressed.

    Attributes:
        columns: those it must have; it may have more, in any order.
        form: how such a file begins, for the person whose file does not.
        error: what is raised for a file that cannot be used.
    """

    columns: tuple[str, ...]
    form: str
    error: type[RefusedError]

    def read(self, path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
        """The header, and the line number and cells of every row: as many as the header has. Blank lines are skipped.

        Raises:
            `error`: for anything that is no such file, while the rows are read, too.
        """
        lines = self._lines(path)
        header = self._header(path, lines)
        return header, self._rows(path, header, lines)

    def write(self, path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Write the file beside its place and move it there whole: who reads meanwhile sees the old one.

        The same rows give the same bytes (compressed, as far as the machine's zlib is the same).

        Raises:
            `error`: the file cannot be written.
        """
        beside = path.with_name(f".{path.name}.new")
        try:
            with beside.open("wb") as target:
                # without a name and a time in its head, the same rows compress to the same bytes
                binary = gzip.GzipFile("", "wb", fileobj=target, mtime=0) if path.suffix == ".gz" else target
                with io.TextIOWrapper(binary, encoding="utf-8", newline="") as text:
                    writer = csv.writer(text, lineterminator="\n")
                    writer.writerow(header)
                    writer.writerows(rows)
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise self.error(f"{path} cannot be written: {error.strerror or error}") from None

    def _lines(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        try:
            with _open(path) as lines:
                reader = csv.reader(lines, strict=True, skipinitialspace=True)
                for cells in reader:
                    if cells:
                        yield reader.line_num, cells
        except FileNotFoundError:
            raise self.error(f"{path} does not exist; give the path of a CSV file") from None
        except (gzip.BadGzipFile, zlib.error):
            raise self.error(f"{path} is not a gzip file, or is damaged; compress it again or drop .gz") from None
        except EOFError:
            raise self.error(f"{path} ends in the middle of its compressed data; copy it again") from None
        except UnicodeDecodeError:
            raise self.error(
                f"{path} is not a text in UTF-8 (if it is compressed, end its name in .gz); {self.form}"
            ) from None
        except csv.Error as error:
            raise self.error(f"{path} is not a CSV file ({error}); {self.form}") from None
        except OSError as error:
            raise self.error(f"{path} cannot be read: {error.strerror or error}") from None

    def _header(self, path: Path, lines: Iterator[tuple[int, list[str]]]) -> list[str]:
        _, cells = next(lines, (0, None))
        if cells is None:
            raise self.error(f"{path} is empty; {self.form}")
        header = [cell.strip() for cell in cells]
        missing = [name for name in self.columns if name not in header]
        if missing:
            columns = "column" if len(missing) == 1 else "columns"
            has = f"{', '.join(header):.120}"
            raise self.error(f"{path} lacks the {columns} {' and '.join(missing)} (it has {has}); {self.form}")
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise self.error(f"{path} has the column {twice[0]!r} more than once; give every column its own name")
        if "" in header:
            raise self.error(f"{path} has a column without a name; {self.form}")
        return header

    def _rows(
        self, path: Path, header: Sequence[str], lines: Iterator[tuple[int, list[str]]]
    ) -> Iterator[tuple[int, list[str]]]:
        for line, cells in lines:
            if len(cells) != len(header):
                raise self.error(
                    f"{path}, line {line}: {counted(len(cells), 'cell')} where the header has {len(header)}; "
                    "leave a cell empty where there is no value"
                )
            yield line, cells


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _open(path: Path) -> TextIO:
    encoding = "utf-8-sig"  # spreadsheets begin a UTF-8 file with a byte order mark
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=encoding, newline="")
    return path.open(encoding=encoding, newline="")
