"""A software bill of materials in CycloneDX's JSON, from the lock files alone: the same locks give the same bytes.

    python -m workbench.sbom dist/sbom.cdx.json

https://cyclonedx.org/docs/1.6/json/
"""

import base64
import hashlib
import json
import sys
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parent.parent
UV_LOCK, NPM_LOCK = ROOT / "uv.lock", ROOT / "package-lock.json"
_PROJECT = "overcut"

Package = Mapping[str, Any]


def python_packages() -> list[Package]:
    """What uv.lock holds, this project left out; one that has two versions, for two Pythons, is there twice."""
    return [package for package in tomllib.loads(UV_LOCK.read_text())["package"] if package["name"] != _PROJECT]


def npm_packages() -> dict[str, Package]:
    """What package-lock.json holds, by name."""
    locked: dict[str, Package] = json.loads(NPM_LOCK.read_text())["packages"]
    return {path.rpartition("node_modules/")[2]: package for path, package in locked.items() if path}


def shipped_in() -> dict[str, list[str]]:
    """By package, the bundles whose dependency group brings it, directly or not."""
    lock = tomllib.loads(UV_LOCK.read_text())["package"]
    (project,) = (package for package in lock if package["name"] == _PROJECT)
    needs: dict[str, set[str]] = {}
    for package in lock:
        needs.setdefault(package["name"], set()).update(_names(package.get("dependencies", ())))
    found: dict[str, list[str]] = {}
    for group, wanted in sorted(project["dev-dependencies"].items()):
        if group.startswith("bundle-"):
            for name in _closure(set(_names(wanted)), needs):
                found.setdefault(name, []).append(group)
    return found


def bill_of_materials() -> dict[str, Any]:
    """The document; its serial number is made of the lock files."""
    locks = hashlib.sha256(UV_LOCK.read_bytes() + NPM_LOCK.read_bytes()).digest()
    shipped = shipped_in()
    components = [_python_component(package, shipped.get(package["name"], [])) for package in python_packages()]
    components += [_npm_component(name, package) for name, package in npm_packages().items()]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=locks[:16], version=5)}",
        "version": 1,
        "metadata": {"component": _project()},
        "components": sorted(components, key=lambda component: str(component["bom-ref"])),
    }


def _project() -> dict[str, Any]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {
        "type": "application",
        "bom-ref": _PROJECT,
        "name": _PROJECT,
        "version": project["version"],
        "licenses": [{"license": {"id": project["license"]}}],
    }


def _python_component(package: Package, bundles: list[str]) -> dict[str, Any]:
    name, version = package["name"], package["version"]
    files = [*package.get("wheels", ()), *filter(None, [package.get("sdist")])]
    return {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "scope": "required" if bundles else "excluded",
        "externalReferences": [
            {
                "type": "distribution",
                "url": file["url"],
                "hashes": [{"alg": "SHA-256", "content": file["hash"].removeprefix("sha256:")}],
            }
            for file in files
        ],
        "properties": [{"name": "overcut:shipped-in", "value": bundle} for bundle in bundles],
    }


def _npm_component(name: str, package: Package) -> dict[str, Any]:
    digest = base64.b64decode(package["integrity"].removeprefix("sha512-")).hex()
    purl = f"pkg:npm/{quote(name, safe='/')}@{package['version']}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": package["version"],
        "purl": purl,
        "scope": "excluded",
        "licenses": [{"license": {"id": package["license"]}}],
        "externalReferences": [
            {
                "type": "distribution",
                "url": f"https://registry.npmjs.org/{name}/-/{name.rpartition('/')[2]}-{package['version']}.tgz",
                "hashes": [{"alg": "SHA-512", "content": digest}],
            }
        ],
    }


def _names(dependencies: Any) -> Iterator[str]:
    return (dependency["name"] for dependency in dependencies)


def _closure(names: set[str], needs: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            names |= needs.get(name, set())
    return found


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(bill_of_materials(), indent=2) + "\n")
