"""What a replay has shown of the property that its trace is about: the run's own evidence.

The checker says that a state is bad; here it is asked what real processes did in it. Values
that enclave code returned say which code ran; the kernel says what a source could never
become; the recording of `softsgx run` says what the LSM was asked, of whom, and what was
mapped. Where one of them does not bear the property out, the replay fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from softsgx.checker.confine import device_of, domain, profile
from softsgx.checker.script import Order, value_of
from softsgx.checker.sources import SOURCES
from softsgx.law.values import R, W, X, mask_name

__all__ = ["Evidence", "Taken", "evidence"]

PROT = 2
"""Where mmap and mprotect have their prot."""
_CALLS = {
    "mmap": "mmap", "mmap-segment": "mmap", "map-segment": "SGX_IOC_MAP_SEGMENT",
    "mprotect": "mprotect", "ioc-mprotect": "SGX_IOC_MPROTECT",
}  # fmt: skip
_X_PERMS = {"execute", "execmod", "execmem"}
_NAMES = {"r": "read", "w": "write", "m": "execute"}  # AppArmor's letters


class Taken:
    """An order that was given: the ``answer`` of the program, the recording's ``events`` of it."""

    __slots__ = ("answer", "events", "order")

    def __init__(self, order: Order, answer: str, events: list[dict[str, Any]]) -> None:
        self.order, self.answer, self.events = order, answer, events


class Evidence:
    """``lines``: what was seen. holds: whether that is what the property's verdict says."""

    __slots__ = ("holds", "lines")

    def __init__(self, holds: bool, lines: list[str]) -> None:
        self.holds, self.lines = holds, lines


class _NotSeenError(Exception):
    """The run does not show it."""


class _Seen:
    """A trace and what came of its orders."""

    def __init__(self, trace: dict[str, Any], taken: list[Taken]) -> None:
        self.trace, self.taken = trace, taken
        self.lsm: str = trace["lsm"]
        self.end: list[dict[str, int]] = trace.get("end", [])

    # -- what was called -------------------------------------------------------------------

    def steps(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return enumerate(self.trace["steps"], 1)

    def events(self, step: int) -> Iterator[dict[str, Any]]:
        """The events of a step's own orders."""
        for one in self.taken:
            if one.order.step == step and not one.order.shows:
                yield from one.events

    def shown(self, what: str) -> list[tuple[int, int, str]]:
        """(process, page, answer) of each order that was given to show something."""
        found = []
        for one in self.taken:
            if one.order.shows == what:
                words = one.order.text.split()
                page = next((int(w[1:]) for w in words[2:] if w[0] == "p" and w[1:].isdigit()), -1)
                found.append((int(words[0]), page, one.answer))
        return found

    def ran(self) -> list[tuple[int, int, int]]:
        """(process, page, what it returned) of each page that was run."""
        found = [(p, i, int(answer, 16)) for p, i, answer in self.shown("run")]
        if not found:
            raise _NotSeenError("no page was run")
        return found

    def mapping(self, p: int, i: int) -> list[int]:
        """The steps that made the mapping of page ``i`` in process ``p`` what it is."""
        made: dict[tuple[int, int], list[int]] = {}
        for number, s in self.steps():
            name, place = s["step"], (s["p"], s.get("i", -1))
            if name in ("mmap", "mmap-segment", "map-segment"):
                made[place] = [number]
            elif name in ("mprotect", "ioc-mprotect"):
                made[place] = [*made.get(place, []), number]
            elif name == "mremap":
                made[s["p"], s["j"]] = made.pop(place, [])
            elif name in ("munmap", "foreign"):
                made.pop(place, None)
            elif name == "fork":
                made |= {(s["q"], j): steps for (q, j), steps in made.items() if q == s["p"]}
        return made.get((p, i), [])

    def mapped(self, p: int, i: int, prot: int) -> str:
        """That the last call which made the mapping gave it ``prot``, in words."""
        steps = self.mapping(p, i)
        if not steps:
            raise _NotSeenError(f"process {p} made no mapping of page {i}")
        call = _CALLS[self.trace["steps"][steps[-1] - 1]["step"]]
        for event in self.events(steps[-1]):
            name = event.get("name", event.get("call"))
            of_v20 = self.trace["design"] == "v20" and name == "mprotect"  # maps wholes by mmap
            if event.get("answer", -1) >= 0 and (name == call or of_v20):
                got = event["args"]["prot"] if event["event"] == "ioctl" else event["args"][PROT]
                if got & prot == prot:
                    return f"{name} gave process {p} page {i} {mask_name(got)}"
        raise _NotSeenError(f"no {call} gave process {p} page {i} {mask_name(prot)}")

    def content(self, i: int) -> int:
        """The step that page ``i`` has its content from."""
        kinds = ("add", "write", "eacceptcopy", "augment", "touch")
        steps = [n for n, s in self.steps() if s.get("i") == i and s["step"] in kinds]
        if not steps:
            raise _NotSeenError(f"nothing came into page {i}")
        return steps[-1]

    # -- what the LSM was asked ------------------------------------------------------------

    def label(self, p: int) -> str:
        """The label of a process: a child of fork has its parent's."""
        for _, s in self.steps():
            if s["step"] == "fork" and s["q"] == p:
                return self.label(s["p"])
        return domain(p) if self.lsm == "selinux" else profile(p)

    def questions(self, step: int | None = None) -> Iterator[dict[str, Any]]:
        """Verdicts on all questions, or those of one step."""
        for one in self.taken:
            if step is None or (one.order.step == step and not one.order.shows):
                for event in one.events:
                    yield from event.get("verdicts", ())

    def _is(self, verdict: dict[str, Any], i: int) -> bool:
        """Whether a question was about the object that mappings of page ``i`` are of."""
        kind = "sgx_enclave_device_t"
        for _, s in self.steps():
            if s.get("i") == i and s.get("segment") and s["step"] in ("add", "augment"):
                kind = f"sgx_segment_{mask_name(s['segment']).lower()}_t"
        if self.lsm == "apparmor":  # which knows no segments
            device = device_of(self.trace["design"])
            return "segment" not in kind and bool(verdict["target"] == device)
        return kind in verdict["target"].split(":")

    def granted(self, p: int, i: int) -> set[str]:
        """What process ``p`` was granted on the object of page ``i``'s mappings, and EXECMEM."""
        found: set[str] = set()
        for v in self.questions():
            mine = self.label(p) in v["subject"].split(":")
            if mine and not v["denied"] and (self._is(v, i) or "execmem" in v["asked"]):
                found |= {_NAMES.get(a, a) for a in v["asked"]}
        return found & {"read", "write", "execute", "execmod", "execmem"}

    def words(self, perms: set[str]) -> str:
        """Permissions by the names of the LSM."""
        names = {v: k for k, v in _NAMES.items()} if self.lsm == "apparmor" else {}
        return " ".join(names.get(n, n.upper()) for n in _ORDER if n in perms)

    def lacks(self, p: int, i: int, *sets: set[str]) -> str:
        """That process ``p`` was not granted all of any of these sets, in words."""
        if self.lsm == "none":
            return "no LSM could have been asked"
        got = self.granted(p, i)
        for s in sets:
            if s <= got:
                raise _NotSeenError(f"process {p} was granted {self.words(s)}")
        words = self.words(got - {"execmem"}) or "nothing"
        also = " (and EXECMEM on itself)" if "execmem" in got else ""
        return (
            f"the LSM granted process {p} {words} on what it mapped{also},"
            f" never {' or '.join(map(self.words, sets))}"
        )

    def without_authority(self, p: int, i: int) -> str:
        """That process ``p`` was not granted what running modified code takes."""
        only = self.trace["design"] == "safe-to-execute" and self.lsm == "selinux"
        sets = ({"execmod"},) if only else ({"write", "execute"}, {"execmod"})
        if self.lsm == "apparmor":
            sets = sets[:1]  # it has no EXECMOD
        return self.lacks(p, i, *sets)

    def not_asked_x(self, step: int) -> None:
        """Nobody was asked for anything like EXECUTE in a step."""
        for v in self.questions(step):
            asked = {_NAMES.get(a, a) for a in v["asked"]} & _X_PERMS
            if asked:
                raise _NotSeenError(f"{self.words(asked)} was asked for in step {step}")


_ORDER = ("read", "write", "execute", "execmod", "execmem")


# -- the properties ----------------------------------------------------------------------------


def _each(seen: _Seen, show: Callable[[_Seen, int, int, int], Iterator[str]]) -> Iterator[str]:
    """Of the pages that ran those that show it; one is enough."""
    lines, why = [], None
    for p, i, value in seen.ran():
        try:
            lines += list(show(seen, p, i, value))
        except _NotSeenError as e:
            why = why or e
    if not lines and why is not None:
        raise why
    yield from lines


def _modified_code(seen: _Seen, p: int, i: int, value: int) -> Iterator[str]:
    step = seen.content(i)
    if value == value_of(i) or seen.trace["steps"][step - 1]["step"] == "add":
        raise _NotSeenError(f"page {i} runs as it was added")
    yield f"process {p} ran page {i}, which returned {value:#x}: code that step {step} wrote"
    yield seen.without_authority(p, i)


def _writable_alias(seen: _Seen, p: int, i: int, value: int) -> Iterator[str]:
    again = {(q, j): answer for q, j, answer in seen.shown("run again")}
    writers = {j: q for q, j, _ in seen.shown("write")}
    if (p, i) not in again or i not in writers or int(again[p, i], 16) == value:
        raise _NotSeenError(f"page {i} was not written while process {p} could run it")
    yield (
        f"process {p} ran page {i}, which returned {value:#x}; process {writers[i]} wrote it,"
        f" and it returned {again[p, i]}"
    )
    yield seen.without_authority(p, i)


def _unvetted_code(seen: _Seen, p: int, i: int, value: int) -> Iterator[str]:
    step = seen.content(i)
    seen.not_asked_x(step)
    yield (
        f"process {p} ran page {i}, which returned {value:#x}; its content is of step {step},"
        " in which no LSM was asked whether it may be executed"
    )
    yield seen.without_authority(p, i)


def _could(seen: _Seen, i: int, what: str) -> str:
    source = next(
        SOURCES[s["source"]].words for _, s in seen.steps() if s["step"] == "add" and s["i"] == i
    )
    if not any(answer == "EACCES" for *_, answer in seen.shown("could")):
        raise _NotSeenError("nobody tried what the source could become")
    return f"page {i} was added from {source}, to which the kernel refuses {what}"


def _noexec(seen: _Seen, p: int, i: int, value: int) -> Iterator[str]:
    if value != value_of(i):
        raise _NotSeenError(f"page {i} runs, but not as it was added")
    yield f"process {p} ran page {i}, which returned {value:#x} as it was added"
    yield _could(seen, i, "PROT_EXEC (EACCES)")


def _source_bound(seen: _Seen) -> Iterator[str]:
    for at in _broken(seen, lambda at: at["tables"] & ~at["source_may"]):
        p, i = at["p"], at["i"]
        yield seen.mapped(p, i, at["tables"])
        yield _could(seen, i, f"mprotect {mask_name(at['tables'])} (EACCES)")


def _page_bound(seen: _Seen) -> Iterator[str]:
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


def _wx_needs_write(seen: _Seen, p: int, i: int, value: int) -> Iterator[str]:
    yield (
        f"process {p} ran page {i}, which returned {value:#x}; by the design's own word it may"
        " be written, too"
    )
    yield seen.lacks(p, i, {"write"})


def _execute_needed(seen: _Seen, p: int, i: int, value: int) -> Iterator[str]:
    yield f"process {p} ran page {i}, which returned {value:#x}"
    yield seen.lacks(p, i, {"execute"})


def _asked(seen: _Seen) -> Iterator[str]:
    for at in _broken(seen, lambda at: at["access"] & X and not at["asked"]):
        p, i = at["p"], at["i"]
        yield seen.mapped(p, i, X)
        for step in seen.mapping(p, i):
            seen.not_asked_x(step)
        heard = [
            seen.words({_NAMES.get(a, a) for a in v["asked"]} & {"read", "write"})
            for step in seen.mapping(p, i)
            for v in seen.questions(step)
        ]
        words = " and ".join(dict.fromkeys(filter(None, heard))) or "nothing"
        never = "m" if seen.lsm == "apparmor" else "EXECUTE, EXECMOD or EXECMEM"
        if seen.lsm == "none":
            yield "there was no LSM to ask"
        else:
            yield f"for that the LSM was asked for {words}, not for {never}"


def _no_wx(seen: _Seen) -> Iterator[str]:
    for at in _broken(seen, lambda at: at["prot"] & W and at["prot"] & X and not at["authority"]):
        yield seen.mapped(at["p"], at["i"], W | X) + " at once"
        yield seen.without_authority(at["p"], at["i"])


def _elrange_fixed(seen: _Seen) -> Iterator[str]:
    created = False
    for number, s in seen.steps():
        created = created or s["step"] == "create"
        if created and s["step"] in ("mremap", "foreign"):
            calls = [e for e in seen.events(number) if e["event"] == "mm" and e["answer"] >= 0]
            if not calls and not _was_hole(seen, number):
                raise _NotSeenError(f"no call of step {number} changed a mapping")
            what = "moved" if s["step"] == "mremap" else "replaced by foreign memory"
            yield f"after ECREATE the mapping of page {s['i']} was {what}"
    for p, i, answer in seen.shown("left"):
        there = "memory of no enclave" if answer == "0" else f"nothing ({answer})"
        yield f"process {p} finds {there} where page {i} of the enclave was"


def _was_hole(seen: _Seen, number: int) -> bool:
    """Whether a page had been unmapped before: what lies there then is no enclave's business."""
    i = seen.trace["steps"][number - 1]["i"]
    return any(s["step"] == "munmap" and s["i"] == i for n, s in seen.steps() if n < number)


def _benign_runs(seen: _Seen, p: int, i: int, value: int) -> Iterator[str]:
    if value != value_of(i):
        raise _NotSeenError(f"page {i} runs, but not as it was added")
    yield f"process {p} ran page {i}, which returned {value:#x} as it was added"
    more = ({"execmod"}, {"execmem"}) if seen.lsm == "selinux" else ()
    yield seen.lacks(p, i, {"write", "execute"}, *more)


def _told_apart(_seen: _Seen, p: int, i: int, value: int) -> Iterator[str]:
    yield f"process {p} ran page {i} of an unmodified file, which returned {value:#x}"


def _broken(
    seen: _Seen, which: Callable[[dict[str, int]], int | bool]
) -> list[dict[str, int]]:  # fmt: skip
    found = [at for at in seen.end if which(at)]
    if not found:
        raise _NotSeenError("the trace does not say which mapping it is about")
    return found


# Of a page that ran; of the end of the trace.
_BY_RUN: dict[str, Callable[[_Seen, int, int, int], Iterator[str]]] = {
    "modified-code": _modified_code,
    "writable-alias": _writable_alias,
    "unvetted-code": _unvetted_code,
    "noexec": _noexec,
    "wx-needs-write": _wx_needs_write,
    "execute-needed": _execute_needed,
    "benign-runs": _benign_runs,
    "told-apart": _told_apart,
}
_BY_END: dict[str, Callable[[_Seen], Iterator[str]]] = {
    "source-bound": _source_bound,
    "page-bound": _page_bound,
    "asked": _asked,
    "no-wx": _no_wx,
    "elrange-fixed": _elrange_fixed,
}
_POSSIBLE = ("benign-runs", "told-apart")


def evidence(trace: dict[str, Any], taken: list[Taken]) -> Evidence:
    """Judge a replay of which each answer was as the model says."""
    name = trace["property"]
    if name not in _BY_RUN and name not in _BY_END:
        return Evidence(True, [f"{name}: nothing more is known here of what would show it"])
    seen = _Seen(trace, taken)
    lines: list[str] = []
    try:
        found = _each(seen, _BY_RUN[name]) if name in _BY_RUN else _BY_END[name](seen)
        for line in found:
            if line not in lines:
                lines.append(line)
    except _NotSeenError as e:
        return Evidence(False, [*lines, f"{name} is not seen in this run: {e}"])
    if not lines:
        return Evidence(False, [f"{name} is not seen in this run: no step is of that kind"])
    head = f"{name} is possible:" if name in _POSSIBLE else f"{name} is broken:"
    return Evidence(True, [head, *(f"  {line}" for line in lines)])
