"""Alerting: the topic that texts maintenance staff, and the one that tells the people who run Overcut."""

from aws_cdk import CfnParameter, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from stacks.stage import Stage, phone_parameter


class Alerting(Construct):
    """One SMS subscription a contact, which lets through only what names that contact."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage) -> None:
        super().__init__(scope, construct_id)
        self.alerts = sns.Topic(self, "Alerts", enforce_ssl=True)
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
        self.operations = sns.Topic(self, "Operations", enforce_ssl=True)
        # the policy that enforces TLS replaces SNS's own, which let alarms of the account publish
        alarms = iam.ServicePrincipal(
            "cloudwatch.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Stack.of(self).account}}
        )
        self.operations.grant_publish(alarms)
        for address in stage.operations_emails:
            self.operations.add_subscription(subscriptions.EmailSubscription(address))

    def alarm(self, construct_id: str, metric: cloudwatch.IMetric, *, above: float, description: str) -> None:
        """Tell the operations topic when `metric` is above a level; no data is no alarm."""
        alarm = cloudwatch.Alarm(
            self,
            construct_id,
            metric=metric,
            threshold=above,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=description,
        )
        alarm.add_alarm_action(actions.SnsAction(self.operations))
