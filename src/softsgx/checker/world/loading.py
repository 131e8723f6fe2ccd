"""Moves that open the device and build an enclave: who may load what, from which source."""

from __future__ import annotations

from typing import Any

from softsgx.checker.world.builder import Builder, Zero
from softsgx.checker.world.cells import File
from softsgx.checker.world.more import choose_debug
from softsgx.checker.world.move import MMAP_LOCK, Move
from softsgx.checker.world.sources import FILE_EXECUTE, SOURCES
from softsgx.errors import UsageError
from softsgx.law.rule import At, Request
from softsgx.law.values import RW, RWX, R, Value, W, X, eq, has, implies, ite, no, subset
from softsgx.sdm.leaves import PT_REG

__all__ = [
    "SourceChoice", "add_moves", "augment_moves", "create_moves", "eadd_rules",
    "init_moves", "load_rules", "open_moves", "own_args", "secinfo", "touch_moves",
]  # fmt: skip


def open_moves(b: Builder, p: int) -> None:
    """Open of the device, read-only and read-write."""
    for fmode in (R, RW):
        m = b.start("open", p=p, fmode=fmode)
        m.require(no(m.get("enclave.opened")))
        file = File(m)
        file.fmode = fmode
        b.law.open(m, b.at(m, p, file=file), Request(fmode=fmode))
        m.set("enclave.opened", 1)
        m.set("enclave.fd_writes", int(bool(fmode & W)))
        m.set(f"process{p}.fd", 1)
        b.done(m)


def create_moves(b: Builder, p: int) -> None:
    """SGX_IOC_ENCLAVE_CREATE."""
    m = b.start("create", p=p)
    at = b.ioctl(m, p)
    if b.has_rule("may_create"):
        b.law.may_create(m, at, None)
    if b.has_rule("create_sigstruct"):
        at = b.at(m, p, source=_sigstruct(b, m, p))
        b.law.create_sigstruct(m, at, Request())
    m.require(no(m.get("enclave.created")))  # one ELRANGE, whatever a design allows
    choose_debug(b, m, p)
    b.law.create(m, at, b.request(0, ecreate=0))
    m.set("enclave.created", 1)
    b.done(m)


def init_moves(b: Builder, p: int) -> None:
    """SGX_IOC_ENCLAVE_INIT, with a SIGSTRUCT that fits."""
    m = b.start("init", p=p)
    at = b.ioctl(m, p)
    b.law.may_build(m, at, None)
    r = Request(
        vendor_known=1, attributes_allowed=1, attributes_supported=1, miscselect_supported=1,
        xfrm_supported=1, einit=Zero(0),
    )  # fmt: skip
    if b.has_rule("may_init"):
        b.law.may_init(m, at, r)
    if b.law.vets_sigstruct and not b.has_rule("create_sigstruct"):
        at = b.at(m, p, source=_sigstruct(b, m, p))
        r.__dict__["sigstruct_inside"] = 1
    b.law.init(m, at, r)
    for i in range(b.world.n_pages) if b.law.proxy else ():
        # SIGSTRUCT's file came with the enclave of an unmodified file: what is measured under it
        # is that enclave's, wherever the loader had it from.
        signed = m.get(f"ghost{i}.signed") & m.get("enclave.genuine")
        m.set(f"ghost{i}.intact", m.get(f"ghost{i}.intact") | signed)
    b.done(m)


def _sigstruct(b: Builder, m: Move, p: int) -> SourceChoice:
    """The memory that SIGSTRUCT is taken from."""
    source = SourceChoice(m, p, "sigstruct")
    m.require(no(source.noexec))  # nobody looks at that
    kept = m.get("enclave.sigstruct_kept") if "sigstruct_kept" in b.law.enclave_fields else 0
    was = m.get("enclave.sigstruct_file")
    m.set("enclave.sigstruct_file", ite(kept, was, no(source.anonymous)))
    if b.law.proxy:
        m.require(no(has(source.prot, X)))  # who may map its file as code may be another matter
        m.set("enclave.genuine", source.intact)
    return source


class SourceChoice:
    """A source VMA that the loader chooses: each fact is a function of its number.

    of: "source", or "sigstruct" for the memory that SIGSTRUCT is in, whose file is another one.
    """

    def __init__(self, m: Move, p: int, of: str = "source") -> None:
        self._move, self._p, self._of = m, p, of
        self.number: Value = 0
        self._choose(of)
        m.sources.append(self)

    def again(self) -> None:
        """Another thread may have mapped something else there: what is copied is of that. What
        the LSM said was said of what had been there.
        """
        m, was = self._move, self.number
        self._choose("copied")
        m.vetted = m.vetted & eq(self.number, was)

    def _choose(self, name: str) -> None:
        m, p, of = self._move, self._p, self._of
        g = m.world.graph
        self.number = number = m.arg(name, (len(SOURCES) - 1).bit_length())
        self._pick = [eq(number, n) for n in range(len(SOURCES))]
        m.require(g.value([g.any_of(g.truth(c) for c in self._pick)]))
        self.prot, self.may = self.fact("prot"), self.fact("may")
        self.modified, self.noexec = self.fact("modified"), self.fact("noexec")
        self.intact, self.allowed = self.fact("intact"), self.fact("allowed")
        self.anonymous, self.shared = no(self.fact("file")), self.fact("shared")
        self.origin, self.mapped = self.fact("file"), 1
        perms, execmem = self.fact("file_perms"), self.fact("execmem")
        if m.world.lsm != "selinux":  # m of files is all that AppArmor asks
            perms, execmem = perms & FILE_EXECUTE, 0
            self.allowed = self.allowed & no(self.anonymous)
        if m.world.lsm == "none":
            perms = self.allowed = 0
        self.found = 1
        self.readable = has(self.prot, R)
        self.path = ""
        m.require(subset(perms, m.get(f"may{p}.{'file' if of == 'source' else of}")))
        m.require(implies(execmem, has(m.get(f"may{p}.process"), 1)))

    def fact(self, name: str) -> Value:
        value: Value = 0
        for pick, source in zip(self._pick, SOURCES, strict=True):
            value = value | ite(pick, getattr(source, name), 0)
        return value


def load_rules(b: Builder, m: Move, at: At, r: Request) -> None:
    """What an EADD asks, from SECINFO on: the rules of the design, in its order.

    Raises UsageError where the design has none that is known.
    """
    for name in eadd_rules(b.law):
        getattr(b.law, name)(m, at, r)


def eadd_rules(design: Any) -> tuple[str, ...]:
    """The names of the rules of a design's EADD, in their order. Raises UsageError."""
    if design.add_rules:
        for name in design.add_rules:
            if getattr(design, name, None) is None:
                raise UsageError(
                    f"design {design.name}: add_rules names {name!r}, and it has no such rule"
                )
        return tuple(design.add_rules)
    for names in _EADDS:
        if getattr(design, names[-1], None) is not None:
            return tuple(n for n in names if getattr(design, n, None) is not None)
    raise UsageError(
        f"design {design.name}: the checker finds no EADD in it; name its rules in add_rules, as"
        " docs/how-to-add-a-design.md says"
    )


# By the last of them, which tells whether a design has this EADD.
_EADDS = (
    ("validate_secinfo", "validate_tcs", "add_page", "add_page_worker"),
    ("validate_secinfo", "validate_segment", "add_region"),
    ("validate_secinfo", "add_page"),
)


def secinfo(
    b: Builder, perm: Value, declared: Value = 0, measure: Value = 0, **more: Value
) -> Request:
    """The arguments of an EADD: a PT_REG page with these permissions, and what is declared.

    more: what the ioctl of a design's own says beside.
    """
    return Request(
        pt=PT_REG, perm=perm, flags=0, reserved_zero=1, tcs_valid=1, inside=1, backed=1,
        in_a_file=1, measure=measure, source_given=0,
        **({b.law.declares: declared} if b.law.declares else {}), **more,
    )  # fmt: skip


def _declared(b: Builder, m: Move) -> Value:
    """What the caller declares of a page: a segment is one that exists, and has a bit."""
    name = b.law.declares
    if not name:
        return 0
    declared: Value = m.arg(name, 3, chosen=b.world.has_segments)
    m.require(subset(declared, b.law.declarable))
    return declared


def own_args(b: Builder, m: Move) -> dict[str, Value]:
    """What a loader may say beside SECINFO, by name: anything."""
    return {name: m.arg(name, bits) for name, bits in b.law.add_args.items()}


def add_moves(b: Builder, p: int, i: int) -> None:
    """EADD of a page from any source, with any SECINFO."""
    m = b.start("add", p=p, i=i)
    at = b.ioctl(m, p)
    m.takes.add((MMAP_LOCK, p))  # to look at the source, for reading
    b.law.may_build(m, at, None)
    source = SourceChoice(m, p)
    perm, declared = m.arg("perm", 3), _declared(b, m)
    measure = no(m.arg("unmeasured", 1)) if b.law.sgx_permissions or b.law.proxy else 0
    at = b.at(m, p, page=m.page(i), source=source)
    more = own_args(b, m) | _target(b, m, p, i)
    load_rules(b, m, at, secinfo(b, perm, declared, measure, **more))
    allowed = source.allowed | m.vetted
    b.content(
        m, i, written=0, allowed=allowed, intact=source.intact, noexec=source.noexec,
        source_may=source.may, loaded=1, **({"signed": measure} if b.law.proxy else {}),
    )  # fmt: skip
    b.page_changed(m, i, new=True)
    b.done(m)


def _target(b: Builder, m: Move, p: int, i: int) -> dict[str, Value]:
    """What the caller has mapped where the page goes, for designs that look at it."""
    vma = m.vma(p, i)
    return {"target": ite(vma.mapped, vma.prot, 0)} if b.law.keeps_origins else {}


def _fresh(b: Builder, m: Move, i: int) -> None:
    """A zeroed page has no content that anyone could have asked about, and no source."""
    b.content(m, i, written=0, allowed=1, intact=0, noexec=0, source_may=RWX, loaded=0)
    b.unsigned(m, i)
    b.page_changed(m, i, new=True)


def augment_moves(b: Builder, p: int, i: int) -> None:
    """EAUG by ADD_REGION, in designs that have it."""
    if not (b.has_rule("augment") and b.has_rule("validate_augment")):
        return
    m = b.start("augment", p=p, i=i)
    at = b.ioctl(m, p)
    b.law.sgx2_ready(m, at, b.request(i))
    r = secinfo(b, m.arg("perm", 3), _declared(b, m), **_target(b, m, p, i))
    at = b.at(m, p, page=m.page(i))
    b.law.validate_augment(m, at, r)
    if b.has_rule("validate_segment"):
        b.law.validate_segment(m, at, r)
    b.law.augment(m, at, r)
    _fresh(b, m, i)
    b.done(m)


def touch_moves(b: Builder, p: int, i: int) -> None:
    """A page fault where no page is."""
    m = b.start("touch", p=p, i=i)
    page, vma = m.page(i), m.vma(p, i)
    m.takes.add((MMAP_LOCK, p))  # for reading
    m.require(vma.mapped & no(eq(vma.prot, 0)) & no(page.present))
    b.law.fault_absent(m, b.at(m, p, page=page, vma=vma), None)
    if any(name.startswith(f"page{i}.") for name in m.new):
        _fresh(b, m, i)
        b.done(m)
