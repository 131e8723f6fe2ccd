"""What an enclave's file says, and whether it is true: plain data, as ``inspect --json`` prints it.

Numbers that are bits are text ("0x4"), with names beside; digests are text in hex, SIGSTRUCT's
large numbers as numbers. ``problems`` is what is wrong with the enclave, in words, and is empty
if nothing is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from softsgx.errors import UsageError
from softsgx.images import gramine, intel, openenclave, sgxs
from softsgx.images.elf import MAGIC, Elf
from softsgx.images.image import Image, NotComputed, read_file, told
from softsgx.sdm import sigstruct
from softsgx.sdm.leaves import PAGE_SIZE
from softsgx.sdm.names import attribute_names, misc_names, page_name, xfrm_names
from softsgx.sdm.structs import SIGSTRUCT

__all__ = ["date_text", "facts", "sigstruct_facts"]

Facts = dict[str, Any]
_TEXT = bytes(range(32, 127)) + b"\t\r\n"


def facts(name: str, beside: str | None = None) -> Facts:
    """What a file is. ``beside``: the SIGSTRUCT of an .sgxs or a manifest, by default its .sig.

    Raises UsageError, which names the file, if it is none that is known or is broken.
    """
    found: Facts = told(name, lambda: _facts(name, read_file(name), beside))
    return {"file": name, **found}


def _facts(name: str, data: memoryview, beside: str | None) -> Facts:
    head = bytes(data[:16])
    if head[:8] in sgxs.MAGICS:
        return _of_stream(name, sgxs.Stream(data), beside)
    if head[:4] == MAGIC:
        return _of_elf(Elf(data))
    if head == sigstruct.HEADER or len(data) == SIGSTRUCT.size:
        if len(data) != SIGSTRUCT.size:
            raise UsageError(f"{len(data)} bytes; a SIGSTRUCT has {SIGSTRUCT.size}")
        return _finished("SIGSTRUCT", sigstruct_facts(bytes(data)))
    if data and not bytes(data[:4096]).translate(None, _TEXT):
        return _of_manifest(name, gramine.Manifest(data), beside)
    raise UsageError(
        "neither a SIGSTRUCT, an .sgxs stream, an ELF file nor a manifest of Gramine"
        if len(data)
        else "an empty file"
    )


def _finished(what: str, signed: Facts | None, *more: str, **others: Any) -> Facts:
    """A whole report: ``more`` are its problems beside those of the SIGSTRUCT."""
    problems = [*(signed["problems"] if signed else ()), *more]
    return {"format": what, **others, "sigstruct": signed, "problems": problems}


def _of_stream(name: str, stream: sgxs.Stream, beside: str | None) -> Facts:
    layout: list[Facts] = []
    for pages in stream.pages():
        _append(layout, pages.offset, pages.n_pages, pages.flags, _measured(pages), "")
    computed = stream.mrenclave().hex() if stream.sized else None
    raw, which = _sigstruct_beside(name, beside)
    signed = sigstruct_facts(raw) if raw else None
    return _finished(
        "SGXS stream" if stream.sized else "SGXS stream, unsized",
        signed,
        *_disagreement(computed, signed),
        sigstruct_file=which,
        **_built(stream.size, stream.ssa_frame_pages, computed, layout),
    )


def _measured(pages: sgxs.Pages) -> str:
    return {0: "no", 0xFFFF: "yes"}.get(pages.measured, "in part")


def _of_elf(elf: Elf) -> Facts:
    if elf.section(intel.SECTION) is not None:
        newest, *older = intel.metadata_of(elf)
        found = _of_image("Intel SDK's signed ELF", newest.sigstruct, newest.image)
        policies = {0: "bound", 1: "unbound"}
        fields = newest.fields
        found["metadata"] = {
            "version": newest.version,
            "attributes": _bits(fields.attributes, attribute_names),
            "xfrm": _bits(fields.xfrm, xfrm_names),
            "miscselect": _bits(fields.desired_misc_select, misc_names),
            "tcs_policy": policies.get(fields.tcs_policy, fields.tcs_policy),
            "tcs_min_pool": fields.tcs_min_pool,
        }
        found["older"] = [
            {
                "version": one.version,
                **_of_image("", one.sigstruct, one.image, with_layout=False),
            }
            for one in older
        ]
        for one in found["older"]:
            del one["format"]
            found["problems"] += [f"metadata {one['version']}: {p}" for p in one["problems"]]
        return found
    if elf.section(openenclave.SECTION) is not None:
        properties = openenclave.properties_of(elf)
        found = _of_image("Open Enclave's ELF", properties.sigstruct, properties.image)
        if properties.fields is not None:
            fields = properties.fields
            found["properties"] = {
                name: getattr(fields, name)
                for name in ("num_heap_pages", "num_stack_pages", "num_tcs", "product_id",
                             "security_version", "start_address")
            }  # fmt: skip
            found["properties"] |= {
                "family_id": fields.family_id.hex(),
                "extended_product_id": fields.extended_product_id.hex(),
                "attributes": _bits(fields.attributes, attribute_names),
                "capture_pf_gp_exceptions": bool(fields.flags & 1),
                "create_zero_base_enclave": bool(fields.flags & 2),
            }
        return found
    raise UsageError(
        "an ELF file that is no signed enclave: it has neither .note.sgxmeta nor .oeinfo "
        "('softsgx measure' makes one of it)"
    )


def _of_image(what: str, signature: bytes, image: Any, with_layout: bool = True) -> Facts:
    signed = sigstruct_facts(signature) if any(signature) else None
    problems = [] if signed else ["it is not signed"]
    try:
        built: Image = image()
    except NotComputed as error:
        return _finished(what, signed, *problems, mrenclave=None, not_computed=str(error))
    computed = built.mrenclave().hex()
    layout: list[Facts] = []
    for part in built.parts:
        measured = "yes" if part.measured else "no"
        _append(layout, part.offset, part.n_pages, part.flags, measured, part.what)
    problems += _disagreement(computed, signed)
    all_of_it = _built(built.size, built.ssa_frame_pages, computed, layout)
    if not with_layout:
        del all_of_it["layout"]
    return _finished(what, signed, *problems, **all_of_it)


def _of_manifest(name: str, manifest: gramine.Manifest, beside: str | None) -> Facts:
    raw, which = _sigstruct_beside(name, beside)
    return _finished(
        "Gramine's manifest",
        sigstruct_facts(raw) if raw else None,
        *(manifest.differences(sigstruct.parse(raw)) if raw else ()),
        sigstruct_file=which,
        size=manifest.size,
        manifest={
            "max_threads": manifest.max_threads,
            "isvprodid": manifest.isvprodid,
            "isvsvn": manifest.isvsvn,
            "debug": manifest.debug,
            "edmm_enable": manifest.edmm,
            "trusted_files": manifest.trusted_files(),
        },
    )


def _sigstruct_beside(name: str, beside: str | None) -> tuple[bytes, str | None]:
    """The SIGSTRUCT beside a file, and that file's name; b"" and None if there is none."""
    if beside is None:
        stem = name.removesuffix(".sgxs").removesuffix(".sgx").removesuffix(".manifest")
        beside = f"{stem}.sig"
        if name in ("-", stem) or not os.path.isfile(beside):
            return b"", None
    data = read_file(beside)
    if len(data) != SIGSTRUCT.size:
        raise UsageError(f"{beside}: {len(data)} bytes; a SIGSTRUCT has {SIGSTRUCT.size}")
    return bytes(data), beside


def _disagreement(computed: str | None, signed: Facts | None) -> Iterable[str]:
    if computed is not None and signed is not None and signed["mrenclave"] != computed:
        yield f"what is added measures {computed}, SIGSTRUCT is of {signed['mrenclave']}"


def _built(size: int, ssa_frame_pages: int, computed: str | None, layout: list[Facts]) -> Facts:
    return {
        "size": size,
        "ssa_frame_pages": ssa_frame_pages,
        "mrenclave": computed,
        "layout": layout,
    }


def _append(
    layout: list[Facts], offset: int, n_pages: int, flags: int, measured: str, what: str
) -> None:
    """Add a run of pages, to the last one if it goes on there."""
    kind, perm = page_name(flags)
    new = {"type": kind, "perm": perm, "measured": measured, "what": what}
    if layout and offset == layout[-1]["offset"] + layout[-1]["pages"] * PAGE_SIZE:
        last = layout[-1]
        if {key: last[key] for key in new} == new:
            last["pages"] += n_pages
            return
    layout.append({"offset": offset, "pages": n_pages, **new})


def _bits(value: int, names: Any, mask: int | None = None) -> Facts:
    found = {"value": f"{value:#x}", "names": names(value)}
    return found if mask is None else {**found, "mask": f"{mask:#x}"}


def date_text(date: int) -> str:
    """SIGSTRUCT.DATE, which is YYYYMMDD in BCD, as 2019-05-23; as a number if it is no date."""
    text = f"{date:08x}"
    if not text.isdigit() or not ("01" <= text[4:6] <= "12" and "01" <= text[6:] <= "31"):
        return f"{date:#x}"
    return f"{text[:4]}-{text[4:6]}-{text[6:]}"


def sigstruct_facts(buf: bytes) -> Facts:
    """All of a SIGSTRUCT (1808 bytes), and what EINIT would say of it alone."""
    s = sigstruct.parse(buf)
    failures = [sigstruct.check_fields(buf), sigstruct.check_signature(buf)]
    return {
        "mrenclave": s.enclavehash.hex(),
        "mrsigner": sigstruct.mrsigner(s.modulus).hex(),
        "signature_valid": failures[1] is None,
        "date": date_text(s.date),
        "vendor": f"{s.vendor:#x}",
        "swdefined": f"{s.swdefined:#x}",
        "isvprodid": s.isvprodid,
        "isvsvn": s.isvsvn,
        "isvextprodid": s.isvextprodid.hex(),
        "isvfamilyid": s.isvfamilyid.hex(),
        "attributes": _bits(s.attributes, attribute_names, s.attributemask),
        "xfrm": _bits(s.xfrm, xfrm_names, s.xfrmmask),
        "miscselect": _bits(s.miscselect, misc_names, s.miscmask),
        "cet_attributes": {
            "value": f"{s.cet_attributes:#x}",
            "mask": f"{s.cet_attributes_mask:#x}",
        },
        "header": s.header.hex(),
        "header2": s.header2.hex(),
        "exponent": s.exponent,
        **{name: getattr(s, name)[::-1].hex() for name in ("modulus", "signature", "q1", "q2")},
        "problems": [f"SIGSTRUCT: {failure}" for failure in failures if failure is not None],
    }
