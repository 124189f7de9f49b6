"""Stored readings as the events that Lambda hands over from the Readings table's stream."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from overcut.sensors.readings import Reading, format_time
from tests.functional.conftest import Cloud


def stream_record(
    cloud: Cloud, reading: Reading, *, written_at: datetime, event_name: str = "INSERT"
) -> dict[str, Any]:
    """The record of a stored reading, in the shape of a recorded one."""
    key = {"sensor_id": {"S": reading.sensor_id}, "measured_at": {"S": format_time(reading.measured_at)}}
    stored = cloud.dynamodb.get_item(TableName=cloud.tables["Readings"], Key=key)["Item"]
    return {
        "eventID": "c4ca4238a0b923820dcc509a6f75849b",
        "eventName": event_name,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": written_at.timestamp(),
            "Keys": key,
            "NewImage": stored,
            "SequenceNumber": "4421584500000000017450439091",
            "SizeBytes": 112,
            "StreamViewType": "NEW_IMAGE",
        },
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:123456789012:table/Readings/stream/2026-01-01T00:00:00.000",
    }


def stream_event(cloud: Cloud, readings: Iterable[Reading], *, written_at: datetime) -> dict[str, Any]:
    """The batch of stored `readings`."""
    return {"Records": [stream_record(cloud, reading, written_at=written_at) for reading in readings]}
