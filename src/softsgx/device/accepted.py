"""What the law answers for a leaf on any page of one kind, from an enclave that accepts its pages.

The leaf is run on a page that is looked at and not there, in a state that is given: its answer, and
what becomes of the page, stand for each page in that state and in a VMA like its own, as long as
nothing has changed of what was read. What may be read is held here; who answers by it compares the
rest.
"""

from __future__ import annotations

from typing import Any

from softsgx.device.foreseen import Held, OtherError
from softsgx.law.rule import At, Request, Stop
from softsgx.sdm.leaves import PAGE_SIZE
from softsgx.sgx.inside import run_leaf
from softsgx.uapi.regs import RAX, RBX, RCX, RDX

__all__ = ["OF_ENCLAVE", "SECINFO_BYTES", "Accepted", "foresee"]

OF_ENCLAVE = ("base", "created", "dead", "initialized", "lost", "size")
"""What is read of an enclave, beside its pages, which no leaf changes."""
_OF_FILE = ("fmode", "path", "segment")
SECINFO_BYTES = 64


class Accepted:
    """A leaf that goes through. word: of the page afterwards. fresh: it is brought by the leaf's
    page fault, and has to be zero. copies: it becomes a copy of RDX's. regs: after the leaf.
    """

    __slots__ = ("copies", "fresh", "regs", "word")

    def __init__(self, word: int, regs: list[int], *, fresh: bool, copies: bool) -> None:
        self.word, self.regs, self.fresh, self.copies = word, regs, fresh, copies


class _Only:
    """Something that stands for another and has what may be read of it, and no more."""

    def __getattr__(self, name: str) -> Any:
        raise OtherError(name)


class _Pages(_Only):
    """Some pages of an enclave: its own, as it is taken to be and may become, and others."""

    def __init__(self, index: int, word: int, others: dict[int, int]) -> None:
        self._index, self.word, self._others = index, word, others

    def __getitem__(self, index: int) -> int:
        if index == self._index:
            return self.word
        if index not in self._others:
            raise OtherError("pages")
        return self._others[index]

    def __setitem__(self, index: int, word: int) -> None:
        if index != self._index:
            raise OtherError("pages")
        self.word = word


class _Memory(_Only):
    """Of an enclave's memory its SECINFO can be read, which is compared, and a page be copied."""

    def __init__(self, secinfo: bytes, index: int, source: int) -> None:
        self._secinfo, self._index, self._source = secinfo, index, source
        self.copied = False

    def read(self, offset: int, length: int) -> Any:
        if (offset >> 12, length) == (self._source, PAGE_SIZE):
            return self
        if length != SECINFO_BYTES:
            raise OtherError("memory")
        return self._secinfo

    def write(self, offset: int, data: object) -> None:
        if offset >> 12 != self._index or data is not self:
            raise OtherError("memory")
        self.copied = True


class _Enclave(Held):
    """An enclave as one leaf sees it; nothing of it changes."""

    def __init__(self, of: Any, pages: _Pages, memory: _Memory) -> None:
        super().__init__(of, ("end", "page_schema", *OF_ENCLAVE))
        self.__dict__.update(of=of, pages=pages, memory=memory)

    def touch(self, first: int, last: int) -> None:
        """It is told later."""


class _Thread(_Only):
    """A thread inside, and what it reaches."""

    tcs = True

    def __init__(self, process: Any, vmas: dict[int, Any], enclave: _Enclave) -> None:
        self.enclave, self.mm = enclave, self
        self.fault_addr = self.fault_code = 0
        self._process, self._vmas = process, vmas

    def access(self, addr: int) -> int:
        e, index = self.enclave, addr - self.enclave.base >> 12
        page = e.page_schema.cell(e.pages[index])
        return int(self._process.reached(self._vmas[index], page, e))


def foresee(
    device: Any, process: Any, regs: list[int], secinfo: bytes, page: tuple[int, Any],
    info: tuple[int, Any], source: tuple[int, Any] | None = None,
) -> Accepted | None:  # fmt: skip
    """What the law says of the leaf of ``regs``, on pages of an enclave of which its is no other.

    page, info, source: the state of its page, of SECINFO's and of that which it is to become a copy
    of, as a word, and a VMA like the one that it is in. None where it is no success, or the law
    looks at more than what is compared.
    """
    law, (word, vma) = device.design, page
    enclave = vma.file.enclave
    index, of_info, of_source = (regs[reg] - enclave.base >> 12 for reg in (RCX, RBX, RDX))
    words, vmas = {of_info: info[0]}, {of_info: info[1]}
    if source is not None:
        words[of_source], vmas[of_source] = source
    if index in words or device.carry_out is not None:
        return None
    vmas[index] = vma
    pages = _Pages(index, word, words)
    memory = _Memory(secinfo, index, -1 if source is None else of_source)
    seen = _Enclave(enclave, pages, memory)
    fresh = not enclave.page_schema.get(word, "present")
    access = 1 if source is None else 2
    regs = list(regs)
    code = regs[RAX]
    try:
        if fresh:
            if not vma.prot & access:
                return None
            cell = enclave.page_schema.cell(word)
            at = At(
                page=cell, vma=vma.cell(process.mm.schema_for(vma.file)), enclave=seen,
                process=Held(process, ()), file=Held(vma.file, _OF_FILE),
            )  # fmt: skip
            law.fault_absent(device.run, at, Request(access=access))
            pages.word = cell.words[0]
        thread: Any = _Thread(process, vmas, seen)
        error, _ = run_leaf(thread, law, device.run, regs)
    except (OtherError, Stop):
        return None
    if error or regs[RAX] not in (0, code):
        return None
    return Accepted(pages.word, regs, fresh=fresh, copies=memory.copied)
