"""SGXS streams (.sgxs): the records that MRENCLAVE is the hash of, kept in a file.

Fortanix's format (rust-sgx, intel-sgx/sgxs/src/sgxs.rs): records of 64 bytes as ECREATE, EADD and
EEXTEND measure them, 256 bytes of the page behind each EEXTEND; UNMEASRD is an EEXTEND that is
added and not measured, UNSIZED an ECREATE whose size is filled in later. A stream is canonical if
it begins with the only ECREATE, EADDs go upwards at starts of pages, and behind each come chunks
of its page alone, none twice. Others are refused, as Fortanix's reader refuses them.

A stream without UNMEASRD is its own measurement's input. So measuring is one pass that hashes, and
looks at the records of what it has hashed while that is in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from struct import Struct
from typing import IO, Any

from softsgx.errors import UsageError
from softsgx.images.image import Buffer, Image, Part
from softsgx.sdm.leaves import PAGE_SIZE, SECINFO_PT_MASK, SECINFO_RWX_MASK, SECINFO_TCS
from softsgx.sgx.measure import EADD_TAG, ECREATE_TAG, EEXTEND_TAG, Measurement
from softsgx.sgx.scatter import CHUNK_SIZE, CHUNKS, PAGE_RECORDS, RECORD, Alike

__all__ = ["MAGICS", "Pages", "Stream", "write"]

_UNSIZED, _UNMEASRD = b"UNSIZED\0", b"UNMEASRD"
MAGICS = (ECREATE_TAG, _UNSIZED)
_CREATE = Struct("<8sIQ44s")
_ADD = Struct("<8sQQ40s")
_EXTEND = Struct("<8sQ48s")
_ALL = (1 << CHUNKS) - 1
_NOTHING = bytes(PAGE_SIZE)
_WINDOW = 1 << 20  # bytes that are hashed and then looked at


class Pages:
    """Pages of a stream that are written alike, from byte ``at`` to ``end`` of it.

    measured, unmeasured: by chunk a bit, whether an EEXTEND or an UNMEASRD is there.
    """

    __slots__ = ("at", "end", "flags", "measured", "n_pages", "offset", "unmeasured")

    def __init__(
        self, at: int, end: int, offset: int, flags: int, n_pages: int, masks: tuple[int, int]
    ) -> None:
        self.at, self.end, self.offset, self.flags, self.n_pages = at, end, offset, flags, n_pages
        self.measured, self.unmeasured = masks


class Stream:
    """A stream: its ECREATE, and its pages by `pages`. Raises UsageError if it is none.

    size: bytes of ELRANGE; sized: whether that is known yet.
    """

    def __init__(self, data: Buffer) -> None:
        self.data = memoryview(data)
        if len(data) < RECORD:
            raise UsageError(f"{len(data)} bytes, too short for an .sgxs stream")
        tag, self.ssa_frame_pages, self.size, rest = _CREATE.unpack_from(self.data)
        if tag not in MAGICS:
            raise UsageError("no .sgxs stream: it begins with no ECREATE")
        if any(rest):
            raise UsageError("the rest of ECREATE's record is not zero")
        self.sized = tag == ECREATE_TAG

    def pages(self) -> Iterator[Pages]:
        """Its pages in order, a MiB at a time. Raises UsageError where it is not canonical."""
        data, at, last = self.data, RECORD, -1
        alike = Alike(data)
        while at < len(data):
            pages = self._quick(alike, at) or self._page(at)
            if pages.offset % PAGE_SIZE or pages.offset <= last:
                raise UsageError(
                    f"byte {at:#x}: EADD at {pages.offset:#x}, which is no page after the last one"
                )
            last = pages.offset + (pages.n_pages - 1) * PAGE_SIZE
            if self.sized and last + PAGE_SIZE > self.size:
                raise UsageError(
                    f"byte {at:#x}: EADD at {last:#x}, the enclave ends at {self.size:#x}"
                )
            if pages.flags & SECINFO_PT_MASK == SECINFO_TCS and pages.flags & SECINFO_RWX_MASK:
                raise UsageError(
                    f"byte {at:#x}: a TCS with permissions, which EADD measures without"
                )
            yield pages
            at = pages.end

    def mrenclave(self) -> bytes:
        """MRENCLAVE (32 bytes). Raises UsageError."""
        if not self.sized:
            raise UsageError("its size is not filled in (UNSIZED), as sgxs-append does it")
        data, at, hashed = self.data, RECORD, RECORD
        digest = sha256(data[:RECORD])
        before = [(hashed, digest.copy())] * 2  # to go back to: at least one is not beyond ``at``
        ahead = True
        pages = self.pages()
        while True:
            # Hashing fetches memory in order, looking at records does not: so hashing is first.
            if ahead and hashed - at < _WINDOW and hashed < len(data):
                before = [before[1], (hashed, digest.copy())]
                digest.update(data[hashed : hashed + _WINDOW])
                hashed = min(hashed + _WINDOW, len(data))
            run = next(pages, None)
            if run is None:
                return digest.digest()
            if ahead and run.unmeasured:
                ahead = False
                hashed, digest = before[1] if before[1][0] <= at else before[0]
                digest.update(data[hashed:at])
            at = run.end
            if not ahead:
                self._measured(run, digest.update)

    def _measured(self, run: Pages, update: Callable[[memoryview], object]) -> None:
        """Give ``update`` what is measured of pages."""
        data = self.data
        if not run.unmeasured:
            update(data[run.at : run.end])
            return
        size = (run.end - run.at) // run.n_pages
        for page in range(run.at, run.end, size):
            update(data[page : page + RECORD])
            for at in range(page + RECORD, page + size, RECORD + CHUNK_SIZE):
                if data[at : at + 8] == EEXTEND_TAG:
                    update(data[at : at + RECORD + CHUNK_SIZE])

    def image(self) -> Image:
        """The same as an `Image`, with its contents. Raises UsageError.

        Also where a page is measured in part: no ioctl of Linux adds such a page.
        """
        parts = []
        for pages in self.pages():
            if pages.measured not in (0, _ALL):
                raise UsageError(f"the page at {pages.offset:#x} is measured in part")
            part = Part(pages.offset, pages.flags, pages.n_pages, measured=bool(pages.measured))
            if pages.measured or pages.unmeasured:
                part.data = self._contents(pages)
            parts.append(part)
        return Image(self.size, self.ssa_frame_pages, parts)

    def _contents(self, pages: Pages) -> bytearray:
        contents = bytearray(pages.n_pages * PAGE_SIZE)
        size = (pages.end - pages.at) // pages.n_pages
        for page in range(pages.n_pages):
            start = pages.at + page * size
            for at in range(start + RECORD, start + size, RECORD + CHUNK_SIZE):
                (offset,) = _OFFSET.unpack_from(self.data, at + 8)
                to = offset - pages.offset
                contents[to : to + CHUNK_SIZE] = self.data[at + RECORD : at + RECORD + CHUNK_SIZE]
        return contents

    def _quick(self, alike: Alike, at: int) -> Pages | None:
        """Several pages at once, as most are written: all chunks in order, or none."""
        following = bytes(self.data[at + RECORD : at + RECORD + 8])
        if following not in (EEXTEND_TAG, _UNMEASRD):
            size, tag, masks = RECORD, b"", (0, 0)
        else:
            masks = (_ALL, 0) if following == EEXTEND_TAG else (0, _ALL)
            size, tag = PAGE_RECORDS, following
        n = alike.count(at, _WINDOW // size, tag)
        if not n:
            return None
        _, offset, flags, _ = _ADD.unpack_from(self.data, at)
        return Pages(at, at + n * size, offset, flags, n, masks)

    def _page(self, at: int) -> Pages:
        """One page, whatever chunks it has."""
        tag, offset, flags, rest = self._record(_ADD, at)
        if tag != EADD_TAG:
            raise UsageError(f"byte {at:#x}: {_tag(tag)} where EADD has to be")
        if any(rest):
            raise UsageError(f"byte {at:#x}: the rest of EADD's record is not zero")
        masks = {EEXTEND_TAG: 0, _UNMEASRD: 0}
        end = at + RECORD
        while end < len(self.data):
            tag, where, rest = self._record(_EXTEND, end)
            if tag not in masks:
                break
            chunk, middle = divmod(where - offset, CHUNK_SIZE)
            seen = masks[EEXTEND_TAG] | masks[_UNMEASRD]
            if middle or not 0 <= chunk < CHUNKS or seen >> chunk & 1 or any(rest):
                raise UsageError(
                    f"byte {end:#x}: {_tag(tag)} at {where:#x} is no new chunk of the page "
                    f"at {offset:#x}"
                )
            if len(self.data) - end < RECORD + CHUNK_SIZE:
                raise UsageError(f"byte {end:#x}: the stream ends inside of a chunk")
            masks[tag] |= 1 << chunk
            end += RECORD + CHUNK_SIZE
        return Pages(at, end, offset, flags, 1, (masks[EEXTEND_TAG], masks[_UNMEASRD]))

    def _record(self, layout: Struct, at: int) -> tuple[Any, ...]:
        if len(self.data) - at < RECORD:
            raise UsageError(f"byte {at:#x}: the stream ends inside of a record")
        return layout.unpack_from(self.data, at)


_OFFSET = Struct("<Q")


def _tag(tag: bytes) -> str:
    name = tag.rstrip(b"\0").decode("ascii", "replace")
    return name if name.isprintable() and name else tag.hex()


class _Both:
    """Takes what is measured: to be hashed, and to be written."""

    def __init__(self, file: IO[bytes], record: bytes) -> None:
        self._hash, self._file = sha256(), file
        if record:
            self.update(record)

    def update(self, record: Buffer) -> None:
        self._hash.update(record)
        self._file.write(record)

    def digest(self) -> bytes:
        return self._hash.digest()


def write(image: Image, file: IO[bytes]) -> bytes:
    """Write an image as a stream, as Fortanix's tools do; its MRENCLAVE (32 bytes).

    Pages that are not measured have UNMEASRD records where they are not zero. Raises UsageError:
    if the image cannot be built, or its pages do not go upwards, as a canonical stream's do.
    """
    image.check()
    m = Measurement(lambda record: _Both(file, record))
    m.ecreate(image.ssa_frame_pages, image.size)
    last = 0
    for part in image.parts:
        if part.offset < last:
            raise UsageError(
                f"the page at {part.offset:#x} comes after one at {last - PAGE_SIZE:#x}; "
                "in an .sgxs stream pages go upwards"
            )
        last = part.end
        if not part.measured and part.data is None:
            m.add_pages_unmeasured(part.offset, part.flags, part.n_pages)
            continue
        for at, pages in part.contents():
            if part.measured:
                m.add_pages(at, part.flags, pages)
            else:
                _unmeasured(m, file, at, part.flags, memoryview(pages))
    return m.digest()


def _unmeasured(
    m: Measurement, file: IO[bytes], offset: int, flags: int, pages: memoryview
) -> None:
    for at in range(0, len(pages), PAGE_SIZE):
        m.eadd(offset + at, flags)
        page = pages[at : at + PAGE_SIZE]
        if bytes(page) == _NOTHING:
            continue
        for chunk in range(0, PAGE_SIZE, CHUNK_SIZE):
            file.write(_EXTEND.pack(_UNMEASRD, offset + at + chunk, b""))
            file.write(page[chunk : chunk + CHUNK_SIZE])
