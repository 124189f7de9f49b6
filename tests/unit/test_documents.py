"""The documents: the site builds, and what they tell people to make can be made."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from stacks import stage
from tests.conftest import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TARGETS = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


def _code(document: Path) -> Iterator[str]:
    """What stands in a block of code, a line each, without its comment."""
    fenced = False
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield re.sub(r"\s+#.*", "", line).strip()


def commands(*, of: str) -> list[str]:
    """What documents tell people to type with a program, each once."""
    lines = {line for document in DOCUMENTS for line in _code(document)}
    found = {match[1] for line in lines if (match := re.match(rf"(?:\.venv/bin/)?({of}\b.*)", line))}
    return sorted(found)


def test_the_site_builds_and_every_link_in_it_leads_somewhere(tmp_path: Path) -> None:
    built = subprocess.run(
        [Path(sys.executable).parent / "sphinx-build", "-q", "-W", "--keep-going", ROOT / "docs", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    pages = {page.stem for page in tmp_path.glob("*.html")}
    assert {document.stem for document in (ROOT / "docs").glob("*.md")} <= pages


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_a_link_to_a_file_leads_to_one(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize(
    ("heading", "settings"),
    [
        ("The top of the file", stage.Stage),
        ("`[functions]`", stage.Functions),
        ("`[sensors]`", stage.Sensors),
        ("`[sensors.sources.NAME]`", stage.Source),
        ("`[sensors.contacts.NAME]`", stage.Contact),
        ("`[sensors.page]`", stage.Page),
        ("`[etl_jobs]`", stage.EtlJobs),
        ("`[etl_jobs.fields]`", stage.LakeFields),
        ("`[etl_jobs.tickets]`", stage.Tickets),
    ],
)
def test_every_key_of_a_stage_file_is_written_down_with_its_default(heading: str, settings: type[BaseModel]) -> None:
    page = (ROOT / "docs" / "stage-file.md").read_text()
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \| [^|?]+ \|$", section, re.MULTILINE))
    # a table of its own is a section of its own
    tables = {"functions", "sensors", "etl_jobs", "sources", "contacts", "page", "fields", "tickets"}
    # a stage's name is its file's
    keys = {name: field for name, field in settings.model_fields.items() if name not in tables | {"name"}}
    assert rows.keys() == keys.keys()
    for name, field in keys.items():
        default = field.get_default(call_default_factory=True)
        if field.is_required():
            assert rows[name] == "required"
        elif isinstance(default, bool | int | float) or (isinstance(default, str) and default):
            assert rows[name] == f"`{json.dumps(default)}`"
        else:
            assert rows[name] in ("empty", "none", "all of them")


@pytest.mark.parametrize("command", commands(of="make"))
def test_a_target_that_documents_name_can_be_made(command: str) -> None:
    assert shlex.split(command)[1] in TARGETS


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_what_the_workflows_use_is_pinned_to_a_commit(workflow: Path) -> None:
    used = re.findall(r"uses: (\S+)", workflow.read_text())
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", one)] == []
