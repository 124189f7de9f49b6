"""The page of a report: what a deployment has seen, for people who would rather look than read.

Nothing is told by colour alone, every picture has its words, and wide tables can be scrolled with the keyboard.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from overcut.etl_jobs.tickets import TicketStatus
from overcut.etl_jobs.verdicts import Judgement, Verdict
from overcut.plain_text import visible
from overcut.sensors.auditing import percentile
from overcut.sensors.cutoffs import Cutoff
from overcut.sensors.incidents import IncidentState
from overcut.sensors.readings import parse_time
from workbench.incidents_commands import measured, state_of
from workbench.pages import (
    FOOT,
    HEAD,
    LEFT,
    RIGHT,
    WIDTH,
    Axes,
    Floats,
    at,
    axes_of,
    below,
    counted,
    document,
    legend,
    panel,
    path_of,
    sub,
    svg_in,
    ticks,
    written,
)
from workbench.report import JobsReport, SensorsReport, Told, by_weekday

HEIGHT = 110
MOST_DRIFTS = 20
MOST_JOBS_DRAWN = 12
# past it, what a sensor shows in a day is no longer what it was trained on
DRIFTED = 1.0
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def report_page(
    stage: str,
    since: datetime,
    now: datetime,
    sensors: SensorsReport | None,
    jobs: JobsReport | None,
    *,
    has_own_clock: bool = False,
) -> str:
    """The page, as HTML; a pipeline that is None is left out.

    Args:
        since, now: by the clock of what was deployed.
        has_own_clock: that clock is not the machine's, as in a demonstration.
    """
    root, body = document(f"Overcut, stage {stage}")
    main = sub(body, "main")
    main.append(body[0])
    body.remove(body[0])
    whose = ", by the clock of the demonstration, which ran many times faster than yours" if has_own_clock else ""
    sub(main, "p", f"{_minute(since)} to {_minute(now)}. Every time is UTC{whose}.")
    contents = sub(sub(main, "nav", None, {"aria-label": "Contents"}), "ul")
    if sensors:
        _sensors(main, contents, sensors)
    if jobs:
        _jobs(main, contents, jobs)
    return written(root)


# --- sensors ---


def _sensors(main: ET.Element, contents: ET.Element, found: SensorsReport) -> None:
    states = [one.state for one in found.watched]
    is_open = [one for one in found.incidents if one.incident.state is IncidentState.OPEN]
    glance = _section(main, contents, "Sensors at a glance")
    _figures(
        glance,
        [
            (f"{len(states):,}", "sensors"),
            (f"{states.count('judged'):,}", "judged"),
            (f"{states.count('learning'):,}", "learning"),
            (f"{states.count('silent'):,}", "silent"),
            (f"{len(is_open):,}", "open incidents"),
            (f"{len(found.incidents):,}", "incidents in all"),
            (_duration(percentile(found.delays, 0.5)) if found.delays else "-", "opened to texted, median"),
            (_duration(percentile(found.delays, 0.99)) if found.delays else "-", "99th percentile"),
            (f"{sum(found.parked.values()):,}", "parked"),
        ],
    )
    section = _section(main, contents, "Open incidents")
    _table(
        section,
        "Incidents that are not over",
        ("reference", "equipment", "place", "kind", "since", "what"),
        [
            (
                one.incident.reference,
                one.incident.equipment.name,
                one.incident.equipment.place,
                one.incident.kind,
                _minute(one.incident.first_anomalous_at),
                measured(one.incident.cause),
            )
            for one in is_open
        ],
        "No incident is open.",
    )
    _incidents(main, contents, found)
    _models(main, contents, found)
    _drift(main, contents, found)
    _sources(main, contents, found)
    _everyone(main, contents, found)


def _incidents(main: ET.Element, contents: ET.Element, found: SensorsReport) -> None:
    section = _section(main, contents, "Incidents")
    rest = len(found.incidents) - len(found.told)
    if not found.incidents:
        sub(section, "p", "There was none.")
    elif rest:
        sub(section, "p", f"{rest:,} more are not drawn here; `overcut incidents list --all` has them.")
    if found.told:
        legend(
            section,
            {
                "reading": "readings",
                "usual": "usual range",
                "fault": "abnormal",
                "score": "anomaly score",
                "cutoff": "cutoff, above it a reading is anomalous",
            },
        )
        sub(section, "p", "A score looks back an hour: after a fault it stays high until that is behind it.")
    for told in found.told:
        one = told.known.incident
        article = sub(section, "article")
        sub(article, "h3", f"{visible(one.equipment.name)}: {one.kind}, {_minute(one.opened_at)}")
        lasted = _duration((one.over_since - one.first_anomalous_at).total_seconds())
        until = f"usual again since {_minute(one.over_since)} ({lasted})" if one.recovered_at else state_of(told.known)
        texts = ", ".join(f"{text.kind} to {text.contact_id} {text.state}" for text in one.texts.values())
        label = f" Labelled {told.known.label}." if told.known.label else ""
        sub(
            article,
            "p",
            visible(
                f"{one.reference}: {measured(one.cause)}. Abnormal from {_minute(one.first_anomalous_at)}, {until}."
                f" Texts: {texts or 'none'}.{label}"
            ),
        )
        if told.readings:
            article.append(_picture(told))


def _picture(told: Told) -> ET.Element:
    """The readings of each measure, then the scores beside the cutoff; the anomalous time is a band behind all."""
    one = told.known.incident
    measures = list(dict.fromkeys(measure for reading in told.readings for measure in reading.values))
    times = np.array([reading.measured_at.timestamp() for reading in told.readings])
    units = {one.cause.measure: one.cause.unit}
    bottom = (len(measures) + 1) * (HEAD + HEIGHT)
    svg = svg_in(
        None,
        bottom + FOOT,
        f"readings, scores and cutoff around incident {one.reference}; the band is the time in which values were"
        " abnormal",
    )
    across = Axes(float(times[0]), float(times[-1]), HEAD, bottom - HEAD, 0.0, 1.0)
    begin, end = (float(across.x(moment.timestamp())) for moment in (one.first_anomalous_at, one.over_since))
    usual = {usual.measure: usual for cutoff in told.cutoffs for usual in cutoff.ranges}
    for number, measure in enumerate(measures):
        values = np.array([reading.values.get(measure, np.nan) for reading in told.readings])
        axes = axes_of(across, _with(values, usual.get(measure)), HEAD + number * (HEIGHT + HEAD), HEIGHT)
        told_range = f", usual {usual[measure].low:.4g} to {usual[measure].high:.4g}" if measure in usual else ""
        unit = units.get(measure, "")
        panel(svg, axes, visible(f"{measure}{f' ({unit})' if unit else ''}{told_range}"))
        if measure in usual:
            _rectangle(svg, axes, "usual", (LEFT, WIDTH - RIGHT), (usual[measure].low, usual[measure].high))
        _rectangle(svg, axes, "fault", (begin, end), (axes.low, axes.high))
        sub(svg, "path", None, {"class": "reading", "d": path_of(axes, times, values)})
    scores = np.array(told.scores, dtype=float)
    limits = [cutoff.score_cutoff for cutoff in told.cutoffs if cutoff.ranges]
    top = HEAD + len(measures) * (HEIGHT + HEAD)
    if limits and np.isfinite(scores).any():
        # how far beyond the cutoff a score is does not matter, that it is does
        low = float(np.nanquantile(scores, 0.01))
        high = min(float(np.nanmax(scores)), max(limits) + (max(limits) - low))
        axes = axes_of(across, np.array([low, high, *limits]), top, HEIGHT)
        panel(svg, axes, f"anomaly score, cutoff {limits[-1]:.3g}")
        _rectangle(svg, axes, "fault", (begin, end), (axes.low, axes.high))
        sub(svg, "path", None, {"class": "score", "d": path_of(axes, times, scores)})
        begins = [cutoff.effective_from.timestamp() for cutoff in told.cutoffs]
        steps = "".join(
            f"M{at(float(axes.x(begin)))} {at(float(axes.y(cutoff.score_cutoff)))}H{at(float(axes.x(end)))}"
            for cutoff, begin, end in zip(told.cutoffs, begins, [*begins[1:], across.last], strict=True)
            if cutoff.ranges
        )
        sub(svg, "path", None, {"class": "cutoff", "d": steps})
    for moment in ticks(float(times[0]), float(times[-1])):
        x = float(across.x(moment.timestamp()))
        for number in range(len(measures) + 1):
            y1 = HEAD + number * (HEIGHT + HEAD)
            sub(svg, "line", None, {"class": "grid", "x1": at(x), "x2": at(x), "y1": y1, "y2": y1 + HEIGHT})
        below(svg, x, bottom, f"{moment:%H:%M}")
    return svg


def _rectangle(
    svg: ET.Element, axes: Axes, style: str, across: tuple[float, float], values: tuple[float, float]
) -> None:
    """Between two places of the picture and two values."""
    (begin, end), (bottom, top) = across, (float(axes.y(value)) for value in values)
    place = {"x": at(begin), "y": at(top), "width": at(max(end - begin, 2)), "height": at(max(bottom - top, 1))}
    sub(svg, "rect", None, {"class": style, **place})


def _with(values: Floats, usual: Any) -> Floats:
    return np.append(values, [usual.low, usual.high]) if usual else values


def _models(main: ET.Element, contents: ET.Element, found: SensorsReport) -> None:
    section = _section(main, contents, "Trainings, and what they changed")
    for model_id, events in found.trainings.items():
        _table(
            section,
            f"Trainings of {model_id}",
            ("when", "decision", "version", "sensors", "why"),
            [
                (
                    _minute(parse_time(event["occurred_at"])),
                    str(event.get("decision", "")),
                    str(event.get("model_version", "-")),
                    f"{int(event['sensors']):,}" if "sensors" in event else "-",
                    str(event.get("reason", "")) or "-",
                )
                for event in events
            ],
            "There was none.",
        )
    for sensor_id, cutoffs in found.history.items():
        learned = [cutoff for cutoff in cutoffs if cutoff.ranges]
        if not learned:
            continue
        article = sub(section, "article")
        sub(article, "h3", f"Cutoffs of {visible(sensor_id)}")
        if len(learned) == 1:
            sub(article, "p", f"One training so far: {_cutoff(learned[0])}.")
            continue
        legend(article, {"cutoff": "cutoff", "usual": "mean of the scores it came from, and three standard deviations"})
        article.append(_history(sensor_id, learned))


def _cutoff(cutoff: Cutoff) -> str:
    return (
        f"the cutoff of {_minute(cutoff.trained_at)} is {cutoff.score_cutoff:.3f}, its scores have a mean of"
        f" {cutoff.score_mean:.3f} and a standard deviation of {cutoff.score_sd:.3f}"
    )


def _history(sensor_id: str, cutoffs: Sequence[Cutoff]) -> ET.Element:
    """Cutoffs by training, over mean plus and minus three standard deviations of the scores that they came from."""
    told = f"cutoffs of {sensor_id}: {counted(len(cutoffs), 'training')}, of the newest {_cutoff(cutoffs[-1])}"
    svg = svg_in(None, HEAD + HEIGHT + FOOT, told)
    times = [cutoff.trained_at.timestamp() for cutoff in cutoffs]
    bands = [(cutoff.score_mean - 3 * cutoff.score_sd, cutoff.score_mean + 3 * cutoff.score_sd) for cutoff in cutoffs]
    values = np.array([edge for band in bands for edge in band] + [cutoff.score_cutoff for cutoff in cutoffs])
    # the newest is in force still: it has as much room as the one before it
    across = Axes(times[0], times[-1] + (times[-1] - times[-2]), HEAD, HEIGHT, 0, 1)
    axes = axes_of(across, values, HEAD, HEIGHT)
    panel(svg, axes, f"score, cutoff now {cutoffs[-1].score_cutoff:.3g}")
    xs = [float(axes.x(time)) for time in times]
    ends = [*xs[1:], float(WIDTH - RIGHT)]
    for x, end, band in zip(xs, ends, bands, strict=True):
        _rectangle(svg, axes, "usual", (x, end), band)
    steps = "".join(
        f"M{at(x)} {at(float(axes.y(cutoff.score_cutoff)))}H{at(end)}"
        for x, end, cutoff in zip(xs, ends, cutoffs, strict=True)
    )
    sub(svg, "path", None, {"class": "cutoff", "d": steps})
    for x, cutoff in zip(xs, cutoffs, strict=True):
        dot = sub(
            svg, "circle", None, {"class": "mark", "cx": at(x), "cy": at(float(axes.y(cutoff.score_cutoff))), "r": 3}
        )
        sub(dot, "title", f"{_minute(cutoff.trained_at)}: {cutoff.score_cutoff:.3f}, version {cutoff.model_version}")
    for moment in ticks(across.first, across.last):
        if moment.hour == 0:
            below(svg, float(across.x(moment.timestamp())), HEAD + HEIGHT, f"{moment:%m-%d}")
    return svg


def _drift(main: ET.Element, contents: ET.Element, found: SensorsReport) -> None:
    section = _section(main, contents, "Drift since training")
    sub(
        section,
        "p",
        "Where the middle of a sensor's last day lies, in its usual furthest from the middle of what it was trained on."
        " Beyond 1 it is not what it was.",
    )
    known = [(one, one.drift) for one in found.watched if one.drift is not None]
    known.sort(key=lambda pair: abs(pair[1]), reverse=True)
    beyond = sum(abs(drift) > DRIFTED for _, drift in known)
    sub(section, "p", f"{counted(beyond, 'sensor')} of {len(known):,} beyond 1.")
    _table(
        section,
        "Drift, the farthest first",
        ("sensor", "name", "drift"),
        [(one.sensor.sensor_id, one.sensor.name, f"{drift:+.2f}") for one, drift in known[:MOST_DRIFTS]],
        "Nothing was exported in the last day.",
    )


def _sources(main: ET.Element, contents: ET.Element, found: SensorsReport) -> None:
    section = _section(main, contents, "Sources")
    _table(
        section,
        "Health of each source",
        ("source", "state", "last success", "heard", "sensors", "last error"),
        [
            (
                name,
                "well" if not source.failures_in_a_row else f"{counted(source.failures_in_a_row, 'failure')} in a row",
                _minute(parse_time(source.last_success_at)) if source.last_success_at else "never",
                _minute(datetime.fromtimestamp(seen.heard_at, UTC)) if seen and seen.heard_at else "never",
                f"{len(seen.sensors):,}" if seen else "0",
                source.last_error or "-",
            )
            for name, (source, seen) in found.sources.items()
        ],
        "The stage has no source.",
    )
    _table(
        section,
        "What waits because it could not be processed",
        ("queue", "entries"),
        [(name, f"{number:,}") for name, number in found.parked.items()],
        "There is no queue.",
    )


def _everyone(main: ET.Element, contents: ET.Element, found: SensorsReport) -> None:
    section = _section(main, contents, "All sensors")
    order = {"silent": 0, "learning": 1, "judged": 2}
    details = sub(section, "details")
    sub(details, "summary", f"{counted(len(found.watched), 'sensor')}; silent ones first, then those that learn")
    _table(
        details,
        "Every sensor and how it is",
        ("sensor", "name", "place", "state", "heard", "cutoff", "drift"),
        [
            (
                one.sensor.sensor_id,
                one.sensor.name or "-",
                one.sensor.equipment.place if one.sensor.site or one.sensor.customer else "unassigned",
                _learning(one.sensor.learning) if one.state == "learning" else one.state,
                _minute(one.heard_at) if one.heard_at else "-",
                f"{one.cutoff.score_cutoff:.3f}" if one.cutoff else "-",
                f"{one.drift:+.2f}" if one.drift is not None else "-",
            )
            for one in sorted(found.watched, key=lambda one: (order[one.state], one.sensor.sensor_id))
        ],
        "No sensor was seen yet.",
    )


def _learning(learning: Any) -> str:
    return f"learning: {counted(learning.readings, 'reading')}" if learning else "learning"


# --- ETL jobs ---


def _jobs(main: ET.Element, contents: ET.Element, found: JobsReport) -> None:
    odd = [verdict for verdict in found.verdicts if verdict.kind]
    is_open = [head for head in found.tickets if head.status is TicketStatus.OPEN]
    glance = _section(main, contents, "ETL jobs at a glance")
    _figures(
        glance,
        [
            (f"{len({verdict.job_name for verdict in found.verdicts}):,}", "jobs that were due"),
            (f"{len(found.verdicts):,}", "runs judged"),
            *(
                (f"{sum(one.judgement is judgement for one in found.verdicts):,}", str(judgement))
                for judgement in (Judgement.ANOMALOUS, Judgement.FAILED, Judgement.MISSED)
            ),
            (f"{len(is_open):,}", "open tickets"),
        ],
    )
    section = _section(main, contents, "Tickets")
    _table(
        section,
        "The newest of each job and kind",
        ("job", "kind", "status", "first wrong run", "last wrong run", "runs", "reference"),
        [
            (
                head.job_name,
                str(head.kind),
                str(head.status),
                _minute(head.first_started_at),
                _minute(head.last_started_at),
                f"{head.runs:,}",
                head.reference or "not sent yet",
            )
            for head in found.tickets
        ],
        "There was none.",
    )
    _by_weekday(main, contents, found.verdicts)
    section = _section(main, contents, "Runs beside what is usual")
    with_odd = {verdict.job_name for verdict in odd}
    drawn = [
        (name, list(runs)) for name, runs in groupby(found.verdicts, key=lambda one: one.job_name) if name in with_odd
    ]
    if not drawn:
        sub(section, "p", "Every run was as usual.")
    else:
        legend(section, {"cutoff": "usual rows"})
        sub(section, "p", "A dot is a run, a crossed one is unusual, failed or missed.")
    for name, runs in drawn[:MOST_JOBS_DRAWN]:
        article = sub(section, "article")
        sub(article, "h3", visible(name))
        loaded = [run for run in runs if run.records_processed is not None]
        if loaded:
            article.append(_runs(name, loaded))
    section = _section(main, contents, "Models of ETL jobs")
    _table(
        section,
        "Models that were put to use",
        ("version", "judges what is recorded from"),
        [(one.model_version, _minute(one.effective_from)) for one in found.promoted],
        "None yet: runs are not judged.",
    )
    _table(section, "Why others were held", ("reason",), [(reason,) for reason in found.held], "None was held.")
    _job_drift(section, found.verdicts)


def _by_weekday(main: ET.Element, contents: ET.Element, verdicts: Sequence[Verdict]) -> None:
    section = _section(main, contents, "Runs by weekday")
    sub(section, "p", "Runs by the day on which they began; in brackets, how many were unusual, failed or missed.")
    _table(
        section,
        "How many runs each job had on each day",
        ("job", *DAYS),
        [
            (name, *(f"{runs} ({odd})" if odd else f"{runs}" if runs else "-" for runs, odd in days))
            for name, days in sorted(by_weekday(verdicts).items())
        ],
        "No run was judged.",
    )


def _runs(name: str, runs: Sequence[Verdict]) -> ET.Element:
    """Rows loaded by each run, and what was usual; an unusual run is a filled mark with a cross."""
    odd = sum(run.kind is not None for run in runs)
    told = f"rows loaded by {counted(len(runs), 'run')} of {name}, {odd} of them unusual"
    svg = svg_in(None, HEAD + HEIGHT + FOOT, told)
    times = np.array([run.started_at.timestamp() for run in runs])
    loaded = np.array([float(run.records_processed or 0) for run in runs])
    usual = np.array([run.usual_records if run.usual_records is not None else np.nan for run in runs])
    # a mark at the edge has room as well
    margin = max(0.04 * float(times[-1] - times[0]), 60.0)
    across = Axes(float(times[0]) - margin, float(times[-1]) + margin, HEAD, HEIGHT, 0, 1)
    axes = axes_of(across, np.concatenate([loaded, usual, [0.0]]), HEAD, HEIGHT)
    panel(svg, axes, "rows loaded")
    sub(svg, "path", None, {"class": "cutoff", "d": path_of(axes, times, usual)})
    for run, time, value in zip(runs, times, loaded, strict=True):
        x, y = float(axes.x(time)), float(axes.y(value))
        mark = sub(svg, "g")
        sub(
            mark,
            "circle",
            None,
            {"class": "mark" if run.kind else "dot", "cx": at(x), "cy": at(y), "r": 5 if run.kind else 2.5},
        )
        if run.kind:
            cross = f"M{at(x - 8)} {at(y - 8)}L{at(x + 8)} {at(y + 8)}M{at(x - 8)} {at(y + 8)}L{at(x + 8)} {at(y - 8)}"
            sub(mark, "path", None, {"class": "incident", "d": cross})
        about = f", usually {run.usual_records:,.0f}" if run.usual_records is not None else ""
        sub(mark, "title", f"{_minute(run.started_at)}: {run.records_processed:,} rows{about}; {run.judgement}")
    for moment in ticks(across.first, across.last):
        if moment.hour == 0:
            below(svg, float(across.x(moment.timestamp())), HEAD + HEIGHT, f"{moment:%m-%d}")
    return svg


def _job_drift(section: ET.Element, verdicts: Sequence[Verdict]) -> None:
    rows = []
    for name, runs in groupby(verdicts, key=lambda one: one.job_name):
        ratios = [
            run.records_processed / run.usual_records
            for run in runs
            if run.records_processed is not None and run.usual_records
        ]
        if ratios:
            rows.append((name, float(np.median(ratios)), len(ratios)))
    rows.sort(key=lambda row: abs(np.log(max(row[1], 1e-6))), reverse=True)
    _table(
        section,
        "Drift: rows loaded over what was expected, the middle of the period's runs",
        ("job", "loaded / expected", "runs"),
        [(name, f"{ratio:.2f}", f"{of:,}") for name, ratio, of in rows[:MOST_DRIFTS]],
        "No run has both.",
    )


# --- parts ---


def _section(main: ET.Element, contents: ET.Element, title: str) -> ET.Element:
    name = title.lower().replace(" ", "-").replace(",", "")
    sub(sub(contents, "li"), "a", title, {"href": f"#{name}"})
    section = sub(main, "section", None, {"id": name, "aria-labelledby": f"{name}-title"})
    sub(section, "h2", title, {"id": f"{name}-title"})
    return section


def _figures(section: ET.Element, figures: Iterable[tuple[str, str]]) -> None:
    listed = sub(section, "dl")
    for figure, name in figures:
        pair = sub(listed, "div")
        sub(pair, "dt", name)
        sub(pair, "dd", figure)


def _table(
    section: ET.Element, caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], otherwise: str
) -> None:
    """A table that scrolls by itself where it is wider than the page; without rows, a sentence."""
    if not rows:
        sub(section, "p", otherwise)
        return
    scrolled = sub(
        section, "div", None, {"class": "wide", "tabindex": 0, "role": "region", "aria-label": visible(caption)}
    )
    table = sub(scrolled, "table")
    sub(table, "caption", visible(caption))
    head = sub(sub(table, "thead"), "tr")
    for cell in header:
        sub(head, "th", cell, {"scope": "col"})
    body = sub(table, "tbody")
    for row in rows:
        line = sub(body, "tr")
        for number, cell in enumerate(row):
            sub(line, "th" if number == 0 else "td", visible(cell), {"scope": "row"} if number == 0 else None)


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    whole = timedelta(seconds=round(seconds))
    return f"{seconds / 60:.3g} min" if whole < timedelta(hours=2) else f"{seconds / 3600:.3g} h"
