"""The releases that are kept: of each the templates, the bundles, and what its functions stored.

releases/0.1.0/
  prod/, local/    templates; of local all that `cdk deploy` asks for but the bundles
  bundles.tar.xz   the release's own code in each bundle, its lock file, and `groups.json`: what is installed beside it
  stored.tar.xz    items and objects of both pipelines

Local is the local stage with the settings below, and `CLOCK` and `SOURCE` for what a deployment replaces.
"""

import io
import json
import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stacks.constructs.bundling import Target, install, to_tar_gz
from tests.upgrades.stored import Stored
from workbench.demonstration.sensors import SILENT_AFTER_MINUTES

RELEASES = Path(__file__).parent / "releases"
PIPELINES = ("sensors", "etl_jobs")
CLOCK, SOURCE = "/overcut/clock.json", "http://127.0.0.1:1/events"


def stack_name(stage: str, pipeline: str) -> str:
    return f"Overcut-{stage}-{pipeline.replace('_', '-')}"


def settings(source: str) -> dict[str, dict[str, Any]]:
    """What of the local stage is set otherwise: the source's address, and a clock that jumps makes no silence."""
    device = {"url": source, "measures": {"temperature": "C"}}
    return {"sensors": {"sources": {"device": device}, "silent_after_minutes": SILENT_AFTER_MINUTES}, "etl_jobs": {}}


@dataclass(frozen=True)
class Release:
    """A release that is kept in a folder, which is called by its version."""

    folder: Path

    def template(self, stage: str, pipeline: str) -> dict[str, Any]:
        path = self.folder / stage / f"{stack_name(stage, pipeline)}.template.json"
        template: dict[str, Any] = json.loads(path.read_text())
        return template

    def stored(self, pipeline: str) -> Stored:
        files = unpacked((self.folder / "stored.tar.xz").read_bytes())
        prefix = f"{pipeline}/"
        return Stored.from_files({k.removeprefix(prefix): v for k, v in files.items() if k.startswith(prefix)})

    def assembly(self, into: Path, target: Target, *, clock: str, source: str) -> Path:
        """Make the assembly of the local stage: what `cdk deploy` of the release would have deployed here."""
        into.mkdir(parents=True)
        for file in (self.folder / "local").iterdir():
            (into / file.name).write_text(file.read_text().replace(CLOCK, clock).replace(SOURCE, source))
        for name, body in unpacked((self.folder / "bundles.tar.xz").read_bytes()).items():
            path = into / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        for asset, group in json.loads((into / "groups.json").read_text()).items():
            bundle = into / asset.removesuffix(".tar.gz")
            install(group, target, bundle, project=into)
            if asset.endswith(".tar.gz"):
                to_tar_gz(bundle).rename(into / asset)
        return into


def kept() -> list[Release]:
    """The releases, oldest first."""
    folders = (path for path in RELEASES.iterdir() if path.is_dir())
    return [Release(folder) for folder in sorted(folders, key=lambda path: [*map(int, path.name.split("."))])]


def packed(files: Mapping[str, bytes]) -> bytes:
    """Files in one archive; the same files give the same bytes."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, body in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    return lzma.compress(written.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def unpacked(archive: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(archive))) as files:
        for entry in files:
            content = files.extractfile(entry)
            assert content is not None
            found[entry.name] = content.read()
    return found
