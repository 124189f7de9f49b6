"""export_training_set, one bucket: Step Functions tries it six times, and every hour begins anew."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from lambdas.sensors.export_training_set import handler as exporting
from lambdas.sensors.stores import Sensor
from tests.faults.cases import ATTEMPTS, NoTexts, check
from tests.faults.injection import Injector, Kind
from tests.faults.sensors import SensorsWorld, prepared, reuse_clients, tables
from tests.functional.test_export_training_set import IN_BUCKET_1, MINUTE, NOON, reading


class World(NoTexts, SensorsWorld):
    """Two hours of which an earlier one is to be exported again, and the hour after."""

    def prepare(self) -> None:
        self.cloud.sensors.put([Sensor(IN_BUCKET_1, "device", {})], 2)
        for minute in (-150, -30, 30):
            self.cloud.readings.put([reading(minute)], lambda moment: 0, _AtOnce())  # type: ignore[arg-type]
        self.cloud.pending.mark([(1, NOON - timedelta(hours=3))], "late")

    def run(self) -> None:
        for minute in (5, 65):
            self._execution(NOON + minute * MINUTE)

    def _execution(self, now: datetime) -> None:
        for attempt in range(ATTEMPTS):
            self.set_clock(now + timedelta(seconds=5 * attempt))
            if self.injector.invoke(lambda: exporting.handler({"bucket": 1}, None)):
                return
        raise AssertionError("the workflow failed")

    def outcome(self) -> dict[str, Any]:
        data = self.cloud.data
        return {
            "objects": {key: hashlib.sha256(data.get(key)).hexdigest() for key in data.keys("readings/")},
            "pending": [hour for hour, _ in self.cloud.pending.of(1)],
            "exported until": self.cloud.pending.exported_until(1),
        }


class _AtOnce:
    map = staticmethod(map)


@contextmanager
def make(injector: Injector, patch: pytest.MonkeyPatch) -> Iterator[World]:
    reuse_clients(patch)
    with tables(patch) as (cloud, clock):
        world = World(cloud, clock, injector, patch)
        injector.cold_start = exporting.dependencies.cache_clear
        injector.cold_start()
        prepared("export_training_set", injector, world.prepare)
        yield world
        injector.cold_start()


@pytest.mark.parametrize("kind", list(Kind))
def test_the_workflow_tries_again(kind: Kind, record_property: Callable[[str, object], None]) -> None:
    check("export_training_set", make, kind, record_property)
