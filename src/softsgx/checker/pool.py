"""Checks pairs of design and property in processes of their own, a pair at a time.

A worker keeps the circuits of the design that it is at, and gets its next pair from that
design while there is one; then from a design that nobody is at, then from the one with the
most left. Results come in the order of the pairs, whoever was first.

Each worker is a process group with the solvers that it starts, so one kill ends them all:
at Ctrl-C, at an error, and where the parent is gone (a pipe that only it holds open ends).
Each bounds its own memory: what its engine may take, and as much again for all else.
Rejected: `concurrent.futures`, which leaves a solver behind, and whose "a child process
terminated abruptly" does not say at what.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from softsgx.checker.answer import BOUNDED, PROVED, REFUTED
from softsgx.checker.limits import bound_myself, out_of_memory, size_words
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.result import Options, Result
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
        self, options: Options, faults: Sequence[str], alive: tuple[Connection, Connection]
    ) -> None:
        self.pipe, theirs = _context.Pipe()
        self.at: int | None = None
        self.design = ""
        self.process = _context.Process(
            target=_work, args=(theirs, self.pipe, options, faults, alive), daemon=True
        )
        self.process.start()
        theirs.close()

    def end(self) -> None:
        """Kill it and what it has started."""
        pid = self.process.pid
        if pid is not None:
            with suppress(ProcessLookupError, PermissionError):  # it may not have made its group
                os.killpg(pid, signal.SIGKILL)
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
    asked = list(dict.fromkeys([*pairs, *((text, BENIGN) for text, _ in pairs)]))
    found: dict[int, Result] = {}
    waiting = list(range(len(asked)))
    workers: list[_Worker] = []
    alive = _context.Pipe(duplex=False)
    try:
        for _ in range(max(1, min(jobs, len(asked)))):
            workers.append(_Worker(options, own, alive))
        while len(found) < len(asked):
            for worker in workers:
                if worker.at is None and waiting:
                    n = _next(worker, workers, waiting, asked)
                    worker.at, worker.design = n, asked[n][0]
                    with suppress(BrokenPipeError):  # seen below, as its end
                        worker.pipe.send((n, *asked[n]))
            tell(len(found), len(asked), [asked[w.at] for w in workers if w.at is not None])
            busy = {w.pipe: w for w in workers if w.at is not None}
            for pipe in wait(list(busy), _TICK_S):
                worker = busy[pipe]  # type: ignore[index]
                assert worker.at is not None
                found[worker.at] = _answer(worker, asked[worker.at], options)
                worker.at = None
                if worker.process.exitcode is not None:
                    worker.end()
                    workers[workers.index(worker)] = _Worker(options, own, alive)
        tell(len(found), len(asked), ())
    finally:
        for worker in workers:
            worker.end()
        for end in alive:
            end.close()
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
    """What a worker has sent. Raises what it raised, or that it is dead."""
    where = f"{pair[0]}: {pair[1]}"
    try:
        kind, what, last = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"has ended with status {code}"
        if options.memory_bytes is not None and code in _MEMORY_DEATHS:
            return _no_memory(*pair, options, f"the process that checks it {how}")
        raise SoftsgxError(f"{where}: the process that checks it {how}") from None
    if last:
        worker.process.join()
    if kind == "result":
        assert isinstance(what, Result)
        return what
    raise {"usage": UsageError, "softsgx": SoftsgxError}.get(kind, InternalError)(
        f"{where}: {what}"
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
    alive: tuple[Connection, Connection],
) -> None:  # fmt: skip
    """Answer questions until the parent is gone."""
    with suppress(PermissionError):
        os.setpgid(0, 0)  # so Ctrl-C of the terminal is the parent's, who kills the group
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    faulthandler.disable()  # an end for want of memory is an answer
    parents.close()
    alive[1].close()
    threading.Thread(target=_end_with, args=(alive[0],), daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _answers(pipe, options, own)
    pipe.close()


def _end_with(alive: Connection) -> None:
    """Wait until the parent is gone, then end this process and its solvers."""
    with suppress(EOFError, OSError):
        alive.recv()
    os.killpg(0, signal.SIGKILL)


def _answers(pipe: Connection, options: Options, own: Sequence[str]) -> None:
    from softsgx.checker.prove import Checker

    if options.memory_bytes is not None:
        with suppress(ImportError):
            import z3

            z3.set_param("memory_max_size", max(1, options.memory_bytes >> 20))
        # Z3 ends the process where malloc() fails, so its own bound has to be met first.
        bound_myself(2 * options.memory_bytes)
    design, checker = "", None
    while True:
        _, text, name = pipe.recv()
        begun, last = time.monotonic(), False
        try:
            try:
                if checker is None or text != design:
                    checker = None
                    checker = Checker(make_design(text), options)
                    design = text
                answer: tuple[str, Any] = ("result", checker.check(PROPERTIES[name]))
            except Exception as e:
                if not out_of_memory(e):
                    raise
                result = _no_memory(text, name, options, "stopped")
                result.seconds = round(time.monotonic() - begun, 2)
                answer, checker = ("result", result), None
                last = True  # Z3 does not recover
        except InternalError as e:
            answer = ("internal", str(e).partition(" (this is a bug")[0])
        except SoftsgxError as e:
            answer = ("usage" if isinstance(e, UsageError) else "softsgx", str(e))
        except Exception as e:
            answer = _fault(e, text, name, own)
        pipe.send((*answer, last))
        if last:
            return


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
