"""The moves as one transition system: a choice of move and arguments, then the next state."""

from __future__ import annotations

from collections.abc import Mapping

from softsgx.checker.circuits.circuit import FALSE, TRUE, renamed
from softsgx.checker.circuits.compiled import Evaluator, compile_circuit
from softsgx.checker.world.move import Move
from softsgx.checker.world.world import World

__all__ = ["State", "System"]

State = dict[str, int]
"""The value of each variable by its name."""


class System:
    """Next-state functions of a world.

    choice: inputs whose number picks the move. arguments: inputs that the moves share.
    next: the next value of each variable, as literals. fixed: permissions that are
    given (variable → mask); the others are chosen by inputs in the first step.
    """

    def __init__(self, world: World, fixed: Mapping[str, int] | None = None) -> None:
        self.world, self.graph, self.moves = world, world.graph, world.moves
        g = self.graph
        self.fixed = dict(fixed or {})
        width = max(1, (len(self.moves) - 1).bit_length())
        self.choice = [g.free() for _ in range(width)]
        self.arguments = list(world.argument_inputs)
        self.permission_inputs: dict[str, tuple[int, ...]] = {}
        self.next: dict[str, tuple[int, ...]] = {}
        self._build()
        self.bit_names = [(name, i) for name, i, _, _ in self.latches()]
        self.bit_of = {lit >> 1: n for n, (_, _, lit, _) in enumerate(self.latches())}
        self._compiled: dict[Move, Evaluator] = {}
        self._conditions: dict[int, Evaluator] = {}

    def _build(self) -> None:
        g, world = self.graph, self.world
        chosen = []
        for n, move in enumerate(self.moves):
            bits = g.all_of(c ^ (n >> i & 1 ^ 1) for i, c in enumerate(self.choice))
            chosen.append(g.and_(bits, move.guard))
        ready = world.vars["ready"].lits[0]
        for name, var in world.vars.items():
            if name == "ready":
                self.next[name] = (TRUE,)
                continue
            if var.frozen:
                given = self.fixed.get(name)
                if given is None:
                    first = tuple(g.free() for _ in var.lits)
                    self.permission_inputs[name] = first
                else:
                    first = g.lits(given, len(var.lits))
                self.next[name] = tuple(
                    g.mux(ready, old, new) for old, new in zip(var.lits, first, strict=True)
                )
                continue
            touching = [(c, m) for c, m in zip(chosen, self.moves, strict=True) if name in m.new]
            stays = g.any_of(c for c, _ in touching) ^ 1
            self.next[name] = tuple(
                g.or_(
                    g.and_(stays, old),
                    g.any_of(g.and_(c, m.new[name][i]) for c, m in touching),
                )
                for i, old in enumerate(var.lits)
            )

    @property
    def inputs(self) -> list[int]:
        """All inputs: choice, arguments, permissions."""
        return [
            *self.choice, *self.arguments,
            *(lit for lits in self.permission_inputs.values() for lit in lits),
        ]  # fmt: skip

    def latches(self) -> list[tuple[str, int, int, int]]:
        """Every bit of the state: (variable, bit, literal, literal of its next value)."""
        return [
            (name, i, lit, nxt)
            for name, var in self.world.vars.items()
            for i, (lit, nxt) in enumerate(zip(var.lits, self.next[name], strict=True))
        ]

    def settled(self, literal: int) -> int:
        """A literal over the state, with what no step ever sets taken for 0."""
        g = self.graph
        moves = [move.new for move in self.moves]
        idle = {
            lit >> 1: FALSE
            for name, var in self.world.vars.items()
            for i, lit in enumerate(var.lits)
            if not var.frozen and name != "ready"
            and all(new[name][i] == FALSE for new in moves if name in new)
        }  # fmt: skip
        return renamed(g, literal, idle, {})

    # -- on ints -----------------------------------------------------------------------

    def start(self, permissions: Mapping[str, int]) -> State:
        """The state after the first step, with these permissions (others 0, or as fixed)."""
        state = dict.fromkeys(self.world.vars, 0)
        state.update({n: v for n, v in permissions.items() if self.world.vars[n].frozen})
        state.update(self.fixed)
        state["ready"] = 1
        return state

    def compiled(self, move: Move) -> Evaluator:
        """The move's guard, then its new bits in the order of ``move.new``, as a function."""
        found = self._compiled.get(move)
        if found is None:
            places = {lit >> 1: i for i, lit in enumerate(x for b in move.arg_lits for x in b)}
            roots = [move.guard, *(lit for lits in move.new.values() for lit in lits)]
            found = compile_circuit(self.graph, roots, self.bit_of, places)
            self._compiled[move] = found
        return found

    def bits(self, state: State) -> list[int]:
        """The bits of a state, in the order of `latches`."""
        return [state[name] >> i & 1 for name, i in self.bit_names]

    def step(self, state: State, move: Move, args: Mapping[str, int]) -> State | None:
        """The state after a move, or None where it is not possible."""
        given = [args[name] >> i & 1 for name, width in move.args for i in range(width)]
        found = self.compiled(move)(self.bits(state), given, 1)
        if not found[0]:
            return None
        after = dict(state)
        at = 1
        for name, lits in move.new.items():
            after[name] = sum(bit << i for i, bit in enumerate(found[at : at + len(lits)]))
            at += len(lits)
        return after

    def condition(self, literal: int) -> Evaluator:
        """A literal over the state as a function."""
        found = self._conditions.get(literal)
        if found is None:
            found = compile_circuit(self.graph, [literal], self.bit_of, {})
            self._conditions[literal] = found
        return found

    def holds(self, literal: int, state: State) -> bool:
        """Whether a literal over the state holds in it."""
        return bool(self.condition(literal)(self.bits(state), (), 1)[0])

    def decode(self, inputs: Mapping[int, int]) -> tuple[Move | None, dict[str, int]]:
        """The move and its arguments that the inputs (by literal) mean."""
        number = sum(inputs.get(lit, 0) << i for i, lit in enumerate(self.choice))
        if number >= len(self.moves):
            return None, {}
        move = self.moves[number]
        return move, {
            name: sum(inputs.get(lit, 0) << i for i, lit in enumerate(lits))
            for (name, _), lits in zip(move.args, move.arg_lits, strict=True)
        }
