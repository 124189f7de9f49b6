"""Detection: from readings as they arrive to incidents and texts."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from krcf import RandomCutForest

from lambdas.runtime.clock import Clock
from lambdas.sensors.detect_anomalies.histories import Histories
from lambdas.sensors.stores import CutoffsStore, DataBucket, HeadMovedError, IncidentsStore, ReadingsStore, SensorsStore
from overcut.sensors.alerts import (
    Contact,
    Phone,
    SendOutcome,
    TextsOfOnePlace,
    contacts_for,
    first_text_state,
    send_texts,
)
from overcut.sensors.cutoffs import CACHE_FOR, Cutoff, explain, in_force
from overcut.sensors.forest import anomaly_score, load_forest
from overcut.sensors.incidents import (
    EQUIPMENT_FAULT,
    Change,
    ChangeKind,
    Episode,
    Incident,
    IncidentState,
    JudgedReading,
    RunRule,
    Text,
    TextKind,
    TextState,
    decide,
    find_runs,
)
from overcut.sensors.readings import Reading, format_time

# what is remembered of so many takes about 25 MB
MAX_SENSORS_REMEMBERED = 3_000
MAX_FORESTS_REMEMBERED = 40
MAX_DECISIONS = 5
READINGS_BETWEEN = 200


class Outcomes(Protocol):
    """Where outcomes are counted."""

    def count(self, outcome: str, number: int = 1) -> None: ...


@dataclass(frozen=True, slots=True)
class Arrival:
    """A reading, and when it was written, by the clock."""

    reading: Reading
    written_at: datetime


@dataclass(frozen=True)
class AlertRules:
    """Who is texted, and when.

    Attributes:
        stale_after: an incident whose reading came later than this is texted only if it is still going on.
        group_for: at most one text a contact and place in this time.
        claim_seconds: how long a sender may take, of the machine's time; longer than the function can live.
    """

    contacts: Sequence[Contact]
    default_contact: str
    stale_after: timedelta
    group_for: timedelta
    claim_seconds: int


class Judge:
    """Gives readings their verdict by the cutoff that was in force when they were measured."""

    def __init__(self, cutoffs: CutoffsStore, bucket: DataBucket) -> None:
        self._store = cutoffs
        self._bucket = bucket
        self._cutoffs: OrderedDict[str, tuple[datetime, list[Cutoff]]] = OrderedDict()
        self._forests: OrderedDict[str, RandomCutForest] = OrderedDict()

    def cutoffs(self, sensor_id: str, oldest: datetime, now: datetime) -> list[Cutoff]:
        """The sensor's cutoffs that readings from `oldest` on may be judged by."""
        fetched_at, cutoffs = self._cutoffs.get(sensor_id, (now - 2 * CACHE_FOR, []))
        if abs(now - fetched_at) >= CACHE_FOR:
            cutoffs = self._store.newest(sensor_id, 3)
            self._cutoffs[sensor_id] = (now, cutoffs)
            if len(self._cutoffs) > MAX_SENSORS_REMEMBERED:
                self._cutoffs.popitem(last=False)
        if len(cutoffs) == 3 and oldest < cutoffs[-1].effective_from:
            return [*self._store.as_of(sensor_id, oldest), *self._store.trained_after(sensor_id, oldest)]
        return cutoffs

    def judge(self, readings: Sequence[Reading], cutoffs: Sequence[Cutoff]) -> list[JudgedReading]:
        """The verdicts on one sensor's readings."""
        return [JudgedReading(reading.measured_at, self._is_anomaly(reading, cutoffs)) for reading in readings]

    def score(self, reading: Reading, cutoff: Cutoff) -> float | None:
        """The reading's anomaly score; None when it lacks a measure."""
        point = cutoff.point(reading.values)
        return None if point is None else anomaly_score(self._forest(cutoff), point)

    def _is_anomaly(self, reading: Reading, cutoffs: Sequence[Cutoff]) -> bool | None:
        cutoff = in_force(cutoffs, reading.measured_at)
        if cutoff is None:
            return None
        score = self.score(reading, cutoff)
        return None if score is None else score > cutoff.score_cutoff

    def _forest(self, cutoff: Cutoff) -> RandomCutForest:
        forest = self._forests.get(cutoff.model_key)
        if forest is None:
            forest = load_forest(self._bucket.get(cutoff.model_key))
            self._forests[cutoff.model_key] = forest
            if len(self._forests) > MAX_FORESTS_REMEMBERED:
                self._forests.popitem(last=False)
        else:
            self._forests.move_to_end(cutoff.model_key)
        return forest


class Detector:
    """Judges readings, keeps the sensors' incidents, and texts about them.

    It remembers histories and cutoffs between batches only to save reads: nothing it decides depends on which instance
    saw the batch before.
    """

    def __init__(
        self,
        *,
        readings: ReadingsStore,
        sensors: SensorsStore,
        incidents: IncidentsStore,
        judge: Judge,
        phone: Phone,
        clock: Clock,
        rule: RunRule,
        alert_rules: AlertRules,
        outcomes: Outcomes,
    ) -> None:
        self._readings = readings
        self._sensors = sensors
        self._incidents = incidents
        self._judge = judge
        self._phone = phone
        self._clock = clock
        self._rule = rule
        self._alert_rules = alert_rules
        self._outcomes = outcomes
        self._histories = Histories(MAX_SENSORS_REMEMBERED)
        self._read_at: dict[str, datetime] = {}

    def detect(self, arrivals: Sequence[Arrival], wall_now: int) -> list[tuple[TextsOfOnePlace, SendOutcome]]:
        """Judge what arrived, sensor by sensor, and send the texts that it makes due.

        Args:
            arrivals: in the order of the stream; a later one replaces an earlier one of the same sensor and time.
            wall_now: the machine's time in seconds since 1970.

        Returns:
            What was sent, or why not.
        """
        by_sensor: dict[str, dict[datetime, Arrival]] = {}
        for arrival in arrivals:
            by_sensor.setdefault(arrival.reading.sensor_id, {})[arrival.reading.measured_at] = arrival
        touched: list[Incident] = []
        for sensor_id, by_time in by_sensor.items():
            touched += self._detect_one(sensor_id, [by_time[moment] for moment in sorted(by_time)])
        return send_texts(
            touched,
            store=self._incidents,
            phone=self._phone,
            now=self._clock.now(),
            wall_now=wall_now,
            group_for=self._alert_rules.group_for,
            claim_seconds=self._alert_rules.claim_seconds,
            together=False,
        )

    def _detect_one(self, sensor_id: str, arrivals: Sequence[Arrival]) -> list[Incident]:
        """Judge one sensor's arrivals, sorted by time; return the incidents whose texts may be due now."""
        new = [arrival.reading for arrival in arrivals]
        cutoffs = self._judge.cutoffs(sensor_id, new[0].measured_at, self._clock.now())
        judging = in_force(cutoffs, new[-1].measured_at)
        if judging is None:
            self._outcomes.count("ReadingsWhileLearning", len(new))
            return []
        self._outcomes.count("ReadingsJudged", len(new))
        needed = self._rule.history_needed(judging.interval)
        window = self._remembered(sensor_id, self._judge.judge(new, cutoffs), judging.interval, needed)
        if window is None:
            window = self._read_window(sensor_id, new[0].measured_at, new[-1].measured_at, judging.interval, needed)
            self._histories.put(sensor_id, window, len(window))
            self._read_at[sensor_id] = self._clock.now()
        elif not find_runs(window, judging.interval, self._rule):
            # an open incident's run would be in sight: there is nothing to open, extend or close
            return []
        return self._settle(sensor_id, window, arrivals, judging.interval)

    def _remembered(
        self, sensor_id: str, new: Sequence[JudgedReading], interval: timedelta, needed: int
    ) -> list[JudgedReading] | None:
        """The window from memory; None when it must be read: from time to time in any case, since another instance may
        have been handed a correction of what is remembered here."""
        if len(self._read_at) > MAX_SENSORS_REMEMBERED:
            self._read_at.clear()
        read_at = self._read_at.get(sensor_id)
        if read_at is None or abs(self._clock.now() - read_at) >= CACHE_FOR:
            return None
        return self._histories.extended(sensor_id, new, interval, needed)

    def _read_window(
        self, sensor_id: str, first: datetime, last: datetime, interval: timedelta, before: int
    ) -> list[JudgedReading]:
        """The verdicts as the table has them now: from `before` readings before `first` to as long after `last` as a
        run and a recovery may take. A longer look ahead would make a backlog slower the longer it is."""
        ahead = self._rule.recovery + 2 * self._rule.readings_needed(interval) * interval
        readings = self._readings.before(sensor_id, first, before)
        readings += self._readings.between(sensor_id, first, last + ahead)
        if not readings:
            return []
        return self._judge.judge(readings, self._cutoffs(sensor_id, readings[0].measured_at))

    def _cutoffs(self, sensor_id: str, oldest: datetime) -> list[Cutoff]:
        return self._judge.cutoffs(sensor_id, oldest, self._clock.now())

    def _settle(
        self, sensor_id: str, window: list[JudgedReading], arrivals: Sequence[Arrival], interval: timedelta
    ) -> list[Incident]:
        """Decide and store until nobody has changed the sensor's head in between."""
        moments = {arrival.reading.measured_at for arrival in arrivals}
        due: set[datetime] = set()
        for _ in range(MAX_DECISIONS):
            head = self._incidents.head(sensor_id, EQUIPMENT_FAULT)
            if head and head.is_open and not (window and window[0].measured_at <= head.last_anomalous_at):
                before = self._rule.readings_needed(interval)
                window = self._read_window(sensor_id, head.last_anomalous_at, max(moments), interval, before)
            if head and window and window[-1].measured_at < head.first_anomalous_at:
                # whether anything parts these late readings from the head's incident
                between = self._readings.after(sensor_id, window[-1].measured_at, READINGS_BETWEEN)
                window += self._judge.judge(between, self._cutoffs(sensor_id, window[-1].measured_at))
            try:
                for change in (changes := decide(head, window, moments, interval, self._rule)):
                    if self._apply(sensor_id, change, changes, window, arrivals):
                        due.add(change.episode.opened_at)
                    head = change.head or head
            except HeadMovedError:
                self._outcomes.count("DecisionsRepeated")
                continue
            if head and head.is_open and self._is_fresh(window, arrivals) and self._wake(sensor_id, head.opened_at):
                due.add(head.opened_at)
            found = [self._incidents.get(sensor_id, opened_at) for opened_at in sorted(due)]
            return [incident for incident in found if incident]
        raise HeadMovedError(f"the head of {sensor_id} moved {MAX_DECISIONS} times while it was decided about")

    def _apply(
        self,
        sensor_id: str,
        change: Change,
        changes: Sequence[Change],
        window: Sequence[JudgedReading],
        arrivals: Sequence[Arrival],
    ) -> bool:
        """Store one change; return whether that may have made texts due."""
        episode = change.episode
        bounds = {
            "first_anomalous_at": format_time(episode.first_anomalous_at),
            "last_anomalous_at": format_time(episode.last_anomalous_at),
        }
        match change.kind:
            case ChangeKind.OPEN:
                recovers = any(
                    c.kind is ChangeKind.RECOVER and c.episode.opened_at == episode.opened_at for c in changes
                )
                state = first_text_state(
                    lateness=_written_at(episode.opened_at, arrivals) - episode.opened_at,
                    newest_lateness=arrivals[-1].written_at - window[-1].measured_at,
                    is_open=not recovers,
                    stale_after=self._alert_rules.stale_after,
                )
                self._incidents.open(self._incident(sensor_id, episode, IncidentState.OPEN, state), change)
                self._outcomes.count("IncidentsOpened")
            case ChangeKind.EXTEND:
                self._incidents.update(sensor_id, EQUIPMENT_FAULT, change, **bounds)
                return False
            case ChangeKind.CONTRADICT:
                self._incidents.update(sensor_id, EQUIPMENT_FAULT, change, contradicted=True)
                self._outcomes.count("IncidentsContradicted")
                return False
            case ChangeKind.RECOVER if episode.recovered_at:
                self._incidents.update(
                    sensor_id,
                    EQUIPMENT_FAULT,
                    change,
                    state=IncidentState.RECOVERED.value,
                    recovered_at=format_time(episode.recovered_at),
                    anomalous_minutes=self._anomalous_minutes(sensor_id, episode, window),
                    texts=self._texts_of_recovery(sensor_id, episode.opened_at),
                )
                self._outcomes.count("IncidentsRecovered")
            case ChangeKind.MISS:
                missed = self._incident(sensor_id, episode, IncidentState.MISSED, None)
                self._incidents.record_missed(missed, self._rule.recovery)
                self._outcomes.count("IncidentsMissed")
                return False
        return True

    def _incident(
        self,
        sensor_id: str,
        episode: Episode,
        state: IncidentState,
        text_state: TextState | None,
    ) -> Incident:
        sensor = self._sensors.get(sensor_id)
        (reading,) = self._readings.between(sensor_id, episode.opened_at, episode.opened_at)
        cutoff = in_force(self._cutoffs(sensor_id, episode.opened_at), episode.opened_at)
        score = self._judge.score(reading, cutoff) if cutoff else None
        if cutoff is None or score is None:
            raise LookupError(
                f"the reading of {sensor_id} at {format_time(episode.opened_at)} changed while it was judged"
            )
        contacts = contacts_for(
            sensor.customer, sensor.site, self._alert_rules.contacts, self._alert_rules.default_contact
        )
        texts = [Text(TextKind.ALERT, contact, text_state) for contact in contacts] if text_state else []
        return Incident(
            equipment=sensor.equipment,
            kind=EQUIPMENT_FAULT,
            state=state,
            opened_at=episode.opened_at,
            first_anomalous_at=episode.first_anomalous_at,
            last_anomalous_at=episode.last_anomalous_at,
            recovered_at=episode.recovered_at,
            cause=explain(score, cutoff, reading.values, sensor.measures),
            texts={text.text_key: text for text in texts},
        )

    def _texts_of_recovery(self, sensor_id: str, opened_at: datetime) -> Mapping[str, Text]:
        """Those who were told, or will be, are told that it is over; what was never told is for the digest."""
        incident = self._incidents.get(sensor_id, opened_at)
        texts: dict[str, Text] = {}
        for key, text in incident.texts.items() if incident else ():
            if text.state is TextState.WAITING:
                texts[key] = Text(text.kind, text.contact_id, TextState.DIGEST)
            elif text.kind is TextKind.ALERT and text.state is not TextState.DIGEST:
                recovery = Text(TextKind.RECOVERY, text.contact_id, TextState.OWED)
                texts[recovery.text_key] = recovery
        return texts

    def _anomalous_minutes(self, sensor_id: str, episode: Episode, window: Sequence[JudgedReading]) -> int:
        if window[0].measured_at > episode.first_anomalous_at:
            readings = self._readings.between(sensor_id, episode.first_anomalous_at, episode.last_anomalous_at)
            window = self._judge.judge(readings, self._cutoffs(sensor_id, episode.first_anomalous_at))
        return sum(
            1
            for judged in window
            if judged.is_anomaly and episode.first_anomalous_at <= judged.measured_at <= episode.last_anomalous_at
        )

    def _is_fresh(self, window: Sequence[JudgedReading], arrivals: Sequence[Arrival]) -> bool:
        return arrivals[-1].written_at - window[-1].measured_at <= self._alert_rules.stale_after

    def _wake(self, sensor_id: str, opened_at: datetime) -> bool:
        """Owe the waiting texts of an incident that is still open while readings are fresh; False without any."""
        incident = self._incidents.get(sensor_id, opened_at)
        if incident is None or all(text.state is not TextState.WAITING for text in incident.texts.values()):
            return False
        self._incidents.owe_waiting(incident)
        return True


def _written_at(opened_at: datetime, arrivals: Sequence[Arrival]) -> datetime:
    """When the reading that completed a run was written; when it came before, the newest one tells how late it is."""
    completing = (arrival for arrival in arrivals if arrival.reading.measured_at == opened_at)
    return next(completing, arrivals[-1]).written_at
