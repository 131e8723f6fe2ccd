"""Why a permission was granted or not: the rule, or the one that is missing.

The answer is for people: the rule that grants it as it stands in the policy, or the
``allow`` line that audit2allow would print, and the booleans that would do instead (what
libselinux's audit2why finds by trying them on a loaded policy is read off the
conditionals here).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

from softsgx.policy.rules import Statement
from softsgx.policy.selinux import SELinuxPolicy
from softsgx.policy.sepol import COMPUTEAV_BOUNDS, COMPUTEAV_CONSTRAINT, COMPUTEAV_RBAC

__all__ = ["Why", "why"]

# More booleans than this are not tried together: the number of sets grows too fast.
_MOST_BOOLEANS = 3


class Why:
    """The explanation of one decision.

    `granted`: (permission, rule, condition) of each permission that a rule in force
    grants; condition is "" or the booleanif expression. `denied`: the others, sorted.
    `missing`: the policy statement that would grant them ("" when none is missing).
    `booleans`: sets of boolean values, each of which would grant all of them.
    `obstacles`: what denies although a rule allows: constraints, roles, bounds, ioctl
    extended permissions. `permissive`: denials are not enforced.
    """

    __slots__ = ("booleans", "denied", "granted", "missing", "obstacles", "permissive")

    def __init__(self) -> None:
        self.granted: list[tuple[str, str, str]] = []
        self.denied: list[str] = []
        self.missing = ""
        self.booleans: list[dict[str, bool]] = []
        self.obstacles: list[str] = []
        self.permissive = False

    def lines(self) -> list[str]:
        """Return the explanation as lines of text."""
        said = []
        for perm, rule, condition in self.granted:
            while_true = f", while {condition}" if condition else ""
            said.append(f"{perm}: granted by {rule}{while_true}")
        if self.denied:
            names = ", ".join(self.denied)
            said.append(f"{names}: denied" + (", not enforced" if self.permissive else ""))
        said += self.obstacles
        if self.missing:
            said.append(f"missing: {self.missing}")
        for values in self.booleans:
            settings = " ".join(f"{name}={int(value)}" for name, value in values.items())
            said.append(f"or set: {settings}")
        return said


def why(
    policy: SELinuxPolicy,
    scontext: str,
    tcontext: str,
    tclass: str,
    perms: Iterable[str],
    cmd: int | None = None,
) -> Why:
    """Explain a decision; `cmd` is the ioctl's number where `perms` is ``ioctl``.

    The first call reads the policy's text, which takes half a second for a
    distribution's policy. Raises UsageError for an unknown context.
    """
    asked = tuple(perms)
    decision = policy.allowed(scontext, tcontext, tclass, asked)
    whole = decision if cmd is None else policy.allowed_ioctl(scontext, tcontext, tclass, cmd)
    found = Why()
    found.permissive = whole.permissive
    found.denied = sorted(whole.denied)
    source, target = policy.type_of(scontext), policy.type_of(tcontext)
    rules = [
        (item, _perms_of(item)) for item in policy.text.matching("allow", source, target, tclass)
    ]
    booleans = policy.text.booleans
    for perm in asked:
        for item, names in rules:
            if perm in names and item.holds(booleans):
                if perm in whole.granted:
                    condition = item.branch.describe() if item.branch else ""
                    found.granted.append((perm, item.line, condition))
                break
        else:
            if perm in whole.granted:
                found.granted.append((perm, "handle_unknown (not in the policy)", ""))
    if decision.denied:
        _explain_denial(policy, found, rules, (scontext, tcontext, tclass), decision.denied)
    elif whole.denied and cmd is not None:
        command = f"0x{cmd & 0xFFFF:x}"
        found.obstacles.append(
            f"extended permissions: a rule for these types lists ioctls, {command} is not listed"
        )
        found.missing = f"allowxperm {source} {_self(source, target)}:{tclass} ioctl {command};"
    return found


def _explain_denial(
    policy: SELinuxPolicy,
    found: Why,
    rules: list[tuple[Statement, set[str]]],
    question: tuple[str, str, str],
    denied: frozenset[str],
) -> None:
    scontext, tcontext, tclass = question
    source, target = policy.type_of(scontext), policy.type_of(tcontext)
    text = policy.text
    granted = {
        perm for item, names in rules if item.holds(text.booleans) for perm in names & denied
    }
    missing = sorted(denied - granted)
    if missing:
        names = missing[0] if len(missing) == 1 else "{ " + " ".join(missing) + " }"
        found.missing = f"allow {source} {_self(source, target)}:{tclass} {names};"
        found.booleans = _booleans_for(rules, set(missing), text.booleans)
    if granted:
        reason, constraints = policy.reason(scontext, tcontext, tclass, sorted(granted))
        if reason & COMPUTEAV_CONSTRAINT:
            found.obstacles.append("a constraint denies it: " + " ".join(constraints.split()))
        if reason & COMPUTEAV_RBAC:
            found.obstacles.append("the roles deny it: no roleallow for this change of role")
        if reason & COMPUTEAV_BOUNDS:
            found.obstacles.append(f"the bounds of {source} deny it (typebounds)")


def _self(source: str, target: str) -> str:
    return "self" if source == target else target


def _perms_of(item: Statement) -> set[str]:
    # "(allow a b (file (read write)))": the innermost list
    return set(item.line.rstrip(")").rpartition("(")[2].split())


def _booleans_for(
    rules: list[tuple[Statement, set[str]]], missing: set[str], now: Mapping[str, bool]
) -> list[dict[str, bool]]:
    """The smallest changes of booleans that grant all of `missing`."""
    names = sorted(
        {
            name
            for item, perms in rules
            if item.branch is not None and perms & missing
            for name in item.branch.names()
        }
    )
    for count in range(1, min(len(names), _MOST_BOOLEANS) + 1):
        found = []
        for chosen in combinations(names, count):
            values = dict(now) | {name: not now[name] for name in chosen}
            granted = {perm for item, perms in rules if item.holds(values) for perm in perms}
            if missing <= granted:
                found.append({name: values[name] for name in chosen})
        if found:
            return found
    return []
