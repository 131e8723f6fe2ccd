"""A trace whose calls come in halves (`softsgx.checker.world.halves`), told with its threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softsgx.checker.engines.answer import Step
from softsgx.checker.witnesses.words import step_words
from softsgx.checker.world.sources import SOURCES

__all__ = ["trace_words", "whole_args"]


def whole_args(steps: Sequence[Step]) -> list[dict[str, int]]:
    """The arguments of each step; of a second half, what the first half was called with, too."""
    under_way: dict[tuple[Any, Any], dict[str, int]] = {}
    found = []
    for step in steps:
        meta, args = step.move.meta, step.args
        place = (meta.get("p"), meta.get("i"))
        if meta.get("part") == 1:
            under_way[place] = args
        elif "part" in meta:
            args = {**under_way.pop(place, {}), **args}
        found.append(args)
    return found


def trace_words(steps: Sequence[Step]) -> list[str]:
    """Each step as a sentence without a full stop.

    Of a process whose call is under way it says which of its threads does it.
    """
    busy: dict[Any, list[Any]] = {}  # pages whose call is under way, by process
    lines = []
    for step, args in zip(steps, whole_args(steps), strict=True):
        meta = step.move.meta
        p, i = meta.get("p"), meta.get("i")
        words = step_words(Step(step.move, args, step.after))
        who, did = f"process {p}", words.removeprefix(f"process {p} ")
        own = busy.setdefault(p, [])
        part = meta.get("part")
        if part == 1:
            own[:] = [*(j for j in own if j != i), i]
            mark = step.move.marks[-1]
            lines.append(f"{who}, thread {own.index(i) + 1}, {did}: {mark.what}")
        elif part is not None:
            thread = own.index(i) + 1 if i in own else 1
            own[:] = [j for j in own if j != i]
            did = f"goes on: it {did}" if part == 2 else "goes on, and is refused"
            copied = args.get("copied")
            if part == 2 and copied is not None and copied != args.get("source"):
                did += f"; by now {SOURCES[copied].words} lies there, and is copied"
            lines.append(f"{who}, thread {thread}, {did}")
        elif own:
            lines.append(f"{who}, thread {len(own) + 1}, {did}")
        else:
            lines.append(words)
    return lines
