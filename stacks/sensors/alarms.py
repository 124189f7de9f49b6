"""Alarms about what the functions count, and about what must not stay away."""

from aws_cdk import Duration

from stacks.constructs.operations import Operations
from stacks.sensors.alerting import Alerting, spent_on_texts
from stacks.sensors.training import Training
from stacks.stage import SensorsStage

# one source's poll may fail now and then: the next minute is the retry
POLL_FAILURES = 3
# of what the account may spend on texts in a month
MOST_SPENT = 0.8


def add_alarms(operations: Operations, *, stage: SensorsStage, alerting: Alerting, training: Training) -> None:
    """The alarms that belong to no single construct of the flow."""
    # where to look
    parked, held = f"`overcut parked list --stage {stage.name}`", f"`overcut incidents held --stage {stage.name}`"
    log = "the function's log"
    for name, service, metric, above, what, look in (
        (
            "EventsQuarantined",
            "poll_readings",
            "EventsQuarantined",
            0,
            "A source sent what cannot be a reading",
            parked,
        ),
        ("PollsFail", "poll_readings", "PollFailures", POLL_FAILURES, "A source cannot be read", "the Sources table"),
        (
            "BatchesParked",
            "watch_sensors",
            "BatchesParked",
            0,
            "Lambda gave up batches of the readings' stream",
            parked,
        ),
        ("AlertsFail", "detect_anomalies", "TextFailures", 0, "SNS did not take texts, or did not answer", log),
        ("SweepsFail", "watch_sensors", "TextFailures", 0, "SNS did not take texts, or did not answer", log),
        ("TextsHeld", "watch_sensors", "TextsHeld", 0, "A contact's budget of texts is used up", held),
    ):
        operations.alarm(name, operations.counted(service, metric), above=above, description=f"{what}: {look}")
    operations.alarm(
        "TextsNotDelivered",
        alerting.alerts.metric_number_of_notifications_failed(period=Duration.minutes(5), statistic="Sum"),
        above=0,
        description="SNS took a text and did not deliver it: look at the topic's delivery log",
    )
    operations.alarm(
        "SpendNearsLimit",
        spent_on_texts(),
        above=MOST_SPENT * stage.sensors.text_spend_limit_usd,
        description="This month's texts cost nearly what the account may spend; at the limit SNS stops sending them",
    )
    operations.heartbeat(
        "ExportsMissed",
        training.export.metric_succeeded(period=Duration.hours(1), statistic="Sum"),
        periods=2,
        description="No export of readings succeeded for two hours",
    )
    operations.heartbeat(
        "NoTraining",
        training.train.metric_succeeded(period=Duration.days(1), statistic="Sum"),
        periods=stage.sensors.training_overdue_days,
        description="No training succeeded for days: forests and cutoffs grow old",
    )
