"""`overcut incidents`, `overcut explain` and `overcut cutoffs`, on tables and bucket as they are deployed."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import numpy as np
import pytest
from click.testing import CliRunner, Result

from lambdas.runtime.attributes import to_attribute
from lambdas.sensors.links import PageLinks
from lambdas.sensors.stores import cutoffs_key, dump_cutoffs
from overcut.sensors.cohorts import ROUTINE_FEATURES, CohortModel, SensorSeries, TrainingRules, train_cohort
from overcut.sensors.cutoffs import PROMOTION_DELAY, Usual, in_force
from overcut.sensors.incidents import (
    EQUIPMENT_FAULT,
    STUCK_SENSOR,
    Answer,
    Cause,
    Change,
    ChangeKind,
    Episode,
    Equipment,
    Head,
    Incident,
    IncidentState,
    Response,
    Text,
    TextKind,
    TextState,
)
from overcut.sensors.judging import explain
from overcut.sensors.models import HIGHEST_DECADES, dump_model
from overcut.sensors.readings import format_time, parse_time
from tests.functional.conftest import REGION, Cloud
from workbench.cli import main
from workbench.sensors_system import SensorsSystem

NOON = datetime(2026, 3, 9, 12, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
SENSOR, OTHER = "fridge-[7]", "fridge-8"


@pytest.fixture
def system(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The deployed pipeline that every command finds."""
    outputs = {f"{name}Table": table for name, table in cloud.tables.items()} | {"DataBucket": cloud.bucket}
    session = boto3.Session(region_name=REGION)
    monkeypatch.setattr(SensorsSystem, "deployed", lambda _: SensorsSystem(outputs, session))
    return cloud


@pytest.fixture(scope="module")
def trained() -> CohortModel:
    """A cohort of two sensors that show 4 degrees or so."""
    noise = np.random.default_rng(1)
    times = np.arange(3 * 24 * 60) * 60
    series = [SensorSeries(one, times, np.round(noise.normal(4, 0.4, (len(times), 1)), 1)) for one in (SENSOR, OTHER)]
    return train_cohort(
        series, cohort_id="cold", measures=["temperature"], rules=TrainingRules(), trained_at=NOON - DAY, seed=0
    )


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"COLUMNS": "200"})


def said(*arguments: str) -> str:
    ran = run(*arguments)
    assert ran.exit_code == 0, ran.output
    return ran.output


def error_of(*arguments: str) -> str:
    ran = run(*arguments)
    assert ran.exit_code == 1, ran.output
    assert ran.stderr.count("\n") == 1, "one sentence"
    return ran.stderr.strip()


def promote(cloud: Cloud, cohort: CohortModel) -> None:
    assert cohort.model
    cloud.data.put(cohort.cutoffs[0].model_key, dump_model(cohort.model))
    cloud.cutoffs.put(cohort.cutoffs)


def cause_of(cohort: CohortModel, kind: str = EQUIPMENT_FAULT) -> Cause:
    """What an hour at 4 degrees and five minutes at 5 look like; of a stuck sensor, two hours at 4.1."""
    noise = np.random.default_rng(2)
    usual = np.round(noise.normal(4, 0.4, 56), 1).tolist()
    window = [4.1] * 61 if kind == STUCK_SENSOR else [*usual, 4.9, 5.0, 4.9, 5.1, 5.0]
    assert cohort.model
    cause = explain({"temperature": window}, cohort.cutoffs[0].at(NOON), cohort.model, {"temperature": "C"}, kind)
    assert cause
    return cause


def opened(cloud: Cloud, cause: Cause, sensor_id: str = SENSOR, at: datetime = NOON, **values: Any) -> Incident:
    incident = Incident(
        equipment=Equipment(sensor_id, f"Cold room of {sensor_id}", "north", "Aarhus"),
        kind=values.pop("kind", EQUIPMENT_FAULT),
        state=IncidentState.OPEN,
        opened_at=at,
        first_anomalous_at=at - 4 * MINUTE,
        last_anomalous_at=at,
        cause=cause,
        texts={"alert#day": Text(TextKind.ALERT, "day", TextState.SENT)},
    )
    incident = replace(incident, **values)
    head = Head(1, at, incident.first_anomalous_at, at)
    cloud.incidents.open(incident, Change(ChangeKind.OPEN, Episode(head.first_anomalous_at, at, at), head))
    return incident


def change(cloud: Cloud, incident: Incident, path: str, value: Any) -> None:
    """Give an attribute of the stored incident another value."""
    names = {f"#{k}": part for k, part in enumerate(path.split("."))}
    cloud.dynamodb.update_item(
        TableName=cloud.tables["Incidents"],
        Key={"sensor_id": {"S": incident.equipment.sensor_id}, "opened_at": {"S": format_time(incident.opened_at)}},
        UpdateExpression=f"SET {'.'.join(names)} = :v",
        ExpressionAttributeNames=names,
        ExpressionAttributeValues={":v": to_attribute(value)},
    )


OLD_CAUSE = Cause("temperature", "C", 30.0, 3.5, 4.5, 9.0, 2.0, "v1")


# --- incidents ---


def test_without_incidents_the_list_says_so(system: Cloud) -> None:
    assert said("incidents", "list") == "Stage dev has no incident.\n"
    assert said("incidents", "list", "--open") == "Stage dev has no open incident.\n"
    assert said("incidents", "list", "--json") == "[]\n"


def test_incidents_are_listed_the_newest_last(system: Cloud) -> None:
    first = opened(system, OLD_CAUSE, OTHER, NOON - DAY, state=IncidentState.RECOVERED, recovered_at=NOON)
    second = opened(system, OLD_CAUSE)
    rows = [line.split("│")[1:-1] for line in said("incidents", "list").splitlines() if "fridge" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    what = "temperature 30 C, usually 3.5 to 4.5"
    assert cells == [
        [first.reference, f"Cold room of {OTHER}", "equipment", "2026-03-08 12:00", "recovered", what, "-"],
        [second.reference, f"Cold room of {SENSOR}", "equipment", "2026-03-09 12:00", "open", what, "-"],
    ]
    assert first.reference not in said("incidents", "list", "--open")
    told = json.loads(said("incidents", "list", "--json"))
    assert [one["reference"] for one in told] == [first.reference, second.reference]
    assert (told[0]["opened_at"], told[0]["label"], told[0]["cause"]["value"]) == ("2026-03-08T12:00:00Z", None, 30.0)


def test_a_long_list_shows_the_newest(system: Cloud) -> None:
    every = [opened(system, OLD_CAUSE, f"fridge-{k}", NOON + k * MINUTE) for k in range(52)]
    listed = said("incidents", "list")
    assert every[1].reference not in listed
    assert every[2].reference in listed
    assert "2 older ones are not shown; --all shows them." in listed
    assert every[0].reference in said("incidents", "list", "--all")


def test_one_incident_is_found_by_its_reference(system: Cloud) -> None:
    incident = opened(system, OLD_CAUSE)
    shown = said("incidents", "show", incident.reference.lower())
    assert SENSOR in shown
    assert "alert to day: sent" in shown
    assert json.loads(said("incidents", "show", incident.reference, "--json"))["reference"] == incident.reference
    assert error_of("incidents", "show", "AAAAAA") == (
        "Error: no incident has the reference 'AAAAAA'; `overcut incidents list --stage local` shows all"
    )


def test_what_was_texted_and_answered_is_told_with_its_times(system: Cloud, trained: CohortModel) -> None:
    incident = opened(system, cause_of(trained))
    system.incidents.mark_sent([incident], "alert#day", "id", "body", NOON + MINUTE)
    links = PageLinks(system.incidents, "", DAY)
    token = links.make("day", [incident], 0)
    link = system.incidents.link(token, 0)
    assert link
    response = Response(Answer.ON_IT, "day", NOON + 5 * MINUTE)
    assert system.incidents.respond(token, link.nonce, "next", system.incidents.linked(link.incidents), response, 0)
    assert "on it, day at 2026-03-09T12:05:00Z" in said("incidents", "show", incident.reference)
    for told in (
        json.loads(said("incidents", "show", incident.reference, "--json")),
        json.loads(said("incidents", "list", "--json"))[0],
    ):
        assert told["texts"]["alert#day"]["sent_at"] == "2026-03-09T12:01:00Z"
        assert told["response"] == {"answer": "on_it", "contact_id": "day", "at": "2026-03-09T12:05:00Z", "until": None}


def test_a_reference_that_two_incidents_have_needs_the_sensor(system: Cloud) -> None:
    one, other = opened(system, OLD_CAUSE), opened(system, OLD_CAUSE, OTHER)
    change(system, other, "reference", one.reference)
    told = error_of("incidents", "label", one.reference, "fault")
    assert told.startswith(f"Error: {one.reference} is the reference of 2 incidents (")
    assert told.endswith("add --sensor SENSOR")
    said("incidents", "label", one.reference, "fault", "--sensor", OTHER)
    labels = {known.incident.equipment.sensor_id: known.label for known in system.incidents.known()}
    assert labels == {SENSOR: "", OTHER: "fault"}
    assert "no incident of sensor x has" in error_of("incidents", "show", one.reference, "--sensor", "x")


def test_a_label_is_kept_with_the_incident(system: Cloud) -> None:
    incident = opened(system, OLD_CAUSE)
    assert "its readings are learned from" in said("incidents", "label", incident.reference, "false_alarm")
    (known,) = system.incidents.known(incident.reference)
    assert (known.label, known.incident) == ("false_alarm", incident), "nothing else changed"
    assert "never learned from" in said("incidents", "label", incident.reference, "fault")
    assert json.loads(said("incidents", "list", "--json"))[0]["label"] == "fault"
    ran = run("incidents", "label", incident.reference, "whatever")
    assert ran.exit_code == 2
    assert "'fault', 'false_alarm'" in ran.stderr


# --- explain ---


@pytest.mark.parametrize("kind", [EQUIPMENT_FAULT, STUCK_SENSOR])
def test_a_score_is_computed_again_bit_for_bit(system: Cloud, trained: CohortModel, kind: str) -> None:
    promote(system, trained)
    incident = opened(system, cause_of(trained, kind), kind=kind)
    if kind == STUCK_SENSOR:
        assert "shows one and the same value again and again" in said("explain", incident.reference)
    told = said("explain", incident.reference)
    assert "Computed again from the kept readings: the same, bit for bit." in told
    assert f"model cold {trained.model_version}, trained 2026-03-08T12:00:00Z" in told
    values = json.loads(said("explain", incident.reference, "--json"))
    assert values["is_same"]
    assert incident.cause.anomaly_score < HIGHEST_DECADES, "a score that says something"
    assert values["computed_anomaly_score"] == values["cause"]["anomaly_score"] == incident.cause.anomaly_score


def test_what_made_it_is_told_in_words(system: Cloud, trained: CohortModel) -> None:
    promote(system, trained)
    incident = opened(system, cause_of(trained))
    told = said("explain", incident.reference)
    assert "temperature jumped away from where it was ten minutes to an hour before: temperature 5 C, usually" in told
    values = json.loads(said("explain", incident.reference, "--json"))
    assert (values["channel"], [one["feature"] for one in values["features"]]) == ("fast", ["jump", "plateau"])
    assert values["features"][0]["value"] == pytest.approx(incident.cause.value - 4.1, abs=0.11)
    assert values["features"][0]["times_usual"] > 1


def test_what_is_usual_is_told_of_the_time_of_day(system: Cloud, trained: CohortModel) -> None:
    (usual,) = trained.cutoffs[0].ranges
    quiet = {name: Usual(0.0, usual.features[name].up / 4, usual.features[name].down / 4) for name in ROUTINE_FEATURES}
    routine = replace(trained.cutoffs[0], routine=(0, 1), ranges=(replace(usual, quiet=quiet),))
    with_routine = replace(trained, cutoffs=(routine, *trained.cutoffs[1:]))
    promote(system, with_routine)
    incident = opened(system, cause_of(with_routine))
    values = json.loads(said("explain", incident.reference, "--json"))
    assert values["is_same"]
    assert [one["usual_high"] for one in values["features"]] == [quiet[name].up for name in ROUTINE_FEATURES]
    # had it been computed by what is usual in the routine, it would not be the same
    assert cause_of(trained).anomaly_score < incident.cause.anomaly_score


def test_a_plateau_is_told_in_words(system: Cloud, trained: CohortModel) -> None:
    promote(system, trained)
    incident = opened(system, replace(cause_of(trained), feature="plateau"))
    told = run("explain", incident.reference).stdout
    assert "temperature has gone on so far from where it was ten minutes to an hour before" in told
    assert "as it never does: temperature 5 C, usually" in told


def test_a_unit_and_a_name_mean_nothing_to_the_terminal(system: Cloud, trained: CohortModel) -> None:
    promote(system, trained)
    hostile = Equipment(SENSOR, "Cold room\x1b[2J [/bold]")
    incident = opened(system, replace(cause_of(trained), unit="[degf]"), equipment=hostile)
    told = said("explain", incident.reference)
    assert "found ([degf])" in told
    assert "Cold room\\x1b[2J [/bold]: incident" in told
    assert all(line.isprintable() for line in told.splitlines())


@pytest.mark.parametrize(
    ("path", "value"),
    [("cause.anomaly_score", 9.0), ("cause.inputs.temperature", [4.0] * 61), ("cause.score_cutoff", 0)],
)
def test_a_score_that_comes_out_otherwise_is_told(
    system: Cloud, trained: CohortModel, path: str, value: object
) -> None:
    promote(system, trained)
    incident = opened(system, cause_of(trained))
    change(system, incident, path, value)
    ran = run("explain", incident.reference)
    assert ran.exit_code == 1
    assert "Computed again, " in ran.stdout
    assert "bit for bit" not in ran.stdout
    ran = run("explain", incident.reference, "--json")
    assert (ran.exit_code, json.loads(ran.stdout)["is_same"]) == (1, False)


def test_what_is_not_kept_is_named(system: Cloud, trained: CohortModel) -> None:
    old = opened(system, OLD_CAUSE, OTHER)
    assert error_of("explain", old.reference).startswith(f"Error: incident {old.reference} keeps no inputs")
    incident = opened(system, cause_of(trained))
    assert "is not in the Cutoffs table any more" in error_of("explain", incident.reference)
    system.cutoffs.put(trained.cutoffs)
    assert f"has no {trained.cutoffs[0].model_key} any more" in error_of("explain", incident.reference)
    system.data.put(trained.cutoffs[0].model_key, b"no model")
    assert "the object holds no model" in error_of("explain", incident.reference)


# --- cutoffs ---


def version_of(cohort: CohortModel, version: str, trained_at: datetime) -> CohortModel:
    """The cohort as another training would have left it."""
    cutoffs = (
        replace(one, model_version=version, trained_at=trained_at, effective_from=trained_at + PROMOTION_DELAY)
        for one in cohort.cutoffs
    )
    return replace(cohort, model_version=version, cutoffs=tuple(cutoffs))


def states_of(sensor_id: str) -> list[tuple[str, str]]:
    listed: list[Mapping[str, str]] = json.loads(said("cutoffs", "list", sensor_id, "--json"))
    return [(one["model_version"], one["state"]) for one in listed]


def test_cutoffs_are_listed_with_what_they_are_now(system: Cloud, trained: CohortModel) -> None:
    assert said("cutoffs", "list", SENSOR).startswith(f"Sensor {SENSOR} has no cutoff in stage dev")
    assert said("cutoffs", "list", SENSOR, "--json") == "[]\n"
    now = datetime.now(UTC).replace(microsecond=0)
    for version, at in (("v1", now - 2 * DAY), ("v2", now - DAY), ("v3", now - MINUTE)):
        promote(system, version_of(trained, version, at))
    assert states_of(SENSOR) == [("v3", "not yet"), ("v2", "in force"), ("v1", "replaced")]
    rows = [line for line in said("cutoffs", "list", SENSOR).splitlines() if "in force " in line and "v2" in line]
    assert len(rows) == 1


def test_a_rollback_puts_the_previous_cutoff_in_force(system: Cloud, trained: CohortModel) -> None:
    assert f"sensor {SENSOR} has no cutoff in stage dev" in error_of("cutoffs", "rollback", SENSOR)
    good = version_of(trained, "good", NOON - 2 * DAY)
    promote(system, good)
    assert "has no cutoff before its newest" in error_of("cutoffs", "rollback", SENSOR)
    promote(system, version_of(trained, "bad", NOON - DAY))

    before = datetime.now(UTC).replace(microsecond=0)
    told = said("cutoffs", "rollback", SENSOR)
    after = datetime.now(UTC)
    newest = system.cutoffs.newest(SENSOR, 3)
    assert [one.model_version for one in newest] == ["good", "bad", "good"]
    assert before <= newest[0].trained_at <= after
    assert before <= newest[0].effective_from - PROMOTION_DELAY <= after
    same = replace(newest[0], trained_at=newest[2].trained_at, effective_from=newest[2].effective_from)
    assert same == newest[2]
    assert f"From {format_time(newest[0].effective_from)} on, {SENSOR} is judged again by its cutoff of" in told
    assert in_force(newest, newest[0].effective_from) == newest[0]
    assert [one.model_version for one in system.cutoffs.newest(OTHER, 3)] == ["bad", "good"], "others stay"

    (event,) = system.model_events.of("cold")
    assert (event["decision"], event["sensor_id"], event["model_version"]) == ("rolled back", SENSOR, "good")
    assert event["replaced_model_version"] == "bad"
    assert parse_time(event["effective_from"]) == newest[0].effective_from

    # at once again: later than the newest, although no second has passed
    said("cutoffs", "rollback", SENSOR)
    again = system.cutoffs.newest(SENSOR, 4)
    assert [one.model_version for one in again] == ["bad", "good", "bad", "good"]


def test_a_held_version_is_approved_by_hand(system: Cloud, trained: CohortModel) -> None:
    assert said("cutoffs", "held") == "Stage dev holds no version.\n"
    assert said("cutoffs", "held", "--json") == "[]\n"
    now = datetime.now(UTC).replace(microsecond=0)
    held = version_of(trained, "held-1", now - 2 * DAY)
    assert trained.model
    system.data.put(held.cutoffs[0].model_key, dump_model(trained.model))
    assert "model cold holds no version held-1; `overcut cutoffs held --stage dev`" in error_of(
        "cutoffs", "approve", "cold", "held-1"
    )
    system.data.put(cutoffs_key("cold", "held-1"), dump_cutoffs(held.cutoffs))
    event = {"decision": "held", "reason": "2 of 2 sensors changed", "model_version": "held-1"}
    system.model_events.put("cold", now - 2 * DAY, event)
    promote(system, version_of(trained, "later", now - DAY))
    assert json.loads(said("cutoffs", "held", "--json")) == [
        {"model_id": "cold", "model_version": "held-1", "reason": "2 of 2 sensors changed"}
    ]
    assert "2 of 2 sensors changed" in said("cutoffs", "held")

    told = said("cutoffs", "approve", "cold", "held-1")
    assert "2 sensors are judged by version held-1 of cold" in told
    for sensor_id in (SENSOR, OTHER):
        newest = system.cutoffs.newest(sensor_id, 3)
        assert [(one.model_version, one.is_approved) for one in newest] == [("held-1", True), ("later", False)]
        assert in_force(newest, newest[0].effective_from) == newest[0]
        assert newest[0].effective_from >= now + PROMOTION_DELAY
    approved = system.model_events.of("cold")[-1]
    assert (approved["decision"], approved["model_version"], approved["sensors"]) == ("approved", "held-1", 2)
    assert said("cutoffs", "held") == "Stage dev holds no version.\n"
    assert "was approved at" in error_of("cutoffs", "approve", "cold", "held-1")


# --- what is held back ---


def test_texts_that_are_held_back_are_listed(system: Cloud) -> None:
    assert said("incidents", "held") == "Stage dev holds no text back.\n"
    assert said("incidents", "held", "--json") == "[]\n"
    held = {
        text.text_key: text
        for text in (
            Text(TextKind.ALERT, "day", TextState.DIGEST),
            Text(TextKind.RECOVERY, "day", TextState.DIGEST),
            Text(TextKind.ALERT, "night", TextState.SENT),
        )
    }
    incident = opened(system, OLD_CAUSE, texts=held)
    opened(system, OLD_CAUSE, OTHER)
    listed = said("incidents", "held")
    assert [line.split()[1:6:2] for line in listed.splitlines() if incident.reference in line] == [
        ["day", "alert", incident.reference],
        ["day", "recovery", incident.reference],
    ]
    assert f"Cold room of {SENSOR}" in listed
    assert json.loads(said("incidents", "held", "--json")) == [
        {
            "contact_id": "day",
            "text": text,
            "reference": incident.reference,
            "sensor_id": SENSOR,
            "opened_at": "2026-03-09T12:00:00Z",
            "state": "open",
        }
        for text in ("alert", "recovery")
    ]
