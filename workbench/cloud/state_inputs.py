"""Step Functions' `aws-sdk:s3:getObject`, which ministack has not: how a workflow reads what a job left behind.

On AWS the result is the operation's response with the object's text as `Body`.
https://docs.aws.amazon.com/step-functions/latest/dg/supported-services-awssdk.html
"""

from typing import Any

from botocore.exceptions import ClientError
from ministack.services import stepfunctions

from workbench.cloud.jobs import s3

_STEP = "arn:aws:states:::aws-sdk:s3:getObject"


def register() -> None:
    """Serve the task."""
    stepfunctions._SERVICE_DISPATCH[_STEP] = _get_object


def _get_object(resource: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = s3().get_object(Bucket=request["Bucket"], Key=request["Key"])
    except ClientError as error:
        code = error.response["Error"]["Code"]
        name = code if code.endswith("Exception") else f"{code}Exception"
        raise stepfunctions._ExecutionError(f"S3.{name}", str(error)) from error
    return {"Body": answer["Body"].read().decode(), "ContentLength": answer["ContentLength"], "ETag": answer["ETag"]}
