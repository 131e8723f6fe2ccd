"""What the help texts say, taken apart: the manual page and what shells complete are made of it.

The texts are the source, and no parser: that of `run` is light and knows nothing of words for
people, and a second list of options would have to be kept in step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module

__all__ = ["Option", "help_of", "option_head", "options_of"]

_HEAD = re.compile(r"  ?(-.+?)(?:  +(.*))?$")
_NAME = re.compile(r"(--?[A-Za-z][A-Za-z-]*)(?:[ =](.+))?$")


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command. names: ``-v``, ``--verbose``. value: its metavar, or ""."""

    names: tuple[str, ...]
    value: str
    said: str


def help_of(command: str) -> str:
    """What ``softsgx COMMAND --help`` prints."""
    module = import_module(f"softsgx.cli.{command}")
    text: str = module.HELP if hasattr(module, "HELP") else module.parser().format_help()
    return text


def option_head(line: str) -> tuple[list[tuple[str, str]], str] | None:
    """A line of help that begins an option: (names with their values, what is said), or None.

    One line may name several options, as in ``--dev-noexec, --dev-exec``.
    """
    found = _HEAD.match(line)
    if found is None:
        return None
    names = [_NAME.match(part) for part in found[1].split(", ")]
    pairs = [(name[1], name[2] or "") for name in names if name is not None]
    return (pairs, found[2] or "") if len(pairs) == len(names) else None


def options_of(command: str) -> list[Option]:
    """The options that a command's help lists, in its order."""
    options: list[Option] = []
    lines = help_of(command).splitlines()
    for number, line in enumerate(lines):
        head = option_head(line)
        if head is None:
            continue
        pairs, said = head
        said = said or " ".join(lines[number + 1 : number + 2]).strip()
        if len(pairs) == 2 and len(pairs[0][0]) == 2:  # -v, --verbose: one option
            options.append(Option((pairs[0][0], pairs[1][0]), pairs[1][1] or pairs[0][1], said))
        else:
            options += [Option((name,), value, said) for name, value in pairs]
    if command != "help" and not any("--help" in option.names for option in options):
        options.append(Option(("-h", "--help"), "", "this help"))
    return options
