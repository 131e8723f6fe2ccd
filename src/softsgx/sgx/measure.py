"""MRENCLAVE: SHA-256 over the records of ECREATE, EADD and EEXTEND.

A measured page is one EADD record of 64 bytes and sixteen times an EEXTEND record of 64 bytes with
256 bytes of the page: 5,184 bytes of SHA-256. Raw SHA-256 is the limit, so the work beside it has
to be small: a template of 64 pages of records is kept; a batch changes only those bytes of the
offsets that differ from the last batch, one strided assignment for all pages at once; the pages'
contents are scattered into the template (module scatter); and one update hashes it all, without
the GIL. Rejected: ``struct.pack`` per page (half the speed), numpy (160 ms of start-up).

It reads files that it is handed and opens nothing that has a name.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable
from struct import Struct

from softsgx.errors import InternalError
from softsgx.sdm.leaves import PAGE_SIZE, SECINFO_PT_MASK, SECINFO_RWX_MASK, SECINFO_TCS
from softsgx.sgx.scatter import (
    CHUNK_SIZE,
    CHUNKS,
    PAGE_RECORDS,
    RECORD,
    Followed,
    OwnSha256,
    Scatter,
    Sha256,
)

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "BATCH_PAGES", "EADD_TAG", "ECREATE_TAG", "EEXTEND_TAG", "Buffer", "Measurement",
    "measured_flags",
]  # fmt: skip

# preadv takes at most IOV_MAX = 1024 pieces, which is 64 pages; they also fit a second-level cache.
BATCH_PAGES = 1024 // CHUNKS
"""Pages that are hashed together at least, where there are as many."""
_STEP = RECORD + CHUNK_SIZE

# SDM, ECREATE, EADD, EEXTEND, "Operation": the layouts of TMPUPDATEFIELD.
_ECREATE = Struct("<8sIQ44x")
_EADD = Struct("<8sQQ40x")
_EEXTEND = Struct("<8sQ48x")
ECREATE_TAG, EADD_TAG, EEXTEND_TAG = b"ECREATE\0", b"EADD\0\0\0\0", b"EEXTEND\0"

_EXTENDS = _EEXTEND.pack(EEXTEND_TAG, 0)

Buffer = bytes | bytearray | memoryview
if TYPE_CHECKING:
    Hashing = Callable[[bytes], Any]


def measured_flags(secinfo_flags: int) -> int:
    """SECINFO.FLAGS as EADD measures them: of a TCS, R, W and X are cleared before.

    SDM, EADD, "Operation": "For TCS pages, force EPCM.rwx bits to 0". The instruction also clears
    FLAGS.DBGOPTIN, CSSA, AEP and STAGE in the page, before any EEXTEND; that is the caller's part.
    """
    if secinfo_flags & SECINFO_PT_MASK == SECINFO_TCS:
        return secinfo_flags & ~SECINFO_RWX_MASK
    return secinfo_flags


class _Batch:
    """Room for the records of 64 measured pages, page number p in slot p % 64."""

    def __init__(self) -> None:
        page = bytearray(_EADD.pack(EADD_TAG, 0, 0))
        for chunk in range(CHUNKS):
            page += _EEXTEND.pack(EEXTEND_TAG, chunk * CHUNK_SIZE) + bytes(CHUNK_SIZE)
        self._records = bytearray(page * BATCH_PAGES)
        self._view = memoryview(self._records)
        # Byte k of each slot's offset (chunk 0), so that equal bytes are not written again.
        self._columns = [bytearray(BATCH_PAGES) for _ in range(8)]
        self._flags = 0
        self._fields = [8, *(RECORD + _STEP * chunk + 8 for chunk in range(CHUNKS))]
        # In an EEXTEND record the low half of byte 1 is the number of the chunk.
        self._with_chunk = [bytes(b | c for b in range(256)) for c in range(CHUNKS)]
        self._scatter = Scatter(self._records, BATCH_PAGES)

    def fill(self, fd: int, file_offset: int, offset_bytes: int, n: int, flags: int) -> memoryview:
        """The records of ``n`` pages that do not cross a multiple of 64 pages."""
        slot = offset_bytes // PAGE_SIZE % BATCH_PAGES
        self._set_offsets(slot, offset_bytes, n)
        if flags != self._flags:
            self._set_flags(flags)
        done = self._scatter.read(fd, file_offset, slot, n)
        if done != n * PAGE_SIZE:
            raise _short(n, file_offset, done)
        return self._view[slot * PAGE_RECORDS : (slot + n) * PAGE_RECORDS]

    def _set_offsets(self, slot: int, offset_bytes: int, n: int) -> None:
        # As a bytearray, since an extended slice of one takes nothing else without a copy.
        offsets = bytearray(
            array("Q", range(offset_bytes, offset_bytes + n * PAGE_SIZE, PAGE_SIZE))
        )
        records = self._records
        start, end = slot * PAGE_RECORDS, (slot + n) * PAGE_RECORDS
        for k, column in enumerate(self._columns):
            new = offsets[k::8]
            if column.startswith(new, slot):
                continue
            column[slot : slot + n] = new
            if n == 1:
                self._set_offset_byte(start, k, new[0])
                continue
            for chunk, at in enumerate(self._fields, -1):
                if k == 1 and chunk > 0:
                    records[start + at + 1 : end : PAGE_RECORDS] = new.translate(
                        self._with_chunk[chunk]
                    )
                else:
                    records[start + at + k : end : PAGE_RECORDS] = new

    def _set_offset_byte(self, start: int, k: int, byte: int) -> None:
        records = self._records
        start += k
        for at in self._fields:
            records[start + at] = byte
        if k == 1:
            for chunk in range(1, CHUNKS):
                records[start + self._fields[1 + chunk]] = byte | chunk

    def _set_flags(self, flags: int) -> None:
        for k, byte in enumerate(flags.to_bytes(8, "little")):
            self._records[16 + k :: PAGE_RECORDS] = bytes((byte,)) * BATCH_PAGES
        self._flags = flags


# What nobody measures with any more: half a megabyte each, which no enclave keeps after EINIT.
_spare: list[_Batch] = []
_MOST_SPARE = 2


def _usual() -> Hashing:
    """SHA-256, the quickest that is to be had here."""
    global _found  # noqa: PLW0603 - looked for once a process
    if _found is None:
        for hashing in (OwnSha256, Sha256):
            try:
                hashing()
            except LookupError:
                continue
            _found = hashing
            return _found
        from hashlib import sha256  # late, since its library takes 2.5 ms

        _found = sha256
    return _found


_found: Hashing | None = None


class Measurement:
    """The running MRENCLAVE of one enclave. Offsets are bytes from the enclave's base."""

    def __init__(self, hashing: Hashing | None = None) -> None:
        """``hashing``: makes what takes the records (``update``) and gives the ``digest``."""
        self._hashing = hashing or _usual()
        self._hash = self._hashing(b"")
        self._batch: _Batch | None = None
        self._pages_read = bytearray()
        self._scratch = -1

    def ecreate(self, ssa_frame_pages: int, size_bytes: int) -> None:
        """Start: SECS.SSAFRAMESIZE (in pages) and SECS.SIZE."""
        self._hash = self._hashing(_ECREATE.pack(ECREATE_TAG, ssa_frame_pages, size_bytes))

    def eadd(self, offset_bytes: int, secinfo_flags: int) -> None:
        """One page is added; its contents are not measured by this."""
        self._hash.update(_EADD.pack(EADD_TAG, offset_bytes, measured_flags(secinfo_flags)))

    def eextend(self, offset_bytes: int, data: Buffer) -> None:
        """Measure the 256 bytes at an offset that is a multiple of 256."""
        if len(data) != CHUNK_SIZE or offset_bytes % CHUNK_SIZE:
            raise InternalError(f"EEXTEND of {len(data)} bytes at {offset_bytes:#x}")
        self._hash.update(_EEXTEND.pack(EEXTEND_TAG, offset_bytes))
        self._hash.update(data)

    def add_page_masked(self, offset_bytes: int, flags: int, data: Buffer, mrmask: int) -> None:
        """EADD of one page, then EEXTEND of each chunk i of 256 bytes for which bit i is set.

        This is what ADD_PAGE of the v20 interface asks for; ``data`` is the page (4096 bytes).
        """
        records = [_EADD.pack(EADD_TAG, offset_bytes, measured_flags(flags))]
        view = memoryview(data)
        for at in range(0, PAGE_SIZE, CHUNK_SIZE):
            if mrmask >> at // CHUNK_SIZE & 1:
                records.append(_EEXTEND.pack(EEXTEND_TAG, offset_bytes + at))
                records.append(bytes(view[at : at + CHUNK_SIZE]))
        self._hash.update(b"".join(records))

    def add_pages(self, offset_bytes: int, flags: int, data: Buffer, measured: bool = True) -> None:
        """EADD, and EEXTEND if ``measured``, of the pages in ``data`` (whole pages)."""
        n_pages, rest = divmod(len(data), PAGE_SIZE)
        if rest:
            raise InternalError(f"EADD of {len(data)} bytes, which is no number of pages")
        if not measured:
            self.add_pages_unmeasured(offset_bytes, flags, n_pages)
            return
        view = memoryview(data)
        if isinstance(self._hash, Sha256):
            self._pages(self._hash, view, 0, offset_bytes, n_pages, flags)
            return
        # The way into the template is preadv, so the bytes pass through a small file of ours.
        if self._scratch < 0:
            import weakref

            self._scratch = os.memfd_create("softsgx-measure", os.MFD_CLOEXEC)
            weakref.finalize(self, os.close, self._scratch)
        at = 0
        for first, n in _batches(offset_bytes, n_pages):
            size = n * PAGE_SIZE
            if os.pwrite(self._scratch, view[at : at + size], 0) != size:
                raise InternalError("short write to a memfd")
            self._measure(self._scratch, 0, first, n, flags)
            at += size

    def add_pages_unmeasured(self, offset_bytes: int, flags: int, n_pages: int) -> None:
        """EADD of ``n_pages`` pages whose contents are not measured."""
        flags = measured_flags(flags)
        pack = _EADD.pack
        end = offset_bytes + n_pages * PAGE_SIZE
        step = 1024 * PAGE_SIZE
        for first in range(offset_bytes, end, step):
            run = range(first, min(first + step, end), PAGE_SIZE)
            self._hash.update(b"".join([pack(EADD_TAG, at, flags) for at in run]))

    def add_pages_from_fd(
        self,
        fd: int,
        file_offset: int,
        offset_bytes: int,
        n_pages: int,
        flags: int,
        measured: bool = True,
        view: memoryview | None = None,
    ) -> None:
        """The same for pages that are read from an open file (a memfd) at ``file_offset``.

        view: a mapping of the whole file, which has to be there still; hashed as it lies there.
        OSError if the file cannot be read, InternalError if it is too short.
        """
        if not measured:
            self.add_pages_unmeasured(offset_bytes, flags, n_pages)
            return
        shift = file_offset - offset_bytes
        if view is not None and n_pages >= BATCH_PAGES and not shift and self.follows:
            end = offset_bytes + n_pages * PAGE_SIZE
            if not offset_bytes % PAGE_SIZE and end <= len(view):
                self.follow(fd, Followed(offset_bytes, end), flags, view)
                return
        for first, n in _batches(offset_bytes, n_pages):
            if isinstance(self._hash, Sha256):
                view = self._read(fd, first + shift, n)
                self._pages(self._hash, view, 0, first, n, flags)
            else:
                self._measure(fd, first + shift, first, n, flags)

    @property
    def follows(self) -> bool:
        """Whether there is compiled code for `follow`."""
        return isinstance(self._hash, Sha256)

    def here(self, offset_bytes: int, flags: int) -> Followed | None:
        """The same by whoever has the pages come; None where there is no compiled code for it."""
        digest = self._hash
        if not isinstance(digest, OwnSha256):
            return None
        eadd = _EADD.pack(EADD_TAG, 0, measured_flags(flags))
        return Followed(offset_bytes, here=digest.here(eadd, _EXTENDS))

    def follow(self, fd: int, followed: Followed, flags: int, view: memoryview) -> None:
        """The same of measured pages at the same offsets, as they come, until no more do.

        view: a mapping of the whole file. Where there is compiled code for it alone.
        """
        digest = self._hash
        assert isinstance(digest, Sha256)
        digest.follow(view, fd, followed, _EADD.pack(EADD_TAG, 0, measured_flags(flags)), _EXTENDS)

    def _read(self, fd: int, file_offset: int, n_pages: int) -> memoryview:
        """Pages of a file, in memory that the next ones are read into as well."""
        size = n_pages * PAGE_SIZE
        if len(self._pages_read) < size:
            self._pages_read = bytearray(size)
        view = memoryview(self._pages_read)[:size]
        done = os.preadv(fd, [view], file_offset)
        if done != size:
            raise _short(n_pages, file_offset, done)
        return view

    @staticmethod
    def _pages(
        digest: Sha256, view: memoryview, at: int, offset_bytes: int, n_pages: int, flags: int
    ) -> None:
        if offset_bytes % PAGE_SIZE:
            raise InternalError(f"EADD at {offset_bytes:#x}, which is not the start of a page")
        eadd = _EADD.pack(EADD_TAG, 0, measured_flags(flags))
        digest.pages(view, at, n_pages, offset_bytes, eadd, _EXTENDS)

    def digest(self) -> bytes:
        """MRENCLAVE (32 bytes) of what has been measured so far; measuring may go on."""
        digest: bytes = self._hash.digest()
        batch, self._batch, self._pages_read = self._batch, None, bytearray()
        if batch is not None and len(_spare) < _MOST_SPARE:
            _spare.append(batch)
        return digest

    def _measure(self, fd: int, file_offset: int, offset_bytes: int, n: int, flags: int) -> None:
        if self._batch is None:
            try:
                self._batch = _spare.pop()
            except IndexError:
                self._batch = _Batch()
        self._hash.update(self._batch.fill(fd, file_offset, offset_bytes, n, measured_flags(flags)))


def _short(n_pages: int, file_offset: int, done: int) -> InternalError:
    return InternalError(f"measured {n_pages} pages at {file_offset:#x}, file has {done} bytes")


def _batches(offset_bytes: int, n_pages: int) -> Iterable[tuple[int, int]]:
    """Split a run of pages at the multiples of 64 pages: (offset in bytes, number of pages)."""
    if offset_bytes % PAGE_SIZE:
        raise InternalError(f"EADD at {offset_bytes:#x}, which is not the start of a page")
    page, end = offset_bytes // PAGE_SIZE, offset_bytes // PAGE_SIZE + n_pages
    while page < end:
        n = min(BATCH_PAGES - page % BATCH_PAGES, end - page)
        yield page * PAGE_SIZE, n
        page += n
