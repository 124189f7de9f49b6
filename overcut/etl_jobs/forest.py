"""The isolation forest: grown by scikit-learn, kept as plain arrays, scored with numpy.

Liu, Ting, Zhou: Isolation Forest, ICDM 2008.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from overcut.etl_jobs.features import FEATURES, Floats

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

# scored together: a few megabytes of working memory
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Forest:
    """The trees of an isolation forest, one after the other; every array but `roots` has shape (nodes,).

    Attributes:
        roots: index of each tree's first node, shape (trees,).
        left, right: index of a node's children; its own index in a leaf.
        feature, threshold: a value at or under the threshold goes left. Threshold as float64, values as float32.
        path_length: of a leaf: its depth and the mean depth of the samples left in it; 0 elsewhere.
        samples: that each tree was grown from.
        depth: of the deepest tree, in steps.
    """

    roots: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: Floats
    path_length: Floats
    samples: int
    depth: int


def isolation_score(forest: Forest, vectors: Floats) -> Floats:
    """What scikit-learn's `-score_samples` gives, from 0 to 1: higher is more anomalous; shape (runs,).

    Equation 2 of the paper; `vectors` are compared as float32, as scikit-learn does.
    """
    narrow = vectors.astype(np.float32)
    total = np.zeros(len(narrow))
    for start in range(0, len(narrow), _ROWS_AT_ONCE):
        rows = narrow[start : start + _ROWS_AT_ONCE]
        row = np.arange(len(rows))[:, np.newaxis]
        node = np.broadcast_to(forest.roots, (len(rows), len(forest.roots)))
        for _ in range(forest.depth):
            right = rows[row, forest.feature[node]] > forest.threshold[node]
            node = np.where(right, forest.right[node], forest.left[node])
        total[start : start + _ROWS_AT_ONCE] = forest.path_length[node].sum(axis=1)
    longest = len(forest.roots) * float(_mean_path_length(np.array([forest.samples]))[0])
    return np.asarray(2.0 ** -(total / longest if longest else np.ones(len(narrow))))


def export_forest(fitted: "IsolationForest") -> Forest:
    """The trees of a fitted scikit-learn forest, which was given all features in their order."""
    parts: list[dict[str, Floats]] = []
    roots = []
    size = depth = 0
    for estimator in fitted.estimators_:
        tree = estimator.tree_
        own = np.arange(tree.node_count)
        leaf = tree.children_left < 0
        steps = np.zeros(tree.node_count)
        for node in own[~leaf]:
            steps[[tree.children_left[node], tree.children_right[node]]] = steps[node] + 1
        parts.append(
            {
                "left": size + np.where(leaf, own, tree.children_left),
                "right": size + np.where(leaf, own, tree.children_right),
                "feature": np.where(leaf, 0, tree.feature),
                "threshold": np.where(leaf, 0.0, tree.threshold),
                "path_length": np.where(leaf, steps + _mean_path_length(tree.n_node_samples), 0.0),
            }
        )
        roots.append(size)
        size += tree.node_count
        depth = max(depth, int(steps.max()))
    joined = {field: np.concatenate([part[field] for part in parts]) for field in parts[0]}
    return Forest(
        roots=np.array(roots, dtype=np.int32),
        left=joined["left"].astype(np.int32),
        right=joined["right"].astype(np.int32),
        feature=joined["feature"].astype(np.int32),
        threshold=joined["threshold"].astype(np.float64),
        path_length=joined["path_length"].astype(np.float64),
        samples=int(fitted.max_samples_),
        depth=depth,
    )


def _mean_path_length(samples: NDArray[Any]) -> Floats:
    """The mean depth of an unsuccessful search in a tree of `samples`: equation 1 of the paper."""
    n = np.maximum(samples, 3).astype(np.float64)
    deep = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.select([samples <= 1, samples == 2], [0.0, 1.0], deep)


def is_sound(forest: Forest) -> bool:
    """Whether every path of every tree ends in a leaf, and every number is finite."""
    nodes = len(forest.threshold)
    own = np.arange(nodes)
    leaf = (forest.left == own) & (forest.right == own)
    inner = (forest.left > own) & (forest.right > own)
    in_range = all(np.all((part >= 0) & (part < nodes)) for part in (forest.left, forest.right, forest.roots))
    fits = np.all((forest.feature >= 0) & (forest.feature < len(FEATURES)))
    finite = np.isfinite(forest.threshold).all() and np.isfinite(forest.path_length).all()
    return bool(nodes and len(forest.roots) and in_range and np.all(leaf | inner) and fits and finite)
