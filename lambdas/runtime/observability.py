"""Logs and metrics: an event name and fields, one metric per outcome. No metric of a single sensor, no phone number."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

NAMESPACE = "Overcut"


class Observability:
    """What a function of a stage tells the people who run it."""

    def __init__(self, function: str, stage: str) -> None:
        self._logger = Logger(service=function, use_rfc3339=True)
        self._metrics = Metrics(namespace=NAMESPACE, service=function)
        self._stage = stage
        self._counts: Counter[str] = Counter()

    def info(self, event: str, **fields: Any) -> None:
        self._logger.info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._logger.warning(event, **fields)

    def count(self, outcome: str, number: int = 1) -> None:
        """Add to the metric of an outcome; it leaves with `flush`."""
        self._counts[outcome] += number

    def flush(self) -> None:
        """Write the metrics of this invocation to the log, in CloudWatch's embedded metric format: one value each."""
        for outcome, number in self._counts.items():
            self._metrics.add_metric(name=outcome, unit=MetricUnit.Count, value=number)
        if self._counts:
            # two stages of one account and region are two metrics
            self._metrics.add_dimension(name="stage", value=self._stage)
            self._metrics.flush_metrics()
        self._counts.clear()


def initialise(dependencies: Callable[[], object]) -> None:
    """Make a function's dependencies while Lambda initialises it, when a core is at its disposal; elsewhere, nothing.

    Making the clients in the first request instead costs about a second at 128 MB.
    """
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        dependencies()
