"""The handlers of system calls before the device is opened: what every program pays for.

See `table` for all of them and for what a handler is.
"""

from __future__ import annotations

import os
from errno import EINVAL

from softsgx.host import bpf, ptrace
from softsgx.host.status import mask_now
from softsgx.supervisor.calls import folders, others, pathcalls, paths, sockets
from softsgx.supervisor.calls.sigaction import sigaction
from softsgx.supervisor.calls.signals import sigprocmask, sigreturn
from softsgx.supervisor.programs import pathsites
from softsgx.supervisor.programs.patches import patch_mapped
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import DONE, cont, to_exit
from softsgx.uapi import i386
from softsgx.uapi import syscalls as nr
from softsgx.uapi.personality import PERSONALITY_ASKS, READ_IMPLIES_EXEC
from softsgx.uapi.regs import ORIG_RAX, R10, RBX, RCX, RDI, RDX, RSI
from softsgx.uapi.syscalls import SYSCALLS

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["HANDLERS", "I386", "answer"]

_CAP_SYS_PTRACE = 19
_PROT_EXEC, _MAP_ANONYMOUS = 4, 0x20


def _filter(run: Run, tracee: Tracee) -> Any:
    """A filter of the program's own is installed: from now on it may ask for stops, too.

    Among threads it runs to its exit: how many filters one has says whether ours was installed.
    """
    run.filtered = run.confined = True
    pathcalls.leave_alone(tracee)
    if len(tracee.space.tracees) < 2:
        return None
    to_exit(run, tracee)
    cont(run, tracee)
    return DONE


def _prctl(first: int, second: int) -> Callable[[Run, Tracee], Any]:
    def handle(run: Run, tracee: Tracee) -> Any:
        """The same; and signals in place of system calls, which those that we make are none of.

        A kernel that lets no tracer put them off for a while does not have them.
        """
        option, value = run.view[first] & 0xFFFFFFFF, run.view[second]
        if option == bpf.PR_SET_SECCOMP:
            return _filter(run, tracee)
        if option == bpf.PR_SET_SYSCALL_USER_DISPATCH and value:
            if ptrace.dispatch_of(tracee.tid) is None:
                return -EINVAL
            tracee.dispatches = True
        elif option in (bpf.PR_GET_DUMPABLE, bpf.PR_SET_DUMPABLE):
            return _dumpable(tracee, option, value)
        return None

    return handle


def _dumpable(tracee: Tracee, option: int, value: int) -> Any:
    """PR_SET_DUMPABLE: a tracer without CAP_SYS_PTRACE sees nothing of a process that is not.

    ptrace_access_vm() and ptrace_may_access() (Linux 6.1) refuse it memory, maps and descriptors.
    So the process stays dumpable, and is told what it has said.
    """
    if mask_now(os.getpid(), b"CapEff") >> _CAP_SYS_PTRACE & 1:
        return None
    space = tracee.space
    if option == bpf.PR_GET_DUMPABLE:
        return 0 if space.undumpable else None
    if value > 1:
        return None
    space.undumpable = not value
    return None if value else 0


def _mmap(run: Run, tracee: Tracee) -> Any:
    """Code of a file is patched, and under a security module what is executable is noted.

    A mapping of data, private or shared, is nobody's here.
    """
    if run.lsm is None:
        view = run.view
        if not view[R10] & _MAP_ANONYMOUS and not view[RDX] & _PROT_EXEC:
            return paths.hurry_data(run, tracee) if pathsites.tells(run) else None
        answer = patch_mapped(run, tracee)
        if answer is None or answer is DONE:
            return answer
        return pathcalls.hurry_mmap(run, tracee, answer)
    from softsgx.supervisor.programs.executable import follow_mmap

    return follow_mmap(run, tracee)


def _masks(run: Run, tracee: Tracee) -> Any:
    return paths.hurry_masks(run, tracee) if sigprocmask(run, tracee) else None


def _change(run: Run, tracee: Tracee) -> Any:
    """An mprotect or mremap of memory that is no enclave's: see `programs.executable`."""
    if run.lsm is None:
        return None
    from softsgx.supervisor.programs.executable import follow

    return follow(run, tracee)


def _personality(run: Run, tracee: Tracee) -> Any:
    """READ_IMPLIES_EXEC makes what can be read executable: see `programs.executable`."""
    asked = run.view[RDI] & 0xFFFFFFFF
    if not asked & READ_IMPLIES_EXEC or asked == PERSONALITY_ASKS:
        return None
    tracee.space.implies = True
    if run.lsm is None:
        return None
    from softsgx.supervisor.programs.executable import follow_personality

    return follow_personality(run, tracee)


def _listed(run: Run, tracee: Tracee) -> Any:
    value = folders.listed(run, tracee)
    return paths.hurry_descriptor(run, tracee) if value is None else value


def _takes_i386(run: Run, tracee: Tracee) -> Any:
    from softsgx.supervisor.calls import foreign

    return foreign.I386[run.view[ORIG_RAX]](run, tracee)


HANDLERS: dict[int, Callable[[Run, Tracee], Any]] = {
    number: paths.handle
    for number, row in SYSCALLS.items()
    if row.path is not None and row.path.stops
}
"""By number: what the table of all handlers takes from here."""
HANDLERS[nr.NR_connect] = sockets.connect
HANDLERS[nr.NR_seccomp], HANDLERS[nr.NR_prctl] = _filter, _prctl(RDI, RSI)
HANDLERS[nr.NR_mmap] = _mmap
HANDLERS[nr.NR_mprotect] = HANDLERS[nr.NR_pkey_mprotect] = HANDLERS[nr.NR_mremap] = _change
HANDLERS[nr.NR_personality] = _personality
HANDLERS[nr.NR_rt_sigaction] = sigaction
HANDLERS[nr.NR_rt_sigprocmask], HANDLERS[nr.NR_rt_sigreturn] = _masks, sigreturn
HANDLERS |= others.HANDLERS
HANDLERS[nr.NR_getdents] = HANDLERS[nr.NR_getdents64] = _listed

I386: dict[int, Callable[[Run, Tracee], Any]] = {
    **others.I386,
    **dict.fromkeys(i386.TAKES, _takes_i386),
    i386.NR_seccomp: _filter,
    i386.NR_prctl: _prctl(RBX, RCX),
}
"""The same of 32-bit calls, by i386's number."""


def answer(run: Run, tracee: Tracee) -> Any:
    """A call at its seccomp stop: the value for RAX, None to let it run, or DONE."""
    call = run.view[ORIG_RAX]
    handler = HANDLERS.get(call)
    if call & nr.X32_BIT:
        from softsgx.supervisor.calls import foreign

        return foreign.by_x32(run, tracee, HANDLERS)
    if call in I386 and ptrace.syscall_info(tracee.tid)[1] != bpf.X86_64:
        handler = I386[call]
    return None if handler is None else handler(run, tracee)
