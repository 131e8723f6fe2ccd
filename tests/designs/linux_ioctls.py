"""Linux's SGX ioctls for tests: a call that would succeed, and mistakes to put into it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, TypeAlias

from softsgx.device import Device
from softsgx.device.build import Segment, add_segment, create, init, measure, tcs_page
from softsgx.sdm.sigstruct import sign
from tests.cache import ROOT

__all__ = [
    "BAD", "BASE", "KEY", "SEGMENTS", "SIZE", "Case", "Mistake", "R", "W", "X", "bad_argument",
    "check_order", "of", "too_late",
]  # fmt: skip

KEY = (ROOT / "tests/data/sigstruct/test-key.pem").read_bytes()
BASE, SIZE = 0x7000_0000_0000, 0x10000
R, W, X = 1, 2, 4
BAD = 0x6660_0000  # nothing is mapped there
SEGMENTS = [
    Segment(0, tcs_page(entry=0x3000, ssa=0x1000), tcs=True),
    Segment(0x1000, bytes(0x2000), R | W),
    Segment(0x3000, b"code", R | X),
]


class Case:
    """A call that would succeed, for mistakes to be put in.

    fields: of the ioctl's structure. at: addresses and bytes that the call points at.
    """

    def __init__(self, cmd: int, layout: Any, state: str = "created", design: Any = None) -> None:
        self.device = Device(design)
        self.process = self.device.process()
        self.memory = self.process.memory
        self.fd = self.process.open("/dev/sgx_enclave")
        self.cmd, self.layout = cmd, layout
        self.fields: dict[str, int] = {}
        self.secs: dict[str, Any] = {}
        self.arg = 0
        self.too_late = False
        if state != "fresh":
            create(self.process, self.fd, BASE, SIZE)
        if state == "initialized":
            self.initialize()

    @property
    def enclave(self) -> Any:
        return self.process.files[self.fd].enclave

    def initialize(self) -> None:
        for segment in SEGMENTS:
            add_segment(self.process, self.fd, segment)
        hashed = measure(SIZE, SEGMENTS)
        init(self.process, self.fd, sign(KEY, enclavehash=hashed, attributes=4, xfrm=3))

    def prepare(self) -> None:
        """Put what the structure points at into memory, after all mistakes were made."""

    def run(self) -> int:
        self.prepare()
        if self.too_late:
            self.enclave.initialized = 1
        self.arg = self.arg or self.memory.put(self.layout.pack(**self.fields))
        return -self.process.ioctl(self.fd, self.cmd, self.arg)

    def after(self) -> Any:
        return self.layout.unpack(self.memory.read(self.arg, self.layout.size))


Mistake: TypeAlias = tuple[str, int, Callable[[Any], Any]]


def too_late(c: Case) -> None:
    c.too_late = True


def bad_argument(c: Case) -> None:
    c.arg = BAD


def of(**fields: int) -> Callable[[Case], None]:
    return lambda c: c.fields.update(fields)


def check_order(make: Callable[[], Case], mistakes: list[Mistake]) -> None:
    """Each mistake's errno, and of each pair the first one's.

    Mistakes of one name overwrite each other and are not put together.
    """
    assert make().run() == 0
    for name, errno, put in mistakes:
        case = make()
        put(case)
        assert case.run() == errno, name
    for (name, errno, first), (other, _, second) in combinations(mistakes, 2):
        if name.split()[0] == other.split()[0]:
            continue
        case = make()
        first(case)
        second(case)
        assert case.run() == errno, f"{name} and {other}"
