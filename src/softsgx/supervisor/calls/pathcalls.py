"""Calls on paths that need no stop: the instructions that make them often are led past it.

A path is looked at in the process itself (`softsgx.host.pathcode`), by code that calls for what
is of no concern and leaves the rest to stop as ever. An instruction is led there after it has
stopped, so it is one, and only in code of a private mapping of a file that nobody can write. Its
bytes are the file's again where a loader copies them (`state.patched`).
"""

from __future__ import annotations

import os

from softsgx.errors import UnsupportedError
from softsgx.host import pathcode, pathinsn, ptrace, signals
from softsgx.supervisor.programs import pathkept, pathsites
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import DONE, cont
from softsgx.supervisor.stopped.forced import put_back
from softsgx.supervisor.stopped.remote import calls, cancel
from softsgx.supervisor.stopped.resume import OF_CALLS, out_of_ours
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RAX, RIP, RSP

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "among_descriptors", "at_signal", "catch_up", "hurry", "hurry_mmap", "leave_alone",
    "look_for_links", "note_folder", "place", "stay_slow",
]  # fmt: skip

_FEW = 12  # stops that cost less than to make the code
_AGAIN, _MOST_SEEN = 2, 1 << 14
_REACH = (1 << 31) - (1 << 20)
_LOWEST = 1 << 16  # vm.mmap_min_addr
_PROT_READ_EXEC, _PRIVATE_ANONYMOUS, _FIXED_NOREPLACE = 5, 0x22, 0x100000
# By their names an open file, or a mapped one, can be had again.
_OF_DESCRIPTORS = ("fd", "map_files")
_ENTERS = (nr.NR_open, nr.NR_openat, nr.NR_chdir)
_FOLDERS = tuple([os.fsencode(name) for name in _OF_DESCRIPTORS])


def place(run: Run, last: tuple[frozenset[bytes], ...]) -> None:
    """Find a place for the code in this run's processes, unless calls on paths are all to stop.

    last: as `hurry` has it.
    """
    if run.options.exact or any(os.path.lexists(path) for path in run.nodes.paths):
        return
    run.paths.place = pathcode.new_place()
    pathkept.recall(run)
    if run.paths.sites:
        run.paths.page = _page(run, last)


def hurry(run: Run, tracee: Tracee, call: int, last: tuple[frozenset[bytes], ...]) -> Any:
    """From the seccomp stop of a call that was of no concern: None, or DONE.

    last: the last components of paths that are, whatever folders they are in, of paths that are
    opened, and of those that are once somebody has opened the device.
    """
    paths, space = tracee.space.paths, tracee.space
    if (
        run.nodes.linked
        or run.paths.place is None
        or call not in pathcode.LED
        or paths.base < 0
        or not space.image
    ):
        return None
    paths.stops += 1
    site = run.view[RIP] - 7
    if site in paths.known:
        return None
    few = not paths.base and paths.stops < _FEW
    if few and not _again(run, site, call):
        return None
    code = space.peek(site - pathinsn.BEFORE, pathsites.SITE_BYTES)  # that of a library may be led
    if pathinsn.is_shared(code) and not _is_led(run, tracee, code, call):
        return None  # another call may be, by the same instruction
    if not pathinsn.replaceable(code, call) or space.translates:
        paths.known.add(site)
        return None
    if paths.library is not None and pathcode.load().library not in paths.seen:
        space.look()
    if not run.paths.page:
        run.paths.page = _page(run, last)
    if few:
        pathsites.learn(run, tracee, site, call)
        return None
    if any(_runs(run.tracees[tid]) for tid in space.tracees):
        return None  # it might execute what is written
    if paths.base:
        pathsites.lead(run, tracee, site, call)
        return None
    _make(run, tracee, site)
    if paths.base > 0:
        pathsites.lead(run, tracee, site, call)
    run.view[RAX], run.view[RIP] = call, site  # either way the call is made anew
    run.regs.store(tracee.tid)
    cont(run, tracee)
    return DONE


def hurry_mmap(run: Run, tracee: Tracee, key: tuple[int, ...]) -> None:
    """From the seccomp stop of an mmap of the code of a file that has no CPUID instruction.

    key: what the file is told by. Both the file and the instruction are known from the next exec
    on: to lead the instruction now would be of little use, since few of a program's files are left.
    """
    paths, space = tracee.space.paths, tracee.space
    if run.paths.place is None or not space.image or run.record is not None:
        return
    pathsites.note_file(run, key)
    site = run.view[RIP] - 7
    if not run.paths.page or site in paths.known:
        return
    paths.known.add(site)
    code = space.peek(site - pathinsn.BEFORE, pathsites.SITE_BYTES)
    if pathinsn.replaceable(code, nr.NR_mmap):
        pathsites.learn(run, tracee, site, nr.NR_mmap)


def leave_alone(tracee: Tracee) -> None:
    """The process gets a filter of its own, which may forbid what it does not call itself."""
    if tracee.space.paths.base > 0:
        pathsites.write(tracee, tracee.space.paths.base + pathcode.load().alone, b"\1")


def _again(run: Run, site: int, call: int) -> bool:
    """Whether it is the second stop of what looks like this instruction, in whatever process."""
    what, stops = (site & 0xFFF, call), run.paths.stops
    if len(stops) < _MOST_SEEN:
        stops[what] = stops.get(what, 0) + 1
    return stops.get(what) == _AGAIN


def _is_led(run: Run, tracee: Tracee, code: bytes, call: int) -> bool:
    """Whether an instruction of many calls is one that may be led, and this the call for it."""
    at = pathinsn.loaded_at(code, run.view[RSP])
    loaded = not at or tracee.read(at, 8) == call.to_bytes(8, "little")
    return loaded and bool(pathinsn.replaceable(code, call))


def _runs(tracee: Tracee) -> bool:
    return not tracee.stopped and not tracee.vforking


def _make(run: Run, tracee: Tracee, site: int) -> None:
    """Put the code below a call, so that no heap grows into it; the call is cancelled."""
    paths, place = tracee.space.paths, run.paths.place
    assert place is not None
    paths.base = -1
    cancel(run, tracee)
    first = place + (site - place) // pathcode.ALIGN * pathcode.ALIGN
    with calls(run, tracee) as remote:
        for base in (first, first - pathcode.ALIGN):
            if run.paths.place is None or base < _LOWEST or site - base > _REACH:
                continue
            flags = _PRIVATE_ANONYMOUS | _FIXED_NOREPLACE
            got = remote(nr.NR_mmap, base, pathcode.SIZE, _PROT_READ_EXEC, flags, -1, 0)
            if got == base:
                paths.base = base
                remote(nr.NR_munlock, base, pathcode.SIZE)  # mlockall(MCL_FUTURE)
                break
            if got > 0:  # before Linux 4.17
                remote(nr.NR_munmap, got, pathcode.SIZE)
    if paths.base > 0:
        pathsites.prepare(run, tracee, paths.base)


def _page(run: Run, last: tuple[frozenset[bytes], ...]) -> bytes:
    if not pathcode.available():
        try:
            names, folders = run.nodes.names.union(_FOLDERS), run.nodes.folders.told_by()
            return pathcode.load().page(names, *last, folders=folders)
        except UnsupportedError:
            pass  # too many names
    run.paths.place = None
    return b""


def stay_slow(tracee: Tracee) -> None:
    """From now on each of the process's calls on paths stops: see `PathCalls`."""
    paths = tracee.space.paths
    paths.off = True
    if paths.base > 0:
        pathsites.write(tracee, paths.base + pathcode.load().off, b"\1")


def look_for_links(run: Run) -> None:
    """There is a symbolic link to a node: any name may be the device's, in every process."""
    if not run.nodes.linked:
        run.nodes.linked = True
        for tracee in run.tracees.values():
            stay_slow(tracee)


def catch_up(run: Run, child: Tracee, *, threads: bool) -> None:
    """At a child's first stop: its memory may be from before its parent's was told something.

    threads: its parent has others, which may have opened and closed something meanwhile.
    """
    paths, code = child.space.paths, pathcode.load()
    if paths.base <= 0:
        return
    for at, told in ((code.opened, run.opened), (code.off, run.nodes.linked)):
        if told and child.space.peek(paths.base + at, 1) == b"\0":
            pathsites.write(child, paths.base + at, b"\1")
    if threads and run.opened:
        has = child.space.peek(paths.base + code.held, code.most_held // 8)
        paths.held |= {fd for fd in range(8 * len(has)) if has[fd // 8] >> fd % 8 & 1}
        pathsites.write(child, paths.base + code.held, b"".join(paths.bits()))


def among_descriptors(tgid: int) -> bool:
    """Whether a process stands in, or holds open, a folder whose entries are descriptors."""
    names = [f"/proc/{tgid}/cwd"]
    try:
        names += [f"/proc/{tgid}/fd/{fd}" for fd in os.listdir(f"/proc/{tgid}/fd")]
        return any(_is_of_descriptors(os.readlink(name)) for name in names)
    except OSError:
        return True


def _is_of_descriptors(path: str) -> bool:
    """Whether a real path is such a folder."""
    return os.path.basename(path) in _OF_DESCRIPTORS


def note_folder(tracee: Tracee, call: int, name: bytes) -> None:
    """A call on a name that has ``fd`` or ``map_files`` in it: does it open or enter such a folder?

    name: as one of ours.
    """
    if tracee.space.paths.off or (call in pathcode.CALLS and call not in _ENTERS):
        return
    path = os.fsdecode(os.path.realpath(name))
    if _is_of_descriptors(path) and os.path.isdir(path):
        stay_slow(tracee)


def at_signal(run: Run, tracee: Tracee, number: int) -> bool:
    """At a signal-delivery stop: the signal does not find the thread in code of ours.

    True if it was that of the code for paths: of a path that is not there, or of a call that may be
    made by the program's instruction alone (a filter or dispatch of its own), which is made then.
    """
    if out_of_ours(run, tracee) != OF_CALLS:
        return False
    if number not in (signals.SIGSEGV, signals.SIGBUS, signals.SIGSYS):
        return False
    if ptrace.si_code(tracee.tid) <= 0:
        return False  # somebody's, not the kernel's
    run.regs.load(tracee.tid)
    if number == signals.SIGSYS:
        stay_slow(tracee)
        if any(run.view[RIP] == site + 7 for site, _, _ in tracee.space.paths.sites):
            run.view[RIP] -= 2  # the kernel has put RAX back
            run.regs.store(tracee.tid)
    put_back(run, tracee, number)
    cont(run, tracee)
    return True
