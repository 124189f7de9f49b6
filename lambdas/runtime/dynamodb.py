"""DynamoDB's conditions and transactions, for every store."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import ClientError

MAX_ATTEMPTS = 8

Thing = TypeVar("Thing")


def is_conditional(error: ClientError) -> bool:
    """Whether a condition did not hold, or another writer was at the same item in a transaction."""
    code = error.response["Error"]["Code"]
    if code != "TransactionCanceledException":
        return code == "ConditionalCheckFailedException"
    reasons = {reason.get("Code") for reason in error.response.get("CancellationReasons", [])}
    return bool(reasons & {"ConditionalCheckFailed", "TransactionConflict"})


def patiently(call: Callable[[], Thing]) -> Thing:
    """Call, and again while a transaction of somebody else holds the item: the SDK does not repeat that by itself."""
    for attempt in range(MAX_ATTEMPTS):
        try:
            return call()
        except ClientError as error:
            if error.response["Error"]["Code"] != "TransactionConflictException" or attempt == MAX_ATTEMPTS - 1:
                raise
        time.sleep(min(0.05 * 2**attempt, 2.0) * random.uniform(0.5, 1.0))
    raise AssertionError("unreachable")
