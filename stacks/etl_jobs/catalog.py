"""The ETL pipeline in SQL."""

from pathlib import Path

from constructs import Construct

from overcut.etl_jobs.tables import TABLES
from stacks.constructs.catalog import Catalog, View
from stacks.etl_jobs.storage import Storage
from stacks.stage import EtlJobsStage

VIEWS = (
    View(
        "job_health",
        "Of each job and day, how many runs were judged and how",
        {
            "dt": "date",
            "job_name": "string",
            "runs": "bigint",
            "anomalous": "bigint",
            "failed": "bigint",
            "missed": "bigint",
            "records_processed": "bigint",
            "farthest_off": "double",
        },
    ),
    View(
        "verdicts",
        "Each run once, by its newest model's verdict",
        {
            "job_name": "string",
            "run_id": "string",
            "judgement": "string",
            "started_at": "timestamp",
            "recorded_at": "timestamp",
            "records_processed": "bigint",
            "usual_records": "double",
            "run_time_seconds": "double",
            "usual_seconds": "double",
            "feature": "string",
            "deviations": "double",
            "model_version": "string",
            "dt": "date",
        },
    ),
)


def catalog_of(scope: Construct, stage: EtlJobsStage, storage: Storage) -> Catalog:
    """The catalogue of the ETL pipeline."""
    return Catalog(
        scope,
        "Catalog",
        stage=stage,
        pipeline="etl_jobs",
        bucket=storage.bucket,
        tables=TABLES,
        views=VIEWS,
        folder=Path(__file__).parent,
    )
