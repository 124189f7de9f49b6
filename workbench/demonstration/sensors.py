"""The demonstration of the sensors pipeline: a fault is caught and texted.

stream history ─▶ train ─▶ stream the rest, faster than real time ─▶ text ─▶ recovery
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from lambdas.runtime.clock import ClockFace, FileClock
from overcut.sensors.alerts import needs_attention
from overcut.sensors.cutoffs import Cutoff
from overcut.sensors.incidents import EQUIPMENT_FAULT, Incident, IncidentState, TextKind, TextState
from overcut.sensors.readings import Reading, format_time
from stacks.stage import phone_parameter, read_stage
from workbench.csv_files import counted
from workbench.demonstration.house import INCIDENT_PAGE, PATIENCE_SECONDS, DemonstrationError, House
from workbench.demonstration.progress import progress, step
from workbench.demonstration.questions import asked
from workbench.demonstration.script import SOURCE_ID, Script
from workbench.device import Device
from workbench.sensors_system import SensorsSystem

# a number that is reserved for fiction: https://en.wikipedia.org/wiki/555_(telephone_number)
PHONE_NUMBER = "+12025550123"
# a second in which this machine is busy with something else is hours of the clock, and no silence
SILENT_AFTER_MINUTES = 7 * 24 * 60
# a text that was not sent at once leaves with the sweep of the next minute, or the one after
SWEEP_SECONDS = 130.0
PAGE_SECONDS = 60.0
KEPT = "Kept from a demonstration. In a deployment each button is an answer, without an account; here it does nothing."
QUESTION = "SELECT reference, name, first_anomalous_at, value, usual_high, texts_sent FROM incidents"


class SensorsPart:
    """The sensors pipeline's part of a demonstration."""

    pipeline = "sensors"

    def __init__(self, script: Script) -> None:
        self._script = script

    @property
    def parameters(self) -> Mapping[str, str]:
        contacts = read_stage("local").with_sensors().sensors.contacts
        return {f"{SensorsSystem.stack('local')}:{phone_parameter(contact)}": PHONE_NUMBER for contact in contacts}

    @property
    def begins(self) -> datetime:
        return self._script.readings[0].measured_at

    @contextmanager
    def prepared(self, house: House) -> Iterator[Mapping[str, Any]]:
        """Stop the clock at the end of the history, and serve all readings by it."""
        until = self._script.train_until.timestamp()
        _set_clock(house.clock, self._script, speed=0.0, ttl_offset=time.time() - until)
        device = _started_device(self._script.readings, house)
        try:
            yield {
                "sources": {SOURCE_ID: {"url": device.url, "measures": dict(self._script.units)}},
                "silent_after_minutes": SILENT_AFTER_MINUTES,
            }
        finally:
            device.stop()

    def run(self, house: House) -> dict[str, Any]:
        """Play the part; return readings, training, incidents, texts and functions.

        Raises:
            DemonstrationError: it could not go on.
        """
        system = SensorsSystem(house.outputs[SensorsSystem.stack("local")], house.session, house.url)
        return _Play(self._script, house, system).run()


def _set_clock(clock: FileClock, script: Script, *, speed: float, ttl_offset: float) -> None:
    origin = script.train_until.timestamp()
    clock.set(ClockFace(origin=origin, wall=time.time(), speed=speed, ttl_offset=ttl_offset))


def _started_device(readings: Sequence[Reading], house: House) -> Device:
    """A device where the last demonstration in this folder had it, if that is free: its assembly then fits again."""
    port = house.state / "device-port"
    for candidate in ([int(port.read_text())] if port.exists() else []) + [0]:
        device = Device(readings, house.clock, candidate)
        try:
            device.start()
        except OSError:
            continue
        port.write_text(device.url.split(":")[2].split("/")[0])
        return device
    raise DemonstrationError("no port of 127.0.0.1 can be listened on")


class _Play:
    """One run of a script against a deployed pipeline."""

    def __init__(self, script: Script, house: House, system: SensorsSystem) -> None:
        self._script = script
        self._house = house
        self._console = house.console
        self._clock = house.clock
        self._system = system
        self._history = sum(1 for reading in script.readings if reading.measured_at < script.train_until)
        self._seen: set[str] = set()

    def run(self) -> dict[str, Any]:
        buckets = self._house.stage.with_sensors().sensors.export_buckets
        self._system.sensors.put(self._script.sensors, buckets)
        self._system.start_polls()
        self._stream_history()
        training = self._train()
        _set_clock(self._clock, self._script, speed=self._script.speed, ttl_offset=self._clock.face().ttl_offset)
        self._stream_the_rest()
        self._export()
        summary = self._summary(training)
        self._show(summary)
        return summary

    def _stream_history(self) -> None:
        with progress(self._console, "Streaming the history", self._history) as advance:
            self._house.wait(self._stored, self._history, advance, "the history was not stored")

    def _stored(self) -> int:
        """Readings stored so far: the device's event ids count from 0, and the cursor moves after the write."""
        cursor = self._system.sources.get(SOURCE_ID).cursor
        return int(cursor) + 1 if cursor else 0

    def _train(self) -> dict[str, Any]:
        with progress(self._console, "Training", None) as tell:
            training = self._system.train(f"demonstration-{time.time_ns()}", tell)
        if training.status != "SUCCEEDED":
            raise DemonstrationError(
                f"the training workflow ended as {training.status}: {training.cause}; logs are in {self._house.logs}"
            )
        names = sorted({reading.sensor_id for reading in self._script.readings[: self._history]})
        cutoffs = [(name, found[0]) for name in names if (found := self._system.cutoffs.newest(name, 1))]
        if not cutoffs:
            raise DemonstrationError("the training gave no sensor a cutoff: none had enough readings to learn from")
        self._show_learned(cutoffs)
        return {
            "job_name": training.job_name,
            "status": training.status,
            "sensors": len(cutoffs),
            "seconds": round(training.seconds, 1),
        }

    def _show_learned(self, cutoffs: Sequence[tuple[str, Cutoff]]) -> None:
        table = Table("sensor", "readings", "usual", "score cutoff", title="What it learned", title_justify="left")
        for name, cutoff in cutoffs[:10]:
            usual = ", ".join(f"{one.measure} {rounded(one.low)} to {rounded(one.high)}" for one in cutoff.ranges)
            table.add_row(escape(name), str(cutoff.reading_count), escape(usual), f"{cutoff.score_cutoff:.3f}")
        self._console.print(table)
        if len(cutoffs) > 10:
            self._console.print(f"and {counted(len(cutoffs) - 10, 'more sensor')}")

    def _stream_the_rest(self) -> None:
        total = len(self._script.readings)
        label = f"Streaming the rest, {self._script.speed:g} times as fast as it was"
        with progress(self._console, label, total - self._history) as advance:

            def stored() -> int:
                self._show_incidents()
                return self._stored() - self._history

            lasting = (self._script.readings[-1].measured_at - self._script.train_until) / timedelta(seconds=1)
            patience = PATIENCE_SECONDS + max(0.0, lasting) / self._script.speed
            self._house.wait(stored, total - self._history, advance, "the readings were not stored", patience)
        with step(self._console, "Waiting until every reading is judged and every text is sent"):
            self._house.wait(self._system.judged_readings, total, lambda _: None, "the readings were not judged")
            ends = time.monotonic() + SWEEP_SECONDS
            while any(_owes(incident) for incident in self._system.all_incidents()) and time.monotonic() < ends:
                time.sleep(0.5)
        self._show_incidents()
        # what comes after this is no part of it: the present is when its last text was sent
        now = self._clock.now().timestamp()
        self._clock.set(replace(self._clock.face(), origin=now, wall=time.time(), speed=0.0))

    def _export(self) -> None:
        with step(self._console, "Exporting, for questions in SQL"):
            ended = self._system.export(f"demonstration-{time.time_ns()}")
        if ended != "SUCCEEDED":
            raise DemonstrationError(f"the export workflow ended as {ended}; logs are in {self._house.logs}")

    def _show_incidents(self) -> None:
        """Tell what has changed about incidents since the last look."""
        for incident in self._system.all_incidents():
            for key, text in incident.texts.items():
                self._tell_once(f"{incident.reference} {key} {text.state}", self._of_text(incident, key, text.state))
            self._tell_once(f"{incident.reference} {incident.state}", _of_incident(incident))
            if any(one.kind is TextKind.ALERT and one.state is TextState.SENT for one in incident.texts.values()):
                self._keep_page()

    def _tell_once(self, what: str, words: str | None) -> None:
        if what not in self._seen:
            self._seen.add(what)
            if words:
                self._console.print(f"  [dim]{self._clock.now():%H:%M} UTC[/dim] {words}")

    def _keep_page(self) -> None:
        """Open the first text's link as its phone would, and keep what it shows."""
        path = self._house.state / INCIDENT_PAGE
        if path.exists():
            return
        links = (word for text in received_texts(self._house.url) for word in text["body"].split() if "://" in word)
        host, _, token = next(links, "").removeprefix("https://").partition("/")
        address = f"{self._house.url}/_aws/lambda-url/{host.partition('.')[0]}/{token}"
        try:
            page = httpx.get(address, trust_env=False, timeout=PAGE_SECONDS).raise_for_status().text
        except httpx.HTTPError as error:
            raise DemonstrationError(
                f"the text's link did not open: {error}; logs are in {self._house.logs}"
            ) from error
        path.write_text(as_kept(page), encoding="utf-8")

    @staticmethod
    def _of_text(incident: Incident, key: str, state: TextState) -> str | None:
        kind, contact = key.split("#", 1)
        return f"[bold]texted {contact}[/bold]: {kind} {incident.reference}" if state is TextState.SENT else None

    def _summary(self, training: Mapping[str, Any]) -> dict[str, Any]:
        kinds = self._system.text_bodies()
        return {
            "readings": {
                "streamed": len(self._script.readings),
                "stored": self._system.stored_readings(),
                "quarantined": len(self._system.quarantined_events()),
            },
            "training": dict(training),
            "incidents": [_summary_of(incident) for incident in self._system.all_incidents()],
            "texts": [
                {"phone_number": text["phone_number"], "body": text["body"], "kind": kinds.get(text["body"], "unknown")}
                for text in received_texts(self._house.url)
            ],
            "functions": self._system.functions(),
            "asked": asked(self._console, self._system, QUESTION),
        }

    def _show(self, summary: Mapping[str, Any]) -> None:
        for text in summary["texts"]:
            title = f"Text to {text['phone_number']}"
            self._console.print(Panel(text["body"], title=title, title_align="left", width=64))
        readings, incidents, texts = summary["readings"], len(summary["incidents"]), len(summary["texts"])
        self._console.print(
            f"{counted(readings['streamed'], 'reading')} streamed, {readings['stored']} stored,"
            f" {readings['quarantined']} in quarantine; {counted(incidents, 'incident')}, {counted(texts, 'text')}",
            soft_wrap=True,
        )


def as_kept(page: str) -> str:
    """An incident's page as a file: it says that its buttons answer nothing here, and they do not."""
    form = re.compile(r'<form method="post"><input [^>]*name="nonce"[^>]*>')
    told = f'<p class="notice">{KEPT}</p><form>'
    kept, forms = form.subn(told, page)
    if forms != 1:
        raise DemonstrationError("the page of the incident has no form, or more than one")
    kept = kept.replace("<button ", "<button disabled ")
    return kept.replace("</style>", "button:disabled { opacity: .55; }\n</style>")


def rounded(value: float) -> str:
    """A value as people read it: three digits, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def received_texts(url: str) -> list[dict[str, str]]:
    """The texts that phones got from the embedded cloud at `url`, in the order in which they came."""
    by_number = httpx.get(f"{url}/_ministack/sns/sms-messages", trust_env=False).raise_for_status().json()
    texts = [
        {
            "phone_number": number,
            "body": message["Message"],
            "message_id": message["MessageId"],
            "at": message["Timestamp"],
        }
        for number, messages in by_number["sms_messages"].items()
        for message in messages
    ]
    return sorted(texts, key=lambda text: text["at"])


def _owes(incident: Incident) -> bool:
    """Whether something about an incident is still to be texted."""
    return needs_attention(incident) and any(
        text.state in {TextState.OWED, TextState.SENDING} for text in incident.texts.values()
    )


def _of_incident(incident: Incident) -> str | None:
    name, since = escape(incident.equipment.name), f"{incident.first_anomalous_at:%H:%M}"
    if incident.state is IncidentState.RECOVERED and incident.recovered_at:
        lasted = f"{incident.anomalous_minutes} anomalous minutes"
        return f"[green]recovered[/green]: {name}, usual again since {incident.over_since:%H:%M}, after {lasted}"
    if incident.state is IncidentState.OPEN and incident.kind == EQUIPMENT_FAULT:
        return f"[red]incident[/red] {incident.reference}: {name}, anomalous since {since}"
    return None


def _summary_of(incident: Incident) -> dict[str, Any]:
    return {
        "sensor_id": incident.equipment.sensor_id,
        "kind": incident.kind,
        "first_anomalous_at": format_time(incident.first_anomalous_at),
        "opened_at": format_time(incident.opened_at),
        "usual_since": format_time(incident.over_since) if incident.recovered_at else None,
        "recovered_at": format_time(incident.recovered_at) if incident.recovered_at else None,
        "anomalous_minutes": incident.anomalous_minutes,
    }
