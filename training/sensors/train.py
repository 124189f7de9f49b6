"""The training job of the sensors pipeline: S3 readings/ + Incidents table -> S3 models/, Cutoffs, ModelEvents and
Sensors tables.

A SageMaker training job in script mode runs it; hyperparameters arrive as arguments, table names in the environment.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from typing import get_args

import boto3

from lambdas.runtime.clock import Clock, clock_from
from lambdas.sensors.stores import (
    CutoffsStore,
    DataBucket,
    IncidentsStore,
    Learning,
    ModelEventsStore,
    Sensor,
    SensorsStore,
    cutoffs_key,
    dump_cutoffs,
)
from overcut.sensors.cohorts import (
    MIN_READINGS,
    CohortModel,
    SensorSeries,
    TrainingRules,
    cohort_id,
    train_cohort,
)
from overcut.sensors.cutoffs import Cutoff, model_key, retired
from overcut.sensors.features import Detector
from overcut.sensors.forest import ForestParameters
from overcut.sensors.incidents import Label, RunRule
from overcut.sensors.layout import decision_key
from overcut.sensors.learning import (
    EARLIER_VERSIONS,
    LONGEST_WINDOW,
    Abnormal,
    Review,
    clean,
    long_enough,
    review,
    window_of,
)
from overcut.sensors.models import dump_model
from overcut.sensors.readings import format_time, parse_time
from training.sensors.window import Objects, read_window

STORE_THREADS = 16
# fewer sensors are learned before other processes have started
FEWEST_FOR_PROCESSES = 50
# a sensor that is learning is told of as many trainings as there are days
TRAININGS_APART = timedelta(days=1)
# an event is one item of at most 400 KB
MOST_NAMED = 1_000
# of held versions, in one mail
MOST_TOLD = 20


@dataclass(frozen=True)
class TrainingParameters:
    """The hyperparameters of the training job, named as the stage's settings are.

    Attributes:
        window_days: how much of the past to learn from.
        min_deviation: by source and measure, in the measure's unit.
        workflow_started_at: when the workflow began by the machine's clock, the same for every attempt of the job;
            None: when the training did.
    """

    window_days: float
    detector: Detector
    z_factor: float
    false_alarm_budget: float
    num_trees: int
    num_samples_per_tree: int
    consecutive_minutes: int
    recovery_minutes: int
    new_normal_after_hours: float
    min_deviation: Mapping[str, Mapping[str, float]]
    seed: int
    workflow_started_at: datetime | None = None

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "TrainingParameters":
        parser = argparse.ArgumentParser(allow_abbrev=False)
        parser.add_argument("--window_days", type=float, required=True)
        parser.add_argument("--detector", choices=get_args(Detector), required=True)
        parser.add_argument("--z_factor", type=float, required=True)
        parser.add_argument("--false_alarm_budget", type=float, required=True)
        parser.add_argument("--num_trees", type=int, required=True)
        parser.add_argument("--num_samples_per_tree", type=int, required=True)
        parser.add_argument("--consecutive_minutes", type=int, required=True)
        parser.add_argument("--recovery_minutes", type=int, required=True)
        parser.add_argument("--new_normal_after_hours", type=float, required=True)
        parser.add_argument("--min_deviation", type=json.loads, required=True)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--workflow_started_at", type=datetime.fromisoformat)
        return cls(**vars(parser.parse_args(arguments)))

    @property
    def window(self) -> timedelta:
        return timedelta(days=self.window_days)

    @property
    def new_normal_after(self) -> timedelta:
        return timedelta(hours=self.new_normal_after_hours)

    @property
    def rules(self) -> TrainingRules:
        return TrainingRules(
            forest=ForestParameters(self.num_trees, self.num_samples_per_tree),
            detector=self.detector,
            z_factor=self.z_factor,
            false_alarm_budget=self.false_alarm_budget,
            run_rule=RunRule(self.consecutive_minutes, self.recovery_minutes),
        )


# --- what there is to learn from ---


@dataclass(frozen=True)
class Cohort:
    """Sensors that share a model, and what may be learned of them.

    Attributes:
        anew: those whose usual has changed for good.
    """

    cohort_id: str
    measures: tuple[str, ...]
    series: list[SensorSeries] = field(default_factory=list)
    anew: set[str] = field(default_factory=set)


def read_cohorts(
    objects: Objects,
    sensors: Mapping[str, Sensor],
    abnormal: Mapping[str, Sequence[Abnormal]],
    parameters: TrainingParameters,
    trained_at: datetime,
) -> list[Cohort]:
    """The cohorts of the sensors that measured anything in the window, in the order of their ids.

    Args:
        abnormal: by sensor, the incidents of the longest window.
    """
    cohorts: dict[str, Cohort] = {}
    for measured in read_window(objects, trained_at, parameters.window):
        sensor_id = measured.series.sensor_id
        sensor = sensors.get(sensor_id, Sensor(sensor_id, "", {}))
        since = trained_at - window_of(measured.series, parameters.window)
        incidents = [one for one in abnormal.get(sensor_id, ()) if one.last_anomalous_at >= since]
        name = cohort_id(sensor.kind, sensor.source_id, measured.measures)
        cohort = cohorts.setdefault(name, Cohort(name, measured.measures))
        if any(one.is_new_normal(long_enough(measured.series, parameters.new_normal_after)) for one in incidents):
            cohort.anew.add(sensor_id)
        cleaned = clean(measured.series, incidents, new_normal_after=parameters.new_normal_after)
        cohort.series.append(_with_deviations(cleaned, parameters.min_deviation.get(sensor.source_id, {})))
    for cohort in cohorts.values():
        cohort.series.sort(key=lambda one: one.sensor_id)
    return [cohort for _, cohort in sorted(cohorts.items())]


def _with_deviations(series: SensorSeries, min_deviation: Mapping[str, float]) -> SensorSeries:
    return SensorSeries(series.sensor_id, series.measured_at, series.values, series.is_clean, min_deviation)


def abnormal_stretches(incidents: IncidentsStore, since: datetime) -> dict[str, list[Abnormal]]:
    """By sensor the incidents since a moment."""
    found: dict[str, list[Abnormal]] = {}
    for one in incidents.stretches(since):
        label = one.get("label")
        found.setdefault(one["sensor_id"], []).append(
            Abnormal(
                parse_time(one["first_anomalous_at"]),
                parse_time(one["last_anomalous_at"]),
                Label(label) if label else None,
            )
        )
    return found


# --- what becomes of it ---


def learning_until(readings: int, series: SensorSeries, trained_at: datetime, window: timedelta) -> str:
    """The first training at which a sensor has enough readings, at the rate of now; empty when none will."""
    if not readings:
        return ""
    measuring = trained_at - datetime.fromtimestamp(int(series.measured_at[0]), trained_at.tzinfo)
    each = measuring / readings
    if window_of(series, window) < MIN_READINGS * each:
        return ""
    trainings = max(1, ceil((MIN_READINGS - readings) * each / TRAININGS_APART))
    return format_time(trained_at + trainings * TRAININGS_APART)


@dataclass(frozen=True)
class Trainer:
    """Trains cohorts and puts what they learned to use."""

    parameters: TrainingParameters
    job_name: str
    trained_at: datetime
    clock: Clock
    bucket: DataBucket
    sensors: SensorsStore
    cutoffs: CutoffsStore
    incidents: IncidentsStore
    events: ModelEventsStore
    threads: Executor

    def train(self) -> list[dict[str, object]]:
        """Train every cohort that has readings; what happened to each."""
        known = {sensor.sensor_id: sensor for sensor in self.sensors.all()}
        longest = max(self.parameters.window, LONGEST_WINDOW)
        abnormal = abnormal_stretches(self.incidents, self.trained_at - longest)
        cohorts = read_cohorts(self.bucket, known, abnormal, self.parameters, self.trained_at)
        if not cohorts:
            raise SystemExit("there are no exported readings in the training window: run the export first")
        measuring = {one.sensor_id for cohort in cohorts for one in cohort.series}
        silent = self._retire(sorted(known.keys() - measuring))
        happened = []
        with processes_for(len(measuring)) as processes:
            for cohort in cohorts:
                of_cohort = silent.pop(cohort.cohort_id, [])
                happened.append(self._train_cohort(cohort, known, of_cohort, processes))
        happened += [self._record(name, {"decision": "retired", "retired": some}) for name, some in silent.items()]
        return happened

    def tell_decision(self, happened: Iterable[Mapping[str, object]]) -> None:
        """Leave the workflow what it tells the people who run this: held, when a version waits for their approval."""
        held = [
            f"Version {one['model_version']} of {one['model_id']} is held: {one['reason']}."
            for one in happened
            if one["decision"] == "held" and "model_version" in one
        ]
        told = held[:MOST_TOLD]
        if len(held) > MOST_TOLD:
            told.append(f"And {len(held) - MOST_TOLD} more.")
        told.append("Sensors are judged by their versions before; `overcut cutoffs held` lists, `approve` takes.")
        decision = {"decision": "held", "reason": "\n".join(told)} if held else {"decision": "promoted", "reason": ""}
        self.bucket.put(decision_key(self.job_name), json.dumps(decision).encode())

    def _retire(self, silent: Sequence[str]) -> dict[str, list[str]]:
        """Sensors that were judged and have measured nothing in the window are learned anew when they are back; by
        cohort those of them."""
        earlier, standing = self._earlier(silent, 1)
        judged = [cutoff for found in earlier.values() for cutoff in found if cutoff.ranges]
        anew = (retired(one, self.trained_at, self.trained_at) for one in judged if one.sensor_id not in standing)
        self.cutoffs.promote(anew, self.clock.now())
        by_cohort: dict[str, list[str]] = {}
        for cutoff in judged:
            by_cohort.setdefault(cutoff.cohort_id, []).append(cutoff.sensor_id)
        return by_cohort

    def _train_cohort(
        self, cohort: Cohort, known: Mapping[str, Sensor], silent: Sequence[str], processes: Executor | None
    ) -> dict[str, object]:
        model = train_cohort(
            cohort.series,
            cohort_id=cohort.cohort_id,
            measures=cohort.measures,
            rules=self.parameters.rules,
            trained_at=self.trained_at,
            seed=self.parameters.seed,
            executor=processes,
        )
        earlier, standing = self._earlier((one.sensor_id for one in cohort.series), EARLIER_VERSIONS)
        reviewed = review(model.cutoffs, earlier, frozenset(cohort.anew))
        event = self._promote(model, reviewed, standing)
        judged = {sensor_id for sensor_id, cutoffs in earlier.items() if cutoffs and cutoffs[-1].ranges}
        self._tell_learning(cohort, model, known, judged)
        if event["decision"] == "promoted":
            learned = [one.sensor_id for one in model.cutoffs]
            self._set_learning({name: None for name in learned if name in known and known[name].learning})
            anew = cohort.anew.intersection(learned)
            self._take_as_usual(one for one in cohort.series if one.sensor_id in anew)
        return self._record(cohort.cohort_id, {**event, "retired": silent[:MOST_NAMED]})

    def _take_as_usual(self, anew: Iterable[SensorSeries]) -> None:
        """The open incidents that sensors were learned anew from are how things are now."""
        for one in anew:
            lasting = long_enough(one, self.parameters.new_normal_after)
            for incident in self.incidents.of(one.sensor_id, self.trained_at - LONGEST_WINDOW, self.trained_at):
                if Abnormal(incident.first_anomalous_at, incident.last_anomalous_at).is_new_normal(lasting):
                    self.incidents.take_as_usual(incident)

    def _earlier(self, sensor_ids: Iterable[str], count: int) -> tuple[dict[str, list[Cutoff]], set[str]]:
        """Of each sensor its last cutoffs, oldest first; and the sensors for which an earlier attempt of this very job
        has put one to use: that one is not compared with, and stands, since readings may have been judged by it."""
        names = list(sensor_ids)
        newest = dict(
            zip(names, self.threads.map(lambda name: self.cutoffs.newest(name, count + 1), names), strict=True)
        )
        earlier = {
            name: [one for one in found if one.trained_at != self.trained_at][:count][::-1]
            for name, found in newest.items()
        }
        return earlier, {name for name, found in newest.items() if any(c.trained_at == self.trained_at for c in found)}

    def _promote(self, model: CohortModel, reviewed: Review, standing: Collection[str]) -> dict[str, object]:
        """Write a version's model, then its cutoffs; to where they can be approved, if it is held."""
        event: dict[str, object] = {
            "sensors": len(model.cutoffs),
            "readings": sum(cutoff.reading_count for cutoff in model.cutoffs),
            "learning": len(model.learning),
        }
        if model.model is None:
            return {**event, "decision": "held", "reason": "no sensor has enough readings yet"}
        self.bucket.put(model_key(model.cohort_id, model.model_version), dump_model(model.model))
        event["model_version"] = model.model_version
        moved = reviewed.clamped[:MOST_NAMED]
        if reviewed.held:
            self.bucket.put(cutoffs_key(model.cohort_id, model.model_version), dump_cutoffs(model.cutoffs))
            return {**event, "decision": "held", "reason": reviewed.held, "outside": moved}
        new = (cutoff for cutoff in reviewed.cutoffs if cutoff.sensor_id not in standing)
        effective_from = self.cutoffs.promote(new, self.clock.now())
        promoted = {"decision": "promoted", "reason": "", "effective_from": format_time(effective_from)}
        return {**event, **promoted, "clamped": moved}

    def _tell_learning(self, cohort: Cohort, model: CohortModel, known: Mapping[str, Sensor], judged: set[str]) -> None:
        """Sensors that are not judged and have too few readings say how far they are."""
        told: dict[str, Learning | None] = {}
        for one in cohort.series:
            readings = model.learning.get(one.sensor_id)
            if readings is not None and one.sensor_id in known and one.sensor_id not in judged:
                until = learning_until(readings, one, self.trained_at, self.parameters.window)
                told[one.sensor_id] = Learning(readings, until)
        self._set_learning(told)

    def _set_learning(self, told: Mapping[str, Learning | None]) -> None:
        for _ in self.threads.map(lambda one: self.sensors.set_learning(*one), told.items()):
            pass

    def _record(self, name: str, event: Mapping[str, object]) -> dict[str, object]:
        whole: dict[str, object] = {
            "job_name": self.job_name,
            "window_from": format_time(self.trained_at - self.parameters.window),
            "window_to": format_time(self.trained_at),
            "detector": self.parameters.detector,
            "z_factor": self.parameters.z_factor,
            "false_alarm_budget": self.parameters.false_alarm_budget,
            **event,
        }
        self.events.put(name, self.trained_at, whole)
        return {"model_id": name, **whole}


def processes_for(sensors: int) -> AbstractContextManager[Executor | None]:
    """As many processes as there are cores; none for a few sensors."""
    if sensors < FEWEST_FOR_PROCESSES:
        return nullcontext()
    # spawned: a copy of a process that has threads may wait for ever for what they hold
    return ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))


def main(arguments: Sequence[str]) -> None:
    """Train every cohort. Writes what happened to the model directory as well, as `trainings.json`."""
    environment, dynamodb, parameters = os.environ, boto3.client("dynamodb"), TrainingParameters.parse(arguments)
    clock, started = clock_from(environment["CLOCK"]), parameters.workflow_started_at
    # a job that is started again trains as of the same moment: what it puts to use replaces what the first one did
    trained_at = clock.at(started.timestamp()) if started else clock.now()
    with ThreadPoolExecutor(STORE_THREADS) as threads:
        trainer = Trainer(
            parameters=parameters,
            job_name=environment["TRAINING_JOB_NAME"],
            trained_at=trained_at.replace(microsecond=0),
            clock=clock,
            bucket=DataBucket(boto3.client("s3"), environment["DATA_BUCKET"]),
            sensors=SensorsStore(dynamodb, environment["SENSORS_TABLE"]),
            cutoffs=CutoffsStore(dynamodb, environment["CUTOFFS_TABLE"]),
            incidents=IncidentsStore(dynamodb, environment["INCIDENTS_TABLE"]),
            events=ModelEventsStore(dynamodb, environment["MODEL_EVENTS_TABLE"]),
            threads=threads,
        )
        happened = trainer.train()
        trainer.tell_decision(happened)
    (Path(environment["SM_MODEL_DIR"]) / "trainings.json").write_text(json.dumps(happened, indent=2))
