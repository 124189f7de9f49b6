"""The training job of the sensors: Step Functions starts it again, under another name and a few minutes later."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lambdas.runtime import clock as clock_module
from lambdas.runtime.clock import ClockFace
from lambdas.sensors.export_training_set.exporting import readings_to_parquet
from lambdas.sensors.stores import Sensor
from overcut.sensors.cohorts import CohortModel, train_cohort
from overcut.sensors.layout import readings_key
from tests.faults.cases import NoTexts, check
from tests.faults.injection import Injector, Kind
from tests.faults.sensors import SensorsWorld, prepared, reuse_clients, stop_wall_clock, tables
from tests.training.test_train_sensors import (
    HYPERPARAMETERS,
    MIDNIGHT,
    TRAINED_AT,
    forget_training,
    readings_of,
)
from training.sensors import train

ATTEMPTS = 2
STARTED = 1_000_000  # when the workflow began, in seconds since 1970
# what a later attempt writes otherwise
_INCIDENTAL = {"effective_from", "job_name"}


class World(NoTexts, SensorsWorld):
    """Four sensors of a kind: one is judged, one is to be clamped, one is young, and one is silent by now."""

    def prepare(self) -> None:
        names = ("fridge-1", "fridge-2", "young", "silent")
        self.cloud.sensors.put([Sensor(name, "device", {}, kind="fridge") for name in names], 16)
        self._train()
        for name in ("fridge-1", "fridge-2"):
            (cutoff,) = self.cloud.cutoffs.newest(name, 1)
            for days in (1, 2, 3):
                ranges = tuple(
                    replace(usual, features={f: self._as_before(name, u) for f, u in usual.features.items()})
                    for usual in cutoff.ranges
                )
                before = replace(cutoff, trained_at=TRAINED_AT - timedelta(days=days), ranges=ranges)
                self.cloud.cutoffs.put([before])
            forget_training(self.cloud, name)
        self.cloud.cutoffs.put([replace(cutoff, sensor_id="silent", trained_at=TRAINED_AT - timedelta(days=3))])

    @staticmethod
    def _as_before(name: str, usual: Any) -> Any:
        """What was usual before: of `fridge-2` a tenth of it."""
        return replace(usual, up=usual.up / 10, down=usual.down / 10) if name == "fridge-2" else usual

    def export(self) -> None:
        self.cloud.data.put(readings_key(MIDNIGHT, 0), _exported())

    def run(self) -> None:
        for attempt in range(ATTEMPTS):
            self.wall = STARTED + 180 * attempt
            self.patch.setenv("TRAINING_JOB_NAME", f"sensors-0123-{attempt}")
            if self.injector.invoke(self._train):
                return
        raise AssertionError("the workflow failed")

    def _train(self) -> None:
        started = datetime.fromtimestamp(STARTED, UTC).isoformat()
        given = {**HYPERPARAMETERS, "window_days": "1", "workflow_started_at": started}
        train.main([part for name, value in given.items() for part in (f"--{name}", value)])

    def outcome(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for sensor in self.items("Sensors"):
            name = sensor["sensor_id"]
            found[f"learning of {name}"] = (sensor.get("learning") or {}).get("readings")
            for number, cutoff in enumerate(self.cloud.cutoffs.newest(name, 9)):
                values = {key: value for key, value in asdict(cutoff).items() if key not in _INCIDENTAL}
                model = self.cloud.data.get(cutoff.model_key) if cutoff.ranges else b""
                found[f"cutoff {number} of {name}"] = (values, hashlib.sha256(model).hexdigest())
        found["events"] = [
            {key: value for key, value in event.items() if key not in _INCIDENTAL}
            for event in self.items("ModelEvents")
        ]
        return found


@cache
def _exported() -> bytes:
    names = ("fridge-1", "fridge-2", "young")
    return readings_to_parquet(one for name in names for one in readings_of(name))[0]


_LEARNED: dict[str, CohortModel] = {}


def _learned_once(patch: pytest.MonkeyPatch) -> None:
    """Training is a function of its arguments and calls nothing: once is enough for each."""

    def once(series: Any, **given: Any) -> CohortModel:
        key = f"{given['cohort_id']} {given['trained_at']}"
        if key not in _LEARNED:
            _LEARNED[key] = train_cohort(series, **given)
        return _LEARNED[key]

    patch.setattr(train, "train_cohort", once)


@contextmanager
def make(injector: Injector, patch: pytest.MonkeyPatch) -> Iterator[World]:
    reuse_clients(patch)
    _learned_once(patch)
    with tables(patch, TRAINING_JOB_NAME="earlier") as (cloud, clock):
        world = World(cloud, clock, injector, patch)
        world.wall = STARTED
        clock.set(ClockFace(origin=TRAINED_AT.timestamp(), wall=STARTED, speed=1.0, ttl_offset=0.0))
        stop_wall_clock(patch, clock_module, world)
        patch.setenv("SM_MODEL_DIR", str(Path(clock.path).parent))
        world.export()
        prepared("train_sensors", injector, world.prepare)
        yield world


@pytest.mark.parametrize("kind", list(Kind))
def test_the_workflow_trains_again(kind: Kind, record_property: Callable[[str, object], None]) -> None:
    check("training of sensors", make, kind, record_property)
