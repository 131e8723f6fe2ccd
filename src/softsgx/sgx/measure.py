"""MRENCLAVE: SHA-256 over the records of ECREATE, EADD and EEXTEND.

A measured page is one EADD record of 64 bytes and sixteen times an EEXTEND record of 64 bytes with
256 bytes of the page: 5,184 bytes of SHA-256. Raw SHA-256 is the limit, so the work beside it has
to be small: a template of 64 pages of records is kept; a batch changes only those bytes of the
offsets that differ from the last batch, one strided assignment for all pages at once; the pages'
contents are scattered into the template (module scatter); and one update hashes it all, without
the GIL. Rejected: ``struct.pack`` per page (half the speed), numpy (160 ms of start-up).

:class:`LateMeasurement` does the same in the background, since only EINIT wants the result.
It reads files that it is handed and opens nothing that has a name.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from hashlib import sha256
from struct import Struct

from softsgx.errors import InternalError
from softsgx.sdm.leaves import PAGE_SIZE, SECINFO_PT_MASK, SECINFO_RWX_MASK, SECINFO_TCS
from softsgx.sgx.scatter import CHUNK_SIZE, CHUNKS, PAGE_RECORDS, RECORD, Scatter, Sha256

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["LateMeasurement", "Measurement", "measured_flags"]

# preadv takes at most IOV_MAX = 1024 pieces, which is 64 pages; they also fit a second-level cache.
_BATCH_PAGES = 1024 // CHUNKS
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
        self._records = bytearray(page * _BATCH_PAGES)
        self._view = memoryview(self._records)
        # Byte k of each slot's offset (chunk 0), so that equal bytes are not written again.
        self._columns = [bytearray(_BATCH_PAGES) for _ in range(8)]
        self._flags = 0
        self._fields = [8, *(RECORD + _STEP * chunk + 8 for chunk in range(CHUNKS))]
        # In an EEXTEND record the low half of byte 1 is the number of the chunk.
        self._with_chunk = [bytes(b | c for b in range(256)) for c in range(CHUNKS)]
        self._scatter = Scatter(self._records, _BATCH_PAGES)

    def fill(self, fd: int, file_offset: int, offset_bytes: int, n: int, flags: int) -> memoryview:
        """The records of ``n`` pages that do not cross a multiple of 64 pages."""
        slot = offset_bytes // PAGE_SIZE % _BATCH_PAGES
        self._set_offsets(slot, offset_bytes, n)
        if flags != self._flags:
            self._set_flags(flags)
        done = self._scatter.read(fd, file_offset, slot, n)
        if done != n * PAGE_SIZE:
            raise InternalError(f"measured {n} pages at {file_offset:#x}, file has {done} bytes")
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
            self._records[16 + k :: PAGE_RECORDS] = bytes((byte,)) * _BATCH_PAGES
        self._flags = flags


# What nobody measures with any more: half a megabyte each, which no enclave keeps after EINIT.
_spare: list[_Batch] = []
_MOST_SPARE = 2


def _usual() -> Hashing:
    """SHA-256, the one that compiled code can use where that is to be had."""
    global _found  # noqa: PLW0603 - looked for once a process
    if _found is None:
        try:
            Sha256()
            _found = Sha256
        except LookupError:
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
        self.eadd(offset_bytes, flags)
        view = memoryview(data)
        for at in range(0, PAGE_SIZE, CHUNK_SIZE):
            if mrmask >> at // CHUNK_SIZE & 1:
                self.eextend(offset_bytes + at, view[at : at + CHUNK_SIZE])

    def add_pages(self, offset_bytes: int, flags: int, data: Buffer, measured: bool = True) -> None:
        """EADD, and EEXTEND if ``measured``, of the pages in ``data`` (whole pages)."""
        n_pages, rest = divmod(len(data), PAGE_SIZE)
        if rest:
            raise InternalError(f"EADD of {len(data)} bytes, which is no number of pages")
        if not measured:
            self.add_pages_unmeasured(offset_bytes, flags, n_pages)
            return
        # The way into the template is preadv, so the bytes pass through a small file of ours.
        if self._scratch < 0:
            import weakref

            self._scratch = os.memfd_create("softsgx-measure", os.MFD_CLOEXEC)
            weakref.finalize(self, os.close, self._scratch)
        view = memoryview(data)
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
        if (
            view is not None
            and n_pages >= _BATCH_PAGES
            and isinstance(self._hash, Sha256)
            and _is_there(fd, view, file_offset, n_pages * PAGE_SIZE)
        ):
            eadd = _EADD.pack(EADD_TAG, 0, measured_flags(flags))
            self._hash.pages(view, file_offset, n_pages, offset_bytes, eadd, _EXTENDS)
            return
        for first, n in _batches(offset_bytes, n_pages):
            self._measure(fd, first + shift, first, n, flags)

    def digest(self) -> bytes:
        """MRENCLAVE (32 bytes) of what has been measured so far; measuring may go on."""
        digest: bytes = self._hash.digest()
        batch, self._batch = self._batch, None
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


def _is_there(fd: int, view: memoryview, start: int, length: int) -> bool:
    """Whether a range of a file has no hole, which a look at its mapping would fill."""
    end = start + length
    return end <= len(view) and os.lseek(fd, start, os.SEEK_HOLE) >= end


def _batches(offset_bytes: int, n_pages: int) -> Iterable[tuple[int, int]]:
    """Split a run of pages at the multiples of 64 pages: (offset in bytes, number of pages)."""
    if offset_bytes % PAGE_SIZE:
        raise InternalError(f"EADD at {offset_bytes:#x}, which is not the start of a page")
    page, end = offset_bytes // PAGE_SIZE, offset_bytes // PAGE_SIZE + n_pages
    while page < end:
        n = min(_BATCH_PAGES - page % _BATCH_PAGES, end - page)
        yield page * PAGE_SIZE, n
        page += n


class _Job:
    """One call that waits its turn, and how many pages and bytes of copies it stands for."""

    __slots__ = ("args", "kept_bytes", "method", "n_pages")

    def __init__(self, method: str, args: list[Any], n_pages: int, kept_bytes: int) -> None:
        self.method = method
        self.args = args
        self.n_pages = n_pages
        self.kept_bytes = kept_bytes


class LateMeasurement:
    """A :class:`Measurement` that hashes in a thread of its own, beside the copying.

    What is measured has to be what was added. ``add_pages`` therefore copies the bytes that it is
    given. ``add_pages_from_fd`` only notes the range, and reads it later: nobody may write there
    before :meth:`digest`, which holds for an enclave's memfd as long as no mapping of it is
    writable before EINIT (on hardware, such a write would be dropped).

    Jobs are hashed in the order of the calls. Neighbouring ranges with the same flags become one,
    and the thread is woken only for 64 pages or more: a loader that adds page by page costs no
    switch of threads for each, and a small enclave costs no thread at all. It ends with the digest.
    ``cpus`` are the CPUs that the thread may use; a new thread has its maker's, which a tracer has
    narrowed to one.

    What goes wrong in the thread is raised by :meth:`digest`. Not for use on both sides of a fork.
    """

    def __init__(self, cpus: Iterable[int] | None = None, max_kept_bytes: int = 64 << 20) -> None:
        self._measurement = Measurement()
        self._cpus = None if cpus is None else set(cpus)
        self._max_kept_bytes = max_kept_bytes
        self._jobs: deque[_Job] = deque()
        self._pages = 0
        self._kept_bytes = 0
        self._busy = False
        self._flush = False
        self._closed = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    def ecreate(self, ssa_frame_pages: int, size_bytes: int) -> None:
        """Start: SECS.SSAFRAMESIZE (in pages) and SECS.SIZE."""
        self._put(_Job("ecreate", [ssa_frame_pages, size_bytes], 0, 0))

    def add_page_masked(self, offset_bytes: int, flags: int, data: Buffer, mrmask: int) -> None:
        """:meth:`Measurement.add_page_masked`; ``data`` is copied."""
        args = [offset_bytes, flags, bytes(data), mrmask]
        self._put(_Job("add_page_masked", args, 1, PAGE_SIZE))

    def add_pages(self, offset_bytes: int, flags: int, data: Buffer, measured: bool = True) -> None:
        """:meth:`Measurement.add_pages`; ``data`` is copied. Waits if too many copies are kept."""
        n_pages = len(data) // PAGE_SIZE
        if not measured:
            self.add_pages_unmeasured(offset_bytes, flags, n_pages)
            return
        self._put(_Job("add_pages", [offset_bytes, flags, bytes(data)], n_pages, len(data)))

    def add_pages_unmeasured(self, offset_bytes: int, flags: int, n_pages: int) -> None:
        """:meth:`Measurement.add_pages_unmeasured`."""
        self._put(_Job("add_pages_unmeasured", [offset_bytes, flags, n_pages], n_pages, 0))

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
        """:meth:`Measurement.add_pages_from_fd`; the range is read later and has to stay as it is.

        ``fd`` has to stay open until :meth:`digest` or :meth:`close`, and so does ``view``.
        """
        if not measured:
            self.add_pages_unmeasured(offset_bytes, flags, n_pages)
            return
        args = [fd, file_offset, offset_bytes, n_pages, flags, measured, view]
        self._put(_Job("add_pages_from_fd", args, n_pages, 0))

    def digest(self) -> bytes:
        """MRENCLAVE (32 bytes) after every call so far; waits for the thread."""
        with self._changed:
            if self._thread is None:
                while self._jobs and self._failure is None:
                    self._run(self._take())
            else:
                self._flush = True
                self._changed.notify_all()
                while self._thread is not None and self._failure is None:
                    self._changed.wait()
                self._flush = False
            if self._failure is not None:
                raise self._failure
            return self._measurement.digest()

    def close(self) -> None:
        """Drop what is not hashed yet and end the thread; more than once does no harm."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _put(self, job: _Job) -> None:
        with self._changed:
            if self._failure is not None or self._closed:
                return
            self._pages += job.n_pages
            self._kept_bytes += job.kept_bytes
            if not (self._jobs and _joined(self._jobs[-1], job)):
                self._jobs.append(job)
            if self._pages < _BATCH_PAGES:
                return
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="softsgx-measure", daemon=True
                )
                self._thread.start()
            if not self._busy:
                self._changed.notify_all()
            while self._kept_bytes > self._max_kept_bytes and self._failure is None:
                self._changed.wait()

    def _take(self) -> _Job:
        job = self._jobs.popleft()
        self._pages -= job.n_pages
        return job

    def _run(self, job: _Job) -> None:
        try:
            getattr(self._measurement, job.method)(*job.args)
        except BaseException as failure:
            self._failure = failure

    def _work(self) -> None:
        if self._cpus is not None:
            os.sched_setaffinity(0, self._cpus)
        while True:
            with self._changed:
                while not self._closed and not (
                    self._jobs and (self._flush or self._pages >= _BATCH_PAGES)
                ):
                    if self._flush:  # nothing more is to come: mostly EINIT has asked
                        self._thread = None
                        self._changed.notify_all()
                        return
                    self._changed.wait()
                if self._closed:
                    return
                job = self._take()
                self._busy = True
            self._run(job)
            with self._changed:
                self._busy = False
                self._kept_bytes -= job.kept_bytes
                if self._failure is not None:
                    self._jobs.clear()
                self._changed.notify_all()
                if self._failure is not None:
                    return


def _joined(last: _Job, new: _Job) -> bool:
    """Whether ``new`` goes right on where ``last`` ends, and has been made part of it."""
    if last.method != new.method:
        return False
    if last.method == "add_pages_from_fd":
        fd, file_offset, offset_bytes, n_pages = last.args[:4]
        size = n_pages * PAGE_SIZE
        if new.args[:3] != [fd, file_offset + size, offset_bytes + size]:
            return False
        if new.args[4] != last.args[4]:
            return False
        last.args[3] += new.n_pages
    elif last.method == "add_pages_unmeasured":
        offset_bytes, flags, n_pages = last.args
        if new.args[:2] != [offset_bytes + n_pages * PAGE_SIZE, flags]:
            return False
        last.args[2] += new.n_pages
    else:
        return False
    last.n_pages += new.n_pages
    return True
