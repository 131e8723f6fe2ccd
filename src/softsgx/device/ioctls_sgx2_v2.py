"""The ioctls of sgx2-v2: the numbers and structures of February 2022.

What is changed is said in a SECINFO, and two numbers are another ioctl's in what was merged.
"""

from __future__ import annotations

from errno import EINVAL
from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.device.ioctls import (
    Ioctl,
    change_type,
    each_page,
    remove_pages,
    sgx2_begin,
    sgx2_finish,
)
from softsgx.law.rule import Request, Stop
from softsgx.sdm.leaves import SECINFO_PT_MASK, SECINFO_PT_SHIFT, SECINFO_RWX_MASK
from softsgx.sdm.structs import SECINFO
from softsgx.uapi import designs as uapi

__all__ = ["SGX2_V2_IOCTLS"]


def _need(holds: object, why: str) -> None:
    if not holds:
        raise Stop(EINVAL, why)


def _secinfo(process: Any, addr: int, allowed: int, what: str) -> int:
    """The flags of a SECINFO that says nothing else."""
    raw = process.memory.read(addr, SECINFO.size)
    flags = int(SECINFO.unpack(raw).flags)
    _need(not flags & ~allowed, f"SECINFO says {what} and no more")
    _need(SECINFO.reserved_zero(raw), "SECINFO's reserved bytes are 0")
    return flags


def _permissions(process: Any, addr: int) -> int:
    """sgx_perm_from_user_secinfo()."""
    perm = _secinfo(process, addr, SECINFO_RWX_MASK, "permissions")
    _need(not perm & 2 or perm & 1, "W needs R")
    return perm


def _relax(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    """sgx_ioc_enclave_relax_perm()."""
    layout = uapi.RELAX_PERMISSIONS_V2
    _, params = sgx2_begin(device, process, file, arg, layout)
    r = Request(perm=_permissions(process, params.secinfo))
    _need(not params.count, "count is 0")
    rule = device.design.relax_permissions
    params.count, stop = each_page(device, process, file, params, rule, r)
    return sgx2_finish(process, arg, layout, params, stop)


def _restrict(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    """sgx_ioc_enclave_restrict_perm()."""
    layout = uapi.RESTRICT_PERMISSIONS_V2
    _, params = sgx2_begin(device, process, file, arg, layout)
    r = Request(perm=_permissions(process, params.secinfo))
    _need(not params.result and not params.count, "result and count are 0")
    rule = device.design.restrict_permissions
    params.count, stop = each_page(device, process, file, params, rule, r)
    return sgx2_finish(process, arg, layout, params, stop)


def _modify_type(device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
    """sgx_ioc_enclave_modt()."""
    layout = uapi.MODIFY_TYPE_V2
    _, params = sgx2_begin(device, process, file, arg, layout)
    flags = _secinfo(process, params.secinfo, SECINFO_PT_MASK, "a page type")
    _need(not params.result and not params.count, "result and count are 0")
    stop = change_type(device, process, file, params, flags >> SECINFO_PT_SHIFT)
    return sgx2_finish(process, arg, layout, params, stop)


def _row(cmd: int, rule: str, handler: Any, layout: Any) -> Ioctl:
    return Ioctl(cmd, rule, handler, uapi.SGX2_V2_IOC_NAMES[cmd], ("sgx2-v2",), layout)


SGX2_V2_IOCTLS = (
    _row(
        uapi.SGX_IOC_ENCLAVE_RELAX_PERMISSIONS, "relax_permissions", _relax,
        uapi.RELAX_PERMISSIONS_V2,
    ),
    _row(
        uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS_V2, "restrict_permissions", _restrict,
        uapi.RESTRICT_PERMISSIONS_V2,
    ),
    _row(uapi.SGX_IOC_ENCLAVE_MODIFY_TYPE, "modify_type", _modify_type, uapi.MODIFY_TYPE_V2),
    _row(
        uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES_V2, "remove_page", remove_pages, uapi.REMOVE_PAGES_V2
    ),
)  # fmt: skip
"""/dev/sgx_enclave of "x86/sgx and selftests/sgx: Support SGX2" V2."""
