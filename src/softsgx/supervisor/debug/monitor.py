"""GDB's ``monitor`` commands: what its protocol has no packet for."""

from __future__ import annotations

import os
from typing import Any

from softsgx.host.symbols import Symbols
from softsgx.sdm.structs import GPRSGX
from softsgx.supervisor.debug.control import Control
from softsgx.supervisor.debug.objects import enclaves
from softsgx.supervisor.debug.threads import Thread

__all__ = ["command"]

_UNWINDER = os.path.join(os.path.dirname(__file__), "unwinder.py")

_HELP = """\
monitor enclaves           the enclaves of the process, as lines for add-symbol-file
monitor outside            of a thread in an enclave: ELRANGE, entry; RIP, RSP, RBP outside
monitor python             what lets GDB's backtraces go on from an enclave to its loader:
                           python exec(gdb.execute("monitor python", to_string=True))
monitor exceptions on|off  whether exceptions inside that the vDSO gets are told (now {})
"""


def command(control: Control, t: Thread, text: str) -> str:
    """The answer to a command."""
    words = text.split()
    if words == ["enclaves"]:
        return "".join(_enclave(*found) for found in enclaves(control.run, t)) or "no enclaves\n"
    if words == ["outside"]:
        return _outside(t)
    if words == ["python"]:
        with open(_UNWINDER, encoding="utf-8") as file:
            return file.read() + "install()\n"
    if words in (["exceptions", "on"], ["exceptions", "off"]):
        control.exceptions = words[1] == "on"
        return ""
    return _HELP.format("on" if control.exceptions else "off")


def _outside(t: Thread) -> str:
    """What stands outside for a thread that is in a DEBUG enclave, "" for any other."""
    if not t.inside or t.closed:
        return ""
    enclave, tcs = t.tracee.thread.enclave, t.tracee.thread.tcs
    saved = GPRSGX.unpack(enclave.memory.read(tcs.gpr(tcs.cssa), GPRSGX.size))
    found = (enclave.base, enclave.end, tcs.entry, tcs.aep, saved.ursp, saved.urbp)
    return " ".join([f"{word:#x}" for word in found]) + "\n"


def _enclave(enclave: Any, symbols: Symbols | None) -> str:
    """One enclave: a comment, and the line that gives GDB its symbols."""
    kind = "DEBUG" if enclave.debug else "not DEBUG: closed"
    head = f"# enclave {enclave.base:#x}-{enclave.end:#x}, {kind}\n"
    if symbols is None:
        return head + "# no ELF file with its code was found: run --symbols FILE names it\n"
    return head + f"add-symbol-file {symbols.path} -o {symbols.bias:#x}\n"
