"""What is asked about in SQL beside readings: cutoffs by the day of their training, the rest as it is now."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from lambdas.runtime.catalog import Catalog
from lambdas.runtime.parquet import to_parquet
from lambdas.sensors.stores import CutoffsStore, IncidentsStore, KnownIncident, ModelEventsStore, Sensor, SensorsStore
from overcut.sensors.cutoffs import Cutoff
from overcut.sensors.readings import parse_time
from overcut.sensors.tables import CUTOFFS, INCIDENTS, MODEL_EVENTS, READINGS, SENSORS
from overcut.tables import Table

# two nights may fail
CUTOFF_DAYS = timedelta(days=3)


@dataclass(frozen=True)
class TablesExporter:
    """Copies DynamoDB's tables to the data bucket, and registers days."""

    sensors: SensorsStore
    cutoffs: CutoffsStore
    model_events: ModelEventsStore
    incidents: IncidentsStore
    catalog: Catalog

    def export_cutoffs(self, bucket: int, now: datetime, last: timedelta = CUTOFF_DAYS) -> int:
        """Write what the sensors of one bucket were given in the last days, a day an object; how many cutoffs."""
        first = datetime.combine((now - last).astimezone(UTC).date(), time(), UTC)
        # rows, since a cutoff is many times the size: what its sensor usually shows is not asked about
        by_day: dict[date, list[dict[str, Any]]] = {}
        for sensor_id in self.sensors.ids_in_bucket(bucket):
            for cutoff in self.cutoffs.trained_after(sensor_id, first - timedelta(seconds=1)):
                by_day.setdefault(cutoff.trained_at.astimezone(UTC).date(), []).append(_cutoff_row(cutoff))
        for day, rows in by_day.items():
            key = f"{CUTOFFS.prefix}dt={day.isoformat()}/{bucket:04d}.parquet"
            self.catalog.bucket.put(key, to_parquet(rows, CUTOFFS.columns))
        return sum(map(len, by_day.values()))

    def export_now(self) -> int:
        """Write what there is now of what changes, each table as one object, and register days; how many rows."""
        written = sum(
            self._snapshot(table, rows)
            for table, rows in (
                (INCIDENTS, map(_incident_row, self.incidents.known())),
                (MODEL_EVENTS, map(_model_event_row, self.model_events.all())),
                (SENSORS, map(_sensor_row, self.sensors.all())),
            )
        )
        for table in (READINGS, CUTOFFS):
            self.catalog.register_days(table)
        return written

    def _snapshot(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> int:
        count = 0

        def counted() -> Iterator[Mapping[str, Any]]:
            nonlocal count
            for row in rows:
                count += 1
                yield row

        self.catalog.bucket.put(f"{table.prefix}{table.name}.parquet", to_parquet(counted(), table.columns))
        return count


def _cutoff_row(cutoff: Cutoff) -> dict[str, Any]:
    told = {"interval_seconds": cutoff.interval.total_seconds(), "is_retired": not cutoff.ranges}
    return told | {name: getattr(cutoff, name) for name in CUTOFFS.columns if name not in told}


def _incident_row(known: KnownIncident) -> dict[str, Any]:
    one = known.incident
    sent = sorted(text.sent_at for text in one.texts.values() if text.sent_at)
    told = {
        "label": known.label or None,
        "is_contradicted": known.is_contradicted,
        "texts_sent": len(sent),
        "first_text_at": sent[0] if sent else None,
    }
    for part in (one.equipment, one.cause, one):
        told |= {name: getattr(part, name) for name in INCIDENTS.columns if name not in told and hasattr(part, name)}
    return told


def _model_event_row(event: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: event.get(name) for name in MODEL_EVENTS.columns}
    return {**texts, "occurred_at": parse_time(event["occurred_at"]), "details": json.dumps(event, sort_keys=True)}


def _sensor_row(sensor: Sensor) -> dict[str, Any]:
    learning = {"is_learning": sensor.learning is not None}
    return learning | {name: getattr(sensor, name) for name in SENSORS.columns if name not in learning}
