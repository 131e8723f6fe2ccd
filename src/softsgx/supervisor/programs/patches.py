"""Without CPUID faulting: CPUID's bytes become UD2 in executable file mappings as they appear.

The originals are remembered, since what a loader copies into an enclave has to be what is in
the file (`state.patched`).
"""

from __future__ import annotations

import os
from bisect import bisect_left, insort

from softsgx.host import cpuidsites
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.answer import DONE, cont
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi.regs import R8, R9, R10, RAX, RDX, RSI

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["patch", "patch_mapped"]

_PROT_EXEC, _MAP_ANONYMOUS = 4, 0x20


def patch(
    run: Run, space: AddressSpace, paths: tuple[str, ...], start: int, end: int, offset: int
) -> None:
    """Replace the CPUID instructions of one executable file mapping.

    paths: of the file, to be tried in turn.
    """
    found: tuple[int, ...] = ()
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError):
            continue
        try:
            found = _sites(run, fd)
        except (OSError, ValueError):
            pass
        finally:
            os.close(fd)
        break
    here = [start + s - offset for s in found if offset <= s <= offset + end - start - 2]
    at = 0
    while at < len(here):  # a page at a time: two calls for all its sites
        first = here[at]
        behind = bisect_left(here, (first | 0xFFF) + 1, at)
        was = space.peek(first, here[behind - 1] + 2 - first)
        code = bytearray(was)
        for addr in here[at:behind]:
            if code[addr - first : addr - first + 2] == cpuidsites.CPUID_BYTES:
                code[addr - first : addr - first + 2] = cpuidsites.UD2_BYTES
                if addr not in space.patched:
                    insort(space.patched, addr)
        if code != was:
            space.poke(first, code)
        at = behind


def _sites(run: Run, fd: int) -> tuple[int, ...]:
    """The CPUID instructions of a file, looked for once a run: most processes map the same few."""
    s = os.fstat(fd)
    key = (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
    found = run.cpuid_sites.get(key)
    if found is None:
        found = cpuidsites.sites(fd, 0, s.st_size, run.cache_dir)
        run.cpuid_sites[key] = found
    return found


def patch_mapped(run: Run, tracee: Tracee) -> Any:
    """From the seccomp stop of an mmap: one of a file's code is made, then patched."""
    view, space = run.view, tracee.space
    wanted = view[RDX] & _PROT_EXEC and not view[R10] & _MAP_ANONYMOUS and run.options.cpuid
    if not (wanted and space.native_cpuid and space.image) or space.translates:
        return None
    fd, length, offset = view[R8] & 0xFFFFFFFF, view[RSI], view[R9]
    Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
    run.regs.load(tracee.tid)
    addr = view[RAX]
    if addr < 1 << 47 and not addr & 0xFFF:
        end = addr + (length + 4095 & -4096)
        patch(run, space, (f"/proc/{tracee.tgid}/fd/{fd}",), addr, end, offset)
    cont(run, tracee)
    return DONE
