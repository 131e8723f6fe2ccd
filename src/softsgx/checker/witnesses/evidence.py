"""What a replay has shown of the property that its trace is about: the run's own evidence.

The checker says that a state is bad; here it is asked what real processes did in it. Values
that enclave code returned say which code ran; the kernel says what a source could never
become; the recording of `softsgx run` says what the LSM was asked, of whom, and what was
mapped. Where one of them does not bear the property out, the replay fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from softsgx.checker.witnesses.order import copied_from
from softsgx.checker.witnesses.seen import NAMES, NotSeenError, Seen, Taken
from softsgx.checker.world.sources import SOURCES
from softsgx.law.values import R, W, X, mask_name

__all__ = ["Evidence", "evidence"]


class Evidence:
    """``lines``: what was seen. holds: whether that is what the property's verdict says."""

    __slots__ = ("holds", "lines")

    def __init__(self, holds: bool, lines: list[str]) -> None:
        self.holds, self.lines = holds, lines


# -- the properties ----------------------------------------------------------------------------


def _each(seen: Seen, show: Callable[[Seen, int, int, int], Iterator[str]]) -> Iterator[str]:
    """Of the pages that ran those that show it; one is enough."""
    lines, why = [], None
    for p, i, value in seen.ran():
        try:
            lines += list(show(seen, p, i, value))
        except NotSeenError as e:
            why = why or e
    if not lines and why is not None:
        raise why
    yield from lines


def _modified_code(seen: Seen, p: int, i: int, value: int) -> Iterator[str]:
    step = seen.content(i)
    if value == seen.value(i) or seen.trace["steps"][step - 1]["step"] == "add":
        raise NotSeenError(f"page {i} runs as it was added")
    yield f"process {p} ran page {i}, which returned {value:#x}: code that step {step} wrote"
    yield seen.without_authority(p, i)


def _writable_alias(seen: Seen, p: int, i: int, value: int) -> Iterator[str]:
    again = {(q, j): answer for q, j, answer in seen.shown("run again")}
    writers = {j: q for q, j, _ in seen.shown("write")}
    if (p, i) not in again or i not in writers or int(again[p, i], 16) == value:
        raise NotSeenError(f"page {i} was not written while process {p} could run it")
    yield (
        f"process {p} ran page {i}, which returned {value:#x}; process {writers[i]} wrote it,"
        f" and it returned {again[p, i]}"
    )
    yield seen.without_authority(p, i)


def _writer_authorised(seen: Seen, p: int, i: int, value: int) -> Iterator[str]:
    yield from _writable_alias(seen, p, i, value)
    writer = next(q for q, j, _ in seen.shown("write") if j == i)
    if writer == p:
        raise NotSeenError(f"process {p} wrote page {i} itself")
    yield seen.without_authority(writer, i)


def _vetted_always(seen: Seen, p: int, i: int, value: int) -> Iterator[str]:
    step = seen.content(i)
    added = [SOURCES[copied_from(s)] for n, s in seen.steps() if n == step and s["step"] == "add"]
    if value != seen.value(i) or not added or added[0].intact:
        raise NotSeenError(f"page {i} runs, but not as it was added from anonymous memory")
    seen.not_asked_x(step)
    source = added[0].words
    yield f"process {p} ran page {i}, which returned {value:#x} as it was added from {source}"
    yield f"no LSM was asked about that memory or its copy (step {step})"
    yield seen.not_as_modified(p, i)


def _unvetted_code(seen: Seen, p: int, i: int, value: int) -> Iterator[str]:
    step = seen.content(i)
    denied = seen.not_asked_x(step)
    said = f"the LSM denied {denied}" if denied else "no LSM was asked whether it may be executed"
    yield (
        f"process {p} ran page {i}, which returned {value:#x}; its content is of step {step},"
        f" in which {said}"
    )
    yield seen.without_authority(p, i)


def _could(seen: Seen, i: int, what: str) -> str:
    source = next(
        SOURCES[copied_from(s)].words for _, s in seen.steps() if s["step"] == "add" and s["i"] == i
    )
    if not any(answer == "EACCES" for *_, answer in seen.shown("could")):
        raise NotSeenError("nobody tried what the source could become")
    return f"page {i} was added from {source}, to which the kernel refuses {what}"


def _noexec(seen: Seen, p: int, i: int, value: int) -> Iterator[str]:
    if value != seen.value(i):
        raise NotSeenError(f"page {i} runs, but not as it was added")
    yield f"process {p} ran page {i}, which returned {value:#x} as it was added"
    yield _could(seen, i, "PROT_EXEC (EACCES)")


def _source_bound(seen: Seen) -> Iterator[str]:
    for at in _broken(seen, lambda at: at["tables"] & ~at["source_may"]):
        p, i = at["p"], at["i"]
        yield seen.mapped(p, i, at["tables"])
        yield _could(seen, i, f"mprotect {mask_name(at['tables'])} (EACCES)")


def _page_bound(seen: Seen) -> Iterator[str]:
    for at in _broken(seen, lambda at: at["access"] & ~at["bound"]):
        p, i = at["p"], at["i"]
        beyond = at["access"] & ~at["bound"]
        done = [
            word
            for bit, what, word in (
                (X, "run", "ran"), (W, "write", "wrote"), (R, "read", "read")
            )
            if beyond & bit and any((q, j) == (p, i) for q, j, _ in seen.shown(what))
        ]  # fmt: skip
        if done:
            what = f"process {p} {' and '.join(done)} page {i}"
        else:
            what = seen.mapped(p, i, at["access"])
        yield f"{what}, whose maximum is {mask_name(at['bound'])} now"


def _wx_needs_write(seen: Seen, p: int, i: int, value: int) -> Iterator[str]:
    yield (
        f"process {p} ran page {i}, which returned {value:#x}; by the design's own word it may"
        " be written, too"
    )
    yield seen.lacks(p, i, {"write"})


def _execute_needed(seen: Seen, p: int, i: int, value: int) -> Iterator[str]:
    yield f"process {p} ran page {i}, which returned {value:#x}"
    yield seen.lacks(p, i, {"execute"})


def _asked(seen: Seen) -> Iterator[str]:
    for at in _broken(seen, lambda at: at["access"] & X and not at["asked"]):
        p, i = at["p"], at["i"]
        yield seen.mapped(p, i, X)
        for step in seen.mapping(p, i):
            seen.not_asked_x(step)
        heard = [
            seen.words({NAMES.get(a, a) for a in v["asked"]} & {"read", "write"})
            for step in seen.mapping(p, i)
            for v in seen.questions(step)
        ]
        words = " and ".join(dict.fromkeys(filter(None, heard))) or "nothing"
        never = "m" if seen.lsm == "apparmor" else "EXECUTE, EXECMOD or EXECMEM"
        if seen.lsm == "none":
            yield "there was no LSM to ask"
        else:
            yield f"for that the LSM was asked for {words}, not for {never}"


def _asked_here(seen: Seen) -> Iterator[str]:
    for at in _broken(seen, lambda at: at["access"] & X and not at["here"]):
        p, i = at["p"], at["i"]
        yield seen.mapped(p, i, X)
        yield seen.not_asked_of(p, seen.mapping(p, i))


def _no_wx(seen: Seen) -> Iterator[str]:
    for at in _broken(seen, lambda at: at["prot"] & W and at["prot"] & X and not at["authority"]):
        yield seen.mapped(at["p"], at["i"], W | X) + " at once"
        yield seen.without_authority(at["p"], at["i"])


def _elrange_fixed(seen: Seen) -> Iterator[str]:
    created = False
    for number, s in seen.steps():
        created = created or s["step"] == "create"
        if created and s["step"] in ("mremap", "foreign"):
            calls = [e for e in seen.events(number) if e["event"] == "mm" and e["answer"] >= 0]
            if not calls and not _was_hole(seen, number):
                raise NotSeenError(f"no call of step {number} changed a mapping")
            what = "moved" if s["step"] == "mremap" else "replaced by foreign memory"
            yield f"after ECREATE the mapping of page {s['i']} was {what}"
    for p, i, answer in seen.shown("left"):
        there = "memory of no enclave" if answer == "0" else f"nothing ({answer})"
        yield f"process {p} finds {there} where page {i} of the enclave was"


def _was_hole(seen: Seen, number: int) -> bool:
    """Whether a page had been unmapped before: what lies there then is no enclave's business."""
    i = seen.trace["steps"][number - 1]["i"]
    return any(s["step"] == "munmap" and s["i"] == i for n, s in seen.steps() if n < number)


def _benign_runs(seen: Seen, p: int, i: int, value: int) -> Iterator[str]:
    if value != seen.value(i):
        raise NotSeenError(f"page {i} runs, but not as it was added")
    yield f"process {p} ran page {i}, which returned {value:#x} as it was added"
    more = ({"execmod"}, {"execmem"}) if seen.lsm == "selinux" else ()
    yield seen.lacks(p, i, {"write", "execute"}, *more)


def _told_apart(_seen: Seen, p: int, i: int, value: int) -> Iterator[str]:
    yield f"process {p} ran page {i} of an unmodified file, which returned {value:#x}"


def _broken(
    seen: Seen, which: Callable[[dict[str, int]], int | bool]
) -> list[dict[str, int]]:  # fmt: skip
    found = [at for at in seen.end if which(at)]
    if not found:
        raise NotSeenError("the trace does not say which mapping it is about")
    return found


# Of a page that ran; of the end of the trace.
_BY_RUN: dict[str, Callable[[Seen, int, int, int], Iterator[str]]] = {
    "modified-code": _modified_code,
    "writable-alias": _writable_alias,
    "writer-authorised": _writer_authorised,
    "unvetted-code": _unvetted_code,
    "vetted-always": _vetted_always,
    "noexec": _noexec,
    "wx-needs-write": _wx_needs_write,
    "execute-needed": _execute_needed,
    "benign-runs": _benign_runs,
    "told-apart": _told_apart,
}
_BY_END: dict[str, Callable[[Seen], Iterator[str]]] = {
    "source-bound": _source_bound,
    "page-bound": _page_bound,
    "asked": _asked,
    "asked-here": _asked_here,
    "no-wx": _no_wx,
    "elrange-fixed": _elrange_fixed,
}
_POSSIBLE = ("benign-runs", "told-apart")


def evidence(trace: dict[str, Any], taken: list[Taken]) -> Evidence:
    """Judge a replay of which each answer was as the model says."""
    name = trace["property"]
    if name not in _BY_RUN and name not in _BY_END:
        return Evidence(True, [f"{name}: nothing more is known here of what would show it"])
    seen = Seen(trace, taken)
    lines: list[str] = []
    try:
        found = _each(seen, _BY_RUN[name]) if name in _BY_RUN else _BY_END[name](seen)
        for line in found:
            if line not in lines:
                lines.append(line)
    except NotSeenError as e:
        return Evidence(False, [*lines, f"{name} is not seen in this run: {e}"])
    if not lines:
        return Evidence(False, [f"{name} is not seen in this run: no step is of that kind"])
    head = f"{name} is possible:" if name in _POSSIBLE else f"{name} is broken:"
    return Evidence(True, [head, *(f"  {line}" for line in lines)])
