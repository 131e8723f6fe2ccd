"""Checks pairs of design and property in processes of their own, a pair at a time.

A worker makes the circuits of the design that it is at, and gets its next pair from that
design while there is one; then from a design that nobody is at, then from the one with the
most left. It forks for each pair, so a pair's answer does not depend on what was asked
before it, and what a solver takes is given back. Results come in the order of the pairs,
whoever was first.

Each worker is a process group with its copies and the solvers that they start, so one kill
ends them all: at Ctrl-C, at an error, and where the parent is gone (a pipe that only it
holds open ends). Each copy bounds its own memory: what its engine may take, and as much
again for all else. Rejected: `concurrent.futures`, which leaves a solver behind, and whose
"a child process terminated abruptly" does not say at what.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from softsgx import ending
from softsgx.checker.engines.answer import BOUNDED, PROVED, REFUTED
from softsgx.checker.engines.limits import bound_myself, out_of_memory, size_words
from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options, Result
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.properties.base import NEVER
from softsgx.designs.registry import make_design
from softsgx.errors import InternalError, SoftsgxError, UsageError

__all__ = ["BENIGN", "check_pairs"]

BENIGN = "benign-runs"
Pair = tuple[str, str]
"""A design as `make_design` takes it, and the name of a property."""

Tell = Callable[[int, int, Sequence[Pair]], None]
"""(pairs done, pairs in all, those that are being checked)."""

_TICK_S = 0.25
_MEMORY_DEATHS = (101, -signal.SIGSEGV, -signal.SIGABRT)
"""How Z3 (the status), and Python and ABC, end where malloc() fails and they did not expect it."""


class _Worker:
    """One process. ``at``: the pair that it checks, or None; ``design``: whose circuits it has."""

    def __init__(
        self, options: Options, own: Sequence[str], alive: tuple[Connection, Connection],
        files: str,
    ) -> None:  # fmt: skip
        self.pipe, theirs = _context.Pipe()
        self.at: int | None = None
        self.design = ""
        self.process = _context.Process(
            target=_work, args=(theirs, self.pipe, options, own, alive, files)
        )
        with ending.held():  # it has our handlers until it takes them back
            self.process.start()
        theirs.close()

    def end(self) -> None:
        """Kill it and what it has started."""
        pid = self.process.pid
        if pid is not None:
            ending.end_group(pid)
            self.process.kill()
        self.process.join()
        self.pipe.close()


_context = get_context("fork")


def check_pairs(
    pairs: Sequence[Pair], options: Options, jobs: int, *, tell: Tell = lambda *_: None,
    own: Sequence[str] = (),
) -> list[Result]:  # fmt: skip
    """The results of pairs, in their order; what `benign-runs` says stands in each.

    options.memory_bytes: of each worker, and of each solver that it starts. own: the files of
    the user's own designs and properties, to which an exception may be due. Raises UsageError
    for a mistake in one of these, InternalError for one of ours, SoftsgxError for a worker
    that died; each names the pair.
    """
    with suppress(ImportError):
        import z3  # noqa: F401  # once, not in each worker
    asked = list(dict.fromkeys([*pairs, *((text, BENIGN) for text, _ in pairs)]))
    found: dict[int, Result] = {}
    waiting = list(range(len(asked)))
    workers: list[_Worker] = []
    alive = _context.Pipe(duplex=False)
    # Solvers' files: workers end without a word, so theirs lie where somebody else finds them.
    files = tempfile.mkdtemp(prefix="softsgx-")
    try:
        for _ in range(max(1, min(jobs, len(asked)))):
            workers.append(_Worker(options, own, alive, files))
        while len(found) < len(asked):
            for worker in workers:
                if worker.at is None and waiting:
                    n = _next(worker, workers, waiting, asked)
                    worker.at, worker.design = n, asked[n][0]
                    with suppress(BrokenPipeError):  # seen below, as its end
                        worker.pipe.send(asked[n])
            tell(len(found), len(asked), [asked[w.at] for w in workers if w.at is not None])
            busy = {w.pipe: w for w in workers if w.at is not None}
            for pipe in wait(list(busy), _TICK_S):
                worker = busy[pipe]  # type: ignore[index]
                assert worker.at is not None
                found[worker.at] = _answer(worker, asked[worker.at], options)
                worker.at = None
        tell(len(found), len(asked), ())
    finally:
        for worker in workers:
            worker.end()
        for end in alive:
            end.close()
        shutil.rmtree(files, ignore_errors=True)
    results = [found[asked.index(pair)] for pair in pairs]
    for (text, _), result in zip(pairs, results, strict=True):
        result.benign = _benign_words(found[asked.index((text, BENIGN))])
    return results


def _next(
    worker: _Worker, workers: Sequence[_Worker], waiting: list[int], asked: Sequence[Pair]
) -> int:
    """Take the pair that a worker is best given."""
    left: dict[str, list[int]] = {}
    for n in waiting:
        left.setdefault(asked[n][0], []).append(n)
    others = {w.design for w in workers if w is not worker and w.at is not None}
    fresh = [text for text in left if text not in others]
    if worker.design in left:
        chosen = worker.design
    elif fresh:
        chosen = fresh[0]
    else:
        chosen = max(left, key=lambda text: len(left[text]))
    waiting.remove(left[chosen][0])
    return left[chosen][0]


def _answer(worker: _Worker, pair: Pair, options: Options) -> Result:
    """What a worker has sent. Raises what it raised, or that a process is dead."""
    try:
        kind, what = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        kind, what = "died", worker.process.exitcode or 0
    if kind == "result":
        assert isinstance(what, Result)
        return what
    if kind == "died":
        how = f"was ended by {_signal_name(-what)}" if what < 0 else f"has ended with status {what}"
        how = f"the process that checks it {how}"
        if options.memory_bytes is not None and what in _MEMORY_DEATHS:
            return _no_memory(*pair, options, how)
        kind, what = "softsgx", how
    raise {"usage": UsageError, "softsgx": SoftsgxError}.get(kind, InternalError)(
        f"{pair[0]}: {pair[1]}: {what}"
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _no_memory(text: str, name: str, options: Options, how: str) -> Result:
    """The answer where not even an engine could say that it had no memory left."""
    design = make_design(text)
    result = Result(design.name, dict(design.chosen), name)
    result.lsm, result.pages, result.processes = options.lsm, options.pages, options.processes
    result.actors = options.actors
    result.verdict, result.bound = BOUNDED, -1
    bound = "" if options.memory_bytes is None else f" of {size_words(options.memory_bytes)}"
    result.method = f"{how} at the memory bound{bound}"
    return result


def _benign_words(benign: Result) -> str:
    """What `benign-runs` says, for the other results of its design."""
    return {PROVED: f"yes, in {len(benign.steps)} steps", REFUTED: "no"}.get(
        benign.verdict, "not found"
    )


# -- in the worker -------------------------------------------------------------------------


def _work(
    pipe: Connection, parents: Connection, options: Options, own: Sequence[str],
    alive: tuple[Connection, Connection], files: str,
) -> None:  # fmt: skip
    """Answer questions until the parent is gone. files: the folder for solvers' files."""
    tempfile.tempdir = files
    ending.by_itself()
    faulthandler.disable()  # an end for want of memory is an answer
    parents.close()
    alive[1].close()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _Asked(options, own, alive[0], files).serve(pipe)
    pipe.close()


Told = tuple[str, Any]
"""What comes of a pair: its kind ("result", "died", "usage" …), and the result or a line."""


class _Asked:
    """A worker's side: the circuits of one design at a time, and copies that use them."""

    def __init__(self, options: Options, own: Sequence[str], alive: Connection, files: str) -> None:
        self.options, self.own, self.alive, self.files = options, own, alive, files
        self.text = ""
        self.checker: Checker | None = None
        self.wanted: set[str] = set()

    def serve(self, pipe: Connection) -> None:
        """Answer until the parent says no more."""
        while True:
            self._wait(pipe)
            pair = pipe.recv()
            pipe.send(self.answer(*pair))

    def _wait(self, pipe: Connection) -> None:
        """Wait for what comes; where the parent is gone, end with all copies and solvers."""
        if self.alive in wait([pipe, self.alive]):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(0, signal.SIGTERM)  # all but this one, which tidies up behind them
            shutil.rmtree(self.files, ignore_errors=True)
            os.killpg(0, signal.SIGKILL)

    def answer(self, text: str, name: str) -> Told:
        """What comes of a pair."""
        if text != self.text:
            self.checker, self.text = None, text
            self.wanted.clear()
            try:
                checker = Checker(make_design(text), self.options)
                checker.prepare()
            except Exception as e:
                self.text = ""
                return self._exception(e, text, name)
            self.checker = checker
        prop = PROPERTIES[name]
        if prop.kind == NEVER and prop.unless:
            self._reaches(prop.unless)
        return self._copy(lambda: self._check(name))

    def _reaches(self, what: str) -> None:
        """Answer once what proofs of several pairs ask: from the second of them on."""
        assert self.checker is not None
        if what not in self.wanted:
            self.wanted.add(what)
        elif not self.checker.remembers(what):
            kind, told = self._copy(lambda: self._reached(what))
            if kind == "reached" and told is not None:
                self.checker.remember(what, *told)

    def _copy(self, work: Callable[[], Told]) -> Told:
        """Do it in a copy of this process."""
        theirs, ours = _context.Pipe(duplex=False)
        process = _context.Process(target=self._in_copy, args=(ours, work))
        process.start()
        ours.close()
        self._wait(theirs)
        try:
            told: Told = theirs.recv()
        except EOFError:
            process.join()
            told = "died", process.exitcode
        process.join()
        theirs.close()
        return told

    def _in_copy(self, pipe: Connection, work: Callable[[], Told]) -> None:
        memory_bytes = self.options.memory_bytes
        if memory_bytes is not None:
            with suppress(ImportError):
                import z3

                z3.set_param("memory_max_size", max(1, memory_bytes >> 20))
            # Z3 ends the process where malloc() fails, so its own bound has to be met first.
            bound_myself(2 * memory_bytes)
        pipe.send(work())

    def _reached(self, what: str) -> Told:
        assert self.checker is not None
        with suppress(Exception):
            answer = self.checker.reaches(what)
            if answer.reached is not None:
                return "reached", (answer.reached, answer.invariant)
        return "reached", None

    def _check(self, name: str) -> Told:
        assert self.checker is not None
        begun = time.monotonic()
        try:
            return "result", self.checker.check(PROPERTIES[name])
        except Exception as e:
            if out_of_memory(e):
                result = _no_memory(self.text, name, self.options, "stopped")
                result.seconds = round(time.monotonic() - begun, 2)
                return "result", result
            return self._exception(e, self.text, name)

    def _exception(self, error: Exception, text: str, name: str) -> Told:
        if isinstance(error, InternalError):
            return "internal", str(error).partition(" (this is a bug")[0]
        if isinstance(error, SoftsgxError):
            return ("usage" if isinstance(error, UsageError) else "softsgx"), str(error)
        return _fault(error, text, name, self.own)


def _fault(error: Exception, text: str, name: str, own: Sequence[str]) -> tuple[str, str]:
    """An exception that is none of ours: in one line, and whose mistake it is."""
    said = type(error).__name__ + ": " + " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if f.filename in own]
    if theirs:
        return "usage", f"{theirs[-1].filename}:{theirs[-1].lineno} ({theirs[-1].name}): {said}"
    codes = [getattr(PROPERTIES[name].conditions, "__code__", None)]
    with suppress(Exception):
        codes += [getattr(v, "__code__", None) for v in vars(type(make_design(text))).values()]
    if any(code is not None and code.co_filename in own for code in codes):
        return "usage", said
    last = frames[-1]
    return "internal", f"{said} at {os.path.basename(last.filename)}:{last.lineno}"
