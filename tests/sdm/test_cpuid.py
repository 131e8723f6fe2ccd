"""CPUID's SGX answers against C headers' bits and the way the kernel reads the leaves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softsgx.sdm import cpuid

MIB = 1 << 20
word = st.integers(0, (1 << 32) - 1)
answer = st.tuples(word, word, word, word)


def ask(
    leaf: int,
    subleaf: int = 0,
    native: cpuid.Answer = (0, 0, 0, 0),
    *,
    epc_bytes: int = 128 * MIB,
    sgx2: bool = True,
    native_max: int = 0x10,
    xfrm: int = 0x207,
    aexnotify: bool = False,
    epc_base: int = cpuid.DEFAULT_EPC_BASE,
) -> cpuid.Answer:
    return cpuid.emulate(
        leaf,
        subleaf,
        native,
        epc_bytes,
        sgx2,
        native_max=native_max,
        xfrm=xfrm,
        aexnotify=aexnotify,
        epc_base=epc_base,
    )


@given(answer)
def test_leaf_0_keeps_the_vendor_and_raises_the_maximum(native: cpuid.Answer) -> None:
    got = ask(0, 7, native, native_max=native[0])
    assert got[1:] == native[1:]
    assert got[0] == (native[0] if native[0] >= 0x12 else 0x12)


@given(answer, word)
def test_leaf_7_adds_two_bits_in_subleaf_0_only(native: cpuid.Answer, subleaf: int) -> None:
    assert ask(7, 0, native) == (native[0], native[1] | 4, native[2] | 0x4000_0000, native[3])
    if subleaf:
        assert ask(7, subleaf, native) == native


@given(word, word, answer, st.integers(7, 0x20))
def test_other_leaves_are_native(
    leaf: int, subleaf: int, native: cpuid.Answer, native_max: int
) -> None:
    if leaf in (0, 7, 0x12):
        return
    want = (0, 0, 0, 0) if native_max < leaf < 0x12 else native
    assert ask(leaf, subleaf, native, native_max=native_max) == want


@pytest.mark.parametrize("leaf", range(0x11, 0x12))
def test_leaves_that_the_raised_maximum_uncovers_are_zero(leaf: int) -> None:
    repeated = (1, 2, 3, 4)  # what an Intel processor gives above its highest leaf
    assert ask(leaf, 0, repeated, native_max=0x10) == (0, 0, 0, 0)
    assert ask(leaf, 0, repeated, native_max=leaf) == repeated


@pytest.mark.parametrize("sgx2", [False, True])
@pytest.mark.parametrize("aexnotify", [False, True])
def test_sgx_capabilities(sgx2: bool, aexnotify: bool) -> None:
    eax, ebx, ecx, edx = ask(0x12, 0, (9, 9, 9, 9), sgx2=sgx2, aexnotify=aexnotify)
    assert [bit for bit in range(32) if eax >> bit & 1] == [0, *[1] * sgx2, *[11] * aexnotify]
    assert (ebx, ecx) == (1, 0)
    # Intel SDK and Gramine refuse an enclave larger than 2 ** EDX[15:8].
    assert (edx & 0xFF, edx >> 8 & 0xFF, edx >> 16) == (31, 56, 0)


def test_attributes_the_way_the_kernel_reads_them() -> None:
    eax, ebx, ecx, edx = ask(0x12, 1, (9, 9, 9, 9), xfrm=0x6_0000_0207)
    attributes = ebx << 32 | eax
    assert attributes & 1 == 0  # INIT is never for ECREATE to set
    # DEBUG, MODE64BIT, PROVISIONKEY, EINITTOKENKEY and KSS of the kernel's asm/sgx.h
    assert attributes == 0x2 | 0x4 | 0x10 | 0x20 | 0x80
    # ASYNC_EXIT_NOTIFY comes with EDECCSSA, and without it neither is there.
    notify = ask(0x12, 1, (9, 9, 9, 9), xfrm=0x6_0000_0207, aexnotify=True)
    assert notify == (eax | 1 << 10, ebx, ecx, edx)
    assert edx << 32 | ecx == 0x6_0000_0207


@given(
    st.integers(1, 1 << 39).map(lambda pages: pages * 4096),
    st.integers(0, 1 << 38).map(lambda page: page * 4096),
)
def test_epc_section_the_way_the_kernel_reads_it(size: int, base: int) -> None:
    def metric(low: int, high: int) -> int:  # arch/x86/kernel/cpu/sgx/main.c's arithmetic
        return (low & 0xFFFF_F000) + ((high & 0xF_FFFF) << 32)

    eax, ebx, ecx, edx = ask(0x12, 2, (9, 9, 9, 9), epc_bytes=size, epc_base=base)
    assert (eax & 0xFFF, ecx & 0xFFF, ebx >> 20, edx >> 20) == (1, 1, 0, 0)
    assert (metric(eax, ebx), metric(ecx, edx)) == (base, size)


@given(st.integers(3, (1 << 32) - 1))
def test_one_section_only(subleaf: int) -> None:
    assert ask(0x12, subleaf, (9, 9, 9, 9)) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("size", "base", "xfrm"),
    [(0, 0, 3), (4097, 0, 3), (4096, 1, 3), (4096, 1 << 52, 3), (1 << 53, 0, 3), (4096, 0, 1)],
)
def test_impossible_processors_are_refused(size: int, base: int, xfrm: int) -> None:
    with pytest.raises(ValueError, match=r"EPC|XFRM"):
        ask(1, epc_bytes=size, epc_base=base, xfrm=xfrm)


def test_bits_are_those_of_the_compiler_and_of_glibc(tmp_path: Path) -> None:
    source = tmp_path / "bits.c"
    source.write_text(
        "#include <cpuid.h>\n#include <stdio.h>\n#include <sys/platform/x86.h>\n"
        'int main(void) { printf("%u %u %u", bit_SGX, x86_cpu_SGX % 32, x86_cpu_SGX_LC % 32); }\n'
    )
    subprocess.run(["cc", "-o", tmp_path / "bits", source], check=True)
    out = subprocess.run([tmp_path / "bits"], check=True, capture_output=True, text=True).stdout
    mask, sgx, sgx_lc = map(int, out.split())
    assert ask(7)[1:3] == (mask, 1 << sgx_lc) == (1 << sgx, 1 << sgx_lc)
