"""The documentation as a site: `make docs` gives these pages to Sphinx as they are (see index.md).

MyST reads what GitHub reads: CommonMark, its tables, links between files and to headings. Rejected:
MkDocs, whose Markdown knows no list without an empty line before it, of which these pages are full.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

_DOCS = Path(__file__).resolve().parent

project = "softsgx"
html_title = "softsgx"
html_theme = "furo"
extensions = ["myst_parser"]
root_doc = "index"
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4
# A page of rules goes from its title to a rule's heading.
suppress_warnings = ["myst.header"]
html_copy_source = html_show_copyright = html_use_index = False

# What Python's lexer of consoles takes for a broken quote is what a program prints.
suppress_warnings += ["misc.highlighting_failure"]

_BELOW = {
    "designs/README": ":hidden:\n:glob:\n\n*",
    "findings": ":hidden:\n:glob:\n\nfindings/*",
    "decisions/README": ":glob:\n\n*",  # whose list this is
}
"""Pages of a folder stand below the page that tells of them."""
_HELD = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "examples/hello/README.md": "samples.md",
    "examples/designs/README.md": "samples.md",
}
"""Files of the project that are pages, too: a page shows one in the place of its name."""


def _read(_: Any, name: str, source: list[str]) -> None:
    """A page as the site has it, with the files of the project that it holds."""
    for path, page in _HELD.items():
        if page == f"{name}.md":
            source[0] = source[0].replace(f"<!-- {path} -->", _held(path))
    if name in _BELOW:
        source[0] += f"\n```{{toctree}}\n{_BELOW[name]}\n```\n"


def _held(path: str) -> str:
    """The text of such a file, its links from docs/."""
    text = (_DOCS.parent / path).read_text(encoding="utf-8")
    return re.sub(r"(?<=\]\()(?!\w+:|#)([^)]+)", lambda link: _link(path, link[1]), text)


def _link(path: str, link: str) -> str:
    """A link of a file of the project, from docs/."""
    target, mark, heading = link.partition("#")
    target = normpath(join(dirname(path), target))
    if (_DOCS.parent / target).is_dir():
        target += "/README.md"
    held = _HELD.get(target)
    return (held or relpath(target, _DOCS.name)) + mark + heading


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("source-read", _read)
