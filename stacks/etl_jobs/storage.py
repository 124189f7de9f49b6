"""Storage: the Tickets table and the data bucket of the ETL pipeline."""

from aws_cdk import ArnFormat, Stack
from constructs import Construct

from overcut.etl_jobs.layout import LAKE_PREFIX, MODELS_PREFIX
from stacks.constructs.storage import STRING, DataTable, PipelineBucket
from stacks.stage import EtlJobsStage

# a promoted model stays: one may be in force for long while the newer ones are held
_EXPIRING = ("training-jobs/", f"{MODELS_PREFIX}trained/", f"{MODELS_PREFIX}decisions/")


class Storage(Construct):
    """A table and a bucket, and where the data lake is. What they hold: `overcut.etl_jobs.layout`, the stores."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: EtlJobsStage) -> None:
        super().__init__(scope, construct_id)
        self.tickets = DataTable(
            self, "Tickets", stage=stage, partition_key=("deduplication_key", STRING), sort_key=("entry", STRING)
        )
        self.tickets.add_keys_index("attention", ("attention", STRING), ("deduplication_key", STRING))
        self.bucket = PipelineBucket(self, "Data", stage=stage, expiring=_EXPIRING)
        self._lake = stage.etl_jobs.lake

    @property
    def lake_url(self) -> str:
        return self._lake or self.bucket.s3_url_for_object(LAKE_PREFIX)

    @property
    def lake_bucket_arn(self) -> str:
        if not self._lake:
            return self.bucket.bucket_arn
        name = self._lake.removeprefix("s3://").split("/")[0]
        return Stack.of(self).format_arn(
            service="s3", region="", account="", resource=name, arn_format=ArnFormat.NO_RESOURCE_NAME
        )

    @property
    def lake_objects_arns(self) -> list[str]:
        """Its objects, and its folder: Spark asks whether that is there by the name without a slash."""
        folder = self.lake_url.removeprefix("s3://").partition("/")[2].rstrip("/") if self._lake else LAKE_PREFIX[:-1]
        if not folder:
            return [f"{self.lake_bucket_arn}/*"]
        return [f"{self.lake_bucket_arn}/{folder}", f"{self.lake_bucket_arn}/{folder}/*"]
