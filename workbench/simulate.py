"""Simulated equipment: readings of refrigerators and air handlers, with faults whose place is known.

A unit holds a temperature by switching its compressor on and off; the weather, a slow wander and the sensor's noise lie
over that. It defrosts on a schedule, and people open its door for one to three minutes: both look odd, neither is a
fault and neither is labelled. Nothing here is fitted to recorded data.

The same arguments give the same readings on any machine. Every unit, and every part of a unit, draws from a generator
of its own: a unit's readings do not depend on how many there are, and a fault changes no minute outside its label.

    RefusedError
     └─ SimulationError   arguments that no simulation can follow
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, cast, get_args

import click
import numpy as np
import numpy.typing as npt

from overcut import RefusedError
from overcut.sensors.readings import Reading, RefusedReadingError, format_time, parse_time
from workbench.readings_files import Label, ReadingsFileError, labels_path, write_labels, write_readings

FaultKind = Literal["step", "leak", "stuck", "shortcycle", "compoff", "noise"]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
MEASURE = "temperature"
FAULT_FREE_DAYS = 5.0
# words for a first minute
DAYS_AGO = {"today": 0, "last-week": 7}

_DAY = 24 * 60
# how long a fault lasts, in minutes, from and to
_FAULT_MINUTES: dict[FaultKind, tuple[int, int]] = {
    "step": (20, 60),
    "leak": (360, 600),
    "stuck": (90, 180),
    "shortcycle": (90, 240),
    "compoff": (90, 240),
    "noise": (60, 150),
}
_SHORTEST_SLOT = 60
# between the end of one door opening and the next, so that two never read as one long excursion
_DOOR_GAP = 20
# the demonstration's fault: when it begins in the live part, how long it lasts, what is calm around it, in minutes
_LIVE_FAULT_AFTER, _LIVE_FAULT_LASTS, _LIVE_CALM_AFTER, _LIVE_MARGIN = 40, 25, 45, 20
# how far the demonstration's fault lies above everything in its history, in degrees
_LIVE_FAULT_CLEARANCE = 8.0

Series = npt.NDArray[np.float64]


class SimulationError(RefusedError):
    """Arguments that no simulation can follow; the text says which and what would do."""


@dataclass(frozen=True)
class Faults:
    """Which faults a fleet has.

    Attributes:
        per_sensor: how many each sensor has, spread over the days that may have any.
        kinds: the kinds, each used once, in an order of the sensor's own, before any is used again.
        strength: a factor on the size of every fault; a stuck sensor has none.
    """

    per_sensor: int = 6
    kinds: tuple[FaultKind, ...] = FAULT_KINDS
    strength: float = 1.0


@dataclass(frozen=True)
class _Unit:
    """What sets one unit apart. Temperatures in degrees Celsius, times in minutes.

    Attributes:
        set_point: what the unit holds.
        ambient: what is around it.
        weather_share: how much of the weather's swing comes through.
        wander: standard deviation of the slow drift.
        period, duty, amplitude: of the compressor's cycle; duty is the share of it in which the compressor cools.
        noise: standard deviation of the sensor's noise.
        defrost_period, defrost_at, defrost_minutes, defrost_height: schedule, and size of the hump.
        doors_a_day, door_height: how often it is opened, and by how much that warms the sensor.
    """

    set_point: float
    ambient: float
    weather_share: float
    wander: float
    period: float
    duty: float
    amplitude: float
    noise: float
    defrost_period: int
    defrost_at: int
    defrost_minutes: int
    defrost_height: float
    doors_a_day: float
    door_height: float


@dataclass(frozen=True)
class _Fault:
    """A fault of `kind` in the minutes `[first, end)` of a series."""

    kind: FaultKind
    first: int
    end: int


def simulate_fleet(
    *,
    sensors: int,
    days: float,
    seed: int,
    started_at: datetime,
    faults: Faults | None = None,
    fault_free_days: float = FAULT_FREE_DAYS,
) -> tuple[list[Reading], list[Label]]:
    """One reading a minute of `sensors` units at one site, and where their faults are.

    Args:
        sensors, days, seed: what to simulate.
        started_at: the first minute, with a zone.
        faults: without it, one fault of every kind a sensor; `Faults(per_sensor=0)` for none.
        fault_free_days: no fault starts before so many days.

    Returns:
        Readings in order of (measured_at, sensor_id), in steps of 0.1 degrees, and labels by sensor and start.

    Raises:
        SimulationError: nothing to simulate, or no room for the faults.
    """
    faults = Faults() if faults is None else faults
    minutes = round(days * _DAY)
    if sensors < 1 or minutes < 1:
        raise SimulationError("a simulation needs at least one sensor and one minute: raise --sensors or --days")
    moments = _moments(started_at, minutes)
    room = range(max(0, round(fault_free_days * _DAY)), minutes)
    site_seed, fleet_seed = np.random.SeedSequence(seed).spawn(2)
    weather = _weather(minutes, _minute_of_day(moments[0]), np.random.default_rng(site_seed))

    names = [f"unit-{number:04d}" for number in range(1, sensors + 1)]
    columns: list[list[float]] = []
    labels: list[Label] = []
    for name, unit_seed in zip(names, fleet_seed.spawn(sensors), strict=True):
        unit_rng, fault_rng, series_seed = _parts(unit_seed)
        placed = _place_faults(faults, room, fault_rng)
        unit = _draw_unit(unit_rng)
        values = _series(unit, weather, moments[0], series_seed, placed, faults.strength)
        columns.append(values.tolist())
        labels += [Label(name, moments[it.first], moments[it.end - 1], it.kind) for it in placed]
    readings = [
        Reading(name, moment, {MEASURE: value})
        for moment, row in zip(moments, zip(*columns, strict=True), strict=True)
        for name, value in sorted(zip(names, row, strict=True))
    ]
    return readings, sorted(labels, key=lambda label: (label.sensor_id, label.started_at))


def simulate_unit(
    *, history_days: float, live_hours: float, seed: int, started_at: datetime, fault: FaultKind = "step"
) -> tuple[list[Reading], list[Label]]:
    """One cold room for a demonstration: a history without faults, then a live part with exactly one.

    The history holds door openings and defrosts. The live part begins `history_days` after `started_at`; its fault
    begins 40 minutes into it and lasts 25, and at least 45 minutes of normal operation follow. A `step` lies, from its
    first minute to its last, 8 degrees above everything in the history. From 20 minutes before the fault to 20 after
    it nobody opens the door and the unit does not defrost.

    Returns:
        Readings of `unit-1` in order of time, in steps of 0.1 degrees, and the one label.

    Raises:
        SimulationError: the history or the live part is too short.
    """
    history, live = round(history_days * _DAY), round(live_hours * 60)
    shortest = _LIVE_FAULT_AFTER + _LIVE_FAULT_LASTS + _LIVE_CALM_AFTER
    if history < _DAY or live < shortest:
        raise SimulationError(f"a demonstration needs a day of history and {shortest / 60:.2f} hours of live readings")
    moments = _moments(started_at, history + live)
    first = history + _LIVE_FAULT_AFTER
    placed = _Fault(fault, first, first + _LIVE_FAULT_LASTS)
    site_seed, unit_seed = np.random.SeedSequence(seed).spawn(2)
    weather = _weather(len(moments), _minute_of_day(moments[0]), np.random.default_rng(site_seed))
    _, _, series_seed = _parts(unit_seed)
    period = 8 * 60
    unit = _Unit(
        set_point=4.0,
        ambient=24.0,
        # a well insulated room: its history shows everything that its normal operation does
        weather_share=0.02,
        wander=0.05,
        period=14.0,
        duty=0.45,
        amplitude=0.5,
        noise=0.08,
        defrost_period=period,
        # the live part begins half-way between two defrosts
        defrost_at=(history + period // 2) % period,
        defrost_minutes=12,
        defrost_height=1.8,
        doors_a_day=10.0,
        door_height=4.0,
    )
    calm = range(placed.first - _LIVE_MARGIN, placed.end + _LIVE_MARGIN)
    values = _series(unit, weather, moments[0], series_seed, [placed], 1.0, calm=calm)
    if fault == "step":
        during = slice(placed.first, placed.end)
        normal = _series(unit, weather, moments[0], series_seed, [], 1.0, calm=calm)
        rise = values[:history].max() + _LIVE_FAULT_CLEARANCE - normal[during].min()
        values[during] = _in_steps(normal[during] + rise)
    readings = [
        Reading("unit-1", moment, {MEASURE: value}) for moment, value in zip(moments, values.tolist(), strict=True)
    ]
    return readings, [Label("unit-1", moments[placed.first], moments[placed.end - 1], fault)]


def _parts(seed: np.random.SeedSequence) -> tuple[np.random.Generator, np.random.Generator, np.random.SeedSequence]:
    """Generators for what a unit is and for its faults, and the seed of its series."""
    unit, faults, series = seed.spawn(3)
    return np.random.default_rng(unit), np.random.default_rng(faults), series


def _moments(started_at: datetime, minutes: int) -> list[datetime]:
    if started_at.tzinfo is None:
        raise SimulationError("the start has no time zone: give it as 2026-01-05T00:00:00Z")
    first = started_at.astimezone(UTC).replace(second=0, microsecond=0)
    try:
        return [first + timedelta(minutes=minute) for minute in range(minutes)]
    except OverflowError:
        raise SimulationError("the simulation would end after the year 9999: lower --days") from None


def _minute_of_day(moment: datetime) -> int:
    return moment.hour * 60 + moment.minute


def _weather(minutes: int, minute_of_day: int, rng: np.random.Generator) -> Series:
    """Outdoor temperature less its mean: a daily swing, warmest at 15:00, and days that differ from each other."""
    days = (minute_of_day + minutes) // _DAY + 2
    draws = rng.standard_normal((days, 2)).clip(-2.5, 2.5)
    noons = np.arange(days) * _DAY
    minute = minute_of_day + np.arange(minutes)
    swing = np.interp(minute, noons, 5.0 * (1.0 + 0.3 * draws[:, 0]))
    day = np.interp(minute, noons, 2.5 * draws[:, 1])
    return day + swing * np.cos(2.0 * np.pi * (minute - 15 * 60) / _DAY)


def _draw_unit(rng: np.random.Generator) -> _Unit:
    """A freezer, a cold room or an air handler."""
    low, high, ambient = [(-22.0, -14.0, 20.0), (0.0, 8.0, 22.0), (14.0, 20.0, 30.0)][int(rng.integers(3))]
    defrost_period = int(rng.choice([6, 8, 12])) * 60
    return _Unit(
        set_point=rng.uniform(low, high),
        ambient=ambient + rng.uniform(-2.0, 2.0),
        weather_share=rng.uniform(0.02, 0.12),
        wander=rng.uniform(0.05, 0.2),
        period=rng.uniform(10.0, 26.0),
        duty=rng.uniform(0.35, 0.65),
        amplitude=rng.uniform(0.2, 0.7),
        noise=rng.uniform(0.03, 0.12),
        defrost_period=defrost_period,
        defrost_at=int(rng.integers(defrost_period)),
        defrost_minutes=int(rng.integers(10, 19)),
        defrost_height=rng.uniform(1.0, 2.5),
        doors_a_day=rng.uniform(2.0, 10.0),
        door_height=rng.uniform(3.5, 6.0),
    )


def _place_faults(faults: Faults, room: range, rng: np.random.Generator) -> list[_Fault]:
    """One fault in each of as many equal slots of `room`, with a fifth of the slot between any two."""
    if faults.per_sensor < 1:
        return []
    slot = len(room) // faults.per_sensor
    if slot < _SHORTEST_SLOT or not faults.kinds:
        needed = faults.per_sensor * _SHORTEST_SLOT
        raise SimulationError(
            f"there is no room for {faults.per_sensor} faults a sensor: they need a kind and {needed} minutes, "
            f"and the days without faults leave {len(room)}; raise --days, or lower --faults-per-sensor "
            "or --fault-free-days"
        )
    kinds: list[FaultKind] = []
    while len(kinds) < faults.per_sensor:
        kinds += [faults.kinds[index] for index in rng.permutation(len(faults.kinds))]
    placed = []
    for number, kind in enumerate(kinds[: faults.per_sensor]):
        shortest, longest = _FAULT_MINUTES[kind]
        lasts = min(int(rng.integers(shortest, longest + 1)), slot * 3 // 5)
        margin = slot // 10
        first = room.start + number * slot + margin + int(rng.integers(slot - 2 * margin - lasts + 1))
        placed.append(_Fault(kind, first, first + lasts))
    return placed


def _series(
    unit: _Unit,
    weather: Series,
    first_moment: datetime,
    seed: np.random.SeedSequence,
    faults: Sequence[_Fault],
    strength: float,
    calm: range = range(0),
) -> Series:
    """The temperatures of one unit, a minute each, in steps of 0.1 degrees; no door opens in the minutes `calm`."""
    minutes = len(weather)
    # children are named by number, so that asking twice gives the same ones: `spawn` counts on
    cycle_rng, slow_rng, noise_rng, visit_rng, fault_rng = (
        np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, part)))
        for part in range(5)
    )
    slow = unit.set_point + unit.weather_share * weather + _wander(unit, minutes, slow_rng)
    cycle = _cycle(unit.period, unit.duty, unit.amplitude, minutes, cycle_rng)
    noise = unit.noise * noise_rng.standard_normal(minutes)
    visits = _visits(unit, minutes, _minute_of_day(first_moment), calm, visit_rng)
    values = slow + cycle + noise + visits
    for fault in faults:
        during = slice(fault.first, fault.end)
        visited = visits[during]
        if fault.kind == "stuck":
            values[during] = (slow + cycle + noise)[max(0, fault.first - 1)]
        elif fault.kind == "noise":
            louder = (0.8 * strength + unit.noise) * fault_rng.standard_normal(fault.end - fault.first)
            values[during] = slow[during] + cycle[during] + visited + louder
        elif fault.kind == "shortcycle":
            size = unit.amplitude * fault_rng.uniform(0.9, 1.4) * strength
            rapid = _cycle(fault_rng.uniform(3.0, 4.5), unit.duty, size, fault.end - fault.first, fault_rng)
            values[during] = slow[during] + rapid + noise[during] + visited
        elif fault.kind == "compoff":
            warming = _warming(fault.end - fault.first, unit.ambient - unit.set_point, strength, fault_rng)
            values[during] = slow[during] + warming + noise[during] + visited
        else:
            size = strength * fault_rng.uniform(2.5, 4.5)
            rise = np.linspace(0.0, size, fault.end - fault.first) if fault.kind == "leak" else size
            values[during] += rise
    return _in_steps(values)


def _in_steps(values: Series) -> Series:
    """To 0.1 degrees, as such sensors tell them; never a minus before zero."""
    return np.round(values, 1) + 0.0


def _wander(unit: _Unit, minutes: int, rng: np.random.Generator) -> Series:
    """A drift over hours: a first-order autoregression at three-hour knots, straight lines between them."""
    knots = minutes // 180 + 2
    draws = rng.standard_normal(knots)
    level = np.empty(knots)
    level[0] = draws[0]
    for knot in range(1, knots):
        level[knot] = 0.8 * level[knot - 1] + 0.6 * draws[knot]
    drift: Series = np.interp(np.arange(minutes), np.arange(knots) * 180, level)
    return unit.wander * drift


def _cycle(period: float, duty: float, amplitude: float, minutes: int, rng: np.random.Generator) -> Series:
    """Down while the compressor runs and up while it rests, no two cycles of quite the same length and height."""
    count = int(minutes / (0.7 * period)) + 3
    draws = rng.standard_normal((count, 2)).clip(-2.5, 2.5)
    ends = np.cumsum(period * (1.0 + 0.1 * draws[:, 0]))
    lengths = np.diff(ends, prepend=0.0)
    heights = amplitude * (1.0 + 0.1 * draws[:, 1])
    minute = np.arange(minutes) + rng.uniform(0.0, period)
    cycle = np.searchsorted(ends, minute, side="right").clip(max=count - 1)
    phase = 1.0 - (ends[cycle] - minute) / lengths[cycle]
    shape: Series = np.where(phase < duty, 1.0 - 2.0 * phase / duty, 2.0 * (phase - duty) / (1.0 - duty) - 1.0)
    scaled: Series = shape * heights[cycle]
    return scaled


def _visits(unit: _Unit, minutes: int, minute_of_day: int, calm: range, rng: np.random.Generator) -> Series:
    """What defrosts and door openings add: humps on a schedule, and one to three warm minutes, mostly by day."""
    added = np.zeros(minutes)
    starts = range(unit.defrost_at - unit.defrost_period, minutes, unit.defrost_period)
    for start, height in zip(starts, unit.defrost_height * rng.uniform(0.9, 1.1, len(starts)), strict=True):
        hump = height * np.sin(np.pi * (np.arange(unit.defrost_minutes) + 0.5) / unit.defrost_minutes) ** 2
        for minute, value in enumerate(hump, start):
            if 0 <= minute < minutes:
                added[minute] = value

    hour = (minute_of_day + np.arange(minutes)) // 60 % 24
    chance = unit.doors_a_day / _DAY * np.where((hour >= 7) & (hour < 20), 1.7, 0.2)
    opened = np.flatnonzero(rng.random(minutes) < chance)
    lengths = rng.integers(1, 4, len(opened))
    heights = unit.door_height * rng.uniform(0.85, 1.15, (len(opened), 3))
    free_from = 0
    for start, length, height in zip(opened.tolist(), lengths.tolist(), heights, strict=True):
        around = range(start - _DOOR_GAP, start + length + _DOOR_GAP)
        in_calm = start < calm.stop and start + length > calm.start
        if start < free_from or start + length > minutes or in_calm or added[max(0, around.start) : around.stop].any():
            continue
        added[start : start + length] = height[:length]
        free_from = start + length + _DOOR_GAP
    return added


def _warming(minutes: int, gap: float, strength: float, rng: np.random.Generator) -> Series:
    """Toward the surroundings, `gap` degrees away, while the compressor is off; the last fifth brings it back."""
    minute = np.arange(1, minutes + 1)
    warming: Series = gap * (1.0 - np.exp(-minute * strength / rng.uniform(120.0, 360.0)))
    off = max(1, minutes * 4 // 5)
    warming[off:] = warming[off - 1] * np.exp(-np.arange(1, minutes - off + 1) / max(1.0, minutes / 30))
    return warming


class _DefaultCommandGroup(click.Group):
    """A group that takes what is no command of its own for the arguments of its command `readings`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in self.get_help_option_names(ctx):
            args = ["readings", *args]
        return super().parse_args(ctx, args)


def _start(_: click.Context, __: click.Parameter, text: str) -> datetime:
    if text in DAYS_AGO:
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=DAYS_AGO[text])
    try:
        return parse_time(text)
    except RefusedReadingError:
        otherwise = f"such as 2026-01-05T00:00:00Z, nor {' or '.join(DAYS_AGO)}"
        raise click.BadParameter(f"{text!r} is no time with a zone, {otherwise}") from None


def _kinds(_: click.Context, __: click.Parameter, text: str) -> tuple[FaultKind, ...]:
    kinds = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [kind for kind in kinds if kind not in FAULT_KINDS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is no kind of fault; there are {', '.join(FAULT_KINDS)}")
    return cast(tuple[FaultKind, ...], kinds)


@click.group(cls=_DefaultCommandGroup)
def simulate() -> None:
    """Write simulated data.

    `simulate FLEET.csv.gz` is short for `simulate readings FLEET.csv.gz`.
    """


@simulate.command("readings")
@click.argument("target", metavar="READINGS", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--sensors", type=click.IntRange(1, 9999), default=20, show_default=True, help="How many units.")
@click.option(
    "--days", type=click.FloatRange(0, 3660, min_open=True), default=14.0, show_default=True, help="How long."
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The same seed, the same file.")
@click.option(
    "--start",
    callback=_start,
    metavar="TIME",
    default="2026-01-05T00:00:00Z",
    show_default=True,
    help="The first minute; `today` is this day's midnight in UTC, `last-week` that of seven days ago.",
)
@click.option(
    "--fault-free-days",
    type=click.FloatRange(0),
    show_default=f"{FAULT_FREE_DAYS:g}, or half of --days",
    help="First days without faults, to train on.",
)
@click.option("--faults-per-sensor", type=click.IntRange(0), default=6, show_default=True, help="How many.")
@click.option(
    "--fault-kinds",
    callback=_kinds,
    metavar="KIND,...",
    default=",".join(FAULT_KINDS),
    show_default=True,
    help="Which ones.",
)
@click.option(
    "--strength", type=click.FloatRange(0, 100), default=1.0, show_default=True, help="Factor on every fault's size."
)
def _readings(
    target: Path,
    sensors: int,
    days: float,
    seed: int,
    start: datetime,
    fault_free_days: float | None,
    faults_per_sensor: int,
    fault_kinds: tuple[FaultKind, ...],
    strength: float,
) -> None:
    """Write readings of a simulated fleet.

    They go to READINGS (.csv or .csv.gz), and the fleet's faults to the labels file beside it.
    """
    if not target.name.endswith((".csv", ".csv.gz")):
        raise click.ClickException(f"{target} would be no CSV file by its name: end it in .csv or .csv.gz")
    faults = Faults(per_sensor=faults_per_sensor, kinds=fault_kinds, strength=strength)
    if fault_free_days is None:
        fault_free_days = min(FAULT_FREE_DAYS, days / 2)
    try:
        readings, labels = simulate_fleet(
            sensors=sensors, days=days, seed=seed, started_at=start, faults=faults, fault_free_days=fault_free_days
        )
        write_readings(target, readings)
        write_labels(labels_path(target), labels)
    except (SimulationError, ReadingsFileError) as error:
        raise click.ClickException(str(error)) from error
    for line in _summary(target, readings, labels, sensors):
        click.echo(line)


def _summary(target: Path, readings: Sequence[Reading], labels: Sequence[Label], sensors: int) -> Iterator[str]:
    span = f"{format_time(readings[0].measured_at)} to {format_time(readings[-1].measured_at)}"
    yield f"{target}: {len(readings):,} readings of {sensors} simulated {'unit' if sensors == 1 else 'units'}, {span}"
    yield f"{labels_path(target)}: {len(labels):,} {'fault' if len(labels) == 1 else 'faults'}"
