"""`overcut init`: what is asked, what is refused, and that the file is one that a stage can be read from."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stacks.stage import read_stage
from workbench.cli import main


def run(*arguments: str, answers: Sequence[str] = ()) -> Result:
    given = "".join(f"{answer}\n" for answer in answers)
    return CliRunner().invoke(main, ["init", *arguments], input=given, env={"AWS_REGION": "eu-west-1"})


def test_who_only_confirms_gets_a_stage_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "plant.toml"
    ran = run(str(path), answers=[""] * 10)
    assert ran.exit_code == 0, ran.output
    stage = read_stage(str(path)).with_sensors()
    assert (stage.name, stage.region, stage.keep_data, stage.etl_jobs) == ("plant", "eu-west-1", True, None)
    assert stage.sensors.default_contact == "maintenance"
    assert ran.stdout == (
        f"Wrote {path}. Next:\n"
        f"  cdk bootstrap --context stage={path}\n"
        f"  overcut doctor --stage {path}\n"
        f"  cdk deploy --all --context stage={path} --parameters PhoneNumberMaintenance=+NUMBER\n"
    )


def test_every_answer_is_in_the_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "plant.toml"
    answers = ["us-east-2", "ops@example.com", "no", "both", "https://d.example.com/s", "plant/device"]
    answers += ["temperature=C, humidity=%", "day, night-shift", "s3://lake-x/runs", "https://t.example.com/h", "hook"]
    ran = run(str(path), answers=answers)
    assert ran.exit_code == 0, ran.output
    assert tomllib.loads(path.read_text()) == {
        "region": "us-east-2",
        "operations_emails": ["ops@example.com"],
        "keep_data": False,
        "sensors": {
            "default_contact": "day",
            "sources": {
                "device": {
                    "url": "https://d.example.com/s",
                    "secret_name": "plant/device",
                    "measures": {"temperature": "C", "humidity": "%"},
                }
            },
            "contacts": {"day": {}, "night-shift": {}},
        },
        "etl_jobs": {
            "lake": "s3://lake-x/runs/",
            "tickets": {"sink": "webhook", "url": "https://t.example.com/h", "secret_name": "hook"},
        },
    }
    read_stage(str(path))
    for words in (
        "--name plant/device --secret-string 'Bearer TOKEN'",
        "--name hook --secret-string whsec_BASE64",
        "PhoneNumberDay=",
        "PhoneNumberNightShift=",
    ):
        assert words in ran.stdout


def test_a_wrong_answer_is_told_at_once_and_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "plant.toml"
    answers = ["europe", "eu-west-2", "nobody", "", "maybe", "yes", "all", "sensors", "http://x.example.com"]
    answers += ["https://x.example.com", "", "=C", "t=C", "Day Shift", " , ", "day"]
    ran = run(str(path), answers=answers)
    assert ran.exit_code == 0, ran.output
    for words in (
        "Error: region: must be an AWS region, such as eu-central-1, not 'europe'",
        "Error: must be empty or an e-mail address",
        "Error: must be yes or no, not 'maybe'",
        "Error: must be one of sensors, etl-jobs, both, not 'all'",
        "Error: sensors.sources.device.url: must begin with https://",
        "Error: a measure has a name",
        "Error: sensors.contacts.Day Shift: must be a name of lower-case letters",
        "Error: name at least one",
    ):
        assert words in ran.stderr, ran.stderr
    stage = read_stage(str(path)).with_sensors()
    assert (stage.region, list(stage.sensors.contacts)) == ("eu-west-2", ["day"])


def test_without_input_options_and_defaults_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "etl.toml"
    ran = run(str(path), "--no-input", "--pipelines", "etl-jobs", "--region", "us-west-2")
    assert ran.exit_code == 0, ran.output
    assert tomllib.loads(path.read_text()) == {"region": "us-west-2", "keep_data": True, "etl_jobs": {}}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--region", "nowhere"], "--region: region: must be an AWS region"),
        (["--source-url", "ftp://x"], "--source-url: sensors.sources.device.url: must begin with https://"),
        (["--measures", ""], "--measures: sensors.sources.device.measures"),
        (["--pipelines", "etl-jobs", "--lake", "s3://x"], "--lake: etl_jobs.lake: must be empty, or an S3 prefix"),
        (
            ["--pipelines", "etl-jobs", "--webhook-url", "https://x.example.com", "--webhook-secret", ""],
            "--webhook-secret: etl_jobs.tickets: a webhook needs secret_name",
        ),
    ],
)
def test_a_wrong_option_is_told_in_one_sentence_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    ran = run(str(tmp_path / "plant.toml"), "--no-input", *arguments)
    assert ran.exit_code == 1
    assert words in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "question"), [(["{}/plant.toml"], "Region"), ([], "Name of the stage")])
def test_an_input_that_ends_is_told_with_the_question(tmp_path: Path, arguments: list[str], question: str) -> None:
    ran = run(*(one.format(tmp_path) for one in arguments))
    assert ran.exit_code == 1
    assert f"Error: the input ended at '{question}', and nothing is written; answer in a terminal" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_takes_several_values_says_how_to_separate_them(tmp_path: Path) -> None:
    asked = run(str(tmp_path / "plant.toml"), answers=[""] * 10).stderr
    for question in ("Measures", "Who is texted"):
        assert "a comma between two" in next(line for line in asked.splitlines() if question in line)


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "plant.toml"
    path.write_text("mine")
    ran = run(str(path), "--no-input")
    assert (ran.exit_code, path.read_text()) == (1, "mine")
    assert "is there already and is left alone" in ran.stderr


@pytest.mark.parametrize(
    ("path", "words"),
    [("plant.json", "does not end in .toml"), ("My Plant.toml", "name: must be a name of lower-case letters")],
)
def test_a_path_that_is_no_stage_files_is_refused(tmp_path: Path, path: str, words: str) -> None:
    ran = run(str(tmp_path / path), "--no-input")
    assert ran.exit_code == 1
    assert words in ran.stderr


def test_without_a_path_the_name_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.init_command.STAGES", tmp_path)
    assert run(answers=["", "Mine", "mine", *[""] * 10]).exit_code == 0
    assert read_stage(str(tmp_path / "mine.toml")).name == "mine"
    assert run("--no-input").exit_code == 2
