"""A client of GDB's remote protocol, for tests: packets by hand, and GDB itself in batch mode."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.command import PATIENCE

__all__ = ["Client", "client", "gdb"]

SUPPORTED = "qSupported:multiprocess+;swbreak+;hwbreak+;fork-events+;vfork-events+;exec-events+"


class Client:
    """One connection, and softsgx behind it. stop: what was last told of a thread."""

    def __init__(self, process: subprocess.Popen[bytes], address: tuple[str, int]) -> None:
        self.process, self.address = process, address
        self.said = self.stop = ""
        self.socket = socket.socket()
        self.connect()

    def connect(self) -> None:
        """Once more: the connection that there was is ended."""
        self.socket.close()
        self._acks = True
        self.socket = socket.create_connection(self.address, timeout=PATIENCE)
        self._buffer = b""

    def send(self, packet: str | bytes) -> None:
        data = packet.encode() if isinstance(packet, str) else packet
        self.socket.sendall(b"$%b#%02x" % (data, sum(data) & 0xFF))

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> str:
        """The next packet; "" is the empty one. Raises EOFError where the connection ends."""
        while True:
            found = re.search(rb"\$([^#]*)#..", self._buffer, re.DOTALL)
            if found:
                self._buffer = self._buffer[found.end() :]
                if self._acks:
                    self.socket.sendall(b"+")
                answer = found[1].decode("latin-1")
                if answer[:1] == "T":
                    self.stop = answer
                return answer
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError
            self._buffer += data

    def __call__(self, packet: str | bytes) -> str:
        self.send(packet)
        return self.answer()

    def hello(self, features: str = SUPPORTED) -> str:
        """What GDB says first: the stop at the program's first instruction."""
        self(features)
        assert self("QStartNoAckMode") == "OK"
        self._acks = False
        return self("?")

    def monitor(self, text: str) -> str:
        answer = self("qRcmd," + text.encode().hex())
        return "" if answer == "OK" else bytes.fromhex(answer).decode()

    def end(self) -> int:
        """softsgx's exit status, with what it said in `said`."""
        assert self.process.stderr is not None
        self.said += self.process.stderr.read().decode()
        return self.process.wait(PATIENCE)


@contextmanager
def client(cwd: Path, *argv: str | Path) -> Iterator[Client]:
    """``softsgx run --gdb 0 ARGV``, and a connection to it."""
    command = [sys.executable, "-m", "softsgx", "run", "--gdb", "0", *map(str, argv)]
    with subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            line = process.stderr.readline().decode()
            found = re.fullmatch(
                r"softsgx: gdb: waiting for a debugger: target remote (.*):(\d+)\n", line
            )
            assert found is not None, line + process.stderr.read().decode()
            it = Client(process, (found[1], int(found[2])))
            yield it
            it.socket.close()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def gdb(cwd: Path, commands: Sequence[str], *argv: str | Path, native: Path | None = None) -> str:
    """What GDB prints in batch mode: of ``softsgx run --gdb - ARGV``, or of a program itself."""
    pipe = " ".join([sys.executable, "-m", "softsgx", "run", "--gdb", "-", *map(str, argv)])
    lines = ["set confirm off", "set pagination off", "set breakpoint pending on", "set width 0"]
    lines += ["run"] if native is not None else [f"target remote | {pipe}"]
    script = cwd / "script.gdb"
    script.write_text("\n".join([*lines, *commands, ""]))
    with subprocess.Popen(
        ["gdb", "-nx", "-batch", "-x", script, *([] if native is None else [native])],
        cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, _ = process.communicate(timeout=PATIENCE)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return out
