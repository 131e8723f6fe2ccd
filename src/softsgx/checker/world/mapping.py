"""Moves that map and unmap, and those by which another process comes to what one has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from softsgx.checker.world.actors import LATER
from softsgx.checker.world.builder import Builder
from softsgx.checker.world.cells import File
from softsgx.checker.world.move import MMAP_LOCK, Move
from softsgx.checker.world.world import BASE, PAGE_BYTES
from softsgx.law.values import eq, no

__all__ = [
    "fork_moves", "map_segment_moves", "mapping_over", "mmap_moves", "mprotect_moves",
    "mremap_moves", "pass_moves", "unmap_moves",
]  # fmt: skip

MAP_TYPES = {1: "MAP_SHARED", 2: "MAP_PRIVATE", 3: "MAP_SHARED_VALIDATE"}
_GONE = 1 << 40  # a page number beyond ELRANGE


def mapping_over(b: Builder, m: Move, p: int, i: int, file: File) -> Any:
    """A mapping that replaces what the process has there: its place."""
    page, vma = m.page(i, p), m.vma(p, i)
    m.takes.add((MMAP_LOCK, p))
    vma.clear()
    vma.mapped = 1
    m.deferred |= {name for name in m.new if name.startswith(f"vma{p}_{i}.")}
    return b.at(m, p, page=page, vma=vma, file=file)


def mmap_moves(b: Builder, p: int, i: int) -> None:
    """Mmap of the device's fd, and of a segment's."""
    for map_type, words in MAP_TYPES.items():
        m = b.start("mmap", p=p, i=i, type=words)
        m.require(m.get(f"process{p}.fd"))
        prot = m.arg("prot", 3)
        at = mapping_over(b, m, p, i, File(m))
        b.law.mmap(m, at, b.request(i, prot=prot, map_type=map_type))
        m.heard(p, i)
        b.vouched(m, i)
        b.done(m)
        if not b.world.has_segments:
            continue
        m = b.start("mmap-segment", p=p, i=i, type=words)
        segment, prot = m.arg("segment", 3, chosen=True), m.arg("prot", 3)
        m.require(m.get(f"process{p}.fd") | eq(m.get(f"process{p}.segment_fd"), segment))
        at = mapping_over(b, m, p, i, File(m, segment))
        b.law.mmap(m, at, b.request(i, prot=prot, map_type=map_type))
        m.heard(p, i)
        b.done(m)


def map_segment_moves(b: Builder, p: int, i: int) -> None:
    """SGX_IOC_MAP_SEGMENT."""
    if not b.has_rule("map_segment"):
        return
    m = b.start("map-segment", p=p, i=i)
    b.ioctl(m, p)
    m.require(m.get(f"vma{p}_{i}.mapped"))
    segment, prot = m.arg("segment", 3, chosen=True), m.arg("prot", 3)
    at = mapping_over(b, m, p, i, File(m, segment))
    b.law.map_segment(m, at, b.request(i, prot=prot))
    m.heard(p, i)
    b.done(m)


def mprotect_moves(b: Builder, p: int, i: int) -> None:
    """mprotect, and SGX_IOC_MPROTECT."""
    rules: list[tuple[str, Callable[..., None]]] = [("mprotect", b.law.mprotect)]
    if b.has_rule("ioc_mprotect"):
        rules.append(("ioc-mprotect", b.law.ioc_mprotect))
    for name, rule in rules:
        m = b.start(name, p=p, i=i)
        if name != "mprotect":
            b.ioctl(m, p)
        m.takes.add((MMAP_LOCK, p))
        vma = m.vma(p, i)
        m.require(vma.mapped)
        prot = m.arg("prot", 3)
        segment = vma.segment if b.world.has_segments else 0
        at = b.at(m, p, page=m.page(i, p), vma=vma, file=File(m, segment))
        rule(m, at, b.request(i, prot=prot))
        m.heard(p, i, more=True)
        b.vouched(m, i)
        b.done(m)


def unmap_moves(b: Builder, p: int, i: int) -> None:
    """munmap, and foreign memory in the place of a mapping or in the hole that one left."""
    for name in ("munmap", "foreign"):
        m = b.start(name, p=p, i=i)
        m.takes.add((MMAP_LOCK, p))
        m.require(m.get(f"vma{p}_{i}.mapped"))
        b.law.unmap(m, b.at(m, p, vma=m.vma(p, i)), b.request(i, own=0))
        m.vma(p, i).clear()
        if name == "foreign":
            _disturbs(m)
        else:
            m.set(f"vma{p}_{i}.hole", m.get("enclave.created"))
        b.done(m)
    m = b.start("foreign", p=p, i=i)
    m.takes.add((MMAP_LOCK, p))
    m.require(m.get(f"vma{p}_{i}.hole"))
    _disturbs(m)
    b.done(m)


def _disturbs(m: Move) -> None:
    m.set("enclave.disturbed", m.get("enclave.disturbed") | m.get("enclave.created"))


def mremap_moves(b: Builder, p: int, i: int) -> None:
    """Mremap over another page of the world, and away."""
    fields = [n.partition(".")[2] for n in b.world.vars if n.startswith(f"vma{p}_{i}.")]
    for j in [k for k in range(b.world.n_pages) if k != i] + [_GONE]:
        m = b.start("mremap", p=p, i=i, j=j)
        m.takes.add((MMAP_LOCK, p))
        vma = m.vma(p, i)
        m.require(vma.mapped)
        segment = vma.segment if b.world.has_segments else 0
        file = File(m, segment, lambda a, m=m: b._page_at(m, a))
        new = BASE + j * PAGE_BYTES
        r = b.request(
            i, new_start=new, new_end=new + PAGE_BYTES, old_len_bytes=PAGE_BYTES,
            new_len_bytes=PAGE_BYTES, flags=3,
        )  # fmt: skip
        b.law.mremap(m, b.at(m, p, page=m.page(i, p), vma=vma, file=file), r)
        if j != _GONE:
            for field in fields:
                m.set(f"vma{p}_{j}.{field}", m.get(f"vma{p}_{i}.{field}"))
        vma.clear()
        _disturbs(m)
        b.done(m)


# -- processes -----------------------------------------------------------------------------


def fork_moves(b: Builder, p: int, q: int) -> None:
    """fork: the child has the label of its parent, its descriptors and mappings."""
    m = b.start("fork", p=p, q=q)
    m.takes.add((MMAP_LOCK, p))
    m.require(m.get(f"process{p}.started") if p and not b.world.alike else 1)
    m.require(no(m.get(f"process{q}.started")))
    for name in b.world.vars:
        owner, _, field = name.partition(".")
        if field in ("relabelled", "left") or field.startswith(LATER):
            continue  # the child's context may change, too, to another
        if owner == f"may{p}":
            m.require(eq(m.get(name), m.get(f"may{q}.{field}")))
        elif owner == f"process{p}":
            m.set(f"process{q}.{field}", m.get(name))
        elif owner.startswith(f"vma{p}_"):
            m.set(f"vma{q}_{owner.partition('_')[2]}.{field}", m.get(name))
    m.set(f"process{q}.started", 1)
    b.done(m)


def pass_moves(b: Builder, p: int, q: int) -> None:
    """A descriptor is passed to a process, which starts with it if it is new."""
    m = b.start("pass", p=p, q=q)
    m.require(m.get(f"process{p}.fd") & no(m.get(f"process{q}.fd")))
    m.ask("file_receive", b.at(m, q, file=File(m)))
    m.set(f"process{q}.fd", 1)
    m.set(f"process{q}.started", 1)
    b.done(m)
    if b.world.has_segments:
        m = b.start("pass-segment", p=p, q=q)
        segment = m.arg("segment", 3, chosen=True)
        m.require(m.get(f"process{p}.fd") | eq(m.get(f"process{p}.segment_fd"), segment))
        m.ask("file_receive", b.at(m, q, file=File(m, segment)))
        m.set(f"process{q}.segment_fd", segment)
        m.set(f"process{q}.started", 1)
        b.done(m)
