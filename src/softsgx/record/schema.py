"""The form of a recording: a header a run, then one JSON object a line for each event.

One row an event: its name and its fields in order. A line is
``{"event": NAME, "us": microseconds since the header, "pid": the thread, FIELDS…}``,
and after the fields, where there is something to say, ``decided`` (who refused),
``asked`` (the questions of the LSM) and ``effects`` (what was done to the real
processes). Text, so that the usual tools read it; a line an event, so that what
was written before a crash can be read; no field is ever renamed within a version,
new ones are added at the end.
"""

from __future__ import annotations

__all__ = ["EVENTS", "EVERY", "HEADER", "OPTIONAL", "VERSION", "May", "Or", "encode"]

VERSION = 1
"""Of the form, in every header. A reader refuses others."""


class Or:
    """A field that may be of one of these forms."""

    __slots__ = ("forms",)

    def __init__(self, *forms: object) -> None:
        self.forms = forms


class May(Or):
    """One that may be missing."""

    __slots__ = ()


_TID = range(1 << 31)
_INTS = {str: int}
_DECISION = {"rule": str, "law": str, "source": str}
_VERDICT = {
    "pid": int, "lsm": str, "hook": str, "subject": str, "target": str, "tclass": str,
    "asked": [str], "denied": [str], "permissive": bool, "path": May(str), "cmd": May(int, None),
    "rule": May(str), "law": May(str),
}  # fmt: skip
_SETUP = {
    "policy": (str, ...), "rules": {str: str}, "booleans": May({str: bool}),
    "enforcing": May(bool), "context": May(str), "file_contexts": May(str), "profile": May(str),
}  # fmt: skip

HEADER: dict[str, object] = {
    "softsgx": int, "program": str, "time": str, "argv": [str], "design": str,
    "options": {str: Or(int, str)}, "epc_bytes": int, "lsm": str, "kernel": str,
}  # fmt: skip
"""``softsgx``: VERSION. ``program``: of softsgx. ``time``: UTC, ISO 8601."""

EVERY: dict[str, object] = {"event": str, "us": range(1 << 53), "pid": _TID}
"""What each event begins with."""

EVENTS: dict[str, dict[str, object]] = {
    # A program begins, a child appears, a process ends (``status`` is waitpid's).
    "exec": {"path": str, "argv": [str]},
    "child": {"child": _TID, "what": str},
    "exit": {"status": int},
    # A signal reaches the guest.
    "signal": {"signal": int},
    # Calls on the device's paths: ``answer`` is what the call returned, -errno on failure.
    "open": {"path": str, "fmode": int, "answer": int, "why": str},
    "path": {"call": str, "path": str, "answer": int},
    # A call without a row in the table of them all, or a 32-bit one, that named an enclave.
    "refused": {"call": int, "args": [int], "answer": int, "why": str},
    # ``args``: the argument's structure after the call, by its field names.
    "ioctl": {
        "fd": int,
        "enclave": int,
        "name": str,
        "cmd": int,
        "arg": int,
        "args": Or(None, _INTS),
        "answer": int,
        "why": str,
    },
    # mmap, mprotect, munmap, mremap, madvise; "replace": foreign memory over an enclave.
    "mm": {"call": str, "args": [int], "answer": int, "why": str},
    # ``error``: 0, or FAULT | vector; registers as the instruction left them.
    "enclu": {"leaf": int, "error": int, "rax": int, "rbx": int, "rcx": int, "rip": int},
    # EENTERs that are told by their number: ``counts`` is [TCS, number] for each.
    "entered": {"counts": [(int, int)]},
    "aex": {"vector": int, "code": int, "addr": int, "rip": int},
    # A page fault inside: ``access`` 0 read, 1 write, 2 fetch; ``signal`` 0: mended.
    "fault": {
        "addr": int,
        "access": int,
        "signal": int,
        "code": int,
        "page": Or(None, _INTS),
        "why": str,
    },
    # An absent page that an ENCLU's operand needed was added; the instruction is tried again.
    "augment": {"addr": int, "page": Or(None, _INTS)},
    "notify": {"tcs": int, "cssa": int},
    # An exception as the program sees it: ``to`` is "vdso" or "signal".
    "exception": {"vector": int, "code": int, "addr": int, "to": str, "signal": int, "leaf": int},
    # An exception inside that ends the process, in full; ``ssa``: the registers that AEX saved.
    "crash": {
        "vector": int,
        "code": int,
        "addr": int,
        "place": str,
        "access": Or(None, int),
        "why": str,
        "rule": str,
        "page": Or(None, _INTS),
        "frames": [str],
        "ssa": _INTS,
        "symbols": str,
    },
    "cpuid": {"leaf": int, "subleaf": int, "eax": int, "ebx": int, "ecx": int, "edx": int},
    # The LSM of the run: "selinux" or "apparmor"; ``setup``: its policy and the options.
    "lsm": {"kind": str, "setup": _SETUP},
    # Faults on purpose: the rules of the run and their seed; then each that is carried out, as the
    # rule says it, and as one that fires at that time alone.
    "faults": {"rules": [str], "seed": int},
    "inject": {"rule": str, "exact": str},
    # Effects (or verdicts, as at an exec) that belong to no call.
    "effects": {},
}
"""Fields by event, after ``event``, ``us`` and ``pid``, and the form of each: see `forms`."""

OPTIONAL: dict[str, object] = {
    "decided": _DECISION,
    "asked": [(str, {str: Or(int, str)}, Or(None, int))],
    "effects": [(str, int, int, int, int)],
    "verdicts": [_VERDICT],
    "elranges": [(int, int, int, int)],
    "pages": [(int, int, int, _INTS)],
    "sources": [(int, int, int, int, str, int)],
    "vmas": [(int, int, int, int, Or(None, _INTS))],
    "registers": _INTS,
}
"""decided: {rule, law, source} of the refusal. asked: [hook, {what}, answer or null, rule, law] for
each question (null: no LSM; rule and law of the design). effects: [call, pid, start, end, prot or
offset] for each. verdicts: each access vector that the LSM's policy was asked for: {pid, lsm, hook,
subject, target, tclass, asked, denied, permissive}, ``path`` and ``cmd`` where there are any, and
{rule, law} of the design's rule that led to it. elranges: [enclave, base, size, ATTRIBUTES] of each
that was created. pages: [enclave, first, last, fields] of each run of pages whose state is new,
half-open, without the fields that are 0. sources: [start, end, prot, VM_MAY*, path, offset] of each
VMA that pages were copied from. vmas: [pid, start, end, enclave, fields] of each mapping that is
new, fields null where it is gone; the gone ones come first. registers: of an AEX or a fault, the
thread's general registers at the instruction, by name."""


def _quote(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    import json

    return json.dumps(text)


def encode(value: object) -> str:
    """JSON of None, bool, int, str, and of lists, tuples and str-keyed dicts of these.

    By hand, since the json module costs more to import than a short run records.
    """
    if isinstance(value, str):
        return _quote(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, dict):
        return "{" + ",".join([f"{_quote(k)}:{encode(v)}" for k, v in value.items()]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([encode(v) for v in value]) + "]"
    raise TypeError(f"a recording cannot hold {type(value).__name__}")
