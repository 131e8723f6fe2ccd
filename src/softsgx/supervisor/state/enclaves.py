"""The enclaves of a run and who has them: processes that fork and end, files that are let go."""

from __future__ import annotations

import os
from collections.abc import Iterable
from time import monotonic_ns
from typing import Any

from softsgx.device.files import EnclaveFile, PathFile
from softsgx.host.memfd import locked, new_memory
from softsgx.law.rule import Stop
from softsgx.supervisor.state.host_process import HostProcess, process_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee

__all__ = ["close", "collect", "forked", "memory_fd", "open_node", "space_ended", "thread_ended"]

_MOST_HELD = 64 << 20
_FEW = 100  # enclaves, whose mappings are looked through at once


# -- processes -----------------------------------------------------------------------------


def forked(run: Run, parent: AddressSpace, child: AddressSpace) -> None:
    """fork: the child has the parent's mappings."""
    process = HostProcess(run, child)
    process.mm = parent.sgx.mm.fork(process)
    process.pads, process.far = list(parent.sgx.pads), dict(parent.sgx.far)
    process.native = parent.sgx.native.copy()
    child.sgx = process
    if parent.pid in run.traced:
        run.traced.add(child.pid)


def thread_ended(run: Run, tracee: Tracee) -> None:
    """A thread that ends inside leaves its TCS busy for ever, as on hardware: it did AEX."""
    if tracee.tid == tracee.tgid:
        run.traced.discard(tracee.tgid)
    tracee.odd = None
    thread, slot = tracee.thread, tracee.slot
    if slot is not None:
        slot.known(thread)
    if thread is not None and thread.tcs is not None:
        tcs, thread.tcs = thread.tcs, None
        tcs.cssa += 1
        tcs.entered = None
        if tcs.row is not None:
            tcs.row.freed(thread)
    if slot is not None:
        slot.table.give_back(slot)
        tracee.slot = thread.slot = None


def space_ended(run: Run, space: AddressSpace) -> None:
    """The last thread of an address space is gone, or has called exec."""
    if space.sgx is not None:
        run.device.processes.discard(space.sgx)
        if space.sgx.table is not None:
            space.sgx.table.close()
            space.sgx.table = None
        if space.sgx.entered and run.record is not None and run.record.counting:
            run.record.entered(space.pid, space.sgx.entered)
    collect(run)


# -- files ---------------------------------------------------------------------------------


def open_node(
    run: Run, tracee: Tracee, path: str, fmode: int, *, path_only: bool = False
) -> tuple[Any, int]:
    """Open of a device node: (the file, 0) or (None, errno)."""
    collect(run)
    if path_only:
        return PathFile(path), 0
    process = process_of(run, tracee.space)
    process.tid = tracee.tid
    try:
        file = run.device.open(path, fmode, process)
    except Stop as stop:
        if run.record is not None:
            run.record.open(tracee.tid, path, fmode, -stop.errno, stop.why)
        return None, stop.errno
    if isinstance(file, EnclaveFile):
        file.noexec = run.noexec
    return file, 0


def memory_fd(run: Run, file: EnclaveFile) -> int:
    """The file that an enclave's pages are in, or will be."""
    file = file.base_file
    if file.enclave.created:
        fd: int = file.enclave.memory.fd
        return fd
    if file not in run.early_memory:
        fd = run.early_memory[file] = new_memory(file.path)
        if run.listener is not None:
            _keep(run, fd)
        s = os.fstat(fd)
        run.memories[s.st_dev, s.st_ino] = file, PathFile(file.path)
    return run.early_memory[file]


def _keep(run: Run, fd: int) -> None:
    """Nobody opens an enclave's memory by its name.

    Not where descriptors are given by that (`host.notify`): the processes have to be able to.
    """
    if run.guard is None:
        from softsgx.host.guard import Guard

        run.guard = Guard.begun() or False
    if run.guard:
        run.guard.keep(fd)
        return
    from softsgx.host import lease

    lease.keep(fd)


def _forget(run: Run, fd: int) -> None:
    if run.guard:
        run.guard.forget(fd)
    elif run.listener is not None:
        from softsgx.host import lease

        lease.forget(fd)


def collect(run: Run) -> None:
    """Free the enclaves that no process maps and no fd names.

    Not at once, always: threads may be many, and to read /proc/locks the kernel waits for all
    processors, some 10 ms, in which nobody is served. That takes no more than a twentieth of the
    time, unless it is about much memory. So it is with the mappings of many enclaves. Nothing is
    freed when the run ends.
    """
    begun = monotonic_ns()
    if (not run.tracees and not run.early) or begun < run.mapped_due:
        return
    processes = run.device.processes
    mapped = {f for p in processes for v in p.mm for f in (v.file, v.file.base_file)}
    idle = {k: f for k, f in run.files.items() if f not in mapped}
    if len(run.files) > _FEW:
        run.mapped_due = monotonic_ns() + 19 * (monotonic_ns() - begun)
    if not idle or (begun < run.locks_due and _held_bytes(idle.values()) < _MOST_HELD):
        return
    for tid in run.tracees:  # each thread may have descriptors of its own
        for key in _open_files(tid):
            idle.pop(key, None)
    if idle:
        for key in locked() or ():
            idle.pop(key, None)
    run.locks_due = monotonic_ns() + 19 * (monotonic_ns() - begun)
    # An fd of a segment keeps its enclave.
    kept = {f.base_file for k, f in run.files.items() if k not in idle and _enclave(f)}
    for key, file in idle.items():
        if file in kept:
            continue
        del run.files[key]
        for memory in [k for k, (whose, _) in run.memories.items() if whose is file]:
            del run.memories[memory]
        if file in run.early_memory:
            fd = run.early_memory.pop(file)
            _forget(run, fd)
            os.close(fd)
        if _enclave(file) and file.base_file is file:
            for process in processes:
                process.native.drop(file)
                if process.table is not None:
                    process.table.forget(file.enclave)
            if file.enclave.created:
                file.enclave.measurement.close()
                _forget(run, file.enclave.memory.fd)
                file.enclave.memory.close()


def _held_bytes(files: Iterable[Any]) -> int:
    """How much memory enclaves take."""
    return sum(
        os.fstat(file.enclave.memory.fd).st_blocks * 512
        for file in files
        if _enclave(file) and file.base_file is file and file.enclave.created
    )


def close(run: Run) -> None:
    """The end of the run."""
    for file in list(run.files.values()):
        if _enclave(file) and file.enclave.created:
            file.enclave.measurement.close()


def _open_files(tid: int) -> list[tuple[int, int]]:
    """What the descriptors of a thread are."""
    found = []
    try:
        names = os.listdir(f"/proc/{tid}/fd")
    except OSError:
        return []
    for name in names:
        try:
            s = os.stat(f"/proc/{tid}/fd/{name}")
        except OSError:
            continue  # closed meanwhile
        found.append((s.st_dev, s.st_ino))
    return found


def _enclave(file: Any) -> bool:
    return isinstance(file, EnclaveFile)
