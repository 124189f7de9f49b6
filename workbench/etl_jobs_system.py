"""A deployed ETL pipeline, seen through the AWS API: what the command line and the demonstration ask it."""

import json
from collections.abc import Callable
from datetime import date, datetime
from functools import cached_property
from typing import Any, Literal

from lambdas.etl_jobs.extractions import last_counts
from lambdas.etl_jobs.stores import PredictionsReader, TicketsStore
from lambdas.runtime.objects import Bucket
from overcut.etl_jobs.layout import PREDICTIONS_PREFIX, PROMOTED_PREFIX, Promoted, decision_key, predictions_prefix
from overcut.etl_jobs.tickets import Action, Entry, TicketHead
from overcut.etl_jobs.verdicts import Verdict
from workbench.deployed import DeployedPipeline
from workbench.parked import Queue, TicketsQueue
from workbench.workflows import Execution, run_workflow


class EtlJobsSystem(DeployedPipeline):
    """One deployed ETL pipeline."""

    PIPELINE = "etl-jobs"

    @cached_property
    def bucket(self) -> Bucket:
        return Bucket(self._client("s3"), self._outputs["DataBucket"])

    @cached_property
    def tickets(self) -> TicketsStore:
        return TicketsStore(self._client("dynamodb"), self._outputs["TicketsTable"])

    def parked_queues(self) -> list[Queue]:
        """What the pipeline's functions could not process."""
        return [TicketsQueue(self.tickets)]

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
        """What the last extraction counted; nothing before the first."""
        return last_counts(self.bucket, mode) or {}

    def decision(self, training_job_name: str) -> dict[str, Any]:
        """What a training job decided about its model."""
        decision: dict[str, Any] = json.loads(self.bucket.get(decision_key(training_job_name)))
        return decision

    def promoted(self) -> list[Promoted]:
        """The models that were put to use, newest first."""
        keys = (key for key in self.bucket.keys(PROMOTED_PREFIX) if key.endswith(".npz"))
        return sorted(map(Promoted.from_key, keys), reverse=True)

    def held(self) -> list[str]:
        """Why models were held, each reason once."""
        prefix = decision_key("").removesuffix(".json")
        decisions = (self.decision(key.removeprefix(prefix).removesuffix(".json")) for key in self.bucket.keys(prefix))
        return sorted({one["reason"] for one in decisions if one["decision"] == "held"})

    def verdicts(self, since: date = date.min) -> list[Verdict]:
        """Everything that was predicted of runs recorded since a day, by job and start."""
        reader = PredictionsReader(self.bucket.client, self.bucket.bucket)
        first = predictions_prefix(since) if since > date.min else ""
        keys = [key for key in reader.keys(PREDICTIONS_PREFIX) if key.endswith(".jsonl") and key >= first]
        found = [Verdict.from_json(line) for key in keys for line in reader.lines(key)]
        return sorted(found, key=lambda verdict: (verdict.job_name, verdict.started_at))


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
