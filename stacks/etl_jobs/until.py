"""The moment that a workflow's execution works up to: `$.until` of its input, or when it was started."""

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct


def beginning_with_until(scope: Construct, rest: sfn.IChainable) -> sfn.IChainable:
    """`rest`, which finds `$.until` in its input. A person may give it to work up to an earlier moment again."""
    now = sfn.Pass(scope, "UntilNow", parameters={"until": sfn.JsonPath.string_at("$$.Execution.StartTime")})
    given = sfn.Choice(scope, "UntilGiven").when(sfn.Condition.is_present("$.until"), rest)
    return given.otherwise(now.next(rest))
