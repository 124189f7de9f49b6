"""Each bundle is whole: an interpreter of the Lambda version that has nothing else imports its handler."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from stacks.constructs.bundling import Target, make_bundle
from stacks.constructs.function import shared_sources
from tests.conftest import synthesized
from tests.infrastructure.conftest import Runtime
from tests.infrastructure.templates import functions_of, text

IMPORT = """
import importlib, os, socket, sys
def refuse(*arguments, **named):
    raise AssertionError(f"a socket, while it starts: {arguments}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
folders, name = sys.argv[1:-1], sys.argv[-1]
sys.path[:0] = folders
module = importlib.import_module(name)
assert module.__file__.startswith(folders[0]), module.__file__
if name.endswith(".handler"):
    assert callable(module.handler)
    assert module.dependencies.cache_info().currsize == ("AWS_LAMBDA_FUNCTION_NAME" in os.environ)
strangers = {
    where.split("/site-packages/")[0]
    for where in (getattr(m, "__file__", None) or "" for m in list(sys.modules.values()))
    if "/site-packages/" in where
}
assert not strangers, f"imported from outside the bundle: {strangers}"
"""


def import_alone(
    python: str, module: str, *folders: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Import a module where only `folders` and the standard library are, no socket, and no other environment."""
    return subprocess.run(
        [python, "-I", "-S", "-B", "-c", IMPORT, *map(str, folders), module],
        cwd="/",
        env=dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_there_is_a_bundle_for_each_deployed_function(bundles: dict[str, Path]) -> None:
    deployed = [functions_of(synthesized("prod", pipeline)) for pipeline in ("sensors", "etl_jobs")]
    assert bundles.keys() == deployed[0].keys() | deployed[1].keys()


def test_each_bundle_is_imported_alone(runtime: Runtime, bundles: dict[str, Path]) -> None:
    for function, bundle in bundles.items():
        done = import_alone(runtime.python, f"lambdas.{function}.handler", bundle, runtime.packages)
        assert done.returncode == 0, f"{function}: {done.stderr}"


def test_each_function_starts_without_a_network(runtime: Runtime, bundles: dict[str, Path]) -> None:
    for function, bundle in bundles.items():
        template = synthesized("prod", function.partition(".")[0])
        settings = functions_of(template)[function]["Environment"]["Variables"]
        on_aws = {
            "AWS_LAMBDA_FUNCTION_NAME": function,
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            **{key: text(value) for key, value in settings.items()},
        }
        done = import_alone(runtime.python, f"lambdas.{function}.handler", bundle, runtime.packages, environment=on_aws)
        assert done.returncode == 0, f"{function}: {done.stderr}"


@pytest.mark.parametrize("pipeline", ["sensors", "etl_jobs"])
def test_a_training_bundle_needs_only_what_the_image_has(runtime: Runtime, tmp_path: Path, pipeline: str) -> None:
    """It is made for Python 3.11, and the image's may be newer: its wheels must fit that as well."""
    bundle = make_bundle(
        f"bundle-train-{pipeline.replace('_', '-')}",
        [*shared_sources(pipeline), "training/__init__.py", f"training/{pipeline}"],
        Target("host", "3.11"),
        tmp_path / "bundle",
    )
    runtime.install(tmp_path / "image", "numpy")
    done = import_alone(runtime.python, f"training.{pipeline}.train", bundle, runtime.packages, tmp_path / "image")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("function", ["sensors.poll_readings"])
def test_a_bundle_that_lacks_a_library_is_noticed(runtime: Runtime, bundles: dict[str, Path], function: str) -> None:
    done = import_alone(runtime.python, f"lambdas.{function}.handler", bundles[function])
    assert done.returncode != 0
    assert "No module named 'boto3'" in done.stderr
