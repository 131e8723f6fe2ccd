"""Every question that an LSM was asked in a run, for a page: each once, denials first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from softsgx.errors import SoftsgxError
from softsgx.report.questions import LsmRun, Question
from softsgx.report.runs import Run
from softsgx.report.text import Formatter

__all__ = ["asked_rows"]

Row = dict[str, Any]


def asked_rows(run: Run, policy_of: Callable[[LsmRun], Any]) -> tuple[list[Row], str]:
    """The rows, and why they lack the rules of the policy ("" if they do not).

    A row: verdict, bad, hook, question, rule, law, policy (lines), times, event (the first's
    index). policy_of: the engine with the policy of a run; it may raise SoftsgxError.
    """
    of_lsm = LsmRun(run.header)
    firsts: dict[tuple[Any, ...], int] = {}
    for i, event in enumerate(run.events):
        of_lsm.note(event)
        for verdict in event.get("verdicts", ()):
            firsts.setdefault(Question(verdict, "").key(), i)
    if not of_lsm.kind:
        return _without_policy(run), ""
    policy, missing = None, ""
    try:
        policy = policy_of(of_lsm)
    except SoftsgxError as error:
        missing = str(error)
    rows = [_row(q, policy, firsts[q.key()]) for q in of_lsm.questions]
    return sorted(rows, key=lambda row: not row["bad"]), missing


def _row(question: Question, policy: Any, first: int) -> Row:
    from softsgx.report.explain import decided_by

    lines = []
    if policy is not None:
        try:
            lines = list(decided_by(question, policy))
        except SoftsgxError as error:
            lines = [str(error)]
    denied = bool(question.denied)
    verdict = "denied" if denied else "granted"
    if denied and not question.enforced:
        verdict = "would be denied"
    what = " ".join(question.denied or question.asked)
    on = f"{question.target}:{question.tclass}"
    more = f" ({question.path})" if question.path and question.path != question.target else ""
    more += f" {question.ioctl}" if question.ioctl else ""
    return {
        "verdict": verdict, "bad": denied, "hook": question.hook, "times": question.times,
        "question": f"{what} of {question.subject} on {on}{more}", "rule": question.rule,
        "law": question.law, "policy": lines, "event": first,
    }  # fmt: skip


def _without_policy(run: Run) -> list[Row]:
    """What would have been asked: hooks and their facts, where there was no LSM."""
    found: dict[str, Row] = {}
    for i, event in enumerate(run.events):
        for hook, facts, _, *by in event.get("asked", ()):
            call = str(event.get("name", ""))
            said = ", ".join(f"{k}={Formatter.fact(k, v, call)}" for k, v in facts.items())
            rule, law = by[:2] if len(by) > 1 else ("", "")  # none of an older softsgx
            row = found.setdefault(
                f"{hook}({said}) {rule} {law}",
                {
                    "verdict": "no LSM", "bad": False, "hook": hook, "question": said, "rule": rule,
                    "law": law, "policy": [], "times": 0, "event": i,
                },
            )  # fmt: skip
            row["times"] += 1
    return list(found.values())
