"""GDB's ``monitor`` commands: what its protocol has no packet for."""

from __future__ import annotations

from typing import Any

from softsgx.host.symbols import Symbols
from softsgx.supervisor.debug.control import Control
from softsgx.supervisor.debug.objects import enclaves
from softsgx.supervisor.debug.threads import Thread

__all__ = ["command"]

_HELP = """\
monitor enclaves           the enclaves of the process, as lines for add-symbol-file
monitor exceptions on|off  whether exceptions inside that the vDSO gets are told (now {})
"""


def command(control: Control, t: Thread, text: str) -> str:
    """The answer to a command."""
    words = text.split()
    if words == ["enclaves"]:
        return "".join(_enclave(*found) for found in enclaves(control.run, t)) or "no enclaves\n"
    if words in (["exceptions", "on"], ["exceptions", "off"]):
        control.exceptions = words[1] == "on"
        return ""
    return _HELP.format("on" if control.exceptions else "off")


def _enclave(enclave: Any, symbols: Symbols | None) -> str:
    """One enclave: a comment, and the line that gives GDB its symbols."""
    kind = "DEBUG" if enclave.debug else "not DEBUG: closed"
    head = f"# enclave {enclave.base:#x}-{enclave.end:#x}, {kind}\n"
    if symbols is None:
        return head + "# no ELF file with its code was found: run --symbols FILE names it\n"
    return head + f"add-symbol-file {symbols.path} -o {symbols.bias:#x}\n"
