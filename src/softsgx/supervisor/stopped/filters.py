"""seccomp filters that a process gets while it runs: which of its calls stop from then on."""

from __future__ import annotations

import os
import struct
from errno import EACCES, ENOMEM

from softsgx.complaints import complain
from softsgx.host import bpf, pathcode, vdso
from softsgx.host.procmaps import maps
from softsgx.host.signals import SIGKILL
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.remote import Remote, calls, scratch
from softsgx.uapi import syscalls as nr

__all__ = [
    "complete", "hold", "hold_range", "install", "install_late", "is_watched", "let_go", "may_hold",
    "watch", "watch_fd", "watch_names", "watch_range", "watch_stat",
]  # fmt: skip

_TSYNC = 1
_MAX_FILTERS, _FEW_FILTERS = 16, 4
_USER_END = 1 << 47
_MOST_AROUND = 1 << 32  # a filter outlives an exec, and what lies there then


def watch_fd(run: Run, tracee: Tracee, fd: int) -> None:
    """From the exit stop of a call: hear of what is done to the fd."""
    if tracee.space.image:
        with calls(run, tracee) as call:
            watch(call, fd)


def watch(call: Remote, fd: int) -> None:
    """The same by remote calls. Behind the last filter the decoy answers for itself."""
    from softsgx.supervisor.stopped.others import in_thread

    run, tracee = call.run, call.tracee
    assert run is not None
    hold(run, tracee, fd)
    spared = _spared(run, tracee, fd)
    _watch_here(call, fd, spared)
    for tid in tracee.files - tracee.space.tracees:  # CLONE_FILES, and a memory of its own
        other = run.tracees.get(tid)
        try:
            if other is not None and other.space.image and not other.vforking:
                in_thread(run, other, lambda call: _watch_here(call, fd, spared))
        except ProcessLookupError:
            pass


def watch_stat(call: Remote, fd: int) -> None:
    """Hear of what fstat(2) and its like are asked of a descriptor."""
    from softsgx.host.fdprograms import fd_calls
    from softsgx.host.spared import FOREIGN, LED

    assert call.run is not None
    hold(call.run, call.tracee, fd)
    space = call.tracee.space
    space.paths.ask(space.poke)
    _watch_here(call, fd, frozenset(fd_calls().keys() - {nr.NR_fstat} | {FOREIGN, LED}))


def _watch_here(call: Remote, fd: int, spared: frozenset[int]) -> None:
    """The same for those that share the thread's memory."""
    run, watched = call.run, call.tracee.space.watched
    assert run is not None
    before = watched.get(fd)
    if before is None and len(watched) < _MAX_FILTERS:
        watched[fd] = spared
        install(call, _program(run, fd, spared))
    elif before is not None and not before <= spared:  # it was one of another kind
        watched[fd] = before & spared
        install(call, _program(run, fd, spared))


def _program(run: Run, fd: int, spared: frozenset[int]) -> bytes:
    from softsgx.host import fdprograms  # its time is no start's

    places = pathcode.passing(run.paths.place)[:1]
    return fdprograms.fd_program(fd, spared=spared, places=places)


def _spared(run: Run, tracee: Tracee, fd: int) -> frozenset[int]:
    """The calls on a descriptor that need no stop, where nobody wants to hear of each."""
    from softsgx.host.spared import FOREIGN, spared

    foreign = frozenset(() if fd in tracee.space.mem_fds else (FOREIGN,))
    others = run.record, run.lsm, run.faults, run.debugger, run.options.marks or None
    file = run.file_of(tracee, fd)
    if run.options.exact or file is None or any(other is not None for other in others):
        return foreign
    from softsgx.device.files import PathFile

    try:
        dev = os.stat(f"/proc/{tracee.tid}/fd/{fd}").st_dev
    except OSError:
        return foreign
    mode = None if isinstance(file, PathFile) else getattr(file, "fmode", 0)
    return foreign | spared(dev, mode)


def hold(run: Run, tracee: Tracee, fd: int) -> None:
    """A descriptor is one that concerns us, for all who may share the thread's."""
    tids = {*tracee.files, tracee.tid} & run.tracees.keys()
    for space in {run.tracees[tid].space for tid in tids}:
        space.holds(fd, True)


def let_go(run: Run, tracee: Tracee, fd: int) -> None:
    """At the stop of a call on a descriptor that is not the device's: the code for paths hears.

    If it is none of those that are watched for what else they are.
    """
    space = tracee.space
    if fd not in space.paths.held or not tracee.files <= space.tracees:
        return
    if (
        fd in space.mem_fds
        or tracee.shown(fd) is not None
        or (fd in space.dir_fds and _lists(run, tracee, fd))
    ):
        return
    others = (run.tracees[tid] for tid in space.tracees if tid != tracee.tid)
    if all(run.file_of(other, fd) is None for other in others):  # a vfork child has its own
        space.holds(fd, False)


def _lists(run: Run, tracee: Tracee, fd: int) -> bool:
    """Whether a descriptor may be of a folder that nodes are in."""
    try:
        link = os.readlink(f"/proc/{tracee.tid}/fd/{fd}")
        return os.fsencode(link) in run.nodes.folders.parents
    except OSError:
        return False


def watch_names(call: Remote) -> None:
    """Hear of the calls on names that the base filter leaves alone."""
    from softsgx.host import filterprograms  # its time is no start's

    space = call.tracee.space
    if not space.asked_names:
        space.asked_names = True
        place = None if call.run is None else call.run.paths.place
        install(call, filterprograms.names_program(pathcode.passing(place)))


def watch_range(call: Remote, start: int, end: int) -> int:
    """Make sure that memory calls on [start, end) stop in this process: 0 or -errno.

    Those that had begun have ended then, and nobody shares the memory whose calls do not stop.
    """
    if is_watched(call.tracee.space, start, end):
        return 0
    error, other = _watch(call, *_around(call, start, end))
    if other:
        complain(
            f"process {call.tracee.tgid} cannot map its enclave: process {other} shares its memory"
            " and is not traced (CLONE_UNTRACED)"
        )
    return error


def _around(call: Remote, start: int, end: int) -> tuple[int, int]:
    """What is watched for the sake of [start, end).

    A process with many enclaves maps the next one beside the last. So from the fifth range on the
    room around is watched as well, twice as much each time, and filters are few. Never what is of
    use there already: all calls of code that lies in a range stop, and calls on memory.
    """
    run, space = call.run, call.tracee.space
    assert run is not None
    n = len(space.ranges)
    if n >= _MAX_FILTERS:
        return 4096, _USER_END
    if n < _FEW_FILTERS:
        return start, end
    more = min(end - start << n, _MOST_AROUND)
    low, high = max(start - more, 4096), min(end + more, _USER_END)
    for m in maps(call.tid):
        if not m.prot or (m.dev, m.inode) in run.memories:  # a reservation; an enclave's
            continue
        if m.start < end and start < m.end:
            return start, end
        if m.end <= start:
            low = max(low, m.end)
        else:
            high = min(high, m.start)
            break
    return low, high


def hold_range(call: Remote, start: int, end: int) -> bool:
    """The same where it is no harm if it cannot be: whether it is so."""
    return is_watched(call.tracee.space, start, end) or not _watch(call, start, end)[0]


def may_hold(space: AddressSpace) -> bool:
    """Whether there is room for a range that need not be watched, as an enclave's has to be."""
    return len(space.ranges) < _MAX_FILTERS // 2


def is_watched(space: AddressSpace, start: int, end: int) -> bool:
    """Whether memory calls on [start, end) stop."""
    return any(a <= start and end <= b for a, b in space.ranges)


def _watch(call: Remote, start: int, end: int) -> tuple[int, int]:
    """0 or -errno; and a process that shares the memory and is not traced, 0 if there is none."""
    from softsgx.host import filterprograms
    from softsgx.supervisor.stopped.freeze import passed
    from softsgx.supervisor.stopped.strangers import stranger

    run, space = call.run, call.tracee.space
    assert run is not None
    stub = space.image + vdso.load_image().syscall + 2
    error = install(call, filterprograms.range_program(start, end, stub))
    if error:
        return error, 0
    space.ranges.append((start, end))
    passed(run, space, call.tracee.tid)
    other = stranger(run, call.tracee)
    if other:
        space.ranges.pop()  # it is asked again
        return -ENOMEM, other
    return 0, 0


def install(call: Remote, program: bytes) -> int:
    """Every thread of the address space gets a filter: 0, or -errno where one takes no more.

    TSYNC reaches the threads of one process that have no filter of their own beside ours;
    the others, and processes that share the memory (CLONE_VM), get it one by one. One that
    waits for its vfork child gets it when that is over.
    """
    from softsgx.supervisor.stopped.others import in_thread  # it takes the device's code along

    run, caller = call.run, call.tracee
    assert run is not None
    error = _set(call, program, _TSYNC)
    lacking = [run.tracees[tid] for tid in caller.space.tracees if tid != caller.tid]
    if error:
        error = _set(call, program, 0)
        if error:
            return error
    else:
        lacking = [tracee for tracee in lacking if tracee.tgid != caller.tgid]

    def put(other: Remote) -> None:
        nonlocal error
        error = _set(other, program, 0) or error

    error = 0
    for tracee in lacking:
        if tracee.vforking:
            tracee.programs.append(program)
            continue
        try:  # noqa: SIM105 - contextlib costs 3 ms of every start
            in_thread(run, tracee, put)
        except ProcessLookupError:
            pass
    return error


def complete(run: Run, parent: Tracee, child: Tracee) -> None:
    """At the first stop of a process that shares its parent's memory: the filters it lacks.

    It was made before some were installed, and its event came afterwards.
    """
    from softsgx.host import filterprograms
    from softsgx.host.status import status_of
    from softsgx.supervisor.stopped.others import at_stop

    space = child.space
    has, had = (status_of(t.tid).get(b"Seccomp_filters") for t in (child, parent))
    if has == had and has is not None:
        return
    stub = space.image + vdso.load_image().syscall + 2

    def do(call: Remote) -> None:
        for start, end in space.ranges:
            _need(call, filterprograms.range_program(start, end, stub))
        for fd, spared in space.watched.items():
            _set(call, _program(run, fd, spared), 0)

    at_stop(run, child, do, interrupted=False)


def install_late(run: Run, tracee: Tracee) -> None:
    """At an EVENT_STOP of a thread that waited for its vfork child: the filters it lacks."""
    from softsgx.supervisor.stopped.others import at_stop

    programs, tracee.programs = tracee.programs, []

    def do(call: Remote) -> None:
        for program in programs:
            _need(call, program)

    at_stop(run, tracee, do, interrupted=True)


def _need(call: Remote, program: bytes) -> None:
    """A filter that a thread has to have: it shares memory where an enclave is mapped already."""
    if not _set(call, program, 0):
        return
    pid = call.tracee.tgid
    complain(
        f"process {pid} is killed: it shares the memory of one that has mapped an enclave, and so"
        " many seccomp filters of its own are there that no more goes in"
    )
    os.kill(pid, SIGKILL)
    raise ProcessLookupError(call.tid)


def _set(call: Remote, program: bytes, flags: int) -> int:
    """seccomp(SECCOMP_SET_MODE_FILTER): 0, -errno, or the thread that TSYNC fails at."""
    space = call.tracee.space
    where = scratch(space)
    space.poke(where, struct.pack("<HxxxxxxQ", len(program) // 8, where + 16) + program)
    error = call(nr.NR_seccomp, bpf.SET_MODE_FILTER, flags, where)
    if error == -EACCES:
        call(nr.NR_prctl, 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        error = call(nr.NR_seccomp, bpf.SET_MODE_FILTER, flags, where)
    return error
