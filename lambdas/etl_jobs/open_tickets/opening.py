"""From predictions to tickets: what is decided about each job, and what is owed to the sink."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime

from lambdas.etl_jobs.stores import PredictionsReader
from overcut.etl_jobs.ticket_texts import Prediction
from overcut.etl_jobs.tickets import (
    MOST_MISSED_IN_SILENCE,
    Action,
    TicketMovedError,
    TicketStore,
    decide,
    deduplication_key,
    is_proven,
    newest,
    run_key,
)
from overcut.etl_jobs.verdicts import Judgement, Kind, Verdict

MAX_DECISIONS = 5
# one of them is in every line that a ticket may be about, and in hardly any other
_WRONG = tuple(f'"{judgement}"'.encode() for judgement in (Judgement.ANOMALOUS, Judgement.FAILED, Judgement.MISSED))


@dataclass(slots=True)
class Decided:
    """How many tickets were opened, commented and closed, and under which keys entries were put.

    Attributes:
        missed_in_silence: jobs that nothing was decided about: see `overcut.etl_jobs.tickets.is_proven`.
    """

    actions: dict[Action, int]
    entries: dict[str, set[str]]
    missed_in_silence: int = 0


@dataclass(frozen=True)
class TicketOpener:
    """Decides about the tickets of every job.

    Args:
        kinds: of tickets that there are at all.
        namespace: see `decide`.
    """

    predictions: PredictionsReader
    tickets: TicketStore
    kinds: Collection[Kind]
    namespace: str

    def decide_all(self, days: Iterable[date], open_tickets: Mapping[str, Collection[Kind]], now: datetime) -> Decided:
        """Settle the tickets of all jobs by the predictions of some days, one bucket of jobs after the other.

        Args:
            open_tickets: the kinds of each job's open tickets.
        """
        done = Decided(dict.fromkeys(Action, 0), defaultdict(set))
        buckets, newest_record = self.predictions.by_bucket(days), self.predictions.newest_record()
        kinds, unproven = self._wrong((key for keys in buckets for key in keys), newest_record)
        believed = None
        if len(unproven) > MOST_MISSED_IN_SILENCE:
            done.missed_in_silence, believed = len(unproven), newest_record
        else:
            for job_name in unproven:
                kinds[job_name].add(Kind.MISSED_RUN)
        for job_name, job_kinds in open_tickets.items():
            kinds[job_name].update(job_kinds)
        for keys in buckets:
            for job_name, predictions in self._of_bucket(keys, kinds, believed).items():
                for kind in sorted(kinds[job_name]):
                    self._settle(job_name, kind, predictions, now, done)
        return done

    def _wrong(
        self, keys: Iterable[str], newest_record: datetime | None
    ) -> tuple[defaultdict[str, set[Kind]], set[str]]:
        """Of each job the kinds that something is wrong of; and the jobs missed while the lake was silent."""
        kinds: defaultdict[str, set[Kind]] = defaultdict(set)
        unproven = set()
        for line in (line for key in keys for line in self.predictions.lines(key)):
            # most lines are about runs in order: they need not be parsed
            if any(word in line for word in _WRONG):
                verdict = Verdict.from_json(line)
                if verdict.kind is None or verdict.kind not in self.kinds:
                    continue
                if is_proven(verdict, newest_record):
                    kinds[verdict.job_name].add(verdict.kind)
                else:
                    unproven.add(verdict.job_name)
        return kinds, unproven

    def _of_bucket(
        self, keys: Collection[str], jobs: Collection[str], believed: datetime | None
    ) -> dict[str, list[Prediction]]:
        """The predictions of all runs of those of `jobs` that are in a bucket, by job: of each run the newest.

        The objects are read a second time: which jobs matter is known only after the first, and they are few.

        Args:
            believed: what was clear only later never to have come is left out; None believes all.
        """
        runs: defaultdict[str, dict[str, Prediction]] = defaultdict(dict)
        for key in keys:
            uri, link = self.predictions.uri(key), self.predictions.link(key)
            for line in self.predictions.lines(key):
                job_name = json.loads(line)["job_name"]
                if job_name not in jobs:
                    continue
                prediction = Prediction(Verdict.from_json(line), uri, link)
                if is_proven(prediction.verdict, believed):
                    run_id = prediction.verdict.run_id
                    runs[job_name][run_id] = newest(prediction, runs[job_name].get(run_id, prediction))
        return {job_name: list(predictions.values()) for job_name, predictions in runs.items()}

    def _settle(
        self, job_name: str, kind: Kind, predictions: Collection[Prediction], now: datetime, done: Decided
    ) -> None:
        """Decide and store until nobody has changed the ticket in between."""
        key = deduplication_key(job_name, kind)
        entries = {run_key(one.verdict.run_id) for one in predictions if one.verdict.kind is kind}
        for _ in range(MAX_DECISIONS):
            head = self.tickets.head(key)
            known = self.tickets.existing(key, entries)
            try:
                for change in decide(head, kind, predictions, known, now, self.namespace):
                    self.tickets.apply(change)
                    done.actions[change.entry.action] += 1
                    done.entries[key].add(change.entry.key)
            except TicketMovedError:
                continue
            return
        raise TicketMovedError(f"the ticket {key} moved {MAX_DECISIONS} times while it was decided about")
