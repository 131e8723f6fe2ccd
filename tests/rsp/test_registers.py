"""Registers: where each lies, with the initial configuration where the processor keeps none."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from softsgx.rsp.registers import RegisterFile
from softsgx.sdm.xsave import INTEL, XsaveLayout
from softsgx.uapi.regs import NREGS, RIP

_ZEN4 = XsaveLayout({2: (576, 256), 5: (832, 64), 6: (896, 512), 7: (1408, 1024), 9: (2432, 8)})
_LAYOUTS = {
    "intel": INTEL,
    "zen4": _ZEN4,
    "sse": XsaveLayout({}),
    "avx": XsaveLayout({2: (576, 256)}),
}


@pytest.mark.parametrize("name", _LAYOUTS)
def test_the_description_numbers_registers_as_the_packet_has_them(name: str) -> None:
    file = RegisterFile(_LAYOUTS[name])
    told = [reg for feature in ET.fromstring(file.xml()) for reg in feature.findall("reg")]
    assert [(reg.get("name"), int(reg.get("bitsize") or 0)) for reg in told] == [
        (reg.name, reg.bits) for reg in file.registers
    ]
    firsts = [feature.find("reg") for feature in ET.fromstring(file.xml()).findall("feature")]
    for reg in firsts:
        assert reg is not None
        assert file.registers[int(reg.get("regnum") or -1)].name == reg.get("name")
    assert ("zmm0h" in [reg.name for reg in file.registers]) == (name in ("intel", "zen4"))


@pytest.mark.parametrize("name", _LAYOUTS)
def test_what_is_written_is_read_and_nothing_else_changes(name: str) -> None:
    file = RegisterFile(_LAYOUTS[name])
    image = bytearray(_LAYOUTS[name].size_bytes((1 << 63) - 1))
    image[512:520] = (0x2E7).to_bytes(8, "little")  # all components are there
    regs = [0] * NREGS
    for n, reg in enumerate(file.registers):
        value = bytes([n + 1]) * reg.stored if reg.slot < 0 else bytes([n + 1]) * reg.size
        value = value.ljust(reg.size, b"\0")
        if reg.name == "ftag":
            value = (0xFFFF).to_bytes(4, "little")
        before = [file.read(m, regs, bytes(image)) for m in range(len(file.registers))]
        file.write(n, value, regs, image)
        after = [file.read(m, regs, bytes(image)) for m in range(len(file.registers))]
        assert after[n] == value, reg.name
        others = [m for m in range(len(before)) if m != n and before[m] != after[m]]
        # The tags of x87 are worked out of the stack's registers, and by the top of the stack.
        assert all(file.registers[m].name == "ftag" for m in others), reg.name
    assert regs[RIP] != 0


def test_what_the_processor_keeps_no_state_of_is_initial() -> None:
    file = RegisterFile(INTEL)
    names = {reg.name: n for n, reg in enumerate(file.registers)}
    image = bytearray(b"\xaa" * INTEL.size_bytes((1 << 63) - 1))
    image[512:520] = bytes(8)
    regs = [0] * NREGS

    def value(name: str) -> int:
        return int.from_bytes(file.read(names[name], regs, bytes(image)), "little")

    assert (value("fctrl"), value("ftag"), value("fstat"), value("st3")) == (0x37F, 0xFFFF, 0, 0)
    assert value("xmm7") == value("ymm7h") == value("zmm31h") == value("k1") == 0
    file.write(names["xmm7"], b"\x55" * 16, regs, image)
    assert (value("xmm7"), value("xmm6")) == (int("55" * 16, 16), 0)
    assert value("fctrl") == 0x37F
