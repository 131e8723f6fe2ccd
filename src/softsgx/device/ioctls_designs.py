"""The ioctls of the designs that never shipped, and which rows a design offers.

Two of them change mappings: what the model did goes to `Device.on_mm`, and whoever
holds the real process carries it out before the ioctl returns.
"""

from __future__ import annotations

from errno import EINVAL, ENOMEM
from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.device.ioctls import (
    IOCTLS,
    Ioctl,
    add_range,
    each_page,
    ecreate,
    place,
    secinfo_request,
    take_sigstruct,
)
from softsgx.device.ioctls_sgx2_v2 import SGX2_V2_IOCTLS
from softsgx.device.ioctls_v20 import V20_IOCTLS
from softsgx.device.segments import SegmentFile
from softsgx.law.rule import At, Context, Request, Stop
from softsgx.law.values import RWX
from softsgx.mm.mprotect import protect
from softsgx.mm.vma import Vma
from softsgx.model.effect import Effect
from softsgx.model.outcome import Outcome
from softsgx.sdm.leaves import PAGE_SIZE
from softsgx.uapi import designs as uapi
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED
from softsgx.uapi.sgx import SGX_PAGE_MEASURE

__all__ = [
    "DESIGN_IOCTLS", "declare", "ioc_mprotect", "map_segment", "rows_of", "segment_of_add",
]  # fmt: skip

_O_CLOEXEC = 0o2000000
_TOP = 1 << 64


def _need(errno: int, holds: object, why: str) -> None:
    if not holds:
        raise Stop(errno, why)


def _add_region(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    k, at, law, memory = device.run, place(process, file), device.design, process.memory
    late = file.enclave.initialized
    if late:
        law.sgx2_ready(k, at, Request(sgx2=int(law.sgx2)))
    else:
        law.may_build(k, at, None)
    layout = uapi.ADD_REGION
    params = layout.unpack(memory.read(arg, layout.size))
    _need(EINVAL, params.src % PAGE_SIZE == 0, "src is page aligned")
    _need(EINVAL, not params.flags & ~SGX_PAGE_MEASURE, "known flags")
    law.validate_range(k, at, params)
    r = secinfo_request(process, params.secinfo)
    r.__dict__.update(measure=int(params.flags), source_given=int(params.src != 0))
    declare(law, r, params.segment)
    (law.validate_augment if late else law.validate_secinfo)(k, at, r)
    segment = segment_of_add(device, process, file, r)
    if late:
        params.count, stop = each_page(device, process, file, params, law.augment, r)
    else:
        params.count, stop = add_range(
            device, process, file, params, r, law.add_region, measure=bool(r.measure)
        )
    if segment is not None and params.count:
        file.segments.setdefault(segment.segment, segment)
    memory.write(arg, layout.pack_record(params))
    if stop is not None:
        raise stop
    return 0


def declare(law: Any, r: Request, what: int) -> None:
    """What the caller says of the pages, under the name that the design has for it."""
    _need(EINVAL, law.declares or not what, "the design has nothing to declare")
    _need(EINVAL, not what & ~law.declarable, "what is declared can be declared")
    r.__dict__[law.declares or "segment"] = what


def segment_of_add(device: Any, process: Any, file: EnclaveFile, r: Request) -> Any:
    """The segment that the pages join, made if it is the first time; None in other designs."""
    law = device.design
    if getattr(law, "validate_segment", None) is None:
        return None
    law.validate_segment(device.run, place(process, file), r)
    segment = file.segments.get(r.segment)
    if segment is None:
        segment = SegmentFile(file, r.segment, process, law.inode_private)
        at = At(file=segment, enclave=file.enclave, process=process)
        law.make_segment(device.run, at, r)
    return segment


def _mprotect(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    p = uapi.MPROTECT.unpack(process.memory.read(arg, uapi.MPROTECT.size))
    _need(EINVAL, p.addr % PAGE_SIZE == 0, "address is page-aligned")
    _need(EINVAL, not p.prot & ~RWX, "prot is R, W, X")
    if not p.length:
        return 0
    end = p.addr + (p.length + PAGE_SIZE - 1 & -PAGE_SIZE)
    _need(ENOMEM, end < _TOP, "range does not overflow")
    outcome = ioc_mprotect(device, process, file, p.addr, end, p.prot)
    device.on_mm(process, outcome.effects)
    if outcome.errno:
        raise Stop(outcome.errno, outcome.why)
    return 0


def ioc_mprotect(
    device: Any, process: Any, file: EnclaveFile, start: int, end: int, prot: int
) -> Outcome:
    """SGX_IOC_MPROTECT of [start, end), VMA by VMA, on the model."""

    def rule(k: Context, at: Any, r: Any) -> None:
        r.__dict__["same_enclave"] = int(getattr(at.file, "enclave", None) is file.enclave)
        device.design.ioc_mprotect(k, at, r)

    outcome: Outcome = protect(process.mm, start, end, prot, rule)
    return outcome


def _extend_permissions(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    enclave, at = file.enclave, place(process, file)
    p = uapi.EXTEND_PERMISSIONS.unpack(process.memory.read(arg, uapi.EXTEND_PERMISSIONS.size))
    _need(EINVAL, not p.permissions & ~RWX, "permissions are R, W, X")
    device.design.validate_range(device.run, at, p)
    start = enclave.base + p.offset
    pages = file.pages(start, start + p.length)
    at = At(page=pages, **vars(at))
    device.design.extend_permissions(device.run, at, Request(perm=p.permissions))
    process.mm.keep(at)
    return 0


def _covered(process: Any, file: EnclaveFile, start: int, end: int) -> int:
    """1 if mappings of the enclave leave no hole in the range."""
    here = start
    for vma in process.mm.overlapping(start, end):
        if vma.start > here or getattr(vma.file, "enclave", None) is not file.enclave:
            return 0
        here = vma.end
    return int(here >= end)


def _map_segment(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    p = uapi.MAP_SEGMENT.unpack(process.memory.read(arg, uapi.MAP_SEGMENT.size))
    _need(EINVAL, p.addr % PAGE_SIZE == 0 and p.length, "an aligned range that is not empty")
    _need(EINVAL, 0 < p.segment <= RWX, "the segment is a mask of R, W, X")
    _need(EINVAL, not p.prot & ~RWX, "prot is R, W, X")
    start, end = p.addr, p.addr + (p.length + PAGE_SIZE - 1 & -PAGE_SIZE)
    _need(ENOMEM, end < _TOP, "range does not overflow")
    effects = map_segment(device, process, file, start, end, p.segment, p.prot)
    device.on_mm(process, effects)
    return 0


def map_segment(
    device: Any, process: Any, file: EnclaveFile, start: int, end: int, mask: int, prot: int
) -> list[Effect]:
    """SGX_IOC_MAP_SEGMENT of [start, end) on the model; raises Stop."""
    mm, segment = process.mm, file.segments.get(mask)
    exists = int(segment is not None)
    if segment is None:
        segment = SegmentFile(file, mask, process)
    vma = Vma(start, end, shared=True, special=True, file=segment)
    vma.pgoff = max(start - file.enclave.base, 0) >> 12
    cell = vma.cell(mm.schema_for(segment))
    at = mm.at(segment, cell, None, start, end)
    r = Request(
        start=start,
        end=end,
        length_bytes=end - start,
        prot=mm.implied(prot, 1) & RWX,
        reqprot=prot,
        map_type=MAP_SHARED,
        fixed=1,
        segment_exists=exists,
        covered=_covered(process, file, start, end),
    )
    device.design.map_segment(device.run, at, r)
    mm.may_unmap(start, end, segment)
    mm.keep(at)
    vma.load(cell)
    effects: list[Effect] = mm.replace(vma, MAP_SHARED | MAP_FIXED)
    return effects


def _segment_fd(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    p = uapi.SEGMENT_FD.unpack(process.memory.read(arg, uapi.SEGMENT_FD.size))
    _need(EINVAL, 0 < p.segment <= RWX, "the segment is a mask of R, W, X")
    _need(EINVAL, not p.flags & ~_O_CLOEXEC, "flags are O_CLOEXEC or 0")
    segment = file.segments.get(p.segment)
    r = Request(segment_exists=int(segment is not None))
    device.design.segment_fd(device.run, place(process, file), r)
    return int(device.install(process, segment, p.flags))


def _create_sigstruct(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    law = device.design
    law.may_create(device.run, place(process, file), None)
    layout = uapi.CREATE_SIGSTRUCT
    params = layout.unpack(process.memory.read(arg, layout.size))
    take_sigstruct(device, process, file, params.sigstruct)
    try:
        ecreate(device, process, file, params.src)
    finally:
        if not file.enclave.created:
            file.enclave.sigstruct = None
    return 0


def _row(cmd: int, rule: str, handler: Any) -> Ioctl:
    return Ioctl(cmd, rule, handler, uapi.DESIGN_IOC_NAMES[cmd])


DESIGN_IOCTLS = (
    _row(uapi.SGX_IOC_ADD_REGION, "add_region", _add_region),
    _row(uapi.SGX_IOC_MPROTECT, "ioc_mprotect", _mprotect),
    _row(uapi.SGX_IOC_EXTEND_PERMISSIONS, "extend_permissions", _extend_permissions),
    _row(uapi.SGX_IOC_MAP_SEGMENT, "map_segment", _map_segment),
    _row(uapi.SGX_IOC_SEGMENT_FD, "segment_fd", _segment_fd),
    _row(uapi.SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT, "create_sigstruct", _create_sigstruct),
)
"""softsgx_designs.h."""


def rows_of(design: Any) -> dict[int, Ioctl]:
    """The ioctls of a design by number: those whose rule it has, in its own ABI, and its own."""
    every = (*IOCTLS, *V20_IOCTLS, *SGX2_V2_IOCTLS, *DESIGN_IOCTLS)
    shared = (row for row in every if design.abi in row.abis)
    return {
        row.cmd: row
        for row in (*shared, *design.ioctls)
        if getattr(design, row.rule, None) is not None and row.cmd not in design.lacks
    }
