"""The picture of a report that the README opens with: tools/picture.py REPORT.html PICTURE.webp

Of a page of `softsgx report` from what went wrong to the threads, by a headless Chromium. Where
there is none, a line says so. `make demo` makes it; the one that is committed is of a demo in
/tmp/softsgx.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

_WIDTH = 1200
# Its tables of numbers are folded, its threads' events as wide as each other.
_READY = """
for (const button of document.querySelectorAll("button"))
    if (button.textContent == "Every event as wide") button.click();
for (const table of [...document.querySelectorAll("details")].slice(1)) table.open = false;
"""
_PLACE = "document.getElementById({!r}).getBoundingClientRect().{} + scrollY"


def main(report: Path, picture: Path) -> None:
    """Take it."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.report.browser import Browser, find_chromium

    program = find_chromium()
    if program is None:
        print("picture: there is no Chromium; to have one: apt-get install chromium-headless-shell")
        return
    with tempfile.TemporaryDirectory() as profile, Browser(program, Path(profile)) as browser:
        browser.size(_WIDTH, 900)
        browser.open(report.resolve())
        browser.js(_READY)
        top, bottom = (browser.js(_PLACE.format(name, "top")) for name in ("r0wrong", "r0asked"))
        browser.screenshot(picture, top=top - 12, bottom=bottom - 30)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
