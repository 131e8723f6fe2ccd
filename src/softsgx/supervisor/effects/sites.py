"""EEXITs that are left without a stop: the instruction before their ENCLU becomes a jump.

ENCLU has three bytes and a jump has five, but code loads the leaf right before it. That one
instruction is replaced, ENCLU stays: what jumps to it stops as ever. Nothing but enclave code
is looked at and only where an EEXIT has stopped often, so it is an ENCLU for sure; that the
bytes before it are one instruction is for `host.before` to say.

The bytes lie in the enclave's memory, which all processes share, and lead to the pads of one.
So they go before a process maps the enclave that has no pads there (a child that was forked
has), and before the page that they are on changes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from softsgx.host import ptrace, short
from softsgx.host.before import leaf_before
from softsgx.sdm.leaves import PT_REG
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.freeze import frozen
from softsgx.uapi.regs import RIP

__all__ = ["counted", "mapped", "restore"]

_OFTEN = 32
_WINDOW_BYTES = 96
_JUMP_BYTES = 5
_W, _X = 2, 4


def counted(run: Run, tracee: Tracee, enclave: Any, at: int) -> None:
    """An EEXIT has stopped, its ENCLU at an offset: if it does so often, it will not any more."""
    if not 0 <= at < enclave.size:
        return
    memory = enclave.memory
    n = memory.exits[at] = memory.exits.get(at, 0) + 1
    if n == _OFTEN:
        _replace(run, tracee, enclave, at)


def _replace(run: Run, tracee: Tracee, enclave: Any, at: int) -> None:
    process: HostProcess = tracee.space.sgx
    table = process.table
    if table is None or process is not _only(run, enclave) or _debugged(enclave):
        return
    memory = enclave.memory
    found = leaf_before(memory.read(max(at - _WINDOW_BYTES, 0), min(at, _WINDOW_BYTES)))
    if not found:
        return
    start = at - found
    if not all(_is_code(enclave, page) for page in range(start >> 12, (at + 2 >> 12) + 1)):
        return
    number = len(process.pads)
    if number >= short.MAX_PADS:
        return
    pad, code = short.pad(table.base, number)
    distance = pad - (enclave.base + start + _JUMP_BYTES)
    if not -(1 << 31) <= distance < 1 << 31:
        return
    jump = struct.pack("<Bi", 0xE9, distance)
    with frozen(run, [tracee.space]) as threads:
        if any(_within(tid, enclave.base + start) for tid in threads):
            memory.exits[at] = 0  # somebody jumped there: not now
            return
        tracee.space.poke(pad, code)
        process.pads.append(memory.replace(number, at, start, jump))


def _within(tid: int, start: int) -> bool:
    regs = ptrace.Registers()
    try:
        regs.load(tid)
    except ProcessLookupError:
        return False
    return start < regs.view[RIP] < start + _JUMP_BYTES


def _is_code(enclave: Any, page: int) -> bool:
    """Whether nobody can write to a page, by any mapping."""
    get, word = enclave.page_schema.get, enclave.pages[page]
    usable = get(word, "present") and get(word, "pt") == PT_REG
    settled = not get(word, "pending") | get(word, "modified") | get(word, "pr")
    return bool(usable and settled and get(word, "perm") & (_W | _X) == _X)


def _only(run: Run, enclave: Any) -> HostProcess | None:
    found = [p for p in run.device.processes if _maps(p, enclave)]
    return found[0] if len(found) == 1 else None


def _maps(process: Any, enclave: Any) -> bool:
    return any(getattr(vma.file, "enclave", None) is enclave for vma in process.mm)


def _debugged(enclave: Any) -> bool:
    return any(tcs.debug_optin for tcs in enclave.tcs.values())


def mapped(run: Run, process: HostProcess, enclave: Any) -> None:
    """A process is about to map an enclave: its jumps lead to pads that it has, or go."""
    pads = process.pads
    for number, site in enclave.memory.sites.items():
        if number >= len(pads) or pads[number] is not site:
            restore(run, enclave)
            return


def restore(run: Run, enclave: Any, first: int = 0, last: int | None = None) -> None:
    """Take the jumps on the pages [first, last) back."""
    memory = enclave.memory
    end = enclave.pages.n_pages if last is None else last
    numbers = [
        number
        for number, site in memory.sites.items()
        if site.start >> 12 < end and site.start + _JUMP_BYTES - 1 >> 12 >= first
    ]
    if not numbers:
        return
    with frozen(run, _spaces(run, enclave)):
        for number in numbers:
            memory.undo(number)


def _spaces(run: Run, enclave: Any) -> Iterable[AddressSpace]:
    return [p.space for p in run.device.processes if _maps(p, enclave)]
