"""What the LSM was asked in a recorded run, each question once.

Explaining a run and writing a policy for it start from the same list: who asked for
what on which object, by which hook and which rule of the design, how often, and what
was denied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from softsgx.errors import UsageError
from softsgx.record import ioctls

__all__ = ["LsmRun", "Question", "lsm_runs"]


class Question:
    """One question. Attributes as in `softsgx.lsm.verdict.Verdict`.

    rule, law: of the design; "" where the supervisor itself asked. times: how often. call:
    the system call or ioctl that it belonged to first. enforced: a denial was one.
    """

    __slots__ = (
        "asked", "call", "cmd", "denied", "enforced", "hook", "law", "path", "rule", "subject",
        "target", "tclass", "times",
    )  # fmt: skip

    def __init__(self, verdict: dict[str, Any], call: str) -> None:
        self.hook: str = verdict["hook"]
        self.subject: str = verdict["subject"]
        self.target: str = verdict["target"]
        self.tclass: str = verdict["tclass"]
        self.asked: tuple[str, ...] = tuple(verdict["asked"])
        self.denied: tuple[str, ...] = tuple(verdict["denied"])
        self.enforced = not verdict["permissive"]
        self.path: str = verdict.get("path", "")
        self.cmd: int | None = verdict.get("cmd")
        self.rule: str = verdict.get("rule", "")
        self.law: str = verdict.get("law", "")
        self.call, self.times = call, 0

    def as_dict(self) -> dict[str, Any]:
        """The question as plain data."""
        return {name: getattr(self, name) for name in self.__slots__}

    def key(self) -> tuple[Any, ...]:
        """What makes two questions the same."""
        return (
            self.hook, self.subject, self.target, self.tclass, self.asked, self.denied,
            self.path, self.cmd, self.rule, self.law,
        )  # fmt: skip

    @property
    def ioctl(self) -> str:
        """The ioctl that it is about, by the name that the design has for the number; ""."""
        if self.cmd is None:
            return ""
        return self.call if self.call.startswith("SGX_IOC_") else ioctls.name(self.cmd)

    @property
    def at_exec(self) -> bool:
        """Whether it was about executing a program, which is not refused here."""
        return self.hook.startswith("bprm_")


class LsmRun:
    """One run of a recording: ``kind`` of the LSM, its ``setup``, and the questions in order."""

    def __init__(self, header: dict[str, Any]) -> None:
        self.header = header
        self.kind = ""
        self.setup: dict[str, Any] = {}
        self._questions: dict[tuple[Any, ...], Question] = {}

    @property
    def questions(self) -> list[Question]:
        """Every question, in the order of its first time."""
        return list(self._questions.values())

    def keep(self, which: Callable[[Question], bool]) -> None:
        """Forget the other questions."""
        self._questions = {k: q for k, q in self._questions.items() if which(q)}

    def note(self, event: dict[str, Any]) -> None:
        """Take an event of the run."""
        if event["event"] == "lsm":
            self.kind, self.setup = event["kind"], event["setup"]
        call = str(event.get("name") or event.get("call") or event["event"])
        for verdict in event.get("verdicts", ()):
            found = Question(verdict, call)
            found = self._questions.setdefault(found.key(), found)
            found.times += 1


def lsm_runs(events: Iterable[dict[str, Any]], path: str) -> list[LsmRun]:
    """The runs of a recording that had an LSM. Raises UsageError if there is none."""
    runs: list[LsmRun] = []
    for event in events:
        if "softsgx" in event:
            runs.append(LsmRun(event))
        else:
            runs[-1].note(event)
    found = [run for run in runs if run.kind]
    if not found:
        raise UsageError(
            f"{path}: no run in it had a security module: record one with --selinux or --apparmor"
        )
    return found
