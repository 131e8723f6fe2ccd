"""A rule, and the context that evaluates it on concrete state.

A rule is a method of a design: ``def name(self, k, at, r)``. ``k`` is the
evaluation context: ``k.need(errno, condition)`` in the kernel's order,
``k.ask(hook, …)`` for an LSM question. ``at`` is the place: the cells of the
enclave, page, VMA, process and file that the event concerns. ``r`` is the
request: the caller's arguments, always concrete. The rule assigns the next
state to the cells; a rule that stops at a `need` has assigned nothing that
the caller keeps.

Python's ``if`` is for options and for the request; never for state.
"""

from __future__ import annotations

from collections.abc import Callable

from softsgx.law.values import Value, all_

# Not from typing, whose import takes 10 ms: type checkers know the names.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])
else:
    Protocol = object

__all__ = [
    "FAULT",
    "LOCKS",
    "At",
    "Context",
    "Law",
    "Lsm",
    "Request",
    "RuleInfo",
    "Run",
    "Stop",
    "rule",
    "rules_of",
]

FAULT = 1 << 30
"""An instruction's answer that is an exception: ``FAULT | vector``, as ENCLS wrappers encode it."""

LOCKS = ("mmap_lock", "SGX_ENCL_IOCTL")
"""Locks that a mark may say are still held: of the process's mappings (for writing), and the
driver's flag that keeps a second ioctl of the same enclave out (Linux sgx_ioctl(): EBUSY)."""


class RuleInfo:
    """What a rule says of itself: its event, title, source and place in the file."""

    __slots__ = ("doc", "each", "name", "source")

    def __init__(self, name: str, source: str, each: bool, doc: str) -> None:
        self.name, self.source, self.each, self.doc = name, source, each, doc


def rule(source: str, *, each: bool = False) -> Callable[[F], F]:
    """Mark a method as a rule.

    source: the sentence, commit, kernel function or SDM table that it comes from.
    each: the rule is for one page at a time; a range is done page by page and
    keeps what was done before the page that fails.
    """

    def mark(function: F) -> F:
        doc = (function.__doc__ or "").strip()
        function.rule_info = RuleInfo(function.__name__, source, each, doc)  # type: ignore[attr-defined]
        return function

    return mark


def rules_of(law: type | object) -> dict[str, tuple[RuleInfo, type]]:
    """The rules of a law by name, each with the class that states it (not a parent's).

    A class that sets a rule of its parent to None does not have it, nor does an object that does.
    """
    cls = law if isinstance(law, type) else type(law)
    found: dict[str, tuple[RuleInfo, type]] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            info = getattr(member, "rule_info", None)
            if info is not None:
                found[name] = (info, base)
            elif member is None:
                found.pop(name, None)  # a design without a rule of its parent
    for name, member in () if law is cls else vars(law).items():
        if member is None:
            found.pop(name, None)
    return found


class Law:
    """Base of everything that has rules; ``name`` is what the user selects it by."""

    name: str = ""


class At:
    """The place of an event: whichever cells the rule needs, as attributes."""

    def __init__(self, **cells: Any) -> None:
        self.__dict__.update(cells)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this event has no {name!r}")


class Request(At):
    """The caller's arguments, concrete."""


class Stop(Exception):
    """A rule's `need` did not hold: ``errno`` is the answer, ``why`` the condition's name.

    ``code`` is the answer of the instruction underneath, where there was one.
    """

    def __init__(self, errno: int, why: str, code: int = 0) -> None:
        super().__init__(why)
        self.errno, self.why, self.code = errno, why, code


class Context(Protocol):
    """What a rule may ask of the one that evaluates it."""

    def need(self, errno: int, cond: Value, why: str = "") -> None:
        """Stop with ``errno`` unless ``cond`` holds (for every page of the range)."""

    def ask(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> None:
        """Ask the LSM, where ``when`` holds; a denial stops with the errno that the LSM gives."""

    def granted(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> Value:
        """Ask the LSM, and go on: the condition that it allows (1 where nothing is asked)."""

    def leaf(
        self, rule: Callable[..., None], at: Any, r: Any, *, failed: int, faulted: int
    ) -> None:
        """Run an instruction's rule inside a driver's: its error codes become the errno
        ``failed``, its exceptions (``FAULT | vector``) the errno ``faulted``.
        """

    def unlocked(
        self, at: Any, what: str, *, source: str, held: tuple[str, ...] = (), **kept: Value
    ) -> Any:  # fmt: skip
        """Here the kernel has let its locks go: steps of other threads may come in between.

        what: what was done so far, in words. held: the locks that it still has (`LOCKS`). kept:
        what it has found and uses later, by name: the answer has it as attributes. All else
        that follows looks at the state as it is then; what the LSM has granted stays granted.
        """


class Lsm(Protocol):
    """The side of an LSM that `Run` calls: 0 or a positive errno."""

    def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
        """Decide one question of a hook; see `softsgx.lsm.hooks`."""


class Run:
    """Evaluates rules on concrete state: stops at the first `need` that fails.

    halves: one of `softsgx.law.halves`, None where a rule is evaluated as one.
    """

    __slots__ = ("halves", "lsm")

    def __init__(self, lsm: Lsm | None = None) -> None:
        self.lsm = lsm
        self.halves: Any = None

    def need(self, errno: int, cond: Value, why: str = "") -> None:
        """Raise `Stop` unless ``cond`` holds (for every distinct state of the range)."""
        if not (cond if isinstance(cond, int) else all_(cond)):
            if self.halves is not None and self.halves.passed_over():
                return
            raise Stop(errno, why)

    def ask(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> None:
        """Ask the LSM, if there is one and the question arises."""
        if self.lsm is not None and when:
            error = self.lsm.ask(hook, at, what)
            if error:
                raise Stop(error, f"LSM {hook}")

    def granted(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> Value:
        """Ask the LSM, and say whether it allows."""
        return int(self.lsm is None or not when or not self.lsm.ask(hook, at, what))

    def unlocked(
        self, at: Any, what: str, *, source: str, held: tuple[str, ...] = (), **kept: Value  # noqa: ARG002
    ) -> Any:  # fmt: skip
        """Nothing comes in between, but in a replay: a call is evaluated as one."""
        return At(**kept) if self.halves is None else self.halves.mark(at, kept)

    def leaf(
        self, rule: Callable[..., None], at: Any, r: Any, *, failed: int, faulted: int
    ) -> None:
        """Run an instruction's rule and translate its answer."""
        try:
            rule(self, at, r)
        except Stop as stop:
            errno = faulted if stop.errno & FAULT else failed
            raise Stop(errno, stop.why, stop.errno) from None
