"""Keep this tree as a release that upgrades are tested from: `make keep-release`, once a release, before its tag.

Synthesizes both stages, takes the release's own code out of the bundles, and lets the functions store what they store:
a day of two sensors, and of two ETL jobs whose runs Spark extracts.
"""

import json
import shutil
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, resources_of
from tests.upgrades import stored
from tests.upgrades.releases import CLOCK, PIPELINES, RELEASES, SOURCE, packed, settings, stack_name
from workbench.cloud.deploy import Deployment
from workbench.demonstration.stage_file import write_stage_file

# what of a bundle is the project's; the rest is installed from its lock file
OWN = ("overcut", "lambdas", "training")


def keep(folder: Path, workspace: Path) -> None:
    """Write the release that this tree is."""
    stage_file = write_stage_file(workspace / "local.toml", clock=Path(CLOCK), pipelines=settings(SOURCE))
    for stage, file in (("local", str(stage_file)), ("prod", "prod")):
        assembly = Deployment("http://127.0.0.1:1", workspace / stage).synthesize(file)
        (folder / stage).mkdir(parents=True)
        for pipeline in PIPELINES:
            shutil.copy(assembly / f"{stack_name(stage, pipeline)}.template.json", folder / stage)
        if stage == "local":
            for path in assembly.glob("*.assets.json"):
                shutil.copy(path, folder / stage)
            manifest = deployable(json.loads((assembly / "manifest.json").read_text()))
            (folder / stage / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
            (folder / "bundles.tar.xz").write_bytes(packed(own_code(assembly)))
    (folder / "stored.tar.xz").write_bytes(packed(dict(everything_stored(workspace))))


def deployable(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest of what is deployed alone: without where in the code each resource was made."""
    artifacts = {
        name: {key: value for key, value in artifact.items() if key not in ("metadata", "additionalMetadataFile")}
        for name, artifact in manifest["artifacts"].items()
        if artifact["type"] in ("aws:cloudformation:stack", "cdk:asset-manifest")
    }
    return {"version": manifest["version"], "artifacts": artifacts}


def own_code(assembly: Path) -> dict[str, bytes]:
    """Of each bundle the project's own files, with the lock file for the others and the group of each."""
    files = {name: (ROOT / name).read_bytes() for name in ("pyproject.toml", "uv.lock")}
    groups: dict[str, str] = {}
    for pipeline in PIPELINES:
        name = stack_name("local", pipeline)
        handlers = handlers_of(json.loads((assembly / f"{name}.template.json").read_text()))
        for asset, described in json.loads((assembly / f"{name}.assets.json").read_text())["files"].items():
            path = assembly / described["source"]["path"]
            if path.is_dir():
                groups[path.name] = f"bundle-{handlers[asset].split('.')[2].replace('_', '-')}"
                own = (file for part in OWN for file in (path / part).rglob("*") if file.is_file())
                files |= {f"{path.name}/{file.relative_to(path)}": file.read_bytes() for file in own}
            elif path.name.endswith(".tar.gz"):
                groups[path.name] = f"bundle-train-{pipeline.replace('_', '-')}"
                files |= {f"{path.name.removesuffix('.tar.gz')}/{n}": body for n, body in own_of_archive(path)}
            elif not path.name.endswith(".template.json"):
                files[path.name] = path.read_bytes()
    return files | {"groups.json": json.dumps(groups, indent=1).encode()}


def handlers_of(template: Mapping[str, Any]) -> dict[str, str]:
    """Each function's handler, by the asset that its code is."""
    functions = resources_of(template, "AWS::Lambda::Function").values()
    return {function["Code"]["S3Key"].removesuffix(".zip"): function["Handler"] for function in functions}


def own_of_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for entry in archive:
            content = archive.extractfile(entry)
            # the entry point lies beside the folders
            if content and (entry.name.split("/")[0] in OWN or entry.name.startswith("train_")):
                yield entry.name, content.read()


def everything_stored(workspace: Path) -> Iterator[tuple[str, bytes]]:
    with pytest.MonkeyPatch.context() as patch, stored.sensors_pipeline(patch, workspace) as sensors:
        for name, body in stored.write_sensors(sensors).files().items():
            yield f"sensors/{name}", body
    extracted = stored.extract(workspace)
    with pytest.MonkeyPatch.context() as patch, stored.etl_jobs_pipeline(patch, workspace) as etl_jobs:
        for name, body in stored.write_etl_jobs(etl_jobs, extracted).files().items():
            yield f"etl_jobs/{name}", body


def main() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    folder = RELEASES / version
    if folder.exists():
        sys.exit(f"release {version} is kept already, and what was released stays as it was: raise the version first")
    with tempfile.TemporaryDirectory() as workspace:
        made = Path(workspace) / version
        keep(made, Path(workspace))
        shutil.move(made, folder)
    sys.stdout.write(f"kept release {version}: commit {folder.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
