"""Polling: holds a source's stream for a good minute and stores what it says.

Polls overlap on purpose. One holds the stream until its successor is connected, so a source that cannot replay loses
nothing; whatever both read is stored twice as the same bytes. The cursor moves only after everything before it is kept.
A stream that ends or breaks off is taken up again after it, within the same poll.
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from lambdas.runtime.clock import Clock
from lambdas.sensors.poll_readings.connection import Connection, SourceUnreachableError, wait
from lambdas.sensors.stores import (
    DataBucket,
    PendingExportsStore,
    QuarantinedEvent,
    ReadingsStore,
    Sensor,
    SensorsStore,
    Source,
    SourcesStore,
)
from overcut.formats import UnknownFormatError
from overcut.sensors.layout import bucket_of, hour_of
from overcut.sensors.readings import Reading, RefusedReadingError, format_time, parse_time
from overcut.sensors.server_sent_events import (
    EventStream,
    RefusedEvent,
    SourceClosedError,
    SourceError,
    SourceRefusedError,
)
from overcut.sensors.silence import SourceSeen
from overcut.sensors.sources import FieldMapping

HOLD_SECONDS = 130.0
FLUSH_SECONDS = 1.0
FLUSH_READINGS = 2_000
# of a flush, so many readings are named in the log
MOST_LOGGED = 20
SEEN_SECONDS = 20
NEXT_TRY = timedelta(minutes=1)
# a source that answers 204 asks its clients to stay away
STAY_AWAY = timedelta(minutes=10)
DEFAULT_RETRY_MS = 1_000
# what a source asks for may be nothing at all
SHORTEST_RETRY_MS = 100
# an hour that begins to expire must not be exported again: what is left of it would replace the whole
RETENTION_MARGIN = timedelta(days=1)
# a stream held for so long without a byte is reported: even a quiet source sends heartbeats
SILENT_SECONDS = 30.0
# statuses that speak of the caller, not of the event id it sent
_NOT_ABOUT_THE_ID = {401, 403, 404, 407, 429}


@dataclass(frozen=True)
class SourceSetting:
    """A source, as the schedule hands it over.

    Attributes:
        secret_name: of the Authorization header's value in Secrets Manager; empty for none.
    """

    source_id: str
    url: str
    mapping: FieldMapping
    secret_name: str = ""

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> "SourceSetting":
        return cls(event["source_id"], event["url"], FieldMapping(**event["mapping"]), event.get("secret_name", ""))


class Outcomes(Protocol):
    """Where outcomes are counted and told."""

    def count(self, outcome: str, number: int = 1) -> None: ...

    def info(self, event: str, **fields: Any) -> None: ...

    def warning(self, event: str, **fields: Any) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Stores what sources say.

    Attributes:
        retention: how long a reading stays in the table.
        buckets: how many buckets sensors are exported in.
        known_sensors: remembered between polls, only to save reads.
    """

    readings: ReadingsStore
    sensors: SensorsStore
    pending: PendingExportsStore
    clock: Clock
    outcomes: Outcomes
    retention: timedelta
    buckets: int
    known_sensors: set[str] = field(default_factory=set)

    @property
    def oldest(self) -> datetime:
        """What was measured before is no longer taken."""
        return self.clock.now() - self.retention + RETENTION_MARGIN

    def keep(self, source: SourceSetting, readings: list[Reading], threads: Executor) -> None:
        """Store readings, no two of the same sensor and time; the last that comes for a minute wins."""
        self._register(source, readings)
        self.readings.put(readings, self._expiry, threads)
        self._mark(readings)

    def keep_missing(self, source: SourceSetting, reading: Reading) -> bool:
        """Store a reading that comes out of its turn, unless its minute has one by now; whether it was stored."""
        self._register(source, [reading])
        is_stored = self.readings.put_missing(reading, self._expiry)
        self._mark([reading])
        return is_stored

    def _expiry(self, moment: datetime) -> int:
        return self.clock.expiry(moment + self.retention)

    def _mark(self, readings: list[Reading]) -> None:
        """Hours that are over are exported again."""
        now = self.clock.now()
        self.pending.mark(
            (
                (bucket_of(reading.sensor_id, self.buckets), hour)
                for reading in readings
                if (hour := hour_of(reading.measured_at)) + timedelta(hours=1) <= now
            ),
            uuid.uuid4().hex,
        )

    def _register(self, source: SourceSetting, readings: list[Reading]) -> None:
        """Sensors seen for the first time register themselves; until somebody assigns them they alert the default."""
        first_seen = {r.sensor_id: r for r in readings if r.sensor_id not in self.known_sensors}
        if not first_seen:
            return
        for sensor_id in first_seen.keys() - self.sensors.registered(first_seen):
            units = source.mapping.measures
            measures = {measure: units[measure] for measure in first_seen[sensor_id].values}
            if self.sensors.register(Sensor(sensor_id, source.source_id, measures), self.buckets):
                self.outcomes.count("SensorsRegistered")
        self.known_sensors.update(first_seen)


@dataclass(frozen=True, kw_only=True)
class Poller(Intake):
    """What polling needs.

    Attributes:
        connect: opens a source's stream after a given event id.
        silent_after: the shortest silence, in seconds, that somebody is told of.
    """

    sources: SourcesStore
    bucket: DataBucket
    connect: Callable[[SourceSetting, str], Connection]
    threads: Executor
    silent_after: int

    def poll(self, source: SourceSetting, poll_id: str, seconds: float) -> None:
        """Hold the source's stream until the next poll holds it, at most `seconds`.

        Raises:
            SourceError: the source cannot be read; it is recorded as the source's health, with the next try.
        """
        before = self.sources.get(source.source_id)
        if before.stay_away_until and self.clock.now() < parse_time(before.stay_away_until):
            return
        poll = _Poll(self, source, poll_id, before, time.monotonic() + min(seconds, HOLD_SECONDS))
        try:
            poll.run()
        except SourceError as error:
            about_the_id = (
                isinstance(error, SourceRefusedError)
                and bool(poll.cursor)
                and 400 <= error.status < 500
                and error.status not in _NOT_ABOUT_THE_ID
            )
            self.sources.failed(
                source.source_id,
                str(error),
                self.clock.now() + (STAY_AWAY if isinstance(error, SourceClosedError) else NEXT_TRY),
                stay_away=isinstance(error, SourceClosedError),
                forget_cursor=about_the_id,
            )
            self.outcomes.count("PollFailures")
            raise


class _Poll:
    """One poll of one source.

    Attributes:
        cursor: the last event id it has read.
    """

    def __init__(self, poller: Poller, source: SourceSetting, poll_id: str, before: Source, ends: float) -> None:
        self._poller = poller
        self._source = source
        self._poll_id = poll_id
        self._ends = ends
        self.cursor = self._stored_cursor = before.cursor
        self._readings: dict[tuple[str, datetime], Reading] = {}
        self._quarantined: list[QuarantinedEvent] = []
        self._successor_connected = False
        self._began = time.monotonic()
        self._heard = False
        self._seen: SourceSeen | None = None
        self._seen_is_kept = True
        self._seen_kept_at = 0

    def run(self) -> None:
        is_first, retry_ms = True, DEFAULT_RETRY_MS
        broken: SourceUnreachableError | None = None
        while not self._over():
            try:
                connection = self._poller.connect(self._source, self.cursor)
            except SourceUnreachableError as error:
                if is_first:
                    raise
                broken = error
            else:
                stream, broken = EventStream(self.cursor), None
                try:
                    # only once: a source that hung up may have come back to the successor first
                    if is_first:
                        self._poller.sources.connected(self._source.source_id, self._poll_id)
                    is_first = False
                    self._read(connection, stream)
                except SourceUnreachableError as error:
                    # what broke off is taken up again, as what ended is: the source may be starting anew
                    broken = error
                finally:
                    connection.close()
                    self._flush()
                    self._keep_seen()
                if stream.retry_ms is not None:
                    retry_ms = max(stream.retry_ms, SHORTEST_RETRY_MS)
            wait(retry_ms / 1000, self._over)
        if broken and not self._successor_connected:
            raise broken
        if not self._heard and time.monotonic() - self._began > SILENT_SECONDS:
            raise SourceError(f"connected, but sent nothing for {time.monotonic() - self._began:.0f} seconds")

    def _over(self) -> bool:
        return self._successor_connected or time.monotonic() >= self._ends

    def _read(self, connection: Connection, stream: EventStream) -> None:
        """Until the stream ends, the successor is connected, or time is up."""
        flush_at = time.monotonic() + FLUSH_SECONDS
        while not self._over():
            chunk = connection.chunk(flush_at - time.monotonic())
            if chunk == b"":
                return
            if chunk is not None:
                self._heard = True
                self._take(stream, chunk)
            if time.monotonic() >= flush_at or len(self._readings) >= FLUSH_READINGS:
                self._flush()
                flush_at = time.monotonic() + FLUSH_SECONDS

    def _take(self, stream: EventStream, chunk: bytes) -> None:
        now, oldest = self._poller.clock.now(), self._poller.oldest
        for event in stream.feed(chunk):
            if isinstance(event, RefusedEvent):
                self._quarantined.append(QuarantinedEvent(event.raw, event.reason, event.last_event_id))
                continue
            try:
                reading = self._source.mapping.read(event.data, now, oldest)
            except RefusedReadingError as error:
                self._quarantined.append(QuarantinedEvent(event.data, str(error), event.last_event_id))
            else:
                self._readings[reading.sensor_id, reading.measured_at] = reading
        self.cursor = stream.last_event_id

    def _flush(self) -> None:
        """Keep everything read so far, then move the cursor; look whether the successor is connected."""
        poller, source_id = self._poller, self._source.source_id
        readings = list(self._readings.values())
        if readings:
            poller.keep(self._source, readings, poller.threads)
            self._hear(readings)
        if self._quarantined:
            poller.bucket.quarantine(source_id, self._quarantined, poller.clock.now())
        if readings or self._quarantined or self.cursor != self._stored_cursor:
            state = poller.sources.advance(source_id, self.cursor, poller.clock.now())
            self._stored_cursor = self.cursor
        else:
            state = poller.sources.get(source_id)
        poller.outcomes.count("ReadingsStored", len(readings))
        poller.outcomes.count("EventsQuarantined", len(self._quarantined))
        self._tell(readings)
        self._readings, self._quarantined = {}, []
        self._successor_connected = state.connected_poll != self._poll_id

    def _tell(self, readings: Sequence[Reading]) -> None:
        """Log what is stored now, by the ids that are in the logs of whatever comes of it."""
        outcomes, source_id = self._poller.outcomes, self._source.source_id
        if readings:
            outcomes.info(
                "stored",
                source_id=source_id,
                number=len(readings),
                readings=[one.reading_id for one in readings[:MOST_LOGGED]],
                measured_from=format_time(min(one.measured_at for one in readings)),
                measured_to=format_time(max(one.measured_at for one in readings)),
            )
        if self._quarantined:
            outcomes.warning("quarantined", source_id=source_id, number=len(self._quarantined))

    def _hear(self, readings: list[Reading]) -> None:
        """Remember whom the source spoke of; now and then, for watch_sensors."""
        now = int(self._poller.clock.now().timestamp())
        if self._seen is None:
            self._seen = self._stored_seen() or SourceSeen()
        self._seen.hear(readings, now, self._poller.silent_after)
        self._seen_is_kept = False
        if abs(now - self._seen_kept_at) >= SEEN_SECONDS:
            self._keep_seen()

    def _keep_seen(self) -> None:
        """Join what this poll has heard to what is kept. Readings come first: where it fails, the next time does it."""
        if self._seen is None or self._seen_is_kept:
            return
        now, source_id = int(self._poller.clock.now().timestamp()), self._source.source_id
        try:
            if stored := self._poller.bucket.seen(source_id):
                self._seen.join(stored, now)
            self._poller.bucket.put_seen(source_id, self._seen)
            self._seen_is_kept = True
        except (ClientError, BotoCoreError, UnknownFormatError):
            self._poller.outcomes.count("SeenNotKept")
        self._seen_kept_at = now

    def _stored_seen(self) -> SourceSeen | None:
        try:
            return self._poller.bucket.seen(self._source.source_id)
        except (ClientError, BotoCoreError, UnknownFormatError):
            return None
