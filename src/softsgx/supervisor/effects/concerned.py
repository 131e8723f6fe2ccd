"""What the model did, made so in every process that it concerns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.errors import UnsupportedError
from softsgx.supervisor.effects import sites
from softsgx.supervisor.effects.descriptors import install_fd
from softsgx.supervisor.effects.mappings import (
    TOO_MANY,
    carry_out,
    enclave_of,
    map_vma,
    protect,
    wanted,
)
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import answered
from softsgx.supervisor.stopped.others import in_process
from softsgx.supervisor.stopped.remote import Remote, calls, cancel, goes_on

__all__ = ["abandoned", "answer", "flush"]


def _concerned(run: Run, file: EnclaveFile) -> list[HostProcess]:
    """The processes that map an enclave's pages."""
    e = file.enclave
    return [
        p
        for p in run.device.processes
        if any(enclave_of(v) is e for v in p.mm.overlapping(e.base, e.end))
    ]


def _mapping(run: Run, file: EnclaveFile) -> list[HostProcess]:
    """Those that map an enclave anywhere, as they may before ECREATE."""
    e = file.enclave
    return [p for p in run.device.processes if any(enclave_of(v) is e for v in p.mm)]


def answer(
    run: Run, tracee: Tracee, value: int, told: Callable[[int], None], *, at_exit: bool = False
) -> Any:
    """Answer an ioctl from its seccomp stop, with what it changed carried out first.

    told: hears of the answer as it is in the end, while the tracee still stands. at_exit: it
    stands at the exit already.
    """
    pending = run.pending
    pending.remap = [f for f in pending.remap if _mapping(run, f)]
    pending.dirty = [d for d in pending.dirty if _concerned(run, d[0])]
    if not (pending.dirty or pending.remap or pending.effects or pending.new_fd):
        told(value)
        return answered(run, tracee, value) if at_exit else value
    if not at_exit:
        cancel(run, tracee)
    with calls(run, tracee) as call:
        call.quick = goes_on(run, tracee) and not run.filtered
        value = _settle(run, call, value)
        flush(run, tracee, call)
    told(value)
    return answered(run, tracee, value)


def _settle(run: Run, call: Remote, value: int) -> int:
    """Mappings and an fd that an ioctl of this tracee made: the ioctl's answer."""
    effects, run.pending.effects = run.pending.effects, []
    for process, todo in effects:
        error = carry_out(run, process, call, todo)
        process.mm_changed()
        value = error or value
    made, run.pending.new_fd = run.pending.new_fd, None
    if made is not None:
        value = install_fd(run, call, *made)
    return value


def flush(run: Run, tracee: Tracee, call: Remote) -> None:
    """Carry out all that is noted; ``call`` makes calls in ``tracee``."""
    remap, run.pending.remap = run.pending.remap, []
    dirty, run.pending.dirty = run.pending.dirty, []
    if not remap and not dirty:
        return
    busy, run.pending.busy = run.pending.busy, True
    try:
        _flush(run, tracee.space.sgx, call, remap, dirty)
    finally:
        run.pending.busy = busy


def abandoned(run: Run, *, whole: bool) -> None:
    """The thread that a handler dealt with is gone: what it changed reaches other processes now.

    whole: no other handler is at work, so what else is noted was for that thread.
    """
    pending = run.pending
    if whole:
        pending.effects, pending.new_fd = [], None
    remap, pending.remap = pending.remap, []
    dirty, pending.dirty = pending.dirty, []
    if remap or dirty:
        busy, pending.busy = pending.busy, True
        try:
            _flush(run, None, None, remap, dirty)
        finally:
            pending.busy = busy


def _flush(
    run: Run, here: HostProcess | None, call: Remote | None, remap: list[EnclaveFile],
    dirty: list[tuple[EnclaveFile, int, int]],
) -> None:  # fmt: skip
    gone = False

    def do(process: HostProcess, what: Callable[[Remote], None]) -> None:
        nonlocal gone
        try:
            in_process(run, process, here, call, what)
        except ProcessLookupError:
            gone = True  # who asked; others, who may share its memory, have to feel it all the same
            in_process(run, process, None, None, what)

    for file in remap:
        for process in _mapping(run, file):
            do(process, _remapping(run, process, file))
    for file, first, last in dirty:
        sites.restore(run, file.enclave, first, last)
        for process in _concerned(run, file):
            todo = wanted(run, process, file, first, last)
            if todo:
                do(process, _protecting(run, process, file, todo))
    if gone and call is not None:
        raise ProcessLookupError(call.tid)


def _remapping(run: Run, process: HostProcess, file: EnclaveFile) -> Callable[[Remote], None]:
    def do(call: Remote) -> None:
        for vma in [v for v in process.mm if enclave_of(v) is file.enclave]:
            if map_vma(run, process, call, file, vma.start, vma.end) < 0:
                raise UnsupportedError(TOO_MANY)

    return do


def _protecting(
    run: Run, process: HostProcess, file: EnclaveFile, todo: list[tuple[int, int, int]]
) -> Callable[[Remote], None]:
    def do(call: Remote) -> None:
        if protect(run, process, call, file, todo) < 0:
            raise UnsupportedError(TOO_MANY)

    return do
