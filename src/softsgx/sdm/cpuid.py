"""What CPUID answers on a processor with SGX: the real answer, changed as little as can be.

Everything that is not about SGX stays native, the vendor too, so that a program that chooses
its code by CPUID never runs an instruction that the machine lacks.  Pure: who executes CPUID
and puts the answer in registers is the caller's affair.

Sources: SDM, Tables "Information Returned by CPUID Instruction", "CPUID Leaf 12H, Sub-Leaf 0
Enumeration of Intel SGX Capabilities", "CPUID Leaf 12H, Sub-Leaf 1 Enumeration of Intel SGX
Capabilities" and "CPUID Leaf 12H, Sub-Leaf Index 2 or Higher Enumeration of Intel SGX
Resources".
"""

from __future__ import annotations

from softsgx.sdm.leaves import (
    ATTR_AEXNOTIFY,
    ATTR_DEBUG,
    ATTR_EINITTOKEN_KEY,
    ATTR_KSS,
    ATTR_MODE64BIT,
    ATTR_PROVISIONKEY,
)

__all__ = [
    "DEFAULT_EPC_BASE",
    "DEFAULT_MISCSELECT",
    "MAX_ENCLAVE_SIZE_64_LOG2",
    "MAX_ENCLAVE_SIZE_NOT64_LOG2",
    "PER_CORE",
    "PLAIN",
    "SGX_LEAF",
    "Answer",
    "attributes_supported",
    "emulate",
]

Answer = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX, each 0 .. 2**32 - 1."""

SGX_LEAF = 0x12
_FEATURES_LEAF = 7
_FEATURES_EBX_SGX = 1 << 2
_FEATURES_ECX_SGX_LC = 1 << 30

# Leaf 12H, sub-leaf 0, EAX.
_SGX1 = 1 << 0
_SGX2 = 1 << 1
_EDECCSSA = 1 << 11

# Leaf 12H, sub-leaf 2 and on: EAX[3:0] and ECX[3:0].
_FIRST_EPC_SUBLEAF = 2
_EPC_SECTION = 1
_EPC_CONFIDENTIAL_AND_INTEGRITY = 1

DEFAULT_MISCSELECT = 1 << 0
"""EXINFO: page faults and #GP inside are reported in the SSA (SDM, "MISCSELECT Bit Vector")."""


PER_CORE = frozenset((1, 4, 0xB, 0x18, 0x1A, 0x1F, 0x8000001E, 0x80000026))
"""Leaves that each core answers for itself: topology, and what the two kinds of cores of a hybrid
processor tell of themselves."""

PLAIN = frozenset((0, 2, 3, 5, 6, 9, 0xA, 0x15, 0x16, *range(0x80000000, 0x80000009)))
"""Other leaves to which ECX is no input, as far as the processor has them."""

DEFAULT_EPC_BASE = 0x40_0000_0000
"""A physical address above any that a small machine has; no program can use it for anything."""

MAX_ENCLAVE_SIZE_NOT64_LOG2 = 31
MAX_ENCLAVE_SIZE_64_LOG2 = 56

_PAGE_BYTES = 4096
_LOW32 = 0xFFFF_FFFF
_MAX_PHYSICAL = 1 << 52
_ZERO: Answer = (0, 0, 0, 0)


def attributes_supported(aexnotify: bool) -> int:
    """What ECREATE accepts in ATTRIBUTES, as leaf 12H, sub-leaf 1 reports it.

    (SDM, Table "Layout of ATTRIBUTES Structure".) INIT is the processor's own bit, never here.
    """
    usual = ATTR_DEBUG | ATTR_MODE64BIT | ATTR_PROVISIONKEY | ATTR_EINITTOKEN_KEY | ATTR_KSS
    return usual | ATTR_AEXNOTIFY * aexnotify


def emulate(
    leaf: int,
    subleaf: int,
    native: Answer,
    epc_bytes: int,
    sgx2: bool,
    *,
    native_max: int,
    xfrm: int,
    aexnotify: bool = False,
    miscselect: int = DEFAULT_MISCSELECT,
    epc_base: int = DEFAULT_EPC_BASE,
) -> Answer:
    """Return what CPUID with EAX = ``leaf``, ECX = ``subleaf`` answers.

    ``native`` is the real processor's answer for the same pair and ``native_max`` its
    highest basic leaf (EAX of leaf 0): above it the real answer is not that leaf's (Intel
    repeats the highest leaf's), so leaves between it and 12H read as zeros.  ``epc_bytes`` and
    ``epc_base`` are page-aligned and make one section.  ``xfrm`` is what enclaves may set in
    SECS.ATTRIBUTES.XFRM: a subset of XCR0 that holds x87 and SSE.  ``sgx2`` and ``aexnotify``
    (with EDECCSSA, one feature) follow the kernel interface: without ioctls for it a program
    must not think it has SGX2.

    Raises ValueError for sizes and masks that no processor could report.
    """
    if epc_bytes <= 0 or (epc_bytes | epc_base) % _PAGE_BYTES:
        raise ValueError(f"EPC of {epc_bytes:#x} bytes at {epc_base:#x} is not whole pages")
    if epc_base < 0 or epc_base + epc_bytes > _MAX_PHYSICAL:
        raise ValueError(f"EPC of {epc_bytes:#x} bytes at {epc_base:#x} is beyond 52 bits")
    if xfrm & 3 != 3:
        raise ValueError(f"XFRM mask {xfrm:#x} lacks x87 or SSE, which ECREATE demands")
    if leaf == 0:
        return (max(native[0], SGX_LEAF), *native[1:])
    if leaf == SGX_LEAF:
        if subleaf == 0:
            supported = _SGX1 | _SGX2 * sgx2 | _EDECCSSA * aexnotify
            max_sizes = MAX_ENCLAVE_SIZE_64_LOG2 << 8 | MAX_ENCLAVE_SIZE_NOT64_LOG2
            return (supported, miscselect, 0, max_sizes)
        if subleaf == 1:
            attributes = attributes_supported(aexnotify)
            return (attributes & _LOW32, attributes >> 32, xfrm & _LOW32, xfrm >> 32)
        if subleaf == _FIRST_EPC_SUBLEAF:
            return (
                epc_base & _LOW32 | _EPC_SECTION,
                epc_base >> 32,
                epc_bytes & _LOW32 | _EPC_CONFIDENTIAL_AND_INTEGRITY,
                epc_bytes >> 32,
            )
        return _ZERO
    if native_max < leaf < SGX_LEAF:
        native = _ZERO
    if leaf == _FEATURES_LEAF and subleaf == 0:
        eax, ebx, ecx, edx = native
        return (eax, ebx | _FEATURES_EBX_SGX, ecx | _FEATURES_ECX_SGX_LC, edx)
    return native
