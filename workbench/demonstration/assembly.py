"""A saved assembly is deployed again while nothing it was made from has changed."""

import hashlib
import platform
from collections.abc import Iterator
from pathlib import Path

from workbench.cloud.deploy import Deployment
from workbench.cloud.processes import CHECKOUT

_MADE_FROM = ("app.py", "cdk.json", "uv.lock", "package-lock.json", "overcut", "lambdas", "training", "stacks")


def synthesized(deployment: Deployment, stage_file: Path) -> bool:
    """Make the assembly of a stage file, or find it made; return whether it had to be made.

    Raises:
        DeployError: the app failed.
    """
    mark = deployment.assembly / "made-from"
    made_from = _fingerprint(stage_file)
    if mark.exists() and mark.read_text() == made_from:
        return False
    # an assembly that was begun and not finished is nobody's
    mark.unlink(missing_ok=True)
    deployment.synthesize(str(stage_file))
    mark.write_text(made_from)
    return True


def _fingerprint(stage_file: Path) -> str:
    digest = hashlib.sha256(platform.python_version().encode())
    for file in [stage_file, *_sources()]:
        digest.update(f"\n{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    for name in _MADE_FROM:
        path = CHECKOUT / name
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))
