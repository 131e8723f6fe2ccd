"""What the model says of mappings, carried out in the processes.

The real mapping of an enclave is always of its memfd at address − base. Its
protection is NONE until the enclave is initialized, and then, page by page,
what the design's rule `accessible` gives.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from errno import ENOMEM
from typing import TYPE_CHECKING, Any

from softsgx.device.files import EnclaveFile
from softsgx.errors import InternalError, UnsupportedError
from softsgx.host import bpf
from softsgx.law.rule import At
from softsgx.model.effect import Advise, Map, Move, Protect, Unmap
from softsgx.sgx.epcm import PageTable
from softsgx.supervisor import masks, newmapping, paths
from softsgx.supervisor.execve import image
from softsgx.supervisor.host_process import HostProcess
from softsgx.supervisor.others import in_process
from softsgx.supervisor.remote import Remote, scratch
from softsgx.supervisor.tracee import Tracee
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import MADV_DONTFORK
from softsgx.uapi.regs import RAX

if TYPE_CHECKING:
    from softsgx.supervisor.sgx import Sgx

__all__ = ["Mappings"]

_SHARED_FIXED = 0x11
_MAX_FILTERS = 16
_USER_END = 1 << 47
_TOO_MANY = (
    "the pages of an enclave need more mappings than vm.max_map_count allows;"
    " raise it, e.g. sysctl vm.max_map_count=1048576"
)


class Mappings:
    """Keeps the real mappings of all processes in step with the model.

    busy: a change is being carried out in several processes, so they differ from it yet.
    """

    def __init__(self, sgx: Sgx) -> None:
        self.sgx = sgx
        self.dirty: list[tuple[EnclaveFile, int, int]] = []
        self.remap: list[EnclaveFile] = []
        self.effects: list[tuple[HostProcess, Any]] = []
        self.new_fd: tuple[EnclaveFile, int] | None = None
        self._allowed: dict[tuple[int, int], int] = {}
        self.busy = False

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
        if not remap and not dirty:
            return
        busy, self.busy = self.busy, True
        try:
            self._flush(tracee, call, remap, dirty)
        finally:
            self.busy = busy

    def _flush(
        self, tracee: Tracee, call: Remote, remap: list[EnclaveFile],
        dirty: list[tuple[EnclaveFile, int, int]],
    ) -> None:  # fmt: skip
        here = tracee.space.sgx
        for file in remap:
            for process in self._concerned(file):
                in_process(self.sgx, process, here, call, self._remapping(process, file))
        for file, first, last in dirty:
            for process in self._concerned(file):
                todo = self.wanted(process, file, first, last)
                if todo:
                    in_process(self.sgx, process, here, call, self._protecting(process, file, todo))

    def _remapping(self, process: HostProcess, file: EnclaveFile) -> Callable[[Remote], None]:
        def do(call: Remote) -> None:
            for vma in [v for v in process.mm if _enclave(v) is file.enclave]:
                if self.map(process, call, file, vma.start, vma.end) < 0:
                    raise UnsupportedError(_TOO_MANY)

        return do

    def _protecting(
        self, process: HostProcess, file: EnclaveFile, todo: list[tuple[int, int, int]]
    ) -> Callable[[Remote], None]:
        def do(call: Remote) -> None:
            if self._protect(process, call, file, todo) < 0:
                raise UnsupportedError(_TOO_MANY)

        return do

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
    ) -> int:  # fmt: skip
        """Give runs of pages their real protection: 0, or -ENOMEM at vm.max_map_count."""
        table = self.native(process, file)
        for first, last, mask in todo:
            addr = file.enclave.base + (first << 12)
            error = call(nr.NR_mprotect, addr, last - first << 12, mask)
            if error == -ENOMEM:
                return error
            if error:
                raise InternalError(f"mprotect of an enclave's pages at {addr:#x}: {error}")
            self._note("mprotect", process, addr, addr + (last - first << 12), mask)
            table.fill(first, last, mask)
        return 0

    def protect_again(self, process: HostProcess, call: Remote, start: int, end: int) -> None:
        """The real protections of [start, end) as the model has them, after an undone change."""
        for vma in process.mm.overlapping(start, end):
            if isinstance(vma.file, EnclaveFile) and self._protect_vma(
                process, call, vma.file, max(start, vma.start), min(end, vma.end)
            ):
                raise UnsupportedError(_TOO_MANY)

    def _protect_vma(
        self, process: HostProcess, call: Remote, file: EnclaveFile, start: int, end: int
    ) -> int:
        e = file.enclave
        if not e.created:
            return 0
        first, last = max(start, e.base) - e.base >> 12, min(end, e.end) - e.base >> 12
        return self._protect(process, call, file, self.wanted(process, file, first, last))

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
        error, done = 0, start
        for a, b, offset in pieces:
            if a < b:
                error = min(call(nr.NR_mmap, a, b - a, 0, _SHARED_FIXED, fd, offset), 0)
                if error:
                    break
                self._note("mmap", process, a, b, offset)
                done = b
        call(nr.NR_close, fd)
        if done > start:
            self.unmapped(process, start, done)
        if not error:
            self.filter(process, call, file, start, end)
            if newmapping.over_heap(process, call, start, end):
                self.install(call, bpf.number_program(nr.NR_brk))
            newmapping.tell(process, call, start, end)
            error = self._protect_vma(process, call, file, start, end)
        if error and done > start:
            self.unmapped(process, start, done)  # all of it or nothing
            call(nr.NR_munmap, start, done - start)
        return error

    def carry_out(self, process: HostProcess, call: Remote, effects: Any) -> int:
        """Do what the model says was done: 0, or -errno of the kernel's if it refused.

        What a mapping replaces needs no munmap before it: the kernel does both or neither.
        """
        effects = list(effects)
        placed = [_place(effect) for effect in effects]
        for i, effect in enumerate(effects):
            if isinstance(effect, Unmap) and any(
                a <= effect.start and effect.end <= b for a, b in placed[i + 1 :]
            ):
                continue
            error = self._carry_out(process, call, effect)
            if error < 0:
                return error
        return 0

    def _carry_out(self, process: HostProcess, call: Remote, effect: Any) -> int:
        if isinstance(effect, Map):
            return self.map(process, call, effect.file, effect.start, effect.end)
        if isinstance(effect, Protect):
            if isinstance(effect.file, EnclaveFile):
                return self._protect_vma(process, call, effect.file, effect.start, effect.end)
            self._note("mprotect", process, effect.start, effect.end, effect.prot)
            return call(nr.NR_mprotect, effect.start, effect.end - effect.start, effect.prot)
        if isinstance(effect, Unmap):
            error = call(nr.NR_munmap, effect.start, effect.end - effect.start)
            if not error:
                self.unmapped(process, effect.start, effect.end)
                self._note("munmap", process, effect.start, effect.end)
            return error
        if isinstance(effect, Move):
            error = self.map(process, call, effect.file, effect.new_start, effect.new_end)
            if error or effect.old_end <= effect.old_start or effect.keep:
                return error
            return self._carry_out(process, call, Unmap(effect.old_start, effect.old_end))
        if isinstance(effect, Advise):
            if effect.advice != MADV_DONTFORK:
                return 0  # what is read ahead of a memfd is nothing
            return call(nr.NR_madvise, effect.start, effect.end - effect.start, effect.advice)
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
        masks.learn(self.sgx, call.tracee, call)
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


def _place(effect: Any) -> tuple[int, int]:
    """Where an effect maps something; an empty range for the others."""
    if isinstance(effect, Map):
        return effect.start, effect.end
    return (effect.new_start, effect.new_end) if isinstance(effect, Move) else (0, 0)


def _enclave(vma: Any) -> Any:
    return getattr(vma.file, "enclave", None)
