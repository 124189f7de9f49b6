"""The demonstration of the ETL pipeline: a job that loads too few rows gets a ticket, which is closed when it is well.

fill the lake ─▶ extract history, train, promote ─▶ each day: fill the lake, extract, predict, tickets
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from lambdas.runtime.clock import ClockFace
from overcut.etl_jobs.features import MIN_RUNS
from overcut.etl_jobs.layout import LAKE_PREFIX
from overcut.etl_jobs.tickets import Action, Entry, TicketHead
from overcut.etl_jobs.verdicts import Judgement, Verdict
from workbench.csv_files import counted
from workbench.demonstration.house import DemonstrationError, House
from workbench.demonstration.progress import progress, step
from workbench.demonstration.questions import asked
from workbench.etl_jobs_system import EtlJobsSystem, comments, summary_of
from workbench.lake import LakePrefix, write_lake
from workbench.simulate_job_runs import Demonstration, demonstration_jobs
from workbench.workflows import Execution

SEED = 7
SHOWN_RUNS = 6
QUESTION = """SELECT job_name, started_at, records_processed, usual_records,
  (SELECT count(*) FROM job_runs AS past WHERE past.job_name = one.job_name) AS runs_before
FROM verdicts AS one WHERE judgement = 'anomalous' ORDER BY started_at"""
NEVER = "cron(0 0 1 1 ? 2199)"
# a model judges what is recorded once it is there, and this machine may be slow to train it
TRAINED_BEFORE = timedelta(hours=1)
_ACTIONS = {Action.OPEN: "ticket opened", Action.COMMENT: "comment added", Action.CLOSE: "ticket closed"}
_COLOURS = {Judgement.HEALTHY: "green", Judgement.LEARNING: "yellow"}


class EtlJobsPart:
    """The ETL pipeline's part of a demonstration."""

    pipeline = "etl_jobs"
    parameters: Mapping[str, str] = {}

    def __init__(self) -> None:
        self._script = demonstration_jobs(SEED)

    @property
    def begins(self) -> datetime:
        return _midnight(self._script.live_days[0])

    @contextmanager
    def prepared(self, house: House) -> Iterator[Mapping[str, Any]]:
        """The demonstration starts the workflows itself: the hour may turn while it runs, and its days are others."""
        if not house.clock.path.exists():
            # the sensors' part has its own; what is told of this one alone is as of its last day
            ends = _midnight(self._script.live_days[-1] + timedelta(days=1))
            house.clock.set(ClockFace(origin=ends.timestamp(), wall=0.0, speed=0.0, ttl_offset=0.0))
        yield {"training_schedule": NEVER, "prediction_schedule": NEVER}

    def run(self, house: House) -> dict[str, Any]:
        """Play the part; return tickets and what led to them.

        Raises:
            DemonstrationError: it could not go on.
        """
        system = EtlJobsSystem(house.outputs[EtlJobsSystem.stack("local")], house.session, house.url)
        return _Play(self._script, house, system).run()


class _Play:
    """One run against a deployed pipeline."""

    def __init__(self, script: Demonstration, house: House, system: EtlJobsSystem) -> None:
        self._house = house
        self._console = house.console
        self._system = system
        self._script = script
        self._told: set[tuple[str, str]] = set()

    def run(self) -> dict[str, Any]:
        lake, live = dict(self._script.jobs.lake()), self._script.live_days
        lines = self._fill_lake({day: records for day, records in lake.items() if day < live[0]})
        training, extracted = self._train(_midnight(live[0]) - TRAINED_BEFORE)
        days = []
        for day in live:
            lines += self._fill_lake({day: lake[day]})
            days.append(self._judge(day))
        tickets = self._system.tickets.everything()
        for head, entries in tickets:
            self._show_ticket(head, entries)
        return {
            "etl_jobs": {
                "lake": {"records": lines, "rejected": extracted["rejected"]},
                "training": training,
                "days": days,
                "asked": asked(self._console, self._system, QUESTION),
            },
            "tickets": [summary_of(head) | {"comments": comments(entries)} for head, entries in tickets],
        }

    def _fill_lake(self, days: Mapping[date, list[str]]) -> int:
        lake = LakePrefix(self._system.bucket, LAKE_PREFIX)
        lines = sum(map(len, days.values()))
        when = f"{min(days)} to {max(days)}" if len(days) > 1 else f"{min(days)}"
        with step(self._console, f"Filling the data lake: {lines:,} records, {when}"):
            return write_lake(lake, days.items(), name="records").lines

    def _train(self, until: datetime) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the training came to, and what the extraction before it counted."""
        with progress(self._console, "Extracting history with Spark, training", None) as tell:
            execution = self._system.run("Training", "demonstration-training", until, tell)
        self._demand(execution, "the training workflow")
        extracted = self._system.extracted("historical")
        decision = self._system.decision(execution.output["training_job"]["TrainingJobName"])
        self._console.print(
            f"  Spark: {extracted['lines']} lines of the lake, {extracted['rejected']} kept aside,"
            f" {extracted['runs']} runs of {counted(decision['jobs'] + decision['learning'], 'job')}\n"
            f"  SageMaker: a model of {counted(decision['jobs'], 'job')}, {decision['decision']};"
            f" still learning (under {MIN_RUNS} runs): {decision['learning']}",
            highlight=False,
        )
        if decision["decision"] != "promoted":
            raise DemonstrationError(f"the model was held: {decision['reason']}")
        training = {
            "status": execution.status,
            "decision": decision["decision"],
            "jobs": decision["jobs"],
            "runs": extracted["runs"],
            "seconds": round(execution.seconds, 1),
        }
        return training, extracted

    def _judge(self, day: date) -> dict[str, Any]:
        with progress(self._console, f"{day:%A}: extract, predict, tickets", None) as tell:
            until = _midnight(day + timedelta(days=1))
            execution = self._system.run("Prediction", f"demonstration-{day}", until, tell)
        self._demand(execution, "the prediction workflow")
        judged = [one for one in self._system.verdicts() if one.recorded_at.date() == day]
        self._show_verdicts(f"Runs of {day:%A}", judged)
        jobs = {one.job_name for one in judged}
        resting = sorted({history.job.name for history in self._script.jobs.histories} - jobs)
        told = f"  {counted(len(judged), 'run')} of {counted(len(jobs), 'job')}"
        self._console.print(f"{told}; not due that day: {', '.join(resting) or 'none'}", highlight=False)
        for head, entries in self._system.tickets.everything():
            for entry in entries:
                self._tell_once(head, entry)
        wrong = [one for one in judged if one.kind]
        return {"day": day.isoformat(), "runs": len(judged), "wrong": [one.run_id for one in wrong]}

    def _demand(self, execution: Execution, what: str) -> None:
        if not execution.succeeded:
            raise DemonstrationError(
                f"{what} ended as {execution.status}: {execution.cause}; logs are in {self._house.logs}"
            )

    def _show_verdicts(self, title: str, verdicts: Sequence[Verdict]) -> None:
        table = Table("job", "started", "rows", "usual", "score", "verdict", title=title, title_justify="left")
        ranked = sorted(verdicts, key=lambda one: (one.kind is None, -(one.anomaly_score or 0.0)))
        for one in ranked[:SHOWN_RUNS]:
            colour = _COLOURS.get(one.judgement, "red")
            table.add_row(
                one.job_name,
                f"{one.started_at:%a %H:%M}",
                _rows(one.records_processed),
                _rows(one.usual_records),
                "" if one.anomaly_score is None else f"{one.anomaly_score:.2f} of {one.score_cutoff:.2f}",
                f"[{colour}]{one.judgement}[/{colour}]",
            )
        self._console.print(table)
        if len(ranked) > SHOWN_RUNS:
            self._console.print(f"  and {len(ranked) - SHOWN_RUNS} more, less unusual")

    def _tell_once(self, head: TicketHead, entry: Entry) -> None:
        if (head.deduplication_key, entry.key) not in self._told:
            self._told.add((head.deduplication_key, entry.key))
            title = entry.title.splitlines()[0] if entry.title else ""
            self._console.print(f"  [bold]{_ACTIONS[entry.action]}[/bold] ({entry.state}): {escape(title)}")

    def _show_ticket(self, head: TicketHead, entries: Sequence[Entry]) -> None:
        opened = entries[0]
        title = f"Ticket {head.reference} in OpsCenter, {head.status}"
        self._console.print(
            Panel(escape(f"{opened.title}\n\n{opened.body}"), title=title, title_align="left", width=100)
        )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _rows(figure: float | None) -> str:
    return "" if figure is None else f"{figure:,.0f}"
