"""The segments of an enclave: open files on its anonymous inodes, one for each mask.

A segment's file maps the enclave's own pages; what makes it a file of its own is
its label, which is what the LSM is asked about.
"""

from __future__ import annotations

from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.law.values import RW, mask_name

__all__ = ["SegmentFile"]


class SegmentFile(EnclaveFile):
    """An open segment. ``segment``: its mask of R, W, X, the upper bound of its pages.

    path: what SELinux's class anon_inode calls the name, ``[sgx_segment_rx]``. private:
    S_PRIVATE, 0 or 1: the LSM is asked nothing about its inode. creator: the process
    whose EADD made it, whose label a type transition starts from. fmode is RW: the
    mapping's VM_MAY* are the segment's, not the file mode's.
    """

    def __init__(self, base: EnclaveFile, segment: int, creator: Any, private: int = 0) -> None:
        path = f"[sgx_segment_{mask_name(segment).lower()}]"
        super().__init__(base.enclave, path, RW, base.number, base.device)
        self._base, self.segment = base, segment
        self.creator, self.private = creator, private

    @property
    def base_file(self) -> EnclaveFile:
        """The open device that the segment is of."""
        return self._base

    def __repr__(self) -> str:
        return f"<{self.path} of enclave {self.number}>"
