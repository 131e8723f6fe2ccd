"""ptrace(2), process_vm_readv(2) and their kin: the room's file with ctypes' functions.

Bound once, with the GIL kept (a ptrace call is shorter than giving it away and taking it back), and
registers read into one buffer that is seen through a memoryview: 10 µs less a stop.
"""

from __future__ import annotations

import errno
import os
import struct

from softsgx import foreign as ctypes
from softsgx.host.built import lacks, path_of
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import FS_BASE

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "EVENT_CLONE", "EVENT_EXEC", "EVENT_EXIT", "EVENT_FORK", "EVENT_SECCOMP", "EVENT_STOP",
    "EVENT_VFORK", "EVENT_VFORK_DONE", "OPTIONS", "Registers", "compiled", "configuration", "cont",
    "cpuid_faulting", "cpuid_function", "detach", "dispatch_of", "event_message", "failure",
    "get_siginfo", "get_sigmask", "get_xstate", "getauxval", "has_thread_area", "interrupt",
    "ioctl", "is_thread_of", "listen", "memfd_secret", "prctl", "punch_hole", "read_memory",
    "seccomp_filter", "seccomp_listener", "seize", "set_dispatch", "set_siginfo", "set_sigmask",
    "set_thread_area", "set_xstate", "shares", "si_code", "singlestep", "syscall_info",
    "syscall_step", "tgkill", "trace_also", "write_memory",
]  # fmt: skip

_GETREGS, _SETREGS, _CONT, _SINGLESTEP, _SYSCALL = 12, 13, 7, 9, 24
_SETOPTIONS, _GETEVENTMSG, _GETSIGINFO, _SETSIGINFO = 0x4200, 0x4201, 0x4202, 0x4203
_GETREGSET, _SETREGSET, _NT_PRSTATUS, _NT_X86_XSTATE = 0x4204, 0x4205, 1, 0x202
_GETSIGMASK, _SETSIGMASK, _GET_SYSCALL_INFO = 0x420A, 0x420B, 0x420E
_SEIZE, _INTERRUPT, _LISTEN, _SET_DISPATCH, _GET_DISPATCH = 0x4206, 0x4207, 0x4208, 0x4210, 0x4211
_GET_THREAD_AREA, _SET_THREAD_AREA, _POKEUSER, _DETACH = 25, 26, 6, 17
_FILTER_FLAG_NEW_LISTENER, _O_CLOEXEC = 8, 0o2000000
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_VFORK_DONE = 1, 2, 3, 4, 5
EVENT_EXIT, EVENT_SECCOMP, EVENT_STOP = 6, 7, 128
_O_SYSGOOD, _O_EXITKILL = 1, 0x100000
_EVENTS = (EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_SECCOMP)
OPTIONS = _O_SYSGOOD | _O_EXITKILL | sum([1 << event for event in _EVENTS])

_libc = ctypes.PyDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_readv, _writev = _libc.process_vm_readv, _libc.process_vm_writev
_readv.argtypes = _writev.argtypes = (ctypes.c_int,) + 5 * (ctypes.c_void_p,)
_readv.restype = _writev.restype = ctypes.c_ssize_t
_syscall = _libc.syscall
_ptrace.restype = _syscall.restype = ctypes.c_long


# struct iovec: base and length. No Structure, since Python 3.14 imports ctypes to lay one out.
_Iovec = ctypes.c_ulong * 2
_regs = _Iovec()


def failure(what: str, pid: int) -> OSError:
    """The error that a call on a thread has just told of."""
    return OSError(number := ctypes.get_errno(), f"{what} of {pid}: {os.strerror(number)}")


left: set[int] = set()
"""Threads that may be gone, and their numbers a new program's by exec: nothing is changed there."""


def _change(request: int, tid: int, addr: int | None, data: int | None) -> None:
    if tid in left or _ptrace(request, tid, addr, data) < 0:
        raise ProcessLookupError(tid)


class Registers:
    """The general registers of a stopped tracee: all 27, ``view`` by `softsgx.uapi.regs`."""

    __slots__ = ("_buffer", "address", "view")

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(27 * 8)
        self.address = ctypes.addressof(self._buffer)
        self.view = memoryview(self._buffer).cast("B").cast("Q")

    def load(self, tid: int) -> None:
        """Read them (PTRACE_GETREGS). Raises ProcessLookupError if the tracee is gone."""
        if _ptrace(_GETREGS, tid, None, self.address) < 0:
            raise ProcessLookupError(tid)

    def store(self, tid: int) -> None:
        """Write them (PTRACE_SETREGS).

        What no tracer may write, and a program may have by its own instructions (a base of FS or
        GS in the kernel's half, a selector with another RPL: putreg(), set_segment_reg()), stays.
        """
        if tid in left or (_ptrace(_SETREGS, tid, None, self.address) < 0 and self._refused(tid)):
            raise ProcessLookupError(tid)

    def _refused(self, tid: int) -> bool:
        """The same of a thread that is there: true if it is not."""
        if ctypes.get_errno() != errno.EIO:
            return True
        _regs[0], _regs[1] = self.address, 8 * FS_BASE
        if _ptrace(_SETREGSET, tid, _NT_PRSTATUS, ctypes.addressof(_regs)) < 0:
            return True
        for index in range(FS_BASE, len(self.view)):
            _ptrace(_POKEUSER, tid, 8 * index, self.view[index])
        return False

    def store_and_cont(self, tid: int) -> None:
        """Write them and let the tracee run."""
        self.store(tid)
        _change(_CONT, tid, None, None)


_compiled: dict[tuple[str, str, bool], tuple[str, Callable[[int], None]]] = {}


def compiled(
    path: str, name: str, room: int, locked: bool = False
) -> tuple[str, memoryview, int, Callable[[int], None]]:
    """A function of an object of ours that takes an address. locked: it runs with the GIL.

    What the object says in NAME_words; as many words of 64 bits and ``room`` more; their address;
    the function. Raises OSError where it is not built.
    """
    known = _compiled.get((path, name, locked))
    if known is None:
        found = (ctypes.PyDLL if locked else ctypes.CDLL)(path)
        try:
            raw = ctypes.string_in(found, f"{name}_words")
            function = found[name]
        except (AttributeError, ValueError):
            raise lacks(path, name) from None
        function.argtypes, function.restype = (ctypes.c_void_p,), None
        known = _compiled[path, name, locked] = raw.decode(), function
    buffer = ctypes.create_string_buffer((len(known[0].split()) + room) * 8)
    view = memoryview(buffer).cast("B").cast("Q")
    return known[0], view, ctypes.addressof(buffer), known[1]


def seize(pid: int) -> None:
    """PTRACE_SEIZE with all the options that softsgx needs; children follow."""
    if _ptrace(_SEIZE, pid, None, OPTIONS) < 0:
        raise failure("PTRACE_SEIZE", pid)


def trace_also(tid: int, *events: int) -> None:
    """Let a stopped tracee stop for these events, too (EVENT_EXIT: before it ends), no others."""
    options = OPTIONS | sum(1 << event for event in events)
    if _ptrace(_SETOPTIONS, tid, None, options) < 0:
        raise ProcessLookupError(tid)


def cont(tid: int, signal: int = 0) -> None:
    """Let it run, delivering ``signal`` if not 0."""
    _change(_CONT, tid, None, signal)


def detach(tid: int) -> None:
    """Let it run, traced no more; the signal that it stopped for is dropped."""
    _change(_DETACH, tid, None, 0)


def singlestep(tid: int, signal: int = 0) -> None:
    """Let it run one instruction; with a signal it stops at the handler's first one."""
    _change(_SINGLESTEP, tid, None, signal)


def syscall_step(tid: int, signal: int = 0) -> None:
    """Let it run to the next system call stop."""
    _change(_SYSCALL, tid, None, signal)


def listen(tid: int) -> None:
    """Leave it in its group-stop, but hear of its end."""
    _change(_LISTEN, tid, None, 0)


def interrupt(tid: int) -> None:
    """Stop a running tracee: it reports EVENT_STOP."""
    _change(_INTERRUPT, tid, None, 0)


_message = ctypes.c_ulong()
_config = ctypes.create_string_buffer(32)
_call_info = ctypes.create_string_buffer(88)


def event_message(tid: int, event: int = 0) -> int:
    """PTRACE_GETEVENTMSG: the child's tid, or the former tid at exec.

    event: of the stop it is asked of: one that was killed has another message before it ends.
    """
    got = _ptrace(_GETEVENTMSG, tid, None, ctypes.addressof(_message))
    if got < 0 or (event and si_code(tid) >> 8 != event):
        raise ProcessLookupError(tid)
    return _message.value


def syscall_info(tid: int) -> tuple[int, int]:
    """The kind of its system call stop (PTRACE_SYSCALL_INFO_*, 0: none), and AUDIT_ARCH_*."""
    if _ptrace(_GET_SYSCALL_INFO, tid, 88, ctypes.addressof(_call_info)) < 0:
        raise ProcessLookupError(tid)
    return _call_info.raw[0], int.from_bytes(_call_info.raw[4:8], "little")


def tgkill(tgid: int, tid: int, number: int) -> None:
    """Send a signal to one thread. Raises ProcessLookupError if it is gone."""
    if _syscall(nr.NR_tgkill, tgid, tid, number) < 0:
        raise ProcessLookupError(tid)


def configuration(request: int, tid: int, size: int) -> bytes | None:
    """What the kernel says of a stopped thread in so many bytes, None where it does not."""
    got = _ptrace(request, tid, size, ctypes.addressof(_config))
    return None if got < 0 else _config.raw[:size]


def dispatch_of(tid: int) -> bytes | None:
    """Its struct ptrace_sud_config: empty if no call is a signal, None before Linux 6.4."""
    config = configuration(_GET_DISPATCH, tid, 32)
    return config if config is None or any(config[:8]) else b""


def set_dispatch(tid: int, config: bytes = bytes(32)) -> None:
    """Set them as they were; by default none is."""
    _config.raw = config
    _change(_SET_DISPATCH, tid, 32, ctypes.addressof(_config))


_siginfo = ctypes.create_string_buffer(128)


def get_siginfo(tid: int) -> bytes:
    """The siginfo_t of the signal that it stopped for, 128 bytes."""
    if _ptrace(_GETSIGINFO, tid, None, ctypes.addressof(_siginfo)) < 0:
        raise ProcessLookupError(tid)
    return _siginfo.raw


def si_code(tid: int) -> int:
    """Why a stopped thread gets the signal that it stopped for: positive if the kernel sends it."""
    return int.from_bytes(get_siginfo(tid)[8:12], "little", signed=True)


def ioctl(fd: int, request: int, argument: bytes) -> bytes:
    """What up to 128 bytes are after that call on a descriptor. Raises OSError."""
    _siginfo.raw = argument.ljust(128, b"\0")
    if _syscall(nr.NR_ioctl, fd, request, ctypes.byref(_siginfo)) < 0:
        raise failure("ioctl", fd)
    return _siginfo.raw[: len(argument)]


def set_siginfo(tid: int, info: bytes) -> None:
    """Replace the siginfo_t of the signal that it stopped for."""
    _siginfo.raw = info.ljust(128, b"\0")
    _change(_SETSIGINFO, tid, None, ctypes.addressof(_siginfo))


_mask_at = ctypes.addressof(_mask := ctypes.c_uint64())


def get_sigmask(tid: int) -> int:
    """The blocked signals, bit n-1 for signal n."""
    if _ptrace(_GETSIGMASK, tid, 8, _mask_at) < 0:
        raise ProcessLookupError(tid)
    return _mask.value


def set_sigmask(tid: int, mask: int) -> None:
    """Set the blocked signals."""
    _mask.value = mask
    _change(_SETSIGMASK, tid, 8, _mask_at)


# struct user_desc: entry, base, limit, flags (32-bit, for anybody; or what LDT_empty() asks for).
_area = struct.Struct("<IIII")
_SEGMENT, _NO_SEGMENT = 1 | 1 << 6, 1 << 3 | 1 << 5
_area_buffer = ctypes.create_string_buffer(16)


def set_thread_area(tid: int, entry: int, limit: int) -> bool:
    """Make an entry of its part of the GDT a data segment with a limit in bytes; 0: none.

    False where the kernel does not (CONFIG_IA32_EMULATION is off). Raises ProcessLookupError.
    """
    flags = _SEGMENT if limit else _NO_SEGMENT
    _area.pack_into(_area_buffer, 0, entry, 0, limit, flags)
    if _ptrace(_SET_THREAD_AREA, tid, entry, ctypes.addressof(_area_buffer)) < 0:
        if ctypes.get_errno() == errno.ESRCH:
            raise ProcessLookupError(tid)
        return False
    return True


def has_thread_area(tid: int, entry: int) -> bool:
    """Whether it has made an entry of its part of the GDT a segment itself."""
    got = _ptrace(_GET_THREAD_AREA, tid, entry, ctypes.addressof(_area_buffer))
    return got == 0 and not _area.unpack_from(_area_buffer)[3] & _NO_SEGMENT


_xview = memoryview(_xbuffer := ctypes.create_string_buffer(16384)).cast("B")
_xiov = _Iovec(ctypes.addressof(_xbuffer), 16384)


def get_xstate(tid: int) -> bytes:
    """Its XSAVE image in standard format, as long as this CPU's features make it."""
    _xiov[1] = 16384
    if _ptrace(_GETREGSET, tid, _NT_X86_XSTATE, ctypes.addressof(_xiov)) < 0:
        raise ProcessLookupError(tid)
    return bytes(_xview[: _xiov[1]])


def set_xstate(tid: int, image: bytes | bytearray) -> None:
    """Replace its XSAVE image; the length has to be what `get_xstate` gave."""
    _xview[: len(image)], _xiov[1] = image, len(image)
    if _ptrace(_SETREGSET, tid, _NT_X86_XSTATE, ctypes.addressof(_xiov)) < 0:
        raise failure("PTRACE_SETREGSET", tid)


_ours_at = ctypes.addressof(_iovecs := ctypes.create_string_buffer(32))
_theirs_at = _ours_at + 16  # set together by one pack_into
_set_iovecs = struct.Struct("QQQQ").pack_into
_U64, _SMALL = (1 << 64) - 1, 65536
_small_view = memoryview(_small := bytearray(_SMALL))
_small_at = ctypes.addressof(ctypes.c_char.from_buffer(_small))


def read_memory(pid: int, addr: int, length: int) -> bytes:
    """Up to ``length`` bytes of its memory: fewer where a page cannot be read."""
    if length > _SMALL:
        return _read_large(pid, addr, length)
    _set_iovecs(_iovecs, 0, _small_at, length, addr & _U64, length)
    n = _readv(pid, _ours_at, 1, _theirs_at, 1, 0)
    return bytes(_small_view[:n]) if n > 0 else b""


_readv_unlocked = ctypes.CDLL(None).process_vm_readv
_readv_unlocked.argtypes, _readv_unlocked.restype = _readv.argtypes, _readv.restype
_large = bytearray()


def _read_large(pid: int, addr: int, length: int) -> bytes:
    """The same without the GIL, which a thread that measures can use meanwhile."""
    global _large  # noqa: PLW0603 - kept, since fresh memory costs a page fault a page
    if len(_large) < length:
        _large = bytearray(length)
    local = _Iovec(ctypes.addressof(ctypes.c_char.from_buffer(_large)), length)
    remote = _Iovec(addr, length)
    n = _readv_unlocked(pid, ctypes.addressof(local), 1, ctypes.addressof(remote), 1, 0)
    return bytes(memoryview(_large)[: max(n, 0)])


def write_memory(pid: int, addr: int, data: bytes) -> int:
    """Write to its memory as the process itself could; the number of bytes written."""
    length = len(data)
    if pid in left:
        raise ProcessLookupError(pid)
    if length > _SMALL:
        buffer = ctypes.create_string_buffer(data, length)
        at = ctypes.addressof(buffer)
    else:
        _small_view[:length] = data
        at = _small_at
    _set_iovecs(_iovecs, 0, at, length, addr & _U64, length)
    return max(int(_writev(pid, _ours_at, 1, _theirs_at, 1, 0)), 0)


def cpuid_faulting() -> bool:
    """Whether the kernel can make CPUID trap here (ARCH_SET_CPUID; ours stays as it is)."""
    return int(_syscall(nr.NR_arch_prctl, 0x1012, 1)) == 0


def shares(first: int, second: int, what: int) -> bool | None:
    """Whether two threads have the same memory, descriptors or handlers: kcmp(2).

    what: KCMP_VM, KCMP_FILES, KCMP_SIGHAND. None where the kernel does not say.
    """
    got = int(_syscall(nr.NR_kcmp, first, second, what, 0, 0))
    return got == 0 if got >= 0 else None


def is_thread_of(tid: int, tgid: int) -> bool:
    """Whether a thread that is there is one of a process's (tgkill(2) of no signal: ESRCH)."""
    return int(_syscall(nr.NR_tgkill, tgid, tid, 0)) == 0 or ctypes.get_errno() != errno.ESRCH


def prctl(option: int, *args: int) -> int:
    """Change a property of our own process (the system call prctl)."""
    words = [ctypes.c_ulong(a) for a in args] + [ctypes.c_ulong(0)] * (4 - len(args))
    return int(_libc.prctl(option, *words))


def getauxval(kind: int) -> int:
    """What the kernel told our own process (getauxval(3)), 32 bits of it; /proc may not say."""
    return int(_libc.getauxval(kind))


def _set_filter(program: bytes, flags: int) -> int:
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    got = int(_syscall(nr.NR_seccomp, 1, flags, fprog))
    return got if got >= 0 else -ctypes.get_errno()


def seccomp_filter(program: bytes) -> int:
    """Install a BPF program on ourselves; 0 or the errno."""
    return -_set_filter(program, 0)


def seccomp_listener(program: bytes) -> int:
    """The same with a listener for its user notifications: its descriptor, or -errno."""
    return _set_filter(program, _FILTER_FLAG_NEW_LISTENER)


def memfd_secret() -> int:
    """A descriptor of an empty secret memory file, or -1 where the kernel offers none."""
    return int(_syscall(nr.NR_memfd_secret, _O_CLOEXEC))


def cpuid_function() -> Callable[[int, int], tuple[int, int, int, int]] | None:
    """``cpuid(leaf, subleaf)`` -> (EAX, EBX, ECX, EDX) of this processor, run in our own process.

    None where it traps, or no code is built.
    """
    try:
        if _syscall(nr.NR_arch_prctl, 0x1011, 0) == 0:  # ARCH_GET_CPUID
            return None
        run = ctypes.PyDLL(path_of("softsgx-start.so"))["softsgx_cpuid"]
    except OSError:
        return None
    run.argtypes, run.restype = (ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    answer = (ctypes.c_uint32 * 4)()

    def ask(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        run(ctypes.addressof(answer), leaf, subleaf)
        return answer[0], answer[1], answer[2], answer[3]

    return ask


def punch_hole(fd: int, offset: int, length: int) -> None:
    """fallocate(PUNCH_HOLE | KEEP_SIZE): the range of a file becomes zero and costs nothing."""
    if _libc.fallocate(fd, 3, ctypes.c_long(offset), ctypes.c_long(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")
