"""Makes a trace plain: the most ordinary choices that still lead there, and no spare permission."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.engines.answer import Answer, Step
from softsgx.checker.engines.replay import run_again, weakest
from softsgx.checker.world.move import Move
from softsgx.checker.world.sources import SOURCES
from softsgx.checker.world.system import System

__all__ = ["make_plain"]

_PREFERRED = {
    "source": tuple(range(len(SOURCES))),
    "copied": tuple(range(len(SOURCES))),
    # A file first, as a loader's is.
    "sigstruct": (6, 2, 0, 1, *range(3, 6), *range(7, len(SOURCES))),
    "perm": (5, 3, 1, 7, 4, 6, 2, 0),
    "prot": (0, 1, 5, 3, 7, 4, 6, 2),
    "segment": (5, 3, 1, 7, 4, 6, 2),
    "unmeasured": (0,),
    "allow": (0, 2),
    "intent": (4, 0),
}


# Steps that any process with the device's fd may take: the first one, if it can.
_ANYBODY = ("create", "init", "add")


def _same_place(move: Move, other: Move) -> bool:
    anybody = move.name in _ANYBODY and "part" not in move.meta
    keys = ["q", "i", "j", "fmode", "part", *([] if anybody else ["p"])]
    return move.name == other.name and all(move.meta.get(k) == other.meta.get(k) for k in keys)


def _alternatives(system: System, step: Step) -> Iterator[tuple[Move, dict[str, int]]]:
    """Other choices for one step, plainer first; the last is the step itself."""
    for move in system.moves:
        if move is step.move:
            break
        if _same_place(move, step.move) and all(name in step.args for name, _ in move.args):
            yield move, step.args
    for name, _ in step.move.args:
        for value in _PREFERRED.get(name, ()):
            if value == step.args[name]:
                break
            yield step.move, {**step.args, name: value}


def make_plain(system: System, bad: int, answer: Answer) -> None:
    """Rewrite a trace in place; it stays as long, and each change is run again."""
    if answer.steps is None or answer.start is None:
        return
    weakest(system, bad, answer)
    for at in range(len(answer.steps)):
        again = True
        while again:
            again = False
            for move, args in _alternatives(system, answer.steps[at]):
                steps = list(answer.steps)
                steps[at] = Step(move, args, steps[at].after)
                done = run_again(system, bad, answer.start, steps)
                if done is not None:
                    answer.steps, again = done, True
                    break
    weakest(system, bad, answer)
