"""A question that an engine was asked, with its answer: what a folder of an export is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from softsgx.checker.engines.aiger import Aiger
from softsgx.checker.engines.answer import Answer, Clause
from softsgx.checker.world.system import System
from softsgx.checker.world.world import Var

__all__ = ["Question", "bit_name"]


def bit_name(name: str, bit: int, width: int) -> str:
    """A bit of a variable: ``page0.perm[2]``, or ``ready`` where there is only one."""
    return f"{name}[{bit}]" if width > 1 else name


class Question:
    """Whether ``bad`` can be reached. ``label``: of its folder; ``words``: what is asked.

    answer: the engine's; cubes: an inductive invariant's, where there is one to tell; traces:
    that lead to ``bad``, by the name of their file. others: variables that are inputs here.
    pages, processes: for how many it is asked, None for any number.
    """

    def __init__(
        self, label: str, words: str, system: System, bad: int, answer: Answer,
        *, cubes: Sequence[Clause] | None = None, others: Mapping[str, Var] | None = None,
    ) -> None:  # fmt: skip
        self.label, self.words, self.system, self.bad = label, words, system, bad
        self.reached, self.depth, self.method = answer.reached, answer.depth, answer.method
        self.cubes = cubes
        self.pages: int | None = system.world.n_pages
        self.processes: int | None = system.world.n_processes
        self.traces: dict[str, Answer] = {"trace": answer} if answer.reached else {}
        self._others = others or {}

    def circuit(self) -> Aiger:
        """Its circuit, with all that the invariant speaks of."""
        return Aiger(self.system, self.bad, [x for lits in self.cube_lits() for x in lits])

    def cube_lits(self) -> list[list[int]]:
        """The cubes as literals of the state."""
        variables = self.system.world.vars
        return [
            [variables[n].lits[i] ^ (value ^ 1) for n, i, value in cube]
            for cube in self.cubes or ()
        ]

    def names(self) -> dict[int, str]:
        """The name of each bit of the state and of the inputs, by its variable.

        Inputs: ``choice`` is the number of the move, ``argument`` what moves share,
        ``first.NAME`` a permission that the first step chooses.
        """
        system = self.system
        named = {lit >> 1: f"argument[{n}]" for n, lit in enumerate(system.arguments)}
        named |= {lit >> 1: f"choice[{n}]" for n, lit in enumerate(system.choice)}
        for variables in (self._others, system.world.vars):
            for name, var in variables.items():
                for i, lit in enumerate(var.lits):
                    named[lit >> 1] = bit_name(name, i, len(var.lits))
        for name, lits in system.permission_inputs.items():
            for i, lit in enumerate(lits):
                named[lit >> 1] = "first." + bit_name(name, i, len(lits))
        return named

    def frames(self, trace: Answer) -> Iterator[dict[int, int]]:
        """The inputs (by literal) of each step of a trace; the first chooses the permissions."""
        system, start = self.system, trace.start or {}
        yield {
            lit: start[name] >> i & 1
            for name, lits in system.permission_inputs.items()
            for i, lit in enumerate(lits)
        }
        for step in trace.steps or ():
            number = system.moves.index(step.move)
            inputs = {lit: number >> i & 1 for i, lit in enumerate(system.choice)}
            for (name, _), lits in zip(step.move.args, step.move.arg_lits, strict=True):
                inputs |= {lit: step.args[name] >> i & 1 for i, lit in enumerate(lits)}
            yield inputs

    def move_lines(self) -> Iterator[str]:
        """A line for each move: its number, name, who does it, and the bits of its arguments."""
        named = self.names()
        for number, move in enumerate(self.system.moves):
            who = " ".join(f"{key}={value}" for key, value in move.meta.items())
            bits = "; ".join(
                f"{name}: " + " ".join(named[lit >> 1] for lit in lits)
                for (name, _), lits in zip(move.args, move.arg_lits, strict=True)
            )
            yield f"choice {number}: {move.name} {who}{'; ' if bits else ''}{bits}".rstrip()
