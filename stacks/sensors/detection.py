"""Detection: from the Readings table's stream to incidents and texts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as event_sources
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from stacks.constructs.acknowledgements import acknowledge, acknowledge_wildcard
from stacks.constructs.encryption import own_key
from stacks.constructs.function import PipelineFunction
from stacks.constructs.grants import FailuresToBucket, allow, allow_objects
from stacks.constructs.operations import Operations
from stacks.sensors.alerting import Alerting
from stacks.sensors.incident_page import IncidentPage
from stacks.sensors.storage import Storage
from stacks.stage import SensorsStage

DETECT_TIMEOUT = Duration.seconds(60)
# what comes meanwhile is judged at once: each invocation costs more than the readings in it
DETECT_WINDOW = Duration.seconds(20)
DETECT_BATCH = 500
# a claimed text is owed again when its sender cannot live any longer
CLAIM_SECONDS = 90


@dataclass(frozen=True)
class Lots:
    """How the readings of a shard are shared out.

    Attributes:
        side_by_side: judged so, each by an instance of detect_anomalies.
        memory_mb: of an instance; it is as fast as it is large.
    """

    side_by_side: int
    memory_mb: int

    @property
    def measures_remembered(self) -> int:
        """What its memory has room for: 10 KB a measure, beside 100 MB."""
        return 100 * (self.memory_mb - 100)


# a storm, or what waits after an outage, is over soon
MANY_LOTS = Lots(10, 512)
# nothing is handed to another instance, which would have to read what it missed; it has a whole core instead
ONE_LOT = Lots(1, 1_769)
# each has room for what it remembers of a hundred thousand sensors
LARGE_LOTS = Lots(10, 1_769)
# write units a second: up to the first, an instance that is new is done with reading within two minutes; up to the
# second, what 512 MB remember suffices
ONE_LOT_WRITES, MANY_LOTS_WRITES = 100, 600


def lots_of(stage: SensorsStage) -> Lots:
    """By how large the fleet is known to be."""
    writes = stage.sensors.provisioned_writes
    if writes and writes.minimum <= ONE_LOT_WRITES:
        return ONE_LOT
    return LARGE_LOTS if writes and writes.minimum > MANY_LOTS_WRITES else MANY_LOTS


class Detection(Construct):
    """detect_anomalies on the stream, watch_sensors every minute for what is still owed."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: SensorsStage,
        storage: Storage,
        alerting: Alerting,
        page: IncidentPage,
        operations: Operations,
    ) -> None:
        super().__init__(scope, construct_id)
        self.parked = sqs.Queue(
            self,
            "Parked",
            retention_period=Duration.days(14),
            encryption=sqs.QueueEncryption.KMS if stage.own_key else sqs.QueueEncryption.SQS_MANAGED,
            encryption_master_key=own_key(self, stage),
            enforce_ssl=True,
        )
        acknowledge(self.parked, "AwsSolutions-SQS3", "what is parked waits for people: it is itself where failures go")
        links = {"LINK_PREFIX": page.link_prefix, "LINK_HOURS": json.dumps(stage.sensors.page.link_hours)}
        self.detect_anomalies = self._detect_anomalies(stage, storage, alerting, links)
        self.watch_sensors = self._watch_sensors(stage, storage, alerting, links)
        operations.alarm(
            "ReadingsWait",
            self.detect_anomalies.metric("IteratorAge", statistic="Maximum", period=Duration.minutes(1)),
            above=Duration.minutes(2).to_milliseconds(),
            description="Stored readings wait more than two minutes to be judged: texts are late",
        )
        operations.alarm(
            "RecordsParked",
            self.parked.metric_approximate_number_of_messages_visible(period=Duration.minutes(5)),
            above=0,
            description="A stream record could not be processed and is parked:"
            f" `overcut parked list --stage {stage.name}` says why",
        )

    def _detect_anomalies(
        self, stage: SensorsStage, storage: Storage, alerting: Alerting, links: Mapping[str, str]
    ) -> PipelineFunction:
        rules, lots = stage.sensors, lots_of(stage)
        function = PipelineFunction(
            self,
            "DetectAnomalies",
            stage=stage,
            pipeline="sensors",
            function="detect_anomalies",
            description="Judges readings, opens incidents and texts about them",
            timeout=DETECT_TIMEOUT,
            memory_mb=lots.memory_mb,
            environment={
                "READINGS_TABLE": storage.readings.table_name,
                "SENSORS_TABLE": storage.sensors.table_name,
                "CUTOFFS_TABLE": storage.cutoffs.table_name,
                "INCIDENTS_TABLE": storage.incidents.table_name,
                "DATA_BUCKET": storage.bucket.bucket_name,
                "ALERTS_TOPIC": alerting.alerts.topic_arn,
                "PARKED_QUEUE": self.parked.queue_url,
                "CLOCK": stage.clock,
                "MEASURES_REMEMBERED": json.dumps(lots.measures_remembered),
                "CONSECUTIVE_MINUTES": json.dumps(rules.consecutive_minutes),
                "RECOVERY_MINUTES": json.dumps(rules.recovery_minutes),
                "STALE_AFTER_MINUTES": json.dumps(rules.stale_after_minutes),
                "GROUP_MINUTES": json.dumps(rules.group_minutes),
                "CONTACTS": json.dumps(_contacts(stage)),
                "DEFAULT_CONTACT": rules.default_contact,
                "CLAIM_SECONDS": json.dumps(CLAIM_SECONDS),
                "TEXTS_PER_HOUR": json.dumps(stage.sensors.texts_per_hour),
                "TEXTS_PER_MONTH": json.dumps(stage.sensors.texts_per_month),
                "TEXTED_KINDS": json.dumps(rules.texted_kinds),
                **links,
            },
        )
        storage.readings.allow(function, "Query")
        storage.sensors.allow(function, "GetItem")
        storage.cutoffs.allow(function, "Query")
        storage.incidents.allow(function, "GetItem", "PutItem", "UpdateItem", "Query")
        allow_objects(function, storage.bucket, "models/sensors/", "s3:GetObject")
        allow(function, alerting.alerts.topic_arn, "sns:Publish")
        self.parked.grant(function, "sqs:SendMessage")
        function.add_event_source(
            event_sources.DynamoEventSource(
                storage.readings,
                starting_position=lambda_.StartingPosition.TRIM_HORIZON,
                batch_size=DETECT_BATCH,
                max_batching_window=DETECT_WINDOW,
                parallelization_factor=lots.side_by_side,
                bisect_batch_on_error=True,
                max_record_age=Duration.hours(6),
                on_failure=FailuresToBucket(storage.bucket),
                filters=[
                    # an expired reading leaves the table, and that is no reading
                    lambda_.FilterCriteria.filter({"eventName": lambda_.FilterRule.or_("INSERT", "MODIFY")})
                ],
            )
        )
        acknowledge_wildcard(
            function,
            "*",
            "Lambda lists streams to find the table's, and a list has no resource: "
            "https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-eventsourcemapping.html",
        )
        return function

    def _watch_sensors(
        self, stage: SensorsStage, storage: Storage, alerting: Alerting, links: Mapping[str, str]
    ) -> PipelineFunction:
        function = PipelineFunction(
            self,
            "WatchSensors",
            stage=stage,
            pipeline="sensors",
            function="watch_sensors",
            description="Sends the texts that are still owed, and tells of silence",
            timeout=DETECT_TIMEOUT,
            retry_attempts=0,
            max_event_age=Duration.minutes(1),
            environment={
                "INCIDENTS_TABLE": storage.incidents.table_name,
                "SENSORS_TABLE": storage.sensors.table_name,
                "SOURCES_TABLE": storage.sources.table_name,
                "DATA_BUCKET": storage.bucket.bucket_name,
                "ALERTS_TOPIC": alerting.alerts.topic_arn,
                "CLOCK": stage.clock,
                "GROUP_MINUTES": json.dumps(stage.sensors.group_minutes),
                "CLAIM_SECONDS": json.dumps(CLAIM_SECONDS),
                "TEXTS_PER_HOUR": json.dumps(stage.sensors.texts_per_hour),
                "TEXTS_PER_MONTH": json.dumps(stage.sensors.texts_per_month),
                "NEW_NORMAL_AFTER_HOURS": json.dumps(stage.sensors.new_normal_after_hours),
                "SOURCES": json.dumps(sorted(stage.sensors.sources)),
                "SILENT_AFTER_MINUTES": json.dumps(stage.sensors.silent_after_minutes),
                "TEXTED_KINDS": json.dumps(stage.sensors.texted_kinds),
                "CONTACTS": json.dumps(_contacts(stage)),
                "DEFAULT_CONTACT": stage.sensors.default_contact,
                "ESCALATE_AFTER_MINUTES": json.dumps(stage.sensors.escalate_after_minutes),
                **links,
            },
        )
        storage.incidents.allow(function, "BatchGetItem", "GetItem", "PutItem", "UpdateItem")
        storage.incidents.allow_query_of("attention", function)
        storage.sensors.allow(function, "Scan")
        storage.sources.allow(function, "GetItem")
        allow_objects(function, storage.bucket, "seen/", "s3:GetObject")
        # without it, S3 does not tell an object that is not there from one that may not be read
        allow(function, storage.bucket.bucket_arn, "s3:ListBucket")
        allow(function, alerting.alerts.topic_arn, "sns:Publish")
        events.Rule(
            self,
            "Every-minute",
            schedule=events.Schedule.rate(Duration.minutes(1)),
            description="Sends the texts that are still owed, and tells of silence",
            targets=[targets.LambdaFunction(function, retry_attempts=0, max_event_age=Duration.minutes(1))],
        )
        return function


def _contacts(stage: SensorsStage) -> list[dict[str, Any]]:
    return [{"contact_id": name, **one.model_dump()} for name, one in sorted(stage.sensors.contacts.items())]
