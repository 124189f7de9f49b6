"""The page of an incident, for somebody who was just woken by its text: one HTML document, which needs nothing else.

It runs no script and asks nothing of a network. All of it is built as a tree, so that whatever a name holds is text and
never markup.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from math import ceil, floor, log10
from xml.etree import ElementTree as ET

from lambdas.sensors.stores import KnownIncident
from overcut.plain_text import visible
from overcut.sensors.incidents import (
    SILENCES,
    Answer,
    Cause,
    Incident,
    IncidentState,
    Label,
    Response,
    TextKind,
    TextState,
)
from overcut.sensors.readings import Reading
from overcut.sensors.wording import why

WIDTH, HEIGHT, LEFT, RIGHT, TOP, FOOT = 360, 190, 40, 6, 8, 20
# a line is broken where so many usual intervals hold no reading
BREAK_INTERVALS = 5
MOST_TICKS = 6
# of a text about many, so many are named
OTHERS = 6
_TICKS = [timedelta(minutes=minutes) for minutes in (10, 30, 60, 120, 180, 240, 360, 720)]

_STYLE = """
:root { color-scheme: light dark; --text: #16191d; --soft: #4d535b; --line: #c9cdd3; --page: #fff; --card: #f4f5f7;
  --reading: #1d4f91; --usual: #2f7d4f; --fault: #c3222b; --button: #1d4f91; --on: #fff; }
@media (prefers-color-scheme: dark) { :root { --text: #f2f3f5; --soft: #bcc1c8; --line: #454b52; --page: #0c0e10;
  --card: #191c20; --reading: #8cc4ff; --usual: #6fcf97; --fault: #ff8086; --button: #a9d1ff; --on: #0c0e10; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 44rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 18px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.55rem; line-height: 1.2; margin: 0; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; }
h1, p, dd, li { overflow-wrap: anywhere; } p { margin: .3rem 0; } .soft { color: var(--soft); }
.value { font-size: 2.1rem; font-weight: 700; line-height: 1.2; margin: .8rem 0 0; color: var(--fault); }
.over { color: var(--usual); }
.notice { border: 2px solid var(--text); border-radius: 10px; padding: .6rem .8rem; margin: .8rem 0; font-weight: 600; }
svg { display: block; width: 100%; height: auto; margin-top: .6rem; background: var(--card); border-radius: 10px; }
svg text { fill: var(--soft); font-size: 12px; } .grid { stroke: var(--line); }
.reading { fill: none; stroke: var(--reading); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.usual { fill: var(--usual); opacity: .28; } .fault { fill: var(--fault); opacity: .2; }
.key { display: inline-block; margin-right: 1rem; } .swatch { width: 1em; height: .7em; margin-right: .35em;
  display: inline-block; background: var(--reading); }
.swatch.usual { background: var(--usual); } .swatch.fault { background: var(--fault); }
form { display: grid; gap: .6rem; margin: 1.2rem 0; }
@media (min-width: 30rem) { form { grid-template-columns: repeat(3, 1fr); } }
button { font: inherit; font-weight: 700; min-height: 3.6rem; padding: .4rem .6rem; border-radius: 12px;
  border: 2px solid var(--button); background: var(--page); color: var(--button); touch-action: manipulation; }
button.first { background: var(--button); color: var(--on); }
button:focus-visible { outline: 4px solid var(--fault); outline-offset: 3px; }
button small { display: block; font-weight: 400; font-size: .8rem; }
dl { margin: .3rem 0; display: grid; grid-template-columns: max-content 1fr; gap: .2rem .9rem; } dd { margin: 0; }
dt { color: var(--soft); } ul { margin: .3rem 0; padding-left: 1.2rem; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# a GET is shown, a form may be sent back to where the page came from, and nothing else is allowed
HEADERS: Mapping[str, str] = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex, nofollow",
    "strict-transport-security": "max-age=31536000",
}


@dataclass(frozen=True)
class Shown:
    """What a page shows.

    Attributes:
        names: of the equipment of each incident that the text was about; the first is the one shown.
        readings: of the last hours, in order.
        usual: between what the measure usually lies; None where that is not known.
        before: the sensor's incident before this one.
        nonce: what its form brings along.
        notice: what to tell first, such as that an answer was not taken.
    """

    known: KnownIncident
    names: Sequence[str]
    readings: Sequence[Reading]
    usual: tuple[float, float] | None
    before: KnownIncident | None
    nonce: str
    now: datetime
    snooze_for: timedelta
    notice: str = ""


def incident_page(shown: Shown) -> str:
    """The page, as HTML."""
    incident = shown.known.incident
    equipment = incident.equipment
    root, body = _document(f"{visible(equipment.name)}: incident {incident.reference}")
    main = _sub(body, "main")
    _sub(main, "h1", visible(equipment.name))
    _sub(main, "p", visible(", ".join(filter(None, (equipment.site, equipment.customer))) or "no site yet"), "soft")
    if shown.notice:
        _sub(main, "p", shown.notice, "notice", role="alert")
    _now(main, shown)
    _answers(main, shown)
    _chart(main, shown)
    _sub(main, "h2", "What made it anomalous")
    _sub(main, "p", visible(why(incident.kind, incident.cause)))
    _sub(main, "p", visible(_measured(incident)), "soft")
    _sub(main, "h2", "Last time")
    _sub(main, "p", visible(_last_time(shown.before)))
    _told(main, shown)
    return _written(root)


def refusal_page(title: str, told: str) -> str:
    """A page that shows nothing of any incident."""
    root, body = _document(title)
    main = _sub(body, "main")
    _sub(main, "h1", title)
    _sub(main, "p", told)
    return _written(root)


def _now(main: ET.Element, shown: Shown) -> None:
    incident = shown.known.incident
    began = incident.first_anomalous_at
    newest = shown.readings[-1] if shown.readings else None
    measure = incident.cause.measure
    if newest and measure in newest.values and incident.kind not in SILENCES:
        value = f"{_number(newest.values[measure])} {incident.cause.unit}".strip()
        _sub(main, "p", visible(value), "value" if incident.recovered_at is None else "value over")
        told = f"{measure} at {_moment(newest.measured_at, shown.now)}"
        usual = f", usual {_number(shown.usual[0])} to {_number(shown.usual[1])}" if shown.usual else ""
        _sub(main, "p", visible(f"{told}{usual}"))
    if incident.recovered_at is not None:
        lasted = _duration(incident.over_since - began)
        over = _moment(incident.over_since, shown.now)
        state = f"Over since {over}. It began {_moment(began, shown.now)} and lasted {lasted}."
    else:
        state = f"Abnormal since {_moment(began, shown.now)}, for {_duration(shown.now - began)}."
    _sub(main, "p", state)
    answered = _answered(incident.response, shown)
    if answered:
        _sub(main, "p", answered, "notice", role="status")


def _answered(response: Response | None, shown: Shown) -> str:
    if response is None:
        return ""
    who, at = visible(response.contact_id), _moment(response.at, shown.now)
    match response.answer:
        case Answer.ON_IT:
            return f"{who} is on it since {at}."
        case Answer.FALSE_ALARM:
            return f"{who} called it a false alarm at {at}. Press another button if it is none."
        case Answer.SNOOZE:
            until = f" until {_moment(response.until, shown.now)}" if response.until else ""
            return f"{who} snoozed it at {at}{until}."


def _answers(main: ET.Element, shown: Shown) -> None:
    minutes = int(shown.snooze_for / timedelta(minutes=1))
    if len(shown.names) > 1:
        others = ", ".join(visible(name) for name in shown.names[1:OTHERS])
        more = f" and {len(shown.names) - OTHERS} more" if len(shown.names) > OTHERS else ""
        count = len(shown.names)
        _sub(main, "p", f"The text was about {count} incidents, and so are the buttons: also {others}{more}.")
    form = _sub(main, "form", method="post")
    _sub(form, "input", type="hidden", name="nonce", value=shown.nonce)
    for answer, words, told in (
        (Answer.ON_IT, "I'm on it", "nobody else is woken"),
        (Answer.SNOOZE, "Snooze", f"ask me again in {minutes} minutes"),
        (Answer.FALSE_ALARM, "False alarm", "learn this as usual"),
    ):
        if shown.known.incident.recovered_at is not None and answer is not Answer.FALSE_ALARM:
            continue  # nothing is left to see to
        style = "first" if answer is Answer.ON_IT else ""
        button = _sub(form, "button", words, style, name="answer", value=answer.value)
        _sub(button, "small", told)


def _measured(incident: Incident) -> str:
    cause = incident.cause
    if incident.kind in SILENCES:
        return ""
    unit = f" {cause.unit}" if cause.unit else ""
    swing = "its usual step from one reading to the next was" if cause.feature == "volatility" else "it was"
    low, high = _number(cause.usual_low), _number(cause.usual_high)
    at = f"{incident.opened_at:%H:%M} UTC"
    return f"When it was noticed, at {at}, {swing} {_number(cause.value)}{unit}; usual is {low} to {high}{unit}."


def _last_time(before: KnownIncident | None) -> str:
    if before is None:
        return "No earlier incident of this sensor is known."
    one = before.incident
    began = f"{one.first_anomalous_at:%d %b %Y %H:%M} UTC"
    if one.recovered_at is not None:
        lasted = f", it lasted {_duration(one.over_since - one.first_anomalous_at)}"
    else:
        lasted = ", it was noticed too late to tell anybody" if one.state is IncidentState.MISSED else ""
    what = "no readings" if one.kind in SILENCES else f"{one.cause.measure} {_with_unit(one.cause)}"
    told = f"{began}{lasted}: {what}."
    said = {Label.FAULT: " It was a fault.", Label.FALSE_ALARM: " It was a false alarm."}
    who = f" {one.response.contact_id} answered it." if one.response and not before.label else ""
    return told + (said[Label(before.label)] if before.label else who or " Nobody said what it was.")


def _with_unit(cause: Cause) -> str:
    return f"{_number(cause.value)} {cause.unit}".strip()


def _told(main: ET.Element, shown: Shown) -> None:
    incident = shown.known.incident
    _sub(main, "h2", "This incident")
    listed = _sub(main, "dl")
    rows = [("Reference", incident.reference)]
    sent = (text for text in incident.texts.values() if text.state is TextState.SENT and text.sent_at)
    rows += [
        (
            {TextKind.RECOVERY: "Told it is over"}.get(text.kind, "Texted"),
            f"{text.contact_id}, {_moment(text.sent_at, shown.now)}" + (" (nobody had answered)" * text.is_escalation),
        )
        for text in sorted(sent, key=lambda text: (text.sent_at or shown.now, text.text_key))
        if text.sent_at
    ]
    if shown.known.label:
        rows.append(("Called", shown.known.label.replace("_", " ")))
    rows.append(("Shown as of", _moment(shown.now, shown.now)))
    for name, value in rows:
        _sub(listed, "dt", name)
        _sub(listed, "dd", visible(value))


# --- the picture ---


@dataclass(frozen=True)
class _Axes:
    first: float
    last: float
    low: float
    high: float

    def x(self, seconds: float) -> float:
        share = (seconds - self.first) / max(self.last - self.first, 1.0)
        return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / max(self.high - self.low, 1e-12)
        return TOP + (1 - min(max(share, 0.0), 1.0)) * (HEIGHT - TOP - FOOT)


def _chart(main: ET.Element, shown: Shown) -> None:
    incident = shown.known.incident
    points = _points(shown.readings, incident.cause.measure)
    if len(points) < 2:
        return
    first, last = points[0][0], points[-1][0]
    values = [value for _, value in points] + list(shown.usual or ())
    margin = 0.06 * (max(values) - min(values)) or max(abs(values[0]) * 0.01, 0.5)
    axes = _Axes(first, last, min(values) - margin, max(values) + margin)
    hours = round((last - first) / 3600)
    heading = visible(f"The last {hours} hours of {incident.cause.measure}" if hours > 1 else incident.cause.measure)
    _sub(main, "h2", heading)
    box = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": f"{heading}. {_measured(incident)}"}
    svg = _sub(main, "svg", **box)
    _fault(svg, axes, incident)
    if shown.usual:
        low, high = axes.y(shown.usual[0]), axes.y(shown.usual[1])
        _rectangle(svg, "usual", LEFT, high, WIDTH - LEFT - RIGHT, max(low - high, 1.0))
    for value in _levels(axes.low, axes.high):
        y = _n(axes.y(value))
        _sub(svg, "line", None, "grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)
        _sub(svg, "text", f"{value:.6g}", x=LEFT - 5, y=_n(axes.y(value) + 4), **{"text-anchor": "end"})
    for moment in _ticks(first, last):
        label = f"{datetime.fromtimestamp(moment, shown.now.tzinfo):%H:%M}"
        _sub(svg, "text", label, x=_n(axes.x(moment)), y=HEIGHT - 5, **{"text-anchor": "middle"})
    _sub(svg, "path", None, "reading", d=_path(axes, points))
    legend = _sub(main, "p", None, "soft")
    for name, words in (("", "reading"), ("usual", "usual range"), ("fault", "abnormal")):
        if name != "usual" or shown.usual:
            _sub(_sub(legend, "span", None, "key"), "span", None, f"swatch {name}".strip()).tail = words


def _points(readings: Sequence[Reading], measure: str) -> list[tuple[float, float]]:
    return [(one.measured_at.timestamp(), one.values[measure]) for one in readings if measure in one.values]


def _fault(svg: ET.Element, axes: _Axes, incident: Incident) -> None:
    begins = axes.x(incident.first_anomalous_at.timestamp())
    is_over = incident.recovered_at is not None
    ends = axes.x(incident.over_since.timestamp()) if is_over else float(WIDTH - RIGHT)
    _rectangle(svg, "fault", begins, TOP, max(ends - begins, 1.5), HEIGHT - TOP - FOOT)


def _rectangle(svg: ET.Element, style: str, x: float, y: float, width: float, height: float) -> None:
    _sub(svg, "rect", None, style, x=_n(x), y=_n(y), width=_n(width), height=_n(height))


def _path(axes: _Axes, points: Sequence[tuple[float, float]]) -> str:
    """A line through the values: of each column of the picture the first, the least, the greatest and the last."""
    gaps = sorted(later[0] - earlier[0] for earlier, later in pairwise(points))
    longest = BREAK_INTERVALS * gaps[len(gaps) // 2]
    columns: list[list[tuple[float, float]]] = []
    begins: set[int] = set()
    before: float | None = None
    for moment, value in points:
        x, y = axes.x(moment), axes.y(value)
        is_broken = before is None or moment - before > longest
        if is_broken or floor(x) != floor(columns[-1][0][0]):
            if is_broken:
                begins.add(len(columns))
            columns.append([])
        columns[-1].append((x, y))
        before = moment
    parts = []
    for number, column in enumerate(columns):
        heights = [y for _, y in column]
        kept = sorted({0, heights.index(min(heights)), heights.index(max(heights)), len(column) - 1})
        command = "M" if number in begins else "L"
        parts.append(command + " ".join(f"{_n(column[k][0])} {_n(column[k][1])}" for k in kept))
        if number in begins and len(kept) == 1:
            parts.append("h0")  # one reading alone is a dot
    return "".join(parts)


def _levels(low: float, high: float) -> Iterator[float]:
    rough = max(high - low, 1e-9) / 4
    power = 10.0 ** floor(log10(rough))
    step = next((power * factor for factor in (1, 2, 5) if power * factor >= rough), power * 10)
    return (number * step for number in range(ceil(low / step), floor(high / step) + 1))


def _ticks(first: float, last: float) -> Iterator[float]:
    steps = (step.total_seconds() for step in _TICKS)
    step = next((step for step in steps if (last - first) / step <= MOST_TICKS), _TICKS[-1].total_seconds())
    return (number * step for number in range(ceil(first / step), floor(last / step) + 1))


# --- words and markup ---


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 100 else f"{value:.4g}"


def _moment(moment: datetime, now: datetime) -> str:
    """Of another day, with the day."""
    return f"{moment:%H:%M} UTC" if moment.date() == now.date() else f"{moment:%d %b %H:%M} UTC"


def _duration(lasting: timedelta) -> str:
    minutes = max(round(lasting / timedelta(minutes=1)), 0)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    larger, smaller = (f"{days} d", hours and f"{hours} h") if days else (f"{hours} h", minutes and f"{minutes} min")
    return f"{larger} {smaller}" if smaller else larger


def _document(title: str) -> tuple[ET.Element, ET.Element]:
    root = ET.Element("html", {"lang": "en"})
    head = _sub(root, "head")
    _sub(head, "meta", charset="utf-8")
    _sub(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    # a browser would ask for one otherwise
    _sub(head, "link", rel="icon", href="data:,")
    _sub(head, "title", title)
    _sub(head, "style", _STYLE)
    return root, _sub(root, "body")


def _written(root: ET.Element) -> str:
    return f"<!doctype html>\n{ET.tostring(root, encoding='unicode', method='html')}\n"


def _sub(parent: ET.Element, tag: str, text: str | None = None, style: str = "", **attributes: object) -> ET.Element:
    given = {"class": style, **attributes} if style else attributes
    element = ET.SubElement(parent, tag, {key: str(value) for key, value in given.items()})
    element.text = text
    return element


def _n(value: float) -> str:
    """A coordinate, as short as it may be."""
    return f"{value:.1f}".removesuffix(".0")
