"""Operations: how the people who run a pipeline are told that it needs them."""

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from stacks.constructs.encryption import own_key
from stacks.stage import Stage


class Operations(Construct):
    """A topic that the stage's operations addresses are subscribed to, and the alarms that publish to it."""

    alarms: list[cloudwatch.IAlarm]

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage) -> None:
        super().__init__(scope, construct_id)
        self.alarms = []
        self._stage = stage.name
        self.topic = sns.Topic(self, "Topic", enforce_ssl=True, master_key=own_key(self, stage))
        # the policy that enforces TLS replaces SNS's own, which let alarms of the account publish
        alarms = iam.ServicePrincipal(
            "cloudwatch.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Stack.of(self).account}}
        )
        self.topic.grant_publish(alarms)
        for address in stage.operations_emails:
            self.topic.add_subscription(subscriptions.EmailSubscription(address))

    def counted(self, service: str, metric: str, statistic: str = "Sum") -> cloudwatch.Metric:
        """What a function counts, see `lambdas.runtime.observability`; the sum of five minutes, or what is asked."""
        return cloudwatch.Metric(
            namespace="Overcut",
            metric_name=metric,
            dimensions_map={"service": service, "stage": self._stage},
            statistic=statistic,
            period=Duration.minutes(5),
        )

    def heartbeat(self, construct_id: str, metric: cloudwatch.IMetric, *, periods: int, description: str) -> None:
        """Tell the topic when `metric` was below one, or not there at all, in each of so many periods."""
        alarm = cloudwatch.Alarm(
            self,
            construct_id,
            metric=metric,
            threshold=1,
            evaluation_periods=periods,
            comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.BREACHING,
            alarm_description=description,
        )
        self._add(alarm)

    def alarm(self, construct_id: str, metric: cloudwatch.IMetric, *, above: float, description: str) -> None:
        """Tell the topic when `metric` is above a level; no data is no alarm."""
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
        self._add(alarm)

    def _add(self, alarm: cloudwatch.Alarm) -> None:
        alarm.add_alarm_action(actions.SnsAction(self.topic))
        self.alarms.append(alarm)
