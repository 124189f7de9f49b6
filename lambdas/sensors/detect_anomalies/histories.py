"""Histories: the last verdicts on each sensor, remembered only to save reads."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from overcut.sensors.incidents import JudgedReading


class Histories:
    """The last verdicts on at most `capacity` sensors, nine bytes a reading.

    A history is used only while nothing in its span can be missing: an interval without a reading may have been filled
    by another instance meanwhile. A reading without a verdict is as if it were missing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._of: OrderedDict[str, tuple[array[int], bytearray]] = OrderedDict()

    def put(self, sensor_id: str, judged: Sequence[JudgedReading], keep: int) -> None:
        """Remember the last `keep` of `judged`, which is sorted by time; or nothing, when one has no verdict."""
        kept = judged[-keep:]
        if any(one.is_anomaly is None for one in kept):
            self._of.pop(sensor_id, None)
            return
        self._of[sensor_id] = (
            array("q", (int(one.measured_at.timestamp()) for one in kept)),
            bytearray(one.is_anomaly is True for one in kept),
        )
        self._of.move_to_end(sensor_id)
        if len(self._of) > self._capacity:
            self._of.popitem(last=False)

    def extended(
        self, sensor_id: str, new: Sequence[JudgedReading], interval: timedelta, needed: int
    ) -> list[JudgedReading] | None:
        """The remembered verdicts and then `new`, remembered in turn; None when the history must be read instead.

        Args:
            new: sorted by time.
            needed: how many readings before the first of `new` the decision wants.
        """
        remembered = self._of.pop(sensor_id, None)
        if remembered is None or len(remembered[0]) < needed or any(one.is_anomaly is None for one in new):
            return None
        times = [*remembered[0], *(int(one.measured_at.timestamp()) for one in new)]
        widest = 1.5 * interval.total_seconds()
        if any(not 0 < later - earlier <= widest for earlier, later in pairwise(times)):
            return None
        before = [
            JudgedReading(datetime.fromtimestamp(moment, UTC), bool(verdict))
            for moment, verdict in zip(*remembered, strict=True)
        ]
        judged = [*before, *new]
        self.put(sensor_id, judged, needed)
        return judged
