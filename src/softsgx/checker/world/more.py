"""The steps of actors that a world has if they are asked for (`softsgx.checker.world.actors`)."""

from __future__ import annotations

from softsgx.checker.world.actors import CONTEXT, DEBUGGER, LATER, REMAP, UNCONFINED
from softsgx.checker.world.builder import Builder
from softsgx.checker.world.cells import File
from softsgx.checker.world.mapping import mapping_over
from softsgx.checker.world.move import Move
from softsgx.checker.world.switches import VALUE, Statement
from softsgx.law.rule import Request
from softsgx.law.values import RW, R, Value, W, eq, implies, ite, no
from softsgx.sdm.leaves import ATTR_DEBUG, PT_REG, PT_TCS, PT_TRIM

__all__ = ["choose_debug", "context_moves", "debug_moves", "inherit_moves", "remap_moves"]


def context_moves(b: Builder, p: int) -> None:
    """Setcon and change_profile; execve of a program with another context.

    That the policy allows the change (process:dyntransition, transition, change_profile) is
    granted: what follows from it is the question.
    """
    if CONTEXT not in b.world.actors or b.world.lsm == "none":
        return  # without an LSM there is no context
    m = b.start("setcon", p=p)
    _started(b, m, p)
    _changes(b, m, p)
    b.done(m)
    m = b.start("exec", p=p)
    _started(b, m, p)
    m.require(m.get(f"process{p}.fd"))  # else nothing is left of the enclave
    _changes(b, m, p)
    for name in b.world.vars:
        if name.startswith(f"vma{p}_"):
            m.set(name, 0)
    for field in ("entry", "code"):
        m.set(f"process{p}.{field}", 0)
    m.ask("file_receive", b.at(m, p, file=File(m)))
    if b.world.has_segments:
        name = f"process{p}.segment_fd"
        segment = m.get(name)
        kept = m.granted("file_receive", b.at(m, p, file=File(m, segment)))
        m.set(name, ite(kept, segment, 0))
    b.done(m)


def _started(b: Builder, m: Move, p: int) -> None:
    m.require(m.get(f"process{p}.started") if p and not b.world.alike else 1)
    m.require(no(m.get(f"process{p}.relabelled")))


def _changes(b: Builder, m: Move, p: int) -> None:
    """New credentials. Nobody was asked of them about the mappings that there are."""
    world = b.world
    for i in range(world.n_pages):
        m.set(f"vma{p}_{i}.here", 0)
    if world.lsm == "apparmor":
        # The open file knows the profile that was left; the new one if another process has it.
        new = world.now(f"may{p}.{LATER}device")
        m.set(f"process{p}.left", m.get(f"process{p}.checked"))
        for field in ("checked", "heard"):
            known = [
                m.get(f"process{q}.{field}") & eq(world.now(f"may{q}.device"), new)
                for q in range(world.n_processes)
            ]
            m.set(f"process{p}.{field}", m.together(known, 1))
    m.set(f"process{p}.relabelled", 1)


def inherit_moves(b: Builder, p: int) -> None:
    """The device was opened by an unconfined process, whose descriptor is kept over an exec."""
    if UNCONFINED not in b.world.actors:
        return
    for fmode in (R, RW):
        m = b.start("inherit", p=p, fmode=fmode)
        m.require(no(m.get("enclave.opened")))
        m.set("enclave.opened", 1)
        m.set("enclave.fd_writes", int(bool(fmode & W)))
        m.set("enclave.delegated", 1)
        # What the design says of an open is its opener's matter; the LSM's hook is not.
        b.law.open(_Unasked(m), b.at(m, p), Request(fmode=fmode))
        m.ask("file_receive", b.at(m, p, file=File(m)))
        m.set(f"process{p}.fd", 1)
        b.done(m)


class _Unasked:
    """The context of a rule that runs for a process that may do all."""

    def __init__(self, move: Move) -> None:
        self.need, self.leaf = move.need, move.leaf

    def ask(self, _hook: str, _at: object, **_what: Value) -> None:
        """It is granted."""

    def granted(self, _hook: str, _at: object, **_what: Value) -> int:
        """It is."""
        return 1


def choose_debug(b: Builder, m: Move, p: int) -> None:
    """ECREATE with ATTRIBUTES.DEBUG or without, if any enclave may have it."""
    if DEBUGGER in b.world.actors:
        debug = m.arg("debug", 1)
        allowed = int(bool(b.law.unprivileged(b.at(m, p)) & ATTR_DEBUG))
        rule = "unprivileged"  # no rule of conditions, but one that a repair can change
        m.rules.setdefault(rule)
        m.seen[rule] = {"r.debug": debug}
        said = Statement(rule, VALUE, "which attributes any enclave may have")
        m.require(implies(debug, allowed | b.world.switch(said)))
        m.set("enclave.debug", debug)


def debug_moves(b: Builder, p: int, i: int) -> None:
    """A debugger writes a page of a DEBUG enclave by ptrace(2) or /proc/PID/mem.

    That it may attach (process:ptrace, a ptrace rule) is granted.
    """
    world = b.world
    if DEBUGGER not in world.actors:
        return
    m = b.start("debug", p=p, i=i)
    page = m.page(i)
    m.require(m.get("enclave.debug") & m.get(f"vma{p}_{i}.mapped") & page.present)
    m.require(b.law.driver_access(world.place(p, i)))
    m.require(eq(page.pt, PT_REG) | eq(page.pt, PT_TCS) | eq(page.pt, PT_TRIM))
    m.require(no(page.pending) & no(page.modified))
    b.content(m, i, written=1, allowed=0, intact=0)
    b.unsigned(m, i)
    b.done(m)


def remap_moves(b: Builder, p: int, i: int) -> None:
    """remap_file_pages: a mapping gives way to one of the same file with the same prot.

    SGX finds pages by address, so the offset that it asks for does not matter. It looks at the VMA
    again once it has mmap_lock (commit 58a039e679fe, in v6.12; before, it let no lock go).
    """
    if REMAP not in b.world.actors:
        return
    for of_segment in (False, True) if b.world.has_segments else (False,):
        m = b.start("remap", p=p, i=i)
        m.looks_again = True
        vma, file = m.vma(p, i), File(m)
        m.require(vma.mapped & vma.shared)
        prot = m.arg("prot", 3)
        m.require(eq(prot, vma.prot))
        if of_segment:
            segment = m.arg("segment", 3, chosen=True)
            m.require(eq(segment, vma.segment))
            file = File(m, segment)
        elif b.world.has_segments:
            m.require(eq(vma.segment, 0))
        at = mapping_over(b, m, p, i, file)
        b.law.mmap(m, at, b.request(i, prot=prot, map_type=1))
        m.heard(p, i, more=True)
        b.vouched(m, i)
        b.done(m)
