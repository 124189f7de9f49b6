"""The Numenta Anomaly Benchmark, over a checkout of github.com/numenta/NAB: its scoring in our own words.

Lavin, Ahmad: Evaluating Real-Time Anomaly Detection Algorithms - the Numenta Anomaly Benchmark, ICMLA 2015.

Every labelled anomaly lies in a window. The earliest detection in a window counts, the more the earlier; a missed
window costs; a detection outside windows costs, less when it comes shortly after one. The first 15 % of a file (of at
most 5,000 rows) are for learning and never count. Together, 0 is a detector that never detects, 100 a perfect one.
"""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.recordings import Booleans, Floats, Integers, Series

PROBATION, PROBATION_OF_AT_MOST = 0.15, 5000

Times = NDArray[np.datetime64]
# (timestamps, values, probation) -> scores in [0, 1], each of shape (rows,); no score may look at a later row
ScoreSeries = Callable[[Times, Floats, int], Floats]


@dataclass(frozen=True)
class Profile:
    """What a detection is worth; a perfect one in a window gives 1."""

    name: str
    false_positive: float
    false_negative: float


STANDARD = Profile("standard", 0.11, 1.0)
REWARD_LOW_FP = Profile("reward_low_FP_rate", 0.22, 1.0)
REWARD_LOW_FN = Profile("reward_low_FN_rate", 0.11, 2.0)
PROFILES = (STANDARD, REWARD_LOW_FP, REWARD_LOW_FN)


@dataclass(frozen=True)
class NabFile:
    """One series of the corpus.

    Attributes:
        name: its path below `data/`.
        windows: first and last row of each window of labelled anomalies, both inclusive, in order.
    """

    name: str
    timestamps: Times
    values: Floats
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        return probation(len(self.values))


def probation(rows: int) -> int:
    """How many rows come first that never count."""
    return math.floor(PROBATION * min(rows, PROBATION_OF_AT_MOST))


def read_corpus(checkout: Path) -> list[NabFile]:
    """All series by name.

    Raises:
        OSError: it is no checkout of the benchmark.
    """
    labels = json.loads((checkout / "labels" / "combined_windows.json").read_text())
    return [_read_file(checkout, name, labels[name]) for name in sorted(labels)]


def _read_file(checkout: Path, name: str, windows: Sequence[tuple[str, str]]) -> NabFile:
    with (checkout / "data" / name).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    timestamps = np.array([row["timestamp"] for row in rows], dtype="datetime64[s]")
    # where a clock was set back, a time is there twice: a window goes by the first
    ends = [[int(np.flatnonzero(timestamps == np.datetime64(at, "s"))[0]) for at in window] for window in windows]
    values = np.array([float(row["value"]) for row in rows])
    return NabFile(name, timestamps, values, tuple((first, last) for first, last in ends))


def read_results(checkout: Path, detector: str, corpus: Sequence[NabFile]) -> list[Floats]:
    """The scores that the benchmark publishes for a detector, file by file."""
    scores = []
    for file in corpus:
        folder, _, base = file.name.partition("/")
        with (checkout / "results" / detector / folder / f"{detector}_{base}").open(newline="") as lines:
            scores.append(np.array([float(row["anomaly_score"]) for row in csv.DictReader(lines)]))
    return scores


def published(checkout: Path) -> Mapping[str, Mapping[str, float]]:
    """Final scores, by detector and profile."""
    found: Mapping[str, Mapping[str, float]] = json.loads((checkout / "results" / "final_results.json").read_text())
    return found


def published_thresholds(checkout: Path, detector: str) -> Mapping[str, float]:
    """By profile."""
    thresholds = json.loads((checkout / "config" / "thresholds.json").read_text())[detector]
    return {profile: float(found["threshold"]) for profile, found in thresholds.items()}


def scaled_sigmoid(position: float) -> float:
    """What a detection is worth, from 1 to -1.

    Args:
        position: -1 is the left edge of a window, 0 the right one, more than 3 far behind it.
    """
    return -1.0 if position > 3.0 else 2.0 / (1.0 + math.exp(5.0 * position)) - 1.0


def weights(file: NabFile, profile: Profile) -> tuple[Floats, Integers]:
    """What a detection in each row is worth, and in which window it is; both of shape (rows,).

    In no window is -1. In a window the best row counts, outside every row does.
    """
    worth = np.full(len(file.values), -profile.false_positive)
    window_of = np.full(len(file.values), -1)
    for number, (first, last) in enumerate(file.windows):
        width = last - first + 1
        for row in range(first, last + 1):
            worth[row] = scaled_sigmoid((row - last - 1) / width) / scaled_sigmoid(-1.0)
            window_of[row] = number
        until = file.windows[number + 1][0] if number + 1 < len(file.windows) else len(worth)
        for row in range(last + 1, until):
            # a window of a single row has no width to measure by
            position = (row - last) / (width - 1) if width > 1 else math.inf
            worth[row] = scaled_sigmoid(position) * profile.false_positive
    return worth, window_of


@dataclass(frozen=True)
class Curve:
    """What some files score together at every threshold that makes a difference.

    Attributes:
        thresholds: falling; a row is detected when its score is at least as high. The first is above every score.
        totals: not normalised.
    """

    thresholds: Floats
    totals: Floats

    @property
    def best(self) -> tuple[float, float]:
        """The threshold with the highest total, the highest such one, and the total."""
        at = int(np.argmax(self.totals))
        return float(self.thresholds[at]), float(self.totals[at])

    def at(self, threshold: float) -> float:
        reached = np.flatnonzero(self.thresholds >= threshold)
        return float(self.totals[reached[-1]]) if len(reached) else float(self.totals[0])


def curve(files: Sequence[NabFile], scores: Sequence[Floats], profile: Profile) -> Curve:
    """The totals of these files, at every threshold that makes a difference.

    Args:
        scores: of each file, shape (rows,).
    """
    all_scores, worths, windows = [], [], []
    window_count = 0
    for file, own in zip(files, scores, strict=True):
        worth, window_of = weights(file, profile)
        counts: Booleans = np.arange(len(own)) >= file.probation
        all_scores.append(own[counts])
        worths.append(worth[counts])
        windows.append(np.where(window_of < 0, -1, window_of + window_count)[counts])
        window_count += len(file.windows)
    score, worth, window = (np.concatenate(parts) for parts in (all_scores, worths, windows))
    order = np.argsort(-score, kind="stable")
    score, worth, window = score[order], worth[order], window[order]
    # what each row adds to the total when the threshold falls to its score
    gain = np.where(window < 0, worth, 0.0)
    counted = np.unique(window[window >= 0])
    for number in counted:
        rows = np.flatnonzero(window == number)
        best = np.maximum.accumulate(np.concatenate([[-profile.false_negative], worth[rows]]))
        gain[rows] = np.diff(best)
    totals = np.cumsum(np.concatenate([[-profile.false_negative * len(counted)], gain]))
    is_last = np.append(np.diff(score) != 0, True) if len(score) else np.zeros(0, dtype=bool)
    return Curve(np.append(np.inf, score[is_last]), np.append(totals[0], totals[1:][is_last]))


def normalised(total: float, files: Sequence[NabFile], profile: Profile) -> float:
    """0 is a detector that never detects, 100 a perfect one."""
    windows = sum(len(file.windows) for file in files)
    nothing = -profile.false_negative * windows
    return 100.0 * (total - nothing) / (windows - nothing)


def best_score(files: Sequence[NabFile], scores: Sequence[Floats], profile: Profile) -> float:
    """The benchmark's own figure: the one threshold for all files is the best for these very files."""
    return normalised(curve(files, scores, profile).best[1], files, profile)


def carried_over_score(files: Sequence[NabFile], scores: Sequence[Floats], profile: Profile) -> float:
    """Every second file by name is scored with the threshold that is best for the others, and the other way round."""
    order = sorted(range(len(files)), key=lambda at: files[at].name)
    halves = [
        curve([files[at] for at in own], [scores[at] for at in own], profile) for own in (order[::2], order[1::2])
    ]
    total = sum(one.at(other.best[0]) for one, other in (halves, halves[::-1]))
    return normalised(total, files, profile)


@dataclass(frozen=True)
class NabScores:
    """Normalised.

    Attributes:
        best: by profile, with the best threshold for all files.
        carried_over: by profile, with each half's threshold chosen on the other half.
    """

    best: Mapping[str, float]
    carried_over: Mapping[str, float]


def evaluate(files: Sequence[NabFile], scores: Sequence[Floats]) -> NabScores:
    """Scores of a detector, from what it gave each row of each file."""
    return NabScores(
        best={profile.name: best_score(files, scores, profile) for profile in PROFILES},
        carried_over={profile.name: carried_over_score(files, scores, profile) for profile in PROFILES},
    )


def run(score_series: ScoreSeries, file: NabFile) -> Floats:
    """What a detector gives the rows of one file.

    Raises:
        ValueError: these are no such scores.
    """
    scores = score_series(file.timestamps, file.values, file.probation)
    if scores.shape != file.values.shape or not ((scores >= 0.0) & (scores <= 1.0)).all():
        raise ValueError(f"{file.name}: expected one score in [0, 1] for each of {len(file.values)} rows")
    return scores


@dataclass(frozen=True)
class OnNab:
    """A peer's scores of at least 0, brought into [0, 1] by s / (1 + s): the benchmark only asks which is higher."""

    score: Callable[[Series], Floats]

    def __call__(self, timestamps: Times, values: Floats, probation: int) -> Floats:
        seconds = timestamps.astype("datetime64[s]").astype(np.int64)
        scores = np.maximum(0.0, np.nan_to_num(self.score(Series("", seconds, values[:, None], probation)), nan=0.0))
        within: Floats = scores / (1.0 + scores)
        return within
