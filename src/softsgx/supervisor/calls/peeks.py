"""System calls that look into memory: /proc/PID/mem, process_vm_readv and what pins pages.

A mapping of the device is VM_IO and VM_PFNMAP: the kernel cannot take hold of its pages. So
process_vm_readv(2) and vmsplice(2) end with EFAULT there, and
/proc/PID/mem asks the driver (`device.debugger`). The real mapping is of a memfd, which all of
them would read and write; here they get Linux's answers.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import Any

from softsgx.device.debugger import debug_access
from softsgx.device.files import EnclaveFile
from softsgx.host import ptrace
from softsgx.host.procmaps import is_memory
from softsgx.host.status import status_of
from softsgx.supervisor.calls.others import named, of_pidfd
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import filters
from softsgx.supervisor.stopped.answer import DONE, answered, cont, instead, to_exit
from softsgx.supervisor.stopped.freeze import frozen
from softsgx.supervisor.stopped.remote import calls, cancel
from softsgx.uapi import i386
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, R8, R9, R10, RBX, RDI, RDX, RSI

__all__ = [
    "HANDLERS", "I386", "READS", "WRITES", "advanced", "enclave_at", "flags_of", "iovecs",
    "mem_call", "moved", "pidfd_getfd", "position_of", "target_of", "transfer_of",
]  # fmt: skip

_LOW = 0xFFFFFFFF
_IOV_MAX, _IOVEC = 1024, struct.Struct("<2Q")
_SPLICE_F_NONBLOCK = 2
_MAX_BYTES = 0x7FFFF000  # MAX_RW_COUNT
_CHUNK = 4096  # of mem_rw()
READS = {nr.NR_read, nr.NR_pread64, nr.NR_readv, nr.NR_preadv, nr.NR_preadv2}
WRITES = {nr.NR_write, nr.NR_pwrite64, nr.NR_writev, nr.NR_pwritev, nr.NR_pwritev2}
_VECTORS = {
    nr.NR_readv, nr.NR_preadv, nr.NR_preadv2, nr.NR_writev, nr.NR_pwritev, nr.NR_pwritev2,
}  # fmt: skip
_OWN_POSITION = {nr.NR_read, nr.NR_readv, nr.NR_write, nr.NR_writev}
_FUTEX_PRIVATE, _FUTEX_COMMANDS, _FUTEX_WAITV_MAX = 128, 0x7F, 128
_TWO_WORDS = (3, 4, 5, 11, 12)  # (CMP_)REQUEUE(_PI), WAKE_OP, WAIT_REQUEUE_PI
_LAST_COMMAND = 13  # FUTEX_LOCK_PI2; FUTEX_FD is no more


def enclave_at(process: Any, start: int, end: int) -> int | None:
    """The first address of an enclave's VMA in [start, end)."""
    for vma in process.mm.overlapping(start, end):
        if isinstance(vma.file, EnclaveFile):
            return int(max(vma.start, start))
    return None


def iovecs(tracee: Tracee, where: int, count: int) -> list[tuple[int, int]] | None:
    """The struct iovec array of a call, None where it cannot be read."""
    if not 0 <= count <= _IOV_MAX:
        return None
    raw = tracee.read(where, 16 * count)
    if len(raw) != 16 * count:
        return None
    words = struct.unpack(f"<{2 * count}Q", raw)
    return list(zip(words[::2], words[1::2], strict=True))


# -- /proc/PID/mem ---------------------------------------------------------------------------


def mem_call(run: Run, tracee: Tracee, call: int) -> Any:
    """A read or write of a descriptor that may be of /proc/PID/mem: as a handler answers."""
    view = run.view
    if call not in READS and call not in WRITES:
        return None
    fd = view[RDI] & _LOW
    target = target_of(run, tracee, fd)
    if target is None:
        return None
    asked, write = transfer_of(run, tracee, call), call in WRITES
    if flags_of(tracee, fd) & 3 == (os.O_RDONLY if write else os.O_WRONLY):
        return -errno.EBADF
    if asked is None:
        return -errno.EFAULT if view[RDX] & _LOW <= _IOV_MAX else None
    parts, start, own_position = asked
    total = sum(length for _, length in parts)
    if call not in _VECTORS and enclave_at(target, start, start + total) is None:
        return _from(run, tracee, fd, start, write) if own_position else None

    def move(done: int, where: int, length: int) -> int:
        return _transfer(target, tracee, start + done, where, length, write)

    done = moved(parts, move)
    if run.record is not None:
        run.record.mm(tracee.tid, "mem", (start, total, int(write)), done, "")
    return advanced(run, tracee, fd, start, done) if own_position else done


def _from(run: Run, tracee: Tracee, fd: int, start: int, write: bool) -> Any:
    """A transfer at a descriptor's position, which others may change: from where it was."""
    run.view[ORIG_RAX] = nr.NR_pwrite64 if write else nr.NR_pread64
    done = to_exit(run, tracee, {R10: start})
    if done > 0:
        with calls(run, tracee) as remote:
            remote(nr.NR_lseek, fd, start + done, 0)
    return answered(run, tracee, done)


def target_of(run: Run, tracee: Tracee, fd: int) -> Any:
    """The process with enclaves whose /proc/PID/mem a thread's descriptor is, or None."""
    if not is_memory(tracee.tid, fd):
        return None
    try:
        number = os.readlink(f"/proc/{tracee.tid}/fd/{fd}").split("/")[-2]
    except OSError:
        return None
    if not number.isdigit():
        return None
    found = run.tracees.get(int(number))
    if found is None or _enclaves_of(found) is None:  # or it is a pid namespace's
        found = next((t for t in run.tracees.values() if _enclaves_of(t) and _is(t, number)), None)
    return None if found is None else _enclaves_of(found)


def _enclaves_of(tracee: Tracee) -> Any:
    process = tracee.space.sgx
    return process if process is not None and len(process.mm) else None


def _is(tracee: Tracee, number: str) -> bool:
    """Whether a thread has a number in some pid namespace."""
    try:
        return number.encode() in status_of(tracee.tid).get(b"NSpid", b"").split()
    except OSError:
        return False


def transfer_of(
    run: Run, tracee: Tracee, call: int
) -> tuple[list[tuple[int, int]], int, bool] | None:
    """A read or write as asked: the parts of memory, where in the file, whether at its position.

    None where the iovecs cannot be read.
    """
    view = run.view
    if call in _VECTORS:
        found = iovecs(tracee, view[RSI], view[RDX] & _LOW)
        if found is None:
            return None
        parts = found
    else:
        parts = [(view[RSI], min(view[RDX], _MAX_BYTES))]
    own = call in _OWN_POSITION or (
        call in (nr.NR_preadv2, nr.NR_pwritev2) and view[R10] == (1 << 64) - 1
    )
    return parts, position_of(tracee, view[RDI] & _LOW) if own else view[R10], own


def moved(parts: list[tuple[int, int]], move: Callable[[int, int, int], int]) -> int:
    """What a call answers that moves one part after the other, until one is short or fails.

    move: (bytes so far, where in memory, length) → bytes, or -errno.
    """
    done = 0
    for where, length in parts:
        n = move(done, where, length)
        if n < 0:
            return done or n
        done += n
        if n < length:
            break
    return done


def advanced(run: Run, tracee: Tracee, fd: int, start: int, done: int) -> Any:
    """The answer of a call that has moved ``done`` bytes at a descriptor's position."""
    if done <= 0:
        return done
    cancel(run, tracee)
    with calls(run, tracee) as remote:
        remote(nr.NR_lseek, fd, start + done, 0)
    return answered(run, tracee, done)


def flags_of(tracee: Tracee, fd: int) -> int:
    """The flags of a descriptor. Raises OSError if there is none."""
    with open(f"/proc/{tracee.tid}/fdinfo/{fd}", "rb") as info:
        return int(info.read().split(b"flags:")[1].split()[0], 8)


def position_of(tracee: Tracee, fd: int) -> int:
    """Where a thread's descriptor stands. Raises OSError if there is none."""
    with open(f"/proc/{tracee.tid}/fdinfo/{fd}", "rb") as info:
        return int(info.readline().split()[1])


def _transfer(target: Any, tracee: Tracee, addr: int, where: int, length: int, write: bool) -> int:
    """mem_rw(): page-sized pieces until one fails; EIO if that is the first."""
    done = 0
    while done < length:
        size = min(_CHUNK, length - done)
        moved = _piece(target, tracee, addr + done, where + done, size, write)
        if moved <= 0:
            return done or moved or -errno.EIO
        done += moved
        if moved < size:
            break
    return done


def _piece(target: Any, tracee: Tracee, addr: int, where: int, size: int, write: bool) -> int:
    data = tracee.read(where, size) if write else None
    if data is not None and len(data) < size:
        return -errno.EFAULT
    first = enclave_at(target, addr, addr + size)
    if first is None or first > addr:
        size = size if first is None else first - addr
        if data is None:
            found: bytes | int = target.space.peek(addr, size)
        else:
            try:
                target.space.poke(addr, data[:size])
            except OSError:
                return 0
            return size
    else:
        found = debug_access(target, addr, size, data)
        if isinstance(found, int):
            return 0
        if data is not None:
            return size
    assert isinstance(found, bytes)
    return ptrace.write_memory(tracee.tid, where, found) or (-errno.EFAULT if found else 0)


# -- what pins pages ---------------------------------------------------------------------------


def _outside(process: Any, parts: list[tuple[int, int]]) -> int:
    """How many parts of memory come before the first that reaches into an enclave."""
    for i, (start, length) in enumerate(parts):
        if length and enclave_at(process, start, start + length) is not None:
            return i
    return len(parts)


def _vm(run: Run, tracee: Tracee) -> Any:
    """process_vm_readv and process_vm_writev: the other process's part is pinned.

    The parts are those that were looked at: other threads, and who shares the memory, can change
    what the program points at.
    """
    view = run.view
    found = named(run, tracee, view[RDI] & _LOW)
    process = None if found is None else _enclaves_of(found)
    if process is None:
        return None
    parts = iovecs(tracee, view[R10], view[R8])
    if parts is None:
        return -errno.EFAULT if view[R8] <= _IOV_MAX else None
    count = _outside(process, parts)
    if parts and not count:
        return -errno.EFAULT
    number, args, flags = view[ORIG_RAX], (view[RDI], view[RSI], view[RDX]), view[R9]
    room = 16 * _IOV_MAX
    with frozen(run, [tracee.space], tracee.tid):
        cancel(run, tracee)
        with calls(run, tracee) as call:
            value = page = call.room(room)
            if page > 0:
                tracee.space.poke(page, b"".join([_IOVEC.pack(*part) for part in parts[:count]]))
                value = call(number, *args, page, count, flags)
                call(nr.NR_munmap, page, room)
    return answered(run, tracee, value)


def _vmsplice(run: Run, tracee: Tracee) -> Any:
    """Vmsplice into a pipe pins pages; out of one it copies.

    Of several parts those before the enclave's go, and what would have to wait for room in the
    pipe does not go: who makes room may have to stop first.
    """
    view, process = run.view, tracee.space.sgx
    parts = iovecs(tracee, view[RSI], view[RDX])
    try:
        flags = flags_of(tracee, view[RDI] & _LOW)
    except (OSError, IndexError):
        return None
    if parts is None or process is None or not flags & 3:
        return None
    count = _outside(process, parts)
    if count == len(parts):
        return None
    if not count:
        return -errno.EFAULT
    meant = {} if view[R10] & _SPLICE_F_NONBLOCK else {-errno.EAGAIN: -errno.EFAULT}
    changed = {RDX: count, R10: view[R10] | _SPLICE_F_NONBLOCK}
    return instead(run, tracee, nr.NR_vmsplice, changed, meant=meant)


def _peek(look: Callable[[Run, Tracee], Any]) -> Callable[[Run, Tracee], Any]:
    """A handler: look answers as one, and what it refuses is noted."""

    def handle(run: Run, tracee: Tracee) -> Any:
        call = run.view[ORIG_RAX]
        answer = look(run, tracee)
        if isinstance(answer, int) and run.record is not None:
            args = [run.view[r] for r in (RDI, RSI, RDX, R10, R8)]
            why = "VM_PFNMAP: not pinned"
            run.record.mm(tracee.tid, nr.syscall_name(call), args, answer, why)
        return answer

    return handle


def pidfd_getfd(register: int) -> Callable[[Run, Tracee], Any]:
    """What watches a descriptor that is taken of another process. register: of the pidfd."""

    def handle(run: Run, tracee: Tracee) -> Any:
        """A descriptor of another process's.

        It runs to its exit, so that nothing is mapped meanwhile, and what came is watched.
        """
        if not of_pidfd(tracee, run.view[register] & _LOW):
            return None
        fd = to_exit(run, tracee)
        if fd >= 0:
            if run.file_of(tracee, fd) is not None:
                filters.watch_fd(run, tracee, fd)
            elif is_memory(tracee.tid, fd):
                tracee.space.mem_fds.add(fd)
                filters.watch_fd(run, tracee, fd)
        cont(run, tracee)
        return DONE

    return handle


def _futex(run: Run, tracee: Tracee) -> Any:
    """get_futex_key(): a futex that processes share is a page's, which is pinned for it."""
    view = run.view
    op = view[RSI] & _LOW
    command = op & _FUTEX_COMMANDS
    if op & _FUTEX_PRIVATE or command == 2 or command > _LAST_COMMAND:
        return None
    words = [view[RDI]]
    if command in _TWO_WORDS:
        words.append(view[R8])
    return _shared_futex(tracee, words)


def _futex2(run: Run, tracee: Tracee) -> Any:
    """futex_wake and futex_wait: the flags are the fourth argument."""
    return None if run.view[R10] & _FUTEX_PRIVATE else _shared_futex(tracee, [run.view[RDI]])


def _futex_vector(run: Run, tracee: Tracee) -> Any:
    """futex_waitv and futex_requeue: an array of struct futex_waitv."""
    view = run.view
    count = view[RSI] & _LOW if view[ORIG_RAX] == nr.NR_futex_waitv else 2
    if not 0 < count <= _FUTEX_WAITV_MAX:
        return None
    raw = tracee.read(view[RDI], 24 * count)
    if len(raw) < 24 * count:
        return None
    waiters = struct.iter_unpack("<QQII", raw)
    return _shared_futex(tracee, [at for _, at, flags, _ in waiters if not flags & _FUTEX_PRIVATE])


def _shared_futex(tracee: Tracee, words: list[int]) -> Any:
    process = tracee.space.sgx
    if process is None or any(word & 3 for word in words):
        return None
    taken = any(enclave_at(process, word, word + 4) is not None for word in words)
    return -errno.EFAULT if taken else None


HANDLERS: dict[int, Callable[[Run, Tracee], Any]] = {
    nr.NR_process_vm_readv: _peek(_vm),
    nr.NR_process_vm_writev: _peek(_vm),
    nr.NR_vmsplice: _peek(_vmsplice),
    nr.NR_pidfd_getfd: pidfd_getfd(RDI),
    nr.NR_futex: _peek(_futex),
    nr.NR_futex_wake: _peek(_futex2),
    nr.NR_futex_wait: _peek(_futex2),
    nr.NR_futex_waitv: _peek(_futex_vector),
    nr.NR_futex_requeue: _peek(_futex_vector),
}
"""By number: what the table of all handlers takes from here."""

I386: dict[int, Callable[[Run, Tracee], Any]] = {i386.NR_pidfd_getfd: pidfd_getfd(RBX)}
"""By i386's number, for those that `others` lets pass."""
