"""DynamoDB streams: in order, and what can never be processed is parked so that the rest goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient


def written_at(record: Mapping[str, Any]) -> float:
    """When a stream record came to be, in seconds since 1970."""
    return float(record["dynamodb"]["ApproximateCreationDateTime"])


@dataclass(frozen=True)
class ParkedQueue:
    """A queue of what a function could never process, each with its reason, for people to look at and send again."""

    client: SQSClient
    url: str

    def park(self, record: Mapping[str, Any], reason: str) -> None:
        self.client.send_message(QueueUrl=self.url, MessageBody=json.dumps({"reason": reason, "record": record}))
