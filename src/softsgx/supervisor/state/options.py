"""What ``softsgx run`` was asked for."""

from __future__ import annotations

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from softsgx.supervisor.state.security import SecurityModule

__all__ = ["Options"]


class Options:
    """What ``softsgx run`` was asked for. design: a Design, made when first needed.

    lsm: a `softsgx.supervisor.state.confinement.Confinement`, None for no LSM. carry_out: calls of
    loaders for Linux are carried out as the design's own. dev_mode, dev_uid, dev_gid: of the
    device's nodes. abort_page: an enclave's pages cannot be accessed while no thread of the process
    is inside. exact: code of programs stays as it is, but for CPUID, that of enclaves without
    exception, and every EENTER and EEXIT stops. dev_noexec: whether they lie on a noexec mount,
    None: as /dev does. origin: what the program gets (`softsgx.host.origin`), taken now if it is
    None. front: hears of the program being ``launched(pid)``, ``stopped(signal)``, that it
    ``went_on()`` and ``ended(status)`` before its descendants; its ``beat`` changes with each stop
    that is taken. aesm: AESM's socket is there.
    symbols: ELF files of enclaves, ``FILE`` or ``FILE@OFFSET`` in ELRANGE; if there are any, every
    exception inside is told in full. quiet: no crash is told, and no hint given. gdb: a
    `softsgx.supervisor.debug.link.Link` to who debugs, or None. faults: a
    `softsgx.faults.plan.Faults`, None where there are no rules. marks: the program may have calls
    held at marks of rules (`softsgx.supervisor.calls.marks`), which is for replays.
    """

    __slots__ = (
        "abort_page",
        "aesm",
        "carry_out",
        "cpuid",
        "dev_gid",
        "dev_mode",
        "dev_noexec",
        "dev_uid",
        "epc_bytes",
        "exact",
        "faults",
        "front",
        "gdb",
        "lsm",
        "make_design",
        "marks",
        "origin",
        "quiet",
        "recorder",
        "symbols",
        "verify",
    )

    def __init__(self, make_design: Any = None, epc_bytes: int = 128 << 20) -> None:
        self.make_design = make_design
        self.epc_bytes = epc_bytes
        self.recorder: Any = None
        self.faults: Any = None
        self.lsm: SecurityModule | None = None
        self.origin: Any = None
        self.front: Any = None
        self.gdb: Any = None
        self.verify = False
        self.carry_out = False
        self.cpuid = self.aesm = True
        self.exact = self.quiet = self.marks = False
        self.abort_page = False
        self.symbols: list[str] = []
        self.dev_mode, self.dev_uid, self.dev_gid = 0o666, 0, 0
        self.dev_noexec: bool | None = None
