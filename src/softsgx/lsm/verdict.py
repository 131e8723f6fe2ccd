"""One decision of a security module, as it is logged and recorded."""

from __future__ import annotations

from typing import Any

from softsgx.lsm.objects import FileSecurity

__all__ = ["Verdict"]


class Verdict:
    """What was asked of a policy, and its answer.

    lsm: "selinux" or "apparmor". hook: see `softsgx.lsm.hooks`. process: who asked.
    subject: its label. target, tclass: the object's. asked, denied: permissions (names,
    or AppArmor's letters), by the policy; audited: those of them that a kernel logs, and
    logs: as "denied" or "granted". SELinux grants what it once let through in permissive
    mode, so the two may differ from ``denied``. permissive: a denial was not enforced.
    file: the object, None for a question about the process itself. cmd: the ioctl's
    number or None. by_name: the object is named, not open yet. kill: the process dies of it.
    """

    __slots__ = (
        "asked",
        "audited",
        "by_name",
        "cmd",
        "denied",
        "file",
        "hook",
        "kill",
        "logs",
        "lsm",
        "permissive",
        "process",
        "subject",
        "target",
        "tclass",
    )

    def __init__(
        self,
        lsm: str,
        hook: str,
        process: Any,
        subject: str,
        target: str,
        tclass: str,
        asked: tuple[str, ...],
        denied: tuple[str, ...],
        audited: tuple[str, ...],
        *,
        logs: str = "",
        permissive: bool = False,
        file: FileSecurity | None = None,
        cmd: int | None = None,
        by_name: bool = False,
        kill: bool = False,
    ) -> None:
        self.lsm, self.hook, self.process = lsm, hook, process
        self.subject, self.target, self.tclass = subject, target, tclass
        self.asked, self.denied, self.audited = asked, denied, audited
        self.permissive, self.file, self.cmd, self.by_name = permissive, file, cmd, by_name
        self.kill, self.logs = kill, logs or ("denied" if denied else "granted")

    def __repr__(self) -> str:
        answer = f"denied {' '.join(self.denied)}" if self.denied else "granted"
        return (
            f"<{self.hook}: {self.subject} {' '.join(self.asked)} "
            f"{self.target}:{self.tclass} {answer}>"
        )
