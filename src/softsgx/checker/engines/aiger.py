"""Writes a transition system and one bad state as AIGER, the format of hardware checkers.

Source: Armin Biere, "The AIGER And-Inverter Graph (AIG) Format Version 20071012". Only
what the bad state depends on is written (its cone of influence).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from softsgx.checker.world.system import System

__all__ = ["Aiger"]


class Aiger:
    """One property's circuit. inputs, latches: the literals of the system, in file order.

    also: further literals of the state that the circuit has to have.
    """

    def __init__(self, system: System, bad: int, also: Iterable[int] = ()) -> None:
        self.system, self.bad = system, bad
        graph = system.graph
        every = {lit >> 1: (name, i, lit, nxt) for name, i, lit, nxt in system.latches()}
        needed: dict[int, tuple[str, int, int, int]] = {}
        roots = [bad, *also]
        while roots:
            found = [every[v] for v in graph.cone(roots) if v in every and v not in needed]
            needed.update({row[2] >> 1: row for row in found})
            roots = [row[3] for row in found]
        self.latches = [row for v, row in every.items() if v in needed]
        self.cone = graph.cone([bad, *(row[3] for row in self.latches)])
        inside = set(self.cone)
        self.inputs = [lit for lit in system.inputs if lit >> 1 in inside]

    def data(
        self, output: int | None = None, *, names: Mapping[int, str] | None = None,
        comment: Sequence[str] = (),
    ) -> bytes:  # fmt: skip
        """The file, binary AIGER.

        output: another literal of inputs and latches in the place of the bad state's; its
        gates come behind those of the circuit, whose numbers stay. names: of inputs and
        latches, by their variables; comment: lines for the end.
        """
        graph = self.system.graph
        number = {0: 0}
        for lit in self.inputs:
            number[lit >> 1] = len(number)
        for row in self.latches:
            number.setdefault(row[2] >> 1, len(number))
        gates = []
        for v in [*self.cone, *(graph.cone([output]) if output is not None else ())]:
            if v not in number:
                if graph.fanins[v] is None:
                    raise AssertionError(f"variable {v} is neither input nor latch")
                number[v] = len(number)
                gates.append(v)

        def out(lit: int) -> int:
            return 2 * number[lit >> 1] + (lit & 1)

        n_in, n_latch, n_and = len(self.inputs), len(self.latches), len(gates)
        head = f"aig {n_in + n_latch + n_and} {n_in} {n_latch} 1 {n_and}\n"
        end = out(self.bad if output is None else output)
        lines = [head, *(f"{out(row[3])}\n" for row in self.latches), f"{end}\n"]
        body = bytearray("".join(lines).encode())
        for v in gates:
            pair = graph.fanins[v]
            assert pair is not None
            high, low = sorted((out(pair[0]), out(pair[1])), reverse=True)
            for delta in (2 * number[v] - high, high - low):
                body += _varint(delta)
        if names is not None:
            symbols = [f"i{n} {names[lit >> 1]}" for n, lit in enumerate(self.inputs)]
            symbols += [f"l{n} {names[row[2] >> 1]}" for n, row in enumerate(self.latches)]
            symbols.append("o0 bad" if output is None else "o0 excluded")
            body += "".join(
                f"{line}\n" for line in [*symbols, *(["c"] if comment else ())]
            ).encode()
        body += "".join(f"{line}\n" for line in comment).encode()
        return bytes(body)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
