"""What a sweep is of: programs, designs, options, policies, injections, from a TOML file."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from softsgx.designs.registry import make_design
from softsgx.errors import UsageError
from softsgx.faults.rules import read_rules
from softsgx.inputs import opened

__all__ = ["Case", "Spec", "read_spec"]

_TABLES = ("program", "policy")
_LISTS = ("designs", "options", "injections")
_NUMBERS = ("timeout", "seed")
_POLICY = {
    "name": str,
    "selinux": (str, list),
    "context": (str, list),
    "boolean": (str, list),
    "permissive": bool,
    "file-contexts": str,
    "apparmor": str,
    "profile": (str, list),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One run: its coordinates by name, and how it is made. options: of ``softsgx run``.

    files: digests of the files that its design may come from.
    """

    program: str
    design: str
    option: str
    policy: str
    injection: str
    argv: tuple[str, ...]
    options: tuple[str, ...]
    timeout: int
    files: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What names its result: another if anything of it is."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True)
class Spec:
    """A sweep. folder: what relative paths of programs and policies are of."""

    cases: tuple[Case, ...]
    folder: str


def _bad(path: str, why: str) -> UsageError:
    return UsageError(f"{path}: {why}")


def read_spec(path: str, own: Iterable[str] = ()) -> Spec:
    """The cases of a file. own: files of designs, which are loaded already, and are for all runs.

    Raises UsageError, one line, for any mistake in it.
    """
    try:
        with opened(path) as f:
            spec = tomllib.load(f)
    except OSError as e:
        raise _bad(path, e.strerror or str(e)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise _bad(path, f"no TOML: {e}") from None
    known = (*_TABLES, *_LISTS, *_NUMBERS)
    for name in spec:
        if name not in known:
            raise _bad(path, f"no key {name!r}; there are {', '.join(known)}")
    timeout, seed = (
        _number(path, spec, name, usual) for name, usual in (("timeout", 60), ("seed", 0))
    )
    programs = [_program(path, p) for p in _tables(path, spec, "program")]
    if not programs:
        raise _bad(path, "no [[program]] with an argv")
    policies = [_policy(path, p) for p in _tables(path, spec, "policy")] or [("none", ())]
    designs = _texts(path, spec, "designs") or ["linux-6.12"]
    options = _options(path, spec)
    injections = _injections(path, spec)
    loads = [os.path.abspath(file) for file in own]
    digests = tuple(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in loads)
    loading = [word for file in loads for word in ("--load", file)]
    cases = []
    for (name, argv), design, more, policy, rules in product(
        programs, designs, options, policies, injections
    ):
        made = make_design(design)
        injected = [word for rule in rules for word in ("--inject", rule)]
        if rules:
            read_rules(rules, made, carry_out="--carry-out" in more)
            injected += ["--seed", str(seed)]
        cases.append(
            Case(
                name, design, " ".join(more) or "none", policy[0], " ".join(rules) or "none", argv,
                (*loading, "--design", design, *more, *policy[1], *injected), timeout, digests,
            )
        )  # fmt: skip
    if len({case.key for case in cases}) < len(cases):
        raise _bad(path, "two cases of it are the same")
    return Spec(tuple(cases), os.path.dirname(os.path.abspath(path)))


def _number(path: str, spec: dict[str, Any], name: str, usual: int) -> int:
    value = spec.get(name, usual)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise _bad(path, f"{name} = {value!r}: a number")
    if name == "timeout" and not value:
        raise _bad(path, "timeout = 0: a number of seconds")
    return value


def _tables(path: str, spec: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = spec.get(name, [])
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        raise _bad(path, f"{name}: write [[{name}]]")
    return found


def _texts(path: str, spec: dict[str, Any], name: str) -> list[str]:
    found = spec.get(name, [])
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise _bad(path, f"{name}: a list of texts")
    return found


def _program(path: str, table: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    argv = table.get("argv")
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        raise _bad(path, "[[program]]: argv is a list of texts")
    for key in table:
        if key not in ("name", "argv"):
            raise _bad(path, f"[[program]] has no key {key!r}; it has name, argv")
    name = table.get("name", " ".join([os.path.basename(argv[0]), *argv[1:]]))
    if not isinstance(name, str):
        raise _bad(path, f"[[program]]: name = {name!r}: a text")
    return name, tuple(argv)


def _policy(path: str, table: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    words: list[str] = []
    for key, value in table.items():
        kind: Any = _POLICY.get(key)
        if kind is None:
            raise _bad(path, f"[[policy]] has no key {key!r}; it has {', '.join(_POLICY)}")
        if not isinstance(value, kind):
            raise _bad(path, f"[[policy]]: {key} = {value!r}: a text, a list of them, or a boolean")
        if key == "permissive":
            words += ["--permissive"] * value
        elif key != "name":
            for text in value if isinstance(value, list) else [value]:
                words += [f"--{key}", str(text)]
    return table.get("name", " ".join(words) or "none"), tuple(words)


def _options(path: str, spec: dict[str, Any]) -> list[list[str]]:
    from softsgx.sweeps.trial import RESERVED

    found = spec.get("options", [[]])
    ok = isinstance(found, list) and all(
        isinstance(one, list) and all(isinstance(word, str) for word in one) for one in found
    )
    if not ok or not found:
        raise _bad(path, "options: a list of lists of texts, each the options of one run")
    for one in found:
        for word in one:
            if word.partition("=")[0] in RESERVED:
                raise _bad(path, f"options: {word} is the sweep's own; see docs/injection.md")
    return [list(one) for one in found]


def _injections(path: str, spec: dict[str, Any]) -> list[list[str]]:
    found = spec.get("injections", [[]])
    if not isinstance(found, list) or not found:
        raise _bad(path, "injections: a list of rules, or of lists of them")
    made: list[list[str]] = []
    for one in found:
        rules = [one] if isinstance(one, str) else one
        if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
            raise _bad(path, "injections: a list of rules, or of lists of them")
        made.append([rule for rule in rules if rule])
    return made
