"""`make docs`: pages, navigation and pictures are there, and a broken link is an error."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.cache import ROOT, locked
from tests.command import PATIENCE

_DOCS = ROOT / "docs"


def _sphinx(docs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` does, of other pages."""
    makefile = (ROOT / "Makefile").read_text()
    (flags,) = re.findall(r"sphinx-build (.*) docs \$\(SITE\)$", makefile, re.MULTILINE)
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *flags.split(), docs, out],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


class _Page(HTMLParser):
    """What a page of the site is made of."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []  # pictures, styles, scripts
        self.captions: list[str] = []
        self.navigation: dict[str, list[str]] = {}
        self._caption = self._sidebar = False
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.add(given["id"])
        self._sidebar = self._sidebar or "sidebar-tree" in given.get("class", "")
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
            if self._sidebar and self.captions:
                self.navigation[self.captions[-1]].append(given["href"])
        self._caption = given.get("class") == "caption-text"
        if tag == "main":
            self._sidebar = False
        if tag in ("img", "script") and "src" in given:
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.loads.append(given["href"])

    def handle_data(self, data: str) -> None:
        if self._caption:
            self.captions.append(data)
            self.navigation[data] = []
            self._caption = False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, _Page]:
    """Each page, in a site that one process of a run of tests makes for all."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "docs"
    folder.mkdir(exist_ok=True)
    out = folder / "site"
    with locked(folder):
        if not out.exists():
            done = _sphinx(_DOCS, out)
            (folder / "said").write_text(done.stderr + f"status {done.returncode}")
    assert (folder / "said").read_text() == "status 0"
    return {path.resolve(): _Page(path) for path in sorted(out.rglob("*.html"))}


def _name(page: Path) -> str:
    """Where a page lies in the site: ``findings/v20.html``."""
    return str(page).partition("/docs/site/")[2]


def test_every_page_of_the_docs_is_there(site: dict[Path, _Page]) -> None:
    names = {_name(page).removesuffix(".html") for page in site}
    assert names >= {str(p.relative_to(_DOCS).with_suffix("")) for p in _DOCS.rglob("*.md")}


def test_the_navigation_leads_to_each(site: dict[Path, _Page]) -> None:
    start = next(page for name, page in site.items() if _name(name) == "index.html")
    assert start.captions == [
        "Loaders and runtimes", "Kernel interfaces", "Policies", "All of it",
    ]  # fmt: skip
    reached = {link.partition("#")[0] for links in start.navigation.values() for link in links}
    own = {_name(page) for page in site} - {"index.html", "search.html", "genindex.html"}
    assert own <= reached
    assert "findings/v20.html" in start.navigation["Kernel interfaces"]


def test_nothing_is_of_a_network_and_all_is_there(site: dict[Path, _Page]) -> None:
    pictures = 0
    for name, page in site.items():
        for place in page.loads:
            path = unquote(urlsplit(place).path)
            assert not urlsplit(place).netloc, f"{name}: {place}"
            assert (name.parent / path).is_file(), f"{name}: {place}"
            pictures += path.endswith((".svg", ".png"))
    assert pictures >= len(list((_DOCS / "findings" / "pictures").iterdir()))


def test_links_lead_to_pages_and_headings(site: dict[Path, _Page]) -> None:
    """Sphinx looks itself; this looks at what it wrote."""
    for name, page in site.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            there = (name.parent / unquote(url.path)).resolve() if url.path else name
            assert there.exists(), f"{name}: {link}"
            if url.fragment and there in site:
                assert unquote(url.fragment) in site[there].ids, f"{name}: {link}"


def test_files_of_the_project_are_pages_too(site: dict[Path, _Page]) -> None:
    text = {_name(name): page.text for name, page in site.items()}
    assert "A software SGX device" in text["index.html"]
    assert 'id="unreleased"' in text["changes.html"]
    assert "A sample enclave and its loader" in text["samples.html"]
    assert not any(
        "](" in re.sub(r"(?s)<pre>.*?</pre>|<code.*?</code>", "", page) for page in text.values()
    )


_BROKEN = {
    "[a page](missing1.md)": "missing1",
    "[a heading](other.md#missing2)": "missing2",
    "[a file](../src/missing3.py)": "missing3.py",
    "![a picture](pictures/missing4.svg)": "missing4.svg",
    "```{toctree}\nmissing5\n```": "missing5",
}


def test_what_is_broken_is_an_error(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(_DOCS / "conf.py", docs)
    (tmp_path / "README.md").write_text("# Start\n\n[good](docs/other.md#other)\n")
    (docs / "other.md").write_text("---\norphan: true\n---\n# Other\n")
    (docs / "index.md").write_text("<!-- README.md -->\n")
    assert _sphinx(docs, tmp_path / "out").returncode == 0
    (docs / "index.md").write_text("\n\n".join(["<!-- README.md -->", *_BROKEN]))
    done = _sphinx(docs, tmp_path / "out")
    assert done.returncode != 0
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == len(_BROKEN), done.stderr
    for said in _BROKEN.values():
        assert any(said in line for line in warnings), said
