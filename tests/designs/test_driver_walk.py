"""Sequences of calls on the kernel's own driver and on softsgx: every answer and every page."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softsgx.designs.linux import Linux60, Linux612
from softsgx.law.rule import Stop
from softsgx.law.values import RWX
from softsgx.sdm.structs import SECINFO, SECS
from softsgx.uapi import sgx as uapi
from tests.kernel_driver.calls import CALL_BYTES, Walker
from tests.kernel_driver.memory import PAGE
from tests.kernel_driver.run import JUDGED, failure, judge_of, shrink, told
from tests.kernel_driver.userland import USER
from tests.kernel_sources import MissingSource

CALLS = 40
BASE = 0x7000_0000_0000
KINDS = {
    "CREATE", "ADD_PAGES", "INIT", "PROVISION", "mmap", "mprotect", "munmap", "mremap", "fork",
    "exit", "access", "enclu", "ptrace", "open", "close", "unknown ioctl",
}  # fmt: skip
SGX2_KINDS = {"RESTRICT_PERMISSIONS", "MODIFY_TYPES", "REMOVE_PAGES"}


@cache
def _walker(name: str) -> Walker:
    return Walker(judge_of(name))


@pytest.fixture(params=JUDGED, scope="module")
def walker(request: pytest.FixtureRequest) -> Walker:
    """A walker of each design; its judge goes on counting."""
    try:
        return _walker(request.param)
    except MissingSource as e:
        pytest.skip(str(e))


def test_sequences_of_a_seed(walker: Walker) -> None:
    """Some hundred sequences, with calls of every kind that agree."""
    numbers = random.Random(1)
    for _ in range(200):
        data = numbers.randbytes(CALLS * CALL_BYTES)
        if failure(walker, data) is not None:
            pytest.fail(told(walker, shrink(walker, data)))
    sgx2 = walker.judge.kernel.sgx2
    assert set(walker.judge.counts) >= (KINDS | SGX2_KINDS if sgx2 else KINDS)


CALL = st.binary(min_size=CALL_BYTES, max_size=CALL_BYTES)


@settings(max_examples=150)
@given(calls=st.lists(CALL, max_size=CALLS))
def test_sequences_of_hypothesis(walker: Walker, calls: list[bytes]) -> None:
    """Whatever hypothesis finds; it shrinks to the shortest sequence that differs."""
    data = b"".join(calls)
    if failure(walker, data) is not None:
        pytest.fail(told(walker, data))


class _FaultsBeyondMax(Linux612):
    """The fault asks no more whether the VMA is within the page's maximum."""

    def fault(self, k: Any, at: Any, r: Any) -> None:
        pass


class _MapsTcsReadOnly(Linux612):
    """A TCS's maximum is R."""

    def add_page(self, k: Any, at: Any, r: Any) -> None:
        super().add_page(k, at, r)
        if r.pt == 1:
            at.page.max = 1


class _TypesOfAnyMaximum(Linux612):
    """A page becomes a TCS whatever its maximum is."""

    def modify_type(self, k: Any, at: Any, r: Any) -> None:
        most, at.page.max = at.page.max, RWX
        super().modify_type(k, at, r)
        if r.pt == 4:
            at.page.max = most


class _RemovesUnaccepted(Linux612):
    """A trimmed page can be removed before the enclave has accepted that."""

    def remove_page(self, k: Any, at: Any, r: Any) -> None:
        if at.page.present and at.page.pt == 4:
            at.page.modified = 0
        super().remove_page(k, at, r)


class _EaugBeforeEinit(Linux612):
    """Pages come by faults before EINIT, too."""

    def fault_absent(self, k: Any, at: Any, r: Any) -> None:
        k.leaf(self.eaug, at, r, failed=7, faulted=7)
        at.page.max = RWX


class _AsLinux60(Linux60):
    """Offset and length may wrap around, AEXNOTIFY is unknown."""

    release = (6, 12)


class _TwiceTheSamePage(Linux612):
    """A page that is there is EEXIST, as in v20."""

    def add_page(self, k: Any, at: Any, r: Any) -> None:
        try:
            super().add_page(k, at, r)
        except Stop as stop:
            raise Stop(17 if stop.errno == 16 else stop.errno, stop.why) from None


WRONG = (
    _FaultsBeyondMax, _MapsTcsReadOnly, _TypesOfAnyMaximum, _RemovesUnaccepted, _EaugBeforeEinit,
    _AsLinux60, _TwiceTheSamePage,
)  # fmt: skip


@pytest.mark.parametrize("law", WRONG)
def test_a_wrong_rule_is_seen(law: type[Any]) -> None:
    """Each of these would be one line less, or another, in a rule."""
    try:
        walker = Walker(judge_of("linux-6.12", law))
    except MissingSource as e:
        pytest.skip(str(e))
    numbers = random.Random(1)
    tries = (numbers.randbytes(CALLS * CALL_BYTES) for _ in range(3000))
    assert any(failure(walker, data) is not None for data in tries)


def _each_allocation(call: Callable[[int], bool]) -> int:
    """Make a call with memory that runs out at each allocation, until it does not; how many."""
    n = 1
    while call(n):
        n += 1
    return n - 1


def test_memory_runs_out_at_each_allocation() -> None:
    """Where the 512th page takes a second VA page, and everywhere before and behind it."""
    try:
        judge = judge_of("linux-6.12", max_pages=1024)
    except MissingSource as e:
        pytest.skip(str(e))
    record, there = USER + PAGE, 510
    secs = {"size": 1024 * PAGE, "baseaddr": BASE, "ssaframesize": 1, "attributes": 4, "xfrm": 3}
    layout = uapi.ENCLAVE_ADD_PAGES

    def add(file: Any, offset: int, pages: int) -> int:
        r = {"src": USER + 4 * PAGE, "offset": offset * PAGE, "length": pages * PAGE,
             "secinfo": record, "flags": 1}  # fmt: skip

        def again(after: bytes) -> bytes | None:
            count = layout.unpack(after).count
            return layout.pack(**(r | {"length": count})) if count else None

        return judge.ioctl(
            judge.processes[0], file, uapi.SGX_IOC_ENCLAVE_ADD_PAGES, USER, layout.pack(**r),
            "ADD_PAGES", again=again,
        )  # fmt: skip

    def attempt(n: int) -> bool:
        judge.begin()
        file, view = judge.open(), judge.user.view
        view[PAGE : 2 * PAGE] = SECS.pack(**secs)
        raw = uapi.ENCLAVE_CREATE.pack(src=record)
        judge.ioctl(judge.processes[0], file, uapi.SGX_IOC_ENCLAVE_CREATE, USER, raw, "CREATE")
        view[PAGE : PAGE + 64] = SECINFO.pack(flags=0x203)
        for offset in range(0, there, 6):
            assert add(file, offset, 6) == 0
        judge.failing(n)
        answer = add(file, there, 4)
        failed = judge.ran_out()
        assert answer == (-12 if failed else 0)
        judge.failing(0)
        judge.end()
        return failed

    # A page is its entry, its EPC page and its place; one of the four brings a VA page, too.
    assert _each_allocation(attempt) == 4 * 3 + 2
