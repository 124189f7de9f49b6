"""What another version of Overcut may have stored otherwise is refused, and the docs say which versions are read."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from lambdas.etl_jobs.stores import _entry_from_item, _head_from_item
from lambdas.sensors import stores
from overcut.etl_jobs import model as etl_model
from overcut.etl_jobs.verdicts import Verdict
from overcut.formats import READ_FORMATS, UnknownFormatError
from overcut.sensors import models
from tests.conftest import ROOT
from tests.upgrades.releases import kept

# how each kind of item that a release stored is read, and in which table it lies
ITEMS: dict[str, tuple[str, str, Callable[[Any], object]]] = {
    "reading": ("sensors", "Readings", stores.reading_from_item),
    "sensor": ("sensors", "Sensors", stores._sensor_from_item),
    "source": ("sensors", "Sources", stores._source_from_item),
    "cutoff": ("sensors", "Cutoffs", stores._cutoff_from_item),
    "incident": ("sensors", "Incidents", stores.incident_from_item),
    "incident head": ("sensors", "Incidents", stores._head_from_item),
    "ticket head": ("etl_jobs", "Tickets", _head_from_item),
    "ticket entry": ("etl_jobs", "Tickets", _entry_from_item),
}
MARK = {"incident": "cause", "incident head": "incident_opened_at", "ticket head": "status", "ticket entry": "verdict"}


@pytest.mark.parametrize("kind", ITEMS)
def test_an_item_of_a_newer_format_is_refused(kind: str) -> None:
    pipeline, table, read = ITEMS[kind]
    items = kept()[-1].stored(pipeline).tables[table]
    item = next(one for one in items if MARK.get(kind, "sensor_id" if kind != "source" else "source_id") in one)
    read(item)
    with pytest.raises(UnknownFormatError, match=f"{kind} has format .*2.*, this version of Overcut reads 1: deploy"):
        read({**item, "format": {"N": "2"}})


def test_a_verdict_of_a_newer_format_is_refused() -> None:
    objects = kept()[-1].stored("etl_jobs").objects
    line = next(body.splitlines()[0] for key, body in objects.items() if key.endswith(".jsonl"))
    Verdict.from_json(line)
    with pytest.raises(UnknownFormatError, match="verdict has format 2"):
        Verdict.from_json(json.dumps({**json.loads(line), "format": 2}))


def test_what_is_written_is_read() -> None:
    assert models.FORMAT in READ_FORMATS["model of sensors"]
    assert etl_model.SCHEMA_VERSION in READ_FORMATS["model of ETL jobs"]


def test_the_docs_say_which_formats_are_read() -> None:
    section = (ROOT / "docs" / "reliability.md").read_text().partition("## Upgrades")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    told = {row[0]: tuple(int(version) for version in row[-1].split(", ")) for row in rows if row[-1][:1].isdigit()}
    assert told == READ_FORMATS
