"""The ioctls of v20: the numbers and structures of April 2019.

Handlers follow the order of the patch set's driver/ioctl.c, where all copying from
the user comes before any look at the enclave's state.
"""

from __future__ import annotations

from typing import Any

from softsgx.device import create as checks
from softsgx.device.files import EnclaveFile
from softsgx.device.ioctls import Ioctl, backing_bytes, created, place, secinfo_request
from softsgx.law.rule import At, Request, Stop
from softsgx.sdm.leaves import ATTR_INIT, PAGE_SIZE, PT_TCS
from softsgx.sdm.structs import SECS, SIGSTRUCT, TCS
from softsgx.uapi import sgx as uapi

__all__ = ["V20_IOCTLS", "add_one"]

_LIMIT = 0xFFF
_U64 = 1 << 64


def _create(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    params = uapi.ENCLAVE_CREATE.unpack(process.memory.read(arg, uapi.ENCLAVE_CREATE.size))
    raw = process.memory.read(params.src, SECS.size)
    secs = SECS.unpack(raw)
    power = int(secs.size > 0 and secs.size & (secs.size - 1) == 0)
    error = checks.ecreate_error(
        raw, secs, device.xfrm_supported, device.design.aexnotify, device.xsave
    )
    r = Request(size_is_power_of_two=power, ecreate=error)
    device.design.create(device.run, place(process, file), r)
    created(device, process, file, secs)
    return 0


def _valid_tcs(raw: bytes, size_bytes: int) -> int:
    t = TCS.unpack(raw)
    offsets = (t.ossa, t.ofsbase, t.ogsbase)
    return int(
        not t.flags
        and TCS.reserved_zero(raw)
        and all(o % PAGE_SIZE == 0 and o < size_bytes for o in offsets)
        and t.fslimit & _LIMIT == _LIMIT
        and t.gslimit & _LIMIT == _LIMIT
    )


def _add_page(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    layout = uapi.ADD_PAGE_V20
    p = layout.unpack(process.memory.read(arg, layout.size))
    add_one(device, process, file, p.addr, p.src, p.secinfo, p.mrmask)
    return 0


def add_one(
    device: Any, process: Any, file: EnclaveFile, addr: int, src: int, secinfo: int, mrmask: int
) -> None:
    """ADD_PAGE of one page: ``addr``, ``src`` and ``secinfo`` are the caller's addresses."""
    enclave, law, k, at = file.enclave, device.design, device.run, place(process, file)
    memory = process.memory
    r = secinfo_request(process, secinfo)
    data = memory.read(src, PAGE_SIZE)
    # The address of a page is what is left of it without its low bits (SGX_ENCL_PAGE_ADDR()).
    offset = (addr & -PAGE_SIZE) - enclave.base
    # Of SECS, behind the pages, is the place of address 0 (sgx_encl_get_index()).
    place_in_file = (addr - enclave.base) % _U64 & -PAGE_SIZE if addr >> 12 else enclave.size
    r.__dict__.update(
        inside=int(0 <= offset < enclave.size),
        in_a_file=int(place_in_file < _U64 // 2),
        backed=int(place_in_file < backing_bytes(enclave.size)),
        tcs_valid=_valid_tcs(data, enclave.size) if r.pt == PT_TCS else 1,
    )
    law.validate_secinfo(k, at, r)
    law.validate_tcs(k, at, r)
    law.may_build(k, at, r)
    index = offset >> 12
    word = enclave.pages[index] if r.inside else 0
    cell = enclave.page_schema.cell(word)
    at = At(page=cell, source=memory.source(src), **vars(at))
    law.add_page(k, at, r)
    try:
        law.add_page_worker(k, at, r)
    except Stop:
        enclave.dead = 1
        return
    if r.pt == PT_TCS:
        data = checks.tcs_of_eadd(data, law.aexnotify) or data
    enclave.memory.write(offset, data)
    enclave.measurement.add_page_masked(offset, r.flags, data, mrmask)
    enclave.pages[index] = cell.words[0]
    enclave.touch()
    device.on_pages(file, index, index + 1)


def _init(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    enclave, law, k, at = file.enclave, device.design, device.run, place(process, file)
    params = uapi.ENCLAVE_INIT.unpack(process.memory.read(arg, uapi.ENCLAVE_INIT.size))
    raw = process.memory.read(params.sigstruct, SIGSTRUCT.size)
    # What CREATE was given: INIT is the processor's, set by an EINIT before.
    wanted = enclave.secs.attributes & ~ATTR_INIT if enclave.created else 0
    law.may_init(k, at, Request(attributes_allowed=int(not wanted & ~enclave.attributes_allowed)))
    law.may_build(k, at, None)
    code = checks.einit_error(enclave, raw)
    law.init(k, at, Request(einit=code))
    enclave.touch()
    device.on_pages(file, 0, enclave.pages.n_pages)
    return code


V20_IOCTLS = (
    Ioctl(uapi.SGX_IOC_ENCLAVE_CREATE, "create", _create, abis=("v20",)),
    Ioctl(uapi.SGX_IOC_ENCLAVE_ADD_PAGE_V20, "add_page", _add_page, abis=("v20",)),
    Ioctl(uapi.SGX_IOC_ENCLAVE_INIT, "init", _init, abis=("v20",)),
)
"""/dev/sgx/enclave of v20; SET_ATTRIBUTE is PROVISION under another name."""
