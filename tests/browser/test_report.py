"""The report in a real browser: seen, walked by keyboard, in light and dark, and with five thousand sensors."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from lambdas.sensors.stores import KnownIncident, Learning, Sensor, Source
from overcut.etl_jobs.layout import Promoted
from overcut.etl_jobs.verdicts import Judgement, Verdict
from overcut.sensors.cohorts import CohortModel, SensorSeries, TrainingRules, train_cohort
from overcut.sensors.incidents import (
    EQUIPMENT_FAULT,
    Cause,
    Equipment,
    Incident,
    IncidentState,
    Text,
    TextKind,
    TextState,
)
from overcut.sensors.readings import Reading
from overcut.sensors.silence import SensorSeen, SourceSeen
from tests.browser.conftest import WIDTHS, Visit, visit
from workbench.report import JobsReport, SensorsReport, Told, Watched
from workbench.report_page import report_page

NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
FLEET = 5_000
HOSTILE = "<img src=x onerror=alert(1)>\u202e"


@pytest.fixture(scope="module")
def cohort() -> CohortModel:
    times = np.arange(3 * 24 * 60) * 60
    values = np.round(np.random.default_rng(1).normal(4, 0.4, (len(times), 1)), 1)
    series = [SensorSeries("unit-0000", times, values)]
    return train_cohort(
        series, cohort_id="cold", measures=["temperature"], rules=TrainingRules(), trained_at=NOW - DAY, seed=0
    )


def _told(number: int, cohort: CohortModel) -> Told:
    opened = NOW - timedelta(hours=6 * number + 1)
    cause = Cause("temperature", "C", 9.1, 3.0, 5.0, 4.2, 1.0, "v1")
    text = Text(TextKind.ALERT, "day", TextState.SENT, message_id="m", sent_at=opened + MINUTE)
    incident = Incident(
        Equipment(f"unit-{number:04d}", HOSTILE if number == 0 else f"Cold room {number}", "Acme", "Plant 1"),
        EQUIPMENT_FAULT,
        IncidentState.OPEN if number < 2 else IncidentState.RECOVERED,
        opened,
        opened - 4 * MINUTE,
        opened + 20 * MINUTE,
        cause,
        {text.text_key: text},
        recovered_at=None if number < 2 else opened + 55 * MINUTE,
    )
    minutes = range(-180, 80)
    readings = [
        Reading("u", opened + k * MINUTE, {"temperature": 9.0 if -4 <= k <= 20 else 4.0 + 0.1 * (k % 5)})
        for k in minutes
    ]
    scores = [4.0 if -4 <= k <= 20 else 0.1 * (k % 3) for k in minutes]
    return Told(KnownIncident(incident, "", False), readings, scores, cohort.cutoffs)


def _page(cohort: CohortModel, sensors: int) -> str:
    (cutoff,) = cohort.cutoffs
    watched = [
        Watched(
            Sensor(f"unit-{n:04d}", "device", {"temperature": "C"}, f"Cold room {n}", "Acme", f"Plant {n % 50}"),
            cutoff,
            "judged",
            NOW - MINUTE,
            0.1 * (n % 17) - 0.8,
        )
        for n in range(sensors)
    ]
    learning = Sensor("new-1", "device", {}, learning=Learning(17, ""))
    watched += [Watched(learning, None, "learning", NOW, None), Watched(learning, cutoff, "silent", None, None)]
    told = [_told(number, cohort) for number in range(12)]
    history = [
        replace(cutoff, trained_at=NOW - k * DAY, score_cutoff=cutoff.score_cutoff * (1 + 0.05 * (k % 3)))
        for k in range(14, 0, -1)
    ]
    event = {"occurred_at": "2026-03-09T02:30:00Z", "decision": "held", "reason": "3 of 5 sensors moved", "sensors": 5}
    seen = SourceSeen({"a": SensorSeen(1, 1, 1)}, int(NOW.timestamp()))
    of_sensors = SensorsReport(
        watched=watched,
        incidents=[one.known for one in told],
        told=told,
        history={"unit-0000": history, "unit-0001": history[-1:]},
        trainings={"cold": [event, {**event, "decision": "promoted", "reason": ""}]},
        sources={"device": (Source(failures_in_a_row=2, last_error="no route to host"), seen)},
        delays=[30.0, 45.0, 200.0],
        parked={"records": 0, "batches": 1, "events": 3},
    )
    verdicts = [
        Verdict(
            job_name=f"orders_{job}",
            run_id=f"run-{job}-{day}",
            judgement=Judgement.ANOMALOUS if (job, day) == (0, 3) else Judgement.HEALTHY,
            started_at=NOW - day * DAY,
            recorded_at=NOW - day * DAY + MINUTE,
            model_version="v1",
            records_processed=10 if (job, day) == (0, 3) else 1_000 + 10 * day,
            usual_records=1_000.0,
        )
        for job in range(3)
        for day in range(7, 0, -1)
    ]
    of_jobs = JobsReport(verdicts, [], [Promoted(NOW - DAY, "v1")], ["it knows far fewer jobs"])
    return report_page("prod", NOW - 7 * DAY, NOW, of_sensors, of_jobs)


@pytest.fixture(params=["light", "dark"])
def seen(browser: Browser, cohort: CohortModel, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Visit]:
    (tmp_path / "report.html").write_text(_page(cohort, 60), encoding="utf-8")
    with browser.new_context(color_scheme=request.param) as context:
        visited = visit(context)
        visited.page.goto(f"file://{tmp_path / 'report.html'}")
        yield visited


def test_it_asks_nothing_of_a_network_and_has_no_error(seen: Visit) -> None:
    assert seen.said == []
    assert all(url.startswith("file://") for url in seen.requested)
    assert len(seen.requested) == 1
    assert seen.page.locator("svg").count() >= 14
    assert seen.page.locator("img").count() == 0
    # a line of one point says less than a sentence
    once = seen.page.get_by_text("Cutoffs of unit-0001").locator("..")
    assert "One training so far" in once.inner_text()
    assert once.locator("svg").count() == 0


def test_anybody_can_use_it(seen: Visit, tmp_path: Path) -> None:
    for width, height in WIDTHS.items():
        seen.page.set_viewport_size({"width": width, "height": height})
        seen.page.locator("summary").click()
        assert seen.violations() == []
        assert not seen.is_wider_than_its_window()
        assert seen.cut_labels() == []
        is_dark = seen.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        seen.picture(f"report-{width}-{'dark' if is_dark else 'light'}", tmp_path)
        seen.page.locator("summary").click()


def test_the_keyboard_reaches_everything(seen: Visit) -> None:
    seen.page.keyboard.press("Tab")
    assert seen.focused() == "Sensors at a glance"
    links = seen.page.locator("nav a").count()
    tables = seen.page.locator(".wide").count()
    reached = 1
    while seen.focused() != "BODY" and reached < 200:
        seen.page.keyboard.press("Tab")
        reached += 1
    # a closed table of all sensors is behind its summary
    assert reached > links + tables - 1
    seen.page.locator("summary").focus()
    seen.page.keyboard.press("Enter")
    assert seen.page.locator("details table").is_visible()


def test_all_of_five_thousand_sensors_are_there(browser: Browser, cohort: CohortModel, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(_page(cohort, FLEET), encoding="utf-8")
    with browser.new_context() as context:
        visited = visit(context)
        visited.page.goto(f"file://{tmp_path / 'report.html'}")
        assert visited.page.locator("details tbody tr").count() == FLEET + 2
