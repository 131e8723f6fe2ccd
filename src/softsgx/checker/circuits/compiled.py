"""Circuits as Python functions, many states at once: bit ``n`` of an int is state ``n``'s.

The text is generated: a loop over the gates would cost more than the gates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from softsgx.checker.circuits.circuit import Graph

__all__ = ["Evaluator", "compile_circuit"]

Evaluator = Callable[[Sequence[int], Sequence[int], int], list[int]]
"""(slices of the state, slices of the arguments, all-ones mask) → slices of the roots."""


def compile_circuit(
    graph: Graph, roots: Sequence[int], state: Mapping[int, int], arguments: Mapping[int, int]
) -> Evaluator:
    """A function that evaluates the roots.

    state, arguments: from a free variable to its place in the first or second sequence.
    """
    lines = ["def evaluate(S, A, M):", " n0 = 0"]
    for v in graph.cone(roots):
        pair = graph.fanins[v]
        if pair is not None:
            lines.append(f" n{v} = {_read(pair[0])} & {_read(pair[1])}")
        elif v in state:
            lines.append(f" n{v} = S[{state[v]}]")
        else:
            lines.append(f" n{v} = A[{arguments[v]}]")
    lines.append(" return [" + ", ".join(_read(r) for r in roots) + "]")
    scope: dict[str, Evaluator] = {}
    exec("\n".join(lines), scope)
    return scope["evaluate"]


def _read(lit: int) -> str:
    return f"(n{lit >> 1} ^ M)" if lit & 1 else f"n{lit >> 1}"
