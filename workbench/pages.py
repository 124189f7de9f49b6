"""Pages: one HTML file each, that asks nothing of a network and runs no script.

They are built as trees, so that whatever others call a thing is text and never markup.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil, floor, log10
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# in a picture's own units, of which a screen shows more or fewer: text must be legible on a phone and fit beside it
WIDTH, LEFT, RIGHT = 760, 70, 8
# above each panel is its name, below a picture are times
HEAD, FOOT = 26, 28
# a line is broken where so many usual intervals hold no reading
BREAK_INTERVALS = 5
_TICKS = [timedelta(minutes=m) for m in (1, 5, 15, 30, 60, 180, 360, 720)] + [
    timedelta(days=d) for d in (1, 2, 7, 14, 28, 91, 364)
]
_MOST_TICKS = 9

_STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #60646c; --line: #d9dce1; --page: #fff; --card: #f8f9fb;
  --reading: #2563a8; --score: #6b4fa0; --cutoff: #b3470e; --fault: #e5484d; --incident: #c02d34; --false: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --text: #edeef0; --soft: #b0b4ba; --line: #3a3f45; --page: #111315;
  --card: #191b1f; --reading: #70b8ff; --score: #bda2f0; --cutoff: #f5a26b; --fault: #ff6369; --incident: #ff8a8f;
  --false: #f0c000; } }
body { margin: 2rem auto; max-width: 68rem; padding: 0 1rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
p { color: var(--soft); margin: .2rem 0 .8rem; max-width: 46rem; overflow-wrap: anywhere; } .legend { max-width: none; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: 1rem 0; padding: 1rem; }
table { border-collapse: collapse; } td, th { border-bottom: 1px solid var(--line); padding: .2rem .9rem .2rem 0;
  text-align: right; font-variant-numeric: tabular-nums; } td:first-child, th:first-child { text-align: left; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 10px; }
svg .name { fill: var(--text); } svg * { vector-effect: non-scaling-stroke; }
.frame { fill: none; stroke: var(--line); } .grid { stroke: var(--line); stroke-dasharray: 2 3; }
.reading, .score, .cutoff { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.reading { stroke: var(--reading); }
.score { stroke: var(--score); } .cutoff { stroke: var(--cutoff); stroke-width: 1.8; stroke-dasharray: 6 3; }
.fault { fill: var(--fault); opacity: .22; } .incident { stroke: var(--incident); stroke-width: 1.6; }
.incident.false { stroke: var(--false); stroke-dasharray: 4 2; } .mark { fill: var(--incident); }
.mark.false { fill: var(--false); } .key { display: inline-block; margin-right: 1.2rem; color: var(--soft); }
.swatch { display: inline-block; width: 1.3em; height: .8em; margin-right: .4em; background: var(--incident); }
.swatch.false { background: var(--false); } .swatch.usual { background: var(--soft); opacity: .4; }
.swatch.fault { background: var(--fault); opacity: .4; }
.swatch.reading, .swatch.score, .swatch.cutoff { height: 0; border-top: 2px solid; background: none;
  vertical-align: middle; }
.swatch.reading { color: var(--reading); } .swatch.score { color: var(--score); }
.swatch.cutoff { color: var(--cutoff); border-top-style: dashed; }
.usual { fill: var(--soft); opacity: .16; } .dot { fill: var(--reading); } h3 { font-size: 1rem; margin: 1rem 0 .2rem;
  overflow-wrap: anywhere; } article { border-top: 1px solid var(--line); margin-top: 1rem; }
a { color: var(--reading); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; }
nav a { display: inline-block; padding: .3rem 0; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .9rem 1rem; margin: 0; }
dl div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
dd { font-size: 1.6rem; line-height: 1.25; margin: 0; } dt { color: var(--soft); line-height: 1.3; }
.wide { overflow-x: auto; margin: .6rem 0; } caption { text-align: left; color: var(--soft); padding: .2rem 0; }
.wide th, .wide td { text-align: left; white-space: nowrap; } tbody th { font-weight: 500; }
.wide td:last-child:not(:only-child) { white-space: normal; padding-right: 0; }
summary { cursor: pointer; padding: .4rem 0; } :focus-visible { outline: 3px solid var(--score); outline-offset: 2px; }
@media (min-width: 40.01rem) { .wide caption { white-space: nowrap; } }
@media (max-width: 40rem) { body { margin: 1rem auto; padding: 0 .6rem; } section { padding: .8rem; }
  svg text { font-size: 20px; } .wide td:last-child:not(:only-child) { min-width: 9rem; } }
@media (min-width: 120rem) { body { max-width: 100rem; font-size: 17px; } svg text { font-size: 8px; } }
"""


@dataclass(frozen=True)
class Axes:
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


def document(title: str) -> tuple[ET.Element, ET.Element]:
    root = ET.Element("html", {"lang": "en"})
    head = sub(root, "head")
    sub(head, "meta", None, {"charset": "utf-8"})
    sub(head, "meta", None, {"name": "viewport", "content": "width=device-width, initial-scale=1"})
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    sub(head, "meta", None, {"http-equiv": "Content-Security-Policy", "content": policy})
    sub(head, "title", title)
    sub(head, "style", _STYLE)
    body = sub(root, "body")
    sub(body, "h1", title)
    return root, body


def written(root: ET.Element) -> str:
    return f"<!doctype html>\n{ET.tostring(root, encoding='unicode', method='html')}\n"


def svg_in(parent: ET.Element | None, height: float, told: str) -> ET.Element:
    attributes: Mapping[str, object] = {
        "viewBox": f"0 0 {WIDTH} {at(height)}",
        "role": "img",
        "aria-label": told,
    }
    if parent is None:
        return ET.Element("svg", {key: str(value) for key, value in attributes.items()})
    return sub(parent, "svg", None, attributes)


def sub(
    parent: ET.Element, tag: str, text: str | None = None, attributes: Mapping[str, object] | None = None
) -> ET.Element:
    element = ET.SubElement(parent, tag, {key: str(value) for key, value in (attributes or {}).items()})
    element.text = text
    return element


def row_in(table: ET.Element, tag: str, cells: Sequence[str]) -> None:
    row = sub(table, "tr")
    for cell in cells:
        sub(row, tag, cell)


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def at(value: float) -> str:
    """A at, as short as it may be."""
    return f"{value:.1f}".removesuffix(".0")


def axes_of(across: Axes, values: Floats, top: float, height: float) -> Axes:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = 0.05 * (high - low) or max(abs(high) * 0.01, 0.5)
    return Axes(across.first, across.last, top, height, low - margin, high + margin)


def path_of(axes: Axes, times: Floats, values: Floats) -> str:
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
        points = " ".join(f"{at(xs[start + k])} {at(piece[k])}" for k in kept)
        parts.append(f"{'M' if begins[start] else 'L'}{points}")
    return "".join(parts)


def panel(svg: ET.Element, axes: Axes, name: str, *, numbered: bool = True) -> None:
    frame = {"x": LEFT, "y": axes.top, "width": WIDTH - LEFT - RIGHT, "height": axes.height}
    sub(svg, "rect", None, {"class": "frame", **frame})
    step = nice_step(axes.high - axes.low, 4)
    for k in range(ceil(axes.low / step), floor(axes.high / step) + 1) if numbered else ():
        level(svg, axes, k * step, short(k * step))
    sub(svg, "text", name, {"class": "name", "x": LEFT, "y": at(axes.top - 7)})


def level(svg: ET.Element, axes: Axes, value: float, text: str) -> None:
    y = float(axes.y(value))
    sub(svg, "line", None, {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": at(y), "y2": at(y)})
    sub(svg, "text", text, {"x": LEFT - 6, "y": at(y), "text-anchor": "end", "dominant-baseline": "central"})


def below(svg: ET.Element, x: float, bottom: float, text: str) -> None:
    """A word under the picture at `x`, whole also where that is at its edge."""
    anchor = "end" if x > WIDTH - RIGHT - 20 else "middle"
    sub(svg, "text", text, {"x": at(x), "y": at(bottom + 20), "text-anchor": anchor})


def short(value: float) -> str:
    """A number that fits beside an axis."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:.4g}"


def legend(parent: ET.Element, told: Mapping[str, str]) -> None:
    """What a style of the pictures below means, in words."""
    line = sub(parent, "p", None, {"class": "legend"})
    for name, text in told.items():
        key = sub(line, "span", None, {"class": "key"})
        sub(key, "span", None, {"class": f"swatch {name}"}).tail = text


def ticks(first: float, last: float) -> Iterator[datetime]:
    step = next((step for step in _TICKS if (last - first) / step.total_seconds() <= _MOST_TICKS), _TICKS[-1])
    seconds = step.total_seconds()
    moment = ceil(first / seconds) * seconds
    while moment <= last:
        yield datetime.fromtimestamp(moment, UTC)
        moment += seconds


def nice_step(span: float, most: int) -> float:
    rough = max(span, 1e-9) / most
    power = 10.0 ** floor(log10(rough))
    return next((power * factor for factor in (1, 2, 5) if power * factor >= rough), power * 10)
