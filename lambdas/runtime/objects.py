"""Objects of one S3 bucket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


@dataclass(frozen=True)
class Bucket:
    """A bucket, and the client to reach it with."""

    client: S3Client
    bucket: str

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def count(self, prefix: str) -> int:
        """How many keys begin with `prefix`; a thousand, if they are more."""
        return int(self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix)["KeyCount"])

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders right below `prefix`, which ends with a slash, in order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/")
        found = (folder["Prefix"] for page in pages for folder in page.get("CommonPrefixes", []))
        return [folder[len(prefix) : -1] for folder in found]

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with `prefix`, in order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]
