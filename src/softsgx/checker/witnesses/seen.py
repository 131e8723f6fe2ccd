"""What was seen of a trace that real processes took: answers, and what was recorded.

Asked by step, process and page; whatever is not there raises NotSeenError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softsgx.checker.witnesses.confine import (
    CHANGES,
    SIGSTRUCT_TYPE,
    SOURCE_TYPE,
    device_of,
    label_of,
)
from softsgx.checker.witnesses.order import Order, copied_from, value_of
from softsgx.checker.world.permissions import PROCESS2
from softsgx.designs.base import Design
from softsgx.designs.registry import DESIGNS
from softsgx.law.values import mask_name

__all__ = ["NAMES", "NotSeenError", "Seen", "Taken"]

_PROT = 2  # where mmap and mprotect have their prot
_ORDER = (
    "read", "write", "execute", "execmod", "execmem", *PROCESS2, "file execmod",
    "sigstruct execmod",
)  # fmt: skip
_CALLS = {
    "mmap": "mmap", "mmap-segment": "mmap", "map-segment": "SGX_IOC_MAP_SEGMENT",
    "mprotect": "mprotect", "ioc-mprotect": "SGX_IOC_MPROTECT",
}  # fmt: skip
_FILES = {"file": SOURCE_TYPE, "sigstruct": SIGSTRUCT_TYPE}
_X_PERMS = {"execute", "execmod", "execmem", "sgx_execanon", "sgx_execute"}
_MODIFIED = {"execmod", "execmem", *PROCESS2}
NAMES = {"r": "read", "w": "write", "m": "execute"}
"""AppArmor's letters, as permissions of an inode."""


def _plain(kind: str, name: str) -> str:
    """A permission as `Seen.granted` has it: the files' own are told from the device's."""
    return f"{kind} {name}" if kind in _FILES else name


class Taken:
    """An order that was given: the ``answer`` of the program, the recording's ``events`` of it."""

    __slots__ = ("answer", "events", "order")

    def __init__(self, order: Order, answer: str, events: list[dict[str, Any]]) -> None:
        self.order, self.answer, self.events = order, answer, events


class NotSeenError(Exception):
    """The run does not show it."""


class Seen:
    """A trace and what came of its orders."""

    def __init__(self, trace: dict[str, Any], taken: list[Taken]) -> None:
        self.trace, self.taken = trace, taken
        self.lsm: str = trace["lsm"]
        self.end: list[dict[str, int]] = trace.get("end", [])

    # -- what was called -------------------------------------------------------------------

    def steps(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The steps with their numbers; of a call in halves the second, if it was not refused."""
        for number, step in enumerate(self.trace["steps"], 1):
            if step.get("part", 2) == 2:
                yield number, step

    def value(self, i: int) -> int:
        """What page ``i`` returns as it was added."""
        raced = False
        for _, s in self.steps():
            if s["step"] == "add" and s["i"] == i:
                raced = copied_from(s) != s["source"]
        return value_of(i, raced)

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
            raise NotSeenError("no page was run")
        return found

    def mapping(self, p: int, i: int) -> list[int]:
        """The steps that made the mapping of page ``i`` in process ``p`` what it is."""
        made: dict[tuple[int, int], list[int]] = {}
        for number, s in self.steps():
            name, place = s["step"], (s["p"], s.get("i", -1))
            if name in ("mmap", "mmap-segment", "map-segment"):
                made[place] = [number]
            elif name in ("mprotect", "ioc-mprotect", "remap"):
                made[place] = [*made.get(place, []), number]
            elif name == "mremap":
                made[s["p"], s["j"]] = made.pop(place, [])
            elif name in ("munmap", "foreign"):
                made.pop(place, None)
            elif name == "fork":
                made |= {(s["q"], j): steps for (q, j), steps in made.items() if q == s["p"]}
            elif name == "exec":
                made = {place: steps for place, steps in made.items() if place[0] != s["p"]}
        return made.get((p, i), [])

    def mapped(self, p: int, i: int, prot: int) -> str:
        """That the last call which made the mapping gave it ``prot``, in words."""
        # remap_file_pages keeps what the mapping had.
        steps = [n for n in self.mapping(p, i) if self.trace["steps"][n - 1]["step"] != "remap"]
        if not steps:
            raise NotSeenError(f"process {p} made no mapping of page {i}")
        call = _CALLS[self.trace["steps"][steps[-1] - 1]["step"]]
        for event in self.events(steps[-1]):
            name = event.get("name", event.get("call"))
            of_v20 = self.trace["design"] == "v20" and name == "mprotect"  # maps wholes by mmap
            if event.get("answer", -1) >= 0 and (name == call or of_v20):
                got = event["args"]["prot"] if event["event"] == "ioctl" else event["args"][_PROT]
                if got & prot == prot:
                    return f"{name} gave process {p} page {i} {mask_name(got)}"
        raise NotSeenError(f"no {call} gave process {p} page {i} {mask_name(prot)}")

    def content(self, i: int) -> int:
        """The step that page ``i`` has its content from."""
        kinds = ("add", "write", "debug", "eacceptcopy", "augment", "touch")
        steps = [n for n, s in self.steps() if s.get("i") == i and s["step"] in kinds]
        if not steps:
            raise NotSeenError(f"nothing came into page {i}")
        return steps[-1]

    # -- what the LSM was asked ------------------------------------------------------------

    def label(self, p: int) -> str:
        """The label that a process has at the end: a child of fork has its parent's of then."""
        labels = {q: label_of(self.lsm, q) for q in range(self.trace["processes"])}
        for _, s in self.steps():
            if s["step"] == "fork":
                labels[s["q"]] = labels[s["p"]]
            elif s["step"] in CHANGES:
                labels[s["p"]] = label_of(self.lsm, s["p"], later=True)
        return labels[p]

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
                found |= {NAMES.get(a, a) for a in v["asked"]}
            if mine and not v["denied"] and v["tclass"] == "process2":
                found |= set(v["asked"])
            for kind, label in _FILES.items() if mine and not v["denied"] else ():
                own = kind == "sigstruct" and v["tclass"] == "enclave"
                if own or (v["tclass"] == "file" and label in v["target"].split(":")):
                    found |= {f"{kind} {a}" for a in v["asked"]}
        return found & set(_ORDER)

    def words(self, perms: set[str]) -> str:
        """Permissions by the names of the LSM."""
        names = {v: k for k, v in NAMES.items()} if self.lsm == "apparmor" else {}
        return " ".join(names.get(n, n.upper()) for n in _ORDER if n in perms)

    def lacks(self, p: int, i: int, *sets: set[str]) -> str:
        """That process ``p`` was not granted all of any of these sets, in words."""
        if self.lsm == "none":
            return "no LSM could have been asked"
        got = self.granted(p, i)
        for s in sets:
            if s <= got:
                raise NotSeenError(f"process {p} was granted {self.words(s)}")
        own = {"execmem", "file execmod", "sigstruct execmod", *PROCESS2}
        words = self.words(got - own) or "nothing"
        also = " (and EXECMEM on itself)" if "execmem" in got else ""
        return (
            f"the LSM granted process {p} {words} on what it mapped{also},"
            f" never {' or '.join(map(self.words, sets))}"
        )

    def without_authority(self, p: int, i: int) -> str:
        """That process ``p`` was not granted what running modified code takes."""
        cls = DESIGNS.get(self.trace["design"])
        if self.lsm == "apparmor" or cls is None:
            ways = Design.authority[:1] if self.lsm == "apparmor" else Design.authority
        else:
            ways = cls(**self.trace["options"]).authority
        return self.lacks(p, i, *({_plain(*one) for one in way} for way in ways))

    def not_asked_x(self, step: int) -> str:
        """Nobody granted anything like EXECUTE in a step: what was denied, in words, or ""."""
        denied: set[str] = set()
        for v in self.questions(step):
            asked = {NAMES.get(a, a) for a in v["asked"]} & _X_PERMS
            if asked and v["denied"]:
                denied |= asked
            elif asked:
                raise NotSeenError(f"{self.words(asked)} was asked for in step {step}")
        return " ".join(sorted(name.upper() for name in denied))

    def not_asked_of(self, p: int, steps: list[int]) -> str:
        """That process ``p``'s own context was not asked about X in these steps, in words."""
        others = set()
        for v in (v for step in steps for v in self.questions(step)):
            if {NAMES.get(a, a) for a in v["asked"]} & _X_PERMS:
                if self.label(p) in v["subject"].split(":"):
                    raise NotSeenError(f"process {p} was asked about")
                others.add(v["subject"])
        if self.lsm == "none":
            return "there was no LSM to ask"
        instead = f"; {' and '.join(sorted(others))} was" if others else ""
        return f"for that the LSM was not asked about X of {self.label(p)}{instead}"

    def not_as_modified(self, p: int, i: int) -> str:
        """That no question for the mapping of a page was one that a file's code would not take."""
        for v in (v for step in self.mapping(p, i) for v in self.questions(step)):
            asked = {NAMES.get(a, a) for a in v["asked"]}
            if asked & _MODIFIED or {"write", "execute"} <= asked:
                raise NotSeenError(f"{self.words(asked)} was asked for")
        return f"nor for the mapping, as of modified code, of process {p}"
