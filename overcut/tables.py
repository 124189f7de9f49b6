"""Tables for SQL: what the Glue catalogue, and with it Athena and Redshift Spectrum, knows of the data buckets."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of Parquet objects.

    Attributes:
        about: what a row is, in a sentence for people.
        prefix: where its objects lie in the data bucket.
        columns: type by name, as Hive spells it: string, timestamp (UTC), double, bigint, int or boolean.
        by_day: its objects lie in folders `dt=YYYY-MM-DD/`, each a partition `dt` of type date.
    """

    name: str
    about: str
    prefix: str
    columns: Mapping[str, str]
    by_day: bool = True
