"""Everything that can happen, as moves: calls of the design, of mm, and what code inside does.

Each function makes the moves of one kind, for every process and page; a move whose
rules can never hold is left out. Handlers' orders of rules are those of
`softsgx.device`: an ioctl's own checks, then its rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from softsgx.checker.circuit import FALSE
from softsgx.checker.move import File, LocalCell, Move
from softsgx.checker.sources import SOURCES
from softsgx.checker.world import BASE, PAGE_BYTES, World
from softsgx.law.rule import At, Request
from softsgx.law.values import RW, RWX, R, Value, W, X, eq, has, implies, ite, no, subset
from softsgx.sdm.leaves import PT_REG, PT_TCS, PT_TRIM

__all__ = ["build_moves"]

MAP_TYPES = {1: "MAP_SHARED", 2: "MAP_PRIVATE", 3: "MAP_SHARED_VALIDATE"}
_GONE = 1 << 40  # a page number beyond ELRANGE


class _Zero(int):
    """An answer 0 that some rules ask for by a call."""

    def __call__(self) -> int:
        return 0


class _Builder:
    def __init__(self, world: World) -> None:
        self.world, self.law = world, world.design
        self.inputs: list[int] = []
        self.moves: list[Move] = []

    def has_rule(self, name: str) -> bool:
        return getattr(self.law, name, None) is not None

    def start(self, name: str, **meta: int | str) -> Move:
        return Move(self.world, name, self.inputs, **meta)

    def done(self, m: Move) -> None:
        if m.guard != FALSE and m.new:
            self.moves.append(m)

    def at(self, m: Move, p: int, **cells: Any) -> At:
        cells.setdefault("file", File(m, page=lambda a: self._page_at(m, a)))
        return At(enclave=m.enclave, process=m.process(p), area=None, **cells)

    def _page_at(self, m: Move, addr: int) -> Any:
        index = (addr - BASE) // PAGE_BYTES
        if index < self.world.n_pages:
            return m.page(index)
        return LocalCell(self.world.page_schema)

    def request(self, i: int, **what: Any) -> Request:
        """A mapping call's arguments; the length is two pages, as v20 wants it."""
        start = BASE + i * PAGE_BYTES
        given: dict[str, Any] = {
            "start": start, "end": start + PAGE_BYTES, "addr": start,
            "length_bytes": 2 * PAGE_BYTES, "offset_bytes": 0, "fixed": 1, "map_type": 1,
            "aligned": 1, "covered": 1,
            "same_enclave": 1, "segment_exists": 1, "size_is_power_of_two": 1, "sgx2": 1,
        }  # fmt: skip
        given.update(what)
        if "prot" in given:
            given.setdefault("reqprot", given["prot"])
        return Request(**given)

    def ioctl(self, m: Move, p: int) -> At:
        """An ioctl on the device by process ``p``: it has the fd."""
        m.require(m.get(f"process{p}.fd"))
        at = self.at(m, p)
        self.law.ioctl(m, at, Request(cmd=0xA4FF))
        return at

    # -- pages' ghosts -----------------------------------------------------------------

    def content(self, m: Move, i: int, **ghosts: Value) -> None:
        for name, value in ghosts.items():
            m.set(f"ghost{i}.{name}", value)

    def page_changed(self, m: Move, i: int, *, new: bool = False, extends: bool = False) -> None:
        """Keep the ghosts that follow a page's bound; ``new``: it was loaded just now."""
        w = self.world
        before, after = w.page_now(i), m.page(i)
        demanded: Value = 0 if new else w.now(f"ghost{i}.demanded")
        m.set(f"ghost{i}.demanded", after.present & (demanded | w.demands_authority(after)))
        if extends:
            less = no(subset(w.page_bound(before), w.page_bound(after)))
            m.set(f"ghost{i}.shed", w.now(f"ghost{i}.shed") | less)
        elif new:
            m.set(f"ghost{i}.shed", 0)


def _open(b: _Builder) -> None:
    for fmode in (R, RW):
        m = b.start("open", p=0, fmode=fmode)
        m.require(no(m.get("enclave.opened")))
        file = File(m)
        file.fmode = fmode
        b.law.open(m, b.at(m, 0, file=file), Request(fmode=fmode))
        m.set("enclave.opened", 1)
        m.set("enclave.fd_writes", int(bool(fmode & W)))
        m.set("process0.fd", 1)
        b.done(m)


def _create(b: _Builder, p: int) -> None:
    m = b.start("create", p=p)
    at = b.ioctl(m, p)
    if b.has_rule("may_create"):
        b.law.may_create(m, at, None)
    m.require(no(m.get("enclave.created")))  # one ELRANGE, whatever a design allows
    b.law.create(m, at, b.request(0, ecreate=0))
    m.set("enclave.created", 1)
    b.done(m)


def _init(b: _Builder, p: int) -> None:
    m = b.start("init", p=p)
    at = b.ioctl(m, p)
    b.law.may_build(m, at, None)
    r = Request(
        vendor_known=1, attributes_allowed=1, attributes_supported=1, miscselect_supported=1,
        xfrm_supported=1, einit=_Zero(0),
    )  # fmt: skip
    if b.has_rule("may_init"):
        b.law.may_init(m, at, r)
    b.law.init(m, at, r)
    b.done(m)


class _Choice:
    """A source VMA that the loader chooses: each fact is a function of its number."""

    def __init__(self, m: Move, p: int) -> None:
        g = m.world.graph
        number = m.arg("source", (len(SOURCES) - 1).bit_length())
        self._pick = [eq(number, n) for n in range(len(SOURCES))]
        m.require(g.value([g.any_of(g.truth(c) for c in self._pick)]))
        self.prot, self.may = self.fact("prot"), self.fact("may")
        self.modified, self.noexec = self.fact("modified"), self.fact("noexec")
        self.intact, self.allowed = self.fact("intact"), self.fact("allowed")
        self.anonymous = no(self.fact("file"))
        self.mapped = 1
        self.readable = has(self.prot, R)
        self.path = ""
        m.require(subset(self.fact("file_perms"), m.get(f"may{p}.file")))
        m.require(implies(self.fact("execmem"), m.get(f"may{p}.process")))

    def fact(self, name: str) -> Value:
        value: Value = 0
        for pick, source in zip(self._pick, SOURCES, strict=True):
            value = value | ite(pick, getattr(source, name), 0)
        return value


def _load_rules(b: _Builder, m: Move, at: At, r: Request) -> None:
    law = b.law
    law.validate_secinfo(m, at, r)
    if b.has_rule("add_page_worker"):
        law.validate_tcs(m, at, r)
        law.add_page(m, at, r)
        law.add_page_worker(m, at, r)
    elif b.has_rule("add_region"):
        if b.has_rule("validate_segment"):
            law.validate_segment(m, at, r)
        law.add_region(m, at, r)
    else:
        law.add_page(m, at, r)


def _secinfo(perm: Value, segment: Value = 0) -> Request:
    return Request(
        pt=PT_REG, perm=perm, flags=0, reserved_zero=1, tcs_valid=1, inside=1, aligned=1,
        measure=0, source_given=0, segment=segment,
    )  # fmt: skip


def _add(b: _Builder, p: int, i: int) -> None:
    m = b.start("add", p=p, i=i)
    at = b.ioctl(m, p)
    b.law.may_build(m, at, None)
    source = _Choice(m, p)
    perm = m.arg("perm", 3)
    segment = m.arg("segment", 3, chosen=True) if b.world.has_segments else 0
    at = b.at(m, p, page=m.page(i), source=source)
    _load_rules(b, m, at, _secinfo(perm, segment))
    b.content(
        m, i, written=0, allowed=source.allowed, intact=source.intact, noexec=source.noexec,
        source_may=source.may, loaded=1,
    )  # fmt: skip
    b.page_changed(m, i, new=True)
    b.done(m)


def _fresh(b: _Builder, m: Move, i: int) -> None:
    """A zeroed page has no content that anyone could have asked about, and no source."""
    b.content(m, i, written=0, allowed=1, intact=0, noexec=0, source_may=RWX, loaded=0)
    b.page_changed(m, i, new=True)


def _augment(b: _Builder, p: int, i: int) -> None:
    if not (b.has_rule("augment") and b.has_rule("validate_augment")):
        return
    m = b.start("augment", p=p, i=i)
    at = b.ioctl(m, p)
    b.law.sgx2_ready(m, at, b.request(i))
    r = _secinfo(m.arg("perm", 3), m.arg("segment", 3, chosen=True) if b.world.has_segments else 0)
    at = b.at(m, p, page=m.page(i))
    b.law.validate_augment(m, at, r)
    if b.has_rule("validate_segment"):
        b.law.validate_segment(m, at, r)
    b.law.augment(m, at, r)
    _fresh(b, m, i)
    b.done(m)


def _touch(b: _Builder, p: int, i: int) -> None:
    m = b.start("touch", p=p, i=i)
    page, vma = m.page(i), m.vma(p, i)
    m.require(vma.mapped & no(eq(vma.prot, 0)) & no(page.present))
    b.law.fault_absent(m, b.at(m, p, page=page, vma=vma), None)
    if any(name.startswith(f"page{i}.") for name in m.new):
        _fresh(b, m, i)
        b.done(m)


# -- mappings ------------------------------------------------------------------------------


def _mapping(b: _Builder, m: Move, p: int, i: int, file: File) -> Any:
    """A mapping that replaces what the process has there: its place."""
    page, vma = m.page(i, p), m.vma(p, i)
    vma.clear()
    vma.mapped = 1
    return b.at(m, p, page=page, vma=vma, file=file)


def _mmap(b: _Builder, p: int, i: int) -> None:
    for map_type, words in MAP_TYPES.items():
        m = b.start("mmap", p=p, i=i, type=words)
        m.require(m.get(f"process{p}.fd"))
        prot = m.arg("prot", 3)
        at = _mapping(b, m, p, i, File(m))
        b.law.mmap(m, at, b.request(i, prot=prot, map_type=map_type))
        m.set(f"vma{p}_{i}.asked", m.asked_x)
        b.done(m)
        if not b.world.has_segments:
            continue
        m = b.start("mmap-segment", p=p, i=i, type=words)
        segment, prot = m.arg("segment", 3, chosen=True), m.arg("prot", 3)
        m.require(m.get(f"process{p}.fd") | eq(m.get(f"process{p}.segment_fd"), segment))
        at = _mapping(b, m, p, i, File(m, segment))
        b.law.mmap(m, at, b.request(i, prot=prot, map_type=map_type))
        m.set(f"vma{p}_{i}.asked", m.asked_x)
        b.done(m)


def _map_segment(b: _Builder, p: int, i: int) -> None:
    if not b.has_rule("map_segment"):
        return
    m = b.start("map-segment", p=p, i=i)
    b.ioctl(m, p)
    m.require(m.get(f"vma{p}_{i}.mapped"))
    segment, prot = m.arg("segment", 3, chosen=True), m.arg("prot", 3)
    at = _mapping(b, m, p, i, File(m, segment))
    b.law.map_segment(m, at, b.request(i, prot=prot))
    m.set(f"vma{p}_{i}.asked", m.asked_x)
    b.done(m)


def _mprotect(b: _Builder, p: int, i: int) -> None:
    rules: list[tuple[str, Callable[..., None]]] = [("mprotect", b.law.mprotect)]
    if b.has_rule("ioc_mprotect"):
        rules.append(("ioc-mprotect", b.law.ioc_mprotect))
    for name, rule in rules:
        m = b.start(name, p=p, i=i)
        if name != "mprotect":
            b.ioctl(m, p)
        vma = m.vma(p, i)
        m.require(vma.mapped)
        prot = m.arg("prot", 3)
        segment = vma.segment if b.world.has_segments else 0
        at = b.at(m, p, page=m.page(i, p), vma=vma, file=File(m, segment))
        rule(m, at, b.request(i, prot=prot))
        vma.asked = vma.asked | m.asked_x
        b.done(m)


def _unmap(b: _Builder, p: int, i: int) -> None:
    for name in ("munmap", "foreign"):
        m = b.start(name, p=p, i=i)
        m.require(m.get(f"vma{p}_{i}.mapped"))
        if name == "foreign":
            if b.has_rule("replace"):  # a design whose VMAs are sealed, say, as mseal(2) does
                cells = {"page": m.page(i, p), "vma": m.vma(p, i)}
                b.law.replace(m, b.at(m, p, **cells), b.request(i))
            _disturbs(m)
        m.vma(p, i).clear()
        b.done(m)


def _disturbs(m: Move) -> None:
    m.set("enclave.disturbed", m.get("enclave.disturbed") | m.get("enclave.created"))


def _mremap(b: _Builder, p: int, i: int) -> None:
    fields = [n.partition(".")[2] for n in b.world.vars if n.startswith(f"vma{p}_{i}.")]
    for j in [k for k in range(b.world.n_pages) if k != i] + [_GONE]:
        m = b.start("mremap", p=p, i=i, j=j)
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


def _fork(b: _Builder, p: int, q: int) -> None:
    m = b.start("fork", p=p, q=q)
    m.require(m.get(f"process{p}.started") if p else 1)
    m.require(no(m.get(f"process{q}.started")))
    for name in b.world.vars:
        owner, _, field = name.partition(".")
        if owner == f"may{p}":
            m.require(eq(m.get(name), m.get(f"may{q}.{field}")))
        elif owner == f"process{p}":
            m.set(f"process{q}.{field}", m.get(name))
        elif owner.startswith(f"vma{p}_"):
            m.set(f"vma{q}_{owner.partition('_')[2]}.{field}", m.get(name))
    m.set(f"process{q}.started", 1)
    b.done(m)


def _pass(b: _Builder, p: int, q: int) -> None:
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


# -- entering, and what code inside does ------------------------------------------------------


def _entries(b: _Builder, p: int) -> None:
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
            page = LocalCell(b.world.page_schema)
            source = _Choice(m, p)
            at = b.at(m, p, page=page, source=source)
            _load_rules(b, m, at, _secinfo(prot, prot if b.world.has_segments else 0))
            vma = LocalCell(b.world.vma_schema)
            _entry_mapping(b, m, p, way, page, vma, prot)
            seen = At(page=page, vma=vma, enclave=At(created=1, initialized=1, dead=0))
            m.require(has(b.law.accessible(seen), prot))
            m.set(f"process{p}.{name}", 1)
            b.done(m)


def _entry_mapping(
    b: _Builder, m: Move, p: int, way: str, page: Any, vma: Any, prot: int
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


def _inside(b: _Builder, p: int, i: int) -> None:
    """Writes, and ENCLU leaves on pages that the process has mapped."""
    world = b.world
    m = b.start("write", p=p, i=i)
    m.require(world.enters(p) & has(world.access(p, i), W))
    b.content(m, i, written=1, allowed=0, intact=0)
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
        getattr(b.law, leaf)(m, b.at(m, p, page=page), r)
        if leaf == "eacceptcopy":
            b.content(m, i, written=1, allowed=0, intact=0)
        b.page_changed(m, i)
        b.done(m)


def _driver(b: _Builder, p: int, i: int) -> None:
    """The SGX2 ioctls, and EXTEND_PERMISSIONS."""
    kinds: list[tuple[str, str, dict[str, int]]] = [
        ("restrict", "restrict_permissions", {}),
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
        if name != "extend":
            b.law.sgx2_ready(m, at, b.request(i))
        what: dict[str, Any] = dict(fixed)
        if name in ("restrict", "extend"):
            what["perm"] = m.arg("perm", 3)
        at = b.at(m, p, page=m.page(i))
        getattr(b.law, rule)(m, at, Request(**what))
        if name == "remove":
            for var in [v for v in b.world.vars if v.startswith(f"ghost{i}.")]:
                m.set(var, 0)
        else:
            b.page_changed(m, i, extends=name == "extend")
        b.done(m)


def _kinds(n_processes: int, n_pages: int) -> Iterator[tuple[Callable[..., None], tuple[int, ...]]]:
    yield _open, ()
    for p in range(n_processes):
        for one in (_create, _init, _entries):
            yield one, (p,)
        for q in range(1, n_processes):
            if p != q:
                yield _fork, (p, q)
                yield _pass, (p, q)
        for i in range(n_pages):
            for per_page in (
                _add, _augment, _touch, _mmap, _map_segment, _mprotect, _unmap, _mremap, _inside,
                _driver,
            ):  # fmt: skip
                yield per_page, (p, i)


def build_moves(world: World) -> list[Move]:
    """Every move of a world, which keeps them. Raises TypeError where a rule branches on state."""
    b = _Builder(world)
    for make, where in _kinds(world.n_processes, world.n_pages):
        make(b, *where)
    world.moves = b.moves
    world.argument_inputs = b.inputs
    return b.moves
