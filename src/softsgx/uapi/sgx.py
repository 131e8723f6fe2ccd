"""The SGX device's ioctls and structures: of Linux 5.11 and 6.0, and of the v20 patch set.

Linux numbers only; what the structures point at (SECS, SECINFO, SIGSTRUCT) is the architecture's
and lives in :mod:`softsgx.sdm.structs`. The ioctl numbers follow from the layouts' sizes, as in C.
"""

from __future__ import annotations

from softsgx.sdm.layout import Layout, field, reserved

__all__ = [
    "ADD_PAGE_V20",
    "ENCLAVE_ADD_PAGES",
    "ENCLAVE_CREATE",
    "ENCLAVE_INIT",
    "ENCLAVE_MODIFY_TYPES",
    "ENCLAVE_PROVISION",
    "ENCLAVE_REMOVE_PAGES",
    "ENCLAVE_RESTRICT_PERMISSIONS",
    "ENCLAVE_RUN",
    "ENCLAVE_SET_ATTRIBUTE_V20",
    "IOC_NAMES",
    "SGX_IOC_ENCLAVE_ADD_PAGES",
    "SGX_IOC_ENCLAVE_ADD_PAGE_V20",
    "SGX_IOC_ENCLAVE_CREATE",
    "SGX_IOC_ENCLAVE_INIT",
    "SGX_IOC_ENCLAVE_MODIFY_TYPES",
    "SGX_IOC_ENCLAVE_PROVISION",
    "SGX_IOC_ENCLAVE_REMOVE_PAGES",
    "SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS",
    "SGX_IOC_ENCLAVE_SET_ATTRIBUTE_V20",
    "SGX_IOC_VEPC_REMOVE_ALL",
    "SGX_MAGIC",
    "SGX_PAGE_MEASURE",
    "describe_ioc",
    "io",
    "ioc",
    "ioc_dir",
    "ioc_nr",
    "ioc_size",
    "ioc_type",
    "ior",
    "iow",
    "iowr",
]

SGX_MAGIC = 0xA4

# enum sgx_page_flags: measure the page's contents with ENCLS[EEXTEND].
SGX_PAGE_MEASURE = 0x01

_IOC_NONE, _IOC_WRITE, _IOC_READ = 0, 1, 2


def ioc(direction: int, magic: int, nr: int, size_bytes: int) -> int:
    """_IOC() of asm-generic/ioctl.h: 8 bits nr, 8 bits type, 14 bits size, 2 bits direction."""
    return direction << 30 | size_bytes << 16 | magic << 8 | nr


def io(nr: int, magic: int = SGX_MAGIC) -> int:
    """_IO(): no argument."""
    return ioc(_IOC_NONE, magic, nr, 0)


def iow(nr: int, layout: Layout, magic: int = SGX_MAGIC) -> int:
    """_IOW(): the kernel reads the structure."""
    return ioc(_IOC_WRITE, magic, nr, layout.size)


def ior(nr: int, layout: Layout, magic: int = SGX_MAGIC) -> int:
    """_IOR(): the kernel writes the structure."""
    return ioc(_IOC_READ, magic, nr, layout.size)


def iowr(nr: int, layout: Layout, magic: int = SGX_MAGIC) -> int:
    """_IOWR(): the kernel reads the structure and writes it back."""
    return ioc(_IOC_READ | _IOC_WRITE, magic, nr, layout.size)


def ioc_nr(cmd: int) -> int:
    """_IOC_NR() of an ioctl number."""
    return cmd & 0xFF


def ioc_type(cmd: int) -> int:
    """_IOC_TYPE(): the magic."""
    return cmd >> 8 & 0xFF


def ioc_size(cmd: int) -> int:
    """_IOC_SIZE(): the size of the argument in bytes."""
    return cmd >> 16 & 0x3FFF


def ioc_dir(cmd: int) -> int:
    """_IOC_DIR(): 0 none, 1 the kernel reads, 2 it writes, 3 both."""
    return cmd >> 30 & 0x3


# Linux v6.1, arch/x86/include/uapi/asm/sgx.h.
ENCLAVE_CREATE = Layout("sgx_enclave_create", 8, field("src", 0, "u64"))
ENCLAVE_ADD_PAGES = Layout(
    "sgx_enclave_add_pages",
    48,
    field("src", 0, "u64"),
    field("offset", 8, "u64"),
    field("length", 16, "u64"),
    field("secinfo", 24, "u64"),
    field("flags", 32, "u64"),
    field("count", 40, "u64"),
)
ENCLAVE_INIT = Layout("sgx_enclave_init", 8, field("sigstruct", 0, "u64"))
ENCLAVE_PROVISION = Layout("sgx_enclave_provision", 8, field("fd", 0, "u64"))
ENCLAVE_RESTRICT_PERMISSIONS = Layout(
    "sgx_enclave_restrict_permissions",
    40,
    field("offset", 0, "u64"),
    field("length", 8, "u64"),
    field("permissions", 16, "u64"),
    field("result", 24, "u64"),
    field("count", 32, "u64"),
)
ENCLAVE_MODIFY_TYPES = Layout(
    "sgx_enclave_modify_types",
    40,
    field("offset", 0, "u64"),
    field("length", 8, "u64"),
    field("page_type", 16, "u64"),
    field("result", 24, "u64"),
    field("count", 32, "u64"),
)
ENCLAVE_REMOVE_PAGES = Layout(
    "sgx_enclave_remove_pages",
    24,
    field("offset", 0, "u64"),
    field("length", 8, "u64"),
    field("count", 16, "u64"),
)
# The argument of __vdso_sgx_enter_enclave(); it refuses reserved bytes that are not zero.
ENCLAVE_RUN = Layout(
    "sgx_enclave_run",
    256,
    field("tcs", 0, "u64"),
    field("function", 8, "u32"),
    field("exception_vector", 12, "u16"),
    field("exception_error_code", 14, "u16"),
    field("exception_addr", 16, "u64"),
    field("user_handler", 24, "u64"),
    field("user_data", 32, "u64"),
    reserved("reserved", 40, 216),
)

SGX_IOC_ENCLAVE_CREATE = iow(0x00, ENCLAVE_CREATE)
SGX_IOC_ENCLAVE_ADD_PAGES = iowr(0x01, ENCLAVE_ADD_PAGES)
SGX_IOC_ENCLAVE_INIT = iow(0x02, ENCLAVE_INIT)
SGX_IOC_ENCLAVE_PROVISION = iow(0x03, ENCLAVE_PROVISION)
SGX_IOC_VEPC_REMOVE_ALL = io(0x04)
SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS = iowr(0x05, ENCLAVE_RESTRICT_PERMISSIONS)
SGX_IOC_ENCLAVE_MODIFY_TYPES = iowr(0x06, ENCLAVE_MODIFY_TYPES)
SGX_IOC_ENCLAVE_REMOVE_PAGES = iowr(0x07, ENCLAVE_REMOVE_PAGES)

# "Intel SGX1 support", v20 (17 April 2019), uapi/asm/sgx.h: where it differs. Packed in C.
ADD_PAGE_V20 = Layout(
    "sgx_enclave_add_page (v20)",
    26,
    field("addr", 0, "u64"),
    field("src", 8, "u64"),
    field("secinfo", 16, "u64"),
    field("mrmask", 24, "u16"),
)
ENCLAVE_SET_ATTRIBUTE_V20 = Layout(
    "sgx_enclave_set_attribute (v20)", 8, field("attribute_fd", 0, "u64")
)
SGX_IOC_ENCLAVE_ADD_PAGE_V20 = iow(0x01, ADD_PAGE_V20)
SGX_IOC_ENCLAVE_SET_ATTRIBUTE_V20 = iow(0x03, ENCLAVE_SET_ATTRIBUTE_V20)

# SET_ATTRIBUTE and PROVISION are the same number with the same layout.
IOC_NAMES = {
    SGX_IOC_ENCLAVE_CREATE: "SGX_IOC_ENCLAVE_CREATE",
    SGX_IOC_ENCLAVE_ADD_PAGES: "SGX_IOC_ENCLAVE_ADD_PAGES",
    SGX_IOC_ENCLAVE_ADD_PAGE_V20: "SGX_IOC_ENCLAVE_ADD_PAGE",
    SGX_IOC_ENCLAVE_INIT: "SGX_IOC_ENCLAVE_INIT",
    SGX_IOC_ENCLAVE_PROVISION: "SGX_IOC_ENCLAVE_PROVISION",
    SGX_IOC_VEPC_REMOVE_ALL: "SGX_IOC_VEPC_REMOVE_ALL",
    SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS: "SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS",
    SGX_IOC_ENCLAVE_MODIFY_TYPES: "SGX_IOC_ENCLAVE_MODIFY_TYPES",
    SGX_IOC_ENCLAVE_REMOVE_PAGES: "SGX_IOC_ENCLAVE_REMOVE_PAGES",
}


def describe_ioc(cmd: int) -> str:
    """An ioctl number for the log: its name, or magic, nr, size and direction decoded."""
    name = IOC_NAMES.get(cmd)
    if name is not None:
        return name
    direction = ("none", "write", "read", "read|write")[ioc_dir(cmd)]
    return (
        f"{cmd:#010x} (magic {ioc_type(cmd):#x}, nr {ioc_nr(cmd):#04x}, "
        f"size {ioc_size(cmd)}, {direction})"
    )
