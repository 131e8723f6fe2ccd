"""ADD_PAGES without a stop: the code of ``adds.S``, for one process.

The code says what it does. In memory, at any page near the instruction that is led to it: the code,
a page that says where what is shared lies (a child that is forked has zeros there), and that, which
is a file that the tracer maps, too. A process can write to it: what is read there is a guest's
input. Built by ``hatch_build.py``.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from typing import Any

from softsgx.host import vdso
from softsgx.host.built import is_built, lacks, path_of, read_built
from softsgx.host.lahf import give_back
from softsgx.host.sharedfile import SharedFile
from softsgx.uapi import sgx as uapi
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import EFLAGS, ORIG_RAX, R8, R9, R10, R11, RAX, RCX, RDI, RDX, RIP, RSI, RSP

__all__ = ["CODE_BYTES", "Code", "Shared", "available", "load"]

CODE_BYTES = 2 * mmap.PAGESIZE
"""Of the code and the page behind it; what is shared follows."""

_PATH = path_of("softsgx-adds.so")
_JUMP = struct.Struct("<Bi")
_FIELDS = ("state", "fd", "offset", "flags", "source", "last", "length", "secinfo",
           "kept", "pages", "most")  # fmt: skip
_LAYOUT = struct.Struct(f"<{len(_FIELDS)}I")
_WORDS = struct.Struct("<QQII")  # softsgx_adds_at, behind, cmd, nr
_KEPT = (RDI, RSI, R8, R9, R10, RSP)
_COUNT = 40  # struct sgx_enclave_add_pages
_ZF = 0x40
_MINUS_1 = (1 << 64) - 1
_EFAULT = -14 & _MINUS_1


def available() -> bool:
    """Whether the code is built."""
    return is_built(_PATH)


class Code:
    """The built object. at: where what is in what is shared; most: how many pages that takes."""

    def __init__(self, contents: bytes) -> None:
        """Raises UnsupportedError where a symbol is missing."""
        symbols = vdso.parse_symbols(contents)
        try:
            start = symbols["softsgx_adds"]
            self._at = {k[13:]: v - start for k, v in symbols.items() if k[:13] == "softsgx_adds_"}
            self._contents = contents[start : start + self._at["end"]]
            layout = _LAYOUT.unpack_from(contents, start + self._at["layout"])
        except (KeyError, struct.error) as e:
            raise lacks(_PATH, e) from e
        self.at = dict(zip(_FIELDS, layout, strict=True))
        self.most = self.at["most"]
        self.shared_bytes = self.at["pages"] + self.most * mmap.PAGESIZE

    def page(self, site: int) -> bytes:
        """The code for the instruction at ``site``, which is before a system call instruction."""
        words = _WORDS.pack(site + 5, site + 7, uapi.SGX_IOC_ENCLAVE_ADD_PAGES, nr.NR_ioctl)
        at = self._at["at"]
        return self._contents[:at] + words + self._contents[at + len(words) :]

    def jump(self, base: int, site: int) -> bytes:
        """What takes the place of the instruction. Raises struct.error where it is too far."""
        return _JUMP.pack(0xE9, base - site - _JUMP.size)

    def is_in(self, base: int, rip: int) -> bool:
        """Whether a thread is there that has come by the jump."""
        return base <= rip < base + self._at["at"]

    def roll(
        self, view: Any, base: int, site: int, shared: Shared | None,
        write: Callable[[int, bytes], int],
    ) -> None:  # fmt: skip
        """Registers that are in the code, at ``base``, become those before or behind the call.

        write: into the program's memory, how many bytes.
        """
        at, where = view[RIP] - base, self._at
        over = where["counted"] <= at < where["over"]
        if at == where["counted"]:
            over = bool(view[EFLAGS] & _ZF)
        kept = view[RAX]
        if shared is not None and where["kept"] <= at < where["undone"]:
            first = self.at["kept"] // 8
            for register, value in zip(_KEPT, shared.words[first:], strict=False):
                view[register] = value
            kept = shared.words[first + len(_KEPT)]
        if where["flagged"] < at < where["restored"]:
            give_back(view, kept)
        view[ORIG_RAX] = _MINUS_1
        if over:
            length = shared.length_bytes if shared is not None else 0
            told = write(view[RDX] + _COUNT, length.to_bytes(8, "little"))
            view[RAX] = 0 if told == 8 else _EFAULT
            view[RIP] = view[RCX] = site + 7
            view[R11] = view[EFLAGS]
        else:
            view[RAX], view[RIP] = nr.NR_ioctl, site + 5


class Shared(SharedFile):
    """What one process shares with us. length_bytes: what a call adds."""

    __slots__ = ("length_bytes",)

    def __init__(self) -> None:
        """Raises OSError where there is no memory for it."""
        super().__init__("softsgx-adds", load().shared_bytes)
        self.length_bytes = 0

    def expect(
        self, fd: int, flags: int, source: tuple[int, int], offset: int, length: int,
        secinfo: bytes,
    ) -> None:  # fmt: skip
        """Pages from ``offset`` on, by calls with these flags, of as many bytes and with this
        SECINFO, from a range of memory.

        None may come yet: see `open`.
        """
        at, words = load().at, self.words
        start, end = source
        self.length_bytes = length
        for name, value in (
            ("state", 0), ("fd", fd), ("offset", offset), ("flags", flags), ("source", start),
            ("last", end - start - length), ("length", length),
        ):  # fmt: skip
            words[at[name] // 8] = value
        first = at["secinfo"] // 8
        words[first : first + len(secinfo) // 8] = memoryview(secinfo).cast("Q")

    def open(self, most: int) -> None:
        """So many may come."""
        self.words[load().at["state"] // 8] = most << 32


_code: Code | None = None


def load() -> Code:
    """The built object, read once. Raises UnsupportedError if it is not there or none of ours."""
    global _code  # noqa: PLW0603 - one file, read at most once a process
    if _code is None:
        _code = Code(read_built(_PATH))
    return _code
