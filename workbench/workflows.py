"""Running a Step Functions workflow to its end, as a person would from the console."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# a demonstration is over in seconds, a real training in hours: it is asked the less often, the longer it takes
MOST_SECONDS_BETWEEN_LOOKS = 5.0


@dataclass(frozen=True)
class Execution:
    """How one went.

    Attributes:
        output: what its last state gave; empty unless it succeeded.
        cause: why it did not succeed, in words for people.
    """

    status: str
    output: dict[str, Any]
    seconds: float
    cause: str

    @property
    def succeeded(self) -> bool:
        return self.status == "SUCCEEDED"


def run_workflow(
    client: Any, arn: str, name: str, given: dict[str, Any], while_waiting: Callable[[str], None]
) -> Execution:
    """Run the workflow under an execution name that was not used before, and wait for its end.

    Args:
        client: of Step Functions.
        given: the execution's input.
        while_waiting: told the state that it is in, again and again.
    """
    began = time.monotonic()
    execution = client.start_execution(stateMachineArn=arn, name=name, input=json.dumps(given))["executionArn"]
    while (state := client.describe_execution(executionArn=execution))["status"] == "RUNNING":
        history = client.get_execution_history(executionArn=execution, reverseOrder=True, maxResults=20)["events"]
        entered = (event.get("stateEnteredEventDetails") for event in history)
        while_waiting(next((details["name"] for details in entered if details), "starting"))
        time.sleep(min(0.25 + (time.monotonic() - began) / 60, MOST_SECONDS_BETWEEN_LOOKS))
    output = json.loads(state.get("output") or "{}")
    return Execution(
        state["status"],
        output if isinstance(output, dict) else {},
        time.monotonic() - began,
        failure_reason(str(state.get("cause", ""))),
    )


def failure_reason(cause: str) -> str:
    """What went wrong, out of the cause that Step Functions gives: often JSON, the whole of what failed."""
    try:
        told = json.loads(cause)
    except ValueError:
        return cause
    if not isinstance(told, dict):
        return cause
    found = (told.get(key) for key in ("FailureReason", "errorMessage", "Cause", "StateDetails"))
    return next((str(reason) for reason in found if reason), cause)
