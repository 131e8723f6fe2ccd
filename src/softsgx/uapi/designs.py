"""The ioctls of the designs that never shipped: numbers from 0x20 up in SGX's magic.

The C header for authors of loaders is include/softsgx_designs.h; a test compiles
it and compares every number, size and offset.
"""

from __future__ import annotations

from softsgx.sdm.layout import Layout, field
from softsgx.uapi.sgx import iow, iowr

__all__ = [
    "ADD_REGION",
    "DESIGN_IOC_NAMES",
    "EXTEND_PERMISSIONS",
    "MAP_SEGMENT",
    "MPROTECT",
    "SEGMENT_FD",
    "SGX_IOC_ADD_REGION",
    "SGX_IOC_EXTEND_PERMISSIONS",
    "SGX_IOC_MAP_SEGMENT",
    "SGX_IOC_MPROTECT",
    "SGX_IOC_SEGMENT_FD",
]

ADD_REGION = Layout(
    "sgx_add_region",
    56,
    field("src", 0, "u64"),
    field("offset", 8, "u64"),
    field("length", 16, "u64"),
    field("secinfo", 24, "u64"),
    field("flags", 32, "u64"),
    field("count", 40, "u64"),
    field("segment", 48, "u64"),
)
MPROTECT = Layout(
    "sgx_mprotect",
    24,
    field("addr", 0, "u64"),
    field("length", 8, "u64"),
    field("prot", 16, "u64"),
)
EXTEND_PERMISSIONS = Layout(
    "sgx_extend_permissions",
    24,
    field("offset", 0, "u64"),
    field("length", 8, "u64"),
    field("permissions", 16, "u64"),
)
MAP_SEGMENT = Layout(
    "sgx_map_segment",
    32,
    field("addr", 0, "u64"),
    field("length", 8, "u64"),
    field("segment", 16, "u64"),
    field("prot", 24, "u64"),
)
SEGMENT_FD = Layout(
    "sgx_segment_fd",
    16,
    field("segment", 0, "u64"),
    field("flags", 8, "u64"),
)

SGX_IOC_ADD_REGION = iowr(0x20, ADD_REGION)
SGX_IOC_MPROTECT = iow(0x21, MPROTECT)
SGX_IOC_EXTEND_PERMISSIONS = iow(0x22, EXTEND_PERMISSIONS)
SGX_IOC_MAP_SEGMENT = iow(0x23, MAP_SEGMENT)
SGX_IOC_SEGMENT_FD = iow(0x24, SEGMENT_FD)

DESIGN_IOC_NAMES = {
    SGX_IOC_ADD_REGION: "SGX_IOC_ADD_REGION",
    SGX_IOC_MPROTECT: "SGX_IOC_MPROTECT",
    SGX_IOC_EXTEND_PERMISSIONS: "SGX_IOC_EXTEND_PERMISSIONS",
    SGX_IOC_MAP_SEGMENT: "SGX_IOC_MAP_SEGMENT",
    SGX_IOC_SEGMENT_FD: "SGX_IOC_SEGMENT_FD",
}
