"""Overcut's own entries in the comparison."""

from collections.abc import Mapping

from benchmarks.detection.nab import ScoreSeries
from benchmarks.detection.recordings import Detector


def detectors() -> tuple[Detector, ...]:
    """With the default settings of a stage; the first rows of the tables."""
    return ()


def on_nab() -> Mapping[str, ScoreSeries]:
    """By name: one setting for all files of the Numenta benchmark."""
    return {}
