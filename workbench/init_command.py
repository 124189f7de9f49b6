"""`overcut init`: writes a stage file by asking."""

import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import tomli_w

from stacks.stage import STAGES, StageError, make_stage, phone_parameter

PIPELINES = ("sensors", "etl-jobs", "both")
# what is not asked about yet: a stage that is valid, so that an error is about the answer
_SENSORS: dict[str, Any] = {
    "default_contact": "maintenance",
    "sources": {"device": {"url": "https://devices.example.com/events", "measures": {"temperature": "C"}}},
    "contacts": {"maintenance": {}},
}
_VALID: dict[str, Any] = {"name": "plant", "region": "eu-central-1", "sensors": _SENSORS}


class Answers:
    """What was said by an option, else by answering, else by default; each is valid when it is taken.

    Args:
        given: by option; None was not said.
        asks: whether to ask for what no option says.
    """

    def __init__(self, given: Mapping[str, str | None], asks: bool) -> None:
        self._given = given
        self._asks = asks

    def take(self, option: str, question: str, default: str, check: Callable[[str], object]) -> str:
        """The answer to a question; asked again until it is valid.

        Raises:
            ClickException: what the option, or the default, says is not.
        """
        said = self._given[option]
        if said is None and self._asks:
            return _prompted(question, check, default)
        try:
            return str(_checked(check)(default if said is None else said))
        except click.BadParameter as error:
            raise click.ClickException(f"--{option.replace('_', '-')}: {error.message}") from error


def _prompted(question: str, check: Callable[[str], object], default: str | None = None) -> str:
    try:
        return str(click.prompt(question, default=default, value_proc=_checked(check), err=True))
    except click.Abort as error:
        if isinstance(error.__context__, EOFError):
            raise click.ClickException(
                f"the input ended at {question!r}, and nothing is written; answer in a terminal,"
                " or give the answers by options and --no-input"
            ) from None
        raise


def _checked(check: Callable[[str], object]) -> Callable[[str], str]:
    def checked(said: str) -> str:
        try:
            check(said.strip())
        except StageError as error:
            raise click.BadParameter(_told(error)) from error
        return said.strip()

    return checked


def _try(**settings: Any) -> None:
    """Whether a stage takes these settings."""
    make_stage({**_VALID, **settings}, "no")


def _told(error: StageError) -> str:
    """What a stage says of an answer, without the file that there is none of yet."""
    return str(error).partition(": ")[2]


@click.command("init")
@click.argument("path", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--region", help="AWS region to deploy to.")
@click.option("--pipelines", type=click.Choice(PIPELINES), help="What to deploy.")
@click.option("--source-url", help="Where devices stream readings: https://...")
@click.option("--secret-name", help="The secret in Secrets Manager that holds the Authorization header's value.")
@click.option("--measures", metavar="NAME=UNIT,...", help="What is measured, such as temperature=C,humidity=%.")
@click.option("--contacts", metavar="NAME,...", help="Who is texted; the first hears of what nobody else does.")
@click.option("--lake", help="Where orchestrators write job runs: s3://bucket/prefix/; empty for a bucket of its own.")
@click.option("--webhook-url", help="Where tickets go; empty for OpsCenter.")
@click.option("--webhook-secret", help="The secret in Secrets Manager that signs what is sent to the webhook.")
@click.option("--operations-email", help="Who hears of alarms.")
@click.option("--keep-data", type=click.Choice(("yes", "no")), help="Whether data stays when the stack is deleted.")
@click.option("--no-input", is_flag=True, help="Ask nothing: what no option says is as its default.")
def init(path: Path | None, no_input: bool, **given: str | None) -> None:
    """Write a stage file by asking what must be known.

    PATH ends in .toml; its name is the stage's. Without it, the name is asked for, and the file lies in config/. A file
    that is there is left alone. Every question has its option.
    """
    answers = Answers(given, asks=not no_input)
    path = path or _asked_path(no_input)
    if path.suffix != ".toml":
        raise click.ClickException(f"{path} does not end in .toml; a stage file does")
    _check(lambda: _try(name=path.stem), str(path))
    if path.exists():
        raise click.ClickException(f"{path} is there already and is left alone; give another path, or edit it")
    stage = _stage(answers)
    made = make_stage({"name": path.stem, **stage}, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(tomli_w.dumps(stage))
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror or error}") from error
    _tell_next(path, stage, made.region)


def _check(check: Callable[[], object], what: str) -> None:
    try:
        check()
    except StageError as error:
        raise click.ClickException(f"{what}: {_told(error)}") from error


def _asked_path(no_input: bool) -> Path:
    if no_input:
        raise click.UsageError("say where to write: overcut init config/plant.toml --no-input")
    return STAGES / f"{_prompted('Name of the stage', lambda said: _try(name=said))}.toml"


def _stage(answers: Answers) -> dict[str, Any]:
    """The settings that were said, and no others: what is left out stays at its default when that changes."""
    here = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "eu-central-1"
    stage: dict[str, Any] = {"region": answers.take("region", "Region", here, lambda said: _try(region=said))}
    email = answers.take("operations_email", "E-mail of who hears of alarms, empty for nobody", "", _address)
    if email:
        stage["operations_emails"] = [email]
    keep = answers.take("keep_data", "Keep data when the stack is deleted (yes, no)", "yes", _yes_or_no)
    stage["keep_data"] = keep == "yes"
    pipelines = answers.take("pipelines", f"What to deploy ({', '.join(PIPELINES)})", "sensors", _pipelines)
    if pipelines != "etl-jobs":
        stage["sensors"] = _sensors(answers)
    if pipelines != "sensors":
        stage["etl_jobs"] = _etl_jobs(answers)
    return stage


def _sensors(answers: Answers) -> dict[str, Any]:
    source = _SENSORS["sources"]["device"]

    def try_source(**settings: Any) -> None:
        _try(sensors={**_SENSORS, "sources": {"device": {**source, **settings}}})

    def try_contacts(said: str) -> None:
        names = _names(said)
        _try(sensors={**_SENSORS, "contacts": {name: {} for name in names}, "default_contact": names[0]})

    url = answers.take(
        "source_url",
        "Where devices stream readings (`overcut sources check URL` shows what they send)",
        source["url"],
        lambda said: try_source(url=said),
    )
    secret = answers.take(
        "secret_name",
        "Name of the secret that holds the Authorization header ('Bearer TOKEN'), empty for none",
        "",
        lambda said: None,
    )
    measures = answers.take(
        "measures",
        "Measures with their units, a comma between two (temperature=C,humidity=%)",
        "temperature=C",
        lambda said: try_source(measures=_measures(said)),
    )
    contacts = _names(
        answers.take(
            "contacts", "Who is texted, a comma between two; the first hears of the rest", "maintenance", try_contacts
        )
    )
    return {
        "default_contact": contacts[0],
        "sources": {
            "device": {
                "url": url,
                **({"secret_name": secret} if secret else {}),
                "measures": _measures(measures),
            }
        },
        "contacts": {name: {} for name in contacts},
    }


def _etl_jobs(answers: Answers) -> dict[str, Any]:
    def try_tickets(**settings: str) -> None:
        whole = {"sink": "webhook", "url": "https://example.com", "secret_name": "s", **settings}
        _try(etl_jobs={"tickets": whole})

    settings: dict[str, Any] = {}
    lake = answers.take(
        "lake",
        "Where orchestrators write job runs, s3://bucket/prefix/, empty for a bucket of its own",
        "",
        lambda said: _try(etl_jobs={"lake": _folder(said)}),
    )
    if lake:
        settings["lake"] = _folder(lake)
    url = answers.take(
        "webhook_url",
        "Where tickets go, empty for OpsCenter",
        "",
        lambda said: try_tickets(url=said) if said else None,
    )
    if url:
        secret = answers.take(
            "webhook_secret",
            "Secret that signs what is sent there",
            "overcut/webhook",
            lambda said: try_tickets(secret_name=said),
        )
        settings["tickets"] = {"sink": "webhook", "url": url, "secret_name": secret}
    return settings


def _folder(said: str) -> str:
    return said if not said or said.endswith("/") else f"{said}/"


def _address(said: str) -> None:
    if said and ("@" not in said or " " in said):
        raise StageError(f"no: must be empty or an e-mail address, such as ops@example.com, not {said!r}")


def _yes_or_no(said: str) -> None:
    if said not in ("yes", "no"):
        raise StageError(f"no: must be yes or no, not {said!r}")


def _pipelines(said: str) -> None:
    if said not in PIPELINES:
        raise StageError(f"no: must be one of {', '.join(PIPELINES)}, not {said!r}")


def _names(said: str) -> list[str]:
    names = [name.strip() for name in said.split(",") if name.strip()]
    if not names:
        raise StageError("no: name at least one, such as maintenance")
    return names


def _measures(said: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in said.split(",") if pair.strip()]
    if any(not name.strip() for name, _, _ in pairs):
        raise StageError(f"no: a measure has a name: temperature=C, not {said!r}")
    return {name.strip(): unit.strip() for name, _, unit in pairs}


def _tell_next(path: Path, stage: Mapping[str, Any], region: str) -> None:
    """What is left to do, as it is typed."""
    named = path.stem if path.parent == STAGES else shlex.quote(str(path))
    click.echo(f"Wrote {path}. Next:")
    # the whole value of the Authorization header, and what a webhook's signature is made with
    secrets = {one["secret_name"]: "'Bearer TOKEN'" for one in _sources(stage) if "secret_name" in one}
    if tickets := stage.get("etl_jobs", {}).get("tickets"):
        secrets[tickets["secret_name"]] = "whsec_BASE64"
    for secret, value in secrets.items():
        click.echo(f"  aws secretsmanager create-secret --region {region} --name {secret} --secret-string {value}")
    click.echo(f"  cdk bootstrap --context stage={named}")
    click.echo(f"  overcut doctor --stage {named}")
    phones = "".join(
        f" --parameters {phone_parameter(name)}=+NUMBER" for name in stage.get("sensors", {}).get("contacts", ())
    )
    click.echo(f"  cdk deploy --all --context stage={named}{phones}")


def _sources(stage: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(stage.get("sensors", {}).get("sources", {}).values())
