"""Every view and every named question, on the embedded Athena, over what the real functions wrote."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import fmean, pstdev
from typing import Any

import pytest
from click.testing import CliRunner

from lambdas.etl_jobs.predict_anomalies.verdict_files import VerdictFile
from lambdas.runtime.catalog import Catalog
from lambdas.runtime.objects import Bucket
from lambdas.sensors.export_tables.exporting import TablesExporter
from lambdas.sensors.export_training_set.exporting import Exporter
from lambdas.sensors.stores import (
    CutoffsStore,
    DataBucket,
    IncidentsStore,
    ModelEventsStore,
    PendingExportsStore,
    ReadingsStore,
    Sensor,
    SensorsStore,
)
from overcut.etl_jobs.layout import prediction_table_key
from overcut.etl_jobs.tables import TABLES as ETL_TABLES
from overcut.etl_jobs.verdicts import Judgement, Verdict
from overcut.sensors.readings import Reading
from overcut.sensors.tables import TABLES as SENSORS_TABLES
from stacks.etl_jobs.catalog import VIEWS as ETL_VIEWS
from stacks.sensors.catalog import VIEWS as SENSORS_VIEWS
from tests.conftest import resources_of, synthesized
from tests.emulator.conftest import Cloud
from tests.functional.catalog import create_catalog, resolved
from tests.functional.conftest import create_tables
from tests.functional.etl_job_rows import write_historical
from tests.functional.test_stores import cutoff, incident, opening
from tests.unit.generated_job_runs import job_run
from workbench.questions import QuestionError, Questions
from workbench.sensors_system import SensorsSystem

pytestmark = pytest.mark.emulator

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
NOON_YESTERDAY = MIDNIGHT - DAY / 2
# twenty nights, in the last of which the cutoff moved far
CUTOFFS = [1.0 + 0.01 * (k % 3) for k in range(19)] + [2.5]
FAULT = replace(
    incident(),
    opened_at=NOON_YESTERDAY,
    first_anomalous_at=NOON_YESTERDAY - 4 * MINUTE,
    last_anomalous_at=NOON_YESTERDAY,
)
# as Athena writes them
TYPES = {"string": "varchar", "int": "integer"}


def deploy(cloud: Cloud, pipeline: str, bucket: str) -> Questions:
    """Of a pipeline's template what is asked, and whom; its tables are in one bucket."""
    template, athena = synthesized("local", pipeline), cloud.client("athena")
    cloud.client("s3").create_bucket(Bucket=bucket)
    database = create_catalog(cloud.client("glue"), template, bucket)
    (group,) = resources_of(template, "AWS::Athena::WorkGroup").values()
    configured = resolved(group["WorkGroupConfiguration"], {"StorageData": bucket})
    athena.create_work_group(Name=group["Name"], Configuration=configured)
    for query in resources_of(template, "AWS::Athena::NamedQuery").values():
        athena.create_named_query(**query)
    return Questions(athena, group["Name"], database)


@pytest.fixture(scope="module")
def sensors(cloud: Cloud) -> Questions:
    """Two sensors of which one was silent for half of yesterday; exported as in the night before today."""
    questions = deploy(cloud, "sensors", "overcut-asked")
    dynamodb = cloud.client("dynamodb")
    tables, bucket = create_tables(dynamodb, synthesized("local")), DataBucket(cloud.client("s3"), "overcut-asked")
    known, readings = SensorsStore(dynamodb, tables["Sensors"]), ReadingsStore(dynamodb, tables["Readings"])
    known.put([Sensor(name, "device", {"temperature": "C"}, f"Room {name}", site="Aarhus") for name in "ab"], 1)
    first = MIDNIGHT - 2 * DAY
    measured = [
        Reading(name, first + k * MINUTE, {"temperature": 4.0 + k % 60})
        for name in "ab"
        for k in range(0, 2 * 24 * 60, 10)
        if name == "a" or k < 36 * 60
    ]
    pending = PendingExportsStore(dynamodb, tables["PendingExports"])
    pending.mark(((0, first + k * 60 * MINUTE) for k in range(48)), "mark")
    with ThreadPoolExecutor(2) as threads:
        readings.put(measured, lambda _: 2_000_000_000, threads)
    Exporter(readings, known, pending, bucket).export(0, MIDNIGHT + 5 * MINUTE)
    cutoffs = CutoffsStore(dynamodb, tables["Cutoffs"])
    cutoffs.put(
        replace(cutoff(1, "a"), trained_at=MIDNIGHT - (19 - k) * DAY, effective_from=MIDNIGHT, score_cutoff=one)
        for k, one in enumerate(CUTOFFS)
    )
    incidents = IncidentsStore(dynamodb, tables["Incidents"])
    incidents.open(FAULT, opening(FAULT))
    incidents.label(FAULT, "false_alarm")
    events = ModelEventsStore(dynamodb, tables["ModelEvents"])
    events.put("cohort", NOON_YESTERDAY, {"decision": "held", "reason": "they moved", "sensors": 2})
    catalog = Catalog(cloud.client("glue"), questions.database, bucket)
    exporter = TablesExporter(known, cutoffs, events, incidents, catalog)
    exporter.export_cutoffs(0, MIDNIGHT + 5 * MINUTE, 30 * DAY)
    exporter.export_now()
    return questions


@pytest.fixture(scope="module")
def etl_jobs(cloud: Cloud) -> Questions:
    """Ten days of one job, of which yesterday's run loaded nothing, judged by two models."""
    questions = deploy(cloud, "etl_jobs", "overcut-asked-etl")
    bucket = Bucket(cloud.client("s3"), "overcut-asked-etl")
    write_historical(bucket, [job_run("orders", k, at=MIDNIGHT - (10 - k) * DAY) for k in range(10)])
    judged = Verdict(
        job_name="orders",
        run_id="orders-9",
        judgement=Judgement.ANOMALOUS,
        started_at=NOON_YESTERDAY,
        recorded_at=NOON_YESTERDAY + MINUTE,
        model_version="v1",
        records_processed=0,
        usual_records=1000.5,
        deviations=-9.0,
        feature="records",
    )
    for version in ("v1", "v2"):
        file = VerdictFile()
        file.add(replace(judged, model_version=version))
        file.add(replace(judged, model_version=version, run_id="", job_name="other", judgement=Judgement.MISSED))
        bucket.put(prediction_table_key(NOON_YESTERDAY.date(), version, 0), file.to_parquet())
    catalog = Catalog(cloud.client("glue"), questions.database, bucket)
    assert [catalog.register_days(table) for table in ETL_TABLES] == [10, 1]
    assert [catalog.register_days(table) for table in ETL_TABLES] == [0, 0], "registered once"
    return questions


def rows(questions: Questions, sql: str) -> list[dict[str, str | None]]:
    answer = questions.ask(sql)
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


@pytest.mark.parametrize("pipeline", ["sensors", "etl_jobs"])
def test_tables_and_views_have_the_columns_that_the_catalogue_says(
    pipeline: str, request: pytest.FixtureRequest, cloud: Cloud
) -> None:
    questions: Questions = request.getfixturevalue(pipeline)
    tables, views = (SENSORS_TABLES, SENSORS_VIEWS) if pipeline == "sensors" else (ETL_TABLES, ETL_VIEWS)
    expected: dict[str, dict[str, str]] = {one.name: dict(one.columns) for one in views}
    for table in tables:
        expected[table.name] = dict(table.columns) | ({"dt": "date"} if table.by_day else {})
    for name, columns in expected.items():
        assert rows(questions, f"SELECT * FROM {name}"), name  # noqa: S608 - ours
        results = cloud.client("athena").get_query_results(QueryExecutionId=last_execution(cloud, questions))
        found = {one["Name"]: one["Type"] for one in results["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]}
        assert found == {column: TYPES.get(kind, kind) for column, kind in columns.items()}, name


def last_execution(cloud: Cloud, questions: Questions) -> str:
    ids: list[str] = cloud.client("athena").list_query_executions(WorkGroup=questions.work_group)["QueryExecutionIds"]
    return ids[-1]


@pytest.mark.parametrize("pipeline", ["sensors", "etl_jobs"])
def test_every_named_question_has_an_answer(pipeline: str, request: pytest.FixtureRequest) -> None:
    questions: Questions = request.getfixturevalue(pipeline)
    named = questions.named()
    assert len(named) >= 3
    for one in named:
        assert one.about.endswith("?")
        assert rows(questions, one.sql), one.name


def test_a_cutoff_s_drift_is_told_from_the_fourteen_before_it(sensors: Questions) -> None:
    found = rows(sensors, "SELECT * FROM cutoff_drift ORDER BY trained_at")
    assert [float(row["score_cutoff"] or "") for row in found] == pytest.approx(CUTOFFS)
    assert [row["is_outside"] for row in found] == ["false"] * 19 + ["true"]
    before = CUTOFFS[5:19]
    last = {name: float(found[-1][name] or "") for name in ("earlier", "earlier_mean", "lower_bound", "upper_bound")}
    assert last == pytest.approx(
        {
            "earlier": 14,
            "earlier_mean": fmean(before),
            "lower_bound": fmean(before) - 3 * pstdev(before),
            "upper_bound": fmean(before) + 3 * pstdev(before),
        }
    )


def test_every_exported_reading_is_found_once(sensors: Questions) -> None:
    found = rows(
        sensors, "SELECT sensor_id, dt, sum(readings) AS readings FROM hourly_readings GROUP BY 1, 2 ORDER BY 1, 2"
    )
    days = [f"{MIDNIGHT - 2 * DAY:%Y-%m-%d}", f"{MIDNIGHT - DAY:%Y-%m-%d}"]
    assert [tuple(row.values()) for row in found] == [
        ("a", days[0], "144"),
        ("a", days[1], "144"),
        ("b", days[0], "144"),
        ("b", days[1], "72"),
    ]


def test_an_incident_is_one_row_with_what_people_said_of_it(sensors: Questions) -> None:
    (found,) = rows(sensors, "SELECT * FROM incidents")
    told = {
        name: found[name] for name in ("reference", "sensor_id", "kind", "state", "label", "texts_sent", "opened_at")
    }
    assert told == {
        "reference": FAULT.reference,
        "sensor_id": FAULT.equipment.sensor_id,
        "kind": "equipment",
        "state": "open",
        "label": "false_alarm",
        "texts_sent": "0",
        "opened_at": f"{NOON_YESTERDAY:%Y-%m-%d %H:%M:%S}",
    }


def test_a_day_that_is_not_registered_is_not_seen(sensors: Questions, cloud: Cloud) -> None:
    day = f"{MIDNIGHT - 2 * DAY:%Y-%m-%d}"
    glue = cloud.client("glue")
    glue.delete_partition(DatabaseName=sensors.database, TableName="readings", PartitionValues=[day])
    counted = "SELECT count(*) AS readings, min(dt) AS first FROM readings"
    assert rows(sensors, counted) == [{"readings": "216", "first": f"{MIDNIGHT - DAY:%Y-%m-%d}"}]
    catalog = Catalog(glue, sensors.database, Bucket(cloud.client("s3"), "overcut-asked"))
    assert catalog.register_days(SENSORS_TABLES[0]) == 1
    assert rows(sensors, counted) == [{"readings": "504", "first": day}]


def test_a_run_is_judged_once_by_its_newest_model(etl_jobs: Questions) -> None:
    found = rows(etl_jobs, "SELECT job_name, model_version, usual_records FROM verdicts ORDER BY job_name")
    assert [tuple(row.values()) for row in found] == [("orders", "v2", "1000.5"), ("other", "v2", "1000.5")]
    health = rows(etl_jobs, "SELECT job_name, runs, anomalous, missed FROM job_health ORDER BY job_name")
    assert [tuple(row.values()) for row in health] == [("orders", "1", "1", "0"), ("other", "1", "0", "1")]


def test_what_athena_refuses_is_told_in_its_words(sensors: Questions) -> None:
    with pytest.raises(QuestionError, match=r"^the query failed: .*no_such_table"):
        sensors.ask("SELECT * FROM no_such_table")


def test_overcut_query(sensors: Questions, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.cli import main

    class Deployed:
        questions = sensors

    monkeypatch.setattr(SensorsSystem, "deployed", lambda _: Deployed())

    def typed(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["query", "--stage", "local", *arguments], env={"COLUMNS": "200"})

    assert "noisiest_sensors" in typed().output
    assert json.loads(typed("--named", "trainings_of_the_last_week", "--json").output)["decision"] == "held"
    assert typed("SELECT sensor_id, site FROM sensors ORDER BY 1", "--csv").output == (
        "sensor_id,site\na,Aarhus\nb,Aarhus\n"
    )
    assert "Aarhus" in typed("SELECT site FROM sensors").output
    assert typed("SELECT site FROM sensors WHERE site = 'Rome'").output.splitlines()[-1] == "No row."
    wrong = typed("--named", "nothing")
    assert (wrong.exit_code, wrong.output.count("\n")) == (1, 1)
    assert "no question is named nothing: there are cutoffs_outside_their_band" in wrong.output
    assert typed("SELECT 1", "--named", "x").exit_code == 2
