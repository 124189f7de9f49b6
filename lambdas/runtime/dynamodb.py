"""DynamoDB's batches, conditions and transactions, for every store.

StoreBusyError(RetryableError)      DynamoDB left items unprocessed until patience ran out
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError

from overcut import RetryableError

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

READ_BATCH = 100  # the most that BatchGetItem takes
MAX_ATTEMPTS = 8

Thing = TypeVar("Thing")


class StoreBusyError(RetryableError):
    """DynamoDB left items unprocessed until patience ran out."""


def in_batches(things: Iterable[Thing], size: int) -> Iterator[list[Thing]]:
    """`things` in lists of `size`, the last one shorter."""
    remaining = iter(things)
    while batch := list(islice(remaining, size)):
        yield batch


def until_processed(call: Callable[[Any], Any], unprocessed: Any) -> None:
    """Call until nothing is left unprocessed, waiting longer each time."""
    for attempt in range(MAX_ATTEMPTS):
        unprocessed = call(unprocessed)
        if not unprocessed:
            return
        _wait(attempt)
    raise StoreBusyError(f"DynamoDB left items unprocessed {MAX_ATTEMPTS} times; the table's capacity is too small")


def items_of(client: DynamoDBClient, table: str, keys: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The items of `keys` that there are, read consistently, in any order.

    Raises:
        StoreBusyError: some were not read.
    """
    for batch in in_batches(keys, READ_BATCH):
        found: list[Mapping[str, Any]] = []

        def read(request: Any, found: list[Mapping[str, Any]] = found) -> Any:
            answer = client.batch_get_item(RequestItems=request)
            found.extend(answer["Responses"].get(table, []))
            return answer["UnprocessedKeys"]

        until_processed(read, {table: {"Keys": batch, "ConsistentRead": True}})
        yield from found


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
        _wait(attempt)
    raise AssertionError("unreachable")


def _wait(attempt: int) -> None:
    """Longer each time, up to two seconds; not at the same moment as everybody else."""
    time.sleep(min(0.05 * 2**attempt, 2.0) * random.uniform(0.5, 1.0))
