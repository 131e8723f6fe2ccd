"""What a run asks of its security module, which is `confinement`, imported where one is wanted."""

from __future__ import annotations

from typing import Any, Protocol

from softsgx.supervisor.state.tracee import Tracee

__all__ = ["SecurityModule"]


class SecurityModule(Protocol):
    """Labels of processes, and the questions that only real processes raise."""

    lsm: Any
    setup: dict[str, Any]

    def attach(self, run: Any) -> None:
        """The run begins."""

    def close(self) -> None:
        """The end of the run."""

    contexts: Any

    def label_of(self, tgid: int, tid: int = 0) -> str:
        """The label of a thread, or of a process's first."""

    def born(self, parent: Tracee, child: int, *, thread: bool) -> None:
        """A thread or a process has a child."""

    def ended(self, tid: int) -> None:
        """A thread is gone."""

    def executed(self, tracee: Tracee, former: int) -> None:
        """A program begins in a process; former: the thread that called execve."""

    def received(self, process: Any, file: Any) -> tuple[int, str]:
        """Before a process uses a descriptor: (0 or errno, why)."""

    def source_security(self, process: Any, found: Any) -> Any:
        """The file behind a mapping of a process, None for anonymous memory."""

    def source(self, process: Any, addr: int, prot: int) -> None:
        """Ask about an executable mapping that pages are added from. Raises Stop."""
