"""What tickets say: plain text for the person who looks after a job, figures first, then what to check."""

from dataclasses import dataclass
from datetime import UTC, datetime
from math import floor, log10

from overcut.etl_jobs.job_runs import zone_of
from overcut.etl_jobs.verdicts import Judgement, Kind, Verdict
from overcut.plain_text import visible

# loaded again, or nearly: between these many times the usual rows
_TWICE = (1.8, 2.2)
_WHAT = {Kind.UNUSUAL_RUN: "Unusual", Kind.FAILED_RUN: "Failed", Kind.MISSED_RUN: "Missed"}
_BRACKETS = str.maketrans("<>", "‹›")
_FORMULA = ("=", "+", "-", "@")
_LEARNING = "The job has too few runs to know what is usual for it: this run is in order as far as that tells."


@dataclass(frozen=True, slots=True)
class Prediction:
    """A verdict, and where it is kept.

    Attributes:
        uri: of the object that holds it.
        link: the same for a browser.
    """

    verdict: Verdict
    uri: str
    link: str


@dataclass(frozen=True, slots=True)
class Streak:
    """The runs a ticket is about so far, the newest one included.

    Attributes:
        since, until: when the first and the last of them started, UTC.
    """

    runs: int
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Text:
    """Title: one line."""

    title: str
    body: str


def opening(prediction: Prediction, streak: Streak) -> Text:
    """What a new ticket says about the run that opened it."""
    verdict = prediction.verdict
    checks = "\n".join(f"- {check}" for check in _checks(verdict))
    body = f"{_figures(prediction, streak)}\n\nWhat to check:\n{checks}"
    return Text(_title(verdict), body)


def comment(prediction: Prediction, streak: Streak) -> Text:
    """What an open ticket gains by one more run."""
    return Text(f"Again: {_title(prediction.verdict)}", _figures(prediction, streak))


def closing(prediction: Prediction, streak: Streak, kind: Kind) -> Text:
    """Why a ticket is over. The prediction is of the run that showed it; the streak of those before."""
    verdict = prediction.verdict
    title = {
        Kind.UNUSUAL_RUN: f"{_line(verdict.job_name)} is back to usual",
        Kind.FAILED_RUN: f"{_line(verdict.job_name)} succeeded again",
        Kind.MISSED_RUN: f"{_line(verdict.job_name)} ran again",
    }[kind]
    first, last = _when(streak.since, verdict.time_zone), _when(streak.until, verdict.time_zone)
    lasted = f"1 run, {first}" if streak.runs == 1 else f"{_count(streak.runs, 'run')}, from {first} to {last}"
    lines = [*_run_lines(verdict), *_rows_and_time(verdict)]
    if verdict.judgement is Judgement.LEARNING:
        lines.append(_LEARNING)
    return Text(title, "\n".join([*lines, f"{_WHAT[kind]}: {lasted}", *_where(prediction)]))


def _title(verdict: Verdict) -> str:
    name = _line(verdict.job_name)
    if verdict.kind is Kind.MISSED_RUN:
        return f"{name} did not run at {_when(verdict.started_at, verdict.time_zone)}"
    if verdict.kind is Kind.FAILED_RUN:
        return f"{name} failed"
    if verdict.feature == "run_time" and verdict.run_time_seconds is not None:
        return f"{name} took {_duration(verdict.run_time_seconds)}{_usually_time(verdict)}"
    rows = _rows(verdict.records_processed)
    if verdict.feature == "drift":
        return f"{name} has drifted: {rows}{_usually_rows(verdict)}"
    return f"{name} loaded {rows}{_usually_rows(verdict)}"


def _figures(prediction: Prediction, streak: Streak) -> str:
    verdict = prediction.verdict
    lines = [*_run_lines(verdict)]
    if verdict.kind is not Kind.MISSED_RUN:
        lines += _rows_and_time(verdict)
    if off := _what_is_off(verdict):
        lines.append(f"Off: {off}")
    if verdict.anomaly_score is not None and verdict.score_cutoff is not None:
        lines.append(f"Score: {verdict.anomaly_score:.2f}, cutoff {verdict.score_cutoff:.2f}; higher is more unusual")
    if verdict.is_learning:
        lines.append("Learning: the job has few runs so far; what is usual is a rough guess")
    in_a_row = f"{_count(streak.runs, 'run')} in a row" if streak.runs > 1 else "1 run"
    since = _when(streak.since, verdict.time_zone)
    lines.append(f"{_WHAT[verdict.kind or Kind.UNUSUAL_RUN]}: {in_a_row}, since {since}")
    return "\n".join([*lines, *_where(prediction)])


def _run_lines(verdict: Verdict) -> list[str]:
    lines = [f"Job: {_line(verdict.job_name)}"]
    when = _when(verdict.started_at, verdict.time_zone)
    if verdict.kind is Kind.MISSED_RUN:
        lines.append(f"Expected: {when}")
        if verdict.schedule:
            lines.append(f"Schedule: {_line(verdict.schedule)}, in {_line(verdict.time_zone)}")
        return lines
    return [*lines, f"Run: {_line(verdict.run_id)}", f"Started: {when}"]


def _rows_and_time(verdict: Verdict) -> list[str]:
    lines = []
    if verdict.records_processed is not None:
        off = _how_much_off(verdict.records_processed, verdict.usual_records)
        lines.append(f"Rows loaded: {verdict.records_processed:,}{_usually_rows(verdict)}{off}")
    if verdict.run_time_seconds is not None:
        lines.append(f"Run time: {_duration(verdict.run_time_seconds)}{_usually_time(verdict)}")
    return lines


def _where(prediction: Prediction) -> list[str]:
    return [f"Prediction: {prediction.uri}", f"In the console: {prediction.link}"]


def _what_is_off(verdict: Verdict) -> str:
    if verdict.deviations is None or verdict.kind is not Kind.UNUSUAL_RUN:
        return ""
    what = {
        "records": "rows loaded",
        "run_time": "run time, given the rows loaded",
        "drift": "rows loaded over the last runs together",
    }.get(verdict.feature, verdict.feature)
    side = "above" if verdict.deviations > 0 else "below"
    return f"{what}, {abs(verdict.deviations):.1f} standard deviations of this job {side} the usual"


def _checks(verdict: Verdict) -> list[str]:
    """What a person looks at first, by what is wrong."""
    rows, usual = verdict.records_processed, verdict.usual_records
    if verdict.kind is Kind.MISSED_RUN:
        return [
            "Is the schedule still active in the orchestrator, and was it changed or paused on purpose?",
            "Is a run queued or waiting for one before it?",
            "Did the run's records reach the data lake?",
        ]
    if verdict.kind is Kind.FAILED_RUN:
        return [
            "What does the run's log in the orchestrator say?",
            "Did others that read the same source fail as well?",
            "Were half its rows written, so that a rerun would load them twice?",
        ]
    if verdict.feature == "run_time":
        faster = verdict.deviations is not None and verdict.deviations < 0
        if faster:
            return [
                "Did the run skip a step or a partition?",
                "Was its input complete when it started?",
            ]
        return [
            "Did it wait for a lock, a queue or another job?",
            "Are the source and the cluster slower for other jobs as well?",
            "Has the plan of its query changed, or an index gone?",
        ]
    if verdict.feature == "drift":
        return [
            "Has the source lost or gained a region, a customer or a table some days ago?",
            "Was a filter or a join changed?",
            "If the new level is right, nothing: it becomes usual in about four weeks.",
        ]
    if rows == 0:
        return [
            "Did the source deliver anything for this run?",
            "Do the credentials, the path and the date filter of the run still hold?",
            "Were the rows of earlier runs deleted or replaced?",
        ]
    if rows is not None and usual and _TWICE[0] <= rows / usual <= _TWICE[1]:
        return [
            "Was the same input loaded twice: a rerun, or two files for one day?",
            "Did a join multiply rows? Look for duplicate keys.",
        ]
    if rows is not None and usual is not None and rows < usual:
        return [
            "Was the input complete when the run started?",
            "Are partitions, files or regions missing?",
            "Was a filter or a join changed?",
        ]
    return [
        "Was input of more than one period loaded, such as a backfill?",
        "Did a join multiply rows? Look for duplicate keys.",
        "Has the source grown on purpose: a migration, a new customer?",
    ]


def _rows(count: int | None) -> str:
    if count is None:
        return "an unusual number of rows"
    return "no rows" if count == 0 else _count(count, "row")


def _usually_rows(verdict: Verdict) -> str:
    return "" if verdict.usual_records is None else f", usually about {_about(verdict.usual_records)}"


def _usually_time(verdict: Verdict) -> str:
    return "" if verdict.usual_seconds is None else f", usually about {_duration(verdict.usual_seconds)}"


def _how_much_off(rows: int, usual: float | None) -> str:
    if not usual:
        return ""
    ratio = rows / usual
    if ratio >= 2:
        return f" ({ratio:.1f} times as many)"
    percent = abs(ratio - 1) * 100
    if rows == 0 or percent < 0.5:
        return ""
    shown = "over 99" if ratio < 1 and percent > 99 else f"{percent:.0f}"
    return f" ({shown} % {'more' if ratio > 1 else 'fewer'})"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _about(value: float) -> str:
    """Three significant digits, with a comma at every third."""
    if value < 1:
        return "0"
    unit = 10 ** max(floor(log10(value)) - 2, 0)
    return f"{round(value / unit) * unit:,}"


def _duration(seconds: float) -> str:
    """Its two largest units."""
    left = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def _when(moment: datetime, time_zone: str) -> str:
    """A moment in the job's own zone, and in UTC; in UTC alone where the zone is unknown here."""
    utc, local = moment.astimezone(UTC), moment.astimezone(zone_of(time_zone))
    if local.replace(tzinfo=None) == utc.replace(tzinfo=None):
        return f"{utc:%Y-%m-%d %H:%M} UTC"
    shown = "%H:%M" if local.date() == utc.date() else "%Y-%m-%d %H:%M"
    return f"{local:%Y-%m-%d %H:%M} {time_zone} ({utc.strftime(shown)} UTC)"


def _line(text: str) -> str:
    """What an orchestrator calls something, in one line that means nothing else wherever a ticket is shown: no HTML,
    no link of Markdown, no formula of a spreadsheet."""
    line = visible(text).translate(_BRACKETS).replace("](", "] (")
    return f"'{line}" if line.startswith(_FORMULA) else line
