"""The sensors pipeline's dashboard."""

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from stacks.constructs.dashboard import HEIGHT, WIDTH, PipelineDashboard, graph, newest_lines
from stacks.constructs.operations import Operations
from stacks.sensors.alerting import spent_on_texts
from stacks.sensors.detection import Detection
from stacks.sensors.incident_page import IncidentPage
from stacks.sensors.ingestion import Ingestion
from stacks.sensors.storage import Storage
from stacks.sensors.training import Training
from stacks.stage import SensorsStage


def add_dashboard(
    scope: Construct,
    *,
    stage: SensorsStage,
    storage: Storage,
    ingestion: Ingestion,
    detection: Detection,
    page: IncidentPage,
    training: Training,
    operations: Operations,
) -> None:
    """From event to text, open incidents and alarms, cost and health."""
    counted, dashboard = operations.counted, PipelineDashboard(scope, "Dashboard", stage=stage, pipeline="sensors")
    width = WIDTH // 5
    dashboard.add_row(
        "From event to text",
        [
            graph(
                "Readings stored, events refused",
                [counted("poll_readings", "ReadingsStored"), counted("poll_readings", "EventsQuarantined")],
                width=width,
            ),
            graph(
                "Readings judged, or learned from",
                [
                    counted("detect_anomalies", "ReadingsJudged"),
                    counted("detect_anomalies", "ReadingsWhileLearning"),
                ],
                width=width,
            ),
            graph(
                "How long readings wait (ms)",
                [detection.detect_anomalies.metric("IteratorAge", statistic="Maximum", period=Duration.minutes(1))],
                width=width,
            ),
            graph(
                "Incidents opened, and over",
                [
                    counted("detect_anomalies", "IncidentsOpened"),
                    counted("detect_anomalies", "IncidentsRecovered"),
                    counted("watch_sensors", "SilencesOpened"),
                ],
                width=width,
            ),
            graph(
                "Texts sent, at once and by the sweep",
                [
                    counted("detect_anomalies", "TextsSent"),
                    counted("watch_sensors", "TextsSent"),
                    counted("watch_sensors", "TextsHeld"),
                ],
                width=width,
            ),
        ],
    )
    dashboard.add_alarms(
        operations,
        cloudwatch.SingleValueWidget(
            title="Open incidents",
            metrics=[counted("watch_sensors", "IncidentsOpen", "Maximum")],
            width=4,
            height=HEIGHT,
        ),
        newest_lines(
            scope,
            f"Incidents that were opened: `overcut incidents list --stage {stage.name}` has the rest",
            detection.detect_anomalies.log_group.log_group_name,
            [
                "fields @timestamp, reference, sensor_id, first_anomalous_at",
                'filter message = "incident"',
                "sort @timestamp desc",
                "limit 20",
            ],
            width=WIDTH // 2 - 4,
        ),
    )
    dashboard.add_cost_and_health(
        [
            ingestion.poll_readings,
            detection.detect_anomalies,
            detection.watch_sensors,
            page.show_incident,
            training.export_training_set,
            training.export_tables,
        ],
        {"export": training.export, "training": training.train},
        graph(
            "Write units of the Readings table",
            [storage.readings.metric_consumed_write_capacity_units(period=Duration.minutes(5))],
            width=WIDTH // 5,
        ),
        graph("Texts this month (USD, all of the account)", [spent_on_texts()], width=WIDTH // 5),
    )
