"""The page of a backtest: one HTML file with every sensor's readings, scores, cutoffs, faults and incidents.

It asks nothing of a network and runs no script. All of it is built as a tree, so that whatever a file calls a sensor is
text and never markup.
"""

from collections.abc import Sequence
from math import ceil, floor
from xml.etree import ElementTree as ET

import numpy as np

from overcut.sensors.backtest import Fault, Replay, ReplayedIncident
from overcut.sensors.cutoffs import Cutoff
from overcut.sensors.incidents import STUCK_SENSOR
from overcut.sensors.readings import Reading, format_time
from workbench.pages import (
    FOOT,
    HEAD,
    LEFT,
    RIGHT,
    WIDTH,
    Axes,
    at,
    axes_of,
    below,
    counted,
    document,
    legend,
    level,
    nice_step,
    panel,
    path_of,
    row_in,
    sub,
    svg_in,
    ticks,
    written,
)

READINGS_HEIGHT, SCORES_HEIGHT = 120, 80
FARTHEST_SHOWN = 5


def backtest_page(
    title: str,
    figures: Sequence[tuple[str, str, str]],
    readings: Sequence[Reading],
    found: Replay,
    faults: Sequence[Fault],
    false: Sequence[ReplayedIncident],
) -> str:
    """The page, as HTML.

    Args:
        figures: name, ours and the laboratory's, as they are shown.
        found: what the replay saw.
        false: those of its incidents that lie in no fault.
    """
    root, body = document(title)
    sub(body, "p", "Every time is UTC. The anomaly score is in decades: 0 is what a sensor in order shows once a week.")
    table = sub(body, "table")
    row_in(table, "th", ("figure", "detector", "laboratory's rule"))
    for row in figures:
        row_in(table, "td", row)
    _legend(body)
    by_sensor: dict[str, list[Reading]] = {}
    for reading in readings:
        by_sensor.setdefault(reading.sensor_id, []).append(reading)
    for sensor_id, of_sensor in by_sensor.items():
        incidents = [one for one in found.incidents if one.sensor_id == sensor_id]
        its_faults = [fault for fault in faults if fault.sensor_id == sensor_id]
        section = sub(body, "section")
        sub(section, "h2", sensor_id)
        told = f"{counted(len(of_sensor), 'reading')}, {counted(len(its_faults), 'fault')}"
        sub(section, "p", f"{told}, {counted(len(incidents), 'incident')}")
        section.append(_picture(sensor_id, of_sensor, found, its_faults, incidents, {id(one) for one in false}))
    return written(root)


def frontier_page(title: str, told: str, points: Sequence[tuple[float, float, str, bool]]) -> str:
    """The picture of a tuning: recall against false incidents.

    Args:
        points: false incidents a sensor-week, recall, what it is, and whether nothing beats it.
    """
    root, body = document(title)
    sub(body, "p", told)
    section = sub(body, "section")
    # what has many times the false incidents of the best would leave no room for what matters
    widest = max([FARTHEST_SHOWN * false for false, _, _, is_best in points if is_best], default=1.0)
    highest = max([false for false, *_ in points if false <= widest], default=0.0) or 1.0
    beyond = sum(false > highest for false, *_ in points)
    points = [point for point in points if point[0] <= highest]
    lowest = min(0.9, floor(10 * min([recall for _, recall, *_ in points], default=0.0)) / 10)
    height = 420
    svg = svg_in(section, height + 46, f"recall against false incidents: {told}")
    axes = Axes(0.0, highest * 1.03, 8, height, lowest, 1.0)
    sub(svg, "rect", None, {"class": "frame", "x": LEFT, "y": 8, "width": WIDTH - LEFT - RIGHT, "height": height})
    step = nice_step(1 - lowest, 6)
    for k in range(ceil(lowest / step - 1e-9), floor(1 / step + 1e-9) + 1):
        level(svg, axes, k * step, f"{k * step:.3g}")
    step = nice_step(highest, 8)
    for k in range(floor(highest / step) + 1):
        x = float(axes.x(k * step))
        sub(svg, "text", f"{k * step:g}", {"x": at(x), "y": height + 24, "text-anchor": "middle"})
    middle = {"x": WIDTH / 2, "y": height + 42, "text-anchor": "middle"}
    outside = f"; {counted(beyond, 'setting')} with more false incidents not shown" if beyond else ""
    sub(svg, "text", f"false incidents a sensor-week (across), recall (up){outside}", middle)
    best = sorted((false, recall) for false, recall, _, is_best in points if is_best)
    if best:
        path = "L".join(f"{at(float(axes.x(false)))} {at(float(axes.y(recall)))}" for false, recall in best)
        sub(svg, "path", None, {"class": "score", "d": f"M{path}"})
    for false, recall, what, is_best in points:
        place = {
            "cx": at(float(axes.x(false))),
            "cy": at(float(axes.y(recall))),
            "r": 5 if is_best else 3,
        }
        mark = sub(svg, "circle", None, {"class": "mark" if is_best else "mark false", **place})
        sub(mark, "title", f"{what}: recall {recall:.3f}, {false:.3f} false incidents a sensor-week")
    return written(root)


def _picture(
    sensor_id: str,
    readings: Sequence[Reading],
    found: Replay,
    faults: Sequence[Fault],
    incidents: Sequence[ReplayedIncident],
    false: set[int],
) -> ET.Element:
    measures = list(dict.fromkeys(measure for reading in readings for measure in reading.values))
    times = np.array([reading.measured_at.timestamp() for reading in readings])
    first, last = float(times[0]), float(times[-1])
    scores_top = HEAD + len(measures) * (READINGS_HEIGHT + HEAD)
    bottom = scores_top + SCORES_HEIGHT
    told = f"readings of {sensor_id} with anomaly scores, {len(faults)} faults and {len(incidents)} incidents"
    svg = svg_in(None, bottom + FOOT, told)
    across = Axes(first, last, HEAD, bottom - HEAD, 0.0, 1.0)
    for fault in faults:
        _band(svg, across, fault)
    for number, measure in enumerate(measures):
        values = np.array([reading.values.get(measure, np.nan) for reading in readings])
        axes = axes_of(across, values, HEAD + number * (READINGS_HEIGHT + HEAD), READINGS_HEIGHT)
        panel(svg, axes, measure)
        sub(svg, "path", None, {"class": "reading", "d": path_of(axes, times, values)})
    _scores(svg, across, found, sensor_id, scores_top)
    for moment in ticks(first, last):
        x = float(across.x(moment.timestamp()))
        sub(svg, "line", None, {"class": "grid", "x1": at(x), "x2": at(x), "y1": HEAD, "y2": bottom})
        form = "%m-%d" if moment.hour == moment.minute == 0 else "%H:%M"
        below(svg, x, bottom, f"{moment:{form}}")
    for one in incidents:
        _incident(svg, across, one, id(one) in false)
    return svg


def _scores(svg: ET.Element, across: Axes, found: Replay, sensor_id: str, top: float) -> None:
    judged, cutoffs = found.judged.get(sensor_id, ()), found.cutoffs.get(sensor_id, ())
    scores = found.scores[sensor_id].anomaly_score if judged else np.zeros(0)
    limits = [cutoff.score_cutoff for cutoff in cutoffs if cutoff.ranges]
    finite = scores[np.isfinite(scores)]
    if not limits or not len(finite):
        place = {"x": WIDTH / 2, "y": top + SCORES_HEIGHT / 2, "text-anchor": "middle"}
        panel(svg, Axes(across.first, across.last, top, SCORES_HEIGHT, 0, 1), "score", numbered=False)
        sub(svg, "text", "no score: the sensor is still learning", place)
        return
    # what is far past the cutoff is drawn at the edge: how far does not matter, that it is does
    low = float(np.quantile(finite, 0.01))
    high = min(float(finite.max()), max(limits) + (max(limits) - low))
    axes = axes_of(across, np.array([low, high, *limits]), top, SCORES_HEIGHT)
    panel(svg, axes, "score")
    times = np.array([one.measured_at.timestamp() for one in judged])
    sub(svg, "path", None, {"class": "score", "d": path_of(axes, times, scores)})
    sub(svg, "path", None, {"class": "cutoff", "d": _steps(axes, cutoffs)})


def _steps(axes: Axes, cutoffs: Sequence[Cutoff]) -> str:
    """The cutoffs in force, each until the next; a retired one is a hole."""
    parts = []
    ends = [cutoff.effective_from.timestamp() for cutoff in cutoffs[1:]] + [axes.last]
    for cutoff, end in zip(cutoffs, ends, strict=True):
        if cutoff.ranges:
            y = at(float(axes.y(cutoff.score_cutoff)))
            begin = at(float(axes.x(cutoff.effective_from.timestamp())))
            parts.append(f"M{begin} {y}H{at(float(axes.x(end)))}")
    return "".join(parts)


def _band(svg: ET.Element, across: Axes, fault: Fault) -> None:
    begin, end = (float(across.x(moment.timestamp())) for moment in (fault.started_at, fault.ended_at))
    place = {
        "x": at(begin),
        "y": across.top,
        "width": at(max(end - begin, 1.5)),
        "height": across.height,
    }
    band = sub(svg, "rect", None, {"class": "fault", **place})
    sub(band, "title", f"{fault.kind}, {format_time(fault.started_at)} to {format_time(fault.ended_at)}")


def _incident(svg: ET.Element, across: Axes, one: ReplayedIncident, is_false: bool) -> None:
    x, bottom = float(across.x(one.opened_at.timestamp())), across.top + across.height
    kind = " false" if is_false else ""
    group = sub(svg, "g")
    sub(
        group,
        "line",
        None,
        {"class": f"incident{kind}", "x1": at(x), "x2": at(x), "y1": across.top, "y2": bottom},
    )
    corners = f"M{at(x - 5)} {across.top - 7}H{at(x + 5)}L{at(x)} {across.top + 2}Z"
    sub(group, "path", None, {"class": f"mark{kind}", "d": corners})
    what = "stuck sensor" if one.kind == STUCK_SENSOR else "incident"
    until = f"recovered {format_time(one.recovered_at)}" if one.recovered_at else "still open at the end"
    told = f"{what} opened {format_time(one.opened_at)}, {until}"
    sub(group, "title", f"{told}; in no labelled fault" if is_false else told)


def _legend(body: ET.Element) -> None:
    told = {
        "reading": "readings",
        "score": "anomaly score",
        "cutoff": "its cutoff",
        "fault": "labelled fault",
        "incident": "incident opened",
        "false": "incident in no labelled fault",
    }
    legend(body, told)
