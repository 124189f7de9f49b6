"""The demonstration of the sensors pipeline: a real deployment on the embedded cloud catches a fault and texts.

cloud up ─▶ deploy ─▶ stream history ─▶ train ─▶ stream the rest, faster than real time ─▶ text ─▶ recovery ─▶ summary
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import httpx
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from lambdas.runtime.clock import ClockFace, FileClock
from lambdas.sensors.stores import Sensor
from overcut import OvercutError
from overcut.sensors.alerts import needs_attention
from overcut.sensors.incidents import EQUIPMENT_FAULT, Incident, IncidentState, TextState
from overcut.sensors.readings import Reading, format_time
from stacks.stage import phone_parameter, read_stage
from workbench.cloud.deploy import Deployment
from workbench.cloud.environment import REGION
from workbench.cloud.processes import EmbeddedCloud, NothingRunsError
from workbench.demonstration.assembly import synthesized
from workbench.demonstration.stage_file import SOURCE_ID, write_stage_file
from workbench.device import Device
from workbench.system import SensorsSystem, sensors_stack

# a number that is reserved for fiction: https://en.wikipedia.org/wiki/555_(telephone_number)
PHONE_NUMBER = "+12025550123"
PATIENCE_SECONDS = 240.0
# a text that was not sent at once leaves with the sweep of the next minute, or the one after
SWEEP_SECONDS = 130.0


class DemonstrationError(OvercutError):
    """The demonstration could not go on; its text says where it stood and where to look."""


@dataclass(frozen=True)
class Script:
    """What a demonstration shows.

    Attributes:
        readings: sorted by time; those before `train_until` are history.
        units: of each measure.
        speed: seconds of the clock a second of this machine, once the history is learned.
        sensors: what is known of sensors beforehand; the rest register themselves.
    """

    readings: Sequence[Reading]
    units: Mapping[str, str]
    train_until: datetime
    speed: float
    sensors: Sequence[Sensor] = ()


class Demonstration:
    """One run, in a state folder of its own."""

    def __init__(self, script: Script, state: Path, console: Console) -> None:
        self._script = script
        self._state = state
        self._console = console
        self._clock = FileClock(state / "clock.json")
        self._history = sum(1 for reading in script.readings if reading.measured_at < script.train_until)
        self._seen: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        """Run the demonstration to its end; return the summary, which is also in `summary.json`.

        Raises:
            AlreadyRunningError: another one runs in this state folder.
            DemonstrationError, DeployError: it could not go on.
        """
        began = time.monotonic()
        self._state.mkdir(parents=True, exist_ok=True)
        (self._state / "summary.json").unlink(missing_ok=True)
        cloud = EmbeddedCloud(self._state / "cloud")
        with ExitStack() as cleanup:
            with self._step("Starting the embedded cloud"):
                running = cloud.up(owner_pid=os.getpid())
                cleanup.callback(_end, cloud)
            self._set_clock(0.0, ttl_offset=time.time() - self._script.train_until.timestamp())
            device = self._start_device()
            cleanup.callback(device.stop)
            system = self._deploy(Deployment(running.url, cloud.state), device.url)
            system.sensors.put(self._script.sensors, self._stage.sensors.export_buckets)
            system.start_polls()
            self._stream_history(system)
            training = self._train(system)
            self._set_clock(self._script.speed, ttl_offset=self._clock.face().ttl_offset)
            self._stream_the_rest(system, device)
            summary = self._summary(system, running.url, training, time.monotonic() - began)
        (self._state / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        self._show_summary(summary)
        return summary

    def _set_clock(self, speed: float, *, ttl_offset: float) -> None:
        origin = self._script.train_until.timestamp()
        self._clock.set(ClockFace(origin=origin, wall=time.time(), speed=speed, ttl_offset=ttl_offset))

    def _start_device(self) -> Device:
        """Serve where the last demonstration in this folder did, if that is free, so that its assembly fits again."""
        port = self._state / "device-port"
        for candidate in ([int(port.read_text())] if port.exists() else []) + [0]:
            device = Device(self._script.readings, self._clock, candidate)
            try:
                device.start()
            except OSError:
                continue
            port.write_text(device.url.split(":")[2].split("/")[0])
            return device
        raise DemonstrationError("no port of 127.0.0.1 can be listened on")

    def _deploy(self, deployment: Deployment, device_url: str) -> SensorsSystem:
        stage_file = write_stage_file(
            self._state / "stage.toml", device_url=device_url, measures=self._script.units, clock=self._clock.path
        )
        self._stage = read_stage(str(stage_file))
        with self._step("Bootstrapping CDK"):
            deployment.bootstrap()
        with self._step("Synthesizing the stack"):
            synthesized(deployment, stage_file)
        with self._step("Deploying it: cdk deploy"):
            numbers = {phone_parameter(contact): PHONE_NUMBER for contact in self._stage.sensors.contacts}
            outputs = deployment.deploy(parameters=numbers)
        session = boto3.Session("test", "test", region_name=REGION)
        return SensorsSystem(outputs[sensors_stack("local")], session, deployment.url)

    def _stream_history(self, system: SensorsSystem) -> None:
        with self._progress("Streaming the history", self._history) as advance:
            self._await(lambda: self._stored(system), self._history, advance, "the history was not stored")

    def _stored(self, system: SensorsSystem) -> int:
        """Readings stored so far: the device's event ids count from 0, and the cursor moves after the write."""
        cursor = system.sources.get(SOURCE_ID).cursor
        return int(cursor) + 1 if cursor else 0

    def _train(self, system: SensorsSystem) -> dict[str, Any]:
        with self._progress("Training", None) as tell:
            training = system.train(f"demonstration-{time.time_ns()}", lambda state: tell(state))
        if training.status != "SUCCEEDED":
            raise DemonstrationError(
                f"the training workflow ended as {training.status}: {training.cause[-600:]}"
                f"; logs are in {self._state / 'cloud'}"
            )
        names = sorted({reading.sensor_id for reading in self._script.readings[: self._history]})
        cutoffs = [(name, found[0]) for name in names if (found := system.cutoffs.newest(name, 1))]
        table = Table("sensor", "readings", "usual", "score cutoff", title="What it learned", title_justify="left")
        for name, cutoff in cutoffs[:10]:
            usual = ", ".join(f"{one.measure} {one.low:g} to {one.high:g}" for one in cutoff.ranges)
            table.add_row(name, str(cutoff.reading_count), usual, f"{cutoff.score_cutoff:.3f}")
        self._console.print(table)
        if len(cutoffs) > 10:
            self._console.print(f"and {len(cutoffs) - 10} more sensors")
        return {
            "job_name": training.job_name,
            "status": training.status,
            "sensors": len(cutoffs),
            "seconds": round(training.seconds, 1),
        }

    def _stream_the_rest(self, system: SensorsSystem, device: Device) -> None:
        total = len(self._script.readings)
        label = f"Streaming the rest, {self._script.speed:g} times as fast as it was"
        with self._progress(label, total - self._history) as advance:

            def stored() -> int:
                self._show_incidents(system)
                return self._stored(system) - self._history

            lasting = (self._script.readings[-1].measured_at - self._script.train_until) / timedelta(seconds=1)
            patience = PATIENCE_SECONDS + max(0.0, lasting) / self._script.speed
            self._await(stored, total - self._history, advance, "the readings were not stored", patience)
        with self._step("Waiting until every reading is judged and every text is sent"):
            self._await(system.judged_readings, total, lambda _: None, "the readings were not judged")
            ends = time.monotonic() + SWEEP_SECONDS
            while any(_owes(incident) for incident in system.all_incidents()) and time.monotonic() < ends:
                time.sleep(0.5)
        self._show_incidents(system)

    def _await(self, count: Any, enough: int, advance: Any, otherwise: str, patience: float = PATIENCE_SECONDS) -> None:
        """Ask `count` until it reaches `enough`, as long as it still grows now and then."""
        ends, before = time.monotonic() + patience, -1
        while (now := count()) < enough:
            advance(now)
            if now > before:
                before, ends = now, time.monotonic() + patience
            if time.monotonic() > ends:
                raise DemonstrationError(f"{otherwise}: {now} of {enough}; logs are in {self._state / 'cloud'}")
            time.sleep(0.3)
        advance(enough)

    def _show_incidents(self, system: SensorsSystem) -> None:
        """Tell what has changed about incidents since the last look."""
        for incident in system.all_incidents():
            for key, text in incident.texts.items():
                self._tell_once(f"{incident.reference} {key} {text.state}", self._of_text(incident, key, text.state))
            self._tell_once(f"{incident.reference} {incident.state}", _of_incident(incident))

    def _tell_once(self, what: str, words: str | None) -> None:
        if what not in self._seen:
            self._seen[what] = what
            if words:
                self._console.print(f"  [dim]{self._clock.now():%H:%M}[/dim] {words}")

    @staticmethod
    def _of_text(incident: Incident, key: str, state: TextState) -> str | None:
        kind, contact = key.split("#", 1)
        return f"[bold]texted {contact}[/bold]: {kind} {incident.reference}" if state is TextState.SENT else None

    def _summary(self, system: SensorsSystem, url: str, training: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        kinds = system.text_bodies()
        return {
            "seconds": round(seconds, 1),
            "readings": {
                "streamed": len(self._script.readings),
                "stored": system.stored_readings(),
                "quarantined": len(system.quarantined_events()),
            },
            "training": dict(training),
            "incidents": [_summary_of(incident) for incident in system.all_incidents()],
            "texts": [
                {"phone_number": text["phone_number"], "body": text["body"], "kind": kinds.get(text["body"], "unknown")}
                for text in received_texts(url)
            ],
            "functions": system.functions(),
        }

    def _show_summary(self, summary: Mapping[str, Any]) -> None:
        for text in summary["texts"]:
            title = f"Text to {text['phone_number']}"
            self._console.print(Panel(text["body"], title=title, title_align="left", width=64))
        readings = summary["readings"]
        self._console.print(
            f"{readings['streamed']} readings streamed, {readings['stored']} stored,"
            f" {readings['quarantined']} in quarantine; {len(summary['incidents'])} incidents,"
            f" {len(summary['texts'])} texts; {summary['seconds']:.0f} s. Summary: {self._state / 'summary.json'}"
        )

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        with self._progress(what, None):
            yield

    @contextmanager
    def _progress(self, what: str, total: int | None) -> Iterator[Any]:
        """A line that moves while something goes on and stays when it is done; yields how to advance it."""
        columns = [SpinnerColumn(finished_text="[green]done[/green]"), TextColumn("{task.description}")]
        if total is not None:
            columns += [BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}")]
        columns += [TimeElapsedColumn()]
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(what, total=total)

            def advance(to: int | str) -> None:
                if isinstance(to, str):
                    progress.update(task, description=f"{what}: {to}")
                else:
                    progress.update(task, completed=to)

            yield advance
            progress.update(task, total=total or 1, completed=total or 1, description=what)


def _end(cloud: EmbeddedCloud) -> None:
    # one that ended by itself is not what went wrong, but what followed from it
    with suppress(NothingRunsError):
        cloud.down()


def received_texts(url: str) -> list[dict[str, str]]:
    """The texts that phones got from the embedded cloud at `url`, in the order in which they came."""
    by_number = httpx.get(f"{url}/_ministack/sns/sms-messages", trust_env=False).raise_for_status().json()
    texts = [
        {"phone_number": number, "body": message["Message"], "at": str(message.get("Timestamp", ""))}
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
    name, since = incident.equipment.name, f"{incident.first_anomalous_at:%H:%M}"
    if incident.state is IncidentState.RECOVERED and incident.recovered_at:
        return f"[green]recovered[/green]: {name}, after {incident.anomalous_minutes} anomalous minutes"
    if incident.state is IncidentState.OPEN and incident.kind == EQUIPMENT_FAULT:
        return f"[red]incident[/red] {incident.reference}: {name}, anomalous since {since}"
    return None


def _summary_of(incident: Incident) -> dict[str, Any]:
    return {
        "sensor_id": incident.equipment.sensor_id,
        "kind": incident.kind,
        "first_anomalous_at": format_time(incident.first_anomalous_at),
        "opened_at": format_time(incident.opened_at),
        "recovered_at": format_time(incident.recovered_at) if incident.recovered_at else None,
        "anomalous_minutes": incident.anomalous_minutes,
    }
