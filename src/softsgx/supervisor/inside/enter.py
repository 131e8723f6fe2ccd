"""ENCLU, and the signal-delivery stops of threads.

The ENCLU of our vDSO is a system call, at whose seccomp stop `vdso_enclu` runs.
The hot path is `quick`: an EENTER from there by a known TCS, and an EEXIT. One
load of registers, one look at the instruction, one store and continue; whatever
it does not know at once it leaves to `vdso_enclu` or `signal`, and `_enclu`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from softsgx.device.process import READ, WRITE
from softsgx.host import ptrace, vdso
from softsgx.law.rule import FAULT
from softsgx.sdm import leaves as sdm
from softsgx.sdm.prefixes import MAX_BYTES, enclu_prefixes
from softsgx.sgx.enclu import Thread, canonical, edeccssa, eenter, eexit, eresume
from softsgx.sgx.inside import LEAVES, run_leaf
from softsgx.supervisor.effects.sites import counted, raw_counted, restore
from softsgx.supervisor.inside import accepts, masks, outside, short
from softsgx.supervisor.inside.exceptions import (
    abort_page,
    deliver,
    exception,
    flush,
    in_handler,
    leave,
    page_fields,
    raise_inside,
)
from softsgx.supervisor.inside.settle import settle
from softsgx.supervisor.programs.cpuid import emulate_cpuid
from softsgx.supervisor.state.host_process import process_of
from softsgx.supervisor.state.odd import odd
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.threads import thread_of
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import DONE, cont
from softsgx.supervisor.stopped.remote import goes_on
from softsgx.supervisor.stopped.restart import INTERRUPTED
from softsgx.supervisor.stopped.resume import cont_changed, out_of_ours
from softsgx.supervisor.stopped.timed import interrupted
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import CS, EFLAGS, ORIG_RAX, RAX, RBX, RCX, RIP, RSP, SS

__all__ = ["quick", "signal", "syscall_inside", "vdso_enclu"]

SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS = 4, 5, 7, 8, 11, 31
_SYNCHRONOUS = (SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS)
_TRAP_TRACE = 2
_TF = 1 << 8
_USER32_CS, _USER64_CS, _USER_DS = 0x23, 0x33, 0x2B  # Linux arch/x86/include/asm/segment.h
_ENCLU = sdm.ENCLU_BYTES
_EENTER, _ERESUME, _EEXIT = sdm.EENTER, sdm.ERESUME, sdm.EEXIT
_NONE_BLOCKED = 1 << 31  # of vdso.S
_QUICK_EENTER = (_NONE_BLOCKED | _EENTER) << 32 | nr.NR_exit
_MINUS_1 = (1 << 64) - 1
_SIGILL_STOP = SIGILL << 8 | 0x7F  # as a wait status
_PF, _GP, _UD = sdm.VECTOR_PF, sdm.VECTOR_GP, sdm.VECTOR_UD
_MAX_RETRIES = 8


def quick(run: Run, system_call: Callable[[Tracee], None]) -> Callable[[Tracee, int], None]:
    """The stops of threads that have been inside: what is used is looked up once, here.

    The function's status: that of a SIGILL or of a seccomp stop. system_call: what is done at
    that of a call that is none of ours, its registers loaded.
    """
    view, regs = run.view, run.regs
    load, store_and_cont, si_code = regs.load, regs.store_and_cont, ptrace.si_code

    def stopped(tracee: Tracee, status: int) -> None:
        tid, thread = tracee.tid, tracee.thread
        load(tid)
        if tracee.space.short and settle(run, tracee, SIGILL * (status == _SIGILL_STOP)):
            return
        if status == _SIGILL_STOP:
            usual = tracee.odd is None and not tracee.signals.ignored
            if usual and thread.tcs is not None and view[RAX] == _EEXIT:
                enclave = thread.enclave
                at = view[RIP] - enclave.base
                is_enclu = 0 <= at < enclave.size and enclave.memory.view[at : at + 3] == _ENCLU
                stepped = view[EFLAGS] & _TF or thread.tcs.outer_tf
                if is_enclu and tracee.slot is not None:
                    counted(run, tracee, enclave, at)
                usual = is_enclu and not stepped and si_code(tid) > 0
                if usual and not eexit(thread, view):
                    tracee.stopped = False
                    store_and_cont(tid)
                    return
            if out_of_ours(run, tracee):
                load(tid)
            _signal(run, tracee, SIGILL)
            return
        space = tracee.space
        if view[RIP] != space.aep:
            system_call(tracee)
            return
        if view[ORIG_RAX] == _QUICK_EENTER and (tracee.slot is not None or not run.short):
            enclave = space.sgx.tcs_enclaves.get(view[RBX])
            if enclave is not None:
                view[RAX], view[ORIG_RAX] = _EENTER, _MINUS_1
                view[RCX] = space.aep
                if tracee.slot is not None:
                    tracee.slot.shy = False
                if not eenter(thread, enclave, view):
                    if tracee.slot is not None:
                        short.offer(tracee)
                    tracee.stopped = False
                    store_and_cont(tid)
                    return
                view[ORIG_RAX] = _QUICK_EENTER
        vdso_enclu(run, tracee)

    return stopped


def signal(run: Run, tracee: Tracee, number: int) -> None:
    """A signal-delivery stop: an ENCLU, an exception or a signal inside, or not ours."""
    run.regs.load(tracee.tid)
    if run.faults is not None and number == SIGTRAP:
        from softsgx.supervisor.inside.injected import stepped

        if stepped(run, tracee):
            return
    _signal(run, tracee, number)


def _signal(run: Run, tracee: Tracee, number: int) -> None:
    view = run.view
    thread = tracee.thread
    inside = thread is not None and thread.tcs is not None
    if (tracee.odd is not None or tracee.signals.ignored) and _unusual(run, tracee, number, inside):
        return
    if number == SIGILL and ptrace.si_code(tracee.tid) > 0:  # an ENCLU's own, and nobody's else
        rip = view[RIP]
        if inside:
            enclave = thread.enclave
            at = rip - enclave.base
            if 0 <= at < enclave.size:
                prefixes = enclu_prefixes(bytes(enclave.memory.view[at : at + MAX_BYTES]))
                if prefixes >= 0:
                    _enclu(run, tracee, False, prefixes)
                    return
        else:
            prefixes = enclu_prefixes(tracee.space.peek(rip, MAX_BYTES))
            if prefixes >= 0:
                if SIGILL in tracee.signals.actions:
                    masks.lost(tracee, SIGILL)
                if tracee.odd is not None:
                    masks.returned(tracee, rip, view[RSP])
                _enclu(run, tracee, True, prefixes)
                return
    if not inside:
        if number in (SIGILL, SIGSEGV) and emulate_cpuid(run, tracee, number):
            return
        ends = view[RAX] == INTERRUPTED or view[ORIG_RAX] == nr.NR_recvmmsg
        if ends and number not in _SYNCHRONOUS:
            interrupted(run, tracee, number)
        if run.pending.dirty:  # what its ioctl has changed: it did not come so far
            _deliver_sent(run, tracee, number)
            return
        cont(run, tracee, outside.fault(run, tracee, number) or 0)
        return
    info = ptrace.get_siginfo(tracee.tid) if number in _SYNCHRONOUS else bytes(12)
    (code,) = struct.unpack_from("<i", info, 8)
    if code <= 0:
        leave(run, tracee, -1, 0, 0)
    elif exception(run, tracee, number, info):
        return
    run.regs.store(tracee.tid)
    _deliver_sent(run, tracee, number)


def _deliver_sent(run: Run, tracee: Tracee, number: int) -> None:
    """A signal that somebody sent to a thread inside, after the AEX."""
    if tracee.odd is None and not run.options.abort_page and not run.pending.dirty:
        cont(run, tracee, number)
    else:
        if run.debugger is not None:
            again = partial(_deliver_sent, run, tracee, number)
            if run.debugger.raises(tracee, number, again):
                return
        in_handler(run, tracee, number)


def _unusual(run: Run, tracee: Tracee, number: int, inside: bool) -> bool:
    """A signal where signals are blocked, ignored or used by us: True if it is dealt with."""
    view = run.view
    it = tracee.odd
    if it is not None and it.forced == number:
        it.forced = 0
        cont(run, tracee, number)
        return True
    at_enclu = number == SIGILL and not inside
    if at_enclu:
        at_enclu = enclu_prefixes(tracee.space.peek(view[RIP], MAX_BYTES)) >= 0
    illegal = False
    if it is not None and it.illegal:
        view[RIP], it.illegal = it.illegal, 0
        illegal = number == SIGILL and ptrace.si_code(tracee.tid) > 0
    if masks.arrived(tracee, number, inside or at_enclu):
        run.regs.store(tracee.tid)
        cont(run, tracee)
        return True
    if illegal:
        raise_inside(run, tracee, _UD, 0, 0, SIGILL, 2)
        return True
    return False


def vdso_enclu(run: Run, tracee: Tracee) -> None:
    """The seccomp stop of the call that stands for the vDSO's ENCLU: one follows it."""
    view = run.view
    thread = tracee.thread
    if thread is not None and thread.tcs is not None:
        syscall_inside(run, tracee)
        return
    word = view[ORIG_RAX] >> 32
    view[ORIG_RAX] = _MINUS_1
    view[RAX] = word & ~_NONE_BLOCKED
    view[RCX] = tracee.space.aep
    tracee.at_call = True
    if view[RAX] == _EENTER:
        short.prepare(run, tracee)
    _enclu(run, tracee, word < _NONE_BLOCKED)
    tracee.at_call = False


# -- ENCLU ---------------------------------------------------------------------------------


def _enclu(run: Run, tracee: Tracee, may_block: bool = False, prefixes: int = 0) -> None:
    """The instruction at RIP is an ENCLU. ``regs`` are loaded.

    may_block: whether the thread's mask has to be looked at when it enters. prefixes: bytes of
    the instruction before its opcode.
    """
    view = run.view
    view[RIP] += prefixes  # for the leaves, which go on behind the opcode
    thread = thread_of(run, tracee)
    leaf = view[RAX] & 0xFFFFFFFF
    if thread.tcs is not None and not thread.tcs.opted_in:
        view[EFLAGS] &= ~_TF  # whatever POPF made of it
    if run.faults is not None:
        from softsgx.supervisor.inside.injected import before

        if before(run, tracee, leaf, _cure):
            return
    if leaf == _EENTER and run.short and thread.tcs is None and not tracee.at_call:
        short.prepare(run, tracee)
        if tracee.slot is not None and not prefixes:
            raw_counted(run, tracee, view[RIP])
    for _ in range(_MAX_RETRIES):
        changed = -1
        if leaf == _EEXIT:
            inside = thread.enclave if thread.tcs is not None and not prefixes else None
            if tracee.slot is not None and inside is not None:
                counted(run, tracee, inside, view[RIP] - inside.base)
            error = eexit(thread, view)
            if tracee.odd is not None and not error:
                masks.left(tracee)
        elif leaf in (_EENTER, _ERESUME):
            process = tracee.space.sgx or process_of(run, tracee.space)
            tcs = view[RBX]
            enclave = process.tcs_enclaves.get(tcs)
            if enclave is None:
                enclave = process.enclave_at(tcs)
                if enclave is not None:
                    process.tcs_enclaves[tcs] = enclave
            if enclave is None:
                thread.fault_addr, thread.fault_code = tcs, sdm.PF_U
                valid = not tcs & 0xFFF and canonical(tcs) and thread.tcs is None
                error = FAULT | (_PF if valid else _GP)
            else:
                if tracee.slot is not None:
                    tracee.slot.shy = may_block and masks.blocks(tracee)
                enter = eenter if leaf == _EENTER else eresume
                error = enter(thread, enclave, view)
            if may_block and not error:
                masks.entered(tracee)
            if not error and tracee.slot is not None:
                short.offer(tracee)
            if not error and thread.tcs is not None and thread.tcs.opted_in:
                restore(run, thread.enclave)  # its debugger steps through what is there
        elif leaf == sdm.EDECCSSA and run.device.design.aexnotify:
            error = edeccssa(thread, view)
        elif leaf in LEAVES:
            error, changed = run_leaf(thread, run.device.design, run.device.run, view)
        else:
            error = FAULT | _GP
        if run.record is not None:
            now = thread.tcs
            if leaf == _ERESUME and not error and now is not None and thread.notified:
                run.record.notify(tracee.tid, now.addr, now.cssa)
            if error or leaf not in (_EENTER, _EEXIT) or not run.record.counting:
                run.record.enclu(tracee.tid, leaf, error, view, now)
            elif leaf == _EENTER and now is not None:
                entered = thread.mm.entered
                entered[now.addr] = entered.get(now.addr, 0) + 1
        if not error:
            if changed >= 0:
                file = _file(run, thread)
                if file is not None:
                    run.pending.pages_changed(file, changed, changed + 1)
                    more = leaf in accepts.LEAVES and accepts.binds(run, tracee.space.sgx)
                    flush(run, tracee, quick=not more and goes_on(run, tracee))
            if leaf in accepts.LEAVES and not prefixes:
                accepts.taken(run, tracee, leaf)
            abort_page(run, tracee)
            if tracee.odd is not None:
                masks.settle(run, tracee)
            if view[EFLAGS] & _TF and _stepped(run, tracee, leaf):
                return
            if run.faults is not None:
                from softsgx.supervisor.inside.injected import after

                if run.record is not None:
                    run.record.flush()
                after(run, tracee, leaf)
                return
            cont_changed(run, tracee)
            return
        if error != FAULT | _PF or not _cure(run, tracee, thread):
            break
    view[RIP] -= prefixes
    vector = error & 0xFF
    addr = thread.fault_addr if vector == _PF else 0
    code = thread.fault_code if vector == _PF else 0
    if thread.tcs is not None:
        raise_inside(run, tracee, vector, code, addr)
    else:
        deliver(run, tracee, vector, code, addr, leaf)


def _stepped(run: Run, tracee: Tracee, leaf: int) -> bool:
    """After an ENCLU with TF: the single-step #DB pends at the boundary right behind it.

    SDM, "Single Stepping Requirements", EENTER, EEXIT. False at the vDSO's, where no signal
    can be injected: it comes an instruction later, to a debuggee's enclave only.
    """
    if tracee.at_call:
        return False
    if tracee.thread.tcs is not None:
        raise_inside(run, tracee, sdm.VECTOR_DB, 0, 0, SIGTRAP, _TRAP_TRACE)
    else:
        deliver(run, tracee, sdm.VECTOR_DB, 0, 0, leaf, SIGTRAP, _TRAP_TRACE)
    return True


def _file(run: Run, thread: Thread) -> Any:
    for file in run.files.values():
        if getattr(file, "enclave", None) is thread.enclave:
            return file
    return None


def _cure(run: Run, tracee: Tracee, thread: Thread) -> bool:
    """A #PF of an ENCLU's operand: whether the kernel would make it good and try again."""
    if thread.fault_code & sdm.PF_SGX:
        return False
    kind = WRITE if thread.fault_code & sdm.PF_W else READ
    process = process_of(run, tracee.space)
    vma = process.mm.find(thread.fault_addr)
    before = process.enclave_at(thread.fault_addr)
    if vma is None or before is None:
        return False
    generation = before.generation
    result = process.page_fault(thread.fault_addr, kind)
    thread.fault_code = result.error_code or thread.fault_code
    if result.signal == SIGBUS:
        return False
    if before.generation != generation:
        # EAUG: the page is there now, pending; the instruction itself decides again.
        if run.record is not None:
            addr = thread.fault_addr
            run.record.augment(tracee.tid, addr, page_fields(before, addr))
        flush(run, tracee)
        return True
    return False


def syscall_inside(run: Run, tracee: Tracee) -> Any:
    """A system call instruction inside an enclave is #UD (SDM, "Illegal Instructions").

    SYSCALL and INT 80H are two bytes long. After SYSENTER the kernel knows neither RIP nor
    RSP, and is to go on in 32-bit mode.
    No signal can be injected at a seccomp stop, so the thread is sent to the UD2 of
    our vDSO: at the stop that follows it is put back and the exception raised.
    """
    view = run.view
    if view[CS] == _USER32_CS:
        view[CS], view[SS] = _USER64_CS, _USER_DS
    odd(tracee).illegal = view[RIP] - 2
    view[RAX], view[ORIG_RAX] = view[ORIG_RAX], _MINUS_1
    view[RIP] = tracee.space.image + vdso.load_image().undefined
    run.regs.store(tracee.tid)
    cont(run, tracee)
    return DONE
