"""The sensors pipeline, as data flows."""

from aws_cdk import CfnOutput, Stack
from constructs import Construct

from stacks.constructs.operations import Operations
from stacks.sensors.alarms import add_alarms
from stacks.sensors.alerting import Alerting
from stacks.sensors.catalog import catalog_of
from stacks.sensors.dashboard import add_dashboard
from stacks.sensors.detection import Detection
from stacks.sensors.incident_page import IncidentPage
from stacks.sensors.ingestion import Ingestion
from stacks.sensors.storage import Storage
from stacks.sensors.training import Training
from stacks.stage import SensorsStage


class SensorsStack(Stack):
    """Device API -> Readings table -> detection -> texts; and by the side, export -> training -> cutoffs."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: SensorsStage) -> None:
        super().__init__(
            scope,
            construct_id,
            description=f"Overcut, sensors pipeline, stage {stage.name}",
            env={"region": stage.region},
        )
        storage = Storage(self, "Storage", stage=stage)
        operations = Operations(self, "Operations", stage=stage)
        alerting = Alerting(self, "Alerting", stage=stage)
        ingestion = Ingestion(self, "Ingestion", stage=stage, storage=storage)
        page = IncidentPage(self, "Page", stage=stage, storage=storage)
        detection = Detection(
            self, "Detection", stage=stage, storage=storage, alerting=alerting, page=page, operations=operations
        )
        catalog = catalog_of(self, stage, storage)
        training = Training(self, "Training", stage=stage, storage=storage, catalog=catalog, operations=operations)
        add_alarms(operations, stage=stage, alerting=alerting, training=training)
        add_dashboard(
            self,
            stage=stage,
            storage=storage,
            ingestion=ingestion,
            detection=detection,
            page=page,
            training=training,
            operations=operations,
        )
        for name, value in {
            "ReadingsTable": storage.readings.table_name,
            "SensorsTable": storage.sensors.table_name,
            "CutoffsTable": storage.cutoffs.table_name,
            "ModelEventsTable": storage.model_events.table_name,
            "IncidentsTable": storage.incidents.table_name,
            "SourcesTable": storage.sources.table_name,
            "PendingExportsTable": storage.pending_exports.table_name,
            "DataBucket": storage.bucket.bucket_name,
            "AlertsTopic": alerting.alerts.topic_arn,
            "OperationsTopic": operations.topic.topic_arn,
            "ParkedQueue": detection.parked.queue_url,
            "PollReadings": ingestion.poll_readings.function_name,
            "DetectAnomalies": detection.detect_anomalies.function_name,
            "WatchSensors": detection.watch_sensors.function_name,
            "ShowIncident": page.show_incident.function_name,
            "IncidentPage": page.url,
            "ExportTrainingSet": training.export_training_set.function_name,
            "ExportTables": training.export_tables.function_name,
            "ExportWorkflow": training.export.state_machine_arn,
            "TrainingWorkflow": training.train.state_machine_arn,
            "Database": catalog.database_name,
            "WorkGroup": catalog.work_group.name,
        }.items():
            CfnOutput(self, name, value=value)
