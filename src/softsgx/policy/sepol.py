"""libsepol: the kernel's own SELinux decision code as a library.

libsepol carries the security server of the kernel, so what it answers is what a kernel
with that policy would answer; a rewrite of the type enforcement, constraint and role
rules in Python could only be worse. Looked at and rejected: setools' ``TERuleQuery``
(four orders of magnitude slower, and it knows rules, not decisions), a helper process (a
hop for every uncached question).

Here is what one loaded policy can be asked; `native` has the calls. A closed PolicyDb
gives its copy of the library back; loading another policy into that copy leaks 70 KB
inside the library (measured; the old SID table and its hash).
"""

from __future__ import annotations

import os
import threading

from softsgx.policy.image import PolicyHeader
from softsgx.policy.native import Library, first_library, refused

__all__ = [
    "COMPUTEAV_BOUNDS",
    "COMPUTEAV_CONSTRAINT",
    "COMPUTEAV_RBAC",
    "COMPUTEAV_TE",
    "PolicyDb",
]

# Why a permission was not allowed: bits of sepol_compute_av_reason (libsepol,
# policydb/services.h).
COMPUTEAV_TE = 1
COMPUTEAV_CONSTRAINT = 2
COMPUTEAV_RBAC = 4
COMPUTEAV_BOUNDS = 8


class _Pool:
    """The copies of the library that no policy uses."""

    __slots__ = ("_free", "_lock", "_started")

    def __init__(self) -> None:
        self._free: list[Library] = []
        self._lock = threading.Lock()
        self._started = False

    def take(self) -> Library:
        first = first_library()
        with self._lock:
            if not self._started:
                self._started = True
                self._free.append(first)
            return self._free.pop() if self._free else Library.copy()

    def give(self, library: Library) -> None:
        with self._lock:
            self._free.append(library)


_pool = _Pool()


class PolicyDb:
    """A loaded policy, ready to decide; `close` gives its copy of the library back.

    Attributes: `header` (the policy's PolicyHeader), `where` (its name in messages).
    Raises UsageError when `image` is no policy, UnsupportedError without libsepol.
    """

    __slots__ = ("_library", "header", "where")

    def __init__(self, image: bytes, where: str) -> None:
        self.where = where
        self.header = PolicyHeader(image, where)
        self._library = _pool.take()
        if not self._library.load(image):
            # A refused image leaves the old policy half destroyed: such a copy of the
            # library does not go back into the pool.
            raise refused(where)

    def close(self) -> None:
        """Give the copy of the library back for another policy."""
        library, self._library = self._library, None  # type: ignore[assignment]
        if library is not None:
            _pool.give(library)

    def policycaps(self) -> frozenset[str]:
        """Return the names of the policy's capabilities, for example ``open_perms``."""
        names = (self._library.policycap(number) for number in self.header.policycaps)
        return frozenset(name for name in names if name)

    def sid(self, context: str) -> int:
        """Return the SID of `context`, 0 when the policy does not allow such a context."""
        return self._library.sid(os.fsencode(context))

    def context(self, sid: int) -> str:
        """Return the canonical text of a SID's context (aliases resolved, ranges compressed)."""
        return os.fsdecode(self._library.context(sid))

    def class_value(self, name: str) -> int:
        """Return the policy's number of a class, 0 when it has no such class."""
        return self._library.class_value(name)

    def perm_bit(self, tclass: int, name: str) -> int:
        """Return the access vector bit of a permission, 0 when the class has no such one."""
        return self._library.perm_bit(tclass, name)

    def compute_av(
        self, ssid: int, tsid: int, tclass: int, requested: int
    ) -> tuple[int, int, int, int]:
        """Return (allowed, auditallow, auditdeny, reason) as access vectors; COMPUTEAV_*.

        Source: libsepol, sepol_compute_av_reason().
        """
        return self._library.compute_av(ssid, tsid, tclass, requested)[:4]

    def constraint_text(self, ssid: int, tsid: int, tclass: int, requested: int) -> str:
        """Return libsepol's text of the constraints that fail, empty when none does."""
        return self._library.compute_av(ssid, tsid, tclass, requested, explain=True)[4]
