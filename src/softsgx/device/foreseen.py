"""What the law answers for pages that are still to come, from a loader that adds them one by one,
or so many at a time.

The rules are asked as for the page before: with the SECINFO, the flags and the source VMA that
have come, and the next ranges. Their answer stands for a page that comes as long as nothing has
changed of what they read; what they may read is held here. Who answers by it compares the rest.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from softsgx.device.eadd import PIECE_BYTES
from softsgx.device.files import EnclaveFile
from softsgx.device.ioctls import IOCTLS, place, secinfo_of
from softsgx.device.pagecells import stored
from softsgx.law.rule import At, Request, Stop
from softsgx.sdm.leaves import PT_TCS
from softsgx.uapi import sgx as uapi

__all__ = ["Foreseen", "Held", "OtherError", "foresee"]

_CMD = uapi.SGX_IOC_ENCLAVE_ADD_PAGES
_ADD_PAGES = next(row.handler for row in IOCTLS if row.cmd == _CMD)
# What EADD does not change.
_OF_ENCLAVE = ("base", "created", "dead", "initialized", "size")
# What the kernel tells of a mapping at each page. The path, whether a private file mapping was
# written to, and what an LSM keeps take a longer look.
_OF_SOURCE = (
    "anonymous", "end", "found", "mapped", "may", "noexec", "prot", "readable", "shared", "start",
)  # fmt: skip
_OF_FILE = ("fmode", "path", "segment")
_ASKED = ("flags", "inside", "measure", "perm", "pt", "reserved_zero", "tcs_valid")


class OtherError(Exception):
    """A rule reads, or changes, what may be another thing at the next page."""


class Held:
    """Something of which a rule may read what stays as it is, and no more."""

    def __init__(self, of: Any, names: Collection[str]) -> None:
        self.__dict__.update(_of=of, _names=names)

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise OtherError(name)
        return getattr(self._of, name)

    def __setattr__(self, name: str, value: object) -> None:
        raise OtherError(name)


class Foreseen:
    """``calls`` for ``length`` bytes each, from ``offset`` on, that will be answered 0.

    flags: SECINFO's; measure: with EEXTEND. word: of the pages afterwards.
    """

    __slots__ = ("_device", "calls", "file", "flags", "length", "measure", "offset", "word")

    def __init__(
        self, device: Any, file: EnclaveFile, offset: int, length: int, calls: int, word: int,
        flags: int, measure: bool,
    ) -> None:  # fmt: skip
        self._device, self.file = device, file
        self.offset, self.length, self.calls, self.word = offset, length, calls, word
        self.flags, self.measure = flags, measure

    def came(self, n: int) -> None:
        """The first ``n`` of them came; their content is in the enclave's memory."""
        enclave, offset = self.file.enclave, self.offset
        first, last = offset >> 12, offset + n * self.length >> 12
        enclave.loaded(offset, last - first, self.flags, self.measure)
        for old in [o for o in enclave.tcs if offset <= o < last << 12]:
            del enclave.tcs[old]
        enclave.pages.fill(first, last, self.word)
        enclave.touch()
        self._device.on_pages(self.file, first, last)
        self.offset += n * self.length
        self.calls -= n


def foresee(
    device: Any, process: Any, file: EnclaveFile, params: Any, secinfo: bytes, source: Any,
    most: int,
) -> Foreseen | None:  # fmt: skip
    """What the law says of up to ``most`` calls like one of ADD_PAGES that has added all its pages.

    params: its arguments. secinfo: 64 bytes. source: the `Source` that the pages come from. None
    where the law does not allow the next one, or looks at more than what is compared; or where
    signals may end it early.
    """
    law, enclave, schema = device.design, file.enclave, file.enclave.page_schema
    if device.run.lsm is not None or device.ioctls[_CMD].handler is not _ADD_PAGES:
        return None
    length = params.length
    if length > PIECE_BYTES:
        return None
    first = params.offset + length >> 12
    r = secinfo_of(secinfo)
    if "mapped" in schema.fields or r.pt == PT_TCS or first >= enclave.pages.n_pages:
        return None
    cells = {
        "enclave": Held(enclave, _OF_ENCLAVE),
        "file": Held(file, _OF_FILE),
        "process": Held(process, ()),
    }
    at, there, k = At(**cells), place(process, file), device.run
    each = length >> 12
    end = min(first + most * each, enclave.pages.n_pages)
    _, last, word = next(enclave.pages.runs(first, end))
    if schema.get(word, "present"):
        return None
    measure = bool(params.flags & uapi.SGX_PAGE_MEASURE)
    cell = schema.cell(word)
    calls = 0
    try:
        law.ioctl(k, at, Request(cmd=_CMD))
        law.may_build(k, at, None)
        law.validate_secinfo(k, at, r)
        r.__dict__.update(tcs_valid=1, inside=1, measure=int(measure))
        of = At(page=cell, source=Held(source, _OF_SOURCE), **cells)
        law.add_page(k, of, Held(r, _ASKED))
        for page in range(first, last - each + 1, each):
            args = Request(offset=page << 12, length=length)
            if calls:  # by then it is known what the rule reads
                law.validate_range(k, there, args)
            else:
                law.validate_range(k, at, Held(args, ("length", "offset")))
            calls += 1
    except (OtherError, Stop):
        pass
    if not calls:
        return None
    new = stored(schema, cell.words[0])
    return Foreseen(device, file, first << 12, length, calls, new, r.flags, measure)
