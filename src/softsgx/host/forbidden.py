"""Why this machine does not let us trace, and what its user can do about it.

What a container, Yama, another tracer or a security module forbids is no bug: whoever runs
softsgx has to allow it, so the one line that they get names the option.
"""

from __future__ import annotations

import os

from softsgx.host.status import comm_of, status_of

__all__ = ["instead", "why_no_filter", "why_no_ptrace"]

_CONTAINER = (
    "a container's seccomp filter may forbid it: docker run --cap-add SYS_PTRACE,"
    " or --security-opt seccomp=unconfined (podman has the same options)"
)


def why_no_ptrace(pid: int | None = None, proc: str = "/proc") -> str:
    """Why ``pid``, a child that nobody should trace yet, cannot be traced or read by us."""
    scope = _number(f"{proc}/sys/kernel/yama/ptrace_scope")
    if scope >= 2:
        what = "is for root only" if scope == 2 else "is off until the next boot"
        how = "sysctl kernel.yama.ptrace_scope=1 as root" if scope == 2 else "boot with 1 or less"
        return f"kernel.yama.ptrace_scope is {scope}: ptrace {what}; {how}"
    for who in ("self", pid):
        status = _status(who, proc) if who is not None else {}
        tracer = status.get(b"TracerPid", b"0").decode()
        if tracer not in ("0", str(os.getpid())):
            return (
                f"process {tracer} traces this one and its children: run it without,"
                f" or without its following of forks; {instead(_name(proc, tracer))}"
            )
    if _status("self", proc).get(b"Seccomp") == b"2":
        return _CONTAINER
    return "a security module may forbid it (AppArmor, SELinux): allow ptrace of its own children"


def instead(name: str) -> str:
    """What takes the place of a debugger or tracer of that name."""
    if name.startswith(("gdb", "cgdb", "lldb")):
        return "softsgx run --gdb lets GDB debug loader and enclave"
    if name in ("strace", "ltrace"):
        return "softsgx run -v prints what the program does with the device"
    return "softsgx run --gdb takes the place of gdb, softsgx run -v that of strace"


def _name(proc: str, pid: str) -> str:
    try:
        return comm_of(pid, proc).strip()
    except OSError:
        return ""


def why_no_filter(proc: str = "/proc") -> str:
    """Why no seccomp filter can be installed."""
    if _status("self", proc).get(b"Seccomp") == b"2":
        return _CONTAINER.replace("--cap-add SYS_PTRACE, or ", "").replace(",", "")
    return "the kernel has no CONFIG_SECCOMP_FILTER"


def _number(path: str) -> int:
    try:
        with open(path) as f:
            return int(f.read())
    except (OSError, ValueError):
        return 0


def _status(who: int | str, proc: str) -> dict[bytes, bytes]:
    try:
        return status_of(who, proc)
    except OSError:
        return {}
