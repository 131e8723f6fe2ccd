"""Everything that can happen, as moves: calls of the design, of mm, and what code inside does.

Each function makes the moves of one kind, for every process and page; a move whose
rules can never hold is left out. Handlers' orders of rules are those of
`softsgx.device`: an ioctl's own checks, then its rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from softsgx.checker.world.builder import Builder
from softsgx.checker.world.cells import File, LocalCell
from softsgx.checker.world.loading import (
    SourceChoice,
    add_moves,
    augment_moves,
    create_moves,
    init_moves,
    load_rules,
    open_moves,
    own_args,
    secinfo,
    touch_moves,
)
from softsgx.checker.world.mapping import (
    fork_moves,
    map_segment_moves,
    mmap_moves,
    mprotect_moves,
    mremap_moves,
    pass_moves,
    unmap_moves,
)
from softsgx.checker.world.more import context_moves, debug_moves, inherit_moves, remap_moves
from softsgx.checker.world.move import MMAP_LOCK, Move
from softsgx.checker.world.world import World
from softsgx.law.rule import At, Request
from softsgx.law.values import RW, R, W, X, eq, has, implies, no
from softsgx.sdm.leaves import PT_TCS, PT_TRIM

__all__ = ["build_moves"]


def _entries(b: Builder, p: int) -> None:
    """Ways to map what entering takes, beside the pages of the world: RW pages (TCS, stack)
    and an RX page, which some loader added.
    """
    ways = ["mmap", "mmap-validate", "mprotect"]
    ways += ["ioc-mprotect"] if b.has_rule("ioc_mprotect") else []
    ways += ["map-segment", "segment-fd"] if b.has_rule("map_segment") else []
    for name, prot in (("entry", RW), ("code", R | X)):
        for way in ways:
            m = b.start(name, p=p, way=way)
            fd = m.get(f"process{p}.fd")
            if way == "segment-fd":
                fd = fd | eq(m.get(f"process{p}.segment_fd"), prot)
            m.require(fd & m.get("enclave.created"))
            m.takes.add((MMAP_LOCK, p))
            page = LocalCell(b.world.page_schema, m)
            source = SourceChoice(m, p)
            own = {name: m.get(f"enclave.{name}") for name in b.world.design.enclave_fields}
            at = b.at(m, p, page=page, source=source)
            # It was added when that could be done, whenever it is mapped.
            at.__dict__["enclave"] = At(created=1, initialized=0, dead=0, size=0, **own)
            more = own_args(b, m) | {"target": 0}
            load_rules(b, m, at, secinfo(b, prot, prot & b.law.declarable, 1, **more))
            vma = LocalCell(b.world.vma_schema, m)
            _entry_mapping(b, m, p, way, page, vma, prot)
            initialized = At(created=1, initialized=1, dead=0, **own)
            seen = At(page=page, vma=vma, enclave=initialized)
            m.require(has(b.law.accessible(seen), prot))
            m.set(f"process{p}.{name}", 1)
            b.done(m)


def _entry_mapping(
    b: Builder, m: Move, p: int, way: str, page: Any, vma: Any, prot: int
) -> None:  # fmt: skip
    device, law = File(m), b.law
    at = b.at(m, p, page=page, vma=vma, file=device)
    if way in ("mmap", "mmap-validate"):
        law.mmap(m, at, b.request(0, prot=prot, map_type=1 if way == "mmap" else 3))
        return
    segment = b.at(m, p, page=page, vma=vma, file=File(m, prot))
    if way == "segment-fd":
        law.mmap(m, segment, b.request(0, prot=prot))
        return
    law.mmap(m, at, b.request(0, prot=0))
    if way == "mprotect":
        law.mprotect(m, at, b.request(0, prot=prot))
    elif way == "ioc-mprotect":
        law.ioc_mprotect(m, at, b.request(0, prot=prot))
    else:
        law.map_segment(m, segment, b.request(0, prot=prot))


def _inside(b: Builder, p: int, i: int) -> None:
    """Writes, and ENCLU leaves on pages that the process has mapped."""
    world = b.world
    m = b.start("write", p=p, i=i)
    m.require(world.enters(p) & has(world.access(p, i), W))
    b.content(m, i, written=1, allowed=0, intact=0)
    b.unsigned(m, i)
    b.done(m)

    for leaf in ("eaccept", "emodpe", "eacceptcopy"):
        if not b.has_rule(leaf) or (leaf != "emodpe" and not getattr(b.law, "sgx2", 0)):
            continue
        m = b.start(leaf, p=p, i=i)
        # SDM: EACCEPTCOPY writes the page, the others only have to be able to read it.
        mapped = world.page_tables(p, i)
        m.require(
            world.enters(p) & (has(mapped, W) if leaf == "eacceptcopy" else no(eq(mapped, 0)))
        )
        page = m.page(i)
        if leaf == "eaccept":
            r = Request(
                perm=page.perm, pt=page.pt, pr=page.pr, pending=page.pending, modified=page.modified
            )
        else:
            r = Request(perm=m.arg("perm", 3))
            if leaf == "eacceptcopy":  # SDM: #GP for a SECINFO with W and not R
                m.require(implies(has(r.perm, W), has(r.perm, R)))
        getattr(b.law, leaf)(m, b.at(m, p, page=page), r)
        if leaf == "eacceptcopy":
            b.content(m, i, written=1, allowed=0, intact=0)
            b.unsigned(m, i)
        b.page_changed(m, i)
        b.done(m)


def _driver(b: Builder, p: int, i: int) -> None:
    """The SGX2 ioctls, and EXTEND_PERMISSIONS."""
    kinds: list[tuple[str, str, dict[str, int]]] = [
        ("restrict", "restrict_permissions", {}),
        ("relax", "relax_permissions", {}),
        ("to-tcs", "modify_type", {"pt": PT_TCS}),
        ("trim", "modify_type", {"pt": PT_TRIM}),
        ("remove", "remove_page", {}),
        ("extend", "extend_permissions", {}),
    ]
    for name, rule, fixed in kinds:
        if not b.has_rule(rule):
            continue
        m = b.start(name, p=p, i=i)
        at = b.ioctl(m, p)
        if name in ("remove", "to-tcs"):  # sgx_zap_enclave_ptes(), of whoever maps it
            m.takes |= {(MMAP_LOCK, q) for q in range(b.world.n_processes)}
        if name != "extend":
            b.law.sgx2_ready(m, at, b.request(i))
        what: dict[str, Any] = dict(fixed)
        if name in ("restrict", "relax", "extend"):
            what["perm"] = m.arg("perm", 3)
        at = b.at(m, p, page=m.page(i))
        getattr(b.law, rule)(m, at, Request(**what))
        if name == "remove":
            for var in [v for v in b.world.vars if v.startswith(f"ghost{i}.")]:
                m.set(var, 0)
        else:
            b.page_changed(m, i, extends=name == "extend")
        b.done(m)


def _kinds(world: World) -> Iterator[tuple[Callable[..., None], tuple[int, ...]]]:
    n_processes, n_pages = world.n_processes, world.n_pages
    first = range(n_processes) if world.alike else (0,)
    for p in first:
        yield open_moves, (p,)
        yield inherit_moves, (p,)
    for p in range(n_processes):
        for one in (create_moves, init_moves, _entries, context_moves):
            yield one, (p,)
        for q in range(0 if world.alike else 1, n_processes):
            if p != q:
                yield fork_moves, (p, q)
                yield pass_moves, (p, q)
        for i in range(n_pages):
            for per_page in (
                add_moves, augment_moves, touch_moves, mmap_moves, map_segment_moves,
                mprotect_moves, unmap_moves, mremap_moves, _inside, _driver,
                remap_moves, debug_moves,
            ):  # fmt: skip
                yield per_page, (p, i)


def build_moves(world: World) -> list[Move]:
    """Every move of a world, which keeps them. Raises TypeError where a rule branches on state."""
    b = Builder(world)
    for make, where in _kinds(world):
        b.make(make, where)
    b.settle()
    world.moves = b.moves
    world.argument_inputs = b.inputs
    return b.moves
