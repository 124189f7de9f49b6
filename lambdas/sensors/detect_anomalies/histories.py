"""Histories: the last verdicts on each sensor, remembered only to save reads."""

from array import array
from bisect import bisect_left
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
        """The remembered verdicts with `new`, remembered in turn; None when the history must be read instead.

        A reading that is remembered already, with the same verdict, changes nothing: the table may be read further than
        its stream has come.

        Args:
            new: sorted by time.
            needed: how many readings before the first of `new` the decision wants.
        """
        remembered = self._of.pop(sensor_id, None)
        if remembered is None or any(one.is_anomaly is None for one in new):
            return None
        verdicts = dict(zip(*remembered, strict=True))
        last = remembered[0][-1]
        for one in new:
            moment = int(one.measured_at.timestamp())
            if verdicts.setdefault(moment, one.is_anomaly is True) != one.is_anomaly:
                return None
            if moment < last and len(verdicts) > len(remembered[0]):
                return None  # it fills a gap, or lies before: what is between may be missing, too
        times = sorted(verdicts)
        widest = 1.5 * interval.total_seconds()
        before = bisect_left(times, int(new[0].measured_at.timestamp()))
        if before < needed:
            return None
        times = times[before - needed :]
        if any(later - earlier > widest for earlier, later in pairwise(times)):
            return None
        judged = [JudgedReading(datetime.fromtimestamp(moment, UTC), bool(verdicts[moment])) for moment in times]
        self.put(sensor_id, judged, len(judged))
        return judged
