"""Athena: what ministack's lacks, which asks DuckDB.

The SQL is Trino's and is translated; a view is what its SELECT gives; of a partitioned table only registered partitions
are read, and of each row the catalogue's columns, in its types.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, cast

import sqlglot
from ministack.services import athena, glue
from ministack.services.cloudformation import provisioners
from sqlglot import exp

_VIEW = "/* Presto View: "


def register() -> None:
    """Put it in the way of ministack's queries."""
    rewrite, relation = athena._rewrite_data_paths, athena._table_relation

    async def rewrite_translated(query: str, database: str, catalog: str | None = None) -> Any:
        return await rewrite(_translated(query, database or "default"), database, catalog)

    def relation_as_catalogued(table: Mapping[str, Any], files: Sequence[str]) -> str:
        registered = list(_registered(table, files))
        if not registered:
            return str(athena._empty_relation(table))
        rows = str(relation(table, registered))
        is_parquet = rows.startswith("read_parquet")
        return f"(SELECT {', '.join(_columns(table))} FROM {rows})" if is_parquet else rows  # noqa: S608 - a catalogue's

    athena._rewrite_data_paths = rewrite_translated
    athena._table_relation = relation_as_catalogued
    provisioners._RESOURCE_HANDLERS["AWS::Athena::NamedQuery"] = {
        "create": _create_named_query,
        "update": _update_named_query,
        "delete": _delete_named_query,
    }


def _create_named_query(logical_id: str, properties: Mapping[str, Any], stack: str) -> tuple[str, dict[str, str]]:
    made = json.loads(athena._create_named_query(properties)[2])["NamedQueryId"]
    return made, {"NamedQueryId": made}


def _update_named_query(
    query_id: str, before: Mapping[str, Any], properties: Mapping[str, Any], stack: str
) -> tuple[str, dict[str, str]]:
    """What a named query holds cannot be changed: another takes its place."""
    _delete_named_query(query_id, before)
    return _create_named_query("", properties, stack)


def _delete_named_query(query_id: str, properties: Mapping[str, Any]) -> None:
    athena._delete_named_query({"NamedQueryId": query_id})


def _translated(query: str, database: str) -> str:
    """A query of Trino's as DuckDB takes it, without views; what is no query stays as it is."""
    statement = sqlglot.parse_one(query, read="trino")
    if not isinstance(statement, exp.Query):
        return query
    return _without_views(statement, database).sql(dialect="duckdb")


def _without_views(statement: exp.Query, database: str) -> exp.Query:
    named = {one.alias_or_name for one in statement.find_all(exp.CTE)}
    for table in list(statement.find_all(exp.Table)):
        if not table.db and table.name in named:
            continue
        known = glue._tables.get(f"{table.db or database}/{table.name}", {})
        if known.get("TableType") == "VIRTUAL_VIEW":
            text = known["ViewOriginalText"].removeprefix(_VIEW).removesuffix(" */")
            view = json.loads(base64.b64decode(text))
            select = cast(exp.Query, sqlglot.parse_one(view["originalSql"], read="trino"))
            table.replace(_without_views(select, view["schema"]).subquery(table.alias or table.name))
        else:
            table.set("db", exp.to_identifier(table.db or database))
    return statement


def _registered(table: Mapping[str, Any], files: Sequence[str]) -> Iterable[str]:
    """The files that lie in a registered partition; all of them where a table has none."""
    if not table.get("PartitionKeys"):
        return files
    partitions = glue._partitions.get(f"{table['DatabaseName']}/{table['Name']}", [])
    names = [key["Name"] for key in table["PartitionKeys"]]
    folders = [[f"{name}={value}" for name, value in zip(names, one["Values"], strict=True)] for one in partitions]
    return (file for file in files if any(set(folder) <= set(PurePath(file).parts) for folder in folders))


def _columns(table: Mapping[str, Any]) -> Iterable[str]:
    """The catalogue's columns in its types; a timestamp is UTC and without a zone, as Athena has it."""
    for column in [*table["StorageDescriptor"]["Columns"], *(table.get("PartitionKeys") or [])]:
        name = f'"{column["Name"]}"'
        typed = f"CAST({name} AS {athena._duckdb_type(column)})"
        yield f"{f'make_timestamp(epoch_us({name}))' if column['Type'] == 'timestamp' else typed} AS {name}"
