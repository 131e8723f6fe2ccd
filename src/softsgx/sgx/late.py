"""MRENCLAVE in the background, since only EINIT wants the result.

Rejected: a thread for each enclave from ECREATE on, since most are small and many may be there.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable

from softsgx.errors import InternalError
from softsgx.sdm.leaves import PAGE_SIZE
from softsgx.sgx.measure import BATCH_PAGES, Buffer, Measurement
from softsgx.sgx.scatter import Followed

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["LateMeasurement"]


class _Job:
    """One call that waits its turn, and how many pages and bytes of copies it stands for."""

    __slots__ = ("args", "kept_bytes", "method", "n_pages")

    def __init__(self, method: str, args: list[Any], n_pages: int, kept_bytes: int) -> None:
        self.method = method
        self.args = args
        self.n_pages = n_pages
        self.kept_bytes = kept_bytes


class LateMeasurement:
    """A `softsgx.sgx.measure.Measurement` that hashes in a thread of its own, beside the copying.

    What is measured has to be what was added. ``add_pages`` therefore copies the bytes that it is
    given. ``add_pages_from_fd`` only notes the range, and reads it later: nobody may write there
    before :meth:`digest`, which holds for an enclave's memfd as long as no mapping of it is
    writable before EINIT (on hardware, such a write would be dropped).

    Jobs are hashed in the order of the calls. Neighbouring ranges with the same flags become one,
    and the thread is woken only for 64 pages or more: a loader that adds page by page costs no
    switch of threads for each, and a small enclave costs no thread at all. It ends with the digest.
    Where there is but one CPU there is none: 64 pages are hashed when they are there.
    ``cpus`` are the CPUs that the thread may use; a new thread has its maker's, which a tracer has
    narrowed to one.

    What goes wrong in the thread is raised by :meth:`digest`. Not for use on both sides of a fork.
    """

    def __init__(self, cpus: Iterable[int] | None = None, max_kept_bytes: int = 64 << 20) -> None:
        self._measurement = Measurement()
        self._cpus = None if cpus is None else set(cpus)
        self._alone = self._cpus is not None and len(self._cpus) == 1
        self._max_kept_bytes = max_kept_bytes
        self._jobs: deque[_Job] = deque()
        self._pages = 0
        self._kept_bytes = 0
        self._job: _Job | None = None
        self._flush = False
        self._closed = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        # What comes and is measured meanwhile; fd and flags of it, and up to where it was added.
        self._followed: Followed | None = None
        self._expected: tuple[Any, ...] = ()

    def ecreate(self, ssa_frame_pages: int, size_bytes: int) -> None:
        """Start, before all else: SECS.SSAFRAMESIZE (in pages) and SECS.SIZE.

        What hashes is looked for here, so that the thread does not begin with it.
        """
        self._measurement.ecreate(ssa_frame_pages, size_bytes)

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
        if self._followed is not None:
            known_fd, known_flags, at = self._expected
            if measured and (known_fd, known_flags, at, at) == (
                fd, flags, file_offset, offset_bytes,
            ):  # fmt: skip
                self._expected = fd, flags, at + n_pages * PAGE_SIZE
                return
        if not measured:
            self.add_pages_unmeasured(offset_bytes, flags, n_pages)
            return
        args = [fd, file_offset, offset_bytes, n_pages, flags, measured, view]
        self._put(_Job("add_pages_from_fd", args, n_pages, 0))

    def follow(self, fd: int, offset_bytes: int, flags: int, view: memoryview) -> int:
        """Measured pages are about to come in a file, at the offset that they have in the enclave:
        they are measured meanwhile. view: a mapping of the whole file.

        The address of what compiled code tells where it is (``follow.h``); 0 where there is none.
        They are added by `add_pages_from_fd` as others are, before anything else is.
        """
        self.unfollow()
        if not self._measurement.follows:
            return 0
        followed = None
        with self._changed:
            if self._thread is None and (self._alone or not self._begin()):
                self._all()
                followed = self._measurement.here(offset_bytes, flags)
                if followed is None and not (self._alone and self._begin()):
                    return 0
        if followed is None:
            followed = Followed(offset_bytes)
            self._put(_Job("follow", [fd, followed, flags, view], BATCH_PAGES, 0))
        self._followed, self._expected = followed, (fd, flags, offset_bytes)
        return followed.address

    def unfollow(self) -> None:
        """No more come; all that did were added."""
        followed, self._followed = self._followed, None
        if followed is None:
            return
        end = self._expected[2]
        if followed.ready != end:
            told = f"{followed.ready:#x} came, {end:#x} were added"
            self._failure = self._failure or InternalError(told)
        followed.end(end)

    def digest(self) -> bytes:
        """MRENCLAVE (32 bytes) after every call so far; waits for the thread."""
        self.unfollow()
        with self._changed:
            if self._thread is None:
                self._all()
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
            for job in (*self._jobs, self._job):
                if job is not None and job.method == "follow":
                    job.args[1].end(0)
            self._jobs.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _put(self, job: _Job) -> None:
        self.unfollow()
        with self._changed:
            if self._failure is not None or self._closed:
                return
            self._pages += job.n_pages
            self._kept_bytes += job.kept_bytes
            if not (self._jobs and _joined(self._jobs[-1], job)):
                self._jobs.append(job)
            if self._pages < BATCH_PAGES:
                return
            if self._thread is None and (self._alone or not self._begin()):
                self._all()
                return
            if self._job is None:
                self._changed.notify_all()
            while self._kept_bytes > self._max_kept_bytes and self._failure is None:
                self._changed.wait()

    def _begin(self) -> bool:
        """Have the thread; where none can be made (``ulimit -u``) who adds has to hash, too."""
        thread = threading.Thread(target=self._work, name="softsgx-measure", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def _take(self) -> _Job:
        job = self._jobs.popleft()
        self._pages -= job.n_pages
        return job

    def _all(self) -> None:
        """What waits, by this thread: there is no other."""
        while self._jobs and self._failure is None:
            job = self._take()
            self._run(job)
            self._kept_bytes -= job.kept_bytes

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
                    self._jobs and (self._flush or self._pages >= BATCH_PAGES)
                ):
                    if self._flush:  # nothing more is to come: mostly EINIT has asked
                        self._thread = None
                        self._changed.notify_all()
                        return
                    self._changed.wait()
                if self._closed:
                    return
                self._job = job = self._take()
            self._run(job)
            with self._changed:
                self._job = None
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
