"""watch_sensors, which a schedule starts every minute: whatever breaks, the next minute is the retry."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lambdas.sensors.watch_sensors import handler as watching
from overcut.sensors.incidents import IncidentState
from tests.faults.cases import check
from tests.faults.injection import Injector, Kind
from tests.faults.sensors import TextingWorld, prepared, reuse_clients, stop_wall_clock, tables
from tests.functional.test_watch_sensors import MINUTE, NOON, alert, open_incident, recovery


class World(TextingWorld):
    """Texts that are owed: about two of one site, to two contacts, and about the beginning and the end of one."""

    def prepare(self) -> None:
        open_incident(self.cloud, "a", alert())
        open_incident(self.cloud, "b", alert("day"), alert("night"))
        over = {"state": IncidentState.RECOVERED, "recovered_at": NOON + 30 * MINUTE}
        open_incident(self.cloud, "c", alert(), recovery(), site="Como", **over)

    def run(self) -> None:
        for minute in (1, 4, 7, 10):
            self.sweep(NOON + minute * MINUTE, with_faults=minute < 7)
        if len(self.injector.struck) > 1:
            self.sweep(NOON + 13 * MINUTE)


@contextmanager
def make(injector: Injector, patch: pytest.MonkeyPatch) -> Iterator[World]:
    reuse_clients(patch)
    with tables(patch) as (cloud, clock):
        world = World(cloud, clock, injector, patch)
        injector.cold_start = watching.dependencies.cache_clear
        stop_wall_clock(patch, watching, world)
        injector.cold_start()
        prepared("watch_sensors", injector, world.prepare)
        yield world
        injector.cold_start()


@pytest.mark.parametrize("kind", list(Kind))
def test_the_next_minute_is_the_retry(kind: Kind, record_property: Callable[[str, object], None]) -> None:
    check("watch_sensors", make, kind, record_property)
