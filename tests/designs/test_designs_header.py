"""The header for authors of loaders against the numbers and layouts that the device uses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from softsgx.uapi import designs, sgx
from tests.command import Softsgx
from tests.uapi.test_uapi_parity import c_values, of_layout

needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="no gcc on PATH; install gcc and linux-libc-dev to force it"
)


@needs_gcc
def test_softsgx_designs_h(tmp_path: Path, softsgx: Softsgx) -> None:
    ours: dict[str, int] = {name: number for number, name in designs.DESIGN_IOC_NAMES.items()}
    assert len(ours) == 6
    for layout in (
        designs.ADD_REGION,
        designs.MPROTECT,
        designs.EXTEND_PERMISSIONS,
        designs.MAP_SEGMENT,
        designs.SEGMENT_FD,
        designs.CREATE_SIGSTRUCT,
    ):
        ours |= of_layout(layout, f"struct {layout.name}", {})
    for layout in (
        designs.RELAX_PERMISSIONS_V2,
        designs.RESTRICT_PERMISSIONS_V2,
        designs.MODIFY_TYPE_V2,
        designs.REMOVE_PAGES_V2,
    ):
        ours |= of_layout(layout, f"struct {layout.name}", {})
    for name in ("RELAX_PERMISSIONS", "RESTRICT_PERMISSIONS_V2", "MODIFY_TYPE", "REMOVE_PAGES_V2"):
        ours[f"SGX_IOC_ENCLAVE_{name}"] = getattr(designs, f"SGX_IOC_ENCLAVE_{name}")
    ours |= of_layout(sgx.ADD_PAGE_V20, "struct sgx_enclave_add_page_v20", {})
    ours["SGX_IOC_ENCLAVE_ADD_PAGE_V20"] = sgx.SGX_IOC_ENCLAVE_ADD_PAGE_V20
    printed = softsgx.command("include").stdout.strip()
    head = "#include <asm/sgx.h>\n#include <softsgx_designs.h>"
    assert c_values(tmp_path, head, list(ours), ("-I", printed, "-Wall")) == ours


def test_new_numbers_are_from_0x20_up() -> None:
    for number in designs.DESIGN_IOC_NAMES:
        assert sgx.ioc_type(number) == sgx.SGX_MAGIC
        assert sgx.ioc_nr(number) >= 0x20
        assert number not in sgx.IOC_NAMES


def test_include_takes_no_arguments(softsgx: Softsgx) -> None:
    done = softsgx.command("include", "more")
    assert done.returncode == 2
    assert "include" in done.stderr
    assert softsgx.command("include", "--help").stdout.startswith("usage: softsgx include")
