"""A crash inside, told in full: where, in which function, with which registers, called by whom.

What is known is the state that AEX saved (SSA, GPRSGX), the pages' contents, and the file that the
enclave's code is of (`softsgx.supervisor.inside.elf`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softsgx.complaints import complain
from softsgx.errors import UsageError
from softsgx.record.crash import crash_lines
from softsgx.sdm import leaves as sdm
from softsgx.sdm.structs import GPRSGX
from softsgx.supervisor.inside.elf import symbols_at
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee

__all__ = ["Why", "tell"]

_FRAMES = 32
_CALL = b"\xe8"  # CALL rel32, five bytes long
_NAMES = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip", "rflags", "fsbase", "gsbase",
)  # fmt: skip


class Why:
    """Of a page fault: which access it was, and the condition that refused, by which rule."""

    __slots__ = ("access", "page", "rule", "why")

    def __init__(self, access: int, why: str, page: dict[str, int] | None, rule: str) -> None:
        self.access, self.why, self.page, self.rule = access, why, page, rule


class _Crash:
    def __init__(self, run: Run, tracee: Tracee, enclave: Any, tcs: Any) -> None:
        self.run, self.tracee, self.enclave = run, tracee, enclave
        raw = enclave.memory.read(tcs.gpr(tcs.cssa - 1), GPRSGX.size)
        saved = GPRSGX.unpack(raw)
        self.registers = {name: int(getattr(saved, name)) for name in _NAMES}
        self.symbols = symbols_at(run, tracee, enclave, self.registers["rip"])

    def read(self, addr: int, length: int) -> bytes:
        """Memory of the enclave; nothing of other memory, which an enclave's stack is not in."""
        base, end = self.enclave.base, self.enclave.end
        if not base <= addr < end:
            return b""
        return bytes(self.enclave.memory.read(addr - base, min(length, end - addr)))

    def place(self, addr: int, back: int = 0) -> str:
        """An address by its offset, function and line, the latter of ``back`` bytes before."""
        base, end = self.enclave.base, self.enclave.end
        text = f"ELRANGE+{addr - base:#x}" if base <= addr < end else f"{addr:#x}"
        if self.symbols is None:
            return text
        name, line = self.symbols.name(addr - back), self.symbols.line(addr - back)
        return f"{text} {name}".rstrip() + (f" ({line})" if line else "")

    def frames(self) -> Iterator[str]:
        """The callers, by CFI, else by frame pointers, as far as they are the enclave's."""
        registers, back = dict(self.registers), 0
        for _ in range(_FRAMES):
            at = registers["rip"] - back
            yield self.place(registers["rip"], back)
            caller = None if self.symbols is None else self.symbols.caller(registers, at, self.read)
            if caller is None and not back:
                caller = self._without_frame(registers)
            if caller is None:
                caller = self._by_frame_pointer(registers)
            if caller is None or not self.enclave.base <= caller["rip"] < self.enclave.end:
                return
            registers, back = caller, 1  # the call may be the last of its function

    def _without_frame(self, registers: dict[str, int]) -> dict[str, int] | None:
        """The caller of a function that has no frame yet, or none at all: what a call pushed."""
        back = int.from_bytes(self.read(registers["rsp"], 8), "little")
        if self.read(back - 5, 1) != _CALL:
            return None
        return dict(registers, rsp=registers["rsp"] + 8, rip=back)

    def _by_frame_pointer(self, registers: dict[str, int]) -> dict[str, int] | None:
        rbp = registers["rbp"]
        raw = self.read(rbp, 16)
        if len(raw) < 16 or rbp < registers["rsp"]:
            return None
        saved, back = int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")
        return dict(registers, rbp=saved, rsp=rbp + 16, rip=back)

    def fields(self, vector: int, code: int, addr: int, why: Why | None) -> dict[str, Any]:
        """What a recording has of it (`softsgx.record.schema`)."""
        return {
            "vector": vector,
            "code": code,
            "addr": addr,
            "place": self.place(addr) if vector == sdm.VECTOR_PF else "",
            "access": None if why is None else why.access,
            "why": "" if why is None else why.why,
            "rule": "" if why is None else why.rule,
            "page": None if why is None else why.page,
            "frames": list(self.frames()),
            "ssa": self.registers,
            "symbols": "" if self.symbols is None else self.symbols.path,
        }


def tell(
    run: Run, tracee: Tracee, enclave: Any, tcs: Any, vector: int, code: int, addr: int,
    why: Why | None,
) -> None:  # fmt: skip
    """Say what is known of an exception inside, after its AEX, on standard error; record it.

    Who prints events (``-v``) has it by that.
    """
    try:
        crash = _Crash(run, tracee, enclave, tcs)
    except (OSError, ValueError) as error:  # --symbols names something else than an ELF file
        raise UsageError(f"--symbols {' '.join(run.options.symbols)}: {error}") from None
    fields = crash.fields(vector, code, addr, why)
    if run.record is not None:
        run.record.crash(tracee.tid, fields)
    if run.options.quiet or (run.record is not None and run.record.prints):
        return
    head, *rest = crash_lines(fields)
    complain(head)
    for line in rest:
        complain(f"  {line}")
