"""Pages that were copied before the rule was asked: what it refuses leaves nothing behind."""

from __future__ import annotations

from errno import EACCES
from typing import Any

import pytest

from softsgx.designs.linux import DEFAULT
from softsgx.device import Device
from softsgx.device.build import create
from softsgx.host.memfd import MemfdMemory, new_memory
from softsgx.sdm.structs import SECINFO
from softsgx.uapi import sgx as uapi

_BASE, _PAGES = 1 << 40, 16
_REG_R, _REG_RX = 2 << 8 | 1, 2 << 8 | 5


class _Copying(Device):
    """As one whose processes are real."""

    def make_memory(self, file: Any, size_bytes: int) -> MemfdMemory:
        return MemfdMemory(new_memory("copied"), size_bytes)

    def copy_in(self, process: Any, enclave: Any, addr: int, length: int, to: int) -> bool:
        enclave.memory.write(to, process.memory.read(addr, length))
        self.copied += 1
        return True

    copied = 0


def _add(may: int, secinfo: int) -> tuple[int, int, Any, Device]:
    device = _Copying(DEFAULT())
    process = device.process()
    fd = process.open(DEFAULT.paths[0])
    create(process, fd, _BASE, _PAGES << 12)
    memory = process.memory
    src = memory.place(0x10000, b"x" * 0x2000, may=may)
    layout = uapi.ENCLAVE_ADD_PAGES
    arg = memory.put(
        layout.pack(
            src=src, offset=0x3000, length=0x2000, secinfo=memory.put(SECINFO.pack(flags=secinfo)),
            flags=1,
        )
    )  # fmt: skip
    answer = process.ioctl(fd, uapi.SGX_IOC_ENCLAVE_ADD_PAGES, arg)
    count = layout.unpack(memory.read(arg, layout.size)).count
    return answer, count, process.files[fd].enclave, device


@pytest.mark.parametrize(("may", "answer", "left"), [(7, 0, b"x"), (3, -EACCES, b"\0")])
def test_a_copy_goes_with_its_page(may: int, answer: int, left: bytes) -> None:
    got, count, enclave, device = _add(may, _REG_RX)
    assert (got, count) == (answer, 0x2000 if not answer else 0)
    assert enclave.memory.read(0x3000, 0x2000) == left * 0x2000
    assert vars(device)["copied"] == 1


def test_what_is_copied_is_measured() -> None:
    _, _, enclave, _ = _add(7, _REG_R)
    usual = Device(DEFAULT())
    process = usual.process()
    fd = process.open(DEFAULT.paths[0])
    create(process, fd, _BASE, _PAGES << 12)
    other = process.files[fd].enclave
    other.load(0x3000, b"x" * 0x2000, _REG_R, True)
    assert enclave.measurement.digest() == other.measurement.digest()
