"""ADD_PAGES of a page, or of so many, again and again: from the third on by compiled code, and
after many pages by the process itself.

What the law says of the next pages is asked here (`softsgx.device.foreseen`), and what it read is
handed to the code, which compares it at each stop (``host/series.c``). What it took is told to the
device before anything else that happened is looked at.
"""

from __future__ import annotations

import os
from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.device.foreseen import Foreseen, foresee
from softsgx.host import bpf, series
from softsgx.host.adds import Shared, load
from softsgx.mm.vma import TASK_SIZE
from softsgx.sdm.leaves import PAGE_SIZE
from softsgx.sdm.structs import SECINFO
from softsgx.supervisor.calls import adds
from softsgx.supervisor.effects import newmapping
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.patched import ranges
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import places
from softsgx.supervisor.stopped.ahead import Ahead, possible
from softsgx.supervisor.stopped.filters import hold_range, is_watched, may_hold
from softsgx.supervisor.stopped.remote import calls, cancel
from softsgx.uapi import sgx as uapi
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RDI, RIP

__all__ = ["Series", "added"]

_LOW, _U64 = 0xFFFFFFFF, (1 << 64) - 1
# Bytes foreseen, and calls where that is more. So much is hashed later than it could be, but to
# tell of it costs time.
_FIRST, _MOST = 8 * PAGE_SIZE, 1 << 20
_MOST_CALLS = 4
_MOST_AT_ONCE = 64  # where they are hashed as they come, or not at all


def added(run: Run, tracee: Tracee, process: HostProcess, file: EnclaveFile) -> bool:
    """An ADD_PAGES was answered 0; its thread still stands there, with its registers loaded.

    Returns whether it has been brought to the exit of its call.
    """
    params, run.device.added = run.device.added, None
    if params is None or params.count != params.length:
        return False
    if run.series is None:
        run.series = Series(run)
    series: Series = run.series
    step = series.follows(tracee, file, params)
    if step is None:
        return False
    at_exit = series.prepare(tracee, process, params.src + step)
    series.expect(tracee, process, file, params, step)
    return at_exit


class Series(Ahead):
    """Pages that are expected. cpus: where we may run when the thread does not share our place."""

    _found: Foreseen | None

    def __init__(self, run: Run) -> None:
        super().__init__(run, series, _FIRST)
        self._alike = 0
        self._shared: Shared | None = None
        self._with: tuple[Any, ...] = ()
        self._fds = -1
        self._no_heap: tuple[Any, ...] = ()
        self._params: Any = None
        self.cpus: set[int] = set()

    def follows(self, tracee: Tracee, file: EnclaveFile, params: Any) -> int | None:
        """A page was added: how far apart sources are, if it follows the last one and more are to
        be expected.
        """
        if self._block is None:
            return None
        last, before = self._last, self._params
        self._last, self._params = (tracee, file, params.offset), params
        alike = before is not None and (before.flags, before.length) == (
            params.flags,
            params.length,
        )
        if not alike or last != (tracee, file, params.offset - params.length):
            self._most, self._alike = _FIRST, 0
            return None
        if self._skipped():
            return None
        thread = tracee.thread
        inside = thread is not None and thread.tcs is not None
        if inside or not possible(self._run, series):
            return None
        step = int(params.src - before.src)
        # Sources of pages that only follow each other may lie anywhere.
        return step if 0 <= params.src + step <= TASK_SIZE - params.length else None

    def _stops(self, process: HostProcess, source: Any) -> bool:
        """Whether what puts another mapping in a source's place stops."""
        if not is_watched(process.space, source.start, source.end):
            return False
        heap = newmapping.may_be_heap(process, source.start, source.end)
        return not heap or self._no_heap == (process, source.start, source.end)

    def _is_held(self, process: HostProcess, source: Any) -> bool:
        """Whether another mapping in a source's place is seen.

        It is compared at each page. But another thread may run between that and the copying; and
        mappings of a file are alike though one is of a noexec mount. So they have to stop.
        """
        if source.anonymous and len(process.space.tracees) < 2:
            return True
        return self._stops(process, source)

    def prepare(self, tracee: Tracee, process: HostProcess, src: int) -> bool:
        """Before more is expected, from there on: whether the thread is at its call's exit now.

        Events of others may be dealt with here, so nothing is asked of the law before.
        """
        run, space = self._run, tracee.space
        source = process.memory.source(src)
        alone = self._may_alone()
        seen = self._stops(process, source)
        hold = (alone or not self._is_held(process, source)) and not seen and may_hold(space)
        bind = places.to_bind(process)
        make = alone and (seen or hold) and not adds.is_ready(tracee, run.view[RDI] & _LOW)
        if not hold and not bind and not make:
            return False
        cancel(run, tracee)
        with calls(run, tracee) as call:
            if hold:
                hold_range(call, source.start, source.end)
                newmapping.over_heap(process, call, source.start, source.end)
                self._no_heap = process, source.start, source.end
            if bind:
                places.bind(call, process)
            if make:
                adds.prepare(run, tracee, call)
        return True

    def _may_alone(self) -> bool:
        """Whether the process may add pages itself, and that is worth while."""
        tracee, length = self._last[0], self._params.length
        much = self._alike >= adds.WORTH or self._alike * length >= adds.WORTH_BYTES
        return much and adds.wanted(self._run, tracee, length)

    def expect(
        self, tracee: Tracee, process: HostProcess, file: EnclaveFile, params: Any, step: int
    ) -> None:
        """More pages are expected, if nothing of the kind has come since it was said so."""
        if self._params is params and self._run.ahead is not self:
            self._expect(tracee, process, file, step)

    def _expect(self, tracee: Tracee, process: HostProcess, file: EnclaveFile, step: int) -> None:
        block, params = self._block, self._params
        memory: Any = process.memory
        pages: Any = file.enclave.memory
        copier = pages.copier()
        assert block is not None
        secinfo = tracee.read(params.secinfo, SECINFO.size)
        source = memory.source(params.src + step)
        asked = memory.asked()
        if asked is None or source.shared or len(secinfo) != SECINFO.size:
            return
        if not self._is_held(process, source):
            return
        if any(
            isinstance(v.file, EnclaveFile)
            for v in process.mm.overlapping(source.start, source.end)
        ):
            return
        if copier is None or not block.patch(ranges(tracee.space)):
            return
        self._with = process, file, secinfo, source
        found = self._foresee()
        if found is None:
            return
        view = self._run.view
        fd = view[RDI] & _LOW
        try:
            fds = os.open(f"/proc/{tracee.tid}/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            at = os.stat(str(fd), dir_fd=fds)
        except OSError:
            return
        self._fds = fds
        if self._run.files.get((at.st_dev, at.st_ino)) is not file:
            self._end(missed=True)
            return
        maps, answer = asked
        block.expect(secinfo, answer)
        for name, value in (
            ("tid", tracee.tid), ("call", nr.NR_ioctl), ("rip", view[RIP]), ("arch", bpf.X86_64),
            ("cmd", uapi.SGX_IOC_ENCLAVE_ADD_PAGES), ("fd", fd), ("fds", fds),
            ("device", at.st_dev), ("inode", at.st_ino), ("page_flags", params.flags),
            ("length", params.length), ("copier", copier.address),
            ("next", found.offset), ("secinfo", params.secinfo), ("maps", maps),
            ("source", params.src + step), ("step", step & _U64),
            ("memory", pages.fd), ("most", found.calls),
        ):  # fmt: skip
            block[name] = value
        slot = tracee.slot
        block["slot"] = slot.table.tables.address + slot.at * 8 if slot is not None else 0
        block["cpu"], self.cpus = 0, os.sched_getaffinity(0)
        self._follow(file, copier, found)
        self._share(tracee, process, secinfo, source, fd)
        self._begin()

    def _follow(self, file: EnclaveFile, copier: Any, found: Foreseen) -> None:
        """Who measures is to hear of what comes from the code that copies it."""
        block, pages = self._block, file.enclave.memory
        assert block is not None
        follow = 0
        if found.measure and found.length > PAGE_SIZE:
            measurement: Any = file.enclave.measurement
            follow = measurement.follow(pages.fd, found.offset, found.flags, pages.view)
        block["follow"] = follow
        copier.beside(found.measure and len(self.cpus) > 1, follow)

    def _share(
        self, tracee: Tracee, process: HostProcess, secinfo: bytes, source: Any, fd: int
    ) -> None:
        """Let the process add the pages itself, if it may."""
        block, found, params, space = self._block, self._found, self._params, tracee.space
        assert block is not None
        assert found is not None
        block["shared"] = block["armed"] = 0
        self._shared = None
        if not adds.wanted(self._run, tracee, params.length):
            return
        start, end = source.start, source.end
        patched = any(a < end and start < b for a, b in ranges(space))
        shared = adds.shared(self._run, tracee)
        if shared is None or patched or end - start < params.length:
            return
        if not self._stops(process, source):
            return
        self._shared = shared
        pages = params.length // PAGE_SIZE
        shared.expect(fd, params.flags, (start, end), found.offset, params.length, secinfo)
        block["shared"] = shared.address
        block["armed"] = armed = min(found.calls - 1, load().most // pages) * pages
        shared.open(armed)

    def _foresee(self) -> Foreseen | None:
        process, file, secinfo, source = self._with
        params = self._params
        n = max(self._most // params.length, 1)
        self._found = foresee(self._run.device, process, file, params, secinfo, source, n)
        return self._found

    def wait(self) -> tuple[int, int]:
        """The next event that is no page of the series, as `waits.wait_any` tells it."""
        assert self._block is not None
        self._block["together"] = int(len(self.cpus) > 1 and self._with[0].bound)
        return super().wait()

    def _poll_ns(self) -> int:
        assert self._block is not None
        return 0 if self._block["together"] else super()._poll_ns()

    def _came(self, n: int) -> bool:
        """The code has taken ``n`` pages: whether something else has happened."""
        block, found = self._block, self._found
        assert block is not None
        assert found is not None
        self._took(n)
        if found.calls:
            return True
        if self._may_alone() and not adds.is_ready(self._last[0], block["fd"]):
            return True  # the next one stops for it
        self._most = min(max(self._most, found.length) * 2, self._at_most(found))
        more = self._foresee()
        if more is not None:
            block["next"], block["most"] = more.offset, more.calls
        return False

    def _at_most(self, found: Foreseen) -> int:
        assert self._block is not None
        at_once = self._block["follow"] or not found.measure
        return max(_MOST, (_MOST_AT_ONCE if at_once else _MOST_CALLS) * found.length)

    def _took(self, n: int) -> None:
        """``n`` pages have come."""
        block, found, params = self._block, self._found, self._params
        assert block is not None
        assert found is not None
        if block["lost"]:
            adds.lost(self._last[0])
        if not n:
            return
        found.came(n)
        self._taken += n
        self._alike += n
        params.offset = found.offset - found.length
        params.src = block["source"] - block["step"] & _U64
        self._last = (*self._last[:2], params.offset)

    def _end(self, *, missed: bool) -> None:
        block = self._block
        if self._shared is not None and block is not None and block["armed"]:
            block["most"] = 0  # what the process has added, and no more
            block.run()
            self._took(block["done"])
        self._shared = None
        super()._end(missed=missed)
        if block is not None and block["follow"]:
            measurement: Any = self._with[1].enclave.measurement
            measurement.unfollow()
            block["follow"] = 0
            self._with[1].enclave.memory.copier().beside(len(self.cpus) > 1)
        self._with = ()
        os.close(self._fds)
        if self._block is not None and self._block["cpu"]:
            os.sched_setaffinity(0, self.cpus)
