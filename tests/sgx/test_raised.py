"""What the kernel says of an exception, and what it was inside an enclave."""

from __future__ import annotations

import pytest

from softsgx.sdm import leaves as sdm
from softsgx.sgx.raised import PAGE_FAULT, Inside, Raised, Suppressed, raised

ILL, TRAP, BUS, FPE, SEGV, SYS = 4, 5, 7, 8, 11, 31
SI_KERNEL = 0x80
NOP = b"\x90" * 15
INTERRUPT = Raised(-1)


def undefined(back: int = 0) -> Raised:
    """#UD, told as Linux tells it."""
    return Raised(sdm.VECTOR_UD, back, ILL, 2)


@pytest.mark.parametrize(
    ("number", "si_code", "code", "expected"),
    [
        (ILL, 2, b"\x0f\x0b", Raised(sdm.VECTOR_UD)),
        (SEGV, SI_KERNEL, b"\xf4", Raised(sdm.VECTOR_GP)),
        (SEGV, SI_KERNEL, b"\x66\xe5\x80", undefined()),
        (SEGV, SI_KERNEL, b"\xf3\x6e", undefined()),
        (SEGV, SI_KERNEL, b"\x0f\x33", undefined()),  # RDPMC without CR4.PCE
        (SEGV, SI_KERNEL, b"\x0f\xa2", undefined()),  # CPUID with CPUID faulting
        (SEGV, SI_KERNEL, b"\xcd\x81", undefined()),
        (SEGV, SI_KERNEL, b"\x48\xcf", undefined()),
        (SEGV, SI_KERNEL, b"\x0f\x31", Raised(sdm.VECTOR_GP)),  # CR4.TSD
        (SEGV, 1, NOP, PAGE_FAULT),
        (SEGV, 2, NOP, PAGE_FAULT),
        (SEGV, 4, NOP, PAGE_FAULT),
        (BUS, 2, NOP, PAGE_FAULT),
        (BUS, 1, NOP, Raised(sdm.VECTOR_AC)),
        (BUS, SI_KERNEL, b"\x48\x8b\x45\x00", Raised(sdm.VECTOR_SS)),
        (BUS, SI_KERNEL, b"\x8e\xd0", undefined()),  # MOV to SS: #SS or #NP elsewhere
        (FPE, 1, b"\xf7\xf3", Raised(sdm.VECTOR_DE)),
        (FPE, 3, b"\x9b", Raised(sdm.VECTOR_MF, 0, FPE, 7)),
        (FPE, 3, b"\x64\x41\xd8\x00", Raised(sdm.VECTOR_MF, 0, FPE, 7)),
        (FPE, 3, b"\x0f\x5e\xc1", Raised(sdm.VECTOR_XM, 0, FPE, 7)),
        (FPE, 3, b"\xc5\xd8\x5e\xc1", Raised(sdm.VECTOR_XM, 0, FPE, 7)),
    ],
)
def test_faults(number: int, si_code: int, code: bytes, expected: Raised) -> None:
    assert raised(number, si_code, Inside(code, opt_in=True)) == expected
    assert raised(number, si_code, Inside(code)) == expected


def _exception_code(fcw: int, fsw: int, mxcsr: int, vector: int) -> int:
    """si_code as Linux arch/x86/kernel/fpu/core.c, fpu__exception_code() (v6.12) has it."""
    error = fsw & ~fcw if vector == sdm.VECTOR_MF else ~(mxcsr >> 7) & mxcsr
    codes = ((0x01, 7), (0x04, 3), (0x08, 4), (0x12, 5), (0x20, 6))  # FLTINV, DIV, OVF, UND, RES
    return next((code for bits, code in codes if error & bits), 0)


@pytest.mark.parametrize("flag", [0, 2, 3, 4, 5])
def test_floating_point_exceptions_are_told_apart_by_what_is_not_masked(flag: int) -> None:
    """An MMX instruction waits for x87's, too; what is told is what the AEX leaves (SDM)."""
    for code in (b"\x9b", b"\x0f\x5e\xc1", b"\x0f\x6f\xc1"):
        x87 = (0x37F & ~(1 << flag), 0x8080 | 1 << flag, 0x1F80 | 0x3F)
        sse = (0x37F, 0x3F, 0x1F80 & ~(1 << flag + 7) | 1 << flag)
        for state, vector in ((x87, sdm.VECTOR_MF), (sse, sdm.VECTOR_XM)):
            came = _exception_code(*state, vector)
            assert came
            left = {sdm.VECTOR_MF: (0x37E, 0x8081, 0), sdm.VECTOR_XM: (0, 0, 0x1F01)}[vector]
            told = _exception_code(*left, vector)
            at = Inside(code, floating=lambda state=state: state)  # type: ignore[misc]
            assert raised(FPE, came, at) == Raised(vector, 0, FPE, told)


def test_rdtsc_is_illegal_with_sgx1_only() -> None:
    assert raised(SEGV, SI_KERNEL, Inside(b"\x0f\x31", sgx2=False)) == undefined()


def test_int_4_is_a_trap_of_its_own() -> None:
    """INT 4 is #OF, with RIP behind it; the same bytes as operands before a #GP are not."""
    at = Inside(NOP, b"\xcd\x04")
    assert raised(SEGV, SI_KERNEL, at) == undefined(2)
    operand = Inside(NOP, b"\xcd\x04", general=lambda: True)
    assert raised(SEGV, SI_KERNEL, operand) == Raised(sdm.VECTOR_GP)


@pytest.mark.parametrize(
    ("si_code", "code", "before", "inside", "opt_out", "opt_in"),
    [
        # INT3 alone moves RIP, and is told by SI_KERNEL alone.
        (SI_KERNEL, NOP, b"\x90\xcc", None, undefined(1), Raised(sdm.VECTOR_BP, 1)),
        (SI_KERNEL, NOP, b"\xcd\x03", None, undefined(2), undefined(2)),
        # INT1, where RIP is behind it or on it.
        (1, NOP, b"\x90\xf1", None, undefined(1), Raised(sdm.VECTOR_DB, 1)),
        (1, b"\xf1\x90", b"\x90\x90", None, undefined(), Raised(sdm.VECTOR_DB)),
        # A single step, by TF or by branches.
        (2, NOP, b"\x90\xcc", None, Suppressed(tf=True), Raised(sdm.VECTOR_DB)),
        (3, NOP, b"\x90\xcc", None, Suppressed(tf=True), Raised(sdm.VECTOR_DB)),
        # Breakpoints.
        (4, NOP, b"\x90\xcc", None, Raised(sdm.VECTOR_DB), Raised(sdm.VECTOR_DB)),
        (6, NOP, b"\x90\xcc", True, Suppressed(), Raised(sdm.VECTOR_DB)),
        (6, NOP, b"\x90\xcc", False, Raised(sdm.VECTOR_DB), Raised(sdm.VECTOR_DB)),
        # A counter that overflows is an interrupt, and so is what nobody knows yet.
        (6, NOP, b"\x90\xcc", None, INTERRUPT, INTERRUPT),
        (5, NOP, b"\x90\xcc", None, INTERRUPT, INTERRUPT),
        (7, NOP, b"\x90\xcc", None, INTERRUPT, INTERRUPT),
    ],
)
def test_traps(
    si_code: int, code: bytes, before: bytes, inside: bool | None,
    opt_out: Raised | Suppressed, opt_in: Raised | Suppressed,
) -> None:  # fmt: skip
    at = Inside(code, before)
    assert raised(TRAP, si_code, at, inside) == opt_out
    debugged = Inside(code, before, opt_in=True)
    assert raised(TRAP, si_code, debugged, inside) == opt_in


@pytest.mark.parametrize("si_code", [1, 2])
def test_a_system_call_that_the_program_itself_catches(si_code: int) -> None:
    assert raised(SYS, si_code, Inside(NOP, b"\x0f\x05")) == undefined(2)


def test_any_other_signal_is_an_interrupt() -> None:
    assert raised(SYS, 3, Inside(NOP)) == INTERRUPT
    assert raised(14, 1, Inside(NOP)) == INTERRUPT
