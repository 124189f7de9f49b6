"""`overcut tune`: which cutoffs and run lengths find the most at how many false alarms, on recorded and labelled data.

One replay by the stage's settings keeps every reading's anomaly score. A budget of false alarms moves a cutoff by so
many decades of the score, and a run length decides which anomalies are an incident: both are tried on the kept scores,
without training again. What that leaves out is told at the end: a backtest with the settings that are written.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf, log10
from pathlib import Path

import click
import numpy as np
import tomli_w
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from overcut import OvercutError
from overcut.sensors.backtest import BacktestRules, Recording, Replay, ReplayedIncident
from overcut.sensors.cutoffs import Cutoff
from overcut.sensors.incidents import EQUIPMENT_FAULT, ChangeKind, JudgedReading, RunRule, decide
from workbench.backtest_page import frontier_page
from workbench.csv_files import counted
from workbench.sensors_backtest import (
    BacktestError,
    OutputFile,
    Recorded,
    read_recorded,
    replay_on_all_cores,
    write_text,
)

BUDGETS = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
RUN_LENGTHS = (3, 4, 5, 6, 8, 10, 15)
# below that, one fault more or less moves recall by more than settings differ in
FEW_FAULTS = 20

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Setting:
    """Two settings of a stage, and what they would have given.

    Attributes:
        false: incidents a sensor-week that lie in no fault.
        faults: how many counted.
    """

    false_alarm_budget: float
    consecutive_minutes: int
    recall: float
    median_delay_minutes: float | None
    false: float
    faults: int

    @property
    def delay(self) -> float:
        return inf if self.median_delay_minutes is None else self.median_delay_minutes

    @property
    def result(self) -> str:
        return f"recall {self.recall:.3f} at {self.false:.3f} false"

    @property
    def told(self) -> str:
        return f"false_alarm_budget {self.false_alarm_budget:g}, consecutive_minutes {self.consecutive_minutes}"


@click.command()
@click.argument("readings_file", metavar="READINGS", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--labels",
    "labels_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The faults that are known, a CSV: sensor_id,started_at,ended_at,kind.",
)
@click.option("--budget", type=click.FloatRange(min=0), help="False incidents a sensor-week that people put up with.")
@click.option("--write", type=OutputFile(), help="Write the settings that meet the budget to this new file.")
@click.option("--html", "as_html", type=OutputFile(), help="Write a picture of all that was tried here.")
@click.option("--config", metavar="STAGE", default="prod", show_default=True, help="Whose settings; a name, or a file.")
@click.option("--train-until", metavar="TIME", help="Train once, then, and count everything after it.")
def tune(
    readings_file: Path,
    labels_file: Path,
    budget: float | None,
    write: Path | None,
    as_html: Path | None,
    config: str,
    train_until: str | None,
) -> None:
    """Weigh recall against false incidents, over cutoffs and run lengths.

    Replays READINGS once, as `overcut backtest sensors` does, and tries other cutoffs and run lengths on the scores.
    Prints the settings that nothing beats: none finds more with as few false incidents a sensor-week (10,080 readings).
    """
    try:
        recorded = read_recorded(readings_file, labels_file, config, train_until)
        for repair in recorded.repairs:
            click.echo(f"{readings_file}: {repair}", err=True)
        allowed = recorded.settings.false_alarm_budget if budget is None else budget
        if recorded.settings.detector == "laboratory":
            raise BacktestError('the laboratory\'s rule has no budget; set detector = "channels" to tune')
        if write and write.exists():
            raise BacktestError(f"{write} exists; name a new file, and copy its lines into the stage's")
        console = Console(stderr=True)
        found = replay_on_all_cores(recorded, {"detector": recorded.rules}, console)["detector"]
        tried = list(try_settings(recorded, found, console))
        best = frontier(tried)
        _print(best, len(tried))
        settings = recorded.settings
        now = next(
            one
            for one in tried
            if (one.false_alarm_budget, one.consecutive_minutes)
            == (settings.false_alarm_budget, settings.consecutive_minutes)
        )
        click.echo(f"As stage {config} is now: {now.told}, {now.result}.")
        if as_html:
            points = [(one.false, one.recall, one.told, one in best) for one in tried]
            told = f"{len(tried)} settings tried on {readings_file.name} by stage {config}"
            write_text(as_html, frontier_page("Recall against false incidents", told, points))
        chosen = within_budget(tried, allowed)
        click.echo(f"Within {allowed:g} false incidents a sensor-week: {chosen.told}, {chosen.result}.")
        if now.faults < FEW_FAULTS:
            faults = counted(now.faults, "fault")
            click.echo(
                f"That rests on {faults}: one more or less found is {1 / now.faults:.0%} of recall."
                f" Change no stage by it; label {FEW_FAULTS} or more."
            )
        if write:
            write_text(write, _stage_lines(chosen, readings_file.name, allowed))
            click.echo(
                f"Written to {write}: copy its lines into a stage's file, and confirm them on other recorded data:"
            )
            click.echo("    overcut backtest sensors READINGS --labels LABELS --config FILE.toml")
    except OvercutError as error:
        raise click.ClickException(str(error)) from error


def _print(best: Sequence[Setting], tried: int) -> None:
    table = Table("false a week", "recall", "median delay", "budget", "run")
    for one in best:
        delay = "-" if one.median_delay_minutes is None else f"{one.median_delay_minutes:.0f} min"
        table.add_row(
            f"{one.false:.3f}",
            f"{one.recall:.3f}",
            delay,
            f"{one.false_alarm_budget:g}",
            f"{one.consecutive_minutes} min",
        )
    console = Console()
    console.print(table)
    console.print(f"{len(best)} of the {tried} settings tried: no other finds more with as few false incidents.")


def try_settings(recorded: Recorded, found: Replay, console: Console) -> Iterator[Setting]:
    """What every budget and run length would have given, by the scores that the replay kept.

    Raises:
        BacktestError: no fault counts, or nothing else does.
    """
    recording = Recording(recorded.readings, recorded.faults, counted_from=recorded.counted_from)
    kept = kept_scores(found, recorded.rules)
    others = [one for one in found.incidents if one.kind != EQUIPMENT_FAULT]
    budgets = sorted({*BUDGETS, recorded.settings.false_alarm_budget})
    run_lengths = sorted({*RUN_LENGTHS, recorded.settings.consecutive_minutes})
    pairs = [(budget, minutes) for minutes in run_lengths for budget in budgets]
    for budget, minutes in track(pairs, "settings", console=console, transient=True):
        rule = replace(recorded.rules.training.run_rule, consecutive_minutes=minutes)
        opened = [incident for one in kept for incident in one.incidents(budget, rule)]
        figures = recording.score([*opened, *others])
        if not figures["faults"] or not figures["sensor_weeks"]:
            raise BacktestError("no labelled fault lies where incidents count; give more data, or --train-until")
        yield Setting(
            budget,
            minutes,
            figures["recall"],
            figures["median_delay_minutes"],
            figures["false_incidents_per_sensor_week"],
            figures["faults"],
        )


def kept_scores(found: Replay, rules: BacktestRules) -> list["KeptScores"]:
    """The scores of every sensor that was judged."""
    return [KeptScores(found, sensor_id, rules) for sensor_id, judged in found.judged.items() if judged]


class KeptScores:
    """One sensor's scores, and the incidents that they would have opened."""

    def __init__(self, found: Replay, sensor_id: str, rules: BacktestRules) -> None:
        self._sensor_id = sensor_id
        self._moments = [one.measured_at for one in found.judged[sensor_id]]
        self._seconds = np.array([moment.timestamp() for moment in self._moments])
        self._scores = found.scores[sensor_id]
        self._budget = rules.training.false_alarm_budget
        self._cutoffs, self._floors = _in_force(found.cutoffs[sensor_id], self._moments, rules.training.z_factor)
        self._interval = found.cutoffs[sensor_id][-1].interval

    def incidents(self, budget: float, rule: RunRule) -> Iterator[ReplayedIncident]:
        """The equipment's incidents, had cutoffs been made for another budget and runs been as long as this."""
        scores = self._scores.anomaly_score
        cutoffs = np.maximum(self._floors, self._cutoffs + log10(self._budget / budget))
        with np.errstate(invalid="ignore"):
            anomalous = (scores > cutoffs) & self._scores.is_material
        known = np.isfinite(scores)
        for piece in _pieces(self._seconds, anomalous, known, rule, self._interval):
            judged = [JudgedReading(self._moments[k], bool(anomalous[k]) if known[k] else None) for k in piece]
            episodes: dict[datetime, ReplayedIncident] = {}
            for change in decide(None, judged, {one.measured_at for one in judged}, self._interval, rule):
                if change.kind in (ChangeKind.OPEN, ChangeKind.EXTEND, ChangeKind.RECOVER):
                    one = change.episode
                    episodes[one.opened_at] = ReplayedIncident(
                        self._sensor_id,
                        EQUIPMENT_FAULT,
                        one.first_anomalous_at,
                        one.opened_at,
                        one.last_anomalous_at,
                        one.recovered_at,
                    )
            yield from episodes.values()


def _in_force(cutoffs: Sequence[Cutoff], moments: Sequence[datetime], z_factor: float) -> tuple[Floats, Floats]:
    """Of each verdict the cutoff it was judged by, and what no budget takes that below."""
    effective = [cutoff.effective_from for cutoff in cutoffs]
    used = [cutoffs[bisect_right(effective, moment) - 1] for moment in moments]
    floors = {id(cutoff): cutoff.score_mean + z_factor * cutoff.score_sd for cutoff in cutoffs}
    return np.array([one.score_cutoff for one in used]), np.array([floors[id(one)] for one in used])


def _pieces(
    seconds: Floats, anomalous: Booleans, known: Booleans, rule: RunRule, interval: timedelta
) -> Iterator[range]:
    """The stretches of a series that may hold incidents, each from an anomaly to its recovery: nothing in one depends
    on what lies outside."""
    anomalies, normal = np.flatnonzero(anomalous), np.flatnonzero(known & ~anomalous)
    if not len(anomalies):
        return
    # of each anomaly the normal reading that would show its recovery
    over = np.searchsorted(seconds[normal], seconds[anomalies] + rule.recovery.total_seconds())
    over = np.append(normal, len(seconds) - 1)[over]
    ends = np.flatnonzero(np.append(anomalies[1:] > over[:-1], True))
    first = 0
    for last in ends.tolist():
        if last - first + 1 >= rule.readings_needed(interval):
            yield range(anomalies[first], over[last] + 1)
        first = last + 1


def frontier(tried: Iterable[Setting]) -> list[Setting]:
    """The settings that no other beats, from few false incidents to many."""
    best: list[Setting] = []
    for one in sorted(tried, key=lambda one: (one.false, -one.recall, one.delay)):
        if not best or one.recall > best[-1].recall:
            best.append(one)
    return best


def within_budget(tried: Iterable[Setting], allowed: float) -> Setting:
    """The setting that finds most with at most so many false incidents a sensor-week; of equals the quietest.

    Raises:
        BacktestError: there is none.
    """
    ordered = sorted(tried, key=lambda one: (-one.recall, one.false, one.delay))
    chosen = next((one for one in ordered if one.false <= allowed), None)
    if chosen is None:
        fewest = min(ordered, key=lambda one: one.false)
        raise BacktestError(
            f"no setting keeps within {allowed:g} false incidents a sensor-week; the quietest has {fewest.false:.3f}"
            f" ({fewest.told}): allow as many with --budget"
        )
    return chosen


def _stage_lines(chosen: Setting, name: str, allowed: float) -> str:
    """The chosen settings as lines of a stage's file."""
    told = f"at most {allowed:g} false incidents a sensor-week: recall {chosen.recall:.3f} at {chosen.false:.3f}"
    settings = {
        "false_alarm_budget": chosen.false_alarm_budget,
        "consecutive_minutes": chosen.consecutive_minutes,
    }
    # what a file is called may hold a line break, which would end the comment
    return f"# tuned on {name!r} to {told}\n{tomli_w.dumps({'sensors': settings})}"
