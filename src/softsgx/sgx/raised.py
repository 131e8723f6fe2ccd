"""What a signal that comes while a thread is inside an enclave was to the processor.

The kernel of a machine without SGX tells an exception as the code outside would have
raised it. Inside, some instructions are #UD, INT1 and INT3 are faults or #UD, and single
steps and breakpoints are suppressed unless the TCS says DBGOPTIN.

Source: SDM, "Illegal Instructions", "Enclave Code Debug and Profiling"; for what Linux
says of each exception, arch/x86/kernel/traps.c as of Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from softsgx.sdm import leaves as sdm
from softsgx.sdm.illegal import illegal, opcode_at

__all__ = [
    "ILL_ILLOPN",
    "PAGE_FAULT",
    "PERF_TYPE_BREAKPOINT",
    "SI_KERNEL",
    "TRAP_PERF",
    "Inside",
    "Raised",
    "Suppressed",
    "raised",
]

_SIGILL, _SIGTRAP, _SIGBUS, _SIGFPE, _SIGSEGV, _SIGSYS = 4, 5, 7, 8, 11, 31
SI_KERNEL, ILL_ILLOPN = 0x80, 2
_FPE_INTDIV, _FPE_INTOVF, _FPE_FLTINV, _BUS_ADRALN = 1, 2, 7, 1
_FLAGS = 0x3F  # of the exceptions of x87 and SSE, in FSW and MXCSR
_TRAP_BRKPT, _TRAP_TRACE, _TRAP_BRANCH, _TRAP_HWBKPT, TRAP_PERF = 1, 2, 3, 4, 6
_SYS_SECCOMP, _SYS_USER_DISPATCH = 1, 2
PERF_TYPE_BREAKPOINT = 5
_INT1, _INT3, _INT_3, _INT_4 = b"\xf1", b"\xcc", b"\xcd\x03", b"\xcd\x04"


class Raised(NamedTuple):
    """AEX: vector, -1 for an interrupt, after which the signal goes on as it came.

    back: how many bytes RIP has run on behind the instruction. number, si_code: the
    signal of this exception, 0 for the one that came.
    """

    vector: int
    back: int = 0
    number: int = 0
    si_code: int = 0


class Suppressed(NamedTuple):
    """Nothing happens inside. tf: RFLAGS.TF is 0, since POPF could not have set it."""

    tf: bool = False


class Inside(NamedTuple):
    """The thread that got the signal.

    code: the bytes at RIP, 15 or as many as can be read. before: the two before it.
    opt_in: TCS.FLAGS.DBGOPTIN at the entry. sgx2: whether the processor has it.
    general: whether the instruction at RIP raises #GP by its operands; asked if there
    is doubt. floating: FCW, FSW and MXCSR; asked at a floating-point exception.
    """

    code: bytes
    before: bytes = b""
    opt_in: bool = False
    sgx2: bool = True
    general: Callable[[], bool] = lambda: False
    floating: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)


PAGE_FAULT = Raised(sdm.VECTOR_PF)
"""A #PF: what it was is for the page tables and the EPCM to say."""
_INTERRUPT = Raised(-1)


def _undefined(back: int = 0) -> Raised:
    return Raised(sdm.VECTOR_UD, back, _SIGILL, ILL_ILLOPN)


def raised(
    number: int, si_code: int, at: Inside, breakpoint_inside: bool | None = None
) -> Raised | Suppressed:
    """What signal ``number`` with a kernel's ``si_code`` (above 0) was.

    breakpoint_inside: for TRAP_PERF, whether it is a breakpoint on an address of
    ELRANGE; None if it is no breakpoint but a counter.
    """
    if number == _SIGILL:
        return Raised(sdm.VECTOR_UD)
    if number == _SIGSEGV:
        return _general(at) if si_code == SI_KERNEL else PAGE_FAULT
    if number == _SIGBUS:
        if si_code not in (SI_KERNEL, _BUS_ADRALN):
            return PAGE_FAULT
        if illegal(at.code, at.sgx2):
            return _undefined()
        return Raised(sdm.VECTOR_SS if si_code == SI_KERNEL else sdm.VECTOR_AC)
    if number == _SIGFPE:
        if si_code in (_FPE_INTDIV, _FPE_INTOVF):
            return Raised(sdm.VECTOR_DE)
        return _floating(at)
    if number == _SIGTRAP:
        return _trap(si_code, at, breakpoint_inside)
    if number == _SIGSYS and si_code in (_SYS_SECCOMP, _SYS_USER_DISPATCH):
        # A system call that something of the program's own caught before us.
        return _undefined(2)
    return _INTERRUPT


def _general(at: Inside) -> Raised:
    """SIGSEGV with SI_KERNEL: #GP, or the #OF of ``INT 4``, which any ring may call."""
    if illegal(at.code, at.sgx2):
        return _undefined()
    if at.before == _INT_4 and not at.general():
        return _undefined(2)
    return Raised(sdm.VECTOR_GP)


def _floating(at: Inside) -> Raised:
    """#MF or #XM: which of the two has an exception that is not masked (fpu__exception_code()).

    The kernel says by FSW or MXCSR what it was, and the AEX has left there an invalid operation
    (SDM, "Synthetic State for Asynchronous Enclave Exit"), whatever it was inside.
    """
    fcw, fsw, mxcsr = at.floating()
    x87, sse = fsw & ~fcw & _FLAGS, mxcsr & ~(mxcsr >> 7) & _FLAGS
    is_x87 = _is_x87(at.code) if bool(x87) == bool(sse) else bool(x87)
    vector = sdm.VECTOR_MF if is_x87 else sdm.VECTOR_XM
    return Raised(vector, 0, _SIGFPE, _FPE_FLTINV)


def _is_x87(code: bytes) -> bool:
    opcode, _ = opcode_at(code)
    return opcode == b"\x9b" or (len(opcode) == 1 and opcode[0] & 0xF8 == 0xD8)


def _trap(si_code: int, at: Inside, breakpoint_inside: bool | None) -> Raised | Suppressed:
    """SIGTRAP: INT3 is told by SI_KERNEL alone; of the others only INT1 may move RIP."""
    if si_code == SI_KERNEL:
        if at.before[-1:] == _INT3 and at.opt_in:
            return Raised(sdm.VECTOR_BP, 1)
        # SDM, "Behavior of INT3 Inside an Enclave": #UD following opt-out entry.
        return _undefined(2 if at.before == _INT_3 else 1)
    if si_code == _TRAP_BRKPT:
        # DR6 names no cause: INT1, before which RIP stays under some hypervisors.
        back = int(at.code[:1] != _INT1 and at.before[-1:] == _INT1)
        is_int1 = back or at.code[:1] == _INT1
        return _undefined(back) if is_int1 and not at.opt_in else Raised(sdm.VECTOR_DB, back)
    if si_code in (_TRAP_TRACE, _TRAP_BRANCH):
        # SDM, "Restriction on Setting of TF after an Opt-Out Entry".
        return Raised(sdm.VECTOR_DB) if at.opt_in else Suppressed(tf=True)
    if si_code == _TRAP_HWBKPT:
        return Raised(sdm.VECTOR_DB)
    if si_code == TRAP_PERF and breakpoint_inside is not None:
        # SDM, "Breakpoint Suppression": on ELRANGE following opt-out entry.
        if breakpoint_inside and not at.opt_in:
            return Suppressed()
        return Raised(sdm.VECTOR_DB)
    return _INTERRUPT
