"""The world that is explored: pages of one enclave, processes that map them, permissions.

The state is a design's own (its page and VMA schemas, `softsgx.designs`), the kernel's
(who has a descriptor, what is created), permissions that never change, and ghosts: what
properties speak of and no rule may read. Everything is 0 at first; permissions are
chosen in a first step, which no trace counts.

Simplifications, each an over-approximation of what a loader could do or no loss: a VMA
is one page long (a rule over a range asks no more than each page alone would need, or
refuses more); all addresses are fixed in advance; a process that has once mapped an RW
page of the enclave as TCS and stack, or an RX page as code, keeps it ("some page lets me
enter": pages are then independent but for mremap); code inside does whatever its pages
allow; a descriptor is never closed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from softsgx.checker.circuits.circuit import TRUE, Graph
from softsgx.checker.world.actors import CONTEXT, DEBUGGER, LATER, UNCONFINED
from softsgx.checker.world.permissions import KINDS, PROCESS2, SEGMENTS
from softsgx.checker.world.switches import Statement, switched_design
from softsgx.designs.base import Design
from softsgx.law.rule import At
from softsgx.law.state import Schema
from softsgx.law.values import RWX, Value, W, X, eq, has, ite, no
from softsgx.mm.rules import VMA

__all__ = ["ASKED", "PAGE_BYTES", "SEGMENTS", "Var", "World"]

PAGE_BYTES = 4096
BASE = 0x10000000

# Permissions on an object: bits of the variables may{p}.device and may{p}.segment{s}.
READ, WRITE, EXECUTE, EXECMOD = 1, 2, 4, 8

_GHOSTS = {
    "written": 1,  # modified since it was loaded
    "allowed": 1,  # an LSM allowed its content to be executed, somewhere
    "intact": 1,  # content of an unmodified file
    "noexec": 1,  # content of a noexec mount
    "loaded": 1,  # by EADD, from a source
    "source_may": 3,  # VM_MAY* of the source
    "demanded": 1,  # at some time the design demanded authority to run it
    "shed": 1,  # EXTEND_PERMISSIONS took something away
}

ASKED = ("asked", "here", "asked_modified")
"""Ghosts of a mapping, of questions in the calls that made it: the LSM was asked for X; its look
was at this process's own context; it was asked for what only modified or anonymous code takes."""


class Var:
    """A variable of the state: ``name`` like ``page0.perm``, its bits as literals.

    frozen: never changes after the first step.
    """

    __slots__ = ("frozen", "lits", "name")

    def __init__(self, graph: Graph, name: str, width: int, frozen: bool = False) -> None:
        self.name, self.frozen = name, frozen
        self.lits = tuple(graph.free() for _ in range(width))


class World:
    """State variables of a design with ``n_pages`` pages and ``n_processes`` processes.

    lsm: whose questions are asked: "selinux", "apparmor" or "none". open_ended: there may be
    further pages, so whether some page gives a process code to run is a variable
    (``anywhere{p}.code``) and not found in the world's own (see `softsgx.checker.proofs.anypages`).
    switched: each statement of a rule that is run has a switch, in ``switches`` by the variable's
    name (see `softsgx.checker.world.switches`). observed: moves know what each rule saw.
    alike: there may be further processes, and each may be the first: every one can open the
    device, fork, and be what another makes (see `softsgx.checker.proofs.processes`).
    interleaved: calls are split where rules let locks go (see `softsgx.checker.world.halves`).
    ``halves``: names of the calls that may be under way, by their number in a slot, from 1 on.
    actors: those of `softsgx.checker.world.actors.ACTORS` that there are.
    ``moves`` (see `softsgx.checker.world.moves`) are what can happen; ``now(name)`` is a
    variable's value before a step.
    """

    def __init__(
        self, design: Any, n_pages: int = 1, n_processes: int = 2, lsm: str = "selinux",
        *, open_ended: bool = False, alike: bool = False, switched: bool = False,
        interleaved: bool = False, observed: bool = False, actors: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.interleaved = interleaved
        self.design, self.n_pages, self.n_processes, self.lsm = design, n_pages, n_processes, lsm
        self.open_ended, self.alike, self.switched = open_ended, alike, switched
        self.observed, self.actors = observed, frozenset(actors)
        self.switches: dict[str, Statement] = {}
        self._off: dict[Statement, str] = {}
        if switched:
            self.design = switched_design(self, design)
        self.graph = Graph()
        self.vars: dict[str, Var] = {}
        self.page_schema: Schema = design.page_schema
        self.vma_schema: Schema = getattr(design, "vma_schema", VMA)
        self.has_segments = "segment" in self.page_schema.fields
        self.objects = ["device"]
        mediated = lsm == "selinux" and not getattr(design, "inode_private", 0)
        if self.has_segments and mediated:
            self.objects += [f"segment{s}" for s in SEGMENTS]
        self._declare()
        self.moves: list[Any] = []
        self.halves: tuple[str, ...] = ()
        self.argument_inputs: list[int] = []

    def _declare(self) -> None:
        add = self.add
        add("ready", 1)
        for p in range(self.n_processes):
            contexts = ("", LATER) if CONTEXT in self.actors else ("",)
            for context in contexts:
                for name in self.objects:
                    add(f"may{p}.{context}{name}", 4, frozen=True)
                more = int(self.design.sgx_permissions)
                add(f"may{p}.{context}process", 1 + len(PROCESS2) * more, frozen=True)
                add(f"may{p}.{context}file", 2 + more, frozen=True)
                if self.design.vets_sigstruct:
                    add(f"may{p}.{context}sigstruct", len(KINDS["sigstruct"]), frozen=True)
            if CONTEXT in self.actors:
                add(f"process{p}.relabelled", 1)
            for field in ("fd", "started", "entry", "code"):
                add(f"process{p}.{field}", 1)
            if self.has_segments:
                add(f"process{p}.segment_fd", 3)
            if self.open_ended:
                add(f"anywhere{p}.code", 1)
            for i in range(self.n_pages):
                for f in self.vma_schema.fields.values():
                    add(f"vma{p}_{i}.{f.name}", f.width)
                add(f"vma{p}_{i}.mapped", 1)
                for ghost in ASKED:
                    add(f"vma{p}_{i}.{ghost}", 1)
                add(f"vma{p}_{i}.hole", 1)
        for field in ("opened", "fd_writes", "created", "initialized", "disturbed"):
            add(f"enclave.{field}", 1)
        for field, width in self.design.enclave_fields.items():
            add(f"enclave.{field}", width)
        if self.design.vets_sigstruct:
            add("enclave.sigstruct_file", 1)
        if self.design.proxy:
            add("enclave.genuine", 1)  # SIGSTRUCT is the one that its file has
        if UNCONFINED in self.actors:
            add("enclave.delegated", 1)
        if DEBUGGER in self.actors:
            add("enclave.debug", 1)
        if self.lsm == "apparmor":  # what it remembers of the device's file
            add("enclave.granted", 3)
            for p in range(self.n_processes):
                add(f"process{p}.checked", 1)
                add(f"process{p}.heard", 1)
                if CONTEXT in self.actors:
                    add(f"process{p}.left", 1)
        for i in range(self.n_pages):
            for f in self.page_schema.fields.values():
                if f.name != "mapped":  # found in the mappings, not kept
                    add(f"page{i}.{f.name}", f.width)
            for name, width in _GHOSTS.items():
                add(f"ghost{i}.{name}", width)
            if self.design.proxy:
                add(f"ghost{i}.signed", 1)  # measured, and as it was then

    def add(self, name: str, width: int, frozen: bool = False) -> None:
        """Another variable of the state."""
        self.vars[name] = Var(self.graph, name, width, frozen)

    def switch(self, statement: Statement) -> Value:
        """Whether a statement is off: 0, or a variable that never changes in a switched world."""
        if not self.switched:
            return 0
        if statement not in self._off:
            name = f"off.{len(self._off)}"
            self._off[statement] = name
            self.switches[name] = statement
            self.add(name, 1, frozen=True)
        return self.now(self._off[statement])

    def now(self, name: str) -> Value:
        """A variable before the step."""
        return self.current(name, self.first)

    def first(self, name: str) -> Value:
        """As `now`; of a permission that of the context that a process has at first."""
        return self.graph.value(self.vars[name].lits)

    def contexts(self) -> list[Callable[[str], Value]]:
        """The permissions on an object, by its kind, of each context that a process may have."""
        kinds = ("", LATER) if CONTEXT in self.actors else ("",)
        owners = [f"may{p}.{context}" for p in range(self.n_processes) for context in kinds]
        return [partial(self._held, owner) for owner in owners]

    def _held(self, owner: str, kind: str) -> Value:
        return self.first(owner + kind)

    def current(self, name: str, get: Callable[[str], Value]) -> Value:
        """A variable's value by ``get``; of a permission that of the context that a process has."""
        if CONTEXT in self.actors and name.startswith("may"):
            owner, _, kind = name.partition(".")
            if not kind.startswith(LATER):
                changed = get(f"process{owner[3:]}.relabelled")
                return ite(changed, get(f"{owner}.{LATER}{kind}"), get(name))
        return get(name)

    @property
    def state_bits(self) -> int:
        """The number of bits of the state, permissions included."""
        return sum(len(v.lits) for v in self.vars.values())

    # -- what rules and properties look at -----------------------------------------------

    def page_bound(self, page: Any) -> Value:
        """The page's own maximum, in the design's terms; RWX where it has none.

        A design may have a method ``page_bound(page)``; else the fields tell.
        """
        own = getattr(self.design, "page_bound", None)
        if own is not None:
            return own(page)
        for field in ("vm_may", "segment", "bound"):
            if field in self.page_schema.fields:
                return getattr(page, field)
        return page.max if getattr(self.design, "may_map", None) is not None else RWX

    def demands_authority(self, page: Any) -> Value:
        """The condition that running the page needs what modified code needs, by the design."""
        own = getattr(self.design, "demands_authority", None)
        if own is not None:
            return own(page)
        if "safe" in self.page_schema.fields:
            return no(page.safe)
        return has(self.page_bound(page), W | X)

    def holds(self, p: int, vma: Any) -> Value:
        """The permissions of process ``p`` on the object that a VMA is of.

        An inode that is S_PRIVATE has no permissions: there EXECMEM stands for all. So has
        a segment to AppArmor, which knows no EXECMEM either; without an LSM nobody holds any.
        """
        if self.lsm == "none":
            return 0
        device = self.now(f"may{p}.device")
        if not self.has_segments:
            return device
        execmem = has(self.now(f"may{p}.process"), 1)
        mask: Value = device
        for s in SEGMENTS:
            if len(self.objects) > 1:
                held = self.now(f"may{p}.segment{s}")
            elif self.lsm == "apparmor":
                held = 0
            else:
                held = ite(execmem, READ | WRITE | EXECUTE | EXECMOD, READ)
            mask = ite(eq(vma.segment, s), held, mask)
        return mask

    def authority(self, p: int, i: int) -> Value:
        """The condition that ``p`` may run modified code through its VMA of page ``i``."""
        device = self.holds(p, self.vma_now(p, i))
        ways = self.design.authority if self.lsm == "selinux" else Design.authority
        found: Value = 0
        for way in ways:
            every: Value = 1
            for kind, name in way:
                held = device if kind == "device" else self.now(f"may{p}.{kind}")
                every = every & has(held, 1 << KINDS[kind].index(name))
            found = found | every
        return found

    def page_now(self, i: int) -> Any:
        """Page ``i`` before the step, read-only."""
        prefix = f"page{i}."
        return At(**{n[len(prefix) :]: self.now(n) for n in self.vars if n.startswith(prefix)})

    def vma_now(self, p: int, i: int) -> Any:
        """The VMA of process ``p`` over page ``i`` before the step, read-only."""
        prefix = f"vma{p}_{i}."
        return At(**{n[len(prefix) :]: self.now(n) for n in self.vars if n.startswith(prefix)})

    def enclave_now(self) -> Any:
        """The enclave before the step, read-only."""
        fields = ("created", "initialized", *self.design.enclave_fields)
        return At(**{name: self.now(f"enclave.{name}") for name in fields}, dead=0)

    def place(self, p: int, i: int) -> At:
        """The place of an access: page ``i`` through the VMA of process ``p``."""
        return At(page=self.page_now(i), vma=self.vma_now(p, i), enclave=self.enclave_now())

    def access(self, p: int, i: int) -> Value:
        """What code inside can do with page ``i`` in process ``p``: a mask."""
        return self.design.accessible(self.place(p, i))

    def page_tables(self, p: int, i: int) -> Value:
        """What the page tables of process ``p`` allow for page ``i``: a mask."""
        return self.design.page_tables(self.place(p, i))

    def enters(self, p: int) -> Value:
        """The condition that process ``p`` can enter the enclave, and run some code of it."""
        code: Value = self.now(f"process{p}.code")
        if self.open_ended:
            code = code | self.now(f"anywhere{p}.code")
        else:
            for i in range(self.n_pages):
                code = code | has(self.access(p, i), X)
        return self.now("enclave.initialized") & self.now(f"process{p}.entry") & code

    def runs(self, p: int, i: int) -> Value:
        """The condition that process ``p`` runs page ``i``."""
        return self.enters(p) & has(self.access(p, i), X)

    def runs_unprivileged(self, p: int, i: int) -> Value:
        """The condition that process ``p`` runs page ``i`` without authority."""
        return self.runs(p, i) & no(self.authority(p, i))

    def pairs(self) -> list[tuple[int, int]]:
        """Every process with every page."""
        return [(p, i) for p in range(self.n_processes) for i in range(self.n_pages)]

    def some(self, conditions: Any) -> int:
        """The literal: one of the conditions holds, and permissions are chosen."""
        g = self.graph
        found = g.any_of(g.truth(c) for c in conditions)
        return g.and_(found, self.vars["ready"].lits[0])

    def where(self, assignment: dict[str, int]) -> int:
        """The literal: these variables have these values."""
        return (
            self.graph.all_of(self.graph.truth(eq(self.now(n), v)) for n, v in assignment.items())
            if assignment
            else TRUE
        )
