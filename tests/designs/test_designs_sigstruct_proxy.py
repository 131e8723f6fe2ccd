"""sigstruct-proxy on the model, sentence by sentence of the mails of 24 and 30 May 2019."""

from __future__ import annotations

from errno import EACCES, EINVAL, ENOTTY, EPERM
from typing import Any

import pytest

from softsgx.designs.registry import make_design
from softsgx.errors import UsageError
from softsgx.uapi import designs as uapi
from softsgx.uapi import sgx
from tests.designs.designs_model import BASE, RWX, R, W, World, X

DEVICE = "read write execute"
FILE = {"prot": R, "path": "/usr/lib/enclave.sig", "anonymous": 0}
MAILS = ["30-may", "30-may-file", "30-may-process"]


def world(options: str = "", held: str = f"{DEVICE} encl_execute", **sigstruct: Any) -> World:
    w = World("sigstruct-proxy" + options, held)
    assert w.create(**(sigstruct or FILE)) == 0
    return w


def add(w: World, page: int, perm: int, allow: int = 0) -> int:
    return w.region(page, perm, segment=allow, prot=R | W)


def early(held: str = f"{DEVICE} encl_execute") -> World:
    """Of 24 May: an enclave, which CREATE alone makes."""
    w = World("sigstruct-proxy:mail=24-may", held)
    assert w.create() == 0
    return w


# -- 30 May ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mail", MAILS)
def test_sigstruct_is_taken_at_ecreate_instead_of_einit(mail: str) -> None:
    w = World(f"sigstruct-proxy:mail={mail}")
    assert w.create() == -ENOTTY
    assert w.create(**FILE) == 0
    assert (w.file.enclave.sigstruct.path, len(w.file.signature)) == (FILE["path"], 1808)
    assert w.create(**FILE) == -EINVAL  # only once
    assert w.init(**FILE) == -EINVAL
    assert w.init() == -EPERM  # the one of CREATE is looked at: zeroes are no signature


def test_a_create_that_fails_leaves_no_sigstruct_behind() -> None:
    w = World("sigstruct-proxy")
    arg = uapi.CREATE_SIGSTRUCT.pack(src=w.put(bytes(4096)), sigstruct=w.put(bytes(1808), **FILE))
    assert w.ioctl(uapi.SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT, arg) < 0
    assert w.file.enclave.sigstruct is None
    assert w.create(**FILE) == 0


def test_optional_the_driver_requires_a_file() -> None:
    assert world(anonymous=1, prot=R | W)
    w = World("sigstruct-proxy:backing=required")
    assert w.create(anonymous=1, prot=R | W) == -EINVAL
    assert not w.file.enclave.created
    assert w.create(**FILE) == 0


@pytest.mark.parametrize("mail", MAILS)
def test_optional_the_lsm_is_asked_before_there_is_an_enclave(mail: str) -> None:
    w = World(f"sigstruct-proxy:mail={mail},launch=asked", DEVICE)
    assert w.create(**FILE) == -EACCES
    assert not w.file.enclave.created
    assert w.file.enclave.sigstruct is None
    assert World(f"sigstruct-proxy:mail={mail}", DEVICE).create(**FILE) == 0


def test_mmap_is_only_allowed_with_prot_none() -> None:
    w = world()
    assert add(w, 0, R | W, W) == 0
    assert [w.mmap(0, prot) for prot in (R, R | W, R | X)] == [-EACCES] * 3
    assert w.mmap(0, 0) == 0


def test_add_region_immediately_followed_by_mprotect() -> None:
    w = world()
    assert w.mmap(0, 0, n=2) == 0
    assert w.mprotect(0, R) == -EACCES  # no page yet
    assert add(w, 0, R | X) == 0
    assert w.mprotect(0, R | X) == 0
    assert w.mprotect(0, R, n=2) == -EACCES
    assert w.prot(0) == R  # VMA by VMA: the first is changed, the second has no page


def test_write_without_allow_write_is_eperm() -> None:
    w = world(held=f"{DEVICE} encl_execute encl_execmod")
    assert add(w, 0, RWX) == 0
    assert add(w, 1, R, W) == 0
    assert w.mmap(0, 0, n=2) == 0
    for prot in (W, R | W, RWX):
        assert w.mprotect(0, prot) == -EPERM
    assert w.mprotect(0, R | X) == 0
    assert w.mprotect(1, R | W) == 0  # it is a promise, whatever SECINFO is
    assert w.mprotect(0, R | W, n=2) == -EPERM


def test_only_write_can_be_declared() -> None:
    w = world()
    for allow in (R, X, RWX, 8):
        assert add(w, 0, R, allow) == -EINVAL
    assert w.page(0)["present"] == 0


@pytest.mark.parametrize("mail", MAILS)
def test_execmod_if_prot_exec_and_allow_write(mail: str) -> None:
    w = world(f":mail={mail}", held=f"{DEVICE} encl_execute")
    assert add(w, 0, RWX, W) == 0
    assert add(w, 1, R | X) == 0
    assert w.mmap(0, 0, n=2) == 0
    assert w.mprotect(0, R | W) == 0
    assert [w.mprotect(0, prot) for prot in (R | X, RWX)] == [-EACCES] * 2
    w.lsm.take()
    assert w.mprotect(1, R | X) == 0
    hook = "enclave_mprotect" + mail.removeprefix("30-may").replace("-", "_")
    assert w.lsm.take()[-1] == (hook, frozenset({"encl_execute"}))
    assert w.mprotect(0, R | X, n=2) == -EACCES
    assert world(f":mail={mail}", held=DEVICE).mmap(0, 0) == 0


def test_nobody_runs_without_execute_on_the_proxy() -> None:
    w = world(held=DEVICE)
    assert add(w, 0, R | X) == 0
    assert w.mmap(0, 0) == 0
    assert w.mprotect(0, R) == 0
    assert w.mprotect(0, R | X) == -EACCES


def test_eaug_is_add_region_with_allow_write() -> None:
    w = world()
    w.initialized()
    assert w.region(0, R | W, segment=W) == 0
    assert w.page(0)["writable"] == 1
    assert w.region(1, R | W) == 0
    assert w.page(1)["writable"] == 0
    assert w.process.page_fault(BASE + 2 * 4096, 0).signal
    assert w.mmap(0, 0, n=2) == 0
    assert (w.mprotect(0, R | W), w.mprotect(1, R | W)) == (0, -EPERM)


def test_the_ioctl_is_add_region() -> None:
    w = world()
    assert w.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGES, bytes(48)) == -ENOTTY


# -- 24 May ------------------------------------------------------------------------------------


def test_24_may_before_einit_prot_none_only() -> None:
    w = early()
    assert w.region(0, RWX, prot=R | W) == 0
    assert w.mmap(0, R) == -EACCES
    assert w.mmap(0, 0) == 0
    assert w.mprotect(0, R) == -EACCES
    w.initialized()
    assert w.mprotect(0, R) == -EACCES  # the mapping keeps the VM_MAY* that it was made with
    assert w.mmap(0, R) == 0
    assert w.create(**FILE) == -ENOTTY


def test_24_may_secinfo_is_the_most() -> None:
    w = early()
    assert w.region(0, R | X, prot=R | W) == 0
    assert w.region(1, R | W, prot=R | W) == 0
    w.initialized()
    assert w.mmap(0, R | W) == -EACCES
    assert w.mmap(0, R) == 0
    assert (w.mprotect(0, R | X), w.mprotect(0, R | W)) == (0, -EACCES)
    assert w.mmap(0, R | X, n=2) == -EACCES
    assert w.mmap(0, R, n=2) == 0
    assert w.mprotect(0, R | X) == -EACCES  # what all of its pages have


def test_24_may_read_and_execute_on_sigstruct_to_mmap() -> None:
    w = early(DEVICE)
    assert w.region(0, R | W, prot=R | W) == 0
    assert w.mmap(0, 0) == 0  # before EINIT there is none to ask about
    w.initialized()
    assert w.mmap(0, 0) == -EACCES
    w = early()
    assert w.region(0, R | W, prot=R | W) == 0
    w.initialized()
    w.lsm.take()
    assert w.mmap(0, R | W) == 0
    assert w.lsm.take()[-1] == ("sigstruct_mmap", frozenset({"encl_execute"}))


def test_24_may_execmod_to_map_what_was_writable_executable() -> None:
    w = early()
    assert w.region(0, RWX, prot=R | W) == 0
    w.initialized()
    assert w.mmap(0, RWX) == -EACCES
    assert w.mmap(0, R | X) == 0  # it has not been mapped W
    assert w.mmap(0, R | W) == 0
    assert (w.mprotect(0, R | X), w.mmap(0, R | X)) == (-EACCES, -EACCES)
    assert w.page(0)["writable"] == 1


def test_24_may_every_page_of_eaug_was_writable() -> None:
    w = early()
    w.initialized()
    assert w.mmap(0, R | W) == 0
    assert not w.process.page_fault(BASE, 1).signal or w.page(0)["present"]
    assert w.region(1, R | W) == 0
    assert [w.page(i)["writable"] for i in (0, 1)] == [1, 1]
    assert [w.mmap(i, R | X) for i in (0, 1, 2)] == [-EACCES] * 3  # 2: will be of EAUG
    more = early(f"{DEVICE} encl_execute encl_execmod")
    more.initialized()
    assert more.mmap(0, R | X) == 0


def test_24_may_init_takes_sigstruct() -> None:
    w = early()
    assert w.init(**FILE) == -EPERM  # zeroes are no signature
    assert w.file.enclave.sigstruct.path == FILE["path"]
    w = World("sigstruct-proxy:mail=24-may,launch=asked", DEVICE)
    assert w.create() == 0
    assert w.init(**FILE) == -EACCES
    w = World("sigstruct-proxy:mail=24-may,backing=required", DEVICE)
    assert w.create() == 0
    assert w.init(anonymous=1, prot=R) == -EINVAL


def test_options_are_the_mails() -> None:
    with pytest.raises(UsageError, match="mail is one of"):
        make_design("sigstruct-proxy:mail=31-may")
