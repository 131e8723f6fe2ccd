"""What is foreseen of pages is what comes, under every design that has ADD_PAGES."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softsgx.designs.linux import DEFAULT
from softsgx.designs.registry import DESIGNS
from softsgx.device import Device
from softsgx.device.build import create, tcs_page
from softsgx.device.eadd import PIECE_BYTES
from softsgx.device.foreseen import Foreseen, foresee
from softsgx.sdm.structs import SECINFO
from softsgx.uapi import sgx as uapi

_BASE, _PAGES = 1 << 40, 16


class _Loader:
    """A process with an enclave of 16 pages and memory of a fourth of that."""

    def __init__(self, design: Any, secinfo: int, pages: int = _PAGES, **source: Any) -> None:
        self.device = Device(design)
        self.process = self.device.process()
        self.fd = self.process.open(design.paths[0])
        self.file = self.process.files[self.fd]
        create(self.process, self.fd, _BASE, pages << 12)
        memory = self.process.memory
        self.secinfo = SECINFO.pack(flags=secinfo)
        self.src = memory.put(tcs_page(0, 0) * (pages // 4), **source)
        self.secinfo_at = memory.put(self.secinfo)

    def add(self, page: int, flags: int = 0, n: int = 1) -> int:
        """ADD_PAGES of a page, or ``n``: 0 or -errno."""
        layout = uapi.ENCLAVE_ADD_PAGES
        argument = layout.pack(
            src=self.src, offset=page << 12, length=n << 12, secinfo=self.secinfo_at, flags=flags
        )
        where = self.process.memory.put(argument)
        try:
            return self.process.ioctl(self.fd, uapi.SGX_IOC_ENCLAVE_ADD_PAGES, where)
        finally:
            self.process.memory.drop(where)

    def foresee(self, most: int) -> Foreseen | None:
        """Behind the page that was added last."""
        source = self.process.memory.source(self.src)
        added = self.device.added
        return foresee(self.device, self.process, self.file, added, self.secinfo, source, most)


_REG, _TCS = 2 << 8, 1 << 8
_OFFERED = [d for d in DESIGNS.values() if uapi.SGX_IOC_ENCLAVE_ADD_PAGES in Device(d()).ioctls]


@settings(max_examples=60, deadline=None)
@given(
    design=st.sampled_from(_OFFERED),
    secinfo=st.sampled_from([_REG | 1, _REG | 3, _REG | 5, _REG | 7, _TCS]),
    prot=st.integers(0, 7),
    may=st.integers(0, 7),
    there=st.lists(st.integers(0, _PAGES - 1), max_size=3, unique=True),
    page=st.integers(0, _PAGES - 1),
    most=st.integers(1, 2 * _PAGES),
    each=st.integers(1, 4),
)
def test_what_is_foreseen_comes(
    design: type, secinfo: int, prot: int, may: int, there: list[int], page: int, most: int,
    each: int,
) -> None:  # fmt: skip
    here, twin = (_Loader(design(), secinfo, prot=prot, may=may) for _ in range(2))
    answers = [loader.add(other) for loader in (here, twin) for other in there]
    answers = [loader.add(page, n=each) for loader in (here, twin)]
    if answers[-1] or not here.device.added:
        return
    pages = here.file.enclave.pages
    found = here.foresee(most)
    if found is None:
        return
    assert 0 < found.calls <= most
    assert (found.offset, found.length) == (page + each << 12, each << 12)
    for at in range(page + each, page + each + each * found.calls, each):
        assert here.add(at, n=each) == 0
        assert {pages[at + i] for i in range(each)} == {found.word}
    # Told of all at once, a twin has become the same.
    n = found.calls
    told = twin.foresee(most)
    assert told is not None
    told.came(n)
    assert (told.calls, told.offset) == (0, found.offset + (n * each << 12))
    same = [
        (list(e.pages.runs(0, _PAGES)), e.measurement.digest(), dict(e.tcs))
        for e in (here.file.enclave, twin.file.enclave)
    ]
    assert same[0] == same[1]


def test_all_that_can_come_is_foreseen() -> None:
    loader = _Loader(DEFAULT(), _REG | 3)
    assert [loader.add(page) for page in (9, 3)] == [0, 0]
    found = loader.foresee(100)
    assert found is not None
    assert found.calls == 5  # to the one that is there
    assert loader.add(10) == 0
    found = loader.foresee(100)
    assert found is not None
    assert found.calls == 5  # to the end
    assert loader.add(15) == 0
    assert loader.foresee(100) is None


def test_of_stretches_those_that_fit() -> None:
    loader = _Loader(DEFAULT(), _REG | 3)
    assert [loader.add(page, n=n) for page, n in ((11, 1), (0, 4))] == [0, 0]
    found = loader.foresee(100)
    assert found is not None
    assert found.calls == 1  # seven pages are free
    assert loader.add(12, n=2) == 0
    found = loader.foresee(100)
    assert found is not None
    assert found.calls == 1  # to the end


def test_where_signals_may_end_it_nothing_is_foreseen() -> None:
    pages = PIECE_BYTES >> 12
    loader = _Loader(DEFAULT(), _REG | 3, pages=8 * pages)
    for first, n, known in ((0, pages, True), (pages, pages + 1, False)):
        assert loader.add(first, n=n) == 0
        assert (loader.foresee(1) is not None) == known


def _asking(what: Any) -> type:
    class Asking(DEFAULT):
        def add_page(self, k: Any, at: Any, r: Any) -> None:
            what(at, r)
            super().add_page(k, at, r)

    return Asking


@pytest.mark.parametrize(
    "what",
    [
        lambda at, r: at.process.read_implies_exec,
        lambda at, r: at.source.modified,
        lambda at, r: at.source.path,
        lambda at, r: at.enclave.generation,
        lambda at, r: at.enclave.pages,
        lambda at, r: at.file.security,
        lambda at, r: setattr(at.enclave, "dead", 0),
    ],
)
def test_a_rule_that_looks_elsewhere_is_asked_of_each_page(what: Any) -> None:
    loader = _Loader(_asking(what)(), _REG | 3)
    assert loader.add(3) == 0
    assert loader.foresee(4) is None


def test_of_what_stays_it_may_read() -> None:
    loader = _Loader(_asking(lambda at, r: at.source.prot)(), _REG | 3)
    assert loader.add(3) == 0
    assert loader.foresee(4) is not None
