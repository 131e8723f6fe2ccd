"""What Gramine signs: a manifest (.manifest.sgx, TOML) beside SIGSTRUCT (.sig, 1808 bytes).

Public: gramine, python/graminelibos/sgx_sign.py and Documentation/manifest-syntax.rst. MRENCLAVE
is over the manifest, libpal.so and pages that are laid out by numbers compiled into one build of
Gramine; so it is not computed anew here. What both files say is compared.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from softsgx.errors import UsageError
from softsgx.images.image import Buffer, is_elrange
from softsgx.sdm.layout import Record
from softsgx.sdm.leaves import ATTR_DEBUG

__all__ = ["Manifest", "parse_bytes"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_LONGEST = 64 << 20  # bytes of a manifest, whose files are all listed in it


class Manifest:
    """A manifest that gramine-sgx-sign wrote. Raises UsageError if it is none.

    size: bytes of ELRANGE; max_threads: how many TCSs; and what SIGSTRUCT has to say.
    """

    def __init__(self, data: Buffer) -> None:
        if len(data) > _LONGEST:
            raise UsageError("too long for a manifest")
        try:
            self.document: dict[str, Any] = tomllib.loads(bytes(data).decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise UsageError(f"no manifest: {' '.join(str(error).split())}") from None
        sgx = self.document.get("sgx")
        if not isinstance(sgx, dict) or "enclave_size" not in sgx:
            raise UsageError("a TOML file, but no manifest of Gramine: it has no sgx.enclave_size")
        self.sgx: dict[str, Any] = sgx
        self.size = parse_bytes(sgx["enclave_size"])
        if not is_elrange(self.size):
            raise UsageError(f"sgx.enclave_size is {self.size:#x}, which is no power of two")
        self.max_threads = self._number("max_threads", 4)
        self.isvprodid = self._number("isvprodid", 0)
        self.isvsvn = self._number("isvsvn", 0)
        self.debug = sgx.get("debug") is True
        self.edmm = sgx.get("edmm_enable") is True

    def _number(self, name: str, default: int) -> int:
        value = self.sgx.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"sgx.{name} is no number")
        return value

    def trusted_files(self) -> int:
        """How many files the manifest has hashes of."""
        files = self.sgx.get("trusted_files", [])
        return len(files) if isinstance(files, list | dict) else 0

    def differences(self, sigstruct: Record) -> list[str]:
        """Where a SIGSTRUCT says other things, in words."""
        found = []
        for name, ours, theirs in (
            ("isvprodid", self.isvprodid, sigstruct.isvprodid),
            ("isvsvn", self.isvsvn, sigstruct.isvsvn),
            ("debug", self.debug, bool(sigstruct.attributes & ATTR_DEBUG)),
        ):
            if ours != theirs:
                found.append(f"{name} is {ours} in the manifest and {theirs} in SIGSTRUCT")
        return found


def parse_bytes(value: object) -> int:
    """A number of bytes: an int, or text like "0x1000", "64K", "256M". Raises UsageError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = re.fullmatch(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})([KMGT]?)", str(value), re.ASCII)
    if found is None:
        raise UsageError(f"{str(value)[:40]!r} is no number of bytes; write 0x1000, 64K or 256M")
    return int(found[1], 0 if found[1][:2].lower() == "0x" else 10) * _UNITS[found[2]]
