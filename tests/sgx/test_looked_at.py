"""What is remembered of entries, as pages change: EENTER and ERESUME answer as if they looked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from softsgx.designs.linux import DEFAULT
from softsgx.device import Device
from softsgx.device.build import Refused, Segment, build_enclave, ioctl, tcs_page
from softsgx.sdm import leaves as sdm
from softsgx.sdm.sigstruct import new_key
from softsgx.sdm.structs import SECINFO
from softsgx.sgx.enclu import aex, eenter, eexit, eresume
from softsgx.sgx.inside import run_leaf
from softsgx.uapi import sgx as uapi
from softsgx.uapi.regs import RAX, RBX, RCX, RIP

_BASE, _PAGES = 1 << 40, 8
_CODE, _TCSS, _SSAS, _HEAP = 0, (1, 2), (3, 4), 5
_KEY = new_key()
_PLACE = st.integers(1, _PAGES - 1)


class _Running:
    """An enclave of two TCSs with an SSA frame each, mapped as its pages allow."""

    def __init__(self, nssa: int = 1) -> None:
        device = Device(DEFAULT())
        self.process = device.process()
        segments = [Segment(_CODE << 12, bytes(4096), 7)]
        for tcs, ssa in zip(_TCSS, _SSAS, strict=True):
            page = tcs_page(0, ssa << 12, nssa=nssa)
            segments.append(Segment(tcs << 12, page, tcs=True))
            segments.append(Segment(ssa << 12, bytes(4096), 3))
        segments.append(Segment(_HEAP << 12, SECINFO.pack(flags=0), 3))
        self.fd = build_enclave(self.process, _BASE, _PAGES << 12, segments, _KEY)
        self.enclave = self.process.files[self.fd].enclave
        assert self.map(0, _PAGES, 3) == 0
        self.thread = self.process.thread()

    def map(self, first: int, last: int, prot: int) -> int:
        """mmap pages: 0 or -errno."""
        at, size = _BASE + (first << 12), last - first << 12
        return min(self.process.mmap(at, size, prot, 0x11, self.fd), 0)

    def ask(self, cmd: int, layout: Any, **fields: int) -> None:
        """An ioctl, whatever it answers."""
        with suppress(Refused):
            ioctl(self.process, self.fd, cmd, layout.pack(**fields))

    def enter(self, tcs: int, way: Callable[..., int] = eenter) -> int:
        """EENTER or ERESUME: its answer."""
        self.regs = [0] * 27
        self.regs[RBX] = _BASE + (tcs << 12)
        return way(self.thread, self.enclave, self.regs)

    def forget(self, tcs: int) -> None:
        """The next entry looks."""
        for known in self.enclave.tcs.values():
            if known.offset == tcs << 12:
                known.checked = None
                known.deeper.clear()

    def leave(self) -> None:
        """EEXIT."""
        self.regs[RBX] = 0
        assert eexit(self.thread, self.regs) == 0

    def leaf(self, leaf: int, page: int, flags: int) -> None:
        """An instruction on a page, from inside if a TCS lets in."""
        if not all(self.enter(tcs) for tcs in _TCSS):
            self.enclave.memory.write(_HEAP << 12, SECINFO.pack(flags=flags))
            regs = self.regs
            regs[RAX], regs[RBX] = leaf, _BASE + (_HEAP << 12)
            regs[RCX], regs[RIP] = _BASE + (page << 12), _BASE
            run_leaf(self.thread, self.process.device.design, self.process.device.run, regs)
            self.leave()


_PERM = st.sampled_from([1, 3, 5, 7])
_CHANGES = st.one_of(
    st.tuples(st.just("restrict"), _PLACE, _PERM),
    st.tuples(st.just("type"), _PLACE, st.sampled_from([sdm.PT_TCS, 4])),
    st.tuples(st.just("remove"), _PLACE, st.just(0)),
    st.tuples(st.just("accept"), _PLACE, st.sampled_from([0x410, 0x110, 0x221, 0x223, 0x20B])),
    st.tuples(st.just("extend"), _PLACE, st.sampled_from([0x203, 0x207])),
    st.tuples(st.just("fault"), _PLACE, st.just(1)),
    st.tuples(st.just("map"), _PLACE, st.sampled_from([0, 1, 3])),
    st.tuples(st.just("unmap"), _PLACE, st.just(0)),
)


def _change(it: _Running, what: str, page: int, value: int) -> None:
    place = {"offset": page << 12, "length": 4096}
    if what == "restrict":
        layout = uapi.ENCLAVE_RESTRICT_PERMISSIONS
        it.ask(uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, layout, permissions=value, **place)
    elif what == "type":
        layout = uapi.ENCLAVE_MODIFY_TYPES
        it.ask(uapi.SGX_IOC_ENCLAVE_MODIFY_TYPES, layout, page_type=value, **place)
    elif what == "remove":
        it.ask(uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES, uapi.ENCLAVE_REMOVE_PAGES, **place)
    elif what in {"accept", "extend"}:
        it.leaf(sdm.EACCEPT if what == "accept" else sdm.EMODPE, page, value)
    elif what == "fault":
        it.process.page_fault(_BASE + (page << 12), value)
    elif what == "map":
        it.map(page, page + 1, value)
    else:
        it.process.munmap(_BASE + (page << 12), 4096)


@settings(max_examples=150, deadline=None)
@given(changes=st.lists(_CHANGES, max_size=12))
def test_entries_answer_as_if_they_looked_each_time(changes: list[tuple[str, int, int]]) -> None:
    it = _Running()
    for change in [None, *changes]:
        if change is not None:
            _change(it, *change)
        for tcs in _TCSS:
            remembered = it.enter(tcs)
            if not remembered:
                it.leave()
            it.forget(tcs)
            looked = it.enter(tcs)
            if not looked:
                it.leave()
            assert remembered == looked


@settings(max_examples=150, deadline=None)
@given(changes=st.lists(_CHANGES, max_size=8), frames=st.integers(1, 2))
def test_so_do_those_of_frames_that_lie_deeper(
    changes: list[tuple[str, int, int]], frames: int
) -> None:
    """After an exception inside: its handler's entries, and the way back."""
    it, tcs = _Running(nssa=3), _TCSS[0]
    for depth in range(frames):
        assert it.enter(tcs) == 0
        aex(it.thread, it.regs, sdm.VECTOR_UD)
        assert it.enclave.tcs_at(_BASE + (tcs << 12)).cssa == depth + 1
    for change in [None, *changes]:
        if change is not None and change[0] not in {"accept", "extend"}:
            _change(it, *change)
        for way in (eenter, eresume, eenter, eresume):
            both = []
            for remembered in (True, False):
                if not remembered:
                    it.forget(tcs)
                error = it.enter(tcs, way)
                if not error and way is eenter:
                    it.leave()
                elif not error:
                    aex(it.thread, it.regs, sdm.VECTOR_UD)
                both.append((error, it.thread.fault_addr if error else 0))
            assert both[0] == both[1], (way, change)


def test_what_no_entry_looked_at_changes_none_of_them() -> None:
    it = _Running()
    assert it.enter(_TCSS[0]) == 0
    it.leave()
    before = it.enclave.entries
    for change in (("restrict", _HEAP, 1), ("accept", _HEAP, 0x221), ("restrict", _SSAS[1], 1)):
        generation = it.enclave.generation
        _change(it, *change)
        assert it.enclave.generation > generation
    assert it.enclave.entries == before
    _change(it, "restrict", _SSAS[0], 1)
    assert it.enclave.entries > before
    assert it.enter(_TCSS[0]) != 0
