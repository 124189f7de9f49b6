"""Importing does nothing: every module is imported where there is no environment, and nothing asks for AWS."""

import os
import subprocess
import sys

from tests.conftest import ROOT

PACKAGES = ("overcut", "lambdas", "training", "stacks", "workbench")
IMPORT_EVERYTHING = """
import importlib, sys
import boto3, botocore.session

def refuse(*arguments, **options):
    raise AssertionError("a client was made while a module was imported")

botocore.session.Session.create_client = refuse
boto3.session.Session.client = boto3.session.Session.resource = refuse
boto3.client = boto3.resource = refuse
for module in sys.argv[1:]:
    try:
        importlib.import_module(module)
    except BaseException as error:
        raise SystemExit(f"{module}: {error!r}")
"""


def modules() -> list[str]:
    """Every module of the project; `__main__` is a start, not an import."""
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    dotted = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if file.name != "__main__.py")
    return [name.removesuffix(".__init__") for name in dotted]


def test_every_module_is_imported_without_an_environment() -> None:
    assert len(modules()) > 40
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", IMPORT_EVERYTHING, *modules()],
        cwd=ROOT,
        env={"PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
