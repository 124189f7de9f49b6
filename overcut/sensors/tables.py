"""What of the sensors pipeline is asked in SQL."""

from overcut.sensors.layout import READINGS_PREFIX
from overcut.tables import Table

READINGS = Table(
    "readings",
    "What one sensor measured at one time, a row a measure; hourly, and late readings again with their hour",
    READINGS_PREFIX,
    {"sensor_id": "string", "measured_at": "timestamp", "measure": "string", "value": "double"},
)
CUTOFFS = Table(
    "cutoffs",
    "What a sensor is judged by from effective_from on; nightly, dt is the day of its training",
    "tables/cutoffs/",
    {
        "sensor_id": "string",
        "trained_at": "timestamp",
        "effective_from": "timestamp",
        "cohort_id": "string",
        "model_version": "string",
        "score_cutoff": "double",
        "score_mean": "double",
        "score_sd": "double",
        "z_factor": "double",
        "interval_seconds": "double",
        "reading_count": "bigint",
        "is_approved": "boolean",
        "is_retired": "boolean",
    },
)
MODEL_EVENTS = Table(
    "model_events",
    "What a training did, or a person by hand, and why; hourly. details is JSON",
    "tables/model_events/",
    {
        "model_id": "string",
        "occurred_at": "timestamp",
        "decision": "string",
        "reason": "string",
        "model_version": "string",
        "job_name": "string",
        "sensor_id": "string",
        "details": "string",
    },
    by_day=False,
)
INCIDENTS = Table(
    "incidents",
    "A run of anomalies that was worth telling someone about, as it is now; hourly",
    "tables/incidents/",
    {
        "reference": "string",
        "sensor_id": "string",
        "name": "string",
        "customer": "string",
        "site": "string",
        "kind": "string",
        "state": "string",
        "label": "string",
        "is_contradicted": "boolean",
        "opened_at": "timestamp",
        "first_anomalous_at": "timestamp",
        "last_anomalous_at": "timestamp",
        "recovered_at": "timestamp",
        "anomalous_minutes": "bigint",
        "measure": "string",
        "unit": "string",
        "feature": "string",
        "value": "double",
        "usual_low": "double",
        "usual_high": "double",
        "anomaly_score": "double",
        "score_cutoff": "double",
        "model_version": "string",
        "texts_sent": "bigint",
        "first_text_at": "timestamp",
    },
    by_day=False,
)
SENSORS = Table(
    "sensors",
    "A sensor, whose and where it is; hourly",
    "tables/sensors/",
    {
        "sensor_id": "string",
        "source_id": "string",
        "name": "string",
        "customer": "string",
        "site": "string",
        "kind": "string",
        "is_learning": "boolean",
    },
    by_day=False,
)
TABLES = (READINGS, CUTOFFS, MODEL_EVENTS, INCIDENTS, SENSORS)
