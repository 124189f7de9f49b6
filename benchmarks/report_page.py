"""How long a browser takes to open a report, by how many sensors it is about: `python -m benchmarks.report_page`.

The time is Chromium's own, from the beginning of the navigation to the end of loading, of a file on disk.
"""

import shutil
import statistics
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from playwright.sync_api import sync_playwright

from lambdas.sensors.stores import Sensor
from workbench.report import SensorsReport, Watched
from workbench.report_page import report_page

FLEETS = (50, 500, 5_000, 20_000)
RUNS = 7
NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)


def main() -> None:
    """Print a table: sensors, bytes, milliseconds (median, least, most)."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("there is no Chromium on this machine; on Debian: apt-get install chromium")
    sys.stdout.write("| sensors | KB | opened in (ms) | least to most |\n|---|---|---|---|\n")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for sensors in FLEETS:
            file = Path(folder) / f"{sensors}.html"
            file.write_text(_page(sensors), encoding="utf-8")
            took = []
            for _ in range(RUNS):
                page = browser.new_page()
                page.goto(f"file://{file}")
                took.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
                page.close()
            sys.stdout.write(
                f"| {sensors:,} | {file.stat().st_size // 1024:,} | {statistics.median(took):.0f} |"
                f" {min(took):.0f} to {max(took):.0f} |\n"
            )


def _page(sensors: int) -> str:
    watched = [
        Watched(
            Sensor(f"unit-{n:05d}", "device", {"temperature": "C"}, f"Cold room {n}", "Acme", f"Plant {n % 50}"),
            None,
            "judged",
            NOW,
            0.1 * (n % 17),
        )
        for n in range(sensors)
    ]
    return report_page("prod", NOW - timedelta(days=7), NOW, SensorsReport(watched, [], [], {}, {}, {}, [], {}), None)


if __name__ == "__main__":
    main()
