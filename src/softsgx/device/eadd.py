"""EADD of a range: pieces of pages that are alike, from memory that is.

What is large is copied in one go where a device can (`Device.copy_in`); all else is read first.
"""

from __future__ import annotations

from typing import Any

from softsgx.device import create as checks
from softsgx.device.files import EnclaveFile
from softsgx.device.memory import Fault
from softsgx.device.origins import looked_at
from softsgx.device.pagecells import stored
from softsgx.law.rule import At, Request, Stop
from softsgx.sdm.leaves import PAGE_SIZE, PT_TCS

__all__ = ["PIECE_BYTES", "add_range"]

PIECE_BYTES = 1 << 20
"""As much is added before signals are looked at."""
_U64 = 1 << 64


def add_range(
    device: Any, process: Any, file: EnclaveFile, params: Any, r: Request, rule: Any, *,
    measure: bool,
) -> tuple[int, Stop | None]:  # fmt: skip
    """EADD a range page by page, as pieces that are alike: bytes done, and what stopped it.

    params: ``src``, ``offset``, ``length``. rule: the design's for one page, with
    ``at.source``. A signal ends it early, and nothing stopped it then (Linux
    sgx_ioc_enclave_add_pages()); the first piece is added all the same.
    """
    src, offset, length = params.src, params.offset, params.length
    run, enclave, schema = device.run, file.enclave, file.enclave.page_schema
    memory, pages = process.memory, enclave.pages
    done = 0
    source = None
    try:
        while done < length:
            if done and process.signal_pending():
                break
            addr = src + done
            if source is None or not source.start <= addr < source.end:
                source = memory.source(addr)
                if process.enclave_at(addr) is not None:
                    source = source.kept(0)  # get_user_pages() takes no VM_IO, no VM_PFNMAP
            to = (offset + done) % _U64  # a design may let the sum wrap around
            inside = to < enclave.size
            room = enclave.size - to if inside and r.pt != PT_TCS else PAGE_SIZE
            stop_at = done + min(length - done, room, PIECE_BYTES)
            stop_at = min(stop_at, max(source.end - src, done + PAGE_SIZE))
            first = to >> 12
            if device.design.keeps_origins and inside:
                stop_at = min(stop_at, done + looked_at(process, enclave, source, to, r))
            if inside:
                last, cell = file.first_run(first, to + stop_at - done >> 12)
            else:
                last, cell = first + 1, schema.cell(0)
            word = cell.words[0]
            n = (last - first) * PAGE_SIZE
            data = b""
            # Before the rule says whether it may: nobody sees it until then.
            copied = (
                inside and r.pt != PT_TCS and source.readable
                and not schema.get(word, "present")
                and device.copy_in(process, enclave, addr, n, to)
            )  # fmt: skip
            if source.readable and not copied:
                try:
                    data = memory.read(addr, n)
                except Fault:
                    # The end of a file within the VMA, say: find the page that fails.
                    if n > PAGE_SIZE:
                        n, last = PAGE_SIZE, first + 1
                        try:
                            data = memory.read(addr, n)
                        except Fault:
                            source = source.kept(0)
                    else:
                        source = source.kept(0)
            tcs: bytes | None = data
            if data and r.pt == PT_TCS:
                tcs = checks.tcs_of_eadd(data, device.design.aexnotify)
            r.__dict__.update(tcs_valid=int(tcs is not None), inside=int(inside))
            data = tcs or b""
            at = At(page=cell, source=source, enclave=enclave, process=process, file=file)
            try:
                rule(run, at, r)
            except Stop:
                if copied:
                    enclave.memory.discard(to, n)
                raise
            if schema.get(word, "present"):
                # A second EADD, which a design allowed: what was there is measured first.
                enclave.measurement.digest()
                enclave.memory.discard(to, n)
            if copied:
                enclave.loaded(to, last - first, r.flags, measure)
            else:
                enclave.load(to, data, r.flags, measure)
            pages.fill(first, last, stored(schema, cell.words[0]))
            enclave.touch()
            device.on_pages(file, first, last)
            done += n
    except Stop as stop:
        return done, stop
    return done, None
