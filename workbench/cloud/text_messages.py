"""Delivery to a topic's SMS subscribers, which ministack only mentions in its log.

Each delivery is kept in the record that a direct publish to a phone gets, served at `/_ministack/sns/sms-messages`.
"""

from datetime import UTC, datetime
from typing import Any

from ministack.services import sns


def register() -> None:
    """Let every publish to a topic also reach its SMS subscribers."""
    fan_out = sns._fanout

    def fan_out_with_texts(
        topic_arn: str,
        msg_id: str,
        message: str,
        subject: str,
        message_structure: str = "",
        message_attributes: dict[str, Any] | None = None,
        **options: str,
    ) -> None:
        fan_out(topic_arn, msg_id, message, subject, message_structure, message_attributes, **options)
        _keep_texts(topic_arn, msg_id, message, subject, message_structure, message_attributes or {})

    sns._fanout = fan_out_with_texts


def _keep_texts(
    topic_arn: str,
    message_id: str,
    message: str,
    subject: str,
    message_structure: str,
    message_attributes: dict[str, Any],
) -> None:
    topic = sns._topic_by_arn_any_scope(topic_arn)
    text = sns._resolve_message_for_protocol(message, message_structure, "sms")
    for subscription in topic["subscriptions"] if topic else ():
        if subscription["protocol"] != "sms" or not subscription.get("confirmed"):
            continue
        if not sns._matches_filter_policy(subscription, message_attributes, text):
            continue
        phone_number = subscription["endpoint"]
        sns._sms_log_for(phone_number).append(
            {
                "PhoneNumber": phone_number,
                "TopicArn": topic_arn,
                "SubscriptionArn": subscription["arn"],
                "MessageId": message_id,
                "Message": text,
                "MessageAttributes": message_attributes,
                "MessageStructure": message_structure or None,
                "Subject": subject or None,
                "Timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            }
        )
