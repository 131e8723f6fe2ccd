"""The smallest addition to a policy that a recorded run needs to pass.

It grants what was denied and nothing else. A run that was stopped by its first denial
tells no more than that one; recorded permissive, it tells all. What is missing is found
once (`lacks`); a CIL module, a module for a policy of refpolicy's kind, and plain data say it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from os.path import basename
from typing import Any

from softsgx.policy.selinux import SELinuxPolicy
from softsgx.policy.why import why
from softsgx.report.explain import change_line, profile_line
from softsgx.report.questions import LsmRun, Question

__all__ = ["Lacks", "cil_module", "lacks", "module_name", "profile_lines", "profiles", "te_module"]

_Vector = tuple[str, str, str]


class Lacks:
    """What an SELinux policy lacks for a run.

    allow: the permissions by (source type, target type, class); allowx: the ioctls, where the
    policy lists those of their kind. obstacles: what denies although a rule allows. enforcing:
    denials were enforced, so there may be more. program: that ran. policy: the files it ran under.
    """

    __slots__ = ("allow", "allowx", "denied", "enforcing", "obstacles", "policy", "program")

    def __init__(self, run: LsmRun, denied: list[Question]) -> None:
        self.program = _one_line(run.header["argv"][0])
        self.policy = [_one_line(name) for name in run.setup["policy"]]
        self.denied, self.enforcing = bool(denied), any(q.enforced for q in denied)
        self.allow: dict[_Vector, list[str]] = {}
        self.allowx: dict[_Vector, list[int]] = {}
        self.obstacles: list[str] = []

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""

        def rows(rules: dict[_Vector, Any], name: str) -> list[dict[str, Any]]:
            keys = ("source", "target", "tclass")
            return [dict(zip(keys, key, strict=True)) | {name: v} for key, v in rules.items()]

        return {
            "lsm": "selinux",
            "program": self.program,
            "policy": self.policy,
            "enforcing": self.enforcing,
            "allow": rows(self.allow, "perms"),
            "allowx": rows(self.allowx, "ioctls"),
            "obstacles": self.obstacles,
        }


def _denied(run: LsmRun) -> list[Question]:
    return [q for q in run.questions if q.denied and not q.at_exec]


def _one_line(text: str) -> str:
    """A name in a comment: it must not end the comment."""
    return " ".join(text.split())


def lacks(run: LsmRun, policy: SELinuxPolicy) -> Lacks:
    """What ``policy`` lacks, the one that the run was under."""
    found = Lacks(run, denied := _denied(run))
    vectors: dict[_Vector, set[str]] = {}
    commands: dict[_Vector, set[int]] = {}
    obstacles: dict[str, None] = {}
    for q in denied:
        key = (policy.type_of(q.subject), policy.type_of(q.target), q.tclass)
        plain = policy.allowed(q.subject, q.target, q.tclass, q.denied)
        if plain.denied:
            vectors.setdefault(key, set()).update(plain.denied)
        if q.cmd is not None and policy.lists_ioctls(q.subject, q.target, q.tclass):
            commands.setdefault(key, set()).add(q.cmd & 0xFFFF)
        obstacles |= dict.fromkeys(why(policy, q.subject, q.target, q.tclass, q.denied).obstacles)
    found.allow = {key: sorted(perms) for key, perms in sorted(vectors.items())}
    found.allowx = {key: sorted(numbers) for key, numbers in sorted(commands.items())}
    found.obstacles = list(obstacles)
    return found


def _head(found: Lacks, comment: str) -> Iterator[str]:
    yield f"{comment} Grants what a run of {found.program} was denied, and no more."
    if found.enforcing:
        yield f"{comment} The run was enforcing: what it would have asked after a denial is not"
        yield f"{comment} known. Record it with --permissive to have all of it at once."
    if not found.denied:
        yield f"{comment} Nothing was denied."


def cil_module(found: Lacks) -> Iterator[str]:
    """The lines of a CIL module. What no rule would mend (a constraint, a role) is a comment."""
    yield from _head(found, ";")
    files = " ".join(f"--selinux {name}" for name in found.policy)
    yield f"; To try it: softsgx run {files} --selinux THIS-FILE …"
    for (source, target, tclass), perms in found.allow.items():
        yield f"(allow {source} {target} ({tclass} ({' '.join(perms)})))"
    for (source, target, tclass), numbers in found.allowx.items():
        listed = " ".join(f"0x{n:x}" for n in numbers)
        yield f"(allowx {source} {target} (ioctl {tclass} ({listed})))"
    for text in found.obstacles:
        yield f"; not enough: {text}"


def module_name(program: str) -> str:
    """A module's name for a program: ``sgx_`` and its file's name, as an identifier."""
    return "sgx_" + re.sub(r"[^a-z0-9]+", "_", basename(program).lower()).strip("_")


def te_module(found: Lacks, name: str) -> Iterator[str]:
    """The lines of NAME.te, for refpolicy's Makefile: the same rules as `cil_module`'s.

    ``policy_module`` and ``gen_require`` are macros of refpolicy. Types and classes are named
    both, since a policy's headers need not know the newest classes.
    """
    yield from _head(found, "#")
    yield f"# To build it: make -f /usr/share/selinux/devel/Makefile {name}.pp"
    yield ""
    yield f"policy_module({name}, 1.0.0)"
    used: dict[str, set[str]] = {}
    for (_, _, tclass), perms in found.allow.items():
        used.setdefault(tclass, set()).update(perms)
    for _, _, tclass in found.allowx:
        used.setdefault(tclass, set()).add("ioctl")
    vectors = [*found.allow, *found.allowx]
    if vectors:
        yield ""
        yield "gen_require(`"
        for kind in sorted({name for source, target, _ in vectors for name in (source, target)}):
            yield f"\ttype {kind};"
        for tclass, names in sorted(used.items()):
            yield f"\tclass {tclass} {_set(sorted(names))};"
        yield "')"
        yield ""
    for (source, target, tclass), perms in found.allow.items():
        yield f"allow {source} {_to(source, target)}:{tclass} {_set(perms)};"
    for (source, target, tclass), numbers in found.allowx.items():
        listed = _set([f"0x{n:x}" for n in numbers])
        yield f"allowxperm {source} {_to(source, target)}:{tclass} ioctl {listed};"
    for text in found.obstacles:
        yield f"# not enough: {text}"


def _set(names: list[str]) -> str:
    return "{ " + " ".join(names) + " }"


def _to(source: str, target: str) -> str:
    return "self" if source == target else target


def profiles(run: LsmRun) -> dict[str, list[str]]:
    """The rules that AppArmor's profiles lack, by profile."""
    needed: dict[str, dict[str, set[str]]] = {}
    changes: dict[str, set[str]] = {}
    for q in _denied(run):
        paths = needed.setdefault(q.subject, {})
        if q.tclass != "profile":
            paths.setdefault(q.path, set()).update(q.denied)
        elif q.denied[0] == q.hook != "change_hat":  # a profile that is not there no rule helps
            changes.setdefault(q.subject, set()).add(change_line(q.target))
    return {
        profile: [
            *(profile_line(path, tuple(letters)) for path, letters in sorted(paths.items())),
            *sorted(changes.get(profile, ())),
        ]
        for profile, paths in needed.items()
    }


def profile_lines(run: LsmRun) -> Iterable[str]:
    """The rules to add to the profiles of the run, each profile's under a comment."""
    denied = _denied(run)
    if any(q.enforced for q in denied):
        yield "# The run was enforcing: what it would have asked after a denial is not known."
        yield "# Record it with the profile in complain mode to have all of it at once."
    if not denied:
        yield "# Nothing was denied."
    for profile, lines in profiles(run).items():
        yield f"# for the profile {profile} in {_one_line(run.setup['policy'][0])}"
        yield from (f"  {line}" for line in lines)
