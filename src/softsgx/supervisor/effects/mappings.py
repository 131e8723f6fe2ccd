"""What the model says of mappings, carried out in the processes.

The real mapping of an enclave is always of its memfd at address − base. Its
protection is NONE until the enclave is initialized, and then, page by page,
what the design's rule `accessible` gives.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOMEM
from typing import Any

from softsgx.complaints import complain
from softsgx.device.files import EnclaveFile
from softsgx.errors import InternalError, UnsupportedError
from softsgx.host import signals
from softsgx.host.memfd import reader
from softsgx.host.procmaps import Mapping
from softsgx.law.rule import At
from softsgx.mm.vma import Vma
from softsgx.model.effect import Advise, Map, Move, Protect, Unmap
from softsgx.sgx.epcm import PageTable
from softsgx.supervisor.effects import dispositions, newmapping, sites
from softsgx.supervisor.effects.plainly import learn, plainly
from softsgx.supervisor.state.enclaves import memory_fd
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.stopped import filters
from softsgx.supervisor.stopped.apart import Apart
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import MADV_DONTFORK, PROT_EXEC, PROT_WRITE

__all__ = [
    "TOO_MANY",
    "allowed",
    "ask_mdwe",
    "carry_out",
    "differs",
    "enclave_of",
    "map_as_it_is",
    "map_vma",
    "native",
    "protect",
    "protect_again",
    "unmapped",
    "wanted",
]

_SHARED_FIXED = 0x11
_PR_GET_MDWE = 66
TOO_MANY = (
    "the pages of an enclave need more mappings than vm.max_map_count allows;"
    " raise it, e.g. sysctl vm.max_map_count=1048576"
)
"""What is said where the real mappings cannot be what they have to be."""


def allowed(run: Run, process: HostProcess, file: EnclaveFile, vma_word: int, word: int) -> int:
    """The real protection of a page: by the VMA's and the page's packed state."""
    if process.hidden:
        return 0
    key = (vma_word, word)
    mask = run.allowed.get(key)
    if mask is None:
        law = run.device.design
        schema = process.mm.schema_for(file)
        at = At(
            page=file.enclave.page_schema.cell(word),
            vma=schema.cell(vma_word),
            enclave=file.enclave,
            process=process,
            file=file,
        )
        mask = run.allowed[key] = int(law.accessible(at))
    return mask


def native(process: HostProcess, file: EnclaveFile) -> PageTable:
    """The real protections of an enclave's pages in a process."""
    file = file.base_file
    table = process.native.get(file)
    return table or process.native.add(file, PageTable(file.enclave.pages.n_pages))


def wanted(
    run: Run, process: HostProcess, file: EnclaveFile, first: int, last: int
) -> list[tuple[int, int, int]]:
    """The runs of pages in [first, last) whose real protection has to become another."""
    e = file.enclave
    if not e.initialized:
        return []
    table = native(process, file)
    todo: list[tuple[int, int, int]] = []
    for vma in process.mm.overlapping(e.base + (first << 12), e.base + (last << 12)):
        if enclave_of(vma) is not e:
            continue
        lo = max(first, max(vma.start, e.base) - e.base >> 12)
        hi = min(last, min(vma.end, e.end) - e.base >> 12)
        word_of_vma = vma.cell(process.mm.schema_for(file)).words[0]
        for a, b, word in e.pages.runs(lo, hi):
            mask = allowed(run, process, vma.file, word_of_vma, word)
            for c, d, have in table.runs(a, b):
                if have == mask:
                    continue
                if todo and todo[-1][1] == c and todo[-1][2] == mask:
                    todo[-1] = (todo[-1][0], d, mask)
                else:
                    todo.append((c, d, mask))
    return todo


def protect(
    run: Run, process: HostProcess, call: Remote, file: EnclaveFile,
    todo: list[tuple[int, int, int]],
) -> int:  # fmt: skip
    """Give runs of pages their real protection: 0, or -ENOMEM at vm.max_map_count."""
    with plainly(process.space, call):
        return _protect(run, process, call, file, todo)


def _protect(
    run: Run, process: HostProcess, call: Remote, file: EnclaveFile,
    todo: list[tuple[int, int, int]],
) -> int:  # fmt: skip
    table = native(process, file)
    made, base = 0, file.enclave.base
    if call.quick and not run.rings:
        made = call.together(
            [(nr.NR_mprotect, base + (a << 12), b - a << 12, mask) for a, b, mask in todo]
        )
    for index, (first, last, mask) in enumerate(todo):
        addr = base + (first << 12)
        error = 0 if index < made else _change(run, process, call, file, first, last, mask)
        if error == -ENOMEM:
            return error
        if error and mask & PROT_EXEC:
            error = _map_again(run, process, call, file, first, last, mask) and error
        if error:
            _refused(run, process, addr, error)
            return 0
        _note(run, "mprotect", process, addr, addr + (last - first << 12), mask)
        table.fill(first, last, mask)
    return 0


def _change(
    run: Run, process: HostProcess, call: Remote, file: EnclaveFile,
    first: int, last: int, mask: int,
) -> int:  # fmt: skip
    """One run of pages: 0 or -errno.

    A ring of io_uring advises with nobody hearing of it, and MADV_REMOVE takes away what is in a
    page, code too, unless the mapping may never be written to (vma_is_shared_maywrite()).
    """
    if run.rings:
        return _map_again(run, process, call, file, first, last, mask)
    return call(nr.NR_mprotect, file.enclave.base + (first << 12), last - first << 12, mask)


@contextmanager
def _memory(run: Run, file: EnclaveFile, mask: int) -> Iterator[int]:
    fd = memory_fd(run, file)
    if mask & PROT_WRITE or not run.rings:
        yield fd
        return
    with reader(fd) as reads:
        yield reads


def _map_again(
    run: Run, process: HostProcess, call: Remote, file: EnclaveFile,
    first: int, last: int, mask: int,
) -> int:  # fmt: skip
    """A new mapping, also where mprotect may make none executable (PR_SET_MDWE, a filter).

    0 or -errno.
    """
    start, length = file.enclave.base + (first << 12), last - first << 12
    return _map(run, process, call, file, start, length, mask, first << 12)


def map_as_it_is(
    run: Run, process: HostProcess, call: Remote, file: EnclaveFile, m: Mapping
) -> int:
    """A real mapping made anew, with what `_memory` says of its protection: 0 or -errno."""
    return _map(run, process, call, file, m.start, m.end - m.start, m.prot, m.offset)


def _map(
    run: Run, process: HostProcess, call: Remote, file: EnclaveFile,
    start: int, length: int, mask: int, offset: int,
) -> int:  # fmt: skip
    apart = Apart(call)
    with apart as own:
        if own is None:
            return apart.error
        with _memory(run, file, mask) as memory:
            fd = own.give(memory, cloexec=True, spare=True)
        if fd < 0:
            return fd
        error = min(own(nr.NR_mmap, start, length, mask, _SHARED_FIXED, fd, offset), 0)
        own(nr.NR_close, fd)
    if not error:
        for row in newmapping.told(process, start, start + length):
            call(*row)
    return error


def _refused(run: Run, process: HostProcess, addr: int, error: int) -> None:
    """The kernel lets a process not protect an enclave's pages: it cannot go on as it is."""
    if run.record is not None:
        run.record.effect("kill", process.space.pid, addr, addr + 4096, -error)
    complain(
        f"process {process.space.pid} is killed: the kernel refuses to protect its enclave"
        f" ({os.strerror(-error)}); does a seccomp filter of its own forbid mprotect?"
    )
    os.kill(process.space.pid, signals.SIGKILL)


def protect_again(run: Run, process: HostProcess, call: Remote, start: int, end: int) -> None:
    """The real protections of [start, end) as the model has them, after an undone change."""
    for vma in process.mm.overlapping(start, end):
        if isinstance(vma.file, EnclaveFile) and _protect_vma(
            run, process, call, vma.file, max(start, vma.start), min(end, vma.end)
        ):
            raise UnsupportedError(TOO_MANY)


def differs(run: Run, process: HostProcess, vma: Vma) -> bool:
    """Whether a VMA's pages have not the real protections that they should have."""
    e = vma.file.enclave
    if not e.created:
        return False
    first, last = max(vma.start, e.base) - e.base >> 12, min(vma.end, e.end) - e.base >> 12
    return bool(wanted(run, process, vma.file, first, last))


def _protect_vma(
    run: Run, process: HostProcess, call: Remote, file: EnclaveFile, start: int, end: int
) -> int:
    e = file.enclave
    if not e.created:
        return 0
    first, last = max(start, e.base) - e.base >> 12, min(end, e.end) - e.base >> 12
    return protect(run, process, call, file, wanted(run, process, file, first, last))


def map_vma(
    run: Run, process: HostProcess, call: Remote, file: EnclaveFile, start: int, end: int
) -> int:
    """Make the real mapping of a VMA of an enclave: 0 or -errno."""
    e = file.enclave
    if e.created:
        sites.mapped(run, process, e)
    lo, hi = max(start, e.base), min(end, e.end)
    within = e.created and lo < hi
    # All of it in one call first, which the kernel refuses or does as a whole.
    pieces = [] if within and (lo, hi) == (start, end) else [(start, end, 0)]
    if within:
        pieces.append((lo, hi, lo - e.base))
    error, done = _watch(run, process, call, file, start, end), start
    if error:
        return error
    learn(process.space)
    apart = Apart(call)
    with apart as own:
        if own is None:
            return _no_thread(process, apart.error)
        with _memory(run, file, 0) as memory:
            fd = own.give(memory, cloexec=True, spare=True)
        if fd < 0:
            return fd
        # Together where that may be; what was not answered so says its error when it is made again.
        rows: list[tuple[int, ...]]
        rows = [(nr.NR_mmap, a, b - a, 0, _SHARED_FIXED, fd, at, a) for a, b, at in pieces]
        rows += [(nr.NR_close, fd), *newmapping.told(process, start, end)]
        made = call.together(rows) if own is call and call.quick and not run.rings else 0
        for index, (a, b, offset) in enumerate(pieces):
            error = 0 if index < made else min(own(*rows[index][:7]), 0)
            if error:
                break
            _note(run, "mmap", process, a, b, offset)
            done = end
        if made <= len(pieces):
            own(nr.NR_close, fd)
    if done > start:
        unmapped(process, start, done)
    if not error:
        newmapping.over_heap(process, call, start, end)
        for row in rows[max(made, len(pieces) + 1) :]:
            call(*row)
        error = _protect_vma(run, process, call, file, start, end)
    if error and done > start:
        unmapped(process, start, done)  # all of it or nothing
        call(nr.NR_munmap, start, done - start)
    return error


def ask_mdwe(process: HostProcess, call: Remote, prot: int) -> None:
    """Whether the process may no more make executable what is not (PR_SET_MDWE, in v6.3).

    Asked where it counts: it is inherited over fork and exec, and never taken back.
    """
    if prot & PROT_EXEC and not process.mm.mdwe and process.mm.version >= (6, 3):
        process.mm.mdwe = call(nr.NR_prctl, _PR_GET_MDWE, 0, 0, 0, 0) > 0


def _no_thread(process: HostProcess, error: int) -> int:
    """A process with several threads that may make no more of them maps no enclave."""
    complain(
        f"process {process.space.pid} cannot map its enclave: it has several threads, and"
        f" the kernel makes none that maps ({os.strerror(-error)}); raise ulimit -u, or let a"
        " filter of its own allow clone and close_range"
    )
    return -ENOMEM


def _watch(
    run: Run, process: HostProcess, call: Remote, file: EnclaveFile, start: int, end: int
) -> int:
    """Hear of what the process does to the mapping, and with its signals: 0 or -errno.

    A process with so many filters of its own that no more goes in maps no enclave (ENOMEM).
    """
    dispositions.learn(run, call.tracee, call)
    e = file.enclave
    if not any(a <= start and end <= b for a, b in process.space.ranges):
        if e.created and e.base <= start and end <= e.end:
            start, end = e.base, e.end
        error = filters.watch_range(call, start, end)
        if error:
            return error
    dispositions.watch_masks(run, call)
    return 0


def carry_out(run: Run, process: HostProcess, call: Remote, effects: Any) -> int:
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
        error = _carry_out(run, process, call, effect)
        if error < 0:
            return error
    return 0


def _carry_out(run: Run, process: HostProcess, call: Remote, effect: Any) -> int:
    if isinstance(effect, Map):
        return map_vma(run, process, call, effect.file, effect.start, effect.end)
    if isinstance(effect, Protect):
        if isinstance(effect.file, EnclaveFile):
            return _protect_vma(run, process, call, effect.file, effect.start, effect.end)
        _note(run, "mprotect", process, effect.start, effect.end, effect.prot)
        return call(nr.NR_mprotect, effect.start, effect.end - effect.start, effect.prot)
    if isinstance(effect, Unmap):
        error = call(nr.NR_munmap, effect.start, effect.end - effect.start)
        if not error:
            unmapped(process, effect.start, effect.end)
            _note(run, "munmap", process, effect.start, effect.end)
        return error
    if isinstance(effect, Move):
        error = map_vma(run, process, call, effect.file, effect.new_start, effect.new_end)
        if error or effect.old_end <= effect.old_start or effect.keep:
            return error
        return _carry_out(run, process, call, Unmap(effect.old_start, effect.old_end))
    if isinstance(effect, Advise):
        if effect.advice != MADV_DONTFORK:
            return 0  # what is read ahead of a memfd is nothing
        return call(nr.NR_madvise, effect.start, effect.end - effect.start, effect.advice)
    raise InternalError(f"an effect that nothing carries out: {effect!r}")


def _note(run: Run, call: str, process: HostProcess, start: int, end: int, value: int = 0) -> None:
    if run.record is not None:
        run.record.effect(call, process.space.pid, start, end, value)


def unmapped(process: HostProcess, start: int, end: int) -> None:
    """Nothing of an enclave is mapped in [start, end) any more: forget its protections."""
    for file, table in process.native.within(start, end):
        e = file.enclave
        lo, hi = max(start, e.base), min(end, e.end)
        table.fill(lo - e.base >> 12, hi - e.base >> 12, 0)


def _place(effect: Any) -> tuple[int, int]:
    """Where an effect maps something; an empty range for the others."""
    if isinstance(effect, Map):
        return effect.start, effect.end
    return (effect.new_start, effect.new_end) if isinstance(effect, Move) else (0, 0)


def enclave_of(vma: Any) -> Any:
    """The enclave that a VMA is of, None if it is of none."""
    return getattr(vma.file, "enclave", None)
