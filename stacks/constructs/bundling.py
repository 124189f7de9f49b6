"""Bundles: what is shipped to Lambda and SageMaker, made on this machine without Docker.

A bundle's bytes are a function of the sources, the lock file and the platform alone, so an unchanged function keeps its
asset hash. The AWS SDK is not in it: Lambda's runtime and SageMaker's image bring theirs.
"""

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import uv

from overcut import OvercutError

ROOT = Path(__file__).parent.parent.parent
# wheels are looked for from the newest baseline that Lambda's and SageMaker's systems have
_PLATFORMS = {"arm64": "aarch64-manylinux_2_28", "x86_64": "x86_64-manylinux_2_28"}
_NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "*.pyc")


class BundlingError(OvercutError):
    """A bundle could not be made; its text ends with what the installer said."""


@dataclass(frozen=True)
class Target:
    """What a bundle runs on.

    Attributes:
        platform: `arm64`, `x86_64`, or `host` for this machine.
        python_version: such as 3.13.
    """

    platform: str
    python_version: str


def make_bundle(group: str, sources: Iterable[str], target: Target, into: Path) -> Path:
    """Make the bundle of a dependency group and some of the project's own sources.

    Args:
        group: in pyproject.toml; its locked versions are installed, checked by hash.
        sources: files and folders of the project, by path from its root.
        into: the folder to make it in; what is there is replaced.

    Returns:
        `into`.

    Raises:
        BundlingError: a dependency has no wheel for the target, or could not be had.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    install(group, target, into)
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, into / source, ignore=_NOT_SHIPPED)
        else:
            (into / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / source, into / source)
    return into


def install(group: str, target: Target, into: Path, project: Path = ROOT) -> None:
    """Install the packages of a dependency group into a folder, at their locked versions, checked by hash.

    Args:
        project: the folder of `pyproject.toml` and `uv.lock`.

    Raises:
        BundlingError: one has no wheel for the target, or could not be had.
    """
    # it names each wheel's address, so nothing is asked of an index and what was had once is had without a network
    locked = into.parent / f"pylock.{into.name.replace('.', '-')}.toml"
    _uv(
        project,
        *("export", "--frozen", "--no-emit-project", "--only-group", group),
        *("--quiet", "--format", "pylock.toml", "--output-file", str(locked)),
    )
    platform = ["--python-platform", _PLATFORMS[target.platform]] if target.platform in _PLATFORMS else []
    _uv(
        project,
        *("pip", "install", "--quiet", "--target", str(into), "--requirements", str(locked)),
        *("--require-hashes", "--no-deps", "--only-binary", ":all:", "--python-version", target.python_version),
        *platform,
    )
    locked.unlink()
    shutil.rmtree(into / "bin", ignore_errors=True)
    for written_by_installer in ("RECORD", "REQUESTED", "INSTALLER", "uv_cache.json"):
        for file in into.glob(f"*.dist-info/{written_by_installer}"):
            file.unlink()
    (into / ".lock").unlink(missing_ok=True)


def to_tar_gz(folder: Path) -> Path:
    """Pack a bundle as SageMaker wants it; the same files give the same bytes."""
    packed = folder.with_suffix(".tar.gz")
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(file.relative_to(folder)))
            entry.size, entry.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                tar.addfile(entry, content)
    packed.write_bytes(gzip.compress(written.getvalue(), mtime=0))
    return packed


def _uv(project: Path, *arguments: str) -> None:
    environment = {"UV_CACHE_DIR": str(ROOT / ".tools" / "uv-cache"), **os.environ}
    done = subprocess.run(  # noqa: S603  # the project's own tool, by argument list
        [uv.find_uv_bin(), "--color", "never", *arguments],
        cwd=project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise BundlingError(f"uv {arguments[0]} failed: {done.stderr.strip()[-1000:]}")
