"""What a debugger looks at: one thread, its registers, its process's memory, and objects."""

from __future__ import annotations

from errno import EFAULT, EINVAL, ESRCH

from softsgx.host import ptrace
from softsgx.rsp.packets import (
    MOST_BYTES,
    BadPacket,
    Ids,
    escape,
    number,
    range_of,
    unescape,
    unhex,
)
from softsgx.rsp.registers import RegisterFile
from softsgx.sdm.xsave import XsaveLayout
from softsgx.supervisor.debug import memory, objects
from softsgx.supervisor.debug.control import Control
from softsgx.supervisor.debug.hardware import ACCESS, EXECUTE, WRITE
from softsgx.supervisor.debug.threads import Thread

__all__ = ["Looking", "Missing"]

_HARDWARE = {1: EXECUTE, 2: WRITE, 4: ACCESS}


class Missing(Exception):
    """What a packet names is not there: its errno."""


class Looking:
    """The packets that change no thread's course. ids: how threads are named."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._general: Thread | None = None
        self._file: RegisterFile | None = None
        self.ids = Ids()

    def thread_now(self) -> Thread:
        """The thread that is looked at, any if it is gone."""
        threads = self._control.threads
        t = self._general
        if t is None or threads.get(t.tid) is not t:
            t = next(iter(threads.values()), None)
            if t is None:
                raise Missing(ESRCH)
            self._general = t
        return t

    def find(self, text: bytes) -> Thread:
        """The thread of an id; any of a process, or any at all, if it says so."""
        pid, tid = self.ids.parse(text)
        for t in self._control.threads.values():
            if (tid <= 0 or t.tid == tid) and (pid <= 0 or t.process.pid == pid):
                return t
        raise Missing(ESRCH)

    def choose(self, rest: bytes) -> bytes:
        """H: the thread that is looked at."""
        if rest[:1] == b"g":
            pid, tid = self.ids.parse(rest[1:])
            now = self._general
            if tid > 0 or pid > 0 or now is None:
                same = now is not None and now.process.pid == pid and tid <= 0
                if not same:
                    self._general = self.find(rest[1:])
            return b"OK"
        if rest[:1] == b"c":
            self._for_step = self.ids.parse(rest[1:])[1]
            return b"OK"
        return b""

    # -- registers ---------------------------------------------------------------------------

    def registers(self) -> RegisterFile:
        """This processor's registers."""
        if self._file is None:
            cpuid = ptrace.cpuid_function()
            layout = XsaveLayout({}) if cpuid is None else XsaveLayout.of_cpuid(cpuid)
            self._file = RegisterFile(layout)
        return self._file

    def standing(self) -> Thread:
        """The thread, if it stands."""
        t = self.thread_now()
        if not t.held:
            raise Missing(ESRCH)
        return t

    def read_all(self, _rest: bytes) -> bytes:
        """g: all registers."""
        file, t, regs = self.registers(), self.standing(), self._control.run.spare_regs
        regs.load(t.tid)
        image = ptrace.get_xstate(t.tid)
        count = range(len(file.registers))
        return b"".join([file.read(n, regs.view, image) for n in count]).hex().encode()

    def write_all(self, rest: bytes) -> bytes:
        """G: the same, to set them."""
        file, values = self.registers(), unhex(rest)
        at = 0
        pairs = []
        for n, reg in enumerate(file.registers):
            if at + reg.size <= len(values):
                pairs.append((n, values[at : at + reg.size]))
            at += reg.size
        if at < len(values):
            raise BadPacket(rest)
        return self.set(pairs)

    def read_one(self, rest: bytes) -> bytes:
        """p: one register."""
        file, t, n = self.registers(), self.standing(), number(rest)
        if n >= len(file.registers):
            raise Missing(EINVAL)
        regs = self._control.run.spare_regs
        regs.load(t.tid)
        return file.read(n, regs.view, ptrace.get_xstate(t.tid)).hex().encode()

    def write_one(self, rest: bytes) -> bytes:
        """P: the same, to set it."""
        which, equals, value = rest.partition(b"=")
        n, file = number(which), self.registers()
        if not equals or n >= len(file.registers):
            raise BadPacket(rest)
        raw = unhex(value)
        if len(raw) != file.registers[n].size:
            raise BadPacket(rest)
        return self.set([(n, raw)])

    def set(self, values: list[tuple[int, bytes]]) -> bytes:
        """Set registers of the thread: (number, bytes) each."""
        file, t, regs = self.registers(), self.standing(), self._control.run.spare_regs
        regs.load(t.tid)
        image = bytearray(ptrace.get_xstate(t.tid))
        vectors = [file.write(n, value, regs.view, image) for n, value in values]
        regs.store(t.tid)
        if any(vectors):
            ptrace.set_xstate(t.tid, image)
        return b"OK"

    # -- memory and breakpoints --------------------------------------------------------------

    def read_memory(self, rest: bytes) -> bytes:
        """m: memory, hexadecimal."""
        addr, length = range_of(rest)
        length = min(length, MOST_BYTES // 2 - 8)
        d = self._control
        found = memory.read(self.thread_now().tracee.space, d.points, addr, length)
        if length and not found:
            raise Missing(EFAULT)
        return found.hex().encode()

    def write_hex(self, rest: bytes) -> bytes:
        """M: the same, to set it."""
        where, _, data = rest.partition(b":")
        return self._write(where, unhex(data))

    def write_binary(self, rest: bytes) -> bytes:
        """X: the same, binary."""
        where, _, data = rest.partition(b":")
        return self._write(where, unescape(data))

    def _write(self, where: bytes, data: bytes) -> bytes:
        addr, length = range_of(where)
        if length != len(data):
            raise BadPacket(where)
        d = self._control
        if data and not memory.write(self.thread_now().tracee.space, d.points, addr, data):
            raise Missing(EFAULT)
        return b"OK"

    def _point(self, rest: bytes) -> tuple[int, int, int]:
        kind, _, where = rest.partition(b",")
        addr, length = range_of(where.partition(b";")[0])
        return number(kind), addr, length

    def insert(self, rest: bytes) -> bytes:
        """Z: a breakpoint or watchpoint."""
        kind, addr, length = self._point(rest)
        t = self.thread_now()
        if kind == 0:
            if not self._control.points.insert(t.tracee.space, addr):
                raise Missing(EFAULT)
            return b"OK"
        if kind not in _HARDWARE:
            return b""
        if not t.process.hardware.insert(addr, length, _HARDWARE[kind]):
            raise Missing(EINVAL)
        if not t.process.hardware.apply(self.standing().tid):
            t.process.hardware.remove(addr, length, _HARDWARE[kind])
            return b""
        return b"OK"

    def remove(self, rest: bytes) -> bytes:
        """z: the same, to take it out."""
        kind, addr, length = self._point(rest)
        t = self.thread_now()
        if kind == 0:
            self._control.points.remove(t.tracee.space, addr)
        elif kind in _HARDWARE:
            t.process.hardware.remove(addr, length, _HARDWARE[kind])
        else:
            return b""
        return b"OK"

    # -- objects -----------------------------------------------------------------------------

    def transfer(self, rest: bytes) -> bytes:
        """qXfer: a part of an object."""
        kind, _, rest = rest.partition(b":")
        action, _, rest = rest.partition(b":")
        annex, _, where = rest.rpartition(b":")
        if action != b"read":
            return b""
        offset, length = range_of(where)
        whole = self._object(kind, annex)
        if whole is None:
            return b""
        length = min(length, MOST_BYTES // 2)
        piece = whole[offset : offset + length]
        return (b"m" if offset + len(piece) < len(whole) else b"l") + escape(piece)

    def _object(self, kind: bytes, annex: bytes) -> bytes | None:
        d = self._control
        if kind == b"features":
            if annex != b"target.xml":
                raise Missing(EINVAL)
            return self.registers().xml()
        if kind == b"threads":
            return objects.threads(d.threads.values(), self.ids)
        if kind == b"exec-file":
            t = self.find(b"p%s.-1" % annex) if annex else self.thread_now()
            return objects.exec_file(t)
        if kind == b"auxv":
            return objects.auxv(self.thread_now())
        if kind == b"siginfo":
            return ptrace.get_siginfo(self.standing().tid)
        if kind == b"libraries-svr4":
            d.libraries = True
            return objects.libraries(d.run, self.thread_now())
        return None
