"""The wire: whatever comes, packets that are right are found, and nothing else."""

from __future__ import annotations

import shutil
import signal
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softsgx.rsp.packets import (
    BREAK,
    MOST_BYTES,
    BadPacket,
    Ids,
    Reader,
    escape,
    frame,
    number,
    range_of,
    unescape,
    unhex,
)
from softsgx.rsp.signals import from_gdb, to_gdb


def test_packets_are_acknowledged_until_nobody_wants_that() -> None:
    reader = Reader()
    assert reader.feed(b"+$qC#b4\x03$bad#00-") == [b"qC", BREAK]
    assert bytes(reader.answers) == b"+-"
    reader.answers.clear()
    reader.acks = False
    assert reader.feed(b"$?#3f$g#67") == [b"?", b"g"]
    assert not reader.answers


@given(st.binary(), st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_a_packet_is_found_behind_anything(
    before: bytes, packets: list[bytes], data: st.DataObject
) -> None:
    reader = Reader()
    reader.feed(before + b"#00")
    stream = b"".join([frame(escape(packet)) for packet in packets])
    found: list[bytes] = []
    while stream:
        n = data.draw(st.integers(1, len(stream)))
        found += reader.feed(stream[:n])
        stream = stream[n:]
    assert [unescape(packet) for packet in found] == packets


def test_a_packet_without_end_costs_no_memory_without_end() -> None:
    reader = Reader()
    assert reader.feed(b"$" + b"x" * (3 * MOST_BYTES) + b"#00$qC#b4") == [b"qC"]


@pytest.mark.parametrize("text", [b"", b"xyz", b"-1", b"1" * 17, b"0x10", b" 1", b"1_0"])
def test_numbers_are_hexadecimal_and_of_64_bits(text: bytes) -> None:
    with pytest.raises(BadPacket):
        number(text)
    with pytest.raises(BadPacket):
        range_of(text + b"," + text)


@pytest.mark.parametrize("text", [b"1", b"zz", b"\xff\xff", b"1 "])
def test_bytes_have_two_digits_each(text: bytes) -> None:
    with pytest.raises(BadPacket):
        unhex(text)


def test_threads_have_names_with_and_without_their_process() -> None:
    ids = Ids()
    assert ids.text(0x12, 0x34) == b"34"
    assert (ids.parse(b"34"), ids.parse(b"-1"), ids.parse(b"0")) == ((0, 0x34), (-1, -1), (0, 0))
    ids.multiprocess = True
    assert ids.parse(ids.text(0x12, 0x34)) == (0x12, 0x34)
    assert ids.parse(b"p12.-1") == ids.parse(b"p12") == (0x12, -1)
    for text in (b"", b"p", b"p.", b"p1.", b"p1.x", b"80000000", b"pp1.1"):
        with pytest.raises(BadPacket):
            ids.parse(text)


def test_signals_have_the_numbers_of_debian_s_gdb() -> None:
    if shutil.which("gdb") is None:
        pytest.fail("no gdb: install the packages of debian-packages.txt")
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", "info signals"], capture_output=True, text=True, check=True
    )
    names = [
        line.split()[0] for line in done.stdout.splitlines() if line.startswith(("SIG", "EXC"))
    ]
    assert names[0] == "SIGHUP"
    theirs = {name: n for n, name in enumerate([name for name in names if name != "Signal"], 1)}
    for number_ in range(1, 65):
        try:
            name = signal.Signals(number_).name
        except ValueError:
            name = f"SIG{number_}"
        name = {"SIGRTMIN": "SIG34", "SIGRTMAX": "SIG64"}.get(name, name)
        if name == "SIGSTKFLT":
            assert (to_gdb(number_), from_gdb(143)) == (143, 0)
        else:
            assert to_gdb(number_) == theirs[name], name
            assert from_gdb(to_gdb(number_)) == number_
