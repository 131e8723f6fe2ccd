"""Traces and permissions in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softsgx.checker.engines.answer import Step
from softsgx.checker.world.actors import CONTEXT, LATER
from softsgx.checker.world.move import Move
from softsgx.checker.world.permissions import APPARMOR, KINDS, object_name
from softsgx.checker.world.sources import SOURCES
from softsgx.checker.world.system import State
from softsgx.checker.world.world import World
from softsgx.law.rule import rules_of
from softsgx.law.values import mask_name

__all__ = ["permission_words", "rule_words", "step_words"]

_STEPS = {
    "open": "process {p} opens the device {fmode}",
    "create": "process {p} creates the enclave{debug} (ECREATE){sigstruct}",
    "init": "process {p} initializes the enclave (EINIT){sigstruct}",
    "add": "process {p} adds page {i} from {source}, SECINFO {perm}{segment}{more}",
    "augment": "process {p} adds page {i} after EINIT (EAUG), for {perm}{segment}",
    "touch": "process {p} touches page {i}, which is absent: the driver adds it (EAUG)",
    "mmap": "process {p} maps page {i} with mmap {prot}, {type}",
    "mmap-segment": "process {p} maps page {i} with mmap {prot} of the fd of {of}, {type}",
    "map-segment": "process {p} maps page {i} with SGX_IOC_MAP_SEGMENT {prot} of {of}",
    "mprotect": "process {p} calls mprotect {prot} on page {i}",
    "ioc-mprotect": "process {p} calls SGX_IOC_MPROTECT {prot} on page {i}",
    "munmap": "process {p} unmaps page {i}",
    "foreign": "process {p} maps foreign memory over page {i} (MAP_FIXED)",
    "setcon": "process {p} changes its context (setcon, change_profile); its mappings stay",
    "exec": "process {p} executes a program with another context (execve), the device's fd open",
    "inherit": "process {p} starts with the device's fd, opened {fmode} by an unconfined process",
    "debug": "a debugger of process {p} writes page {i} (EDBGWR)",
    "remap": "process {p} calls remap_file_pages on its mapping of page {i}",
    "fork": "process {p} forks process {q}",
    "pass": "process {p} passes the device's fd to process {q}",
    "pass-segment": "process {p} passes the fd of {of} to process {q}",
    "write": "process {p} enters and writes page {i}",
    "eaccept": "process {p} enters and accepts page {i} (EACCEPT)",
    "emodpe": "process {p} enters and extends page {i} by {perm} (EMODPE)",
    "eacceptcopy": "process {p} enters and fills page {i} by a copy, {perm} (EACCEPTCOPY)",
    "restrict": "process {p} restricts page {i} to {perm} (EMODPR)",
    "relax": "process {p} tells the kernel that page {i} has {perm} (RELAX_PERMISSIONS)",
    "to-tcs": "process {p} makes page {i} a TCS (EMODT)",
    "trim": "process {p} trims page {i} (EMODT)",
    "remove": "process {p} removes page {i} (EREMOVE)",
    "extend": "process {p} extends page {i} by {perm} (SGX_IOC_EXTEND_PERMISSIONS)",
}
_DECLARED = {
    "prot": "to be mapped at most", "maxperm": "MAXPERM", "allow": "ALLOW",
    "intent": "execute_intent",
}  # fmt: skip
"""What a loader declares of a page (`Design.declares`), but for segments."""
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
    if move.name in ("open", "inherit"):
        known["fmode"] = "read-only" if meta["fmode"] == 1 else "read-write"
    for name in ("prot", "perm"):
        if name in args:
            known[name] = mask_name(args[name])
    if known.get("prot") == "-":
        known["prot"] = "PROT_NONE"
    if "source" in args:
        known["source"] = SOURCES[args["source"]].words
    known["sigstruct"] = ""
    known["debug"] = ", ATTRIBUTES.DEBUG set" if args.get("debug") else ""
    if "sigstruct" in args:
        known["sigstruct"] = f", SIGSTRUCT in {SOURCES[args['sigstruct']].words}"
    segment = args.get("segment")
    known["segment"] = f", into segment {mask_name(segment)}" if segment else ""
    for name in [n for n in _DECLARED if move.name in ("add", "augment") and n in args]:
        known["segment"] = f", {_DECLARED[name]} {mask_name(args[name])}"
    if args.get("unmeasured"):
        known["segment"] += ", unmeasured"
    known["of"] = f"segment {mask_name(segment)}" if segment else ""
    own = move.world.design.add_args
    known["more"] = "".join(f", {name} {args[name]}" for name in args if name in own)
    template = _STEPS.get(move.name, move.name + " {p}")
    return template.format_map(known)


def rule_words(law: Any, move: Move) -> str:
    """The rule that decides a move, and its source: the design's own that was run last."""
    rules = rules_of(law)
    ran = [name for name in move.rules if name in rules]
    own = [n for n in ran if not rules[n][1].__module__.startswith(("softsgx.mm", "softsgx.sgx"))]
    if not ran:
        return ""
    name = (own or ran)[-1]
    return f"rule {name} ({rules[name][0].source})"


def permission_words(world: World, start: State | Mapping[str, int]) -> list[str]:
    """Who holds what, a line a process."""
    lines = []
    for p in range(world.n_processes):
        parts: dict[str, list[str]] = {"": []}
        if CONTEXT in world.actors:
            parts[LATER] = []
        for name, value in start.items():
            owner, _, kind = name.partition(".")
            if owner == f"may{p}" and value:
                when = LATER if kind.startswith(LATER) else ""
                kind = kind.removeprefix(LATER)
                names = APPARMOR[kind] if world.lsm == "apparmor" else KINDS[kind]
                held = " ".join(
                    (n if len(n) < 2 else n.upper()) for i, n in enumerate(names) if value >> i & 1
                )
                parts[when].append(f"{held} on {object_name(kind)}" if kind != "process" else held)
        for when, held_then in parts.items():
            words = " in its later context" if when else ""
            lines.append(f"process {p} holds{words} " + ("; ".join(held_then) or "nothing"))
    return lines
