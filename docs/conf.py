"""How the pages of this folder become a site: `make docs`."""

import tomllib
from pathlib import Path

_PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

project = "Overcut"
author = "The Overcut authors"
release = _PROJECT["version"]
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"Overcut {release}"
html_show_sphinx = False
html_copy_source = False
exclude_patterns = ["_build"]
# a link to a page or heading that is not there fails the build
nitpicky = True
# diagrams are drawn by whoever shows the Markdown itself; here they are text
suppress_warnings = ["misc.highlighting_failure"]
