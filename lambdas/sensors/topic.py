"""The alerts topic: each SMS subscription filters on its contact, and each publish names one contact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from lambdas.runtime.observability import Observability
from overcut.sensors.alerts import SendOutcome, TextRefusedError, TextsOfOnePlace, TextUncertainError

if TYPE_CHECKING:
    from types_boto3_sns import SNSClient

# a publish is never repeated by the SDK: a repeat after a lost answer would be a second text
PUBLISH_ONCE = Config(retries={"total_max_attempts": 1}, connect_timeout=3, read_timeout=10)


# of a storm's text, so many incidents are logged
MOST_LOGGED = 20


def tell_of_text(observability: Observability, group: TextsOfOnePlace, outcome: SendOutcome) -> None:
    """Count and log what became of a text. An incident's reference is in its text, too, and in the log from its opening
    on, as its reading is from the poll on; the log has no phone number and no words of the text."""
    logged = group.incidents[:MOST_LOGGED]
    observability.count(f"Texts{outcome.title()}")
    if outcome in (SendOutcome.REFUSED, SendOutcome.UNCERTAIN):
        observability.count("TextFailures")
    observability.info(
        "text",
        outcome=outcome,
        kind=group.kind,
        contact_id=group.contact_id,
        incidents=len(group.incidents),
        references=[incident.reference for incident in logged],
        readings=[incident.reading_id for incident in logged],
    )


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
