"""One enclave: its SECS, its pages, its TCSs and its memory.

Linux names stay out: which ioctl brought a page is the driver's business
(`softsgx.device`). The content of the pages lives in an `EnclaveMemory`, plain
anonymous memory here; the supervisor puts a memfd in its place, which the real
processes map.
"""

from __future__ import annotations

import mmap

from softsgx.sdm.leaves import (
    ATTR_AEXNOTIFY,
    ATTR_DEBUG,
    PAGE_SIZE,
    TCS_AEXNOTIFY,
    TCS_DBGOPTIN,
)
from softsgx.sdm.structs import GPRSGX, TCS
from softsgx.sdm.xsave import INTEL, XsaveLayout
from softsgx.sgx.epcm import PageTable
from softsgx.sgx.keys import CPUSVN

# Not from typing, whose import takes 10 ms: type checkers know the names.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object

__all__ = ["Enclave", "EnclaveMemory", "Shortcut", "Tcs"]

_U64 = (1 << 64) - 1
_PAGE_OF_ZEROS = bytes(PAGE_SIZE)


class EnclaveMemory:
    """The content of an enclave's pages: sparse, zero where nothing was written.

    fd: of a file that holds it, at the same offsets, or -1. sites: instructions that were
    replaced in it, by number.
    """

    fd = -1

    def __init__(self, size_bytes: int) -> None:
        self.sites: dict[int, Any] = {}
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        self._map = mmap.mmap(-1, size_bytes, flags=flags)
        self.view = memoryview(self._map)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at an offset in ELRANGE."""
        return bytes(self.view[offset : offset + length])

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Store bytes at an offset in ELRANGE."""
        self.view[offset : offset + len(data)] = data

    def discard(self, offset: int, length: int) -> None:
        """Make a range zero again and give its memory back."""
        self._map.madvise(mmap.MADV_DONTNEED, offset, length)


class Shortcut(Protocol):
    """A way into a TCS that does not come by here: it is told what happens here, and asked.

    What it takes for granted is what `Tcs.checked` remembers, so it ends where that does.
    """

    def close(self) -> None:
        """Nobody is let in that way from now on."""

    def busy(self) -> bool:
        """Whether a thread is inside; nobody is let in that way from now on."""

    def taken(self, thread: Any) -> None:
        """A thread has entered here."""

    def freed(self, thread: Any) -> None:
        """A thread has left here."""


class Tcs:
    """A TCS in use: what the CPU reads of it, and the state that no software sees.

    Addresses are linear; ``cssa`` is the live one (the page's copy is what EADD
    loaded). ``entered`` is the thread inside, or None. ``valid``: what EENTER
    and ERESUME ask of OSSA, OFSBASE, OGSBASE and FLAGS holds. ``aexnotify``: ERESUME may
    notify the enclave of the exit. ``checked``: what held when an EENTER has found nothing amiss
    with frame 0, ``deeper``: with others. ``row``: a `Shortcut`, or None; where there is one it
    knows better than ``entered``.
    """

    __slots__ = (
        "addr",
        "aep",
        "aexnotify",
        "checked",
        "cssa",
        "debug_optin",
        "deeper",
        "entered",
        "entry",
        "frame_bytes",
        "fs_base",
        "gs_base",
        "nssa",
        "offset",
        "opted_in",
        "outer_fs_base",
        "outer_gs_base",
        "outer_tf",
        "row",
        "ssa",
        "valid",
    )

    def __init__(self, enclave: Enclave, offset: int) -> None:
        t = TCS.unpack(enclave.memory.read(offset, PAGE_SIZE))
        base = enclave.base
        self.offset, self.addr = offset, base + offset
        self.debug_optin = t.flags & TCS_DBGOPTIN
        aligned = not (t.ossa | t.ofsbase | t.ogsbase) & PAGE_SIZE - 1
        self.aexnotify = bool(t.flags & TCS_AEXNOTIFY)
        agreed = self.debug_optin or self.aexnotify == enclave.aexnotify
        self.valid = aligned and agreed and not t.flags & ~(TCS_DBGOPTIN | TCS_AEXNOTIFY)
        self.cssa, self.nssa = t.cssa, t.nssa
        self.entry = base + t.oentry & _U64
        self.fs_base, self.gs_base = base + t.ofsbase & _U64, base + t.ogsbase & _U64
        self.ssa = t.ossa
        self.frame_bytes = enclave.frame_bytes
        self.aep = 0
        self.outer_fs_base = self.outer_gs_base = self.outer_tf = self.opted_in = 0
        self.entered: Any = None
        self.checked: Any = None
        self.deeper: dict[int, Any] = {}
        self.row: Shortcut | None = None

    @property
    def busy(self) -> bool:
        """Whether a thread is inside."""
        return self.entered is not None if self.row is None else self.row.busy()

    def frame(self, index: int) -> int:
        """Offset in ELRANGE of SSA frame ``index``."""
        return int(self.ssa + index * self.frame_bytes)

    def gpr(self, index: int) -> int:
        """Offset in ELRANGE of the GPRSGX region of SSA frame ``index``."""
        return int(self.ssa + (index + 1) * self.frame_bytes - GPRSGX.size)


_ZEROS = bytes(1 << 20)


class Enclave:
    """An enclave, from the opening of the device on.

    created, initialized, dead: 0 or 1. lost: the EPC lost its content over a suspend: no EPCM
    entry is valid any more. cpusvn: of the processor. base, size: ELRANGE in bytes, from ECREATE.
    secs: the SECS record. sigstruct: what is known of the memory that SIGSTRUCT was in, None where
    nobody asks; origins: the same of the files that pages came from, where pages know it.
    xsave: where this processor has its XSAVE components. generation:
    grows when a page's state changes; entries: when one does that checks made on an entry
    looked_at (numbers of pages), so that they can be remembered. shortcuts: those that are open
    by such checks.
    """

    def __init__(self, page_schema: Any, xsave: XsaveLayout = INTEL) -> None:
        self.page_schema, self.xsave = page_schema, xsave
        self.created = self.initialized = self.dead = 0
        self.base = self.size = 0
        self.secs: Any = None
        self.sigstruct: Any = None
        self.origins: list[Any] = []
        self.secs_attributes = self.attributes_allowed = 0
        self.frame_bytes = PAGE_SIZE
        self.xfrm = self.miscselect = 0
        self.pages = PageTable(0)
        self.memory: EnclaveMemory = None  # type: ignore[assignment]
        self.measurement: Any = None
        self.tcs: dict[int, Tcs] = {}
        self.generation = self.entries = 0
        self.looked_at: set[int] = set()
        self.shortcuts: set[Shortcut] = set()
        self.key_root = b""
        self.cpusvn = CPUSVN
        self.lost = False
        self.identity: Any = None
        self.einit_failure = ""

    def ecreate(self, secs: Any, memory: EnclaveMemory, measurement: Any) -> None:
        """ECREATE, after its checks: fix ELRANGE and begin the measurement."""
        self.secs, self.memory, self.measurement = secs, memory, measurement
        self.base, self.size = secs.baseaddr, secs.size
        self.frame_bytes = secs.ssaframesize * PAGE_SIZE
        self.xfrm, self.miscselect = secs.xfrm, secs.miscselect
        self.pages = PageTable(self.size // PAGE_SIZE)
        self.created = 1
        self.generation += 1

    def load(self, offset: int, data: bytes, secinfo_flags: int, measure: bool) -> None:
        """EADD (and EEXTEND of the whole pages) of equal pages; ``data`` is their content."""
        n = len(data) // PAGE_SIZE
        if data != _ZEROS[: len(data)]:  # fresh memory is zero already
            self.memory.write(offset, data)
        if self.memory.fd >= 0:
            self.loaded(offset, n, secinfo_flags, measure)
        else:
            self.measurement.add_pages(offset, secinfo_flags, data, measure)
        if n == 1:
            self.tcs.pop(offset, None)

    def loaded(self, offset: int, n: int, secinfo_flags: int, measure: bool) -> None:
        """The same of ``n`` pages whose content is in the memory's file already."""
        memory = self.memory
        self.measurement.add_pages_from_fd(
            memory.fd, offset, offset, n, secinfo_flags, measure, memory.view
        )

    def clear(self, index: int) -> None:
        """EAUG's part in the content of a page: zeros.

        Mostly it is zero already; a thread that was inside when its SSA was removed may
        have stored there since (hardware would have driven it out before).
        """
        if bytes(self.memory.view[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]) != _PAGE_OF_ZEROS:
            self.memory.discard(index * PAGE_SIZE, PAGE_SIZE)

    @property
    def end(self) -> int:
        """The first address behind ELRANGE."""
        return self.base + self.size

    @property
    def debug(self) -> bool:
        """Whether SECS.ATTRIBUTES.DEBUG is set."""
        return bool(self.secs.attributes & ATTR_DEBUG)

    @property
    def aexnotify(self) -> bool:
        """Whether SECS.ATTRIBUTES.AEXNOTIFY is set."""
        return bool(self.secs.attributes & ATTR_AEXNOTIFY)

    @property
    def xsave_bytes(self) -> int:
        """Size of the XSAVE area in an SSA frame for this XFRM (SDM, CPUID leaf 0DH)."""
        return self.xsave.size_bytes(self.xfrm)

    def tcs_at(self, addr: int) -> Tcs:
        """The TCS of the PT_TCS page at a linear address."""
        offset = addr - self.base
        tcs = self.tcs.get(offset)
        if tcs is None:
            tcs = self.tcs[offset] = Tcs(self, offset)
        return tcs

    def touch(self, first: int = 0, last: int | None = None) -> None:
        """The state of the pages [first, last) changed, of any by default.

        Earlier checks of entries that looked at one of them no longer count.
        """
        self.generation += 1
        if last is not None and not any(first <= page < last for page in self.looked_at):
            return
        self.entries += 1
        self.looked_at.clear()
        for row in tuple(self.shortcuts):
            row.close()
