"""Questions in SQL, asked of a deployed pipeline's Athena workgroup.

RefusedError
 └─ QuestionError   Athena did not answer; its text is Athena's reason
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overcut import RefusedError

if TYPE_CHECKING:
    from types_boto3_athena import AthenaClient

_LOOK_SECONDS = 0.3
_NAMED = 50  # the most that BatchGetNamedQuery takes

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_NO_TABLE = re.compile(r"Table (?:with name )?['\"]?([\w.-]+)['\"]?!? does not exist", re.IGNORECASE)
_NO_COLUMN = re.compile(r"column ['\"]?([\w.-]+)['\"]? (?:not found|cannot be resolved)", re.IGNORECASE)
_LIBRARY = re.compile(r"^\w+ Error: ")


class QuestionError(RefusedError):
    """Athena did not answer."""


@dataclass(frozen=True)
class NamedQuestion:
    """A question that the stage keeps."""

    name: str
    about: str
    sql: str


@dataclass(frozen=True)
class Answer:
    """A query's rows, read as they are asked for; values as Athena writes them, None for NULL."""

    columns: Sequence[str]
    rows: Iterator[list[str | None]]


@dataclass(frozen=True)
class Questions:
    """One workgroup and the database it asks."""

    client: "AthenaClient"
    work_group: str
    database: str

    def named(self) -> list[NamedQuestion]:
        """The workgroup's named queries, by name."""
        pages = self.client.get_paginator("list_named_queries").paginate(WorkGroup=self.work_group)
        ids = [one for page in pages for one in page["NamedQueryIds"]]
        found = []
        for k in range(0, len(ids), _NAMED):
            answer = self.client.batch_get_named_query(NamedQueryIds=ids[k : k + _NAMED])
            found += [
                NamedQuestion(one["Name"], one.get("Description", ""), one["QueryString"])
                for one in answer["NamedQueries"]
            ]
        return sorted(found, key=lambda one: one.name)

    def ask(self, sql: str) -> Answer:
        """Run one statement to its end.

        Raises:
            QuestionError: it failed, or was stopped.
        """
        context = {"Database": self.database, "Catalog": "AwsDataCatalog"}
        started = self.client.start_query_execution(
            QueryString=sql,
            QueryExecutionContext=context,  # type: ignore[arg-type]
            WorkGroup=self.work_group,
        )["QueryExecutionId"]
        while True:
            status = self.client.get_query_execution(QueryExecutionId=started)["QueryExecution"]["Status"]
            if status["State"] in ("SUCCEEDED", "FAILED", "CANCELLED"):
                break
            time.sleep(_LOOK_SECONDS)
        if status["State"] != "SUCCEEDED":
            reason = in_words(status.get("StateChangeReason", ""))
            raise QuestionError(f"the query {status['State'].lower()}: {reason or 'Athena gives no reason'}")
        pages = iter(self.client.get_paginator("get_query_results").paginate(QueryExecutionId=started))
        first = next(pages)
        columns = [one["Name"] for one in first["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]]

        def rows() -> Iterator[list[str | None]]:
            # of a SELECT's, the first row is the names of its columns
            head = [[cell.get("VarCharValue") for cell in row["Data"]] for row in first["ResultSet"]["Rows"]]
            yield from head[1:] if head[:1] == [columns] else head
            for page in pages:
                yield from ([cell.get("VarCharValue") for cell in row["Data"]] for row in page["ResultSet"]["Rows"])

        return Answer(columns, rows())


def in_words(reason: str) -> str:
    """Why a query failed, by Athena or by what stands for it on the embedded cloud, in one line for people."""
    text = " ".join(_COLOURS.sub("", reason).split())
    if unknown := _NO_TABLE.search(text):
        # neither the catalogue nor the database is anything that was typed
        return f"there is no table {unknown[1].rpartition('.')[2]}; `overcut query --help` names tables and views"
    if unknown := _NO_COLUMN.search(text):
        return f"there is no column {unknown[1]}; SELECT * of the table with LIMIT 1 shows which there are"
    return _LIBRARY.sub("", text)
