"""Predicting: the runs that a bucket's jobs had in two days, each judged once, by the model then in force.

    recent/bucket=3/… ─ job by job ─▶ every model of these days, one at a time ─▶ predictions/dt=…/model_version=…/

A rerun writes whole objects: what an earlier one wrote and this one has no verdict for is written empty.
"""

from __future__ import annotations

import heapq
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby

from arro3.io import read_parquet

from lambdas.etl_jobs.extractions import last_counts
from lambdas.etl_jobs.predict_anomalies.verdict_files import VerdictFile
from lambdas.runtime.objects import Bucket
from overcut.etl_jobs.job_runs import JobRun, JobRunRefusedError, Status, parse_job_run
from overcut.etl_jobs.layout import (
    PROMOTED_PREFIX,
    Promoted,
    bucket_of,
    judged_days,
    prediction_table_key,
    prediction_table_prefix,
    predictions_key,
    predictions_prefix,
    recent_prefix,
)
from overcut.etl_jobs.model import KnownJob, Model, ModelRefusedError, load_model
from overcut.etl_jobs.predictions import Prediction, predict
from overcut.etl_jobs.schedules import MissedRun, Plan, ScheduleRefusedError, missed_runs
from overcut.etl_jobs.verdicts import Judgement, Verdict

_ROWS_AT_ONCE = 250
_COLUMNS = (
    *("job_name", "run_id", "started_at", "run_time_seconds", "records_processed", "status", "day_of_week"),
    *("recorded_at", "time_zone", "schedule"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of recent/.

    Attributes:
        run: None where the row can be no run; that it started still counts.
        records: rows loaded, None where nobody said.
    """

    job_name: str
    run_id: str
    started_at: datetime
    recorded_at: datetime
    records: int | None
    run: JobRun | None


@dataclass(frozen=True, slots=True)
class InForce:
    """A promoted model and when it judges: what is recorded from `effective_from` on and before `end`."""

    promoted: Promoted
    end: datetime

    def has(self, recorded_at: datetime) -> bool:
        return self.promoted.effective_from <= recorded_at < self.end


@dataclass
class Predicted:
    """What was said about the runs of one bucket.

    Attributes:
        has_model: whether any model was in force; without one nothing is judged.
        refused: rows that can be no run. `ignored_schedules`: of jobs, those that are no cron schedule.
    """

    has_model: bool = True
    verdicts: Counter[Judgement] = field(default_factory=Counter)
    refused: int = 0
    refused_models: int = 0
    ignored_schedules: int = 0

    def answer(self) -> dict[str, int | bool]:
        said = self.verdicts
        counts: dict[str, int | bool] = {
            "runs": said.total() - said[Judgement.MISSED],
            "anomalous": said[Judgement.ANOMALOUS],
            "failed": said[Judgement.FAILED],
            "missed": said[Judgement.MISSED],
            "learning": said[Judgement.LEARNING],
        }
        return counts if self.has_model else {**counts, "no_model": True}

    def metrics(self) -> dict[str, int]:
        counted = {f"Runs{judgement.title()}": self.verdicts[judgement] for judgement in Judgement}
        return {
            **counted,
            "RunsRefused": self.refused,
            "ModelsRefused": self.refused_models,
            "SchedulesIgnored": self.ignored_schedules,
        }


@dataclass(frozen=True)
class Predictor:
    """Judges runs from the data bucket, and writes what it finds there."""

    data: Bucket
    buckets: int
    missed_after: timedelta

    def predict(self, bucket: int, until: datetime) -> Predicted:
        """Judge what was recorded on the UTC day of `until` and the day before, and before `until`.

        Raises:
            ModelRefusedError: no model that was in force can be used. What another one of these days is to judge goes
                on without it.
        """
        days = judged_days(until)
        keys = (key for key in self.data.keys(PROMOTED_PREFIX) if key.endswith(".npz"))
        promoted = sorted(map(Promoted.from_key, keys))
        promoted = [one for one in promoted if one.effective_from < until]
        if not promoted:
            return Predicted(has_model=False)
        ends = [*(one.effective_from for one in promoted[1:]), until]
        midnight = datetime.combine(days[0], time(), UTC)
        models = [InForce(one, end) for one, end in zip(promoted, ends, strict=True) if end > midnight]
        recent = [self.data.get(key) for key in self.data.keys(recent_prefix(bucket)) if key.endswith(".parquet")]
        judging = _Judging(days, self.missed_after, promoted[0].effective_from)
        refusals = []
        for in_force in models:
            try:
                model = self._model(in_force.promoted, bucket)
            except ModelRefusedError as error:
                refusals.append(error)
                continue
            judging.judge(recent, in_force, model)
        if len(refusals) == len(models):
            raise refusals[-1]
        judging.predicted.refused_models = len(refusals)
        self._write(bucket, days, judging.files)
        return judging.predicted

    def lines_rejected(self) -> int:
        """The lines of the lake that the last extraction of recent runs could not read."""
        counts = last_counts(self.data, "recent")
        return int(counts["rejected"]) if counts else 0

    def _model(self, promoted: Promoted, bucket: int) -> Model:
        """The model, of whose jobs only the bucket's are kept."""
        try:
            return load_model(self.data.get(promoted.key), lambda name: bucket_of(name, self.buckets) == bucket)
        except ModelRefusedError as error:
            raise ModelRefusedError(f"{promoted.key}: {error}") from error

    def _write(self, bucket: int, days: Sequence[date], files: dict[tuple[date, str], VerdictFile]) -> None:
        stale = {
            key
            for day in days
            for prefix in (prediction_table_prefix(day), predictions_prefix(day))
            for key in self.data.keys(prefix)
            if key.endswith((f"-bucket={bucket}.parquet", f"/bucket={bucket}.jsonl"))
        }
        for (day, version), file in files.items():
            for key, body in (
                (prediction_table_key(day, version, bucket), file.to_parquet()),
                (predictions_key(day, version, bucket), file.to_jsonl()),
            ):
                self.data.put(key, body)
                stale.discard(key)
        for key in sorted(stale):
            self.data.put(key, VerdictFile().to_parquet() if key.endswith(".parquet") else b"")


@dataclass
class _Judging:
    """One invocation: the same rows under one model after the other, ascending by when each came into force."""

    days: Sequence[date]
    missed_after: timedelta
    first_in_force: datetime
    files: dict[tuple[date, str], VerdictFile] = field(default_factory=dict)
    predicted: Predicted = field(default_factory=Predicted)
    # the gaps that a model has told of while it was in force; None before the first
    told: set[tuple[str, datetime]] | None = None

    def judge(self, recent: Iterable[bytes], in_force: InForce, model: Model) -> None:
        """Say what `model` says about what was recorded while it was in force."""
        told: set[tuple[str, datetime]] = set()
        self.predicted.refused = self.predicted.ignored_schedules = 0
        seen = set()
        for job_name, rows in _jobs(recent):
            seen.add(job_name)
            self.predicted.refused += sum(row.run is None for row in rows)
            known = model.jobs.get(job_name)
            for row in rows:
                if row.run is not None and row.run.status is Status.FAILED and in_force.has(row.recorded_at):
                    self._add(_failed(row, row.run, model))
            self._succeeded(rows, in_force, model)
            self._missed(job_name, known, rows, in_force, model, told)
        for job_name in model.jobs.names:
            if job_name not in seen:
                self._missed(job_name, model.jobs.get(job_name), [], in_force, model, told)
        self.told = (self.told or set()) | told

    def _succeeded(self, rows: Sequence[Row], in_force: InForce, model: Model) -> None:
        asked, others = {}, []
        for row in rows:
            if row.run is None:
                continue
            if row.run.status is Status.SUCCEEDED and self._is_asked(row.recorded_at) and in_force.has(row.recorded_at):
                asked[row.run_id] = row
            else:
                others.append(row.run)
        runs = [row.run for row in asked.values() if row.run is not None]
        for prediction, run in zip(predict(model, others, runs), runs, strict=True):
            self._add(_judged(prediction, run, asked[prediction.run_id].recorded_at))

    def _missed(
        self,
        job_name: str,
        known: KnownJob | None,
        rows: Sequence[Row],
        in_force: InForce,
        model: Model,
        told: set[tuple[str, datetime]],
    ) -> None:
        """The runs of which it became clear while `model` was in force that they never came."""
        starts = {row.started_at for row in rows}
        if known is not None:
            starts |= {known.last_started_at, *(run.started_at for run in known.tail)}
        newest = next((row.run for row in reversed(rows) if row.run is not None), None)
        declared = newest or known
        if declared is None:
            return
        plan = Plan(declared.schedule, declared.time_zone, known.cadence if known else None)
        effective_from = in_force.promoted.effective_from
        for missed in self._never_came(plan, sorted(starts), in_force.end):
            clear_at = missed.clear_at
            if missed.gap_since is not None:
                gap = (job_name, missed.gap_since)
                if self.told is not None and gap in self.told:
                    continue
                told.add(gap)
                # with the model before this one it was not clear yet, though it would have been with this one
                clear_at = clear_at if self.told is None else max(clear_at, effective_from)
            if clear_at >= effective_from:
                self._add(_never_came(job_name, missed, clear_at, plan, model))

    def _never_came(self, plan: Plan, starts: Sequence[datetime], until: datetime) -> list[MissedRun]:
        since = datetime.combine(self.days[0], time(), UTC)
        for one in (plan, Plan("", plan.time_zone, plan.cadence), Plan("", "UTC", plan.cadence)):
            try:
                return missed_runs(
                    one,
                    starts,
                    since=since,
                    judged_from=self.first_in_force,
                    until=until,
                    missed_after=self.missed_after,
                )
            except ScheduleRefusedError:
                self.predicted.ignored_schedules += one is plan
        raise AssertionError("UTC is a time zone")

    def _is_asked(self, recorded_at: datetime) -> bool:
        return recorded_at.date() in self.days

    def _add(self, verdict: Verdict) -> None:
        if self._is_asked(verdict.recorded_at):
            key = (verdict.recorded_at.date(), verdict.model_version)
            self.files.setdefault(key, VerdictFile()).add(verdict)
            self.predicted.verdicts[verdict.judgement] += 1


def _jobs(recent: Iterable[bytes]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each job, ascending by start; each file is sorted by job and start, so one job is held at a time."""
    merged = heapq.merge(*map(_rows, recent), key=lambda row: (row.job_name, row.started_at, row.run_id))
    for job_name, rows in groupby(merged, key=lambda row: row.job_name):
        yield job_name, list(rows)


def _rows(stored: bytes) -> Iterator[Row]:
    for batch in read_parquet(io.BytesIO(stored), batch_size=_ROWS_AT_ONCE):
        for values in zip(*(batch[column].to_pylist() for column in _COLUMNS), strict=True):
            fields = dict(zip(_COLUMNS, values, strict=True))
            try:
                run = parse_job_run(fields)
            except JobRunRefusedError:
                run = None
            started_at, recorded_at = fields["started_at"].astimezone(UTC), fields["recorded_at"].astimezone(UTC)
            records = fields["records_processed"]
            yield Row(fields["job_name"], fields["run_id"], started_at, recorded_at, records, run)


def _judged(prediction: Prediction, run: JobRun, recorded_at: datetime) -> Verdict:
    usual = Judgement.LEARNING if prediction.is_learning else Judgement.HEALTHY
    return Verdict(
        job_name=run.job_name,
        run_id=run.run_id,
        judgement=Judgement.ANOMALOUS if prediction.is_anomalous else usual,
        started_at=run.started_at,
        recorded_at=recorded_at,
        model_version=prediction.model_version,
        is_learning=prediction.is_learning,
        records_processed=run.records_processed,
        usual_records=prediction.usual_records,
        run_time_seconds=run.run_time_seconds,
        usual_seconds=prediction.usual_seconds,
        anomaly_score=prediction.anomaly_score,
        score_cutoff=prediction.score_cutoff,
        feature=prediction.feature,
        deviations=prediction.deviations,
        time_zone=run.time_zone,
        schedule=run.schedule,
    )


def _failed(row: Row, run: JobRun, model: Model) -> Verdict:
    return Verdict(
        job_name=run.job_name,
        run_id=run.run_id,
        judgement=Judgement.FAILED,
        started_at=run.started_at,
        recorded_at=row.recorded_at,
        model_version=model.model_version,
        records_processed=row.records,
        run_time_seconds=run.run_time_seconds,
        time_zone=run.time_zone,
        schedule=run.schedule,
    )


def _never_came(job_name: str, missed: MissedRun, clear_at: datetime, plan: Plan, model: Model) -> Verdict:
    return Verdict(
        job_name=job_name,
        run_id=f"missed-{missed.expected_at:%Y%m%dT%H%M%SZ}",
        judgement=Judgement.MISSED,
        started_at=missed.expected_at,
        recorded_at=clear_at,
        model_version=model.model_version,
        time_zone=plan.time_zone,
        schedule=plan.schedule,
    )
