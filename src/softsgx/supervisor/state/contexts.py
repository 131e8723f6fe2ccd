"""Which credentials each thread has under a security module: by fork, exec and /proc/PID/attr.

Threads of a process share its credentials here until one of them changes its own, as in the kernel
each has a copy. An exec that the policy would refuse has happened when it is seen: it is logged,
and the process keeps the label that it had.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from softsgx.errors import UsageError
from softsgx.law.rule import Stop
from softsgx.policy.apparmor_lsm import UNCONFINED, AppArmorLsm
from softsgx.policy.lsm import PolicyLsm
from softsgx.policy.procattr import (
    Credentials,
    onexec_allowed,
    read_attribute,
    write_attribute,
)
from softsgx.policy.selinux_lsm import SELinuxLsm
from softsgx.supervisor.state.tracee import Tracee

__all__ = ["Contexts", "mode_of"]


class _Subject:
    """A thread that has no enclave's view."""

    def __init__(self, tracee: Tracee, label: str) -> None:
        self.tgid, self.tid, self.label = tracee.tgid, tracee.tid, label


class Contexts:
    """The credentials of a run.

    lsm: the engine's side. start: the label of the first program, None to leave it to
    the rules and the policy. rules: labels by the path of the program that is executed.
    """

    def __init__(self, lsm: PolicyLsm, start: str | None, rules: dict[str, str]) -> None:
        self.lsm, self.start, self.rules = lsm, start, rules
        self._known: dict[int, Credentials] = {}

    def of(self, tgid: int, tid: int = 0) -> Credentials:
        """Those of a thread; tid 0: of the process's first."""
        found = self._known.get(tid) or self._known.get(tgid)
        return Credentials(self.lsm.label) if found is None else found

    def born(self, parent: Tracee, tid: int, *, thread: bool) -> None:
        """A child has what made it has."""
        creds = self.of(parent.tgid, parent.tid)
        if not thread or creds is not self._known.get(parent.tgid):
            self._known[tid] = creds.copy()

    def ended(self, tid: int) -> None:
        """A thread is gone; a leader is the last of its process."""
        self._known.pop(tid, None)

    def executed(self, tracee: Tracee, former: int) -> bool:
        """A program begins; former: the thread that called execve. Whether the label is another."""
        tgid = tracee.tgid
        try:
            path = os.readlink(f"/proc/{tgid}/exe")
        except OSError:
            path = ""
        old = self._known.pop(former, None) or self._known.get(tgid)
        label = old.label if old is not None else self.lsm.label
        who = _Subject(tracee, label)
        if old is not None and old.exec:
            new = self._as_asked(who, old, path)
        elif path in self.rules:
            new = self.rules[path]
        elif old is None and self.start is not None:
            new = self.start
        else:
            new = self._by_policy(who, label, path)
        after = self._known[tgid] = Credentials(new)
        if isinstance(self.lsm, SELinuxLsm):
            after.prev = label
        return old is not None and new != label

    def _as_asked(self, who: _Subject, old: Credentials, path: str) -> str:
        """What the program had written into attr/exec."""
        lsm = self.lsm
        if isinstance(lsm, AppArmorLsm):
            profile = None if old.label == UNCONFINED else lsm.policy.profile(old.label)
            return old.exec if onexec_allowed(profile, path, old.exec) else old.label
        return self._transition(who, old.label, old.exec, path)

    def _by_policy(self, who: _Subject, old: str, path: str) -> str:
        lsm = self.lsm
        if isinstance(lsm, AppArmorLsm):
            # A confined program's children stay in its profile: ix; the others are not modelled.
            # Where several attach alike, the kernel takes none of them.
            with suppress(UsageError):
                profile = lsm.policy.attached_to(path) if old == UNCONFINED else None
                return old if profile is None else profile.name
            return old
        assert isinstance(lsm, SELinuxLsm)
        try:
            program = lsm.file(path, mode_of(path), old)
            new = lsm.computed(lsm.policy.transition, old, program.label, "process")
        except Stop:
            return old
        return self._transition(who, old, new, path)

    def _transition(self, who: _Subject, old: str, new: str, path: str) -> str:
        """selinux_bprm_creds_for_exec(): the new label, or the old one where it is denied."""
        lsm = self.lsm
        assert isinstance(lsm, SELinuxLsm)
        if new == old:
            return old
        program = lsm.file(path, mode_of(path), old)
        try:
            for subject, target, tclass, perm, obj in (
                (old, program.label, program.tclass, "execute", program),
                (old, new, "process", "transition", None),
                (new, program.label, program.tclass, "entrypoint", program),
            ):
                lsm.decide(who, subject, target, tclass, (perm,), obj, hook="bprm_creds_for_exec")
        except Stop:
            return old
        return new

    # -- /proc/PID/attr ------------------------------------------------------------------

    def read(self, tracee: Tracee, target: Tracee, name: str) -> bytes:
        """What a thread reads there of another, or of itself. Raises Stop."""
        creds = self.of(target.tgid, target.tid)
        who = _Subject(tracee, self.of(tracee.tgid, tracee.tid).label)
        return read_attribute(self.lsm, who, creds, name, own=tracee is target)

    def write(self, tracee: Tracee, name: str, data: bytes, threads: Iterable[int]) -> int:
        """A thread writes there: how much it has written. Raises Stop.

        threads: of its process.
        """
        old = self.of(tracee.tgid, tracee.tid)
        others = [tid for tid in threads if tid != tracee.tid]
        who = _Subject(tracee, old.label)
        n, new = write_attribute(self.lsm, who, old, name, data, alone=not others)
        for tid in others:  # they keep what they had
            self._known.setdefault(tid, self.of(tracee.tgid, tid).copy())
        self._known[tracee.tid if others else tracee.tgid] = new
        return n


def mode_of(path: str) -> int:
    """The st_mode of a file; a regular file's where there is none."""
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0o100000
