"""Faults on purpose at ENCLU leaves and at instructions inside (`softsgx.faults`).

While a rule may hit an instruction, a thread runs inside one instruction at a time
(PTRACE_SINGLESTEP), which neither the enclave nor the program sees. An instruction is met when
it is about to run: the first after EENTER, and each after another; one that is resumed has
been met before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from softsgx.faults.plan import raise_cpusvn
from softsgx.faults.rules import Rule
from softsgx.host import ptrace
from softsgx.law.rule import FAULT
from softsgx.sdm import leaves as sdm
from softsgx.sgx.enclu import Thread
from softsgx.sgx.inside import run_leaf
from softsgx.supervisor.inside import masks
from softsgx.supervisor.inside.exceptions import abort_page, by_call, flush, leave
from softsgx.supervisor.state.odd import odd
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.uapi.regs import EFLAGS, RAX, RBX, RCX, RIP, RSP

__all__ = ["after", "before", "lost_inside", "stepped", "suspend"]

_SIGTRAP, _TRAP_BRKPT, _TRAP_TRACE = 5, 1, 2
_TF = 1 << 8
_PUSHF = (b"\x9c", b"\x66\x9c")
_PF = FAULT | sdm.VECTOR_PF
_MAX_RETRIES = 8
_NO_CPUSVN = bytes(16)
_ACCEPTS = (sdm.EACCEPT, sdm.EACCEPTCOPY)

Cure = Callable[[Run, Tracee, Thread], bool]


class _Steps:
    """Of a thread that is stepped. rip: where the instruction was, -1 if that is not known.

    at_exit: it left a system call, at whose exit a step is told before an instruction has run
    (Linux, arch_ptrace_report_syscall_exit()). again: exits that follow at once when it is resumed.
    """

    __slots__ = ("again", "at_exit", "rip")

    def __init__(self) -> None:
        self.rip = -1
        self.again = 0
        self.at_exit = False


def _steps(run: Run, tracee: Tracee) -> _Steps:
    found: _Steps = run.faults.threads.setdefault(tracee.tid, _Steps())
    return found


# -- a suspend -----------------------------------------------------------------------------


def suspend(run: Run, value: str = "") -> None:
    """The EPC has lost its content: all enclaves are gone, and threads inside have left them.

    value: ``cpusvn`` where the firmware is newer afterwards.
    """
    for file in run.files.values():
        enclave = getattr(file, "enclave", None)
        if enclave is not None and enclave.created and not enclave.lost:
            enclave.lost = True
            enclave.touch()
    if value:
        raise_cpusvn(run.device, 1)
    for tracee in run.tracees.values():
        if _is_lost(tracee) and not tracee.stopped:
            ptrace.interrupt(tracee.tid)  # the freezer's wake-up: it comes to `lost_inside`


def _is_lost(tracee: Tracee) -> bool:
    thread = tracee.thread
    return thread is not None and thread.tcs is not None and thread.enclave.lost


def lost_inside(run: Run, tracee: Tracee) -> None:
    """A thread that was stopped inside a lost enclave has left it; ERESUME will fault."""
    if _is_lost(tracee):
        run.regs.load(tracee.tid)
        leave(run, tracee, -1, 0, 0)
        by_call(run, tracee)
        _settle(run, tracee)
        run.regs.store(tracee.tid)


# -- leaves --------------------------------------------------------------------------------


def before(run: Run, tracee: Tracee, leaf: int, cure: Cure) -> bool:
    """An ENCLU is about to run, its registers loaded: True if nothing is left to be done."""
    faults, thread, view = run.faults, tracee.thread, run.view
    if _is_lost(tracee):
        _exit(run, tracee)
        return True
    name = sdm.ENCLU_NAMES.get(leaf)
    if name is None or not faults.live(name):
        return False
    able = None
    if leaf == sdm.EGETKEY and faults.asks(name, "SGX_INVALID_CPUSVN"):
        usual = {"slow", "suspend"}
        able = frozenset(usual | {"SGX_INVALID_CPUSVN"} if _outdated(run, thread) else usual)
    enclave = thread.enclave
    operand = view[RBX] if leaf in (sdm.EENTER, sdm.ERESUME) else view[RCX]
    if thread.tcs is None:
        process = tracee.space.sgx
        enclave = None if process is None else process.enclave_at(operand)
    at = operand - enclave.base if enclave is not None else -1
    due = faults.due(name, at=at, enclave=enclave, able=able)
    if due is None:
        return False
    rule = due[0]
    return _hit(run, tracee, rule, cure)


def _hit(run: Run, tracee: Tracee, rule: Rule, cure: Cure) -> bool:
    thread, what = tracee.thread, rule.fault.name
    if what == "race":
        _race(run, tracee, thread, rule, cure)
        return False
    run.faults.fired(tracee.tid, rule)
    if what == "slow":
        time.sleep(int(rule.value) / 1000)
    elif what == "suspend":
        suspend(run, rule.value)
        if thread.tcs is not None:
            _exit(run, tracee)
            return True
    else:
        _no_key(run, tracee)
        return True
    return False


def _outdated(run: Run, thread: Thread) -> bool:
    """Whether EGETKEY of this request fails on a processor with an older CPUSVN."""
    regs = list(run.view)
    return _with_no_cpusvn(run, thread, regs) and regs[RAX] == sdm.SGX_INVALID_CPUSVN


def _with_no_cpusvn(run: Run, thread: Thread, regs: Any) -> bool:
    enclave = thread.enclave
    if enclave is None or thread.tcs is None:
        return False
    own, enclave.cpusvn = enclave.cpusvn, _NO_CPUSVN
    try:
        error, _ = run_leaf(thread, run.device.design, run.device.run, regs)
    finally:
        enclave.cpusvn = own
    return not error


def _no_key(run: Run, tracee: Tracee) -> None:
    """EGETKEY on a processor that has not the CPUSVN which is asked for."""
    _with_no_cpusvn(run, tracee.thread, run.view)
    if run.record is not None:
        run.record.enclu(tracee.tid, sdm.EGETKEY, 0, run.view, tracee.thread.tcs)
    after(run, tracee, sdm.EGETKEY)


def _race(run: Run, tracee: Tracee, thread: Thread, rule: Rule, cure: Cure) -> None:
    """Another thread runs the same leaf first; what this one is answered, the law says."""
    device = run.device
    for _ in range(_MAX_RETRIES):
        error, changed = run_leaf(thread, device.design, device.run, list(run.view))
        if error != _PF or not cure(run, tracee, thread):
            break
    if error or changed < 0:
        return  # nothing that another could have done
    run.faults.fired(tracee.tid, rule)
    for file in run.files.values():
        if getattr(file, "enclave", None) is thread.enclave:
            run.pending.pages_changed(file, changed, changed + 1)
            break
    flush(run, tracee)


def after(run: Run, tracee: Tracee, leaf: int) -> None:
    """An ENCLU has been carried out, its registers loaded: let the thread go on."""
    thread = tracee.thread
    if thread.tcs is None:
        _resume(run, tracee)
        return
    if leaf == sdm.ERESUME and not thread.notified:
        steps = run.faults.threads.get(tracee.tid)
        if steps is not None and steps.again:
            steps.again -= 1
            _exit(run, tracee)
        else:
            _resume(run, tracee)
        return
    _about_to_run(run, tracee)


# -- instructions --------------------------------------------------------------------------


def stepped(run: Run, tracee: Tracee) -> bool:
    """A SIGTRAP of a thread, its registers loaded: True if it was a step of ours, and goes on."""
    faults, thread, view = run.faults, tracee.thread, run.view
    if thread is None or thread.tcs is None or tracee.tid not in faults.threads:
        return False
    steps = faults.threads[tracee.tid]
    code = ptrace.si_code(tracee.tid)
    enclave, rip = thread.enclave, view[RIP]
    inside = enclave.base <= rip < enclave.end
    if code not in (_TRAP_TRACE, _TRAP_BRKPT) or (view[EFLAGS] & _TF and thread.tcs.opted_in):
        return False
    if code == _TRAP_BRKPT and inside and not steps.at_exit:
        return False  # INT1
    steps.at_exit = False
    if _SIGTRAP in tracee.signals.ignored:
        odd(tracee).reset = _SIGTRAP  # Linux forces the signal of an exception
        masks.settle(run, tracee)
    if view[EFLAGS] & _TF:
        view[EFLAGS] &= ~_TF  # POPF could not have set it
    if code == _TRAP_BRKPT or not inside:
        _resume(run, tracee)
        return True
    _hide_tf(run, tracee, steps.rip)
    _about_to_run(run, tracee)
    return True


def _hide_tf(run: Run, tracee: Tracee, rip: int) -> None:
    """A PUSHF that was stepped over has stored the TF that stepped it."""
    enclave = tracee.thread.enclave
    where = rip - enclave.base
    if rip < 0 or not 0 <= where < enclave.size:
        return
    length = run.view[RIP] - rip
    if bytes(enclave.memory.view[where : where + length]) in _PUSHF:
        flags = tracee.space.peek(run.view[RSP], 2)
        if len(flags) == 2:
            tracee.space.poke(run.view[RSP] + 1, bytes((flags[1] & ~(_TF >> 8),)))


def _about_to_run(run: Run, tracee: Tracee) -> None:
    """An instruction inside is about to run: it does, or an interrupt comes first."""
    thread, faults = tracee.thread, run.faults
    enclave = thread.enclave
    due = faults.due("INSIDE", at=run.view[RIP] - enclave.base, enclave=enclave)
    if due is None:
        _resume(run, tracee)
        return
    rule = due[0]
    faults.fired(tracee.tid, rule)
    what, value = rule.fault.name, rule.value
    if what == "suspend":
        suspend(run, value)
    elif what == "reclaim":
        time.sleep(int(value) / 1000)
    else:
        _steps(run, tracee).again = int(value or 1) - 1
    _exit(run, tracee)


def _exit(run: Run, tracee: Tracee) -> None:
    """An interrupt: AEX, and on at the AEP."""
    leave(run, tracee, -1, 0, 0)
    by_call(run, tracee)
    _resume(run, tracee)


def _settle(run: Run, tracee: Tracee) -> None:
    abort_page(run, tracee)
    if tracee.odd is not None:
        masks.settle(run, tracee)


def _resume(run: Run, tracee: Tracee) -> None:
    """Store the registers and let the thread run, by one instruction where it is stepped."""
    faults = run.faults
    if tracee.thread.tcs is None:
        _settle(run, tracee)
    if run.record is not None:
        run.record.flush()
    run.regs.store(tracee.tid)
    tracee.stopped = False
    if faults.steps(tracee):
        steps = _steps(run, tracee)
        steps.rip, steps.at_exit = run.view[RIP], tracee.at_call
        ptrace.singlestep(tracee.tid)
    else:
        ptrace.cont(tracee.tid)
