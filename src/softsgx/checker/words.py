"""Traces, permissions and invariants in words."""

from __future__ import annotations

from collections.abc import Mapping

from softsgx.checker.answer import Clause, Step
from softsgx.checker.permissions import KINDS, object_name
from softsgx.checker.sources import SOURCES
from softsgx.checker.system import State
from softsgx.checker.world import World
from softsgx.law.values import mask_name

__all__ = ["invariant_words", "permission_words", "step_words"]

_APPARMOR = {"device": ("r", "w", "m", ""), "file": ("m", ""), "process": ("",)}
_STEPS = {
    "open": "process {p} opens the device {fmode}",
    "create": "process {p} creates the enclave (ECREATE)",
    "init": "process {p} initializes the enclave (EINIT)",
    "add": "process {p} adds page {i} from {source}, SECINFO {perm}{segment}",
    "augment": "process {p} adds page {i} after EINIT (EAUG), for {perm}{segment}",
    "touch": "process {p} touches page {i}, which is absent: the driver adds it (EAUG)",
    "mmap": "process {p} maps page {i} with mmap {prot}, {type}",
    "mmap-segment": "process {p} maps page {i} with mmap {prot} of the fd of {of}, {type}",
    "map-segment": "process {p} maps page {i} with SGX_IOC_MAP_SEGMENT {prot} of {of}",
    "mprotect": "process {p} calls mprotect {prot} on page {i}",
    "ioc-mprotect": "process {p} calls SGX_IOC_MPROTECT {prot} on page {i}",
    "munmap": "process {p} unmaps page {i}",
    "foreign": "process {p} maps foreign memory over page {i} (MAP_FIXED)",
    "fork": "process {p} forks process {q}",
    "pass": "process {p} passes the device's fd to process {q}",
    "pass-segment": "process {p} passes the fd of {of} to process {q}",
    "write": "process {p} enters and writes page {i}",
    "eaccept": "process {p} enters and accepts page {i} (EACCEPT)",
    "emodpe": "process {p} enters and extends page {i} by {perm} (EMODPE)",
    "eacceptcopy": "process {p} enters and fills page {i} by a copy, {perm} (EACCEPTCOPY)",
    "restrict": "process {p} restricts page {i} to {perm} (EMODPR)",
    "to-tcs": "process {p} makes page {i} a TCS (EMODT)",
    "trim": "process {p} trims page {i} (EMODT)",
    "remove": "process {p} removes page {i} (EREMOVE)",
    "extend": "process {p} extends page {i} by {perm} (SGX_IOC_EXTEND_PERMISSIONS)",
}
_WAYS = {
    "mmap": "mmap RW",
    "mmap-validate": "mmap RW, MAP_SHARED_VALIDATE",
    "mprotect": "mmap PROT_NONE and mprotect RW",
    "ioc-mprotect": "mmap PROT_NONE and SGX_IOC_MPROTECT RW",
    "map-segment": "mmap PROT_NONE and SGX_IOC_MAP_SEGMENT RW",
    "segment-fd": "mmap RW of the fd of segment RW",
}


def step_words(step: Step) -> str:
    """One step of a trace as a sentence without a full stop."""
    move, args = step.move, step.args
    meta = move.meta
    if move.name in ("entry", "code"):
        what, prot = {"entry": ("TCS and stack", "RW"), "code": ("entry code", "RX")}[move.name]
        way = _WAYS[str(meta["way"])].replace("RW", prot)
        return (
            f"process {meta['p']} maps the enclave's {what}, added from"
            f" {SOURCES[args['source']].words}, with {way}"
        )
    if move.name == "mremap":
        where = f"over page {meta['j']}" if int(meta["j"]) < 1 << 20 else "out of ELRANGE"
        return f"process {meta['p']} moves its mapping of page {meta['i']} {where} (mremap)"
    known: dict[str, str] = {name: str(value) for name, value in meta.items()}
    if move.name == "open":
        known["fmode"] = "read-only" if meta["fmode"] == 1 else "read-write"
    for name in ("prot", "perm"):
        if name in args:
            known[name] = mask_name(args[name])
    if known.get("prot") == "-":
        known["prot"] = "PROT_NONE"
    if "source" in args:
        known["source"] = SOURCES[args["source"]].words
    segment = args.get("segment")
    known["segment"] = f", into segment {mask_name(segment)}" if segment else ""
    known["of"] = f"segment {mask_name(segment)}" if segment else ""
    template = _STEPS.get(move.name, move.name + " {p}")
    return template.format_map(known)


def permission_words(world: World, start: State | Mapping[str, int]) -> list[str]:
    """Who holds what, a line a process."""
    lines = []
    for p in range(world.n_processes):
        parts = []
        for name, value in start.items():
            owner, _, kind = name.partition(".")
            if owner == f"may{p}" and value:
                names = _APPARMOR[kind] if world.lsm == "apparmor" else KINDS[kind]
                held = " ".join(
                    (n if len(n) < 2 else n.upper()) for i, n in enumerate(names) if value >> i & 1
                )
                parts.append(f"{held} on {object_name(kind)}" if kind != "process" else held)
        lines.append(f"process {p} holds " + ("; ".join(parts) or "nothing"))
    return lines


def invariant_words(world: World, cubes: list[Clause]) -> list[str]:
    """What never is, a line each; the first step, which chooses permissions, is left out."""
    lines = []
    for cube in cubes:
        if ("ready", 0, 0) not in cube:
            bits = [b for b in cube if b[0] != "ready"]
            lines.append("never: " + " and ".join(_bit_words(world, *bit) for bit in bits))
    return lines


_FLAGS = {
    "fd": ("has the device's fd", "does not have the device's fd"),
    "started": ("exists", "does not exist"),
    "entry": ("has TCS and stack mapped", "has no TCS and stack mapped"),
    "code": ("has entry code mapped", "has no entry code mapped"),
    "mapped": ("is there", "is not there"),
    "asked": ("was asked of the LSM for X", "was not asked of the LSM for X"),
    "opened": ("is open", "is not open"),
    "fd_writes": ("'s fd is open for writing", "'s fd is not open for writing"),
    "created": ("is created", "is not created"),
    "initialized": ("is initialized", "is not initialized"),
    "disturbed": ("'s mapping was disturbed", "'s mapping was not disturbed"),
    "present": ("is present", "is absent"),
    "written": ("was written", "was not written"),
    "allowed": ("has content that an LSM allowed to run", "has content that no LSM allowed to run"),
    "intact": ("is a file's", "is not a file's"),
    "noexec": ("is of a noexec mount", "is of no noexec mount"),
    "loaded": ("was added from a source", "was not added from a source"),
    "demanded": ("once demanded authority", "never demanded authority"),
    "shed": ("lost a permission", "lost no permission"),
    "safe": ("is safe to execute", "is not safe to execute"),
}


def _bit_words(world: World, name: str, bit: int, value: int) -> str:
    """One bit with its value, as a clause: ``process 0's mapping of page 1 has X in prot``."""
    owner, _, field = name.partition(".")
    kind = owner.rstrip("0123456789_")
    number = owner[len(kind) :]
    if kind == "may":
        verb = "holds" if value else "does not hold"
        return f"process {number} {verb} {KINDS[field][bit].upper()} on {object_name(field)}"
    subject = {"process": f"process {number}", "enclave": "the enclave"}.get(kind, f"page {number}")
    if kind == "vma":
        p, _, i = number.partition("_")
        subject = f"process {p}'s mapping of page {i}"
    if field in _FLAGS:
        words = _FLAGS[field][1 - value]
        return subject + words if words.startswith("'") else f"{subject} {words}"
    width = len(world.vars[name].lits)
    what = "RWX"[bit] if width == 3 and field != "pt" else field if width == 1 else f"bit {bit}"
    verb = "has" if value else "lacks"
    return f"{subject} {verb} {what}" + (f" in {field}" if width > 1 else "")
