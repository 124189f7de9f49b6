"""A pipeline's dashboard: rows of graphs, as data flows, of what is counted anyway; none is of a sensor or a job."""

from collections.abc import Mapping, Sequence

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from stacks.constructs.function import MEMORY_MB
from stacks.constructs.operations import Operations
from stacks.stage import Stage

WIDTH, HEIGHT = 24, 6
_PERIOD = Duration.minutes(5)


class PipelineDashboard(cloudwatch.Dashboard):
    """What a platform engineer looks at first: from what comes in to what goes out, then alarms, cost and health."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, pipeline: str) -> None:
        super().__init__(
            scope,
            construct_id,
            dashboard_name=f"Overcut-{stage.name}-{pipeline}",
            default_interval=Duration.days(1),
        )

    def add_row(self, title: str, widgets: Sequence[cloudwatch.GraphWidget | cloudwatch.ConcreteWidget]) -> None:
        """A heading, and widgets of the same width below it."""
        self.add_widgets(cloudwatch.TextWidget(markdown=f"## {title}", width=WIDTH, height=1))
        self.add_widgets(*widgets)

    def add_alarms(self, operations: Operations, *beside: cloudwatch.ConcreteWidget) -> None:
        """Every alarm of the pipeline, in alarm first."""
        self.add_row(
            "Alarms",
            [
                cloudwatch.AlarmStatusWidget(
                    alarms=operations.alarms,
                    sort_by=cloudwatch.AlarmStatusWidgetSortBy.STATE_UPDATED_TIMESTAMP,
                    width=WIDTH // 2,
                    height=HEIGHT,
                ),
                *beside,
            ],
        )

    def add_cost_and_health(
        self,
        functions: Sequence[lambda_.IFunction],
        workflows: Mapping[str, sfn.StateMachine],
        *beside: cloudwatch.ConcreteWidget,
    ) -> None:
        """What is paid for, and what failed.

        Args:
            workflows: by what people call them.
        """
        width = WIDTH // (3 + len(beside))
        used = {f"ms{n}": one.metric_duration(statistic="Sum", period=_PERIOD) for n, one in enumerate(functions)}
        gigabyte_seconds = cloudwatch.MathExpression(
            expression=f"({' + '.join(f'FILL({name}, 0)' for name in used)}) / 1000 * {MEMORY_MB / 1024}",
            using_metrics=used,
            label="GB-seconds of all functions",
            period=_PERIOD,
        )
        self.add_row(
            "Cost and health",
            [
                graph("Time of functions", [gigabyte_seconds], width=width),
                graph("Errors of functions", [one.metric_errors(period=_PERIOD) for one in functions], width=width),
                graph(
                    "How long workflows take",
                    [one.metric_time(label=name, period=Duration.hours(1)) for name, one in workflows.items()],
                    width=width,
                ),
                *beside,
            ],
        )


def graph(title: str, metrics: Sequence[cloudwatch.IMetric], *, width: int) -> cloudwatch.GraphWidget:
    """One graph of metrics over time."""
    return cloudwatch.GraphWidget(title=title, left=list(metrics), width=width, height=HEIGHT)


def newest_lines(
    scope: Construct, title: str, log_group_name: str, query: Sequence[str], *, width: int
) -> cloudwatch.LogQueryWidget:
    """The newest lines of a log that a query finds, as a table; a query is paid for when somebody looks."""
    return cloudwatch.LogQueryWidget(
        title=title,
        log_group_names=[log_group_name],
        query_lines=list(query),
        region=Stack.of(scope).region,
        width=width,
        height=HEIGHT,
    )
