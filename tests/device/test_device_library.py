"""The library's few lines: the example runs, and the helpers do what the ioctls do."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
from errno import EACCES, EBUSY, EIO, EPERM
from pathlib import Path

import pytest

from softsgx.device import Device
from softsgx.device.build import (
    Refused,
    Segment,
    add_segment,
    build_enclave,
    create,
    init,
    measure,
    tcs_page,
)
from softsgx.sdm.sigstruct import sign

ROOT = Path(__file__).resolve().parents[2]
KEY = (ROOT / "tests/data/sigstruct/test-key.pem").read_bytes()
BASE, SIZE = 0x7000_0000_0000, 0x4000
R, W, X = 1, 2, 4


def test_the_example_says_what_the_readme_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples/library.py"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "more than SECINFO allows: -13",
        "EENTER: 0, RIP = 0x700000003000, CSSA = 0",
        "an interrupt: RIP = 0x401000 (the AEP), RAX = 3 (ERESUME)",
        "ERESUME: 0, RIP = 0x700000003000",
        "EEXIT: 0, RIP = 0x400003",
    ]


def test_measure_is_what_the_sdm_says_byte_by_byte() -> None:
    code = bytes(range(256)) * 16
    segments = [Segment(0x1000, code, R | X), Segment(0x2000, b"heap", R | W, measured=False)]
    hashed = hashlib.sha256(struct.pack("<8sIQ44x", b"ECREATE", 1, SIZE))
    hashed.update(struct.pack("<8sQQ40x", b"EADD", 0x1000, 0x205))
    for at in range(0, 4096, 256):
        hashed.update(struct.pack("<8sQ48x", b"EEXTEND", 0x1000 + at) + code[at : at + 256])
    hashed.update(struct.pack("<8sQQ40x", b"EADD", 0x2000, 0x203))
    assert measure(SIZE, segments) == hashed.digest()


def test_an_enclave_in_one_call() -> None:
    process = Device().process()
    segments = [
        Segment(0, tcs_page(entry=0x3000, ssa=0x1000), tcs=True),
        Segment(0x1000, bytes(0x2000), R | W, measured=False),
        Segment(0x3000, b"code", R | X),
    ]
    fd = build_enclave(process, BASE, SIZE, segments, KEY, attributes=6, miscselect=1)
    enclave = process.files[fd].enclave
    assert enclave.initialized
    assert enclave.debug
    assert enclave.identity.mrenclave == measure(SIZE, segments)
    assert enclave.memory.read(0x3000, 5) == b"code\0"
    assert process.memory.areas == []


def test_refusals_say_which_call_and_why() -> None:
    process = Device().process()
    fd = process.open("/dev/sgx_enclave")
    with pytest.raises(Refused, match=r"ENCLAVE_CREATE is refused with EIO: ECREATE accepts") as e:
        create(process, fd, BASE, 0x3000)
    assert (e.value.call, e.value.errno) == ("SGX_IOC_ENCLAVE_CREATE", EIO)
    create(process, fd, BASE, SIZE)
    with pytest.raises(Refused) as e:
        add_segment(process, fd, Segment(0, b"x", R, source_may=R | W))
    assert e.value.errno == EACCES
    assert add_segment(process, fd, Segment(0, b"x", R)) == 0x1000
    with pytest.raises(Refused) as e:
        add_segment(process, fd, Segment(0, b"x", R))
    assert e.value.errno == EBUSY
    with pytest.raises(Refused, match="EPERM") as e:
        init(process, fd, sign(KEY, enclavehash=bytes(32), attributes=4))
    assert e.value.errno == EPERM
    hashed = measure(SIZE, [Segment(0, b"x", R)])
    init(process, fd, sign(KEY, enclavehash=hashed, attributes=4))
    assert process.files[fd].enclave.initialized
