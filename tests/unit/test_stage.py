"""Stage files: the three that there are, how they differ, and the one line that every mistake ends in."""

import copy
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from stacks.stage import STAGES, StageError, read_stage

DEV: dict[str, Any] = tomllib.loads((STAGES / "dev.toml").read_text())
MISSING = object()


def written(tmp_path: Path, key: str, value: object) -> Path:
    """A copy of the dev stage, `dev.toml`, with one key (dots between its parts) set, or taken away."""
    stage = copy.deepcopy(DEV)
    *tables, last = key.split(".")
    here = stage
    for table in tables:
        here = here.setdefault(table, {})
    if value is MISSING:
        del here[last]
    else:
        here[last] = value
    path = tmp_path / "dev.toml"
    path.write_text(tomli_w.dumps(stage))
    return path


NAME = "must be a name of lower-case letters, digits and hyphens, at most 31, that begins with a letter"
SCHEDULE = 'must be an EventBridge schedule, such as "cron(30 2 * * ? *)" or "rate(1 day)"'
URL = "must begin with https:// (http:// only to this machine)"
OF_TICKETS = "kinds, secret_name, severity, sink, url"
TOP = "clock, etl_jobs, functions, keep_data, name, operations_emails, own_key, private_network, region, sensors"
TICKETS = "etl_jobs.tickets"
LAKE = "etl_jobs.lake: must be empty, or an S3 prefix that ends in a slash, such as s3://analytics-lake/job-runs/"
FIELD = "etl_jobs.fields.run_id: must be names with dots between them, such as metrics.rows.loaded"
OF_SOURCE = "measured_at, measures, min_deviation, secret_name, sensor_id, url, values"
DEVICE = "sensors.sources.device"


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        # a key that there is not
        ("regoin", "x", f"regoin: unknown key; allowed are {TOP}"),
        ("a\nb", "x", f"a b: unknown key; allowed are {TOP}"),
        ("functions.memory", 5, "functions.memory: unknown key; allowed are log_retention_days, platform, python"),
        (f"{DEVICE}.urll", "x", f"{DEVICE}.urll: unknown key; allowed are {OF_SOURCE}"),
        (
            "sensors.contacts.maintenance.phone",
            "+1",
            "sensors.contacts.maintenance.phone: unknown key; allowed are customers, escalate_to, sites",
        ),
        (
            "sensors.provisioned_writes",
            {"minimum": 1, "maximum": 2, "target": 3},
            "sensors.provisioned_writes.target: unknown key; allowed are maximum, minimum",
        ),
        # one that is missing
        ("region", MISSING, "region: this key is missing"),
        ("sensors.default_contact", MISSING, "sensors.default_contact: this key is missing"),
        (f"{DEVICE}.url", MISSING, f"{DEVICE}.url: this key is missing"),
        ("sensors.provisioned_writes", {"minimum": 1}, "sensors.provisioned_writes.maximum: this key is missing"),
        ("etl_jobs.tickets.kind", ["failed_run"], f"{TICKETS}.kind: unknown key; allowed are {OF_TICKETS}"),
        # where job runs come from and tickets go
        ("etl_jobs.lake", "s3://lake", f"{LAKE}, not 's3://lake'"),
        ("etl_jobs.lake", "lake/", f"{LAKE}, not 'lake/'"),
        ("etl_jobs.fields", {"run_id": "run..id"}, f"{FIELD}, not 'run..id'"),
        ("etl_jobs.buckets", 0, "etl_jobs.buckets: must be greater than or equal to 1, not 0"),
        (TICKETS, {"kinds": []}, f"{TICKETS}.kinds: List should have at least 1 item after validation, not 0, not []"),
        (
            TICKETS,
            {"kinds": ["slow_run"]},
            f"{TICKETS}.kinds.0: must be 'unusual_run', 'failed_run' or 'missed_run', not 'slow_run'",
        ),
        (TICKETS, {"sink": "webhook"}, f"{TICKETS}: {URL}"),
        (TICKETS, {"sink": "webhook", "url": "http://x.example", "secret_name": "s"}, f"{TICKETS}: {URL}"),
        (
            TICKETS,
            {"sink": "webhook", "url": "https://x.example"},
            f"{TICKETS}: a webhook needs secret_name: the secret that signs what is sent",
        ),
        (TICKETS, {"secret_name": "s"}, f'{TICKETS}: url and secret_name are for sink = "webhook"'),
        # a value of the wrong type
        ("region", 5, "region: must be a valid string, not 5"),
        ("region", {"a": 1}, "region: must be a valid string"),
        ("keep_data", "yes", "keep_data: must be a valid boolean, not 'yes'"),
        ("operations_emails", "a@b", "operations_emails: must be a valid list, not 'a@b'"),
        ("operations_emails", [1], "operations_emails.0: must be a valid string, not 1"),
        ("functions", 5, "functions: must be a table, not 5"),
        ("sensors.consecutive_minutes", 5.0, "sensors.consecutive_minutes: must be a valid integer, not 5.0"),
        ("sensors.consecutive_minutes", True, "sensors.consecutive_minutes: must be a valid integer, not True"),
        ("sensors.z_factor", "3", "sensors.z_factor: must be a valid number, not '3'"),
        (f"{DEVICE}.measures.temperature", 1, f"{DEVICE}.measures.temperature: must be a valid string, not 1"),
        # a value out of bounds
        ("sensors.z_factor", 2.4, "sensors.z_factor: must be greater than or equal to 2.5, not 2.4"),
        ("sensors.z_factor", float("nan"), "sensors.z_factor: must be less than or equal to 20, not nan"),
        (
            "sensors.consecutive_minutes",
            1,
            "sensors.consecutive_minutes: must be greater than or equal to 2, not 1",
        ),
        ("sensors.false_alarm_budget", 0, "sensors.false_alarm_budget: must be greater than 0, not 0"),
        ("sensors.false_alarm_budget", 101, "sensors.false_alarm_budget: must be less than or equal to 100, not 101"),
        ("sensors.detector", "rcf", "sensors.detector: must be 'channels' or 'laboratory', not 'rcf'"),
        (
            "sensors.new_normal_after_hours",
            2,
            "sensors.new_normal_after_hours: must be greater than or equal to 3, not 2",
        ),
        (
            f"{DEVICE}.min_deviation",
            {"temperature": 0},
            f"{DEVICE}.min_deviation.temperature: must be greater than 0, not 0",
        ),
        (
            f"{DEVICE}.min_deviation",
            {"temperature": float("inf")},
            f"{DEVICE}.min_deviation.temperature: must be a finite number, not inf",
        ),
        ("sensors.retention_days", 6, "sensors.retention_days: must be greater than or equal to 7, not 6"),
        (
            "functions.platform",
            "arm",
            "functions.platform: must be 'arm64', 'x86_64' or 'host', not 'arm'",
        ),
        (
            "functions.log_retention_days",
            2,
            "functions.log_retention_days: must be 1, 3, 7, 14, 30, 60, 90, 180 or 365, not 2",
        ),
        (
            "sensors.sources",
            {},
            "sensors.sources: Dictionary should have at least 1 item after validation, not 0",
        ),
        (
            f"{DEVICE}.measures",
            {},
            f"{DEVICE}.measures: Dictionary should have at least 1 item after validation, not 0",
        ),
        # a value that means nothing
        ("region", "mars", "region: must be an AWS region, such as eu-central-1, not 'mars'"),
        ("region", "eu-central-1\n", "region: must be an AWS region, such as eu-central-1, not 'eu-central-1\\n'"),
        ("name", "Dev", f"name: {NAME}, not 'Dev'"),
        ("sensors.contacts.Bob", {}, f"sensors.contacts.Bob: {NAME}, not 'Bob'"),
        ("sensors.training_schedule", "daily", f"sensors.training_schedule: {SCHEDULE}, not 'daily'"),
        (
            "sensors.training_instance",
            "m5.large",
            "sensors.training_instance: must be a SageMaker training instance, such as ml.m5.large, not 'm5.large'",
        ),
        (f"{DEVICE}.url", "http://devices.example.com", f"{DEVICE}.url: {URL}, not 'http://devices.example.com'"),
        (f"{DEVICE}.url", "http://localhost.example.com", f"{DEVICE}.url: {URL}, not 'http://localhost.example.com'"),
        (f"{DEVICE}.url", "http://127.0.0.1@example.com", f"{DEVICE}.url: {URL}, not 'http://127.0.0.1@example.com'"),
        (f"{DEVICE}.url", "https://", f"{DEVICE}.url: {URL}, not 'https://'"),
        (f"{DEVICE}.url", "https://[", f"{DEVICE}.url: {URL}, not 'https://['"),
        (
            f"{DEVICE}.values",
            "{",
            f"{DEVICE}: values is not a JMESPath expression: Invalid jmespath expression:"
            ' Incomplete expression: "{" ^',
        ),
        (f"{DEVICE}.values", "lower(a)", f"{DEVICE}: values calls lower(), which JMESPath does not have"),
        (
            f"{DEVICE}.min_deviation",
            {"temperature": 0.5, "humidity": 1.0},
            f"{DEVICE}: min_deviation may be set of temperature, not of 'humidity'",
        ),
        # values that do not go together
        ("clock", "/var/clock", 'clock must be "system": only the local stage may set it'),
        ("sensors.default_contact", "bob", "sensors: default_contact must be one of maintenance, not 'bob'"),
        (
            "sensors.contacts.maintenance",
            {"escalate_to": "bob"},
            "sensors: contacts.maintenance.escalate_to must be another contact, and there is none, not 'bob'",
        ),
        (
            "sensors.contacts",
            {"maintenance": {"escalate_to": "maintenance"}, "lead": {}},
            "sensors: contacts.maintenance.escalate_to must be one of lead, not 'maintenance'",
        ),
        (
            "sensors.page",
            {"domain": "https://plant.example.com"},
            "sensors.page.domain: must be a domain in lower case, such as plant.example.com,"
            " not 'https://plant.example.com'",
        ),
        (
            "sensors.provisioned_writes",
            {"minimum": 5, "maximum": 4},
            "sensors.provisioned_writes: maximum must be at least minimum",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, key: str, value: object, line: str) -> None:
    path = written(tmp_path, key, value)
    with pytest.raises(StageError) as mistake:
        read_stage(str(path))
    assert str(mistake.value) == f"{path}: {line}"
    assert "\n" not in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sensors.z_factor", 3),
        ("sensors.detector", "laboratory"),
        ("sensors.false_alarm_budget", 0.02),
        (f"{DEVICE}.min_deviation", {"temperature": 1}),
        (f"{DEVICE}.url", "http://127.0.0.1:8808/events"),
        (f"{DEVICE}.url", "http://localhost/events"),
        (f"{DEVICE}.url", "HTTPS://devices.example.com:8443/events?a=b"),
        ("region", "us-gov-west-1"),
        ("sensors.provisioned_writes", {"minimum": 5, "maximum": 5}),
        ("sensors.contacts.bob", {"customers": ["Acme"], "sites": ["Lyon"]}),
    ],
)
def test_what_is_allowed(tmp_path: Path, key: str, value: object) -> None:
    read_stage(str(written(tmp_path, key, value)))


def test_a_misspelt_key_is_named_before_the_one_that_it_leaves_missing(tmp_path: Path) -> None:
    text = (STAGES / "dev.toml").read_text().replace("default_contact", "defualt_contact")
    path = tmp_path / "dev.toml"
    path.write_text(text)
    with pytest.raises(StageError, match=r"sensors\.defualt_contact: unknown key; allowed are .*default_contact"):
        read_stage(str(path))


def test_a_file_that_is_no_stage(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes | None, str]] = {
        "none": (None, "no such stage file; the stages are dev, local, prod, or give the path of a .toml file"),
        "empty": (b"", "region: this key is missing"),
        "broken": (b"region = ", "cannot be read as TOML: Invalid value (at end of document)"),
        "binary": (b"\xff\xfe", "cannot be read as TOML: 'utf-8' codec can't decode byte 0xff in position 0:"),
    }
    for name, (content, line) in cases.items():
        path = tmp_path / f"{name}.toml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(StageError) as mistake:
            read_stage(str(path))
        assert str(mistake.value).startswith(f"{path}: {line}")
        assert "\n" not in str(mistake.value)
    with pytest.raises(StageError, match="no such stage file; the stages are dev, local, prod"):
        read_stage("staging")


def test_a_stage_is_named_by_its_file(tmp_path: Path) -> None:
    path = written(tmp_path, "keep_data", True)
    moved = path.rename(tmp_path / "berlin.toml")
    assert read_stage(str(moved)).name == "berlin"


def test_a_stage_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_stage("dev").region = "us-east-1"


# --- the three stages ---


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def test_a_stage_needs_a_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    path.write_text('region = "eu-central-1"\n')
    with pytest.raises(StageError, match=r"a stage needs a pipeline: \[sensors\], \[etl_jobs\] or both"):
        read_stage(str(path))


@pytest.mark.parametrize("kept", ["sensors", "etl_jobs"])
def test_one_pipeline_is_enough_and_the_other_is_asked_for_in_words(tmp_path: Path, kept: str) -> None:
    path = tmp_path / "one.toml"
    path.write_text(tomli_w.dumps({"region": "eu-central-1", kept: DEV[kept]}))
    stage = read_stage(str(path))
    found = {"sensors": stage.with_sensors, "etl_jobs": stage.with_etl_jobs}
    assert getattr(found.pop(kept)(), kept) == getattr(stage, kept)
    ((missing, ask),) = found.items()
    with pytest.raises(StageError, match=rf"stage one has no .* pipeline: add \[{missing}\] to its file"):
        ask()


def test_the_settings_in_which_stages_differ() -> None:
    """No rule of detection or alerting is among them: what is seen in one stage holds in all."""
    stages = {name: flat(read_stage(name).model_dump()) for name in ("local", "dev", "prod")}
    keys = sorted(set().union(*stages.values()))
    absent = "-"
    rows = {key: tuple(stages[name].get(key, absent) for name in stages) for key in keys}
    assert {key: row for key, row in rows.items() if len(set(map(repr, row))) > 1} == {
        "name": ("local", "dev", "prod"),
        "region": ("us-east-1", "eu-central-1", "eu-central-1"),
        "keep_data": (False, False, True),
        "functions.platform": ("host", "arm64", "arm64"),
        "functions.python": ("host", "3.13", "3.13"),
        "functions.log_retention_days": (1, 14, 90),
        "sensors.export_buckets": (4, 16, 16),
        "sensors.provisioned_writes": (None, None, absent),
        "sensors.provisioned_writes.minimum": (absent, absent, 100),
        "sensors.provisioned_writes.maximum": (absent, absent, 1000),
        "sensors.sources.device.url": (
            "http://127.0.0.1:8808/events",
            "https://devices.example.com/events",
            "https://devices.example.com/events",
        ),
        "sensors.sources.device.secret_name": ("", "overcut/dev/device", "overcut/prod/device"),
        "etl_jobs.lake": ("", "", "s3://example-data-lake/job-runs/"),
        "etl_jobs.buckets": (2, 16, 16),
    }
    assert rows["sensors.consecutive_minutes"] == (5, 5, 5)
    assert rows["sensors.recovery_minutes"] == (30, 30, 30)
    assert rows["sensors.z_factor"] == (2.5, 2.5, 2.5)
