"""The short way: the code that enters and leaves without a stop, and what it shares with us.

``short.S`` says what it does, and has the same layouts under the same names. In memory, at any
page of a process: its code; the head, a page of the process's own (where the tables are, where
to go when it cannot go on, pads of replaced instructions); the tables of rows and slots, which
are a file that the tracer maps, too. A process can write to its tables: what is read from them is
a guest's input.
"""

from __future__ import annotations

import struct

from softsgx.host import ptrace, vdso
from softsgx.host.built import lacks, path_of, read_built
from softsgx.host.sharedfile import SharedFile

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "FRAME",
    "PAD",
    "ROW",
    "SLOT",
    "SLOTS",
    "ShortImage",
    "Tables",
    "far_head",
    "far_pad",
    "fence",
    "head",
    "is_free",
    "load_short",
    "pad",
    "places",
    "raw_pad",
    "set_number",
    "why_not",
]

_PATH = path_of("softsgx-short.so")
_AT_HWCAP2, _HWCAP2_FSGSBASE = 26, 2

R_LOCK, R_OPEN, R_HELD, R_COUNT, R_TCS, R_ENTRY = 0, 8, 12, 16, 64, 72
R_OFSBASE, R_OGSBASE, R_GPR, R_STUB, R_SLOT = 80, 88, 96, 104, 112
ROW, ROWS, HASH, ROWS_SHIFT = 128, 1024, 0x9E3779B1, 10
S_ROW, S_AEP, S_FS, S_GS, S_FLAGS, S_PAD = 0, 8, 16, 24, 32, 40
SLOT, SLOTS, SELECTOR, FRAME = 64, 4096, 0x73, 256
LONG_WAY = 1
"""S_ROW of a thread that the tracer wants to see."""

STUB, PAD = 16, 16
_PADS = 64
MAX_PADS = (4096 - _PADS) // PAD
FAR_PADS = 4096 // PAD - 1


class ShortImage:
    """The built object. Offsets in bytes from where it is mapped.

    ``contents`` goes to offset 0; `head` gives what goes to ``head``, one page, read and execute
    like the code; ``tables`` to ``size`` is the shared file. The others are the labels of
    short.S that tell what a stop there means.
    """

    __slots__ = (
        "carried", "carried_end", "contents", "enter", "enter_counted", "enter_end", "enter_owned",
        "enter_saved", "enter_taken", "enter_undo", "exit", "exit_end", "exit_long", "flags",
        "frames", "freed", "head", "no_rcx", "no_row", "pad", "pad_end", "pad_halved", "pad_long",
        "pad_packed", "pad_shifted", "pad_turned", "pad_unpack", "pad_unpacked", "pad_words",
        "pads", "raw", "raw_counted", "raw_owned", "raw_pads", "raw_saved", "raw_taken",
        "raw_undo", "rows", "size", "slots", "stored", "stubs", "tables", "turned", "turned_back",
    )  # fmt: skip
    carried: int
    carried_end: int
    contents: bytes
    enter: int
    enter_counted: int
    enter_end: int
    enter_owned: int
    enter_saved: int
    enter_taken: int
    enter_undo: int
    exit: int
    exit_end: int
    exit_long: int
    flags: int
    frames: int
    freed: int
    head: int
    no_rcx: int
    no_row: int
    pad: int
    pad_end: int
    pad_halved: int
    pad_long: int
    pad_packed: int
    pad_shifted: int
    pad_turned: int
    pad_unpack: int
    pad_unpacked: int
    pad_words: int
    pads: int
    raw: int
    raw_counted: int
    raw_owned: int
    raw_pads: int
    raw_saved: int
    raw_taken: int
    raw_undo: int
    rows: int
    size: int
    slots: int
    stored: int
    stubs: int
    tables: int
    turned: int
    turned_back: int

    def __init__(self, contents: bytes) -> None:
        """Raises UnsupportedError where a symbol is missing (a stripped object)."""
        symbols = vdso.parse_symbols(contents)
        self.contents = contents
        try:
            for name in self.__slots__:
                if name not in ("contents", "raw_pads", "size", "tables"):
                    setattr(self, name, symbols["softsgx_" + name])
            self.tables, self.size = self.rows, symbols["softsgx_end"]
            self.raw_pads = 4096 // (self.pad_end - self.pad)
        except KeyError as e:
            raise lacks(_PATH, e) from e


_image: ShortImage | None = None


def load_short() -> ShortImage:
    """The built object, read once. Raises UnsupportedError if it is not there."""
    global _image  # noqa: PLW0603 - one file, read at most once a process
    if _image is None:
        _image = ShortImage(read_built(_PATH))
    return _image


def head(base: int, long_way: int, after: int) -> bytes:
    """What goes to the head of the code at ``base``.

    long_way: where EENTER goes on if it cannot be done here. after: where EEXIT comes out.
    """
    image = load_short()
    return struct.pack("<4Q", base + image.slots, base + image.rows, long_way, after)


def pad(base: int, number: int) -> tuple[int, bytes]:
    """Where a replaced instruction jumps to, and the code there: its number, and on to `exit`."""
    image = load_short()
    at = base + image.pads + number * PAD
    to = base + image.exit - (at + 10)
    return at, struct.pack("<BIBi", 0xB8, number << 16, 0xE9, to)


def far_pad(page: int, index: int, number: int, moved: bytes) -> tuple[int, bytes]:
    """The same in a page of its own, which begins with where `exit` is: `far_head`.

    moved: instructions that are done before, from where it was left.
    """
    at = page + PAD * (1 + index)
    to = page - (at + len(moved) + 11)
    return at, moved + struct.pack("<BIHi", 0xB8, number << 16, 0x25FF, to)


def far_head(base: int) -> bytes:
    """What a page of `far_pad` begins with."""
    return struct.pack("<Q", base + load_short().exit)


def raw_pad(base: int, page: int, index: int, enclu: int) -> tuple[int, bytes]:
    """The same for the ENCLU of a program at an address, in a page of such pads."""
    image = load_short()
    length = image.pad_end - image.pad
    words = struct.pack("<4Q", base + image.slots, base + image.raw, enclu, enclu + 3)
    return page + index * length, image.contents[image.pad : image.pad_words] + words


def places(tcs: int) -> tuple[int, int]:
    """The two rows (by number) in which a thread looks for a TCS."""
    hashed = ((tcs >> 12 & 0xFFFFFFFF) * HASH & 0xFFFFFFFF) >> 32 - ROWS_SHIFT
    return hashed, hashed + 1


class Tables(SharedFile):
    """The shared file of one process."""

    __slots__ = ()

    def __init__(self) -> None:
        image = load_short()
        super().__init__("softsgx-short", image.size - image.tables)


def _fence() -> Callable[[], None]:
    from _thread import allocate_lock

    lock = allocate_lock()
    acquire, release = lock.acquire, lock.release

    def fence() -> None:
        acquire(False)
        release()

    return fence


fence = _fence()
"""What was stored is seen by all before what follows is loaded: a lock is taken by a locked
instruction (SDM, "Memory Ordering": loads and stores are not reordered with those)."""


def why_not() -> str:
    """Why the short way cannot be gone on this machine; "" if it can."""
    if not ptrace.getauxval(_AT_HWCAP2) & _HWCAP2_FSGSBASE:
        return "a program cannot set its own FS and GS here (FSGSBASE; Linux 5.9)"
    return ""


def is_free(tid: int) -> bool:
    """Whether a stopped thread does not use the segment itself (32-bit code can)."""
    return not ptrace.has_thread_area(tid, SELECTOR >> 3)


def set_number(tid: int, number: int) -> bool:
    """Give a stopped thread the slot of a number, or none (0): whether the kernel let us."""
    return ptrace.set_thread_area(tid, SELECTOR >> 3, number * SLOT)
