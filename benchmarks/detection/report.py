"""Tables of the comparison, as Markdown, and where they stand in `docs/detection.md`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.detection.nab import PROFILES, STANDARD, NabScores
from benchmarks.detection.scoring import EventScores
from workbench.simulate import FAULT_KINDS


class SectionError(Exception):
    """A document without the marks that a table stands between."""


def replace_section(document: Path, name: str, text: str) -> None:
    """Write `text` between `<!-- begin: name -->` and `<!-- end: name -->`.

    Raises:
        SectionError: the document does not have exactly one such pair.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    written, count = pattern.subn(lambda _: f"{begin}\n{text}\n{end}", document.read_text())
    if count != 1:
        raise SectionError(f"{document} needs {begin} and {end} once; it has {count} of them")
    document.write_text(written)


def fleet_tables(title: str, scores: Mapping[str, EventScores], cutoffs: Mapping[str, float]) -> str:
    """One table of what each detector reaches, and one of its recall by kind of fault."""
    some = next(iter(scores.values()))
    reached = _table(
        (
            "detector",
            "cutoff",
            "recall",
            "false incidents per sensor-week",
            "steps within 10 minutes",
            "median delay, minutes",
            "95 % delay",
            "clean minutes in alert",
            "found by chance",
        ),
        (
            (
                name,
                f"{cutoffs[name]:.2f}" if name in cutoffs else "",
                _share(one.recall),
                _share(one.false_incidents_per_sensor_week),
                _share(one.recall_within_10_minutes_by_kind.get("step")),
                _minutes(one.median_delay_minutes),
                _minutes(one.p95_delay_minutes),
                "-" if one.minutes_in_alert_share is None else f"{100 * one.minutes_in_alert_share:.2f} %",
                _share(one.found_by_chance / one.faults if one.faults else None),
            )
            for name, one in scores.items()
        ),
    )
    by_kind = _table(
        ("recall", *FAULT_KINDS),
        ((name, *(_share(one.recall_by_kind.get(kind)) for kind in FAULT_KINDS)) for name, one in scores.items()),
    )
    amount = f"{title}: {some.sensors} sensors, {some.sensor_weeks:.1f} sensor-weeks, {some.faults} faults."
    return f"{amount}\n\n{reached}\n\n{by_kind}"


def recorded_table(scores: Mapping[str, Mapping[str, EventScores]]) -> str:
    """What each detector finds in each recording.

    Args:
        scores: by detector, then recording.
    """
    recordings = list(next(iter(scores.values())))
    head = [f"{name} ({own.sensor_weeks:.1f})" for name, own in next(iter(scores.values())).items()]
    return _table(
        ("detector", *head), ((name, *(_recorded(own[it]) for it in recordings)) for name, own in scores.items())
    )


def _recorded(scores: EventScores) -> str:
    rate = scores.false_incidents_per_sensor_week
    false = f"{scores.false_incidents} false" + ("" if rate is None else f" ({rate:.2f} a week)")
    if not scores.faults:
        return false
    delay = "" if scores.median_delay_minutes is None else f" after {scores.median_delay_minutes:.0f}"
    return f"{scores.found} of {scores.faults}{delay}, {false}"


def nab_table(scores: Mapping[str, NabScores]) -> str:
    """Normalised scores of each profile, and of the standard one with thresholds carried over."""
    return _table(
        ("detector", *(profile.name.replace("_", " ") for profile in PROFILES), "standard, threshold carried over"),
        (
            (name, *(f"{own.best[it.name]:.1f}" for it in PROFILES), f"{own.carried_over[STANDARD.name]:.1f}")
            for name, own in scores.items()
        ),
    )


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f}"


def _minutes(minutes: float | None) -> str:
    return "-" if minutes is None else f"{minutes:.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
