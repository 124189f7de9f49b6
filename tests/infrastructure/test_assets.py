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

STACK = "Overcut-prod-sensors"


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


def template_of(assembly: Path) -> dict[str, Any]:
    template: dict[str, Any] = json.loads((assembly / f"{STACK}.template.json").read_text())
    return template


def test_synthesizing_twice_gives_the_same_assets_and_templates(assemblies: list[Path]) -> None:
    first, second = ({file.name for file in assembly.iterdir()} for assembly in assemblies)
    assert len([name for name in first if name.startswith("asset.")]) == 5, "four functions and the training source"
    assert first == second
    for name in (f"{STACK}.template.json", f"{STACK}.assets.json", "manifest.json"):
        one, other = ((assembly / name).read_bytes() for assembly in assemblies)
        assert one == other, name


def test_two_syntheses_ship_the_same_files(assemblies: list[Path]) -> None:
    first, second = (
        {str(file.relative_to(assembly)): file.read_bytes() for file in assembly.glob("asset.*/**/*") if file.is_file()}
        for assembly in assemblies
    )
    assert len(first) > 100
    assert first == second


def test_every_handler_is_in_its_asset(assemblies: list[Path]) -> None:
    for name, function in functions_of(template_of(assemblies[0])).items():
        asset = assemblies[0] / f"asset.{function['Code']['S3Key'].removesuffix('.zip')}"
        module, _, _ = function["Handler"].rpartition(".")
        assert (asset / module.replace(".", "/")).with_suffix(".py").is_file(), name


def test_nothing_of_another_function_or_of_this_machine_is_shipped(assemblies: list[Path]) -> None:
    for name, function in functions_of(template_of(assemblies[0])).items():
        asset = assemblies[0] / f"asset.{function['Code']['S3Key'].removesuffix('.zip')}"
        handlers = [str(path.relative_to(asset)) for path in asset.glob("lambdas/**/handler.py")]
        assert handlers == [f"lambdas/{name.replace('.', '/')}/handler.py"]
        assert not (asset / "boto3").exists(), "the runtime brings its own"
        for kind in ("*.pyc", "*x86_64*.so", "direct_url.json"):
            assert not list(asset.rglob(kind)), f"{name} ships {kind}"


def test_the_other_tests_look_at_what_is_deployed(assemblies: list[Path]) -> None:
    deployed, looked_at = template_of(assemblies[0]), synthesized("prod")
    assert deployed["Resources"].keys() == looked_at["Resources"].keys()
    assert permissions(deployed) == permissions(looked_at)
    for name, resource in looked_at["Resources"].items():
        if resource["Type"] != "AWS::IAM::Policy":  # its statements may be put together differently
            properties = {k: v for k, v in deployed["Resources"][name].get("Properties", {}).items() if k != "Tags"}
            assert properties == resource.get("Properties", {}), name


def test_everything_that_costs_money_is_tagged_with_its_stage(assemblies: list[Path]) -> None:
    template = template_of(assemblies[0])
    for kind in ("DynamoDB::Table", "Lambda::Function", "S3::Bucket", "SNS::Topic", "StepFunctions::StateMachine"):
        for name, properties in resources_of(template, f"AWS::{kind}").items():
            tags = {tag["Key"]: tag["Value"] for tag in properties["Tags"]}
            assert tags == {"application": "overcut", "stage": "prod"}, name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('region = "eu-central-1"\nkeepdata = true\n', "keepdata: unknown key; allowed are "),
        ("region = eu-central-1\n", "cannot be read as TOML: "),
        ('region = "eu-central-1"\n', "sensors: this key is missing"),
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
