"""AESM's socket and clients that misbehave: others are answered all the same."""

from __future__ import annotations

import os
import resource
import socket
import struct
import threading

import pytest

from softsgx.attest.messages import Request, Response
from softsgx.errors import UnsupportedError
from softsgx.services import aesm
from softsgx.services.aesm import MAX_MESSAGE, AesmService
from tests.attest.quoted import device
from tests.command import PATIENCE


@pytest.fixture(scope="module")
def service() -> AesmService:
    return AesmService(device().quoting, lambda pid: pid == os.getpid())


def connect(to: AesmService) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(to.address)  # waits where the queue is full; with a timeout: EAGAIN
    client.settimeout(PATIENCE)
    return client


def question() -> bytes:
    request = Request()
    request.GetSupportedAttKeyIDNum.SetInParent()
    raw: bytes = request.SerializeToString()
    return struct.pack("<I", len(raw)) + raw


def receive(client: socket.socket) -> bytes:
    """One answer, or b"" where the service hung up."""
    whole = b""
    while len(whole) < 4 or len(whole) < 4 + struct.unpack_from("<I", whole)[0]:
        piece = client.recv(1 << 16)
        if not piece:
            return b""
        whole += piece
    return whole[4:]


def answered(client: socket.socket) -> bool:
    client.sendall(question())
    answer = Response.FromString(receive(client))
    return bool(answer.GetSupportedAttKeyIDNum.att_key_id_num == 1)


def test_a_connection_carries_one_request_or_more(service: AesmService) -> None:
    with connect(service) as client:
        assert answered(client)
        assert answered(client)


def test_where_there_is_no_room_for_it_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    quoting, before = device().quoting, resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    for more in range(4):
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, before[1]))
        try:
            with pytest.raises(UnsupportedError, match=r"Too many open files.*ulimit -n"):
                AesmService(quoting, bool)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(UnsupportedError, match=r"can't start new thread; .*ulimit -u"):
        AesmService(quoting, bool)


def test_pieces_of_a_request_are_a_request(service: AesmService) -> None:
    with connect(service) as client:
        for byte in question():
            client.sendall(bytes((byte,)))
        assert receive(client)


@pytest.mark.parametrize(
    "said",
    [
        b"\xff\xff\xff\xff",
        struct.pack("<I", MAX_MESSAGE + 1) + b"x" * 100,
        b"\x01\0\0\0\xff",
        b"\x03\0\0\0\x7a\x05x",
    ],
)
def test_what_is_no_request_ends_the_connection(service: AesmService, said: bytes) -> None:
    with connect(service) as client:
        client.sendall(said)
        assert receive(client) == b""
    with connect(service) as client:
        assert answered(client)


@pytest.mark.parametrize("said", [b"", b"\x04", b"\x04\0\0\0", question()[:-1]])
def test_a_request_cut_short_by_its_end_is_none(service: AesmService, said: bytes) -> None:
    with connect(service) as client:
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        assert receive(client) == b""


def test_who_never_ends_holds_up_nobody(
    service: AesmService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aesm, "_SILENCE_SECONDS", 2 * PATIENCE)
    monkeypatch.setattr(aesm, "_MESSAGE_SECONDS", 2 * PATIENCE)
    slow = [connect(service) for _ in range(100)]
    for client in slow[:50]:
        client.sendall(struct.pack("<I", MAX_MESSAGE) + b"x")
    with connect(service) as client:
        assert answered(client)
    for client in slow:
        client.close()


def test_who_never_ends_is_ended(service: AesmService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aesm, "_MESSAGE_SECONDS", 0.01)
    with connect(service) as client:
        client.sendall(struct.pack("<I", 100) + b"x")
        assert receive(client) == b""
    monkeypatch.undo()
    monkeypatch.setattr(aesm, "_SILENCE_SECONDS", 0.01)
    with connect(service) as client:
        assert receive(client) == b""


def fill(client: socket.socket) -> None:
    """Ask and read nothing until it is hung up on."""
    while True:
        client.sendall(question() * 1000)


def test_who_reads_no_answer_is_ended(
    service: AesmService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aesm, "_MESSAGE_SECONDS", 0.05)
    client = connect(service)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        fill(client)
    client.close()
    with connect(service) as other:
        assert answered(other)


def test_many_at_once(service: AesmService) -> None:
    right: list[bool] = []

    def run() -> None:
        with connect(service) as client:
            right.extend(answered(client) for _ in range(20))

    threads = [threading.Thread(target=run) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 400


def test_a_stranger_is_not_answered() -> None:
    alone = AesmService(device().quoting, lambda _pid: False)
    with connect(alone) as client:
        assert receive(client) == b""
