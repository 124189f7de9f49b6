"""A forest's scores of job runs, with numpy and with scikit-learn: `python -m benchmarks.prediction`.

The same forest both times, grown by scikit-learn from a third of a year of 200 simulated jobs: as arrays, as
predict_anomalies has it, and pickled, which takes scikit-learn to load. A way is a process of its own that imports what
it needs, loads the forest and scores as many runs as a bucket has in an hour, then a thousand.
"""

import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measured import peak_mb, ratio, rounds, spread, write

ROUNDS, JOBS, DAYS, FEW, MANY = 5, 200, 120, 16, 1_000
OURS, PEER = "Overcut (numpy)", "scikit-learn"
SHIPPED: Mapping[str, Sequence[str]] = {
    OURS: ("numpy",),
    PEER: ("numpy", "scipy", "scikit-learn", "joblib", "threadpoolctl"),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _prepare(folder)
        found = rounds(list(SHIPPED), ["benchmarks.prediction", "--folder", name], ROUNDS)
    rows = [
        {
            "way": way,
            "milliseconds to start": spread(one["start"] for one in found[way]),
            "of Overcut's": ratio((one["start"] for one in found[way]), (one["start"] for one in found[OURS])),
            f"ms for {FEW} runs": spread(one["few"] for one in found[way]),
            f"µs a run, {MANY:,} at once": spread(one["many"] for one in found[way]),
            "peak MB": spread(one["peak_mb"] for one in found[way]),
            "MB of packages": round(sum(map(_installed_mb, SHIPPED[way]))),
        }
        for way in SHIPPED
    ]
    write("prediction", {"": rows}, ["numpy", "scikit-learn"])


def _prepare(folder: Path) -> None:
    """A forest, as arrays and pickled, and what is scored."""
    import pickle
    from datetime import date

    import numpy as np
    from sklearn.ensemble import IsolationForest

    from overcut.etl_jobs.features import baselines, by_job, features
    from overcut.etl_jobs.forest import export_forest
    from workbench.simulate_job_runs import draw_jobs, simulate_jobs

    began = date(2026, 1, 1)
    jobs = draw_jobs(JOBS, days=DAYS, seed=1)
    runs = list(simulate_jobs(jobs, started_on=began, days=DAYS, seed=1).runs)
    learned = baselines(runs)
    own = by_job(runs)
    vectors = np.concatenate([features(own[job], learned[job]).features for job in own if not learned[job].is_learning])
    forest = IsolationForest(n_estimators=100, max_samples=256, random_state=0).fit(vectors.astype(np.float32))
    arrays = export_forest(forest)
    (folder / "forest.pickle").write_bytes(pickle.dumps(forest))
    np.savez(folder / "forest.npz", **{name: getattr(arrays, name) for name in arrays.__slots__})
    np.save(folder / "vectors.npy", vectors[-MANY:])


def _score_with_numpy(folder: Path) -> Callable[[Any], Any]:
    import numpy as np

    from overcut.etl_jobs.forest import Forest, isolation_score

    with np.load(folder / "forest.npz") as kept:
        arrays = {name: kept[name] for name in kept.files}
    forest = Forest(**{name: array if array.ndim else array.item() for name, array in arrays.items()})
    return lambda vectors: isolation_score(forest, vectors)


def _score_with_scikit_learn(folder: Path) -> Callable[[Any], Any]:
    import pickle

    forest = pickle.loads((folder / "forest.pickle").read_bytes())  # noqa: S301 (ours, of a moment ago)
    return lambda vectors: -forest.score_samples(vectors)


WAYS = {OURS: _score_with_numpy, PEER: _score_with_scikit_learn}


def _measure(folder: Path, way: str) -> dict[str, float]:
    began = time.perf_counter()
    score = WAYS[way](folder)
    import numpy as np

    vectors = np.load(folder / "vectors.npy").astype(np.float32).astype(np.float64)
    score(vectors[:1])
    started = time.perf_counter()
    score(vectors[:FEW])
    few = time.perf_counter()
    found = score(vectors)
    ends = time.perf_counter()
    peer = np.load(folder / "scores.npy") if (folder / "scores.npy").exists() else found
    if not np.allclose(found, peer):
        raise SystemExit("the two give different scores")
    np.save(folder / "scores.npy", found)
    peak = peak_mb()
    return {
        "start": 1_000 * (started - began),
        "few": 1_000 * (few - started),
        "many": 1e6 * (ends - few) / MANY,
        "peak_mb": peak,
    }


def _installed_mb(package: str) -> float:
    """What a package takes unpacked."""
    files = importlib.metadata.files(package) or []
    return sum(Path(str(file.locate())).stat().st_size for file in files if Path(str(file.locate())).exists()) / 2**20


if __name__ == "__main__":
    if "--folder" in sys.argv:
        sys.stdout.write("\n" + json.dumps(_measure(Path(sys.argv[2]), sys.argv[3])))
    else:
        main()
