"""How far the faults reach: they are many, and at every service that a function calls."""

from tests.faults import (
    test_detect_anomalies,
    test_export_tables,
    test_export_training_set,
    test_open_tickets,
    test_poll_readings,
    test_predict_anomalies,
    test_show_incident,
    test_train_etl_jobs,
    test_train_sensors,
    test_watch_sensors,
)
from tests.faults.cases import faults_of, run_world
from tests.faults.injection import Kind

WORLDS = [
    test_detect_anomalies.opening,
    test_detect_anomalies.ending,
    test_export_tables.export,
    test_export_tables.register,
    test_export_training_set.make,
    test_open_tickets.in_ops_center,
    test_open_tickets.over_webhook,
    test_poll_readings.make,
    test_predict_anomalies.make,
    test_show_incident.make,
    test_train_etl_jobs.make,
    test_train_sensors.make,
    test_watch_sensors.make,
]


def test_there_are_more_than_a_thousand_faults_at_every_service() -> None:
    called = [run_world(make, None)[0].calls for make in WORLDS]
    assert sum(len(list(faults_of(calls, kind))) for calls in called for kind in Kind) > 1000
    assert {call.service for calls in called for call in calls} == {
        *("dynamodb", "s3", "sns", "sqs", "secrets-manager", "ssm", "glue"),
        *("webhook", "device"),
    }
