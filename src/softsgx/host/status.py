"""What /proc says of a thread or process in words: proc_pid_status(5)."""

from __future__ import annotations

import os
from time import monotonic_ns

from softsgx.uapi.personality import READ_IMPLIES_EXEC

__all__ = [
    "catches", "children_of", "comm_of", "has_memory", "implies_exec", "is_ending", "is_reaper",
    "is_running", "mask_now", "mask_of", "ran_ns", "soft_limit", "status_of", "why_no_proc",
]  # fmt: skip

_PF_EXITING = 4  # <linux/sched.h>
_MOST_BYTES = 4096


def why_no_proc() -> str:
    """Why /proc does not tell of us and of what we trace; "" if it does."""
    try:
        whose = os.readlink("/proc/self")
    except OSError as e:
        return f"/proc cannot be read ({e.strerror}): mount it (mount -t proc proc /proc)"
    if whose == str(os.getpid()):
        return ""
    return (
        f"/proc is of another pid namespace, where this process is {whose}: mount one of this"
        " (unshare --mount-proc, or mount -t proc proc /proc)"
    )


def comm_of(tid: int | str, proc: str = "/proc") -> str:
    """The name of a thread, fit to be printed: proc_pid_comm(5). Raises OSError if it is gone."""
    with open(f"{proc}/{tid}/comm", encoding="utf-8", errors="replace") as file:
        text = file.read().rstrip("\n")
    return "".join(c if c.isprintable() else "?" for c in text)


def has_memory(tid: int) -> bool:
    """Whether a thread has its process's memory still: one that has ended has none, as /proc says,
    though others run in it.
    """
    try:
        with open(f"/proc/{tid}/statm", "rb", buffering=0) as file:
            return file.read(2) != b"0 "
    except OSError:
        return False


def children_of(tid: int) -> list[int]:
    """The children of a process with one thread, zombies among them; none where it is gone.

    The kernel's list may lack one where another is taken out of it meanwhile: proc_pid_children(5).
    Without CONFIG_PROC_CHILDREN all processes are asked.
    """
    before: list[int] | None = None
    try:
        while True:
            with open(f"/proc/{tid}/task/{tid}/children", "rb") as file:
                found = [int(word) for word in file.read().split()]
            if found == before:
                return found
            before = found
    except FileNotFoundError:
        return [
            pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _is_of(pid, tid)
        ]


def _is_of(pid: int, parent: int) -> bool:
    try:
        return int(status_of(pid)[b"PPid"]) == parent
    except (OSError, KeyError):
        return False


def status_of(tid: int | str, proc: str = "/proc") -> dict[bytes, bytes]:
    """The fields by name, without the blanks around them. Raises OSError if it is gone.

    tid: its number, or "self".
    """
    with open(f"{proc}/{tid}/status", "rb", buffering=0) as file:
        lines = file.read().split(b"\n")
    return {name: text.strip() for name, _, text in (line.partition(b":") for line in lines)}


def mask_of(fields: dict[bytes, bytes], *names: bytes) -> int:
    """The signals, or capabilities, that any of some fields have: bit 0 is the first. 0 if none
    is there.
    """
    mask = 0
    for name in names:
        mask |= int(fields.get(name, b"0"), 16)
    return mask


def mask_now(tid: int, name: bytes) -> int:
    """One such field of a thread now, in half the time. Raises ProcessLookupError."""
    try:
        fd = os.open(f"/proc/{tid}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, _MOST_BYTES)
        finally:
            os.close(fd)
        at = text.find(b"\n" + name + b":")
        end = text.find(b"\n", at + 1)
        if at < 0 or end < 0:  # behind many groups
            return mask_of(status_of(tid), name)
        return int(text[at + len(name) + 2 : end], 16)
    except OSError:
        raise ProcessLookupError(tid) from None


def catches(tid: int, number: int) -> bool:
    """Whether a signal has a handler in a thread's process now. Raises ProcessLookupError."""
    return bool(mask_now(tid, b"SigCgt") >> number - 1 & 1)


def ran_ns(tid: int) -> int:
    """How long a thread has run, in ns: Linux, Documentation/scheduler/sched-stats.rst.

    Of a kernel that does not tell, the time. Raises ProcessLookupError if it is gone.
    """
    try:
        with open(f"/proc/{tid}/schedstat", "rb", buffering=0) as file:
            return int(file.read().split(None, 1)[0])
    except FileNotFoundError:
        if os.path.exists(f"/proc/{tid}"):
            return monotonic_ns()
        raise ProcessLookupError(tid) from None


def is_running(tid: int) -> bool:
    """Whether a thread runs, be it in the kernel: proc_pid_syscall(5)."""
    try:
        with open(f"/proc/{tid}/syscall", "rb", buffering=0) as file:
            return file.read(8) == b"running\n"
    except OSError:
        return False


def is_reaper(fields: dict[bytes, bytes]) -> bool:
    """Whether a process is the first of a pid namespace below ours: pid_namespaces(7)."""
    numbers = fields.get(b"NStgid", b"").split()
    return len(numbers) > 1 and numbers[-1] == b"1"


def is_ending(tid: int, proc: str = "/proc") -> bool:
    """Whether a thread is on its way out, or gone: proc_pid_stat(5), flags.

    It is so before it wakes who waits for it, but not long before its end is told (do_exit()).
    """
    try:
        with open(f"{proc}/{tid}/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return True
    return bool(int(fields[6]) & _PF_EXITING)


def implies_exec(tid: int) -> bool:
    """Whether what a thread makes readable becomes executable: its personality, which it can
    change at any time.
    """
    try:
        with open(f"/proc/{tid}/personality", "rb", buffering=0) as file:
            return bool(int(file.read(), 16) & READ_IMPLIES_EXEC)
    except OSError:  # it is gone
        return False


def soft_limit(tid: int | str, name: bytes, proc: str = "/proc") -> int | None:
    """A soft limit by its name in /proc/TID/limits (b"Max locked memory"); None: unlimited."""
    with open(f"{proc}/{tid}/limits", "rb") as f:
        soft = f.read().partition(b"\n" + name)[2].split(None, 1)[0]
    return None if soft == b"unlimited" else int(soft)
