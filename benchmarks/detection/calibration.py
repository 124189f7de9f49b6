"""Cutoffs of the peers: chosen on simulated fleets that nothing is compared on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from benchmarks.detection.peers import Peer
from benchmarks.detection.recordings import Floats, Incident, Recording
from benchmarks.detection.scoring import anomalous, find_incidents, score

CALIBRATION_SEEDS = (101, 102, 103)
FALSE_INCIDENTS_PER_SENSOR_WEEK = 0.15
CUTOFFS = np.geomspace(1.0, 1000.0, 121)


class Map(Protocol):
    """`map`, or that of a pool of processes."""

    def __call__(self, function: Callable[..., Any], items: Iterable[Any], /) -> Iterable[Any]: ...


class Scores:
    """Scores of recordings by peers, each made once.

    Args:
        mapping: scores the sensors of a recording.
    """

    def __init__(self, mapping: Map = map) -> None:
        self._map = mapping
        self._made: dict[tuple[str, str], list[Floats]] = {}

    def of(self, peer: Peer, recording: Recording) -> list[Floats]:
        """Of every sensor of the recording, in its order; peers and recordings are told apart by name."""
        key = peer.name, recording.name
        if key not in self._made:
            self._made[key] = list(self._map(peer.score, recording.series.values()))
        return self._made[key]


@dataclass(frozen=True)
class PeerDetector:
    """A peer and its cutoff: a detector.

    Attributes:
        cutoff: in standard deviations of the peer's own scores; a reading is anomalous above it.
    """

    name: str
    peer: Peer
    cutoff: float
    scores: Scores

    def incidents(self, recording: Recording) -> Sequence[Incident]:
        return incidents_above(recording, self.scores.of(self.peer, recording), self.cutoff)


def incidents_above(recording: Recording, scores: Sequence[Floats], cutoff: float) -> list[Incident]:
    """What opens when a reading is anomalous above `cutoff`."""
    return [
        incident
        for series, own in zip(recording.series.values(), scores, strict=True)
        for incident in find_incidents(series, anomalous(own, cutoff))
    ]


def choose_cutoff(
    peer: Peer,
    recordings: Sequence[Recording],
    *,
    scores: Scores,
    budget: float = FALSE_INCIDENTS_PER_SENSOR_WEEK,
) -> float:
    """The lowest of `CUTOFFS` at which, and above which, the recordings have at most `budget` false incidents.

    Args:
        budget: a sensor-week, over all recordings.

    Raises:
        ValueError: not even the highest is high enough.
    """
    scored = [(recording, scores.of(peer, recording)) for recording in recordings]
    chosen: float | None = None
    for cutoff in reversed(CUTOFFS.tolist()):
        judge = partial(incidents_above, cutoff=cutoff)
        reached = score((recording, judge(recording, own)) for recording, own in scored)
        if (reached.false_incidents_per_sensor_week or 0.0) > budget:
            break
        chosen = cutoff
    if chosen is None:
        raise ValueError(f"{peer.name} opens more than {budget} false incidents a sensor-week at every cutoff")
    return chosen
