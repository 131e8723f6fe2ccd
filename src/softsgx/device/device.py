"""The device: one design, and the enclaves that are open under it."""

from __future__ import annotations

from errno import EBADF, ENOENT, ENOTTY
from functools import cached_property, partial

from softsgx.designs.base import Design
from softsgx.device.files import EnclaveFile, PathFile, ProvisionFile
from softsgx.device.ioctls import dispatch
from softsgx.device.ioctls_designs import rows_of
from softsgx.law.rule import At, Lsm, Request, Run, Stop
from softsgx.law.values import RW
from softsgx.mm.mmap import mmap
from softsgx.mm.mprotect import mprotect
from softsgx.model.outcome import Outcome
from softsgx.sdm.xsave import INTEL, XsaveLayout
from softsgx.sgx.enclave import Enclave, EnclaveMemory
from softsgx.sgx.keys import CPUSVN

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from softsgx.attest.quoting import Quoting
    from softsgx.device.process import Process

__all__ = ["Device"]


class Device:
    """A software SGX device under a design.

    lsm: who answers the LSM questions (None: everything is allowed). key_root:
    32 secret bytes that all keys derive from. epc_bytes: what CPUID reports; an
    enclave may be larger, as with a paging driver. xfrm_supported: the XSAVE
    features of this CPU; xsave: where they lie in an XSAVE area. carry_out: calls of loaders
    for Linux are carried out as the design's own (`softsgx.device.carryout`). fmspc (6 bytes),
    ppid (16): what quotes say of the platform; key_root gives them if they are None. added: the
    arguments of an ADD_PAGES that was answered 0, for who takes them away. mapped: grows when what
    the processes map of enclaves changes.
    """

    def __init__(
        self,
        design: Design | None = None,
        *,
        lsm: Lsm | None = None,
        key_root: bytes = bytes(32),
        epc_bytes: int = 128 << 20,
        xfrm_supported: int = 7,
        xsave: XsaveLayout = INTEL,
        carry_out: bool = False,
        fmspc: bytes | None = None,
        ppid: bytes | None = None,
    ) -> None:
        if design is None:
            from softsgx.designs.linux import DEFAULT

            design = DEFAULT()
        self.design = design
        self.run = Run(lsm)
        self.key_root, self.epc_bytes, self.xfrm_supported = key_root, epc_bytes, xfrm_supported
        self.xsave = xsave
        self._fmspc, self._ppid = fmspc, ppid
        self.cpusvn = CPUSVN
        self.ioctls = rows_of(design)
        self.opened = 0
        self.processes: set[Any] = set()
        self.mapped = 0
        self.added: Any = None
        self.carry_out: Any = None
        if carry_out:
            from softsgx.device.carryout import CarryOut

            self.carry_out = CarryOut(self)
            self.ioctls |= self.carry_out.rows()

    def open(self, path: str, fmode: int = RW, process: Any = None) -> Any:
        """Open a device node; ``fmode`` is R and W.

        Raises `Stop` if the LSM denies it, and with ENOENT where the design has no such node.
        """
        path = self.design.aliases.get(path, path)
        enclave_path, provision_path = self.design.paths
        if path == provision_path:
            provision = ProvisionFile(path, fmode)
            self.run.ask("file_open", At(file=provision, process=process), fmode=fmode)
            return provision
        if path != enclave_path:
            raise Stop(ENOENT, f"{path} is no device node of the design {self.design.name}")
        self.opened += 1
        enclave = Enclave(self.design.page_schema, self.xsave)
        enclave.__dict__.update(dict.fromkeys(self.design.enclave_fields, 0))
        file = EnclaveFile(enclave, path, fmode, self.opened, self)
        at = At(file=file, enclave=file.enclave, process=process)
        self.design.open(self.run, at, Request(fmode=fmode))
        return file

    def ioctl(self, process: Any, file: Any, cmd: int, arg: int) -> tuple[int, str]:
        """An ioctl of a process on an open file: (0 or -errno, the condition that refused)."""
        if not isinstance(file, EnclaveFile) or file.base_file is not file:
            if isinstance(file, PathFile):
                return -EBADF, "an fd of a path has no ioctls"
            try:
                self.run.ask("file_ioctl", At(file=file, process=process), cmd=cmd & 0xFFFFFFFF)
            except Stop as stop:
                return -stop.errno, stop.why
            return -ENOTTY, "this file has no ioctls"
        return dispatch(self, process, file, cmd, arg)

    def process(self) -> Process:
        """A new process that does not exist, for use from Python."""
        from softsgx.device.process import Process

        return Process(self)

    @cached_property
    def quoting(self) -> Quoting:
        """What signs REPORTs of this device's enclaves, and the certificates behind it."""
        from softsgx.attest.platform import Platform
        from softsgx.attest.quoting import Quoting

        return Quoting(Platform(self.key_root, self._fmspc, self._ppid))

    @property
    def qe_target_info(self) -> bytes:
        """TARGETINFO (512 bytes) that EREPORT takes for a REPORT which can be quoted."""
        return self.quoting.target_info

    def quote(self, report: bytes) -> bytes:
        """The quote (ECDSA, version 3) of a REPORT of 432 bytes.

        Raises InvalidReportError (SGX_QL_INVALID_REPORT) unless an enclave of this device has made
        it for `qe_target_info`.
        """
        return self.quoting.quote(report)

    # What the supervisor replaces.

    def make_memory(self, file: EnclaveFile, size_bytes: int) -> EnclaveMemory:  # noqa: ARG002
        """Where the pages of a new enclave keep their content."""
        return EnclaveMemory(size_bytes)

    def make_measurement(self, secs: Any) -> Any:
        """A measurement that ECREATE has begun."""
        from softsgx.sgx.measure import Measurement

        m = Measurement()
        m.ecreate(secs.ssaframesize, secs.size)
        return m

    def copy_in(self, process: Any, enclave: Enclave, addr: int, length: int, to: int) -> bool:  # noqa: ARG002
        """Pages of a process's memory to an offset where an enclave has none, in one go.

        False if that is not done: nothing was, and they are read, which tells why.
        """
        return False

    def on_create(self, process: Any, file: EnclaveFile) -> None:
        """ELRANGE of a file's enclave is known from now on."""

    def mmap(
        self,
        process: Any,
        addr: int,
        length: int,
        prot: int,
        flags: int,
        file: Any,
        offset: int = 0,
        placed_at: int | None = None,
    ) -> Outcome:
        """The system call mmap; see `softsgx.mm.mmap`."""
        how = partial(mmap, process.mm)
        if self.carry_out is not None and isinstance(file, EnclaveFile):
            how = partial(self.carry_out.mmap, process)
        outcome: Outcome = how(addr, length, prot, flags, file, offset, placed_at)
        return outcome

    def mprotect(self, process: Any, start: int, length: int, prot: int) -> Outcome:
        """The system call mprotect; see `softsgx.mm.mprotect`."""
        how = partial(mprotect, process.mm)
        if self.carry_out is not None and start % 4096 == 0 and not prot & ~7:
            how = partial(self.carry_out.mprotect, process)
        outcome: Outcome = how(start, length, prot)
        return outcome

    def on_mm(self, process: Any, effects: Any) -> None:  # noqa: ARG002
        """An ioctl changed a process's mappings: ``effects`` are to be carried out in order."""
        process.mm_changed()

    def install(self, process: Any, file: EnclaveFile, flags: int) -> int:  # noqa: ARG002
        """Give a process an fd of a file: the fd (or 0, and it is answered later).

        flags: O_CLOEXEC or 0.
        """
        return int(process.new_fd(file))

    def on_pages(self, file: EnclaveFile, first: int, last: int) -> None:
        """The state of the pages [first, last) changed: mappings of them have to follow."""
