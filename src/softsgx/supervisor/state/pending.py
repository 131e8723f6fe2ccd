"""What the model did that real processes do not feel yet."""

from __future__ import annotations

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from softsgx.device.files import EnclaveFile

__all__ = ["Pending"]


class Pending:
    """Notes of the device, carried out before the guest runs on.

    dirty: pages [first, last) of an enclave whose state changed. remap: enclaves whose
    mappings were made before ECREATE. effects: what an ioctl did to a process's mappings.
    new_fd: a file that the caller gets a descriptor of, and the flags. busy: a change is being
    carried out in several processes, so they differ from the model yet. told: who hears of
    each range of pages, the recorder.
    """

    __slots__ = ("busy", "dirty", "effects", "new_fd", "remap", "told")

    def __init__(self) -> None:
        self.dirty: list[tuple[EnclaveFile, int, int]] = []
        self.remap: list[EnclaveFile] = []
        self.effects: list[tuple[Any, Any]] = []
        self.busy = False
        self.new_fd: tuple[EnclaveFile, int] | None = None
        self.told: Callable[[EnclaveFile, int, int], None] | None = None

    def pages_changed(self, file: EnclaveFile, first: int, last: int) -> None:
        """The pages [first, last) of an enclave changed: real protections have to follow."""
        if self.told is not None:
            self.told(file, first, last)
        if file.enclave.initialized:
            self.dirty.append((file, first, last))
