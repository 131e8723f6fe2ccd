"""The ioctls of the device's descriptors."""

from __future__ import annotations

import errno
from typing import Any

from softsgx.device.files import PathFile
from softsgx.law.rule import At, Stop
from softsgx.supervisor.calls import series
from softsgx.supervisor.effects import concerned
from softsgx.supervisor.state.host_process import process_of, received
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import DONE
from softsgx.supervisor.stopped.freeze import still
from softsgx.uapi.fs import VFS_IOCTLS
from softsgx.uapi.regs import RDI, RDX, RSI

__all__ = ["ioctl"]

_LOW = 0xFFFFFFFF


def ioctl(run: Run, tracee: Tracee, file: Any) -> Any:
    """The ioctls of the VFS: natively, once the LSM has been asked; all others are the device's."""
    if isinstance(file, PathFile):
        return -errno.EBADF
    cmd = run.view[RSI] & _LOW
    if cmd not in VFS_IOCTLS:
        return _of_device(run, tracee, file)
    process = process_of(run, tracee.space)
    process.tid = tracee.tid
    try:
        run.device.run.ask("file_ioctl", At(file=file, process=process), cmd=cmd)
    except Stop as stop:
        return -stop.errno
    return None


def _of_device(run: Run, tracee: Tracee, file: Any) -> Any:
    """An ioctl on a device's file that is not the VFS's own."""
    view = run.view
    process = process_of(run, tracee.space)
    process.tid = tracee.tid
    cmd, arg = view[RSI] & _LOW, view[RDX]
    error, why = received(run, process, file)
    at_exit = False
    if error:
        answer = -error
    elif run.faults is not None:
        from softsgx.supervisor.calls import injected

        answer, why, at_exit = injected.ioctl(run, tracee, process, file, cmd, arg)
    else:
        with still(run, process, file):
            answer, why = run.device.ioctl(process, file, cmd, arg)
        if run.device.added is not None:
            at_exit = series.added(run, tracee, process, file)
    fd = view[RDI] & _LOW
    if run.accepts is not None and not at_exit and run.accepts.answered(tracee, answer):
        return DONE

    def told(answer: int) -> None:
        if run.record is not None:
            run.record.ioctl(tracee.tid, fd, file, cmd, arg, answer, why, process.memory)

    return concerned.answer(run, tracee, answer, told, at_exit=at_exit)
