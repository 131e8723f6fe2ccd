"""What the model says of mappings, carried out in the processes.

The real mapping of an enclave is always of its memfd at address − base. Its
protection is NONE until the enclave is initialized, and then, page by page,
what the design's rule `accessible` gives.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from softsgx.device.files import EnclaveFile
from softsgx.errors import InternalError
from softsgx.host import bpf, ptrace
from softsgx.host.signals import SIGTRAP
from softsgx.law.rule import At
from softsgx.model.effect import Map, Move, Protect, Unmap
from softsgx.sgx.epcm import PageTable
from softsgx.supervisor import masks, paths
from softsgx.supervisor.execve import image
from softsgx.supervisor.host_process import HostProcess
from softsgx.supervisor.remote import Remote, scratch
from softsgx.supervisor.tracee import Tracee
from softsgx.supervisor.waits import wait_stop
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RAX, RIP

if TYPE_CHECKING:
    from softsgx.supervisor.sgx import Sgx

__all__ = ["Mappings"]

_SHARED_FIXED = 0x11
_MAX_FILTERS = 16
_USER_END = 1 << 47
_RESTART = {-512 & (1 << 64) - 1, -513 & (1 << 64) - 1, -514 & (1 << 64) - 1}
_RESTART_BLOCK = -516 & (1 << 64) - 1
_NR_RESTART_SYSCALL = 219


class Mappings:
    """Keeps the real mappings of all processes in step with the model."""

    def __init__(self, sgx: Sgx) -> None:
        self.sgx = sgx
        self.dirty: list[tuple[EnclaveFile, int, int]] = []
        self.remap: list[EnclaveFile] = []
        self.effects: list[tuple[HostProcess, Any]] = []
        self.new_fd: tuple[EnclaveFile, int] | None = None
        self._allowed: dict[tuple[int, int], int] = {}

    # -- what changed ------------------------------------------------------------------

    def pages_changed(self, file: EnclaveFile, first: int, last: int) -> None:
        """The pages [first, last) of an enclave changed; `flush` lets mappings follow."""
        if file.enclave.initialized:
            self.dirty.append((file, first, last))

    def created(self, file: EnclaveFile) -> None:
        """ELRANGE is known: mappings made before it get their place in the memory."""
        self._allowed.clear()
        self.remap.append(file)

    def forget(self, file: EnclaveFile) -> None:
        """A file is gone for good."""
        for process in self.sgx.processes:
            process.native.pop(file, None)

    def _concerned(self, file: EnclaveFile) -> list[HostProcess]:
        e = file.enclave
        return [p for p in self.sgx.processes if any(_enclave(v) is e for v in p.mm)]

    def answer(self, tracee: Tracee, value: int, told: Callable[[int], None]) -> Any:
        """Answer an ioctl from its seccomp stop, with what it changed carried out first.

        told: hears of the answer as it is in the end, while the tracee still stands.
        """
        self.remap = [f for f in self.remap if self._concerned(f)]
        self.dirty = [d for d in self.dirty if self._concerned(d[0])]
        if not (self.dirty or self.remap or self.effects or self.new_fd):
            told(value)
            return value
        sup = self.sgx.sup
        sup.cancel(tracee)
        with self.calls(tracee) as call:
            value = self._settle(call, value)
            self.flush(tracee, call)
        told(value)
        sup.view[RAX] = value & (1 << 64) - 1
        sup.regs.store(tracee.tid)
        sup.cont(tracee)
        return paths.DONE

    def _settle(self, call: Remote, value: int) -> int:
        """Mappings and an fd that an ioctl of this tracee made: the ioctl's answer."""
        effects, self.effects = self.effects, []
        for process, todo in effects:
            error = self.carry_out(process, call, todo)
            process.mm_changed()
            value = error or value
        made, self.new_fd = self.new_fd, None
        if made is not None:
            value = self.sgx.install_fd(call, *made)
        return value

    def calls(self, tracee: Tracee) -> Remote:
        """Remote calls in a tracee whose registers are in the loop's buffer."""
        if tracee.at_call:
            tracee.at_call = False
            self.sgx.sup.cancel(tracee)
        insn = tracee.space.image + image().syscall
        return Remote(tracee, insn, self.sgx.sup.regs, self.sgx.sup.listener)

    def flush(self, tracee: Tracee, call: Remote) -> None:
        """Carry out all that is noted; ``call`` makes calls in ``tracee``."""
        remap, self.remap = self.remap, []
        dirty, self.dirty = self.dirty, []
        here = tracee.space.sgx
        for file in remap:
            for process in self._concerned(file):
                self._in(process, here, call, self._remapping(process, file))
        for file, first, last in dirty:
            for process in self._concerned(file):
                todo = self.wanted(process, file, first, last)
                if todo:
                    self._in(process, here, call, self._protecting(process, file, todo))

    def _remapping(self, process: HostProcess, file: EnclaveFile) -> Callable[[Remote], None]:
        def do(call: Remote) -> None:
            for vma in [v for v in process.mm if _enclave(v) is file.enclave]:
                self.map(process, call, file, vma.start, vma.end)

        return do

    def _protecting(
        self, process: HostProcess, file: EnclaveFile, todo: list[tuple[int, int, int]]
    ) -> Callable[[Remote], None]:
        return lambda call: self._protect(process, call, file, todo)

    # -- carrying out ------------------------------------------------------------------

    def allowed(self, process: HostProcess, file: EnclaveFile, vma_word: int, word: int) -> int:
        """The real protection of a page: by the VMA's and the page's packed state."""
        if process.hidden:
            return 0
        key = (vma_word, word)
        mask = self._allowed.get(key)
        if mask is None:
            law = self.sgx.device.design
            schema = process.mm.schema_for(file)
            at = At(
                page=file.enclave.page_schema.cell(word),
                vma=schema.cell(vma_word),
                enclave=file.enclave,
                process=process,
                file=file,
            )
            mask = self._allowed[key] = int(law.accessible(at))
        return mask

    def native(self, process: HostProcess, file: EnclaveFile) -> PageTable:
        """The real protections of an enclave's pages in a process."""
        file = file.base_file
        table: PageTable | None = process.native.get(file)
        if table is None:
            table = process.native[file] = PageTable(file.enclave.pages.n_pages)
        return table

    def wanted(
        self, process: HostProcess, file: EnclaveFile, first: int, last: int
    ) -> list[tuple[int, int, int]]:
        """The runs of pages in [first, last) whose real protection has to become another."""
        e = file.enclave
        if not e.initialized:
            return []
        table = self.native(process, file)
        todo: list[tuple[int, int, int]] = []
        for vma in process.mm.overlapping(e.base + (first << 12), e.base + (last << 12)):
            if _enclave(vma) is not e:
                continue
            lo = max(first, max(vma.start, e.base) - e.base >> 12)
            hi = min(last, min(vma.end, e.end) - e.base >> 12)
            word_of_vma = vma.cell(process.mm.schema_for(file)).words[0]
            for a, b, word in e.pages.runs(lo, hi):
                mask = self.allowed(process, vma.file, word_of_vma, word)
                for c, d, have in table.runs(a, b):
                    if have == mask:
                        continue
                    if todo and todo[-1][1] == c and todo[-1][2] == mask:
                        todo[-1] = (todo[-1][0], d, mask)
                    else:
                        todo.append((c, d, mask))
        return todo

    def _protect(
        self, process: HostProcess, call: Remote, file: EnclaveFile,
        todo: list[tuple[int, int, int]],
    ) -> None:  # fmt: skip
        table = self.native(process, file)
        for first, last, mask in todo:
            addr = file.enclave.base + (first << 12)
            error = call(nr.NR_mprotect, addr, last - first << 12, mask)
            if error:
                raise InternalError(f"mprotect of an enclave's pages at {addr:#x}: {error}")
            self._note("mprotect", process, addr, addr + (last - first << 12), mask)
            table.fill(first, last, mask)

    def map(
        self, process: HostProcess, call: Remote, file: EnclaveFile, start: int, end: int
    ) -> int:
        """Make the real mapping of a VMA of an enclave: 0 or -errno."""
        e = file.enclave
        fd = call.give(self.sgx.memory_fd(file), cloexec=True, spare=True)
        if fd < 0:
            return fd
        lo, hi = max(start, e.base), min(end, e.end)
        pieces = [(start, end, 0)]
        if e.created and lo < hi:
            pieces = [(start, lo, 0), (lo, hi, lo - e.base), (hi, end, 0)]
        try:
            for a, b, offset in pieces:
                if a < b:
                    got = call(nr.NR_mmap, a, b - a, 0, _SHARED_FIXED, fd, offset)
                    if got < 0:
                        return got
                    self._note("mmap", process, a, b, offset)
        finally:
            call(nr.NR_close, fd)
        self.filter(process, call, file, start, end)
        if e.created and lo < hi:
            first, last = lo - e.base >> 12, hi - e.base >> 12
            self.native(process, file).fill(first, last, 0)
            self._protect(process, call, file, self.wanted(process, file, first, last))
        return 0

    def carry_out(self, process: HostProcess, call: Remote, effects: Any) -> int:
        """Do what the model says was done: 0, or -errno of the kernel's if it refused."""
        for effect in effects:
            error = self._carry_out(process, call, effect)
            if error < 0:
                return error
        return 0

    def _carry_out(self, process: HostProcess, call: Remote, effect: Any) -> int:
        if isinstance(effect, Map):
            return self.map(process, call, effect.file, effect.start, effect.end)
        if isinstance(effect, Protect):
            file = effect.file
            if not isinstance(file, EnclaveFile):
                self._note("mprotect", process, effect.start, effect.end, effect.prot)
                return call(nr.NR_mprotect, effect.start, effect.end - effect.start, effect.prot)
            e = file.enclave
            if e.created:
                first = max(effect.start, e.base) - e.base >> 12
                last = min(effect.end, e.end) - e.base >> 12
                self._protect(process, call, file, self.wanted(process, file, first, last))
            return 0
        if isinstance(effect, Unmap):
            self.unmapped(process, effect.start, effect.end)
            self._note("munmap", process, effect.start, effect.end)
            return call(nr.NR_munmap, effect.start, effect.end - effect.start)
        if isinstance(effect, Move):
            self.unmapped(process, effect.old_start, effect.old_end)
            if effect.old_end > effect.old_start and not effect.keep:
                self._note("munmap", process, effect.old_start, effect.old_end)
                call(nr.NR_munmap, effect.old_start, effect.old_end - effect.old_start)
            return self.map(process, call, effect.file, effect.new_start, effect.new_end)
        raise InternalError(f"an effect that nothing carries out: {effect!r}")

    def _note(self, call: str, process: HostProcess, start: int, end: int, value: int = 0) -> None:
        if self.sgx.record is not None:
            self.sgx.record.effect(call, process.space.pid, start, end, value)

    def unmapped(self, process: HostProcess, start: int, end: int) -> None:
        """Nothing of an enclave is mapped in [start, end) any more: forget its protections."""
        for file, table in process.native.items():
            e = file.enclave
            lo, hi = max(start, e.base), min(end, e.end)
            if lo < hi:
                table.fill(lo - e.base >> 12, hi - e.base >> 12, 0)

    # -- filters -----------------------------------------------------------------------

    def watch_fd(self, tracee: Tracee, fd: int) -> None:
        """From the exit stop of a call: hear of what is done to the fd."""
        space = tracee.space
        if space.image and fd not in space.watched and len(space.watched) < _MAX_FILTERS:
            with self.calls(tracee) as call:
                self.watch(call, fd)

    def watch(self, call: Remote, fd: int) -> None:
        """The same by remote calls. Behind the last filter the decoy answers for itself."""
        watched = call.tracee.space.watched
        if fd not in watched and len(watched) < _MAX_FILTERS:
            watched.add(fd)
            self.install(call, bpf.fd_program(fd))

    def watch_names(self, call: Remote) -> None:
        """Hear of the calls on names that the base filter leaves alone."""
        space = call.tracee.space
        if not space.asked_names:
            space.asked_names = True
            self.install(call, bpf.names_program())

    def filter(
        self, process: HostProcess, call: Remote, file: EnclaveFile, start: int, end: int
    ) -> None:
        """Make sure that memory calls on [start, end) stop in this process."""
        space = process.space
        masks.learn(self.sgx, call.tracee.tgid, call)
        if any(a <= start and end <= b for a, b in space.ranges):
            return
        e = file.enclave
        if e.created and e.base <= start and end <= e.end:
            start, end = e.base, e.end
        if len(space.ranges) >= _MAX_FILTERS:
            start, end = 4096, _USER_END
        space.ranges.append((start, end))
        stub = space.image + image().syscall + 2
        self.install(call, bpf.range_program(start, end, stub))

    def install(self, call: Remote, program: bytes) -> None:
        """seccomp(SECCOMP_SET_MODE_FILTER) for all threads of the process."""
        space = call.tracee.space
        where = scratch(space)
        space.poke(where, struct.pack("<HxxxxxxQ", len(program) // 8, where + 16) + program)
        for flags in (1, 0):  # TSYNC, or this thread alone if the threads differ
            error = call(nr.NR_seccomp, 1, flags, where)
            if error == -13:
                call(nr.NR_prctl, 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
                error = call(nr.NR_seccomp, 1, flags, where)
            if error == 0:
                return

    # -- other processes ---------------------------------------------------------------

    def _in(
        self, process: HostProcess, here: Any, call: Remote, do: Callable[[Remote], None]
    ) -> None:
        """Remote calls in a process: the one that is stopped now, or another, stopped for it.

        do: may be done again from its start, by another thread, if one dies at it. A process
        that nobody lives in any more needs nothing.
        """
        if process is here:
            do(call)
            return
        sup = self.sgx.sup
        gone: set[int] = set()
        while True:
            left = [sup.tracees[tid] for tid in process.space.tracees if tid not in gone]
            if not left:
                return
            # One that an outer handler holds; one that can be interrupted; any.
            tracee = min(left, key=lambda t: (not t.stopped, t.vforking))
            try:
                self._in_thread(process, tracee, do)
                return
            except ProcessLookupError:
                gone.add(tracee.tid)

    def _in_thread(
        self, process: HostProcess, tracee: Tracee, do: Callable[[Remote], None]
    ) -> None:
        sup = self.sgx.sup
        held = tracee.stopped
        status = 0 if held else self._stop(tracee)
        regs = ptrace.Registers()
        regs.load(tracee.tid)
        if not held:
            _prepare_restart(regs)
        insn = process.space.image + image().syscall
        with Remote(tracee, insn, regs, sup.listener) as other:
            do(other)
        if held:
            return
        if status >> 8 & 0xFF != SIGTRAP:
            ptrace.interrupt(tracee.tid)  # it was in a group-stop, and goes back to it
        sup.cont(tracee)

    def _stop(self, tracee: Tracee) -> int:
        """Interrupt a thread that runs; events that come first are handled. Its status."""
        sup = self.sgx.sup
        ptrace.interrupt(tracee.tid)
        while True:
            status = wait_stop(tracee.tid)
            if status >> 16 == ptrace.EVENT_STOP:
                tracee.stopped = True
                return status
            saved = list(sup.view)
            sup.dispatch(tracee, status)
            sup.view[:] = memoryview(struct.pack("27Q", *saved)).cast("Q")


def _enclave(vma: Any) -> Any:
    return getattr(vma.file, "enclave", None)


def _prepare_restart(regs: ptrace.Registers) -> None:
    """What the kernel does to an interrupted system call when no handler runs.

    It would look at RAX on the way out of the stop; after our own calls it no
    longer does.
    """
    view = regs.view
    if view[ORIG_RAX] < 1 << 32:
        if view[RAX] in _RESTART:
            view[RAX] = view[ORIG_RAX]
            view[RIP] -= 2
        elif view[RAX] == _RESTART_BLOCK:
            view[RAX] = _NR_RESTART_SYSCALL
            view[RIP] -= 2
    view[ORIG_RAX] = (1 << 64) - 1
