"""The device behind real processes, made when a program first opens it or issues an ENCLU.

The rules decide; what they did is noted here (`Pending`), and carried out by the rooms above:
memory is a memfd that every process maps, and the protection of each run of its pages is what
the VMA and the EPCM together allow, so that the CPU itself faults where SGX would.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Any

from softsgx.complaints import complain
from softsgx.device.device import Device
from softsgx.device.files import EnclaveFile
from softsgx.errors import UnsupportedError
from softsgx.host import pathcode, ptrace, state
from softsgx.host.memfd import MemfdMemory
from softsgx.sdm.xsave import XsaveLayout
from softsgx.sgx.enclave import Enclave, EnclaveMemory
from softsgx.supervisor.state import patched
from softsgx.supervisor.state.enclaves import memory_fd
from softsgx.supervisor.state.run import Run

__all__ = ["HostDevice", "open_device"]


_COPIED = 1 << 16  # less is read faster than its place is looked at


class HostDevice(Device):
    """The device of a run."""

    def __init__(self, of: Run, **options: Any) -> None:
        super().__init__(**options)
        self.of = of
        self.cpus = os.sched_getaffinity(0)
        self._early: set[EnclaveFile] = set()

    def make_memory(self, file: EnclaveFile, size_bytes: int) -> EnclaveMemory:
        """A memfd, which mappings made before ECREATE have already."""
        if file in self.of.early_memory:
            self._early.add(file)
        fd = memory_fd(self.of, file)
        del self.of.early_memory[file]
        try:
            return MemfdMemory(fd, size_bytes)
        except OSError as error:
            if error.errno == errno.EFBIG:  # the kernel's own has no such limit
                complain("an enclave is a file here, larger than ulimit -f allows: raise it")
            raise

    def make_measurement(self, secs: Any) -> Any:
        """Hashing in a thread of its own, on any core."""
        from softsgx.sgx.late import LateMeasurement

        m = LateMeasurement(self.cpus)
        m.ecreate(secs.ssaframesize, secs.size)
        return m

    def copy_in(self, process: Any, enclave: Enclave, addr: int, length: int, to: int) -> bool:
        """By compiled code, unless what we have patched has to be read as it was."""
        if length < _COPIED or addr + length > 1 << 47:
            return False
        if patched.pages(process.space, addr, addr + length):
            return False
        memory: Any = enclave.memory
        return bool(memory.copy_in(process.tid, addr, length, to))

    def on_create(self, process: Any, file: EnclaveFile) -> None:  # noqa: ARG002
        """Mappings made before ECREATE get their place in the memory now."""
        self.of.allowed.clear()
        if file in self._early:
            self._early.remove(file)
            self.of.pending.remap.append(file)

    def on_mm(self, process: Any, effects: Any) -> None:
        """Note what an ioctl did to mappings: it is carried out before the guest runs on."""
        if effects:
            self.of.pending.effects.append((process, effects))

    def install(self, process: Any, file: EnclaveFile, flags: int) -> int:
        """Note that the caller gets an fd, which no LSM is asked about; 0 until it is there."""
        security = getattr(file, "security", None)
        if security is not None:  # fd_install() has no hook
            security.holders.add(process.tgid)
        self.of.pending.new_fd = (file, flags)
        return 0

    def on_pages(self, file: EnclaveFile, first: int, last: int) -> None:
        """Note the range; the protections follow before the guest runs on."""
        self.of.pending.pages_changed(file, first, last)


def open_device(run: Run) -> Device:
    """The device of a run, made if there is none yet."""
    if not run.opened:
        _note_opened(run)
        options = run.options
        xsave = _xsave()
        run.device = HostDevice(
            run,
            design=options.make_design() if options.make_design else None,
            lsm=None if run.lsm is None else run.lsm.lsm,
            key_root=state.root_key(),
            epc_bytes=options.epc_bytes,
            xfrm_supported=_xfrm(run, xsave),
            xsave=xsave,
            carry_out=options.carry_out,
        )
        noexec = options.dev_noexec
        if noexec is None:
            noexec = bool(os.statvfs("/dev").f_flag & os.ST_NOEXEC)
        run.noexec = int(noexec)
        if run.faults is not None:
            run.faults.started(run.device)
        if run.record is not None:
            run.record.watch(run.device)
            run.pending.told = run.record.pages
    return run.device


def _note_opened(run: Run) -> None:
    """From now on a descriptor that a call on no path names may be the device's."""
    for space in {tracee.space for tracee in run.tracees.values()}:
        if space.paths.base > 0:
            with suppress(OSError):  # it is dead already
                space.poke(space.paths.base + pathcode.load().opened, b"\1")


def _xsave() -> XsaveLayout:
    """Where this processor has its XSAVE components."""
    cpuid = ptrace.cpuid_function()
    if cpuid is None:
        raise UnsupportedError(
            "CPUID cannot be executed: no memory of softsgx may be made executable;"
            " is there a security module or seccomp filter that forbids it?"
        )
    return XsaveLayout.of_cpuid(cpuid)


def _xfrm(run: Run, xsave: XsaveLayout) -> int:
    """The features that XFRM may name: XCR0's, which the kernel notes in the register set."""
    for tid, tracee in run.tracees.items():
        if tracee.stopped:
            image = ptrace.get_xstate(tid)
            return int.from_bytes(image[464:472], "little") & xsave.xfrm
    return 3
