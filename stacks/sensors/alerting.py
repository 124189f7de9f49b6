"""Alerting: the topic that texts maintenance staff."""

from aws_cdk import CfnParameter, Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from stacks.constructs.encryption import own_key
from stacks.stage import SensorsStage, phone_parameter


class Alerting(Construct):
    """One SMS subscription a contact, which lets through only what names that contact."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: SensorsStage) -> None:
        super().__init__(scope, construct_id)
        self.alerts = sns.Topic(self, "Alerts", enforce_ssl=True, master_key=own_key(self, stage))
        for contact_id in sorted(stage.sensors.contacts):
            number = CfnParameter(
                scope,
                phone_parameter(contact_id),
                no_echo=True,
                allowed_pattern=r"^\+[1-9]\d{6,14}$",
                constraint_description="must be a phone number in E.164 form: a plus sign, then 7 to 15 digits",
                description=f"Who is texted as {contact_id}: a phone number in E.164 form",
            )
            self.alerts.add_subscription(
                subscriptions.SmsSubscription(
                    number.value_as_string,
                    filter_policy={"contact_id": sns.SubscriptionFilter.string_filter(allowlist=[contact_id])},
                )
            )


def spent_on_texts() -> cloudwatch.Metric:
    """What the account has spent on texts this month, in US dollars, whoever sent them."""
    return cloudwatch.Metric(
        namespace="AWS/SNS", metric_name="SMSMonthToDateSpentUSD", statistic="Maximum", period=Duration.hours(1)
    )
