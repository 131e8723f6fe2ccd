"""What a debugger reads as files: threads, the auxiliary vector, libraries and enclaves among them.

The libraries are those of the dynamic linker's list (System V ABI, "Dynamic Linking"; glibc's
<link.h>, struct r_debug and struct link_map), and the enclaves' ELF files with them: so GDB has
the symbols of both.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import Any
from xml.sax.saxutils import quoteattr

from softsgx.host import procmaps, vdso
from softsgx.host.status import comm_of
from softsgx.host.symbols import Symbols
from softsgx.rsp.packets import Ids
from softsgx.supervisor.debug.threads import Thread
from softsgx.supervisor.inside.elf import enclave_symbols
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace

__all__ = ["auxv", "enclaves", "exec_file", "libraries", "threads"]

_AT_NULL, _AT_PHDR, _AT_PHENT, _AT_PHNUM, _AT_SYSINFO_EHDR = 0, 3, 4, 5, 33
_PT_DYNAMIC, _PT_PHDR, _DT_DEBUG = 2, 6, 21
_MOST = 4096  # entries of a list that a broken program may have made a circle of


def threads(all_of: Iterable[Thread], ids: Ids) -> bytes:
    """The threads, with names, and where in which enclave they are."""
    lines = ["<threads>"]
    for t in all_of:
        ident = ids.text(t.process.pid, t.tid).decode()
        where = ""
        if t.inside:
            thread = t.tracee.thread
            where = f"in enclave {thread.enclave.base:#x}, TCS {thread.tcs.addr:#x}"
        try:
            name = comm_of(t.tid)
        except OSError:
            name = ""
        lines.append(f'<thread id="{ident}" name={quoteattr(name)}>{where}</thread>')
    return "\n".join([*lines, "</threads>", ""]).encode()


def exec_file(t: Thread) -> bytes:
    """The path of a process's program."""
    return os.fsencode(os.readlink(f"/proc/{t.tracee.space.seen}/exe"))


def auxv(t: Thread) -> bytes:
    """The auxiliary vector as the program has it: the kernel does not know of our vDSO."""
    found, image = procmaps.auxv(t.tracee.space.seen), t.tracee.space.image
    if image and _AT_SYSINFO_EHDR in found:
        found[_AT_SYSINFO_EHDR] = image
    return b"".join(struct.pack("<QQ", *pair) for pair in (*found.items(), (_AT_NULL, 0)))


# -- libraries -----------------------------------------------------------------------------


def libraries(run: Run, t: Thread) -> bytes:
    """The list of libraries, enclaves behind them."""
    lines, main = [], ""
    image = t.tracee.space.image
    if image:  # our vDSO, which the kernel does not know: its file has symbols and CFI
        dynamic = image + Symbols(vdso.PATH, image).dynamic
        lines.append(_library(vdso.PATH, image, image, dynamic))
    for n, (at, bias, name, dynamic) in enumerate(_link_map(t)):
        if n == 0:
            main = f' main-lm="{at:#x}"'
        elif name and bias != image:
            lines.append(_library(name, at, bias, dynamic))
    for enclave, symbols in enclaves(run, t):
        if symbols is not None:
            lines.append(
                _library(symbols.path, enclave.base, symbols.bias, symbols.bias + symbols.dynamic)
            )
    head = f'<library-list-svr4 version="1.0"{main}>'
    return "\n".join([head, *lines, "</library-list-svr4>", ""]).encode("utf-8", "surrogateescape")


def _library(name: str, at: int, bias: int, dynamic: int) -> str:
    return (
        f'<library name={quoteattr(name)} lm="{at:#x}" l_addr="{bias:#x}"'
        f' l_ld="{dynamic:#x}" lmid="0x0"/>'
    )


def _words(space: AddressSpace, addr: int, count: int) -> tuple[int, ...]:
    raw = space.peek(addr, 8 * count) if 0 < addr < 1 << 63 else b""
    return struct.unpack(f"<{count}Q", raw) if len(raw) == 8 * count else ()


def _string(space: AddressSpace, addr: int) -> str:
    if not 0 < addr < 1 << 63:
        return ""
    raw = space.peek(addr, 4096 - addr % 4096)
    if b"\0" not in raw:
        raw += space.peek(addr + len(raw), 4096)
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _link_map(t: Thread) -> Iterator[tuple[int, int, str, int]]:
    """(its address, l_addr, l_name, l_ld) of each, the program's own first."""
    space = t.tracee.space
    known = procmaps.auxv(t.tracee.space.seen)
    count = min(known.get(_AT_PHNUM, 0), 256)
    raw = space.peek(known.get(_AT_PHDR, 0), 56 * count) if known.get(_AT_PHENT) == 56 else b""
    bias = dynamic = 0
    for at in range(0, len(raw) - 55, 56):
        kind, _, _, vaddr = struct.unpack_from("<IIQQ", raw, at)
        if kind == _PT_PHDR:
            bias = known[_AT_PHDR] - vaddr
        elif kind == _PT_DYNAMIC:
            dynamic = vaddr
    debug = 0
    for n in range(256 if dynamic else 0):
        entry = _words(space, bias + dynamic + 16 * n, 2)
        if not entry or not entry[0]:
            break
        if entry[0] == _DT_DEBUG:
            debug = entry[1]
    head = _words(space, debug, 2)
    at = head[1] if head else 0
    for _ in range(_MOST):
        entry = _words(space, at, 4)
        if not entry:
            return
        yield at, entry[0], _string(space, entry[1]), entry[2]
        at = entry[3]


# -- enclaves ------------------------------------------------------------------------------


def enclaves(run: Run, t: Thread) -> Iterator[tuple[Any, Symbols | None]]:
    """The enclaves that a process maps, initialized, each with the symbols of its file, or None."""
    process = t.tracee.space.sgx
    files = {vma.file.base_file for vma in process.mm} if process is not None else set()
    found = [file.enclave for file in files if file.enclave.initialized]
    for enclave in sorted(found, key=lambda enclave: enclave.base):
        yield enclave, enclave_symbols(run, t.tracee, enclave)
