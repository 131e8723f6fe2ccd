"""What a rule reads and assigns within one move: cells of the state, and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from softsgx.law.values import Value

__all__ = ["LocalCell", "StateCell"]


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
