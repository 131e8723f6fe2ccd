"""Our numbers and layouts against C headers that we did not write.

Every value is printed by a program that gcc compiles from the same names. The SDM's structures are
compared with a kernel's asm/sgx.h as well, if SOFTSGX_LINUX_SRC names a kernel source tree.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from softsgx.sdm import structs
from softsgx.sdm.layout import Layout
from softsgx.uapi import errno, mman, sgx, syscalls

needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="no gcc on PATH; install gcc and linux-libc-dev to force it"
)
needs_uapi = pytest.mark.skipif(
    not any(
        Path(p, "asm/sgx.h").exists() for p in ("/usr/include", "/usr/include/x86_64-linux-gnu")
    ),
    reason="no asm/sgx.h; install linux-libc-dev (5.11 or later) to force it",
)


def c_values(
    tmp_path: Path, head: str, expressions: list[str], flags: tuple[str, ...] = ()
) -> dict[str, int]:
    """What C says of each expression, as unsigned 64-bit."""
    lines = "\n".join(
        f'printf("%llu\\n", (unsigned long long)({expression}));' for expression in expressions
    )
    source = tmp_path / "probe.c"
    source.write_text(
        f"#include <stddef.h>\n#include <stdio.h>\n{head}\nint main(void) {{\n{lines}\n}}\n"
    )
    program = tmp_path / "probe"
    subprocess.run(["gcc", "-w", *flags, "-o", program, source], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return dict(zip(expressions, map(int, output.split()), strict=True))


def of_layout(layout: Layout, c_type: str, c_names: dict[str, str]) -> dict[str, int]:
    """sizeof and offsetof expressions of a C type, and what our table says of them."""
    ours = {f"sizeof({c_type})": layout.size}
    for row in layout.fields:
        name = c_names.get(row.name, row.name)
        if name:
            ours[f"offsetof({c_type}, {name})"] = row.offset
            ours[f"sizeof((({c_type} *)0)->{name})"] = row.size
    return ours


@needs_gcc
@needs_uapi
def test_ioctls_and_their_structs(tmp_path: Path) -> None:
    ours: dict[str, int] = {"SGX_PAGE_MEASURE": sgx.SGX_PAGE_MEASURE, "SGX_MAGIC": sgx.SGX_MAGIC}
    for number, name in sgx.IOC_NAMES.items():
        if number != sgx.SGX_IOC_ENCLAVE_ADD_PAGE_V20:
            ours[name] = number
    for layout in (
        sgx.ENCLAVE_CREATE,
        sgx.ENCLAVE_ADD_PAGES,
        sgx.ENCLAVE_INIT,
        sgx.ENCLAVE_PROVISION,
        sgx.ENCLAVE_RESTRICT_PERMISSIONS,
        sgx.ENCLAVE_MODIFY_TYPES,
        sgx.ENCLAVE_REMOVE_PAGES,
        sgx.ENCLAVE_RUN,
    ):
        ours |= of_layout(layout, f"struct {layout.name}", {})
    assert c_values(tmp_path, "#include <asm/sgx.h>", list(ours)) == ours


@needs_gcc
def test_v20_ioctls(tmp_path: Path) -> None:
    # The v20 header is in no package; its two structs are written out from the posted patch.
    head = """
        #include <linux/ioctl.h>
        #include <linux/types.h>
        struct add_page { __u64 addr, src, secinfo; __u16 mrmask; } __attribute__((__packed__));
        struct set_attribute { __u64 attribute_fd; };
    """
    ours = of_layout(sgx.ADD_PAGE_V20, "struct add_page", {})
    ours |= of_layout(sgx.ENCLAVE_SET_ATTRIBUTE_V20, "struct set_attribute", {})
    ours["_IOW(0xA4, 0x01, struct add_page)"] = sgx.SGX_IOC_ENCLAVE_ADD_PAGE_V20
    ours["_IOW(0xA4, 0x03, struct set_attribute)"] = sgx.SGX_IOC_ENCLAVE_SET_ATTRIBUTE_V20
    assert c_values(tmp_path, head, list(ours)) == ours
    assert sgx.SGX_IOC_ENCLAVE_ADD_PAGE_V20 == 0x401AA401
    assert sgx.SGX_IOC_ENCLAVE_SET_ATTRIBUTE_V20 == 0x4008A403


@needs_gcc
def test_ioc_helpers(tmp_path: Path) -> None:
    cmd = sgx.ior(0x2A, sgx.ENCLAVE_ADD_PAGES, magic=0x57)
    ours = {
        "_IOR(0x57, 0x2A, char[48])": cmd,
        f"_IOC_NR({cmd:#x}u)": sgx.ioc_nr(cmd),
        f"_IOC_TYPE({cmd:#x}u)": sgx.ioc_type(cmd),
        f"_IOC_SIZE({cmd:#x}u)": sgx.ioc_size(cmd),
        f"_IOC_DIR({cmd:#x}u)": sgx.ioc_dir(cmd),
    }
    assert c_values(tmp_path, "#include <linux/ioctl.h>", list(ours)) == ours


@needs_gcc
def test_mman_constants(tmp_path: Path) -> None:
    names = ("PROT_", "MAP_", "MREMAP_", "MADV_", "MFD_", "SHM_")
    ours = {
        k: v
        for k, v in vars(mman).items()
        if k.startswith(names) and isinstance(v, int) and k != "PROT_RWX_MASK"
    }
    assert len(ours) > 40
    head = """
        #include <asm/mman.h>
        #include <linux/mman.h>
        #include <linux/memfd.h>
        #define _GNU_SOURCE
        #include <linux/shm.h>
    """
    newer = {"MADV_GUARD_INSTALL": 102, "MADV_GUARD_REMOVE": 103}  # Linux 6.13
    head += "".join(f"\n#ifndef {name}\n#define {name} {n}\n#endif\n" for name, n in newer.items())
    assert c_values(tmp_path, head, list(ours)) == ours


@needs_gcc
def test_errno_constants(tmp_path: Path) -> None:
    ours = {k: v for k, v in vars(errno).items() if k[0] == "E" and v < 512}
    assert len(ours) > 125
    assert c_values(tmp_path, "#include <asm/errno.h>", list(ours)) == ours


@needs_gcc
def test_syscall_numbers(tmp_path: Path) -> None:
    ours = {f"__NR_{row.name}": nr for nr, row in syscalls.SYSCALLS.items()}
    constants = {f"__NR_{k[3:]}": v for k, v in vars(syscalls).items() if k.startswith("NR_")}
    assert constants == ours
    # The headers of an older kernel lack the newest calls: tests/uapi/test_syscalls.py has those.
    text = "#include <asm/unistd.h>\n"
    text += "".join(
        f"#ifndef {name}\n#define {name} {nr}\n#endif\n"
        for name, nr in ours.items()
        if nr > 450 or nr in {335, 336}
    )
    assert c_values(tmp_path, text, list(ours)) == ours


# The kernel's names for the fields of the SDM, where they are not the SDM's; "" for a field that
# the kernel has no name for (or lumps together with its neighbours).
KERNEL_STRUCTS: tuple[tuple[Layout, str, dict[str, str]], ...] = (
    (
        structs.SECS,
        "struct sgx_secs",
        {
            "baseaddr": "base",
            "ssaframesize": "ssa_frame_size",
            "cet_leg_bitmap_offset": "",
            "cet_attributes": "",
            "reserved1": "",
            "configid": "config_id",
            "isvprodid": "isv_prod_id",
            "isvsvn": "isv_svn",
            "configsvn": "config_svn",
        },
    ),
    (
        structs.TCS,
        "struct sgx_tcs",
        {
            "stage": "state",
            "ossa": "ssa_offset",
            "cssa": "ssa_index",
            "nssa": "nr_ssa_frames",
            "oentry": "entry_offset",
            "aep": "exit_addr",
            "ofsbase": "fs_offset",
            "ogsbase": "gs_offset",
            "fslimit": "fs_limit",
            "gslimit": "gs_limit",
            "ocetssa": "",
            "prevssp": "",
            "reserved1": "",
        },
    ),
    (
        structs.PAGEINFO,
        "struct sgx_pageinfo",
        {"linaddr": "addr", "srcpge": "contents", "secinfo": "metadata"},
    ),
    (structs.SECINFO, "struct sgx_secinfo", {"reserved1": "reserved"}),
    (structs.PCMD, "struct sgx_pcmd", {"enclaveid": "enclave_id", "reserved1": "reserved"}),
    (
        structs.SIGSTRUCT,
        "struct sgx_sigstruct",
        {
            **{f: f"header.{f}" for f in ("vendor", "date", "header2", "swdefined", "reserved1")},
            "header": "header.header1",
            **{f: f"body.{f}" for f in ("miscselect", "attributes", "xfrm", "isvprodid", "isvsvn")},
            "miscmask": "body.misc_mask",
            "cet_attributes": "",
            "cet_attributes_mask": "",
            "reserved2": "",
            "isvfamilyid": "",
            "attributemask": "body.attributes_mask",
            "xfrmmask": "body.xfrm_mask",
            "enclavehash": "body.mrenclave",
            "reserved3": "",
            "isvextprodid": "",
        },
    ),
)


@needs_gcc
def test_sdm_structs_against_the_kernel(tmp_path: Path, kernel_source: Path) -> None:
    header = kernel_source / "arch/x86/include/asm/sgx.h"
    (tmp_path / "linux").mkdir()
    (tmp_path / "linux/bits.h").write_text("")
    (tmp_path / "linux/types.h").write_text(
        """
        typedef unsigned char u8; typedef unsigned short u16;
        typedef unsigned int u32; typedef unsigned long long u64;
        #define __packed __attribute__((__packed__))
        #define __aligned(x) __attribute__((__aligned__(x)))
        #define BIT(n) (1UL << (n))
        #define BIT_ULL(n) (1ULL << (n))
        #define GENMASK(h, l) (((~0UL) << (l)) & (~0UL >> (63 - (h))))
        #define GENMASK_ULL(h, l) GENMASK(h, l)
        """
    )
    ours: dict[str, int] = {}
    for layout, c_type, names in KERNEL_STRUCTS:
        ours |= of_layout(layout, c_type, names)
    ours["SGX_SSA_GPRS_SIZE"] = structs.GPRSGX.size
    ours["SGX_SSA_MISC_EXINFO_SIZE"] = structs.EXINFO.size
    ours["SGX_LAUNCH_TOKEN_SIZE"] = structs.EINITTOKEN.size
    values = c_values(tmp_path, f'#include "{header}"', list(ours), ("-I", str(tmp_path)))
    assert values == ours
