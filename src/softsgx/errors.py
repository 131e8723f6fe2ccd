"""The exceptions of softsgx: one root, the data in attributes.

What a guest asks for wrongly is never an exception: it is an errno that a rule
returns. Exceptions are for softsgx's own user (a bad option, a machine that
lacks something) and for softsgx's own bugs.
"""

from __future__ import annotations

__all__ = ["Ended", "InternalError", "SoftsgxError", "UnsupportedError", "UsageError"]


class SoftsgxError(Exception):
    """Root of every exception that softsgx raises on purpose.

    ``str()`` is one line for the user: what was wrong and what to do.
    """


class UsageError(SoftsgxError):
    """The user asked for something that cannot be (exit status 2)."""


class UnsupportedError(SoftsgxError):
    """This machine lacks something that softsgx needs (exit status 2)."""


class InternalError(SoftsgxError):
    """A bug in softsgx: the model and the process disagree, or a case was forgotten."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message} (this is a bug in softsgx)")


class Ended(BaseException):
    """A signal has come that ends this process, once all is tidied up. number: which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
