"""The ETL training script under the container's contract: arguments, environment, model directory, and nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from moto import mock_aws

from lambdas.runtime.objects import Bucket
from overcut.etl_jobs.job_runs import JobRun
from overcut.etl_jobs.layout import Promoted, decision_key, historical_prefix, model_key
from overcut.etl_jobs.model import dump_model, load_model
from overcut.etl_jobs.predictions import predict
from overcut.etl_jobs.training import train
from tests.conftest import ROOT
from tests.functional.aws_over_http import aws_over_http
from tests.functional.conftest import REGION, clients
from tests.functional.etl_job_rows import PART, recorded, to_parquet, write_historical
from tests.unit.generated_job_runs import START, fleet, history
from training.etl_jobs.train import TrainingParameters, effective

DAY = timedelta(days=1)
UNTIL = START + 110 * DAY
JOB = "etl-jobs-0123-0"
HYPERPARAMETERS = {"until": UNTIL.isoformat(), "num_trees": "50", "num_samples_per_tree": "128"}


@dataclass(frozen=True)
class Ran:
    returncode: int
    stdout: str
    stderr: str
    model_dir: Path
    decision: dict[str, Any]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        s3 = clients()[1]
        s3.create_bucket(Bucket="overcut-data")
        yield Bucket(s3, "overcut-data")


def run_training(data: Bucket, folder: Path, **hyperparameters: str) -> Ran:
    """Run the script as the container does: a process with its own environment."""
    model_dir = folder / "model"
    model_dir.mkdir(exist_ok=True)
    arguments = [
        part for name, value in {**HYPERPARAMETERS, **hyperparameters}.items() for part in (f"--{name}", value)
    ]
    with aws_over_http() as endpoint:
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-m", "training.etl_jobs.entry_point", *arguments],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_DEFAULT_REGION": REGION,
                "SM_MODEL_DIR": str(model_dir),
                "TRAINING_JOB_NAME": JOB,
                "DATA_BUCKET": data.bucket,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    decided = decision_key(JOB) in data.keys("models/")
    decision = json.loads(data.get(decision_key(JOB))) if decided else {}
    return Ran(ran.returncode, ran.stdout, ran.stderr, model_dir, decision)


def promoted(data: Bucket) -> list[Promoted]:
    return sorted(map(Promoted.from_key, data.keys("models/etl_jobs/promoted/")))


def before(runs: Sequence[JobRun]) -> list[JobRun]:
    return [run for run in runs if run.started_at < UNTIL]


def test_the_first_model_is_promoted_and_says_what_it_was_trained_on(data: Bucket, tmp_path: Path) -> None:
    declared = [replace(run, time_zone="Europe/Berlin", schedule="0 3 * * *") for run in fleet(6)]
    write_historical(data, [*declared, *history("new", count=5)])
    ran = run_training(data, tmp_path)
    assert ran.returncode == 0, ran.stderr
    (one,) = promoted(data)
    decision = dict(ran.decision)
    seconds = (one.effective_from - UNTIL).total_seconds()
    assert 1 <= seconds < 100
    assert seconds == int(seconds)
    assert isinstance(decision.pop("score_cutoff"), float)
    assert decision == {
        "decision": "promoted",
        "reason": "the first model; it knows 6 jobs",
        "model_version": one.model_version,
        "effective_from": one.effective_from.isoformat().replace("+00:00", "Z"),
        "jobs": 6,
        "learning": 1,
        "runs": 6 * 110 + 5,
        "refused": 0,
        "window_from": (UNTIL - 120 * DAY).isoformat().replace("+00:00", "Z"),
        "window_to": UNTIL.isoformat().replace("+00:00", "Z"),
    }
    assert json.loads((ran.model_dir / "decision.json").read_text()) == ran.decision

    stored = data.get(one.key)
    assert stored == data.get(model_key(one.model_version))
    model = load_model(stored)
    known = model.jobs.get("load_00")
    assert known is not None
    assert (known.schedule, known.time_zone) == ("0 3 * * *", "Europe/Berlin")
    # what a training in this process gives of the same runs
    here = train(
        [*before(declared), *history("new", count=5)],
        trained_until=UNTIL,
        num_trees=50,
        num_samples_per_tree=128,
        seed=0,
    )
    assert here.model_version == model.model_version
    assert predict(here, [], declared[110:115]) == predict(model, [], declared[110:115])


def test_the_window_is_as_long_as_it_is_told(data: Bucket, tmp_path: Path) -> None:
    write_historical(data, fleet(3))
    ran = run_training(data, tmp_path, window_days="20.5")
    assert ran.decision["runs"] == 3 * 20
    assert ran.decision["window_from"] == (UNTIL - 20.5 * DAY).isoformat().replace("+00:00", "Z")


def test_a_worse_model_is_held_and_the_one_before_it_goes_on(data: Bucket, tmp_path: Path) -> None:
    earlier = train(before(fleet(10)), trained_until=UNTIL - DAY, seed=1)
    data.put(Promoted(UNTIL - DAY, earlier.model_version).key, dump_model(earlier))
    write_historical(data, fleet(4))
    ran = run_training(data, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.decision["decision"] == "held"
    assert "only 4 of the 10 running jobs" in ran.decision["reason"]
    assert (ran.decision["effective_from"], ran.decision["jobs"]) == (None, 4)
    assert [one.model_version for one in promoted(data)] == [earlier.model_version]
    assert load_model(data.get(model_key(ran.decision["model_version"]))).jobs.names == [f"load_0{k}" for k in range(4)]


def test_a_model_like_the_newest_promoted_one_is_promoted_beside_it(data: Bucket, tmp_path: Path) -> None:
    newest = train(before(fleet(5)), trained_until=UNTIL - DAY, seed=1)
    data.put(Promoted(UNTIL - DAY, newest.model_version).key, dump_model(newest))
    data.put(Promoted(UNTIL - 9 * DAY, "old").key, b"a model of long ago, which nobody reads")
    write_historical(data, fleet(5))
    ran = run_training(data, tmp_path)
    assert ran.decision["decision"] == "promoted", ran.stderr
    assert f"5 of the 5 running jobs that model {newest.model_version} knew" in ran.decision["reason"]
    assert "of the last week's 35 runs" in ran.decision["reason"]
    assert len(promoted(data)) == 3


def test_a_promoted_model_of_an_older_code_is_not_compared_with(data: Bucket, tmp_path: Path) -> None:
    data.put(Promoted(UNTIL - DAY, "old").key, b"no model")
    write_historical(data, fleet(3))
    ran = run_training(data, tmp_path)
    assert ran.decision["decision"] == "promoted", ran.stderr
    assert "the promoted model old is not compared with" in ran.stdout


def test_too_little_history_is_held_and_says_how_much_there_is(data: Bucket, tmp_path: Path) -> None:
    write_historical(data, [*history("one", count=7), *history("two", count=3)])
    ran = run_training(data, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.decision["decision"] == "held"
    assert "the 8 succeeded runs" in ran.decision["reason"]
    assert "2 jobs, and none has more than 7" in ran.decision["reason"]
    assert (ran.decision["jobs"], ran.decision["learning"], ran.decision["runs"]) == (0, 2, 10)
    assert [ran.decision[name] for name in ("model_version", "effective_from", "score_cutoff")] == [None] * 3
    assert data.keys("models/") == [decision_key(JOB)]


def test_without_history_the_job_fails_and_says_what_to_do(data: Bucket, tmp_path: Path) -> None:
    write_historical(data, [run for run in fleet(2) if run.started_at > UNTIL])
    ran = run_training(data, tmp_path)
    assert ran.returncode != 0
    assert "run the extraction of the history first" in ran.stderr
    assert (data.keys("models/"), list(ran.model_dir.iterdir())) == ([], [])


def test_rows_that_can_be_no_run_are_counted_and_left_out(data: Bucket, tmp_path: Path) -> None:
    runs = fleet(2)
    write_historical(data, runs)
    day = runs[50].started_at.date()
    rows = [recorded(run) for run in runs if run.started_at.date() == day]
    object.__setattr__(rows[0].run, "run_time_seconds", -1.0)
    data.put(historical_prefix(day) + PART, to_parquet(rows))
    ran = run_training(data, tmp_path)
    assert (ran.decision["runs"], ran.decision["refused"]) == (2 * 110 - 1, 1), ran.stderr
    assert "1 rows of history are left out: run_time_seconds must be" in ran.stdout


def test_it_comes_into_force_as_long_after_until_as_its_workflow_took(data: Bucket, tmp_path: Path) -> None:
    write_historical(data, fleet(2))
    started = datetime.now(UTC) - timedelta(minutes=20)
    run_training(data, tmp_path, workflow_started_at=started.isoformat())
    (one,) = promoted(data)
    assert timedelta(minutes=20) < one.effective_from - UNTIL < timedelta(minutes=22)


@pytest.mark.parametrize(
    ("until", "seconds", "expected"),
    [
        (datetime(2026, 3, 2, 2, 0, tzinfo=UTC), 61.2, datetime(2026, 3, 2, 2, 1, 2, tzinfo=UTC)),
        (datetime(2026, 3, 2, 2, 0, 0, 500_000, tzinfo=UTC), 1.0, datetime(2026, 3, 2, 2, 0, 2, tzinfo=UTC)),
        (datetime(2026, 3, 2, 2, 0, tzinfo=UTC), -5.0, datetime(2026, 3, 2, 2, 0, tzinfo=UTC)),
    ],
)
def test_the_moment_is_rounded_up_to_a_second(until: datetime, seconds: float, expected: datetime) -> None:
    assert effective(until, seconds) == expected


def test_the_hyperparameters_have_the_defaults_of_the_backtest() -> None:
    parameters = TrainingParameters.parse(["--until", "2026-03-02T03:00:00+01:00"])
    assert parameters.until == datetime(2026, 3, 2, 2, tzinfo=UTC)
    assert parameters.window == timedelta(days=120)
    assert (parameters.false_tickets_per_week, parameters.num_trees, parameters.num_samples_per_tree) == (1.0, 100, 256)
    with pytest.raises(SystemExit):
        TrainingParameters.parse(["--until", "2026-03-02T03:00:00"])
