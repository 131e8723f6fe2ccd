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
from softsgx.sgx.inside import run_leaf
from softsgx.uapi.regs import RAX, RBX, RCX

__all__ = ["OF_ENCLAVE", "SECINFO_BYTES", "Accepted", "foresee"]

OF_ENCLAVE = ("base", "created", "dead", "initialized", "lost", "size")
"""What is read of an enclave, beside its pages, which no leaf changes."""
_OF_FILE = ("fmode", "path", "segment")
SECINFO_BYTES = 64


class Accepted:
    """A leaf that goes through. word: of the page afterwards. fresh: it is brought by the leaf's
    page fault, and has to be zero. regs: after the leaf.
    """

    __slots__ = ("fresh", "regs", "word")

    def __init__(self, word: int, regs: list[int], *, fresh: bool) -> None:
        self.word, self.regs, self.fresh = word, regs, fresh


class _Only:
    """Something that stands for another and has what may be read of it, and no more."""

    def __getattr__(self, name: str) -> Any:
        raise OtherError(name)


class _Pages(_Only):
    """Two pages of an enclave: its own, as it is taken to be and may become, and SECINFO's."""

    def __init__(self, index: int, word: int, info: int, info_word: int) -> None:
        self._index, self.word = index, word
        self._info = (info, info_word)

    def __getitem__(self, index: int) -> int:
        if index == self._index:
            return self.word
        if index != self._info[0]:
            raise OtherError("pages")
        return self._info[1]

    def __setitem__(self, index: int, word: int) -> None:
        if index != self._index:
            raise OtherError("pages")
        self.word = word


class _Memory(_Only):
    """Of an enclave's memory its SECINFO can be read, which is compared."""

    def __init__(self, secinfo: bytes) -> None:
        self._secinfo = secinfo

    def read(self, offset: int, length: int) -> bytes:  # noqa: ARG002
        if length != SECINFO_BYTES:
            raise OtherError("memory")
        return self._secinfo


class _Enclave(Held):
    """An enclave as one leaf sees it; nothing of it changes."""

    def __init__(self, of: Any, pages: _Pages, secinfo: bytes) -> None:
        super().__init__(of, ("end", "page_schema", *OF_ENCLAVE))
        self.__dict__.update(of=of, pages=pages, memory=_Memory(secinfo))

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
    info: tuple[int, Any],
) -> Accepted | None:  # fmt: skip
    """What the law says of the leaf of ``regs``, on pages of an enclave that are not the same.

    page, info: the state of its page and of SECINFO's, as a word, and a VMA like the one that it is
    in. None where it is no success, or the law looks at more than what is compared.
    """
    law, (word, vma) = device.design, page
    enclave = vma.file.enclave
    index, of_info = (regs[reg] - enclave.base >> 12 for reg in (RCX, RBX))
    if index == of_info or device.carry_out is not None:
        return None
    pages = _Pages(index, word, of_info, info[0])
    seen = _Enclave(enclave, pages, secinfo)
    fresh = not enclave.page_schema.get(word, "present")
    regs = list(regs)
    code = regs[RAX]
    try:
        if fresh:
            if not vma.prot & 1:
                return None
            cell = enclave.page_schema.cell(word)
            at = At(
                page=cell, vma=vma.cell(process.mm.schema_for(vma.file)), enclave=seen,
                process=Held(process, ()), file=Held(vma.file, _OF_FILE),
            )  # fmt: skip
            law.fault_absent(device.run, at, Request(access=1))
            pages.word = cell.words[0]
        thread: Any = _Thread(process, {index: vma, of_info: info[1]}, seen)
        error, _ = run_leaf(thread, law, device.run, regs)
    except (OtherError, Stop):
        return None
    if error or regs[RAX] not in (0, code):
        return None
    return Accepted(pages.word, regs, fresh=fresh)
