"""detect_anomalies on the stream: a batch that fails is halved and comes again, and the sweep sends what is owed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from lambdas.sensors.detect_anomalies import handler as detecting
from lambdas.sensors.stores import Sensor
from lambdas.sensors.watch_sensors import handler as watching
from overcut.sensors.models import dump_model
from overcut.sensors.readings import Reading
from tests.faults.cases import MakeWorld, check
from tests.faults.injection import BATCH, Injector, Kind
from tests.faults.sensors import TextingWorld, prepared, reuse_clients, stop_wall_clock, tables
from tests.functional.streams import stream_event
from tests.functional.test_detect_anomalies import CONTACTS, at, hot, trained, usual


class World(TextingWorld):
    """A sensor about which two contacts are texted, and its readings in batches."""

    def prepare(self) -> None:
        sensor = Sensor("a", "device", {"temperature": "C"}, name="", customer="north", site="Aarhus")
        self.cloud.sensors.put([sensor], 16)
        self.cloud.cutoffs.put(trained().cutoffs)

    def store(self, readings: Sequence[Reading]) -> None:
        for reading in readings:
            self.cloud.readings.put([reading], lambda moment: 0, _AtOnce())  # type: ignore[arg-type]  # all it does

    def deliver(self, readings: Sequence[Reading], minute: int, *more: dict[str, Any]) -> None:
        """What the stream does with a batch of stored readings, at a minute after noon."""
        moment = at(minute)
        self.set_clock(moment)
        event = stream_event(self.cloud, readings, written_at=moment)
        self._invoke([*event["Records"], *more])

    def run(self) -> None:
        raise NotImplementedError

    def _invoke(self, records: Sequence[Any]) -> None:
        if self.injector.invoke(lambda: detecting.handler({"Records": records}, None)):
            return
        half = (len(records) + 1) // 2
        for some in filter(None, (records[:half], records[half:])):
            self._invoke(some)


class Opening(World):
    """It becomes abnormal; something that is no reading comes with its readings."""

    def run(self) -> None:
        readings = [*usual(0, 0), *hot(1, 5)]
        self.store(readings)
        self.deliver(readings, 5, {"eventID": "no reading", "dynamodb": {"ApproximateCreationDateTime": 0.0}})
        for minute in (9, 13, 17):
            self.sweep(at(minute))


class Ending(World):
    """It recovers, while late readings show that it had been abnormal before."""

    def prepare(self) -> None:
        super().prepare()
        begins = [*usual(60, 60), *hot(101, 105)]
        self.store(begins)
        self.set_clock(at(105))
        detecting.handler(stream_event(self.cloud, begins, written_at=at(105)), None)
        self.sweep(at(109))

    def run(self) -> None:
        readings = [*hot(1, 5), *usual(140, 140)]
        self.store(readings)
        self.deliver(readings, 140)
        for minute in (144, 148, 152):
            self.sweep(at(minute))


class _AtOnce:
    map = staticmethod(map)


def world_of(kind: type[World]) -> MakeWorld:
    @contextmanager
    def make(injector: Injector, patch: pytest.MonkeyPatch) -> Iterator[World]:
        def cold_start() -> None:
            detecting.dependencies.cache_clear()
            watching.dependencies.cache_clear()

        reuse_clients(patch)
        rules = {"CONSECUTIVE_MINUTES": 5, "RECOVERY_MINUTES": 30, "STALE_AFTER_MINUTES": 30}
        with tables(patch, **rules, CONTACTS=CONTACTS, DEFAULT_CONTACT="day") as (cloud, clock):
            world = kind(cloud, clock, injector, patch)
            model = trained()
            assert model.model
            cloud.data.put(model.cutoffs[0].model_key, dump_model(model.model))
            stop_wall_clock(patch, detecting, world)
            stop_wall_clock(patch, watching, world)
            injector.cold_start = cold_start
            cold_start()
            prepared(f"detect_anomalies {kind.__name__}", injector, world.prepare)
            cold_start()
            yield world
            cold_start()

    return make


@pytest.mark.parametrize("kind", sorted(set(Kind) - BATCH))
@pytest.mark.parametrize("world", [Opening, Ending])
def test_a_batch_that_fails_is_halved_and_comes_again(
    world: type[World], kind: Kind, record_property: Callable[[str, object], None]
) -> None:
    check(f"detect_anomalies ({world.__name__.lower()})", world_of(world), kind, record_property)


opening, ending = world_of(Opening), world_of(Ending)
