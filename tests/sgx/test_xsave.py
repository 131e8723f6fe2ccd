"""XSAVE areas by CPUID, for processors that are not this one: ECREATE, AEX and ERESUME.

What they answer is recorded in data/cpuid/leaf-0d.txt: Intel's Skylake (with MPX), Ice Lake and
Sapphire Rapids (with AMX), AMD's Zen 3 and Zen 4.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest

from softsgx.device import Device
from softsgx.device.build import Refused
from softsgx.errors import UnsupportedError
from softsgx.host import ptrace
from softsgx.sdm.xsave import XsaveLayout
from softsgx.sgx.enclu import aex
from softsgx.supervisor.state.threads import TraceeXState
from tests.sgx.enclave_cpu import BV, GP, MXCSR, Cpu, poke

_RECORDED = Path(__file__).parents[1] / "data" / "cpuid" / "leaf-0d.txt"
Answer = tuple[int, int, int, int]

# Where the last component that XFRM may name ends, and the pages of a frame with EXINFO and GPRSGX.
CPUS = {
    "skylake": (2696, 1),
    "icelake": (2696, 1),
    "sapphirerapids": (11008, 3),
    "zen3": (2440, 1),
    "zen4": (2440, 1),
}
# XCR0's features that are set together (SDM, vol. 1, "Enabling the XSAVE Feature Set").
_GROUPS = (1 << 2, 3 << 3, 7 << 5, 1 << 9, 3 << 17)
_FCW, _MXCSR_MASK = 0x37F, 0x2FFFF


@functools.cache
def recorded() -> dict[str, dict[int, Answer]]:
    found: dict[str, dict[int, Answer]] = {}
    for line in _RECORDED.read_text(encoding="ascii").splitlines():
        if name := re.fullmatch(r"\[(\w+)\]", line):
            leaves = found[name[1]] = {}
        elif line and not line.startswith("#"):
            subleaf, eax, ebx, ecx, edx = (int(word, 16) for word in line.split())
            leaves[subleaf] = eax, ebx, ecx, edx
    return found


def layout(name: str) -> XsaveLayout:
    def cpuid(leaf: int, subleaf: int) -> Answer:
        assert leaf == 0xD
        return recorded()[name].get(subleaf, (0, 0, 0, 0))

    return XsaveLayout.of_cpuid(cpuid)


def legal(supported: int) -> list[int]:
    """Every XFRM that XCR0 could have."""
    groups = [g for g in _GROUPS if supported & g == g]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(groups, n) for n in range(len(groups) + 1)
    )
    masks = [3 | sum(subset) for subset in subsets]
    return [m for m in masks if not m & 0xE0 or m & 4]


@pytest.mark.parametrize("name", CPUS)
def test_sizes(name: str) -> None:
    """ECX of sub-leaf 0 is the size with all features of XCR0, as the processor itself adds it."""
    there = layout(name)
    eax, _, ecx, edx = recorded()[name][0]
    assert there.xfrm == edx << 32 | eax
    assert there.size_bytes(there.xfrm) == ecx == CPUS[name][0]
    assert there.size_bytes(3) == 576


@pytest.mark.parametrize("name", CPUS)
def test_a_frame_has_to_hold_all_that_xfrm_names(name: str) -> None:
    there = layout(name)
    pages = CPUS[name][1]
    device = Device(xfrm_supported=there.xfrm, xsave=there)
    with pytest.raises(Refused, match="ECREATE accepts"):
        Cpu(frame=pages - 1, device=device, xfrm=there.xfrm)
    Cpu(frame=pages, device=device, xfrm=there.xfrm)


@pytest.mark.parametrize(
    ("name", "xfrm"), [(name, xfrm) for name in CPUS for xfrm in legal(layout(name).xfrm)]
)
def test_every_component_is_saved_cleared_and_restored(name: str, xfrm: int) -> None:
    there = layout(name)
    places = [
        (1 << i, ebx, ebx + eax)
        for i, (eax, ebx, ecx, _) in recorded()[name].items()
        if i >= 2 and not ecx & 1
    ]
    device = Device(xfrm_supported=there.xfrm, xsave=there)
    cpu = Cpu({"nssa": 1}, 3, device, xfrm=xfrm)
    cpu.enter()
    image = bytearray(i % 251 + 1 for i in range(there.size_bytes(there.xfrm)))
    image[464:576] = bytes(112)
    struct.pack_into("<H", image, 0, _FCW)
    struct.pack_into("<II", image, MXCSR, 0x1F80, _MXCSR_MASK)
    struct.pack_into("<Q", image, BV, there.xfrm)
    cpu.thread.xstate.write(image)
    untouched = b"\xee" * 3 * 4096
    cpu.enclave.memory.write(0x1000, untouched)
    aex(cpu.thread, cpu.regs)

    frame = cpu.enclave.memory.read(0x1000, 3 * 4096 - 1024)
    expected = bytearray(untouched[: len(frame)])
    expected[:464] = image[:464]
    expected[512:536] = struct.pack("<QQQ", xfrm, 0, 0)
    for feature, start, end in places:
        if xfrm & feature:
            expected[start:end] = image[start:end]
    assert frame == expected  # and nothing else was written

    outside = bytearray(cpu.thread.xstate.read())
    (used,) = struct.unpack_from("<Q", outside, BV)
    assert used == there.xfrm & ~xfrm
    for feature, start, end in places:
        if not xfrm & feature:
            assert outside[start:end] == image[start:end]
        else:
            outside[start:end] = b"\x77" * (end - start)
    cpu.thread.xstate.write(outside)
    assert cpu.resume() == 0
    assert cpu.thread.xstate.read() == image


def interrupted(mxcsr: int, mask: int = 0) -> Cpu:
    cpu = Cpu()
    cpu.enter()
    cpu.thread.xstate.write(cpu.image(m24=mxcsr, m28=mask))
    aex(cpu.thread, cpu.regs)
    return cpu


def test_mxcsr_outside_is_initial_whether_or_not_sse_is_in_use() -> None:
    """Linux takes MXCSR of an image with SSE or AVX in XSTATE_BV only: copy_uabi_to_xstate()."""
    image = interrupted(0x7F80).thread.xstate.read()
    assert struct.unpack_from("<I", image, MXCSR) == (0x1F80,)
    assert struct.unpack_from("<Q", image, BV)[0] & 2


def test_eresume_loads_mxcsr_of_a_frame_without_sse() -> None:
    """XRSTOR: MXCSR is loaded whatever XSTATE_BV says; the registers become initial."""
    cpu = interrupted(0x7F80)
    poke(BV, 1)(cpu)
    assert cpu.resume() == 0
    image = cpu.thread.xstate.read()
    assert struct.unpack_from("<I", image, MXCSR) == (0x7F80,)
    assert struct.unpack_from("<Q", image, BV)[0] & 2
    assert image[160:416] == bytes(256)


@pytest.mark.parametrize(
    ("mxcsr", "mask", "answer"),
    [(0x21F80, 0x2FFFF, 0), (0x21F80, 0xFFFF, GP), (0x11F80, 0x2FFFF, GP), (0x1FC0, 0, 0)],
)
def test_mxcsr_may_have_the_bits_of_this_processor(mxcsr: int, mask: int, answer: int) -> None:
    """Bit 17 is AMD's: what there is, MXCSR_MASK says."""
    assert interrupted(mxcsr, mask).resume() == answer


def test_this_processor() -> None:
    cpuid = ptrace.cpuid_function()
    assert cpuid is not None
    here = XsaveLayout.of_cpuid(cpuid)
    assert cpuid(0, 0)[0] >= 0xD
    assert here.components[2] == (576, 256)
    # EBX of the main leaf: the size for what XCR0 has now; of it all, ECX's.
    assert here.size_bytes(here.xfrm) <= cpuid(0xD, 0)[2]


def test_a_component_without_room_in_the_kernel_is_told() -> None:
    """AMX's tiles, which a thread has to have used once: this one has not, or has no AMX."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        try:
            ptrace.seize(process.pid)
            ptrace.interrupt(process.pid)
            os.waitpid(process.pid, 0x40000000)  # __WALL
            thread = TraceeXState(process.pid)
            image = bytearray(thread.read())
            thread.write(image)
            (used,) = struct.unpack_from("<Q", image, BV)
            struct.pack_into("<Q", image, BV, used | 1 << 18)
            with pytest.raises(UnsupportedError, match="ARCH_REQ_XCOMP_PERM"):
                thread.write(image)
        finally:
            process.kill()
