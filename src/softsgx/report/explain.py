"""Why the LSM allowed or denied what a run asked: the rules of the policy, by their text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softsgx.policy.apparmor import AppArmorPolicy, mask_of
from softsgx.policy.selinux import SELinuxPolicy
from softsgx.policy.why import why
from softsgx.report.questions import LsmRun, Question

__all__ = [
    "change_line", "decided_by", "explain_apparmor", "explain_selinux", "explained", "profile_line",
]  # fmt: skip


def _head(question: Question) -> str:
    what = " ".join(question.denied or question.asked)
    said = "denied " if question.denied else "granted"
    if question.denied and not question.enforced:
        said = "denied (not enforced)"
    target = question.target.split(":")[2] if question.target.count(":") > 1 else question.target
    where = f" ({question.path})" if question.path and question.path != target else ""
    where += f" {question.ioctl}" if question.ioctl else ""
    return f"{said} {what} on {target}:{question.tclass}{where}"


def _asked(question: Question) -> str:
    by = f"rule {question.rule} ({question.law}), " if question.rule else ""
    times = "once" if question.times == 1 else f"{question.times} times"
    return (
        f"    to {question.subject}; asked {times} by {by}hook {question.hook}, in {question.call}"
    )


def _ordered(run: LsmRun) -> list[Question]:
    """The denials first."""
    return sorted(run.questions, key=lambda q: not q.denied)


def explain_selinux(run: LsmRun, policy: SELinuxPolicy) -> Iterator[str]:
    """Lines on every question of the run: the rule that granted it, or the one that is missing."""
    yield from _explained(run, policy)


def _explained(run: LsmRun, policy: SELinuxPolicy | AppArmorPolicy) -> Iterator[str]:
    for question in _ordered(run):
        yield _head(question)
        yield _asked(question)
        yield from (f"    {line}" for line in decided_by(question, policy))


def explained(run: LsmRun, policy: SELinuxPolicy | AppArmorPolicy) -> list[dict[str, Any]]:
    """Every question as plain data: its own fields, and ``why``, the lines of `decided_by`."""
    return [
        question.as_dict() | {"why": list(decided_by(question, policy))}
        for question in _ordered(run)
    ]


def decided_by(question: Question, policy: SELinuxPolicy | AppArmorPolicy) -> Iterator[str]:
    """The rule of the policy that granted a question, or that is missing: a line or more."""
    if isinstance(policy, AppArmorPolicy):
        yield from _of_profile(question, policy)
        return
    found = why(
        policy,
        question.subject,
        question.target,
        question.tclass,
        question.denied or question.asked,
        question.cmd,
    )
    for line in found.lines():
        if not line.endswith((": denied", ": denied, not enforced")):
            yield line


def _of_profile(question: Question, policy: AppArmorPolicy) -> Iterator[str]:
    if not question.denied:
        yield f"granted by the profile {question.subject}"
        return
    if question.tclass == "profile":
        rule = question.denied[0] == question.hook != "change_hat"
        name = question.target or "such a hat"
        yield f"missing: {change_line(name)}" if rule else f"there is no profile {name}"
        return
    perms = policy.profile(question.subject).perms(question.path, True)
    if perms.quiet & mask_of("".join(question.denied)):
        yield "a deny rule of the profile, which no other rule overrides"
    yield f"missing: {profile_line(question.path, question.denied)}"


def explain_apparmor(run: LsmRun, policy: AppArmorPolicy) -> Iterator[str]:
    """The same of profiles. A compiled profile does not tell which of its lines granted."""
    yield from _explained(run, policy)


def change_line(profile: str) -> str:
    """The rule of a profile that allows to change to another."""
    return f"change_profile -> {_quoted(profile)},"


def profile_line(path: str, letters: tuple[str, ...]) -> str:
    """The rule of a profile that allows ``letters`` on a path and on no other."""
    return f"{_quoted(path)} {''.join(sorted(set(letters), key='rwm'.find))},"


def _quoted(path: str) -> str:
    text = "".join("\\" + c if c in '\\*?[]{}^"@' else c for c in path)
    if any(c.isspace() or c in ",#" for c in text):
        text = f'"{text}"'
    return text
