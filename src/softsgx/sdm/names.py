"""The bits of ATTRIBUTES, XFRM, MISCSELECT and SECINFO.FLAGS by the SDM's names, for people."""

from __future__ import annotations

from softsgx.sdm import leaves

__all__ = ["attribute_names", "misc_names", "page_name", "xfrm_names"]

_ATTRIBUTES = {
    value: name.removeprefix("ATTR_")
    for name, value in vars(leaves).items()
    if name.startswith("ATTR_") and not value & (value - 1)
}
_MISC = {
    value: name.removeprefix("MISCSELECT_")
    for name, value in vars(leaves).items()
    if name.startswith("MISCSELECT_")
}
# SDM, volume 1, 13.1, "XSAVE-Supported Features and State-Component Bitmaps".
_XFRM = {
    0: "x87", 1: "SSE", 2: "AVX", 3: "BNDREGS", 4: "BNDCSR", 5: "opmask", 6: "ZMM_Hi256",
    7: "Hi16_ZMM", 8: "PT", 9: "PKRU", 10: "PASID", 11: "CET_U", 12: "CET_S", 13: "HDC",
    14: "UINTR", 15: "LBR", 16: "HWP", 17: "TILECFG", 18: "TILEDATA", 19: "APX",
}  # fmt: skip


def _names(value: int, known: dict[int, str]) -> list[str]:
    names = [known.get(1 << i, f"bit {i}") for i in range(64) if value >> i & 1]
    return names if value < 1 << 64 else [f"{value:#x}"]


def attribute_names(value: int) -> list[str]:
    """Of ATTRIBUTES' lower half; a bit without a name as "bit 9"."""
    return _names(value, _ATTRIBUTES)


def xfrm_names(value: int) -> list[str]:
    """Of XFRM: state components of XSAVE."""
    return _names(value, {1 << bit: name for bit, name in _XFRM.items()})


def misc_names(value: int) -> list[str]:
    """Of MISCSELECT."""
    return _names(value, _MISC)


def page_name(flags: int) -> tuple[str, str]:
    """A page's type and permissions of SECINFO.FLAGS, like ("REG", "r-x"); what is else, too."""
    number = (flags & leaves.SECINFO_PT_MASK) >> leaves.SECINFO_PT_SHIFT
    kind = leaves.PAGE_TYPE_NAMES.get(number, f"type {number}").removeprefix("PT_")
    rest = flags & ~(leaves.SECINFO_PT_MASK | leaves.SECINFO_RWX_MASK)
    if rest:
        kind += f" {rest:#x}"
    return kind, "".join(c if flags >> i & 1 else "-" for i, c in enumerate("rwx"))
