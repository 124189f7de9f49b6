"""`overcut backtest sensors` and `overcut tune`: their figures, their pages, and what they cannot use."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from math import sin
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from overcut.sensors.backtest import Recording, replay
from overcut.sensors.incidents import EQUIPMENT_FAULT
from overcut.sensors.readings import Reading
from stacks.stage import read_stage
from workbench.cli import main
from workbench.readings_files import Label, write_labels, write_readings
from workbench.sensors_backtest import BacktestError, read_recorded, rules_of, training_times
from workbench.tune_commands import Setting, frontier, kept_scores, try_settings, within_budget

START = datetime(2026, 3, 2, tzinfo=UTC)
INTERVAL = timedelta(minutes=10)
NASTY = "<script>alert('a&b')</script>"
FAULT = Label("fridge-1", START + timedelta(days=6, hours=5), START + timedelta(days=6, hours=8), "step")

# as the issue lists them
KEYS = [
    "sensors",
    "sensor_weeks",
    "faults",
    "found",
    "recall",
    "recall_by_kind",
    "median_delay_minutes",
    "p95_delay_minutes",
    "recall_within_10_minutes_by_kind",
    "false_incidents",
    "false_incidents_per_sensor_week",
    "minutes_in_alert_share",
    "found_by_chance",
    "incidents",
]


def measured(sensor_id: str, faults: Sequence[Label] = (), days: float = 8) -> list[Reading]:
    """A temperature that swings a little, once in ten minutes; 12 degrees warmer in a fault."""
    noise, found = random.Random(sensor_id), []
    for number in range(round(timedelta(days=days) / INTERVAL)):
        moment = START + number * INTERVAL
        warmer = 12.0 * any(label.started_at <= moment <= label.ended_at for label in faults)
        value = round(4 + sin(number / 3) + noise.gauss(0, 0.2) + warmer, 1)
        found.append(Reading(sensor_id, moment, {"temperature": value}))
    return found


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with readings of two sensors, and the labels of one fault."""
    folder = tmp_path_factory.mktemp("fleet")
    write_readings(folder / "fleet.csv", [*measured("fridge-1", [FAULT]), *measured(NASTY)])
    write_labels(folder / "labels.csv", [FAULT, replace(FAULT, sensor_id=NASTY, kind='"><script>')])
    write_labels(folder / "others.csv", [replace(FAULT, sensor_id="somebody-else")])
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env={"COLUMNS": "120"})


def error_of(*arguments: str | Path) -> str:
    ran = run(*arguments)
    assert ran.exit_code == 1, ran.output
    assert ran.stderr.count("\n") == 1, "one sentence"
    return ran.stderr.strip()


class Tags(HTMLParser):
    """Which tags a page has, and what it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [name for name, _ in attrs if name in ("src", "href", "xlink:href") or name.startswith("on")]


def test_figures_and_pictures(fleet: Path, tmp_path: Path) -> None:
    as_json, as_html = tmp_path / "figures.json", tmp_path / "page.html"
    readings, labels = fleet / "fleet.csv", fleet / "labels.csv"
    ran = run("backtest", "sensors", readings, "--labels", labels, "--json", as_json, "--html", as_html)
    assert ran.exit_code == 0, ran.output

    figures = json.loads(as_json.read_text())
    assert list(figures) == [*KEYS, "laboratory"]
    assert list(figures["laboratory"]) == KEYS[:-1]
    # of the two labels only one is a fault: nothing is there to find in the other
    assert (figures["sensors"], figures["faults"], figures["found"]) == (2, 2, 1)
    assert figures["recall_by_kind"] == {'"><script>': 0.0, "step": 1.0}
    assert figures["sensor_weeks"] == round(2 * (3 * 144 - 19) / 10_080, 2)
    found = [one for one in figures["incidents"] if one["sensor_id"] == "fridge-1"]
    assert found[0]["opened_at"] == "2026-03-08T05:10:00Z"
    assert list(found[0]) == ["sensor_id", "kind", "first_anomalous_at", "opened_at", "recovered_at"]
    assert "laboratory's rule" in ran.stdout
    assert "recall: step" in ran.stdout
    assert "found, were they at other times" in ran.stdout
    assert "as many faults would be found if they lay anywhere else" in ran.stdout
    assert "Not counted: each sensor's first 5 days, which are only learned from." in ran.stdout
    assert "p95" not in ran.stdout

    page = as_html.read_text()
    tags = Tags(page)
    assert "script" not in tags.tags
    assert tags.loads == []
    assert page.count("&lt;script&gt;alert('a&amp;b')&lt;/script&gt;") >= 1
    assert page.count('class="fault"') == 2
    assert page.count('class="mark') == len(figures["incidents"])
    assert page.count('class="reading"') == page.count('class="score"') == page.count('class="cutoff"') == 2


def test_readings_without_labels_have_no_recall(fleet: Path, tmp_path: Path) -> None:
    as_json = tmp_path / "figures.json"
    moment = "2026-03-05T00:00:00Z"
    ran = run("backtest", "sensors", fleet / "fleet.csv", "--json", as_json, "--train-until", moment)
    assert ran.exit_code == 0, ran.output
    figures = json.loads(as_json.read_text())
    assert figures["recall"] is None
    assert "Not counted" not in ran.stdout
    assert figures["laboratory"]["recall"] is None
    assert figures["sensor_weeks"] == round(2 * 5 * 144 / 10_080, 2), "everything after the training counts"
    opened = [one["opened_at"] for one in figures["incidents"] if one["sensor_id"] == "fridge-1"]
    assert "2026-03-08T05:10:00Z" in opened


def test_what_was_never_judged_or_is_labelled_elsewhere_is_told(fleet: Path, tmp_path: Path) -> None:
    readings, labels, as_json = tmp_path / "fleet.csv", tmp_path / "labels.csv", tmp_path / "figures.json"
    write_readings(readings, [*measured("fridge-1", [FAULT]), *measured("slow")[::6]])
    later = timedelta(days=30)
    elsewhere = replace(FAULT, started_at=FAULT.started_at + later, ended_at=FAULT.ended_at + later)
    write_labels(labels, [FAULT, elsewhere, replace(FAULT, sensor_id="fridge-l")])
    ran = run("backtest", "sensors", readings, "--labels", labels, "--json", as_json)
    assert ran.exit_code == 0, ran.output
    assert "2 labels of another sensor or time: left out" in ran.stderr
    assert "never judged, for want of 240 readings to learn from: slow\n" in ran.stdout
    figures = json.loads(as_json.read_text())
    assert (figures["faults"], figures["found"], figures["recall"]) == (1, 1, 1.0)


def test_what_cannot_be_replayed_is_told_in_one_sentence(fleet: Path, tmp_path: Path) -> None:
    readings, labels = fleet / "fleet.csv", fleet / "labels.csv"
    assert "does not exist" in error_of("backtest", "sensors", fleet / "none.csv")
    assert "is of a sensor in" in error_of("backtest", "sensors", readings, "--labels", fleet / "others.csv")
    assert "no such stage file" in error_of("backtest", "sensors", readings, "--config", "nowhere")
    said = error_of("backtest", "sensors", readings, "--train-until", "yesterday")
    assert said.startswith("Error: --train-until is not a time in ISO 8601")
    said = error_of("backtest", "sensors", readings, "--train-until", "2027-01-01T00:00:00Z")
    assert "give a time between 2026-03-02T00:00:00Z and 2026-03-09T23:50:00Z" in said
    write_readings(tmp_path / "short.csv", measured("fridge-1", days=0.1))
    said = error_of("backtest", "sensors", tmp_path / "short.csv")
    assert said.endswith("cron(30 2 * * ? *) does not train in it; say when with --train-until")

    ran = run("backtest", "sensors", readings, "--json", tmp_path / "no" / "figures.json")
    assert ran.exit_code == 2
    assert "does not exist; make it first" in ran.stderr
    (tmp_path / "tuned.toml").write_text("")
    said = error_of("tune", readings, "--labels", labels, "--write", tmp_path / "tuned.toml")
    assert said.endswith("exists; name a new file, and copy its lines into the stage's")


# --- schedules ---


def times(schedule: str, days: float = 3) -> list[str]:
    return [f"{moment:%d %H:%M}" for moment in training_times(schedule, START, START + timedelta(days=days))]


def test_trainings_follow_the_schedule() -> None:
    # 2 March 2026 is a Monday, EventBridge's day 2
    assert times("cron(30 2 * * ? *)") == ["02 02:30", "03 02:30", "04 02:30"]
    assert times("rate(1 day)") == ["03 00:00", "04 00:00", "05 00:00"]
    assert times("rate(36 hours)") == ["03 12:00", "05 00:00"]
    assert times("cron(0 6 ? * 3 *)", 14) == ["03 06:00", "10 06:00"]
    assert times("cron(0 6 ? * TUE-THU *)", 6) == ["03 06:00", "04 06:00", "05 06:00"]
    assert times("cron(0 6 ? * 1#2 *)", 20) == ["08 06:00"]
    assert times("cron(0 0/12 3 3 ? 2025-2026)") == ["03 00:00", "03 12:00"]
    assert times("cron(0 6 * * ? 2027)") == []
    assert times("cron(0 6 * * ? 2020/2)", 1) == ["02 06:00"]


@pytest.mark.parametrize(
    "schedule",
    [
        "cron(30 2 * * *)",
        "cron(30 2 * * * *)",
        "cron(77 2 * * ? *)",
        "cron(0 6 15W * ? *)",
        "cron(0 6 * * ? soon)",
        "rate(0 days)",
        "rate(1 fortnight)",
        "daily",
    ],
)
def test_a_wrong_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(BacktestError, match=r"training_schedule .*; (write|give)"):
        list(training_times(schedule, START, START + timedelta(days=30)))


def test_the_stage_says_how_to_train(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'region = "eu-central-1"\n[sensors]\ndefault_contact = "a"\nz_factor = 3.0\nnum_trees = 40\n'
        'consecutive_minutes = 7\nfalse_alarm_budget = 0.3\nnew_normal_after_hours = 48\ndetector = "laboratory"\n'
        'training_window_days = 9\n[sensors.contacts.a]\n[sensors.sources.s]\nurl = "https://x.example"\n'
        'measures = { t = "C", p = "bar" }\nmin_deviation = { t = 0.5 }\n[sensors.sources.u]\n'
        'url = "https://y.example"\nmeasures = { t = "C" }\nmin_deviation = { t = 0.4 }\n'
    )
    rules = rules_of(read_stage(str(path)).with_sensors().sensors)
    training = rules.training
    assert (training.z_factor, training.forest.num_trees, training.run_rule.consecutive_minutes) == (3.0, 40, 7)
    assert (training.false_alarm_budget, training.detector) == (0.3, "laboratory")
    assert (rules.window, rules.new_normal_after) == (timedelta(days=9), timedelta(hours=48))
    assert rules.min_deviation == {"t": 0.4}


# --- tuning ---


def test_other_settings_are_judged_as_a_replay_would(fleet: Path) -> None:
    """With the stage's own settings, the kept scores give the incidents of the replay itself."""
    recorded = read_recorded(fleet / "fleet.csv", fleet / "labels.csv", "prod", None)
    found = replay(recorded.readings, recorded.trainings, recorded.rules)
    own = [one for one in found.incidents if one.kind == EQUIPMENT_FAULT]
    assert own
    settings = recorded.settings
    again = [
        incident
        for kept in kept_scores(found, recorded.rules)
        for incident in kept.incidents(settings.false_alarm_budget, recorded.rules.training.run_rule)
    ]
    assert sorted(again, key=lambda one: (one.opened_at, one.sensor_id)) == own

    # a cutoff past every score, and a run longer than the recording
    rule = recorded.rules.training.run_rule
    for kept in kept_scores(found, recorded.rules):
        assert list(kept.incidents(1e-9, rule)) == []
        assert list(kept.incidents(1e3, replace(rule, consecutive_minutes=30 * 24 * 60))) == []

    figures = Recording(recorded.readings, recorded.faults).score(found.incidents)
    tried = list(try_settings(recorded, found, Console(quiet=True)))
    (now,) = (one for one in tried if (one.false_alarm_budget, one.consecutive_minutes) == (0.1, 5))
    assert (now.recall, now.false) == (figures["recall"], figures["false_incidents_per_sensor_week"])


def setting(recall: float, false: float, delay: float = 5.0) -> Setting:
    return Setting(0.1, 5, recall, delay, false, 20)


def test_the_frontier_is_what_nothing_beats() -> None:
    quiet, beaten, slow, good = setting(0.5, 0.1), setting(0.4, 0.2), setting(0.9, 0.5, 9.0), setting(0.9, 0.5)
    loud = setting(0.9, 1.0)
    tried = [loud, good, slow, beaten, quiet]
    assert frontier(tried) == [quiet, good]
    assert within_budget(tried, 1.0) == good
    assert within_budget(tried, 0.3) == quiet
    with pytest.raises(BacktestError, match=r"the quietest has 0\.100"):
        within_budget(tried, 0.05)


def test_tuned_settings_are_lines_of_a_stage(fleet: Path, tmp_path: Path) -> None:
    written, as_html = tmp_path / "tuned.toml", tmp_path / "frontier.html"
    readings, labels = fleet / "fleet.csv", fleet / "labels.csv"
    ran = run("tune", readings, "--labels", labels, "--budget", "50", "--write", written, "--html", as_html)
    assert ran.exit_code == 0, ran.output
    assert "As stage prod is now: false_alarm_budget 0.1, consecutive_minutes 5, recall 0.500" in ran.stdout
    lines = written.read_text()
    whole = 'region = "eu-central-1"\n' + lines + 'default_contact = "a"\n[sensors.contacts.a]\n[sensors.sources.s]\n'
    written.write_text(whole + 'url = "https://x.example"\nmeasures = { t = "C" }\n')
    chosen = read_stage(str(written)).with_sensors().sensors
    said = f"false_alarm_budget {chosen.false_alarm_budget:g}, consecutive_minutes {chosen.consecutive_minutes}"
    assert f"Within 50 false incidents a sensor-week: {said}" in ran.stdout
    assert "That rests on 2 faults: one more or less found is 50% of recall. Change no stage by it" in ran.stdout
    assert Tags(as_html.read_text()).loads == []
