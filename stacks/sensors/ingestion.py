"""Ingestion: one schedule a source polls its stream into the Readings table."""

import json
from dataclasses import asdict

from aws_cdk import ArnFormat, Duration, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from constructs import Construct

from stacks.constructs.function import PipelineFunction
from stacks.constructs.grants import allow, allow_objects
from stacks.sensors.storage import Storage
from stacks.stage import SensorsStage

EVERY_MINUTE = Duration.minutes(1)


class Ingestion(Construct):
    """poll_readings, every minute for each source. The next minute is the retry: nothing else repeats a poll."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: SensorsStage, storage: Storage) -> None:
        super().__init__(scope, construct_id)
        self.poll_readings = PipelineFunction(
            self,
            "PollReadings",
            stage=stage,
            pipeline="sensors",
            function="poll_readings",
            description="Reads one source's stream into the Readings table",
            timeout=Duration.seconds(170),  # it holds a stream for at most 130 seconds
            retry_attempts=0,
            max_event_age=EVERY_MINUTE,
            environment={
                "READINGS_TABLE": storage.readings.table_name,
                "SENSORS_TABLE": storage.sensors.table_name,
                "SOURCES_TABLE": storage.sources.table_name,
                "PENDING_EXPORTS_TABLE": storage.pending_exports.table_name,
                "DATA_BUCKET": storage.bucket.bucket_name,
                "CLOCK": stage.clock,
                "RETENTION_DAYS": json.dumps(stage.sensors.retention_days),
                "EXPORT_BUCKETS": json.dumps(stage.sensors.export_buckets),
                "SILENT_AFTER_MINUTES": json.dumps(stage.sensors.silent_after_minutes),
            },
        )
        storage.readings.allow(self.poll_readings, "BatchWriteItem")
        storage.sensors.allow(self.poll_readings, "BatchGetItem", "UpdateItem")
        storage.sources.allow(self.poll_readings, "GetItem", "UpdateItem")
        storage.pending_exports.allow(self.poll_readings, "BatchWriteItem")
        allow_objects(self.poll_readings, storage.bucket, "quarantine/", "s3:PutObject")
        allow_objects(self.poll_readings, storage.bucket, "seen/", "s3:GetObject", "s3:PutObject")
        # without it, S3 does not tell an object that is not there from one that may not be read
        allow(self.poll_readings, storage.bucket.bucket_arn, "s3:ListBucket")
        for source_id in sorted(stage.sensors.sources):
            self._schedule(source_id, stage)

    def _schedule(self, source_id: str, stage: SensorsStage) -> None:
        source = stage.sensors.sources[source_id]
        if source.secret_name:
            secret = Stack.of(self).format_arn(
                service="secretsmanager",
                resource="secret",
                # Secrets Manager ends a secret's ARN in six characters of its own
                resource_name=f"{source.secret_name}-??????",
                arn_format=ArnFormat.COLON_RESOURCE_NAME,
            )
            allow(self.poll_readings, secret, "secretsmanager:GetSecretValue")
        events.Rule(
            self,
            f"Every-minute-{source_id}",
            schedule=events.Schedule.rate(EVERY_MINUTE),
            description=f"Polls the source {source_id}",
            targets=[
                targets.LambdaFunction(
                    self.poll_readings,
                    retry_attempts=0,
                    max_event_age=EVERY_MINUTE,
                    event=events.RuleTargetInput.from_object(
                        {
                            "source_id": source_id,
                            "url": source.url,
                            "secret_name": source.secret_name,
                            "mapping": asdict(source.mapping),
                        }
                    ),
                )
            ],
        )
