"""The ioctls of /dev/sgx_enclave: arguments in, a rule of the design, results out.

A row is a number, its handler and the design's rule that has to exist for it:
a design without the rule has no such ioctl (-ENOTTY). Handlers follow the order
of Linux's ioctl.c; every decision is a rule's. They return what the ioctl
returns (0 or -errno); `Stop` and `Fault` pass through them.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EFAULT, EINVAL, ENOMEM, ENOTTY
from typing import Any

from softsgx.device import create as checks
from softsgx.device.eadd import add_range
from softsgx.device.files import EnclaveFile, ProvisionFile
from softsgx.device.memory import Fault
from softsgx.device.origins import page_by_page
from softsgx.law.rule import FAULT, At, Request, Stop
from softsgx.sdm.leaves import (
    ATTR_PROVISIONKEY,
    PAGE_SIZE,
    PT_TCS,
    PT_TRIM,
    SECINFO_PT_MASK,
    SECINFO_PT_SHIFT,
    SECINFO_RESERVED_MASK,
    SECINFO_RWX_MASK,
)
from softsgx.sdm.structs import SECINFO, SECS, SIGSTRUCT
from softsgx.uapi import sgx as uapi

__all__ = [
    "IOCTLS",
    "Ioctl",
    "add_range",
    "backing_bytes",
    "change_type",
    "created",
    "dispatch",
    "each_page",
    "ecreate",
    "einit",
    "place",
    "remove_pages",
    "secinfo_of",
    "secinfo_request",
    "sgx2_begin",
    "sgx2_finish",
    "take_sigstruct",
]

_U64 = 1 << 64


class Ioctl:
    """A row: number, name, handler, and the rule that a design has if it offers it.

    abis: `Design.abi` of the designs that may offer it. layout: of its argument, for recordings;
    of an ioctl that `softsgx.uapi` knows it is found by its name.
    """

    __slots__ = ("abis", "cmd", "handler", "layout", "name", "rule")

    def __init__(
        self,
        cmd: int,
        rule: str,
        handler: Callable[..., int],
        name: str = "",
        abis: tuple[str, ...] = ("linux",),
        layout: Any = None,
    ) -> None:
        self.layout = layout
        self.cmd, self.rule, self.handler, self.abis = cmd, rule, handler, abis
        self.name = name or uapi.IOC_NAMES.get(cmd, hex(cmd))


def place(process: Any, file: EnclaveFile) -> At:
    """The place of an ioctl: the enclave, its file, the process that calls."""
    return At(enclave=file.enclave, process=process, file=file)


def _create(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    device.design.may_create(device.run, place(process, file), None)
    params = uapi.ENCLAVE_CREATE.unpack(process.memory.read(arg, uapi.ENCLAVE_CREATE.size))
    ecreate(device, process, file, params.src)
    return 0


def ecreate(device: Any, process: Any, file: EnclaveFile, src: int) -> None:
    """ECREATE of the SECS at an address, as the design's rule has it. Raises Stop, Fault."""
    k, at = device.run, place(process, file)
    raw = process.memory.read(src, SECS.size)
    secs = SECS.unpack(raw)
    error = checks.ecreate_error(
        raw, secs, device.xfrm_supported, device.design.aexnotify, device.xsave
    )
    r = Request(backing_bytes=backing_bytes(secs.size), ecreate=error)
    device.design.create(k, at, r)
    created(device, process, file, secs)


def backing_bytes(size: int) -> int:
    """sgx_encl_create(): the pages, SECS and 128 bytes a page more, as shmem sees the sum."""
    pages = (size + PAGE_SIZE) % _U64
    total = (pages + (pages >> 5)) % _U64
    return total if total < _U64 // 2 else total - _U64


def created(device: Any, process: Any, file: EnclaveFile, secs: Any) -> None:
    """ECREATE has accepted the SECS: the enclave exists. Raises Stop if this machine cannot."""
    enclave = file.enclave
    try:
        memory = device.make_memory(file, secs.size)
    except OSError as error:
        raise Stop(ENOMEM, f"memory for an enclave of {secs.size:#x} bytes") from error
    enclave.attributes_allowed = device.design.unprivileged(place(process, file))
    enclave.ecreate(secs, memory, device.make_measurement(secs))
    enclave.key_root, enclave.cpusvn = device.key_root, device.cpusvn
    device.on_create(process, file)


def _add_pages(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    k, at, law = device.run, place(process, file), device.design
    law.may_build(k, at, None)
    memory, layout = process.memory, uapi.ENCLAVE_ADD_PAGES
    params = layout.unpack(memory.read(arg, layout.size))
    if params.src % PAGE_SIZE:
        raise Stop(EINVAL, "src is page aligned")
    law.validate_range(k, at, params)
    r = secinfo_request(process, params.secinfo)
    law.validate_secinfo(k, at, r)
    r.__dict__["measure"] = measure = bool(params.flags & uapi.SGX_PAGE_MEASURE)
    params.count, stop = add_range(device, process, file, params, r, law.add_page, measure=measure)
    memory.write(arg, layout.pack_record(params))
    if stop is not None:
        raise stop
    device.added = params
    return 0


def secinfo_request(process: Any, addr: int) -> Request:
    """A SECINFO in memory as rules see it: ``flags``, ``pt``, ``perm``, ``reserved_zero``."""
    return secinfo_of(process.memory.read(addr, SECINFO.size))


def secinfo_of(raw: bytes) -> Request:
    """The same of its 64 bytes."""
    known = _secinfos.get(raw)
    if known is None:
        flags = SECINFO.unpack(raw).flags
        reserved = flags & ~(SECINFO_PT_MASK | SECINFO_RWX_MASK) or flags & SECINFO_RESERVED_MASK
        known = {
            "flags": flags,
            "pt": flags >> SECINFO_PT_SHIFT & 0xFF,
            "perm": flags & SECINFO_RWX_MASK,
            "reserved_zero": int(not reserved and SECINFO.reserved_zero(raw)),
        }
        if len(_secinfos) < _MAX_SECINFOS:
            _secinfos[raw] = known
    return Request(**known)


# A loader that adds page by page shows the same few SECINFOs again and again.
_secinfos: dict[bytes, dict[str, int]] = {}
_MAX_SECINFOS = 64


def _init(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    device.design.may_build(device.run, place(process, file), None)
    params = uapi.ENCLAVE_INIT.unpack(process.memory.read(arg, uapi.ENCLAVE_INIT.size))
    einit(device, process, file, params.sigstruct)
    return 0


def take_sigstruct(device: Any, process: Any, file: EnclaveFile, addr: int) -> None:
    """Copy the SIGSTRUCT at an address before INIT, as the design's rule has it; and keep where
    it lay, for the LSM. Raises Stop, Fault.
    """
    file.signature = process.memory.read(addr, SIGSTRUCT.size)
    source = process.memory.source(addr)
    file.enclave.sigstruct = source.kept()
    at = place(process, file)
    at.__dict__["source"] = source
    try:
        device.design.create_sigstruct(device.run, at, Request())
    except Stop:
        file.enclave.sigstruct = None
        raise


def einit(device: Any, process: Any, file: EnclaveFile, addr: int) -> None:
    """EINIT with the SIGSTRUCT at an address, or with the one that CREATE took. Raises Stop."""
    enclave, at = file.enclave, place(process, file)
    taken = getattr(device.design, "create_sigstruct", None) is not None
    _need_args(not (taken and addr), "sigstruct is 0: CREATE had it")
    raw: bytes = file.signature if taken else process.memory.read(addr, SIGSTRUCT.size)
    sig = SIGSTRUCT.unpack(raw)
    code = [0]

    def einit() -> int:
        code[0] = checks.einit_error(enclave, raw)
        return code[0]

    r = Request(
        vendor_known=int(sig.vendor in (0, 0x8086)),
        attributes_allowed=int(not enclave.secs.attributes & ~enclave.attributes_allowed),
        attributes_supported=checks.attributes_known(sig, device.design.aexnotify),
        miscselect_supported=int(not sig.miscselect & sig.miscmask & ~checks.MISCSELECT_SUPPORTED),
        xfrm_supported=int(not sig.xfrm & sig.xfrmmask & ~device.xfrm_supported),
        einit=einit,
    )
    if device.design.vets_sigstruct and not taken:
        source = process.memory.source(addr)
        at.__dict__["source"] = source
        r.__dict__["sigstruct_inside"] = int(addr + SIGSTRUCT.size <= source.end)
        if not vars(enclave).get("sigstruct_kept"):
            enclave.sigstruct = source.kept()
    try:
        device.design.init(device.run, at, r)
    except Stop as stop:
        raise Stop(stop.errno, stop.why, code[0]) from None
    enclave.touch()
    device.on_pages(file, 0, enclave.pages.n_pages)


def _provision(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    params = uapi.ENCLAVE_PROVISION.unpack(process.memory.read(arg, uapi.ENCLAVE_PROVISION.size))
    is_open, other = process.fd_file(params.fd & 0xFFFFFFFF)
    r = Request(fd_open=int(is_open), fd_is_provision=int(isinstance(other, ProvisionFile)))
    device.design.provision(device.run, place(process, file), r)
    file.enclave.attributes_allowed |= ATTR_PROVISIONKEY
    return 0


def sgx2_begin(
    device: Any, process: Any, file: EnclaveFile, arg: int, layout: Any
) -> tuple[At, Any]:
    """What the SGX2 ioctls do alike before their own checks: the place, and what was passed."""
    at = place(process, file)
    device.design.sgx2_ready(device.run, at, Request(sgx2=int(device.design.sgx2)))
    params = layout.unpack(process.memory.read(arg, layout.size))
    device.design.validate_range(device.run, at, params)
    return at, params


def each_page(
    device: Any, process: Any, file: EnclaveFile, params: Any, rule: Any, r: Request
) -> tuple[int, Stop | None]:
    """Run a rule for one page at a time over offset and length: bytes done, and what stopped it."""
    enclave = file.enclave
    first, end = params.offset >> 12, params.offset + params.length >> 12
    done = first
    answer = None
    # A design may let the sum wrap around: no page is beyond the enclave.
    within = min(end, enclave.pages.n_pages)
    runs: Any = list(enclave.pages.runs(first, within)) if first < within else []
    runs = [*runs, (max(first, within), end, 0)] if within < end else runs
    runs = page_by_page(process, enclave, runs, r) if device.design.keeps_origins else runs
    for a, b, word in runs:
        cell = enclave.page_schema.cell(word)
        r.__dict__["inside"] = int(a < enclave.pages.n_pages)
        try:
            at = At(page=cell, enclave=enclave, process=process, file=file)
            rule(device.run, at, r)
        except Stop as stop:
            answer = stop
            break
        if cell.words[0] != word:
            enclave.pages.fill(a, b, cell.words[0])
        done = b
    enclave.touch(first, done)
    if done > first:
        device.on_pages(file, first, done)
    return (done - first) * PAGE_SIZE, answer


def sgx2_finish(process: Any, arg: int, layout: Any, params: Any, stop: Stop | None) -> int:
    """How they end: the structure is written back, and 0, or the `Stop` is raised."""
    if stop is not None and stop.code and not stop.code & FAULT:
        params.result = stop.code
    process.memory.write(arg, layout.pack_record(params))
    if stop is not None:
        raise stop
    return 0


def _restrict(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    layout = uapi.ENCLAVE_RESTRICT_PERMISSIONS
    _, params = sgx2_begin(device, process, file, arg, layout)
    perm = params.permissions
    _need_args(not perm & ~SECINFO_RWX_MASK, "permissions are R, W, X")
    _need_args(not perm & 2 or perm & 1, "W needs R")
    _need_args(not params.result and not params.count, "result and count are 0")
    rule = device.design.restrict_permissions
    params.count, stop = each_page(device, process, file, params, rule, Request(perm=perm))
    return sgx2_finish(process, arg, layout, params, stop)


def _modify_types(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    layout = uapi.ENCLAVE_MODIFY_TYPES
    _, params = sgx2_begin(device, process, file, arg, layout)
    _need_args(not params.page_type & ~0xFF, "page_type is a page type")
    _need_args(not params.result and not params.count, "result and count are 0")
    stop = change_type(device, process, file, params, params.page_type)
    return sgx2_finish(process, arg, layout, params, stop)


def change_type(
    device: Any, process: Any, file: EnclaveFile, params: Any, page_type: int
) -> Stop | None:
    """EMODT of the range, which ``params.count`` tells of; what stopped it."""
    if page_type not in (PT_TCS, PT_TRIM):
        return Stop(EINVAL, "page_type is PT_TCS or PT_TRIM")
    r, rule = Request(pt=page_type), device.design.modify_type
    stop: Stop | None
    params.count, stop = each_page(device, process, file, params, rule, r)
    _forget_tcs(file.enclave, params.offset, params.count)
    return stop


def remove_pages(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    """The handler of REMOVE_PAGES."""
    layout = uapi.ENCLAVE_REMOVE_PAGES
    _, params = sgx2_begin(device, process, file, arg, layout)
    _need_args(not params.count, "count is 0")
    rule = device.design.remove_page
    params.count, stop = each_page(device, process, file, params, rule, Request())
    if params.count:
        file.enclave.memory.discard(params.offset, params.count)
        _forget_tcs(file.enclave, params.offset, params.count)
    return sgx2_finish(process, arg, layout, params, stop)


def _forget_tcs(enclave: Any, offset: int, length: int) -> None:
    for old in [o for o in enclave.tcs if offset <= o < offset + length]:
        if not enclave.tcs[old].busy:
            del enclave.tcs[old]


def _need_args(holds: object, why: str) -> None:
    if not holds:
        raise Stop(EINVAL, why)


_SGX1 = ("linux", "sgx2-v2")

IOCTLS = (
    Ioctl(uapi.SGX_IOC_ENCLAVE_CREATE, "create", _create, abis=_SGX1),
    Ioctl(uapi.SGX_IOC_ENCLAVE_ADD_PAGES, "add_page", _add_pages, abis=_SGX1),
    Ioctl(uapi.SGX_IOC_ENCLAVE_INIT, "init", _init, abis=_SGX1),
    Ioctl(uapi.SGX_IOC_ENCLAVE_PROVISION, "provision", _provision, abis=(*_SGX1, "v20")),
    Ioctl(uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, "restrict_permissions", _restrict),
    Ioctl(uapi.SGX_IOC_ENCLAVE_MODIFY_TYPES, "modify_type", _modify_types),
    Ioctl(uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES, "remove_page", remove_pages),
)
"""/dev/sgx_enclave of Linux 5.11 and later."""


def dispatch(device: Any, process: Any, file: EnclaveFile, cmd: int, arg: int) -> tuple[int, str]:
    """One ioctl on an enclave's file: (0 or -errno, the condition that refused)."""
    cmd &= 0xFFFFFFFF
    at = place(process, file)
    try:
        device.design.ioctl(device.run, at, Request(cmd=cmd))
        row = device.ioctls.get(cmd)
        if row is None:
            return -ENOTTY, f"the design {device.design.name} has no such ioctl"
        return row.handler(device, process, file, arg), ""
    except Stop as stop:
        return -stop.errno, stop.why + (f" (SGX error {stop.code})" if stop.code else "")
    except Fault as fault:
        return -EFAULT, str(fault)
