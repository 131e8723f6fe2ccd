"""SELinux's hooks on a compiled policy."""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import Any

from softsgx.errors import UsageError
from softsgx.lsm.objects import FileSecurity
from softsgx.lsm.selinux import (
    ENCLAVE,
    FD,
    NAMES,
    OWN_ENCLAVE,
    PROCESS,
    PROCESS2,
    SelinuxHooks,
)
from softsgx.lsm.verdict import Verdict
from softsgx.policy.avc import Avc
from softsgx.policy.labels import PathLabels
from softsgx.policy.lsm import PolicyLsm
from softsgx.policy.selinux import SELinuxPolicy

__all__ = ["SELinuxLsm", "full_context"]

_CLASSES = {
    stat.S_IFREG: "file", stat.S_IFCHR: "chr_file", stat.S_IFBLK: "blk_file",
    stat.S_IFDIR: "dir", stat.S_IFIFO: "fifo_file", stat.S_IFSOCK: "sock_file",
}  # fmt: skip


def full_context(policy: SELinuxPolicy, text: str) -> str:
    """The context that a user means: a whole one, or a domain's type alone.

    A type gets the first user and role with which the policy allows it. Raises UsageError.
    """
    if ":" in text:
        if policy.valid(text):
            return policy.canonical(text)
        raise UsageError(f"{policy.where}: not a context of this policy: {text}")
    kernel = (policy.initial_context("kernel") or "system_u:system_r").split(":")
    level = ":s0" if policy.mls else ""
    pairs = [("system_u", "system_r"), (kernel[0], kernel[1])]
    pairs += [(f"{who}_u", f"{who}_r") for who in ("unconfined", "user", "staff", "sysadm")]
    for user, role in pairs:
        context = f"{user}:{role}:{text}{level}"
        if policy.valid(context):
            return policy.canonical(context)
    raise UsageError(f"{policy.where}: no context of this policy has the type {text!r}")


def _names(target: str) -> list[tuple[str, ...]]:
    """The permissions of each mask of a target."""
    bits = list(enumerate(NAMES[target]))
    return [tuple(name for i, name in bits if mask >> i & 1) for mask in range(1 << len(bits))]


class SELinuxLsm(PolicyLsm):
    """Answers the hooks by ``policy``; paths are labelled by ``labels``.

    context: of processes without one of their own.
    """

    name = "selinux"

    def __init__(
        self,
        policy: SELinuxPolicy,
        labels: PathLabels,
        context: str,
        sink: Callable[[Verdict], None] | None = None,
    ) -> None:
        hooks = SelinuxHooks(
            open_perms=policy.has_policycap("open_perms"),
            ioctl_skip_cloexec=policy.has_policycap("ioctl_skip_cloexec"),
        )
        super().__init__(hooks, policy.canonical(context), sink)
        self.policy, self.labels, self.avc = policy, labels, Avc(policy)
        self._seqno = policy.seqno
        self._names = {target: _names(target) for target in NAMES}

    def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
        """Decide one question; 0 or EACCES. See `softsgx.lsm.hooks`."""
        if self._seqno != self.policy.seqno:
            self._seqno = self.policy.seqno
            self.forget()
        return super().ask(hook, at, what)

    def opened(self, file: Any, process: Any, fmode: int) -> FileSecurity:
        """A device node: labelled by its path."""
        return self.file(file.path, stat.S_IFCHR, self.label_of(process), fmode, dev="devtmpfs")

    def by_path(self, path: str, process: Any) -> FileSecurity:
        """A regular file."""
        return self.file(path, stat.S_IFREG, self.label_of(process))

    def file(
        self,
        path: str,
        mode: int,
        opener: str,
        fmode: int = 3,
        *,
        dev: str | None = None,
        ino: int | None = None,
    ) -> FileSecurity:
        """A file by its path; ``mode``: its S_IFMT bits."""
        label = self.labels.label_for_path(path, mode)
        tclass = _CLASSES.get(stat.S_IFMT(mode), "file")
        return FileSecurity(path, label, tclass, opener=opener, fmode=fmode, dev=dev, ino=ino)

    def memfd(self, path: str, opener: str) -> FileSecurity:
        """A memfd: an ordinary file on tmpfs, labelled by who made it."""
        label = self.computed(self.policy.new_inode_context, opener, "tmpfs")
        return FileSecurity(path, label, "file", opener=opener, dev="tmpfs")

    def label_anon_inode(self, at: Any, name: str) -> None:
        """Give the file that is being made its label: selinux_inode_init_security_anon()."""
        subject = self.label_of(at.process)
        label = self.computed(self.policy.anon_inode_context, subject, name)
        at.file.security = FileSecurity(
            f"anon_inode:{name}",
            label,
            "anon_inode",
            opener=subject,
            fmode=getattr(at.file, "fmode", 3),
            dev="anon_inodefs",
            anonclass=name,
        )
        self.hold(at.file, at.process)

    def computed(self, compute: Callable[..., str], *arguments: str) -> str:
        """The label of a new object; EACCES where the policy allows no such context.

        Source: Linux 6.1 ss/services.c, compute_sid_handle_invalid_context().
        """
        try:
            return compute(*arguments)
        except UsageError as error:
            raise self.denied(str(error)) from None

    def av(self, at: Any, target: str, perms: Any, cmd: int | None = None) -> None:
        """avc_has_perm() or, with ``cmd``, avc_has_extended_perms(); EACCES if denied."""
        if not isinstance(perms, int):
            for each in set(perms.items):
                self.av(at, target, each, cmd)
            return
        if not perms:
            return
        subject = self.label_of(at.process)
        obj = None
        if target in (PROCESS, PROCESS2):
            label, tclass = subject, target
        elif target == OWN_ENCLAVE:
            label, tclass = subject, ENCLAVE
        else:
            obj = self.mapped(at)
            assert obj is not None
            label, tclass = obj.label, ENCLAVE if target == ENCLAVE else obj.tclass
            if target == FD:
                label, tclass = obj.opener, FD
        self.decide(at.process, subject, label, tclass, self._names[target][perms], obj, cmd)

    def decide(
        self,
        process: Any,
        subject: str,
        label: str,
        tclass: str,
        names: tuple[str, ...],
        obj: FileSecurity | None = None,
        cmd: int | None = None,
        *,
        hook: str = "",
    ) -> None:
        """One access vector: decided, logged, EACCES if denied."""
        answer = self.avc.ask(subject, label, tclass, names, cmd)
        decision = answer.decision
        if answer.denied or answer.audited or self.all_verdicts:
            self.note(
                Verdict(
                    self.name,
                    hook or self._hook,
                    process,
                    subject,
                    label,
                    tclass,
                    names,
                    tuple(sorted(decision.denied)),
                    tuple(sorted(answer.audited)),
                    logs="denied" if answer.denied else "granted",
                    permissive=decision.permissive,
                    file=obj,
                    cmd=cmd,
                    by_name=self._hook == "file_open" and "open" not in names,
                )
            )
        if not decision:
            raise self.denied(f"{subject} lacks {' '.join(sorted(decision.denied))} on {label}")
