"""fsm on the model: the sentences of Lutomirski's mail of 12 June 2019, both of its models."""

from __future__ import annotations

from errno import EACCES, EFAULT, ENOTTY, EPERM
from typing import Any

import pytest

from softsgx.device.build import Segment as Part
from softsgx.device.build import build_enclave
from softsgx.device.memory import Source
from softsgx.law.rule import At, Request, Stop
from softsgx.sdm.sigstruct import new_key
from softsgx.sdm.structs import SIGSTRUCT
from softsgx.uapi import sgx
from tests.designs.designs_model import BASE, PAGE, RWX, R, W, World, X

NOEXEC, MAYEXEC, EXEC, DIRTY = range(4)
LOAD, DIRTY_X, WX, UNMEASURED = (
    "enclave_load_fsm", "enclave_init_dirty", "enclave_init_wx", "enclave_init_unmeasured",
)  # fmt: skip


class Answers:
    """An LSM that denies the hooks that it is told to, and notes what SGX's own ones hear."""

    def __init__(self, *denied: str) -> None:
        self.denied, self.heard = set(denied), list[str]()

    def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
        if hook.startswith("enclave_"):
            self.heard.append(hook)
        return EACCES if hook in self.denied else 0


def world(options: str = "", *denied: str) -> tuple[World, Answers]:
    w, lsm = World("fsm" + options), Answers(*denied)
    w.device.run.lsm = lsm
    assert w.create() == 0
    return w, lsm


def add(w: World, page: int, perm: int, allow: int = 0, **source: Any) -> int:
    return w.region(page, perm, segment=allow, **({"prot": R | W} | source))


def einit(w: World, failed: int = 0) -> None:
    """EINIT, whose signature fits unless ``failed``."""
    names = (
        "vendor_known", "attributes_allowed", "attributes_supported", "miscselect_supported",
        "xfrm_supported", "sigstruct_inside",
    )  # fmt: skip
    facts = Request(**dict.fromkeys(names, 1), einit=lambda: failed)
    enclave = w.file.enclave
    at = At(enclave=enclave, process=w.process, file=w.file, source=Source(0, PAGE))
    w.device.design.init(w.device.run, at, facts)  # type: ignore[attr-defined]


def state(w: World, page: int = 0) -> int:
    return w.page(page)["state"]


# -- #2: states ----------------------------------------------------------------------------


def test_what_the_hook_says_is_the_first_state() -> None:
    w, lsm = world()
    assert add(w, 0, R | X) == 0
    lsm.denied.add(LOAD)
    assert add(w, 1, R | X) == 0  # "Otherwise it [returns] 0": no error, but no code either
    assert lsm.heard == [LOAD, LOAD]
    assert (state(w, 0), state(w, 1)) == (MAYEXEC, NOEXEC)
    assert w.mmap(1, R | X) == -EPERM
    assert w.mmap(1, R) == 0


def test_eadd_takes_no_flags_and_loaders_of_today_need_no_change() -> None:
    w, lsm = world()
    assert add(w, 0, R, allow=R) == -22  # EINVAL: nothing is declared
    assert w.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGES, bytes(48)) != -ENOTTY
    fd = build_enclave(w.process, BASE << 1, 0x4000, [Part(0, b"\xc3", R | X)], new_key())
    enclave = w.process.files[fd].enclave
    assert enclave.page_schema.unpack(enclave.pages[0])["state"] == MAYEXEC
    assert lsm.heard == [LOAD, DIRTY_X, WX]
    assert (enclave.dirty_x, enclave.wx) == (1, 1)


def test_w_makes_a_page_dirty_and_x_makes_it_clean_exec() -> None:
    w, _ = world()
    for page in range(3):
        assert add(w, page, R | W | X) == 0
    assert w.mmap(0, R) == 0
    assert state(w, 0) == MAYEXEC
    assert w.mprotect(0, R | X) == 0
    assert state(w, 0) == EXEC
    assert w.mmap(1, R | W) == 0
    assert (state(w, 0), state(w, 1), state(w, 2)) == (EXEC, DIRTY, MAYEXEC)
    # "a W VMA has existed": what was written stays so, whoever maps it, and across munmap().
    assert w.mmap(1, 0) == 0
    assert w.mmap(1, R | X) == -EPERM


@pytest.mark.parametrize("denied", [(), (DIRTY_X,), (WX,), (DIRTY_X, WX)])
@pytest.mark.parametrize("initialized", [False, True])
def test_the_four_rules(denied: tuple[str, ...], initialized: bool) -> None:
    """ "Before the SIGSTRUCT is provided … as though DENY_X_DIRTY and DENY_WX are both set"."""
    w, _ = world("", *denied)
    for page in range(4):
        assert add(w, page, RWX) == 0
    assert w.mmap(0, R | W) == w.mmap(1, R | X) == 0
    if initialized:
        einit(w)
    dirty_x = initialized and DIRTY_X not in denied
    wx = initialized and WX not in denied
    assert w.mmap(2, RWX) == (0 if dirty_x and wx else -EPERM)
    assert w.mmap(0, R | X) == (0 if dirty_x else -EPERM)
    assert w.mmap(1, R | W) == (0 if dirty_x else -EPERM)
    assert state(w, 1) == (DIRTY if dirty_x else EXEC)


def test_a_range_is_refused_whole() -> None:
    w, _ = world("", DIRTY_X)
    assert add(w, 0, RWX) == add(w, 1, RWX) == 0
    einit(w)
    assert w.mmap(0, R | X) == 0
    assert w.mmap(0, R | W, n=2) == -EPERM
    assert (state(w, 0), state(w, 1)) == (EXEC, MAYEXEC)


def test_eaug_asks_nobody_and_is_clean_noexec() -> None:
    w, lsm = world()
    einit(w)
    lsm.heard.clear()
    assert w.region(0, R | W) == 0
    assert (lsm.heard, state(w)) == ([], NOEXEC)
    assert w.mmap(0, R | X) == -EPERM
    assert w.mmap(0, R | W) == w.mprotect(0, R | X) == 0


def test_mapping_calls_no_hook_of_sgx() -> None:
    """ "mprotect() and mmap() do *not* call SGX-specific LSM hooks"."""
    w, lsm = world()
    assert add(w, 0, R | X) == 0
    einit(w)
    lsm.heard.clear()
    assert w.mmap(0, R | W) == w.mprotect(0, R | X) == 0
    assert lsm.heard == []


def test_a_page_that_is_not_there_is_prot_none_or_anything() -> None:
    w, _ = world()
    assert w.mmap(0, 0) == 0
    assert w.mprotect(0, R | W) == w.mmap(0, R) == -EPERM
    einit(w)
    assert w.process.page_fault(BASE, 0).signal
    w, _ = world(":absent=any")
    assert w.mmap(0, R | W) == w.mmap(1, R | X) == 0
    assert w.mmap(1, RWX) == -EPERM
    einit(w)
    assert not w.process.page_fault(BASE, 0).signal or w.page(0)["present"]
    assert state(w) == NOEXEC


@pytest.mark.parametrize("model", ["states", "flags"])
def test_noexec_is_enforced_optionally(model: str) -> None:
    for chosen, denied in (("ignored", False), ("enforced", True)):
        w, _ = world(f":model={model},noexec={chosen}")
        answer = add(w, 0, R | X, allow=(R | X) * (model == "flags"), may=R | W)
        assert answer == (-EACCES if denied and model == "flags" else 0)
        if model == "states":
            assert state(w) == (NOEXEC if denied else MAYEXEC)
        assert add(w, 1, R, allow=R * (model == "flags"), may=R | W) == 0


def test_unmeasured_code_is_told_at_einit() -> None:
    w, lsm = world(":unmeasured=told", UNMEASURED)
    assert add(w, 0, R | X) == 0  # ADD_REGION with flags 0: no EEXTEND
    with pytest.raises(Stop) as stopped:
        einit(w)
    assert stopped.value.errno == EACCES
    assert w.file.enclave.initialized == 0
    w, lsm = world(":unmeasured=told", UNMEASURED, LOAD)
    assert add(w, 0, R | X) == 0  # is no code
    einit(w)
    assert UNMEASURED not in lsm.heard


def test_a_signature_that_does_not_fit_leaves_the_enclave_as_it_was() -> None:
    w, _ = world()
    with pytest.raises(Stop):
        einit(w, failed=1)
    enclave = w.file.enclave
    assert (enclave.initialized, enclave.dirty_x, enclave.wx) == (0, 0, 0)


# -- #1: flags -----------------------------------------------------------------------------


def test_eadd_takes_flags_and_fails_where_the_lsm_denies() -> None:
    w, lsm = world(":model=flags", LOAD)
    assert add(w, 0, R | X, allow=R | X) == -EACCES
    assert w.page(0)["present"] == 0
    assert add(w, 0, R | X, allow=R | W) == 0
    assert lsm.heard == [LOAD]
    assert w.page(0)["max"] == R | W
    assert w.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGES, bytes(48)) == -ENOTTY
    assert add(w, 1, R, allow=R, found=0, mapped=0, prot=0) == -EFAULT


@pytest.mark.parametrize("denied", [(), (DIRTY_X,), (WX,)])
def test_the_three_rules(denied: tuple[str, ...]) -> None:
    w, lsm = world(":model=flags", *denied)
    assert add(w, 0, RWX, allow=R | X) == add(w, 1, RWX, allow=RWX) == 0
    einit(w)
    lsm.heard.clear()
    assert w.mmap(0, R | W) == -EPERM
    assert w.mmap(0, R | X) == 0
    assert w.mmap(0, R | X, n=2) == (-EPERM if DIRTY_X in denied else 0)
    assert w.mmap(1, R | W) == 0
    assert w.mprotect(1, R | X) == (-EPERM if DIRTY_X in denied else 0)
    assert w.mmap(1, RWX) == (-EPERM if denied else 0)
    assert lsm.heard == []


def test_eaug_takes_the_same_flags() -> None:
    w, lsm = world(":model=flags", LOAD)
    einit(w)
    lsm.heard.clear()
    assert w.region(0, R | W, segment=RWX) == 0
    assert (lsm.heard, w.page(0)["max"]) == ([], RWX)


# -- SIGSTRUCT's memory --------------------------------------------------------------------


def test_the_init_hook_gets_the_vma_of_sigstruct() -> None:
    seen = []

    class Looks(Answers):
        def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
            if hook == DIRTY_X:
                seen.append((at.source.path, at.enclave.sigstruct.path))
            return 0

    w, _ = world()
    w.device.run.lsm = Looks()
    where = w.put(SIGSTRUCT.pack(), path="/lib/enclave.sig", anonymous=0)
    answer = w.ioctl(sgx.SGX_IOC_ENCLAVE_INIT, sgx.ENCLAVE_INIT.pack(sigstruct=where))
    assert answer == -EPERM  # nobody has signed it
    assert seen == [("/lib/enclave.sig",) * 2]


# -- repairs -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["present", "state"])
def test_with_its_repair_a_fault_looks_at_the_state_again(fault: str) -> None:
    w, lsm = world(f":fault={fault}")
    assert add(w, 0, R | X) == 0
    lsm.denied.add(LOAD)
    assert add(w, 1, R | X) == 0
    lsm.denied.clear()
    einit(w)
    assert w.mmap(0, R | X) == 0
    assert w.mmap(0, R | W, process=w.process.fork()) == 0  # (c) was granted
    assert w.accessible(0) & X
    assert w.mremap(0, 1) == 0
    assert (state(w, 1), w.accessible(1) & X) == (NOEXEC, X if fault == "present" else 0)


def test_with_its_repairs_who_maps_a_dirty_page_is_asked() -> None:
    w, lsm = world(":dirty=mapping,fault=state")
    assert add(w, 0, RWX) == 0
    einit(w)
    assert w.mmap(0, R | W) == 0
    lsm.denied.add(DIRTY_X)
    assert w.mmap(0, R | X) == -EACCES
    lsm.denied.clear()
    assert w.mmap(0, R | X) == 0


def test_w_comes_before_x_in_the_order_of_the_rules() -> None:
    """What is mapped W and X at once is DIRTY when rule four looks for CLEAN_NOEXEC."""
    w, _ = world("", LOAD)
    assert add(w, 0, RWX) == 0
    einit(w)
    assert w.mmap(0, R | X) == -EPERM
    assert w.mmap(0, RWX) == 0
