"""Starting the program: checks that name what is wrong, then clone, seize, filter, exec."""

from __future__ import annotations

import os
import struct
from errno import ENOENT

from softsgx.errors import UnsupportedError, UsageError
from softsgx.host import basefilter, ptrace, signals
from softsgx.host.notify import Listener, new_cookie
from softsgx.host.origin import Origin
from softsgx.host.start import EXEC, FILTER, Child

__all__ = ["Launched", "find_program", "launch"]


class Launched:
    """A program on its way: its ``pid``, and what gives descriptors to it and its descendants.

    The latter is None where the kernel does not let us have it.
    """

    __slots__ = ("_child", "_path", "listener", "pid")

    def __init__(self, child: Child, path: str, listener: Listener | None) -> None:
        self._child, self._path, self.listener = child, path, listener
        self.pid = child.pid

    def why(self) -> str:
        """Why it never became the program, or nothing; to be asked once it is gone."""
        what, error = self._child.failure
        if what == FILTER:
            from softsgx.host.forbidden import why_no_filter

            return f"seccomp ({os.strerror(error)}): {why_no_filter()}"
        if what != EXEC:
            return ""
        if error == ENOENT and os.path.exists(self._path):
            return f"{self._path}: the interpreter that it names does not exist"
        return f"{self._path}: {os.strerror(error)}"


def find_program(name: str) -> str:
    """The file that execvp would run. Raises UsageError with what is wrong with it."""
    if "/" in name:
        candidates = [name]
    else:
        path = os.environ.get("PATH") or os.defpath
        candidates = [os.path.join(d or ".", name) for d in path.split(os.pathsep)]
    found = [c for c in candidates if os.path.exists(c)]
    if not found:
        raise UsageError(f"{name}: no such program; give its path, or the name of one in PATH")
    runnable = [c for c in found if os.path.isfile(c) and os.access(c, os.X_OK)]
    if not runnable:
        what = "is a directory" if os.path.isdir(found[0]) else "is not executable (chmod +x it)"
        raise UsageError(f"{found[0]}: {what}")
    _check_elf(runnable[0])
    return runnable[0]


def _check_elf(path: str) -> None:
    try:
        with open(path, "rb") as f:
            head = f.read(20)
    except OSError as e:
        if isinstance(e, PermissionError):
            return  # executable but not readable: exec decides
        raise UsageError(f"{path}: {e.strerror}") from None
    if head[:4] != b"\x7fELF":
        return
    machine = struct.unpack_from("<H", head, 18)[0] if len(head) == 20 else 0
    if head[4] == 1:
        raise UsageError(f"{path}: a 32-bit program; softsgx runs x86-64 programs")
    if machine != 62:
        raise UsageError(f"{path}: not an x86-64 program (ELF machine {machine})")


def launch(
    argv: list[str], origin: Origin, executable: bool = False, place: int | None = None
) -> Launched:
    """Start ``argv`` as a seized, filtered child on its way into exec, with all that it came with.

    executable: the calls that make memory executable stop. place: as `basefilter.base_program` has
    it. Raises SoftsgxError if it cannot be traced.
    """
    path = find_program(argv[0])
    cookie = new_cookie()
    program = basefilter.base_program(cookie, executable, place)
    child = Child(os.fsencode(path), origin.arguments(argv), origin, program)
    pid = child.pid
    try:
        ptrace.seize(pid)
    except OSError as e:
        raise _forbidden(pid, f"cannot trace a child process ({e.strerror})") from None
    here = child.address
    if not (byte := ptrace.read_memory(pid, here, 1)) or not ptrace.write_memory(pid, here, byte):
        raise _forbidden(pid, "process_vm_readv and process_vm_writev fail on a child process")
    fd = child.listen()
    return Launched(child, path, Listener(fd, cookie) if fd >= 0 else None)


def _forbidden(pid: int, what: str) -> UnsupportedError:
    from softsgx.host.forbidden import why_no_ptrace

    why = why_no_ptrace(pid)
    os.kill(pid, signals.SIGKILL)
    os.waitpid(pid, 0)
    return UnsupportedError(f"{what}: {why}; 'softsgx doctor' says more")
