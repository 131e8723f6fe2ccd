"""The side of a policy that the device's rules talk to: one question of a hook, an errno.

What a hook asks stands in `softsgx.lsm`; here it is evaluated on a real policy, a
verdict is noted where something has to be logged, and a question that was answered
without any is remembered whole. The kernel has its AVC under the hooks only; in Python
it is the hook's own text that costs, so the memory lies above it.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES
from typing import Any

from softsgx.errors import InternalError
from softsgx.law.rule import At, Request, Stop
from softsgx.lsm.objects import FileSecurity
from softsgx.lsm.verdict import Verdict

__all__ = ["PolicyLsm"]

_LIMIT = 4096
_NO_FILE = FileSecurity("")


class _Mapped:
    """A file that memory is a mapping of."""

    __slots__ = ("security",)

    def __init__(self, security: FileSecurity) -> None:
        self.security = security


class PolicyLsm:
    """Base of both engines' side; an `softsgx.law.rule.Lsm`, and the context of the hooks.

    hooks: the text. label: of processes that have none of their own. sink: called with
    each `Verdict` that a kernel would log, with every one if ``all_verdicts`` is set.
    A process may have ``label``, ``tgid``, ``fsuid`` and ``heap``, ``stack`` (ranges in
    bytes); a file has ``security``, given here when it is opened. A file with ``foreign``
    set is not the device's, and not asked about.
    """

    name = ""

    def __init__(
        self, hooks: Any, label: str, sink: Callable[[Verdict], None] | None = None
    ) -> None:
        self.hooks, self.label, self.sink = hooks, label, sink
        self.all_verdicts = False
        self._remembered: set[tuple[Any, ...]] = set()
        self._noted = 0
        self._quiet = False
        self._hook = ""

    def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
        """Decide one question; 0 or EACCES. See `softsgx.lsm.hooks`."""
        file, process = at.file, at.process
        security = getattr(file, "security", None)
        key: tuple[Any, ...] | None = None
        if hook == "mmap_file":
            if security is not None:
                key = (self.label_of(process), security, what["prot"], what["map_type"])
        elif hook == "file_mprotect":
            area = at.area
            if security is not None and (area is None or (area.special and area.anon is None)):
                key = (self.label_of(process), security, what["prot"], None, at.vma.words[0])
        elif hook == "file_open":
            file.security = self.opened(file, process, what["fmode"])
            self.hold(file, process)
        elif hook == "file_ioctl" and security is not None:
            key = (self.label_of(process), security, what["cmd"])
        if key in self._remembered:
            return 0
        if getattr(file, "foreign", False):
            return 0
        rule = getattr(self.hooks, hook, None)
        if rule is None:
            return self.without_rule(hook)
        noted, self._hook, self._quiet = self._noted, hook, False
        try:
            rule(self, at, Request(**what))
        except Stop as stop:
            return stop.errno
        if key is not None and noted == self._noted and not self.all_verdicts:
            if len(self._remembered) >= _LIMIT:
                self._remembered.clear()
            self._remembered.add(key)
        return 0

    def without_rule(self, hook: str) -> int:
        """A hook that the module's text lacks: a bug, unless the module has no such hook."""
        raise InternalError(f"{self.name} has no hook {hook}")

    def forget(self) -> None:
        """Forget what was remembered: the policy has changed."""
        self._remembered.clear()

    def note(self, verdict: Verdict) -> None:
        """Log a verdict."""
        self._noted += 1
        if self._quiet:
            verdict.audited = ()
        if self.sink is not None:
            self.sink(verdict)

    # -- who and what ------------------------------------------------------------------

    def label_of(self, process: Any) -> str:
        """The label of a process."""
        return getattr(process, "label", "") or self.label

    def opened(self, file: Any, process: Any, fmode: int) -> FileSecurity:
        """What is kept of a device's file that is being opened."""
        raise NotImplementedError

    def security_of(self, at: Any) -> FileSecurity:
        """What is kept of the file that a question is about."""
        security = getattr(at.file, "security", None)
        if security is None:
            # Neither opened by path nor labelled: a plain anonymous inode.
            security = FileSecurity(
                getattr(at.file, "path", ""),
                opener=self.label_of(at.process),
                fmode=getattr(at.file, "fmode", 3),
                private=1,
                unmediated=1,
            )
            at.file.security = security
            self.hold(at.file, at.process)
        return security

    def hold(self, file: Any, process: Any) -> None:
        """The process has the file by right: nothing is asked when it uses it first."""
        file.security.holders.add(getattr(process, "tgid", 0))

    # -- the facts of softsgx.lsm.hooks.Facts --------------------------------------------

    def mapped(self, at: Any) -> FileSecurity | None:
        """The object behind a question."""
        area = at.__dict__.get("area")
        if area is not None and area.shmem is not None:
            return FileSecurity(private=1, unmediated=1, opener=self.label_of(at.process))
        return None if at.file is None else self.security_of(at)

    def source(self, at: Any) -> tuple[At, FileSecurity]:
        """The file behind ``at.source``."""
        return self._behind(at, at.source)

    def sigstruct(self, at: Any) -> tuple[At, FileSecurity]:
        """The file behind ``at.enclave.sigstruct``."""
        return self._behind(at, at.enclave.sigstruct)

    def origins(self, at: Any, origin: Any, changed: Any) -> list[tuple[At, FileSecurity, int]]:
        """The files behind ``at.enclave.origins``, each once for pages that were changed or not."""
        numbers = [origin] if isinstance(origin, int) else origin.items
        were = [changed] * len(numbers) if isinstance(changed, int) else changed.items
        if len(numbers) < len(were):
            numbers = list(numbers) * len(were)
        known = at.enclave.origins
        return [
            (*self._behind(at, known[number - 1]), was)
            for number, was in dict.fromkeys(zip(numbers, were, strict=True))
            if number
        ]

    def _behind(self, at: Any, source: Any) -> tuple[At, FileSecurity]:
        if source is None:
            none = FileSecurity(private=1, unmediated=1, opener=self.label_of(at.process))
            return At(file=_Mapped(none), process=at.process, area=None), none
        security: FileSecurity | None = source.security
        if security is None:
            if source.anonymous and not source.path:
                security = FileSecurity(private=1, unmediated=1, opener=self.label_of(at.process))
            else:
                security = source.security = self.by_path(source.path, at.process)
        return At(file=_Mapped(security), process=at.process, area=None), security

    def noaudit(self) -> None:
        """What the hook asks is logged by nobody, until the next question."""
        self._quiet = True

    def need(self, errno: int, cond: Any, why: str = "") -> None:
        """A module's own condition, beside those of its policy."""
        if not cond:
            raise Stop(errno, why)

    def by_path(self, path: str, process: Any) -> FileSecurity:
        """What is kept of an ordinary file that a process has opened."""
        raise NotImplementedError

    def from_other(self, at: Any, obj: FileSecurity) -> int:
        """Whether another label opened the file."""
        return int(obj.opener != self.label_of(at.process))

    def in_heap(self, at: Any) -> int:
        """Whether the VMA lies within the heap, where the process tells of one."""
        heap = getattr(at.process, "heap", None)
        return int(heap is not None and heap[0] <= at.area.start and at.area.end <= heap[1])

    def in_stack(self, at: Any) -> int:
        """Whether the VMA holds the process's stack, where it tells of one."""
        stack = getattr(at.process, "stack", None)
        return int(stack is not None and at.area.start <= stack[0] <= at.area.end)

    def modified(self, at: Any) -> int:
        """Whether the VMA has an anon_vma."""
        return int(at.area.anon is not None)

    def denied(self, why: str) -> Stop:
        """The exception of a denial: EACCES."""
        return Stop(EACCES, why)
