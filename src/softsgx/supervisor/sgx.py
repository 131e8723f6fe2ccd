"""Enclaves in real processes: the device's objects on one side, tracees on the other.

Imported when a program first opens the device or issues an ENCLU. The rules
decide; here their effects are carried out: memory is a memfd that every process
maps, and the protection of each run of its pages is what the VMA and the EPCM
together allow, so that the CPU itself faults where SGX would.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from softsgx.device.device import Device
from softsgx.device.files import EnclaveFile, PathFile
from softsgx.host import bpf, ptrace, state
from softsgx.host.memfd import MemfdMemory
from softsgx.law.rule import Stop
from softsgx.sgx.enclave import EnclaveMemory
from softsgx.supervisor import enter, masks, mmcalls
from softsgx.supervisor.host_process import HostProcess
from softsgx.supervisor.mappings import Mappings
from softsgx.supervisor.tracee import AddressSpace, Tracee
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RDI, RDX, RSI

if TYPE_CHECKING:
    from softsgx.supervisor.loop import Supervisor

__all__ = ["Sgx"]


class _HostDevice(Device):
    """The device behind real processes."""

    def __init__(self, sgx: Sgx, **options: Any) -> None:
        super().__init__(**options)
        self.sgx = sgx

    def make_memory(self, file: EnclaveFile, size_bytes: int) -> EnclaveMemory:
        """The memfd that the guest's fd is."""
        return MemfdMemory(os.dup(self.sgx.fds[file]), size_bytes)

    def make_measurement(self, secs: Any) -> Any:
        """Hashing in a thread of its own, on any core."""
        from softsgx.sgx.measure import LateMeasurement

        m = LateMeasurement(self.sgx.cpus)
        m.ecreate(secs.ssaframesize, secs.size)
        return m

    def on_create(self, process: Any, file: EnclaveFile) -> None:  # noqa: ARG002
        """Mappings made before ECREATE get their place in the memory now."""
        self.sgx.mappings.created(file)

    def on_mm(self, process: Any, effects: Any) -> None:
        """Note what an ioctl did to mappings: it is carried out before the guest runs on."""
        if effects:
            self.sgx.mappings.effects.append((process, effects))

    def install(self, process: Any, file: EnclaveFile, flags: int) -> int:  # noqa: ARG002
        """Note that the caller gets an fd, a memfd of the file's name; 0 until it is there."""
        sgx = self.sgx
        if file not in sgx.fds:
            own = sgx.fds[file] = os.memfd_create(file.path)
            s = os.fstat(own)
            sgx.files[s.st_dev, s.st_ino] = file
        sgx.mappings.new_fd = (file, flags)
        return 0

    def on_pages(self, file: EnclaveFile, first: int, last: int) -> None:
        """Note the range; the protections follow before the guest runs on."""
        self.sgx.mappings.pages_changed(file, first, last)


class Sgx:
    """All that the supervisor knows of enclaves."""

    def __init__(self, sup: Supervisor) -> None:
        self.sup = sup
        self.view = sup.view
        self.record = sup.record
        self.cpus = os.sched_getaffinity(0)
        self.files: dict[tuple[int, int], Any] = {}
        self.fds: dict[Any, int] = {}
        self.watched: set[int] = set()
        self.ignored: dict[int, dict[int, bytes]] = {}
        options = sup.options
        self.device = _HostDevice(
            self,
            design=options.make_design() if options.make_design else None,
            lsm=None if sup.lsm is None else sup.lsm.lsm,
            key_root=state.root_key(),
            epc_bytes=options.epc_bytes,
            xfrm_supported=_xfrm(sup),
            carry_out=options.carry_out,
        )
        self.mappings = Mappings(self)
        self.processes: set[HostProcess] = self.device.processes
        if self.record is None and not options.verify:
            sup.quick = enter.quick(self)

    # -- processes and files -----------------------------------------------------------

    def process(self, space: AddressSpace) -> HostProcess:
        """The device's view of an address space, made when it first matters."""
        if space.sgx is None:
            space.sgx = HostProcess(self, space)
        process: HostProcess = space.sgx
        return process

    def forked(self, parent: AddressSpace, child: AddressSpace) -> None:
        """fork: the child has the parent's mappings."""
        process = HostProcess(self, child)
        process.mm = parent.sgx.mm.fork(process)
        process.native = {e: t.copy() for e, t in parent.sgx.native.items()}
        for start, end in parent.sgx.not_inherited:
            process.mm.forget(start, end)
        child.sgx = process
        if parent.pid in self.watched:
            self.watched.add(child.pid)
            if parent.pid in self.ignored:
                self.ignored[child.pid] = dict(self.ignored[parent.pid])

    def thread_ended(self, tracee: Tracee) -> None:
        """A thread that ends inside leaves its TCS busy for ever, as on hardware: it did AEX."""
        if tracee.tid == tracee.tgid:
            self.watched.discard(tracee.tgid)
            self.ignored.pop(tracee.tgid, None)
        tracee.odd = None
        thread = tracee.thread
        if thread is not None and thread.tcs is not None:
            thread.tcs.cssa += 1
            thread.tcs.entered = None

    def space_ended(self, space: AddressSpace) -> None:
        """The last thread of an address space is gone, or has called exec."""
        if space.sgx is not None:
            self.processes.discard(space.sgx)
        self.collect()

    def collect(self) -> None:
        """Free the enclaves that no process maps and no fd names."""
        mapped = {f for p in self.processes for v in p.mm for f in (v.file, v.file.base_file)}
        idle = {k: f for k, f in self.files.items() if f not in mapped}
        if not idle:
            return
        for pid in {t.tgid for t in self.sup.tracees.values()}:
            try:
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    s = os.stat(f"/proc/{pid}/fd/{fd}")
                    idle.pop((s.st_dev, s.st_ino), None)
            except OSError:
                continue
        # An fd of a segment keeps its enclave.
        kept = {f.base_file for k, f in self.files.items() if k not in idle and _enclave(f)}
        for key, file in idle.items():
            if file in kept:
                continue
            del self.files[key]
            os.close(self.fds.pop(file))
            if _enclave(file) and file.base_file is file:
                self.mappings.forget(file)
                if file.enclave.created:
                    file.enclave.measurement.close()
                    file.enclave.memory.close()

    def close(self) -> None:
        """The end of the run."""
        for file in list(self.files.values()):
            if _enclave(file) and file.enclave.created:
                file.enclave.measurement.close()

    def open(
        self, tracee: Tracee, path: str, fmode: int, *, path_only: bool = False
    ) -> tuple[Any, int]:
        """Open of a device node: (the file, 0) or (None, errno)."""
        self.collect()
        if path_only:
            return PathFile(path), 0
        process = self.process(tracee.space)
        process.tid = tracee.tid
        try:
            file = self.device.open(path, fmode, process)
        except Stop as stop:
            if self.record is not None:
                self.record.open(tracee.tid, path, fmode, -stop.errno, stop.why)
            return None, stop.errno
        return file, 0

    def opened(self, tracee: Tracee, file: Any, fd: int) -> None:
        """The guest has ``fd`` for a file: remember which memfd it is. At an exit stop."""
        own = ptrace.pidfd_getfd(tracee.tgid, fd)
        s = os.fstat(own)
        self.files[s.st_dev, s.st_ino] = file
        self.fds[file] = own
        if self.record is not None:
            self.record.open(tracee.tid, file.path, getattr(file, "fmode", 0), fd, "")
        self.mappings.watch_fd(tracee, fd)

    def file_of(self, tracee: Tracee, fd: int) -> Any:
        """The device file that an fd of a process is, or None."""
        if not self.files:
            return None
        try:
            s = os.stat(f"/proc/{tracee.tid}/fd/{fd}")
        except OSError:
            return None
        return self.files.get((s.st_dev, s.st_ino))

    # -- system calls ------------------------------------------------------------------

    def syscall(self, tracee: Tracee, call: int) -> Any:
        """A traced call: the value for RAX, None to let it run, or DONE."""
        thread = tracee.thread
        if thread is not None and thread.tcs is not None:
            return enter.syscall_inside(self, tracee)
        if call == nr.NR_ioctl:
            return self._ioctl(tracee)
        if call == nr.NR_fstat:
            return self.sup.device_paths.fstat(self.sup, tracee, call, self.view[RDI] & 0xFFFFFFFF)
        if call in (nr.NR_readlink, nr.NR_readlinkat):
            return self.sup.device_paths.readlink(self.sup, tracee, call)
        if call == nr.NR_rt_sigaction:
            masks.sigaction(self, tracee)
            return None
        if call in bpf.FILE_CALLS:
            file = self.file_of(tracee, self.view[RDI] & 0xFFFFFFFF)
            return None if file is None else -errno.EINVAL
        return mmcalls.handle(self, tracee, call)

    def mmap(self, tracee: Tracee) -> bool:
        """An mmap at its seccomp stop: True if it concerned an enclave and was answered."""
        thread = tracee.thread
        if thread is not None and thread.tcs is not None:
            enter.syscall_inside(self, tracee)
            return True
        return mmcalls.mmap(self, tracee)

    def _ioctl(self, tracee: Tracee) -> Any:
        view = self.view
        file = self.file_of(tracee, view[RDI] & 0xFFFFFFFF)
        if file is None:
            return None
        process = self.process(tracee.space)
        process.tid = tracee.tid
        cmd, arg = view[RSI] & 0xFFFFFFFF, view[RDX]
        error, why = self.received(process, file)
        if error:
            answer = -error
        else:
            answer, why = self.device.ioctl(process, file, cmd, arg)
        fd = view[RDI] & 0xFFFFFFFF

        def told(answer: int) -> None:
            if self.record is not None:
                self.record.ioctl(tracee.tid, fd, file, cmd, arg, answer, why, process.memory)

        return self.mappings.answer(tracee, answer, told)

    def received(self, process: HostProcess, file: Any) -> tuple[int, str]:
        """What the LSM says of the first use of a file that came from another process."""
        confinement = self.sup.lsm
        return (0, "") if confinement is None else confinement.received(process, file)

    def verify(self, tracee: Tracee) -> None:
        """Hold the model against the kernel's view of a stopped process of one thread."""
        process = tracee.space.sgx
        if process is not None and len(tracee.space.tracees) == 1:
            from softsgx.supervisor.verify import verify

            verify(process)

    # Methods without a call in between: every ECALL takes both.
    signal = enter.signal
    vdso_enclu = enter.vdso_enclu


def _enclave(file: Any) -> bool:
    return isinstance(file, EnclaveFile)


def _xfrm(sup: Supervisor) -> int:
    """The XSAVE features of this CPU: XCR0, which the kernel notes in the register set."""
    for tid, tracee in sup.tracees.items():
        if tracee.stopped:
            image = ptrace.get_xstate(tid)
            return int.from_bytes(image[464:472], "little") & 0xE7
    return 3
