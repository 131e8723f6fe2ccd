"""A question as Promela, the language of Spin: each move a branch of one loop.

The gates of a move are hidden variables, which are no part of Spin's state; a move is done
in one ``d_step``, after its arguments were chosen bit by bit. Spin searches explicitly, so
the larger the world and the more permissions are open, the less of it will it see.
Rejected: TLA+, whose checker no package of Debian's or PyPI's brings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from softsgx.checker.certificates.question import Question
from softsgx.checker.world.move import Move

__all__ = ["question_promela"]


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def question_promela(question: Question) -> str:
    """A model whose assertion is violated where the bad state can be reached."""
    return "\n".join([*_Model(question).lines(), ""])


class _Model:
    """The parts of the text. What `bad` does not depend on is left out."""

    def __init__(self, question: Question) -> None:
        self.question, self.system = question, question.system
        self.graph, circuit = question.system.graph, question.circuit()
        self.needed = {row[0] for row in circuit.latches}
        self.bits: dict[int, str] = {}
        for name, var in self.system.world.vars.items():
            own, width = _identifier(name), len(var.lits)
            for i, lit in enumerate(var.lits):
                self.bits[lit >> 1] = own if width == 1 else f"({own}>>{i}&1)"
        for n, lit in enumerate(self.system.arguments):
            self.bits[lit >> 1] = f"argument{n}"
        self.used: dict[int, None] = {}
        self.aside: dict[str, None] = {}
        self.chosen: dict[str, None] = {}

    def term(self, lit: int) -> str:
        """A literal as an expression."""
        if lit <= 1:
            return str(lit)
        v = lit >> 1
        name = self.bits[v] if self.graph.fanins[v] is None else f"n{v}"
        return f"!{name}" if lit & 1 else name

    def gates(self, roots: Iterable[int]) -> Iterator[str]:
        """The assignments of the roots' cones."""
        for v in self.graph.cone(roots):
            pair = self.graph.fanins[v]
            if pair is not None:
                self.used.setdefault(v)
                yield f"n{v} = {self.term(pair[0])} && {self.term(pair[1])};"

    def value(self, lits: Sequence[int]) -> str:
        """Bits as a number."""
        terms = [f"({self.term(x)})<<{i}" if i else f"({self.term(x)})" for i, x in enumerate(lits)]
        return " | ".join(terms)

    def lines(self) -> Iterator[str]:
        """The model."""
        body = [line for move in self.system.moves for line in self.move(move)]
        check = [*self.gates([self.question.bad]), f"assert(!({self.term(self.question.bad)}))"]
        words = self.question.words.replace("*/", "* /")
        yield f"/* {words}\n   The assertion fails where that can be reached. */"
        for name in sorted(self.needed):
            width = len(self.system.world.vars[name].lits)
            kind = f"unsigned {_identifier(name)} : {width}" if width > 1 else None
            yield (kind or f"bit {_identifier(name)}") + ";"
        yield from (f"bit {name};" for name in self.chosen)
        yield from (f"hidden byte then_{_identifier(name)};" for name in self.aside)
        yield from (f"hidden byte n{v};" for v in self.used)
        yield "active proctype world()"
        yield "{"
        yield "  atomic { /* permissions are chosen, and never change */"
        yield from (f"    {line}" for line in self.permissions())
        yield "  }"
        yield "  do"
        yield "  :: atomic {"
        yield "    d_step {"
        yield from (f"      {line}" for line in check)
        yield "    }"
        yield "    if"
        yield from body
        yield "    fi"
        yield "  }"
        yield "  od"
        yield "}"

    def permissions(self) -> Iterator[str]:
        """What the first step does."""
        if "ready" in self.needed:
            yield "ready = 1;"
        for name, var in self.system.world.vars.items():
            if not var.frozen or name not in self.needed:
                continue
            own = _identifier(name)
            given = self.system.fixed.get(name)
            if given is not None:
                yield f"{own} = {given & (1 << len(var.lits)) - 1};"
                continue
            for i in range(len(var.lits)):
                yield f"if :: skip :: {own} = {own} | {1 << i} fi;"

    def move(self, move: Move) -> Iterator[str]:
        """A branch: choose arguments, compute, and change the state if the guard holds."""
        new: Mapping[str, tuple[int, ...]] = {
            name: lits for name, lits in move.new.items() if name in self.needed
        }
        if not new:
            return
        roots = [move.guard, *(x for lits in new.values() for x in lits)]
        who = " ".join(f"{key}={value}" for key, value in move.meta.items())
        arguments = [self.bits[x >> 1] for lits in move.arg_lits for x in lits]
        self.chosen.update(dict.fromkeys(arguments))
        yield f"    :: skip; /* {move.name} {who} */"
        yield from (f"       if :: skip :: {name} = 1 fi;" for name in arguments)
        yield "       d_step {"
        yield from (f"         {line}" for line in self.gates(roots))
        yield "         if"
        yield f"         :: {self.term(move.guard)} ->"
        # All at once: what is read besides gates is put aside before it changes.
        values = {}
        for name, lits in new.items():
            values[name] = self.value(lits)
            if any(x > 1 and self.graph.fanins[x >> 1] is None for x in lits):
                self.aside.setdefault(name)
                aside = f"then_{_identifier(name)}"
                yield f"            {aside} = {values[name]};"
                values[name] = aside
        for name, value in values.items():
            yield f"            {_identifier(name)} = {value};"
        yield "         :: else -> skip"
        yield "         fi;"
        yield from (f"         {name} = 0;" for name in arguments)
        yield "       }"
