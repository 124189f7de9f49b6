"""A deployed sensors pipeline, seen through the AWS API: what the command line and the demonstration ask it."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any

from lambdas.runtime.clock import clock_from
from lambdas.runtime.observability import Observability
from lambdas.sensors.poll_readings.polling import Intake, SourceSetting
from lambdas.sensors.stores import (
    CutoffsStore,
    DataBucket,
    IncidentsStore,
    KnownIncident,
    ModelEventsStore,
    PendingExportsStore,
    ReadingsStore,
    SensorsStore,
    SourcesStore,
    incident_from_item,
)
from overcut import RefusedError
from overcut.sensors.cutoffs import Cutoff
from overcut.sensors.incidents import Incident
from overcut.sensors.models import Model, load_model
from overcut.sensors.readings import format_time
from stacks.stage import SensorsStage
from workbench.aws_commands import typed
from workbench.deployed import DeployedPipeline
from workbench.parked import BatchesQueue, EventsQueue, NotRedrivenError, Queue, RecordsQueue, judge_again
from workbench.workflows import run_workflow


@dataclass(frozen=True)
class Training:
    """How a run of the training workflow went.

    Attributes:
        cause: why it failed, in the words of what failed; empty when it succeeded.
    """

    status: str
    job_name: str
    seconds: float
    cause: str


class NoSuchIncidentError(RefusedError):
    """A reference names no incident, or several; the text says which, and what to do."""


class SensorsSystem(DeployedPipeline):
    """One deployed sensors pipeline."""

    PIPELINE = "sensors"

    @cached_property
    def _dynamodb(self) -> Any:
        return self._client("dynamodb")

    @cached_property
    def sensors(self) -> SensorsStore:
        return SensorsStore(self._dynamodb, self._outputs["SensorsTable"])

    @cached_property
    def readings(self) -> ReadingsStore:
        return ReadingsStore(self._dynamodb, self._outputs["ReadingsTable"])

    @cached_property
    def cutoffs(self) -> CutoffsStore:
        return CutoffsStore(self._dynamodb, self._outputs["CutoffsTable"])

    @cached_property
    def model_events(self) -> ModelEventsStore:
        return ModelEventsStore(self._dynamodb, self._outputs["ModelEventsTable"])

    @cached_property
    def incidents(self) -> IncidentsStore:
        return IncidentsStore(self._dynamodb, self._outputs["IncidentsTable"])

    @cached_property
    def sources(self) -> SourcesStore:
        return SourcesStore(self._dynamodb, self._outputs["SourcesTable"])

    @cached_property
    def bucket(self) -> DataBucket:
        return DataBucket(self._client("s3"), self._outputs["DataBucket"])

    def model(self, cutoff: Cutoff) -> Model:
        """The model that a cutoff belongs to; read once."""
        if cutoff.model_key not in self._models:
            self._models[cutoff.model_key] = load_model(self.bucket.get(cutoff.model_key))
        return self._models[cutoff.model_key]

    @cached_property
    def _models(self) -> dict[str, Model]:
        return {}

    def start_polls(self) -> None:
        """Begin now what every source's schedule would begin within a minute."""
        events, function = self._client("events"), self._outputs["PollReadings"]
        arn = self._client("lambda").get_function(FunctionName=function)["Configuration"]["FunctionArn"]
        for rule in events.list_rule_names_by_target(TargetArn=arn)["RuleNames"]:
            for target in events.list_targets_by_rule(Rule=rule)["Targets"]:
                self._client("lambda").invoke(FunctionName=function, InvocationType="Event", Payload=target["Input"])

    def stored_readings(self) -> int:
        """How many readings the table holds; reads the whole table."""
        pages = self._dynamodb.get_paginator("scan").paginate(TableName=self._outputs["ReadingsTable"], Select="COUNT")
        return sum(page["Count"] for page in pages)

    def quarantined_events(self) -> list[dict[str, str]]:
        """The events in quarantine, each once however often it came."""
        kept = {
            line: json.loads(line)
            for key in self.bucket.keys("quarantine/")
            for line in self.bucket.get(key).decode().splitlines()
        }
        return list(kept.values())

    def parked_queues(self, stage: SensorsStage) -> list[Queue]:
        """What the pipeline's functions could not process."""
        rules = stage.sensors
        intake = Intake(
            readings=self.readings,
            sensors=self.sensors,
            pending=PendingExportsStore(self._dynamodb, self._outputs["PendingExportsTable"]),
            clock=clock_from(stage.clock),
            outcomes=Observability("parked", stage.name),
            retention=timedelta(days=rules.retention_days),
            buckets=rules.export_buckets,
        )
        sources = {name: SourceSetting(name, source.url, source.mapping) for name, source in rules.sources.items()}
        judge = partial(judge_again, readings=self.readings, detect=self.detect)
        return [
            RecordsQueue(self._client("sqs"), self._outputs["ParkedQueue"], judge),
            BatchesQueue(self.bucket, judge),
            EventsQueue(self.bucket, intake, sources),
        ]

    def parked_records(self) -> int:
        """About how many records of the stream are parked; looks at none of them."""
        about = "ApproximateNumberOfMessages"
        answer = self._client("sqs").get_queue_attributes(QueueUrl=self._outputs["ParkedQueue"], AttributeNames=[about])
        return int(answer["Attributes"][about])

    def detect(self, event: Mapping[str, Any]) -> None:
        """Hand detect_anomalies an event of the stream.

        Raises:
            NotRedrivenError: it failed.
        """
        function = self._outputs["DetectAnomalies"]
        answer = self._client("lambda").invoke(FunctionName=function, Payload=json.dumps(event))
        if "FunctionError" in answer:
            raise NotRedrivenError(f"detect_anomalies failed: {answer['Payload'].read().decode():.500}")

    def incident(self, reference: str, sensor_id: str | None = None) -> KnownIncident:
        """The incident that a text names by its reference.

        Args:
            sensor_id: whose it is, for a reference that several have.

        Raises:
            NoSuchIncidentError: no incident has it, or more than one.
        """
        wanted = reference.strip().upper()
        found = list(self.incidents.known(wanted)) if wanted else []
        mine = [one for one in found if sensor_id in (None, one.incident.equipment.sensor_id)]
        if not mine:
            whose = f" of sensor {sensor_id}" if sensor_id else ""
            raise NoSuchIncidentError(
                f"no incident{whose} has the reference {wanted!r}; {typed('incidents list', self._stage)} shows all"
            )
        if len(mine) > 1:
            told = ", ".join(
                f"{one.incident.equipment.sensor_id} opened {format_time(one.incident.opened_at)}" for one in mine
            )
            raise NoSuchIncidentError(
                f"{wanted} is the reference of {len(mine)} incidents ({told}); add --sensor SENSOR"
            )
        return mine[0]

    def all_incidents(self) -> list[Incident]:
        """Every incident, in the order in which they began; reads the whole table."""
        return sorted((incident_from_item(item) for item in self._incident_items()), key=lambda i: i.first_anomalous_at)

    def text_bodies(self) -> dict[str, str]:
        """The kind (alert or recovery) of every text that was sent, by its words."""
        texts = (text["M"] for item in self._incident_items() for text in item["texts"]["M"].values())
        return {text["body"]["S"]: text["kind"]["S"] for text in texts if "body" in text}

    def _incident_items(self) -> Iterator[dict[str, Any]]:
        for page in self._dynamodb.get_paginator("scan").paginate(TableName=self._outputs["IncidentsTable"]):
            yield from (item for item in page["Items"] if "cause" in item)

    def train(self, name: str, while_waiting: Callable[[str], None]) -> Training:
        """Run the training workflow under an execution name that was not used before, to its end.

        Args:
            while_waiting: told the state that the workflow is in, again and again.
        """
        arn = self._outputs["TrainingWorkflow"]
        execution = run_workflow(self._client("stepfunctions"), arn, name, {}, while_waiting)
        job = execution.output.get("training_job", {})
        return Training(execution.status, job.get("TrainingJobName", ""), execution.seconds, execution.cause)

    def trained_by(self, training_job: str) -> list[dict[str, Any]]:
        """What a training job recorded of each model; reads the whole ModelEvents table."""
        return [event for event in self.model_events.all() if event.get("job_name") == training_job]

    def export(self, name: str) -> str:
        """Run the export workflow under an execution name that was not used before, to its end; how it ended."""
        arn = self._outputs["ExportWorkflow"]
        return run_workflow(self._client("stepfunctions"), arn, name, {}, lambda _: None).status

    def judged_readings(self) -> int:
        """How many readings detect_anomalies was handed, by the metrics in its log; repeats count again."""
        counted = ("ReadingsJudged", "ReadingsWhileLearning")
        lines = self.logged("DetectAnomalies", '"_aws"')
        return sum(int(sum(line.get(outcome, [0]))) for line in lines for outcome in counted)

    def logged(self, output: str, part: str) -> Iterator[dict[str, Any]]:
        """The lines of a function's log that hold some text, all of them JSON; `output` of the stack names it."""
        config = self._client("lambda").get_function(FunctionName=self._outputs[output])["Configuration"]
        pages = (
            self._client("logs")
            .get_paginator("filter_log_events")
            .paginate(logGroupName=config["LoggingConfig"]["LogGroup"])
        )
        for page in pages:
            yield from (json.loads(event["message"]) for event in page["events"] if part in event["message"])

    def functions(self) -> list[dict[str, Any]]:
        """Name, memory, invocations and errors of every function that the deployed version has, over the last day."""
        found, now = [], datetime.now(UTC)
        outputs = (
            *("PollReadings", "DetectAnomalies", "ExportTrainingSet", "ExportTables"),
            *("WatchSensors", "ShowIncident"),
        )
        for name in (self._outputs[output] for output in outputs if output in self._outputs):
            config = self._client("lambda").get_function(FunctionName=name)["Configuration"]
            counts = {
                metric: sum(
                    point["Sum"]
                    for point in self._client("cloudwatch").get_metric_statistics(
                        Namespace="AWS/Lambda",
                        MetricName=metric,
                        Dimensions=[{"Name": "FunctionName", "Value": name}],
                        StartTime=now - timedelta(days=1),
                        EndTime=now + timedelta(minutes=1),
                        Period=60,
                        Statistics=["Sum"],
                    )["Datapoints"]
                )
                for metric in ("Invocations", "Errors")
            }
            found.append(
                {
                    "name": config["Handler"].split(".")[-3],
                    "memory_mb": config["MemorySize"],
                    "invocations": int(counts["Invocations"]),
                    "errors": int(counts["Errors"]),
                }
            )
        return found
