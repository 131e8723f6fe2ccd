"""Memory calls that go from VMA to VMA: mprotect, madvise, mseal, mlock, msync, mincore.

Enclaves answer as the model says, what lies between them as the kernel does; see
`softsgx.supervisor.effects.follow`. What a call refuses before it looks at memory the kernel says.
"""

from __future__ import annotations

import errno
import struct
from typing import Any

from softsgx.device.memory import Fault
from softsgx.host import procmaps
from softsgx.host.status import mask_of, soft_limit, status_of
from softsgx.mm.madvise import ALWAYS, BY_KERNEL, madvise
from softsgx.mm.mprotect import mprotect
from softsgx.mm.mseal import seal
from softsgx.mm.special import MINCORE, msync_errno
from softsgx.supervisor.calls.others import of_pidfd
from softsgx.supervisor.effects import concerned, mappings, newmapping
from softsgx.supervisor.effects.follow import log, stretches, undone, walk
from softsgx.supervisor.effects.plainly import plainly
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import DONE, answered, cont, to_exit
from softsgx.supervisor.stopped.remote import Remote, calls, cancel
from softsgx.uapi import mman
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, R8, R10, RDI, RDX, RSI

__all__ = ["HANDLERS"]

_PAGE, _TOP = 4096, 1 << 47
_U64 = (1 << 64) - 1
_NOWHERE = _TOP - _PAGE
"""The last page below the end of user space, which can never be mapped: TASK_SIZE_MAX."""

_MADV_UNMAPPED = frozenset((mman.MADV_POPULATE_READ, mman.MADV_POPULATE_WRITE))
_MADV_INJECT = frozenset((mman.MADV_HWPOISON, mman.MADV_SOFT_OFFLINE))
_CAP_IPC_LOCK = 14
_PR_SET_VMA, _PR_SET_MM = 0x53564D41, 35
_MAX_IOVECS = 1024
_TOLD_BYTES = 1 << 20


def _range(run: Run) -> tuple[int, int]:
    """The addresses of a call; a length that PAGE_ALIGN() makes 0 is none."""
    start = run.view[RDI]
    return start, start + (run.view[RSI] + _PAGE - 1 & -_PAGE & _U64)


def _concerned(process: HostProcess, start: int, end: int) -> bool:
    """The range is one that the kernel looks at, and an enclave's."""
    aligned = not start & _PAGE - 1 and start < end <= 1 << 64
    return aligned and bool(process.mm.overlapping(start, end))


def _mprotect(run: Run, tracee: Tracee, process: HostProcess, pkey: int = -1) -> Any:
    view = run.view
    start, end = _range(run)
    length, prot = view[RSI], view[RDX]
    grows = prot & (mman.PROT_GROWSDOWN | mman.PROT_GROWSUP)
    known = mman.PROT_RWX_MASK | mman.PROT_SEM
    if not _concerned(process, start, end) or prot & ~(known | grows):
        return None
    if grows == mman.PROT_GROWSDOWN | mman.PROT_GROWSUP:
        return None
    enclave = next(stretches(process, start, end))[2]
    why = ""
    if grows and enclave:
        return mprotect(process.mm, start, length, prot).ret  # refused: no driver's VMA grows
    cancel(run, tracee)
    with calls(run, tracee) as call:
        mappings.ask_mdwe(process, call, prot)

        def native(a: int, b: int) -> int:
            how = prot if a == start else prot & ~grows
            if how & mman.PROT_GROWSDOWN and not _anything(process, a, b):
                return -errno.EINVAL  # the enclave behind it is what it finds
            if pkey < 0:
                return call(nr.NR_mprotect, a, b - a, how)
            return call(nr.NR_pkey_mprotect, a, b - a, how, pkey)

        def ours(a: int, b: int) -> int:
            nonlocal why
            before = process.mm.vmas.copy()
            outcome = run.device.mprotect(process, a, b - a, prot & ~grows)
            why = outcome.why
            error = mappings.carry_out(run, process, call, outcome.effects)
            process.mm_changed()
            if error < 0:
                undone(run, process, call, before, (a, b))
                return error
            concerned.flush(run, tracee, call)
            if not outcome.errno and pkey >= 0:
                with plainly(process.space, call):
                    error = _key(process, call, a, b, pkey)
            return error or -outcome.errno

        value = 0
        if pkey >= 0 and call(nr.NR_pkey_mprotect, _NOWHERE, _PAGE, 0, pkey) == -errno.EINVAL:
            value = -errno.EINVAL  # no such key
        value = value or walk(process, start, end, native, ours)
    # Told before the guest runs on: the recording gives the call what was done for it.
    log(run, tracee, "mprotect", (start, length, prot), value, why if value else "")
    return answered(run, tracee, value)


def _key(process: HostProcess, call: Remote, start: int, end: int, pkey: int) -> int:
    """The protection key of a range of enclaves: the VMAs', and the real mappings'."""
    mm = process.mm
    for vma in mm.overlapping(start, end):
        changed = vma.piece(max(vma.start, start), min(vma.end, end))
        changed.flags = changed.flags & ~mman.VM_PKEY_MASK | pkey << mman.VM_PKEY_SHIFT
        if changed.flags != vma.flags:
            mm.vmas.change(vma, changed)
        e = vma.file.enclave
        lo, hi = max(changed.start, e.base), min(changed.end, e.end)
        if not e.created or lo >= hi:
            continue
        table = mappings.native(process, vma.file)
        for first, last, mask in list(table.runs(lo - e.base >> 12, hi - e.base >> 12)):
            addr = e.base + (first << 12)
            error = call(nr.NR_pkey_mprotect, addr, last - first << 12, mask, pkey)
            if error:
                return error
    return 0


def _pkey_mprotect(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    pkey = run.view[R10] & 0xFFFFFFFF
    return _mprotect(run, tracee, process, -1 if pkey == 0xFFFFFFFF else pkey)


def _advise(run: Run, process: HostProcess, call: Remote, start: int, end: int, advice: int) -> int:
    """do_madvise() on a range that an enclave is in: 0 or -errno."""
    if advice not in ALWAYS and (
        advice not in BY_KERNEL or call(nr.NR_madvise, 0, 0, advice)  # does the kernel know it?
    ):
        return -errno.EINVAL
    if advice in _MADV_INJECT:
        # Never on memory of ours: EPERM, or EFAULT as for pages that cannot be had.
        return call(nr.NR_madvise, _NOWHERE, _PAGE, advice)

    def native(a: int, b: int) -> int:
        return call(nr.NR_madvise, a, b - a, advice)

    def ours(a: int, b: int) -> int:
        before = process.mm.vmas.copy()
        outcome = madvise(process.mm, a, b - a, advice)
        error = mappings.carry_out(run, process, call, outcome.effects)
        process.mm_changed()
        if error < 0:
            undone(run, process, call, before, (a, b))
        return error or -outcome.errno

    def passes(error: int) -> bool:
        return error == -errno.ENOMEM and advice not in _MADV_UNMAPPED

    return walk(process, start, end, native, ours, passes)


def _madvise(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    start, end = _range(run)
    args = (start, run.view[RSI], run.view[RDX])
    if not _concerned(process, start, end):
        return None
    cancel(run, tracee)
    with calls(run, tracee) as call:
        value = _advise(run, process, call, start, end, args[2] & 0xFFFFFFFF)
    log(run, tracee, "madvise", args, value, "advice for VM_PFNMAP memory" if value else "")
    return answered(run, tracee, value)


def _process_madvise(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    """Of the caller's own memory one range after the other; others' up to their enclaves.

    The ranges are those that were looked at: other threads can change what the program points at.
    """
    view = run.view
    pidfd, vec, count, advice = view[RDI], view[RSI], view[RDX], view[R10] & 0xFFFFFFFF
    if not 0 < count <= _MAX_IOVECS or view[R8] & 0xFFFFFFFF:
        return None
    target = _of_pidfd(run, tracee, pidfd & 0xFFFFFFFF)
    raw = tracee.read(vec, 16 * count)
    if target is None or len(raw) < 16 * count:
        return None
    ranges = list(struct.iter_unpack("<QQ", raw))
    concerned_ = [_concerned(target, a, a + (n + _PAGE - 1 & -_PAGE)) for a, n in ranges]
    if target is not process and (advice == mman.MADV_WILLNEED or not any(concerned_)):
        return None  # no advice for another's memory changes what is mapped
    cancel(run, tracee)
    done = 0
    with calls(run, tracee) as call:
        value = call(nr.NR_process_madvise, pidfd, 0, 0, advice, 0)  # may it be given?
        for i, (start, length) in enumerate(ranges):
            if value:
                break
            if target is not process:
                value = -errno.EINVAL
                if not concerned_[i]:
                    one = call(nr.NR_process_madvise, pidfd, vec + 16 * i, 1, advice, 0)
                    value = min(one, 0)
            elif concerned_[i]:
                end = start + (length + _PAGE - 1 & -_PAGE)
                value = _advise(run, process, call, start, end, advice)
            else:
                value = call(nr.NR_madvise, start, length, advice)
            done += 0 if value else length
    value = done or value
    log(run, tracee, "process_madvise", (pidfd, vec, count, advice), value)
    return answered(run, tracee, value)


def _of_pidfd(run: Run, tracee: Tracee, fd: int) -> HostProcess | None:
    """The process with enclaves that a pidfd of the tracee names."""
    other = run.tracees.get(of_pidfd(tracee, fd))
    found: HostProcess | None = None if other is None else other.space.sgx
    return found


def _mseal(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    """The real mapping is never sealed: its protections have to follow the pages'."""
    start, end = _range(run)
    if not _concerned(process, start, end) or run.view[RDX]:
        return None
    cancel(run, tracee)
    with calls(run, tracee) as call:
        value = call(nr.NR_mseal, 0, 0, 0)  # ENOSYS before Linux 6.10
        if not value and not _mapped(process, start, end):
            value = -errno.ENOMEM

        def native(a: int, b: int) -> int:
            return call(nr.NR_mseal, a, b - a, 0)

        def ours(a: int, b: int) -> int:
            return -seal(process.mm, a, b).errno

        value = value or walk(process, start, end, native, ours)
        process.mm_changed()
    log(run, tracee, "mseal", (start, end - start), value)
    return answered(run, tracee, value)


def _anything(process: HostProcess, start: int, end: int) -> bool:
    return any(m.start < end and m.end > start for m in procmaps.maps(process.tid))


def _mapped(process: HostProcess, start: int, end: int) -> bool:
    """There is no hole in the range."""
    here = start
    for m in procmaps.maps(process.tid):
        if m.start <= here < m.end:
            here = m.end
    return here >= end


def _mlock(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    """mlock_fixup(): a driver's memory is passed over, and not counted as locked."""
    view = run.view
    start = view[RDI] & -_PAGE
    end = start + (view[RSI] + (view[RDI] & _PAGE - 1) + _PAGE - 1 & -_PAGE & _U64)
    onfault = view[ORIG_RAX] == nr.NR_mlock2
    flags = view[RDX] if onfault else 0
    if not _concerned(process, start, end) or flags & ~1:
        return None
    cancel(run, tracee)
    with calls(run, tracee) as call:

        def native(a: int, b: int) -> int:
            if onfault:
                return call(nr.NR_mlock2, a, b - a, flags)
            return call(nr.NR_mlock, a, b - a)

        value = _lockable(process, end - start)
        value = value or walk(process, start, end, native, lambda _a, _b: 0)
    return answered(run, tracee, value)


def _lockable(process: HostProcess, length: int) -> int:
    """do_mlock()'s look at RLIMIT_MEMLOCK, which counts a driver's memory too: 0 or -errno."""
    status = status_of(process.tid)
    if mask_of(status, b"CapEff") >> _CAP_IPC_LOCK & 1:
        return 0
    soft = soft_limit(process.tid, b"Max locked memory")
    if soft is None:
        return 0
    if soft == 0:
        return -errno.EPERM
    locked = int(status[b"VmLck"].split()[0]) << 10
    return -errno.ENOMEM if locked + length > soft & -_PAGE else 0


def _mlockall(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    """Let it run, and unlock what it locked of enclaves: mlock_fixup() does not lock them."""
    flags = run.view[RDI]
    value = to_exit(run, tracee)
    if value:
        cont(run, tracee)
        return DONE
    with calls(run, tracee) as call:
        for start, end, enclave in stretches(process, 0, _TOP):
            if enclave and flags & 1:
                call(nr.NR_munlock, start, end - start)
    process.locks_future = bool(flags & 2)
    cont(run, tracee)
    return DONE


def _msync(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    start, end = _range(run)
    flags = run.view[RDX]
    both = mman.MS_ASYNC | mman.MS_SYNC
    if not _concerned(process, start, end) or flags & ~7 or flags & both == both:
        return None
    cancel(run, tracee)
    with calls(run, tracee) as call:

        def native(a: int, b: int) -> int:
            return call(nr.NR_msync, a, b - a, flags)

        def ours(a: int, b: int) -> int:
            vmas = process.mm.overlapping(a, b)
            return -next((e for v in vmas if (e := msync_errno(v, flags))), 0)

        def passes(error: int) -> bool:
            return error == -errno.ENOMEM and flags != mman.MS_ASYNC

        value = walk(process, start, end, native, ours, passes)
    return answered(run, tracee, value)


def _mincore(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    start, end = _range(run)
    vec = run.view[RDX]
    if end > _TOP or not _concerned(process, start, end):
        return None  # access_ok() comes before all else
    cancel(run, tracee)
    with calls(run, tracee) as call:

        def native(a: int, b: int) -> int:
            return call(nr.NR_mincore, a, b - a, vec + (a - start >> 12))

        def ours(a: int, b: int) -> int:
            where, left = vec + (a - start >> 12), b - a >> 12
            try:
                while left:  # never as much of our memory as the enclave is large
                    told = bytes([MINCORE]) * min(left, _TOLD_BYTES)
                    process.memory.write(where, told)
                    where, left = where + len(told), left - len(told)
            except Fault:
                return -errno.EFAULT
            return 0

        value = walk(process, start, end, native, ours)
    return answered(run, tracee, value)


def _prctl(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    """PR_SET_VMA_ANON_NAME: madvise_vma_anon_name() names no driver's memory. PR_SET_MM moves the
    heap, which brk shrinks: prctl_set_mm().
    """
    view = run.view
    if view[RDI] & 0xFFFFFFFF == _PR_SET_MM and not process.heap_watched:
        to_exit(run, tracee)
        with calls(run, tracee) as call:
            newmapping.watch_heap(process, call)
        cont(run, tracee)
        return DONE
    option, what, start, length, name = (view[i] for i in (RDI, RSI, RDX, R10, R8))
    end = start + (length + _PAGE - 1 & -_PAGE)
    if (option, what) != (_PR_SET_VMA, 0) or not _concerned(process, start, end):
        return None
    cancel(run, tracee)
    with calls(run, tracee) as call:

        def native(a: int, b: int) -> int:
            return call(nr.NR_prctl, option, what, a, b - a, name)

        value = native(start, start)  # is it a name, and does the kernel know names?
        value = value or walk(
            process, start, end, native, lambda _a, _b: -errno.EBADF,
            lambda error: error == -errno.ENOMEM,
        )  # fmt: skip
    return answered(run, tracee, value)


HANDLERS = {
    nr.NR_prctl: _prctl,
    nr.NR_mprotect: _mprotect,
    nr.NR_pkey_mprotect: _pkey_mprotect,
    nr.NR_madvise: _madvise,
    nr.NR_process_madvise: _process_madvise,
    nr.NR_mseal: _mseal,
    nr.NR_mlock: _mlock,
    nr.NR_mlock2: _mlock,
    nr.NR_mlockall: _mlockall,
    nr.NR_msync: _msync,
    nr.NR_mincore: _mincore,
}
"""What answers each of these calls at its seccomp stop: the value for RAX, None to let it run, or
DONE."""
