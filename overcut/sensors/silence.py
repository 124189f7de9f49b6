"""Silence: sensors and sources that are no longer heard, and clocks that stand still or run backwards.

Of each source a small record tells when each of its sensors was heard last. From it follows, every minute, what is
silent now: never a past that is over. What explains more takes the place of what explains less, so that one dead source
or site is one incident:

    a source not heard at all ──▶ `source_silent`
    all sensors of a site     ──▶ `site_silent`
    a sensor                  ──▶ `silent`
    heard, but nothing newer  ──▶ `backwards`, of a sensor or of a whole source

All times are whole seconds since 1970, by the clock.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from overcut.sensors.incidents import BACKWARDS, SILENT_SENSOR, SILENT_SITE, SILENT_SOURCE, Equipment
from overcut.sensors.readings import Reading

# a slow sensor is silent after so many of its own intervals
SILENT_INTERVALS = 5
GAPS_REMEMBERED, FEWEST_GAPS = 5, 3
# a sensor that was not heard for so long is no longer waited for
FORGOTTEN_AFTER = 30 * 24 * 3600
LONGEST_SETTLING = 6 * 3600


@dataclass(slots=True)
class SensorSeen:
    """What is remembered of a sensor.

    Attributes:
        heard_at: when its last reading came, old or new.
        advanced_at: when its last reading came that was newer than all before.
        newest: when its newest reading was measured.
        gaps: the last few times between readings, in seconds.
    """

    heard_at: int
    advanced_at: int
    newest: int
    gaps: list[int] = field(default_factory=list)

    def limit(self, silent_after: int) -> float | None:
        """How long it may say nothing; None while its interval is not known."""
        return max(silent_after, SILENT_INTERVALS * median(self.gaps)) if len(self.gaps) >= FEWEST_GAPS else None


@dataclass(slots=True)
class SourceSeen:
    """What is remembered of a source. Two of the same source are joined, whoever heard what first.

    Attributes:
        heard_at: when a reading of any of its sensors came last.
        resumed_at: when it was heard again after it had been silent.
        settled_at: until when it may take to bring what it has from its silence: as long as that lasted.
    """

    sensors: dict[str, SensorSeen] = field(default_factory=dict)
    heard_at: int = 0
    resumed_at: int = 0
    settled_at: int = 0

    @property
    def advanced_at(self) -> int:
        return max((one.advanced_at for one in self.sensors.values()), default=0)

    def limit(self, silent_after: int) -> float | None:
        """How long the whole source may say nothing: as long as its fastest sensor."""
        limits = (one.limit(silent_after) for one in self.sensors.values())
        return min((limit for limit in limits if limit is not None), default=None)

    def hear(self, readings: Iterable[Reading], now: int, silent_after: int) -> None:
        """Readings came, in any order and however often."""
        silent_for = now - self.heard_at
        if self.heard_at and silent_for > silent_after / 2 and silent_for > (self.limit(silent_after) or 0) / 2:
            self.resumed_at, self.settled_at = now, now + min(silent_for, LONGEST_SETTLING)
        self.heard_at = max(self.heard_at, now)
        for reading in sorted(readings, key=lambda reading: reading.measured_at):
            moment = int(reading.measured_at.timestamp())
            seen = self.sensors.get(reading.sensor_id)
            if seen is None:
                self.sensors[reading.sensor_id] = SensorSeen(now, now, moment)
                continue
            seen.heard_at = max(seen.heard_at, now)
            if moment > seen.newest:
                seen.gaps = [*seen.gaps, moment - seen.newest][-GAPS_REMEMBERED:]
                seen.newest, seen.advanced_at = moment, now

    def join(self, other: "SourceSeen", now: int) -> None:
        """Take over what `other` knows better, and forget whom nobody has heard for long."""
        self.heard_at = max(self.heard_at, other.heard_at)
        self.resumed_at = max(self.resumed_at, other.resumed_at)
        self.settled_at = max(self.settled_at, other.settled_at)
        for sensor_id, theirs in other.sensors.items():
            ours = self.sensors.setdefault(sensor_id, theirs)
            heard_at = max(ours.heard_at, theirs.heard_at)
            if theirs.newest > ours.newest:
                self.sensors[sensor_id] = ours = theirs
            ours.heard_at = heard_at
        self.sensors = {k: one for k, one in self.sensors.items() if now - one.heard_at <= FORGOTTEN_AFTER}


def about_source(source_id: str) -> Equipment:
    """What stands in an incident for a whole source; no sensor's id begins with a `#`."""
    return Equipment(f"#source#{source_id}", source_id)


def about_site(place: Equipment) -> Equipment:
    """What stands in an incident for the whole site of `place`."""
    return Equipment(f"#site#{place.place}", place.site, place.customer, place.site)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is silent, or whose clock does not go on.

    Attributes:
        equipment: the sensor, or what stands for a site or a source.
        since: when it was last heard; of a clock, the newest time it showed.
        limit: how long it may be silent, in seconds.
    """

    kind: str
    equipment: Equipment
    since: int
    limit: float


@dataclass(frozen=True)
class Silence:
    """What is silent.

    Attributes:
        sources: what is remembered of each source.
        silent_after: the shortest silence, in seconds, that is one.
        equipment: asked only when something is silent; the equipment of every sensor.
    """

    sources: Mapping[str, SourceSeen]
    now: int
    silent_after: int
    equipment: Callable[[], Mapping[str, Equipment]]

    def new(self, is_open: Collection[tuple[str, str]], site_back_at: Callable[[Equipment], int]) -> list[Finding]:
        """What is silent and has no incident yet.

        Args:
            is_open: kind and sensor id of each open incident.
            site_back_at: when the last silence of a whole site ended; 0 without one. Its sensors do not come back in
                the same second.
        """
        found: list[Finding] = []
        silent: dict[str, Finding] = {}
        living: dict[str, SensorSeen] = {}
        for source_id, seen in self.sources.items():
            limit, quiet_for = seen.limit(self.silent_after), self.now - seen.heard_at
            if limit is None:
                continue
            if quiet_for > limit:
                found.append(Finding(SILENT_SOURCE, about_source(source_id), seen.heard_at, limit))
            # a source that may be dead says nothing about its sensors, nor does one that brings what it had
            if quiet_for > limit / 2 or self.now < seen.settled_at:
                continue
            stands = self.now - max(seen.advanced_at, seen.resumed_at) > limit
            if stands:
                newest = max(one.newest for one in seen.sensors.values())
                found.append(Finding(BACKWARDS, about_source(source_id), newest, limit))
            living |= seen.sensors
            for sensor_id, one in seen.sensors.items():
                finding = self._finding(sensor_id, one, seen)
                if finding and not (stands and finding.kind == BACKWARDS):
                    silent[sensor_id] = finding
        silent = {sensor_id: one for sensor_id, one in silent.items() if (one.kind, sensor_id) not in is_open}
        if silent:
            found += self._of_sensors(silent, living, is_open, site_back_at)
        return [one for one in found if (one.kind, one.equipment.sensor_id) not in is_open]

    def _finding(self, sensor_id: str, seen: SensorSeen, source: SourceSeen) -> Finding | None:
        limit = seen.limit(self.silent_after)
        if limit is None:
            return None
        sensor = Equipment(sensor_id, sensor_id)
        if self.now - max(seen.heard_at, source.resumed_at) > limit:
            return Finding(SILENT_SENSOR, sensor, seen.heard_at, limit)
        if self.now - seen.heard_at <= limit < self.now - max(seen.advanced_at, source.resumed_at):
            return Finding(BACKWARDS, sensor, seen.newest, limit)
        return None

    def _of_sensors(
        self,
        silent: Mapping[str, Finding],
        living: Mapping[str, SensorSeen],
        is_open: Collection[tuple[str, str]],
        site_back_at: Callable[[Equipment], int],
    ) -> list[Finding]:
        """One finding a sensor, or one for a site of which nothing is heard."""
        equipment = self.equipment()
        found: list[Finding] = []
        by_site: defaultdict[str, list[Finding]] = defaultdict(list)
        for sensor_id, finding in silent.items():
            own = replace(finding, equipment=equipment.get(sensor_id, finding.equipment))
            if own.kind == SILENT_SENSOR and own.equipment.site:
                by_site[own.equipment.place].append(own)
            else:
                found.append(own)
        for sensors in by_site.values():
            site = about_site(sensors[0].equipment)
            if (SILENT_SITE, site.sensor_id) in is_open:
                continue
            members = [living[s] for s, one in equipment.items() if one.place == site.place and s in living]
            if len(members) > 1 and all(self._is_in_doubt(one) for one in members):
                found.append(
                    Finding(SILENT_SITE, site, max(one.heard_at for one in members), min(s.limit for s in sensors))
                )
                continue
            back_at = site_back_at(site)
            found += [one for one in sensors if self.now - max(one.since, back_at) > one.limit]
        return found

    def _is_in_doubt(self, seen: SensorSeen) -> bool:
        return self.now - seen.heard_at > (seen.limit(self.silent_after) or self.silent_after) / 2

    def over_at(self, kind: str, equipment: Equipment, opened_at: int) -> int | None:
        """When the silence of an open incident ended; None while it lasts, or while nothing is known."""
        subject = equipment.sensor_id
        if kind == SILENT_SITE:
            sensors = {s for s, one in self.equipment().items() if one.place == equipment.place}
            heard = [one.heard_at for seen in self.sources.values() for s, one in seen.sensors.items() if s in sensors]
            back = [at for at in heard if at > opened_at]
            return max(back) if back and 2 * len(back) >= len(heard) else None
        found: SensorSeen | SourceSeen | None = None
        for source_id, source in self.sources.items():
            if subject == about_source(source_id).sensor_id:
                found = source
            elif subject in source.sensors:
                found = source.sensors[subject]
        if found is None:
            return None
        at = found.advanced_at if kind == BACKWARDS else found.heard_at
        return at if at > opened_at else None

    def is_forgotten(self, equipment: Equipment) -> bool:
        """Whether nobody waits for it any more, while its source goes on."""
        subject = equipment.sensor_id
        return not subject.startswith("#") and not any(subject in seen.sensors for seen in self.sources.values())
