"""The sensors pipeline in SQL."""

from pathlib import Path

from constructs import Construct

from overcut.sensors.tables import TABLES
from stacks.constructs.catalog import Catalog, View
from stacks.sensors.storage import Storage
from stacks.stage import SensorsStage

VIEWS = (
    View(
        "cutoff_drift",
        "Each cutoff beside the mean of its sensor's last fourteen before it, plus and minus three standard deviations",
        {
            "sensor_id": "string",
            "trained_at": "timestamp",
            "model_version": "string",
            "score_cutoff": "double",
            "earlier": "bigint",
            "earlier_mean": "double",
            "earlier_sd": "double",
            "lower_bound": "double",
            "upper_bound": "double",
            "is_outside": "boolean",
        },
    ),
    View(
        "hourly_readings",
        "How many readings each sensor and measure had in each hour, and their least, mean and greatest",
        {
            "sensor_id": "string",
            "measure": "string",
            "hour": "timestamp",
            "readings": "bigint",
            "least": "double",
            "mean": "double",
            "greatest": "double",
            "dt": "date",
        },
    ),
)


def catalog_of(scope: Construct, stage: SensorsStage, storage: Storage) -> Catalog:
    """The catalogue of the sensors pipeline."""
    return Catalog(
        scope,
        "Catalog",
        stage=stage,
        pipeline="sensors",
        bucket=storage.bucket,
        tables=TABLES,
        views=VIEWS,
        folder=Path(__file__).parent,
    )
