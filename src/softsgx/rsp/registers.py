"""The registers as GDB wants them: a description in XML, and where the value of each lies.

GDB knows a machine by what a stub describes (Debugging with GDB, "Target Descriptions", "i386
Features"): those that this processor has, by CPUID's own places of the XSAVE components. The value
of a general register is in ptrace's user_regs_struct, of another in the XSAVE image (SDM vol. 1,
"Standard Format of the XSAVE Area", "Layout of the 64-bit-mode FXSAVE64 Map"). GDB reads the 64-bit
pointers of the last x87 instruction as selector and offset, as FXSAVE without REX.W has them.
"""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.sdm.xsave import XsaveLayout
from softsgx.uapi import regs as r
from softsgx.uapi.regs import Regs

__all__ = ["FEATURES", "Register", "RegisterFile"]

_X87, _SSE, _AVX, _OPMASK, _ZMM_HIGH, _HIGH_ZMM, _PKRU = 0, 1, 2, 5, 6, 7, 9
_XSTATE_BV = 512
_FCW, _FSW, _FTW, _FOP, _FIP, _FDP, _MXCSR, _ST, _XMM = 0, 2, 4, 6, 8, 16, 24, 32, 160
# In their initial configuration (SDM vol. 1, "Initial configuration of x87 state", "of MXCSR").
_INITIAL = {_FCW: 0x37F, _MXCSR: 0x1F80}
_FLAGS = {"i386_eflags": (
    ("CF", 0), ("", 1), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9),
    ("DF", 10), ("OF", 11), ("NT", 14), ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19),
    ("VIP", 20), ("ID", 21),
), "i386_mxcsr": (
    ("IE", 0), ("DE", 1), ("ZE", 2), ("OE", 3), ("UE", 4), ("PE", 5), ("DAZ", 6), ("IM", 7),
    ("DM", 8), ("ZM", 9), ("OM", 10), ("UM", 11), ("PM", 12), ("FZ", 15),
)}  # fmt: skip
_VECTORS = (
    ("v4f", "ieee_single", 4), ("v2d", "ieee_double", 2), ("v16i8", "int8", 16),
    ("v8i16", "int16", 8), ("v4i32", "int32", 4), ("v2i64", "int64", 2),
)  # fmt: skip
_VEC128 = (
    ("v4_float", "v4f"), ("v2_double", "v2d"), ("v16_int8", "v16i8"), ("v8_int16", "v8i16"),
    ("v4_int32", "v4i32"), ("v2_int64", "v2i64"), ("uint128", "uint128"),
)  # fmt: skip
_GENERAL = (
    *((name, 64, "int64") for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi")),
    ("rbp", 64, "data_ptr"), ("rsp", 64, "data_ptr"),
    *((f"r{n}", 64, "int64") for n in range(8, 16)),
    ("rip", 64, "code_ptr"), ("eflags", 32, "i386_eflags"),
    *((name, 32, "int32") for name in ("cs", "ss", "ds", "es", "fs", "gs")),
)  # fmt: skip
_CONTROL = (
    ("fctrl", _FCW, 2), ("fstat", _FSW, 2), ("ftag", _FTW, 1), ("fiseg", _FIP + 4, 2),
    ("fioff", _FIP, 4), ("foseg", _FDP + 4, 2), ("fooff", _FDP, 4), ("fop", _FOP, 2),
)  # fmt: skip

# name, its first number, how many, type; component, the distance of two in it, where, bytes.
_EXTENDED = (
    ("avx", {_AVX}, (("ymm{}h", 0, 16, "uint128", _AVX, 16, 0, 16),)),
    ("avx512", {_AVX, _OPMASK, _ZMM_HIGH, _HIGH_ZMM}, (
        ("k{}", 0, 8, "uint64", _OPMASK, 8, 0, 8),
        ("zmm{}h", 0, 16, "v2ui128", _ZMM_HIGH, 32, 0, 32),
        ("xmm{}", 16, 16, "vec128", _HIGH_ZMM, 64, 0, 16),
        ("ymm{}h", 16, 16, "uint128", _HIGH_ZMM, 64, 16, 16),
        ("zmm{}h", 16, 16, "v2ui128", _HIGH_ZMM, 64, 32, 32),
    )),
    ("pkeys", {_PKRU}, (("pkru", 0, 1, "uint32", _PKRU, 8, 0, 4),)),
)  # fmt: skip

FEATURES = ("core", "sse", "linux", "segments", "avx", "avx512", "pkeys")
"""The last words of the features' names, in order."""


class Register:
    """One register: ``size`` bytes in a packet, from ``place``.

    place: an index of user_regs_struct, or (offset, bytes) in the XSAVE image and the
    ``component`` that it belongs to.
    """

    __slots__ = ("bits", "component", "feature", "name", "offset", "slot", "stored", "type")

    def __init__(
        self, feature: str, name: str, bits: int, kind: str, *, slot: int = -1,
        component: int = -1, offset: int = 0, stored: int = 0,
    ) -> None:  # fmt: skip
        self.feature, self.name, self.bits, self.type = feature, name, bits, kind
        self.slot, self.component, self.offset, self.stored = slot, component, offset, stored

    @property
    def size(self) -> int:
        """Bytes in a packet."""
        return self.bits // 8


def _registers(layout: XsaveLayout) -> Iterator[Register]:
    for name, bits, kind in _GENERAL:
        yield Register("core", name, bits, kind, slot=r.NAMES.index(name))
    for n in range(8):
        at = _ST + 16 * n
        yield Register("core", f"st{n}", 80, "i387_ext", component=_X87, offset=at, stored=10)
    for name, at, stored in _CONTROL:
        yield Register("core", name, 32, "int", component=_X87, offset=at, stored=stored)
    for n in range(16):
        at = _XMM + 16 * n
        yield Register("sse", f"xmm{n}", 128, "vec128", component=_SSE, offset=at, stored=16)
    yield Register("sse", "mxcsr", 32, "i386_mxcsr", component=_SSE, offset=_MXCSR, stored=4)
    yield Register("linux", "orig_rax", 64, "int", slot=r.ORIG_RAX)
    yield Register("segments", "fs_base", 64, "int", slot=r.FS_BASE)
    yield Register("segments", "gs_base", 64, "int", slot=r.GS_BASE)

    has = layout.components
    for feature, needed, rows in _EXTENDED:
        if needed <= set(has):
            for name, first, count, kind, component, each, within, stored in rows:
                for n in range(count):
                    at = has[component][0] + n * each + within
                    yield Register(
                        feature, name.format(first + n), 8 * stored, kind,
                        component=component, offset=at, stored=stored,
                    )  # fmt: skip


class RegisterFile:
    """The registers of a processor, in the order of their numbers and of the packet ``g``."""

    __slots__ = ("registers",)

    def __init__(self, layout: XsaveLayout) -> None:
        self.registers = list(_registers(layout))

    def xml(self) -> bytes:
        """target.xml."""
        lines = ['<?xml version="1.0"?>', '<!DOCTYPE target SYSTEM "gdb-target.dtd">']
        lines += ['<target version="1.0">', "<architecture>i386:x86-64</architecture>"]
        lines += ["<osabi>GNU/Linux</osabi>"]
        for feature in FEATURES:
            mine = [reg for reg in self.registers if reg.feature == feature]
            if not mine:
                continue
            lines.append(f'<feature name="org.gnu.gdb.i386.{feature}">')
            lines += _types({reg.type for reg in mine})
            first = self.registers.index(mine[0])
            for n, reg in enumerate(mine):
                number = f' regnum="{first}"' if n == 0 else ""
                lines.append(
                    f'<reg name="{reg.name}" bitsize="{reg.bits}" type="{reg.type}"{number}/>'
                )
            lines.append("</feature>")
        return "\n".join([*lines, "</target>", ""]).encode()

    def read(self, number: int, general: Regs, image: bytes) -> bytes:
        """One register's bytes. general: user_regs_struct; image: the XSAVE area."""
        reg = self.registers[number]
        if reg.slot >= 0:
            return (general[reg.slot] & (1 << reg.bits) - 1).to_bytes(reg.size, "little")
        if not _present(image, reg.component) and reg.name != "mxcsr":
            value = _INITIAL.get(reg.offset, 0) if reg.component == _X87 else 0
            if reg.name == "ftag":
                value = 0xFFFF
            return value.to_bytes(reg.size, "little")
        if reg.name == "ftag":
            return _full_tags(image).to_bytes(4, "little")
        return image[reg.offset : reg.offset + reg.stored].ljust(reg.size, b"\0")

    def write(self, number: int, value: bytes, general: Regs, image: bytearray) -> bool:
        """Set one register; whether it was in ``image`` (else in ``general``)."""
        reg = self.registers[number]
        if reg.slot >= 0:
            general[reg.slot] = int.from_bytes(value, "little")
            return False
        if reg.name == "ftag":
            tags = int.from_bytes(value, "little")
            value = bytes([sum(1 << n for n in range(8) if tags >> 2 * n & 3 != 3)])
        _make_present(image, reg.component)
        image[reg.offset : reg.offset + reg.stored] = value[: reg.stored]
        return True


def _types(used: set[str]) -> Iterator[str]:
    for name, fields in _FLAGS.items():
        if name in used:
            yield f'<flags id="{name}" size="4">'
            for field, bit in fields:
                yield f'<field name="{field}" start="{bit}" end="{bit}"/>'
            yield "</flags>"
    if "vec128" in used:
        for name, kind, count in _VECTORS:
            yield f'<vector id="{name}" type="{kind}" count="{count}"/>'
        yield '<union id="vec128">'
        for name, kind in _VEC128:
            yield f'<field name="{name}" type="{kind}"/>'
        yield "</union>"
    if "v2ui128" in used:
        yield '<vector id="v2ui128" type="uint128" count="2"/>'


def _present(image: bytes | bytearray, component: int) -> bool:
    """Whether a component is not in its initial configuration; without a header all are there."""
    return len(image) < _XSTATE_BV + 8 or bool(
        image[_XSTATE_BV + component // 8] >> component % 8 & 1
    )


def _make_present(image: bytearray, component: int) -> None:
    """Before a part of a component is set: the rest of it becomes its initial configuration."""
    if _present(image, component):
        return
    if component == _X87:
        image[:_MXCSR] = bytes(_MXCSR)
        image[_FCW : _FCW + 2] = _INITIAL[_FCW].to_bytes(2, "little")
        image[_ST:_XMM] = bytes(_XMM - _ST)
    elif component == _SSE:
        image[_XMM : _XMM + 256] = bytes(256)
    image[_XSTATE_BV + component // 8] |= 1 << component % 8


def _full_tags(image: bytes) -> int:
    """The x87 tag word of two bits a register, of FXSAVE's one (SDM vol. 1, "x87 FPU Tag Word").

    00 valid, 01 zero, 10 special (NaN, infinity, denormal, unsupported), 11 empty; by physical
    register, while the image has them from the top of the stack on.
    """
    top = int.from_bytes(image[_FSW : _FSW + 2], "little") >> 11 & 7
    tags = 0
    for physical in range(8):
        tag = 3
        if image[_FTW] >> physical & 1:
            at = _ST + 16 * ((physical - top) % 8)
            mantissa = int.from_bytes(image[at : at + 8], "little")
            exponent = int.from_bytes(image[at + 8 : at + 10], "little") & 0x7FFF
            if exponent == 0x7FFF:
                tag = 2
            elif exponent == 0:
                tag = 1 if mantissa == 0 else 2
            else:
                tag = 0 if mantissa >> 63 else 2
        tags |= tag << 2 * physical
    return tags
