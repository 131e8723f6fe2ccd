"""execute-intent on the model, sentence by sentence of the mail of 30 May 2019."""

from __future__ import annotations

from errno import EACCES, EFAULT, EINVAL, ENOTTY
from typing import Any

import pytest

from softsgx.uapi import sgx
from tests.designs.designs_model import BASE, RWX, R, W, World, X

DYNAMIC = ":proposal=dynamic"
ONE_OF = ["load_execute", "load_execmod", "load_execmem"]
FILE = {"prot": R | W, "path": "/usr/lib/enclave.sig", "anonymous": 0}


def world(options: str = "", held: str = "read write") -> World:
    w = World("execute-intent" + options, held)
    assert w.create() == 0
    return w


def add(w: World, page: int, perm: int, intent: int = 0, **source: Any) -> int:
    return w.region(page, perm, segment=intent, **({"prot": R | W} | source))


# -- static ------------------------------------------------------------------------------------


def test_the_hook_fails_if_the_caller_has_neither_execute_execmod_nor_execmem() -> None:
    w = world()
    assert add(w, 0, R | X, X) == -EACCES
    assert w.page(0)["present"] == 0
    assert [hook for hook, _ in w.lsm.take()][-3:] == [f"enclave_{name}" for name in ONE_OF]
    for held in ONE_OF:
        w = world(held=f"read write {held}")
        w.lsm.take()
        assert add(w, 0, R | X, X) == 0
        asked = [hook for hook, _ in w.lsm.take()]
        assert asked == [f"enclave_{name}" for name in ONE_OF[: ONE_OF.index(held) + 1]]
        assert w.page(0)["intent"] == 1


def test_without_intent_nobody_is_asked() -> None:
    w = world()
    w.lsm.take()
    assert add(w, 0, RWX) == 0
    assert w.lsm.take() == []
    assert w.page(0)["intent"] == 0


def test_the_flag_is_one() -> None:
    w = world()
    for intent in (R, W, RWX, 8):
        assert add(w, 0, R, intent) == -EINVAL
    assert w.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGES, bytes(48)) == -ENOTTY
    assert add(w, 0, R, X, found=0, mapped=0, prot=0) == -EFAULT


# -- dynamic -----------------------------------------------------------------------------------


def test_the_lsm_says_it_and_refuses_no_page() -> None:
    for held, intent in (("read write", 0), ("read write load_dynamic", 1)):
        w = world(DYNAMIC, held)
        assert w.region(0, R | X, prot=R | W) == 0
        assert w.page(0)["intent"] == intent
        w.initialized()
        assert w.mmap(0, R | X) == (0 if intent else -EACCES)


def test_eadd_takes_no_special_flags() -> None:
    w = world(DYNAMIC)
    assert add(w, 0, R | X, X) == -EINVAL
    # So today's ioctl will do: it is there, and wants its argument.
    assert w.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGES, bytes(48)) == -EINVAL


# -- both --------------------------------------------------------------------------------------


def built(proposal: str, held: str) -> World:
    """Page 0 with intent, page 1 without."""
    lsm = "load_dynamic load_execute"
    w = world(f":proposal={proposal}", f"read write {lsm}")
    assert w.region(0, RWX, segment=X if proposal == "static" else 0, prot=R | W) == 0
    w.lsm.held = set(held.split())
    assert w.region(1, RWX, prot=R | W) == 0
    assert [w.page(i)["intent"] for i in (0, 1)] == [1, 0]
    w.lsm.take()
    return w


@pytest.mark.parametrize("proposal", ["static", "dynamic"])
def test_they_require_no_permissions_in_the_other_cases(proposal: str) -> None:
    w = built(proposal, "")
    for page, prot in ((0, R | X), (0, X), (0, R | W), (1, R), (1, R | W), (0, R | X)):
        assert w.mmap(page, 0) == 0
        assert w.mprotect(page, prot) == 0
        assert w.mmap(page, prot) == 0
    assert w.lsm.take() == []


@pytest.mark.parametrize("proposal", ["static", "dynamic"])
def test_execmem_to_create_wx_or_rwx_mappings(proposal: str) -> None:
    for held, answer in (("execmod", -EACCES), ("execmem", 0)):
        w = built(proposal, held)
        for prot in (W | X, RWX):
            assert w.mmap(0, R) == 0
            assert w.mprotect(0, prot) == answer
            assert w.mmap(1, prot) == answer


@pytest.mark.parametrize("proposal", ["static", "dynamic"])
def test_execmod_to_create_rx_or_x_mappings_of_a_page_without_intent(proposal: str) -> None:
    for held, answer in (("execmem", -EACCES), ("execmod", 0)):
        w = built(proposal, held)
        for prot in (X, R | X):
            assert w.mmap(1, R) == 0
            assert w.mprotect(1, prot) == answer
            assert w.mmap(1, prot) == answer
            assert w.mmap(0, prot, n=2) == answer
            assert w.mmap(5, prot) == answer  # no page yet: one of EAUG has no intent


@pytest.mark.parametrize("options", ["", DYNAMIC])
def test_eaug_sets_execute_intent_to_false(options: str) -> None:
    w = world(options, "read write load_dynamic load_execute")
    w.initialized()
    assert w.mmap(0, R | W) == 0
    w.process.page_fault(BASE, 1)
    assert w.region(1, R | W) == 0
    assert [(w.page(i)["present"], w.page(i)["intent"]) for i in (0, 1)] == [(1, 0), (1, 0)]
    if not options:  # what is declared of it says nothing
        assert w.region(2, R | X, segment=X) == 0
        assert w.page(2)["intent"] == 0


def test_execmod_of_what_is_left_to_the_lsm() -> None:
    for options, held in (("", "execmod"), (":execmod=sigstruct", "encl_execmod")):
        w = world(options, f"read write {held}")
        assert add(w, 0, R | X) == 0
        w.initialized()
        assert w.mmap(0, R | X) == 0
        w.lsm.held.remove(held)
        assert w.mmap(0, R | X) == -EACCES


def test_einit_may_be_asked_about() -> None:
    w = world(":launch=asked")
    assert w.init(**FILE) == -EACCES
    assert w.lsm.take()[-1][0] == "enclave_init"
    assert w.file.enclave.sigstruct.path == FILE["path"]
