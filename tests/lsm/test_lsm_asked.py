"""What each design asks of a real policy, on the device as a library.

The same enclave is loaded from an unmodified file and from memory that was generated:
what the seed's mails argue about is whether these two can be told apart.
"""

from __future__ import annotations

import ctypes.util
from collections.abc import Iterator
from errno import EACCES
from typing import Any

import pytest

from softsgx.designs.registry import make_design
from softsgx.device import Device, Process
from softsgx.device.build import create
from softsgx.law.rule import At, Run
from softsgx.lsm.verdict import Verdict
from softsgx.mm.mmap import mmap
from softsgx.policy.labels import PathLabels
from softsgx.policy.selinux import MINIMAL, SELinuxPolicy
from softsgx.policy.selinux_lsm import SELinuxLsm, full_context
from softsgx.sdm.structs import SECINFO
from softsgx.uapi import designs as ioc
from softsgx.uapi import sgx as uapi
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None or ctypes.util.find_library("selinux") is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1",
)

R, W, X = 1, 2, 4


@pytest.fixture(scope="module")
def policy() -> Iterator[SELinuxPolicy]:
    loaded = SELinuxPolicy.load(MINIMAL)
    yield loaded
    loaded.close()


@pytest.fixture
def selinux(policy: SELinuxPolicy) -> Iterator[tuple[SELinuxLsm, list[Verdict]]]:
    noted: list[Verdict] = []
    labels = PathLabels(policy, xattrs=False)
    lsm = SELinuxLsm(policy, labels, full_context(policy, "loader_t"), noted.append)
    yield lsm, noted
    labels.close()


BASE, SIZE, PAGE = 0x7000_0000_0000, 0x10000, 4096
UNMODIFIED, GENERATED = (R | X, 7), (R | W, 7)
NOT_WRITABLE = (R | X, R | X)  # a shared mapping of a file that was opened read-only


class Loader:
    """Loads one page of RX code and one of RW data under a design, as its thread meant it."""

    def __init__(self, design: str, lsm: Any, label: str, fmode: int = 3) -> None:
        self.device = Device(make_design(design), lsm=lsm)
        self.process = Process(self.device)
        self.process.label = label  # type: ignore[attr-defined]
        self.fd = self.process.open(self.device.design.paths[0], fmode)
        self.file = self.process.files[self.fd]

    def ioctl(self, cmd: int, layout: Any, **fields: int) -> int:
        arg = self.process.memory.put(layout.pack(**fields))
        return self.process.ioctl(self.fd, cmd, arg)

    def add(self, index: int, perm: int, source: tuple[int, int]) -> int:
        memory = self.process.memory
        prot, may = source
        src = memory.put(bytes(PAGE), prot=prot, may=may)
        secinfo = memory.put(SECINFO.pack(flags=0x200 | perm))
        where = {"src": src, "offset": index * PAGE, "length": PAGE, "secinfo": secinfo}
        if uapi.SGX_IOC_ENCLAVE_ADD_PAGES in self.device.ioctls:
            return self.ioctl(uapi.SGX_IOC_ENCLAVE_ADD_PAGES, uapi.ENCLAVE_ADD_PAGES, **where)
        if self.device.design.name == "segments":
            where["segment"] = perm
        return self.ioctl(ioc.SGX_IOC_ADD_REGION, ioc.ADD_REGION, **where)

    def map(self, index: int, prot: int) -> int:
        at = BASE + index * PAGE
        name = self.device.design.name
        if name == "ioc-mprotect":
            return self.ioctl(ioc.SGX_IOC_MPROTECT, ioc.MPROTECT, addr=at, length=PAGE, prot=prot)
        if name == "segments":
            fields = {"addr": at, "length": PAGE, "segment": prot, "prot": prot}
            return self.ioctl(ioc.SGX_IOC_MAP_SEGMENT, ioc.MAP_SEGMENT, **fields)
        flags = MAP_SHARED | MAP_FIXED
        return -mmap(self.process.mm, at, PAGE, prot, flags, self.file).errno

    def load(self, source: tuple[int, int]) -> list[int]:
        """The answers: code and data added, code and data mapped."""
        create(self.process, self.fd, BASE, SIZE)
        added = [self.add(1, R | X, source), self.add(2, R | W, (R | W, 7))]
        if self.device.design.name in {"ioc-mprotect", "segments"}:
            flags = MAP_SHARED | MAP_FIXED
            assert not mmap(self.process.mm, BASE, SIZE, 0, flags, self.file).errno
        return [*added, self.map(1, R | X), self.map(2, R | W)]


def _of_mapping(noted: list[Verdict]) -> set[str]:
    """What was asked of objects, apart from opening and ioctls."""
    return {
        f"{verdict.target.split(':')[2].removeprefix('sgx_').removesuffix('_t')} {perm}"
        for verdict in noted
        if verdict.hook not in {"file_open", "file_ioctl"}
        for perm in verdict.asked
    }


def _device(perms: str) -> set[str]:
    return {f"enclave_device {perm}" for perm in perms.split()}


_SEGMENTS = {"segment_rx " + p for p in ("create", "map", "read", "execute")} | {
    "segment_rw " + p for p in ("create", "map", "read", "write")
}


@pytest.mark.parametrize(
    ("design", "source", "asked"),
    [
        # The seed: "the permissions … can't be used to distinguish".
        ("linux-6.0", UNMODIFIED, _device("map read write execute")),
        ("linux-6.0", GENERATED, _device("map read write execute")),
        ("safe-to-execute", UNMODIFIED, _device("map read execute")),
        ("safe-to-execute", GENERATED, _device("map read execute execmod")),
        ("source-vma", UNMODIFIED, _device("map read")),
        ("source-vma", GENERATED, _device("map read execute")),
        # "WRITE … only required when the enclave can execute modified memory": by the mail's
        # words a private source has VM_MAYWRITE, whatever it is.
        ("ioc-mprotect", UNMODIFIED, _device("map read write execute")),
        ("ioc-mprotect", NOT_WRITABLE, _device("map read execute")),
        ("ioc-mprotect:source=prot", UNMODIFIED, _device("map read execute")),
        ("segments", UNMODIFIED, _SEGMENTS | _device("map read")),
        ("segments", GENERATED, _SEGMENTS | _device("map read")),
        ("segments:inode=private", GENERATED, {"loader execmem"} | _device("map read")),
    ],
)
def test_what_a_design_asks_of_the_policy(
    design: str,
    source: tuple[int, int],
    asked: set[str],
    selinux: tuple[SELinuxLsm, list[Verdict]],
) -> None:
    lsm, noted = selinux
    lsm.policy.enforcing = False
    lsm.all_verdicts = True
    try:
        loader = Loader(design, lsm, full_context(lsm.policy, "loader_t"))
        assert loader.load(source) == [0, 0, 0, 0]
    finally:
        lsm.policy.enforcing = True
    found = _of_mapping(noted)
    # The data of ioc-mprotect comes from memory that may be written and executed as well.
    if design == "ioc-mprotect" and source == NOT_WRITABLE:
        found -= {"enclave_device write"}
    assert found == asked


def test_the_loader_of_an_unmodified_file_is_told_apart(
    selinux: tuple[SELinuxLsm, list[Verdict]],
) -> None:
    lsm, _ = selinux
    label = full_context(lsm.policy, "loader_t")
    assert Loader("safe-to-execute", lsm, label).load(UNMODIFIED) == [0, 0, 0, 0]
    assert Loader("safe-to-execute", lsm, label).load(GENERATED) == [0, 0, -EACCES, 0]
    # The generator holds EXECMOD.
    generator = full_context(lsm.policy, "generator_t")
    assert Loader("safe-to-execute", lsm, generator).load(GENERATED) == [0, 0, 0, 0]


def test_a_segment_that_the_policy_does_not_grant_cannot_be_made(
    selinux: tuple[SELinuxLsm, list[Verdict]],
) -> None:
    lsm, noted = selinux
    label = full_context(lsm.policy, "loader_t")
    loader = Loader("segments", lsm, label)
    create(loader.process, loader.fd, BASE, SIZE)
    assert loader.add(1, R | W | X, GENERATED) == -EACCES
    (verdict,) = noted
    assert verdict.hook == "anon_inode_init"
    assert (verdict.tclass, verdict.denied) == ("anon_inode", ("create",))
    assert verdict.target == "system_u:object_r:sgx_segment_rwx_t:s0"
    assert verdict.file is not None
    assert verdict.file.anonclass == "[sgx_segment_rwx]"


def test_without_a_module_nothing_is_asked() -> None:
    loader = Loader("linux-6.0", None, "")
    assert loader.device.run.lsm is None
    assert loader.load(GENERATED) == [0, 0, 0, 0]
    assert Run().ask("file_open", At(), fmode=3) is None  # type: ignore[func-returns-value]
