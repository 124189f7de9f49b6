"""How incidents compare with labelled faults.

A fault is *found* when an incident opens inside it or within five minutes after its end. An incident is *false* when it
opens in no fault nor in the hour after one. Only what comes after the learning time counts. A minute is an interval of
the sensor: where readings come once an hour, five minutes are five readings.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from benchmarks.detection.recordings import Booleans, Floats, Incident, Integers, Recording, Series
from workbench.readings_files import Label

CONSECUTIVE_READINGS = 5
RECOVERY_MINUTES = 30
FOUND_WITHIN_MINUTES = 5
EXCUSED_MINUTES = 60
SOON_MINUTES = 10
MINUTES_A_WEEK = 7 * 24 * 60
SHIFTS = 7


def find_incidents(series: Series, is_anomaly: Booleans) -> list[Incident]:
    """Five anomalous readings in a row open an incident; the first normal one half an hour after a run closes it.

    The rule of `overcut.sensors.incidents` for readings once a minute, on arrays.

    Args:
        is_anomaly: shape (readings,).
    """
    times, interval = series.measured_at, series.interval
    position = np.arange(len(times))
    goes_on = np.zeros(len(times), dtype=bool)
    goes_on[1:] = is_anomaly[:-1] & (np.diff(times) <= 2 * interval)
    first = np.maximum.accumulate(np.where(is_anomaly & ~goes_on, position, -1))
    completed = np.flatnonzero(is_anomaly & (position - first == CONSECUTIVE_READINGS - 1))
    is_last = is_anomaly & ~np.append(goes_on[1:] & is_anomaly[1:], False)
    lasts = np.flatnonzero(is_last)
    normal = times[~is_anomaly]
    incidents: list[Incident] = []
    recovered = -1
    for at, begun in zip(completed.tolist(), first[completed].tolist(), strict=True):
        last = int(lasts[np.searchsorted(lasts, at)])
        over = np.searchsorted(normal, times[last] + RECOVERY_MINUTES * interval)
        recovered_at = int(normal[over]) if over < len(normal) else None
        joins = bool(incidents) and times[begun] < recovered
        opened_at = incidents.pop().opened_at if joins else _time(int(times[at]))
        told = None if recovered_at is None else _time(recovered_at)
        incidents.append(Incident(series.sensor_id, opened_at, told))
        recovered = int(times[-1]) + 1 if recovered_at is None else recovered_at
    return incidents


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@dataclass(frozen=True)
class EventScores:
    """Counts, and shares of them; a share of nothing is None.

    Attributes:
        sensor_weeks: readings after the learning time outside faults, in weeks of 10,080.
        delays_by_kind: of the faults found, from their start to the opening, in minutes.
        faults_by_kind: how many began after the learning time.
        found_by_chance: `found`, meaned over circular shifts of each sensor's faults.
        minutes_in_alert_share: of the readings in no fault nor in the hour after one, those in an open incident.
    """

    sensors: int
    sensor_weeks: float
    faults_by_kind: dict[str, int]
    delays_by_kind: dict[str, list[float]]
    false_incidents: int
    found_by_chance: float
    minutes_in_alert_share: float | None

    @property
    def faults(self) -> int:
        return sum(self.faults_by_kind.values())

    @property
    def found(self) -> int:
        return sum(map(len, self.delays_by_kind.values()))

    @property
    def recall(self) -> float | None:
        return self.found / self.faults if self.faults else None

    @property
    def recall_by_kind(self) -> dict[str, float]:
        return {kind: len(self.delays_by_kind.get(kind, [])) / count for kind, count in self.faults_by_kind.items()}

    @property
    def recall_within_10_minutes_by_kind(self) -> dict[str, float]:
        soon = {kind: sum(it <= SOON_MINUTES for it in delays) for kind, delays in self.delays_by_kind.items()}
        return {kind: soon.get(kind, 0) / count for kind, count in self.faults_by_kind.items()}

    @property
    def median_delay_minutes(self) -> float | None:
        return self._delay(0.5)

    @property
    def p95_delay_minutes(self) -> float | None:
        return self._delay(0.95)

    @property
    def false_incidents_per_sensor_week(self) -> float | None:
        return self.false_incidents / self.sensor_weeks if self.sensor_weeks else None

    def _delay(self, share: float) -> float | None:
        delays = [delay for own in self.delays_by_kind.values() for delay in own]
        return float(np.quantile(delays, share)) if delays else None


def score(judged: Iterable[tuple[Recording, Sequence[Incident]]]) -> EventScores:
    """Scores of what a detector opened, over one recording or several together."""
    sensors = clean = false = alerted = calm = 0
    by_chance = 0.0
    faults: dict[str, int] = defaultdict(int)
    delays: dict[str, list[float]] = defaultdict(list)
    for recording, incidents in judged:
        for series in recording.series.values():
            one = _Sensor(series, recording.labels, incidents)
            sensors += 1
            clean += one.clean
            false += one.false_incidents
            alerted += one.alerted
            calm += one.calm
            by_chance += one.found_by_chance
            for label in one.faults:
                faults[label.kind] += 1
                delay = one.delay(label)
                if delay is not None:
                    delays[label.kind].append(delay)
    return EventScores(
        sensors=sensors,
        sensor_weeks=clean / MINUTES_A_WEEK,
        faults_by_kind=dict(sorted(faults.items())),
        delays_by_kind=dict(sorted(delays.items())),
        false_incidents=false,
        found_by_chance=by_chance,
        minutes_in_alert_share=alerted / calm if calm else None,
    )


class _Sensor:
    """What is counted of one sensor. Times are seconds since 1970."""

    def __init__(self, series: Series, labels: Sequence[Label], incidents: Sequence[Incident]) -> None:
        self.minute = series.interval
        self.judged = series.measured_at[series.learning :]
        own = [label for label in labels if label.sensor_id == series.sensor_id]
        self.bounds = [(_seconds(it.started_at), _seconds(it.ended_at)) for it in own]
        begins = int(self.judged[0]) if len(self.judged) else 0
        self.faults = [it for it in own if len(self.judged) and _seconds(it.started_at) >= begins]
        kept = [it for it in incidents if it.sensor_id == series.sensor_id and _seconds(it.opened_at) >= begins]
        self.incidents = sorted(kept, key=lambda it: it.opened_at)
        self.opened = np.array([_seconds(it.opened_at) for it in self.incidents], dtype=np.int64)

    @property
    def clean(self) -> int:
        return int((~self._in_faults(self.judged, 0)).sum())

    @property
    def false_incidents(self) -> int:
        return int((~self._in_faults(self.opened, EXCUSED_MINUTES)).sum())

    @property
    def calm(self) -> int:
        return int(self._calm().sum())

    @property
    def alerted(self) -> int:
        in_alert = np.zeros(len(self.judged), dtype=bool)
        for one in self.incidents:
            recovered = np.inf if one.recovered_at is None else _seconds(one.recovered_at)
            in_alert |= (self.judged >= _seconds(one.opened_at)) & (self.judged < recovered)
        return int((in_alert & self._calm()).sum())

    def delay(self, label: Label) -> float | None:
        """Minutes to the first incident that opened in or just after it; None when it was not found."""
        opened = self._opened_in(_seconds(label.started_at), _seconds(label.ended_at))
        return None if opened is None else (opened - _seconds(label.started_at)) / self.minute

    @property
    def found_by_chance(self) -> float:
        if not len(self.judged) or not self.faults:
            return 0.0
        first, span = int(self.judged[0]), int(self.judged[-1] - self.judged[0]) + self.minute
        found = 0
        for shift in range(1, SHIFTS + 1):
            by = span * shift // (SHIFTS + 1)
            for label in self.faults:
                start = first + (_seconds(label.started_at) - first + by) % span
                found += (
                    self._opened_in(start, start + _seconds(label.ended_at) - _seconds(label.started_at)) is not None
                )
        return found / SHIFTS

    def _opened_in(self, start: int, end: int) -> int | None:
        at = int(np.searchsorted(self.opened, start))
        is_found = at < len(self.opened) and self.opened[at] <= end + FOUND_WITHIN_MINUTES * self.minute
        return int(self.opened[at]) if is_found else None

    def _calm(self) -> Booleans:
        return ~self._in_faults(self.judged, EXCUSED_MINUTES)

    def _in_faults(self, times: Integers, minutes_after: int) -> Booleans:
        inside = np.zeros(len(times), dtype=bool)
        for start, end in self.bounds:
            inside |= (times >= start) & (times <= end + minutes_after * self.minute)
        return inside


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def anomalous(scores: Floats, cutoff: float) -> Booleans:
    """Which scores are above the cutoff; one that is NaN is not."""
    above: Booleans = np.nan_to_num(scores, nan=-np.inf) > cutoff
    return above
