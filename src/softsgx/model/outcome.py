"""What an event comes to: the guest's answer and what to do to its process."""

from __future__ import annotations

from collections.abc import Sequence

from softsgx.model.effect import Effect

__all__ = ["Outcome"]


class Outcome:
    """The answer to a system call.

    value: what it returns when errno is 0. errno: 0 or positive. effects: to be
    carried out in order, also when errno is set: Linux keeps what was done
    before the part that failed. why: the condition that refused, "" if none.
    """

    __slots__ = ("effects", "errno", "value", "why")

    def __init__(
        self,
        value: int = 0,
        errno: int = 0,
        effects: Sequence[Effect] = (),
        why: str = "",
    ) -> None:
        self.value, self.errno = value, errno
        self.effects, self.why = tuple(effects), why

    @property
    def ret(self) -> int:
        """What the kernel leaves in RAX: the value, or -errno."""
        return -self.errno if self.errno else self.value

    def __repr__(self) -> str:
        if self.errno:
            return f"Outcome(errno={self.errno}, why={self.why!r}, effects={self.effects!r})"
        return f"Outcome(value={self.value:#x}, effects={self.effects!r})"
