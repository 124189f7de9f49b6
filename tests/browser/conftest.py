"""A real browser for the tests of pages: the machine's Chromium, and axe-core from npm."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

from tests.conftest import ROOT

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
# a telephone, and a screen on a wall
WIDTHS = {400: 800, 2560: 1440}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine; on Debian: apt-get install chromium")
    # a sandbox of its own is not to be had by root, nor in most containers
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page in a browser, and what it did there.

    Attributes:
        said: what was written to the console, and errors that nobody caught.
        requested: the addresses that were asked for.
    """

    page: Page
    said: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def open(self, url: str) -> int:
        """Go there; the answer's status."""
        answer = self.page.goto(url)
        assert answer
        return answer.status

    def violations(self) -> list[str]:
        """What axe-core finds wrong with the page as it is now, of every rule it has."""
        # evaluated, and not loaded by the page, whose policy allows no script
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert found["passes"]
        return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]

    def is_wider_than_its_window(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))

    def cut_labels(self) -> list[str]:
        """The words of pictures that reach over their edge."""
        cut: list[str] = self.page.evaluate(
            """[...document.querySelectorAll('svg text')].filter(text => {
                const [inner, outer] = [text, text.ownerSVGElement].map(one => one.getBoundingClientRect());
                return inner.left < outer.left - 1 || inner.right > outer.right + 1
                    || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
            }).map(text => text.textContent)"""
        )
        return cut

    def focused(self) -> str:
        """What the keyboard is at."""
        return str(self.page.evaluate("document.activeElement.innerText || document.activeElement.tagName"))

    def picture(self, name: str, folder: Path) -> None:
        """A picture of the whole page; SCREENSHOTS names a folder to keep them in."""
        self.page.screenshot(path=Path(os.environ.get("SCREENSHOTS", folder)) / f"{name}.png", full_page=True)


def visit(context: BrowserContext) -> Visit:
    """A new page of a context."""
    made = Visit(context.new_page())

    def requested(request: Request) -> None:
        made.requested.append(request.url)

    made.page.on("console", lambda message: made.said.append(message.text))
    made.page.on("pageerror", lambda error: made.said.append(str(error)))
    made.page.on("request", requested)
    return made
