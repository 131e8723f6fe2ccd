"""What a property is, and the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules

from softsgx.checker.world.world import World
from softsgx.errors import UsageError
from softsgx.law.values import Value

__all__ = ["NEVER", "PROPERTIES", "REACHED", "TABLE", "TOLD_APART", "Property", "load_all", "prop"]

NEVER, REACHED, TOLD_APART = "never", "reached", "told apart"
"""Kinds: a condition that must never hold; one that must be reachable; the last is by itself."""

TABLE = (
    "modified-code", "writable-alias", "writer-authorised", "unvetted-code", "vetted-always",
    "noexec", "source-bound", "page-bound", "wx-needs-write", "execute-needed", "asked",
    "asked-here", "no-wx", "elrange-fixed", "extend-only", "benign-runs", "told-apart",
)  # fmt: skip
"""The properties that ship, in the order in which they are told."""


Conditions = Callable[[World], Iterable[Value]]


class Property:
    """A property: ``name``, its definition in ``words``, its ``kind``.

    source: the sentence of the mail or the rule of the kernel that it comes from. means: what
    it says to who writes policy when a design breaks it, a sentence or two, or "".
    conditions: of a world, the conditions of which none may hold (one has to be
    reachable). unless: the name of a `World` method of process and page without which
    a proof says nothing ("runs", "runs_unprivileged"), or "".
    """

    __slots__ = ("conditions", "kind", "means", "name", "source", "unless", "words")

    def __init__(
        self, name: str, words: str, kind: str, unless: str,
        conditions: Conditions, *, source: str, means: str = "",
    ) -> None:  # fmt: skip
        self.name, self.words, self.kind, self.unless = name, words, kind, unless
        self.conditions, self.source, self.means = conditions, source, means


PROPERTIES: dict[str, Property] = {}
"""Every property by name."""


def prop(
    name: str, words: str, *, source: str, means: str = "", kind: str = NEVER, unless: str = "runs"
) -> Callable[[Conditions], Conditions]:
    """Register a function of a world that gives a property's conditions; see `Property`.

    Raises UsageError where the name is taken, or something that has to be said is empty.
    """
    if name in PROPERTIES:
        raise UsageError(f"there is a property {name!r} already")
    if not (name and words and source):
        raise UsageError(f"property {name!r} needs a name, words and a source")
    if kind not in (NEVER, REACHED, TOLD_APART):
        raise UsageError(f"property {name!r}: there is no kind {kind!r}")
    if unless and not hasattr(World, unless):
        raise UsageError(f"property {name!r}: a World has no {unless!r}")

    def register(conditions: Conditions) -> Conditions:
        PROPERTIES[name] = Property(
            name, words, kind, unless, conditions, source=source, means=means
        )  # fmt: skip
        return conditions

    return register


def load_all() -> None:
    """Import every module of this package, and put the properties in the order of the table."""
    package = import_module("softsgx.checker.properties")
    for found in iter_modules(package.__path__):
        import_module(f"softsgx.checker.properties.{found.name}")
    known = {name: PROPERTIES[name] for name in TABLE if name in PROPERTIES}
    rest = {name: p for name, p in PROPERTIES.items() if name not in known}
    PROPERTIES.clear()
    PROPERTIES.update(known | rest)
