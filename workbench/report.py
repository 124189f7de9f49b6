"""What a deployment has seen, gathered for its report."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from lambdas.sensors.stores import KnownIncident, Sensor, Source
from overcut.etl_jobs.layout import Promoted
from overcut.etl_jobs.tickets import TicketHead
from overcut.etl_jobs.verdicts import Verdict
from overcut.sensors.auditing import first_alert
from overcut.sensors.cutoffs import Cutoff, in_force
from overcut.sensors.features import WINDOW
from overcut.sensors.incidents import KINDS, IncidentState, RunRule
from overcut.sensors.judging import Series, judge
from overcut.sensors.models import Score
from overcut.sensors.readings import Reading
from overcut.sensors.silence import SourceSeen
from stacks.stage import SensorsStage
from training.sensors.window import Measured, read_window
from workbench.etl_jobs_system import EtlJobsSystem
from workbench.sensors_system import SensorsSystem

# of more, the page would be slow to open and nobody would scroll so far
MOST_PICTURES = 30
MOST_TRAININGS = 30
BEFORE, AFTER = timedelta(hours=3), timedelta(hours=1)
DAY = timedelta(days=1)
THREADS = 16


@dataclass(frozen=True)
class Watched:
    """A sensor, as of now.

    Attributes:
        state: judged, learning, or silent.
        drift: where the middle of its last day lies, in its usual furthest from what it was trained on; of the measure
            that is farthest off. None where nothing tells.
    """

    sensor: Sensor
    cutoff: Cutoff | None
    state: str
    heard_at: datetime | None
    drift: float | None


@dataclass(frozen=True)
class Told:
    """An incident with what was measured around it.

    Attributes:
        scores: one a reading, NaN where there is none.
        cutoffs: those that were in force, oldest first.
    """

    known: KnownIncident
    readings: Sequence[Reading]
    scores: Sequence[float]
    cutoffs: Sequence[Cutoff]


@dataclass(frozen=True)
class SensorsReport:
    """What there is to tell of a sensors pipeline.

    Attributes:
        incidents: those of the period, the newest first.
        told: of the newest of them that were judged from readings, what was measured.
        history: of each sensor in `told`, its cutoffs, oldest first.
        trainings: by model, what its trainings did, newest first.
        sources: by name, their health, and who was heard when.
        delays: from the minute that opened an incident to its first text, in seconds.
        parked: by queue, how many entries wait there.
    """

    watched: Sequence[Watched]
    incidents: Sequence[KnownIncident]
    told: Sequence[Told]
    history: Mapping[str, Sequence[Cutoff]]
    trainings: Mapping[str, Sequence[Mapping[str, Any]]]
    sources: Mapping[str, tuple[Source, SourceSeen | None]]
    delays: Sequence[float]
    parked: Mapping[str, int]


@dataclass(frozen=True)
class JobsReport:
    """What there is to tell of an ETL pipeline.

    Attributes:
        verdicts: on the runs of the period, by job and start.
        tickets: the newest of each job and kind.
        promoted: the models that were put to use, newest first.
        held: why others were not.
    """

    verdicts: Sequence[Verdict]
    tickets: Sequence[TicketHead]
    promoted: Sequence[Promoted]
    held: Sequence[str]


def report_on_sensors(system: SensorsSystem, stage: SensorsStage, since: datetime, now: datetime) -> SensorsReport:
    """Gather what a deployed pipeline has seen since a moment, by its clock."""
    sensors = {sensor.sensor_id: sensor for sensor in system.sensors.all()}
    with ThreadPoolExecutor(THREADS) as threads:
        newest = dict(zip(sensors, threads.map(lambda name: system.cutoffs.newest(name, 2), sensors), strict=True))
    current = {name: in_force(found, now) for name, found in newest.items()}
    incidents = sorted(
        (known for known in system.incidents.known() if _is_of(known, since)),
        key=lambda known: known.incident.opened_at,
        reverse=True,
    )
    pictured = [known for known in incidents if known.incident.kind in KINDS][:MOST_PICTURES]
    told = [_told(system, stage, known) for known in pictured]
    sources = {name: (system.sources.get(name), system.bucket.seen(name)) for name in sorted(stage.sensors.sources)}
    drifts = _drifts(system, current, now)
    heard = {
        name: datetime.fromtimestamp(seen.heard_at, now.tzinfo)
        for _, source in sources.values()
        if source
        for name, seen in source.sensors.items()
    }
    is_silent = {
        known.incident.equipment.sensor_id
        for known in incidents
        if known.incident.state is IncidentState.OPEN and known.incident.kind not in KINDS
    }
    return SensorsReport(
        watched=[
            Watched(
                sensor,
                current[name],
                "silent" if name in is_silent else "judged" if current[name] else "learning",
                heard.get(name),
                drifts.get(name),
            )
            for name, sensor in sorted(sensors.items())
        ],
        incidents=incidents,
        told=told,
        history={
            name: system.cutoffs.newest(name, MOST_TRAININGS)[::-1]
            for name in sorted({one.known.incident.equipment.sensor_id for one in told})
        },
        trainings={
            name: system.model_events.of(name)[-MOST_TRAININGS:][::-1]
            for name in sorted({cutoff.cohort_id for cutoff in current.values() if cutoff})
        },
        sources=sources,
        delays=[
            (told_at - known.incident.opened_at).total_seconds()
            for known in incidents
            if (told_at := first_alert(known.incident))
        ],
        parked={queue.name: len(queue.items()) for queue in system.parked_queues(stage)},
    )


def _is_of(known: KnownIncident, since: datetime) -> bool:
    return known.incident.last_anomalous_at >= since or known.incident.state is IncidentState.OPEN


def _told(system: SensorsSystem, stage: SensorsStage, known: KnownIncident) -> Told:
    """What was measured around an incident, scored as it was then."""
    one, rules = known.incident, stage.sensors
    first, last = one.first_anomalous_at - BEFORE, one.last_anomalous_at + AFTER
    before = system.readings.before(one.equipment.sensor_id, first, WINDOW)
    readings = system.readings.between(one.equipment.sensor_id, first, last)
    cutoffs = system.cutoffs.since(one.equipment.sensor_id, first)
    scores: list[float] = []

    def keep(score: Score | None) -> None:
        scores.append(score.anomaly_score if score else float("nan"))

    rule = RunRule(rules.consecutive_minutes, rules.recovery_minutes)
    judge(Series.of([*before, *readings]), len(before), cutoffs, system.model, rule, keep)
    in_view = [cutoff for cutoff in cutoffs if cutoff.effective_from <= last]
    return Told(known, readings, scores, sorted(in_view, key=lambda cutoff: cutoff.effective_from))


def _drifts(system: SensorsSystem, current: Mapping[str, Cutoff | None], now: datetime) -> dict[str, float]:
    """By sensor, how far the middle of its last exported day is from what it was trained on."""
    drifts = {}
    for measured in read_window(system.bucket, now, DAY):
        cutoff = current.get(measured.series.sensor_id)
        if cutoff and (found := _drift(measured, cutoff)) is not None:
            drifts[measured.series.sensor_id] = found
    return drifts


def _drift(measured: Measured, cutoff: Cutoff) -> float | None:
    columns = dict(zip(measured.measures, measured.series.values.T, strict=True))
    found = []
    for usual in cutoff.ranges:
        level = usual.features.get("level") or usual.features.get("value")
        values = columns.get(usual.measure)
        if level and values is not None and np.isfinite(values).any():
            found.append(level.normalised(float(np.nanmedian(values))))
    return max(found, key=abs, default=None)


def report_on_jobs(system: EtlJobsSystem, since: datetime) -> JobsReport:
    """Gather what a deployed pipeline has said of runs since a moment."""
    newest: dict[tuple[str, str], Verdict] = {}
    for verdict in system.verdicts(since.date()):
        key = (verdict.job_name, verdict.run_id)
        if key not in newest or verdict.recorded_at >= newest[key].recorded_at:
            newest[key] = verdict
    verdicts = sorted(newest.values(), key=lambda verdict: (verdict.job_name, verdict.started_at))
    return JobsReport(
        [verdict for verdict in verdicts if verdict.started_at >= since],
        sorted((head for head, _ in system.tickets.everything()), key=lambda head: head.opened_at, reverse=True),
        system.promoted()[:MOST_TRAININGS],
        system.held(),
    )


def by_weekday(verdicts: Sequence[Verdict]) -> dict[str, list[tuple[int, int]]]:
    """By job, of each day of the week from Monday on, how many runs it had and how many were not as usual."""
    counted: dict[str, list[list[int]]] = defaultdict(lambda: [[0, 0] for _ in range(7)])
    for verdict in verdicts:
        day = counted[verdict.job_name][verdict.started_at.weekday()]
        day[0] += 1
        day[1] += verdict.kind is not None
    return {name: [(runs, odd) for runs, odd in days] for name, days in counted.items()}
