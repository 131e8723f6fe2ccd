"""A trace as data, for `softsgx replay` and for pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from softsgx.checker.engines.answer import Step
from softsgx.checker.witnesses.asking import asked_of
from softsgx.checker.witnesses.ending import end_of
from softsgx.checker.witnesses.threads import trace_words, whole_args
from softsgx.checker.world.halves import First
from softsgx.checker.world.system import State, System
from softsgx.law.values import Value

__all__ = ["trace_data"]

_ACCEPTED = ("perm", "pt", "pending", "modified", "pr")


def trace_data(
    system: System, start: State, steps: Sequence[Step],
    runs: Callable[[int, int], Value] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The steps with their arguments, words and questions, who holds what, and how it ends.

    runs: whether a process runs a page, in the property's sense; the trace's ``runs`` are those
    that do at the end.
    """
    before, told = start, []
    for step, args, words in zip(steps, whole_args(steps), trace_words(steps), strict=True):
        data: dict[str, Any] = {"step": step.move.name, **step.move.meta, **args, "words": words}
        if step.move.name == "eaccept":
            page = f"page{step.move.meta['i']}."
            data |= {name: before[page + name] for name in _ACCEPTED}
        if isinstance(step.move, First):
            data["mark"] = step.move.nth
        data["asked"] = asked_of(system, step, before)
        told.append(data)
        before = step.after
    return {
        "pages": system.world.n_pages,
        "processes": system.world.n_processes,
        "permissions": {n: v for n, v in start.items() if n.startswith("may") and v},
        "steps": told,
        "runs": [
            {"p": p, "i": i, "written": before[f"ghost{i}.written"]}
            for p, i in system.world.pairs()
            if runs and system.holds(system.graph.truth(runs(p, i)), before)
        ],
        "end": end_of(system, before),
    }
