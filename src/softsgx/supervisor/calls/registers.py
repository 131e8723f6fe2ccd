"""What a ring of io_uring is given for good, in a process that maps an enclave.

Registered buffers, rings of buffers and regions are pinned (check_vma_flags(): a driver's memory is
EFAULT). What is registered is what was looked at: other threads, and processes that share the
memory, can change what the program points at. What is not known, or takes memory in another way, is
EINVAL, as before it came.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any

from softsgx.supervisor.calls.peeks import enclave_at
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import answered
from softsgx.supervisor.stopped.freeze import frozen
from softsgx.supervisor.stopped.remote import calls, cancel
from softsgx.uapi import syscalls as nr
from softsgx.uapi.io_uring import IORING_REGISTER_USE_REGISTERED_RING
from softsgx.uapi.regs import R10, RDI, RDX, RSI

__all__ = ["HANDLERS"]

_LOW, _PAGE = 0xFFFFFFFF, 4096
_BUFFERS, _BUFFERS2, _BUFFERS_UPDATE, _PBUF_RING, _MEM_REGION = 0, 15, 16, 22, 34
# Linux, enum io_uring_register_op: those that pin no memory of who registers. Of the others of
# v6.19 ZCRX_IFQ and RESIZE_RINGS do, by structures in structures; what comes later may.
_PIN_NOTHING = {*range(1, 15), *range(17, 22), *range(23, 32), 35}
# How long the structure is, where in it the address of another one is, and where how many (or 0).
_STRUCTURES = {
    _BUFFERS2: (32, 16, 0),  # struct io_uring_rsrc_register
    _BUFFERS_UPDATE: (32, 8, 24),  # struct io_uring_rsrc_update2
    _MEM_REGION: (32, 0, 0),  # struct io_uring_mem_region_reg
}  # fmt: skip
_PBUF_BYTES, _REGION_BYTES, _IOVEC_BYTES = 40, 64, 16
_MOST_BUFFERS = 1 << 14  # IORING_MAX_REG_BUFFERS
_OF_USER = 1  # IORING_MEM_REGION_TYPE_USER


def _handle(run: Run, tracee: Tracee) -> Any:
    """io_uring_register(2): None where it is the kernel's alone."""
    answer = _register(run, tracee)
    if isinstance(answer, int) and run.record is not None:
        args = [run.view[r] for r in (RDI, RSI, RDX, R10)]
        run.record.mm(tracee.tid, "io_uring_register", args, answer, "VM_PFNMAP: not pinned")
    return answer


def _register(run: Run, tracee: Tracee) -> Any:
    view, process = run.view, tracee.space.sgx
    opcode = view[RSI] & _LOW & ~IORING_REGISTER_USE_REGISTERED_RING
    if process is None or not len(process.mm) or opcode in _PIN_NOTHING:
        return None
    if opcode not in (_BUFFERS, _PBUF_RING, *_STRUCTURES):
        return -errno.EINVAL
    arg, count = view[RDX], view[R10] & _LOW
    size, at, count_at = _STRUCTURES.get(opcode, (0, 0, 0))
    head, where = tracee.read(arg, size), arg
    if len(head) < size:
        return -errno.EFAULT
    if size:
        where = int.from_bytes(head[at : at + 8], "little")
    if opcode in (_BUFFERS2, _BUFFERS_UPDATE):
        count = int.from_bytes(head[count_at : count_at + 4], "little")
    length = {_PBUF_RING: _PBUF_BYTES, _MEM_REGION: _REGION_BYTES}.get(opcode, 0)
    if not length and where:  # no buffers are there yet where it is 0
        if count > _MOST_BUFFERS:
            return -errno.EINVAL
        length = _IOVEC_BYTES * count
    body = tracee.read(where, length)
    if len(body) < length:
        return -errno.EFAULT
    if any(n and enclave_at(process, a, a + n) is not None for a, n in _parts(opcode, body)):
        return -errno.EFAULT
    args, what = (view[RDI], view[RSI]), view[R10]
    room = size + length + _PAGE - 1 & -_PAGE or _PAGE
    with frozen(run, [tracee.space], tracee.tid):
        cancel(run, tracee)
        with calls(run, tracee) as call:
            value = page = call.room(room)
            if page > 0:
                if size and where:
                    head = head[:at] + struct.pack("<Q", page + size) + head[at + 8 :]
                tracee.space.poke(page, head + body)
                there = page if arg else 0
                value = call(nr.NR_io_uring_register, *args, there, what)
                told = tracee.space.peek(page + size, length)
                call(nr.NR_munmap, page, room)
    if opcode == _MEM_REGION and not value and tracee.write(where, told) < length:
        value = -errno.EFAULT
    return answered(run, tracee, value)


def _parts(opcode: int, body: bytes) -> list[tuple[int, int]]:
    """Where the memory is that is pinned: address and length."""
    if opcode == _PBUF_RING:  # struct io_uring_buf_reg
        start, entries = struct.unpack_from("<QI", body)
        return [(start, max(16 * entries, 1))]
    if opcode == _MEM_REGION:  # struct io_uring_region_desc
        start, length, flags = struct.unpack_from("<QQI", body)
        return [(start, length)] if flags & _OF_USER else []
    return list(struct.iter_unpack("<QQ", body))


HANDLERS: dict[int, Callable[[Run, Tracee], Any]] = {nr.NR_io_uring_register: _handle}
"""By number: what the table of all handlers takes from here."""
