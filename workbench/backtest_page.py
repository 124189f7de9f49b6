"""The page of a backtest: one HTML file with every sensor's readings, scores, cutoffs, faults and incidents.

It asks nothing of a network and runs no script. All of it is built as a tree, so that whatever a file calls a sensor is
text and never markup.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil, floor, log10
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from overcut.sensors.backtest import Fault, Replay, ReplayedIncident
from overcut.sensors.cutoffs import Cutoff
from overcut.sensors.incidents import STUCK_SENSOR
from overcut.sensors.readings import Reading, format_time

Floats = NDArray[np.float64]

WIDTH, LEFT, RIGHT = 1000, 56, 8
READINGS_HEIGHT, SCORES_HEIGHT, GAP, FOOT = 150, 90, 14, 22
# a line is broken where so many usual intervals hold no reading
BREAK_INTERVALS = 5
_TICKS = [timedelta(minutes=m) for m in (1, 5, 15, 30, 60, 180, 360, 720)] + [
    timedelta(days=d) for d in (1, 2, 7, 14, 28, 91, 364)
]
_MOST_TICKS = 15
FARTHEST_SHOWN = 5

_STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #60646c; --line: #d9dce1; --page: #fff; --card: #f8f9fb;
  --reading: #2563a8; --score: #6b4fa0; --cutoff: #b3470e; --fault: #e5484d; --incident: #c02d34; --false: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --text: #edeef0; --soft: #b0b4ba; --line: #3a3f45; --page: #111315;
  --card: #191b1f; --reading: #70b8ff; --score: #bda2f0; --cutoff: #f5a26b; --fault: #ff6369; --incident: #ff8a8f;
  --false: #f0c000; } }
body { margin: 2rem auto; max-width: 68rem; padding: 0 1rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.05rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
p { color: var(--soft); margin: .2rem 0 .8rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: 1rem 0; padding: 1rem; }
table { border-collapse: collapse; } td, th { border-bottom: 1px solid var(--line); padding: .2rem .9rem .2rem 0;
  text-align: right; font-variant-numeric: tabular-nums; } td:first-child, th:first-child { text-align: left; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
.frame { fill: none; stroke: var(--line); } .grid { stroke: var(--line); stroke-dasharray: 2 3; }
.reading, .score, .cutoff { fill: none; stroke-width: 1.1; stroke-linejoin: round; }
.reading { stroke: var(--reading); }
.score { stroke: var(--score); } .cutoff { stroke: var(--cutoff); stroke-width: 1.4; }
.fault { fill: var(--fault); opacity: .22; } .incident { stroke: var(--incident); stroke-width: 1.6; }
.incident.false { stroke: var(--false); stroke-dasharray: 4 2; } .mark { fill: var(--incident); }
.mark.false { fill: var(--false); } .key { display: inline-block; margin-right: 1.2rem; color: var(--soft); }
.swatch { display: inline-block; width: 1.1em; height: .7em; margin-right: .4em; }
"""


@dataclass(frozen=True)
class _Axes:
    """Where in the picture a moment and a value lie."""

    first: float
    last: float
    top: float
    height: float
    low: float
    high: float

    def x(self, seconds: Floats | float) -> Floats:
        share = (np.asarray(seconds) - self.first) / max(self.last - self.first, 1.0)
        return np.asarray(LEFT + np.clip(share, 0, 1) * (WIDTH - LEFT - RIGHT))

    def y(self, values: Floats | float) -> Floats:
        share = (np.asarray(values) - self.low) / max(self.high - self.low, 1e-12)
        return np.asarray(self.top + (1 - np.clip(share, 0, 1)) * self.height)


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
    root, body = _document(title)
    _sub(
        body, "p", "Every time is UTC. The anomaly score is in decades: 0 is what a sensor in order shows once a week."
    )
    table = _sub(body, "table")
    _row(table, "th", ("figure", "detector", "laboratory's rule"))
    for row in figures:
        _row(table, "td", row)
    _legend(body)
    by_sensor: dict[str, list[Reading]] = {}
    for reading in readings:
        by_sensor.setdefault(reading.sensor_id, []).append(reading)
    for sensor_id, of_sensor in by_sensor.items():
        incidents = [one for one in found.incidents if one.sensor_id == sensor_id]
        its_faults = [fault for fault in faults if fault.sensor_id == sensor_id]
        section = _sub(body, "section")
        _sub(section, "h2", sensor_id)
        told = f"{_counted(len(of_sensor), 'reading')}, {_counted(len(its_faults), 'fault')}"
        _sub(section, "p", f"{told}, {_counted(len(incidents), 'incident')}")
        section.append(_picture(sensor_id, of_sensor, found, its_faults, incidents, {id(one) for one in false}))
    return _written(root)


def frontier_page(title: str, told: str, points: Sequence[tuple[float, float, str, bool]]) -> str:
    """The picture of a tuning: recall against false incidents.

    Args:
        points: false incidents a sensor-week, recall, what it is, and whether nothing beats it.
    """
    root, body = _document(title)
    _sub(body, "p", told)
    section = _sub(body, "section")
    # what has many times the false incidents of the best would leave no room for what matters
    widest = max([FARTHEST_SHOWN * false for false, _, _, is_best in points if is_best], default=1.0)
    highest = max([false for false, *_ in points if false <= widest], default=0.0) or 1.0
    beyond = sum(false > highest for false, *_ in points)
    points = [point for point in points if point[0] <= highest]
    lowest = min(0.9, floor(10 * min([recall for _, recall, *_ in points], default=0.0)) / 10)
    height = 420
    svg = _svg(section, height + 46, f"recall against false incidents: {told}")
    axes = _Axes(0.0, highest * 1.03, 8, height, lowest, 1.0)
    _sub(svg, "rect", None, {"class": "frame", "x": LEFT, "y": 8, "width": WIDTH - LEFT - RIGHT, "height": height})
    step = _nice_step(1 - lowest, 6)
    for k in range(ceil(lowest / step - 1e-9), floor(1 / step + 1e-9) + 1):
        _level(svg, axes, k * step, f"{k * step:.3g}")
    step = _nice_step(highest, 8)
    for k in range(floor(highest / step) + 1):
        x = float(axes.x(k * step))
        _sub(svg, "text", f"{k * step:g}", {"x": _n(x), "y": height + 24, "text-anchor": "middle"})
    middle = {"x": WIDTH / 2, "y": height + 42, "text-anchor": "middle"}
    outside = f"; {_counted(beyond, 'setting')} with more false incidents not shown" if beyond else ""
    _sub(svg, "text", f"false incidents a sensor-week (across), recall (up){outside}", middle)
    best = sorted((false, recall) for false, recall, _, is_best in points if is_best)
    if best:
        path = "L".join(f"{_n(float(axes.x(false)))} {_n(float(axes.y(recall)))}" for false, recall in best)
        _sub(svg, "path", None, {"class": "score", "d": f"M{path}"})
    for false, recall, what, is_best in points:
        place = {"cx": _n(float(axes.x(false))), "cy": _n(float(axes.y(recall))), "r": 5 if is_best else 3}
        mark = _sub(svg, "circle", None, {"class": "mark" if is_best else "mark false", **place})
        _sub(mark, "title", f"{what}: recall {recall:.3f}, {false:.3f} false incidents a sensor-week")
    return _written(root)


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
    scores_top = 8 + len(measures) * (READINGS_HEIGHT + GAP)
    bottom = scores_top + SCORES_HEIGHT
    told = f"readings of {sensor_id} with anomaly scores, {len(faults)} faults and {len(incidents)} incidents"
    svg = _svg(None, bottom + FOOT, told)
    across = _Axes(first, last, 8, bottom - 8, 0.0, 1.0)
    for fault in faults:
        _band(svg, across, fault)
    for number, measure in enumerate(measures):
        values = np.array([reading.values.get(measure, np.nan) for reading in readings])
        axes = _axes(across, values, 8 + number * (READINGS_HEIGHT + GAP), READINGS_HEIGHT)
        _panel(svg, axes, measure)
        _sub(svg, "path", None, {"class": "reading", "d": _path(axes, times, values)})
    _scores(svg, across, found, sensor_id, scores_top)
    for moment in _ticks(first, last):
        x = _n(float(across.x(moment.timestamp())))
        _sub(svg, "line", None, {"class": "grid", "x1": x, "x2": x, "y1": 8, "y2": bottom})
        form = "%m-%d" if moment.hour == moment.minute == 0 else "%H:%M"
        _sub(svg, "text", f"{moment:{form}}", {"x": x, "y": bottom + 15, "text-anchor": "middle"})
    for one in incidents:
        _incident(svg, across, one, id(one) in false)
    return svg


def _axes(across: _Axes, values: Floats, top: float, height: float) -> _Axes:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = 0.05 * (high - low) or max(abs(high) * 0.01, 0.5)
    return _Axes(across.first, across.last, top, height, low - margin, high + margin)


def _scores(svg: ET.Element, across: _Axes, found: Replay, sensor_id: str, top: float) -> None:
    judged, cutoffs = found.judged.get(sensor_id, ()), found.cutoffs.get(sensor_id, ())
    scores = found.scores[sensor_id].anomaly_score if judged else np.zeros(0)
    limits = [cutoff.score_cutoff for cutoff in cutoffs if cutoff.ranges]
    finite = scores[np.isfinite(scores)]
    if not limits or not len(finite):
        place = {"x": WIDTH / 2, "y": top + SCORES_HEIGHT / 2, "text-anchor": "middle"}
        _panel(svg, _Axes(across.first, across.last, top, SCORES_HEIGHT, 0, 1), "score", numbered=False)
        _sub(svg, "text", "no score: the sensor is still learning", place)
        return
    # what is far past the cutoff is drawn at the edge: how far does not matter, that it is does
    low = float(np.quantile(finite, 0.01))
    high = min(float(finite.max()), max(limits) + (max(limits) - low))
    axes = _axes(across, np.array([low, high, *limits]), top, SCORES_HEIGHT)
    _panel(svg, axes, "score")
    times = np.array([one.measured_at.timestamp() for one in judged])
    _sub(svg, "path", None, {"class": "score", "d": _path(axes, times, scores)})
    _sub(svg, "path", None, {"class": "cutoff", "d": _steps(axes, cutoffs)})


def _steps(axes: _Axes, cutoffs: Sequence[Cutoff]) -> str:
    """The cutoffs in force, each until the next; a retired one is a hole."""
    parts = []
    ends = [cutoff.effective_from.timestamp() for cutoff in cutoffs[1:]] + [axes.last]
    for cutoff, end in zip(cutoffs, ends, strict=True):
        if cutoff.ranges:
            y = _n(float(axes.y(cutoff.score_cutoff)))
            begin = _n(float(axes.x(cutoff.effective_from.timestamp())))
            parts.append(f"M{begin} {y}H{_n(float(axes.x(end)))}")
    return "".join(parts)


def _path(axes: _Axes, times: Floats, values: Floats) -> str:
    """A line through the values: of each column of the picture the first, the least, the greatest and the last."""
    known = np.isfinite(values)
    times, values = times[known], values[known]
    if not len(times):
        return ""
    xs, ys = axes.x(times), axes.y(values)
    breaks = BREAK_INTERVALS * float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    begins = np.concatenate([[True], np.diff(times) > breaks])
    columns = np.concatenate([[True], (np.diff(np.floor(xs)) != 0) | begins[1:]])
    starts = np.flatnonzero(columns)
    parts = []
    for start, end in zip(starts, [*starts[1:], len(xs)], strict=True):
        piece = ys[start:end]
        kept = sorted({0, int(piece.argmin()), int(piece.argmax()), len(piece) - 1})
        points = " ".join(f"{_n(xs[start + k])} {_n(piece[k])}" for k in kept)
        parts.append(f"{'M' if begins[start] else 'L'}{points}")
    return "".join(parts)


def _panel(svg: ET.Element, axes: _Axes, name: str, *, numbered: bool = True) -> None:
    frame = {"x": LEFT, "y": axes.top, "width": WIDTH - LEFT - RIGHT, "height": axes.height}
    _sub(svg, "rect", None, {"class": "frame", **frame})
    step = _nice_step(axes.high - axes.low, 4)
    for k in range(ceil(axes.low / step), floor(axes.high / step) + 1) if numbered else ():
        _level(svg, axes, k * step, f"{k * step:.6g}")
    _sub(svg, "text", name, {"x": LEFT + 6, "y": axes.top + 14})


def _level(svg: ET.Element, axes: _Axes, value: float, text: str) -> None:
    y = float(axes.y(value))
    _sub(svg, "line", None, {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": _n(y), "y2": _n(y)})
    _sub(svg, "text", text, {"x": LEFT - 6, "y": _n(y + 4), "text-anchor": "end"})


def _band(svg: ET.Element, across: _Axes, fault: Fault) -> None:
    begin, end = (float(across.x(moment.timestamp())) for moment in (fault.started_at, fault.ended_at))
    place = {"x": _n(begin), "y": across.top, "width": _n(max(end - begin, 1.5)), "height": across.height}
    band = _sub(svg, "rect", None, {"class": "fault", **place})
    _sub(band, "title", f"{fault.kind}, {format_time(fault.started_at)} to {format_time(fault.ended_at)}")


def _incident(svg: ET.Element, across: _Axes, one: ReplayedIncident, is_false: bool) -> None:
    x, bottom = float(across.x(one.opened_at.timestamp())), across.top + across.height
    kind = " false" if is_false else ""
    group = _sub(svg, "g")
    _sub(group, "line", None, {"class": f"incident{kind}", "x1": _n(x), "x2": _n(x), "y1": across.top, "y2": bottom})
    corners = f"M{_n(x - 5)} {across.top - 7}H{_n(x + 5)}L{_n(x)} {across.top + 2}Z"
    _sub(group, "path", None, {"class": f"mark{kind}", "d": corners})
    what = "stuck sensor" if one.kind == STUCK_SENSOR else "incident"
    until = f"recovered {format_time(one.recovered_at)}" if one.recovered_at else "still open at the end"
    told = f"{what} opened {format_time(one.opened_at)}, {until}"
    _sub(group, "title", f"{told}; in no labelled fault" if is_false else told)


def _ticks(first: float, last: float) -> Iterator[datetime]:
    step = next((step for step in _TICKS if (last - first) / step.total_seconds() <= _MOST_TICKS), _TICKS[-1])
    seconds = step.total_seconds()
    moment = ceil(first / seconds) * seconds
    while moment <= last:
        yield datetime.fromtimestamp(moment, UTC)
        moment += seconds


def _nice_step(span: float, most: int) -> float:
    rough = max(span, 1e-9) / most
    power = 10.0 ** floor(log10(rough))
    return next((power * factor for factor in (1, 2, 5) if power * factor >= rough), power * 10)


def _legend(body: ET.Element) -> None:
    told = {
        "reading": "readings",
        "score": "anomaly score",
        "cutoff": "its cutoff",
        "fault": "labelled fault",
        "incident": "incident opened",
        "false": "incident in no labelled fault",
    }
    legend = _sub(body, "p")
    for name, text in told.items():
        key = _sub(legend, "span", None, {"class": "key"})
        _sub(key, "span", None, {"class": "swatch", "style": f"background: var(--{name})"}).tail = text


def _document(title: str) -> tuple[ET.Element, ET.Element]:
    root = ET.Element("html", {"lang": "en"})
    head = _sub(root, "head")
    _sub(head, "meta", None, {"charset": "utf-8"})
    _sub(head, "meta", None, {"name": "viewport", "content": "width=device-width, initial-scale=1"})
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    _sub(head, "meta", None, {"http-equiv": "Content-Security-Policy", "content": policy})
    _sub(head, "title", title)
    _sub(head, "style", _STYLE)
    body = _sub(root, "body")
    _sub(body, "h1", title)
    return root, body


def _written(root: ET.Element) -> str:
    return f"<!doctype html>\n{ET.tostring(root, encoding='unicode', method='html')}\n"


def _svg(parent: ET.Element | None, height: float, told: str) -> ET.Element:
    attributes: Mapping[str, object] = {"viewBox": f"0 0 {WIDTH} {_n(height)}", "role": "img", "aria-label": told}
    if parent is None:
        return ET.Element("svg", {key: str(value) for key, value in attributes.items()})
    return _sub(parent, "svg", None, attributes)


def _sub(
    parent: ET.Element, tag: str, text: str | None = None, attributes: Mapping[str, object] | None = None
) -> ET.Element:
    element = ET.SubElement(parent, tag, {key: str(value) for key, value in (attributes or {}).items()})
    element.text = text
    return element


def _row(table: ET.Element, tag: str, cells: Sequence[str]) -> None:
    row = _sub(table, "tr")
    for cell in cells:
        _sub(row, tag, cell)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _n(value: float) -> str:
    """A coordinate, as short as it may be."""
    return f"{value:.1f}".removesuffix(".0")
