"""Random orders to real processes, each answer foretold by the device with no process behind it.

The two share the rules; what is held here is all that lies between: the system calls, their
effects on the real mappings, and that enclave code can really do what the rules say, no more.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softsgx.designs.registry import make_design
from softsgx.device import Device, Process
from softsgx.law.values import mask_name
from softsgx.sdm.leaves import PT_REG, SECINFO_PT_SHIFT
from softsgx.sdm.structs import SECINFO
from softsgx.uapi import designs as uapi
from softsgx.uapi import sgx
from softsgx.uapi.errno import errno_name
from tests.command import Softsgx
from tests.designs.designs_model import BASE, PAGE, RWX, R, W, World, X
from tests.orders import load

PAGES = 8
FIRST = 4  # of the test pages in the foretelling enclave; neither place is aligned to much
SOURCES = {
    "anon_rw": (R | W, RWX),
    "anon_r": (R, RWX),
    "file_r": (R, RWX),
    "file_rx": (R | X, RWX),
    "shared_r": (R, R | X),
    "shared_rx": (R | X, R | X),
    "written_rx": (R | X, RWX),
}
STEPS = 150


class Foretold(World):
    """The same enclave without a process; ``line(order)`` is the order with its answer."""

    def __init__(self, design: str, seed: int, carry_out: bool = False) -> None:
        super().__init__(design)
        if carry_out:
            self.device = Device(make_design(design), lsm=self.lsm, carry_out=True)
            self.process = Process(self.device)
            self.fd = self.process.open(self.device.design.paths[0])
            self.file = self.process.files[self.fd]
        self.rng = random.Random(f"{design} {seed} {carry_out}")
        self.name = design.partition(":")[0]
        self.loader = "linux-6.12" if carry_out else self.name  # whose calls are made
        self.workers = [self.process]
        self.content: dict[int, int] = {}
        self.fds: dict[int, str] = {}
        assert self.create() == 0

    @staticmethod
    def answer(ret: int) -> str:
        return errno_name(-ret) if ret < 0 else "0"

    def adds(self) -> list[str]:
        """The pages that the enclave begins with, and what to order for them."""
        orders = []
        for page in range(PAGES - 2):
            kind = self.rng.choice(list(SOURCES))
            perm = self.rng.choice((R, R | W, R | X, RWX))
            prot, may = SOURCES[kind]
            segment, more = 0, ""
            if self.loader == "segments":
                segment = self.rng.choice([m for m in (R, R | W, R | X, RWX) if not perm & ~m])
                more = f" segment={mask_name(segment).lower()}"
            if self.loader in ("v20", "linux-6.12"):
                self.add(FIRST + page, perm, prot, may)
            else:
                done = self.region(FIRST + page, perm, segment=segment, prot=prot, may=may)
                assert done == 0
            self.content[page] = 0x1000 + page
            orders.append(f"p{page} src={kind} perm={mask_name(perm).lower()}{more}")
        if self.loader == "segments":  # those of the enclave's own parts
            assert self.region(0, R | X, segment=R | X, prot=R) == 0
            assert self.region(1, R | W, segment=R | W, prot=R) == 0
        elif self.name == "segments":
            self.add(0, R | X, R | X, RWX)
            self.add(1, R | W, R | W, RWX)
        self.initialized()
        if self.loader == "linux-6.12" and self.name != "linux-6.12":
            self.mmap(0, 0)
        elif self.loader in ("ioc-mprotect", "segments"):
            assert self.mmap(0, 0, 16) == 0
        elif self.loader == "v20":
            assert self.mmap(0, RWX, 16) == 0
        return orders

    def add(self, page: int, perm: int, prot: int, may: int) -> None:
        """A page by the ioctl of v20 or of Linux."""
        src = self.put(bytes(PAGE), prot=prot, may=may)
        secinfo = self.put(SECINFO.pack(flags=perm | PT_REG << SECINFO_PT_SHIFT))
        if self.loader == "v20":
            addr = BASE + page * PAGE
            arg = sgx.ADD_PAGE_V20.pack(addr=addr, src=src, secinfo=secinfo)
            assert self.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGE_V20, arg) == 0
            return
        arg = sgx.ENCLAVE_ADD_PAGES.pack(src=src, offset=page * PAGE, length=PAGE, secinfo=secinfo)
        assert self.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGES, arg) == 0

    # Through the process, so that they are carried out, if they are to be.

    def mmap(
        self, page: int, prot: int, n: int = 1, process: Process | None = None,
        file: Any = None, flags: int = 0x11,
    ) -> int:  # fmt: skip
        fd = next((k for k, f in self.process.files.items() if f is file), self.fd)
        return min(0, self.process.mmap(BASE + page * PAGE, n * PAGE, prot, flags, fd))

    def mprotect(self, page: int, prot: int, n: int = 1, process: Process | None = None) -> int:
        return self.process.mprotect(BASE + page * PAGE, n * PAGE, prot)

    def range(self) -> tuple[int, int, str]:
        page = self.rng.randrange(PAGES)
        n = self.rng.choice((1, 1, 1, 2, 3))
        n = min(n, PAGES - page)
        return page, n, f"p{page}" + (f"+{n}" if n > 1 else "")

    def mask(self) -> tuple[int, str]:
        prot = self.rng.choice((0, R, R | W, R | X, RWX))
        return prot, mask_name(prot).lower()

    def step(self) -> str:
        """One order with its answer."""
        worker = self.rng.randrange(len(self.workers))
        self.process = self.workers[worker]
        kinds = {
            "v20": ["protect", "unmap"],
            "ioc-mprotect": ["give", "give", "give", "none", "extend", "protect", "aug", "remap"],
            "segments": ["segment", "segment", "segment", "through", "protect", "aug", "remap"],
        }.get(self.loader, ["map", "map", "protect", "protect", "unmap", "remap"])
        kind = self.rng.choice([*kinds, "peek", "peek", "poke", "poke", "call", "call", "fork"])
        order, answer = getattr(self, f"do_{kind}")()
        return f"{worker} {order} -> {answer}"

    def do_fork(self) -> tuple[str, str]:
        if len(self.workers) > 1:
            return self.do_peek()
        self.workers.append(self.process.fork())
        return "fork 1", "0"

    def do_map(self) -> tuple[str, str]:
        (page, n, where), (prot, mask) = self.range(), self.mask()
        return f"mmap e {where} {mask}", self.answer(self.mmap(FIRST + page, prot, n))

    def do_none(self) -> tuple[str, str]:
        page, n, where = self.range()
        return f"mmap e {where} -", self.answer(self.mmap(FIRST + page, 0, n))

    def do_unmap(self) -> tuple[str, str]:
        page, n, where = self.range()
        return f"munmap {where}", self.answer(
            self.process.munmap(BASE + (FIRST + page) * PAGE, n * PAGE)
        )

    def do_protect(self) -> tuple[str, str]:
        (page, n, where), (prot, mask) = self.range(), self.mask()
        return f"mprotect {where} {mask}", self.answer(self.mprotect(FIRST + page, prot, n))

    def do_remap(self) -> tuple[str, str]:
        page, to = self.rng.sample(range(PAGES), 2)
        return f"mremap p{page} p{to}", self.answer(self.mremap(FIRST + page, FIRST + to))

    def do_give(self) -> tuple[str, str]:
        (page, n, where), (prot, mask) = self.range(), self.mask()
        return f"iocmprotect e {where} {mask}", self.answer(
            self.ioc_mprotect(FIRST + page, prot, n)
        )

    def do_extend(self) -> tuple[str, str]:
        (page, n, where), (prot, mask) = self.range(), self.mask()
        return f"extend e {where} {mask}", self.answer(self.extend(FIRST + page, prot, n))

    def do_aug(self) -> tuple[str, str]:
        page = self.rng.randrange(PAGES)
        perm = self.rng.choice((R | W, RWX))
        segment = perm if self.name == "segments" else 0
        more = f" segment={mask_name(segment).lower()}" if segment else ""
        answer = self.answer(self.region(FIRST + page, perm, segment=segment))
        return f"aug e p{page} via=region perm={mask_name(perm).lower()}{more}", answer

    def do_segment(self) -> tuple[str, str]:
        (page, n, where), (prot, mask) = self.range(), self.mask()
        segment = self.page(FIRST + page)["segment"] or R
        if self.rng.random() < 0.2:
            segment = self.rng.choice((R, R | W, R | X, RWX))
        answer = self.answer(self.map_segment(FIRST + page, segment, prot, n))
        return f"mapsegment e {where} {mask_name(segment).lower()} {mask}", answer

    def do_through(self) -> tuple[str, str]:
        """Through an fd of a segment, taken when first wanted."""
        segment = self.page(FIRST)["segment"]
        if segment not in self.fds:
            self.fds[segment] = "s"
            if len(self.workers) == 1:
                arg = uapi.SEGMENT_FD.pack(segment=segment)
                assert self.ioctl(uapi.SGX_IOC_SEGMENT_FD, arg) > 0
                return f"segmentfd e s {mask_name(segment).lower()}", "0"
            return self.do_peek()
        if len(self.workers) > 1:
            return self.do_peek()
        (page, n, where), (prot, mask) = self.range(), self.mask()
        file = self.file.segments[segment]
        if file not in self.process.files.values():
            return self.do_peek()
        return f"mmap s {where} {mask}", self.answer(self.mmap(FIRST + page, prot, n, file=file))

    def access(self, page: int, kind: int) -> bool:
        """Whether the access succeeds; only the outcome is foretold, not the code."""
        fault = self.process.page_fault(BASE + (FIRST + page) * PAGE, kind)
        return not fault.signal

    def do_peek(self) -> tuple[str, str]:
        page = self.rng.randrange(PAGES)
        if not self.access(page, 0):
            return f"peek p{page}", "fault 14"
        value = self.content.get(page)
        return f"peek p{page}", "0x0" if value is None else f"{0xC3C3C300000000B8 | value << 8:#x}"

    def do_poke(self) -> tuple[str, str]:
        page, value = self.rng.randrange(PAGES), self.rng.randrange(1, 1 << 31)
        if not self.access(page, 1):
            return f"poke p{page} {value}", "fault 14"
        self.content[page] = value
        return f"poke p{page} {value}", "0"

    def do_call(self) -> tuple[str, str]:
        page = self.rng.choice(sorted(self.content))
        if not self.access(page, 2):
            return f"call p{page}", "fault 14"
        return f"call p{page}", f"{self.content[page]:#x}"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "design",
    ["v20", "safe-to-execute", "source-vma", "segments", "ioc-mprotect", "linux-6.12"],
)
def test_what_was_foretold(
    softsgx: Softsgx, guest: Callable[[str], Path], design: str, seed: int
) -> None:
    told = Foretold(design, seed)
    script = load(design, *told.adds()) + [told.step() for _ in range(STEPS)]
    hold(softsgx, guest, script, "--design", design)


@pytest.mark.parametrize("design", ["v20", "segments", "ioc-mprotect:source=prot", "source-vma"])
def test_what_was_foretold_of_a_loader_for_linux(
    softsgx: Softsgx, guest: Callable[[str], Path], design: str
) -> None:
    told = Foretold(design, 0, carry_out=True)
    script = load("linux-6.12", *told.adds()) + [told.step() for _ in range(STEPS)]
    hold(softsgx, guest, script, "--design", design, "--carry-out")


def hold(softsgx: Softsgx, guest: Callable[[str], Path], script: list[str], *args: str) -> None:
    orders = [line.partition(" -> ")[0] for line in script]
    linux = "--carry-out" in args or args[1].startswith("linux")
    node = "/dev/sgx_enclave" if linux else "/dev/sgx/enclave"
    done = softsgx(
        *args, "--verify", "--", guest("orders"),
        stdin="\n".join(orders) + "\n", env={"SGX_DEVICE": node},
    )  # fmt: skip
    answers = done.stdout.splitlines()
    for i, (order, line, answer) in enumerate(zip(orders, script, answers, strict=False)):
        want = line.partition(" -> ")[2]
        same = answer == want or (want == "fault 14" and answer.startswith("fault 14"))
        before = "\n".join(f"{o} -> {a}" for o, a in zip(orders[:i], answers, strict=False))
        assert same, f"{before}\n{order} -> {answer}, not {want}\n{done.stderr}"
    assert len(answers) == len(script), done.stderr
    assert done.returncode == 0, done.stderr


def test_the_foretelling_has_successes_and_refusals() -> None:
    told = Foretold("ioc-mprotect", 0)
    told.adds()
    answers = [told.step().partition(" -> ")[2] for _ in range(STEPS)]
    assert answers.count("0") > 20
    assert {"EACCES", "ENOMEM", "EINVAL", "fault 14"} <= set(answers)
    assert isinstance(told.workers[-1], Process)
