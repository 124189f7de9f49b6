"""One stage: everything that may differ between deployments, read once from its TOML file and checked.

This is the only reader of stage files. A wrong key or value ends in one line: the file, the key and what is allowed.
"""

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from overcut import RefusedError
from overcut.etl_jobs.verdicts import Kind
from overcut.sensors.features import Detector
from overcut.sensors.incidents import IncidentKind
from overcut.sensors.sources import FieldMapping, FieldMappingError

STAGES = Path(__file__).parent.parent / "config"
_NAME = r"^[a-z][a-z0-9-]{0,30}$"
_REGION = r"^[a-z]{2}(-[a-z]+)+-\d$"
_SCHEDULE = r"^(rate|cron)\(.+\)$"
_INSTANCE = r"^ml\.[a-z0-9]+\.[a-z0-9]+$"
_LAKE = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/([A-Za-z0-9!_.*()=-]+/)*)?$"
_DAY_FOLDERS = r"^[A-Za-z0-9=%/_.-]+$"
_DOMAIN = r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}$"
_FIELD_PATH = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"
_PATTERNS = {
    _LAKE: "empty, or an S3 prefix that ends in a slash, such as s3://analytics-lake/job-runs/",
    _DAY_FOLDERS: "a folder's name as strftime makes it, such as dt=%Y-%m-%d or %Y/%m/%d",
    _FIELD_PATH: "names with dots between them, such as metrics.rows.loaded",
    _DOMAIN: "a domain in lower case, such as plant.example.com",
    _NAME: "a name of lower-case letters, digits and hyphens, at most 31, that begins with a letter",
    _REGION: "an AWS region, such as eu-central-1",
    _SCHEDULE: 'an EventBridge schedule, such as "cron(30 2 * * ? *)" or "rate(1 day)"',
    _INSTANCE: "a SageMaker training instance, such as ml.m5.large",
}
Name = Annotated[str, Field(pattern=_NAME)]
FieldPath = Annotated[str, Field(pattern=_FIELD_PATH)]


class StageError(RefusedError):
    """A stage file that cannot be used; its text is one line that names file, key and what is allowed."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Functions(_Settings):
    """What functions run on. `host` bundles for the machine that synthesizes: the embedded cloud runs them there."""

    platform: Literal["arm64", "x86_64", "host"] = "arm64"
    python: Literal["3.13", "host"] = "3.13"
    log_retention_days: Literal[1, 3, 7, 14, 30, 60, 90, 180, 365] = 30

    @property
    def python_version(self) -> str:
        return "{}.{}".format(*sys.version_info) if self.python == "host" else self.python


class CapacityUnits(_Settings):
    """Provisioned capacity of a table, scaled automatically in between; a reading takes one write unit."""

    minimum: Annotated[int, Field(ge=1, le=40_000)]
    maximum: Annotated[int, Field(ge=1, le=40_000)]

    @model_validator(mode="after")
    def _ordered(self) -> "CapacityUnits":
        if self.maximum < self.minimum:
            raise ValueError("maximum must be at least minimum")
        return self


def _http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname
    except ValueError:
        scheme, host = "", None
    if not host or not (scheme == "https" or (scheme == "http" and host in {"127.0.0.1", "localhost"})):
        raise ValueError("must begin with https:// (http:// only to this machine)")
    return url


class Source(_Settings):
    """One stream of readings.

    Attributes:
        secret_name: a secret in Secrets Manager that holds the Authorization header's value.
        measures: the unit of each measure it may send.
        sensor_id, measured_at, values: where an event holds the parts of a reading, in JMESPath.
        min_deviation: nobody is woken for less, in the measure's unit; without it, for three of its smallest steps.
    """

    url: Annotated[str, AfterValidator(_http_url)]
    secret_name: str = ""
    measures: Annotated[dict[str, str], Field(min_length=1)]
    sensor_id: str = "sensor_id"
    measured_at: str = "measured_at"
    values: str = "values"
    min_deviation: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}

    @property
    def mapping(self) -> FieldMapping:
        return FieldMapping(self.measures, self.sensor_id, self.measured_at, self.values)

    @model_validator(mode="after")
    def _expressions_compile(self) -> "Source":
        try:
            self.mapping.check()
        except FieldMappingError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _deviations_are_of_measures(self) -> "Source":
        unknown = sorted(self.min_deviation.keys() - self.measures.keys())
        if unknown:
            known = ", ".join(sorted(self.measures))
            raise ValueError(f"min_deviation may be set of {known}, not of {unknown[0]!r}")
        return self


class Contact(_Settings):
    """Somebody to text. Whose equipment, and where; the phone number is a parameter of the stack.

    Attributes:
        escalate_to: the contact who is texted next when this one does not answer; nobody, if empty.
    """

    customers: list[str] = []
    sites: list[str] = []
    escalate_to: str = ""


class Page(_Settings):
    """The page that a text links to.

    Attributes:
        domain: what links begin with, where you have put one in front of the function's own URL.
        link_hours: how long a link works.
        snooze_minutes: when who has snoozed an incident is asked again.
    """

    # a longer one would leave a text too little room
    domain: Annotated[str, Field(pattern=_DOMAIN, max_length=64)] | None = None
    link_hours: Annotated[int, Field(ge=1, le=14 * 24)] = 48
    snooze_minutes: Annotated[int, Field(ge=5, le=24 * 60)] = 60


class Sensors(_Settings):
    """The sensors pipeline.

    Attributes:
        detector: what readings are judged by; "laboratory" is the first laboratory's rule.
        false_alarm_budget: incidents a sensor-week (10,080 readings) that people put up with while nothing is wrong.
        new_normal_after_hours: an incident that lasts longer, and that nobody confirmed, is how things are now.
        silent_after_minutes: who says nothing for longer is silent; of a slow sensor, for five of its intervals.
        texts_per_hour, texts_per_month: that a contact gets at most; what is more is told of in a digest.
        text_spend_limit_usd: what SNS lets the account spend on texts in a month; operations hear of four fifths of it.
        training_overdue_days: operations hear of it when no training succeeded for so long.
        texted_kinds: the kinds of incidents that people are texted about; the others are only kept.
        escalate_after_minutes: an incident that nobody has answered for so long goes to the next contact.
    """

    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    contacts: Annotated[dict[Name, Contact], Field(min_length=1)]
    default_contact: Name
    consecutive_minutes: Annotated[int, Field(ge=2, le=60)] = 5
    recovery_minutes: Annotated[int, Field(ge=5, le=24 * 60)] = 30
    stale_after_minutes: Annotated[int, Field(ge=5, le=24 * 60)] = 30
    group_minutes: Annotated[int, Field(ge=1, le=60)] = 3
    detector: Detector = "channels"
    z_factor: Annotated[float, Field(ge=2.5, le=20)] = 2.5
    false_alarm_budget: Annotated[float, Field(gt=0, le=100)] = 0.1
    new_normal_after_hours: Annotated[int, Field(ge=3, le=31 * 24)] = 24
    texts_per_hour: Annotated[int, Field(ge=1, le=1_000)] = 20
    texts_per_month: Annotated[int, Field(ge=1, le=100_000)] = 500
    text_spend_limit_usd: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] = 1.0
    training_overdue_days: Annotated[int, Field(ge=1, le=7)] = 3
    silent_after_minutes: Annotated[int, Field(ge=5, le=7 * 24 * 60)] = 15
    texted_kinds: list[IncidentKind] = list(get_args(IncidentKind))
    escalate_after_minutes: Annotated[int, Field(ge=1, le=24 * 60)] = 15
    page: Page = Page()
    num_trees: Annotated[int, Field(ge=10, le=200)] = 30
    num_samples_per_tree: Annotated[int, Field(ge=32, le=1024)] = 128
    training_window_days: Annotated[int, Field(ge=1, le=365)] = 14
    training_schedule: Annotated[str, Field(pattern=_SCHEDULE)] = "cron(30 2 * * ? *)"
    training_instance: Annotated[str, Field(pattern=_INSTANCE)] = "ml.m5.large"
    retention_days: Annotated[int, Field(ge=7, le=365)] = 30
    export_buckets: Annotated[int, Field(ge=1, le=256)] = 16
    provisioned_writes: CapacityUnits | None = None

    @model_validator(mode="after")
    def _default_contact_exists(self) -> "Sensors":
        if self.default_contact not in self.contacts:
            known = ", ".join(sorted(self.contacts))
            raise ValueError(f"default_contact must be one of {known}, not {self.default_contact!r}")
        return self

    @model_validator(mode="after")
    def _incidents_escalate_to_others(self) -> "Sensors":
        for name, contact in self.contacts.items():
            others = sorted(self.contacts.keys() - {name})
            if contact.escalate_to and contact.escalate_to not in others:
                allowed = f"one of {', '.join(others)}" if others else "another contact, and there is none"
                raise ValueError(f"contacts.{name}.escalate_to must be {allowed}, not {contact.escalate_to!r}")
        return self


class LakeFields(_Settings):
    """Where a record of the data lake holds what is asked of it: paths of names, with dots between them."""

    job_name: FieldPath = "job.name"
    schedule: FieldPath = "job.schedule"
    time_zone: FieldPath = "job.time_zone"
    run_id: FieldPath = "run.id"
    state: FieldPath = "state"
    occurred_at: FieldPath = "occurred_at"
    recorded_at: FieldPath = "recorded_at"
    started_at: FieldPath = "run.started_at"
    records_processed: FieldPath = "metrics.records.processed"


class Tickets(_Settings):
    """Where tickets go, and what is worth one.

    Attributes:
        url, secret_name: of the webhook; the secret, in Secrets Manager, signs what is sent.
        severity: of an OpsItem, 1 is the highest.
    """

    sink: Literal["ops_center", "webhook"] = "ops_center"
    kinds: Annotated[list[Annotated[Kind, Field(strict=False)]], Field(min_length=1)] = list(Kind)
    severity: Literal["1", "2", "3", "4"] = "3"
    url: str = ""
    secret_name: str = ""

    @model_validator(mode="after")
    def _a_webhook_has_an_address(self) -> "Tickets":
        if self.sink == "webhook":
            _http_url(self.url)
            if not self.secret_name:
                raise ValueError("a webhook needs secret_name: the secret that signs what is sent")
        elif self.url or self.secret_name:
            raise ValueError('url and secret_name are for sink = "webhook"')
        return self


class EtlJobs(_Settings):
    """The ETL pipeline.

    Attributes:
        lake: where orchestrators write state changes, `s3://bucket/prefix/`; empty for `lake/` in our own bucket.
        day_folders: how the lake names the folder of a day, as `strftime` does.
        recent_days: what the hourly extraction reads; a run's states must reach the lake within them.
        buckets: parts that the jobs are judged in, at once.
        false_tickets_per_week: what the people who get the tickets put up with, of all jobs together.
        missed_after_minutes: a run that has not begun so long after its time has not come.
        training_overdue_days: operations hear of it when no training succeeded for so long.
        maximum_vcpus: that extraction may use at once.
    """

    lake: Annotated[str, Field(pattern=_LAKE)] = ""
    day_folders: Annotated[str, Field(pattern=_DAY_FOLDERS)] = "dt=%Y-%m-%d"
    fields: LakeFields = LakeFields()
    training_window_days: Annotated[int, Field(ge=14, le=730)] = 120
    recent_days: Annotated[int, Field(ge=2, le=31)] = 7
    buckets: Annotated[int, Field(ge=1, le=256)] = 16
    false_tickets_per_week: Annotated[float, Field(gt=0, le=1000)] = 1.0
    num_trees: Annotated[int, Field(ge=10, le=500)] = 100
    num_samples_per_tree: Annotated[int, Field(ge=32, le=1024)] = 256
    missed_after_minutes: Annotated[int, Field(ge=10, le=24 * 60)] = 60
    training_schedule: Annotated[str, Field(pattern=_SCHEDULE)] = "cron(30 2 * * ? *)"
    training_overdue_days: Annotated[int, Field(ge=1, le=7)] = 3
    prediction_schedule: Annotated[str, Field(pattern=_SCHEDULE)] = "cron(10 * * * ? *)"
    training_instance: Annotated[str, Field(pattern=_INSTANCE)] = "ml.m5.large"
    maximum_vcpus: Annotated[int, Field(ge=8, le=400)] = 16
    tickets: Tickets = Tickets()


class Stage(_Settings):
    """One deployment, of one pipeline or both.

    Attributes:
        own_key: what is kept is encrypted with a key of the account's own, one a stack, instead of AWS's.
        private_network: training and Spark run in a network of the stack's own, without a way to the internet.
    """

    name: Name
    region: Annotated[str, Field(pattern=_REGION)]
    keep_data: bool = True
    own_key: bool = False
    private_network: bool = False
    clock: str = "system"
    operations_emails: list[str] = []
    functions: Functions = Functions()
    sensors: Sensors | None = None
    etl_jobs: EtlJobs | None = None
    _reference: str = PrivateAttr("")

    @property
    def reference(self) -> str:
        """What `read_stage` was given for it: its name, or its file."""
        return self._reference or self.name

    def referred_to_as(self, reference: str) -> Self:
        self._reference = reference
        return self

    @model_validator(mode="after")
    def _has_a_pipeline(self) -> "Stage":
        if self.sensors is None and self.etl_jobs is None:
            raise ValueError("a stage needs a pipeline: [sensors], [etl_jobs] or both")
        return self

    def with_sensors(self) -> "SensorsStage":
        """This stage, whose sensors pipeline is there.

        Raises:
            StageError: it has none.
        """
        if self.sensors is None:
            raise StageError(f"stage {self.name} has no sensors pipeline: add [sensors] to its file")
        return SensorsStage(**dict(self)).referred_to_as(self.reference)

    def with_etl_jobs(self) -> "EtlJobsStage":
        """This stage, whose ETL pipeline is there.

        Raises:
            StageError: it has none.
        """
        if self.etl_jobs is None:
            raise StageError(f"stage {self.name} has no ETL pipeline: add [etl_jobs] to its file")
        return EtlJobsStage(**dict(self)).referred_to_as(self.reference)

    @model_validator(mode="after")
    def _only_local_sets_the_clock(self) -> "Stage":
        if self.clock != "system" and self.name != "local":
            raise ValueError('clock must be "system": only the local stage may set it')
        return self


class SensorsStage(Stage):
    """A stage with the sensors pipeline."""

    sensors: Sensors


class EtlJobsStage(Stage):
    """A stage with the ETL pipeline."""

    etl_jobs: EtlJobs


def phone_parameter(contact_id: str) -> str:
    """The stack parameter that holds a contact's phone number."""
    return "PhoneNumber" + "".join(part.title() for part in contact_id.split("-"))


def read_stage(name_or_path: str) -> Stage:
    """The stage of that name under config/, or of the file at that path.

    Raises:
        StageError: in one line, for a file that is missing, not TOML, or has a wrong key or value.
    """
    path = Path(name_or_path) if name_or_path.endswith(".toml") else STAGES / f"{name_or_path}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in STAGES.glob("*.toml")))
        raise StageError(
            f"{path}: no such stage file; the stages are {known}, or give the path of a .toml file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise StageError(f"{path}: cannot be read as TOML: {error}") from None
    return make_stage({"name": path.stem, **values}, str(path)).referred_to_as(name_or_path)


def make_stage(values: Mapping[str, Any], where: str) -> Stage:
    """The stage of what a file holds, or would.

    Args:
        where: what the error begins with: the file.

    Raises:
        StageError: in one line, for a wrong key or value.
    """
    try:
        return Stage.model_validate(values)
    except ValidationError as error:
        raise StageError(f"{where}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    # a misspelt key is the likelier reason for one that is missing
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if problem["type"] == "extra_forbidden":
        message = f"unknown key; allowed are {', '.join(_allowed_keys(problem['loc'][:-1]))}"
    elif problem["type"] == "missing":
        message = "this key is missing"
    elif problem["type"] in ("model_type", "dict_type"):
        message = f"must be a table, not {problem['input']!r}"
    elif problem["type"] == "string_pattern_mismatch":
        message = f"must be {_PATTERNS[problem['ctx']['pattern']]}, not {problem['input']!r}"
    elif not isinstance(problem["input"], dict):
        message += f", not {problem['input']!r}"
    return " ".join((f"{key}: {message}" if key else message).split())


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys of the settings at `location`."""
    here: Any = Stage
    for part in location:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[str(part)].annotation
        else:
            here = get_args(here)[-1]  # a table by name: its values
        if get_origin(here) is not dict:
            here = next((one for one in get_args(here) if isinstance(one, type)), here)  # of `X | None`, X
    return sorted(here.model_fields)
