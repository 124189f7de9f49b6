"""The alerts topic: each SMS subscription filters on its contact, and each publish names one contact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from overcut.sensors.alerts import TextRefusedError, TextUncertainError

if TYPE_CHECKING:
    from types_boto3_sns import SNSClient

# a publish is never repeated by the SDK: a repeat after a lost answer would be a second text
PUBLISH_ONCE = Config(retries={"total_max_attempts": 1}, connect_timeout=3, read_timeout=10)


@dataclass(frozen=True)
class AlertsTopic:
    """The `Phone` of `overcut.sensors.alerts`. Its client must be made with `PUBLISH_ONCE`."""

    client: SNSClient
    arn: str

    def send(self, contact_id: str, body: str) -> str:
        try:
            answer = self.client.publish(
                TopicArn=self.arn,
                Message=body,
                MessageAttributes={
                    "contact_id": {"DataType": "String", "StringValue": contact_id},
                    "AWS.SNS.SMS.SMSType": {"DataType": "String", "StringValue": "Transactional"},
                },
            )
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                raise TextUncertainError(f"SNS failed: {error}") from error
            raise TextRefusedError(f"SNS did not take the text: {error}") from error
        except BotoCoreError as error:
            raise TextUncertainError(f"SNS did not answer: {error}") from error
        return answer["MessageId"]
