"""softsgx(1), of the help texts: ``python -m softsgx.cli.manual PREFIX VERSION`` (``make man``).

The scripts of the shells' completion are written beside it, at the places where a prefix like
/usr/local has them. Rejected: argparse-manpage, which wants argparse's parsers (see `texts`).
Macros: man(7).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from softsgx.cli.completion import SCRIPTS
from softsgx.cli.main import COMMANDS, usage
from softsgx.cli.texts import help_of, option_head

__all__ = ["PLACES", "manual", "write_all"]

PLACES = {
    "man": "share/man/man1/softsgx.1",
    "bash": "share/bash-completion/completions/softsgx",
    "zsh": "share/zsh/site-functions/_softsgx",
    "fish": "share/fish/vendor_completions.d/softsgx.fish",
}
"""Where under a prefix each file belongs."""

_TITLE = "A software SGX device"
_ABOUT = """\
softsgx runs unmodified SGX loaders and enclaves on x86-64 Linux machines without SGX, under a
kernel interface of your choice. It is for development, tests and research, and gives no protection.
"""
_STATUS = (
    ("2", "a mistake of the user's, or something that this machine lacks: one line says what"),
    ("70", "a bug in softsgx"),
)
_VARIABLES = (
    ("SOFTSGX_DEBUG", "print the traceback of a bug"),
    ("SOFTSGX_ORDERS", "the loader that takes orders, for replay and check --html"),
    ("SOFTSGX_STATE_DIR", "where the device's secret is kept"),
)


def manual(version: str) -> str:
    """The page, as roff."""
    lines = [f'.TH SOFTSGX 1 "" "softsgx {version}" "User Commands"', ".SH NAME"]
    lines += [rf"softsgx \- {_TITLE}", ".SH SYNOPSIS", ".nf"]
    lines += [_text(_usage(line)) for line in usage().partition("\n\n")[0].splitlines()]
    lines += [".fi", ".SH DESCRIPTION", *map(_text, _ABOUT.splitlines()), ".SH COMMANDS"]
    for name in COMMANDS:
        lines += [f".SS softsgx {name}", *_command(help_of(name))]
    lines.append(".SH EXIT STATUS")
    for status, said in _STATUS:
        lines += [".TP", rf"\fB{status}\fR", _text(said)]
    lines += [".PP", "Otherwise that of the program that is run, or what the command says."]
    lines.append(".SH ENVIRONMENT")
    for name, said in _VARIABLES:
        lines += [".TP", rf"\fB{name}\fR", _text(said)]
    return "\n".join(lines) + "\n"


def _text(line: str) -> str:
    """A line of text in roff: nothing of it is a request or an escape."""
    line = line.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    line = line.replace("^", r"\(ha").replace("~", r"\(ti")
    return rf"\&{line}" if line.startswith(".") else line


def _command(text: str) -> Iterator[str]:
    """The help of a command: its usage, paragraphs, options, and examples (indented lines)."""
    paragraphs = re.split(r"\n\n+", text.rstrip("\n"))
    yield from (".nf", *(_text(_usage(line)) for line in paragraphs[0].splitlines()), ".fi")
    for paragraph in paragraphs[1:]:
        yield from _paragraph(paragraph.splitlines())


def _usage(line: str) -> str:
    return line.removeprefix("usage: ").removeprefix(" " * len("usage: "))


def _paragraph(lines: list[str]) -> Iterator[str]:
    begun = example = False  # a paragraph; an example, line by line
    hanging = False  # an option's text goes on
    for line in lines:
        head = option_head(line)
        indented = line.startswith(" ")
        if example and (head is not None or not indented):
            yield ".fi"
            example = False
        if head is not None:
            yield ".TP"
            yield ", ".join(_option(*pair) for pair in head[0])
            yield from [_text(head[1])] if head[1] else ()
            hanging = begun = True
        elif indented and (hanging or not line.startswith("  ") or line.startswith("   ")):
            yield _text(line.strip())
        elif indented:
            yield from () if example else (".PP", ".nf")
            example = begun = True
            yield _text(line.strip())
        else:
            yield from () if begun and not hanging else (".PP",)
            begun, hanging = True, False
            yield _text(line)
    if example:
        yield ".fi"


def _option(name: str, value: str) -> str:
    return rf"\fB{_text(name)}\fR" + (rf" \fI{_text(value)}\fR" if value else "")


def write_all(prefix: Path, version: str) -> list[Path]:
    """Write the page and the completions under a prefix: their paths."""
    texts = {"man": manual(version)} | {name: text.lstrip("\n") for name, text in SCRIPTS.items()}
    for name, text in texts.items():
        path = prefix / PLACES[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [prefix / PLACES[name] for name in texts]


if __name__ == "__main__":
    for written in write_all(Path(sys.argv[1]), sys.argv[2]):
        print(written)
