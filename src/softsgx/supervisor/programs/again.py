"""Programs that exec has made before: compiled code prepares them again (`softsgx.host.execs`).

What `execve` has done to a program is kept as a recipe: the mappings, what their files are told by,
what was read and what was written. Where the same comes again the code writes the same. What is
noted of the program is noted here.
"""

from __future__ import annotations

import os

from softsgx.host import cpuidcode, execs, pathcode, ptrace, vdso
from softsgx.host.execs import MAPS, NOTHING, OURS, PATHS, REAL, Piece
from softsgx.host.procmaps import Mapping
from softsgx.supervisor.programs import patches, pathsites
from softsgx.supervisor.programs.patches import Plan
from softsgx.supervisor.programs.pathsites import Near
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped import waits
from softsgx.supervisor.stopped.atexec import place_of
from softsgx.supervisor.stopped.remote import rows_of, signed
from softsgx.uapi import syscalls as nr

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from softsgx.host.library import Library
    from softsgx.supervisor.stopped.atexec import Call

    Prepared = tuple[Mapping, Any, Plan | None, list[Near]]
    """A mapping, what its file is told by, and what `patches` and `pathsites` did to it."""

__all__ = ["Again", "again"]

# Farther from the interpreter it may be in reach of the code for paths, or not.
_LEADS = 1 << 29
_MOST_SEEN = 256


def again(run: Run) -> Again | None:
    """What prepares them, where it can, and where nobody wants to hear of each step."""
    usual = run.record is None and run.lsm is None and run.debugger is None
    return Again(run) if usual and not run.options.exact and execs.available() else None


class _Seen:
    """What became of a program in Python, as `Again.seen` is told.

    starts: of its mappings. ours, paths: where our codes are; paths is 0 where it has none.
    """

    __slots__ = (
        "answers", "calls", "interpreter", "library", "native_cpuid", "ours", "paths", "prepared",
        "real", "starts",
    )  # fmt: skip

    def __init__(
        self, interpreter: int, real: tuple[int, bytes], calls: Sequence[Call],
        prepared: Sequence[Prepared], answers: bytes, library: Library | None,
    ) -> None:  # fmt: skip
        self.interpreter, self.real, self.calls = interpreter, real, calls
        self.prepared, self.answers, self.library = prepared, answers, library
        self.starts: list[int] = []
        self.ours = self.paths = 0
        self.native_cpuid = False


class Again:
    """The recipes of a run.

    After `tried` the `block` tells what became of an exec. begun: the next one has been tried by
    others (`softsgx.supervisor.loop.bystanders`), as the block tells.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.block = execs.Block()
        self.begun = False
        image = vdso.load_image()
        for name, value in (
            ("regs", run.regs.address), ("whole", image.whole), ("align", pathcode.ALIGN),
            ("room", pathcode.SIZE), ("lowest", pathsites.LOWEST),
        ):  # fmt: skip
            self.block[name] = value
        self.block["batch"] = image.stop - image.batch & (1 << 64) - 1
        self._stamp: tuple[Any, ...] = ()
        self._seen: dict[bytes, _Seen] = {}

    def tried(self, tracee: Tracee) -> bool | None:
        """From PTRACE_EVENT_EXEC: whether it was prepared, and runs; None if nothing was done.

        False if not all of its calls were answered as they were to be. Raises ProcessLookupError if
        it is gone.
        """
        run, block, space = self._run, self.block, tracee.space
        begun, self.begun = self.begun, False
        if space.like:  # how far it is from the interpreter depends on where that is
            block["n_found"] = 0
            return None
        stamp = self._now()
        if stamp != self._stamp:
            self._stamp = stamp
            self._seen.clear()
            block.clear()
        wanted = pathsites.wanted(run, tracee)
        block["tid"] = tracee.tid
        block["place"] = (
            run.paths.place if wanted and run.paths.place is not None else (1 << 64) - 1
        )
        self._run_code(begun=begun)
        if block["stage"] == execs.UNKNOWN and self._learn(block.maps()):
            os.close(block["mem"])
            self._run_code()
        space.mem_fd = block["mem"] if block["mem"] < 1 << 31 else -1
        stage = block["stage"]
        if stage == execs.GONE:
            raise ProcessLookupError(tracee.tid)
        tracee.at_call = stage == execs.PARTLY and block["status"] >> 16 == ptrace.EVENT_SECCOMP
        if stage == execs.DONE:
            how = block["recipe"], block["base"], block["paths"]
            self.note(tracee, *how, block.starts())
        return None if stage == execs.UNKNOWN else stage == execs.DONE

    def _now(self) -> tuple[Any, ...]:
        """What recipes are made of; where it changes they are no more."""
        run = self._run
        return (
            run.opened, run.paths.known, len(run.cpuid.answers), run.cpuid.faulting,
            run.options.cpuid,
        )  # fmt: skip

    def current(self) -> bool:
        """Whether the recipes are those of today."""
        return self._now() == self._stamp

    @property
    def answer(self) -> int:
        """What the last of the calls answered."""
        return signed(self.block["answer"])

    def _run_code(self, *, begun: bool = False) -> None:
        block = self.block
        tid = block["tid"]
        if not begun:
            block["stage"] = execs.UNKNOWN
        while True:
            if not begun:
                poll_ns = block["poll_ns"] = waits.poll_ns(answer=True)
                block.run()
                if block["stage"] != execs.UNKNOWN:
                    in_vain = poll_ns > 0 and not block["poll_ns"]
                    waits.polled(1, in_vain=in_vain, answer=True)
            begun = False
            if block["stage"] != execs.WAITING:
                return
            got, status = block["got"], block["status"]
            if got and got != tid:
                raise ProcessLookupError(tid)
            if got and not waits.is_stop(status):
                waits.keep_stop(tid, status)  # its end is the loop's
                raise ProcessLookupError(tid)
            if got:
                ptrace.cont(tid, waits.passes(tid, status))

    def note(self, tracee: Tracee, recipe: int, base: int, paths: int, starts: list[int]) -> None:
        """What is to be known of a program that was prepared, and runs: by what, and where."""
        run, block, space = self._run, self.block, tracee.space
        tracee.stopped = False
        space.image = base
        space.aep = base + vdso.load_image().aep
        if paths:
            space.paths.base = paths
        made = block.known[recipe]
        space.native_cpuid, prepared, library, plans = made.told
        space.made, space.traps = (made, starts), [starts[i] + at for i, at in made.traps]
        space.paths.plans = dict(plans)
        for i, plan, nears in prepared:
            if plan is not None:
                space.later.append((starts[i], plan))
            for near in nears:
                pathsites.made(run, tracee, starts[i], near)
        if library is not None:
            space.paths.expect(library)

    def trapped(self, space: AddressSpace, site: int) -> None:
        """A CPUID has stopped, and was answered: compiled code does that the next time."""
        if site in space.traps or len(space.traps) == cpuidcode.MOST_TRAPS:
            return
        space.traps.append(site)
        if space.made is None:
            return
        recipe, starts = space.made
        for i, plan, _ in recipe.told[1]:
            if plan is not None and site - starts[i] in plan.sites:
                recipe.trap(i, site - starts[i])

    def seen(
        self, tracee: Tracee, interpreter: int, real: tuple[int, bytes], calls: Sequence[Call],
        prepared: Sequence[Prepared], answers: bytes, library: Library | None,
    ) -> None:  # fmt: skip
        """A program has been prepared as most are: if it comes once more the code may do it.

        real: where the kernel's vDSO is, and what is there. calls: what it had to call. answers: of
        CPUID, where some are led. library: the one that is expected.
        """
        space, starts = tracee.space, self.block.starts()
        if len(self._seen) < _MOST_SEEN and starts:
            seen = _Seen(interpreter, real, calls, prepared, answers, library)
            seen.starts, seen.ours, seen.paths = starts, space.image, max(space.paths.base, 0)
            seen.native_cpuid = space.native_cpuid
            self._seen[self.block.maps()] = seen

    def _learn(self, maps: bytes) -> bool:
        """Make a recipe of what was seen of these mappings, if there is one to make."""
        found = self._seen.pop(maps, None)
        if found is None:
            return False
        block, real, interpreter = self.block, found.real, found.interpreter
        ours, paths, library = found.ours, found.paths, found.library
        numbers = {start: i for i, start in enumerate(found.starts)}
        if any(m.start not in numbers for m, *_ in found.prepared):
            return False
        image, slots = vdso.template(real[1])
        filled = [(at, 8, value, REAL if theirs else OURS, NOTHING) for at, theirs, value in slots]
        pieces = [Piece(OURS, 0, image, numbers=filled)]
        if paths:
            pieces.append(Piece(PATHS, 0, pathsites.page(self._run, off=False)))
        files, told = [], []
        for m, key, plan, nears in found.prepared:
            i = numbers[m.start]
            led = bool(nears or (plan and plan.led))
            distance = abs(m.start - interpreter)
            if key is None or (led and distance > _LEADS):
                return False
            files.append((i, _name(m, key), key))
            told.append((i, plan, nears))
            pieces += _pieces(i, plan, nears)
        if found.answers:
            cpuid = cpuidcode.load()
            pieces.append(Piece(OURS, cpuid.tables, found.answers))
            if paths:
                lookup = (0, 8, cpuid.lookup, OURS, PATHS)
                pieces.append(Piece(PATHS, pathcode.load().lookup, bytes(8), numbers=[lookup]))
        before, after, code = _before(found.calls, real[1], ours, paths)
        if library is not None:
            pieces += [Piece(PATHS, at, data) for at, data in library.writes]
        low = interpreter - ours - vdso.load_image().whole
        recipe = execs.Recipe(
            maps, interpreter - real[0], low, files, paths > 0, before, after, code,
            len(found.calls), execs.joined(pieces, (OURS, PATHS)),
        )  # fmt: skip
        block.expect(real[1][: vdso.HEAD_BYTES])
        plans = dict(self._run.paths.plans_made) if paths else {}
        recipe.told = found.native_cpuid, told, library, plans
        block.add(recipe)
        return True


def _name(m: Mapping, key: tuple[int, ...]) -> str:
    """The path of a mapped file where it leads us there, else none: its mapping's link does."""
    return m.path if m.path[:1] == "/" and patches.file_key((m.path,)) == key else ""


def _pieces(i: int, plan: Plan | None, nears: Sequence[Near]) -> list[Piece]:
    """What was done to a mapping, the ``i``th, and for it."""
    base, pieces = MAPS + i, []
    if plan is not None:
        if plan.stubs:
            stubs = cpuidcode.load().stub_of(plan.first)
            pieces.append(Piece(OURS, stubs, plan.stubs))
        pieces += [Piece(base, at, new, was) for at, was, new in plan.pieces]
    for near in nears:
        stubs = pathcode.load().place_of(near.number)
        out = [(at, 4, value, base, PATHS) for at, value in near.stubs.numbers]
        pieces.append(Piece(PATHS, stubs, near.stubs.text, numbers=out))
        back = [(at, 4, value, PATHS, base) for at, value in near.changed.numbers]
        was = bytearray(near.was)
        for at, before, new in plan.pieces if plan is not None else ():
            for k in range(max(at, near.first), min(at + len(new), near.first + len(was))):
                was[k - near.first] = before[k - at]  # nothing is written yet when it is looked at
        pieces.append(Piece(base, near.first, near.changed.text, bytes(was), back))
    return pieces


def _before(calls: Sequence[Call], real: bytes, image: int, paths: int) -> tuple[Piece, bytes, int]:
    """What makes the calls, over the kernel's vDSO; what was there; where the code begins."""
    rows = rows_of(calls)
    text, at = rows + vdso.load_image().calls, place_of(rows)
    numbers = []
    for n, call in enumerate(calls):
        if call[0] == nr.NR_mmap:
            base = {image: OURS, paths: PATHS}[call[1]]
            numbers += [(64 * n + 8 * word, 8, 0, base, NOTHING) for word in (1, 7)]
    return Piece(REAL, at, text, numbers=numbers), real[at : at + len(text)], len(rows)
