"""Files of job runs and of the faults known to be in them: the form in which runs come to a laptop and leave it.

A runs file is a CSV with the header `job_name,run_id,started_at,run_time_seconds,records_processed,status`, a labels
file one with `job_name,run_id,kind`. Times are ISO 8601 with a zone and are written in UTC; the figures of a FAILED run
may be empty. Two more columns are read where they are there: the job's own `time_zone`, which its days and hours are
told by, and its `schedule`. A name that ends in `.gz` is compressed.

    RefusedError
     └─ JobRunsFileError   a file that cannot be used: which one, where in it, and what to do
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from overcut import RefusedError
from overcut.etl_jobs.job_runs import JobRun, JobRunRefusedError, Status, parse_job_run
from workbench.csv_files import CsvForm, counted

RUNS_HEADER = ("job_name", "run_id", "started_at", "run_time_seconds", "records_processed", "status")
LABELS_HEADER = ("job_name", "run_id", "kind")
MISSING_HEADER = ("job_name", "expected_at")

# job name and run id: what a run is known by
RunKey = tuple[str, str]

# what to write instead, by the column with which a refusal begins
_REMEDIES = {
    "started_at": "write times with their zone, such as 2026-03-02T02:00:04Z",
    "run_time_seconds": "write how long the run took, in seconds",
    "records_processed": "write how many rows the run loaded; only a FAILED run may leave it empty",
    "status": "write SUCCEEDED or FAILED, and leave out runs that have not ended",
    "day_of_week": "write the weekday of the start in the job's own zone, or leave the column out",
}
_PLAIN_NAME = "give every job and every run a plain name"


class JobRunsFileError(RefusedError):
    """A file of job runs or labels that cannot be used; the text is one sentence for the person who named it."""


_RUNS = CsvForm(RUNS_HEADER, f"a file of job runs begins with the header {','.join(RUNS_HEADER)}", JobRunsFileError)
_LABELS = CsvForm(LABELS_HEADER, f"a labels file begins with the header {','.join(LABELS_HEADER)}", JobRunsFileError)
_MISSING = CsvForm(
    MISSING_HEADER, f"a file of missing runs begins with the header {','.join(MISSING_HEADER)}", JobRunsFileError
)


@dataclass(frozen=True)
class JobRunsFile:
    """What a file of job runs holds.

    Attributes:
        runs: sorted by (job_name, started_at, run_id), one for each job name and run id.
        repairs: what was mended while reading, a sentence each; empty for a clean file.
    """

    runs: list[JobRun]
    repairs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MissingRun:
    """A run that never came: `expected_at` (UTC) its job's schedule says that it should have."""

    job_name: str
    expected_at: datetime


def read_job_runs(path: Path) -> JobRunsFile:
    """The runs of a file. Of a run that is there more than once, the last row is kept.

    Raises:
        JobRunsFileError: for anything that is not such a file.
    """
    header, rows = _RUNS.read(path)
    kept: dict[RunKey, JobRun] = {}
    duplicates = 0
    for line, cells in rows:
        try:
            run = parse_job_run(dict(zip(header, cells, strict=True)))
            if run.status is Status.RUNNING:
                raise JobRunRefusedError("status RUNNING is not an end")
        except JobRunRefusedError as error:
            remedy = _REMEDIES.get(str(error).partition(" ")[0], _PLAIN_NAME)
            raise JobRunsFileError(f"{path}, line {line}: {error!s:.200}; {remedy}") from None
        key = run.job_name, run.run_id
        duplicates += key in kept
        kept[key] = run
    if not kept:
        raise JobRunsFileError(f"{path} has a header and no rows; give a file with job runs")
    repairs = (f"{counted(duplicates, 'duplicate row')}: the last of each was kept",) if duplicates else ()
    return JobRunsFile(sorted(kept.values(), key=lambda run: (run.job_name, run.started_at, run.run_id)), repairs)


def write_job_runs(path: Path, runs: Iterable[JobRun]) -> None:
    """Write a file of job runs, in the order given and without holding them: there may be millions.

    A figure of 0 of a FAILED run means that there is none, and is left empty.

    Raises:
        JobRunsFileError: the file cannot be written.
    """
    _RUNS.write(path, (*RUNS_HEADER, "time_zone", "schedule"), map(_run_cells, runs))


def read_labels(path: Path) -> dict[RunKey, str]:
    """The kind of fault of each labelled run; a header alone means that there are none.

    Raises:
        JobRunsFileError: for anything that is not such a file.
    """
    header, rows = _LABELS.read(path)
    columns = [header.index(name) for name in LABELS_HEADER]
    labels: dict[RunKey, str] = {}
    for line, cells in rows:
        job_name, run_id, kind = (cells[column] for column in columns)
        if not (job_name and run_id and kind):
            raise JobRunsFileError(
                f"{path}, line {line}: a label needs a job_name, a run_id and a kind; leave out runs that are healthy"
            )
        if labels.setdefault((job_name, run_id), kind) != kind:
            raise JobRunsFileError(
                f"{path}, line {line}: the run {run_id} of {job_name} is already labelled "
                f"{labels[job_name, run_id]!r}; give a run one kind"
            )
    return labels


def write_labels(path: Path, labels: Mapping[RunKey, str]) -> None:
    """Write a labels file in order of (job_name, run_id).

    Raises:
        JobRunsFileError: the file cannot be written.
    """
    _LABELS.write(path, LABELS_HEADER, ([*key, kind] for key, kind in sorted(labels.items())))


def write_missing_runs(path: Path, missing: Iterable[MissingRun]) -> None:
    """Write the runs that never came, in order of (job_name, expected_at).

    Raises:
        JobRunsFileError: the file cannot be written.
    """
    ordered = sorted(missing, key=lambda run: (run.job_name, run.expected_at))
    _MISSING.write(path, MISSING_HEADER, ([run.job_name, _utc(run.expected_at)] for run in ordered))


def _run_cells(run: JobRun) -> Sequence[object]:
    figures: list[float | str] = [run.run_time_seconds, run.records_processed]
    if run.status is Status.FAILED:
        figures = [figure or "" for figure in figures]
    return [run.job_name, run.run_id, _utc(run.started_at), *figures, run.status, run.time_zone, run.schedule]


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"
