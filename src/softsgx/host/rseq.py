"""Restartable sequences of a stopped thread: Linux include/uapi/linux/rseq.h.

A thread that was stopped in one begins again, since others ran meanwhile. The kernel sees to that
by where the thread is as it goes on (rseq_ip_fixup()): after calls that a tracer has it make, it
goes on elsewhere, and the kernel forgets the sequence.
"""

from __future__ import annotations

import struct

from softsgx.host import ptrace

__all__ = ["aborted"]

_GET_CONFIGURATION, _CONFIGURATION = 0x420F, struct.Struct("<QII8x")
_ABI = struct.Struct("<II")  # cpu_id_start, cpu_id; then the sequence's address
_SEQUENCE = struct.Struct("<IIQQQ")  # version, flags, start_ip, post_commit_offset, abort_ip
_SIGNATURE = struct.Struct("<I")


def aborted(tid: int, rip: int) -> int:
    """Where a stopped thread that is at ``rip`` goes on: elsewhere if that is in a sequence."""
    config = ptrace.configuration(_GET_CONFIGURATION, tid, _CONFIGURATION.size)  # Linux 5.13
    abi, _, signature = _CONFIGURATION.unpack(config) if config else (0, 0, 0)
    if not abi:
        return rip
    at = ptrace.read_memory(tid, abi + _ABI.size, 8)
    where = int.from_bytes(at, "little")
    if len(at) < 8 or not where:
        return rip
    raw = ptrace.read_memory(tid, where, _SEQUENCE.size)
    if len(raw) < _SEQUENCE.size:
        return rip
    _, _, start, length, abort = _SEQUENCE.unpack(raw)
    if not 0 <= rip - start < length:
        return rip
    before = ptrace.read_memory(tid, abort - _SIGNATURE.size, _SIGNATURE.size)
    return abort if before == _SIGNATURE.pack(signature) else rip
