"""Entering and leaving: EENTER, ERESUME, EEXIT, AEX and EDECCSSA on a register file.

A `Thread` is a logical processor as SGX sees it. The functions change ``regs``
(see `softsgx.uapi.regs`) in place and return 0, or ``FAULT | vector`` with
nothing changed; for #PF the thread's ``fault_addr`` and ``fault_code`` say more.
Every call costs two of them, so there is no object between the registers and
the SSA: the layouts are two compiled structs.
"""

from __future__ import annotations

import struct
from typing import Any

from softsgx.sdm.leaves import (
    ERESUME,
    MISCSELECT_EXINFO,
    PF_P,
    PF_SGX,
    PF_U,
    PF_W,
    PT_REG,
    PT_TCS,
    VECTOR_GP,
    VECTOR_PF,
    exitinfo,
)
from softsgx.sdm.leaves import EXIT_TYPE_HARDWARE as HARDWARE
from softsgx.sdm.leaves import EXIT_TYPE_SOFTWARE as SOFTWARE
from softsgx.sdm.structs import GPRSGX
from softsgx.sgx.enclave import Enclave, Tcs
from softsgx.sgx.pagerules import GP, PF
from softsgx.uapi.regs import (
    EFLAGS,
    FS_BASE,
    GS_BASE,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RIP,
    RSI,
    RSP,
    Regs,
)

__all__ = ["INIT_XSTATE", "Thread", "aex", "edeccssa", "eenter", "eexit", "eresume"]

ENCLU_LENGTH = 3
_GPRS = (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15)
_U64 = struct.Struct("<Q")
_STACK = struct.Struct("<QQ")  # URSP, URBP
_SAVED = struct.Struct("<18Q")  # RAX … R15, RFLAGS, RIP
_BASES = struct.Struct("<QQ")
_URSP = GPRSGX.offset("ursp")
_EXITINFO = GPRSGX.offset("exitinfo")
_FSBASE = GPRSGX.offset("fsbase")
_RESET_FLAGS = 0x0C95 | 1 << 16  # CF PF AF ZF SF DF OF, RF
_FIXED_FLAGS = 0x2
_REPORTED = {0, 1, 3, 5, 6, 16, 17, 19}  # SDM, Table "Exception Vectors": EXITINFO.VALID always
_TOP = 1 << 47
EXINFO_LENGTH = 16

INIT_XSTATE = bytearray(576)
"""The x87 and SSE state after AEX: FCW 037FH, MXCSR 1F80H, nothing in use."""
INIT_XSTATE[0:2] = b"\x7f\x03"
INIT_XSTATE[24:28] = b"\x80\x1f\x00\x00"


class Thread:
    """A logical processor: inside an enclave while ``tcs`` is not None.

    mm: what it maps, asked through ``mm.access(addr)`` (the mask of the page
    tables). xstate: an object with ``read()`` and ``write(bytes)`` of its XSAVE
    image in standard format.
    """

    __slots__ = ("enclave", "fault_addr", "fault_code", "mm", "tcs", "xstate")

    def __init__(self, mm: Any, xstate: Any) -> None:
        self.mm, self.xstate = mm, xstate
        self.enclave: Enclave | None = None
        self.tcs: Tcs | None = None
        self.fault_addr = self.fault_code = 0


def _page_fault(thread: Thread, addr: int, code: int) -> int:
    thread.fault_addr, thread.fault_code = addr, code | PF_U
    return PF


def _tcs_page_ok(enclave: Enclave, addr: int) -> bool:
    get, word = enclave.page_schema.get, enclave.pages[addr - enclave.base >> 12]
    return bool(
        get(word, "present")
        and get(word, "pt") == PT_TCS
        and not get(word, "pending")
        and not get(word, "modified")
    )


def _frame_ok(thread: Thread, enclave: Enclave, tcs: Tcs, index: int) -> int:
    """Check that the pages of an SSA frame can be read and written: 0 or a #PF."""
    get, pages = enclave.page_schema.get, enclave.pages
    first = tcs.frame(index)
    for offset in range(first, first + tcs.frame_bytes, 4096):
        if not 0 <= offset < enclave.size:
            return GP
        addr = enclave.base + offset
        allowed = thread.mm.access(addr)
        word = pages[offset >> 12]
        if not get(word, "present") or allowed & 3 != 3:
            return _page_fault(thread, addr, PF_W)
        ok = get(word, "pt") == PT_REG and not get(word, "pending") and not get(word, "modified")
        if not ok or get(word, "perm") & 3 != 3:
            return _page_fault(thread, addr, PF_P | PF_W | PF_SGX)
    return 0


def _enter_checks(thread: Thread, enclave: Enclave, regs: Regs, resume: bool) -> int:
    """What EENTER and ERESUME check alike; 0 or the exception."""
    addr = regs[RBX]
    if thread.tcs is not None or addr & 0xFFF or not enclave.base <= addr < enclave.end:
        return GP
    if not _tcs_page_ok(enclave, addr):
        return _page_fault(thread, addr, PF_P | PF_SGX)
    if not enclave.initialized or not regs[RCX] < _TOP:
        return GP
    tcs = enclave.tcs_at(addr)
    if tcs.entered is not None:
        return GP
    if resume:
        if tcs.cssa == 0:
            return GP
        return _frame_ok(thread, enclave, tcs, tcs.cssa - 1)
    if tcs.cssa >= tcs.nssa or not tcs.entry < _TOP:
        return GP
    return _frame_ok(thread, enclave, tcs, tcs.cssa)


def eenter(thread: Thread, enclave: Enclave, regs: Regs) -> int:
    """EENTER with RBX = TCS, RCX = AEP; RIP is that of the ENCLU (SDM, EENTER)."""
    tcs = enclave.tcs.get(regs[RBX] - enclave.base)
    key = (enclave.generation, thread.mm.generation, thread.mm)
    if (
        tcs is None
        or tcs.checked != key
        or tcs.entered is not None
        or tcs.cssa  # the memory of the checks is for frame 0 only
        or thread.tcs is not None
        or not regs[RCX] < _TOP
    ):
        error = _enter_checks(thread, enclave, regs, resume=False)
        if error:
            return error
        tcs = enclave.tcs_at(regs[RBX])
        tcs.checked = None if tcs.cssa else key
    tcs.entered = thread
    thread.tcs, thread.enclave = tcs, enclave
    _STACK.pack_into(enclave.memory.view, tcs.gpr(tcs.cssa) + _URSP, regs[RSP], regs[RBP])
    tcs.aep = regs[RCX]
    tcs.outer_fs_base, tcs.outer_gs_base = regs[FS_BASE], regs[GS_BASE]
    regs[RAX] = tcs.cssa
    regs[RCX] = regs[RIP] + ENCLU_LENGTH
    regs[RIP] = tcs.entry
    regs[FS_BASE], regs[GS_BASE] = tcs.fs_base, tcs.gs_base
    return 0


def eexit(thread: Thread, regs: Regs) -> int:
    """EEXIT to RBX; RCX becomes the AEP (SDM, EEXIT)."""
    tcs = thread.tcs
    if tcs is None or not regs[RBX] < _TOP:
        return GP
    regs[RIP] = regs[RBX]
    regs[RCX] = tcs.aep
    regs[FS_BASE], regs[GS_BASE] = tcs.outer_fs_base, tcs.outer_gs_base
    tcs.entered = thread.tcs = None
    return 0


def aex(
    thread: Thread, regs: Regs, vector: int = -1, errcd: int = 0, maddr: int = 0
) -> tuple[int, int]:
    """Asynchronous exit: save into SSA[CSSA], leave the synthetic state at the AEP.

    vector: the exception, or -1 for an interrupt. Returns the enclave's RIP and
    RAX as they were (SDM, "Asynchronous Enclave Exit (AEX)").
    """
    tcs, enclave = thread.tcs, thread.enclave
    assert tcs is not None
    assert enclave is not None
    view = enclave.memory.view
    frame, gpr = tcs.frame(tcs.cssa), tcs.gpr(tcs.cssa)
    was = regs[RIP], regs[RAX]
    _SAVED.pack_into(view, gpr, *[regs[i] for i in _GPRS], regs[EFLAGS], regs[RIP])
    info = 0
    if vector in _REPORTED:
        info = exitinfo(vector, SOFTWARE if vector == 3 else HARDWARE)
    elif vector in (VECTOR_GP, VECTOR_PF) and enclave.miscselect & MISCSELECT_EXINFO:
        info = exitinfo(vector, HARDWARE)
        struct.pack_into("<QII", view, gpr - EXINFO_LENGTH, maddr, errcd, 0)
    struct.pack_into("<II", view, gpr + _EXITINFO, info, 0)
    _BASES.pack_into(view, gpr + _FSBASE, regs[FS_BASE], regs[GS_BASE])
    _save_xstate(thread, enclave, frame)
    ursp, urbp = _STACK.unpack_from(view, gpr + _URSP)
    for i in (RDX, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15):
        regs[i] = 0
    regs[RAX], regs[RBX], regs[RCX], regs[RIP] = ERESUME, tcs.addr, tcs.aep, tcs.aep
    regs[RSP], regs[RBP] = ursp, urbp
    regs[EFLAGS] = regs[EFLAGS] & ~_RESET_FLAGS | _FIXED_FLAGS
    regs[FS_BASE], regs[GS_BASE] = tcs.outer_fs_base, tcs.outer_gs_base
    tcs.cssa += 1
    tcs.entered = thread.tcs = None
    return was


def _save_xstate(thread: Thread, enclave: Enclave, frame: int) -> None:
    state = thread.xstate.read()
    size = enclave.xsave_bytes
    (used,) = _U64.unpack_from(state, 512)
    area = bytearray(state[:size])
    area[464:512] = bytes(48)  # the kernel's notes, not the CPU's
    _U64.pack_into(area, 512, used & enclave.xfrm)
    enclave.memory.view[frame : frame + size] = area
    fresh = bytearray(state)
    fresh[:464] = INIT_XSTATE[:464]
    _U64.pack_into(fresh, 512, used & ~enclave.xfrm)
    thread.xstate.write(fresh)


def eresume(thread: Thread, enclave: Enclave, regs: Regs) -> int:
    """ERESUME with RBX = TCS, RCX = AEP: continue where SSA[CSSA-1] was left (SDM, ERESUME)."""
    error = _enter_checks(thread, enclave, regs, resume=True)
    if error:
        return error
    tcs = enclave.tcs_at(regs[RBX])
    view = enclave.memory.view
    frame, gpr = tcs.frame(tcs.cssa - 1), tcs.gpr(tcs.cssa - 1)
    size = enclave.xsave_bytes
    (used,) = _U64.unpack_from(view, frame + 512)
    mxcsr = int.from_bytes(view[frame + 24 : frame + 28], "little")
    if used & ~enclave.xfrm or any(view[frame + 520 : frame + 576]) or mxcsr & ~0xFFFF:
        return GP
    saved = _SAVED.unpack_from(view, gpr)
    fs_base, gs_base = _BASES.unpack_from(view, gpr + _FSBASE)
    if not (saved[17] < _TOP and _canonical(fs_base) and _canonical(gs_base)):
        return GP
    state = bytearray(thread.xstate.read())
    (outer,) = _U64.unpack_from(state, 512)
    state[:464] = view[frame : frame + 464]
    state[576:size] = view[frame + 576 : frame + size]
    _U64.pack_into(state, 512, outer & ~enclave.xfrm | used)
    thread.xstate.write(state)
    tcs.cssa -= 1
    tcs.aep = regs[RCX]
    tcs.outer_fs_base, tcs.outer_gs_base = regs[FS_BASE], regs[GS_BASE]
    _STACK.pack_into(view, gpr + _URSP, regs[RSP], regs[RBP])
    for i, value in zip(_GPRS, saved, strict=False):
        regs[i] = value
    user_flags = 0x240DD5 | 1 << 16  # what POPF can change at CPL 3, and RF
    regs[EFLAGS] = regs[EFLAGS] & ~user_flags | saved[16] & user_flags | _FIXED_FLAGS
    regs[RIP] = saved[17]
    regs[FS_BASE], regs[GS_BASE] = fs_base, gs_base
    tcs.entered = thread
    thread.tcs, thread.enclave = tcs, enclave
    return 0


def edeccssa(thread: Thread, regs: Regs) -> int:
    """EDECCSSA: from an exception handler inside, go on in the frame below (SDM, EDECCSSA)."""
    tcs, enclave = thread.tcs, thread.enclave
    if tcs is None or enclave is None or tcs.cssa == 0:
        return GP
    view = enclave.memory.view
    stack = _STACK.unpack_from(view, tcs.gpr(tcs.cssa) + _URSP)
    tcs.cssa -= 1
    _STACK.pack_into(view, tcs.gpr(tcs.cssa) + _URSP, *stack)
    regs[RIP] += ENCLU_LENGTH
    return 0


def _canonical(addr: int) -> bool:
    return addr < _TOP or addr >= (1 << 64) - _TOP
