"""Invocations and errors of every function in CloudWatch, however it was invoked.

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
