"""The dashboards: what they show is counted, every alarm is on one, and no metric is of a sensor or a job."""

import json
import re
from typing import Any

import pytest

from overcut.etl_jobs.verdicts import Judgement
from overcut.sensors.alerts import SendOutcome
from tests.conftest import ROOT, logical_name, resources_of, synthesized
from tests.infrastructure.templates import text

PIPELINES = ("sensors", "etl_jobs")
# counted under names that are put together
PUT_TOGETHER = {
    *(f"Texts{outcome.title()}" for outcome in SendOutcome),
    *(f"Runs{judgement.title()}" for judgement in Judgement),
    *(f"Tickets{name}" for name in ("Opened", "Commented", "Closed", "Sent", "Owed", "Parked")),
}
DIMENSIONS = {"service", "stage", "FunctionName", "TableName", "StateMachineArn"}


def _template(pipeline: str) -> dict[str, Any]:
    return synthesized("prod", pipeline)


def _widgets(pipeline: str) -> list[dict[str, Any]]:
    (dashboard,) = resources_of(_template(pipeline), "AWS::CloudWatch::Dashboard").values()
    widgets: list[dict[str, Any]] = json.loads(text(dashboard["DashboardBody"]))["widgets"]
    return widgets


def _metrics(pipeline: str) -> list[list[Any]]:
    rows = [row for widget in _widgets(pipeline) for row in widget["properties"].get("metrics", [])]
    return [row for row in rows if isinstance(row[0], str)]


def _counted() -> set[str]:
    code = "".join(path.read_text() for path in (ROOT / "lambdas").rglob("*.py"))
    return set(re.findall(r'count\(\s*"(\w+)"', code)) | PUT_TOGETHER


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_what_a_dashboard_shows_of_overcut_is_counted(pipeline: str) -> None:
    shown = {
        (row[1], dict(zip(row[2:-1:2], row[3:-1:2], strict=False))["service"])
        for row in _metrics(pipeline)
        if row[0] == "Overcut"
    }
    assert len(shown) >= 6
    for metric, service in shown:
        assert metric in _counted()
        assert (ROOT / "lambdas" / pipeline / service).is_dir()


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_no_metric_is_of_a_sensor_or_a_job(pipeline: str) -> None:
    dimensions = {name for row in _metrics(pipeline) for name in row[2:-1:2] if isinstance(name, str)}
    assert dimensions <= DIMENSIONS


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_alarm_is_on_it(pipeline: str) -> None:
    alarms = {logical_name(name) for name in resources_of(_template(pipeline), "AWS::CloudWatch::Alarm")}
    (shown,) = (widget for widget in _widgets(pipeline) if widget["type"] == "alarm")
    assert set(shown["properties"]["alarms"]) == alarms


def test_from_event_to_text_is_one_row() -> None:
    row = [widget for widget in _widgets("sensors") if widget["y"] == 1]
    assert [widget["properties"]["title"] for widget in sorted(row, key=lambda widget: widget["x"])] == [
        "Readings stored, events refused",
        "Readings judged, or learned from",
        "How long readings wait (ms)",
        "Incidents opened, and over",
        "Texts sent, at once and by the sweep",
    ]
    assert any(widget["properties"].get("title") == "Open incidents" for widget in _widgets("sensors"))


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_what_a_query_looks_for_is_logged(pipeline: str) -> None:
    (query,) = (widget["properties"]["query"] for widget in _widgets(pipeline) if widget["type"] == "log")
    found = re.search(r'message = "(\w+)"', query)
    assert found
    code = "".join(path.read_text() for path in (ROOT / "lambdas" / pipeline).rglob("*.py"))
    assert f'info("{found[1]}"' in code


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_what_each_alarm_means_is_written_down(pipeline: str) -> None:
    table = (ROOT / "docs" / "operate.md").read_text()
    documented = {
        name for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    alarms = {
        logical_name(name).removeprefix("Operations")
        for name in resources_of(_template(pipeline), "AWS::CloudWatch::Alarm")
    }
    assert alarms <= documented
