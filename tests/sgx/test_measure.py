"""MRENCLAVE against a plain writing-out of the SDM's records, hashed by the openssl program."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import shutil
import subprocess
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softsgx.errors import InternalError
from softsgx.sdm.leaves import PAGE_SIZE
from softsgx.sgx import measure
from softsgx.sgx.late import LateMeasurement
from softsgx.sgx.measure import Measurement, measured_flags
from softsgx.sgx.scatter import OwnSha256, Sha256

RX_REG, RW_REG, TCS = 0x205, 0x203, 0x100

COMPILED = [OwnSha256, Sha256]
HASHES = [*COMPILED, hashlib.sha256]


@pytest.fixture
def hashing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What measures: where a processor has no instructions for it, or nothing is built."""
    try:
        request.param()
    except LookupError as why:
        pytest.skip(f"{request.param.__name__}: {why}; a processor with SHA extensions forces it")
    monkeypatch.setattr(measure, "_found", request.param)
    return request.param


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def ecreate(ssa: int, size: int) -> bytes:
    return (b"ECREATE\0" + ssa.to_bytes(4, "little") + u64(size)).ljust(64, b"\0")


def eadd(offset: int, flags: int) -> bytes:
    return (b"EADD\0\0\0\0" + u64(offset) + u64(flags)).ljust(64, b"\0")


def eextend(offset: int, chunk: bytes) -> bytes:
    return (b"EEXTEND\0" + u64(offset)).ljust(64, b"\0") + chunk


def records(offset: int, flags: int, data: bytes, mrmask: int = 0xFFFF) -> bytes:
    """The records of whole pages, written out one after the other."""
    stream = b""
    for page in range(0, len(data), 4096):
        stream += eadd(offset + page, flags)
        for i in range(16):
            if mrmask >> i & 1:
                at = page + 256 * i
                stream += eextend(offset + at, data[at : at + 256])
    return stream


def openssl_sha256(stream: bytes) -> bytes:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH; install openssl to force it")
    done = subprocess.run(
        [openssl, "dgst", "-sha256", "-binary"], input=stream, check=True, capture_output=True
    )
    return done.stdout


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("enclave")
    yield fd
    os.close(fd)


def contents(n_pages: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(n_pages * 4096)


def test_record_by_record() -> None:
    data = contents(1)
    m = Measurement()
    m.ecreate(1, 0x10000)
    m.eadd(0x3000, RX_REG)
    m.eextend(0x3100, data[:256])
    stream = ecreate(1, 0x10000) + eadd(0x3000, RX_REG) + eextend(0x3100, data[:256])
    assert m.digest() == openssl_sha256(stream)


# The runs cross multiples of 16, 64 and 4096 pages, where other bytes of the offset change.
@pytest.mark.parametrize("hashing", HASHES, indirect=True)
@pytest.mark.parametrize(
    ("first_page", "n_pages"),
    [(0, 1), (15, 2), (63, 1), (60, 10), (1, 200), (4090, 80), ((1 << 24) - 3, 70)],
)
@pytest.mark.usefixtures("hashing")
def test_bulk(memfd: int, first_page: int, n_pages: int) -> None:
    offset, data = first_page * 4096, contents(n_pages)
    os.pwrite(memfd, data, 0x5000)
    stream = ecreate(2, 1 << 40) + records(offset, RX_REG, data) + records(0, RW_REG, contents(2))
    expected = openssl_sha256(stream)

    from_fd = Measurement()
    from_fd.ecreate(2, 1 << 40)
    from_fd.add_pages_from_fd(memfd, 0x5000, offset, n_pages, RX_REG)
    from_fd.add_pages(0, RW_REG, contents(2))
    assert from_fd.digest() == expected

    from_bytes = Measurement()
    from_bytes.ecreate(2, 1 << 40)
    from_bytes.add_pages(offset, RX_REG, data)
    assert from_bytes.digest() == openssl_sha256(
        ecreate(2, 1 << 40) + records(offset, RX_REG, data)
    )


@pytest.mark.parametrize("hashing", HASHES, indirect=True)
@pytest.mark.parametrize(("first_page", "n_pages"), [(0, 64), (63, 65), (4090, 200)])
@pytest.mark.usefixtures("hashing")
def test_as_it_lies_in_a_mapping(memfd: int, first_page: int, n_pages: int) -> None:
    offset, data = first_page * 4096, contents(n_pages)
    os.ftruncate(memfd, offset + len(data) + (100 << 12))
    os.pwrite(memfd, data, offset)
    stream = ecreate(2, 1 << 40) + records(offset, RX_REG, data)
    stream += records(offset, RW_REG, data + bytes(100 << 12))
    with mmap.mmap(memfd, 0) as mapped, memoryview(mapped) as view:
        m = Measurement()
        m.ecreate(2, 1 << 40)
        m.add_pages_from_fd(memfd, offset, offset, n_pages, RX_REG, True, view)
        # The second one has a hole, which measuring does not fill.
        m.add_pages_from_fd(memfd, offset, offset, n_pages + 100, RW_REG, True, view)
        assert m.digest() == openssl_sha256(stream)
    assert os.lseek(memfd, offset, os.SEEK_HOLE) == offset + len(data)


@pytest.mark.parametrize("hashing", COMPILED, indirect=True)
def test_the_compiled_hash_is_sha256(hashing: Any) -> None:
    found, expected = hashing(), hashlib.sha256()
    for n in (0, 1, 54, 1, 63, 64, 65, 5184, 100_000):
        data = random.Random(n).randbytes(n)
        found.update(memoryview(data)[n // 2 :])
        expected.update(data[n // 2 :])
        assert found.digest() == expected.digest()


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_the_processors_hash_is_sha256_of_any_pieces(pieces: list[bytes]) -> None:
    try:
        found = OwnSha256()
    except LookupError as why:
        pytest.skip(f"{why}; a processor with SHA extensions forces it")
    for piece in pieces:
        found.update(piece)
    assert found.digest() == hashlib.sha256(b"".join(pieces)).digest()


def test_pages_behind_no_whole_block() -> None:
    """Nothing of the device does so; the records are hashed as bytes then."""
    expected = hashlib.sha256(b"abc" + records(0x3000, RX_REG, contents(2)))
    for hashing in COMPILED:
        try:
            m = Measurement(hashing)
        except LookupError:
            continue
        m._hash.update(b"abc")
        m.add_pages(0x3000, RX_REG, contents(2))
        assert m.digest() == expected.digest()


@pytest.mark.parametrize("n_pages", [1, 63, 1500])
def test_unmeasured(n_pages: int) -> None:
    m = Measurement()
    m.ecreate(1, 1 << 30)
    m.add_pages_unmeasured(0x7000, RW_REG, n_pages)
    m.add_pages(0, RW_REG, bytes(4096), measured=False)
    stream = ecreate(1, 1 << 30)
    stream += b"".join(eadd(0x7000 + 4096 * i, RW_REG) for i in range(n_pages)) + eadd(0, RW_REG)
    assert m.digest() == openssl_sha256(stream)


def test_v20_mrmask() -> None:
    data = contents(1)
    m = Measurement()
    m.ecreate(1, 0x4000)
    m.add_page_masked(0x1000, RX_REG, data, 0b1000_0000_0010_0001)
    stream = ecreate(1, 0x4000) + records(0x1000, RX_REG, data, 0b1000_0000_0010_0001)
    assert m.digest() == openssl_sha256(stream)


def test_a_tcs_is_measured_without_permissions(memfd: int) -> None:
    os.pwrite(memfd, contents(1), 0)
    assert measured_flags(TCS | 3) == TCS
    assert measured_flags(RX_REG) == RX_REG
    with_rw, without = Measurement(), Measurement()
    with_rw.add_pages_from_fd(memfd, 0, 0, 1, TCS | 3)
    without.add_pages_from_fd(memfd, 0, 0, 1, TCS)
    assert with_rw.digest() == without.digest()
    assert without.digest() == openssl_sha256(records(0, TCS, contents(1)))


# (page, number of pages, flags, measured)
RUNS = st.lists(
    st.tuples(
        st.integers(0, 300), st.integers(1, 90), st.sampled_from([RX_REG, RW_REG]), st.booleans()
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=30, deadline=None)
@given(runs=RUNS)
def test_any_order_of_runs(runs: list[tuple[int, int, int, bool]]) -> None:
    data = contents(400)
    fd = os.memfd_create("enclave")
    os.pwrite(fd, data, 0)
    now, late = Measurement(), LateMeasurement()
    stream = ecreate(1, 1 << 21)
    now.ecreate(1, 1 << 21)
    late.ecreate(1, 1 << 21)
    for page, n_pages, flags, measured in runs:
        offset = page * 4096
        part = data[offset : offset + n_pages * 4096]
        now.add_pages_from_fd(fd, offset, offset, n_pages, flags, measured)
        for i in range(n_pages):  # one by one: they have to come out as one run
            late.add_pages_from_fd(fd, offset + 4096 * i, offset + 4096 * i, 1, flags, measured)
        stream += records(offset, flags, part, 0xFFFF if measured else 0)
    expected = openssl_sha256(stream)
    assert now.digest() == expected
    assert late.digest() == expected
    late.close()
    os.close(fd)


def test_late_keeps_what_was_added() -> None:
    data = bytearray(contents(70))
    expected = openssl_sha256(ecreate(1, 1 << 20) + records(0, RW_REG, bytes(data)))
    late = LateMeasurement(cpus=os.sched_getaffinity(0))
    late.ecreate(1, 1 << 20)
    late.add_pages(0, RW_REG, data)
    data[:] = bytes(len(data))
    assert late.digest() == expected
    late.close()


def test_where_no_thread_can_be_made_who_adds_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ``ulimit -u``."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    data = os.urandom(100 * PAGE_SIZE)
    now, late = Measurement(), LateMeasurement(max_kept_bytes=len(data))
    for each in (now, late):
        each.ecreate(1, 1 << 20)
        for n in range(3):
            each.add_pages(n * len(data), 0x203, data)
        each.add_page_masked(1 << 19, 0x203, data[:PAGE_SIZE], 0xF)
    assert late.digest() == now.digest()
    late.close()


@pytest.mark.parametrize("hashing", COMPILED, indirect=True)
def test_where_no_thread_can_be_made_nobody_is_waited_for(
    memfd: int, hashing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever copies measures, or it is measured as it is added."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    mapped, offset = _file(memfd, contents(100))
    with mapped, memoryview(mapped) as view:
        late = LateMeasurement()
        follow = late.follow(memfd, offset, RW_REG, view)
        assert bool(follow) == (hashing is OwnSha256)
        if not follow:
            view[offset:] = contents(100)
            late.add_pages_from_fd(memfd, offset, offset, 100, RW_REG, True, view)
            assert late.digest() == openssl_sha256(records(offset, RW_REG, contents(100)))
        late.close()


def test_late_waits_for_room() -> None:
    data = contents(64)
    late = LateMeasurement(max_kept_bytes=len(data))
    for i in range(8):
        late.add_pages(i << 18, RW_REG, data)
    now = Measurement()
    for i in range(8):
        now.add_pages(i << 18, RW_REG, data)
    assert late.digest() == now.digest()
    late.close()


def test_late_goes_on_after_a_digest() -> None:
    data = contents(65)
    late = LateMeasurement()
    late.add_pages(0, RW_REG, data)
    late.digest()
    late.add_pages(0x80000, RX_REG, data[:4096])
    stream = records(0, RW_REG, data) + records(0x80000, RX_REG, data[:4096])
    assert late.digest() == openssl_sha256(stream)
    late.close()


def _file(memfd: int, data: bytes | bytearray) -> tuple[mmap.mmap, int]:
    """With ``data`` from some offset on, and what maps all of it."""
    offset = 0x7000
    os.ftruncate(memfd, offset + len(data))
    return mmap.mmap(memfd, 0), offset


@pytest.mark.parametrize("hashing", COMPILED, indirect=True)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("hashing")
def test_late_follows_what_comes(memfd: int, seed: int) -> None:
    """By pieces, some of which are zero and stay holes, and others are unlike before and behind."""
    chance = random.Random(seed)
    data = bytearray(contents(300))
    late = LateMeasurement()
    late.ecreate(1, 1 << 30)
    late.add_pages(0x3000, RX_REG, data[:4096])
    mapped, offset = _file(memfd, data)
    with mapped, memoryview(mapped) as view:
        assert late.follow(memfd, offset, RW_REG, view)
        followed = late._followed
        assert followed is not None
        at = told = 0
        while at < 300:
            n = min(chance.choice((1, 16, 100)), 300 - at)
            start, end = at << 12, at + n << 12
            if chance.random() < 0.3:
                data[start:end] = bytes(end - start)
                followed.holes()
            else:
                os.pwrite(memfd, data[start:end], offset + start)
            followed.tell(offset + end)
            at += n
            if chance.random() < 0.5 or at == 300:  # several times what was told is added at once
                args = offset + (told << 12), at - told
                late.add_pages_from_fd(memfd, args[0], *args, RW_REG, True, view)
                told = at
        late.add_pages_unmeasured(0x200000, RW_REG, 2)
        assert late._followed is None
        stream = ecreate(1, 1 << 30) + records(0x3000, RX_REG, contents(1))
        stream += records(offset, RW_REG, bytes(data))
        stream += b"".join(eadd(0x200000 + 4096 * i, RW_REG) for i in range(2))
        assert late.digest() == openssl_sha256(stream)
        assert view[offset:] == data
    late.close()


@pytest.mark.parametrize("hashing", HASHES, indirect=True)
@pytest.mark.usefixtures("hashing")
def test_late_on_one_cpu_has_no_thread(memfd: int) -> None:
    os.pwrite(memfd, contents(200), 0)
    threads = threading.active_count()
    late = LateMeasurement(cpus={min(os.sched_getaffinity(0))}, max_kept_bytes=1 << 18)
    late.ecreate(1, 1 << 30)
    late.add_pages_from_fd(memfd, 0, 0, 100, RW_REG)
    for i in range(130):
        late.add_pages(0x100000 + (i << 12), RX_REG, contents(1))
    late.add_pages_from_fd(memfd, 0x64000, 0x64000, 100, RW_REG)
    assert threading.active_count() == threads
    stream = ecreate(1, 1 << 30) + records(0, RW_REG, contents(200)[:0x64000])
    stream += b"".join(records(0x100000 + (i << 12), RX_REG, contents(1)) for i in range(130))
    stream += records(0x64000, RW_REG, contents(200)[0x64000:])
    assert late.digest() == openssl_sha256(stream)
    late.close()


def test_late_that_follows_can_be_closed(memfd: int) -> None:
    """Also while it waits, and before all that came is measured."""
    mapped, offset = _file(memfd, contents(4000))
    with mapped, memoryview(mapped) as view:
        for ready in (offset, len(view)):
            late = LateMeasurement()
            if not late.follow(memfd, offset, RW_REG, view):
                pytest.skip("interleave.c is not built: python hatch_build.py")
            followed, thread = late._followed, late._thread
            assert followed is not None
            assert thread is not None
            followed.tell(ready)
            late.close()
            assert not thread.is_alive()


def test_late_that_measured_what_was_not_added_says_so(memfd: int) -> None:
    mapped, offset = _file(memfd, contents(64))
    with mapped, memoryview(mapped) as view:
        late = LateMeasurement()
        if not late.follow(memfd, offset, RW_REG, view):
            pytest.skip("interleave.c is not built: python hatch_build.py")
        followed = late._followed
        assert followed is not None
        followed.tell(offset + 0x2000)
        late.add_pages_from_fd(memfd, offset, offset, 1, RW_REG, True, view)
        with pytest.raises(InternalError, match="0x9000 came, 0x8000 were added"):
            late.digest()
        late.close()


@pytest.mark.parametrize("n_pages", [1, 100])
def test_late_failure_is_raised_by_digest(n_pages: int) -> None:
    late = LateMeasurement()
    closed = os.memfd_create("closed")
    os.close(closed)
    late.add_pages_from_fd(closed, 0, 0, n_pages, RW_REG)
    with pytest.raises(OSError, match="Bad file descriptor"):
        late.digest()
    late.add_pages(0, RW_REG, contents(70))
    with pytest.raises(OSError, match="Bad file descriptor"):
        late.digest()
    late.close()


def test_small_enclaves_cost_no_thread(memfd: int) -> None:
    os.pwrite(memfd, contents(63), 0)
    before = threading.active_count()
    late = LateMeasurement()
    for i in range(63):
        late.add_pages_from_fd(memfd, i << 12, i << 12, 1, RW_REG)
    assert late.digest() == openssl_sha256(records(0, RW_REG, contents(63)))
    assert threading.active_count() == before


def test_nothing_is_kept_after_the_digest(memfd: int) -> None:
    os.pwrite(memfd, contents(64), 0)
    tracemalloc.start()
    kept = []
    for n in (1, 64) * 20:
        late = LateMeasurement()
        late.add_pages_from_fd(memfd, 0, 0, n, RW_REG)
        assert late.digest() == openssl_sha256(records(0, RW_REG, contents(n)))
        kept.append(late)
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert left < 4 << 20
    for thread in threading.enumerate():  # those that end just now
        if thread.name == "softsgx-measure":
            thread.join()


def test_misuse(memfd: int, tmp_path: Path) -> None:
    m = Measurement()
    with pytest.raises(InternalError, match="no number of pages"):
        m.add_pages(0, RW_REG, bytes(4095))
    with pytest.raises(InternalError, match="not the start of a page"):
        m.add_pages(0x800, RW_REG, bytes(4096))
    with pytest.raises(InternalError, match="EEXTEND of 255 bytes"):
        m.eextend(0, bytes(255))
    with pytest.raises(InternalError, match="EEXTEND of 256 bytes"):
        m.eextend(0x80, bytes(256))
    with pytest.raises(InternalError, match="file has 0 bytes"):
        m.add_pages_from_fd(memfd, 0, 0, 1, RW_REG)
