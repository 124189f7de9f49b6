"""How many readings a second one core judges, and what a score takes beside others: `python -m benchmarks.scoring`.

Detection is the detector of detect_anomalies on batches of a hundred, both channels, histories remembered, with stores
that answer at once (`benchmarks.sensors_detection`). Scoring alone is one forest's score of a point that it has not
learned, as `overcut.sensors.forest` gives it, beside what others give for the same points, after learning the same
ones: the jump and the plateau of a simulated unit's last day, learned from the nine before. A forest has 30 trees of
128 points everywhere; rrcf tells the score of a point only by taking it into every tree and out again, as its manual
does.
"""

import json
import pickle
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sensors_detection
from benchmarks.measured import Row, in_a_process, ratio, rounds, spread, write
from overcut.sensors.features import WINDOW, jump, plateau
from overcut.sensors.forest import ForestParameters, dump_forest, forest_score, load_forest, train_forest
from workbench.simulate import MEASURE, Faults, simulate_fleet

ROUNDS, DAYS, MINUTES = 5, 10, 1_440
TREES, SAMPLES = ForestParameters().num_trees, ForestParameters().num_samples_per_tree
OURS, JAVA, RRCF = "Overcut (krcf)", "AWS's Java (jrcf)", "rrcf"
# what is allocated by Rust and Java is seen only in the process's size
NOT_TRACED = (OURS, JAVA)
Points = Sequence[Sequence[float]]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder) / "trained.pickle"
        trained.write_bytes(pickle.dumps(sensors_detection._trained()))
        detected = [in_a_process(["benchmarks.sensors_detection", str(trained)]) for _ in range(ROUNDS)]
    found = rounds(list(WAYS), ["benchmarks.scoring"], ROUNDS)
    tables = {"Detection, all but the network:": _detection(detected), "Scoring alone:": _scoring(found)}
    write("scoring", tables, ["jrcf", "krcf", "numpy", "pyod", "river", "rrcf", "scikit-learn"])


def _detection(found: Sequence[Mapping[str, float]]) -> list[Row]:
    return [
        {"histories": histories, "readings a second of one core": spread(100_000 / one[figure] for one in found)}
        for histories, figure in {
            "remembered": "milliseconds for 100 readings, histories cached",
            "read for every reading": "milliseconds for 100 readings, every history fetched",
        }.items()
    ]


def _scoring(found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Row]:
    taken = {way: [one["microseconds"] for one in of_way] for way, of_way in found.items()}
    return [
        {
            "way": way,
            "µs a score": spread(taken[way]),
            "times Overcut's": ratio(taken[way], taken[OURS]),
            "KB a model": spread(one["kilobytes"] for one in found[way]),
            "models for 5,000 sensors of a kind": 1 if way == OURS else 5_000,
        }
        for way in WAYS
    ]


def points() -> tuple[Points, Points]:
    """What is learned, and what is scored; each of shape (minutes, 2)."""
    begins = datetime(2026, 1, 5, tzinfo=UTC)
    readings, _ = simulate_fleet(sensors=1, days=DAYS, seed=1, started_at=begins, faults=Faults(per_sensor=0))
    values = [reading.values[MEASURE] for reading in readings]
    windows = (values[k - WINDOW : k] for k in range(WINDOW, len(values)))
    found = [[jump(window) or 0.0, plateau(window) or 0.0] for window in windows]
    return found[:-MINUTES], found[-MINUTES:]


# the ways: each learns points, and gives what scores others, all of them, one by one or at once


def ours(learned: Points) -> Callable[[Points], object]:
    parameters = ForestParameters()
    # as the function has it
    forest = load_forest(dump_forest(train_forest(learned, 2, parameters=parameters, seed=1)))
    return lambda scored: [forest_score(forest, point) for point in scored]


def with_jrcf(learned: Points) -> Callable[[Points], object]:
    from jrcf.rcf import RandomCutForestModel

    forest = RandomCutForestModel(
        dimensions=2, shingle_size=1, num_trees=TREES, sample_size=SAMPLES, output_after=1, random_seed=1, lam=0.0
    )
    for one in learned:
        forest.update(one)
    return lambda scored: [forest.score(one) for one in scored]


def with_rrcf(learned: Points) -> Callable[[Points], object]:
    import rrcf

    random = np.random.default_rng(1)
    known = np.array(learned)
    forest = [rrcf.RCTree(known[random.choice(len(known), SAMPLES, replace=False)]) for _ in range(TREES)]

    def score(point: Sequence[float]) -> float:
        total = 0.0
        for tree in forest:
            tree.insert_point(point, index="scored")
            total += tree.codisp("scored")
            tree.forget_point("scored")
        return total / TREES

    return lambda scored: [score(point) for point in scored]


def half_space_trees(learned: Points) -> Callable[[Points], object]:
    from river.anomaly import HalfSpaceTrees

    low, high = np.min(learned, axis=0), np.max(learned, axis=0)
    limits: Any = {name: (float(low[k]), float(high[k])) for k, name in enumerate(("jump", "plateau"))}
    forest: Any = HalfSpaceTrees(n_trees=TREES, window_size=SAMPLES, limits=limits, seed=1)
    for one in learned:
        forest.learn_one({"jump": one[0], "plateau": one[1]})
    return lambda scored: [forest.score_one({"jump": one[0], "plateau": one[1]}) for one in scored]


def isolation_forest(learned: Points) -> Any:
    from sklearn.ensemble import IsolationForest

    return IsolationForest(n_estimators=TREES, max_samples=SAMPLES, random_state=1).fit(learned).score_samples


def pyod_iforest(learned: Points) -> Any:
    from pyod.models.iforest import IForest

    forest = IForest(n_estimators=TREES, max_samples=SAMPLES, random_state=1)
    forest.fit(np.array(learned))
    return lambda scored: forest.decision_function(np.array(scored))


def one_by_one(make: Callable[[Points], Any]) -> Callable[[Points], Callable[[Points], object]]:
    def made(learned: Points) -> Callable[[Points], object]:
        score = make(learned)
        return lambda scored: [score([point]) for point in scored]

    return made


def by_hundreds(make: Callable[[Points], Any]) -> Callable[[Points], Callable[[Points], object]]:
    def made(learned: Points) -> Callable[[Points], object]:
        score = make(learned)
        return lambda scored: [score(scored[k : k + 100]) for k in range(0, len(scored), 100)]

    return made


WAYS: Mapping[str, Callable[[Points], Callable[[Points], object]]] = {
    OURS: ours,
    JAVA: with_jrcf,
    RRCF: with_rrcf,
    "river HalfSpaceTrees": half_space_trees,
    "scikit-learn IsolationForest": one_by_one(isolation_forest),
    "scikit-learn IsolationForest, 100 at once": by_hundreds(isolation_forest),
    "pyod IForest": one_by_one(pyod_iforest),
    "pyod IForest, 100 at once": by_hundreds(pyod_iforest),
}


def measure(way: str) -> dict[str, float]:
    """What a score of a way takes."""
    from threadpoolctl import threadpool_limits

    learned, scored = points()
    WAYS[way](learned[:1_000])(scored[:500])  # whatever it imports and compiles
    tracemalloc.start()
    score = WAYS[way](learned)
    kilobytes = tracemalloc.get_traced_memory()[0] / 1024
    tracemalloc.stop()
    if way in NOT_TRACED:
        kilobytes = _grown(lambda: WAYS[way](learned))
    with threadpool_limits(1):
        used = time.process_time()
        score(scored)
        used = time.process_time() - used
    return {"microseconds": 1e6 * used / len(scored), "kilobytes": kilobytes}


def _grown(make: Callable[[], object], times: int = 30) -> float:
    """By how many kilobytes this process grows with each of what `make` makes."""
    before = sensors_detection._resident()
    kept = [make() for _ in range(times)]
    return 1024 * (sensors_detection._resident() - before) / len(kept)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(measure(sys.argv[1])))
    else:
        main()
