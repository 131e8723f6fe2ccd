"""What a rule reads and assigns within one move: cells of the state, and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from softsgx.checker.circuits.circuit import Chosen
from softsgx.law.values import Value, W, eq, ite, no

__all__ = ["File", "LocalCell", "OfSource", "StateCell"]


class StateCell:
    """A cell of the state within one move: reads see what the move has assigned.

    given: fields that are not kept but derived, each by a call; assigning to them is dropped.
    """

    def __init__(
        self, move: Any, prefix: str, given: dict[str, Callable[[], Value]] | None = None
    ) -> None:
        self.__dict__.update(_move=move, _prefix=prefix, _given=given or {})

    def __getattr__(self, name: str) -> Value:
        if name in self._given:
            return self._given[name]()
        try:
            return self._move.get(self._prefix + name)
        except KeyError:
            raise AttributeError(f"{self._prefix[:-1]} has no field {name!r}") from None

    def __setattr__(self, name: str, value: Value) -> None:
        if name not in self._given:
            self._move.assign(self._prefix + name, value)

    def clear(self) -> None:
        """Every field becomes 0."""
        for name in list(self._move.world.vars):
            if name.startswith(self._prefix):
                self._move.assign(name, 0)


class LocalCell:
    """A cell that is no part of the state: an outgoing VMA, or the TCS's page.

    move: whose rules' assignments may be switched off.
    """

    def __init__(self, schema: Any, move: Any = None, **values: Value) -> None:
        self.__dict__.update(dict.fromkeys(schema.fields, 0))
        self.__dict__.update(values)
        self.__dict__.update(_schema=schema, _move=move)

    def __setattr__(self, name: str, value: Value) -> None:
        schema, move = self.__dict__["_schema"], self.__dict__["_move"]
        if move is not None and name in schema.fields:
            value = move.said(f"{schema.name}.{name}", value, schema.fields[name].width)
        self.__dict__[name] = value

    def clear(self) -> None:
        """Every field becomes 0."""
        for name in self.__dict__["_schema"].fields:
            setattr(self, name, 0)


class File:
    """An open file of the enclave: the device's, or a segment's where ``segment`` is not 0."""

    noexec = 0
    path = "/dev/sgx/enclave"
    size = 0

    def __init__(self, move: Any, segment: Value = 0, page: Any = None) -> None:
        world = move.world
        self.enclave = move.enclave
        self.segment = segment
        # A segment's file is open for reading and writing.
        device_mode = 1 | ite(move.get("enclave.fd_writes"), W, 0)
        is_segment = no(eq(segment, 0))
        mode = ite(is_segment, 3, device_mode)
        # Never 0: a rule may branch on that much.
        self.fmode = mode if isinstance(mode, int) else Chosen(mode.graph, mode.lits)
        self.private = is_segment & int(bool(getattr(world.design, "inode_private", 0)))
        # AppArmor looks at no anonymous inode.
        self.unmediated = is_segment
        self._page, self._move = page, move

    @property
    def allow(self) -> Value:
        """What AppArmor has granted on the device's file, whoever asked for it."""
        return self._move.get("enclave.granted")

    def inside(self, _start: int, _end: int) -> int:
        """Within ELRANGE; the world has no mapping across its end."""
        return 1

    def pages(self, start: int, _end: int, _mm: Any = None) -> Any:
        """The page at an address."""
        return self._page(start)


class OfSource:
    """The file that a page is added from, or the one (``kind``) that SIGSTRUCT is in."""

    def __init__(self, private: Value, kind: str = "file") -> None:
        self.private, self.unmediated, self.allow, self.fmode = private, 0, 0, 3
        self.kind = kind
