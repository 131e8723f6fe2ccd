"""Build an enclave from Python: what a loader does, as a few calls.

For processes that do not exist, whose memory is a `ByteMemory`, under designs with the
ioctls of Linux 5.11. Each call is a real ioctl of the device, with its structures in the
process's memory; a refusal is a `Refused` with the errno.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from softsgx.device.process import Process
from softsgx.errors import SoftsgxError
from softsgx.sdm import sigstruct
from softsgx.sdm.leaves import ATTR_MODE64BIT, PAGE_SIZE, PT_REG, PT_TCS, SECINFO_PT_SHIFT
from softsgx.sdm.structs import SECINFO, SECS, TCS
from softsgx.uapi import sgx as uapi
from softsgx.uapi.errno import errno_name

__all__ = [
    "Refused",
    "Segment",
    "add_segment",
    "build_enclave",
    "create",
    "init",
    "ioctl",
    "measure",
    "tcs_page",
]


class Refused(SoftsgxError):
    """The device refused an ioctl: ``call`` is its name, ``errno`` positive, ``why`` the rule's."""

    def __init__(self, call: str, errno: int, why: str) -> None:
        super().__init__(f"{call} is refused with {errno_name(errno)}: {why or 'no reason'}")
        self.call, self.errno, self.why = call, errno, why


class Segment:
    """Pages to add: ``data`` (padded to whole pages) at ``offset`` bytes from the base.

    perm: R = 1, W = 2, X = 4; tcs: it is a TCS, whose perm is 0. measured: with EEXTEND.
    source_may, source_prot: the VM_MAY* and the permissions of the memory that it comes from.
    """

    __slots__ = ("data", "measured", "offset", "perm", "source_may", "source_prot", "tcs")

    def __init__(
        self,
        offset: int,
        data: bytes,
        perm: int = 0,
        *,
        tcs: bool = False,
        measured: bool = True,
        source_prot: int = 3,
        source_may: int = 7,
    ) -> None:
        self.offset, self.perm, self.tcs, self.measured = offset, perm, tcs, measured
        self.data = bytes(data) + bytes(-len(data) % PAGE_SIZE)
        self.source_prot, self.source_may = source_prot, source_may

    @property
    def secinfo_flags(self) -> int:
        """SECINFO.FLAGS of its pages."""
        return self.perm | (PT_TCS if self.tcs else PT_REG) << SECINFO_PT_SHIFT


def tcs_page(entry: int, ssa: int, nssa: int = 2, **fields: int) -> bytes:
    """A TCS (4096 bytes): ``entry`` and ``ssa`` are offsets in the enclave, in bytes.

    nssa: SSA frames. fields: others of `softsgx.sdm.structs.TCS`, such as ofsbase.
    """
    limits = {"fslimit": 0xFFFFFFFF, "gslimit": 0xFFFFFFFF}
    return TCS.pack(oentry=entry, ossa=ssa, nssa=nssa, **(limits | fields))


def ioctl(process: Process, fd: int, cmd: int, argument: bytes) -> bytes:
    """An ioctl with a structure: the structure as it is afterwards. Raises Refused."""
    addr = process.memory.put(argument)
    try:
        answer, why = process.device.ioctl(process, process.files[fd], cmd, addr)
        after: bytes = process.memory.read(addr, len(argument))
    finally:
        process.memory.drop(addr)
    if answer < 0:
        raise Refused(uapi.describe_ioc(cmd), -answer, why)
    return after


def create(process: Process, fd: int, base: int, size: int, **secs: Any) -> None:
    """SGX_IOC_ENCLAVE_CREATE of ``size`` bytes at ``base``.

    secs: other fields of the SECS; by default a 64-bit enclave of x87 and SSE with one page
    an SSA frame.
    """
    values = {"ssaframesize": 1, "attributes": ATTR_MODE64BIT, "xfrm": 3} | secs
    src = process.memory.put(SECS.pack(size=size, baseaddr=base, **values))
    try:
        ioctl(process, fd, uapi.SGX_IOC_ENCLAVE_CREATE, uapi.ENCLAVE_CREATE.pack(src=src))
    finally:
        process.memory.drop(src)


def add_segment(process: Process, fd: int, segment: Segment) -> int:
    """SGX_IOC_ENCLAVE_ADD_PAGES of a segment: how many bytes were added."""
    memory, layout = process.memory, uapi.ENCLAVE_ADD_PAGES
    src = memory.put(segment.data, prot=segment.source_prot, may=segment.source_may)
    secinfo = memory.put(SECINFO.pack(flags=segment.secinfo_flags))
    argument = layout.pack(
        src=src,
        offset=segment.offset,
        length=len(segment.data),
        secinfo=secinfo,
        flags=uapi.SGX_PAGE_MEASURE if segment.measured else 0,
    )
    try:
        after = ioctl(process, fd, uapi.SGX_IOC_ENCLAVE_ADD_PAGES, argument)
    finally:
        memory.drop(src)
        memory.drop(secinfo)
    return int(layout.unpack(after).count)


def measure(size: int, segments: Iterable[Segment], ssa_frame_pages: int = 1) -> bytes:
    """MRENCLAVE (32 bytes) of an enclave of ``size`` bytes with these segments, in this order."""
    from softsgx.sgx.measure import Measurement

    m = Measurement()
    m.ecreate(ssa_frame_pages, size)
    for s in segments:
        m.add_pages(s.offset, s.secinfo_flags, s.data, s.measured)
    return m.digest()


def init(process: Process, fd: int, signed: bytes) -> None:
    """SGX_IOC_ENCLAVE_INIT with a SIGSTRUCT of 1808 bytes."""
    where = process.memory.put(signed)
    try:
        ioctl(process, fd, uapi.SGX_IOC_ENCLAVE_INIT, uapi.ENCLAVE_INIT.pack(sigstruct=where))
    finally:
        process.memory.drop(where)


def build_enclave(
    process: Process, base: int, size: int, segments: Iterable[Segment], key: bytes, **secs: Any
) -> int:
    """Open the device, create, add the segments, sign and init: the fd.

    key: a PEM signing key, RSA-3072 with exponent 3, as of `softsgx.sdm.sigstruct.new_key`.
    secs: fields of the SECS, as for `create`; SIGSTRUCT asks for the same ATTRIBUTES, XFRM
    and MISCSELECT. Raises Refused, and `softsgx.law.rule.Stop` if opening is denied.
    """
    segments = list(segments)
    fd = process.open(process.device.design.paths[0])
    create(process, fd, base, size, **secs)
    for segment in segments:
        add_segment(process, fd, segment)
    hashed = measure(size, segments, secs.get("ssaframesize", 1))
    wanted = {
        "attributes": secs.get("attributes", ATTR_MODE64BIT),
        "xfrm": secs.get("xfrm", 3),
        "miscselect": secs.get("miscselect", 0),
    }
    init(process, fd, sigstruct.sign(key, enclavehash=hashed, **wanted))
    return fd
