"""Models: what a cohort's training leaves behind, and how a reading is scored with it.

A version of a cohort's model is one object, a zip that holds a forest a channel and `model.json`, which says how rare
each forest's scores are. Every score is brought to one unit, so that channels can be compared:

    anomaly_score = the most over channels of -log10(times a week that a sensor in order goes on so for a run / share)

where the channel's share of all false alarms makes the sum right: 0 is what a sensor in order shows once a week, 1 once
in ten weeks. The laboratory's channel has no such scale: there the anomaly score is the forest's.

ModelError(RefusedError)     an object that holds no model of this version of Overcut
"""

import io
import json
import zipfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from krcf import RandomCutForest

from overcut import RefusedError
from overcut.formats import READ_FORMATS
from overcut.sensors.cutoffs import Cutoff
from overcut.sensors.features import CHANNELS, FEATURES, SCALES, Feature
from overcut.sensors.forest import dump_forest, forest_score, load_forest

FORMAT = 1
# once in twenty thousand years: what is rarer still is not told apart, or one open door would outweigh a fortnight
HIGHEST_DECADES = 6.0


class ModelError(RefusedError):
    """An object that holds no model of this version of Overcut."""


@dataclass(frozen=True, slots=True)
class Rarity:
    """How rare a forest's scores are among sensors in order: a line through knots, and on with the last slope.

    Scores are told as odds, `score / (highest - score)`: a score is about `highest` times the chance that a point is
    cut off first, which is its distance from the rest, over that and the rest's width. The odds are the distance again,
    which has no end, where the score has one.

    Attributes:
        odds: ascending.
        decades: of each knot, -log10 of how many times a week a sensor goes on so; ascending.
        slope: decades for one more of odds, beyond the last knot.
    """

    highest: float
    odds: Sequence[float]
    decades: Sequence[float]
    slope: float

    def of(self, score: float) -> float:
        """The anomaly score, in decades, of a forest's score."""
        odds = to_odds(score, self.highest)
        knot = bisect_right(self.odds, odds)
        if knot == 0:
            return self.decades[0]
        if knot == len(self.odds):
            return min(self.decades[-1] + (odds - self.odds[-1]) * self.slope, HIGHEST_DECADES)
        share = (odds - self.odds[knot - 1]) / (self.odds[knot] - self.odds[knot - 1])
        return self.decades[knot - 1] + share * (self.decades[knot] - self.decades[knot - 1])


def to_odds(score: float, highest: float) -> float:
    return score / max(highest - score, 1e-6)


@dataclass(frozen=True)
class Channel:
    """One forest. Without a rarity, as in the laboratory, the anomaly score is the forest's own."""

    name: str
    forest: RandomCutForest
    rarity: Rarity | None

    @property
    def features(self) -> tuple[Feature, ...]:
        return CHANNELS[self.name]

    def anomaly_score(self, point: Sequence[float]) -> float:
        """How anomalous a point is, shape (measures x features,); higher is more anomalous."""
        score = forest_score(self.forest, point)
        return score if self.rarity is None else self.rarity.of(score)


@dataclass(frozen=True)
class Model:
    """One version of a cohort's model."""

    channels: tuple[Channel, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """A reading's anomaly score, and what made it.

    Attributes:
        channel: the one that finds it most anomalous.
        values: of each measure and feature of that channel, in the measure's unit; None where a window is not full.
        furthest: which of them is furthest from usual.
        is_material: some feature, of any channel, deviates by as much as anybody would be woken for.
    """

    anomaly_score: float
    channel: str
    values: Mapping[tuple[str, Feature], float | None]
    furthest: tuple[str, Feature]
    is_material: bool


def score_reading(model: Model, cutoff: Cutoff, windows: Mapping[str, Sequence[float]]) -> Score | None:
    """The score of a sensor's reading; None when it lacks a measure that was learned, or no window is full yet.

    Args:
        windows: of each measure, the last readings up to the one to score, at most `features.WINDOW` of them.
    """
    best: Score | None = None
    is_material = is_known = False
    for channel in model.channels:
        values: dict[tuple[str, Feature], float | None] = {}
        point: list[float] = []
        furthest, distance = (cutoff.ranges[0].measure, channel.features[0]), -1.0
        for usual in cutoff.ranges:
            window = windows.get(usual.measure)
            if not window:
                return None
            for feature in channel.features:
                found = FEATURES[feature](window)
                values[usual.measure, feature] = found
                if found is None:
                    point.append(0.0)
                    continue
                is_known = True
                usually = usual.features[feature]
                normalised = usually.normalised(found)
                point.append(normalised)
                if abs(normalised) > distance:
                    furthest, distance = (usual.measure, feature), abs(normalised)
                is_material = is_material or abs(found - usually.centre) >= usual.min_deviation * SCALES[feature]
        found_score = channel.anomaly_score(point)
        if best is None or found_score > best.anomaly_score:
            best = Score(found_score, channel.name, values, furthest, False)
    if best is None or not is_known:
        return None
    return Score(best.anomaly_score, best.channel, best.values, best.furthest, is_material)


def dump_model(model: Model) -> bytes:
    """The model as `load_model` reads it: the same model gives the same bytes."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        told: dict[str, Any] = {"format": FORMAT, "channels": {}}
        for channel in model.channels:
            told["channels"][channel.name] = channel.rarity and asdict(channel.rarity)
            archive.writestr(zipfile.ZipInfo(f"{channel.name}.msgpack"), dump_forest(channel.forest))
        archive.writestr(zipfile.ZipInfo("model.json"), json.dumps(told))
    return written.getvalue()


def load_model(stored: bytes) -> Model:
    """The model that `dump_model` wrote; it gives the very same scores.

    Raises:
        ModelError: it is none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(stored)) as archive:
            told = json.loads(archive.read("model.json"))
            if told["format"] not in (read := READ_FORMATS["model of sensors"]):
                raise ModelError(f"the model has format {told['format']!r}, not one of {read}: train again")
            return Model(
                tuple(
                    Channel(name, load_forest(archive.read(f"{name}.msgpack")), rarity and Rarity(**rarity))
                    for name, rarity in told["channels"].items()
                )
            )
    except (zipfile.BadZipFile, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"the object holds no model: {error!r}; train again") from error
