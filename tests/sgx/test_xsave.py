"""XSAVE areas by CPUID, for processors that are not this one: AEX and ERESUME of every component.

Leaf 0DH of each, (EAX, EBX) of sub-leaf i: the SDM's offsets for Intel's (Skylake-SP with MPX,
Ice Lake-SP, Sapphire Rapids with AMX), what a Zen 3 and a Zen 4 (EPYC 9004, guests of KVM, which
hides PKU) were seen to answer.
"""

from __future__ import annotations

import struct

import pytest

from softsgx.device import Device
from softsgx.host.ptrace import cpuid_function
from softsgx.sdm.xsave import XsaveLayout
from softsgx.sgx.enclu import aex
from tests.sgx.enclave_cpu import BV, Cpu

AVX512 = {5: (64, 1088), 6: (512, 1152), 7: (1024, 1664)}
CPUS: dict[str, dict[int, tuple[int, int]]] = {
    "skylake": {2: (256, 576), 3: (64, 960), 4: (64, 1024), **AVX512, 9: (8, 2688)},
    "icelake": {2: (256, 576), **AVX512, 9: (8, 2688)},
    "sapphirerapids": {2: (256, 576), **AVX512, 9: (8, 2688), 17: (64, 2752), 18: (8192, 2816)},
    "zen3": {2: (256, 576)},
    "zen4": {2: (256, 576), 5: (64, 832), 6: (512, 896), 7: (1024, 1408)},
}
END = {"skylake": 2696, "icelake": 2696, "sapphirerapids": 11008, "zen3": 832, "zen4": 2432}


def layout(name: str) -> XsaveLayout:
    """The layout by the recorded answers, one of IA32_XSS among them that XFRM cannot name."""
    leaves = CPUS[name] | {11: (16, 0)}

    def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        assert leaf == 0xD
        if subleaf == 0:
            return 3 | sum(1 << i for i in leaves), 0, 0, 0
        size, offset = leaves[subleaf]
        return size, offset, int(subleaf == 11), 0

    return XsaveLayout.of_cpuid(cpuid)


@pytest.mark.parametrize("name", CPUS)
def test_sizes(name: str) -> None:
    there = layout(name)
    assert there.xfrm == 3 | sum(1 << i for i in CPUS[name])
    assert there.size_bytes(there.xfrm) == END[name]
    assert there.size_bytes(3) == 576
    assert there.size_bytes(3 | 1 << 63) == 576


@pytest.mark.parametrize("name", CPUS)
def test_every_component_is_saved_cleared_and_restored(name: str) -> None:
    there = layout(name)
    size = there.size_bytes(there.xfrm)
    features = [1 << i for i in CPUS[name]]
    legal = [3, 3 | there.xfrm & 7, there.xfrm, there.xfrm & ~0x218]
    for xfrm in dict.fromkeys(legal):
        device = Device(xfrm_supported=there.xfrm, xsave=there)
        cpu = Cpu({"nssa": 1}, 3, device, xfrm=xfrm)
        cpu.enter()
        image = bytearray(i % 251 + 1 for i in range(size))
        image[:576] = bytes(576)
        image[:4] = struct.pack("<HH", 0x37F, 0)
        image[24:28] = struct.pack("<I", 0x1F80)
        struct.pack_into("<Q", image, BV, there.xfrm)
        cpu.thread.xstate.write(image)
        aex(cpu.thread, cpu.regs)
        frame = cpu.enclave.memory.read(0x1000, there.size_bytes(xfrm))
        outside = cpu.thread.xstate.read()
        (used,) = struct.unpack_from("<Q", outside, BV)
        assert used == there.xfrm & ~xfrm
        for feature, (length, offset) in zip(features, CPUS[name].values(), strict=True):
            saved = frame[offset : offset + length]
            if xfrm & feature:
                assert saved == image[offset : offset + length]
            else:
                assert outside[offset : offset + length] == image[offset : offset + length]
        spoilt = bytearray(outside)
        for feature, (length, offset) in zip(features, CPUS[name].values(), strict=True):
            if xfrm & feature:
                spoilt[offset : offset + length] = bytes(length)
        cpu.thread.xstate.write(spoilt)
        assert cpu.resume() == 0
        after = cpu.thread.xstate.read()
        assert after[576:] == image[576:]


def test_this_processor() -> None:
    cpuid = cpuid_function()
    assert cpuid is not None
    here = XsaveLayout.of_cpuid(cpuid)
    assert cpuid(0, 0)[0] >= 0xD
    assert here.components[2] == (576, 256)
    # EBX of the main leaf: the size for what XCR0 has now; of it all, ECX's.
    assert here.size_bytes(here.xfrm) <= cpuid(0xD, 0)[2]
