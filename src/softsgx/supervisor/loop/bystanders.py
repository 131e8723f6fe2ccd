"""Programs that have nothing to do with enclaves: compiled code deals with their usual stops.

It notes what happened (`softsgx.host.bystanders`), and that is told to the run before anything else
is dealt with. From the first open of the device on every stop is Python's.
"""

from __future__ import annotations

from softsgx.host import bystanders, pathcode, vdso
from softsgx.host.cpuidcode import MOST_TRAPS
from softsgx.host.signals import SIGILL
from softsgx.supervisor.loop import births, orphans, processes
from softsgx.supervisor.programs import answers
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee, over
from softsgx.supervisor.stopped import waits

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from softsgx.host.bystanders import Row
    from softsgx.supervisor.state.dispositions import Dispositions

__all__ = ["Bystanders", "bystanders_of"]

_U64 = (1 << 64) - 1
_NO_TRAPS = (0,) * MOST_TRAPS


def bystanders_of(run: Run) -> Bystanders | None:
    """What deals with them, where it can, and where nobody wants to hear of each stop."""
    others = run.record, run.lsm, run.faults, run.debugger
    usual = all(other is None for other in others) and not run.options.verify
    usual = usual and not run.options.exact and bystanders.available()
    return Bystanders(run) if usual else None


class Bystanders:
    """The wait of a run whose programs are such."""

    def __init__(self, run: Run) -> None:
        self._run = run
        front, image = run.options.front, vdso.load_image()
        block = self._block = bystanders.Block(None if front is None else front.beat)
        block["image_bytes"], block["paths_bytes"] = image.whole, pathcode.SIZE
        block["aep"], block["main"] = image.aep & 0xFFF, run.main_pid
        self._last = 0
        run.changed = None
        self._about: list[int] = []

    def wait(self) -> tuple[int, int]:
        """The next event that is Python's, as `waits.wait_any` tells it; (0, 0) if it is over."""
        run, block = self._run, self._block
        if not self._usual():
            run.changed = None
            return waits.wait_any()
        # What the code does not wait for: no time, and nothing that a handler has heard of.
        if waits.slices or waits.kept or waits.lost or waits.ending or run.early:
            if run.changed is None:
                return waits.wait_any()
            run.changed.update(self._concerned())
            self._last, status = waits.wait_any()
        elif not self._tell():
            run.changed = None
            return waits.wait_any()
        else:
            block.run()
            self._note()
            self._last, status = block["got"], block["status"]
            if run.execs:
                run.execs.begun = bool(block["looked"])
        tracee = run.tracees.get(self._last)
        self._about = [] if tracee is None else _firsts(run, tracee)
        return self._last, status

    def _concerned(self) -> set[int]:
        """Whom the last event may have changed."""
        tracee = self._run.tracees.get(self._last)
        about = [] if tracee is None else _firsts(self._run, tracee)
        return {self._last, *self._about, *about}

    def _usual(self) -> bool:
        """Whether nothing has happened since that makes their stops others."""
        run = self._run
        return not (run.opened or run.nodes.linked or run.filtered or run.aesm is not None)

    def _tell(self) -> bool:
        """Let the code know what it did not see itself: whether it has room for that."""
        run, block = self._run, self._block
        execs = run.execs or None
        if execs is not None and not execs.current():
            execs = None
        block["execs"] = 0 if execs is None else execs.block.address
        wanted = run.paths.place if run.paths.sites else None
        block["place"] = _U64 if wanted is None else wanted
        block["polls"] = waits.may_poll()
        block.answer(answers.page(run) if run.options.cpuid else b"")
        block["killed"] = run.killed is not None
        changed, run.changed = run.changed, set()
        if len(run.tracees) > bystanders.MOST_ROWS:
            return False
        if changed is None:
            block.know([_row(run, each) for each in run.tracees.values()])
            return True
        rows: list[Row] = []
        for tid in changed | self._concerned():
            about = run.tracees.get(tid)
            rows.append((tid,) if about is None else _row(run, about))
        block.change(rows)
        return True

    def _note(self) -> None:
        """What the code has dealt with becomes known."""
        run, block = self._run, self._block
        tracees, execs = run.tracees, run.execs
        for kind, tid, a, b, c, more in block.happened():
            if kind == bystanders.BORN:
                parent = tracees[a]
                births.note_born(run, parent, tid, c).stopped = False
                parent.vforking = b > 0
            elif kind == bystanders.EXEC:
                run.programs += 1
                processes.renew(run, tracees[tid], tid)
                execs.note(tracees[tid], a, b, c, more.tolist())
            elif kind == bystanders.END:
                processes.ended(run, tid, a)
            elif kind == bystanders.RUNS:
                tracees[tid].vforking = False
            elif kind == bystanders.OVER:
                over.add(tid)
            elif kind == bystanders.EXITS:
                tracees[tid].exits = tracees[tid].space.threaded = True
            else:
                tracees[tid].signals.set(a, more.tobytes())
        if run.changed is not None:
            run.changed.clear()  # by what it has told itself
        for tid, status in block.early():
            orphans.unknown(run, tid, status)


def _firsts(run: Run, tracee: Tracee) -> list[int]:
    """The first threads of the processes that have a thread's memory: their rows tell of it."""
    space = tracee.space
    if not space.shared:
        return [tracee.tgid]
    return [tid for tid in space.tracees if run.tracees[tid].tgid == tid]


def _row(run: Run, tracee: Tracee) -> Row:
    space, alone, waits = tracee.space, _is_plain_itself(run, tracee), 2 * tracee.vforking
    if tracee.tid != tracee.tgid:
        return tracee.tid, tracee.tgid, alone, 0, 0, 0, 0, waits, bystanders.ODD, *_NO_TRAPS
    return (
        tracee.tid, tracee.tgid, alone and _is_plain(run, tracee), tracee.exits, space.image,
        max(space.paths.base, 0), space.far[0] if space.far else 0, waits, _action(tracee.signals),
        *space.traps, *_NO_TRAPS[len(space.traps) :],
    )  # fmt: skip


def _action(signals: Dispositions) -> int:
    """What a thread does with SIGILL."""
    if SIGILL in signals.ignored or signals.resets.get(SIGILL):
        return bystanders.ODD
    return bystanders.HANDLED if SIGILL in signals.actions else bystanders.NONE


def _is_plain_itself(run: Run, tracee: Tracee) -> bool:
    """Whether what a thread stops for is to be noted alone, by what it has for itself."""
    if tracee.dispatches or tracee.programs or tracee.holds or tracee.tid in run.untraced:
        return False
    odd: tuple[Any, ...] = tracee.timed, tracee.spared, tracee.odd, tracee.thread, tracee.slot
    return all(each is None for each in odd)


def _is_plain(run: Run, tracee: Tracee) -> bool:
    """The same by what all threads of a process have, whose first it is."""
    space, signals = tracee.space, tracee.signals
    if space.sgx is not None or space.adds is not None:
        return False
    others = (run.tracees[tid] for tid in space.tracees) if space.shared else ()
    if any(other.signals is signals and other.tgid != tracee.tgid for other in others):
        return False
    filters = space.watched or space.ranges or space.dir_fds or space.mem_fds or space.asked_names
    return not (
        filters or space.like or space.short or space.masks_seen or space.undumpable
        or space.paths.off
    )  # fmt: skip
