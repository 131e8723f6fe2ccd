"""Starting the program: checks that name what is wrong, then fork, seize, filter, exec."""

from __future__ import annotations

import os
import struct
from errno import EACCES, ENOENT

from softsgx.errors import UnsupportedError, UsageError
from softsgx.host import bpf, ptrace, signals
from softsgx.host.notify import (
    Listener,
    new_cookie,
    receive_listener,
    send_listener,
)
from softsgx.host.origin import Origin

__all__ = ["find_program", "launch", "socket_pair"]

_NO_NEW_PRIVS = 38


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
) -> tuple[int, int, Listener | None]:
    """Start ``argv`` as a seized, filtered child on its way into exec, with all that it came with.

    executable: the calls that make memory executable stop. place: as `bpf.base_program` has it.

    Returns its pid, a pipe that tells why exec failed (empty: it did not), and what gives
    descriptors to it and its descendants, if the kernel lets us have it.

    Raises SoftsgxError if it cannot be traced or executed.
    """
    path = find_program(argv[0])
    cookie = new_cookie()
    program = bpf.base_program(cookie, executable, place)
    ours, theirs = socket_pair()
    ready_r, ready_w = os.pipe()
    fail_r, fail_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        for fd in (ours, ready_w, fail_r):
            os.close(fd)
        _child(path, argv, origin, program, ready_r, theirs, fail_w)
    os.close(theirs)
    os.close(ready_r)
    os.close(fail_w)
    try:
        ptrace.seize(pid)
    except OSError as e:
        raise _forbidden(pid, f"cannot trace a child process ({e.strerror})") from None
    here = id(path)  # the child has a copy of our memory
    if not (byte := ptrace.read_memory(pid, here, 1)) or not ptrace.write_memory(pid, here, byte):
        raise _forbidden(pid, "process_vm_readv and process_vm_writev fail on a child process")
    os.write(ready_w, b"x")
    os.close(ready_w)
    fd = receive_listener(ours)
    os.close(ours)
    return pid, fail_r, Listener(fd, cookie) if fd >= 0 else None


def _forbidden(pid: int, what: str) -> UnsupportedError:
    from softsgx.host.forbidden import why_no_ptrace

    why = why_no_ptrace(pid)
    os.kill(pid, signals.SIGKILL)
    os.waitpid(pid, 0)
    return UnsupportedError(f"{what}: {why}; 'softsgx doctor' says more")


def socket_pair() -> tuple[int, int]:
    """Two connected sockets, as descriptors."""
    import _socket

    ours, theirs = _socket.socketpair()
    return ours.detach(), theirs.detach()


def _child(
    path: str, argv: list[str], origin: Origin, program: bytes, ready: int, sock: int, fail: int
) -> None:
    try:
        if not os.read(ready, 1):
            os._exit(127)  # the tracer was killed before it had us
        os.close(ready)
        error = send_listener(sock, program)
        if error == EACCES:
            # Without CAP_SYS_ADMIN: give up setuid programs first.
            ptrace.prctl(_NO_NEW_PRIVS, 1)
            error = send_listener(sock, program)
        os.close(sock)
        if error:
            # The chain of filters has a listener already: descriptors go the other way.
            error = ptrace.seccomp_filter(program)
            if error:
                from softsgx.host.forbidden import why_no_filter

                os.write(fail, f"seccomp ({os.strerror(error)}): {why_no_filter()}".encode())
                os._exit(127)
        origin.restore()
        origin.execute(path, argv)
    except OSError as e:
        why = e.strerror
        if e.errno == ENOENT and os.path.exists(path):
            why = "the interpreter that it names does not exist"
        os.write(fail, f"{path}: {why}".encode(errors="surrogateescape"))
    finally:
        os._exit(127)
