"""The handlers of system calls before the device is opened: what every program pays for.

See `table` for all of them and for what a handler is.
"""

from __future__ import annotations

from softsgx.host import bpf, ptrace
from softsgx.supervisor.calls import folders, others, paths, sockets
from softsgx.supervisor.calls.signals import sigaction, sigprocmask, sigreturn
from softsgx.supervisor.programs.patches import patch_mapped
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RDI
from softsgx.uapi.syscalls import SYSCALLS

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["HANDLERS", "answer"]


def _filter(run: Run, _tracee: Tracee) -> None:
    """A filter of the program's own is installed: from now on it may ask for stops, too."""
    if run.view[ORIG_RAX] == nr.NR_seccomp or run.view[RDI] & 0xFFFFFFFF == bpf.PR_SET_SECCOMP:
        run.filtered = True


def _mmap(run: Run, tracee: Tracee) -> Any:
    """Code of a file is patched, and under a security module what is executable is noted."""
    if run.lsm is None:
        return patch_mapped(run, tracee)
    from softsgx.supervisor.programs.executable import follow_mmap

    return follow_mmap(run, tracee)


def _change(run: Run, tracee: Tracee) -> Any:
    """An mprotect or mremap of memory that is no enclave's: see `programs.executable`."""
    if run.lsm is None:
        return None
    from softsgx.supervisor.programs.executable import follow

    return follow(run, tracee)


def _personality(run: Run, tracee: Tracee) -> Any:
    """READ_IMPLIES_EXEC makes what can be read executable: see `programs.executable`."""
    if run.lsm is None:
        return None
    from softsgx.supervisor.programs.executable import follow_personality

    return follow_personality(run, tracee)


HANDLERS: dict[int, Callable[[Run, Tracee], Any]] = {
    number: paths.handle
    for number, row in SYSCALLS.items()
    if row.path is not None and row.path.stops
}
"""By number: what the table of all handlers takes from here."""
HANDLERS[nr.NR_connect] = sockets.connect
HANDLERS[nr.NR_seccomp] = HANDLERS[nr.NR_prctl] = _filter
HANDLERS[nr.NR_mmap] = _mmap
HANDLERS[nr.NR_mprotect] = HANDLERS[nr.NR_pkey_mprotect] = HANDLERS[nr.NR_mremap] = _change
HANDLERS[nr.NR_personality] = _personality
HANDLERS[nr.NR_rt_sigaction] = sigaction
HANDLERS[nr.NR_rt_sigprocmask], HANDLERS[nr.NR_rt_sigreturn] = sigprocmask, sigreturn
HANDLERS |= others.HANDLERS
HANDLERS[nr.NR_getdents] = HANDLERS[nr.NR_getdents64] = folders.listed


def answer(run: Run, tracee: Tracee) -> Any:
    """A call at its seccomp stop: the value for RAX, None to let it run, or DONE."""
    call = run.view[ORIG_RAX]
    handler = HANDLERS.get(call)
    if call in others.I386 and ptrace.syscall_info(tracee.tid)[1] != bpf.X86_64:
        handler = others.I386[call]
    return None if handler is None else handler(run, tracee)
