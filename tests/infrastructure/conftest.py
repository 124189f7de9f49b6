"""The Lambda version's Python, what the runtime brings, and each function's bundle made for this machine."""

import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uv

from stacks.constructs.bundling import Target, make_bundle
from stacks.constructs.function import shared_sources
from tests.conftest import ROOT

PYTHON = "3.13"
# what Lambda's Python runtime has beside the standard library: the SDK, and the client that calls the handler
SDK = ("boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "six", "urllib3")
CLIENT = ("awslambdaric", "simplejson", "snapshot-restore-py")


def find_python(version: str) -> str | None:
    """An interpreter of that version: on the path, where uv knows one, or one of pyenv's."""
    known = subprocess.run(
        [uv.find_uv_bin(), "python", "find", "--no-project", "--no-python-downloads", version],
        capture_output=True,
        text=True,
        check=False,
    )
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [
        shutil.which(f"python{version}"),
        known.stdout.strip(),
        *(str(python) for python in sorted(pyenv.glob(f"versions/{version}.*/bin/python"))),
    ]
    for candidate in filter(None, candidates):
        asked = subprocess.run(
            [candidate, "-I", "-c", "import sys; print('{}.{}'.format(*sys.version_info))"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.stdout.strip() == version:
            return candidate
    return None


@dataclass(frozen=True)
class Runtime:
    """A Python, and the folder with what Lambda's runtime would bring for it."""

    python: str
    packages: Path

    def install(self, into: Path, *packages: str) -> None:
        """Install packages, at the versions that the project is locked to, for this Python."""
        subprocess.run(
            [
                *(uv.find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"),
                *("--target", str(into), "--python-version", PYTHON),
                *(f"{name}=={importlib.metadata.version(name)}" for name in packages),
            ],
            cwd=ROOT,
            env={"UV_CACHE_DIR": str(ROOT / ".tools" / "uv-cache"), **os.environ},
            check=True,
        )


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    python = find_python(PYTHON)
    if python is None:
        pytest.skip(f"there is no Python {PYTHON} on this machine, the version that Lambda runs")
    found = Runtime(python, tmp_path_factory.mktemp("runtime"))
    found.install(found.packages, *SDK, *CLIENT)
    return found


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Each function's bundle for this machine, by folder: `sensors.poll_readings`."""
    folder = tmp_path_factory.mktemp("bundles")
    yield {
        f"{pipeline}.{function}": make_bundle(
            f"bundle-{function.replace('_', '-')}",
            [*shared_sources(pipeline), f"lambdas/{pipeline}/{function}"],
            Target("host", PYTHON),
            folder / f"{pipeline}-{function}",
        )
        for pipeline, function in sorted(
            (handler.parts[-3], handler.parts[-2]) for handler in ROOT.glob("lambdas/*/*/handler.py")
        )
    }
    shutil.rmtree(folder)
