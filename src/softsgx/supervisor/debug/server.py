"""Packets of who debugs, each answered by what `Debugger` knows and does.

A packet that is not known has an empty answer, as the protocol has it; one that makes no sense, or
asks for what is not there, an error: EFAULT of memory, ESRCH of threads, EINVAL of the rest.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from errno import EINVAL, ESRCH

from softsgx.rsp.packets import (
    BREAK,
    MOST_BYTES,
    BadPacket,
    Ids,
    Reader,
    frame,
    number,
    unhex,
)
from softsgx.rsp.signals import from_gdb, to_gdb
from softsgx.supervisor.debug import monitor
from softsgx.supervisor.debug.control import HALTED, Control
from softsgx.supervisor.debug.looking import Looking, Missing
from softsgx.supervisor.debug.threads import Stop, Thread

__all__ = ["Server"]

_SUPPORTED = (
    b"PacketSize=%x;QStartNoAckMode+;multiprocess+;swbreak+;hwbreak+;fork-events+;vfork-events+;"
    b"exec-events+;no-resumed+;vContSupported+;QPassSignals+;qXfer:features:read+;"
    b"qXfer:auxv:read+;qXfer:exec-file:read+;qXfer:libraries-svr4:read+;qXfer:threads:read+;"
    b"qXfer:siginfo:read+" % MOST_BYTES
)
_MOST_WAITING = 1024


def _error(errno: int) -> bytes:
    return b"E%02x" % errno


class Server(Looking):
    """One connection after the other.

    resumed: who debugs waits to be told of a stop.
    """

    def __init__(self, control: Control) -> None:
        super().__init__(control)
        self._for_step = -1
        self._work: deque[bytes] = deque()
        self._busy = False
        self._ended = b""
        self.resumed = False
        self.reset()

    def reset(self) -> None:
        """For a new connection."""
        self._reader = Reader()
        self._work.clear()
        self.ids = Ids()
        self._features: frozenset[bytes] = frozenset()
        self.resumed = False

    # -- the wire --------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """What has come: packets are answered, as long as it is their turn."""
        for packet in self._reader.feed(data):
            if packet == BREAK:
                self._control.interrupt()
            else:
                self._work.append(packet)
        if self._reader.answers:
            answers = bytes(self._reader.answers)
            self._reader.answers.clear()
            self._send(answers)
        if len(self._work) > _MOST_WAITING:
            self._control.lost("sends and does not wait")
        self._go_on()

    def _go_on(self) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            while self._work and self._control.state == HALTED:
                answer = self._answer(self._work.popleft())
                if answer is not None:
                    self._send(frame(answer))
        finally:
            self._busy = False

    def _send(self, data: bytes) -> None:
        link = self._control.link
        if link.connected and not link.send(data):
            self._control.lost("went away")

    def _answer(self, packet: bytes) -> bytes | None:
        try:
            for start, handler in _HANDLERS:
                if packet.startswith(start):
                    return handler(self, packet[len(start) :])
        except Missing as missing:
            return _error(missing.args[0])
        except ProcessLookupError:
            return _error(ESRCH)
        except (BadPacket, OSError):
            return _error(EINVAL)
        return b""

    # -- what is told ------------------------------------------------------------------------

    def _stop(self, t: Thread, stop: Stop) -> bytes:
        kind, value = stop.kind, stop.value
        if kind in (b"swbreak", b"hwbreak") and kind + b"+" not in self._features:
            kind = b""
        if isinstance(value, int):
            value = self.ids.text(value, value)
        reason = b"%s:%s;" % (kind, value) if kind else b""
        ident = self.ids.text(t.process.pid, t.tid)
        return b"T%02x%sthread:%s;" % (to_gdb(stop.signal) if stop.signal else 0, reason, ident)

    def tell_stop(self, t: Thread, stop: Stop) -> None:
        """A thread has stopped."""
        self._general = t
        self._tell(self._stop(t, stop))

    def tell_end(self, pid: int, status: int) -> None:
        """A process has ended."""
        if os.WIFSIGNALED(status):
            text = b"X%02x" % to_gdb(os.WTERMSIG(status))
        else:
            text = b"W%02x" % os.WEXITSTATUS(status)
        self._ended = text
        if self.ids.multiprocess:
            text += b";process:%x" % pid
        self._tell(text)
        if not self._control.processes:
            self._control.finish()

    def tell_nobody(self) -> None:
        """No thread that was let run is left."""
        if b"no-resumed+" in self._features:
            self._tell(b"N")
        else:
            self.tell_stop(self.thread_now(), Stop(0))

    def _tell(self, text: bytes) -> None:
        if self.resumed:
            self.resumed = False
            self._send(frame(text))
        self._go_on()

    # -- packets -----------------------------------------------------------------------------

    def _why(self, _rest: bytes) -> bytes:
        try:
            return self._stop(self.thread_now(), Stop(5))
        except Missing:
            return self._ended or b"W00"

    def _supported(self, rest: bytes) -> bytes:
        features = frozenset(rest.lstrip(b":").split(b";"))
        self._features = features
        self.ids.multiprocess = b"multiprocess+" in features
        names = (b"fork", b"vfork", b"exec")
        self._control.events = frozenset([name for name in names if name + b"-events+" in features])
        return _SUPPORTED

    def _no_ack(self, _rest: bytes) -> bytes:
        self._reader.acks = False
        return b"OK"

    def _alive(self, rest: bytes) -> bytes:
        self.find(rest)
        return b"OK"

    def _current(self, _rest: bytes) -> bytes:
        t = self.thread_now()
        return b"QC" + self.ids.text(t.process.pid, t.tid)

    def _first_threads(self, _rest: bytes) -> bytes:
        threads = self._control.threads.values()
        return b"m" + b",".join([self.ids.text(t.process.pid, t.tid) for t in threads])

    def _attached(self, _rest: bytes) -> bytes:
        return b"0"  # by us: it is killed if who debugs quits

    def _pass_signals(self, rest: bytes) -> bytes:
        numbers = [from_gdb(number(text)) for text in rest.lstrip(b":").split(b";") if text]
        self._control.ignored = frozenset(numbers) - {0}
        return b"OK"

    def _monitor(self, rest: bytes) -> bytes:
        text = unhex(rest).decode("utf-8", "replace")
        answer = monitor.command(self._control, self.thread_now(), text)
        return answer.encode().hex().encode() or b"OK"

    # -- running -----------------------------------------------------------------------------

    def _resume(self, actions: list[tuple[bytes, bytes]]) -> bytes | None:
        """(action, id) each; the first that fits a thread is its."""
        parsed = [(*self._action(what), self.ids.parse(who)) for what, who in actions]
        wanted = []
        for t in self._control.threads.values():
            for signal, step, within, (pid, tid) in parsed:
                if pid in (-1, 0, t.process.pid) and tid in (-1, 0, t.tid):
                    wanted.append((t, signal, step, within))
                    break
        if not wanted and self._control.threads:
            raise Missing(ESRCH)
        self.resumed = True
        self._control.resume(wanted)
        return None

    @staticmethod
    def _action(text: bytes) -> tuple[int, bool, tuple[int, int] | None]:
        kind, rest = text[:1], text[1:]
        if kind in (b"C", b"S"):
            return from_gdb(number(rest)), kind == b"S", None
        if kind == b"r":
            start, _, end = rest.partition(b",")
            return 0, True, (number(start), number(end))
        if kind not in (b"c", b"s") or rest:
            raise BadPacket(text)
        return 0, kind == b"s", None

    def _vcont(self, rest: bytes) -> bytes | None:
        actions = []
        for text in rest.split(b";"):
            what, colon, who = text.partition(b":")
            actions.append((what, who if colon else b"-1"))
        return self._resume(actions)

    def _plain(self, kind: bytes, rest: bytes) -> bytes | None:
        """``c``, ``s``, ``C`` and ``S``, each with an address to go on at."""
        if kind in (b"C", b"S"):
            signal, _, addr = rest.partition(b";")
        else:
            signal, addr = b"", rest
        t = self.thread_now()
        if addr:
            n = next(i for i, reg in enumerate(self.registers().registers) if reg.name == "rip")
            self.set([(n, number(addr).to_bytes(8, "little"))])
        mine = self.ids.text(t.process.pid, t.tid)
        actions = [(kind + signal, mine)]
        if self._for_step <= 0:
            actions.append((b"c", b"-1"))
        return self._resume(actions)

    # -- the end -----------------------------------------------------------------------------

    def _detach(self, rest: bytes) -> bytes | None:
        d = self._control
        if rest.startswith(b";"):
            pid = number(rest[1:])
            if pid not in d.processes:
                raise Missing(ESRCH)
            d.detach(pid)
        else:
            for pid in list(d.processes):
                d.detach(pid)
        self._send(frame(b"OK"))
        if not d.processes:
            d.finish()
        return None

    def _kill(self, _rest: bytes) -> bytes | None:
        self._control.kill(list(self._control.processes))
        self._control.finish()
        return None

    def _kill_one(self, rest: bytes) -> bytes | None:
        pid = number(rest)
        d = self._control
        if pid not in d.processes:
            raise Missing(ESRCH)
        d.kill([pid])
        self._send(frame(b"OK"))
        if not d.processes:
            d.finish()
        return None


def _always(answer: bytes) -> Callable[[Server, bytes], bytes | None]:
    return lambda _server, _rest: answer


def _plain(kind: bytes) -> Callable[[Server, bytes], bytes | None]:
    return lambda server, rest: server._plain(kind, rest)


_S = Server
_HANDLERS: tuple[tuple[bytes, Callable[[Server, bytes], bytes | None]], ...] = (
    (b"?", _S._why), (b"qSupported", _S._supported), (b"QStartNoAckMode", _S._no_ack),
    (b"qfThreadInfo", _S._first_threads), (b"qsThreadInfo", _always(b"l")),
    (b"qAttached", _S._attached), (b"QPassSignals", _S._pass_signals), (b"qRcmd,", _S._monitor),
    (b"qXfer:", _S.transfer), (b"qSymbol", _always(b"OK")), (b"qC", _S._current),
    (b"q", _always(b"")), (b"Q", _always(b"")),
    (b"vCont?", _always(b"vCont;c;C;s;S;r")), (b"vCont;", _S._vcont), (b"vKill;", _S._kill_one),
    (b"v", _always(b"")),
    (b"H", _S.choose), (b"T", _S._alive), (b"g", _S.read_all), (b"G", _S.write_all),
    (b"p", _S.read_one), (b"P", _S.write_one), (b"m", _S.read_memory), (b"M", _S.write_hex),
    (b"X", _S.write_binary), (b"Z", _S.insert), (b"z", _S.remove), (b"D", _S._detach),
    (b"k", _S._kill), (b"c", _plain(b"c")), (b"s", _plain(b"s")), (b"C", _plain(b"C")),
    (b"S", _plain(b"S")),
)  # fmt: skip
"""By the packet's beginning; the first that fits."""
