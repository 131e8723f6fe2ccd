"""What went wrong in a recorded run, the worst first: each kind once, with how often."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softsgx.record.crash import crash_lines
from softsgx.report.runs import Run
from softsgx.report.text import enclu_name, fault_word, signal_name
from softsgx.sdm import leaves as sdm
from softsgx.uapi.errno import errno_name

__all__ = ["Failure", "failures", "is_failure"]

_ENDED, _DENIED, _REFUSED, _FAULT, _INSTRUCTION = range(5)


class Failure:
    """One thing that failed, alike each time.

    rank: the lower the worse. what: the call or instruction. answer: errno, signal or error
    code by name. why: the condition that did not hold, or what the policy denied. rule, law,
    source: of the design, "" where none decided. events: the indices, in order.
    """

    __slots__ = ("answer", "events", "law", "rank", "rule", "source", "what", "why")

    def __init__(
        self, rank: int, what: str, answer: str, why: str, decided: dict[str, str] | None = None
    ) -> None:  # fmt: skip
        self.rank, self.what, self.answer, self.why = rank, what, answer, why
        by = decided or {}
        self.rule, self.law, self.source = (by.get(k, "") for k in ("rule", "law", "source"))
        self.events: list[int] = []

    def key(self) -> tuple[Any, ...]:
        """What makes two the same."""
        return self.rank, self.what, self.answer, self.why, self.rule, self.law


def _call(event: dict[str, Any]) -> str:
    kind = event["event"]
    if kind == "ioctl":
        return str(event["name"])
    if kind in ("mm", "path"):
        return str(event["call"])
    return f"syscall {event['call']}" if kind == "refused" else str(kind)


def _of(event: dict[str, Any]) -> Iterator[Failure]:
    kind = event["event"]
    for verdict in event.get("verdicts", ()):
        if verdict["denied"]:
            perms = " ".join(verdict["denied"])
            why = f"{verdict['subject']} on {verdict['target']} ({verdict['tclass']})"
            said = "would be denied" if verdict["permissive"] else "denied"
            by = {"rule": verdict.get("rule", ""), "law": verdict.get("law", "")}
            yield Failure(_DENIED, _call(event), f"{said} {perms}", why, by)
    for effect in event.get("effects", ()):
        if effect[0] == "kill":
            yield Failure(_ENDED, "the kernel refuses to protect the enclave", "killed", "")
    if -4096 < event.get("answer", 0) < 0:
        answer = errno_name(event["answer"])
        yield Failure(_REFUSED, _call(event), answer, event.get("why", ""), event.get("decided"))
    elif kind == "exit" and event["status"]:
        status = event["status"]
        if status & 0x7F:
            yield Failure(_ENDED, "the process is killed", signal_name(status & 0x7F), "")
        else:
            yield Failure(_ENDED, "the process ends", f"exit status {status >> 8}", "")
    elif kind == "fault" and event["signal"]:
        what = f"page fault: {fault_word(event['access'])}"
        answer = f"{signal_name(event['signal'])} {event['code']:#x}"
        yield Failure(_FAULT, what, answer, event["why"], event.get("decided"))
    elif kind == "exception" and event["vector"] != sdm.VECTOR_PF:
        name = sdm.VECTOR_NAMES.get(event["vector"], f"vector {event['vector']}")
        to = "vDSO" if event["to"] == "vdso" else signal_name(event["signal"])
        yield Failure(_FAULT, name, f"to {to}", "")
    elif kind == "crash":
        head, *rest = crash_lines(event)
        at = event["frames"][0] if event["frames"] else ""
        yield Failure(_ENDED, head, at, "; ".join(line for line in rest if _is_reason(line)))
    elif kind == "enclu":
        yield from _instruction(event)


def _is_reason(line: str) -> bool:
    """Of a crash's lines: why, what the page was, and the callers."""
    return line.startswith(("why:", "page:", "#")) and not line.startswith("#0 ")


def _instruction(event: dict[str, Any]) -> Iterator[Failure]:
    leaf, error = event["leaf"], event["error"]
    codes = (sdm.EACCEPT, sdm.EACCEPTCOPY)
    code = error or (event["rax"] if leaf in codes else 0)
    if code:
        vector = sdm.VECTOR_NAMES.get(code & 0xFF) if code >> 30 else None
        yield Failure(_INSTRUCTION, enclu_name(leaf), vector or sdm.sgx_error_name(code), "")


def is_failure(event: dict[str, Any]) -> bool:
    """Whether something failed in an event."""
    return next(_of(event), None) is not None


def failures(run: Run) -> list[Failure]:
    """Everything that failed, the worst first, then in order of the first time."""
    found: dict[tuple[Any, ...], Failure] = {}
    for i, event in enumerate(run.events):
        for failure in _of(event):
            found.setdefault(failure.key(), failure).events.append(i)
    return sorted(found.values(), key=lambda f: (f.rank, f.events[0]))
