"""What another version of Overcut may have stored otherwise is refused, and the docs say which versions are read."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lambdas.etl_jobs.stores import _entry_from_item, _head_from_item
from lambdas.sensors import stores
from lambdas.sensors.stores import KnownIncident, Link, incident_entry
from overcut.etl_jobs import model as etl_model
from overcut.etl_jobs.verdicts import Verdict
from overcut.formats import READ_FORMATS, UnknownFormatError
from overcut.sensors import models
from overcut.sensors.alerts import Budget
from overcut.sensors.incidents import Answer, Response
from tests.conftest import ROOT, synthesized
from tests.functional.conftest import sensors_cloud
from tests.functional.test_watch_sensors import MINUTE, NOON, alert, open_incident
from tests.upgrades.releases import kept
from tests.upgrades.stored import Stored, sensors_pipeline, write_sensors

# where each kind of item lies, an attribute that no other item of the table has, and how it is read
ITEMS: dict[str, tuple[str, str, str, Callable[[Any], object]]] = {
    "reading": ("sensors", "Readings", "values", stores.reading_from_item),
    "sensor": ("sensors", "Sensors", "sensor_id", stores._sensor_from_item),
    "source": ("sensors", "Sources", "source_id", stores._source_from_item),
    "cutoff": ("sensors", "Cutoffs", "ranges", stores._cutoff_from_item),
    "incident": ("sensors", "Incidents", "cause", stores.incident_from_item),
    "incident head": ("sensors", "Incidents", "incident_opened_at", stores._head_from_item),
    "ticket head": ("etl_jobs", "Tickets", "status", _head_from_item),
    "ticket entry": ("etl_jobs", "Tickets", "verdict", _entry_from_item),
}


def items(stored: Stored, kind: str) -> list[dict[str, Any]]:
    """The items of a kind that a pipeline stored."""
    _, table, mark, _ = ITEMS[kind]
    return [item for item in stored.tables[table] if mark in item]


@pytest.mark.parametrize("kind", ITEMS)
def test_an_item_of_a_newer_format_is_refused(kind: str) -> None:
    pipeline, _, _, read = ITEMS[kind]
    item = items(kept()[-1].stored(pipeline), kind)[0]
    read(item)
    newer, known = READ_FORMATS[kind][-1] + 1, " and ".join(map(str, READ_FORMATS[kind]))
    refusal = f"{kind} has format .*{newer}.*, this version of Overcut reads {known}: deploy"
    with pytest.raises(UnknownFormatError, match=refusal):
        read({**item, "format": {"N": str(newer)}})


def test_what_lies_beside_incidents_is_refused_in_a_newer_format(monkeypatch: pytest.MonkeyPatch) -> None:
    with sensors_cloud(synthesized("local"), monkeypatch) as cloud:
        budget, store = Budget(20, 500), cloud.incidents
        store.put_link("token", Link("day", [("a", "2026-01-05T12:00:00Z")], ["Unit a"], "nonce", 2_000_000))
        store.hold_back([], "alert#day", NOON)
        store.spend("night", NOON, budget)
        reads: list[tuple[str, Callable[[], object]]] = [
            ("link", lambda: store.link("token", 1_000_000)),
            ("texts of a contact", lambda: store.permit_digest("day", NOON, budget)),
            ("texts of a contact", lambda: store.permit_digest("night", NOON, budget)),
        ]
        for _, read in reads:
            read()
        for item in cloud.dynamodb.scan(TableName=store.table)["Items"]:
            cloud.dynamodb.put_item(TableName=store.table, Item={**item, "format": {"N": "2"}})
        for kind, read in reads:
            with pytest.raises(UnknownFormatError, match=f"{kind} has format 2.*, this version of Overcut reads 1:"):
                read()


def test_an_incident_that_was_snoozed_is_not_misread_by_a_release_without_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with sensors_cloud(synthesized("local"), monkeypatch) as cloud:
        known = KnownIncident(open_incident(cloud, "a", alert()), "", is_contradicted=False)
        cloud.incidents.put_link("token", Link("day", [incident_entry(known.incident)], ["Unit a"], "1", 2_000_000))
        for nonce, answer, found in (("1", Answer.ON_IT, 1), ("2", Answer.SNOOZE, 2), ("3", Answer.ON_IT, 2)):
            response = Response(answer, "day", NOON, NOON + MINUTE if answer is Answer.SNOOZE else None)
            assert cloud.incidents.respond("token", nonce, str(int(nonce) + 1), [known], response, 1_000_000)
            (item,) = [one for one in cloud.dynamodb.scan(TableName="Incidents")["Items"] if "cause" in one]
            assert item.get("format", {"N": "1"}) == {"N": str(found)}
            assert stores.incident_from_item(item).response == response


def test_a_verdict_of_a_newer_format_is_refused() -> None:
    objects = kept()[-1].stored("etl_jobs").objects
    line = next(body.splitlines()[0] for key, body in objects.items() if key.endswith(".jsonl"))
    Verdict.from_json(line)
    with pytest.raises(UnknownFormatError, match="verdict has format 2"):
        Verdict.from_json(json.dumps({**json.loads(line), "format": 2}))


def test_a_changed_shape_has_another_format(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An older release does not know an attribute that was added, and misses one that is gone."""
    old = kept()[-1].stored("sensors")
    with sensors_pipeline(monkeypatch, tmp_path) as pipeline:
        new = write_sensors(pipeline)
    for kind in (name for name, (pipeline_name, *_) in ITEMS.items() if pipeline_name == "sensors"):
        before, after = shapes(items(old, kind)), shapes(items(new, kind))
        assert before
        assert all(shape in before or "format" in shape for shape in after), (kind, before ^ after)


def shapes(found: list[dict[str, Any]]) -> set[frozenset[str]]:
    """The attributes that items have, with their types."""
    return {frozenset(_attributes(item)) for item in found}


def _attributes(item: dict[str, Any]) -> Iterator[str]:
    for name, attribute in item.items():
        ((kind, inner),) = attribute.items()
        yield name if name == "format" else f"{name}: {kind}"
        if name in ("equipment", "cause", "learning"):
            yield from (f"{name}.{path}" for path in _attributes(inner))


def test_what_is_written_is_read() -> None:
    assert models.FORMAT in READ_FORMATS["model of sensors"]
    assert etl_model.SCHEMA_VERSION in READ_FORMATS["model of ETL jobs"]


def test_the_docs_say_which_formats_are_read() -> None:
    section = (ROOT / "docs" / "reliability.md").read_text().partition("## Upgrades")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    told = {row[0]: tuple(int(version) for version in row[-1].split(", ")) for row in rows if row[-1][:1].isdigit()}
    assert told == READ_FORMATS
