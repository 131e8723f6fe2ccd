"""ADD_PAGES of a page, or of so many, again and again: from the third on by compiled code.

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
from softsgx.host.filterprograms import number_program
from softsgx.sdm.leaves import PAGE_SIZE
from softsgx.sdm.structs import SECINFO
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.patched import ranges
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import waits
from softsgx.supervisor.stopped.filters import install
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
# What tells where a thread may run, and changes it.
_OF_PLACES = (nr.NR_sched_setaffinity, nr.NR_sched_getaffinity)
_WORTH = 4
_MOST_SKIPPED = 64


def added(run: Run, tracee: Tracee, process: HostProcess, file: EnclaveFile) -> bool:
    """An ADD_PAGES was answered 0; its thread still stands there, with its registers loaded.

    Returns whether it has been brought to the exit of its call.
    """
    params, run.device.added = run.device.added, None
    if params is None or params.count != params.length:
        return False
    if run.series is None:
        run.series = Series(run)
    run.series.added(tracee, process, file, params)
    if not run.series.armed or process.bound or len(run.series.cpus) < 2:
        return False
    # From now on the thread is bound for moments, which nobody is to see.
    cancel(run, tracee)
    with calls(run, tracee) as call:
        process.bound = not install(call, number_program(*_OF_PLACES))
    return True


def _possible(run: Run) -> bool:
    """Whether nobody wants to hear of each call."""
    options = run.options
    asked = (run.record, run.faults, run.lsm, run.debugger)
    usual = all(who is None for who in asked) and not options.verify and not options.abort_page
    return usual and not run.filtered and series.available()


class Series:
    """What is expected to go on. ``armed``: whether the next wait is `wait`. cpus: where we may run
    when the thread does not share our place.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._block = series.Block() if _possible(run) else None
        self._foreseen: Foreseen | None = None
        self._with: tuple[Any, ...] = ()
        self._fds = -1
        self._last: tuple[Any, ...] = ()
        self._params: Any = None
        self._most = _FIRST
        self._taken = self._skip = self._pause = 0
        self.armed = False
        self.cpus: set[int] = set()

    def added(self, tracee: Tracee, process: HostProcess, file: EnclaveFile, params: Any) -> None:
        """A page was added; if it follows the last one, more are expected."""
        if self._block is None:
            return
        last, before = self._last, self._params
        self._last, self._params = (tracee, file, params.offset), params
        alike = before is not None and (before.flags, before.length) == (
            params.flags,
            params.length,
        )
        if not alike or last != (tracee, file, params.offset - params.length):
            self._most = _FIRST
            return
        if self._skip:
            self._skip -= 1
            return
        thread = tracee.thread
        inside = tracee.slot is not None or (thread is not None and thread.tcs is not None)
        if not inside and _possible(self._run):
            self._expect(tracee, process, file, params.src - before.src)

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
            self._end()
            return
        maps, answer = asked
        block.expect(secinfo, answer)
        for name, value in (
            ("tid", tracee.tid), ("call", nr.NR_ioctl), ("rip", view[RIP]), ("arch", bpf.X86_64),
            ("cmd", uapi.SGX_IOC_ENCLAVE_ADD_PAGES), ("fd", fd), ("fds", fds),
            ("device", at.st_dev), ("inode", at.st_ino), ("page_flags", params.flags),
            ("length", params.length), ("copier", copier.address),
            ("next", found.offset), ("secinfo", params.secinfo), ("maps", maps),
            ("source", params.src + step & _U64), ("step", step & _U64),
            ("memory", pages.fd), ("most", found.calls),
        ):  # fmt: skip
            block[name] = value
        block["cpu"], self.cpus = 0, os.sched_getaffinity(0)
        self._taken = 0
        self.armed = True

    def _foresee(self) -> Foreseen | None:
        process, file, secinfo, source = self._with
        params = self._params
        n = max(self._most // params.length, 1)
        self._foreseen = foresee(self._run.device, process, file, params, secinfo, source, n)
        return self._foreseen

    def wait(self) -> tuple[int, int]:
        """The next event that is no page of the series, as `waits.wait_any` tells it."""
        block = self._block
        assert block is not None
        got = status = 0
        block["together"] = int(len(self.cpus) > 1 and self._with[0].bound)
        while not waits.kept and self._foreseen is not None:
            poll_ns = block["poll_ns"] = 0 if block["together"] else waits.poll_ns()
            block.run()
            waits.polled(block["done"], in_vain=poll_ns > 0 and not block["poll_ns"])
            got, status = block["got"], block["status"]
            if self._came(block["done"]):
                break
        self._end()
        return (got, status) if got else waits.wait_any()

    def _came(self, n: int) -> bool:
        """The code has taken ``n`` pages: whether something else has happened."""
        block, found, params = self._block, self._foreseen, self._params
        assert block is not None
        assert found is not None
        if n:
            found.came(n)
            self._taken += n
            params.offset = found.offset - found.length
            params.src = block["source"] - block["step"] & _U64
            self._last = (*self._last[:2], params.offset)
        if found.calls:
            return True
        self._most = min(self._most * 2, max(_MOST, _MOST_CALLS * found.length))
        more = self._foresee()
        if more is not None:
            block["next"], block["most"] = more.offset, more.calls
        return False

    def _end(self) -> None:
        self.armed, self._foreseen, self._with = False, None, ()
        os.close(self._fds)
        if self._block is not None and self._block["cpu"]:
            os.sched_setaffinity(0, self.cpus)
        self._pause = 0 if self._taken >= _WORTH else min(self._pause * 2 + 1, _MOST_SKIPPED)
        self._skip = self._pause
