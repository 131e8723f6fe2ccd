"""What an ioctl was given: its name and its argument's fields, by the kernel's own naming.

The number ``SGX_IOC_ENCLAVE_CREATE`` has the argument ``struct sgx_enclave_create``, so
there is no table here that could disagree with the ABI's.
"""

from __future__ import annotations

from typing import Any

from softsgx.device.memory import Fault
from softsgx.sdm.layout import Layout
from softsgx.sdm.structs import SECINFO
from softsgx.uapi import designs, sgx

__all__ = ["arguments", "name"]

_NAMES = sgx.IOC_NAMES | designs.DESIGN_IOC_NAMES
_BY_STRUCT = {
    (layout.name.split()[0].upper().replace("SGX_", "SGX_IOC_", 1), layout.size): layout
    for layout in (*vars(sgx).values(), *vars(designs).values())
    if isinstance(layout, Layout)
}
_LAYOUTS = {
    cmd: _BY_STRUCT[ioc, sgx.ioc_size(cmd)]
    for cmd, ioc in _NAMES.items()
    if (ioc, sgx.ioc_size(cmd)) in _BY_STRUCT
}


def name(cmd: int) -> str:
    """The name of an ioctl number, or what it consists of."""
    return _NAMES.get(cmd) or sgx.describe_ioc(cmd)


def arguments(cmd: int, arg: int, memory: Any, own: Any = None) -> dict[str, int] | None:
    """The fields of the structure that ``arg`` points to, and ``secinfo_flags`` of its SECINFO.

    own: the structure's layout, of a design's own ioctl. None for an ioctl without a structure, or
    one that cannot be read.
    """
    layout = own or _LAYOUTS.get(cmd)
    if layout is None:
        return None
    try:
        args = dict(vars(layout.unpack(memory.read(arg, layout.size))))
        if "secinfo" in args:
            args["secinfo_flags"] = SECINFO.unpack(memory.read(args["secinfo"], 64)).flags
    except Fault:
        return None
    return {field: value for field, value in args.items() if isinstance(value, int)}
