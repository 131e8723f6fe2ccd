"""What the law answers for leaves that are still to come, from an enclave that accepts its pages
one by one.

The leaf is run as for the page before, on a page that is looked at and not there: its answer, and
what becomes of the page, stand for each page in the same state and the same VMA, as long as nothing
has changed of what was read. What may be read is held here; who answers by it compares the rest.
"""

from __future__ import annotations

from typing import Any

from softsgx.device.foreseen import Held, OtherError
from softsgx.law.rule import At, Request, Stop
from softsgx.sdm.leaves import PAGE_SIZE
from softsgx.sgx.inside import run_leaf
from softsgx.uapi.regs import RAX, RBX, RCX

__all__ = ["Accepted", "alike", "foresee", "span"]

# What no leaf changes.
_OF_ENCLAVE = ("base", "created", "dead", "initialized", "lost", "size")
_OF_FILE = ("fmode", "path", "segment")
_SECINFO = 64


class Accepted:
    """``pages`` pages from number ``first`` on, each ``step`` (1 or -1) further.

    word: of the pages afterwards. fresh: they are brought by the leaf's page fault, and have to be
    zero. regs: after the leaf for the first of them.
    """

    __slots__ = ("enclave", "first", "fresh", "pages", "regs", "step", "word")

    def __init__(
        self, enclave: Any, first: int, step: int, pages: int, word: int, regs: list[int], *,
        fresh: bool,
    ) -> None:  # fmt: skip
        self.enclave, self.first, self.step, self.pages = enclave, first, step, pages
        self.word, self.regs, self.fresh = word, regs, fresh

    def came(self, n: int) -> tuple[int, int]:
        """The first ``n`` of them came: their range."""
        found = span(self.first, self.step, n)
        self.enclave.pages.fill(*found, self.word)
        self.enclave.touch(*found)
        self.first += n * self.step
        self.pages -= n
        return found


class _Only:
    """Something that stands for another and has what may be read of it, and no more."""

    def __getattr__(self, name: str) -> Any:
        raise OtherError(name)


class _Pages(_Only):
    """The pages of an enclave, one of them as it may become; the others that come are not read."""

    def __init__(self, pages: Any, index: int, others: range) -> None:
        self._pages, self._index, self._others = pages, index, others
        self.word: int = pages[index]

    def __getitem__(self, index: int) -> int:
        if index == self._index:
            return self.word
        if index in self._others:
            raise OtherError("pages")
        return int(self._pages[index])

    def __setitem__(self, index: int, word: int) -> None:
        if index != self._index:
            raise OtherError("pages")
        self.word = word


class _Memory(_Only):
    """Of an enclave's memory its SECINFO can be read, which is compared."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory

    def read(self, offset: int, length: int) -> bytes:
        if length != _SECINFO:
            raise OtherError("memory")
        return bytes(self._memory.read(offset, length))


class _Enclave(Held):
    """An enclave as one leaf sees it; nothing of it changes."""

    def __init__(self, of: Any, pages: _Pages) -> None:
        super().__init__(of, ("end", "page_schema", *_OF_ENCLAVE))
        self.__dict__.update(of=of, pages=pages, memory=_Memory(of.memory))

    def touch(self, first: int, last: int) -> None:
        """It is told later."""


class _Thread(_Only):
    """A thread inside, and what it reaches."""

    tcs = True

    def __init__(self, process: Any, vma: Any, enclave: _Enclave) -> None:
        self.enclave, self.mm = enclave, self
        self.fault_addr = self.fault_code = 0
        self._process, self._vma = process, vma

    def access(self, addr: int) -> int:
        e, vma = self.enclave, self._vma
        if not vma.start <= addr < vma.end:
            vma = self._process.mm.find(addr)
            if vma is None or getattr(vma.file, "enclave", None) is not e.of:
                raise OtherError("mm")
        page = e.page_schema.cell(e.pages[addr - e.base >> 12])
        return int(self._process.reached(vma, page, e))


def span(first: int, step: int, n: int) -> tuple[int, int]:
    """The pages [first, last) that ``n`` steps from one page on are."""
    return (first, first + n) if step > 0 else (first + 1 - n, first + 1)


def alike(pages: Any, first: int, step: int, most: int) -> int:
    """How many pages of a table, up to ``most``, are as the first is."""
    runs = list(pages.runs(*span(first, step, most)))
    a, b, _ = runs[0 if step > 0 else -1]
    return int(b - a)


def foresee(
    device: Any, process: Any, vma: Any, regs: list[int], step: int, most: int
) -> Accepted | None:
    """What the law says of up to ``most`` leaves, the first with ``regs``, the next a page further.

    vma: which the first page is in. step: 1 or -1. None where the law does not let the first one
    go through, or looks at more than what is compared.
    """
    law, enclave = device.design, vma.file.enclave
    first = regs[RCX] - enclave.base >> 12
    low, high = max(vma.start, enclave.base), min(vma.end, enclave.end)
    if not low <= regs[RCX] < high or device.carry_out is not None:
        return None
    room = (high - regs[RCX] if step > 0 else regs[RCX] + PAGE_SIZE - low) >> 12
    lo, hi = span(first, step, min(most, room))
    # An entry may have looked at a page without a stop; and its SECINFO is not to change.
    for page in (*enclave.looked_at, regs[RBX] - enclave.base >> 12):
        if lo <= page < hi:
            lo, hi = (lo, page) if step > 0 else (page + 1, hi)
    if lo >= hi:
        return None
    n = alike(enclave.pages, first, step, hi - lo)
    pages = _Pages(enclave.pages, first, range(lo, hi))
    seen = _Enclave(enclave, pages)
    fresh = not enclave.page_schema.get(pages.word, "present")
    regs = list(regs)
    code = regs[RAX]
    try:
        if fresh:
            if not vma.prot & 1:
                return None
            cell = enclave.page_schema.cell(pages.word)
            at = At(
                page=cell, vma=vma.cell(process.mm.schema_for(vma.file)), enclave=seen,
                process=Held(process, ()), file=Held(vma.file, _OF_FILE),
            )  # fmt: skip
            law.fault_absent(device.run, at, Request(access=1))
            pages.word = cell.words[0]
        error, _ = run_leaf(_Thread(process, vma, seen), law, device.run, regs)  # type: ignore[arg-type]
    except (OtherError, Stop):
        return None
    if error or regs[RAX] not in (0, code):
        return None
    return Accepted(enclave, first, step, n, pages.word, regs, fresh=fresh)
