"""What jobs on the embedded cloud have in common: S3, their environment, and how Step Functions tells times."""

import functools
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from ministack.core.responses import get_account_id, get_region

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

# how much of an error Step Functions keeps
CAUSE_CHARACTERS = 32_768


class JobFailedError(Exception):
    """Why a job ends as failed, as its description tells it."""


@functools.cache
def s3() -> "S3Client":
    """The account's own; `s3_of` is a role's."""
    return s3_of({})


def s3_of(credentials: Mapping[str, str]) -> "S3Client":
    """A client with the credentials of `workbench.cloud.policies.role_credentials`."""
    # a session of its own: boto3's default one may not be used by several threads at once
    new_session: Any = boto3.session.Session
    session: boto3.session.Session = new_session(**{name.lower(): value for name, value in credentials.items()})
    return session.client("s3", config=Config(s3={"addressing_style": "path"}))


def bucket_and_key(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    return parts.netloc, parts.path.lstrip("/")


def inherited_environment() -> dict[str, str]:
    """The emulator's own, for the account and region of the request that is being served."""
    return {**os.environ, "AWS_ACCESS_KEY_ID": get_account_id(), "AWS_REGION": get_region()}


def in_milliseconds(value: Any, times: Collection[str]) -> Any:
    """A description with its `times` as Step Functions and EventBridge write them."""
    if isinstance(value, dict):
        return {
            name: int(item * 1000) if name in times else in_milliseconds(item, times) for name, item in value.items()
        }
    if isinstance(value, list):
        return [in_milliseconds(item, times) for item in value]
    return value
