"""What an enclave's file is, as text: of the plain data of `softsgx.images.facts`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["enclave_text", "size_text"]

Facts = dict[str, Any]
_LONG = ("modulus", "signature", "q1", "q2")


def size_text(size: int) -> str:
    """Bytes with the largest unit that divides them: 64 KiB."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size and not size & (1 << shift) - 1:
            return f"{size >> shift} {unit}"
    return f"{size} bytes"


def enclave_text(facts: Facts, everything: bool = False) -> list[str]:
    """Lines. everything: with the long numbers and each run of pages."""
    lines = [f"{facts['file']}: {facts['format']}"]
    signed = facts["sigstruct"]
    if "size" in facts:
        frames = facts.get("ssa_frame_pages")
        of = f", SSA frames of {_pages(frames)}" if frames else ""
        lines.append(_row("enclave", f"{size_text(facts['size'])}{of}"))
    if facts.get("mrenclave"):
        agrees = ""
        if signed is not None:
            same = signed["mrenclave"] == facts["mrenclave"]
            agrees = ", as SIGSTRUCT says" if same else ", SIGSTRUCT DISAGREES"
        lines.append(_row("measures", f"{facts['mrenclave']}{agrees}"))
    if "not_computed" in facts:
        lines.append(_row("measures", f"not computed: {facts['not_computed']}"))
    for name in ("metadata", "properties", "manifest"):
        if name in facts:
            lines += _section(name, facts[name])
    for older in facts.get("older", ()):
        of = older["sigstruct"]
        text = f"{of['mrenclave']}, {of['date']}" if of else "not signed"
        lines.append(_row(f"metadata {older['version']}", text))
    if signed is not None:
        lines += _signed(signed, facts.get("sigstruct_file"), everything)
    elif not facts["problems"]:
        lines.append(_row("SIGSTRUCT", "none beside it"))
    lines += _layout(facts.get("layout"), everything)
    lines += [f"  WRONG: {problem}" for problem in facts["problems"]]
    return lines


def _row(name: str, value: object) -> str:
    return f"  {name:<14} {value}"


def _pages(n: int) -> str:
    return "1 page" if n == 1 else f"{n} pages"


def _section(name: str, values: Facts) -> Iterator[str]:
    yield f"  {name}"
    for key, value in values.items():
        text = _bits(value) if isinstance(value, dict) else value
        yield f"    {key:<26} {text}"


def _bits(value: Facts) -> str:
    names = ", ".join(value.get("names", ()))
    text = str(value["value"]) + (f" ({names})" if names else "")
    return text + (f", mask {value['mask']}" if "mask" in value else "")


def _signed(signed: Facts, file: str | None, everything: bool) -> Iterator[str]:
    yield f"  SIGSTRUCT{f' ({file})' if file else ''}"
    valid = "valid (RSA-3072, Q1 and Q2)" if signed["signature_valid"] else "NOT VALID"
    rows: list[tuple[str, object]] = [
        ("MRENCLAVE", signed["mrenclave"]),
        ("MRSIGNER", signed["mrsigner"]),
        ("signature", valid),
        ("DATE", signed["date"]),
        ("VENDOR", signed["vendor"] + (" (Intel)" if signed["vendor"] == "0x8086" else "")),
        ("SWDEFINED", signed["swdefined"]),
        ("ISVPRODID", signed["isvprodid"]),
        ("ISVSVN", signed["isvsvn"]),
        ("ISVEXTPRODID", signed["isvextprodid"]),
        ("ISVFAMILYID", signed["isvfamilyid"]),
        ("ATTRIBUTES", _bits(signed["attributes"])),
        ("XFRM", _bits(signed["xfrm"])),
        ("MISCSELECT", _bits(signed["miscselect"])),
        ("CET_ATTRIBUTES", _bits(signed["cet_attributes"])),
        ("HEADER", f"{signed['header']}, {signed['header2']}"),
        ("EXPONENT", signed["exponent"]),
    ]
    for name in _LONG:
        text = (
            signed[name] if everything else f"{signed[name][:16]}… ({len(signed[name]) // 2} bytes)"
        )
        rows.append((name.upper(), text))
    for name, value in rows:
        yield f"    {name:<14} {value}"


def _layout(layout: list[Facts] | None, everything: bool) -> Iterator[str]:
    if layout is None:
        return
    total, shown = sum(run["pages"] for run in layout), layout
    yield f"  layout: {_pages(total)} in {len(layout)} runs"
    if len(layout) > 24 and not everything:
        shown = layout[:20]
    for run in shown:
        what = f", {run['what']}" if run["what"] else ""
        measured = {"yes": "", "no": ", not measured", "in part": ", measured in part"}
        yield (
            f"    {run['offset']:#012x} {_pages(run['pages']):>14}  {run['type']:<4} {run['perm']}"
            f"{what}{measured[run['measured']]}"
        )
    if len(shown) < len(layout):
        yield f"    … and {len(layout) - len(shown)} more (--all)"
