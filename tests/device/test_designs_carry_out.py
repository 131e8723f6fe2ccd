"""Today's loaders under the designs that never shipped, with and without --carry-out."""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, ENOTTY
from pathlib import Path

import pytest

from softsgx.designs.registry import make_design
from softsgx.device import Device, Process
from softsgx.sdm.leaves import PT_REG, SECINFO_PT_SHIFT
from softsgx.sdm.structs import SECINFO
from softsgx.uapi import sgx
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED
from tests.command import Softsgx
from tests.designs.designs_model import BASE, PAGE, RWX, R, W, World, X
from tests.orders import SEGMENTS, Script

NEVER_SHIPPED = [
    "v20", "safe-to-execute", "source-vma", "segments", "ioc-mprotect", "maxperm", "allowed-prot",
    "allowed-prot:version=v1", "sigstruct-proxy", "sigstruct-proxy:mail=24-may", "fsm",
    "ema:version=v1", "fsm:model=flags", "sgx2-v2", "execute-intent",
    "execute-intent:proposal=dynamic",
]  # fmt: skip


class Carried(World):
    """A world whose device carries out the calls of loaders for Linux."""

    def __init__(self, design: str) -> None:
        held = "read write execute execmod encl_execute load_execute load_dynamic"
        super().__init__(design, held)
        self.device = Device(make_design(design), lsm=self.lsm, carry_out=True)
        self.process = Process(self.device)
        self.fd = self.process.open(self.device.design.paths[0])
        self.file = self.process.files[self.fd]

    def add_pages(self, page: int, perm: int, n: int = 1, **source: int) -> int:
        secinfo = self.put(SECINFO.pack(flags=perm | PT_REG << SECINFO_PT_SHIFT))
        arg = sgx.ENCLAVE_ADD_PAGES.pack(
            src=self.put(bytes(n * PAGE), **source),
            offset=page * PAGE,
            length=n * PAGE,
            secinfo=secinfo,
        )
        return self.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGES, arg)

    def map(self, page: int, prot: int, n: int = 1) -> int:
        fixed = MAP_SHARED | MAP_FIXED
        return min(0, self.process.mmap(BASE + page * PAGE, n * PAGE, prot, fixed, self.fd))

    def protect(self, page: int, prot: int, n: int = 1) -> int:
        return self.process.mprotect(BASE + page * PAGE, n * PAGE, prot)


def built(design: str) -> Carried:
    w = Carried(design)
    assert w.create() == 0
    assert w.add_pages(0, R | X, 2, prot=R | X) == 0
    assert w.add_pages(2, R | W, 1, prot=R | W) == 0
    w.initialized()
    w.lsm.asked.clear()
    return w


@pytest.mark.parametrize("design", NEVER_SHIPPED)
def test_pages_are_added_and_mapped(design: str) -> None:
    w = built(design)
    assert w.map(0, R | X, 2) == 0
    assert w.map(2, R | W) == 0
    assert [w.prot(i) for i in range(3)] == [R | X, R | X, R | W]
    assert [w.accessible(i) for i in range(3)] == [R | X, R | X, R | W]
    assert w.protect(2, R) == 0
    assert [w.prot(i) for i in range(3)] == [R | X, R | X, R]
    assert w.protect(0, 0, 3) == 0
    assert [w.prot(i) for i in range(3)] == [0, 0, 0]


def test_each_decision_is_the_designs() -> None:
    segments = built("segments")
    assert segments.page(0)["segment"] == R | X
    assert segments.map(0, R | W) == -EACCES
    assert segments.map(0, R | X, 2) == 0
    assert segments.lsm.asked[-1] == (
        "mmap_file", "[sgx_segment_rx]", frozenset({"read", "execute"}),
    )  # fmt: skip
    assert segments.protect(0, RWX) == -EACCES
    ioc = built("ioc-mprotect:source=prot")
    assert ioc.map(0, R | X, 2) == 0
    assert ioc.lsm.take() == [
        ("mmap_file", frozenset({"read"})),
        ("file_mprotect", frozenset({"read", "execute"})),
    ]
    assert ioc.map(2, RWX) == -EACCES
    assert ioc.prot(2) == 0


def test_a_range_of_several_segments() -> None:
    w = built("segments")
    assert w.map(0, R, 3) == 0
    masks = [w.process.mm.find(BASE + i * PAGE).file.segment for i in range(3)]  # type: ignore[union-attr]
    assert masks == [R | X, R | X, R | W]


def test_pages_that_linux_adds_when_they_are_touched() -> None:
    for design in ("segments", "ioc-mprotect"):
        w = built(design)
        assert w.map(8, R | W, 2) == 0
        assert (w.page(8)["present"], w.page(8)["pending"]) == (1, 1)


@pytest.mark.parametrize("design", ["v20", "segments", "ioc-mprotect"])
def test_without_it_the_loader_breaks_at_its_first_page(script: Script, design: str) -> None:
    script(
        design,
        "0 open e rw -> 0\n0 create e -> 0\n0 add e p0 via=pages perm=r -> ENOTTY",
    )
    w = World(design)
    assert w.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGES, bytes(48)) == -ENOTTY


@pytest.fixture
def script(softsgx: Softsgx, guest: Callable[[str], Path]) -> Script:
    return Script(softsgx, guest)


@pytest.mark.parametrize("design", NEVER_SHIPPED)
def test_orders_of_a_linux_loader(
    softsgx: Softsgx, guest: Callable[[str], Path], design: str
) -> None:
    law = make_design(design)
    # What bounds it is what was declared, or SECINFO; by 30 May's mail W alone is bounded.
    bounds = law.declares in ("segment", "maxperm", "prot") and law.declarable & X
    bounds = bounds or design.endswith(("24-may", "sgx2-v2", "v1"))
    denied = "EPERM" if law.name == "fsm" else "EACCES"
    beyond = denied if bounds else "0"
    # A mapping that is made anew has no page in its tables yet.
    present = "0x6" if law.maps_anew else "0x7"
    Script(softsgx, guest, "--carry-out")(
        design,
        """
        0 open e rw /dev/sgx_enclave -> 0
        0 create e -> 0
        0 add e base via=pages -> 0
        0 add e p0 via=pages src=file_rx perm=rx -> 0
        0 add e p1 via=pages src=anon_rw perm=rw -> 0
        0 init e -> 0
        """,
        *[f"0 mmap e {s} {p} -> 0" for s, p in SEGMENTS.items()],
        f"""
        0 mmap e p0 rx -> 0
        0 mmap e p1 rw -> 0
        0 call p0 -> 0x1000
        0 poke p1 4 -> 0
        0 mprotect p1 r -> 0
        0 poke p1 5 -> fault 14 {present}
        0 mprotect p1 rw -> 0
        0 poke p1 5 -> 0
        0 mprotect p1 rx -> {beyond}
        0 munmap p1 -> 0
        """,
    )


@pytest.mark.parametrize("design", ["v20", "segments", "ioc-mprotect", "sgx2-v2"])
@pytest.mark.parametrize("name", ["intel_like", "fortanix_like", "gramine_like"])
def test_whole_loaders(
    softsgx: Softsgx, guest: Callable[[str], Path], name: str, design: str
) -> None:
    if (name, design) == ("gramine_like", "segments"):
        design = "segments:mmap_before_ecreate=on"  # it maps the device first
    env = {"BEFORE_INIT": "14"} if design == "v20" else {}
    done = softsgx("--design", design, "--carry-out", "--", guest(name), env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not ok" not in done.stdout
    assert done.stdout.count("ok ") >= 6


@pytest.mark.parametrize("design", ["sigstruct-proxy", "sigstruct-proxy:mail=24-may"])
def test_permissions_wait_for_sigstruct_which_a_linux_loader_gives_with_init(
    script_carried: Script, design: str
) -> None:
    script_carried(
        design,
        """
        0 open e rw /dev/sgx_enclave -> 0
        0 create e -> 0
        0 add e base via=pages -> 0
        0 add e p0 via=pages src=file_rx perm=rx -> 0
        0 mmap e code rx -> 0
        0 mmap e data rw -> 0
        0 mmap e stack.0 rw -> 0
        0 mmap e tcs.0 rw -> 0
        0 mmap e ssa.0 rw -> 0
        0 mmap e tls.0 rw -> 0
        0 mmap e p0 r -> 0
        0 mprotect p0 rx -> 0
        0 touch p0 -> signal 11
        0 init e -> 0
        0 call p0 -> 0x1000
        """,
    )


def test_init_is_refused_where_what_waited_is(
    softsgx: Softsgx, guest: Callable[[str], Path]
) -> None:
    carried = Script(softsgx, guest, "--carry-out")
    carried(
        "sigstruct-proxy:mail=24-may",
        """
        0 open e rw /dev/sgx_enclave -> 0
        0 create e -> 0
        0 add e base via=pages -> 0
        0 add e p0 via=pages src=file_rx perm=r -> 0
        0 mmap e p0 rx -> 0
        0 init e -> EACCES
        """,
    )


@pytest.fixture
def script_carried(softsgx: Softsgx, guest: Callable[[str], Path]) -> Script:
    return Script(softsgx, guest, "--carry-out")
