"""The Random Cut Forest: AWS's own open implementation, and the only place that knows its library.

Guha, Mishra, Roy, Schrijvers: Robust Random Cut Forest Based Anomaly Detection on Streams, ICML 2016.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2

from krcf import RandomCutForest, RandomCutForestOptions

# the library counts in 32 bits, where a coordinate past 3e38 makes every score NaN, which is above no cutoff
FARTHEST = 1e12


@dataclass(frozen=True)
class ForestParameters:
    """The size of a forest, in SageMaker's words.

    Attributes:
        num_trees: trees in the forest.
        num_samples_per_tree: points each tree keeps, drawn evenly from all it was shown.
    """

    num_trees: int = 30
    num_samples_per_tree: int = 128

    @property
    def highest_score(self) -> float:
        """What a point scores that every tree cuts off first: as far out as a score can tell."""
        return log2(self.num_samples_per_tree + 1)


def train_forest(
    points: Iterable[Sequence[float]], dimensions: int, *, parameters: ForestParameters, seed: int
) -> RandomCutForest:
    """A forest over `points`.

    Args:
        points: each of shape (dimensions,), finite; their order does not weigh, since nothing decays.
    """
    options: RandomCutForestOptions = {
        "dimensions": dimensions,
        "shingle_size": 1,
        "num_trees": parameters.num_trees,
        "sample_size": parameters.num_samples_per_tree,
        "output_after": 1,
        "random_seed": seed,
        "lambda": 0.0,  # type: ignore[typeddict-unknown-key]  # its stub misspells this one key
        "internal_shingling": False,
        "parallel_execution_enabled": False,
    }
    forest = RandomCutForest(options)
    for point in points:
        forest.update(_within_reach(point))
    return forest


def forest_score(forest: RandomCutForest, point: Sequence[float]) -> float:
    """How anomalous `point` is, shape (dimensions,): higher is more anomalous, and only within this forest."""
    return forest.score(_within_reach(point))


def _within_reach(point: Sequence[float]) -> list[float]:
    return [max(-FARTHEST, min(FARTHEST, coordinate)) for coordinate in point]


def dump_forest(forest: RandomCutForest) -> bytes:
    """The forest as MessagePack: what `load_forest` reads."""
    return forest.to_msgpack()


def load_forest(stored: bytes) -> RandomCutForest:
    """The forest that `dump_forest` wrote; it gives the very same scores."""
    return RandomCutForest.from_msgpack(stored)
