"""The recording of a run, written as it happens.

Each event is one write(2) to a file opened with O_APPEND: after a kill -9 all that
was written can be read, and a second run appends its own header. An event is
held until the guest runs on, so that what the call did to the real processes is
in its line; then it goes to the file and, as a dict of the same form, to whoever
prints it. Losing the recording (a full disk) ends the recording, never the guest.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

from softsgx.complaints import complain
from softsgx.errors import UsageError
from softsgx.record.schema import EVENTS, VERSION, encode
from softsgx.record.state import State
from softsgx.record.watch import Watch
from softsgx.sdm.leaves import EENTER, EEXIT, ERESUME
from softsgx.uapi.regs import NAMES, RAX, RBX, RCX, RIP

__all__ = ["Recorder"]

Sink = Callable[[dict[str, Any]], None]
_CROSSING = frozenset((EENTER, ERESUME, EEXIT))
_GENERAL = tuple(
    (name, NAMES.index(name)) for name in (
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15", "rip", "eflags", "fs_base", "gs_base",
    )
)  # fmt: skip
_ENCLU = (
    '{"event":"enclu","us":%d,"pid":%d,'
    + ",".join(f'"{name}":%d' for name in EVENTS["enclu"])
    + "}\n"
)


class Recorder:
    """Writes events to a file, to a sink, or to both.

    path: the file, appended to; UsageError if it cannot be written. sink: called
    with the header and with each event as a dict of `softsgx.record.schema`. counting: EENTER and
    EEXIT are told by their number alone (`entered`).
    """

    __slots__ = (
        "_effects", "_event", "_fd", "_path", "_sink", "_start", "_state", "_verdicts", "_watch",
        "counting",
    )  # fmt: skip

    def __init__(
        self, path: str | None, sink: Sink | None = None, *, counting: bool = False
    ) -> None:
        self.counting = counting
        self._path = path or ""
        self._fd = -1 if path is None else _open(path)
        self._sink = sink
        self._start = time.monotonic_ns()
        self._event: dict[str, Any] | None = None
        self._effects: list[list[Any]] = []
        self._verdicts: list[dict[str, Any]] = []
        self._watch: Watch | None = None
        self._state: State | None = None

    # -- the file ----------------------------------------------------------------------

    def header(self, argv: list[str], design: Any, epc_bytes: int, lsm: str = "none") -> None:
        """Begin a run. design: its class, or a `Design` with the options chosen."""
        self._start = time.monotonic_ns()
        header = {
            "softsgx": VERSION,
            "program": _program_version(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "argv": argv,
            "design": design.name,
            "options": dict(getattr(design, "chosen", {})),
            "epc_bytes": epc_bytes,
            "lsm": lsm,
            "kernel": os.uname().release,
        }
        self._write(header)

    def _write(self, event: dict[str, Any]) -> None:
        if self._sink is not None:
            try:
                self._sink(event)
            except OSError:
                self._sink = None  # nobody reads standard error any more
        self._line(encode(event) + "\n")

    def _line(self, line: str) -> None:
        if self._fd < 0:
            return
        data = line.encode()
        try:
            if os.write(self._fd, data) == len(data):
                return
            why = "could not be written whole"
        except OSError as e:
            why = e.strerror or str(e)
        os.close(self._fd)
        self._fd = -1
        complain(f"{self._path}: {why}; recording ends here")

    def flush(self) -> None:
        """Write the event that is held: the guest is about to run on."""
        event, self._event = self._event, None
        watch, state = self._watch, self._state
        changes = state.changes() if state is not None else None
        if event is None:
            if self._effects or self._verdicts or changes:
                event = self._begin("effects", self._whose(changes or {}))
            else:
                if watch is not None:
                    watch.clear()
                return
        if watch is not None:
            decided = watch.decided
            if (
                decided is not None
                and decided["rule"]
                and event.get("why", "").startswith(decided["why"])
            ):
                event["decided"] = {k: decided[k] for k in ("rule", "law", "source")}
            if watch.asked:
                event["asked"] = watch.asked
            watch.clear()
        if self._effects:
            event["effects"] = self._effects
            self._effects = []
        if self._verdicts:
            event["verdicts"] = self._verdicts
            self._verdicts = []
        if changes:
            event.update(changes)
        self._write(event)

    def _whose(self, changes: dict[str, Any]) -> int:
        """The process that effects without a call belong to; 0 where no row says."""
        if self._effects:
            return int(self._effects[0][1])
        if self._verdicts:
            return int(self._verdicts[0]["pid"])
        return int(changes["vmas"][0][0]) if "vmas" in changes else 0

    def close(self) -> None:
        """Write what is held and end."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- what is watched ---------------------------------------------------------------

    def watch(self, device: Any) -> None:
        """Have a new device tell which rule refused and what the LSM was asked."""
        self._watch = device.run = Watch(device.run.lsm, device.design)
        self._state = State(device)

    def pages(self, file: Any, first: int, last: int) -> None:
        """The pages [first, last) of an enclave may have changed: the next event tells how."""
        if self._state is not None:
            self._state.pages(file, first, last)

    def source(self, *facts: Any) -> None:
        """A VMA that pages are copied from: start, end, prot, VM_MAY*, path, offset in the file."""
        if self._state is not None:
            self._state.source(*facts)

    def _begin(self, name: str, pid: int) -> dict[str, Any]:
        us = (time.monotonic_ns() - self._start) // 1000
        return {"event": name, "us": us, "pid": pid}

    def _put(self, name: str, pid: int, *values: Any) -> None:
        if self._event is not None:
            self.flush()
        event = self._begin(name, pid)
        event.update(zip(EVENTS[name], values, strict=True))
        self._event = event

    def effect(self, call: str, pid: int, start: int, end: int, value: int) -> None:
        """A real call: mmap or move (value: offset), mprotect (prot), munmap; [start, end)."""
        self._effects.append([call, pid, start, end, value])

    def verdict(self, fields: dict[str, Any]) -> None:
        """An access vector that was decided; goes with the event that it belongs to."""
        if self._watch is not None:
            fields |= self._watch.asking()
        self._verdicts.append(fields)

    def lsm(self, tid: int, kind: str, setup: dict[str, Any]) -> None:
        """The LSM of the run."""
        self._put("lsm", tid, kind, setup)
        self.flush()

    def faults(self, tid: int, rules: list[str], seed: int) -> None:
        """The faults on purpose that the run may be hit by."""
        self._put("faults", tid, rules, seed)
        self.flush()

    # -- events ------------------------------------------------------------------------

    def exec(self, tid: int) -> None:
        """A program begins in a process."""
        path, argv = "", []
        try:
            path = os.readlink(f"/proc/{tid}/exe")
            with open(f"/proc/{tid}/cmdline", "rb") as f:
                argv = [os.fsdecode(a) for a in f.read().split(b"\0")[:-1]]
        except OSError:
            pass
        self._put("exec", tid, path, argv)

    def child(self, tid: int, child: int, what: str) -> None:
        """A new process or thread ("process", "thread")."""
        self._put("child", tid, child, what)

    def exit(self, tid: int, status: int) -> None:
        """A process has ended; ``status`` as waitpid gives it."""
        self._put("exit", tid, status)
        self.flush()

    def signal(self, tid: int, number: int) -> None:
        """A signal is delivered to a thread."""
        self._put("signal", tid, number)

    def inject(self, tid: int, rule: str, exact: str) -> None:
        """A fault on purpose: what follows is its doing."""
        self._put("inject", tid, rule, exact)
        self.flush()

    def open(self, tid: int, path: str, fmode: int, answer: int, why: str) -> None:
        """Open of a device node; ``fmode`` is R = 1, W = 2."""
        self._put("open", tid, path, fmode, answer, why)

    def path(self, tid: int, call: str, path: str, answer: int) -> None:
        """Another call on a device node's path."""
        self._put("path", tid, call, path, answer)

    def refused(self, tid: int, call: int, args: list[int], answer: int, why: str) -> None:
        """A system call that nothing here knows; ``args`` are its six registers."""
        self._put("refused", tid, call, args, answer, why)

    def ioctl(
        self, tid: int, fd: int, file: Any, cmd: int, arg: int, answer: int, why: str, memory: Any
    ) -> None:
        """An ioctl on a device file; ``memory`` is the process's (`UserMemory`)."""
        from softsgx.record import ioctls

        own = getattr(getattr(file, "device", None), "ioctls", {}).get(cmd)
        name = ioctls.name(cmd) if own is None else own.name
        args = ioctls.arguments(cmd, arg, memory, None if own is None else own.layout)
        number = getattr(file, "number", 0)
        self._put("ioctl", tid, fd, number, name, cmd, arg, args, answer, why)
        if self._state is not None:
            self._state.ioctl(file)

    def mm(self, tid: int, call: str, args: Any, answer: int, why: str) -> None:
        """A memory call that concerns an enclave; ``args`` in the call's order."""
        self._put("mm", tid, call, list(args), answer, why)

    def enclu(self, tid: int, leaf: int, error: int, view: Any, tcs: Any = None) -> None:
        """An ENCLU; ``view``: the registers after it (see `softsgx.uapi.regs`).

        ``tcs``: what the thread is in now; ERESUME has put another RBX in its place.
        """
        rbx = view[RBX] if leaf != ERESUME or tcs is None else tcs.addr
        if error == 0 and leaf in _CROSSING and self._sink is None and self._event is None:
            # Nothing can be asked, refused or changed: write it at once, by the row's format.
            us = (time.monotonic_ns() - self._start) // 1000
            self._line(_ENCLU % (us, tid, leaf, error, view[RAX], rbx, view[RCX], view[RIP]))
            return
        self._put("enclu", tid, leaf, error, view[RAX], rbx, view[RCX], view[RIP])

    def entered(self, pid: int, counts: dict[int, int]) -> None:
        """How often a process has entered each TCS, by its address, that was not told of."""
        self._put("entered", pid, [[tcs, n] for tcs, n in sorted(counts.items()) if n])
        self.flush()

    def aex(
        self, tid: int, vector: int, code: int, addr: int, rip: int, regs: dict[str, int]
    ) -> None:
        """An asynchronous exit; ``vector`` -1: an interrupt. ``rip``, ``regs``: the enclave's.

        regs: what `registers` made of the registers before the exit.
        """
        self._put("aex", tid, vector, code, addr, rip)
        self._with(regs)

    @staticmethod
    def registers(view: Any) -> dict[str, int]:
        """The general registers by name, of a register file of `softsgx.uapi.regs`."""
        return {name: view[index] for name, index in _GENERAL}

    def _with(self, regs: dict[str, int]) -> None:
        if self._event is not None:
            self._event["registers"] = regs

    def fault(
        self, tid: int, addr: int, access: int, result: Any, page: dict[str, int] | None,
        view: Any,
    ) -> None:  # fmt: skip
        """A page fault inside; ``result``: `softsgx.device.process.PageFault`; ``page``: its
        fields afterwards, if an enclave's; ``view``: the registers.
        """
        self._put("fault", tid, addr, access, result.signal, result.error_code, page, result.why)
        self._with(self.registers(view))

    def augment(self, tid: int, addr: int, page: dict[str, int] | None) -> None:
        """EAUG of a page that an instruction's operand needed."""
        self._put("augment", tid, addr, page)

    def notify(self, tid: int, tcs: int, cssa: int) -> None:
        """The ERESUME that follows enters at OENTRY: the enclave is told of its exit."""
        self._put("notify", tid, tcs, cssa)

    def exception(
        self, tid: int, vector: int, code: int, addr: int, to: str, signal: int, leaf: int
    ) -> None:
        """What the program sees of an exception; ``to``: "vdso" or "signal"."""
        self._put("exception", tid, vector, code, addr, to, signal, leaf)

    @property
    def prints(self) -> bool:
        """Whether events are printed as they happen."""
        return self._sink is not None

    def crash(self, tid: int, fields: dict[str, Any]) -> None:
        """An exception inside that is told in full: `softsgx.record.crash`."""
        self._put("crash", tid, *fields.values())

    def cpuid(self, tid: int, leaf: int, subleaf: int, answer: tuple[int, int, int, int]) -> None:
        """A CPUID that was answered: EAX, EBX, ECX, EDX."""
        self._put("cpuid", tid, leaf, subleaf, *answer)


def _program_version() -> str:
    # By the name of the folder beside the package: importlib.metadata takes 50 ms to import.
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if name.startswith("softsgx-") and name.endswith(".dist-info"):
                return name[len("softsgx-") : -len(".dist-info")]
    return "unknown"


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def _open(path: str) -> int:
    try:
        append = os.O_APPEND | os.O_CLOEXEC
        try:
            # Who could read a pipe as well would not hear that its reader has gone.
            way = os.O_WRONLY if _is_pipe(path) else os.O_RDWR
            fd = os.open(path, way | append | os.O_CREAT, 0o644)
        except PermissionError:
            fd = os.open(path, os.O_WRONLY | append)
    except OSError as e:
        raise UsageError(f"--record {path}: {e.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise UsageError(f"--record {path}: another run of softsgx is recording to it") from None
    except OSError:
        pass  # a pipe on an odd filesystem: nothing to guard
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        if size and os.pread(fd, 1, size - 1) != b"\n":
            os.write(fd, b"\n")  # a run before this one was cut short
    except OSError:
        pass  # not a regular file, or not readable
    return fd
