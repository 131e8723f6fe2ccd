"""Where pages come from and go, for designs whose LSM keeps that (`Design.keeps_origins`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from errno import ENOMEM
from typing import Any

from softsgx.law.rule import Stop
from softsgx.sdm.leaves import PAGE_SIZE

__all__ = ["looked_at", "page_by_page"]

_MAX_ORIGINS = 255  # what `page.origin` holds


def looked_at(process: Any, enclave: Any, source: Any, offset: int, r: Any) -> int:
    """EADD at an offset: the source knows its number, ``r.target`` what the caller has mapped
    there. For how many bytes that holds.
    """
    source.origin = _origin_of(enclave, source)
    addr = enclave.base + offset
    r.__dict__["target"], end = _target_of(process, addr)
    return max(int(end) - int(addr), PAGE_SIZE)


def page_by_page(
    process: Any, enclave: Any, runs: Iterable[tuple[int, int, int]], r: Any
) -> Iterator[tuple[int, int, int]]:
    """Runs of pages as runs of one, each with its ``r.target``, which may differ within a run."""
    for first, last, word in runs:
        for i in range(first, last):
            r.__dict__["target"], _ = _target_of(process, enclave.base + (i << 12))
            yield i, i + 1, word


def _origin_of(enclave: Any, source: Any) -> int:
    """The number of a source's file among those that pages of the enclave came from, 0 for none."""
    if source.anonymous:
        return 0
    kept = source.kept()
    for number, known in enumerate(enclave.origins, 1):
        if _file(known) == _file(kept):
            return number
    if len(enclave.origins) == _MAX_ORIGINS:
        raise Stop(ENOMEM, f"pages of an enclave from {_MAX_ORIGINS} files")
    enclave.origins.append(kept)
    return len(enclave.origins)


def _file(source: Any) -> tuple[Any, ...]:
    """What tells a file from others, as far as an LSM does."""
    names = ("label", "ino", "private")
    return (source.path, *(getattr(source.security, name, None) for name in names))


def _target_of(process: Any, addr: int) -> tuple[int, int]:
    """What the process has mapped at an address: a mask, and where that ends."""
    vma = process.mm.find(addr)
    if vma is not None:
        return vma.prot, vma.end
    above = [v.start for v in process.mm.overlapping(addr, 1 << 47)]
    return 0, min(above, default=1 << 47)
