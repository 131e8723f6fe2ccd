"""AESM's socket: many clients at once in one thread, none of which can hold up another.

The tracer's own thread never waits for a client and no client for a stopped thread: an asyncio
loop in a thread of its own serves a listening socket in the abstract namespace, so nothing is on
the file system. Its name has 128 random bits, and who connects has to be one of the run's.

Rejected: a process of its own, which the tracer would have to tell from what it traces.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Callable

from softsgx.attest.aesm import Aesm
from softsgx.attest.quoting import Quoting
from softsgx.errors import UnsupportedError

__all__ = ["MAX_MESSAGE", "AesmService"]

MAX_MESSAGE = 1 << 16
"""The longest request that is read, in bytes: ten times what the longest list of keys takes."""
_SILENCE_SECONDS = 60
_MESSAGE_SECONDS = 10
_MOST_CLIENTS = 1024
_OF_A_LOOP = 3  # descriptors
_BACKLOG = 32  # linux-sgx, UnixServerSocket::init()


class AesmService:
    """The service, from the first connect on. may: whether a process (its pid) may ask."""

    def __init__(self, quoting: Quoting, may: Callable[[int], bool]) -> None:
        self._aesm, self._may = Aesm(quoting), may
        self._clients = 0
        self.address = b"\0softsgx-aesm-" + os.urandom(16).hex().encode()
        """Where it listens: a name in the abstract namespace."""
        try:
            self._begin()
        except (OSError, RuntimeError) as e:
            raise UnsupportedError(
                f"AESM cannot be served: {e}; is it a limit (ulimit -n, ulimit -u)?"
            ) from None

    def _begin(self) -> None:
        """Raises OSError or RuntimeError where descriptors or a thread are missing."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _find_descriptors(self._socket.fileno())
            self._socket.bind(self.address)
            self._socket.listen(_BACKLOG)
            threading.Thread(target=self._run, name="aesm", daemon=True).start()
        except (OSError, RuntimeError):
            self._socket.close()
            raise

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._client, sock=self._socket)
        async with server:
            await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests and answers in turn; what is no request ends it."""
        self._clients += 1
        try:
            if self._clients <= _MOST_CLIENTS and self._may(_peer(writer)):
                while True:
                    head = await asyncio.wait_for(reader.readexactly(4), _SILENCE_SECONDS)
                    size = int.from_bytes(head, "little")
                    if not await asyncio.wait_for(
                        self._one(reader, writer, size), _MESSAGE_SECONDS
                    ):
                        break
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), _MESSAGE_SECONDS)
        except (OSError, EOFError, TimeoutError):
            pass  # it went away, said too little for too long, or reads no answer
        finally:
            self._clients -= 1
            writer.transport.abort()

    async def _one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int
    ) -> bool:
        """One request of that many bytes: whether it was one."""
        answer = None if size > MAX_MESSAGE else self._aesm.answer(await reader.readexactly(size))
        if answer is None:
            return False
        writer.write(len(answer).to_bytes(4, "little") + answer)
        await writer.drain()
        return True


def _find_descriptors(fd: int) -> None:
    """Raises OSError where too few are free for a loop, which would leave a traceback behind."""
    spare: list[int] = []
    try:
        while len(spare) < _OF_A_LOOP:
            spare.append(os.dup(fd))
    finally:
        for each in spare:
            os.close(each)


def _peer(writer: asyncio.StreamWriter) -> int:
    """The pid of who connected."""
    sock = writer.get_extra_info("socket")
    (pid, _, _) = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)
