"""maxperm on the model, sentence by sentence of the mail of 23 May 2019 (18:17)."""

from __future__ import annotations

from errno import EACCES, EBUSY, EFAULT, ENOTTY
from typing import Any

import pytest

from softsgx.uapi import sgx
from tests.designs.designs_model import BASE, RWX, R, W, World, X


def world(options: str = "", held: str = "read write execute") -> World:
    w = World("maxperm" + options, held)
    assert w.create() == 0
    return w


def add(w: World, page: int, perm: int, maxperm: int, **source: Any) -> int:
    return w.region(page, perm, segment=maxperm, **({"prot": R | W} | source))


def test_the_rwx_addition_fails_immediately_without_the_lsms_leave() -> None:
    w = world()
    assert add(w, 0, R, RWX) == -EACCES
    assert w.page(0)["present"] == 0
    assert add(world(held="read write execute execmod"), 0, R, RWX) == 0


def test_the_rx_addition_fails_unless_the_source_is_appropriate() -> None:
    w = world()
    assert add(w, 0, R | X, R | X, may=R | W) == -EACCES
    assert add(w, 0, R | X, R | X, prot=R) == 0  # "ro_source_1, MAXPERM=RX"
    assert add(w, 1, R, R | W, may=R | W) == 0
    w = world(":source=prot")
    assert add(w, 0, R | X, R | X, prot=R) == -EACCES
    assert add(w, 0, R | X, R | X, prot=R | X) == 0


def test_after_that_mprotect_asks_nobody() -> None:
    w = world(held="read write")
    assert add(w, 0, R | X, R | X) == 0
    assert w.mmap(0, 0) == 0
    w.lsm.take()
    assert w.mprotect(0, R | X) == 0
    assert w.lsm.take() == []
    assert w.mprotect(0, R | W) == -EACCES
    # mmap is Linux's own question, which comes before the driver's word.
    assert w.mmap(0, R | X) == -EACCES
    assert w.mmap(0, R) == 0


def test_secinfo_is_what_the_kernel_does_not_really_care_about() -> None:
    w = world()
    assert add(w, 0, R | W, R) == 0
    assert w.page(0)["max"] == R


def test_a_page_that_has_not_been_added_yet_is_prot_none() -> None:
    w = world()
    assert w.mmap(0, 0, n=2) == 0
    assert w.mprotect(0, R) == -EACCES
    assert add(w, 0, R, R) == 0
    assert w.mprotect(0, R, n=2) == -EACCES
    assert w.mprotect(0, R) == 0
    w.initialized()
    assert w.process.page_fault(BASE + 4096, 0).signal


def test_eaug_specifies_maxperm() -> None:
    w = world()
    w.initialized()
    assert w.region(0, R | W, segment=R | W) == 0
    assert w.mmap(0, R | W) == 0
    assert w.region(0, R | W, segment=R | W) == -EBUSY
    for mask in (R | X, RWX):
        assert w.region(1, R | W, segment=mask) == -EACCES
        more = world(held="read write execute execmod")
        more.initialized()
        assert more.region(1, R | W, segment=mask) == 0


@pytest.mark.parametrize("found", [0, 1])
def test_the_ioctl_is_add_region(found: int) -> None:
    w = world()
    assert w.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGES, bytes(48)) == -ENOTTY
    assert add(w, 0, R, R, found=found, mapped=0, prot=0) == -EFAULT
