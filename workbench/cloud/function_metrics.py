"""Invocations and errors of every function in CloudWatch, however it was invoked, and how old a stream's records are.

ministack counts only what comes by the Invoke call; on AWS, schedules, streams and workflows count as well.
"""

import time
from typing import Any

from ministack.services import cloudwatch, lambda_svc

_NAMESPACE = "AWS/Lambda"


def register() -> None:
    """Count each invocation once, where all of them pass."""
    emit, dispatch = lambda_svc._emit_lambda_metrics, lambda_svc._execute_function_dispatch

    def counted(
        func: dict[str, Any], config: dict[str, Any], event: Any, request_id: str, started: float
    ) -> dict[str, Any]:
        dimensions = {"FunctionName": config["FunctionName"]}
        cloudwatch.record_metric(_NAMESPACE, "Invocations", 1, "Count", dimensions)
        if (written := _oldest_record(event)) is not None:
            age_ms = max(0.0, (time.time() - written) * 1000)
            cloudwatch.record_metric(_NAMESPACE, "IteratorAge", age_ms, "Milliseconds", dimensions)
        result: dict[str, Any] = dispatch(func, config, event, request_id, started)
        duration_ms = (time.time() - started) * 1000
        cloudwatch.record_metric(_NAMESPACE, "Errors", int(bool(result.get("error"))), "Count", dimensions)
        cloudwatch.record_metric(_NAMESPACE, "Duration", duration_ms, "Milliseconds", dimensions)
        return result

    def only_throttles(function_name: str, duration_ms: float, error: bool, throttle: bool) -> None:
        if throttle:
            emit(function_name, duration_ms, error, throttle)

    lambda_svc._execute_function_dispatch = counted
    lambda_svc._emit_lambda_metrics = only_throttles


def _oldest_record(event: Any) -> float | None:
    """When the first record of a table's stream was written, in seconds since 1970; None for any other event."""
    try:
        return float(event["Records"][0]["dynamodb"]["ApproximateCreationDateTime"])
    except (KeyError, IndexError, TypeError):
        return None
