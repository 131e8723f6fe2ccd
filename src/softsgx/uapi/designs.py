"""The ioctls of the designs that never shipped: numbers from 0x20 up in SGX's magic.

A series that had numbers of its own has those. The C header for authors of loaders is
include/softsgx_designs.h; a test compiles it and compares every number, size and offset.
"""

from __future__ import annotations

from softsgx.sdm.layout import Layout, field
from softsgx.uapi.sgx import iow, iowr

__all__ = [
    "ADD_REGION",
    "CREATE_SIGSTRUCT",
    "DESIGN_IOC_NAMES",
    "EXTEND_PERMISSIONS",
    "MAP_SEGMENT",
    "MODIFY_TYPE_V2",
    "MPROTECT",
    "RELAX_PERMISSIONS_V2",
    "REMOVE_PAGES_V2",
    "RESTRICT_PERMISSIONS_V2",
    "SEGMENT_FD",
    "SGX2_V2_IOC_NAMES",
    "SGX_IOC_ADD_REGION",
    "SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT",
    "SGX_IOC_ENCLAVE_MODIFY_TYPE",
    "SGX_IOC_ENCLAVE_RELAX_PERMISSIONS",
    "SGX_IOC_ENCLAVE_REMOVE_PAGES_V2",
    "SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS_V2",
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
CREATE_SIGSTRUCT = Layout(
    "sgx_enclave_create_sigstruct",
    16,
    field("src", 0, "u64"),
    field("sigstruct", 8, "u64"),
)

SGX_IOC_ADD_REGION = iowr(0x20, ADD_REGION)
SGX_IOC_MPROTECT = iow(0x21, MPROTECT)
SGX_IOC_EXTEND_PERMISSIONS = iow(0x22, EXTEND_PERMISSIONS)
SGX_IOC_MAP_SEGMENT = iow(0x23, MAP_SEGMENT)
SGX_IOC_SEGMENT_FD = iow(0x24, SEGMENT_FD)
SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT = iow(0x25, CREATE_SIGSTRUCT)

DESIGN_IOC_NAMES = {
    SGX_IOC_ADD_REGION: "SGX_IOC_ADD_REGION",
    SGX_IOC_MPROTECT: "SGX_IOC_MPROTECT",
    SGX_IOC_EXTEND_PERMISSIONS: "SGX_IOC_EXTEND_PERMISSIONS",
    SGX_IOC_MAP_SEGMENT: "SGX_IOC_MAP_SEGMENT",
    SGX_IOC_SEGMENT_FD: "SGX_IOC_SEGMENT_FD",
    SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT: "SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT",
}

# "x86/sgx and selftests/sgx: Support SGX2" V2 (7 February 2022), uapi/asm/sgx.h: permissions and
# types come in a SECINFO, and the numbers from 0x06 on are not those that were merged.
RELAX_PERMISSIONS_V2 = Layout(
    "sgx_enclave_relax_perm",
    32,
    field("offset", 0, "u64"),
    field("length", 8, "u64"),
    field("secinfo", 16, "u64"),
    field("count", 24, "u64"),
)
RESTRICT_PERMISSIONS_V2 = Layout(
    "sgx_enclave_restrict_perm",
    40,
    field("offset", 0, "u64"),
    field("length", 8, "u64"),
    field("secinfo", 16, "u64"),
    field("result", 24, "u64"),
    field("count", 32, "u64"),
)
MODIFY_TYPE_V2 = Layout(
    "sgx_enclave_modt",
    40,
    field("offset", 0, "u64"),
    field("length", 8, "u64"),
    field("secinfo", 16, "u64"),
    field("result", 24, "u64"),
    field("count", 32, "u64"),
)
REMOVE_PAGES_V2 = Layout(
    "sgx_enclave_remove_pages_v2",
    24,
    field("offset", 0, "u64"),
    field("length", 8, "u64"),
    field("count", 16, "u64"),
)

SGX_IOC_ENCLAVE_RELAX_PERMISSIONS = iowr(0x05, RELAX_PERMISSIONS_V2)
SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS_V2 = iowr(0x06, RESTRICT_PERMISSIONS_V2)
SGX_IOC_ENCLAVE_MODIFY_TYPE = iowr(0x07, MODIFY_TYPE_V2)
SGX_IOC_ENCLAVE_REMOVE_PAGES_V2 = iowr(0x08, REMOVE_PAGES_V2)

SGX2_V2_IOC_NAMES = {
    SGX_IOC_ENCLAVE_RELAX_PERMISSIONS: "SGX_IOC_ENCLAVE_RELAX_PERMISSIONS",
    SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS_V2: "SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS",
    SGX_IOC_ENCLAVE_MODIFY_TYPE: "SGX_IOC_ENCLAVE_MODIFY_TYPE",
    SGX_IOC_ENCLAVE_REMOVE_PAGES_V2: "SGX_IOC_ENCLAVE_REMOVE_PAGES",
}
"""By the series' own names: 0xC028A406 is MODIFY_TYPES in what was merged."""
