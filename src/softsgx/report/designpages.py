"""The pages of docs/designs/, written from the rules: one a design, and the comparison.

What stands on them is found by running rules: `softsgx.report.rules` prints them,
`softsgx.report.comparison` does with them what loaders do. Prose is the head of the file
that states a design. A test holds the committed pages against this.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

from softsgx.designs.base import Design
from softsgx.designs.linux import DEFAULT
from softsgx.designs.registry import DESIGNS, design_text
from softsgx.law.rule import rules_of
from softsgx.policy.lsm import PolicyLsm
from softsgx.report.comparison import TASKS, Needs, needs, told_apart
from softsgx.report.rules import RuleText, design_rules, instructions

__all__ = ["pages"]

_HEAD = "<!-- Written by `softsgx designs --markdown DIR`; do not edit. -->\n"
_INSTRUCTIONS = "SGX instructions"
_PROFILE = "abi <abi/3.0>,\nprofile asks flags=(complain) {\n}\n"


def pages() -> dict[str, str]:
    """Every page: name of the file → text.

    Raises UnsupportedError where the security modules' engines are missing.
    """
    found = {f"{cls.name}.md": _page(cls) for cls in DESIGNS.values()}
    found["sgx-instructions.md"] = _instructions()
    found["README.md"] = _overview()
    return found


def _clean(text: str) -> str:
    return inspect.cleandoc(text).replace("``", "`")


# -- one design ------------------------------------------------------------------------


def _page(cls: type[Design]) -> str:
    design = cls()
    lines = [_HEAD, f"# `{cls.name}`", "", cls.title[:1].upper() + cls.title[1:] + ".", ""]
    lines += [_clean(sys.modules[cls.__module__].__doc__ or ""), ""]
    lines += [f"- devices: {', '.join(f'`{path}`' for path in cls.paths)}"]
    lines += [f"- instructions: {instructions(cls)}"]
    remembers = ", ".join(f"`{name}`" for name in _own_fields(design))
    lines += [f"- remembers of each page, beside the EPCM: {remembers or 'nothing'}", ""]
    lines += _options(cls)
    rules = [rule for rule in design_rules(design) if rule.law != _INSTRUCTIONS]
    lines += _questions(rules)
    shown: dict[str, dict[str, list[str]]] = {}
    by_law: dict[str, list[RuleText]] = {}
    for rule in rules:
        by_law.setdefault(rule.law, []).append(rule)
    for law, texts in by_law.items():
        lines += [f"## Rules of `{law}`" if law in DESIGNS else f"## Rules of {_law(law)}", ""]
        other = DESIGNS.get(law) if law != cls.name else None
        same = shown.setdefault(law, {r.name: r.lines for r in _of(other)} if other else {})
        inherited = [rule.name for rule in texts if same.get(rule.name) == rule.lines]
        if inherited:
            names = ", ".join(f"`{name}`" for name in inherited)
            lines += [f"As on the page of [{law}]({law}.md): {names}.", ""]
        for rule in texts:
            if rule.name not in inherited:
                lines += _rule(rule)
    lines += ["The rules of the [SGX instructions](sgx-instructions.md) are those of every design."]
    lines += ["", *_variants(cls)]
    return "\n".join(lines).rstrip() + "\n"


def _law(law: str) -> str:
    return {"linux-mm": "Linux's memory management"}.get(law, law)


def _of(cls: type[Design] | None) -> list[RuleText]:
    return design_rules(cls()) if cls is not None else []


def _own_fields(design: Design) -> list[str]:
    epcm = {"present", "pt", "perm", "pending", "modified", "pr"}
    fields = [name for name in design.page_schema.fields if name not in epcm]
    # The maximum is remembered by all, and looked at by Linux alone; others are a repair's.
    said = " ".join(line for rule in design_rules(design) for line in rule.lines)
    fields = [name for name in fields if f"page.{name}" in said]
    own = ("may_map", "page_bound")
    looks = any(getattr(design, name, None) is not None for name in own)
    return [n for n in fields if n != "max" or looks]


_REPAIRS = """\
### Repairs
No mail has these. Each closes a hole that `softsgx check` finds; `softsgx repair {name}` looks for
the fewest that a property takes."""


def _options(cls: type[Design]) -> list[str]:
    if not cls.options:
        return []
    lines = ["## Options", "", "| option | values, the default first |", "|---|---|"]
    of_mail = {n: v for n, v in cls.options.items() if n not in cls.repairs}
    for name, values in of_mail.items():
        lines.append(f"| `{name}` | {', '.join(f'`{value}`' for value in values)} |")
    example = f"{cls.name}:" + ",".join(f"{n}={v[-1]}" for n, v in of_mail.items())
    lines += ["", f"For example `softsgx run --design {example} -- ./loader`.", ""]
    if cls.repairs:
        lines += [_REPAIRS.format(name=cls.name), ""]
        lines += ["| repair | values | what later kernels did |", "|---|---|---|"]
        for name, later in cls.repairs.items():
            of = ", ".join(f"`{value}`" for value in cls.options[name])
            lines.append(f"| `{name}` | {of} | {later} |")
        all_ = ",".join(f"{n}={v}" for n, v in cls.repaired.items())
        lines += ["", f"`{cls.name}:repaired` is `{cls.name}:{all_}`.", ""]
    return lines


def _questions(rules: list[RuleText]) -> list[str]:
    lines = ["## What the LSM is asked", "", "| by the rule | question |", "|---|---|"]
    for rule in rules:
        for line in rule.lines:
            if "ask LSM " in line:
                lines.append(f"| `{rule.name}` | `{line.strip().replace('ask LSM ', '')}` |")
    return [*lines, ""]


def _rule(rule: RuleText) -> Iterator[str]:
    yield f"### {rule.name}"
    yield ""
    yield " ".join(_clean(rule.doc).split()) + (" One page at a time." if rule.each else "")
    yield f"Source: {rule.source}."
    yield ""
    if rule.lines:
        yield "```text"
        yield from rule.lines
        yield "```"
        yield ""


def _variants(cls: type[Design]) -> Iterator[str]:
    """What another value of an option changes."""
    usual = {rule.name: rule.lines for rule in design_rules(cls())}
    for name, values in cls.options.items():
        for value in values[1:]:
            other = {rule.name: rule.lines for rule in design_rules(cls(**{name: value}))}
            changed = [n for n in other if other[n] != usual.get(n)]
            changed += [n for n in usual if n not in other]
            if not changed:
                continue
            yield f"## With `{name}={value}`"
            yield ""
            for rule in changed:
                yield f"`{rule}`:" if rule in other else f"`{rule}` is no rule:"
                yield ""
                yield "```diff"
                yield from _difference(usual.get(rule, []), other.get(rule, []))
                yield "```"
                yield ""


def _difference(old: list[str], new: list[str]) -> Iterator[str]:
    from difflib import ndiff

    yield from (line.rstrip() for line in ndiff(old, new) if not line.startswith("?"))


def _instructions() -> str:
    lines = [_HEAD, "# The SGX instructions", ""]
    lines += ["The same under every design: what the CPU checks and does to the EPCM.", ""]
    for rule in design_rules(DEFAULT()):
        if rule.law == _INSTRUCTIONS:
            lines += _rule(rule)
    return "\n".join(lines).rstrip() + "\n"


# -- the comparison --------------------------------------------------------------------


def _variants_of(cls: type[Design]) -> Iterator[dict[str, str]]:
    """The choices of options, those with the fewest that are not the default first.

    Repairs are all made or none.
    """
    free = [v[:1] if name in cls.repairs else v for name, v in cls.options.items()]
    every = [dict(zip(cls.options, values, strict=True)) for values in product(*free)]
    yield from sorted(every, key=lambda chosen: _distance(cls, chosen))
    if cls.repaired:
        yield {name: values[0] for name, values in cls.options.items()} | cls.repaired


def _distance(cls: type[Design], chosen: dict[str, str]) -> int:
    return sum(value != cls.options[name][0] for name, value in chosen.items())


def _rows(lsm: PolicyLsm) -> Iterator[tuple[str, list[Needs]]]:
    """Each design, and each choice of options with which something is different."""
    for cls in DESIGNS.values():
        seen: list[list[Needs]] = []
        for chosen in _variants_of(cls):

            def make(cls: type[Design] = cls, chosen: dict[str, str] = chosen) -> Design:
                return cls(**chosen)

            found = [needs(make, lsm, task) for task in TASKS]
            if found not in seen:
                seen.append(found)
                yield f"`{design_text(cls.name, chosen)}`", found


_GLUE = "<br>or "


def _cell(found: Needs) -> str:
    if not found.sets:
        return f"— ({found.why})"
    return _GLUE.join(_permissions(s) for s in found.sets)


def _permissions(asked: frozenset[tuple[str, str]]) -> str:
    if not asked:
        return "nothing"
    by_role: dict[str, list[str]] = {}
    for role, perm in sorted(asked, key=_order):
        by_role.setdefault(role, []).append(perm)
    return "; ".join(f"{role}: {' '.join(perms)}" for role, perms in by_role.items())


def _order(asked: tuple[str, str]) -> tuple[Any, ...]:
    roles = ["device", "segment", "itself", "file", "own file", "SIGSTRUCT", "own SIGSTRUCT", "fd"]
    perms = ["read", "write", "execute", "execmod", "r", "w", "m"]
    role, perm = asked
    kind = "segment" if role.startswith("segment") else role
    return roles.index(kind), role, perms.index(perm) if perm in perms else len(perms), perm


_TOP = """\
# The designs

Each page is printed from the rules that the device enforces. [How to add
one](../how-to-add-a-design.md) · [what was found out about them](../findings.md)

"""

_COMPARISON = """\
## Who needs which permission for what

The table was not written but computed: a loader on the model did each thing by every way that
it has, a security module in permissive mode noted what it was asked, and the smallest sets of
permissions are left; "or" separates them. Of all options that differ from the default the rows
show those that change something. What any use of an object takes (SELinux: open, map, ioctl,
create; reading a file) is left out. The first two columns are whole loads, from open on, each with
the memory that EADD copied the code from ("extended": by EXTEND_PERMISSIONS after that); the others
are what comes on top, once the enclave is initialized. "Told apart": whether a policy exists that
lets the load of the unmodified file pass and every way of generating the code fail.

*device*: `/dev/sgx/enclave` or `/dev/sgx_enclave`. *segment RX*: a segment's inode, by its mask.
*itself*: the process. *file*: the enclave's file, which the loader cannot write. *own file*: a
file that the loader wrote. *SIGSTRUCT's file*: where SIGSTRUCT lies, if not in memory. *fd*: it
has to be open for writing, which is asked about at open.

"""

_SELINUX = """\
### SELinux
"""

_APPARMOR = """\
### AppArmor
`r`, `w` and `m` on a path; what was granted to the open file before is not asked again. Segments
are anonymous inodes, at which AppArmor never looks.
"""


def _overview() -> str:
    lines = [_HEAD, _TOP.rstrip(), "", "| design | what it is | options |", "|---|---|---|"]
    for cls in DESIGNS.values():
        options = ", ".join(f"`{n}`" for n in cls.options if n not in cls.repairs) or "—"
        lines.append(f"| [{cls.name}]({cls.name}.md) | {cls.title} | {options} |")
    lines += ["", *_abilities(), "", _COMPARISON.rstrip(), ""]
    for text, lsm in ((_SELINUX, _selinux()), (_APPARMOR, _apparmor())):
        lines += [text.rstrip(), "", *_table(lsm), ""]
    return "\n".join(lines).rstrip() + "\n"


_ABILITIES = (
    ("add_page", "ADD_PAGE(S)"),
    ("add_region", "ADD_REGION"),
    ("ioc_mprotect", "SGX_IOC_MPROTECT"),
    ("extend_permissions", "EXTEND_PERMISSIONS"),
    ("map_segment", "MAP_SEGMENT, SEGMENT_FD"),
    ("restrict_permissions", "SGX2"),
    ("", "AEX-Notify"),
)


def _abilities() -> Iterator[str]:
    yield "## What a loader finds"
    yield ""
    yield f"| design | {' | '.join(name for _, name in _ABILITIES)} | devices |"
    yield "|---" * (len(_ABILITIES) + 2) + "|"
    for cls in DESIGNS.values():
        rules = rules_of(cls)
        has = [
            "yes" if (rule in rules if rule else cls.aexnotify) else "—"
            for rule, name in _ABILITIES
        ]
        yield f"| {cls.name} | {' | '.join(has)} | `{cls.paths[0]}` |"


def _table(lsm: PolicyLsm) -> Iterator[str]:
    yield f"| design | {' | '.join(task.title for task in TASKS)} | told apart |"
    yield "|---" * (len(TASKS) + 2) + "|"
    for name, found in _rows(lsm):
        cells = [_cell(f) for f in found]
        for i, task in enumerate(TASKS):
            if task.whole:
                cells[i] = _GLUE.join(
                    f"{_permissions(s)} *({way})*" for s, way in found[i].sets.items()
                )
        apart = "yes" if told_apart(found[0], found[1]) else "no"
        yield f"| {name} | {' | '.join(cells)} | {apart} |"


def _selinux() -> PolicyLsm:
    from softsgx.policy.labels import PathLabels
    from softsgx.policy.selinux import MINIMAL, SELinuxPolicy
    from softsgx.policy.selinux_lsm import SELinuxLsm, full_context

    policy = SELinuxPolicy.load(MINIMAL, enforcing=False)
    return SELinuxLsm(policy, PathLabels(policy), full_context(policy, "loader_t"))


def _apparmor() -> PolicyLsm:
    from tempfile import NamedTemporaryFile

    from softsgx.policy.apparmor import AppArmorPolicy
    from softsgx.policy.apparmor_lsm import AppArmorLsm

    with NamedTemporaryFile("w", suffix=".profile") as file:
        file.write(_PROFILE)
        file.flush()
        return AppArmorLsm(AppArmorPolicy.load(file.name), "asks")
