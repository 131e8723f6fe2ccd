"""Memory: how much there is, how a size is read and said, and the bound of this process."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from softsgx.errors import UsageError
from softsgx.host.status import status_of

__all__ = [
    "LEAST_BYTES", "bound_myself", "default_bytes", "out_of_memory", "parse_size", "size_words",
]  # fmt: skip

LEAST_BYTES = 1 << 20
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SHARE = 0.4
"""Of what is available: a worker may take twice its engine's (see `pool`), and leave some."""


def parse_size(text: str) -> int:
    """``2G``, ``512M``, or bytes. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    size = int(float(found[1]) * (1 << _UNITS[found[2].upper()])) if found else 0
    if not LEAST_BYTES <= size < 1 << 60:
        raise UsageError(f"--memory {text}: not a size like 512M or 2G, of 1M or more")
    return size


def size_words(size_bytes: int) -> str:
    """A size as people read it: ``2 GiB``, ``1.5 GiB``, ``300 KiB``."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 1 << shift:
            return f"{size_bytes / (1 << shift):.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} bytes"


def default_bytes(jobs: int) -> int:
    """A bound for each of ``jobs`` engines that run at once, from what this machine has now.

    The least of the kernel's MemAvailable and the memory limit of the control group.
    """
    have = [_available(), *_group_limits()]
    return max(int(min(have) * _SHARE) // max(jobs, 1), 256 << 20)


def _available() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 1 << 30


def _group_limits() -> list[int]:
    """memory.max of this process's control group and of those above (cgroup v2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    own = next((line[3:] for line in lines if line.startswith("0::")), "")
    folder = Path("/sys/fs/cgroup") / own.strip("/")
    for group in [folder, *folder.parents]:
        try:
            text = (group / "memory.max").read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return found


def bound_myself(more_bytes: int) -> None:
    """Let this process's data grow by so much and no further; malloc() fails then.

    Of private writable mappings, RLIMIT_DATA. Rejected: RLIMIT_AS, which counts the stack:
    where that cannot grow there is no error to handle, but SIGSEGV.
    """
    limit = _data_bytes() + more_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _data_bytes() -> int:
    """What Linux counts against RLIMIT_DATA (and the stack): VmData of proc(5)."""
    return int(status_of("self").get(b"VmData", b"0").split()[0]) << 10


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception is due to a memory bound: Python's own, or Z3's."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if type(error).__name__ == "Z3Exception" and "out of memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
