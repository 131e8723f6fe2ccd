"""Enclaves in real processes: the device's objects on one side, tracees on the other.

Imported when a program first opens the device or issues an ENCLU. The rules
decide; here their effects are carried out: memory is a memfd that every process
maps, and the protection of each run of its pages is what the VMA and the EPCM
together allow, so that the CPU itself faults where SGX would.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Any

from softsgx.device.device import Device
from softsgx.device.files import EnclaveFile, PathFile
from softsgx.host import ptrace, state
from softsgx.host.memfd import MemfdMemory, decoy, new_memory
from softsgx.law.rule import Stop
from softsgx.sgx.enclave import EnclaveMemory
from softsgx.supervisor import enter, filecalls, folders, mmcalls, peeks
from softsgx.supervisor.host_process import HostProcess
from softsgx.supervisor.mappings import Mappings
from softsgx.supervisor.remote import Remote, scratch
from softsgx.supervisor.tracee import AddressSpace, Tracee
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RDI, RDX, RSI
from softsgx.uapi.syscalls import SYSCALLS

if TYPE_CHECKING:
    from softsgx.supervisor.loop import Supervisor

__all__ = ["Sgx"]

_STATUS_FLAGS = os.O_APPEND | os.O_NONBLOCK


class _HostDevice(Device):
    """The device behind real processes."""

    def __init__(self, sgx: Sgx, **options: Any) -> None:
        super().__init__(**options)
        self.sgx = sgx

    def make_memory(self, file: EnclaveFile, size_bytes: int) -> EnclaveMemory:
        """A memfd, which mappings made before ECREATE have already."""
        fd = self.sgx.memory_fd(file)
        del self.sgx.early[file]
        return MemfdMemory(fd, size_bytes)

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
        """Note that the caller gets an fd; 0 until it is there."""
        self.sgx.mappings.new_fd = (file, flags)
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
        self.early: dict[Any, int] = {}
        self.hidden_memory: dict[tuple[int, int], PathFile] = {}
        self.memory_keys: dict[Any, tuple[int, int]] = {}
        self.watched: set[int] = set()
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
        noexec = options.dev_noexec
        if noexec is None:
            noexec = bool(os.statvfs("/dev").f_flag & os.ST_NOEXEC)
        self.noexec = int(noexec)
        self.mappings = Mappings(self)
        self.processes: set[HostProcess] = self.device.processes
        if self.record is None and not options.verify and not options.abort_page:
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
        child.sgx = process
        if parent.pid in self.watched:
            self.watched.add(child.pid)

    def thread_ended(self, tracee: Tracee) -> None:
        """A thread that ends inside leaves its TCS busy for ever, as on hardware: it did AEX."""
        if tracee.tid == tracee.tgid:
            self.watched.discard(tracee.tgid)
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
        for tid in self.sup.tracees:  # each thread may have descriptors of its own
            for key in _open_files(tid):
                idle.pop(key, None)
        # An fd of a segment keeps its enclave.
        kept = {f.base_file for k, f in self.files.items() if k not in idle and _enclave(f)}
        for key, file in idle.items():
            if file in kept:
                continue
            del self.files[key]
            self.hidden_memory.pop(self.memory_keys.pop(file, (0, 0)), None)
            if file in self.early:
                os.close(self.early.pop(file))
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
        if isinstance(file, EnclaveFile):
            file.noexec = self.noexec
        return file, 0

    def memory_fd(self, file: EnclaveFile) -> int:
        """The file that an enclave's pages are in, or will be."""
        file = file.base_file
        if file.enclave.created:
            fd: int = file.enclave.memory.fd
            return fd
        if file not in self.early:
            fd = self.early[file] = new_memory(file.path)
            s = os.fstat(fd)
            key = self.memory_keys[file] = (s.st_dev, s.st_ino)
            self.hidden_memory[key] = PathFile(file.path)  # a program that finds it can do nothing
        return self.early[file]

    def memories(self) -> dict[tuple[int, int], EnclaveFile]:
        """(st_dev, st_ino) of the files that enclaves' pages are in: whose they are."""
        found: dict[tuple[int, int], EnclaveFile] = {}
        for file in {f.base_file for f in self.files.values() if isinstance(f, EnclaveFile)}:
            if file.enclave.created or file in self.early:
                s = os.fstat(self.memory_fd(file))
                found[s.st_dev, s.st_ino] = file
        return found

    def install_fd(self, call: Remote, file: Any, flags: int) -> int:
        """Give a tracee a new descriptor of a file, opened with ``flags``: its number or -errno."""
        listener = call.listener
        own = decoy(secret=listener is not None)
        if flags & _STATUS_FLAGS:
            fcntl.fcntl(own, fcntl.F_SETFL, flags & _STATUS_FLAGS)
        s = os.fstat(own)
        fd = call.give(own, cloexec=bool(flags & os.O_CLOEXEC))
        os.close(own)
        if isinstance(file, PathFile) and fd >= 0:
            _only_its_path(call, fd, flags & os.O_CLOEXEC)
        if fd >= 0:
            self.files[s.st_dev, s.st_ino] = file
            self.mappings.watch(call, fd)
        return fd

    def opened(self, tracee: Tracee, file: Any, fd: int) -> None:
        """The guest's open of a file was answered."""
        if self.record is not None:
            self.record.open(tracee.tid, file.path, getattr(file, "fmode", 0), fd, "")

    def file_of(self, tracee: Tracee, fd: int) -> Any:
        """The device file that an fd of a process is, or None."""
        if not self.files:
            return None
        try:
            s = os.stat(f"/proc/{tracee.tid}/fd/{fd}")
        except OSError:
            return None
        key = (s.st_dev, s.st_ino)
        return self.files.get(key) or self.hidden_memory.get(key)

    # -- system calls ------------------------------------------------------------------

    def syscall(self, tracee: Tracee, call: int) -> Any:
        """A traced call: the value for RAX, None to let it run, or DONE."""
        thread = tracee.thread
        if thread is not None and thread.tcs is not None:
            return enter.syscall_inside(self, tracee)
        if tracee.space.dir_fds and call in (nr.NR_getdents, nr.NR_getdents64):
            nodes = list(self.sup.device_paths.nodes.values())
            return folders.listed(self.sup, tracee, call, nodes)
        row = SYSCALLS.get(call)
        if row is None or (tracee.space.ranges and ptrace.event_message(tracee.tid) & 0xFFFF):
            foreign = row is not None or bool(call & nr.X32_BIT)
            return filecalls.unknown(self, tracee, call, foreign)
        if row.file is not None and row.file.stops:
            answer = filecalls.handle(self, tracee, row)
            if answer is not None:
                return answer
        if call in peeks.HANDLERS:
            return peeks.handle(self, tracee, call)
        return mmcalls.handle(self, tracee, call)

    def mmap(self, tracee: Tracee) -> bool:
        """An mmap at its seccomp stop: True if it concerned an enclave and was answered."""
        thread = tracee.thread
        if thread is not None and thread.tcs is not None:
            enter.syscall_inside(self, tracee)
            return True
        return mmcalls.mmap(self, tracee)

    def ioctl(self, tracee: Tracee, file: Any) -> Any:
        """An ioctl on a device's file that is not the VFS's own."""
        view = self.view
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
        """Hold the model against the kernel's view of a stopped thread's process."""
        process = tracee.space.sgx
        if process is not None and not self.mappings.busy:
            from softsgx.supervisor.verify import verify

            verify(process, tracee.tid)

    # Methods without a call in between: every ECALL takes both.
    signal = enter.signal
    vdso_enclu = enter.vdso_enclu


def _only_its_path(call: Remote, fd: int, cloexec: int) -> None:
    """Make a descriptor one of O_PATH, which cannot be handed over as such."""
    space = call.tracee.space
    where = scratch(space)
    space.poke(where, f"/proc/self/fd/{fd}".encode() + b"\0")
    made = call(nr.NR_open, where, os.O_PATH | cloexec)
    if made >= 0:
        call(nr.NR_dup3, made, fd, cloexec)
        call(nr.NR_close, made)


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


def _xfrm(sup: Supervisor) -> int:
    """The XSAVE features of this CPU: XCR0, which the kernel notes in the register set."""
    for tid, tracee in sup.tracees.items():
        if tracee.stopped:
            image = ptrace.get_xstate(tid)
            return int.from_bytes(image[464:472], "little") & 0xE7
    return 3
