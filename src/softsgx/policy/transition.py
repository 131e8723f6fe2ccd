"""The label of a new object: the kernel's security_compute_sid over a policy's text.

libsepol keeps this call (sepol_transition_sid) to itself, so it is done here, in the
order of Linux 6.1 security/selinux/ss/services.c, security_compute_sid() with
AVTAB_TRANSITION, and ss/mls.c, mls_compute_sid().
"""

from __future__ import annotations

from softsgx.errors import UnsupportedError
from softsgx.policy.rules import Expression, PolicyText, parse

__all__ = ["new_context", "range_text"]


def new_context(
    text: PolicyText, scontext: str, tcontext: str, tclass: str, name: str | None
) -> str:
    """Return the label that a new `tclass` object gets, or a process after exec.

    `scontext` is the creating task's, `tcontext` the related object's (the directory, the
    file system, the program to execute), both canonical; `name` the new object's name.
    The result is not canonical and may be a context that the policy does not allow.
    """
    source, target = scontext.split(":", 3), tcontext.split(":", 3)
    of_process = tclass == "process" or tclass.endswith("socket")
    user = target[0] if _default(text, "user", tclass) == "target" else source[0]
    role = _role(text, source, target, tclass, of_process)
    chosen = _default(text, "type", tclass) or ("source" if of_process else "target")
    default_type = source[2] if chosen == "source" else target[2]
    new_type = _transition_type(text, source[2], target[2], tclass, name) or default_type
    context = f"{user}:{role}:{new_type}"
    if len(source) < 4:
        return context
    return f"{context}:{_range(text, source, target, tclass, of_process)}"


def _default(text: PolicyText, field: str, tclass: str) -> str | None:
    """The class's default_user, _role, _type or _range: ``source``, ``target low``…"""
    for item in text.statements(f"default{field}"):
        words = parse(item.line)
        first = words[1]
        if tclass in (first if isinstance(first, Expression) else [first]):
            return " ".join(str(word) for word in words[2:])
    return None


def _role(
    text: PolicyText, source: list[str], target: list[str], tclass: str, of_process: bool
) -> str:
    for item in text.statements("roletransition"):
        if item.line.startswith(f"(roletransition {source[1]} {target[2]} {tclass} "):
            return parse(item.line).atom(4)
    chosen = _default(text, "role", tclass)
    if chosen is None:
        return source[1] if of_process else "object_r"
    return source[1] if chosen == "source" else target[1]


def _transition_type(
    text: PolicyText, source: str, target: str, tclass: str, name: str | None
) -> str | None:
    plain = conditional = None
    for item in text.statements("typetransition"):
        if not item.line.startswith(f"(typetransition {source} {target} {tclass} "):
            continue
        words = parse(item.line)
        if len(words) == 6:
            if name is not None and words.atom(4) == name:
                return words.atom(5)
        elif item.branch is None:
            plain = words.atom(4)
        elif conditional is None and item.holds(text.booleans):
            conditional = words.atom(4)
    return plain or conditional


def _range(
    text: PolicyText, source: list[str], target: list[str], tclass: str, of_process: bool
) -> str:
    for item in text.statements("rangetransition"):
        if item.line.startswith(f"(rangetransition {source[2]} {target[2]} {tclass} "):
            return range_text(parse(item.line).sub(4))
    chosen = _default(text, "range", tclass)
    if chosen is None:
        return source[3] if of_process else source[3].partition("-")[0]
    if chosen == "glblub":
        raise UnsupportedError(f"the policy's (defaultrange {tclass} glblub) is not supported")
    side, _, part = chosen.partition(" ")
    whole = (source if side == "source" else target)[3]
    low, _, high = whole.partition("-")
    return {"low": low, "high": high or low}.get(part, whole)


def range_text(words: Expression) -> str:
    """Return the text of a CIL level range: ``((s0) (s0 (c0 c1)))`` is ``s0-s0:c0,c1``."""
    low, high = _level_text(words.sub(0)), _level_text(words.sub(1))
    return low if low == high else f"{low}-{high}"


def _level_text(level: Expression) -> str:
    categories = [
        item if isinstance(item, str) else f"{item.atom(1)}.{item.atom(2)}"
        for item in (level.sub(1) if len(level) > 1 else ())
    ]
    return level.atom(0) + (":" + ",".join(categories) if categories else "")
