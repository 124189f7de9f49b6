"""What the functions of a kept release stored is read, and gone on with, by those of this tree."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lambdas.sensors.stores import cutoffs_key, load_cutoffs
from overcut.etl_jobs.verdicts import Judgement
from overcut.sensors.incidents import EQUIPMENT_FAULT, SILENT_SOURCE, IncidentState
from overcut.sensors.models import load_model, score_reading
from overcut.sensors.readings import parse_time
from tests.etl_fakes import verdict
from tests.functional.test_poll_readings import MINUTE, NOON
from tests.upgrades.releases import Release, kept
from tests.upgrades.stored import (
    PREDICTED,
    SOURCE,
    UNTIL,
    WRITTEN,
    EtlJobsPipeline,
    SensorsPipeline,
    etl_jobs_pipeline,
    sensors_pipeline,
    value,
)

EVERY_RELEASE = pytest.mark.parametrize("release", kept(), ids=lambda release: release.folder.name)


@pytest.fixture
def sensors(release: Release, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SensorsPipeline]:
    with sensors_pipeline(monkeypatch, tmp_path) as pipeline:
        release.stored("sensors").put(pipeline.cloud.dynamodb, pipeline.cloud.data)
        yield pipeline


@pytest.fixture
def etl_jobs(release: Release, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[EtlJobsPipeline]:
    with etl_jobs_pipeline(monkeypatch, tmp_path) as pipeline:
        release.stored("etl_jobs").put(pipeline.cloud.dynamodb, pipeline.data)
        yield pipeline


@EVERY_RELEASE
def test_an_old_incident_s_score_is_the_same(sensors: SensorsPipeline) -> None:
    for known in sensors.cloud.incidents.known():
        cause = known.incident.cause
        cutoff = sensors.cloud.cutoffs.get(known.incident.equipment.sensor_id, parse_time(cause.trained_at))
        assert cutoff
        model = load_model(sensors.cloud.data.get(cutoff.model_key))
        score = score_reading(model, cutoff, cause.inputs)
        assert score
        assert (score.anomaly_score, cutoff.score_cutoff) == (cause.anomaly_score, cause.score_cutoff)


@EVERY_RELEASE
def test_an_old_incident_goes_on_and_ends_and_nobody_is_texted_twice(sensors: SensorsPipeline) -> None:
    (old,) = sensors.cloud.incidents.needing_attention()
    cursor = int(sensors.cloud.sources.get(SOURCE).cursor)
    sensors.watch(WRITTEN)
    assert not sensors.published

    sensors.stream(WRITTEN + 1, 410)

    incidents = [one.incident for one in sensors.cloud.incidents.known()]
    assert Counter(one.equipment.sensor_id for one in incidents) == {"over": 1, "lasting": 1}
    (lasting,) = (one for one in incidents if one.equipment.sensor_id == "lasting")
    assert (lasting.reference, lasting.opened_at) == (old.reference, old.opened_at)
    assert lasting.last_anomalous_at > old.last_anomalous_at
    assert lasting.state is IncidentState.RECOVERED
    (text,) = sensors.published
    assert text.body.startswith("OK AGAIN Fridge lasting")
    # the device was asked for what came after the old cursor
    assert int(sensors.cloud.sources.get(SOURCE).cursor) == cursor + 2 * (410 - WRITTEN)


@EVERY_RELEASE
def test_a_silence_is_told_from_what_was_heard_before(sensors: SensorsPipeline) -> None:
    heard = sensors.cloud.data.seen(SOURCE)
    assert heard
    assert heard.sensors.keys() == {"over", "lasting"}
    sensors.watch(WRITTEN + 14)
    assert not sensors.published
    sensors.watch(WRITTEN + 16)
    kinds = [one.incident.kind for one in sensors.cloud.incidents.known()]
    assert Counter(kinds) == {EQUIPMENT_FAULT: 2, SILENT_SOURCE: 1}


@EVERY_RELEASE
def test_old_exports_and_incidents_are_learned_from(sensors: SensorsPipeline) -> None:
    sensors.stream(WRITTEN + 1, 420)
    sensors.export(425)
    hours = [f"readings/dt=2026-01-05/{hour}-0000.parquet" for hour in range(12, 19)]
    assert sensors.cloud.data.keys("readings/") == hours
    sensors.train(425)

    (cutoff,) = sensors.cloud.cutoffs.newest("over", 1)
    event = sensors.cloud.model_events.of(cutoff.cohort_id)[-1]
    assert event["decision"] == "promoted", event
    for sensor_id in ("over", "lasting"):
        new, old = sensors.cloud.cutoffs.newest(sensor_id, 3)
        assert new.trained_at > old.trained_at
        # from the first of the old release's readings on, without those of the fault that a person confirmed
        assert 300 < new.reading_count <= 420


@EVERY_RELEASE
def test_a_version_that_was_held_can_be_approved(sensors: SensorsPipeline) -> None:
    (cutoff,) = sensors.cloud.cutoffs.newest("over", 1)
    assert load_cutoffs(sensors.cloud.data.get(cutoffs_key(cutoff.cohort_id, cutoff.model_version))) == [cutoff]


@EVERY_RELEASE
def test_old_readings_and_registrations_are_read(release: Release, sensors: SensorsPipeline) -> None:
    for sensor_id in ("over", "lasting"):
        readings = sensors.cloud.readings.between(sensor_id, NOON, NOON + WRITTEN * MINUTE)
        assert [one.values["temperature"] for one in readings] == [value(sensor_id, k) for k in range(WRITTEN + 1)]
    assert {(one.sensor_id, one.source_id, one.kind, one.site) for one in sensors.cloud.sensors.all()} == {
        ("over", SOURCE, "fridge", "Aarhus"),
        ("lasting", SOURCE, "fridge", "Aarhus"),
    }


@EVERY_RELEASE
def test_an_old_model_says_of_old_runs_what_it_said(etl_jobs: EtlJobsPipeline) -> None:
    before = predicted(etl_jobs)
    assert Counter(one["judgement"] for one in before) == {"healthy": 11, "anomalous": 1}
    etl_jobs.predict(PREDICTED)
    after = predicted(etl_jobs)
    # a newer release may say more of them
    assert [{name: new[name] for name in old} for old, new in zip(before, after, strict=True)] == before


def predicted(etl_jobs: EtlJobsPipeline) -> list[dict[str, Any]]:
    keys = (key for key in etl_jobs.data.keys("predictions/") if key.endswith(".jsonl"))
    return [json.loads(line) for key in keys for line in etl_jobs.data.get(key).splitlines()]


@EVERY_RELEASE
def test_an_old_ticket_is_commented_and_closed_and_opened_once(etl_jobs: EtlJobsPipeline) -> None:
    later = PREDICTED + timedelta(hours=1)
    etl_jobs.open_tickets(later)
    assert etl_jobs.acted == []

    for name, judgement in (("again", Judgement.ANOMALOUS), ("well", Judgement.HEALTHY)):
        later += timedelta(hours=1)
        told = verdict(0, judgement, job_name="orders", run_id=name)
        etl_jobs.cloud.predict([replace(told, started_at=later, recorded_at=later + timedelta(minutes=2))])
        etl_jobs.open_tickets(later + timedelta(minutes=30))
    assert etl_jobs.acted == [("comment", "again"), ("close", "well")]


@EVERY_RELEASE
def test_a_new_model_is_compared_with_an_old_one(etl_jobs: EtlJobsPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    etl_jobs.train(UNTIL + timedelta(minutes=1))
    assert "is not compared with" not in capsys.readouterr().out
    decided = json.loads(etl_jobs.data.get("models/etl_jobs/decisions/nightly.json"))
    assert decided["decision"] == "promoted", decided
