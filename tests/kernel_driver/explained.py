"""What the two sides may differ in: each difference with its reason, and nothing else.

A release had other checks than the sources that Debian has of it today. Those that came later are
here with their commits; docs/held-against.md tells of each, in these words.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, EIO, ENODEV, ENOTTY
from typing import Any

from softsgx.sdm.leaves import ATTR_MODE64BIT

__all__ = ["BUSY", "EXPLAINED", "MEMORY", "OVERFLOW", "SIGNAL", "explained", "refused_earlier"]

_U64 = 1 << 64


def _power_of_two(law: Any, what: str, kernel: int, softsgx: int, facts: Any) -> bool:
    size = facts.get("size", 0)
    odd = not size or size & size - 1
    return what == "CREATE" and (kernel, softsgx) == (-EINVAL, -EIO) and bool(odd)


def _sgx1(law: Any, what: str, kernel: int, softsgx: int, facts: Any) -> bool:
    return law.release < (6, 0) and (kernel, softsgx) == (-ENODEV, -ENOTTY)


def _refused(what: str, kernel: int, softsgx: int) -> bool:
    return what == "CREATE" and (kernel, softsgx) == (0, -EIO)


def _not64(law: Any, what: str, kernel: int, softsgx: int, facts: Any) -> bool:
    return _refused(what, kernel, softsgx) and not facts["attributes"] & ATTR_MODE64BIT


def _nowhere(law: Any, what: str, kernel: int, softsgx: int, facts: Any) -> bool:
    beyond = facts.get("base", 0) + facts.get("size", 0) > 1 << 47
    return _refused(what, kernel, softsgx) and (beyond or facts.get("size", 0) > 1 << 46)


EXPLAINED: dict[str, Callable[[Any, str, int, int, Any], bool]] = {
    'SECS.SIZE that is no power of two: EINVAL since commit 0d3e0dfd68fb ("x86/sgx: Fix size'
    ' overflows in sgx_encl_create()") (in v6.14), and in stable kernels; EIO before':
        _power_of_two,
    'the ioctls of SGX2: ENODEV on a CPU without it since commit ff08530a5232 ("x86/sgx: Support'
    ' restricting of enclave page permissions") (in v6.0); ENOTTY before':
        _sgx1,
    "ECREATE of an enclave without MODE64BIT: softsgx has none":
        _not64,
    "ECREATE of an enclave that no process could map: softsgx refuses it":
        _nowhere,
}  # fmt: skip
"""Reason → whether a difference is of it: (law, what, kernel's answer, softsgx's, facts)."""

BUSY = "an ioctl while another of the same enclave is under way: EBUSY; softsgx serves it later"
MEMORY = "the kernel's memory or the EPC runs out: ENOMEM, or SIGBUS at a fault; softsgx has enough"
SIGNAL = (
    "a signal before the first page of ADD_PAGES: the call begins anew, or is EINTR; softsgx adds"
    " the first pages, as if the signal had come later"
)
OVERFLOW = (
    'offset + length that wraps around: EINVAL since commit f0861f49bd94 ("x86/sgx: Add overflow'
    ' check in sgx_validate_offset_length()") (in v6.1); before, the pages are looked at'
)


def explained(law: Any, what: str, kernel: int, softsgx: int, facts: Any) -> str:
    """The reason of a difference, "" if there is none."""
    for reason, holds in EXPLAINED.items():
        if holds(law, what, kernel, softsgx, facts):
            return reason
    return ""


def refused_earlier(law: Any, kernel: int, facts: Any) -> str:
    """The reason why the driver refuses what the design's release went on with, or ""."""
    wraps = facts.get("offset", 0) + facts.get("length", 0) >= _U64
    return OVERFLOW if kernel == -EINVAL and law.release < (6, 1) and wraps else ""
