"""Simulated equipment: the same for the same seed, odd where it may be, faulty exactly where its labels say."""

import gzip
import hashlib
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest
from click.testing import CliRunner

from overcut.sensors.readings import Reading
from workbench.readings_files import Label, read_labels, read_readings
from workbench.simulate import (
    FAULT_KINDS,
    FaultKind,
    Faults,
    SimulationError,
    simulate,
    simulate_fleet,
    simulate_unit,
)

START = datetime(2026, 1, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

Fleet = tuple[list[Reading], list[Label]]


def fleet(
    *, sensors: int = 3, days: float = 4.0, seed: int = 7, faults: Faults | None = None, fault_free_days: float = 2.0
) -> Fleet:
    return simulate_fleet(
        sensors=sensors, days=days, seed=seed, started_at=START, faults=faults, fault_free_days=fault_free_days
    )


def series(readings: list[Reading], sensor_id: str) -> dict[datetime, float]:
    return {it.measured_at: it.values["temperature"] for it in readings if it.sensor_id == sensor_id}


def minutes(label: Label) -> set[datetime]:
    count = (label.ended_at - label.started_at) // MINUTE + 1
    return {label.started_at + number * MINUTE for number in range(count)}


def longest_run_above(limit: float, values: list[float]) -> int:
    longest = run = 0
    for value in values:
        run = run + 1 if value > limit else 0
        longest = max(longest, run)
    return longest


@pytest.fixture(scope="module")
def faulty() -> Fleet:
    return fleet()


@pytest.fixture(scope="module")
def sound() -> Fleet:
    return fleet(faults=Faults(per_sensor=0))


def test_one_reading_a_minute_and_sensor_in_tenths_of_a_degree(faulty: Fleet) -> None:
    readings, _ = faulty
    ids = ["unit-0001", "unit-0002", "unit-0003"]
    assert [(it.measured_at, it.sensor_id) for it in readings] == [
        (START + number * MINUTE, sensor_id) for number in range(4 * 1440) for sensor_id in ids
    ]
    texts = {repr(value) for reading in readings for value in reading.values.values()}
    assert all(len(text.partition(".")[2]) == 1 for text in texts)
    assert "-0.0" not in texts
    assert all(-40 < float(text) < 60 for text in texts)


def test_the_same_seed_gives_the_same_and_another_does_not(faulty: Fleet) -> None:
    assert fleet() == faulty
    assert fleet(seed=8)[0] != faulty[0]


def test_a_sensor_does_not_depend_on_how_many_there_are(faulty: Fleet) -> None:
    readings, labels = fleet(sensors=1)
    assert series(readings, "unit-0001") == series(faulty[0], "unit-0001")
    assert labels == [label for label in faulty[1] if label.sensor_id == "unit-0001"]
    assert series(faulty[0], "unit-0001") != series(faulty[0], "unit-0002")


def test_labels_hold_every_minute_that_a_fault_changes(faulty: Fleet, sound: Fleet) -> None:
    """Both ends inclusive: a simulation without faults differs only inside labels, and at the edges of most."""
    readings, labels = faulty
    labelled = {(label.sensor_id, moment) for label in labels for moment in minutes(label)}
    changed = {(one.sensor_id, one.measured_at) for one, other in zip(readings, sound[0], strict=True) if one != other}
    assert changed <= labelled
    for label in labels:
        share = fmean((label.sensor_id, moment) in changed for moment in minutes(label))
        assert share > 0.6, label
    for label in (it for it in labels if it.kind == "step"):
        assert {(label.sensor_id, label.started_at), (label.sensor_id, label.ended_at)} <= changed
    assert sound[1] == []


def test_every_kind_occurs_once_a_sensor_within_the_days_that_may_have_faults(faulty: Fleet) -> None:
    readings, labels = faulty
    for sensor_id in ("unit-0001", "unit-0002", "unit-0003"):
        own = [label for label in labels if label.sensor_id == sensor_id]
        assert sorted(label.kind for label in own) == ["compoff", "leak", "noise", "shortcycle", "step", "stuck"]
        assert own[0].started_at >= START + timedelta(days=2)
        assert own[-1].ended_at <= readings[-1].measured_at
        for earlier, later in pairwise(own):
            assert later.started_at - earlier.ended_at > 30 * MINUTE


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_each_kind_looks_like_its_name(strength: float, sound: Fleet) -> None:
    for kind in FAULT_KINDS:
        readings, labels = fleet(faults=Faults(per_sensor=2, kinds=(kind,), strength=strength))
        assert [label.kind for label in labels] == [kind] * 6
        for label in labels:
            values = series(readings, label.sensor_id)
            normal = series(sound[0], label.sensor_id)
            during = sorted(minutes(label))
            faulty_values = [values[moment] for moment in during]
            added = [values[moment] - normal[moment] for moment in during]
            steps = [abs(b - a) for a, b in pairwise(faulty_values)]
            usual = [abs(normal[b] - normal[a]) for a, b in pairwise(during)]
            if kind == "step":
                assert all(2.4 * strength < value < 4.6 * strength for value in added)
                assert max(added) - min(added) < 0.25
            elif kind == "leak":
                assert abs(added[0]) < 0.15
                assert added[-1] > 2.3 * strength
                assert all(b - a > -0.15 for a, b in pairwise(added))
            elif kind == "stuck":
                assert len(set(faulty_values)) == 1
                assert len(during) >= 90
            elif kind == "compoff":
                assert max(added) > 1.5
                assert added.index(max(added)) > len(added) / 2
            elif kind == "noise":
                assert fmean(steps) > 2.5 * fmean(usual)
            else:
                assert fmean(steps) > 1.15 * fmean(usual)


def test_doors_open_for_one_to_three_minutes_and_are_not_labelled(sound: Fleet) -> None:
    """A door is a jump of 1.5 degrees within a minute, and as far back one to three minutes later."""
    lengths: list[int] = []
    for sensor_id in ("unit-0001", "unit-0002", "unit-0003"):
        values = list(series(sound[0], sensor_id).values())
        up = [at for at in range(1, len(values)) if values[at] - values[at - 1] > 1.5]
        down = [at for at in range(1, len(values)) if values[at - 1] - values[at] > 1.5]
        assert len(up) == len(down) > 4
        lengths += [closed - opened for opened, closed in zip(up, down, strict=True)]
    assert set(lengths) == {1, 2, 3}


def test_it_defrosts_on_a_schedule_without_a_label() -> None:
    """With doors, noise and weather averaged away, the warmest stretch returns at the same time every day."""
    readings, labels = fleet(sensors=1, days=20.0, faults=Faults(per_sensor=0))
    values = list(series(readings, "unit-0001").values())
    by_minute = [sorted(values[at::1440])[10] for at in range(1440)]
    mean = fmean(by_minute)
    humps = longest_run_above(mean + 0.5, by_minute)
    assert 5 <= humps <= 18
    assert labels == []


@pytest.mark.parametrize(
    ("faults", "days", "says"),
    [
        (Faults(per_sensor=6), 2.0, "no room for 6 faults a sensor"),
        (Faults(per_sensor=60), 4.0, "3600 minutes"),
        (Faults(kinds=()), 4.0, "they need a kind"),
        (Faults(per_sensor=0), 0.0, "at least one sensor and one minute"),
    ],
)
def test_what_cannot_be_simulated_is_refused(faults: Faults, days: float, says: str) -> None:
    with pytest.raises(SimulationError, match=says):
        fleet(faults=faults, days=days)


def test_today_begins_at_midnight_so_that_a_stage_takes_what_is_replayed(tmp_path: Path) -> None:
    file = tmp_path / "today.csv.gz"
    arguments = [str(file), "--sensors", "1", "--days", "1", "--faults-per-sensor", "0", "--start", "today"]
    assert CliRunner().invoke(simulate, arguments).exit_code == 0
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    # the day may have changed meanwhile
    assert midnight - read_readings(file).readings[0].measured_at in (timedelta(), timedelta(days=1))


def test_a_start_without_a_zone_is_refused() -> None:
    with pytest.raises(SimulationError, match="no time zone"):
        simulate_fleet(sensors=1, days=1, seed=1, started_at=datetime(2026, 1, 5))  # noqa: DTZ001


@pytest.mark.parametrize("seed", range(8))
def test_the_demonstrations_fault_stands_out_and_nothing_else_does(seed: int) -> None:
    readings, labels = simulate_unit(history_days=2, live_hours=3, seed=seed, started_at=START)
    values = list(series(readings, "unit-1").values())
    assert len(readings) == len(values) == 2 * 1440 + 180
    live = START + timedelta(days=2)
    assert labels == [Label("unit-1", live + 40 * MINUTE, live + 64 * MINUTE, "step")]
    first, end = 2 * 1440 + 40, 2 * 1440 + 65

    highest = max(values[: 2 * 1440])
    assert min(values[first:end]) >= highest + 7.95
    assert longest_run_above(highest, values[:first]) == 0
    assert longest_run_above(highest, values[end:]) < 5
    # nobody opens the door around it and the unit does not defrost: outside the fault it is within its cycle
    assert max(values[first - 20 : first] + values[end : end + 20]) < 5.2
    # but the history has both: door openings well above the cycle, and the longer, lower humps of defrosts
    assert highest > 7.0
    assert 5 <= longest_run_above(5.2, values[: 2 * 1440]) <= 12
    assert len(values[end:]) >= 45


@pytest.mark.parametrize("kind", ["leak", "stuck", "shortcycle", "compoff", "noise"])
def test_the_demonstration_can_show_every_kind(kind: FaultKind) -> None:
    readings, labels = simulate_unit(history_days=1, live_hours=2, seed=1, started_at=START, fault=kind)
    assert [label.kind for label in labels] == [kind]
    assert readings != simulate_unit(history_days=1, live_hours=2, seed=1, started_at=START)[0]


def test_a_demonstration_too_short_for_its_fault_is_refused() -> None:
    with pytest.raises(SimulationError, match=r"a day of history and 1\.83 hours"):
        simulate_unit(history_days=1, live_hours=1.5, seed=1, started_at=START)


def test_the_command_writes_readings_and_their_labels(tmp_path: Path) -> None:
    target = tmp_path / "fleet.csv.gz"
    arguments = [str(target), "--sensors", "2", "--days", "2", "--fault-free-days", "1", "--seed", "3"]
    arguments += ["--faults-per-sensor", "2", "--fault-kinds", "step,stuck", "--start", "2026-03-01T06:00:00+00:00"]
    ran = CliRunner().invoke(simulate, arguments)
    assert ran.exit_code == 0, ran.output
    assert (
        "fleet.csv.gz: 5,760 readings of 2 simulated units, 2026-03-01T06:00:00Z to 2026-03-03T05:59:00Z" in ran.output
    )
    assert "fleet.labels.csv.gz: 4 faults" in ran.output
    start = datetime(2026, 3, 1, 6, tzinfo=UTC)
    readings, labels = simulate_fleet(
        sensors=2, days=2, seed=3, started_at=start, faults=Faults(2, ("step", "stuck")), fault_free_days=1
    )
    assert read_readings(target).readings == readings
    assert read_labels(tmp_path / "fleet.labels.csv.gz") == labels

    again = CliRunner().invoke(simulate, ["readings", str(tmp_path / "again.csv.gz"), *arguments[1:]])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again.csv.gz").read_bytes() == target.read_bytes()


def test_a_short_fleet_needs_no_more_options(tmp_path: Path) -> None:
    """Half of its days are without faults where five would be too many."""
    ran = CliRunner().invoke(simulate, [str(tmp_path / "fleet.csv"), "--sensors", "1", "--days", "1"])
    assert ran.exit_code == 0, ran.output
    labels = read_labels(tmp_path / "fleet.labels.csv")
    assert len(labels) == 6
    assert min(label.started_at for label in labels) >= START + timedelta(hours=12)


def test_the_file_of_a_seed_is_the_same_on_every_machine(tmp_path: Path) -> None:
    target = tmp_path / "small.csv.gz"
    arguments = ["--sensors", "2", "--days", "1", "--fault-free-days", "0.2", "--seed", "1", str(target)]
    ran = CliRunner().invoke(simulate, arguments)
    assert ran.exit_code == 0, ran.output
    text = gzip.decompress(target.read_bytes())
    assert hashlib.sha256(text).hexdigest() == "2d15bb5fcf2f154bc822048d81a161f314e06c28d9a8308b85dd4101687eab0f"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fleet.parquet"], "end it in .csv or .csv.gz"),
        (["fleet.csv", "--days", "0.4"], "the days without faults leave 288; raise --days, or lower"),
        (["fleet.csv", "--days", "4", "--fault-free-days", "4"], "no room for 6 faults a sensor"),
        (["fleet.csv", "--fault-kinds", "step,melt"], "'melt' is no kind of fault; there are step, leak"),
        (["fleet.csv", "--start", "2026-01-05"], "is no time with a zone"),
        (["nowhere/fleet.csv", "--sensors", "1", "--days", "1"], "cannot be written"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(simulate, arguments)
    assert ran.exit_code != 0
    assert says in " ".join(ran.output.split())
    assert "Traceback" not in ran.output
    assert list(tmp_path.iterdir()) == []


def test_without_arguments_the_command_explains_itself() -> None:
    for arguments in ([], ["--help"]):
        ran = CliRunner().invoke(simulate, arguments)
        assert "readings" in ran.output
        assert "Usage" in ran.output
