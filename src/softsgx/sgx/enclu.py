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
    VECTOR_AC,
    VECTOR_BP,
    VECTOR_DB,
    VECTOR_DE,
    VECTOR_GP,
    VECTOR_MF,
    VECTOR_PF,
    VECTOR_UD,
    VECTOR_XM,
    XFRM_SSE,
    XFRM_X87,
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

__all__ = [
    "ENCLU_LENGTH", "INIT_XSTATE", "STATUS_FLAGS", "Thread", "aex", "canonical", "edeccssa",
    "eenter", "eexit", "eresume", "seen",
]  # fmt: skip

ENCLU_LENGTH = 3
STATUS_FLAGS = 0x8D5  # CF PF AF ZF SF OF
_GPRS = (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15)
_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")
_HEADER = struct.Struct("<QQQ")  # of an XSAVE area: XSTATE_BV, and what has to be zero
_STACK = struct.Struct("<QQ")  # URSP, URBP
_SAVED = struct.Struct("<18Q")  # RAX … R15, RFLAGS, RIP
_BASES = struct.Struct("<QQ")
_URSP = GPRSGX.offset("ursp")
_EXITINFO = GPRSGX.offset("exitinfo")
_AEXNOTIFY = GPRSGX.offset("aexnotify")
_FSBASE = GPRSGX.offset("fsbase")
_TF = 1 << 8
_RESET_FLAGS = STATUS_FLAGS | 1 << 16  # and RF (SDM, Table "GPR, x87 Synthetic States")
_RESTORED_FLAGS = 0x254CD5  # CF PF AF ZF SF DF OF NT RF AC ID (SDM, ERESUME)
# SDM, Table "Exception Vectors": those for which EXITINFO.VALID is set whatever MISCSELECT says.
_REPORTED = {VECTOR_DE, VECTOR_DB, VECTOR_BP, 5, VECTOR_UD, VECTOR_MF, VECTOR_AC, VECTOR_XM}
_TOP = 1 << 47
_U64_MASK = (1 << 64) - 1
EXINFO_LENGTH = 16

INIT_XSTATE = bytearray(576)
"""The x87 and SSE state after AEX: FCW 037FH, MXCSR 1F80H, nothing in use."""
INIT_XSTATE[0:2] = b"\x7f\x03"
INIT_XSTATE[24:28] = b"\x80\x1f\x00\x00"
_MF_FCW_FSW = b"\x7e\x03\x81\x80"  # 037EH, 8081H
_MXCSR = 24
_MASK = 28  # MXCSR_MASK: what this processor lets be set, no state of a thread
_MXCSR_BITS = 0xFFFF  # of every x86-64 processor; AMD's have bit 17, too
_XM_MXCSR = b"\x01\x1f\x00\x00"  # 1F01H


class Thread:
    """A logical processor: inside an enclave while ``tcs`` is not None.

    mm: what it maps, asked through ``mm.access(addr)`` (the mask of the page
    tables). xstate: an object with ``read()`` and ``write(bytes)`` of its XSAVE
    image in standard format. notified: the last ERESUME called the enclave's handler.
    slot: what a `Shortcut` knows it by.
    """

    __slots__ = ("enclave", "fault_addr", "fault_code", "mm", "notified", "slot", "tcs", "xstate")

    def __init__(self, mm: Any, xstate: Any) -> None:
        self.mm, self.xstate = mm, xstate
        self.enclave: Enclave | None = None
        self.tcs: Tcs | None = None
        self.fault_addr = self.fault_code = 0
        self.notified = False
        self.slot: Any = None


def _page_fault(thread: Thread, addr: int, code: int) -> int:
    thread.fault_addr, thread.fault_code = addr, code | PF_U
    return PF


def _tcs_page_ok(enclave: Enclave, addr: int) -> bool:
    if enclave.lost:
        return False
    get, word = enclave.page_schema.get, enclave.pages[addr - enclave.base >> 12]
    return bool(get(word, "pt") == PT_TCS and not get(word, "pending") | get(word, "modified"))


def _frame_pages(enclave: Enclave, tcs: Tcs, index: int) -> tuple[int, ...]:
    """The offsets of the pages of an SSA frame that an entry looks at."""
    first = tcs.frame(index)
    xsave = range(first, first + enclave.xsave_bytes, 4096)
    return (*xsave, first + tcs.frame_bytes - 4096)


def _frame_ok(thread: Thread, enclave: Enclave, tcs: Tcs, index: int) -> int:
    """Check that an SSA frame can be read and written: 0 or a #PF.

    As the SDM has it: the pages of the XSAVE area, then that of GPRSGX; what lies
    between them in a large frame is not looked at.
    """
    get, pages = enclave.page_schema.get, enclave.pages
    for offset in _frame_pages(enclave, tcs, index):
        addr = enclave.base + offset & _U64_MASK
        inside = offset < enclave.size
        word = pages[offset >> 12] if inside else 0
        if not get(word, "present") or thread.mm.access(addr) & 3 != 3:
            return _page_fault(thread, addr, PF_W)
        usable = get(word, "pt") == PT_REG and not get(word, "pending") | get(word, "modified")
        if not usable or get(word, "perm") & 3 != 3:
            return _page_fault(thread, addr, PF_P | PF_W | PF_SGX)
    return 0


def _enter_checks(thread: Thread, enclave: Enclave, regs: Regs, resume: bool) -> int:
    """What EENTER and ERESUME check, in the SDM's order; 0 or the exception.

    The page tables have to let the TCS be written, which the EPCM never does: Linux
    maps it RW for that (sgx_encl_page_alloc()).
    """
    addr = regs[RBX]
    if thread.tcs is not None or addr & 0xFFF:
        return GP
    if not enclave.base <= addr < enclave.end or thread.mm.access(addr) & 3 != 3:
        return _page_fault(thread, addr, PF_W)
    if not enclave.page_schema.get(enclave.pages[addr - enclave.base >> 12], "present"):
        return _page_fault(thread, addr, PF_W)
    if not canonical(regs[RCX]):
        return GP
    if not _tcs_page_ok(enclave, addr):
        return _page_fault(thread, addr, PF_P | PF_SGX)
    tcs = enclave.tcs_at(addr)
    if not tcs.valid or not enclave.initialized:
        return GP
    if resume:
        if tcs.cssa == 0:
            return GP
        error = _frame_ok(thread, enclave, tcs, tcs.cssa - 1)
        if not error and _notifies(enclave, tcs):
            error = _entry_ok(thread, enclave, tcs)
    else:
        error = _entry_ok(thread, enclave, tcs)
    if not error and tcs.busy:
        return GP
    return error


def _entry_ok(thread: Thread, enclave: Enclave, tcs: Tcs) -> int:
    """What the way in at OENTRY asks: a free SSA frame, and canonical addresses."""
    if tcs.cssa >= tcs.nssa or not canonical(tcs.fs_base) or not canonical(tcs.gs_base):
        return GP
    return _frame_ok(thread, enclave, tcs, tcs.cssa) or (0 if canonical(tcs.entry) else GP)


def _notifies(enclave: Enclave, tcs: Tcs) -> bool:
    """Whether ERESUME tells the enclave of the exit (SDM, ERESUME: TMP_NOTIFY).

    The frame that it was left in says so, in a byte that AEX leaves as it is.
    """
    return tcs.aexnotify and bool(enclave.memory.view[tcs.gpr(tcs.cssa - 1) + _AEXNOTIFY] & 1)


def eenter(thread: Thread, enclave: Enclave, regs: Regs) -> int:
    """EENTER with RBX = TCS, RCX = AEP; RIP is that of the ENCLU (SDM, EENTER)."""
    tcs = enclave.tcs.get(regs[RBX] - enclave.base)
    key = (enclave.entries, thread.mm.generation, thread.mm)
    if (
        tcs is None
        or (tcs.deeper.get(tcs.cssa) if tcs.cssa else tcs.checked) != key
        or tcs.busy
        or thread.tcs is not None
        or not regs[RCX] < _TOP  # the other half is left to the checks
    ):
        error = _enter_checks(thread, enclave, regs, resume=False)
        if error:
            return error
        tcs = enclave.tcs_at(regs[RBX])
        if tcs.cssa:
            tcs.deeper[tcs.cssa] = key
        else:
            tcs.checked = key
        enclave.looked_at.add(tcs.offset >> 12)
        enclave.looked_at.update([offset >> 12 for offset in _frame_pages(enclave, tcs, tcs.cssa)])
    _enter_at_oentry(thread, enclave, tcs, regs)
    return 0


def _enter_at_oentry(thread: Thread, enclave: Enclave, tcs: Tcs, regs: Regs) -> None:
    """EENTER's way in, and that of an ERESUME that notifies."""
    _enter(thread, enclave, tcs, regs)
    _STACK.pack_into(enclave.memory.view, tcs.gpr(tcs.cssa) + _URSP, regs[RSP], regs[RBP])
    regs[RAX] = tcs.cssa
    regs[RCX] = regs[RIP] + ENCLU_LENGTH
    regs[RIP] = tcs.entry
    regs[FS_BASE], regs[GS_BASE] = tcs.fs_base, tcs.gs_base


def _enter(thread: Thread, enclave: Enclave, tcs: Tcs, regs: Regs) -> None:
    """What both ways in do: the thread is inside, what is restored at the exit is kept."""
    tcs.entered = thread
    thread.tcs, thread.enclave = tcs, enclave
    tcs.aep = regs[RCX]
    tcs.outer_fs_base, tcs.outer_gs_base = regs[FS_BASE], regs[GS_BASE]
    tcs.outer_tf = regs[EFLAGS] & _TF
    tcs.opted_in = tcs.debug_optin
    if not tcs.opted_in:
        regs[EFLAGS] &= ~_TF
    if tcs.row is not None:
        tcs.row.taken(thread)


def _leave(thread: Thread, tcs: Tcs, regs: Regs) -> None:
    """What both ways out do."""
    regs[FS_BASE], regs[GS_BASE] = tcs.outer_fs_base, tcs.outer_gs_base
    if not tcs.opted_in:
        regs[EFLAGS] = regs[EFLAGS] & ~_TF | tcs.outer_tf
    tcs.entered = thread.tcs = None
    if tcs.row is not None:
        tcs.row.freed(thread)


def eexit(thread: Thread, regs: Regs) -> int:
    """EEXIT to RBX; RCX becomes the AEP (SDM, EEXIT)."""
    tcs = thread.tcs
    if tcs is None or not canonical(regs[RBX]):
        return GP
    regs[RIP] = regs[RBX]
    regs[RCX] = tcs.aep
    _leave(thread, tcs, regs)
    return 0


def aex(
    thread: Thread, regs: Regs, vector: int = -1, errcd: int = 0, maddr: int = 0
) -> tuple[int, int]:
    """Asynchronous exit: save into SSA[CSSA], leave the synthetic state at the AEP.

    vector: the exception, or -1 for an interrupt. maddr: the linear address of a
    #PF, all of its bits. Returns the enclave's RIP and RAX as they were (SDM,
    "AEX Operational Detail").
    """
    tcs, enclave = thread.tcs, thread.enclave
    assert tcs is not None
    assert enclave is not None
    view = enclave.memory.view
    frame, gpr = tcs.frame(tcs.cssa), tcs.gpr(tcs.cssa)
    was = regs[RIP], regs[RAX]
    # SDM, "RFLAGS.TF Treatment on AEX": the saved TF is 0.
    _SAVED.pack_into(view, gpr, *[regs[i] for i in _GPRS], regs[EFLAGS] & ~_TF, regs[RIP])
    info = 0
    if vector in _REPORTED:
        info = exitinfo(vector, SOFTWARE if vector == VECTOR_BP else HARDWARE)
    elif vector in (VECTOR_GP, VECTOR_PF) and enclave.miscselect & MISCSELECT_EXINFO:
        info = exitinfo(vector, HARDWARE)
        if vector == VECTOR_GP:
            maddr = 0
        struct.pack_into("<QII", view, gpr - EXINFO_LENGTH, maddr, errcd, 0)
    struct.pack_into("<I3x", view, gpr + _EXITINFO, info)  # AEXNOTIFY, behind it, stays
    _BASES.pack_into(view, gpr + _FSBASE, regs[FS_BASE], regs[GS_BASE])
    _save_xstate(thread, enclave, frame, vector)
    _synthetic(enclave, tcs, regs)
    tcs.cssa += 1
    _leave(thread, tcs, regs)
    return was


def _synthetic(enclave: Enclave, tcs: Tcs, regs: Regs) -> None:
    """The registers that an AEX leaves (SDM, "Synthetic State"), but for bases and RFLAGS.TF."""
    ursp, urbp = _STACK.unpack_from(enclave.memory.view, tcs.gpr(tcs.cssa) + _URSP)
    for i in (RDX, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15):
        regs[i] = 0
    regs[RAX], regs[RBX], regs[RCX], regs[RIP] = ERESUME, tcs.addr, tcs.aep, tcs.aep
    regs[RSP], regs[RBP] = ursp, urbp
    regs[EFLAGS] &= ~_RESET_FLAGS


def seen(thread: Thread, regs: Regs) -> bool:
    """Whether a thread is inside: ``regs`` become what somebody outside sees of it then."""
    tcs, enclave = thread.tcs, thread.enclave
    if tcs is None or enclave is None:
        return False
    _synthetic(enclave, tcs, regs)
    regs[FS_BASE], regs[GS_BASE] = tcs.outer_fs_base, tcs.outer_gs_base
    return True


def _save_xstate(thread: Thread, enclave: Enclave, frame: int, vector: int) -> None:
    """XSAVE into the frame, and the synthetic state of x87, SSE and the features of XFRM."""
    state = thread.xstate.read()
    view = enclave.memory.view
    (used,) = _U64.unpack_from(state, 512)
    # Bytes 464 to 511 are software's: XSAVE leaves them, Linux keeps notes in its images.
    view[frame : frame + 464] = state[:464]
    # XSTATE_BV, and zeros in the 16 bytes behind it; AEX leaves the rest of the header alone.
    _HEADER.pack_into(view, frame + 512, used & enclave.xfrm, 0, 0)
    for start, end in enclave.xsave.pieces(enclave.xfrm):
        view[frame + start : frame + end] = state[start:end]
    fresh = bytearray(state)
    fresh[:_MASK] = INIT_XSTATE[:_MASK]
    fresh[_MASK + 4 : 464] = INIT_XSTATE[_MASK + 4 : 464]
    used &= ~enclave.xfrm
    # The handler outside has to see the exception that it handles.
    if vector == VECTOR_MF:
        fresh[0:4] = _MF_FCW_FSW
        used |= XFRM_X87
    elif vector == VECTOR_XM:
        fresh[24:28] = _XM_MXCSR
    if fresh[24:28] != state[24:28]:
        used |= XFRM_SSE  # or Linux does not take MXCSR from the image (copy_uabi_to_xstate())
    _U64.pack_into(fresh, 512, used)
    thread.xstate.write(fresh)


def eresume(thread: Thread, enclave: Enclave, regs: Regs) -> int:
    """ERESUME with RBX = TCS, RCX = AEP: continue where SSA[CSSA-1] was left (SDM, ERESUME).

    URSP and URBP stay what EENTER saved: the next AEX goes back to that stack.
    An enclave that wants to be notified of the exit is entered at OENTRY instead, as by
    EENTER: the frame below is its handler's to restore (EDECCSSA) or to resume.
    """
    tcs = enclave.tcs.get(regs[RBX] - enclave.base)
    if tcs is None or not _resumes(thread, enclave, tcs, regs):
        error = _enter_checks(thread, enclave, regs, resume=True)
        if error:
            return error
        tcs = enclave.tcs_at(regs[RBX])
    thread.notified = _notifies(enclave, tcs)
    if thread.notified:
        _enter_at_oentry(thread, enclave, tcs, regs)
        return 0
    view = enclave.memory.view
    frame, gpr = tcs.frame(tcs.cssa - 1), tcs.gpr(tcs.cssa - 1)
    state = bytearray(thread.xstate.read())
    used, *reserved = _HEADER.unpack_from(view, frame + 512)
    (mxcsr,) = _U32.unpack_from(view, frame + _MXCSR)
    (known,) = _U32.unpack_from(state, _MASK)
    if used & ~enclave.xfrm or any(reserved) or mxcsr & ~(known or _MXCSR_BITS):
        return GP
    saved = _SAVED.unpack_from(view, gpr)
    fs_base, gs_base = _BASES.unpack_from(view, gpr + _FSBASE)
    if not (canonical(saved[17]) and canonical(fs_base) and canonical(gs_base)):
        return GP
    (outer,) = _U64.unpack_from(state, 512)
    state[:_MASK] = view[frame : frame + _MASK]
    state[_MASK + 4 : 464] = view[frame + _MASK + 4 : frame + 464]
    if not used & XFRM_SSE:
        # XRSTOR loads MXCSR all the same, and Linux takes it with SSE in XSTATE_BV only.
        state[160:416] = bytes(256)
        used |= XFRM_SSE
    for start, end in enclave.xsave.pieces(enclave.xfrm):
        state[start:end] = view[frame + start : frame + end]
    _U64.pack_into(state, 512, outer & ~enclave.xfrm | used)
    thread.xstate.write(state)
    tcs.cssa -= 1
    _enter(thread, enclave, tcs, regs)
    for i, value in zip(_GPRS, saved, strict=False):
        regs[i] = value
    regs[EFLAGS] = regs[EFLAGS] & ~_RESTORED_FLAGS | saved[16] & _RESTORED_FLAGS
    regs[RIP] = saved[17]
    regs[FS_BASE], regs[GS_BASE] = fs_base, gs_base
    return 0


def _resumes(thread: Thread, enclave: Enclave, tcs: Tcs, regs: Regs) -> bool:
    """Whether ERESUME would find nothing amiss, by what EENTER has found in the same frame."""
    if not tcs.cssa or tcs.aexnotify or tcs.busy or thread.tcs is not None:
        return False
    frame = tcs.cssa - 1
    known = tcs.deeper.get(frame) if frame else tcs.checked
    return known == (enclave.entries, thread.mm.generation, thread.mm) and regs[RCX] < _TOP


def edeccssa(thread: Thread, regs: Regs) -> int:
    """EDECCSSA: from an exception handler inside, go on in the frame below (SDM, EDECCSSA).

    The frame keeps its own URSP and URBP.
    """
    tcs, enclave = thread.tcs, thread.enclave
    if tcs is None or enclave is None or tcs.cssa == 0:
        return GP
    error = _frame_ok(thread, enclave, tcs, tcs.cssa - 1)
    if error:
        return error
    tcs.cssa -= 1
    regs[RIP] += ENCLU_LENGTH
    return 0


def canonical(addr: int) -> bool:
    """Whether an address of 64 bits is one of 48 with its sign (SDM, "Canonical Addressing")."""
    return addr < _TOP or addr >= (1 << 64) - _TOP
