"""SGXS streams against records written out one by one, and what is no stream."""

from __future__ import annotations

import io
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softsgx.errors import UsageError
from softsgx.images import sgxs
from softsgx.images.image import Image, Part
from softsgx.images.sgxs import Stream, write
from softsgx.sgx import scatter
from tests.images.plain import PAGE, RW, RX, TCS, Plain


def contents(n_pages: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(n_pages * PAGE)


@pytest.fixture(params=["native", "record by record"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "native":
        monkeypatch.setattr(scatter, "_NATIVE", "/nonexistent/not-built.so")


@pytest.mark.usefixtures("way")
def test_a_stream_of_every_kind_of_page() -> None:
    plain = Plain(1 << 21, ssa=2)
    plain.page(0, TCS, contents(1))
    plain.pages(0x1000, RX, contents(130, 2))  # more than is looked at once
    plain.page(0x90000, RW)  # follows in the layout of chunks, not in the offsets
    plain.page(0xA0000, RW, contents(1, 3), measured=0b1000_0000_0000_0011)
    plain.page(0xA1000, RW, contents(1, 4), measured=False)
    plain.page(0xA2000, RW, contents(1, 5), measured=False)
    for page in range(0xB0, 0xC0):
        plain.page(page << 12, RW, measured=False)  # EADD alone
    plain.page(0xC0000, RX, contents(1, 6))
    stream = Stream(plain.stream)
    assert stream.mrenclave().hex() == plain.mrenclave
    assert (stream.size, stream.ssa_frame_pages) == (1 << 21, 2)
    pages = list(stream.pages())
    assert sum(p.n_pages for p in pages) == 1 + 130 + 1 + 1 + 2 + 16 + 1
    assert b"".join(plain.stream[p.at : p.end] for p in pages) == plain.stream[64:]
    assert {p.offset: (p.measured, p.unmeasured) for p in pages}[0xA0000] == (0x8003, 0x7FFC)


RUNS = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 3), st.sampled_from([RX, RW]), st.booleans(),
              st.booleans()),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(max_examples=30)
@given(runs=RUNS)
def test_what_is_written_is_what_fortanix_writes_and_read_back(
    runs: list[tuple[int, int, int, bool, bool]],
) -> None:
    plain, parts, at = Plain(1 << 22), [], 0
    for n, gap, flags, measured, zeros in runs:
        at += gap * PAGE
        data = bytes(n * PAGE) if zeros else contents(n, at)
        plain.pages(at, flags, data, measured)
        parts.append(Part(at, flags, n, None if zeros else data, measured=measured))
        at += n * PAGE
    image = Image(1 << 22, 1, parts)
    file = io.BytesIO()
    assert write(image, file).hex() == plain.mrenclave == image.mrenclave().hex()
    assert file.getvalue() == plain.stream
    stream = Stream(plain.stream)
    for window in (5184, 20000, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sgxs, "_WINDOW", window)
            assert stream.mrenclave().hex() == plain.mrenclave
    again = stream.image()
    assert again.mrenclave().hex() == plain.mrenclave
    file = io.BytesIO()
    write(again, file)
    assert file.getvalue() == plain.stream


def record(tag: bytes, offset: int, flags: int = 0) -> bytes:
    return struct.pack("<8sQQ", tag, offset, flags).ljust(64, b"\0")


CREATE = struct.pack("<8sIQ", b"ECREATE", 1, 0x4000).ljust(64, b"\0")
ADD = record(b"EADD", 0x1000, RW)
CHUNK = record(b"EEXTEND", 0x1000) + bytes(256)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (b"", "too short"),
        (CREATE[:63], "too short"),
        (ADD, "begins with no ECREATE"),
        (CREATE[:-1] + b"\1", "not zero"),
        (CREATE + CREATE, "byte 0x40: ECREATE where EADD has to be"),
        (CREATE + CHUNK, "EEXTEND where EADD has to be"),
        (CREATE + b"EBLAH\1\0\0" + bytes(56), "where EADD has to be"),
        (CREATE + ADD[:-1], "ends inside of a record"),
        (CREATE + ADD + CHUNK[:63], "ends inside of a record"),
        (CREATE + ADD + CHUNK[:-1], "ends inside of a chunk"),
        (CREATE + ADD[:-1] + b"\1", "EADD's record is not zero"),
        (CREATE + ADD + CHUNK[:63] + b"\1" + bytes(256), "no new chunk"),
        (CREATE + ADD + CHUNK + CHUNK, "no new chunk"),
        (CREATE + ADD + record(b"EEXTEND", 0x1080) + bytes(256), "no new chunk"),
        (CREATE + ADD + record(b"UNMEASRD", 0x2000) + bytes(256), "no new chunk"),
        (CREATE + ADD + record(b"UNMEASRD", 0xF00) + bytes(256), "no new chunk"),
        (CREATE + record(b"EADD", 0x1010, RW), "no page after the last one"),
        (CREATE + ADD + ADD, "no page after the last one"),
        (CREATE + ADD + record(b"EADD", 0, RW), "no page after the last one"),
        (CREATE + record(b"EADD", 0x4000, RW), "the enclave ends at 0x4000"),
        (CREATE + record(b"EADD", 1 << 63, RW), "the enclave ends at 0x4000"),
        (CREATE + record(b"EADD", 0, TCS | 3), "a TCS with permissions"),
        (b"UNSIZED\0" + CREATE[8:] + ADD, "UNSIZED"),
    ],
)
def test_what_is_no_stream(stream: bytes, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        Stream(stream).mrenclave()


def test_an_image_that_no_processor_builds() -> None:
    for size, frames, parts, complaint in (
        (0x3000, 1, [], "power of two"),
        (0x1000, 1, [], "power of two"),
        (0x4000, 0, [], "SSA frame"),
        (0x4000, 1, [Part(0x10, RW, 1)], "not the start"),
        (0x4000, 1, [Part(0x3000, RW, 2)], "ends at 0x4000"),
        (0x4000, 1, [Part(0x1000, RW, 1), Part(0, RW, 2)], "twice"),
        (1 << 50, 1, [Part(0, RW, 1 << 37)], "at most"),
    ):
        with pytest.raises(UsageError, match=complaint):
            Image(size, frames, parts).mrenclave()
    with pytest.raises(UsageError, match="upwards"):
        write(Image(0x4000, 1, [Part(0x1000, RW, 1), Part(0, RW, 1)]), io.BytesIO())
    plain = Plain(0x4000)
    plain.page(0, RW, b"x", measured=1)
    with pytest.raises(UsageError, match="in part"):
        Stream(plain.stream).image()
