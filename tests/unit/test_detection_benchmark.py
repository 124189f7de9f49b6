"""The detection benchmark: scoring against literals and published results, peers that look at no later reading."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from benchmarks.detection.__main__ import judge
from benchmarks.detection.calibration import PeerDetector, Scores, choose_cutoff
from benchmarks.detection.nab import (
    PROFILES,
    REWARD_LOW_FN,
    REWARD_LOW_FP,
    STANDARD,
    NabFile,
    OnNab,
    best_score,
    carried_over_score,
    curve,
    normalised,
    probation,
    published,
    published_thresholds,
    read_corpus,
    read_results,
    run,
    scaled_sigmoid,
    weights,
)
from benchmarks.detection.peers import Peer, RollingZScore, peers
from benchmarks.detection.recordings import Floats, Incident, Recording, Series, recorded, simulated
from benchmarks.detection.report import SectionError, fleet_tables, recorded_table, replace_section
from benchmarks.detection.scoring import find_incidents, score
from overcut.sensors.incidents import JudgedReading, RunRule, find_episodes, find_runs
from overcut.sensors.readings import Reading
from workbench.readings_files import Label

BEGINS = datetime(2026, 1, 5, tzinfo=UTC)
NAB = os.environ.get("OVERCUT_NAB", "")


def at(minute: int) -> datetime:
    return BEGINS + timedelta(minutes=minute)


def one_sensor(minutes: int, labels: list[Label], step: timedelta = timedelta(minutes=1)) -> Recording:
    readings = [Reading("s", BEGINS + k * step, {"temperature": float(k % 7)}) for k in range(minutes)]
    return Recording("made by hand", readings, labels)


def opened(*minutes: int) -> list[Incident]:
    return [Incident("s", at(minute), at(minute + 30)) for minute in minutes]


def series(values: Floats, learning: int, step: int = 60) -> Series:
    times = int(BEGINS.timestamp()) + step * np.arange(len(values))
    return Series("s", times, values.reshape(len(values), -1), learning)


# what is found and what is false


def test_faults_are_found_from_their_start_until_five_minutes_after_their_end() -> None:
    labels = [
        Label("s", at(8000), at(8030), "step"),
        Label("s", at(9000), at(9060), "step"),
        Label("s", at(10000), at(10010), "leak"),
    ]
    scores = score([(one_sensor(14 * 1440, labels), opened(8004, 9065, 10016))])
    assert (scores.faults, scores.found, scores.false_incidents) == (3, 2, 0)
    assert scores.recall_by_kind == {"leak": 0.0, "step": 1.0}
    assert scores.delays_by_kind == {"step": [4.0, 65.0]}
    assert scores.recall_within_10_minutes_by_kind == {"leak": 0.0, "step": 0.5}
    assert scores.median_delay_minutes == 34.5


def test_an_incident_is_false_when_it_opens_in_no_fault_nor_in_the_hour_after_one() -> None:
    labels = [Label("s", at(8000), at(8030), "step"), Label("other", at(9000), at(9030), "step")]
    scores = score([(one_sensor(14 * 1440, labels), opened(7999, 8090, 8091, 9010))])
    assert (scores.found, scores.false_incidents) == (0, 3)


def test_the_first_five_days_never_count() -> None:
    labels = [Label("s", at(7199), at(7300), "step"), Label("s", at(7400), at(7430), "leak")]
    scores = score([(one_sensor(14 * 1440, labels), opened(100, 7199, 7410))])
    assert scores.faults_by_kind == {"leak": 1}
    assert (scores.found, scores.false_incidents) == (1, 0)
    # the rest of the fault that had begun before is no clean time either
    assert scores.sensor_weeks == (14 * 1440 - 7200 - 101 - 31) / 10080


def test_where_readings_come_once_an_hour_a_reading_counts_as_a_minute() -> None:
    labels = [Label("s", at(60 * 300), at(60 * 310), "step")]
    recording = one_sensor(1120, labels, timedelta(hours=1))
    scores = score([(recording, opened(60 * 315))])
    assert (scores.found, scores.delays_by_kind) == (1, {"step": [15.0]})
    assert scores.sensor_weeks == (1000 - 11) / 10080


def test_minutes_in_alert_leave_out_faults_and_the_hour_after() -> None:
    labels = [Label("s", at(8000), at(8039), "step")]
    alerts = [Incident("s", at(8005), at(8110)), Incident("s", at(20000), None)]
    scores = score([(one_sensor(14 * 1440, labels), alerts)])
    assert scores.minutes_in_alert_share == (10 + 160) / (14 * 1440 - 7200 - 100)


def test_always_opening_finds_as_much_by_chance() -> None:
    labels = [Label("s", at(8000), at(8060), "step")]
    recording = one_sensor(14 * 1440, labels)
    everywhere = score([(recording, opened(*range(7200, 14 * 1440, 20)))])
    aimed = score([(recording, opened(8004))])
    assert (everywhere.found, everywhere.found_by_chance) == (1, 1.0)
    assert (aimed.found, aimed.found_by_chance) == (1, 0.0)


def test_several_recordings_are_scored_together_and_shares_of_nothing_are_none() -> None:
    labels = [Label("s", at(8000), at(8030), "step")]
    scores = score([(one_sensor(14 * 1440, labels), opened(8004)), (one_sensor(14 * 1440, []), opened(9000))])
    assert (scores.sensors, scores.faults, scores.found, scores.false_incidents) == (2, 1, 1, 1)
    nothing = score([(one_sensor(100, []), [])])
    assert (nothing.recall, nothing.false_incidents_per_sensor_week, nothing.minutes_in_alert_share) == (None,) * 3


# the run rule


def test_five_anomalous_readings_open_and_half_an_hour_without_closes() -> None:
    is_anomaly = np.zeros(200, dtype=bool)
    is_anomaly[10:14] = True  # four are none
    is_anomaly[20:26] = True
    is_anomaly[50:56] = True  # it is not over yet
    is_anomaly[120:125] = True
    found = find_incidents(series(np.zeros(200), 0), is_anomaly)
    assert found == [Incident("s", at(24), at(85)), Incident("s", at(124), at(154))]


@pytest.mark.parametrize("seed", range(20))
def test_the_rule_is_that_of_production(seed: int) -> None:
    rng = np.random.default_rng(seed)
    minutes = np.flatnonzero(rng.random(1500) < 0.85)
    # anomalies in clumps, so that there are runs
    is_anomaly = np.repeat(rng.random(200) < 0.3, rng.integers(1, 20, 200))[: len(minutes)]
    minutes = minutes[: len(is_anomaly)]
    rule, interval = RunRule(), timedelta(minutes=1)
    judged = [JudgedReading(at(int(k)), bool(it)) for k, it in zip(minutes, is_anomaly, strict=True)]
    expected = find_episodes(find_runs(judged, interval, rule), judged, rule)
    times = int(BEGINS.timestamp()) + 60 * minutes
    found = find_incidents(Series("s", times, np.zeros((len(times), 1)), 100), is_anomaly)
    assert len(found) > 3
    assert found == [Incident("s", it.opened_at, it.recovered_at) for it in expected]


# peers


def room(later: float = 0.0) -> Series:
    """Four days of a cold room, a reading every five minutes, two days to learn.

    Twenty minutes into its last day it gets `later` warmer: a peer that learned at midnight knows nothing of it.
    """
    rng = np.random.default_rng(1)
    minute = np.arange(4 * 288)
    values = np.sin(minute / 2.0) + np.cos(2 * np.pi * minute / 288) + 0.1 * rng.standard_normal(len(minute))
    values[868:] += later
    return series(values, 2 * 288, step=300)


@pytest.mark.parametrize("peer", peers(), ids=lambda peer: str(peer.name))
def test_a_peer_looks_at_no_later_reading_and_sees_a_fault(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    if peer.name == "matrix profile":
        # compiling takes longer than these few readings do without
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
        pytest.importorskip("stumpy", reason="stumpy is installed by `make benchmark`")
    calm, faulty = peer.score(room()), peer.score(room(later=8.0))
    assert np.isnan(calm[:576]).all()
    assert np.isfinite(calm[576:]).all()
    np.testing.assert_allclose(faulty[:868], calm[:868], rtol=1e-6, atol=1e-5)
    assert faulty[868:898].max() > 1.5 * faulty[576:868].max()
    np.testing.assert_array_equal(peer.score(room()), calm)


def test_a_sensor_with_several_measures_is_as_unusual_as_its_most_unusual_one() -> None:
    one = room(later=8.0)
    both = Series("s", one.measured_at, np.hstack([room().values, one.values]), one.learning)
    np.testing.assert_array_equal(
        RollingZScore().score(both), np.maximum(RollingZScore().score(room()), RollingZScore().score(one))
    )


def test_missing_values_are_the_last_known_ones() -> None:
    cells: list[dict[str, float]] = [{"b": 1.0}, {"a": 2.0}, {"a": 3.0, "b": 4.0}, {"b": 5.0}]
    recording = Recording("gaps", [Reading("s", at(k), values) for k, values in enumerate(cells)], [])
    assert recording.series["s"].values.tolist() == [[2.0, 1.0], [2.0, 1.0], [3.0, 4.0], [3.0, 5.0]]


def test_a_cutoff_is_the_lowest_within_the_budget_and_a_peer_with_one_is_a_detector() -> None:
    fleet = simulated(101, sensors=2, days=8.0)
    peer, scores = RollingZScore(), Scores()
    cutoff = choose_cutoff(peer, [fleet], scores=scores, budget=1.0)
    with Progress(disable=True) as progress:
        within, below = (
            score(judge(PeerDetector("z", peer, it, scores), [fleet], progress)).false_incidents_per_sensor_week or 0.0
            for it in (cutoff, cutoff / 1.06)
        )
    assert within <= 1.0 < below


# the Numenta benchmark


def nab_file(name: str = "a", windows: tuple[tuple[int, int], ...] = ((10, 13),)) -> NabFile:
    times = np.datetime64("2014-01-01", "s") + np.arange(20) * np.timedelta64(300, "s")
    return NabFile(name, times, np.zeros(20), windows)


def given(**rows: float) -> Floats:
    """Scores of 20 rows: r5=0.8 is row 5."""
    scores = np.zeros(20)
    for row, its in rows.items():
        scores[int(row[1:])] = its
    return scores


def test_probation_is_15_percent_of_at_most_5000_rows() -> None:
    assert [probation(rows) for rows in (20, 4032, 5000, 22695)] == [3, 604, 750, 750]


def test_the_sigmoid_has_the_values_of_the_paper() -> None:
    # tanh(2.5), tanh(1.25), 0 and their mirror images
    found = [scaled_sigmoid(position) for position in (-1.0, -0.5, 0.0, 0.5, 1.0, 3.01)]
    assert found == pytest.approx([0.986614298151, 0.848283639958, 0.0, -0.848283639958, -0.986614298151, -1.0])


def test_what_a_detection_is_worth_falls_in_its_window_and_goes_on_falling_after_it() -> None:
    worth, window_of = weights(nab_file(), STANDARD)
    assert window_of.tolist() == [-1] * 10 + [0] * 4 + [-1] * 6
    # tanh(1.25) / tanh(2.5) half-way, tanh(0.625) / tanh(2.5) at the last row of four
    assert worth[[10, 12, 13]] == pytest.approx([1.0, 0.859792567, 0.562124149])
    # one row behind, of a width of three: tanh(5 / 6)
    assert worth[[9, 14]] == pytest.approx([-0.11, -0.11 * 0.682261790])


def test_the_score_of_a_file_is_its_earliest_detections_less_what_is_wrong() -> None:
    files, scores = [nab_file()], [given(r2=1.0, r5=0.8, r12=0.9, r13=0.95)]
    totals = curve(files, scores, STANDARD)
    assert totals.thresholds.tolist() == [np.inf, 0.95, 0.9, 0.8, 0.0]
    # row 2 is in probation; row 13 is later than row 12; row 5 is wrong; at 0 everything is detected
    assert totals.totals[:4] == pytest.approx([-1.0, 0.562124149, 0.859792567, 0.749792567])
    assert totals.best == pytest.approx((0.9, 0.859792567))
    assert [totals.at(it) for it in (2.0, 0.85, 0.8)] == pytest.approx([-1.0, 0.859792567, 0.749792567])
    # the null detector has -1, or -2 where misses cost double, the perfect one 1
    assert best_score(files, scores, STANDARD) == pytest.approx(92.98962836)
    assert best_score(files, scores, REWARD_LOW_FP) == pytest.approx(92.98962836)
    assert best_score(files, scores, REWARD_LOW_FN) == pytest.approx(95.32641891)


def test_a_threshold_is_carried_over_from_the_other_half() -> None:
    files = [nab_file("a"), nab_file("b")]
    scores = [given(r5=0.8, r12=0.9), given(r4=0.7, r10=0.5)]
    # a with b's 0.5: 0.859792567 - 0.11; b with a's 0.9: nothing, -1
    assert carried_over_score(files, scores, STANDARD) == pytest.approx(100 * (0.749792567 - 1 + 2) / 4)
    # both with one threshold: a's mistake and b's cost less than b's window
    assert best_score(files, scores, STANDARD) == pytest.approx(100 * (0.749792567 + 0.89 + 2) / 4)
    # the order of files does not matter, their names do
    assert carried_over_score(files[::-1], scores[::-1], STANDARD) == carried_over_score(files, scores, STANDARD)


def test_scores_on_numenta_are_in_their_range() -> None:
    file = NabFile("a", nab_file().timestamps, np.arange(20.0), ())
    within = run(OnNab(RollingZScore().score), file)
    assert within.shape == (20,)
    with pytest.raises(ValueError, match=r"one score in \[0, 1\] for each of 20 rows"):
        run(lambda timestamps, values, probation: values, file)


@pytest.mark.skipif(not NAB, reason="OVERCUT_NAB does not name a checkout of numenta/NAB")
def test_the_published_scores_come_out() -> None:
    checkout = Path(NAB)
    corpus = read_corpus(checkout)
    assert (len(corpus), sum(len(file.windows) for file in corpus)) == (58, 116)
    standard = {"randomCutForest": 51.7, "numenta": 70.1, "numentaTM": 64.6, "ARTime": 74.9, "null": 0.0}
    for detector, figures in published(checkout).items():
        scores = read_results(checkout, detector, corpus)
        if detector in standard:
            assert round(best_score(corpus, scores, STANDARD), 1) == standard[detector]
        thresholds = published_thresholds(checkout, detector)
        for profile in PROFILES:
            total = curve(corpus, scores, profile).at(thresholds[profile.name])
            assert normalised(total, corpus, profile) == pytest.approx(figures[profile.name])


# tables


def test_tables_stand_between_their_marks(tmp_path: Path) -> None:
    document = tmp_path / "detection.md"
    document.write_text("# A\n<!-- begin: x -->\nold\n<!-- end: x -->\nrest\n")
    replace_section(document, "x", "new \\1")
    assert document.read_text() == "# A\n<!-- begin: x -->\nnew \\1\n<!-- end: x -->\nrest\n"
    with pytest.raises(SectionError, match="once; it has 0"):
        replace_section(document, "y", "new")


def test_tables_tell_counts_and_shares() -> None:
    labels = [Label("s", at(8000), at(8030), "step"), Label("s", at(9000), at(9030), "leak")]
    scores = score([(one_sensor(14 * 1440, labels), opened(8004, 12000))])
    fleet = fleet_tables("Of two fleets", {"z": scores}, {"z": 2.5})
    assert fleet.startswith("Of two fleets: 1 sensors, 1.3 sensor-weeks, 2 faults.\n")
    assert "| z | 2.50 | 0.50 | 0.78 | 1.00 | 4 | 4 | 0.23 % | 0.00 |" in fleet
    assert "| z | 1.00 | 0.00 | - | - | - | - |" in fleet
    assert recorded_table({"z": {"file": scores}}) == (
        "| detector | file (1.3) |\n| --- | --- |\n| z | 1 of 2 after 4, 1 false (0.78 a week) |"
    )


def test_recorded_files_that_are_absent_are_left_out(tmp_path: Path) -> None:
    assert list(recorded(tmp_path)) == []
