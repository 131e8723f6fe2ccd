"""Runs a trace on ints: what a solver says is believed only then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from softsgx.checker.engines.answer import Answer, Step
from softsgx.checker.world.system import State, System
from softsgx.errors import InternalError

__all__ = ["replay_inputs", "run_again", "weakest"]


def replay_inputs(
    system: System, bad: int, frames: Sequence[Mapping[int, int]], method: str
) -> Answer:
    """The trace that the inputs of each frame mean; frame 0 chooses the permissions.

    Raises InternalError if a step is not possible or the bad state is not reached.
    """
    permissions = {
        name: sum(frames[0].get(lit, 0) << i for i, lit in enumerate(lits))
        for name, lits in system.permission_inputs.items()
    }
    start = system.start(permissions)
    state, steps = start, []
    for inputs in frames[1:]:
        move, args = system.decode(inputs)
        after = system.step(state, move, args) if move is not None else None
        if move is None or after is None:
            continue  # a step in which nothing happens
        steps.append(Step(move, args, after))
        state = after
    if not system.holds(bad, state):
        raise InternalError("a solver's trace does not lead where it says")
    return Answer(True, len(steps), method, start=start, steps=steps)


def run_again(system: System, bad: int, start: State, steps: Sequence[Step]) -> list[Step] | None:
    """The same moves from another start; None if one is not possible, or ends elsewhere."""
    state, done = start, []
    for step in steps:
        after = system.step(state, step.move, step.args)
        if after is None:
            return None
        done.append(Step(step.move, step.args, after))
        state = after
    return done if system.holds(bad, state) else None


def weakest(system: System, bad: int, answer: Answer) -> None:
    """Take every permission away from a trace's start that its steps can do without."""
    if answer.start is None or answer.steps is None:
        return
    for name, var in system.world.vars.items():
        if not var.frozen or name in system.fixed:
            continue
        for i in reversed(range(len(var.lits))):
            if answer.start[name] >> i & 1:
                start = {**answer.start, name: answer.start[name] & ~(1 << i)}
                again = run_again(system, bad, start, answer.steps)
                if again is not None:
                    answer.start, answer.steps = start, again
