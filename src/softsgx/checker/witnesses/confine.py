"""The policy of a trace: each of its processes gets what the trace says, and nothing else.

Which is real: a module beside softsgx's minimal SELinux policy, or AppArmor profiles. A
process that is forked has its parent's label; one that is spawned executes a file of its
own, by which it is told apart. One whose context changes has another label from then on.
"""

from __future__ import annotations

import re
from typing import Any

from softsgx.checker.world.actors import LATER
from softsgx.checker.world.permissions import KINDS, PROCESS2
from softsgx.designs.registry import DESIGNS
from softsgx.law.values import RWX, mask_name

__all__ = [
    "CHANGES", "SIGSTRUCT_TYPE", "SOURCE_TYPE", "device_of", "domain", "label_of", "later_label",
    "opened_before", "policy_of", "profile", "profiles_of", "rules_of_labels",
]  # fmt: skip

SOURCE_TYPE, SIGSTRUCT_TYPE = "trace_source_t", "trace_sigstruct_t"
"""The SELinux types of the files that pages are added from, and of SIGSTRUCT's."""


def device_of(design: str) -> str:
    """The device node that a design's traces are replayed with."""
    return DESIGNS[design].paths[0]


CHANGES = ("setcon", "exec")
"""Steps after which a process has another context."""
_UNCONFINED_TYPE = "unconfined_t"  # of the minimal policy, which holds nothing back from it


def domain(p: int, later: bool = False) -> str:
    """The SELinux type of process ``p``; later: of the context that it changes to."""
    return f"trace_process_{p}_{'later_' if later else ''}t"


def profile(p: int, later: bool = False) -> str:
    """The AppArmor profile of process ``p``."""
    return f"trace_process_{p}{'_later' if later else ''}"


def label_of(lsm: str, p: int, later: bool = False) -> str:
    """What is found of process ``p`` in the LSM's verdicts: its type, or its profile."""
    return (domain if lsm == "selinux" else profile)(p, later)


def later_label(trace: dict[str, Any], p: int) -> str:
    """The whole label that process ``p`` changes to, as it writes it."""
    label = label_of(trace["lsm"], p, later=True)
    return f"system_u:system_r:{label}:s0" if trace["lsm"] == "selinux" else label


def opened_before(trace: dict[str, Any]) -> bool:
    """Whether an unconfined process has opened the device, and process 0 comes of it."""
    return any(step["step"] == "inherit" for step in trace["steps"])


def rules_of_labels(trace: dict[str, Any], program: str) -> dict[str, str]:
    """Which label who executes a copy of ``program`` gets, by the copy's path.

    The first process is the program itself; where it has to execute one, it is unconfined before.
    """
    lsm, processes = trace["lsm"], range(trace["processes"])
    found = {f"{program}-{p}": label_of(lsm, p) for p in processes[1:]}
    if opened_before(trace):
        found[program] = _UNCONFINED_TYPE if lsm == "selinux" else "unconfined"
        found[f"{program}-0"] = label_of(lsm, 0)
    execs = {s["p"] for s in trace["steps"] if s["step"] == "exec"}
    return found | {f"{program}-{p}-later": label_of(lsm, p, later=True) for p in sorted(execs)}


def _labels(trace: dict[str, Any]) -> list[tuple[int, bool]]:
    """Each process, and once more where it changes its context."""
    changed = {s["p"] for s in trace["steps"] if s["step"] in CHANGES}
    first = [(p, False) for p in range(trace["processes"])]
    return first + [(p, True) for p in sorted(changed)]


def policy_of(trace: dict[str, Any], sources: str = "", sigstruct: str = "") -> str:
    """A CIL module beside softsgx's minimal policy: a domain for each process of a trace,
    with what the trace says that it holds, and nothing else of the enclave.

    sources: the directory of the files that pages are added from; they get a type of their
    own, so that the trace decides who may execute them. "": they are ordinary files. sigstruct:
    the same of the file that SIGSTRUCT is in.
    """
    own = {t: d for t, d in ((SOURCE_TYPE, sources), (SIGSTRUCT_TYPE, sigstruct)) if d}
    files, sigstruct_files = (t if t in own else "ordinary" for t in (SOURCE_TYPE, SIGSTRUCT_TYPE))
    lines = []
    for t, directory in own.items():
        where = re.sub(r"([.+*?^$|(){}\[\]])", r"\\\1", directory)
        context = f"(system_u object_r {t} ((s0) (s0)))"
        lines += [
            f"(type {t})", f"(typeattributeset object ({t}))",
            f"(roletype object_r {t})", f'(filecon "{where}/.*" any {context})',
        ]  # fmt: skip
    for p, later in _labels(trace):
        t = domain(p, later)
        lines += [
            f"(type {t})",
            f"(typeattributeset domain ({t}))",
            f"(roletype system_r {t})",
            f"(allow {t} sgx_enclave_device_t (chr_file (open getattr map ioctl)))",
            f"(allowx {t} sgx_enclave_device_t (ioctl chr_file ((range 0xa400 0xa4ff))))",
            f"(allow {t} domain (process (transition dyntransition sigchld)))",
        ]
        for file in own:
            lines.append(f"(allow {t} {file} (file (read write open getattr map)))")
        for mask in range(1, RWX + 1):
            word = mask_name(mask).lower()
            segment = f"sgx_segment_{word}_t"
            lines += [
                f'(typetransition {t} {t} anon_inode "[sgx_segment_{word}]" {segment})',
                f"(allow {t} {segment} (anon_inode (create getattr map ioctl)))",
            ]
        if "entry" in {s["step"] for s in trace["steps"] if s["p"] == p}:
            # The program's own code, where the world's enclave is one page that is entered.
            lines.append(f"(allow {t} sgx_segment_rx_t (anon_inode (read execute)))")
        for kind, bits in _held(trace, p, later).items():
            held = [n for i, n in enumerate(KINDS[kind]) if bits >> i & 1]
            more = " ".join(n for n in held if n in PROCESS2) if kind == "process" else ""
            if more:
                lines.append(f"(allow {t} self (process2 ({more})))")
            names = " ".join(n for n in held if kind != "process" or n not in PROCESS2)
            if not names:
                continue
            target = {
                "device": f"sgx_enclave_device_t (chr_file ({names}))",
                "process": f"self (process ({names}))",
                "file": f"{files} (file ({names}))",
                "sigstruct": f"{sigstruct_files} ({_class(trace)} ({names}))",
            }.get(kind)
            if kind == "sigstruct" and _hooks(trace) == "_process":
                target = f"self (enclave ({names}))"
            if target is None:
                word = mask_name(int(kind[7:])).lower()
                target = f"sgx_segment_{word}_t (anon_inode ({names}))"
            lines.append(f"(allow {t} {target})")
    return "\n".join(lines) + "\n"


def _hooks(trace: dict[str, Any]) -> str:
    """Which of its mail's LSM implementations a design's questions about SIGSTRUCT are for."""
    law = DESIGNS.get(str(trace.get("design")))
    return "_file" if law is None else str(getattr(law(**trace["options"]), "hooks", "_file"))


def _class(trace: dict[str, Any]) -> str:
    return "file" if _hooks(trace) == "_file" else "enclave"


def _held(trace: dict[str, Any], p: int, later: bool = False) -> dict[str, int]:
    """The permissions of a process, by object; later: those of the context that it changes to."""
    mine = {n.partition(".")[2]: v for n, v in trace["permissions"].items()
            if v and n.startswith(f"may{p}.")}  # fmt: skip
    return {n.removeprefix(LATER): v for n, v in mine.items() if n.startswith(LATER) == later}


def profiles_of(
    trace: dict[str, Any], own: str, sources: str, noexec: str = "", sigstruct: str = ""
) -> str:
    """AppArmor profiles, one for each process of a trace: r, w and m of the device as the trace
    says, m of the files that pages are added from, and of SIGSTRUCT's, as it says.

    own: the directory of the files of the enclave's own parts, whose code may be mapped.
    """
    text = "abi <abi/3.0>,\n"
    for p, later in _labels(trace):
        held = _held(trace, p, later)
        device = "".join(c for i, c in enumerate("rwm") if held.get("device", 0) >> i & 1)
        rules = [f"{device_of(trace['design'])} {device}"] if device else []
        rules += [f'"{own}/*" rwm']
        for kind, directory in (("file", sources), ("sigstruct", sigstruct)):
            if directory:
                rules += [f'"{directory}/*" rw{"m" if held.get(kind, 0) & 1 else ""}']
        rules += [f'"{noexec}/*" rw'] if noexec else []
        rules += [f"change_profile -> {profile(p, later=True)}"] * ((p, True) in _labels(trace))
        text += f"profile {profile(p, later)} {{\n" + "".join(f"  {r},\n" for r in rules) + "}\n"
    return text
