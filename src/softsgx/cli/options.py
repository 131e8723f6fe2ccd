"""How every command but those of argparse reads its options: ``--name VALUE``, ``--name=VALUE``.

``-h`` and ``--help`` print the help, ``--`` ends the options, and a word or an option that the
command has no use for is the user's mistake. Light, so that `run` could have it: no argparse.
"""

from __future__ import annotations

from softsgx.errors import UsageError

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

__all__ = ["Given", "given", "print_json", "whole_number"]


class Given:
    """What was given: `flags`, `values` by option in their order, and the `words` beside."""

    __slots__ = ("flags", "values", "words")

    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.values: dict[str, list[str]] = {}
        self.words: list[str] = []

    def last(self, name: str, default: str = "") -> str:
        """The value of an option that counts once: its last."""
        return self.values[name][-1] if name in self.values else default


def given(
    command: str,
    text: str,
    args: Iterable[str],
    flags: Iterable[str] = (),
    takes: Iterable[str] = (),
    words: tuple[int, int | None] = (0, 0),
    what: str = "",
    short: Mapping[str, str] | None = None,
    empty: Iterable[str] = (),
) -> Given | None:
    """The arguments of a command taken apart, or None: its help was asked for, and printed.

    text: the help. takes: the options with a value, flags: those without. words: how many other
    words there may be (None: any number), and ``what`` they are, as in "one recording". short:
    other names of options. empty: options whose value may be "". Raises UsageError, one line.
    """
    found, see, options = Given(), f"see 'softsgx {command} --help'", True
    rest = iter(args)
    for arg in rest:
        if not options or not arg.startswith("-") or arg == "-":
            found.words.append(arg)
            continue
        if arg == "--":
            options = False
            continue
        name, equals, value = arg.partition("=")
        name = (short or {}).get(name, name)
        if arg in ("-h", "--help"):
            print(text, end="" if text.endswith("\n") else "\n")
            return None
        if name in takes:
            given_value = value if equals else next(rest, None)
            if given_value is None or (not given_value and name not in empty):
                raise UsageError(f"{name} needs a value; {see}")
            found.values.setdefault(name, []).append(given_value)
        elif name in flags:
            if equals:
                raise UsageError(f"{name} takes no value; {see}")
            found.flags.add(name)
        else:
            raise UsageError(f"no option {arg}; {see}")
    least, most = words
    if len(found.words) < least:
        raise UsageError(f"{command} needs {what}; {see}")
    if most is not None and len(found.words) > most:
        takes_what = f"{what}, and no" if most else "no argument"
        raise UsageError(f"{command} takes {takes_what} {found.words[most]!r}; {see}")
    return found


def whole_number(name: str, text: str, least: int, below: int) -> int:
    """The value of an option that is a number. Raises UsageError."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UsageError(f"{name} {text}: a number from {least} on")
    if not least <= int(text) < below:
        raise UsageError(f"{name} {text}: a number from {least} to {below - 1}")
    return int(text)


def print_json(value: Any) -> None:
    """What ``--json`` prints."""
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))
