"""`overcut tickets`: what is open, and how much could not be sent."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta

import boto3
import pytest
from click.testing import CliRunner

from tests.etl_fakes import MONDAY, changes_of, verdict
from tests.functional.conftest import REGION
from tests.functional.etl_cloud import BUCKET, TABLE, EtlCloud, etl_cloud
from workbench.cli import main
from workbench.etl_jobs_system import EtlJobsSystem


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[EtlCloud]:
    with etl_cloud(monkeypatch) as cloud:
        outputs = {"TicketsTable": TABLE, "DataBucket": BUCKET}
        session = boto3.Session(region_name=REGION)
        monkeypatch.setattr(EtlJobsSystem, "deployed", lambda _: EtlJobsSystem(outputs, session))
        yield cloud


def said(*arguments: str) -> str:
    ran = CliRunner().invoke(main, ["tickets", "--stage", "local", *arguments], env={"COLUMNS": "120"})
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_what_is_open_is_listed_and_what_is_parked_is_counted(cloud: EtlCloud) -> None:
    assert said("list") == "No ticket is open.\n"
    for change in changes_of(verdict(0), verdict(1)):
        cloud.tickets.apply(change)
    row = next(line for line in said("list").splitlines() if "orders_daily" in line)
    job, kind, _, runs, reference = (cell.strip() for cell in row.split("│")[1:-1])
    assert (job, kind, runs, reference) == ("orders_daily", "unusual_run", "2", "not sent yet")
    assert "parked" not in said("list")

    entry = cloud.tickets.entry("orders_daily#unusual_run", "run#run-0")
    assert entry
    claimed = cloud.tickets.claim(entry, MONDAY, MONDAY + timedelta(minutes=1))
    assert claimed
    cloud.tickets.park(claimed, "refused: [too long]", "")
    assert "1 entry is parked: `overcut parked list --stage local` says why." in said("list")


def test_the_list_is_json_for_programs(cloud: EtlCloud) -> None:
    assert json.loads(said("list", "--json")) == []
    for change in changes_of(verdict(0), verdict(1)):
        cloud.tickets.apply(change)
    (told,) = json.loads(said("list", "--json"))
    assert {name: told[name] for name in ("deduplication_key", "job_name", "kind", "status", "runs", "reference")} == {
        "deduplication_key": "orders_daily#unusual_run",
        "job_name": "orders_daily",
        "kind": "unusual_run",
        "status": "open",
        "runs": 2,
        "reference": "",
    }
    assert datetime.fromisoformat(told["opened_at"]).tzinfo is not None


def test_a_stage_without_the_pipeline_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("stage") / "none.toml"
    path.write_text('region = "eu-central-1"\n[sensors]\ndefault_contact = "a"\n[sensors.contacts.a]\n')
    ran = CliRunner().invoke(main, ["tickets", "--stage", str(path), "list"])
    assert ran.exit_code == 1
    assert "sensors.sources: this key is missing" in ran.stderr
    path.write_text(path.read_text() + '[sensors.sources.s]\nurl = "https://x.example"\nmeasures = { t = "C" }\n')
    ran = CliRunner().invoke(main, ["tickets", "--stage", str(path), "list"])
    assert ran.stderr == "Error: stage none has no ETL pipeline: add [etl_jobs] to its file\n"
