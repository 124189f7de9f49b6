"""The end of a training workflow: what the job decided is read, and a held model is told to operations."""

from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from stacks.constructs.operations import Operations


def promoted_or_held(
    scope: Construct, *, bucket: s3.IBucket, key: str, operations: Operations, subject: str
) -> sfn.Chain:
    """States that read `{"decision": "promoted" or "held", "reason": ...}`, which the training job left.

    Args:
        key: of the decision; `{}` stands for the job's name.
        subject: of the mail about a held model; its text is the reason.
    """
    read = sfn.CustomState(
        scope,
        "ReadDecision",
        state_json={
            "Type": "Task",
            "Resource": "arn:aws:states:::aws-sdk:s3:getObject",
            "Parameters": {
                "Bucket": bucket.bucket_name,
                "Key.$": f"States.Format('{key}', $.training_job.TrainingJobName)",
            },
            "ResultSelector": {"decision.$": "States.StringToJson($.Body)"},
            "ResultPath": "$.result",
        },
    )
    tell = tasks.SnsPublish(
        scope,
        "TellThatItIsHeld",
        topic=operations.topic,
        subject=subject,
        message=sfn.TaskInput.from_json_path_at("$.result.decision.reason"),
        result_path=sfn.JsonPath.DISCARD,
    )
    promoted = sfn.Condition.string_equals("$.result.decision.decision", "promoted")
    decide = sfn.Choice(scope, "PromotedOrHeld").when(promoted, sfn.Succeed(scope, "Promoted"))
    return sfn.Chain.start(read).next(decide.otherwise(tell.next(sfn.Succeed(scope, "Held"))))
