"""One kind of step, built by running a design's rules on the state's variables.

A `Move` is the context that evaluates the rules: `need` adds to its guard, `ask` becomes
the LSM's questions (`softsgx.lsm.selinux`, `softsgx.lsm.apparmor`) over permissions that are
left open, and assignments give the next state. So a step is exactly what the device would do.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from errno import errorcode
from typing import Any

from softsgx.checker.circuits.circuit import Chosen
from softsgx.checker.world.actors import CONTEXT, UNCONFINED
from softsgx.checker.world.cells import OfSource, StateCell
from softsgx.checker.world.permissions import PROCESS2, SEGMENTS
from softsgx.checker.world.seen import Seen
from softsgx.checker.world.sources import FILE_EXECMOD, FILE_EXECUTE, FILE_SGX_EXECUTE
from softsgx.checker.world.switches import ASK, EFFECT, NEED, Statement
from softsgx.checker.world.world import ASKED, EXECMOD, READ, World
from softsgx.errors import InternalError
from softsgx.law.rule import LOCKS, At, Request
from softsgx.law.values import RWX, Value, W, X, eq, has, implies, ite, no, subset
from softsgx.lsm import apparmor, selinux

__all__ = ["GHOSTS_OF_ASKING", "IOCTL_LOCK", "MMAP_LOCK", "Mark", "Move"]

MMAP_LOCK, IOCTL_LOCK = LOCKS
GHOSTS_OF_ASKING = (*ASKED, "vetted", "vouched")
"""What a move knows of the LSM's answers."""

_HOOKS = {"selinux": selinux.SelinuxHooks(), "apparmor": apparmor.AppArmorHooks()}
# What every process is granted: not what the thread is about.
_GRANTED = (
    selinux.MAP | selinux.OPEN | selinux.IOCTL | selinux.CREATE | selinux.GETATTR | selinux.SETATTR
)


class Mark:
    """Where a rule lets locks go (`softsgx.law.rule.Context.unlocked`)."""

    __slots__ = ("held", "source", "what")

    def __init__(self, what: str, source: str, held: tuple[str, ...]) -> None:
        self.what, self.source, self.held = what, source, held


class Move:
    """A kind of step: ``name`` and who does it, its arguments, guard and next state.

    args: (name, width in bits) of what the one who acts chooses. guard: a literal.
    new: the next value, as literals, of each variable that changes. rules: the names of the
    design's rules that it ran, in their order; running: those that run now; outer: those that no
    other ran; seen: what each saw, in an observed world. asks: (target, permissions, segment) of
    each question of the LSM, the permissions 0 where it is none.
    marks: where its rules let locks go. takes: the locks that the call takes, with the process
    whose they are. deferred: variables that change when the call ends, whatever its rules do
    first. sources: the memory that it copies from. looks_again: what it saw without mmap_lock it
    looks at once more with it.
    """

    def __init__(self, world: World, name: str, inputs: list[int], **meta: int | str) -> None:
        self.world, self.name, self.meta = world, name, meta
        self.args: list[tuple[str, int]] = []
        self.arg_lits: list[tuple[int, ...]] = []
        self._inputs = inputs
        self._used = self._anything_said = 0
        self.guard = world.vars["ready"].lits[0]
        self.new: dict[str, tuple[int, ...]] = {}
        self.asked = dict[str, Value].fromkeys(ASKED, 0)
        self.vetted: Value = 0
        self.vouched: Value = 0
        self.rules = dict[str, None]()
        self.running, self.outer = list[str](), list[str]()
        self.seen: dict[str, Seen] = {}
        self.asks: list[tuple[str, Value, Value]] = []
        self.marks: list[Mark] = []
        self.takes: set[tuple[str, int]] = set()
        self.deferred: set[str] = set()
        self.looks_again, self.sources = False, list[Any]()
        self.enclave = StateCell(self, "enclave.", dict.fromkeys(("dead", "size"), lambda: 0))

    def arg(self, name: str, width: int, chosen: bool = False) -> Any:
        """An argument; ``chosen``: it is not 0."""
        g = self.world.graph
        while len(self._inputs) < self._used + width:
            self._inputs.append(g.free())
        lits = tuple(self._inputs[self._used : self._used + width])
        self._used += width
        self.args.append((name, width))
        self.arg_lits.append(lits)
        return self.chosen_value(g.value(lits), chosen)

    def chosen_value(self, value: Any, chosen: bool) -> Any:
        """An argument's value; ``chosen``: one that is not 0."""
        if chosen:
            g = self.world.graph
            self.require(g.value([g.any_of(value.lits)]))
            return Chosen(g, value.lits)
        return value

    # -- state ---------------------------------------------------------------------------

    def get(self, name: str) -> Value:
        """A variable, as this move has left it so far."""
        return self.world.current(name, self._so_far)

    def _so_far(self, name: str) -> Value:
        lits = self.new.get(name)
        return self.world.graph.value(self.world.vars[name].lits if lits is None else lits)

    def set(self, name: str, value: Value) -> None:
        """Assign a variable."""
        self.new[name] = self.world.graph.lits(value, len(self.world.vars[name].lits))

    def assign(self, name: str, value: Value) -> None:
        """Assign a variable as a rule does, which may be switched off."""
        cell, _, field = name.partition(".")
        kind = cell.rstrip("0123456789_")
        self.set(name, self.said(f"{kind}.{field}", value, len(self.world.vars[name].lits)))

    def said(self, field: str, value: Value, width: int) -> Value:
        """What a rule assigns to a field: anything, where that is switched off."""
        off = self.off(EFFECT, field)
        return value if isinstance(off, int) else ite(off, self._anything(field, width), value)

    def _anything(self, what: str, width: int) -> Any:
        """What stands there where a statement is off."""
        self._anything_said += 1
        return self.arg(f"any {what} #{self._anything_said}", width)

    def off(self, kind: str, what: str) -> Value:
        """Whether what the rule that runs now says is switched off; 0 if no rule runs."""
        if not self.running:
            return 0
        return self.world.switch(Statement(self.running[-1], kind, what))

    def require(self, cond: Value) -> None:
        """The move is possible only where the condition holds."""
        g = self.world.graph
        self.guard = g.and_(self.guard, g.truth(cond))

    # -- the context of rules --------------------------------------------------------------

    def need(self, errno: int, cond: Value, why: str = "") -> None:
        """The step happens where every condition holds."""
        if not isinstance(cond, int) or not cond:
            cond = cond | self.off(NEED, why or errorcode.get(errno, str(errno)))
        self.require(cond)

    def leaf(self, rule: Callable[..., None], at: Any, r: Any, **_errnos: int) -> None:
        """An instruction's conditions are the move's."""
        rule(self, at, r)

    def unlocked(
        self, _at: Any, what: str, *, source: str, held: tuple[str, ...] = (), **kept: Value
    ) -> Any:
        """Here it can be split (`softsgx.checker.world.halves`); by itself it is one step."""
        self.marks.append(Mark(what, source, held))
        return At(**kept)

    def ask(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> None:
        """The module's questions of a hook, if it has it."""
        off = self.off(ASK, hook)
        self.require(self._granted(hook, at, ite(off, 0, when), what))

    def granted(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> Value:
        """The condition that what a hook asks is held; in ``vetted``: that of content was asked."""
        off = self.off(ASK, hook)
        held = self._granted(hook, at, ite(off, 0, when), what)
        return held if isinstance(off, int) else ite(off, self._anything(hook, 1), held)

    def _granted(self, hook: str, at: Any, when: Value, what: dict[str, Value]) -> Value:
        rule = getattr(_HOOKS.get(self.world.lsm), hook, None)
        questions = _Questions(self, when)
        if rule is not None:
            rule(questions, at, Request(**what))
            self.vetted = self.vetted | (questions.vets & questions.held)
            self.vouched = self.vouched | (questions.vouches & questions.held)
            if self.world.lsm == "apparmor" and "prot" in what:
                # It heard of X, whether it remembered an answer or not.
                heard = ite(when, what["prot"], 0)
                if hook in ("mmap_file", "file_mprotect"):
                    x = has(heard, X) & no(at.file.unmediated) & no(questions.delegated(at, None))
                    self.hears("asked", x)
                    self.hears("here", x & self.get(f"process{at.process.index}.heard"))
        return questions.held

    def asked_so_far(self, name: str) -> Value:
        """What this move knows of the LSM's answers: one of `GHOSTS_OF_ASKING`."""
        known: Value = self.asked[name] if name in self.asked else getattr(self, name)
        return known

    def take_asked(self, name: str, value: Value) -> None:
        """Know that of the LSM's answers."""
        if name in self.asked:
            self.asked[name] = value
        else:
            setattr(self, name, value)

    def hears(self, ghost: str, when: Value) -> None:
        """Note what the LSM is asked in this move: one of `ASKED`."""
        self.asked[ghost] = self.asked[ghost] | when

    def heard(self, p: int, i: int, *, more: bool = False) -> None:
        """Keep with a mapping what was asked for it; more: beside what was asked before."""
        for ghost, value in self.asked.items():
            name = f"vma{p}_{i}.{ghost}"
            self.set(name, value | (self.get(name) if more else 0))

    # -- places ----------------------------------------------------------------------------

    def process(self, p: int) -> Any:
        """A process as rules see it."""
        return At(index=p, read_implies_exec=0)

    def page(self, i: int, p: int | None = None) -> StateCell:
        """Page ``i``; p: the process whose mapping of it is about to be replaced."""
        given: dict[str, Callable[[], Value]] = {}
        if "mapped" in self.world.page_schema.fields:
            others = [q for q in range(self.world.n_processes) if q != p]

            def mapped() -> Value:
                return self.together((self.get(f"vma{q}_{i}.prot") for q in others), 3)

            # Of further processes it is an argument, which is one.
            given["mapped"] = functools.cache(mapped) if self.world.alike else mapped
        return StateCell(self, f"page{i}.", given)

    def together(self, masks: Iterable[Value], width: int) -> Value:
        """What any of the processes has; where there may be further ones, these and more."""
        if not self.world.alike:
            return functools.reduce(operator.or_, masks, 0)
        every = self.arg(f"every{len(self.args)}", width)
        for mask in masks:
            self.require(subset(mask, every))
        return every

    def vma(self, p: int, i: int) -> StateCell:
        """The VMA of process ``p`` over page ``i``."""
        return StateCell(self, f"vma{p}_{i}.")


class _Questions:
    """The side of `softsgx.lsm.hooks.Facts`, and permissions that are variables."""

    def __init__(self, move: Move, when: Value) -> None:
        self._move, self._when = move, when
        self.held: Value = 1
        self.vets: Value = 0
        self.vouches: Value = 0

    def need(self, _errno: int, cond: Value, _why: str = "") -> None:
        """What was asked is held."""
        self.held = self.held & cond

    def noaudit(self) -> None:
        """Nothing here is logged."""

    def source(self, at: Any) -> tuple[Any, Any]:
        """The file behind a source, S_PRIVATE where there is none."""
        obj = OfSource(at.source.anonymous)
        return At(file=obj, process=at.process, area=None), obj

    def origins(self, at: Any, origin: Value, changed: Value) -> list[tuple[Any, Any, Value]]:
        """All files that pages come from are one here."""
        obj = OfSource(eq(origin, 0))
        return [(At(file=obj, process=at.process, area=None), obj, changed)]

    def sigstruct(self, at: Any) -> tuple[Any, Any]:
        """The file that SIGSTRUCT was in, S_PRIVATE where there is none."""
        obj = OfSource(no(self._move.get("enclave.sigstruct_file")), "sigstruct")
        return At(file=obj, process=at.process, area=None), obj

    def av(self, at: Any, target: str, perms: Value, **_cmd: int) -> None:
        """The process holds ``perms`` on the target."""
        move, world = self._move, self._move.world
        p = at.process.index
        perms = ite(self._when, perms, 0)
        if target in (selinux.ENCLAVE, selinux.OWN_ENCLAVE):
            move.asks.append((target, perms, 0))
            self.need(0, subset(perms, move.get(f"may{p}.sigstruct")))
            move.hears("asked_modified", has(perms, selinux.ENCLAVE_EXECMOD))
            if target == selinux.ENCLAVE:
                self.vouches = self.vouches | no(eq(perms, 0))
            return
        if target == selinux.INODE and isinstance(at.file, OfSource):
            self._of_file(p, perms, at.file.kind)
            return
        segment: Value = 0
        if target in (selinux.PROCESS, selinux.PROCESS2, selinux.INODE):
            segment = at.file.segment if target == selinux.INODE else 0
            move.asks.append((target, perms, segment))
        if target == selinux.PROCESS:
            execmem = has(move.get(f"may{p}.process"), 1)
            self.need(0, subset(perms, ite(execmem, selinux.EXECMEM, 0)))
            asked = has(perms, selinux.EXECMEM)
            self.vets = self.vets | asked
            self._hears(p, asked, asked)
        elif target == selinux.PROCESS2:
            own = move.get(f"may{p}.process")
            granted: Value = 0
            for k in range(len(PROCESS2)):
                granted = granted | ite(has(own, 2 << k), 1 << k, 0)
            self.need(0, subset(perms, granted))
            anonymous = has(perms, selinux.SGX_EXECANON) | has(perms, selinux.ENCLAVE_EXECANON)
            self.vets = self.vets | anonymous
            move.hears("asked_modified", no(eq(perms, 0)))
        elif target == selinux.INODE:
            held: Value = move.get(f"may{p}.device")
            for s in SEGMENTS if world.has_segments else ():
                name = f"may{p}.segment{s}"
                if name in world.vars:
                    held = ite(eq(segment, s), move.get(name), held)
            # world's EXECMOD bit is SELinux's mask's bit 6.
            held = (held & RWX) | ite(has(held, EXECMOD), selinux.EXECMOD, 0) | _GRANTED
            self.need(0, subset(perms, held))
            modified = has(perms, selinux.EXECMOD)
            both = has(perms, selinux.WRITE | selinux.EXECUTE)
            self._hears(p, has(perms, selinux.EXECUTE) | modified, modified | both)
        elif target != selinux.FD:  # whose use is granted
            raise InternalError(f"the checker knows no permissions of {target!r}")

    def _hears(self, p: int, x: Value, code: Value) -> None:
        """Process ``p`` is asked about: for X, for what only other code than a file's takes."""
        self._move.hears("asked", x)
        self._move.hears("here", x & int(p == self._move.meta["p"]))
        self._move.hears("asked_modified", code)

    def _of_file(self, p: int, perms: Value, kind: str) -> None:
        """Of the file that a page comes from: EXECUTE, EXECMOD, SGX_EXECUTE; others are granted.

        Of SIGSTRUCT's the same: it says nothing of any content, but of what is measured under it
        where the design has it for a proxy (`Builder.vouched`).
        """
        move = self._move
        own, held, asked = move.get(f"may{p}.{kind}"), _GRANTED | RWX & ~selinux.EXECUTE, self.vets
        for bit, perm in (
            (FILE_EXECUTE, selinux.EXECUTE), (FILE_EXECMOD, selinux.EXECMOD),
            (FILE_SGX_EXECUTE, selinux.SGX_EXECUTE),
        ):  # fmt: skip
            held = held | ite(has(own, bit), perm, 0)
            asked = asked | has(perms, perm)
        move.asks.append((kind, perms, 0))
        self.need(0, subset(perms, held))
        move.hears("asked_modified", has(perms, selinux.EXECMOD))
        if kind == "file":
            self.vets = asked
        else:
            self.vouches = self.vouches | has(perms, selinux.EXECUTE) | has(perms, selinux.EXECMOD)

    # AppArmor remembers of a file which permissions were granted on it, and for which
    # profiles. Here profiles that allow the same are one, for they give the same answers.

    def _may(self, p: int) -> Value:
        return self._move.get(f"may{p}.device") & RWX

    def _profiles(self) -> list[tuple[str, Value]]:
        """Where it is kept whether the file was checked for a profile, and what that allows."""
        every = [(f"process{q}.checked", self._may(q)) for q in range(self._move.world.n_processes)]
        if CONTEXT in self._move.world.actors:
            world = self._move.world
            left = [world.first(f"may{q}.device") & RWX for q in range(world.n_processes)]
            every += [(f"process{q}.left", may) for q, may in enumerate(left)]
        return every

    def _checked_others(self, p: int) -> list[tuple[Value, Value]]:
        """Whether the file was checked for profiles other than ``p``'s, and what each allows."""
        move, own = self._move, self._may(p)
        return [(move.get(name) & no(eq(may, own)), may) for name, may in self._profiles()]

    def path(self, at: Any, _obj: Any, op: str, mask: Value, others: Value = 0) -> None:
        """AppArmor: the profile allows r, w and m; m is the bit of EXECUTE.

        Linux __file_path_perm(): this profile if it is new to the file; then, for what
        is new, those that are not: where there are any, a profile that is known is not asked.
        """
        move, p = self._move, at.process.index
        mask = ite(self._when, mask, 0)
        if isinstance(at.file, OfSource):
            asked = has(mask, apparmor.M)
            move.asks.append((f"path-{at.file.kind}", mask, 0))
            self.need(0, implies(asked, has(move.get(f"may{p}.{at.file.kind}"), FILE_EXECUTE)))
            if at.file.kind == "file":
                self.vets = self.vets | asked
            else:
                self.vouches = self.vouches | asked
            return
        move.asks.append(("path", mask, 0))
        known = self._checked_others(p)
        again = others & no(move.together([value for value, _ in known], 1))
        own: Value = 1 if op == "open" else no(move.get(f"process{p}.checked")) | again
        self.need(0, subset(ite(own, mask, 0), self._may(p)))
        move.hears("asked_modified", has(mask, W | apparmor.M))
        x = own & has(mask, apparmor.M)
        for q in range(move.world.n_processes):
            same = x & eq(self._may(q), self._may(p))
            move.set(f"process{q}.heard", move.get(f"process{q}.heard") | same)
        for value, may in known:
            self.need(0, subset(ite(others & value, mask, 0), may))

    def unconfined(self, _at: Any) -> Value:
        """Every process is confined."""
        return 0

    def delegated(self, at: Any, _obj: Any) -> Value:
        """Whether the device was opened by an unconfined process; no other file was."""
        if UNCONFINED not in self._move.world.actors or isinstance(at.file, OfSource):
            return 0
        return self._move.get("enclave.delegated")

    def checked(self, at: Any, _obj: Any) -> Value:
        """Whether the file was checked for no other profile."""
        known = self._checked_others(at.process.index)
        return no(self._move.together([value for value, _ in known], 1))

    def remember(self, at: Any, _obj: Any, mask: Value) -> None:
        """What was granted on the device's file, and for whom."""
        move, p = self._move, at.process.index
        if isinstance(at.file, OfSource):
            return
        mask = ite(self._when, mask, 0)
        move.set("enclave.granted", move.get("enclave.granted") | mask)
        for name, may in self._profiles():
            same = no(eq(mask, 0)) & eq(may, self._may(p))
            move.set(name, move.get(name) | same)

    def mapped(self, at: Any) -> Any:
        """Every mapping here is of the enclave's file."""
        return at.file

    def from_other(self, _at: Any, _obj: Any) -> Value:
        """Use of another label's descriptor is granted."""
        return 0

    def in_heap(self, _at: Any) -> Value:
        """An enclave is neither heap nor stack, and has no privately modified pages."""
        return 0

    in_stack = modified = in_heap

    def label_anon_inode(self, _at: Any, _name: str) -> None:
        """Each segment has a label of its own."""


assert READ == selinux.READ
