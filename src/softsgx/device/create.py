"""ECREATE and EINIT: the checks of SECS and SIGSTRUCT, in the SDM's order."""

from __future__ import annotations

from typing import Any

from softsgx.sdm.cpuid import attributes_supported
from softsgx.sdm.leaves import (
    ATTR_INIT,
    ATTR_KSS,
    ATTR_MODE64BIT,
    ATTR_RESERVED_MASK,
    MISCSELECT_EXINFO,
    PAGE_SIZE,
    TCS_AEXNOTIFY,
    TCS_DBGOPTIN,
    XFRM_AVX,
    XFRM_LEGACY,
)
from softsgx.sdm.structs import EXINFO, GPRSGX, SECS, TCS
from softsgx.sdm.xsave import XsaveLayout
from softsgx.sgx.pagerules import GP

__all__ = [
    "MISCSELECT_SUPPORTED",
    "attributes_known",
    "ecreate_error",
    "einit_error",
    "tcs_of_eadd",
]

MISCSELECT_SUPPORTED = MISCSELECT_EXINFO
MAX_SIZE = 1 << 46
_TOP = 1 << 47


_TOGETHER = (3 << 3, 7 << 5, 3 << 17)
"""XFRM bits that XCR0 takes together or not at all: MPX, AVX-512, AMX (SDM, XSETBV)."""


def _xfrm_legal(xfrm: int) -> bool:
    whole = all(xfrm & bits in {0, bits} for bits in _TOGETHER)
    return whole and (not xfrm & 7 << 5 or bool(xfrm & XFRM_AVX))


def ecreate_error(
    raw: bytes, secs: Any, xfrm_supported: int, aexnotify: bool, xsave: XsaveLayout
) -> int:
    """ECREATE's checks of a SECS (SDM, ECREATE): 0 or ``FAULT | vector``.

    xfrm_supported, aexnotify, xsave: what this CPU has.
    """
    misc = EXINFO.size if secs.miscselect & MISCSELECT_EXINFO else 0
    frame = secs.ssaframesize * PAGE_SIZE
    bad = (
        not SECS.reserved_zero(raw)
        or secs.cet_leg_bitmap_offset
        or secs.cet_attributes
        or secs.xfrm & XFRM_LEGACY != XFRM_LEGACY
        or secs.xfrm & ~xfrm_supported
        or not _xfrm_legal(secs.xfrm)
        or secs.miscselect & ~MISCSELECT_SUPPORTED
        or frame < xsave.size_bytes(secs.xfrm) + misc + GPRSGX.size
        or secs.attributes & ~attributes_supported(aexnotify)
        or not secs.attributes & ATTR_MODE64BIT
        or not 2 * PAGE_SIZE <= secs.size <= MAX_SIZE
        or secs.size & (secs.size - 1)
        or secs.baseaddr & (secs.size - 1)
        or secs.baseaddr + secs.size > _TOP
        or (not secs.attributes & ATTR_KSS and (any(secs.configid) or secs.configsvn))
    )
    return GP if bad else 0


def einit_error(enclave: Any, raw: bytes) -> int:
    """EINIT's checks of a SIGSTRUCT of 1808 bytes (SDM, EINIT): 0 or an SGX error code.

    On success ``enclave.identity`` is what keys and reports depend on.
    """
    from softsgx.sdm import sigstruct
    from softsgx.sgx.keys import Identity

    secs = enclave.secs
    mrenclave = enclave.measurement.digest()
    failure = sigstruct.check_einit(raw, secs, mrenclave)
    if failure is not None:
        enclave.einit_failure = failure.reason
        return failure.code
    enclave.identity = Identity(secs, sigstruct.parse(raw), mrenclave)
    secs.attributes |= ATTR_INIT
    return 0


def attributes_known(sig: Any, aexnotify: bool) -> int:
    """1 if a SIGSTRUCT enforces no attribute that this CPU lacks (Linux sgx_encl_init())."""
    unknown = ~attributes_supported(aexnotify) | ATTR_RESERVED_MASK
    return int(not sig.attributes & sig.attributemask & unknown)


def tcs_of_eadd(raw: bytes, aexnotify: bool) -> bytes | None:
    """A TCS page as EADD stores and measures it, or None if EADD faults (SDM, EADD).

    FLAGS.DBGOPTIN, STAGE, CSSA and AEP are cleared; reserved bytes have to be zero, and
    FLAGS.AEXNOTIFY is reserved on a CPU without AEX-Notify. Whether OSSA and the segment bases
    are aligned is EENTER's question.
    """
    t = TCS.unpack(raw)
    flags = TCS_DBGOPTIN | TCS_AEXNOTIFY * aexnotify
    if not TCS.reserved_zero(raw) or t.flags & ~flags or t.ocetssa or t.prevssp:
        return None
    t.flags &= ~TCS_DBGOPTIN
    t.stage = t.cssa = t.aep = 0
    return TCS.pack_record(t)
