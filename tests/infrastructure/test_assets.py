"""`app.py` run as the CDK command line runs it: without an account, without Docker, the same bytes each time."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, resources_of, synthesized
from tests.infrastructure.templates import functions_of, permissions
from workbench.cloud.environment import without_aws

STACKS = {"sensors": "Overcut-prod-sensors", "etl_jobs": "Overcut-prod-etl-jobs"}
EVERY_PIPELINE = pytest.mark.parametrize("pipeline", list(STACKS))


def start(stage: str, output: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the app as `cdk synth --context stage=...` does."""
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    return subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env={
            **without_aws(os.environ),
            "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "CDK_DOCKER": "/bin/false",
            "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1",
            "CDK_CONTEXT_JSON": json.dumps({**context, "stage": stage}),
            "CDK_OUTDIR": str(output),
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def assemblies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two syntheses of prod, by two processes that order their sets differently."""
    outputs = [tmp_path_factory.mktemp("assembly") for _ in range(2)]
    processes = [start("prod", output, PYTHONHASHSEED=str(seed)) for seed, output in enumerate(outputs, start=1)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return outputs


def template_of(assembly: Path, pipeline: str) -> dict[str, Any]:
    template: dict[str, Any] = json.loads((assembly / f"{STACKS[pipeline]}.template.json").read_text())
    return template


def test_synthesizing_twice_gives_the_same_assets_and_templates(assemblies: list[Path]) -> None:
    first, second = ({file.name for file in assembly.iterdir()} for assembly in assemblies)
    shipped = [name for name in first if name.startswith("asset.")]
    assert len(shipped) == 12, "nine functions, two training sources and the extraction"
    assert first == second
    of_stacks = [f"{stack}.{kind}.json" for stack in STACKS.values() for kind in ("template", "assets")]
    for name in (*of_stacks, "manifest.json"):
        one, other = ((assembly / name).read_bytes() for assembly in assemblies)
        assert one == other, name


def test_two_syntheses_ship_the_same_files(assemblies: list[Path]) -> None:
    first, second = (
        {str(file.relative_to(assembly)): file.read_bytes() for file in assembly.glob("asset.*/**/*") if file.is_file()}
        for assembly in assemblies
    )
    assert len(first) > 100
    assert first == second


@EVERY_PIPELINE
def test_every_handler_is_in_its_asset(assemblies: list[Path], pipeline: str) -> None:
    for name, function in functions_of(template_of(assemblies[0], pipeline)).items():
        asset = assemblies[0] / f"asset.{function['Code']['S3Key'].removesuffix('.zip')}"
        module, _, _ = function["Handler"].rpartition(".")
        assert (asset / module.replace(".", "/")).with_suffix(".py").is_file(), name


@EVERY_PIPELINE
def test_nothing_of_another_function_or_of_this_machine_is_shipped(assemblies: list[Path], pipeline: str) -> None:
    for name, function in functions_of(template_of(assemblies[0], pipeline)).items():
        asset = assemblies[0] / f"asset.{function['Code']['S3Key'].removesuffix('.zip')}"
        handlers = [str(path.relative_to(asset)) for path in asset.glob("lambdas/**/handler.py")]
        assert handlers == [f"lambdas/{name.replace('.', '/')}/handler.py"]
        assert not (asset / "boto3").exists(), "the runtime brings its own"
        for kind in ("*.pyc", "*x86_64*.so", "direct_url.json"):
            assert not list(asset.rglob(kind)), f"{name} ships {kind}"


@EVERY_PIPELINE
def test_the_other_tests_look_at_what_is_deployed(assemblies: list[Path], pipeline: str) -> None:
    deployed, looked_at = template_of(assemblies[0], pipeline), synthesized("prod", pipeline)
    assert deployed["Resources"].keys() == looked_at["Resources"].keys()
    assert permissions(deployed) == permissions(looked_at)
    for name, resource in looked_at["Resources"].items():
        if resource["Type"] != "AWS::IAM::Policy":  # its statements may be put together differently
            properties = {k: v for k, v in deployed["Resources"][name].get("Properties", {}).items() if k != "Tags"}
            assert properties == resource.get("Properties", {}), name


@EVERY_PIPELINE
def test_everything_that_costs_money_is_tagged_with_its_stage(assemblies: list[Path], pipeline: str) -> None:
    template = template_of(assemblies[0], pipeline)
    for kind in ("DynamoDB::Table", "Lambda::Function", "S3::Bucket", "SNS::Topic", "StepFunctions::StateMachine"):
        for name, properties in resources_of(template, f"AWS::{kind}").items():
            tags = {tag["Key"]: tag["Value"] for tag in properties["Tags"]}
            assert tags == {"application": "overcut", "stage": "prod"}, name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('region = "eu-central-1"\nkeepdata = true\n', "keepdata: unknown key; allowed are "),
        ("region = eu-central-1\n", "cannot be read as TOML: "),
        ('region = "eu-central-1"\n', "a stage needs a pipeline: [sensors], [etl_jobs] or both"),
    ],
)
def test_a_wrong_stage_file_ends_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    process = start(str(file), tmp_path / "assembly")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith(f"{file}: {message}")
