"""Detection: from readings as they arrive to incidents and texts."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol
from zlib import crc32

from lambdas.runtime.clock import Clock
from lambdas.sensors.detect_anomalies.histories import GAP, Histories, History, Remembered
from lambdas.sensors.stores import CutoffsStore, DataBucket, HeadMovedError, IncidentsStore, ReadingsStore, SensorsStore
from overcut.sensors.alerts import (
    Budget,
    Contact,
    Links,
    Phone,
    SendOutcome,
    TextsOfOnePlace,
    contacts_for,
    first_text_state,
    send_texts,
)
from overcut.sensors.cutoffs import CACHE_FOR, Cutoff, in_force
from overcut.sensors.features import WINDOW
from overcut.sensors.incidents import (
    EQUIPMENT_FAULT,
    KINDS,
    Change,
    ChangeKind,
    Episode,
    Head,
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
from overcut.sensors.judging import Series, explain, judge, usual_since
from overcut.sensors.models import Model, load_model
from overcut.sensors.readings import Reading, format_time

# a model takes 1 MB
MAX_MODELS_REMEMBERED = 20
# what is remembered of a sensor's readings is read again after so long, since another instance may have been handed a
# correction of them
READ_AGAIN_AFTER = timedelta(minutes=30)
# cutoffs are remembered that were in force so long ago; what older readings are judged by is looked up
CUTOFFS_REACH = timedelta(hours=3)
MAX_DECISIONS = 5
READINGS_BETWEEN = 200


class Outcomes(Protocol):
    """Where outcomes are counted."""

    def count(self, outcome: str, number: int = 1) -> None: ...

    def info(self, event: str, **fields: object) -> None: ...


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
        budget: how many texts a contact gets.
        texted_kinds: the kinds of incidents that people are texted about; the others are only kept.
    """

    contacts: Sequence[Contact]
    default_contact: str
    stale_after: timedelta
    group_for: timedelta
    claim_seconds: int
    budget: Budget
    texted_kinds: Collection[str] = KINDS


class Judge:
    """Gives readings their verdict by the cutoff that was in force when they were measured."""

    def __init__(self, cutoffs: CutoffsStore, bucket: DataBucket, rule: RunRule, measures_remembered: int) -> None:
        self._store = cutoffs
        self._bucket = bucket
        self._rule = rule
        self._cutoffs = Remembered[tuple[datetime, list[Cutoff], bool]](measures_remembered)
        self._models: OrderedDict[str, Model] = OrderedDict()

    def cutoffs(self, sensor_id: str, oldest: datetime, now: datetime) -> list[Cutoff]:
        """The sensor's cutoffs that readings from `oldest` on may be judged by."""
        known = self._cutoffs.get(sensor_id)
        fetched_at, cutoffs, are_all = known or (now - 2 * CACHE_FOR, [], True)
        if abs(now - fetched_at) >= CACHE_FOR:
            newest = self._store.newest(sensor_id, 3)
            older = [k for k, cutoff in enumerate(newest) if cutoff.effective_from <= now - CUTOFFS_REACH]
            cutoffs = newest[: older[0] + 1] if older else newest
            are_all = len(cutoffs) == len(newest) < 3
            measures = max((len(cutoff.ranges) for cutoff in cutoffs), default=0)
            fetched_at = now if known else _staggered(sensor_id, now, CACHE_FOR)
            self._cutoffs.put(sensor_id, (fetched_at, cutoffs, are_all), max(1, measures))
        if not are_all and oldest < cutoffs[-1].effective_from:
            return self._store.since(sensor_id, oldest)
        return cutoffs

    def judge(self, series: Series, first: int, cutoffs: Sequence[Cutoff]) -> list[JudgedReading]:
        """The verdicts on one sensor's readings from number `first` on."""
        return judge(series, first, cutoffs, self.model, self._rule)

    def model(self, cutoff: Cutoff) -> Model:
        """The model that a cutoff belongs to."""
        model = self._models.get(cutoff.model_key)
        if model is None:
            model = load_model(self._bucket.get(cutoff.model_key))
            self._models[cutoff.model_key] = model
            if len(self._models) > MAX_MODELS_REMEMBERED:
                self._models.popitem(last=False)
        else:
            self._models.move_to_end(cutoff.model_key)
        return model


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
        measures_remembered: int,
        phone: Phone,
        links: Links | None = None,
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
        self._links = links
        self._clock = clock
        self._rule = rule
        self._alert_rules = alert_rules
        self._outcomes = outcomes
        self._histories = Histories(measures_remembered)
        self._read_at = Remembered[datetime](measures_remembered)

    def detect(self, arrivals: Sequence[Arrival], wall_now: int) -> Iterator[tuple[TextsOfOnePlace, SendOutcome]]:
        """Judge what arrived, sensor by sensor, and send the texts that it makes due.

        Args:
            arrivals: in the order of the stream; a later one replaces an earlier one of the same sensor and time.
            wall_now: the machine's time in seconds since 1970.

        Yields:
            What was sent, or why not.
        """
        by_sensor: dict[str, dict[datetime, Arrival]] = {}
        for arrival in arrivals:
            by_sensor.setdefault(arrival.reading.sensor_id, {})[arrival.reading.measured_at] = arrival
        more: list[Incident] = []
        places: set[str] = set()
        for sensor_id, by_time in by_sensor.items():
            touched = self._detect_one(sensor_id, [by_time[moment] for moment in sorted(by_time)])
            found = {incident.equipment.place for incident in touched}
            if found <= places:
                more += touched
            else:
                # the first text of a place does not wait until all of a storm is judged
                yield from self._send(touched, wall_now)
                places |= found
        yield from self._send(more, wall_now)

    def _send(self, incidents: Sequence[Incident], wall_now: int) -> list[tuple[TextsOfOnePlace, SendOutcome]]:
        return send_texts(
            incidents,
            store=self._incidents,
            phone=self._phone,
            now=self._clock.now(),
            wall_now=wall_now,
            group_for=self._alert_rules.group_for,
            claim_seconds=self._alert_rules.claim_seconds,
            budget=self._alert_rules.budget,
            together=False,
            links=self._links,
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
        remembered = self._remembered(sensor_id, new, cutoffs, judging.interval)
        if remembered and remembered.is_quiet and not self._sees_run(remembered, judging.interval):
            return []  # no incident is open, and there is none to open
        needed = self._rule.history_needed(judging.interval)
        if remembered is not None and remembered.judged >= needed:
            window = remembered.window()
        else:
            if remembered is None and self._is_quiet(sensor_id, new, judging.interval):
                return []
            window = self._read_window(sensor_id, new[0].measured_at, new[-1].measured_at, judging.interval, needed)
        return self._settle(sensor_id, window, arrivals, judging.interval)

    def _sees_run(self, history: History, interval: timedelta) -> bool:
        if not history.has_anomaly():
            return False
        window = history.window()
        return any(find_runs([one.of_kind(kind) for one in window], interval, self._rule) for kind in KINDS)

    def _remembered(
        self, sensor_id: str, new: Sequence[Reading], cutoffs: Sequence[Cutoff], interval: timedelta
    ) -> History | None:
        """The sensor's history with the new readings judged; None when it must be read."""
        read_at = self._read_at.get(sensor_id)
        if read_at is None or abs(self._clock.now() - read_at) >= READ_AGAIN_AFTER:
            return None
        history = self._histories.extended(sensor_id, self._since_remembered(sensor_id, new, interval), interval)
        if history is None:
            return None
        judged = self._judge.judge(history.series, history.first_new, cutoffs)
        if any(one.is_anomaly is None for one in judged):
            return None
        # what the table was read ahead of the stream is kept until the stream is there, and what was missed until it is
        # decided about, after what decides about them
        times = history.series.times
        ahead = len(times) - min(history.first_new, bisect_left(times, new[0].measured_at.timestamp()))
        window = [*history.window(), *judged][-self._rule.history_needed(interval) - ahead :]
        return self._histories.put(sensor_id, history.series, window, interval=interval, is_quiet=history.is_quiet)

    def _since_remembered(self, sensor_id: str, new: Sequence[Reading], interval: timedelta) -> Sequence[Reading]:
        """The new readings, and before them those that another instance was handed since the last remembered one."""
        newest = self._histories.newest(sensor_id)
        if newest is None or new[0].measured_at - newest <= GAP * interval:
            return new
        return self._readings.between(sensor_id, newest + timedelta(seconds=1), new[-1].measured_at)

    def _is_quiet(self, sensor_id: str, new: Sequence[Reading], interval: timedelta) -> bool:
        """Whether there is nothing to decide about new readings, from as little as tells that: no run is in sight, and
        no incident is open or so new that these readings could change it."""
        needed = self._rule.readings_needed(interval)
        first, last = new[0].measured_at, new[-1].measured_at
        series, at = self._read(sensor_id, first, last, interval, needed)
        judged = self._judge.judge(series, at, self._cutoffs(sensor_id, first))
        for kind in KINDS:
            verdicts = [one.of_kind(kind) for one in judged]
            # one that begins the window may be the end of a run, of more readings than these
            begins = next((one.is_anomaly for one in verdicts if one.is_anomaly is not None), False)
            if begins or find_runs(verdicts, interval, self._rule):
                return False
        heads = self._incidents.heads(sensor_id)
        for head in (heads[kind] for kind in KINDS if kind in heads):
            if head.is_open or judged[0].measured_at <= head.last_anomalous_at:
                return False
        self._histories.put(sensor_id, series, judged, interval=interval, is_quiet=True)
        self._keep_read_at(sensor_id)
        return True

    def _read_window(
        self, sensor_id: str, first: datetime, last: datetime, interval: timedelta, before: int
    ) -> list[JudgedReading]:
        """The verdicts as the table has them now: from `before` readings before `first` to as long after `last` as what
        it may change. What is read is remembered."""
        series, at = self._read(sensor_id, first, last, interval, before)
        judged = self._judge.judge(series, at, self._cutoffs(sensor_id, datetime.fromtimestamp(series.times[at], UTC)))
        self._histories.put(sensor_id, series, judged, interval=interval, is_quiet=False)
        self._keep_read_at(sensor_id)
        return judged

    def _read(
        self, sensor_id: str, first: datetime, last: datetime, interval: timedelta, before: int
    ) -> tuple[Series, int]:
        """A sensor's readings around some, and the number of the first to judge: `before` before `first`.

        They begin a window earlier, and end as long after `last` as windows that hold it, a run and a recovery take. A
        longer look ahead would make a backlog slower the longer it is.
        """
        ahead = self._rule.recovery + (WINDOW + 2 * self._rule.readings_needed(interval)) * interval
        expected = round((last - first) / interval) + 1
        readings, earlier = self._readings.around(sensor_id, first, last + ahead, before + WINDOW - 1, expected)
        return Series.of(readings), max(0, earlier - before)

    def _keep_read_at(self, sensor_id: str) -> None:
        now = self._clock.now()
        self._read_at.put(
            sensor_id, now if self._read_at.get(sensor_id) else _staggered(sensor_id, now, READ_AGAIN_AFTER), 1
        )

    def _cutoffs(self, sensor_id: str, oldest: datetime) -> list[Cutoff]:
        return self._judge.cutoffs(sensor_id, oldest, self._clock.now())

    def _settle(
        self, sensor_id: str, window: list[JudgedReading], arrivals: Sequence[Arrival], interval: timedelta
    ) -> list[Incident]:
        """Bring the sensor's incidents of every kind up to date; return those whose texts may be due now."""
        heads = self._incidents.heads(sensor_id)
        return [
            incident
            for kind in KINDS
            for incident in self._settle_kind(sensor_id, kind, heads.get(kind), window, arrivals, interval)
        ]

    def _settle_kind(
        self,
        sensor_id: str,
        kind: str,
        head: Head | None,
        window: list[JudgedReading],
        arrivals: Sequence[Arrival],
        interval: timedelta,
    ) -> list[Incident]:
        """Decide and store until nobody has changed the sensor's head since it was read."""
        moments = {arrival.reading.measured_at for arrival in arrivals}
        due: set[datetime] = set()
        is_read = False
        for number in range(MAX_DECISIONS):
            if number:
                head = self._incidents.head(sensor_id, kind)
            window = self._reaching(sensor_id, head, window, max(moments), interval)
            verdicts = [one.of_kind(kind) for one in window]
            changes = decide(head, verdicts, moments, interval, self._rule)
            if not is_read and any(change.kind is ChangeKind.CONTRADICT for change in changes):
                # another instance may have been handed a correction of what is remembered here
                window, is_read = self._read_window(sensor_id, window[0].measured_at, max(moments), interval, 0), True
                continue
            try:
                for change in changes:
                    if self._apply(sensor_id, kind, change, changes, verdicts, arrivals):
                        due.add(change.episode.opened_at)
                    head = change.head or head
            except HeadMovedError:
                self._outcomes.count("DecisionsRepeated")
                continue
            if head and head.is_open and self._is_fresh(window, arrivals) and self._wake(sensor_id, kind, head):
                due.add(head.opened_at)
            found = [self._incidents.get(sensor_id, opened_at, kind) for opened_at in sorted(due)]
            return [incident for incident in found if incident]
        raise HeadMovedError(f"the head of {sensor_id} moved {MAX_DECISIONS} times while it was decided about")

    def _reaching(
        self, sensor_id: str, head: Head | None, window: list[JudgedReading], last: datetime, interval: timedelta
    ) -> list[JudgedReading]:
        """The window, reaching from the last anomalous minute of the head's incident while it is open, and as far as
        the incident where it is later."""
        if head and head.is_open and not (window and window[0].measured_at <= head.last_anomalous_at):
            before = self._rule.readings_needed(interval)
            window = self._read_window(sensor_id, head.last_anomalous_at, last, interval, before)
        if head and window and window[-1].measured_at < head.first_anomalous_at:
            # whether anything parts these late readings from the head's incident
            from_ = window[-1].measured_at
            earlier = self._readings.before(sensor_id, from_, WINDOW - 1)
            between = self._readings.since(sensor_id, from_, READINGS_BETWEEN)
            at = len(earlier) + 1
            cutoffs = self._cutoffs(sensor_id, from_)
            window = [*window, *self._judge.judge(Series.of([*earlier, *between]), at, cutoffs)]
        return window

    def _apply(
        self,
        sensor_id: str,
        kind: str,
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
                opened = self._incident(sensor_id, kind, episode, IncidentState.OPEN, state)
                self._incidents.open(opened, change)
                told = {"reference": opened.reference, "reading": opened.reading_id, "sensor_id": sensor_id}
                self._outcomes.info("incident", **told, **bounds)
                self._outcomes.count("IncidentsOpened")
            case ChangeKind.EXTEND:
                self._incidents.update(sensor_id, kind, change, **bounds)
                return False
            case ChangeKind.CONTRADICT:
                self._incidents.update(sensor_id, kind, change, contradicted=True)
                self._outcomes.count("IncidentsContradicted")
                return False
            case ChangeKind.RECOVER if episode.recovered_at:
                over = self._incidents.get(sensor_id, episode.opened_at, kind)
                was_learned = over is not None and over.state is IncidentState.NEW_NORMAL
                since = self._usual_since(sensor_id, episode, over, episode.recovered_at)
                self._incidents.update(
                    sensor_id,
                    kind,
                    change,
                    state=(IncidentState.NEW_NORMAL if was_learned else IncidentState.RECOVERED).value,
                    recovered_at=format_time(episode.recovered_at),
                    anomalous_minutes=self._anomalous_minutes(sensor_id, kind, episode, window, since),
                    texts=_texts_of_recovery(over.texts if over else {}, since),
                )
                self._outcomes.count("IncidentsRecovered")
            case ChangeKind.MISS:
                missed = self._incident(sensor_id, kind, episode, IncidentState.MISSED, None)
                self._incidents.record_missed(missed, self._rule.recovery)
                self._outcomes.count("IncidentsMissed")
                return False
        return True

    def _incident(
        self,
        sensor_id: str,
        kind: str,
        episode: Episode,
        state: IncidentState,
        text_state: TextState | None,
    ) -> Incident:
        sensor, opened_at = self._sensors.get(sensor_id), episode.opened_at
        readings, _ = self._readings.around(sensor_id, opened_at, opened_at, WINDOW - 1)
        cutoff = in_force(self._cutoffs(sensor_id, opened_at), opened_at)
        cause = None
        if cutoff is not None and readings and readings[-1].measured_at == opened_at:
            (windows,) = Series.of(readings).windows(len(readings) - 1, cutoff.interval)
            cause = explain(windows, cutoff, self._judge.model(cutoff), sensor.measures, kind)
        if cause is None:
            raise LookupError(f"the reading of {sensor_id} at {format_time(opened_at)} changed while it was judged")
        contacts = contacts_for(
            sensor.customer, sensor.site, self._alert_rules.contacts, self._alert_rules.default_contact
        )
        if kind not in self._alert_rules.texted_kinds:
            text_state = None
        texts = [Text(TextKind.ALERT, contact, text_state) for contact in contacts] if text_state else []
        return Incident(
            equipment=sensor.equipment,
            kind=kind,
            state=state,
            opened_at=episode.opened_at,
            first_anomalous_at=episode.first_anomalous_at,
            last_anomalous_at=episode.last_anomalous_at,
            recovered_at=episode.recovered_at,
            cause=cause,
            texts={text.text_key: text for text in texts},
        )

    def _usual_since(self, sensor_id: str, episode: Episode, over: Incident | None, recovered_at: datetime) -> datetime:
        last = episode.last_anomalous_at
        cutoff = in_force(self._cutoffs(sensor_id, last), last)
        if over is None or cutoff is None:
            return recovered_at
        by_value = over.kind == EQUIPMENT_FAULT and over.cause.feature != "volatility"
        first = max(episode.first_anomalous_at, last - WINDOW * cutoff.interval) if by_value else last
        readings = self._readings.between(sensor_id, first, recovered_at)
        return usual_since(readings, cutoff, last, self._rule)

    def _anomalous_minutes(
        self, sensor_id: str, kind: str, episode: Episode, window: Sequence[JudgedReading], until: datetime
    ) -> int:
        """How many readings were anomalous before `until`."""
        if window[0].measured_at > episode.first_anomalous_at:
            earlier = self._readings.before(sensor_id, episode.first_anomalous_at, WINDOW - 1)
            readings = self._readings.between(sensor_id, episode.first_anomalous_at, episode.last_anomalous_at)
            cutoffs = self._cutoffs(sensor_id, episode.first_anomalous_at)
            judged = self._judge.judge(Series.of([*earlier, *readings]), len(earlier), cutoffs)
            window = [one.of_kind(kind) for one in judged]
        return sum(
            1 for judged in window if judged.is_anomaly and episode.first_anomalous_at <= judged.measured_at < until
        )

    def _is_fresh(self, window: Sequence[JudgedReading], arrivals: Sequence[Arrival]) -> bool:
        return arrivals[-1].written_at - window[-1].measured_at <= self._alert_rules.stale_after

    def _wake(self, sensor_id: str, kind: str, head: Head) -> bool:
        """Owe the waiting texts of an incident that is still open while readings are fresh; False without any."""
        incident = self._incidents.get(sensor_id, head.opened_at, kind)
        if incident is None or all(text.state is not TextState.WAITING for text in incident.texts.values()):
            return False
        self._incidents.owe_waiting(incident)
        return True


def _staggered(sensor_id: str, now: datetime, period: timedelta) -> datetime:
    """A moment up to a period before `now`: what is first read of all at once is not read again all at once, too."""
    return now - crc32(sensor_id.encode()) / 2**32 * period


def _texts_of_recovery(told: Mapping[str, Text], since: datetime) -> Mapping[str, Text]:
    """Those who were told, or will be, are told that it is over; what was never told is for the digest."""
    texts: dict[str, Text] = {}
    for key, text in told.items():
        if text.state is TextState.WAITING:
            texts[key] = Text(text.kind, text.contact_id, TextState.DIGEST)
        elif text.kind is TextKind.ALERT and text.state is not TextState.DIGEST:
            recovery = Text(TextKind.RECOVERY, text.contact_id, TextState.OWED, since=since)
            texts[recovery.text_key] = recovery
    return texts


def _written_at(opened_at: datetime, arrivals: Sequence[Arrival]) -> datetime:
    """When the reading that completed a run was written; when it came before, the newest one tells how late it is."""
    completing = (arrival for arrival in arrivals if arrival.reading.measured_at == opened_at)
    return next(completing, arrivals[-1]).written_at
