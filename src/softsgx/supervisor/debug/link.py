"""The way to who debugs: a port that is listened on, or standard input and output.

What comes is looked for between two stops; a stop of a tracee is SIGCHLD, which writes to a pipe.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

from softsgx.errors import UsageError

__all__ = ["Link", "open_link"]

_SEND_SECONDS = 30


class Link:
    """``poll`` waits for bytes, a stop of a tracee or a connection; `take` gives the bytes.

    address: of the port, None for standard input and output. connected: whether anybody is there.
    """

    def __init__(self, listener: socket.socket | None, ends: tuple[int, int] = (-1, -1)) -> None:
        self._listener = listener
        self._in, self._out = ends
        self._socket: socket.socket | None = None
        self._woken, self._wake = -1, -1
        self.connected = listener is None
        self.closed = False

    @property
    def address(self) -> str | None:
        """``host:port``, as GDB's ``target remote`` takes it."""
        if self._listener is None:
            return None
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """Let stops of tracees end `poll`; in the thread that traces."""
        self._woken, self._wake = os.pipe()
        for fd in (self._woken, self._wake):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def poll(self, milliseconds: int | None = None, *, anybody: bool = True) -> bool:
        """Wait: whether bytes, or the connection's end, are there; a connection is taken.

        anybody: if not, for stops alone.
        """
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        source = self._in if self.connected and anybody else -1
        if source >= 0:
            poll.register(source, select.POLLIN)
        listener = self._listener if anybody and not self.connected and not self.closed else None
        if listener is not None:
            poll.register(listener, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(milliseconds)}
        if self._woken in ready:
            os.read(self._woken, 4096)
        if listener is not None and listener.fileno() in ready:
            self._accept(listener)
        return source in ready

    def _accept(self, listener: socket.socket) -> None:
        try:
            self._socket, _ = listener.accept()
        except OSError:
            return  # it is gone again
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in = self._out = self._socket.fileno()
        self.connected = True

    def take(self) -> bytes:
        """The bytes that are there; b"" at the end of the connection."""
        try:
            return os.read(self._in, 1 << 16)
        except OSError:
            return b""

    def send(self, data: bytes) -> bool:
        """Whether all of it was sent; not if nobody reads it for half a minute."""
        poll = select.poll()
        poll.register(self._out, select.POLLOUT)
        os.set_blocking(self._out, False)
        try:
            while data:
                if not poll.poll(_SEND_SECONDS * 1000):
                    return False
                try:
                    data = data[os.write(self._out, data) :]
                except BlockingIOError:
                    continue
        except OSError:
            return False
        finally:
            os.set_blocking(self._out, True)
        return True

    def drop(self) -> None:
        """End the connection; another may come to a port."""
        self.connected = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Nobody debugs any more."""
        if self.closed:
            return
        self.drop()
        self.closed = True
        if self._listener is not None:
            self._listener.close()
        else:
            os.close(self._in)
            os.close(self._out)


def open_link(text: str) -> Link:
    """The link of ``--gdb PORT``, ``HOST:PORT`` or ``-``. Raises UsageError."""
    if text == "-":
        return _standard()
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(f"--gdb {text}: not a port; give one like 1234, 0 for any, or -")
    host = host.removeprefix("[").removesuffix("]")
    if host in ("", "localhost"):
        host = "127.0.0.1"
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)
    except OSError as error:
        raise UsageError(f"--gdb {text}: {error.strerror}; give another port, or 0") from None
    return Link(listener)


def _standard() -> Link:
    """The protocol on standard input and output: the program gets others, as with gdbserver -."""
    try:
        ends = os.dup(0), os.dup(1)
    except OSError:
        raise UsageError("--gdb -: standard input or output is closed") from None
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2 if sys.stderr is not None else null, 1)
    os.close(null)
    return Link(None, ends)
