"""predict_anomalies: every run of two days is judged once, by the model in force when it was recorded."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from arro3.io import read_parquet
from moto import mock_aws

from lambdas.etl_jobs.predict_anomalies import handler as predicting
from lambdas.runtime.objects import Bucket
from overcut.etl_jobs.job_runs import JobRun, Status
from overcut.etl_jobs.layout import Promoted, bucket_of
from overcut.etl_jobs.model import KnownJobs, Model, ModelRefusedError, arrays_of, dump_model
from overcut.etl_jobs.training import train
from overcut.etl_jobs.verdicts import Judgement, Verdict
from tests.functional.conftest import REGION, clients
from tests.functional.etl_job_rows import Extracted, recorded, to_parquet, write_recent
from tests.unit.generated_job_runs import START, fleet, history, job_run

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BUCKETS = 2
# the generated jobs start at 02:00
TRAINED_AT = START + timedelta(days=110) - 2 * HOUR
UNTIL = TRAINED_AT + DAY + 12 * HOUR
DAILY = {"time_zone": "Europe/Berlin", "schedule": "0 2 * * *"}


def declared(runs: Sequence[JobRun], **given: str) -> list[JobRun]:
    return [replace(run, **{"time_zone": "UTC", "schedule": "0 2 * * *", **given}) for run in runs]  # type: ignore[arg-type]


FLEET = declared(fleet(4))
ORDERS = declared(history())


@pytest.fixture(scope="module")
def model() -> Model:
    return train([*FLEET, *ORDERS], trained_until=TRAINED_AT, seed=1)


class Pipeline:
    def __init__(self, data: Bucket) -> None:
        self.data = data

    def promote(self, model: Model, effective_from: datetime = TRAINED_AT - DAY) -> None:
        self.data.put(Promoted(effective_from, model.model_version).key, dump_model(model))

    def extract(self, rows: Sequence[Extracted]) -> None:
        write_recent(self.data, rows, BUCKETS)

    def predict(self, *rows: Extracted, until: datetime = UNTIL) -> dict[str, int | bool]:
        """Extract the rows, then predict every bucket; the answers are added."""
        self.extract(rows)
        answers = [predicting.handler({"until": until.isoformat(), "bucket": k}, None) for k in range(BUCKETS)]
        return {name: sum(answer.get(name, 0) for answer in answers) for name in {**answers[0], **answers[1]}}

    def predicted(self) -> list[str]:
        return [*self.data.keys("predictions/"), *self.data.keys("tables/predictions/")]

    def verdicts(self, job_name: str = "") -> list[Verdict]:
        lines = [line for key in self.predicted() if key.endswith(".jsonl") for line in self.data.get(key).splitlines()]
        found = [Verdict.from_json(line) for line in lines]
        return sorted(
            (one for one in found if one.job_name == job_name or not job_name),
            key=lambda one: (one.job_name, one.started_at, one.run_id),
        )

    def judgements(self, job_name: str = "") -> list[str]:
        return [str(verdict.judgement) for verdict in self.verdicts(job_name)]


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    for name, value in {
        "STAGE": "local",
        "DATA_BUCKET": "overcut-data",
        "BUCKETS": "2",
        "MISSED_AFTER_MINUTES": "60",
    }.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        s3 = clients()[1]
        s3.create_bucket(Bucket="overcut-data")
        predicting.dependencies.cache_clear()
        yield Pipeline(Bucket(s3, "overcut-data"))
        predicting.dependencies.cache_clear()


def week(runs: Sequence[JobRun], until: datetime = UNTIL) -> list[Extracted]:
    """What the extraction of recent runs gives of finished ones."""
    return [recorded(run) for run in runs if until - 7 * DAY <= run.started_at < until]


def two_days(runs: Sequence[JobRun]) -> list[JobRun]:
    return [run for run in runs if TRAINED_AT <= run.started_at < UNTIL]


def test_runs_of_two_days_are_judged_and_written_as_lines_and_as_a_table(pipeline: Pipeline, model: Model) -> None:
    pipeline.promote(model)
    empty = [replace(run, records_processed=0) if run is two_days(ORDERS)[1] else run for run in ORDERS]
    answer = pipeline.predict(*week(FLEET), *week(empty))
    assert answer == {"runs": 10, "anomalous": 1, "failed": 0, "missed": 0, "learning": 0}

    first, second = TRAINED_AT.date(), UNTIL.date()
    each = [(day, bucket) for day in (first, second) for bucket in range(BUCKETS)]
    of_lines, of_rows = (
        [f"predictions/dt={day}/model_version={model.model_version}/bucket={bucket}.jsonl" for day, bucket in each],
        [f"tables/predictions/dt={day}/{model.model_version}-bucket={bucket}.parquet" for day, bucket in each],
    )
    assert pipeline.predicted() == [*of_lines, *of_rows]
    for (day, bucket), key, table_key in zip(each, of_lines, of_rows, strict=True):
        lines = [json.loads(line) for line in pipeline.data.get(key).splitlines()]
        assert {bucket_of(line["job_name"], BUCKETS) for line in lines} == {bucket}
        assert {datetime.fromisoformat(line["recorded_at"]).date() for line in lines} == {day}
        if lines:
            table = read_parquet(io.BytesIO(pipeline.data.get(table_key))).read_all()
            columns = {name: table[name].to_pylist() for name in table.column_names}
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            for row in rows:
                for name in ("started_at", "recorded_at"):
                    row[name] = row[name].isoformat().replace("+00:00", "Z")
            assert rows == lines

    healthy, anomalous = pipeline.verdicts("orders")
    run = two_days(ORDERS)[0]
    assert healthy == Verdict(
        job_name="orders",
        run_id=run.run_id,
        judgement=Judgement.HEALTHY,
        started_at=run.started_at,
        recorded_at=recorded(run).recorded_at,
        model_version=model.model_version,
        records_processed=run.records_processed,
        usual_records=healthy.usual_records,
        run_time_seconds=run.run_time_seconds,
        usual_seconds=healthy.usual_seconds,
        anomaly_score=healthy.anomaly_score,
        score_cutoff=model.score_cutoff,
        feature=healthy.feature,
        deviations=healthy.deviations,
        time_zone="UTC",
        schedule="0 2 * * *",
    )
    assert healthy.usual_records == pytest.approx(run.records_processed, rel=0.4)
    assert healthy.usual_seconds == pytest.approx(run.run_time_seconds, rel=0.4)
    assert (anomalous.judgement, anomalous.feature, anomalous.records_processed) == (Judgement.ANOMALOUS, "records", 0)
    assert anomalous.anomaly_score is not None
    assert anomalous.anomaly_score > model.score_cutoff > healthy.anomaly_score  # type: ignore[operator]


def test_a_failed_run_is_its_own_kind_and_one_that_goes_on_is_nothing_yet(pipeline: Pipeline, model: Model) -> None:
    pipeline.promote(model)
    first, second = two_days(ORDERS)
    failed = replace(first, status=Status.FAILED, records_processed=0, run_time_seconds=7.5)
    running = replace(second, status=Status.RUNNING, records_processed=0, run_time_seconds=0.0)
    others = [run for run in ORDERS if run not in (first, second)]
    answer = pipeline.predict(*week(FLEET), *week([*others, failed, running]))
    assert answer == {"runs": 9, "anomalous": 0, "failed": 1, "missed": 0, "learning": 0}
    assert pipeline.verdicts("orders") == [
        Verdict(
            job_name="orders",
            run_id=first.run_id,
            judgement=Judgement.FAILED,
            started_at=first.started_at,
            recorded_at=first.started_at + timedelta(seconds=67.5),
            model_version=model.model_version,
            run_time_seconds=7.5,
            time_zone="UTC",
            schedule="0 2 * * *",
        )
    ]


def test_a_run_that_never_came_is_told_once_it_is_clear_and_a_late_one_unmakes_nothing(
    pipeline: Pipeline, model: Model
) -> None:
    pipeline.promote(model)
    expected = two_days(ORDERS)[1].started_at
    others = week([run for run in ORDERS if run.started_at != expected])
    assert pipeline.predict(*others, *week(FLEET), until=expected + HOUR)["missed"] == 0
    late = expected + HOUR + timedelta(microseconds=1)
    assert pipeline.predict(*others, *week(FLEET), until=late)["missed"] == 1
    (*_, missed) = pipeline.verdicts("orders")
    assert missed == Verdict(
        job_name="orders",
        run_id=f"missed-{expected:%Y%m%d}T020000Z",
        judgement=Judgement.MISSED,
        started_at=expected,
        recorded_at=expected + HOUR,
        model_version=model.model_version,
        time_zone="UTC",
        schedule="0 2 * * *",
    )
    came = replace(two_days(ORDERS)[1], started_at=expected + 3 * HOUR)
    assert pipeline.predict(*others, *week([*FLEET, came]))["missed"] == 1
    assert pipeline.judgements("orders") == ["healthy", "missed", "healthy"]


def test_a_job_that_is_gone_from_the_last_days_is_missed_in_its_own_bucket_only(
    pipeline: Pipeline, model: Model
) -> None:
    pipeline.promote(model)
    assert pipeline.predict(*week(FLEET))["missed"] == 2
    assert pipeline.judgements("orders") == ["missed", "missed"]


def test_a_new_jobs_first_eight_runs_are_learning_the_first_three_without_a_score(
    pipeline: Pipeline, model: Model
) -> None:
    pipeline.promote(model)
    hourly = [
        replace(run, started_at=TRAINED_AT + k * HOUR, day_of_week=(TRAINED_AT + k * HOUR).weekday())
        for k, run in enumerate(history("new", count=10, weekend=1.0))
    ]
    answer = pipeline.predict(*map(recorded, hourly))
    assert (answer["runs"], answer["learning"], answer["anomalous"]) == (10, 8, 0)
    verdicts = pipeline.verdicts("new")
    assert [verdict.judgement for verdict in verdicts] == [Judgement.LEARNING] * 8 + [Judgement.HEALTHY] * 2
    assert [verdict.anomaly_score is None for verdict in verdicts] == [True] * 3 + [False] * 7
    assert (verdicts[2].feature, verdicts[2].deviations, verdicts[2].usual_records) == ("", None, None)
    # an empty load is one even for a job that is learning, once three runs are known
    for k in range(8):
        emptied = [replace(run, records_processed=0) if n == k else run for n, run in enumerate(hourly)]
        pipeline.predict(*map(recorded, emptied))
        assert (pipeline.judgements("new")[k] == "anomalous") == (k >= 3)


def test_a_weekly_job_is_judged_by_the_runs_that_the_model_remembers(pipeline: Pipeline, model: Model) -> None:
    weekly = declared(history("weekly", count=17, every=7 * DAY, weekend=1.0), schedule="0 2 * * MON")
    pipeline.promote(train([*FLEET, *weekly], trained_until=weekly[-1].started_at - 2 * HOUR, seed=1), START)
    until = weekly[-1].started_at + 10 * HOUR
    pipeline.predict(recorded(weekly[-1]), until=until)
    assert pipeline.judgements("weekly") == ["healthy"]
    pipeline.predict(recorded(replace(weekly[-1], records_processed=0)), until=until)
    assert pipeline.judgements("weekly") == ["anomalous"]


def test_each_run_is_judged_by_the_model_then_in_force_and_never_again_by_a_newer_one(
    pipeline: Pipeline, model: Model
) -> None:
    hourly = declared(history(count=24 * 30, every=HOUR, weekend=1.0), schedule="0 * * * *")
    older = train([run for run in hourly if run.started_at < START + 27 * DAY], trained_until=START + 27 * DAY, seed=1)
    newer = train([run for run in hourly if run.started_at < START + 28 * DAY], trained_until=START + 28 * DAY, seed=1)
    until = START + 28 * DAY + 8 * HOUR
    changes = START + 28 * DAY + timedelta(minutes=30)
    pipeline.promote(older, START + 27 * DAY)
    before = pipeline.predict(*week(hourly, until), until=changes)
    alone = pipeline.verdicts()
    assert before["runs"] == len(alone) == 25
    pipeline.promote(newer, changes)
    assert pipeline.predict(*week(hourly, until), until=until)["runs"] == 32
    verdicts = pipeline.verdicts()
    assert [verdict for verdict in verdicts if verdict.recorded_at < changes] == alone
    assert {verdict.model_version for verdict in verdicts if verdict.recorded_at >= changes} == {newer.model_version}
    assert len({verdict.run_id for verdict in verdicts}) == len(verdicts) == 32


def test_what_was_recorded_before_the_first_model_is_not_judged(pipeline: Pipeline, model: Model) -> None:
    first, second = two_days(ORDERS)
    pipeline.promote(model, first.started_at + HOUR / 2)
    missing = [run for run in FLEET if run.started_at != first.started_at]
    assert pipeline.predict(*week(ORDERS), *week(missing)) == {
        "runs": 5,
        "anomalous": 0,
        "failed": 0,
        "missed": 0,
        "learning": 0,
    }
    assert {verdict.started_at for verdict in pipeline.verdicts()} == {second.started_at}


def test_without_a_model_nothing_is_judged_and_that_is_said(pipeline: Pipeline, model: Model) -> None:
    nothing = {"runs": 0, "anomalous": 0, "failed": 0, "missed": 0, "learning": 0, "no_model": True}
    pipeline.extract(week(ORDERS))
    assert predicting.handler({"until": UNTIL.isoformat(), "bucket": 1}, None) == nothing
    pipeline.promote(model, UNTIL)
    assert predicting.handler({"until": UNTIL.isoformat(), "bucket": 1}, None) == nothing
    assert pipeline.predicted() == []


def test_only_what_was_recorded_in_two_days_and_before_the_hour_is_judged(pipeline: Pipeline, model: Model) -> None:
    midnight = UNTIL.replace(hour=0)
    moments = [
        (midnight - DAY - timedelta(seconds=1), False),
        (midnight - DAY, True),
        (UNTIL - timedelta(seconds=1), True),
        (UNTIL, False),
    ]
    pipeline.promote(model)
    rows = [
        Extracted(replace(job_run("late", k, at=UNTIL - 2 * DAY + k * HOUR)), moment)
        for k, (moment, _) in enumerate(moments)
    ]
    assert pipeline.predict(*rows)["runs"] == 2
    assert [verdict.run_id for verdict in pipeline.verdicts("late")] == ["late-1", "late-2"]


def test_a_rerun_writes_the_same_bytes_and_leaves_nothing_of_what_is_no_longer_so(
    pipeline: Pipeline, model: Model
) -> None:
    pipeline.promote(model)
    rows = [*week(FLEET), *week(ORDERS)]
    pipeline.predict(*rows)
    before = {key: pipeline.data.get(key) for key in pipeline.predicted()}
    other = "tables/predictions/dt=2025-01-01/old-bucket=0.parquet"
    pipeline.data.put(other, b"of other days")
    pipeline.predict(*reversed(rows))
    assert {key: pipeline.data.get(key) for key in pipeline.predicted() if key != other} == before
    # the bucket's runs are gone, and a model of another version has said something before
    stale = [
        f"predictions/dt={UNTIL.date()}/model_version=gone/bucket=0.jsonl",
        f"tables/predictions/dt={UNTIL.date()}/gone-bucket=0.parquet",
    ]
    for key in stale:
        pipeline.data.put(key, b"x")
    pipeline.promote(replace(model, jobs=KnownJobs(arrays_of([]))))
    pipeline.predict()
    assert pipeline.verdicts("orders") == pipeline.verdicts("load_00") == []
    for key in [*before, *stale]:
        stored = pipeline.data.get(key)
        assert stored == b"" if key.endswith("jsonl") else read_parquet(io.BytesIO(stored)).read_all().num_rows == 0
    assert pipeline.data.get(other) == b"of other days"


def test_a_model_that_cannot_be_used_is_no_hindrance_to_the_one_after_it(pipeline: Pipeline, model: Model) -> None:
    pipeline.promote(model, TRAINED_AT + HOUR)
    pipeline.predict(*week(ORDERS))
    before = pipeline.verdicts("orders")
    assert before
    older = Promoted(TRAINED_AT - timedelta(hours=1), "20250425T230000Z-0123abcd")
    pipeline.data.put(older.key, dump_model(model)[:2000])
    pipeline.data.put("models/etl_jobs/promoted/", b"")
    pipeline.predict(*week(ORDERS))
    assert pipeline.verdicts("orders") == before


def test_a_model_that_cannot_be_used_is_named(pipeline: Pipeline, model: Model) -> None:
    key = Promoted(TRAINED_AT, "20250426T000000Z-0123abcd").key
    pipeline.data.put(key, dump_model(model)[:2000])
    with pytest.raises(ModelRefusedError, match=key):
        pipeline.predict(*week(ORDERS))


def test_a_bucket_in_several_files_is_read_as_one(pipeline: Pipeline, model: Model) -> None:
    pipeline.promote(model)
    rows = [*week(FLEET), *week(ORDERS)]
    pipeline.predict(*rows)
    whole = pipeline.verdicts()
    for key in pipeline.data.keys("recent/bucket="):
        own = [row for row in rows if f"bucket={bucket_of(row.run.job_name, BUCKETS)}/" in key]
        pipeline.data.put(key, to_parquet(own[::2]))
        pipeline.data.put(key.replace("part-00000", "part-00001"), to_parquet(own[1::2]))
    for bucket in range(BUCKETS):
        predicting.handler({"until": UNTIL.isoformat(), "bucket": bucket}, None)
    assert pipeline.verdicts() == whole


def test_a_row_that_can_be_no_run_is_counted_and_its_start_still_counts(
    pipeline: Pipeline, model: Model, metrics: Callable[[], dict[str, int]]
) -> None:
    pipeline.promote(model)
    rows = week(ORDERS)
    # more rows than can be told apart
    object.__setattr__(rows[-1].run, "records_processed", 2**53 + 2)
    try:
        answer = pipeline.predict(*week(FLEET), *rows)
    finally:
        object.__setattr__(rows[-1].run, "records_processed", 100_000)
    assert (answer["runs"], answer["missed"]) == (9, 0)
    assert metrics()["RunsRefused"] == 1


def test_a_schedule_that_is_none_is_counted_and_the_cadence_stands_in(
    pipeline: Pipeline, model: Model, metrics: Callable[[], dict[str, int]]
) -> None:
    nightly = declared(history("nightly", count=111), schedule="when the sun is down")
    pipeline.promote(train([*FLEET, *nightly], trained_until=TRAINED_AT, seed=1))
    answer = pipeline.predict(*week(FLEET), *week(nightly))
    assert answer["missed"] == 1
    assert pipeline.judgements("nightly") == ["healthy", "missed"]
    assert metrics()["SchedulesIgnored"] == 1


def test_a_silence_is_told_of_once_though_the_next_model_knows_a_shorter_cadence(
    pipeline: Pipeline, model: Model
) -> None:
    plain = [replace(run, schedule="") for run in history("plain", count=111)]
    last = plain[-1].started_at
    pipeline.promote(model, START)

    def with_gap(hours: float) -> Model:
        learned = train([*FLEET, *plain], trained_until=last + HOUR, seed=1)
        jobs = [job for name in learned.jobs.names if (job := learned.jobs.get(name))]
        changed = [replace(job, cadence=np.full(7, hours * 3600)) if job.job_name == "plain" else job for job in jobs]
        return replace(learned, model_version=f"gap-{hours:g}", jobs=KnownJobs(arrays_of(changed)))

    changes = last + 26 * HOUR
    for first, second, told_by, clear_at in [
        (24, 24, "gap-24", last + 25 * HOUR),
        (24, 27, "gap-24", last + 25 * HOUR),
        (27, 26, "gap-26", last + 27 * HOUR),
        # not clear yet with the first, and already past with the second
        (27, 23, "gap-23", changes),
    ]:
        for key in (*pipeline.data.keys("models/"), *pipeline.predicted()):
            pipeline.data.client.delete_object(Bucket=pipeline.data.bucket, Key=key)
        pipeline.promote(with_gap(first), last - DAY)
        pipeline.promote(replace(with_gap(second), model_version=f"gap-{second}"), changes)
        pipeline.predict(*week(FLEET), *week(plain), until=last + 33 * HOUR)
        (missed,) = [one for one in pipeline.verdicts("plain") if one.judgement is Judgement.MISSED]
        assert (missed.model_version, missed.recorded_at) == (told_by, clear_at)


@pytest.fixture
def metrics(capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, int]]:
    """The sums of what was counted since it was last asked."""

    def read() -> dict[str, int]:
        sums: dict[str, int] = {}
        for line in capsys.readouterr().out.splitlines():
            fields: dict[str, Any] = json.loads(line)
            for told in fields.get("_aws", {}).get("CloudWatchMetrics", []):
                for metric in told["Metrics"]:
                    (value,) = np.atleast_1d(fields[metric["Name"]])
                    sums[metric["Name"]] = sums.get(metric["Name"], 0) + int(value)
        return sums

    return read


def test_every_outcome_is_counted_and_the_lakes_rejected_lines_once(
    pipeline: Pipeline, model: Model, metrics: Callable[[], dict[str, int]]
) -> None:
    pipeline.promote(model)
    pipeline.data.put("extractions/recent/part-00000.txt", b'{"until": "2026-03-03T00:10:00Z", "rejected": 7}\n')
    pipeline.data.put("extractions/recent/_SUCCESS", b"")
    pipeline.data.put("extractions/historical/part-00000.txt", b'{"lines": 900, "rejected": 50, "runs": 400}\n')
    failed = [replace(run, status=Status.FAILED) for run in two_days(ORDERS)[:1]]
    new = [recorded(job_run("new", at=UNTIL - HOUR))]
    empty = [replace(run, records_processed=0) for run in two_days(FLEET)[:1]]
    pipeline.predict(
        *week([run for run in FLEET if run not in two_days(FLEET)]), *map(recorded, [*failed, *empty]), *new
    )
    counted = metrics()
    assert counted.pop("LinesRejected") == 7
    assert counted == {
        "RunsHealthy": 0,
        "RunsLearning": 1,
        "RunsAnomalous": 1,
        "RunsFailed": 1,
        "RunsMissed": 8,
        "RunsRefused": 0,
        "ModelsRefused": 0,
        "SchedulesIgnored": 0,
    }
