"""A deployed ETL pipeline, seen through the AWS API: what the command line and the demonstration ask it."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

import boto3

from lambdas.etl_jobs.stores import PredictionsReader, TicketsStore
from lambdas.runtime.objects import Bucket
from overcut.etl_jobs.layout import EXTRACTIONS_PREFIX, PREDICTIONS_PREFIX, decision_key
from overcut.etl_jobs.tickets import Action, Entry, TicketHead
from overcut.etl_jobs.verdicts import Verdict
from stacks.stage import Stage
from workbench.system import outputs_of
from workbench.workflows import Execution, run_workflow


def etl_jobs_stack(stage: str) -> str:
    """The name of a stage's ETL stack."""
    return f"Overcut-{stage}-etl-jobs"


class EtlJobsSystem:
    """One deployed ETL pipeline.

    Args:
        outputs: of its stack.
        endpoint_url: of an embedded cloud; None for AWS.
    """

    def __init__(self, outputs: Mapping[str, str], session: boto3.Session, endpoint_url: str | None = None) -> None:
        self._outputs = outputs
        self._session = session
        self._endpoint_url = endpoint_url

    @classmethod
    def deployed(cls, stage: Stage) -> "EtlJobsSystem":
        """The stage's pipeline in its region, in the account that the environment names.

        Raises:
            NotDeployedError: it is not there.
        """
        session = boto3.Session(region_name=stage.region)
        return cls(outputs_of(session, etl_jobs_stack(stage.name)), session)

    def _client(self, service: str) -> Any:
        make: Callable[..., Any] = self._session.client
        return make(service, endpoint_url=self._endpoint_url)

    @property
    def lake(self) -> str:
        """Where the data lake is: `s3://bucket/prefix/`."""
        return self._outputs["Lake"]

    @cached_property
    def bucket(self) -> Bucket:
        return Bucket(self._client("s3"), self._outputs["DataBucket"])

    @cached_property
    def tickets(self) -> TicketsStore:
        return TicketsStore(self._client("dynamodb"), self._outputs["TicketsTable"])

    def run(
        self,
        workflow: Literal["Training", "Prediction"],
        name: str,
        until: datetime,
        while_waiting: Callable[[str], None],
    ) -> Execution:
        """Run a workflow under an execution name that was not used before, up to a moment; wait for its end."""
        arn = self._outputs[f"{workflow}Workflow"]
        given = {"until": until.isoformat().replace("+00:00", "Z")}
        return run_workflow(self._client("stepfunctions"), arn, name, given, while_waiting)

    def extracted(self, mode: Literal["historical", "recent"]) -> dict[str, Any]:
        """What the last extraction counted."""
        parts = [self.bucket.get(key) for key in self.bucket.keys(f"{EXTRACTIONS_PREFIX}{mode}/")]
        counts: dict[str, Any] = json.loads(b"".join(parts))
        return counts

    def decision(self, training_job_name: str) -> dict[str, Any]:
        """What a training job decided about its model."""
        decision: dict[str, Any] = json.loads(self.bucket.get(decision_key(training_job_name)))
        return decision

    def verdicts(self) -> list[Verdict]:
        """Everything that was predicted, by job and start."""
        reader = PredictionsReader(self.bucket.client, self.bucket.bucket)
        keys = [key for key in reader.keys(PREDICTIONS_PREFIX) if key.endswith(".jsonl")]
        found = [Verdict.from_json(line) for key in keys for line in reader.lines(key)]
        return sorted(found, key=lambda verdict: (verdict.job_name, verdict.started_at))

    def all_tickets(self) -> list[tuple[TicketHead, list[Entry]]]:
        """The newest ticket of every job and kind, with its entries in their order; reads the whole table."""
        return self.tickets.everything()

    def functions(self) -> list[str]:
        """The names of its functions."""
        return [self._outputs["PredictAnomalies"], self._outputs["OpenTickets"]]


def summary_of(head: TicketHead) -> dict[str, str]:
    """A ticket as a summary tells it."""
    return {
        "job_name": head.job_name,
        "run_id": head.opened_by,
        "kind": str(head.kind),
        "deduplication_key": head.deduplication_key,
        "status": str(head.status),
    }


def comments(entries: list[Entry]) -> int:
    """How many of a ticket's entries are comments."""
    return sum(entry.action is Action.COMMENT for entry in entries)
