"""How much time and memory detection takes: `python -m benchmarks.sensors_detection`.

Five thousand sensors in ten cohorts, each with two versions of its model, are judged in batches of a hundred by the
detector as detect_anomalies makes it, in a process of its own that has imported no more than the function does. The
tables are stand-ins that answer at once with what the real ones hold, so that what is told is the function's own part:
what botocore takes to read the answer to a `Query` comes on top.
"""

import json
import math
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, cast

SENSORS, COHORTS, BATCH, REMEMBERED = 5_000, 10, 100, 700
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder) / "trained.pickle"
        trained.write_bytes(pickle.dumps(_trained()))
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, str(trained)], check=True, capture_output=True, text=True
        )
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value")
    for name, value in json.loads(done.stdout).items():
        table.add_row(name, f"{value:.1f}")
    Console().print(table)


def _trained() -> dict[str, Any]:
    """Of each cohort and version the model, and a cutoff as its item."""
    import numpy as np

    from lambdas.sensors.stores import _cutoff_item
    from overcut.sensors.cohorts import SensorSeries, TrainingRules, train_cohort
    from overcut.sensors.models import dump_model

    found: dict[str, Any] = {"models": {}, "cutoffs": {}}
    for cohort in range(COHORTS):
        for version, days in enumerate((2, 1)):
            times = np.array([60 * k for k in range(1_440)])
            series = [SensorSeries(f"{k}", times, np.array([[_value(k, m)] for m in range(1_440)])) for k in range(3)]
            model = train_cohort(
                series,
                cohort_id=f"kind-{cohort}",
                measures=["temperature"],
                rules=TrainingRules(),
                trained_at=NOW - timedelta(days=days),
                seed=cohort * 2 + version,
            )
            if model.model is None:
                raise RuntimeError("nothing was learned")
            found["models"][model.cutoffs[0].model_key] = dump_model(model.model)
            found["cutoffs"].setdefault(cohort, []).append(_cutoff_item(model.cutoffs[0]))
    return found


@cache
def _value(sensor: int, minute: int) -> float:
    return round(4 + math.sin(minute / 3 + sensor) / 2 + random.Random(minute * 5_003 + sensor).gauss(0, 0.08), 1)


def measure(trained: Path) -> dict[str, float]:
    from lambdas.runtime.clock import SystemClock
    from lambdas.sensors.detect_anomalies.detection import AlertRules, Arrival, Detector, Judge
    from lambdas.sensors.stores import _cutoff_from_item
    from overcut.sensors.alerts import Budget
    from overcut.sensors.incidents import RunRule
    from overcut.sensors.readings import Reading

    made = pickle.loads(trained.read_bytes())  # noqa: S301 - this program wrote it

    class Clock(SystemClock):
        def now(self) -> datetime:
            return NOW

    class Tables:
        """The stores, as far as quiet sensors need them."""

        def newest(self, sensor_id: str, count: int) -> list[Any]:
            items = made["cutoffs"][int(sensor_id) % COHORTS]
            return [_cutoff_from_item({**item, "sensor_id": {"S": sensor_id}}) for item in reversed(items)]

        def get(self, key: str) -> bytes:
            return cast(bytes, made["models"][key])

        def head(self, sensor_id: str, kind: str) -> None:
            return None

        def before(self, sensor_id: str, moment: datetime, count: int) -> list[Reading]:
            last = round((moment - NOW) / MINUTE)
            return [_reading(sensor_id, minute) for minute in range(last - count, last)]

        def between(self, sensor_id: str, first: datetime, last: datetime) -> list[Reading]:
            return [_reading(sensor_id, round((first - NOW) / MINUTE))]

    def _reading(sensor_id: str, minute: int) -> Reading:
        return Reading(sensor_id, NOW + minute * MINUTE, {"temperature": _value(int(sensor_id) % 3, minute + 10_000)})

    class Nowhere:
        def count(self, outcome: str, number: int = 1) -> None: ...

        def info(self, event: str, **fields: object) -> None: ...

    tables, rule = cast(Any, Tables()), RunRule()
    detector = Detector(
        readings=tables,
        sensors=tables,
        incidents=tables,
        judge=Judge(tables, tables, rule, REMEMBERED),
        measures_remembered=REMEMBERED,
        phone=tables,
        clock=Clock(),
        rule=rule,
        alert_rules=AlertRules([], "", timedelta(minutes=30), timedelta(minutes=3), 90, Budget(20, 500)),
        outcomes=Nowhere(),
    )

    def batch(first: int, minute: int) -> Sequence[Arrival]:
        readings = [_reading(str(first + k), minute) for k in range(BATCH)]
        return [Arrival(reading, NOW) for reading in readings]

    fetched: list[float] = []
    cached: list[float] = []
    begins = _resident()
    # then again and again those that are still remembered; the first time some are read once more
    for minute, times in ((0, fetched), (1, []), (2, cached), (3, cached), (4, cached)):
        order = range(0, SENSORS, BATCH) if minute == 0 else range(SENSORS - REMEMBERED, SENSORS, BATCH)
        for first in order:
            arrivals = batch(first, minute)
            before = time.process_time()
            list(detector.detect(arrivals, 0))
            times.append((time.process_time() - before) * 1_000)
    remembered = len(detector._histories._of)
    return {
        "milliseconds for 100 readings, every history fetched": sorted(fetched)[len(fetched) // 2],
        "milliseconds for 100 readings, histories cached": sorted(cached)[len(cached) // 2],
        "sensors remembered": float(remembered),
        "megabytes before": begins,
        "megabytes after": _resident(),
        "numpy imported": float("numpy" in sys.modules),
    }


def _resident() -> float:
    """Megabytes of this process, as Linux tells them."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(measure(Path(sys.argv[1]))))
    else:
        main()
