"""Pages of HTML, each a file by itself: no network, readable from a disk and without scripts.

The templates are those of this folder, for jinja2, which escapes all that it is given; a script's
data lies in the page as JSON. Rejected: a chart library, which would be most of the page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from softsgx.errors import UsageError

__all__ = ["as_json", "need_jinja", "render", "text_of", "write_page"]

_TEMPLATES = Path(__file__).with_name("templates")


def need_jinja() -> None:
    """Raise UsageError if jinja2 is missing."""
    _environment()


def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise UsageError("pages take the package jinja2: pip install 'softsgx[report]'") from None
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip


def text_of(name: str) -> Any:
    """A style sheet or script of the templates as it is. Raises UsageError if jinja2 is missing."""
    _environment()
    from markupsafe import Markup

    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def as_json(value: Any) -> Any:
    """JSON for a script element: markup that nothing in it can end."""
    from markupsafe import Markup

    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for char in "<>&":  # in JSON they stand in strings alone
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def render(template: str, **values: Any) -> str:
    """A page of a template. Raises UsageError if jinja2 is missing."""
    environment = _environment()
    from importlib.metadata import version

    environment.globals["version"] = version("softsgx")
    environment.globals["text_of"] = text_of
    values.setdefault("style", "")
    text: str = environment.get_template(template).render(**values)
    return text


def write_page(path: str, text: str) -> None:
    """Write a page. Raises UsageError if the file cannot be written."""
    try:
        # A recording may have names of any bytes: what is no text becomes a replacement.
        Path(path).write_bytes(text.encode("utf-8", errors="replace"))
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}") from None
