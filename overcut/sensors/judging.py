"""Judging: from a sensor's readings to verdicts, and what made one.

The same functions serve detection, the backtest and explanations: a verdict is a function of the reading, the readings
in its window, and the cutoff and model in force when it was measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from overcut.sensors.cutoffs import Cutoff, UsualRange, in_force
from overcut.sensors.features import LONGEST_GAP, WINDOW, Feature, repeats
from overcut.sensors.incidents import EQUIPMENT_FAULT, STUCK_SENSOR, Cause, JudgedReading, RunRule, find_runs
from overcut.sensors.models import Model, Score, score_reading
from overcut.sensors.readings import Reading, format_time

# where the model of a cutoff comes from
Models = Callable[[Cutoff], Model]
Windows = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Series:
    """What one sensor measured, as columns.

    Attributes:
        times: seconds since 1970, ascending, none twice.
        values: of each measure one value a time, NaN where there was none.
    """

    times: Sequence[int]
    values: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> "Series":
        """The series of a sensor's readings, sorted by time."""
        measures = dict.fromkeys(measure for reading in readings for measure in reading.values)
        nothing = float("nan")
        return cls(
            [int(reading.measured_at.timestamp()) for reading in readings],
            {m: [reading.values.get(m, nothing) for reading in readings] for m in measures},
        )

    def windows(self, first: int, interval: timedelta) -> Iterator[Windows]:
        """Of each reading from number `first` on what its features are made from: of each measure that it has, the last
        values, at most `features.WINDOW` of them."""
        longest = LONGEST_GAP * interval.total_seconds()
        begins = max(0, first - WINDOW + 1)
        for number in range(begins + 1, first):
            if self.times[number] - self.times[number - 1] > longest:
                begins = number
        for number in range(first, len(self.times)):
            if number and self.times[number] - self.times[number - 1] > longest:
                begins = number
            begins = max(begins, number - WINDOW + 1)
            found = {}
            for measure, column in self.values.items():
                if column[number] == column[number]:
                    found[measure] = [value for value in column[begins : number + 1] if value == value]
            yield found


def judge(
    series: Series,
    first: int,
    cutoffs: Sequence[Cutoff],
    models: Models,
    rule: RunRule,
    keep: Callable[[Score | None], object] = lambda score: None,
) -> list[JudgedReading]:
    """The verdicts on a sensor's readings from number `first` on.

    Args:
        series: to give production's verdicts, with `features.WINDOW` - 1 readings before `first`.
        cutoffs: those that may have been in force at these readings, in any order.
        keep: told the score that each verdict comes from, in order; None where there is none.
    """
    judged = []
    interval: timedelta | None = None
    for number, time in enumerate(series.times[first:], start=first):
        measured_at = datetime.fromtimestamp(time, UTC)
        cutoff = in_force(cutoffs, measured_at)
        if cutoff is None:
            judged.append(JudgedReading(measured_at, None))
            keep(None)
            interval = None
            continue
        if cutoff.interval != interval:
            # a gap that is long by one cutoff's interval need not be by another's
            ahead, interval = series.windows(number, cutoff.interval), cutoff.interval
        windows = next(ahead)
        score = score_reading(models(cutoff), cutoff, windows)
        keep(score)
        if score is None:
            judged.append(JudgedReading(measured_at, None))
            continue
        anomalous = score.anomaly_score > cutoff.score_cutoff and score.is_material
        judged.append(JudgedReading(measured_at, anomalous, is_stuck(windows, cutoff, rule)))
    return judged


def is_stuck(windows: Windows, cutoff: Cutoff, rule: RunRule) -> bool:
    """Whether a measure that was learned has shown one value for so long that, after as many readings as the run rule
    asks for, it is stuck."""
    if not cutoff.stuck_after:
        return False
    needed = cutoff.stuck_after - rule.readings_needed(cutoff.interval) + 1
    return any(repeats(windows[usual.measure]) >= needed for usual in cutoff.ranges if usual.measure in windows)


def usual_since(readings: Sequence[Reading], cutoff: Cutoff, last_anomalous_at: datetime, rule: RunRule) -> datetime:
    """The first reading with usual values after an incident.

    A feature looks back an hour, so after a fault the verdicts may be anomalous for as long: to be back is a jump, too.
    Values are back after the last run of them outside the usual range; where there is none, since only the verdicts saw
    the fault, after the last anomalous one.

    Args:
        readings: of the incident's last `features.WINDOW` intervals, and of its recovery.
        cutoff: what was in force then.
    """
    outside = [
        JudgedReading(
            reading.measured_at,
            any(not usual.low <= reading.values.get(usual.measure, usual.low) <= usual.high for usual in cutoff.ranges),
        )
        for reading in readings
        if reading.measured_at <= last_anomalous_at
    ]
    runs = find_runs(outside, cutoff.interval, rule)
    last = runs[-1].last if runs else last_anomalous_at
    return next((reading.measured_at for reading in readings if reading.measured_at > last), last_anomalous_at)


def explain(
    windows: Windows, cutoff: Cutoff, model: Model, units: Mapping[str, str], kind: str = EQUIPMENT_FAULT
) -> Cause | None:
    """What makes a reading anomalous: the feature furthest from usual of the channel that finds it most anomalous; of a
    stuck sensor, the measure that is.

    Returns:
        None where the reading cannot be scored.
    """
    score = score_reading(model, cutoff, windows)
    if score is None:
        return None
    measure, feature = score.furthest
    if kind == STUCK_SENSOR:
        learned = [usual.measure for usual in cutoff.ranges]
        measure, feature = max(learned, key=lambda name: repeats(windows[name])), "value"
    usual = next(one for one in cutoff.ranges if one.measure == measure)
    low, high = _usual_bounds(usual, feature)
    found = score.values.get((measure, feature))
    return Cause(
        measure=measure,
        unit=units.get(measure, ""),
        value=found if feature == "volatility" and found is not None else windows[measure][-1],
        usual_low=low,
        usual_high=high,
        anomaly_score=score.anomaly_score,
        score_cutoff=cutoff.score_cutoff,
        model_version=cutoff.model_version,
        feature=feature,
        trained_at=format_time(cutoff.trained_at),
        inputs={name: list(window) for name, window in windows.items()},
    )


def _usual_bounds(usual: UsualRange, feature: Feature) -> tuple[float, float]:
    """Between what a feature usually lies: of a level or a jump, what the measure itself does."""
    if feature == "volatility":
        usually = usual.features[feature]
        return 0.0, usually.centre + usually.up
    return usual.low, usual.high
