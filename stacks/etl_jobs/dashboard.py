"""The ETL pipeline's dashboard."""

from constructs import Construct

from stacks.constructs.dashboard import WIDTH, PipelineDashboard, graph, newest_lines
from stacks.constructs.operations import Operations
from stacks.etl_jobs.prediction import Prediction
from stacks.etl_jobs.training import Training
from stacks.stage import EtlJobsStage


def add_dashboard(
    scope: Construct, *, stage: EtlJobsStage, training: Training, prediction: Prediction, operations: Operations
) -> None:
    """From job run to ticket, alarms, cost and health."""
    counted, dashboard = operations.counted, PipelineDashboard(scope, "Dashboard", stage=stage, pipeline="etl-jobs")
    width = WIDTH // 3
    dashboard.add_row(
        "From job run to ticket",
        [
            graph(
                "Runs judged",
                [
                    counted("predict_anomalies", f"Runs{name}")
                    for name in ("Healthy", "Learning", "Anomalous", "Missed")
                ],
                width=width,
            ),
            graph(
                "Lines of the lake that are no record, runs missed in silence",
                [counted("predict_anomalies", "LinesRejected"), counted("open_tickets", "JobsMissedInSilence")],
                width=width,
            ),
            graph(
                "Tickets",
                [counted("open_tickets", f"Tickets{name}") for name in ("Opened", "Commented", "Closed", "Parked")],
                width=width,
            ),
        ],
    )
    dashboard.add_alarms(
        operations,
        newest_lines(
            scope,
            f"What was told of: `overcut tickets list --stage {stage.name}` has what is open",
            prediction.open_tickets.log_group.log_group_name,
            [
                "fields @timestamp, opened, commented, closed, parked",
                'filter message = "tickets" and opened + commented + closed + parked > 0',
                "sort @timestamp desc",
                "limit 20",
            ],
            width=WIDTH // 2,
        ),
    )
    dashboard.add_cost_and_health(
        [prediction.predict_anomalies, prediction.open_tickets, prediction.register_partitions],
        {"training": training.train, "prediction": prediction.predict},
    )
