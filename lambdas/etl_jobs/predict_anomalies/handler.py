"""predict_anomalies: judges one bucket's runs of the last two days, each by the model in force when it was recorded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from lambdas.etl_jobs.predict_anomalies.predicting import Predictor
from lambdas.runtime.clients import small_clients
from lambdas.runtime.objects import Bucket
from lambdas.runtime.observability import Observability, initialise
from lambdas.runtime.settings import load_settings


@dataclass(frozen=True)
class Settings:
    """The environment of predict_anomalies.

    Attributes:
        buckets: how many there are of jobs, as the extraction was told.
        missed_after_minutes: how late a run may start before it counts as one that never came.
    """

    stage: str
    data_bucket: str
    buckets: int
    missed_after_minutes: int


@dataclass(frozen=True)
class Dependencies:
    predictor: Predictor
    observability: Observability


@cache
def dependencies() -> Dependencies:
    settings = load_settings(Settings, os.environ)
    data = Bucket(small_clients("s3")("s3"), settings.data_bucket)
    predictor = Predictor(data, settings.buckets, timedelta(minutes=settings.missed_after_minutes))
    return Dependencies(predictor, Observability("predict_anomalies", settings.stage))


def handler(event: Mapping[str, Any], context: object) -> dict[str, int | bool]:
    """S3 recent/ + promoted models -> S3 predictions/, one bucket."""
    made, bucket = dependencies(), int(event["bucket"])
    predicted = made.predictor.predict(bucket, datetime.fromisoformat(event["until"]).astimezone(UTC))
    for outcome, number in predicted.metrics().items():
        made.observability.count(outcome, number)
    if bucket == 0:
        made.observability.count("LinesRejected", made.predictor.lines_rejected())
    made.observability.info("predicted", bucket=bucket, **predicted.answer())
    made.observability.flush()
    return predicted.answer()


initialise(dependencies)
