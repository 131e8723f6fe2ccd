"""Invariants in words: what never is, one line for all processes and pages of which it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations

from softsgx.checker.engines.answer import Clause
from softsgx.checker.proofs.pages import places, renamed_cube
from softsgx.checker.world.actors import LATER
from softsgx.checker.world.permissions import APPARMOR, KINDS, object_name
from softsgx.checker.world.world import World
from softsgx.law.rule import LOCKS
from softsgx.law.values import mask_name

__all__ = ["invariant_words"]

_PROCESSES, _PAGES = "pqrstuvw", "ijklmnop"
_FLAGS = {
    "fd": ("has the device's fd", "does not have the device's fd"),
    "started": ("exists", "does not exist"),
    "entry": ("has TCS and stack mapped", "has no TCS and stack mapped"),
    "code": ("has entry code mapped", "has no entry code mapped"),
    "mapped": ("is there", "is not there"),
    "asked": ("was asked of the LSM for X", "was not asked of the LSM for X"),
    "here": ("was asked of the process for X", "was not asked of the process for X"),
    "asked_modified": (
        "was asked of the LSM about modified code",
        "was not asked of the LSM about modified code",
    ),
    "heard": ("was asked for X itself", "was not asked for X itself"),
    "hole": ("left a hole", "left no hole"),
    "shared": ("is VM_SHARED", "is not VM_SHARED"),
    "opened": ("is open", "is not open"),
    "fd_writes": ("'s fd is open for writing", "'s fd is not open for writing"),
    "created": ("is created", "is not created"),
    "initialized": ("is initialized", "is not initialized"),
    "disturbed": ("'s mapping was disturbed", "'s mapping was not disturbed"),
    "present": ("is present", "is absent"),
    "pending": ("is PENDING", "is not PENDING"),
    "modified": ("is MODIFIED", "is not MODIFIED"),
    "pr": ("has EPCM.PR", "does not have EPCM.PR"),
    "written": ("was written", "was not written"),
    "allowed": ("has content that an LSM allowed to run", "has content that no LSM allowed to run"),
    "intact": ("is a file's", "is not a file's"),
    "noexec": ("is of a noexec mount", "is of no noexec mount"),
    "loaded": ("was added from a source", "was not added from a source"),
    "demanded": ("once demanded authority", "never demanded authority"),
    "shed": ("lost a permission", "lost no permission"),
    "areas": ("has areas that the LSM keeps", "has no areas that the LSM keeps"),
    "sigstruct_file": ("'s SIGSTRUCT is in a file", "'s SIGSTRUCT is in no file"),
    "relabelled": ("changed its context", "did not change its context"),
    "delegated": ("'s fd is of an unconfined process", "'s fd is of a confined process"),
    "debug": ("has ATTRIBUTES.DEBUG", "does not have ATTRIBUTES.DEBUG"),
    "left": ("was asked about in its first context", "was not asked about in its first context"),
    "sourced": ("came by EADD", "did not come by EADD"),
    "changed": ("was mapped writable", "was not mapped writable"),
    "dirty_x": ("may run DIRTY pages", "may not run DIRTY pages"),
    "wx": ("may be mapped W and X at once", "may not be mapped W and X at once"),
    "safe": ("is safe to execute", "is not safe to execute"),
}
_MASKS = {
    "may": "VM_MAY*", "vm_may": "VM_MAY*", "source_may": "its source's VM_MAY*",
    "max": "its maximum", "bound": "its bound", "perm": "the EPCM",
}  # fmt: skip
_TYPES = ("PT_TCS", "PT_REG", "PT_TRIM")


def invariant_words(
    world: World, cubes: Sequence[Clause], *, any_pages: bool = False, any_processes: bool = False
) -> list[str]:
    """What never is, a line each; the first step, which chooses permissions, is left out.

    any_pages, any_processes: the world's one page, and its processes, stand for any.
    """
    left = dict.fromkeys(tuple(sorted(c)) for c in cubes if ("ready", 0, 0) not in c)
    lines = []
    for cube in list(left):
        if cube in left and any_processes:
            own, on = places(cube)
            for who in permutations(range(world.n_processes), len(own)):
                left.pop(renamed_cube(cube, dict(zip(own, who, strict=True)), {}), None)
            lines.append(_sentence(world, cube, bool(own), bool(on)))
        elif cube in left:
            lines.append(_line(world, cube, left, any_pages))
    return lines


def _line(world: World, cube: Clause, left: dict[Clause, None], any_pages: bool) -> str:
    """The line of a cube and of all that are the same of others; these are taken away."""
    own, on = places(cube)
    every_page = any_pages and bool(on)
    for all_processes, all_pages in ((True, True), (False, True), (True, False)):
        everybody = all_processes and bool(own) and world.n_processes > 1
        everywhere = all_pages and bool(on) and world.n_pages > 1
        if not everybody and not everywhere:
            continue
        same = {
            renamed_cube(cube, dict(zip(own, to, strict=True)), dict(zip(on, where, strict=True)))
            for to in (permutations(range(world.n_processes), len(own)) if everybody else [own])
            for where in (permutations(range(world.n_pages), len(on)) if everywhere else [on])
        }
        if same <= left.keys():
            for other in same:
                del left[other]
            return _sentence(world, cube, everybody, everywhere or every_page)
    del left[cube]
    return _sentence(world, cube, False, every_page)


def _sentence(world: World, cube: Clause, everybody: bool, everywhere: bool) -> str:
    own, on = places(cube)
    processes = {p: _PROCESSES[n] if everybody else str(p) for n, p in enumerate(own)}
    pages = {i: _PAGES[n] if everywhere else str(i) for n, i in enumerate(on)}
    parts = [*(_all("process", "processes", processes) if everybody else ())]
    parts += _all("page", "pages", pages) if everywhere else ()
    said = " and ".join(_bits(world, cube, processes, pages))
    return f"for {' and '.join(parts)}, never: {said}" if parts else f"never: {said}"


def _all(one: str, many: str, letters: Mapping[int, str]) -> list[str]:
    names = list(letters.values())
    if len(names) == 1:
        return [f"every {one} {names[0]}"]
    return [f"all different {many} {', '.join(names[:-1])} and {names[-1]}"]


def _bits(
    world: World, cube: Clause, processes: Mapping[int, str], pages: Mapping[int, str]
) -> Iterable[str]:
    """A cube's parts: ``process p's mapping of page i has X in prot``."""
    values: dict[str, dict[int, int]] = {}
    for name, bit, value in cube:
        values.setdefault(name, {})[bit] = value
    for name, bits in values.items():
        owner, _, field = name.partition(".")
        kind = owner.rstrip("0123456789_")
        numbers = owner[len(kind) :].split("_")
        if kind in ("may", "process", "anywhere"):
            subject = f"process {processes[int(numbers[0])]}"
        elif kind == "vma":
            p, i = (int(n) for n in numbers)
            subject = f"process {processes[p]}'s mapping of page {pages[i]}"
        elif kind == "call" and len(numbers) > 1:
            p, i = (int(n) for n in numbers)
            subject = f"process {processes[p]}'s call under way for page {pages[i]}"
        elif kind == "call":
            subject = f"process {processes[int(numbers[0])]}"
        elif kind in ("page", "ghost"):
            subject = f"page {pages[int(numbers[0])]}"
        else:
            subject = "the enclave"
        if kind == "may":
            later = " in its later context" if field.startswith(LATER) else ""
            yield f"{subject} {_permissions(world, field.removeprefix(LATER), bits)}{later}"
        elif kind == "anywhere":
            yield f"{'a' if bits[0] else 'no'} page gives {subject} code to run"
        elif kind == "call":
            words = _kept(world, field, bits, len(world.vars[name].lits))
            yield f"{subject} {words}"
        else:
            words = _field(world, field, bits, len(world.vars[name].lits))
            yield subject + words if words.startswith("'") else f"{subject} {words}"


def _sides(bits: Mapping[int, int], names: Sequence[str]) -> tuple[list[str], list[str]]:
    has = [names[b] for b in sorted(bits) if bits[b]]
    return has, [names[b] for b in sorted(bits) if not bits[b]]


def _permissions(world: World, kind: str, bits: Mapping[int, int]) -> str:
    known = APPARMOR if world.lsm == "apparmor" else KINDS
    names = [n if len(n) < 2 else n.upper() for n in known[kind]]
    has, lacks = _sides(bits, names)
    said = [f"holds {' and '.join(has)}"] if has else []
    said += [f"does not hold {' or '.join(lacks)}"] if lacks else []
    return " and ".join(said) + (f" on {object_name(kind)}" if kind != "process" else "")


def _kept(world: World, field: str, bits: Mapping[int, int], width: int) -> str:
    """What is kept of a call that is under way, or a lock that it holds."""
    if field == "at":
        fits = [
            name
            for n, name in enumerate(("none", *world.halves))
            if all(n >> b & 1 == v for b, v in bits.items())
        ]
        return "is " + (" or ".join(dict.fromkeys(fits)) or "none that there is")
    if field in LOCKS:
        return ("holds " if bits[0] else "does not hold ") + field
    has, lacks = _sides(bits, "RWX" if width == 3 else [f"bit {n}" for n in range(width)])
    said = [f"kept {' and '.join(has)}"] if has else []
    said += [f"kept no {' or '.join(lacks)}"] if lacks else []
    return f"{' and '.join(said)} of {field.removeprefix('kept_').removeprefix('new_')}"


def _field(world: World, field: str, bits: Mapping[int, int], width: int) -> str:
    if field in _FLAGS:
        return _FLAGS[field][1 - bits[0]]
    words = world.design.field_words.get(field)
    if words is not None:
        fits = [w for n, w in enumerate(words) if all(n >> b & 1 == v for b, v in bits.items())]
        return f"is {' or '.join(fits)}"
    if field == "pt":
        has, lacks = _sides(bits, _TYPES)
        return " and ".join([*(f"is a {t}" for t in has), *(f"is no {t}" for t in lacks)])
    if width == 1:
        return ("has " if bits[0] else "lacks ") + field
    if field in ("segment", "segment_fd") and len(bits) == width:
        mask = sum(v << b for b, v in bits.items())
        what = f"segment {mask_name(mask)}" if mask else "no segment"
        return f"has the fd of {what}" if field == "segment_fd" else f"is of {what}"
    has, lacks = _sides(bits, "RWX" if width == 3 else [f"bit {n}" for n in range(width)])
    said = ["has " + "".join(has)] if has else []
    said += ["lacks " + (lacks[0] if len(lacks) == 1 else " and ".join(lacks))] if lacks else []
    return " and ".join(said) + f" in {_MASKS.get(field, field)}"
