"""A supervisor that sends a signal before the n-th instruction of an ECALL (tests/guests/steps.c).

``python -m tests.supervisor.stepper GUEST ARGS…``: prints, as JSON, what it saw of each n: where
the thread was, and the SSA frame of an AEX. With ``--exact`` before the guest every entry stops.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from softsgx.host import ptrace
from softsgx.supervisor.loop.supervisor import Supervisor
from softsgx.supervisor.state.options import Options
from softsgx.uapi.regs import RIP

_NO_RANDOM_ADDRESSES = 0x0040000


def _signal_stop(number: int) -> int:
    return number << 8 | 0x7F


class Stepper(Supervisor):
    """From SIGUSR2 on the thread steps; before the n-th step it gets SIGUSR1."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.n = -2  # one that is not told of: what a first time leaves in registers
        self.left = 0
        self.begun = self.stepping = False
        self.seen: list[dict[str, Any]] = []

    def dispatch(self, tracee: Any, status: int) -> None:
        """Every status of every tracee."""
        if status == _signal_stop(signal.SIGUSR2):
            self.n += 1
            self.left, self.begun, self.stepping = self.n, False, True
            tracee.stopped = True
            self.go(tracee)
            return
        if self.stepping and status == _signal_stop(signal.SIGTRAP):
            self.step(tracee)
            return
        super().dispatch(tracee, status)
        if status == _signal_stop(signal.SIGUSR1):
            self.look(tracee)

    def step(self, tracee: Any) -> None:
        """After one instruction."""
        regs = self.state.regs
        regs.load(tracee.tid)
        rip, space = regs.view[RIP], tracee.space
        where = self.where(rip, space)
        self.begun |= where != "outside"
        if self.begun and where == "outside":
            self.stepping = False  # it has left
            ptrace.cont(tracee.tid)
            return
        if self.begun:
            self.left -= 1
        if self.begun and self.left < 0:
            self.stepping = False
            self.seen.append({"where": where})
            os.kill(tracee.tid, signal.SIGUSR1)  # the one thread: it stops for it at once
            ptrace.cont(tracee.tid)
            return
        self.go(tracee)

    def where(self, rip: int, space: Any) -> str:
        """The room of an address."""
        if space.short and space.short <= rip < space.short + 0x7000:
            return "short"
        if rip & -4096 in space.raw.pages or (space.sgx and rip & -4096 in space.sgx.far):
            return "pad"
        enclave = self.enclave(space)
        return "enclave" if enclave and enclave.base <= rip < enclave.end else "outside"

    def enclave(self, space: Any) -> Any:
        """The one enclave."""
        return next((v.file.enclave for v in space.sgx.mm), None) if space.sgx else None

    def look(self, tracee: Any) -> None:
        """After the signal was dealt with: the SSA frame that AEX has written."""
        enclave = self.enclave(tracee.space)
        tcs = min(enclave.tcs.values(), key=lambda t: t.offset)
        if tcs.cssa:
            frame = enclave.memory.read(tcs.frame(0), tcs.frame_bytes)
            self.seen[-1]["ssa"] = frame.hex()
            self.seen[-1]["rip"] = int.from_bytes(frame[-184 + 136 : -184 + 144], "little")

    def go(self, tracee: Any) -> None:
        """One instruction more."""
        tracee.stopped = False
        ptrace.singlestep(tracee.tid)


def main() -> None:
    """Run a guest."""
    options = Options()
    argv = sys.argv[1:]
    if argv[0] == "--exact":
        options.exact = True
        argv.pop(0)
    ptrace._libc.personality(_NO_RANDOM_ADDRESSES)
    stepper = Stepper(options)
    regs = ptrace.Registers
    plain = regs.store_and_cont

    def store_and_step(self: Any, tid: int) -> None:
        if stepper.stepping:
            self.store(tid)
            ptrace.singlestep(tid)
        else:
            plain(self, tid)

    regs.store_and_cont = store_and_step  # type: ignore[method-assign]
    status = stepper.run(argv)
    print(json.dumps({"status": status, "seen": stepper.seen[1:]}), file=sys.stderr)


if __name__ == "__main__":
    main()
