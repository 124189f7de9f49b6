"""What of the ETL pipeline is asked in SQL."""

from overcut.etl_jobs.layout import HISTORICAL_PREFIX, PREDICTION_TABLE_PREFIX
from overcut.tables import Table

JOB_RUNS = Table(
    "job_runs",
    "A finished run; daily, dt is the UTC day on which it started",
    HISTORICAL_PREFIX,
    {
        "job_name": "string",
        "run_id": "string",
        "started_at": "timestamp",
        "run_time_seconds": "double",
        "records_processed": "bigint",
        "status": "string",
        "day_of_week": "int",
        "recorded_at": "timestamp",
        "time_zone": "string",
        "schedule": "string",
    },
)
PREDICTIONS = Table(
    "predictions",
    "A run, or one that never came, beside what is usual for its job; hourly, dt is the UTC day of its last state",
    PREDICTION_TABLE_PREFIX,
    {
        "job_name": "string",
        "run_id": "string",
        "judgement": "string",
        "started_at": "timestamp",
        "recorded_at": "timestamp",
        "model_version": "string",
        "is_learning": "boolean",
        "records_processed": "bigint",
        "usual_records": "double",
        "run_time_seconds": "double",
        "usual_seconds": "double",
        "anomaly_score": "double",
        "score_cutoff": "double",
        "feature": "string",
        "deviations": "double",
        "time_zone": "string",
        "schedule": "string",
    },
)
TABLES = (JOB_RUNS, PREDICTIONS)
