"""Which step of the world each system call is that changes an enclave's mappings.

The calls are those rows of `softsgx.uapi.syscalls` whose answer for a VMA says so
(``Answer.changes``); a test holds that none is missing.
"""

from __future__ import annotations

__all__ = ["ROWS", "Row"]


class Row:
    """Steps of the world, by name, and why these are all that the call can do."""

    __slots__ = ("steps", "why")

    def __init__(self, steps: tuple[str, ...], why: str = "") -> None:
        self.steps, self.why = steps, why


ROWS = {
    "mmap": Row(("mmap", "foreign"), "of the device's file, or of other memory with MAP_FIXED"),
    "mprotect": Row(("mprotect",)),
    "pkey_mprotect": Row(
        ("mprotect",), "do_mprotect_pkey() asks the same; a key takes rights away from code outside"
    ),
    "munmap": Row(("munmap",)),
    "brk": Row(
        ("munmap", "foreign"), "a heap that shrinks unmaps, one that grows maps other memory"
    ),
    "mremap": Row(("mremap",)),
    "shmat": Row(("foreign",), "SHM_REMAP maps a segment of other memory over it"),
    "map_shadow_stack": Row(("foreign",), "other memory, where nothing is mapped any more"),
    "remap_file_pages": Row(
        ("remap", "mmap"), "an mmap of the same file with the prot that the VMA has: never more"
        " than mmap can, with the same questions",
    ),
    "madvise": Row(
        ("munmap",), "MADV_DONTFORK: the child lacks the mapping, as if it had unmapped it; no"
        " advice gives a VMA a right",
    ),
    "process_madvise": Row(("munmap",), "as madvise, of another process"),
    "mseal": Row((), "forbids calls, and allows none: fewer steps are possible"),
}  # fmt: skip
"""By the call's name. ``steps`` is empty where a call only takes steps away."""
